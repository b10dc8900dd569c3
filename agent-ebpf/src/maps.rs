//! Every map of the kernel side, and why it has its size.
//!
//! All are plain arrays but where a comment says otherwise: an array's look-up is inlined by the verifier, and the agent
//! maps the memory and reads it without a system call.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, RingBuf, Stack};
use partywall_abi::{
    CACHE, Cpu, FLOWS as FLOW_PLACES, Flow, FlowName, LOSS_REASONS, Reclaim, Row, SLOTS, Sock, Stall,
    Throttle, UNITS as UNIT_PLACES, Unit,
};

/// Counters by CPU and slot: `cpu * SLOTS + slot`. The agent sets the size to the possible CPUs: 96 KiB each.
#[map]
pub(crate) static ROWS: Array<Row> = Array::with_max_entries(SLOTS as u32, BPF_F_MMAPABLE);

/// The CPUs' present and past. Sized by the agent: 576 bytes per possible CPU.
#[map]
pub(crate) static CPUS: Array<Cpu> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Nanoseconds that one slot waited while another ran: `waiter * SLOTS + runner`. 8 MiB whatever the number of CPUs.
///
/// Shared, with atomic additions: a matrix per CPU would take 8 MiB each. Waits for the own cgroup and for an idle CPU,
/// by far the most, are in the rows, so that CPUs meet here only when they enter the same pair at the same moment.
#[map]
pub(crate) static MATRIX: Array<u64> = Array::with_max_entries((SLOTS * SLOTS) as u32, BPF_F_MMAPABLE);

/// Cache in front of [`SLOT_OF`], one element, see `cache.rs`. 32 KiB: 500 cgroups leave one in a hundred without a place.
#[map]
pub(crate) static SLOT_CACHE: Array<[u64; CACHE]> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// cgroup id → slot: the truth behind the cache. A hash, because its insertion decides between two CPUs that see a cgroup
/// at the same moment. The agent deletes.
#[map]
pub(crate) static SLOT_OF: HashMap<u64, u32> = HashMap::with_max_entries(SLOTS as u32, 0);

/// slot → cgroup id, 0 where nobody's. Written when a slot is assigned, so that the agent sees who is new without a system
/// call per cgroup.
#[map]
pub(crate) static OWNERS: Array<u64> = Array::with_max_entries(SLOTS as u32, BPF_F_MMAPABLE);

/// What is known of a cgroup's own throttling: `cpu * SLOTS + slot`. Sized by the agent: 32 KiB per possible CPU where the kernel
/// tells of it. Not in [`ROWS`]: most cgroups have no limit, and their rows would share fewer cache lines.
#[map]
pub(crate) static THROTTLES: Array<Throttle> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// What each slot's tasks reclaimed. One for all CPUs, with atomic additions: reclaim is rare, and takes longer than to meet here.
#[map]
pub(crate) static RECLAIMS: Array<Reclaim> = Array::with_max_entries(SLOTS as u32, BPF_F_MMAPABLE);

/// Each task's last reclaim, by thread id. A hash without preference for the new: what finds no room is counted, and the agent removes
/// what ended long ago. 4,096 tasks that reclaim within ten seconds are a node beyond help.
#[map]
pub(crate) static STALLS: HashMap<u32, Stall> = HashMap::with_max_entries(4096, 0);

/// Counters of flows, by place. One for all CPUs, with atomic additions: one for each would be 320 MiB with 320 CPUs.
#[map]
pub(crate) static FLOWS: Array<Flow> = Array::with_max_entries(FLOW_PLACES as u32, BPF_F_MMAPABLE);

/// Place → what flow has it. Apart from the counters, which are read at every packet.
#[map]
pub(crate) static FLOW_NAMES: Array<FlowName> = Array::with_max_entries(FLOW_PLACES as u32, BPF_F_MMAPABLE);

/// Flow → place. The agent deletes.
#[map]
pub(crate) static FLOW_OF: HashMap<FlowName, u32> = HashMap::with_max_entries(FLOW_PLACES as u32, 0);

/// Places that belong to nobody. Filled by the agent.
#[map]
pub(crate) static FLOW_FREE: Stack<u32> = Stack::with_max_entries(FLOW_PLACES as u32, 0);

/// How many places are taken, and of how many sockets something is remembered. The agent subtracts.
#[map]
pub(crate) static TAKEN: Array<u64> = Array::with_max_entries(2, BPF_F_MMAPABLE);

/// What units hold, and what of theirs found no place.
#[map]
pub(crate) static UNITS: Array<Unit> = Array::with_max_entries(UNIT_PLACES as u32, BPF_F_MMAPABLE);

/// cgroup id → unit. The agent deletes.
#[map]
pub(crate) static UNIT_OF: HashMap<u64, u32> = HashMap::with_max_entries(UNIT_PLACES as u32, 0);

/// Units that belong to nobody. Filled by the agent.
#[map]
pub(crate) static UNIT_FREE: Stack<u32> = Stack::with_max_entries(UNIT_PLACES as u32, 0);

/// What is remembered of sockets, freed by the kernel with them. It is the agent's memory, whoever opens them: hence `SOCKETS`.
#[btf_map]
pub(crate) static SOCKS: SkStorage<Sock> = SkStorage::new();

/// Slots that belong to nobody. Filled by the agent; a stack hands out each once without atomics that 5.10 lacks. Not a queue:
/// that would go through all slots, and what the agent remembers of each would grow until it had.
#[map]
pub(crate) static FREE: Stack<u32> = Stack::with_max_entries(SLOTS as u32, 0);

/// Loss counters, `cpu * LOSS_REASONS + reason`: one cache line per CPU. Sized by the agent.
#[map]
pub(crate) static LOSSES: Array<u64> = Array::with_max_entries(LOSS_REASONS as u32, BPF_F_MMAPABLE);

/// cgroups made and removed. 256 KiB are 500 events: a burst of pods between two readings, not a measurement channel.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

/// Adds to a counter that other CPUs add to as well.
///
/// # Safety
/// `counter` is within an element of a map.
#[inline(always)]
pub(crate) unsafe fn add(counter: *mut u64, more: u64) {
    // SAFETY: the caller's promise. The result is not used: without it this is the atomic addition that 5.10 has.
    unsafe {
        core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::Relaxed }>(
            counter, more,
        );
    }
}
