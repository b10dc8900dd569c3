//! Objects that say who can be reached where: nodes, services, endpoint slices, ports; and policies of kinds that are not evaluated.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// What runs on top of IP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// What Kubernetes takes where an object names none.
    #[default]
    Tcp,
    Udp,
    Sctp,
    /// By its number (RFC 5237). No Kubernetes object can name it.
    Other(u8),
}

impl Protocol {
    pub fn from_number(number: u8) -> Self {
        match number {
            6 => Self::Tcp,
            17 => Self::Udp,
            132 => Self::Sctp,
            other => Self::Other(other),
        }
    }

    /// As Kubernetes objects spell it; `None`: not one of the three that they know.
    pub fn from_object(text: &str) -> Option<Self> {
        match text {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }

    /// Whether a packet of it bears a port.
    pub fn has_ports(self) -> bool {
        !matches!(self, Self::Other(_))
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("TCP"),
            Self::Udp => f.write_str("UDP"),
            Self::Sctp => f.write_str("SCTP"),
            Self::Other(1) => f.write_str("ICMP"),
            Self::Other(58) => f.write_str("ICMPv6"),
            Self::Other(number) => write!(f, "protocol {number}"),
        }
    }
}

/// A port of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerPort {
    pub name: Option<Box<str>>,
    pub number: u16,
    pub protocol: Protocol,
}

/// A Node object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeObject {
    pub name: String,
    /// `status.addresses`: those of type `InternalIP`, then those of type `ExternalIP`.
    pub addresses: Vec<IpAddr>,
    /// The label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// The label `topology.kubernetes.io/region`.
    pub region: Option<String>,
    /// The label `eks.amazonaws.com/compute-type` is `hybrid`: it stands elsewhere and belongs to a cluster in the cloud.
    pub hybrid: bool,
    /// No agent can be there: it has no kernel of its own (Fargate, a virtual kubelet) or another than Linux, or the label
    /// `partywall.io/agentless` says so.
    pub agentless: bool,
    /// The value of the first label that names a node pool, see [`POOL_LABELS`].
    pub pool: Option<String>,
    /// What pods may have of it: `status.allocatable`, else `status.capacity`. `None`: the object does not say.
    pub cpu_ncores: Option<u64>,
    pub memory_bytes: Option<u64>,
    pub pods: Option<u64>,
    /// `spec.unschedulable`: it takes no new pods.
    pub unschedulable: bool,
    /// Those that keep pods away: of effect `NoSchedule` or `NoExecute`.
    pub taints: Vec<Taint>,
}

/// Labels that name a node's pool, the first that a node bears counts.
pub const POOL_LABELS: [&str; 9] = [
    "eks.amazonaws.com/nodegroup",
    "karpenter.sh/nodepool",
    "cloud.google.com/gke-nodepool",
    "kubernetes.azure.com/agentpool",
    "alpha.eksctl.io/nodegroup-name",
    "kops.k8s.io/instancegroup",
    "doks.digitalocean.com/node-pool",
    "cluster.x-k8s.io/deployment-name",
    "node.kubernetes.io/pool",
];

/// What keeps pods away from a node that do not tolerate it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taint {
    pub key: Box<str>,
    pub value: Box<str>,
    pub effect: Box<str>,
}

/// A Service object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceObject {
    pub namespace: String,
    pub name: String,
    /// `spec.clusterIPs`; empty for a headless one.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs` and `status.loadBalancer.ingress[].ip`.
    pub external_ips: Vec<IpAddr>,
    /// Empty: its endpoints are not found by labels.
    pub selector: BTreeMap<String, String>,
    pub ports: Vec<ServicePort>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePort {
    pub name: Option<Box<str>>,
    pub protocol: Protocol,
    pub port: u16,
    /// Of the pods behind it; `port` where the object names none.
    pub target: TargetPort,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    Number(u16),
    /// Of the pod's container ports.
    Name(Box<str>),
}

impl Default for TargetPort {
    fn default() -> Self {
        Self::Number(0)
    }
}

/// An EndpointSlice object: a part of where a Service leads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointSliceObject {
    pub namespace: String,
    pub name: String,
    /// The label `kubernetes.io/service-name`; absent: it belongs to no Service.
    pub service: Option<String>,
    /// Ready or not. Those of type `FQDN` are left out.
    pub addresses: Vec<IpAddr>,
    /// Name, protocol, number; a slice without ports has none that are known.
    pub ports: Vec<ContainerPort>,
}

/// A policy object of a kind that is not evaluated: where one is in force, a verdict would be a guess.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForeignPolicy {
    /// With its API group: `CiliumNetworkPolicy.cilium.io`.
    pub kind: String,
    /// `None`: it holds for the whole cluster.
    pub namespace: Option<String>,
    pub name: String,
}

impl fmt::Display for ForeignPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}
