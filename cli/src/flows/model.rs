//! Flows in the form that is printed as JSON.

use partywall_proto::v1;
use serde::{Deserialize, Serialize};

use crate::model::{seconds, unix_seconds};
use crate::text::clean;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Flows {
    pub judged_unix_seconds: f64,
    /// Behind every rate here.
    pub window_seconds: f64,
    pub flows: Vec<Flow>,
    /// That the aggregator knows besides: it lists those with the most bytes.
    pub left_out: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Flow {
    /// Empty in what was saved before there were several.
    #[serde(default)]
    pub cluster: String,
    /// Who opened it.
    pub from: End,
    pub to: End,
    pub protocol: String,
    /// 0: the protocol has none.
    pub port: u32,
    pub verdict: String,
    /// Which policy and rule, or the lack of one.
    pub reason: String,
    /// "both", "opener" or "receiver".
    pub seen_by: String,
    pub delivered: bool,
    pub traffic: Traffic,
    pub bytes_per_second: f64,
    pub first_seen_unix_seconds: f64,
    pub last_seen_unix_seconds: f64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct End {
    pub tenant: String,
    pub namespace: String,
    pub pod: String,
    pub uid: String,
    pub node: String,
    pub address: String,
    /// Of an address that is no pod's.
    pub kind: String,
    /// Why it cannot be named; empty where it can.
    pub unattributed: String,
}

/// Cumulative, as the end that opened has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Traffic {
    pub sent_packets: u64,
    pub sent_bytes: u64,
    pub received_packets: u64,
    pub received_bytes: u64,
    pub opened: u64,
    pub established: u64,
    pub refused: u64,
    pub reset: u64,
    pub timed_out: u64,
}

impl End {
    /// As a person calls it: the pod, else the address and what it is.
    pub(crate) fn name(&self) -> String {
        match (self.pod.as_str(), self.kind.as_str()) {
            ("", "") => self.address.clone(),
            ("", kind) => format!("{} ({kind})", self.address),
            (pod, _) if self.namespace.is_empty() => pod.to_owned(),
            (pod, _) => format!("{}/{pod}", self.namespace),
        }
    }
}

impl From<v1::FlowList> for Flows {
    fn from(wire: v1::FlowList) -> Self {
        Self {
            judged_unix_seconds: unix_seconds(wire.judged_unix_ns),
            window_seconds: seconds(wire.window_ns),
            flows: wire.flows.into_iter().map(Flow::from).collect(),
            left_out: wire.left_out,
        }
    }
}

impl From<v1::FlowView> for Flow {
    fn from(wire: v1::FlowView) -> Self {
        Self {
            cluster: clean(&wire.cluster),
            verdict: verdict(wire.verdict),
            from: wire.from.unwrap_or_default().into(),
            to: wire.to.unwrap_or_default().into(),
            protocol: clean(&wire.protocol),
            port: wire.port,
            reason: clean(&wire.reason),
            seen_by: clean(&wire.seen_by),
            delivered: wire.delivered,
            traffic: wire.traffic.unwrap_or_default().into(),
            bytes_per_second: wire.bytes_per_second,
            first_seen_unix_seconds: unix_seconds(wire.first_seen_unix_ns),
            last_seen_unix_seconds: unix_seconds(wire.last_seen_unix_ns),
        }
    }
}

impl From<v1::FlowEnd> for End {
    fn from(wire: v1::FlowEnd) -> Self {
        Self {
            tenant: clean(&wire.tenant),
            namespace: clean(&wire.namespace),
            pod: clean(&wire.pod),
            uid: clean(&wire.uid),
            node: clean(&wire.node),
            address: clean(&wire.address),
            kind: clean(&wire.kind),
            unattributed: clean(&wire.unattributed),
        }
    }
}

impl From<v1::Traffic> for Traffic {
    fn from(wire: v1::Traffic) -> Self {
        Self {
            sent_packets: wire.sent_packets,
            sent_bytes: wire.sent_bytes,
            received_packets: wire.received_packets,
            received_bytes: wire.received_bytes,
            opened: wire.opened,
            established: wire.established,
            refused: wire.refused,
            reset: wire.reset,
            timed_out: wire.timed_out,
        }
    }
}

/// The word for a verdict, also of a newer aggregator.
pub(crate) fn verdict(number: i32) -> String {
    match v1::Verdict::try_from(number) {
        Ok(v1::Verdict::Allowed) => "allowed".to_owned(),
        Ok(v1::Verdict::Open) => "open".to_owned(),
        Ok(v1::Verdict::Leaked) => "leaked".to_owned(),
        Ok(v1::Verdict::Blocked) => "blocked".to_owned(),
        Ok(v1::Verdict::Unknown) => "unknown".to_owned(),
        Ok(v1::Verdict::Within) => "within".to_owned(),
        Ok(v1::Verdict::Unspecified) | Err(_) => format!("unknown({number})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_everywhere() {
        let hostile = "a\u{1b}[2J";
        let end = v1::FlowEnd {
            tenant: hostile.into(),
            namespace: hostile.into(),
            pod: hostile.into(),
            uid: hostile.into(),
            node: hostile.into(),
            address: hostile.into(),
            kind: hostile.into(),
            unattributed: hostile.into(),
        };
        let flow = Flow::from(v1::FlowView {
            cluster: hostile.into(),
            from: Some(end.clone()),
            to: Some(end),
            protocol: hostile.into(),
            reason: hostile.into(),
            seen_by: hostile.into(),
            ..v1::FlowView::default()
        });
        let printed = serde_json::to_string(&flow).expect("JSON");
        assert_eq!(printed.matches("u{1b}").count(), 20);
        assert!(!printed.contains('\u{1b}') && !printed.contains("\\u001b"));
    }

    #[test]
    fn every_verdict_has_a_word() {
        for number in 1..=6 {
            assert!(!verdict(number).contains('('), "{number}");
        }
        assert_eq!(verdict(77), "unknown(77)");
    }

    #[test]
    fn an_end_is_called_by_what_is_known_of_it() {
        let end = |namespace: &str, pod: &str, kind: &str| {
            let end = End {
                namespace: namespace.into(),
                pod: pod.into(),
                kind: kind.into(),
                address: "10.0.0.1".into(),
                ..End::default()
            };
            end.name()
        };
        assert_eq!(end("blue", "web", ""), "blue/web");
        assert_eq!(end("", "/system.slice/x.service", ""), "/system.slice/x.service");
        assert_eq!(end("", "", "node"), "10.0.0.1 (node)");
        assert_eq!(end("", "", ""), "10.0.0.1");
    }
}
