//! The clocks of a cluster's machines against the aggregator's two.
//!
//! **Monotonic** is what is judged by; nobody sets it. **Wall** is what lasts, and may be set while the aggregator runs. What was read before and is told
//! after could be dated by either reading of it, so that it is dated by none.
//!
//! **A node's** readings are placed by its CLOCK_BOOTTIME, which nobody sets either, as of the report that was least on its way. Its wall clock is only
//! believed, or not.

use crate::limits::NS_PER_S;
use crate::trail::slot_of;
use crate::world::Now;

/// A clock that moved by more between two looks, a second apart, was set: it is slewed by a thousandth of that.
const SET_NS: u128 = NS_PER_S as u128;
/// Moments are known to this: a report's way, and the time between two looks.
const UNSURE_NS: u64 = 2 * NS_PER_S;
/// A node's clock that is off by less is taken at its word: it cannot be told from a report's way.
const BELIEVED_NS: u128 = 2_000_000_000;
/// The least way is looked for among the reports of this and of twice this: two clocks without a server run apart by a second in some hours.
const LATELY_NS: u64 = 600 * NS_PER_S;

/// The aggregator's wall clock, by its monotonic one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wall {
    looked: Option<Now>,
    /// When it was last noticed to have been set.
    set_ns: Option<u64>,
}

fn ahead_ns(now: Now) -> i128 {
    i128::from(now.unix_ns) - i128::from(now.mono_ns)
}

fn clamp(ns: i128) -> u64 {
    u64::try_from(ns.max(0)).unwrap_or(u64::MAX)
}

impl Wall {
    /// If it was set since the last look: the first and the last slot that either reading of it may mean.
    pub(crate) fn look(&mut self, now: Now) -> Option<(u64, u64)> {
        if self.looked.is_some_and(|before| before.mono_ns > now.mono_ns) {
            return None;
        }
        let before = self.looked.replace(now)?;
        let (was, is) = (ahead_ns(before), ahead_ns(now));
        if was.abs_diff(is) <= SET_NS {
            return None;
        }
        self.set_ns = Some(now.mono_ns);
        let unsure = i128::from(UNSURE_NS);
        let first = i128::from(before.mono_ns) + was.min(is) - unsure;
        let last = i128::from(now.mono_ns) + was.max(is) + unsure;
        Some((slot_of(clamp(first)), slot_of(clamp(last))))
    }

    /// It was not set since this moment of the monotonic clock.
    pub(crate) fn stood(&self, since_ns: i128) -> bool {
        self.set_ns
            .is_none_or(|set_ns| since_ns > i128::from(set_ns.saturating_add(UNSURE_NS)))
    }

    /// What it showed at a moment of the monotonic clock, where a node's own, read then, showed `theirs_ns`.
    pub(crate) fn at(&self, mono_ns: i128, theirs_ns: u64) -> u64 {
        let Some(now) = self.looked else {
            return theirs_ns;
        };
        let ours = mono_ns + ahead_ns(now);
        if ours.abs_diff(i128::from(theirs_ns)) <= BELIEVED_NS {
            return theirs_ns;
        }
        clamp(ours)
    }
}

/// The aggregator's monotonic clock − a node's CLOCK_BOOTTIME.
#[derive(Debug, Default)]
pub(crate) struct Offset {
    /// As of the report that was least on its way, among the latest and among those before.
    least_ns: [Option<i128>; 2],
    since_ns: u64,
}

impl Offset {
    /// A report that was sent at `sent_boot_ns` of the node's came.
    pub(crate) fn learn(&mut self, received_ns: u64, sent_boot_ns: u64) {
        let age_ns = received_ns.saturating_sub(self.since_ns);
        if age_ns > LATELY_NS {
            let before = self.least_ns[0].filter(|_| age_ns <= 2 * LATELY_NS);
            self.least_ns = [None, before];
            self.since_ns = received_ns;
        }
        let offset = i128::from(received_ns) - i128::from(sent_boot_ns);
        self.least_ns[0] = Some(self.least_ns[0].map_or(offset, |least| least.min(offset)));
    }

    /// The aggregator's monotonic clock at a moment of the node's; below zero: before its start.
    pub(crate) fn mono_ns(&self, boot_ns: u64) -> i128 {
        let least = self.least_ns.iter().flatten().min();
        i128::from(boot_ns) + least.copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = NS_PER_S;
    const UNIX: u64 = 1_700_000_000 * S;

    fn now(mono: u64, ahead: u64) -> Now {
        Now {
            mono_ns: mono * S,
            unix_ns: (mono + ahead) * S,
        }
    }

    #[test]
    fn a_clock_that_is_set_is_noticed_and_one_that_is_slewed_is_not() {
        let mut wall = Wall::default();
        let unix = UNIX / S;
        assert_eq!(wall.look(now(1_000, unix)), None);
        // A thousandth, for two hours: seven seconds in all.
        for step in 1..7_200 {
            let slewed = Now {
                mono_ns: (1_000 + step) * S,
                unix_ns: (unix + 1_000 + step) * S + step * S / 1_000,
            };
            assert_eq!(wall.look(slewed), None);
        }
        assert!(wall.stood(0));
        let forward = wall.look(now(8_200, unix + 67));
        let at = (unix + 8_200) / 10;
        assert_eq!(
            forward,
            Some((at, at + 6)),
            "from 8,197 + 7 − 2 to 8,200 + 67 + 2"
        );
        assert!(!wall.stood(i128::from(8_202 * S)) && wall.stood(i128::from(8_203 * S)));
        let back = wall.look(now(8_201, unix));
        assert_eq!(back, Some((at - 1, at + 7)));
        assert!(!wall.stood(i128::from(8_203 * S)));
        assert_eq!(
            wall.look(now(8_000, unix + 500)),
            None,
            "an older look says nothing"
        );
        assert_eq!(wall.look(now(8_202, unix)), None);
    }

    #[test]
    fn a_node_is_dated_by_its_own_clock_while_that_is_about_right() {
        let mut wall = Wall::default();
        assert_eq!(wall.at(0, 7), 7, "nothing is known yet");
        wall.look(now(1_000, UNIX / S));
        let moment = i128::from(990 * S);
        let ours = UNIX + 990 * S;
        for (theirs, dated) in [
            (ours + 2 * S, ours + 2 * S),
            (ours - 2 * S, ours - 2 * S),
            (ours + 2 * S + 1, ours),
            (ours - 3_600 * S, ours),
            (0, ours),
        ] {
            assert_eq!(wall.at(moment, theirs), dated);
        }
    }

    #[test]
    fn the_way_is_the_least_of_late_and_an_old_one_is_forgotten() {
        let mut offset = Offset::default();
        offset.learn(1_000 * S, 100 * S);
        assert_eq!(offset.mono_ns(100 * S), i128::from(1_000 * S));
        offset.learn(1_003 * S, 101 * S);
        assert_eq!(
            offset.mono_ns(101 * S),
            i128::from(1_001 * S),
            "two seconds on its way"
        );
        // The node's clock falls behind, a second in each quarter of an hour.
        for n in 1..100 {
            offset.learn((1_000 + 905 * n) * S, (100 + 904 * n) * S);
            let off = offset
                .mono_ns((100 + 904 * n) * S)
                .abs_diff(i128::from((1_000 + 905 * n) * S));
            assert!(off <= u128::from(S), "{n}: {off}");
        }
    }
}
