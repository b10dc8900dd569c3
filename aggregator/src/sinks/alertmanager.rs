//! Alertmanager's v2 API: `POST /api/v2/alerts`.
//!
//! It is told what Prometheus would tell it: each firing alert again and again, good until a few repeats have failed to come, so that an aggregator that
//! dies lets its alerts end, and an Alertmanager that starts anew learns them. The same labels are the same alert, however often and by whichever
//! aggregator it is told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::push::alert::{Alert, Links, moment};

/// Below an Alertmanager's URL.
pub(super) const PATH: &str = "/api/v2/alerts";
/// How often all that fires is told again, and that nothing does. Prometheus' own default is a minute; half of it is what an Alertmanager without a disk
/// may have forgotten an alert for.
pub(super) const REPEAT: Duration = Duration::from_secs(30);
/// An alert that is not told again ends after so many repeats, as Prometheus has it: three may be lost.
const REPEATS: u32 = 4;
/// Alerts in one request: some 400 KiB.
pub(super) const MOST: usize = 200;

#[derive(Serialize)]
struct Posted<'a> {
    labels: BTreeMap<&'static str, &'a str>,
    annotations: BTreeMap<&'static str, String>,
    #[serde(rename = "startsAt")]
    starts_at: String,
    #[serde(rename = "endsAt")]
    ends_at: String,
    #[serde(rename = "generatorURL", skip_serializing_if = "String::is_empty")]
    generator_url: String,
}

/// The request's body.
pub(super) fn body(alerts: &[Arc<Alert>], links: &Links, now_unix_ns: u64) -> Vec<u8> {
    let good_for = u64::try_from((REPEAT * REPEATS).as_nanos()).unwrap_or(u64::MAX);
    let posted: Vec<_> = alerts
        .iter()
        .map(|alert| {
            // The clock may have gone back since: an Alertmanager answers 400 to what begins after its end, and takes what ends later for firing.
            let starts = alert.breach.firing_unix_ns.min(now_unix_ns);
            let ends = if alert.is_firing() {
                now_unix_ns.saturating_add(good_for)
            } else {
                alert.breach.resolved_unix_ns.min(now_unix_ns).max(starts)
            };
            Posted {
                labels: alert.labels(),
                annotations: BTreeMap::from([
                    ("summary", alert.breach.summary.clone()),
                    ("description", alert.description()),
                    ("fingerprint", alert.breach.fingerprint.clone()),
                    ("command", alert.command()),
                    ("runbook_url", alert.runbook_url(links)),
                ]),
                starts_at: moment(starts),
                ends_at: moment(ends),
                generator_url: links.external.as_ref().map_or_else(String::new, |url| {
                    format!("{url}/#breach={}", alert.breach.fingerprint)
                }),
            }
        })
        .collect();
    // Strings and maps of them: this does not fail.
    serde_json::to_vec(&posted).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use partywall_aggregator_core::policy::alerts::Severity;
    use partywall_proto::v1::{Breach, BreachKind, BreachState};

    const SECOND: u64 = 1_000_000_000;
    const AT: u64 = 1_700_000_000 * SECOND;

    /// It began to fire at [`AT`].
    fn alert(resolved_unix_ns: Option<u64>) -> Arc<Alert> {
        let state = resolved_unix_ns.map_or(BreachState::Firing, |_| BreachState::Resolved);
        let breach = Breach {
            fingerprint: "ab".to_owned(),
            cluster: "prod".to_owned(),
            kind: BreachKind::FenceLeak.into(),
            state: state.into(),
            tenant: "red".to_owned(),
            firing_unix_ns: AT,
            resolved_unix_ns: resolved_unix_ns.unwrap_or_default(),
            ..Breach::default()
        };
        Arc::new(Alert::new(breach, Severity::Critical).unwrap())
    }

    fn told(alerts: &[Arc<Alert>], links: &Links, now_unix_ns: u64) -> serde_json::Value {
        serde_json::from_slice(&body(alerts, links, now_unix_ns)).unwrap()
    }

    #[test]
    fn a_firing_alert_ends_by_itself_and_a_resolved_one_has_ended() {
        let links = Links {
            external: Some("https://p.example".to_owned()),
            runbook: None,
        };
        let json = told(
            &[alert(None), alert(Some(AT + 7 * SECOND))],
            &links,
            AT + 30 * SECOND,
        );
        assert_eq!(json[0]["startsAt"], "2023-11-14T22:13:20Z");
        assert_eq!(json[0]["endsAt"], "2023-11-14T22:15:50Z", "120 s from now");
        assert_eq!(json[1]["endsAt"], "2023-11-14T22:13:27Z");
        assert_eq!(json[0]["labels"], json[1]["labels"], "the same alert");
        assert_eq!(json[0]["labels"]["severity"], "critical");
        assert_eq!(json[0]["generatorURL"], "https://p.example/#breach=ab");
        assert_eq!(
            json[0]["annotations"]["command"],
            "partywall explain ab --cluster prod"
        );
    }

    #[test]
    fn nothing_ends_before_it_begins_when_the_clock_goes_back() {
        let ends = [None, Some(AT - 300 * SECOND), Some(AT + 7 * SECOND)];
        let json = told(&ends.map(alert), &Links::default(), AT - 200 * SECOND);
        let now = "2023-11-14T22:10:00Z";
        for one in json.as_array().unwrap() {
            assert_eq!(one["startsAt"], now);
        }
        assert_eq!(json[0]["endsAt"], "2023-11-14T22:12:00Z", "120 s from now");
        assert_eq!(
            json[1]["endsAt"], now,
            "it ended by a clock that had gone back further"
        );
        assert_eq!(
            json[2]["endsAt"], now,
            "and not only when that moment comes again"
        );
        // It went back while the alert fired, and is right when its end is told.
        let json = told(&[alert(Some(AT - SECOND))], &Links::default(), AT + SECOND);
        assert_eq!(
            (&json[0]["startsAt"], &json[0]["endsAt"]),
            (&moment(AT).into(), &moment(AT).into())
        );
    }
}
