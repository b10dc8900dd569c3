//! A tenant that takes more than it was promised: it asks for what it uses, or is held to what it asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::cx::Cx;
use super::super::parties::culprit_pods;
use super::super::{PLATFORM, Remedy};
use super::workload::{self, Change, Source};
use crate::finding::{bytes, cores};
use crate::identity::{ContainerObject, PodObject};
use crate::sums::Who;
use crate::yaml::{Yaml, comment};

/// CPU or memory, as a pod asks for it.
#[derive(Clone, Copy)]
struct Resource {
    name: &'static str,
    /// Of a pod, of a container; nanocores or bytes.
    request: fn(&PodObject) -> u64,
    of_container: fn(&ContainerObject) -> (u64, Option<u64>),
    /// Rounded up; as it stands in an object.
    quantity: fn(u64) -> String,
    exact: fn(u64) -> String,
    show: fn(u64) -> String,
}

const CPU: Resource = Resource {
    name: "cpu",
    request: |pod| pod.requests.cpu_ncores,
    of_container: |c| (c.requests.cpu_ncores, c.cpu_limit_ncores),
    quantity: workload::cpu,
    exact: workload::exact_cpu,
    show: |n| format!("{} cores", cores(n as f64 / 1e9)),
};

const MEMORY: Resource = Resource {
    name: "memory",
    request: |pod| pod.requests.memory_bytes,
    of_container: |c| (c.requests.memory_bytes, c.memory_limit_bytes),
    quantity: workload::memory,
    exact: workload::exact_memory,
    show: |n| bytes(n as f64),
};

/// A pod that uses more than it asks for.
struct Over<'a> {
    pod: &'a PodObject,
    used: u64,
}

pub(super) fn cpu(cx: &Cx<'_>) -> Vec<Remedy> {
    let tenant = &cx.breach().key.tenant;
    let is_alone = culprit_pods(cx).iter().filter(|(of, _)| of == tenant).count() == 1;
    // What it used when the breach was judged, where that is one pod's: of a breach that is over it uses less by now.
    let then = cx.figure("culprit_used_cores").filter(|_| is_alone);
    let used = |name: &str| {
        let now = cx.unit(name).and_then(|found| found.used_cores());
        let cores = [now, then].into_iter().flatten().reduce(f64::max)?;
        Some((cores * 1e9) as u64)
    };
    let mut out = both(cx, CPU, used, "CPU");
    out.extend(path_rules(cx));
    out
}

pub(super) fn memory(cx: &Cx<'_>) -> Vec<Remedy> {
    let culprits = &cx.breach().culprits;
    // What the breach says was above the request, or what is held now: the larger.
    let used = |name: &str| {
        let culprit = culprits.iter().find(|c| *c.pod == *name);
        let then = culprit
            .and_then(|c| c.over_request_bytes)
            .zip(cx.pod(name))
            .map(|(over, pod)| pod.requests.memory_bytes.saturating_add(over));
        let now = cx.unit(name).and_then(|found| found.memory_bytes());
        then.max(now)
    };
    both(cx, MEMORY, used, "memory")
}

fn both(cx: &Cx<'_>, resource: Resource, used: impl Fn(&str) -> Option<u64>, word: &str) -> Vec<Remedy> {
    let key = &cx.breach().key;
    // Of several pods from one source the one that uses most.
    let mut by_source: BTreeMap<Source, Over<'_>> = BTreeMap::new();
    for (tenant, name) in culprit_pods(cx) {
        let Some(pod) = cx.pod(&name).filter(|_| tenant == key.tenant) else {
            continue;
        };
        let Some(used) = used(&name).filter(|used| *used > (resource.request)(pod)) else {
            continue;
        };
        let over = by_source.entry(Source::of(pod)).or_insert(Over { pod, used });
        if used > over.used {
            *over = Over { pod, used };
        }
    }
    if by_source.is_empty() {
        return Vec::new();
    }
    let named: Vec<String> = by_source.keys().map(Source::named).collect();
    let named = named.join(", ");
    let raised = by_source.iter().map(|(source, over)| {
        let was = (resource.request)(over.pod);
        let what = format!(
            "{} instead of {}",
            (resource.show)(over.used),
            (resource.show)(was)
        );
        (source.with(raise(resource, over)), what)
    });
    let (documents, whats): (Vec<_>, Vec<_>) = raised.unzip();
    let mut out = vec![Remedy {
        kind: "request",
        by: Arc::clone(&key.tenant),
        what: format!("{named} asks for the {word} that it uses: {}", whats.join(", ")),
        why: format!(
            "what {} uses was then promised to it, and the scheduler puts its pods where so much is free, or says that there is no such place",
            key.tenant
        ),
        yaml: workload::join(&documents),
    }];
    let held = by_source
        .iter()
        .filter(|(_, over)| (resource.request)(over.pod) > 0)
        .filter_map(|(source, over)| Some(source.with(hold(resource, over.pod)?)));
    let documents: Vec<String> = held.collect();
    if documents.len() == by_source.len() {
        let cost = match resource.name {
            "memory" => {
                "the kernel then takes back its own pages first, and kills it when that does not help"
            }
            _ => "it is then throttled, not others: it takes longer for what it does",
        };
        out.push(Remedy {
            kind: "limit",
            by: Arc::clone(&key.tenant),
            what: format!("{named} has a {word} limit at its request"),
            why: format!("{} stays within what it was promised; {cost}", key.tenant),
            yaml: workload::join(&documents),
        });
    }
    out
}

/// The container that uses more than it asks for the most is not always known: the increase goes to the one that asks for most.
fn raise(resource: Resource, over: &Over<'_>) -> Yaml {
    let more = over.used.saturating_sub((resource.request)(over.pod));
    let asked = |c: &&ContainerObject| (resource.of_container)(c).0;
    let largest = over.pod.containers.iter().rev().max_by_key(asked);
    let (request, limit) = largest.map_or((0, None), resource.of_container);
    let request = request.saturating_add(more);
    let change = Change {
        request: Some((resource.quantity)(request)),
        // A request above the limit is refused.
        limit: limit
            .filter(|limit| *limit < request)
            .map(|_| (resource.quantity)(request)),
        ..Change::of(largest)
    };
    workload::resources(resource.name, &[change])
}

/// `None`: one of its containers asks for nothing, and nothing would hold that one.
fn hold(resource: Resource, pod: &PodObject) -> Option<Yaml> {
    let asked = |container: &ContainerObject| (resource.of_container)(container).0;
    // Asked for on the pod as a whole.
    if pod.containers.iter().all(|container| asked(container) == 0) {
        let amount = (resource.exact)((resource.request)(pod));
        let limits = Yaml::map([(resource.name, Yaml::text(amount))]);
        return Some(Yaml::map([("resources", Yaml::map([("limits", limits)]))]));
    }
    if pod.containers.iter().any(|container| asked(container) == 0) {
        return None;
    }
    let change = |container: &ContainerObject| Change {
        limit: Some((resource.exact)(asked(container))),
        ..Change::of(Some(container))
    };
    let changes: Vec<Change> = pod.containers.iter().map(change).collect();
    Some(workload::resources(resource.name, &changes))
}

/// Workloads of hosts without Kubernetes: what they were promised stands in the policy file.
fn path_rules(cx: &Cx<'_>) -> Option<Remedy> {
    let key = &cx.breach().key;
    let mut rules = Vec::new();
    for (tenant, name) in culprit_pods(cx) {
        let Some(found) = cx.unit(&name).filter(|_| tenant == key.tenant) else {
            continue;
        };
        let used = found.used_cores().unwrap_or(0.0);
        let Who::Path { name } = &found.unit.who else {
            continue;
        };
        let of_tenant = cx.policy.paths.iter().filter(|rule| *rule.tenant == *tenant);
        let rule = of_tenant
            .clone()
            .find(|rule| rule.name.as_deref() == Some(&**name))
            .or_else(|| cx.policy.path_rule(name).map(|(_, rule)| rule));
        let Some(rule) = rule.filter(|rule| used * 1e9 > rule.cpu_request_ncores as f64) else {
            continue;
        };
        let mut entry = vec![
            ("prefix".to_owned(), Yaml::text(&rule.prefix)),
            ("tenant".to_owned(), Yaml::text(&rule.tenant)),
        ];
        entry.extend(
            rule.name
                .as_ref()
                .map(|name| ("name".to_owned(), Yaml::text(name))),
        );
        entry.push((
            "cpu_request_cores".to_owned(),
            Yaml::text(format!("{:.2}", used + 0.005)),
        ));
        rules.push(Yaml::Map(entry));
    }
    if rules.is_empty() {
        return None;
    }
    let mut yaml = String::new();
    comment(
        &mut yaml,
        "",
        "of the policy file: these replace the entries of the same prefix under `paths`",
    );
    yaml += &Yaml::map([("paths", Yaml::List(rules))]).document();
    Some(Remedy {
        kind: "request",
        by: Arc::from(PLATFORM),
        what: format!("{} is promised what it uses", key.tenant),
        why: "what it was promised on this host stands in the policy file alone".to_owned(),
        yaml,
    })
}
