//! How often, by whom, when last: what a comment says of the flows behind a rule.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use partywall_aggregator_core::fence::Direction;

use super::super::seen::Seen;
use crate::flows::End;
use crate::text::{bytes, count, utc};

/// Names in a comment.
const LISTED: usize = 3;

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Tally {
    flows: usize,
    connections: u64,
    bytes: u64,
    /// Who → bytes.
    by: BTreeMap<String, u64>,
    last_unix_seconds: f64,
}

impl Tally {
    /// `other` is the end that the rule names.
    pub(super) fn add(&mut self, seen: &Seen, other: &End) {
        let traffic = &seen.flow.traffic;
        let sum = traffic.sent_bytes.saturating_add(traffic.received_bytes);
        self.flows += 1;
        self.connections = self.connections.saturating_add(traffic.established);
        self.bytes = self.bytes.saturating_add(sum);
        let by = self.by.entry(other.name()).or_default();
        *by = by.saturating_add(sum);
        self.last_unix_seconds = self.last_unix_seconds.max(seen.flow.last_seen_unix_seconds);
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.flows += other.flows;
        self.connections = self.connections.saturating_add(other.connections);
        self.bytes = self.bytes.saturating_add(other.bytes);
        for (name, bytes) in other.by {
            let by = self.by.entry(name).or_default();
            *by = by.saturating_add(bytes);
        }
        self.last_unix_seconds = self.last_unix_seconds.max(other.last_unix_seconds);
    }

    /// Who opened what comes in, or who was reached by what goes out.
    pub(super) fn words(&self, direction: Direction) -> String {
        let mut text = String::new();
        if self.flows == 0 {
            return "not seen in use".to_owned();
        }
        if self.connections > 0 {
            let connections = usize::try_from(self.connections).unwrap_or(usize::MAX);
            let _ = write!(text, "{}, ", count(connections, "connection", "connections"));
        }
        let mut ends: Vec<_> = self.by.iter().collect();
        ends.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        let names: Vec<_> = ends.iter().take(LISTED).map(|(name, _)| name.as_str()).collect();
        let word = match direction {
            Direction::Ingress => "by",
            Direction::Egress => "to",
        };
        let _ = write!(text, "{} {word} {}", bytes(self.bytes), names.join(", "));
        if let Some(more @ 1..) = ends.len().checked_sub(LISTED) {
            let _ = write!(text, " and {more} more");
        }
        let _ = write!(text, "; last {}", utc(self.last_unix_seconds));
        text
    }
}
