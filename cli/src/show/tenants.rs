//! The tenants' view.

use super::zones::{self, Zones};
use super::{Sort, admits, cluster_of, most, pick, with_clusters};
use crate::model::{Snapshot, State, Tenant};
use crate::output::Tone;
use crate::table::{Cell, Column, Row, Table};
use crate::text::{bytes, cores, cores_or_dot};

pub(crate) const SORTS: &[Sort<Tenant>] = &[
    Sort {
        name: "stolen",
        by: |left, right| most(left.stolen_cores, right.stolen_cores),
    },
    Sort {
        name: "taken",
        by: |left, right| most(left.taken_cores, right.taken_cores),
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
        by: |left, right| left.name.cmp(&right.name),
    },
];

pub(crate) fn table(snapshot: &Snapshot, sort: usize, filter: &str) -> Table {
    let mut tenants: Vec<&Tenant> = snapshot
        .tenants
        .iter()
        .filter(|tenant| {
            let names = std::iter::once(&tenant.name).chain(&tenant.namespaces);
            let cluster = cluster_of(snapshot, &tenant.cluster);
            let names = names.map(String::as_str).chain(std::iter::once(cluster));
            admits(filter, &names.collect::<Vec<_>>())
        })
        .collect();
    tenants.sort_by(|left, right| {
        (pick(SORTS, sort).by)(left, right)
            .then_with(|| (&left.name, &left.cluster).cmp(&(&right.name, &right.cluster)))
    });
    let zones = Zones::new(snapshot);
    let by_tenant = zones.by_tenant(&snapshot.pods);
    let clusters: Vec<&str> = tenants.iter().map(|tenant| &*tenant.cluster).collect();
    let in_zones: Vec<String> = tenants
        .iter()
        .map(|tenant| zones::listed(&by_tenant, tenant))
        .collect();
    let mut table = Table {
        columns: vec![
            Column::name("TENANT", 0),
            Column::figure("PODS", "", 5),
            Column::figure("USED", "cores", 1),
            Column::figure("ENTITLED", "cores", 3),
            Column::figure("QUOTA", "cores", 6),
            Column::figure("WAIT", "cores", 4),
            Column::figure("STOLEN", "cores", 0),
            Column::figure("TAKEN", "cores", 1),
            Column::figure("MEMORY", "", 3),
            Column::figure("MEM REQUEST", "", 6),
            Column::figure("MEM QUOTA", "", 7),
            Column::figure("STALL", "s/s", 3),
            Column::figure("FIRING", "", 2),
            Column::name("RESOLVED BY", 8),
            Column::name("NAMESPACES", 7),
        ],
        rows: tenants.into_iter().map(|tenant| row(tenant, snapshot)).collect(),
    };
    if zones.are_several() {
        table.columns.push(Column::name("ZONES", 7));
        for (row, zones) in table.rows.iter_mut().zip(in_zones) {
            row.cells.push(Cell::toned(zones, Tone::Dim));
        }
    }
    with_clusters(table, snapshot.has_several_clusters(), clusters)
}

fn row(tenant: &Tenant, snapshot: &Snapshot) -> Row {
    let firing = snapshot
        .breaches
        .iter()
        .filter(|breach| {
            breach.state == State::Firing
                && (&breach.cluster, &breach.tenant) == (&tenant.cluster, &tenant.name)
        })
        .count();
    let over_quota = tenant.quota_cores.is_some_and(|quota| tenant.used_cores > quota);
    let used_memory = tenant.working_set_bytes.zip(tenant.quota_memory_bytes);
    let over_memory = used_memory.is_some_and(|(used, quota)| used > quota);
    Row {
        cells: vec![
            Cell::toned(
                tenant.name.as_str(),
                if firing > 0 { Tone::Bad } else { Tone::Plain },
            ),
            Cell::new(tenant.pods.to_string()),
            Cell::toned(
                cores(tenant.used_cores),
                if over_quota { Tone::Bad } else { Tone::Plain },
            ),
            Cell::new(cores(tenant.entitled_cores)),
            told(tenant.quota_cores, cores),
            Cell::new(cores_or_dot(tenant.wait_cores)),
            Cell::toned(
                cores_or_dot(tenant.stolen_cores),
                tone_of_loss(tenant.stolen_cores),
            ),
            Cell::new(cores_or_dot(tenant.taken_cores)),
            Cell::toned(
                told(tenant.working_set_bytes, bytes).text,
                if over_memory { Tone::Bad } else { Tone::Plain },
            ),
            told(some(tenant.requested_memory_bytes), bytes),
            told(tenant.quota_memory_bytes, bytes),
            stall(tenant.node_stall),
            if firing > 0 {
                Cell::toned(firing.to_string(), Tone::Bad)
            } else {
                Cell::toned("·", Tone::Dim)
            },
            Cell::toned(tenant.resolved_by.as_str(), Tone::Dim),
            Cell::toned(tenant.namespaces.join(","), Tone::Dim),
        ],
        note: None,
    }
}

/// A figure, or a dash where there is none.
pub(crate) fn told<T>(value: Option<T>, show: impl Fn(T) -> String) -> Cell {
    value.map_or_else(|| Cell::toned("-", Tone::Dim), |value| Cell::new(show(value)))
}

/// Nothing requested is no figure.
pub(crate) fn some(bytes: u64) -> Option<u64> {
    (bytes > 0).then_some(bytes)
}

/// Waiting for memory that the node lacked, in seconds per second.
pub(crate) fn stall(value: Option<f64>) -> Cell {
    Cell {
        tone: value.map_or(Tone::Dim, tone_of_loss),
        ..told(value, cores_or_dot)
    }
}

/// From the least that counts as stolen by default (0.01 cores), a figure is worth a look.
pub(crate) fn tone_of_loss(stolen_cores: f64) -> Tone {
    if stolen_cores >= 0.1 {
        Tone::Bad
    } else if stolen_cores >= 0.01 {
        Tone::Warn
    } else {
        Tone::Plain
    }
}
