//! The aggregator's own losses: what it could not store, name or believe, by stage and reason.

use std::collections::BTreeMap;

/// Where and why something was lost, and what is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LossKey {
    /// "ingest", "window", "identify", "judge", "export", "store".
    pub stage: &'static str,
    pub reason: &'static str,
    /// "reports", "entities", "samples", "pairs", "pods", "services", "breaches", "series", "records".
    pub unit: &'static str,
}

/// Counts by [`LossKey`], since the aggregator's start.
#[derive(Clone, Debug, Default)]
pub struct Losses(BTreeMap<LossKey, u64>);

impl Losses {
    pub fn add(&mut self, stage: &'static str, reason: &'static str, unit: &'static str, count: u64) {
        if count > 0 {
            let total = self.0.entry(LossKey { stage, reason, unit }).or_default();
            *total = total.saturating_add(count);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (LossKey, u64)> + '_ {
        self.0.iter().map(|(key, count)| (*key, *count))
    }

    /// The count of one stage and reason; 0 where nothing was lost.
    pub fn get(&self, stage: &str, reason: &str) -> u64 {
        self.0
            .iter()
            .filter(|(key, _)| key.stage == stage && key.reason == reason)
            .map(|(_, n)| n)
            .sum()
    }
}
