//! `LimitRangeExceeded`: what a LimitRange sets for containers, held against those that run.
//!
//! Kubernetes looks at a LimitRange when a pod is admitted, and never again: pods from before it, and before it was tightened, go on as they were. A
//! container breaks it by a limit above the maximum, by use above it, or by having no limit of a resource for which the LimitRange sets one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::breach::{BreachKey, BreachKind};
use crate::finding::{Detail, Figure, Finding, bytes, cores};
use crate::identity::{ContainerObject, Directory, Pod, Range};
use crate::node::memory::Container;
use crate::node::{Node, Window};
use crate::policy::Thresholds;
use crate::sums::{Unit, Who};

pub(crate) fn judge(node: &Node, directory: &Directory, t: &Thresholds, out: &mut Vec<Finding>) {
    if node.seen_ns(Window::Fast, t).is_none() || !directory.has_ranges() {
        return;
    }
    let by_id: Containers<'_> = node.containers.values().map(|c| (&*c.id, c)).collect();
    let mut judged: BTreeSet<u32> = BTreeSet::new();
    for slot in node.slots().filter(|s| s.lives()) {
        let Some(unit) = node.units.get(slot.unit as usize) else {
            continue;
        };
        let Who::Pod(pod) = &unit.who else { continue };
        let Some(ranges) = directory.ranges(&pod.namespace) else {
            continue;
        };
        // A pod that was announced again has two slots and is judged once.
        if unit.party.is_named() && judged.insert(slot.unit) {
            judge_pod(node, directory, &by_id, unit, pod, ranges, t, out);
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "one caller")]
fn judge_pod(
    node: &Node,
    directory: &Directory,
    by_id: &Containers<'_>,
    unit: &Unit,
    pod: &Pod,
    [cpu, memory]: &[Range; 2],
    t: &Thresholds,
    out: &mut Vec<Finding>,
) {
    for container in pod.containers.iter() {
        let (run, working_set) = used(node, by_id, container);
        // What is set on the pod as a whole bounds each of its containers.
        let resources = [
            Resource {
                name: "cpu",
                range: cpu,
                limit: container.cpu_limit_ncores,
                bounded: container.cpu_limit_ncores.or(pod.cpu_limit_ncores).is_some(),
                used: run,
                tolerance: t.limit_range.cpu_use_ratio,
                show: |n| format!("{} cores", cores(n / 1e9)),
                figures: [("limit_cores", 1e9), ("max_cores", 1e9), ("used_cores", 1e9)],
            },
            Resource {
                name: "memory",
                range: memory,
                limit: container.memory_limit_bytes,
                bounded: container.memory_limit_bytes.or(pod.memory_limit_bytes).is_some(),
                used: working_set,
                tolerance: 1.0,
                show: bytes,
                figures: [("limit_bytes", 1.0), ("max_bytes", 1.0), ("used_bytes", 1.0)],
            },
        ];
        for resource in resources {
            let Some((what, weight)) = resource.broken() else {
                continue;
            };
            let subject = format!("{}/{}/{}", pod.namespace, pod.name, container.name);
            out.push(Finding {
                head: format!("{subject} broke the LimitRange of its namespace"),
                tail: format!(": {what}"),
                key: BreachKey {
                    kind: BreachKind::LimitRangeExceeded,
                    tenant: crate::judge::tenant_name(unit.party, &directory.tenants),
                    against: Arc::from(""),
                    node: Arc::from(""),
                    subject: Arc::from(format!("{subject}/{}", resource.name)),
                },
                evidence: resource.evidence(),
                culprits: Vec::new(),
                detail: Detail::None,
                weight,
                covered: node.covered(t),
                confidence: None,
                ready: true,
            });
        }
    }
}

/// Containers of a node by the runtime's name.
type Containers<'a> = BTreeMap<&'a str, &'a Container>;

/// A container's CPU use in nanocores over the fast window and its working set; absent where no agent tells.
fn used(node: &Node, by_id: &Containers<'_>, object: &ContainerObject) -> (Option<f64>, Option<f64>) {
    let Some(container) = object.id.as_deref().and_then(|id| by_id.get(id)) else {
        return (None, None);
    };
    let run = &container.run_ns;
    let seen_ns = node.window_ns(Window::Fast).max(1) as f64;
    let run = run
        .newest()
        .zip(run.at(node.window_from_ns(Window::Fast)))
        .map(|(now, then)| now.saturating_sub(*then) as f64 * 1e9 / seen_ns);
    (run, container.working_set_bytes.map(|n| n as f64))
}

/// One resource of a container, in nanocores or bytes.
struct Resource<'a> {
    name: &'static str,
    range: &'a Range,
    limit: Option<u64>,
    bounded: bool,
    used: Option<f64>,
    /// Use against the maximum above which it counts.
    tolerance: f64,
    show: fn(f64) -> String,
    /// Names of limit, maximum and use as evidence, and what they are divided by.
    figures: [(&'static str, f64); 3],
}

impl Resource<'_> {
    /// What is broken in words, and how badly. Use comes first: a limit is a promise, use is a fact.
    fn broken(&self) -> Option<(String, f64)> {
        let (name, show) = (self.name, self.show);
        if let Some(max) = self.range.max.map(|n| n as f64) {
            let most = show(max);
            if let Some(used) = self.used.filter(|used| *used > max * self.tolerance) {
                let what = format!("it uses {} of {name}, the maximum is {most}", show(used));
                return Some((what, used / max.max(1.0)));
            }
            if let Some(limit) = self.limit.map(|n| n as f64).filter(|limit| *limit > max) {
                let what = format!("its {name} limit is {}, the maximum is {most}", show(limit));
                return Some((what, limit / max.max(1.0)));
            }
        }
        if self.bounded || (self.range.max.is_none() && !self.range.defaults) {
            return None;
        }
        let sets = match self.range.max {
            Some(max) => format!("the maximum is {}", show(max as f64)),
            None => "one is set for those that name none".to_owned(),
        };
        Some((format!("it runs without a {name} limit, {sets}"), 0.0))
    }

    fn evidence(&self) -> Vec<Figure> {
        let values = [
            self.limit.map(|n| n as f64),
            self.range.max.map(|n| n as f64),
            self.used,
        ];
        self.figures
            .iter()
            .zip(values)
            .filter_map(|((name, unit), value)| {
                value.map(|value| Figure {
                    name,
                    value: value / unit,
                })
            })
            .collect()
    }
}
