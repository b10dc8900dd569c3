//! The cluster as the judge sees it: built anew from a cluster source's objects and the policy, look-ups only.

#[allow(
    clippy::disallowed_types,
    reason = "looked up by UID, never iterated where order shows"
)]
use std::collections::HashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{
    Addresses, Cluster, NodeObject, Pod, PodObject, QuotaObject, ResolvedBy, Resource, Said, Scope, TenantId,
    Tenants, tenant,
};
use crate::fence::{Fence, NetworkPolicy, Past};
use crate::limits::{GONE_POD_KEPT_NS, MAX_GONE_PODS};
use crate::policy::Policy;

/// What a tenant may use in all of one resource.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// Cores, bytes or pods.
    pub amount: f64,
    /// From the policy file: counts all of the tenant's use. From ResourceQuotas: only what runs in the namespaces that have one,
    /// because the others are not bounded.
    pub from_policy: bool,
}

/// What a tenant may use in all of pods of one kind: the sum of its ResourceQuotas with the same scopes.
#[derive(Debug, PartialEq)]
pub struct Scoped {
    pub tenant: TenantId,
    /// As a breach names them.
    pub scopes: Arc<str>,
    /// Cores, bytes, pods, by [`Resource`].
    pub amounts: [Option<f64>; 3],
    /// Those that have such a quota, and what it bounds there.
    namespaces: BTreeMap<String, [bool; 3]>,
    conditions: BTreeSet<Scope>,
}

impl Scoped {
    fn counts(&self, pod: &PodObject) -> bool {
        self.namespaces.contains_key(&pod.namespace) && self.conditions.iter().all(|scope| scope.holds(pod))
    }

    /// Whether a pod in `namespace` counts for a resource.
    pub fn bounds(&self, namespace: &str, resource: Resource) -> bool {
        self.namespaces
            .get(namespace)
            .is_some_and(|bounds| bounds[resource as usize])
    }
}

/// What the LimitRanges of a namespace say of its containers' CPU or memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// Nanocores or bytes. Of several the smallest.
    pub max: Option<u64>,
    /// Containers without a limit are given one when they are admitted.
    pub defaults: bool,
}

/// What found no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TurnedAway {
    /// Names of pods that are gone.
    pub gone_pods: u64,
    /// Services that lead nowhere now: more than before.
    pub services: u64,
}

#[allow(clippy::disallowed_types, reason = "see the import")]
type ByUid = HashMap<Arc<str>, Arc<Pod>>;

/// Namespaces, pods, tenants and quotas. What is large is shared by copies until one of them changes it.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    /// Grows with every change: whoever resolved something before looks it up again.
    generation: u64,
    pub tenants: Tenants,
    namespaces: BTreeMap<Arc<str>, (TenantId, ResolvedBy)>,
    pods: Arc<ByUid>,
    /// Left the cluster data, last counters may be on the way: object and when it was last there.
    gone: Arc<BTreeMap<String, (Arc<PodObject>, u64)>>,
    /// By [`Resource`].
    quotas: BTreeMap<TenantId, [Option<Bound>; 3]>,
    scoped: Vec<Arc<Scoped>>,
    /// By namespace: CPU, memory.
    ranges: BTreeMap<String, [Range; 2]>,
    /// Where in the cluster data each Namespace object is.
    namespace_objects: BTreeMap<String, usize>,
    node_objects: BTreeMap<String, usize>,
    addresses: Arc<Addresses>,
    /// With pods that have ended: what they did is judged after.
    fence: Arc<Fence>,
    past: Arc<Past>,
    /// Namespace → the aggregator's monotonic clock when its NetworkPolicies changed last. Not there: before the first word of
    /// the cluster.
    policies_since_ns: BTreeMap<String, u64>,
    cluster: Arc<Cluster>,
}

impl Directory {
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What the cluster source said last.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    pub fn pod(&self, uid: &str) -> Option<&Arc<Pod>> {
        self.pods.get(uid)
    }

    /// All pods that have a name, those that are gone only lately too. One that has two UIDs is there twice.
    pub fn known_pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.values()
    }

    /// Pods in the cluster data, gone ones left out.
    pub fn pods(&self) -> usize {
        self.cluster.pods.len()
    }

    /// Namespaces by name, with their tenants.
    pub fn namespaces(&self) -> impl Iterator<Item = (&Arc<str>, TenantId, ResolvedBy)> {
        self.namespaces.iter().map(|(name, (id, by))| (name, *id, *by))
    }

    /// What each rule says of a namespace, in the order in which they are tried; `None`: no object and no rule names it.
    pub fn explain(&self, policy: &Policy, namespace: &str) -> Option<Vec<(ResolvedBy, Said)>> {
        if !self.namespaces.contains_key(namespace) {
            return None;
        }
        Some(tenant::explain(
            policy,
            namespace,
            self.namespace_labels(namespace),
            self.cluster.capsule_tenants.as_ref(),
        ))
    }

    /// The tenant of a namespace; `None`: it was never named.
    pub fn namespace_tenant(&self, namespace: &str) -> Option<TenantId> {
        self.namespaces.get(namespace).map(|(tenant, _)| *tenant)
    }

    /// Tenants that have a namespace, and those of the policy's path rules.
    pub fn living_tenants(&self, policy: &Policy) -> BTreeSet<TenantId> {
        let of_paths = policy
            .paths
            .iter()
            .filter_map(|rule| self.tenants.find(&rule.tenant));
        let of_namespaces = self.namespaces.values().map(|(tenant, _)| *tenant);
        of_namespaces.chain(of_paths).chain([TenantId::SYSTEM]).collect()
    }

    pub fn nodes(&self) -> &[NodeObject] {
        &self.cluster.nodes
    }

    /// A Node object.
    pub fn node(&self, name: &str) -> Option<&NodeObject> {
        self.cluster.nodes.get(*self.node_objects.get(name)?)
    }

    /// Labels of a Namespace object.
    pub fn namespace_labels(&self, namespace: &str) -> Option<&BTreeMap<String, String>> {
        let at = *self.namespace_objects.get(namespace)?;
        self.cluster.namespaces.get(at).map(|n| &n.labels)
    }

    /// What the NetworkPolicies in force say.
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// What pods were to the fence before.
    pub(crate) fn past(&self) -> &Past {
        &self.past
    }

    /// Since when the NetworkPolicies of a namespace are as they are, on the aggregator's monotonic clock; 0: since before it began.
    pub fn policies_since_ns(&self, namespace: &str) -> u64 {
        self.policies_since_ns.get(namespace).copied().unwrap_or(0)
    }

    /// Whose an address was, and when.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    pub fn quota(&self, tenant: TenantId, resource: Resource) -> Option<Bound> {
        self.quotas.get(&tenant)?[resource as usize]
    }

    /// What a tenant may use in all of pods with these scopes, in words.
    pub fn scoped_quota(&self, tenant: TenantId, scopes: &str, resource: Resource) -> Option<f64> {
        let scoped = self
            .scoped
            .iter()
            .find(|s| s.tenant == tenant && *s.scopes == *scopes)?;
        scoped.amounts[resource as usize]
    }

    pub fn has_ranges(&self) -> bool {
        !self.ranges.is_empty()
    }

    /// What bounds containers' CPU and memory in a namespace.
    pub fn ranges(&self, namespace: &str) -> Option<&[Range; 2]> {
        self.ranges.get(namespace)
    }

    /// Takes over what a cluster source knows now. Pods that are no longer there keep their names for
    /// [`GONE_POD_KEPT_NS`].
    pub fn set_cluster(&mut self, cluster: Arc<Cluster>, policy: &Policy, now_ns: u64) -> TurnedAway {
        let before = std::mem::replace(&mut self.cluster, cluster);
        let live: BTreeSet<&str> = self.cluster.pods.iter().map(|p| p.uid.as_str()).collect();
        let mut gone = BTreeMap::clone(&self.gone);
        for pod in before.pods.iter().filter(|p| !live.contains(p.uid.as_str())) {
            gone.insert(pod.uid.clone(), (Arc::clone(pod), now_ns));
        }
        gone.retain(|uid, _| !live.contains(uid.as_str()));
        gone.retain(|_, (_, at)| now_ns.saturating_sub(*at) < GONE_POD_KEPT_NS);
        let mut dropped = 0;
        while gone.len() > MAX_GONE_PODS {
            gone.pop_first();
            dropped += 1;
        }
        self.gone = Arc::new(gone);
        let objects = self.cluster.namespaces.iter().enumerate();
        self.namespace_objects = objects.map(|(at, n)| (n.name.clone(), at)).collect();
        let objects = self.cluster.nodes.iter().enumerate();
        self.node_objects = objects.map(|(at, n)| (n.name.clone(), at)).collect();
        self.set_fence(&before, now_ns);
        let known = |uid: &str| {
            let pod = self.fence.pod_by_uid(uid);
            pod.map_or_else(|| Arc::from(uid), |pod| Arc::clone(&pod.uid))
        };
        let services = Arc::make_mut(&mut self.addresses).set(&self.cluster, known, now_ns);
        self.rebuild(policy);
        TurnedAway {
            gone_pods: dropped,
            services,
        }
    }

    fn set_fence(&mut self, before: &Cluster, now_ns: u64) {
        let mut cluster = Cluster {
            namespaces: self.cluster.namespaces.clone(),
            nodes: self.cluster.nodes.clone(),
            network_policies: self.cluster.network_policies.clone(),
            foreign_policies: self.cluster.foreign_policies.clone(),
            ..Cluster::default()
        };
        let gone = self.gone.values().map(|(pod, _)| pod);
        let pods = self.cluster.pods.iter().chain(gone).cloned();
        cluster.pods = pods
            .map(|pod| match pod.terminal {
                false => pod,
                true => Arc::new(PodObject {
                    terminal: false,
                    ..PodObject::clone(&pod)
                }),
            })
            .collect();
        let fence = Fence::new(&cluster);
        Arc::make_mut(&mut self.past).step(&self.fence, &fence, now_ns);
        self.fence = Arc::new(fence);
        let is_first = *before == Cluster::default();
        if is_first {
            return;
        }
        let by_name = |c: &Cluster| -> BTreeMap<(String, String), Arc<NetworkPolicy>> {
            let policies = c.network_policies.iter();
            policies
                .map(|p| ((p.namespace.clone(), p.name.clone()), Arc::clone(p)))
                .collect()
        };
        let (old, new) = (by_name(before), by_name(&cluster));
        for key in old.keys().chain(new.keys()) {
            if old.get(key) != new.get(key) {
                self.policies_since_ns.insert(key.0.clone(), now_ns);
            }
        }
        let exists = |namespace: &String| new.keys().any(|(n, _)| n == namespace);
        self.policies_since_ns
            .retain(|namespace, at_ns| exists(namespace) || now_ns.saturating_sub(*at_ns) < GONE_POD_KEPT_NS);
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
                let (tenant, by) = tenant::resolve(
                    policy,
                    name,
                    labels.get(name).copied(),
                    cluster.capsule_tenants.as_ref(),
                );
                self.namespaces
                    .insert(Arc::from(name), (self.tenants.id(&tenant), by));
            }
        }
        let hard = self.rebuild_quotas(&cluster, policy);
        self.rebuild_scoped(&cluster);
        self.rebuild_ranges(&cluster);
        // Those of path rules get their numbers here, so that naming something makes no new one.
        for rule in &policy.paths {
            self.tenants.id(&rule.tenant);
        }
        let mut pods = ByUid::with_capacity(cluster.pods.len() + self.gone.len());
        let live = cluster.pods.iter();
        for object in self.gone.values().map(|(p, _)| p).chain(live.clone()) {
            let pod = Arc::new(Pod {
                scoped: self.scoped.iter().filter(|s| s.counts(object)).cloned().collect(),
                ..make_pod(object, &self.namespaces, &self.quotas, &hard, &self.fence)
            });
            pods.insert(Arc::clone(&pod.uid), pod);
        }
        // A static pod's cgroup bears another UID. A real UID always wins, so that nobody can claim one by an annotation.
        for object in live {
            if let (Some(alias), Some(pod)) = (&object.static_uid, pods.get(object.uid.as_str()).cloned()) {
                pods.entry(Arc::from(alias.as_str())).or_insert(pod);
            }
        }
        self.pods = Arc::new(pods);
    }

    /// Quotas by tenant; returns what bounds each namespace by itself.
    fn rebuild_quotas(&mut self, cluster: &Cluster, policy: &Policy) -> Hard {
        let mut hard = Hard::new();
        for quota in cluster.quotas.iter().filter(|q| q.scopes.is_empty()) {
            tighten(hard.entry(quota.namespace.clone()).or_default(), quota);
        }
        self.quotas = BTreeMap::new();
        for (namespace, amounts) in &hard {
            let Some((tenant, _)) = self.namespaces.get(namespace.as_str()) else {
                continue;
            };
            let sums = self.quotas.entry(*tenant).or_default();
            for (sum, amount) in sums.iter_mut().zip(amounts) {
                if let Some(amount) = amount {
                    sum.get_or_insert(Bound {
                        amount: 0.0,
                        from_policy: false,
                    })
                    .amount += amount;
                }
            }
        }
        for (tenant, amounts) in &policy.tenant_quotas {
            let id = self.tenants.id(tenant);
            let bounds = self.quotas.entry(id).or_default();
            for (bound, amount) in bounds.iter_mut().zip(amounts) {
                let from_policy = amount.map(|amount| Bound {
                    amount,
                    from_policy: true,
                });
                *bound = from_policy.or(*bound);
            }
        }
        self.quotas.remove(&TenantId::SYSTEM);
        hard
    }

    fn rebuild_scoped(&mut self, cluster: &Cluster) {
        // Of several in one namespace with the same scopes the tightest binds; the tenant's namespaces are summed.
        let mut tightest: BTreeMap<(&BTreeSet<Scope>, &str), [Option<f64>; 3]> = BTreeMap::new();
        for quota in cluster.quotas.iter().filter(|q| !q.scopes.is_empty()) {
            let least = tightest.entry((&quota.scopes, &quota.namespace)).or_default();
            tighten(least, quota);
        }
        let mut scoped: BTreeMap<(TenantId, &BTreeSet<Scope>), Scoped> = BTreeMap::new();
        for ((scopes, namespace), amounts) in tightest {
            let tenant = self.namespaces.get(namespace).map(|(tenant, _)| *tenant);
            let Some(tenant) = tenant.filter(|t| *t != TenantId::SYSTEM) else {
                continue;
            };
            let sum = scoped.entry((tenant, scopes)).or_insert_with(|| {
                let names: Vec<String> = scopes.iter().map(Scope::to_string).collect();
                Scoped {
                    tenant,
                    scopes: names.join(" and ").into(),
                    amounts: [None; 3],
                    namespaces: BTreeMap::new(),
                    conditions: scopes.clone(),
                }
            });
            for (sum, amount) in sum.amounts.iter_mut().zip(amounts) {
                if let Some(amount) = amount {
                    *sum = Some(sum.unwrap_or(0.0) + amount);
                }
            }
            sum.namespaces
                .insert(namespace.to_owned(), amounts.map(|a| a.is_some()));
        }
        self.scoped = scoped.into_values().map(Arc::new).collect();
    }

    fn rebuild_ranges(&mut self, cluster: &Cluster) {
        self.ranges = BTreeMap::new();
        for range in &cluster.limit_ranges {
            let [cpu, memory] = self.ranges.entry(range.namespace.clone()).or_default();
            for (sum, max, defaults) in [
                (cpu, range.max_cpu_ncores, range.defaults_cpu),
                (memory, range.max_memory_bytes, range.defaults_memory),
            ] {
                sum.max = match (sum.max, max) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
                sum.defaults |= defaults;
            }
        }
    }
}

/// Of several in one namespace the tightest binds.
fn tighten(least: &mut [Option<f64>; 3], quota: &QuotaObject) {
    let amounts = [
        quota.cpu_ncores.map(|n| n as f64 / 1e9),
        quota.memory_bytes.map(|n| n as f64),
        quota.pods.map(|n| n as f64),
    ];
    for (least, amount) in least.iter_mut().zip(amounts) {
        *least = match (*least, amount) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
}

/// Namespace → what its ResourceQuotas admit, by [`Resource`].
type Hard = BTreeMap<String, [Option<f64>; 3]>;

fn make_pod(
    object: &PodObject,
    namespaces: &BTreeMap<Arc<str>, (TenantId, ResolvedBy)>,
    quotas: &BTreeMap<TenantId, [Option<Bound>; 3]>,
    hard: &Hard,
    fence: &Fence,
) -> Pod {
    // Its texts are there already: those of all pods are megabytes.
    let known = fence.pod_by_uid(&object.uid);
    let text = |of: &str, known: Option<&Arc<str>>| match known.filter(|known| ***known == *of) {
        Some(known) => Arc::clone(known),
        None => Arc::from(of),
    };
    let on = known.and_then(|pod| pod.node.as_ref()).map(|node| &node.name);
    let (namespace, tenant) = namespaces.get_key_value(object.namespace.as_str()).map_or_else(
        || (Arc::from(object.namespace.as_str()), TenantId::SYSTEM),
        |(n, (t, _))| (Arc::clone(n), *t),
    );
    let in_quota = Resource::ALL.map(|r| {
        let r = r as usize;
        let bound = quotas.get(&tenant).and_then(|q| q[r]);
        let own = hard.get(&object.namespace).is_some_and(|h| h[r].is_some());
        bound.is_some_and(|b| b.from_policy || own)
    });
    Pod {
        uid: text(&object.uid, known.map(|pod| &pod.uid)),
        namespace,
        name: text(&object.name, known.map(|pod| &pod.name)),
        node: object.node.as_deref().map(|node| text(node, on)),
        tenant,
        requests: object.requests,
        cpu_limit_ncores: object.cpu_limit_ncores,
        memory_limit_bytes: object.memory_limit_bytes,
        containers: Arc::clone(&object.containers),
        addresses: object.addresses.clone(),
        host_network: object.host_network,
        in_quota,
        scoped: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Classes, Namespace};
    use crate::limits::NS_PER_S;

    fn pod(uid: &str, namespace: &str) -> PodObject {
        PodObject {
            uid: uid.into(),
            namespace: namespace.into(),
            name: uid.into(),
            ..PodObject::default()
        }
    }

    fn shared<const N: usize>(pods: [PodObject; N]) -> Vec<Arc<PodObject>> {
        pods.into_iter().map(Arc::new).collect()
    }

    fn quota(namespace: &str, name: &str, cores: Option<u64>) -> QuotaObject {
        QuotaObject {
            namespace: namespace.into(),
            name: name.into(),
            cpu_ncores: cores.map(|c| c * 1_000_000_000),
            memory_bytes: (name == "memory-only").then_some(64),
            ..QuotaObject::default()
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
                pods: shared([pod("u1", "red")]),
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
            "tenants: [{name: red, namespaces: [a, b, c]}, {name: blue, namespaces: [d], quota: {cpu_cores: 7, pods: 9}}]",
        )
        .unwrap();
        let d = directory(
            Cluster {
                pods: shared([pod("in-a", "a"), pod("in-c", "c"), pod("in-d", "d")]),
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
        let of = |name: &str, resource| {
            let bound = d.quota(d.tenants.find(name).unwrap(), resource);
            bound.map(|b| (b.amount, b.from_policy))
        };
        assert_eq!(of("red", Resource::Cpu), Some((3.0, false)));
        assert_eq!(of("red", Resource::Memory), Some((64.0, false)));
        assert_eq!(of("red", Resource::Pods), None);
        assert_eq!(of("blue", Resource::Cpu), Some((7.0, true)));
        assert_eq!(of("blue", Resource::Pods), Some((9.0, true)));
        assert_eq!(of("system", Resource::Cpu), None);
        assert_eq!(d.pod("in-a").unwrap().in_quota, [true, true, false]);
        assert_eq!(
            d.pod("in-c").unwrap().in_quota,
            [false; 3],
            "no quota bounds namespace c"
        );
        assert_eq!(d.pod("in-d").unwrap().in_quota, [true, false, true]);
    }

    #[test]
    fn quotas_with_scopes_are_summed_by_what_they_select() {
        let high = || Scope::PriorityClass(Classes::In(BTreeSet::from(["high".to_owned()])));
        let scoped = |namespace: &str, name: &str, cores, scope: Scope| QuotaObject {
            scopes: BTreeSet::from([scope]),
            ..quota(namespace, name, Some(cores))
        };
        let of_class = |uid: &str, namespace: &str, class: &str| PodObject {
            priority_class: Some(class.into()),
            ..pod(uid, namespace)
        };
        let cluster = Cluster {
            pods: shared([
                of_class("a-high", "a", "high"),
                of_class("a-low", "a", "low"),
                of_class("c-high", "c", "high"),
            ]),
            quotas: vec![
                scoped("a", "wide", 5, high()),
                scoped("a", "tight", 2, high()),
                scoped("b", "q", 1, high()),
                scoped("a", "jobs", 9, Scope::Terminating),
                scoped("kube-system", "q", 1, high()),
            ],
            ..Cluster::default()
        };
        let policy = Policy::from_yaml("tenants: [{name: red, namespaces: [a, b, c]}]").unwrap();
        let d = directory(cluster, &policy);
        let red = d.tenants.find("red").unwrap();
        assert_eq!(
            d.quota(red, Resource::Cpu),
            None,
            "what bounds some pods bounds not the tenant"
        );
        let of = |uid: &str| {
            let scoped = &d.pod(uid).unwrap().scoped;
            scoped
                .iter()
                .map(|s| (&*s.scopes, s.amounts[0]))
                .collect::<Vec<_>>()
        };
        assert_eq!(of("a-high"), [("PriorityClass in (high)", Some(3.0))]);
        assert_eq!(of("a-low"), []);
        assert_eq!(of("c-high"), [], "no quota bounds namespace c");
    }

    #[test]
    fn a_capsule_label_counts_where_its_tenant_exists() {
        let labelled = |name: &str| Namespace {
            name: name.into(),
            labels: BTreeMap::from([("capsule.clastix.io/tenant".to_owned(), "oil".to_owned())]),
        };
        let by = |known: Option<&[&str]>| {
            let cluster = Cluster {
                namespaces: vec![labelled("ns")],
                capsule_tenants: known.map(|names| names.iter().map(|n| (*n).to_owned()).collect()),
                ..Cluster::default()
            };
            let d = directory(cluster, &Policy::default());
            let (_, tenant, by) = d.namespaces().next().unwrap();
            (d.tenants.name(tenant).to_string(), by)
        };
        assert_eq!(by(None), ("oil".to_owned(), ResolvedBy::Capsule));
        assert_eq!(by(Some(&["oil"])), ("oil".to_owned(), ResolvedBy::Capsule));
        assert_eq!(by(Some(&["gas"])), ("ns".to_owned(), ResolvedBy::Namespace));
        assert_eq!(by(Some(&[])), ("ns".to_owned(), ResolvedBy::Namespace));
    }

    #[test]
    fn of_several_limit_ranges_the_smallest_maximum_counts() {
        let range = |name: &str, max, defaults_memory| crate::identity::LimitRangeObject {
            namespace: "a".into(),
            name: name.into(),
            max_memory_bytes: max,
            defaults_memory,
            ..Default::default()
        };
        let cluster = Cluster {
            limit_ranges: vec![
                range("x", Some(9), false),
                range("y", Some(5), true),
                range("z", None, false),
            ],
            ..Cluster::default()
        };
        let d = directory(cluster, &Policy::default());
        let memory = Range {
            max: Some(5),
            defaults: true,
        };
        assert_eq!(d.ranges("a"), Some(&[Range::default(), memory]));
        assert_eq!(d.ranges("b"), None);
    }

    #[test]
    fn a_static_pod_is_found_by_its_hash_but_never_takes_a_real_uid() {
        let mut mirror = pod("mirror", "kube-system");
        mirror.static_uid = Some("hash".into());
        let mut thief = pod("thief", "red");
        thief.static_uid = Some("victim".into());
        let d = directory(
            Cluster {
                pods: shared([mirror, thief, pod("victim", "blue")]),
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
                pods: shared([pod("u", "ns")]),
                ..Cluster::default()
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
