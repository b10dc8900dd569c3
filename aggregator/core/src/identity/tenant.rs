//! From a namespace to its tenant, in a fixed order, from Namespace objects and the policy only: pod labels are the tenants' own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::SYSTEM;
use crate::policy::Policy;

/// Index of a tenant's name; stable while the aggregator runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(pub(crate) u32);

impl TenantId {
    pub const SYSTEM: Self = Self(0);
}

/// Names of all tenants ever seen. They never go away: counters refer to them.
#[derive(Clone, Debug)]
pub struct Tenants {
    names: Vec<Arc<str>>,
    ids: BTreeMap<Arc<str>, TenantId>,
}

impl Default for Tenants {
    fn default() -> Self {
        let system: Arc<str> = Arc::from(SYSTEM);
        Self {
            names: vec![Arc::clone(&system)],
            ids: BTreeMap::from([(system, TenantId::SYSTEM)]),
        }
    }
}

impl Tenants {
    /// The id of `name`, a new one where it was never seen.
    pub fn id(&mut self, name: &str) -> TenantId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        // 2^32 names would take 100 GB; the last id is shared rather than wrapped.
        let id = TenantId(u32::try_from(self.names.len()).unwrap_or(u32::MAX - 1));
        let name: Arc<str> = Arc::from(name);
        self.names.push(Arc::clone(&name));
        self.ids.insert(name, id);
        id
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.names.len()
    }

    pub fn find(&self, name: &str) -> Option<TenantId> {
        self.ids.get(name).copied()
    }

    pub fn name(&self, id: TenantId) -> &Arc<str> {
        self.names.get(id.0 as usize).unwrap_or(&self.names[0])
    }
}

/// Which rule named a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ResolvedBy {
    System,
    Policy,
    Capsule,
    Vcluster,
    Hnc,
    Label,
    Namespace,
    /// A path rule of the policy file.
    Path,
    /// Not named.
    Unknown,
}

impl ResolvedBy {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Policy => "policy",
            Self::Capsule => "capsule",
            Self::Vcluster => "vcluster",
            Self::Hnc => "hnc",
            Self::Label => "label",
            Self::Namespace => "namespace",
            Self::Path => "path",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for ResolvedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

const CAPSULE: [&str; 2] = ["capsule.clastix.io/tenant", "projectcapsule.dev/tenant"];
const VCLUSTER: &str = "vcluster.loft.sh/managed-by";
/// HNC labels a namespace with one such key for itself and each ancestor; the value is the distance.
const HNC_SUFFIX: &str = ".tree.hnc.x-k8s.io/depth";
/// No tree of namespaces is deeper.
const HNC_MAX_DEPTH: u32 = 100;

/// What one rule says of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// This tenant, and where that is written.
    Named(String, String),
    /// Nothing; what was looked for.
    Silent(String),
    /// Something that may not be used, and why.
    Rejected(String),
}

/// The tenant of namespace `name` with these labels. `labels` is `None` where no Namespace object was seen.
pub(super) fn resolve(
    policy: &Policy,
    name: &str,
    labels: Labels<'_>,
    capsule_tenants: Capsules<'_>,
) -> (String, ResolvedBy) {
    let named = RULES
        .into_iter()
        .find_map(|(by, rule)| match rule(policy, name, labels, capsule_tenants) {
            Said::Named(tenant, _) => Some((tenant, by)),
            Said::Silent(_) | Said::Rejected(_) => None,
        });
    // The last rule names every namespace.
    named.unwrap_or_else(|| (guarded(name, ResolvedBy::Namespace), ResolvedBy::Namespace))
}

/// What every rule says of it, in the order in which they are tried.
pub(super) fn explain(
    policy: &Policy,
    name: &str,
    labels: Labels<'_>,
    capsule_tenants: Capsules<'_>,
) -> Vec<(ResolvedBy, Said)> {
    let said = RULES
        .into_iter()
        .map(|(by, rule)| (by, rule(policy, name, labels, capsule_tenants)));
    said.collect()
}

type Labels<'a> = Option<&'a BTreeMap<String, String>>;
/// Names of Capsule's Tenant objects; `None`: the cluster has no such kind.
type Capsules<'a> = Option<&'a BTreeSet<String>>;
type Rule = fn(&Policy, &str, Labels<'_>, Capsules<'_>) -> Said;

/// In the order in which they are tried.
const RULES: [(ResolvedBy, Rule); 7] = [
    (ResolvedBy::System, system),
    (ResolvedBy::Policy, mapped),
    (ResolvedBy::Capsule, capsule),
    (ResolvedBy::Vcluster, vcluster),
    (ResolvedBy::Hnc, hnc),
    (ResolvedBy::Label, labelled),
    (ResolvedBy::Namespace, itself),
];

fn system(policy: &Policy, name: &str, _: Labels<'_>, _: Capsules<'_>) -> Said {
    if policy.system_namespaces.contains(name) {
        let detail = format!("{name:?} is among system_namespaces of the policy");
        return Said::Named(SYSTEM.to_owned(), detail);
    }
    Said::Silent(format!("{name:?} is not among system_namespaces of the policy"))
}

fn mapped(policy: &Policy, name: &str, _: Labels<'_>, _: Capsules<'_>) -> Said {
    match policy.namespace_tenants.get(name) {
        Some(tenant) => {
            let detail = format!("tenants of the policy: {tenant:?} has namespace {name:?}");
            Said::Named(tenant.clone(), detail)
        }
        None => Said::Silent(format!("no tenant of the policy has namespace {name:?}")),
    }
}

/// Where Capsule's Tenant objects are known, its label counts only if it names one of them: what is left over, or was set by someone else, names nobody.
fn capsule(_: &Policy, _: &str, labels: Labels<'_>, tenants: Capsules<'_>) -> Said {
    let known = |tenant: &str| tenants.is_none_or(|known| known.contains(tenant));
    let said = CAPSULE
        .into_iter()
        .map(|key| match label(key, labels, ResolvedBy::Capsule) {
            Said::Named(_, detail) if !labels.and_then(|l| l.get(key)).is_some_and(|t| known(t)) => {
                Said::Rejected(format!("{detail}, but there is no Tenant object of that name"))
            }
            said => said,
        });
    first(said.collect())
}

fn vcluster(_: &Policy, _: &str, labels: Labels<'_>, _: Capsules<'_>) -> Said {
    label(VCLUSTER, labels, ResolvedBy::Vcluster)
}

fn hnc(_: &Policy, _: &str, labels: Labels<'_>, _: Capsules<'_>) -> Said {
    match labels.and_then(hnc_root) {
        Some(root) => {
            let detail = format!("the farthest ancestor among labels *{HNC_SUFFIX} is {root:?}");
            Said::Named(guarded(root, ResolvedBy::Hnc), detail)
        }
        None => Said::Silent(format!("no label *{HNC_SUFFIX}")),
    }
}

fn labelled(policy: &Policy, _: &str, labels: Labels<'_>, _: Capsules<'_>) -> Said {
    match policy.tenant_label.as_deref() {
        Some(key) => label(key, labels, ResolvedBy::Label),
        None => Said::Silent("the policy has no tenant_label".to_owned()),
    }
}

fn itself(_: &Policy, name: &str, _: Labels<'_>, _: Capsules<'_>) -> Said {
    let tenant = guarded(name, ResolvedBy::Namespace);
    Said::Named(
        tenant,
        "no rule before this one names a tenant: the namespace is its own".to_owned(),
    )
}

/// The tenant that a label names.
fn label(key: &str, labels: Labels<'_>, by: ResolvedBy) -> Said {
    let Some(labels) = labels else {
        return Said::Silent("no Namespace object is known".to_owned());
    };
    match labels.get(key) {
        Some(value) if is_tenant_name(value) => {
            Said::Named(guarded(value, by), format!("label {key}: {value:?}"))
        }
        Some(value) => Said::Rejected(format!("label {key}: {value:?} is no tenant's name")),
        None => Said::Silent(format!("no label {key}")),
    }
}

/// Of several that say something, the first that names a tenant, else the first that was rejected.
fn first(said: Vec<Said>) -> Said {
    let rank = |said: &Said| match said {
        Said::Named(..) => 0,
        Said::Rejected(_) => 1,
        Said::Silent(_) => 2,
    };
    let best = said.into_iter().min_by_key(rank);
    best.unwrap_or_else(|| Said::Silent(String::new()))
}

/// `system` is never blamed, so nobody may become it by choosing a name: a namespace or label value of that name is told apart by
/// its rule. `/` is in no namespace name and no label value.
fn guarded(tenant: &str, by: ResolvedBy) -> String {
    if tenant == SYSTEM {
        format!("{by}/{tenant}")
    } else {
        tenant.to_owned()
    }
}

/// What a label value may be. Files are not checked by an API server.
fn is_tenant_name(value: &str) -> bool {
    (1..=63).contains(&value.len())
        && value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && value.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
}

/// The topmost ancestor: the one farthest away.
fn hnc_root(labels: &BTreeMap<String, String>) -> Option<&str> {
    labels
        .iter()
        .filter_map(|(key, value)| {
            let ancestor = key.strip_suffix(HNC_SUFFIX).filter(|a| is_tenant_name(a))?;
            let depth = value.parse::<u32>().ok().filter(|d| *d <= HNC_MAX_DEPTH)?;
            Some((depth, ancestor))
        })
        // Names in order, so that two ancestors of equal depth (impossible in HNC) still give one answer.
        .max_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(a.1)))
        .map(|(_, ancestor)| ancestor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(labels: &[(&str, &str)]) -> (String, String) {
        let labels = labels
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let policy = Policy::from_yaml(
            "tenants: [{name: mapped, namespaces: [ns-mapped]}]\nsystem_namespaces: [kube-system]\ntenant_label: team",
        )
        .unwrap();
        let (tenant, by) = resolve(&policy, "ns", Some(&labels), None);
        (tenant, by.to_string())
    }

    #[test]
    fn the_order_is_fixed() {
        let all = [
            ("capsule.clastix.io/tenant", "cap"),
            ("projectcapsule.dev/tenant", "cap2"),
            ("vcluster.loft.sh/managed-by", "vc"),
            ("mid.tree.hnc.x-k8s.io/depth", "1"),
            ("root.tree.hnc.x-k8s.io/depth", "2"),
            ("ns.tree.hnc.x-k8s.io/depth", "0"),
            ("team", "lab"),
        ];
        let expected = [
            ("cap", "capsule"),
            ("cap2", "capsule"),
            ("vc", "vcluster"),
            ("root", "hnc"),
        ];
        for (skip, (tenant, by)) in expected.iter().enumerate() {
            assert_eq!(
                with(&all[skip..]),
                ((*tenant).to_owned(), (*by).to_owned()),
                "from {}",
                all[skip].0
            );
        }
        assert_eq!(with(&all[6..]), ("lab".to_owned(), "label".to_owned()));
        assert_eq!(with(&[]), ("ns".to_owned(), "namespace".to_owned()));
    }

    #[test]
    fn the_policy_comes_before_labels() {
        let policy = Policy::from_yaml("tenants: [{name: mapped, namespaces: [ns]}]\n").unwrap();
        let labels = BTreeMap::from([("capsule.clastix.io/tenant".to_owned(), "cap".to_owned())]);
        assert_eq!(
            resolve(&policy, "ns", Some(&labels), None),
            ("mapped".to_owned(), ResolvedBy::Policy)
        );
        assert_eq!(
            resolve(&policy, "kube-system", Some(&labels), None),
            ("system".to_owned(), ResolvedBy::System)
        );
    }

    #[test]
    fn nobody_becomes_system_or_a_class_by_a_name() {
        assert_eq!(
            with(&[("capsule.clastix.io/tenant", "system")]).0,
            "capsule/system"
        );
        assert_eq!(
            resolve(&Policy::default(), "system", None, None).0,
            "namespace/system"
        );
        assert_eq!(with(&[("capsule.clastix.io/tenant", "<idle>")]).1, "namespace");
        assert_eq!(with(&[("capsule.clastix.io/tenant", "")]).1, "namespace");
        assert_eq!(with(&[("capsule.clastix.io/tenant", "a\nb")]).1, "namespace");
        assert_eq!(with(&[("x.tree.hnc.x-k8s.io/depth", "-1")]).1, "namespace");
    }
}
