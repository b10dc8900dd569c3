//! What time retention reckons from. A wall clock that is years ahead would make everything old at once, and what was taken out is gone when it is set right.

use std::time::{Duration, Instant};

use tracing::warn;

/// A clock is believed that is no further than this ahead of the time that has passed, and any other once it has been ahead for as long.
const BELIEVED: Duration = Duration::from_secs(86_400);

#[derive(Debug)]
pub(super) struct Age {
    /// The time that was believed last, and when that was.
    believed_ns: u64,
    at: Instant,
    ahead_since: Option<Instant>,
}

impl Age {
    /// `believed_ns`: by whoever wrote before.
    pub(super) fn new(believed_ns: u64, at: Instant) -> Self {
        Self {
            believed_ns,
            at,
            ahead_since: None,
        }
    }

    /// The time that ages are reckoned from, when the wall clock says `now_ns`.
    pub(super) fn now(&mut self, at: Instant, now_ns: u64) -> u64 {
        let passed = at.saturating_duration_since(self.at);
        let expected_ns = self.believed_ns.saturating_add(nanos(passed));
        if now_ns > expected_ns.saturating_add(nanos(BELIEVED)) {
            if self.ahead_since.is_none() {
                let ahead_days = (now_ns - expected_ns) / nanos(BELIEVED);
                warn!(
                    ahead_days,
                    "the clock is ahead of what the trail has and of the time that has passed: for a day nothing is taken out by its age on this clock's word"
                );
            }
            let since = *self.ahead_since.get_or_insert(at);
            if at.saturating_duration_since(since) < BELIEVED {
                return expected_ns;
            }
        }
        *self = Self::new(now_ns, at);
        now_ns
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000_000_000;
    const DAY: u64 = 24 * HOUR;
    const THEN: u64 = 20_000 * DAY;

    #[test]
    fn a_clock_far_ahead_is_not_believed_for_a_day() {
        let start = Instant::now();
        let after = |ns| start + Duration::from_nanos(ns);
        let years = 3_650 * DAY;
        let mut age = Age::new(THEN, start);
        for hour in 0..24 {
            let passed = hour * HOUR;
            assert_eq!(age.now(after(passed), THEN + years + passed), THEN + passed);
        }
        // It may be right: nobody wrote for long.
        assert_eq!(age.now(after(DAY), THEN + years + DAY), THEN + years + DAY);
        let later = THEN + years + DAY + HOUR;
        assert_eq!(age.now(after(DAY + HOUR), later), later);
    }

    #[test]
    fn a_clock_that_is_set_right_in_time_is_believed_at_once() {
        let start = Instant::now();
        let after = |ns| start + Duration::from_nanos(ns);
        let mut age = Age::new(THEN, start);
        assert_eq!(
            age.now(after(0), THEN + HOUR),
            THEN + HOUR,
            "it was away for an hour"
        );
        assert_eq!(age.now(after(HOUR), THEN + 90 * DAY), THEN + 2 * HOUR, "stepped");
        assert_eq!(age.now(after(2 * HOUR), THEN + 3 * HOUR), THEN + 3 * HOUR, "back");
        // The day begins anew with the next step.
        for hour in 3..27 {
            let told = age.now(after(hour * HOUR), THEN + 90 * DAY);
            assert_eq!(told, THEN + (hour + 1) * HOUR);
        }
        // Behind: nothing is old then.
        assert_eq!(age.now(after(28 * HOUR), HOUR), HOUR);
    }
}
