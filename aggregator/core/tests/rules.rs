//! Each rule and each of its edges, on what a node reports second by second.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod sim;

use std::sync::Arc;

use partywall_aggregator_core::breach::BreachState;
use partywall_aggregator_core::identity::QuotaObject;
use partywall_aggregator_core::report::{EntityKind, UnknownReason};
use sim::*;

const NOISY: &str = "NoisyNeighbour red>blue blue/web";

/// blue/web under its promise of 0.5, red/batch over its of 0.1.
fn hog() -> (Sim, u32, u32) {
    let mut sim = Sim::new("");
    let web = sim.pod("blue", "web", 500);
    let batch = sim.pod("red", "batch", 100);
    (sim, web, batch)
}

#[test]
fn a_hog_over_its_request_is_named_within_five_seconds() {
    let (mut sim, web, batch) = hog();
    sim.ticks(14, &[Ran(web, 440), Ran(batch, 1_900), Waited(web, batch, 620)]);
    assert_eq!(sim.firing(), [NOISY]);
    assert!(sim.second_of("NoisyNeighbour", BreachState::Firing).unwrap() <= 5);
    let breach = &sim.world.book().live()[0];
    assert_eq!(
        breach.summary,
        "red/batch took 0.62 cores from blue/web on node-a for 13 s: blue/web ran 2.4x slower, on 0.44 of its promised 0.5 cores; \
         red used 1.9 cores there against an entitlement of 0.1"
    );
    assert_eq!(&*breach.culprits[0].pod, "red/batch");
    assert!((breach.culprits[0].share - 1.0).abs() < 1e-9);
    assert!((breach.covered - 1.0).abs() < 1e-9);
    assert_eq!(breach.fingerprint.len(), 16);
}

#[test]
fn a_hog_that_begins_after_a_quiet_spell_is_named_within_five_seconds() {
    let (mut sim, web, batch) = hog();
    sim.ticks(20, &[Ran(web, 300), Ran(batch, 50)]);
    // A slow-down of 1.3: in the long window alone it would show after four seconds, and fire after six.
    sim.ticks(5, &[Ran(web, 300), Ran(batch, 700), Waited(web, batch, 90)]);
    assert_eq!(sim.firing(), [NOISY]);
    assert!(sim.second_of("NoisyNeighbour", BreachState::Firing).unwrap() - 20 <= 5);
}

#[test]
fn a_culprit_that_stops_is_resolved() {
    let (mut sim, web, batch) = hog();
    sim.ticks(8, &[Ran(web, 300), Ran(batch, 700), Waited(web, batch, 300)]);
    sim.ticks(12, &[Ran(web, 400)]);
    assert!(sim.firing().is_empty());
    let resolved = sim.second_of("NoisyNeighbour", BreachState::Resolved).unwrap();
    assert!((13..=18).contains(&resolved), "{resolved}");
    let breach = sim.snapshot().breaches.pop().unwrap();
    assert_eq!(breach.state, BreachState::Resolved);
    assert!(breach.resolved_unix_ns > breach.firing_unix_ns && breach.firing_unix_ns > breach.since_unix_ns);
    assert!(
        breach.summary.contains("took 0.3 cores"),
        "as at its worst: {}",
        breach.summary
    );
}

#[test]
fn bursts_are_one_breach() {
    let (mut sim, web, batch) = hog();
    for second in 0..40 {
        let burst = second % 4 == 0;
        let work = [
            Ran(web, 150),
            Ran(batch, if burst { 700 } else { 0 }),
            Waited(web, batch, if burst { 250 } else { 0 }),
        ];
        sim.tick(&work);
    }
    assert_eq!(sim.fired(), [NOISY]);
    let changes = sim
        .log
        .iter()
        .filter(|(_, b)| b.state == BreachState::Firing)
        .count();
    assert_eq!(
        changes,
        1,
        "fired once: {:?}",
        sim.log.iter().map(|(s, b)| (s, b.state)).collect::<Vec<_>>()
    );
}

#[test]
fn what_is_no_breach() {
    type Case = (&'static str, fn(&mut Sim) -> Vec<Did>);
    let cases: &[Case] = &[
        ("the victim is over its own request", |s| {
            let (web, batch) = (s.pod("blue", "web", 300), s.pod("red", "batch", 100));
            vec![Ran(web, 400), Ran(batch, 900), Waited(web, batch, 500)]
        }),
        ("the victim has no request", |s| {
            let (web, batch) = (s.pod("blue", "web", 0), s.pod("red", "batch", 100));
            vec![Ran(web, 400), Ran(batch, 900), Waited(web, batch, 500)]
        }),
        ("best effort against best effort", |s| {
            let (web, batch) = (s.pod("blue", "web", 0), s.pod("red", "batch", 0));
            vec![
                Ran(web, 500),
                Ran(batch, 500),
                Waited(web, batch, 500),
                Waited(batch, web, 500),
            ]
        }),
        ("the victim's own limit holds it back for most of its wait", |s| {
            let (web, batch) = (s.pod("blue", "web", 500), s.pod("red", "batch", 100));
            vec![
                Ran(web, 200),
                Ran(batch, 1_500),
                Waited(web, batch, 100),
                Throttled(web, 700),
            ]
        }),
        ("its own fork bomb", |s| {
            let (web, other) = (s.pod("blue", "web", 500), s.pod("red", "batch", 100));
            vec![Ran(web, 300), WaitedForItself(web, 9_000), Ran(other, 50)]
        }),
        ("pods of one tenant in one namespace", |s| {
            let (web, other) = (s.pod("blue", "web", 500), s.pod("blue", "batch", 100));
            vec![Ran(web, 300), Ran(other, 1_500), Waited(web, other, 500)]
        }),
        ("the CPU was idle", |s| {
            let web = s.pod("blue", "web", 500);
            vec![Ran(web, 10), Idle(web, 200)]
        }),
        ("waiting that nobody notices", |s| {
            let (web, batch) = (s.pod("blue", "web", 500), s.pod("red", "batch", 100));
            vec![Ran(web, 300), Ran(batch, 900), Waited(web, batch, 9)]
        }),
        ("waiting that does not slow it down", |s| {
            let (web, batch) = (s.pod("blue", "web", 500), s.pod("red", "batch", 100));
            vec![Ran(web, 400), Ran(batch, 900), Waited(web, batch, 30)]
        }),
        (
            "many tasks in a queue of their own, all of which wait while another runs",
            |s| {
                let (web, batch) = (s.pod("blue", "web", 2_000), s.pod("red", "batch", 10));
                vec![
                    Ran(web, 950),
                    WaitedForItself(web, 16_000),
                    Ran(batch, 50),
                    Waited(web, batch, 850),
                ]
            },
        ),
        ("unknown runners", |s| {
            let (web, who) = (s.pod("blue", "web", 500), s.unknown(UnknownReason::PathGone));
            vec![Ran(web, 200), Ran(who, 900), Waited(web, who, 500)]
        }),
        ("runners whose pod object was not seen", |s| {
            let web = s.pod("blue", "web", 500);
            let who = s.entity(EntityKind::Pod(Arc::from("not-in-the-cluster-data")));
            vec![Ran(web, 200), Ran(who, 900), Waited(web, who, 500)]
        }),
        ("pods of the system wait", |s| {
            let (dns, batch) = (s.pod("kube-system", "dns", 500), s.pod("red", "batch", 100));
            vec![Ran(dns, 200), Ran(batch, 900), Waited(dns, batch, 500)]
        }),
        ("host cgroups wait", |s| {
            let (kubelet, batch) = (
                s.host("/system.slice/kubelet.service"),
                s.pod("red", "batch", 100),
            );
            vec![Ran(kubelet, 200), Ran(batch, 900), Waited(kubelet, batch, 500)]
        }),
        ("the kernel side could not resolve it", |s| {
            let web = s.pod("blue", "web", 500);
            vec![Ran(web, 200), Unresolved(web, 500)]
        }),
    ];
    for (about, case) in cases {
        let mut sim = Sim::new("");
        let work = case(&mut sim);
        sim.ticks(15, &work);
        assert_eq!(
            sim.log.iter().map(|(_, b)| describe(b)).collect::<Vec<_>>(),
            Vec::<String>::new(),
            "{about}"
        );
    }
}

#[test]
fn one_tenant_in_two_namespaces_is_not_its_own_neighbour() {
    let mut sim = Sim::new("tenants: [{name: acme, namespaces: [blue, red]}]");
    let (web, batch) = (sim.pod("blue", "web", 500), sim.pod("red", "batch", 100));
    sim.ticks(10, &[Ran(web, 300), Ran(batch, 1_500), Waited(web, batch, 500)]);
    assert!(sim.log.is_empty());
    assert!((sim.view("web").same_tenant_cores - 0.5).abs() < 1e-9);
}

#[test]
fn one_hiccup_never_fires() {
    let (mut sim, web, batch) = hog();
    sim.ticks(10, &[Ran(web, 2), Ran(batch, 900)]);
    sim.tick(&[Ran(web, 2), Ran(batch, 900), Waited(web, batch, 120)]);
    sim.ticks(10, &[Ran(web, 2), Ran(batch, 900)]);
    assert!(sim.fired().is_empty(), "{:?}", sim.fired());
}

#[test]
fn many_small_pods_of_one_tenant_add_up() {
    let mut sim = Sim::new("");
    let web = sim.pod("blue", "web", 500);
    let small: Vec<u32> = (0..20)
        .map(|i| sim.pod("red", &format!("small-{i}"), 10))
        .collect();
    let mut work = vec![Ran(web, 300)];
    for s in &small {
        work.extend([Ran(*s, 35), Waited(web, *s, 20)]);
    }
    sim.ticks(8, &work);
    assert_eq!(sim.firing(), [NOISY]);
    let breach = &sim.world.book().live()[0];
    assert_eq!(breach.culprits.len(), 10, "capped");
    assert!(
        breach.summary.starts_with("20 pods of red (most: red/small-"),
        "{}",
        breach.summary
    );
    assert!(breach.summary.contains("took 0.4 cores"), "{}", breach.summary);
}

#[test]
fn pods_that_live_200_ms_add_up() {
    let mut sim = Sim::new("");
    let web = sim.pod("blue", "web", 500);
    // Five pods a second, one after the other, each promised 0.1 cores while it lives: 0.1 in all.
    for second in 0..12 {
        let mut work = vec![Ran(web, 300)];
        for i in 0..5 {
            let job = sim.pod("red", &format!("job-{second}-{i}"), 100);
            work.extend([Ran(job, 100), Waited(job, web, 100), Waited(web, job, 60)]);
            sim.lives(job, i * 200, i * 200 + 200);
        }
        sim.tick(&work);
    }
    assert_eq!(sim.firing(), [NOISY]);
    let breach = sim.world.book().live().remove(0);
    let figure = |name: &str| breach.evidence.iter().find(|f| f.name == name).unwrap().value;
    assert!(
        (figure("culprit_entitled_cores") - 0.1).abs() < 0.02,
        "{breach:?}"
    );
    assert!((figure("culprit_used_cores") - 0.5).abs() < 0.05, "{breach:?}");
}

#[test]
fn without_times_of_birth_and_end_entitlement_errs_in_the_culprits_favour() {
    let mut sim = Sim::new("");
    let web = sim.pod("blue", "web", 500);
    for second in 0..12 {
        let job = sim.pod("red", &format!("job-{second}"), 500);
        // Ran 0.4 s; lived anything between that and the whole second.
        sim.ends(job);
        sim.tick(&[Ran(web, 300), Ran(job, 400), Waited(web, job, 200)]);
    }
    assert_eq!(sim.fired(), ["NodeOvercommitted system>blue blue/web"]);
}

#[test]
fn two_culprits_are_ranked() {
    let mut sim = Sim::new("");
    let web = sim.pod("blue", "web", 500);
    let (a, b, c) = (
        sim.pod("red", "a", 100),
        sim.pod("green", "b", 100),
        sim.pod("grey", "c", 900),
    );
    sim.ticks(
        8,
        &[
            Ran(web, 200),
            Ran(a, 600),
            Ran(b, 600),
            Ran(c, 100),
            Waited(web, a, 400),
            Waited(web, b, 250),
            Waited(web, c, 50),
        ],
    );
    assert_eq!(sim.firing(), ["NoisyNeighbour green>blue blue/web", NOISY]);
    let rank = |tenant: &str| {
        let b = sim
            .world
            .book()
            .live()
            .into_iter()
            .find(|b| &*b.key.tenant == tenant)
            .unwrap();
        b.evidence
            .iter()
            .find(|f| f.name == "culprit_rank")
            .unwrap()
            .value
    };
    assert!((rank("red") - 1.0).abs() < 1e-9 && (rank("green") - 2.0).abs() < 1e-9);
}

#[test]
fn a_small_share_is_no_culprit() {
    let mut sim = Sim::new("");
    let web = sim.pod("blue", "web", 500);
    let (a, b) = (sim.pod("red", "a", 100), sim.pod("green", "b", 100));
    sim.ticks(
        8,
        &[
            Ran(web, 200),
            Ran(a, 900),
            Ran(b, 150),
            Waited(web, a, 400),
            Waited(web, b, 60),
        ],
    );
    assert_eq!(sim.firing(), [NOISY]);
}

#[test]
fn nobody_over_entitlement_is_the_nodes_own_fault() {
    let mut sim = Sim::new("");
    let (web, batch) = (sim.pod("blue", "web", 800), sim.pod("red", "batch", 800));
    sim.ticks(
        10,
        &[
            Ran(web, 500),
            Ran(batch, 500),
            Waited(web, batch, 500),
            Waited(batch, web, 500),
        ],
    );
    assert_eq!(
        sim.firing(),
        [
            "NodeOvercommitted system>blue blue/web",
            "NodeOvercommitted system>red red/batch"
        ]
    );
    assert!(sim.second_of("NodeOvercommitted", BreachState::Firing).unwrap() <= 5);
    let summary = &sim.world.book().live()[0].summary;
    assert!(summary.contains("blue/web lost 0.5 cores on node-a"), "{summary}");
    assert!(
        summary.contains("promised 1.6 cores in all, it has 2 CPUs"),
        "{summary}"
    );
}

#[test]
fn a_tenant_exactly_at_its_limit_is_not_over_it() {
    let mut sim = Sim::new("");
    let (web, batch) = (sim.pod("blue", "web", 800), sim.pod("red", "batch", 500));
    sim.ticks(10, &[Ran(web, 400), Ran(batch, 503), Waited(web, batch, 300)]);
    assert_eq!(sim.firing(), ["NodeOvercommitted system>blue blue/web"]);
}

#[test]
fn daemons_are_system_noise() {
    let mut sim = Sim::new("");
    let web = sim.pod("blue", "web", 500);
    let daemon = sim.host("/system.slice/backup.service");
    sim.ticks(8, &[Ran(web, 300), Ran(daemon, 900), Waited(web, daemon, 400)]);
    assert_eq!(sim.firing(), ["SystemNoise system>blue blue/web"]);
    let breach = &sim.world.book().live()[0];
    assert_eq!(&*breach.culprits[0].pod, "/system.slice/backup.service");
    assert!(
        breach
            .summary
            .contains("(most: /system.slice/backup.service) took 0.4 cores from blue/web"),
        "{}",
        breach.summary
    );
}

#[test]
fn the_larger_part_decides_between_system_and_neighbour() {
    let mut sim = Sim::new("");
    let (web, batch) = (sim.pod("blue", "web", 500), sim.pod("red", "batch", 100));
    let daemon = sim.host("/system.slice/backup.service");
    sim.ticks(
        8,
        &[
            Ran(web, 300),
            Ran(daemon, 300),
            Ran(batch, 700),
            Waited(web, daemon, 100),
            Waited(web, batch, 300),
        ],
    );
    assert_eq!(sim.firing(), [NOISY]);
}

#[test]
fn a_pod_named_late_is_blamed_in_retrospect_but_never_before() {
    let mut sim = Sim::new("");
    let web = sim.pod("blue", "web", 500);
    let batch = sim.entity(EntityKind::Pod(Arc::from(uid("red", "batch"))));
    let work = [Ran(web, 300), Ran(batch, 900), Waited(web, batch, 500)];
    sim.ticks(4, &work);
    assert!(sim.log.is_empty());
    assert!((sim.view("web").unknown_cores - 0.5).abs() < 1e-9);
    sim.object("red", "batch", 100);
    sim.ticks(1, &work);
    assert!(
        (sim.view("web").stolen_cores - 0.5).abs() < 1e-9,
        "the whole window is renamed"
    );
    sim.ticks(2, &work);
    assert_eq!(sim.firing(), [NOISY]);
}

#[test]
fn a_pod_that_left_the_cluster_data_keeps_its_name() {
    let (mut sim, web, batch) = hog();
    let work = [Ran(web, 300), Ran(batch, 900), Waited(web, batch, 500)];
    sim.ticks(2, &work);
    sim.cluster.pods.retain(|p| p.name != "batch");
    sim.publish();
    sim.ticks(4, &work);
    assert_eq!(sim.firing(), [NOISY]);
}

#[test]
fn a_changed_entitlement_counts_at_once() {
    let (mut sim, web, batch) = hog();
    let work = [Ran(web, 300), Ran(batch, 900), Waited(web, batch, 500)];
    sim.ticks(6, &work);
    assert_eq!(sim.firing(), [NOISY]);
    Arc::make_mut(sim.cluster.pods.iter_mut().find(|p| p.name == "batch").unwrap())
        .requests
        .cpu_ncores = 2_000_000_000;
    sim.publish();
    sim.ticks(6, &work);
    assert_eq!(sim.firing(), ["NodeOvercommitted system>blue blue/web"]);
}

#[test]
fn path_rules_make_tenants_of_host_cgroups() {
    let mut sim = Sim::new(
        "paths: [{prefix: /system.slice/nginx.service, tenant: web, name: nginx, cpu_request_cores: 0.5}, {prefix: /user.slice, tenant: people}]",
    );
    let (a, b) = (
        sim.host("/system.slice/nginx.service/a"),
        sim.host("/system.slice/nginx.service/b"),
    );
    let user = sim.host("/user.slice/user-1000.slice");
    sim.ticks(
        8,
        &[
            Ran(a, 100),
            Ran(b, 100),
            Ran(user, 1_500),
            Waited(a, user, 200),
            Waited(b, user, 200),
            Waited(a, b, 50),
        ],
    );
    assert_eq!(sim.firing(), ["NoisyNeighbour people>web web/nginx"]);
    let nginx = sim.view("nginx");
    assert!(
        (nginx.stolen_cores - 0.4).abs() < 1e-9 && (nginx.self_cores - 0.05).abs() < 1e-9,
        "{nginx:?}"
    );
    let tenants = sim.snapshot().tenants;
    let web = tenants.iter().find(|t| &*t.name == "web").unwrap();
    assert_eq!(web.resolved_by.as_str(), "path");
}

#[test]
fn quota_near_over_and_back() {
    let mut sim = Sim::new("");
    let pod = sim.pod("red", "batch", 100);
    sim.cluster.quotas.push(QuotaObject {
        namespace: "red".into(),
        name: "q".into(),
        cpu_ncores: Some(1_000_000_000),
        ..QuotaObject::default()
    });
    sim.publish();
    sim.ticks(8, &[Ran(pod, 500)]);
    assert!(sim.log.is_empty());
    sim.ticks(6, &[Ran(pod, 900)]);
    assert_eq!(sim.firing(), ["QuotaNear red> cpu"]);
    sim.ticks(6, &[Ran(pod, 1_500)]);
    assert_eq!(
        sim.firing(),
        ["QuotaExceeded red> cpu"],
        "Near is resolved when Exceeded fires"
    );
    let summary = &sim.world.book().live()[0].summary;
    assert!(
        summary.starts_with("red used more than its quota for ")
            && summary.ends_with(": 1.5 of 1 cores, 150 %, on one node"),
        "{summary}"
    );
    // Within the hysteresis: still the same breach.
    sim.ticks(15, &[Ran(pod, 990)]);
    assert_eq!(sim.firing(), ["QuotaExceeded red> cpu"]);
    sim.ticks(12, &[Ran(pod, 300)]);
    assert!(sim.firing().is_empty());
    assert_eq!(sim.fired(), ["QuotaExceeded red> cpu", "QuotaNear red> cpu"]);
}

#[test]
fn a_tenant_may_use_all_of_its_quota() {
    let mut sim = Sim::new(
        "tenants: [{name: red, namespaces: [red], quota: {cpu_cores: 1}}]\nquota: {near_ratio: 1.0}",
    );
    let pod = sim.pod("red", "batch", 100);
    sim.ticks(12, &[Ran(pod, 1_005)]);
    assert_eq!(sim.firing(), ["QuotaNear red> cpu"]);
}

#[test]
fn a_node_that_falls_silent_is_not_judged_for_ever() {
    let (mut sim, web, batch) = hog();
    sim.ticks(6, &[Ran(web, 300), Ran(batch, 900), Waited(web, batch, 500)]);
    assert_eq!(sim.firing(), [NOISY]);
    for _ in 0..20 {
        sim.pass(S);
        sim.judge();
    }
    assert!(sim.firing().is_empty());
    let snapshot = sim.snapshot();
    assert!(snapshot.nodes[0].covered.abs() < 1e-9 && snapshot.nodes[0].age_ns >= 20 * S);
    // The agent's queue is worked off later: one long interval, and the totals are whole.
    sim.pass(S);
    sim.report(&[Ran(web, 300)]);
    sim.judge();
    let total: u64 = sim
        .world
        .run_totals()
        .iter()
        .filter(|t| &*t.tenant == "blue")
        .map(|t| t.ns)
        .sum();
    assert_eq!(total, 7 * 300 * MS);
}
