//! ResourceQuota and LimitRange objects.

use std::collections::BTreeSet;

use partywall_aggregator_core::identity::{
    Classes, LimitRangeObject, QuotaObject, Scope, UnjudgedQuota, is_object_name,
};
use partywall_aggregator_core::quantity::{Quantity, QuantityError};

use super::super::yaml::YamlError;
use super::Object;
use super::at::{At, metadata, namespace_of};

pub(super) fn quota(object: &At<'_>) -> Result<Object, YamlError> {
    let metadata = metadata(object)?;
    let mut quota = QuotaObject {
        namespace: namespace_of(&metadata)?,
        name: metadata.name("name", "quota name", is_object_name)?,
        ..QuotaObject::default()
    };
    let Some(spec) = object.map("spec")? else {
        return Ok(Object::Quota(quota));
    };
    if let Some(hard) = spec.map("hard")? {
        let cpu = ["limits.cpu", "requests.cpu", "cpu"];
        let memory = ["limits.memory", "requests.memory", "memory"];
        (quota.cpu_ncores, quota.keys[0]) = most_used(&hard, cpu, Quantity::parse_nanos)?;
        (quota.memory_bytes, quota.keys[1]) = most_used(&hard, memory, Quantity::parse_units)?;
        let pods = hard.quantity("pods", Quantity::parse_units)?;
        let count = hard.quantity("count/pods", Quantity::parse_units)?;
        (quota.pods, quota.keys[2]) = tightest([(pods, "pods"), (count, "count/pods")]);
    }
    let scopes = scopes(&spec)?;
    if let Some(reason) = scopes.iter().find_map(|scope| scope.as_ref().err()) {
        return Ok(Object::UnjudgedQuota(UnjudgedQuota {
            namespace: quota.namespace,
            name: quota.name,
            reason: reason.clone(),
        }));
    }
    quota.scopes = scopes.into_iter().flatten().collect();
    Ok(Object::Quota(quota))
}

/// All of them must hold. One that cannot be told of a pod is its reason.
fn scopes(spec: &At<'_>) -> Result<Vec<Result<Scope, String>>, YamlError> {
    let mut out = Vec::new();
    for item in spec.list("scopes")? {
        let Some(name) = item.yaml.text() else {
            return item.wrong(&format!("is {}, not a scope", item.yaml.shown()));
        };
        out.push(scope(name, Classes::Exists));
    }
    let selector = spec.map("scopeSelector")?;
    let expressions = match &selector {
        Some(selector) => selector.list("matchExpressions")?,
        None => Vec::new(),
    };
    for expression in expressions {
        let Some(name) = expression.text("scopeName")? else {
            return expression.wrong("scopeName is absent");
        };
        let mut values = BTreeSet::new();
        for value in expression.list("values")? {
            match value.yaml.text() {
                Some(text) => values.insert(text.to_owned()),
                None => return value.wrong(&format!("is {}, not a text", value.yaml.shown())),
            };
        }
        let operator = expression.text("operator")?.unwrap_or_default();
        let classes = match operator {
            "In" => Classes::In(values),
            "NotIn" => Classes::NotIn(values),
            "Exists" => Classes::Exists,
            "DoesNotExist" => Classes::DoesNotExist,
            _ => return expression.wrong_at("operator", "is none of In, NotIn, Exists, DoesNotExist"),
        };
        let takes_values = matches!(classes, Classes::In(_) | Classes::NotIn(_));
        let has_values = !expression.list("values")?.is_empty();
        if takes_values != has_values {
            let must = if takes_values {
                "at least one is needed"
            } else {
                "none is taken"
            };
            return expression.wrong(&format!("values do not fit operator {operator}: {must}"));
        }
        if name != "PriorityClass" && classes != Classes::Exists {
            return expression.wrong_at(
                "operator",
                &format!("is {operator:?}, of {name} it must be Exists"),
            );
        }
        out.push(scope(name, classes));
    }
    Ok(out)
}

fn scope(name: &str, classes: Classes) -> Result<Scope, String> {
    match name {
        "Terminating" => Ok(Scope::Terminating),
        "NotTerminating" => Ok(Scope::NotTerminating),
        "BestEffort" => Ok(Scope::BestEffort),
        "NotBestEffort" => Ok(Scope::NotBestEffort),
        "PriorityClass" => Ok(Scope::PriorityClass(classes)),
        "CrossNamespacePodAffinity" => {
            Err("scope CrossNamespacePodAffinity: affinity terms of pods are not read".to_owned())
        }
        other => Err(format!(
            "scope {:?} is not known",
            other.chars().take(80).collect::<String>()
        )),
    }
}

/// What `hard` lets pods use of a resource, and under which key: limits, because those are what they may use; else requests, by either name.
fn most_used(
    hard: &At<'_>,
    [limits, requests, older]: [&'static str; 3],
    parse: fn(&str) -> Result<u64, QuantityError>,
) -> Result<(Option<u64>, &'static str), YamlError> {
    let read = |key: &'static str| Ok::<_, YamlError>((hard.quantity(key, parse)?, key));
    let (limit, asked) = (read(limits)?, [read(requests)?, read(older)?]);
    Ok(if limit.0.is_some() { limit } else { tightest(asked) })
}

fn tightest(bounds: [(Option<u64>, &'static str); 2]) -> (Option<u64>, &'static str) {
    let bounds = bounds
        .into_iter()
        .filter_map(|(amount, key)| Some((amount?, key)));
    match bounds.min_by_key(|(amount, _)| *amount) {
        Some((amount, key)) => (Some(amount), key),
        None => (None, ""),
    }
}

/// What it says of containers; what it says of pods and claims is left alone.
pub(super) fn limit_range(object: &At<'_>) -> Result<LimitRangeObject, YamlError> {
    let metadata = metadata(object)?;
    let mut range = LimitRangeObject {
        namespace: namespace_of(&metadata)?,
        name: metadata.name("name", "limit range name", is_object_name)?,
        ..LimitRangeObject::default()
    };
    let limits = match object.map("spec")? {
        Some(spec) => spec.list("limits")?,
        None => Vec::new(),
    };
    for limit in limits {
        if limit.text("type")? != Some("Container") {
            continue;
        }
        let read = |key: &str| -> Result<(Option<u64>, Option<u64>), YamlError> {
            let Some(list) = limit.map(key)? else {
                return Ok((None, None));
            };
            Ok((
                list.quantity("cpu", Quantity::parse_nanos)?,
                list.quantity("memory", Quantity::parse_units)?,
            ))
        };
        let (max, default) = (read("max")?, read("default")?);
        let least = |a: Option<u64>, b: Option<u64>| [a, b].into_iter().flatten().min();
        range.max_cpu_ncores = least(range.max_cpu_ncores, max.0);
        range.max_memory_bytes = least(range.max_memory_bytes, max.1);
        range.defaults_cpu |= default.0.is_some();
        range.defaults_memory |= default.1.is_some();
    }
    Ok(range)
}
