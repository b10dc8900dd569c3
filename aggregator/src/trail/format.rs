//! Between what is known of an hour and what is on the disk and the wire.

use std::collections::BTreeSet;
use std::sync::Arc;

use partywall_aggregator_core::traffic::Verdict;
use partywall_aggregator_core::trail::hours::{Crossing, CrossingKey, GapKey, Hour, Row};
use partywall_aggregator_core::trail::{HOUR_SLOTS, SLOT_NS, Slots, decode_spans, encode_spans};
use partywall_proto::v1;
use prost::Message;

use crate::wire;

/// Of everything below, and of the tables.
pub(super) const VERSION: u64 = 1;

/// A body of the chain is no longer than this, more or less: a message holds one, and a reader two.
const PART_BYTES: usize = 512 * 1024;

/// A row of an hour that is awaited: one of these.
#[derive(Clone, PartialEq, Message)]
struct OpenRow {
    #[prost(message, optional, tag = "1")]
    crossing: Option<v1::TrailCrossing>,
    #[prost(message, optional, tag = "2")]
    coverage: Option<v1::TrailCoverage>,
    /// Slots that were judged and written.
    #[prost(uint32, repeated, tag = "3")]
    seen: Vec<u32>,
}

/// One time that a breach fired, for whoever looks for it.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Episode {
    /// As it was when it fired, without what is in the chain's record.
    #[prost(message, optional, tag = "1")]
    pub(super) breach: Option<v1::Breach>,
    #[prost(uint64, tag = "2")]
    pub(super) fired_sequence: u64,
    #[prost(uint64, tag = "3")]
    pub(super) resolved_sequence: u64,
    #[prost(uint64, tag = "4")]
    pub(super) resolved_unix_ns: u64,
    #[prost(string, tag = "5")]
    pub(super) end_unknown: String,
    /// The `TrailStart` of the process that saw it last.
    #[prost(uint64, tag = "6")]
    pub(super) seen_by: u64,
}

impl Episode {
    pub(super) fn new(breach: &v1::Breach, sequence: u64, seen_by: u64) -> Self {
        let breach = v1::Breach {
            evidence: Vec::new(),
            culprits: Vec::new(),
            ..breach.clone()
        };
        Self {
            breach: Some(breach),
            fired_sequence: sequence,
            seen_by,
            ..Self::default()
        }
    }
}

/// Rows of one hour are found by these.
pub(super) fn row_key(row: &Row) -> Vec<u8> {
    let joined = |kind: u8, parts: &[&str]| {
        let mut key = vec![kind];
        key.extend(parts.join("\0").as_bytes());
        key
    };
    match row {
        Row::Seen => vec![b's'],
        Row::Crossing(key) => joined(
            b'c',
            &[
                &key.from,
                &key.to,
                key.verdict.as_str(),
                if key.delivered { "y" } else { "n" },
            ],
        ),
        Row::Gap(key) => joined(b'g', &[&key.tenant, &key.reason, &key.node]),
    }
}

/// `part`: of an hour, this row alone.
pub(super) fn encode_row(part: &Hour) -> Vec<u8> {
    let row = OpenRow {
        crossing: part.crossings.iter().next().map(|(k, c)| crossing(k, c)),
        coverage: part.gaps.iter().next().map(|(k, s)| coverage(k, *s)),
        seen: part.seen.encode(),
    };
    row.encode_to_vec()
}

/// Adds a row to its hour. False: it cannot be read.
pub(super) fn decode_row(bytes: &[u8], into: &mut Hour) -> bool {
    let Ok(row) = OpenRow::decode(bytes) else {
        return false;
    };
    let parts = v1::TrailHour {
        crossings: row.crossing.into_iter().collect(),
        coverage: row.coverage.into_iter().collect(),
        ..v1::TrailHour::default()
    };
    match (hour(&parts, |_, _| true), Slots::decode(&row.seen)) {
        (Some(mut part), Some(seen)) => {
            part.seen = seen;
            into.add(part);
            true
        }
        _ => false,
    }
}

fn crossing(key: &CrossingKey, crossing: &Crossing) -> v1::TrailCrossing {
    v1::TrailCrossing {
        from: key.from.to_string(),
        to: key.to.to_string(),
        verdict: wire::verdict(key.verdict).into(),
        delivered: key.delivered,
        bytes: crossing.bytes,
        packets: crossing.packets,
        connections: crossing.connections,
        slots: crossing.slots.encode(),
        spans: encode_spans(&crossing.spans),
    }
}

fn coverage(key: &GapKey, slots: Slots) -> v1::TrailCoverage {
    v1::TrailCoverage {
        tenant: key.tenant.to_string(),
        reason: key.reason.to_string(),
        node: key.node.to_string(),
        slots: slots.encode(),
    }
}

/// An hour as records of the chain: several where it is large.
pub(super) fn records(cluster: &str, number: u64, hour: &Hour) -> Vec<v1::TrailHour> {
    let empty = v1::TrailHour {
        cluster: cluster.to_owned(),
        hour_unix_s: number * HOUR_SLOTS * SLOT_NS / 1_000_000_000,
        ..v1::TrailHour::default()
    };
    let (mut out, mut bytes) = (vec![empty.clone()], 0);
    let mut next = |more: usize, out: &mut Vec<v1::TrailHour>| {
        bytes += more;
        if bytes > PART_BYTES {
            bytes = more;
            out.push(empty.clone());
        }
    };
    for (key, slots) in &hour.gaps {
        let row = coverage(key, *slots);
        next(row.encoded_len() + 4, &mut out);
        if let Some(part) = out.last_mut() {
            part.coverage.push(row);
        }
    }
    for (key, sum) in &hour.crossings {
        let row = crossing(key, sum);
        next(row.encoded_len() + 4, &mut out);
        if let Some(part) = out.last_mut() {
            part.crossings.push(row);
        }
    }
    out
}

/// The number of a record's hour.
pub(super) fn number(hour: &v1::TrailHour) -> u64 {
    hour.hour_unix_s / (HOUR_SLOTS * SLOT_NS / 1_000_000_000)
}

/// With the crossings of the pairs that `keep` wants. `None`: it makes no sense.
pub(super) fn hour(record: &v1::TrailHour, keep: impl Fn(&str, &str) -> bool) -> Option<Hour> {
    let mut out = Hour::default();
    for c in record.crossings.iter().filter(|c| keep(&c.from, &c.to)) {
        let key = CrossingKey {
            from: Arc::from(c.from.as_str()),
            to: Arc::from(c.to.as_str()),
            verdict: verdict(c.verdict())?,
            delivered: c.delivered,
        };
        let crossing = Crossing {
            bytes: c.bytes,
            packets: c.packets,
            connections: c.connections,
            slots: Slots::decode(&c.slots)?,
            spans: BTreeSet::from_iter(decode_spans(&c.spans)?),
        };
        out.crossings.entry(key).or_default().add(&crossing);
    }
    for gap in &record.coverage {
        let key = GapKey {
            tenant: Arc::from(gap.tenant.as_str()),
            reason: Arc::from(gap.reason.as_str()),
            node: Arc::from(gap.node.as_str()),
        };
        let slots = out.gaps.entry(key).or_default();
        *slots = slots.or(Slots::decode(&gap.slots)?);
    }
    Some(out)
}

fn verdict(verdict: v1::Verdict) -> Option<Verdict> {
    Some(match verdict {
        v1::Verdict::Allowed => Verdict::Allowed,
        v1::Verdict::Open => Verdict::Open,
        v1::Verdict::Leaked => Verdict::Leaked,
        v1::Verdict::Blocked => Verdict::Blocked,
        v1::Verdict::Unknown => Verdict::Unknown,
        v1::Verdict::Within => Verdict::Within,
        v1::Verdict::Unspecified => return None,
    })
}
