//! Reports that the aggregator has not acknowledged, and the names they need. No I/O, no clock.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use partywall_proto::MAX_MESSAGE_BYTES;
use partywall_proto::v1::{Entity, Flow, MemorySample, Outcome, Receipt, Report};
use prost::Message;

use super::merge::merge;

/// Largest report that is sent. How long it waited is told besides.
const SENT_MAX_BYTES: usize = MAX_MESSAGE_BYTES - 16;
/// Most bytes of a report that others were merged into. What ended during a long outage piles up there: without a bound
/// it would push out everything younger.
const MERGED_MAX_BYTES: usize = MAX_MESSAGE_BYTES / 4;
/// Most reasons that refusals are counted by; the others are "other".
const REASONS_MAX: usize = 16;

/// What became of the reports pushed so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub sent: u64,
    pub sent_bytes: u64,
    pub acknowledged: u64,
    pub duplicate: u64,
    pub refused_by_reason: BTreeMap<String, u64>,
    pub dropped_full: u64,
    pub dropped_oversized: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.sent_bytes += other.sent_bytes;
        self.acknowledged += other.acknowledged;
        self.duplicate += other.duplicate;
        for (reason, count) in &other.refused_by_reason {
            self.refuse(reason, *count);
        }
        self.dropped_full += other.dropped_full;
        self.dropped_oversized += other.dropped_oversized;
    }

    fn refuse(&mut self, reason: &str, count: u64) {
        let known = &mut self.refused_by_reason;
        let full = known.len() >= REASONS_MAX && !known.contains_key(reason);
        *known
            .entry(if full { "other" } else { reason }.to_owned())
            .or_default() += count;
    }
}

struct Entry {
    sequence: u64,
    /// Encoded, because a decoded report takes several times the room.
    encoded: Bytes,
    /// Entities and flows that need no name once this report is gone.
    ended: Ended,
}

/// Reports that are being written to the spool.
#[derive(Clone, Default)]
pub(super) struct Lent {
    pub reports: Vec<Bytes>,
    pub last_sequence: u64,
    ever_sent_before: usize,
}

#[derive(Default)]
struct Ended {
    entities: Vec<u32>,
    flows: Vec<u32>,
}

impl Ended {
    fn of(report: &mut Report) -> Self {
        Self {
            entities: std::mem::take(&mut report.ended),
            flows: std::mem::take(&mut report.flows_ended),
        }
    }

    fn extend(&mut self, other: Self) {
        self.entities.extend(other.entities);
        self.flows.extend(other.flows);
    }
}

/// Entities and flows by index.
#[derive(Default)]
struct Names {
    entities: BTreeMap<u32, Entity>,
    flows: BTreeMap<u32, Flow>,
}

impl Names {
    fn learn(&mut self, entities: Vec<Entity>, flows: Vec<Flow>) {
        self.entities
            .extend(entities.into_iter().map(|entity| (entity.index, entity)));
        self.flows
            .extend(flows.into_iter().map(|flow| (flow.index, flow)));
    }
}

/// In order of sequence. Entries at the front were sent, those behind were not.
pub(super) struct Queue {
    bound_bytes: usize,
    bytes: usize,
    entries: VecDeque<Entry>,
    /// The first so many were sent on the current stream.
    in_flight: usize,
    /// The first so many were sent on any stream, so that the aggregator may have counted them.
    ever_sent: usize,
    /// What must be known before the first report here, that it may be understood: what lives then. What a report in the queue announces is
    /// not among it: that report will. Thousands may begin and end in each report of an outage, and all of them together are more than one
    /// message holds.
    names: Names,
    /// The newest memory sample of each of them that has one: sent only when something changed.
    memory: BTreeMap<u32, MemorySample>,
    /// The next report sent names all of `names` besides its own.
    announce_all: bool,
    /// The next report sent that is the newest there is tells all of `memory`: an older one would tell of its future.
    tell_memory: bool,
    counts: Counts,
}

impl Queue {
    pub(super) fn new(bound_bytes: usize) -> Self {
        Self {
            bound_bytes,
            bytes: 0,
            entries: VecDeque::new(),
            in_flight: 0,
            ever_sent: 0,
            names: Names::default(),
            memory: BTreeMap::new(),
            announce_all: true,
            tell_memory: true,
            counts: Counts::default(),
        }
    }

    /// What a spool's segment holds: reports, and the names that must be known before them. Without a bound: it was bounded when it was written.
    pub(super) fn of_segment(names: Report, reports: impl IntoIterator<Item = Report>) -> Self {
        let mut queue = Self::new(usize::MAX);
        queue.names.learn(names.entities, names.flows);
        reports.into_iter().for_each(|report| queue.push(report));
        queue
    }

    /// The names that must be known before the first report here.
    pub(super) fn names(&self) -> Report {
        Report {
            entities: self.names.entities.values().cloned().collect(),
            flows: self.names.flows.values().cloned().collect(),
            ..Report::default()
        }
    }

    /// The first reports, `most_bytes` of them or one, for the spool. They stay here until they are [`gone`](Self::gone), and no younger one is
    /// merged into them meanwhile.
    pub(super) fn lend(&mut self, most_bytes: usize) -> Lent {
        let mut lent = Lent::default();
        let mut bytes = 0;
        for entry in &self.entries {
            bytes += entry.encoded.len();
            if bytes > most_bytes && !lent.reports.is_empty() {
                break;
            }
            lent.reports.push(entry.encoded.clone());
            lent.last_sequence = entry.sequence;
        }
        lent.ever_sent_before = self.ever_sent;
        self.ever_sent = self.ever_sent.max(lent.reports.len());
        lent
    }

    /// What was lent could not be written, and none of it was: all is as before.
    pub(super) fn unlend(&mut self, lent: &Lent) {
        self.ever_sent = lent.ever_sent_before.min(self.entries.len());
    }

    /// The reports up to `sequence` are on disk.
    pub(super) fn gone(&mut self, sequence: u64) {
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.sequence <= sequence)
        {
            if let Some(entry) = self.remove(0) {
                self.let_go(entry, 0);
            }
        }
    }

    /// The first report here.
    pub(super) fn first(&self) -> Option<Report> {
        Report::decode(self.entries.front()?.encoded.clone()).ok()
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Keeps `report` until its receipt, making room where there is none.
    pub(super) fn push(&mut self, mut report: Report) {
        self.memory
            .extend(report.memory.iter().map(|sample| (sample.entity, *sample)));
        let bytes = report.encoded_len();
        if bytes > SENT_MAX_BYTES.min(self.bound_bytes) {
            self.counts.dropped_oversized += 1;
            // Its names were not told; and the reports before it still use the names that it ends.
            self.tell_all();
            let (entities, flows) = (&mut report.entities, &mut report.flows);
            self.names.learn(std::mem::take(entities), std::mem::take(flows));
            self.end(Ended::of(&mut report), self.entries.len());
            return;
        }
        self.entries.push_back(Entry {
            sequence: report.sequence,
            encoded: report.encode_to_vec().into(),
            ended: Ended::of(&mut report),
        });
        self.bytes += bytes;
        while self.bytes > self.bound_bytes && self.entries.len() > 1 {
            self.make_room();
        }
    }

    /// Gives up the oldest report that was never sent, merging it into the one after it. One that was sent may have been
    /// counted: merged into another it could be counted twice. At most a window of those is kept before it.
    fn make_room(&mut self) {
        let unsent = self.ever_sent + 1 < self.entries.len();
        let oldest = if unsent { self.ever_sent } else { 0 };
        self.counts.dropped_full += 1;
        let Some(old) = self.remove(oldest) else {
            return;
        };
        let merged = if unsent { self.merged(&old, oldest) } else { None };
        match (merged, self.entries.get_mut(oldest)) {
            (Some(report), Some(next)) => {
                let encoded: Bytes = report.encode_to_vec().into();
                self.bytes = self.bytes - next.encoded.len() + encoded.len();
                next.encoded = encoded;
                next.ended.extend(old.ended);
            }
            _ => {
                self.tell_all();
                self.let_go(old, oldest);
            }
        }
    }

    fn tell_all(&mut self) {
        self.announce_all = true;
        self.tell_memory = true;
    }

    /// `old` and the entry at `next` as one report, unless that would be too big.
    fn merged(&self, old: &Entry, next: usize) -> Option<Report> {
        let decode = |entry: &Entry| Report::decode(entry.encoded.clone()).ok();
        let report = merge(decode(old)?, decode(self.entries.get(next)?)?);
        (report.encoded_len() <= MERGED_MAX_BYTES.min(self.bound_bytes / 4)).then_some(report)
    }

    /// On a new stream everything is sent again, and all names are told again.
    pub(super) fn begin_stream(&mut self) {
        self.in_flight = 0;
        self.tell_all();
    }

    /// The next report to send, while fewer than `window` wait for their receipts.
    pub(super) fn next(&mut self, window: usize) -> Option<Report> {
        while self.in_flight < window {
            let entry = self.entries.get(self.in_flight)?;
            let tell_memory = self.tell_memory && self.in_flight + 1 == self.entries.len();
            let report = Report::decode(entry.encoded.clone()).ok().map(|mut report| {
                if self.announce_all {
                    report
                        .entities
                        .splice(0..0, self.names.entities.values().cloned());
                    report.flows.splice(0..0, self.names.flows.values().cloned());
                }
                if tell_memory {
                    report.memory = self.memory.values().copied().collect();
                }
                report
            });
            let bytes = report.as_ref().map_or(0, Report::encoded_len);
            match report {
                Some(report) if bytes <= SENT_MAX_BYTES => {
                    self.announce_all = false;
                    self.tell_memory &= !tell_memory;
                    self.in_flight += 1;
                    self.ever_sent = self.ever_sent.max(self.in_flight);
                    self.counts.sent += 1;
                    self.counts.sent_bytes += bytes as u64;
                    return Some(report);
                }
                _ => {
                    self.counts.dropped_oversized += 1;
                    if let Some(entry) = self.remove(self.in_flight) {
                        self.let_go(entry, self.in_flight);
                    }
                }
            }
        }
        None
    }

    /// Takes a receipt. `false`: it belongs to no report in flight, such as one given up meanwhile.
    pub(super) fn receipt(&mut self, receipt: &Receipt) -> bool {
        if receipt.announce_all {
            self.tell_all();
        }
        let in_flight = self.entries.iter().take(self.in_flight);
        let Some(at) = in_flight
            .into_iter()
            .position(|entry| entry.sequence == receipt.sequence)
        else {
            return false;
        };
        match receipt.outcome() {
            Outcome::Accepted => self.counts.acknowledged += 1,
            Outcome::Duplicate => self.counts.duplicate += 1,
            // An outcome that only a newer aggregator knows: sending again would not make it known.
            Outcome::Refused | Outcome::Unspecified => {
                self.tell_all();
                self.counts.refuse(field_of(&receipt.reason), 1);
            }
        }
        if let Some(entry) = self.remove(at) {
            self.let_go(entry, at);
        }
        true
    }

    fn remove(&mut self, at: usize) -> Option<Entry> {
        let entry = self.entries.remove(at)?;
        self.bytes -= entry.encoded.len();
        self.in_flight -= usize::from(at < self.in_flight);
        self.ever_sent -= usize::from(at < self.ever_sent);
        Some(entry)
    }

    /// A report that stood at `at` is gone for good: no other in the queue announces what it announced.
    fn let_go(&mut self, entry: Entry, at: usize) {
        if let Ok(report) = Report::decode(entry.encoded) {
            self.names.learn(report.entities, report.flows);
        }
        self.end(entry.ended, at);
    }

    /// Forgets the names that a report at `at` ended once no report before it is left: those may announce them, and refer to them.
    fn end(&mut self, ended: Ended, at: usize) {
        if let Some(before) = at.checked_sub(1).and_then(|before| self.entries.get_mut(before)) {
            before.ended.extend(ended);
            return;
        }
        for index in ended.entities {
            self.names.entities.remove(&index);
            self.memory.remove(&index);
        }
        for index in ended.flows {
            self.names.flows.remove(&index);
        }
    }
}

/// Refusals begin with the field's name and a colon; what follows holds values, too many to count by.
fn field_of(reason: &str) -> &str {
    let field = reason.split(':').next().unwrap_or_default();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'[' | b']');
    if (1..=48).contains(&field.len()) && field.bytes().all(plain) {
        field
    } else {
        "other"
    }
}

#[cfg(test)]
mod tests {
    use partywall_proto::v1::{CpuSample, FlowSample, Pod, Traffic, entity::Kind};

    use super::*;

    fn pod(index: u32) -> Entity {
        let uid = format!("{index:08}-0000-4000-8000-000000000000");
        Entity {
            index,
            kind: Some(Kind::Pod(Pod { uid })),
            ..Entity::default()
        }
    }

    fn sample(entity: u32, run_ns: u64) -> CpuSample {
        CpuSample {
            entity,
            run_ns,
            ..CpuSample::default()
        }
    }

    /// A report of some 10 bytes for each of `entities`, on a queue whose merged reports cannot grow past 16 KiB.
    fn report(sequence: u64, entities: impl IntoIterator<Item = u32>) -> Report {
        Report {
            node: "node-a".to_owned(),
            sequence,
            interval_ns: 1_000_000_000,
            cpu: entities
                .into_iter()
                .map(|entity| sample(entity, sequence << 30))
                .collect(),
            ..Report::default()
        }
    }

    fn receipt(sequence: u64, outcome: Outcome) -> Receipt {
        Receipt {
            sequence,
            outcome: outcome.into(),
            ..Receipt::default()
        }
    }

    fn indices(report: &Report) -> Vec<u32> {
        report.entities.iter().map(|entity| entity.index).collect()
    }

    const BOUND: usize = 64 * 1024;

    #[test]
    fn the_bound_holds_and_the_oldest_goes_first() {
        let mut queue = Queue::new(BOUND);
        // Some 18 KB each: too big to be merged, three fit.
        for sequence in 1..=10 {
            queue.push(report(sequence, 0..1_500));
            assert!(queue.bytes() <= BOUND);
        }
        assert!(queue.len() >= 2);
        assert_eq!(queue.counts().dropped_full, 10 - queue.len() as u64);
        let left: Vec<u64> = std::iter::from_fn(|| queue.next(100))
            .map(|report| report.sequence)
            .collect();
        assert_eq!(left, (11 - left.len() as u64..=10).collect::<Vec<_>>());
    }

    #[test]
    fn bytes_are_those_of_the_entries() {
        let mut queue = Queue::new(BOUND);
        for sequence in 1..=400 {
            queue.push(report(sequence, 0..(sequence as u32 % 40)));
            assert_eq!(
                queue.bytes(),
                queue
                    .entries
                    .iter()
                    .map(|entry| entry.encoded.len())
                    .sum::<usize>()
            );
        }
        assert!(queue.counts().dropped_full > 0, "the test must reach the bound");
    }

    #[test]
    fn making_room_loses_resolution_but_no_totals() {
        let mut queue = Queue::new(BOUND);
        // Entity 9,999 runs once and rests; the others go on until long after that report has lost its place.
        queue.push(report(1, [9_999]));
        for sequence in 2..=1_000 {
            queue.push(report(sequence, 0..20));
        }
        assert!(queue.counts().dropped_full > 500);
        let reports: Vec<Report> = std::iter::from_fn(|| queue.next(usize::MAX)).collect();
        let heard = |entity| {
            reports
                .iter()
                .flat_map(|r| &r.cpu)
                .rfind(|s| s.entity == entity)
                .map(|s| s.run_ns)
        };
        assert_eq!(heard(9_999), Some(1 << 30));
        assert_eq!(heard(3), Some(1_000 << 30));
        assert_eq!(
            reports.iter().map(|r| r.interval_ns).sum::<u64>(),
            1_000 * 1_000_000_000
        );
    }

    #[test]
    fn an_aggregator_that_knows_nothing_is_told_all_memory_and_never_of_the_future() {
        let memory = |sequence, entities: &[u32]| Report {
            memory: entities
                .iter()
                .map(|entity| MemorySample {
                    entity: *entity,
                    current_bytes: Some(sequence),
                    ..MemorySample::default()
                })
                .collect(),
            ..report(sequence, [])
        };
        let told = |report: &Report| -> Vec<(u32, u64)> {
            let samples = report.memory.iter();
            samples
                .map(|m| (m.entity, m.current_bytes.unwrap_or(0)))
                .collect()
        };
        let mut queue = Queue::new(BOUND);
        queue.push(memory(1, &[1, 2]));
        queue.push(memory(2, &[2]));
        queue.push(Report {
            ended: vec![2],
            ..memory(3, &[3])
        });
        queue.begin_stream();
        let sent: Vec<_> = std::iter::from_fn(|| queue.next(8)).map(|r| told(&r)).collect();
        assert_eq!(
            sent,
            [vec![(1, 1), (2, 1)], vec![(2, 2)], vec![(1, 1), (2, 2), (3, 3)]]
        );
        for sequence in 1..=3 {
            queue.receipt(&receipt(sequence, Outcome::Accepted));
        }
        queue.push(memory(4, &[3]));
        assert_eq!(
            queue.next(8).map(|r| told(&r)),
            Some(vec![(3, 4)]),
            "known by now"
        );
        queue.receipt(&Receipt {
            announce_all: true,
            ..receipt(4, Outcome::Accepted)
        });
        queue.push(memory(5, &[]));
        assert_eq!(
            queue.next(8).map(|r| told(&r)),
            Some(vec![(1, 1), (3, 4)]),
            "without what ended"
        );
    }

    #[test]
    fn a_report_that_was_sent_is_not_merged_into_another() {
        let mut queue = Queue::new(BOUND);
        for sequence in 1..=4 {
            queue.push(report(sequence, 0..10));
        }
        assert_eq!(std::iter::from_fn(|| queue.next(2)).count(), 2);
        queue.begin_stream();
        for sequence in 5..=2_000 {
            queue.push(report(sequence, 0..10));
        }
        assert!(queue.counts().dropped_full > 0);
        let sequences: Vec<u64> = std::iter::from_fn(|| queue.next(3))
            .map(|report| report.sequence)
            .collect();
        assert_eq!(
            sequences[..2],
            [1, 2],
            "the aggregator may have counted these, and tells by their sequence"
        );
        assert!(sequences[2] > 4);
    }

    #[test]
    fn when_all_were_sent_the_oldest_goes() {
        let mut queue = Queue::new(BOUND);
        for sequence in 1..=3 {
            queue.push(report(sequence, 0..1_500));
            queue.next(8);
        }
        queue.push(report(4, 0..1_500));
        assert_eq!(queue.counts().dropped_full, 1);
        assert_eq!(queue.in_flight(), 2);
        assert!(
            !queue.receipt(&receipt(1, Outcome::Accepted)),
            "its receipt comes too late"
        );
        assert!(queue.receipt(&receipt(2, Outcome::Accepted)));
        assert_eq!(queue.next(8).map(|report| report.sequence), Some(4));
    }

    #[test]
    fn an_oversized_report_is_refused_and_what_it_says_of_names_holds() {
        let mut queue = Queue::new(BOUND);
        let mut first = report(1, [1]);
        first.entities = vec![pod(1)];
        queue.push(first);
        let mut big = report(2, 0..10_000);
        big.entities = vec![pod(7)];
        big.ended = vec![1];
        queue.push(big);
        assert_eq!(queue.counts().dropped_oversized, 1);
        assert_eq!(queue.len(), 1);
        queue.push(report(3, [7]));
        assert_eq!(
            indices(&queue.next(1).unwrap()),
            [7, 1],
            "report 1 still refers to 1"
        );
        queue.receipt(&receipt(1, Outcome::Accepted));
        queue.begin_stream();
        assert_eq!(indices(&queue.next(1).unwrap()), [7]);
    }

    fn flow(index: u32) -> Flow {
        Flow {
            index,
            local: vec![10; 16].into(),
            peer: vec![11; 16].into(),
            port: 443,
            ..Flow::default()
        }
    }

    fn flow_indices(report: &Report) -> Vec<u32> {
        report.flows.iter().map(|flow| flow.index).collect()
    }

    #[test]
    fn an_outage_with_more_flows_than_a_message_holds_loses_no_counters() {
        const EACH: u32 = 1_000;
        const REPORTS: u32 = 200;
        let mut queue = Queue::new(64 * 1024 * 1024);
        for sequence in 1..=REPORTS {
            // Each tells of so many flows that are over in the next one.
            let of = |sequence: u32| (sequence - 1) * EACH..sequence * EACH;
            let before = if sequence == 1 { 0..0 } else { of(sequence - 1) };
            queue.push(Report {
                flows: of(sequence).map(flow).collect(),
                flow_samples: of(sequence).chain(before.clone()).map(flow_sample).collect(),
                flows_ended: before.collect(),
                ..report(u64::from(sequence), [])
            });
        }
        queue.begin_stream();
        let mut known = std::collections::BTreeSet::new();
        let mut counted = std::collections::BTreeSet::new();
        while let Some(report) = queue.next(8) {
            known.extend(flow_indices(&report));
            for sample in &report.flow_samples {
                assert!(known.contains(&sample.flow), "counters before their flow");
                counted.insert(sample.flow);
            }
            queue.receipt(&receipt(report.sequence, Outcome::Accepted));
        }
        assert_eq!(queue.counts().dropped_oversized, 0);
        assert_eq!(counted.len(), (EACH * REPORTS) as usize);
        assert_eq!(queue.names.flows.len(), EACH as usize, "those that live");
    }

    fn flow_sample(flow: u32) -> FlowSample {
        FlowSample {
            flow,
            traffic: Some(Traffic {
                sent_packets: 7,
                sent_bytes: 700,
                ..Traffic::default()
            }),
        }
    }

    #[test]
    fn a_flow_is_announced_by_the_report_that_found_it_until_that_is_gone() {
        let mut queue = Queue::new(BOUND);
        let telling = |sequence, flows: &[u32], ended: &[u32]| Report {
            flows: flows.iter().copied().map(flow).collect(),
            flows_ended: ended.to_vec(),
            ..report(sequence, [])
        };
        queue.push(telling(1, &[1, 2], &[]));
        queue.push(telling(2, &[3], &[]));
        queue.push(telling(3, &[4], &[1]));
        let told = |queue: &mut Queue| -> Vec<Vec<u32>> {
            std::iter::from_fn(|| queue.next(8))
                .map(|report| flow_indices(&report))
                .collect()
        };
        assert_eq!(
            told(&mut queue),
            [vec![1, 2], vec![3], vec![4]],
            "none of its future"
        );
        queue.receipt(&receipt(1, Outcome::Accepted));
        queue.begin_stream();
        assert_eq!(told(&mut queue), [vec![1, 2, 3], vec![4]], "report 3 refers to 1");
        queue.receipt(&receipt(2, Outcome::Accepted));
        queue.receipt(&receipt(3, Outcome::Accepted));
        queue.begin_stream();
        queue.push(report(4, []));
        assert_eq!(told(&mut queue), [[2, 3, 4]]);
        // Too big to be kept: what it found is announced by whoever comes next.
        queue.push(Report {
            flows: vec![flow(5)],
            ..report(5, 0..10_000)
        });
        queue.push(report(6, []));
        assert_eq!(told(&mut queue), [[2, 3, 4, 5]]);
    }

    #[test]
    fn a_report_given_up_behind_others_leaves_no_name_for_ever() {
        let mut queue = Queue::new(BOUND);
        queue.push(Report {
            flows: vec![flow(1)],
            entities: vec![pod(1)],
            ..report(1, [1])
        });
        queue.next(8);
        queue.push(Report {
            flows_ended: vec![1],
            ended: vec![1],
            ..report(2, 0..1_500)
        });
        for sequence in 3..=5 {
            queue.push(report(sequence, 0..1_500));
        }
        assert!(queue.counts().dropped_full > 0, "report 2 lost its place");
        queue.begin_stream();
        assert_eq!(indices(&queue.next(1).unwrap()), [1], "report 1 refers to it");
        queue.receipt(&receipt(1, Outcome::Duplicate));
        assert!(queue.names.flows.is_empty() && queue.names.entities.is_empty());
    }

    #[test]
    fn a_report_merged_into_the_next_is_announced_by_that_one() {
        let mut queue = Queue::new(BOUND);
        for sequence in 1..=2_000_u32 {
            queue.push(Report {
                flows: vec![flow(sequence)],
                ..report(u64::from(sequence), 0..10)
            });
        }
        assert!(queue.counts().dropped_full > 0);
        let announced: Vec<u32> = std::iter::from_fn(|| queue.next(usize::MAX))
            .flat_map(|report| flow_indices(&report))
            .collect();
        assert!(announced.is_sorted_by(|a, b| a < b), "each once, in its place");
        assert_eq!(announced.len(), 2_000, "those of lost reports too");
    }

    #[test]
    fn an_ended_entity_keeps_its_name_while_a_report_needs_it() {
        let mut queue = Queue::new(BOUND);
        let mut first = report(1, [1]);
        first.entities = vec![pod(1), pod(2)];
        let mut last = report(2, [1]);
        last.ended = vec![1];
        queue.push(first);
        queue.push(last);
        queue.push(report(3, [2]));
        assert_eq!(std::iter::from_fn(|| queue.next(8)).count(), 3);
        queue.receipt(&receipt(1, Outcome::Accepted));
        queue.begin_stream();
        assert_eq!(indices(&queue.next(1).unwrap()), [1, 2], "report 2 refers to 1");
        queue.receipt(&receipt(2, Outcome::Duplicate));
        queue.begin_stream();
        assert_eq!(indices(&queue.next(1).unwrap()), [2]);
    }

    #[test]
    fn names_survive_the_reports_that_first_told_them() {
        let mut queue = Queue::new(BOUND);
        let mut first = report(1, [1]);
        first.entities = vec![pod(1)];
        queue.push(first);
        for sequence in 2..=10 {
            queue.push(report(sequence, 0..2_000));
        }
        assert!(queue.counts().dropped_full > 0);
        assert_eq!(indices(&queue.next(8).unwrap()), [1]);
        assert!(indices(&queue.next(8).unwrap()).is_empty(), "told once a stream");
    }

    #[test]
    fn a_receipt_may_ask_for_all_names() {
        let mut queue = Queue::new(BOUND);
        let mut first = report(1, [1]);
        first.entities = vec![pod(1)];
        queue.push(first);
        queue.next(8);
        queue.receipt(&Receipt {
            announce_all: true,
            ..receipt(1, Outcome::Accepted)
        });
        queue.push(report(2, [1]));
        queue.push(report(3, [1]));
        assert_eq!(indices(&queue.next(8).unwrap()), [1]);
        assert!(indices(&queue.next(8).unwrap()).is_empty());
    }

    #[test]
    fn refusals_are_counted_by_field_and_tell_all_names_again() {
        let mut queue = Queue::new(BOUND);
        let refused = |sequence, reason: &str| Receipt {
            reason: reason.to_owned(),
            ..receipt(sequence, Outcome::Refused)
        };
        let mut first = report(1, [1]);
        first.entities = vec![pod(1)];
        queue.push(first);
        queue.next(8);
        queue.receipt(&refused(1, "node: \"x y\" is no name"));
        queue.push(report(2, [1]));
        assert_eq!(
            indices(&queue.next(8).unwrap()),
            [1],
            "the refused report's names were not learnt"
        );
        queue.receipt(&refused(2, "no colon here, only words"));
        queue.push(report(3, [1]));
        queue.next(8);
        queue.receipt(&Receipt {
            outcome: 99,
            ..receipt(3, Outcome::Accepted)
        });
        for (at, sequence) in (4..100).enumerate() {
            queue.push(report(sequence, [1]));
            queue.next(8);
            assert!(queue.receipt(&refused(sequence, &format!("field{at}: bad"))));
        }
        let counted = &queue.counts().refused_by_reason;
        assert_eq!(counted["node"], 1);
        assert!(counted.len() <= REASONS_MAX + 1);
        assert_eq!(counted.values().sum::<u64>(), 99);
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn the_window_bounds_what_is_in_flight() {
        let mut queue = Queue::new(BOUND);
        for sequence in 1..=20 {
            queue.push(report(sequence, [1]));
        }
        assert_eq!(std::iter::from_fn(|| queue.next(8)).count(), 8);
        queue.receipt(&receipt(1, Outcome::Accepted));
        assert_eq!(queue.next(8).map(|report| report.sequence), Some(9));
        assert!(queue.next(8).is_none());
    }
}
