//! What pods were to the fence before they changed: what was delivered a moment ago is judged by what held then.
//!
//! Not only an edited NetworkPolicy changes a verdict: so do the labels of a pod or namespace, and policies of other kinds that come or go. A time of the
//! last change alone would not do, because a tenant may change its labels as often as it likes, and would be judged never; what matters is whether
//! the verdict changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Fence;
use super::ends::Pod;
use super::model::Direction;
use crate::limits::MAX_FORMER;

/// By UID: until when (the aggregator's monotonic clock) a pod was what; oldest first. Pods that never changed are left out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Past(BTreeMap<Arc<str>, Vec<(u64, Arc<Pod>)>>);

impl Past {
    /// Takes over that `now` holds from `now_ns` on, and `before` held until then. A new pod was nothing before.
    pub(crate) fn step(&mut self, before: &Fence, now: &Fence, now_ns: u64) {
        self.0.retain(|uid, _| now.pod_by_uid(uid).is_some());
        for pod in now.pods() {
            let Some(old) = before.pod_by_uid(&pod.uid).filter(|old| differs(old, pod)) else {
                continue;
            };
            let former = self.0.entry(Arc::clone(&pod.uid)).or_default();
            // Of two changes at one moment, what was between them never held.
            if former.last().is_none_or(|(until_ns, _)| *until_ns < now_ns) {
                former.push((now_ns, Arc::clone(old)));
            }
            if former.len() > MAX_FORMER {
                former.remove(0);
            }
        }
    }

    /// `pod` as it was at `at_ns`.
    pub(crate) fn at<'a>(&'a self, pod: &'a Arc<Pod>, at_ns: u64) -> &'a Arc<Pod> {
        let mut former = self.0.get(&pod.uid).into_iter().flatten();
        former
            .find(|(until_ns, _)| at_ns < *until_ns)
            .map_or(pod, |(_, former)| former)
    }

    /// When a pod changed.
    pub(crate) fn changes(&self, uid: &str) -> impl Iterator<Item = u64> {
        let former = self.0.get(uid).into_iter().flatten();
        former.map(|(until_ns, _)| *until_ns)
    }
}

/// In anything that policies look at, or in the policies. Its address is left out: it comes after the pod, and stays.
fn differs(old: &Pod, new: &Pod) -> bool {
    let isolated = |d| old.isolated_by(d) != new.isolated_by(d);
    old.labels != new.labels
        || old.namespace.labels != new.namespace.labels
        || old.namespace.foreign != new.namespace.foreign
        || isolated(Direction::Ingress)
        || isolated(Direction::Egress)
}
