//! A pod that reaches its node's credentials: a NetworkPolicy that admits everything but the metadata service.

use std::sync::Arc;

use super::super::cx::Cx;
use super::super::fence::fence_pod;
use super::super::{PLATFORM, Remedy};
use super::group::Groups;
use super::network::{pods, whole};
use super::workload;
use crate::fence::{
    Direction, IpBlock, NetworkPolicy, Peer, Pod, Policies, Rule, Selector, document, unlabelled,
};
use crate::identity::{METADATA, Protocol};
use crate::yaml::comment;

pub(super) fn closed(cx: &Cx<'_>) -> Vec<Remedy> {
    let Some(pod) = fence_pod(cx, &cx.breach().key.subject).filter(|pod| !pod.host_network) else {
        return Vec::new();
    };
    let isolating = pod.isolated_by(Direction::Egress);
    if isolating.is_empty() {
        return vec![isolated(cx, pod)];
    }
    let narrowed: Vec<NetworkPolicy> = isolating.iter().filter_map(|p| without_metadata(p)).collect();
    if narrowed.is_empty() {
        return vec![enforced(cx, isolating)];
    }
    vec![narrower(cx, &narrowed)]
}

/// The first policy that isolates the pod.
fn isolated(cx: &Cx<'_>, pod: &Pod) -> Remedy {
    let key = &cx.breach().key;
    let (selector, name) = Groups::new(cx).of(pod, "-no-metadata");
    let policy = NetworkPolicy {
        namespace: pod.namespace.name.to_string(),
        name,
        pods: selector,
        ingress: None,
        egress: Some(vec![Rule {
            peers: everything_else(),
            ports: Vec::new(),
        }]),
    };
    let note = "every pod, and every address but the metadata service's; nodes, where the network plugin matches them by address".to_owned();
    Remedy {
        kind: "network_policy",
        by: Arc::clone(&key.tenant),
        what: format!("pods like {} reach everything but the metadata service: NetworkPolicy {policy}", key.subject),
        why: "where nodes are instances of EC2, a hop limit of 1 for the metadata service does the same for every pod".to_owned(),
        yaml: document(&policy, &[], &[note]),
    }
}

/// Policies that isolate it already, less what admits the metadata service.
fn narrower(cx: &Cx<'_>, policies: &[NetworkPolicy]) -> Remedy {
    let names: Vec<String> = policies.iter().map(ToString::to_string).collect();
    let documents: Vec<String> = policies
        .iter()
        .map(|policy| {
            let mut yaml = String::new();
            let note = format!("part of NetworkPolicy {policy}, to be merged into it");
            comment(&mut yaml, "", &note);
            yaml + &unlabelled(policy)
        })
        .collect();
    Remedy {
        kind: "network_policy",
        by: Arc::clone(&cx.breach().key.tenant),
        what: format!("{} admit no address of the metadata service any more", names.join(", ")),
        why: "they isolate the pod already, and a further policy can only admit more: the rules that admit it leave it out".to_owned(),
        yaml: workload::join(&documents),
    }
}

/// They do not admit it, and it was reached.
fn enforced(cx: &Cx<'_>, policies: &Policies) -> Remedy {
    let key = &cx.breach().key;
    let names: Vec<String> = policies.iter().map(ToString::to_string).collect();
    Remedy {
        kind: "network_policy",
        by: Arc::from(PLATFORM),
        what: format!("the network plugin of {} enforces {}", key.node, names.join(", ")),
        why: "they isolate the pod, and none of their rules in force now admits the metadata service: no further policy helps where none is enforced; where nodes are instances of EC2, a hop limit of 1 for the metadata service does".to_owned(),
        yaml: String::new(),
    }
}

/// `None`: no rule of it admits the metadata service.
fn without_metadata(policy: &NetworkPolicy) -> Option<NetworkPolicy> {
    let before = policy.egress.as_ref()?;
    let after: Vec<Rule> = before.iter().filter_map(narrow).collect();
    (after != *before).then(|| NetworkPolicy {
        egress: Some(after),
        ..policy.clone()
    })
}

/// `None`: it admits nothing else.
fn narrow(rule: &Rule) -> Option<Rule> {
    // The service speaks HTTP.
    let is_tcp = rule.ports.is_empty() || rule.ports.iter().any(|p| p.protocol == Protocol::Tcp);
    if !is_tcp {
        return Some(rule.clone());
    }
    let peers: Vec<Peer> = match rule.peers.as_slice() {
        // Everybody.
        [] => everything_else(),
        peers => peers
            .iter()
            .filter_map(|peer| match peer {
                Peer::Block(block) => left(block).map(Peer::Block),
                Peer::Pods { .. } => Some(peer.clone()),
            })
            .collect(),
    };
    // Without any, it would admit everybody.
    (!peers.is_empty()).then(|| Rule {
        peers,
        ports: rule.ports.clone(),
    })
}

/// Every pod, and every other address.
fn everything_else() -> Vec<Peer> {
    let blocks = ["0.0.0.0/0", "::/0"]
        .into_iter()
        .filter_map(|all| IpBlock::new(all).ok());
    let blocks = blocks.filter_map(|block| left(&block)).map(Peer::Block);
    [pods(None, Selector::default())]
        .into_iter()
        .chain(blocks)
        .collect()
}

/// What of a block is not the metadata service's; `None`: nothing.
fn left(block: &IpBlock) -> Option<IpBlock> {
    let mut block = block.clone();
    for address in METADATA {
        if block.contains(address) {
            block.leave_out(&whole(address)).ok()?;
        }
    }
    Some(block)
}
