//! The Prometheus exporter: everything is computed from one snapshot when it is asked for.
//!
//! How many series there can be is in docs/metrics.md, whose tables a test holds against a scrape.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use partywall_aggregator_core::losses::Losses;
use partywall_aggregator_core::report::{WAIT_BUCKETS, wait_bucket_edge_ns};
use partywall_aggregator_core::snapshot::{
    CLASSES, GONE, LedgerTotals, NodeView, OomTotal, RunTotal, Snapshot, TenantView, WaitTotal,
};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::fold::{Fold, Key};
use super::out::Out;
use super::sums::Sums;
use super::{breaches, flows, headroom, own, pods, push, store, trail};
use crate::state::{Cluster, State};

/// Series of a tenant that are always there: 11 gauges, and a histogram of 16 buckets, sum and count.
const FIXED_PER_TENANT: usize = 11 + WAIT_BUCKETS + 2;
/// Buckets, sum and count.
const LAG_SERIES: usize = 12;
const JUDGE_SERIES: usize = 10;

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
pub(super) struct Moment {
    /// Without the pods.
    snapshot: Snapshot,
    pods: pods::Rows,
    run: Vec<RunTotal>,
    ledger: LedgerTotals,
    waits: Vec<(Arc<str>, WaitTotal)>,
    pub(super) losses: Losses,
    pub(super) flow_records: usize,
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
            breaches::write(&mut out, &moment.snapshot.breaches, |kind| {
                self.state.told(kind).severity
            });
            nodes(&mut out, &moment.snapshot.nodes);
            expected(&mut out, &moment.expected);
            own::of_cluster(&mut out, cluster, &moment);
            headroom::write(&mut out, room.of(cluster));
        }
        drop(clusters);
        out.end();
        own::write(&mut out, &self.state);
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

fn add<K: Ord>(sums: &mut BTreeMap<K, u64>, key: K, ns: u64) {
    let sum = sums.entry(key).or_default();
    *sum = sum.saturating_add(ns);
}

pub(super) fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
