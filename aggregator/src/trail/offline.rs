//! A trail written with time as an argument and without a thread: the same hours, the same tables. For whoever measures what a month takes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use partywall_aggregator_core::trail::hours::Hours;
use partywall_aggregator_core::trail::{Taken, Untold};
use partywall_proto::v1;

use super::change::Change;
use super::file::{File, Process};
use super::{OpenError, format};

#[derive(Debug)]
pub struct Offline {
    file: File,
    process: Process,
    cluster: Arc<str>,
    hours: Hours,
    change: Change,
}

impl Offline {
    /// # Errors
    /// It cannot be opened.
    pub fn open(dir: &Path, cluster: &str, now_ns: u64) -> Result<Self, OpenError> {
        let (file, _) = File::open(dir)?;
        let process = file
            .start(env!("CARGO_PKG_VERSION"), now_ns)
            .map_err(|error| OpenError::Io(dir.to_owned(), error))?;
        Ok(Self {
            file,
            process,
            cluster: Arc::from(cluster),
            hours: Hours::new(BTreeMap::new(), now_ns),
            change: Change::default(),
        })
    }

    /// As after a judgement in which every agent had told of everything.
    pub fn judged(&mut self, taken: Taken, breaches: Vec<Arc<v1::Breach>>, now_ns: u64) {
        self.hours.enter(taken, now_ns);
        self.change
            .breaches
            .extend(breaches.into_iter().map(|breach| (now_ns, breach)));
        while let Some(slot) = self.hours.due(now_ns, |_| false) {
            self.hours.see(slot, &Untold::default());
        }
        for (hour, row, part) in self.hours.changes() {
            let key = (Arc::clone(&self.cluster), hour, format::row_key(&row));
            self.change
                .rows
                .insert(key, part.as_ref().map(format::encode_row));
        }
        let complete = self.hours.complete(now_ns).into_iter();
        let of = |(number, hour)| (Arc::clone(&self.cluster), number, hour);
        self.change.complete.extend(complete.map(of));
    }

    /// One commit.
    ///
    /// # Errors
    /// The disk failed.
    pub fn write(&mut self, now_ns: u64) -> Result<(), redb::Error> {
        let change = std::mem::take(&mut self.change);
        self.file.write(&change, self.process, now_ns)
    }

    pub fn file_bytes(&self) -> u64 {
        self.file.bytes()
    }

    /// What the records of the chain are reckoned to take of the file.
    ///
    /// # Errors
    /// The disk failed.
    pub fn kept_bytes(&self) -> Result<u64, redb::Error> {
        self.file.kept_bytes()
    }
}
