//! What crossed, when, and whether it would have been seen: against what is known to have happened.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod net;

use std::collections::BTreeMap;

use net::*;
use partywall_aggregator_core::report::{EntityKind, Role, Traffic};
use partywall_aggregator_core::traffic::Verdict;
use partywall_aggregator_core::trail::answer::{Answer, Pair, Question, Reached};
use partywall_aggregator_core::trail::hours::{Hour, Hours, Row};
use partywall_aggregator_core::trail::{HOUR_SLOTS, reason, slot_of};
use proptest::prelude::*;

/// What an aggregator writes of a world, as if the disk were memory.
struct Trail {
    net: Net,
    hours: Hours,
    disk: BTreeMap<(u64, Row), Hour>,
    first: u64,
}

impl Trail {
    fn new(mut net: Net) -> Self {
        net.world.begin_trail();
        let hours = Hours::new(BTreeMap::new(), net.now.unix_ns);
        Self {
            first: hours.next(),
            net,
            hours,
            disk: BTreeMap::new(),
        }
    }

    fn gather(&mut self) {
        let now_ns = self.net.now.unix_ns;
        let world = &mut self.net.world;
        self.hours.enter(world.take_crossed(self.hours.next()), now_ns);
        while let Some(slot) = self.hours.due(now_ns, |slot| world.waits_in(slot)) {
            let untold = world.untold(slot);
            self.hours.see(slot, &untold);
        }
        for (hour, row, part) in self.hours.changes() {
            match part {
                Some(part) => self.disk.insert((hour, row), part),
                None => self.disk.remove(&(hour, row)),
            };
        }
    }

    fn ticks(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.net.tick();
            self.gather();
        }
    }

    /// The slot that goes on.
    fn slot(&self) -> u64 {
        slot_of(self.net.now.unix_ns)
    }

    /// To the first moment of a slot.
    fn begin_slot(&mut self) -> u64 {
        let slot = self.slot();
        while self.slot() == slot {
            self.ticks(1);
        }
        self.slot()
    }

    /// Of the slots from `first` to before `end`.
    fn ask(&self, from: &str, to: &str, first: u64, end: u64) -> Pair {
        let question = Question {
            first,
            end,
            from: from.into(),
            to: to.into(),
            ..Question::default()
        };
        let (a, b) = Answer::hours(&question);
        let mut answer = Answer::new(question);
        for number in a..b {
            let mut hour = Hour::default();
            let rows = self.disk.iter().filter(|((of, _), _)| *of == number);
            rows.for_each(|(_, part)| hour.add(part.clone()));
            hour.close(reason::AGGREGATOR_AWAY);
            answer.add(number, &hour);
        }
        answer.finish().unwrap().remove(0)
    }

    fn reached(&self, from: &str, to: &str, first: u64, end: u64) -> Reached {
        self.ask(from, to, first, end).reached
    }
}

fn reasons(pair: &Pair) -> Vec<&str> {
    let mut out: Vec<&str> = pair.gaps.iter().map(|gap| &*gap.reason).collect();
    out.dedup();
    out
}

/// red/client on node-a, blue/web on node-b, green/other on node-a; two slots in which all is well.
fn three() -> (Trail, [Pod; 3]) {
    let mut net = Net::new("");
    let red = net.pod("red", "client", "node-a", "10.0.0.1");
    let blue = net.pod("blue", "web", "node-b", "10.0.1.1");
    let green = net.pod("green", "other", "node-a", "10.0.0.3");
    let mut trail = Trail::new(net);
    trail.ticks(20);
    trail.begin_slot();
    (trail, [red, blue, green])
}

#[test]
fn what_crossed_is_there_at_its_slot_and_nowhere_else() {
    let (mut trail, [red, blue, _]) = three();
    let at = trail.slot();
    trail.ticks(13);
    trail.net.connects(red, blue, 80, 1_000);
    trail.ticks(30);
    let yes = trail.ask("red", "blue", at, at + 3);
    assert_eq!(yes.reached, Reached::Yes);
    let sum = &yes.crossings[&(Verdict::Open, true)];
    assert_eq!(
        (sum.bytes, sum.connections, sum.slots),
        (1_100, 1, Some((at + 1, at + 1)))
    );
    assert_eq!((yes.covered, yes.gaps.len()), (3, 0));
    for (first, end) in [(at, at + 1), (at + 2, at + 3)] {
        assert_eq!(trail.reached("red", "blue", first, end), Reached::No);
    }
    assert_eq!(
        trail.reached("blue", "red", at, at + 3),
        Reached::No,
        "who opened counts"
    );
    assert_eq!(
        trail.reached("red", "nobody", at, at + 3),
        Reached::No,
        "a tenant without pods"
    );
    let open = trail.ask("red", "blue", at, at + 100);
    assert_eq!(open.reached, Reached::Yes, "whatever comes");
    assert_eq!(trail.reached("blue", "red", at, at + 100), Reached::Unknown);
}

#[test]
fn what_was_tried_in_vain_did_not_reach() {
    let (mut trail, [red, blue, _]) = three();
    let at = trail.slot();
    trail.net.isolate("blue", "closed", &[]);
    trail.ticks(12);
    trail.net.tries(red, blue.address, 81);
    trail.ticks(30);
    let no = trail.ask("red", "blue", at, at + 3);
    assert_eq!(no.reached, Reached::No, "{no:?}");
    assert_eq!(
        no.crossings[&(Verdict::Blocked, false)].slots,
        Some((at + 1, at + 1)),
        "at its time, not at its judgement's"
    );
}

/// What red's and blue's agents say of a connection, and then of a packet of it.
fn after_its_end(ends: bool, more: impl Fn(&mut Net, Pod, Pod, u32, u32)) -> Pair {
    let (mut trail, [red, blue, _]) = three();
    let by = Traffic {
        established: 1,
        ..traffic((10, 1_000), (10, 1_000))
    };
    let opened = trail
        .net
        .opens(red, blue.address, TCP, 80, Traffic { opened: 1, ..by });
    let accepted = trail.net.accepts(blue, red.address, TCP, 80, by);
    trail.ticks(20);
    if ends {
        trail.net.ends(blue, accepted);
        // Until it is forgotten.
        trail.ticks(60);
    }
    let at = trail.begin_slot();
    trail.ticks(3);
    more(&mut trail.net, red, blue, opened, accepted);
    trail.ticks(40);
    assert_eq!(trail.reached("red", "blue", at + 1, at + 3), Reached::No);
    trail.ask("red", "blue", at, at + 1)
}

#[test]
fn what_nobody_answers_over_a_connection_that_was_made_is_no_yes() {
    let (sent, received) = (traffic((2, 80), (0, 0)), traffic((0, 0), (2, 80)));
    let unanswered = after_its_end(false, |net, red, _, opened, _| net.grows(red, opened, sent));
    assert_eq!(
        unanswered.reached,
        Reached::No,
        "blue's agent had told: {unanswered:?}"
    );
    let closed = after_its_end(true, |net, red, _, opened, _| net.grows(red, opened, sent));
    assert_eq!(
        (closed.reached, reasons(&closed)),
        (Reached::Unknown, vec![reason::DELIVERY_NOT_SEEN])
    );
    // Blue sends, and red is there no more.
    let by_blue = after_its_end(false, |net, _, blue, _, accepted| net.grows(blue, accepted, sent));
    assert_eq!(
        (by_blue.reached, reasons(&by_blue)),
        (Reached::Unknown, vec![reason::DELIVERY_NOT_SEEN])
    );
    let arrived = after_its_end(false, |net, red, blue, opened, accepted| {
        net.grows(red, opened, sent);
        net.grows(blue, accepted, received);
    });
    assert_eq!(arrived.reached, Reached::Yes);
    let answered = after_its_end(true, |net, red, _, opened, _| {
        net.grows(red, opened, traffic((2, 80), (1, 40)));
    });
    assert_eq!(answered.reached, Reached::Yes);
}

#[test]
fn a_report_that_tells_of_two_slots_leaves_each_open_and_both_answered() {
    let (mut trail, [red, blue, _]) = three();
    trail.net.pass(300 * MS);
    let at = trail.slot();
    trail.ticks(9);
    trail.net.connects(red, blue, 80, 1_000);
    trail.ticks(30);
    assert_eq!(trail.slot(), at + 3);
    let whole = trail.ask("red", "blue", at, at + 2);
    assert_eq!((whole.reached, whole.gaps.len()), (Reached::Yes, 0), "{whole:?}");
    for first in [at, at + 1] {
        let half = trail.ask("red", "blue", first, first + 1);
        assert_eq!(half.reached, Reached::Unknown, "{half:?}");
        assert_eq!(reasons(&half), [reason::NOT_RESOLVED]);
    }
}

#[test]
fn an_agent_that_is_away_leaves_open_what_nobody_else_saw() {
    let (mut trail, [red, blue, _]) = three();
    let at = trail.slot();
    trail.net.agents.get_mut("node-a").unwrap().cut_off = true;
    trail.ticks(20);
    // Named by its address: its own agent says nothing.
    trail.net.accepts(
        blue,
        red.address,
        TCP,
        80,
        Traffic {
            established: 1,
            ..traffic((10, 100), (10, 1_000))
        },
    );
    trail.ticks(15);
    trail.net.loses("node-a");
    trail.net.restart("node-a");
    trail.ticks(40);
    assert_eq!(
        trail.reached("red", "blue", at + 2, at + 3),
        Reached::Yes,
        "its receiver saw it"
    );
    let no = trail.ask("green", "blue", at + 1, at + 3);
    assert_eq!(
        (no.reached, no.covered),
        (Reached::No, 2),
        "whatever reached blue its agent saw: {no:?}"
    );
    let unknown = trail.ask("red", "green", at, at + 4);
    assert_eq!(unknown.reached, Reached::Unknown);
    assert_eq!(
        (reasons(&unknown), &*unknown.gaps[0].node),
        (vec![reason::AGENT_SILENT], "node-a")
    );
    assert_eq!((unknown.gaps[0].first, unknown.gaps[0].end), (at, at + 4));
    assert_eq!(
        trail.reached("red", "green", at + 5, at + 7),
        Reached::No,
        "it is back"
    );
    let system = trail.ask("system", "nobody", at, at + 4);
    assert_eq!(
        system.reached,
        Reached::No,
        "who has no pods is reached by nobody"
    );
}

/// A daemon of tenant ops on node-a, whose agent falls silent, and on no other node.
fn silent_host(listed: bool) -> Trail {
    let mut net = Net::new("paths: [{prefix: /system.slice/kubelet.service, tenant: ops}]");
    if !listed {
        net.cluster.nodes.retain(|node| node.name != "node-a");
        net.publish();
        // Of the run before there was one.
        net.restart("node-a");
    }
    net.host("node-a", "192.168.0.1");
    net.pod("blue", "web", "node-b", "10.0.1.1");
    let mut trail = Trail::new(net);
    trail.ticks(30);
    trail.net.agents.get_mut("node-a").unwrap().cut_off = true;
    trail
}

#[test]
fn a_host_that_no_object_lists_leaves_its_gap_for_a_day() {
    let mut trail = silent_host(false);
    // Forgotten after ten minutes.
    trail.ticks(700);
    assert_eq!(trail.net.world.node_names().count(), 1);
    let at = trail.slot() - 3;
    let unknown = trail.ask("ops", "system", at, at + 1);
    assert_eq!(
        (unknown.reached, reasons(&unknown)),
        (Reached::Unknown, vec![reason::AGENT_SILENT])
    );
    assert_eq!(&*unknown.gaps[0].node, "node-a");
    assert_eq!(
        trail.reached("ops", "blue", at, at + 1),
        Reached::No,
        "blue's agent vouches"
    );
    trail.net.pass(86_400 * S);
    trail.ticks(60);
    let at = trail.slot() - 3;
    assert_eq!(
        trail.reached("ops", "system", at, at + 1),
        Reached::No,
        "it is gone for good"
    );
    // It is back.
    trail.net.agents.get_mut("node-a").unwrap().cut_off = false;
    trail.net.loses("node-a");
    trail.net.restart("node-a");
    trail.ticks(30);
    trail.net.agents.get_mut("node-a").unwrap().cut_off = true;
    trail.ticks(700);
    let at = trail.slot() - 3;
    assert_eq!(trail.reached("ops", "system", at, at + 1), Reached::Unknown);
}

#[test]
fn a_host_that_is_listed_leaves_its_gap_as_long_as_that() {
    let mut trail = silent_host(true);
    trail.net.pass(2 * 86_400 * S);
    trail.ticks(60);
    assert_eq!(trail.net.world.node_names().count(), 1);
    let at = trail.slot() - 3;
    assert_eq!(trail.reached("ops", "system", at, at + 1), Reached::Unknown);
    trail.net.cluster.nodes.retain(|node| node.name != "node-a");
    trail.net.publish();
    trail.ticks(30);
    let at = trail.slot() - 3;
    assert_eq!(trail.reached("ops", "system", at, at + 1), Reached::No);
    let mut trail = silent_host(true);
    trail.ticks(30);
    trail.net.cluster.nodes.retain(|node| node.name != "node-a");
    trail.net.publish();
    trail.ticks(700);
    let at = trail.slot() - 3;
    assert_eq!(
        trail.reached("ops", "system", at, at + 1),
        Reached::No,
        "it was taken out of the cluster"
    );
}

#[test]
fn what_goes_on_over_an_open_connection_to_an_agent_that_is_gone_is_no_no() {
    let (mut trail, [red, blue, _]) = three();
    trail.net.connects(red, blue, 80, 1_000);
    trail.ticks(5);
    trail.net.agents.get_mut("node-b").unwrap().cut_off = true;
    trail.ticks(15);
    let at = trail.begin_slot();
    trail.ticks(3);
    trail.net.sends(red, blue, 80, 1_000);
    trail.ticks(60);
    let unknown = trail.ask("red", "blue", at, at + 1);
    assert_eq!(
        (unknown.reached, reasons(&unknown)),
        (Reached::Unknown, vec![reason::DELIVERY_NOT_SEEN])
    );
    assert_eq!(
        trail.reached("red", "blue", at + 1, at + 2),
        Reached::No,
        "red's agent vouches for all else"
    );
    for (from, to) in [("green", "blue"), ("red", "green")] {
        assert_eq!(
            trail.reached(from, to, at, at + 1),
            Reached::No,
            "of others it does too"
        );
    }
    // It was cut off, and tells later.
    trail.net.agents.get_mut("node-b").unwrap().cut_off = false;
    trail.ticks(20);
    assert_eq!(trail.reached("red", "blue", at, at + 1), Reached::Yes);
}

#[test]
fn a_queue_that_is_worked_off_closes_its_gap() {
    let (mut trail, [red, _, green]) = three();
    let at = trail.slot();
    trail.net.connects(red, green, 80, 1);
    trail.ticks(5);
    trail.net.agents.get_mut("node-a").unwrap().cut_off = true;
    trail.ticks(20);
    trail.net.connects(red, green, 80, 1_000);
    trail.ticks(20);
    assert_eq!(trail.reached("red", "green", at + 1, at + 4), Reached::Unknown);
    trail.net.agents.get_mut("node-a").unwrap().cut_off = false;
    trail.ticks(20);
    assert_eq!(trail.reached("red", "green", at + 1, at + 2), Reached::No);
    assert_eq!(
        trail.reached("red", "green", at + 2, at + 3),
        Reached::Yes,
        "when it moved, not when it was told"
    );
    assert_eq!(trail.reached("red", "green", at + 3, at + 5), Reached::No);
    assert_eq!(trail.reached("green", "red", at, at + 5), Reached::No);
}

#[test]
fn what_is_told_after_names_are_gone_leaves_its_gap() {
    let (mut trail, _) = three();
    let at = trail.slot();
    trail.net.agents.get_mut("node-a").unwrap().cut_off = true;
    trail.ticks(20);
    trail.net.pass(46 * 60 * S);
    trail.ticks(20);
    trail.net.agents.get_mut("node-a").unwrap().cut_off = false;
    trail.ticks(20);
    let early = trail.ask("red", "green", at, at + 1);
    assert_eq!(
        (early.reached, reasons(&early)),
        (Reached::Unknown, vec![reason::AGENT_SILENT])
    );
    let late = trail.slot() - 4;
    assert_eq!(trail.reached("red", "green", late, late + 1), Reached::No);
}

#[test]
fn what_crosses_after_the_clock_was_set_is_dated_by_it() {
    for by in [60i64, -60, 7, -7, 3_000, -3_000, 90_000] {
        let (mut trail, [red, blue, _]) = three();
        trail.net.connects(red, blue, 80, 1_000);
        let old = trail.slot();
        trail.ticks(6);
        trail.net.set_clock(by * S as i64);
        let set = trail.slot();
        trail.ticks(200);
        let at = trail.begin_slot();
        trail.ticks(3);
        trail.net.connects(red, blue, 80, 1_000);
        // Until the agents' clocks show it too.
        trail.ticks(100);
        let of = |first: u64| trail.ask("red", "blue", first, first + 1);
        assert_eq!(of(at).reached, Reached::Yes, "{by}");
        // Of what comes again nothing can be told.
        let else_ = if by == -3_000 {
            Reached::Unknown
        } else {
            Reached::No
        };
        for slot in [at - 1, at + 1] {
            let answer = of(slot);
            assert_eq!(answer.reached, else_, "{by} {answer:?}");
        }
        for slot in [old, set] {
            let answer = of(slot);
            assert_ne!(answer.reached, Reached::No, "{by} {answer:?}");
            assert!(
                reasons(&answer).contains(&reason::AGGREGATOR_AWAY),
                "{by} {answer:?}"
            );
        }
    }
}

#[test]
fn what_was_read_before_the_clock_was_set_and_told_after_is_of_no_time() {
    for by in [60i64, -60] {
        let (mut trail, [red, _, green]) = three();
        trail.net.agents.get_mut("node-a").unwrap().cut_off = true;
        let at = trail.slot();
        trail.ticks(23);
        trail.net.connects(red, green, 80, 1_000);
        trail.ticks(50);
        trail.net.set_clock(by * S as i64);
        trail.ticks(5);
        trail.net.agents.get_mut("node-a").unwrap().cut_off = false;
        trail.ticks(300);
        for first in at..at + 16 {
            let answer = trail.ask("red", "green", first, first + 1);
            let known = first >= at + 14 && by > 0;
            assert_eq!(
                answer.reached,
                if known { Reached::No } else { Reached::Unknown },
                "{by} {} {answer:?}",
                first - at
            );
        }
        let late = trail.slot() - 3;
        assert_eq!(trail.reached("red", "green", late, late + 1), Reached::No, "{by}");
    }
}

#[test]
fn counters_from_before_the_aggregator_moved_in_no_slot_that_it_saw() {
    let (mut trail, [red, blue, _]) = three();
    trail.net.connects(red, blue, 80, 50_000);
    trail.ticks(3);
    // The aggregator ends, and another one begins.
    let (cluster, policy) = (trail.net.cluster.clone(), trail.net.world.policy().clone());
    trail.net.world = partywall_aggregator_core::World::new("test".into(), policy);
    trail.net.cluster = cluster;
    trail.net.publish();
    let mut trail = Trail::new(trail.net);
    let at = trail.slot();
    trail.ticks(2);
    for node in ["node-a", "node-b"] {
        trail.net.agents.get_mut(node).unwrap().announce_all();
    }
    trail.ticks(40);
    let early = trail.ask("red", "blue", at, at + 2);
    assert_eq!(
        (early.reached, early.crossings.len()),
        (Reached::Unknown, 0),
        "{early:?}"
    );
    assert_eq!(reasons(&early), [reason::AGGREGATOR_AWAY]);
    let at = trail.slot();
    trail.net.connects(red, blue, 80, 1_000);
    trail.ticks(30);
    assert_eq!(trail.reached("red", "blue", at, at + 1), Reached::Yes);
    assert_eq!(trail.reached("red", "blue", at + 1, at + 2), Reached::No);
}

#[test]
fn what_cannot_be_named_and_what_was_folded_is_vouched_for_by_the_other_end_alone() {
    let (mut trail, [red, blue, green]) = three();
    let at = trail.slot();
    trail.ticks(3);
    trail.net.folds(red, traffic((5, 500), (5, 500)));
    trail.ticks(10);
    // Bears blue's address, and blue's agent knows nothing of it.
    trail.net.accepts(
        green,
        blue.address,
        TCP,
        9,
        Traffic {
            established: 1,
            ..traffic((9, 99), (9, 99))
        },
    );
    trail.ticks(40);
    assert_eq!(
        trail.reached("red", "blue", at, at + 1),
        Reached::No,
        "blue's agent saw nothing of it"
    );
    assert_eq!(trail.reached("red", "blue", at + 1, at + 2), Reached::No);
    assert_eq!(
        trail.reached("blue", "green", at + 1, at + 2),
        Reached::No,
        "blue's agent says so"
    );
    // An agent that knows sockets of a pod that is in no data: it may be anybody's.
    trail.begin_slot();
    let stranger = trail
        .net
        .runs("node-b", EntityKind::Pod("uid-nobody".into()), "10.0.1.77");
    let at = trail.slot();
    trail.ticks(4);
    trail.net.connects(stranger, green, 80, 1_000);
    trail.ticks(40);
    let unknown = trail.ask("red", "blue", at, at + 1);
    assert_eq!(
        (unknown.reached, reasons(&unknown)),
        (Reached::Unknown, vec![reason::UNNAMED_PEER])
    );
    assert_eq!(trail.reached("red", "blue", at + 2, at + 3), Reached::No);
    let _ = Role::Unknown;
}

/// What a case of the property does each second, of 60.
#[derive(Clone, Debug)]
enum Deed {
    Connect(usize, usize),
    /// More over a connection that may be open.
    Send(usize, usize),
    Cut(bool),
    Lose,
    /// The agent of blue's node is heard of no more.
    Die,
    /// The aggregator's wall clock is set by so many tenths of a second.
    Set(i64),
    Pass,
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        3 => (0..3usize, 0..3usize).prop_map(|(a, b)| Deed::Connect(a, b)),
        3 => (0..3usize, 0..3usize).prop_map(|(a, b)| Deed::Send(a, b)),
        1 => any::<bool>().prop_map(Deed::Cut),
        1 => Just(Deed::Lose),
        1 => Just(Deed::Die),
        1 => prop_oneof![4 => -150..150i64, 1 => -900..900i64].prop_map(Deed::Set),
        8 => Just(Deed::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever is lost and late: a yes is true of the time it is said of, and so is a no.
    #[test]
    fn no_answer_is_false(deeds in proptest::collection::vec(deed(), 60..90), offset in 0..10u64, all_well in any::<bool>()) {
        let names = ["red", "blue", "green"];
        let (mut trail, pods) = three();
        trail.net.pass(offset * 100 * MS);
        let at = trail.slot();
        let (mut last_ns, mut off_ns) = (0, 0);
        // (who, whom, not before, not after).
        let mut truth: Vec<(usize, usize, u64, u64)> = Vec::new();
        for deed in &deeds {
            match deed {
                Deed::Connect(a, b) if a != b => {
                    let from_ns = trail.net.now.unix_ns;
                    trail.net.connects(pods[*a], pods[*b], 80, 500);
                    truth.push((*a, *b, from_ns, from_ns + S));
                }
                Deed::Send(a, b) if truth.iter().any(|(x, y, ..)| (x, y) == (a, b)) => {
                    let from_ns = trail.net.now.unix_ns;
                    trail.net.sends(pods[*a], pods[*b], 80, 500);
                    truth.push((*a, *b, from_ns, from_ns + S));
                }
                Deed::Die if !all_well => trail.net.agents.get_mut("node-b").unwrap().cut_off = true,
                Deed::Cut(away) if !all_well => trail.net.agents.get_mut("node-a").unwrap().cut_off = *away,
                Deed::Lose if !all_well => trail.net.loses("node-a"),
                Deed::Set(tenths) if !all_well => {
                    last_ns = trail.net.now.unix_ns.max(last_ns);
                    trail.net.set_clock(tenths * 100 * MS as i64);
                    // An agent's clock that is no further off is believed.
                    off_ns = 2 * S;
                }
                _ => {}
            }
            trail.ticks(1);
        }
        trail.net.agents.get_mut("node-a").unwrap().cut_off = false;
        trail.ticks(45);
        let end = slot_of(trail.net.now.unix_ns.max(last_ns)) - 2;
        prop_assert!(trail.first < at && end / HOUR_SLOTS >= at / HOUR_SLOTS);
        for (a, from) in names.iter().enumerate() {
            for (b, to) in names.iter().enumerate().filter(|(b, _)| *b != a) {
                for first in at..end {
                    for last in first + 1..=(first + 3).min(end) {
                        let answer = trail.ask(from, to, first, last);
                        let of = truth.iter().filter(|(x, y, ..)| (*x, *y) == (a, b));
                        let may_touch = of.clone().any(|(_, _, t0, t1)| slot_of(t0 - off_ns) < last && slot_of(t1 + off_ns - 1) >= first);
                        let touches = of.clone().any(|(_, _, t0, t1)| slot_of(t0 + off_ns) < last && slot_of(t1 - off_ns - 1) >= first);
                        let within = of.clone().any(|(_, _, t0, t1)| slot_of(*t0) >= first && slot_of(t1 - 1) < last);
                        match answer.reached {
                            Reached::Yes => prop_assert!(may_touch, "{from} {to} {first} {last} {answer:?}"),
                            Reached::No => prop_assert!(!touches, "{from} {to} {first} {last} {answer:?}"),
                            Reached::Unknown => prop_assert!(!all_well || (touches && !within), "{from} {to} {first} {last} {answer:?}"),
                        }
                        if all_well && within {
                            prop_assert_eq!(answer.reached, Reached::Yes);
                        }
                    }
                }
            }
        }
    }
}
