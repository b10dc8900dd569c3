//! The pods' view: each pod's wait, and against whom it is entered.

use super::tenants::tone_of_loss;
use super::{Sort, admits, most, pick};
use crate::model::{Pod, Snapshot};
use crate::output::Tone;
use crate::table::{Cell, Column, Row, Table};
use crate::text::{cores, cores_or_dot, seconds, times};

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
        name: "name",
        by: |left, right| left.label().cmp(&right.label()),
    },
];

fn slowdown(pod: &Pod) -> f64 {
    pod.slowdown.unwrap_or(f64::NAN)
}

pub(crate) fn table(snapshot: &Snapshot, sort: usize, filter: &str) -> Table {
    let mut pods: Vec<&Pod> = snapshot
        .pods
        .iter()
        .filter(|pod| admits(filter, &[&pod.label(), &pod.tenant, &pod.node, &pod.uid]))
        .collect();
    pods.sort_by(|left, right| {
        (pick(SORTS, sort).by)(left, right).then_with(|| {
            (&left.namespace, &left.name, &left.node).cmp(&(&right.namespace, &right.name, &right.node))
        })
    });
    Table {
        columns: vec![
            Column::name("POD", 0),
            Column::name("TENANT", 2),
            Column::name("NODE", 5),
            Column::figure("USED", "cores", 1),
            Column::figure("ENTITLED", "cores", 3),
            Column::figure("STOLEN", "cores", 0),
            Column::figure("SLOWDOWN", "", 1),
            Column::figure("WAIT", "cores", 2),
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
    }
}

fn row(pod: &Pod) -> Row {
    let dash = || Cell::toned("-", Tone::Dim);
    let length = |value: Option<f64>| value.map_or_else(dash, |value| Cell::new(seconds(value)));
    let stolen = tone_of_loss(pod.stolen_cores);
    Row {
        cells: vec![
            Cell::new(pod.label()),
            Cell::new(pod.tenant.as_str()),
            Cell::new(pod.node.as_str()),
            Cell::new(cores(pod.used_cores)),
            Cell::new(cores(pod.entitled_cores)),
            Cell::toned(cores_or_dot(pod.stolen_cores), stolen),
            pod.slowdown
                .map_or_else(dash, |factor| Cell::toned(times(factor), stolen)),
            Cell::new(cores_or_dot(pod.wait_cores)),
            Cell::new(cores_or_dot(pod.same_tenant_cores + pod.self_cores)),
            Cell::new(cores_or_dot(pod.system_cores)),
            Cell::new(cores_or_dot(pod.idle_cores)),
            Cell::new(cores_or_dot(pod.throttled_cores)),
            Cell::new(cores_or_dot(pod.steal_cores)),
            Cell::new(cores_or_dot(pod.unresolved_cores)),
            Cell::new(cores_or_dot(pod.unknown_cores)),
            length(pod.wait_p50_seconds),
            length(pod.wait_p99_seconds),
        ],
        note: None,
    }
}
