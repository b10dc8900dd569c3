//! The same in words.

use std::fmt;

use super::decide::{Admission, Doubt, Exemption};
use super::ends::{End, Pod};
use super::explain::Miss;
use super::model::{Direction, Peer, Port, Rule};

impl Direction {
    /// What a rule calls its peers.
    pub fn peers_field(self) -> &'static str {
        match self {
            Self::Ingress => "from",
            Self::Egress => "to",
        }
    }
}

impl Admission {
    fn admitting_rule(&self) -> Option<&Rule> {
        self.policy.rules(self.direction)?.get(self.rule)
    }

    pub fn admitting_peer(&self) -> Option<&Peer> {
        self.admitting_rule()?.peers.get(self.peer?)
    }

    pub fn admitting_port(&self) -> Option<&Port> {
        self.admitting_rule()?.ports.get(self.port?)
    }
}

/// Where it stands in the policy: `blue/web ingress[0] (from[1], ports[0])`.
impl fmt::Display for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (direction, from) = (self.direction.as_str(), self.direction.peers_field());
        write!(f, "{} {direction}[{}] (", self.policy, self.rule)?;
        match self.peer {
            Some(peer) => write!(f, "{from}[{peer}], ")?,
            None => write!(f, "{from} anyone, ")?,
        }
        match self.port {
            Some(port) => write!(f, "ports[{port}])"),
            None => f.write_str("any port)"),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (namespaces, pods) = match self {
            Self::Block(block) => return write!(f, "addresses in {block}"),
            Self::Pods { namespaces, pods } => (namespaces, pods),
        };
        match pods.as_ref().filter(|s| !s.is_empty()) {
            None => f.write_str("every pod")?,
            Some(selector) => write!(f, "pods with {selector}")?,
        }
        match namespaces {
            None => f.write_str(" of the policy's namespace"),
            Some(selector) if selector.is_empty() => f.write_str(" of every namespace"),
            Some(selector) => write!(f, " of namespaces with {selector}"),
        }
    }
}

impl fmt::Display for Exemption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoPod => "no pod: NetworkPolicy is about pods alone",
            Self::Itself => "a pod cannot be kept from itself",
            Self::OwnNode => "traffic between a pod and the node it runs on is always allowed",
            Self::HostNetwork => "a host-network pod is not isolated by policies",
        })
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign(policies) => {
                const SHOWN: usize = 3;
                let shown: Vec<_> = policies.iter().take(SHOWN).map(ToString::to_string).collect();
                write!(
                    f,
                    "policies of kinds that are not evaluated: {}",
                    shown.join(", ")
                )?;
                match policies.len().saturating_sub(SHOWN) {
                    0 => Ok(()),
                    more => write!(f, " and {more} more"),
                }
            }
            Self::NamespaceUnseen(name) => write!(
                f,
                "a rule asks for labels of namespace {name}, whose Namespace object was not seen"
            ),
            Self::NoAddress => {
                f.write_str("a rule asks for the address of an end whose address is not known")
            }
            Self::Family => f.write_str("it depends on whether IPv4 or IPv6 is used"),
        }
    }
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.peer, self.port) {
            (false, false) => "names neither the peer nor the port",
            (false, true) => "does not name the peer",
            (true, _) => "does not name the port",
        })
    }
}

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace.name, self.name)
    }
}

impl fmt::Display for End<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(pod) => pod.fmt(f),
            Self::Node(node, _) => write!(f, "node {}", node.name),
            Self::Address(address) => address.fmt(f),
        }
    }
}
