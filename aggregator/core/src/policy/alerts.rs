//! How each kind of breach is told to whoever is on call: under which name, how urgent, and whether at all.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::parse::{PolicyError, at, quote};
use crate::breach::BreachKind;

/// Alertmanager's usual three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// To be looked at, by nobody at once.
    Info,
    /// To be looked at in working hours.
    Warning,
    /// A boundary that is relied upon does not hold.
    Critical,
}

impl Severity {
    const ALL: [Self; 3] = [Self::Info, Self::Warning, Self::Critical];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// What the policy says of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alert {
    pub severity: Severity,
    /// Whether Alertmanager and webhooks are told of it.
    pub push: bool,
}

/// A kind of breach as an alert.
#[derive(Debug)]
pub struct Row {
    pub kind: BreachKind,
    /// In the policy file.
    pub key: &'static str,
    /// `alertname`. None is kube-prometheus' own: a route for those must not take ours.
    pub name: &'static str,
    pub severity: Severity,
    /// Why it is as urgent as that.
    pub reason: &'static str,
}

macro_rules! row {
    ($kind:ident, $key:literal, $name:literal, $severity:ident, $reason:literal) => {
        Row {
            kind: BreachKind::$kind,
            key: $key,
            name: $name,
            severity: Severity::$severity,
            reason: $reason,
        }
    };
}

/// One row for each kind, in the order of [`BreachKind::ALL`].
pub const ALERTS: [Row; 12] = [
    row!(
        NoisyNeighbour,
        "noisy_neighbour",
        "TenantNoisyNeighbour",
        Warning,
        "A named tenant slows another one now."
    ),
    row!(
        NodeOvercommitted,
        "node_overcommitted",
        "TenantNodeOvercommitted",
        Warning,
        "Nobody's fault, and a pod does not get what it was promised."
    ),
    row!(
        SystemNoise,
        "system_noise",
        "TenantSystemNoise",
        Info,
        "The node's own work: mostly over before anybody looks."
    ),
    row!(
        QuotaNear,
        "quota_near",
        "TenantQuotaUsageHigh",
        Info,
        "Nothing is broken yet."
    ),
    row!(
        QuotaExceeded,
        "quota_exceeded",
        "TenantQuotaUsageExceeded",
        Warning,
        "A tenant uses more than was agreed."
    ),
    row!(
        MemorySqueeze,
        "memory_squeeze",
        "TenantMemorySqueeze",
        Warning,
        "What comes next is an OOM kill."
    ),
    row!(
        CrossTenantOom,
        "cross_tenant_oom",
        "TenantKilledForMemory",
        Warning,
        "It has happened; the pod starts anew by itself."
    ),
    row!(
        LimitRangeExceeded,
        "limit_range_exceeded",
        "TenantLimitRangeExceeded",
        Info,
        "A pod that is older than the rule: it lasts until the pod is replaced."
    ),
    row!(
        FlatNetwork,
        "flat_network",
        "TenantFlatNetwork",
        Info,
        "No boundary was drawn. Where none is meant to be, `push: false`."
    ),
    row!(
        FenceLeak,
        "fence_leak",
        "TenantFenceLeak",
        Critical,
        "A boundary was drawn, and nobody enforces it."
    ),
    row!(
        Probe,
        "probe",
        "TenantProbe",
        Warning,
        "Somebody looks for open doors, and found none yet."
    ),
    row!(
        CredentialReach,
        "credential_reach",
        "TenantCredentialReach",
        Critical,
        "A pod holds its node's credentials."
    ),
];

/// The row of a kind.
pub fn row(kind: BreachKind) -> &'static Row {
    // There is one: a test counts them. Were there none, the first is better than a panic.
    ALERTS.iter().find(|row| row.kind == kind).unwrap_or(&ALERTS[0])
}

/// What the policy says of each kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alerts(BTreeMap<BreachKind, Alert>);

impl Default for Alerts {
    fn default() -> Self {
        let alert = |row: &Row| Alert {
            severity: row.severity,
            push: true,
        };
        Self(ALERTS.iter().map(|row| (row.kind, alert(row))).collect())
    }
}

impl Alerts {
    pub fn of(&self, kind: BreachKind) -> Alert {
        self.0.get(&kind).copied().unwrap_or(Alert {
            severity: row(kind).severity,
            push: true,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAlert {
    severity: Option<Spanned<String>>,
    push: Option<bool>,
}

pub(super) fn parse(
    raw: BTreeMap<String, Spanned<RawAlert>>,
    alerts: &mut Alerts,
) -> Result<(), PolicyError> {
    for (key, entry) in raw {
        let path = format!("alerts.{}", quote(&key));
        let Some(row) = ALERTS.iter().find(|row| row.key == key) else {
            let known: Vec<_> = ALERTS.iter().map(|row| row.key).collect();
            let message = format!("unknown kind of breach; known are: {}", known.join(", "));
            return Err(at(&entry.referenced, &path, message));
        };
        let mut alert = alerts.of(row.kind);
        if let Some(severity) = entry.value.severity {
            let found = Severity::ALL.into_iter().find(|s| s.as_str() == severity.value);
            alert.severity = found.ok_or_else(|| {
                let message = format!("{:?} is none of info, warning, critical", quote(&severity.value));
                at(&severity.referenced, &format!("{path}.severity"), message)
            })?;
        }
        alert.push = entry.value.push.unwrap_or(alert.push);
        alerts.0.insert(row.kind, alert);
    }
    Ok(())
}

/// The section of the documented default file.
pub(super) fn yaml() -> String {
    let mut out = String::from(
        "# How each kind of breach is told to Alertmanagers and webhooks (docs/alerts.md): how urgent (info, warning or critical), and\n\
         # whether at all. A breach that fires keeps the severity that it began with.\nalerts:\n",
    );
    for row in &ALERTS {
        let severity = row.severity.as_str();
        out += &format!("  # {}. {}\n", row.name, row.reason);
        out += &format!("  {}: {{severity: {severity}, push: true}}\n", row.key);
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;

    #[test]
    fn every_kind_has_one_row_and_a_name_of_its_own() {
        assert_eq!(ALERTS.each_ref().map(|row| row.kind), BreachKind::ALL);
        let names: std::collections::BTreeSet<_> = ALERTS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), ALERTS.len());
        // kube-prometheus' begin with what they are about: Kube, Node, Prometheus, Alertmanager, CPU, Target.
        assert!(names.iter().all(|name| name.starts_with("Tenant")));
    }

    #[test]
    fn the_shipped_rules_have_the_same_names_and_severities() {
        let rules = include_str!("../../../../deploy/prometheus/partywall-breaches.rules.yaml");
        let parts: Vec<_> = rules.split("- alert: ").skip(1).collect();
        assert_eq!(parts.len(), ALERTS.len());
        for (part, row) in parts.iter().zip(&ALERTS) {
            assert_eq!(part.lines().next(), Some(row.name));
            for needle in [
                format!("kind=\"{}\"", row.kind),
                format!("severity: {}\n", row.severity.as_str()),
                format!("docs/runbook.md#{}\n", row.name.to_ascii_lowercase()),
            ] {
                assert!(part.contains(&needle), "{}: no {needle}", row.name);
            }
        }
    }

    #[test]
    fn a_kind_may_be_more_urgent_or_kept_back() {
        let policy =
            Policy::from_yaml("alerts:\n  probe: {severity: critical}\n  flat_network: {push: false}\n")
                .unwrap();
        let told = |kind| policy.alerts.of(kind);
        assert_eq!(
            told(BreachKind::Probe),
            Alert {
                severity: Severity::Critical,
                push: true
            }
        );
        assert_eq!(
            told(BreachKind::FlatNetwork),
            Alert {
                severity: Severity::Info,
                push: false
            }
        );
        assert_eq!(told(BreachKind::FenceLeak).severity, Severity::Critical);
    }

    #[test]
    fn errors_name_line_key_and_value() {
        for (text, line, needles) in [
            (
                "alerts:\n  noisy: {push: true}\n",
                2,
                &["alerts.noisy", "noisy_neighbour"][..],
            ),
            (
                "alerts:\n  probe:\n    severity: page\n",
                3,
                &["alerts.probe.severity", "\"page\"", "critical"],
            ),
            ("alerts:\n  probe: {push: often}\n", 2, &["often"]),
            ("alerts:\n  probe: {pusch: true}\n", 2, &["pusch"]),
        ] {
            let error = Policy::from_yaml(text).expect_err(text);
            assert_eq!(error.line, line, "{error}");
            for needle in needles {
                assert!(error.to_string().contains(needle), "{error} lacks {needle}");
            }
        }
    }
}
