//! The increments of one report, kept as bytes until they leave the window.
//!
//! A window's sums are running sums: an increment is added when its report arrives and subtracted when it leaves. What must be kept is
//! therefore only the list of increments, read exactly twice more in order. As variable-length integers a pod takes some 50 bytes in a
//! report, a ledger pair 6, where fixed-width records would take 200 and 24; integers also make the subtraction exact.

use super::slot::{CLASSES, Counter};
use crate::report::WAIT_BUCKETS;

/// What the reports of one stretch of time added.
#[derive(Debug)]
pub(crate) struct Frame {
    /// CLOCK_BOOTTIME of the node.
    pub(crate) from_ns: u64,
    pub(crate) to_ns: u64,
    /// Still part of the fast window.
    pub(crate) in_fast: bool,
    /// Added to the totals since the start.
    pub(crate) folded: bool,
    bytes: Vec<u8>,
}

/// One increment, as read back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Increment<'a> {
    Cpu {
        slot: u32,
        run_ns: u64,
        wait_ns: u64,
        waits: &'a [u64],
    },
    /// Pairs of the row follow, each an [`Increment::Pair`].
    Row {
        slot: u32,
        classes: [u64; CLASSES],
        hit: bool,
    },
    Pair {
        slot: u32,
        runner_index: u32,
        runner_slot: u32,
        ns: u64,
    },
}

impl Frame {
    pub(crate) fn new(from_ns: u64, to_ns: u64) -> Self {
        Self {
            from_ns,
            to_ns,
            in_fast: true,
            folded: false,
            bytes: Vec::new(),
        }
    }

    /// As [`Frame::encoded`] gave it.
    pub(super) fn restore(from_ns: u64, to_ns: u64, bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            ..Self::new(from_ns, to_ns)
        }
    }

    pub(super) fn encoded(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn len_ns(&self) -> u64 {
        self.to_ns - self.from_ns
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Takes back what growth reserved beyond need: a frame is written once and then lies for a window's length.
    pub(crate) fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
    }

    pub(crate) fn reserve(&mut self, bytes: usize) {
        self.bytes.reserve(bytes);
    }

    pub(crate) fn push_cpu(&mut self, slot: u32, run_ns: u64, wait_ns: u64, waits: &[u64]) {
        let used = waits
            .iter()
            .rposition(|n| *n > 0)
            .map_or(0, |i| i + 1)
            .min(WAIT_BUCKETS);
        self.put(u64::from(slot) << 1);
        self.put(run_ns);
        self.put(wait_ns);
        self.put(used as u64);
        for n in &waits[..used] {
            self.put(*n);
        }
    }

    /// Begins a row; its pairs are pushed next, then [`Frame::end_row`].
    pub(crate) fn begin_row(&mut self, slot: u32, classes: &[u64; CLASSES], hit: bool) {
        self.put(u64::from(slot) << 1 | 1);
        self.put(u64::from(hit));
        for n in classes {
            self.put(*n);
        }
    }

    /// `ns` is not 0.
    pub(crate) fn push_pair(&mut self, runner_index: u32, runner_slot: u32, ns: u64) {
        self.put(ns);
        self.put(u64::from(runner_index));
        self.put(u64::from(runner_slot));
    }

    pub(crate) fn end_row(&mut self) {
        self.put(0);
    }

    /// Every increment, in the order pushed.
    pub(crate) fn replay(&self, mut each: impl FnMut(Increment<'_>)) {
        let mut at = Reader { bytes: &self.bytes };
        let mut waits = [0; WAIT_BUCKETS];
        while let Some(head) = at.get() {
            let slot = (head >> 1) as u32;
            if head & 1 == 0 {
                let (run_ns, wait_ns) = (at.next(), at.next());
                let used = (at.next() as usize).min(WAIT_BUCKETS);
                for n in &mut waits[..used] {
                    *n = at.next();
                }
                each(Increment::Cpu {
                    slot,
                    run_ns,
                    wait_ns,
                    waits: &waits[..used],
                });
                continue;
            }
            let hit = at.next() != 0;
            let mut classes = [0; CLASSES];
            for n in &mut classes {
                *n = at.next();
            }
            each(Increment::Row { slot, classes, hit });
            loop {
                let ns = at.next();
                if ns == 0 {
                    break;
                }
                let (runner_index, runner_slot) = (at.next() as u32, at.next() as u32);
                each(Increment::Pair {
                    slot,
                    runner_index,
                    runner_slot,
                    ns,
                });
            }
        }
    }

    /// LEB128.
    fn put(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.bytes.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.bytes.push(n as u8);
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl Reader<'_> {
    fn get(&mut self) -> Option<u64> {
        let (first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        let mut n = u64::from(first & 0x7f);
        let mut byte = *first;
        let mut shift = 7;
        while byte & 0x80 != 0 && shift < 64 {
            let (next, rest) = self.bytes.split_first()?;
            self.bytes = rest;
            byte = *next;
            n |= u64::from(byte & 0x7f) << shift;
            shift += 7;
        }
        Some(n)
    }

    fn next(&mut self) -> u64 {
        self.get().unwrap_or(0)
    }
}

/// Index of a class within a row's classes.
pub(crate) const fn class(counter: Counter) -> usize {
    counter as usize - Counter::Itself as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Owned {
        Cpu(u32, u64, u64, Vec<u64>),
        Row(u32, [u64; CLASSES], bool, Vec<(u32, u32, u64)>),
    }

    fn any_increment() -> impl Strategy<Value = Owned> {
        prop_oneof![
            (
                any::<u32>(),
                any::<u64>(),
                any::<u64>(),
                prop::collection::vec(any::<u64>(), 0..=WAIT_BUCKETS)
            )
                .prop_map(|(s, r, w, h)| Owned::Cpu(s, r, w, h)),
            (
                any::<u32>(),
                any::<[u64; CLASSES]>(),
                any::<bool>(),
                prop::collection::vec((any::<u32>(), any::<u32>(), 1..=u64::MAX), 0..6)
            )
                .prop_map(|(s, c, h, p)| Owned::Row(s, c, h, p)),
        ]
    }

    proptest! {
        #[test]
        fn what_is_pushed_is_read_back(list in prop::collection::vec(any_increment(), 0..20)) {
            let mut frame = Frame::new(0, 1);
            let mut expected = Vec::new();
            for increment in &list {
                match increment {
                    Owned::Cpu(slot, run, wait, waits) => {
                        frame.push_cpu(*slot, *run, *wait, waits);
                        let used = waits.iter().rposition(|n| *n > 0).map_or(0, |i| i + 1);
                        expected.push(format!("{:?}", Increment::Cpu { slot: *slot, run_ns: *run, wait_ns: *wait, waits: &waits[..used] }));
                    }
                    Owned::Row(slot, classes, hit, pairs) => {
                        frame.begin_row(*slot, classes, *hit);
                        expected.push(format!("{:?}", Increment::Row { slot: *slot, classes: *classes, hit: *hit }));
                        for (runner_index, runner_slot, ns) in pairs {
                            frame.push_pair(*runner_index, *runner_slot, *ns);
                            expected.push(format!("{:?}", Increment::Pair { slot: *slot, runner_index: *runner_index, runner_slot: *runner_slot, ns: *ns }));
                        }
                        frame.end_row();
                    }
                }
            }
            let mut found = Vec::new();
            frame.replay(|i| found.push(format!("{i:?}")));
            prop_assert_eq!(found, expected);
        }
    }
}
