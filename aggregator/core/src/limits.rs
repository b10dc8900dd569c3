//! What one agent, one node and one cluster may make the aggregator hold. Whatever is turned away is counted.

/// Nodes known at once. A thousand is the size Kubernetes speaks of; five times that still fits a small machine.
pub const MAX_NODES: usize = 5_000;
/// Pods, host cgroups and unknowns of one node with counters, ended ones included while they are in the window. The
/// kernel side has 1,024 slots; at 200 ended pods a second over 15 s this is still enough.
pub const MAX_SLOTS_PER_NODE: usize = 4_096;
/// Entity indices of one agent run held at once, containers included.
pub const MAX_ENTITIES_PER_NODE: usize = 16_384;
/// Ledger pairs (waiter, runner) of one node. 110 pods that all wait for each other make 12,100.
pub const MAX_PAIRS_PER_NODE: usize = 65_536;
/// Encoded increments of one node that are in the window. 65,536 pairs in each of 10 reports need some 4 MiB.
pub const MAX_WINDOW_BYTES: usize = 8 * 1024 * 1024;
/// Containers of one node whose use is kept: twenty for each of two hundred pods.
pub const MAX_CONTAINERS_PER_NODE: usize = 4_096;
/// Moments of one pod's memory, or of one container's CPU time, that rates come from. A window of ten reports needs twelve; of a longer one, and of
/// reports that come faster, the moments closest to each other are merged. 72 bytes each: 1.2 KiB a pod at the most.
pub const MAX_POINTS: usize = 16;
/// OOM kills taken of one report: a second in which all pods of a node are killed twice over. More do not refuse the report: a kill is told only
/// once, and an agent that was cut off tells of minutes at a time.
pub const MAX_KILLS_PER_REPORT: usize = 256;
/// OOM kills of one node that wait for a name, or for the next judgement.
pub const MAX_KILLS_WAITING: usize = 1_024;
/// Sums of OOM kills (trigger, victim, scope) of one node. Twenty tenants that all kill each other make 1,200.
pub const MAX_KILL_SUMS: usize = 2_048;
/// `CrossTenantOom` findings of one node that are shown at once: each has a victim pod of its own.
pub const MAX_KILLS_SHOWN: usize = 256;
/// Agent runs that ended and whose late reports are still recognised.
pub const ENDED_RUNS_KEPT: usize = 16;

/// An agent reports at least this often: its longest `--interval`.
pub const MAX_INTERVAL_NS: u64 = 60 * NS_PER_S;

/// Flows of one node's agent run held at once, ended ones included while they are kept. 110 pods with 500 peers each make 55,000.
pub const MAX_FLOWS_PER_NODE: usize = 65_536;
/// Flows of all nodes. Some 900 bytes each: 230 MiB.
pub const MAX_FLOWS: usize = 262_144;
/// A flow that ended is kept this long: the other end's last counters may still be on the way.
pub const FLOW_KEPT_NS: u64 = 30 * NS_PER_S;
/// Flows that a client is given at once.
pub const MAX_FLOWS_SHOWN: usize = 4_096;
/// Pairs of tenants between which traffic is summed, by verdict.
pub const MAX_TRAFFIC_SUMS: usize = 16_384;
/// Pairs of pods remembered of one breach between tenants, and those that it shows.
pub const MAX_POD_PAIRS: usize = 64;
pub const MAX_POD_PAIRS_SHOWN: usize = 8;
/// What one pod was to the fence before its last changes. What came earlier is held to be what it was first: a tenant that changes its labels all the
/// time gains nothing.
pub const MAX_FORMER: usize = 8;
/// Addresses of one Service: a receiver's opener is looked for behind each of them. A load balancer has one or two.
pub const MAX_SERVICE_ADDRESSES: usize = 256;
/// Ports × endpoints of all Services. Some 100 bytes each: 25 MiB. 5,000 Services of three ports and fifteen pods have 225,000.
pub const MAX_SERVICE_ROUTES: usize = 262_144;
/// Pods that tried something in vain, and what each tried.
pub const MAX_PROBERS: usize = 4_096;
pub const MAX_PROBED: usize = 512;
/// Pods that reached for the node's credentials.
pub const MAX_REACHERS: usize = 1_024;

/// Pods whose highest minutes are kept, see `headroom`. Some 300 bytes each: 38 MiB. A thousand nodes with 110 pods have 110,000.
pub const MAX_USED_PODS: usize = 131_072;

/// A node without a report for this long is forgotten, its series with it.
pub const NODE_KEPT_NS: u64 = 600 * NS_PER_S;
/// A pod that left the cluster data keeps its name this long: its last counters may still be on the way, behind an
/// agent's queue.
pub const GONE_POD_KEPT_NS: u64 = 300 * NS_PER_S;
/// Gone pods kept at once.
pub const MAX_GONE_PODS: usize = 20_000;

/// Breaches that are pending or firing at once.
pub const MAX_LIVE_BREACHES: usize = 10_000;
/// Resolved breaches kept for clients.
pub const MAX_RESOLVED_BREACHES: usize = 1_000;
/// How long a resolved breach is kept.
pub const RESOLVED_KEPT_NS: u64 = 3_600 * NS_PER_S;
/// Culprit pods and cgroups named in one breach.
pub const MAX_CULPRITS: usize = 10;

/// Nanoseconds in a second.
pub const NS_PER_S: u64 = 1_000_000_000;
/// Largest memory of a pod that is believed: an exbibyte.
pub const MAX_MEMORY_BYTES: u64 = 1 << 60;
/// What one report may add to one counter: 36 CPU-years. Sixteen of them still fit 64 bits.
pub const MAX_INCREMENT_NS: u64 = 1 << 60;
