//! How fast somebody may go on.

use std::time::Duration;

use tokio::time::Instant;

/// A bucket that fills at a steady rate up to its rim.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    per_second: f64,
    rim: f64,
    /// Below zero: what was taken in advance.
    level: f64,
    at: Instant,
}

impl Bucket {
    /// A full one.
    pub fn new(per_second: f64, rim: f64, now: Instant) -> Self {
        Self {
            per_second,
            rim,
            level: rim,
            at: now,
        }
    }

    fn fill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        self.level = (self.level + since.as_secs_f64() * self.per_second).min(self.rim);
    }

    /// Takes `amount` in any case. Returns how long it is until the bucket is no longer in debt.
    pub fn take(&mut self, amount: f64, now: Instant) -> Duration {
        self.fill(now);
        self.level -= amount;
        Duration::from_secs_f64((-self.level).max(0.0) / self.per_second)
    }

    /// Takes `amount` if it is there.
    pub fn try_take(&mut self, amount: f64, now: Instant) -> bool {
        self.fill(now);
        let is_there = self.level >= amount;
        if is_there {
            self.level -= amount;
        }
        is_there
    }

    /// Nothing is missing: as good as a new one.
    pub fn is_full(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.level >= self.rim
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_above_the_rate_waits_and_rest_is_not_saved_up() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let mut bucket = Bucket::new(10.0, 3.0, began);
        for _ in 0..3 {
            assert_eq!(bucket.take(1.0, at(0)), Duration::ZERO);
        }
        assert_eq!(bucket.take(1.0, at(0)), Duration::from_millis(100));
        assert_eq!(bucket.take(1.0, at(0)), Duration::from_millis(200));
        assert!(!bucket.try_take(1.0, at(250)), "a half is there");
        assert!(bucket.try_take(1.0, at(300)));
        assert!(!bucket.is_full(at(400)));
        assert!(bucket.is_full(at(60_000)));
        for _ in 0..3 {
            assert!(bucket.try_take(1.0, at(60_000)));
        }
        assert!(
            !bucket.try_take(1.0, at(60_000)),
            "a minute of rest is no more than the rim"
        );
    }
}
