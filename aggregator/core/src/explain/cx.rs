//! What an explanation may look at.

use std::cell::OnceCell;
use std::collections::BTreeMap;
#[allow(clippy::disallowed_types, reason = "only looked up in, never walked")]
use std::collections::HashMap;
use std::sync::Arc;

use crate::breach::{Breach, BreachKind, Story};
use crate::finding::{Detail, Reached};
use crate::identity::{Directory, PodObject, TenantId};
use crate::judge::display;
use crate::node::slot::Counter;
use crate::node::{Node, Window};
use crate::policy::{Policy, Thresholds};
use crate::sums::Unit;
use crate::traffic::{FlowFilter, FlowList, Table};
use crate::world::Now;

pub(crate) struct Cx<'a> {
    pub(crate) directory: &'a Directory,
    pub(crate) policy: &'a Policy,
    pub(crate) nodes: &'a BTreeMap<Arc<str>, Node>,
    pub(crate) traffic: &'a Table,
    pub(crate) judged: Now,
    pub(crate) now: Now,
    pub(crate) story: Story,
    /// Made when a pod is first asked for.
    pub(crate) pods: OnceCell<ByName<'a>>,
}

/// Pods by namespace and name.
#[allow(clippy::disallowed_types, reason = "see the import")]
pub(crate) type ByName<'a> = HashMap<(&'a str, &'a str), &'a PodObject>;

/// A unit, and where it is.
pub(super) struct Found<'a> {
    pub(super) node: &'a Node,
    pub(super) at: u32,
    pub(super) unit: &'a Unit,
}

impl Found<'_> {
    /// Over the long window; `None`: nothing of it was seen.
    pub(super) fn used_cores(&self) -> Option<f64> {
        let seen_ns = self.node.window_ns(Window::Long);
        let slots = self.node.slots().filter(|slot| slot.unit == self.at);
        let run_ns: u64 = slots
            .map(|slot| slot.sum[Window::Long as usize][Counter::Run as usize])
            .fold(0, u64::saturating_add);
        (seen_ns > 0).then(|| run_ns as f64 / seen_ns as f64)
    }

    pub(super) fn memory_bytes(&self) -> Option<u64> {
        let slots = self.node.slots().filter(|slot| slot.unit == self.at);
        let newest = slots
            .filter_map(|slot| slot.memory.as_deref())
            .max_by_key(|m| m.at_ns)?;
        newest.newest.working_set_bytes.or(newest.newest.current_bytes)
    }
}

impl<'a> Cx<'a> {
    pub(super) fn breach(&self) -> &Breach {
        &self.story.breach
    }

    pub(super) fn kind(&self) -> BreachKind {
        self.breach().key.kind
    }

    pub(super) fn thresholds(&self) -> &'a Thresholds {
        &self.policy.thresholds
    }

    /// A figure of the evidence.
    pub(super) fn figure(&self, name: &str) -> Option<f64> {
        let figures = self.breach().evidence.iter();
        figures.into_iter().find(|f| f.name == name).map(|f| f.value)
    }

    pub(super) fn tenant(&self, name: &str) -> Option<TenantId> {
        self.directory.tenants.find(name)
    }

    /// The Pod object of "namespace/name"; of several of that name the one on the breach's node.
    pub(super) fn pod(&self, name: &str) -> Option<&'a PodObject> {
        let (namespace, name) = name.split_once('/')?;
        let by_name = self.pods.get_or_init(|| self.by_name());
        by_name.get(&(namespace, name)).copied()
    }

    fn by_name(&self) -> ByName<'a> {
        let node = &*self.breach().key.node;
        let is_there = |pod: &PodObject| pod.node.as_deref() == Some(node);
        let mut out = ByName::default();
        for pod in self.directory.cluster().pods.iter().filter(|pod| !pod.terminal) {
            let pod: &'a PodObject = pod;
            let named = out
                .entry((pod.namespace.as_str(), pod.name.as_str()))
                .or_insert(pod);
            if !is_there(named) && is_there(pod) {
                *named = pod;
            }
        }
        out
    }

    /// Everything that is judged, where it is.
    pub(super) fn units(&self) -> impl Iterator<Item = Found<'a>> {
        let nodes = self.nodes;
        nodes.values().flat_map(|node| {
            let units = node.units.iter().enumerate();
            units.map(move |(at, unit)| Found {
                node,
                at: at as u32,
                unit,
            })
        })
    }

    /// What a breach calls `name`, on its node where it has one.
    pub(super) fn unit(&self, name: &str) -> Option<Found<'a>> {
        let node = Arc::clone(&self.breach().key.node);
        let directory = self.directory;
        self.units().find(|found| {
            (node.is_empty() || found.node.name == node) && display(found.unit, &directory.tenants) == name
        })
    }

    pub(super) fn reached(&self) -> &[Reached] {
        match &self.story.detail {
            Detail::Reached(reached) => reached,
            _ => &[],
        }
    }

    pub(super) fn flows(&self, filter: &FlowFilter) -> FlowList {
        self.traffic
            .list(filter, self.directory, self.policy, self.judged)
    }

    /// Namespaces of a tenant, with one that may not be known.
    pub(super) fn namespaces_of(&self, tenant: &str) -> Vec<String> {
        let id = self.tenant(tenant);
        let all = self.directory.namespaces();
        all.filter(|(_, of, _)| Some(*of) == id)
            .map(|(name, ..)| name.to_string())
            .collect()
    }
}
