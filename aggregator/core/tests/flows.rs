//! Flows: both ends joined, held against the fence, and what is a breach.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod net;

use std::collections::BTreeMap;
use std::sync::Arc;

use net::*;
use partywall_aggregator_core::breach::BreachState;
use partywall_aggregator_core::fence::{NetworkPolicy, Peer, Rule, Selector};
use partywall_aggregator_core::identity::{
    EndpointSliceObject, ForeignPolicy, NodeObject, ServiceObject, ServicePort, TargetPort,
};
use partywall_aggregator_core::report::{EntityKind, Role, Traffic};
use partywall_aggregator_core::traffic::Verdict;

const FLAT: &str = "FlatNetwork red>blue";
const LEAK: &str = "FenceLeak red>blue";

/// red/client on node-a, blue/web on node-b.
fn two() -> (Net, Pod, Pod) {
    two_with("")
}

fn two_with(policy: &str) -> (Net, Pod, Pod) {
    let mut net = Net::new(policy);
    let client = net.pod("red", "client", "node-a", "10.0.0.1");
    let web = net.pod("blue", "web", "node-b", "10.0.1.1");
    (net, client, web)
}

#[test]
fn a_flat_network_is_a_breach_of_who_opens() {
    let (mut net, client, web) = two();
    net.connects(client, web, 80, 1_000);
    net.tick();
    assert_eq!(net.firing(), [FLAT]);
    let breach = net.breach("FlatNetwork");
    assert_eq!(
        breach.summary,
        "red/client of red reached blue/web of blue on 80/TCP: 1 connection, 1.1 KiB; no NetworkPolicy isolates either end"
    );
    assert_eq!(
        &*breach.culprits[0].pod,
        "red/client -> blue/web 80/TCP (1 connection, 1.1 KiB)"
    );
    assert_eq!(net.shown(), ["red/client>blue/web 80 open both"]);
    let flow = net.flows().remove(0);
    assert!(flow.delivered);
    assert_eq!(
        (
            flow.traffic.sent_bytes,
            flow.traffic.received_bytes,
            flow.traffic.opened
        ),
        (1_000, 100, 1)
    );
    let key = ("red".to_owned(), "blue".to_owned(), Verdict::Open);
    assert_eq!(net.bytes().0, BTreeMap::from([(key, 1_100)]), "counted once");
    net.ticks(10);
    assert_eq!(net.firing(), [FLAT], "held for the time until it clears");
    net.ticks(60);
    assert!(net.firing().is_empty());
    assert_eq!(net.fired(), [FLAT]);
}

#[test]
fn what_policy_admits_is_allowed() {
    let (mut net, client, web) = two();
    net.isolate("blue", "from-red", &["red"]);
    net.connects(client, web, 80, 1_000);
    net.ticks(5);
    assert_eq!(net.shown(), ["red/client>blue/web 80 allowed both"]);
    assert!(net.fired().is_empty());
    let reason = net.flows()[0].reason.to_string();
    assert!(reason.contains("blue/from-red ingress[0]"), "{reason}");
}

#[test]
fn the_policy_file_comes_before_network_policies() {
    let (mut net, client, web) =
        two_with("fence:\n  allow:\n  - {name: shared, to: {tenants: [blue]}, ports: [80/TCP]}");
    net.isolate("blue", "nobody", &[]);
    net.connects(client, web, 80, 1_000);
    net.ticks(5);
    assert_eq!(net.shown(), ["red/client>blue/web 80 allowed both"]);
    assert!(net.flows()[0].reason.contains("\"shared\""));
    assert!(net.fired().is_empty());
}

#[test]
fn denied_and_dropped_is_blocked_and_no_breach() {
    let (mut net, client, web) = two();
    net.isolate("blue", "nobody", &[]);
    for _ in 0..15 {
        net.tries(client, web.address, 80);
        net.tick();
    }
    net.ticks(3);
    assert_eq!(net.shown(), ["red/client>blue/web 80 blocked opener"]);
    assert!(net.fired().is_empty());
    assert!(
        net.flows()[0]
            .reason
            .contains("NetworkPolicy blue/nobody isolates blue/web")
    );
}

#[test]
fn denied_and_delivered_is_a_leak_that_names_the_policy() {
    let (mut net, client, web) = two();
    net.isolate("blue", "nobody", &[]);
    net.ticks(11);
    net.connects(client, web, 80, 1_000);
    net.tick();
    assert_eq!(net.firing(), [LEAK]);
    let summary = net.breach("FenceLeak").summary;
    assert_eq!(
        summary,
        "red/client of red reached blue/web of blue on 80/TCP: 1 connection, 1.1 KiB, delivered although it is denied; \
         NetworkPolicy blue/nobody isolates blue/web and admits no such ingress"
    );
}

#[test]
fn within_a_tenant_and_with_the_system_there_is_no_fence() {
    let (mut net, client, _) = two();
    let batch = net.pod("red", "batch", "node-b", "10.0.1.2");
    let dns = net.pod("kube-system", "dns", "node-b", "10.0.1.3");
    net.connects(client, batch, 80, 10);
    net.connects(client, dns, 53, 20);
    net.opens(client, ip("8.8.8.8"), TCP, 443, traffic((5, 30), (5, 40)));
    net.ticks(8);
    assert_eq!(
        net.shown(),
        [
            "red/client>kube-system/dns 53 within both",
            "red/client>outside 443 within opener",
            "red/client>red/batch 80 within both"
        ]
    );
    assert!(net.log.is_empty());
    assert_eq!(net.all_bytes(), 110 + 120 + 70);
}

fn service(net: &mut Net, vip: &str, endpoints: &[&str]) {
    net.cluster.services.push(ServiceObject {
        namespace: "blue".into(),
        name: "web".into(),
        cluster_ips: vec![ip(vip)],
        ports: vec![ServicePort {
            port: 80,
            target: TargetPort::Number(8080),
            ..ServicePort::default()
        }],
        ..ServiceObject::default()
    });
    net.cluster.endpoint_slices.push(EndpointSliceObject {
        namespace: "blue".into(),
        name: "web-1".into(),
        service: Some("web".into()),
        addresses: endpoints.iter().map(|a| ip(a)).collect(),
        ports: vec![partywall_aggregator_core::identity::ContainerPort {
            number: 8080,
            ..Default::default()
        }],
    });
    net.publish();
}

/// `bytes` from who opens through a Service's address, which the receiver sees at its own port.
fn connects_through(net: &mut Net, from: Pod, vip: &str, to: Pod, seen_as: &str, bytes: u64) {
    let mut by = traffic((10, bytes), (10, 100));
    (by.opened, by.established) = (1, 1);
    net.opens(from, ip(vip), TCP, 80, by);
    let mut by = by.turned();
    by.opened = 0;
    net.accepts(to, ip(seen_as), TCP, 8080, by);
}

#[test]
fn a_cluster_ip_is_joined_to_what_is_behind_it() {
    let (mut net, client, web) = two();
    let second = net.pod("blue", "web-2", "node-a", "10.0.0.2");
    service(&mut net, "10.96.0.1", &["10.0.1.1", "10.0.0.2"]);
    connects_through(&mut net, client, "10.96.0.1", web, "10.0.0.1", 1_000);
    connects_through(&mut net, client, "10.96.0.1", second, "10.0.0.1", 500);
    net.ticks(4);
    assert_eq!(
        net.shown(),
        [
            "red/client>blue/web 8080 open both",
            "red/client>blue/web-2 8080 open both"
        ]
    );
    assert_eq!(net.firing(), [FLAT]);
    assert_eq!(net.all_bytes(), 1_700);
}

#[test]
fn a_service_without_anybody_behind_it_is_no_end() {
    let (mut net, client, _) = two();
    service(&mut net, "10.96.0.1", &[]);
    net.tries(client, ip("10.96.0.1"), 80);
    net.ticks(4);
    assert_eq!(net.bytes().1, BTreeMap::from([("service_without_endpoints", 60)]));
    assert!(net.fired().is_empty());
}

#[test]
fn a_service_that_leads_to_no_pod_is_no_other_tenants() {
    let reach = |net: &mut Net, web: Pod| {
        let mut by = traffic((10, 1_000), (10, 100));
        (by.opened, by.established) = (1, 1);
        net.opens(web, ip("10.96.0.1"), TCP, 80, by);
        net.ticks(8);
    };
    // The API server: on a node without an agent, or outside of the cluster.
    for endpoint in ["10.0.0.9", "203.0.113.9", "172.16.0.9"] {
        let (mut net, client, _) = two();
        net.cluster.nodes.push(NodeObject {
            name: "control-plane".into(),
            addresses: vec![ip("10.0.0.9")],
            ..NodeObject::default()
        });
        service(&mut net, "10.96.0.1", &[endpoint]);
        reach(&mut net, client);
        assert_eq!(
            net.shown(),
            ["red/client>service blue/web 80 within opener"],
            "{endpoint}"
        );
        assert!(net.fired().is_empty(), "{endpoint}: {:?}", net.fired());
        assert!(net.bytes().1.is_empty(), "{endpoint}");
    }
    // Some of it may have gone to a pod.
    let (mut net, client, _) = two();
    net.object("blue", "far", "node-c", &["10.0.2.1"]);
    service(&mut net, "10.96.0.1", &["10.0.2.1", "203.0.113.9"]);
    reach(&mut net, client);
    assert_eq!(net.shown(), ["red/client>service blue/web 80 unknown opener"]);
    assert!(net.fired().is_empty());
}

#[test]
fn through_a_service_to_a_node_without_an_agent() {
    let (mut net, client, web) = two();
    net.object("blue", "far", "node-c", &["10.0.2.1"]);
    service(&mut net, "10.96.0.1", &["10.0.1.1", "10.0.2.1"]);
    connects_through(&mut net, client, "10.96.0.1", web, "10.0.0.1", 1_000);
    let mut by = traffic((10, 700), (10, 70));
    (by.opened, by.established) = (1, 1);
    net.opens(client, ip("10.96.0.1"), TCP, 80, by);
    net.ticks(6);
    assert_eq!(net.all_bytes(), 1_100 + 770);
    assert_eq!(
        net.shown(),
        [
            "red/client>blue/web 8080 open both",
            "red/client>service blue/web 80 open opener"
        ]
    );
}

#[test]
fn a_pod_that_meets_itself_behind_a_service() {
    for seen_as in ["10.0.1.1", "192.168.0.2", "10.244.9.1"] {
        let (mut net, _, web) = two();
        service(&mut net, "10.96.0.1", &["10.0.1.1"]);
        connects_through(&mut net, web, "10.96.0.1", web, seen_as, 1_000);
        net.ticks(8);
        let shown = net.shown();
        if seen_as != "10.244.9.1" {
            assert_eq!(shown, ["blue/web>blue/web 8080 within both"], "{seen_as}");
            assert_eq!(net.all_bytes(), 1_100, "{seen_as}");
        }
        assert!(net.fired().is_empty());
    }
}

#[test]
fn an_address_that_a_finished_pod_left_is_the_next_ones() {
    let (mut net, client, web) = two();
    let done = Arc::make_mut(net.cluster.pods.iter_mut().find(|p| p.name == "client").unwrap());
    done.terminal = true;
    net.publish();
    net.ticks(10);
    let next = net.pod("green", "next", "node-a", "10.0.0.1");
    net.ticks(10);
    net.connects(next, web, 80, 1_000);
    net.ticks(3);
    assert_eq!(net.shown(), ["green/next>blue/web 80 open both"]);
    assert_eq!(net.fired(), ["FlatNetwork green>blue"]);
    let _ = client;
}

#[test]
fn two_that_claim_one_address_are_nobody() {
    let (mut net, _, web) = two();
    net.object("green", "thief", "node-c", &["10.0.0.1"]);
    net.ticks(2);
    net.accepts(web, ip("10.0.0.1"), UDP, 53, traffic((0, 0), (5, 500)));
    net.ticks(4);
    assert_eq!(
        net.shown(),
        ["address_claimed_twice>blue/web 53 unknown receiver"]
    );
    assert!(net.fired().is_empty());
    assert_eq!(net.bytes().1, BTreeMap::from([("address_claimed_twice", 500)]));
}

#[test]
fn a_forged_source_accuses_nobody_else() {
    // From somewhere without an agent: blue sees red's address, red's own agent knows of nothing.
    let (mut net, _, web) = two();
    net.accepts(web, ip("10.0.0.1"), UDP, 53, traffic((0, 0), (5, 500)));
    net.ticks(6);
    assert!(net.fired().is_empty());
    assert_eq!(net.shown(), ["source_unconfirmed>blue/web 53 unknown receiver"]);
    assert_eq!(net.bytes().1, BTreeMap::from([("source_unconfirmed", 500)]));

    // From a pod whose agent tells: that pod is named.
    let (mut net, _, web) = two();
    let forger = net.pod("green", "forger", "node-a", "10.0.0.9");
    let flow = net.flow(forger, Role::Opened, ip("10.0.0.1"), web.address, UDP, 53);
    net.grows(forger, flow, traffic((5, 500), (0, 0)));
    net.accepts(web, ip("10.0.0.1"), UDP, 53, traffic((0, 0), (5, 500)));
    net.ticks(6);
    assert_eq!(net.fired(), ["FlatNetwork green>blue"]);
    let breach = net.breach("FlatNetwork");
    assert!(
        breach
            .summary
            .ends_with("; packets bore the forged source address 10.0.0.1"),
        "{}",
        breach.summary
    );
    assert!(breach.evidence.iter().any(|f| f.name == "forged_source"));

    // While red does the same: each by what its own node saw of it.
    let (mut net, client, web) = two();
    let forger = net.pod("green", "forger", "node-a", "10.0.0.9");
    let flow = net.flow(forger, Role::Opened, ip("10.0.0.1"), web.address, UDP, 53);
    net.grows(forger, flow, traffic((5, 500), (0, 0)));
    net.opens(client, web.address, UDP, 53, traffic((3, 300), (0, 0)));
    net.accepts(web, ip("10.0.0.1"), UDP, 53, traffic((0, 0), (8, 800)));
    net.ticks(6);
    assert_eq!(net.all_bytes(), 800);
    // Whose arrived the receiver cannot tell; neither is blocked for it.
    assert_eq!(
        net.shown(),
        [
            "green/forger>blue/web 53 unknown opener",
            "red/client>blue/web 53 unknown opener"
        ]
    );
}

#[test]
fn a_forged_source_is_in_no_range_that_is_allowed() {
    let (mut net, client, web) =
        two_with("fence:\n  allow:\n  - {name: monitoring, from: {cidrs: [10.9.0.0/16]}}");
    let flow = net.flow(client, Role::Opened, ip("10.9.0.1"), web.address, UDP, 53);
    net.grows(client, flow, traffic((5, 500), (0, 0)));
    net.accepts(web, ip("10.9.0.1"), UDP, 53, traffic((0, 0), (5, 500)));
    net.ticks(6);
    assert_eq!(net.shown(), ["red/client>blue/web 53 open both"]);
    assert_eq!(net.fired(), [FLAT]);
    // Who has such an address is let in.
    let probe = net.pod("green", "probe", "node-a", "10.9.0.2");
    net.connects(probe, web, 80, 10);
    net.ticks(2);
    assert_eq!(net.fired(), [FLAT]);
    assert!(
        net.shown()
            .contains(&"green/probe>blue/web 80 allowed both".to_owned())
    );
}

#[test]
fn without_an_agent_on_the_peers_node_its_address_is_what_there_is() {
    let (mut net, _, web) = two();
    net.object("green", "far", "node-c", &["10.0.2.1"]);
    net.accepts(web, ip("10.0.2.1"), UDP, 53, traffic((0, 0), (5, 500)));
    net.ticks(2);
    assert_eq!(net.shown(), ["green/far>blue/web 53 open receiver"]);
    assert_eq!(net.fired(), ["FlatNetwork green>blue"]);
    // The other way: sent, and nobody saw whether it arrived.
    net.opens(web, ip("10.0.2.1"), UDP, 9, traffic((5, 500), (0, 0)));
    net.ticks(4);
    assert_eq!(net.shown()[0], "blue/web>green/far 9 unknown opener");
}

#[test]
fn host_network_and_translated_sources_are_the_nodes() {
    let (mut net, _, web) = two();
    // A kubelet's probe: both ends see the node's address.
    let kubelet = net.host("node-b", "192.168.0.2");
    net.connects(kubelet, web, 8080, 300);
    // What a NodePort masqueraded.
    net.accepts(web, ip("192.168.0.1"), TCP, 80, traffic((5, 700), (5, 700)));
    net.ticks(4);
    assert_eq!(
        net.shown(),
        [
            "node>blue/web 80 within receiver",
            "node>blue/web 8080 within both"
        ]
    );
    // A host-network pod is known by its cgroup where an agent tells.
    net.object("red", "host", "node-a", &["192.168.0.1"]);
    Arc::make_mut(net.cluster.pods.last_mut().unwrap()).host_network = true;
    net.publish();
    let host = net.runs("node-a", EntityKind::Pod("uid-red-host".into()), "192.168.0.1");
    net.connects(host, web, 9090, 300);
    net.ticks(2);
    assert_eq!(net.fired(), [FLAT]);
    assert!(
        net.shown()
            .contains(&"red/host>blue/web 9090 open both".to_owned())
    );
}

#[test]
fn both_families_are_the_same_pods() {
    let (mut net, client, web) = two();
    for (name, address) in [("client", "fd00::1"), ("web", "fd00::2")] {
        let pod = Arc::make_mut(net.cluster.pods.iter_mut().find(|p| p.name == name).unwrap());
        pod.addresses.push(ip(address));
    }
    net.publish();
    let v6 = |pod: Pod, address| Pod {
        address: ip(address),
        ..pod
    };
    net.connects(v6(client, "fd00::1"), v6(web, "fd00::2"), 80, 1_000);
    net.tick();
    assert_eq!(net.shown(), ["red/client>blue/web 80 open both"]);
    assert!(
        net.breach("FlatNetwork")
            .summary
            .starts_with("red/client of red reached")
    );
}

#[test]
fn a_scan_is_a_probe_and_nothing_else() {
    for refused in [false, true] {
        let (mut net, client, web) = two();
        for port in 1..=200 {
            let mut by = traffic((1, 60), (u64::from(refused), 40 * u64::from(refused)));
            by.opened = 1;
            by.refused = u64::from(refused);
            net.opens(client, web.address, TCP, port, by);
            if port % 50 == 0 {
                net.tick();
            }
        }
        net.ticks(4);
        assert_eq!(net.fired(), ["Probe red>blue red/client"]);
        let fired = net
            .log
            .iter()
            .find(|(_, b)| b.state == BreachState::Firing)
            .unwrap();
        assert!(fired.0 <= 2 + 2 * 5, "{} half seconds", fired.0);
        let breach = net.breach("Probe");
        assert!(
            breach
                .summary
                .starts_with("red/client of red tried 200 addresses and ports of blue"),
            "{}",
            breach.summary
        );
        assert!(
            breach.culprits[0]
                .pod
                .starts_with("red/client -> blue/web 200 ports")
        );
    }
}

#[test]
fn a_few_failures_are_no_probe_and_folded_attempts_count() {
    let (mut net, client, web) = two();
    for port in 1..=10 {
        net.tries(client, web.address, port);
    }
    net.ticks(6);
    assert!(net.fired().is_empty());
    let mut by = traffic((15, 900), (0, 0));
    by.opened = 15;
    net.folds(client, by);
    net.ticks(2);
    assert_eq!(net.fired(), ["Probe red>blue red/client"]);
    assert_eq!(net.bytes().2, 900);
}

#[test]
fn a_scan_of_a_private_range_where_nobody_is_is_a_probe() {
    for (net_of, probes) in [("10.77.0", true), ("203.0.113", false)] {
        let (mut net, client, _) = two();
        for host in 1..=30 {
            net.tries(client, ip(&format!("{net_of}.{host}")), 22);
        }
        net.ticks(9);
        let fired = net.fired();
        assert_eq!(fired == ["Probe red> red/client"], probes, "{net_of}: {fired:?}");
        assert_eq!(fired.is_empty(), !probes, "{net_of}: {fired:?}");
    }
}

#[test]
fn a_place_that_answers_later_was_not_probed() {
    let (mut net, client, web) = two();
    service(&mut net, "10.96.0.1", &["10.0.1.1"]);
    // A client that begins before its servers are there.
    for port in 1..=18 {
        net.tries(client, web.address, port);
    }
    net.tries(client, ip("10.96.0.1"), 80);
    net.ticks(4);
    for port in 1..=18 {
        net.connects(client, web, port, 10);
    }
    connects_through(&mut net, client, "10.96.0.1", web, "10.0.0.1", 10);
    net.ticks(4);
    for port in 101..=119 {
        net.tries(client, web.address, port);
    }
    net.ticks(4);
    assert_eq!(net.fired(), [FLAT], "nineteen places at each time");
}

#[test]
fn pairs_of_pods_without_room_are_not_counted_each_time() {
    let (mut net, client, _) = two();
    let pods: Vec<Pod> = (0..70)
        .map(|i| net.pod("blue", &format!("p{i}"), "node-b", &format!("10.0.2.{i}")))
        .collect();
    for _ in 0..3 {
        for pod in &pods {
            net.connects(client, *pod, 80, 10);
        }
        net.tick();
    }
    let breach = net.breach("FlatNetwork");
    assert!(
        breach
            .summary
            .starts_with("red reached blue between 64 or more pairs of pods"),
        "{}",
        breach.summary
    );
    let pairs = breach.evidence.iter().find(|f| f.name == "pod_pairs");
    assert_eq!(pairs.map(|f| f.value), Some(64.0));
}

#[test]
fn one_short_connection_raises_its_breach_in_time() {
    // Its object comes late, and goes before it is judged; the receiver's agent is a second behind.
    let (mut net, _, web) = two();
    let brief = net.runs("node-a", EntityKind::Pod("uid-red-brief".into()), "10.0.0.7");
    net.agents.get_mut("node-b").unwrap().cut_off = true;
    net.connects(brief, web, 80, 50);
    let begun = net.half;
    net.tick();
    net.object("red", "brief", "node-a", &["10.0.0.7"]);
    net.agents.get_mut("node-b").unwrap().cut_off = false;
    net.tick();
    net.cluster.pods.retain(|p| p.name != "brief");
    net.publish();
    net.ticks(3);
    assert_eq!(net.firing(), [FLAT]);
    let fired = net
        .log
        .iter()
        .find(|(_, b)| b.state == BreachState::Firing)
        .unwrap();
    assert!(fired.0 - begun <= 10, "{} half seconds", fired.0 - begun);
    assert!(net.breach("FlatNetwork").summary.starts_with("red/brief"));
    assert_eq!(net.all_bytes(), 150);
    assert_eq!(net.shown(), ["red/brief>blue/web 80 open both"]);
}

#[test]
fn a_receiver_that_is_told_of_late_takes_over_from_its_opener() {
    let (mut net, client, web) = two();
    net.agents.get_mut("node-b").unwrap().cut_off = true;
    net.connects(client, web, 80, 1_000);
    net.ticks(6);
    assert_eq!(net.shown(), ["red/client>blue/web 80 open opener"]);
    net.agents.get_mut("node-b").unwrap().cut_off = false;
    net.connects(client, web, 80, 500);
    net.ticks(4);
    assert_eq!(net.shown(), ["red/client>blue/web 80 open both"]);
    assert_eq!(net.all_bytes(), 1_700);
    assert_eq!(net.fired(), [FLAT]);
}

#[test]
fn a_policy_that_comes_and_goes_changes_what_happens_after() {
    let (mut net, client, web) =
        two_with("flat_network: {clear_after_seconds: 1}\nfence_leak: {clear_after_seconds: 1}");
    net.connects(client, web, 80, 1_000);
    net.ticks(3);
    assert_eq!(net.firing(), [FLAT]);
    net.isolate("blue", "nobody", &[]);
    // What was connected before goes on: not known, not leaked.
    for _ in 0..20 {
        net.opens(client, web.address, TCP, 80, traffic((5, 500), (5, 50)));
        net.accepts(web, client.address, TCP, 80, traffic((5, 50), (5, 500)));
        net.tick();
    }
    assert!(net.firing().is_empty(), "{:?}", net.firing());
    assert_eq!(net.fired(), [FLAT]);
    assert_eq!(net.shown(), ["red/client>blue/web 80 unknown both"]);
    // A new connection is.
    net.connects(client, web, 80, 1_000);
    net.tick();
    assert_eq!(net.firing(), [LEAK]);
    net.ticks(6);
    assert!(net.firing().is_empty());
    // Once it is enforced, what is tried is blocked.
    net.tries(client, web.address, 80);
    net.ticks(4);
    assert_eq!(net.shown(), ["red/client>blue/web 80 blocked both"]);
    net.cluster.network_policies.clear();
    net.publish();
    // What is in a report with the change may have been before it.
    net.tick();
    net.connects(client, web, 80, 10);
    net.tick();
    assert_eq!(net.firing(), [FLAT]);
}

#[test]
fn datagrams_that_stop_arriving_are_blocked() {
    let (mut net, client, web) = two();
    for _ in 0..3 {
        net.opens(client, web.address, UDP, 9, traffic((5, 500), (0, 0)));
        net.accepts(web, client.address, UDP, 9, traffic((0, 0), (5, 500)));
        net.tick();
    }
    assert_eq!(net.shown(), ["red/client>blue/web 9 open both"]);
    net.isolate("blue", "nobody", &[]);
    for _ in 0..6 {
        net.opens(client, web.address, UDP, 9, traffic((5, 500), (0, 0)));
        net.tick();
    }
    assert_eq!(net.shown(), ["red/client>blue/web 9 blocked both"]);
    // It is not enforced any more.
    net.ticks(6);
    net.opens(client, web.address, UDP, 9, traffic((5, 500), (0, 0)));
    net.accepts(web, client.address, UDP, 9, traffic((0, 0), (5, 500)));
    net.tick();
    assert_eq!(net.fired(), [LEAK, FLAT]);
    assert_eq!(net.all_bytes(), 2_000);
}

#[test]
fn datagrams_that_go_on_from_before_a_policy_are_no_leak() {
    let (mut net, client, web) = two_with("flat_network: {clear_after_seconds: 1}");
    let send = |net: &mut Net, port| {
        net.opens(client, web.address, UDP, port, traffic((5, 500), (5, 500)));
        net.accepts(web, client.address, UDP, port, traffic((5, 500), (5, 500)));
        net.tick();
    };
    send(&mut net, 9);
    net.isolate("blue", "nobody", &[]);
    for _ in 0..20 {
        send(&mut net, 9);
    }
    assert_eq!(net.fired(), [FLAT], "before the policy");
    assert_eq!(net.shown(), ["red/client>blue/web 9 unknown both"]);
    // What begins now does so against it.
    send(&mut net, 10);
    assert_eq!(net.firing(), [LEAK]);
}

#[test]
fn a_new_policy_has_its_time_to_be_enforced() {
    let (mut net, client, web) = two();
    net.isolate("blue", "nobody", &[]);
    for _ in 0..8 {
        net.connects(client, web, 80, 10);
        net.tick();
    }
    assert!(net.fired().is_empty());
    net.ticks(4);
    net.connects(client, web, 80, 10);
    net.tick();
    assert_eq!(net.fired(), [LEAK]);
}

/// blue admits pods with the label role=client alone; red/client has it.
fn admitted_by_label(net: &mut Net) {
    let rule = |pods: Selector| Rule {
        peers: vec![Peer::Pods {
            namespaces: Some(Selector::default()),
            pods: Some(pods),
        }],
        ports: Vec::new(),
    };
    net.cluster.network_policies.push(Arc::new(NetworkPolicy {
        namespace: "blue".into(),
        name: "allow".into(),
        pods: Selector::default(),
        ingress: Some(vec![rule(label("role", "client"))]),
        egress: None,
    }));
    labels(net, &[("role", "client")]);
}

/// Labels of red/client.
fn labels(net: &mut Net, labels: &[(&str, &str)]) {
    let pod = Arc::make_mut(net.cluster.pods.iter_mut().find(|p| p.name == "client").unwrap());
    let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
    pod.labels = Arc::new(labels.iter().map(own).collect());
    net.publish();
}

/// Both agents report, then `change`, then all is judged.
fn reports_just_before(net: &mut Net, change: impl FnOnce(&mut Net)) {
    net.pass(700 * MS);
    for node in ["node-a", "node-b"] {
        net.report(node);
    }
    net.pass(300 * MS);
    change(net);
    net.judge();
    net.pass(500 * MS);
    net.judge();
}

#[test]
fn what_was_admitted_when_it_happened_is_no_leak() {
    let (mut net, client, web) = two();
    admitted_by_label(&mut net);
    net.ticks(20);
    net.connects(client, web, 80, 1_000);
    reports_just_before(&mut net, |net| labels(net, &[]));
    assert_eq!(net.shown(), ["red/client>blue/web 80 allowed both"]);
    // Its removal has its time to be enforced, as that of a policy has.
    for _ in 0..8 {
        net.connects(client, web, 80, 10);
        net.tick();
    }
    assert!(net.fired().is_empty(), "{:?}", net.fired());
    assert_eq!(net.shown(), ["red/client>blue/web 80 unknown both"]);
    net.ticks(4);
    net.connects(client, web, 80, 10);
    net.tick();
    assert_eq!(net.fired(), [LEAK]);
}

#[test]
fn labels_that_decide_nothing_delay_nothing() {
    let (mut net, client, web) = two();
    admitted_by_label(&mut net);
    labels(&mut net, &[]);
    net.ticks(11);
    for i in 0..20 {
        labels(&mut net, &[("nonce", &i.to_string())]);
        net.connects(client, web, 80, 10);
        net.tick();
    }
    assert_eq!(net.fired(), [LEAK]);
    assert_eq!(net.shown(), ["red/client>blue/web 80 leaked both"]);
    // Nor where nothing isolates: a flat network is told of whatever one does to one's labels.
    let (mut net, client, web) = two();
    for i in 0..4 {
        net.connects(client, web, 80, 10);
        reports_just_before(&mut net, |net| labels(net, &[("nonce", &i.to_string())]));
    }
    assert_eq!(net.fired(), [FLAT]);
}

#[test]
fn what_was_admitted_before_the_policy_went_is_no_flat_network() {
    for policy_goes in [true, false] {
        let (mut net, client, web) = two();
        let foreign = ForeignPolicy {
            kind: "CiliumNetworkPolicy.cilium.io".into(),
            namespace: Some("blue".into()),
            name: "x".into(),
        };
        match policy_goes {
            true => net.isolate("blue", "from-red", &["red"]),
            false => net.cluster.foreign_policies.push(foreign),
        }
        net.publish();
        net.ticks(20);
        net.connects(client, web, 80, 1_000);
        reports_just_before(&mut net, |net| {
            net.cluster.network_policies.clear();
            net.cluster.foreign_policies.clear();
            net.publish();
        });
        let verdict = if policy_goes { "allowed" } else { "unknown" };
        assert_eq!(net.shown(), [format!("red/client>blue/web 80 {verdict} both")]);
        // In the next report, by what holds now: that its first half second was before is not known.
        net.connects(client, web, 80, 10);
        net.pass(500 * MS);
        for node in ["node-a", "node-b"] {
            net.report(node);
        }
        net.judge();
        assert!(net.fired().is_empty(), "{:?}", net.fired());
        assert_eq!(net.shown(), ["red/client>blue/web 80 unknown both"]);
        net.connects(client, web, 80, 10);
        net.tick();
        assert_eq!(net.fired(), [FLAT]);
    }
}

#[test]
fn a_ping_through_a_closed_fence_is_no_leak() {
    const ICMP: u8 = 1;
    let ping = |net: &mut Net, client: Pod, web: Pod| {
        net.opens(client, web.address, ICMP, 0, traffic((1, 84), (1, 84)));
        net.accepts(web, client.address, ICMP, 0, traffic((1, 84), (1, 84)));
        net.tick();
    };
    let (mut net, client, web) = two();
    net.isolate("blue", "nobody", &[]);
    net.ticks(11);
    ping(&mut net, client, web);
    assert_eq!(net.shown(), ["red/client>blue/web 0 unknown both"]);
    assert!(net.flows()[0].reason.contains("not defined for this protocol"));
    assert!(net.fired().is_empty(), "{:?}", net.fired());
    // Where nothing is isolated, the network is flat for it too.
    let (mut net, client, web) = two();
    ping(&mut net, client, web);
    assert_eq!(net.fired(), [FLAT]);
}

#[test]
fn the_metadata_service_is_reached_for() {
    let reach = |net: &mut Net, pod: Pod, times: u64| {
        let mut by = traffic((6 * times, 600 * times), (6 * times, 900 * times));
        (by.opened, by.established) = (times, times);
        net.opens(pod, ip("169.254.169.254"), TCP, 80, by);
    };
    let (mut net, client, web) = two();
    reach(&mut net, client, 1);
    net.ticks(2);
    // Anybody can ask for what is not there.
    net.tries(web, ip("169.254.170.23"), 80);
    net.opens(web, ip("fd00:ec2::23"), 1, 0, traffic((3, 252), (3, 252)));
    net.ticks(4);
    reach(&mut net, client, 1);
    net.ticks(4);
    assert!(net.fired().is_empty(), "no Pod Identity here: {:?}", net.fired());
    let mut by = traffic((6, 600), (6, 900));
    (by.opened, by.established) = (1, 1);
    net.opens(web, ip("169.254.170.23"), TCP, 80, by);
    net.ticks(4);
    reach(&mut net, client, 2);
    net.ticks(2);
    assert_eq!(net.fired(), ["CredentialReach red> red/client"]);
    assert!(
        net.breach("CredentialReach")
            .summary
            .contains("credentials of node node-a")
    );

    let (mut net, client, _) = two_with("fence: {pod_identity: true}");
    let dns = net.pod("kube-system", "dns", "node-a", "10.0.0.8");
    reach(&mut net, dns, 1);
    // Tried, and dropped on the way.
    net.tries(client, ip("169.254.169.254"), 80);
    net.opens(client, ip("169.254.169.254"), 1, 0, traffic((3, 252), (3, 252)));
    net.ticks(4);
    assert!(net.fired().is_empty());
    reach(&mut net, client, 1);
    net.ticks(2);
    assert_eq!(net.fired(), ["CredentialReach red> red/client"]);

    let (mut net, client, web) = two_with("fence: {pod_identity: false}");
    net.opens(web, ip("fd00:ec2::23"), TCP, 80, by);
    reach(&mut net, client, 1);
    net.ticks(4);
    assert!(net.fired().is_empty());
}

#[test]
fn a_pod_that_is_not_in_the_cluster_data() {
    let (mut net, _, web) = two();
    let ghost = net.runs("node-a", EntityKind::Pod("ghost".into()), "10.0.0.66");
    net.connects(ghost, web, 80, 1_000);
    net.ticks(8);
    assert!(net.fired().is_empty());
    assert_eq!(net.bytes().1, BTreeMap::from([("pod_unknown", 1_100)]));
}

#[test]
fn an_agent_that_starts_again_counts_anew() {
    let (mut net, client, web) = two();
    net.connects(client, web, 80, 1_000);
    net.ticks(3);
    net.restart("node-a");
    let client = net.runs("node-a", EntityKind::Pod("uid-red-client".into()), "10.0.0.1");
    net.tick();
    net.connects(client, web, 80, 400);
    net.ticks(3);
    assert_eq!(net.all_bytes(), 1_100 + 500);
    assert_eq!(net.world.snapshot("", false, net.now).traffic[0].connections, 2);
    net.ticks(40);
    assert_eq!(net.world.flow_records(), 2, "the run before was let go of");
}

#[test]
fn a_receiver_whose_agent_starts_again_is_joined_anew() {
    let (mut net, client, web) = two();
    net.connects(client, web, 80, 1_000);
    net.ticks(3);
    net.restart("node-b");
    let web = net.runs("node-b", EntityKind::Pod("uid-blue-web".into()), "10.0.1.1");
    net.tick();
    for _ in 0..3 {
        net.connects(client, web, 80, 400);
        net.tick();
    }
    net.ticks(3);
    assert_eq!(net.all_bytes(), 1_100 + 3 * 500);
    let snapshot = net.world.snapshot("", false, net.now);
    assert_eq!(snapshot.traffic[0].connections, 4);
    // A flow that rested is told under another index at both ends.
    for pod in [client, web] {
        let flow = *net.agents[pod.node].flows.keys().next().unwrap();
        net.ends(pod, flow);
    }
    net.ticks(2);
    net.connects(client, web, 80, 400);
    net.ticks(3);
    assert_eq!(net.all_bytes(), 1_100 + 4 * 500);
    let snapshot = net.world.snapshot("", false, net.now);
    assert_eq!(snapshot.traffic[0].connections, 5);
}

#[test]
fn an_aggregator_that_joins_late_takes_a_baseline() {
    let (mut net, client, web) = two();
    net.connects(client, web, 80, 1_000_000);
    net.make_report("node-a");
    net.make_report("node-b");
    // All is announced again, as the agents do when they are told to.
    for node in ["node-a", "node-b"] {
        let agent = net.agents.get_mut(node).unwrap();
        agent.announce_all();
    }
    net.world = partywall_aggregator_core::World::new(
        "test".into(),
        partywall_aggregator_core::policy::Policy::default(),
    );
    net.publish();
    net.tick();
    net.connects(client, web, 80, 400);
    net.ticks(3);
    assert_eq!(net.all_bytes(), 500);
    assert_eq!(net.firing(), [FLAT]);
}

#[test]
fn fifty_thousand_flows_are_judged_by_what_moved() {
    let mut net = Net::new("");
    let servers: Vec<Pod> = (0..50)
        .map(|i| net.pod("blue", &format!("s{i}"), "node-b", &format!("10.0.1.{i}")))
        .collect();
    let clients: Vec<Pod> = (0..100)
        .map(|i| net.pod("red", &format!("c{i}"), "node-a", &format!("10.0.0.{i}")))
        .collect();
    for client in &clients {
        for server in &servers {
            for port in 0..5 {
                let mut by = traffic((10, 1_000), (10, 100));
                (by.opened, by.established) = (1, 1);
                let index = net.announces(*client, Role::Opened, server.address, 80 + port);
                net.grows(*client, index, by);
                let mut by = by.turned();
                by.opened = 0;
                let index = net.announces(*server, Role::Accepted, client.address, 80 + port);
                net.grows(*server, index, by);
            }
        }
    }
    net.ticks(2);
    assert_eq!(net.world.flow_records(), 50_000);
    assert_eq!(net.all_bytes(), 25_000 * 1_100);
    assert_eq!(net.firing(), [FLAT]);
    let list = net
        .world
        .flows(&partywall_aggregator_core::traffic::FlowFilter::default());
    assert_eq!((list.flows.len(), list.left_out), (4_096, 25_000 - 4_096));
}

#[test]
fn connections_that_only_keep_alive_are_neither_blocked_nor_probes() {
    let (mut net, client, web) = two();
    net.object("blue", "far", "node-c", &["10.0.2.1"]);
    for port in 0..40 {
        // The receiver's agent tells too, of half of them.
        net.opens(client, web.address, TCP, port, traffic((2, 104), (2, 104)));
        if port % 2 == 0 {
            net.accepts(web, client.address, TCP, port, traffic((2, 104), (2, 104)));
        }
        // Only the receiver is seen.
        net.accepts(web, ip("10.0.2.1"), TCP, port, traffic((2, 104), (2, 104)));
        // Sent, and not answered.
        net.opens(client, ip("10.0.2.1"), TCP, port, traffic((2, 104), (0, 0)));
    }
    net.ticks(8);
    assert_eq!(net.fired(), [FLAT]);
    let shown = net.shown();
    assert!(shown.iter().all(|f| !f.contains("blocked")), "{shown:?}");
    assert!(shown.contains(&"red/client>blue/far 3 unknown opener".to_owned()));
    assert!(shown.contains(&"blue/far>blue/web 3 within receiver".to_owned()));
}

#[test]
fn who_opened_is_told_by_the_other_end_or_by_nobody() {
    let (mut net, client, web) = two();
    let mut flow = |of: Pod, peer: Pod, role, port, by| {
        let flow = net.flow(of, role, of.address, peer.address, TCP, port);
        net.grows(of, flow, by);
    };
    // The receiver has a listener there.
    flow(client, web, Role::Unknown, 30_000, traffic((5, 5_000), (5, 300)));
    flow(web, client, Role::Accepted, 30_000, traffic((5, 300), (5, 5_000)));
    net.ticks(4);
    assert_eq!(net.shown(), ["red/client>blue/web 30000 open both"]);
    assert_eq!(net.all_bytes(), 5_300);
    // Neither knows.
    let (mut net, client, web) = two();
    for (of, peer, port, by) in [
        (client, web, 40_001, traffic((5, 5_000), (5, 300))),
        (web, client, 40_002, traffic((5, 300), (5, 5_000))),
    ] {
        let flow = net.flow(of, Role::Unknown, of.address, peer.address, TCP, port);
        net.grows(of, flow, by);
    }
    net.ticks(6);
    assert!(net.fired().is_empty());
    assert_eq!(net.bytes().1, BTreeMap::from([("opener_unknown", 5_300)]));
}

#[test]
fn a_node_that_tells_of_other_nodes_pods_is_not_believed() {
    let (mut net, _, web) = two();
    let liar = net.runs("node-b", EntityKind::Pod("uid-red-client".into()), "10.0.0.1");
    net.connects(liar, web, 80, 1_000);
    net.ticks(4);
    assert!(net.fired().is_empty());
    assert_eq!(net.bytes().1, BTreeMap::from([("pod_foreign", 1_100)]));
}

#[test]
fn a_nodes_flows_are_bounded_and_what_finds_no_room_is_counted() {
    let (mut net, client, web) = two();
    for round in 0..8u16 {
        for port in 0..10_000u16 {
            let index = net.announces(client, Role::Opened, web.address, round * 8 + port % 8);
            net.grows(client, index, traffic((1, 1), (0, 0)));
        }
        net.pass(S);
        let receipt = net.report("node-a").remove(0);
        assert!(!receipt.announce_all, "asking again would not help");
    }
    assert_eq!(net.world.flow_records(), 65_536);
    assert_eq!(net.world.losses().get("window", "flow_cap"), 80_000 - 65_536);
    net.judge();
}

#[test]
fn ended_flows_are_let_go_of_and_indices_mean_one_thing() {
    let (mut net, client, web) = two();
    net.connects(client, web, 80, 1_000);
    net.tick();
    net.ends(client, 1);
    net.ends(web, 1);
    net.ticks(20);
    assert_eq!(net.shown().len(), 1);
    net.ticks(15);
    assert_eq!((net.shown().len(), net.world.flow_records()), (0, 0));
    net.tries(client, web.address, 81);
    net.tick();
    let mut report = net.make_report("node-a");
    let flow = *net.agents["node-a"]
        .flows
        .values()
        .map(|(f, _)| f)
        .next()
        .unwrap();
    report.flows = vec![partywall_aggregator_core::report::Flow { port: 99, ..flow }];
    let receipt = net.world.ingest(report, net.now);
    let partywall_aggregator_core::report::Outcome::Refused(refusal) = receipt.outcome else {
        panic!("taken")
    };
    assert_eq!(refusal.field, "flows[0].index");
    let mut report = net.make_report("node-a");
    report.flow_samples = vec![partywall_aggregator_core::report::FlowSample {
        flow: flow.index,
        traffic: Traffic::default(),
    }];
    let receipt = net.world.ingest(report, net.now);
    let partywall_aggregator_core::report::Outcome::Refused(refusal) = receipt.outcome else {
        panic!("taken")
    };
    assert_eq!(refusal.field, "flow_samples[0].traffic.sent_packets");
}

#[test]
fn a_second_connection_is_no_failure_whoever_tells_of_it_first() {
    let (mut net, client, web) = two();
    for _ in 0..3 {
        for port in 1..=25 {
            net.connects(client, web, port, 1_000);
        }
        net.tick();
        let shown = net.shown();
        assert!(shown.iter().all(|f| f.ends_with("open both")), "{shown:?}");
        net.ticks(4);
        let shown = net.shown();
        assert!(shown.iter().all(|f| f.ends_with("open both")), "{shown:?}");
    }
    assert_eq!(net.fired(), [FLAT]);
    assert_eq!(net.all_bytes(), 3 * 25 * 1_100);
    assert_eq!(net.world.snapshot("", false, net.now).traffic[0].connections, 75);
}

#[test]
fn what_was_made_before_does_not_hide_what_fails_now() {
    let (mut net, client, web) = two();
    for _ in 0..3 {
        net.connects(client, web, 80, 1_000);
        net.tick();
    }
    // Its agent counts anew, the receiver's goes on.
    net.restart("node-a");
    let client = net.runs("node-a", EntityKind::Pod("uid-red-client".into()), "10.0.0.1");
    net.ticks(2);
    net.tries(client, web.address, 80);
    net.ticks(5);
    assert_eq!(net.shown(), ["red/client>blue/web 80 blocked both"]);
}

#[test]
fn datagrams_far_apart_are_not_in_vain() {
    let (mut net, client, web) = two();
    let sends = |net: &mut Net| {
        net.opens(client, web.address, UDP, 9, traffic((1, 100), (0, 0)));
        net.accepts(web, client.address, UDP, 9, traffic((0, 0), (1, 100)));
    };
    for second in 0..40 {
        if second % 5 == 0 {
            sends(&mut net);
        }
        net.tick();
        assert!(!net.shown()[0].contains("blocked"), "after {second} s");
    }
    // They arrive, only nobody is told for a while.
    for second in 0..8 {
        net.agents.get_mut("node-b").unwrap().cut_off = (2..6).contains(&second);
        sends(&mut net);
        net.tick();
        assert!(!net.shown()[0].contains("blocked"), "cut off, after {second} s");
    }
    net.ticks(4);
    assert_eq!(net.shown(), ["red/client>blue/web 9 open both"]);
    assert_eq!(net.fired(), [FLAT]);
    assert_eq!(net.all_bytes(), 1_600);
    // Silent for good: nobody knows.
    net.agents.get_mut("node-b").unwrap().cut_off = true;
    for _ in 0..20 {
        sends(&mut net);
        net.tick();
        assert!(!net.shown()[0].contains("blocked"));
    }
}

#[test]
fn an_answer_to_the_opener_says_that_it_arrived() {
    let (mut net, client, web) = two();
    net.opens(client, web.address, UDP, 9, traffic((1, 100), (1, 50)));
    net.accepts(web, client.address, UDP, 9, traffic((1, 50), (1, 100)));
    net.ticks(2);
    // The receiver's agent misses what comes later.
    for _ in 0..10 {
        net.opens(client, web.address, UDP, 9, traffic((1, 100), (1, 50)));
        net.tick();
        assert_eq!(net.shown(), ["red/client>blue/web 9 open both"]);
    }
}

/// red/host on node-a, which has the node's address, and its record there.
fn host_network(net: &mut Net) -> Pod {
    net.object("red", "host", "node-a", &["192.168.0.1"]);
    Arc::make_mut(net.cluster.pods.last_mut().unwrap()).host_network = true;
    net.publish();
    net.runs("node-a", EntityKind::Pod("uid-red-host".into()), "192.168.0.1")
}

#[test]
fn who_is_told_of_late_is_judged_by_all_that_it_did() {
    // A node's pod, whose agent is a second behind, or silent until its node's address is all there is.
    for silent in [0, 1, 5, 12] {
        let (mut net, _, web) = two();
        let host = host_network(&mut net);
        net.tick();
        net.agents.get_mut("node-a").unwrap().cut_off = silent > 0;
        net.connects(host, web, 80, 1_000);
        net.ticks(silent);
        net.agents.get_mut("node-a").unwrap().cut_off = false;
        net.ticks(4);
        assert_eq!(net.shown(), ["red/host>blue/web 80 open both"], "{silent} s");
        assert_eq!(net.fired(), [FLAT], "{silent} s");
        let summary = net.breach("FlatNetwork").summary;
        assert!(summary.contains("1 connection, 1.1 KiB"), "{silent} s: {summary}");
        assert_eq!(net.all_bytes(), 1_100, "{silent} s");
    }
    // A pod.
    for silent in [2, 3, 5, 9] {
        let (mut net, client, web) = two();
        net.isolate("blue", "nobody", &[]);
        net.ticks(11);
        net.agents.get_mut("node-a").unwrap().cut_off = true;
        net.connects(client, web, 80, 1_000);
        net.ticks(silent);
        assert!(net.fired().is_empty(), "nobody is accused by an address");
        net.agents.get_mut("node-a").unwrap().cut_off = false;
        net.ticks(4);
        assert_eq!(net.shown(), ["red/client>blue/web 80 leaked both"], "{silent} s");
        assert_eq!(net.firing(), [LEAK], "{silent} s");
        assert_eq!(net.all_bytes(), 1_100, "{silent} s");
    }
    // One that its agent tells of when its source was called unconfirmed already.
    let (mut net, client, web) = two();
    let mut by = traffic((10, 100), (10, 1_000));
    by.established = 1;
    net.accepts(web, client.address, TCP, 80, by);
    net.ticks(5);
    assert_eq!(net.shown(), ["source_unconfirmed>blue/web 80 unknown receiver"]);
    let mut by = by.turned();
    by.opened = 1;
    net.opens(client, web.address, TCP, 80, by);
    net.ticks(2);
    assert_eq!(net.shown(), ["red/client>blue/web 80 open both"]);
    assert_eq!(net.firing(), [FLAT]);
    assert_eq!(net.all_bytes(), 1_100);
}

#[test]
fn what_streams_is_not_blocked_by_one_refusal() {
    for (refused, opened) in [(1, 1), (0, 1)] {
        let (mut net, client, web) = two();
        net.connects(client, web, 80, 1_000);
        net.ticks(2);
        let mut by = traffic((1_000, 1_400_000), (500, 26_000));
        net.accepts(web, client.address, TCP, 80, by.turned());
        (by.opened, by.refused) = (opened, refused);
        net.opens(client, web.address, TCP, 80, by);
        net.ticks(5);
        assert_eq!(net.shown(), ["red/client>blue/web 80 open both"]);
        let key = ("red".to_owned(), "blue".to_owned(), Verdict::Open);
        assert_eq!(net.bytes().0, BTreeMap::from([(key, 1_427_100)]));
        assert_eq!(net.fired(), [FLAT]);
    }
}

#[test]
fn agents_that_report_seldom_are_waited_for() {
    for interval in [4, 20, 60] {
        let (mut net, client, web) = two();
        net.interval = interval;
        net.ticks(3 * interval);
        for second in 0..4 * interval {
            if second % 7 == 0 {
                net.connects(client, web, 80, 1_000);
                net.opens(client, web.address, UDP, 9, traffic((1, 100), (0, 0)));
                net.accepts(web, client.address, UDP, 9, traffic((0, 0), (1, 100)));
            }
            net.tick();
            let shown = net.shown();
            assert!(
                shown
                    .iter()
                    .all(|f| f.starts_with("red/client>blue/web ") && f.contains(" open ")),
                "{interval} s: {shown:?}"
            );
        }
        net.tries(client, web.address, 81);
        net.ticks(5 * interval);
        assert_eq!(
            net.shown(),
            [
                "red/client>blue/web 80 open both",
                "red/client>blue/web 81 blocked opener",
                "red/client>blue/web 9 open both"
            ],
            "{interval} s"
        );
        assert!(net.bytes().1.is_empty());
        assert_eq!(net.fired(), [FLAT]);
        assert_eq!(net.all_bytes(), (4 * interval).div_ceil(7) * 1_200 + 60);
    }
}

/// An agent of `node` announces this many flows to the outside.
fn announces_many(net: &mut Net, node: &'static str, count: u32) -> Pod {
    let pod = net.runs(node, EntityKind::Pod(format!("uid-{node}").into()), "10.9.0.1");
    for i in 0..count {
        net.announces(pod, Role::Opened, ip("1.1.1.1"), i as u16);
    }
    net.report(node);
    pod
}

#[test]
fn a_flow_without_room_is_a_loss_until_there_is_room() {
    const NODES: [&str; 4] = ["node-c", "node-d", "node-e", "node-f"];
    let (mut net, client, web) = two();
    for node in NODES {
        net.agents.insert(node, Agent::default());
        net.report(node);
        announces_many(&mut net, node, 65_536);
    }
    assert_eq!(net.world.flow_records(), 262_144);
    net.connects(client, web, 80, 1_000);
    net.ticks(2);
    net.connects(client, web, 80, 500);
    net.ticks(2);
    assert!(net.shown().is_empty());
    assert_eq!(
        net.world.losses().get("window", "flow_cap"),
        2 + 2 * (1_100 + 600)
    );
    // Another's are let go of.
    net.restart("node-c");
    net.ticks(35);
    net.connects(client, web, 80, 300);
    net.ticks(4);
    assert_eq!(net.shown(), ["red/client>blue/web 80 open both"]);
    assert_eq!(net.all_bytes(), 400, "what was lost is not counted after all");
    assert_eq!(net.firing(), [FLAT]);
}

#[test]
fn scanners_on_some_nodes_leave_room_for_the_others() {
    let (mut net, client, web) = two();
    let few = ["node-c", "node-d", "node-e", "node-f", "node-g", "node-h"];
    for node in few {
        net.agents.insert(node, Agent::default());
        net.report(node);
        announces_many(&mut net, node, 1);
    }
    for node in ["node-x", "node-y", "node-z"] {
        net.agents.insert(node, Agent::default());
        net.report(node);
        announces_many(&mut net, node, 65_536);
    }
    // Until half of the table is taken they have what they ask for; the third gets its equal part of it.
    assert_eq!(net.world.flow_records(), 131_072 + 262_144 / 9);
    net.connects(client, web, 80, 1_000);
    net.ticks(2);
    assert_eq!(net.shown(), ["red/client>blue/web 80 open both"]);
}
