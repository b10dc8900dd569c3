//! Work outside any pod: what system daemons do.

use std::path::Path;

use crate::{Error, PodLink, Work, WorkHandle, cgroup::Cgroup, spawn::spawn};

/// A cgroup that belongs to no pod. Dropping it kills its processes and removes it.
#[derive(Debug)]
pub struct HostCgroup {
    cgroup: Cgroup,
    network: Option<PodLink>,
}

impl HostCgroup {
    /// Makes the cgroup at `path` below the cgroup v2 mount, as `/system.slice/noisyd.service`. It must not exist.
    pub fn create(path: &str, cgroup_mount: &Path) -> Result<Self, Error> {
        Ok(Self {
            cgroup: Cgroup::create(cgroup_mount, path)?,
            network: None,
        })
    }

    /// Work that starts from now on runs in this network, not in the machine's own.
    pub fn connect(&mut self, link: PodLink) {
        self.network = Some(link);
    }

    /// As an absolute path.
    pub fn cgroup(&self) -> &Path {
        self.cgroup.path()
    }

    /// Starts work in it, on `cpus` only where given.
    pub fn start(&self, work: &Work, cpus: Option<&[usize]>) -> Result<WorkHandle, Error> {
        // A daemon's that asked for nothing else.
        spawn(work, self.cgroup.path(), self.network.as_ref(), cpus, 0)
    }

    /// Kills its processes and removes it.
    pub fn remove(mut self) -> Result<(), Error> {
        self.cgroup.remove()
    }
}
