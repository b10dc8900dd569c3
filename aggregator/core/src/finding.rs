//! A rule that is broken at this moment, with the evidence for it and a sentence that says it.

use std::sync::Arc;

use crate::breach::{BreachKey, BreachKind};
use crate::limits::NS_PER_S;

/// A figure of evidence; the name carries its unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    pub name: &'static str,
    pub value: f64,
}

/// Every name that evidence has: what is read back from a trail means something only under one of these.
pub const FIGURES: [&str; 51] = [
    "bytes",
    "connections",
    "culprit_entitled_cores",
    "culprit_memory_bytes",
    "culprit_rank",
    "culprit_request_bytes",
    "culprit_share",
    "culprit_used_cores",
    "entitled_cores",
    "folded_attempts",
    "forged_source",
    "growth_bytes_per_second",
    "growth_share",
    "kills",
    "limit_bytes",
    "limit_cores",
    "max_bytes",
    "max_cores",
    "node_cpus",
    "node_promised_cores",
    "node_stall_seconds_per_second",
    "nodes",
    "over_request_bytes",
    "over_request_share",
    "packets",
    "pod_pairs",
    "port",
    "pressure_some",
    "quota_bytes",
    "quota_cores",
    "quota_pods",
    "quota_ratio",
    "reclaim_seconds_per_second",
    "refaults_per_second",
    "request_bytes",
    "seen_by_both_ends",
    "slowdown",
    "stolen_cores",
    "system_cores",
    "taken_cores",
    "targets",
    "targets_of_most_probed_tenant",
    "tenants",
    "times",
    "unknown_cores",
    "used_bytes",
    "used_cores",
    "used_pods",
    "wait_cores",
    "window_seconds",
    "working_set_bytes",
];

/// A name of evidence, as it is known here.
pub fn figure_named(name: &str) -> Option<&'static str> {
    FIGURES.into_iter().find(|known| *known == name)
}

/// Who took how much from a victim.
#[derive(Clone, Debug, PartialEq)]
pub struct Culprit {
    pub tenant: Arc<str>,
    /// "namespace/name", or the host cgroup's path; of flows "namespace/name -> namespace/name 80/TCP (3 connections, 1.2 KiB)".
    pub pod: Arc<str>,
    pub stolen_cores: f64,
    /// Of all that was taken from the victim, or of all memory above requests on the node; 0 to 1.
    pub share: f64,
    /// Memory above its request, and how fast it grows: of memory breaches.
    pub over_request_bytes: Option<u64>,
    pub growth_bytes_per_second: Option<f64>,
}

/// What an explanation needs beside the figures.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Detail {
    #[default]
    None,
    /// Who ran while the victim waited, most first. Sums to the wait that the figures tell of.
    Waited(Vec<Waited>),
    /// Who reached, or tried to reach, whom; most first.
    Reached(Vec<Reached>),
}

/// A part of a victim's wait.
#[derive(Clone, Debug, PartialEq)]
pub struct Waited {
    /// A tenant, or a class in angle brackets.
    pub runner: Arc<str>,
    pub cores: f64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// "namespace/name" of pods.
    pub from: Arc<str>,
    pub to: Arc<str>,
    /// IANA number.
    pub protocol: u8,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub key: BreachKey,
    pub evidence: Vec<Figure>,
    /// Most first.
    pub culprits: Vec<Culprit>,
    pub detail: Detail,
    /// How bad, to compare moments of one breach: cores taken, or use over quota.
    pub weight: f64,
    /// Share of the window that was seen, 0 to 1.
    pub covered: f64,
    /// How sure it is that the tenant is the cause, 0 to 1, where that is inferred. Absent: measured.
    pub confidence: Option<f64>,
    /// Seen in enough reports to fire.
    pub ready: bool,
    /// The sentence, before and after how long it has been so.
    pub head: String,
    pub tail: String,
}

impl Finding {
    /// The whole finding as a person would say it.
    pub fn summary(&self, for_ns: u64) -> String {
        // A kill is over in a moment.
        let lasts = self.key.kind != BreachKind::CrossTenantOom;
        match for_ns / NS_PER_S {
            s if s == 0 || !lasts => format!("{}{}", self.head, self.tail),
            s => format!("{} for {}{}", self.head, duration(s), self.tail),
        }
    }

    /// A figure of the evidence by name.
    pub fn figure(&self, name: &str) -> Option<f64> {
        self.evidence.iter().find(|f| f.name == name).map(|f| f.value)
    }
}

pub(crate) fn duration(s: u64) -> String {
    match s {
        0..120 => format!("{s} s"),
        120..7_200 => format!("{} min", s / 60),
        _ => format!("{} h", s / 3_600),
    }
}

/// "red/batch" where one pod did nearly all of what tenant `tenant` did (its share of it all is `share`), else the tenant and its foremost pod.
pub(crate) fn who(tenant: &str, culprits: &[Culprit], pods: usize, share: f64) -> String {
    match culprits {
        [only, ..] if only.share >= 0.9 * share => {
            let own = only.pod.split('/').next() == Some(tenant);
            if own {
                only.pod.to_string()
            } else {
                format!("{} of tenant {tenant}", only.pod)
            }
        }
        [most, ..] => format!("{pods} pods of {tenant} (most: {})", most.pod),
        [] => tenant.to_owned(),
    }
}

/// Bytes in binary units: three digits at the most.
pub(crate) fn bytes(n: f64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut value, mut unit) = (n.max(0.0), 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value >= 9.95 || value.fract() == 0.0 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// Cores as people read them: two significant digits below ten, never "0" for something.
pub(crate) fn cores(n: f64) -> String {
    match n {
        n if n >= 9.95 => format!("{n:.0}"),
        n if n >= 0.095 => format!("{n:.2}")
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned(),
        n if n >= 0.0005 => format!("{n:.3}"),
        n if n > 0.0 => "less than 0.001".to_owned(),
        _ => "0".to_owned(),
    }
}
