//! Traffic that found no place among an agent's flows: whose it is, and nothing of where it went.

use std::sync::Arc;

use super::Table;
use super::cx::Cx;
use super::step::SETTLE_NS;
use super::totals::Amount;
use crate::identity::TenantId;
use crate::limits::MAX_FLOWS_PER_NODE;
use crate::losses::Losses;
use crate::node::slot::Kind;
use crate::report::Traffic;
use crate::sums::Party;
use crate::trail::crossed::Whose;
use crate::trail::{Moments, reason};
use crate::world::Now;

/// Not yet in the sums.
#[derive(Debug)]
pub(super) struct Folded {
    /// Whose agent says so.
    node: Arc<str>,
    owner: Kind,
    grown: Traffic,
    pub(super) when: Moments,
    /// The aggregator's monotonic clock.
    at_ns: u64,
}

impl Table {
    pub(super) fn fold(
        &mut self,
        node: &Arc<str>,
        owner: Kind,
        grown: Traffic,
        moment: Option<(u64, u64)>,
        now: Now,
        losses: &mut Losses,
    ) {
        let when = Moments::from(moment);
        if self.folded.len() >= MAX_FLOWS_PER_NODE {
            let whose = Whose::OnNode(Arc::clone(node));
            self.crossed.doubt(whose, reason::FLOWS_FOLDED, &when);
            losses.add("window", "folded_cap", "bytes", grown.bytes());
            return;
        }
        self.folded.push(Folded {
            node: Arc::clone(node),
            owner,
            grown,
            when,
            at_ns: now.mono_ns,
        });
    }

    /// Enters what has a name, and what has had its time to get one.
    pub(super) fn judge_folded(&mut self, cx: &Cx<'_>) {
        for folded in std::mem::take(&mut self.folded) {
            let party = match &folded.owner {
                Kind::Pod(uid) => {
                    let pod = cx.directory.pod(uid);
                    if pod.is_none() && cx.now.mono_ns.saturating_sub(folded.at_ns) < SETTLE_NS {
                        self.folded.push(folded);
                        continue;
                    }
                    // Another node's pod: this agent cannot know what it did.
                    let pod = pod.filter(|p| p.node.as_ref().is_none_or(|n| *n == folded.node));
                    if let Some(pod) = pod {
                        let t = &folded.grown;
                        let failed = t.refused.saturating_add(t.timed_out);
                        let vain = t.opened.saturating_sub(t.established).max(failed);
                        self.probes.note_folded(pod, vain, cx);
                    }
                    pod.map_or(Party::UNKNOWN, |p| Party::from(p.tenant))
                }
                Kind::Host(path) => {
                    let rule = cx.policy.path_rule(path);
                    let tenant = rule.and_then(|(_, r)| cx.directory.tenants.find(&r.tenant));
                    Party::from(tenant.unwrap_or(TenantId::SYSTEM))
                }
                Kind::Unknown(_) => Party::UNKNOWN,
            };
            self.totals.add_folded(party, Amount::of(&folded.grown));
            let whose = party
                .tenant()
                .map_or_else(|| Whose::OnNode(folded.node), Whose::Tenant);
            self.crossed.doubt(whose, reason::FLOWS_FOLDED, &folded.when);
        }
    }
}
