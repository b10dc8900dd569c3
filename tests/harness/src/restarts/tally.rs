//! Sums by name: what was sent, what was acknowledged, what is exported.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

/// Nanoseconds, or a number of reports or waits, by what they are of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally(BTreeMap<String, u64>);

impl Tally {
    pub(super) fn add(&mut self, key: String, n: u64) {
        if n > 0 {
            *self.0.entry(key).or_default() += n;
        }
    }

    pub(super) fn take_over(&mut self, other: &Self) {
        for (key, n) in &other.0 {
            *self.0.entry(key.clone()).or_default() += n;
        }
    }

    pub(super) fn get(&self, key: &str) -> u64 {
        self.0.get(key).copied().unwrap_or(0)
    }

    pub(super) fn sum(&self, prefix: &str) -> u64 {
        let of = self.0.iter().filter(|(key, _)| key.starts_with(prefix));
        of.map(|(_, n)| n).sum()
    }

    /// `None`: something of `other` is not in it.
    pub(super) fn less(&self, other: &Self) -> Option<Self> {
        let mut left = self.clone();
        for (key, n) in &other.0 {
            let rest = left.get(key).checked_sub(*n)?;
            if rest == 0 {
                left.0.remove(key);
            } else {
                left.0.insert(key.clone(), rest);
            }
        }
        Some(left)
    }

    pub(super) fn only(&self, keep: impl Fn(&str) -> bool) -> Self {
        let kept = self.0.iter().filter(|(key, _)| keep(key));
        Self(kept.map(|(key, n)| (key.clone(), *n)).collect())
    }

    /// What went back since `before`.
    pub(super) fn fallen(&self, before: &Self) -> Vec<String> {
        let less = before.0.iter().filter(|(key, n)| self.get(key) < **n);
        less.map(|(key, n)| format!("{key}: {} after {n}", self.get(key)))
            .collect()
    }

    /// Where the two differ.
    pub(super) fn differences(&self, other: &Self) -> Vec<String> {
        let keys: std::collections::BTreeSet<_> = self.0.keys().chain(other.0.keys()).collect();
        keys.into_iter()
            .filter(|key| self.get(key) != other.get(key))
            .map(|key| format!("{key}: {} ≠ {}", self.get(key), other.get(key)))
            .collect()
    }

    /// The totals in a scrape.
    pub(super) fn of_scrape(text: &str) -> Result<Self> {
        let mut tally = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let Some((name, labels)) = series.split_once('{') else {
                continue;
            };
            let label = |key: &str| {
                let at = labels.find(&format!("{key}=\""))? + key.len() + 2;
                labels[at..].split('"').next()
            };
            let key = match name {
                "partywall_tenant_cpu_seconds_total" => [
                    "cpu",
                    label("node").unwrap_or_default(),
                    label("tenant").unwrap_or_default(),
                    "",
                ],
                "partywall_ledger_wait_seconds_total" => [
                    "ledger",
                    label("node").unwrap_or_default(),
                    label("waiter").unwrap_or_default(),
                    label("runner").unwrap_or_default(),
                ],
                "partywall_tenant_wait_seconds_sum" => {
                    ["waited", "", label("tenant").unwrap_or_default(), ""]
                }
                "partywall_tenant_wait_seconds_count" => {
                    ["waits", "", label("tenant").unwrap_or_default(), ""]
                }
                "partywall_node_reports_total" if label("outcome") == Some("accepted") => {
                    ["reports", label("node").unwrap_or_default(), "", ""]
                }
                _ => continue,
            };
            let value: f64 = value.parse().with_context(|| format!("no number: {line}"))?;
            let whole = matches!(key[0], "waits" | "reports");
            // Seconds have nanoseconds in full: 2^53 ns are 104 days.
            let n = if whole { value } else { (value * 1e9).round() };
            tally.add(key.join("/"), n as u64);
        }
        Ok(tally)
    }
}
