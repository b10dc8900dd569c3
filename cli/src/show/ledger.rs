//! The ledger as a matrix: a row for each tenant that waited, a column for each that ran meanwhile.

use std::collections::BTreeMap;

use super::{admits, most};
use crate::model::Snapshot;
use crate::output::Tone;
use crate::table::{Cell, Column, Row, Table};
use crate::text::{cores_or_dot, cut};

/// The tenant of everything that is no pod.
const SYSTEM: &str = "system";
/// Runners beyond those that have a column of their own.
const OTHER: &str = "~other";

pub(crate) const SORTS: &[&str] = &["stolen", "name"];

/// Waiters × runners, in cores.
#[derive(Debug, Default)]
pub(crate) struct Matrix {
    pub waiters: Vec<String>,
    pub runners: Vec<String>,
    cells: BTreeMap<(String, String), f64>,
}

impl Matrix {
    /// Rows by what was stolen from them, or by name. Columns: tenants by what they took, then the classes.
    pub(crate) fn new(snapshot: &Snapshot, sort: usize, filter: &str) -> Self {
        let mut cells = BTreeMap::new();
        let mut stolen: BTreeMap<&str, f64> = BTreeMap::new();
        let mut took: BTreeMap<&str, f64> = BTreeMap::new();
        for cell in &snapshot.ledger {
            let weight = if is_stolen(&cell.waiter, &cell.runner) {
                cell.cores
            } else {
                0.0
            };
            *took.entry(&cell.runner).or_default() += weight;
            if !admits(filter, &[&cell.waiter]) {
                continue;
            }
            *stolen.entry(&cell.waiter).or_default() += weight;
            *cells
                .entry((cell.waiter.clone(), cell.runner.clone()))
                .or_default() += cell.cores;
        }
        let mut waiters: Vec<(&str, f64)> = stolen.into_iter().collect();
        if !sort.is_multiple_of(SORTS.len()) {
            waiters.sort_by(|left, right| left.0.cmp(right.0));
        } else {
            waiters.sort_by(|left, right| most(left.1, right.1));
        }
        let mut runners: Vec<(&str, f64)> = took.into_iter().collect();
        runners.sort_by(|left, right| {
            is_class(left.0)
                .cmp(&is_class(right.0))
                .then_with(|| most(left.1, right.1))
        });
        let names =
            |ordered: Vec<(&str, f64)>| ordered.into_iter().map(|(name, _)| name.to_owned()).collect();
        Self {
            waiters: names(waiters),
            runners: names(runners),
            cells,
        }
    }

    pub(crate) fn cores(&self, waiter: &str, runner: &str) -> f64 {
        self.cells
            .get(&(waiter.to_owned(), runner.to_owned()))
            .copied()
            .unwrap_or(0.0)
    }

    /// The largest stolen figure: full heat.
    pub(crate) fn hottest(&self) -> f64 {
        let stolen = self
            .cells
            .iter()
            .filter(|((waiter, runner), _)| is_stolen(waiter, runner));
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
        headings.extend(named.iter().map(|runner| Column::figure(cut(runner, 16), "", 1)));
        if !folded.is_empty() {
            headings.push(Column::figure(OTHER, "", 1));
        }
        headings.extend(
            classes
                .iter()
                .map(|runner| Column::figure(runner.as_str(), "", 2)),
        );
        let rows = self.waiters.iter().map(|waiter| {
            let mut cells = vec![Cell::new(waiter.as_str())];
            cells.extend(named.iter().map(|runner| self.cell(waiter, runner)));
            if !folded.is_empty() {
                let sum = folded.iter().map(|runner| self.cores(waiter, runner)).sum();
                cells.push(Cell::new(cores_or_dot(sum)));
            }
            cells.extend(classes.iter().map(|runner| self.cell(waiter, runner)));
            Row { cells, note: None }
        });
        Table {
            columns: headings,
            rows: rows.collect(),
        }
    }

    fn cell(&self, waiter: &str, runner: &str) -> Cell {
        let cores = self.cores(waiter, runner);
        let tone = if is_stolen(waiter, runner) {
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
