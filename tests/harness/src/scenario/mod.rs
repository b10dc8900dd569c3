//! A scenario, checked: what its file means.

mod needs;
mod quantity;
mod raw;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use partywall_workload::{PodSpec, Resources, Work};
use serde::{Deserialize, Serialize};
use toml::Spanned;

pub(crate) use needs::Machine;

/// Breach kinds that design and format name. The first group is judged today.
const JUDGED: [&str; 8] = [
    "NoisyNeighbour",
    "NodeOvercommitted",
    "SystemNoise",
    "QuotaNear",
    "QuotaExceeded",
    "MemorySqueeze",
    "CrossTenantOom",
    "LimitRangeExceeded",
];
const NOT_JUDGED_YET: [&str; 4] = ["FlatNetwork", "FenceLeak", "Probe", "CredentialReach"];

/// What a machine must have for a scenario to mean anything.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Need {
    Memcg,
    CpuController,
    Psi,
    Ipv6,
    TwoCpus,
    /// PSI switched off.
    NoPsi,
    /// So little of it that a scenario's pods can use it up.
    SmallMemory,
}

/// A figure over the observed time.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What {
    RunCores,
    WaitCores,
    StolenCores,
    UnresolvedShare,
    MemoryBytes,
    StallSeconds,
    FlowBytes,
    FlowPackets,
    FlowConnections,
    LostShare,
}

impl What {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::RunCores => "run_cores",
            Self::WaitCores => "wait_cores",
            Self::StolenCores => "stolen_cores",
            Self::UnresolvedShare => "unresolved_share",
            Self::MemoryBytes => "memory_bytes",
            Self::StallSeconds => "stall_seconds",
            Self::FlowBytes => "flow_bytes",
            Self::FlowPackets => "flow_packets",
            Self::FlowConnections => "flow_connections",
            Self::LostShare => "lost_share",
        }
    }

    fn is_of_flows(self) -> bool {
        matches!(
            self,
            Self::FlowBytes | Self::FlowPackets | Self::FlowConnections | Self::LostShare
        )
    }
}

#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    pub(crate) about: String,
    pub(crate) observed: Duration,
    pub(crate) cpus: Option<Vec<usize>>,
    pub(crate) exhaustive: bool,
    pub(crate) policy: Option<String>,
    pub(crate) manifests: Option<String>,
    pub(crate) pods: Vec<ScenarioPod>,
    pub(crate) hosts: Vec<ScenarioHost>,
    pub(crate) expect: Vec<Expect>,
    pub(crate) refuse: Vec<Refuse>,
    pub(crate) measure: Vec<Measure>,
    needs: Vec<Need>,
    /// What this harness cannot do yet, as a sentence each.
    unsupported: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct ScenarioPod {
    pub(crate) spec: PodSpec,
    pub(crate) start: Duration,
    pub(crate) stop: Option<Duration>,
    /// Whether one of its workers must, or must not, be killed because memory ran out. `None`: it may.
    pub(crate) oom_killed: Option<bool>,
    pub(crate) work: Vec<TimedWork>,
}

impl ScenarioPod {
    /// "namespace/name"
    pub(crate) fn full_name(&self) -> String {
        format!("{}/{}", self.spec.namespace, self.spec.name)
    }
}

/// Work outside any pod.
#[derive(Debug)]
pub(crate) struct ScenarioHost {
    pub(crate) cgroup: String,
    pub(crate) work: Vec<TimedWork>,
}

#[derive(Debug)]
pub(crate) struct TimedWork {
    pub(crate) work: Work,
    pub(crate) from: Duration,
    pub(crate) to: Option<Duration>,
    /// Below the container's cgroup; the container's own where `None`.
    pub(crate) cgroup: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Expect {
    pub(crate) breach: String,
    pub(crate) tenant: String,
    pub(crate) against: Option<String>,
    pub(crate) within_s: f64,
    pub(crate) resolved: bool,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Refuse {
    pub(crate) breach: String,
    pub(crate) tenant: Option<String>,
    pub(crate) against: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measure {
    pub(crate) what: What,
    pub(crate) pod: String,
    pub(crate) by: Option<String>,
    pub(crate) min: Option<f64>,
    pub(crate) max: Option<f64>,
}

impl Scenario {
    pub(crate) fn needs(&self, need: Need) -> bool {
        self.needs.contains(&need)
    }

    /// Why this scenario cannot run on `machine`; `None`: it can.
    pub(crate) fn skip_reason(&self, machine: &Machine) -> Option<String> {
        let missing = self.needs.iter().filter_map(|need| machine.lacks(*need));
        let offline = self
            .cpus
            .iter()
            .flatten()
            .filter_map(|cpu| machine.lacks_cpu(*cpu));
        let reasons: BTreeSet<String> = missing
            .chain(offline)
            .chain(self.unsupported.iter().cloned())
            .collect();
        (!reasons.is_empty()).then(|| reasons.into_iter().collect::<Vec<_>>().join("; "))
    }
}

/// Every `*.toml` of `dir`, by file name. `only` keeps those whose name contains one of its entries.
pub(crate) fn load_dir(dir: &Path, only: &[String]) -> Result<Vec<Scenario>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot list scenarios in {}", dir.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    let mut scenarios = Vec::new();
    let mut names = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let scenario = parse(&text).with_context(|| file.display().to_string())?;
        if !names.insert(scenario.name.clone()) {
            bail!(
                "{}: name: `{}` is already another scenario's",
                file.display(),
                scenario.name
            );
        }
        scenarios.push(scenario);
    }
    if let Some(name) = only
        .iter()
        .find(|part| !names.iter().any(|name| name.contains(part.as_str())))
    {
        bail!(
            "--only {name}: no scenario in {} has a name with that in it",
            dir.display()
        );
    }
    if !only.is_empty() {
        scenarios.retain(|scenario| only.iter().any(|part| scenario.name.contains(part.as_str())));
    }
    if scenarios.is_empty() {
        bail!("no scenario in {}", dir.display());
    }
    Ok(scenarios)
}

/// Parses and checks one scenario.
pub(crate) fn parse(text: &str) -> Result<Scenario> {
    let raw = raw::parse(text)?;
    Checker { text }.scenario(raw)
}

/// Turns what is written into what it means. Knows the text, so that errors name the line.
struct Checker<'a> {
    text: &'a str,
}

impl Checker<'_> {
    fn refuse<T, V>(&self, at: &Spanned<V>, key: &str, why: &str) -> Result<T> {
        let line = self.text[..at.span().start.min(self.text.len())]
            .matches('\n')
            .count()
            + 1;
        bail!("line {line}: {key}: {why}");
    }

    fn scenario(&self, raw: raw::Scenario) -> Result<Scenario> {
        let name = raw.name.get_ref();
        if name.is_empty()
            || !name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        {
            return self.refuse(&raw.name, "name", &format!("`{name}` is not kebab-case"));
        }
        let Some(observed) = seconds(*raw.seconds.get_ref()).filter(|s| !s.is_zero()) else {
            let why = format!("`{}` is no time to observe for", raw.seconds.get_ref());
            return self.refuse(&raw.seconds, "seconds", &why);
        };
        let cpus = match raw.cpus {
            Some(cpus) if cpus.get_ref().is_empty() => {
                return self.refuse(&cpus, "cpus", "is empty: leave it out where pods are not pinned");
            }
            cpus => cpus.map(Spanned::into_inner),
        };
        let mut unsupported = Vec::new();
        if !raw.drop.is_empty() {
            unsupported.push("[[drop]] is not supported yet by this harness".to_owned());
        }
        let mut pods = Vec::new();
        for pod in raw.pod {
            let pod = self.pod(pod, &pods, &mut unsupported)?;
            pods.push(pod);
        }
        self.resolve_places(&mut pods)?;
        let mut hosts = Vec::new();
        for host in raw.host {
            if !host.cgroup.get_ref().starts_with('/') {
                return self.refuse(
                    &host.cgroup,
                    "cgroup",
                    "must start with `/`: it is a path below the cgroup mount",
                );
            }
            let work = self.works(host.work, &mut unsupported)?;
            hosts.push(ScenarioHost {
                cgroup: host.cgroup.into_inner(),
                work,
            });
        }
        let expect = self.expectations(raw.expect, &mut unsupported)?;
        let mut refuse = Vec::new();
        for entry in raw.refuse {
            let breach = self.breach(&entry.breach)?.to_owned();
            refuse.push(Refuse {
                breach,
                tenant: entry.tenant,
                against: entry.against,
            });
        }
        let measure = self.measures(raw.measure, &pods, &mut unsupported)?;
        Ok(Scenario {
            name: raw.name.into_inner(),
            about: raw.about,
            observed,
            cpus,
            exhaustive: raw.exhaustive,
            policy: raw.policy,
            manifests: raw.manifests.map(Spanned::into_inner),
            pods,
            hosts,
            expect,
            refuse,
            measure,
            needs: raw.needs,
            unsupported,
        })
    }

    fn pod(
        &self,
        raw: raw::Pod,
        earlier: &[ScenarioPod],
        unsupported: &mut Vec<String>,
    ) -> Result<ScenarioPod> {
        let (Some(start), Ok(stop)) = (
            seconds(raw.start_s),
            raw.stop_s.map(|s| seconds(s).ok_or(s)).transpose(),
        ) else {
            return self.refuse(
                &raw.name,
                "start_s, stop_s",
                "must be seconds from the start, zero or more",
            );
        };
        if stop.is_some_and(|stop| stop <= start) {
            return self.refuse(&raw.name, "stop_s", "must be later than start_s");
        }
        let mut spec = PodSpec {
            requests: resources(&raw.requests),
            limits: resources(&raw.limits),
            labels: raw.labels,
            host_network: raw.host_network,
            ..PodSpec::new(&raw.namespace, raw.name.get_ref())
        };
        let overlaps = |other: &&ScenarioPod| {
            other.spec.namespace == spec.namespace
                && other.spec.name == spec.name
                && other.stop.is_none_or(|end| end > start)
                && stop.is_none_or(|end| end > other.start)
        };
        if earlier.iter().any(|other| overlaps(&other)) {
            let why = format!(
                "two pods are called `{}/{}` at the same time",
                spec.namespace, spec.name
            );
            return self.refuse(&raw.name, "name", &why);
        }
        spec.pod_ips = vec![match &raw.address_of {
            None => format!("10.244.{}.{}", earlier.len() / 250, earlier.len() % 250 + 2),
            Some(name) => {
                let old = earlier.iter().find(|pod| pod.full_name() == *name.get_ref());
                let Some(old) = old.filter(|old| old.stop.is_some_and(|end| end <= start)) else {
                    let why = format!("`{}` is no earlier pod that is removed by then", name.get_ref());
                    return self.refuse(name, "address_of", &why);
                };
                old.spec.pod_ips.concat()
            }
        }];
        let work = self.works(raw.work, unsupported)?;
        Ok(ScenarioPod {
            spec,
            start,
            stop,
            oom_killed: raw.oom_killed,
            work,
        })
    }

    fn works(&self, raw: Vec<raw::Work>, unsupported: &mut Vec<String>) -> Result<Vec<TimedWork>> {
        let mut works = Vec::new();
        for entry in raw {
            match self.work(entry)? {
                Ok(work) => works.push(work),
                Err(kind) => {
                    unsupported.push(format!("work kind {kind} is not supported yet by this harness"));
                }
            }
        }
        Ok(works)
    }

    /// The inner error is the name of a kind that the format has and this harness has not.
    fn work(&self, raw: raw::Work) -> Result<Result<TimedWork, &'static str>> {
        use raw::Kind;
        let kind = *raw.kind.get_ref();
        let given = [
            ("busy_ms", raw.busy_ms.is_some()),
            ("idle_ms", raw.idle_ms.is_some()),
            ("threads", raw.threads.is_some()),
            ("per_second", raw.per_second.is_some()),
            ("bytes", raw.bytes.is_some()),
            ("step_bytes", raw.step_bytes.is_some()),
            ("every_ms", raw.every_ms.is_some()),
            ("keep", raw.keep.is_some()),
            ("port", raw.port.is_some()),
            ("to", raw.to.is_some()),
            ("ports", raw.ports.is_some()),
            ("family", raw.family.is_some()),
        ];
        let (name, keys): (&str, &[&str]) = match kind {
            Kind::Duty => ("duty", &["busy_ms", "idle_ms", "threads"]),
            Kind::Spin => ("spin", &["threads"]),
            Kind::Fork => ("fork", &["per_second"]),
            Kind::Memory => ("memory", &["bytes", "step_bytes", "every_ms", "keep"]),
            Kind::FileCache => ("file-cache", &["bytes"]),
            Kind::TcpServe => ("tcp-serve", &["port", "family"]),
            Kind::UdpServe => ("udp-serve", &["port", "family"]),
            Kind::Tcp => ("tcp", &["to", "port", "per_second", "bytes", "family"]),
            Kind::Udp => ("udp", &["to", "port", "per_second", "bytes", "family"]),
            Kind::Icmp => ("icmp", &["to", "per_second", "family"]),
            Kind::Scan => ("scan", &["to", "ports", "per_second", "family"]),
        };
        if let Some((key, _)) = given
            .iter()
            .find(|(key, is_given)| *is_given && !keys.contains(key))
        {
            return self.refuse(&raw.kind, key, &format!("is no key of work kind {name}"));
        }
        let positive = |key: &'static str, value: Option<f64>| match value {
            Some(value) if value.is_finite() && value > 0.0 => Ok(value),
            Some(value) => self.refuse(&raw.kind, key, &format!("`{value}` must be more than zero")),
            None => self.refuse(&raw.kind, key, &format!("work kind {name} needs it")),
        };
        let bytes = |key: &'static str, value: Option<raw::Memory>| match value {
            Some(raw::Memory(0)) => self.refuse(&raw.kind, key, "`0` must be more than zero"),
            Some(raw::Memory(bytes)) => Ok(bytes),
            None => self.refuse(&raw.kind, key, &format!("work kind {name} needs it")),
        };
        let threads = || match raw.threads.unwrap_or(1) {
            count @ 1..=1024 => Ok(count),
            other => self.refuse(&raw.kind, "threads", &format!("`{other}` is not from 1 to 1024")),
        };
        let work = match kind {
            Kind::Duty => Work::Duty {
                busy_ms: positive("busy_ms", raw.busy_ms)?,
                idle_ms: positive("idle_ms", raw.idle_ms)?,
                threads: threads()?,
            },
            Kind::Spin => Work::Spin { threads: threads()? },
            Kind::Fork => Work::Fork {
                per_second: positive("per_second", raw.per_second)?,
            },
            Kind::Memory => {
                let all = bytes("bytes", raw.bytes)?;
                Work::Memory {
                    bytes: all,
                    step_bytes: bytes("step_bytes", raw.step_bytes.or(raw.bytes))?,
                    every_ms: raw
                        .every_ms
                        .map_or(Ok(0.0), |value| positive("every_ms", Some(value)))?,
                    keep: raw.keep.unwrap_or(true),
                }
            }
            Kind::FileCache => Work::FileCache {
                bytes: bytes("bytes", raw.bytes)?,
            },
            _ => return Ok(Err(name)),
        };
        let (Some(from), Ok(to)) = (
            seconds(raw.from_s),
            raw.to_s.map(|s| seconds(s).ok_or(s)).transpose(),
        ) else {
            return self.refuse(
                &raw.kind,
                "from_s, to_s",
                "must be seconds from the start, zero or more",
            );
        };
        if to.is_some_and(|to| to <= from) {
            return self.refuse(&raw.kind, "to_s", "must be later than from_s");
        }
        Ok(Ok(TimedWork {
            work,
            from,
            to,
            cgroup: raw.cgroup.map(Spanned::into_inner),
        }))
    }

    /// Replaces `{cgroup of NAMESPACE/NAME}` in the places of work by that pod's container cgroup.
    fn resolve_places(&self, pods: &mut [ScenarioPod]) -> Result<()> {
        const OPEN: &str = "{cgroup of ";
        let paths: Vec<(String, String)> = pods
            .iter()
            .map(|pod| (pod.full_name(), pod.spec.container_cgroup()))
            .collect();
        for place in pods
            .iter_mut()
            .flat_map(|pod| &mut pod.work)
            .filter_map(|work| work.cgroup.as_mut())
        {
            while let Some((before, rest)) = place.split_once(OPEN) {
                let named = rest.split_once('}');
                let found = named.and_then(|(name, _)| paths.iter().find(|(pod, _)| pod == name));
                let (Some((_, after)), Some((_, path))) = (named, found) else {
                    bail!("cgroup: `{place}` names no pod of this scenario: write {OPEN}NAMESPACE/NAME}}");
                };
                *place = format!("{before}{path}{after}");
            }
        }
        Ok(())
    }

    fn breach<'b>(&self, breach: &'b Spanned<String>) -> Result<&'b str> {
        let name = breach.get_ref().as_str();
        if JUDGED.contains(&name) || NOT_JUDGED_YET.contains(&name) {
            return Ok(name);
        }
        let known = [JUDGED.as_slice(), NOT_JUDGED_YET.as_slice()].concat().join(", ");
        self.refuse(
            breach,
            "breach",
            &format!("`{name}` is no kind of breach; there are {known}"),
        )
    }

    fn expectations(&self, raw: Vec<raw::Expect>, unsupported: &mut Vec<String>) -> Result<Vec<Expect>> {
        let mut expect = Vec::new();
        for entry in raw {
            let breach = self.breach(&entry.breach)?.to_owned();
            if NOT_JUDGED_YET.contains(&breach.as_str()) {
                unsupported.push(format!("breach {breach} is not judged yet"));
            }
            if !(entry.within_s.is_finite() && entry.within_s > 0.0) {
                return self.refuse(&entry.breach, "within_s", "must be more than zero");
            }
            let raw::Expect {
                tenant,
                against,
                within_s,
                resolved,
                ..
            } = entry;
            expect.push(Expect {
                breach,
                tenant,
                against,
                within_s,
                resolved,
            });
        }
        Ok(expect)
    }

    fn measures(
        &self,
        raw: Vec<raw::Measure>,
        pods: &[ScenarioPod],
        unsupported: &mut Vec<String>,
    ) -> Result<Vec<Measure>> {
        let mut measures = Vec::new();
        for entry in raw {
            let what = *entry.what.get_ref();
            if !pods.iter().any(|pod| pod.full_name() == *entry.pod.get_ref()) {
                let why = format!("`{}` is no pod of this scenario", entry.pod.get_ref());
                return self.refuse(&entry.pod, "pod", &why);
            }
            if entry.min.is_none() && entry.max.is_none() {
                return self.refuse(&entry.what, "min, max", "one of them is needed");
            }
            if what.is_of_flows() {
                unsupported.push(format!(
                    "measure {} is not supported yet by this harness",
                    what.name()
                ));
            } else if let Some(by) = &entry.by {
                match what {
                    What::StolenCores => {}
                    What::StallSeconds if ["limit", "node"].contains(&by.as_str()) => {}
                    What::StallSeconds => {
                        let why = format!("`{by}` is neither `limit` nor `node`");
                        return self.refuse(&entry.what, "by", &why);
                    }
                    _ => {
                        let why = format!("is no key of measure {}", what.name());
                        return self.refuse(&entry.what, "by", &why);
                    }
                }
            }
            let raw::Measure {
                pod, by, min, max, ..
            } = entry;
            measures.push(Measure {
                what,
                pod: pod.into_inner(),
                by,
                min,
                max,
            });
        }
        Ok(measures)
    }
}

fn seconds(value: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(value).ok()
}

fn resources(raw: &raw::Resources) -> Resources {
    Resources {
        cpu_cores: raw.cpu.map(|raw::Cpu(cores)| cores),
        memory_bytes: raw.memory.map(|raw::Memory(bytes)| bytes),
    }
}

#[cfg(test)]
mod tests;
