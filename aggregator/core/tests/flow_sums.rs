//! Nothing is lost and nothing is counted twice: what ends up in the sums is what was sent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod net;

use net::*;
use partywall_aggregator_core::identity::{ServiceObject, ServicePort, TargetPort};
use partywall_aggregator_core::report::EntityKind;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Act {
    /// Both ends see it.
    Connect(usize, usize, u64),
    /// Through the Service before the second.
    Through(usize, usize, u64),
    /// Only who opened sees it: it was dropped.
    Dropped(usize, usize),
    /// Only the receiver sees it: from somewhere without an agent, with a pod's address.
    Forged(usize, usize, u64),
    Outside(usize, u64),
    Fold(usize, u64),
    /// A node's reports are held up from now on, or come all at once.
    CutOff(bool, bool),
    Policy(bool),
    Tick,
}

fn any_order() -> impl Strategy<Value = Order> {
    prop::sample::select(Order::ALL.to_vec())
}

fn any_act() -> impl Strategy<Value = Act> {
    let pod = || 0..6usize;
    prop_oneof![
        4 => (pod(), pod(), 1u64..5_000).prop_map(|(a, b, n)| Act::Connect(a, b, n)),
        3 => (pod(), pod(), 1u64..5_000).prop_map(|(a, b, n)| Act::Through(a, b, n)),
        2 => (pod(), pod()).prop_map(|(a, b)| Act::Dropped(a, b)),
        1 => (pod(), pod(), 1u64..5_000).prop_map(|(a, b, n)| Act::Forged(a, b, n)),
        1 => (pod(), 1u64..5_000).prop_map(|(a, n)| Act::Outside(a, n)),
        1 => (pod(), 1u64..5_000).prop_map(|(a, n)| Act::Fold(a, n)),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(a, b)| Act::CutOff(a, b)),
        1 => any::<bool>().prop_map(Act::Policy),
        8 => Just(Act::Tick),
    ]
}

/// Six pods of three tenants on two nodes, one of them not in the cluster data, each behind a Service.
fn cluster(order: Order) -> (Net, Vec<Pod>) {
    let mut net = Net::new("");
    net.order = order;
    let pods: Vec<Pod> = [
        ("red", "a", "node-a"),
        ("red", "b", "node-b"),
        ("blue", "c", "node-a"),
        ("blue", "d", "node-b"),
        ("kube-system", "e", "node-b"),
    ]
    .iter()
    .enumerate()
    .map(|(i, (namespace, name, node))| net.pod(namespace, name, node, &format!("10.0.0.{}", i + 1)))
    .collect();
    let ghost = net.runs("node-a", EntityKind::Pod("ghost".into()), "10.0.0.6");
    let pods: Vec<Pod> = pods.into_iter().chain([ghost]).collect();
    for i in 0..5 {
        let name = net.cluster.pods[i].name.clone();
        net.cluster.services.push(ServiceObject {
            namespace: net.cluster.pods[i].namespace.clone(),
            selector: [("app".to_owned(), name.clone())].into(),
            name,
            cluster_ips: vec![vip(i)],
            ports: vec![ServicePort {
                port: 80,
                target: TargetPort::Number(8080),
                ..ServicePort::default()
            }],
            ..ServiceObject::default()
        });
    }
    net.publish();
    (net, pods)
}

fn vip(i: usize) -> std::net::IpAddr {
    ip(&format!("10.96.0.{}", i + 1))
}

fn run(order: Order, acts: &[Act]) -> (u64, u64, Net) {
    let (mut net, pods) = cluster(order);
    let mut sent = 0;
    for act in acts {
        match *act {
            Act::Connect(a, b, bytes) => {
                net.connects(pods[a], pods[b], 80, bytes);
                sent += bytes + 100;
            }
            Act::Through(a, b, bytes) if b < 5 => {
                let mut by = traffic((3, bytes), (3, 100));
                (by.opened, by.established) = (1, 1);
                net.opens(pods[a], vip(b), TCP, 80, by);
                let mut by = by.turned();
                by.opened = 0;
                net.accepts(pods[b], pods[a].address, TCP, 8080, by);
                sent += bytes + 100;
            }
            Act::Through(..) => {}
            Act::Dropped(a, b) => {
                net.tries(pods[a], pods[b].address, 81);
                sent += 60;
            }
            Act::Forged(a, b, bytes) => {
                net.accepts(pods[b], pods[a].address, UDP, 53, traffic((0, 0), (1, bytes)));
                sent += bytes;
            }
            Act::Outside(a, bytes) => {
                net.opens(pods[a], ip("1.1.1.1"), TCP, 443, traffic((1, bytes), (1, 10)));
                sent += bytes + 10;
            }
            Act::Fold(a, bytes) => {
                net.folds(pods[a], traffic((1, bytes), (0, 0)));
                sent += bytes;
            }
            Act::CutOff(a, off) => {
                let node = if a { "node-a" } else { "node-b" };
                net.agents.get_mut(node).unwrap().cut_off = off;
            }
            Act::Policy(on) => {
                net.cluster.network_policies.clear();
                if on {
                    net.isolate("blue", "nobody", &[]);
                }
                net.publish();
            }
            Act::Tick => net.tick(),
        }
    }
    for agent in net.agents.values_mut() {
        agent.cut_off = false;
    }
    net.ticks(12);
    let counted = net.all_bytes();
    (sent, counted, net)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]
    #[test]
    fn what_is_counted_is_what_was_sent(
        order in any_order(),
        acts in prop::collection::vec(any_act(), 1..60),
    ) {
        let (sent, counted, mut net) = run(order, &acts);
        prop_assert_eq!(counted, sent, "{:?} {:?}", net.bytes(), net.shown());
    }

    /// Counters and marks of what moved and did not move alike: nobody is accused who has opened nothing.
    #[test]
    fn who_opened_nothing_is_never_accused(
        order in any_order(),
        acts in prop::collection::vec(any_act(), 1..60),
    ) {
        let quiet: Vec<Act> = acts
            .into_iter()
            .map(|act| match act {
                Act::Connect(a, b, n) if a < 2 => Act::Forged(a, b, n),
                Act::Through(a, b, n) if a < 2 => Act::Forged(a, b, n),
                Act::Dropped(a, b) if a < 2 => Act::Forged(a, b, 60),
                other => other,
            })
            // A node that is silent for long does not vouch for its pods.
            .filter(|act| !matches!(act, Act::CutOff(..)))
            .collect();
        let (_, _, net) = run(order, &quiet);
        let accused: Vec<_> = net.fired().into_iter().filter(|b| b.contains(" red>")).collect();
        prop_assert!(accused.is_empty(), "{:?}", accused);
    }
}

/// With the same source forged on another node while its owner uses it, sums are bounded by what both agents and the receiver's tell.
#[test]
fn a_contested_source_is_counted_by_its_openers() {
    for order in Order::ALL {
        let (mut net, pods) = cluster(order);
        let (owner, forger, web) = (pods[0], pods[1], pods[3]);
        for _ in 0..5 {
            net.opens(owner, web.address, UDP, 9, traffic((1, 100), (0, 0)));
            let flow = net.flow(
                forger,
                partywall_aggregator_core::report::Role::Opened,
                owner.address,
                web.address,
                UDP,
                9,
            );
            net.grows(forger, flow, traffic((1, 100), (0, 0)));
            net.accepts(web, owner.address, UDP, 9, traffic((0, 0), (2, 200)));
            net.tick();
        }
        net.ticks(8);
        assert_eq!(net.all_bytes(), 1_000, "{order:?}");
        // The receiver cannot tell whose arrived.
        assert_eq!(
            net.shown(),
            ["red/a>blue/d 9 unknown opener", "red/b>blue/d 9 unknown opener"],
            "{order:?}"
        );
    }
}
