//! What is published of single pods: memory and pressure, of the largest pods of each tenant.
//!
//! A pod has up to [`SERIES`] series, so a tenant's room is a number of pods. The others are summed in `~other`, gauges only: a counter that is the sum of
//! pods that come and go would go back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use partywall_aggregator_core::report::{MemorySample, Pressure, Reclaim};
use partywall_aggregator_core::snapshot::PodView;

use super::fold::{Fold, Key, Largest};
use super::out::{Labels, Out};

/// Series of a pod: 4 gauges, 4 counters of reclaim, 2 of faults, 4 of events, 6 of pressure.
pub(super) const SERIES: usize = 20;
/// Series of a tenant's `~other` pods.
pub(super) const SERIES_OTHER: usize = 4;

/// Tenant, namespace, pod, node: as published.
type Name = [Arc<str>; 4];

struct Row {
    name: Name,
    sample: MemorySample,
    requested_bytes: u64,
    /// Stands for itself: `sample` has counters.
    single: bool,
}

impl Row {
    /// Sums of several.
    fn other(name: Name) -> Self {
        Self {
            name,
            sample: MemorySample::default(),
            requested_bytes: 0,
            single: false,
        }
    }

    fn add(&mut self, other: &Self) {
        let add = |sum: &mut Option<u64>, n: Option<u64>| {
            *sum = n.map_or(*sum, |n| Some(sum.unwrap_or(0).saturating_add(n)));
        };
        let (sum, n) = (&mut self.sample, &other.sample);
        add(&mut sum.current_bytes, n.current_bytes);
        add(&mut sum.working_set_bytes, n.working_set_bytes);
        // Of pods without one the sum says nothing.
        add(&mut sum.limit_bytes, n.limit_bytes);
        self.requested_bytes = self.requested_bytes.saturating_add(other.requested_bytes);
    }
}

/// Pods as they are told of: of each tenant those that may be published, the others summed at once. All of them together would be the largest part of what
/// a scrape needs.
pub(super) struct Told<'f> {
    fold: &'f Fold,
    tenants: BTreeMap<Arc<str>, OfTenant>,
}

struct OfTenant {
    /// Published at the last scrape.
    named: Vec<(Key, u64, Row)>,
    new: Largest<Row>,
    others: Row,
    /// Pods in `others`.
    count: usize,
}

impl<'f> Told<'f> {
    pub(super) fn new(fold: &'f Fold) -> Self {
        Self {
            fold,
            tenants: BTreeMap::new(),
        }
    }

    /// Of pods whose memory is told.
    pub(super) fn push(&mut self, pod: PodView) {
        let Some(memory) = &pod.memory else { return };
        let key = Key::Pod {
            uid: Arc::clone(&pod.uid),
            node: Arc::clone(&pod.node),
        };
        let size = memory.sample.current_bytes.unwrap_or(0);
        let row = Row {
            name: [Arc::clone(&pod.tenant), pod.namespace, pod.name, pod.node],
            sample: memory.sample,
            requested_bytes: pod.requested_memory_bytes,
            single: true,
        };
        let of = self.tenants.entry(Arc::clone(&pod.tenant)).or_insert_with(|| {
            let other = || self.fold.other();
            OfTenant {
                named: Vec::new(),
                new: self.fold.largest(),
                others: Row::other([Arc::clone(&pod.tenant), other(), other(), other()]),
                count: 0,
            }
        });
        if self.fold.was_named(&pod.tenant, &key) {
            of.named.push((key, size, row));
        } else if let Some(row) = of.new.push(key, size, row) {
            of.others.add(&row);
            of.count += 1;
        }
    }

    /// What is left of them.
    pub(super) fn rows(self) -> Rows {
        let mut out = Rows::default();
        for of in self.tenants.into_values() {
            out.may_be_named.extend(of.named);
            out.may_be_named.extend(of.new.best_first());
            if of.count > 0 {
                out.others.push((of.count, of.others));
            }
        }
        out
    }
}

/// One scrape's.
#[derive(Default)]
pub(super) struct Rows {
    may_be_named: Vec<(Key, u64, Row)>,
    others: Vec<(usize, Row)>,
}

pub(super) fn choose(fold: &mut Fold, tenants: &BTreeSet<Arc<str>>, rows: &Rows) {
    let pods = rows
        .may_be_named
        .iter()
        .map(|(key, size, row)| (Arc::clone(&row.name[0]), key.clone(), *size));
    fold.choose(tenants, pods);
}

/// Returns how many pods were folded.
pub(super) fn write(out: &mut Out<'_>, fold: &Fold, rows: Rows) -> usize {
    let mut published: BTreeMap<Name, Row> = BTreeMap::new();
    let mut folded = 0;
    let mut sum = |count: usize, row: &Row| {
        folded += count;
        let name = [
            fold.tenant(&row.name[0]),
            fold.other(),
            fold.other(),
            fold.other(),
        ];
        published
            .entry(name.clone())
            .or_insert_with(|| Row::other(name))
            .add(row);
    };
    let (mut single, others): (Vec<_>, Vec<_>) = rows
        .may_be_named
        .into_iter()
        .partition(|(key, _, row)| fold.is_named(&fold.tenant(&row.name[0]), key));
    rows.others.iter().for_each(|(count, row)| sum(*count, row));
    others.iter().for_each(|(_, _, row)| sum(1, row));
    // Of two of one name, made anew, the later UID's sample counts.
    single.sort_by(|a, b| a.0.cmp(&b.0));
    for (_, _, row) in single {
        let [tenant, namespace, pod, node] = row.name;
        let name = [fold.tenant(&tenant), namespace, pod, node];
        let of = published.entry(name.clone()).or_insert_with(|| Row::other(name));
        of.single = true;
        of.sample = row.sample;
        of.requested_bytes = of.requested_bytes.saturating_add(row.requested_bytes);
    }
    let rows: Vec<Row> = published.into_values().collect();
    gauges(out, &rows);
    counters(out, &rows);
    folded
}

fn labels(name: &Name) -> Labels<'_, 4> {
    let [tenant, namespace, pod, node] = name;
    [
        ("tenant", tenant),
        ("namespace", namespace),
        ("pod", pod),
        ("node", node),
    ]
}

/// The pod's labels and one more.
fn and<'a>(name: &'a Name, key: &'static str, value: &'a str) -> Labels<'a, 5> {
    let [a, b, c, d] = labels(name);
    [a, b, c, d, (key, value)]
}

fn gauges(out: &mut Out<'_>, rows: &[Row]) {
    let gauge = |value: fn(&Row) -> Option<u64>| {
        rows.iter()
            .filter_map(move |r| Some((labels(&r.name), value(r)?)))
    };
    out.gauges(
        "pod_memory_bytes",
        "Memory of the pod, page cache included (memory.current)",
        gauge(|r| r.sample.current_bytes),
    );
    out.gauges(
        "pod_memory_working_set_bytes",
        "Memory of the pod without cache that has not been used of late: what the kubelet goes by",
        gauge(|r| r.sample.working_set_bytes),
    );
    out.gauges(
        "pod_memory_requests_bytes",
        "Memory that the pod was promised: the sum of its containers' requests",
        gauge(|r| Some(r.requested_bytes)),
    );
    out.gauges(
        "pod_memory_limit_bytes",
        "Limit of the pod's cgroup (memory.max); absent without one",
        gauge(|r| r.sample.limit_bytes),
    );
}

fn counters(out: &mut Out<'_>, rows: &[Row]) {
    let single = || rows.iter().filter(|r| r.single);
    let reclaim = |r: &MemorySample| [("limit", r.limit_reclaim), ("node", r.node_reclaim)];
    let caused = |value: fn(Reclaim) -> u64| {
        single().flat_map(move |r| {
            reclaim(&r.sample)
                .into_iter()
                .filter_map(move |(cause, told)| Some((and(&r.name, "cause", cause), value(told?))))
        })
    };
    out.counters(
        "pod_reclaim_stall_seconds",
        "Time that the pod's tasks spent reclaiming memory, summed over tasks, by cause: a limit of its own, or the node ran low",
        caused(|r| r.stall_ns).map(|(labels, ns)| (labels, ns as f64 / 1e9)),
    );
    out.counters(
        "pod_reclaimed_pages",
        "Pages that the pod's tasks reclaimed, by cause",
        caused(|r| r.pages),
    );
    out.counters(
        "pod_major_faults",
        "Page faults of the pod that waited for a disk",
        single().filter_map(|r| Some((labels(&r.name), r.sample.major_faults?))),
    );
    out.counters(
        "pod_refaults",
        "Pages of the pod that were reclaimed and then needed again",
        single().filter_map(|r| Some((labels(&r.name), r.sample.refaults?))),
    );
    let events = single().flat_map(|r| {
        r.sample.events.into_iter().flat_map(|e| {
            [
                ("high", e.high),
                ("max", e.max),
                ("oom", e.oom),
                ("oom_kill", e.oom_kill),
            ]
            .map(|(event, n)| (and(&r.name, "event", event), n))
        })
    });
    out.counters(
        "pod_memory_events",
        "Times that the pod reached a limit of its own, or was killed for memory (memory.events)",
        events,
    );
    type Told = fn(&MemorySample) -> Option<Pressure>;
    let cpu: Told = |s| s.cpu_pressure;
    for (resource, pressure) in [
        ("cpu", cpu),
        ("memory", |s| s.memory_pressure),
        ("io", |s| s.io_pressure),
    ] {
        let waited = |value: fn(Pressure) -> Option<u64>| {
            single().filter_map(move |r| Some((labels(&r.name), value(pressure(&r.sample)?)? as f64 / 1e6)))
        };
        out.counters(
            &format!("pod_pressure_{resource}_waiting_seconds"),
            &format!("Time in which some of the pod's tasks waited for {resource} (PSI some)"),
            waited(|p| Some(p.some_us)),
        );
        out.counters(
            &format!("pod_pressure_{resource}_stalled_seconds"),
            &format!(
                "Time in which all of the pod's tasks that were not idle waited for {resource} (PSI full)"
            ),
            waited(|p| p.full_us),
        );
    }
}
