//! What each view says, as tables: the one source of the commands' text and of `top`'s screen.

pub(crate) mod breaches;
pub(crate) mod doubts;
pub(crate) mod header;
pub(crate) mod ledger;
pub(crate) mod pods;
pub(crate) mod tenants;
pub(crate) mod traffic;
pub(crate) mod zones;

use std::cmp::Ordering;

use crate::model::Snapshot;
use crate::table::{Cell, Column, Table};

/// One way to order the rows of a view.
pub(crate) struct Sort<T> {
    pub name: &'static str,
    pub by: fn(&T, &T) -> Ordering,
}

/// Largest first; what is no number comes last.
pub(crate) fn most(left: f64, right: f64) -> Ordering {
    let last_if_nan = |value: f64| if value.is_nan() { f64::NEG_INFINITY } else { value };
    last_if_nan(right).total_cmp(&last_if_nan(left))
}

/// Whether a filter as typed admits any of these names.
pub(crate) fn admits(filter: &str, names: &[&str]) -> bool {
    let filter = filter.trim().to_lowercase();
    filter.is_empty() || names.iter().any(|name| name.to_lowercase().contains(&filter))
}

/// The cluster where it says something: empty where there is one only.
pub(crate) fn cluster_of<'a>(snapshot: &Snapshot, cluster: &'a str) -> &'a str {
    if snapshot.has_several_clusters() {
        cluster
    } else {
        ""
    }
}

/// With the rows' clusters in front, where there are several.
pub(crate) fn with_clusters<'a>(
    table: Table,
    several: bool,
    clusters: impl IntoIterator<Item = &'a str>,
) -> Table {
    if !several {
        return table;
    }
    // The same name in two clusters is two tenants: this column stays where others go.
    let cells = clusters.into_iter().map(Cell::new);
    table.led_by(Column::name("CLUSTER", 0), cells)
}

/// The sort at `index`, going round.
pub(crate) fn pick<T>(sorts: &'static [Sort<T>], index: usize) -> &'static Sort<T> {
    &sorts[index % sorts.len()]
}

#[cfg(test)]
mod tests;
