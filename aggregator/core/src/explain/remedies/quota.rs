//! A tenant over its quota: the quota that would fit, or what would have to go.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::cx::Cx;
use super::super::parties::pods_of;
use super::super::rules::{in_unit, quota_subject};
use super::super::{PLATFORM, Remedy};
use super::workload::{self, Change, Source};
use crate::breach::BreachKind;
use crate::identity::{Bound, PodObject, QuotaObject, Resource, Scope};
use crate::node::Window;
use crate::sums::Who;
use crate::yaml::{Yaml, comment};

/// A ResourceQuota that binds, and what its namespace's pods use of the resource.
pub(in super::super) struct BoundBy<'a> {
    pub(in super::super) object: &'a QuotaObject,
    pub(in super::super) hard: f64,
    pub(in super::super) key: &'static str,
    pub(in super::super) used: f64,
}

/// The tightest of each of the tenant's namespaces.
pub(in super::super) fn quotas_of<'a>(cx: &Cx<'a>, resource: Resource, scopes: &str) -> Vec<BoundBy<'a>> {
    let mut tightest: BTreeMap<&str, BoundBy<'a>> = BTreeMap::new();
    for bound in all_quotas_of(cx, resource, scopes) {
        match tightest.get(bound.object.namespace.as_str()) {
            Some(other) if other.hard <= bound.hard => {}
            _ => {
                tightest.insert(&bound.object.namespace, bound);
            }
        }
    }
    tightest.into_values().collect()
}

/// A namespace may have several.
fn all_quotas_of<'a>(cx: &Cx<'a>, resource: Resource, scopes: &str) -> Vec<BoundBy<'a>> {
    let namespaces = cx.namespaces_of(&cx.breach().key.tenant);
    let used = used_by_namespace(cx, resource);
    let mut out = Vec::new();
    for object in &cx.directory.cluster().quotas {
        let in_words: Vec<String> = object.scopes.iter().map(Scope::to_string).collect();
        if in_words.join(" and ") != scopes || !namespaces.contains(&object.namespace) {
            continue;
        }
        let hard = match resource {
            Resource::Cpu => object.cpu_ncores.map(|n| n as f64 / 1e9),
            Resource::Memory => object.memory_bytes.map(|n| n as f64),
            Resource::Pods => object.pods.map(|n| n as f64),
        };
        let Some(hard) = hard else { continue };
        out.push(BoundBy {
            object,
            hard,
            key: object.keys[resource as usize],
            used: used.get(object.namespace.as_str()).copied().unwrap_or(0.0),
        });
    }
    out
}

fn used_by_namespace(cx: &Cx<'_>, resource: Resource) -> BTreeMap<String, f64> {
    let mut out: BTreeMap<String, f64> = BTreeMap::new();
    for (_, found) in pods_of(cx, &cx.breach().key.tenant) {
        let Who::Pod(pod) = &found.unit.who else { continue };
        let amount = match resource {
            Resource::Cpu => found.used_cores(),
            Resource::Memory => found.memory_bytes().map(|n| n as f64),
            Resource::Pods => (found.node.window_ns(Window::Long) > 0).then_some(1.0),
        };
        *out.entry(pod.namespace.to_string()).or_default() += amount.unwrap_or(0.0);
    }
    out
}

pub(super) fn fit(cx: &Cx<'_>) -> Vec<Remedy> {
    let key = &cx.breach().key;
    let (resource, scopes) = quota_subject(&key.subject);
    let [used, quota] = match resource {
        Resource::Cpu => ["used_cores", "quota_cores"],
        Resource::Memory => ["used_bytes", "quota_bytes"],
        Resource::Pods => ["used_pods", "quota_pods"],
    }
    .map(|name| cx.figure(name).unwrap_or(0.0));
    // At the threshold itself it is still near.
    let wanted = used / resolved_below(cx).max(0.01) * (1.0 + 1e-9);
    let mut out = Vec::new();
    if wanted > quota {
        out.extend(raised(cx, resource, scopes, wanted, wanted - quota));
    }
    if key.kind == BreachKind::QuotaExceeded {
        let t = &cx.thresholds().quota;
        let target = match resource {
            // Counted, not measured.
            Resource::Pods => quota,
            // One that fires is over below this.
            Resource::Cpu | Resource::Memory => {
                quota * (t.exceeded_ratio * t.clear_below_ratio).min(1.0) * (1.0 - 1e-9)
            }
        };
        out.extend(less(cx, resource, scopes, used - target));
    }
    out
}

/// The share of its quota below which a tenant is not even near it any more.
fn resolved_below(cx: &Cx<'_>) -> f64 {
    let quota = &cx.thresholds().quota;
    quota.near_ratio * quota.clear_below_ratio
}

fn raised(cx: &Cx<'_>, resource: Resource, scopes: &str, wanted: f64, more: f64) -> Option<Remedy> {
    let key = &cx.breach().key;
    let by = Arc::from(PLATFORM);
    let why = format!(
        "{} then uses less than {:.0} % of it",
        key.tenant,
        resolved_below(cx) * 100.0
    );
    let bound = cx
        .tenant(&key.tenant)
        .and_then(|id| cx.directory.quota(id, resource));
    if let Some(Bound {
        from_policy: true, ..
    }) = bound
        && scopes.is_empty()
    {
        let (name, wanted, amount) = match resource {
            Resource::Cpu => {
                let wanted = (wanted * 100.0).ceil() / 100.0;
                ("cpu_cores", wanted, format!("{wanted:.2}"))
            }
            Resource::Memory => ("memory_bytes", wanted.ceil(), format!("{}", wanted.ceil() as u64)),
            Resource::Pods => ("pods", wanted.ceil(), format!("{}", wanted.ceil() as u64)),
        };
        let mut yaml = String::new();
        comment(
            &mut yaml,
            "",
            "of the policy file: this replaces the figure in the tenant's own entry under `tenants`",
        );
        let entry = [
            ("name", Yaml::text(&*key.tenant)),
            ("quota", Yaml::map([(name, Yaml::text(amount))])),
        ];
        yaml += &Yaml::map([("tenants", Yaml::List(vec![Yaml::map(entry)]))]).document();
        let what = format!(
            "{} has a quota of {} in the policy file",
            key.tenant,
            in_unit(resource, wanted)
        );
        return Some(Remedy {
            kind: "quota",
            by,
            what,
            why,
            yaml,
        });
    }
    let quotas = quotas_of(cx, resource, scopes);
    // Where most is missing, or least is left.
    let tightest = quotas
        .iter()
        .max_by(|a, b| (a.used - a.hard).total_cmp(&(b.used - b.hard)))?;
    let hard = tightest.hard + more;
    let amount = match resource {
        Resource::Cpu => workload::cpu((hard * 1e9) as u64),
        Resource::Memory => workload::memory(hard as u64),
        Resource::Pods => (hard.ceil() as u64).to_string(),
    };
    // The smallest of a namespace's binds: all that are below have to be raised.
    let mut below = all_quotas_of(cx, resource, scopes);
    below.retain(|q| q.object.namespace == tightest.object.namespace && q.hard < hard);
    let (documents, whats): (Vec<String>, Vec<String>) =
        below.iter().map(|quota| raise(quota, resource, &amount)).unzip();
    Some(Remedy {
        kind: "quota",
        by,
        what: whats.join(", "),
        why,
        yaml: workload::join(&documents),
    })
}

/// The part of one ResourceQuota that changes, and what it then says.
fn raise(quota: &BoundBy<'_>, resource: Resource, amount: &str) -> (String, String) {
    let object = quota.object;
    let mut yaml = String::new();
    let note = format!(
        "part of ResourceQuota {}/{}, to be merged into it: {amount} instead of {}",
        object.namespace,
        object.name,
        in_unit(resource, quota.hard)
    );
    comment(&mut yaml, "", &note);
    let metadata = [
        ("name", Yaml::text(&object.name)),
        ("namespace", Yaml::text(&object.namespace)),
    ];
    let key_of_hard = if quota.key.is_empty() {
        resource.as_str()
    } else {
        quota.key
    };
    let hard = Yaml::map([(key_of_hard, Yaml::text(amount))]);
    let document = Yaml::map([
        ("apiVersion", Yaml::text("v1")),
        ("kind", Yaml::text("ResourceQuota")),
        ("metadata", Yaml::map(metadata)),
        ("spec", Yaml::map([("hard", hard)])),
    ]);
    yaml += &document.document();
    let what = format!(
        "ResourceQuota {}/{} admits {key_of_hard} of {amount}",
        object.namespace, object.name
    );
    (yaml, what)
}

/// The one workload that would have to give most, as far as it can.
fn less(cx: &Cx<'_>, resource: Resource, scopes: &str, excess: f64) -> Option<Remedy> {
    let key = &cx.breach().key;
    let of_policy = cx
        .tenant(&key.tenant)
        .and_then(|id| cx.directory.quota(id, resource))
        .is_some_and(|bound| bound.from_policy && scopes.is_empty());
    let quotas = quotas_of(cx, resource, scopes);
    // What the quota does not count would give in vain.
    let counts = |pod: &PodObject| {
        let bounds = |q: &BoundBy<'_>| {
            q.object.namespace == pod.namespace && q.object.scopes.iter().all(|scope| scope.holds(pod))
        };
        of_policy || quotas.iter().any(bounds)
    };
    let mut by_source: BTreeMap<Source, (f64, u64, &PodObject)> = BTreeMap::new();
    for (name, found) in pods_of(cx, &key.tenant) {
        let Some(pod) = cx.pod(&name).filter(|pod| counts(pod)) else {
            continue;
        };
        let used = match resource {
            Resource::Cpu => found.used_cores(),
            Resource::Memory => found.memory_bytes().map(|n| n as f64),
            Resource::Pods => Some(1.0),
        };
        let sum = by_source.entry(Source::of(pod)).or_insert((0.0, 0, pod));
        sum.0 += used.unwrap_or(0.0);
        sum.1 += 1;
    }
    let (source, (used, pods, pod)) = by_source.iter().max_by(|a, b| a.1.0.total_cmp(&b.1.0))?;
    let by = Arc::clone(&key.tenant);
    let why = format!("{} is then within its quota", key.tenant);
    if resource == Resource::Pods {
        let stay = pods.checked_sub(excess.ceil() as u64)?;
        return source.is_scaled().then(|| Remedy {
            kind: "replicas",
            by,
            what: format!("{} has {stay} pods instead of {pods}", source.named()),
            why,
            yaml: source.with_spec(Yaml::map([("replicas", Yaml::Number(stay))])),
        });
    }
    // What each container uses is not known: with several of them no limit can be named.
    if pod.containers.len() > 1 {
        return None;
    }
    // Each of its pods gives the same.
    let each = (used - excess) / *pods as f64;
    let (name, unit, least) = match resource {
        Resource::Cpu => ("cpu", 1e9, 1_000_000),
        _ => ("memory", 1.0, 1 << 20),
    };
    let each = (each.max(0.0) * unit) as u64 / least * least;
    if each == 0 {
        return None;
    }
    let amount = match resource {
        Resource::Cpu => workload::at_most_cpu(each),
        _ => workload::at_most_memory(each),
    };
    let container = pod.containers.first();
    let request = container.map_or(0, |c| match resource {
        Resource::Cpu => c.requests.cpu_ncores,
        _ => c.requests.memory_bytes,
    });
    let change = Change {
        // A limit below the request is refused.
        request: (request > each).then(|| amount.clone()),
        limit: Some(amount.clone()),
        ..Change::of(container)
    };
    Some(Remedy {
        kind: "limit",
        by,
        what: format!("each pod of {} has at most {amount} of {name}", source.named()),
        why,
        yaml: source.with(workload::resources(name, &[change])),
    })
}
