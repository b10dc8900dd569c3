//! A cluster of several nodes whose agents report flows as a test says they were, and a world that judges them.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "shared by the test files, each uses its part"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use partywall_aggregator_core::breach::{Breach, BreachState};
use partywall_aggregator_core::fence::{NetworkPolicy, Peer, Rule, Selector};
use partywall_aggregator_core::identity::{Cluster, Namespace, NodeObject, PodObject};
use partywall_aggregator_core::policy::Policy;
use partywall_aggregator_core::report::{
    AgentCost, Coverage, Entity, EntityKind, Feature, Flow, FlowSample, FoldedTraffic, Outcome, Receipt,
    Report, Role, RunKey, Traffic,
};
use partywall_aggregator_core::traffic::{FlowFilter, FlowView, Verdict};
use partywall_aggregator_core::{Now, World};

pub const S: u64 = 1_000_000_000;
pub const MS: u64 = 1_000_000;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

#[derive(Default)]
pub struct Agent {
    pub start: u64,
    pub sequence: u64,
    next_entity: u32,
    next_flow: u32,
    kinds: BTreeMap<u32, EntityKind>,
    new_entities: Vec<Entity>,
    pub flows: BTreeMap<u32, (Flow, Traffic)>,
    new_flows: Vec<Flow>,
    changed: BTreeSet<u32>,
    ended: Vec<u32>,
    folded: BTreeMap<u32, Traffic>,
    /// Does not reach the aggregator: its reports are kept.
    pub cut_off: bool,
    kept: Vec<Report>,
}

/// Whose report of a second is judged first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// All at one instant: nothing is ever judged between two ends' words.
    Together,
    /// This node's is judged before any other's.
    First(&'static str),
}

impl Order {
    pub const ALL: [Self; 3] = [Self::Together, Self::First("node-a"), Self::First("node-b")];

    /// The same cases are run under each order, by a test target of its own.
    fn of_target() -> Self {
        match env!("CARGO_CRATE_NAME") {
            "flows_opener_first" => Self::First("node-a"),
            "flows_receiver_first" => Self::First("node-b"),
            _ => Self::Together,
        }
    }
}

/// A pod on a node, as its agent knows it.
#[derive(Clone, Copy, Debug)]
pub struct Pod {
    pub node: &'static str,
    pub entity: u32,
    pub address: IpAddr,
}

/// Between tenants by verdict, unattributed by reason, folded.
pub type Bytes = (
    BTreeMap<(String, String, Verdict), u64>,
    BTreeMap<&'static str, u64>,
    u64,
);

pub struct Net {
    pub world: World,
    pub cluster: Cluster,
    pub agents: BTreeMap<&'static str, Agent>,
    pub now: Now,
    pub log: Vec<(u64, Breach)>,
    pub half: u64,
    pub order: Order,
    /// Seconds between two reports of an agent.
    pub interval: u64,
    /// What the aggregator's wall clock was set by in all: the nodes' go on.
    set_ns: i64,
    seconds: u64,
}

pub fn traffic(sent: (u64, u64), received: (u64, u64)) -> Traffic {
    Traffic {
        sent_packets: sent.0,
        sent_bytes: sent.1,
        received_packets: received.0,
        received_bytes: received.1,
        ..Traffic::default()
    }
}

fn boot_ns(now: Now) -> u64 {
    now.mono_ns - 900 * S
}

impl Net {
    pub fn new(policy: &str) -> Self {
        let now = Now {
            mono_ns: 1_000 * S,
            unix_ns: 1_700_000_000 * S,
        };
        let mut net = Self {
            world: World::new("test".into(), Policy::from_yaml(policy).expect("policy")),
            cluster: Cluster::default(),
            agents: BTreeMap::new(),
            now,
            log: Vec::new(),
            half: 0,
            order: Order::of_target(),
            interval: 1,
            set_ns: 0,
            seconds: 0,
        };
        for (node, address) in [("node-a", "192.168.0.1"), ("node-b", "192.168.0.2")] {
            net.cluster.nodes.push(NodeObject {
                name: node.into(),
                addresses: vec![ip(address)],
                ..NodeObject::default()
            });
            net.agents.insert(node, Agent::default());
        }
        for name in ["red", "blue", "green", "kube-system"] {
            net.cluster.namespaces.push(Namespace {
                name: name.into(),
                ..Namespace::default()
            });
        }
        net.publish();
        net.tick();
        net
    }

    pub fn publish(&mut self) {
        self.world.set_cluster(Arc::new(self.cluster.clone()), self.now);
    }

    pub fn object(&mut self, namespace: &str, name: &str, node: &str, addresses: &[&str]) {
        self.cluster.pods.push(Arc::new(PodObject {
            uid: format!("uid-{namespace}-{name}"),
            namespace: namespace.into(),
            name: name.into(),
            node: Some(node.into()),
            addresses: addresses.iter().map(|a| ip(a)).collect(),
            labels: Arc::new(BTreeMap::from([("app".to_owned(), name.to_owned())])),
            ..PodObject::default()
        }));
        self.publish();
    }

    /// A pod in the cluster data and on its node.
    pub fn pod(&mut self, namespace: &str, name: &str, node: &'static str, address: &str) -> Pod {
        self.object(namespace, name, node, &[address]);
        let uid = format!("uid-{namespace}-{name}");
        self.runs(node, EntityKind::Pod(uid.into()), address)
    }

    pub fn runs(&mut self, node: &'static str, kind: EntityKind, address: &str) -> Pod {
        let agent = self.agents.get_mut(node).expect("node");
        agent.next_entity += 1;
        agent.kinds.insert(agent.next_entity, kind.clone());
        agent.new_entities.push(Entity {
            index: agent.next_entity,
            kind,
            born_boot_ns: 0,
        });
        Pod {
            node,
            entity: agent.next_entity,
            address: ip(address),
        }
    }

    pub fn host(&mut self, node: &'static str, address: &str) -> Pod {
        self.runs(
            node,
            EntityKind::Host("/system.slice/kubelet.service".into()),
            address,
        )
    }

    pub fn flow(&mut self, of: Pod, role: Role, local: IpAddr, peer: IpAddr, protocol: u8, port: u16) -> u32 {
        let agent = self.agents.get_mut(of.node).expect("node");
        let known = agent.flows.iter().find(|(_, (f, _))| {
            (f.entity, f.role, f.local, f.peer, f.protocol, f.port)
                == (of.entity, role, local, peer, protocol, port)
        });
        if let Some((index, _)) = known {
            return *index;
        }
        agent.next_flow += 1;
        let flow = Flow {
            index: agent.next_flow,
            entity: of.entity,
            local,
            peer,
            protocol,
            port,
            role,
        };
        agent.flows.insert(flow.index, (flow, Traffic::default()));
        agent.new_flows.push(flow);
        flow.index
    }

    pub fn grows(&mut self, of: Pod, flow: u32, by: Traffic) {
        let agent = self.agents.get_mut(of.node).expect("node");
        let (_, traffic) = agent.flows.get_mut(&flow).expect("flow");
        *traffic = traffic.plus(&by);
        agent.changed.insert(flow);
    }

    pub fn opens(&mut self, from: Pod, to: IpAddr, protocol: u8, port: u16, by: Traffic) -> u32 {
        let flow = self.flow(from, Role::Opened, from.address, to, protocol, port);
        self.grows(from, flow, by);
        flow
    }

    pub fn accepts(&mut self, to: Pod, from: IpAddr, protocol: u8, port: u16, by: Traffic) -> u32 {
        let flow = self.flow(to, Role::Accepted, to.address, from, protocol, port);
        self.grows(to, flow, by);
        flow
    }

    /// One TCP connection that both ends see: `bytes` from who opens, 100 back, ten packets each way.
    pub fn connects(&mut self, from: Pod, to: Pod, port: u16, bytes: u64) {
        let mut by = traffic((10, bytes), (10, 100));
        (by.opened, by.established) = (1, 1);
        self.opens(from, to.address, TCP, port, by);
        let mut by = traffic((10, bytes), (10, 100)).turned();
        by.established = 1;
        self.accepts(to, from.address, TCP, port, by);
    }

    /// More over a connection that was made before.
    pub fn sends(&mut self, from: Pod, to: Pod, port: u16, bytes: u64) {
        let by = traffic((10, bytes), (10, 100));
        self.opens(from, to.address, TCP, port, by);
        self.accepts(to, from.address, TCP, port, by.turned());
    }

    /// One that nobody answers.
    pub fn tries(&mut self, from: Pod, to: IpAddr, port: u16) {
        let mut by = traffic((1, 60), (0, 0));
        by.opened = 1;
        self.opens(from, to, TCP, port, by);
    }

    pub fn folds(&mut self, of: Pod, by: Traffic) {
        let agent = self.agents.get_mut(of.node).expect("node");
        let sum = agent.folded.entry(of.entity).or_default();
        *sum = sum.plus(&by);
    }

    pub fn ends(&mut self, of: Pod, flow: u32) {
        let agent = self.agents.get_mut(of.node).expect("node");
        agent.ended.push(flow);
        agent.changed.remove(&flow);
        agent.flows.remove(&flow);
    }

    /// The agent of a node is started again: its counters begin anew.
    pub fn restart(&mut self, node: &'static str) {
        let agent = self.agents.get_mut(node).expect("node");
        *agent = Agent {
            start: agent.start + 1,
            ..Agent::default()
        };
    }

    pub fn make_report(&mut self, node: &'static str) -> Report {
        let now = self.now;
        let agent = self.agents.get_mut(node).expect("node");
        agent.sequence += 1;
        let sample = |i: &u32| FlowSample {
            flow: *i,
            traffic: agent.flows[i].1,
        };
        let flow_samples = agent.changed.iter().map(sample).collect();
        agent.changed.clear();
        Report {
            node: Arc::from(node),
            run: RunKey {
                boot_id: "boot".into(),
                agent_start_unix_ns: agent.start,
            },
            sequence: agent.sequence,
            captured_unix_ns: now.unix_ns.checked_add_signed(-self.set_ns).expect("after 1970"),
            clock_offset_ns: None,
            waited_ns: None,
            captured_boot_ns: boot_ns(now),
            online_cpus: 2,
            entities: std::mem::take(&mut agent.new_entities),
            ended: Vec::new(),
            ended_boot_ns: Vec::new(),
            cpu: Vec::new(),
            ledger: Vec::new(),
            memory: Vec::new(),
            oom_kills: Vec::new(),
            flows: std::mem::take(&mut agent.new_flows),
            flow_samples,
            flows_ended: std::mem::take(&mut agent.ended),
            folded: agent
                .folded
                .iter()
                .map(|(entity, traffic)| FoldedTraffic {
                    entity: *entity,
                    traffic: *traffic,
                })
                .collect(),
            coverage: Coverage {
                features: vec![Feature {
                    name: "flows".into(),
                    present: true,
                    reason: String::new(),
                }],
                losses: Vec::new(),
            },
            cost: AgentCost::default(),
        }
    }

    pub fn pass(&mut self, ns: u64) {
        self.now = Now {
            mono_ns: self.now.mono_ns + ns,
            unix_ns: self.now.unix_ns + ns,
        };
    }

    /// The aggregator's wall clock is set forward or back.
    pub fn set_clock(&mut self, by_ns: i64) {
        self.set_ns += by_ns;
        self.now.unix_ns = self.now.unix_ns.checked_add_signed(by_ns).expect("after 1970");
    }

    pub fn report(&mut self, node: &'static str) -> Vec<Receipt> {
        let report = self.make_report(node);
        let agent = self.agents.get_mut(node).expect("node");
        agent.kept.push(report);
        if agent.cut_off {
            return Vec::new();
        }
        let kept = std::mem::take(&mut agent.kept);
        let boot_ns = boot_ns(self.now);
        let sent = kept.into_iter().map(|report| {
            let waited_ns = Some(boot_ns - report.captured_boot_ns);
            self.world.ingest(Report { waited_ns, ..report }, self.now)
        });
        sent.collect()
    }

    /// What a node that is cut off kept is gone, as when its queue overflows.
    pub fn loses(&mut self, node: &'static str) {
        self.agents.get_mut(node).expect("node").kept.clear();
    }

    pub fn judge(&mut self) {
        let changes = self.world.judge(self.now).breaches;
        self.log.extend(changes.into_iter().map(|b| (self.half, b)));
        self.half += 1;
    }

    /// One second: every agent reports, and all is judged twice.
    pub fn tick(&mut self) {
        let nodes: Vec<&'static str> = self.agents.keys().copied().collect();
        match self.order {
            Order::Together => {
                self.pass(500 * MS);
                self.judge();
                self.pass(500 * MS);
                self.all_report(&nodes);
            }
            Order::First(first) => {
                let (before, after): (Vec<_>, Vec<_>) = nodes.into_iter().partition(|n| *n == first);
                self.pass(200 * MS);
                self.all_report(&before);
                self.pass(300 * MS);
                self.judge();
                self.pass(200 * MS);
                self.all_report(&after);
                self.pass(300 * MS);
            }
        }
        self.judge();
        self.seconds += 1;
    }

    fn all_report(&mut self, nodes: &[&'static str]) {
        for node in nodes {
            // Half an interval apart.
            let at = if *node == "node-b" { self.interval / 2 } else { 0 };
            if self.seconds % self.interval != at {
                continue;
            }
            for receipt in self.report(node) {
                assert_eq!(receipt.outcome, Outcome::Accepted);
            }
        }
    }

    pub fn ticks(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.tick();
        }
    }

    /// NetworkPolicy `namespace`/`name` that isolates all pods for ingress, and admits pods of these namespaces only.
    pub fn isolate(&mut self, namespace: &str, name: &str, admits: &[&str]) {
        let peers = admits.iter().map(|n| Peer::Pods {
            namespaces: Some(label("kubernetes.io/metadata.name", n)),
            pods: None,
        });
        let rules = if admits.is_empty() {
            Vec::new()
        } else {
            vec![Rule {
                peers: peers.collect(),
                ports: Vec::new(),
            }]
        };
        self.cluster.network_policies.push(Arc::new(NetworkPolicy {
            namespace: namespace.into(),
            name: name.into(),
            pods: Selector::default(),
            ingress: Some(rules),
            egress: None,
        }));
        self.publish();
    }

    pub fn flows(&mut self) -> Vec<FlowView> {
        self.world.flows(&FlowFilter::default()).flows
    }

    /// "red/client>blue/web 80 open both" of every flow; ends without a pod by kind or reason.
    pub fn shown(&mut self) -> Vec<String> {
        let mut out: Vec<String> = self.flows().iter().map(show).collect();
        out.sort();
        out
    }

    /// Of breaches that fire now: "kind tenant>against".
    pub fn firing(&self) -> Vec<String> {
        let live = self.world.book().live();
        live.iter()
            .filter(|b| b.state == BreachState::Firing)
            .map(describe)
            .collect()
    }

    /// Of all that ever fired.
    pub fn fired(&self) -> Vec<String> {
        let fired = self.log.iter().filter(|(_, b)| b.state == BreachState::Firing);
        let set: BTreeSet<String> = fired.map(|(_, b)| describe(b)).collect();
        set.into_iter().collect()
    }

    pub fn breach(&self, kind: &str) -> Breach {
        let live = self.world.book().live();
        let found = live.into_iter().find(|b| b.key.kind.as_str() == kind);
        found.unwrap_or_else(|| panic!("no {kind}"))
    }

    /// (between tenants by verdict, unattributed, folded), in bytes.
    pub fn bytes(&mut self) -> Bytes {
        let s = self.world.snapshot("", false, self.now);
        (
            s.traffic
                .iter()
                .map(|t| ((t.from.to_string(), t.to.to_string(), t.verdict), t.bytes))
                .collect(),
            s.unattributed
                .iter()
                .map(|u| (u.reason.as_str(), u.bytes))
                .collect(),
            s.folded.iter().map(|f| f.bytes).sum(),
        )
    }

    pub fn all_bytes(&mut self) -> u64 {
        let (between, unattributed, folded) = self.bytes();
        between.values().sum::<u64>() + unattributed.values().sum::<u64>() + folded
    }
}

pub fn label(key: &str, value: &str) -> Selector {
    Selector {
        match_labels: BTreeMap::from([(key.to_owned(), value.to_owned())]),
        ..Selector::default()
    }
}

pub fn show(f: &FlowView) -> String {
    let end = |e: &partywall_aggregator_core::traffic::FlowEnd| match (e.unattributed, e.kind) {
        (Some(reason), _) => reason.to_string(),
        (None, "") => format!("{}/{}", e.namespace, e.pod),
        (None, "service") => format!("service {}/{}", e.namespace, e.pod),
        (None, kind) => kind.to_owned(),
    };
    format!(
        "{}>{} {} {} {}",
        end(&f.from),
        end(&f.to),
        f.port,
        f.verdict.as_str(),
        f.seen_by.as_str()
    )
}

pub fn describe(b: &Breach) -> String {
    format!(
        "{} {}>{} {}",
        b.key.kind, b.key.tenant, b.key.against, b.key.subject
    )
    .trim_end()
    .to_owned()
}

impl Agent {
    pub fn announce_all(&mut self) {
        self.new_entities = self
            .kinds
            .iter()
            .map(|(index, kind)| Entity {
                index: *index,
                kind: kind.clone(),
                born_boot_ns: 0,
            })
            .collect();
        self.new_flows = self.flows.values().map(|(flow, _)| *flow).collect();
        self.changed = self.flows.keys().copied().collect();
    }
}

impl Net {
    /// A flow that is surely new: no search for an old one.
    pub fn announces(&mut self, of: Pod, role: Role, peer: IpAddr, port: u16) -> u32 {
        let agent = self.agents.get_mut(of.node).expect("node");
        agent.next_flow += 1;
        let flow = Flow {
            index: agent.next_flow,
            entity: of.entity,
            local: of.address,
            peer,
            protocol: TCP,
            port,
            role,
        };
        agent.flows.insert(flow.index, (flow, Traffic::default()));
        agent.new_flows.push(flow);
        flow.index
    }
}
