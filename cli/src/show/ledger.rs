//! The ledger as a matrix: a row for each tenant that waited, a column for each that ran meanwhile.

use std::collections::BTreeMap;

use super::{admits, cluster_of, most, with_clusters};
use crate::model::Snapshot;
use crate::output::Tone;
use crate::table::{Cell, Column, Row, Table};
use crate::text::cores_or_dot;

/// The tenant of everything that is no pod.
const SYSTEM: &str = "system";
/// Runners beyond those that have a column of their own.
const OTHER: &str = "~other";

pub(crate) const SORTS: &[&str] = &["stolen", "name"];

/// A row: what ran meanwhile ran in its cluster, so that a column means another tenant of the same name in another cluster's row.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Waiter {
    pub name: String,
    /// Empty where there is one only.
    pub cluster: String,
}

impl Waiter {
    /// `eu-1/blue` where there are several clusters.
    pub(crate) fn label(&self) -> String {
        if self.cluster.is_empty() {
            return self.name.clone();
        }
        format!("{}/{}", self.cluster, self.name)
    }
}

/// Waiters × runners, in cores.
#[derive(Debug, Default)]
pub(crate) struct Matrix {
    pub waiters: Vec<Waiter>,
    pub runners: Vec<String>,
    cells: BTreeMap<(Waiter, String), f64>,
    has_several_clusters: bool,
}

impl Matrix {
    /// Rows by what was stolen from them, or by name. Columns: tenants by what they took, then the classes.
    pub(crate) fn new(snapshot: &Snapshot, sort: usize, filter: &str) -> Self {
        let mut cells = BTreeMap::new();
        let mut stolen: BTreeMap<Waiter, f64> = BTreeMap::new();
        let mut took: BTreeMap<&str, f64> = BTreeMap::new();
        for cell in &snapshot.ledger {
            let weight = if is_stolen(&cell.waiter, &cell.runner) {
                cell.cores
            } else {
                0.0
            };
            *took.entry(&cell.runner).or_default() += weight;
            let waiter = Waiter {
                name: cell.waiter.clone(),
                cluster: cluster_of(snapshot, &cell.cluster).to_owned(),
            };
            if !admits(filter, &[&waiter.name, &waiter.cluster]) {
                continue;
            }
            *stolen.entry(waiter.clone()).or_default() += weight;
            *cells.entry((waiter, cell.runner.clone())).or_default() += cell.cores;
        }
        // By name.
        let mut waiters: Vec<(Waiter, f64)> = stolen.into_iter().collect();
        if sort.is_multiple_of(SORTS.len()) {
            waiters.sort_by(|left, right| most(left.1, right.1));
        }
        let mut runners: Vec<(&str, f64)> = took.into_iter().collect();
        runners.sort_by(|left, right| {
            is_class(left.0)
                .cmp(&is_class(right.0))
                .then_with(|| most(left.1, right.1))
        });
        Self {
            waiters: waiters.into_iter().map(|(waiter, _)| waiter).collect(),
            runners: runners.into_iter().map(|(name, _)| name.to_owned()).collect(),
            cells,
            has_several_clusters: snapshot.has_several_clusters(),
        }
    }

    pub(crate) fn cores(&self, waiter: &Waiter, runner: &str) -> f64 {
        self.cells
            .get(&(waiter.clone(), runner.to_owned()))
            .copied()
            .unwrap_or(0.0)
    }

    /// The largest stolen figure: full heat.
    pub(crate) fn hottest(&self) -> f64 {
        let stolen = self
            .cells
            .iter()
            .filter(|((waiter, runner), _)| is_stolen(&waiter.name, runner));
        stolen
            .map(|(_, cores)| *cores)
            .filter(|cores| cores.is_finite())
            .fold(0.0, f64::max)
    }

    /// As text, at most `columns` runners of their own; the tenants beyond are summed in `~other`.
    pub(crate) fn table(&self, columns: usize) -> Table {
        let (classes, tenants): (Vec<&String>, Vec<&String>) =
            self.runners.iter().partition(|runner| is_class(runner));
        let (named, folded) = tenants.split_at(tenants.len().min(columns));
        let mut headings = vec![Column::name("WAITED \\ RAN", 0)];
        headings.extend(named.iter().map(|runner| Column::figure(runner.as_str(), "", 1)));
        if !folded.is_empty() {
            headings.push(Column::figure(OTHER, "", 1));
        }
        headings.extend(
            classes
                .iter()
                .map(|runner| Column::figure(runner.as_str(), "", 2)),
        );
        let rows = self.waiters.iter().map(|waiter| {
            let mut cells = vec![Cell::new(waiter.name.as_str())];
            cells.extend(named.iter().map(|runner| self.cell(waiter, runner)));
            if !folded.is_empty() {
                let sum = folded.iter().map(|runner| self.cores(waiter, runner)).sum();
                cells.push(Cell::new(cores_or_dot(sum)));
            }
            cells.extend(classes.iter().map(|runner| self.cell(waiter, runner)));
            Row { cells, note: None }
        });
        let table = Table {
            columns: headings,
            rows: rows.collect(),
        };
        let clusters = self.waiters.iter().map(|waiter| waiter.cluster.as_str());
        with_clusters(table, self.has_several_clusters, clusters)
    }

    fn cell(&self, waiter: &Waiter, runner: &str) -> Cell {
        let cores = self.cores(waiter, runner);
        let tone = if is_stolen(&waiter.name, runner) {
            super::tenants::tone_of_loss(cores)
        } else {
            Tone::Dim
        };
        Cell::toned(cores_or_dot(cores), tone)
    }
}

/// `<idle>`, `<steal>`, `<throttled>`, `<unresolved>`, `<unknown>`: nobody's.
fn is_class(name: &str) -> bool {
    name.starts_with('<')
}

/// Entered against another tenant. `system` serves everybody, and is no neighbour.
pub(crate) fn is_stolen(waiter: &str, runner: &str) -> bool {
    waiter != runner && runner != SYSTEM && !is_class(runner) && !is_class(waiter)
}
