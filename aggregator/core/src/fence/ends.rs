//! The two ends of a connection.

use std::net::IpAddr;
use std::sync::Arc;

use super::model::{Direction, NetworkPolicy};
use crate::identity::{ContainerPort, ForeignPolicy, Labels, PodObject, Protocol};

/// In the order of their names.
pub type Policies = Vec<Arc<NetworkPolicy>>;

/// A pod that can be an end of a connection.
#[derive(Debug)]
pub struct Pod {
    pub uid: Arc<str>,
    pub name: Arc<str>,
    pub namespace: Arc<Namespace>,
    pub labels: Labels,
    pub node: Option<Arc<Node>>,
    /// It has its node's addresses, and is its node to every policy.
    pub host_network: bool,
    /// At most one of each family; its node's with `host_network`. Empty before it is started.
    pub addresses: Vec<IpAddr>,
    /// Of all its containers.
    pub ports: Box<[ContainerPort]>,
    ingress: Arc<Policies>,
    egress: Arc<Policies>,
}

/// The namespace of a pod.
#[derive(Debug)]
pub struct Namespace {
    pub name: Arc<str>,
    /// With `kubernetes.io/metadata.name`, which the API server adds.
    pub labels: Labels,
    /// Whether there is a Namespace object: without, it may have labels that are not known.
    pub seen: bool,
    /// Policies of kinds that are not evaluated, of this namespace and of the whole cluster.
    pub foreign: Arc<[ForeignPolicy]>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Node {
    pub name: Arc<str>,
    /// The internal ones first.
    pub addresses: Vec<IpAddr>,
}

/// One end of a connection.
#[derive(Clone, Copy, Debug)]
pub enum End<'a> {
    Pod(&'a Pod),
    /// What runs on a node outside of pods; with the address that is used. `None`: its first internal one.
    Node(&'a Node, Option<IpAddr>),
    /// Neither a pod's nor a node's.
    Address(IpAddr),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// A connection, by who opens it.
#[derive(Clone, Copy, Debug)]
pub struct Traffic<'a> {
    pub from: End<'a>,
    pub to: End<'a>,
    pub protocol: Protocol,
    /// Of the receiving end, after a Service's port was translated. Without meaning for a protocol without ports.
    pub port: u16,
    /// `None`: whichever both ends have; where it matters, and they have both, the verdict is unknown.
    pub family: Option<Family>,
}

impl Pod {
    pub(super) fn new(
        object: &PodObject,
        namespace: &Arc<Namespace>,
        node: Option<&Arc<Node>>,
        mut isolating: impl FnMut(Direction) -> Arc<Policies>,
    ) -> Self {
        let of_node = node.map_or(&object.host_addresses, |n| &n.addresses);
        let addresses = if object.host_network {
            of_node
        } else {
            &object.addresses
        };
        let ports = object.containers.iter().flat_map(|c| c.ports.iter().cloned());
        Self {
            uid: Arc::from(object.uid.as_str()),
            name: Arc::from(object.name.as_str()),
            namespace: Arc::clone(namespace),
            labels: Labels::clone(&object.labels),
            node: node.cloned(),
            host_network: object.host_network,
            addresses: addresses.iter().map(IpAddr::to_canonical).collect(),
            ports: ports.collect(),
            ingress: isolating(Direction::Ingress),
            egress: isolating(Direction::Egress),
        }
    }

    /// Those that select it and speak of the direction. Empty: it is not isolated there.
    pub fn isolated_by(&self, direction: Direction) -> &Arc<Policies> {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// Whether one of its containers calls that port so.
    pub fn names_port(&self, name: &str, protocol: Protocol, number: u16) -> bool {
        self.ports
            .iter()
            .any(|p| p.number == number && p.protocol == protocol && p.name.as_deref() == Some(name))
    }
}

impl End<'_> {
    /// The address that it uses in a family.
    pub(super) fn address(&self, family: Family) -> Option<IpAddr> {
        let own = |addresses: &[IpAddr]| addresses.iter().copied().find(|a| Family::of(*a) == family);
        match self {
            Self::Pod(pod) => own(&pod.addresses),
            Self::Node(_, Some(address)) | Self::Address(address) => own(&[*address]),
            Self::Node(node, None) => own(&node.addresses),
        }
    }

    /// Whether this is the node that a pod runs on, or shares that node's addresses.
    pub(super) fn is_node_of(&self, pod: &Pod) -> bool {
        let Some(own) = &pod.node else { return false };
        match self {
            Self::Pod(other) => other.host_network && other.node.as_ref().is_some_and(|n| n.name == own.name),
            Self::Node(node, _) => node.name == own.name,
            Self::Address(address) => own.addresses.contains(&address.to_canonical()),
        }
    }
}

impl Traffic<'_> {
    /// The addresses of both ends, in each family that may be used.
    pub(super) fn addresses(&self) -> Vec<(Option<IpAddr>, Option<IpAddr>)> {
        let families = [Family::V4, Family::V6];
        let asked = families
            .into_iter()
            .filter(|f| self.family.is_none_or(|own| own == *f));
        let pair = |family| Some((Some(self.from.address(family)?), Some(self.to.address(family)?)));
        let common: Vec<_> = asked.filter_map(pair).collect();
        if common.is_empty() {
            // Not known yet, or translated in between.
            let first = |end: &End<'_>| families.into_iter().find_map(|f| end.address(f));
            return vec![(first(&self.from), first(&self.to))];
        }
        common
    }
}
