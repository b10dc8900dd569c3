//! What is not known, and why.

use super::parties::culprit_pods;
use super::{Cx, ledger};
use crate::breach::{BreachKind, BreachState};
use crate::finding::{Detail, duration};
use crate::limits::NS_PER_S;

/// A part of a wait that is worth a word.
const NOTICED: f64 = 0.01;
/// A node that was silent for longer does not tell how things are now.
const SILENT_NS: u64 = 10 * NS_PER_S;

pub(super) fn doubts(cx: &Cx<'_>) -> Vec<String> {
    let (story, breach) = (&cx.story, cx.breach());
    let mut out = Vec::new();
    let percent = |share: f64| (share * 100.0).round();
    if breach.covered < 0.995 {
        out.push(format!(
            "{} % of the window was seen: what happened in the rest is not in these figures",
            percent(breach.covered)
        ));
    }
    if let Some(confidence) = breach.confidence {
        out.push(format!(
            "that {} is the cause is inferred, with a confidence of {} %: the kernel does not say for whose sake it takes memory back",
            breach.key.tenant,
            percent(confidence)
        ));
    }
    for slice in ledger(story) {
        let why = match &*slice.runner {
            "<unresolved>" => "lies further back than the kernel side remembers",
            "<unknown>" => "is entered against what cannot be named",
            _ => continue,
        };
        if slice.share >= NOTICED {
            out.push(format!("{} % of the wait {why}", percent(slice.share)));
        }
    }
    if story.worst.is_none() {
        out.push("only what the trail keeps of it is known: no ledger, no pairs of pods, and nothing of its worst moment".to_owned());
    } else if breach.state == BreachState::Resolved {
        out.push("it is over: its figures are those of its worst moment, use, requests, limits and policies are those of now".to_owned());
    }
    if breach.key.kind == BreachKind::CredentialReach {
        out.push(
            "a NetworkPolicy that admits addresses admits nodes only where the network plugin matches them so: Cilium does not by default, and pods would be cut off from nodes, host-network pods and the API server"
                .to_owned(),
        );
    }
    let is_kept = !matches!(story.detail, Detail::None);
    if let Some(node) = cx.nodes.get(&breach.key.node) {
        let silent_ns = cx.now.mono_ns.saturating_sub(node.received_ns);
        if silent_ns > SILENT_NS {
            out.push(format!(
                "node {} has been silent for {}",
                node.name,
                duration(silent_ns / NS_PER_S)
            ));
        }
    } else if !breach.key.node.is_empty() {
        out.push(format!("node {} is not known any more", breach.key.node));
    }
    let mut gone: Vec<_> = culprit_pods(cx).into_iter().map(|(_, pod)| pod).collect();
    if !breach.key.against.is_empty() && breach.key.subject.contains('/') {
        gone.push(breach.key.subject.clone());
    }
    gone.sort();
    gone.dedup();
    let gone: Vec<&str> = gone
        .iter()
        .map(|pod| &**pod)
        // A path of the host has no object.
        .filter(|pod| {
            !pod.starts_with('/') && pod.contains('/') && cx.pod(pod).is_none() && cx.unit(pod).is_none()
        })
        .collect();
    if !gone.is_empty() {
        out.push(format!(
            "no Pod object is known of {}: nothing can be said of its requests, limits and labels",
            gone.join(", ")
        ));
    }
    if matches!(breach.key.kind, BreachKind::FlatNetwork | BreachKind::FenceLeak) {
        let pairs = cx.figure("pod_pairs").unwrap_or(0.0);
        let shown = cx.reached().len();
        if is_kept && pairs > shown as f64 {
            out.push(format!(
                "{pairs} pairs of pods met, {shown} of them are looked at here"
            ));
        }
        if cx.figure("seen_by_both_ends") == Some(0.0) {
            out.push("only one end's agent told of it".to_owned());
        }
        if cx.figure("forged_source").is_some() {
            out.push("packets bore a source address that is not their sender's: who sent them is known by cgroup, not by address".to_owned());
        }
    }
    let unnamed: u64 = cx
        .traffic
        .totals
        .unattributed(cx.now.mono_ns)
        .iter()
        .map(|u| u.bytes)
        .sum();
    if unnamed > 0 && is_about_flows(breach.key.kind) {
        out.push(format!(
            "{} of traffic since the aggregator's start had an end that cannot be named: it is nobody's breach",
            crate::finding::bytes(unnamed as f64)
        ));
    }
    out
}

fn is_about_flows(kind: BreachKind) -> bool {
    matches!(
        kind,
        BreachKind::FlatNetwork | BreachKind::FenceLeak | BreachKind::Probe | BreachKind::CredentialReach
    )
}
