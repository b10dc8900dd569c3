//! Every number of the policy, declared once.

use super::Thresholds;

/// One number of the policy file.
#[derive(Debug)]
pub struct Setting {
    pub section: &'static str,
    /// Carries its unit.
    pub key: &'static str,
    pub default: f64,
    /// Smallest and largest value accepted.
    pub range: (f64, f64),
    /// What it means, and why the default is what it is.
    pub doc: &'static str,
    field: fn(&mut Thresholds) -> &mut f64,
}

impl Setting {
    pub(super) fn set(&self, thresholds: &mut Thresholds, value: f64) {
        *(self.field)(thresholds) = value;
    }
}

/// Sections in the file's order, each with what it is about.
pub const SECTIONS: &[(&str, &str)] = &[
    ("windows", "Sliding windows over what each node's agent reports."),
    (
        "noisy_neighbour",
        "NoisyNeighbour: a pod that used less than it was promised was slowed down by a tenant that used more than it was promised.",
    ),
    (
        "node_overcommitted",
        "NodeOvercommitted: the same victim, but those who ran meanwhile kept within their entitlement.",
    ),
    (
        "system_noise",
        "SystemNoise: the same victim, but mostly daemons and kernel threads ran meanwhile.",
    ),
    (
        "quota",
        "QuotaNear and QuotaExceeded: a tenant's use of CPU, memory (working set) or pods over all nodes against its quota.",
    ),
    (
        "memory_squeeze",
        "MemorySqueeze: a pod within its memory request waited because its node ran low, while another tenant held more there than it requested.",
    ),
    (
        "cross_tenant_oom",
        "CrossTenantOom: a task was killed because memory ran out, and a tenant that is not the victim's had more than it requested.",
    ),
    (
        "limit_range",
        "LimitRangeExceeded: a container's limit or use is above the LimitRange's maximum in its namespace, or it has no limit where the LimitRange sets one.",
    ),
    (
        "flat_network",
        "FlatNetwork: a tenant's pod reached another tenant's, and no NetworkPolicy isolates either. Holds for windows.fast_seconds after each connection.",
    ),
    (
        "fence_leak",
        "FenceLeak: a tenant's pod reached another tenant's although the NetworkPolicies in force deny it: nobody enforces them. Holds as FlatNetwork.",
    ),
    (
        "probe",
        "Probe: one pod tried many addresses and ports of other tenants, of nodes, or of private ranges where nobody is, and came through to none of them.",
    ),
    (
        "credential_reach",
        "CredentialReach: a pod reached the instance metadata service (169.254.169.254, fd00:ec2::254), and so its node's credentials, while pods have their own by Pod Identity (see fence.pod_identity). Host-network pods and those of `system` are exempt.",
    ),
    (
        "headroom",
        "What `partywall headroom` calls full. It makes no breach.",
    ),
    (
        "trail",
        "The trail: breaches, and what crossed between tenants hour by hour, kept in --state-dir. Nothing here changes what is a breach.",
    ),
];

const ONCE: &str = "How long the condition must hold before the breach fires. At once: a connection is a fact, and may come only once.";
const LONG: &str = "How long the condition must be gone before the breach is resolved. A minute, so that what connects now and then is one breach, and a connection that was made once is still there when somebody looks.";
const FOR: &str = "How long the condition must hold before the breach fires.";
const CLEAR: &str =
    "How long the condition must be gone before the breach is resolved: bridges pauses in bursty work.";

macro_rules! setting {
    ($section:ident . $($field:ident).+ , $key:literal, $default:expr, $min:expr => $max:expr, $doc:expr) => {
        Setting { section: stringify!($section), key: $key, default: $default, range: ($min, $max), doc: $doc, field: |t| &mut t.$section.$($field).+ }
    };
}

pub const SETTINGS: &[Setting] = &[
    setting!(windows.length_seconds, "length_seconds", 10.0, 2.0 => 600.0,
        "Length of the window behind every rate shown. Ten reports of the default interval: long enough that one odd second is a tenth, short enough to follow a deployment."),
    setting!(windows.fast_seconds, "fast_seconds", 3.0, 1.0 => 600.0,
        "Length of the second window, which sees sudden changes: a slow-down of 1.3 takes 3.3 s to lift a quiet 10 s window over min_slowdown, and 1 s to lift this one. Also ends a breach soon after its cause."),
    setting!(windows.step_seconds, "step_seconds", 0.5, 0.1 => 60.0,
        "How often everything is judged. Twice in an interval of the agent: a report waits for its judgement half a second at the most, which keeps every breach within 5 s of its cause."),
    setting!(windows.min_covered_seconds, "min_covered_seconds", 0.9, 0.0 => 600.0,
        "A node is judged once its reports cover this much of a window: one interval of the agent, which may be a little short."),
    setting!(noisy_neighbour.min_stolen_cores, "min_stolen_cores", 0.01, 0.000_001 => 1_000.0,
        "CPU that other tenants must have taken from the victim: 10 ms of waiting per second. Below it, waiting is the ordinary jitter of sharing a CPU."),
    setting!(noisy_neighbour.min_slowdown, "min_slowdown", 1.10, 1.0 => 1_000.0,
        "(used + self + stolen) / (used + self) of the victim, self being its waiting for its own tasks. A tenth slower is what its users begin to notice."),
    setting!(noisy_neighbour.min_culprit_share, "min_culprit_share", 0.25, 0.01 => 1.0,
        "Share of what was stolen from the victim that one tenant must hold to be its culprit. Up to four tenants can be."),
    setting!(noisy_neighbour.over_entitlement_ratio, "over_entitlement_ratio", 1.02, 1.0 => 100.0,
        "Use against entitlement on the node from which a tenant counts as over it. 2 %, because CPU time is measured within 1 % and a tenant that stops exactly at its own limit is not at fault."),
    setting!(noisy_neighbour.min_reports, "min_reports", 2.0, 1.0 => 100.0,
        "Reports within the window in which the victim must have waited at least min_stolen_cores. Two, so that a single hiccup never fires."),
    setting!(noisy_neighbour.timing.for_seconds, "for_seconds", 2.0, 0.0 => 3_600.0,
        "How long the condition must hold before the breach fires. With a 1 s interval this names a culprit within 5 s of the cause."),
    setting!(noisy_neighbour.timing.clear_after_seconds, "clear_after_seconds", 5.0, 0.0 => 3_600.0, CLEAR),
    setting!(node_overcommitted.for_seconds, "for_seconds", 3.0, 0.0 => 3_600.0,
        "How long the condition must hold before the breach fires. One second more than noisy_neighbour's: a culprit's use takes up to fast_seconds to show as over its entitlement."),
    setting!(node_overcommitted.clear_after_seconds, "clear_after_seconds", 5.0, 0.0 => 3_600.0, CLEAR),
    setting!(system_noise.min_system_cores, "min_system_cores", 0.01, 0.000_001 => 1_000.0,
        "CPU that daemons and kernel threads must have taken from the victim, and more than other tenants did. As min_stolen_cores."),
    setting!(system_noise.min_slowdown, "min_slowdown", 1.10, 1.0 => 1_000.0,
        "(used + self + taken by the system) / (used + self) of the victim. As noisy_neighbour's."),
    setting!(system_noise.timing.for_seconds, "for_seconds", 2.0, 0.0 => 3_600.0, FOR),
    setting!(system_noise.timing.clear_after_seconds, "clear_after_seconds", 5.0, 0.0 => 3_600.0, CLEAR),
    setting!(quota.near_ratio, "near_ratio", 0.8, 0.01 => 1.0,
        "Use against quota from which QuotaNear holds, until QuotaExceeded takes over."),
    setting!(quota.exceeded_ratio, "exceeded_ratio", 1.02, 0.01 => 100.0,
        "Use against quota above which QuotaExceeded holds. 2 % over, because a tenant whose limits add up to its quota may use all of it, and CPU time is measured within 1 %. Pods are counted, not measured: of them one more than the quota is over it."),
    setting!(quota.clear_below_ratio, "clear_below_ratio", 0.95, 0.5 => 1.0,
        "A firing quota breach counts as gone only below this share of the threshold that raised it: use that hovers at the threshold is one breach, not many."),
    setting!(quota.timing.for_seconds, "for_seconds", 2.0, 0.0 => 3_600.0, FOR),
    setting!(quota.timing.clear_after_seconds, "clear_after_seconds", 5.0, 0.0 => 3_600.0, CLEAR),
    setting!(memory_squeeze.min_stall, "min_stall", 0.01, 0.000_001 => 1_000.0,
        "Time that the victim's tasks must have waited for memory the node lacked, in seconds per second over fast_seconds. 10 ms: below it, it is the kernel's ordinary housekeeping."),
    setting!(memory_squeeze.min_reports, "min_reports", 2.0, 1.0 => 100.0,
        "Reports within the window in which the victim must have waited at least min_stall. Two, so that a single hiccup never fires."),
    setting!(memory_squeeze.over_request_ratio, "over_request_ratio", 1.02, 1.0 => 100.0,
        "Memory against requests on the node from which a tenant counts as over them. 2 %, because a tenant that holds just what it requested is not at fault. Holds for CrossTenantOom too."),
    setting!(memory_squeeze.min_culprit_share, "min_culprit_share", 0.25, 0.01 => 1.0,
        "Confidence that a tenant must reach to be named: half its share of all memory above requests on the node, half its share of the growth of those above. Up to four can."),
    setting!(memory_squeeze.timing.for_seconds, "for_seconds", 2.0, 0.0 => 3_600.0,
        "How long the condition must hold before the breach fires. With a 1 s interval this names a culprit within 5 s of the cause."),
    setting!(memory_squeeze.timing.clear_after_seconds, "clear_after_seconds", 5.0, 0.0 => 3_600.0,
        "How long the condition must be gone before the breach is resolved: bridges pauses between two rounds of reclaim."),
    setting!(cross_tenant_oom.shown_seconds, "shown_seconds", 10.0, 0.0 => 3_600.0,
        "How long after the last kill the condition holds. A kill is over in a moment; this is what a sink that asks every few seconds needs to see it."),
    setting!(cross_tenant_oom.timing.for_seconds, "for_seconds", 0.0, 0.0 => 3_600.0,
        "How long the condition must hold before the breach fires. At once: a kill is a fact, and comes only once."),
    setting!(cross_tenant_oom.timing.clear_after_seconds, "clear_after_seconds", 300.0, 0.0 => 3_600.0,
        "How long the condition must be gone before the breach is resolved. Five minutes: an Alertmanager waits for 30 s (group_wait) and tells nobody of what has ended by then, and what kills every few minutes is one breach."),
    setting!(limit_range.cpu_use_ratio, "cpu_use_ratio", 1.02, 1.0 => 100.0,
        "CPU use against the LimitRange's maximum above which it counts. 2 %, because a container whose limit is the maximum may use all of it, and CPU time is measured within 1 %."),
    setting!(limit_range.timing.for_seconds, "for_seconds", 2.0, 0.0 => 3_600.0, FOR),
    setting!(limit_range.timing.clear_after_seconds, "clear_after_seconds", 5.0, 0.0 => 3_600.0, CLEAR),
    setting!(flat_network.for_seconds, "for_seconds", 0.0, 0.0 => 3_600.0, ONCE),
    setting!(flat_network.clear_after_seconds, "clear_after_seconds", 60.0, 0.0 => 3_600.0, LONG),
    setting!(fence_leak.enforce_seconds, "enforce_seconds", 10.0, 0.0 => 3_600.0,
        "Time that a network plugin is given to enforce NetworkPolicies after a change of them, or of the labels that they ask for: what is delivered meanwhile is unknown. Plugins take a second or two, on a busy node more. Policies that were there when the aggregator began are in force at once."),
    setting!(fence_leak.timing.for_seconds, "for_seconds", 0.0, 0.0 => 3_600.0, ONCE),
    setting!(fence_leak.timing.clear_after_seconds, "clear_after_seconds", 60.0, 0.0 => 3_600.0, LONG),
    setting!(probe.min_targets, "min_targets", 20.0, 2.0 => 500.0,
        "Different (address, protocol, port) tried in vain by one pod. Twenty: a client whose servers are down has a handful, whoever looks for open doors has hundreds."),
    setting!(probe.window_seconds, "window_seconds", 60.0, 1.0 => 600.0,
        "Within this long. A minute finds whoever tries one place every three seconds."),
    setting!(probe.timing.for_seconds, "for_seconds", 0.0, 0.0 => 3_600.0,
        "How long the condition must hold before the breach fires. At once: min_targets is patience enough."),
    setting!(probe.timing.clear_after_seconds, "clear_after_seconds", 60.0, 0.0 => 3_600.0,
        "How long no more must have been tried before the breach is resolved."),
    setting!(credential_reach.for_seconds, "for_seconds", 0.0, 0.0 => 3_600.0, ONCE),
    setting!(credential_reach.clear_after_seconds, "clear_after_seconds", 60.0, 0.0 => 3_600.0, LONG),
    setting!(headroom.mark, "mark", 0.8, 0.1 => 1.0,
        "The share of what pods may have of a pool's nodes up to which it is meant to be used, also with the pods of a zone that was lost. Four fifths: what nobody foresaw needs room too."),
    setting!(trail.keep_days, "keep_days", 30.0, 1.0 => 3_650.0,
        "Records older than this are taken out, the oldest first; one stays that says so. A month: what an audit asks for, and what incidents are looked into."),
    setting!(trail.max_bytes, "max_bytes", 536_870_912.0, 16_777_216.0 => 1.1e12,
        "The same where the file holds more than this, whatever the age. Half a gibibyte: several times what a month of two hundred tenants takes, and half of the volume that the chart asks for."),
];

/// What follows the numbers in the documented default file. Lines that begin with `#~ ` are examples.
const REST: &str = "\
# What is allowed between tenants, whatever NetworkPolicy says of it: no breach, shown as `allowed` with the name of the rule.
fence:
  # Whether pods of this cluster have credentials of their own by EKS Pod Identity: true, false, or auto (once a pod was answered by
  # its agent at 169.254.170.23 or fd00:ec2::23).
  pod_identity: auto
  # Each rule: `from` (who opens) and `to`, by any of `tenants`, `namespaces`, `namespace_labels` (all of them on the namespace) and `cidrs`
  # (by addresses of its own: what a pod forges is none);
  # `ports` such as 53/UDP, 8000-8100/TCP, ICMP. What is left out admits everybody and everything. A list here replaces this one.
  # What goes to or comes from `system` (nodes, kubelets, system_namespaces) or the outside is between no two tenants, and needs no rule.
  # So `dns` matters only where cluster DNS is in a namespace that system_namespaces does not list; name that one in it.
  allow:
    - name: dns
      to: {namespaces: [kube-system]}
      ports: [53/UDP, 53/TCP]
#~     - name: ingress
#~       from: {namespaces: [ingress-nginx]}
#~     - name: monitoring
#~       from: {namespace_labels: {example.com/monitoring: \"true\"}, cidrs: [10.9.0.0/16]}
#~       ports: [9090-9100/TCP]

# Namespaces that belong to the tenant `system`: never blamed, never a victim.
system_namespaces: [kube-system]

# Tenants by explicit mapping; comes before everything else. A namespace that is mapped nowhere gets its tenant from its labels
# (Capsule, vCluster, HNC, then `tenant_label`), else it is a tenant of its own. What `quota` names replaces the namespaces' ResourceQuotas.
#~ tenants:
#~   - name: red
#~     namespaces: [red, red-batch]
#~     quota: {cpu_cores: 2, memory_bytes: 4294967296, pods: 50}

# A namespace label whose value is the tenant.
#~ tenant_label: example.com/team

# Hosts without Kubernetes: who owns which cgroups. A prefix matches itself and everything below; the longest wins. With a `name`,
# all that a rule matches is one workload; without, each cgroup is one. `cpu_request_cores` is what it was promised.
#~ paths:
#~   - {prefix: /system.slice/nginx.service, tenant: web, name: nginx, cpu_request_cores: 0.5}
#~   - {prefix: /user.slice, tenant: people}
";

/// All defaults.
pub fn defaults() -> Thresholds {
    let mut thresholds = Thresholds::default();
    for setting in SETTINGS {
        setting.set(&mut thresholds, setting.default);
    }
    thresholds
}

pub(super) fn default_yaml() -> String {
    let mut out = String::from(
        "# Partywall's policy, with every default. Keys that are left out keep these values; unknown keys are errors.\n\n",
    );
    for (section, about) in SECTIONS {
        comment(&mut out, "", about);
        out += &format!("{section}:\n");
        for s in SETTINGS.iter().filter(|s| s.section == *section) {
            comment(
                &mut out,
                "  ",
                &format!("{} From {} to {}.", s.doc, s.range.0, s.range.1),
            );
            out += &format!("  {}: {}\n", s.key, s.default);
        }
        out.push('\n');
    }
    out + &super::alerts::yaml() + REST
}

/// `text` as comment lines of at most 110 columns.
fn comment(out: &mut String, indent: &str, text: &str) {
    let mut line = format!("{indent}#");
    for word in text.split(' ') {
        if line.len() + 1 + word.len() > 110 {
            out.push_str(&line);
            out.push('\n');
            line = format!("{indent}#");
        }
        line.push(' ');
        line.push_str(word);
    }
    out.push_str(&line);
    out.push('\n');
}
