//! From what happened and what the fence says to a verdict.

use std::sync::Arc;

use super::Table;
use super::cx::Cx;
use super::ends::{End, Reason};
use super::outcome::Outcome;
use super::record::Record;
use super::ruling::{Asked, Ruling, rule};
use super::step::Case;
use super::totals::Verdict;
use crate::breach::seconds;
use crate::identity::TenantId;

const TCP: u8 = 6;

/// Why a verdict is what it is.
pub(super) enum Why {
    Words(Arc<str>),
    Unattributed(Reason),
}

impl Why {
    pub(super) fn text(&self) -> Arc<str> {
        match self {
            Self::Words(words) => Arc::clone(words),
            Self::Unattributed(reason) => Arc::from(reason.as_str()),
        }
    }
}

pub(super) fn unattributed(why: &Why) -> Option<Reason> {
    match why {
        Why::Unattributed(reason) => Some(*reason),
        Why::Words(_) => None,
    }
}

impl Table {
    /// The verdict, why, and whether a connection was ever made against the policies in force.
    pub(super) fn verdict(&self, case: &Case, outcome: Outcome, cx: &Cx<'_>) -> (Verdict, Why, bool) {
        let record = self.get(case.id);
        let leaked = record.is_some_and(|r| r.leaked);
        if let Some(reason) = case.from.reason().or(case.to.reason()) {
            return (Verdict::Unknown, Why::Unattributed(reason), leaked);
        }
        let (Some(a), Some(b)) = (case.from.named_tenant(), case.to.named_tenant()) else {
            return (Verdict::Within, Why::Words(no_tenants(case)), leaked);
        };
        if a == b {
            return (
                Verdict::Within,
                Why::Words(Arc::from("within one tenant")),
                leaked,
            );
        }
        let (protocol, port) = record.map_or((0, 0), |r| (r.flow.protocol, r.flow.port));
        // The opener may be the first to tell of what was made.
        let at_ns = record.map_or(0, |r| r.last_ns.max(case.opener_ns));
        let between_ns = match outcome {
            // The record stands still, its opener goes on.
            Outcome::Failed | Outcome::Wait => (cx.now.mono_ns, cx.now.mono_ns),
            _ => (record.map_or(0, |r| r.grew_after_ns), at_ns),
        };
        let asked = Asked {
            protocol,
            port,
            between_ns,
        };
        let ruling = rule(&case.from, &case.to, asked, cx);
        if let Ruling::Unattributed(reason) = ruling {
            return (Verdict::Unknown, Why::Unattributed(reason), leaked);
        }
        if let Ruling::Allowed(by) = ruling {
            return (Verdict::Allowed, Why::Words(by), false);
        }
        if ruling == Ruling::NoFence {
            let why = Arc::from("the Service leads to no other tenant's pod");
            return (Verdict::Within, Why::Words(why), leaked);
        }
        match outcome {
            Outcome::Failed | Outcome::Wait => {
                let why = match ruling {
                    Ruling::Denied { why, .. } => why,
                    _ => Arc::from("tried, and not delivered"),
                };
                return (Verdict::Blocked, Why::Words(why), leaked);
            }
            Outcome::Unseen => {
                let why = "too little was seen to say whether anything came through";
                return (Verdict::Unknown, Why::Words(Arc::from(why)), leaked);
            }
            Outcome::Nothing => {
                if let Some(before) = record.and_then(Record::judged) {
                    return (before.verdict, Why::Words(Arc::clone(&before.reason)), leaked);
                }
            }
            Outcome::Delivered | Outcome::Continues => {}
        }
        let enforce_ns = seconds(cx.policy.thresholds.fence_leak.enforce_seconds);
        // A datagram does not say whether it belongs to what connection tracking has let through before.
        let may_be_older = |since_ns: u64| {
            let unbroken = |r: &Record| {
                let was_blocked = r.judged().is_some_and(|j| j.verdict == Verdict::Blocked);
                r.first_ns < since_ns.saturating_add(enforce_ns) && !was_blocked
            };
            protocol != TCP && since_ns > 0 && record.is_some_and(unbroken)
        };
        match ruling {
            Ruling::Denied { why, since_ns } => match outcome {
                Outcome::Delivered if since_ns > 0 && at_ns < since_ns.saturating_add(enforce_ns) => {
                    let early = format!("the policies are too new to be enforced for certain: {why}");
                    (Verdict::Unknown, Why::Words(early.into()), leaked)
                }
                Outcome::Delivered if !leaked && may_be_older(since_ns) => {
                    let before = format!("by datagrams that may be older than the policies: {why}");
                    (Verdict::Unknown, Why::Words(before.into()), leaked)
                }
                Outcome::Continues | Outcome::Nothing if !leaked => {
                    let before = format!("by connections that may be older than the policies: {why}");
                    (Verdict::Unknown, Why::Words(before.into()), leaked)
                }
                _ => (Verdict::Leaked, Why::Words(why), true),
            },
            Ruling::Unknown(why) => (Verdict::Unknown, Why::Words(why), leaked),
            _ => {
                let why = Arc::from("no NetworkPolicy isolates either end");
                (Verdict::Open, Why::Words(why), false)
            }
        }
    }
}

fn no_tenants(case: &Case) -> Arc<str> {
    let outside = |end: &End| end.tenant.is_none();
    let of_system = |end: &End| end.tenant == Some(TenantId::SYSTEM);
    let why = if outside(&case.from) || outside(&case.to) {
        "one end is outside of the cluster"
    } else if of_system(&case.from) || of_system(&case.to) {
        "one end is the system's"
    } else {
        "one end is no tenant's"
    };
    Arc::from(why)
}
