//! What is sent next: first what the spool holds, then what is in memory. No I/O; time is an argument.
//!
//! The aggregator counts reports in order of their sequence, and an agent run's only until the next one's begin. So there is one order for
//! everything: segments on disk, those of earlier agent runs first, then memory. New reports come into memory and go to disk from there, oldest
//! first, when they are not answered for [`SPILL_AFTER`] or fill half of the bound.

use std::time::{Duration, Instant};

use bytes::Bytes;
use partywall_proto::v1::{Receipt, Report};

use super::queue::{Counts, Lent, Queue};
use super::spool::Loaded;

/// Reports that wait longer in memory go to disk: this much is lost when the agent is killed in an outage, and one sync is made in as long.
const SPILL_AFTER: Duration = Duration::from_secs(10);

/// What the spool holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub reports: u64,
    pub bytes: u64,
    /// The first segment.
    pub oldest: Option<u64>,
}

/// Whether there is a spool to count on.
#[derive(Clone, Copy, Debug)]
enum Disk {
    /// None was asked for, or it cannot be used: memory alone.
    Absent,
    /// What it holds is not known yet, and must go first.
    Opening,
    Open(Held),
}

/// A segment that is being sent.
struct Past {
    segment: u64,
    queue: Queue,
}

pub(super) struct Outbox {
    bound_bytes: usize,
    live: Queue,
    past: Option<Past>,
    disk: Disk,
    /// What is being written.
    lent: Option<Lent>,
    /// It was sent.
    sent_segment: Option<u64>,
    /// Of segments that were sent.
    counts: Counts,
    /// Since when nothing in memory was answered; `None`: there is nothing.
    stalled_since: Option<Instant>,
    /// Reports sent from memory when the spool was lost.
    sent_when_lost: u64,
    /// Of this agent run; empty before its first report.
    node: String,
    cluster: String,
}

impl Outbox {
    pub(super) fn new(bound_bytes: usize, spooled: bool) -> Self {
        Self {
            bound_bytes,
            live: Queue::new(bound_bytes),
            past: None,
            disk: if spooled { Disk::Opening } else { Disk::Absent },
            lent: None,
            sent_segment: None,
            counts: Counts::default(),
            stalled_since: None,
            sent_when_lost: 0,
            node: String::new(),
            cluster: String::new(),
        }
    }

    /// Keeps `report`. Returns whether the spool should be seen to at once.
    pub(super) fn push(&mut self, report: Report, now: Instant) -> bool {
        if self.node != report.node {
            self.node.clone_from(&report.node);
        }
        if self.cluster != report.cluster {
            self.cluster.clone_from(&report.cluster);
        }
        self.live.push(report);
        self.stalled_since.get_or_insert(now);
        self.wants_to_lend(now) || self.wants_segment()
    }

    pub(super) fn counts(&self) -> Counts {
        let mut counts = self.counts.clone();
        counts.add(self.live.counts());
        if let Some(past) = &self.past {
            counts.add(past.queue.counts());
        }
        counts
    }

    /// Reports in memory, and their size.
    pub(super) fn in_memory(&self) -> (usize, usize) {
        (self.live.len(), self.live.bytes())
    }

    pub(super) fn held(&self) -> Option<Held> {
        match self.disk {
            Disk::Open(held) => Some(held),
            Disk::Opening | Disk::Absent => None,
        }
    }

    /// Nothing waits for a receipt, here or on disk.
    pub(super) fn is_empty(&self) -> bool {
        let on_disk = match self.disk {
            Disk::Open(held) => held.reports > 0,
            Disk::Opening => true,
            Disk::Absent => false,
        };
        self.live.len() == 0 && !on_disk
    }

    /// Reports without a receipt, here and on disk.
    pub(super) fn waiting(&self) -> u64 {
        self.live.len() as u64 + self.held().map_or(0, |held| held.reports)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.past
            .as_ref()
            .map_or(&self.live, |past| &past.queue)
            .in_flight()
    }

    pub(super) fn begin_stream(&mut self) {
        self.live.begin_stream();
        if let Some(past) = &mut self.past {
            past.queue.begin_stream();
        }
    }

    /// Whether what is in memory is next: nothing older is, or may be, on disk.
    fn live_is_next(&self) -> bool {
        let disk_is_empty = match self.disk {
            Disk::Absent => true,
            Disk::Opening => false,
            Disk::Open(held) => held.reports == 0,
        };
        disk_is_empty && self.past.is_none() && self.lent.is_none()
    }

    /// The next report to send, while fewer than `window` wait for their receipts.
    pub(super) fn next(&mut self, window: usize) -> Option<Report> {
        if let Some(past) = &mut self.past {
            let report = past.queue.next(window);
            self.retire();
            return report;
        }
        if self.live_is_next() {
            self.live.next(window)
        } else {
            None
        }
    }

    /// Takes a receipt. `false`: it belongs to no report in flight.
    pub(super) fn receipt(&mut self, receipt: &Receipt, now: Instant) -> bool {
        if let Some(past) = &mut self.past {
            let known = past.queue.receipt(receipt);
            self.retire();
            return known;
        }
        let known = self.live.receipt(receipt);
        self.progressed(now);
        known
    }

    fn progressed(&mut self, now: Instant) {
        self.stalled_since = (self.live.len() > 0).then_some(now);
    }

    /// A segment of which nothing is left was sent.
    fn retire(&mut self) {
        if let Some(past) = self.past.take_if(|past| past.queue.len() == 0) {
            self.counts.add(past.queue.counts());
            self.sent_segment = Some(past.segment);
        }
    }

    // What the spooler asks and tells.

    /// Whether the oldest segment shall be loaded, so that it can be sent. Not before it is known whose reports can be.
    pub(super) fn wants_segment(&self) -> bool {
        self.past.is_none()
            && !self.node.is_empty()
            && matches!(self.disk, Disk::Open(held) if held.reports > 0)
    }

    /// A segment that was sent, once: it need be kept no longer.
    pub(super) fn take_sent(&mut self) -> Option<u64> {
        self.sent_segment.take()
    }

    /// The oldest segment; its reports are next. Returns how many are not, because they are of a node or cluster by another name: a stream is of one node.
    pub(super) fn loaded(&mut self, mut loaded: Loaded) -> u64 {
        let all = loaded.reports.len();
        loaded
            .reports
            .retain(|report| report.node == self.node && report.cluster == self.cluster);
        let foreign = all - loaded.reports.len();
        self.past = Some(Past {
            segment: loaded.segment,
            queue: Queue::of_segment(loaded.names, loaded.reports),
        });
        self.retire();
        foreign as u64
    }

    /// What the spool holds now.
    pub(super) fn holds(&mut self, held: Held) {
        let waited = !self.live_is_next();
        self.disk = Disk::Open(held);
        // Given up for want of room.
        let gone = |segment| held.oldest.is_none_or(|oldest| oldest > segment);
        if let Some(past) = self.past.take_if(|past| gone(past.segment)) {
            self.counts.add(past.queue.counts());
        }
        if waited && self.live_is_next() {
            // The aggregator may never have heard of this agent run.
            self.live.begin_stream();
        }
    }

    pub(super) fn wants_to_lend(&self, now: Instant) -> bool {
        let stalled = |since| now.saturating_duration_since(since) >= SPILL_AFTER;
        matches!(self.disk, Disk::Open(_))
            && self.lent.is_none()
            && self.live.len() > 0
            && (self.live.bytes() > self.bound_bytes / 2 || self.stalled_since.is_some_and(stalled))
    }

    /// The oldest reports in memory, to be written, with the names that must be known before them. They stay until they are
    /// [`written`](Self::written).
    pub(super) fn lend(
        &mut self,
        with_names: bool,
        most_bytes: usize,
    ) -> Option<(Option<Report>, Vec<Bytes>)> {
        let names = with_names.then(|| self.live.names());
        let lent = self.live.lend(most_bytes);
        let reports = lent.reports.clone();
        self.lent = (!reports.is_empty()).then_some(lent);
        self.lent.as_ref().map(|_| (names, reports))
    }

    /// What was lent is on disk, which now holds so much.
    pub(super) fn written(&mut self, held: Held, now: Instant) {
        if let Some(lent) = self.lent.take() {
            self.live.gone(lent.last_sequence);
            self.progressed(now);
        }
        self.holds(held);
    }

    /// Reading or writing failed: what is on disk is not known, and what was lent is as it was.
    pub(super) fn interrupted(&mut self) {
        if let Some(lent) = self.lent.take() {
            self.live.unlend(&lent);
        }
        if let Some(past) = self.past.take() {
            self.counts.add(past.queue.counts());
        }
        self.disk = Disk::Opening;
        self.sent_when_lost = self.live.counts().sent;
    }

    /// There is no spool for now: memory goes on.
    pub(super) fn lost(&mut self) {
        self.interrupted();
        self.disk = Disk::Absent;
        self.live.begin_stream();
    }

    /// A file was opened again whose youngest report is `last`. Returns whether what is in it may still be sent: nothing younger was.
    pub(super) fn found(&mut self, last: Option<&Report>, now: Instant) -> bool {
        let run = |report: &Report| (report.agent_start_unix_ns, report.boot_id.clone());
        if let (Some(last), Some(first)) = (last, self.live.first())
            && run(last) == run(&first)
        {
            // Writing these had failed, or had seemed to.
            self.live.gone(last.sequence);
            self.progressed(now);
        }
        self.live.counts().sent == self.sent_when_lost
    }
}
