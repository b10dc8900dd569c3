//! A scenario, checked: what its file means.

mod asked;
mod directory;
mod needs;
mod pods;
mod quantity;
mod raw;
mod traffic;
mod work;

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use partywall_workload::{DropRule, PodSpec, Resources, Work};
use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::manifests::{Documents, Key};
use directory::Directory;
pub(crate) use needs::Machine;

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
    MiscountedPackets,
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
            Self::MiscountedPackets => "miscounted_packets",
        }
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
    /// The objects among `manifests`.
    pub(crate) documents: Documents,
    /// By time.
    pub(crate) changes: Vec<Change>,
    /// Whether pods have a network of their own, and addresses.
    pub(crate) networked: bool,
    pub(crate) drops: Vec<Dropping>,
    pub(crate) pods: Vec<ScenarioPod>,
    pub(crate) hosts: Vec<ScenarioHost>,
    pub(crate) expect: Vec<Expect>,
    pub(crate) refuse: Vec<Refuse>,
    pub(crate) measure: Vec<Measure>,
    needs: Vec<Need>,
}

#[derive(Debug)]
pub(crate) struct ScenarioPod {
    pub(crate) spec: PodSpec,
    pub(crate) start: Duration,
    pub(crate) stop: Option<Duration>,
    /// When its work is done: the pod ends, its object stays until `stop`.
    pub(crate) completed: Option<Duration>,
    /// Whether one of its workers must, or must not, be killed because memory ran out. `None`: it may.
    pub(crate) oom_killed: Option<bool>,
    pub(crate) work: Vec<TimedWork>,
}

impl ScenarioPod {
    /// "namespace/name"
    pub(crate) fn full_name(&self) -> String {
        format!("{}/{}", self.spec.namespace, self.spec.name)
    }

    /// When nothing of it runs any more, and its address is free.
    pub(crate) fn end(&self) -> Option<Duration> {
        [self.stop, self.completed].into_iter().flatten().min()
    }

    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let addresses = self.spec.pod_ips.iter();
        addresses.filter_map(|ip| ip.parse().ok()).collect()
    }
}

/// What happens to the scenario's objects while it runs.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) at: Duration,
    pub(crate) put: Documents,
    pub(crate) remove: Vec<Key>,
}

impl Change {
    pub(crate) fn apply(&self, documents: &mut Documents) {
        for key in &self.remove {
            documents.remove(key);
        }
        documents.put(&self.put);
    }
}

/// A `[[drop]]`: as it is written, and as the node carries it out.
#[derive(Debug)]
pub(crate) struct Dropping {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) rule: DropRule,
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
    /// "tcp blue/web 80"
    pub(crate) title: String,
    pub(crate) from: Duration,
    pub(crate) to: Option<Duration>,
    /// Begun before the agent, not with the observation.
    pub(crate) before_agent: bool,
    /// Below the container's cgroup; the container's own where `None`.
    pub(crate) cgroup: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Expect {
    pub(crate) breach: String,
    pub(crate) tenant: String,
    pub(crate) against: Option<String>,
    pub(crate) within_s: f64,
    /// On the same clock. For what must be waited for: raised earlier, it is wrong.
    pub(crate) not_before_s: Option<f64>,
    pub(crate) resolved: bool,
    /// How often each breach that it names fires.
    pub(crate) times: Option<usize>,
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

    pub(crate) fn begins_before_agent(&self) -> bool {
        self.all_work().any(|timed| timed.before_agent)
    }

    pub(crate) fn all_work(&self) -> impl Iterator<Item = &TimedWork> {
        let of_hosts = self.hosts.iter().flat_map(|host| &host.work);
        self.pods.iter().flat_map(|pod| &pod.work).chain(of_hosts)
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
            .chain(self.networked.then(|| machine.lacks_network()).flatten())
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
        let networked = uses_network(&raw);
        let cpus = match raw.cpus {
            Some(cpus) if cpus.get_ref().is_empty() => {
                return self.refuse(&cpus, "cpus", "is empty: leave it out where pods are not pinned");
            }
            cpus => cpus.map(Spanned::into_inner),
        };
        let documents = self.documents(raw.manifests.as_ref())?;
        let changes = self.changes(raw.change, &documents)?;
        let mut pods = Vec::new();
        for entry in &raw.pod {
            let pod = self.pod(entry, &pods)?;
            pods.push(pod);
        }
        let drops = self.drops(raw.drop, &pods)?;
        // Work may be sent to any pod, also to one that is written further down.
        let directory = Directory {
            pods: &pods,
            documents: &documents,
            changes: &changes,
        };
        let mut works = Vec::new();
        for (entry, pod) in raw.pod.into_iter().zip(&pods) {
            works.push(self.works(entry.work, pod.start, &directory)?);
        }
        let mut hosts = Vec::new();
        for host in raw.host {
            if !host.cgroup.get_ref().starts_with('/') {
                return self.refuse(
                    &host.cgroup,
                    "cgroup",
                    "must start with `/`: it is a path below the cgroup mount",
                );
            }
            let work = self.works(host.work, Duration::ZERO, &directory)?;
            hosts.push(ScenarioHost {
                cgroup: host.cgroup.into_inner(),
                work,
            });
        }
        for (pod, work) in pods.iter_mut().zip(works) {
            pod.work = work;
        }
        self.resolve_places(&mut pods)?;
        if !networked {
            for pod in &mut pods {
                pod.spec.pod_ips.clear();
                pod.spec.host_ips.clear();
            }
        }
        let expect = self.expectations(raw.expect)?;
        let mut refuse = Vec::new();
        for entry in raw.refuse {
            let breach = self.breach(&entry.breach)?.to_owned();
            refuse.push(Refuse {
                breach,
                tenant: entry.tenant,
                against: entry.against,
            });
        }
        let measure = self.measures(raw.measure, &pods)?;
        Ok(Scenario {
            name: raw.name.into_inner(),
            about: raw.about,
            observed,
            cpus,
            exhaustive: raw.exhaustive,
            policy: raw.policy,
            manifests: raw.manifests.map(Spanned::into_inner),
            documents,
            changes,
            networked,
            drops,
            pods,
            hosts,
            expect,
            refuse,
            measure,
            needs: raw.needs,
        })
    }
}

/// Without a network, nothing is made of one: pods stay in the machine's own and have no address.
fn uses_network(raw: &raw::Scenario) -> bool {
    let mut work = raw
        .pod
        .iter()
        .flat_map(|pod| &pod.work)
        .chain(raw.host.iter().flat_map(|host| &host.work));
    work.any(|work| work.kind.get_ref().is_of_network()) || !raw.drop.is_empty()
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
