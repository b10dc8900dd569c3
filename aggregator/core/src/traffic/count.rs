//! What of a flow is not in the sums yet.

use super::step::Case;
use super::totals::Amount;
use super::{Key, Table};
use crate::report::Traffic;

impl Amount {
    pub(super) fn of(traffic: &Traffic) -> Self {
        Self {
            bytes: traffic.bytes(),
            packets: traffic.packets(),
            connections: traffic.opened.max(traffic.established),
        }
    }
}

impl Table {
    /// What is new of a flow. Nothing is counted twice: what its opener's record was counted for before this one came is taken off.
    pub(super) fn count(&mut self, case: &Case) -> Amount {
        let Some(record) = self.get(case.id) else {
            return Amount::default();
        };
        let counted = record.counted().plus(&record.matched.get());
        let mut grown = record.above_base().less(&counted);
        if case.by_receiver
            && case.exact
            && let Some(opener) = case.opener.and_then(|id| self.get(id))
        {
            // Only the opener knows what it began; a receiver's record before this one may have been counted for some of it.
            grown.opened = opener
                .above_base()
                .opened
                .saturating_sub(opener.matched.get().opened);
        }
        let (before, partner) = (record.counted(), record.partner());
        let begun = |t: &Traffic| t.opened.max(t.established);
        let mut connections = begun(&before.plus(&grown)).saturating_sub(begun(&before));
        let mut over = Traffic::default();
        if case.by_receiver
            && let Some(id) = case.opener
        {
            // Counted here while this opener was not known.
            let theirs = match partner {
                None => before,
                Some(partner) if partner != id => self.left_over(partner, id),
                Some(_) => Traffic::default(),
            };
            if let Some(opener) = self.get_mut(id) {
                let all = opener.above_base();
                let matched = opener.matched.get();
                let before = opener.counted();
                let room = all.less(&before).less(&matched);
                let matched = matched.plus(&theirs.least(&room));
                let sum = before.plus(&matched).plus(&grown);
                over = before.least(&sum.less(&all)).least(&grown);
                let left = before.less(&over);
                opener.set_counted(left);
                // By the opener's, whichever end told of a connection first: the receiver's record may be one of several.
                let known = begun(&matched);
                let matched = matched.plus(&grown);
                connections = begun(&matched).saturating_sub(known);
                opener.matched.set(matched);
                // Shown by itself only for what it alone was counted for.
                opener.primary &= left.packets() > 0;
            }
        }
        if let Some(record) = self.get_mut(case.id) {
            record.set_counted(record.counted().plus(&grown));
            if case.by_receiver {
                record.settle().partner = case.opener;
            }
        }
        grown = grown.less(&over);
        Amount {
            bytes: grown.bytes(),
            packets: grown.packets(),
            connections: connections.saturating_sub(begun(&over)),
        }
    }

    /// What its receivers had counted for an opener before its agent was started again, beyond what that opener had: the next one's.
    fn left_over(&mut self, old: u32, next: u32) -> Traffic {
        let key = self.get(next).map(Key::of);
        // Its place may be another's by now.
        let Some(old) = self.get_mut(old).filter(|o| Some(Key::of(o)) == key) else {
            return Traffic::default();
        };
        let matched = old.matched.get();
        let over = matched.less(&old.above_base());
        old.matched.set(matched.less(&over));
        over
    }
}
