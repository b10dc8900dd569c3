//! The two clocks: of durations, which never steps, and of people, which may.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// One moment on both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// CLOCK_BOOTTIME.
    pub boot_ns: u64,
    /// The wall clock.
    pub unix_ns: u64,
}

impl Moment {
    pub fn now() -> Self {
        Self {
            boot_ns: boot_ns(),
            unix_ns: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)),
        }
    }

    /// How far the wall clock went ahead of the other since `self`, in nanoseconds: by a step, or by being slewed.
    pub fn wall_clock_shift_ns(self, now: Self) -> i128 {
        let between = |from: u64, to: u64| i128::from(to) - i128::from(from);
        between(self.unix_ns, now.unix_ns) - between(self.boot_ns, now.boot_ns)
    }
}

pub fn boot_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec
        .unsigned_abs()
        .saturating_mul(1_000_000_000)
        .saturating_add(now.tv_nsec.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_the_wall_clock_is_seen_either_way_and_the_passing_of_time_is_not() {
        const HOUR_NS: u64 = 3_600_000_000_000;
        let start = Moment {
            boot_ns: 5_000,
            unix_ns: 1_700_000_000_000_000_000,
        };
        let after = |unix_ns| Moment {
            boot_ns: start.boot_ns + HOUR_NS,
            unix_ns,
        };
        let shift = |unix_ns| start.wall_clock_shift_ns(after(unix_ns));
        assert_eq!(shift(start.unix_ns + HOUR_NS), 0);
        assert_eq!(shift(start.unix_ns + 2 * HOUR_NS), i128::from(HOUR_NS));
        assert_eq!(shift(start.unix_ns), -i128::from(HOUR_NS));
        assert_eq!(
            shift(0),
            -i128::from(start.unix_ns) - i128::from(HOUR_NS),
            "before 1970"
        );
    }
}
