//! A node that reports what a test says happened in each second, and a world that judges it.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "shared by the test files, each uses its part"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use partywall_aggregator_core::breach::{Breach, BreachState};
use partywall_aggregator_core::identity::{Cluster, PodObject, Resources};
use partywall_aggregator_core::policy::Policy;
use partywall_aggregator_core::report::{
    AgentCost, Coverage, CpuSample, Entity, EntityKind, Flow, FlowSample, FoldedTraffic, LedgerRow,
    MemorySample, OomKill, OomScope, Outcome, Receipt, Report, RunKey, Traffic, UnknownReason,
};
use partywall_aggregator_core::snapshot::{PodView, Snapshot};
use partywall_aggregator_core::{Now, World};

pub const S: u64 = 1_000_000_000;
pub const MS: u64 = 1_000_000;
pub const MIB: u64 = 1 << 20;

/// What happened in one second. Entities by index, times in milliseconds.
#[derive(Clone, Copy, Debug)]
pub enum Did {
    Ran(u32, u64),
    /// The first waited while the second ran.
    Waited(u32, u32, u64),
    WaitedForItself(u32, u64),
    Idle(u32, u64),
    Throttled(u32, u64),
    Unresolved(u32, u64),
}
pub use Did::{Idle, Ran, Throttled, Unresolved, Waited, WaitedForItself};

#[derive(Default, Clone)]
struct Counters {
    cpu: CpuSample,
    row: LedgerRow,
    pairs: BTreeMap<u32, u64>,
}

pub struct Sim {
    pub world: World,
    pub cluster: Cluster,
    pub node: &'static str,
    pub run: RunKey,
    pub sequence: u64,
    pub boot_ns: u64,
    pub now: Now,
    counters: BTreeMap<u32, Counters>,
    kinds: BTreeMap<u32, EntityKind>,
    next: u32,
    announce: Vec<Entity>,
    end: Vec<(u32, u64)>,
    memory: BTreeMap<u32, MemorySample>,
    memory_changed: BTreeSet<u32>,
    kills: Vec<OomKill>,
    next_flow: u32,
    new_flows: Vec<Flow>,
    pub flows: BTreeMap<u32, (Flow, Traffic)>,
    flows_changed: BTreeSet<u32>,
    flows_ended: Vec<u32>,
    pub folded: BTreeMap<u32, Traffic>,
    /// Every change of a breach, with the second it happened in.
    pub log: Vec<(u64, Breach)>,
    pub second: u64,
}

impl Sim {
    pub fn new(policy: &str) -> Self {
        let now = Now {
            mono_ns: 1_000 * S,
            unix_ns: 1_700_000_000 * S,
        };
        let mut sim = Self {
            world: World::new("test".into(), Policy::from_yaml(policy).expect("policy")),
            cluster: Cluster::default(),
            node: "node-a",
            run: RunKey {
                boot_id: "boot".into(),
                agent_start_unix_ns: 1,
            },
            sequence: 0,
            boot_ns: 50 * S,
            now,
            counters: BTreeMap::new(),
            kinds: BTreeMap::new(),
            next: 1,
            announce: Vec::new(),
            end: Vec::new(),
            memory: BTreeMap::new(),
            memory_changed: BTreeSet::new(),
            kills: Vec::new(),
            next_flow: 1,
            new_flows: Vec::new(),
            flows: BTreeMap::new(),
            flows_changed: BTreeSet::new(),
            flows_ended: Vec::new(),
            folded: BTreeMap::new(),
            log: Vec::new(),
            second: 0,
        };
        // The agent's first report closes no interval.
        sim.report(&[]);
        sim
    }

    /// A pod in the cluster data and on the node, with a CPU request in millicores.
    pub fn pod(&mut self, namespace: &str, name: &str, request_m: u64) -> u32 {
        self.object(namespace, name, request_m);
        self.entity(EntityKind::Pod(Arc::from(uid(namespace, name))))
    }

    /// Only the object.
    pub fn object(&mut self, namespace: &str, name: &str, request_m: u64) {
        self.cluster.pods.push(Arc::new(PodObject {
            uid: uid(namespace, name),
            namespace: namespace.into(),
            name: name.into(),
            node: Some(self.node.into()),
            requests: Resources {
                cpu_ncores: request_m * 1_000_000,
                memory_bytes: 0,
            },
            ..PodObject::default()
        }));
        self.publish();
    }

    /// A pod as [`Sim::pod`], with a memory request in MiB and no CPU request.
    pub fn memory_pod(&mut self, namespace: &str, name: &str, request_mib: u64) -> u32 {
        self.object(namespace, name, 0);
        let pod = Arc::make_mut(self.cluster.pods.last_mut().expect("just pushed"));
        pod.requests.memory_bytes = request_mib * MIB;
        self.publish();
        self.entity(EntityKind::Pod(Arc::from(uid(namespace, name))))
    }

    /// Changes an entity's memory as it is reported next.
    pub fn memory(&mut self, entity: u32, change: impl FnOnce(&mut MemorySample)) {
        let sample = self.memory.entry(entity).or_insert(MemorySample {
            entity,
            ..MemorySample::default()
        });
        change(sample);
        self.memory_changed.insert(entity);
    }

    /// What it holds, in MiB: in all, and as its working set.
    pub fn holds(&mut self, entity: u32, current_mib: u64, working_set_mib: u64) {
        self.memory(entity, |m| {
            m.current_bytes = Some(current_mib * MIB);
            m.working_set_bytes = Some(working_set_mib * MIB);
        });
    }

    /// A task was killed in the middle of the second that is reported next.
    pub fn kill(&mut self, trigger: u32, victim: u32, scope: OomScope) {
        self.kills.push(OomKill {
            at_boot_ns: self.boot_ns + 500 * MS,
            trigger,
            victim,
            scope,
        });
    }

    pub fn publish(&mut self) {
        self.world.set_cluster(Arc::new(self.cluster.clone()), self.now);
    }

    pub fn host(&mut self, path: &str) -> u32 {
        self.entity(EntityKind::Host(Arc::from(path)))
    }

    pub fn unknown(&mut self, reason: UnknownReason) -> u32 {
        self.entity(EntityKind::Unknown(reason))
    }

    pub fn entity(&mut self, kind: EntityKind) -> u32 {
        let index = self.next;
        self.next += 1;
        self.announce.push(Entity {
            index,
            kind: kind.clone(),
            born_boot_ns: 0,
        });
        self.kinds.insert(index, kind);
        self.counters.insert(index, Counters::default());
        index
    }

    pub fn ends(&mut self, index: u32) {
        self.end.push((index, 0));
        self.kinds.remove(&index);
    }

    /// As an agent that saw it made and removed reports it: `from_ms` and `to_ms` into the second that is reported next.
    pub fn lives(&mut self, index: u32, from_ms: u64, to_ms: u64) {
        let born_boot_ns = self.boot_ns + from_ms * MS;
        self.announce
            .iter_mut()
            .filter(|e| e.index == index)
            .for_each(|e| e.born_boot_ns = born_boot_ns);
        self.end.push((index, self.boot_ns + to_ms * MS));
        self.kinds.remove(&index);
    }

    /// All live entities will be announced again.
    pub fn announce_all(&mut self) {
        self.announce = self
            .kinds
            .iter()
            .map(|(i, k)| Entity {
                index: *i,
                kind: k.clone(),
                born_boot_ns: 0,
            })
            .collect();
    }

    /// Another run of the agent: counters begin at zero, everything is announced. Its first report is yet to be made.
    pub fn restart_agent(&mut self) {
        self.run.agent_start_unix_ns += 1;
        self.sequence = 0;
        self.counters.values_mut().for_each(|c| *c = Counters::default());
        self.end.clear();
        self.announce_all();
    }

    pub fn make_report(&mut self, did: &[Did]) -> Report {
        let mut changed: Vec<u32> = Vec::new();
        for d in did {
            let (who, ms) = match *d {
                Ran(a, ms)
                | WaitedForItself(a, ms)
                | Idle(a, ms)
                | Throttled(a, ms)
                | Unresolved(a, ms)
                | Waited(a, _, ms) => (a, ms),
            };
            let c = self.counters.get_mut(&who).expect("entity");
            let ns = ms * MS;
            match *d {
                Ran(..) => c.cpu.run_ns += ns,
                Waited(_, runner, _) => *c.pairs.entry(runner).or_default() += ns,
                WaitedForItself(..) => c.row.self_ns += ns,
                Idle(..) => c.row.idle_ns += ns,
                Throttled(..) => c.row.throttled_ns += ns,
                Unresolved(..) => c.row.unresolved_ns += ns,
            }
            if !matches!(d, Ran(..)) {
                c.cpu.wait_ns += ns;
                c.cpu.waits.resize(11, 0);
                c.cpu.waits[10] += ms; // each wait one millisecond long
            }
            if !changed.contains(&who) {
                changed.push(who);
            }
        }
        let waits: BTreeSet<(u32, u32)> = did
            .iter()
            .filter_map(|d| {
                if let Waited(a, b, _) = d {
                    Some((*a, *b))
                } else {
                    None
                }
            })
            .collect();
        self.sequence += 1;
        let sample = |i: &u32| CpuSample {
            entity: *i,
            ..self.counters[i].cpu.clone()
        };
        let row = |i: &u32| {
            let c = &self.counters[i];
            let met = |runner: &u32| waits.contains(&(*i, *runner));
            LedgerRow {
                waiter: *i,
                runners: c.pairs.keys().filter(|r| met(r)).copied().collect(),
                ran_ns: c
                    .pairs
                    .iter()
                    .filter(|(r, _)| met(r))
                    .map(|(_, ns)| *ns)
                    .collect(),
                ..c.row.clone()
            }
        };
        Report {
            node: Arc::from(self.node),
            run: self.run.clone(),
            sequence: self.sequence,
            captured_unix_ns: self.now.unix_ns,
            clock_offset_ns: None,
            waited_ns: None,
            captured_boot_ns: self.boot_ns,
            online_cpus: 2,
            entities: std::mem::take(&mut self.announce),
            ended: self.end.iter().map(|(i, _)| *i).collect(),
            ended_boot_ns: std::mem::take(&mut self.end)
                .into_iter()
                .map(|(_, at)| at)
                .collect(),
            cpu: changed.iter().map(sample).collect(),
            ledger: changed.iter().map(row).collect(),
            memory: std::mem::take(&mut self.memory_changed)
                .iter()
                .map(|i| self.memory[i])
                .collect(),
            oom_kills: std::mem::take(&mut self.kills),
            flows: std::mem::take(&mut self.new_flows),
            flow_samples: std::mem::take(&mut self.flows_changed)
                .iter()
                .map(|i| FlowSample {
                    flow: *i,
                    traffic: self.flows[i].1,
                })
                .collect(),
            flows_ended: std::mem::take(&mut self.flows_ended),
            folded: self
                .folded
                .iter()
                .map(|(entity, traffic)| FoldedTraffic {
                    entity: *entity,
                    traffic: *traffic,
                })
                .collect(),
            coverage: Coverage::default(),
            cost: AgentCost::default(),
        }
    }

    pub fn report(&mut self, did: &[Did]) -> Receipt {
        let report = self.make_report(did);
        self.world.ingest(report, self.now)
    }

    /// Time passes; nothing is reported or judged.
    pub fn pass(&mut self, ns: u64) {
        self.boot_ns += ns;
        self.now = Now {
            mono_ns: self.now.mono_ns + ns,
            unix_ns: self.now.unix_ns + ns,
        };
    }

    pub fn judge(&mut self) -> Vec<Breach> {
        self.second += 1;
        let changes = self.world.judge(self.now).breaches;
        self.log.extend(changes.iter().map(|b| (self.second, b.clone())));
        changes
    }

    /// One second in which `did` happened, reported and judged.
    pub fn tick(&mut self, did: &[Did]) -> Vec<Breach> {
        self.pass(S);
        let receipt = self.report(did);
        assert_eq!(receipt.outcome, Outcome::Accepted);
        self.judge()
    }

    /// The same for `seconds` seconds.
    pub fn ticks(&mut self, seconds: u64, did: &[Did]) {
        for _ in 0..seconds {
            self.tick(did);
        }
    }

    pub fn snapshot(&mut self) -> Snapshot {
        self.world.snapshot("", true, self.now)
    }

    pub fn view(&mut self, name: &str) -> PodView {
        let snapshot = self.snapshot();
        snapshot
            .pods
            .into_iter()
            .find(|p| &*p.name == name)
            .unwrap_or_else(|| panic!("no pod {name}"))
    }

    /// "kind tenant>against subject" of every breach that is firing now.
    pub fn firing(&self) -> Vec<String> {
        self.world
            .book()
            .live()
            .iter()
            .filter(|b| b.state == BreachState::Firing)
            .map(describe)
            .collect()
    }

    /// The same of every breach that ever fired.
    pub fn fired(&self) -> Vec<String> {
        let mut out: Vec<_> = self
            .log
            .iter()
            .filter(|(_, b)| b.state == BreachState::Firing)
            .map(|(_, b)| describe(b))
            .collect();
        out.sort();
        out.dedup();
        out
    }

    /// The second in which the first breach of this kind reached this state.
    pub fn second_of(&self, kind: &str, state: BreachState) -> Option<u64> {
        self.log
            .iter()
            .find(|(_, b)| b.key.kind.as_str() == kind && b.state == state)
            .map(|(s, _)| *s)
    }
}

pub fn uid(namespace: &str, name: &str) -> String {
    format!("uid-{namespace}-{name}")
}

pub fn describe(b: &Breach) -> String {
    let k = &b.key;
    format!("{} {}>{} {}", k.kind, k.tenant, k.against, k.subject)
}
