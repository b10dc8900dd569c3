//! Where nodes are: a zone is of one cluster, as a node is.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Node, Pod, Snapshot, Tenant};

/// Nodes by cluster and name.
#[derive(Debug)]
pub(crate) struct Zones<'a> {
    nodes: BTreeMap<(&'a str, &'a str), &'a Node>,
    /// Zones in all.
    pub count: usize,
}

impl<'a> Zones<'a> {
    pub(crate) fn new(snapshot: &'a Snapshot) -> Self {
        let nodes = snapshot.nodes.iter();
        let zones: BTreeSet<_> = nodes
            .clone()
            .filter(|node| !node.zone.is_empty())
            .map(|node| (&node.cluster, &node.zone))
            .collect();
        Self {
            nodes: nodes
                .map(|node| ((node.cluster.as_str(), node.name.as_str()), node))
                .collect(),
            count: zones.len(),
        }
    }

    /// Where zones say something: there is more than one.
    pub(crate) fn are_several(&self) -> bool {
        self.count > 1
    }

    /// Empty where it is not known.
    pub(crate) fn of_node(&self, cluster: &str, node: &str) -> &'a str {
        self.nodes.get(&(cluster, node)).map_or("", |node| &node.zone)
    }

    pub(crate) fn of_pod(&self, pod: &Pod) -> &'a str {
        self.of_node(&pod.cluster, &pod.node)
    }

    /// Those that the tenant's pods run in, by cluster and tenant.
    pub(crate) fn by_tenant(&self, pods: &'a [Pod]) -> BTreeMap<(&'a str, &'a str), BTreeSet<&'a str>> {
        let mut zones: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for pod in pods {
            let zone = self.of_pod(pod);
            if !zone.is_empty() {
                zones
                    .entry((pod.cluster.as_str(), pod.tenant.as_str()))
                    .or_default()
                    .insert(zone);
            }
        }
        zones
    }
}

/// Those of one tenant, separated by commas; a dash where none is known.
pub(crate) fn listed(zones: &BTreeMap<(&str, &str), BTreeSet<&str>>, tenant: &Tenant) -> String {
    let zones = zones.get(&(tenant.cluster.as_str(), tenant.name.as_str()));
    match zones {
        Some(zones) => zones.iter().copied().collect::<Vec<_>>().join(","),
        None => "-".to_owned(),
    }
}
