//! An explanation of a breach, in the form that is printed as JSON. Names are made safe to print here, once.

use partywall_proto::v1;
use serde::Serialize;

use crate::model::{Breach, seconds};
use crate::text::{clean, utc};

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Evidence {
    pub breach: Breach,
    /// Oldest first.
    pub timeline: Vec<Moment>,
    /// Who ran while the victim waited, most first. Sums to the wait.
    pub ledger: Vec<Slice>,
    pub parties: Vec<Party>,
    pub rules: Vec<Rule>,
    /// Any one of them would do. Nothing applies them.
    pub remedies: Vec<Remedy>,
    pub doubts: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Moment {
    pub at: String,
    pub at_unix_seconds: f64,
    pub what: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Slice {
    /// A tenant, or a class in angle brackets.
    pub runner: String,
    pub cores: f64,
    pub share: f64,
}

/// Absent: not known, or there is none.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Party {
    pub role: String,
    pub tenant: String,
    pub pod: String,
    pub node: String,
    pub used_cores: Option<f64>,
    pub entitled_cores: Option<f64>,
    pub limit_cores: Option<f64>,
    pub quota_cores: Option<f64>,
    pub memory_bytes: Option<u64>,
    pub entitled_memory_bytes: Option<u64>,
    pub limit_memory_bytes: Option<u64>,
    pub quota_memory_bytes: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Rule {
    pub rule: String,
    pub asks: String,
    pub found: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Remedy {
    pub kind: String,
    pub by: String,
    pub what: String,
    pub why: String,
    pub yaml: String,
}

impl From<v1::BreachExplanation> for Evidence {
    fn from(wire: v1::BreachExplanation) -> Self {
        Self {
            breach: wire.breach.unwrap_or_default().into(),
            timeline: wire.timeline.into_iter().map(Moment::from).collect(),
            ledger: wire
                .ledger
                .into_iter()
                .map(|of| Slice {
                    runner: clean(&of.runner),
                    cores: of.cores,
                    share: of.share,
                })
                .collect(),
            parties: wire.parties.into_iter().map(Party::from).collect(),
            rules: wire
                .rules
                .into_iter()
                .map(|of| Rule {
                    rule: clean(&of.rule),
                    asks: clean(&of.asks),
                    found: clean(&of.found),
                })
                .collect(),
            remedies: wire.remedies.into_iter().map(Remedy::from).collect(),
            doubts: wire.doubts.iter().map(|doubt| clean(doubt)).collect(),
        }
    }
}

impl From<v1::Moment> for Moment {
    fn from(wire: v1::Moment) -> Self {
        let at_unix_seconds = seconds(wire.at_unix_ns);
        Self {
            at: utc(at_unix_seconds),
            at_unix_seconds,
            what: clean(&wire.what),
        }
    }
}

impl From<v1::PartyFacts> for Party {
    fn from(wire: v1::PartyFacts) -> Self {
        Self {
            role: clean(&wire.role),
            tenant: clean(&wire.tenant),
            pod: clean(&wire.pod),
            node: clean(&wire.node),
            used_cores: wire.used_cores,
            entitled_cores: wire.entitled_cores,
            limit_cores: wire.limit_cores,
            quota_cores: wire.quota_cores,
            memory_bytes: wire.memory_bytes,
            entitled_memory_bytes: wire.entitled_memory_bytes,
            limit_memory_bytes: wire.limit_memory_bytes,
            quota_memory_bytes: wire.quota_memory_bytes,
        }
    }
}

impl From<v1::Remedy> for Remedy {
    fn from(wire: v1::Remedy) -> Self {
        // Lines stay lines.
        let mut yaml: Vec<String> = wire.yaml.lines().map(clean).collect();
        if !yaml.is_empty() {
            yaml.push(String::new());
        }
        Self {
            kind: clean(&wire.kind),
            by: clean(&wire.by),
            what: clean(&wire.what),
            why: clean(&wire.why),
            yaml: yaml.join("\n"),
        }
    }
}
