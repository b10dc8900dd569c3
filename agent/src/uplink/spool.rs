//! Reports on disk, oldest first. Synchronous; `spooler.rs` says when.
//!
//! One redb file, which is locked while it is open. Reports lie in segments of a mebibyte or so. Each begins with the names that must be
//! known before its first report, so that it can be sent by itself: after a restart, to an aggregator that knows nothing, when what was before
//! it had to be given up. Every write is one transaction that ends with a sync: what was written survives kill -9 and a power cut, and a torn
//! one was not written. The checksum of every page is looked at when the file is opened.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use partywall_proto::v1::Report;
use prost::Message as _;
use redb::{Builder, Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, TableDefinition};

/// By segment: a report that has only names.
const NAMES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("names");
/// By segment and place in it.
const REPORTS: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("reports");
/// One row: what the tables above mean.
const FORMAT: TableDefinition<'_, (), u64> = TableDefinition::new("format");
const FORMAT_NOW: u64 = 1;

const FILE: &str = "spool.redb";
const ASIDE: &str = "spool.redb.aside";
/// Of pages, read and about to be written. Nothing is read twice, and a write is a segment at most.
const CACHE_BYTES: usize = 4 << 20;
/// A segment takes no more once it holds so much, or as much as its names.
pub(super) const SEGMENT_BYTES: usize = 1 << 20;
/// redb gives a value of more than a page the next power of two of pages. Its key and its place in the tree are less than this.
const PAGE_BYTES: u64 = 4096;
const ROW_BYTES: u64 = 64;

/// Why there is no spool.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("{}: another process has it open", .0.display())]
    Busy(PathBuf),
    #[error("{}: {reason}", path.display())]
    Unusable { path: PathBuf, reason: String },
}

/// Reading or writing failed. The file must be opened again: redb refuses to go on after an error.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub(super) struct Failure {
    path: PathBuf,
    reason: String,
}

/// What was found when the file was opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub spool: Spool,
    /// Why the file that was there was moved aside.
    pub set_aside: Option<String>,
    /// The youngest report.
    pub last: Option<Report>,
}

/// A segment as it is sent.
#[derive(Debug)]
pub(super) struct Loaded {
    pub segment: u64,
    pub names: Report,
    pub reports: Vec<Report>,
    /// Reports that could not be read.
    pub unreadable: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Segment {
    reports: u64,
    /// As they lie on disk.
    bytes: u64,
    /// It takes more while it has less than this.
    full_bytes: u64,
}

#[derive(Debug)]
pub(super) struct Spool {
    path: PathBuf,
    db: Database,
    limit_bytes: u64,
    segments: BTreeMap<u64, Segment>,
    /// The last one, while it takes more.
    open: Option<u64>,
    next: u64,
    /// Segments that are no longer wanted, and go with the next write.
    unwanted: Vec<u64>,
}

impl Spool {
    /// Opens the file in `dir`, making both where they are not there. A file that is damaged or of another format is moved aside, in place of
    /// one that was moved aside before.
    ///
    /// # Errors
    /// Another process has it open, or the directory cannot be read and written.
    pub(super) fn open(dir: &Path, limit_bytes: u64) -> Result<Opened, OpenError> {
        let unusable = |reason: String| OpenError::Unusable {
            path: dir.to_owned(),
            reason,
        };
        fs::create_dir_all(dir).map_err(|error| unusable(error.to_string()))?;
        let path = dir.join(FILE);
        let damage = match Self::try_open(&path, limit_bytes) {
            Ok((spool, last)) => {
                return Ok(Opened {
                    spool,
                    set_aside: None,
                    last,
                });
            }
            Err(Cause::Busy) => return Err(OpenError::Busy(path)),
            Err(Cause::Unusable(reason)) => return Err(unusable(reason)),
            Err(Cause::Damaged(reason)) => reason,
        };
        fs::rename(&path, dir.join(ASIDE))
            .map_err(|error| unusable(format!("{damage}; and it cannot be moved aside: {error}")))?;
        match Self::try_open(&path, limit_bytes) {
            Ok((spool, last)) => Ok(Opened {
                spool,
                set_aside: Some(damage),
                last,
            }),
            Err(Cause::Busy) => Err(OpenError::Busy(path)),
            Err(Cause::Unusable(reason) | Cause::Damaged(reason)) => Err(unusable(reason)),
        }
    }

    fn try_open(path: &Path, limit_bytes: u64) -> Result<(Self, Option<Report>), Cause> {
        let db = Builder::new()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(true)
            .create(path)?;
        let mut segments: BTreeMap<u64, Segment> = BTreeMap::new();
        let write = db.begin_write().map_err(redb::Error::from)?;
        let mut last = None;
        {
            let mut format = write.open_table(FORMAT).map_err(redb::Error::from)?;
            let found = format.get(()).map_err(redb::Error::from)?.map(|row| row.value());
            match found {
                Some(FORMAT_NOW) => {}
                Some(other) => {
                    let reason = format!("its format is {other}, this agent's is {FORMAT_NOW}");
                    return Err(Cause::Damaged(reason));
                }
                None => {
                    format.insert((), FORMAT_NOW).map_err(redb::Error::from)?;
                }
            }
            let names = write.open_table(NAMES).map_err(redb::Error::from)?;
            for row in names.iter().map_err(redb::Error::from)? {
                let (segment, names) = row.map_err(redb::Error::from)?;
                let bytes = on_disk(names.value().len());
                segments.entry(segment.value()).or_default().bytes += bytes;
            }
            let reports = write.open_table(REPORTS).map_err(redb::Error::from)?;
            for row in reports.iter().map_err(redb::Error::from)? {
                let (at, report) = row.map_err(redb::Error::from)?;
                let segment = segments.entry(at.value().0).or_default();
                segment.reports += 1;
                segment.bytes += on_disk(report.value().len());
            }
            if let Some((_, report)) = reports.last().map_err(redb::Error::from)? {
                last = Report::decode(report.value()).ok();
            }
        }
        write.commit().map_err(redb::Error::from)?;
        let spool = Self {
            path: path.to_owned(),
            db,
            limit_bytes,
            next: segments.keys().next_back().map_or(0, |segment| segment + 1),
            segments,
            open: None,
            unwanted: Vec::new(),
        };
        Ok((spool, last))
    }

    pub(super) fn reports(&self) -> u64 {
        self.segments.values().map(|segment| segment.reports).sum()
    }

    /// Of the rows. The file has free room besides, which it gives back when half of it is free.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.bytes).sum()
    }

    /// The first segment.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.segments.keys().next().copied()
    }

    /// Whether the next [`append`](Self::append) begins a segment, which must be given its names.
    pub(super) fn wants_names(&self) -> bool {
        self.open.is_none()
    }

    /// Writes `reports`, younger than all that are here. `names`: those that must be known before the first of them. Where the limit is reached,
    /// the oldest segments go. Returns how many reports were in them.
    ///
    /// # Errors
    /// Nothing was written, or it is not known: [`open`](Self::open) tells.
    pub(super) fn append(&mut self, names: Option<&Report>, reports: &[Bytes]) -> Result<u64, Failure> {
        let mut segments = self.segments.clone();
        let names = names.filter(|_| self.wants_names()).map(Report::encode_to_vec);
        let at = self.open.unwrap_or(self.next);
        let names_bytes = names.as_ref().map_or(0, |names| on_disk(names.len()));
        let added = names_bytes + reports.iter().map(|report| on_disk(report.len())).sum::<u64>();
        let mut given_up = Vec::new();
        let mut dropped = 0;
        let mut held: u64 = self.bytes();
        while held + added > self.limit_bytes {
            // Never the one that is written to: its names are what the new ones need.
            let Some((&oldest, segment)) = segments.iter().next().filter(|(oldest, _)| **oldest != at) else {
                return Err(self.failure(format!(
                    "{added} bytes at once are more than --spool-bytes {} has room for",
                    self.limit_bytes
                )));
            };
            held -= segment.bytes;
            dropped += segment.reports;
            segments.remove(&oldest);
            given_up.push(oldest);
        }
        let segment = segments.entry(at).or_insert(Segment {
            full_bytes: names_bytes.max(SEGMENT_BYTES as u64),
            ..Segment::default()
        });
        let place = segment.reports;
        segment.reports += reports.len() as u64;
        segment.bytes += added;
        let full = segment.bytes - names_bytes >= segment.full_bytes;
        given_up.append(&mut self.unwanted);
        self.write(&given_up, at, place, names.as_deref(), reports)
            .map_err(|error| self.failure(error.to_string()))?;
        self.segments = segments;
        self.open = (!full).then_some(at);
        self.next = self.next.max(at + 1);
        Ok(dropped)
    }

    fn write(
        &self,
        given_up: &[u64],
        segment: u64,
        place: u64,
        names: Option<&[u8]>,
        reports: &[Bytes],
    ) -> Result<(), redb::Error> {
        let write = self.db.begin_write()?;
        {
            let mut all_names = write.open_table(NAMES)?;
            let mut all_reports = write.open_table(REPORTS)?;
            for gone in given_up {
                all_names.remove(gone)?;
                all_reports.retain_in((*gone, 0)..=(*gone, u64::MAX), |_, _| false)?;
            }
            if let Some(names) = names {
                all_names.insert(segment, names)?;
            }
            for (place, report) in (place..).zip(reports) {
                all_reports.insert((segment, place), report.as_ref())?;
            }
        }
        write.commit()?;
        Ok(())
    }

    /// Lets go of the segments up to `last`, which were sent.
    ///
    /// # Errors
    /// They are still there, and come again when the file is opened again.
    pub(super) fn remove(&mut self, last: u64) -> Result<(), Failure> {
        self.skip(last);
        let unwanted = std::mem::take(&mut self.unwanted);
        self.write(&unwanted, 0, 0, None, &[])
            .map_err(|error| self.failure(error.to_string()))?;
        if self.segments.is_empty() {
            // An outage is over, and its room is the node's again.
            self.db
                .compact()
                .map_err(|error| self.failure(error.to_string()))?;
        }
        Ok(())
    }

    /// The same with the next write.
    pub(super) fn skip(&mut self, last: u64) {
        let kept = self.segments.split_off(&(last + 1));
        self.unwanted
            .extend(std::mem::replace(&mut self.segments, kept).into_keys());
        self.open = self.open.filter(|open| *open > last);
    }

    /// The oldest segment, which takes nothing more.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn load_oldest(&mut self) -> Result<Option<Loaded>, Failure> {
        let Some(&segment) = self.segments.keys().next() else {
            return Ok(None);
        };
        if self.open == Some(segment) {
            self.open = None;
        }
        self.read(segment)
            .map(Some)
            .map_err(|error| self.failure(error.to_string()))
    }

    fn read(&self, segment: u64) -> Result<Loaded, redb::Error> {
        let read = self.db.begin_read()?;
        let mut loaded = Loaded {
            segment,
            names: Report::default(),
            reports: Vec::new(),
            unreadable: 0,
        };
        if let Some(names) = read.open_table(NAMES)?.get(segment)? {
            loaded.names = Report::decode(names.value()).unwrap_or_default();
        }
        for row in read
            .open_table(REPORTS)?
            .range((segment, 0)..=(segment, u64::MAX))?
        {
            match Report::decode(row?.1.value()) {
                Ok(report) => loaded.reports.push(report),
                Err(_) => loaded.unreadable += 1,
            }
        }
        Ok(loaded)
    }

    /// Gives up everything. Returns how many reports that was.
    ///
    /// # Errors
    /// It is still there.
    pub(super) fn clear(&mut self) -> Result<u64, Failure> {
        let dropped = self.reports();
        if let Some(last) = self.segments.keys().next_back() {
            self.remove(*last)?;
        }
        Ok(dropped)
    }

    fn failure(&self, reason: String) -> Failure {
        Failure {
            path: self.path.clone(),
            reason,
        }
    }
}

/// What stands in the way of opening.
enum Cause {
    Busy,
    /// The file's own fault: another in its place would do.
    Damaged(String),
    Unusable(String),
}

impl From<DatabaseError> for Cause {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => Self::Busy,
            DatabaseError::UpgradeRequired(_) | DatabaseError::RepairAborted => {
                Self::Damaged(error.to_string())
            }
            other => Self::from(redb::Error::from(other)),
        }
    }
}

impl From<redb::Error> for Cause {
    fn from(error: redb::Error) -> Self {
        let reason = error.to_string();
        match error {
            redb::Error::Io(cause) => {
                // Of another kind of file, cut short, or a bad sector.
                let of_the_file = matches!(
                    cause.kind(),
                    io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput
                ) || cause.raw_os_error() == Some(libc::EIO);
                if of_the_file {
                    Self::Damaged(reason)
                } else {
                    Self::Unusable(reason)
                }
            }
            redb::Error::Corrupted(_)
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TypeDefinitionChanged { .. } => Self::Damaged(reason),
            _ => Self::Unusable(reason),
        }
    }
}

/// What a row of `bytes` takes on disk.
fn on_disk(bytes: usize) -> u64 {
    let needed = bytes as u64 + ROW_BYTES;
    if needed <= PAGE_BYTES {
        needed
    } else {
        needed.div_ceil(PAGE_BYTES).next_power_of_two() * PAGE_BYTES
    }
}
