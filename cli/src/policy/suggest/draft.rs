//! What a group of pods has to admit in one direction, collected flow by flow; then the rules.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use partywall_aggregator_core::fence::{
    Direction, End, Expression, IpBlock, Operator, Peer, Port, PortNumber, Rule, Selector, Traffic,
};
use partywall_aggregator_core::identity::Protocol;

use super::super::seen::Seen;
use super::groups::Groups;
use super::scene::Scene;
use super::tally::Tally;
use super::wish::is_within_tenant;

const NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// Where clusters have their DNS.
const DNS_NAMESPACE: &str = "kube-system";
const DNS: [(Protocol, u16); 2] = [(Protocol::Tcp, 53), (Protocol::Udp, 53)];

type Ports = BTreeSet<(Protocol, u16)>;

/// Who a rule names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    /// Namespace; which of its groups, or all of it where the pod's labels are not known.
    Pods(String, Option<usize>),
    /// All addresses of one end.
    Block(Blocks, BTreeSet<IpAddr>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Blocks {
    Nodes,
    Named,
    Outside,
}

#[derive(Default)]
pub(super) struct Draft {
    own: Tally,
    dns: Tally,
    others: BTreeMap<Who, (Ports, Tally)>,
}

/// A rule and what its comment says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Noted {
    pub rule: Rule,
    pub note: String,
}

impl Draft {
    pub(super) fn keep(
        &mut self,
        traffic: &Traffic<'_>,
        seen: &Seen,
        direction: Direction,
        scene: &Scene,
        groups: &Groups,
    ) {
        let (other, named) = match direction {
            Direction::Ingress => (&traffic.from, &seen.flow.from),
            Direction::Egress => (&traffic.to, &seen.flow.to),
        };
        let port = (traffic.protocol, traffic.port);
        let mut note = |who: Who, ports: Ports| {
            let (known, tally) = self.others.entry(who).or_default();
            known.extend(ports);
            tally.add(seen, named);
        };
        match other {
            End::Pod(pod) if !pod.host_network => {
                let namespace = &*pod.namespace.name;
                if is_within_tenant(traffic, scene) {
                    self.own.add(seen, named);
                } else if direction == Direction::Egress && namespace == DNS_NAMESPACE && DNS.contains(&port)
                {
                    self.dns.add(seen, named);
                } else {
                    note(
                        Who::Pods(namespace.to_owned(), groups.of(pod)),
                        Ports::from([port]),
                    );
                }
            }
            _ => {
                let class = match (other, named.kind.as_str()) {
                    (End::Address(_), "outside") => Blocks::Outside,
                    (End::Address(_), "pod_identity" | "link_local") => Blocks::Named,
                    _ => Blocks::Nodes,
                };
                let addresses = addresses(other, seen, direction);
                // Nothing can name it; a rule without peers would name everybody.
                if !addresses.is_empty() {
                    note(Who::Block(class, addresses), Ports::from([port]));
                }
            }
        }
    }

    /// The tenant's own namespaces first, then what others have in use.
    pub(super) fn rules(
        self,
        direction: Direction,
        namespace: &str,
        scene: &Scene,
        groups: &Groups,
    ) -> Vec<Noted> {
        let tenant = scene.tenant_of(namespace);
        let mut rules = vec![Noted {
            rule: Rule {
                peers: vec![pods(scene.namespaces_of(tenant, namespace), &Selector::default())],
                ports: Vec::new(),
            },
            note: format!("namespaces of tenant {tenant}: {}", self.own.words(direction)),
        }];
        if direction == Direction::Egress {
            rules.push(Noted {
                rule: Rule {
                    peers: vec![pods(
                        BTreeSet::from([DNS_NAMESPACE.to_owned()]),
                        &Selector::default(),
                    )],
                    ports: ports(&Ports::from(DNS)),
                },
                note: format!("DNS: {}", self.dns.words(direction)),
            });
        }
        let mut blocks: BTreeMap<(Blocks, Ports), (BTreeSet<IpAddr>, Tally)> = BTreeMap::new();
        for (who, (asked, tally)) in self.others {
            match who {
                Who::Pods(namespace, group) => rules.push(other_pods(
                    namespace,
                    group,
                    &asked,
                    &tally.words(direction),
                    scene,
                    groups,
                )),
                Who::Block(class, of_end) => {
                    let (addresses, sum) = blocks.entry((class, asked)).or_default();
                    addresses.extend(of_end);
                    sum.merge(tally);
                }
            }
        }
        rules.extend(blocks.into_iter().map(|((class, asked), (addresses, tally))| {
            let what = match class {
                Blocks::Nodes => "nodes and what shares their addresses; a new node has another one",
                Blocks::Named => "of the node itself",
                Blocks::Outside => "outside of the cluster",
            };
            Noted {
                rule: Rule {
                    peers: addresses.into_iter().filter_map(block).collect(),
                    ports: ports(&asked),
                },
                note: format!("{what}: {}", tally.words(direction)),
            }
        }));
        // To NetworkPolicy no peers are everybody.
        rules.retain(|noted| !noted.rule.peers.is_empty());
        rules
    }
}

fn other_pods(
    namespace: String,
    group: Option<usize>,
    asked: &Ports,
    used: &str,
    scene: &Scene,
    groups: &Groups,
) -> Noted {
    let tenant = scene.tenant_of(&namespace);
    let selector = group.and_then(|i| groups.all.get(i)).map(|g| &g.selector);
    let which = match selector {
        Some(selector) if !selector.is_empty() => format!("{namespace}, pods with {selector}"),
        Some(_) => namespace.clone(),
        None => format!("{namespace}, all of it: its pod is gone"),
    };
    Noted {
        note: format!("tenant {tenant}, {which}: {used}"),
        rule: Rule {
            peers: vec![pods(
                BTreeSet::from([namespace]),
                selector.unwrap_or(&Selector::default()),
            )],
            ports: ports(asked),
        },
    }
}

/// Those that the flow bears, and those by which the fence knows the end: a node may use any of its own.
fn addresses(end: &End<'_>, seen: &Seen, direction: Direction) -> BTreeSet<IpAddr> {
    let told = match direction {
        Direction::Ingress => seen.from,
        Direction::Egress if seen.flow.to.kind == "service" => None,
        Direction::Egress => seen.to,
    };
    let known = match end {
        End::Pod(pod) => pod.addresses.clone(),
        End::Address(address) | End::Node(_, Some(address)) => vec![*address],
        End::Node(node, None) => node.addresses.clone(),
    };
    let is_family = |a: &IpAddr| told.or(seen.to).is_none_or(|t| t.is_ipv4() == a.is_ipv4());
    known.into_iter().filter(is_family).chain(told).collect()
}

fn pods(namespaces: BTreeSet<String>, selector: &Selector) -> Peer {
    let namespaces = Selector {
        match_expressions: vec![Expression {
            key: NAME_LABEL.to_owned(),
            operator: Operator::In(namespaces),
        }],
        ..Selector::default()
    };
    Peer::Pods {
        namespaces: Some(namespaces),
        pods: Some(selector.clone()).filter(|s| !s.is_empty()),
    }
}

fn block(address: IpAddr) -> Option<Peer> {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    IpBlock::new(&format!("{address}/{bits}")).ok().map(Peer::Block)
}

fn ports(asked: &Ports) -> Vec<Port> {
    let port = |(protocol, port): &(Protocol, u16)| Port {
        protocol: *protocol,
        number: PortNumber::Range(*port, *port),
    };
    asked.iter().map(port).collect()
}
