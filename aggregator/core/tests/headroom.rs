//! Use against capacity, and what becomes of a zone's pods without it, on what nodes report.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod sim;

use std::sync::Arc;

use partywall_aggregator_core::headroom::Headroom;
use partywall_aggregator_core::identity::{NodeObject, OwnerRef, Taint, Toleration};
use sim::*;

fn node(name: &str, zone: Option<&str>, cores: u64) -> NodeObject {
    NodeObject {
        name: name.into(),
        zone: zone.map(str::to_owned),
        pool: Some("general".into()),
        cpu_ncores: Some(cores * 1_000_000_000),
        memory_bytes: Some(8_192 * MIB),
        pods: Some(110),
        ..NodeObject::default()
    }
}

/// node-a in zone a reports; node-b in zone b is known as an object, and by an agent where it is told.
fn sim() -> Sim {
    let mut sim = Sim::new("");
    sim.cluster.nodes = vec![node("node-a", Some("a"), 2), node("node-b", Some("b"), 4)];
    sim.publish();
    sim
}

/// Seconds in which node-a did `work` and node-b reported that nothing runs there.
fn both(sim: &mut Sim, there: &mut Sim, seconds: u64, work: &[Did]) {
    for _ in 0..seconds {
        sim.pass(S);
        there.pass(S);
        let report = there.make_report(&[]);
        sim.world.ingest(report, sim.now);
        sim.report(work);
        sim.judge();
    }
}

fn headroom(sim: &Sim) -> Headroom {
    sim.world.ground(sim.now).headroom()
}

#[test]
fn the_highest_minute_outlives_its_pod_s_rest() {
    let mut sim = sim();
    let web = sim.pod("blue", "web", 500);
    sim.holds(web, 100, 100);
    sim.ticks(80, &[Ran(web, 900)]);
    sim.ticks(200, &[Ran(web, 100)]);
    let told = headroom(&sim);
    let pool = &told.pools[0];
    assert_eq!((&*pool.zone, &*pool.pool, pool.nodes), ("a", "general", 1));
    assert!((pool.cpu.used_now.unwrap() - 0.1).abs() < 0.01, "{pool:?}");
    assert!((pool.cpu.used_most.unwrap() - 0.9).abs() < 0.03, "{pool:?}");
    assert!((pool.cpu.requested - 0.5).abs() < 1e-9);
    assert_eq!(pool.cpu.capacity, Some(2.0));
    assert!((pool.memory.used_most.unwrap() - (100 * MIB) as f64).abs() < 1e6);
    assert!(pool.doubts.is_empty(), "{:?}", pool.doubts);
    assert!((270 * S..=280 * S).contains(&told.over_ns), "{}", told.over_ns);
    assert!((told.mark - 0.8).abs() < 1e-9);
    // A single hiccup of ten seconds is not a minute.
    sim.ticks(10, &[Ran(web, 1_900)]);
    sim.ticks(70, &[Ran(web, 100)]);
    assert!(headroom(&sim).pools[0].cpu.used_most.unwrap() < 0.95);
}

#[test]
fn a_silent_node_is_said_to_be_silent() {
    let mut sim = sim();
    let web = sim.pod("blue", "web", 500);
    sim.ticks(15, &[Ran(web, 900)]);
    let told = headroom(&sim);
    let silent = told.pools.iter().find(|p| p.zone == "b").unwrap();
    assert_eq!((silent.silent_nodes, silent.cpu.used_now), (1, None));
    assert!(
        silent.doubts.iter().any(|d| d.contains("node-b is silent")),
        "{:?}",
        silent.doubts
    );
    // Whether there is room on it is not known by use; by requests it is.
    let zone = &told.zones[0];
    assert_eq!(
        (zone.by_use.fits, zone.by_requests.fits),
        (None, Some(true)),
        "{zone:?}"
    );
    assert!(
        zone.by_use.why.contains("node-b is silent"),
        "{}",
        zone.by_use.why
    );
    assert_eq!(told.zones[1].pods, 0);
    assert!(told.zones[1].summary.contains("nothing would have to move"));
}

#[test]
fn use_decides_and_requests_are_shown() {
    let mut sim = sim();
    let web = sim.pod("blue", "web", 500);
    let batch = sim.pod("red", "batch", 100);
    sim.holds(web, 100, 100);
    sim.holds(batch, 100, 100);
    let mut there = Sim::new("");
    there.node = "node-b";
    both(&mut sim, &mut there, 15, &[Ran(web, 400), Ran(batch, 1_500)]);
    let told = headroom(&sim);
    let zone = told.zones.iter().find(|z| z.zone == "a").unwrap();
    assert_eq!(
        (zone.by_use.fits, zone.by_requests.fits),
        (Some(true), Some(true)),
        "{zone:?}"
    );
    assert!((zone.by_use.moved_cores - 1.9).abs() < 0.05, "{zone:?}");
    assert!(
        (zone.by_use.free_cores - 3.2).abs() < 0.01,
        "up to the mark: {zone:?}"
    );
    assert!((zone.by_requests.moved_cores - 0.6).abs() < 1e-9);
    // A smaller node: 1.6 cores up to the mark take one of them.
    sim.cluster.nodes[1] = node("node-b", Some("b"), 2);
    sim.publish();
    let told = headroom(&sim);
    let zone = told.zones.iter().find(|z| z.zone == "a").unwrap();
    assert_eq!(
        (zone.by_use.fits, zone.by_requests.fits),
        (Some(false), Some(true)),
        "{zone:?}"
    );
    assert_eq!(zone.by_use.pods_left_over, 1);
    assert_eq!(zone.tenants.len(), 1);
    assert_eq!(
        (&*zone.tenants[0].tenant, zone.tenants[0].pods_left_over),
        ("blue", 1)
    );
    assert!(
        zone.summary.contains("would not fit") && zone.summary.contains("1 of 1 of blue"),
        "{}",
        zone.summary
    );
}

#[test]
fn what_does_not_move_and_where_nothing_may_go() {
    let mut sim = sim();
    let web = sim.pod("blue", "web", 500);
    sim.pod("kube-system", "proxy", 100);
    Arc::make_mut(sim.cluster.pods.last_mut().unwrap()).owner = Some(OwnerRef {
        kind: "DaemonSet".into(),
        name: "proxy".into(),
    });
    sim.pod("kube-system", "mirror", 100);
    Arc::make_mut(sim.cluster.pods.last_mut().unwrap()).static_uid = Some("x".into());
    sim.object("blue", "done", 1_000);
    Arc::make_mut(sim.cluster.pods.last_mut().unwrap()).terminal = true;
    sim.publish();
    sim.ticks(5, &[Ran(web, 100)]);
    let requests = |sim: &Sim| {
        let told = headroom(sim);
        let zone = told.zones.iter().find(|z| z.zone == "a").unwrap().clone();
        (zone.pods, zone.by_requests.fits)
    };
    assert_eq!(requests(&sim), (1, Some(true)));
    // Taints keep away who does not tolerate them.
    sim.cluster.nodes[1].taints = vec![Taint {
        key: "dedicated".into(),
        value: "gpu".into(),
        effect: "NoSchedule".into(),
    }];
    sim.publish();
    assert_eq!(requests(&sim), (1, Some(false)));
    let tolerates = |sim: &mut Sim, value: Option<&str>| {
        Arc::make_mut(&mut sim.cluster.pods[0]).tolerations = Box::new([Toleration {
            key: "dedicated".into(),
            value: value.map(Into::into),
            effect: "".into(),
        }]);
        sim.publish();
    };
    tolerates(&mut sim, Some("other"));
    assert_eq!(requests(&sim), (1, Some(false)));
    tolerates(&mut sim, Some("gpu"));
    assert_eq!(requests(&sim), (1, Some(true)));
    tolerates(&mut sim, None);
    assert_eq!(requests(&sim), (1, Some(true)));
    // A cordoned node takes nobody.
    sim.cluster.nodes[1].unschedulable = true;
    sim.publish();
    assert_eq!(requests(&sim), (1, Some(false)));
    sim.cluster.nodes[1].unschedulable = false;
    // Nor does one that has as many pods as it takes.
    sim.cluster.nodes[1].pods = Some(0);
    sim.publish();
    assert_eq!(requests(&sim), (1, Some(false)));
    // Of one whose capacity is not known, it is not known.
    sim.cluster.nodes[1].pods = None;
    sim.cluster.nodes[1].cpu_ncores = None;
    sim.publish();
    assert_eq!(requests(&sim), (1, None));
    // Without another zone there is nowhere to go; with a node of no known zone it is not known.
    sim.cluster.nodes.truncate(1);
    sim.publish();
    assert_eq!(requests(&sim), (1, Some(false)));
    sim.cluster.nodes.push(node("node-c", None, 4));
    sim.publish();
    assert_eq!(requests(&sim), (1, None));
}

#[test]
fn memory_that_nobody_tells_is_not_none() {
    let mut sim = sim();
    let web = sim.pod("blue", "web", 500);
    let batch = sim.pod("red", "batch", 100);
    let mut there = Sim::new("");
    there.node = "node-b";
    both(&mut sim, &mut there, 15, &[Ran(web, 400), Ran(batch, 100)]);
    let told = headroom(&sim);
    let pool = told.pools.iter().find(|p| p.zone == "a").unwrap();
    assert!(pool.cpu.used_now.unwrap() > 0.4, "{pool:?}");
    assert_eq!(
        (pool.memory.used_now, pool.memory.used_most),
        (None, None),
        "{pool:?}"
    );
    let zone = told.zones.iter().find(|z| z.zone == "a").unwrap();
    assert_eq!(
        (zone.by_use.fits, zone.by_requests.fits),
        (None, Some(true)),
        "{zone:?}"
    );
    assert!(zone.by_use.why.contains("nobody tells"), "{}", zone.by_use.why);
    // Of one of two it is told: there is that much in use, and of the other it is still not known.
    sim.holds(web, 100, 100);
    both(&mut sim, &mut there, 15, &[Ran(web, 400), Ran(batch, 100)]);
    let told = headroom(&sim);
    let pool = told.pools.iter().find(|p| p.zone == "a").unwrap();
    assert!(pool.memory.used_now.unwrap() > 1e6, "{pool:?}");
    assert!(pool.doubts.iter().any(|d| d.contains("no memory is told")));
    let zone = |zone: &str| told.zones.iter().find(|z| z.zone == zone).unwrap().clone();
    assert_eq!(zone("a").by_use.fits, None, "{:?}", zone("a"));
    // Nothing runs in zone b: it would fit anywhere.
    assert_eq!(zone("b").by_use.fits, Some(true));
}

#[test]
fn highest_minutes_at_different_times_are_no_no() {
    let mut sim = sim();
    sim.cluster.nodes[1] = node("node-b", Some("b"), 2);
    sim.publish();
    let web = sim.pod("blue", "web", 500);
    let batch = sim.pod("red", "batch", 100);
    sim.holds(web, 100, 100);
    sim.holds(batch, 100, 100);
    let mut there = Sim::new("");
    there.node = "node-b";
    both(&mut sim, &mut there, 100, &[Ran(web, 1_100), Ran(batch, 100)]);
    both(&mut sim, &mut there, 100, &[Ran(web, 100), Ran(batch, 1_100)]);
    let of = |sim: &Sim| {
        let told = headroom(sim);
        told.zones.iter().find(|z| z.zone == "a").unwrap().clone()
    };
    let zone = of(&sim);
    assert!((zone.by_use.moved_cores - 2.2).abs() < 0.1, "{zone:?}");
    assert_eq!(zone.by_use.fits, None, "{zone:?}");
    assert!(zone.by_use.why.contains("not all at once"), "{}", zone.by_use.why);
    assert!(
        zone.summary.contains("each its own highest minute"),
        "{}",
        zone.summary
    );
    // One that would find no room even alone is a no.
    sim.cluster.nodes[1] = node("node-b", Some("b"), 1);
    sim.publish();
    assert_eq!(of(&sim).by_use.fits, Some(false), "{:?}", of(&sim));
}
