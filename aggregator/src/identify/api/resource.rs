//! Which resources are watched: exactly those that the aggregator's ClusterRole names.

use super::super::objects::CAPSULE;

/// One resource of the API, read in all namespaces.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    /// Group and version as an object's `apiVersion` has them.
    pub api: &'static str,
    pub plural: &'static str,
    pub kind: &'static str,
    /// As metrics and errors name it: `pods`, `networkpolicies.networking.k8s.io`.
    pub name: &'static str,
    /// A cluster may do without: its definition is Capsule's.
    pub optional: bool,
}

const fn builtin(
    api: &'static str,
    plural: &'static str,
    kind: &'static str,
    name: &'static str,
) -> Resource {
    Resource {
        api,
        plural,
        kind,
        name,
        optional: false,
    }
}

/// Namespaces first: their watch tells when Capsule came.
pub const RESOURCES: [Resource; 9] = [
    builtin("v1", "namespaces", "Namespace", "namespaces"),
    builtin("v1", "pods", "Pod", "pods"),
    builtin("v1", "nodes", "Node", "nodes"),
    builtin("v1", "services", "Service", "services"),
    builtin("v1", "resourcequotas", "ResourceQuota", "resourcequotas"),
    builtin("v1", "limitranges", "LimitRange", "limitranges"),
    builtin(
        "discovery.k8s.io/v1",
        "endpointslices",
        "EndpointSlice",
        "endpointslices.discovery.k8s.io",
    ),
    builtin(
        "networking.k8s.io/v1",
        "networkpolicies",
        "NetworkPolicy",
        "networkpolicies.networking.k8s.io",
    ),
    Resource {
        api: CAPSULE,
        plural: "tenants",
        kind: "Tenant",
        name: "tenants.capsule.clastix.io",
        optional: true,
    },
];

impl Resource {
    pub(super) fn path(&self) -> String {
        let root = if self.api.contains('/') { "apis" } else { "api" };
        format!("/{root}/{}/{}", self.api, self.plural)
    }
}
