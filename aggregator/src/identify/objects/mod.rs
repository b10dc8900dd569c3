//! Kubernetes objects in files → what the core needs of them.
//!
//! The kinds of [`read`], single, in several documents, or in lists. Other kinds are counted and left alone. What is read is held to what an
//! API server would accept, because no API server has looked at a file: an error names the object, the field and its value.

mod at;
mod network;
mod pod;
mod policy;
mod quota;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use partywall_aggregator_core::fence::NetworkPolicy;
use partywall_aggregator_core::identity::{
    Cluster, EndpointSliceObject, ForeignPolicy, LimitRangeObject, Namespace, NodeObject, PodObject,
    QuotaObject, ServiceObject, UnjudgedQuota, is_namespace_name, is_object_name,
};

use super::yaml::{self, Value, Yaml, YamlError};
use at::{At, error, metadata};

/// Of Capsule's Tenant objects.
pub const CAPSULE: &str = "capsule.clastix.io/v1beta2";

/// What one file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    pub cluster: Cluster,
    /// Objects of other kinds.
    pub ignored: u64,
    /// Policies that name no namespace, and were taken for the namespace `default`: kind and name.
    pub unplaced: Vec<String>,
}

/// One object, as far as it is looked at.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    Namespace(Namespace),
    Pod(Arc<PodObject>),
    Quota(QuotaObject),
    UnjudgedQuota(UnjudgedQuota),
    LimitRange(LimitRangeObject),
    Node(NodeObject),
    Service(ServiceObject),
    EndpointSlice(EndpointSliceObject),
    NetworkPolicy(Arc<NetworkPolicy>),
    /// Of a kind that is not evaluated.
    Policy(ForeignPolicy),
    /// Of Capsule: its name.
    Tenant(String),
}

impl Object {
    /// Adds it to what is known.
    pub fn put(self, cluster: &mut Cluster) {
        match self {
            Self::Namespace(object) => cluster.namespaces.push(object),
            Self::Pod(object) => cluster.pods.push(object),
            Self::Quota(object) => cluster.quotas.push(object),
            Self::UnjudgedQuota(object) => cluster.unjudged_quotas.push(object),
            Self::LimitRange(object) => cluster.limit_ranges.push(object),
            Self::Node(object) => cluster.nodes.push(object),
            Self::Service(object) => cluster.services.push(object),
            Self::EndpointSlice(object) => cluster.endpoint_slices.push(object),
            Self::NetworkPolicy(object) => cluster.network_policies.push(object),
            Self::Policy(object) => cluster.foreign_policies.push(object),
            Self::Tenant(name) => {
                cluster.capsule_tenants.get_or_insert_default().insert(name);
            }
        }
    }
}

/// # Errors
/// The first thing that is wrong, with its line.
pub fn read(text: &str) -> Result<Objects, YamlError> {
    let mut out = Objects::default();
    for document in yaml::read(text)? {
        if document.value != Value::Null {
            documents(&document, None, &mut out)?;
        }
    }
    Ok(out)
}

/// What a typed list (`PodList`) says for items that leave it out.
#[derive(Clone, Copy)]
struct OfList<'a> {
    api: Option<&'a str>,
    kind: &'a str,
}

/// One object, or a list of them.
fn documents(yaml: &Yaml, of_list: Option<OfList<'_>>, out: &mut Objects) -> Result<(), YamlError> {
    let (api, kind) = head(yaml, of_list)?;
    if let Some(items) = yaml.get("items") {
        let Value::List(items) = &items.value else {
            return Err(error(
                items,
                &format!("{kind} items"),
                &format!("is {}, not a list", items.shown()),
            ));
        };
        if (api, kind) == (Some(CAPSULE), "TenantList") {
            // A list without items says that there are none, no list that nobody knows.
            out.cluster.capsule_tenants.get_or_insert_default();
        }
        let of_list = kind
            .strip_suffix("List")
            .filter(|k| !k.is_empty())
            .map(|kind| OfList { api, kind });
        return items.iter().try_for_each(|item| documents(item, of_list, out));
    }
    let Some(object) = object(yaml, api.unwrap_or_default(), kind)? else {
        out.ignored += 1;
        return Ok(());
    };
    let is_placed = || {
        let metadata = yaml.get("metadata");
        metadata.is_some_and(|m| m.get("namespace").is_some())
    };
    match &object {
        Object::NetworkPolicy(policy) if !is_placed() => {
            out.unplaced.push(format!("NetworkPolicy {:?}", policy.name));
        }
        Object::Policy(policy) if policy.namespace.is_some() && !is_placed() => {
            out.unplaced.push(format!("{} {:?}", policy.kind, policy.name));
        }
        _ => {}
    }
    object.put(&mut out.cluster);
    Ok(())
}

/// apiVersion and kind, where need be as the list around says.
fn head<'a>(yaml: &'a Yaml, of_list: Option<OfList<'a>>) -> Result<(Option<&'a str>, &'a str), YamlError> {
    if !matches!(yaml.value, Value::Map(_)) {
        return Err(error(
            yaml,
            "this document",
            &format!("is no Kubernetes object but {}", yaml.shown()),
        ));
    }
    let kind = match yaml.get("kind") {
        Some(kind) => kind
            .text()
            .ok_or_else(|| error(kind, "kind", &format!("is {}", kind.shown())))?,
        None => of_list
            .map(|list| list.kind)
            .ok_or_else(|| error(yaml, "kind", "is absent: is this a Kubernetes object?"))?,
    };
    let api = match (yaml.get("apiVersion"), of_list) {
        (Some(api), _) => api.text(),
        (None, Some(list)) => list.api.or(Some("v1")),
        (None, None) => None,
    };
    Ok((api, kind))
}

/// One object of a known apiVersion and kind; `None`: of a kind that is not read.
///
/// # Errors
/// The first thing that is wrong: object, field and value.
pub fn object(yaml: &Yaml, api: &str, kind: &str) -> Result<Option<Object>, YamlError> {
    let (group, version) = api.split_once('/').unwrap_or(("", api));
    let at = || At::new(kind, yaml);
    let object = match (group, version, kind) {
        ("", "v1", "Namespace") => Object::Namespace(namespace(&at()?)?),
        ("", "v1", "Pod") => Object::Pod(Arc::new(pod::pod(&at()?)?)),
        ("", "v1", "ResourceQuota") => quota::quota(&at()?)?,
        ("", "v1", "LimitRange") => Object::LimitRange(quota::limit_range(&at()?)?),
        ("", "v1", "Node") => Object::Node(network::node(&at()?)?),
        ("", "v1", "Service") => Object::Service(network::service(&at()?)?),
        ("discovery.k8s.io", "v1", "EndpointSlice") => {
            Object::EndpointSlice(network::endpoint_slice(&at()?)?)
        }
        ("networking.k8s.io", "v1", "NetworkPolicy") => {
            Object::NetworkPolicy(Arc::new(policy::network_policy(&at()?)?))
        }
        ("capsule.clastix.io", _, "Tenant") => {
            Object::Tenant(metadata(&at()?)?.name("name", "tenant name", is_object_name)?)
        }
        _ if policy::is_foreign(group, kind) => Object::Policy(policy::foreign(group, kind, &at()?)?),
        _ => return Ok(None),
    };
    Ok(Some(object))
}

fn namespace(object: &At<'_>) -> Result<Namespace, YamlError> {
    let metadata = metadata(object)?;
    Ok(Namespace {
        name: metadata.name("name", "namespace name", is_namespace_name)?,
        labels: metadata.texts("labels")?,
    })
}
