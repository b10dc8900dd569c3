//! The past of a CPU: who ran, until when. A wait is tiled with it.

use partywall_abi::{Cpu, SLICES, SLOT_STEAL, SLOT_UNRESOLVED, Slice};

const MASK: u64 = SLICES as u64 - 1;

/// Begins the past at `now_ns`. What lies before is one slice without an owner.
#[inline(always)]
pub fn begin(cpu: &mut Cpu, now_ns: u64) {
    cpu.slices[0] = Slice {
        end_ns: now_ns,
        slot: u64::from(SLOT_UNRESOLVED),
    };
    cpu.pushed = 1;
}

/// Enters that `slot` ran until `end_ns`, from where the newest slice ended. Two slices of one slot in a row are one.
#[inline(always)]
pub fn push(cpu: &mut Cpu, slot: u64, end_ns: u64) {
    let newest = (cpu.pushed.wrapping_sub(1) & MASK) as usize;
    if cpu.slices[newest].slot == slot {
        cpu.slices[newest].end_ns = end_ns;
    } else {
        cpu.slices[(cpu.pushed & MASK) as usize] = Slice { end_ns, slot };
        cpu.pushed = cpu.pushed.wrapping_add(1);
    }
}

/// What the task of a slice of `elapsed_ns` is charged for, and what of the rest the hypervisor took.
///
/// `task_ns` is how far the task clock went meanwhile, `steal_ns` how much the count of stolen time grew. The count alone would say too
/// much: newer kernels let it grow by more than they spare the task, where more was stolen than the clock went on (a CPU that
/// slept). What is neither went to interrupts.
#[inline(always)]
pub fn split(elapsed_ns: u64, task_ns: u64, steal_ns: u64) -> (u64, u64) {
    let rest_ns = elapsed_ns.saturating_sub(task_ns);
    (task_ns, if steal_ns > rest_ns { rest_ns } else { steal_ns })
}

/// Enters the slice of `slot` that ends at `end_ns`, of which the hypervisor took `stolen_ns`.
///
/// When within the slice it took them is not known: they are set at its end, so that sums are right.
#[inline(always)]
pub fn push_with_steal(cpu: &mut Cpu, slot: u64, end_ns: u64, stolen_ns: u64) {
    push(cpu, slot, end_ns.wrapping_sub(stolen_ns));
    if stolen_ns != 0 {
        push(cpu, u64::from(SLOT_STEAL), end_ns);
    }
}

/// Tiles the wait from `queued_ns` to `now_ns` with the CPU's past, newest first, and returns what no kept slice covers.
///
/// Tiles and the returned rest sum to `now_ns - queued_ns`, exactly. Requires `queued_ns <= now_ns`, and that the newest
/// slice ended at `now_ns`.
#[inline(always)]
pub fn tile(cpu: &Cpu, queued_ns: u64, now_ns: u64, mut enter: impl FnMut(u64, u64)) -> u64 {
    spans(cpu, queued_ns, now_ns, |slot, from_ns, to_ns| {
        enter(slot, to_ns.wrapping_sub(from_ns));
    })
}

/// As [`tile`], with where each tile lies: slot, from, to.
#[inline(always)]
pub fn spans(cpu: &Cpu, queued_ns: u64, now_ns: u64, mut enter: impl FnMut(u64, u64, u64)) -> u64 {
    let mut until_ns = now_ns;
    let mut index = cpu.pushed.wrapping_sub(1);
    // One slice fewer than are kept: the oldest one's beginning was overwritten.
    for _ in 0..SLICES - 1 {
        let slice = cpu.slices[(index & MASK) as usize];
        index = index.wrapping_sub(1);
        // Before the ring has gone round once, what precedes the first slice reads as zeroes: it began at 0.
        let began_ns = cpu.slices[(index & MASK) as usize].end_ns;
        if began_ns <= queued_ns {
            enter(slice.slot, queued_ns, until_ns);
            return 0;
        }
        enter(slice.slot, began_ns, until_ns);
        until_ns = began_ns;
    }
    until_ns.wrapping_sub(queued_ns)
}

/// When `slot` last stopped running on this CPU, as far as slices are kept.
#[inline(always)]
pub fn last_end(cpu: &Cpu, slot: u64) -> Option<u64> {
    let mut index = cpu.pushed.wrapping_sub(1);
    for _ in 0..SLICES {
        let slice = cpu.slices[(index & MASK) as usize];
        if slice.slot == slot && slice.end_ns != 0 {
            return Some(slice.end_ns);
        }
        index = index.wrapping_sub(1);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Who ran from when to when, kept without a bound.
    fn truth(history: &[(u64, u64, u64)], queued_ns: u64) -> BTreeMap<u64, u64> {
        let mut ran = BTreeMap::new();
        for &(slot, began_ns, end_ns) in history {
            if end_ns > queued_ns {
                *ran.entry(slot).or_default() += end_ns - began_ns.max(queued_ns);
            }
        }
        ran.retain(|_, ns| *ns > 0);
        ran
    }

    fn tiles(cpu: &Cpu, queued_ns: u64, now_ns: u64) -> (BTreeMap<u64, u64>, u64) {
        let mut ran = BTreeMap::new();
        let unresolved = tile(cpu, queued_ns, now_ns, |slot, ns| {
            *ran.entry(slot).or_default() += ns;
        });
        ran.retain(|_, ns| *ns > 0);
        (ran, unresolved)
    }

    #[test]
    fn a_slice_is_split_by_what_the_kernel_charges() {
        for (elapsed, task, steal, expected) in [
            (1_000, 1_000, 0, (1_000, 0)),
            (1_000, 700, 300, (700, 300)),
            // More was counted as stolen than the task was spared.
            (1_000, 900, 2_700, (900, 100)),
            (1_000, 1_000, 2_700, (1_000, 0)),
            // Interrupts took it.
            (1_000, 800, 0, (800, 0)),
            // Read between the two clocks' updates: what was short then is over now, and nothing is lost.
            (1_000, 1_200, 50, (1_200, 0)),
            (0, 0, 0, (0, 0)),
        ] {
            assert_eq!(split(elapsed, task, steal), expected, "{elapsed} {task} {steal}");
        }
    }

    #[test]
    fn a_wait_across_three_slices() {
        let mut cpu = Cpu::EMPTY;
        begin(&mut cpu, 100);
        push(&mut cpu, 7, 200);
        push(&mut cpu, 8, 300);
        push(&mut cpu, 7, 350);
        assert_eq!(tiles(&cpu, 150, 350), (BTreeMap::from([(7, 100), (8, 100)]), 0));
    }

    #[test]
    fn what_ran_before_the_beginning_has_no_owner() {
        let mut cpu = Cpu::EMPTY;
        begin(&mut cpu, 100);
        push(&mut cpu, 7, 200);
        assert_eq!(
            tiles(&cpu, 40, 200),
            (BTreeMap::from([(7, 100), (u64::from(SLOT_UNRESOLVED), 60)]), 0)
        );
    }

    #[test]
    fn what_the_ring_forgot_is_returned() {
        let mut cpu = Cpu::EMPTY;
        begin(&mut cpu, 0);
        for index in 1..=100 {
            push(&mut cpu, 10 + index, index * 10);
        }
        let (ran, unresolved) = tiles(&cpu, 5, 1000);
        assert_eq!(ran.len(), SLICES - 1);
        assert_eq!(ran.values().sum::<u64>() + unresolved, 995);
        assert_eq!(unresolved, 995 - (SLICES as u64 - 1) * 10);
    }

    #[test]
    fn slices_of_one_slot_are_one() {
        let mut cpu = Cpu::EMPTY;
        begin(&mut cpu, 0);
        for index in 1..=1000 {
            push(&mut cpu, 7, index * 10);
        }
        assert_eq!(cpu.pushed, 2);
        assert_eq!(tiles(&cpu, 15, 10_000), (BTreeMap::from([(7, 9_985)]), 0));
    }

    #[test]
    fn stolen_time_is_the_hypervisors() {
        let mut cpu = Cpu::EMPTY;
        begin(&mut cpu, 0);
        push_with_steal(&mut cpu, 7, 100, 30);
        assert_eq!(
            tiles(&cpu, 10, 100),
            (BTreeMap::from([(7, 60), (u64::from(SLOT_STEAL), 30)]), 0)
        );
    }

    proptest! {
        /// Against a history without a bound: what is entered is true to the nanosecond, and nothing is dropped.
        #[test]
        fn tiles_are_true_and_sum_to_the_wait(
            began_ns in 1u64..1_000,
            slices in prop::collection::vec((5u64..12, 0u64..50), 1..120),
            back_ns in 0u64..4_000,
        ) {
            let mut cpu = Cpu::EMPTY;
            begin(&mut cpu, began_ns);
            let mut now_ns = began_ns;
            let mut history = vec![(u64::from(SLOT_UNRESOLVED), 0, began_ns)];
            for (slot, length_ns) in slices {
                history.push((slot, now_ns, now_ns + length_ns));
                now_ns += length_ns;
                push(&mut cpu, slot, now_ns);
            }
            let queued_ns = now_ns.saturating_sub(back_ns);
            let (ran, unresolved) = tiles(&cpu, queued_ns, now_ns);
            prop_assert_eq!(ran.values().sum::<u64>() + unresolved, now_ns - queued_ns);
            let truth = truth(&history, queued_ns + unresolved);
            prop_assert_eq!(ran, truth);
        }
    }
}
