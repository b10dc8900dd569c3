//! Moves reports between memory and the spool. Everything that touches the disk runs beside the runtime's workers: a disk that hangs holds up
//! neither reading nor sending.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use partywall_proto::v1::Report;

use super::outbox::Held;
use super::spool::{Failure, OpenError, Opened, SEGMENT_BYTES, Spool};
use super::{Complaint, Shared};

/// Waiting for the moment when reports have waited for long enough.
const TICK: Duration = Duration::from_secs(1);
/// The agent before this one may still be writing what it could not send.
const BUSY_PATIENCE: Duration = Duration::from_secs(10);
const BUSY_RETRY: Duration = Duration::from_millis(250);
/// After a failure nothing is written for so long.
const RETRY: Duration = Duration::from_secs(60);
/// A disk that does not answer for so long is done without. Reading a file of some GiB through at the opening takes seconds.
const DISK_TIMEOUT: Duration = Duration::from_secs(60);

/// Where reports go when memory is not enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolConfig {
    pub dir: PathBuf,
    /// Bound of what is on disk.
    pub bytes: u64,
}

/// What became of the spool, since the start where it counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpoolStats {
    /// It can be written, as far as is known.
    pub usable: bool,
    pub reports: u64,
    /// Of the reports, as they lie on disk.
    pub bytes: u64,
    /// Reports given up, the oldest first, at the bound.
    pub dropped_full: u64,
    /// Reports given up because younger ones were sent while they could not be read.
    pub dropped_failed: u64,
    /// Reports that could be read, and not understood.
    pub unreadable: u64,
    /// Reports of a node by another name.
    pub foreign: u64,
    /// Files moved aside: damaged, or of another format.
    pub set_aside: u64,
    /// Times that reading or writing failed.
    pub errors: u64,
}

/// Ends when the task that sends has ended and what is left in memory was written.
pub(super) async fn run(shared: Arc<Shared>, config: SpoolConfig) {
    let _closed = shared.spool_closed.clone().drop_guard();
    let mut spooler = Spooler::new(Arc::clone(&shared), config);
    spooler.open_first().await;
    loop {
        let closing = shared.stopped.is_cancelled();
        spooler.work(closing).await;
        if closing {
            break;
        }
        tokio::select! {
            () = shared.stopped.cancelled() => {}
            () = shared.spool_wanted.notified() => {}
            () = tokio::time::sleep(TICK) => {}
        }
    }
    if let Some(spool) = spooler.spool.take() {
        // Closing it writes too.
        let _ = tokio::time::timeout(DISK_TIMEOUT, tokio::task::spawn_blocking(|| drop(spool))).await;
    }
}

struct Spooler {
    shared: Arc<Shared>,
    config: SpoolConfig,
    spool: Option<Spool>,
    /// A thread waits for the disk, and has the file open.
    hung: bool,
    no_write_before: Option<Instant>,
    /// When to try again; `None` besides `spool`: never.
    open_again: Option<Instant>,
    /// The last reading failed.
    read_failed: bool,
    /// Segments up to this one were sent.
    sent: Option<u64>,
    full: Complaint,
}

impl Spooler {
    fn new(shared: Arc<Shared>, config: SpoolConfig) -> Self {
        Self {
            shared,
            config,
            spool: None,
            hung: false,
            no_write_before: None,
            open_again: None,
            read_failed: false,
            sent: None,
            full: Complaint::default(),
        }
    }

    /// What is on disk goes first, so that nothing is sent before this is over. Without success there is no other try: what is on disk would
    /// come too late.
    async fn open_first(&mut self) {
        let begun = Instant::now();
        let error = loop {
            match self.try_open().await {
                Ok(opened) => return self.opened(opened, true).await,
                Err(OpenError::Busy(_)) if begun.elapsed() < BUSY_PATIENCE => {
                    tokio::select! {
                        () = self.shared.stopped.cancelled() => {}
                        () = tokio::time::sleep(BUSY_RETRY) => continue,
                    }
                    return;
                }
                Err(error) => break error,
            }
        };
        tracing::warn!(%error, "no spool: in an outage reports wait in memory alone");
        let mut state = self.shared.state();
        state.spool.errors += 1;
        state.outbox.lost();
        drop(state);
        self.shared.pushed.notify_one();
    }

    async fn try_open(&mut self) -> Result<Opened, OpenError> {
        let SpoolConfig { dir, bytes } = self.config.clone();
        let opening = tokio::task::spawn_blocking(move || Spool::open(&dir, bytes));
        let unusable = |reason: &str| OpenError::Unusable {
            path: self.config.dir.clone(),
            reason: reason.to_owned(),
        };
        match tokio::time::timeout(DISK_TIMEOUT, opening).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(_panic)) => Err(unusable("opening it panicked")),
            Err(_) => {
                self.hung = true;
                Err(unusable("the disk does not answer"))
            }
        }
    }

    /// After a failure. What it says is told: at once, and then once in [`RETRY`].
    async fn try_again(&mut self) -> Option<Opened> {
        let opened = self.try_open().await;
        opened
            .inspect_err(|error| {
                tracing::warn!(%error, retry_in_s = RETRY.as_secs(), "the spool could not be opened again: reports wait in memory");
            })
            .ok()
    }

    async fn opened(&mut self, opened: Opened, first: bool) {
        let Opened {
            spool,
            set_aside,
            last,
        } = opened;
        self.note_set_aside(set_aside);
        if first && spool.reports() > 0 {
            tracing::info!(
                reports = spool.reports(),
                bytes = spool.bytes(),
                "reports on disk are sent first"
            );
        }
        let timely = self.take_up(spool, last.as_ref());
        if timely || first {
            self.tell();
        } else if let Some(dropped) = self.disk(Spool::clear).await {
            self.shared.state().spool.dropped_failed += dropped;
            self.tell();
        }
    }

    fn note_set_aside(&mut self, reason: Option<String>) {
        let Some(reason) = reason else { return };
        tracing::warn!(reason, dir = %self.config.dir.display(), "the spool was damaged or of another format: moved aside, begun anew");
        self.shared.state().spool.set_aside += 1;
        self.sent = None;
    }

    /// Returns whether what is in it may still be sent.
    fn take_up(&mut self, mut spool: Spool, last: Option<&Report>) -> bool {
        if let Some(sent) = self.sent {
            spool.skip(sent);
        }
        self.spool = Some(spool);
        self.open_again = None;
        self.shared.state().outbox.found(last, Instant::now())
    }

    /// Everything that is to be done now.
    async fn work(&mut self, closing: bool) {
        if self.spool.is_none() && self.open_again.is_some_and(|at| at <= Instant::now()) {
            self.open_again = Some(Instant::now() + RETRY);
            if let Some(opened) = self.try_again().await {
                tracing::info!("the spool can be used again");
                self.opened(opened, false).await;
            }
        }
        loop {
            let moved = self.advance(closing).await || self.spill(closing).await;
            if !moved || self.spool.is_none() {
                return;
            }
        }
    }

    /// Lets go of what was sent and fetches what is next.
    async fn advance(&mut self, closing: bool) -> bool {
        let sent = self.shared.state().outbox.take_sent();
        if let Some(segment) = sent {
            self.sent = Some(segment);
            if self.disk(move |spool| spool.remove(segment)).await.is_some() {
                self.tell();
            }
            return true;
        }
        if closing || self.spool.is_none() || !self.shared.state().outbox.wants_segment() {
            return false;
        }
        let loaded = self.disk(Spool::load_oldest).await;
        match loaded {
            Some(Some(loaded)) => {
                self.read_failed = false;
                let mut state = self.shared.state();
                state.spool.unreadable += loaded.unreadable;
                let foreign = state.outbox.loaded(loaded);
                state.spool.foreign += foreign;
            }
            Some(None) => self.tell(),
            // Once more with the file opened anew; then without.
            None if self.read_failed => self.lose(),
            None => self.read_failed = true,
        }
        self.shared.pushed.notify_one();
        true
    }

    /// Writes what has waited for long enough; when closing, everything.
    async fn spill(&mut self, closing: bool) -> bool {
        let now = Instant::now();
        let Some(spool) = &self.spool else { return false };
        let with_names = spool.wants_names();
        let lent = {
            let mut state = self.shared.state();
            let wanted = closing || state.outbox.wants_to_lend(now);
            let may = closing || self.no_write_before.is_none_or(|at| at <= now);
            if wanted && may {
                state.outbox.lend(with_names, SEGMENT_BYTES)
            } else {
                None
            }
        };
        let Some((names, reports)) = lent else {
            return false;
        };
        let written = self
            .disk(move |spool| spool.append(names.as_ref(), &reports))
            .await;
        let Some(dropped) = written else {
            self.no_write_before = Some(now + RETRY);
            return false;
        };
        self.no_write_before = None;
        {
            let held = self.held();
            let mut state = self.shared.state();
            state.spool.usable = true;
            state.spool.dropped_full += dropped;
            state.outbox.written(held, Instant::now());
        }
        if dropped > 0 && self.full.due() {
            tracing::warn!(
                dropped,
                limit_bytes = self.config.bytes,
                "the spool is full: the oldest reports are given up"
            );
        }
        self.tell();
        true
    }

    /// Does something on disk. A failure is counted and told once, and the file opened again: redb does not go on after one.
    async fn disk<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Spool) -> Result<T, Failure> + Send + 'static,
    ) -> Option<T> {
        let mut spool = self.spool.take()?;
        let working = tokio::task::spawn_blocking(move || {
            let done = work(&mut spool)?;
            Ok::<_, Failure>((spool, done))
        });
        let reason = match tokio::time::timeout(DISK_TIMEOUT, working).await {
            Ok(Ok(Ok((spool, done)))) => {
                self.spool = Some(spool);
                return Some(done);
            }
            Ok(Ok(Err(failure))) => failure.to_string(),
            Ok(Err(_panic)) => "reading or writing it panicked".to_owned(),
            Err(_) => {
                self.hung = true;
                format!("the disk has not answered for {} s", DISK_TIMEOUT.as_secs())
            }
        };
        let was_usable = {
            let mut state = self.shared.state();
            state.spool.errors += 1;
            std::mem::take(&mut state.spool.usable)
        };
        if was_usable {
            tracing::warn!(
                reason,
                retry_in_s = RETRY.as_secs(),
                "the spool failed: reports wait in memory"
            );
        }
        self.shared.state().outbox.interrupted();
        let again = if self.hung { None } else { self.try_again().await };
        match again {
            Some(opened) => {
                self.note_set_aside(opened.set_aside);
                self.take_up(opened.spool, opened.last.as_ref());
                self.tell_held();
            }
            None => self.lose(),
        }
        None
    }

    /// Goes on without it for now.
    fn lose(&mut self) {
        self.spool = None;
        self.open_again = (!self.hung).then(|| Instant::now() + RETRY);
        self.shared.state().outbox.lost();
        self.shared.pushed.notify_one();
    }

    /// What is on disk now; it works.
    fn tell(&self) {
        self.shared.state().spool.usable |= self.no_write_before.is_none();
        self.tell_held();
    }

    fn held(&self) -> Held {
        self.spool.as_ref().map_or_else(Held::default, |spool| Held {
            reports: spool.reports(),
            bytes: spool.bytes(),
            oldest: spool.oldest(),
        })
    }

    fn tell_held(&self) {
        let held = self.held();
        let mut state = self.shared.state();
        state.outbox.holds(held);
        drop(state);
        self.shared.pushed.notify_one();
        self.shared.answered.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use std::io::Write;
    use std::sync::Mutex;

    use super::super::{Uplink, UplinkConfig};
    use super::*;
    use crate::link::LinkConfig;

    /// What was logged.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn why_it_cannot_be_opened_again_is_told() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .finish();
        let _logging = tracing::subscriber::set_default(subscriber);
        // That there is no aggregator is told besides.
        let told = || {
            let text = String::from_utf8(std::mem::take(&mut *log.0.lock().unwrap())).unwrap();
            let of_spool: Vec<&str> = text.lines().filter(|line| line.contains("spool")).collect();
            of_spool.join("\n")
        };
        let above = tempfile::tempdir().unwrap();
        let dir = above.path().join("spool");
        let uplink = Uplink::new(UplinkConfig {
            link: LinkConfig::plaintext("http://127.0.0.1:9"),
            queue_bytes: 1 << 20,
            spool: None,
        })
        .unwrap();
        std::fs::create_dir(&dir).unwrap();
        let config = SpoolConfig {
            dir: dir.clone(),
            bytes: 64 << 20,
        };
        let mut spooler = Spooler::new(Arc::clone(&uplink.shared), config);
        spooler.spool = Some(Spool::open(&dir, 64 << 20).unwrap().spool);
        // Writing fails, and in the directory's place is something else by now.
        std::fs::remove_dir_all(&dir).unwrap();
        std::fs::write(&dir, "").unwrap();
        let done: Option<()> = spooler.disk(|_| panic!("as a disk that fails")).await;
        assert_eq!(done, None);
        let reason = "File exists";
        let at_once = told();
        assert!(
            at_once.contains("opened again") && at_once.contains(reason),
            "{at_once}"
        );
        spooler.work(false).await;
        assert_eq!(told(), "", "not before its time");
        spooler.open_again = Some(Instant::now());
        spooler.work(false).await;
        let later = told();
        assert!(
            later.contains("opened again") && later.contains(reason),
            "{later}"
        );
    }
}
