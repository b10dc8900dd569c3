//! The one thread that writes.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tracing::{error, info};

use super::age::Age;
use super::change::Change;
use super::file::File;
use super::{GATHER, Keep, RETRY, Trail, begins_anew, locked};
use crate::clock::unix_ns;
use crate::database::{Place, reason};

/// How often it is looked for what must be taken out.
const PRUNE_EVERY: Duration = Duration::from_secs(600);
const IDLE: Duration = Duration::from_secs(1);
const DAY_NS: f64 = 86_400e9;
/// Of the bound, what records may take: the file has rows of hours that go on, and free pages, beside them.
const FULL: f64 = 0.75;

pub(super) struct Writer {
    trail: Arc<Trail>,
    dir: PathBuf,
    place: Place,
    age: Age,
    retry_at: Instant,
    prune_at: Instant,
}

impl Writer {
    pub(super) fn new(trail: Arc<Trail>, dir: PathBuf, believed_ns: u64) -> Self {
        let now = Instant::now();
        Self {
            trail,
            dir,
            place: Place::default(),
            age: Age::new(believed_ns, now),
            retry_at: now,
            prune_at: now,
        }
    }

    pub(super) fn run(mut self) {
        loop {
            let (change, keep, stop) = self.wait();
            self.step(change, keep, stop);
            if stop {
                return;
            }
        }
    }

    /// Until there is something to write, and what comes with it is there too.
    fn wait(&self) -> (Change, Option<Keep>, bool) {
        let trail = &self.trail;
        let lock = locked(&trail.pending);
        let (lock, _) = trail
            .wake
            .wait_timeout_while(lock, IDLE, |p| p.change.is_empty() && !p.stop)
            .unwrap_or_else(PoisonError::into_inner);
        let (mut lock, _) = trail
            .wake
            .wait_timeout_while(lock, GATHER, |p| !p.stop)
            .unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut lock.change), lock.keep, lock.stop)
    }

    fn step(&mut self, change: Change, keep: Option<Keep>, stop: bool) {
        let file = match self.trail.file() {
            Some(file) => file,
            None if stop || self.retry_at <= Instant::now() => match self.open_again() {
                Some(file) => file,
                None => return self.put_back(change),
            },
            None => return self.put_back(change),
        };
        if !change.is_empty() {
            let process = *locked(&self.trail.process);
            if let Err(error) = file.write(&change, process, unix_ns()) {
                drop(file);
                self.fail(&error);
                return self.put_back(change);
            }
            self.trail.update(|f| f.commits += 1);
        }
        let mut pruned = 0;
        if let Some(keep) = keep.filter(|_| self.prune_at <= Instant::now()) {
            let (now, now_ns) = (Instant::now(), unix_ns());
            self.prune_at = now + PRUNE_EVERY;
            let believed_ns = self.age.now(now, now_ns);
            let cutoff_ns = believed_ns.saturating_sub((keep.days * DAY_NS) as u64);
            let taken = file.prune(cutoff_ns, (keep.max_bytes * FULL) as u64, now_ns);
            match taken.and_then(|n| file.believe(believed_ns).map(|()| n)) {
                Ok(n) => pruned = n,
                Err(error) => {
                    drop(file);
                    return self.fail(&error);
                }
            }
        }
        if change.is_empty() && pruned == 0 {
            return;
        }
        let records = file.records().unwrap_or_default();
        // It is written all the same: one that is moved back has everything, and answers go on.
        let durable = file.is_in(&mut self.place);
        self.trail.update(|f| {
            f.durable = durable;
            f.file_bytes = file.bytes();
            f.records = records;
            f.head = file.head();
            f.pruned += pruned;
        });
    }

    fn open_again(&mut self) -> Option<Arc<File>> {
        self.retry_at = Instant::now() + RETRY;
        match File::open(&self.dir) {
            Ok((file, corrupt)) => {
                info!(dir = %self.dir.display(), "the trail is written again");
                if let Some(error) = corrupt {
                    self.trail.update(|f| begins_anew(&self.dir, &error, f));
                }
                let process = *locked(&self.trail.process);
                match file.go_on(process, unix_ns()) {
                    Ok(process) => *locked(&self.trail.process) = process,
                    Err(error) => {
                        self.fail(&error);
                        return None;
                    }
                }
                let file = Arc::new(file);
                *locked(&self.trail.file) = Some(Arc::clone(&file));
                self.trail.update(|f| f.durable = true);
                Some(file)
            }
            Err(error) => {
                error!(dir = %self.dir.display(), %error, "the trail cannot be written");
                None
            }
        }
    }

    /// Goes on without the disk.
    fn fail(&mut self, error: &redb::Error) {
        error!(dir = %self.dir.display(), %error, "the trail cannot be written: what is judged waits for the disk");
        let reason = reason(error);
        *locked(&self.trail.file) = None;
        self.retry_at = Instant::now() + RETRY;
        self.trail.update(|f| {
            f.durable = false;
            *f.failures.entry(reason).or_default() += 1;
        });
    }

    /// What was not written is written first of all.
    fn put_back(&self, mut change: Change) {
        let mut pending = locked(&self.trail.pending);
        let lost = change.add(std::mem::take(&mut pending.change));
        pending.change = change;
        drop(pending);
        self.trail.lost(lost);
    }
}
