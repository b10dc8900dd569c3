//! The thresholds and objects that made it a breach, each with what was found. Thresholds are those in force now.

use super::parties::limit_range_pod;
use super::{Cx, RuleFact, fence};
use crate::breach::BreachKind;
use crate::finding::{bytes, cores};
use crate::identity::{Bound, Resource};

/// Figures of the breach as rules are told.
struct Rules<'a, 'b> {
    cx: &'a Cx<'b>,
    out: Vec<RuleFact>,
}

pub(super) fn rules(cx: &Cx<'_>) -> Vec<RuleFact> {
    let mut rules = Rules { cx, out: Vec::new() };
    match cx.kind() {
        BreachKind::NoisyNeighbour => rules.noisy(),
        BreachKind::NodeOvercommitted => rules.overcommitted(),
        BreachKind::SystemNoise => rules.system(),
        BreachKind::QuotaNear | BreachKind::QuotaExceeded => rules.quota(),
        BreachKind::MemorySqueeze => rules.squeeze(),
        BreachKind::CrossTenantOom => rules.oom(),
        BreachKind::LimitRangeExceeded => rules.limit_range(),
        BreachKind::FlatNetwork | BreachKind::FenceLeak => rules.out = fence::rules(cx),
        BreachKind::Probe => rules.probe(),
        BreachKind::CredentialReach => rules.credentials(),
    }
    rules.timing();
    rules.out
}

fn in_cores(n: f64) -> String {
    format!("{} cores", cores(n))
}

fn times(n: f64) -> String {
    format!("{n:.2}x")
}

fn percent(n: f64) -> String {
    format!("{:.0} %", n * 100.0)
}

impl Rules<'_, '_> {
    fn add(&mut self, rule: impl Into<String>, asks: impl Into<String>, found: impl Into<String>) {
        self.out.push(RuleFact {
            rule: rule.into(),
            asks: asks.into(),
            found: found.into(),
        });
    }

    /// A threshold against a figure of the evidence, where it has it.
    fn measured(&mut self, rule: &str, asks: String, figure: &str, show: fn(f64) -> String) {
        let found = self
            .cx
            .figure(figure)
            .map_or_else(|| "not measured".to_owned(), show);
        self.add(rule, asks, found);
    }

    fn timing(&mut self) {
        let kind = self.cx.kind();
        let timing = kind.timing(self.cx.thresholds());
        let section = section(kind);
        let breach = self.cx.breach();
        let held_ns = self.cx.story.held_unix_ns.saturating_sub(breach.since_unix_ns);
        let found = match self.cx.story.held_unix_ns {
            0 => "not known".to_owned(),
            _ => format!("held for {} s", held_ns / crate::limits::NS_PER_S),
        };
        let asks = format!(
            "holds for {} s before it fires, is gone for {} s before it is resolved",
            timing.for_seconds, timing.clear_after_seconds
        );
        self.add(format!("{section}.for_seconds, clear_after_seconds"), asks, found);
    }

    /// That the victim kept within its promise and was slowed.
    fn victim(
        &mut self,
        min_cores: (&str, f64),
        taken: &str,
        min_slowdown: (&str, f64),
        slowdown: Option<f64>,
    ) {
        let (used, promised) = (self.cx.figure("used_cores"), self.cx.figure("entitled_cores"));
        if let (Some(used), Some(promised)) = (used, promised) {
            let asks = "the victim was promised CPU, and used less than that";
            self.add(
                "entitlement",
                asks,
                format!("{} of {}", in_cores(used), in_cores(promised)),
            );
        }
        let asks = format!("at least {} were taken from the victim", in_cores(min_cores.1));
        self.measured(min_cores.0, asks, taken, in_cores);
        let asks = format!("it ran at least {} slower", times(min_slowdown.1));
        let found = slowdown.map_or_else(|| "it did not run at all".to_owned(), times);
        self.add(min_slowdown.0, asks, found);
    }

    fn noisy(&mut self) {
        let t = &self.cx.thresholds().noisy_neighbour;
        let key = &self.cx.breach().key;
        let (min_stolen, min_slowdown) = (t.min_stolen_cores, t.min_slowdown);
        let slowdown = self.cx.figure("slowdown");
        self.victim(
            ("noisy_neighbour.min_stolen_cores", min_stolen),
            "stolen_cores",
            ("noisy_neighbour.min_slowdown", min_slowdown),
            slowdown,
        );
        let asks = format!(
            "{} holds at least {} of what was stolen",
            key.tenant,
            percent(t.min_culprit_share)
        );
        self.measured(
            "noisy_neighbour.min_culprit_share",
            asks,
            "culprit_share",
            percent,
        );
        let (used, entitled) = (
            self.cx.figure("culprit_used_cores"),
            self.cx.figure("culprit_entitled_cores"),
        );
        let asks = format!(
            "{} used more than {} times what it was promised on {}",
            key.tenant, t.over_entitlement_ratio, key.node
        );
        let found = match (used, entitled) {
            (Some(used), Some(entitled)) => format!("{} of {}", in_cores(used), in_cores(entitled)),
            _ => "not measured".to_owned(),
        };
        self.add("noisy_neighbour.over_entitlement_ratio", asks, found);
    }

    fn overcommitted(&mut self) {
        let t = &self.cx.thresholds().noisy_neighbour;
        let slowdown = self.cx.figure("slowdown");
        self.victim(
            ("noisy_neighbour.min_stolen_cores", t.min_stolen_cores),
            "stolen_cores",
            ("noisy_neighbour.min_slowdown", t.min_slowdown),
            slowdown,
        );
        let asks = "most of it was taken by tenants that kept within what they were promised there";
        let found = match (self.cx.figure("node_promised_cores"), self.cx.figure("node_cpus")) {
            (Some(promised), Some(cpus)) => {
                format!(
                    "no tenant was over its entitlement; {} are promised on {cpus} CPUs",
                    in_cores(promised)
                )
            }
            _ => "no tenant was over its entitlement".to_owned(),
        };
        self.add("entitlement", asks, found);
    }

    fn system(&mut self) {
        let t = &self.cx.thresholds().system_noise;
        let slowdown = match (self.cx.figure("used_cores"), self.cx.figure("taken_cores")) {
            // The victim's waiting for its own tasks is in the ledger.
            (Some(used), Some(taken)) if used > 0.0 => {
                let alone = used + self.itself();
                Some((alone + taken) / alone)
            }
            _ => None,
        };
        self.victim(
            ("system_noise.min_system_cores", t.min_system_cores),
            "taken_cores",
            ("system_noise.min_slowdown", t.min_slowdown),
            slowdown,
        );
        let stolen = self.cx.figure("stolen_cores").unwrap_or(0.0);
        let asks = format!(
            "the system took more than other tenants, who took {}",
            in_cores(stolen)
        );
        self.measured("system_noise", asks, "taken_cores", in_cores);
    }

    fn itself(&self) -> f64 {
        match &self.cx.story.detail {
            crate::finding::Detail::Waited(parts) => {
                let own = parts.iter().filter(|part| &*part.runner == "<self>");
                own.map(|part| part.cores).sum()
            }
            _ => 0.0,
        }
    }

    fn quota(&mut self) {
        let t = &self.cx.thresholds().quota;
        let (rule, word, ratio) = match self.cx.kind() {
            BreachKind::QuotaNear => ("quota.near_ratio", "at least", t.near_ratio),
            _ => ("quota.exceeded_ratio", "more than", t.exceeded_ratio),
        };
        let key = &self.cx.breach().key;
        let found = match self.cx.figure("quota_ratio") {
            Some(ratio) => percent(ratio),
            None => "a quota of 0 is in use".to_owned(),
        };
        let asks = format!(
            "{} uses {word} {} of its quota of {}",
            key.tenant,
            percent(ratio),
            key.subject
        );
        self.add(rule, asks, found);
        for fact in quota_objects(self.cx) {
            self.out.push(fact);
        }
    }

    fn squeeze(&mut self) {
        let t = &self.cx.thresholds().memory_squeeze;
        let key = &self.cx.breach().key;
        let asks = format!(
            "the victim waited at least {} s per second for memory that the node lacked",
            cores(t.min_stall)
        );
        let show = |n| format!("{} s per second", cores(n));
        self.measured(
            "memory_squeeze.min_stall",
            asks,
            "node_stall_seconds_per_second",
            show,
        );
        self.within_request("the victim keeps within its memory request");
        self.over_request();
        let asks = format!(
            "it is {} with a confidence of at least {}",
            key.tenant,
            percent(t.min_culprit_share)
        );
        let found = self
            .cx
            .breach()
            .confidence
            .map_or_else(|| "not inferred".to_owned(), percent);
        self.add("memory_squeeze.min_culprit_share", asks, found);
    }

    fn oom(&mut self) {
        let key = &self.cx.breach().key;
        let asks = format!(
            "a task of {} was killed because memory ran out, within the last {} s",
            key.subject,
            self.cx.thresholds().cross_tenant_oom.shown_seconds
        );
        let show = |n| format!("{n} kills");
        self.measured("cross_tenant_oom.shown_seconds", asks, "kills", show);
        self.within_request("what the victim held, against its request");
        self.over_request();
    }

    fn within_request(&mut self, asks: &str) {
        let figures = (
            self.cx.figure("working_set_bytes"),
            self.cx.figure("request_bytes"),
        );
        if let (Some(used), Some(request)) = figures {
            self.add(
                "entitlement",
                asks,
                format!("{} of {}", bytes(used), bytes(request)),
            );
        }
    }

    fn over_request(&mut self) {
        let key = &self.cx.breach().key;
        let asks = format!(
            "{} holds more than {} times what it requested on {}",
            key.tenant,
            self.cx.thresholds().memory_squeeze.over_request_ratio,
            key.node
        );
        let figures = (
            self.cx.figure("culprit_memory_bytes"),
            self.cx.figure("culprit_request_bytes"),
        );
        let found = match figures {
            (Some(held), Some(request)) => format!("{} of {}", bytes(held), bytes(request)),
            _ => "not measured".to_owned(),
        };
        self.add("memory_squeeze.over_request_ratio", asks, found);
    }

    fn limit_range(&mut self) {
        let key = &self.cx.breach().key;
        let (show, unit): (fn(f64) -> String, _) = match key.subject.ends_with("/memory") {
            true => (bytes, "bytes"),
            false => (in_cores, "cores"),
        };
        let figure = |name: &str| self.cx.figure(&format!("{name}_{unit}"));
        let (limit, max, used) = (figure("limit"), figure("max"), figure("used"));
        let asks = match max {
            Some(max) => format!("a container has at most {}", show(max)),
            None => "a container has a limit".to_owned(),
        };
        let limit = limit.map_or_else(|| "no limit".to_owned(), |n| format!("a limit of {}", show(n)));
        let used = used.map_or_else(|| "use not known".to_owned(), |n| format!("{} in use", show(n)));
        let pod = limit_range_pod(&key.subject);
        let namespace = pod.split('/').next().unwrap_or_default();
        let mut names: Vec<String> = self
            .cx
            .directory
            .cluster()
            .limit_ranges
            .iter()
            .filter(|range| range.namespace == namespace)
            .map(|range| format!("LimitRange {namespace}/{}", range.name))
            .collect();
        if names.is_empty() {
            names.push(format!("LimitRange of {namespace}, which is gone"));
        }
        names.sort();
        self.add(names.join(", "), asks, format!("{limit}, {used}"));
        if unit == "cores" {
            let asks = format!(
                "use counts from {} times the maximum on",
                self.cx.thresholds().limit_range.cpu_use_ratio
            );
            self.add("limit_range.cpu_use_ratio", asks, used);
        }
    }

    fn probe(&mut self) {
        let t = &self.cx.thresholds().probe;
        let asks = format!(
            "one pod tried at least {} addresses and ports within {} s, and came through to none",
            t.min_targets, t.window_seconds
        );
        let show = |n| format!("{n} tried");
        self.measured("probe.min_targets, window_seconds", asks, "targets", show);
        self.out.extend(fence::isolation_of_openers(self.cx));
    }

    fn credentials(&mut self) {
        let asks = "pods have credentials of their own by Pod Identity, and none reaches the node's";
        let show = |n| format!("reached {n} times");
        self.measured("fence.pod_identity", asks.to_owned(), "times", show);
        self.out.extend(fence::isolation_of_openers(self.cx));
    }
}

fn section(kind: BreachKind) -> &'static str {
    match kind {
        BreachKind::NoisyNeighbour => "noisy_neighbour",
        BreachKind::NodeOvercommitted => "node_overcommitted",
        BreachKind::SystemNoise => "system_noise",
        BreachKind::QuotaNear | BreachKind::QuotaExceeded => "quota",
        BreachKind::MemorySqueeze => "memory_squeeze",
        BreachKind::CrossTenantOom => "cross_tenant_oom",
        BreachKind::LimitRangeExceeded => "limit_range",
        BreachKind::FlatNetwork => "flat_network",
        BreachKind::FenceLeak => "fence_leak",
        BreachKind::Probe => "probe",
        BreachKind::CredentialReach => "credential_reach",
    }
}

/// The resource that a quota's breach is about, and the scopes of its quota in words.
pub(super) fn quota_subject(subject: &str) -> (Resource, &str) {
    let (name, scopes) = subject.split_once(" of pods with ").unwrap_or((subject, ""));
    let resource = Resource::ALL.into_iter().find(|r| r.as_str() == name);
    (resource.unwrap_or(Resource::Cpu), scopes)
}

pub(super) fn in_unit(resource: Resource, amount: f64) -> String {
    match resource {
        Resource::Cpu => in_cores(amount),
        Resource::Memory => bytes(amount),
        Resource::Pods => format!("{amount} pods"),
    }
}

/// The policy file's quota, or each namespace's, with what is used there.
fn quota_objects(cx: &Cx<'_>) -> Vec<RuleFact> {
    let key = &cx.breach().key;
    let (resource, scopes) = quota_subject(&key.subject);
    let bound = cx
        .tenant(&key.tenant)
        .and_then(|id| cx.directory.quota(id, resource));
    if let Some(Bound {
        amount,
        from_policy: true,
    }) = bound
        && scopes.is_empty()
    {
        return vec![RuleFact {
            rule: format!("quota of tenant {} in the policy file", key.tenant),
            asks: format!("at most {}", in_unit(resource, amount)),
            found: "it replaces the namespaces' ResourceQuotas".to_owned(),
        }];
    }
    let quotas = super::remedies::quotas_of(cx, resource, scopes);
    let fact = |quota: &super::remedies::BoundBy<'_>| RuleFact {
        rule: format!("ResourceQuota {}/{}", quota.object.namespace, quota.object.name),
        asks: format!("at most {} ({})", in_unit(resource, quota.hard), quota.key),
        found: match scopes {
            "" => format!("its pods use {}", in_unit(resource, quota.used)),
            scopes => format!(
                "all pods of its namespace use {}; it counts those with {scopes}",
                in_unit(resource, quota.used)
            ),
        },
    };
    quotas.iter().map(fact).collect()
}
