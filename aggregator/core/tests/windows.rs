//! What a report may say, what is made of counters that restart, repeat or go missing, and what must hold for any input.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod sim;

use std::net::IpAddr;
use std::sync::Arc;

use partywall_aggregator_core::World;
use partywall_aggregator_core::breach::{BreachKey, BreachKind, BreachState};
use partywall_aggregator_core::policy::Policy;
use partywall_aggregator_core::report::{
    CpuSample, Entity, EntityKind, Flow, FlowSample, FoldedTraffic, LedgerRow, Outcome, Receipt, Report,
    Role, Traffic, UnknownReason,
};
use proptest::prelude::*;
use sim::*;

fn reason(receipt: &Receipt) -> &str {
    match &receipt.outcome {
        Outcome::Refused(refusal) => refusal.reason,
        Outcome::Accepted => "accepted",
        Outcome::Duplicate => "duplicate",
    }
}

fn used(sim: &mut Sim, name: &str) -> f64 {
    sim.view(name).used_cores
}

fn total_ns(sim: &Sim, tenant: &str) -> u64 {
    sim.world
        .run_totals()
        .iter()
        .filter(|t| &*t.tenant == tenant)
        .map(|t| t.ns)
        .sum()
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9
}

#[test]
fn a_report_is_refused_whole_and_says_why() {
    type Spoil = fn(&mut Report);
    let table: &[(&str, &str, Spoil)] = &[
        ("duplicate", "", |r| r.sequence -= 1),
        ("duplicate", "", |r| r.sequence = 1),
        ("malformed", "sequence", |r| r.sequence = 0),
        ("time_backwards", "captured_boot_ns", |r| r.captured_boot_ns = 1),
        ("counter_backwards", "cpu[0].run_ns", |r| r.cpu[0].run_ns = 5),
        ("counter_backwards", "cpu[0].wait_ns", |r| r.cpu[0].wait_ns = 5),
        ("counter_backwards", "cpu[0].waits[10]", |r| {
            r.cpu[0].waits.truncate(3);
        }),
        ("counter_backwards", "ledger[0].idle_ns", |r| {
            r.ledger[0].idle_ns = 0;
        }),
        ("counter_backwards", "ledger[0].ran_ns[0]", |r| {
            r.ledger[0].ran_ns[0] = 0;
        }),
        ("implausible", "cpu[0].run_ns", |r| r.cpu[0].run_ns = u64::MAX),
        ("implausible", "ledger[0].ran_ns[0]", |r| {
            r.ledger[0].ran_ns[0] = u64::MAX;
        }),
        ("malformed", "ledger[0].ran_ns", |r| r.ledger[0].ran_ns.push(1)),
        ("malformed", "ledger[0].runners[0]", |r| {
            r.ledger[0].runners[0] = r.ledger[0].waiter;
        }),
        ("malformed", "cpu[0].waits", |r| r.cpu[0].waits = vec![1; 17]),
        ("malformed", "ended_boot_ns", |r| r.ended_boot_ns = vec![1]),
        ("listed_twice", "cpu[2].entity", |r| r.cpu.push(r.cpu[0].clone())),
        ("listed_twice", "ledger[2].waiter", |r| {
            r.ledger.push(r.ledger[0].clone());
        }),
        ("listed_twice", "ledger[0].runners[1]", |r| {
            let again = (r.ledger[0].runners[0], r.ledger[0].ran_ns[0]);
            r.ledger[0].runners.push(again.0);
            r.ledger[0].ran_ns.push(again.1);
        }),
        ("entity_reused", "entities[0].index", |r| {
            r.entities.push(Entity {
                index: 1,
                kind: EntityKind::Pod(Arc::from("other")),
                born_boot_ns: 0,
            });
        }),
        ("entity_reused", "entities", |r| {
            let e = |uid: &str| Entity {
                index: 99,
                kind: EntityKind::Pod(Arc::from(uid)),
                born_boot_ns: 0,
            };
            r.entities = vec![e("a"), e("b")];
        }),
    ];
    for (expected, field, spoil) in table {
        let mut sim = Sim::new("");
        let (web, batch) = (sim.pod("blue", "web", 500), sim.pod("red", "batch", 100));
        let work = [
            Ran(web, 300),
            Ran(batch, 900),
            Waited(web, batch, 500),
            Idle(web, 1),
        ];
        sim.ticks(3, &work);
        let before = sim.snapshot();
        sim.pass(S);
        let good = sim.make_report(&work);
        let mut bad = good.clone();
        spoil(&mut bad);
        let receipt = sim.world.ingest(bad, sim.now);
        assert_eq!(reason(&receipt), *expected, "{receipt:?}");
        if let Outcome::Refused(refusal) = &receipt.outcome {
            assert_eq!(refusal.field, *field);
            assert!(!refusal.problem.is_empty());
        }
        assert_eq!(sim.snapshot().pods, before.pods, "nothing of it counts");
        assert_eq!(
            reason(&sim.world.ingest(good, sim.now)),
            "accepted",
            "after {expected} {field}"
        );
        sim.judge();
        assert_eq!(total_ns(&sim, "blue"), 4 * 300 * MS, "nothing is lost by it");
    }
}

/// Whoever names a pod of another node is not believed in that, and the rest of its reports counts.
#[test]
fn a_pod_that_runs_elsewhere_is_unknown_and_a_loss() {
    let mut sim = Sim::new("");
    let web = sim.pod("blue", "web", 500);
    sim.object("green", "elsewhere", 100);
    Arc::make_mut(sim.cluster.pods.last_mut().unwrap()).node = Some("node-b".into());
    sim.publish();
    let foreign = sim.entity(EntityKind::Pod(Arc::from(uid("green", "elsewhere"))));
    sim.ticks(3, &[Ran(web, 300), Ran(foreign, 900), Waited(web, foreign, 500)]);
    assert_eq!(total_ns(&sim, "blue"), 3 * 300 * MS);
    assert_eq!(total_ns(&sim, "green"), 0);
    assert!(sim.fired().is_empty(), "{:?}", sim.fired());
    assert_eq!(sim.world.losses().get("identify", "foreign_pod"), 1);
}

#[test]
fn a_lost_report_costs_resolution_only() {
    let mut sim = Sim::new("");
    let pod = sim.pod("blue", "web", 500);
    sim.ticks(3, &[Ran(pod, 300)]);
    for _ in 0..3 {
        sim.pass(S);
        let _lost = sim.make_report(&[Ran(pod, 300)]);
    }
    sim.ticks(2, &[Ran(pod, 300)]);
    assert!(close(used(&mut sim, "web"), 0.3));
    assert_eq!(total_ns(&sim, "blue"), 8 * 300 * MS);
}

#[test]
fn a_new_agent_run_counts_from_zero_and_ends_the_old_one() {
    let mut sim = Sim::new("");
    let pod = sim.pod("blue", "web", 500);
    sim.ticks(5, &[Ran(pod, 300)]);
    let old = sim.make_report(&[]);

    let mut next = Sim::new("");
    std::mem::swap(&mut next.world, &mut sim.world);
    std::mem::swap(&mut next.cluster, &mut sim.cluster);
    (
        next.now,
        next.boot_ns,
        next.sequence,
        next.run.agent_start_unix_ns,
    ) = (sim.now, sim.boot_ns, 0, 2);
    next.report(&[]);
    let pod = next.entity(EntityKind::Pod(Arc::from(uid("blue", "web"))));
    next.ticks(4, &[Ran(pod, 200)]);
    assert!(close(used(&mut next, "web"), 0.2));
    assert_eq!(
        total_ns(&next, "blue"),
        5 * 300 * MS + 4 * 200 * MS,
        "counters go on over runs"
    );
    let mut counted = old.clone();
    counted.sequence -= 1;
    let receipt = next.world.ingest(counted, next.now);
    assert_eq!(receipt.outcome, Outcome::Duplicate, "its receipt was lost");
    let receipt = next.world.ingest(old, next.now);
    assert_eq!(reason(&receipt), "ended_run");
    assert_eq!(next.snapshot().nodes[0].runs, 2);
}

/// The aggregator is restarted: what the agent counted before is a baseline, not an increment.
#[test]
fn a_run_that_is_joined_late_is_caught_up_with() {
    let mut sim = Sim::new("");
    let (web, batch) = (sim.pod("blue", "web", 500), sim.pod("red", "batch", 100));
    let sleeper = sim.pod("green", "sleeper", 100);
    let work = [Ran(web, 300), Ran(batch, 900), Waited(web, batch, 500)];
    sim.tick(&[Ran(sleeper, 900), Waited(sleeper, batch, 900)]);
    sim.ticks(100, &work);

    sim.world = World::new("test".into(), Policy::default());
    sim.publish();
    sim.pass(S);
    let receipt = sim.report(&work);
    assert!(receipt.announce_all && receipt.outcome == Outcome::Accepted);
    // One report was on its way already.
    sim.pass(S);
    assert!(sim.report(&work).announce_all);
    sim.pass(S);
    sim.announce_all();
    assert!(!sim.report(&work).announce_all);
    sim.ticks(4, &work);
    assert!(close(used(&mut sim, "web"), 0.3), "{}", used(&mut sim, "web"));
    assert!(close(sim.view("web").stolen_cores, 0.5));
    // One that slept through it wakes: its counters from before stay a baseline.
    sim.tick(&[Ran(sleeper, 10), Waited(sleeper, batch, 10)]);
    assert!(used(&mut sim, "sleeper") < 0.01);
    sim.tick(&[Ran(sleeper, 70), Waited(sleeper, batch, 140)]);
    assert!(
        close(used(&mut sim, "sleeper"), 0.01 * 7.0 / 6.0 * 10.0 / 10.0),
        "{}",
        used(&mut sim, "sleeper")
    );
    // And one that is new counts from zero.
    let fresh = sim.pod("green", "fresh", 100);
    sim.tick(&[Ran(fresh, 700)]);
    assert!(close(used(&mut sim, "fresh"), 0.1));
}

#[test]
fn a_stray_reference_asks_for_announcements_and_disturbs_nothing() {
    let mut sim = Sim::new("");
    let pod = sim.pod("blue", "web", 500);
    sim.ticks(5, &[Ran(pod, 300)]);
    sim.pass(S);
    let mut report = sim.make_report(&[Ran(pod, 300)]);
    report.cpu.push(CpuSample {
        entity: 4_000_000_000,
        run_ns: 7,
        ..CpuSample::default()
    });
    report.ledger[0].runners.push(77);
    report.ledger[0].ran_ns.push(5);
    let receipt = sim.world.ingest(report, sim.now);
    assert_eq!(
        receipt,
        Receipt {
            outcome: Outcome::Accepted,
            announce_all: true,
        }
    );
    assert_eq!(sim.world.losses().get("ingest", "unknown_entity"), 2);
    sim.judge();
    sim.announce_all();
    sim.ticks(3, &[Ran(pod, 300)]);
    assert!(close(used(&mut sim, "web"), 0.3));
    assert_eq!(total_ns(&sim, "blue"), 9 * 300 * MS);
}

#[test]
fn what_ended_is_forgotten_and_its_time_stays_in_the_totals() {
    let mut sim = Sim::new("");
    let web = sim.pod("blue", "web", 500);
    let mut most = 0;
    for second in 0..120 {
        let mut work = vec![Ran(web, 300)];
        for i in 0..20 {
            let job = sim.pod("red", &format!("job-{second}-{i}"), 10);
            work.extend([Ran(job, 10), Waited(web, job, 1), Waited(job, web, 1)]);
            sim.ends(job);
        }
        sim.tick(&work);
        sim.cluster.pods.retain(|p| p.namespace == "blue");
        let node = sim.snapshot().nodes.remove(0);
        most = most.max(node.entities);
        assert!(node.pairs <= 2 * node.entities);
    }
    assert!(most <= 20 * 18, "{most}");
    assert_eq!(total_ns(&sim, "red"), 120 * 20 * 10 * MS);
    assert_eq!(sim.world.losses().iter().count(), 0, "{:?}", sim.world.losses());
}

#[test]
fn one_node_cannot_hold_more_than_its_share() {
    let mut sim = Sim::new("");
    for batch in 0..6 {
        for i in 0..4_000u32 {
            sim.entity(EntityKind::Pod(Arc::from(format!("u{batch}-{i}"))));
        }
        sim.tick(&[]);
    }
    let node = sim.snapshot().nodes.remove(0);
    assert!(node.entities <= 4_096, "{}", node.entities);
    assert!(sim.world.losses().get("window", "slot_cap") > 0);
    assert!(sim.world.losses().get("window", "entity_cap") > 0);
}

#[test]
fn ledger_pairs_are_bounded_and_their_time_is_unknown_beyond() {
    let mut sim = Sim::new("");
    let pods: Vec<u32> = (0..300).map(|i| sim.pod("red", &format!("p{i}"), 10)).collect();
    let all: Vec<Did> = pods
        .iter()
        .flat_map(|a| pods.iter().filter(move |b| *b != a).map(|b| Waited(*a, *b, 1)))
        .collect();
    sim.tick(&all);
    let snapshot = sim.snapshot();
    assert_eq!(snapshot.nodes[0].pairs, 65_536);
    assert_eq!(sim.world.losses().get("window", "pair_cap"), 300 * 299 - 65_536);
    for pod in &snapshot.pods {
        let classes = pod.same_tenant_cores + pod.unknown_cores + pod.self_cores;
        assert!(close(classes, pod.wait_cores), "{pod:?}");
    }
}

#[test]
fn nodes_that_claim_too_much_time_at_once_do_not_stop_the_others() {
    let mut sim = Sim::new("");
    let pod = sim.pod("blue", "web", 500);
    sim.ticks(2, &[Ran(pod, 300)]);
    // A clock that jumps far ahead: rates become tiny, nothing breaks.
    sim.boot_ns = u64::MAX - 100 * S;
    sim.report(&[Ran(pod, 300)]);
    sim.judge();
    assert!(used(&mut sim, "web") < 0.001);
    sim.ticks(20, &[Ran(pod, 300)]);
    assert!(close(used(&mut sim, "web"), 0.3));
}

#[test]
fn fingerprints_never_change() {
    let key = BreachKey {
        kind: BreachKind::NoisyNeighbour,
        tenant: Arc::from("red"),
        against: Arc::from("blue"),
        node: Arc::from("node-a"),
        subject: Arc::from("blue/web"),
    };
    assert_eq!(key.fingerprint("test"), FINGERPRINT);
    let other = BreachKey {
        tenant: Arc::from("re"),
        against: Arc::from("dblue"),
        ..key.clone()
    };
    assert_ne!(other.fingerprint("test"), key.fingerprint("test"));
    assert_ne!(key.fingerprint("eu-1"), key.fingerprint("test"));
}
/// Written down once: a breach must be the same one on every version.
const FINGERPRINT: &str = "f54fbea5dfe056a1";

#[test]
fn percentiles_are_upper_edges() {
    let mut sim = Sim::new("");
    let (web, batch) = (sim.pod("blue", "web", 500), sim.pod("red", "batch", 100));
    sim.tick(&[Ran(web, 1)]);
    assert_eq!(sim.view("web").wait_p99_ns, None);
    sim.ticks(3, &[Ran(web, 1), Waited(web, batch, 5)]);
    assert_eq!(sim.view("web").wait_p50_ns, Some(1 << 22));
}

// ---- any input ----

fn any_work() -> impl Strategy<Value = Vec<Vec<Did>>> {
    let did = prop_oneof![
        (1u32..=6, 0u64..1_500).prop_map(|(a, ms)| Ran(a, ms)),
        (1u32..=6, 1u32..=6, 0u64..1_500)
            .prop_filter_map("not itself", |(a, b, ms)| (a != b).then_some(Waited(a, b, ms))),
        (1u32..=6, 0u64..900).prop_map(|(a, ms)| WaitedForItself(a, ms)),
        (1u32..=6, 0u64..900).prop_map(|(a, ms)| Idle(a, ms)),
        (1u32..=6, 0u64..900).prop_map(|(a, ms)| Throttled(a, ms)),
        (1u32..=6, 0u64..900).prop_map(|(a, ms)| Unresolved(a, ms)),
    ];
    prop::collection::vec(prop::collection::vec(did, 0..12), 1..25)
}

/// Two pods of blue, one of red without a request, a daemon, an unknown, a pod without an object.
fn six(sim: &mut Sim) {
    sim.pod("blue", "web", 500);
    sim.pod("blue", "db", 900);
    sim.pod("red", "batch", 0);
    sim.host("/system.slice/x.service");
    sim.unknown(UnknownReason::NoSlot);
    sim.entity(EntityKind::Pod(Arc::from("nobody")));
}

fn any_report() -> impl Strategy<Value = Report> {
    let n = || prop_oneof![0u64..5, 0u64..2_000_000_000, any::<u64>()];
    let index = || prop_oneof![0u32..8, any::<u32>()];
    let kind = prop_oneof![
        "[a-c]".prop_map(|u| EntityKind::Pod(Arc::from(u))),
        (index(), "[a-c]").prop_map(|(pod, id)| EntityKind::Container { pod, id }),
        "/[a-c]".prop_map(|p| EntityKind::Host(Arc::from(p))),
        Just(EntityKind::Unknown(UnknownReason::Folded)),
    ];
    let entity = (index(), kind, n()).prop_map(|(index, kind, born_boot_ns)| Entity {
        index,
        kind,
        born_boot_ns,
    });
    let cpu = (index(), n(), n(), prop::collection::vec(n(), 0..18)).prop_map(
        |(entity, run_ns, wait_ns, waits)| CpuSample {
            entity,
            run_ns,
            wait_ns,
            waits,
        },
    );
    let row = (
        index(),
        prop::collection::vec(index(), 0..4),
        prop::collection::vec(n(), 0..4),
        [n(), n(), n(), n(), n()],
    )
        .prop_map(
            |(waiter, runners, ran_ns, [self_ns, idle_ns, steal_ns, throttled_ns, unresolved_ns])| {
                LedgerRow {
                    waiter,
                    runners,
                    ran_ns,
                    self_ns,
                    idle_ns,
                    steal_ns,
                    throttled_ns,
                    unresolved_ns,
                }
            },
        );
    let address = || {
        prop_oneof![
            (0u8..4).prop_map(|n| IpAddr::from([10, 0, 0, n])),
            Just(IpAddr::from([0u16; 8]))
        ]
    };
    let traffic = || {
        prop::array::uniform9(prop_oneof![0u64..5, any::<u64>()]).prop_map(|n| Traffic {
            sent_packets: n[0],
            sent_bytes: n[1],
            received_packets: n[2],
            received_bytes: n[3],
            opened: n[4],
            established: n[5],
            refused: n[6],
            reset: n[7],
            timed_out: n[8],
        })
    };
    let role = prop_oneof![Just(Role::Opened), Just(Role::Accepted), Just(Role::Unknown)];
    let flow = (index(), index(), address(), address(), any::<u8>(), 0u16..3, role).prop_map(
        |(index, entity, local, peer, protocol, port, role)| Flow {
            index,
            entity,
            local,
            peer,
            protocol,
            port,
            role,
        },
    );
    let sample = (index(), traffic()).prop_map(|(flow, traffic)| FlowSample { flow, traffic });
    let folded = (index(), traffic()).prop_map(|(entity, traffic)| FoldedTraffic { entity, traffic });
    let of_flows = (
        prop::collection::vec(flow, 0..5),
        prop::collection::vec(sample, 0..5),
        prop::collection::vec(index(), 0..3),
        prop::collection::vec(folded, 0..3),
    );
    let lists = (
        prop::collection::vec(entity, 0..5),
        prop::collection::vec(index(), 0..3),
        prop::collection::vec(n(), 0..3),
        prop::collection::vec(cpu, 0..5),
        prop::collection::vec(row, 0..4),
    );
    (
        (0u64..3, prop_oneof![1u64..40, any::<u64>()], n(), any::<u32>()),
        lists,
        of_flows,
    )
        .prop_map(
            |(
                (start, sequence, boot, online_cpus),
                (entities, ended, ended_boot_ns, cpu, ledger),
                of_flows,
            )| {
                let (flows, flow_samples, flows_ended, folded) = of_flows;
                let mut sim_report = Sim::new("").make_report(&[]);
                sim_report.run.agent_start_unix_ns = start;
                Report {
                    sequence,
                    captured_boot_ns: boot,
                    online_cpus,
                    entities,
                    ended,
                    ended_boot_ns,
                    cpu,
                    ledger,
                    flows,
                    flow_samples,
                    flows_ended,
                    folded,
                    ..sim_report
                }
            },
        )
}

proptest! {
    /// Σ classes = wait, exactly, at every moment; and when everything has left the window, nothing is left in it.
    #[test]
    fn classes_sum_to_the_wait(work in any_work()) {
        let mut sim = Sim::new("");
        six(&mut sim);
        let mut ran = 0;
        for did in &work {
            sim.tick(did);
            ran += did.iter().map(|d| if let Ran(_, ms) = d { *ms } else { 0 }).sum::<u64>();
            let snapshot = sim.snapshot();
            let mut waits = 0.0;
            for p in &snapshot.pods {
                let classes = p.stolen_cores + p.same_tenant_cores + p.self_cores + p.system_cores + p.idle_cores
                    + p.throttled_cores + p.steal_cores + p.unresolved_cores + p.unknown_cores;
                prop_assert!(close(classes, p.wait_cores), "{p:?}");
                waits += p.wait_cores;
            }
            prop_assert!((waits - snapshot.ledger.iter().map(|c| c.cores).sum::<f64>()).abs() < 1e-6);
            let taken: f64 = snapshot.tenants.iter().map(|t| t.taken_cores).sum();
            let stolen: f64 = snapshot.tenants.iter().filter(|t| &*t.name != "system" && &*t.name != "<unknown>").map(|t| t.stolen_cores).sum();
            prop_assert!((taken - stolen).abs() < 1e-6);
        }
        for _ in 0..16 {
            sim.tick(&[]);
        }
        for p in sim.snapshot().pods {
            prop_assert!(p.used_cores == 0.0 && p.wait_cores == 0.0 && p.wait_p50_ns.is_none(), "{p:?}");
        }
        prop_assert!(sim.world.book().live().is_empty());
        let total: u64 = sim.world.run_totals().iter().map(|t| t.ns).sum();
        prop_assert_eq!(total, ran * MS);
    }

    /// The order in which a report lists things, and in which cluster objects come, changes nothing.
    #[test]
    fn order_does_not_matter(work in any_work(), seed in any::<u64>()) {
        let mut sims = [Sim::new(""), Sim::new("")];
        for (i, sim) in sims.iter_mut().enumerate() {
            six(sim);
            if i == 1 {
                sim.cluster.pods.reverse();
                sim.publish();
            }
            for did in &work {
                sim.pass(S);
                let mut report = sim.make_report(did);
                if i == 1 {
                    shuffle(&mut report.entities, seed);
                    shuffle(&mut report.cpu, seed);
                    shuffle(&mut report.ledger, seed);
                    for row in &mut report.ledger {
                        row.runners.reverse();
                        row.ran_ns.reverse();
                    }
                }
                sim.world.ingest(report, sim.now);
                sim.judge();
            }
        }
        let [mut a, mut b] = sims;
        prop_assert_eq!(a.snapshot(), b.snapshot());
        prop_assert_eq!(a.log, b.log);
    }

    /// Nothing that an agent sends makes the judge fall over, and an honest node beside it is not disturbed.
    #[test]
    fn no_report_panics(reports in prop::collection::vec((any_report(), 0u64..3_000_000_000), 1..30)) {
        let mut sim = Sim::new("");
        let pod = sim.pod("blue", "web", 500);
        for (mut report, gap) in reports {
            report.node = Arc::from("liar");
            sim.world.ingest(report, sim.now);
            sim.pass(gap % S);
            sim.judge();
            sim.tick(&[Ran(pod, 100)]);
            let _ = sim.snapshot();
        }
        let firing = sim.log.iter().filter(|(_, b)| b.state == BreachState::Firing && &*b.key.node == "node-a").count();
        prop_assert_eq!(firing, 0);
        prop_assert!(used(&mut sim, "web") > 0.04);
        for _ in 0..40 {
            sim.pass(S);
            sim.judge();
        }
        for pod in sim.snapshot().pods {
            prop_assert!(pod.used_cores == 0.0 && pod.wait_cores == 0.0, "what entered the window left it: {pod:?}");
        }
    }
}

fn shuffle<T>(list: &mut [T], mut seed: u64) {
    for i in (1..list.len()).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        list.swap(i, (seed >> 33) as usize % (i + 1));
    }
}
