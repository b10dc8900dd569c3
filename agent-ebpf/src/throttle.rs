//! A pod's own `cpu.max`: which part of a wait it was throttled for.
//!
//! The kernel keeps, per cgroup and CPU, for how long it was throttled in all, and tells no moment. The figure grows when a
//! throttling ends, and the first task of the cgroup that runs after it sees by how much.

use partywall_abi::{Cpu, Throttle};

use crate::past;

/// The parts of a wait that are not tiled with who ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Before this nothing is known any more: only one throttling is remembered.
    pub known_from_ns: u64,
    /// Throttled from here …
    pub from_ns: u64,
    /// … until here. Within the known part; equal where there is none.
    pub until_ns: u64,
}

/// Notes what has been added to the cgroup's throttled time, `total_ns`, and gives the parts of a wait from `queued_ns` to `now_ns`.
#[inline(always)]
pub fn parts(
    throttle: &mut Throttle,
    cpu: &Cpu,
    slot: u64,
    queued_ns: u64,
    now_ns: u64,
    total_ns: u64,
) -> Parts {
    let added_ns = total_ns.wrapping_sub(throttle.total_ns);
    if added_ns != 0 {
        // A cgroup is throttled while it runs: from its last slice's end on.
        let began_ns = past::last_end(cpu, slot).unwrap_or(queued_ns);
        let room_ns = now_ns.wrapping_sub(began_ns);
        // What was added before anybody looked may be the sum of a lifetime.
        throttle.known_from_ns = if throttle.total_ns == 0 && added_ns > room_ns {
            now_ns
        } else {
            throttle.until_ns
        };
        throttle.total_ns = total_ns;
        throttle.until_ns = if added_ns > room_ns {
            now_ns
        } else {
            began_ns.wrapping_add(added_ns)
        };
        throttle.from_ns = throttle.until_ns.wrapping_sub(added_ns);
    }
    let within = |ns: u64, low_ns: u64| {
        if ns < low_ns {
            low_ns
        } else if ns > now_ns {
            now_ns
        } else {
            ns
        }
    };
    let known_from_ns = within(throttle.known_from_ns, queued_ns);
    let from_ns = within(throttle.from_ns, known_from_ns);
    Parts {
        known_from_ns,
        from_ns,
        until_ns: within(throttle.until_ns, from_ns),
    }
}

/// Tiles the wait around its throttled part: `enter` gets who ran, and for how long. Returns what no kept slice covers, the part
/// before `known_from_ns` among it. Tiles, rest and throttled part sum to the wait, exactly.
#[inline(always)]
pub fn tile_around(
    cpu: &Cpu,
    parts: &Parts,
    queued_ns: u64,
    now_ns: u64,
    mut enter: impl FnMut(u64, u64),
) -> u64 {
    let mut entered_ns = parts.until_ns.wrapping_sub(parts.from_ns);
    past::spans(cpu, parts.known_from_ns, now_ns, |slot, from_ns, to_ns| {
        let hole_from_ns = if from_ns > parts.from_ns {
            from_ns
        } else {
            parts.from_ns
        };
        let hole_to_ns = if to_ns < parts.until_ns {
            to_ns
        } else {
            parts.until_ns
        };
        let hole_ns = hole_to_ns.saturating_sub(hole_from_ns);
        let ns = to_ns.wrapping_sub(from_ns).wrapping_sub(hole_ns);
        if ns != 0 {
            entered_ns = entered_ns.wrapping_add(ns);
            enter(slot, ns);
        }
    });
    now_ns.wrapping_sub(queued_ns).wrapping_sub(entered_ns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const POD: u64 = 7;
    const OTHER: u64 = 8;

    /// A CPU on which these ran, in order, from 100 on.
    fn past_of(slices: &[(u64, u64)]) -> Cpu {
        let mut cpu = Cpu::EMPTY;
        past::begin(&mut cpu, 100);
        for &(slot, end_ns) in slices {
            past::push(&mut cpu, slot, end_ns);
        }
        cpu
    }

    fn entered(
        throttle: &mut Throttle,
        cpu: &Cpu,
        queued_ns: u64,
        now_ns: u64,
        total_ns: u64,
    ) -> (BTreeMap<u64, u64>, u64, u64) {
        let parts = parts(throttle, cpu, POD, queued_ns, now_ns, total_ns);
        let mut ran = BTreeMap::new();
        let rest = tile_around(cpu, &parts, queued_ns, now_ns, |slot, ns| {
            *ran.entry(slot).or_default() += ns;
        });
        (ran, parts.until_ns - parts.from_ns, rest)
    }

    #[test]
    fn throttled_time_is_entered_against_nobody_who_ran() {
        let mut throttle = Throttle::default();
        // The pod ran until 200, was throttled for 700, and waited for another 100 after.
        let cpu = past_of(&[(POD, 200), (OTHER, 1_000)]);
        assert_eq!(
            entered(&mut throttle, &cpu, 200, 1_000, 700),
            (BTreeMap::from([(OTHER, 100)]), 700, 0)
        );
    }

    #[test]
    fn every_task_of_the_pod_was_throttled_not_only_the_first_to_run() {
        let mut throttle = Throttle::default();
        let mut cpu = past_of(&[(POD, 200), (OTHER, 1_000)]);
        entered(&mut throttle, &cpu, 200, 1_000, 700);
        past::push(&mut cpu, POD, 1_050);
        // Queued before, while the pod's first task ran.
        assert_eq!(
            entered(&mut throttle, &cpu, 150, 1_050, 700),
            (BTreeMap::from([(POD, 100), (OTHER, 100)]), 700, 0)
        );
        // Woken in the middle.
        assert_eq!(
            entered(&mut throttle, &cpu, 600, 1_050, 700),
            (BTreeMap::from([(POD, 50), (OTHER, 100)]), 300, 0)
        );
        // And after it nobody was.
        assert_eq!(
            entered(&mut throttle, &cpu, 950, 1_050, 700),
            (BTreeMap::from([(POD, 50), (OTHER, 50)]), 0, 0)
        );
    }

    #[test]
    fn a_wait_that_began_before_the_last_but_one_is_not_resolved_there() {
        let mut throttle = Throttle::default();
        let mut cpu = past_of(&[(POD, 200), (OTHER, 1_000)]);
        entered(&mut throttle, &cpu, 200, 1_000, 700);
        past::push(&mut cpu, POD, 1_100);
        past::push(&mut cpu, OTHER, 2_000);
        entered(&mut throttle, &cpu, 1_100, 2_000, 1_500);
        // Queued at 150: the first throttling ended at 900, the second lasted from 1,100 to 1,900.
        let (ran, throttled, rest) = entered(&mut throttle, &cpu, 150, 2_000, 1_500);
        assert_eq!(
            (ran, throttled, rest),
            (BTreeMap::from([(OTHER, 200), (POD, 100)]), 800, 750)
        );
    }

    #[test]
    fn a_lifetime_of_throttling_is_not_one_waits() {
        let mut throttle = Throttle::default();
        let cpu = past_of(&[(POD, 200), (OTHER, 1_000)]);
        let (ran, throttled, rest) = entered(&mut throttle, &cpu, 200, 1_000, 5_000_000);
        assert_eq!((ran, throttled, rest), (BTreeMap::new(), 0, 800));
        // From then on it is known.
        let mut cpu = cpu;
        past::push(&mut cpu, POD, 1_100);
        past::push(&mut cpu, OTHER, 2_000);
        assert_eq!(
            entered(&mut throttle, &cpu, 1_100, 2_000, 5_000_800),
            (BTreeMap::from([(OTHER, 100)]), 800, 0)
        );
    }

    proptest! {
        /// Whatever the kernel's figure does, the parts sum to the wait.
        #[test]
        fn parts_sum_to_the_wait(
            slices in prop::collection::vec((5u64..9, 1u64..50), 1..80),
            waits in prop::collection::vec((0u64..3_000, 0u64..500), 1..20),
        ) {
            let mut throttle = Throttle::default();
            let mut cpu = past_of(&[]);
            let (mut now_ns, mut total_ns) = (100, 0);
            let mut slices = slices.iter().cycle();
            for (back_ns, more_ns) in waits {
                for (slot, length_ns) in slices.by_ref().take(7) {
                    now_ns += length_ns;
                    past::push(&mut cpu, *slot, now_ns);
                }
                total_ns += more_ns;
                let queued_ns = now_ns.saturating_sub(back_ns).max(1);
                let (ran, throttled, rest) = entered(&mut throttle, &cpu, queued_ns, now_ns, total_ns);
                prop_assert_eq!(ran.values().sum::<u64>() + throttled + rest, now_ns - queued_ns);
            }
        }
    }
}
