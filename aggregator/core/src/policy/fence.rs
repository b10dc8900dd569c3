//! What the policy file allows between tenants, beside NetworkPolicy.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::identity::Protocol;

/// Section `fence`.
#[derive(Clone, Debug, PartialEq)]
pub struct Fence {
    /// The first that admits is named.
    pub allow: Vec<Allowance>,
    pub pod_identity: PodIdentity,
}

/// Whether pods get credentials of their own by EKS Pod Identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodIdentity {
    /// Once its agent answered a pod.
    Auto,
    Yes,
    No,
}

/// Traffic between tenants that is no breach. Each part restricts; one that is left out does not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allowance {
    pub name: String,
    /// Who opens.
    pub from: Ends,
    pub to: Ends,
    /// (protocol, first, last); any of them. A Service's port where it is not known which endpoint was reached.
    pub ports: Vec<(Protocol, u16, u16)>,
}

/// Any of these. Nothing at all: everybody.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ends {
    pub tenants: BTreeSet<String>,
    pub namespaces: BTreeSet<String>,
    /// Labels of the namespace: all of them.
    pub namespace_labels: BTreeMap<String, String>,
    pub cidrs: Vec<IpNet>,
}

/// An end of a flow.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    pub tenant: Option<&'a str>,
    pub namespace: Option<&'a str>,
    pub labels: Option<&'a BTreeMap<String, String>>,
    /// `None`: it bears one that is not its own.
    pub address: Option<IpAddr>,
}

impl Default for Fence {
    fn default() -> Self {
        let dns = Allowance {
            name: "dns".to_owned(),
            to: Ends {
                namespaces: BTreeSet::from(["kube-system".to_owned()]),
                ..Ends::default()
            },
            ports: vec![(Protocol::Udp, 53, 53), (Protocol::Tcp, 53, 53)],
            ..Allowance::default()
        };
        Self {
            allow: vec![dns],
            pod_identity: PodIdentity::Auto,
        }
    }
}

impl Allowance {
    pub fn admits(&self, from: &Side<'_>, to: &Side<'_>, protocol: u8, port: u16) -> bool {
        let protocol = Protocol::from_number(protocol);
        let of_port =
            |(p, first, last): &(Protocol, u16, u16)| *p == protocol && (*first..=*last).contains(&port);
        (self.ports.is_empty() || self.ports.iter().any(of_port)) && self.from.hold(from) && self.to.hold(to)
    }
}

impl Ends {
    fn hold(&self, side: &Side<'_>) -> bool {
        let labelled = |labels: &BTreeMap<String, String>| {
            !self.namespace_labels.is_empty()
                && self
                    .namespace_labels
                    .iter()
                    .all(|(k, v)| labels.get(k) == Some(v))
        };
        *self == Self::default()
            || side.tenant.is_some_and(|t| self.tenants.contains(t))
            || side.namespace.is_some_and(|n| self.namespaces.contains(n))
            || side.labels.is_some_and(labelled)
            || side
                .address
                .is_some_and(|a| self.cidrs.iter().any(|c| c.contains(&a)))
    }
}
