//! The group that a pod is one of: how a policy selects it, and what that policy is called.

use std::collections::BTreeSet;

use super::super::cx::Cx;
use crate::fence::{Own, Pod, Selector, called, lasting, selector, told_apart};
use crate::identity::Directory;

/// Groups of one explanation, no two with one name: applied together, the later policy would replace the one before.
pub(super) struct Groups<'a> {
    directory: &'a Directory,
    /// Namespace and name of the policies that there are, somebody's own among them, and of those named here.
    taken: BTreeSet<(String, String)>,
}

impl<'a> Groups<'a> {
    pub(super) fn new(cx: &Cx<'a>) -> Self {
        let policies = cx.directory.cluster().network_policies.iter();
        Self {
            directory: cx.directory,
            taken: policies.map(|p| (p.namespace.clone(), p.name.clone())).collect(),
        }
    }

    /// The selector of a pod's group, and a name for a policy that no other has; `what` is its end.
    pub(super) fn of(&mut self, pod: &Pod, what: &str) -> (Selector, String) {
        let own = lasting(&pod.labels);
        let others: BTreeSet<Own> = self
            .directory
            .fence()
            .pods()
            .iter()
            .filter(|other| other.namespace.name == pod.namespace.name && !other.host_network)
            .map(|other| lasting(&other.labels))
            .collect();
        let selector = selector(&own, others.iter());
        let short = called(&selector);
        // Also of groups that this breach is not about: another explanation may be.
        let is_shared = others.iter().filter(|other| **other != own).any(|other| {
            let other = Selector {
                match_labels: other.clone(),
                ..Selector::default()
            };
            called(&other) == short
        });
        let mut name = format!("partywall-{short}");
        if is_shared {
            name = told_apart(&name, &selector);
        }
        name.push_str(what);
        let namespace = pod.namespace.name.to_string();
        while !self.taken.insert((namespace.clone(), name.clone())) {
            name.push_str("-2");
        }
        (selector, name)
    }
}
