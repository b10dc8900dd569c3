//! A judgement: every record that moved, and every one whose wait is over.

use super::between::Deed;
use super::cx::Cx;
use super::ends::{End, Reason, What};
use super::join::Opener;
use super::outcome::{GRACE_NS, Outcome, Seen, TCP};
use super::record::{Judged, Record};
use super::totals::{Amount, Verdict};
use super::verdict::{Why, unattributed};
use super::{Key, Table};
use crate::breach::seconds;
use crate::finding::Finding;
use crate::limits::NS_PER_S;
use crate::losses::Losses;
use crate::report::{Role, Traffic};
use crate::sums::Party;

/// The opener's agent has this long to confirm what a receiver's says: its interval, and what a network takes. This and the grace last until it has
/// reported once more.
const CONFIRM_NS: u64 = 2_500_000_000;
/// An opener that is heard of this much later than its receiver sends in vain.
const VAIN_NS: u64 = 3 * NS_PER_S;
/// A name may come this much later than the first counters.
pub(super) const SETTLE_NS: u64 = 5 * NS_PER_S;

/// What is judged of one flow.
pub(super) struct Case {
    pub(super) id: u32,
    pub(super) from: End,
    pub(super) to: End,
    /// From the opener's side, with what only the opener knows.
    pub(super) traffic: Traffic,
    pub(super) opener: Option<u32>,
    /// The opener named the receiver's own address.
    pub(super) exact: bool,
    pub(super) by_receiver: bool,
    /// When the opener was last heard of.
    pub(super) opener_ns: u64,
    /// What its own record says, if that is about this flow alone.
    pub(super) told: Traffic,
    /// A receiver's record has it too, with what others sent: it does not tell what of this arrived.
    pub(super) shared: bool,
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
                    record.rest();
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
        self.note_pending();
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
            Role::Opened | Role::Unknown => self.judge_opener(id, cx, losses),
        }
    }

    fn judge_receiver(&mut self, id: u32, cx: &Cx<'_>, losses: &mut Losses) -> bool {
        let Some(record) = self.get(id) else { return true };
        let to = End::own(record, cx);
        let case = match self.opener_of(record, cx) {
            Opener::Several => {
                // Each opener's own record is counted instead.
                if let Some(record) = self.get_mut(id) {
                    let _told_by_them = record.take_moments();
                    record.primary = false;
                    record.set_marks(record.view());
                    record.set_counted(record.above_base());
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
                let told = if exact { o.view() } else { Traffic::default() };
                Case {
                    id,
                    from: End::own(o, cx),
                    to,
                    traffic,
                    opener: Some(opener),
                    exact,
                    by_receiver: true,
                    opener_ns: o.last_ns,
                    told,
                    shared: false,
                }
            }
            Opener::None => {
                let mut from = End::peer(record, cx);
                if needs_confirmation(record, &from, cx) {
                    if is_waited_for(record, CONFIRM_NS, &from, cx) {
                        return false;
                    }
                    // What a node masqueraded keeps that node's name.
                    if from.pod().is_some() {
                        from = from.unnamed(Reason::SourceUnconfirmed);
                    }
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
                    told: Traffic::default(),
                    shared: false,
                }
            }
        };
        self.settle(case, cx, losses)
    }

    fn judge_opener(&mut self, id: u32, cx: &Cx<'_>, losses: &mut Losses) -> bool {
        let Some(record) = self.get(id) else { return true };
        let receivers = self.receivers_of(record, cx);
        let has_receivers = !receivers.is_empty();
        let sole: Vec<u32> = receivers
            .into_iter()
            .filter(|r| {
                let receiver = self.get(*r);
                receiver.is_some_and(|r| matches!(self.opener_of(r, cx), Opener::One { .. }))
            })
            .collect();
        let key = Key::of(record);
        let to = End::peer(record, cx);
        let shared = has_receivers && sole.is_empty();
        let waits_since_ns = record.waits_since_ns();
        if !sole.is_empty() {
            // Through a Service, what went to endpoints whose nodes have no agent is in this record alone.
            let addresses = cx.directory.addresses();
            let all_told = addresses
                .behind(key.to, key.protocol, key.port)
                .is_none_or(|endpoints| {
                    let covered = |a| cx.is_covered(&End::at(a, record.last_ns, cx), record.first_ns);
                    endpoints.iter().all(|(address, _)| covered(*address))
                });
            let grew = if all_told {
                self.get_mut(id).map(Record::take_own_moments)
            } else {
                None
            };
            for receiver in sole {
                if let Some(record) = self.get_mut(receiver) {
                    grew.iter().for_each(|grew| record.add_theirs(grew));
                    // What is new may be told of by the receiver's agent in a moment.
                    record.wait_since(waits_since_ns);
                }
                self.enqueue(receiver);
            }
            if all_told {
                if let Some(record) = self.get_mut(id) {
                    // Theirs to judge: once they are gone, it has not all happened anew.
                    record.hand_over();
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
        let mut to = to;
        if record.flow.role == Role::Unknown {
            // Neither end knows: of two such records one is counted.
            let twin = self.unknown.contains_key(&(key.to, key.from, key.protocol));
            if twin && key.to < key.from {
                let own = End::own(record, cx);
                let when = self.get_mut(id).map(|record| {
                    record.primary = false;
                    record.take_own_moments()
                });
                self.cross_unnamed(&own, &when.unwrap_or_default());
                return true;
            }
            to = to.unnamed(Reason::OpenerUnknown);
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
            told: record.view(),
            shared,
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
        let joined = case.by_receiver && record.partner() != case.opener;
        // Who it was is known only now: nothing of what it did was judged as its own.
        let renamed = joined
            && record.partner().is_none()
            && record.judged().is_some_and(|j| !is_same(&j.from, &case.from));
        // A handshake ends at the opener, whose record tells; of a datagram the receiver's does.
        let teller = if key.protocol == TCP { &case.from } else { &case.to };
        let seen = Seen {
            protocol: key.protocol,
            now: case.traffic,
            before: if renamed {
                Traffic::default()
            } else {
                record.marks()
            },
            told: case.told,
            told_before: match (joined, case.by_receiver) {
                (true, _) => Traffic::default(),
                (false, true) => record.settled().map_or_else(Traffic::default, |s| s.told.get()),
                (false, false) => record.marks(),
            },
            by_receiver: case.by_receiver,
            receiver_is_covered: !case.shared && cx.is_covered(&case.to, record.first_ns),
            patient: is_waited_for(record, GRACE_NS, teller, cx),
            opener_tells: case.exact,
            in_vain: case.exact
                && case.opener_ns > record.settled().map_or(0, |s| s.opener_ns)
                && case.opener_ns > record.last_ns.saturating_add(VAIN_NS),
        };
        let outcome = seen.outcome();
        if outcome == Outcome::Wait {
            return false;
        }
        let (delivered, passes) = (seen.is_delivered(), seen.passes(outcome));
        let (verdict, reason, leaked) = self.verdict(&case, outcome, cx);
        let amount = self.count(&case);
        let done = match self.get(case.id) {
            // In the sums it is already.
            Some(record) if renamed => Amount::of(&record.above_base()),
            _ => amount,
        };
        let (from, to) = (case.from.tenant.map(Party::from), case.to.tenant.map(Party::from));
        match case.from.reason().or(case.to.reason()).or(unattributed(&reason)) {
            Some(reason) => self.totals.add_unattributed(reason, amount),
            None => self.totals.add(from, to, verdict, amount, losses),
        }
        self.cross(&case, verdict, outcome, passes, &reason, amount, renamed);
        self.note(&case, &key, verdict, outcome, &reason, done, cx, losses);
        let reason = self.reasons.of(reason.text());
        let window_ns = seconds(cx.policy.thresholds.windows.length_seconds);
        let Some(record) = self.get_mut(case.id) else {
            return true;
        };
        record.primary = true;
        record.leaked = leaked;
        record.set_marks(case.traffic);
        record.mark_rate(cx.now.mono_ns, window_ns);
        let settled = record.settle();
        settled.opener_ns = case.opener_ns;
        if case.by_receiver {
            settled.told.set(case.told);
        }
        settled.judged = Some(Judged {
            from: case.from,
            to: case.to,
            verdict,
            reason,
            delivered,
        });
        true
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
        self.reach.note(from, to, key.protocol, outcome, cx, losses);
        let failed = outcome == Outcome::Failed;
        if failed && case.opener.is_some() && verdict != Verdict::Allowed {
            self.probes.note(from, to, key, cx, losses);
        }
        let happened = matches!(outcome, Outcome::Delivered | Outcome::Continues);
        if happened {
            // Through a Service it was tried at the Service's address.
            let asked = case.opener.and_then(|id| self.get(id)).map(Key::of);
            self.probes.answered(from, key);
            asked.iter().for_each(|asked| self.probes.answered(from, asked));
        }
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

fn waited_ns(record: &Record, cx: &Cx<'_>) -> u64 {
    record
        .waits_since_ns()
        .map_or(u64::MAX, |since| cx.now.mono_ns.saturating_sub(since))
}

/// What has not been waited for long enough, or until the end's agent has reported once more.
fn is_waited_for(record: &Record, least_ns: u64, end: &End, cx: &Cx<'_>) -> bool {
    waited_ns(record, cx) < least_ns || record.waits_since_ns().is_some_and(|since| cx.awaits(end, since))
}

/// The peer is a pod by its address alone, or somebody on a node, and that node's agent would know of it.
fn needs_confirmation(record: &Record, from: &End, cx: &Cx<'_>) -> bool {
    let may_be_another = match &from.what {
        What::Pod(pod) => !matches!(&record.owner, crate::node::slot::Kind::Pod(uid) if *uid == pod.uid),
        // What was masqueraded nobody will tell of: it is waited for once.
        What::Node(_) => record.judged().is_none(),
        _ => false,
    };
    may_be_another && cx.is_covered(from, record.first_ns)
}

fn is_same(a: &End, b: &End) -> bool {
    a.tenant == b.tenant && a.pod().map(|p| &p.uid) == b.pod().map(|p| &p.uid)
}

/// A name may still be on its way. What has been looked at before is not waited for again.
fn is_nameless(case: &Case, record: &Record) -> bool {
    let nameless = |end: &End| match end.what {
        What::Unnamed(reason) => reason == Reason::PodUnknown,
        What::Outside { private } => private && record.judged().is_none(),
        _ => false,
    };
    nameless(&case.from) || nameless(&case.to)
}
