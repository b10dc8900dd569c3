//! Which NetworkPolicies isolate the ends of what was reached, and what each of them says.

use std::collections::BTreeSet;

use super::{Cx, RuleFact};
use crate::breach::BreachKind;
use crate::fence::{Direction, End, Pod, Says, Stand, Trace, Traffic};
use crate::finding::Reached;
use crate::identity::Protocol;

/// Policies told of one by one.
const SHOWN: usize = 16;

pub(super) fn rules(cx: &Cx<'_>) -> Vec<RuleFact> {
    let mut out: Vec<RuleFact> = Vec::new();
    let mut told: BTreeSet<(String, String)> = BTreeSet::new();
    for reached in cx.reached() {
        for fact in of_pair(cx, reached) {
            if out.len() < SHOWN && told.insert((fact.rule.clone(), fact.asks.clone())) {
                out.push(fact);
            }
        }
    }
    let allowances: Vec<&str> = cx.policy.fence.allow.iter().map(|a| a.name.as_str()).collect();
    out.push(RuleFact {
        rule: "fence.allow".to_owned(),
        asks: "an allowance of the policy file admits it".to_owned(),
        found: match allowances.as_slice() {
            [] => "there is none".to_owned(),
            names => format!("none of {} does", names.join(", ")),
        },
    });
    if cx.kind() == BreachKind::FenceLeak {
        out.push(RuleFact {
            rule: "fence_leak.enforce_seconds".to_owned(),
            asks: format!(
                "policies count from {} s after their last change on",
                cx.thresholds().fence_leak.enforce_seconds
            ),
            found: "it was delivered later than that".to_owned(),
        });
    }
    out
}

/// Whether anything isolates the pods that opened.
pub(super) fn isolation_of_openers(cx: &Cx<'_>) -> Vec<RuleFact> {
    let name = &cx.breach().key.subject;
    let Some(pod) = fence_pod(cx, name) else {
        return Vec::new();
    };
    vec![stand_alone(pod, Direction::Egress)]
}

pub(super) fn fence_pod<'a>(cx: &Cx<'a>, name: &str) -> Option<&'a Pod> {
    let (namespace, name) = name.split_once('/')?;
    cx.directory.fence().pod(namespace, name).map(|pod| &**pod)
}

fn stand_alone(pod: &Pod, direction: Direction) -> RuleFact {
    let policies = pod.isolated_by(direction);
    let names: Vec<String> = policies.iter().take(SHOWN).map(|p| p.name.clone()).collect();
    RuleFact {
        rule: format!("NetworkPolicy of namespace {}", pod.namespace.name),
        asks: format!("one isolates {pod} ({})", direction.as_str()),
        found: match names.as_slice() {
            [] => "none does".to_owned(),
            names => format!("{} does", names.join(", ")),
        },
    }
}

/// The two ends as the fence knows them, with the question that the flow is.
pub(super) fn question<'a>(cx: &Cx<'a>, reached: &Reached) -> Option<(&'a Pod, &'a Pod, Traffic<'a>)> {
    let (from, to) = (fence_pod(cx, &reached.from)?, fence_pod(cx, &reached.to)?);
    let traffic = Traffic {
        from: End::Pod(from),
        to: End::Pod(to),
        protocol: Protocol::from_number(reached.protocol),
        port: reached.port,
        family: None,
    };
    Some((from, to, traffic))
}

fn of_pair(cx: &Cx<'_>, reached: &Reached) -> Vec<RuleFact> {
    let Some((from, to, traffic)) = question(cx, reached) else {
        return Vec::new();
    };
    let explained = cx.directory.fence().explain(&traffic);
    let port = crate::traffic::port(reached.protocol, reached.port);
    let mut out = Vec::new();
    let ends = [
        (
            Direction::Egress,
            from,
            &explained.egress,
            &explained.decision.egress,
        ),
        (
            Direction::Ingress,
            to,
            &explained.ingress,
            &explained.decision.ingress,
        ),
    ];
    for (direction, pod, traces, stand) in ends {
        match stand {
            Stand::Exempt(why) => out.push(RuleFact {
                rule: "NetworkPolicy".to_owned(),
                asks: format!("one isolates {pod} ({})", direction.as_str()),
                found: why.to_string(),
            }),
            Stand::Unknown(doubt) if traces.is_empty() => out.push(RuleFact {
                rule: "NetworkPolicy".to_owned(),
                asks: format!("one isolates {pod} ({})", direction.as_str()),
                found: doubt.to_string(),
            }),
            _ if traces.is_empty() => out.push(stand_alone(pod, direction)),
            _ => out.extend(traces.iter().map(|trace| RuleFact {
                rule: format!("NetworkPolicy {}", trace.policy),
                asks: format!(
                    "isolates {pod} ({}): {from} to {to} on {port}",
                    direction.as_str()
                ),
                found: says(trace),
            })),
        }
    }
    out
}

fn says(trace: &Trace) -> String {
    match &trace.says {
        Says::Admits(admission) => format!("admits it: {admission}"),
        Says::Unknown(doubt) => format!("not known: {doubt}"),
        Says::NoRules => "denies it: it admits nothing".to_owned(),
        Says::Misses(misses) => {
            let misses: Vec<String> = misses
                .iter()
                .map(|miss| format!("rule {} {miss}", miss.rule))
                .collect();
            format!("denies it: {}", misses.join(", "))
        }
    }
}
