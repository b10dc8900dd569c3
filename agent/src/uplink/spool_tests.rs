//! The outbox with a spool on a real disk against an oracle: crashes, torn and damaged files, lost receipts, aggregators that forget.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use partywall_proto::v1::{
    Coverage, CpuSample, Entity, Feature, Outcome, Pod, Receipt, Report, entity::Kind,
};
use proptest::prelude::*;
use prost::Message as _;

use super::outbox::{Held, Outbox};
use super::spool::{OpenError, Opened, SEGMENT_BYTES, Spool};

const LIMIT: u64 = 64 << 20;
const WINDOW: usize = 8;
/// How many reports an entity lives.
const LIFE: u32 = 5;

/// Report `sequence` announces an entity of that index, tells of those that live, and ends the oldest of them.
fn report(run: u64, sequence: u64, pad_bytes: usize) -> Report {
    let newest = sequence as u32;
    let oldest = newest.saturating_sub(LIFE - 1).max(1);
    Report {
        node: "node-a".to_owned(),
        boot_id: "boot".to_owned(),
        agent_start_unix_ns: run,
        sequence,
        interval_ns: 1_000_000_000,
        coverage: Some(Coverage {
            features: vec![Feature {
                reason: "n".repeat(pad_bytes),
                ..Feature::default()
            }],
            ..Coverage::default()
        }),
        entities: vec![Entity {
            index: newest,
            kind: Some(Kind::Pod(Pod::default())),
            ..Entity::default()
        }],
        ended: if newest >= LIFE { vec![oldest] } else { vec![] },
        cpu: (oldest..=newest)
            .map(|entity| CpuSample {
                entity,
                run_ns: sequence,
                ..CpuSample::default()
            })
            .collect(),
        ..Report::default()
    }
}

fn encoded(run: u64, sequences: std::ops::RangeInclusive<u64>, pad_bytes: usize) -> Vec<Bytes> {
    sequences
        .map(|sequence| report(run, sequence, pad_bytes).encode_to_vec().into())
        .collect()
}

fn open(dir: &Path) -> Opened {
    Spool::open(dir, LIMIT).unwrap_or_else(|error| panic!("{error}"))
}

/// All that is there, in order, as (run, sequence).
fn everything(spool: &mut Spool) -> Vec<(u64, u64)> {
    let mut all = Vec::new();
    while let Some(loaded) = spool.load_oldest().unwrap() {
        assert_eq!(loaded.unreadable, 0);
        all.extend(
            loaded
                .reports
                .iter()
                .map(|report| (report.agent_start_unix_ns, report.sequence)),
        );
        spool.remove(loaded.segment).unwrap();
    }
    all
}

/// What an aggregator does with reports: it knows runs, sequences and names, and is never told of what it does not know.
#[derive(Default)]
struct Oracle {
    run: u64,
    ended_runs: BTreeSet<u64>,
    last: u64,
    names: BTreeSet<u32>,
    accepted: BTreeMap<(u64, u64), u32>,
    /// It was started anew, and may be told again what the one before it has counted.
    forgot: bool,
}

impl Oracle {
    fn take(&mut self, report: &Report) -> Receipt {
        let (run, sequence) = (report.agent_start_unix_ns, report.sequence);
        if run != self.run {
            assert!(
                !self.ended_runs.contains(&run),
                "run {run} came back after {}",
                self.run
            );
            self.ended_runs.insert(self.run);
            (self.run, self.last) = (run, 0);
            self.names.clear();
        }
        let duplicate = sequence <= self.last;
        if !duplicate {
            self.names
                .extend(report.entities.iter().map(|entity| entity.index));
            for sample in &report.cpu {
                assert!(
                    self.names.contains(&sample.entity),
                    "report {sequence} of run {run} tells of {}, which was not announced",
                    sample.entity
                );
            }
            report.ended.iter().for_each(|index| {
                self.names.remove(index);
            });
            self.last = sequence;
            let counted = self.accepted.entry((run, sequence)).or_default();
            *counted += u32::from(*counted == 0 || !self.forgot);
        }
        let outcome = if duplicate {
            Outcome::Duplicate
        } else {
            Outcome::Accepted
        };
        Receipt {
            sequence,
            outcome: outcome.into(),
            ..Receipt::default()
        }
    }

    /// An aggregator that was started anew and knows nothing of this agent run.
    fn forget(&mut self) {
        self.names.clear();
        self.last = 0;
        self.forgot = true;
    }
}

/// What the spooler does, one thing after the other.
struct Agent {
    run: u64,
    sequence: u64,
    now: Instant,
    outbox: Outbox,
    spool: Spool,
    /// Reports whose receipts are on their way.
    answers: Vec<Receipt>,
}

impl Agent {
    fn start(run: u64, dir: &Path) -> Self {
        let opened = open(dir);
        assert_eq!(opened.set_aside, None);
        let mut agent = Self {
            run,
            sequence: 0,
            now: Instant::now(),
            outbox: Outbox::new(1 << 30, true),
            spool: opened.spool,
            answers: Vec::new(),
        };
        agent.outbox.found(opened.last.as_ref(), agent.now);
        agent.outbox.holds(agent.held());
        agent.outbox.begin_stream();
        agent
    }

    fn held(&self) -> Held {
        Held {
            reports: self.spool.reports(),
            bytes: self.spool.bytes(),
            oldest: self.spool.oldest(),
        }
    }

    fn push(&mut self, pad_bytes: usize) {
        self.sequence += 1;
        self.outbox
            .push(report(self.run, self.sequence, pad_bytes), self.now);
    }

    fn spool(&mut self, all: bool) {
        loop {
            if let Some(segment) = self.outbox.take_sent() {
                self.spool.remove(segment).unwrap();
                self.outbox.holds(self.held());
            } else if self.outbox.wants_segment() {
                let loaded = self.spool.load_oldest().unwrap().expect("what it says it has");
                assert_eq!(self.outbox.loaded(loaded), 0);
            } else if all || self.outbox.wants_to_lend(self.now) {
                let Some((names, reports)) = self.outbox.lend(self.spool.wants_names(), SEGMENT_BYTES) else {
                    return;
                };
                assert_eq!(self.spool.append(names.as_ref(), &reports).unwrap(), 0);
                self.outbox.written(self.held(), self.now);
            } else {
                return;
            }
        }
    }

    fn send(&mut self, oracle: &mut Oracle, reports: usize) {
        for _ in 0..reports {
            let Some(report) = self.outbox.next(WINDOW) else {
                return;
            };
            self.answers.push(oracle.take(&report));
        }
    }

    fn answer(&mut self) {
        for receipt in std::mem::take(&mut self.answers) {
            self.outbox.receipt(&receipt, self.now);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push {
        reports: u8,
        pad_bytes: u16,
    },
    /// Time passes, and the spooler has its turn.
    Spool {
        all: bool,
    },
    Send(u8),
    Answer,
    /// The stream breaks with what was answered on it; perhaps the aggregator was started anew.
    Reconnect {
        forgets: bool,
    },
    /// kill -9, and another agent run.
    Crash,
    /// The disk fails while it is written, and is well again.
    Interrupt,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..30_u8, 0..30_000_u16).prop_map(|(reports, pad_bytes)| Step::Push { reports, pad_bytes }),
        4 => any::<bool>().prop_map(|all| Step::Spool { all }),
        4 => (1..40_u8).prop_map(Step::Send),
        4 => Just(Step::Answer),
        1 => any::<bool>().prop_map(|forgets| Step::Reconnect { forgets }),
        1 => Just(Step::Crash),
        1 => Just(Step::Interrupt),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_report_is_counted_once_in_order_unless_it_was_in_memory_at_a_crash(steps in prop::collection::vec(step(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let mut oracle = Oracle::default();
        let mut agent = Agent::start(1, dir.path());
        let mut pushed = BTreeSet::new();
        let mut in_memory_at_a_crash = BTreeSet::new();
        for step in steps {
            match step {
                Step::Push { reports, pad_bytes } => for _ in 0..reports {
                    agent.push(usize::from(pad_bytes));
                    pushed.insert((agent.run, agent.sequence));
                },
                Step::Spool { all } => {
                    agent.now += Duration::from_secs(11);
                    agent.spool(all);
                }
                Step::Send(reports) => agent.send(&mut oracle, usize::from(reports)),
                Step::Answer => agent.answer(),
                Step::Reconnect { forgets } => {
                    agent.answers.clear();
                    agent.outbox.begin_stream();
                    if forgets {
                        oracle.forget();
                    }
                }
                Step::Interrupt => {
                    agent.outbox.lend(agent.spool.wants_names(), SEGMENT_BYTES);
                    agent.outbox.interrupted();
                    let last = last(dir.path(), &mut agent);
                    prop_assert!(agent.outbox.found(last.as_ref(), agent.now));
                    agent.outbox.holds(agent.held());
                }
                Step::Crash => {
                    let run = agent.run + 1;
                    let (reports, _) = agent.outbox.in_memory();
                    let first_lost = agent.sequence - reports as u64 + 1;
                    in_memory_at_a_crash.extend((first_lost..=agent.sequence).map(|sequence| (agent.run, sequence)));
                    crash(dir.path(), agent);
                    agent = Agent::start(run, dir.path());
                }
            }
        }
        // Which is when it is known whose reports can be sent.
        agent.push(0);
        pushed.insert((agent.run, agent.sequence));
        for _ in 0..10_000 {
            agent.spool(false);
            agent.send(&mut oracle, WINDOW);
            agent.answer();
            if agent.outbox.is_empty() {
                break;
            }
        }
        prop_assert!(agent.outbox.is_empty(), "{:?} left", agent.outbox.waiting());
        for report in &pushed {
            let counted = oracle.accepted.get(report).copied().unwrap_or(0);
            let may_be_lost = in_memory_at_a_crash.contains(report);
            prop_assert!(counted == 1 || (counted == 0 && may_be_lost), "{report:?} was counted {counted} times");
        }
        prop_assert_eq!(agent.spool.reports(), 0);
    }
}

/// The file as it is in the middle of everything, without its being closed: what kill -9 leaves.
fn crash(dir: &Path, agent: Agent) {
    let left = fs::read(dir.join("spool.redb")).unwrap();
    drop(agent);
    fs::write(dir.join("spool.redb"), left).unwrap();
}

/// Opens the file again, as after a failure.
fn last(dir: &Path, agent: &mut Agent) -> Option<Report> {
    // Two at once cannot have it open.
    let elsewhere = tempfile::tempdir().unwrap();
    agent.spool = open(elsewhere.path()).spool;
    let opened = open(dir);
    agent.spool = opened.spool;
    opened.last
}

#[test]
fn what_is_written_is_there_after_a_restart_with_its_names() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path()).spool;
    let names = Report {
        entities: vec![Entity {
            index: 7,
            ..Entity::default()
        }],
        ..Report::default()
    };
    assert!(spool.wants_names());
    spool.append(Some(&names), &encoded(1, 1..=3, 10)).unwrap();
    assert!(!spool.wants_names());
    spool.append(None, &encoded(1, 4..=5, 10)).unwrap();
    drop(spool);
    let opened = open(dir.path());
    let mut spool = opened.spool;
    assert_eq!(opened.last.map(|report| report.sequence), Some(5));
    assert_eq!(spool.reports(), 5);
    assert!(spool.wants_names(), "an earlier run's segment takes nothing more");
    spool
        .append(Some(&Report::default()), &encoded(2, 1..=2, 10))
        .unwrap();
    let first = spool.load_oldest().unwrap().unwrap();
    assert_eq!(first.names, names);
    assert_eq!(
        everything(&mut spool),
        [(1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (2, 1), (2, 2)]
    );
    assert_eq!((spool.reports(), spool.bytes()), (0, 0));
}

#[test]
fn at_the_limit_the_oldest_go_and_are_counted() {
    const LIMIT: u64 = 32 << 20;
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), LIMIT).unwrap().spool;
    let mut dropped = 0;
    for batch in 0..120_u64 {
        let names = spool.wants_names().then(Report::default);
        let reports = encoded(1, batch * 10 + 1..=batch * 10 + 10, 50_000);
        dropped += spool.append(names.as_ref(), &reports).unwrap();
        assert!(spool.bytes() <= LIMIT);
    }
    let left = spool.reports();
    assert_eq!(left + dropped, 1_200);
    assert!(left * 50_000 > LIMIT / 2, "{left} reports fill it");
    let expected: Vec<(u64, u64)> = (dropped + 1..=1_200).map(|sequence| (1, sequence)).collect();
    assert_eq!(everything(&mut spool), expected, "the youngest, in order");
}

#[test]
fn the_file_stays_near_its_limit_and_shrinks() {
    use std::os::unix::fs::MetadataExt as _;
    const LIMIT: u64 = 32 << 20;
    let dir = tempfile::tempdir().unwrap();
    let on_disk = || fs::metadata(dir.path().join("spool.redb")).unwrap().blocks() * 512;
    let mut spool = Spool::open(dir.path(), LIMIT).unwrap().spool;
    for batch in 0..200_u64 {
        let names = spool.wants_names().then(Report::default);
        // Of many sizes, as real ones are.
        let pad_bytes = 3_000 + (batch as usize * 7_919) % 60_000;
        spool
            .append(
                names.as_ref(),
                &encoded(1, batch * 10 + 1..=batch * 10 + 10, pad_bytes),
            )
            .unwrap();
        assert!(on_disk() < LIMIT * 5 / 4, "{} bytes on disk", on_disk());
    }
    everything(&mut spool);
    drop(spool);
    assert!(
        on_disk() < LIMIT / 4,
        "{} bytes on disk, and nothing in it",
        on_disk()
    );
}

#[test]
fn a_file_cut_short_anywhere_is_opened_or_moved_aside() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path()).spool;
    for batch in 0..4 {
        let names = spool.wants_names().then(Report::default);
        spool
            .append(names.as_ref(), &encoded(1, batch * 5 + 1..=batch * 5 + 5, 3_000))
            .unwrap();
    }
    // As it is while it is in use, and as it is when it was closed.
    let file = dir.path().join("spool.redb");
    let mut files = vec![fs::read(&file).unwrap()];
    drop(spool);
    files.push(fs::read(&file).unwrap());
    let (mut whole, mut aside) = (0, 0);
    for bytes in files {
        let lengths = (0..60)
            .map(|part| bytes.len() * part / 60)
            .chain([1, 63, 64, 4_095, bytes.len() - 1]);
        for length in lengths {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("spool.redb"), &bytes[..length]).unwrap();
            check_survives(dir.path(), &mut whole, &mut aside);
        }
    }
    assert!(aside > 20, "{aside} were moved aside, {whole} were whole");
}

#[test]
fn a_damaged_file_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path()).spool;
    spool
        .append(Some(&Report::default()), &encoded(1, 1..=20, 3_000))
        .unwrap();
    drop(spool);
    let bytes = fs::read(dir.path().join("spool.redb")).unwrap();
    let text: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] == b'n').collect();
    let (mut whole, mut aside) = (0, 0);
    // In what reports say, where no length and no pointer would give it away, and anywhere.
    for at in text
        .iter()
        .step_by(text.len() / 10)
        .copied()
        .chain((0..bytes.len()).step_by(bytes.len() / 40))
    {
        let dir = tempfile::tempdir().unwrap();
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x55;
        fs::write(dir.path().join("spool.redb"), damaged).unwrap();
        check_survives(dir.path(), &mut whole, &mut aside);
    }
    assert!(aside > 10, "{aside} were moved aside, {whole} were whole");
}

/// It opens, with all that was in it or with nothing, and takes more.
fn check_survives(dir: &Path, whole: &mut u32, aside: &mut u32) {
    let Opened {
        mut spool, set_aside, ..
    } = open(dir);
    let kept = spool.reports();
    if set_aside.is_some() {
        assert_eq!(kept, 0);
        assert!(dir.join("spool.redb.aside").exists());
        *aside += 1;
    } else {
        *whole += 1;
    }
    spool
        .append(Some(&Report::default()), &encoded(9, 1..=2, 10))
        .unwrap();
    let all = everything(&mut spool);
    let expected: Vec<(u64, u64)> = (1..=kept)
        .map(|sequence| (1, sequence))
        .chain([(9, 1), (9, 2)])
        .collect();
    assert_eq!(all, expected);
}

#[test]
fn files_that_are_none_of_ours_are_moved_aside() {
    let another_format = {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("spool.redb");
        let db = redb::Database::create(&file).unwrap();
        let write = db.begin_write().unwrap();
        let table = redb::TableDefinition::<(), u64>::new("format");
        write.open_table(table).unwrap().insert((), 99).unwrap();
        write.commit().unwrap();
        drop(db);
        fs::read(file).unwrap()
    };
    let cases: [(&str, Vec<u8>); 3] = [
        ("text", b"not a database\n".repeat(1_000)),
        ("zeros", vec![0; 65_536]),
        ("format 99", another_format),
    ];
    for (what, bytes) in cases {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("spool.redb"), &bytes).unwrap();
        let opened = open(dir.path());
        assert!(opened.set_aside.is_some(), "{what}");
        let aside = fs::read(dir.path().join("spool.redb.aside")).unwrap();
        assert_eq!(aside[..4], bytes[..4], "{what}");
    }
}

#[test]
fn two_agents_do_not_share_a_spool() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    assert!(matches!(Spool::open(dir.path(), LIMIT), Err(OpenError::Busy(_))));
    drop(first);
    open(dir.path());
}

#[test]
fn a_directory_that_is_none_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Spool::open(&file, LIMIT).unwrap_err();
    assert!(matches!(error, OpenError::Unusable { .. }));
    assert!(error.to_string().contains(&file.display().to_string()), "{error}");
}

const CHILD: &str = "PARTYWALL_TEST_SPOOL";

/// A process that writes and says what it has written, killed at any moment.
#[test]
fn what_was_said_to_be_written_survives_kill_9() {
    if let Ok(dir) = std::env::var(CHILD) {
        write_for_ever(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let mut said = 0;
    for round in 0..12_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "uplink::spool_tests::what_was_said_to_be_written_survives_kill_9",
                "--nocapture",
            ])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Later in each round.
        for line in lines.by_ref().map(Result::unwrap) {
            if let Some(sequence) = line.strip_prefix("written ") {
                said = sequence.parse().unwrap();
                if said % 37 == round * 3 {
                    break;
                }
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines.map_while(Result::ok) {
            if let Some(sequence) = line.strip_prefix("written ") {
                said = sequence.parse().unwrap();
            }
        }
    }
    let opened = open(dir.path());
    assert_eq!(opened.set_aside, None);
    let mut spool = opened.spool;
    let all = everything(&mut spool);
    let there = all.last().unwrap().1;
    assert!(
        there >= said,
        "{said} was written, {there} is the last that is there"
    );
    assert_eq!(all, (1..=there).map(|sequence| (1, sequence)).collect::<Vec<_>>());
}

fn write_for_ever(dir: &Path) -> ! {
    let opened = open(dir);
    let mut spool = opened.spool;
    let mut sequence = opened.last.map_or(0, |report| report.sequence);
    loop {
        sequence += 1;
        let names = spool.wants_names().then(Report::default);
        spool
            .append(names.as_ref(), &encoded(1, sequence..=sequence, 20_000))
            .unwrap();
        println!("written {sequence}");
    }
}
