//! The second act: red's pod reaches blue's through the flat network. What is told of it, and what it proves. No clock, no I/O.

use serde::Serialize;
use serde_json::Value;

use super::scene::{BLUE, PORT, RED};
use crate::flows::Flow;
use crate::model::Breach;
use crate::policy::Suggestion;
use crate::text::{bytes, count};

/// From the connection until its breach fired: a report and a judgement take two.
pub(crate) const NAMED_SECONDS: u64 = 5;

const FLAT_NETWORK: &str = "FlatNetwork";

/// Everything seen of it.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    /// When red's pod was told to connect.
    pub began_unix_seconds: Option<f64>,
    /// As the aggregator listed it once the breach had fired.
    pub flow: Option<Flow>,
    pub suggestion: Option<Suggestion>,
}

/// As a part of `partywall demo --json`.
#[derive(Debug, Serialize)]
pub(crate) struct Told {
    /// From red's connection until `FlatNetwork` fired.
    seconds_to_firing: Option<f64>,
    flow: Option<Flow>,
    /// What `partywall policy suggest --json` prints. Nothing applied it.
    suggestion: Option<Value>,
}

/// Of red, against blue.
pub(crate) fn is_of(breach: &Breach) -> bool {
    breach.kind == FLAT_NETWORK && breach.tenant == RED.tenant && breach.against == BLUE.tenant
}

/// From red's pod to blue's.
pub(crate) fn is_flow(flow: &Flow) -> bool {
    flow.from.name() == RED.label() && flow.to.name() == BLUE.label() && flow.port == u32::from(PORT)
}

impl Reach {
    /// Fired because red connected, not before.
    pub(crate) fn explains(&self, breach: &Breach) -> bool {
        is_of(breach)
            && self
                .seconds_to_firing(breach)
                .is_some_and(|seconds| seconds >= 0.0)
    }

    pub(crate) fn seconds_to_firing(&self, breach: &Breach) -> Option<f64> {
        Some(breach.firing_unix_seconds? - self.began_unix_seconds?)
    }

    /// `breach`: the one that it explains.
    pub(crate) fn why_not(&self, breach: Option<&Breach>) -> Vec<String> {
        if self.began_unix_seconds.is_none() {
            return vec!["red's pod was never told to connect to blue's".to_owned()];
        }
        let Some(breach) = breach else {
            return vec![format!("no {FLAT_NETWORK} by red against blue fired")];
        };
        let mut reasons = Vec::new();
        let mut wanted = |is: bool, why: String| {
            if !is {
                reasons.push(why);
            }
        };
        let seconds = self.seconds_to_firing(breach).unwrap_or(f64::NAN);
        wanted(
            seconds <= NAMED_SECONDS as f64,
            format!("{FLAT_NETWORK} fired {seconds:.1} s after red connected, more than {NAMED_SECONDS}"),
        );
        for name in [RED.label(), BLUE.label(), PORT.to_string()] {
            wanted(
                breach.summary.contains(&name),
                format!("{FLAT_NETWORK} does not say {name}: {}", breach.summary),
            );
        }
        let is_open =
            |flow: &Flow| flow.verdict == "open" && flow.delivered && flow.traffic.received_bytes > 0;
        wanted(
            self.flow.as_ref().is_some_and(is_open),
            "no open flow with bytes from red's pod to blue's is listed".to_owned(),
        );
        wanted(
            self.suggestion.as_ref().is_some_and(closes),
            "no policy was suggested that closes it".to_owned(),
        );
        reasons
    }

    pub(crate) fn told(&self, breach: Option<&Breach>) -> Told {
        Told {
            seconds_to_firing: breach
                .and_then(|breach| self.seconds_to_firing(breach))
                .map(super::story::rounded),
            flow: self.flow.clone(),
            suggestion: self
                .suggestion
                .as_ref()
                .map(|suggestion| suggestion.document.clone()),
        }
    }
}

/// Whether it says that red's flow to blue's pod is closed by it.
fn closes(suggestion: &Suggestion) -> bool {
    let is = |flow: &Value, field: &str, wanted: &str| flow[field].as_str() == Some(wanted);
    let flows = suggestion.document["flows"].as_array();
    flows.into_iter().flatten().any(|flow| {
        is(flow, "from", &RED.label()) && is(flow, "to", &BLUE.label()) && is(flow, "fate", "closed")
    })
}

/// The flow in words, below its breach.
pub(crate) fn flow(flow: &Flow) -> String {
    let traffic = &flow.traffic;
    let seen = match flow.seen_by.as_str() {
        "both" => "seen at both ends",
        _ => "seen at one end",
    };
    format!(
        "         {} {} -> {} {}, port {}/{}: {}, {} sent, {} received; {seen}\n",
        flow.from.name(),
        flow.from.address,
        flow.to.name(),
        flow.to.address,
        flow.port,
        flow.protocol,
        count(
            usize::try_from(traffic.established).unwrap_or(usize::MAX),
            "connection",
            "connections"
        ),
        bytes(traffic.sent_bytes),
        bytes(traffic.received_bytes),
    )
}

/// Set apart from what the demo itself says.
pub(crate) fn suggestion(suggestion: &Suggestion) -> String {
    let lines = suggestion.yaml.lines();
    lines.map(|line| format!("         {line}\n")).collect()
}

#[cfg(test)]
pub(crate) mod tests;
