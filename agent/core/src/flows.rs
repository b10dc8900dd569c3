//! Flows: which of the kernel side's places is whose, what was counted there since it was last read, and when it is given back.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use partywall_abi::{FlowName, Traffic};

/// A flow that rests for so long gives its place back. Its sockets may live on: their next packet takes a new one.
///
/// Longer than a connection that nobody answers rests before it is given up: the kernel's default of 6 retries sends the last SYN after 63 s
/// and gives up after 127 s (67 and 131 s from Linux 6.5 on). That it timed out is counted when its socket is released, at the place that it
/// remembers; the rest is for who waits a little before closing it.
pub const IDLE_NS: u64 = 75_000_000_000;

const LAST_SYN_RESTS_NS: u64 = 64_000_000_000;
const _: () = assert!(IDLE_NS > LAST_SYN_RESTS_NS);

/// What was sent and received, cumulative since the agent's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub sent_packets: u64,
    pub sent_bytes: u64,
    pub received_packets: u64,
    pub received_bytes: u64,
    pub opened: u64,
    pub established: u64,
    pub refused: u64,
    pub reset: u64,
    pub timed_out: u64,
}

impl Totals {
    /// Adds what `now` has more than `before`, which was read earlier at the same place.
    fn add(&mut self, before: &Traffic, now: &Traffic) {
        for (sum, before, now) in [
            (&mut self.sent_packets, before.sent_packets, now.sent_packets),
            (&mut self.sent_bytes, before.sent_bytes, now.sent_bytes),
            (
                &mut self.received_packets,
                before.received_packets,
                now.received_packets,
            ),
            (
                &mut self.received_bytes,
                before.received_bytes,
                now.received_bytes,
            ),
        ] {
            *sum += now.saturating_sub(before);
        }
        // These are short, and wrap.
        for (sum, before, now) in [
            (&mut self.opened, before.opened, now.opened),
            (&mut self.established, before.established, now.established),
            (&mut self.refused, before.refused, now.refused),
            (&mut self.reset, before.reset, now.reset),
            (&mut self.timed_out, before.timed_out, now.timed_out),
        ] {
            *sum += u64::from(now.wrapping_sub(before));
        }
    }
}

#[derive(Clone, Debug)]
struct Open {
    index: u32,
    entity: u32,
    name: FlowName,
    seen: Traffic,
    total: Totals,
    changed_ns: u64,
    /// Nobody finds its place any more: what is read next is final.
    closed: bool,
}

#[derive(Clone, Debug)]
struct Unit {
    cgroup: u64,
    entity: u32,
    seen: Traffic,
}

/// What changed since the last report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowChanges {
    /// Index, entity, and what flow it is.
    pub flows: Vec<(u32, u32, FlowName)>,
    pub samples: Vec<(u32, Totals)>,
    pub ended: Vec<u32>,
    /// By entity: traffic without a place.
    pub folded: Vec<(u32, Totals)>,
}

/// The flows that have places.
#[derive(Debug)]
pub struct FlowBook {
    open: BTreeMap<u32, Open>,
    units: BTreeMap<u32, Unit>,
    /// By entity. Kept while the entity lives, though its units may be given back: one that restarts has another cgroup, and its counters go on.
    folded: BTreeMap<u32, Totals>,
    next: u32,
    changes: FlowChanges,
}

impl Default for FlowBook {
    fn default() -> Self {
        Self {
            open: BTreeMap::new(),
            units: BTreeMap::new(),
            folded: BTreeMap::new(),
            next: 1,
            changes: FlowChanges::default(),
        }
    }
}

impl FlowBook {
    /// Enters what was read at `place`. `hold` names the entity of a cgroup and keeps it. It is asked once per flow, unless it answers
    /// `None`: then the flow waits for the next reading, and loses nothing, for its counters are cumulative.
    pub fn enter(
        &mut self,
        place: u32,
        name: &FlowName,
        read: &Traffic,
        now_ns: u64,
        hold: impl FnOnce(u64) -> Option<u32>,
    ) {
        let open = match self.open.entry(place) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(place) => {
                let Some(entity) = hold(name.cgroup) else {
                    return;
                };
                let index = self.next;
                self.next += 1;
                self.changes.flows.push((index, entity, *name));
                place.insert(Open {
                    index,
                    entity,
                    name: *name,
                    seen: Traffic::default(),
                    total: Totals::default(),
                    changed_ns: now_ns,
                    closed: false,
                })
            }
        };
        if open.seen != *read {
            open.total.add(&open.seen, read);
            open.seen = *read;
            open.changed_ns = now_ns;
            self.changes.samples.push((open.index, open.total));
        }
    }

    /// Enters what a unit has without places. `hold` is that of [`enter`](Self::enter).
    pub fn enter_unit(
        &mut self,
        unit: u32,
        cgroup: u64,
        read: &Traffic,
        hold: impl FnOnce(u64) -> Option<u32>,
    ) {
        let known = match self.units.entry(unit) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(_) if *read == Traffic::default() => return,
            Entry::Vacant(unit) => {
                let Some(entity) = hold(cgroup) else {
                    return;
                };
                unit.insert(Unit {
                    cgroup,
                    entity,
                    seen: Traffic::default(),
                })
            }
        };
        if known.seen != *read {
            let total = self.folded.entry(known.entity).or_default();
            total.add(&known.seen, read);
            known.seen = *read;
            // Two units of one entity may both have changed: the later sum has both.
            self.changes.folded.retain(|(entity, _)| *entity != known.entity);
            self.changes.folded.push((known.entity, *total));
        }
    }

    /// Places whose final counters were read: closed before this reading. Their flows end. Place and entity, which is held no longer.
    pub fn take_final(&mut self) -> Vec<(u32, u32)> {
        let places: Vec<u32> = self
            .open
            .iter()
            .filter(|(_, open)| open.closed)
            .map(|(place, _)| *place)
            .collect();
        places
            .into_iter()
            .filter_map(|place| {
                let open = self.open.remove(&place)?;
                self.changes.ended.push(open.index);
                Some((place, open.entity))
            })
            .collect()
    }

    /// Places to be closed: they rested for long, or their cgroup is gone.
    pub fn idle(&self, now_ns: u64, gone: impl Fn(u64) -> bool) -> Vec<(u32, FlowName)> {
        self.open
            .iter()
            .filter(|(_, open)| {
                !open.closed && (now_ns.saturating_sub(open.changed_ns) >= IDLE_NS || gone(open.name.cgroup))
            })
            .map(|(place, open)| (*place, open.name))
            .collect()
    }

    /// Nobody finds the place from here on.
    pub fn closed(&mut self, place: u32) {
        if let Some(open) = self.open.get_mut(&place) {
            open.closed = true;
        }
    }

    /// The unit was given back. Returns its entity, which is held no longer.
    pub fn forget_unit(&mut self, unit: u32) -> Option<u32> {
        Some(self.units.remove(&unit)?.entity)
    }

    /// Forgets what entities had that live no more. An index is never used again.
    pub fn keep_entities(&mut self, lives: impl Fn(u32) -> bool) {
        self.folded.retain(|entity, _| lives(*entity));
    }

    /// Whether a flow or a unit of this cgroup is known.
    pub fn knows(&self, cgroup: u64) -> bool {
        self.units.values().any(|unit| unit.cgroup == cgroup)
            || self.open.values().any(|open| open.name.cgroup == cgroup)
    }

    /// Flows that have a place.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// What changed since this was last called.
    pub fn take_changes(&mut self) -> FlowChanges {
        std::mem::take(&mut self.changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(cgroup: u64, port: u16) -> FlowName {
        FlowName {
            cgroup,
            port,
            ..FlowName::default()
        }
    }

    fn traffic(sent_packets: u64, opened: u32) -> Traffic {
        Traffic {
            sent_packets,
            sent_bytes: sent_packets * 100,
            opened,
            ..Traffic::default()
        }
    }

    /// A cgroup's entity is ten times its id.
    fn hold(cgroup: u64) -> Option<u32> {
        Some(cgroup as u32 * 10)
    }

    #[test]
    fn a_flow_is_told_once_and_its_counters_when_they_change() {
        let mut book = FlowBook::default();
        book.enter(7, &name(1, 80), &traffic(5, 1), 0, hold);
        let changes = book.take_changes();
        assert_eq!(changes.flows, [(1, 10, name(1, 80))]);
        assert_eq!(changes.samples[0].1.sent_packets, 5);
        book.enter(7, &name(1, 80), &traffic(5, 1), 1, hold);
        assert_eq!(book.take_changes(), FlowChanges::default());
        book.enter(7, &name(1, 80), &traffic(9, 1), 2, hold);
        let changes = book.take_changes();
        assert_eq!(changes.flows, []);
        assert_eq!((changes.samples[0].0, changes.samples[0].1.sent_bytes), (1, 900));
    }

    #[test]
    fn short_counters_wrap() {
        let mut book = FlowBook::default();
        book.enter(7, &name(1, 80), &traffic(0, u32::MAX), 0, hold);
        book.enter(7, &name(1, 80), &traffic(0, 2), 1, hold);
        let (_, total) = book.take_changes().samples.pop().expect("a sample");
        assert_eq!(total.opened, u64::from(u32::MAX) + 3);
    }

    #[test]
    fn a_place_is_given_back_after_a_last_reading_and_the_next_flow_begins_at_nothing() {
        let mut book = FlowBook::default();
        book.enter(7, &name(1, 80), &traffic(5, 0), 0, hold);
        assert_eq!(book.idle(IDLE_NS - 1, |_| false), []);
        assert_eq!(book.idle(0, |cgroup| cgroup == 1).len(), 1, "its cgroup is gone");
        assert_eq!(book.idle(IDLE_NS, |_| false), [(7, name(1, 80))]);
        book.closed(7);
        assert_eq!(book.idle(IDLE_NS, |_| false), [], "once");
        // What was under way when it was closed is still counted.
        book.enter(7, &name(1, 80), &traffic(6, 0), IDLE_NS, hold);
        assert_eq!(book.take_final(), [(7, 10)]);
        let changes = book.take_changes();
        assert_eq!(changes.samples.last().expect("a sample").1.sent_packets, 6);
        assert_eq!(changes.ended, [1]);
        book.enter(7, &name(2, 443), &traffic(1, 0), IDLE_NS, hold);
        let changes = book.take_changes();
        assert_eq!(changes.flows, [(2, 20, name(2, 443))]);
        assert_eq!(changes.samples[0].1.sent_packets, 1);
    }

    #[test]
    fn traffic_without_a_place_is_summed_by_entity() {
        let mut book = FlowBook::default();
        book.enter_unit(1, 5, &Traffic::default(), |_| unreachable!("nothing to tell"));
        book.enter_unit(2, 5, &traffic(3, 0), |_| Some(50));
        book.enter_unit(3, 6, &traffic(4, 0), |_| Some(50));
        let changes = book.take_changes();
        assert_eq!(changes.folded.len(), 1);
        assert_eq!(changes.folded[0].1.sent_packets, 7);
        assert!(book.knows(6) && !book.knows(7));
        assert_eq!(book.forget_unit(3), Some(50));
        book.enter_unit(2, 5, &traffic(5, 0), |_| unreachable!("known"));
        assert_eq!(book.take_changes().folded[0].1.sent_packets, 9);
    }

    #[test]
    fn what_an_entity_has_without_places_goes_on_when_its_cgroup_is_made_anew() {
        let mut book = FlowBook::default();
        book.enter_unit(1, 5, &traffic(100, 0), |_| Some(50));
        assert_eq!(book.forget_unit(1), Some(50));
        book.keep_entities(|entity| entity == 50);
        book.enter_unit(2, 6, &traffic(5, 0), |_| Some(50));
        assert_eq!(book.take_changes().folded[0].1.sent_packets, 105);
        assert_eq!(book.forget_unit(2), Some(50));
        book.keep_entities(|_| false);
        assert!(book.folded.is_empty(), "bounded by who lives");
    }

    #[test]
    fn a_flow_of_nobody_known_waits_and_keeps_its_counters() {
        let mut book = FlowBook::default();
        book.enter(7, &name(1, 80), &traffic(5, 1), 0, |_| None);
        book.enter_unit(1, 1, &traffic(3, 0), |_| None);
        assert_eq!(book.take_changes(), FlowChanges::default());
        assert!(!book.knows(1));
        assert_eq!(
            book.idle(IDLE_NS, |_| true),
            [],
            "nor given back before it was told"
        );
        book.enter(7, &name(1, 80), &traffic(6, 1), IDLE_NS, hold);
        book.enter_unit(1, 1, &traffic(3, 0), hold);
        let changes = book.take_changes();
        assert_eq!(changes.flows, [(1, 10, name(1, 80))]);
        assert_eq!(changes.samples[0].1.sent_packets, 6);
        assert_eq!(changes.folded[0].1.sent_packets, 3);
        assert_eq!(
            book.idle(2 * IDLE_NS - 1, |_| false),
            [],
            "its rest begins when it is told"
        );
    }
}
