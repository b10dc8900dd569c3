//! The generic webhook: one POST for each few breaches that began or ceased to fire. docs/webhook.schema.json is its form.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::push::alert::{Alert, Links, moment};

/// Breaches in one request: some 40 KiB.
pub(super) const MOST: usize = 20;
/// Of the body's form. A key that is added does not change it.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Posted<'a> {
    version: u32,
    sender: Sender,
    breaches: Vec<Told<'a>>,
}

#[derive(Serialize)]
struct Sender {
    name: &'static str,
    version: &'static str,
    started_at: String,
}

#[derive(Serialize)]
struct Told<'a> {
    status: &'static str,
    fingerprint: &'a str,
    kind: &'static str,
    labels: BTreeMap<&'static str, &'a str>,
    summary: &'a str,
    description: String,
    since: String,
    firing_at: String,
    resolved_at: Option<String>,
    evidence: BTreeMap<&'a str, f64>,
    culprits: Vec<Culprit<'a>>,
    covered: f64,
    confidence: Option<f64>,
    command: String,
    runbook_url: String,
}

#[derive(Serialize)]
struct Culprit<'a> {
    tenant: &'a str,
    pod: &'a str,
    stolen_cores: f64,
    share: f64,
    over_request_bytes: Option<u64>,
    growth_bytes_per_second: Option<f64>,
}

/// The request's body.
pub(super) fn body(alerts: &[Arc<Alert>], links: &Links, started_unix_ns: u64) -> Vec<u8> {
    let posted = Posted {
        version: VERSION,
        sender: Sender {
            name: "partywall-aggregator",
            version: env!("CARGO_PKG_VERSION"),
            started_at: moment(started_unix_ns),
        },
        breaches: alerts.iter().map(|alert| told(alert, links)).collect(),
    };
    serde_json::to_vec(&posted).unwrap_or_default()
}

fn told<'a>(alert: &'a Alert, links: &Links) -> Told<'a> {
    let b = &alert.breach;
    Told {
        status: if alert.is_firing() { "firing" } else { "resolved" },
        fingerprint: &b.fingerprint,
        kind: alert.row.kind.as_str(),
        labels: alert.labels(),
        summary: &b.summary,
        description: alert.description(),
        since: moment(b.since_unix_ns),
        firing_at: moment(b.firing_unix_ns),
        resolved_at: (!alert.is_firing()).then(|| moment(b.resolved_unix_ns)),
        // JSON has no word for what is not finite.
        evidence: b
            .evidence
            .iter()
            .filter(|f| f.value.is_finite())
            .map(|f| (f.name.as_str(), f.value))
            .collect(),
        culprits: b
            .culprits
            .iter()
            .map(|c| Culprit {
                tenant: &c.tenant,
                pod: &c.pod,
                stolen_cores: c.stolen_cores,
                share: c.share,
                over_request_bytes: c.over_request_bytes,
                growth_bytes_per_second: c.growth_bytes_per_second,
            })
            .collect(),
        covered: b.covered,
        confidence: b.confidence,
        command: alert.command(),
        runbook_url: alert.runbook_url(links),
    }
}
