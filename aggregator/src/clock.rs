//! The only clock of the aggregator; everything below gets time as an argument.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use partywall_aggregator_core::Now;

/// Monotonic time since the aggregator's start, and wall time beside it.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Clock {
    pub fn now(&self) -> Now {
        Now {
            mono_ns: nanos(self.start.elapsed().as_nanos()),
            unix_ns: unix_ns(),
        }
    }
}

/// Wall clock, for people.
pub fn unix_ns() -> u64 {
    // A clock before 1970 says nothing: 0.
    nanos(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos(),
    )
}

fn nanos(n: u128) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// The longest that a report is believed to have been on its way: agents give a stream up after so long without a receipt.
const LONGEST_WAY_NS: u64 = 15_000_000_000;

/// How old a report is when it is counted, and how far the two machines' wall clocks are apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// From the reading to now.
    pub lag_ns: u64,
    /// The node's clock minus ours, less the report's way here, which cannot be told from it; `None`: not known.
    pub clock_offset_ns: Option<i64>,
}

impl Lag {
    /// `waited_ns`: from the reading to the sending, by a clock that does not step; `None`: not known, and then the two wall clocks are believed.
    pub fn of(captured_unix_ns: u64, waited_ns: Option<u64>, received_unix_ns: u64) -> Self {
        let Some(waited_ns) = waited_ns else {
            return Self {
                lag_ns: received_unix_ns.saturating_sub(captured_unix_ns),
                clock_offset_ns: None,
            };
        };
        let sent_unix_ns = captured_unix_ns.saturating_add(waited_ns);
        let way_ns = received_unix_ns.saturating_sub(sent_unix_ns).min(LONGEST_WAY_NS);
        let offset_ns = i128::from(sent_unix_ns) - i128::from(received_unix_ns);
        let limit = |ns: i128| i64::try_from(ns).unwrap_or(if ns < 0 { i64::MIN } else { i64::MAX });
        Self {
            lag_ns: waited_ns.saturating_add(way_ns),
            clock_offset_ns: Some(limit(offset_ns)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;
    const HOUR: u64 = 3_600 * S;
    const NOW: u64 = 1_700_000_000 * S;

    #[test]
    fn a_clock_that_is_an_hour_off_is_an_offset_and_no_lag() {
        let ahead = Lag::of(NOW + HOUR, Some(S), NOW + 2 * S);
        assert_eq!(
            (ahead.lag_ns, ahead.clock_offset_ns),
            (S, Some((HOUR - S) as i64))
        );
        let behind = Lag::of(NOW - HOUR, Some(S), NOW + S);
        assert_eq!(behind.clock_offset_ns, Some(-(HOUR as i64)));
        assert_eq!(behind.lag_ns, S + LONGEST_WAY_NS, "as late as it may be");
    }

    #[test]
    fn a_report_that_waited_for_an_hour_is_late_and_its_clock_is_right() {
        let late = Lag::of(NOW - HOUR, Some(HOUR), NOW + S);
        assert_eq!((late.lag_ns, late.clock_offset_ns), (HOUR + S, Some(-(S as i64))));
    }

    #[test]
    fn nonsense_saturates() {
        for (captured, waited, received) in [
            (0, u64::MAX, NOW),
            (u64::MAX, u64::MAX, 0),
            (u64::MAX, 0, 0),
            (0, 0, u64::MAX),
        ] {
            let lag = Lag::of(captured, Some(waited), received);
            assert!(lag.lag_ns >= waited && lag.clock_offset_ns.is_some(), "{lag:?}");
        }
        let unknown = Lag::of(NOW + HOUR, None, NOW);
        assert_eq!((unknown.lag_ns, unknown.clock_offset_ns), (0, None));
    }
}
