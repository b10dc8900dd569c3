//! Which pod, node or service an end of a flow is.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::cx::Cx;
use super::record::Record;
use crate::identity::{Owner, Pod, Service, TenantId};
use crate::node::slot::Kind;

/// Why an end cannot be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Two pods, or a pod and a node, had the address at that time.
    AddressClaimedTwice,
    /// The agent reports a pod that is not in the cluster data.
    PodUnknown,
    /// The cluster says that this pod runs on another node.
    PodForeign,
    /// The agent could not tell whose sockets they are.
    EntityUnknown,
    /// The packets bear the address of a pod whose own node's agent knows nothing of them.
    SourceUnconfirmed,
    /// A Service's address, which leads nowhere.
    ServiceWithoutEndpoints,
    /// A connection from before the agents, of which neither knows who opened it.
    OpenerUnknown,
}

impl Reason {
    pub const ALL: [Self; 7] = [
        Self::AddressClaimedTwice,
        Self::PodUnknown,
        Self::PodForeign,
        Self::EntityUnknown,
        Self::SourceUnconfirmed,
        Self::ServiceWithoutEndpoints,
        Self::OpenerUnknown,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::AddressClaimedTwice => "address_claimed_twice",
            Self::PodUnknown => "pod_unknown",
            Self::PodForeign => "pod_foreign",
            Self::EntityUnknown => "entity_unknown",
            Self::SourceUnconfirmed => "source_unconfirmed",
            Self::ServiceWithoutEndpoints => "service_without_endpoints",
            Self::OpenerUnknown => "opener_unknown",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an end is.
#[derive(Clone, Debug)]
pub(super) enum What {
    Pod(Arc<Pod>),
    /// A node, or a host cgroup of it.
    Node(Arc<str>),
    Service(Arc<Service>),
    Metadata,
    PodIdentity,
    Loopback,
    LinkLocal,
    Multicast,
    Outside {
        private: bool,
    },
    Unnamed(Reason),
}

#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) what: What,
    /// `None`: no tenant's.
    pub(super) tenant: Option<TenantId>,
    pub(super) address: IpAddr,
    pub(super) node: Option<Arc<str>>,
    /// The address is its own, as far as Kubernetes knows: false only of a pod that is known by its cgroup.
    pub(super) has_address: bool,
    /// The packets bear another's address.
    pub(super) forged: bool,
}

impl End {
    /// Whose sockets a record is about.
    pub(super) fn own(record: &Record, cx: &Cx<'_>) -> Self {
        let address = record.flow.local;
        let (what, tenant) = match &record.owner {
            Kind::Pod(uid) => match cx.directory.pod(uid) {
                Some(pod) if pod.node.as_ref().is_some_and(|n| *n != record.node) => {
                    (What::Unnamed(Reason::PodForeign), None)
                }
                Some(pod) => (What::Pod(Arc::clone(pod)), Some(pod.tenant)),
                None => (What::Unnamed(Reason::PodUnknown), None),
            },
            Kind::Host(path) => {
                let rule = cx.policy.path_rule(path);
                let tenant = rule.and_then(|(_, r)| cx.directory.tenants.find(&r.tenant));
                let what = What::Node(Arc::clone(&record.node));
                (what, Some(tenant.unwrap_or(TenantId::SYSTEM)))
            }
            Kind::Unknown(_) => (What::Unnamed(Reason::EntityUnknown), None),
        };
        let (has_address, forged) = match &what {
            // Another's is forged: a pod may have more interfaces than Kubernetes knows of.
            What::Pod(pod) if !pod.host_network && !pod.addresses.contains(&address) => {
                match cx.directory.addresses().at(address, record.last_ns) {
                    Owner::Pod(uid) => (uid == pod.uid, uid != pod.uid),
                    Owner::Node(_) | Owner::Service(_) => (false, true),
                    _ => (false, false),
                }
            }
            _ => (true, false),
        };
        Self {
            what,
            tenant,
            address,
            node: Some(Arc::clone(&record.node)),
            has_address,
            forged,
        }
    }

    /// Who is at the other end, by its address alone.
    pub(super) fn peer(record: &Record, cx: &Cx<'_>) -> Self {
        Self::at(record.flow.peer, record.last_ns, cx)
    }

    pub(super) fn at(address: IpAddr, at_ns: u64, cx: &Cx<'_>) -> Self {
        let mut node = None;
        let (what, tenant) = match cx.directory.addresses().at(address, at_ns) {
            Owner::Pod(uid) => match cx.directory.pod(&uid) {
                Some(pod) => {
                    node.clone_from(&pod.node);
                    (What::Pod(Arc::clone(pod)), Some(pod.tenant))
                }
                None => (What::Unnamed(Reason::PodUnknown), None),
            },
            Owner::Node(name) => {
                node = Some(Arc::clone(&name));
                (What::Node(name), Some(TenantId::SYSTEM))
            }
            Owner::Service(service) => {
                let tenant = cx.directory.namespace_tenant(&service.namespace);
                (What::Service(service), tenant)
            }
            Owner::Metadata => (What::Metadata, None),
            Owner::PodIdentity => (What::PodIdentity, None),
            Owner::Loopback => (What::Loopback, None),
            Owner::LinkLocal => (What::LinkLocal, None),
            Owner::Multicast => (What::Multicast, None),
            Owner::Outside { private } => (What::Outside { private }, None),
            Owner::ClaimedTwice => (What::Unnamed(Reason::AddressClaimedTwice), None),
        };
        Self {
            what,
            tenant,
            address,
            node,
            has_address: true,
            forged: false,
        }
    }

    pub(super) fn unnamed(self, reason: Reason) -> Self {
        Self {
            what: What::Unnamed(reason),
            tenant: None,
            ..self
        }
    }

    pub(super) fn pod(&self) -> Option<&Arc<Pod>> {
        match &self.what {
            What::Pod(pod) => Some(pod),
            _ => None,
        }
    }

    pub(super) fn reason(&self) -> Option<Reason> {
        match self.what {
            What::Unnamed(reason) => Some(reason),
            _ => None,
        }
    }

    /// A tenant that can be blamed and harmed.
    pub(super) fn named_tenant(&self) -> Option<TenantId> {
        self.tenant.filter(|t| *t != TenantId::SYSTEM)
    }

    /// "namespace/name", or what there is.
    pub(super) fn display(&self) -> String {
        match &self.what {
            What::Pod(pod) => format!("{}/{}", pod.namespace, pod.name),
            What::Service(service) => format!("{}/{}", service.namespace, service.name),
            What::Node(name) => format!("node {name}"),
            _ => self.address.to_string(),
        }
    }
}
