//! What the rendered manifests say of the two pods: the part that decides how their processes start.

use anyhow::{Context, Result, anyhow, ensure};
use serde::{Deserialize, de::IgnoredAny};

use crate::manifests::Documents;

/// One container's pod.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodTemplate {
    #[serde(default)]
    pub(crate) host_network: bool,
    #[serde(default, rename = "hostPID")]
    pub(crate) host_pid: bool,
    pub(crate) security_context: PodSecurity,
    pub(crate) termination_grace_period_seconds: u64,
    containers: Vec<Container>,
    #[serde(default)]
    pub(crate) volumes: Vec<Volume>,
}

/// A field that is not known here would not be honoured, so it is refused.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct PodSecurity {
    pub(crate) run_as_user: u32,
    pub(crate) run_as_group: u32,
    #[serde(default)]
    pub(crate) run_as_non_root: bool,
    pub(crate) fs_group: Option<u32>,
    #[serde(rename = "fsGroupChangePolicy")]
    _when_group_is_changed: Option<IgnoredAny>,
    pub(crate) seccomp_profile: SeccompProfile,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SeccompProfile {
    #[serde(rename = "type")]
    pub(crate) kind: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) command: Vec<String>,
    pub(crate) args: Vec<String>,
    #[serde(default)]
    pub(crate) env: Vec<Variable>,
    ports: Vec<Port>,
    readiness_probe: Probe,
    pub(crate) security_context: ContainerSecurity,
    #[serde(default)]
    pub(crate) volume_mounts: Vec<VolumeMount>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ContainerSecurity {
    pub(crate) allow_privilege_escalation: bool,
    pub(crate) privileged: bool,
    pub(crate) read_only_root_filesystem: bool,
    pub(crate) capabilities: Capabilities,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Capabilities {
    pub(crate) drop: Vec<String>,
    #[serde(default)]
    pub(crate) add: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) value: Option<String>,
    pub(crate) value_from: Option<ValueFrom>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ValueFrom {
    pub(crate) field_ref: FieldRef,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FieldRef {
    pub(crate) field_path: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    name: String,
    container_port: u16,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    http_get: HttpGet,
}

#[derive(Debug, Deserialize)]
struct HttpGet {
    path: String,
    port: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct VolumeMount {
    pub(crate) name: String,
    pub(crate) mount_path: String,
    #[serde(default)]
    pub(crate) read_only: bool,
    pub(crate) mount_propagation: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Volume {
    pub(crate) name: String,
    pub(crate) host_path: Option<HostPath>,
    pub(crate) empty_dir: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct HostPath {
    pub(crate) path: String,
}

impl PodTemplate {
    /// Of the one object of this kind.
    pub(crate) fn of(documents: &Documents, kind: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Object {
            spec: Spec,
        }
        #[derive(Deserialize)]
        struct Spec {
            template: Template,
        }
        #[derive(Deserialize)]
        struct Template {
            spec: PodTemplate,
        }
        let (key, text) = documents
            .of_kind(kind)
            .with_context(|| format!("the manifests have no {kind}"))?;
        let object: Object = serde_saphyr::from_str(text).map_err(|error| anyhow!("{key}: {error}"))?;
        let pod = object.spec.template.spec;
        ensure!(pod.containers.len() == 1, "{key}: not one container");
        Ok(pod)
    }

    pub(crate) fn container(&self) -> Result<&Container> {
        self.containers.first().context("no container")
    }
}

impl Container {
    /// Path and port that the kubelet asks.
    pub(crate) fn readiness(&self) -> Result<(&str, u16)> {
        let HttpGet { path, port } = &self.readiness_probe.http_get;
        Ok((path, self.port(port)?))
    }

    pub(crate) fn port(&self, name: &str) -> Result<u16> {
        let found = self.ports.iter().find(|port| port.name == name);
        Ok(found
            .with_context(|| format!("container {}: no port {name}", self.name))?
            .container_port)
    }
}
