//! The flows' view: who reaches whom, tenant by tenant, and what cannot be told so.

use super::{Sort, admits, cluster_of, most, pick, with_clusters};
use crate::flows::{rate, tone};
use crate::model::{Folded, Snapshot, Traffic, Unattributed};
use crate::output::Tone;
use crate::table::{Cell, Column, Row, Table};
use crate::text::bytes;

pub(crate) const SORTS: &[Sort<Traffic>] = &[
    Sort {
        name: "verdict",
        by: |left, right| {
            weight(&left.verdict)
                .cmp(&weight(&right.verdict))
                .then_with(|| busiest(left, right))
        },
    },
    Sort {
        name: "rate",
        by: busiest,
    },
    Sort {
        name: "bytes",
        by: |left, right| right.bytes.cmp(&left.bytes),
    },
    Sort {
        name: "name",
        by: |left, right| (&left.from, &left.to).cmp(&(&right.from, &right.to)),
    },
];

fn busiest(left: &Traffic, right: &Traffic) -> std::cmp::Ordering {
    most(left.bytes_per_second, right.bytes_per_second)
}

/// Holes in the fence first, what is as it should be last.
fn weight(verdict: &str) -> u8 {
    match verdict {
        "leaked" => 0,
        "open" => 1,
        "blocked" => 2,
        "allowed" => 4,
        "within" => 5,
        _ => 3,
    }
}

/// Between two ends that both have a name.
pub(crate) fn pairs(snapshot: &Snapshot, sort: usize, filter: &str) -> Table {
    let mut pairs: Vec<&Traffic> = snapshot
        .traffic
        .iter()
        .filter(|pair| {
            let cluster = cluster_of(snapshot, &pair.cluster);
            admits(filter, &[&pair.from, &pair.to, &pair.verdict, cluster])
        })
        .collect();
    pairs.sort_by(|left, right| {
        (pick(SORTS, sort).by)(left, right).then_with(|| {
            (&left.from, &left.to, &left.verdict, &left.cluster).cmp(&(
                &right.from,
                &right.to,
                &right.verdict,
                &right.cluster,
            ))
        })
    });
    let clusters: Vec<&str> = pairs.iter().map(|pair| pair.cluster.as_str()).collect();
    let table = Table {
        columns: vec![
            Column::name("FROM", 0),
            Column::name("TO", 0),
            Column::name("VERDICT", 0),
            Column::figure("RATE", "/s", 1),
            Column::figure("BYTES", "", 2),
            Column::figure("PACKETS", "", 4),
            Column::figure("CONNECTIONS", "", 3),
        ],
        rows: pairs.into_iter().map(pair).collect(),
    };
    with_clusters(table, snapshot.has_several_clusters(), clusters)
}

fn pair(pair: &Traffic) -> Row {
    Row {
        cells: vec![
            Cell::new(pair.from.as_str()),
            Cell::new(pair.to.as_str()),
            Cell::toned(pair.verdict.as_str(), tone(&pair.verdict)),
            Cell::new(rate(pair.bytes_per_second)),
            Cell::new(bytes(pair.bytes)),
            Cell::new(pair.packets.to_string()),
            Cell::new(count_or_dot(pair.connections)),
        ],
        note: None,
    }
}

/// Where an end has no name, and why; then whose traffic was told without its flows.
pub(crate) fn rest(snapshot: &Snapshot, filter: &str) -> Table {
    let mut unattributed: Vec<&Unattributed> = snapshot
        .unattributed
        .iter()
        .filter(|part| admits(filter, &[&part.reason, cluster_of(snapshot, &part.cluster)]))
        .collect();
    unattributed.sort_by(|left, right| {
        (right.bytes, &left.reason, &left.cluster).cmp(&(left.bytes, &right.reason, &right.cluster))
    });
    let mut folded: Vec<&Folded> = snapshot
        .folded
        .iter()
        .filter(|part| admits(filter, &[&part.tenant, cluster_of(snapshot, &part.cluster)]))
        .collect();
    folded.sort_by(|left, right| {
        (right.bytes, &left.tenant, &left.cluster).cmp(&(left.bytes, &right.tenant, &right.cluster))
    });
    let clusters = unattributed.iter().map(|part| part.cluster.as_str());
    let clusters: Vec<&str> = clusters
        .chain(folded.iter().map(|part| part.cluster.as_str()))
        .collect();
    let row = |what: &str, of: &str, per_second: f64, total: u64, packets: u64, connections: Cell| Row {
        cells: vec![
            Cell::toned(what, Tone::Dim),
            Cell::new(of),
            Cell::new(rate(per_second)),
            Cell::new(bytes(total)),
            Cell::new(packets.to_string()),
            connections,
        ],
        note: None,
    };
    let mut rows = Vec::new();
    for part in unattributed {
        let unknown = Cell::toned("-", Tone::Dim);
        rows.push(row(
            "unattributed",
            &part.reason,
            part.bytes_per_second,
            part.bytes,
            part.packets,
            unknown,
        ));
    }
    for part in folded {
        rows.push(row(
            "folded",
            &part.tenant,
            part.bytes_per_second,
            part.bytes,
            part.packets,
            Cell::new(count_or_dot(part.connections)),
        ));
    }
    let table = Table {
        columns: vec![
            Column::name("NOT BY PAIR", 0),
            Column::name("WHY, OR WHOSE", 0),
            Column::figure("RATE", "/s", 1),
            Column::figure("BYTES", "", 2),
            Column::figure("PACKETS", "", 4),
            Column::figure("CONNECTIONS", "", 3),
        ],
        rows,
    };
    with_clusters(table, snapshot.has_several_clusters(), clusters)
}

fn count_or_dot(count: u64) -> String {
    if count == 0 {
        "·".to_owned()
    } else {
        count.to_string()
    }
}
