//! What the fence says of a flow between two tenants: the policy file's allowances first, then NetworkPolicy.

use std::sync::Arc;

use super::cx::Cx;
use super::ends::{End, Reason, What};
use crate::fence::{self, Decision, Family, Past, Stand, Traffic};
use crate::identity::{Pod, Protocol};

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Ruling {
    /// By what.
    Allowed(Arc<str>),
    /// No NetworkPolicy isolates either end.
    Open,
    /// By what; since when, on the aggregator's monotonic clock, at the latest.
    Denied {
        why: Arc<str>,
        since_ns: u64,
    },
    /// Why.
    Unknown(Arc<str>),
    Unattributed(Reason),
    /// Not between two tenants: a Service that leads to nodes, as the API server's, to the outside, or back to the opener's own.
    NoFence,
}

/// What is asked of the fence, besides the ends.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    pub(super) protocol: u8,
    pub(super) port: u16,
    /// It happened after the first and not after the second, on the aggregator's monotonic clock.
    pub(super) between_ns: (u64, u64),
}

/// As it stood when it happened; the policy file as it is now.
pub(super) fn rule(from: &End, to: &End, asked: Asked, cx: &Cx<'_>) -> Ruling {
    let Asked { protocol, port, .. } = asked;
    let allowance = |a: &&crate::policy::Allowance| a.admits(&cx.side(from), &cx.side(to), protocol, port);
    if let Some(allowance) = cx.policy.fence.allow.iter().find(allowance) {
        return Ruling::Allowed(format!("allowed by {:?} of the policy file", allowance.name).into());
    }
    if let What::Service(_) = to.what {
        return through_service(from, to, asked, cx);
    }
    by_policies(from, to, asked, cx)
}

/// Nobody said which endpoint it went to: what all of them have in common.
fn through_service(from: &End, to: &End, asked: Asked, cx: &Cx<'_>) -> Ruling {
    let addresses = cx.directory.addresses();
    let endpoints = addresses.behind(to.address, asked.protocol, asked.port);
    let endpoints = endpoints.unwrap_or_default();
    let mut rulings = endpoints.iter().map(|(address, port)| {
        let behind = End::at(*address, cx.now.mono_ns, cx);
        // The Service's namespace says whose the Service is, not who is reached.
        let other = behind.named_tenant().filter(|t| Some(*t) != from.named_tenant());
        if other.is_none() && behind.reason().is_none() {
            return Ruling::NoFence;
        }
        by_policies(from, &behind, Asked { port: *port, ..asked }, cx)
    });
    let Some(first) = rulings.next() else {
        return Ruling::Unattributed(Reason::ServiceWithoutEndpoints);
    };
    let kind = std::mem::discriminant(&first);
    if rulings.all(|other| std::mem::discriminant(&other) == kind) {
        first
    } else {
        Ruling::Unknown(Arc::from("the Service's endpoints differ in what is admitted"))
    }
}

fn by_policies(from: &End, to: &End, asked: Asked, cx: &Cx<'_>) -> Ruling {
    let (fence, past) = (cx.directory.fence(), cx.directory.past());
    let end = |end: &End| match &end.what {
        What::Pod(pod) => fence.pod_by_uid(&pod.uid).cloned().map(Party::Pod),
        What::Node(name) => fence.node(name).cloned().map(Party::Node),
        _ => None,
    };
    let (Some(a), Some(b)) = (end(from), end(to)) else {
        return Ruling::Unknown(Arc::from("no Kubernetes object is known of an end"));
    };
    let decide = |at_ns| {
        fence.decide(&Traffic {
            from: a.end(from, past, at_ns),
            to: b.end(to, past, at_ns),
            protocol: Protocol::from_number(asked.protocol),
            port: asked.port,
            family: Some(Family::of(to.address)),
        })
    };
    let (first_ns, last_ns) = asked.between_ns;
    let decision = decide(last_ns);
    match decision.verdict() {
        fence::Verdict::Open if decide(first_ns).verdict() != fence::Verdict::Open => {
            Ruling::Unknown(Arc::from("the policies changed while it happened"))
        }
        fence::Verdict::Open => Ruling::Open,
        fence::Verdict::Allowed => Ruling::Allowed(admitted(&decision)),
        fence::Verdict::Denied if !Protocol::from_number(asked.protocol).has_ports() => Ruling::Unknown(
            Arc::from("NetworkPolicy is not defined for this protocol, and network plugins differ"),
        ),
        fence::Verdict::Denied => {
            let mut changes: Vec<u64> = [&a, &b].into_iter().flat_map(|p| p.changes(past)).collect();
            changes.retain(|at_ns| *at_ns <= last_ns);
            changes.sort_unstable();
            // What was denied before a change, too, was denied all along.
            let was_not = |at_ns: &u64| decide(at_ns.saturating_sub(1)).verdict() != fence::Verdict::Denied;
            let changed_ns = changes.into_iter().rev().find(was_not).unwrap_or(0);
            denied(&decision, [from.pod(), to.pod()], changed_ns, cx)
        }
        fence::Verdict::Unknown => Ruling::Unknown(doubt(&decision)),
    }
}

/// An end as the fence knows it.
enum Party {
    Pod(Arc<fence::Pod>),
    Node(Arc<fence::Node>),
}

impl Party {
    /// As it was at `at_ns`.
    fn end<'a>(&'a self, end: &End, past: &'a Past, at_ns: u64) -> fence::End<'a> {
        match self {
            Self::Pod(pod) => fence::End::Pod(past.at(pod, at_ns)),
            Self::Node(node) => fence::End::Node(node, Some(end.address)),
        }
    }

    fn changes(&self, past: &Past) -> Vec<u64> {
        match self {
            Self::Pod(pod) => past.changes(&pod.uid).collect(),
            Self::Node(_) => Vec::new(),
        }
    }
}

fn admitted(decision: &Decision) -> Arc<str> {
    let by: Vec<String> = decision
        .stands()
        .iter()
        .filter_map(|(_, stand)| match stand {
            Stand::Admits(admission) => Some(admission.to_string()),
            _ => None,
        })
        .collect();
    format!("admitted by NetworkPolicy {}", by.join(" and ")).into()
}

/// "NetworkPolicy blue/deny isolates blue/web and admits no such ingress"
fn denied(decision: &Decision, pods: [Option<&Arc<Pod>>; 2], changed_ns: u64, cx: &Cx<'_>) -> Ruling {
    let mut why = Vec::new();
    let mut since_ns = u64::MAX;
    for ((direction, stand), pod) in decision.stands().iter().zip(pods) {
        let (Stand::Denies(policies), Some(pod)) = (stand, pod) else {
            continue;
        };
        const SHOWN: usize = 3;
        let names: Vec<String> = policies.iter().take(SHOWN).map(ToString::to_string).collect();
        let more = match policies.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        why.push(format!(
            "NetworkPolicy {}{more} isolates {}/{} and admits no such {}",
            names.join(", "),
            pod.namespace,
            pod.name,
            direction.as_str()
        ));
        // Denied by either end is denied. A pod that came after its namespace's policies has no past of its own.
        since_ns = since_ns.min(cx.directory.policies_since_ns(&pod.namespace));
    }
    Ruling::Denied {
        why: why.join("; ").into(),
        since_ns: since_ns.max(changed_ns),
    }
}

fn doubt(decision: &Decision) -> Arc<str> {
    decision
        .stands()
        .iter()
        .find_map(|(_, stand)| match stand {
            Stand::Unknown(doubt) => Some(doubt.to_string().into()),
            _ => None,
        })
        .unwrap_or_default()
}
