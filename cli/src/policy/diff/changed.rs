//! The cluster as it will be.

use std::path::Path;

use anyhow::ensure;
use partywall_aggregator::identify::dir;
use partywall_aggregator_core::identity::Cluster;

/// With the policies and namespaces of a directory, as `kubectl apply` would take them over; `replace`: the directory's are all policies.
pub(super) fn apply(cluster: &Cluster, from: &Path, replace: bool) -> anyhow::Result<Cluster> {
    let (changed, status) = dir::read_once(from)?;
    ensure!(
        status.duplicates == 0,
        "--changed: {}: {} of its objects are in two files: which one holds?",
        from.display(),
        status.duplicates
    );
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
