use std::{io, path::PathBuf};

/// What can go wrong when pods are made from nothing but a kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no cgroup v2 file system is mounted: /proc/self/mountinfo names none")]
    NoCgroup2,
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("cannot start a worker in {}: {source}", cgroup.display())]
    Spawn { cgroup: PathBuf, source: io::Error },
    #[error("cgroup path `{path}` leaves the cgroup tree: only plain names below the mount are allowed")]
    PathEscapes { path: String },
    #[error("CPU {cpu} is not among the {online} CPUs that a set holds")]
    BadCpu { cpu: usize, online: usize },
    #[error(
        "scratch directory {} is in memory, so its files are no page cache: set PARTYWALL_SCRATCH to a directory on a disk",
        dir.display()
    )]
    ScratchInMemory { dir: PathBuf },
    #[error("cannot write Kubernetes YAML: {0}")]
    Yaml(String),
}

impl Error {
    /// For `map_err`: names what was done to which path.
    pub(crate) fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }
}
