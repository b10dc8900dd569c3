//! The pods' view: each pod's wait, and against whom it is entered.

use super::tenants::{some, stall, told, tone_of_loss};
use super::zones::Zones;
use super::{Sort, admits, cluster_of, most, pick, with_clusters};
use crate::model::{Pod, Snapshot};
use crate::output::Tone;
use crate::table::{Cell, Column, Row, Table};
use crate::text::{bytes, cores, cores_or_dot, seconds, times};

pub(crate) const SORTS: &[Sort<Pod>] = &[
    Sort {
        name: "stolen",
        by: |left, right| most(left.stolen_cores, right.stolen_cores),
    },
    Sort {
        name: "slowdown",
        by: |left, right| most(slowdown(left), slowdown(right)),
    },
    Sort {
        name: "used",
        by: |left, right| most(left.used_cores, right.used_cores),
    },
    Sort {
        name: "wait",
        by: |left, right| most(left.wait_cores, right.wait_cores),
    },
    Sort {
        name: "memory",
        by: |left, right| most(working_set(left), working_set(right)),
    },
    Sort {
        name: "name",
        by: |left, right| left.label().cmp(&right.label()),
    },
];

fn working_set(pod: &Pod) -> f64 {
    let bytes = pod.memory.as_ref().and_then(|memory| memory.working_set_bytes);
    bytes.map_or(f64::NAN, |bytes| bytes as f64)
}

fn slowdown(pod: &Pod) -> f64 {
    pod.slowdown.unwrap_or(f64::NAN)
}

pub(crate) fn table(snapshot: &Snapshot, sort: usize, filter: &str) -> Table {
    let zones = Zones::new(snapshot);
    let mut pods: Vec<&Pod> = snapshot
        .pods
        .iter()
        .filter(|pod| {
            let cluster = cluster_of(snapshot, &pod.cluster);
            let zone = zones.of_pod(pod);
            admits(
                filter,
                &[&pod.label(), &pod.tenant, &pod.node, &pod.uid, cluster, zone],
            )
        })
        .collect();
    pods.sort_by(|left, right| {
        (pick(SORTS, sort).by)(left, right).then_with(|| {
            (&left.namespace, &left.name, &left.node, &left.cluster).cmp(&(
                &right.namespace,
                &right.name,
                &right.node,
                &right.cluster,
            ))
        })
    });
    let clusters: Vec<&str> = pods.iter().map(|pod| pod.cluster.as_str()).collect();
    let in_zones: Vec<&str> = pods.iter().map(|pod| zones.of_pod(pod)).collect();
    let mut table = Table {
        columns: vec![
            Column::name("POD", 0),
            Column::name("TENANT", 2),
            Column::name("NODE", 5),
            Column::figure("USED", "cores", 1),
            Column::figure("ENTITLED", "cores", 3),
            Column::figure("STOLEN", "cores", 0),
            Column::figure("SLOWDOWN", "", 1),
            Column::figure("WAIT", "cores", 2),
            Column::figure("MEMORY", "", 3),
            Column::figure("MEM REQUEST", "", 6),
            Column::figure("STALL", "s/s", 3),
            Column::figure("OWN", "cores", 7),
            Column::figure("SYSTEM", "cores", 7),
            Column::figure("IDLE", "cores", 8),
            Column::figure("THROTTLED", "cores", 6),
            Column::figure("STEAL", "cores", 9),
            Column::figure("UNRESOLVED", "cores", 9),
            Column::figure("UNKNOWN", "cores", 9),
            Column::figure("P50", "wait", 8),
            Column::figure("P99", "wait", 4),
        ],
        rows: pods.into_iter().map(row).collect(),
    };
    if zones.are_several() {
        // Behind the node.
        table.columns.insert(3, Column::name("ZONE", 5));
        for (row, zone) in table.rows.iter_mut().zip(in_zones) {
            let zone = if zone.is_empty() { "-" } else { zone };
            row.cells.insert(3, Cell::toned(zone, Tone::Dim));
        }
    }
    with_clusters(table, snapshot.has_several_clusters(), clusters)
}

fn row(pod: &Pod) -> Row {
    let memory = pod.memory.as_ref();
    let stolen = tone_of_loss(pod.stolen_cores);
    Row {
        cells: vec![
            Cell::new(pod.label()),
            Cell::new(pod.tenant.as_str()),
            Cell::new(pod.node.as_str()),
            Cell::new(cores(pod.used_cores)),
            Cell::new(cores(pod.entitled_cores)),
            Cell::toned(cores_or_dot(pod.stolen_cores), stolen),
            Cell {
                tone: pod.slowdown.map_or(Tone::Dim, |_| stolen),
                ..told(pod.slowdown, times)
            },
            Cell::new(cores_or_dot(pod.wait_cores)),
            told(memory.and_then(|memory| memory.working_set_bytes), bytes),
            told(some(pod.requested_memory_bytes), bytes),
            stall(memory.and_then(|memory| memory.node_stall)),
            Cell::new(cores_or_dot(pod.same_tenant_cores + pod.self_cores)),
            Cell::new(cores_or_dot(pod.system_cores)),
            Cell::new(cores_or_dot(pod.idle_cores)),
            Cell::new(cores_or_dot(pod.throttled_cores)),
            Cell::new(cores_or_dot(pod.steal_cores)),
            Cell::new(cores_or_dot(pod.unresolved_cores)),
            Cell::new(cores_or_dot(pod.unknown_cores)),
            told(pod.wait_p50_seconds, seconds),
            told(pod.wait_p99_seconds, seconds),
        ],
        note: None,
    }
}
