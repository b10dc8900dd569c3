//! An explanation, as clients get it; and what the trail has of a breach, as the core takes it.

use partywall_aggregator_core::breach::{Breach, BreachKey, BreachKind, BreachState, Story};
use partywall_aggregator_core::explain::{Explanation, LedgerSlice, Moment, PartyFacts, Remedy, RuleFact};
use partywall_aggregator_core::finding::{Culprit, Detail, Figure, figure_named};
use partywall_proto::v1;

use super::view;

pub fn breach_explanation(told: Explanation) -> v1::BreachExplanation {
    v1::BreachExplanation {
        breach: Some(view::breach(told.breach)),
        timeline: told.timeline.into_iter().map(moment).collect(),
        ledger: told.ledger.iter().map(slice).collect(),
        parties: told.parties.iter().map(party).collect(),
        rules: told.rules.into_iter().map(rule).collect(),
        remedies: told.remedies.into_iter().map(remedy).collect(),
        doubts: told.doubts,
    }
}

fn moment(of: Moment) -> v1::Moment {
    v1::Moment {
        at_unix_ns: of.at_unix_ns,
        what: of.what,
    }
}

fn slice(of: &LedgerSlice) -> v1::LedgerSlice {
    v1::LedgerSlice {
        runner: of.runner.to_string(),
        cores: of.cores,
        share: of.share,
    }
}

fn party(of: &PartyFacts) -> v1::PartyFacts {
    v1::PartyFacts {
        role: of.role.to_owned(),
        tenant: of.tenant.to_string(),
        pod: of.pod.to_string(),
        node: of.node.to_string(),
        used_cores: of.used_cores,
        entitled_cores: of.entitled_cores,
        limit_cores: of.limit_cores,
        memory_bytes: of.memory_bytes,
        entitled_memory_bytes: of.entitled_memory_bytes,
        limit_memory_bytes: of.limit_memory_bytes,
        quota_cores: of.quota_cores,
        quota_memory_bytes: of.quota_memory_bytes,
    }
}

fn rule(of: RuleFact) -> v1::RuleFact {
    v1::RuleFact {
        rule: of.rule,
        asks: of.asks,
        found: of.found,
    }
}

fn remedy(of: Remedy) -> v1::Remedy {
    v1::Remedy {
        kind: of.kind.to_owned(),
        by: of.by.to_string(),
        what: of.what,
        why: of.why,
        yaml: of.yaml,
    }
}

/// A breach as the trail has it. `before`: earlier times that it fired. `None`: of a kind that this version does not know.
pub fn story(breach: v1::Breach, before: Vec<(u64, u64)>) -> Option<Story> {
    let kind = BreachKind::ALL
        .into_iter()
        .find(|kind| i32::from(view::breach_kind(*kind)) == breach.kind)?;
    let state = match v1::BreachState::try_from(breach.state).ok()? {
        v1::BreachState::Pending => BreachState::Pending,
        v1::BreachState::Firing => BreachState::Firing,
        v1::BreachState::Resolved => BreachState::Resolved,
        v1::BreachState::Unspecified => return None,
    };
    let figure = |f: v1::Figure| {
        Some(Figure {
            // One of a version that measured something else says nothing to this one.
            name: figure_named(&f.name)?,
            value: f.value,
        })
    };
    let culprit = |c: v1::Culprit| Culprit {
        tenant: c.tenant.into(),
        pod: c.pod.into(),
        stolen_cores: c.stolen_cores,
        share: c.share,
        over_request_bytes: c.over_request_bytes,
        growth_bytes_per_second: c.growth_bytes_per_second,
    };
    Some(Story {
        detail: Detail::None,
        worst: None,
        held_unix_ns: 0,
        before,
        breach: Breach {
            fingerprint: breach.fingerprint,
            cluster: breach.cluster.into(),
            key: BreachKey {
                kind,
                tenant: breach.tenant.into(),
                against: breach.against.into(),
                node: breach.node.into(),
                subject: breach.subject.into(),
            },
            state,
            summary: breach.summary,
            since_unix_ns: breach.since_unix_ns,
            firing_unix_ns: breach.firing_unix_ns,
            resolved_unix_ns: breach.resolved_unix_ns,
            evidence: breach.evidence.into_iter().filter_map(figure).collect(),
            culprits: breach.culprits.into_iter().map(culprit).collect(),
            covered: breach.covered,
            confidence: breach.confidence,
        },
    })
}
