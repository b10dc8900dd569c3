//! The cluster as it will be.

use std::path::Path;

use anyhow::ensure;
use partywall_aggregator_core::identity::Cluster;

use super::super::read_dir;

/// With the policies and namespaces of a directory, as `kubectl apply` would take them over; `replace`: the directory's are all policies.
pub(super) fn apply(cluster: &Cluster, from: &Path, replace: bool) -> anyhow::Result<Cluster> {
    let (changed, _) = read_dir("--changed", from)?;
    let policies = changed.network_policies.len() + changed.foreign_policies.len();
    ensure!(
        replace || policies + changed.namespaces.len() > 0,
        "--changed: {}: there is neither a policy nor a namespace in it; --replace says that there will be none",
        from.display()
    );
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
    Ok(after)
}

fn put<T>(into: &mut Vec<T>, new: Vec<T>, is_same: impl Fn(&T, &T) -> bool) {
    into.retain(|old| !new.iter().any(|new| is_same(old, new)));
    into.extend(new);
}
