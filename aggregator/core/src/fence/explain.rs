//! The way of the reasoning: every policy that was asked, and what each rule lacks.

use std::sync::Arc;

use super::decide::{Admission, Asked, Decision, Doubt, Exemption, Found, Stand, asked, decide, isolated};
use super::ends::{End, Traffic};
use super::model::{Direction, NetworkPolicy, Peer};

#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    pub decision: Decision,
    /// Every policy that isolates the end that opens the connection; none where policies do not bear upon it.
    pub egress: Vec<Trace>,
    /// Every policy that isolates the other.
    pub ingress: Vec<Trace>,
    pub notes: Vec<Note>,
}

/// What one policy says. Where both families of addresses may be used: over IPv4.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    pub policy: Arc<NetworkPolicy>,
    pub says: Says,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Says {
    Admits(Admission),
    Unknown(Doubt),
    /// It has no rules for this direction: it isolates, and admits nothing.
    NoRules,
    /// Of each rule.
    Misses(Vec<Miss>),
}

/// Why a rule does not admit; one of the two at least is false.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Miss {
    pub rule: usize,
    /// Whether it names the other end.
    pub peer: bool,
    /// Whether it names the port.
    pub port: bool,
}

/// Where network plugins may differ from what was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    HostNetwork,
    OtherProtocol,
    BlockOnPod,
}

impl Note {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HostNetwork => {
                "the API leaves host-network pods undefined; here, as with most network plugins, such a pod is its node: \
                 no policy isolates it, and as a peer it matches ipBlock alone"
            }
            Self::OtherProtocol => {
                "NetworkPolicy is defined for TCP, UDP and SCTP; here a rule without ports admits other protocols too, one with ports none of \
                 them, and network plugins may differ"
            }
            Self::BlockOnPod => {
                "admitted by an ipBlock that holds a pod's address; the API compares addresses, but means ipBlock for addresses outside \
                 of the cluster, and some network plugins (Cilium) do not match pods by it"
            }
        }
    }
}

pub(super) fn explain(traffic: &Traffic<'_>) -> Explanation {
    let decision = decide(traffic);
    Explanation {
        egress: traces(traffic, Direction::Egress),
        ingress: traces(traffic, Direction::Ingress),
        notes: notes(traffic, &decision),
        decision,
    }
}

fn traces(traffic: &Traffic<'_>, direction: Direction) -> Vec<Trace> {
    let Ok(pod) = isolated(traffic, direction) else {
        return Vec::new();
    };
    let Some(asked) = asked(traffic, direction).into_iter().next() else {
        return Vec::new();
    };
    let trace = |policy: &Arc<NetworkPolicy>| Trace {
        policy: Arc::clone(policy),
        says: says(&asked, policy),
    };
    pod.isolated_by(direction).iter().map(trace).collect()
}

fn says(asked: &Asked<'_>, policy: &Arc<NetworkPolicy>) -> Says {
    let rules = policy.rules(asked.direction).unwrap_or_default();
    match asked.policy(policy) {
        Found::Yes(admission) => Says::Admits(admission),
        Found::Unknown(doubt) => Says::Unknown(doubt),
        Found::No if rules.is_empty() => Says::NoRules,
        Found::No => Says::Misses(
            rules
                .iter()
                .enumerate()
                .map(|(index, rule)| Miss {
                    rule: index,
                    peer: matches!(asked.peer(rule, &policy.namespace), Found::Yes(_)),
                    port: asked.port(rule).is_some(),
                })
                .collect(),
        ),
    }
}

fn notes(traffic: &Traffic<'_>, decision: &Decision) -> Vec<Note> {
    let host = |end| matches!(end, End::Pod(pod) if pod.host_network);
    let stands = decision.stands();
    let mut notes = Vec::new();
    if (host(traffic.from) || host(traffic.to))
        && stands
            .iter()
            .all(|(_, s)| !matches!(s, Stand::Exempt(Exemption::Itself)))
    {
        notes.push(Note::HostNetwork);
    }
    let asked = |s: &Stand| matches!(s, Stand::Admits(_) | Stand::Denies(_));
    if !traffic.protocol.has_ports() && stands.iter().any(|(_, s)| asked(s)) {
        notes.push(Note::OtherProtocol);
    }
    let by_block = |(direction, stand): &(Direction, &Stand)| {
        let other = match direction {
            Direction::Egress => traffic.to,
            Direction::Ingress => traffic.from,
        };
        let is_pod = matches!(other, End::Pod(pod) if !pod.host_network);
        is_pod && matches!(stand, Stand::Admits(a) if matches!(a.admitting_peer(), Some(Peer::Block(_))))
    };
    if stands.iter().any(by_block) {
        notes.push(Note::BlockOnPod);
    }
    notes
}
