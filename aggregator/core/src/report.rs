//! What one agent counted up to one moment, as plain data: the wire's `Report` after its names and shape were checked.

use std::net::IpAddr;
use std::sync::Arc;

/// One agent run. Counters and entity indices mean something only within it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunKey {
    pub boot_id: String,
    pub agent_start_unix_ns: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub node: Arc<str>,
    pub run: RunKey,
    /// From 1.
    pub sequence: u64,
    pub captured_unix_ns: u64,
    /// How far the node's wall clock was ahead of the aggregator's at the reading, the way here included; `None`: not known.
    pub clock_offset_ns: Option<i64>,
    /// From the reading to the sending; `None`: not known, and then the node's wall clock is believed.
    pub waited_ns: Option<u64>,
    /// CLOCK_BOOTTIME of the reading: what durations come from.
    pub captured_boot_ns: u64,
    pub online_cpus: u32,
    pub entities: Vec<Entity>,
    pub ended: Vec<u32>,
    /// CLOCK_BOOTTIME, parallel to `ended`, or empty; 0: some time in this report's interval.
    pub ended_boot_ns: Vec<u64>,
    pub cpu: Vec<CpuSample>,
    pub ledger: Vec<LedgerRow>,
    pub memory: Vec<MemorySample>,
    pub oom_kills: Vec<OomKill>,
    pub flows: Vec<Flow>,
    pub flow_samples: Vec<FlowSample>,
    pub flows_ended: Vec<u32>,
    pub folded: Vec<FoldedTraffic>,
    pub coverage: Coverage,
    pub cost: AgentCost,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Entity {
    pub index: u32,
    pub kind: EntityKind,
    /// CLOCK_BOOTTIME at which it was made; 0: not known.
    pub born_boot_ns: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntityKind {
    /// UID.
    Pod(Arc<str>),
    Container {
        pod: u32,
        id: String,
    },
    /// Path below the cgroup mount.
    Host(Arc<str>),
    Unknown(UnknownReason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnknownReason {
    PathGone,
    NoSlot,
    UnreadablePath,
    Folded,
}

impl UnknownReason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PathGone => "path_gone",
            Self::NoSlot => "no_slot",
            Self::UnreadablePath => "unreadable_path",
            Self::Folded => "folded",
        }
    }
}

/// Cumulative since the agent's start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuSample {
    pub entity: u32,
    pub run_ns: u64,
    pub wait_ns: u64,
    /// Waits by length, at most [`WAIT_BUCKETS`]; trailing zeros left out.
    pub waits: Vec<u64>,
}

/// Cumulative since the agent's start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerRow {
    pub waiter: u32,
    pub runners: Vec<u32>,
    /// Parallel to `runners`.
    pub ran_ns: Vec<u64>,
    pub self_ns: u64,
    pub idle_ns: u64,
    pub steal_ns: u64,
    pub throttled_ns: u64,
    pub unresolved_ns: u64,
}

/// Memory of one pod or container: all that is known of it, what the kernel does not offer left out. Counters are cumulative since the
/// agent's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemorySample {
    pub entity: u32,
    pub current_bytes: Option<u64>,
    pub working_set_bytes: Option<u64>,
    /// Absent: no limit.
    pub limit_bytes: Option<u64>,
    pub events: Option<MemoryEvents>,
    pub major_faults: Option<u64>,
    pub refaults: Option<u64>,
    pub cpu_pressure: Option<Pressure>,
    pub memory_pressure: Option<Pressure>,
    pub io_pressure: Option<Pressure>,
    pub limit_reclaim: Option<Reclaim>,
    pub node_reclaim: Option<Reclaim>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryEvents {
    pub high: u64,
    pub max: u64,
    pub oom: u64,
    pub oom_kill: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    pub some_us: u64,
    pub full_us: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaim {
    pub stall_ns: u64,
    pub pages: u64,
    pub times: u64,
}

/// A task was killed because memory ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OomKill {
    /// CLOCK_BOOTTIME; 0: some time in this report's interval.
    pub at_boot_ns: u64,
    /// Entity indices: whose task asked for memory, whose was killed.
    pub trigger: u32,
    pub victim: u32,
    pub scope: OomScope,
}

/// Traffic between one entity and one peer address for one protocol and server port, in one direction of opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub index: u32,
    /// Whose sockets these are.
    pub entity: u32,
    /// As they stand in the packets; never an IPv4-mapped IPv6 address.
    pub local: IpAddr,
    pub peer: IpAddr,
    /// IANA protocol number.
    pub protocol: u8,
    /// The port that was opened; 0 where there is none.
    pub port: u16,
    pub role: Role,
}

/// Who opened a flow: the entity, its peer, or nobody knows; then `port` is the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Opened,
    Accepted,
    Unknown,
}

/// Cumulative since the agent's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowSample {
    pub flow: u32,
    pub traffic: Traffic,
}

/// What an entity sent and received beside its flows. Cumulative since the agent's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoldedTraffic {
    pub entity: u32,
    pub traffic: Traffic,
}

/// Counters of a flow, from one end of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub sent_packets: u64,
    pub sent_bytes: u64,
    pub received_packets: u64,
    pub received_bytes: u64,
    /// TCP connections begun; 0 at the end that did not.
    pub opened: u64,
    pub established: u64,
    pub refused: u64,
    pub reset: u64,
    pub timed_out: u64,
}

impl Traffic {
    /// As the wire names them, in the order of [`Traffic::values`].
    pub const FIELDS: [&'static str; 9] = [
        "sent_packets",
        "sent_bytes",
        "received_packets",
        "received_bytes",
        "opened",
        "established",
        "refused",
        "reset",
        "timed_out",
    ];

    pub fn values(&self) -> [u64; 9] {
        [
            self.sent_packets,
            self.sent_bytes,
            self.received_packets,
            self.received_bytes,
            self.opened,
            self.established,
            self.refused,
            self.reset,
            self.timed_out,
        ]
    }

    fn zip(&self, other: &Self, with: fn(u64, u64) -> u64) -> Self {
        Self {
            sent_packets: with(self.sent_packets, other.sent_packets),
            sent_bytes: with(self.sent_bytes, other.sent_bytes),
            received_packets: with(self.received_packets, other.received_packets),
            received_bytes: with(self.received_bytes, other.received_bytes),
            opened: with(self.opened, other.opened),
            established: with(self.established, other.established),
            refused: with(self.refused, other.refused),
            reset: with(self.reset, other.reset),
            timed_out: with(self.timed_out, other.timed_out),
        }
    }

    /// Counter by counter; none falls below 0.
    #[must_use]
    pub fn less(&self, other: &Self) -> Self {
        self.zip(other, u64::saturating_sub)
    }

    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        self.zip(other, u64::saturating_add)
    }

    #[must_use]
    pub fn least(&self, other: &Self) -> Self {
        self.zip(other, u64::min)
    }

    /// The same from the other end.
    #[must_use]
    pub fn turned(&self) -> Self {
        Self {
            sent_packets: self.received_packets,
            sent_bytes: self.received_bytes,
            received_packets: self.sent_packets,
            received_bytes: self.sent_bytes,
            ..*self
        }
    }

    /// Both ways.
    pub fn bytes(&self) -> u64 {
        self.sent_bytes.saturating_add(self.received_bytes)
    }

    pub fn packets(&self) -> u64 {
        self.sent_packets.saturating_add(self.received_packets)
    }
}

/// Where memory ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OomScope {
    Unknown,
    /// At the limit of a cgroup.
    Limit,
    /// On the whole node.
    Node,
}

impl OomScope {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Limit => "limit",
            Self::Node => "node",
        }
    }
}

/// Buckets of the wait histogram.
pub const WAIT_BUCKETS: usize = 16;

/// Upper edge of a bucket, in nanoseconds; the last has none, 2^27 stands for it.
pub const fn wait_bucket_edge_ns(bucket: usize) -> u64 {
    1 << (12 + bucket)
}

/// What the agent could see.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Coverage {
    pub features: Vec<Feature>,
    /// Cumulative since the agent's start.
    pub losses: Vec<Loss>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    pub name: String,
    pub present: bool,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    pub stage: String,
    pub reason: String,
    pub unit: String,
    pub count: u64,
}

/// What the agent itself costs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AgentCost {
    pub cpu_ns: u64,
    pub memory_bytes: u64,
    pub memory_source: String,
    pub map_bytes: u64,
    pub programs: Vec<ProgramCost>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramCost {
    pub name: String,
    pub run_ns: u64,
    pub runs: u64,
}

/// The answer to one report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub outcome: Outcome,
    /// The agent must announce every live entity again.
    pub announce_all: bool,
}

/// Nothing more is to be said of it.
impl From<Outcome> for Receipt {
    fn from(outcome: Outcome) -> Self {
        Self {
            outcome,
            announce_all: false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Accepted,
    Duplicate,
    Refused(Refusal),
}

/// Why a report was refused as a whole. Nothing of it was counted; counters are cumulative, so only resolution is lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Refusal {
    /// Label value in metrics.
    pub reason: &'static str,
    /// As in the wire's Report: `cpu[3].run_ns`.
    pub field: String,
    /// Contains the value.
    pub problem: String,
}
