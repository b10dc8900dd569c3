//! A pod: its cgroups, its limits, the work in it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{Error, PodLink, PodSpec, Work, WorkHandle, cgroup::Cgroup, oom, spawn::spawn};

/// Whether a limit of the spec is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitState {
    /// The spec sets none.
    None,
    Applied,
    /// The kernel has no such controller on this cgroup tree, or refused the value; says which.
    Absent(String),
}

/// The limits of a pod's container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `cpu.max`
    pub cpu: LimitState,
    /// `memory.max`
    pub memory: LimitState,
}

/// A pod with one container. Dropping it kills its processes and removes its cgroups.
#[derive(Debug)]
pub struct Pod {
    spec: PodSpec,
    /// The pod's slice; the container's scope lies below it.
    cgroup: Cgroup,
    container: PathBuf,
    limits: Limits,
    /// `oom_score_adj` of its processes.
    oom_score: i32,
    // After the cgroup: what runs in the pod is killed first.
    network: Option<PodLink>,
}

impl Pod {
    /// Makes the pod's and its container's cgroup below the cgroup v2 mount, with the limits where the kernel takes them, and
    /// memory accounted for where it can be, as kubelet does.
    pub fn create(spec: PodSpec, cgroup_mount: &Path) -> Result<Self, Error> {
        spec.check()?;
        let cgroup = Cgroup::create(cgroup_mount, &spec.pod_cgroup())?;
        let container = cgroup.child(&format!("cri-containerd-{}.scope", spec.container_id))?;
        let oom_score = oom::score_of(&spec, oom::node_memory_bytes()?);
        cgroup.enable("memory", &container);
        let limits = Limits {
            cpu: spec.limits.cpu_cores.map_or(LimitState::None, |cores| {
                set_limit(&cgroup, &container, "cpu", "cpu.max", &cpu_max(cores))
            }),
            memory: spec.limits.memory_bytes.map_or(LimitState::None, |bytes| {
                // One container has a limit, so all of the pod's have: kubelet then gives the pod their sum.
                match set_limit(&cgroup, cgroup.path(), "memory", "memory.max", &bytes.to_string()) {
                    LimitState::Applied => {
                        set_limit(&cgroup, &container, "memory", "memory.max", &bytes.to_string())
                    }
                    absent => absent,
                }
            }),
        };
        Ok(Self {
            spec,
            cgroup,
            container,
            limits,
            oom_score,
            network: None,
        })
    }

    /// Work that starts from now on runs in this network, not in the machine's own. It goes with the pod.
    pub fn connect(&mut self, link: PodLink) {
        self.network = Some(link);
    }

    pub fn spec(&self) -> &PodSpec {
        &self.spec
    }

    /// The pod's slice, as an absolute path.
    pub fn cgroup(&self) -> &Path {
        self.cgroup.path()
    }

    /// The container's scope, as an absolute path: where work runs.
    pub fn container_cgroup(&self) -> &Path {
        &self.container
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Starts work in the container, on `cpus` only where given.
    pub fn start(&self, work: &Work, cpus: Option<&[usize]>) -> Result<WorkHandle, Error> {
        spawn(work, &self.container, self.network.as_ref(), cpus, self.oom_score)
    }

    /// Starts work in a cgroup below the container's, made when missing, as a pod with a writable cgroup can.
    pub fn start_below(
        &self,
        relative: &str,
        work: &Work,
        cpus: Option<&[usize]>,
    ) -> Result<WorkHandle, Error> {
        let scope = self
            .container
            .strip_prefix(self.cgroup.path())
            .unwrap_or(&self.container);
        let below = format!("{}/{}", scope.display(), relative.trim_start_matches('/'));
        let below = self.cgroup.child(&below)?;
        spawn(work, &below, self.network.as_ref(), cpus, self.oom_score)
    }

    /// Stops everything in the pod where it is, and waits until it stands still.
    pub fn freeze(&self) -> Result<(), Error> {
        self.cgroup.freeze()
    }

    /// Lets it go on.
    pub fn thaw(&self) -> Result<(), Error> {
        self.cgroup.thaw()
    }

    /// CPU time that the pod has used, from the kernel's `cpu.stat`.
    pub fn cpu_used(&self) -> Result<Duration, Error> {
        self.cgroup.cpu_used()
    }

    /// How many of its processes the kernel has killed because memory ran out, the pod's or the node's. None where memory is not
    /// accounted for.
    pub fn oom_kills(&self) -> u64 {
        let events = fs::read_to_string(self.cgroup().join("memory.events")).unwrap_or_default();
        events
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
            .unwrap_or(0)
    }

    /// Kills the pod's processes and removes its cgroups.
    pub fn remove(mut self) -> Result<(), Error> {
        self.cgroup.remove()
    }
}

/// `quota period` in microseconds, over kubelet's period of 100 ms. The kernel takes no quota below 1 ms.
fn cpu_max(cores: f64) -> String {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped, and a limit is no counter"
    )]
    let quota_us = (cores * 100_000.0).round().max(1_000.0) as u64;
    format!("{quota_us} 100000")
}

fn set_limit(cgroup: &Cgroup, at: &Path, controller: &str, file: &str, value: &str) -> LimitState {
    cgroup.enable(controller, at);
    match fs::OpenOptions::new().write(true).open(at.join(file)) {
        Err(error) => LimitState::Absent(format!("{file}: {error}")),
        Ok(_) => match fs::write(at.join(file), value) {
            Ok(()) => LimitState::Applied,
            Err(error) => LimitState::Absent(format!("{file} = {value}: {error}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_limits_are_written_as_kubelet_writes_them() {
        assert_eq!(cpu_max(1.0), "100000 100000");
        assert_eq!(cpu_max(0.25), "25000 100000");
        assert_eq!(cpu_max(0.001), "1000 100000");
    }
}
