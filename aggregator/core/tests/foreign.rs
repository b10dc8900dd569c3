//! A node that tells of pods of which the cluster says that they run elsewhere: nothing of it is theirs, nobody is blamed, and the rest of its reports counts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod sim;

use std::collections::BTreeMap;
use std::sync::Arc;

use partywall_aggregator_core::report::{EntityKind, OomScope, Traffic};
use sim::{Ran, S, Sim, Waited, uid};

/// blue/web runs here; green/elsewhere on node-b, and this node reports it all the same.
fn stage() -> (Sim, u32, u32) {
    let mut sim = Sim::new("");
    let web = sim.memory_pod("blue", "web", 64);
    sim.object("green", "elsewhere", 100);
    Arc::make_mut(sim.cluster.pods.last_mut().unwrap()).node = Some("node-b".into());
    sim.publish();
    let foreign = sim.entity(EntityKind::Pod(Arc::from(uid("green", "elsewhere"))));
    (sim, web, foreign)
}

fn run_ns(sim: &Sim) -> BTreeMap<String, u64> {
    let totals = sim.world.run_totals().into_iter();
    totals.map(|t| (t.tenant.to_string(), t.ns)).collect()
}

#[test]
fn neither_time_nor_waits_of_it_are_its_tenants_and_it_is_shown_as_foreign() {
    let (mut sim, web, foreign) = stage();
    let did = [
        Ran(web, 300),
        Ran(foreign, 900),
        Waited(web, foreign, 500),
        Waited(foreign, web, 500),
    ];
    sim.ticks(20, &did);
    assert_eq!(run_ns(&sim).get("green"), None, "{:?}", run_ns(&sim));
    assert_eq!(run_ns(&sim)["blue"], 20 * 3 * S / 10);
    let totals = sim.world.ledger_totals();
    let cells: Vec<_> = totals.cells().collect();
    assert!(
        cells
            .iter()
            .all(|c| &**c.waiter != "green" && &**c.runner != "green"),
        "{cells:?}"
    );
    let waited: u64 = cells.iter().filter(|c| &**c.waiter == "blue").map(|c| c.ns).sum();
    assert_eq!(
        waited,
        20 * S / 2,
        "the victim's wait is whole, against <unknown>"
    );
    assert!(sim.fired().is_empty(), "{:?}", sim.fired());
    let snapshot = sim.snapshot();
    let view = snapshot
        .pods
        .iter()
        .find(|p| *p.uid == *uid("green", "elsewhere"))
        .unwrap();
    assert_eq!((&*view.tenant, &*view.name), ("<unknown>", "<foreign>"));
    assert!(
        snapshot
            .tenants
            .iter()
            .all(|t| &*t.name != "green" || t.pods == 0)
    );
    assert_eq!(
        sim.world.losses().get("identify", "foreign_pod"),
        1,
        "once, however many reports"
    );
}

#[test]
fn its_memory_and_its_kills_are_nobodys() {
    let (mut sim, web, foreign) = stage();
    for _ in 0..15 {
        sim.holds(web, 100, 90);
        sim.holds(foreign, 9_000, 9_000);
        sim.tick(&[Ran(web, 100), Ran(foreign, 100)]);
    }
    // It would have been the cause of one and the victim of another.
    sim.kill(foreign, web, OomScope::Node);
    sim.kill(web, foreign, OomScope::Node);
    for _ in 0..10 {
        sim.tick(&[Ran(web, 100)]);
    }
    let snapshot = sim.snapshot();
    let green = snapshot.tenants.iter().find(|t| &*t.name == "green");
    assert!(
        green.is_none_or(|t| t.memory_bytes.unwrap_or(0) == 0),
        "{green:?}"
    );
    let kills = snapshot.nodes.iter().flat_map(|n| &n.oom_kills);
    for kill in kills {
        assert!(&*kill.trigger != "green" && &*kill.victim != "green", "{kill:?}");
    }
    assert!(
        sim.fired().iter().all(|b| !b.contains("green")),
        "{:?}",
        sim.fired()
    );
}

#[test]
fn traffic_that_found_no_place_is_not_its_tenants() {
    let (mut sim, web, foreign) = stage();
    for entity in [web, foreign] {
        sim.folded.insert(entity, Traffic::default());
    }
    sim.tick(&[]);
    for (entity, bytes) in [(web, 100), (foreign, 900)] {
        let traffic = sim.folded.get_mut(&entity).unwrap();
        traffic.sent_bytes += bytes;
        traffic.opened += 10_000;
    }
    sim.ticks(10, &[]);
    let snapshot = sim.snapshot();
    let of = |tenant: &str| {
        let found = snapshot.folded.iter().find(|f| &*f.tenant == tenant);
        found.map_or(0, |f| f.bytes)
    };
    assert_eq!((of("blue"), of("green"), of("<unknown>")), (100, 0, 900));
    assert!(
        sim.fired().iter().all(|b| !b.contains("green")),
        "{:?}",
        sim.fired()
    );
}

#[test]
fn what_is_not_scheduled_yet_is_not_foreign_and_what_is_scheduled_elsewhere_becomes_it() {
    let mut sim = Sim::new("");
    let pod = sim.pod("blue", "web", 500);
    Arc::make_mut(&mut sim.cluster.pods[0]).node = None;
    sim.publish();
    sim.ticks(3, &[Ran(pod, 300)]);
    assert_eq!(sim.world.losses().get("identify", "foreign_pod"), 0);
    Arc::make_mut(&mut sim.cluster.pods[0]).node = Some("node-b".into());
    sim.publish();
    sim.ticks(10, &[Ran(pod, 300)]);
    assert_eq!(sim.world.losses().get("identify", "foreign_pod"), 1);
    let before = run_ns(&sim)["blue"];
    sim.ticks(10, &[Ran(pod, 300)]);
    assert_eq!(run_ns(&sim)["blue"], before);
    // The cluster data was late, not wrong: from then on it counts.
    Arc::make_mut(&mut sim.cluster.pods[0]).node = Some("node-a".into());
    sim.publish();
    sim.ticks(10, &[Ran(pod, 300)]);
    assert!(run_ns(&sim)["blue"] > before);
}

#[test]
fn a_static_pod_is_held_against_its_mirror_objects_node() {
    let mut sim = Sim::new("");
    for (name, node, hash) in [("etcd-a", "node-a", "hash-a"), ("etcd-b", "node-b", "hash-b")] {
        sim.object("blue", name, 100);
        let pod = Arc::make_mut(sim.cluster.pods.last_mut().unwrap());
        pod.node = Some(node.into());
        pod.static_uid = Some(hash.into());
    }
    sim.publish();
    let [own, foreign] = ["hash-a", "hash-b"].map(|hash| sim.entity(EntityKind::Pod(Arc::from(hash))));
    sim.ticks(10, &[Ran(own, 100), Ran(foreign, 700)]);
    assert_eq!(run_ns(&sim)["blue"], S);
    assert_eq!(sim.world.losses().get("identify", "foreign_pod"), 1);
}
