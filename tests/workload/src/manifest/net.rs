//! Objects that say where things are in the network.

use std::{collections::BTreeMap, net::IpAddr};

use serde::Serialize;

use super::{Metadata, yaml};
use crate::{ContainerPort, Error, PodSpec, Transport};

impl Transport {
    /// As Kubernetes writes it.
    pub fn protocol(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Port<'a> {
    name: &'a str,
    container_port: u16,
    protocol: &'static str,
}

impl<'a> Port<'a> {
    pub(super) fn of(port: &'a ContainerPort) -> Self {
        Self {
            name: &port.name,
            container_port: port.port,
            protocol: port.transport.protocol(),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Node<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: Metadata<'a>,
    status: NodeStatus<'a>,
}

#[derive(Serialize)]
struct NodeStatus<'a> {
    addresses: Vec<NodeAddress<'a>>,
}

#[derive(Serialize)]
struct NodeAddress<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    address: &'a str,
}

/// A `v1` Node that has these internal addresses.
pub fn node_yaml(name: &str, addresses: &[IpAddr]) -> Result<String, Error> {
    let internal: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    let mut addresses: Vec<NodeAddress<'_>> = internal
        .iter()
        .map(|address| NodeAddress {
            kind: "InternalIP",
            address,
        })
        .collect();
    addresses.push(NodeAddress {
        kind: "Hostname",
        address: name,
    });
    yaml(&Node {
        api_version: "v1",
        kind: "Node",
        metadata: Metadata {
            name,
            namespace: None,
            uid: None,
            labels: &BTreeMap::new(),
        },
        status: NodeStatus { addresses },
    })
}

/// A port of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// The Service's name for it; may be empty.
    pub name: String,
    pub port: u16,
    pub transport: Transport,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Slice<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: Metadata<'a>,
    address_type: &'static str,
    endpoints: Vec<Endpoint<'a>>,
    ports: Vec<SlicePort<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint<'a> {
    addresses: [String; 1],
    conditions: Conditions,
    node_name: &'a str,
    target_ref: Target<'a>,
}

#[derive(Serialize)]
struct Conditions {
    ready: bool,
}

#[derive(Serialize)]
struct Target<'a> {
    kind: &'static str,
    namespace: &'a str,
    name: &'a str,
    uid: &'a str,
}

#[derive(Serialize)]
struct SlicePort<'a> {
    name: &'a str,
    port: u16,
    protocol: &'static str,
}

/// A `discovery.k8s.io/v1` EndpointSlice called `name` of the Service `service` in `namespace`: pods on `node`, each with its
/// address, all of one family.
pub fn endpoint_slice_yaml(
    (namespace, service): (&str, &str),
    name: &str,
    node: &str,
    pods: &[(&PodSpec, IpAddr)],
    ports: &[EndpointPort],
) -> Result<String, Error> {
    let labels = BTreeMap::from([("kubernetes.io/service-name".to_owned(), service.to_owned())]);
    let is_ipv4 = pods.first().is_none_or(|(_, address)| address.is_ipv4());
    yaml(&Slice {
        api_version: "discovery.k8s.io/v1",
        kind: "EndpointSlice",
        metadata: Metadata {
            name,
            namespace: Some(namespace),
            uid: None,
            labels: &labels,
        },
        address_type: if is_ipv4 { "IPv4" } else { "IPv6" },
        endpoints: pods
            .iter()
            .map(|(spec, address)| Endpoint {
                addresses: [address.to_string()],
                conditions: Conditions { ready: true },
                node_name: node,
                target_ref: Target {
                    kind: "Pod",
                    namespace: &spec.namespace,
                    name: &spec.name,
                    uid: &spec.uid,
                },
            })
            .collect(),
        ports: ports
            .iter()
            .map(|port| SlicePort {
                name: &port.name,
                port: port.port,
                protocol: port.transport.protocol(),
            })
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_written_with_its_addresses() {
        let text = node_yaml("node-a", &["10.0.0.10".parse().unwrap()]).unwrap();
        assert_eq!(
            text,
            "\
apiVersion: v1
kind: Node
metadata:
  name: node-a
status:
  addresses:
  - type: InternalIP
    address: \"10.0.0.10\"
  - type: Hostname
    address: node-a
"
        );
    }

    #[test]
    fn an_endpoint_names_its_pod() {
        let pod = PodSpec {
            uid: "u-1".to_owned(),
            ..PodSpec::new("blue", "web")
        };
        let port = EndpointPort {
            name: String::new(),
            port: 8080,
            transport: Transport::Tcp,
        };
        let text = endpoint_slice_yaml(
            ("blue", "front"),
            "front-ipv6",
            "node-a",
            &[(&pod, "fd00::2".parse().unwrap())],
            &[port],
        )
        .unwrap();
        for part in [
            "kubernetes.io/service-name: front",
            "addressType: IPv6",
            "- fd00::2",
            "uid: u-1",
            "port: 8080",
            "protocol: TCP",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
}
