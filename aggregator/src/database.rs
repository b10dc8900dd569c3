//! A redb database as the aggregator keeps it: pages have checksums, commits are all or nothing, one process has it open, and what makes no sense is
//! moved aside instead of keeping the aggregator from its start.

use std::fs::{Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
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
    id: Id,
}

/// Device and inode: which file it is, whatever it is called.
type Id = (u64, u64);

fn id(of: &Metadata) -> Id {
    (of.dev(), of.ino())
}

impl Open {
    /// Why a restart would not find what is written: somebody took the file away, or put another in its place.
    fn displaced(&self) -> Option<String> {
        match std::fs::metadata(&self.path) {
            Ok(there) if id(&there) == self.id => None,
            Ok(_) => Some("another file is in its place".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some("it was taken away".to_owned()),
            Err(error) => Some(error.to_string()),
        }
    }

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
    let (db, id, read) = opened;
    Ok((Open { db, path, id }, read, corrupt))
}

/// Looks after a commit whether the file is still where it was opened, and says once that it is not.
#[derive(Debug, Default)]
pub(crate) struct Place {
    displaced: bool,
}

impl Place {
    pub(crate) fn is_kept(&mut self, open: &Open) -> bool {
        let displaced = open.displaced();
        let path = open.path.display();
        match &displaced {
            Some(why) if !self.displaced => tracing::error!(
                %path,
                why,
                "this file was removed or replaced while it is open: what is written is lost when the aggregator ends. \
                 Move it back if it was moved; else start the aggregator anew with what shall be there"
            ),
            None if self.displaced => tracing::info!(%path, "this file is where it was again"),
            _ => {}
        }
        self.displaced = displaced.is_some();
        !self.displaced
    }
}

/// Where a file goes that cannot be read: one, the newest.
pub(crate) fn aside(dir: &Path, kind: &Kind) -> PathBuf {
    dir.join(format!("{}.corrupt", kind.name))
}

fn open_at<T>(
    path: &Path,
    kind: &Kind,
    first: impl Fn(&Database) -> Result<T, redb::Error>,
) -> Result<(Database, Id, T), OpenError> {
    let other = |error: redb::Error| OpenError::Io(path.to_owned(), error);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|error| other(error.into()))?;
    let id = id(&file.metadata().map_err(|error| other(error.into()))?);
    let mut db = FileBackend::new(file)
        .and_then(|file| {
            Database::builder()
                .set_cache_size(kind.cache_bytes)
                .set_check_integrity_on_open(kind.checked)
                .create_with_backend(file)
        })
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
    Ok((db, id, read))
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
