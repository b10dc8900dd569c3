//! A judgement: every record that moved, and every one whose wait is over.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::between::Deed;
use super::ends::{End, Reason, What};
use super::join::Opener;
use super::outcome::{GRACE_NS, Outcome, Seen};
use super::record::{Judged, Record};
use super::ruling::{Ruling, rule};
use super::totals::{Amount, Verdict};
use super::{Key, Table};
use crate::breach::seconds;
use crate::finding::Finding;
use crate::identity::{Directory, TenantId};
use crate::limits::NS_PER_S;
use crate::losses::Losses;
use crate::node::Node;
use crate::policy::{Policy, Side};
use crate::report::{Role, Traffic};
use crate::sums::Party;
use crate::world::Now;

/// The opener's agent has this long to confirm what a receiver's says: its interval, and what a network takes.
const CONFIRM_NS: u64 = 2_500_000_000;
/// An opener that is heard of this much later than its receiver sends in vain.
const VAIN_NS: u64 = 3 * NS_PER_S;
/// A name may come this much later than the first counters.
pub(super) const SETTLE_NS: u64 = 5 * NS_PER_S;
/// A network plugin may take this long to enforce a policy that is new.
const ENFORCE_NS: u64 = 10 * NS_PER_S;
/// A node that was silent for longer does not vouch for anything.
const FRESH_NS: u64 = 10 * NS_PER_S;

/// What a judgement may look at.
pub(crate) struct Cx<'a> {
    pub(crate) directory: &'a Directory,
    pub(crate) policy: &'a Policy,
    pub(crate) now: Now,
    /// Nodes whose agents report flows: since when, on the aggregator's monotonic clock, and the share of the window that was seen.
    covers: BTreeMap<Arc<str>, (u64, f64)>,
}

impl<'a> Cx<'a> {
    pub(crate) fn new<'n>(
        directory: &'a Directory,
        policy: &'a Policy,
        nodes: impl Iterator<Item = &'n Node>,
        now: Now,
    ) -> Self {
        let fresh = nodes.filter(|n| now.mono_ns.saturating_sub(n.received_ns) < FRESH_NS);
        let covers = fresh
            .filter_map(|n| {
                Some((
                    Arc::clone(&n.name),
                    (n.flows.since_ns?, n.covered(&policy.thresholds)),
                ))
            })
            .collect();
        Self {
            directory,
            policy,
            now,
            covers,
        }
    }

    /// Its agent would have told of anything since `since_ns`.
    fn is_covered(&self, end: &End, since_ns: u64) -> bool {
        let node = end.node.as_ref().and_then(|n| self.covers.get(n));
        node.is_some_and(|(from_ns, _)| *from_ns <= since_ns)
    }

    pub(super) fn covered(&self, node: &str) -> f64 {
        self.covers.get(node).map_or(0.0, |(_, covered)| *covered)
    }

    /// An end as allowances of the policy file look at it.
    pub(super) fn side<'s>(&'s self, end: &'s End) -> Side<'s> {
        let namespace = match &end.what {
            What::Pod(pod) => Some(&*pod.namespace),
            What::Service(service) => Some(&*service.namespace),
            _ => None,
        };
        Side {
            tenant: end.tenant.map(|t| &**self.directory.tenants.name(t)),
            namespace,
            labels: namespace.and_then(|n| self.directory.namespace_labels(n)),
            address: end.address,
        }
    }
}

/// What is judged of one flow.
struct Case {
    id: u32,
    from: End,
    to: End,
    /// From the opener's side, with what only the opener knows.
    traffic: Traffic,
    opener: Option<u32>,
    /// The opener named the receiver's own address.
    exact: bool,
    by_receiver: bool,
    /// When the opener was last heard of.
    opener_ns: u64,
}

impl Table {
    /// Judges what moved. `gone` is told of each flow that is let go of: (node, flow's index, its place).
    pub(crate) fn judge(
        &mut self,
        cx: &Cx<'_>,
        losses: &mut Losses,
        out: &mut Vec<Finding>,
        gone: impl FnMut(&str, u32, u32),
    ) {
        let mut again = Vec::new();
        let mut work = std::mem::take(&mut self.queue);
        // Receivers are put behind their openers, never the other way.
        while let Some(id) = work.pop() {
            let Some(record) = self.get_mut(id) else { continue };
            record.queued = false;
            if self.judge_one(id, cx, losses) {
                if let Some(record) = self.get_mut(id) {
                    record.waits_since_ns = None;
                }
            } else {
                again.push(id);
            }
            work.append(&mut self.queue);
        }
        for id in again {
            self.enqueue(id);
        }
        self.judge_folded(cx);
        self.forget(cx.now, gone);
        let window_ns = seconds(cx.policy.thresholds.windows.length_seconds);
        self.totals.mark(cx.now.mono_ns, window_ns);
        self.flat.flat(cx, out);
        self.leaks.leaks(cx, out);
        self.probes.findings(cx, out);
        self.reach.findings(cx, out);
    }

    /// False: it must be looked at again.
    fn judge_one(&mut self, id: u32, cx: &Cx<'_>, losses: &mut Losses) -> bool {
        let Some(record) = self.get(id) else { return true };
        match record.flow.role {
            Role::Accepted => self.judge_receiver(id, cx, losses),
            Role::Opened => self.judge_opener(id, cx, losses),
        }
    }

    fn judge_receiver(&mut self, id: u32, cx: &Cx<'_>, losses: &mut Losses) -> bool {
        let Some(record) = self.get(id) else { return true };
        let to = End::own(record, cx);
        let case = match self.opener_of(record, cx) {
            Opener::Several => {
                // Each opener's own record is counted instead.
                if let Some(record) = self.get_mut(id) {
                    record.primary = false;
                    record.counted = record.above_base();
                    record.marks = record.view();
                }
                return true;
            }
            Opener::One {
                record: opener,
                exact,
            } => {
                let Some(o) = self.get(opener) else { return true };
                let mut traffic = record.view();
                if exact {
                    traffic.opened = o.view().opened;
                    traffic.established = traffic.established.max(o.view().established);
                    traffic.refused = traffic.refused.max(o.view().refused);
                    traffic.timed_out = traffic.timed_out.max(o.view().timed_out);
                }
                Case {
                    id,
                    from: End::own(o, cx),
                    to,
                    traffic,
                    opener: Some(opener),
                    exact,
                    by_receiver: true,
                    opener_ns: o.last_ns,
                }
            }
            Opener::None => {
                let mut from = End::peer(record, cx);
                if needs_confirmation(record, &from, cx) {
                    if waited_ns(record, cx) < CONFIRM_NS {
                        return false;
                    }
                    from = from.unnamed(Reason::SourceUnconfirmed);
                }
                Case {
                    id,
                    from,
                    to,
                    traffic: record.view(),
                    opener: None,
                    exact: false,
                    by_receiver: true,
                    opener_ns: 0,
                }
            }
        };
        self.settle(case, cx, losses)
    }

    fn judge_opener(&mut self, id: u32, cx: &Cx<'_>, losses: &mut Losses) -> bool {
        let Some(record) = self.get(id) else { return true };
        let receivers = self.receivers_of(record, cx);
        let sole: Vec<u32> = receivers
            .into_iter()
            .filter(|r| {
                let receiver = self.get(*r);
                receiver.is_some_and(|r| matches!(self.opener_of(r, cx), Opener::One { .. }))
            })
            .collect();
        let key = Key::of(record);
        let to = End::peer(record, cx);
        if !sole.is_empty() {
            // Through a Service, what went to endpoints whose nodes have no agent is in this record alone.
            let addresses = cx.directory.addresses();
            let all_told = addresses
                .behind(key.to, key.protocol, key.port)
                .is_none_or(|endpoints| {
                    let covered = |a| cx.is_covered(&End::at(a, record.last_ns, cx), record.first_ns);
                    endpoints.iter().all(|(address, _)| covered(*address))
                });
            for receiver in sole {
                self.enqueue(receiver);
            }
            if all_told {
                if let Some(record) = self.get_mut(id) {
                    record.primary = false;
                }
                return true;
            }
        }
        let Some(record) = self.get(id) else { return true };
        let may_be_told = match &to.what {
            What::Service(_) => true,
            _ => cx.is_covered(&to, record.first_ns),
        };
        if may_be_told && waited_ns(record, cx) < GRACE_NS {
            return false;
        }
        let case = Case {
            id,
            from: End::own(record, cx),
            to,
            traffic: record.view(),
            opener: Some(id),
            exact: true,
            by_receiver: false,
            opener_ns: 0,
        };
        self.settle(case, cx, losses)
    }

    fn settle(&mut self, case: Case, cx: &Cx<'_>, losses: &mut Losses) -> bool {
        let Some(record) = self.get(case.id) else {
            return true;
        };
        let waited_ns = waited_ns(record, cx);
        if is_nameless(&case, record) && waited_ns < SETTLE_NS {
            return false;
        }
        let key = Key::of(record);
        let seen = Seen {
            protocol: key.protocol,
            now: case.traffic,
            before: record.marks,
            by_receiver: case.by_receiver,
            receiver_is_covered: cx.is_covered(&case.to, record.first_ns),
            waited_ns,
            in_vain: case.exact
                && case.opener_ns > record.opener_ns
                && case.opener_ns > record.last_ns.saturating_add(VAIN_NS),
        };
        let outcome = seen.outcome();
        if outcome == Outcome::Wait {
            return false;
        }
        let delivered = seen.is_delivered();
        let (verdict, reason, leaked) = self.verdict(&case, outcome, cx);
        let amount = self.count(&case);
        let (from, to) = (case.from.tenant.map(Party::from), case.to.tenant.map(Party::from));
        match case.from.reason().or(case.to.reason()).or(unattributed(&reason)) {
            Some(reason) => self.totals.add_unattributed(reason, amount),
            None => self.totals.add(from, to, verdict, amount, losses),
        }
        self.note(&case, &key, verdict, outcome, &reason, amount, cx, losses);
        let window_ns = seconds(cx.policy.thresholds.windows.length_seconds);
        let Some(record) = self.get_mut(case.id) else {
            return true;
        };
        record.primary = true;
        record.leaked = leaked;
        record.marks = case.traffic;
        record.opener_ns = case.opener_ns;
        record.mark_rate(cx.now.mono_ns, window_ns);
        record.judged = Some(Judged {
            from: case.from,
            to: case.to,
            verdict,
            reason: reason.text(),
            delivered,
            traffic: case.traffic,
        });
        true
    }

    /// The verdict, why, and whether a connection was ever made against the policies in force.
    fn verdict(&self, case: &Case, outcome: Outcome, cx: &Cx<'_>) -> (Verdict, Why, bool) {
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
        let ruling = rule(&case.from, &case.to, protocol, port, cx);
        let at_ns = record.map_or(0, |r| r.last_ns);
        if let Ruling::Unattributed(reason) = ruling {
            return (Verdict::Unknown, Why::Unattributed(reason), leaked);
        }
        if let Ruling::Allowed(by) = ruling {
            return (Verdict::Allowed, Why::Words(by), false);
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
                let why = "no answer, and no agent where it went";
                return (Verdict::Unknown, Why::Words(Arc::from(why)), leaked);
            }
            Outcome::Nothing => {
                if let Some(before) = record.and_then(|r| r.judged.as_ref()) {
                    return (before.verdict, Why::Words(Arc::clone(&before.reason)), leaked);
                }
            }
            Outcome::Delivered | Outcome::Continues => {}
        }
        match ruling {
            Ruling::Denied { why, since_ns } => match outcome {
                Outcome::Delivered if since_ns > 0 && at_ns < since_ns.saturating_add(ENFORCE_NS) => {
                    let early = format!("the policies are too new to be enforced for certain: {why}");
                    (Verdict::Unknown, Why::Words(early.into()), leaked)
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

    /// What is new of a flow. Nothing is counted twice: what its opener's record was counted for before this one came is taken off.
    fn count(&mut self, case: &Case) -> Amount {
        let Some(record) = self.get(case.id) else {
            return Amount::default();
        };
        let mut level = record.above_base();
        if case.by_receiver && case.exact {
            // Only the opener knows what it began.
            level.opened = case
                .opener
                .and_then(|id| self.get(id))
                .map_or(0, |o| o.above_base().opened);
        }
        let counted = record.counted.plus(&record.matched);
        let mut grown = level.less(&counted);
        let joined = case.by_receiver && record.partner != case.opener;
        let before = record.counted;
        let mut over = Traffic::default();
        if case.by_receiver
            && let Some(opener) = case.opener.and_then(|id| self.get_mut(id))
        {
            let all = opener.above_base();
            if joined {
                // Counted here while the opener was not known.
                let room = all.less(&opener.counted).less(&opener.matched);
                opener.matched = opener.matched.plus(&before.least(&room));
            }
            let sum = opener.counted.plus(&opener.matched).plus(&grown);
            over = opener.counted.least(&sum.less(&all)).least(&grown);
            opener.counted = opener.counted.less(&over);
            opener.matched = opener.matched.plus(&grown);
            // Shown by itself only for what it alone was counted for.
            opener.primary &= opener.counted.packets() > 0;
        }
        if let Some(record) = self.get_mut(case.id) {
            record.counted = record.counted.plus(&grown);
            if case.by_receiver {
                record.partner = case.opener;
            }
        }
        let connections = |t: &Traffic| t.opened.max(t.established);
        let connections = connections(&before.plus(&grown)).saturating_sub(connections(&before));
        let connections = connections.saturating_sub(over.opened.max(over.established));
        grown = grown.less(&over);
        Amount {
            bytes: grown.bytes(),
            packets: grown.packets(),
            connections,
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one caller")]
    fn note(
        &mut self,
        case: &Case,
        key: &Key,
        verdict: Verdict,
        outcome: Outcome,
        reason: &Why,
        amount: Amount,
        cx: &Cx<'_>,
        losses: &mut Losses,
    ) {
        let (from, to) = (&case.from, &case.to);
        self.reach.note(from, to, outcome, cx, losses);
        let failed = outcome == Outcome::Failed;
        if failed && case.opener.is_some() && verdict != Verdict::Allowed {
            self.probes.note(from, to, key, cx, losses);
        }
        let happened = matches!(outcome, Outcome::Delivered | Outcome::Continues);
        let (Some(a), Some(b)) = (from.named_tenant(), to.named_tenant()) else {
            return;
        };
        let node = [from, to].map(|e| e.node.as_deref());
        let covered = node.iter().flatten().map(|n| cx.covered(n)).fold(1.0, f64::min);
        let deed = Deed {
            from: (a, from),
            to: (b, to),
            key: *key,
            why: reason.text(),
            amount,
            seen_by_both: case.by_receiver && case.opener.is_some(),
            covered,
        };
        match verdict {
            Verdict::Open if happened => self.flat.note(deed, cx, losses),
            Verdict::Leaked if happened => self.leaks.note(deed, cx, losses),
            _ => {}
        }
    }
}

/// Why a verdict is what it is.
enum Why {
    Words(Arc<str>),
    Unattributed(Reason),
}

impl Why {
    fn text(&self) -> Arc<str> {
        match self {
            Self::Words(words) => Arc::clone(words),
            Self::Unattributed(reason) => Arc::from(reason.as_str()),
        }
    }
}

fn unattributed(why: &Why) -> Option<Reason> {
    match why {
        Why::Unattributed(reason) => Some(*reason),
        Why::Words(_) => None,
    }
}

fn waited_ns(record: &Record, cx: &Cx<'_>) -> u64 {
    record
        .waits_since_ns
        .map_or(u64::MAX, |since| cx.now.mono_ns.saturating_sub(since))
}

/// The peer is a pod by its address alone, and its own node's agent would know of it.
fn needs_confirmation(record: &Record, from: &End, cx: &Cx<'_>) -> bool {
    let Some(pod) = from.pod() else { return false };
    let own = matches!(&record.owner, crate::node::slot::Kind::Pod(uid) if *uid == pod.uid);
    !own && cx.is_covered(from, record.first_ns)
}

/// A name may still be on its way. What has been looked at before is not waited for again.
fn is_nameless(case: &Case, record: &Record) -> bool {
    let nameless = |end: &End| match end.what {
        What::Unnamed(reason) => reason == Reason::PodUnknown,
        What::Outside { private } => private && record.judged.is_none(),
        _ => false,
    };
    nameless(&case.from) || nameless(&case.to)
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
