//! A breach as an alert: its labels, and the evidence in words.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use k8s_openapi::jiff::Timestamp;
use partywall_aggregator_core::breach::BreachKind;
use partywall_aggregator_core::finding::{bytes, cores};
use partywall_aggregator_core::policy::alerts::{self, Row, Severity};
use partywall_proto::v1::{Breach, BreachState, Culprit, Figure};

use crate::wire;

/// Culprits that a description names. The webhook's body has them all.
const CULPRITS_TOLD: usize = 5;

#[derive(Clone, Debug)]
pub struct Alert {
    pub breach: Breach,
    pub row: &'static Row,
    /// As the policy had it when the breach began to fire: it is a label, and a label that changes is another alert.
    pub severity: Severity,
}

/// Where an alert leads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// Of this aggregator's page, without a slash at the end.
    pub external: Option<String>,
    /// Of docs/runbook.md.
    pub runbook: Option<String>,
}

/// In the project's own repository, where no `--runbook-url` says more.
const RUNBOOK: &str = "docs/runbook.md";

impl Alert {
    /// `None`: of a kind that this build does not know.
    pub fn new(breach: Breach, severity: Severity) -> Option<Self> {
        let kind = wire::known_kind(breach.kind())?;
        Some(Self {
            breach,
            row: alerts::row(kind),
            severity,
        })
    }

    /// The same alert, of the breach as it is by now.
    pub fn with(&self, breach: Breach) -> Self {
        Self { breach, ..*self }
    }

    pub fn is_firing(&self) -> bool {
        self.breach.state() == BreachState::Firing
    }

    /// A breach that was resolved and fires anew is another one.
    pub fn is_same_life(&self, other: &Self) -> bool {
        self.breach.fingerprint == other.breach.fingerprint
            && self.breach.firing_unix_ns == other.breach.firing_unix_ns
    }

    /// What makes it the same alert: nothing in it changes while the breach lives.
    pub fn labels(&self) -> BTreeMap<&'static str, &str> {
        let b = &self.breach;
        let mut labels = BTreeMap::from([
            ("alertname", self.row.name),
            ("severity", self.severity.as_str()),
            ("cluster", &b.cluster),
            ("tenant", &b.tenant),
            ("against", &b.against),
            ("node", &b.node),
        ]);
        labels.extend(self.subject());
        // Alertmanager takes an empty label for none.
        labels.retain(|_, value| !value.is_empty());
        labels
    }

    /// The subject, by its parts.
    pub fn subject(&self) -> Vec<(&'static str, &str)> {
        let subject = self.breach.subject.as_str();
        if matches!(self.row.kind, BreachKind::QuotaNear | BreachKind::QuotaExceeded) {
            return vec![("resource", subject)];
        }
        let parts: Vec<&str> = subject.split('/').collect();
        match parts.as_slice() {
            // Of hosts without Kubernetes: a path.
            parts if parts.iter().any(|part| part.is_empty()) => vec![("subject", subject)],
            [namespace, pod] => vec![("namespace", *namespace), ("pod", *pod)],
            [namespace, pod, container, resource] => vec![
                ("namespace", *namespace),
                ("pod", *pod),
                ("container", *container),
                ("resource", *resource),
            ],
            _ => vec![("subject", subject)],
        }
    }

    /// What was found, in words: figures, who did it, how much was seen, how sure it is.
    pub fn description(&self) -> String {
        let b = &self.breach;
        let mut text = sentence(&b.summary);
        if !b.evidence.is_empty() {
            let figures: Vec<_> = b.evidence.iter().map(figure).collect();
            let _ = write!(text, "\nEvidence: {}.", figures.join(", "));
        }
        if !b.culprits.is_empty() {
            let told: Vec<_> = b.culprits.iter().take(CULPRITS_TOLD).map(culprit).collect();
            let more = match b.culprits.len().saturating_sub(CULPRITS_TOLD) {
                0 => String::new(),
                n => format!("; and {n} more"),
            };
            let _ = write!(text, "\nMost: {}{more}.", told.join("; "));
        }
        let sure = match b.confidence {
            None => "measured, not inferred".to_owned(),
            Some(confidence) => format!(
                "the tenant is the cause with a confidence of {}: that is inferred",
                percent(confidence)
            ),
        };
        let _ = write!(text, "\nSeen: {} of the window; {sure}.", percent(b.covered));
        text
    }

    /// What shows more of it.
    pub fn command(&self) -> String {
        format!(
            "partywall explain {} --cluster {}",
            self.breach.fingerprint, self.breach.cluster
        )
    }

    pub fn runbook_url(&self, links: &Links) -> String {
        let base = links.runbook.as_deref().unwrap_or(RUNBOOK);
        // As renderers of Markdown name a heading.
        format!("{base}#{}", self.row.name.to_ascii_lowercase())
    }
}

/// RFC 3339, UTC. Empty: no such moment.
pub fn moment(unix_ns: u64) -> String {
    match (unix_ns, Timestamp::from_nanosecond(i128::from(unix_ns))) {
        (1.., Ok(moment)) => moment.to_string(),
        _ => String::new(),
    }
}

fn sentence(text: &str) -> String {
    format!("{}.", text.trim_end_matches('.'))
}

/// "stolen 0.44 cores": a figure's name carries its unit.
fn figure(figure: &Figure) -> String {
    let (name, value) = (figure.name.as_str(), figure.value);
    let words = |name: &str| name.replace('_', " ");
    let counted = |value: f64| {
        if value.fract() == 0.0 {
            format!("{value:.0}")
        } else {
            format!("{value:.2}")
        }
    };
    if let Some(what) = name.strip_suffix("_cores") {
        return format!("{} {} cores", words(what), cores(value));
    }
    if let Some(what) = name.strip_suffix("_bytes_per_second") {
        let sign = if value < 0.0 { "-" } else { "" };
        return format!("{} {sign}{} per second", words(what), bytes(value.abs()));
    }
    if let Some(what) = name.strip_suffix("_bytes") {
        return format!("{} {}", words(what), bytes(value));
    }
    if let Some(what) = name.strip_suffix("_seconds") {
        return format!("{} {} s", words(what), counted(value));
    }
    if name.ends_with("_share") || name.ends_with("_ratio") {
        return format!("{} {}", words(name), percent(value));
    }
    format!("{} {}", words(name), counted(value))
}

/// "red/batch of tenant red took 0.44 cores (98 %)"
fn culprit(culprit: &Culprit) -> String {
    let mut text = format!("{} of tenant {}", culprit.pod, culprit.tenant);
    if let Some(over) = culprit.over_request_bytes {
        let _ = write!(text, " is {} above its request", bytes(over as f64));
        if let Some(growth) = culprit.growth_bytes_per_second.filter(|growth| *growth > 0.0) {
            let _ = write!(text, " and grows by {} per second", bytes(growth));
        }
    } else if culprit.stolen_cores > 0.0 {
        let _ = write!(text, " took {} cores", cores(culprit.stolen_cores));
    }
    if culprit.share > 0.0 {
        let _ = write!(text, " ({})", percent(culprit.share));
    }
    text
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use partywall_proto::v1;

    fn alert(kind: v1::BreachKind, subject: &str) -> Alert {
        let breach = Breach {
            fingerprint: "00c0ffee00c0ffee".to_owned(),
            cluster: "prod".to_owned(),
            kind: kind.into(),
            tenant: "red".to_owned(),
            against: "blue".to_owned(),
            node: "node-a".to_owned(),
            subject: subject.to_owned(),
            summary: "red/batch took 0.44 cores from blue/web on node-a".to_owned(),
            evidence: vec![
                Figure {
                    name: "stolen_cores".to_owned(),
                    value: 0.44,
                },
                Figure {
                    name: "culprit_share".to_owned(),
                    value: 0.98,
                },
                Figure {
                    name: "slowdown".to_owned(),
                    value: 2.4,
                },
                Figure {
                    name: "window_seconds".to_owned(),
                    value: 3.0,
                },
            ],
            culprits: vec![Culprit {
                tenant: "red".to_owned(),
                pod: "red/batch".to_owned(),
                stolen_cores: 0.431,
                share: 0.98,
                ..Culprit::default()
            }],
            covered: 1.0,
            ..Breach::default()
        };
        Alert::new(breach, Severity::Warning).unwrap()
    }

    #[test]
    fn labels_are_what_on_call_routes_by() {
        let alert = alert(v1::BreachKind::NoisyNeighbour, "blue/web");
        let labels = [
            ("against", "blue"),
            ("alertname", "TenantNoisyNeighbour"),
            ("cluster", "prod"),
            ("namespace", "blue"),
            ("node", "node-a"),
            ("pod", "web"),
            ("severity", "warning"),
            ("tenant", "red"),
        ];
        assert_eq!(alert.labels(), BTreeMap::from(labels));
    }

    #[test]
    fn a_subject_is_told_by_its_parts() {
        for (kind, subject, parts) in [
            (v1::BreachKind::QuotaNear, "cpu", &[("resource", "cpu")][..]),
            (
                v1::BreachKind::LimitRangeExceeded,
                "blue/web/app/memory",
                &[
                    ("namespace", "blue"),
                    ("pod", "web"),
                    ("container", "app"),
                    ("resource", "memory"),
                ],
            ),
            (
                v1::BreachKind::SystemNoise,
                "/system.slice/nginx.service",
                &[("subject", "/system.slice/nginx.service")],
            ),
            (v1::BreachKind::FlatNetwork, "", &[("subject", "")]),
        ] {
            assert_eq!(alert(kind, subject).subject(), parts, "{subject}");
        }
        assert!(
            !alert(v1::BreachKind::FlatNetwork, "")
                .labels()
                .contains_key("subject")
        );
    }

    #[test]
    fn the_evidence_is_told_in_words() {
        let mut alert = alert(v1::BreachKind::NoisyNeighbour, "blue/web");
        assert_eq!(
            alert.description(),
            "red/batch took 0.44 cores from blue/web on node-a.\n\
             Evidence: stolen 0.44 cores, culprit share 98 %, slowdown 2.40, window 3 s.\n\
             Most: red/batch of tenant red took 0.43 cores (98 %).\n\
             Seen: 100 % of the window; measured, not inferred."
        );
        alert.breach.confidence = Some(0.7);
        alert.breach.culprits = (0..7)
            .map(|n| Culprit {
                tenant: "red".to_owned(),
                pod: format!("red/{n}"),
                over_request_bytes: Some(3 << 20),
                growth_bytes_per_second: Some(1024.0),
                ..Culprit::default()
            })
            .collect();
        let text = alert.description();
        assert!(
            text.contains(
                "red/4 of tenant red is 3 MiB above its request and grows by 1 KiB per second; and 2 more."
            ),
            "{text}"
        );
        assert!(text.contains("a confidence of 70 %"), "{text}");
    }

    #[test]
    fn an_alert_leads_on() {
        let alert = alert(v1::BreachKind::QuotaNear, "cpu");
        assert_eq!(
            alert.command(),
            "partywall explain 00c0ffee00c0ffee --cluster prod"
        );
        let mut links = Links::default();
        assert_eq!(alert.runbook_url(&links), "docs/runbook.md#tenantquotausagehigh");
        links.runbook = Some("https://x.example/r".to_owned());
        assert_eq!(
            alert.runbook_url(&links),
            "https://x.example/r#tenantquotausagehigh"
        );
    }

    #[test]
    fn a_moment_is_told_as_others_read_it() {
        assert_eq!(moment(0), "");
        assert_eq!(moment(1_700_000_000_500_000_000), "2023-11-14T22:13:20.5Z");
    }
}
