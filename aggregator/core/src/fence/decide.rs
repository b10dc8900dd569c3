//! From two ends to a verdict.
//!
//! A connection is admitted when both ends admit it: the egress policies of the one that opens it, and the ingress policies of the other.
//! An end that no policy isolates in that direction admits everything; one that is isolated admits what any rule of any of its policies does.

use std::net::IpAddr;
use std::sync::Arc;

use super::ends::{End, Pod, Policies, Traffic};
use super::model::{Direction, NetworkPolicy, Peer, Port, PortNumber, Rule};
use super::selector::Selector;
use crate::identity::ForeignPolicy;

/// What both ends say.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Of the end that opens the connection.
    pub egress: Stand,
    /// Of the other.
    pub ingress: Stand,
}

/// What one end says.
#[derive(Clone, Debug, PartialEq)]
pub enum Stand {
    /// Policies do not bear upon it.
    Exempt(Exemption),
    /// No policy isolates it in this direction.
    Free,
    Admits(Admission),
    /// Isolated by these, none of which admits it.
    Denies(Arc<Policies>),
    Unknown(Doubt),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exemption {
    /// Not a pod: a node, or outside of the cluster.
    NoPod,
    /// A pod cannot be kept from itself.
    Itself,
    /// Traffic between a pod and the node it runs on is always allowed.
    OwnNode,
    /// A host-network pod is its node.
    HostNetwork,
}

/// The first rule that admits, by the order of the policies' names.
#[derive(Clone, Debug, PartialEq)]
pub struct Admission {
    pub policy: Arc<NetworkPolicy>,
    pub direction: Direction,
    /// Of the policy's `ingress` or `egress`.
    pub rule: usize,
    /// Of the rule's `from` or `to`; `None`: it admits everybody.
    pub peer: Option<usize>,
    /// Of the rule's `ports`; `None`: it admits every port.
    pub port: Option<usize>,
}

/// Why nothing can be said.
#[derive(Clone, Debug, PartialEq)]
pub enum Doubt {
    /// There are policies of kinds that are not evaluated.
    Foreign(Arc<[ForeignPolicy]>),
    /// A rule asks for labels of a namespace whose object was not seen.
    NamespaceUnseen(Arc<str>),
    /// A rule asks for the address of an end whose address is not known.
    NoAddress,
    /// It depends on whether IPv4 or IPv6 is used.
    Family,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// No policy isolates either end: the flat network lets it through.
    Open,
    /// Isolated at one end at least, and admitted by a rule wherever it is.
    Allowed,
    Denied,
    Unknown,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Unknown => "unknown",
        }
    }
}

impl Decision {
    pub fn verdict(&self) -> Verdict {
        let any = |is: fn(&Stand) -> bool| self.stands().iter().any(|(_, stand)| is(stand));
        // Foreign policies before a denial: how a network plugin puts both together is its own affair.
        if any(|s| matches!(s, Stand::Unknown(Doubt::Foreign(_)))) {
            Verdict::Unknown
        } else if any(|s| matches!(s, Stand::Denies(_))) {
            Verdict::Denied
        } else if any(|s| matches!(s, Stand::Unknown(_))) {
            Verdict::Unknown
        } else if any(|s| matches!(s, Stand::Admits(_))) {
            Verdict::Allowed
        } else {
            Verdict::Open
        }
    }

    /// In the way of a packet.
    pub fn stands(&self) -> [(Direction, &Stand); 2] {
        [
            (Direction::Egress, &self.egress),
            (Direction::Ingress, &self.ingress),
        ]
    }
}

pub(super) fn decide(traffic: &Traffic<'_>) -> Decision {
    Decision {
        egress: stand(traffic, Direction::Egress),
        ingress: stand(traffic, Direction::Ingress),
    }
}

fn stand(traffic: &Traffic<'_>, direction: Direction) -> Stand {
    let subject = match isolated(traffic, direction) {
        Ok(subject) => subject,
        Err(stand) => return stand,
    };
    let mut stands = asked(traffic, direction)
        .into_iter()
        .map(|asked| one(&asked, subject.isolated_by(direction)));
    let first = stands.next().unwrap_or(Stand::Unknown(Doubt::NoAddress));
    let same = |other: &Stand| std::mem::discriminant(other) == std::mem::discriminant(&first);
    if stands.all(|other| same(&other)) {
        first
    } else {
        Stand::Unknown(Doubt::Family)
    }
}

/// The pod whose policies are to be asked, or what its end says without them.
pub(super) fn isolated<'a>(traffic: &Traffic<'a>, direction: Direction) -> Result<&'a Pod, Stand> {
    let (subject, other) = match direction {
        Direction::Egress => (traffic.from, traffic.to),
        Direction::Ingress => (traffic.to, traffic.from),
    };
    let End::Pod(pod) = subject else {
        return Err(Stand::Exempt(Exemption::NoPod));
    };
    if matches!(other, End::Pod(other) if other.uid == pod.uid) {
        Err(Stand::Exempt(Exemption::Itself))
    } else if !pod.namespace.foreign.is_empty() {
        Err(Stand::Unknown(Doubt::Foreign(Arc::clone(&pod.namespace.foreign))))
    } else if pod.host_network {
        Err(Stand::Exempt(Exemption::HostNetwork))
    } else if other.is_node_of(pod) {
        Err(Stand::Exempt(Exemption::OwnNode))
    } else if pod.isolated_by(direction).is_empty() {
        Err(Stand::Free)
    } else {
        Ok(pod)
    }
}

/// One direction of a connection, as rules look at it.
pub(super) struct Asked<'a> {
    traffic: Traffic<'a>,
    pub(super) direction: Direction,
    /// The end that rules name as a peer.
    other: End<'a>,
    address: Option<IpAddr>,
}

/// For each family of addresses that may be used.
pub(super) fn asked<'a>(traffic: &Traffic<'a>, direction: Direction) -> Vec<Asked<'a>> {
    let one = |(from, to)| {
        let (other, address) = match direction {
            Direction::Egress => (traffic.to, to),
            Direction::Ingress => (traffic.from, from),
        };
        Asked {
            traffic: *traffic,
            direction,
            other,
            address,
        }
    };
    traffic.addresses().into_iter().map(one).collect()
}

fn one(asked: &Asked<'_>, policies: &Arc<Policies>) -> Stand {
    let mut doubt = None;
    for policy in policies.iter() {
        match asked.policy(policy) {
            Found::Yes(admission) => return Stand::Admits(admission),
            Found::Unknown(why) => doubt = doubt.or(Some(why)),
            Found::No => {}
        }
    }
    doubt.map_or_else(|| Stand::Denies(Arc::clone(policies)), Stand::Unknown)
}

pub(super) enum Found<T> {
    Yes(T),
    No,
    Unknown(Doubt),
}

impl Asked<'_> {
    /// The first of a policy's rules that admits.
    pub(super) fn policy(&self, policy: &Arc<NetworkPolicy>) -> Found<Admission> {
        let mut doubt = None;
        for (index, rule) in policy.rules(self.direction).into_iter().flatten().enumerate() {
            let Some(port) = self.port(rule) else { continue };
            match self.peer(rule, &policy.namespace) {
                Found::Yes(peer) => {
                    return Found::Yes(Admission {
                        policy: Arc::clone(policy),
                        direction: self.direction,
                        rule: index,
                        peer,
                        port,
                    });
                }
                Found::Unknown(why) => doubt = doubt.or(Some(why)),
                Found::No => {}
            }
        }
        doubt.map_or(Found::No, Found::Unknown)
    }

    /// Which of a rule's ports admits; within: `None`, for it has none and admits all.
    pub(super) fn port(&self, rule: &Rule) -> Option<Option<usize>> {
        if rule.ports.is_empty() {
            return Some(None);
        }
        rule.ports.iter().position(|p| self.is_port(p)).map(Some)
    }

    fn is_port(&self, port: &Port) -> bool {
        let Traffic {
            protocol,
            port: number,
            ..
        } = self.traffic;
        port.protocol == protocol
            && match (&port.number, self.traffic.to) {
                (PortNumber::Any, _) => true,
                (PortNumber::Range(first, last), _) => (*first..=*last).contains(&number),
                // Always the receiving end's, in rules for either direction. What is no pod to policies has no containers.
                (PortNumber::Named(name), End::Pod(to)) => {
                    !to.host_network && to.names_port(name, protocol, number)
                }
                (PortNumber::Named(_), _) => false,
            }
    }

    /// Which of a rule's peers admits; within: `None`, for it has none and admits everybody.
    pub(super) fn peer(&self, rule: &Rule, namespace: &str) -> Found<Option<usize>> {
        if rule.peers.is_empty() {
            return Found::Yes(None);
        }
        let mut doubt = None;
        for (index, peer) in rule.peers.iter().enumerate() {
            let found = match peer {
                Peer::Block(block) => self.address.map(|a| block.contains(a)).ok_or(Doubt::NoAddress),
                Peer::Pods { namespaces, pods } => self.is_pod(namespaces.as_ref(), pods.as_ref(), namespace),
            };
            match found {
                Ok(true) => return Found::Yes(Some(index)),
                Ok(false) => {}
                Err(why) => doubt = doubt.or(Some(why)),
            }
        }
        doubt.map_or(Found::No, Found::Unknown)
    }

    fn is_pod(
        &self,
        namespaces: Option<&Selector>,
        pods: Option<&Selector>,
        own: &str,
    ) -> Result<bool, Doubt> {
        let End::Pod(pod) = self.other else {
            return Ok(false);
        };
        if pod.host_network || pods.is_some_and(|s| !s.matches(&pod.labels)) {
            return Ok(false);
        }
        match namespaces {
            None => Ok(*pod.namespace.name == *own),
            Some(selector) if pod.namespace.seen => Ok(selector.matches(&pod.namespace.labels)),
            Some(selector) => selector
                .matches_some_known(&pod.namespace.labels)
                .ok_or_else(|| Doubt::NamespaceUnseen(Arc::clone(&pod.namespace.name))),
        }
    }
}
