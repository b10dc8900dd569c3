//! What a judgement of flows may look at.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ends::{End, What};
use crate::identity::Directory;
use crate::limits::NS_PER_S;
use crate::node::Node;
use crate::policy::{Policy, Side};
use crate::world::Now;

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
    pub(super) fn is_covered(&self, end: &End, since_ns: u64) -> bool {
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
            address: end.has_address.then_some(end.address),
        }
    }
}
