//! The groups of a whole cluster's pods, each with the name of its policy. What a group is: [`partywall_aggregator_core::fence::lasting`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use partywall_aggregator_core::fence::{Own, Pod, Selector, called, lasting, selector, told_apart};

use super::scene::Scene;

pub(super) struct Group {
    pub namespace: String,
    pub selector: Selector,
    /// Of its policy.
    pub name: String,
    pub pods: Vec<Arc<Pod>>,
}

#[derive(Default)]
pub(super) struct Groups {
    /// By namespace and labels.
    pub all: Vec<Group>,
    /// By UID.
    of: BTreeMap<Arc<str>, usize>,
}

impl Groups {
    /// Pods in their node's network are in none: no policy isolates them.
    pub(super) fn new(scene: &Scene) -> Self {
        let mut sorted: BTreeMap<(&str, Own), Vec<Arc<Pod>>> = BTreeMap::new();
        for pod in scene.known.fence.pods() {
            if !pod.host_network && !scene.gone.contains(&*pod.uid) {
                let key = (&*pod.namespace.name, lasting(&pod.labels));
                sorted.entry(key).or_default().push(Arc::clone(pod));
            }
        }
        let mut groups = Self::default();
        let keys: Vec<_> = sorted.keys().cloned().collect();
        for ((namespace, labels), pods) in sorted {
            let others = keys.iter().filter(|(n, _)| *n == namespace).map(|(_, l)| l);
            let index = groups.all.len();
            groups
                .of
                .extend(pods.iter().map(|pod| (Arc::clone(&pod.uid), index)));
            groups.all.push(Group {
                namespace: namespace.to_owned(),
                selector: selector(&labels, others),
                name: String::new(),
                pods,
            });
        }
        name(&mut groups.all, scene);
        groups
    }

    pub(super) fn of(&self, pod: &Pod) -> Option<usize> {
        self.of.get(&pod.uid).copied()
    }
}

/// Each policy gets a name that says whose it is, that no other has, and that is the same tomorrow.
fn name(groups: &mut [Group], scene: &Scene) {
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for group in groups.iter_mut() {
        group.name = format!("partywall-{}", called(&group.selector));
        *counts
            .entry((group.namespace.clone(), group.name.clone()))
            .or_default() += 1;
    }
    let policies = scene.known.cluster.network_policies.iter();
    let mut taken: BTreeSet<(String, String)> =
        policies.map(|p| (p.namespace.clone(), p.name.clone())).collect();
    for group in groups {
        let is_shared = counts
            .get(&(group.namespace.clone(), group.name.clone()))
            .is_some_and(|n| *n > 1);
        if is_shared {
            group.name = told_apart(&group.name, &group.selector);
        }
        // Applied, it would replace a policy that somebody wrote.
        while !taken.insert((group.namespace.clone(), group.name.clone())) {
            group.name.push_str("-2");
        }
    }
}
