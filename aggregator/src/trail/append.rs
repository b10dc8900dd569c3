//! What one transaction enters: records of the chain, and the tables by which they are found.

use bytes::Bytes;
use partywall_aggregator_core::trail::hours::Hour;
use partywall_aggregator_core::trail::reason;
use partywall_proto::trail::{Hash, link};
use partywall_proto::v1;
use partywall_proto::v1::trail_body::What;
use prost::Message as _;
use redb::{ReadableTable as _, Table, WriteTransaction};

use super::file::{Process, SAME_EPISODE_NS};
use super::format::{self, Episode};
use super::tables::{CHAIN, EPISODES, HOURS, KEPT_BYTES, LIVE, OPEN, START, cost, unreadable};
use crate::database::META;

/// `HistoryEntry.end_unknown`.
pub(super) const END_UNKNOWN: &str = "the aggregator ended while it fired, and the next did not see it again";

/// One transaction's tables.
pub(super) struct Tables<'t> {
    meta: Table<'t, &'static str, u64>,
    pub(super) chain: Table<'t, u64, &'static [u8]>,
    pub(super) hours: Table<'t, (&'static str, u64, u64), ()>,
    open: Table<'t, (&'static str, u64, &'static [u8]), &'static [u8]>,
    pub(super) episodes: Table<'t, (u64, u64), &'static [u8]>,
    pub(super) live: Table<'t, &'static str, (u64, u64)>,
    pub(super) head: Option<(u64, Hash)>,
    pub(super) kept_bytes: u64,
}

impl<'t> Tables<'t> {
    pub(super) fn new(txn: &'t WriteTransaction, head: Option<(u64, Hash)>) -> Result<Self, redb::Error> {
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

    pub(super) fn finish(mut self) -> Result<Option<(u64, Hash)>, redb::Error> {
        self.meta.insert(KEPT_BYTES, self.kept_bytes)?;
        Ok(self.head)
    }

    /// Returns its sequence.
    pub(super) fn append(&mut self, at_unix_ns: u64, what: What) -> Result<u64, redb::Error> {
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

    pub(super) fn last_start(&self) -> Result<u64, redb::Error> {
        Ok(self.meta.get(START)?.map_or(0, |v| v.value()))
    }

    pub(super) fn note_start(&mut self, sequence: u64) -> Result<(), redb::Error> {
        self.meta.insert(START, sequence)?;
        Ok(())
    }

    /// What the last process did not see either, of all that fired in the one before: it ended unseen.
    pub(super) fn give_up(&mut self, last_start: u64) -> Result<(), redb::Error> {
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

    pub(super) fn breach(
        &mut self,
        at_ns: u64,
        breach: &v1::Breach,
        process: Process,
    ) -> Result<(), redb::Error> {
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

    pub(super) fn row(
        &mut self,
        cluster: &str,
        hour: u64,
        row: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), redb::Error> {
        let key = (cluster, hour, row);
        match value {
            Some(value) => self.open.insert(key, value)?,
            None => self.open.remove(key)?,
        };
        Ok(())
    }

    pub(super) fn complete(
        &mut self,
        cluster: &str,
        number: u64,
        hour: &Hour,
        now_ns: u64,
    ) -> Result<(), redb::Error> {
        let is_first = self
            .hours
            .range((cluster, number, 0)..=(cluster, number, u64::MAX))?
            .next()
            .is_none();
        let mut hour = hour.clone();
        if is_first {
            // Also what came late of an hour that nobody watched: it says what there was, not that there was nothing else.
            hour.close(reason::AGGREGATOR_AWAY);
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
}
