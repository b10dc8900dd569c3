//! What leaves the windows, and what is then forgotten.

use super::slot::{CLASSES, COUNTERS, Counter, Index, Slot, WINDOWS};
use super::{Frame, Increment, Node, Window};
use crate::sums::{Party, Who};

/// An ended entity is kept at least this long after its end, in nanoseconds: a task that waited for it may be switched in later.
const ENDED_KEPT_NS: u64 = 15_000_000_000;

/// Lengths of the windows, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lengths {
    pub(crate) long_ns: u64,
    pub(crate) fast_ns: u64,
}

impl Node {
    /// Lets go of what is older than the windows that end at `end_ns` of the node's CLOCK_BOOTTIME.
    pub(crate) fn slide(&mut self, lengths: Lengths, end_ns: u64) {
        for at in 0..self.frames.len() {
            let leaves = self
                .frames
                .get(at)
                .is_some_and(|f| f.in_fast && f.to_ns.saturating_add(lengths.fast_ns) <= end_ns);
            if leaves && let Some(mut frame) = self.take(at) {
                self.subtract(&frame, Window::Fast);
                frame.in_fast = false;
                self.put_back(at, frame);
            }
        }
        while self
            .frames
            .front()
            .is_some_and(|f| f.to_ns.saturating_add(lengths.long_ns) <= end_ns)
        {
            let Some(frame) = self.frames.pop_front() else {
                break;
            };
            if frame.in_fast {
                self.subtract(&frame, Window::Fast);
            }
            self.subtract(&frame, Window::Long);
            self.frame_bytes -= frame.bytes();
        }
        let oldest = end_ns.saturating_sub(lengths.long_ns);
        while self.agent_cpu.len() > 2 && self.agent_cpu.front().is_some_and(|(t, _)| *t < oldest)
            || self.agent_cpu.len() > 1_000
        {
            self.agent_cpu.pop_front();
        }
        self.free_ended(end_ns.saturating_sub(ENDED_KEPT_NS));
    }

    /// The node's CLOCK_BOOTTIME at `now_ns` of the aggregator's monotonic clock, as far as its last report tells.
    pub(crate) fn boot_ns_at(&self, now_ns: u64) -> u64 {
        self.last_boot_ns
            .saturating_add(now_ns.saturating_sub(self.received_ns))
    }

    /// A frame is taken out of its place while the slots are changed by it, and put back. What stands there meanwhile is empty.
    fn take(&mut self, at: usize) -> Option<Frame> {
        self.frames
            .get_mut(at)
            .map(|f| std::mem::replace(f, Frame::new(f.from_ns, f.to_ns)))
    }

    fn put_back(&mut self, at: usize, frame: Frame) {
        if let Some(place) = self.frames.get_mut(at) {
            *place = frame;
        }
    }

    fn subtract(&mut self, frame: &Frame, window: Window) {
        let w = window as usize;
        self.window_ns[w] = self.window_ns[w].saturating_sub(frame.len_ns());
        let slots = &mut self.slots;
        let mut near = 0;
        frame.replay(|increment| match increment {
            Increment::Cpu {
                slot,
                run_ns,
                wait_ns,
                waits,
            } => {
                let Some(slot) = slots.get_mut(slot as usize).and_then(Option::as_mut) else {
                    return;
                };
                let sum = &mut slot.sum[w];
                sum[Counter::Run as usize] = sum[Counter::Run as usize].wrapping_sub(run_ns);
                sum[Counter::Wait as usize] = sum[Counter::Wait as usize].wrapping_sub(wait_ns);
                if let (Window::Long, Some(hist)) = (window, &mut slot.hist) {
                    for (sum, n) in hist.sum.iter_mut().zip(waits) {
                        *sum = sum.wrapping_sub(*n);
                    }
                }
            }
            Increment::Row { slot, classes, hit } => {
                near = 0;
                let Some(slot) = slots.get_mut(slot as usize).and_then(Option::as_mut) else {
                    return;
                };
                for (sum, n) in slot.sum[w][COUNTERS - CLASSES..].iter_mut().zip(classes) {
                    *sum = sum.wrapping_sub(n);
                }
                if window == Window::Long {
                    slot.hits = slot.hits.saturating_sub(u32::from(hit));
                }
            }
            Increment::Pair {
                slot,
                runner_index,
                ns,
                ..
            } => {
                let Some(slot) = slots.get_mut(slot as usize).and_then(Option::as_mut) else {
                    return;
                };
                if let Ok(at) = slot.find_pair(runner_index, near) {
                    near = at + 1;
                    slot.pairs[at].sum[w] = slot.pairs[at].sum[w].wrapping_sub(ns);
                }
            }
        });
    }

    /// Forgets entities that ended before `before_ns` and are in no window any more, and their pairs.
    fn free_ended(&mut self, before_ns: u64) {
        if self.ended_slots == 0 {
            return;
        }
        let oldest_frame = self.frames.front().map_or(u64::MAX, |f| f.from_ns);
        let before_ns = before_ns.min(oldest_frame);
        let gone: Vec<bool> = self
            .slots
            .iter()
            .map(|s| s.as_ref().is_some_and(|s| s.ended_ns < before_ns && s.is_idle()))
            .collect();
        if !gone.contains(&true) {
            return;
        }
        let is_gone = |slot: u32| gone.get(slot as usize).copied().unwrap_or(false);
        // A pair with an ended runner may still have grown after its end.
        let mut wanted = vec![false; gone.len()];
        for slot in self.slots.iter().flatten() {
            for pair in slot
                .pairs
                .iter()
                .filter(|p| WINDOWS.iter().any(|w| p.sum[*w as usize] > 0))
            {
                if let Some(w) = wanted.get_mut(pair.runner_slot as usize) {
                    *w = true;
                }
            }
        }
        let is_gone = |slot: u32| is_gone(slot) && !wanted[slot as usize];
        let mut pairs = 0;
        for (at, place) in self.slots.iter_mut().enumerate() {
            let Some(slot) = place else { continue };
            let at = at as u32;
            if is_gone(at) {
                *place = None;
                self.free.push(at);
                self.ended_slots -= 1;
                self.stale = true;
            } else {
                slot.pairs.retain(|p| !is_gone(p.runner_slot));
                pairs += slot.pairs.len();
            }
        }
        self.pair_count = pairs;
        self.index
            .retain(|e| e.slot == Index::NO_SLOT || !is_gone(e.slot));
    }

    /// Lets go of what is in the totals, without waiting until it leaves the windows.
    pub(super) fn drop_folded(&mut self) {
        while let Some(frame) = self.frames.pop_front_if(|f| f.folded) {
            if frame.in_fast {
                self.subtract(&frame, Window::Fast);
            }
            self.subtract(&frame, Window::Long);
            self.frame_bytes -= frame.bytes();
        }
    }

    /// Adds a frame's increments to the windows' sums, as they were when its report was counted.
    pub(super) fn add(&mut self, frame: &Frame) {
        self.window_ns.iter_mut().for_each(|w| *w += frame.len_ns());
        let slots = &mut self.slots;
        let mut near = 0;
        frame.replay(|increment| {
            let (Increment::Cpu { slot: at, .. }
            | Increment::Row { slot: at, .. }
            | Increment::Pair { slot: at, .. }) = increment;
            let Some(slot) = slots.get_mut(at as usize).and_then(Option::as_mut) else {
                return;
            };
            match increment {
                Increment::Cpu {
                    run_ns,
                    wait_ns,
                    waits,
                    ..
                } => {
                    for sum in &mut slot.sum {
                        sum[Counter::Run as usize] = sum[Counter::Run as usize].wrapping_add(run_ns);
                        sum[Counter::Wait as usize] = sum[Counter::Wait as usize].wrapping_add(wait_ns);
                    }
                    let sums = slot.hist.iter_mut().flat_map(|hist| &mut hist.sum);
                    sums.zip(waits).for_each(|(sum, n)| *sum = sum.wrapping_add(*n));
                }
                Increment::Row { classes, hit, .. } => {
                    near = 0;
                    slot.hits += u32::from(hit);
                    for sum in &mut slot.sum {
                        let sums = sum[COUNTERS - CLASSES..].iter_mut();
                        sums.zip(classes).for_each(|(s, n)| *s = s.wrapping_add(n));
                    }
                }
                Increment::Pair { runner_index, ns, .. } => {
                    if let Ok(at) = slot.find_pair(runner_index, near) {
                        near = at + 1;
                        let sums = slot.pairs[at].sum.iter_mut();
                        sums.for_each(|s| *s = s.wrapping_add(ns));
                    }
                }
            }
        });
    }

    /// Adds to the totals what is not in them yet. Frames younger than `settle_ns` wait while `wait`: an entity whose name is still on
    /// its way must not be counted as unknown. Who is named is told at once, also where its time waits: its object may be gone when the
    /// process is. Returns the end of the youngest that was added (0: of none), and who is somebody else than was told last; `None`:
    /// nothing was added or told.
    pub(crate) fn fold(
        &mut self,
        wait: bool,
        settle_ns: u64,
        now_ns: u64,
    ) -> Option<(u64, Vec<(u32, Party)>)> {
        let newest = self.boot_ns_at(now_ns);
        let is_due = |f: &Frame| !f.folded && (!wait || f.to_ns.saturating_add(settle_ns) <= newest);
        let up_to_ns = self.frames.iter().filter(|f| is_due(f)).map(|f| f.to_ns).max();
        let mut changed = Vec::new();
        for slot in self.slots.iter_mut().flatten() {
            let party = match self.units.get(slot.unit as usize).map(|u| (&u.who, u.party)) {
                Some((Who::Unidentified(_), _)) if up_to_ns.is_none() => continue,
                // Its object is gone, or not there yet after a restart: it is who it was.
                Some((Who::Unidentified(_), party)) => slot.told.unwrap_or(party),
                Some((_, party)) => party,
                None => Party::UNKNOWN,
            };
            if slot.told != Some(party) {
                changed.push((slot.index, party));
                slot.told = Some(party);
            }
        }
        if up_to_ns.is_none() && changed.is_empty() {
            return None;
        }
        let up_to_ns = up_to_ns.unwrap_or(0);
        self.fold_up_to(up_to_ns);
        Some((up_to_ns, changed))
    }

    /// Says whose the time of these entities is.
    pub(super) fn tell(&mut self, names: &[(u32, Party)]) {
        for (index, party) in names {
            let at = self.index.find(*index, &mut 0).map(|entry| entry.slot as usize);
            if let Some(slot) = at.and_then(|at| self.slots.get_mut(at)).and_then(Option::as_mut) {
                slot.told = Some(*party);
            }
        }
    }

    /// Adds to the totals all frames that end by `up_to_ns`, as what was told of their slots says.
    pub(super) fn fold_up_to(&mut self, up_to_ns: u64) {
        let told = |s: &Option<Slot>| s.as_ref().and_then(|s| s.told).unwrap_or(Party::UNKNOWN);
        let parties: Vec<Party> = self.slots.iter().map(told).collect();
        for at in 0..self.frames.len() {
            let due = self
                .frames
                .get(at)
                .is_some_and(|f| !f.folded && f.to_ns <= up_to_ns);
            if due && let Some(mut frame) = self.take(at) {
                self.fold_frame(&frame, &parties);
                frame.folded = true;
                self.put_back(at, frame);
            }
        }
    }

    fn fold_frame(&mut self, frame: &Frame, parties: &[Party]) {
        let party = |slot: u32| parties.get(slot as usize).copied().unwrap_or(Party::UNKNOWN);
        let totals = &mut self.totals;
        // The row being read: few parties, so a list is searched faster than a map.
        let mut row: Vec<(Party, u64)> = Vec::with_capacity(16);
        let mut waiter = Party::UNKNOWN;
        let flush =
            |waiter: Party, row: &mut Vec<(Party, u64)>, ledger: &mut std::collections::BTreeMap<_, u64>| {
                for (runner, ns) in row.drain(..) {
                    let total: &mut u64 = ledger.entry((waiter, runner)).or_default();
                    *total = total.saturating_add(ns);
                }
            };
        let add = |row: &mut Vec<(Party, u64)>, runner: Party, ns: u64| {
            if ns > 0 {
                match row.iter_mut().find(|(p, _)| *p == runner) {
                    Some((_, n)) => *n = n.saturating_add(ns),
                    None => row.push((runner, ns)),
                }
            }
        };
        // Within a frame CPU samples and rows of many reports may alternate.
        let mut run: Vec<(Party, u64)> = Vec::with_capacity(16);
        frame.replay(|increment| match increment {
            Increment::Cpu {
                slot,
                run_ns,
                wait_ns,
                waits,
            } => {
                let party = party(slot);
                add(&mut run, party, run_ns);
                if let Some(tenant) = party.tenant() {
                    let total = totals.waits.entry(tenant).or_default();
                    total.add(waits, wait_ns);
                }
            }
            Increment::Row { slot, classes, .. } => {
                flush(waiter, &mut row, &mut totals.ledger_ns);
                waiter = party(slot);
                let [itself, idle, steal, throttled, unresolved] = classes;
                add(&mut row, waiter, itself);
                add(&mut row, Party::IDLE, idle);
                add(&mut row, Party::STEAL, steal);
                add(&mut row, Party::THROTTLED, throttled);
                add(&mut row, Party::UNRESOLVED, unresolved);
            }
            Increment::Pair { runner_slot, ns, .. } => add(&mut row, party(runner_slot), ns),
        });
        flush(waiter, &mut row, &mut totals.ledger_ns);
        for (party, ns) in run {
            let total = totals.run_ns.entry(party).or_default();
            *total = total.saturating_add(ns);
        }
    }
}
