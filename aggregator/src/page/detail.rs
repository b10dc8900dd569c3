//! What is asked for while it is looked at: pods, a node's own ledger, flows.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use partywall_aggregator_core::identity::UNKNOWN;
use partywall_aggregator_core::snapshot::PodView;
use partywall_aggregator_core::traffic::{FlowEnd, FlowFilter};
use serde::Serialize;

use super::answer::Problem;
use super::view::{Ledger, ms, short, to_json};
use crate::state::Cluster;
use crate::wire;

/// More than a screen can show; how many there are beside is said.
const MOST_PODS: usize = 500;
const MOST_FLOWS: usize = 200;

#[derive(Debug, Serialize)]
struct PodRow<'a> {
    tenant: &'a str,
    namespace: &'a str,
    name: &'a str,
    node: &'a str,
    used_cores: f64,
    entitled_cores: f64,
    wait_cores: f64,
    stolen_cores: f64,
    slowdown: Option<f64>,
    throttled_cores: f64,
    wait_p99_seconds: Option<f64>,
    memory_bytes: Option<u64>,
    requested_memory_bytes: u64,
}

/// Those that were hurt most first, then those that use most.
fn pods<'a>(pods: impl Iterator<Item = &'a PodView>) -> (Vec<PodRow<'a>>, usize) {
    let mut pods: Vec<&PodView> = pods.collect();
    pods.sort_by(|a, b| {
        (b.stolen_cores, b.used_cores)
            .partial_cmp(&(a.stolen_cores, a.used_cores))
            .unwrap_or(Ordering::Equal)
            .then_with(|| a.order().cmp(&b.order()))
    });
    let left_out = pods.len().saturating_sub(MOST_PODS);
    let rows = pods.into_iter().take(MOST_PODS).map(|p| PodRow {
        tenant: &p.tenant,
        namespace: &p.namespace,
        name: &p.name,
        node: &p.node,
        used_cores: short(p.used_cores),
        entitled_cores: short(p.entitled_cores),
        wait_cores: short(p.wait_cores),
        stolen_cores: short(p.stolen_cores),
        slowdown: p.slowdown.map(short),
        throttled_cores: short(p.throttled_cores),
        wait_p99_seconds: p.wait_p99_ns.map(|ns| ns as f64 / 1e9),
        memory_bytes: p.memory.and_then(|m| m.sample.current_bytes),
        requested_memory_bytes: p.requested_memory_bytes,
    });
    (rows.collect(), left_out)
}

#[derive(Debug, Serialize)]
struct NodeDetail<'a> {
    judged_unix_ms: u64,
    ledger: Ledger<'a>,
    pods: Vec<PodRow<'a>>,
    pods_left_out: usize,
}

/// One node: its own ledger, and what runs there.
pub(super) fn node(cluster: &Cluster, name: &str) -> Result<Vec<u8>, Problem> {
    let snapshot = cluster.lock().snapshot(name, false, cluster.now());
    if name.is_empty() || snapshot.nodes.is_empty() {
        return Err(not_found("node", name, cluster));
    }
    let (pods, pods_left_out) = pods(snapshot.pods.iter());
    to_json(&NodeDetail {
        judged_unix_ms: ms(snapshot.judged_unix_ns),
        ledger: Ledger::of(&snapshot.ledger),
        pods,
        pods_left_out,
    })
}

#[derive(Debug, Serialize)]
struct TenantDetail<'a> {
    judged_unix_ms: u64,
    pods: Vec<PodRow<'a>>,
    pods_left_out: usize,
}

/// Of one judgement. More tenants than that are rarely looked at in two seconds.
const MOST_KEPT: usize = 64;

/// Answers about tenants, for as long as nothing is judged anew: all nodes are looked through for each. By cluster and name, with the judgement's moment.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<Answers>);

type Answers = BTreeMap<(Arc<str>, String), (u64, Bytes)>;

impl Kept {
    /// One tenant's pods.
    pub(super) fn tenant(&self, cluster: &Cluster, name: &str) -> Result<Bytes, Problem> {
        let (judged, is_known) = {
            let world = cluster.lock();
            let is_known = world.directory().tenants.find(name).is_some();
            (world.judged().mono_ns, is_known || name == UNKNOWN)
        };
        // A name that somebody made up costs no snapshot.
        if !is_known {
            return Err(not_found("tenant", name, cluster));
        }
        let of = (Arc::clone(&cluster.name), name.to_owned());
        let kept = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, body)) = kept().get(&of).filter(|(of, _)| *of == judged) {
            return Ok(body.clone());
        }
        let body = Bytes::from(tenant(cluster, name)?);
        let mut kept = kept();
        kept.retain(|(name, _), (of, _)| *name != cluster.name || *of == judged);
        if kept.len() < MOST_KEPT {
            kept.insert(of, (judged, body.clone()));
        }
        Ok(body)
    }
}

fn tenant(cluster: &Cluster, name: &str) -> Result<Vec<u8>, Problem> {
    let mut theirs = Vec::new();
    let snapshot = cluster.lock().snapshot_without_pods(cluster.now(), |pod| {
        if *pod.tenant == *name {
            theirs.push(pod);
        }
    });
    if !snapshot.tenants.iter().any(|t| *t.name == *name) {
        return Err(not_found("tenant", name, cluster));
    }
    let (pods, pods_left_out) = pods(theirs.iter());
    to_json(&TenantDetail {
        judged_unix_ms: ms(snapshot.judged_unix_ns),
        pods,
        pods_left_out,
    })
}

fn not_found(what: &str, name: &str, cluster: &Cluster) -> Problem {
    let name: String = name.chars().take(80).collect();
    Problem::NotFound(format!(
        "{what}: {name:?} is not known in cluster {:?}",
        &*cluster.name
    ))
}

#[derive(Debug, Serialize)]
struct EndRow<'a> {
    tenant: &'a str,
    namespace: &'a str,
    pod: &'a str,
    node: &'a str,
    address: &'a str,
    kind: &'a str,
    unattributed: Option<String>,
}

impl<'a> EndRow<'a> {
    fn of(end: &'a FlowEnd) -> Self {
        Self {
            tenant: &end.tenant,
            namespace: &end.namespace,
            pod: &end.pod,
            node: &end.node,
            address: &end.address,
            kind: end.kind,
            unattributed: end.unattributed.map(|reason| reason.to_string()),
        }
    }
}

#[derive(Debug, Serialize)]
struct FlowRow<'a> {
    from: EndRow<'a>,
    to: EndRow<'a>,
    protocol: String,
    port: u16,
    verdict: &'static str,
    reason: &'a str,
    seen_by: &'static str,
    delivered: bool,
    bytes: u64,
    connections: u64,
    bytes_per_second: f64,
    first_seen_unix_ms: u64,
    last_seen_unix_ms: u64,
}

#[derive(Debug, Serialize)]
struct Flows<'a> {
    judged_unix_ms: u64,
    flows: Vec<FlowRow<'a>>,
    left_out: u64,
}

/// Flows as they were judged last, each with the reason of its verdict.
pub(super) fn flows(cluster: &Cluster, filter: &FlowFilter) -> Result<Vec<u8>, Problem> {
    let list = cluster.lock().flows(filter);
    let rows = list.flows.iter().take(MOST_FLOWS).map(|flow| FlowRow {
        from: EndRow::of(&flow.from),
        to: EndRow::of(&flow.to),
        protocol: wire::protocol(flow.protocol),
        port: flow.port,
        verdict: flow.verdict.as_str(),
        reason: &flow.reason,
        seen_by: flow.seen_by.as_str(),
        delivered: flow.delivered,
        bytes: flow
            .traffic
            .sent_bytes
            .saturating_add(flow.traffic.received_bytes),
        connections: flow.traffic.established,
        bytes_per_second: short(flow.bytes_per_second),
        first_seen_unix_ms: ms(flow.first_seen_unix_ns),
        last_seen_unix_ms: ms(flow.last_seen_unix_ns),
    });
    to_json(&Flows {
        judged_unix_ms: ms(list.judged_unix_ns),
        flows: rows.collect(),
        left_out: list.left_out + list.flows.len().saturating_sub(MOST_FLOWS) as u64,
    })
}
