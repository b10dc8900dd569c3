//! What a judgement of flows may look at.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ends::{End, What};
use crate::identity::Directory;
use crate::limits::NS_PER_S;
use crate::node::Node;
use crate::policy::{Policy, Side};
use crate::world::Now;

/// A node that was silent for longer does not vouch for anything, unless its agent reports more seldom: see [`fresh_ns`].
const FRESH_NS: u64 = 10 * NS_PER_S;
/// So many of its intervals an agent may be late.
const LATE_INTERVALS: u64 = 3;
/// By how much a report must have been captured later to hold what was on the way: packets take their time, and clocks are compared by way of reports.
const LATER_NS: u64 = NS_PER_S / 2;

/// What a judgement may look at.
pub(crate) struct Cx<'a> {
    pub(crate) directory: &'a Directory,
    pub(crate) policy: &'a Policy,
    pub(crate) now: Now,
    covers: BTreeMap<Arc<str>, Cover>,
}

/// A node whose agent reports flows. Times are on the aggregator's monotonic clock.
struct Cover {
    since_ns: u64,
    /// When its last report was captured.
    told_ns: u64,
    interval_ns: u64,
    /// Of the window, as far as it was seen.
    share: f64,
}

/// Agents report as often as they are told to, once a minute at the least.
fn fresh_ns(interval_ns: u64) -> u64 {
    FRESH_NS.max(LATE_INTERVALS * interval_ns)
}

impl<'a> Cx<'a> {
    pub(crate) fn new<'n>(
        directory: &'a Directory,
        policy: &'a Policy,
        nodes: impl Iterator<Item = &'n Node>,
        now: Now,
    ) -> Self {
        let fresh =
            nodes.filter(|n| now.mono_ns.saturating_sub(n.received_ns) < fresh_ns(n.flows.interval_ns));
        let covers = fresh
            .filter_map(|n| {
                let cover = Cover {
                    since_ns: n.flows.since_ns?,
                    told_ns: n.flows.at_ns,
                    interval_ns: n.flows.interval_ns,
                    share: n.covered(&policy.thresholds),
                };
                Some((Arc::clone(&n.name), cover))
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
    pub(super) fn is_covered(&self, end: &End, since_ns: u64) -> bool {
        let node = end.node.as_ref().and_then(|n| self.covers.get(n));
        node.is_some_and(|cover| cover.since_ns <= since_ns)
    }

    /// Its agent has reported nothing yet that it read after `since_ns`, and will: it is cut off for a moment, or reports seldom.
    pub(super) fn awaits(&self, end: &End, since_ns: u64) -> bool {
        let node = end.node.as_ref().and_then(|n| self.covers.get(n));
        node.is_some_and(|cover| {
            cover.told_ns < since_ns.saturating_add(LATER_NS)
                && self.now.mono_ns.saturating_sub(since_ns) < fresh_ns(cover.interval_ns)
        })
    }

    /// What a node's agent tells may be two of its intervals apart from what another's does.
    pub(super) fn apart_ns(&self, nodes: [&str; 2]) -> u64 {
        let interval_ns = |node| self.covers.get(node).map_or(0, |cover| cover.interval_ns);
        2 * nodes.map(interval_ns).into_iter().fold(0, u64::max)
    }

    pub(super) fn covered(&self, node: &str) -> f64 {
        self.covers.get(node).map_or(0.0, |cover| cover.share)
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
            address: end.has_address.then_some(end.address),
        }
    }
}
