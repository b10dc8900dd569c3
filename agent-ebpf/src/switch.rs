//! The CPU ledger: what one context switch tells.
//!
//! The task switched out ran since the last switch on this CPU; the task switched in was queued at
//! `sched_info.last_queued`; the CPU's past says who ran in between. Runs with interrupts off, so nothing else writes
//! this CPU's counters.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::helpers::{bpf_get_current_task, bpf_get_smp_processor_id};
use partywall_abi::{BUCKETS, Cpu, LossReason, Row, SLOT_IDLE, SLOT_THROTTLED, SLOT_UNRESOLVED, SLOTS};
use partywall_ebpf::{buckets, past, throttle};

use crate::kread::{Kread, Probe, Task};
use crate::losses::lose;
use crate::maps::{self, CPUS, MATRIX, ROWS, THROTTLES};
use crate::slots::slot_of;

/// A CPU's clocks and what was stolen from it, read at one moment.
struct Reading {
    now_ns: u64,
    /// What the kernel charges tasks by; `now_ns` where it is not told.
    task_ns: u64,
    steal_ns: u64,
    /// Whether `now_ns` is the run-queue clock.
    run_queue: bool,
}

/// One context switch from `prev` to `next`.
#[inline(always)]
pub(crate) fn switched<K: Kread>(prev: &Task<K>, next: &Task<K>) {
    // SAFETY: a helper without arguments.
    let cpu_index = unsafe { bpf_get_smp_processor_id() };
    let Some(cpu) = cpu_state(cpu_index) else {
        return lose(cpu_index, LossReason::Unreachable);
    };
    let reading = read::<K>(next);

    if !reading.run_queue {
        note_skew(cpu, prev);
    } else if is_another(cpu, prev) {
        catch_up(cpu_index, cpu, prev, &reading);
    }
    account_running(cpu_index, cpu, &reading);
    cpu.switches += 1;

    if next.is_idle() {
        cpu.slot = u64::from(SLOT_IDLE);
        return;
    }
    let slot = slot_of(cpu_index, next.cgroup_id());
    cpu.slot = u64::from(slot);
    if let Some(queued_ns) = next.last_queued_ns()
        && queued_ns != 0
    {
        let queued_ns = if reading.run_queue {
            queued_ns
        } else {
            // The skew is known to the length of a switch: a wait shorter than that may seem to begin after its end.
            reading.now_ns.min(queued_ns.wrapping_add(cpu.skew_ns))
        };
        account_wait(
            cpu_index,
            cpu,
            slot,
            queued_ns,
            reading.now_ns,
            next.throttled_ns(),
        );
    }
}

/// Enters the running task's time so far, as if it had been switched out and in again.
///
/// The agent runs this on every busy CPU before it reads: a task that never switches would stay unseen until it does.
#[inline(always)]
pub(crate) fn flush() {
    // SAFETY: a helper without arguments.
    let cpu_index = unsafe { bpf_get_smp_processor_id() };
    let Some(cpu) = cpu_state(cpu_index) else {
        return lose(cpu_index, LossReason::Unreachable);
    };
    if cpu.since_ns == 0 || cpu.slot == u64::from(SLOT_IDLE) {
        return;
    }
    // SAFETY: the current task lives while the program runs.
    let current: Task<Probe> = unsafe { Task::new(bpf_get_current_task() as *const u8) };
    let reading = read::<Probe>(&current);
    account_running(cpu_index, cpu, &reading);
}

#[inline(always)]
fn cpu_state(cpu_index: u32) -> Option<&'static mut Cpu> {
    // SAFETY: only this CPU writes its element, and with interrupts off.
    CPUS.get_ptr_mut(cpu_index).map(|cpu| unsafe { &mut *cpu })
}

/// The clock, by way of a task on this CPU.
#[inline(always)]
fn read<K: Kread>(task: &Task<K>) -> Reading {
    match task.run_queue() {
        Some(rq) => {
            let now_ns = rq.clock_ns();
            Reading {
                now_ns,
                task_ns: rq.task_clock_ns().unwrap_or(now_ns),
                steal_ns: rq.stolen_ns(),
                run_queue: true,
            }
        }
        None => {
            // SAFETY: a helper without arguments.
            let now_ns = unsafe { bpf_ktime_get_ns() };
            Reading {
                now_ns,
                task_ns: now_ns,
                steal_ns: 0,
                run_queue: false,
            }
        }
    }
}

/// Without the run-queue clock: what this CPU's own stamp of the last switch says about the distance between the two.
#[inline(always)]
fn note_skew<K: Kread>(cpu: &mut Cpu, prev: &Task<K>) {
    if let Some(arrival_ns) = prev.last_arrival_ns()
        && arrival_ns != 0
        && cpu.slot != u64::from(SLOT_IDLE)
        && cpu.since_ns != 0
    {
        cpu.skew_ns = cpu.since_ns.wrapping_sub(arrival_ns);
    }
}

/// Whether `prev` is another task than the one that was last seen to begin: a switch in between was not told.
///
/// That happens: the kernel skips a program that runs already on this CPU, and some kernels tell nothing of tasks that they hide.
#[inline(always)]
fn is_another<K: Kread>(cpu: &Cpu, prev: &Task<K>) -> bool {
    if cpu.since_ns == 0 {
        return false;
    }
    if prev.is_idle() {
        return cpu.slot != u64::from(SLOT_IDLE);
    }
    // The same clock at the same switch, where it was seen; later than that only where it was not.
    prev.last_arrival_ns()
        .is_some_and(|arrival_ns| arrival_ns > cpu.since_ns)
}

/// Enters what is known of a switch that was not told: when `prev` began, unless it is the idle task.
#[inline(always)]
fn catch_up<K: Kread>(cpu_index: u32, cpu: &mut Cpu, prev: &Task<K>, reading: &Reading) {
    lose(cpu_index, LossReason::MissedSwitch);
    if prev.is_idle() {
        // It ran, then the CPU was idle; when is not known.
        cpu.slot = u64::from(SLOT_UNRESOLVED);
        return;
    }
    let arrival_ns = prev.last_arrival_ns().unwrap_or(cpu.since_ns);
    // When something was taken from the CPU is not known either: it counts for what follows, as far as that has room for it.
    let before_ns = arrival_ns.wrapping_sub(cpu.since_ns);
    let whole_ns = reading.task_ns.wrapping_sub(cpu.task_ns);
    let until_then = Reading {
        now_ns: arrival_ns,
        task_ns: cpu
            .task_ns
            .wrapping_add(if before_ns < whole_ns { before_ns } else { whole_ns }),
        steal_ns: cpu.steal_ns,
        run_queue: true,
    };
    account_running(cpu_index, cpu, &until_then);
    cpu.slot = u64::from(slot_of(cpu_index, prev.cgroup_id()));
}

/// The slot that runs on this CPU did so until now.
#[inline(always)]
fn account_running(cpu_index: u32, cpu: &mut Cpu, reading: &Reading) {
    let since_ns = cpu.since_ns;
    let task_ns = reading.task_ns.wrapping_sub(cpu.task_ns);
    let steal_ns = reading.steal_ns.wrapping_sub(cpu.steal_ns);
    cpu.task_ns = reading.task_ns;
    cpu.steal_ns = reading.steal_ns;
    if since_ns == 0 {
        cpu.since_ns = reading.now_ns;
        return past::begin(cpu, reading.now_ns);
    }
    if reading.now_ns < since_ns {
        return lose(cpu_index, LossReason::ClockBackwards);
    }
    cpu.since_ns = reading.now_ns;
    let (ran_ns, stolen_ns) = past::split(reading.now_ns - since_ns, task_ns, steal_ns);
    match row(cpu_index, cpu.slot as u32) {
        Some(row) => row.run_ns += ran_ns,
        None => lose(cpu_index, LossReason::Unreachable),
    }
    past::push_with_steal(cpu, cpu.slot, reading.now_ns, stolen_ns);
}

/// A task of `slot` was queued from `queued_ns` until now. `throttled_ns`: for how long its cgroup was throttled here in all.
#[inline(always)]
fn account_wait(cpu_index: u32, cpu: &Cpu, slot: u16, queued_ns: u64, now_ns: u64, throttled_ns: u64) {
    if queued_ns > now_ns {
        return lose(cpu_index, LossReason::ClockBackwards);
    }
    let Some(row) = row(cpu_index, u32::from(slot)) else {
        return lose(cpu_index, LossReason::Unreachable);
    };
    let wait_ns = now_ns - queued_ns;
    row.wait_ns += wait_ns;
    row.waits[buckets::bucket(wait_ns) & (BUCKETS - 1)] += 1;

    if throttled_ns != 0 {
        return resolve_throttled(cpu_index, slot, queued_ns, now_ns, throttled_ns);
    }
    let unresolved_ns = past::tile(cpu, queued_ns, now_ns, |runner, ns| {
        enter_ran(cpu_index, row, slot, runner, ns);
    });
    if unresolved_ns != 0 {
        enter(cpu_index, slot, u32::from(SLOT_UNRESOLVED), unresolved_ns);
    }
}

/// As above, for a cgroup that its own `cpu.max` has throttled on this CPU before. Not inlined: few have one, and the others' path stays short.
#[inline(never)]
fn resolve_throttled(cpu_index: u32, slot: u16, queued_ns: u64, now_ns: u64, total_ns: u64) {
    let (Some(cpu), Some(row), Some(throttle)) = (
        cpu_state(cpu_index),
        row(cpu_index, u32::from(slot)),
        THROTTLES.get_ptr_mut(cpu_index * SLOTS as u32 + u32::from(slot)),
    ) else {
        return lose(cpu_index, LossReason::Unreachable);
    };
    // SAFETY: only this CPU writes its elements, and with interrupts off.
    let throttle = unsafe { &mut *throttle };
    let parts = throttle::parts(throttle, cpu, u64::from(slot), queued_ns, now_ns, total_ns);
    let throttled_ns = parts.until_ns.wrapping_sub(parts.from_ns);
    if throttled_ns != 0 {
        enter(cpu_index, slot, u32::from(SLOT_THROTTLED), throttled_ns);
    }
    let unresolved_ns = throttle::tile_around(cpu, &parts, queued_ns, now_ns, |runner, ns| {
        enter_ran(cpu_index, row, slot, runner, ns);
    });
    if unresolved_ns != 0 {
        enter(cpu_index, slot, u32::from(SLOT_UNRESOLVED), unresolved_ns);
    }
}

/// While a task of `slot` waited, `runner` ran.
#[inline(always)]
fn enter_ran(cpu_index: u32, row: &mut Row, slot: u16, runner: u64, ns: u64) {
    if runner == u64::from(slot) {
        row.self_ns += ns;
    } else if runner == u64::from(SLOT_IDLE) {
        row.idle_ns += ns;
    } else {
        enter(cpu_index, slot, runner as u32, ns);
    }
}

#[inline(always)]
fn row(cpu_index: u32, slot: u32) -> Option<&'static mut Row> {
    // SAFETY: only this CPU writes its rows, and with interrupts off.
    ROWS.get_ptr_mut(cpu_index * SLOTS as u32 + slot)
        .map(|row| unsafe { &mut *row })
}

/// Adds to the pair of `waiter` and `runner`.
#[inline(always)]
fn enter(cpu_index: u32, waiter: u16, runner: u32, ns: u64) {
    match MATRIX.get_ptr_mut(u32::from(waiter) * SLOTS as u32 + runner) {
        // SAFETY: an element of the map.
        Some(cell) => unsafe { maps::add(cell, ns) },
        None => lose(cpu_index, LossReason::Unreachable),
    }
}
