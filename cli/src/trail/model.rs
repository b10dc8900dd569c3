//! What the trail answered, in the form that is printed as JSON. Names are made safe to print here, once.

use partywall_proto::v1;
use serde::Serialize;

use crate::flows::verdict;
use crate::model::{Breach, seconds};
use crate::text::{clean, utc};

/// One time that a breach fired.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Entry {
    pub breach: Breach,
    /// Positions in the chain; absent: none (yet).
    pub fired_sequence: Option<u64>,
    pub resolved_sequence: Option<u64>,
    /// Why its end is not known; empty: it is resolved, or fires still.
    pub end_unknown: String,
    /// For `--before`.
    pub cursor: String,
}

/// What fired, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Past {
    pub entries: Vec<Entry>,
    /// There are older ones, which were not asked for.
    pub is_cut: bool,
}

impl From<v1::HistoryEntry> for Entry {
    fn from(wire: v1::HistoryEntry) -> Self {
        let sequence = |n: u64| Some(n).filter(|n| *n > 0);
        Self {
            breach: wire.breach.unwrap_or_default().into(),
            fired_sequence: sequence(wire.fired_sequence),
            resolved_sequence: sequence(wire.resolved_sequence),
            end_unknown: clean(&wire.end_unknown),
            cursor: clean(&wire.cursor),
        }
    }
}

/// Whether one tenant reached another.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Audit {
    /// Of all pairs together.
    pub answer: Reached,
    pub from: String,
    pub to: String,
    pub from_unix_seconds: f64,
    pub to_unix_seconds: f64,
    /// How finely the trail knows when something crossed.
    pub slot_seconds: f64,
    pub pairs: Vec<Pair>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reached {
    Yes,
    No,
    #[default]
    Unknown,
}

impl Reached {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Unknown => "unknown",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Pair {
    pub cluster: String,
    /// Who opened. Empty with an empty `to`: all pairs that are not listed.
    pub from: String,
    pub to: String,
    pub reached: Reached,
    pub summary: String,
    pub crossings: Vec<Crossing>,
    /// The share of the time in which whatever crossed would have been seen.
    pub covered: f64,
    pub gaps: Vec<Gap>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Crossing {
    pub verdict: String,
    pub delivered: bool,
    pub bytes: u64,
    pub packets: u64,
    pub connections: u64,
    pub first: String,
    pub last: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Gap {
    pub from: String,
    pub to: String,
    pub from_unix_seconds: f64,
    pub to_unix_seconds: f64,
    pub reason: String,
    /// Where it is one node's.
    pub node: String,
}

impl From<v1::AuditAnswer> for Audit {
    fn from(wire: v1::AuditAnswer) -> Self {
        let pairs: Vec<Pair> = wire.pairs.into_iter().map(Pair::from).collect();
        let any = |reached| pairs.iter().any(|pair| pair.reached == reached);
        let (from, to) = (seconds(wire.from_unix_ns), seconds(wire.to_unix_ns));
        Self {
            answer: match (any(Reached::Yes), any(Reached::Unknown)) {
                (true, _) => Reached::Yes,
                (false, true) => Reached::Unknown,
                (false, false) => Reached::No,
            },
            from: utc(from),
            to: utc(to),
            from_unix_seconds: from,
            to_unix_seconds: to,
            slot_seconds: seconds(wire.slot_ns),
            pairs,
        }
    }
}

impl From<v1::PairAnswer> for Pair {
    fn from(wire: v1::PairAnswer) -> Self {
        Self {
            cluster: clean(&wire.cluster),
            from: clean(&wire.from),
            to: clean(&wire.to),
            reached: match v1::Reached::try_from(wire.reached) {
                Ok(v1::Reached::Yes) => Reached::Yes,
                Ok(v1::Reached::No) => Reached::No,
                Ok(v1::Reached::Unknown | v1::Reached::Unspecified) | Err(_) => Reached::Unknown,
            },
            summary: clean(&wire.summary),
            crossings: wire.crossings.into_iter().map(Crossing::from).collect(),
            covered: wire.covered,
            gaps: wire.gaps.into_iter().map(Gap::from).collect(),
        }
    }
}

impl From<v1::Crossing> for Crossing {
    fn from(wire: v1::Crossing) -> Self {
        Self {
            verdict: verdict(wire.verdict),
            delivered: wire.delivered,
            bytes: wire.bytes,
            packets: wire.packets,
            connections: wire.connections,
            first: utc(seconds(wire.first_unix_ns)),
            last: utc(seconds(wire.last_unix_ns)),
        }
    }
}

impl From<v1::Gap> for Gap {
    fn from(wire: v1::Gap) -> Self {
        let (from, to) = (seconds(wire.from_unix_ns), seconds(wire.to_unix_ns));
        Self {
            from: utc(from),
            to: utc(to),
            from_unix_seconds: from,
            to_unix_seconds: to,
            reason: clean(&wire.reason),
            node: clean(&wire.node),
        }
    }
}
