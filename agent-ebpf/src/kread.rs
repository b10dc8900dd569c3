//! The only reads of kernel memory.
//!
//! Offsets come from the running kernel's BTF (see [`Offsets`]) and sit in `.rodata`: the verifier knows their values and
//! drops the branches for what is absent.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use partywall_abi::{ABSENT, Offsets};

/// Overwritten by the agent before loading.
#[unsafe(no_mangle)]
static OFFSETS: Offsets = Offsets::NONE;

/// The value of one of the [`Offsets`].
macro_rules! offset {
    ($field:ident) => {{
        // SAFETY: a static of this program. Volatile, because the compiler would otherwise fold in the initial value.
        #[allow(unused_unsafe, reason = "may stand within an unsafe block")]
        unsafe {
            core::ptr::read_volatile(&raw const OFFSETS.$field)
        }
    }};
}

/// How a program reaches kernel memory.
pub(crate) trait Kread {
    /// Reads a `T` at `offset` of the kernel object `base`.
    ///
    /// # Safety
    /// `base` is such an object, and `offset` that of a field of `T`'s width in it.
    unsafe fn read<T: Copy + Default>(base: *const u8, offset: u32) -> T;
}

/// Loads, checked by the verifier against BTF types. For arguments of BTF-typed tracepoints and what they point to.
pub(crate) struct Direct;

impl Kread for Direct {
    #[inline(always)]
    unsafe fn read<T: Copy + Default>(base: *const u8, offset: u32) -> T {
        // SAFETY: the caller's promise, checked once more by the verifier. Volatile, so that the load stays as wide as the field.
        unsafe { core::ptr::read_volatile(base.add(offset as usize).cast::<T>()) }
    }
}

/// Helper calls. For raw tracepoints, whose arguments have no type.
pub(crate) struct Probe;

impl Kread for Probe {
    #[inline(always)]
    unsafe fn read<T: Copy + Default>(base: *const u8, offset: u32) -> T {
        // SAFETY: the helper checks the address itself; a fault reads as the default.
        unsafe { bpf_probe_read_kernel(base.wrapping_add(offset as usize).cast::<T>()) }.unwrap_or_default()
    }
}

/// A task. Its methods give `None` where the kernel lacks a field.
pub(crate) struct Task<K: Kread> {
    task: *const u8,
    kread: core::marker::PhantomData<K>,
}

impl<K: Kread> Task<K> {
    /// # Safety
    /// `task` is a `task_struct` that lives while the program runs.
    #[inline(always)]
    pub(crate) unsafe fn new(task: *const u8) -> Self {
        Self {
            task,
            kread: core::marker::PhantomData,
        }
    }

    /// True for the idle task of every CPU, and for no other.
    #[inline(always)]
    pub(crate) fn is_idle(&self) -> bool {
        self.pid() == 0
    }

    /// Thread id.
    #[inline(always)]
    pub(crate) fn pid(&self) -> u32 {
        // SAFETY: `task` is a task_struct, the offset is that of its field.
        unsafe { K::read(self.task, offset!(task_pid)) }
    }

    /// kernfs id of its cgroup in the v2 hierarchy.
    #[inline(always)]
    pub(crate) fn cgroup_id(&self) -> u64 {
        // SAFETY: each pointer is of the type whose field's offset is used on it.
        unsafe {
            let css_set = K::read::<usize>(self.task, offset!(task_cgroups)) as *const u8;
            let cgroup = K::read::<usize>(css_set, offset!(css_set_dfl_cgrp)) as *const u8;
            cgroup_id::<K>(cgroup)
        }
    }

    /// When it was queued, on the run-queue clock; 0: it is not queued.
    #[inline(always)]
    pub(crate) fn last_queued_ns(&self) -> Option<u64> {
        // SAFETY: as above.
        present(offset!(task_last_queued)).map(|at| unsafe { K::read(self.task, at) })
    }

    /// When it began to run, on the run-queue clock; 0 for the idle task.
    #[inline(always)]
    pub(crate) fn last_arrival_ns(&self) -> Option<u64> {
        // SAFETY: as above.
        present(offset!(task_last_arrival)).map(|at| unsafe { K::read(self.task, at) })
    }

    /// For how long its cgroup was throttled on this CPU in all; 0 where the kernel does not tell.
    #[inline(always)]
    pub(crate) fn throttled_ns(&self) -> u64 {
        let (cfs_rq_at, throttled_at) = (offset!(task_cfs_rq), offset!(cfs_rq_throttled));
        if cfs_rq_at == ABSENT || throttled_at == ABSENT {
            return 0;
        }
        // SAFETY: as above. `se.cfs_rq` is set for tasks of every scheduling class.
        unsafe {
            let cfs_rq = K::read::<usize>(self.task, cfs_rq_at) as *const u8;
            K::read(cfs_rq, throttled_at)
        }
    }

    /// The run queue that it is on.
    #[inline(always)]
    pub(crate) fn run_queue(&self) -> Option<RunQueue<K>> {
        let (cfs_rq_at, rq_at, clock_at) = (offset!(task_cfs_rq), offset!(cfs_rq_rq), offset!(rq_clock));
        if cfs_rq_at == ABSENT || rq_at == ABSENT || clock_at == ABSENT {
            return None;
        }
        // SAFETY: as above. `se.cfs_rq` is set for tasks of every scheduling class.
        let rq = unsafe {
            let cfs_rq = K::read::<usize>(self.task, cfs_rq_at) as *const u8;
            K::read::<usize>(cfs_rq, rq_at) as *const u8
        };
        Some(RunQueue {
            rq,
            kread: core::marker::PhantomData,
        })
    }
}

/// A CPU's run queue.
pub(crate) struct RunQueue<K: Kread> {
    rq: *const u8,
    kread: core::marker::PhantomData<K>,
}

impl<K: Kread> RunQueue<K> {
    /// The clock of `last_queued` and `last_arrival`.
    #[inline(always)]
    pub(crate) fn clock_ns(&self) -> u64 {
        // SAFETY: `rq` is a struct rq; `run_queue` saw that the offset is present.
        unsafe { K::read(self.rq, offset!(rq_clock)) }
    }

    /// The clock above, less what interrupts and the hypervisor took: tasks are charged by it. `None`: not told.
    #[inline(always)]
    pub(crate) fn task_clock_ns(&self) -> Option<u64> {
        // SAFETY: `rq` is a struct rq, the offset is that of its field.
        present(offset!(rq_clock_task)).map(|at| unsafe { K::read(self.rq, at) })
    }

    /// What the hypervisor took, as far as the clock above has come; 0 where the kernel does not account for it.
    #[inline(always)]
    pub(crate) fn stolen_ns(&self) -> u64 {
        // SAFETY: `rq` is a struct rq, the offset is that of its field.
        present(offset!(rq_prev_steal_time_rq)).map_or(0, |at| unsafe { K::read(self.rq, at) })
    }
}

/// kernfs id of a cgroup.
///
/// # Safety
/// `cgroup` is a `struct cgroup` that lives while the program runs.
#[inline(always)]
pub(crate) unsafe fn cgroup_id<K: Kread>(cgroup: *const u8) -> u64 {
    // SAFETY: each pointer is of the type whose field's offset is used on it.
    unsafe {
        let kn = K::read::<usize>(cgroup, offset!(cgroup_kn)) as *const u8;
        K::read(kn, offset!(kernfs_node_id))
    }
}

/// Whether a cgroup is in the v2 hierarchy.
///
/// # Safety
/// As [`cgroup_id`].
#[inline(always)]
pub(crate) unsafe fn in_v2_hierarchy<K: Kread>(cgroup: *const u8) -> bool {
    // SAFETY: each pointer is of the type whose field's offset is used on it.
    unsafe {
        let root = K::read::<usize>(cgroup, offset!(cgroup_root)) as *const u8;
        K::read::<u32>(root, offset!(cgroup_root_hierarchy_id)) == 0
    }
}

/// What `mark_victim` tells: the task, or its process id.
#[inline(always)]
pub(crate) fn victim_is_task() -> bool {
    offset!(victim_is_task) != ABSENT
}

#[inline(always)]
fn present(offset: u32) -> Option<u32> {
    if offset == ABSENT { None } else { Some(offset) }
}
