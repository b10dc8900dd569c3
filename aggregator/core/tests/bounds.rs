//! Quotas of memory and pods, and LimitRanges.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod sim;

use std::sync::Arc;

use partywall_aggregator_core::breach::BreachState;
use partywall_aggregator_core::identity::{Classes, ContainerObject, LimitRangeObject, QuotaObject, Scope};
use partywall_aggregator_core::report::EntityKind;
use sim::*;

fn quota(sim: &mut Sim, memory_mib: Option<u64>, pods: Option<u64>) {
    sim.cluster.quotas.push(QuotaObject {
        namespace: "red".into(),
        name: "q".into(),
        memory_bytes: memory_mib.map(|n| n * MIB),
        pods,
        ..QuotaObject::default()
    });
    sim.publish();
}

#[test]
fn memory_near_over_and_back() {
    let mut sim = Sim::new("");
    let (a, b) = (sim.memory_pod("red", "a", 10), sim.memory_pod("red", "b", 10));
    quota(&mut sim, Some(100), None);
    sim.holds(a, 900, 40);
    sim.holds(b, 900, 30);
    sim.ticks(6, &[]);
    assert!(sim.log.is_empty(), "the working set counts, not the cache");
    sim.holds(b, 900, 45);
    sim.ticks(5, &[]);
    assert_eq!(sim.firing(), ["QuotaNear red> memory"]);
    sim.holds(b, 900, 110);
    sim.ticks(5, &[]);
    assert_eq!(sim.firing(), ["QuotaExceeded red> memory"]);
    let summary = &sim.world.book().live()[0].summary;
    assert!(
        summary.ends_with(": 150 MiB of 100 MiB of memory, 150 %, on one node"),
        "{summary}"
    );
    sim.holds(b, 900, 59);
    sim.ticks(8, &[]);
    assert_eq!(
        sim.firing(),
        ["QuotaExceeded red> memory"],
        "within the hysteresis"
    );
    sim.holds(b, 900, 1);
    sim.ticks(8, &[]);
    assert!(sim.firing().is_empty());
    let red = sim
        .snapshot()
        .tenants
        .into_iter()
        .find(|t| &*t.name == "red")
        .unwrap();
    assert_eq!(
        (red.quota_memory_bytes, red.working_set_bytes, red.quota_pods),
        (Some(100 * MIB), Some(41 * MIB), None)
    );
}

#[test]
fn pods_are_counted_exactly_and_never_twice() {
    let mut sim = Sim::new("tenants: [{name: red, namespaces: [red], quota: {pods: 50}}]");
    let pods: Vec<u32> = (0..39).map(|i| sim.pod("red", &format!("p{i}"), 0)).collect();
    sim.ticks(6, &[]);
    assert!(sim.log.is_empty());
    for i in 39..50 {
        sim.pod("red", &format!("p{i}"), 0);
    }
    sim.ticks(6, &[]);
    assert_eq!(
        sim.firing(),
        ["QuotaNear red> pods"],
        "fifty of fifty, none of which ever ran"
    );
    // Announced again, under new indices too: the same pods.
    sim.announce_all();
    for pod in 0..10 {
        sim.entity(EntityKind::Pod(uid("red", &format!("p{pod}")).into()));
    }
    sim.ticks(6, &[]);
    assert_eq!(sim.firing(), ["QuotaNear red> pods"]);
    let more = sim.pod("red", "one-more", 0);
    sim.ticks(5, &[]);
    assert_eq!(sim.firing(), ["QuotaExceeded red> pods"]);
    let summary = &sim.world.book().live()[0].summary;
    assert!(
        summary.ends_with(": 51 of 50 pods, 102 %, on one node"),
        "{summary}"
    );
    sim.ends(more);
    sim.ticks(8, &[]);
    assert_eq!(sim.firing(), ["QuotaNear red> pods"]);
    for pod in pods {
        sim.ends(pod);
    }
    // Ten of them live on under their second index.
    sim.ticks(8, &[]);
    assert!(sim.firing().is_empty());
}

#[test]
fn a_quota_with_scopes_is_held_against_the_pods_that_it_selects() {
    let mut sim = Sim::new("");
    let (a, b) = (sim.memory_pod("red", "a", 10), sim.memory_pod("red", "b", 10));
    for pod in sim.cluster.pods.iter_mut().filter(|pod| pod.name == "b") {
        Arc::make_mut(pod).priority_class = Some("high".into());
    }
    quota(&mut sim, Some(50), Some(2));
    let high = Classes::In(["high".to_owned()].into());
    sim.cluster.quotas[0].scopes = [Scope::PriorityClass(high)].into();
    sim.publish();
    sim.holds(a, 900, 500);
    sim.holds(b, 900, 10);
    sim.ticks(6, &[]);
    assert!(
        sim.log.is_empty(),
        "a is of no class, and one pod of two is of it"
    );
    sim.holds(b, 900, 60);
    sim.ticks(5, &[]);
    assert_eq!(
        sim.firing(),
        ["QuotaExceeded red> memory of pods with PriorityClass in (high)"]
    );
    let summary = &sim.world.book().live()[0].summary;
    assert!(
        summary.starts_with("red used more than its quota of pods with PriorityClass in (high)")
            && summary.ends_with(": 60 MiB of 50 MiB of memory, 120 %, on one node"),
        "{summary}"
    );
}

#[test]
fn a_quota_of_no_pods_admits_none() {
    let mut sim = Sim::new("");
    quota(&mut sim, None, Some(0));
    sim.pod("red", "a", 0);
    sim.ticks(4, &[]);
    assert_eq!(sim.firing(), ["QuotaExceeded red> pods"]);
}

/// red/a with container `main`, whose limits are given; a LimitRange of half a core and 64 MiB at most.
fn ranged(cpu_m: Option<u64>, memory_mib: Option<u64>) -> (Sim, u32, u32) {
    let mut sim = Sim::new("");
    let pod = sim.pod("red", "a", 0);
    let object = Arc::make_mut(sim.cluster.pods.last_mut().unwrap());
    object.containers = [ContainerObject {
        name: "main".into(),
        id: Some("c0ffee".into()),
        cpu_limit_ncores: cpu_m.map(|n| n * 1_000_000),
        memory_limit_bytes: memory_mib.map(|n| n * MIB),
        ..ContainerObject::default()
    }]
    .into();
    sim.cluster.limit_ranges.push(LimitRangeObject {
        namespace: "red".into(),
        name: "r".into(),
        max_cpu_ncores: Some(500_000_000),
        max_memory_bytes: Some(64 * MIB),
        ..LimitRangeObject::default()
    });
    sim.publish();
    let container = sim.entity(EntityKind::Container {
        pod,
        id: "c0ffee".into(),
    });
    (sim, pod, container)
}

const CPU: &str = "LimitRangeExceeded red> red/a/main/cpu";
const MEMORY: &str = "LimitRangeExceeded red> red/a/main/memory";

fn summaries(sim: &Sim) -> Vec<String> {
    sim.world.book().live().into_iter().map(|b| b.summary).collect()
}

#[test]
fn a_container_within_its_limit_range_is_no_breach() {
    let (mut sim, pod, container) = ranged(Some(500), Some(64));
    sim.holds(container, 90, 64);
    sim.ticks(8, &[Ran(pod, 508), Ran(container, 508)]);
    assert!(sim.log.is_empty(), "{:?}", sim.log);
}

#[test]
fn a_limit_above_the_maximum_is_a_breach() {
    let (mut sim, ..) = ranged(Some(2_000), Some(128));
    sim.ticks(4, &[]);
    assert_eq!(sim.firing(), [CPU, MEMORY]);
    assert!(sim.second_of("LimitRangeExceeded", BreachState::Firing).unwrap() <= 5);
    assert!(
        summaries(&sim)[0].ends_with(": its cpu limit is 2 cores, the maximum is 0.5 cores"),
        "{:?}",
        summaries(&sim)
    );
    assert!(summaries(&sim)[1].ends_with(": its memory limit is 128 MiB, the maximum is 64 MiB"));
    let figures = &sim.world.book().live()[0].evidence;
    assert_eq!(
        figures.iter().map(|f| f.name).collect::<Vec<_>>(),
        ["limit_cores", "max_cores"]
    );
}

#[test]
fn use_above_the_maximum_is_a_breach_and_ends() {
    let (mut sim, pod, container) = ranged(Some(500), Some(64));
    sim.holds(container, 90, 65);
    sim.ticks(6, &[Ran(pod, 600), Ran(container, 600)]);
    assert_eq!(sim.firing(), [CPU, MEMORY]);
    assert!(summaries(&sim)[0].ends_with(": it uses 0.6 cores of cpu, the maximum is 0.5 cores"));
    assert!(summaries(&sim)[1].ends_with(": it uses 65 MiB of memory, the maximum is 64 MiB"));
    sim.holds(container, 90, 30);
    sim.ticks(10, &[Ran(pod, 100), Ran(container, 100)]);
    assert!(sim.firing().is_empty());
}

#[test]
fn no_limit_where_one_is_set_is_a_breach() {
    let (mut sim, ..) = ranged(None, Some(64));
    sim.ticks(4, &[]);
    assert_eq!(sim.firing(), [CPU]);
    assert!(summaries(&sim)[0].ends_with(": it runs without a cpu limit, the maximum is 0.5 cores"));

    let (mut sim, ..) = ranged(None, None);
    let range = &mut sim.cluster.limit_ranges[0];
    range.max_cpu_ncores = None;
    range.max_memory_bytes = None;
    range.defaults_memory = true;
    sim.publish();
    sim.ticks(4, &[]);
    assert_eq!(sim.firing(), [MEMORY], "nothing is set for cpu");

    // What is set on the pod as a whole bounds its containers.
    let (mut sim, ..) = ranged(None, Some(64));
    Arc::make_mut(&mut sim.cluster.pods[0]).cpu_limit_ncores = Some(400_000_000);
    sim.publish();
    sim.ticks(4, &[]);
    assert!(sim.log.is_empty());
}

#[test]
fn a_pod_that_no_agent_sees_and_one_of_the_system_break_nothing() {
    let (mut sim, pod, container) = ranged(Some(2_000), Some(128));
    sim.ends(container);
    sim.ends(pod);
    sim.ticks(5, &[]);
    assert!(sim.fired().is_empty());
    let (mut sim, ..) = ranged(Some(2_000), Some(128));
    Arc::make_mut(&mut sim.cluster.pods[0]).namespace = "kube-system".into();
    sim.cluster.limit_ranges[0].namespace = "kube-system".into();
    sim.publish();
    sim.ticks(5, &[]);
    assert!(sim.log.is_empty());
}
