//! Pods that one policy is for: those of a namespace with the same labels, less the labels that tell apart pods of one workload.
//!
//! The selectors of a namespace's groups overlap nowhere: a policy that also selected a larger group's pods would admit there what was seen
//! here alone. Where one group's labels are a part of another's, it asks for the absence of what the other has more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use partywall_aggregator_core::fence::{Expression, Operator, Pod, Selector};
use partywall_aggregator_core::identity::{is_label_key, is_label_value};

use super::scene::Scene;

/// Given to a pod by its controller, or changed by every new version: a selector with one of them would soon select nobody.
const PASSING: [&str; 20] = [
    "app.kubernetes.io/version",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/cronjob-scheduled-timestamp",
    "batch.kubernetes.io/job-completion-index",
    "batch.kubernetes.io/job-name",
    "chart",
    "controller-revision-hash",
    "controller-uid",
    "helm.sh/chart",
    "helm.sh/revision",
    "job-name",
    "pod-template-generation",
    "pod-template-hash",
    "rollouts-pod-template-hash",
    "service.istio.io/canonical-revision",
    "statefulset.kubernetes.io/pod-name",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "workflows.argoproj.io/workflow",
];

/// What a workload is called, best first.
const NAMING: [&str; 6] = [
    "app.kubernetes.io/name",
    "app",
    "k8s-app",
    "app.kubernetes.io/component",
    "name",
    "component",
];

/// Labels that last.
type Own = BTreeMap<String, String>;

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
                let key = (&*pod.namespace.name, lasting(pod));
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

fn lasting(pod: &Pod) -> Own {
    let lasts = |(key, value): &(&String, &String)| {
        !PASSING.contains(&key.as_str())
            && !key.ends_with("-hash")
            && is_label_key(key)
            && is_label_value(value)
    };
    let labels = pod.labels.iter().filter(lasts);
    labels.map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn selector<'a>(own: &Own, others: impl Iterator<Item = &'a Own>) -> Selector {
    let mut absent: BTreeSet<&str> = BTreeSet::new();
    for other in others.filter(|o| *o != own && own.iter().all(|(k, v)| o.get(k) == Some(v))) {
        let mut more = other
            .keys()
            .map(String::as_str)
            .filter(|k| !own.contains_key(*k))
            .peekable();
        let first = more.peek().copied();
        if !more.any(|key| absent.contains(key)) {
            absent.extend(first);
        }
    }
    let absent = absent.into_iter().map(|key| Expression {
        key: key.to_owned(),
        operator: Operator::DoesNotExist,
    });
    Selector {
        match_labels: own.clone(),
        match_expressions: absent.collect(),
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
            group.name = format!("{}-{:08x}", group.name, hash(&group.selector.to_string()));
        }
        // Applied, it would replace a policy that somebody wrote.
        while !taken.insert((group.namespace.clone(), group.name.clone())) {
            group.name.push_str("-2");
        }
    }
}

fn called(selector: &Selector) -> String {
    if selector.is_empty() {
        return "all".to_owned();
    }
    let labels = &selector.match_labels;
    let value = NAMING.iter().find_map(|key| labels.get(*key));
    let value = value.or_else(|| labels.values().next());
    let Some(value) = value else {
        return "unlabelled".to_owned();
    };
    let safe = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    let name: String = value.chars().map(safe).collect();
    match name.trim_matches('-') {
        "" => "pods".to_owned(),
        name => name.to_owned(),
    }
}

/// FNV-1a: the same in every version, which the standard library's does not promise.
fn hash(text: &str) -> u32 {
    text.bytes()
        .fold(0x811c_9dc5, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        let pairs = text.split(',').filter_map(|p| p.split_once('='));
        pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    #[test]
    fn selectors_of_a_namespace_overlap_nowhere() {
        let all = [
            "",
            "app=a",
            "app=a,tier=x",
            "app=a,tier=y",
            "app=a,env=p,tier=x",
            "k=v",
        ]
        .map(labels);
        for own in &all {
            let selector = selector(own, all.iter());
            for other in &all {
                assert_eq!(selector.matches(other), own == other, "{selector} of {other:?}");
            }
        }
    }

    #[test]
    fn names_are_what_the_api_server_takes() {
        for (of, wanted) in [
            ("", "all"),
            ("app=web,x=y", "web"),
            ("app=web,app.kubernetes.io/name=Shop_1.2", "shop-1-2"),
            ("x=y", "y"),
            ("app=", "pods"),
        ] {
            let selector = selector(&labels(of), std::iter::empty());
            assert_eq!(called(&selector), wanted, "{of}");
        }
    }
}
