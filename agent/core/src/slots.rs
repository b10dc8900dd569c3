//! From cumulative counters to what was added since the last reading.

use partywall_abi::{BUCKETS, Reclaim, Reclaimed, SLOTS};

/// One slot's counters, summed over CPUs, cumulative since load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub run_ns: u64,
    pub wait_ns: u64,
    pub self_ns: u64,
    pub idle_ns: u64,
    /// Each bucket wraps at 2^32.
    pub waits: [u32; BUCKETS],
}

/// What one slot's cgroup did since the last reading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Added {
    pub run_ns: u64,
    pub self_ns: u64,
    pub idle_ns: u64,
    pub waits: [u64; BUCKETS],
    /// (runner slot, nanoseconds), only what changed.
    pub cells: Vec<(u16, u64)>,
}

#[derive(Default)]
struct Base {
    totals: Totals,
    /// By runner slot. Allocated when the slot first waits for another.
    cells: Option<Box<[u64]>>,
    cells_sum_ns: u64,
    reclaim: Reclaim,
}

/// The last reading of every slot.
///
/// A slot's counters are never reset: when it goes from one cgroup to the next, the next one's begin where the last
/// reading of the old one's ended.
pub struct Book {
    bases: Vec<Base>,
}

impl Default for Book {
    fn default() -> Self {
        Self {
            bases: std::iter::repeat_with(Base::default).take(SLOTS).collect(),
        }
    }
}

impl Book {
    /// Whether the slot has waited for another since its last reading: only then its cells must be read.
    pub fn waited_for_others(&self, slot: u16, totals: &Totals) -> bool {
        let others = |totals: &Totals| {
            totals
                .wait_ns
                .wrapping_sub(totals.self_ns)
                .wrapping_sub(totals.idle_ns)
        };
        self.bases.get(usize::from(slot)).is_some_and(|base| {
            // Not the totals alone: a reading may have caught a wait before its cells.
            others(totals) != others(&base.totals) || others(totals) != base.cells_sum_ns
        })
    }

    /// Enters a reading of `slot`, with its cells against `runners` where they were read, and returns what was added.
    ///
    /// The second value tells whether everything entered for this slot so far adds up to its wait.
    pub fn enter(&mut self, slot: u16, totals: &Totals, runners: &[u16], cells: &[u64]) -> (Added, bool) {
        let Some(base) = self.bases.get_mut(usize::from(slot)) else {
            return (Added::default(), true);
        };
        let before = std::mem::replace(&mut base.totals, *totals);
        let mut added = Added {
            run_ns: totals.run_ns.wrapping_sub(before.run_ns),
            self_ns: totals.self_ns.wrapping_sub(before.self_ns),
            idle_ns: totals.idle_ns.wrapping_sub(before.idle_ns),
            waits: std::array::from_fn(|bucket| {
                u64::from(
                    totals
                        .waits
                        .get(bucket)
                        .copied()
                        .unwrap_or(0)
                        .wrapping_sub(before.waits.get(bucket).copied().unwrap_or(0)),
                )
            }),
            cells: Vec::new(),
        };
        for (runner, cell_ns) in runners.iter().zip(cells) {
            if *cell_ns == 0 {
                continue;
            }
            let known = base
                .cells
                .get_or_insert_with(|| vec![0; SLOTS].into_boxed_slice());
            if let Some(known_ns) = known.get_mut(usize::from(*runner)) {
                let more_ns = cell_ns.wrapping_sub(*known_ns);
                if more_ns != 0 {
                    *known_ns = *cell_ns;
                    base.cells_sum_ns = base.cells_sum_ns.wrapping_add(more_ns);
                    added.cells.push((*runner, more_ns));
                }
            }
        }
        let entered_ns = totals
            .self_ns
            .wrapping_add(totals.idle_ns)
            .wrapping_add(base.cells_sum_ns);
        (added, entered_ns == totals.wait_ns)
    }

    /// What was added to what `slot`'s tasks reclaimed; `None`: nothing.
    pub fn enter_reclaim(&mut self, slot: u16, reclaim: &Reclaim) -> Option<Reclaim> {
        let base = self.bases.get_mut(usize::from(slot))?;
        let before = std::mem::replace(&mut base.reclaim, *reclaim);
        let added = |now: &Reclaimed, before: &Reclaimed| Reclaimed {
            stall_ns: now.stall_ns.wrapping_sub(before.stall_ns),
            pages: now.pages.wrapping_sub(before.pages),
            times: now.times.wrapping_sub(before.times),
            reserved: 0,
        };
        (before != *reclaim).then(|| Reclaim {
            limit: added(&reclaim.limit, &before.limit),
            node: added(&reclaim.node, &before.node),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(run_ns: u64, wait_ns: u64, self_ns: u64, idle_ns: u64) -> Totals {
        Totals {
            run_ns,
            wait_ns,
            self_ns,
            idle_ns,
            ..Totals::default()
        }
    }

    #[test]
    fn what_was_added_is_the_difference_and_adds_up() {
        let mut book = Book::default();
        let (added, whole) = book.enter(9, &totals(100, 60, 10, 20), &[5, 6], &[30, 0]);
        assert_eq!((added.run_ns, added.cells, whole), (100, vec![(5, 30)], true));
        let (added, whole) = book.enter(9, &totals(150, 95, 15, 20), &[5, 6], &[40, 20]);
        assert_eq!(
            (added.run_ns, added.self_ns, added.idle_ns, added.cells, whole),
            (50, 5, 0, vec![(5, 10), (6, 20)], true)
        );
    }

    #[test]
    fn a_wait_caught_before_its_cells_is_entered_by_the_next_reading() {
        let mut book = Book::default();
        let caught = totals(0, 50, 0, 0);
        let (added, whole) = book.enter(9, &caught, &[5], &[30]);
        assert_eq!((added.cells, whole), (vec![(5, 30)], false));
        assert!(
            book.waited_for_others(9, &caught),
            "the same totals must be read again"
        );
        let (added, whole) = book.enter(9, &caught, &[5], &[50]);
        assert_eq!((added.cells, whole), (vec![(5, 20)], true));
        assert!(!book.waited_for_others(9, &caught));
    }

    #[test]
    fn histogram_counts_survive_the_wrap_of_their_32_bits() {
        let mut book = Book::default();
        let mut reading = Totals::default();
        reading.waits[3] = u32::MAX;
        book.enter(9, &reading, &[], &[]);
        reading.waits[3] = 4;
        assert_eq!(book.enter(9, &reading, &[], &[]).0.waits[3], 5);
    }
}
