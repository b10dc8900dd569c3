//! What pods, nodes and pools used at most in a minute, over the last day.
//!
//! Every ten seconds each pod's use over the long window is sampled; six samples make a minute, and the largest mean of each hour is kept: a day is 24
//! figures. A shorter mean would design for a hiccup, an average over the day for a quiet night. A pool's most is of one minute, not the sum of what each
//! node had at its own; a pod counts once it was seen for a whole minute.
//!
//! It is soft state: after a start the day is shorter, and `over_ns` says by how much.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::identity::Directory;
use crate::limits::{MAX_USED_PODS, NODE_KEPT_NS, NS_PER_S};
use crate::losses::Losses;
use crate::node::{Node, Window};
use crate::policy::Thresholds;
use crate::sums::{UnitSums, Who};

const SAMPLE_NS: u64 = 10 * NS_PER_S;
const SAMPLES: u32 = 6;
const HOURS: usize = 24;
const HOUR_NS: u64 = 3_600 * NS_PER_S;

/// CPU and memory.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Use {
    pub(crate) cores: f64,
    pub(crate) bytes: f64,
}

impl Use {
    pub(crate) fn plus(&mut self, other: Self) {
        self.cores += other.cores;
        self.bytes += other.bytes;
    }
}

/// The largest minute of each hour. Single precision: seven digits, and half the memory of a hundred thousand pods.
#[derive(Clone, Debug, Default)]
struct Peak {
    hours: [[f32; 2]; HOURS],
    /// Of the newest.
    hour: u64,
}

impl Peak {
    fn note(&mut self, hour: u64, used: Use) {
        // Those in between had nothing.
        let skipped = hour.saturating_sub(self.hour).min(HOURS as u64);
        for past in 0..skipped {
            self.hours[((hour - past) % HOURS as u64) as usize] = [0.0; 2];
        }
        self.hour = self.hour.max(hour);
        let slot = &mut self.hours[(hour % HOURS as u64) as usize];
        slot[0] = slot[0].max(used.cores as f32);
        slot[1] = slot[1].max(used.bytes as f32);
    }

    /// Of the day that ends in `hour`; CPU and memory may have been at their most in different minutes.
    fn most(&self, hour: u64) -> Use {
        let mut out = Use::default();
        for past in 0..(HOURS as u64).min(self.hour + 1) {
            if hour.saturating_sub(self.hour - past) < HOURS as u64 {
                let [cores, bytes] = self.hours[((self.hour - past) % HOURS as u64) as usize];
                out.cores = out.cores.max(f64::from(cores));
                out.bytes = out.bytes.max(f64::from(bytes));
            }
        }
        out
    }
}

#[derive(Debug, Default)]
struct PodUse {
    /// Sums of this minute's samples, and how many there are.
    minute: Use,
    samples: u32,
    memory_samples: u32,
    node: Arc<str>,
    seen_ns: u64,
    /// Absent before its first whole minute.
    peak: Option<Box<Peak>>,
}

/// Of one cluster.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// By UID.
    pods: BTreeMap<Arc<str>, PodUse>,
    nodes: BTreeMap<Arc<str>, Peak>,
    /// By zone and pool.
    pools: BTreeMap<(String, String), Peak>,
    next_ns: u64,
    samples: u32,
    /// The first sample, and whether a minute is over since.
    since_ns: Option<u64>,
    has_minute: bool,
}

impl History {
    /// Whether it is time to sample all nodes.
    pub(crate) fn is_due(&self, now_ns: u64) -> bool {
        now_ns >= self.next_ns
    }

    pub(crate) fn sample(
        &mut self,
        node: &Node,
        sums: &[[UnitSums; 2]],
        t: &Thresholds,
        now_ns: u64,
        losses: &mut Losses,
    ) {
        let Some(seen_ns) = node.seen_ns(Window::Long, t) else {
            return;
        };
        let memories = node.memories();
        for (at, (unit, sums)) in node.units.iter().zip(sums).enumerate() {
            let uid = match &unit.who {
                Who::Pod(pod) => &pod.uid,
                Who::Unidentified(uid) | Who::Foreign(uid) => uid,
                Who::Path { .. } | Who::Host(_) | Who::Unknown(_) => continue,
            };
            let Some(memory) = memories.get(&(at as u32)) else {
                continue;
            };
            if self.pods.len() >= MAX_USED_PODS && !self.pods.contains_key(uid) {
                losses.add("headroom", "pod_cap", "pods", 1);
                continue;
            }
            let pod = self.pods.entry(Arc::clone(uid)).or_default();
            if pod.node != node.name {
                pod.node = Arc::clone(&node.name);
            }
            pod.seen_ns = now_ns;
            pod.samples += 1;
            pod.minute.cores += sums[Window::Long as usize].run as f64 / seen_ns as f64;
            if let Some(bytes) = memory.and_then(|m| m.newest.working_set_bytes) {
                pod.minute.bytes += bytes as f64;
                pod.memory_samples += 1;
            }
        }
    }

    /// All nodes were sampled; every sixth time a minute is over.
    pub(crate) fn sampled(&mut self, directory: &Directory, now_ns: u64) {
        self.next_ns = now_ns.saturating_add(SAMPLE_NS);
        self.samples += 1;
        self.since_ns.get_or_insert(now_ns);
        if self.samples < SAMPLES {
            return;
        }
        self.samples = 0;
        self.has_minute = true;
        let hour = now_ns / HOUR_NS;
        let mut nodes: BTreeMap<Arc<str>, Use> = BTreeMap::new();
        for pod in self.pods.values_mut().filter(|pod| pod.samples > 0) {
            let of_minute = Use {
                cores: pod.minute.cores / f64::from(SAMPLES),
                bytes: pod.minute.bytes / f64::from(SAMPLES),
            };
            nodes.entry(Arc::clone(&pod.node)).or_default().plus(of_minute);
            if pod.samples >= SAMPLES {
                let mean = Use {
                    bytes: pod.minute.bytes / f64::from(pod.memory_samples.max(1)),
                    ..of_minute
                };
                pod.peak.get_or_insert_default().note(hour, mean);
            }
            pod.minute = Use::default();
            (pod.samples, pod.memory_samples) = (0, 0);
        }
        self.pods
            .retain(|_, pod| now_ns.saturating_sub(pod.seen_ns) < NODE_KEPT_NS);
        let mut pools: BTreeMap<(String, String), Use> = BTreeMap::new();
        for (name, used) in nodes {
            pools
                .entry(super::pool_of(directory.node(&name)))
                .or_default()
                .plus(used);
            self.nodes.entry(name).or_default().note(hour, used);
        }
        for (pool, used) in pools {
            self.pools.entry(pool).or_default().note(hour, used);
        }
        let lasts = |peak: &Peak| hour.saturating_sub(peak.hour) < HOURS as u64;
        self.nodes.retain(|_, peak| lasts(peak));
        self.pools.retain(|_, peak| lasts(peak));
    }

    /// How far back it reaches.
    pub(crate) fn over_ns(&self, now_ns: u64) -> u64 {
        let since_ns = self.since_ns.filter(|_| self.has_minute);
        since_ns.map_or(0, |since_ns| {
            now_ns.saturating_sub(since_ns).min(HOURS as u64 * HOUR_NS)
        })
    }

    pub(crate) fn pod(&self, uid: &str, now_ns: u64) -> Option<Use> {
        let peak = self.pods.get(uid)?.peak.as_ref()?;
        Some(peak.most(now_ns / HOUR_NS))
    }

    pub(crate) fn node(&self, name: &str, now_ns: u64) -> Option<Use> {
        Some(self.nodes.get(name)?.most(now_ns / HOUR_NS))
    }

    pub(crate) fn pool(&self, pool: &(String, String), now_ns: u64) -> Option<Use> {
        Some(self.pools.get(pool)?.most(now_ns / HOUR_NS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_kept_hour_by_hour() {
        let used = |cores| Use { cores, bytes: 0.0 };
        let mut peak = Peak::default();
        for (hour, cores) in [(100, 1.0), (100, 3.0), (101, 2.0), (110, 0.5)] {
            peak.note(hour, used(cores));
        }
        for (hour, wanted) in [
            (110, 3.0),
            (123, 3.0),
            (124, 2.0),
            (125, 0.5),
            (133, 0.5),
            (134, 0.0),
        ] {
            assert!(
                (peak.most(hour).cores - wanted).abs() < 1e-6,
                "{hour}: {:?}",
                peak.most(hour)
            );
        }
        // What was noted in the same slot a day before is gone.
        peak.note(124, used(0.25));
        assert!((peak.most(124).cores - 2.0).abs() < 1e-6);
        peak.note(400, used(0.125));
        assert!((peak.most(400).cores - 0.125).abs() < 1e-6);
    }
}
