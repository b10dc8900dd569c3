//! What this machine has of what scenarios need.

use std::{fs, path::Path};

use partywall_workload::{Network, node_memory_bytes};

use super::Need;

/// What "small-memory" is: the guest that `cargo xtask vm` boots for it has less, any machine that people work on has more.
const SMALL_MEMORY_BYTES: u64 = 512 << 20;

/// The machine's abilities, looked up once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Machine {
    memcg: bool,
    cpu_controller: bool,
    psi: bool,
    ipv6: bool,
    small_memory: bool,
    cpus: usize,
    /// The package of a program that networks are made with and that is not there.
    lacks_package: Option<&'static str>,
}

impl Machine {
    pub(crate) fn this(cgroup_mount: &Path) -> Self {
        let controllers = fs::read_to_string(cgroup_mount.join("cgroup.controllers")).unwrap_or_default();
        let has = |name: &str| {
            controllers
                .split_whitespace()
                .any(|controller| controller == name)
        };
        Self {
            memcg: has("memory"),
            cpu_controller: has("cpu"),
            // Present but switched off, it exists and says EOPNOTSUPP.
            psi: fs::read_to_string("/proc/pressure/memory").is_ok(),
            ipv6: fs::read_to_string("/proc/net/if_inet6").is_ok_and(|addresses| !addresses.is_empty()),
            small_memory: node_memory_bytes().is_ok_and(|bytes| bytes <= SMALL_MEMORY_BYTES),
            lacks_package: Network::lacks_package(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }

    /// Why `need` is not met; `None`: it is.
    pub(super) fn lacks(&self, need: Need) -> Option<String> {
        let (met, why) = match need {
            Need::Memcg => (self.memcg, "memcg: the cgroup v2 tree has no memory controller"),
            Need::CpuController => (
                self.cpu_controller,
                "cpu-controller: the cgroup v2 tree has no cpu controller",
            ),
            Need::Psi => (self.psi, "psi: /proc/pressure/memory cannot be read"),
            Need::Ipv6 => (self.ipv6, "ipv6: no interface has an IPv6 address"),
            Need::NoPsi => (!self.psi, "no-psi: PSI is on"),
            Need::SmallMemory => (
                self.small_memory,
                "small-memory: this machine has more than 512 MiB",
            ),
            Need::TwoCpus => (self.cpus >= 2, "two-cpus: this machine has one CPU"),
        };
        (!met).then(|| why.to_owned())
    }

    /// Why no network of namespaces can be made; `None`: it can.
    pub(super) fn lacks_network(&self) -> Option<String> {
        let package = self.lacks_package?;
        Some(format!("network: no program of package {package}"))
    }

    pub(super) fn lacks_cpu(&self, cpu: usize) -> Option<String> {
        (cpu >= self.cpus).then(|| format!("cpus: CPU {cpu} is not among this machine's {}", self.cpus))
    }
}
