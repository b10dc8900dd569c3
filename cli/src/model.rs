//! What the aggregator answered, in the form that is printed as JSON: the one home of every field name.
//!
//! Seconds and cores throughout, times as seconds since 1970. Names are made safe to print here, once.

use partywall_proto::v1;
use serde::{Serialize, Serializer};

use crate::flows::verdict;
use crate::text::clean;

/// Everything the aggregator knows, judged at one moment. `partywall top --json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Snapshot {
    pub judged_unix_seconds: f64,
    pub window_seconds: f64,
    pub nodes: Vec<Node>,
    pub tenants: Vec<Tenant>,
    pub pods: Vec<Pod>,
    pub ledger: Vec<LedgerCell>,
    pub breaches: Vec<Breach>,
    pub losses: Vec<Loss>,
    /// Between ends that both have a name.
    pub traffic: Vec<Traffic>,
    /// Of which an end has none.
    pub unattributed: Vec<Unattributed>,
    /// Without a flow of its own.
    pub folded: Vec<Folded>,
    pub clusters: Vec<Cluster>,
}

impl Snapshot {
    /// A name says whose it is only together with its cluster's.
    pub(crate) fn has_several_clusters(&self) -> bool {
        self.clusters.len() > 1
    }
}

/// Where the names and rules of a cluster come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Cluster {
    pub name: String,
    /// `api`, `files`, or `none`: nothing names its pods.
    pub source: String,
    /// Everything was read at least once.
    pub synced: bool,
    /// Since the source gave its last sign of life. Absent before the first.
    pub age_seconds: Option<f64>,
    /// Silent for longer than a source that works can be.
    pub stale: bool,
    pub namespaces: u64,
    pub pods: u64,
    pub problems: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Node {
    pub cluster: String,
    pub name: String,
    /// Empty where its Node object names none, or is not known.
    pub zone: String,
    pub region: String,
    /// An EKS hybrid node.
    pub hybrid: bool,
    pub online_cpus: u32,
    pub used_cores: f64,
    /// Since the last accepted report.
    pub age_seconds: f64,
    /// Its wall clock minus the aggregator's. Absent: its agent knows no time.
    pub clock_offset_seconds: Option<f64>,
    /// Share of the window that reports cover, 0 to 1.
    pub covered: f64,
    pub features: Vec<Feature>,
    pub losses: Vec<Loss>,
    /// Absent until the node's agent told.
    pub agent: Option<AgentCost>,
    /// Tasks killed because memory ran out, since the agent's start.
    pub oom_kills: Vec<OomKills>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct OomKills {
    /// The tenant whose task asked for memory when there was none.
    pub trigger: String,
    pub victim: String,
    pub scope: String,
    pub kills: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Feature {
    pub name: String,
    pub present: bool,
    pub reason: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Loss {
    pub stage: String,
    pub reason: String,
    pub unit: String,
    pub count: u64,
}

/// What a node's agent costs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct AgentCost {
    /// Over the window.
    pub used_cores: f64,
    pub memory_bytes: u64,
    pub memory_source: String,
    pub map_bytes: u64,
    pub programs: Vec<ProgramCost>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct ProgramCost {
    pub name: String,
    pub runs: u64,
    pub run_seconds: f64,
    /// Absent where the kernel keeps no run statistics.
    pub ns_per_run: Option<f64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Tenant {
    pub cluster: String,
    pub name: String,
    pub namespaces: Vec<String>,
    pub resolved_by: String,
    pub pods: u32,
    pub used_cores: f64,
    pub entitled_cores: f64,
    pub quota_cores: Option<f64>,
    pub wait_cores: f64,
    /// Others took it from this tenant.
    pub stolen_cores: f64,
    /// This tenant took it from others.
    pub taken_cores: f64,
    pub memory_bytes: Option<u64>,
    pub working_set_bytes: Option<u64>,
    pub requested_memory_bytes: u64,
    pub quota_memory_bytes: Option<u64>,
    pub quota_pods: Option<u64>,
    /// Reclaimed because the node ran low, in seconds per second.
    pub node_stall: Option<f64>,
    /// Because of limits of its own.
    pub limit_stall: Option<f64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Pod {
    pub cluster: String,
    pub tenant: String,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub node: String,
    pub used_cores: f64,
    pub entitled_cores: f64,
    pub wait_cores: f64,
    pub stolen_cores: f64,
    pub slowdown: Option<f64>,
    pub same_tenant_cores: f64,
    pub self_cores: f64,
    pub system_cores: f64,
    pub idle_cores: f64,
    pub throttled_cores: f64,
    pub steal_cores: f64,
    pub unresolved_cores: f64,
    pub unknown_cores: f64,
    pub wait_p50_seconds: Option<f64>,
    pub wait_p99_seconds: Option<f64>,
    pub requested_memory_bytes: u64,
    /// Absent where the node does not tell.
    pub memory: Option<Memory>,
}

/// A pod's memory. What its kernel does not offer is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Memory {
    pub current_bytes: Option<u64>,
    pub working_set_bytes: Option<u64>,
    pub limit_bytes: Option<u64>,
    /// Bytes per second; negative when it shrinks.
    pub growth_bytes_per_second: f64,
    /// Over the window, in seconds per second.
    pub node_stall: Option<f64>,
    pub limit_stall: Option<f64>,
    /// PSI over the window, 0 to 1.
    pub pressure_some: Option<f64>,
    pub pressure_full: Option<f64>,
    pub refaults_per_second: Option<f64>,
    // From here on: since the agent's start.
    pub major_faults: Option<u64>,
    pub refaults: Option<u64>,
    pub events: Option<MemoryEvents>,
    pub cpu_pressure: Option<Pressure>,
    pub memory_pressure: Option<Pressure>,
    pub io_pressure: Option<Pressure>,
    pub limit_reclaim: Option<Reclaim>,
    pub node_reclaim: Option<Reclaim>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct MemoryEvents {
    pub high: u64,
    pub max: u64,
    pub oom: u64,
    pub oom_kill: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Pressure {
    pub some_seconds: f64,
    pub full_seconds: Option<f64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Reclaim {
    pub stall_seconds: f64,
    pub pages: u64,
    pub times: u64,
}

impl Pod {
    /// `namespace/name`; what is no pod has a path for its name, a pod without a name its UID.
    pub(crate) fn label(&self) -> String {
        match (self.namespace.as_str(), self.uid.as_str()) {
            ("", "") => self.name.clone(),
            ("", uid) => format!("{} {uid}", self.name),
            (namespace, _) => format!("{namespace}/{}", self.name),
        }
    }
}

/// While `waiter` waited, `runner` ran.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct LedgerCell {
    pub cluster: String,
    pub waiter: String,
    /// A tenant, or a class: `<idle>`, `<steal>`, `<throttled>`, `<unresolved>`, `<unknown>`.
    pub runner: String,
    pub cores: f64,
}

/// One tenant's traffic with another, by verdict. Counts are since the aggregator's start, both ways.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Traffic {
    pub cluster: String,
    /// Who opened.
    pub from: String,
    pub to: String,
    pub verdict: String,
    pub bytes_per_second: f64,
    pub bytes: u64,
    pub packets: u64,
    pub connections: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Unattributed {
    pub cluster: String,
    /// Why an end cannot be named.
    pub reason: String,
    pub bytes_per_second: f64,
    pub bytes: u64,
    pub packets: u64,
}

/// Found no place among an agent's flows: with whom is not known.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Folded {
    pub cluster: String,
    /// Whose sockets it was on.
    pub tenant: String,
    pub bytes_per_second: f64,
    pub bytes: u64,
    pub packets: u64,
    pub connections: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Breach {
    pub fingerprint: String,
    pub cluster: String,
    pub kind: String,
    pub state: State,
    pub tenant: String,
    pub against: String,
    pub node: String,
    pub subject: String,
    pub summary: String,
    pub since_unix_seconds: f64,
    pub firing_unix_seconds: Option<f64>,
    pub resolved_unix_seconds: Option<f64>,
    #[serde(serialize_with = "as_object")]
    pub evidence: Vec<Figure>,
    pub culprits: Vec<Culprit>,
    pub covered: f64,
    /// How sure it is that the tenant is the cause, 0 to 1. Absent: measured.
    pub confidence: Option<f64>,
}

impl Breach {
    pub(crate) fn names(&self, tenant: &str) -> bool {
        self.tenant == tenant || self.against == tenant
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    // The order in which they are listed.
    Firing,
    Pending,
    Resolved,
    #[default]
    Unknown,
}

impl State {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Firing => "firing",
            Self::Pending => "pending",
            Self::Resolved => "resolved",
            Self::Unknown => "unknown",
        }
    }
}

/// The name carries the unit.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Figure {
    pub name: String,
    pub value: f64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Culprit {
    pub tenant: String,
    pub pod: String,
    pub stolen_cores: f64,
    /// Of all that was stolen from the victim, or of all memory above requests on the node; 0 to 1.
    pub share: f64,
    /// Of memory breaches.
    pub over_request_bytes: Option<u64>,
    pub growth_bytes_per_second: Option<f64>,
}

/// `{"stolen_cores": 0.62}`, in the aggregator's order.
fn as_object<S: Serializer>(figures: &[Figure], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(figures.iter().map(|figure| (&figure.name, figure.value)))
}

pub(crate) fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// Times come from the wall clock: milliseconds are all they are good for, and all that is printed.
pub(crate) fn unix_seconds(nanoseconds: u64) -> f64 {
    (nanoseconds / 1_000_000) as f64 / 1e3
}

fn unix_seconds_unless_zero(nanoseconds: u64) -> Option<f64> {
    (nanoseconds > 0).then(|| unix_seconds(nanoseconds))
}

fn all<T, U: From<T>>(items: Vec<T>) -> Vec<U> {
    items.into_iter().map(U::from).collect()
}

impl From<v1::Snapshot> for Snapshot {
    fn from(wire: v1::Snapshot) -> Self {
        Self {
            judged_unix_seconds: unix_seconds(wire.judged_unix_ns),
            window_seconds: seconds(wire.window_ns),
            nodes: all(wire.nodes),
            tenants: all(wire.tenants),
            pods: all(wire.pods),
            ledger: all(wire.ledger),
            breaches: all(wire.breaches),
            losses: all(wire.losses),
            traffic: all(wire.traffic),
            unattributed: all(wire.unattributed),
            folded: all(wire.folded),
            clusters: all(wire.clusters),
        }
    }
}

impl From<v1::ClusterView> for Cluster {
    fn from(wire: v1::ClusterView) -> Self {
        Self {
            name: clean(&wire.name),
            source: clean(&wire.source),
            synced: wire.synced,
            age_seconds: wire.age_ns.map(seconds),
            stale: wire.stale,
            namespaces: wire.namespaces,
            pods: wire.pods,
            problems: wire.problems.iter().map(|problem| clean(problem)).collect(),
        }
    }
}

impl From<v1::NodeView> for Node {
    fn from(wire: v1::NodeView) -> Self {
        let agent_cores = wire.agent_cores;
        Self {
            cluster: clean(&wire.cluster),
            name: clean(&wire.name),
            zone: clean(&wire.zone),
            region: clean(&wire.region),
            hybrid: wire.hybrid,
            online_cpus: wire.online_cpus,
            used_cores: wire.used_cores,
            age_seconds: seconds(wire.age_ns),
            clock_offset_seconds: wire.clock_offset_seconds,
            covered: wire.covered,
            features: all(wire.features),
            losses: all(wire.losses),
            agent: wire.cost.map(|cost| AgentCost {
                used_cores: agent_cores,
                memory_bytes: cost.memory_bytes,
                memory_source: clean(&cost.memory_source),
                map_bytes: cost.map_bytes,
                programs: all(cost.programs),
            }),
            oom_kills: all(wire.oom_kills),
        }
    }
}

impl From<v1::OomTotal> for OomKills {
    fn from(wire: v1::OomTotal) -> Self {
        Self {
            trigger: clean(&wire.trigger),
            victim: clean(&wire.victim),
            scope: clean(&wire.scope),
            kills: wire.kills,
        }
    }
}

impl From<v1::Feature> for Feature {
    fn from(wire: v1::Feature) -> Self {
        Self {
            name: clean(&wire.name),
            present: wire.present,
            reason: clean(&wire.reason),
        }
    }
}

impl From<v1::Loss> for Loss {
    fn from(wire: v1::Loss) -> Self {
        Self {
            stage: clean(&wire.stage),
            reason: clean(&wire.reason),
            unit: clean(&wire.unit),
            count: wire.count,
        }
    }
}

impl From<v1::ProgramCost> for ProgramCost {
    fn from(wire: v1::ProgramCost) -> Self {
        Self {
            name: clean(&wire.name),
            runs: wire.runs,
            run_seconds: seconds(wire.run_ns),
            ns_per_run: (wire.runs > 0 && wire.run_ns > 0).then(|| wire.run_ns as f64 / wire.runs as f64),
        }
    }
}

impl From<v1::TenantView> for Tenant {
    fn from(wire: v1::TenantView) -> Self {
        Self {
            cluster: clean(&wire.cluster),
            name: clean(&wire.name),
            namespaces: wire.namespaces.iter().map(|name| clean(name)).collect(),
            resolved_by: clean(&wire.resolved_by),
            pods: wire.pods,
            used_cores: wire.used_cores,
            entitled_cores: wire.entitled_cores,
            quota_cores: wire.quota_cores,
            wait_cores: wire.wait_cores,
            stolen_cores: wire.stolen_cores,
            taken_cores: wire.taken_cores,
            memory_bytes: wire.memory_bytes,
            working_set_bytes: wire.working_set_bytes,
            requested_memory_bytes: wire.requested_memory_bytes,
            quota_memory_bytes: wire.quota_memory_bytes,
            quota_pods: wire.quota_pods,
            node_stall: wire.node_stall,
            limit_stall: wire.limit_stall,
        }
    }
}

impl From<v1::PodView> for Pod {
    fn from(wire: v1::PodView) -> Self {
        Self {
            cluster: clean(&wire.cluster),
            tenant: clean(&wire.tenant),
            namespace: clean(&wire.namespace),
            name: clean(&wire.name),
            uid: clean(&wire.uid),
            node: clean(&wire.node),
            used_cores: wire.used_cores,
            entitled_cores: wire.entitled_cores,
            wait_cores: wire.wait_cores,
            stolen_cores: wire.stolen_cores,
            slowdown: wire.slowdown,
            same_tenant_cores: wire.same_tenant_cores,
            self_cores: wire.self_cores,
            system_cores: wire.system_cores,
            idle_cores: wire.idle_cores,
            throttled_cores: wire.throttled_cores,
            steal_cores: wire.steal_cores,
            unresolved_cores: wire.unresolved_cores,
            unknown_cores: wire.unknown_cores,
            wait_p50_seconds: wire.wait_p50_ns.map(seconds),
            wait_p99_seconds: wire.wait_p99_ns.map(seconds),
            requested_memory_bytes: wire.requested_memory_bytes,
            memory: wire.memory.map(Memory::from),
        }
    }
}

impl From<v1::PodMemory> for Memory {
    fn from(wire: v1::PodMemory) -> Self {
        let sample = wire.sample.unwrap_or_default();
        Self {
            current_bytes: sample.current_bytes,
            working_set_bytes: sample.working_set_bytes,
            limit_bytes: sample.limit_bytes,
            growth_bytes_per_second: wire.growth,
            // Zero where nothing was measured; whether it was, the sample says.
            node_stall: sample.node_reclaim.map(|_| wire.node_stall),
            limit_stall: sample.limit_reclaim.map(|_| wire.limit_stall),
            pressure_some: wire.pressure_some,
            pressure_full: wire.pressure_full,
            refaults_per_second: wire.refaults_per_second,
            major_faults: sample.major_faults,
            refaults: sample.refaults,
            events: sample.events.map(|events| MemoryEvents {
                high: events.high,
                max: events.max,
                oom: events.oom,
                oom_kill: events.oom_kill,
            }),
            cpu_pressure: sample.cpu_pressure.map(Pressure::from),
            memory_pressure: sample.memory_pressure.map(Pressure::from),
            io_pressure: sample.io_pressure.map(Pressure::from),
            limit_reclaim: sample.limit_reclaim.map(Reclaim::from),
            node_reclaim: sample.node_reclaim.map(Reclaim::from),
        }
    }
}

impl From<v1::Pressure> for Pressure {
    fn from(wire: v1::Pressure) -> Self {
        let seconds = |microseconds: u64| microseconds as f64 / 1e6;
        Self {
            some_seconds: seconds(wire.some_us),
            full_seconds: wire.full_us.map(seconds),
        }
    }
}

impl From<v1::Reclaim> for Reclaim {
    fn from(wire: v1::Reclaim) -> Self {
        Self {
            stall_seconds: seconds(wire.stall_ns),
            pages: wire.pages,
            times: wire.times,
        }
    }
}

impl From<v1::LedgerCell> for LedgerCell {
    fn from(wire: v1::LedgerCell) -> Self {
        Self {
            cluster: clean(&wire.cluster),
            waiter: clean(&wire.waiter),
            runner: clean(&wire.runner),
            cores: wire.cores,
        }
    }
}

impl From<v1::TenantTraffic> for Traffic {
    fn from(wire: v1::TenantTraffic) -> Self {
        Self {
            cluster: clean(&wire.cluster),
            from: clean(&wire.from),
            to: clean(&wire.to),
            verdict: verdict(wire.verdict),
            bytes_per_second: wire.bytes_per_second,
            bytes: wire.bytes,
            packets: wire.packets,
            connections: wire.connections,
        }
    }
}

impl From<v1::Unattributed> for Unattributed {
    fn from(wire: v1::Unattributed) -> Self {
        Self {
            cluster: clean(&wire.cluster),
            reason: clean(&wire.reason),
            bytes_per_second: wire.bytes_per_second,
            bytes: wire.bytes,
            packets: wire.packets,
        }
    }
}

/// On the wire it is traffic that names one end and no verdict.
impl From<v1::TenantTraffic> for Folded {
    fn from(wire: v1::TenantTraffic) -> Self {
        Self {
            cluster: clean(&wire.cluster),
            tenant: clean(&wire.from),
            bytes_per_second: wire.bytes_per_second,
            bytes: wire.bytes,
            packets: wire.packets,
            connections: wire.connections,
        }
    }
}

impl From<v1::Breach> for Breach {
    fn from(wire: v1::Breach) -> Self {
        Self {
            fingerprint: clean(&wire.fingerprint),
            cluster: clean(&wire.cluster),
            kind: kind(wire.kind),
            state: state(wire.state),
            tenant: clean(&wire.tenant),
            against: clean(&wire.against),
            node: clean(&wire.node),
            subject: clean(&wire.subject),
            summary: clean(&wire.summary),
            since_unix_seconds: unix_seconds(wire.since_unix_ns),
            firing_unix_seconds: unix_seconds_unless_zero(wire.firing_unix_ns),
            resolved_unix_seconds: unix_seconds_unless_zero(wire.resolved_unix_ns),
            evidence: wire
                .evidence
                .into_iter()
                .map(|figure| Figure {
                    name: clean(&figure.name),
                    value: figure.value,
                })
                .collect(),
            culprits: all(wire.culprits),
            covered: wire.covered,
            confidence: wire.confidence,
        }
    }
}

impl From<v1::Culprit> for Culprit {
    fn from(wire: v1::Culprit) -> Self {
        Self {
            tenant: clean(&wire.tenant),
            pod: clean(&wire.pod),
            stolen_cores: wire.stolen_cores,
            share: wire.share,
            over_request_bytes: wire.over_request_bytes,
            growth_bytes_per_second: wire.growth_bytes_per_second,
        }
    }
}

/// The kind as the documentation writes it. A kind that a newer aggregator knows and we don't keeps its number.
pub(crate) fn kind(number: i32) -> String {
    match v1::BreachKind::try_from(number) {
        Ok(v1::BreachKind::NoisyNeighbour) => "NoisyNeighbour".to_owned(),
        Ok(v1::BreachKind::NodeOvercommitted) => "NodeOvercommitted".to_owned(),
        Ok(v1::BreachKind::SystemNoise) => "SystemNoise".to_owned(),
        Ok(v1::BreachKind::QuotaNear) => "QuotaNear".to_owned(),
        Ok(v1::BreachKind::QuotaExceeded) => "QuotaExceeded".to_owned(),
        Ok(v1::BreachKind::MemorySqueeze) => "MemorySqueeze".to_owned(),
        Ok(v1::BreachKind::CrossTenantOom) => "CrossTenantOom".to_owned(),
        Ok(v1::BreachKind::LimitRangeExceeded) => "LimitRangeExceeded".to_owned(),
        Ok(v1::BreachKind::FlatNetwork) => "FlatNetwork".to_owned(),
        Ok(v1::BreachKind::FenceLeak) => "FenceLeak".to_owned(),
        Ok(v1::BreachKind::Probe) => "Probe".to_owned(),
        Ok(v1::BreachKind::CredentialReach) => "CredentialReach".to_owned(),
        Ok(v1::BreachKind::Unspecified) | Err(_) => format!("Unknown({number})"),
    }
}

fn state(number: i32) -> State {
    match v1::BreachState::try_from(number) {
        Ok(v1::BreachState::Pending) => State::Pending,
        Ok(v1::BreachState::Firing) => State::Firing,
        Ok(v1::BreachState::Resolved) => State::Resolved,
        Ok(v1::BreachState::Unspecified) | Err(_) => State::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn the_json_shape_is_locked() {
        let mut text = serde_json::to_string_pretty(&sample::snapshot()).expect("JSON");
        text.push('\n');
        sample::golden("snapshot.json", &text);
    }

    #[test]
    fn names_are_safe_everywhere() {
        let hostile = "x\u{1b}]0;\u{7}";
        let wire = v1::Snapshot {
            nodes: vec![v1::NodeView {
                cluster: hostile.into(),
                zone: hostile.into(),
                region: hostile.into(),
                name: hostile.into(),
                features: vec![v1::Feature {
                    name: hostile.into(),
                    present: false,
                    reason: hostile.into(),
                }],
                losses: vec![v1::Loss {
                    stage: hostile.into(),
                    reason: hostile.into(),
                    unit: hostile.into(),
                    count: 1,
                }],
                cost: Some(v1::AgentCost {
                    memory_source: hostile.into(),
                    programs: vec![v1::ProgramCost {
                        name: hostile.into(),
                        ..Default::default()
                    }],
                    ..Default::default()
                }),
                oom_kills: vec![v1::OomTotal {
                    trigger: hostile.into(),
                    victim: hostile.into(),
                    scope: hostile.into(),
                    kills: 1,
                }],
                ..Default::default()
            }],
            tenants: vec![v1::TenantView {
                cluster: hostile.into(),
                name: hostile.into(),
                namespaces: vec![hostile.into()],
                resolved_by: hostile.into(),
                ..Default::default()
            }],
            pods: vec![v1::PodView {
                cluster: hostile.into(),
                tenant: hostile.into(),
                namespace: hostile.into(),
                name: hostile.into(),
                uid: hostile.into(),
                node: hostile.into(),
                ..Default::default()
            }],
            ledger: vec![v1::LedgerCell {
                cluster: hostile.into(),
                waiter: hostile.into(),
                runner: hostile.into(),
                cores: 1.0,
            }],
            breaches: vec![v1::Breach {
                cluster: hostile.into(),
                fingerprint: hostile.into(),
                tenant: hostile.into(),
                against: hostile.into(),
                node: hostile.into(),
                subject: hostile.into(),
                summary: hostile.into(),
                evidence: vec![v1::Figure {
                    name: hostile.into(),
                    value: 1.0,
                }],
                culprits: vec![v1::Culprit {
                    tenant: hostile.into(),
                    pod: hostile.into(),
                    ..Default::default()
                }],
                ..Default::default()
            }],
            traffic: vec![v1::TenantTraffic {
                cluster: hostile.into(),
                from: hostile.into(),
                to: hostile.into(),
                ..Default::default()
            }],
            unattributed: vec![v1::Unattributed {
                cluster: hostile.into(),
                reason: hostile.into(),
                ..Default::default()
            }],
            folded: vec![v1::TenantTraffic {
                cluster: hostile.into(),
                from: hostile.into(),
                ..Default::default()
            }],
            clusters: vec![v1::ClusterView {
                name: hostile.into(),
                source: hostile.into(),
                problems: vec![hostile.into()],
                ..Default::default()
            }],
            ..Default::default()
        };
        let printed = format!("{:?}", Snapshot::from(wire));
        // Debug writes a control character as \\u{1b}, and the backslash of one that was spelled out as \\\\u{1b}.
        assert_eq!(printed.matches("\\\\u{1b}").count(), 47);
        assert_eq!(printed.matches("\\u{1b}").count(), 47);
    }

    #[test]
    fn what_a_newer_aggregator_says_is_kept() {
        assert_eq!(kind(77), "Unknown(77)");
        assert_eq!(state(77), State::Unknown);
        for known in 1..=12 {
            assert!(!kind(known).starts_with("Unknown"), "{known}");
        }
    }
}
