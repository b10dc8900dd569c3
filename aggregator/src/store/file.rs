//! What is kept of the totals: a file of two tables.

use std::path::Path;

use redb::{ReadableDatabase as _, ReadableTable as _, TableDefinition};

use super::format::VERSION;
use crate::database::{self, Kind, Open, OpenError, Place};

/// Position of a batch's first record → batch.
const JOURNAL: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("journal");
/// (cluster, node) → what is kept of it. An empty node: what is kept of the cluster.
const SAVED: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("saved");

const KIND: Kind = Kind {
    name: "state.redb",
    version: VERSION,
    // Batches are written once and read at the start alone.
    cache_bytes: 8 * 1024 * 1024,
    // Everything is read at the start in any case.
    checked: true,
    alone: "count into one state",
    tables: |txn| {
        txn.open_table(JOURNAL)?;
        txn.open_table(SAVED)?;
        Ok(())
    },
    // What an outage made of it goes back to the disk.
    compact_above: |_| Ok(256 * 1024 * 1024),
};

#[derive(Debug)]
pub(super) struct File(Open);

/// What one commit changes.
#[derive(Debug, Default)]
pub(super) struct Change<'a> {
    pub(super) batch: Option<(u64, &'a [u8])>,
    /// Cluster, node, what is kept of it; `None`: nothing.
    pub(super) saved: Vec<(&'a str, &'a str, Option<Vec<u8>>)>,
    /// Batches that are not needed any more, by their first positions.
    pub(super) done: &'a [u64],
}

impl File {
    /// As [`database::open`].
    pub(super) fn open(dir: &Path) -> Result<(Self, Option<String>), OpenError> {
        let (open, (), corrupt) = database::open(dir, &KIND, |_| Ok(()))?;
        Ok((Self(open), corrupt))
    }

    /// Everything that is kept, then every batch in order.
    pub(super) fn read(
        &self,
        mut saved: impl FnMut(&str, &str, &[u8]),
        mut batch: impl FnMut(u64, &[u8]),
    ) -> Result<(), redb::Error> {
        let txn = self.0.db.begin_read()?;
        for row in txn.open_table(SAVED)?.iter()? {
            let (key, value) = row?;
            let (cluster, node) = key.value();
            saved(cluster, node, value.value());
        }
        for row in txn.open_table(JOURNAL)?.iter()? {
            let (first, value) = row?;
            batch(first.value(), value.value());
        }
        Ok(())
    }

    /// All of it or nothing, and on the disk when this returns.
    pub(super) fn commit(&self, change: Change<'_>) -> Result<(), redb::Error> {
        let txn = self.0.db.begin_write()?;
        {
            let mut journal = txn.open_table(JOURNAL)?;
            if let Some((first, bytes)) = change.batch {
                journal.insert(first, bytes)?;
            }
            for first in change.done {
                journal.remove(first)?;
            }
            let mut saved = txn.open_table(SAVED)?;
            for (cluster, node, bytes) in change.saved {
                match bytes {
                    Some(bytes) => saved.insert((cluster, node), bytes.as_slice())?,
                    None => saved.remove((cluster, node))?,
                };
            }
        }
        txn.commit()?;
        Ok(())
    }

    /// Whether a restart finds what was written.
    pub(super) fn is_in(&self, place: &mut Place) -> bool {
        place.is_kept(&self.0)
    }

    /// Its length.
    pub(super) fn bytes(&self) -> u64 {
        self.0.bytes()
    }
}
