//! A boundary that was crossed, or tried: a NetworkPolicy that draws it, or an allowance that says that it is meant so.
//!
//! What a policy admits is what was seen in use and is nobody's breach: the tenant's own namespaces, what an allowance or a NetworkPolicy admits, nodes and
//! the system. `partywall policy suggest` looks at all of a tenant's pods, this at those of one breach.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::super::cx::Cx;
use super::super::fence::{fence_pod, question};
use super::super::{PLATFORM, Remedy};
use super::group::Groups;
use super::workload;
use crate::fence::{
    Direction, Expression, IpBlock, NetworkPolicy, Operator, Own, Peer, Pod, Port, PortNumber, Rule,
    Selector, Stand, document, lasting, unlabelled,
};
use crate::identity::Protocol;
use crate::traffic::{FlowEnd, FlowFilter, FlowView, Verdict};
use crate::yaml::{Yaml, comment};

const NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// Where clusters have their DNS.
const DNS_NAMESPACE: &str = "kube-system";
const DNS: [(Protocol, u16); 2] = [(Protocol::Tcp, 53), (Protocol::Udp, 53)];

pub(super) fn open(cx: &Cx<'_>) -> Vec<Remedy> {
    let key = &cx.breach().key;
    let mut out = Vec::new();
    let pods = cx.reached().iter().filter_map(|r| fence_pod(cx, &r.to));
    let drafts = drafts(cx, pods, Direction::Ingress, &key.against);
    if !drafts.is_empty() {
        out.push(Remedy {
            kind: "network_policy",
            by: Arc::clone(&key.against),
            what: format!("pods of {} that were reached are isolated: {}", key.against, named(&drafts)),
            why: format!(
                "no NetworkPolicy isolates them; these admit {}'s own namespaces and what was seen in use, and nothing of {}",
                key.against, key.tenant
            ),
            yaml: joined(drafts),
        });
    }
    out.extend(allowance(cx));
    out
}

pub(super) fn leak(cx: &Cx<'_>) -> Vec<Remedy> {
    let key = &cx.breach().key;
    let mut denying: BTreeMap<String, String> = BTreeMap::new();
    let mut nodes: BTreeSet<&str> = BTreeSet::new();
    let mut free_openers: Vec<&Pod> = Vec::new();
    for reached in cx.reached() {
        let Some((from, to, traffic)) = question(cx, reached) else {
            continue;
        };
        let decision = cx.directory.fence().decide(&traffic);
        for ((_, stand), pod) in decision.stands().into_iter().zip([from, to]) {
            if let Stand::Denies(policies) = stand {
                nodes.extend(pod.node.as_ref().map(|node| &*node.name));
                for policy in policies.iter() {
                    denying.insert(policy.to_string(), unlabelled(policy));
                }
            }
        }
        if matches!(decision.egress, Stand::Free) {
            free_openers.push(from);
        }
    }
    let mut out = Vec::new();
    let names: Vec<String> = denying.keys().cloned().collect();
    let nodes: Vec<&str> = nodes.into_iter().collect();
    let (what, why) = match names.is_empty() {
        true => (
            "the network plugin enforces NetworkPolicy".to_owned(),
            "policies denied it, and it was delivered; none of those in force now does".to_owned(),
        ),
        false => (
            format!("the network plugin of {} enforces {}", nodes.join(", "), names.join(", ")),
            "the policies deny it already, and it was delivered: no further policy helps where none is enforced".to_owned(),
        ),
    };
    out.push(Remedy {
        kind: "network_policy",
        by: Arc::from(PLATFORM),
        what,
        why,
        yaml: workload::join(&denying.into_values().collect::<Vec<_>>()),
    });
    let drafts = drafts(cx, free_openers.into_iter(), Direction::Egress, &key.tenant);
    if !drafts.is_empty() {
        out.push(Remedy {
            kind: "network_policy",
            by: Arc::clone(&key.tenant),
            what: format!("pods of {} that opened are isolated on their own side: {}", key.tenant, named(&drafts)),
            why: "it is enforced on another node, where both ends are not on one: a second boundary, until the first one holds".to_owned(),
            yaml: joined(drafts),
        });
    }
    out.extend(allowance(cx));
    out
}

pub(super) fn probe(cx: &Cx<'_>) -> Vec<Remedy> {
    let key = &cx.breach().key;
    let pod = fence_pod(cx, &key.subject).into_iter();
    let drafts = drafts(cx, pod, Direction::Egress, &key.tenant);
    if drafts.is_empty() {
        return Vec::new();
    }
    vec![Remedy {
        kind: "network_policy",
        by: Arc::clone(&key.tenant),
        what: format!(
            "pods like {} reach what they use and nothing else: {}",
            key.subject,
            named(&drafts)
        ),
        why: "what it tried answered to nobody: none of it is in use".to_owned(),
        yaml: joined(drafts),
    }]
}

/// That it is meant so.
fn allowance(cx: &Cx<'_>) -> Option<Remedy> {
    let key = &cx.breach().key;
    let mut ends: [BTreeSet<&str>; 2] = [BTreeSet::new(), BTreeSet::new()];
    let mut ports = BTreeSet::new();
    for reached in cx.reached() {
        for (namespaces, end) in ends.iter_mut().zip([&reached.from, &reached.to]) {
            namespaces.extend(end.split_once('/').map(|(namespace, _)| namespace));
        }
        ports.insert(crate::traffic::port(reached.protocol, reached.port));
    }
    let [from, to] = ends.map(|namespaces| {
        let names = namespaces.into_iter().map(Yaml::text).collect();
        Yaml::map([("namespaces", Yaml::List(names))])
    });
    if ports.is_empty() {
        return None;
    }
    let shown: Vec<String> = ports.iter().cloned().collect();
    let entry = Yaml::map([
        ("name", Yaml::text(format!("{}-to-{}", key.tenant, key.against))),
        ("from", from),
        ("to", to),
        ("ports", Yaml::List(ports.into_iter().map(Yaml::text).collect())),
    ]);
    let mut yaml = String::new();
    comment(
        &mut yaml,
        "",
        "of the policy file: one more entry of `fence.allow`, beside those that are there",
    );
    yaml += &Yaml::map([("fence", Yaml::map([("allow", Yaml::List(vec![entry]))]))]).document();
    Some(Remedy {
        kind: "allowance",
        by: Arc::from(PLATFORM),
        what: format!("{} may reach {} on {}", key.tenant, key.against, shown.join(", ")),
        why: "where it is meant so: it is then no breach, and shown as allowed".to_owned(),
        yaml,
    })
}

struct Draft {
    name: String,
    yaml: String,
}

fn joined(drafts: Vec<Draft>) -> String {
    let documents: Vec<String> = drafts.into_iter().map(|d| d.yaml).collect();
    workload::join(&documents)
}

fn named(drafts: &[Draft]) -> String {
    let names: Vec<String> = drafts
        .iter()
        .map(|d| format!("NetworkPolicy {}", d.name))
        .collect();
    names.join(", ")
}

/// One policy for each group of these pods. Those in their node's network, and those that are isolated already, get none: a further one could only add.
fn drafts<'p>(
    cx: &Cx<'_>,
    pods: impl Iterator<Item = &'p Pod>,
    direction: Direction,
    tenant: &str,
) -> Vec<Draft> {
    let mut groups: BTreeMap<(String, Own), &Pod> = BTreeMap::new();
    for pod in pods.filter(|p| !p.host_network && p.isolated_by(direction).is_empty()) {
        let group = (pod.namespace.name.to_string(), lasting(&pod.labels));
        groups.entry(group).or_insert(pod);
    }
    if groups.is_empty() {
        return Vec::new();
    }
    let mut filter = FlowFilter::default();
    match direction {
        Direction::Ingress => tenant.clone_into(&mut filter.to),
        Direction::Egress => tenant.clone_into(&mut filter.from),
    }
    let flows = cx.flows(&filter);
    let mut named = Groups::new(cx);
    let draft = |((namespace, labels), pod): ((String, Own), &Pod)| {
        let (selector, name) = named.of(pod, "");
        let mut admitted = Admitted::new(cx, tenant, &namespace, direction);
        for flow in &flows.flows {
            let end = match direction {
                Direction::Ingress => &flow.to,
                Direction::Egress => &flow.from,
            };
            let same = fence_pod(cx, &format!("{}/{}", end.namespace, end.pod))
                .is_some_and(|p| *p.namespace.name == *namespace && lasting(&p.labels) == labels);
            if same {
                admitted.see(cx, flow);
            }
        }
        let (rules, notes) = admitted.rules();
        let (ingress, egress) = match direction {
            Direction::Ingress => (Some(rules), None),
            Direction::Egress => (None, Some(rules)),
        };
        let policy = NetworkPolicy {
            namespace,
            name,
            pods: selector,
            ingress,
            egress,
        };
        let mut yaml = String::new();
        if flows.left_out > 0 {
            let note = format!(
                "{} flows with fewer bytes were not looked at: what they use may be cut",
                flows.left_out
            );
            comment(&mut yaml, "", &note);
        }
        Draft {
            name: policy.to_string(),
            yaml: yaml + &document(&policy, &notes, &notes),
        }
    };
    groups.into_iter().map(draft).collect()
}

/// Who a rule names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Pods(String, Own),
    Nodes(BTreeSet<IpAddr>),
}

/// What a policy has to admit so that nothing in use is cut.
struct Admitted {
    direction: Direction,
    own: BTreeSet<String>,
    others: BTreeMap<Who, BTreeSet<(Protocol, u16)>>,
    /// Flows with ends that no rule is written for.
    cut: BTreeSet<String>,
}

impl Admitted {
    fn new(cx: &Cx<'_>, tenant: &str, namespace: &str, direction: Direction) -> Self {
        let own = cx.namespaces_of(tenant).into_iter();
        Self {
            direction,
            own: own.chain([namespace.to_owned()]).collect(),
            others: BTreeMap::new(),
            cut: BTreeSet::new(),
        }
    }

    fn see(&mut self, cx: &Cx<'_>, flow: &FlowView) {
        let other = match self.direction {
            Direction::Ingress => &flow.from,
            Direction::Egress => &flow.to,
        };
        let is_fair = flow.delivered && matches!(flow.verdict, Verdict::Allowed | Verdict::Within);
        if !is_fair || (self.own.contains(&*other.namespace) && other.kind.is_empty()) {
            return;
        }
        let protocol = Protocol::from_number(flow.protocol);
        let is_dns = &*other.namespace == DNS_NAMESPACE && DNS.contains(&(protocol, flow.port));
        if self.direction == Direction::Egress && is_dns {
            return;
        }
        match who(cx, other) {
            Some(who) if protocol.has_ports() && flow.port != 0 => {
                self.others.entry(who).or_default().insert((protocol, flow.port));
            }
            _ => {
                let port = crate::traffic::port(flow.protocol, flow.port);
                self.cut.insert(format!("{} on {port}", shown(other)));
            }
        }
    }

    fn rules(self) -> (Vec<Rule>, Vec<String>) {
        let own = Rule {
            peers: vec![pods(Some(self.own), Selector::default())],
            ports: Vec::new(),
        };
        let mut rules = vec![own];
        let mut notes = vec!["the tenant's own namespaces".to_owned()];
        if self.direction == Direction::Egress {
            rules.push(Rule {
                peers: vec![pods(
                    Some(BTreeSet::from([DNS_NAMESPACE.to_owned()])),
                    Selector::default(),
                )],
                ports: ports(&DNS.into()),
            });
            notes.push("DNS".to_owned());
        }
        for (who, asked) in self.others {
            let (peers, note) = match who {
                Who::Pods(namespace, labels) => {
                    let selector = Selector {
                        match_labels: labels,
                        ..Selector::default()
                    };
                    let note = format!("in use: pods of {namespace}");
                    (vec![pods(Some(BTreeSet::from([namespace])), selector)], note)
                }
                Who::Nodes(addresses) => {
                    let blocks = addresses.into_iter().filter_map(block).collect();
                    (blocks, "in use: nodes; a new node has another address".to_owned())
                }
            };
            if !peers.is_empty() {
                let ports = ports(&asked);
                rules.push(Rule { peers, ports });
                notes.push(note);
            }
        }
        if let (Some(first), false) = (notes.first_mut(), self.cut.is_empty()) {
            const SHOWN: usize = 5;
            let shown: Vec<&str> = self.cut.iter().take(SHOWN).map(String::as_str).collect();
            let more = match self.cut.len().saturating_sub(SHOWN) {
                0 => String::new(),
                n => format!(" and {n} more"),
            };
            *first += &format!("; it cuts what is in use with {}{more}", shown.join(", "));
        }
        (rules, notes)
    }
}

fn who(cx: &Cx<'_>, end: &FlowEnd) -> Option<Who> {
    match end.kind {
        "node" => {
            let node = cx.directory.fence().node(&end.node);
            let mut addresses: BTreeSet<IpAddr> = node
                .map(|n| n.addresses.iter().copied().collect())
                .unwrap_or_default();
            addresses.extend(end.address.parse::<IpAddr>().ok());
            Some(Who::Nodes(addresses))
        }
        "" if !end.namespace.is_empty() => {
            let pod = fence_pod(cx, &format!("{}/{}", end.namespace, end.pod));
            match pod {
                Some(pod) if pod.host_network => Some(Who::Nodes(pod.addresses.iter().copied().collect())),
                Some(pod) => Some(Who::Pods(end.namespace.to_string(), lasting(&pod.labels))),
                // Its labels are not known any more: all of its namespace.
                None => Some(Who::Pods(end.namespace.to_string(), Own::new())),
            }
        }
        _ => None,
    }
}

fn shown(end: &FlowEnd) -> String {
    match &*end.namespace {
        "" => end.address.clone(),
        namespace => format!("{namespace}/{}", end.pod),
    }
}

/// `None`: of every namespace.
pub(super) fn pods(namespaces: Option<BTreeSet<String>>, selector: Selector) -> Peer {
    let named = |names| Selector {
        match_expressions: vec![Expression {
            key: NAME_LABEL.to_owned(),
            operator: Operator::In(names),
        }],
        ..Selector::default()
    };
    Peer::Pods {
        namespaces: Some(namespaces.map(named).unwrap_or_default()),
        pods: Some(selector).filter(|s| !s.is_empty()),
    }
}

fn block(address: IpAddr) -> Option<Peer> {
    IpBlock::new(&whole(address)).ok().map(Peer::Block)
}

/// An address as a range.
pub(super) fn whole(address: IpAddr) -> String {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    format!("{address}/{bits}")
}

fn ports(asked: &BTreeSet<(Protocol, u16)>) -> Vec<Port> {
    let port = |(protocol, port): &(Protocol, u16)| Port {
        protocol: *protocol,
        number: PortNumber::Range(*port, *port),
    };
    asked.iter().map(port).collect()
}
