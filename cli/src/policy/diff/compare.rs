//! Each flow before and after.

use std::collections::BTreeMap;

use partywall_aggregator_core::fence::{Decision, Direction, End, Stand, Traffic, Verdict};
use serde::Serialize;

use super::super::Known;
use super::super::resolve::{Lost, ends, resolve};
use super::super::seen::{AllSeen, Seen};

#[derive(Debug, Serialize)]
pub(super) struct Comparison {
    /// Flows that are told otherwise after.
    pub changes: Vec<Change>,
    /// Flows that are told as before.
    pub unchanged: usize,
    /// Of those, how many cannot be decided, before and after, and have other policies at one end after.
    pub unsure: usize,
    /// Flows that nothing can be said of → how many, by why.
    pub not_looked_at: BTreeMap<String, usize>,
    /// Of those, how many came through, have an end that is known and not gone, and have other policies there after.
    pub undecided: usize,
    /// Changed policies of namespaces that there are not.
    pub misplaced: usize,
    pub notes: Vec<String>,
    /// That the aggregator knew besides.
    pub left_out: u64,
    pub seen_until_unix_seconds: f64,
}

/// Newly so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) enum Kind {
    #[serde(rename = "newly_denied")]
    Denied,
    /// It may be denied: that cannot be said.
    #[serde(rename = "newly_unknown")]
    Unknown,
    #[serde(rename = "newly_allowed")]
    Allowed,
    /// It was unknown, and is allowed or open.
    #[serde(rename = "newly_known")]
    Known,
}

#[derive(Debug, Serialize)]
pub(super) struct Change {
    pub change: Kind,
    pub from: String,
    pub from_tenant: String,
    pub to: String,
    pub to_tenant: String,
    pub protocol: String,
    /// 0: the protocol has none.
    pub port: u16,
    /// `open`, `allowed`, `denied`, `unknown`.
    pub before: &'static str,
    pub after: &'static str,
    /// Which policies, and for which end.
    pub by: String,
    pub delivered: bool,
    pub connections: u64,
    pub bytes: u64,
    pub last_seen_unix_seconds: f64,
}

impl Comparison {
    pub(super) fn new(before: &Known, after: &Known, all: &AllSeen) -> Self {
        let mut comparison = Self {
            changes: Vec::new(),
            unchanged: 0,
            unsure: 0,
            not_looked_at: BTreeMap::new(),
            undecided: 0,
            misplaced: 0,
            notes: Vec::new(),
            left_out: all.left_out,
            seen_until_unix_seconds: all.until_unix_seconds(),
        };
        for seen in &all.flows {
            match (resolve(before, seen), resolve(after, seen)) {
                (Ok(old), Ok(new)) => {
                    for (old, new) in old.iter().zip(&new) {
                        comparison.take(seen, (before, old), (after, new));
                    }
                }
                (Err(lost), _) | (_, Err(lost)) => {
                    *comparison.not_looked_at.entry(lost.to_string()).or_default() += 1;
                    comparison.undecided += usize::from(may_be_cut(&lost, seen, before, after));
                }
            }
        }
        comparison
            .changes
            .sort_by(|a, b| a.change.cmp(&b.change).then(b.bytes.cmp(&a.bytes)));
        comparison
    }

    fn take(&mut self, seen: &Seen, old: (&Known, &Traffic<'_>), new: (&Known, &Traffic<'_>)) {
        let (before, after) = (old.0.fence.decide(old.1), new.0.fence.decide(new.1));
        let kind = match (before.verdict(), after.verdict()) {
            (Verdict::Denied, Verdict::Denied)
            | (Verdict::Open | Verdict::Allowed, Verdict::Open | Verdict::Allowed) => None,
            (_, Verdict::Denied) => Some(Kind::Denied),
            (Verdict::Unknown, Verdict::Unknown) => {
                self.unsure += usize::from(bears(&both(old.1)) != bears(&both(new.1)));
                None
            }
            (_, Verdict::Unknown) => Some(Kind::Unknown),
            (Verdict::Denied, _) => Some(Kind::Allowed),
            (Verdict::Unknown, _) => Some(Kind::Known),
        };
        let Some(change) = kind else {
            self.unchanged += 1;
            return;
        };
        let flow = &seen.flow;
        self.changes.push(Change {
            change,
            from: flow.from.name(),
            from_tenant: flow.from.tenant.clone(),
            to: flow.to.name(),
            to_tenant: flow.to.tenant.clone(),
            protocol: flow.protocol.clone(),
            port: seen.port,
            before: before.verdict().as_str(),
            after: after.verdict().as_str(),
            by: by(&before, &after),
            delivered: flow.delivered,
            connections: flow.traffic.established,
            bytes: flow
                .traffic
                .sent_bytes
                .saturating_add(flow.traffic.received_bytes),
            last_seen_unix_seconds: flow.last_seen_unix_seconds,
        });
    }

    /// Something that works is newly denied.
    pub(super) fn cuts(&self) -> bool {
        let is_cut = |c: &Change| c.change == Kind::Denied && c.delivered;
        self.changes.iter().any(is_cut)
    }

    /// Something that works may be, or there was no flow that anything can be said of, or not all flows were looked at, or a policy is not where it was
    /// meant to be.
    pub(super) fn is_unsure(&self) -> bool {
        let is_unsure = |c: &Change| c.change == Kind::Unknown && c.delivered;
        let is_blind = self.unchanged == 0 && self.changes.is_empty();
        let is_partly_blind =
            self.unsure > 0 || self.undecided > 0 || self.left_out > 0 || self.misplaced > 0;
        is_blind || is_partly_blind || self.changes.iter().any(is_unsure)
    }
}

/// A flow that cannot be looked at is in use all the same. What a pod did that is gone is no loss: which policies its successor has is not known.
fn may_be_cut(lost: &Lost, seen: &Seen, before: &Known, after: &Known) -> bool {
    let is_gone = matches!(lost, Lost::Gone(_));
    let of = |known: &Known| bears(&ends(known, seen));
    !is_gone && seen.flow.delivered && of(before) != of(after)
}

fn both<'a>(traffic: &Traffic<'a>) -> [(Direction, End<'a>); 2] {
    [
        (Direction::Egress, traffic.from),
        (Direction::Ingress, traffic.to),
    ]
}

/// All that decides about a flow where it cannot be decided: the policies of its ends, and what their rules ask of the other.
fn bears(ends: &[(Direction, End<'_>)]) -> Vec<(String, Vec<String>)> {
    let pod = |(direction, end): &(Direction, End<'_>)| match end {
        End::Pod(pod) => {
            let policies = pod.isolated_by(*direction).iter().map(|p| format!("{p:?}"));
            let foreign = pod.namespace.foreign.iter().map(ToString::to_string);
            Some((
                format!("{:?}", pod.namespace.labels),
                policies.chain(foreign).collect(),
            ))
        }
        _ => None,
    };
    ends.iter().filter_map(pod).collect()
}

fn by(before: &Decision, after: &Decision) -> String {
    let mut by = Vec::new();
    for (direction, stand) in after.stands() {
        match stand {
            Stand::Denies(policies) => {
                let names: Vec<_> = policies.iter().map(ToString::to_string).collect();
                by.push(format!(
                    "{}: isolated by {}, no rule admits it",
                    direction.as_str(),
                    names.join(", ")
                ));
            }
            Stand::Unknown(doubt) => by.push(format!("{}: {doubt}", direction.as_str())),
            Stand::Admits(admission) if after.verdict() == Verdict::Allowed => by.push(admission.to_string()),
            _ => {}
        }
    }
    // What denied it is gone.
    if by.is_empty() {
        for (direction, stand) in before.stands() {
            if let Stand::Denies(policies) = stand {
                let names: Vec<_> = policies.iter().map(ToString::to_string).collect();
                by.push(format!(
                    "{}: no longer isolated by {}",
                    direction.as_str(),
                    names.join(", ")
                ));
            }
        }
    }
    by.join("; ")
}
