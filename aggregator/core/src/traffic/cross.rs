//! What of a judgement is for the trail: what moved between tenants and when, and what cannot be told of whom.

use std::sync::Arc;

use super::Table;
use super::ends::{End, Reason, What};
use super::outcome::Outcome;
use super::step::Case;
use super::totals::{Amount, Verdict};
use super::verdict::{Why, unattributed};
use crate::trail::crossed::Whose;
use crate::trail::{Moments, reason};

impl Table {
    /// What moved is entered at the time at which it did, not at that of its judgement. A receiver's record says when; its opener's where that says nothing.
    #[expect(clippy::too_many_arguments, reason = "one caller")]
    pub(super) fn cross(
        &mut self,
        case: &Case,
        verdict: Verdict,
        outcome: Outcome,
        delivered: bool,
        why: &Why,
        amount: Amount,
        renamed: bool,
    ) {
        let Some(record) = self.get_mut(case.id) else {
            return;
        };
        let (mut own, theirs) = record.take_moments();
        if case.by_receiver && !theirs.is_empty() {
            self.note_sent(case, &theirs);
        }
        let when = if renamed {
            // What it did while nobody knew whose it was is told by its own record alone.
            own.add(&theirs);
            own
        } else if !own.is_empty() {
            own
        } else if amount != Amount::default() {
            theirs
        } else {
            return;
        };
        if !self.crossed.on {
            return;
        }
        let (from, to) = (&case.from, &case.to);
        if from.reason().or(to.reason()).or(unattributed(why)).is_some() {
            for end in [from, to] {
                self.cross_unnamed(end, &when);
            }
            return;
        }
        // Somebody behind a node's address whose own record is not among those of that node's agent: who, only the other end's agent may know.
        if case.by_receiver && case.opener.is_none() && matches!(from.what, What::Node(_)) {
            self.cross_unnamed(to, &when);
        }
        if !case.by_receiver && matches!(to.what, What::Node(_)) {
            self.cross_unnamed(from, &when);
        }
        let (Some(a), Some(b)) = (from.tenant, to.tenant) else {
            return;
        };
        let both_named = from.named_tenant().is_some() && to.named_tenant().is_some();
        // A Service of theirs that leads to no pod of theirs.
        if a == b || (both_named && verdict == Verdict::Within) {
            return;
        }
        let (verdict, delivered) = match outcome {
            Outcome::Delivered | Outcome::Continues => (verdict, true),
            Outcome::Failed => (verdict, false),
            Outcome::Nothing if delivered || verdict == Verdict::Blocked => (verdict, delivered),
            Outcome::Unseen | Outcome::Nothing | Outcome::Wait => (Verdict::Unknown, false),
        };
        let amounts = [amount.bytes, amount.packets, amount.connections];
        self.crossed.enter((a, b, verdict, delivered), amounts, &when);
    }

    /// Its opener sent. If the receiver's agent turns out not to have told of that time, nobody knows whether it arrived.
    fn note_sent(&mut self, case: &Case, when: &Moments) {
        match (case.from.tenant, case.to.tenant, &case.to.node) {
            (Some(from), Some(to), Some(node)) => self.crossed.send(from, to, node, when),
            (Some(from), ..) => self
                .crossed
                .doubt(Whose::Tenant(from), reason::UNNAMED_PEER, when),
            (None, ..) => self.cross_unnamed(&case.from, when),
        }
    }

    /// One end of something of which the other cannot be named, or which itself cannot be.
    pub(super) fn cross_unnamed(&mut self, end: &End, when: &Moments) {
        let whose = match (end.reason(), &end.node) {
            (None, _) => match end.tenant {
                Some(tenant) => Whose::Tenant(tenant),
                None => return,
            },
            // Its own agent knows it, and the cluster's data does not: it may be anybody's.
            (Some(Reason::PodUnknown), _) => Whose::Anybody,
            (Some(Reason::PodForeign | Reason::EntityUnknown), Some(node)) => Whose::OnNode(Arc::clone(node)),
            // Not named by its address: if it is a pod, its own agent tells of it.
            _ => return,
        };
        self.crossed.doubt(whose, reason::UNNAMED_PEER, when);
    }

    /// Slots in which something moved that waits for its judgement.
    pub(super) fn note_pending(&mut self) {
        let records = self.queue.iter().filter_map(|id| {
            let record = self.records.get(*id as usize)?.as_deref()?;
            Some(record.moments())
        });
        let folded = self.folded.iter().map(|folded| &folded.when);
        self.crossed.wait_for(records.flatten().chain(folded));
    }
}
