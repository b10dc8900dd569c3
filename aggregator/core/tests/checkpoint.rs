//! A world that is lost and made anew from its checkpoints and its journal has the totals of one that never ended.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod sim;

use std::collections::BTreeMap;
use std::sync::Arc;

use partywall_aggregator_core::checkpoint::{Checkpoint, Mark};
use partywall_aggregator_core::identity::Cluster;
use partywall_aggregator_core::policy::Policy;
use partywall_aggregator_core::report::{EntityKind, Outcome, Report};
use partywall_aggregator_core::{Now, World};
use proptest::prelude::*;
use sim::{Did, MS, S, Sim, uid};

enum Entry {
    Report(Box<Report>, bool),
    Mark(Mark),
}

/// A world with a journal, as the aggregator keeps it on disk.
struct Durable {
    world: World,
    log: Vec<Entry>,
    /// What of the log the checkpoint holds.
    saved: Option<(usize, Checkpoint)>,
}

fn world() -> World {
    let mut world = World::new("test".into(), Policy::default());
    world.begin_journal();
    world
}

type Sums = (
    BTreeMap<String, u64>,
    BTreeMap<String, u64>,
    BTreeMap<String, (Vec<u64>, u64)>,
);

fn sums(world: &World) -> Sums {
    let run = world.run_totals().into_iter();
    let ledger = world.ledger_totals();
    let ledger = ledger.cells();
    let waits = world.wait_totals().into_iter();
    let some = |n: &u64| *n > 0;
    (
        run.map(|r| (format!("{} {}", r.node, r.tenant), r.ns))
            .filter(|(_, n)| some(n))
            .collect(),
        ledger
            .map(|c| (format!("{} {}>{}", c.node, c.waiter, c.runner), c.ns))
            .filter(|(_, n)| some(n))
            .collect(),
        waits
            .filter(|(_, w)| some(&w.wait_ns))
            .map(|(t, w)| (t.to_string(), (w.buckets.to_vec(), w.wait_ns)))
            .collect(),
    )
}

impl Durable {
    fn note(&mut self) {
        let marks = self.world.take_marks();
        self.log.extend(marks.into_iter().map(Entry::Mark));
    }

    fn ingest(&mut self, report: Report, now: Now) -> Outcome {
        let outcome = self.world.ingest(report.clone(), now).outcome;
        self.note();
        match outcome {
            Outcome::Accepted => self.log.push(Entry::Report(Box::new(report), false)),
            Outcome::Refused(_) => self.log.push(Entry::Report(Box::new(report), true)),
            Outcome::Duplicate => {}
        }
        outcome
    }

    fn judge(&mut self, now: Now) {
        self.world.judge(now);
        self.note();
    }

    fn checkpoint(&mut self) {
        let state = self.world.checkpoint("node-a");
        self.saved = state.map(|state| (self.log.len(), state));
    }

    fn crash(&mut self, cluster: &Cluster, now: Now) {
        let before = sums(&self.world);
        self.world = world();
        let from = self.saved.clone().map_or(0, |(at, state)| {
            self.world.restore(state, now);
            at
        });
        for entry in &self.log[from..] {
            match entry {
                Entry::Report(report, refused) => {
                    self.world.replay_report((**report).clone(), *refused, now);
                }
                Entry::Mark(mark) => self.world.replay_mark(mark.clone(), true),
            }
        }
        self.world.end_replay(now);
        assert_eq!(
            sums(&self.world),
            before,
            "what was exported is what is there now"
        );
        self.world.set_cluster(Arc::new(cluster.clone()), now);
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// A second, reported and (or not yet) judged: (what, who, other, ms).
    Second(Vec<(u8, usize, usize, u64)>, bool),
    /// Its object is known this many seconds later.
    Begin(u8, u64),
    End(usize),
    RestartAgent,
    /// A report with names and a counter that went back.
    Refused,
    /// The last report is sent again.
    Again,
    Checkpoint,
    Crash,
    Silence(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    let did = (0u8..6, 0usize..8, 0usize..8, 1u64..400);
    prop_oneof![
        8 => (prop::collection::vec(did, 0..8), any::<bool>()).prop_map(|(d, j)| Step::Second(d, j)),
        3 => (0u8..3, 0u64..3).prop_map(|(t, late)| Step::Begin(t, late)),
        1 => (0usize..8).prop_map(Step::End),
        1 => Just(Step::RestartAgent),
        1 => Just(Step::Refused),
        1 => Just(Step::Again),
        2 => Just(Step::Checkpoint),
        2 => Just(Step::Crash),
        1 => (1u64..40).prop_map(Step::Silence),
    ]
}

struct Test {
    sim: Sim,
    durable: Durable,
    /// Entity and UID.
    live: Vec<(u32, String)>,
    /// Seconds until an object is known.
    late: Vec<(u64, String, String)>,
    last: Option<Report>,
    pods: u32,
}

impl Test {
    fn new() -> Self {
        let mut sim = Sim::new("{}");
        sim.world = world();
        sim.restart_agent();
        let durable = Durable {
            world: world(),
            log: Vec::new(),
            saved: None,
        };
        let mut test = Self {
            sim,
            durable,
            live: Vec::new(),
            late: Vec::new(),
            last: None,
            pods: 0,
        };
        test.begin(0, 0);
        test.begin(1, 0);
        test.send(&[]);
        test
    }

    fn publish(&mut self) {
        self.sim.publish();
        let cluster = Arc::new(self.sim.cluster.clone());
        self.durable.world.set_cluster(cluster, self.sim.now);
    }

    fn begin(&mut self, tenant: u8, late: u64) {
        self.pods += 1;
        let (namespace, name) = (format!("t{tenant}"), format!("p{}", self.pods));
        let uid = uid(&namespace, &name);
        let entity = self.sim.entity(EntityKind::Pod(Arc::from(uid.as_str())));
        self.live.push((entity, uid));
        self.late.push((late, namespace, name));
        self.named();
    }

    fn named(&mut self) {
        for (_, namespace, name) in self.late.extract_if(.., |(left, ..)| *left == 0) {
            self.sim.object(&namespace, &name, 100);
        }
        self.publish();
    }

    fn send(&mut self, did: &[Did]) {
        let report = self.sim.make_report(did);
        let one = self.sim.world.ingest(report.clone(), self.sim.now).outcome;
        let two = self.durable.ingest(report.clone(), self.sim.now);
        assert_eq!(one, Outcome::Accepted);
        assert_eq!(two, Outcome::Accepted);
        self.last = Some(report);
    }

    fn judge(&mut self) {
        self.sim.world.judge(self.sim.now);
        self.durable.judge(self.sim.now);
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Second(did, judged) => {
                self.sim.pass(S);
                self.late
                    .iter_mut()
                    .for_each(|(left, ..)| *left = left.saturating_sub(1));
                let mut list = Vec::new();
                for (what, who, other, ms) in did {
                    let at = |i: usize| self.live[i % self.live.len()].0;
                    let (who, other) = (at(*who), at(*other));
                    list.push(match what {
                        0 => Did::Ran(who, *ms),
                        1 | 2 if who != other => Did::Waited(who, other, *ms),
                        3 => Did::Idle(who, *ms),
                        4 => Did::Throttled(who, *ms),
                        _ => Did::WaitedForItself(who, *ms),
                    });
                }
                self.send(&list);
                self.named();
                if *judged {
                    self.judge();
                }
            }
            Step::Begin(tenant, late) => self.begin(*tenant, *late),
            Step::End(i) if self.live.len() > 2 && self.late.is_empty() => {
                self.judge();
                let (index, uid) = self.live.remove(i % self.live.len());
                self.sim.ends(index);
                // Its object is gone before its last counters are.
                self.sim.cluster.pods.retain(|pod| pod.uid != uid);
                self.publish();
            }
            Step::End(_) => {}
            Step::RestartAgent => {
                self.sim.pass(S);
                self.sim.restart_agent();
                self.send(&[]);
            }
            Step::Refused => {
                let mut report = self.sim.make_report(&[Did::Ran(self.live[0].0, 1)]);
                report.captured_boot_ns += MS;
                report.cpu[0].waits = vec![1; 99];
                let one = self.sim.world.ingest(report.clone(), self.sim.now).outcome;
                let two = self.durable.ingest(report, self.sim.now);
                assert!(matches!((one, two), (Outcome::Refused(_), Outcome::Refused(_))));
            }
            Step::Again => {
                let report = self.last.clone().expect("one was sent");
                let outcome = self.durable.ingest(report, self.sim.now);
                assert!(matches!(outcome, Outcome::Duplicate), "{outcome:?}");
            }
            Step::Checkpoint => self.durable.checkpoint(),
            Step::Crash => {
                let cluster = self.sim.cluster.clone();
                self.durable.crash(&cluster, self.sim.now);
            }
            Step::Silence(seconds) => {
                self.sim.pass(seconds * S);
                self.late.iter_mut().for_each(|(left, ..)| *left = 0);
                self.named();
                self.judge();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn no_total_is_lost_with_the_process(steps in prop::collection::vec(any_step(), 1..60)) {
        let mut test = Test::new();
        for step in &steps {
            test.step(step);
        }
        test.step(&Step::Silence(20));
        prop_assert_eq!(sums(&test.durable.world), sums(&test.sim.world));
        // What is in the windows is what left them: nothing stays behind.
        test.step(&Step::Crash);
        test.step(&Step::Silence(20));
        prop_assert_eq!(sums(&test.durable.world), sums(&test.sim.world));
    }
}

#[test]
fn what_the_waits_of_a_forgotten_node_were_stays() {
    let mut test = Test::new();
    let did = (1, 0, 1, 300);
    for _ in 0..3 {
        test.step(&Step::Second(vec![did], true));
    }
    test.step(&Step::Checkpoint);
    test.step(&Step::Silence(700));
    let (run, _, waits) = sums(&test.durable.world);
    assert!(run.is_empty(), "the node's series end with it");
    assert_eq!(waits["t0"].1, 900 * MS);
    test.step(&Step::Crash);
    assert_eq!(sums(&test.durable.world), sums(&test.sim.world));
}

#[test]
fn what_waits_for_a_name_waits_as_long_after_a_restart() {
    let run = |crash: bool| {
        let mut test = Test::new();
        test.step(&Step::Second(vec![], false));
        // Two long intervals; the first is in the totals and still in the window.
        test.step(&Step::Silence(15));
        test.step(&Step::Second(vec![], false));
        test.step(&Step::Silence(4));
        test.step(&Step::Begin(0, 2));
        test.step(&Step::Second(vec![(0, 2, 0, 1)], false));
        if crash {
            test.step(&Step::Crash);
        }
        test.step(&Step::Second(vec![], false));
        test.step(&Step::Silence(20));
        sums(&test.durable.world).0
    };
    let named = BTreeMap::from([("node-a t0".to_owned(), MS)]);
    assert_eq!([run(false), run(true)], [named.clone(), named]);
}

#[test]
fn what_is_sent_again_ends_no_wait_for_a_name() {
    let mut test = Test::new();
    test.step(&Step::Silence(40));
    test.step(&Step::Begin(0, 2));
    test.step(&Step::Second(vec![(0, 2, 0, 1)], false));
    test.step(&Step::Again);
    test.step(&Step::Silence(20));
    let named = BTreeMap::from([("node-a t0".to_owned(), MS)]);
    assert_eq!(sums(&test.durable.world).0, named);
}

#[test]
fn a_name_is_kept_while_another_is_waited_for() {
    let mut test = Test::new();
    test.step(&Step::Begin(0, 2));
    test.step(&Step::Second(vec![(0, 0, 0, 1)], true));
    assert!(sums(&test.durable.world).0.is_empty(), "it waits");
    test.sim.cluster.pods.retain(|pod| pod.namespace != "t0");
    test.publish();
    test.step(&Step::Crash);
    test.step(&Step::Silence(20));
    let named = BTreeMap::from([("node-a t0".to_owned(), MS)]);
    assert_eq!(sums(&test.durable.world).0, named);
}
