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
/// Agent runs that ended and whose late reports are still recognised.
pub const ENDED_RUNS_KEPT: usize = 4;

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
/// What one report may add to one counter: 36 CPU-years. Sixteen of them still fit 64 bits.
pub const MAX_INCREMENT_NS: u64 = 1 << 60;
