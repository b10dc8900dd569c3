//! What this kernel and this process's rights allow, and what follows for loading: a pure plan from probed facts.

use std::path::{Path, PathBuf};

use partywall_abi::{ABSENT, Offsets};
use procfs::process::Process;

use super::btf::{self, Layout};
use crate::cgroups;

const BTF_FILE: &str = "/sys/kernel/btf/vmlinux";
const LOCKDOWN_FILE: &str = "/sys/kernel/security/lockdown";
const BPF_STATS_FILE: &str = "/proc/sys/kernel/bpf_stats_enabled";

const PORTS_FILE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// Where the kernel does not tell: its default.
const EPHEMERAL_FROM: u16 = 32_768;

const PSI_FILE: &str = "/proc/pressure/memory";

/// Bits of CapEff, linux/capability.h.
const CAP_NET_ADMIN: u64 = 1 << 12;
const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAP_PERFMON: u64 = 1 << 38;
const CAP_BPF: u64 = 1 << 39;

/// What was found on this machine, before anything is loaded.
#[derive(Clone, Debug)]
pub struct Facts {
    /// `uname -r`.
    pub release: String,
    /// CapEff of this process.
    pub capabilities: u64,
    /// Where cgroup v2 is mounted, or why that is not known.
    pub cgroup_root: Result<PathBuf, String>,
    pub layout: Result<Layout, String>,
    /// The kernel's lockdown mode, if it has any: "none", "integrity", "confidentiality".
    pub lockdown: Option<String>,
    /// Whether the kernel measures programs: kernel.bpf_stats_enabled.
    pub bpf_stats: bool,
    /// Whether the memory controller is in the v2 tree, or why not.
    pub memory_controller: Result<(), String>,
    /// Whether the kernel tells pressure, or why not.
    pub psi: Result<(), String>,
    /// How deep below the cgroup root pods lie.
    pub pod_level: u32,
    /// The first of the ports that the kernel chooses itself, where it tells.
    pub ephemeral_from: Option<u16>,
}

/// One thing that the agent can do here, or cannot.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Feature {
    /// snake_case; label value in metrics and reports.
    pub name: &'static str,
    pub present: bool,
    /// Why not, where absent; how, where present.
    pub reason: String,
    /// What is missing without it.
    pub lost_without: &'static str,
    /// Whether the agent can run at all without it.
    pub required: bool,
}

/// How traffic is counted.
#[derive(Clone, Debug)]
pub struct Flows {
    pub cgroup_root: PathBuf,
}

/// How the kernel side is loaded.
#[derive(Clone, Debug)]
pub struct Plan {
    pub offsets: Offsets,
    /// Try the BTF-typed hooks first. Their raw twins are what is left where those cannot be attached.
    pub btf_typed: bool,
    pub cgroup_events: bool,
    pub reclaim: bool,
    pub oom_kills: bool,
    /// `None`: traffic is not counted.
    pub flows: Option<Flows>,
    /// How deep below the cgroup root pods are told apart.
    pub unit_level: u32,
    /// The first port that the kernel chooses itself for who opens a connection.
    pub ephemeral_from: u16,
}

impl Facts {
    /// Looks at this machine. `cgroup_root`: the user's word, instead of the mount table's.
    pub fn probe(cgroup_root: Option<&Path>) -> Self {
        let cgroup_root = cgroup_root.map_or_else(find_cgroup_root, check_cgroup_root);
        Self {
            release: rustix::system::uname().release().to_string_lossy().into_owned(),
            capabilities: Process::myself()
                .and_then(|me| me.status())
                .map_or(0, |status| status.capeff),
            memory_controller: cgroup_root
                .as_deref()
                .map_err(Clone::clone)
                .and_then(memory_controller),
            psi: psi(),
            pod_level: cgroup_root.as_deref().map_or(0, cgroups::pod_level),
            ephemeral_from: std::fs::read_to_string(PORTS_FILE)
                .ok()
                .and_then(|range| range.split_whitespace().next()?.parse().ok()),
            cgroup_root,
            layout: btf::resolve(Path::new(BTF_FILE)).map_err(|error| format!("{BTF_FILE}: {error}")),
            lockdown: std::fs::read_to_string(LOCKDOWN_FILE)
                .ok()
                .as_deref()
                .and_then(lockdown_mode),
            bpf_stats: std::fs::read_to_string(BPF_STATS_FILE).is_ok_and(|value| value.trim() == "1"),
        }
    }

    fn has(&self, capability: u64) -> bool {
        self.capabilities & (capability | CAP_SYS_ADMIN) != 0
    }
}

/// The plan, and each feature with the reason for its absence. A pure function of the facts.
pub fn plan(facts: &Facts) -> (Plan, Vec<Feature>) {
    let offsets = facts
        .layout
        .as_ref()
        .map_or(Offsets::NONE, |layout| layout.offsets);
    let missing = |fields: &[(&str, u32)]| {
        let absent: Vec<&str> = fields
            .iter()
            .filter(|(_, offset)| *offset == ABSENT)
            .map(|(name, _)| *name)
            .collect();
        if absent.is_empty() {
            Ok(())
        } else {
            Err(facts.layout.as_ref().map_or_else(Clone::clone, |_| {
                format!("the kernel's BTF lacks {}", absent.join(", "))
            }))
        }
    };
    let holds = |capability, name| {
        if facts.has(capability) {
            Ok(())
        } else {
            Err(format!("{name} is missing; run as root or add the capability"))
        }
    };
    let rights = holds(CAP_BPF, "CAP_BPF (before Linux 5.8: CAP_SYS_ADMIN)");
    let perfmon = holds(CAP_PERFMON, "CAP_PERFMON (before Linux 5.8: CAP_SYS_ADMIN)");
    let net_admin = holds(CAP_NET_ADMIN, "CAP_NET_ADMIN");
    let unlocked = match facts.lockdown.as_deref() {
        Some("confidentiality") => {
            Err("the kernel is locked down (confidentiality): no program may read kernel memory".to_owned())
        }
        _ => Ok(()),
    };
    let identity = missing(&[
        ("task_struct.pid", offsets.task_pid),
        ("task_struct.cgroups", offsets.task_cgroups),
        ("css_set.dfl_cgrp", offsets.css_set_dfl_cgrp),
        ("cgroup.kn", offsets.cgroup_kn),
        ("kernfs_node.id", offsets.kernfs_node_id),
    ]);
    let arguments = match &facts.layout {
        Ok(Layout {
            switch_arguments: Some(1),
            ..
        })
        | Err(_) => Ok(()),
        Ok(layout) => Err(format!(
            "sched_switch has its tasks at {:?}, not at 1 (Linux 5.18.0 alone is known to)",
            layout.switch_arguments
        )),
    };
    let cgroups = facts.cgroup_root.as_ref().map(|_| ()).map_err(Clone::clone);
    let run_time = rights
        .clone()
        .and(perfmon.clone())
        .and(unlocked.clone())
        .and(identity)
        .and(arguments)
        .and(cgroups.clone());
    let wait = run_time.clone().and(missing(&[(
        "task_struct.sched_info.last_queued",
        offsets.task_last_queued,
    )]));
    let clock = missing(&[
        ("task_struct.se.cfs_rq", offsets.task_cfs_rq),
        ("cfs_rq.rq", offsets.cfs_rq_rq),
        ("rq.clock", offsets.rq_clock),
    ]);
    let events = run_time.clone().and(missing(&[
        ("cgroup.root", offsets.cgroup_root),
        ("cgroup_root.hierarchy_id", offsets.cgroup_root_hierarchy_id),
    ]));
    let events = events.and(match &facts.layout {
        Ok(layout) if !layout.cgroup_events => Err("the kernel has no cgroup tracepoints".to_owned()),
        _ => Ok(()),
    });
    let tracepoints = |exist: fn(&Layout) -> bool, which: &str| match &facts.layout {
        Ok(layout) if !exist(layout) => Err(format!("the kernel has no tracepoint {which}")),
        _ => Ok(()),
    };
    let reclaim = run_time.clone().and(tracepoints(
        |layout| layout.reclaim,
        "mm_vmscan_memcg_reclaim_begin or its likes",
    ));
    let oom_kills = run_time
        .clone()
        .and(tracepoints(|layout| layout.oom_kills, "mark_victim"));
    let task_clock = clock
        .clone()
        .and(missing(&[("rq.clock_task", offsets.rq_clock_task)]));
    let steal = task_clock.clone().and(missing(&[(
        "rq.prev_steal_time_rq",
        offsets.rq_prev_steal_time_rq,
    )]));
    let throttle = wait.clone().and(missing(&[
        ("task_struct.se.cfs_rq", offsets.task_cfs_rq),
        ("cfs_rq.throttled_clock_self_time", offsets.cfs_rq_throttled),
    ]));
    let stats = if facts.bpf_stats {
        Ok(())
    } else {
        Err("kernel.bpf_stats_enabled is 0".to_owned())
    };

    // The kernel's verifier takes these programs no more than the others without CAP_PERFMON: they do arithmetic with pointers.
    let flows = rights
        .clone()
        .and(perfmon.clone())
        .and(net_admin.clone())
        .and(cgroups.clone());
    let plan = Plan {
        offsets,
        btf_typed: true,
        cgroup_events: events.is_ok(),
        reclaim: reclaim.is_ok(),
        oom_kills: oom_kills.is_ok(),
        flows: flows
            .as_ref()
            .ok()
            .and(facts.cgroup_root.as_ref().ok())
            .map(|root| Flows {
                cgroup_root: root.clone(),
            }),
        unit_level: facts.pod_level,
        ephemeral_from: facts.ephemeral_from.unwrap_or(EPHEMERAL_FROM),
    };
    let feature = |name, found: Result<(), String>, how: &str, lost_without, required| Feature {
        name,
        present: found.is_ok(),
        reason: found.err().unwrap_or_else(|| how.to_owned()),
        lost_without,
        required,
    };
    let root = facts
        .cgroup_root
        .as_ref()
        .map_or_else(|_| String::new(), |root| root.display().to_string());
    let features = vec![
        feature(
            "btf",
            facts.layout.as_ref().map(|_| ()).map_err(Clone::clone),
            BTF_FILE,
            "all but traffic: fields are found by BTF",
            false,
        ),
        feature(
            "rights",
            rights,
            "CAP_BPF",
            "everything: programs cannot be loaded",
            true,
        ),
        feature(
            "perfmon",
            perfmon,
            "CAP_PERFMON",
            "everything: the kernel's verifier refuses the programs",
            true,
        ),
        feature(
            "net_admin",
            net_admin,
            "CAP_NET_ADMIN",
            "traffic: nothing can be attached to a cgroup",
            false,
        ),
        feature(
            "kernel_memory",
            unlocked,
            &format!("lockdown: {}", facts.lockdown.as_deref().unwrap_or("none")),
            "all but traffic: fields are read from the kernel's memory",
            false,
        ),
        feature(
            "cgroup_v2",
            facts.cgroup_root.as_ref().map(|_| ()).map_err(Clone::clone),
            &root,
            "everything: pods are known by cgroup",
            true,
        ),
        feature("run_time", run_time, "sched_switch", "CPU time per pod", false),
        feature(
            "ledger",
            wait,
            "sched_info.last_queued",
            "run-queue wait and who ran meanwhile",
            false,
        ),
        feature(
            "run_queue_clock",
            clock,
            "rq.clock",
            "nothing; waits are measured on a clock that costs more per switch",
            false,
        ),
        feature(
            "task_clock",
            task_clock,
            "rq.clock_task",
            "what interrupts and the hypervisor took counts as run time",
            false,
        ),
        feature(
            "steal",
            steal,
            "rq.prev_steal_time_rq",
            "time taken by the hypervisor is entered against whoever ran",
            false,
        ),
        feature(
            "throttle",
            throttle,
            "cfs_rq, its throttled time",
            "what a pod's own cpu.max held back is entered against whoever ran",
            false,
        ),
        feature(
            "cgroup_events",
            events,
            "cgroup_mkdir, cgroup_rmdir",
            "names of pods shorter than one scan of the cgroup tree",
            false,
        ),
        feature(
            "reclaim",
            reclaim,
            "mm_vmscan_{memcg,direct}_reclaim_{begin,end}",
            "time that pods spend reclaiming memory, for their own limit or for the node",
            false,
        ),
        feature(
            "oom_kills",
            oom_kills,
            "mark_victim",
            "who ran out of memory when a task was killed for it",
            false,
        ),
        feature(
            "flows",
            flows.clone(),
            "cgroup_skb at the cgroup root",
            "traffic of pods: who reaches whom",
            false,
        ),
        feature(
            "timeouts",
            flows,
            "cgroup/sock_release",
            "connections that were given up without an answer",
            false,
        ),
        feature(
            "memory",
            facts.memory_controller.clone(),
            "memory.current and its likes",
            "what pods hold of memory, their limits and how often they met them",
            false,
        ),
        feature(
            "psi",
            facts.psi.clone(),
            "memory.pressure and its likes",
            "the share of time that pods wait for CPU, memory, I/O",
            false,
        ),
        feature(
            "program_cost",
            stats,
            "kernel.bpf_stats_enabled",
            "nanoseconds per program run in the agent's own cost",
            false,
        ),
    ];
    (plan, features)
}

fn lockdown_mode(text: &str) -> Option<String> {
    text.split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'))
        .map(|(mode, _)| mode.to_owned())
}

fn memory_controller(root: &Path) -> Result<(), String> {
    let file = root.join("cgroup.controllers");
    let controllers =
        std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    if controllers
        .split_whitespace()
        .any(|controller| controller == "memory")
    {
        Ok(())
    } else {
        Err(format!(
            "the memory controller is not in the cgroup v2 tree: {} has {:?}",
            file.display(),
            controllers.trim()
        ))
    }
}

/// PSI may be compiled in and off: then its files say EOPNOTSUPP, or are not there.
fn psi() -> Result<(), String> {
    match std::fs::read_to_string(PSI_FILE) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!(
            "{PSI_FILE}: {error}; PSI is off unless the kernel is booted with psi=1 or built so"
        )),
    }
}

fn find_cgroup_root() -> Result<PathBuf, String> {
    let mounts = Process::myself()
        .and_then(|me| me.mountinfo())
        .map_err(|error| format!("/proc/self/mountinfo: {error}"))?;
    mounts
        .into_iter()
        .find(|mount| mount.fs_type == "cgroup2" && mount.root == "/")
        .map(|mount| mount.mount_point)
        .ok_or_else(|| "no cgroup2 file system is mounted".to_owned())
}

fn check_cgroup_root(root: &Path) -> Result<PathBuf, String> {
    let is_root = root.join("cgroup.procs").is_file() && !root.join("cgroup.type").exists();
    if is_root {
        Ok(root.to_owned())
    } else {
        Err(format!(
            "--cgroup-root {}: not the root of a cgroup2 mount",
            root.display()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn able() -> Facts {
        let mut offsets = Offsets::NONE;
        for field in [
            &mut offsets.task_pid,
            &mut offsets.task_cgroups,
            &mut offsets.task_last_queued,
            &mut offsets.task_last_arrival,
            &mut offsets.task_cfs_rq,
            &mut offsets.cfs_rq_rq,
            &mut offsets.cfs_rq_throttled,
            &mut offsets.rq_clock,
            &mut offsets.rq_clock_task,
            &mut offsets.rq_prev_steal_time_rq,
            &mut offsets.css_set_dfl_cgrp,
            &mut offsets.cgroup_kn,
            &mut offsets.cgroup_root,
            &mut offsets.cgroup_root_hierarchy_id,
            &mut offsets.kernfs_node_id,
        ] {
            *field = 8;
        }
        Facts {
            release: "6.18.0".into(),
            capabilities: CAP_BPF | CAP_PERFMON | CAP_NET_ADMIN,
            cgroup_root: Ok("/sys/fs/cgroup".into()),
            layout: Ok(Layout {
                offsets,
                switch_arguments: Some(1),
                cgroup_events: true,
                reclaim: true,
                oom_kills: true,
            }),
            lockdown: None,
            bpf_stats: true,
            memory_controller: Ok(()),
            psi: Ok(()),
            pod_level: 3,
            ephemeral_from: Some(32_768),
        }
    }

    fn absent(facts: &Facts) -> Vec<&'static str> {
        plan(facts)
            .1
            .into_iter()
            .filter(|feature| !feature.present)
            .map(|feature| feature.name)
            .collect()
    }

    #[test]
    fn an_able_kernel_lacks_nothing() {
        assert_eq!(absent(&able()), Vec::<&str>::new());
        assert!(plan(&able()).0.cgroup_events);
    }

    #[test]
    fn each_lack_takes_what_stands_on_it_and_nothing_else() {
        type Change = fn(&mut Facts);
        let cases: [(&str, Change, &[&str]); 17] = [
            (
                "no bpf",
                |facts| facts.capabilities = CAP_PERFMON | CAP_NET_ADMIN,
                &[
                    "rights",
                    "run_time",
                    "ledger",
                    "throttle",
                    "cgroup_events",
                    "reclaim",
                    "oom_kills",
                    "flows",
                    "timeouts",
                ],
            ),
            (
                "no perfmon",
                |facts| facts.capabilities = CAP_BPF | CAP_NET_ADMIN,
                &[
                    "perfmon",
                    "run_time",
                    "ledger",
                    "throttle",
                    "cgroup_events",
                    "reclaim",
                    "oom_kills",
                    "flows",
                    "timeouts",
                ],
            ),
            (
                "no net admin",
                |facts| facts.capabilities = CAP_BPF | CAP_PERFMON,
                &["net_admin", "flows", "timeouts"],
            ),
            ("before 5.8", |facts| facts.capabilities = CAP_SYS_ADMIN, &[]),
            (
                "lockdown",
                |facts| facts.lockdown = Some("confidentiality".into()),
                &[
                    "kernel_memory",
                    "run_time",
                    "ledger",
                    "throttle",
                    "cgroup_events",
                    "reclaim",
                    "oom_kills",
                ],
            ),
            (
                "integrity",
                |facts| facts.lockdown = Some("integrity".into()),
                &[],
            ),
            (
                "no cgroup2",
                |facts| facts.cgroup_root = Err("none".into()),
                &[
                    "cgroup_v2",
                    "run_time",
                    "ledger",
                    "throttle",
                    "cgroup_events",
                    "reclaim",
                    "oom_kills",
                    "flows",
                    "timeouts",
                ],
            ),
            (
                "no sched_info",
                |facts| edit(facts, |offsets| offsets.task_last_queued = ABSENT),
                &["ledger", "throttle"],
            ),
            (
                "no group scheduling",
                |facts| edit(facts, |offsets| offsets.task_cfs_rq = ABSENT),
                &["run_queue_clock", "task_clock", "steal", "throttle"],
            ),
            (
                "no task clock",
                |facts| edit(facts, |offsets| offsets.rq_clock_task = ABSENT),
                &["task_clock", "steal"],
            ),
            (
                "no bandwidth control",
                |facts| edit(facts, |offsets| offsets.cfs_rq_throttled = ABSENT),
                &["throttle"],
            ),
            (
                "5.18.0",
                |facts| facts.layout.as_mut().expect("a layout").switch_arguments = Some(2),
                &[
                    "run_time",
                    "ledger",
                    "throttle",
                    "cgroup_events",
                    "reclaim",
                    "oom_kills",
                ],
            ),
            (
                "no reclaim tracepoints",
                |facts| facts.layout.as_mut().expect("a layout").reclaim = false,
                &["reclaim"],
            ),
            (
                "no mark_victim",
                |facts| facts.layout.as_mut().expect("a layout").oom_kills = false,
                &["oom_kills"],
            ),
            (
                "cgroup v1 memory",
                |facts| facts.memory_controller = Err("not here".into()),
                &["memory"],
            ),
            ("psi=0", |facts| facts.psi = Err("off".into()), &["psi"]),
            (
                "no statistics",
                |facts| facts.bpf_stats = false,
                &["program_cost"],
            ),
        ];
        for (what, change, expected) in cases {
            let mut facts = able();
            change(&mut facts);
            assert_eq!(absent(&facts), expected, "{what}");
        }
    }

    fn edit(facts: &mut Facts, change: fn(&mut Offsets)) {
        change(&mut facts.layout.as_mut().expect("a layout").offsets);
    }

    #[test]
    fn a_capability_that_is_missing_is_named() {
        for (capability, feature, name) in [
            (CAP_BPF, "rights", "CAP_BPF"),
            (CAP_PERFMON, "perfmon", "CAP_PERFMON"),
            (CAP_NET_ADMIN, "net_admin", "CAP_NET_ADMIN"),
        ] {
            let mut facts = able();
            facts.capabilities &= !capability;
            let (_, features) = plan(&facts);
            let missing = features
                .iter()
                .find(|found| found.name == feature)
                .expect(feature);
            assert!(
                !missing.present && missing.reason.starts_with(name),
                "{missing:?}"
            );
        }
    }

    #[test]
    fn without_btf_the_reason_is_given_everywhere() {
        let facts = Facts {
            layout: Err("no such file".into()),
            ..able()
        };
        let (plan, features) = plan(&facts);
        assert!(!plan.cgroup_events);
        for name in ["btf", "run_time", "ledger", "steal"] {
            let feature = features.iter().find(|feature| feature.name == name).expect(name);
            assert!(
                !feature.present && feature.reason.contains("no such file"),
                "{feature:?}"
            );
        }
    }

    #[test]
    fn lockdown_is_what_stands_in_brackets() {
        assert_eq!(
            lockdown_mode("none [integrity] confidentiality\n").as_deref(),
            Some("integrity")
        );
        assert_eq!(lockdown_mode("garbage"), None);
    }
}
