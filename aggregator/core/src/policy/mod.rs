//! The policy: every threshold of every rule, tenants by explicit mapping, and path rules for hosts without Kubernetes.
//!
//! The numbers are declared once, in [`table::SETTINGS`]: key, unit, default, range, meaning, reason. The parser, the checks, the
//! documented default file ([`Policy::default_yaml`]) and the reference all come from that table.

mod fence;
mod parse;
mod parse_fence;
pub mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub use fence::{Allowance, Ends, Fence, PodIdentity, Side};
pub use parse::PolicyError;

/// A checked policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub thresholds: Thresholds,
    /// Namespace → tenant, as mapped explicitly.
    pub namespace_tenants: BTreeMap<String, String>,
    /// Tenant → quota in cores, bytes and pods, by [`crate::identity::Resource`], where the policy sets it instead of ResourceQuota objects.
    pub tenant_quotas: BTreeMap<String, [Option<f64>; 3]>,
    /// Namespaces of the tenant `system`.
    pub system_namespaces: BTreeSet<String>,
    /// Namespace label whose value is the tenant.
    pub tenant_label: Option<String>,
    /// Path rules, in the file's order; the longest matching prefix wins.
    pub paths: Vec<PathRule>,
    pub fence: Fence,
}

/// Host cgroups below `prefix` belong to a tenant: for hosts without Kubernetes.
#[derive(Clone, Debug, PartialEq)]
pub struct PathRule {
    /// Absolute cgroup path without a trailing slash; matches itself and everything below it.
    pub prefix: String,
    pub tenant: String,
    /// Everything the rule matches, as one workload of this name. Absent: each cgroup by itself, under its path.
    pub name: Option<String>,
    /// What it is entitled to, in nanocores.
    pub cpu_request_ncores: u64,
}

/// The numbers of [`table::SETTINGS`], by section.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Thresholds {
    pub windows: Windows,
    pub noisy_neighbour: NoisyNeighbour,
    pub node_overcommitted: Timing,
    pub system_noise: SystemNoise,
    pub quota: Quota,
    pub memory_squeeze: MemorySqueeze,
    pub cross_tenant_oom: CrossTenantOom,
    pub limit_range: LimitRange,
    pub flat_network: Timing,
    pub fence_leak: FenceLeak,
    pub probe: Probe,
    pub credential_reach: Timing,
    pub headroom: Headroom,
    pub trail: Trail,
}

/// What is kept for good, and for how long that is.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Trail {
    pub keep_days: f64,
    pub max_bytes: f64,
}

#[derive(Clone, Debug, PartialEq, Default)]
pub struct Windows {
    pub length_seconds: f64,
    pub fast_seconds: f64,
    pub step_seconds: f64,
    pub min_covered_seconds: f64,
}

#[derive(Clone, Debug, PartialEq, Default)]
pub struct NoisyNeighbour {
    pub min_stolen_cores: f64,
    pub min_slowdown: f64,
    pub min_culprit_share: f64,
    pub over_entitlement_ratio: f64,
    pub min_reports: f64,
    pub timing: Timing,
}

#[derive(Clone, Debug, PartialEq, Default)]
pub struct SystemNoise {
    pub min_system_cores: f64,
    pub min_slowdown: f64,
    pub timing: Timing,
}

#[derive(Clone, Debug, PartialEq, Default)]
pub struct Quota {
    pub near_ratio: f64,
    pub exceeded_ratio: f64,
    pub clear_below_ratio: f64,
    pub timing: Timing,
}

#[derive(Clone, Debug, PartialEq, Default)]
pub struct MemorySqueeze {
    pub min_stall: f64,
    pub min_reports: f64,
    pub over_request_ratio: f64,
    pub min_culprit_share: f64,
    pub timing: Timing,
}

#[derive(Clone, Debug, PartialEq, Default)]
pub struct CrossTenantOom {
    pub shown_seconds: f64,
    pub timing: Timing,
}

#[derive(Clone, Debug, PartialEq, Default)]
pub struct LimitRange {
    pub cpu_use_ratio: f64,
    pub timing: Timing,
}

#[derive(Clone, Debug, PartialEq, Default)]
pub struct FenceLeak {
    pub enforce_seconds: f64,
    pub timing: Timing,
}

#[derive(Clone, Debug, PartialEq, Default)]
pub struct Probe {
    pub min_targets: f64,
    pub window_seconds: f64,
    pub timing: Timing,
}

#[derive(Clone, Debug, PartialEq, Default)]
pub struct Headroom {
    pub mark: f64,
}

/// How long a condition must hold before its breach fires, and be gone before it is resolved.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Timing {
    pub for_seconds: f64,
    pub clear_after_seconds: f64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            thresholds: table::defaults(),
            namespace_tenants: BTreeMap::new(),
            tenant_quotas: BTreeMap::new(),
            system_namespaces: BTreeSet::from(["kube-system".to_owned()]),
            tenant_label: None,
            paths: Vec::new(),
            fence: Fence::default(),
        }
    }
}

impl Policy {
    /// Reads a policy file. Keys that are left out keep their defaults; an empty file is the default policy.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line, key and value.
    pub fn from_yaml(text: &str) -> Result<Self, PolicyError> {
        parse::parse(text)
    }

    /// The default policy as a documented file: reading it back gives [`Policy::default`].
    pub fn default_yaml() -> String {
        table::default_yaml()
    }

    /// The path rule for a host cgroup: the longest prefix that ends at a path component.
    pub fn path_rule(&self, path: &str) -> Option<(usize, &PathRule)> {
        let matches = |rule: &PathRule| {
            path.strip_prefix(rule.prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        // The first of equals wins, as in the file.
        self.paths
            .iter()
            .enumerate()
            .filter(|(_, r)| matches(r))
            .rev()
            .max_by_key(|(_, r)| r.prefix.len())
    }
}

impl fmt::Display for PathRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.prefix, self.tenant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_default_is_the_default() {
        let yaml = Policy::default_yaml();
        assert_eq!(Policy::from_yaml(&yaml).unwrap(), Policy::default());
        assert_eq!(Policy::from_yaml("").unwrap(), Policy::default());
        assert_eq!(
            Policy::from_yaml("# nothing but a comment\n").unwrap(),
            Policy::default()
        );
        for s in table::SETTINGS {
            assert!(
                yaml.contains(&format!("  {}: ", s.key)),
                "{} is documented",
                s.key
            );
        }
    }

    #[test]
    fn the_published_default_is_the_default() {
        let docs = include_str!("../../../../docs/policy.md");
        let block = docs
            .split_once("```yaml\n")
            .and_then(|(_, rest)| rest.split_once("```"));
        let published = block.map(|(yaml, _)| yaml);
        assert_eq!(
            published,
            Some(Policy::default_yaml().as_str()),
            "docs/policy.md: its yaml block is what `partywall-aggregator policy-default` prints"
        );
    }

    #[test]
    fn the_examples_in_the_default_file_are_valid() {
        // What is commented out as an example must work once the `# ` is taken away.
        let yaml: String = Policy::default_yaml()
            .lines()
            .map(|l| l.strip_prefix("#~ ").unwrap_or(l).to_owned() + "\n")
            .collect();
        let policy = Policy::from_yaml(&yaml).unwrap();
        assert_eq!(policy.namespace_tenants["red-batch"], "red");
        assert_eq!(policy.paths[0].cpu_request_ncores, 500_000_000);
    }

    #[test]
    fn the_longest_prefix_wins_and_only_whole_components_match() {
        let policy = Policy::from_yaml(
            "paths:\n  - {prefix: /system.slice, tenant: ops}\n  - {prefix: /system.slice/nginx.service/, tenant: web}\n",
        )
        .unwrap();
        let tenant = |path: &str| policy.path_rule(path).map(|(_, r)| r.tenant.as_str());
        assert_eq!(tenant("/system.slice/nginx.service"), Some("web"));
        assert_eq!(tenant("/system.slice/nginx.service/sub"), Some("web"));
        assert_eq!(tenant("/system.slice/nginx.service2"), Some("ops"));
        assert_eq!(tenant("/system.slice"), Some("ops"));
        assert_eq!(tenant("/system.slices"), None);
        assert_eq!(tenant("/"), None);
    }
}
