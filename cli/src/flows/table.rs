//! Flows as a table, and as lines where they are watched.

use std::collections::{BTreeMap, BTreeSet};

use super::Flow;
use crate::output::{Paint, Tone};
use crate::show::with_clusters;
use crate::table::{Cell, Column, Row, Table};
use crate::text::{bytes, utc};

pub(crate) fn table(flows: &[Flow]) -> Table {
    let clusters = flows.iter().map(|flow| flow.cluster.as_str());
    let several = clusters.clone().collect::<BTreeSet<_>>().len() > 1;
    let table = Table {
        columns: vec![
            Column::name("VERDICT", 0),
            Column::name("FROM", 0),
            Column::name("TENANT", 2),
            Column::name("TO", 0),
            Column::name("TENANT", 2),
            Column::name("PORT", 0),
            Column::figure("SENT", "", 1),
            Column::figure("RECEIVED", "", 1),
            Column::figure("RATE", "/s", 3),
            Column::figure("CONNECTIONS", "", 4),
            Column::name("SEEN BY", 6),
            Column::name("WHY", 5),
        ],
        rows: flows.iter().map(row).collect(),
    };
    with_clusters(table, several, clusters)
}

fn row(flow: &Flow) -> Row {
    Row {
        cells: vec![
            Cell::toned(flow.verdict.as_str(), tone(&flow.verdict)),
            Cell::new(flow.from.name()),
            Cell::toned(flow.from.tenant.as_str(), Tone::Dim),
            Cell::new(flow.to.name()),
            Cell::toned(flow.to.tenant.as_str(), Tone::Dim),
            Cell::new(port(flow)),
            Cell::new(bytes(flow.traffic.sent_bytes)),
            Cell::new(bytes(flow.traffic.received_bytes)),
            Cell::new(rate(flow.bytes_per_second)),
            Cell::new(connections(flow)),
            Cell::toned(flow.seen_by.as_str(), Tone::Dim),
            Cell::toned(flow.reason.as_str(), Tone::Dim),
        ],
        note: None,
    }
}

/// Where the fence is broken it shows.
pub(crate) fn tone(verdict: &str) -> Tone {
    match verdict {
        "leaked" => Tone::Bad,
        "open" => Tone::Warn,
        "allowed" | "within" => Tone::Good,
        _ => Tone::Dim,
    }
}

/// `80/TCP`, or the protocol alone.
fn port(flow: &Flow) -> String {
    match flow.port {
        0 => flow.protocol.clone(),
        port => format!("{port}/{}", flow.protocol),
    }
}

/// Below one byte a second nothing goes on.
pub(crate) fn rate(bytes_per_second: f64) -> String {
    if bytes_per_second >= 1.0 {
        bytes(bytes_per_second as u64)
    } else {
        "·".to_owned()
    }
}

/// Established of those opened, where the protocol has such; what failed in words.
fn connections(flow: &Flow) -> String {
    let traffic = &flow.traffic;
    if flow.protocol != "TCP" {
        return "·".to_owned();
    }
    let failed = [
        (traffic.refused, "refused"),
        (traffic.timed_out, "timed out"),
        (traffic.reset, "reset"),
    ];
    let failed: String = failed
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!(", {count} {what}"))
        .collect();
    format!("{} of {}{failed}", traffic.established, traffic.opened)
}

/// One flow on a line of its own, with the time. `cluster`: as far as it is to be told.
pub(crate) fn line(flow: &Flow, cluster: &str, judged_unix_seconds: f64, paint: Paint) -> String {
    let delivered = if flow.delivered { "" } else { " (not delivered)" };
    let place = if cluster.is_empty() {
        String::new()
    } else {
        format!(" in {cluster}")
    };
    format!(
        "{} {} {} [{}] -> {} [{}] {}{place}{delivered}: {}\n",
        utc(judged_unix_seconds),
        paint.tint(tone(&flow.verdict), &flow.verdict),
        flow.from.name(),
        flow.from.tenant,
        flow.to.name(),
        flow.to.tenant,
        port(flow),
        flow.reason,
    )
}

/// What was already said of each flow.
#[derive(Default)]
pub(crate) struct Known(BTreeMap<[String; 8], (String, bool)>);

impl Known {
    /// Flows that are new, or of which something else is said than before.
    pub(crate) fn news<'a>(&mut self, flows: &'a [Flow]) -> Vec<&'a Flow> {
        let mut before = std::mem::take(&mut self.0);
        let mut news = Vec::new();
        for flow in flows {
            let key = [
                flow.cluster.clone(),
                flow.from.name(),
                flow.from.uid.clone(),
                // A pod may have one of each family.
                flow.from.address.clone(),
                flow.to.name(),
                flow.to.uid.clone(),
                flow.to.address.clone(),
                port(flow),
            ];
            let said = (flow.verdict.clone(), flow.delivered);
            if before.remove(&key).as_ref() != Some(&said) && self.0.get(&key) != Some(&said) {
                news.push(flow);
            }
            self.0.insert(key, said);
        }
        // What is gone is said again should it come back.
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flows::model::{End, Traffic};

    fn flow(verdict: &str) -> Flow {
        let end = |namespace: &str, pod: &str| End {
            tenant: namespace.into(),
            namespace: namespace.into(),
            pod: pod.into(),
            ..End::default()
        };
        Flow {
            from: end("red", "client"),
            to: end("blue", "web"),
            protocol: "TCP".into(),
            port: 80,
            verdict: verdict.into(),
            reason: "no NetworkPolicy isolates either end".into(),
            seen_by: "both".into(),
            delivered: true,
            traffic: Traffic {
                sent_bytes: 2048,
                received_bytes: 10,
                opened: 3,
                established: 2,
                refused: 1,
                ..Traffic::default()
            },
            bytes_per_second: 512.0,
            ..Flow::default()
        }
    }

    #[test]
    fn a_row_says_who_whom_where_and_why() {
        let text = table(&[flow("open")]).to_text(Paint::Never);
        for wanted in [
            "open",
            "red/client",
            "blue/web",
            "80/TCP",
            "2.0 KiB",
            "512 B",
            "2 of 3, 1 refused",
            "both",
            "no NetworkPolicy",
        ] {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
    }

    #[test]
    fn clusters_are_named_where_there_are_several() {
        let mut other = flow("open");
        other.cluster = "eu-1".into();
        let one = table(std::slice::from_ref(&other)).to_text(Paint::Never);
        assert!(!one.contains("CLUSTER") && !one.contains("eu-1"), "{one}");
        let two = table(&[flow("open"), other.clone()]).to_text(Paint::Never);
        assert!(two.starts_with("CLUSTER ") && two.contains("\neu-1"), "{two}");
        assert!(line(&other, "eu-1", 0.0, Paint::Never).contains("80/TCP in eu-1: no NetworkPolicy"));
    }

    #[test]
    fn a_flow_is_news_once_and_when_its_verdict_changes() {
        let mut known = Known::default();
        assert_eq!(known.news(&[flow("open")]).len(), 1);
        assert_eq!(known.news(&[flow("open")]).len(), 0);
        assert_eq!(known.news(&[flow("leaked")]).len(), 1);
        assert_eq!(known.news(&[]).len(), 0);
        assert_eq!(known.news(&[flow("leaked")]).len(), 1, "it came back");
        let elsewhere = Flow {
            cluster: "eu-1".into(),
            ..flow("leaked")
        };
        let both = [flow("leaked"), elsewhere];
        assert_eq!(known.news(&both).len(), 1, "the same names in another cluster");
        assert_eq!(known.news(&both).len(), 0);
    }

    #[test]
    fn a_flow_of_each_family_is_news_once() {
        let of = |verdict: &str, from: &str, to: &str| {
            let mut flow = flow(verdict);
            flow.from.address = from.into();
            flow.to.address = to.into();
            flow
        };
        let mut known = Known::default();
        let both = [
            of("open", "10.0.0.1", "10.0.0.2"),
            of("leaked", "fd00::1", "fd00::2"),
        ];
        assert_eq!(known.news(&both).len(), 2);
        assert_eq!(known.news(&both).len(), 0);
        let open = [
            of("open", "10.0.0.1", "10.0.0.2"),
            of("open", "fd00::1", "fd00::2"),
        ];
        assert_eq!(known.news(&open), [&open[1]]);
    }
}
