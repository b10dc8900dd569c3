//! The Prometheus exporter: everything is computed from one snapshot when it is asked for.
//!
//! How many series there can be is in docs/metrics.md, whose tables a test holds against a scrape.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use partywall_aggregator_core::breach::{Breach, BreachKind};
use partywall_aggregator_core::losses::Losses;
use partywall_aggregator_core::policy::alerts::Severity;
use partywall_aggregator_core::report::{WAIT_BUCKETS, wait_bucket_edge_ns};
use partywall_aggregator_core::snapshot::{
    CLASSES, GONE, LedgerTotals, NodeView, OomTotal, RunTotal, Snapshot, TenantView, WaitTotal,
};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::fold::{Fold, Key, OTHER};
use super::out::Out;
use super::sums::Sums;
use super::{flows, headroom, pods, push, store, trail};
use crate::identify::api::Status;
use crate::link::tls;
use crate::metrics::Counts;
use crate::state::{Cluster, State};

/// Series of a tenant that are always there: 11 gauges, and a histogram of 16 buckets, sum and count.
const FIXED_PER_TENANT: usize = 11 + WAIT_BUCKETS + 2;
/// Buckets, sum and count.
const LAG_SERIES: usize = 12;
const JUDGE_SERIES: usize = 10;
/// Series of live breaches of a cluster.
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
        let folds = || {
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
            [fold, pods, traffic]
        };
        let clusters = state.clusters().map(|cluster| Exported {
            cluster: Arc::clone(cluster),
            folds: folds(),
            others: Others::new(state.journal.get().is_some()),
            headroom: headroom::Kept::default(),
        });
        let clusters = Mutex::new(clusters.collect());
        registry.register_collector(Box::new(Scrape { state, clusters }));
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

/// A cluster, and what is remembered of its last scrape.
#[derive(Debug)]
struct Exported {
    cluster: Arc<Cluster>,
    /// What is named: of tenants, of pods, of traffic.
    folds: [Fold; 3],
    others: Others,
    headroom: headroom::Kept,
}

/// Of a tenant's CPU time: tenant, node. Of the ledger: node, waiter, runner. Of OOM kills: node, trigger, victim, scope. As published.
type RunRow = (Arc<str>, Arc<str>);
type LedgerRow = (Arc<str>, Arc<str>, Arc<str>);
type OomRow = (Arc<str>, Arc<str>, Arc<str>, &'static str);

/// What is published in `~other`.
#[derive(Debug)]
struct Others {
    run: Sums<RunRow, u64>,
    ledger: Sums<LedgerRow, u64>,
    waits: Sums<Arc<str>, WaitTotal>,
    oom: Sums<OomRow, u64>,
    traffic: flows::Others,
}

impl Others {
    /// `restored`: an earlier process began the totals that survive one.
    fn new(restored: bool) -> Self {
        Self {
            run: Sums::new(restored),
            ledger: Sums::new(restored),
            waits: Sums::new(restored),
            oom: Sums::new(false),
            traffic: flows::Others::new(),
        }
    }
}

#[derive(Debug)]
struct Scrape {
    state: Arc<State>,
    clusters: Mutex<Vec<Exported>>,
}

/// A cluster's world at one moment.
struct Moment {
    /// Without the pods.
    snapshot: Snapshot,
    pods: pods::Rows,
    run: Vec<RunTotal>,
    ledger: LedgerTotals,
    waits: Vec<(Arc<str>, WaitTotal)>,
    losses: Losses,
    flow_records: usize,
    expected: Vec<(String, String)>,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Out::new(encoder);
        let mut folded = 0;
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        for exported in &mut *clusters {
            let Exported {
                cluster,
                folds: [fold, of_pods, of_traffic],
                others,
                headroom: room,
            } = exported;
            let mut moment = {
                let mut told = pods::Told::new(of_pods);
                let mut world = cluster.lock();
                Moment {
                    snapshot: world.snapshot_without_pods(cluster.now(), |pod| told.push(pod)),
                    pods: told.rows(),
                    run: world.run_totals(),
                    ledger: world.ledger_totals(),
                    waits: world.wait_totals(),
                    losses: world.losses().clone(),
                    flow_records: world.flow_records(),
                    expected: world.expected_nodes(),
                }
            };
            out.begin(Arc::clone(&cluster.name));
            let names = choose(fold, &moment);
            pods::choose(of_pods, &names, &moment.pods);
            flows::choose(of_traffic, &names, &moment.snapshot);
            folded += tenants(&mut out, fold, others, &moment)
                + pods::write(&mut out, of_pods, std::mem::take(&mut moment.pods))
                + flows::write(&mut out, of_traffic, &mut others.traffic, &moment.snapshot)
                + oom_kills(&mut out, fold, others, &moment.snapshot.nodes);
            breaches(&mut out, &moment.snapshot.breaches, |kind| {
                self.state.told(kind).severity
            });
            nodes(&mut out, &moment.snapshot.nodes);
            expected(&mut out, &moment.expected);
            of_cluster(&mut out, cluster, &moment);
            headroom::write(&mut out, room.of(cluster));
        }
        drop(clusters);
        out.end();
        own(&mut out, &self.state);
        push::write(&mut out, self.state.pushed.get().map_or(&[], Vec::as_slice));
        let journal = self.state.journal.get();
        if let Some(journal) = journal {
            store::write(&mut out, &journal.figures());
        }
        if let Some(kept) = self.state.trail.get() {
            trail::write(&mut out, &kept.figures());
        }
        out.gauge(
            "aggregator_series_folded",
            "Series summed in ~other at this scrape instead of being published",
            folded as u64,
        );
        // This one, and those of the histograms that are written out as they are.
        let commits = journal.map_or(0, |_| store::COMMIT_SERIES);
        let series = (out.series() + 1 + LAG_SERIES + JUDGE_SERIES + commits) as u64;
        out.gauge("aggregator_series", "Series in this scrape", series);
        let mut encoder = out.write()?;
        histogram(
            &mut encoder,
            "aggregator_report_lag_seconds",
            "From an agent's reading to its counting here: the time it waited there, by a clock that does not step, and its way, of which at most 15 s are \
             believed; duplicates and refused reports too",
            &self.state.metrics.lag_seconds,
        )?;
        if let Some(journal) = journal {
            histogram(
                &mut encoder,
                "aggregator_store_commit_seconds",
                "What a commit took: saving what was due, writing, and the disk's word for it",
                &journal.commit_seconds,
            )?;
        }
        histogram(
            &mut encoder,
            "aggregator_judge_seconds",
            "What a judgement took",
            &self.state.metrics.judge_seconds,
        )
    }
}

fn histogram(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    histogram: &Histogram,
) -> fmt::Result {
    histogram.encode(encoder.encode_descriptor(name, help, None, histogram.metric_type())?)
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
    for cell in moment.ledger.cells() {
        names.insert(Arc::clone(cell.waiter));
        if !is_class(cell.runner) {
            names.insert(Arc::clone(cell.runner));
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
    let ledger = moment.ledger.cells().map(|c| {
        (
            Arc::clone(c.waiter),
            Key::Wait {
                node: Arc::clone(c.node),
                runner: Arc::clone(c.runner),
            },
            c.ns,
        )
    });
    let kills = of_nodes(&moment.snapshot.nodes)
        .map(|(node, kills)| (Arc::clone(&kills.victim), oom_key(node, kills), kills.kills));
    fold.choose(&names, run.chain(ledger).chain(kills));
    names
}

/// Returns how many series were folded.
fn tenants(out: &mut Out<'_>, fold: &Fold, others: &mut Others, moment: &Moment) -> usize {
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
    );
    out.gauges(
        "tenant_entitled_cores",
        "CPU that the tenant's running pods were promised: the sum of their requests",
        gauge(|v| v.entitled_cores),
    );
    out.gauges(
        "tenant_quota_cores",
        "CPU that the tenant may use in all; absent without a quota",
        views
            .values()
            .filter_map(|v| v.quota_cores.map(|q| ([("tenant", &*v.name)], q))),
    );
    out.gauges(
        "tenant_stolen_cores",
        "Time that the tenant's tasks waited for a CPU while other tenants ran, mean over the window",
        gauge(|v| v.stolen_cores),
    );
    out.gauges(
        "tenant_taken_cores",
        "Time that the tenant ran while other tenants' tasks waited for that CPU, mean over the window",
        gauge(|v| v.taken_cores),
    );
    out.gauges(
        "tenant_pods",
        "Pods of the tenant seen in the window",
        gauge(|v| f64::from(v.pods)),
    );

    let told = |value: fn(&TenantView) -> Option<u64>| {
        views
            .values()
            .filter_map(move |v| Some(([("tenant", &*v.name)], value(v)?)))
    };
    out.gauges(
        "tenant_memory_bytes",
        "Memory of the tenant's pods, page cache included",
        told(|v| v.memory_bytes),
    );
    out.gauges(
        "tenant_memory_working_set_bytes",
        "Memory of the tenant's pods without cache that has not been used of late: what counts against its quota",
        told(|v| v.working_set_bytes),
    );
    out.gauges(
        "tenant_memory_requests_bytes",
        "Memory that the tenant's pods were promised: the sum of their requests",
        told(|v| Some(v.requested_memory_bytes)),
    );
    out.gauges(
        "tenant_quota_memory_bytes",
        "Memory that the tenant may use in all; absent without a quota",
        told(|v| v.quota_memory_bytes),
    );
    out.gauges(
        "tenant_quota_pods",
        "Pods that the tenant may have in all; absent without a quota",
        told(|v| v.quota_pods),
    );

    let mut run: BTreeMap<RunRow, u64> = BTreeMap::new();
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
    others
        .run
        .publish(&mut run, |(tenant, node)| fold.kind(tenant, &[node]));
    out.counters(
        "tenant_cpu_seconds",
        "CPU time used by the tenant's pods on a node",
        run.iter()
            .map(|((tenant, node), ns)| ([("tenant", &**tenant), ("node", &**node)], seconds(*ns))),
    );

    let mut ledger: BTreeMap<LedgerRow, u64> = BTreeMap::new();
    for cell in moment.ledger.cells() {
        let waiter = fold.tenant(cell.waiter);
        let key = Key::Wait {
            node: Arc::clone(cell.node),
            runner: Arc::clone(cell.runner),
        };
        let named = fold.is_named(&waiter, &key);
        folded += usize::from(!named);
        let (node, runner) = match named {
            true if is_class(cell.runner) => (Arc::clone(cell.node), Arc::clone(cell.runner)),
            true => (Arc::clone(cell.node), fold.tenant(cell.runner)),
            false => (fold.other(), fold.other()),
        };
        add(&mut ledger, (node, waiter, runner), cell.ns);
    }
    others.ledger.publish(&mut ledger, |(node, waiter, runner)| {
        fold.kind(waiter, &[node, runner])
    });
    out.counters(
        "ledger_wait_seconds",
        "Time that tasks of the tenant `waiter` waited for a CPU while `runner` ran there: a tenant, the waiter itself, or \
         <idle>, <steal>, <throttled>, <unresolved>, <unknown>",
        ledger.iter().map(|((node, waiter, runner), ns)| {
            ([("node", &**node), ("waiter", &**waiter), ("runner", &**runner)], seconds(*ns))
        }),
    );

    let mut waits: BTreeMap<Arc<str>, WaitTotal> = BTreeMap::new();
    for (tenant, total) in &moment.waits {
        let sum = waits.entry(fold.tenant(tenant)).or_default();
        sum.wait_ns = sum.wait_ns.saturating_add(total.wait_ns);
        for (a, b) in sum.buckets.iter_mut().zip(total.buckets) {
            *a = a.saturating_add(b);
        }
    }
    others.waits.publish(&mut waits, |tenant| fold.kind(tenant, &[]));
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
    );
    folded
}

/// Returns how many series were folded.
fn oom_kills(out: &mut Out<'_>, fold: &Fold, others: &mut Others, nodes: &[NodeView]) -> usize {
    let mut rows: BTreeMap<OomRow, u64> = BTreeMap::new();
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
    others.oom.publish(&mut rows, |(node, trigger, victim, _)| {
        fold.kind(victim, &[node, trigger])
    });
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
    );
    folded
}

/// Kind, state, tenant, against.
type BreachRow<'a> = (&'static str, &'static str, &'a str, &'a str);

/// The most urgent have names first, of these what fires, of these the oldest: what comes later takes no name from them.
fn breach_rows(
    breaches: &[Breach],
    severity: impl Fn(BreachKind) -> Severity,
) -> BTreeMap<BreachRow<'_>, u64> {
    let urgent = BreachKind::ALL.map(|kind| (kind, severity(kind)));
    let urgent = BTreeMap::from(urgent);
    let mut breaches: Vec<&Breach> = breaches.iter().collect();
    breaches.sort_by_key(|b| {
        (
            Reverse(urgent.get(&b.key.kind)),
            Reverse(b.state),
            b.since_unix_ns,
        )
    });
    let mut rows: BTreeMap<BreachRow<'_>, u64> = BTreeMap::new();
    for breach in breaches {
        let (kind, state) = (breach.key.kind.as_str(), breach.state.as_str());
        let row = (kind, state, &*breach.key.tenant, &*breach.key.against);
        let row = if rows.len() < MAX_BREACH_SERIES || rows.contains_key(&row) {
            row
        } else {
            (kind, state, OTHER, OTHER)
        };
        *rows.entry(row).or_default() += 1;
    }
    rows
}

fn breaches(out: &mut Out<'_>, breaches: &[Breach], severity: impl Fn(BreachKind) -> Severity) {
    let rows = breach_rows(breaches, severity);
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
    );
}

/// A node that never reported, or is forgotten, has no other series: silence is told by comparing with these.
fn expected(out: &mut Out<'_>, nodes: &[(String, String)]) {
    out.gauges(
        "node_expected",
        "1: the node's agent ought to report, because the cluster has a Node object of it, or, where it has none at all, because it did",
        nodes
            .iter()
            .map(|(node, zone)| ([("node", node.as_str()), ("zone", zone.as_str())], 1u64)),
    );
}

fn nodes(out: &mut Out<'_>, nodes: &[NodeView]) {
    let gauge = |value: fn(&NodeView) -> f64| nodes.iter().map(move |n| ([("node", &*n.name)], value(n)));
    out.gauges(
        "node_covered_ratio",
        "Share of the window that the node's reports cover",
        gauge(|n| n.covered),
    );
    out.gauges(
        "node_report_age_seconds",
        "Time since the node's last accepted report",
        gauge(|n| seconds(n.age_ns)),
    );
    out.gauges(
        "node_clock_offset_seconds",
        "How far the node's wall clock is ahead of the aggregator's, by its last report; below 0: behind, by the report's way here at least",
        nodes
            .iter()
            .filter_map(|n| Some(([("node", &*n.name)], n.clock_offset_ns? as f64 / 1e9))),
    );
    out.gauges(
        "node_online_cpus",
        "CPUs online on the node",
        gauge(|n| f64::from(n.online_cpus)),
    );
    out.gauges(
        "node_used_cores",
        "CPU in use on the node, mean over the window",
        gauge(|n| n.used_cores),
    );
    out.gauges(
        "node_entities",
        "Pods, host cgroups and unknowns of the node with counters",
        gauge(|n| n.entities as f64),
    );
    out.gauges(
        "node_ledger_pairs",
        "Pairs of waiter and runner of the node held in the ledger",
        gauge(|n| n.pairs as f64),
    );
    out.gauges(
        "node_agent_cores",
        "CPU that the node's agent itself uses, mean over the window",
        gauge(|n| n.agent_cores),
    );
    out.gauges(
        "node_agent_memory_bytes",
        "Memory of the node's agent",
        gauge(|n| n.cost.memory_bytes as f64),
    );
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
    );
    out.counters(
        "node_agent_runs",
        "Agent runs seen: starts of the node's agent",
        nodes.iter().map(|n| ([("node", &*n.name)], n.runs)),
    );
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
    );
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
    );
}

/// What the aggregator itself says, all clusters together.
fn own(out: &mut Out<'_>, state: &State) {
    let counts = state.metrics.counts();
    let outcomes = [
        ("accepted", counts.accepted),
        ("duplicate", counts.duplicates),
        ("refused", counts.refused.values().sum()),
    ];
    out.counters(
        "aggregator_reports",
        "Reports taken, by what became of them",
        outcomes.into_iter().map(|(o, n)| ([("outcome", o)], n)),
    );
    let refused = counts
        .refused
        .iter()
        .map(|(reason, n)| ([("reason", *reason)], *n));
    out.counters(
        "aggregator_reports_refused",
        "Reports refused as a whole, by reason",
        refused,
    );
    out.counter("aggregator_samples", "CPU samples counted", counts.samples);
    out.counter(
        "aggregator_streams",
        "Streams that agents opened",
        counts.streams_opened,
    );
    out.counter(
        "aggregator_judgements",
        "Times that everything was judged",
        counts.judgements,
    );
    let fired = BreachKind::ALL.map(|k| ([("kind", k.as_str())], counts.fired.get(&k).copied().unwrap_or(0)));
    out.counters(
        "breaches_fired",
        "Breaches that began to fire, by kind",
        fired.into_iter(),
    );
    links(out, &counts, &state.tls.get());
    let policy = state.policy.get();
    out.counter(
        "policy_reload_failures",
        "Times that a changed policy file was found broken",
        policy.failures,
    );
    out.gauge(
        "policy_last_success_timestamp_seconds",
        "When the policy in force was read",
        seconds(policy.loaded_unix_ns),
    );
    if policy.followed {
        out.gauge(
            "policy_in_force",
            "1: the policy file on the disk is the one in force. 0: it was refused, the one before stays",
            u64::from(policy.error.is_none()),
        );
    }
}

/// What it says of connections, tokens and certificates.
fn links(out: &mut Out<'_>, counts: &Counts, tls: &tls::Status) {
    out.gauge(
        "aggregator_connections",
        "Connections of agents and clients that are open",
        counts.connections as u64,
    );
    let refused = counts.connections_refused.iter();
    out.counters(
        "aggregator_connections_refused",
        "Connections turned away or ended, by reason",
        refused.map(|(reason, n)| ([("reason", reason.as_str())], *n)),
    );
    out.counter(
        "aggregator_accept_failures",
        "Times that no connection could be accepted: no file descriptor, no memory",
        counts.accept_failures,
    );
    let refused = counts.streams_refused.iter();
    out.counters(
        "aggregator_streams_refused",
        "Streams and questions turned away or ended, by reason",
        refused.map(|(reason, n)| ([("reason", reason.as_str())], *n)),
    );
    let reviews = counts.token_reviews.iter();
    out.counters(
        "aggregator_token_reviews",
        "Tokens looked at, by what came of it",
        reviews.map(|(outcome, n)| ([("outcome", *outcome)], *n)),
    );
    out.counter(
        "aggregator_reports_delayed",
        "Reports after which their node had to wait, because it sends faster than it may",
        counts.delays,
    );
    out.counter(
        "aggregator_reports_delay_seconds",
        "Time that nodes had to wait, because they send faster than they may",
        counts.delayed.as_secs_f64(),
    );
    let expiry = [("tls-cert", tls.own), ("tls-client-ca", tls.client_ca)];
    out.gauges(
        "aggregator_certificate_expiry_timestamp_seconds",
        "Until when the certificates in force are good, by the flag that names their file; of several the first to expire",
        expiry.into_iter().filter_map(|(file, v)| Some(([("file", file)], v?.to as f64))),
    );
    if tls.own.is_some() {
        out.counter(
            "aggregator_certificate_loads",
            "Times that changed certificate files were taken over",
            tls.loads,
        );
        out.counter(
            "aggregator_certificate_load_failures",
            "Times that changed certificate files were found broken: those before stay in force",
            tls.failures,
        );
    }
}

/// What the aggregator says of one cluster.
fn of_cluster(out: &mut Out<'_>, cluster: &Cluster, moment: &Moment) {
    out.gauge(
        "aggregator_flow_records",
        "Records of flows held: two of one that both ends tell of",
        moment.flow_records as u64,
    );
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
    );

    let cluster = cluster.source.get();
    let objects = [
        ("namespace", cluster.namespaces),
        ("pod", cluster.pods),
        ("quota", cluster.quotas),
        ("limit_range", cluster.limit_ranges),
        ("network_policy", cluster.network_policies),
        ("foreign_policy", cluster.foreign_policies),
        ("node", cluster.nodes),
        ("service", cluster.services),
        ("endpoint_slice", cluster.endpoint_slices),
        ("capsule_tenant", cluster.capsule_tenants.unwrap_or(0)),
    ];
    out.gauges(
        "aggregator_cluster_objects",
        "Cluster objects in use, by kind",
        objects.into_iter().map(|(kind, n)| ([("kind", kind)], n as u64)),
    );
    out.gauge(
        "aggregator_cluster_objects_ignored",
        "Cluster objects of kinds that are not read",
        cluster.ignored,
    );
    out.gauge(
        "aggregator_cluster_objects_duplicate",
        "Cluster objects that an earlier file has too",
        cluster.duplicates,
    );
    out.gauge(
        "aggregator_cluster_files",
        "Cluster files read",
        cluster.files as u64,
    );
    out.gauge(
        "aggregator_cluster_files_broken",
        "Cluster files that are broken now: what they said before still counts",
        cluster.broken.len() as u64,
    );
    out.counter(
        "aggregator_cluster_load_failures",
        "Times that a cluster file was found broken",
        cluster.failures,
    );
    out.counter(
        "aggregator_cluster_loads",
        "Times that changed cluster data was taken over",
        cluster.loads,
    );
    out.gauge(
        "aggregator_cluster_quotas_unjudged",
        "ResourceQuotas that are not judged, because their scopes cannot be told of a pod",
        cluster.unjudged_quotas.len() as u64,
    );
    if let Some(api) = &cluster.api {
        write_api(out, api);
    }
}

/// What an API's watches say of themselves.
fn write_api(out: &mut Out<'_>, api: &Status) {
    out.gauge(
        "aggregator_cluster_api_synced",
        "Whether every resource was listed once: before, no pod has a name",
        u64::from(api.is_synced()),
    );
    let watched = || api.resources.iter();
    let ages = watched().filter_map(|r| Some(([("resource", r.name)], r.age()?.as_secs_f64())));
    out.gauges(
        "aggregator_cluster_api_age_seconds",
        "Since the API server was last heard of a resource: an answer, an event or a bookmark",
        ages,
    );
    out.gauges(
        "aggregator_cluster_api_up",
        "Whether the last attempt to list or watch a resource went well",
        watched().map(|r| ([("resource", r.name)], u64::from(r.is_up()))),
    );
    let errors = watched().flat_map(|r| {
        r.errors
            .iter()
            .map(|(kind, n)| ([("resource", r.name), ("kind", *kind)], *n))
    });
    out.counters(
        "aggregator_cluster_api_errors",
        "Lists and watches that failed, by resource and kind",
        errors,
    );
    out.counters(
        "aggregator_cluster_api_relists",
        "Times that a resource was listed anew because the server no longer knew the version to go on from",
        watched().map(|r| ([("resource", r.name)], r.relists)),
    );
    out.counters(
        "aggregator_cluster_api_watches",
        "Watches opened",
        watched().map(|r| ([("resource", r.name)], r.watches)),
    );
    out.gauges(
        "aggregator_cluster_api_objects_malformed",
        "Objects that make no sense now: what they said before still counts",
        watched().map(|r| ([("resource", r.name)], r.malformed as u64)),
    );
    out.gauge(
        "aggregator_cluster_api_publish_seconds",
        "What it took to hand the cluster to the judge, the last time",
        api.publish.as_secs_f64(),
    );
}

fn add<K: Ord>(sums: &mut BTreeMap<K, u64>, key: K, ns: u64) {
    let sum = sums.entry(key).or_default();
    *sum = sum.saturating_add(ns);
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use partywall_aggregator_core::breach::{BreachKey, BreachState};

    use super::*;

    fn breach(kind: BreachKind, state: BreachState, n: u64, since_unix_ns: u64) -> Breach {
        Breach {
            fingerprint: String::new(),
            cluster: Arc::from("default"),
            key: BreachKey {
                kind,
                tenant: format!("t{n}").into(),
                against: Arc::from("blue"),
                node: Arc::from(""),
                subject: Arc::from(""),
            },
            state,
            summary: String::new(),
            since_unix_ns,
            firing_unix_ns: 0,
            resolved_unix_ns: 0,
            evidence: Vec::new(),
            culprits: Vec::new(),
            covered: 1.0,
            confidence: None,
        }
    }

    #[test]
    fn the_most_urgent_breaches_have_names_and_keep_them() {
        let room = MAX_BREACH_SERIES as u64;
        let mut breaches: Vec<Breach> = (0..room)
            .map(|n| breach(BreachKind::NoisyNeighbour, BreachState::Firing, n, 10 + n))
            .collect();
        breaches.push(breach(BreachKind::NoisyNeighbour, BreachState::Pending, room, 1));
        breaches.push(breach(BreachKind::FenceLeak, BreachState::Firing, 0, 9_999));
        let severity = |kind| match kind {
            BreachKind::FenceLeak => Severity::Critical,
            _ => Severity::Warning,
        };
        let rows = breach_rows(&breaches, severity);
        let names = |kind, state: &str, n: u64| rows.contains_key(&(kind, state, &*format!("t{n}"), "blue"));
        assert!(names("FenceLeak", "firing", 0), "the most urgent");
        assert!(names("NoisyNeighbour", "firing", 0), "the oldest");
        assert!(!names("NoisyNeighbour", "firing", room - 1), "the youngest");
        assert!(!names("NoisyNeighbour", "pending", room), "what does not fire");
        let other = |state| rows.get(&("NoisyNeighbour", state, OTHER, OTHER)).copied();
        assert_eq!((other("firing"), other("pending")), (Some(1), Some(1)));
    }
}
