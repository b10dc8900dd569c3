//! Pods that one policy is for: those of a namespace with the same labels, less the labels that tell apart pods of one workload.
//!
//! The selectors of a namespace's groups overlap nowhere: a policy that also selected a larger group's pods would admit there what was seen
//! here alone. Where one group's labels are a part of another's, it asks for the absence of what the other has more.

use std::collections::{BTreeMap, BTreeSet};

use super::selector::{Expression, Operator, Selector};
use crate::identity::{is_label_key, is_label_value};

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
pub type Own = BTreeMap<String, String>;

/// The labels that a pod's successors will bear too.
pub fn lasting(labels: &BTreeMap<String, String>) -> Own {
    let lasts = |(key, value): &(&String, &String)| {
        !PASSING.contains(&key.as_str())
            && !key.ends_with("-hash")
            && is_label_key(key)
            && is_label_value(value)
    };
    let labels = labels.iter().filter(lasts);
    labels.map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// Of the pods with these labels; `others`: those of the namespace's other groups.
pub fn selector<'a>(own: &Own, others: impl Iterator<Item = &'a Own>) -> Selector {
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

/// What a policy for them is called.
pub fn called(selector: &Selector) -> String {
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

/// A policy's name where several groups' policies are called the same.
pub fn told_apart(name: &str, selector: &Selector) -> String {
    format!("{name}-{:08x}", hash(&selector.to_string()))
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
