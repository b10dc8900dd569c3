//! What becomes of a flow once the suggested policies are in force: the fence is asked, not the wish.

use partywall_aggregator_core::fence::{Decision, Stand, Verdict};
use serde::Serialize;

use super::super::seen::Seen;
use super::wish::Wish;
use crate::text::{bytes, utc};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fate {
    Kept,
    /// Between tenants, and denied from then on.
    Closed,
    /// Denied from then on, though it is no matter between tenants.
    Cut,
    /// By policies in force.
    DeniedAlready,
    /// Not kept, and admitted all the same.
    StillOpen,
    /// There are policies that are not evaluated.
    Undecided,
    NotLookedAt,
}

impl Fate {
    pub(super) const ALL: [Self; 7] = [
        Self::Kept,
        Self::Closed,
        Self::Cut,
        Self::DeniedAlready,
        Self::StillOpen,
        Self::Undecided,
        Self::NotLookedAt,
    ];

    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Closed => "closed",
            Self::Cut => "not kept",
            Self::DeniedAlready => "denied already",
            Self::StillOpen => "still open",
            Self::Undecided => "undecided",
            Self::NotLookedAt => "not looked at",
        }
    }

    /// And why.
    pub(super) fn of(wish: Wish, before: Verdict, after: &Decision) -> (Self, String) {
        match (after.verdict(), wish) {
            (Verdict::Open | Verdict::Allowed, Wish::Keep) => (Self::Kept, String::new()),
            (Verdict::Open | Verdict::Allowed, _) => (Self::StillOpen, why_admitted(after)),
            (Verdict::Unknown, _) => (Self::Undecided, why_admitted(after)),
            (Verdict::Denied, _) if before == Verdict::Denied => (Self::DeniedAlready, String::new()),
            (Verdict::Denied, Wish::Close) => (Self::Closed, String::new()),
            (Verdict::Denied, Wish::Drop(why)) => (Self::Cut, why.to_owned()),
            (Verdict::Denied, Wish::Keep) => (Self::Cut, "no rule names both of its ends".to_owned()),
        }
    }
}

/// Of the receiving end: there every suggestion begins.
fn why_admitted(decision: &Decision) -> String {
    let stand = match (&decision.ingress, &decision.egress) {
        (stand @ Stand::Unknown(_), _) | (_, stand @ Stand::Unknown(_)) | (stand, _) => stand,
    };
    match stand {
        Stand::Exempt(why) => why.to_string(),
        Stand::Free => "no policy is suggested for its receiver".to_owned(),
        Stand::Admits(admission) => format!("admitted by {admission}"),
        Stand::Unknown(doubt) => doubt.to_string(),
        Stand::Denies(_) => String::new(),
    }
}

/// A flow and its fate.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Told {
    pub from: String,
    pub from_tenant: String,
    pub to: String,
    pub to_tenant: String,
    pub protocol: String,
    /// 0: the protocol has none.
    pub port: u16,
    pub verdict: String,
    pub fate: Fate,
    /// Empty where the fate says it.
    pub why: String,
    /// Whose rules decide; absent: none of those suggested.
    pub policy: Option<String>,
    pub connections: u64,
    pub bytes: u64,
    pub last_seen_unix_seconds: f64,
}

impl Told {
    pub(super) fn new(seen: &Seen, policy: Option<String>, fate: Fate, why: String) -> Self {
        let flow = &seen.flow;
        let traffic = &flow.traffic;
        Self {
            from: flow.from.name(),
            from_tenant: flow.from.tenant.clone(),
            to: flow.to.name(),
            to_tenant: flow.to.tenant.clone(),
            protocol: flow.protocol.clone(),
            port: seen.port,
            verdict: flow.verdict.clone(),
            fate,
            why,
            policy,
            connections: traffic.established,
            bytes: traffic.sent_bytes.saturating_add(traffic.received_bytes),
            last_seen_unix_seconds: flow.last_seen_unix_seconds,
        }
    }

    /// In a comment.
    pub(super) fn line(&self) -> String {
        let port = match self.port {
            0 => self.protocol.clone(),
            port => format!("{port}/{}", self.protocol),
        };
        let connections = match self.connections {
            0 => String::new(),
            1 => "1 connection, ".to_owned(),
            many => format!("{many} connections, "),
        };
        let why = match self.why.as_str() {
            "" => String::new(),
            why => format!(" ({why})"),
        };
        format!(
            "{}: {} [{}] to {} [{}], {port}: {connections}{}; last {}{why}",
            self.fate.words(),
            self.from,
            self.from_tenant,
            self.to,
            self.to_tenant,
            bytes(self.bytes),
            utc(self.last_seen_unix_seconds),
        )
    }
}
