//! The hours of which more may be told: what crossed in them, what may have unseen, and what of it must be written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Doubt, HOUR_SLOTS, SLOT_NS, Slots, Span, Taken, Untold, reason};
use crate::limits::{MAX_TRAFFIC_SUMS, NS_PER_S};
use crate::traffic::Verdict;

/// An agent's queue may be worked off this long after: its spool holds half an hour of a busy node.
pub const AWAITED_NS: u64 = 3_600 * NS_PER_S;
/// What is told later still is gathered this long before it is a record of its own.
const GATHERED_NS: u64 = 600 * NS_PER_S;
/// A slot is looked at this long after its end: a report's way, and the judgement of what it tells.
const SETTLED_NS: u64 = 5 * NS_PER_S;
/// Slots at once, after a clock was put right: those before were not watched.
const MAX_BEHIND: u64 = HOUR_SLOTS;
/// Slots at either end of what a clock was put back by, of which it is said.
const MAX_BACK: u64 = 2 * HOUR_SLOTS;
/// Slots that were not looked at yet when a clock was put back: one that goes on, and those that waited for a judgement.
const UNLOOKED: u64 = 12;
/// Rows of gaps in one hour: every tenant of 80 on each of 200 nodes.
const MAX_GAPS: usize = 16_384;
/// Hours held at once: two that are awaited, and those that wait for a disk that failed.
const MAX_HOURS: usize = 12;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CrossingKey {
    pub from: Arc<str>,
    pub to: Arc<str>,
    pub verdict: Verdict,
    pub delivered: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Crossing {
    pub bytes: u64,
    pub packets: u64,
    pub connections: u64,
    pub slots: Slots,
    pub spans: BTreeSet<Span>,
}

/// An empty tenant: anybody.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GapKey {
    pub tenant: Arc<str>,
    pub reason: Arc<str>,
    pub node: Arc<str>,
}

/// What is known of one hour of one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hour {
    pub crossings: BTreeMap<CrossingKey, Crossing>,
    pub gaps: BTreeMap<GapKey, Slots>,
    /// Slots of which everything told was judged and written.
    pub seen: Slots,
}

/// A part of an hour that is written by itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Row {
    Seen,
    Crossing(CrossingKey),
    Gap(GapKey),
}

impl Crossing {
    /// What answers no question that its slots do not answer.
    pub fn tidy(&mut self) {
        let slots = self.slots;
        let inside = |span: &Span| (span.first..span.first + span.length).all(|at| slots.has(u64::from(at)));
        self.spans.retain(|span| !inside(span));
    }

    /// Another part of the same.
    pub fn add(&mut self, other: &Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.packets = self.packets.saturating_add(other.packets);
        self.connections = self.connections.saturating_add(other.connections);
        self.slots = self.slots.or(other.slots);
        self.spans.extend(&other.spans);
    }
}

impl Hour {
    /// Another record of the same hour.
    pub fn add(&mut self, other: Self) {
        for (key, crossing) in other.crossings {
            self.crossings.entry(key).or_default().add(&crossing);
        }
        for (key, slots) in other.gaps {
            let gap = self.gaps.entry(key).or_default();
            *gap = gap.or(slots);
        }
        self.seen = self.seen.or(other.seen);
    }

    /// Slots that nobody vouches for, as gaps like all others.
    pub fn close(&mut self, reason: &str) {
        let away = Slots::all().minus(self.seen);
        if !away.is_empty() {
            let key = anybody(reason);
            let gap = self.gaps.entry(key).or_default();
            *gap = gap.or(away);
        }
        self.crossings.values_mut().for_each(Crossing::tidy);
    }
}

pub(super) fn anybody(reason: &str) -> GapKey {
    GapKey {
        tenant: Arc::from(""),
        reason: Arc::from(reason),
        node: Arc::from(""),
    }
}

/// The hours of one cluster. Numbered since 1970.
#[derive(Debug)]
pub struct Hours {
    hours: BTreeMap<u64, Hour>,
    /// Hours that are complete already, and what came later still.
    late: BTreeMap<u64, Hour>,
    late_since_ns: Option<u64>,
    /// The next slot to be looked at.
    next: u64,
    changed: BTreeSet<(u64, Row)>,
    /// Hours before were given away as complete.
    closed: u64,
    /// Hours that found no room, not told of yet.
    dropped: u64,
}

impl Hours {
    /// Goes on with what was written. Slots before `now_ns` that were not are nobody's any more.
    pub fn new(written: BTreeMap<u64, Hour>, now_ns: u64) -> Self {
        let closed = written.keys().next().copied();
        let hour_ns = HOUR_SLOTS * SLOT_NS;
        Self {
            // In the slot that goes on now this process did not watch from the beginning.
            next: now_ns / SLOT_NS + 1,
            closed: closed
                .unwrap_or(0)
                .max(now_ns.saturating_sub(AWAITED_NS) / hour_ns),
            hours: written,
            late: BTreeMap::new(),
            late_since_ns: None,
            changed: BTreeSet::new(),
            dropped: 0,
        }
    }

    /// The next slot to be looked at.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// How many hours found no room since this was asked last.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    fn hour(&mut self, hour: u64) -> &mut Hour {
        if hour < self.closed && !self.hours.contains_key(&hour) {
            return self.late.entry(hour).or_default();
        }
        self.hours.entry(hour).or_default()
    }

    fn change(&mut self, hour: u64, row: Row) {
        if self.hours.contains_key(&hour) {
            self.changed.insert((hour, row));
        }
    }

    /// Takes over what was judged.
    pub fn enter(&mut self, taken: Taken, now_ns: u64) {
        let future = now_ns / SLOT_NS + HOUR_SLOTS;
        for moved in taken.moved {
            let key = CrossingKey {
                from: moved.from,
                to: moved.to,
                verdict: moved.verdict,
                delivered: moved.delivered,
            };
            // Amounts are kept by the hour: of the last that was told.
            let latest = moved.when.iter().map(|(first, _)| *first).max();
            for (first, last) in &moved.when {
                // A clock that is wrong by so much says nothing of when.
                if *last < future {
                    self.moved(&key, *first, *last);
                }
            }
            let hour = latest.filter(|s| *s < future).unwrap_or(now_ns / SLOT_NS) / HOUR_SLOTS;
            let crossings = &mut self.hour(hour).crossings;
            if crossings.len() < MAX_TRAFFIC_SUMS || crossings.contains_key(&key) {
                let sum = crossings.entry(key.clone()).or_default();
                sum.bytes = sum.bytes.saturating_add(moved.bytes);
                sum.packets = sum.packets.saturating_add(moved.packets);
                sum.connections = sum.connections.saturating_add(moved.connections);
                self.change(hour, Row::Crossing(key));
            }
        }
        for doubt in taken.doubts {
            self.doubt(&doubt, future);
        }
        for sent in taken.sent {
            for slot in &sent.slots {
                if *slot < future && !self.was_told(&sent.node, *slot) {
                    self.unheard(&sent.from, &sent.to, *slot);
                }
            }
        }
        for (node, slot) in taken.told {
            self.told(&node, slot, &taken.tenants);
        }
        if self.late_since_ns.is_none() && !self.late.is_empty() {
            self.late_since_ns = Some(now_ns);
        }
    }

    fn moved(&mut self, key: &CrossingKey, first: u64, last: u64) {
        let (hour, at) = (first / HOUR_SLOTS, first % HOUR_SLOTS);
        let full = {
            let in_hour = self.hour(hour);
            in_hour.crossings.len() >= MAX_TRAFFIC_SUMS && !in_hour.crossings.contains_key(key)
        };
        if full || last - first >= HOUR_SLOTS {
            return self.gap(&anybody(reason::TRAIL_FULL), first, last);
        }
        let crossing = self.hour(hour).crossings.entry(key.clone()).or_default();
        let is_new = if first == last {
            crossing.slots.set(at)
        } else {
            let span = Span {
                first: at as u32,
                length: (last - first + 1) as u32,
            };
            crossing.spans.insert(span)
        };
        if is_new {
            self.change(hour, Row::Crossing(key.clone()));
        }
    }

    fn doubt(&mut self, doubt: &Doubt, future: u64) {
        let key = GapKey {
            tenant: Arc::clone(&doubt.tenant),
            reason: Arc::from(doubt.reason),
            node: Arc::clone(&doubt.node),
        };
        for (first, last) in &doubt.when {
            if *last < future {
                self.gap(&key, *first, *last);
            }
        }
    }

    /// Whether something arrived is not known.
    fn unheard(&mut self, from: &Arc<str>, to: &Arc<str>, slot: u64) {
        let key = CrossingKey {
            from: Arc::clone(from),
            to: Arc::clone(to),
            verdict: Verdict::Unknown,
            delivered: false,
        };
        self.moved(&key, slot, slot);
    }

    /// Nothing that happened on this node in this slot is a gap, as far as the hour is at hand.
    fn was_told(&self, node: &Arc<str>, slot: u64) -> bool {
        self.hours.get(&(slot / HOUR_SLOTS)).is_some_and(|hour| {
            let mut of_node = hour.gaps.iter().filter(|(key, _)| key.node == *node);
            of_node.all(|(_, slots)| !slots.has(slot % HOUR_SLOTS))
        })
    }

    fn gap(&mut self, key: &GapKey, first: u64, last: u64) {
        for slot in first..=last.min(first + 2 * HOUR_SLOTS) {
            let hour = slot / HOUR_SLOTS;
            let gaps = &mut self.hour(hour).gaps;
            let key = if gaps.len() >= MAX_GAPS && !gaps.contains_key(key) {
                anybody(&key.reason)
            } else {
                key.clone()
            };
            if gaps.entry(key.clone()).or_default().set(slot % HOUR_SLOTS) {
                self.change(hour, Row::Gap(key));
            }
        }
    }

    /// A node's agent told of a slot in the end: what it was blamed for is no gap.
    fn told(&mut self, node: &Arc<str>, slot: u64, tenants: &BTreeSet<(Arc<str>, Arc<str>)>) {
        let (hour, at) = (slot / HOUR_SLOTS, slot % HOUR_SLOTS);
        let Some(in_hour) = self.hours.get_mut(&hour) else {
            return;
        };
        let own = [reason::AGENT_SILENT, reason::AGGREGATOR_AWAY];
        let mut changed = Vec::new();
        for (key, slots) in &mut in_hour.gaps {
            let is_there = || tenants.contains(&(Arc::clone(node), Arc::clone(&key.tenant)));
            if key.node == *node && own.contains(&&*key.reason) && is_there() && slots.clear(at) {
                changed.push(key.clone());
            }
        }
        for key in changed {
            self.change(hour, Row::Gap(key));
        }
    }

    /// The next slot whose time has come, unless something in it waits for its judgement.
    pub fn due(&mut self, now_ns: u64, waits: impl Fn(u64) -> bool) -> Option<u64> {
        let now = now_ns / SLOT_NS;
        if self.next > now + 1 {
            self.go_back(now);
        }
        if self.next + MAX_BEHIND < now {
            self.next = now;
        }
        let ends_ns = (self.next + 1).saturating_mul(SLOT_NS);
        (ends_ns + SETTLED_NS <= now_ns && !waits(self.next)).then_some(self.next)
    }

    /// The clock was put back: of slots that come again, what was seen of them was of another time.
    fn go_back(&mut self, now: u64) {
        let (key, next) = (anybody(reason::AGGREGATOR_AWAY), self.next + UNLOOKED);
        for slot in (now..next).filter(|slot| *slot < now + MAX_BACK || slot + MAX_BACK >= next) {
            self.gap(&key, slot, slot);
            let hour = slot / HOUR_SLOTS;
            let was_seen = self
                .hours
                .get_mut(&hour)
                .is_some_and(|of| of.seen.clear(slot % HOUR_SLOTS));
            if was_seen {
                self.change(hour, Row::Seen);
            }
        }
        self.next = now + 1;
    }

    /// All that was told of the slot is in here, except for these.
    pub fn see(&mut self, slot: u64, untold: &Untold) {
        for key in &untold.gaps {
            self.gap(key, slot, slot);
        }
        for (from, to) in &untold.unheard {
            self.unheard(from, to, slot);
        }
        let hour = slot / HOUR_SLOTS;
        self.hour(hour).seen.set(slot % HOUR_SLOTS);
        self.change(hour, Row::Seen);
        self.next = self.next.max(slot + 1);
    }

    /// What must be written, as it is now. `None`: it is to be removed.
    pub fn changes(&mut self) -> Vec<(u64, Row, Option<Hour>)> {
        let changed = std::mem::take(&mut self.changed);
        changed
            .into_iter()
            .filter_map(|(hour, row)| {
                let of = self.hours.get(&hour)?;
                let mut part = Hour::default();
                let there = match &row {
                    Row::Seen => {
                        part.seen = of.seen;
                        true
                    }
                    Row::Crossing(key) => of
                        .crossings
                        .get(key)
                        .map(|crossing| {
                            let mut crossing = crossing.clone();
                            crossing.tidy();
                            part.crossings.insert(key.clone(), crossing);
                        })
                        .is_some(),
                    Row::Gap(key) => of
                        .gaps
                        .get(key)
                        .filter(|slots| !slots.is_empty())
                        .map(|slots| part.gaps.insert(key.clone(), *slots))
                        .is_some(),
                };
                Some((hour, row, there.then_some(part)))
            })
            .collect()
    }

    /// Hours of which no more is awaited, with what nobody vouches for as gaps. Oldest first.
    pub fn complete(&mut self, now_ns: u64) -> Vec<(u64, Hour)> {
        let hour_ns = HOUR_SLOTS * SLOT_NS;
        let mut out = Vec::new();
        while let Some(entry) = self.hours.first_entry() {
            let number = *entry.key();
            let over = (number + 1).saturating_mul(hour_ns).saturating_add(AWAITED_NS) <= now_ns;
            let seen = (number + 1) * HOUR_SLOTS <= self.next;
            if !(over && seen) {
                break;
            }
            let mut hour = entry.remove();
            hour.close(reason::AGGREGATOR_AWAY);
            hour.gaps.retain(|_, slots| !slots.is_empty());
            self.closed = self.closed.max(number + 1);
            out.push((number, hour));
        }
        if self
            .late_since_ns
            .is_some_and(|since| now_ns.saturating_sub(since) >= GATHERED_NS)
        {
            self.late_since_ns = None;
            for (number, mut hour) in std::mem::take(&mut self.late) {
                hour.crossings.values_mut().for_each(Crossing::tidy);
                out.push((number, hour));
            }
        }
        while self.hours.len() > MAX_HOURS {
            if let Some((number, _)) = self.hours.pop_first() {
                self.closed = self.closed.max(number + 1);
                self.dropped += 1;
            }
        }
        self.changed.retain(|(hour, _)| self.hours.contains_key(hour));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trail::Moved;

    const H: u64 = HOUR_SLOTS * SLOT_NS;

    fn moved(when: &[(u64, u64)]) -> Taken {
        let moved = Moved {
            from: "red".into(),
            to: "blue".into(),
            verdict: Verdict::Open,
            delivered: true,
            bytes: 10,
            packets: 2,
            connections: 1,
            when: when.to_vec(),
        };
        Taken {
            moved: vec![moved],
            ..Taken::default()
        }
    }

    fn silent() -> GapKey {
        GapKey {
            tenant: "red".into(),
            reason: reason::AGENT_SILENT.into(),
            node: "node-a".into(),
        }
    }

    #[test]
    fn a_slot_is_due_once_it_is_over_and_nothing_in_it_waits() {
        let mut hours = Hours::new(BTreeMap::new(), 10 * H + 3);
        let first = 10 * HOUR_SLOTS + 1;
        let end = (first + 1) * SLOT_NS;
        assert_eq!(hours.due(end + SETTLED_NS - 1, |_| false), None);
        assert_eq!(hours.due(end + SETTLED_NS, |slot| slot == first), None);
        assert_eq!(hours.due(end + SETTLED_NS, |_| false), Some(first));
        hours.see(first, &Untold::default());
        assert_eq!(hours.due(end + SETTLED_NS, |_| false), None);
        let changes = hours.changes();
        assert_eq!(changes.len(), 1);
        assert!(changes[0].2.as_ref().unwrap().seen.has(1));
        assert_eq!(hours.changes(), []);
    }

    #[test]
    fn what_an_agent_tells_late_closes_its_gap_alone() {
        let mut hours = Hours::new(BTreeMap::new(), 10 * H);
        let slot = 10 * HOUR_SLOTS + 7;
        let other = GapKey {
            reason: reason::UNNAMED_PEER.into(),
            ..silent()
        };
        let untold = Untold {
            gaps: vec![silent(), other.clone()],
            ..Untold::default()
        };
        hours.see(slot, &untold);
        hours.changes();
        let mut told = Taken {
            told: vec![("node-b".into(), slot), ("node-a".into(), slot)],
            ..Taken::default()
        };
        hours.enter(told.clone(), 10 * H);
        assert_eq!(hours.changes(), [], "red is not on that node any more");
        told.tenants.insert(("node-a".into(), "red".into()));
        hours.enter(told, 10 * H);
        let changes = hours.changes();
        assert_eq!(changes, [(10, Row::Gap(silent()), None)], "the row is removed");
        let done = hours.complete(13 * H);
        assert_eq!(
            done,
            [],
            "an hour that was not looked at to its end is not complete"
        );
        hours.see(13 * HOUR_SLOTS, &Untold::default());
        let done = hours.complete(13 * H);
        assert_eq!(done.len(), 1);
        let gaps: Vec<_> = done[0].1.gaps.keys().collect();
        assert_eq!(gaps, [&anybody(reason::AGGREGATOR_AWAY), &other]);
        assert_eq!(done[0].1.gaps[&anybody(reason::AGGREGATOR_AWAY)].count(), 359);
    }

    #[test]
    fn slots_that_come_again_were_not_seen() {
        let mut hours = Hours::new(BTreeMap::new(), 10 * H);
        let at = 10 * HOUR_SLOTS;
        for slot in at + 1..at + 20 {
            hours.see(slot, &Untold::default());
        }
        hours.changes();
        assert_eq!(hours.due((at + 10) * SLOT_NS, |_| false), None);
        assert_eq!(hours.next(), at + 11);
        let changes = hours.changes();
        assert_eq!(changes.len(), 2);
        assert_eq!(changes[0].2.as_ref().unwrap().seen, Slots::range(1, 10));
        let away = anybody(reason::AGGREGATOR_AWAY);
        assert_eq!(
            changes[1].2.as_ref().unwrap().gaps[&away],
            Slots::range(10, 20 + UNLOOKED),
            "and those that had begun"
        );
    }

    #[test]
    fn what_moved_within_a_span_that_is_full_needs_no_span() {
        let mut hours = Hours::new(BTreeMap::new(), 10 * H);
        let at = 10 * HOUR_SLOTS;
        hours.enter(
            moved(&[(at, at), (at, at + 1), (at + 1, at + 1), (at + 3, at + 4)]),
            10 * H,
        );
        let changes = hours.changes();
        let part = changes[0].2.clone().unwrap();
        let crossing = part.crossings.values().next().unwrap();
        assert_eq!(crossing.slots, Slots::range(0, 2));
        assert_eq!(crossing.spans, BTreeSet::from([Span { first: 3, length: 2 }]));
        assert_eq!((crossing.bytes, crossing.connections), (10, 1), "once");
    }

    #[test]
    fn an_hour_that_is_complete_gets_a_further_record() {
        let mut hours = Hours::new(BTreeMap::new(), 10 * H);
        hours.enter(moved(&[(5 * HOUR_SLOTS, 5 * HOUR_SLOTS)]), 10 * H);
        assert_eq!(hours.changes(), [], "not among those awaited");
        assert_eq!(hours.complete(10 * H), []);
        let done = hours.complete(10 * H + GATHERED_NS);
        assert_eq!(done.len(), 1);
        assert_eq!((done[0].0, done[0].1.gaps.len()), (5, 0));
    }
}
