//! What the rendered manifests say of the two pods: the part that decides how their processes start.

use anyhow::{Context, Result, anyhow, ensure};
use data_encoding::BASE64;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny},
};

use crate::manifests::Documents;

/// One container's pod.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodTemplate {
    #[serde(default)]
    pub(crate) host_network: bool,
    #[serde(default, rename = "hostPID")]
    pub(crate) host_pid: bool,
    #[serde(default = "by_default")]
    pub(crate) automount_service_account_token: bool,
    pub(crate) security_context: PodSecurity,
    pub(crate) termination_grace_period_seconds: u64,
    containers: Vec<Container>,
    #[serde(default)]
    pub(crate) volumes: Vec<Volume>,
}

fn by_default() -> bool {
    true
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
    pub(crate) secret: Option<SecretVolume>,
    pub(crate) projected: Option<Projected>,
}

/// Kubernetes reads YAML 1.1, where a leading zero says octal.
fn mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let text = String::deserialize(deserializer)?;
    let number = match text.strip_prefix('0') {
        Some(octal) => u32::from_str_radix(octal, 8),
        None => text.parse(),
    };
    number.map_err(|error| D::Error::custom(format!("{text:?}: {error}")))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct SecretVolume {
    pub(crate) secret_name: String,
    #[serde(deserialize_with = "mode")]
    pub(crate) default_mode: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Projected {
    #[serde(deserialize_with = "mode")]
    pub(crate) default_mode: u32,
    pub(crate) sources: Vec<Source>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Source {
    pub(crate) service_account_token: ServiceAccountToken,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ServiceAccountToken {
    pub(crate) path: String,
    pub(crate) audience: String,
    #[serde(rename = "expirationSeconds")]
    _renewed: IgnoredAny,
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

/// The files of a Secret of type kubernetes.io/tls.
#[derive(Debug, Deserialize)]
pub(crate) struct TlsSecret {
    #[serde(rename = "tls.crt")]
    pub(crate) cert: String,
    #[serde(rename = "tls.key")]
    pub(crate) key: String,
    #[serde(rename = "ca.crt")]
    pub(crate) ca: String,
}

impl TlsSecret {
    pub(crate) fn of(documents: &Documents, name: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Object {
            data: TlsSecret,
        }
        let (key, text) = documents
            .of_name("Secret", name)
            .with_context(|| format!("the manifests have no Secret {name}"))?;
        let object: Object = serde_saphyr::from_str(text).map_err(|error| anyhow!("{key}: {error}"))?;
        let decoded = |text: &str| -> Result<String> {
            let bytes = BASE64.decode(text.as_bytes()).with_context(|| key.to_string())?;
            Ok(String::from_utf8(bytes)?)
        };
        Ok(Self {
            cert: decoded(&object.data.cert)?,
            key: decoded(&object.data.key)?,
            ca: decoded(&object.data.ca)?,
        })
    }

    pub(crate) fn files(&self) -> [(&'static str, &str); 3] {
        [
            ("tls.crt", &self.cert),
            ("tls.key", &self.key),
            ("ca.crt", &self.ca),
        ]
    }
}

/// What the aggregator's account may do, by the rendered ClusterRole.
#[derive(Debug, Deserialize)]
pub(crate) struct Rights {
    rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    api_groups: Vec<String>,
    resources: Vec<String>,
    verbs: Vec<String>,
}

impl Rights {
    pub(crate) fn of(documents: &Documents) -> Result<Self> {
        let (key, text) = documents
            .of_kind("ClusterRole")
            .context("the manifests have no ClusterRole")?;
        serde_saphyr::from_str(text).map_err(|error| anyhow!("{key}: {error}"))
    }

    /// Whether a request is one of them. `path`: /api/v1/pods or /apis/GROUP/VERSION/RESOURCE.
    pub(crate) fn admit(&self, verb: &str, path: &str) -> bool {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, resource) = match parts[..] {
            ["api", _, resource, ..] => ("", resource),
            ["apis", group, _, resource, ..] => (group, resource),
            _ => return false,
        };
        self.rules.iter().any(|rule| {
            let has = |list: &[String], wanted: &str| list.iter().any(|one| one == wanted);
            has(&rule.api_groups, group) && has(&rule.resources, resource) && has(&rule.verbs, verb)
        })
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
