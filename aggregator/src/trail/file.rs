//! The file: what is committed, and the moments at which it is read.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use partywall_aggregator_core::trail::hours::Hour;
use partywall_proto::trail::Hash;
use partywall_proto::v1;
use partywall_proto::v1::trail_body::What;
use prost::Message as _;
use redb::{ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _, WriteTransaction};

use super::append::Tables;
use super::change::Change;
use super::format;
use super::prune::PRUNED_AT_ONCE;
use super::read::Reader;
use super::tables::{self, BELIEVED_NS, CHAIN, KIND, OPEN};
use crate::database::{self, META, Open, OpenError, Place};

#[derive(Debug)]
pub(super) struct File {
    open: Open,
    /// Sequence and hash of the last record.
    head: Mutex<Option<(u64, Hash)>>,
}

/// By cluster and number.
pub(super) type ByHour = BTreeMap<Arc<str>, BTreeMap<u64, Hour>>;

/// Who writes: what it does not see again within a while has an end that nobody knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Process {
    pub(super) start_sequence: u64,
    pub(super) start_unix_ns: u64,
}

/// Fired again this soon after the aggregator began: it goes on, nobody judged meanwhile.
pub(super) const SAME_EPISODE_NS: u64 = 60_000_000_000;

impl File {
    /// As [`database::open`].
    pub(super) fn open(dir: &Path) -> Result<(Self, Option<String>), OpenError> {
        let (open, head, corrupt) = database::open(dir, &KIND, tables::head)?;
        let head = Mutex::new(head);
        Ok((Self { open, head }, corrupt))
    }

    /// Sequence and hash of the last record.
    pub(super) fn head(&self) -> Option<(u64, Hash)> {
        *self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time that retention reckoned from last; of a file from before that was noted, its newest record's. `None`: it is empty.
    pub(super) fn believed_ns(&self) -> Result<Option<u64>, redb::Error> {
        let txn = self.open.db.begin_read()?;
        if let Some(noted) = txn.open_table(META)?.get(BELIEVED_NS)? {
            return Ok(Some(noted.value()));
        }
        let chain = txn.open_table(CHAIN)?;
        let Some((_, bytes)) = chain.last()? else {
            return Ok(None);
        };
        let record = v1::TrailRecord::decode(bytes.value()).map_err(tables::unreadable)?;
        let body = v1::TrailBody::decode(record.body).map_err(tables::unreadable)?;
        Ok(Some(body.at_unix_ns))
    }

    pub(super) fn believe(&self, now_ns: u64) -> Result<(), redb::Error> {
        let txn = self.begin()?;
        txn.open_table(META)?.insert(BELIEVED_NS, now_ns)?;
        Ok(txn.commit()?)
    }

    /// What the records of the chain take.
    pub(super) fn kept_bytes(&self) -> Result<u64, redb::Error> {
        tables::kept_bytes(&self.open.db)
    }

    pub(super) fn records(&self) -> Result<u64, redb::Error> {
        Ok(self.open.db.begin_read()?.open_table(CHAIN)?.len()?)
    }

    /// The hours of which more is awaited, by cluster. The second: rows that cannot be read.
    pub(super) fn open_hours(&self) -> Result<(ByHour, u64), redb::Error> {
        let txn = self.open.db.begin_read()?;
        let (mut out, mut unreadable) = (ByHour::new(), 0);
        for row in txn.open_table(OPEN)?.iter()? {
            let (key, value) = row?;
            let (cluster, hour, _) = key.value();
            let hours = out.entry(Arc::from(cluster)).or_default();
            let read = format::decode_row(value.value(), hours.entry(hour).or_default());
            unreadable += u64::from(!read);
        }
        Ok((out, unreadable))
    }

    /// The first record of a process. What fired before the one before it is over, whenever that was.
    pub(super) fn start(&self, version: &str, now_ns: u64) -> Result<Process, redb::Error> {
        let txn = self.begin()?;
        let mut tables = Tables::new(&txn, self.head())?;
        let before = tables.last_start()?;
        let what = What::Start(v1::TrailStart {
            version: version.to_owned(),
        });
        let start_sequence = tables.append(now_ns, what)?;
        tables.give_up(before)?;
        tables.note_start(start_sequence)?;
        let head = tables.finish()?;
        self.commit(txn, head)?;
        Ok(Process {
            start_sequence,
            start_unix_ns: now_ns,
        })
    }

    /// The process as this file has it, which was opened anew: where it is another file, such as a new one, it is begun there too.
    pub(super) fn go_on(&self, process: Process, now_ns: u64) -> Result<Process, redb::Error> {
        let txn = self.begin()?;
        let last = Tables::new(&txn, self.head())?.last_start()?;
        txn.abort()?;
        if last == process.start_sequence {
            return Ok(process);
        }
        self.start(env!("CARGO_PKG_VERSION"), now_ns)
    }

    /// All of it or nothing, and on the disk when this returns.
    pub(super) fn write(&self, change: &Change, process: Process, now_ns: u64) -> Result<(), redb::Error> {
        let txn = self.begin()?;
        let mut tables = Tables::new(&txn, self.head())?;
        for (at_ns, breach) in &change.breaches {
            tables.breach(*at_ns, breach, process)?;
        }
        for ((cluster, hour, row), value) in &change.rows {
            tables.row(cluster, *hour, row, value.as_deref())?;
        }
        for (cluster, number, hour) in &change.complete {
            tables.complete(cluster, *number, hour, now_ns)?;
        }
        let head = tables.finish()?;
        self.commit(txn, head)
    }

    /// Takes out the oldest records: those from before `cutoff_ns`, and more while the rest takes more than `max_bytes`. Returns how many.
    pub(super) fn prune(&self, cutoff_ns: u64, max_bytes: u64, now_ns: u64) -> Result<u64, redb::Error> {
        let mut all = 0;
        loop {
            let txn = self.begin()?;
            let mut tables = Tables::new(&txn, self.head())?;
            let taken = tables.prune(cutoff_ns, max_bytes, now_ns)?;
            if taken == 0 {
                return Ok(all);
            }
            let head = tables.finish()?;
            self.commit(txn, head)?;
            all += taken;
            if taken < PRUNED_AT_ONCE {
                return Ok(all);
            }
        }
    }

    fn begin(&self) -> Result<WriteTransaction, redb::Error> {
        let mut txn = self.open.db.begin_write()?;
        // After kill -9 the file is not walked through to find its free pages.
        txn.set_quick_repair(true);
        Ok(txn)
    }

    fn commit(&self, txn: WriteTransaction, head: Option<(u64, Hash)>) -> Result<(), redb::Error> {
        txn.commit()?;
        *self.head.lock().unwrap_or_else(PoisonError::into_inner) = head;
        Ok(())
    }

    pub(super) fn read(&self) -> Result<Reader, redb::Error> {
        Ok(Reader(self.open.db.begin_read()?))
    }

    /// Whether a restart finds what was written.
    pub(super) fn is_in(&self, place: &mut Place) -> bool {
        place.is_kept(&self.open)
    }

    /// Its length.
    pub(super) fn bytes(&self) -> u64 {
        self.open.bytes()
    }
}

#[cfg(test)]
mod tests {
    use partywall_aggregator_core::trail::{HOUR_SLOTS, SLOT_NS, Slots, reason};
    use partywall_proto::trail::{Broken, Verifier};

    use super::*;
    use crate::trail::format::{Episode, VERSION};

    const S: u64 = 1_000_000_000;
    const DAY: u64 = 86_400 * S;
    const NOW: u64 = 20_000 * DAY;

    fn breach(name: &str, at_ns: u64, state: v1::BreachState) -> (u64, Arc<v1::Breach>) {
        let resolved = state == v1::BreachState::Resolved;
        let breach = v1::Breach {
            fingerprint: name.to_owned(),
            tenant: "red".into(),
            state: state.into(),
            firing_unix_ns: if resolved { at_ns - S } else { at_ns },
            resolved_unix_ns: if resolved { at_ns } else { 0 },
            ..v1::Breach::default()
        };
        (at_ns, Arc::new(breach))
    }

    fn fires(name: &str, at_ns: u64) -> Change {
        Change {
            breaches: vec![breach(name, at_ns, v1::BreachState::Firing)],
            ..Change::default()
        }
    }

    fn hour(number: u64) -> (Arc<str>, u64, Hour) {
        let mut hour = Hour {
            seen: Slots::all(),
            ..Hour::default()
        };
        let key = partywall_aggregator_core::trail::hours::CrossingKey {
            from: "red".into(),
            to: "blue".into(),
            verdict: partywall_aggregator_core::traffic::Verdict::Open,
            delivered: true,
        };
        hour.crossings
            .entry(key)
            .or_default()
            .slots
            .set(number % HOUR_SLOTS);
        ("default".into(), number, hour)
    }

    fn episodes(file: &File) -> Vec<Episode> {
        let mut out = Vec::new();
        let reader = file.read().unwrap();
        reader
            .episodes((u64::MAX, u64::MAX), |episode| {
                out.push(episode);
                true
            })
            .unwrap();
        out.reverse();
        out
    }

    fn verify(file: &File, spoil: impl Fn(&mut Vec<v1::TrailRecord>)) -> Result<u64, Broken> {
        let mut records = Vec::new();
        let reader = file.read().unwrap();
        reader
            .records(0, |record| {
                records.push(record);
                true
            })
            .unwrap();
        spoil(&mut records);
        let mut verifier = Verifier::default();
        for record in &records {
            verifier.take(record)?;
        }
        verifier.finish()?;
        Ok(records.len() as u64)
    }

    #[test]
    fn the_chain_goes_on_over_restarts_and_prunings() {
        let dir = tempfile::tempdir().unwrap();
        for day in 0..40 {
            let (file, corrupt) = File::open(dir.path()).unwrap();
            assert_eq!(corrupt, None);
            let now_ns = NOW + day * DAY;
            let process = file.start("test", now_ns).unwrap();
            let mut change = fires(&format!("b{day}"), now_ns);
            change.complete.push(hour(now_ns / SLOT_NS / HOUR_SLOTS - 2));
            file.write(&change, process, now_ns).unwrap();
            file.prune(now_ns - 30 * DAY, u64::MAX, now_ns).unwrap();
            verify(&file, |_| {}).unwrap();
        }
        let (file, _) = File::open(dir.path()).unwrap();
        let left = file.records().unwrap();
        assert_eq!(verify(&file, |_| {}), Ok(left));
        let oldest = file.read().unwrap().oldest_hour("default").unwrap().unwrap();
        assert_eq!(
            oldest,
            (NOW + 9 * DAY) / SLOT_NS / HOUR_SLOTS - 2,
            "thirty days of forty"
        );
        assert!(file.read().unwrap().is_pruned().unwrap());
        assert!(matches!(
            verify(&file, |records| drop(records.remove(7))),
            Err(Broken::Missing { .. })
        ));
        assert!(matches!(
            verify(&file, |records| drop(records.remove(0))),
            Err(Broken::NoBeginning { .. })
        ));
        assert!(matches!(
            verify(&file, |records| records.swap(3, 4)),
            Err(Broken::Missing { .. })
        ));
        // Nothing but the newest may be left by a bound that is too small.
        file.prune(0, 0, NOW + 40 * DAY).unwrap();
        verify(&file, |_| {}).unwrap();
        assert!(file.records().unwrap() <= 2, "{}", file.records().unwrap());
        assert!(file.kept_bytes().unwrap() < 1_000);
    }

    #[test]
    fn an_end_that_nobody_saw_is_said_to_be_unknown_and_one_that_goes_on_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let (file, _) = File::open(dir.path()).unwrap();
        let first = file.start("test", NOW).unwrap();
        for name in ["goes-on", "comes-later", "is-gone"] {
            file.write(&fires(name, NOW + S), first, NOW).unwrap();
        }
        let mut ended = fires("ends", NOW + S);
        ended
            .breaches
            .push(breach("ends", NOW + 2 * S, v1::BreachState::Resolved));
        file.write(&ended, first, NOW).unwrap();
        drop(file);
        let (file, _) = File::open(dir.path()).unwrap();
        let second = file.start("test", NOW + 100 * S).unwrap();
        file.write(&fires("goes-on", NOW + 110 * S), second, NOW).unwrap();
        file.write(&fires("comes-later", NOW + 200 * S), second, NOW)
            .unwrap();
        let mut resolved = Change::default();
        resolved
            .breaches
            .push(breach("goes-on", NOW + 300 * S, v1::BreachState::Resolved));
        file.write(&resolved, second, NOW).unwrap();
        drop(file);
        let (file, _) = File::open(dir.path()).unwrap();
        file.start("test", NOW + 400 * S).unwrap();
        let told: Vec<(String, u64, bool)> = episodes(&file)
            .into_iter()
            .map(|e| {
                let breach = e.breach.unwrap();
                (
                    breach.fingerprint,
                    (breach.firing_unix_ns - NOW) / S,
                    !e.end_unknown.is_empty(),
                )
            })
            .collect();
        let is = |name: &str, at, unknown| (name.to_owned(), at, unknown);
        assert_eq!(
            told,
            [
                is("goes-on", 1, false),
                is("comes-later", 1, true),
                is("is-gone", 1, true),
                is("ends", 1, false),
                is("comes-later", 200, false),
            ]
        );
        assert!(episodes(&file)[0].resolved_sequence > 0);
    }

    #[test]
    fn an_hour_that_came_late_alone_says_nothing_of_what_else_there_was() {
        let dir = tempfile::tempdir().unwrap();
        let (file, _) = File::open(dir.path()).unwrap();
        let process = file.start("test", NOW).unwrap();
        let mut late = hour(7);
        late.2.seen = Slots::NONE;
        let change = || Change {
            complete: vec![late.clone()],
            ..Change::default()
        };
        file.write(&change(), process, NOW).unwrap();
        file.write(&change(), process, NOW).unwrap();
        let mut seen = Vec::new();
        file.read()
            .unwrap()
            .hours(
                "default",
                0,
                10,
                |_, _| true,
                |number, hour| seen.push((number, hour)),
            )
            .unwrap();
        assert_eq!(seen.len(), 1);
        let gaps: Vec<_> = seen[0]
            .1
            .gaps
            .iter()
            .map(|(key, slots)| (&*key.reason, slots.count()))
            .collect();
        assert_eq!(gaps, [(reason::AGGREGATOR_AWAY, 360)]);
    }

    #[test]
    fn an_hour_of_which_one_record_was_taken_out_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let (file, _) = File::open(dir.path()).unwrap();
        let process = file.start("test", NOW).unwrap();
        let of = |number| Change {
            complete: vec![hour(number)],
            ..Change::default()
        };
        file.write(&of(7), process, NOW).unwrap();
        file.write(&of(8), process, NOW + DAY).unwrap();
        file.write(&of(7), process, NOW + DAY).unwrap();
        file.write(&of(9), process, NOW + DAY).unwrap();
        file.prune(NOW + S, u64::MAX, NOW + DAY).unwrap();
        let mut left = Vec::new();
        let reader = file.read().unwrap();
        let all = |_: &str, _: &str| true;
        reader
            .hours("default", 0, 10, all, |number, _| left.push(number))
            .unwrap();
        assert_eq!(left, [8, 9]);
        verify(&file, |_| {}).unwrap();
    }

    #[test]
    fn a_file_that_makes_no_sense_is_moved_aside_and_one_of_another_version_is_not() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(KIND.name), vec![7; 10_000]).unwrap();
        let (file, corrupt) = File::open(dir.path()).unwrap();
        assert!(corrupt.is_some() && database::aside(dir.path(), &KIND).exists());
        assert!(matches!(File::open(dir.path()), Err(OpenError::Locked { .. })));
        let txn = file.open.db.begin_write().unwrap();
        txn.open_table(META)
            .unwrap()
            .insert("version", VERSION + 1)
            .unwrap();
        txn.commit().unwrap();
        drop(file);
        assert!(matches!(File::open(dir.path()), Err(OpenError::Version { .. })));
    }
}
