//! The file itself: a redb database of its own, because what else is kept is written anew all the time, and this stays.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use partywall_aggregator_core::trail::hours::Hour;
use partywall_proto::trail::{Hash, link};
use partywall_proto::v1;
use partywall_proto::v1::trail_body::What;
use prost::Message as _;
use redb::{
    Database, ReadTransaction, ReadableDatabase as _, ReadableTable as _, Table, TableDefinition,
    WriteTransaction,
};

use super::format::{self, Episode, VERSION};
use crate::database::{self, Kind, META, Open, OpenError};

/// Records taken out in one commit: breaches wait for it.
const PRUNED_AT_ONCE: u64 = 512;

/// In [`META`]: what all records of the chain take, as [`cost`] has it.
const KEPT_BYTES: &str = "kept_bytes";
/// In [`META`]: the sequence of the last process's first record.
const START: &str = "start";
/// Sequence → an encoded `TrailRecord`.
const CHAIN: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("chain");
/// (cluster, hour since 1970, sequence of a record of it).
const HOURS: TableDefinition<'_, (&str, u64, u64), ()> = TableDefinition::new("hours");
/// (cluster, hour, row) → an encoded part of an hour of which more is awaited.
const OPEN: TableDefinition<'_, (&str, u64, &[u8]), &[u8]> = TableDefinition::new("open");
/// (when it fired, sequence) → an encoded `Episode`.
const EPISODES: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("episodes");
/// Fingerprint of what fires → its episode.
const LIVE: TableDefinition<'_, &str, (u64, u64)> = TableDefinition::new("live");

const KIND: Kind = Kind {
    name: "trail.redb",
    version: VERSION,
    // Of all that is read.
    cache_bytes: 16 * 1024 * 1024,
    // A month of records would keep the start waiting. Their own hashes tell what was changed.
    checked: false,
    alone: "write one trail",
    tables: |txn| {
        txn.open_table(CHAIN)?;
        txn.open_table(HOURS)?;
        txn.open_table(OPEN)?;
        txn.open_table(EPISODES)?;
        txn.open_table(LIVE)?;
        Ok(())
    },
    // What pruning left empty goes back to the disk.
    compact_above: |db| Ok(4 * kept_bytes(db)?.max(16 * 1024 * 1024)),
};

#[derive(Debug)]
pub(super) struct File {
    open: Open,
    /// Sequence and hash of the last record.
    head: Mutex<Option<(u64, Hash)>>,
}

/// Cluster, hour, row.
pub(super) type RowKey = (Arc<str>, u64, Vec<u8>);
/// By cluster and number.
pub(super) type ByHour = BTreeMap<Arc<str>, BTreeMap<u64, Hour>>;

/// What one commit changes.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// Fired, or was resolved; in order.
    pub(super) breaches: Vec<(u64, Arc<v1::Breach>)>,
    /// (cluster, hour, row) → what it is now; `None`: nothing.
    pub(super) rows: BTreeMap<RowKey, Option<Vec<u8>>>,
    /// Hours that are complete, and what came later still.
    pub(super) complete: Vec<(Arc<str>, u64, Hour)>,
}

impl Change {
    pub(super) fn is_empty(&self) -> bool {
        self.breaches.is_empty() && self.rows.is_empty() && self.complete.is_empty()
    }
}

/// Who writes: what it does not see again within a while has an end that nobody knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Process {
    pub(super) start_sequence: u64,
    pub(super) start_unix_ns: u64,
}

/// Fired again this soon after the aggregator began: it goes on, nobody judged meanwhile.
pub(super) const SAME_EPISODE_NS: u64 = 60_000_000_000;

/// How much of the file a record takes: small ones share pages of 4 KiB that are two thirds full, large ones have pages of their own, a power of two.
pub(super) fn cost(length: usize) -> u64 {
    let length = length as u64;
    if length > 2_048 {
        (length + 64).next_power_of_two()
    } else {
        (length + 32) * 3 / 2
    }
}

impl File {
    /// As [`database::open`].
    pub(super) fn open(dir: &Path) -> Result<(Self, Option<String>), OpenError> {
        let (open, head, corrupt) = database::open(dir, &KIND, head)?;
        let head = Mutex::new(head);
        Ok((Self { open, head }, corrupt))
    }

    /// Sequence and hash of the last record.
    pub(super) fn head(&self) -> Option<(u64, Hash)> {
        *self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the records of the chain take.
    pub(super) fn kept_bytes(&self) -> Result<u64, redb::Error> {
        kept_bytes(&self.open.db)
    }

    pub(super) fn records(&self) -> Result<u64, redb::Error> {
        use redb::ReadableTableMetadata as _;
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
        let mut writer = Writer::new(&txn, self.head())?;
        let before = writer.last_start()?;
        let what = What::Start(v1::TrailStart {
            version: version.to_owned(),
        });
        let start_sequence = writer.append(now_ns, what)?;
        writer.give_up(before)?;
        writer.note_start(start_sequence)?;
        let head = writer.finish()?;
        self.commit(txn, head)?;
        Ok(Process {
            start_sequence,
            start_unix_ns: now_ns,
        })
    }

    /// All of it or nothing, and on the disk when this returns.
    pub(super) fn write(&self, change: &Change, process: Process, now_ns: u64) -> Result<(), redb::Error> {
        let txn = self.begin()?;
        let mut writer = Writer::new(&txn, self.head())?;
        for (at_ns, breach) in &change.breaches {
            writer.breach(*at_ns, breach, process)?;
        }
        for ((cluster, hour, row), value) in &change.rows {
            writer.row(cluster, *hour, row, value.as_deref())?;
        }
        for (cluster, number, hour) in &change.complete {
            writer.complete(cluster, *number, hour, now_ns)?;
        }
        let head = writer.finish()?;
        self.commit(txn, head)
    }

    /// Takes out the oldest records: those from before `cutoff_ns`, and more while the rest takes more than `max_bytes`. Returns how many.
    pub(super) fn prune(&self, cutoff_ns: u64, max_bytes: u64, now_ns: u64) -> Result<u64, redb::Error> {
        let mut all = 0;
        loop {
            let txn = self.begin()?;
            let mut writer = Writer::new(&txn, self.head())?;
            let taken = writer.prune(cutoff_ns, max_bytes, now_ns)?;
            if taken == 0 {
                return Ok(all);
            }
            let head = writer.finish()?;
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

    /// Its length.
    pub(super) fn bytes(&self) -> u64 {
        self.open.bytes()
    }
}

fn head(db: &Database) -> Result<Option<(u64, Hash)>, redb::Error> {
    let txn = db.begin_read()?;
    let chain = txn.open_table(CHAIN)?;
    let Some((sequence, bytes)) = chain.last()? else {
        return Ok(None);
    };
    let record = v1::TrailRecord::decode(bytes.value()).map_err(unreadable)?;
    let hash = record.hash.as_ref().try_into();
    Ok(Some((sequence.value(), hash.map_err(unreadable)?)))
}

fn kept_bytes(db: &Database) -> Result<u64, redb::Error> {
    let txn = db.begin_read()?;
    let meta = txn.open_table(META)?;
    Ok(meta.get(KEPT_BYTES)?.map_or(0, |v| v.value()))
}

fn unreadable(error: impl std::fmt::Display) -> redb::Error {
    redb::Error::Corrupted(error.to_string())
}

/// One transaction's tables.
struct Writer<'t> {
    meta: Table<'t, &'static str, u64>,
    chain: Table<'t, u64, &'static [u8]>,
    hours: Table<'t, (&'static str, u64, u64), ()>,
    open: Table<'t, (&'static str, u64, &'static [u8]), &'static [u8]>,
    episodes: Table<'t, (u64, u64), &'static [u8]>,
    live: Table<'t, &'static str, (u64, u64)>,
    head: Option<(u64, Hash)>,
    kept_bytes: u64,
}

impl<'t> Writer<'t> {
    fn new(txn: &'t WriteTransaction, head: Option<(u64, Hash)>) -> Result<Self, redb::Error> {
        let meta = txn.open_table(META)?;
        let kept_bytes = meta.get(KEPT_BYTES)?.map_or(0, |v| v.value());
        Ok(Self {
            meta,
            chain: txn.open_table(CHAIN)?,
            hours: txn.open_table(HOURS)?,
            open: txn.open_table(OPEN)?,
            episodes: txn.open_table(EPISODES)?,
            live: txn.open_table(LIVE)?,
            head,
            kept_bytes,
        })
    }

    fn finish(mut self) -> Result<Option<(u64, Hash)>, redb::Error> {
        self.meta.insert(KEPT_BYTES, self.kept_bytes)?;
        Ok(self.head)
    }

    /// Returns its sequence.
    fn append(&mut self, at_unix_ns: u64, what: What) -> Result<u64, redb::Error> {
        let body = v1::TrailBody {
            at_unix_ns,
            what: Some(what),
        };
        let record = link(self.head, Bytes::from(body.encode_to_vec()));
        let bytes = record.encode_to_vec();
        self.chain.insert(record.sequence, bytes.as_slice())?;
        self.kept_bytes = self.kept_bytes.saturating_add(cost(bytes.len()));
        let hash = record.hash.as_ref().try_into().map_err(unreadable)?;
        self.head = Some((record.sequence, hash));
        Ok(record.sequence)
    }

    fn last_start(&self) -> Result<u64, redb::Error> {
        Ok(self.meta.get(START)?.map_or(0, |v| v.value()))
    }

    fn note_start(&mut self, sequence: u64) -> Result<(), redb::Error> {
        self.meta.insert(START, sequence)?;
        Ok(())
    }

    /// What the last process did not see either, of all that fired in the one before: it ended unseen.
    fn give_up(&mut self, last_start: u64) -> Result<(), redb::Error> {
        let mut gone = Vec::new();
        for row in self.live.iter()? {
            let (fingerprint, episode) = row?;
            gone.push((fingerprint.value().to_owned(), episode.value()));
        }
        for (fingerprint, at) in gone {
            let Some(mut episode) = self.episode(at)? else {
                self.live.remove(fingerprint.as_str())?;
                continue;
            };
            if episode.seen_by < last_start {
                END_UNKNOWN.clone_into(&mut episode.end_unknown);
                self.episodes.insert(at, episode.encode_to_vec().as_slice())?;
                self.live.remove(fingerprint.as_str())?;
            }
        }
        Ok(())
    }

    fn episode(&self, at: (u64, u64)) -> Result<Option<Episode>, redb::Error> {
        let found = self.episodes.get(at)?;
        Ok(found.and_then(|bytes| Episode::decode(bytes.value()).ok()))
    }

    fn breach(&mut self, at_ns: u64, breach: &v1::Breach, process: Process) -> Result<(), redb::Error> {
        let resolved = breach.state() == v1::BreachState::Resolved;
        let sequence = self.append(at_ns, What::Breach(breach.clone()))?;
        let fingerprint = breach.fingerprint.as_str();
        let before = self.live.get(fingerprint)?.map(|at| at.value());
        let episode = match before {
            Some(at) => self.episode(at)?.map(|episode| (at, episode)),
            None => None,
        };
        if let Some((at, mut episode)) = episode {
            let soon = at_ns.saturating_sub(process.start_unix_ns) <= SAME_EPISODE_NS;
            if resolved {
                episode.resolved_sequence = sequence;
                episode.resolved_unix_ns = breach.resolved_unix_ns;
                self.live.remove(fingerprint)?;
                self.episodes.insert(at, episode.encode_to_vec().as_slice())?;
                return Ok(());
            }
            if episode.seen_by < process.start_sequence && soon {
                episode.seen_by = process.start_sequence;
                self.episodes.insert(at, episode.encode_to_vec().as_slice())?;
                return Ok(());
            }
            END_UNKNOWN.clone_into(&mut episode.end_unknown);
            self.episodes.insert(at, episode.encode_to_vec().as_slice())?;
        }
        if !resolved {
            let at = (breach.firing_unix_ns, sequence);
            let episode = Episode::new(breach, sequence, process.start_sequence);
            self.episodes.insert(at, episode.encode_to_vec().as_slice())?;
            self.live.insert(fingerprint, at)?;
        }
        Ok(())
    }

    fn row(&mut self, cluster: &str, hour: u64, row: &[u8], value: Option<&[u8]>) -> Result<(), redb::Error> {
        let key = (cluster, hour, row);
        match value {
            Some(value) => self.open.insert(key, value)?,
            None => self.open.remove(key)?,
        };
        Ok(())
    }

    fn complete(&mut self, cluster: &str, number: u64, hour: &Hour, now_ns: u64) -> Result<(), redb::Error> {
        let is_first = self
            .hours
            .range((cluster, number, 0)..=(cluster, number, u64::MAX))?
            .next()
            .is_none();
        let mut hour = hour.clone();
        if is_first {
            // Also what came late of an hour that nobody watched: it says what there was, not that there was nothing else.
            hour.close(partywall_aggregator_core::trail::reason::AGGREGATOR_AWAY);
        }
        for part in format::records(cluster, number, &hour) {
            let sequence = self.append(now_ns, What::Hour(part))?;
            self.hours.insert((cluster, number, sequence), ())?;
        }
        let last: &[u8] = &[u8::MAX];
        self.open
            .retain_in((cluster, number, &[][..])..(cluster, number, last), |_, _| false)?;
        Ok(())
    }

    /// Returns how many records were taken out.
    fn prune(&mut self, cutoff_ns: u64, max_bytes: u64, now_ns: u64) -> Result<u64, redb::Error> {
        let mut last: Option<(u64, Bytes, &'static str)> = None;
        let mut taken = 0;
        let newest = self.head.map_or(0, |(sequence, _)| sequence);
        while taken < PRUNED_AT_ONCE {
            let Some((sequence, bytes)) = self.chain.first()?.map(|(s, b)| (s.value(), b.value().to_vec()))
            else {
                break;
            };
            let record = v1::TrailRecord::decode(bytes.as_slice()).map_err(unreadable)?;
            let body = v1::TrailBody::decode(record.body).map_err(unreadable)?;
            let reason = if body.at_unix_ns < cutoff_ns {
                "age"
            } else if self.kept_bytes > max_bytes {
                "size"
            } else {
                break;
            };
            // The last one stays: the next goes on from it.
            if sequence >= newest {
                break;
            }
            if let Some(What::Hour(hour)) = &body.what {
                // What is left of an hour says too little: without its gaps it would be one that was seen.
                let (cluster, number) = (hour.cluster.as_str(), format::number(hour));
                let all = (cluster, number, 0)..=(cluster, number, u64::MAX);
                self.hours.retain_in(all, |_, ()| false)?;
            }
            self.chain.remove(sequence)?;
            self.kept_bytes = self.kept_bytes.saturating_sub(cost(bytes.len()));
            last = Some((sequence, record.hash, reason));
            taken += 1;
        }
        if let Some((up_to_sequence, hash, reason)) = last {
            let fires: Vec<(u64, u64)> = self
                .live
                .iter()?
                .map(|row| Ok(row?.1.value()))
                .collect::<Result<_, redb::StorageError>>()?;
            // What is told of by no record any more. In the order in which they fired, so that what is far younger is not looked at.
            let mut gone = Vec::new();
            for row in self.episodes.iter()? {
                let (at, bytes) = row?;
                if at.value().1 > up_to_sequence {
                    break;
                }
                let episode = Episode::decode(bytes.value()).unwrap_or_default();
                let newest = episode.fired_sequence.max(episode.resolved_sequence);
                if newest <= up_to_sequence && !fires.contains(&at.value()) {
                    gone.push(at.value());
                }
            }
            for at in gone {
                self.episodes.remove(at)?;
            }
            let pruned = v1::TrailPruned {
                up_to_sequence,
                hash,
                reason: reason.to_owned(),
            };
            self.append(now_ns, What::Pruned(pruned))?;
        }
        Ok(taken)
    }
}

/// `HistoryEntry.end_unknown`.
pub(super) const END_UNKNOWN: &str = "the aggregator ended while it fired, and the next did not see it again";

/// What was on the disk at one moment.
pub(super) struct Reader(ReadTransaction);

impl Reader {
    pub(super) fn record(&self, sequence: u64) -> Result<Option<v1::TrailRecord>, redb::Error> {
        let found = self.0.open_table(CHAIN)?.get(sequence)?;
        found
            .map(|bytes| v1::TrailRecord::decode(bytes.value()).map_err(unreadable))
            .transpose()
    }

    /// Records from `sequence` on, until `each` says that it has enough.
    pub(super) fn records(
        &self,
        sequence: u64,
        mut each: impl FnMut(v1::TrailRecord) -> bool,
    ) -> Result<(), redb::Error> {
        for row in self.0.open_table(CHAIN)?.range(sequence..)? {
            let (_, bytes) = row?;
            if !each(v1::TrailRecord::decode(bytes.value()).map_err(unreadable)?) {
                break;
            }
        }
        Ok(())
    }

    /// Episodes of what fired up to `to_ns`, the newest first, until `each` says that it has enough.
    pub(super) fn episodes(
        &self,
        to_ns: u64,
        mut each: impl FnMut(Episode) -> bool,
    ) -> Result<(), redb::Error> {
        for row in self.0.open_table(EPISODES)?.range(..=(to_ns, u64::MAX))?.rev() {
            let (_, bytes) = row?;
            if !each(Episode::decode(bytes.value()).map_err(unreadable)?) {
                break;
            }
        }
        Ok(())
    }

    /// The oldest hour of a cluster that is complete.
    pub(super) fn oldest_hour(&self, cluster: &str) -> Result<Option<u64>, redb::Error> {
        let hours = self.0.open_table(HOURS)?;
        let mut range = hours.range((cluster, 0, 0)..=(cluster, u64::MAX, u64::MAX))?;
        Ok(range.next().transpose()?.map(|(key, _)| key.value().1))
    }

    /// Whether anything was taken out.
    pub(super) fn is_pruned(&self) -> Result<bool, redb::Error> {
        Ok(self
            .0
            .open_table(CHAIN)?
            .first()?
            .is_some_and(|(s, _)| s.value() > 1))
    }

    /// The complete hours of a cluster from `first` up to before `end`, each with all its records, of the crossings those of the pairs that `keep` wants.
    pub(super) fn hours(
        &self,
        cluster: &str,
        first: u64,
        end: u64,
        keep: impl Fn(&str, &str) -> bool,
        mut each: impl FnMut(u64, Hour),
    ) -> Result<(), redb::Error> {
        let (hours, chain) = (self.0.open_table(HOURS)?, self.0.open_table(CHAIN)?);
        let mut now: Option<(u64, Hour)> = None;
        for row in hours.range((cluster, first, 0)..(cluster, end, 0))? {
            let (key, _) = row?;
            let (_, number, sequence) = key.value();
            let Some(bytes) = chain.get(sequence)? else {
                continue;
            };
            let record = v1::TrailRecord::decode(bytes.value()).map_err(unreadable)?;
            let body = v1::TrailBody::decode(record.body).map_err(unreadable)?;
            let Some(What::Hour(hour)) = body.what else {
                continue;
            };
            let hour = format::hour(&hour, &keep).ok_or_else(|| unreadable(format!("record {sequence}")))?;
            match &mut now {
                Some((same, all)) if *same == number => all.add(hour),
                _ => {
                    if let Some((number, hour)) = now.replace((number, hour)) {
                        each(number, hour);
                    }
                }
            }
        }
        if let Some((number, hour)) = now {
            each(number, hour);
        }
        Ok(())
    }

    /// The same of hours of which more is awaited, as far as it was written.
    pub(super) fn open_hours(
        &self,
        cluster: &str,
        first: u64,
        end: u64,
    ) -> Result<BTreeMap<u64, Hour>, redb::Error> {
        let open = self.0.open_table(OPEN)?;
        let mut out = BTreeMap::new();
        let none: &[u8] = &[];
        for row in open.range((cluster, first, none)..(cluster, end, none))? {
            let (key, value) = row?;
            let (_, number, _) = key.value();
            if !format::decode_row(value.value(), out.entry(number).or_default()) {
                return Err(unreadable(format!("a row of hour {number}")));
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use partywall_aggregator_core::trail::{HOUR_SLOTS, SLOT_NS, Slots, reason};
    use partywall_proto::trail::{Broken, Verifier};

    use super::*;

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
            .episodes(u64::MAX, |episode| {
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
