//! How fast an outage is made up for: the past is sent at ten times the speed at which it happened, however many agents come back at once.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use tokio::time::Instant;

/// An outage of half an hour has been sent in three minutes and twenty seconds: meanwhile the present goes on.
const SPEED: u32 = 10;
/// So much is sent without waiting: what happened in thirty seconds, which is more than a reconnect takes.
const AHEAD: Duration = Duration::from_secs(3);
/// A report that others were merged into stands for minutes, and is still one report. The longest interval there is.
const LONGEST: Duration = Duration::from_secs(60);

/// Bounds how much of the past goes out in a second.
#[derive(Default)]
pub(super) struct Pace {
    /// When what was sent so far would have been sent at the wanted speed.
    due: Option<Instant>,
}

impl Pace {
    /// When the next report may go; `None`: now.
    pub(super) fn wait_until(&self, now: Instant) -> Option<Instant> {
        self.due
            .and_then(|due| due.checked_sub(AHEAD))
            .filter(|may| *may > now)
    }

    /// A report goes that closes an interval of `interval_ns`.
    pub(super) fn spend(&mut self, interval_ns: u64, now: Instant) {
        let cost = Duration::from_nanos(interval_ns).min(LONGEST) / SPEED;
        // Half to one and a half of it, so that agents that begin together do not stay together. Seeded anew each time, which is all the
        // randomness that this needs.
        let random = u32::try_from(RandomState::new().hash_one(interval_ns) % 1_000).unwrap_or(0);
        let cost = cost / 2 + cost.mul_f64(f64::from(random) / 1_000.0);
        self.due = Some(self.due.map_or(now, |due| due.max(now)) + cost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long an outage of so many reports of one interval takes to be sent.
    fn takes(reports: u32, interval: Duration) -> Duration {
        let begun = Instant::now();
        let (mut now, mut pace) = (begun, Pace::default());
        for _ in 0..reports {
            now = pace.wait_until(now).unwrap_or(now);
            pace.spend(interval.as_nanos() as u64, now);
        }
        now - begun
    }

    #[tokio::test]
    async fn half_an_hour_takes_three_minutes_whatever_the_interval() {
        for (reports, interval_ms) in [(1_800, 1_000), (18_000, 100), (180, 10_000)] {
            let took = takes(reports, Duration::from_millis(interval_ms)).as_secs_f64();
            assert!((150.0..200.0).contains(&took), "{reports} reports in {took} s");
        }
    }

    #[tokio::test]
    async fn a_reconnect_is_not_held_up() {
        assert_eq!(takes(20, Duration::from_secs(1)), Duration::ZERO);
        assert_eq!(takes(1, Duration::from_secs(3_600)), Duration::ZERO);
    }

    #[tokio::test]
    async fn what_stands_for_minutes_does_not_hold_up_the_rest_for_longer_than_one_interval() {
        assert!(takes(3, Duration::from_secs(3_600)) < Duration::from_secs(20));
    }

    #[tokio::test]
    async fn agents_that_begin_together_part() {
        let ends: std::collections::BTreeSet<Duration> =
            (0..20).map(|_| takes(100, Duration::from_secs(1))).collect();
        assert!(ends.len() > 10, "{ends:?}");
    }
}
