//! How many streams a node has, and how fast they go on: together, so that a second stream is no second allowance.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use partywall_aggregator_core::limits::MAX_NODES;
use tokio::time::Instant;

use crate::limits::{
    MAX_STREAMS_PER_NODE, REPORT_BYTES_AT_ONCE, REPORT_BYTES_PER_SECOND, REPORTS_AT_ONCE, REPORTS_PER_SECOND,
};
use crate::pace::Bucket;

/// Cluster and node.
type Name = (Arc<str>, Arc<str>);

#[derive(Debug, Default)]
pub struct Nodes(Mutex<BTreeMap<Name, Node>>);

#[derive(Debug)]
struct Node {
    streams: usize,
    reports: Bucket,
    bytes: Bucket,
}

/// One of a node's streams.
#[derive(Debug)]
pub struct OfNode {
    nodes: Arc<Nodes>,
    name: Name,
}

impl Nodes {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Name, Node>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: it has as many streams as it may.
    pub fn join(self: &Arc<Self>, cluster: &Arc<str>, node: &Arc<str>) -> Option<OfNode> {
        let now = Instant::now();
        let mut nodes = self.lock();
        if nodes.len() >= MAX_NODES {
            // Kept for as long as they would be held up, so that coming again is no way around it.
            nodes.retain(|_, n| n.streams > 0 || !n.reports.is_full(now) || !n.bytes.is_full(now));
        }
        let name = (Arc::clone(cluster), Arc::clone(node));
        let of = nodes.entry(name.clone()).or_insert_with(|| Node {
            streams: 0,
            reports: Bucket::new(REPORTS_PER_SECOND, REPORTS_AT_ONCE, now),
            bytes: Bucket::new(REPORT_BYTES_PER_SECOND, REPORT_BYTES_AT_ONCE, now),
        });
        if of.streams >= MAX_STREAMS_PER_NODE {
            return None;
        }
        of.streams += 1;
        Some(OfNode {
            nodes: Arc::clone(self),
            name,
        })
    }
}

impl OfNode {
    /// How long the next report must wait after one of `bytes`.
    pub fn took(&self, bytes: usize) -> Duration {
        let now = Instant::now();
        let mut nodes = self.nodes.lock();
        nodes.get_mut(&self.name).map_or(Duration::ZERO, |node| {
            let reports = node.reports.take(1.0, now);
            reports.max(node.bytes.take(bytes as f64, now))
        })
    }
}

impl Drop for OfNode {
    fn drop(&mut self) {
        if let Some(node) = self.nodes.lock().get_mut(&self.name) {
            node.streams = node.streams.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_a_node_share_what_it_may() {
        let nodes = Arc::new(Nodes::default());
        let [cluster, a, b] = ["default", "a", "b"].map(Arc::from);
        let mut streams: Vec<_> = (0..MAX_STREAMS_PER_NODE)
            .map(|_| nodes.join(&cluster, &a).unwrap())
            .collect();
        assert!(nodes.join(&cluster, &a).is_none());
        let other = nodes.join(&cluster, &b).unwrap();
        let waits: Vec<_> = (0..200).map(|n| streams[n % streams.len()].took(1_000)).collect();
        assert_eq!(waits[40], Duration::ZERO);
        assert!(waits[199] > Duration::from_secs(1), "{:?}", waits[199]);
        assert_eq!(other.took(1_000), Duration::ZERO);
        assert!(other.took(40 * 1024 * 1024) > Duration::from_secs(2));
        drop(streams.pop());
        let again = nodes.join(&cluster, &a).unwrap();
        assert!(
            again.took(1) > Duration::from_secs(1),
            "what was taken is remembered"
        );
    }
}
