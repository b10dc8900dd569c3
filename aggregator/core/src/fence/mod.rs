//! The fence: what the NetworkPolicies in force say of a connection, and by which rule, as a function of the cluster's objects.
//!
//! [`Fence::new`] finds out once which policies isolate which pod; [`Fence::decide`] then looks at those of two ends alone;
//! [`Fence::explain`] walks the same way and keeps every step. `docs/fence.md` says which readings were chosen where the API leaves a choice.

mod block;
mod decide;
mod ends;
mod explain;
mod group;
mod model;
mod past;
mod question;
mod selector;
#[cfg(test)]
mod tests;
mod words;
mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

pub use block::{BlockError, IpBlock};
pub use decide::{Admission, Decision, Doubt, Exemption, Stand, Verdict};
pub use ends::{End, Family, Namespace, Node, Pod, Policies, Traffic};
pub use explain::{Explanation, Miss, Note, Says, Trace};
pub use group::{Own, called, lasting, selector, told_apart};
pub use model::{Direction, NetworkPolicy, Peer, Port, PortError, PortNumber, Rule, number};
pub(crate) use past::Past;
pub use question::{AskedPort, Question, QuestionError};
pub use selector::{Expression, Operator, OperatorError, Selector};
pub use yaml::{MANAGED_BY, document, unlabelled};

use crate::identity::{Cluster, ForeignPolicy, Labels, PodObject};

/// The API server gives every namespace this label, with the namespace's name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Calico's API shows each NetworkPolicy a second time, as one of its own kind whose name begins so. Nobody else may use the prefix.
const CALICO_COPY: &str = "knp.default.";

/// Who can be an end of a connection, with the policies that isolate it.
#[derive(Debug, Default)]
pub struct Fence {
    /// By namespace and name.
    pods: Vec<Arc<Pod>>,
    by_name: BTreeMap<Arc<str>, BTreeMap<Arc<str>, usize>>,
    by_uid: BTreeMap<Arc<str>, usize>,
    /// Host-network pods left out: they share their node's.
    by_address: BTreeMap<IpAddr, usize>,
    nodes: BTreeMap<Arc<str>, Arc<Node>>,
    node_addresses: BTreeMap<IpAddr, Arc<Node>>,
}

impl Fence {
    /// Pods that have ended are left out: they are no end of anything.
    pub fn new(cluster: &Cluster) -> Self {
        let mut policies: BTreeMap<&str, Policies> = BTreeMap::new();
        for policy in &cluster.network_policies {
            let of_namespace = policies.entry(policy.namespace.as_str()).or_default();
            of_namespace.push(Arc::clone(policy));
        }
        for of_namespace in policies.values_mut() {
            // So that the first that admits is the same one whatever the order of the objects.
            of_namespace.sort_by(|a, b| a.name.cmp(&b.name));
        }
        let namespaces = namespaces(cluster);
        let mut fence = Self {
            nodes: nodes(cluster),
            ..Self::default()
        };
        for node in fence.nodes.values() {
            for address in &node.addresses {
                fence.node_addresses.insert(*address, Arc::clone(node));
            }
        }
        let pods = cluster.pods.iter().map(|pod| &**pod);
        let mut objects: Vec<&PodObject> = pods.filter(|p| !p.terminal).collect();
        objects.sort_by(|a, b| (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid)));
        let mut lists = Lists::default();
        for object in objects {
            let Some(namespace) = namespaces.get(object.namespace.as_str()) else {
                continue;
            };
            let of_namespace = policies.get(object.namespace.as_str());
            let of_namespace = of_namespace.map_or(&[][..], Vec::as_slice);
            let node = object.node.as_deref().and_then(|n| fence.nodes.get(n));
            let pod = Arc::new(Pod::new(object, namespace, node, |direction| {
                lists.isolating(of_namespace, object, direction)
            }));
            fence.add(pod);
        }
        fence
    }

    fn add(&mut self, pod: Arc<Pod>) {
        let index = self.pods.len();
        let of_namespace = self.by_name.entry(Arc::clone(&pod.namespace.name)).or_default();
        of_namespace.entry(Arc::clone(&pod.name)).or_insert(index);
        self.by_uid.insert(Arc::clone(&pod.uid), index);
        if !pod.host_network {
            for address in &pod.addresses {
                self.by_address.entry(*address).or_insert(index);
            }
        }
        self.pods.push(pod);
    }

    /// By namespace and name.
    pub fn pods(&self) -> &[Arc<Pod>] {
        &self.pods
    }

    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Arc<Pod>> {
        self.pods.get(*self.by_name.get(namespace)?.get(name)?)
    }

    pub fn pod_by_uid(&self, uid: &str) -> Option<&Arc<Pod>> {
        self.pods.get(*self.by_uid.get(uid)?)
    }

    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.get(name)
    }

    /// Whose address it is now. Services' addresses are nobody's: a policy is about the pods behind them.
    pub fn at(&self, address: IpAddr) -> End<'_> {
        let address = address.to_canonical();
        let pod = self.by_address.get(&address).and_then(|i| self.pods.get(*i));
        match (pod, self.node_addresses.get(&address)) {
            (Some(pod), _) => End::Pod(pod),
            (None, Some(node)) => End::Node(node, Some(address)),
            (None, None) => End::Address(address),
        }
    }

    /// What the policies say.
    pub fn decide(&self, traffic: &Traffic<'_>) -> Decision {
        decide::decide(traffic)
    }

    /// What the policies say, with every policy that was asked and what each of its rules lacks.
    pub fn explain(&self, traffic: &Traffic<'_>) -> Explanation {
        explain::explain(traffic)
    }
}

fn namespaces(cluster: &Cluster) -> BTreeMap<&str, Arc<Namespace>> {
    let mut seen: BTreeMap<&str, Option<&BTreeMap<String, String>>> = cluster
        .pods
        .iter()
        .map(|p| (p.namespace.as_str(), None))
        .collect();
    seen.extend(
        cluster
            .namespaces
            .iter()
            .map(|n| (n.name.as_str(), Some(&n.labels))),
    );
    let policies: BTreeSet<_> = cluster
        .network_policies
        .iter()
        .map(|p| (p.namespace.as_str(), p.name.as_str()))
        .collect();
    let is_copy = |foreign: &ForeignPolicy| {
        let calico = foreign.kind.ends_with("projectcalico.org");
        let of = foreign.name.strip_prefix(CALICO_COPY).filter(|_| calico);
        foreign
            .namespace
            .as_deref()
            .zip(of)
            .is_some_and(|name| policies.contains(&name))
    };
    let of = |name: &str| {
        let mut foreign: Vec<_> = cluster
            .foreign_policies
            .iter()
            .filter(|f| !is_copy(f))
            .filter(|f| f.namespace.as_deref().is_none_or(|n| n == name))
            .cloned()
            .collect();
        foreign.sort();
        foreign
    };
    seen.into_iter()
        .map(|(name, labels)| {
            let mut all = labels.cloned().unwrap_or_default();
            all.insert(NAME_LABEL.to_owned(), name.to_owned());
            let namespace = Namespace {
                name: Arc::from(name),
                labels: Labels::new(all),
                seen: labels.is_some(),
                foreign: of(name).into(),
            };
            (name, Arc::new(namespace))
        })
        .collect()
}

/// From Node objects; where there is none, from what its pods say of it.
fn nodes(cluster: &Cluster) -> BTreeMap<Arc<str>, Arc<Node>> {
    let mut found: BTreeMap<&str, Vec<IpAddr>> = BTreeMap::new();
    for pod in &cluster.pods {
        if let Some(node) = &pod.node {
            let addresses = found.entry(node).or_default();
            for address in &pod.host_addresses {
                if !addresses.contains(address) {
                    addresses.push(*address);
                }
            }
        }
    }
    for node in &cluster.nodes {
        found.insert(&node.name, node.addresses.clone());
    }
    found
        .into_iter()
        .map(|(name, addresses)| {
            let name: Arc<str> = Arc::from(name);
            (Arc::clone(&name), Arc::new(Node { name, addresses }))
        })
        .collect()
}

/// The same policies isolate many pods: one list for all of them.
#[derive(Default)]
struct Lists(BTreeMap<(String, Vec<usize>), Arc<Policies>>);

impl Lists {
    fn isolating(
        &mut self,
        of_namespace: &[Arc<NetworkPolicy>],
        pod: &PodObject,
        direction: Direction,
    ) -> Arc<Policies> {
        let isolates = |p: &NetworkPolicy| p.rules(direction).is_some() && p.pods.matches(&pod.labels);
        let which: Vec<usize> = (0..of_namespace.len())
            .filter(|i| isolates(&of_namespace[*i]))
            .collect();
        let list = || {
            let policies = which.iter().map(|i| Arc::clone(&of_namespace[*i]));
            Arc::new(policies.collect())
        };
        let key = (pod.namespace.clone(), which.clone());
        Arc::clone(self.0.entry(key).or_insert_with(list))
    }
}
