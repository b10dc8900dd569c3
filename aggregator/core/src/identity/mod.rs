//! Who is who: pods by UID, namespaces → tenants, quotas. Pure data in, look-ups out.

mod addresses;
mod directory;
mod network;
mod scope;
mod tenant;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

pub(crate) use addresses::METADATA;
pub use addresses::{Addresses, Owner, Service};
pub use directory::{Bound, Directory, Range, Scoped, TurnedAway};
pub use network::{
    ContainerPort, EndpointSliceObject, ForeignPolicy, NodeObject, POOL_LABELS, Protocol, ServiceObject,
    ServicePort, Taint, TargetPort,
};
pub use scope::{Classes, Scope};
pub use tenant::{ResolvedBy, Said, TenantId, Tenants};

use crate::fence::NetworkPolicy;

/// The tenant of everything that is no pod, and of the namespaces listed as such.
pub const SYSTEM: &str = "system";
/// Shown in place of a tenant where none can be named.
pub const UNKNOWN: &str = "<unknown>";

/// Labels of an object, shared because objects are copied when they go.
pub type Labels = Arc<BTreeMap<String, String>>;

/// Everything a cluster source knows, at one moment. Order does not matter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cluster {
    pub namespaces: Vec<Namespace>,
    /// Shared with whoever read them, and with what is known next.
    pub pods: Vec<Arc<PodObject>>,
    pub quotas: Vec<QuotaObject>,
    pub limit_ranges: Vec<LimitRangeObject>,
    pub nodes: Vec<NodeObject>,
    pub services: Vec<ServiceObject>,
    pub endpoint_slices: Vec<EndpointSliceObject>,
    pub network_policies: Vec<Arc<NetworkPolicy>>,
    /// Policies of kinds that are not evaluated.
    pub foreign_policies: Vec<ForeignPolicy>,
    /// Names of Capsule's Tenant objects. `None`: nobody told whether there are any.
    pub capsule_tenants: Option<BTreeSet<String>>,
    /// ResourceQuotas whose pods cannot be told apart: they bound nothing here.
    pub unjudged_quotas: Vec<UnjudgedQuota>,
}

/// A ResourceQuota object that is not judged.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnjudgedQuota {
    pub namespace: String,
    pub name: String,
    /// Which scope, and why.
    pub reason: String,
}

/// A Namespace object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Namespace {
    pub name: String,
    pub labels: BTreeMap<String, String>,
}

/// A Pod object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodObject {
    pub uid: String,
    /// A static pod's cgroup bears the hash of its manifest, not the UID of its mirror object:
    /// the value of `kubernetes.io/config.mirror`.
    pub static_uid: Option<String>,
    pub namespace: String,
    pub name: String,
    pub labels: Labels,
    /// `spec.nodeName`; absent before it is scheduled.
    pub node: Option<String>,
    pub requests: Resources,
    /// `None`: without a limit on at least one container.
    pub cpu_limit_ncores: Option<u64>,
    pub memory_limit_bytes: Option<u64>,
    /// Those that run as long as the pod does: sidecars too, other init containers not.
    pub containers: Arc<[ContainerObject]>,
    /// `status.podIPs`; empty in a terminal phase and for host-network pods.
    pub addresses: Vec<IpAddr>,
    /// `status.hostIPs`: its node's.
    pub host_addresses: Vec<IpAddr>,
    pub host_network: bool,
    /// `status.phase` is `Succeeded` or `Failed`: it will never run again.
    pub terminal: bool,
    /// `spec.activeDeadlineSeconds` is set.
    pub terminating: bool,
    /// Its quality of service: nothing is requested or limited.
    pub best_effort: bool,
    /// `spec.priorityClassName`
    pub priority_class: Option<Arc<str>>,
    /// Of `metadata.ownerReferences` the one that manages it; absent: nobody makes it anew.
    pub owner: Option<OwnerRef>,
    pub tolerations: Box<[Toleration]>,
}

/// What made a pod: `DaemonSet`, `ReplicaSet`, …
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnerRef {
    pub kind: Box<str>,
    pub name: Box<str>,
}

/// Of `spec.tolerations`: taints that do not keep the pod away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Toleration {
    /// Empty: every key.
    pub key: Box<str>,
    /// `None`: operator `Exists`, every value.
    pub value: Option<Box<str>>,
    /// Empty: every effect.
    pub effect: Box<str>,
}

impl Toleration {
    pub fn tolerates(&self, taint: &Taint) -> bool {
        (self.key.is_empty() || self.key == taint.key)
            && self.value.as_ref().is_none_or(|value| *value == taint.value)
            && (self.effect.is_empty() || self.effect == taint.effect)
    }
}

/// A container of a Pod object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerObject {
    pub name: Box<str>,
    /// The runtime's name for it: `status.containerStatuses[].containerID` without its scheme. Absent until it was started.
    pub id: Option<Box<str>>,
    /// Its own; a limit without a request is the request too.
    pub requests: Resources,
    /// Its own; `None`: no limit.
    pub cpu_limit_ncores: Option<u64>,
    pub memory_limit_bytes: Option<u64>,
    /// What it says that it listens on. Nothing is bound to it: a container may listen elsewhere.
    pub ports: Box<[ContainerPort]>,
    /// It stands under `initContainers`, with `restartPolicy: Always`.
    pub sidecar: bool,
}

/// What a pod was promised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub cpu_ncores: u64,
    pub memory_bytes: u64,
}

/// A ResourceQuota object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QuotaObject {
    pub namespace: String,
    pub name: String,
    /// The largest CPU use that it permits, in nanocores. `hard["limits.cpu"]` where set, because limits are what pods may *use*;
    /// else `hard["requests.cpu"]` or its older name `hard["cpu"]`, the only bound there is. `None`: it bounds no CPU.
    pub cpu_ncores: Option<u64>,
    /// As for CPU: `hard["limits.memory"]`, else `hard["requests.memory"]` or `hard["memory"]`.
    pub memory_bytes: Option<u64>,
    /// `hard["pods"]` or `hard["count/pods"]`.
    pub pods: Option<u64>,
    /// The key of `hard` that each is from, by [`Resource`]; empty where it bounds nothing.
    pub keys: [&'static str; 3],
    /// It bounds the namespace's pods that meet all of these. Empty: all pods.
    pub scopes: BTreeSet<Scope>,
}

/// What a tenant's quota bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum Resource {
    /// In cores.
    Cpu = 0,
    /// The working set, in bytes.
    Memory = 1,
    /// Pods that live.
    Pods = 2,
}

impl Resource {
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Pods];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pods => "pods",
        }
    }
}

/// What a LimitRange object says of containers (`type: Container`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LimitRangeObject {
    pub namespace: String,
    pub name: String,
    pub max_cpu_ncores: Option<u64>,
    pub max_memory_bytes: Option<u64>,
    /// It gives containers without a limit one.
    pub defaults_cpu: bool,
    pub defaults_memory: bool,
}

/// A pod with its tenant.
#[derive(Debug, PartialEq)]
pub struct Pod {
    pub uid: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub node: Option<Arc<str>>,
    pub tenant: TenantId,
    pub requests: Resources,
    pub cpu_limit_ncores: Option<u64>,
    pub memory_limit_bytes: Option<u64>,
    pub containers: Arc<[ContainerObject]>,
    pub addresses: Vec<IpAddr>,
    pub host_network: bool,
    /// Whether its use counts against the tenant's quota, by [`Resource`].
    pub in_quota: [bool; 3],
    /// The quotas with scopes that it counts against.
    pub scoped: Vec<Arc<Scoped>>,
}

/// RFC 1123 label: what Kubernetes accepts as a namespace's name.
pub fn is_namespace_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// A label's key: a name of at most 63 characters, after an optional DNS subdomain and a slash.
pub fn is_label_key(key: &str) -> bool {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(p, n)| (Some(p), n));
    prefix.is_none_or(is_object_name) && !name.is_empty() && is_label_value(name)
}

/// A label's value: empty, or at most 63 characters that begin and end with a letter or digit.
pub fn is_label_value(value: &str) -> bool {
    let ends = [value.as_bytes().first(), value.as_bytes().last()];
    value.len() <= 63
        && ends.iter().all(|end| end.is_none_or(u8::is_ascii_alphanumeric))
        && value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// RFC 6335 service name: what Kubernetes accepts as the name of a port.
pub fn is_port_name(name: &str) -> bool {
    name.len() <= 15
        && is_namespace_name(name)
        && !name.contains("--")
        && name.bytes().any(|b| b.is_ascii_lowercase())
}

/// RFC 1123 subdomain: what Kubernetes accepts as the name of a pod or node.
pub fn is_object_name(name: &str) -> bool {
    (1..=253).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'))
        && name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
        && name.as_bytes().last().is_some_and(u8::is_ascii_alphanumeric)
}
