//! What is answered, as data: the document of `--json`, and what the text is made of.

use partywall_aggregator_core::fence::{
    Admission, Direction, End, Explanation, Miss, Says, Stand, Trace, Traffic,
};
use partywall_aggregator_core::identity::SYSTEM;
use serde::Serialize;

use super::Known;

#[derive(Debug, Serialize)]
pub(super) struct Answer {
    /// `open`, `allowed`, `denied`, `unknown`.
    pub verdict: &'static str,
    pub from: Party,
    pub to: Party,
    pub protocol: String,
    /// Absent for a protocol without ports.
    pub port: Option<u16>,
    /// What the policies of `from` say.
    pub egress: Side,
    /// What the policies of `to` say.
    pub ingress: Side,
    /// Where network plugins may differ.
    pub notes: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
pub(super) struct Party {
    /// `pod`, `node`, `address`.
    pub kind: &'static str,
    pub name: String,
    /// Absent for an address outside of the cluster.
    pub tenant: Option<String>,
    pub host_network: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct Side {
    /// `exempt`, `free`, `admits`, `denies`, `unknown`.
    pub stand: &'static str,
    pub reason: String,
    pub by: Option<By>,
    /// Every policy that isolates this end in this direction.
    pub policies: Vec<Asked>,
}

/// The rule that admits; positions are those of the lists in the object.
#[derive(Debug, Serialize)]
pub(super) struct By {
    pub policy: String,
    pub rule: usize,
    /// Absent: it admits everybody.
    pub peer: Option<usize>,
    pub peer_is: Option<String>,
    /// Absent: it admits every port.
    pub port: Option<usize>,
    pub port_is: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Asked {
    pub policy: String,
    /// `admits`, `no_rules`, `misses`, `unknown`.
    pub says: &'static str,
    /// Where it misses: what each rule lacks.
    pub rules: Vec<Lacks>,
}

#[derive(Debug, Serialize)]
pub(super) struct Lacks {
    pub rule: usize,
    pub names_peer: bool,
    pub names_port: bool,
}

impl Answer {
    pub(super) fn new(known: &Known, traffic: &Traffic<'_>, explanation: &Explanation) -> Self {
        let decision = &explanation.decision;
        Self {
            verdict: decision.verdict().as_str(),
            from: Party::new(known, &traffic.from),
            to: Party::new(known, &traffic.to),
            protocol: traffic.protocol.to_string(),
            port: traffic.protocol.has_ports().then_some(traffic.port),
            egress: Side::new(&decision.egress, Direction::Egress, &explanation.egress),
            ingress: Side::new(&decision.ingress, Direction::Ingress, &explanation.ingress),
            notes: explanation
                .notes
                .iter()
                .map(|note| note.as_str())
                .chain(known.without_policies())
                .collect(),
        }
    }
}

impl Party {
    fn new(known: &Known, end: &End<'_>) -> Self {
        let (kind, tenant, host_network) = match end {
            End::Pod(pod) => ("pod", known.tenant(&pod.uid), pod.host_network),
            End::Node(..) => ("node", Some(SYSTEM.to_owned()), false),
            End::Address(_) => ("address", None, false),
        };
        Self {
            kind,
            name: end.to_string(),
            tenant,
            host_network,
        }
    }
}

impl Side {
    fn new(stand: &Stand, direction: Direction, traces: &[Trace]) -> Self {
        let direction = direction.as_str();
        let (name, reason, by) = match stand {
            Stand::Exempt(why) => ("exempt", why.to_string(), None),
            Stand::Free => ("free", format!("no policy isolates it for {direction}"), None),
            Stand::Admits(admission) => (
                "admits",
                format!("admitted by {admission}"),
                Some(By::new(admission)),
            ),
            Stand::Denies(policies) => {
                let names: Vec<_> = policies.iter().map(ToString::to_string).collect();
                let reason = format!(
                    "isolated for {direction} by {}, and no rule admits it",
                    names.join(", ")
                );
                ("denies", reason, None)
            }
            Stand::Unknown(doubt) => ("unknown", doubt.to_string(), None),
        };
        Self {
            stand: name,
            reason,
            by,
            policies: traces.iter().map(Asked::new).collect(),
        }
    }
}

impl By {
    fn new(admission: &Admission) -> Self {
        Self {
            policy: admission.policy.to_string(),
            rule: admission.rule,
            peer: admission.peer,
            peer_is: admission.admitting_peer().map(ToString::to_string),
            port: admission.port,
            port_is: admission.admitting_port().map(ToString::to_string),
        }
    }
}

impl Asked {
    fn new(trace: &Trace) -> Self {
        let (says, rules) = match &trace.says {
            Says::Admits(_) => ("admits", &[][..]),
            Says::Unknown(_) => ("unknown", &[][..]),
            Says::NoRules => ("no_rules", &[][..]),
            Says::Misses(misses) => ("misses", misses.as_slice()),
        };
        let lacks = |miss: &Miss| Lacks {
            rule: miss.rule,
            names_peer: miss.peer,
            names_port: miss.port,
        };
        Self {
            policy: trace.policy.to_string(),
            says,
            rules: rules.iter().map(lacks).collect(),
        }
    }
}
