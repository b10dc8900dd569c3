//! From the file back into the worlds.

use std::collections::BTreeMap;
use std::sync::Arc;

use partywall_aggregator_core::checkpoint::Mark;
use partywall_proto::v1;
use prost::Message as _;
use tracing::{info, warn};

use super::Figures;
use super::file::File;
use super::format::{self, Batch, Event, Record, Saved};
use crate::state::Cluster;
use crate::wire;

struct Restore<'a> {
    clusters: &'a [Arc<Cluster>],
    /// (cluster, node) → what is journalled before this position is in what was saved.
    positions: BTreeMap<(String, String), u64>,
    next: u64,
    figures: Figures,
}

/// Returns the first position that was never used.
pub(super) fn restore(file: &File, clusters: &[Arc<Cluster>]) -> Result<(u64, Figures), redb::Error> {
    let began = std::time::Instant::now();
    let restore = std::cell::RefCell::new(Restore {
        clusters,
        positions: BTreeMap::new(),
        next: 1,
        figures: Figures::default(),
    });
    file.read(
        |cluster, node, bytes| restore.borrow_mut().saved(cluster, node, bytes),
        |first, bytes| restore.borrow_mut().batch(first, bytes),
    )?;
    for cluster in clusters {
        let now = cluster.now();
        cluster.lock().end_replay(now);
    }
    let Restore { next, figures, .. } = restore.into_inner();
    for (what, n) in &figures.unreadable {
        warn!(what, n, "parts of the state were left out");
    }
    info!(
        nodes = figures.restored_nodes,
        replayed = figures.replayed_records,
        ms = began.elapsed().as_millis() as u64,
        "totals restored"
    );
    Ok((next, figures))
}

impl Restore<'_> {
    fn cluster(&mut self, name: &str) -> Option<Arc<Cluster>> {
        let found = self.clusters.iter().find(|c| &*c.name == name).cloned();
        if found.is_none() {
            self.left_out("other_cluster");
        }
        found
    }

    fn left_out(&mut self, what: &'static str) {
        *self.figures.unreadable.entry(what).or_default() += 1;
    }

    fn saved(&mut self, name: &str, node: &str, bytes: &[u8]) {
        let Some(cluster) = self.cluster(name) else {
            return;
        };
        let Ok(saved) = Saved::decode(bytes) else {
            return self.left_out("node");
        };
        self.next = self.next.max(saved.position);
        self.positions
            .insert((name.to_owned(), node.to_owned()), saved.position);
        let now = cluster.now();
        let mut world = cluster.lock();
        if node.is_empty() {
            world.restore_gone_waits(format::wait_totals(saved.waits));
        } else if let Some(state) = saved.node {
            match state.checkpoint(node) {
                Some(checkpoint) => {
                    world.restore(checkpoint, now);
                    self.figures.restored_nodes += 1;
                }
                None => self.left_out("node"),
            }
        }
    }

    fn batch(&mut self, first: u64, bytes: &[u8]) {
        let Ok(batch) = Batch::decode(bytes) else {
            return self.left_out("batch");
        };
        for (record, position) in batch.records.into_iter().zip(first..) {
            self.next = position + 1;
            self.record(record, position);
        }
    }

    fn record(&mut self, record: Record, position: u64) {
        let mut key = (record.cluster, record.node);
        if self.positions.get(&key).is_some_and(|saved| position < *saved) {
            return;
        }
        let Some(cluster) = self.cluster(&key.0) else {
            return;
        };
        self.figures.replayed_records += 1;
        let (report, refused) = match record.event {
            Some(Event::Counted(report)) => (report, false),
            Some(Event::Refused(report)) => (report, true),
            Some(Event::Folded(folded)) => {
                return cluster.lock().replay_mark(folded.mark(&key.1), true);
            }
            Some(Event::Forgotten(_)) => {
                let node = Arc::from(std::mem::take(&mut key.1));
                // The cluster's own row may have been saved after.
                let saved = self.positions.get(&key);
                let keep = saved.is_none_or(|saved| position >= *saved);
                return cluster.lock().replay_mark(Mark::Forgotten { node }, keep);
            }
            None => return self.left_out("record"),
        };
        let report = v1::Report::decode(report.as_slice()).ok();
        match report.and_then(|report| wire::report(report).ok()) {
            Some(report) => {
                let now = cluster.now();
                cluster.lock().replay_report(report, refused, now);
            }
            None => self.left_out("report"),
        }
    }
}
