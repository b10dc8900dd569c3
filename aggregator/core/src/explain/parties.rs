//! Those concerned: what they were promised, what they may use, what they use.

use std::sync::Arc;

use super::cx::Found;
use super::{Cx, PartyFacts};
use crate::breach::BreachKind;
use crate::identity::{Resource, SYSTEM};
use crate::limits::MAX_CULPRITS;

pub(super) fn parties(cx: &Cx<'_>) -> Vec<PartyFacts> {
    let breach = cx.breach();
    let key = &breach.key;
    let role = match key.kind {
        BreachKind::NodeOvercommitted => "neighbour",
        _ => "culprit",
    };
    let mut out = Vec::new();
    if &*key.tenant != SYSTEM {
        out.push(tenant(cx, role, &key.tenant));
    }
    for (who, pod) in culprit_pods(cx) {
        out.push(one(cx, role, &who, &pod));
    }
    match key.kind {
        BreachKind::FlatNetwork | BreachKind::FenceLeak => {
            let mut reached: Vec<&Arc<str>> = cx.reached().iter().map(|r| &r.to).collect();
            reached.dedup();
            for pod in reached {
                if out.iter().all(|fact| fact.pod != *pod) {
                    out.push(one(cx, "victim", &key.against, pod));
                }
            }
        }
        BreachKind::Probe if !key.against.is_empty() => out.push(tenant(cx, "victim", &key.against)),
        _ if !key.against.is_empty() => out.push(one(cx, "victim", &key.against, &key.subject)),
        _ => {}
    }
    out
}

/// Tenant and pod of those who did it, most first.
pub(super) fn culprit_pods(cx: &Cx<'_>) -> Vec<(Arc<str>, Arc<str>)> {
    let breach = cx.breach();
    let key = &breach.key;
    let own = |pod: &str| vec![(Arc::clone(&key.tenant), Arc::from(pod))];
    match key.kind {
        BreachKind::Probe | BreachKind::CredentialReach => own(&key.subject),
        BreachKind::LimitRangeExceeded => own(&limit_range_pod(&key.subject)),
        BreachKind::FlatNetwork | BreachKind::FenceLeak => {
            let mut out: Vec<(Arc<str>, Arc<str>)> = Vec::new();
            for reached in cx.reached() {
                if out.iter().all(|(_, pod)| *pod != reached.from) {
                    out.push((Arc::clone(&key.tenant), Arc::clone(&reached.from)));
                }
            }
            out
        }
        BreachKind::QuotaNear | BreachKind::QuotaExceeded => {
            let mut pods = pods_of(cx, &key.tenant);
            let by_memory = key.subject.starts_with(Resource::Memory.as_str());
            let used = |found: &Found<'_>| match by_memory {
                true => found.memory_bytes().unwrap_or(0) as f64,
                false => found.used_cores().unwrap_or(0.0),
            };
            pods.sort_by(|a, b| used(&b.1).total_cmp(&used(&a.1)));
            pods.truncate(MAX_CULPRITS);
            let named = |(pod, _)| (Arc::clone(&key.tenant), pod);
            pods.into_iter().map(named).collect()
        }
        _ => {
            let culprits = breach.culprits.iter();
            culprits
                .map(|c| (Arc::clone(&c.tenant), Arc::clone(&c.pod)))
                .collect()
        }
    }
}

/// What belongs to a tenant, by name.
pub(super) fn pods_of<'a>(cx: &Cx<'a>, tenant: &str) -> Vec<(Arc<str>, Found<'a>)> {
    let id = cx.tenant(tenant);
    let own = cx
        .units()
        .filter(|found| found.unit.party.tenant() == id && id.is_some());
    own.map(|found| {
        (
            Arc::from(crate::judge::display(found.unit, &cx.directory.tenants)),
            found,
        )
    })
    .collect()
}

/// "namespace/name" of "namespace/name/container/resource".
pub(super) fn limit_range_pod(subject: &str) -> String {
    subject.splitn(3, '/').take(2).collect::<Vec<_>>().join("/")
}

/// Of what is known; `None`: nothing is.
fn sum(of: &[&Found<'_>], what: impl Fn(&Found<'_>) -> Option<f64>) -> Option<f64> {
    let known: Vec<f64> = of.iter().filter_map(|found| what(found)).collect();
    (!known.is_empty()).then(|| known.iter().sum())
}

#[expect(
    clippy::redundant_closure_for_method_calls,
    reason = "the method is one lifetime's, the closure any's"
)]
fn tenant(cx: &Cx<'_>, role: &'static str, name: &Arc<str>) -> PartyFacts {
    let id = cx.tenant(name);
    let quota = |resource| Some(cx.directory.quota(id?, resource)?.amount);
    let pods = pods_of(cx, name);
    let node = Arc::clone(&cx.breach().key.node);
    let here: Vec<&Found<'_>> = pods
        .iter()
        .map(|(_, found)| found)
        .filter(|found| node.is_empty() || found.node.name == node)
        .collect();
    let bytes = |n: f64| n as u64;
    // As the breach has it, where it is about this tenant: the same window as the finding's.
    let told = |name: &str| cx.figure(name).filter(|_| role == "culprit");
    PartyFacts {
        role,
        tenant: Arc::clone(name),
        used_cores: told("culprit_used_cores").or_else(|| sum(&here, |found| found.used_cores())),
        entitled_cores: told("culprit_entitled_cores")
            .or_else(|| sum(&here, |found| Some(found.unit.entitled_ncores as f64 / 1e9))),
        memory_bytes: told("culprit_memory_bytes")
            .or_else(|| sum(&here, |found| found.memory_bytes().map(|n| n as f64)))
            .map(bytes),
        entitled_memory_bytes: told("culprit_request_bytes")
            .or_else(|| sum(&here, |found| Some(found.unit.requested_bytes as f64)))
            .map(bytes),
        quota_cores: quota(Resource::Cpu),
        quota_memory_bytes: quota(Resource::Memory).map(bytes),
        node,
        ..PartyFacts::default()
    }
}

fn one(cx: &Cx<'_>, role: &'static str, tenant: &Arc<str>, pod: &Arc<str>) -> PartyFacts {
    let (found, object) = (cx.unit(pod), cx.pod(pod));
    let is_victim = role == "victim" && **pod == *cx.breach().key.subject;
    let told = |name: &str| cx.figure(name).filter(|_| is_victim);
    let entitled = |of_unit: Option<u64>, of_object: Option<u64>| of_unit.or(of_object);
    let unit = found.as_ref().map(|f| f.unit);
    let node = found.as_ref().map(|f| Arc::clone(&f.node.name));
    PartyFacts {
        role,
        tenant: Arc::clone(tenant),
        pod: Arc::clone(pod),
        node: node
            .or_else(|| object.and_then(|o| o.node.as_deref().map(Arc::from)))
            .unwrap_or_default(),
        used_cores: told("used_cores").or_else(|| found.as_ref()?.used_cores()),
        entitled_cores: told("entitled_cores").or_else(|| {
            let ncores = entitled(
                unit.map(|u| u.entitled_ncores),
                object.map(|o| o.requests.cpu_ncores),
            );
            ncores.map(|n| n as f64 / 1e9)
        }),
        limit_cores: object.and_then(|o| o.cpu_limit_ncores).map(|n| n as f64 / 1e9),
        memory_bytes: told("working_set_bytes")
            .map(|n| n as u64)
            .or_else(|| found.as_ref()?.memory_bytes()),
        entitled_memory_bytes: entitled(
            unit.map(|u| u.requested_bytes),
            object.map(|o| o.requests.memory_bytes),
        ),
        limit_memory_bytes: object.and_then(|o| o.memory_limit_bytes),
        ..PartyFacts::default()
    }
}
