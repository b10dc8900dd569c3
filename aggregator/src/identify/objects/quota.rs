//! ResourceQuota and LimitRange objects.

use partywall_aggregator_core::identity::{LimitRangeObject, QuotaObject, is_object_name};
use partywall_aggregator_core::quantity::{Quantity, QuantityError};

use super::super::yaml::YamlError;
use super::at::{At, metadata, namespace_of};

/// `None`: it bounds only some of the namespace's pods, which cannot be told apart by use.
pub(super) fn quota(object: &At<'_>) -> Result<Option<QuotaObject>, YamlError> {
    let metadata = metadata(object)?;
    let mut quota = QuotaObject {
        namespace: namespace_of(&metadata)?,
        name: metadata.name("name", "quota name", is_object_name)?,
        ..QuotaObject::default()
    };
    let Some(spec) = object.map("spec")? else {
        return Ok(Some(quota));
    };
    if !spec.list("scopes")?.is_empty() || spec.get("scopeSelector").is_some() {
        return Ok(None);
    }
    if let Some(hard) = spec.map("hard")? {
        quota.cpu_ncores = most_used(&hard, "cpu", Quantity::parse_nanos)?;
        quota.memory_bytes = most_used(&hard, "memory", Quantity::parse_units)?;
        let pods = hard.quantity("pods", Quantity::parse_units)?;
        let count = hard.quantity("count/pods", Quantity::parse_units)?;
        quota.pods = [pods, count].into_iter().flatten().min();
    }
    Ok(Some(quota))
}

/// What `hard` lets pods use of a resource: limits, because those are what they may use; else requests, by either name.
fn most_used(
    hard: &At<'_>,
    resource: &str,
    parse: fn(&str) -> Result<u64, QuantityError>,
) -> Result<Option<u64>, YamlError> {
    let limit = hard.quantity(&format!("limits.{resource}"), parse)?;
    let requests = hard.quantity(&format!("requests.{resource}"), parse)?;
    let older = hard.quantity(resource, parse)?;
    Ok(limit.or([requests, older].into_iter().flatten().min()))
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
