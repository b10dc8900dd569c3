//! Everything known at one moment, for clients and exporters. Rates are over the long window.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::breach::Breach;
use crate::identity::{Directory, NodeObject, ResolvedBy, Resource, Tenants, UNKNOWN};
use crate::judge::display;
use crate::node::memory::Memory;
use crate::node::{Node, Window};
use crate::policy::Policy;
use crate::report::{AgentCost, Feature, Loss, MemorySample, OomScope, WAIT_BUCKETS, wait_bucket_edge_ns};
use crate::sums::{Party, Unit, UnitSums, Who};
use crate::traffic::{FoldedView, TenantTraffic, UnattributedView};

/// Shown in place of tenants that are gone, where there was no room for each.
pub const GONE: &str = "<gone>";
/// Runner classes of a [`LedgerCell`] that are no tenant.
pub const CLASSES: [&str; 5] = ["<idle>", "<steal>", "<throttled>", "<unresolved>", UNKNOWN];

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    pub judged_unix_ns: u64,
    pub window_ns: u64,
    pub nodes: Vec<NodeView>,
    pub tenants: Vec<TenantView>,
    pub pods: Vec<PodView>,
    pub ledger: Vec<LedgerCell>,
    pub breaches: Vec<Breach>,
    /// Of the whole cluster, cumulative since the aggregator's start.
    pub traffic: Vec<TenantTraffic>,
    pub unattributed: Vec<UnattributedView>,
    pub folded: Vec<FoldedView>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeView {
    pub name: Arc<str>,
    /// Of its Node object; empty where that names none.
    pub zone: String,
    pub region: String,
    /// An EKS hybrid node.
    pub hybrid: bool,
    pub online_cpus: u32,
    pub used_cores: f64,
    pub age_ns: u64,
    /// How far its wall clock is ahead of the aggregator's; `None`: not known.
    pub clock_offset_ns: Option<i64>,
    pub covered: f64,
    pub features: Vec<Feature>,
    pub losses: Vec<Loss>,
    pub cost: AgentCost,
    pub agent_cores: f64,
    /// Reports by outcome, and agent runs, since the node was first seen.
    pub accepted: u64,
    pub duplicates: u64,
    pub refused: u64,
    pub runs: u64,
    /// Entities with counters and ledger pairs held.
    pub entities: usize,
    pub pairs: usize,
    /// Since the agent's start.
    pub oom_kills: Vec<OomTotal>,
}

/// OOM kills of one kind on one node.
#[derive(Clone, Debug, PartialEq)]
pub struct OomTotal {
    pub trigger: Arc<str>,
    pub victim: Arc<str>,
    pub scope: OomScope,
    pub kills: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TenantView {
    pub name: Arc<str>,
    pub namespaces: Vec<Arc<str>>,
    pub resolved_by: ResolvedBy,
    pub pods: u32,
    pub used_cores: f64,
    pub entitled_cores: f64,
    pub quota_cores: Option<f64>,
    pub wait_cores: f64,
    pub stolen_cores: f64,
    pub taken_cores: f64,
    /// Sums over its pods that live, as far as nodes tell.
    pub memory_bytes: Option<u64>,
    pub working_set_bytes: Option<u64>,
    pub requested_memory_bytes: u64,
    pub quota_memory_bytes: Option<u64>,
    pub quota_pods: Option<u64>,
    /// Seconds per second.
    pub node_stall: Option<f64>,
    pub limit_stall: Option<f64>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct PodView {
    pub tenant: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// Empty for what is no pod.
    pub uid: Arc<str>,
    pub node: Arc<str>,
    pub used_cores: f64,
    pub entitled_cores: f64,
    pub wait_cores: f64,
    pub stolen_cores: f64,
    /// 1 when nothing was stolen; absent when it did not run at all.
    pub slowdown: Option<f64>,
    pub same_tenant_cores: f64,
    pub self_cores: f64,
    pub system_cores: f64,
    pub idle_cores: f64,
    pub throttled_cores: f64,
    pub steal_cores: f64,
    pub unresolved_cores: f64,
    pub unknown_cores: f64,
    pub wait_p50_ns: Option<u64>,
    pub wait_p99_ns: Option<u64>,
    /// Of a pod that lives, where its node tells.
    pub memory: Option<PodMemory>,
    pub requested_memory_bytes: u64,
}

impl PodView {
    /// Of a list.
    pub fn order(&self) -> [&Arc<str>; 5] {
        [&self.tenant, &self.namespace, &self.name, &self.node, &self.uid]
    }
}

/// A pod's memory now, and over the window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PodMemory {
    pub sample: MemorySample,
    /// Seconds per second.
    pub limit_stall: Option<f64>,
    pub node_stall: Option<f64>,
    pub pressure_some: Option<f64>,
    pub pressure_full: Option<f64>,
    pub refaults_per_second: Option<f64>,
    /// Bytes per second.
    pub growth: f64,
}

/// While `waiter` waited, `runner` ran.
#[derive(Clone, Debug, PartialEq)]
pub struct LedgerCell {
    pub waiter: Arc<str>,
    pub runner: Arc<str>,
    pub cores: f64,
}

/// A cumulative ledger cell of one node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LedgerTotal<'a> {
    pub node: &'a Arc<str>,
    pub waiter: &'a Arc<str>,
    pub runner: &'a Arc<str>,
    pub ns: u64,
}

/// The cumulative ledger of all nodes. A large cluster's has hundreds of thousands of cells, so names stand apart from them.
#[derive(Clone, Debug)]
pub struct LedgerTotals {
    nodes: Vec<(Arc<str>, Vec<Cell>)>,
    tenants: Tenants,
    /// Of parties that are no tenant.
    classes: BTreeMap<Party, Arc<str>>,
}

/// Waiter, runner, nanoseconds.
type Cell = ((Party, Party), u64);

impl LedgerTotals {
    pub(crate) fn new<'a>(nodes: impl Iterator<Item = &'a Node>, directory: &Directory) -> Self {
        let cells = |node: &Node| node.totals.ledger_ns.iter().map(|(k, ns)| (*k, *ns)).collect();
        let classes = [
            Party::IDLE,
            Party::STEAL,
            Party::THROTTLED,
            Party::UNRESOLVED,
            Party::UNKNOWN,
            Party::GONE,
        ];
        Self {
            nodes: nodes.map(|n| (Arc::clone(&n.name), cells(n))).collect(),
            tenants: directory.tenants.clone(),
            classes: classes.map(|party| (party, party_name(party, directory))).into(),
        }
    }

    fn name(&self, party: Party) -> &Arc<str> {
        match party.tenant() {
            Some(tenant) => self.tenants.name(tenant),
            None => &self.classes[&party],
        }
    }

    pub fn cells(&self) -> impl Iterator<Item = LedgerTotal<'_>> {
        self.nodes.iter().flat_map(move |(node, cells)| {
            cells.iter().map(move |((waiter, runner), ns)| LedgerTotal {
                node,
                waiter: self.name(*waiter),
                runner: self.name(*runner),
                ns: *ns,
            })
        })
    }
}

/// A tenant's cumulative CPU time on one node.
#[derive(Clone, Debug, PartialEq)]
pub struct RunTotal {
    pub node: Arc<str>,
    pub tenant: Arc<str>,
    pub ns: u64,
}

/// A tenant's cumulative waits by length, over all nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WaitTotal {
    pub buckets: [u64; WAIT_BUCKETS],
    pub wait_ns: u64,
}

impl WaitTotal {
    /// As many of each length as `buckets` says, from the shortest on.
    pub(crate) fn add(&mut self, buckets: &[u64], wait_ns: u64) {
        for (sum, n) in self.buckets.iter_mut().zip(buckets) {
            *sum = sum.saturating_add(*n);
        }
        self.wait_ns = self.wait_ns.saturating_add(wait_ns);
    }
}

/// The party of that name.
pub(crate) fn party_named(name: &str, tenants: &mut Tenants) -> Party {
    match name {
        _ if name == CLASSES[0] => Party::IDLE,
        _ if name == CLASSES[1] => Party::STEAL,
        _ if name == CLASSES[2] => Party::THROTTLED,
        _ if name == CLASSES[3] => Party::UNRESOLVED,
        UNKNOWN => Party::UNKNOWN,
        GONE => Party::GONE,
        name => tenants.id(name).into(),
    }
}

pub(crate) fn party_name(party: Party, directory: &Directory) -> Arc<str> {
    match party {
        Party::IDLE => Arc::from(CLASSES[0]),
        Party::STEAL => Arc::from(CLASSES[1]),
        Party::THROTTLED => Arc::from(CLASSES[2]),
        Party::UNRESOLVED => Arc::from(CLASSES[3]),
        Party::GONE => Arc::from(GONE),
        party => party
            .tenant()
            .map_or_else(|| Arc::from(UNKNOWN), |t| Arc::clone(directory.tenants.name(t))),
    }
}

/// Gathers nodes into a snapshot.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    out: Snapshot,
    tenants: BTreeMap<Party, TenantView>,
    cells: BTreeMap<(Party, Party), f64>,
}

impl Builder {
    /// `each` is told of the node's pods.
    pub(crate) fn add(
        &mut self,
        node: &Node,
        directory: &Directory,
        policy: &Policy,
        now_mono_ns: u64,
        each: &mut impl FnMut(PodView),
    ) {
        let window_ns = node.window_ns(Window::Long);
        let per = |ns: u64| {
            if window_ns == 0 {
                0.0
            } else {
                ns as f64 / window_ns as f64
            }
        };
        let sums = node.sums();
        let memories = node.memories();
        let waits = waits(node);
        let mut used_ns = 0u64;
        for (at, ((unit, sums), waits)) in node.units.iter().zip(&sums).zip(&waits).enumerate() {
            let s = &sums[Window::Long as usize];
            used_ns = used_ns.saturating_add(s.run);
            let mut pod = pod_view(node, unit, s, waits, directory, per);
            let lives = memories.get(&(at as u32));
            pod.memory = lives.copied().flatten().map(|m| pod_memory(node, m));
            let tenant = self
                .tenants
                .entry(unit.party)
                .or_insert_with(|| empty(unit, directory));
            tenant.pods += u32::from(matches!(
                unit.who,
                Who::Pod(_) | Who::Path { .. } | Who::Unidentified(_)
            ));
            tenant.used_cores += pod.used_cores;
            tenant.entitled_cores += if window_ns == 0 {
                pod.entitled_cores
            } else {
                pod.entitled_cores * (s.life as f64 / window_ns as f64)
            };
            tenant.wait_cores += pod.wait_cores;
            tenant.stolen_cores += pod.stolen_cores;
            if lives.is_some() {
                let sum = &mut tenant.requested_memory_bytes;
                *sum = sum.saturating_add(pod.requested_memory_bytes);
            }
            if let Some(memory) = &pod.memory {
                let bytes = |sum: &mut Option<u64>, n: Option<u64>| {
                    *sum = n.map_or(*sum, |n| Some(sum.unwrap_or(0).saturating_add(n)));
                };
                bytes(&mut tenant.memory_bytes, memory.sample.current_bytes);
                bytes(&mut tenant.working_set_bytes, memory.sample.working_set_bytes);
                let share = |sum: &mut Option<f64>, n: Option<f64>| {
                    *sum = n.map_or(*sum, |n| Some(sum.unwrap_or(0.0) + n));
                };
                share(&mut tenant.node_stall, memory.node_stall);
                share(&mut tenant.limit_stall, memory.limit_stall);
            }
            each(pod);
        }
        for ((waiter, runner), ns) in node.ledger() {
            *self.cells.entry((waiter, runner)).or_default() += per(ns);
        }
        let object = directory.node(&node.name);
        let label = |label: fn(&NodeObject) -> &Option<String>| {
            object.and_then(|o| label(o).clone()).unwrap_or_default()
        };
        self.out.nodes.push(NodeView {
            name: Arc::clone(&node.name),
            zone: label(|o| &o.zone),
            region: label(|o| &o.region),
            hybrid: object.is_some_and(|o| o.hybrid),
            online_cpus: node.online_cpus,
            used_cores: per(used_ns),
            age_ns: now_mono_ns.saturating_sub(node.received_ns),
            clock_offset_ns: node.clock_offset_ns,
            covered: node.covered(&policy.thresholds),
            features: node.coverage.features.clone(),
            losses: node.coverage.losses.clone(),
            cost: node.cost.clone(),
            agent_cores: node.agent_cores(),
            accepted: node.totals.reports,
            duplicates: node.totals.duplicates,
            refused: node.totals.refused,
            runs: node.totals.runs,
            entities: node.slots().count(),
            pairs: node.slots().map(|s| s.pairs.len()).sum(),
            oom_kills: node
                .kills
                .sums
                .iter()
                .map(|((trigger, victim, scope), kills)| OomTotal {
                    trigger: party_name(*trigger, directory),
                    victim: party_name(*victim, directory),
                    scope: *scope,
                    kills: *kills,
                })
                .collect(),
        });
    }

    pub(crate) fn finish(mut self, directory: &Directory, all_tenants: bool) -> Snapshot {
        for (namespace, tenant, by) in directory.namespaces() {
            let party = Party::from(tenant);
            if all_tenants {
                self.tenants
                    .entry(party)
                    .or_insert_with(|| tenant_view(party, by, directory));
            }
            if let Some(view) = self.tenants.get_mut(&party) {
                // Of the first namespace; a path rule says "path" only where there is none.
                if view.namespaces.is_empty() {
                    view.resolved_by = by;
                }
                view.namespaces.push(Arc::clone(namespace));
            }
        }
        for ((waiter, runner), cores) in &self.cells {
            if waiter.is_named()
                && runner.is_named()
                && waiter != runner
                && let Some(view) = self.tenants.get_mut(runner)
            {
                view.taken_cores += cores;
            }
        }
        self.out.tenants = self.tenants.into_values().collect();
        self.out.tenants.sort_by(|a, b| a.name.cmp(&b.name));
        self.out.ledger = self
            .cells
            .into_iter()
            .map(|((waiter, runner), cores)| LedgerCell {
                waiter: party_name(waiter, directory),
                runner: party_name(runner, directory),
                cores,
            })
            .collect();
        self.out
            .ledger
            .sort_by(|a, b| (&a.waiter, &a.runner).cmp(&(&b.waiter, &b.runner)));
        self.out
    }
}

fn empty(unit: &Unit, directory: &Directory) -> TenantView {
    let by = match unit.who {
        Who::Path { .. } => ResolvedBy::Path,
        _ if unit.party == Party::SYSTEM => ResolvedBy::System,
        _ if unit.party.tenant().is_none() => ResolvedBy::Unknown,
        _ => ResolvedBy::Namespace,
    };
    tenant_view(unit.party, by, directory)
}

fn tenant_view(party: Party, resolved_by: ResolvedBy, directory: &Directory) -> TenantView {
    let quota = |r: Resource| Some(directory.quota(party.tenant()?, r)?.amount);
    TenantView {
        name: party_name(party, directory),
        namespaces: Vec::new(),
        resolved_by,
        pods: 0,
        used_cores: 0.0,
        entitled_cores: 0.0,
        quota_cores: quota(Resource::Cpu),
        wait_cores: 0.0,
        stolen_cores: 0.0,
        taken_cores: 0.0,
        memory_bytes: None,
        working_set_bytes: None,
        requested_memory_bytes: 0,
        quota_memory_bytes: quota(Resource::Memory).map(|n| n as u64),
        quota_pods: quota(Resource::Pods).map(|n| n as u64),
        node_stall: None,
        limit_stall: None,
    }
}

fn pod_memory(node: &Node, memory: &Memory) -> PodMemory {
    let seen_ns = node.window_ns(Window::Long);
    // Nothing of the window was seen: what is known now, and no change of it.
    let from_ns = node.window_from_ns(Window::Long);
    let rates = memory.rates(from_ns, seen_ns.max(1));
    PodMemory {
        sample: memory.newest,
        limit_stall: rates.limit_stall,
        node_stall: rates.node_stall,
        pressure_some: rates.some,
        pressure_full: rates.full,
        refaults_per_second: rates.refaults,
        growth: rates.growth,
    }
}

/// How long each unit's tasks waited, by its place.
fn waits(node: &Node) -> Vec<[u64; WAIT_BUCKETS]> {
    let mut waits = vec![[0u64; WAIT_BUCKETS]; node.units.len()];
    for slot in node.slots() {
        if let (Some(sums), Some(hist)) = (waits.get_mut(slot.unit as usize), &slot.hist) {
            for (sum, n) in sums.iter_mut().zip(hist.sum) {
                *sum = sum.saturating_add(n);
            }
        }
    }
    waits
}

fn pod_view(
    node: &Node,
    unit: &Unit,
    s: &UnitSums,
    waits: &[u64; WAIT_BUCKETS],
    directory: &Directory,
    per: impl Fn(u64) -> f64,
) -> PodView {
    let none: Arc<str> = Arc::from("");
    let (namespace, name, uid) = match &unit.who {
        Who::Pod(p) => (Arc::clone(&p.namespace), Arc::clone(&p.name), Arc::clone(&p.uid)),
        Who::Path { name } => (none.clone(), Arc::clone(name), none),
        Who::Unidentified(uid) => (none, Arc::from("<unidentified>"), Arc::clone(uid)),
        Who::Foreign(uid) => (none, Arc::from("<foreign>"), Arc::clone(uid)),
        Who::Host(_) | Who::Unknown(_) => (none.clone(), Arc::from(display(unit, &directory.tenants)), none),
    };
    PodView {
        tenant: party_name(unit.party, directory),
        namespace,
        name,
        uid,
        node: Arc::clone(&node.name),
        used_cores: per(s.run),
        entitled_cores: unit.entitled_ncores as f64 / 1e9,
        wait_cores: per(s.wait),
        stolen_cores: per(s.stolen),
        slowdown: if s.stolen == 0 {
            Some(1.0)
        } else {
            s.slowdown(s.stolen)
        },
        same_tenant_cores: per(s.same_tenant),
        self_cores: per(s.itself),
        system_cores: per(s.system),
        idle_cores: per(s.idle),
        throttled_cores: per(s.throttled),
        steal_cores: per(s.steal),
        unresolved_cores: per(s.unresolved),
        unknown_cores: per(s.unknown),
        wait_p50_ns: quantile(waits, 0.50),
        wait_p99_ns: quantile(waits, 0.99),
        memory: None,
        requested_memory_bytes: unit.requested_bytes,
    }
}

/// The upper edge of the bucket in which the quantile lies; absent without waits.
fn quantile(buckets: &[u64; WAIT_BUCKETS], q: f64) -> Option<u64> {
    let count: u64 = buckets.iter().fold(0, |sum, n| sum.saturating_add(*n));
    if count == 0 {
        return None;
    }
    let rank = ((count as f64 * q).ceil() as u64).max(1);
    let mut seen = 0u64;
    let at = buckets.iter().position(|n| {
        seen = seen.saturating_add(*n);
        seen >= rank
    });
    Some(wait_bucket_edge_ns(at.unwrap_or(WAIT_BUCKETS - 1)))
}
