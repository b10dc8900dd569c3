//! The layout that the kernel side and the agent share.
//!
//! Fixed widths only, no padding left to the compiler: sizes and offsets are asserted when this compiles, and a test
//! locks the bytes. Both sides are built from this one file, so that they cannot drift.
#![no_std]

/// Slots for cgroups that were seen running and whose memory is not yet given back. A slot holds one cgroup's counters.
///
/// 1,024 serve a node of 110 pods three times over: two containers a pod, some fifty host cgroups, and what waits out
/// its quarantine after removal. Rows cost `SLOTS * 96` bytes per possible CPU, the matrix `SLOTS² * 8` bytes in all.
pub const SLOTS: usize = 1024;

/// Slot of everything for which no slot was left. Its time is known, its owner is not.
pub const SLOT_NONE: u16 = 0;
/// Runner slot of the idle task. Never a waiter.
pub const SLOT_IDLE: u16 = 1;
/// Runner slot of the hypervisor. Never a waiter.
pub const SLOT_STEAL: u16 = 2;
/// Runner slot of the waiter's own `cpu.max`. Never a waiter.
pub const SLOT_THROTTLED: u16 = 3;
/// Runner slot of what no kept slice covers. Never a waiter.
pub const SLOT_UNRESOLVED: u16 = 4;
/// The first slot that a cgroup may get.
pub const SLOT_FIRST: u16 = 5;

/// Slices that each CPU keeps: how far back a wait can be resolved. A power of two.
pub const SLICES: usize = 32;

/// Entries of the shared cache in front of the id → slot hash. A power of two.
pub const CACHE: usize = 4096;

/// Buckets of the wait histogram, see [`bucket_floor_ns`].
pub const BUCKETS: usize = 16;
/// log2 of the first bucket's upper edge: 4,096 ns. Shorter waits are the switch itself.
pub const BUCKET_SHIFT: u32 = 12;

/// Lower edge of histogram bucket `bucket`, in nanoseconds: 0, then 4,096 doubled each time, up to 2^26 (67 ms).
pub const fn bucket_floor_ns(bucket: usize) -> u64 {
    if bucket == 0 {
        0
    } else {
        1 << (BUCKET_SHIFT as usize + bucket - 1)
    }
}

/// One cgroup's counters on one CPU. Map `ROWS`, index `cpu * SLOTS + slot`. Cumulative since load, all but the histogram in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Row {
    pub run_ns: u64,
    pub wait_ns: u64,
    /// Part of `wait_ns`: a task of this same cgroup ran meanwhile.
    pub self_ns: u64,
    /// Part of `wait_ns`: the CPU was idle meanwhile.
    pub idle_ns: u64,
    /// Waits by length; wraps after 2^32 waits in one bucket on one CPU.
    pub waits: [u32; BUCKETS],
}

/// One slice of a CPU's past: `slot` ran until `end_ns`, beginning where the slice before it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Slice {
    /// The CPU's clock.
    pub end_ns: u64,
    pub slot: u64,
}

/// What one CPU is doing. Map `CPUS`, index: CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Cpu {
    /// Clock of the last switch seen; 0 before the first. All of a CPU's times are on its run-queue clock, where that can be read.
    pub since_ns: u64,
    /// Slot of the cgroup that runs now.
    pub slot: u64,
    /// Slices ever pushed; the newest is at `(pushed - 1) % SLICES`.
    pub pushed: u64,
    /// The run queue's count of stolen time at the last switch seen.
    pub steal_ns: u64,
    /// Switches seen.
    pub switches: u64,
    /// Added to a run-queue time stamp to get this CPU's clock, where that is not the run-queue clock itself.
    pub skew_ns: u64,
    /// The run queue's task clock at the last switch seen.
    pub task_ns: u64,
    pub reserved: u64,
    pub slices: [Slice; SLICES],
}

impl Cpu {
    /// Before the first switch.
    pub const EMPTY: Self = Self {
        since_ns: 0,
        slot: 0,
        pushed: 0,
        steal_ns: 0,
        switches: 0,
        skew_ns: 0,
        task_ns: 0,
        reserved: 0,
        slices: [Slice { end_ns: 0, slot: 0 }; SLICES],
    };
}

/// One cgroup's own throttling on one CPU, as its switches told. Map `THROTTLES`, index `cpu * SLOTS + slot`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Throttle {
    /// The kernel's cumulative figure when it was last seen; 0: never seen to be another.
    pub total_ns: u64,
    /// The last throttling, on the CPU's clock.
    pub from_ns: u64,
    pub until_ns: u64,
    /// When the one before it ended: of what was before nothing is remembered.
    pub known_from_ns: u64,
}

/// For whom a task reclaims memory.
pub const SCOPE_UNKNOWN: u32 = 0;
/// For a limit of its own cgroup or of one above.
pub const SCOPE_LIMIT: u32 = 1;
/// For the node.
pub const SCOPE_NODE: u32 = 2;

/// A task's reclaim, the last one. Map `STALLS`, key: thread id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Stall {
    /// CLOCK_BOOTTIME.
    pub began_ns: u64,
    /// 0: it lasts.
    pub ended_ns: u64,
    /// [`SCOPE_LIMIT`] or [`SCOPE_NODE`].
    pub scope: u64,
}

/// What one cgroup's tasks reclaimed. Map `RECLAIMS`, index: slot. Cumulative since load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Reclaim {
    pub limit: Reclaimed,
    pub node: Reclaimed,
}

/// Reclaim for one scope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Reclaimed {
    /// Time that tasks spent in it, each task's for itself.
    pub stall_ns: u64,
    pub pages: u64,
    pub times: u64,
    pub reserved: u64,
}

/// A task was killed because memory ran out. Ring `EVENTS`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct OomEvent {
    /// Cgroup of the task that ran out of memory.
    pub trigger_cgroup: u64,
    /// [`OOM_KILL`]: at the same place as a [`CgroupEvent`]'s kind.
    pub kind: u32,
    pub trigger_pid: u32,
    /// 0: the kernel tells its process alone.
    pub victim_cgroup: u64,
    pub victim_pid: u32,
    /// [`SCOPE_LIMIT`], [`SCOPE_NODE`] or [`SCOPE_UNKNOWN`].
    pub scope: u32,
    /// CLOCK_BOOTTIME.
    pub at_ns: u64,
}

/// Longest cgroup path that an event carries, in bytes. Kubernetes' own stay below 260; a longer one is cut and says so.
pub const PATH_MAX: usize = 488;

/// A cgroup was made or removed. Ring `EVENTS`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CgroupEvent {
    /// kernfs id: unique while the kernel runs, and the inode number of the cgroup's directory.
    pub id: u64,
    /// [`CGROUP_MADE`] or [`CGROUP_REMOVED`].
    pub kind: u32,
    /// Bytes of `path` in use. More than [`PATH_MAX`]: cut.
    pub path_len: u32,
    /// Path below the cgroup v2 root as the kernel writes it, no terminating zero.
    pub path: [u8; PATH_MAX],
}

pub const CGROUP_MADE: u32 = 1;
pub const CGROUP_REMOVED: u32 = 2;
pub const OOM_KILL: u32 = 3;

/// Flows that have a place at once: what the sockets of one unit say with one peer about one port. A power of two.
///
/// 16,384 are 149 for each of 110 pods. Names, counters and the hash in front of them cost 3.8 MiB whatever the number of CPUs.
pub const FLOWS: usize = 16_384;

/// Units: cgroups that have sockets, as deep as pods are told apart. Unit 0 is nobody's: of what found no unit.
pub const UNITS: usize = 1_024;

/// Places that one unit may have while there are plenty: one peer that is scanned on every low port fits. A quarter is for what it opens
/// itself: the rest others can make it take, by sending to it from ever new addresses.
pub const UNIT_FLOWS: u64 = 2_048;

/// Places that nobody can take from a unit. Half of all are kept for this: a scan, or many, leaves each of 128 others these.
pub const UNIT_FLOWS_KEPT: u64 = 64;

/// Who opened a flow: this unit.
pub const ROLE_OPENED: u8 = 1;
/// The peer.
pub const ROLE_ACCEPTED: u8 = 2;

/// Sockets of which something is remembered, some 400 bytes each (24 MiB in all), which the kernel enters in the agent's account. Of others each packet is
/// looked up, and who opened an older connection has to be guessed.
pub const SOCKETS: u64 = 65_536;

/// Of these, one unit's while there are plenty, and those that nobody can take from a unit: as with places.
pub const UNIT_SOCKETS: u64 = SOCKETS / 4;
pub const UNIT_SOCKETS_KEPT: u64 = 256;

/// Elements of map `TAKEN`.
pub const TAKEN_FLOWS: u32 = 0;
pub const TAKEN_SOCKETS: u32 = 1;

/// What makes two packets one flow. Key of map `FLOW_OF`, element of `FLOW_NAMES`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct FlowName {
    /// cgroup id of the unit; 0: the place is free.
    pub cgroup: u64,
    /// The unit's address in the packets, IPv4 mapped into IPv6: the 16 bytes as they stand on the wire, see [`address_bytes`].
    pub local: [u64; 2],
    pub peer: [u64; 2],
    /// The port that was opened, in the machine's order; 0: the protocol has none.
    pub port: u16,
    /// Of IP: 6 TCP, 17 UDP, 1 ICMP, 58 ICMPv6.
    pub protocol: u8,
    /// [`ROLE_OPENED`], [`ROLE_ACCEPTED`]; 0: not known.
    pub role: u8,
    pub reserved: u32,
}

/// An address of a [`FlowName`] in network order.
pub const fn address_bytes(words: [u64; 2]) -> [u8; 16] {
    let value = words[0] as u128 | (words[1] as u128) << 64;
    // The words hold bytes as they lie in memory: the first byte is the lowest on a little-endian machine.
    if cfg!(target_endian = "little") {
        value.to_le_bytes()
    } else {
        ((words[0] as u128) << 64 | words[1] as u128).to_be_bytes()
    }
}

/// What was sent and received. Cumulative; other CPUs add at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Traffic {
    pub sent_packets: u64,
    /// Of the IP packets.
    pub sent_bytes: u64,
    pub received_packets: u64,
    pub received_bytes: u64,
    /// TCP connections begun. This and the following wrap after 2^32.
    pub opened: u32,
    /// Whose handshake completed.
    pub established: u32,
    /// Begun, and answered by a reset.
    pub refused: u32,
    /// Ended by a reset after the handshake.
    pub reset: u32,
    /// Begun, and given up without any answer.
    pub timed_out: u32,
    pub reserved: u32,
}

/// A flow's counters. Map `FLOWS`, index: its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    pub traffic: Traffic,
    /// Counts how often the place changed hands: a socket that remembers another one must look again. Written by the agent.
    pub generation: u32,
    /// Whose share the place is of.
    pub unit: u32,
}

/// What a unit has of places, and what found none. Map `UNITS`, index: unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Unit {
    /// 0: nobody's.
    pub cgroup: u64,
    /// Places that its flows hold.
    pub flows: u64,
    /// Traffic without a place.
    pub folded: Traffic,
    /// Sockets in use of which something is remembered.
    pub sockets: u64,
    pub reserved: [u64; 6],
}

/// How far a socket's connection has come.
pub const STAGE_OPENING: u32 = 1;
pub const STAGE_OPEN: u32 = 2;
pub const STAGE_ENDED: u32 = 3;
/// Not a connection: each packet may be another flow's.
pub const STAGE_DATAGRAMS: u32 = 4;

/// What is remembered of a socket, in its own storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Sock {
    pub stage: u32,
    /// Place of its flow, of the last packet's where it is no connection; [`NO_FLOW`]: none found room.
    pub flow: u32,
    pub generation: u32,
    /// [`ROLE_OPENED`], [`ROLE_ACCEPTED`] or 0.
    pub role: u32,
    /// Of a connection's flow, in the machine's order.
    pub port: u32,
    /// Datagrams: when something was received that had no place, in units of 2^30 ns, about a second; 0: never. Which of what is sent are
    /// answers to it cannot be told for a while.
    pub folded: u32,
    /// Datagrams: addresses and ports (own, peer's) of the last packet.
    pub local: [u64; 2],
    pub peer: [u64; 2],
    pub ports: [u16; 2],
    /// Datagrams: the same as they stand in the headers of a UDP packet over IPv4, to be compared at once; 0: another protocol.
    pub plain_ports: u32,
    pub plain_addresses: u64,
    /// Connections: the sequence number with which it was begun. Another one is another connection of the same socket.
    pub sequence: u32,
    /// Datagrams: a sum over what is remembered of the last packet. Packets of one socket pass on several CPUs at once, and what they leave
    /// may be of two of them: then it does not fit.
    pub sum: u32,
    /// The unit's cgroup in whose share the socket is counted; 0: in nobody's any more.
    pub cgroup: u64,
}

/// No place.
pub const NO_FLOW: u32 = u32::MAX;

/// What the kernel side discards or cannot store. Map `LOSSES`, index `cpu * LOSS_REASONS + reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum LossReason {
    /// Switches whose cgroup got no slot: all were taken. Their time is in [`SLOT_NONE`].
    NoSlot = 0,
    /// Slot assignments that the hash map refused for another reason than an existing key.
    SlotInsert = 1,
    /// Waits that began after they ended, by the run-queue clock: discarded.
    ClockBackwards = 2,
    /// Cgroup events that the ring had no room for.
    RingFull = 3,
    /// Map look-ups that failed although the index is in bounds by construction.
    Unreachable = 4,
    /// Switches that the tracepoint did not tell, found at the next one.
    MissedSwitch = 5,
    /// Reclaims that found no room, or whose beginning was not seen.
    Stall = 6,
    /// Places and units that a hash refused for another reason than an existing key. Their traffic is counted as folded.
    FlowInsert = 7,
}

/// Number of [`LossReason`]s, rounded up to one cache line per CPU.
pub const LOSS_REASONS: usize = 8;

impl LossReason {
    pub const ALL: [Self; 8] = [
        Self::NoSlot,
        Self::SlotInsert,
        Self::ClockBackwards,
        Self::RingFull,
        Self::Unreachable,
        Self::MissedSwitch,
        Self::Stall,
        Self::FlowInsert,
    ];

    /// Label value in metrics and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoSlot => "no_slot",
            Self::SlotInsert => "slot_insert",
            Self::ClockBackwards => "clock_backwards",
            Self::RingFull => "ring_full",
            Self::Unreachable => "unreachable",
            Self::MissedSwitch => "missed_switch",
            Self::Stall => "stall",
            Self::FlowInsert => "flow_insert",
        }
    }
}

/// An offset that the running kernel's BTF does not have. Turns off what needs it.
pub const ABSENT: u32 = u32::MAX;

/// Byte offsets of the kernel fields that the probes read, resolved from the running kernel's BTF before loading, and
/// handed over in `.rodata` (symbol `OFFSETS`) so that the verifier takes them for constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Offsets {
    pub task_pid: u32,
    pub task_cgroups: u32,
    /// `task_struct.sched_info.last_queued`
    pub task_last_queued: u32,
    /// `task_struct.sched_info.last_arrival`
    pub task_last_arrival: u32,
    /// `task_struct.se.cfs_rq`
    pub task_cfs_rq: u32,
    pub cfs_rq_rq: u32,
    /// For how long this CPU's part of the cgroup was throttled in all. Its name depends on the kernel; only with CONFIG_CFS_BANDWIDTH.
    pub cfs_rq_throttled: u32,
    pub rq_clock: u32,
    /// `rq.clock` less what the hypervisor and interrupts took, where the kernel accounts for that: what it charges tasks by.
    pub rq_clock_task: u32,
    /// Only with CONFIG_PARAVIRT_TIME_ACCOUNTING.
    pub rq_prev_steal_time_rq: u32,
    pub css_set_dfl_cgrp: u32,
    pub cgroup_kn: u32,
    pub cgroup_root: u32,
    pub cgroup_root_hierarchy_id: u32,
    pub kernfs_node_id: u32,
    /// 1: `mark_victim` tells the task; [`ABSENT`]: its process id alone (before Linux 6.8).
    pub victim_is_task: u32,
}

impl Offsets {
    /// Everything absent.
    pub const NONE: Self = Self {
        task_pid: ABSENT,
        task_cgroups: ABSENT,
        task_last_queued: ABSENT,
        task_last_arrival: ABSENT,
        task_cfs_rq: ABSENT,
        cfs_rq_rq: ABSENT,
        cfs_rq_throttled: ABSENT,
        rq_clock: ABSENT,
        rq_clock_task: ABSENT,
        rq_prev_steal_time_rq: ABSENT,
        css_set_dfl_cgrp: ABSENT,
        cgroup_kn: ABSENT,
        cgroup_root: ABSENT,
        cgroup_root_hierarchy_id: ABSENT,
        kernfs_node_id: ABSENT,
        victim_is_task: ABSENT,
    };
}

impl Offsets {
    /// As the words that `.rodata` holds, in the order of the fields.
    pub const fn words(&self) -> [u32; 16] {
        [
            self.task_pid,
            self.task_cgroups,
            self.task_last_queued,
            self.task_last_arrival,
            self.task_cfs_rq,
            self.cfs_rq_rq,
            self.cfs_rq_throttled,
            self.rq_clock,
            self.rq_clock_task,
            self.rq_prev_steal_time_rq,
            self.css_set_dfl_cgrp,
            self.cgroup_kn,
            self.cgroup_root,
            self.cgroup_root_hierarchy_id,
            self.kernfs_node_id,
            self.victim_is_task,
        ]
    }
}

const _: () = {
    assert!(size_of::<Row>() == 96);
    assert!(size_of::<Slice>() == 16);
    assert!(size_of::<Throttle>() == 32);
    assert!(size_of::<Reclaim>() == 64 && size_of::<Stall>() == 24);
    assert!(size_of::<OomEvent>() == 40);
    assert!(size_of::<Cpu>() == 64 + 16 * SLICES);
    assert!(size_of::<CgroupEvent>() == 504);
    assert!(size_of::<Offsets>() == 16 * 4);
    assert!(size_of::<FlowName>() == 48 && size_of::<Traffic>() == 56 && size_of::<Flow>() == 64);
    assert!(size_of::<Unit>() == 128 && size_of::<Sock>() == 88);
    assert!(FLOWS.is_power_of_two() && UNITS.is_power_of_two());
    assert!(SLICES.is_power_of_two() && CACHE.is_power_of_two() && SLOTS.is_power_of_two());
    assert!(LossReason::ALL.len() <= LOSS_REASONS);
};
