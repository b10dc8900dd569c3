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

use partywall_aggregator_core::identity::{Cluster, Namespace, is_namespace_name};

use super::yaml::{self, Value, Yaml, YamlError};
use at::{At, error, metadata};

/// What one file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    pub cluster: Cluster,
    /// Objects of other kinds, and quotas that bound only some pods.
    pub ignored: u64,
    /// Policies that name no namespace, and were taken for the namespace `default`: kind and name.
    pub unplaced: Vec<String>,
}

/// # Errors
/// The first thing that is wrong, with its line.
pub fn read(text: &str) -> Result<Objects, YamlError> {
    let mut out = Objects::default();
    for document in yaml::read(text)? {
        if document.value != Value::Null {
            object(&document, None, &mut out)?;
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
fn object(yaml: &Yaml, of_list: Option<OfList<'_>>, out: &mut Objects) -> Result<(), YamlError> {
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
    if let Some(items) = yaml.get("items") {
        let Value::List(items) = &items.value else {
            return Err(error(
                items,
                &format!("{kind} items"),
                &format!("is {}, not a list", items.shown()),
            ));
        };
        let of_list = kind
            .strip_suffix("List")
            .filter(|k| !k.is_empty())
            .map(|kind| OfList { api, kind });
        return items.iter().try_for_each(|item| object(item, of_list, out));
    }
    let (group, version) = api.map_or(("", ""), |api| api.split_once('/').unwrap_or(("", api)));
    let at = || At::new(kind, yaml);
    let is_placed = || {
        let metadata = yaml.get("metadata");
        metadata.is_some_and(|m| m.get("namespace").is_some())
    };
    let cluster = &mut out.cluster;
    match (group, version, kind) {
        ("", "v1", "Namespace") => cluster.namespaces.push(namespace(&at()?)?),
        ("", "v1", "Pod") => cluster.pods.push(pod::pod(&at()?)?),
        ("", "v1", "ResourceQuota") => match quota::quota(&at()?)? {
            Some(quota) => cluster.quotas.push(quota),
            None => out.ignored += 1,
        },
        ("", "v1", "LimitRange") => cluster.limit_ranges.push(quota::limit_range(&at()?)?),
        ("", "v1", "Node") => cluster.nodes.push(network::node(&at()?)?),
        ("", "v1", "Service") => cluster.services.push(network::service(&at()?)?),
        ("discovery.k8s.io", "v1", "EndpointSlice") => {
            cluster.endpoint_slices.push(network::endpoint_slice(&at()?)?);
        }
        ("networking.k8s.io", "v1", "NetworkPolicy") => {
            let policy = policy::network_policy(&at()?)?;
            if !is_placed() {
                out.unplaced.push(format!("NetworkPolicy {:?}", policy.name));
            }
            cluster.network_policies.push(Arc::new(policy));
        }
        _ if policy::is_foreign(group, kind) => {
            let policy = policy::foreign(group, kind, &at()?)?;
            if policy.namespace.is_some() && !is_placed() {
                out.unplaced.push(format!("{} {:?}", policy.kind, policy.name));
            }
            cluster.foreign_policies.push(policy);
        }
        _ => out.ignored += 1,
    }
    Ok(())
}

fn namespace(object: &At<'_>) -> Result<Namespace, YamlError> {
    let metadata = metadata(object)?;
    Ok(Namespace {
        name: metadata.name("name", "namespace name", is_namespace_name)?,
        labels: metadata.texts("labels")?,
    })
}
