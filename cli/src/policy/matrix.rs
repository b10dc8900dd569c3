//! All pairs of pods.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::ensure;
use partywall_aggregator_core::fence::{AskedPort, Pod, Verdict};
use serde::Serialize;

use super::Known;
use crate::args::PolicyCheck;
use crate::output::{Paint, Tone};
use crate::table::{Cell, Column, Row, Table};
use crate::text::clean;

/// Most pods in one matrix: a quarter of a million pairs. More is for `--namespace` to narrow down.
const MOST: usize = 500;

const LEGEND: &str = "\
yes: a policy isolates an end, and a rule admits it wherever one does; no: denied; open: no policy bears upon either end;
?: unknown; -: the pod itself, or it has no such port
";

#[derive(Debug, Serialize)]
pub(super) struct Matrix {
    protocol: String,
    /// As asked: a number, or a name that each receiving pod has its own number for.
    /// Absent for a protocol without ports.
    port: Option<String>,
    pods: Vec<PodRow>,
    pairs: Vec<Pair>,
    /// Pairs by verdict.
    counts: BTreeMap<&'static str, usize>,
    notes: Vec<&'static str>,
    #[serde(skip)]
    asked: String,
}

#[derive(Debug, Serialize)]
struct PodRow {
    name: String,
    tenant: Option<String>,
}

#[derive(Debug, Serialize)]
struct Pair {
    from: String,
    to: String,
    /// Absent: the receiving pod has no port of that name.
    verdict: Option<&'static str>,
}

impl Matrix {
    pub(super) fn new(known: &Known, args: &PolicyCheck) -> anyhow::Result<Self> {
        let within =
            |namespace: &str| args.namespace.is_empty() || args.namespace.iter().any(|n| n == namespace);
        let pods: Vec<_> = known
            .fence
            .pods()
            .iter()
            .filter(|p| within(&p.namespace.name))
            .collect();
        for namespace in &args.namespace {
            ensure!(
                pods.iter().any(|p| *p.namespace.name == **namespace),
                "--namespace: {namespace:?} has no pods"
            );
        }
        ensure!(
            !pods.is_empty(),
            "--cluster-from: {}: there is no pod in it, or none that has not ended",
            args.cluster_from.display()
        );
        ensure!(
            pods.len() <= MOST,
            "--matrix: {} pods are more than {MOST}; say which with --namespace",
            pods.len()
        );
        let mut pairs = Vec::new();
        let mut counts = BTreeMap::new();
        for (from, to, verdict) in known.fence.matrix(&args.port, |pod| within(&pod.namespace.name)) {
            let verdict = verdict.map(Verdict::as_str);
            if let Some(verdict) = verdict {
                *counts.entry(verdict).or_default() += 1;
            }
            pairs.push(Pair {
                from: from.to_string(),
                to: to.to_string(),
                verdict,
            });
        }
        let port = match &args.port.port {
            AskedPort::Number(port) => Some(port.to_string()),
            AskedPort::Named(name) => Some(name.to_string()),
            AskedPort::None => None,
        };
        let row = |pod: &&Arc<Pod>| PodRow {
            name: pod.to_string(),
            tenant: known.tenant(&pod.uid),
        };
        Ok(Self {
            protocol: args.port.protocol.to_string(),
            port,
            asked: args.port.to_string(),
            pods: pods.iter().map(row).collect(),
            pairs,
            counts,
            notes: known.without_policies().into_iter().collect(),
        })
    }

    /// A row for who opens, a column for who is to take it, by the number of its row.
    pub(super) fn to_text(&self) -> String {
        let mut columns = vec![
            Column::figure("#", "", 0),
            Column::name("FROM", 0),
            Column::name("TENANT", 0),
        ];
        columns.extend((1..=self.pods.len()).map(|n| Column::name(format!("→{n}"), 0)));
        let mut verdicts = self.pairs.iter();
        let mut rows = Vec::new();
        for (index, pod) in self.pods.iter().enumerate() {
            let mut cells = vec![
                Cell::new((index + 1).to_string()),
                Cell::new(clean(&pod.name)),
                Cell::new(clean(pod.tenant.as_deref().unwrap_or("?"))),
            ];
            for to in 0..self.pods.len() {
                // The pairs are in the same order, without those of a pod with itself.
                let verdict = if to == index {
                    None
                } else {
                    verdicts.next().and_then(|p| p.verdict)
                };
                cells.push(cell(verdict));
            }
            rows.push(Row { cells, note: None });
        }
        let counts: Vec<_> = self
            .counts
            .iter()
            .map(|(verdict, n)| format!("{n} {verdict}"))
            .collect();
        let table = Table { columns, rows }.to_text(Paint::for_stdout());
        let notes: String = self.notes.iter().map(|note| format!("note: {note}\n")).collect();
        format!("{table}\n{}: {}\n{LEGEND}{notes}", self.asked, counts.join(", "))
    }
}

fn cell(verdict: Option<&str>) -> Cell {
    match verdict {
        Some("allowed") => Cell::toned("yes", Tone::Good),
        Some("open") => Cell::toned("open", Tone::Warn),
        Some("denied") => Cell::toned("no", Tone::Bad),
        Some(_) => Cell::toned("?", Tone::Warn),
        None => Cell::toned("-", Tone::Dim),
    }
}
