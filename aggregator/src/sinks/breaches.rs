//! Live breaches as series, by kind and tenants.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use partywall_aggregator_core::breach::{Breach, BreachKind};
use partywall_aggregator_core::policy::alerts::Severity;

use super::fold::OTHER;
use super::out::Out;

/// Series of a cluster.
const MAX_BREACH_SERIES: usize = 2_000;

/// Kind, state, tenant, against.
type BreachRow<'a> = (&'static str, &'static str, &'a str, &'a str);

/// The most urgent have names first, of these what fires, of these the oldest: what comes later takes no name from them.
fn breach_rows(
    breaches: &[Breach],
    severity: impl Fn(BreachKind) -> Severity,
) -> BTreeMap<BreachRow<'_>, u64> {
    let urgent = BreachKind::ALL.map(|kind| (kind, severity(kind)));
    let urgent = BTreeMap::from(urgent);
    let mut breaches: Vec<&Breach> = breaches.iter().collect();
    breaches.sort_by_key(|b| {
        (
            Reverse(urgent.get(&b.key.kind)),
            Reverse(b.state),
            b.since_unix_ns,
        )
    });
    let mut rows: BTreeMap<BreachRow<'_>, u64> = BTreeMap::new();
    for breach in breaches {
        let (kind, state) = (breach.key.kind.as_str(), breach.state.as_str());
        let row = (kind, state, &*breach.key.tenant, &*breach.key.against);
        let row = if rows.len() < MAX_BREACH_SERIES || rows.contains_key(&row) {
            row
        } else {
            (kind, state, OTHER, OTHER)
        };
        *rows.entry(row).or_default() += 1;
    }
    rows
}

pub(super) fn write(out: &mut Out<'_>, breaches: &[Breach], severity: impl Fn(BreachKind) -> Severity) {
    let rows = breach_rows(breaches, severity);
    out.gauges(
        "breaches",
        "Breaches that are pending or firing, by kind, by who broke the rule, and against whom",
        rows.iter().map(|((kind, state, tenant, against), n)| {
            (
                [
                    ("kind", *kind),
                    ("tenant", *tenant),
                    ("against", *against),
                    ("state", *state),
                ],
                *n,
            )
        }),
    );
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use partywall_aggregator_core::breach::{BreachKey, BreachState};

    use super::*;

    fn breach(kind: BreachKind, state: BreachState, n: u64, since_unix_ns: u64) -> Breach {
        Breach {
            fingerprint: String::new(),
            cluster: Arc::from("default"),
            key: BreachKey {
                kind,
                tenant: format!("t{n}").into(),
                against: Arc::from("blue"),
                node: Arc::from(""),
                subject: Arc::from(""),
            },
            state,
            summary: String::new(),
            since_unix_ns,
            firing_unix_ns: 0,
            resolved_unix_ns: 0,
            evidence: Vec::new(),
            culprits: Vec::new(),
            covered: 1.0,
            confidence: None,
        }
    }

    #[test]
    fn the_most_urgent_breaches_have_names_and_keep_them() {
        let room = MAX_BREACH_SERIES as u64;
        let mut breaches: Vec<Breach> = (0..room)
            .map(|n| breach(BreachKind::NoisyNeighbour, BreachState::Firing, n, 10 + n))
            .collect();
        breaches.push(breach(BreachKind::NoisyNeighbour, BreachState::Pending, room, 1));
        breaches.push(breach(BreachKind::FenceLeak, BreachState::Firing, 0, 9_999));
        let severity = |kind| match kind {
            BreachKind::FenceLeak => Severity::Critical,
            _ => Severity::Warning,
        };
        let rows = breach_rows(&breaches, severity);
        let names = |kind, state: &str, n: u64| rows.contains_key(&(kind, state, &*format!("t{n}"), "blue"));
        assert!(names("FenceLeak", "firing", 0), "the most urgent");
        assert!(names("NoisyNeighbour", "firing", 0), "the oldest");
        assert!(!names("NoisyNeighbour", "firing", room - 1), "the youngest");
        assert!(!names("NoisyNeighbour", "pending", room), "what does not fire");
        let other = |state| rows.get(&("NoisyNeighbour", state, OTHER, OTHER)).copied();
        assert_eq!((other("firing"), other("pending")), (Some(1), Some(1)));
    }
}
