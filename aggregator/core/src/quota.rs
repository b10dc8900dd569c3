//! `QuotaNear` and `QuotaExceeded`: what a tenant really uses, over all nodes, against what it may use in all.
//!
//! Kubernetes counts requests when a pod is admitted. This is about use: CPU over the fast window, because a quota is a bound on what is used at a time,
//! not on an average; memory as the working sets that were last told; pods as those that agents see alive. `for_seconds` keeps single spikes out.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::breach::{BreachKey, BreachKind};
use crate::finding::{Detail, Figure, Finding, bytes, cores};
use crate::identity::{Directory, Resource, TenantId};
use crate::node::{Node, Window};
use crate::policy::Thresholds;
use crate::sums::{UnitSums, Who};

/// Tenants' use, gathered node by node.
#[derive(Debug, Default)]
pub(crate) struct Usage(BTreeMap<Key, Used>);

/// Whose use of what, and of which pods: the scopes of a quota, in words; empty: all that the tenant's quota bounds.
type Key = (TenantId, Resource, Arc<str>);

#[derive(Clone, Copy, Debug)]
struct Used {
    /// Cores, bytes or pods.
    amount: f64,
    nodes: u32,
    /// Of the node that was seen least.
    covered: f64,
}

impl Usage {
    pub(crate) fn add(&mut self, node: &Node, sums: &[[UnitSums; 2]], t: &Thresholds) {
        let Some(seen_ns) = node.seen_ns(Window::Fast, t) else {
            return;
        };
        let covered = node.covered(t);
        let memories = node.memories();
        // Integers first: the sum does not depend on the order of pods.
        let mut used: BTreeMap<Key, u64> = BTreeMap::new();
        let unscoped: Arc<str> = Arc::from("");
        for (at, (unit, sums)) in node.units.iter().zip(sums).enumerate() {
            let Some(tenant) = unit.party.tenant() else {
                continue;
            };
            // An entity that is announced twice is one unit: nothing here counts it twice.
            let lived = memories.get(&(at as u32));
            let pod = match &unit.who {
                Who::Pod(pod) => Some(pod),
                _ => None,
            };
            for (resource, amount) in [
                (Resource::Cpu, Some(sums[Window::Fast as usize].run)),
                (
                    Resource::Memory,
                    lived.copied().flatten().and_then(|m| m.newest.working_set_bytes),
                ),
                (Resource::Pods, lived.and(pod).map(|_| 1)),
            ] {
                let Some(amount) = amount else { continue };
                let mut count = |scopes: &Arc<str>| {
                    let total = used.entry((tenant, resource, Arc::clone(scopes))).or_default();
                    *total = total.saturating_add(amount);
                };
                if unit.in_quota[resource as usize] {
                    count(&unscoped);
                }
                for scoped in pod.iter().flat_map(|pod| &pod.scoped) {
                    if pod.is_some_and(|pod| scoped.bounds(&pod.namespace, resource)) {
                        count(&scoped.scopes);
                    }
                }
            }
        }
        for (key, amount) in used {
            let resource = key.1;
            let usage = self.0.entry(key).or_insert(Used {
                amount: 0.0,
                nodes: 0,
                covered: 1.0,
            });
            usage.amount += match resource {
                Resource::Cpu => amount as f64 / seen_ns as f64,
                Resource::Memory | Resource::Pods => amount as f64,
            };
            usage.nodes += 1;
            usage.covered = usage.covered.min(covered);
        }
    }

    pub(crate) fn judge(
        &self,
        directory: &Directory,
        t: &Thresholds,
        is_firing: impl Fn(&BreachKey) -> bool,
        out: &mut Vec<Finding>,
    ) {
        for ((tenant, resource, scopes), used) in &self.0 {
            let quota = if scopes.is_empty() {
                directory.quota(*tenant, *resource).map(|q| q.amount)
            } else {
                directory.scoped_quota(*tenant, scopes, *resource)
            };
            let Some(quota) = quota else { continue };
            let subject: Arc<str> = if scopes.is_empty() {
                Arc::from(resource.as_str())
            } else {
                Arc::from(format!("{} of pods with {scopes}", resource.as_str()))
            };
            let name = directory.tenants.name(*tenant);
            let key = |kind| BreachKey {
                kind,
                tenant: Arc::clone(name),
                against: Arc::from(""),
                node: Arc::from(""),
                subject: Arc::clone(&subject),
            };
            // A quota of 0 admits nothing: any use is over it.
            let ratio = if quota > 0.0 {
                used.amount / quota
            } else {
                f64::INFINITY
            };
            let (exceeded, near) = (key(BreachKind::QuotaExceeded), key(BreachKind::QuotaNear));
            let over_firing = is_firing(&exceeded);
            let least = |threshold: f64, firing: bool| {
                if firing {
                    threshold * t.quota.clear_below_ratio
                } else {
                    threshold
                }
            };
            let over = match resource {
                Resource::Cpu | Resource::Memory => ratio > least(t.quota.exceeded_ratio, over_firing),
                // Pods are counted, not measured: fifty-one are more than fifty, fifty are not.
                Resource::Pods => used.amount > quota,
            };
            if over && used.amount > 0.0 {
                out.push(finding(exceeded, (*resource, scopes), used, quota, ratio));
            } else if !over_firing && ratio >= least(t.quota.near_ratio, is_firing(&near)) && quota > 0.0 {
                out.push(finding(near, (*resource, scopes), used, quota, ratio));
            }
        }
    }
}

fn finding(
    key: BreachKey,
    (resource, scopes): (Resource, &str),
    used: &Used,
    quota: f64,
    ratio: f64,
) -> Finding {
    let tenant = Arc::clone(&key.tenant);
    let verb = if key.kind == BreachKind::QuotaExceeded {
        "used more than its quota"
    } else {
        "came near its quota"
    };
    let percent = if ratio.is_finite() {
        format!(", {:.0} %", ratio * 100.0)
    } else {
        String::new()
    };
    let nodes = if used.nodes == 1 {
        "one node".to_owned()
    } else {
        format!("{} nodes", used.nodes)
    };
    let (names, of) = match resource {
        Resource::Cpu => (
            ["used_cores", "quota_cores"],
            format!("{} of {} cores", cores(used.amount), cores(quota)),
        ),
        Resource::Memory => (
            ["used_bytes", "quota_bytes"],
            format!("{} of {} of memory", bytes(used.amount), bytes(quota)),
        ),
        Resource::Pods => (
            ["used_pods", "quota_pods"],
            format!("{} of {quota} pods", used.amount),
        ),
    };
    let mut evidence = vec![
        Figure {
            name: names[0],
            value: used.amount,
        },
        Figure {
            name: names[1],
            value: quota,
        },
        Figure {
            name: "nodes",
            value: f64::from(used.nodes),
        },
    ];
    if ratio.is_finite() {
        evidence.push(Figure {
            name: "quota_ratio",
            value: ratio,
        });
    }
    Finding {
        head: match scopes {
            "" => format!("{tenant} {verb}"),
            scopes => format!("{tenant} {verb} of pods with {scopes}"),
        },
        tail: format!(": {of}{percent}, on {nodes}"),
        key,
        evidence,
        culprits: Vec::new(),
        detail: Detail::None,
        weight: used.amount,
        covered: used.covered,
        confidence: None,
        ready: true,
    }
}
