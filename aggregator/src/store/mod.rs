//! Totals that survive the process: what was acknowledged is in them after any end, kill -9 and power failure included.
//!
//! **How.** A report is counted, then journalled, and its receipt is sent when the journal is on the disk: all that arrives within `GATHER` is one
//! commit. Now and then a node is saved whole, in the commit that removes what was journalled of it until then. At the start what is saved is taken
//! over and what is journalled counted again, in the same order and under the same names; an agent sends again what was not acknowledged, and
//! what was counted already is dropped by its sequence.
//!
//! **What.** CPU time, ledger and waits, and what the next report is measured against. Windows and breaches are of the last seconds and come again by
//! themselves; sums of traffic and of OOM kills begin anew.
//!
//! **What is exported is on the disk.** A scrape waits for the commit of what it shows: no counter is ever seen that a restart takes back.
//!
//! **A disk that fails** does not keep the aggregator from judging: receipts are sent without it, each report so lost to the journal is counted, and the
//! disk is tried again every `RETRY`. Counters are cumulative, so that what was not journalled is mostly in the next that is.

mod file;
mod format;
mod restore;
mod writer;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use partywall_aggregator_core::World;
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::watch;

use format::{Event, Record};

pub use crate::database::OpenError;
use crate::state::Cluster;

/// What arrives within this is one commit.
const GATHER: Duration = Duration::from_millis(20);
/// A node with anything in the journal is saved this long after it was saved last: what the journal holds, and how long a start takes.
const SAVE_EVERY: Duration = Duration::from_secs(30);
/// Or when this much of it is in the journal.
const SAVE_BYTES: usize = 4 * 1024 * 1024;
/// Saved in one commit: receipts wait for it.
const SAVE_AT_ONCE: usize = 32;
/// A disk that failed is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// Journalled and not yet on the disk. Beyond it no report is read from a socket.
const MAX_PENDING_BYTES: usize = 32 * 1024 * 1024;

/// Cluster and node. An empty node: the cluster itself.
type Key = (Arc<str>, Arc<str>);

/// Where reports are journalled. Shared by all streams.
#[derive(Debug)]
pub struct Journal {
    pending: Mutex<Pending>,
    wake: Condvar,
    /// What is before this position is on the disk, or never will be.
    durable: watch::Sender<u64>,
    figures: Mutex<Figures>,
    pub commit_seconds: Histogram,
}

#[derive(Debug)]
struct Pending {
    /// An encoded [`format::Batch`].
    bytes: Vec<u8>,
    /// Position of its first record.
    first: u64,
    /// Of the record to come.
    next: u64,
    notes: Vec<Note>,
    /// Why nothing is journalled.
    failed: Option<&'static str>,
    stop: bool,
}

/// A record, for whoever decides what must be saved.
#[derive(Debug)]
struct Note {
    key: Key,
    position: u64,
    bytes: usize,
    forgotten: bool,
}

/// For metrics.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// What is acknowledged is on the disk, where a restart finds it.
    pub durable: bool,
    pub file_bytes: u64,
    /// Written since the start, before the file's own overhead.
    pub written_bytes: u64,
    pub commits: u64,
    /// By reason.
    pub failures: BTreeMap<&'static str, u64>,
    /// In the journal now.
    pub journal_records: u64,
    pub journal_bytes: u64,
    /// Since the node that was not saved for the longest was, of those with anything in the journal.
    pub oldest_seconds: f64,
    pub saved: u64,
    /// At the start.
    pub restored_nodes: u64,
    pub replayed_records: u64,
    /// By part; the file also when it was opened again after a failure.
    pub unreadable: BTreeMap<&'static str, u64>,
}

impl Figures {
    /// The file was moved aside, and another begun.
    fn note_set_aside(&mut self) {
        *self.unreadable.entry("file").or_default() += 1;
    }
}

impl Journal {
    fn new(next: u64) -> Self {
        let pending = Pending {
            bytes: Vec::new(),
            first: next,
            next,
            notes: Vec::new(),
            failed: None,
            stop: false,
        };
        Self {
            pending: Mutex::new(pending),
            wake: Condvar::new(),
            durable: watch::Sender::new(next),
            figures: Mutex::default(),
            commit_seconds: Histogram::new([0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0]),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happened in a cluster's world beside the report that was just counted there. Called under the world's lock, and so is all that appends: what
    /// is journalled of a node is in the order in which it happened.
    pub fn note_marks(&self, cluster: &Arc<str>, world: &mut World) {
        let marks = world.take_marks();
        if marks.is_empty() {
            return;
        }
        let mut pending = self.lock();
        for mark in &marks {
            let record = Record::of_mark(cluster, mark);
            // What fails with the disk is counted by report.
            let _failed = pending.push((Arc::clone(cluster), Arc::clone(mark.node())), &record);
        }
        drop(pending);
        self.wake.notify_one();
    }

    /// Journals an encoded report that was counted, or (`refused`) of which only the names were taken. Under the world's lock.
    ///
    /// # Errors
    /// Why nothing is journalled: it is lost should the process end.
    pub fn note_report(
        &self,
        cluster: &Arc<str>,
        node: &Arc<str>,
        report: Vec<u8>,
        refused: bool,
    ) -> Result<(), &'static str> {
        let event = if refused {
            Event::Refused(report)
        } else {
            Event::Counted(report)
        };
        let record = Record {
            cluster: cluster.to_string(),
            node: node.to_string(),
            event: Some(event),
        };
        let pushed = self.lock().push((Arc::clone(cluster), Arc::clone(node)), &record);
        self.wake.notify_one();
        pushed
    }

    /// Behind all that was journalled so far.
    pub fn position(&self) -> u64 {
        self.lock().next
    }

    /// Until what is before `position` is on the disk, or never will be.
    pub async fn written(&self, position: u64) {
        let mut durable = self.durable.subscribe();
        // The sender is ours: it does not go.
        let _ = durable.wait_for(|written| *written >= position).await;
    }

    /// Until there is room for a report.
    pub async fn room(&self) {
        let mut durable = self.durable.subscribe();
        while self.lock().bytes.len() > MAX_PENDING_BYTES {
            let _ = durable.changed().await;
        }
    }

    pub fn figures(&self) -> Figures {
        self.figures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn update(&self, change: impl FnOnce(&mut Figures)) {
        change(&mut self.figures.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Pending {
    fn push(&mut self, key: Key, record: &Record) -> Result<(), &'static str> {
        if let Some(reason) = self.failed {
            return Err(reason);
        }
        let before = self.bytes.len();
        // As field 1 of a `Batch`.
        prost::encoding::message::encode(1, record, &mut self.bytes);
        self.notes.push(Note {
            key,
            position: self.next,
            bytes: self.bytes.len() - before,
            forgotten: matches!(record.event, Some(Event::Forgotten(_))),
        });
        self.next += 1;
        Ok(())
    }
}

/// The journal and the thread that writes it.
#[derive(Debug)]
pub struct Store {
    pub journal: Arc<Journal>,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens what is in `dir`, gives the clusters' worlds back what they knew, and begins to journal. Blocks: everything is read.
    ///
    /// # Errors
    /// It cannot be opened, is another process's, or of another version. Nothing was changed.
    pub fn open(dir: &Path, clusters: Vec<Arc<Cluster>>) -> Result<Self, OpenError> {
        let (file, unreadable) = file::File::open(dir)?;
        let (next, mut figures) =
            restore::restore(&file, &clusters).map_err(|error| OpenError::Io(dir.to_owned(), error))?;
        if let Some(error) = unreadable {
            tracing::error!(dir = %dir.display(), error, "the state could not be read: it was moved aside, totals begin anew");
            figures.note_set_aside();
        }
        let journal = Arc::new(Journal::new(next));
        journal.update(|f| *f = figures);
        for cluster in &clusters {
            cluster.lock().begin_journal();
        }
        let mut writer = writer::Writer::new(Arc::clone(&journal), clusters, dir.to_owned());
        writer.begin(file);
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| OpenError::Io(dir.to_owned(), error.into()))?;
        Ok(Self {
            journal,
            thread: Some(thread),
        })
    }

    /// Writes what is left, and saves every node, so that the next start has nothing to count again.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.end();
        if let Some(thread) = self.thread.take() {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await?;
            joined.map_err(|_| anyhow::anyhow!("panicked"))?;
        }
        Ok(())
    }

    fn end(&self) {
        self.journal.lock().stop = true;
        self.journal.wake.notify_one();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.end();
    }
}
