//! Memory pressure: who had to reclaim, for how long, and whether for a limit or for the node; and who was killed.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_ktime_get_boot_ns,
};
use aya_log_ebpf::warn;
use partywall_abi::{LossReason, OOM_KILL, OomEvent, SCOPE_LIMIT, SCOPE_UNKNOWN, Stall};

use crate::kread::{Kread, Task, victim_is_task};
use crate::losses::lose;
use crate::maps::{EVENTS, RECLAIMS, STALLS, add};
use crate::slots::slot_of;

/// A kill follows its reclaim at once; what a task reclaimed longer ago says nothing about why memory ran out.
const RECENT_NS: u64 = 1_000_000_000;

/// The current task begins to reclaim for `scope`.
#[inline(always)]
pub(crate) fn begins(scope: u32) {
    // SAFETY: helpers without arguments.
    let (tid, began_ns) = unsafe { (bpf_get_current_pid_tgid() as u32, bpf_ktime_get_boot_ns()) };
    let stall = Stall {
        began_ns,
        ended_ns: 0,
        scope: u64::from(scope),
    };
    if STALLS.insert(tid, stall, 0).is_err() {
        // SAFETY: a helper without arguments.
        lose(unsafe { bpf_get_smp_processor_id() }, LossReason::Stall);
    }
}

/// It has reclaimed `pages`.
///
/// The clock is read last: what comes before it, this program's own work, kept the task from its own as well.
#[inline(always)]
pub(crate) fn ends(pages: u64) {
    // SAFETY: helpers without arguments.
    let (cpu_index, tid) = unsafe { (bpf_get_smp_processor_id(), bpf_get_current_pid_tgid() as u32) };
    let Some(stall) = STALLS.get_ptr_mut(tid) else {
        return lose(cpu_index, LossReason::Stall);
    };
    // SAFETY: an element of the map, written by its own task alone.
    let stall = unsafe { &mut *stall };
    if stall.ended_ns != 0 {
        return lose(cpu_index, LossReason::Stall);
    }
    // SAFETY: a helper without arguments.
    let slot = slot_of(cpu_index, unsafe { bpf_get_current_cgroup_id() });
    let Some(reclaim) = RECLAIMS.get_ptr_mut(u32::from(slot)) else {
        return lose(cpu_index, LossReason::Unreachable);
    };
    // SAFETY: an element of the map; other CPUs add to it too, so additions are atomic.
    unsafe {
        let reclaimed = if stall.scope == u64::from(SCOPE_LIMIT) {
            &raw mut (*reclaim).limit
        } else {
            &raw mut (*reclaim).node
        };
        add(&raw mut (*reclaimed).pages, pages);
        add(&raw mut (*reclaimed).times, 1);
        stall.ended_ns = bpf_ktime_get_boot_ns();
        add(
            &raw mut (*reclaimed).stall_ns,
            stall.ended_ns.wrapping_sub(stall.began_ns),
        );
    }
}

/// A task is to die because the current one ran out of memory. `victim`: the task, or its process id, as the kernel tells.
#[inline(always)]
pub(crate) fn killed<K: Kread>(ctx: &impl EbpfContext, victim: *const u8) {
    let Some(mut entry) = EVENTS.reserve::<OomEvent>(0) else {
        // SAFETY: a helper without arguments.
        lose(unsafe { bpf_get_smp_processor_id() }, LossReason::RingFull);
        warn!(ctx, "no room for an OOM kill");
        return;
    };
    // SAFETY: helpers without arguments.
    let (pid_tgid, now_ns, trigger_cgroup) = unsafe {
        (
            bpf_get_current_pid_tgid(),
            bpf_ktime_get_boot_ns(),
            bpf_get_current_cgroup_id(),
        )
    };
    let (victim_pid, victim_cgroup) = if victim_is_task() {
        // SAFETY: the agent has seen in the kernel's BTF that it is a task.
        let task: Task<K> = unsafe { Task::new(victim) };
        (task.pid(), task.cgroup_id())
    } else {
        (victim as usize as u32, 0)
    };
    // SAFETY: the value is copied at once.
    let scope = match unsafe { STALLS.get(pid_tgid as u32) } {
        Some(stall) if now_ns.wrapping_sub(stall.ended_ns) < RECENT_NS => stall.scope as u32,
        _ => SCOPE_UNKNOWN,
    };
    entry.write(OomEvent {
        trigger_cgroup,
        kind: OOM_KILL,
        trigger_pid: (pid_tgid >> 32) as u32,
        victim_cgroup,
        victim_pid,
        scope,
        at_ns: now_ns,
    });
    entry.submit(0);
}
