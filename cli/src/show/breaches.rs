//! The breaches' view: one row each, and the finding in words below it.

use super::tenants::told;
use super::zones::Zones;
use super::{Sort, admits, cluster_of, most, pick, with_clusters};
use crate::model::{Breach, Snapshot, State};
use crate::output::{Paint, Tone};
use crate::table::{Cell, Column, Row, Table};
use crate::text::{bytes, percent, seconds, utc};

pub(crate) const SORTS: &[Sort<Breach>] = &[
    Sort {
        name: "state",
        by: |left, right| left.state.cmp(&right.state).then_with(|| newest(left, right)),
    },
    Sort {
        name: "newest",
        by: newest,
    },
    Sort {
        name: "tenant",
        by: |left, right| left.tenant.cmp(&right.tenant),
    },
];

fn newest(left: &Breach, right: &Breach) -> std::cmp::Ordering {
    most(left.since_unix_seconds, right.since_unix_seconds)
}

/// Those that the filter admits, in order.
pub(crate) fn listed<'a>(snapshot: &'a Snapshot, sort: usize, filter: &str) -> Vec<&'a Breach> {
    let mut breaches: Vec<&Breach> = snapshot
        .breaches
        .iter()
        .filter(|breach| {
            admits(
                filter,
                &[
                    &breach.tenant,
                    &breach.against,
                    &breach.subject,
                    &breach.node,
                    &breach.kind,
                    cluster_of(snapshot, &breach.cluster),
                ],
            )
        })
        .collect();
    breaches.sort_by(|left, right| {
        (pick(SORTS, sort).by)(left, right).then_with(|| left.fingerprint.cmp(&right.fingerprint))
    });
    breaches
}

/// `breaches`: of the snapshot. `notes`: with each finding in words below its row.
pub(crate) fn table(snapshot: &Snapshot, breaches: &[&Breach], notes: bool) -> Table {
    let row = |breach: &Breach| Row {
        cells: vec![
            Cell::toned(breach.state.name(), tone(breach.state)),
            Cell::toned(breach.kind.as_str(), Tone::Strong),
            Cell::toned(breach.tenant.as_str(), tone(breach.state)),
            Cell::new(or_dash(&breach.against)),
            Cell::new(or_dash(&breach.subject)),
            Cell::new(or_dash(&breach.node)),
            Cell::new(seconds(lasted_seconds(breach, snapshot.judged_unix_seconds))),
            Cell::new(percent(breach.covered)),
            told(breach.confidence, percent),
            Cell::toned(breach.fingerprint.chars().take(8).collect::<String>(), Tone::Dim),
        ],
        note: notes
            .then(|| breach.summary.clone())
            .filter(|summary| !summary.is_empty()),
    };
    let table = Table {
        columns: vec![
            Column::name("STATE", 0),
            Column::name("BREACH", 0),
            Column::name("TENANT", 0),
            Column::name("AGAINST", 1),
            Column::name("SUBJECT", 3),
            Column::name("NODE", 4),
            Column::figure("FOR", "", 2),
            Column::figure("COVERED", "", 5),
            Column::figure("CONFIDENCE", "", 6),
            // What `partywall explain` asks for.
            Column::name("ID", 3),
        ],
        rows: breaches.iter().map(|breach| row(breach)).collect(),
    };
    let clusters = breaches.iter().map(|breach| breach.cluster.as_str());
    with_clusters(table, snapshot.has_several_clusters(), clusters)
}

/// From its begin to its end, or to now.
fn lasted_seconds(breach: &Breach, now_unix_seconds: f64) -> f64 {
    // The watch of the aggregator's node may step back: an age below zero says nothing.
    (breach.resolved_unix_seconds.unwrap_or(now_unix_seconds) - breach.since_unix_seconds).max(0.0)
}

fn or_dash(name: &str) -> &str {
    if name.is_empty() { "-" } else { name }
}

pub(crate) const fn tone(state: State) -> Tone {
    match state {
        State::Firing => Tone::Bad,
        State::Pending => Tone::Warn,
        State::Resolved => Tone::Good,
        State::Unknown => Tone::Dim,
    }
}

/// One change of one breach, for a stream. `cluster`: as far as it is to be told.
pub(crate) fn line(breach: &Breach, cluster: &str, paint: Paint) -> String {
    let at = match breach.state {
        State::Firing => breach.firing_unix_seconds,
        State::Resolved => breach.resolved_unix_seconds,
        State::Pending | State::Unknown => None,
    };
    let against = if breach.against.is_empty() {
        String::new()
    } else {
        format!(" against {}", breach.against)
    };
    let place = if cluster.is_empty() {
        String::new()
    } else {
        format!(" in {cluster}")
    };
    let summary = if breach.summary.is_empty() {
        String::new()
    } else {
        format!(": {}", breach.summary)
    };
    format!(
        "{} {} {} {}{against}{place}{summary}\n",
        utc(at.unwrap_or(breach.since_unix_seconds)),
        paint.tint(tone(breach.state), &format!("{:<8}", breach.state.name())),
        paint.tint(Tone::Strong, &breach.kind),
        paint.tint(tone(breach.state), &breach.tenant),
    )
}

/// What is behind one breach: the selected one's page in `top`.
pub(crate) fn details(breach: &Breach, snapshot: &Snapshot) -> Vec<(String, String)> {
    let mut lines = vec![
        ("finding".to_owned(), breach.summary.clone()),
        (
            "since".to_owned(),
            format!(
                "{} ({})",
                utc(breach.since_unix_seconds),
                seconds(lasted_seconds(breach, snapshot.judged_unix_seconds))
            ),
        ),
    ];
    lines.extend(place(breach, snapshot).map(|place| ("where".to_owned(), place)));
    let mut moment = |name: &str, at: Option<f64>| {
        if let Some(at) = at {
            lines.push((name.to_owned(), utc(at)));
        }
    };
    moment("firing", breach.firing_unix_seconds);
    moment("resolved", breach.resolved_unix_seconds);
    for culprit in &breach.culprits {
        let took = match culprit.over_request_bytes {
            Some(over) => format!(
                "{} above its request{}, {} of all that is",
                bytes(over),
                growing(culprit.growth_bytes_per_second),
                percent(culprit.share)
            ),
            None => format!(
                "{} cores, {} of what was stolen",
                crate::text::cores(culprit.stolen_cores),
                percent(culprit.share)
            ),
        };
        lines.push((
            "culprit".to_owned(),
            format!("{} of {}: {took}", culprit.pod, culprit.tenant),
        ));
    }
    for figure in &breach.evidence {
        lines.push((figure.name.clone(), figure_text(&figure.name, figure.value)));
    }
    if let Some(confidence) = breach.confidence {
        lines.push((
            "confidence".to_owned(),
            format!("{}: the cause is inferred", percent(confidence)),
        ));
    }
    lines.push((
        "covered".to_owned(),
        format!("{} of the window was seen", percent(breach.covered)),
    ));
    lines.push(("fingerprint".to_owned(), breach.fingerprint.clone()));
    lines
}

/// "node-a, zone eu-west-1a, cluster eu-1", as far as that says something.
fn place(breach: &Breach, snapshot: &Snapshot) -> Option<String> {
    let zone = Zones::new(snapshot).of_node(&breach.cluster, &breach.node);
    let parts = [
        ("", breach.node.as_str()),
        ("zone ", zone),
        ("cluster ", cluster_of(snapshot, &breach.cluster)),
    ];
    let told: Vec<String> = parts
        .into_iter()
        .filter(|(_, name)| !name.is_empty())
        .map(|(what, name)| format!("{what}{name}"))
        .collect();
    (!told.is_empty()).then(|| told.join(", "))
}

/// ", growing by 20.0 MiB/s"
fn growing(bytes_per_second: Option<f64>) -> String {
    match bytes_per_second {
        Some(growth) if growth >= 1.0 => format!(", growing by {}/s", bytes(growth as u64)),
        _ => String::new(),
    }
}

/// Bytes as such; others with up to three decimals, none that say nothing.
fn figure_text(name: &str, value: f64) -> String {
    if name.ends_with("_bytes") && value >= 0.0 {
        return bytes(value as u64);
    }
    if name.ends_with("_bytes_per_second") {
        let sign = if value < 0.0 { "-" } else { "" };
        return format!("{sign}{}/s", bytes(value.abs() as u64));
    }
    let text = format!("{value:.3}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}
