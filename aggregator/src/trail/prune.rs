//! What one transaction takes out: the oldest records, and what only they told of.

use bytes::Bytes;
use partywall_proto::v1;
use partywall_proto::v1::trail_body::What;
use prost::Message as _;
use redb::ReadableTable as _;

use super::append::Tables;
use super::format::{self, Episode};
use super::tables::{cost, unreadable};

/// Records taken out in one commit: breaches wait for it.
pub(super) const PRUNED_AT_ONCE: u64 = 512;

impl Tables<'_> {
    /// Returns how many records were taken out.
    pub(super) fn prune(&mut self, cutoff_ns: u64, max_bytes: u64, now_ns: u64) -> Result<u64, redb::Error> {
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
