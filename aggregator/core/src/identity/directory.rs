//! The cluster as the judge sees it: built anew from a cluster source's objects and the policy, look-ups only.

use std::collections::BTreeMap;
#[allow(
    clippy::disallowed_types,
    reason = "looked up by UID, never iterated where order shows"
)]
use std::collections::HashMap;
use std::sync::Arc;

use super::{Cluster, Pod, PodObject, ResolvedBy, TenantId, Tenants, tenant};
use crate::limits::{GONE_POD_KEPT_NS, MAX_GONE_PODS};
use crate::policy::Policy;

/// What a tenant may use in all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TenantQuota {
    pub cpu_cores: f64,
    /// From the policy file: counts all of the tenant's use. From ResourceQuotas: only what runs in the namespaces that have one,
    /// because the others are not bounded.
    pub from_policy: bool,
}

/// Namespaces, pods, tenants and quotas.
#[derive(Debug, Default)]
#[allow(clippy::disallowed_types, reason = "see the import")]
pub struct Directory {
    /// Grows with every change: whoever resolved something before looks it up again.
    generation: u64,
    pub tenants: Tenants,
    namespaces: BTreeMap<Arc<str>, (TenantId, ResolvedBy)>,
    pods: HashMap<Arc<str>, Arc<Pod>>,
    /// Left the cluster data, last counters may be on the way: object and when it was last there.
    gone: BTreeMap<String, (PodObject, u64)>,
    quotas: BTreeMap<TenantId, TenantQuota>,
    cluster: Arc<Cluster>,
}

impl Directory {
    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn pod(&self, uid: &str) -> Option<&Arc<Pod>> {
        self.pods.get(uid)
    }

    /// Pods in the cluster data, gone ones left out.
    pub fn pods(&self) -> usize {
        self.cluster.pods.len()
    }

    /// Namespaces by name, with their tenants.
    pub fn namespaces(&self) -> impl Iterator<Item = (&Arc<str>, TenantId, ResolvedBy)> {
        self.namespaces.iter().map(|(name, (id, by))| (name, *id, *by))
    }

    pub fn quota(&self, tenant: TenantId) -> Option<TenantQuota> {
        self.quotas.get(&tenant).copied()
    }

    pub fn quotas(&self) -> impl Iterator<Item = (TenantId, TenantQuota)> + '_ {
        self.quotas.iter().map(|(id, quota)| (*id, *quota))
    }

    /// Takes over what a cluster source knows now. Pods that are no longer there keep their names for
    /// [`GONE_POD_KEPT_NS`]. Returns how many names were given up for want of room.
    pub fn set_cluster(&mut self, cluster: Arc<Cluster>, policy: &Policy, now_ns: u64) -> u64 {
        let before = std::mem::replace(&mut self.cluster, cluster);
        let mut gone = std::mem::take(&mut self.gone);
        for pod in &before.pods {
            gone.insert(pod.uid.clone(), (pod.clone(), now_ns));
        }
        for pod in &self.cluster.pods {
            gone.remove(&pod.uid);
        }
        gone.retain(|_, (_, at)| now_ns.saturating_sub(*at) < GONE_POD_KEPT_NS);
        let mut dropped = 0;
        while gone.len() > MAX_GONE_PODS {
            gone.pop_first();
            dropped += 1;
        }
        self.gone = gone;
        self.rebuild(policy);
        dropped
    }

    /// Resolves everything anew, after the policy changed.
    pub fn rebuild(&mut self, policy: &Policy) {
        self.generation += 1;
        let cluster = Arc::clone(&self.cluster);
        let labels: BTreeMap<&str, _> = cluster
            .namespaces
            .iter()
            .map(|n| (n.name.as_str(), &n.labels))
            .collect();
        self.namespaces = BTreeMap::new();
        let names = labels
            .keys()
            .copied()
            .chain(cluster.pods.iter().map(|p| p.namespace.as_str()));
        let gone_names = self.gone.values().map(|(p, _)| p.namespace.as_str());
        let mapped = policy.namespace_tenants.keys().map(String::as_str);
        for name in names.chain(gone_names).chain(mapped) {
            if !self.namespaces.contains_key(name) {
                let (tenant, by) = tenant::resolve(policy, name, labels.get(name).copied());
                self.namespaces
                    .insert(Arc::from(name), (self.tenants.id(&tenant), by));
            }
        }
        let quota_of = self.rebuild_quotas(&cluster, policy);
        self.pods.clear();
        let live = cluster.pods.iter();
        for object in self.gone.values().map(|(p, _)| p).chain(live.clone()) {
            let pod = Arc::new(make_pod(object, &self.namespaces, &self.quotas, &quota_of));
            self.pods.insert(Arc::clone(&pod.uid), pod);
        }
        // A static pod's cgroup bears another UID. A real UID always wins, so that nobody can claim one by an annotation.
        for object in live {
            if let (Some(alias), Some(pod)) =
                (&object.static_uid, self.pods.get(object.uid.as_str()).cloned())
            {
                self.pods.entry(Arc::from(alias.as_str())).or_insert(pod);
            }
        }
    }

    /// Quotas by tenant; returns the namespaces that have one of their own.
    fn rebuild_quotas(&mut self, cluster: &Cluster, policy: &Policy) -> BTreeMap<String, u64> {
        let mut by_namespace: BTreeMap<String, u64> = BTreeMap::new();
        for quota in &cluster.quotas {
            if let Some(ncores) = quota.cpu_ncores {
                // Of several in one namespace the tightest binds.
                let least = by_namespace.entry(quota.namespace.clone()).or_insert(ncores);
                *least = (*least).min(ncores);
            }
        }
        self.quotas = BTreeMap::new();
        for (namespace, ncores) in &by_namespace {
            if let Some((tenant, _)) = self.namespaces.get(namespace.as_str()) {
                let quota = self.quotas.entry(*tenant).or_insert(TenantQuota {
                    cpu_cores: 0.0,
                    from_policy: false,
                });
                quota.cpu_cores += *ncores as f64 / 1e9;
            }
        }
        for (tenant, cores) in &policy.tenant_quota_cores {
            let id = self.tenants.id(tenant);
            self.quotas.insert(
                id,
                TenantQuota {
                    cpu_cores: *cores,
                    from_policy: true,
                },
            );
        }
        self.quotas.remove(&TenantId::SYSTEM);
        by_namespace
    }
}

fn make_pod(
    object: &PodObject,
    namespaces: &BTreeMap<Arc<str>, (TenantId, ResolvedBy)>,
    quotas: &BTreeMap<TenantId, TenantQuota>,
    quota_of: &BTreeMap<String, u64>,
) -> Pod {
    let (namespace, tenant) = namespaces.get_key_value(object.namespace.as_str()).map_or_else(
        || (Arc::from(object.namespace.as_str()), TenantId::SYSTEM),
        |(n, (t, _))| (Arc::clone(n), *t),
    );
    let in_quota = quotas
        .get(&tenant)
        .is_some_and(|q| q.from_policy || quota_of.contains_key(&object.namespace));
    Pod {
        uid: Arc::from(object.uid.as_str()),
        namespace,
        name: Arc::from(object.name.as_str()),
        node: object.node.as_deref().map(Arc::from),
        tenant,
        requests: object.requests,
        cpu_limit_ncores: object.cpu_limit_ncores,
        memory_limit_bytes: object.memory_limit_bytes,
        addresses: object.addresses.clone(),
        in_quota,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Namespace, QuotaObject};
    use crate::limits::NS_PER_S;

    fn pod(uid: &str, namespace: &str) -> PodObject {
        PodObject {
            uid: uid.into(),
            namespace: namespace.into(),
            name: uid.into(),
            ..PodObject::default()
        }
    }

    fn quota(namespace: &str, name: &str, cores: Option<u64>) -> QuotaObject {
        QuotaObject {
            namespace: namespace.into(),
            name: name.into(),
            cpu_ncores: cores.map(|c| c * 1_000_000_000),
        }
    }

    fn directory(cluster: Cluster, policy: &Policy) -> Directory {
        let mut directory = Directory::default();
        directory.set_cluster(Arc::new(cluster), policy, 0);
        directory
    }

    #[test]
    fn a_gone_pod_keeps_its_name_for_a_while() {
        let policy = Policy::default();
        let mut d = directory(
            Cluster {
                pods: vec![pod("u1", "red")],
                ..Cluster::default()
            },
            &policy,
        );
        d.set_cluster(Arc::default(), &policy, NS_PER_S);
        assert_eq!(d.pod("u1").map(|p| &*p.name), Some("u1"));
        assert_eq!(d.pods(), 0);
        d.set_cluster(Arc::default(), &policy, GONE_POD_KEPT_NS + 2 * NS_PER_S);
        assert!(d.pod("u1").is_none());
    }

    #[test]
    fn quotas_are_summed_over_namespaces_and_the_tightest_binds_within_one() {
        let policy = Policy::from_yaml(
            "tenants: [{name: red, namespaces: [a, b, c]}, {name: blue, namespaces: [d], quota: {cpu_cores: 7}}]",
        )
        .unwrap();
        let d = directory(
            Cluster {
                pods: vec![pod("in-a", "a"), pod("in-c", "c"), pod("in-d", "d")],
                quotas: vec![
                    quota("a", "wide", Some(5)),
                    quota("a", "tight", Some(2)),
                    quota("a", "memory-only", None),
                    quota("b", "q", Some(1)),
                    quota("d", "q", Some(1)),
                    quota("kube-system", "q", Some(1)),
                ],
                ..Cluster::default()
            },
            &policy,
        );
        let of = |name: &str| d.quota(d.tenants.find(name).unwrap());
        assert_eq!(
            of("red"),
            Some(TenantQuota {
                cpu_cores: 3.0,
                from_policy: false
            })
        );
        assert_eq!(
            of("blue"),
            Some(TenantQuota {
                cpu_cores: 7.0,
                from_policy: true
            })
        );
        assert_eq!(of("system"), None);
        assert!(d.pod("in-a").unwrap().in_quota);
        assert!(!d.pod("in-c").unwrap().in_quota, "no quota bounds namespace c");
        assert!(d.pod("in-d").unwrap().in_quota);
    }

    #[test]
    fn a_static_pod_is_found_by_its_hash_but_never_takes_a_real_uid() {
        let mut mirror = pod("mirror", "kube-system");
        mirror.static_uid = Some("hash".into());
        let mut thief = pod("thief", "red");
        thief.static_uid = Some("victim".into());
        let d = directory(
            Cluster {
                pods: vec![mirror, thief, pod("victim", "blue")],
                ..Cluster::default()
            },
            &Policy::default(),
        );
        assert_eq!(d.pod("hash").unwrap().tenant, TenantId::SYSTEM);
        assert_eq!(&*d.pod("victim").unwrap().namespace, "blue");
    }

    #[test]
    fn a_policy_change_renames_without_new_objects() {
        let mut d = directory(
            Cluster {
                namespaces: vec![Namespace {
                    name: "ns".into(),
                    labels: BTreeMap::new(),
                }],
                pods: vec![pod("u", "ns")],
                quotas: vec![],
            },
            &Policy::default(),
        );
        let before = d.generation();
        assert_eq!(&**d.tenants.name(d.pod("u").unwrap().tenant), "ns");
        d.rebuild(&Policy::from_yaml("tenants: [{name: red, namespaces: [ns]}]").unwrap());
        assert_eq!(&**d.tenants.name(d.pod("u").unwrap().tenant), "red");
        assert!(d.generation() > before);
    }
}
