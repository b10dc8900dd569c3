//! The trail: breaches, and what crossed between tenants, in a chain that lasts.
//!
//! **How.** A judgement's changes are noted under its cluster's lock and written by one thread: a breach within tens of milliseconds, what crossed once a
//! slot, together with the word that the slot was seen. A slot that was not written was not seen, so that whatever ends this process leaves a gap.
//! Hours of which more may come are rows of their own; one that is complete becomes a record of the chain.
//!
//! **Answers are made of what is on the disk**, never of what is only known here: nothing that was answered is taken back by kill -9.
//!
//! **A disk that fails** does not keep the aggregator from judging. What it could not write waits, bounded, and is tried again every `RETRY`.
//!
//! | module | says |
//! |---|---|
//! | `change` | what waits to be written, and how much of it may |
//! | `writer` | the one thread that writes |
//! | `file` | the file: commits, and moments to read at |
//! | `tables` | what is in it |
//! | `format` | an hour and an episode on the disk |
//! | `append` | what a commit enters: the chain, hours, episodes |
//! | `prune` | retention |
//! | `age` | the time that retention reckons from |
//! | `read` | what answers are made of |
//! | `ask` | questions, answered from the file |
//! | `service` | `TrailService` |
//! | `offline` | a trail with time as an argument, for who measures it |

mod age;
mod append;
mod ask;
mod change;
mod file;
mod format;
mod offline;
mod prune;
mod read;
mod service;
mod tables;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use partywall_aggregator_core::trail::hours::{GapKey, Hours};
use partywall_aggregator_core::trail::{SLOT_NS, reason};
use partywall_aggregator_core::{Now, World};
use partywall_proto::trail::Hash;
use partywall_proto::v1;
use tracing::{info, warn};

pub use ask::Refused;
pub use offline::Offline;
pub use service::Service;

pub use crate::database::OpenError;
use crate::identify::api::STALE_AFTER;
use crate::state::Cluster;
use change::Change;
use file::{File, Process};

/// What comes within this is one commit.
const GATHER: Duration = Duration::from_millis(20);
/// A disk that failed is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// What is kept, by the policy in force.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Keep {
    days: f64,
    max_bytes: f64,
}

/// For metrics.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// What is judged is written where a restart finds it. False: the disk failed, or the file was taken away.
    pub durable: bool,
    pub file_bytes: u64,
    /// Of the chain.
    pub records: u64,
    pub head: Option<(u64, Hash)>,
    pub commits: u64,
    /// By reason.
    pub failures: BTreeMap<&'static str, u64>,
    /// Breaches that wait for the disk.
    pub waiting: u64,
    /// Taken out by retention since the start.
    pub pruned: u64,
    /// Lost because there was no room while the disk failed, by what.
    pub lost: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Default)]
struct Pending {
    change: Change,
    keep: Option<Keep>,
    stop: bool,
}

/// Where judgements are noted, and questions answered. Shared by all parts.
#[derive(Debug)]
pub struct Trail {
    pending: Mutex<Pending>,
    wake: Condvar,
    /// Of each cluster: what is being gathered, and the first slot that this process watched whole.
    hours: BTreeMap<Arc<str>, (Mutex<Hours>, u64)>,
    /// `None`: the disk failed.
    file: Mutex<Option<Arc<File>>>,
    /// As the file has it that is open.
    process: Mutex<Process>,
    figures: Mutex<Figures>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Trail {
    /// Notes what a judgement changed. Under the world's lock: what is noted of a cluster is in the order in which it happened.
    pub fn judged(&self, cluster: &Cluster, world: &mut World, breaches: &[Arc<v1::Breach>], now: Now) {
        let mut change = Change::default();
        for breach in breaches {
            let fired = breach.state() == v1::BreachState::Firing;
            let ended = breach.state() == v1::BreachState::Resolved && breach.firing_unix_ns > 0;
            if fired || ended {
                change.breaches.push((now.unix_ns, Arc::clone(breach)));
            }
        }
        let mut dropped = 0;
        if let Some((hours, _)) = self.hours.get(&cluster.name) {
            let mut hours = locked(hours);
            gather(&mut hours, cluster, world, now, &mut change);
            dropped = hours.take_dropped();
        }
        let policy = &world.policy().thresholds.trail;
        let keep = Keep {
            days: policy.keep_days,
            max_bytes: policy.max_bytes,
        };
        let mut pending = locked(&self.pending);
        pending.keep = Some(keep);
        if change.is_empty() {
            return;
        }
        let lost = pending.change.add(change);
        drop(pending);
        self.lost(
            lost.into_iter()
                .chain((dropped > 0).then_some(("hours", dropped))),
        );
        self.wake.notify_one();
    }

    fn lost(&self, lost: impl IntoIterator<Item = (&'static str, u64)>) {
        self.update(|f| {
            for (what, n) in lost {
                *f.lost.entry(what).or_default() += n;
            }
        });
    }

    pub fn figures(&self) -> Figures {
        let waiting = locked(&self.pending).change.breaches.len() as u64;
        let figures = locked(&self.figures).clone();
        Figures { waiting, ..figures }
    }

    fn update(&self, change: impl FnOnce(&mut Figures)) {
        change(&mut locked(&self.figures));
    }

    fn file(&self) -> Option<Arc<File>> {
        locked(&self.file).clone()
    }
}

/// Takes over what was judged, and looks at every slot whose time has come.
fn gather(hours: &mut Hours, cluster: &Cluster, world: &mut World, now: Now, change: &mut Change) {
    hours.enter(world.take_crossed(hours.next()), now.unix_ns);
    let mut looked = false;
    while let Some(slot) = hours.due(now.unix_ns, |slot| world.waits_in(slot)) {
        let mut untold = world.untold(slot);
        if !objects_are_known(cluster) {
            untold.gaps.push(GapKey {
                tenant: Arc::from(""),
                reason: Arc::from(reason::CLUSTER_UNKNOWN),
                node: Arc::from(""),
            });
        }
        hours.see(slot, &untold);
        looked = true;
    }
    if !looked {
        return;
    }
    for (hour, row, part) in hours.changes() {
        let key = (Arc::clone(&cluster.name), hour, format::row_key(&row));
        change.rows.insert(key, part.as_ref().map(format::encode_row));
    }
    let complete = hours.complete(now.unix_ns).into_iter();
    change
        .complete
        .extend(complete.map(|(number, hour)| (Arc::clone(&cluster.name), number, hour)));
}

/// A pod that nobody told of is nobody's: then nothing can be told of anybody. A cluster without a source has no pods with names.
fn objects_are_known(cluster: &Cluster) -> bool {
    let api = cluster.source.get().api;
    api.is_none_or(|api| api.is_synced() && api.age().is_some_and(|age| age < STALE_AFTER))
}

/// A file that could not be read was moved aside.
fn begins_anew(dir: &Path, error: &str, figures: &mut Figures) {
    tracing::error!(dir = %dir.display(), error, "the trail could not be read: it was moved aside, a new one begins");
    *figures.lost.entry("file").or_default() += 1;
}

/// The trail and the thread that writes it.
#[derive(Debug)]
pub struct Store {
    pub trail: Arc<Trail>,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens what is in `dir`, and begins to note what the clusters' worlds judge. Blocks.
    ///
    /// # Errors
    /// It cannot be opened, is another process's, or of another version. Nothing was changed.
    pub fn open(dir: &Path, clusters: &[Arc<Cluster>]) -> Result<Self, OpenError> {
        let io = |error: redb::Error| OpenError::Io(dir.to_owned(), error);
        let (file, corrupt) = File::open(dir)?;
        let mut figures = Figures {
            durable: true,
            ..Figures::default()
        };
        if let Some(error) = corrupt {
            begins_anew(dir, &error, &mut figures);
        }
        let (mut open, unreadable) = file.open_hours().map_err(io)?;
        if unreadable > 0 {
            warn!(unreadable, "rows of the trail were left out");
            figures.lost.insert("rows", unreadable);
        }
        let now_ns = clusters.first().map_or(0, |cluster| cluster.now().unix_ns);
        let noted = file.head();
        let believed_ns = file.believed_ns().map_err(io)?.unwrap_or(now_ns);
        let process = file.start(env!("CARGO_PKG_VERSION"), now_ns).map_err(io)?;
        if let Some((sequence, hash)) = noted {
            info!(sequence, hash = hex(&hash), "the trail goes on from this head");
        }
        figures.head = file.head();
        figures.records = file.records().map_err(io)?;
        figures.file_bytes = file.bytes();
        let hours = clusters.iter().map(|cluster| {
            cluster.lock().begin_trail();
            let hours = Hours::new(open.remove(&cluster.name).unwrap_or_default(), now_ns);
            let first = hours.next();
            (Arc::clone(&cluster.name), (Mutex::new(hours), first))
        });
        let trail = Arc::new(Trail {
            pending: Mutex::default(),
            wake: Condvar::new(),
            hours: hours.collect(),
            file: Mutex::new(Some(Arc::new(file))),
            process: Mutex::new(process),
            figures: Mutex::new(figures),
        });
        let writer = writer::Writer::new(Arc::clone(&trail), dir.to_owned(), believed_ns);
        let thread = std::thread::Builder::new()
            .name("trail".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| OpenError::Io(dir.to_owned(), error.into()))?;
        Ok(Self {
            trail,
            thread: Some(thread),
        })
    }

    /// Writes what is left.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.end();
        if let Some(thread) = self.thread.take() {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await?;
            joined.map_err(|_| anyhow::anyhow!("panicked"))?;
        }
        Ok(())
    }

    fn end(&self) {
        locked(&self.trail.pending).stop = true;
        self.trail.wake.notify_one();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.end();
    }
}

/// As it is logged and exported.
pub fn hex(hash: &Hash) -> String {
    use std::fmt::Write as _;
    hash.iter().fold(String::with_capacity(64), |mut out, byte| {
        let _infallible = write!(out, "{byte:02x}");
        out
    })
}

/// The first moment of a slot.
fn begins_ns(slot: u64) -> u64 {
    slot.saturating_mul(SLOT_NS)
}
