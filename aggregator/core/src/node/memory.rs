//! What a pod says of its memory: the newest sample whole, and a few moments of its past, from which rates come.
//!
//! Agents send a sample only when something changed, so silence means "as before". The first sample of a pod is a baseline: how long what it
//! counts took is not known.

use std::collections::VecDeque;

use crate::limits::MAX_POINTS;
use crate::report::MemorySample;

/// Values at moments of the node's CLOCK_BOOTTIME, oldest first; at most [`MAX_POINTS`].
///
/// The newest half is as sharp as the reports. Of a window that has more reports than there is room, the moment it begins with may be older than
/// the window by a quarter: rules look at the fast one.
#[derive(Debug)]
pub(crate) struct History<P>(VecDeque<(u64, P)>);

impl<P> Default for History<P> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<P: Copy> History<P> {
    /// `since_ns`: the report before, up to which the last value stood. What no window that begins at `from_ns` or later needs is let go of.
    pub(crate) fn push(&mut self, since_ns: u64, at_ns: u64, value: P, from_ns: u64) {
        if let Some((last_ns, last)) = self.0.back().copied()
            && last_ns < since_ns
        {
            self.append(since_ns, last, from_ns);
        }
        if self.0.back().is_some_and(|(last_ns, _)| *last_ns == at_ns) {
            self.0.pop_back();
        }
        self.append(at_ns, value, from_ns);
    }

    fn append(&mut self, at_ns: u64, value: P, from_ns: u64) {
        while self.0.get(1).is_some_and(|(next_ns, _)| *next_ns <= from_ns) {
            self.0.pop_front();
        }
        if self.0.len() >= MAX_POINTS {
            // Of the older half, so that what just happened stays sharp.
            let gap = |i: &usize| self.0[i + 1].0 - self.0[i - 1].0;
            if let Some(closest) = (1..MAX_POINTS / 2).min_by_key(gap) {
                self.0.remove(closest);
            }
        }
        // By what is needed: a pod's few moments lie for as long as it lives, and doubling would leave half of their room empty.
        self.0.reserve_exact(1);
        self.0.push_back((at_ns, value));
    }

    /// As it stood at `ns`; the first value where nothing is that old.
    pub(crate) fn at(&self, ns: u64) -> Option<&P> {
        let after = self.0.partition_point(|(at_ns, _)| *at_ns <= ns);
        self.0.get(after.saturating_sub(1)).map(|(_, value)| value)
    }

    /// The newest value from before `ns`.
    pub(crate) fn before(&self, ns: u64) -> Option<&P> {
        let before = self.0.partition_point(|(at_ns, _)| *at_ns < ns);
        self.0.get(before.checked_sub(1)?).map(|(_, value)| value)
    }

    pub(crate) fn newest(&self) -> Option<&P> {
        self.0.back().map(|(_, value)| value)
    }

    /// Each stretch that ends after `from_ns`: its length, the values at its beginning and end.
    pub(crate) fn stretches(&self, from_ns: u64) -> impl Iterator<Item = (u64, &P, &P)> {
        self.0
            .iter()
            .zip(self.0.iter().skip(1))
            .filter(move |(_, (to_ns, _))| *to_ns > from_ns)
            .map(|((a_ns, a), (b_ns, b))| (b_ns - a_ns, a, b))
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// One moment of a pod's memory. What the kernel does not offer is 0: whether it does, the newest sample says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) current_bytes: u64,
    pub(crate) working_set_bytes: u64,
    pub(crate) limit_stall_ns: u64,
    pub(crate) node_stall_ns: u64,
    pub(crate) some_us: u64,
    pub(crate) full_us: u64,
    pub(crate) refaults: u64,
    /// `memory.events` high and max: times that it was held at a limit of its own.
    pub(crate) at_limit: u64,
}

impl Point {
    fn of(s: &MemorySample) -> Self {
        Self {
            current_bytes: s.current_bytes.unwrap_or(0),
            working_set_bytes: s.working_set_bytes.unwrap_or(0),
            limit_stall_ns: s.limit_reclaim.map_or(0, |r| r.stall_ns),
            node_stall_ns: s.node_reclaim.map_or(0, |r| r.stall_ns),
            some_us: s.memory_pressure.map_or(0, |p| p.some_us),
            full_us: s.memory_pressure.and_then(|p| p.full_us).unwrap_or(0),
            refaults: s.refaults.unwrap_or(0),
            at_limit: s.events.map_or(0, |e| e.high.saturating_add(e.max)),
        }
    }

    /// Waited for memory that the node lacked since `before`, in nanoseconds; `None` where nothing tells.
    ///
    /// Two measures of it, the larger counts. Direct reclaim on the node's behalf is exact, and misses what follows: a working set that was evicted
    /// comes back by faults. PSI has those too, but does not say who is to blame; in a pod that did not touch a limit of its own it can only be
    /// the node. The same goes for reclaim at a limit that is not its own: the kubelet bounds all pods together by what the node may allocate.
    fn waited_for_node_ns(&self, before: &Self, sample: &MemorySample) -> Option<u64> {
        let touched = self.touched_limit(before, sample);
        let reclaim = sample.node_reclaim.map(|_| {
            let above = if touched {
                0
            } else {
                self.limit_stall_ns.saturating_sub(before.limit_stall_ns)
            };
            self.node_stall_ns
                .saturating_sub(before.node_stall_ns)
                .saturating_add(above)
        });
        let pressure = sample
            .memory_pressure
            .filter(|_| !touched)
            .map(|_| self.some_us.saturating_sub(before.some_us).saturating_mul(1_000));
        reclaim.max(pressure)
    }

    /// Met a limit of its own: its `memory.events` say so. Where nobody reads them, any reclaim for a limit is taken for its own.
    fn touched_limit(&self, before: &Self, sample: &MemorySample) -> bool {
        self.at_limit > before.at_limit
            || (sample.events.is_none() && self.limit_stall_ns > before.limit_stall_ns)
    }
}

/// A pod's memory.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) newest: MemorySample,
    pub(crate) past: History<Point>,
    /// CLOCK_BOOTTIME of the newest sample.
    pub(crate) at_ns: u64,
}

/// What a pod's memory did in a window. `None`: nothing tells.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Rates {
    /// Seconds per second.
    pub(crate) limit_stall: Option<f64>,
    pub(crate) node_stall: Option<f64>,
    /// See [`Point::waited_for_node_ns`].
    pub(crate) waited_for_node: Option<f64>,
    pub(crate) some: Option<f64>,
    pub(crate) full: Option<f64>,
    pub(crate) refaults: Option<f64>,
    /// Of `memory.current`, in bytes per second.
    pub(crate) growth: f64,
    pub(crate) touched_limit: bool,
}

impl Memory {
    pub(crate) fn new(sample: MemorySample, at_ns: u64) -> Self {
        let mut past = History::default();
        past.push(at_ns, at_ns, Point::of(&sample), 0);
        Self {
            newest: sample,
            past,
            at_ns,
        }
    }

    /// As [`History::push`].
    pub(crate) fn push(&mut self, since_ns: u64, at_ns: u64, sample: MemorySample, from_ns: u64) {
        if shape(&sample) == shape(&self.newest) {
            self.past.push(since_ns, at_ns, Point::of(&sample), from_ns);
            self.newest = sample;
            self.at_ns = at_ns;
        } else {
            // Something is told that was not, or no longer: no difference to what was before means anything.
            *self = Self::new(sample, at_ns);
        }
    }

    /// Over a window that began at `from_ns` and of which `seen_ns` (not 0) were seen.
    pub(crate) fn rates(&self, from_ns: u64, seen_ns: u64) -> Rates {
        let (Some(now), Some(then)) = (self.past.newest(), self.past.at(from_ns)) else {
            return Rates::default();
        };
        let s = &self.newest;
        let seen = seen_ns as f64;
        let per_ns = |now: u64, then: u64| now.saturating_sub(then) as f64 / seen;
        Rates {
            limit_stall: s
                .limit_reclaim
                .map(|_| per_ns(now.limit_stall_ns, then.limit_stall_ns)),
            node_stall: s
                .node_reclaim
                .map(|_| per_ns(now.node_stall_ns, then.node_stall_ns)),
            waited_for_node: now.waited_for_node_ns(then, s).map(|ns| ns as f64 / seen),
            some: s.memory_pressure.map(|_| per_ns(now.some_us, then.some_us) * 1e3),
            full: s
                .memory_pressure
                .and_then(|p| p.full_us)
                .map(|_| per_ns(now.full_us, then.full_us) * 1e3),
            refaults: s.refaults.map(|_| per_ns(now.refaults, then.refaults) * 1e9),
            growth: (now.current_bytes as f64 - then.current_bytes as f64) * 1e9 / seen,
            touched_limit: now.touched_limit(then, s),
        }
    }

    /// Reports since `from_ns` in which it waited for the node for at least this share of the time.
    pub(crate) fn hits(&self, from_ns: u64, least: f64) -> usize {
        self.past
            .stretches(from_ns)
            .filter(|(ns, a, b)| {
                b.waited_for_node_ns(a, &self.newest)
                    .is_some_and(|waited| waited > 0 && waited as f64 >= least * *ns as f64)
            })
            .count()
    }
}

/// Which of the counters are there.
fn shape(s: &MemorySample) -> [bool; 8] {
    [
        s.current_bytes.is_some(),
        s.working_set_bytes.is_some(),
        s.events.is_some(),
        s.refaults.is_some(),
        s.memory_pressure.is_some(),
        s.memory_pressure.is_some_and(|p| p.full_us.is_some()),
        s.limit_reclaim.is_some(),
        s.node_reclaim.is_some(),
    ]
}

/// A container: what a LimitRange is held against, and nothing else. All other memory is judged by pod.
#[derive(Debug, Default)]
pub(crate) struct Container {
    /// Entity index of its pod.
    pub(crate) pod: u32,
    /// As the runtime names it.
    pub(crate) id: Box<str>,
    pub(crate) working_set_bytes: Option<u64>,
    /// CPU time.
    pub(crate) run_ns: History<u64>,
    /// Marks of the report being checked: listed already?
    pub(crate) cpu_mark: u64,
    pub(crate) memory_mark: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{MemoryEvents, Pressure, Reclaim};

    const S: u64 = 1_000_000_000;

    #[test]
    fn a_history_is_bounded_and_keeps_what_a_window_begins_with() {
        let mut history = History::default();
        for second in 0..1_000u64 {
            history.push(
                (second.max(1) - 1) * S,
                second * S,
                second,
                second.saturating_sub(600) * S,
            );
            assert!(history.len() <= MAX_POINTS && history.0.capacity() <= MAX_POINTS);
        }
        assert_eq!(history.newest(), Some(&999));
        assert_eq!(history.at(997 * S), Some(&997), "the newest are sharp");
        let base = *history.at(399 * S).unwrap();
        assert!((240..=399).contains(&base), "{base}: the oldest reach back");
        let mut short = History::default();
        for second in 0..100u64 {
            short.push(
                (second.max(1) - 1) * S,
                second * S,
                second,
                second.saturating_sub(10) * S,
            );
        }
        assert_eq!((short.len(), short.at(89 * S)), (11, Some(&89)));
        assert_eq!(short.before(95 * S), Some(&94));
        assert_eq!(short.before(0), None);
        assert_eq!(short.at(0), Some(&89), "nothing is that old");
    }

    #[test]
    fn silence_means_as_before() {
        let mut history = History::default();
        history.push(0, S, 5, 0);
        history.push(59 * S, 60 * S, 7, 50 * S);
        assert_eq!(history.at(50 * S), Some(&5));
        assert_eq!(history.at(59 * S), Some(&5));
        assert_eq!(
            history.stretches(58 * S).map(|(ns, ..)| ns).collect::<Vec<_>>(),
            [58 * S, S]
        );
    }

    #[test]
    fn pressure_is_the_nodes_only_without_a_touch_of_the_own_limit() {
        let sample = |some_us, node_ns, limit_ns, max| MemorySample {
            memory_pressure: Some(Pressure {
                some_us,
                full_us: None,
            }),
            node_reclaim: Some(Reclaim {
                stall_ns: node_ns,
                ..Reclaim::default()
            }),
            limit_reclaim: Some(Reclaim {
                stall_ns: limit_ns,
                ..Reclaim::default()
            }),
            events: Some(MemoryEvents {
                max,
                ..MemoryEvents::default()
            }),
            ..MemorySample::default()
        };
        let waited = |to: MemorySample| {
            let mut memory = Memory::new(sample(0, 0, 0, 0), S);
            memory.push(S, 2 * S, to, 0);
            let rates = memory.rates(S, S);
            (rates.waited_for_node.unwrap(), rates.touched_limit)
        };
        assert_eq!(waited(sample(500_000, 100_000_000, 0, 0)), (0.5, false));
        assert_eq!(waited(sample(50_000, 100_000_000, 0, 0)), (0.1, false));
        assert_eq!(waited(sample(500_000, 100_000_000, 1, 1)), (0.1, true));
        assert_eq!(waited(sample(500_000, 0, 0, 1)), (0.0, true));
        // A limit above the pod's own: all pods together.
        assert_eq!(waited(sample(50_000, 100_000_000, 200_000_000, 0)), (0.3, false));
        let mut bare = Memory::new(MemorySample::default(), S);
        bare.push(
            S,
            2 * S,
            MemorySample {
                current_bytes: Some(9),
                ..MemorySample::default()
            },
            0,
        );
        assert_eq!(bare.past.len(), 1, "told more than before: begun anew");
        assert_eq!(bare.rates(0, S).waited_for_node, None);
    }
}
