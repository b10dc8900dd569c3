//! The Kubernetes YAML of what this crate makes, as `kubectl get -o yaml` would write it.

mod net;

use std::collections::BTreeMap;

use serde::Serialize;

use net::Port;
pub use net::{EndpointPort, endpoint_slice_yaml, node_yaml};

use crate::{Error, PodSpec, Qos, Resources};

/// `status.phase` of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Object<'a, Spec: Serialize, Status: Serialize> {
    api_version: &'static str,
    kind: &'static str,
    metadata: Metadata<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spec: Option<Spec>,
    status: Status,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    node_name: &'a str,
    host_network: bool,
    containers: [Container<'a>; 1],
}

#[derive(Serialize)]
struct Container<'a> {
    name: &'static str,
    image: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<Port<'a>>,
    resources: ContainerResources,
}

#[derive(Serialize)]
struct ContainerResources {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    limits: BTreeMap<&'static str, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    requests: BTreeMap<&'static str, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    phase: &'static str,
    qos_class: &'static str,
    #[serde(rename = "hostIP", skip_serializing_if = "Option::is_none")]
    host_ip: Option<&'a str>,
    #[serde(rename = "hostIPs", skip_serializing_if = "Vec::is_empty")]
    host_ips: Vec<PodIp<'a>>,
    #[serde(rename = "podIP", skip_serializing_if = "Option::is_none")]
    pod_ip: Option<&'a str>,
    #[serde(rename = "podIPs", skip_serializing_if = "Vec::is_empty")]
    pod_ips: Vec<PodIp<'a>>,
    container_statuses: [ContainerStatus; 1],
}

#[derive(Serialize)]
struct PodIp<'a> {
    ip: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ContainerStatus {
    name: &'static str,
    #[serde(rename = "containerID")]
    container_id: String,
    ready: bool,
}

#[derive(Serialize)]
struct NamespaceStatus {
    phase: &'static str,
}

/// A `v1` Pod as the API server holds it while it runs on `node`.
pub fn pod_yaml(spec: &PodSpec, node: &str, phase: Phase) -> Result<String, Error> {
    let object = Object {
        api_version: "v1",
        kind: "Pod",
        metadata: Metadata {
            name: &spec.name,
            namespace: Some(&spec.namespace),
            uid: Some(&spec.uid),
            labels: &spec.labels,
        },
        spec: Some(Spec {
            node_name: node,
            host_network: spec.host_network,
            containers: [Container {
                name: "main",
                image: "registry.example/work:1",
                ports: spec.ports.iter().map(Port::of).collect(),
                resources: ContainerResources {
                    limits: quantities(spec.limits),
                    requests: quantities(spec.effective_requests()),
                },
            }],
        }),
        status: Status {
            phase: match phase {
                Phase::Pending => "Pending",
                Phase::Running => "Running",
                Phase::Succeeded => "Succeeded",
                Phase::Failed => "Failed",
            },
            qos_class: match spec.qos() {
                Qos::Guaranteed => "Guaranteed",
                Qos::Burstable => "Burstable",
                Qos::BestEffort => "BestEffort",
            },
            host_ip: spec.host_ips.first().map(String::as_str),
            host_ips: spec.host_ips.iter().map(|ip| PodIp { ip }).collect(),
            pod_ip: spec.pod_ips.first().map(String::as_str),
            pod_ips: spec.pod_ips.iter().map(|ip| PodIp { ip }).collect(),
            container_statuses: [ContainerStatus {
                name: "main",
                container_id: format!("containerd://{}", spec.container_id),
                ready: phase == Phase::Running,
            }],
        },
    };
    yaml(&object)
}

/// A `v1` Namespace.
pub fn namespace_yaml(name: &str, labels: &BTreeMap<String, String>) -> Result<String, Error> {
    yaml(&Object::<(), _> {
        api_version: "v1",
        kind: "Namespace",
        metadata: Metadata {
            name,
            namespace: None,
            uid: None,
            labels,
        },
        spec: None,
        status: NamespaceStatus { phase: "Active" },
    })
}

fn yaml(object: &impl Serialize) -> Result<String, Error> {
    serde_saphyr::to_string(object).map_err(|error| Error::Yaml(error.to_string()))
}

fn quantities(resources: Resources) -> BTreeMap<&'static str, String> {
    let cpu = resources
        .cpu_cores
        .map(|cores| ("cpu", format!("{}m", (cores * 1_000.0).round())));
    let memory = resources.memory_bytes.map(|bytes| ("memory", bytes.to_string()));
    cpu.into_iter().chain(memory).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ContainerPort, Transport};

    #[test]
    fn a_pod_is_written_as_the_api_server_holds_it() {
        let spec = PodSpec {
            uid: "0f3e2d1c-aaaa-4bbb-8ccc-0123456789ab".to_owned(),
            container_id: "ab".repeat(32),
            requests: Resources {
                cpu_cores: Some(0.5),
                memory_bytes: None,
            },
            limits: Resources {
                cpu_cores: None,
                memory_bytes: Some(64 << 20),
            },
            // Text that YAML would read as something else unless it is quoted.
            labels: BTreeMap::from([
                ("app".to_owned(), "yes".to_owned()),
                ("build".to_owned(), "12".to_owned()),
            ]),
            pod_ips: vec!["10.1.2.3".to_owned(), "fd00::3".to_owned()],
            host_ips: vec!["10.0.0.10".to_owned()],
            ports: vec![ContainerPort {
                name: "http".to_owned(),
                port: 8080,
                transport: Transport::Tcp,
            }],
            ..PodSpec::new("blue", "web")
        };
        let text = pod_yaml(&spec, "node-a", Phase::Running).unwrap();
        assert_eq!(
            text,
            "\
apiVersion: v1
kind: Pod
metadata:
  name: web
  namespace: blue
  uid: 0f3e2d1c-aaaa-4bbb-8ccc-0123456789ab
  labels:
    app: \"yes\"
    build: \"12\"
spec:
  nodeName: node-a
  hostNetwork: false
  containers:
  - name: main
    image: registry.example/work:1
    ports:
    - name: http
      containerPort: 8080
      protocol: TCP
    resources:
      limits:
        memory: \"67108864\"
      requests:
        cpu: 500m
        memory: \"67108864\"
status:
  phase: Running
  qosClass: Burstable
  hostIP: \"10.0.0.10\"
  hostIPs:
  - ip: \"10.0.0.10\"
  podIP: \"10.1.2.3\"
  podIPs:
  - ip: \"10.1.2.3\"
  - ip: fd00::3
  containerStatuses:
  - name: main
    containerID: containerd://abababababababababababababababababababababababababababababababab
    ready: true
"
        );
    }

    #[test]
    fn a_namespace_carries_its_labels() {
        let labels = BTreeMap::from([("capsule.clastix.io/tenant".to_owned(), "red".to_owned())]);
        let text = namespace_yaml("red-batch", &labels).unwrap();
        assert_eq!(
            text,
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: red-batch\n  labels:\n    capsule.clastix.io/tenant: red\nstatus:\n  phase: Active\n"
        );
    }
}
