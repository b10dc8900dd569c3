//! Scrape after scrape of one world.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::sync::Arc;

use partywall_aggregator_core::Now;
use partywall_aggregator_core::policy::Policy;
use partywall_proto::v1;

use super::prometheus::Exporter;
use crate::state::State;
use crate::wire;

const S: u64 = 1_000_000_000;

/// Nodes on which the host's own work runs, and a scraper with room for one series of each tenant beyond the fixed ones.
struct Nodes {
    state: Arc<State>,
    exporter: Exporter,
    seconds: u64,
}

impl Nodes {
    fn new() -> Self {
        let state = Arc::new(State::new(&Policy::default(), "default", []));
        let exporter = Exporter::new(Arc::clone(&state), 30, 10);
        Self {
            state,
            exporter,
            seconds: 1_000,
        }
    }

    /// A second in which each of these nodes reports: name, CPU time used since the start in ms.
    fn second(&mut self, nodes: &[(&str, u64)]) {
        self.seconds += 1;
        let now = Now {
            mono_ns: self.seconds * S,
            unix_ns: (1_700_000_000 + self.seconds) * S,
        };
        let mut world = self.state.clusters().next().unwrap().lock();
        for (node, ms) in nodes {
            let path = "/system.slice/kubelet.service".into();
            let report = v1::Report {
                node: (*node).into(),
                boot_id: "boot".into(),
                agent_start_unix_ns: 1,
                sequence: self.seconds,
                captured_boot_ns: self.seconds * S,
                online_cpus: 2,
                entities: vec![v1::Entity {
                    index: 1,
                    kind: Some(v1::entity::Kind::Host(v1::HostCgroup { path })),
                    born_boot_ns: 0,
                }],
                cpu: vec![v1::CpuSample {
                    entity: 1,
                    run_ns: ms * 1_000_000,
                    ..v1::CpuSample::default()
                }],
                ..v1::Report::default()
            };
            let receipt = world.ingest(wire::report(report).unwrap(), now);
            assert!(
                matches!(
                    receipt.outcome,
                    partywall_aggregator_core::report::Outcome::Accepted
                ),
                "{receipt:?}"
            );
        }
        world.judge(now);
    }

    /// Lets so much time pass that a node without a report is forgotten.
    fn later(&mut self) {
        self.seconds += 700;
    }

    /// The CPU time of `system` by node, now.
    fn used(&self) -> Vec<(String, f64)> {
        let text = self.exporter.scrape().unwrap();
        let begins = "partywall_tenant_cpu_seconds_total{cluster=\"default\",tenant=\"system\",node=\"";
        let rows = text.lines().filter_map(|line| line.strip_prefix(begins));
        rows.map(|row| {
            let (node, value) = row.split_once("\"} ").unwrap();
            (node.to_owned(), value.parse().unwrap())
        })
        .collect()
    }
}

#[test]
fn a_counter_in_other_survives_the_nodes_that_leave() {
    let mut nodes = Nodes::new();
    for n in 0..40 {
        nodes.second(&[("a", 1_000 + 900 * n), ("b", 700 * n), ("c", 100 * n)]);
    }
    let before = nodes.used();
    let [(a, _), (other, all)] = before.as_slice() else {
        panic!("{before:?}");
    };
    assert_eq!((a.as_str(), other.as_str()), ("a", "~other"));
    assert!(*all > 20.0, "b and c: {all}");

    // b is forgotten, and then a: c is the largest then, and has a name.
    nodes.later();
    nodes.second(&[("a", 60_000), ("c", 4_000)]);
    nodes.second(&[("a", 60_100), ("c", 4_100)]);
    let without_b = nodes.used();
    let other = |rows: &[(String, f64)]| rows.iter().find(|(node, _)| node == "~other").map(|(_, s)| *s);
    assert!(other(&without_b) >= Some(*all), "{without_b:?} after {before:?}");
    nodes.later();
    nodes.second(&[("c", 5_000)]);
    nodes.second(&[("c", 5_100)]);
    let only_c = nodes.used();
    assert!(only_c.iter().any(|(node, _)| node == "c"), "{only_c:?}");
    assert!(
        other(&only_c) >= other(&without_b),
        "{only_c:?} after {without_b:?}"
    );
}
