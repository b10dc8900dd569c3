//! The three tenants: real cgroups, real work on one CPU, a network namespace for each, and the Kubernetes YAML that says what they
//! were promised.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use partywall_workload::manifest::{Phase, namespace_yaml, pod_yaml};
use partywall_workload::{
    Family, NODE_IPV4, Network, Pod, PodSpec, Resources, Work, WorkHandle, cgroup2_mount, sweep,
};
use tempfile::TempDir;

use crate::host;

/// One tenant of the demo, and the pod it runs.
pub(crate) struct Role {
    pub tenant: &'static str,
    pub pod: &'static str,
    pub address: Ipv4Addr,
    pub promised_cores: f64,
    pub work: Work,
    pub about: &'static str,
}

/// Serves. Its work is longer than a turn on the CPU: where the v2 cpu controller is on, a pod with a larger request is let through at once for
/// short work, and red would not hurt it.
pub(crate) const BLUE: Role = Role {
    tenant: "blue",
    pod: "web",
    address: Ipv4Addr::new(10, 244, 0, 2),
    promised_cores: 0.5,
    work: Work::Duty {
        busy_ms: 30.0,
        idle_ms: 70.0,
        threads: 1,
    },
    about: "serves: 30 ms of work, then 70 ms of rest; the one that will suffer",
};

/// On the same CPU as red, and just as close to blue: a tool that guesses would blame it.
pub(crate) const GREEN: Role = Role {
    tenant: "green",
    pod: "api",
    address: Ipv4Addr::new(10, 244, 0, 3),
    promised_cores: 0.25,
    work: Work::Duty {
        busy_ms: 1.0,
        idle_ms: 19.0,
        threads: 1,
    },
    about: "an honest neighbour: 1 ms of work, then 19 ms of rest; must not be blamed",
};

/// The noisy one. Three threads on one CPU: far over what it was promised.
pub(crate) const RED: Role = Role {
    tenant: "red",
    pod: "batch",
    address: Ipv4Addr::new(10, 244, 0, 4),
    promised_cores: 0.1,
    work: Work::Spin { threads: 3 },
    about: "will start 3 threads that never rest",
};

const ROLES: [&Role; 3] = [&BLUE, &GREEN, &RED];

/// Where blue's pod answers in the second act.
pub(crate) const PORT: u16 = 8080;

/// Ten times a second on one connection: it is still going on when it is looked at.
const TALK: Work = Work::Tcp {
    to: SocketAddr::new(IpAddr::V4(BLUE.address), PORT),
    per_second: 10.0,
    bytes: 4096,
    keep: true,
};
const ANSWER: Work = Work::TcpServe {
    port: PORT,
    family: Family::Ipv4,
};

impl Role {
    /// `namespace/pod`: each tenant is one namespace.
    pub(crate) fn label(&self) -> String {
        format!("{}/{}", self.tenant, self.pod)
    }
}

pub(crate) struct Scene {
    /// The one CPU that all three share.
    pub cpu: usize,
    pub node: String,
    /// YAML of the three tenants.
    manifests: TempDir,
    pods: BTreeMap<&'static str, Pod>,
    /// The flat network between the pods. After the pods: their links go first.
    network: Network,
    works: Vec<(&'static str, WorkHandle)>,
    /// Network namespaces that this process held open before it made its own.
    namespaces_before: BTreeSet<String>,
    /// Of every process ever started, and every directory made: what must be gone at the end.
    pids: Vec<u32>,
    paths: Vec<PathBuf>,
}

impl Scene {
    /// Makes the cgroups, the network and the YAML. Nothing runs yet.
    pub(crate) fn make() -> anyhow::Result<Self> {
        let mount = cgroup2_mount()?;
        // What an earlier demo left that was killed before it could clean up.
        sweep(&mount).context("removing what a killed run left behind")?;
        let manifests = tempfile::Builder::new().prefix("partywall-demo-").tempdir()?;
        let namespaces_before = host::net_namespaces();
        let mut scene = Self {
            network: Network::create().context("making a network of namespaces for the pods")?,
            namespaces_before,
            cpu: host::last_allowed_cpu()?,
            node: host::name(),
            paths: vec![manifests.path().to_owned()],
            manifests,
            pods: BTreeMap::new(),
            works: Vec::new(),
            pids: Vec::new(),
        };
        for role in ROLES {
            scene.add(role, &mount)?;
        }
        Ok(scene)
    }

    fn add(&mut self, role: &Role, mount: &Path) -> anyhow::Result<()> {
        let mut spec = PodSpec::new(role.tenant, role.pod);
        spec.requests = Resources {
            cpu_cores: Some(role.promised_cores),
            memory_bytes: None,
        };
        spec.labels = BTreeMap::from([("app".to_owned(), role.pod.to_owned())]);
        spec.pod_ips = vec![role.address.to_string()];
        spec.host_ips = vec![NODE_IPV4.to_string()];
        let mut pod = Pod::create(spec, mount)?;
        pod.connect(self.network.connect(&[role.address.into()])?);
        self.paths.push(pod.cgroup().to_owned());
        let documents = [
            namespace_yaml(role.tenant, &BTreeMap::new())?,
            pod_yaml(pod.spec(), &self.node, Phase::Running)?,
        ];
        let file = self.manifests.path().join(format!("{}.yaml", role.tenant));
        fs::write(&file, documents.join("---\n")).with_context(|| format!("writing {}", file.display()))?;
        self.pods.insert(role.tenant, pod);
        Ok(())
    }

    /// Where the YAML is.
    pub(crate) fn manifests(&self) -> &Path {
        self.manifests.path()
    }

    pub(crate) fn start(&mut self, role: &Role) -> anyhow::Result<()> {
        self.put(role, &role.work)
    }

    /// Red's pod opens a connection to blue's, and both talk on it until everything is removed.
    pub(crate) fn connect(&mut self) -> anyhow::Result<()> {
        self.put(&BLUE, &ANSWER)?;
        self.put(&RED, &TALK)
    }

    fn put(&mut self, role: &Role, work: &Work) -> anyhow::Result<()> {
        let pod = self
            .pods
            .get(role.tenant)
            .ok_or_else(|| anyhow!("{} has no pod", role.tenant))?;
        let work = pod.start(work, Some(&[self.cpu]))?;
        self.pids.push(work.pid());
        self.works.push((role.tenant, work));
        Ok(())
    }

    pub(crate) fn stop(&mut self, role: &Role) {
        self.works.retain(|(tenant, _)| *tenant != role.tenant);
    }

    /// An error when a tenant's work ended by itself: what is seen from then on proves nothing.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        for (tenant, work) in &mut self.works {
            if let Some(status) = work.ended() {
                return Err(anyhow!("{tenant}'s work ended by itself: {status}"));
            }
        }
        Ok(())
    }

    /// Ends all work and removes the pods and their network. The YAML stays: it is followed for as long as the aggregator runs.
    pub(crate) fn clear(mut self) -> Cleared {
        let mut left = Vec::new();
        self.works.clear();
        for (tenant, pod) in std::mem::take(&mut self.pods) {
            if let Err(error) = pod.remove() {
                left.push(format!("{tenant}'s cgroup ({error})"));
            }
        }
        drop(self.network);
        let namespaces = host::net_namespaces();
        let kept = namespaces.difference(&self.namespaces_before);
        left.extend(kept.map(|namespace| format!("network namespace {namespace}")));
        Cleared {
            manifests: self.manifests,
            pids: self.pids,
            paths: self.paths,
            left,
        }
    }
}

/// A scene of which the YAML is left.
pub(crate) struct Cleared {
    manifests: TempDir,
    pids: Vec<u32>,
    paths: Vec<PathBuf>,
    /// What could not be removed.
    left: Vec<String>,
}

impl Cleared {
    /// Removes the YAML, and looks whether everything is gone: what is left, by name.
    pub(crate) fn close(self) -> Vec<String> {
        let mut left = self.left;
        if let Err(error) = self.manifests.close() {
            left.push(format!("manifests ({error})"));
        }
        let processes = self.pids.iter().map(|pid| PathBuf::from(format!("/proc/{pid}")));
        let existing = self
            .paths
            .into_iter()
            .chain(processes)
            .filter(|path| path.exists());
        left.extend(existing.map(|path| path.display().to_string()));
        left
    }
}
