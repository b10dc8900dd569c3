//! `QuotaNear` and `QuotaExceeded`: what a tenant really uses, over all nodes, against what it may use in all.
//!
//! Kubernetes counts requests when a pod is admitted. This is about use: over the fast window, because a quota is a bound on what is used at a time,
//! not on an average; `for_seconds` keeps single spikes out.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::breach::{BreachKey, BreachKind};
use crate::finding::{Figure, Finding, cores};
use crate::identity::{Directory, TenantId};
use crate::node::{Node, Window};
use crate::policy::Thresholds;
use crate::sums::UnitSums;

/// A tenant's use, gathered node by node.
#[derive(Debug, Default)]
pub(crate) struct Usage(BTreeMap<TenantId, TenantUsage>);

#[derive(Clone, Copy, Debug)]
struct TenantUsage {
    cores: f64,
    nodes: u32,
    /// Of the node that was seen least.
    covered: f64,
}

impl Usage {
    pub(crate) fn add(&mut self, node: &Node, sums: &[[UnitSums; 2]], t: &Thresholds) {
        let seen_ns = node.window_ns(Window::Fast) as f64;
        if seen_ns <= 0.0 || seen_ns < t.windows.min_covered_seconds * 1e9 {
            return;
        }
        let covered = (node.window_ns(Window::Long) as f64 / (t.windows.length_seconds * 1e9)).min(1.0);
        // Integers first: the sum does not depend on the order of pods.
        let mut used: BTreeMap<TenantId, u64> = BTreeMap::new();
        for (unit, sums) in node.units.iter().zip(sums).filter(|(u, _)| u.in_quota) {
            if let Some(tenant) = unit.party.tenant() {
                let total = used.entry(tenant).or_default();
                *total = total.saturating_add(sums[Window::Fast as usize].run);
            }
        }
        for (tenant, ns) in used {
            let usage = self.0.entry(tenant).or_insert(TenantUsage {
                cores: 0.0,
                nodes: 0,
                covered: 1.0,
            });
            usage.cores += ns as f64 / seen_ns;
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
        for (tenant, usage) in &self.0 {
            let Some(quota) = directory.quota(*tenant).map(|q| q.cpu_cores) else {
                continue;
            };
            let name = directory.tenants.name(*tenant);
            let key = |kind| BreachKey {
                kind,
                tenant: Arc::clone(name),
                against: Arc::from(""),
                node: Arc::from(""),
                subject: Arc::from(""),
            };
            // A quota of 0 admits nothing: any use is over it.
            let ratio = if quota > 0.0 {
                usage.cores / quota
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
            if ratio > least(t.quota.exceeded_ratio, over_firing) && usage.cores > 0.0 {
                out.push(finding(exceeded, usage, quota, ratio));
            } else if !over_firing && ratio >= least(t.quota.near_ratio, is_firing(&near)) && quota > 0.0 {
                out.push(finding(near, usage, quota, ratio));
            }
        }
    }
}

fn finding(key: BreachKey, usage: &TenantUsage, quota: f64, ratio: f64) -> Finding {
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
    let nodes = if usage.nodes == 1 {
        "one node".to_owned()
    } else {
        format!("{} nodes", usage.nodes)
    };
    let mut evidence = vec![
        Figure {
            name: "used_cores",
            value: usage.cores,
        },
        Figure {
            name: "quota_cores",
            value: quota,
        },
        Figure {
            name: "nodes",
            value: f64::from(usage.nodes),
        },
    ];
    if ratio.is_finite() {
        evidence.push(Figure {
            name: "quota_ratio",
            value: ratio,
        });
    }
    Finding {
        head: format!("{tenant} {verb}"),
        tail: format!(
            ": {} of {} cores{percent}, on {nodes}",
            cores(usage.cores),
            cores(quota)
        ),
        key,
        evidence,
        culprits: Vec::new(),
        weight: usage.cores,
        covered: usage.covered,
        ready: true,
    }
}
