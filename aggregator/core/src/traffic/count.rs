//! What of a flow is not in the sums yet.

use super::Table;
use super::step::Case;
use super::totals::Amount;
use crate::report::Traffic;

impl Table {
    /// What is new of a flow. Nothing is counted twice: what its opener's record was counted for before this one came is taken off.
    pub(super) fn count(&mut self, case: &Case) -> Amount {
        let Some(record) = self.get(case.id) else {
            return Amount::default();
        };
        let counted = record.counted.plus(&record.matched);
        let mut grown = record.above_base().less(&counted);
        if case.by_receiver
            && case.exact
            && let Some(opener) = case.opener.and_then(|id| self.get(id))
        {
            // Only the opener knows what it began; a receiver's record before this one may have been counted for some of it.
            grown.opened = opener.above_base().opened.saturating_sub(opener.matched.opened);
        }
        let joined = case.by_receiver && record.partner.is_none();
        let before = record.counted;
        let mut over = Traffic::default();
        if case.by_receiver
            && let Some(opener) = case.opener.and_then(|id| self.get_mut(id))
        {
            let all = opener.above_base();
            if joined {
                // Counted here while the opener was not known.
                let room = all.less(&opener.counted).less(&opener.matched);
                opener.matched = opener.matched.plus(&before.least(&room));
            }
            let sum = opener.counted.plus(&opener.matched).plus(&grown);
            over = opener.counted.least(&sum.less(&all)).least(&grown);
            opener.counted = opener.counted.less(&over);
            opener.matched = opener.matched.plus(&grown);
            // Shown by itself only for what it alone was counted for.
            opener.primary &= opener.counted.packets() > 0;
        }
        if let Some(record) = self.get_mut(case.id) {
            record.counted = record.counted.plus(&grown);
            if case.by_receiver {
                record.partner = case.opener;
            }
        }
        let connections = |t: &Traffic| t.opened.max(t.established);
        let connections = connections(&before.plus(&grown)).saturating_sub(connections(&before));
        let connections = connections.saturating_sub(over.opened.max(over.established));
        grown = grown.less(&over);
        Amount {
            bytes: grown.bytes(),
            packets: grown.packets(),
            connections,
        }
    }
}
