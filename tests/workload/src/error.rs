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
    #[error("cannot {doing}: {source}")]
    Network { doing: &'static str, source: io::Error },
    #[error("the kernel has no IPv6: /proc/sys/net/ipv6 is not there")]
    NoIpv6,
    #[error("cannot run `{name}` (Debian package {package}): {source}")]
    CannotRun {
        name: &'static str,
        package: &'static str,
        source: io::Error,
    },
    #[error("`{name}` refused: {said}\nit was told:\n{input}")]
    Refused {
        name: &'static str,
        said: String,
        input: String,
    },
    #[error("`nft` lists counters in another form than expected: {listed}")]
    NoCounters { listed: String },
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
