//! What was judged since it was taken last: what moved between tenants, and what of it cannot be told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::hours::GapKey;
use super::slots::Moments;
use crate::identity::TenantId;
use crate::limits::MAX_TRAFFIC_SUMS;
use crate::node::slot::Kind;
use crate::traffic::Verdict;

/// Something moved between two tenants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Who opened.
    pub from: Arc<str>,
    pub to: Arc<str>,
    /// `Unknown` and not delivered: whether it arrived was not seen.
    pub verdict: Verdict,
    pub delivered: bool,
    pub bytes: u64,
    pub packets: u64,
    pub connections: u64,
    /// In one of the slots from a first to a last, each.
    pub when: Vec<(u64, u64)>,
}

/// Something may have moved unseen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// Empty: anybody's.
    pub tenant: Arc<str>,
    pub reason: &'static str,
    pub node: Arc<str>,
    /// All of the slots from a first to a last, each.
    pub when: Vec<(u64, u64)>,
}

/// A tenant sent another's pod on a node something, in a slot that was looked at already: whether it arrived is known if that node's agent told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub from: Arc<str>,
    pub to: Arc<str>,
    pub node: Arc<str>,
    pub slots: BTreeSet<u64>,
}

/// What nobody told of in a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Untold {
    pub gaps: Vec<GapKey>,
    /// Who sent whom something of which it is not known whether it arrived.
    pub unheard: Vec<(Arc<str>, Arc<str>)>,
}

/// Everything that is new.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    pub moved: Vec<Moved>,
    pub doubts: Vec<Doubt>,
    pub sent: Vec<Sent>,
    /// Slots that were written as not told by this node's agent, and now are: node, slot.
    pub told: Vec<(Arc<str>, u64)>,
    /// Who is on those nodes now: node, tenant. What somebody did who was, it does not tell.
    pub tenants: BTreeSet<(Arc<str>, Arc<str>)>,
}

/// Whose traffic it may have been.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Whose {
    Anybody,
    Tenant(TenantId),
    /// Of whoever has pods on this node.
    OnNode(Arc<str>),
    /// Of what a node's agent names so.
    Owner(Arc<str>, Kind),
}

pub(crate) type Pair = (TenantId, TenantId, Verdict, bool);

/// Who sent, to whom, on which node.
pub(crate) type Route = (TenantId, TenantId, Arc<str>);

#[derive(Debug, Default)]
pub(crate) struct Sum {
    pub(crate) bytes: u64,
    pub(crate) packets: u64,
    pub(crate) connections: u64,
    pub(crate) when: BTreeSet<(u64, u64)>,
}

/// Moments of one pair between two judgements. Beyond, a minute's worth of them is one.
const MAX_WHEN: usize = 1_024;

/// Filled where somebody takes it.
#[derive(Debug, Default)]
pub(crate) struct Crossed {
    pub(crate) on: bool,
    pub(crate) between: BTreeMap<Pair, Sum>,
    pub(crate) doubts: BTreeMap<(Whose, &'static str), BTreeSet<(u64, u64)>>,
    /// Slots in which a tenant sent something to another's pod on a node, over what that node's agent had told of before.
    pub(crate) sent: BTreeMap<Route, BTreeSet<u64>>,
    /// Slots in which something moved that is not judged yet.
    pub(crate) pending: BTreeSet<u64>,
}

impl Crossed {
    pub(crate) fn enter(&mut self, pair: Pair, amounts: [u64; 3], when: &Moments) {
        if !self.on {
            return;
        }
        if self.between.len() >= MAX_TRAFFIC_SUMS && !self.between.contains_key(&pair) {
            return self.doubt(Whose::Anybody, super::reason::TRAIL_FULL, when);
        }
        let sum = self.between.entry(pair).or_default();
        sum.bytes = sum.bytes.saturating_add(amounts[0]);
        sum.packets = sum.packets.saturating_add(amounts[1]);
        sum.connections = sum.connections.saturating_add(amounts[2]);
        merge(&mut sum.when, when);
    }

    pub(crate) fn doubt(&mut self, whose: Whose, reason: &'static str, when: &Moments) {
        if self.on && !when.is_empty() {
            merge(self.doubts.entry((whose, reason)).or_default(), when);
        }
    }

    /// It arrived if the node's agent says so, and did not if that tells of the whole slot and not of this.
    pub(crate) fn send(&mut self, from: TenantId, to: TenantId, node: &Arc<str>, when: &Moments) {
        if self.on && from != to {
            let slots = self.sent.entry((from, to, Arc::clone(node))).or_default();
            slots.extend(when.iter().flat_map(|(first, last)| *first..=*last));
        }
    }

    /// Of whom it cannot be told whether it arrived in this slot, if these nodes' agents did not tell of it. Asked once.
    pub(crate) fn take_unheard(
        &mut self,
        slot: u64,
        untold: &BTreeSet<Arc<str>>,
    ) -> Vec<(TenantId, TenantId)> {
        let mut out = Vec::new();
        self.sent.retain(|(from, to, node), slots| {
            if slots.remove(&slot) && untold.contains(node) {
                out.push((*from, *to));
            }
            !slots.is_empty()
        });
        out
    }

    /// What was sent in slots before `end`, which were looked at before this was told.
    pub(crate) fn take_sent_before(&mut self, end: u64) -> Vec<(Route, BTreeSet<u64>)> {
        let mut out = Vec::new();
        self.sent.retain(|route, slots| {
            let later = slots.split_off(&end);
            let before = std::mem::replace(slots, later);
            if !before.is_empty() {
                out.push((route.clone(), before));
            }
            !slots.is_empty()
        });
        out
    }

    /// Looked at in each judgement, once everything was: what waits.
    pub(crate) fn wait_for<'a>(&mut self, moments: impl Iterator<Item = &'a Moments>) {
        self.pending.clear();
        if self.on {
            for (first, last) in moments.flat_map(Moments::iter) {
                self.pending.extend(*first..=*last);
            }
        }
    }
}

fn merge(into: &mut BTreeSet<(u64, u64)>, when: &Moments) {
    for (first, last) in when.iter() {
        let (mut first, mut last) = (*first, *last);
        if into.len() >= MAX_WHEN
            && let Some((a, b)) = into.pop_last()
        {
            (first, last) = (first.min(a), last.max(b));
        }
        into.insert((first, last));
    }
}
