//! Why the figures may be old or wrong, one line for each kind of reason: nodes that are silent, names that are old, clocks that differ.

use std::collections::BTreeMap;

use super::cluster_of;
use super::header::{Line, STALE_SECONDS};
use super::zones::Zones;
use crate::model::{Cluster, Node, Snapshot};
use crate::output::Tone;
use crate::table::Cell;
use crate::text::{count, seconds};

/// Named one by one in a line; the others are counted.
const NAMED: usize = 4;
/// Clocks that NTP keeps differ by milliseconds; by this much, logs no longer fit together.
const CLOCK_SECONDS: f64 = 5.0;

/// Empty: there is no reason.
pub(crate) fn lines(snapshot: &Snapshot) -> Vec<Line> {
    let mut lines = vec![silent(snapshot), names(snapshot), clocks(snapshot)];
    lines.retain(|line| !line.is_empty());
    lines
}

/// Nodes whose agents do not report; a zone where none does is said as one.
fn silent(snapshot: &Snapshot) -> Line {
    let is_silent = |node: &&Node| node.age_seconds > STALE_SECONDS;
    let mut zones: BTreeMap<(&str, &str), Vec<&Node>> = BTreeMap::new();
    for node in &snapshot.nodes {
        zones.entry((&node.cluster, &node.zone)).or_default().push(node);
    }
    let several_zones = zones.len() > 1;
    let (mut line, mut alone) = (Line::new(), Vec::new());
    for ((cluster, zone), nodes) in zones {
        let whole = several_zones && nodes.len() > 1 && !zone.is_empty() && nodes.iter().all(is_silent);
        if !whole {
            alone.extend(nodes.into_iter().filter(is_silent));
            continue;
        }
        let of = match cluster_of(snapshot, cluster) {
            "" => String::new(),
            cluster => format!(" of {cluster}"),
        };
        let newest = nodes
            .iter()
            .map(|node| node.age_seconds)
            .fold(f64::INFINITY, f64::min);
        line.push(Cell::toned(
            format!(
                "zone {zone}{of}: all {} nodes silent for {}",
                nodes.len(),
                seconds(newest)
            ),
            Tone::Bad,
        ));
    }
    alone.sort_by(|left, right| right.age_seconds.total_cmp(&left.age_seconds));
    let say = |node: &&Node| {
        let said = format!(
            "{} silent for {}",
            label(snapshot, node),
            seconds(node.age_seconds)
        );
        Cell::toned(said, Tone::Warn)
    };
    line.extend(alone.iter().take(NAMED).map(say));
    line.extend(more(alone.len(), "silent"));
    line
}

fn names(snapshot: &Snapshot) -> Line {
    let mut line = Line::new();
    for cluster in &snapshot.clusters {
        let of = match cluster_of(snapshot, &cluster.name) {
            "" => String::new(),
            name => format!("{name}: "),
        };
        line.extend(old(cluster).map(|old| Cell::toned(format!("{of}{old}"), Tone::Warn)));
        if let Some(first) = cluster.problems.first() {
            let others = match cluster.problems.len() - 1 {
                0 => String::new(),
                others => format!(" (and {})", count(others, "more problem", "more problems")),
            };
            line.push(Cell::toned(format!("{of}{first}{others}"), Tone::Warn));
        }
    }
    line
}

/// "names 4 min 2 s old (API away)"
fn old(cluster: &Cluster) -> Option<String> {
    let away = match cluster.source.as_str() {
        "api" => "API away",
        "files" => "files cannot be read",
        _ => return None,
    };
    match (cluster.synced, cluster.stale, cluster.age_seconds) {
        (true, false, _) => None,
        (true, true, Some(age)) => Some(format!("names {} old ({away})", seconds(age))),
        (true, true, None) => Some(format!("names are old ({away})")),
        (false, true, _) => Some(format!("no names yet ({away})")),
        (false, false, _) => Some("no names yet, they are being read".to_owned()),
    }
}

fn clocks(snapshot: &Snapshot) -> Line {
    let known = snapshot
        .nodes
        .iter()
        .filter_map(|node| Some((node, node.clock_offset_seconds?)));
    let known: Vec<(&Node, f64)> = known.collect();
    let mut off: Vec<_> = known
        .iter()
        .filter(|(_, offset)| offset.abs() >= CLOCK_SECONDS)
        .collect();
    let side = |offset: f64| if offset > 0.0 { "ahead" } else { "behind" };
    // Where all differ to the same side it is the one clock that they are held against.
    if let [(_, first), _, ..] = off[..]
        && off.len() == known.len()
        && off.iter().all(|(_, offset)| side(*offset) == side(*first))
    {
        let least = off
            .iter()
            .map(|(_, offset)| offset.abs())
            .fold(f64::INFINITY, f64::min);
        let than = if *first > 0.0 { "ahead of" } else { "behind" };
        let said = format!(
            "clocks of all {} nodes {} or more {than} the aggregator's",
            off.len(),
            seconds(least)
        );
        return vec![Cell::toned(said, Tone::Warn)];
    }
    off.sort_by(|left, right| right.1.abs().total_cmp(&left.1.abs()));
    let say = |(node, offset): &&(&Node, f64)| {
        let said = format!(
            "clock of {} {} {}",
            label(snapshot, node),
            seconds(offset.abs()),
            side(*offset)
        );
        Cell::toned(said, Tone::Warn)
    };
    let mut line: Line = off.iter().take(NAMED).map(say).collect();
    line.extend(more(off.len(), "with a wrong clock"));
    line
}

fn more(all: usize, what: &str) -> Option<Cell> {
    let more = all.saturating_sub(NAMED);
    let said = format!("{} {what}", count(more, "more node", "more nodes"));
    (more > 0).then(|| Cell::toned(said, Tone::Warn))
}

/// "eu-1/node-a (zone eu-west-1a, hybrid)", as far as that says something.
fn label(snapshot: &Snapshot, node: &Node) -> String {
    let name = match cluster_of(snapshot, &node.cluster) {
        "" => node.name.clone(),
        cluster => format!("{cluster}/{}", node.name),
    };
    let mut what = Vec::new();
    if Zones::new(snapshot).are_several() && !node.zone.is_empty() {
        what.push(format!("zone {}", node.zone));
    }
    if node.hybrid {
        what.push("hybrid".to_owned());
    }
    if what.is_empty() {
        return name;
    }
    format!("{name} ({})", what.join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::header::to_text;
    use super::*;
    use crate::output::Paint;
    use crate::sample;

    fn said(snapshot: &Snapshot) -> String {
        to_text(&lines(snapshot), Paint::Never)
    }

    fn node(cluster: &str, zone: &str, name: &str, age_seconds: f64) -> Node {
        Node {
            cluster: cluster.into(),
            zone: zone.into(),
            name: name.into(),
            age_seconds,
            ..Node::default()
        }
    }

    fn of(nodes: Vec<Node>) -> Snapshot {
        Snapshot {
            nodes,
            ..Snapshot::default()
        }
    }

    #[test]
    fn what_is_well_is_not_mentioned() {
        assert_eq!(said(&sample::snapshot()), "");
        assert_eq!(said(&Snapshot::default()), "");
    }

    #[test]
    fn silent_nodes_are_named_with_their_zones() {
        let mut nodes = vec![node("", "a", "n1", 1.0), node("", "b", "n2", 65.0)];
        nodes[1].hybrid = true;
        assert_eq!(
            said(&of(nodes.clone())),
            "n2 (zone b, hybrid) silent for 1 min 5 s\n"
        );
        nodes.push(node("", "b", "n3", 20.0));
        assert_eq!(said(&of(nodes.clone())), "zone b: all 2 nodes silent for 20 s\n");
        for n in 0..6 {
            nodes.push(node("", "a", &format!("n1{n}"), 30.0));
        }
        let text = said(&of(nodes));
        assert!(
            text.starts_with("zone b: all 2 nodes silent for 20 s · n10 (zone a) silent for 30 s · "),
            "{text}"
        );
        assert!(text.ends_with(" · 2 more nodes silent\n"), "{text}");
        let everywhere = of(vec![node("", "a", "n1", 9.0), node("", "a", "n2", 9.0)]);
        assert_eq!(said(&everywhere), "n1 silent for 9 s · n2 silent for 9 s\n");
    }

    #[test]
    fn names_that_are_old_are_said_to_be() {
        let cluster = |name: &str, source: &str, synced: bool, stale: bool, age: Option<f64>| Cluster {
            name: name.into(),
            source: source.into(),
            synced,
            stale,
            age_seconds: age,
            ..Cluster::default()
        };
        let mut snapshot = Snapshot {
            clusters: vec![cluster("default", "api", true, true, Some(242.0))],
            ..Snapshot::default()
        };
        assert_eq!(said(&snapshot), "names 4 min 2 s old (API away)\n");
        snapshot.clusters[0].problems = vec!["nodes: forbidden".into(), "all.yaml: broken".into()];
        snapshot.clusters.extend([
            cluster("eu-1", "files", true, false, Some(1.0)),
            cluster("us-1", "api", false, false, None),
            cluster("us-2", "api", false, true, None),
            cluster("us-3", "none", false, false, None),
        ]);
        assert_eq!(
            said(&snapshot),
            "default: names 4 min 2 s old (API away) · default: nodes: forbidden (and 1 more problem) · \
             us-1: no names yet, they are being read · us-2: no names yet (API away)\n"
        );
    }

    #[test]
    fn a_clock_that_is_off_is_told_from_ours_being_off() {
        let with = |offsets: &[Option<f64>]| {
            let nodes = offsets.iter().enumerate().map(|(n, offset)| Node {
                clock_offset_seconds: *offset,
                ..node("", "", &format!("n{n}"), 1.0)
            });
            said(&of(nodes.collect()))
        };
        assert_eq!(with(&[Some(0.2), Some(-4.9), None]), "");
        assert_eq!(
            with(&[Some(0.2), Some(3_600.0), Some(-7.0)]),
            "clock of n1 1 h 0 min ahead · clock of n2 7 s behind\n"
        );
        assert_eq!(
            with(&[Some(-3_600.0), Some(-3_599.0), None]),
            "clocks of all 2 nodes 59 min 59 s or more behind the aggregator's\n"
        );
        assert_eq!(
            with(&[Some(3_600.0), Some(3_600.0)]),
            "clocks of all 2 nodes 1 h 0 min or more ahead of the aggregator's\n"
        );
        assert_eq!(with(&[Some(f64::NAN)]), "");
        assert_eq!(with(&[Some(3_600.0)]), "clock of n0 1 h 0 min ahead\n");
    }
}
