//! The whole evidence of one breach, as a person would tell it: what happened when, who ran meanwhile, what those concerned were promised, by which
//! rules it is a breach, what would have to change, and what is not known.
//!
//! Everything here is read, nothing is judged anew: figures are those of the breach, thresholds and objects those that are in force now. What is
//! proposed is never applied.
//!
//! | module | says |
//! |---|---|
//! | `cx` | what an explanation may look at |
//! | `timeline` | what happened when |
//! | `parties` | use and promises of those concerned |
//! | `rules`, `fence` | thresholds and objects that made it a breach |
//! | `remedies` | what would have to change |
//! | `doubts` | what is not known |

mod cx;
mod doubts;
mod fence;
mod parties;
mod remedies;
mod rules;
mod timeline;

use std::sync::Arc;

use crate::breach::{Breach, Story};
use crate::finding::Detail;
pub(crate) use cx::Cx;

/// Everything known of one breach.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    pub breach: Breach,
    /// Oldest first.
    pub timeline: Vec<Moment>,
    /// Who ran while the victim waited, most first; of breaches about CPU. Sums to the wait.
    pub ledger: Vec<LedgerSlice>,
    pub parties: Vec<PartyFacts>,
    pub rules: Vec<RuleFact>,
    /// Any one of them would do.
    pub remedies: Vec<Remedy>,
    pub doubts: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    pub at_unix_ns: u64,
    pub what: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LedgerSlice {
    /// A tenant, or a class in angle brackets.
    pub runner: Arc<str>,
    pub cores: f64,
    /// Of the victim's wait.
    pub share: f64,
}

/// What somebody was promised, and what he uses. Absent: not known, or none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PartyFacts {
    /// `culprit`, `victim` or `neighbour`.
    pub role: &'static str,
    pub tenant: Arc<str>,
    /// "namespace/name"; empty: the tenant as a whole.
    pub pod: Arc<str>,
    /// Empty: over all nodes.
    pub node: Arc<str>,
    pub used_cores: Option<f64>,
    pub entitled_cores: Option<f64>,
    pub limit_cores: Option<f64>,
    pub memory_bytes: Option<u64>,
    pub entitled_memory_bytes: Option<u64>,
    pub limit_memory_bytes: Option<u64>,
    pub quota_cores: Option<f64>,
    pub quota_memory_bytes: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleFact {
    /// The threshold's name in the policy file, or an object: "NetworkPolicy blue/deny-all".
    pub rule: String,
    pub asks: String,
    pub found: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remedy {
    /// `request`, `limit`, `quota`, `replicas`, `network_policy`, `allowance` or `placement`.
    pub kind: &'static str,
    /// Who would have to do it: a tenant, or `platform`.
    pub by: Arc<str>,
    pub what: String,
    pub why: String,
    /// The object to apply, or the part of it to change; empty where no object does it. Nothing applies it.
    pub yaml: String,
}

/// Who does what no tenant may.
const PLATFORM: &str = "platform";

pub(crate) fn explain(cx: &Cx<'_>) -> Explanation {
    Explanation {
        breach: cx.story.breach.clone(),
        timeline: timeline::timeline(cx),
        ledger: ledger(&cx.story),
        parties: parties::parties(cx),
        rules: rules::rules(cx),
        remedies: remedies::remedies(cx),
        doubts: doubts::doubts(cx),
    }
}

fn ledger(story: &Story) -> Vec<LedgerSlice> {
    let Detail::Waited(parts) = &story.detail else {
        return Vec::new();
    };
    let wait: f64 = parts.iter().map(|part| part.cores).sum();
    let slice = |part: &crate::finding::Waited| LedgerSlice {
        runner: Arc::clone(&part.runner),
        cores: part.cores,
        share: if wait > 0.0 { part.cores / wait } else { 0.0 },
    };
    parts.iter().map(slice).collect()
}
