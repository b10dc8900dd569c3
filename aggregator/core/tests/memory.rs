//! `MemorySqueeze` and `CrossTenantOom`, each rule and its edges, on what a node reports second by second.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod sim;

use partywall_aggregator_core::breach::{Breach, BreachState};
use partywall_aggregator_core::report::{
    EntityKind, MemoryEvents, OomScope, Outcome, Pressure, Reclaim, UnknownReason,
};
use proptest::prelude::*;
use sim::*;

const SQUEEZE: &str = "MemorySqueeze red>blue blue/web";

fn reclaims(sim: &mut Sim, pod: u32, node_ms: u64, limit_ms: u64) {
    sim.memory(pod, |m| {
        let add = |r: &mut Option<Reclaim>, ms: u64| {
            let r = r.get_or_insert_default();
            r.stall_ns += ms * MS;
            r.times += 1;
            r.pages += 32;
        };
        add(&mut m.node_reclaim, node_ms);
        add(&mut m.limit_reclaim, limit_ms);
    });
}

fn presses(sim: &mut Sim, pod: u32, some_ms: u64) {
    sim.memory(pod, |m| {
        m.memory_pressure
            .get_or_insert(Pressure {
                some_us: 0,
                full_us: Some(0),
            })
            .some_us += some_ms * 1_000;
    });
}

fn touches_limit(sim: &mut Sim, pod: u32) {
    sim.memory(pod, |m| m.events.get_or_insert_default().max += 1);
}

/// blue/web within its 64 MiB, red/hog over its 100; both told once, nothing happens yet.
fn node() -> (Sim, u32, u32) {
    let mut sim = Sim::new("");
    let web = sim.memory_pod("blue", "web", 64);
    let hog = sim.memory_pod("red", "hog", 100);
    sim.holds(web, 50, 40);
    sim.holds(hog, 100, 100);
    reclaims(&mut sim, web, 0, 0);
    (sim, web, hog)
}

/// `seconds` in which web waits for the node and hog grows.
fn squeeze(sim: &mut Sim, web: u32, hog: u32, seconds: u64) {
    for _ in 0..seconds {
        reclaims(sim, web, 200, 0);
        sim.memory(hog, |m| *m.current_bytes.as_mut().unwrap() += 20 * MIB);
        sim.tick(&[]);
    }
}

fn live(sim: &Sim) -> Vec<Breach> {
    sim.world.book().live()
}

fn figure(b: &Breach, name: &str) -> f64 {
    b.evidence
        .iter()
        .find(|f| f.name == name)
        .unwrap_or_else(|| panic!("no {name}: {b:?}"))
        .value
}

#[test]
fn a_hog_that_fills_the_node_is_named_with_a_confidence_and_let_go() {
    let (mut sim, web, hog) = node();
    sim.ticks(15, &[]);
    assert!(sim.log.is_empty());
    squeeze(&mut sim, web, hog, 8);
    assert_eq!(sim.firing(), [SQUEEZE]);
    assert!(sim.second_of("MemorySqueeze", BreachState::Firing).unwrap() - 15 <= 5);
    let breach = live(&sim).remove(0);
    assert_eq!(
        breach.summary,
        "red/hog squeezed blue/web on node-a for 7 s: blue/web waited 0.2 s per second for memory that the node lacked, with 40 MiB \
         in use of its requested 64 MiB; red holds 260 MiB there against requests of 100 MiB, growing by 16 MiB a second \
         (inferred, confidence 1.00)"
    );
    assert_eq!(breach.confidence, Some(1.0));
    assert!((figure(&breach, "over_request_bytes") - (160 * MIB) as f64).abs() < 1.0);
    assert!((figure(&breach, "node_stall_seconds_per_second") - 0.2).abs() < 1e-9);
    assert_eq!(breach.culprits[0].over_request_bytes, Some(160 * MIB));
    assert!(breach.culprits[0].growth_bytes_per_second.unwrap() > 0.0);
    assert!((breach.culprits[0].share - 1.0).abs() < 1e-9);
    // The hog stays as it is, nobody waits any more.
    sim.ticks(12, &[]);
    assert!(sim.firing().is_empty());
    let resolved = sim.second_of("MemorySqueeze", BreachState::Resolved).unwrap() - 23;
    assert!(resolved <= 8, "{resolved}");
}

#[test]
fn what_is_no_squeeze() {
    type Case = (&'static str, fn(&mut Sim, u32, u32));
    let cases: &[Case] = &[
        ("nobody is over", |s, web, hog| {
            s.holds(hog, 101, 90);
            reclaims(s, web, 200, 0);
        }),
        ("at its own limit: reclaim", |s, web, hog| {
            s.holds(hog, 900, 900);
            reclaims(s, web, 0, 300);
            touches_limit(s, web);
        }),
        ("at its own limit: pressure", |s, web, hog| {
            s.holds(hog, 900, 900);
            reclaims(s, web, 0, 0);
            presses(s, web, 500);
            touches_limit(s, web);
        }),
        ("waits too little", |s, web, hog| {
            s.holds(hog, 900, 900);
            reclaims(s, web, 9, 0);
        }),
        ("its working set is above its request", |s, web, hog| {
            s.holds(hog, 900, 900);
            s.holds(web, 80, 65);
            reclaims(s, web, 200, 0);
        }),
        ("only the system is over", |s, web, _| {
            let dns = s.memory_pod("kube-system", "dns", 10);
            s.holds(dns, 500, 500);
            reclaims(s, web, 200, 0);
        }),
        ("only its own tenant is over", |s, web, _| {
            let batch = s.memory_pod("blue", "batch", 10);
            s.holds(batch, 500, 500);
            reclaims(s, web, 200, 0);
        }),
        ("only what cannot be named holds memory", |s, web, _| {
            let who = s.entity(EntityKind::Pod("not-in-the-cluster-data".into()));
            s.holds(who, 500, 500);
            reclaims(s, web, 200, 0);
        }),
    ];
    for (about, case) in cases {
        let (mut sim, web, hog) = node();
        touches_limit(&mut sim, web);
        presses(&mut sim, web, 0);
        sim.ticks(3, &[]);
        for _ in 0..10 {
            case(&mut sim, web, hog);
            sim.tick(&[]);
        }
        assert!(sim.log.is_empty(), "{about}: {:?}", sim.log);
    }
    // The victim has no request; a pod of the system waits.
    for (namespace, request) in [("blue", 0), ("kube-system", 64)] {
        let mut sim = Sim::new("");
        let web = sim.memory_pod(namespace, "web", request);
        let hog = sim.memory_pod("red", "hog", 100);
        sim.holds(web, 50, 0);
        sim.holds(hog, 900, 900);
        squeeze(&mut sim, web, hog, 10);
        assert!(sim.log.is_empty());
    }
}

/// The kubelet bounds all pods together: who reclaims for that limit met none of its own.
#[test]
fn a_limit_above_the_pod_is_the_nodes_lack() {
    let (mut sim, web, hog) = node();
    sim.memory(web, |m| m.events = Some(MemoryEvents::default()));
    sim.ticks(3, &[]);
    sim.holds(hog, 900, 900);
    for _ in 0..8 {
        reclaims(&mut sim, web, 0, 200);
        sim.tick(&[]);
    }
    assert_eq!(sim.firing(), [SQUEEZE]);
}

#[test]
fn one_hiccup_never_fires() {
    let (mut sim, web, hog) = node();
    sim.holds(hog, 900, 900);
    sim.ticks(5, &[]);
    reclaims(&mut sim, web, 900, 0);
    sim.ticks(15, &[]);
    assert!(sim.fired().is_empty());
}

#[test]
fn bursts_are_one_breach() {
    let (mut sim, web, hog) = node();
    sim.holds(hog, 900, 900);
    for second in 0..40 {
        if second % 4 == 0 {
            reclaims(&mut sim, web, 300, 0);
        }
        sim.tick(&[]);
    }
    let fired = sim.log.iter().filter(|(_, b)| b.state == BreachState::Firing);
    assert_eq!(fired.count(), 1);
    assert_eq!(sim.firing(), [SQUEEZE]);
}

#[test]
fn with_pressure_alone_and_without_it() {
    // No eBPF reclaim counters: PSI of a pod that is far from any limit of its own.
    let mut sim = Sim::new("");
    let (web, hog) = (
        sim.memory_pod("blue", "web", 64),
        sim.memory_pod("red", "hog", 100),
    );
    sim.holds(web, 50, 40);
    sim.holds(hog, 400, 400);
    for _ in 0..6 {
        presses(&mut sim, web, 300);
        sim.tick(&[]);
    }
    assert_eq!(sim.firing(), [SQUEEZE]);
    assert!((figure(&live(&sim)[0], "pressure_some") - 0.3).abs() < 1e-9);
    let memory = sim.view("web").memory.unwrap();
    assert_eq!(
        (memory.node_stall, memory.limit_stall),
        (None, None),
        "absent, not zero"
    );

    // PSI off: the reclaim counters are enough, and nothing is made up.
    let (mut sim, web, hog) = node();
    squeeze(&mut sim, web, hog, 6);
    assert_eq!(sim.firing(), [SQUEEZE]);
    let memory = sim.view("web").memory.unwrap();
    assert_eq!((memory.pressure_some, memory.pressure_full), (None, None));
    assert!(memory.node_stall.unwrap() > 0.0);
    assert!(!live(&sim)[0].evidence.iter().any(|f| f.name == "pressure_some"));
}

#[test]
fn the_larger_of_reclaim_and_pressure_counts() {
    let (mut sim, web, hog) = node();
    presses(&mut sim, web, 0);
    sim.holds(hog, 400, 400);
    for _ in 0..6 {
        reclaims(&mut sim, web, 1, 0);
        // Waits for what was evicted: in PSI, in no reclaim.
        presses(&mut sim, web, 400);
        sim.tick(&[]);
    }
    assert_eq!(sim.firing(), [SQUEEZE]);
    assert!((figure(&live(&sim)[0], "node_stall_seconds_per_second") - 0.4).abs() < 1e-9);
}

#[test]
fn page_cache_is_memory_taken() {
    let (mut sim, web, hog) = node();
    // Reads a large file round and round: hardly any working set.
    sim.holds(hog, 900, 20);
    sim.ticks(2, &[]);
    for _ in 0..6 {
        reclaims(&mut sim, web, 200, 0);
        sim.tick(&[]);
    }
    assert_eq!(sim.firing(), [SQUEEZE]);
    assert_eq!(
        live(&sim)[0].confidence,
        Some(1.0),
        "nobody grows: by what is held"
    );
}

#[test]
fn two_culprits_are_ranked_by_what_they_hold_and_how_they_grow() {
    let (mut sim, web, hog) = node();
    let (other, small) = (
        sim.memory_pod("green", "cache", 100),
        sim.memory_pod("grey", "tiny", 1),
    );
    let own = sim.memory_pod("blue", "batch", 0);
    sim.holds(other, 500, 500);
    sim.holds(small, 11, 11);
    sim.holds(own, 90, 90);
    sim.ticks(12, &[]);
    squeeze(&mut sim, web, hog, 10);
    assert_eq!(
        sim.firing(),
        ["MemorySqueeze green>blue blue/web", SQUEEZE],
        "grey is too small, blue's own is no neighbour"
    );
    // Above requests: green 400, red 200, blue itself 76, grey 10. All of the growth is red's.
    let confidence: Vec<f64> = live(&sim).iter().map(|b| b.confidence.unwrap()).collect();
    assert!(
        (confidence[0] - 0.5 * 400.0 / 686.0).abs() < 1e-9,
        "{confidence:?}"
    );
    assert!(
        (confidence[1] - (0.5 * 200.0 / 686.0 + 0.5)).abs() < 1e-9,
        "{confidence:?}"
    );
    let ranks: Vec<f64> = live(&sim).iter().map(|b| figure(b, "culprit_rank")).collect();
    assert_eq!(ranks, [2.0, 1.0]);
}

#[test]
fn many_pods_of_one_tenant_add_up_and_spare_requests_count_for_it() {
    let (mut sim, web, _) = node();
    let pods: Vec<u32> = (0..12)
        .map(|i| sim.memory_pod("red", &format!("small-{i}"), 10))
        .collect();
    for pod in &pods {
        sim.holds(*pod, 30, 30);
    }
    for _ in 0..6 {
        reclaims(&mut sim, web, 200, 0);
        sim.tick(&[]);
    }
    let breach = live(&sim).remove(0);
    assert!(
        breach.summary.starts_with("12 pods of red (most: red/small-"),
        "{}",
        breach.summary
    );
    assert_eq!(breach.culprits.len(), 10);
    // Another of red's pods holds far less than it requested: red as a whole is within.
    let spare = sim.memory_pod("red", "spare", 500);
    sim.holds(spare, 1, 1);
    sim.ticks(12, &[]);
    assert!(sim.firing().is_empty());
}

#[test]
fn a_pod_that_is_announced_again_and_an_agent_that_starts_anew_count_once() {
    let (mut sim, web, hog) = node();
    sim.holds(hog, 400, 400);
    sim.ticks(2, &[]);
    sim.announce_all();
    sim.ticks(1, &[]);
    // The same pod under a new index, the old one not ended yet.
    let again = sim.entity(EntityKind::Pod(uid("red", "hog").into()));
    sim.holds(again, 300, 300);
    sim.ticks(1, &[]);
    let red = sim
        .snapshot()
        .tenants
        .into_iter()
        .find(|t| &*t.name == "red")
        .unwrap();
    assert_eq!(
        (red.memory_bytes, red.requested_memory_bytes, red.pods),
        (Some(300 * MIB), 100 * MIB, 1)
    );
    sim.ends(hog);
    sim.ticks(1, &[]);
    assert_eq!(
        sim.view("hog").memory.unwrap().sample.current_bytes,
        Some(300 * MIB)
    );

    // A new run: counters begin at 0 again, and nothing goes back.
    let mut fresh = Sim::new("");
    std::mem::swap(&mut fresh.world, &mut sim.world);
    fresh.cluster = sim.cluster.clone();
    fresh.run.agent_start_unix_ns = 2;
    fresh.now = sim.now;
    fresh.boot_ns = sim.boot_ns;
    fresh.sequence = 0;
    let web_again = fresh.entity(EntityKind::Pod(uid("blue", "web").into()));
    fresh.holds(web_again, 50, 40);
    reclaims(&mut fresh, web_again, 0, 0);
    fresh.tick(&[]);
    assert_eq!(fresh.view("web").memory.unwrap().node_stall, Some(0.0));
    let _ = web;
}

#[test]
fn an_ended_pod_and_a_forgotten_node_hold_nothing() {
    let (mut sim, web, hog) = node();
    squeeze(&mut sim, web, hog, 6);
    assert_eq!(sim.firing(), [SQUEEZE]);
    sim.ends(hog);
    for _ in 0..8 {
        reclaims(&mut sim, web, 200, 0);
        sim.tick(&[]);
    }
    assert!(sim.firing().is_empty(), "what is gone takes nothing");
    assert!(sim.view("hog").memory.is_none());
    sim.pass(601 * S);
    sim.judge();
    assert!(sim.snapshot().pods.is_empty());
}

#[test]
fn bad_memory_is_refused_with_field_and_value() {
    type Spoil = fn(&mut Sim, u32);
    let table: &[(&str, &str, Spoil)] = &[
        (
            "memory[0].node_reclaim.stall_ns",
            "1 after 200000000",
            |s, web| {
                s.memory(web, |m| m.node_reclaim.as_mut().unwrap().stall_ns = 1);
            },
        ),
        ("memory[0].refaults", "7 after 9", |s, web| {
            s.memory(web, |m| m.refaults = Some(7));
        }),
        ("memory[0].events.oom_kill", "0 after 3", |s, web| {
            s.memory(web, |m| m.events = Some(MemoryEvents::default()));
        }),
        ("memory[0].memory_pressure.some_us", "more than 2^60", |s, web| {
            s.memory(web, |m| m.memory_pressure.as_mut().unwrap().some_us = u64::MAX);
        }),
        ("memory[0].current_bytes", "18446744073709551615", |s, web| {
            s.memory(web, |m| m.current_bytes = Some(u64::MAX));
        }),
        ("memory[0].working_set_bytes", "2305843009213693952", |s, web| {
            s.memory(web, |m| m.working_set_bytes = Some(1 << 61));
        }),
    ];
    for (field, needle, spoil) in table {
        let (mut sim, web, _) = node();
        reclaims(&mut sim, web, 200, 0);
        presses(&mut sim, web, 5);
        sim.memory(web, |m| {
            m.refaults = Some(9);
            m.events = Some(MemoryEvents {
                oom_kill: 3,
                ..MemoryEvents::default()
            });
        });
        sim.tick(&[]);
        spoil(&mut sim, web);
        sim.pass(S);
        match sim.report(&[]).outcome {
            Outcome::Refused(refusal) => {
                assert_eq!(refusal.field, *field);
                assert!(refusal.problem.contains(needle), "{refusal}");
            }
            other => panic!("{field}: {other:?}"),
        }
    }
    let (mut sim, web, _) = node();
    sim.tick(&[]);
    sim.holds(web, 1, 1);
    sim.pass(S);
    let mut report = sim.make_report(&[]);
    report.memory.push(report.memory[0]);
    let refused = sim.world.ingest(report, sim.now).outcome;
    assert!(
        matches!(&refused, Outcome::Refused(r) if r.field == "memory[1].entity"),
        "{refused:?}"
    );
}

#[test]
fn memory_of_nobody_known_is_counted_and_asked_for() {
    let (mut sim, ..) = node();
    sim.tick(&[]);
    let host = sim.host("/system.slice/x.service");
    sim.holds(host, 1, 1);
    sim.holds(99, 1, 1);
    sim.pass(S);
    assert!(sim.report(&[]).announce_all);
    let lost = |reason| sim.world.losses().get("ingest", reason);
    assert_eq!((lost("unknown_entity"), lost("memory_of_no_pod")), (1, 1));
}

/// Who holds what before a kill, in MiB of 100 requested each.
fn killed(red: u64, blue: u64, green: u64, trigger: &str, victim: &str) -> Sim {
    let mut sim = Sim::new("");
    let pods = [
        ("red", sim.memory_pod("red", "a", 100), red),
        ("blue", sim.memory_pod("blue", "b", 100), blue),
        ("green", sim.memory_pod("green", "c", 100), green),
        ("red2", sim.memory_pod("red", "d", 0), 0),
        ("system", sim.host("/system.slice/x.service"), 0),
        ("unknown", sim.unknown(UnknownReason::PathGone), 0),
    ];
    for (_, pod, mib) in &pods[..4] {
        sim.holds(*pod, *mib, *mib);
    }
    sim.ticks(2, &[]);
    let index = |name: &str| pods.iter().find(|(n, ..)| *n == name).unwrap().1;
    let (asked, dies) = (index(trigger), index(victim));
    // What was freed by the kill is not what decides.
    sim.holds(pods[0].1, 1, 1);
    sim.kill(asked, dies, OomScope::Node);
    sim.tick(&[]);
    sim
}

#[test]
fn who_is_accused_of_a_kill() {
    type Case = (
        &'static str,
        (u64, u64, u64),
        &'static str,
        &'static str,
        &'static [&'static str],
    );
    let cases: &[Case] = &[
        (
            "the trigger is over",
            (500, 90, 90),
            "red",
            "blue",
            &["CrossTenantOom red>blue blue/b"],
        ),
        (
            "the trigger is over, another is more",
            (150, 90, 900),
            "red",
            "blue",
            &["CrossTenantOom red>blue blue/b"],
        ),
        (
            "the trigger is within, another is over",
            (500, 90, 90),
            "green",
            "blue",
            &["CrossTenantOom red>blue blue/b"],
        ),
        (
            "the victim's own tenant is the most over",
            (500, 900, 90),
            "green",
            "blue",
            &[],
        ),
        (
            "the trigger is over, the victim more",
            (500, 900, 90),
            "red",
            "blue",
            &["CrossTenantOom red>blue blue/b"],
        ),
        (
            "the victim's own is over, the trigger is not",
            (500, 90, 90),
            "blue",
            "red",
            &[],
        ),
        ("nobody is over", (100, 90, 90), "red", "blue", &[]),
        ("within one tenant", (500, 90, 90), "red", "red2", &[]),
        (
            "the system asks, a tenant is over",
            (500, 90, 90),
            "system",
            "blue",
            &["CrossTenantOom red>blue blue/b"],
        ),
        (
            "the system asks, nobody is over",
            (90, 90, 90),
            "system",
            "blue",
            &[],
        ),
        (
            "the system is killed",
            (500, 90, 90),
            "red",
            "system",
            &["CrossTenantOom red>system /system.slice/x.service"],
        ),
        ("who asked cannot be told", (500, 90, 90), "unknown", "blue", &[]),
        (
            "who was killed cannot be told",
            (500, 90, 90),
            "red",
            "unknown",
            &[],
        ),
    ];
    for (about, (red, blue, green), trigger, victim, wanted) in cases {
        let sim = killed(*red, *blue, *green, trigger, victim);
        assert_eq!(sim.firing(), *wanted, "{about}");
    }
    let sim = killed(500, 90, 200, "red", "blue");
    let breach = live(&sim).remove(0);
    assert_eq!(
        breach.confidence,
        Some(0.5 + 0.5 * 0.8),
        "400 of 500 above requests"
    );
    assert_eq!(
        breach.summary,
        "red/a cost blue/b a task on node-a: the node ran out of memory when red/a asked for more, and the kernel killed a task of \
         blue/b; red held 500 MiB there at the last reading before, against requests of 100 MiB (inferred, confidence 0.90)"
    );
    let sim = killed(500, 90, 200, "blue", "green");
    assert_eq!(live(&sim)[0].confidence, Some(0.5 * 0.8));
}

#[test]
fn a_kill_fires_at_once_and_is_resolved_a_quarter_of_a_minute_after_the_last() {
    let mut sim = Sim::new("");
    let (a, b) = (sim.memory_pod("red", "a", 100), sim.memory_pod("blue", "b", 100));
    let container = sim.entity(EntityKind::Container {
        pod: b,
        id: "c0ffee".into(),
    });
    sim.holds(a, 500, 500);
    sim.ticks(2, &[]);
    sim.kill(a, container, OomScope::Node);
    sim.tick(&[]);
    assert_eq!(
        sim.firing(),
        ["CrossTenantOom red>blue blue/b"],
        "a container's kill is its pod's"
    );
    assert_eq!(sim.second_of("CrossTenantOom", BreachState::Firing), Some(3));
    sim.ticks(8, &[]);
    sim.kill(a, b, OomScope::Node);
    sim.tick(&[]);
    assert!((figure(&live(&sim)[0], "kills") - 2.0).abs() < 1e-9);
    sim.ticks(320, &[]);
    let resolved = sim.second_of("CrossTenantOom", BreachState::Resolved).unwrap();
    assert!((12 + 309..=12 + 311).contains(&resolved), "{resolved}");
    assert_eq!(sim.fired().len(), 1);
    let node = sim.snapshot().nodes.remove(0);
    let kills: Vec<_> = node
        .oom_kills
        .iter()
        .map(|o| (&*o.trigger, &*o.victim, o.scope.as_str(), o.kills))
        .collect();
    assert_eq!(kills, [("red", "blue", "node", 2)]);
}

#[test]
fn a_kill_waits_for_a_name_and_is_never_lost() {
    let mut sim = Sim::new("");
    let a = sim.memory_pod("red", "a", 100);
    let b = sim.entity(EntityKind::Pod(uid("blue", "b").into()));
    sim.holds(a, 500, 500);
    sim.ticks(2, &[]);
    sim.kill(a, b, OomScope::Node);
    sim.kill(a, 77, OomScope::Limit);
    sim.tick(&[]);
    assert!(sim.firing().is_empty());
    sim.object("blue", "b", 0);
    sim.tick(&[]);
    assert_eq!(sim.firing(), ["CrossTenantOom red>blue blue/b"]);
    sim.ticks(6, &[]);
    let node = sim.snapshot().nodes.remove(0);
    let victims: Vec<_> = node.oom_kills.iter().map(|o| (&*o.victim, o.kills)).collect();
    assert_eq!(victims, [("blue", 1), ("<unknown>", 1)]);
    assert_eq!(sim.world.losses().get("ingest", "unknown_entity"), 1);
}

#[test]
fn kills_and_memory_are_bounded() {
    let mut sim = Sim::new("");
    let a = sim.memory_pod("red", "a", 100);
    let b = sim.entity(EntityKind::Pod("nameless".into()));
    sim.holds(a, 500, 500);
    sim.ticks(1, &[]);
    // No judgement in between: everything waits.
    for _ in 0..5 {
        for _ in 0..300 {
            sim.kill(a, b, OomScope::Node);
        }
        sim.pass(S);
        assert_eq!(sim.report(&[]).outcome, Outcome::Accepted);
    }
    assert_eq!(sim.world.losses().get("ingest", "kill_list_cap"), 5 * (300 - 256));
    assert_eq!(sim.world.losses().get("window", "kill_cap"), 5 * 256 - 1_024);
    for i in 0..5_000 {
        sim.entity(EntityKind::Container {
            pod: a,
            id: format!("c{i}"),
        });
    }
    sim.tick(&[]);
    assert_eq!(sim.world.losses().get("window", "container_cap"), 5_000 - 4_096);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What a window says is what happened in it, however the seconds without a sample fall.
    #[test]
    fn rates_are_what_happened_in_the_window(stalls in prop::collection::vec(prop_oneof![Just(0u64), 1u64..900], 12..40)) {
        let (mut sim, web, _) = node();
        presses(&mut sim, web, 0);
        sim.tick(&[]);
        for ms in &stalls {
            if *ms > 0 {
                reclaims(&mut sim, web, *ms, 0);
                presses(&mut sim, web, 2 * *ms);
            }
            sim.tick(&[]);
        }
        let last: u64 = stalls.iter().rev().take(10).sum();
        let memory = sim.view("web").memory.unwrap();
        prop_assert!((memory.node_stall.unwrap() - last as f64 / 10_000.0).abs() < 1e-9, "{memory:?}");
        prop_assert!((memory.pressure_some.unwrap() - last as f64 / 5_000.0).abs() < 1e-9, "{memory:?}");
    }

    /// Whatever agents send, nothing panics, goes back or is not a number.
    #[test]
    fn no_samples_or_kills_break_anything(
        steps in prop::collection::vec((0u32..8, any::<[Option<u64>; 6]>(), 0u32..8, 0u32..8, any::<u64>()), 1..60)
    ) {
        let mut sim = Sim::new("quota: {near_ratio: 0.5}");
        let web = sim.memory_pod("blue", "web", 64);
        sim.memory_pod("red", "hog", 1);
        sim.host("/system.slice/x.service");
        sim.entity(EntityKind::Container { pod: web, id: "c".into() });
        for (entity, [current, working_set, faults, some, stall, limit], trigger, victim, at) in steps {
            sim.memory(entity, |m| {
                m.current_bytes = current.map(|n| n >> 3);
                m.working_set_bytes = working_set;
                m.refaults = faults;
                m.limit_bytes = limit;
                m.memory_pressure = some.map(|some_us| Pressure { some_us, full_us: stall });
                m.node_reclaim = stall.map(|stall_ns| Reclaim { stall_ns, ..Reclaim::default() });
            });
            sim.pass(S);
            let mut report = sim.make_report(&[]);
            report.oom_kills.push(partywall_aggregator_core::report::OomKill {
                at_boot_ns: at,
                trigger,
                victim,
                scope: OomScope::Unknown,
            });
            let _ = sim.world.ingest(report, sim.now);
            for breach in sim.judge() {
                prop_assert!(breach.evidence.iter().all(|f| f.value.is_finite()), "{breach:?}");
                prop_assert!(breach.confidence.is_none_or(|c| (0.0..=1.0).contains(&c)), "{breach:?}");
            }
            let _ = sim.snapshot();
        }
    }
}
