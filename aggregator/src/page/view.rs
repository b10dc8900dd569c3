//! What the core knows → what the page draws. Names are as they are: whoever draws them must not take them for anything but text.

use std::collections::BTreeMap;

use partywall_aggregator_core::breach::{Breach, BreachKind, BreachState};
use partywall_aggregator_core::snapshot::{LedgerCell, NodeView, Snapshot, TenantView};
use partywall_aggregator_core::traffic::TenantTraffic;
use partywall_proto::v1;
use serde::Serialize;

use super::answer::Problem;
use crate::clock::unix_ns;
use crate::state::State;
use crate::wire;

/// More than a screen can show; how many there are beside is said.
const MOST_BREACHES: usize = 500;

pub(super) fn to_json(answer: &impl Serialize) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(answer).map_err(|error| Problem::Failed(error.to_string()))
}

/// Microcores and bytes of a second are enough to draw, and half as long to send.
pub(super) fn short(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

fn seconds(ns: u64) -> f64 {
    short(ns as f64 / 1e9)
}

pub(super) fn ms(unix_ns: u64) -> u64 {
    unix_ns / 1_000_000
}

#[derive(Debug, Serialize)]
struct Everything<'a> {
    version: &'static str,
    now_unix_ms: u64,
    step_seconds: f64,
    clusters: Vec<ClusterPart<'a>>,
    /// The aggregator's own.
    losses: Vec<LossRow<'a>>,
}

#[derive(Debug, Serialize)]
struct ClusterPart<'a> {
    name: &'a str,
    /// "api", "files" or "none".
    source: &'a str,
    synced: bool,
    age_seconds: Option<f64>,
    stale: bool,
    namespaces: u64,
    known_pods: u64,
    problems: &'a [String],
    judged_unix_ms: u64,
    window_seconds: f64,
    nodes: Vec<NodeRow<'a>>,
    tenants: Vec<TenantRow<'a>>,
    ledger: Ledger<'a>,
    traffic: Vec<TrafficRow<'a>>,
    unattributed: Vec<UnattributedRow>,
    folded: Vec<FoldedRow<'a>>,
    breaches: Vec<BreachRow>,
    breaches_left_out: usize,
}

#[derive(Debug, Serialize)]
struct LossRow<'a> {
    stage: &'a str,
    reason: &'a str,
    unit: &'a str,
    count: u64,
}

#[derive(Debug, Serialize)]
struct FeatureRow<'a> {
    name: &'a str,
    present: bool,
    reason: &'a str,
}

#[derive(Debug, Serialize)]
struct NodeRow<'a> {
    name: &'a str,
    zone: &'a str,
    region: &'a str,
    hybrid: bool,
    cpus: u32,
    used_cores: f64,
    age_seconds: f64,
    covered: f64,
    clock_offset_seconds: Option<f64>,
    features: Vec<FeatureRow<'a>>,
    losses: Vec<LossRow<'a>>,
    agent_cores: f64,
    agent_memory_bytes: u64,
    map_bytes: u64,
    oom_kills: u64,
}

impl<'a> NodeRow<'a> {
    fn of(node: &'a NodeView) -> Self {
        let features = node.features.iter().map(|f| FeatureRow {
            name: &f.name,
            present: f.present,
            reason: &f.reason,
        });
        let losses = node.losses.iter().map(|l| LossRow {
            stage: &l.stage,
            reason: &l.reason,
            unit: &l.unit,
            count: l.count,
        });
        Self {
            name: &node.name,
            zone: &node.zone,
            region: &node.region,
            hybrid: node.hybrid,
            cpus: node.online_cpus,
            used_cores: short(node.used_cores),
            age_seconds: seconds(node.age_ns),
            covered: short(node.covered),
            clock_offset_seconds: node.clock_offset_ns.map(|ns| short(ns as f64 / 1e9)),
            features: features.collect(),
            losses: losses.collect(),
            agent_cores: short(node.agent_cores),
            agent_memory_bytes: node.cost.memory_bytes,
            map_bytes: node.cost.map_bytes,
            oom_kills: node.oom_kills.iter().map(|o| o.kills).sum(),
        }
    }
}

#[derive(Debug, Serialize)]
struct TenantRow<'a> {
    name: &'a str,
    namespaces: Vec<&'a str>,
    resolved_by: &'static str,
    pods: u32,
    used_cores: f64,
    entitled_cores: f64,
    quota_cores: Option<f64>,
    wait_cores: f64,
    stolen_cores: f64,
    taken_cores: f64,
    memory_bytes: Option<u64>,
    working_set_bytes: Option<u64>,
    requested_memory_bytes: u64,
    quota_memory_bytes: Option<u64>,
    quota_pods: Option<u64>,
    node_stall: Option<f64>,
    limit_stall: Option<f64>,
}

impl<'a> TenantRow<'a> {
    fn of(tenant: &'a TenantView) -> Self {
        Self {
            name: &tenant.name,
            namespaces: tenant.namespaces.iter().map(|n| &**n).collect(),
            resolved_by: tenant.resolved_by.as_str(),
            pods: tenant.pods,
            used_cores: short(tenant.used_cores),
            entitled_cores: short(tenant.entitled_cores),
            quota_cores: tenant.quota_cores,
            wait_cores: short(tenant.wait_cores),
            stolen_cores: short(tenant.stolen_cores),
            taken_cores: short(tenant.taken_cores),
            memory_bytes: tenant.memory_bytes,
            working_set_bytes: tenant.working_set_bytes,
            requested_memory_bytes: tenant.requested_memory_bytes,
            quota_memory_bytes: tenant.quota_memory_bytes,
            quota_pods: tenant.quota_pods,
            node_stall: tenant.node_stall.map(short),
            limit_stall: tenant.limit_stall.map(short),
        }
    }
}

/// Who waited while who ran. With 200 tenants there are 40,000 cells: they name their parties by number.
#[derive(Debug, Serialize)]
pub(super) struct Ledger<'a> {
    /// Tenants, and classes in angle brackets.
    parties: Vec<&'a str>,
    /// Waiter, runner, cores.
    cells: Vec<(usize, usize, f64)>,
}

impl<'a> Ledger<'a> {
    pub(super) fn of(cells: &'a [LedgerCell]) -> Self {
        let names = cells.iter().flat_map(|cell| [&*cell.waiter, &*cell.runner]);
        let mut numbers: BTreeMap<&str, usize> = names.map(|name| (name, 0)).collect();
        for (number, (_, at)) in numbers.iter_mut().enumerate() {
            *at = number;
        }
        let number = |name: &str| numbers.get(name).copied().unwrap_or_default();
        Self {
            cells: cells
                .iter()
                .filter(|cell| cell.cores > 0.0)
                .map(|cell| (number(&cell.waiter), number(&cell.runner), short(cell.cores)))
                .collect(),
            parties: numbers.keys().copied().collect(),
        }
    }
}

#[derive(Debug, Serialize)]
struct TrafficRow<'a> {
    from: &'a str,
    to: &'a str,
    verdict: &'static str,
    bytes: u64,
    packets: u64,
    connections: u64,
    bytes_per_second: f64,
}

impl<'a> TrafficRow<'a> {
    fn of(traffic: &'a TenantTraffic) -> Self {
        Self {
            from: &traffic.from,
            to: &traffic.to,
            verdict: traffic.verdict.as_str(),
            bytes: traffic.bytes,
            packets: traffic.packets,
            connections: traffic.connections,
            bytes_per_second: short(traffic.bytes_per_second),
        }
    }
}

#[derive(Debug, Serialize)]
struct UnattributedRow {
    reason: String,
    bytes: u64,
    bytes_per_second: f64,
}

#[derive(Debug, Serialize)]
struct FoldedRow<'a> {
    tenant: &'a str,
    bytes: u64,
    bytes_per_second: f64,
}

#[derive(Debug, Serialize)]
struct CulpritRow {
    tenant: String,
    pod: String,
    stolen_cores: f64,
    share: f64,
    over_request_bytes: Option<u64>,
    growth_bytes_per_second: Option<f64>,
}

#[derive(Debug, Serialize)]
pub(super) struct BreachRow {
    fingerprint: String,
    cluster: String,
    kind: &'static str,
    state: &'static str,
    tenant: String,
    against: String,
    node: String,
    subject: String,
    summary: String,
    since_unix_ms: u64,
    firing_unix_ms: u64,
    resolved_unix_ms: u64,
    evidence: Vec<(String, f64)>,
    culprits: Vec<CulpritRow>,
    covered: f64,
    confidence: Option<f64>,
}

impl From<&Breach> for BreachRow {
    fn from(breach: &Breach) -> Self {
        wire::breach(breach.clone()).into()
    }
}

/// As clients are told, and as the trail has it.
impl From<v1::Breach> for BreachRow {
    fn from(breach: v1::Breach) -> Self {
        let culprit = |c: v1::Culprit| CulpritRow {
            tenant: c.tenant,
            pod: c.pod,
            stolen_cores: short(c.stolen_cores),
            share: short(c.share),
            over_request_bytes: c.over_request_bytes,
            growth_bytes_per_second: c.growth_bytes_per_second.map(short),
        };
        let state = match breach.state() {
            v1::BreachState::Pending => BreachState::Pending,
            v1::BreachState::Resolved => BreachState::Resolved,
            v1::BreachState::Firing | v1::BreachState::Unspecified => BreachState::Firing,
        };
        Self {
            kind: wire::known_kind(breach.kind()).map_or("unknown", BreachKind::as_str),
            state: state.as_str(),
            fingerprint: breach.fingerprint,
            cluster: breach.cluster,
            tenant: breach.tenant,
            against: breach.against,
            node: breach.node,
            subject: breach.subject,
            summary: breach.summary,
            since_unix_ms: ms(breach.since_unix_ns),
            firing_unix_ms: ms(breach.firing_unix_ns),
            resolved_unix_ms: ms(breach.resolved_unix_ns),
            evidence: breach
                .evidence
                .into_iter()
                .map(|f| (f.name, short(f.value)))
                .collect(),
            culprits: breach.culprits.into_iter().map(culprit).collect(),
            covered: short(breach.covered),
            confidence: breach.confidence.map(short),
        }
    }
}

/// All clusters but their pods and flows.
pub(super) fn everything(state: &State) -> Result<Vec<u8>, Problem> {
    let mut losses = BTreeMap::new();
    let seen: Vec<_> = state
        .clusters()
        .map(|cluster| {
            let mut world = cluster.lock();
            let snapshot = world.snapshot_without_pods(cluster.now(), drop);
            for (key, count) in world.losses().iter() {
                let sum = losses.entry((key.stage, key.reason, key.unit)).or_insert(0u64);
                *sum = sum.saturating_add(count);
            }
            drop(world);
            (wire::cluster_view(cluster), snapshot)
        })
        .collect();
    to_json(&Everything {
        version: env!("CARGO_PKG_VERSION"),
        now_unix_ms: ms(unix_ns()),
        step_seconds: state.step_seconds(),
        clusters: seen.iter().map(|(view, snapshot)| part(view, snapshot)).collect(),
        losses: losses
            .into_iter()
            .map(|((stage, reason, unit), count)| LossRow {
                stage,
                reason,
                unit,
                count,
            })
            .collect(),
    })
}

fn part<'a>(view: &'a v1::ClusterView, snapshot: &'a Snapshot) -> ClusterPart<'a> {
    // What fires before what does not yet, the newest first.
    let mut breaches: Vec<&Breach> = snapshot.breaches.iter().collect();
    breaches.sort_by_key(|b| (b.firing_unix_ns == 0, std::cmp::Reverse(b.since_unix_ns)));
    let unattributed = snapshot.unattributed.iter().map(|u| UnattributedRow {
        reason: u.reason.to_string(),
        bytes: u.bytes,
        bytes_per_second: short(u.bytes_per_second),
    });
    let folded = snapshot.folded.iter().map(|f| FoldedRow {
        tenant: &f.tenant,
        bytes: f.bytes,
        bytes_per_second: short(f.bytes_per_second),
    });
    ClusterPart {
        name: &view.name,
        source: &view.source,
        synced: view.synced,
        age_seconds: view.age_ns.map(seconds),
        stale: view.stale,
        namespaces: view.namespaces,
        known_pods: view.pods,
        problems: &view.problems,
        judged_unix_ms: ms(snapshot.judged_unix_ns),
        window_seconds: seconds(snapshot.window_ns),
        nodes: snapshot.nodes.iter().map(NodeRow::of).collect(),
        tenants: snapshot.tenants.iter().map(TenantRow::of).collect(),
        ledger: Ledger::of(&snapshot.ledger),
        traffic: snapshot.traffic.iter().map(TrafficRow::of).collect(),
        unattributed: unattributed.collect(),
        folded: folded.collect(),
        breaches_left_out: breaches.len().saturating_sub(MOST_BREACHES),
        breaches: breaches
            .into_iter()
            .take(MOST_BREACHES)
            .map(BreachRow::from)
            .collect(),
    }
}
