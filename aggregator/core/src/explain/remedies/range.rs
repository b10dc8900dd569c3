//! A container above what a LimitRange admits: a limit that it would admit.

use std::sync::Arc;

use super::super::cx::Cx;
use super::super::{Remedy, parties};
use super::workload::{self, Change, Source};

pub(super) fn limit(cx: &Cx<'_>) -> Vec<Remedy> {
    let key = &cx.breach().key;
    let name = parties::limit_range_pod(&key.subject);
    let mut parts = key.subject.split('/').skip(2);
    let (Some(container), Some(resource), Some(pod)) = (parts.next(), parts.next(), cx.pod(&name)) else {
        return Vec::new();
    };
    let object = pod.containers.iter().find(|c| *c.name == *container);
    let is_memory = resource == "memory";
    let ranges = cx.directory.ranges(&pod.namespace);
    let range = ranges.map(|[cpu, memory]| if is_memory { memory } else { cpu });
    let request = object.map_or(0, |c| match is_memory {
        true => c.requests.memory_bytes,
        false => c.requests.cpu_ncores,
    });
    let Some(range) = range else { return Vec::new() };
    // Without a maximum it sets one for those that name none: what the container asks for is what it may have.
    let Some(most) = range.max.or(Some(request).filter(|n| *n > 0)) else {
        return Vec::new();
    };
    let quantity = if is_memory {
        whole_memory(most)
    } else {
        whole_cpu(most)
    };
    let source = Source::of(pod);
    let change = Change {
        container: object.map_or_else(|| container.to_owned(), workload::name),
        sidecar: object.is_some_and(|c| c.sidecar),
        request: (request > most).then(|| quantity.clone()),
        limit: Some(quantity.clone()),
    };
    vec![Remedy {
        kind: "limit",
        by: Arc::clone(&key.tenant),
        what: format!("container {container} of {} has a {resource} limit of {quantity}", source.named()),
        why: "the LimitRange of its namespace admits no more; admission looks at it only when a pod is made, so the pods have to be made anew".to_owned(),
        yaml: source.with(workload::resources(resource, &[change])),
    }]
}

/// Never above a maximum: as it is, not rounded.
fn whole_cpu(ncores: u64) -> String {
    match ncores {
        n if n.is_multiple_of(1_000_000_000) => (n / 1_000_000_000).to_string(),
        n => format!("{}m", n / 1_000_000),
    }
}

fn whole_memory(bytes: u64) -> String {
    match bytes {
        n if n.is_multiple_of(1 << 20) => format!("{}Mi", n >> 20),
        n => n.to_string(),
    }
}
