//! From a namespace to its tenant, in a fixed order, from Namespace objects and the policy only: pod labels are the tenants' own.

use std::collections::BTreeMap;
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
#[derive(Debug)]
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

/// The tenant of namespace `name` with these labels. `labels` is `None` where no Namespace object was seen.
pub(super) fn resolve(
    policy: &Policy,
    name: &str,
    labels: Option<&BTreeMap<String, String>>,
) -> (String, ResolvedBy) {
    if policy.system_namespaces.contains(name) {
        return (SYSTEM.to_owned(), ResolvedBy::System);
    }
    if let Some(tenant) = policy.namespace_tenants.get(name) {
        return (tenant.clone(), ResolvedBy::Policy);
    }
    if let Some(labels) = labels {
        let label = |key: &str| labels.get(key).map(String::as_str).filter(|v| is_tenant_name(v));
        let found = CAPSULE
            .into_iter()
            .find_map(label)
            .map(|t| (t, ResolvedBy::Capsule))
            .or_else(|| label(VCLUSTER).map(|t| (t, ResolvedBy::Vcluster)))
            .or_else(|| hnc_root(labels).map(|t| (t, ResolvedBy::Hnc)))
            .or_else(|| {
                policy
                    .tenant_label
                    .as_deref()
                    .and_then(label)
                    .map(|t| (t, ResolvedBy::Label))
            });
        if let Some((tenant, by)) = found {
            return (guarded(tenant, by), by);
        }
    }
    (guarded(name, ResolvedBy::Namespace), ResolvedBy::Namespace)
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
        let (tenant, by) = resolve(&policy, "ns", Some(&labels));
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
            resolve(&policy, "ns", Some(&labels)),
            ("mapped".to_owned(), ResolvedBy::Policy)
        );
        assert_eq!(
            resolve(&policy, "kube-system", Some(&labels)),
            ("system".to_owned(), ResolvedBy::System)
        );
    }

    #[test]
    fn nobody_becomes_system_or_a_class_by_a_name() {
        assert_eq!(
            with(&[("capsule.clastix.io/tenant", "system")]).0,
            "capsule/system"
        );
        assert_eq!(resolve(&Policy::default(), "system", None).0, "namespace/system");
        assert_eq!(with(&[("capsule.clastix.io/tenant", "<idle>")]).1, "namespace");
        assert_eq!(with(&[("capsule.clastix.io/tenant", "")]).1, "namespace");
        assert_eq!(with(&[("capsule.clastix.io/tenant", "a\nb")]).1, "namespace");
        assert_eq!(with(&[("x.tree.hnc.x-k8s.io/depth", "-1")]).1, "namespace");
    }
}
