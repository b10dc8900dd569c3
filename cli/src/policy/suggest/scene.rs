//! What is known of the cluster: its objects where there are some, completed by what the flows say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{bail, ensure};
use partywall_aggregator::policy_file;
use partywall_aggregator_core::fence::Family;
use partywall_aggregator_core::identity::{Cluster, Namespace, NodeObject, PodObject};
use partywall_aggregator_core::policy::Policy;

use super::super::seen::Seen;
use super::super::{Known, living, read_dir};
use crate::args::PolicySuggest;

pub(super) struct Scene {
    pub known: Known,
    /// UIDs of pods that flows name and the directory does not have. They have no labels.
    pub gone: BTreeSet<String>,
    /// Namespace → tenant.
    pub tenants: BTreeMap<String, String>,
    /// Labels and policies are known.
    pub from_dir: bool,
}

impl Scene {
    pub(super) fn read(args: &PolicySuggest, flows: &[Seen]) -> anyhow::Result<Self> {
        let policy = match &args.policy {
            Some(file) => policy_file::read(file)?,
            None => Policy::default(),
        };
        let cluster = match &args.cluster_from {
            Some(dir) => Some(read_dir("--cluster-from", dir)?.0),
            None => None,
        };
        Self::new(cluster, &policy, flows)
    }

    pub(super) fn new(cluster: Option<Cluster>, policy: &Policy, flows: &[Seen]) -> anyhow::Result<Self> {
        let from_dir = cluster.is_some();
        let mut cluster = cluster.unwrap_or_default();
        let mut tenants = BTreeMap::new();
        if from_dir {
            let known = Known::of(living(cluster.clone()), policy);
            let names = known.directory.namespaces();
            tenants.extend(names.map(|(name, tenant, _)| {
                let tenant = known.directory.tenants.name(tenant);
                (name.to_string(), tenant.to_string())
            }));
        }
        told_tenants(&mut tenants, flows, from_dir)?;
        forget_ended(&mut cluster, flows);
        let mut cluster = living(cluster);
        let gone = complete(&mut cluster, flows, from_dir);
        Ok(Self {
            known: Known::of(cluster, policy),
            gone,
            tenants,
            from_dir,
        })
    }

    /// A namespace that nobody speaks of is its own tenant.
    pub(super) fn tenant_of<'a>(&'a self, namespace: &'a str) -> &'a str {
        self.tenants.get(namespace).map_or(namespace, String::as_str)
    }

    /// All of a tenant that are known; `own` is one of them.
    pub(super) fn namespaces_of(&self, tenant: &str, own: &str) -> BTreeSet<String> {
        let of_tenant = self.tenants.iter().filter(|(_, of)| *of == tenant);
        let names = of_tenant.map(|(namespace, _)| namespace.clone());
        names.chain([own.to_owned()]).collect()
    }
}

/// The border between tenants is what everything is about: where two say different things of it, nothing is suggested.
fn told_tenants(
    tenants: &mut BTreeMap<String, String>,
    flows: &[Seen],
    from_dir: bool,
) -> anyhow::Result<()> {
    for end in flows.iter().flat_map(|s| [&s.flow.from, &s.flow.to]) {
        // `<unknown>`, `<outside>`.
        if end.namespace.is_empty() || end.tenant.is_empty() || end.tenant.starts_with('<') {
            continue;
        }
        let told = tenants
            .entry(end.namespace.clone())
            .or_insert_with(|| end.tenant.clone());
        if *told == end.tenant {
            continue;
        }
        if from_dir {
            bail!(
                "--cluster-from: namespace {:?} is tenant {told:?} there and {:?} in the flows: give the aggregator's policy file with --policy",
                end.namespace,
                end.tenant
            );
        }
        bail!(
            "flows: namespace {:?} is of two tenants, {told:?} and {:?}: use flows that were saved since that changed",
            end.namespace,
            end.tenant
        );
    }
    Ok(())
}

/// Leaves out pods that have ended, unless a flow names them: no policy is for them, and nobody reaches them.
fn forget_ended(cluster: &mut Cluster, flows: &[Seen]) {
    let uids: BTreeSet<String> = cluster.pods.iter().map(|p| p.uid.clone()).collect();
    let ends = flows.iter().flat_map(|s| [&s.flow.from, &s.flow.to]);
    // As `resolve` finds them: by the UID, else by the name.
    let (by_uid, by_name): (Vec<_>, Vec<_>) = ends.partition(|end| uids.contains(&end.uid));
    let by_uid: BTreeSet<&str> = by_uid.iter().map(|end| end.uid.as_str()).collect();
    let by_name: BTreeSet<_> = by_name
        .iter()
        .map(|end| (end.namespace.as_str(), end.pod.as_str()))
        .collect();
    cluster.pods.retain(|pod| {
        !pod.terminal
            || by_uid.contains(pod.uid.as_str())
            || by_name.contains(&(pod.namespace.as_str(), pod.name.as_str()))
    });
}

/// Adds the pods and nodes that only the flows know. Returns the UIDs of pods that a directory should have had.
fn complete(cluster: &mut Cluster, flows: &[Seen], from_dir: bool) -> BTreeSet<String> {
    let uids: BTreeSet<&str> = cluster.pods.iter().map(|p| p.uid.as_str()).collect();
    let pods = cluster
        .pods
        .iter()
        .map(|p| (p.namespace.as_str(), p.name.as_str()));
    let names: BTreeSet<_> = pods.collect();
    let mut new: BTreeMap<String, PodObject> = BTreeMap::new();
    let mut nodes: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
    let ends = |s: &'_ Seen| [(s.flow.from.clone(), s.from), (s.flow.to.clone(), s.to)];
    for (end, address) in flows.iter().flat_map(ends) {
        if let ("node", Some(address)) = (end.kind.as_str(), address) {
            nodes.entry(end.node.clone()).or_default().insert(address);
        }
        let is_pod = end.kind.is_empty() && end.unattributed.is_empty() && !end.pod.is_empty();
        let is_known =
            uids.contains(end.uid.as_str()) || names.contains(&(end.namespace.as_str(), end.pod.as_str()));
        if !is_pod || end.namespace.is_empty() || is_known {
            continue;
        }
        let uid = match end.uid.as_str() {
            "" => format!("{}/{}", end.namespace, end.pod),
            uid => uid.to_owned(),
        };
        let pod = new.entry(uid.clone()).or_insert_with(|| PodObject {
            uid,
            namespace: end.namespace,
            name: end.pod,
            node: Some(end.node).filter(|n| !n.is_empty()),
            ..PodObject::default()
        });
        let other_family = |a: &&IpAddr| Family::of(**a) == address.map_or(Family::V4, Family::of);
        if let Some(address) = address.filter(|_| !pod.addresses.iter().any(|a| other_family(&a))) {
            pod.addresses.push(address);
        }
    }
    share_addresses(&mut new, &nodes);
    if !from_dir {
        let namespaces: BTreeSet<_> = new.values().map(|p| p.namespace.clone()).collect();
        let namespace = |name| Namespace {
            name,
            ..Namespace::default()
        };
        cluster.namespaces.extend(namespaces.into_iter().map(namespace));
        let node = |(name, addresses): (String, BTreeSet<_>)| NodeObject {
            name,
            addresses: addresses.into_iter().collect(),
            ..NodeObject::default()
        };
        cluster.nodes.extend(nodes.into_iter().map(node));
    }
    let uids = new.keys().cloned().collect();
    cluster.pods.extend(new.into_values().map(Arc::new));
    if from_dir { uids } else { BTreeSet::new() }
}

/// Who shares its address with another pod or a node is in its node's network: policies take it for the node.
fn share_addresses(pods: &mut BTreeMap<String, PodObject>, nodes: &BTreeMap<String, BTreeSet<IpAddr>>) {
    let mut owners: BTreeMap<IpAddr, usize> = BTreeMap::new();
    let of_nodes = nodes.values().flatten();
    for address in of_nodes.chain(pods.values().flat_map(|p| &p.addresses)) {
        *owners.entry(*address).or_default() += 1;
    }
    for pod in pods.values_mut() {
        if pod
            .addresses
            .iter()
            .any(|a| owners.get(a).is_some_and(|n| *n > 1))
        {
            pod.host_network = true;
            pod.host_addresses = std::mem::take(&mut pod.addresses);
        }
    }
}

/// Namespaces and tenants that were asked for and are not there.
pub(super) fn check_asked(scene: &Scene, args: &PolicySuggest) -> anyhow::Result<()> {
    let listed = |names: BTreeSet<&str>| names.into_iter().collect::<Vec<_>>().join(", ");
    for namespace in &args.namespace {
        ensure!(
            scene.tenants.contains_key(namespace),
            "--namespace: there is no namespace {namespace:?}; namespaces are: {}",
            listed(scene.tenants.keys().map(String::as_str).collect())
        );
    }
    for tenant in &args.tenant {
        ensure!(
            scene.tenants.values().any(|t| t == tenant),
            "--tenant: there is no tenant {tenant:?}; tenants are: {}",
            listed(scene.tenants.values().map(String::as_str).collect())
        );
    }
    Ok(())
}
