//! The one thread that writes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use prost::Message as _;
use tracing::{error, info};

use super::file::{Change, File};
use super::format::{NodeState, Saved, waits};
use super::{Figures, GATHER, Journal, Key, Note, RETRY, SAVE_AT_ONCE, SAVE_BYTES, SAVE_EVERY};
use crate::database::{Place, reason};
use crate::state::Cluster;

/// How often it is looked for what must be saved while nothing is reported.
const IDLE: Duration = Duration::from_secs(1);

pub(super) struct Writer {
    journal: Arc<Journal>,
    clusters: Vec<Arc<Cluster>>,
    dir: PathBuf,
    /// `None`: the disk failed.
    file: Option<File>,
    place: Place,
    retry_at: Instant,
    /// Oldest first.
    batches: VecDeque<Batch>,
    /// Whoever has anything in the journal that is not in what was saved of it.
    unsaved: BTreeMap<Key, Unsaved>,
    /// Nodes that are not known any more, whose records of before this position are still in the journal.
    forgotten: BTreeMap<Key, u64>,
}

/// A row of the journal, with the positions of its records.
struct Batch {
    first: u64,
    end: u64,
    bytes: u64,
}

struct Unsaved {
    first: u64,
    bytes: usize,
    since: Instant,
    due: Instant,
}

impl Writer {
    pub(super) fn new(journal: Arc<Journal>, clusters: Vec<Arc<Cluster>>, dir: PathBuf) -> Self {
        Self {
            journal,
            clusters,
            dir,
            file: None,
            place: Place::default(),
            retry_at: Instant::now(),
            batches: VecDeque::new(),
            unsaved: BTreeMap::new(),
            forgotten: BTreeMap::new(),
        }
    }

    /// From here on it is journalled again. Everybody is saved next: much may have happened since the file was written.
    pub(super) fn begin(&mut self, file: File) {
        let mut keys: BTreeSet<Key> = BTreeSet::new();
        self.batches.clear();
        let read = file.read(
            |cluster, node, _| {
                keys.insert((Arc::from(cluster), Arc::from(node)));
            },
            |first, bytes| {
                if let Some(last) = self.batches.back_mut() {
                    last.end = first;
                }
                self.batches.push_back(Batch {
                    first,
                    end: u64::MAX,
                    bytes: bytes.len() as u64,
                });
            },
        );
        if let Err(error) = read {
            return self.fail(&error, &[]);
        }
        let mut pending = self.journal.lock();
        pending.failed = None;
        pending.bytes.clear();
        pending.notes.clear();
        pending.first = pending.next;
        let next = pending.next;
        drop(pending);
        self.journal.durable.send_replace(next);
        if let Some(last) = self.batches.back_mut() {
            last.end = next;
        }
        keys.retain(|(cluster, _)| self.clusters.iter().any(|c| c.name == *cluster));
        for cluster in &self.clusters {
            let world = cluster.lock();
            keys.extend(
                world
                    .node_names()
                    .map(|n| (Arc::clone(&cluster.name), Arc::clone(n))),
            );
            drop(world);
            keys.insert((Arc::clone(&cluster.name), Arc::from("")));
        }
        let now = Instant::now();
        let oldest = Unsaved {
            first: self.batches.front().map_or(next, |b| b.first),
            bytes: 0,
            since: now,
            due: now,
        };
        let all = |key| {
            let unsaved = Unsaved { ..oldest };
            (key, unsaved)
        };
        self.unsaved = keys.into_iter().map(all).collect();
        self.forgotten.clear();
        self.file = Some(file);
        self.journal.update(|f| f.durable = true);
    }

    pub(super) fn run(mut self) {
        loop {
            let stop = self.wait();
            if self.file.is_none() && (stop || self.retry_at <= Instant::now()) {
                self.open_again();
            }
            self.step(stop);
            while stop && self.file.is_some() && !self.unsaved.is_empty() {
                self.step(true);
            }
            if stop {
                return;
            }
        }
    }

    /// Until there is something to write, and what comes with it is there too. Returns whether it is the last.
    fn wait(&self) -> bool {
        let journal = &self.journal;
        let lock = journal.lock();
        let (lock, _) = journal
            .wake
            .wait_timeout_while(lock, IDLE, |p| p.bytes.is_empty() && !p.stop)
            .unwrap_or_else(PoisonError::into_inner);
        let (lock, _) = journal
            .wake
            .wait_timeout_while(lock, GATHER, |p| !p.stop)
            .unwrap_or_else(PoisonError::into_inner);
        lock.stop
    }

    fn open_again(&mut self) {
        self.retry_at = Instant::now() + RETRY;
        match File::open(&self.dir) {
            Ok((file, unreadable)) => {
                if let Some(error) = unreadable {
                    error!(dir = %self.dir.display(), error, "the state could not be read: it was moved aside, all that is in memory is saved anew");
                    self.journal.update(Figures::note_set_aside);
                }
                info!(dir = %self.dir.display(), "the state is written again");
                self.begin(file);
            }
            Err(error) => error!(dir = %self.dir.display(), %error, "the state cannot be written"),
        }
    }

    /// One commit: what is pending, and whoever is due (`all`: or not).
    fn step(&mut self, all: bool) {
        let Some(file) = self.file.take() else { return };
        let began = Instant::now();
        let due = |u: &Unsaved| all || u.due <= began || u.bytes > SAVE_BYTES;
        let keys: Vec<Key> = self
            .unsaved
            .iter()
            .filter(|(_, u)| due(u))
            .take(SAVE_AT_ONCE)
            .map(|(key, _)| key.clone())
            .collect();
        let mut saved = Vec::with_capacity(keys.len());
        for key in &keys {
            let (position, state) = self.save(key);
            self.unsaved.remove(key);
            if state.node.is_none() && !key.1.is_empty() {
                self.forgotten.insert(key.clone(), position);
            } else {
                self.forgotten.remove(key);
            }
            saved.push((&*key.0, &*key.1, position, state.encode_to_vec()));
        }
        // Taken after that, so that all that is in what was saved is in this commit or in one before.
        let mut pending = self.journal.lock();
        let (first, end) = (pending.first, pending.next);
        let bytes = std::mem::take(&mut pending.bytes);
        let notes = std::mem::take(&mut pending.notes);
        pending.first = end;
        drop(pending);
        for note in &notes {
            let known = saved
                .iter()
                .find(|(c, n, ..)| (*c, *n) == (&*note.key.0, &*note.key.1));
            if known.is_none_or(|(_, _, position, _)| note.position >= *position) {
                self.note(note, began);
            }
        }
        if !bytes.is_empty() {
            self.batches.push_back(Batch {
                first,
                end,
                bytes: bytes.len() as u64,
            });
        }
        let tail = self.unsaved.values().map(|u| u.first).min().unwrap_or(end);
        let mut done = Vec::new();
        while let Some(batch) = self.batches.pop_front_if(|b| b.end <= tail) {
            done.push(batch.first);
        }
        let gone: Vec<(Key, u64)> = self.forgotten.extract_if(.., |_, at| *at <= tail).collect();
        let gone = gone.iter().map(|(key, _)| (&*key.0, &*key.1, None));
        let kept = saved.into_iter().map(|(c, n, _, bytes)| (c, n, Some(bytes)));
        let mut rows = kept.collect::<Vec<_>>();
        let written: usize = rows.iter().filter_map(|r| r.2.as_ref()).map(Vec::len).sum();
        rows.extend(gone);
        if bytes.is_empty() && rows.is_empty() && done.is_empty() {
            self.file = Some(file);
            return;
        }
        let change = Change {
            batch: (!bytes.is_empty() && !done.contains(&first)).then_some((first, bytes.as_slice())),
            saved: rows,
            done: &done,
        };
        if let Err(error) = file.commit(change) {
            drop(file);
            return self.fail(&error, &notes);
        }
        self.journal.durable.send_replace(end);
        self.journal.commit_seconds.observe(began.elapsed().as_secs_f64());
        let oldest = self.unsaved.values().map(|u| u.since).min();
        let (records, journal_bytes) = self.batches.iter().fold((0, 0), |(records, bytes), b| {
            (records + b.end.saturating_sub(b.first), bytes + b.bytes)
        });
        let durable = file.is_in(&mut self.place);
        self.journal.update(|f| {
            f.durable = durable;
            f.commits += 1;
            f.written_bytes += (bytes.len() + written) as u64;
            f.file_bytes = file.bytes();
            f.saved += keys.len() as u64;
            f.journal_records = records;
            f.journal_bytes = journal_bytes;
            f.oldest_seconds = oldest.map_or(0.0, |since| since.elapsed().as_secs_f64());
        });
        self.file = Some(file);
    }

    fn note(&mut self, note: &Note, now: Instant) {
        let due = if note.forgotten {
            // What its waits were is the cluster's from here on.
            let cluster = (Arc::clone(&note.key.0), Arc::from(""));
            let unsaved = self.unsaved.entry(cluster).or_insert(Unsaved {
                first: note.position,
                bytes: 0,
                since: now,
                due: now,
            });
            unsaved.due = now;
            now
        } else {
            now + spread(&note.key.1)
        };
        let unsaved = self.unsaved.entry(note.key.clone()).or_insert(Unsaved {
            first: note.position,
            bytes: 0,
            since: now,
            due,
        });
        unsaved.bytes += note.bytes;
        unsaved.due = unsaved.due.min(due);
    }

    /// All that is kept under a key, and up to which position it is in there.
    fn save(&self, (name, node): &Key) -> (u64, Saved) {
        let mut saved = Saved::default();
        let Some(cluster) = self.clusters.iter().find(|c| c.name == *name) else {
            return (0, saved);
        };
        let world = cluster.lock();
        // Nothing is appended for this cluster while its world is locked.
        saved.position = self.journal.position();
        let (mut checkpoint, mut gone) = (None, Vec::new());
        if node.is_empty() {
            gone = world.gone_waits();
        } else {
            checkpoint = world.checkpoint(node);
        }
        drop(world);
        saved.waits = waits(&gone);
        saved.node = checkpoint.map(NodeState::from);
        (saved.position, saved)
    }

    /// Goes on without the disk.
    fn fail(&mut self, error: &redb::Error, notes: &[Note]) {
        let reason = reason(error);
        error!(dir = %self.dir.display(), %error, "the state cannot be written: receipts are sent without it");
        self.file = None;
        self.retry_at = Instant::now() + RETRY;
        let mut pending = self.journal.lock();
        let lost = std::mem::take(&mut pending.notes);
        pending.bytes = Vec::new();
        pending.first = pending.next;
        pending.failed = Some(reason);
        drop(pending);
        self.journal.durable.send_replace(u64::MAX);
        self.journal.update(|f| {
            f.durable = false;
            *f.failures.entry(reason).or_default() += 1;
        });
        for cluster in &self.clusters {
            let of = |note: &&Note| note.key.0 == cluster.name;
            let count = notes.iter().chain(&lost).filter(of).count() as u64;
            cluster.lock().count_loss("store", reason, "records", count);
        }
    }
}

/// Not all nodes at once: between a half and the whole of the time.
fn spread(node: &str) -> Duration {
    let hash = node
        .bytes()
        .fold(0u32, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(b)));
    SAVE_EVERY / 2 + SAVE_EVERY / 2 * (hash % 64) / 64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_file_that_is_found_damaged_after_a_failure_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("state.redb"), b"no database at all".repeat(1_000)).unwrap();
        let journal = Arc::new(Journal::new(0));
        let mut writer = Writer::new(Arc::clone(&journal), Vec::new(), dir.path().to_owned());
        writer.open_again();
        assert!(dir.path().join("state.redb.corrupt").is_file());
        let figures = journal.figures();
        assert_eq!((figures.durable, figures.unreadable["file"]), (true, 1));
    }
}
