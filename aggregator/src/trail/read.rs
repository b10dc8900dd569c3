//! What is read for answers.

use std::collections::BTreeMap;

use partywall_aggregator_core::trail::hours::Hour;
use partywall_proto::v1;
use partywall_proto::v1::trail_body::What;
use prost::Message as _;
use redb::{ReadTransaction, ReadableTable as _};

use super::format::{self, Episode};
use super::tables::{CHAIN, EPISODES, HOURS, OPEN, unreadable};

/// What was on the disk at one moment.
pub(super) struct Reader(pub(super) ReadTransaction);

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

    /// Episodes that stand before `end` (when it fired, sequence), the newest first, until `each` says that it has enough.
    pub(super) fn episodes(
        &self,
        end: (u64, u64),
        mut each: impl FnMut(Episode) -> bool,
    ) -> Result<(), redb::Error> {
        for row in self.0.open_table(EPISODES)?.range(..end)?.rev() {
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
