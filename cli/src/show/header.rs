//! The state of the clusters in a few lines: what is judged, on how much sight, at what cost.

use std::collections::BTreeMap;

use super::doubts;
use super::zones::Zones;
use crate::model::{Node, Snapshot, State};
use crate::output::{Paint, Tone};
use crate::table::Cell;
use crate::text::{bytes, cores, count, percent, seconds};

/// Five reports missed at the default interval: the node's figures are old.
pub(super) const STALE_SECONDS: f64 = 5.0;

/// A line is a list of phrases.
pub(crate) type Line = Vec<Cell>;

pub(crate) fn lines(snapshot: &Snapshot) -> Vec<Line> {
    let mut lines = vec![state(snapshot), sight(snapshot)];
    lines.extend(doubts::lines(snapshot));
    let lacking = lacking(&snapshot.nodes);
    if !lacking.is_empty() {
        lines.push(lacking);
    }
    lines
}

pub(crate) fn to_text(lines: &[Line], paint: Paint) -> String {
    let phrase = |cell: &Cell| paint.tint(cell.tone, &cell.text);
    lines
        .iter()
        .map(|line| line.iter().map(phrase).collect::<Vec<_>>().join(" · ") + "\n")
        .collect()
}

fn state(snapshot: &Snapshot) -> Line {
    let nodes = &snapshot.nodes;
    let cpus: u64 = nodes.iter().map(|node| u64::from(node.online_cpus)).sum();
    let used: f64 = nodes.iter().map(|node| node.used_cores).sum();
    let number = |state| {
        snapshot
            .breaches
            .iter()
            .filter(|breach| breach.state == state)
            .count()
    };
    let verdict = match (number(State::Firing), number(State::Pending)) {
        (0, 0) => Cell::toned("no breach", Tone::Good),
        (0, pending) => Cell::toned(format!("{pending} pending"), Tone::Warn),
        (firing, 0) => Cell::toned(format!("{firing} firing"), Tone::Bad),
        (firing, pending) => Cell::toned(format!("{firing} firing, {pending} pending"), Tone::Bad),
    };
    let mut line = vec![verdict];
    line.extend(clusters(snapshot));
    line.extend([
        Cell::new(nodes_in_words(snapshot)),
        Cell::new(format!("{} of {cpus} cores used", cores(used))),
        Cell::new(count(snapshot.tenants.len(), "tenant", "tenants")),
        Cell::new(count(snapshot.pods.len(), "pod", "pods")),
    ]);
    line
}

fn clusters(snapshot: &Snapshot) -> Option<Cell> {
    match &snapshot.clusters[..] {
        [] => None,
        [one] => Some(Cell::new(format!("cluster {}", one.name))),
        several => Some(Cell::new(format!("{} clusters", several.len()))),
    }
}

/// "3 nodes in 2 zones, 1 hybrid"
fn nodes_in_words(snapshot: &Snapshot) -> String {
    let nodes = &snapshot.nodes;
    let mut words = count(nodes.len(), "node", "nodes");
    match (
        Zones::new(snapshot).count,
        nodes.iter().find(|node| !node.zone.is_empty()),
    ) {
        (1, Some(node)) => words += &format!(" in zone {}", node.zone),
        (0, _) | (_, None) => {}
        (zones, _) => words += &format!(" in {zones} zones"),
    }
    let hybrid = nodes.iter().filter(|node| node.hybrid).count();
    if hybrid > 0 {
        words += &format!(", {hybrid} hybrid");
    }
    words
}

fn sight(snapshot: &Snapshot) -> Line {
    let window = format!("window {}", seconds(snapshot.window_seconds));
    let nodes = &snapshot.nodes;
    if nodes.is_empty() {
        return vec![
            Cell::new(window),
            Cell::toned("no agent has reported", Tone::Warn),
        ];
    }
    let covered = nodes
        .iter()
        .map(|node| node.covered)
        .fold(f64::INFINITY, f64::min);
    let oldest = nodes.iter().map(|node| node.age_seconds).fold(0.0, f64::max);
    let low = |bad| if bad { Tone::Warn } else { Tone::Plain };
    let of_worst = if nodes.len() > 1 { " on the worst node" } else { "" };
    let mut line = vec![
        Cell::new(window),
        Cell::toned(
            format!("{} covered{of_worst}", percent(covered)),
            low(covered < 0.9),
        ),
        Cell::toned(
            format!("reports {} old{of_worst}", seconds(oldest)),
            low(oldest > STALE_SECONDS),
        ),
    ];
    line.extend(cost(nodes));
    line.extend(losses(snapshot));
    line
}

/// What the agents take themselves, all together.
fn cost(nodes: &[Node]) -> Option<Cell> {
    let agents: Vec<_> = nodes.iter().filter_map(|node| node.agent.as_ref()).collect();
    if agents.is_empty() {
        return None;
    }
    let used: f64 = agents.iter().map(|agent| agent.used_cores).sum();
    let memory: u64 = agents.iter().map(|agent| agent.memory_bytes).sum();
    let noun = if agents.len() == 1 { "agent" } else { "agents" };
    Some(Cell::new(format!(
        "{noun} {} cores, {}",
        cores(used),
        bytes(memory)
    )))
}

/// What was lost anywhere, by place and reason.
fn losses(snapshot: &Snapshot) -> Option<Cell> {
    let mut sums: BTreeMap<(&str, &str, &str), u64> = BTreeMap::new();
    for loss in snapshot
        .losses
        .iter()
        .chain(snapshot.nodes.iter().flat_map(|node| &node.losses))
    {
        if loss.count > 0 {
            let sum = sums.entry((&loss.stage, &loss.reason, &loss.unit)).or_default();
            *sum = sum.saturating_add(loss.count);
        }
    }
    let words: Vec<String> = sums
        .iter()
        .map(|((stage, reason, unit), sum)| format!("{stage} {reason} {sum} {unit}"))
        .collect();
    (!words.is_empty()).then(|| Cell::toned(format!("lost: {}", words.join(", ")), Tone::Warn))
}

/// Features that a node's kernel does not have, and why.
fn lacking(nodes: &[Node]) -> Line {
    let mut missing: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for node in nodes {
        for feature in node.features.iter().filter(|feature| !feature.present) {
            missing
                .entry((&feature.name, &feature.reason))
                .or_default()
                .push(&node.name);
        }
    }
    missing
        .into_iter()
        .map(|((feature, reason), nodes)| {
            let place = match nodes[..] {
                [node] => format!("{node} lacks"),
                _ => format!("{} nodes lack", nodes.len()),
            };
            let why = if reason.is_empty() {
                String::new()
            } else {
                format!(" ({reason})")
            };
            Cell::toned(format!("{place} {feature}{why}"), Tone::Dim)
        })
        .collect()
}
