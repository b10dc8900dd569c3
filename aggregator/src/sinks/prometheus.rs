//! The Prometheus exporter: everything is computed from one snapshot when it is asked for.
//!
//! How many series there can be is in docs/metrics.md, whose tables a test holds against a scrape.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use partywall_aggregator_core::breach::BreachKind;
use partywall_aggregator_core::losses::Losses;
use partywall_aggregator_core::report::{WAIT_BUCKETS, wait_bucket_edge_ns};
use partywall_aggregator_core::snapshot::{
    CLASSES, GONE, LedgerTotal, NodeView, OomTotal, RunTotal, Snapshot, TenantView, WaitTotal,
};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::fold::{Fold, Key, OTHER};
use super::out::Out;
use super::{flows, pods};
use crate::state::State;

/// Series of a tenant that are always there: 11 gauges, and a histogram of 16 buckets, sum and count.
const FIXED_PER_TENANT: usize = 11 + WAIT_BUCKETS + 2;
/// Series of live breaches.
const MAX_BREACH_SERIES: usize = 2_000;

/// Answers scrapes.
#[derive(Debug)]
pub struct Exporter {
    registry: Registry,
}

impl Exporter {
    pub fn new(state: Arc<State>, max_series_per_tenant: usize, max_tenants: usize) -> Self {
        let mut registry = Registry::with_prefix("partywall");
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("aggregator_build", "The aggregator's version", build);
        let fold = Fold::new(
            max_series_per_tenant.saturating_sub(FIXED_PER_TENANT),
            max_tenants,
        );
        // As much room again for pods.
        let pods = Fold::new(
            max_series_per_tenant.saturating_sub(pods::SERIES_OTHER) / pods::SERIES,
            max_tenants,
        );
        // Half as much for traffic.
        let traffic = Fold::new(max_series_per_tenant / 2 / flows::SERIES, max_tenants);
        registry.register_collector(Box::new(Scrape {
            state,
            folds: Mutex::new([fold, pods, traffic]),
        }));
        Self { registry }
    }

    /// OpenMetrics text.
    ///
    /// # Errors
    /// None in practice: writing to a string does not fail.
    pub fn scrape(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[derive(Debug)]
struct Scrape {
    state: Arc<State>,
    /// Of tenants, of pods, of traffic.
    folds: Mutex<[Fold; 3]>,
}

/// The world at one moment.
struct Moment {
    snapshot: Snapshot,
    run: Vec<RunTotal>,
    ledger: Vec<LedgerTotal>,
    waits: Vec<(Arc<str>, WaitTotal)>,
    losses: Losses,
    flow_records: usize,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let moment = {
            let mut world = self.state.lock();
            Moment {
                snapshot: world.snapshot("", false, self.state.now()),
                run: world.run_totals(),
                ledger: world.ledger_totals(),
                waits: world.wait_totals(),
                losses: world.losses().clone(),
                flow_records: world.flow_records(),
            }
        };
        let mut folds = self.folds.lock().unwrap_or_else(PoisonError::into_inner);
        let [fold, of_pods, of_traffic] = &mut *folds;
        let names = choose(fold, &moment);
        pods::choose(of_pods, &names, &moment.snapshot);
        flows::choose(of_traffic, &names, &moment.snapshot);
        let mut out = Out::new(encoder);
        let folded = tenants(&mut out, fold, &moment)?
            + pods::write(&mut out, of_pods, &moment.snapshot)?
            + flows::write(&mut out, of_traffic, &moment.snapshot)?
            + oom_kills(&mut out, fold, &moment.snapshot.nodes)?;
        drop(folds);
        breaches(&mut out, &moment.snapshot)?;
        nodes(&mut out, &moment.snapshot.nodes)?;
        own(&mut out, &self.state, &moment)?;
        out.gauge(
            "aggregator_series_folded",
            "Series summed in ~other at this scrape instead of being published",
            folded as u64,
        )?;
        let series = out.series() as u64 + 1;
        out.gauge("aggregator_series", "Series in this scrape", series)
    }
}

fn is_class(runner: &str) -> bool {
    CLASSES.contains(&runner)
}

fn of_nodes(nodes: &[NodeView]) -> impl Iterator<Item = (&NodeView, &OomTotal)> {
    nodes.iter().flat_map(|n| n.oom_kills.iter().map(move |o| (n, o)))
}

fn oom_key(node: &NodeView, kills: &OomTotal) -> Key {
    Key::Oom {
        node: Arc::clone(&node.name),
        trigger: Arc::clone(&kills.trigger),
        scope: kills.scope.as_str(),
    }
}

/// Returns all tenants there are.
fn choose(fold: &mut Fold, moment: &Moment) -> BTreeSet<Arc<str>> {
    let mut names: BTreeSet<Arc<str>> = moment
        .snapshot
        .tenants
        .iter()
        .map(|t| Arc::clone(&t.name))
        .collect();
    names.extend(moment.run.iter().map(|r| Arc::clone(&r.tenant)));
    names.extend(moment.waits.iter().map(|(t, _)| Arc::clone(t)));
    for cell in &moment.ledger {
        names.insert(Arc::clone(&cell.waiter));
        if !is_class(&cell.runner) {
            names.insert(Arc::clone(&cell.runner));
        }
    }
    for (_, kills) in of_nodes(&moment.snapshot.nodes) {
        names.insert(Arc::clone(&kills.victim));
        if !is_class(&kills.trigger) {
            names.insert(Arc::clone(&kills.trigger));
        }
    }
    for traffic in &moment.snapshot.traffic {
        names.insert(Arc::clone(&traffic.from));
        names.insert(Arc::clone(&traffic.to));
    }
    // Who is in it is not known any more: its sums go on in `~other`.
    names.remove(GONE);
    names.extend(moment.snapshot.folded.iter().map(|f| Arc::clone(&f.tenant)));
    let run = moment.run.iter().map(|r| {
        (
            Arc::clone(&r.tenant),
            Key::Cpu {
                node: Arc::clone(&r.node),
            },
            r.ns,
        )
    });
    let ledger = moment.ledger.iter().map(|c| {
        (
            Arc::clone(&c.waiter),
            Key::Wait {
                node: Arc::clone(&c.node),
                runner: Arc::clone(&c.runner),
            },
            c.ns,
        )
    });
    let kills = of_nodes(&moment.snapshot.nodes)
        .map(|(node, kills)| (Arc::clone(&kills.victim), oom_key(node, kills), kills.kills));
    fold.choose(&names, run.chain(ledger).chain(kills).collect());
    names
}

/// Returns how many series were folded.
fn tenants(out: &mut Out<'_>, fold: &Fold, moment: &Moment) -> Result<usize, fmt::Error> {
    let mut views: BTreeMap<Arc<str>, TenantView> = BTreeMap::new();
    let mut folded = 0;
    for view in &moment.snapshot.tenants {
        let name = fold.tenant(&view.name);
        match views.get_mut(&name) {
            None => {
                views.insert(Arc::clone(&name), TenantView { name, ..view.clone() });
            }
            Some(sum) => {
                folded += 1;
                sum.pods += view.pods;
                sum.used_cores += view.used_cores;
                sum.entitled_cores += view.entitled_cores;
                sum.stolen_cores += view.stolen_cores;
                sum.taken_cores += view.taken_cores;
                // Quotas of several tenants say nothing in sum where one of them has none.
                sum.quota_cores = sum.quota_cores.zip(view.quota_cores).map(|(a, b)| a + b);
                let both = |a: Option<u64>, b: Option<u64>| a.zip(b).map(|(a, b)| a.saturating_add(b));
                sum.quota_memory_bytes = both(sum.quota_memory_bytes, view.quota_memory_bytes);
                sum.quota_pods = both(sum.quota_pods, view.quota_pods);
                let told = |a: Option<u64>, b: Option<u64>| both(a, b).or(a).or(b);
                sum.memory_bytes = told(sum.memory_bytes, view.memory_bytes);
                sum.working_set_bytes = told(sum.working_set_bytes, view.working_set_bytes);
                sum.requested_memory_bytes = sum
                    .requested_memory_bytes
                    .saturating_add(view.requested_memory_bytes);
            }
        }
    }
    let gauge =
        |value: fn(&TenantView) -> f64| views.values().map(move |v| ([("tenant", &*v.name)], value(v)));
    out.gauges(
        "tenant_used_cores",
        "CPU that the tenant's pods use, mean over the window",
        gauge(|v| v.used_cores),
    )?;
    out.gauges(
        "tenant_entitled_cores",
        "CPU that the tenant's running pods were promised: the sum of their requests",
        gauge(|v| v.entitled_cores),
    )?;
    out.gauges(
        "tenant_quota_cores",
        "CPU that the tenant may use in all; absent without a quota",
        views
            .values()
            .filter_map(|v| v.quota_cores.map(|q| ([("tenant", &*v.name)], q))),
    )?;
    out.gauges(
        "tenant_stolen_cores",
        "Time that the tenant's tasks waited for a CPU while other tenants ran, mean over the window",
        gauge(|v| v.stolen_cores),
    )?;
    out.gauges(
        "tenant_taken_cores",
        "Time that the tenant ran while other tenants' tasks waited for that CPU, mean over the window",
        gauge(|v| v.taken_cores),
    )?;
    out.gauges(
        "tenant_pods",
        "Pods of the tenant seen in the window",
        gauge(|v| f64::from(v.pods)),
    )?;

    let told = |value: fn(&TenantView) -> Option<u64>| {
        views
            .values()
            .filter_map(move |v| Some(([("tenant", &*v.name)], value(v)?)))
    };
    out.gauges(
        "tenant_memory_bytes",
        "Memory of the tenant's pods, page cache included",
        told(|v| v.memory_bytes),
    )?;
    out.gauges(
        "tenant_memory_working_set_bytes",
        "Memory of the tenant's pods without cache that has not been used of late: what counts against its quota",
        told(|v| v.working_set_bytes),
    )?;
    out.gauges(
        "tenant_memory_requests_bytes",
        "Memory that the tenant's pods were promised: the sum of their requests",
        told(|v| Some(v.requested_memory_bytes)),
    )?;
    out.gauges(
        "tenant_quota_memory_bytes",
        "Memory that the tenant may use in all; absent without a quota",
        told(|v| v.quota_memory_bytes),
    )?;
    out.gauges(
        "tenant_quota_pods",
        "Pods that the tenant may have in all; absent without a quota",
        told(|v| v.quota_pods),
    )?;

    let mut run: BTreeMap<(Arc<str>, Arc<str>), u64> = BTreeMap::new();
    for total in &moment.run {
        let tenant = fold.tenant(&total.tenant);
        let named = fold.is_named(
            &tenant,
            &Key::Cpu {
                node: Arc::clone(&total.node),
            },
        );
        let node = if named {
            Arc::clone(&total.node)
        } else {
            fold.other()
        };
        folded += usize::from(!named);
        add(&mut run, (tenant, node), total.ns);
    }
    out.counters(
        "tenant_cpu_seconds",
        "CPU time used by the tenant's pods on a node",
        run.iter()
            .map(|((tenant, node), ns)| ([("tenant", &**tenant), ("node", &**node)], seconds(*ns))),
    )?;

    type Cell = (Arc<str>, Arc<str>, Arc<str>);
    let mut ledger: BTreeMap<Cell, u64> = BTreeMap::new();
    for cell in &moment.ledger {
        let waiter = fold.tenant(&cell.waiter);
        let key = Key::Wait {
            node: Arc::clone(&cell.node),
            runner: Arc::clone(&cell.runner),
        };
        let named = fold.is_named(&waiter, &key);
        folded += usize::from(!named);
        let (node, runner) = match named {
            true if is_class(&cell.runner) => (Arc::clone(&cell.node), Arc::clone(&cell.runner)),
            true => (Arc::clone(&cell.node), fold.tenant(&cell.runner)),
            false => (fold.other(), fold.other()),
        };
        add(&mut ledger, (node, waiter, runner), cell.ns);
    }
    out.counters(
        "ledger_wait_seconds",
        "Time that tasks of the tenant `waiter` waited for a CPU while `runner` ran there: a tenant, the waiter itself, or \
         <idle>, <steal>, <throttled>, <unresolved>, <unknown>",
        ledger.iter().map(|((node, waiter, runner), ns)| {
            ([("node", &**node), ("waiter", &**waiter), ("runner", &**runner)], seconds(*ns))
        }),
    )?;

    let mut waits: BTreeMap<Arc<str>, WaitTotal> = BTreeMap::new();
    for (tenant, total) in &moment.waits {
        let sum = waits.entry(fold.tenant(tenant)).or_default();
        sum.wait_ns = sum.wait_ns.saturating_add(total.wait_ns);
        for (a, b) in sum.buckets.iter_mut().zip(total.buckets) {
            *a = a.saturating_add(b);
        }
    }
    let edge = |b: usize| {
        if b + 1 == WAIT_BUCKETS {
            f64::INFINITY
        } else {
            seconds(wait_bucket_edge_ns(b))
        }
    };
    out.histograms(
        "tenant_wait_seconds",
        "How long the tenant's tasks waited for a CPU, each time they did",
        waits.iter().map(|(tenant, w)| {
            let buckets = w.buckets.iter().enumerate().map(|(b, n)| (edge(b), *n)).collect();
            ([("tenant", &**tenant)], buckets, seconds(w.wait_ns))
        }),
    )?;
    Ok(folded)
}

/// Returns how many series were folded.
fn oom_kills(out: &mut Out<'_>, fold: &Fold, nodes: &[NodeView]) -> Result<usize, fmt::Error> {
    type Row = (Arc<str>, Arc<str>, Arc<str>, &'static str);
    let mut rows: BTreeMap<Row, u64> = BTreeMap::new();
    let mut folded = 0;
    for (node, kills) in of_nodes(nodes) {
        let victim = fold.tenant(&kills.victim);
        let scope = kills.scope.as_str();
        let named = fold.is_named(&victim, &oom_key(node, kills));
        folded += usize::from(!named);
        let row = match named {
            true if is_class(&kills.trigger) => {
                (Arc::clone(&node.name), Arc::clone(&kills.trigger), victim, scope)
            }
            true => (Arc::clone(&node.name), fold.tenant(&kills.trigger), victim, scope),
            false => (fold.other(), fold.other(), victim, scope),
        };
        add(&mut rows, row, kills.kills);
    }
    out.counters(
        "oom_kills",
        "Tasks of the tenant `victim` that were killed because memory ran out when a task of `trigger` asked for more, by where it ran out: at a \
         limit, on the node",
        rows.iter().map(|((node, trigger, victim, scope), n)| {
            let labels = [
                ("node", &**node),
                ("trigger", &**trigger),
                ("victim", &**victim),
                ("scope", *scope),
            ];
            (labels, *n)
        }),
    )?;
    Ok(folded)
}

fn breaches(out: &mut Out<'_>, snapshot: &Snapshot) -> fmt::Result {
    type Row<'a> = (&'static str, &'static str, &'a str, &'a str);
    let mut rows: BTreeMap<Row<'_>, u64> = BTreeMap::new();
    for breach in &snapshot.breaches {
        let (kind, state) = (breach.key.kind.as_str(), breach.state.as_str());
        let row = (kind, state, &*breach.key.tenant, &*breach.key.against);
        let row = if rows.len() < MAX_BREACH_SERIES || rows.contains_key(&row) {
            row
        } else {
            (kind, state, OTHER, OTHER)
        };
        *rows.entry(row).or_default() += 1;
    }
    out.gauges(
        "breaches",
        "Breaches that are pending or firing, by kind, by who broke the rule, and against whom",
        rows.iter().map(|((kind, state, tenant, against), n)| {
            (
                [
                    ("kind", *kind),
                    ("tenant", *tenant),
                    ("against", *against),
                    ("state", *state),
                ],
                *n,
            )
        }),
    )
}

fn nodes(out: &mut Out<'_>, nodes: &[NodeView]) -> fmt::Result {
    let gauge = |value: fn(&NodeView) -> f64| nodes.iter().map(move |n| ([("node", &*n.name)], value(n)));
    out.gauges(
        "node_covered_ratio",
        "Share of the window that the node's reports cover",
        gauge(|n| n.covered),
    )?;
    out.gauges(
        "node_report_age_seconds",
        "Time since the node's last accepted report",
        gauge(|n| seconds(n.age_ns)),
    )?;
    out.gauges(
        "node_online_cpus",
        "CPUs online on the node",
        gauge(|n| f64::from(n.online_cpus)),
    )?;
    out.gauges(
        "node_used_cores",
        "CPU in use on the node, mean over the window",
        gauge(|n| n.used_cores),
    )?;
    out.gauges(
        "node_entities",
        "Pods, host cgroups and unknowns of the node with counters",
        gauge(|n| n.entities as f64),
    )?;
    out.gauges(
        "node_ledger_pairs",
        "Pairs of waiter and runner of the node held in the ledger",
        gauge(|n| n.pairs as f64),
    )?;
    out.gauges(
        "node_agent_cores",
        "CPU that the node's agent itself uses, mean over the window",
        gauge(|n| n.agent_cores),
    )?;
    out.gauges(
        "node_agent_memory_bytes",
        "Memory of the node's agent",
        gauge(|n| n.cost.memory_bytes as f64),
    )?;
    let outcomes = nodes.iter().flat_map(|n| {
        [
            ("accepted", n.accepted),
            ("duplicate", n.duplicates),
            ("refused", n.refused),
        ]
        .map(|(outcome, count)| ([("node", &*n.name), ("outcome", outcome)], count))
    });
    out.counters(
        "node_reports",
        "Reports of the node's agent, by what became of them",
        outcomes,
    )?;
    out.counters(
        "node_agent_runs",
        "Agent runs seen: starts of the node's agent",
        nodes.iter().map(|n| ([("node", &*n.name)], n.runs)),
    )?;
    let features = nodes.iter().flat_map(|n| {
        n.features.iter().map(|f| {
            (
                [("node", &*n.name), ("feature", f.name.as_str())],
                u64::from(f.present),
            )
        })
    });
    out.gauges(
        "node_feature",
        "1: the node's agent has it. 0: it has not, and says why in `partywall-agent check`",
        features,
    )?;
    let losses = nodes.iter().flat_map(|n| {
        n.losses.iter().map(|l| {
            let labels = [
                ("node", &*n.name),
                ("stage", l.stage.as_str()),
                ("reason", l.reason.as_str()),
                ("unit", l.unit.as_str()),
            ];
            (labels, l.count)
        })
    });
    out.counters(
        "node_losses",
        "What the node's agent could not count or lost on the way, by stage and reason",
        losses,
    )
}

fn own(out: &mut Out<'_>, state: &State, moment: &Moment) -> fmt::Result {
    let counts = state.metrics.counts();
    out.gauge(
        "aggregator_flow_records",
        "Records of flows held: two of one that both ends tell of",
        moment.flow_records as u64,
    )?;
    let outcomes = [
        ("accepted", counts.accepted),
        ("duplicate", counts.duplicates),
        ("refused", counts.refused.values().sum()),
    ];
    out.counters(
        "aggregator_reports",
        "Reports taken, by what became of them",
        outcomes.into_iter().map(|(o, n)| ([("outcome", o)], n)),
    )?;
    let refused = counts
        .refused
        .iter()
        .map(|(reason, n)| ([("reason", *reason)], *n));
    out.counters(
        "aggregator_reports_refused",
        "Reports refused as a whole, by reason",
        refused,
    )?;
    out.counter("aggregator_samples", "CPU samples counted", counts.samples)?;
    out.counter(
        "aggregator_streams",
        "Streams that agents opened",
        counts.streams_opened,
    )?;
    out.metric(
        "aggregator_report_lag_seconds",
        "From an agent's reading to its counting here, by the two machines' wall clocks",
        &state.metrics.lag_seconds,
        12,
    )?;
    out.counter(
        "aggregator_judgements",
        "Times that everything was judged",
        counts.judgements,
    )?;
    out.metric(
        "aggregator_judge_seconds",
        "What a judgement took",
        &state.metrics.judge_seconds,
        10,
    )?;
    let fired = BreachKind::ALL.map(|k| ([("kind", k.as_str())], counts.fired.get(&k).copied().unwrap_or(0)));
    out.counters(
        "breaches_fired",
        "Breaches that began to fire, by kind",
        fired.into_iter(),
    )?;
    let losses = moment.losses.iter().map(|(key, n)| {
        (
            [("stage", key.stage), ("reason", key.reason), ("unit", key.unit)],
            n,
        )
    });
    out.counters(
        "aggregator_losses",
        "What the aggregator could not store, name or believe, by stage and reason",
        losses,
    )?;

    let cluster = state.cluster.get();
    let objects = [
        ("namespace", cluster.namespaces),
        ("pod", cluster.pods),
        ("quota", cluster.quotas),
        ("limit_range", cluster.limit_ranges),
        ("network_policy", cluster.network_policies),
        ("foreign_policy", cluster.foreign_policies),
    ];
    out.gauges(
        "aggregator_cluster_objects",
        "Cluster objects in use, by kind",
        objects.into_iter().map(|(kind, n)| ([("kind", kind)], n as u64)),
    )?;
    out.gauge(
        "aggregator_cluster_objects_ignored",
        "Cluster objects of kinds that are not read",
        cluster.ignored,
    )?;
    out.gauge(
        "aggregator_cluster_objects_duplicate",
        "Cluster objects that an earlier file has too",
        cluster.duplicates,
    )?;
    out.gauge(
        "aggregator_cluster_files",
        "Cluster files read",
        cluster.files as u64,
    )?;
    out.gauge(
        "aggregator_cluster_files_broken",
        "Cluster files that are broken now: what they said before still counts",
        cluster.broken.len() as u64,
    )?;
    out.counter(
        "aggregator_cluster_load_failures",
        "Times that a cluster file was found broken",
        cluster.failures,
    )?;
    out.counter(
        "aggregator_cluster_loads",
        "Times that changed cluster data was taken over",
        cluster.loads,
    )?;

    let policy = state.policy.get();
    out.counter(
        "policy_reload_failures",
        "Times that a changed policy file was found broken",
        policy.failures,
    )?;
    out.gauge(
        "policy_last_success_timestamp_seconds",
        "When the policy in force was read",
        seconds(policy.loaded_unix_ns),
    )
}

fn add<K: Ord>(sums: &mut BTreeMap<K, u64>, key: K, ns: u64) {
    let sum = sums.entry(key).or_default();
    *sum = sum.saturating_add(ns);
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
