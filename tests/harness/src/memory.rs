//! One entity's memory, added up from the agent's samples.

use partywall_proto::v1::{MemorySample, Reclaim};

/// Memory over time, and the time lost to reclaim since the agent's start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// memory.current over time: what a sample says holds until the next, for the agent sends what has changed.
    byte_ns: u128,
    /// The newest memory.current and when it was read; none: not told, or gone.
    current: Option<(u64, u64)>,
    /// None: the agent does not tell.
    pub(crate) limit_stall_ns: Option<u64>,
    pub(crate) node_stall_ns: Option<u64>,
    /// Whether memory.current was ever told.
    pub(crate) is_sized: bool,
}

impl Memory {
    /// Takes in a sample that was read at `at_ns`.
    ///
    /// # Errors
    /// What the sample says cannot be.
    pub(crate) fn take(&mut self, sample: &MemorySample, at_ns: u64) -> Result<(), String> {
        self.end(at_ns);
        self.current = sample.current_bytes.map(|bytes| (bytes, at_ns));
        self.is_sized |= self.current.is_some();
        let stalled = |reclaim: &Option<Reclaim>| reclaim.as_ref().map(|reclaim| reclaim.stall_ns);
        let (limit, node) = (stalled(&sample.limit_reclaim), stalled(&sample.node_reclaim));
        let fell = limit < self.limit_stall_ns || node < self.node_stall_ns;
        (self.limit_stall_ns, self.node_stall_ns) = (limit, node);
        if fell {
            return Err("its time in reclaim fell".to_owned());
        }
        Ok(())
    }

    /// From now on there is none, until a sample says otherwise.
    pub(crate) fn end(&mut self, at_ns: u64) {
        if let Some((bytes, since_ns)) = self.current.take() {
            self.byte_ns += u128::from(bytes) * u128::from(at_ns.saturating_sub(since_ns));
        }
    }

    /// As it was at `at_ns`.
    pub(crate) fn until(&self, at_ns: u64) -> Self {
        let mut then = self.clone();
        then.end(at_ns);
        then
    }

    /// The mean of memory.current over `observed_ns`.
    #[allow(clippy::cast_precision_loss, reason = "a mean, to six digits at least")]
    pub(crate) fn mean_bytes(&self, observed_ns: f64) -> f64 {
        if self.is_sized {
            self.byte_ns as f64 / observed_ns
        } else {
            f64::NAN
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(current_bytes: impl Into<Option<u64>>, stalls: Option<(u64, u64)>) -> MemorySample {
        let reclaim = |stall_ns| Reclaim {
            stall_ns,
            ..Reclaim::default()
        };
        MemorySample {
            current_bytes: current_bytes.into(),
            limit_reclaim: stalls.map(|(limit, _)| reclaim(limit)),
            node_reclaim: stalls.map(|(_, node)| reclaim(node)),
            ..MemorySample::default()
        }
    }

    #[test]
    fn a_sample_holds_until_the_next() {
        let mut memory = Memory::default();
        memory.take(&sample(100, None), 10).unwrap();
        memory.take(&sample(50, None), 20).unwrap();
        assert_eq!(memory.until(40).byte_ns, 100 * 10 + 50 * 20);
        memory.end(30);
        assert_eq!(memory.until(1_000).byte_ns, 100 * 10 + 50 * 10);
        assert!((memory.mean_bytes(30.0) - 50.0).abs() < 1e-9);
    }

    #[test]
    fn what_is_not_told_is_not_zero() {
        let mut memory = Memory::default();
        memory.take(&sample(None, None), 10).unwrap();
        assert!(memory.until(20).mean_bytes(10.0).is_nan());
        assert_eq!(memory.limit_stall_ns, None);
    }

    #[test]
    fn stalls_are_the_newest_and_never_fall() {
        let mut memory = Memory::default();
        memory.take(&sample(1, Some((3, 5))), 1).unwrap();
        memory.take(&sample(1, Some((3, 7))), 2).unwrap();
        assert_eq!((memory.limit_stall_ns, memory.node_stall_ns), (Some(3), Some(7)));
        assert!(memory.take(&sample(1, Some((2, 7))), 3).is_err());
        assert!(memory.take(&sample(1, None), 4).is_err(), "and do not vanish");
    }
}
