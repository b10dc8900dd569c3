//! A redb database as the aggregator keeps it: pages have checksums, commits are all or nothing, one process has it open, and what makes no sense is
//! moved aside instead of keeping the aggregator from its start.

use std::io;
use std::path::{Path, PathBuf};

use redb::{Database, DatabaseError, ReadableTable as _, TableDefinition, WriteTransaction};

/// "version", and what else a kind of file says of itself.
pub(crate) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// What tells one such file from another.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// Of its tables and of all that is in them.
    pub(crate) version: u64,
    /// Pages kept in memory.
    pub(crate) cache_bytes: usize,
    /// Whether every checksum is looked at when it is opened.
    pub(crate) checked: bool,
    /// What two aggregators must not do.
    pub(crate) alone: &'static str,
    /// Makes the tables of a new file.
    pub(crate) tables: fn(&WriteTransaction) -> Result<(), redb::Error>,
    /// A file longer than this is made as small as it can be when it is opened.
    pub(crate) compact_above: fn(&Database) -> Result<u64, redb::Error>,
}

/// Why a file is not opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path}: another process has it open: two aggregators must not {alone}")]
    Locked { path: PathBuf, alone: &'static str },
    #[error("{path}: its format is {found}, this version of the aggregator knows format {known} alone")]
    Version { path: PathBuf, found: u64, known: u64 },
    #[error("{0}: {1}")]
    Io(PathBuf, redb::Error),
}

/// An open database, and where it is.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) db: Database,
    path: PathBuf,
}

impl Open {
    /// The file's length.
    pub(crate) fn bytes(&self) -> u64 {
        bytes(&self.path)
    }
}

/// Opens the file in `dir`, makes it where there is none. The second: what `first` read in it. The third: one that could not be read was moved aside,
/// and why.
///
/// # Errors
/// It cannot be opened, is locked, or is of another format: then nothing was changed.
pub(crate) fn open<T>(
    dir: &Path,
    kind: &Kind,
    first: impl Fn(&Database) -> Result<T, redb::Error>,
) -> Result<(Open, T, Option<String>), OpenError> {
    let path = dir.join(kind.name);
    let (opened, corrupt) = match open_at(&path, kind, &first) {
        Err(OpenError::Io(_, error)) if is_corrupt(&error) => {
            let moved = std::fs::rename(&path, aside(dir, kind));
            moved.map_err(|e| OpenError::Io(path.clone(), e.into()))?;
            (open_at(&path, kind, &first)?, Some(error.to_string()))
        }
        opened => (opened?, None),
    };
    let (db, read) = opened;
    Ok((Open { db, path }, read, corrupt))
}

/// Where a file goes that cannot be read: one, the newest.
pub(crate) fn aside(dir: &Path, kind: &Kind) -> PathBuf {
    dir.join(format!("{}.corrupt", kind.name))
}

fn open_at<T>(
    path: &Path,
    kind: &Kind,
    first: impl Fn(&Database) -> Result<T, redb::Error>,
) -> Result<(Database, T), OpenError> {
    let other = |error: redb::Error| OpenError::Io(path.to_owned(), error);
    let mut db = Database::builder()
        .set_cache_size(kind.cache_bytes)
        .set_check_integrity_on_open(kind.checked)
        .create(path)
        .map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => OpenError::Locked {
                path: path.to_owned(),
                alone: kind.alone,
            },
            error => other(error.into()),
        })?;
    let found = version(&db, kind).map_err(other)?;
    if found != kind.version {
        return Err(OpenError::Version {
            path: path.to_owned(),
            found,
            known: kind.version,
        });
    }
    if bytes(path) > (kind.compact_above)(&db).map_err(other)? {
        db.compact().map_err(|error| other(error.into()))?;
    }
    let read = first(&db).map_err(other)?;
    Ok((db, read))
}

/// A new file gets this program's.
fn version(db: &Database, kind: &Kind) -> Result<u64, redb::Error> {
    let txn = db.begin_write()?;
    let mut meta = txn.open_table(META)?;
    let version = meta.get("version")?.map(|v| v.value());
    if let Some(version) = version {
        return Ok(version);
    }
    meta.insert("version", kind.version)?;
    drop(meta);
    (kind.tables)(&txn)?;
    txn.commit()?;
    Ok(kind.version)
}

fn bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |m| m.len())
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
