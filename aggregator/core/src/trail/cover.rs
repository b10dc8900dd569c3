//! Which slots a node's agent told everything of.
//!
//! Its reports follow each other: what one tells happened since the one before. As long as none is missing, and each knew every flow from before, all of
//! the time between the first and the last was seen. Anything else begins it anew.

use std::collections::{BTreeMap, BTreeSet};

use super::{SLOT_NS, reason};

/// What one report says of the time since the one before. Unix nanoseconds of the aggregator's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) from_ns: u64,
    pub(crate) to_ns: u64,
    /// Why not everything in between was told.
    pub(crate) lacks: Option<&'static str>,
}

/// The clocks of a machine are slewed, and read one after the other: what is apart by less is not apart.
const JOINT_NS: u64 = 1_500_000_000;
/// Slots of one node that wait to be taken over: three hours, more than is awaited of any.
const MAX_FULL: usize = 1_080;

#[derive(Debug)]
pub(crate) struct Cover {
    from_ns: u64,
    to_ns: u64,
    /// The first slot that is not known to be told of.
    next: u64,
    /// Slots that were told of, not taken over yet.
    full: BTreeSet<u64>,
    /// Where it began anew: the first slot that could be told of whole from there, and why those before it cannot.
    begun: BTreeMap<u64, &'static str>,
}

impl Cover {
    pub(crate) fn new() -> Self {
        Self {
            from_ns: 0,
            to_ns: 0,
            next: 0,
            full: BTreeSet::new(),
            begun: BTreeMap::new(),
        }
    }

    pub(crate) fn hear(&mut self, heard: Heard) {
        let joins = self.to_ns > 0 && heard.from_ns.abs_diff(self.to_ns) <= JOINT_NS;
        if let Some(reason) = heard.lacks {
            self.begin(heard.to_ns, reason);
        } else if !joins {
            self.begin(heard.from_ns, reason::AGENT_SILENT);
        }
        self.to_ns = heard.to_ns.max(self.from_ns);
        while (self.next + 1).saturating_mul(SLOT_NS) <= self.to_ns {
            if self.full.len() >= MAX_FULL {
                self.full.pop_first();
            }
            self.full.insert(self.next);
            self.next += 1;
        }
    }

    fn begin(&mut self, at_ns: u64, reason: &'static str) {
        self.from_ns = at_ns;
        self.next = at_ns.div_ceil(SLOT_NS);
        if self.begun.len() >= MAX_FULL {
            self.begun.pop_first();
        }
        // What came first is why: an agent that is silent after it changes nothing in this slot.
        self.begun.entry(self.next).or_insert(reason);
    }

    /// Whether all of a slot was told of. Asked once.
    pub(crate) fn take(&mut self, slot: u64) -> bool {
        self.full.remove(&slot)
    }

    /// What was told of late: slots before `end`, without those that wait for a judgement.
    pub(crate) fn take_late(&mut self, end: u64, pending: &BTreeSet<u64>) -> Vec<u64> {
        let late: Vec<u64> = self.full.range(..end).copied().collect();
        let late: Vec<u64> = late.into_iter().filter(|slot| !pending.contains(slot)).collect();
        for slot in &late {
            self.full.remove(slot);
        }
        late
    }

    /// Why a slot is not among those told of. Asked of slots in their order.
    pub(crate) fn lacks(&mut self, slot: u64) -> &'static str {
        self.begun = self.begun.split_off(&(slot + 1));
        let first = self.begun.first_key_value();
        first.map_or(reason::AGENT_SILENT, |(_, reason)| *reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn whole(from: u64, to: u64) -> Heard {
        Heard {
            from_ns: from * S / 10,
            to_ns: to * S / 10,
            lacks: None,
        }
    }

    #[test]
    fn only_whole_slots_without_a_break_count() {
        let mut cover = Cover::new();
        // 9.5 s to 31.2 s, a second each.
        cover.hear(Heard {
            lacks: Some("agent_silent"),
            ..whole(85, 95)
        });
        for tenth in (95..305).step_by(10) {
            cover.hear(whole(tenth, tenth + 10));
        }
        assert_eq!(cover.take_late(u64::MAX, &BTreeSet::new()), [1, 2]);
        // Away for 20 s, then told of by a queue that was kept: nothing is missing.
        for tenth in (305..605).step_by(10) {
            cover.hear(whole(tenth, tenth + 10));
        }
        assert_eq!(cover.take_late(u64::MAX, &BTreeSet::new()), [3, 4, 5]);
        // Away, and nothing was kept.
        cover.hear(whole(805, 815));
        for tenth in (815..1_015).step_by(10) {
            cover.hear(whole(tenth, tenth + 10));
        }
        assert_eq!(cover.take_late(u64::MAX, &BTreeSet::from([9])), []);
        cover.hear(whole(1_015, 1_105));
        assert_eq!(cover.take_late(u64::MAX, &BTreeSet::from([9])), [10]);
        assert!(cover.take(9) && !cover.take(9) && !cover.take(8));
    }

    #[test]
    fn a_report_that_lacks_something_begins_anew() {
        let mut cover = Cover::new();
        cover.hear(whole(0, 95));
        cover.hear(Heard {
            lacks: Some("flows_not_seen"),
            ..whole(95, 105)
        });
        cover.hear(whole(105, 305));
        assert_eq!(cover.take_late(u64::MAX, &BTreeSet::new()), [2]);
        assert_eq!(cover.lacks(1), "flows_not_seen");
        // What is told of in part by a report that is yet to come.
        assert_eq!(cover.lacks(3), "agent_silent");
    }

    #[test]
    fn a_slot_keeps_the_reason_that_it_was_lost_for() {
        let mut cover = Cover::new();
        let away = Some("aggregator_away");
        // Begun at 12 s: what the first ten reports tell may be of before.
        for tenth in (120..220).step_by(10) {
            cover.hear(Heard {
                lacks: away,
                ..whole(tenth, tenth + 10)
            });
        }
        // It is whole when the slot is asked about, silent from 33 s to 46 s, and whole again.
        cover.hear(whole(220, 330));
        assert_eq!(cover.lacks(1), "aggregator_away");
        cover.hear(whole(460, 605));
        assert_eq!(cover.lacks(2), "aggregator_away");
        assert_eq!(cover.lacks(3), "agent_silent");
        assert_eq!(cover.lacks(4), "agent_silent");
        assert_eq!(cover.take_late(u64::MAX, &BTreeSet::new()), [5]);
    }
}
