//! Properties over invented clusters, and agreement with a second evaluator that takes the API documentation's sentences one by one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::identity::{ContainerObject, ContainerPort, Namespace as NamespaceObject, NodeObject, Protocol};

const NAMESPACES: [&str; 3] = ["a", "b", "c"];
const KEYS: [&str; 2] = ["app", "tier"];
const VALUES: [&str; 2] = ["x", "y"];
const PORTS: [u16; 3] = [80, 90, 100];
const NAMES: [&str; 2] = ["http", "dns"];
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Other(1)];

fn one_of<T: Copy + std::fmt::Debug + 'static>(of: &'static [T]) -> impl Strategy<Value = T> {
    prop::sample::select(of)
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map(
        one_of(&KEYS).prop_map(str::to_owned),
        one_of(&VALUES).prop_map(str::to_owned),
        0..3,
    )
}

fn selector() -> impl Strategy<Value = Selector> {
    let operator =
        (0..4usize, prop::collection::btree_set(one_of(&VALUES), 1..3)).prop_map(|(which, values)| {
            let values = values.into_iter().map(str::to_owned).collect();
            match which {
                0 => Operator::In(values),
                1 => Operator::NotIn(values),
                2 => Operator::Exists,
                _ => Operator::DoesNotExist,
            }
        });
    let expression = (one_of(&KEYS), operator).prop_map(|(key, operator)| Expression {
        key: key.to_owned(),
        operator,
    });
    let match_labels = prop_oneof![2 => Just(BTreeMap::new()), 1 => labels()];
    (match_labels, prop::collection::vec(expression, 0..2)).prop_map(|(match_labels, match_expressions)| {
        Selector {
            match_labels,
            match_expressions,
        }
    })
}

fn peer() -> impl Strategy<Value = Peer> {
    let block = (0..3u8, prop::option::of(0..6u8)).prop_map(|(net, except)| {
        let mut block = IpBlock::new(&format!("10.0.{net}.0/24")).unwrap();
        if let Some(host) = except {
            block.leave_out(&format!("10.0.{net}.{host}/32")).unwrap();
        }
        Peer::Block(block)
    });
    prop_oneof![
        1 => block,
        1 => selector().prop_map(|s| Peer::Pods { namespaces: None, pods: Some(s) }),
        1 => selector().prop_map(|s| Peer::Pods { namespaces: Some(s), pods: None }),
        1 => (selector(), selector())
            .prop_map(|(n, p)| Peer::Pods { namespaces: Some(n), pods: Some(p) }),
    ]
}

fn port() -> impl Strategy<Value = Port> {
    let number = prop_oneof![
        Just(PortNumber::Any),
        (one_of(&PORTS), 0..20u16).prop_map(|(first, more)| PortNumber::Range(first, first + more)),
        one_of(&NAMES).prop_map(|name| PortNumber::Named(name.into())),
    ];
    (number, any::<bool>()).prop_map(|(number, udp)| Port {
        protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
        number,
    })
}

fn rules() -> impl Strategy<Value = Option<Vec<Rule>>> {
    let rule = (
        prop::collection::vec(peer(), 0..3),
        prop::collection::vec(port(), 0..3),
    )
        .prop_map(|(peers, ports)| Rule { peers, ports });
    prop::option::of(prop::collection::vec(rule, 0..3))
}

fn policy() -> impl Strategy<Value = NetworkPolicy> {
    (one_of(&NAMESPACES), selector(), rules(), rules()).prop_map(|(namespace, pods, ingress, egress)| {
        NetworkPolicy {
            namespace: namespace.to_owned(),
            name: String::new(),
            pods,
            ingress,
            egress,
        }
    })
}

fn pod() -> impl Strategy<Value = PodObject> {
    let ports = prop::collection::vec((one_of(&NAMES), one_of(&PORTS), any::<bool>()), 0..3);
    let host = prop::bool::weighted(0.2);
    (one_of(&NAMESPACES), labels(), 0..2u8, host, ports).prop_map(|(namespace, labels, node, host, ports)| {
        let port = |(name, number, udp): (&str, u16, bool)| ContainerPort {
            name: Some(name.into()),
            number,
            protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
        };
        PodObject {
            namespace: namespace.to_owned(),
            labels: labels.into(),
            node: Some(format!("node-{node}")),
            host_network: host,
            containers: Arc::new([ContainerObject {
                ports: ports.into_iter().map(port).collect(),
                ..ContainerObject::default()
            }]),
            ..PodObject::default()
        }
    })
}

fn cluster() -> impl Strategy<Value = Cluster> {
    let pods = prop::collection::vec(pod(), 2..6);
    let policies = prop::collection::vec(policy(), 0..5);
    let of_namespaces = prop::collection::vec(labels(), NAMESPACES.len());
    (pods, policies, of_namespaces).prop_map(|(mut pods, mut policies, of_namespaces)| {
        for (i, pod) in pods.iter_mut().enumerate() {
            pod.name = format!("pod-{i}");
            pod.uid = pod.name.clone();
            if !pod.host_network {
                pod.addresses = vec![IpAddr::from([10, 0, (i % 3) as u8, i as u8])];
            }
        }
        for (i, policy) in policies.iter_mut().enumerate() {
            policy.name = format!("policy-{i}");
        }
        let node = |i: u8| NodeObject {
            name: format!("node-{i}"),
            addresses: vec![IpAddr::from([10, 0, 1, 200 + i])],
            ..NodeObject::default()
        };
        let namespace = |(name, labels): (&str, _)| NamespaceObject {
            name: name.to_owned(),
            labels,
        };
        Cluster {
            namespaces: NAMESPACES.into_iter().zip(of_namespaces).map(namespace).collect(),
            pods: pods.into_iter().map(Arc::new).collect(),
            nodes: (0..2).map(node).collect(),
            network_policies: policies.into_iter().map(Arc::new).collect(),
            ..Cluster::default()
        }
    })
}

/// Every pair of pods, and each with the outside, over some ports.
fn all(fence: &Fence) -> Vec<Traffic<'_>> {
    let outside = ["10.0.0.3", "203.0.113.9"].map(|a| End::Address(a.parse().unwrap()));
    let ends: Vec<End<'_>> = fence.pods().iter().map(|p| End::Pod(p)).chain(outside).collect();
    let mut traffic = Vec::new();
    for from in &ends {
        for to in &ends {
            for protocol in PROTOCOLS {
                for port in PORTS {
                    traffic.push(Traffic {
                        from: *from,
                        to: *to,
                        protocol,
                        port,
                        family: None,
                    });
                }
            }
        }
    }
    traffic
}

/// The second evaluator: no lists made before, no first match, no names; over the objects themselves.
struct Plain<'a>(&'a Cluster);

impl Plain<'_> {
    /// Isolated, admitted.
    fn end(&self, traffic: &Traffic<'_>, direction: Direction) -> (bool, bool) {
        let (own, other) = match direction {
            Direction::Egress => (traffic.from, traffic.to),
            Direction::Ingress => (traffic.to, traffic.from),
        };
        let End::Pod(own) = own else { return (false, true) };
        let own = self.object(own);
        let peer = match other {
            End::Pod(pod) => Some(self.object(pod)),
            _ => None,
        };
        let address = match (peer, other) {
            (Some(pod), _) if pod.host_network => self.node_of(pod),
            (Some(pod), _) => pod.addresses[0],
            (None, End::Address(address)) => address,
            (None, _) => unreachable!(),
        };
        let same_node = address == self.node_of(own);
        if own.host_network || same_node || peer.is_some_and(|p| p.uid == own.uid) {
            return (false, true);
        }
        let policies = self.0.network_policies.iter().filter(|p| {
            p.namespace == own.namespace && p.pods.matches(&own.labels) && p.rules(direction).is_some()
        });
        let rules: Vec<_> = policies
            .clone()
            .flat_map(|p| {
                p.rules(direction)
                    .unwrap()
                    .iter()
                    .map(|r| (p.namespace.as_str(), r))
            })
            .collect();
        let to = match traffic.to {
            End::Pod(pod) => Some(self.object(pod)).filter(|p| !p.host_network),
            _ => None,
        };
        let peer = peer.filter(|p| !p.host_network);
        let admitted = rules.iter().any(|(namespace, rule)| {
            let by_peer = rule.peers.iter().any(|p| self.peer(p, namespace, peer, address));
            let by_port = rule.ports.iter().any(|p| port_of(p, traffic, to));
            (rule.peers.is_empty() || by_peer) && (rule.ports.is_empty() || by_port)
        });
        (policies.count() > 0, admitted)
    }

    fn peer(&self, peer: &Peer, own: &str, pod: Option<&PodObject>, address: IpAddr) -> bool {
        let (namespaces, pods) = match peer {
            Peer::Block(block) => return block.contains(address),
            Peer::Pods { namespaces, pods } => (namespaces, pods),
        };
        let Some(pod) = pod else { return false };
        let namespace = self
            .0
            .namespaces
            .iter()
            .find(|n| n.name == pod.namespace)
            .unwrap();
        let here = match namespaces {
            Some(selector) => selector.matches(&namespace.labels),
            None => pod.namespace == own,
        };
        here && pods.as_ref().is_none_or(|s| s.matches(&pod.labels))
    }

    fn object(&self, pod: &Pod) -> &PodObject {
        self.0.pods.iter().find(|p| p.uid == *pod.uid).unwrap()
    }

    fn node_of(&self, pod: &PodObject) -> IpAddr {
        let node = self.0.nodes.iter().find(|n| Some(&n.name) == pod.node.as_ref());
        node.unwrap().addresses[0]
    }

    fn verdict(&self, traffic: &Traffic<'_>) -> Verdict {
        let (out, into) = (
            self.end(traffic, Direction::Egress),
            self.end(traffic, Direction::Ingress),
        );
        match (out, into) {
            ((false, _), (false, _)) => Verdict::Open,
            ((true, false), _) | (_, (true, false)) => Verdict::Denied,
            _ => Verdict::Allowed,
        }
    }
}

fn port_of(port: &Port, traffic: &Traffic<'_>, to: Option<&PodObject>) -> bool {
    if port.protocol != traffic.protocol {
        return false;
    }
    match &port.number {
        PortNumber::Any => true,
        PortNumber::Range(first, last) => *first <= traffic.port && traffic.port <= *last,
        PortNumber::Named(name) => to.is_some_and(|to| {
            let mut ports = to.containers.iter().flat_map(|c| c.ports.iter());
            ports.any(|p| {
                p.name.as_deref() == Some(name) && p.protocol == port.protocol && p.number == traffic.port
            })
        }),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_plain_evaluator(cluster in cluster()) {
        let fence = Fence::new(&cluster);
        let plain = Plain(&cluster);
        for traffic in all(&fence) {
            prop_assert_eq!(fence.decide(&traffic).verdict(), plain.verdict(&traffic), "{} > {}", traffic.from, traffic.to);
        }
    }

    #[test]
    fn the_order_of_objects_does_not_matter(cluster in cluster(), seed in any::<u64>()) {
        let mut turned = cluster.clone();
        // Any order: sorted by a number that depends on name and seed.
        let rank = |name: &str| name.bytes().fold(seed, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        turned.network_policies.sort_by_key(|p| rank(&p.name));
        turned.pods.sort_by_key(|p| rank(&p.uid));
        turned.namespaces.reverse();
        let (fence, turned) = (Fence::new(&cluster), Fence::new(&turned));
        for (a, b) in all(&fence).iter().zip(all(&turned)) {
            prop_assert_eq!(fence.explain(a), turned.explain(&b));
        }
    }

    #[test]
    fn a_policy_that_selects_nothing_changes_nothing(cluster in cluster(), mut policy in policy()) {
        let mut more = cluster.clone();
        policy.pods.match_labels.insert("nobody".to_owned(), "has-it".to_owned());
        policy.name = "a-first".to_owned();
        more.network_policies.push(Arc::new(policy));
        let (fence, more) = (Fence::new(&cluster), Fence::new(&more));
        for (a, b) in all(&fence).iter().zip(all(&more)) {
            prop_assert_eq!(fence.explain(a), more.explain(&b));
        }
    }

    #[test]
    fn one_more_rule_never_denies_what_was_admitted(cluster in cluster(), which in any::<prop::sample::Index>(), rule in rules()) {
        prop_assume!(!cluster.network_policies.is_empty());
        let mut more = cluster.clone();
        let index = which.index(more.network_policies.len());
        let mut policy = (*more.network_policies[index]).clone();
        for rules in [&mut policy.ingress, &mut policy.egress].into_iter().flatten() {
            rules.extend(rule.iter().flatten().cloned());
        }
        more.network_policies[index] = Arc::new(policy);
        let (fence, more) = (Fence::new(&cluster), Fence::new(&more));
        for (a, b) in all(&fence).iter().zip(all(&more)) {
            let (before, after) = (fence.decide(a).verdict(), more.decide(&b).verdict());
            prop_assert!(before == after || (before, after) == (Verdict::Denied, Verdict::Allowed));
        }
    }

    #[test]
    fn a_matrix_equals_pairwise_checks(cluster in cluster(), port in one_of(&["80", "90/UDP", "http", "dns/UDP", "ICMP"])) {
        let fence = Fence::new(&cluster);
        let question: Question = port.parse().unwrap();
        let matrix: Vec<_> = fence.matrix(&question, |_| true).collect();
        let pods = fence.pods().len();
        prop_assert_eq!(matrix.len(), pods * (pods - 1));
        let plain = Plain(&cluster);
        for (from, to, verdict) in matrix {
            let pair = question.between(End::Pod(from), End::Pod(to));
            prop_assert_eq!(verdict, pair.map(|t| fence.explain(&t).decision.verdict()));
            prop_assert_eq!(verdict, pair.map(|t| plain.verdict(&t)));
        }
    }

    #[test]
    fn an_explanation_says_why(cluster in cluster()) {
        let fence = Fence::new(&cluster);
        for traffic in all(&fence) {
            let told = fence.explain(&traffic);
            prop_assert_eq!(&told.decision, &fence.decide(&traffic));
            for (stand, traces) in [(&told.decision.egress, &told.egress), (&told.decision.ingress, &told.ingress)] {
                let admits = traces.iter().find_map(|t| match &t.says { Says::Admits(a) => Some(a), _ => None });
                match stand {
                    Stand::Admits(admission) => prop_assert_eq!(admits, Some(admission)),
                    Stand::Denies(policies) => {
                        prop_assert_eq!(admits, None);
                        prop_assert_eq!(policies.len(), traces.len());
                        for trace in traces {
                            if let Says::Misses(misses) = &trace.says {
                                prop_assert!(misses.iter().all(|m| !m.peer || !m.port));
                            }
                        }
                    }
                    _ => prop_assert!(traces.is_empty()),
                }
            }
        }
    }
}

/// 5,000 pods and 500 policies: the lists are shared, and there is one for each set of policies alone.
#[test]
fn a_large_cluster_is_compiled_once() {
    let pods = (0..5_000).map(|i| PodObject {
        uid: format!("u{i}"),
        namespace: format!("ns-{}", i % 50),
        name: format!("pod-{i}"),
        labels: BTreeMap::from([("app".to_owned(), format!("app-{}", i % 7))]).into(),
        addresses: vec![IpAddr::from([10, 1, (i / 250) as u8, (i % 250) as u8])],
        ..PodObject::default()
    });
    let policies = (0..500).map(|i| {
        Arc::new(NetworkPolicy {
            namespace: format!("ns-{}", i % 50),
            name: format!("p{i}"),
            ingress: Some(vec![Rule::default()]),
            ..NetworkPolicy::default()
        })
    });
    let cluster = Cluster {
        pods: pods.map(Arc::new).collect(),
        network_policies: policies.collect(),
        ..Cluster::default()
    };
    let fence = Fence::new(&cluster);
    let (a, b) = (
        fence.pod("ns-3", "pod-3").unwrap(),
        fence.pod("ns-3", "pod-53").unwrap(),
    );
    assert_eq!(a.isolated_by(Direction::Ingress).len(), 10);
    assert!(Arc::ptr_eq(
        a.isolated_by(Direction::Ingress),
        b.isolated_by(Direction::Ingress)
    ));
    assert!(a.isolated_by(Direction::Egress).is_empty());
    let question: Question = "80".parse().unwrap();
    assert_eq!(
        fence
            .matrix(&question, |_| true)
            .take(100_000)
            .filter(|(_, _, v)| *v == Some(Verdict::Allowed))
            .count(),
        100_000
    );
}
