//! What is published of single pods: memory and pressure, of the largest pods of each tenant.
//!
//! A pod has up to [`SERIES`] series, so a tenant's room is a number of pods. The others are summed in `~other`, gauges only: a counter that is the sum of
//! pods that come and go would go back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use partywall_aggregator_core::report::{MemorySample, Pressure, Reclaim};
use partywall_aggregator_core::snapshot::{PodView, Snapshot};

use super::fold::{Fold, Key};
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

pub(super) fn choose(fold: &mut Fold, tenants: &BTreeSet<Arc<str>>, snapshot: &Snapshot) {
    let pods = told(snapshot).map(|(pod, sample)| {
        let size = sample.current_bytes.unwrap_or(0);
        (Arc::clone(&pod.tenant), key(pod), size)
    });
    fold.choose(tenants, pods.collect());
}

/// Returns how many pods were folded.
pub(super) fn write(out: &mut Out<'_>, fold: &Fold, snapshot: &Snapshot) -> usize {
    let mut rows: BTreeMap<Name, Row> = BTreeMap::new();
    let mut folded = 0;
    for (pod, sample) in told(snapshot) {
        let tenant = fold.tenant(&pod.tenant);
        let single = fold.is_named(&tenant, &key(pod));
        let name = if single {
            [
                tenant,
                Arc::clone(&pod.namespace),
                Arc::clone(&pod.name),
                Arc::clone(&pod.node),
            ]
        } else {
            folded += 1;
            [tenant, fold.other(), fold.other(), fold.other()]
        };
        let row = rows.entry(name.clone()).or_insert(Row {
            name,
            sample: MemorySample::default(),
            requested_bytes: 0,
            single,
        });
        row.requested_bytes = row.requested_bytes.saturating_add(pod.requested_memory_bytes);
        if single {
            row.sample = *sample;
        } else {
            let add = |sum: &mut Option<u64>, n: Option<u64>| {
                *sum = n.map_or(*sum, |n| Some(sum.unwrap_or(0).saturating_add(n)));
            };
            add(&mut row.sample.current_bytes, sample.current_bytes);
            add(&mut row.sample.working_set_bytes, sample.working_set_bytes);
            // Of pods without one the sum says nothing.
            add(&mut row.sample.limit_bytes, sample.limit_bytes);
        }
    }
    let rows: Vec<Row> = rows.into_values().collect();
    gauges(out, &rows);
    counters(out, &rows);
    folded
}

/// Pods whose memory is told.
fn told(snapshot: &Snapshot) -> impl Iterator<Item = (&PodView, &MemorySample)> {
    snapshot
        .pods
        .iter()
        .filter_map(|pod| Some((pod, &pod.memory.as_ref()?.sample)))
}

fn key(pod: &PodView) -> Key {
    Key::Pod {
        uid: Arc::clone(&pod.uid),
        node: Arc::clone(&pod.node),
    }
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
fn and<'a>(name: &'a Name, key: &'a str, value: &'a str) -> Labels<'a, 5> {
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
