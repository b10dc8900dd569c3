//! The three tenants: real cgroups, real work on one CPU, and the Kubernetes YAML that says what they were promised.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use partywall_workload::manifest::{Phase, namespace_yaml, pod_yaml};
use partywall_workload::{Pod, PodSpec, Resources, Work, WorkHandle, cgroup2_mount, sweep};
use tempfile::TempDir;

use crate::host;

/// One tenant of the demo, and the pod it runs.
pub(crate) struct Role {
    pub tenant: &'static str,
    pub pod: &'static str,
    pub promised_cores: f64,
    pub work: Work,
    pub about: &'static str,
}

/// Serves. Its work is longer than a turn on the CPU: where the v2 cpu controller is on, a pod with a larger request is let through at once for
/// short work, and red would not hurt it.
pub(crate) const BLUE: Role = Role {
    tenant: "blue",
    pod: "web",
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
    promised_cores: 0.1,
    work: Work::Spin { threads: 3 },
    about: "will start 3 threads that never rest",
};

const ROLES: [&Role; 3] = [&BLUE, &GREEN, &RED];

pub(crate) struct Scene {
    /// The one CPU that all three share.
    pub cpu: usize,
    pub node: String,
    /// YAML of the three tenants.
    manifests: TempDir,
    pods: BTreeMap<&'static str, Pod>,
    works: BTreeMap<&'static str, WorkHandle>,
    /// Of every process ever started, and every directory made: what must be gone at the end.
    pids: Vec<u32>,
    paths: Vec<PathBuf>,
}

impl Scene {
    /// Makes the cgroups and the YAML. Nothing runs yet.
    pub(crate) fn make() -> anyhow::Result<Self> {
        let mount = cgroup2_mount()?;
        // What an earlier demo left that was killed before it could clean up.
        sweep(&mount).context("removing what a killed run left behind")?;
        let manifests = tempfile::Builder::new().prefix("partywall-demo-").tempdir()?;
        let mut scene = Self {
            cpu: host::last_allowed_cpu()?,
            node: host::name(),
            paths: vec![manifests.path().to_owned()],
            manifests,
            pods: BTreeMap::new(),
            works: BTreeMap::new(),
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
        let pod = Pod::create(spec, mount)?;
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
        let pod = self
            .pods
            .get(role.tenant)
            .ok_or_else(|| anyhow!("{} has no pod", role.tenant))?;
        let work = pod.start(&role.work, Some(&[self.cpu]))?;
        self.pids.push(work.pid());
        self.works.insert(role.tenant, work);
        Ok(())
    }

    pub(crate) fn stop(&mut self, role: &Role) {
        self.works.remove(role.tenant);
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

    /// Ends all work, removes everything that was made, and looks whether it is gone: what is left, by name.
    pub(crate) fn remove(mut self) -> Vec<String> {
        let mut left = Vec::new();
        self.works.clear();
        for (tenant, pod) in std::mem::take(&mut self.pods) {
            if let Err(error) = pod.remove() {
                left.push(format!("{tenant}'s cgroup ({error})"));
            }
        }
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
