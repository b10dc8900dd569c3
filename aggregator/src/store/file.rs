//! The file itself: a redb database, whose pages have checksums and whose commits are all or nothing.

use std::io;
use std::path::{Path, PathBuf};

use redb::{Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use super::format::VERSION;

const NAME: &str = "state.redb";
/// Where a file goes that cannot be read: one, the newest.
const ASIDE: &str = "state.redb.corrupt";
/// Pages kept in memory. Batches are written once and read at the start alone.
const CACHE_BYTES: usize = 8 * 1024 * 1024;
/// A file larger than this is made as small as it can be when it is opened: what an outage made of it goes back to the disk.
const COMPACT_BYTES: u64 = 256 * 1024 * 1024;

/// "version" alone.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Position of a batch's first record → batch.
const JOURNAL: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("journal");
/// (cluster, node) → what is kept of it. An empty node: what is kept of the cluster.
const SAVED: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("saved");

#[derive(Debug)]
pub(super) struct File {
    db: Database,
    path: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{0}: another process has it open: two aggregators must not count into one state")]
    Locked(PathBuf),
    #[error("{0}: its format is {1}, this version of the aggregator knows format {VERSION} alone")]
    Version(PathBuf, u64),
    #[error("{0}: {1}")]
    Io(PathBuf, redb::Error),
}

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
    /// Opens the file in `dir`, makes it where there is none. The second: one that could not be read was moved aside, and why.
    ///
    /// # Errors
    /// It cannot be opened, is locked, or is of another format: then nothing was changed.
    pub(super) fn open(dir: &Path) -> Result<(Self, Option<String>), OpenError> {
        let path = dir.join(NAME);
        match Self::open_at(&path) {
            Err(OpenError::Io(_, error)) if is_corrupt(&error) => {
                std::fs::rename(&path, dir.join(ASIDE)).map_err(|e| OpenError::Io(path.clone(), e.into()))?;
                Ok((Self::open_at(&path)?, Some(error.to_string())))
            }
            opened => Ok((opened?, None)),
        }
    }

    fn open_at(path: &Path) -> Result<Self, OpenError> {
        let other = |error: redb::Error| OpenError::Io(path.to_owned(), error);
        let db = Database::builder()
            .set_cache_size(CACHE_BYTES)
            // Everything is read at the start in any case.
            .set_check_integrity_on_open(true)
            .create(path)
            .map_err(|error| match error {
                DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
                    OpenError::Locked(path.to_owned())
                }
                error => other(error.into()),
            })?;
        let mut file = Self {
            db,
            path: path.to_owned(),
        };
        let version = file.version().map_err(other)?;
        if version != VERSION {
            return Err(OpenError::Version(path.to_owned(), version));
        }
        if file.bytes() > COMPACT_BYTES {
            file.db.compact().map_err(|error| other(error.into()))?;
        }
        Ok(file)
    }

    /// A new file gets this program's.
    fn version(&self) -> Result<u64, redb::Error> {
        let txn = self.db.begin_write()?;
        let mut meta = txn.open_table(META)?;
        let version = meta.get("version")?.map(|v| v.value());
        if let Some(version) = version {
            return Ok(version);
        }
        meta.insert("version", VERSION)?;
        drop(meta);
        txn.open_table(JOURNAL)?;
        txn.open_table(SAVED)?;
        txn.commit()?;
        Ok(VERSION)
    }

    /// Everything that is kept, then every batch in order.
    pub(super) fn read(
        &self,
        mut saved: impl FnMut(&str, &str, &[u8]),
        mut batch: impl FnMut(u64, &[u8]),
    ) -> Result<(), redb::Error> {
        let txn = self.db.begin_read()?;
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
        let txn = self.db.begin_write()?;
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

    /// Its length.
    pub(super) fn bytes(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |m| m.len())
    }
}

/// What is in the file makes no sense, or it is no such file.
fn is_corrupt(error: &redb::Error) -> bool {
    match error {
        redb::Error::Corrupted(_) | redb::Error::RepairAborted | redb::Error::UpgradeRequired(_) => true,
        redb::Error::TableTypeMismatch { .. } | redb::Error::TableIsMultimap(_) => true,
        redb::Error::Io(error) => matches!(
            error.kind(),
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
        ),
        _ => false,
    }
}

/// Why a commit failed, as a loss's reason.
pub(crate) fn reason(error: &redb::Error) -> &'static str {
    match error {
        redb::Error::Io(error)
            if matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
            ) =>
        {
            "full"
        }
        _ => "io",
    }
}
