//! What waits to be written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use partywall_aggregator_core::trail::hours::Hour;
use partywall_proto::v1;

/// Breaches that wait for a disk: every one that may live fires and is resolved three times over.
const MAX_BREACHES: usize = 65_536;
/// Complete hours that wait for a disk: two days of one cluster.
const MAX_COMPLETE: usize = 48;

/// Cluster, hour, row.
type RowKey = (Arc<str>, u64, Vec<u8>);

/// What one commit changes.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// Fired, or was resolved; in order.
    pub(super) breaches: Vec<(u64, Arc<v1::Breach>)>,
    /// (cluster, hour, row) → what it is now; `None`: nothing.
    pub(super) rows: BTreeMap<RowKey, Option<Vec<u8>>>,
    /// Hours that are complete, and what came later still.
    pub(super) complete: Vec<(Arc<str>, u64, Hour)>,
}

impl Change {
    pub(super) fn is_empty(&self) -> bool {
        self.breaches.is_empty() && self.rows.is_empty() && self.complete.is_empty()
    }

    /// What is newer. Returns what found no room.
    pub(super) fn add(&mut self, other: Self) -> BTreeMap<&'static str, u64> {
        let mut lost = BTreeMap::new();
        self.breaches.extend(other.breaches);
        let over = self.breaches.len().saturating_sub(MAX_BREACHES);
        if over > 0 {
            self.breaches.truncate(MAX_BREACHES);
            lost.insert("breaches", over as u64);
        }
        self.rows.extend(other.rows);
        // Its rows are all in an hour that is complete.
        let complete: BTreeSet<(&str, u64)> = other.complete.iter().map(|(c, n, _)| (&**c, *n)).collect();
        self.rows
            .retain(|(cluster, hour, _), _| !complete.contains(&(&**cluster, *hour)));
        self.complete.extend(other.complete);
        let over = self.complete.len().saturating_sub(MAX_COMPLETE);
        if over > 0 {
            self.complete.drain(..over);
            lost.insert("hours", over as u64);
        }
        lost
    }
}
