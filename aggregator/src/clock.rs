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
