//! What is suggested is read back as kubectl's input is, and the fence is asked whether it does what its comments say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use partywall_aggregator::identify::objects;
use partywall_aggregator_core::fence::{
    End, Fence, NetworkPolicy, Peer, Pod, Rule, Selector, Traffic, Verdict,
};
use partywall_aggregator_core::identity::{Cluster, Namespace, NodeObject, PodObject, Protocol};
use partywall_aggregator_core::policy::Policy;
use proptest::prelude::*;

use super::super::Known;
use super::super::resolve::resolve;
use super::super::seen::{AllSeen, Seen};
use super::document::Document;
use super::fate::Fate;
use super::plan::Plan;
use super::scene::Scene;
use crate::args::PolicySuggest;
use crate::flows;

/// Two of them one tenant's; one is the system's.
const NAMESPACES: [(&str, &str); 4] = [("a", "t"), ("b", "t"), ("c", "u"), ("kube-system", "system")];
const PORTS: [u16; 2] = [53, 80];

/// An end of a flow: which of the pods, or what is none.
#[derive(Clone, Copy, Debug)]
enum Who {
    Pod(usize),
    /// Not in the directory; of which namespace.
    Gone(usize),
    Node(u8),
    Outside(u8),
}

#[derive(Clone, Debug)]
struct Link {
    from: Who,
    to: Who,
    port: u16,
    protocol: Protocol,
    /// What the policy file says of it.
    allowed: bool,
    delivered: bool,
}

fn pods() -> impl Strategy<Value = Vec<PodObject>> {
    let labels = prop::collection::btree_map(
        prop::sample::select(vec!["app", "tier", "pod-template-hash"]),
        prop::sample::select(vec!["x", "y"]),
        0..3,
    );
    let pod = (0..4usize, labels, 0..2u8, prop::bool::weighted(0.1));
    prop::collection::vec(pod, 3..9).prop_map(|pods| {
        let pod =
            |(i, (namespace, labels, node, host_network)): (usize, (usize, BTreeMap<_, _>, u8, bool))| {
                let labels: BTreeMap<String, String> = labels
                    .into_iter()
                    .map(|(k, v): (&str, &str)| (k.to_owned(), v.to_owned()))
                    .collect();
                PodObject {
                    uid: format!("u-{i}"),
                    name: format!("pod-{i}"),
                    namespace: NAMESPACES[namespace].0.to_owned(),
                    labels: labels.into(),
                    node: Some(format!("node-{node}")),
                    addresses: if host_network {
                        vec![]
                    } else {
                        vec![IpAddr::from([10, 0, 0, i as u8])]
                    },
                    host_network,
                    ..PodObject::default()
                }
            };
        pods.into_iter().enumerate().map(pod).collect()
    })
}

fn policies() -> impl Strategy<Value = Vec<NetworkPolicy>> {
    let selector = prop::option::of(prop::sample::select(vec!["x", "y"])).prop_map(|app| Selector {
        match_labels: app
            .map(|a| ("app".to_owned(), a.to_owned()))
            .into_iter()
            .collect(),
        ..Selector::default()
    });
    let rules = prop::option::of(prop::collection::vec(
        selector.clone().prop_map(|pods| Rule {
            peers: vec![Peer::Pods {
                namespaces: Some(Selector::default()),
                pods: Some(pods),
            }],
            ports: Vec::new(),
        }),
        0..2,
    ));
    let policy =
        (0..4usize, selector, rules.clone(), rules).prop_map(|(namespace, pods, ingress, egress)| {
            NetworkPolicy {
                namespace: NAMESPACES[namespace].0.to_owned(),
                name: String::new(),
                pods,
                ingress,
                egress,
            }
        });
    prop::collection::vec(policy, 0..3)
}

fn who() -> impl Strategy<Value = Who> {
    prop_oneof![
        6 => (0..9usize).prop_map(Who::Pod),
        1 => (0..4usize).prop_map(Who::Gone),
        1 => (0..3u8).prop_map(Who::Node),
        1 => (0..2u8).prop_map(Who::Outside),
    ]
}

fn links() -> impl Strategy<Value = Vec<Link>> {
    let protocol =
        prop_oneof![3 => Just(Protocol::Tcp), 1 => Just(Protocol::Udp), 1 => Just(Protocol::Other(1))];
    let link = (
        who(),
        who(),
        prop::sample::select(PORTS.to_vec()),
        protocol,
        any::<bool>(),
        prop::bool::weighted(0.9),
    );
    let link = link.prop_map(|(from, to, port, protocol, allowed, delivered)| Link {
        from,
        to,
        port: if protocol.has_ports() { port } else { 0 },
        protocol,
        allowed,
        delivered,
    });
    prop::collection::vec(link, 0..14)
}

fn args() -> impl Strategy<Value = PolicySuggest> {
    (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(egress, keep_cross_tenant, keep_outside)| {
        PolicySuggest {
            egress,
            keep_cross_tenant,
            keep_outside,
            ..PolicySuggest::default()
        }
    })
}

fn cluster(pods: Vec<PodObject>, policies: Vec<NetworkPolicy>) -> Cluster {
    let named = |(i, policy): (usize, NetworkPolicy)| {
        Arc::new(NetworkPolicy {
            name: format!("policy-{i}"),
            ..policy
        })
    };
    Cluster {
        namespaces: NAMESPACES
            .iter()
            .map(|(name, tenant)| Namespace {
                name: (*name).to_owned(),
                labels: BTreeMap::from([("capsule.clastix.io/tenant".to_owned(), (*tenant).to_owned())]),
            })
            .collect(),
        pods: pods.into_iter().map(Arc::new).collect(),
        nodes: (0..2)
            .map(|i| NodeObject {
                name: format!("node-{i}"),
                addresses: vec![IpAddr::from([192, 0, 2, i])],
                ..NodeObject::default()
            })
            .collect(),
        network_policies: policies.into_iter().enumerate().map(named).collect(),
        ..Cluster::default()
    }
}

fn tenant(namespace: &str) -> &'static str {
    NAMESPACES
        .iter()
        .find(|(name, _)| *name == namespace)
        .map_or("?", |(_, tenant)| tenant)
}

/// As the aggregator would list it.
fn seen(link: &Link, index: usize, cluster: &Cluster) -> Option<Seen> {
    let end = |who: Who| -> Option<(flows::End, IpAddr)> {
        let of_pod = |namespace: &str, pod: String, uid: String, node: String| flows::End {
            tenant: tenant(namespace).to_owned(),
            namespace: namespace.to_owned(),
            pod,
            uid,
            node,
            ..flows::End::default()
        };
        Some(match who {
            Who::Pod(i) => {
                let pod = cluster.pods.get(i)?;
                let node = pod.node.clone().unwrap();
                let address = if pod.host_network {
                    cluster.nodes.iter().find(|n| n.name == node).unwrap().addresses[0]
                } else {
                    pod.addresses[0]
                };
                (
                    of_pod(&pod.namespace, pod.name.clone(), pod.uid.clone(), node),
                    address,
                )
            }
            Who::Gone(i) => {
                let (namespace, _) = NAMESPACES[i];
                let name = format!("gone-{i}");
                (
                    of_pod(namespace, name.clone(), name, "node-0".to_owned()),
                    IpAddr::from([10, 9, 9, i as u8]),
                )
            }
            Who::Node(i) => (
                flows::End {
                    tenant: "system".to_owned(),
                    node: format!("node-{i}"),
                    kind: "node".to_owned(),
                    ..flows::End::default()
                },
                IpAddr::from([192, 0, 2, i]),
            ),
            Who::Outside(i) => (
                flows::End {
                    tenant: "<outside>".to_owned(),
                    kind: "outside".to_owned(),
                    ..flows::End::default()
                },
                IpAddr::from([203, 0, 113, i]),
            ),
        })
    };
    let ((mut from, a), (mut to, b)) = (end(link.from)?, end(link.to)?);
    (from.address, to.address) = (a.to_string(), b.to_string());
    let named = |t: &str| t != "system" && !t.starts_with('<');
    let mut seen = Seen {
        flow: flows::Flow {
            from,
            to,
            protocol: link.protocol.to_string(),
            port: link.port.into(),
            verdict: String::new(),
            delivered: link.delivered,
            last_seen_unix_seconds: index as f64,
            ..flows::Flow::default()
        },
        protocol: link.protocol,
        port: link.port,
        from: Some(a),
        to: Some(b),
    };
    let known = Known::of(cluster.clone(), &Policy::default());
    let verdict = resolve(&known, &seen).map(|t| known.fence.decide(&t[0]).verdict());
    let (x, y) = (seen.flow.from.tenant.as_str(), seen.flow.to.tenant.as_str());
    seen.flow.verdict = match verdict {
        _ if !named(x) || !named(y) || x == y => "within",
        _ if link.allowed => "allowed",
        _ if !link.delivered => "blocked",
        Ok(Verdict::Open) => "open",
        Ok(Verdict::Allowed) => "allowed",
        Ok(Verdict::Denied) => "leaked",
        _ => "unknown(0)",
    }
    .to_owned();
    Some(seen)
}

/// Each flow once.
fn all_seen(links: &[Link], cluster: &Cluster) -> Vec<Seen> {
    let mut known = BTreeSet::new();
    let all = links
        .iter()
        .enumerate()
        .filter_map(|(i, link)| seen(link, i, cluster));
    all.filter(|s| known.insert((s.from, s.to, s.protocol, s.port)))
        .collect()
}

/// With the suggestions, as they are read from what was written.
fn applied(plan: &Plan, scene: &Scene, flows: &[Seen]) -> Result<Cluster, TestCaseError> {
    let all = AllSeen {
        flows: flows.to_vec(),
        left_out: 0,
    };
    let document = Document::new(plan, &all);
    let yaml = document.to_yaml();
    let read = objects::read(&yaml).map_err(|e| TestCaseError::fail(format!("{e}\n{yaml}")))?;
    let wanted: Vec<_> = plan.policies.iter().map(|s| Arc::clone(&s.policy)).collect();
    prop_assert_eq!(&read.cluster.network_policies, &wanted, "{}", yaml);
    let json = serde_json::to_value(&document).unwrap();
    for (object, policy) in json["policies"].as_array().unwrap().iter().zip(&wanted) {
        let read = objects::read(&object.to_string()).unwrap();
        prop_assert_eq!(&read.cluster.network_policies[0], policy);
    }
    let mut cluster = (*scene.known.cluster).clone();
    cluster.network_policies.extend(read.cluster.network_policies);
    Ok(cluster)
}

fn pairs(fence: &Fence) -> Vec<Traffic<'_>> {
    let mut all = Vec::new();
    for from in fence.pods() {
        for to in fence.pods() {
            for (protocol, port) in [
                (Protocol::Tcp, 53),
                (Protocol::Tcp, 80),
                (Protocol::Udp, 80),
                (Protocol::Tcp, 9),
                (Protocol::Other(1), 0),
            ] {
                all.push(Traffic {
                    from: End::Pod(from),
                    to: End::Pod(to),
                    protocol,
                    port,
                    family: None,
                });
            }
        }
    }
    all
}

/// Written a second time: which pods cannot be told apart by labels that last.
fn alike(pod: &Pod) -> (String, Vec<(String, String)>) {
    let labels = pod.labels.iter().filter(|(k, _)| *k != "pod-template-hash");
    (
        pod.namespace.name.to_string(),
        labels.map(|(k, v)| (k.clone(), v.clone())).collect(),
    )
}

fn admitted(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Open | Verdict::Allowed)
}

/// Everything that holds of a plan, whatever it was made from.
fn holds(scene: &Scene, flows: &[Seen], args: &PolicySuggest) -> Result<(), TestCaseError> {
    let plan = Plan::new(scene, flows, args);
    for suggested in &plan.policies {
        let policy = &suggested.policy;
        let rules = policy.ingress.iter().chain(&policy.egress).flatten();
        let names_somebody = |rule: &Rule| !rule.peers.is_empty();
        prop_assert!(
            rules.into_iter().all(names_somebody),
            "{policy:?} admits everybody"
        );
    }
    let after = Known::of(applied(&plan, scene, flows)?, &Policy::default());
    let (old, new) = (&scene.known, &after);

    // What the comments say of each flow is so, by what was written.
    for told in &plan.flows {
        let of = |s: &&Seen| {
            (
                s.flow.from.name(),
                s.flow.to.name(),
                s.flow.protocol.clone(),
                s.port,
            ) == (
                told.from.clone(),
                told.to.clone(),
                told.protocol.clone(),
                told.port,
            )
        };
        let flow = flows.iter().find(of).unwrap();
        let verdicts = [old, new].map(|k| resolve(k, flow).map(|t| k.fence.decide(&t[0]).verdict()));
        let [Ok(before), Ok(after)] = verdicts else {
            prop_assert_eq!(told.fate, Fate::NotLookedAt);
            continue;
        };
        match told.fate {
            Fate::Kept | Fate::StillOpen => prop_assert!(admitted(after), "{told:?}"),
            Fate::Closed | Fate::Cut => {
                prop_assert!(admitted(before) && after == Verdict::Denied, "{told:?}");
            }
            Fate::DeniedAlready => prop_assert_eq!((before, after), (Verdict::Denied, Verdict::Denied)),
            Fate::NotLookedAt => {
                let is_gone = told.from.contains("gone") || told.to.contains("gone");
                prop_assert!(is_gone && scene.from_dir, "{told:?}");
                continue;
            }
            Fate::Undecided => prop_assert!(false, "{told:?}"),
        }
        // Nothing in use is cut but for a reason that was told.
        let is_used = ["allowed", "within"].contains(&told.verdict.as_str()) && flow.flow.delivered;
        if is_used && admitted(before) && after == Verdict::Denied {
            let outside = told.from_tenant == "<outside>" || told.to_tenant == "<outside>";
            prop_assert!(outside && !args.keep_outside || told.port == 0, "{told:?}");
        }
        if told.verdict == "open" && args.keep_cross_tenant && told.port != 0 {
            prop_assert_eq!(told.fate, Fate::Kept);
        }
    }

    let isolated: BTreeSet<_> = plan
        .policies
        .iter()
        .filter(|s| s.policy.ingress.is_some())
        .flat_map(|s| {
            let of =
                |p: &&Arc<Pod>| *p.namespace.name == *s.policy.namespace && s.policy.pods.matches(&p.labels);
            new.fence.pods().iter().filter(of).map(|p| p.uid.clone())
        })
        .collect();
    for (before, traffic) in pairs(&old.fence).iter().zip(pairs(&new.fence)) {
        let (was, is) = (
            old.fence.decide(before).verdict(),
            new.fence.decide(&traffic).verdict(),
        );
        prop_assert!(was != Verdict::Denied || is == Verdict::Denied, "widened");
        let (End::Pod(from), End::Pod(to)) = (traffic.from, traffic.to) else {
            unreachable!()
        };
        if from.host_network || to.host_network || from.uid == to.uid {
            continue;
        }
        let [a, b] = [from, to].map(|p| tenant(&p.namespace.name));
        if a == b {
            // A tenant's own is never cut.
            prop_assert_eq!(admitted(was), admitted(is));
        } else if isolated.contains(&to.uid) && admitted(is) {
            // Whoever is let in from elsewhere cannot be told from one that was seen and kept.
            let excuse = flows.iter().any(|s| {
                let (Ok(seen), true) = (
                    resolve(old, s),
                    (s.protocol, s.port) == (traffic.protocol, traffic.port),
                ) else {
                    return false;
                };
                let (End::Pod(x), End::Pod(y)) = (seen[0].from, seen[0].to) else {
                    return false;
                };
                let is_kept = ["allowed", "within"].contains(&s.flow.verdict.as_str())
                    || s.flow.verdict == "open" && args.keep_cross_tenant;
                let same_from = alike(x) == alike(from)
                    || scene.gone.contains(&*x.uid) && x.namespace.name == from.namespace.name;
                s.flow.delivered && is_kept && same_from && alike(y) == alike(to)
            });
            prop_assert!(excuse, "{from} to {to} {} {}", traffic.protocol, traffic.port);
        }
    }
    Ok(())
}

/// A pod in its node's network, of which neither the directory nor the flow tells an address: no rule can name it.
#[test]
fn nobody_is_admitted_in_place_of_an_end_without_an_address() {
    let pod = |namespace: &str, name: &str, host_network: bool| PodObject {
        uid: name.to_owned(),
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        addresses: if host_network {
            vec![]
        } else {
            vec![IpAddr::from([10, 0, 0, 1])]
        },
        host_network,
        ..PodObject::default()
    };
    let cluster = cluster(vec![pod("a", "web", false), pod("c", "agent", true)], Vec::new());
    let end = |tenant: &str, namespace: &str, pod: &str| flows::End {
        tenant: tenant.to_owned(),
        namespace: namespace.to_owned(),
        pod: pod.to_owned(),
        uid: pod.to_owned(),
        ..flows::End::default()
    };
    let flow = |from: flows::End, to: flows::End| Seen {
        flow: flows::Flow {
            from,
            to,
            protocol: "TCP".to_owned(),
            port: 80,
            verdict: "allowed".to_owned(),
            delivered: true,
            ..flows::Flow::default()
        },
        protocol: Protocol::Tcp,
        port: 80,
        from: None,
        to: None,
    };
    let (web, agent) = (end("t", "a", "web"), end("u", "c", "agent"));
    let flows = [flow(agent.clone(), web.clone()), flow(web, agent)];
    let args = PolicySuggest {
        egress: true,
        ..PolicySuggest::default()
    };
    let scene = Scene::new(Some(cluster), &Policy::default(), &flows).unwrap();
    let plan = Plan::new(&scene, &flows, &args);
    let policy = &plan.policies.first().unwrap().policy;
    for rules in [&policy.ingress, &policy.egress] {
        let rules = rules.as_ref().unwrap();
        assert!(rules.iter().all(|rule| !rule.peers.is_empty()), "{rules:?}");
    }
    assert_eq!(plan.flows.len(), 2, "and both flows are told of");
    assert!(
        plan.flows.iter().all(|told| told.fate != Fate::Kept),
        "{:?}",
        plan.flows
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn suggestions_do_what_they_say(pods in pods(), policies in policies(), links in links(), args in args()) {
        let cluster = cluster(pods, policies);
        let flows = all_seen(&links, &cluster);
        let scene = Scene::new(Some(cluster), &Policy::default(), &flows).unwrap();
        holds(&scene, &flows, &args)?;
    }

    #[test]
    fn suggestions_without_labels_do_what_they_say(pods in pods(), links in links(), args in args()) {
        let pods = pods.into_iter().map(|p| PodObject { labels: BTreeMap::new().into(), ..p });
        let cluster = cluster(pods.collect(), Vec::new());
        let flows = all_seen(&links, &cluster);
        let scene = Scene::new(None, &Policy::default(), &flows).unwrap();
        holds(&scene, &flows, &args)?;
    }

    #[test]
    fn the_order_of_flows_and_objects_does_not_matter(pods in pods(), policies in policies(), links in links(), args in args()) {
        let mut cluster = cluster(pods, policies);
        let mut flows = all_seen(&links, &cluster);
        let written = |cluster: &Cluster, flows: &[Seen]| {
            let scene = Scene::new(Some(cluster.clone()), &Policy::default(), flows).unwrap();
            let plan = Plan::new(&scene, flows, &args);
            plan.policies.iter().map(|s| Arc::clone(&s.policy)).collect::<Vec<_>>()
        };
        let one = written(&cluster, &flows);
        flows.reverse();
        cluster.pods.reverse();
        cluster.network_policies.reverse();
        prop_assert_eq!(one, written(&cluster, &flows));
    }
}
