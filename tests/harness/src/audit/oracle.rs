//! What the answers must be: from the plan, and from what was away. It knows nothing of how the aggregator finds them.

use std::collections::BTreeSet;

use partywall_proto::v1::Reached;

use super::{
    node::Done,
    plan::{Burst, Place, Plan, S, SLOT, places},
};

pub(super) struct Oracle<'a> {
    pub(super) plan: &'a Plan,
    /// By node.
    pub(super) done: &'a [Done],
    /// The first slot that the second aggregator watched from its beginning, since 1970.
    pub(super) watched_again: u64,
}

impl Oracle<'_> {
    /// Slots in which no aggregator lived from their beginning until they were written: a slot is written five seconds after its end.
    fn away(&self, slot: u64) -> bool {
        let written_ns = (slot + 1) * SLOT + 5 * S;
        written_ns > self.plan.kill_ns && slot < self.watched_again
    }

    /// An agent told all of the slot.
    fn told(&self, node: usize, slot: u64) -> bool {
        let overlaps = |(from, to): &(u64, u64)| *from < (slot + 1) * SLOT && *to > slot * SLOT;
        !self.done[node].blind.iter().any(overlaps)
    }

    /// The first that a flow from before does after the aggregator's restart is what its counters are measured against from then on: of one end's agent.
    fn is_base(&self, node: usize, number: usize) -> bool {
        let this = &self.plan.bursts[number];
        let begun_ns = self.done[node].blind.iter().map(|(_, to)| *to).max().unwrap_or(0);
        let same = |b: &&Burst| b.from == this.from && b.to == this.to && b.at_ns < this.at_ns;
        let (mut known, mut measured) = (false, false);
        for before in self.plan.bursts.iter().filter(same) {
            known |= before.at_ns > begun_ns && before.at_ns < self.plan.kill_ns;
            measured |= before.at_ns > self.plan.kill_ns;
        }
        this.at_ns > self.plan.kill_ns && known && !measured
    }

    /// A burst that the trail must know of: one end's agent told it, and knew what had been before.
    fn is_seen(&self, number: usize) -> bool {
        let burst = &self.plan.bursts[number];
        let told = |node: usize| self.done[node].told.contains_key(&number) && !self.is_base(node, number);
        !self.away(burst.at_ns / SLOT) && (told(burst.from.node) || told(burst.to.node))
    }

    /// Whatever this tenant did or was done to in the slot was told.
    fn vouches(&self, tenant: &str, slot: u64) -> bool {
        let nodes: BTreeSet<usize> = places()
            .iter()
            .filter(|place| place.tenant == tenant)
            .map(|place| place.node)
            .collect();
        let doubted = self.plan.bursts.iter().enumerate().any(|(number, burst)| {
            let of = |place: &Place| place.tenant == tenant && self.is_base(place.node, number);
            burst.at_ns / SLOT == slot && (of(&burst.from) || of(&burst.to))
        });
        !doubted && nodes.into_iter().all(|node| self.told(node, slot))
    }

    pub(super) fn answer(&self, from: &str, to: &str, first: u64, end: u64) -> Reached {
        let seen = self.plan.bursts.iter().enumerate().any(|(number, burst)| {
            burst.from.tenant == from
                && burst.to.tenant == to
                && (first..end).contains(&(burst.at_ns / SLOT))
                && self.is_seen(number)
        });
        if seen {
            return Reached::Yes;
        }
        let covered = |slot: u64| !self.away(slot) && (self.vouches(from, slot) || self.vouches(to, slot));
        if (first..end).all(covered) {
            Reached::No
        } else {
            Reached::Unknown
        }
    }
}
