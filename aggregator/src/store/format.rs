//! What is on disk, in the wire's encoding: fields are added, never given another meaning. [`VERSION`] changes where that does not do.

use std::sync::Arc;

use partywall_aggregator_core::checkpoint::{
    Checkpoint, ContainerState, EntryState, FrameState, Mark, SlotKind, SlotState,
};
use partywall_aggregator_core::report::{RunKey, UnknownReason};
use partywall_aggregator_core::snapshot::WaitTotal;
use prost::Message;

/// Of everything below.
pub(super) const VERSION: u64 = 1;

/// Records that were committed together, in order.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Batch {
    #[prost(message, repeated, tag = "1")]
    pub(super) records: Vec<Record>,
}

/// One thing that happened to a node.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Record {
    #[prost(string, tag = "1")]
    pub(super) cluster: String,
    #[prost(string, tag = "2")]
    pub(super) node: String,
    #[prost(oneof = "Event", tags = "3, 4, 5, 6")]
    pub(super) event: Option<Event>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Event {
    /// A `partywall.v1.Report` that was counted.
    #[prost(bytes, tag = "3")]
    Counted(Vec<u8>),
    /// One that was refused, but whose names stand.
    #[prost(bytes, tag = "4")]
    Refused(Vec<u8>),
    #[prost(message, tag = "5")]
    Folded(Folded),
    #[prost(bool, tag = "6")]
    Forgotten(bool),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Folded {
    #[prost(uint64, tag = "1")]
    up_to_boot_ns: u64,
    #[prost(uint64, tag = "2")]
    window_boot_ns: u64,
    #[prost(message, repeated, tag = "3")]
    names: Vec<Name>,
}

#[derive(Clone, PartialEq, Message)]
struct Name {
    #[prost(uint32, tag = "1")]
    index: u32,
    #[prost(string, tag = "2")]
    tenant: String,
}

impl Record {
    pub(super) fn of_mark(cluster: &str, mark: &Mark) -> Self {
        let event = match mark {
            Mark::Folded {
                up_to_boot_ns,
                window_boot_ns,
                names,
                ..
            } => Event::Folded(Folded {
                up_to_boot_ns: *up_to_boot_ns,
                window_boot_ns: *window_boot_ns,
                names: names
                    .iter()
                    .map(|(index, tenant)| Name {
                        index: *index,
                        tenant: tenant.to_string(),
                    })
                    .collect(),
            }),
            Mark::Forgotten { .. } => Event::Forgotten(true),
        };
        Self {
            cluster: cluster.to_owned(),
            node: mark.node().to_string(),
            event: Some(event),
        }
    }
}

impl Folded {
    pub(super) fn mark(self, node: &str) -> Mark {
        let names = self.names.into_iter();
        Mark::Folded {
            node: Arc::from(node),
            up_to_boot_ns: self.up_to_boot_ns,
            window_boot_ns: self.window_boot_ns,
            names: names.map(|n| (n.index, Arc::from(n.tenant))).collect(),
        }
    }
}

/// All that is kept under one name, up to a position of the journal: what is there from before is in it.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Saved {
    #[prost(uint64, tag = "1")]
    pub(super) position: u64,
    /// Absent: the node is not known any more, or this is of no node.
    #[prost(message, optional, tag = "2")]
    pub(super) node: Option<NodeState>,
    /// Of nodes that are not known any more.
    #[prost(message, repeated, tag = "3")]
    pub(super) waits: Vec<Waits>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct NodeState {
    #[prost(message, repeated, tag = "1")]
    runs: Vec<Run>,
    #[prost(uint64, tag = "2")]
    last_sequence: u64,
    #[prost(uint64, tag = "3")]
    last_boot_ns: u64,
    #[prost(uint32, tag = "4")]
    online_cpus: u32,
    #[prost(bool, tag = "5")]
    catching_up: bool,
    #[prost(uint64, tag = "6")]
    catch_up_until: u64,
    #[prost(bool, tag = "7")]
    counting: bool,
    #[prost(message, repeated, tag = "8")]
    entries: Vec<EntryRow>,
    #[prost(message, repeated, tag = "9")]
    slots: Vec<SlotRow>,
    #[prost(message, repeated, tag = "10")]
    containers: Vec<ContainerRow>,
    #[prost(message, repeated, tag = "11")]
    frames: Vec<FrameRow>,
    #[prost(message, repeated, tag = "12")]
    run: Vec<Total>,
    #[prost(message, repeated, tag = "13")]
    ledger: Vec<Total>,
    #[prost(message, repeated, tag = "14")]
    waits: Vec<Waits>,
    #[prost(uint64, tag = "15")]
    reports: u64,
    #[prost(uint64, tag = "16")]
    agent_runs: u64,
}

/// The agent's runs, oldest first; the last is the one that reports.
#[derive(Clone, PartialEq, Message)]
struct Run {
    #[prost(string, tag = "1")]
    boot_id: String,
    #[prost(uint64, tag = "2")]
    agent_start_unix_ns: u64,
    /// Of one that was replaced: the last that was counted.
    #[prost(uint64, tag = "3")]
    last_sequence: u64,
}

#[derive(Clone, PartialEq, Message)]
struct EntryRow {
    #[prost(uint32, tag = "1")]
    index: u32,
    #[prost(uint32, optional, tag = "2")]
    slot: Option<u32>,
    #[prost(fixed64, tag = "3")]
    meaning: u64,
}

#[derive(Clone, PartialEq, Message)]
struct SlotRow {
    #[prost(uint32, tag = "1")]
    slot: u32,
    #[prost(uint32, tag = "2")]
    index: u32,
    #[prost(oneof = "SlotIs", tags = "3, 4, 5")]
    is: Option<SlotIs>,
    #[prost(string, optional, tag = "6")]
    told: Option<String>,
    #[prost(uint64, tag = "7")]
    born_ns: u64,
    /// 0: lives.
    #[prost(uint64, tag = "8")]
    ended_ns: u64,
    #[prost(bool, tag = "9")]
    old: bool,
    #[prost(bool, tag = "10")]
    cpu_known: bool,
    #[prost(bool, tag = "11")]
    row_known: bool,
    #[prost(uint64, repeated, tag = "12")]
    last: Vec<u64>,
    /// Empty: none were told.
    #[prost(uint64, repeated, tag = "13")]
    waits: Vec<u64>,
    /// Three parallel lists.
    #[prost(uint32, repeated, tag = "14")]
    runners: Vec<u32>,
    #[prost(uint32, repeated, tag = "15")]
    runner_slots: Vec<u32>,
    #[prost(uint64, repeated, tag = "16")]
    ran_ns: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum SlotIs {
    #[prost(string, tag = "3")]
    Pod(String),
    #[prost(string, tag = "4")]
    Host(String),
    /// By the reason's name.
    #[prost(string, tag = "5")]
    Unknown(String),
}

#[derive(Clone, PartialEq, Message)]
struct ContainerRow {
    #[prost(uint32, tag = "1")]
    index: u32,
    #[prost(uint32, tag = "2")]
    pod: u32,
    #[prost(string, tag = "3")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct FrameRow {
    #[prost(uint64, tag = "1")]
    from_ns: u64,
    #[prost(uint64, tag = "2")]
    to_ns: u64,
    #[prost(bytes, tag = "3")]
    bytes: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Total {
    #[prost(string, tag = "1")]
    tenant: String,
    /// Of the ledger: who ran.
    #[prost(string, tag = "2")]
    runner: String,
    #[prost(uint64, tag = "3")]
    ns: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Waits {
    #[prost(string, tag = "1")]
    tenant: String,
    #[prost(uint64, repeated, tag = "2")]
    buckets: Vec<u64>,
    #[prost(uint64, tag = "3")]
    wait_ns: u64,
}

pub(super) fn waits(list: &[(Arc<str>, WaitTotal)]) -> Vec<Waits> {
    list.iter()
        .map(|(tenant, total)| Waits {
            tenant: tenant.to_string(),
            buckets: total.buckets.to_vec(),
            wait_ns: total.wait_ns,
        })
        .collect()
}

pub(super) fn wait_totals(list: Vec<Waits>) -> Vec<(Arc<str>, WaitTotal)> {
    list.into_iter()
        .map(|w| {
            let total = WaitTotal {
                buckets: array(&w.buckets),
                wait_ns: w.wait_ns,
            };
            (Arc::from(w.tenant), total)
        })
        .collect()
}

/// As many as there is room for; zeros where there are fewer.
fn array<const N: usize>(list: &[u64]) -> [u64; N] {
    let mut out = [0; N];
    out.iter_mut().zip(list).for_each(|(to, n)| *to = *n);
    out
}

impl From<Checkpoint> for NodeState {
    fn from(c: Checkpoint) -> Self {
        let runs = c.ended_runs.into_iter().chain([(c.run, c.last_sequence)]);
        Self {
            runs: runs
                .map(|(r, last_sequence)| Run {
                    boot_id: r.boot_id,
                    agent_start_unix_ns: r.agent_start_unix_ns,
                    last_sequence,
                })
                .collect(),
            last_sequence: c.last_sequence,
            last_boot_ns: c.last_boot_ns,
            online_cpus: c.online_cpus,
            catching_up: c.catching_up,
            catch_up_until: c.catch_up_until,
            counting: c.counting,
            entries: c
                .entries
                .into_iter()
                .map(|e| EntryRow {
                    index: e.index,
                    slot: e.slot,
                    meaning: e.meaning,
                })
                .collect(),
            slots: c.slots.into_iter().map(SlotRow::from).collect(),
            containers: c
                .containers
                .into_iter()
                .map(|c| ContainerRow {
                    index: c.index,
                    pod: c.pod,
                    id: c.id,
                })
                .collect(),
            frames: c
                .frames
                .into_iter()
                .map(|f| FrameRow {
                    from_ns: f.from_ns,
                    to_ns: f.to_ns,
                    bytes: f.bytes,
                })
                .collect(),
            run: c
                .run_ns
                .iter()
                .map(|(tenant, ns)| Total {
                    tenant: tenant.to_string(),
                    runner: String::new(),
                    ns: *ns,
                })
                .collect(),
            ledger: c
                .ledger_ns
                .iter()
                .map(|(waiter, runner, ns)| Total {
                    tenant: waiter.to_string(),
                    runner: runner.to_string(),
                    ns: *ns,
                })
                .collect(),
            waits: waits(&c.waits),
            reports: c.reports,
            agent_runs: c.runs,
        }
    }
}

impl NodeState {
    /// `None`: it has no run.
    pub(super) fn checkpoint(self, node: &str) -> Option<Checkpoint> {
        let mut runs: Vec<(RunKey, u64)> = self
            .runs
            .into_iter()
            .map(|r| {
                let run = RunKey {
                    boot_id: r.boot_id,
                    agent_start_unix_ns: r.agent_start_unix_ns,
                };
                (run, r.last_sequence)
            })
            .collect();
        Some(Checkpoint {
            node: Arc::from(node),
            run: runs.pop()?.0,
            ended_runs: runs,
            last_sequence: self.last_sequence,
            last_boot_ns: self.last_boot_ns,
            online_cpus: self.online_cpus,
            catching_up: self.catching_up,
            catch_up_until: self.catch_up_until,
            counting: self.counting,
            entries: self
                .entries
                .into_iter()
                .map(|e| EntryState {
                    index: e.index,
                    slot: e.slot,
                    meaning: e.meaning,
                })
                .collect(),
            slots: self.slots.into_iter().filter_map(SlotRow::state).collect(),
            containers: self
                .containers
                .into_iter()
                .map(|c| ContainerState {
                    index: c.index,
                    pod: c.pod,
                    id: c.id,
                })
                .collect(),
            frames: self
                .frames
                .into_iter()
                .map(|f| FrameState {
                    from_ns: f.from_ns,
                    to_ns: f.to_ns,
                    bytes: f.bytes,
                })
                .collect(),
            run_ns: self
                .run
                .into_iter()
                .map(|t| (Arc::from(t.tenant), t.ns))
                .collect(),
            ledger_ns: self
                .ledger
                .into_iter()
                .map(|t| (Arc::from(t.tenant), Arc::from(t.runner), t.ns))
                .collect(),
            waits: wait_totals(self.waits),
            reports: self.reports,
            runs: self.agent_runs,
        })
    }
}

const REASONS: [UnknownReason; 4] = [
    UnknownReason::PathGone,
    UnknownReason::NoSlot,
    UnknownReason::UnreadablePath,
    UnknownReason::Folded,
];

impl From<SlotState> for SlotRow {
    fn from(s: SlotState) -> Self {
        Self {
            slot: s.slot,
            index: s.index,
            is: Some(match s.kind {
                SlotKind::Pod(uid) => SlotIs::Pod(uid.to_string()),
                SlotKind::Host(path) => SlotIs::Host(path.to_string()),
                SlotKind::Unknown(reason) => SlotIs::Unknown(reason.as_str().to_owned()),
            }),
            told: s.told.map(|name| name.to_string()),
            born_ns: s.born_ns,
            ended_ns: if s.ended_ns == u64::MAX { 0 } else { s.ended_ns },
            old: s.old,
            cpu_known: s.cpu_known,
            row_known: s.row_known,
            last: s.last.to_vec(),
            waits: s.waits.map(|w| w.to_vec()).unwrap_or_default(),
            runners: s.pairs.iter().map(|(index, ..)| *index).collect(),
            runner_slots: s.pairs.iter().map(|(_, slot, _)| *slot).collect(),
            ran_ns: s.pairs.iter().map(|(.., ns)| *ns).collect(),
        }
    }
}

impl SlotRow {
    fn state(self) -> Option<SlotState> {
        let kind = match self.is? {
            SlotIs::Pod(uid) => SlotKind::Pod(Arc::from(uid)),
            SlotIs::Host(path) => SlotKind::Host(Arc::from(path)),
            SlotIs::Unknown(name) => {
                SlotKind::Unknown(REASONS.into_iter().find(|reason| reason.as_str() == name)?)
            }
        };
        let pairs = self.runners.iter().zip(&self.runner_slots).zip(&self.ran_ns);
        Some(SlotState {
            slot: self.slot,
            index: self.index,
            kind,
            told: self.told.map(Arc::from),
            born_ns: self.born_ns,
            ended_ns: if self.ended_ns == 0 {
                u64::MAX
            } else {
                self.ended_ns
            },
            old: self.old,
            cpu_known: self.cpu_known,
            row_known: self.row_known,
            last: array(&self.last),
            waits: (!self.waits.is_empty()).then(|| array(&self.waits)),
            pairs: pairs.map(|((index, slot), ns)| (*index, *slot, *ns)).collect(),
        })
    }
}
