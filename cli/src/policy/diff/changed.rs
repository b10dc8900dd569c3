//! The cluster as it will be.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{bail, ensure};
use partywall_aggregator_core::identity::Cluster;

use super::super::read_dir;

pub(super) struct Changed {
    pub cluster: Cluster,
    /// Of policies that select no pod, those first that are misplaced.
    pub notes: Vec<String>,
    /// Policies of namespaces that there are not: somebody mistyped one, or wants it made by other means.
    pub misplaced: usize,
}

/// With the policies and namespaces of a directory, as `kubectl apply` would take them over; `replace`: the directory's are all policies.
pub(super) fn apply(cluster: &Cluster, from: &Path, replace: bool) -> anyhow::Result<Changed> {
    let (changed, status) = read_dir("--changed", from)?;
    if let Some((file, policy)) = status.unplaced.first() {
        bail!(
            "--changed: {}: {policy} has no metadata.namespace: kubectl would take the one of its context, which is not known here",
            file.display()
        );
    }
    let policies = changed.network_policies.len() + changed.foreign_policies.len();
    ensure!(
        replace || policies + changed.namespaces.len() > 0,
        "--changed: {}: there is neither a policy nor a namespace in it; --replace says that there will be none",
        from.display()
    );
    let (mut notes, idle) = without_pods(cluster, &changed);
    let misplaced = notes.len();
    notes.extend(idle);
    let mut after = cluster.clone();
    if replace {
        after.network_policies.clear();
        after.foreign_policies.clear();
    }
    put(&mut after.network_policies, changed.network_policies, |a, b| {
        (&a.namespace, &a.name) == (&b.namespace, &b.name)
    });
    put(&mut after.foreign_policies, changed.foreign_policies, |a, b| {
        a == b
    });
    put(&mut after.namespaces, changed.namespaces, |a, b| a.name == b.name);
    Ok(Changed {
        cluster: after,
        notes,
        misplaced,
    })
}

/// Changed policies that select no pod: those whose namespace is not there either, and the others.
fn without_pods(cluster: &Cluster, changed: &Cluster) -> (Vec<String>, Vec<String>) {
    let named = cluster.namespaces.iter().chain(&changed.namespaces);
    let namespaces: BTreeSet<&str> = named
        .map(|n| &n.name)
        .chain(cluster.pods.iter().map(|p| &p.namespace))
        .chain(cluster.network_policies.iter().map(|p| &p.namespace))
        .map(String::as_str)
        .collect();
    let (mut misplaced, mut idle) = (Vec::new(), Vec::new());
    let mut note = |policy: String, namespace: &str| {
        let note = format!("{policy} selects no pod in --cluster-from");
        if namespaces.contains(namespace) {
            idle.push(note);
        } else {
            misplaced.push(format!("{note}: there is no namespace {namespace:?}"));
        }
    };
    for policy in &changed.network_policies {
        let mut pods = cluster.pods.iter().filter(|p| p.namespace == policy.namespace);
        if !pods.any(|p| policy.pods.matches(&p.labels)) {
            note(format!("NetworkPolicy {policy}"), &policy.namespace);
        }
    }
    // Whom these select is not known: only that there is nobody where no namespace is.
    for policy in &changed.foreign_policies {
        let namespace = policy.namespace.as_deref();
        if let Some(namespace) = namespace.filter(|n| !namespaces.contains(n)) {
            note(policy.to_string(), namespace);
        }
    }
    (misplaced, idle)
}

fn put<T>(into: &mut Vec<T>, new: Vec<T>, is_same: impl Fn(&T, &T) -> bool) {
    into.retain(|old| !new.iter().any(|new| is_same(old, new)));
    into.extend(new);
}
