//! The resources that are served, and what the server writes into objects that their author left out.

use serde_json::{Map, Value, json};

/// One resource of the API.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    /// Empty: the core group.
    pub group: &'static str,
    pub version: &'static str,
    /// As in the path.
    pub plural: &'static str,
    pub kind: &'static str,
    pub namespaced: bool,
    /// Served only while its definition is there; items of its lists bear their kind.
    pub custom: bool,
}

const fn builtin(
    group: &'static str,
    plural: &'static str,
    kind: &'static str,
    namespaced: bool,
) -> Resource {
    Resource {
        group,
        version: "v1",
        plural,
        kind,
        namespaced,
        custom: false,
    }
}

pub const RESOURCES: &[Resource] = &[
    builtin("", "namespaces", "Namespace", false),
    builtin("", "nodes", "Node", false),
    builtin("", "pods", "Pod", true),
    builtin("", "services", "Service", true),
    builtin("", "resourcequotas", "ResourceQuota", true),
    builtin("", "limitranges", "LimitRange", true),
    builtin("", "configmaps", "ConfigMap", true),
    builtin("", "secrets", "Secret", true),
    builtin("discovery.k8s.io", "endpointslices", "EndpointSlice", true),
    builtin("networking.k8s.io", "networkpolicies", "NetworkPolicy", true),
    Resource {
        group: "capsule.clastix.io",
        version: "v1beta2",
        plural: "tenants",
        kind: "Tenant",
        namespaced: false,
        custom: true,
    },
];

impl Resource {
    /// By what an object says of itself.
    pub fn of(object: &Value) -> Option<&'static Self> {
        let api = object.get("apiVersion")?.as_str()?;
        let kind = object.get("kind")?.as_str()?;
        RESOURCES
            .iter()
            .find(|r| r.api_version() == api && r.kind == kind)
    }

    pub fn named(plural: &str) -> Option<&'static Self> {
        RESOURCES.iter().find(|r| r.plural == plural)
    }

    /// By group, version and plural of a path.
    pub fn at(group: &str, version: &str, plural: &str) -> Option<&'static Self> {
        RESOURCES
            .iter()
            .find(|r| (r.group, r.version, r.plural) == (group, version, plural))
    }

    pub fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// As error messages name it: `pods`, `networkpolicies.networking.k8s.io`.
    pub fn qualified(&self) -> String {
        match self.group {
            "" => self.plural.to_owned(),
            group => format!("{}.{group}", self.plural),
        }
    }
}

/// Puts `value` where nothing stands.
fn or(object: &mut Map<String, Value>, key: &str, value: Value) {
    object.entry(key).or_insert(value);
}

fn map<'a>(object: &'a mut Value, key: &str) -> Option<&'a mut Map<String, Value>> {
    object.get_mut(key)?.as_object_mut()
}

fn items<'a>(
    object: &'a mut Map<String, Value>,
    key: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    let list = object.get_mut(key).and_then(Value::as_array_mut);
    list.into_iter().flatten().filter_map(Value::as_object_mut)
}

/// What the API server defaults when an object is created: the fields that are seen in every object it writes.
pub fn default(resource: &Resource, object: &mut Value) {
    let name = object.pointer("/metadata/name").cloned().unwrap_or_default();
    match resource.kind {
        "Namespace" => {
            if let Some(metadata) = map(object, "metadata") {
                or(metadata, "labels", json!({}));
                if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
                    or(labels, "kubernetes.io/metadata.name", name);
                }
            }
            if let Some(object) = object.as_object_mut() {
                or(object, "spec", json!({"finalizers": ["kubernetes"]}));
                or(object, "status", json!({"phase": "Active"}));
            }
        }
        "Pod" => pod(object),
        "Service" => {
            let Some(spec) = map(object, "spec") else { return };
            or(spec, "type", json!("ClusterIP"));
            or(spec, "sessionAffinity", json!("None"));
            for port in items(spec, "ports") {
                let number = port.get("port").cloned().unwrap_or_default();
                or(port, "protocol", json!("TCP"));
                or(port, "targetPort", number);
            }
        }
        "NetworkPolicy" => {
            let Some(spec) = map(object, "spec") else { return };
            let egress = spec
                .get("egress")
                .and_then(Value::as_array)
                .is_some_and(|r| !r.is_empty());
            let types = if egress {
                json!(["Ingress", "Egress"])
            } else {
                json!(["Ingress"])
            };
            or(spec, "policyTypes", types);
        }
        _ => {}
    }
    quantities(object);
}

fn pod(object: &mut Value) {
    let name = object.pointer("/metadata/name").cloned().unwrap_or_default();
    let Some(spec) = map(object, "spec") else { return };
    for (key, value) in [
        ("restartPolicy", json!("Always")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("dnsPolicy", json!("ClusterFirst")),
        ("serviceAccountName", json!("default")),
        ("serviceAccount", json!("default")),
        ("securityContext", json!({})),
        ("schedulerName", json!("default-scheduler")),
        ("enableServiceLinks", json!(true)),
        ("preemptionPolicy", json!("PreemptLowerPriority")),
        ("priority", json!(0)),
        (
            "tolerations",
            json!([
                {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
                {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
            ]),
        ),
        (
            "volumes",
            json!([{"name": "kube-api-access", "projected": {"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            ]}}]),
        ),
    ] {
        or(spec, key, value);
    }
    for key in ["containers", "initContainers"] {
        for container in items(spec, key) {
            or(container, "name", name.clone());
            or(container, "image", json!("registry.example/app:1"));
            or(container, "imagePullPolicy", json!("IfNotPresent"));
            or(container, "resources", json!({}));
            or(container, "terminationMessagePath", json!("/dev/termination-log"));
            or(container, "terminationMessagePolicy", json!("File"));
            for port in items(container, "ports") {
                or(port, "protocol", json!("TCP"));
            }
            // The API server copies a limit into a request that is not there.
            let resources = container.get_mut("resources").and_then(Value::as_object_mut);
            if let Some(resources) = resources
                && let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned()
            {
                or(resources, "requests", json!({}));
                if let Some(requests) = resources.get_mut("requests").and_then(Value::as_object_mut) {
                    for (resource, amount) in limits {
                        or(requests, &resource, amount);
                    }
                }
            }
        }
    }
    if let Some(object) = object.as_object_mut() {
        or(object, "status", json!({"phase": "Pending"}));
    }
}

/// Numbers where quantities stand become texts: the API server writes every quantity as one.
fn quantities(value: &mut Value) {
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                if matches!(
                    &**key,
                    "requests"
                        | "limits"
                        | "hard"
                        | "used"
                        | "max"
                        | "min"
                        | "default"
                        | "defaultRequest"
                        | "capacity"
                        | "allocatable"
                ) && let Value::Object(amounts) = value
                {
                    for amount in amounts.values_mut().filter(|a| a.is_number()) {
                        *amount = Value::String(amount.to_string());
                    }
                } else {
                    quantities(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(quantities),
        _ => {}
    }
}
