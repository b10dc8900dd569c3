//! The empty program and the classic design, attached.

use std::{fs::File, path::Path};

use anyhow::{Context, Result, bail};
use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{BtfTracePoint, CgroupAttachMode, CgroupSkb, CgroupSkbAttachType},
};
use partywall_agent::kernel::btf;
use partywall_bench_ebpf::Offsets;

/// Kept in the repository like the agent's own, and proved the same way: `cargo xtask ebpf --check`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bench-ebpf/object/bench.bpf.o");

/// The programs of a design and their tracepoints.
pub(crate) type Design = &'static [(&'static str, &'static str)];

pub(crate) const EMPTY: Design = &[("empty_switch", "sched_switch")];
pub(crate) const CLASSIC: Design = &[
    ("classic_switch", "sched_switch"),
    ("classic_wakeup", "sched_wakeup"),
    ("classic_wake_new", "sched_wakeup_new"),
];

/// The empty program on every packet, both ways.
pub(crate) struct Packets {
    #[allow(dead_code, reason = "held, not used: dropping it detaches")]
    ebpf: Ebpf,
    /// Of what is handed to sockets, of what they send.
    pub(crate) ids: [u32; 2],
}

impl Packets {
    pub(crate) fn attach() -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(OBJECT).context("the reference programs")?;
        let root = File::open(partywall_workload::cgroup2_mount()?)?;
        let mut attach = |name: &str, direction| {
            let program: &mut CgroupSkb = ebpf
                .program_mut(name)
                .with_context(|| format!("no program {name}"))?
                .try_into()?;
            program.load().with_context(|| format!("cannot load {name}"))?;
            program
                .attach(&root, direction, CgroupAttachMode::Single)
                .with_context(|| format!("cannot attach {name}"))?;
            anyhow::Ok(program.info()?.id())
        };
        let ids = [
            attach("empty_received", CgroupSkbAttachType::Ingress)?,
            attach("empty_sent", CgroupSkbAttachType::Egress)?,
        ];
        Ok(Self { ebpf, ids })
    }
}

/// A design at work; dropping it detaches and unloads.
pub(crate) struct Reference {
    #[allow(dead_code, reason = "held, not used: dropping it detaches")]
    ebpf: Ebpf,
    pub(crate) ids: Vec<u32>,
}

impl Reference {
    pub(crate) fn attach(design: Design) -> Result<Self> {
        let path = Path::new("/sys/kernel/btf/vmlinux");
        let layout = btf::resolve(path).context("the kernel's BTF")?;
        if layout.switch_arguments != Some(1) {
            bail!("the classic design is written for sched_switch as Linux 5.19 and later have it");
        }
        let kernel = layout.offsets;
        let offsets = Offsets {
            task_pid: kernel.task_pid,
            task_cgroups: kernel.task_cgroups,
            css_set_dfl_cgrp: kernel.css_set_dfl_cgrp,
            cgroup_kn: kernel.cgroup_kn,
            kernfs_node_id: kernel.kernfs_node_id,
        };
        let words = offsets.words();
        let mut loader = EbpfLoader::new();
        loader.override_global("OFFSETS", &words[..], true);
        let mut ebpf = loader.load(OBJECT).context("the reference programs")?;
        let btf = Btf::from_sys_fs()?;
        let mut ids = Vec::new();
        for (name, tracepoint) in design {
            let program: &mut BtfTracePoint = ebpf
                .program_mut(name)
                .with_context(|| format!("no program {name}"))?
                .try_into()?;
            program
                .load(tracepoint, &btf)
                .with_context(|| format!("cannot load {name}"))?;
            program
                .attach()
                .with_context(|| format!("cannot attach {name}"))?;
            ids.push(program.info()?.id());
        }
        Ok(Self { ebpf, ids })
    }
}

#[cfg(test)]
mod tests {
    use super::{CLASSIC, EMPTY, Reference};
    use crate::programs::{self, Cost};
    use std::{collections::BTreeMap, time::Duration};

    /// Sums of the classic design by cgroup, over all CPUs: run and wait in nanoseconds.
    fn sums(reference: &Reference) -> BTreeMap<u64, (u64, u64)> {
        let map = reference.ebpf.map("SUMS").expect("a map SUMS");
        let map = aya::maps::PerCpuHashMap::<_, u64, [u64; 2]>::try_from(map).expect("a per-CPU hash");
        let entries = map.iter().map(|entry| entry.expect("an entry"));
        let folded = entries.map(|(cgroup, cpus)| {
            let run_ns = cpus.iter().map(|[run_ns, _]| run_ns).sum();
            (cgroup, (run_ns, cpus.iter().map(|[_, wait_ns]| wait_ns).sum()))
        });
        folded.collect()
    }

    /// The comparison is only fair when the classic design does its work: two spinners on one CPU wait half the time.
    #[test]
    fn classic_counts_run_and_wait() {
        use partywall_workload::{Pod, PodSpec, cgroup2_mount};
        use std::{os::unix::fs::MetadataExt, process::Command};

        let mount = cgroup2_mount().expect("cgroup v2");
        let pods = ["a", "b"].map(|name| Pod::create(PodSpec::new("classic", name), &mount).expect("a pod"));
        let reference = Reference::attach(CLASSIC).expect("needs root and BTF");
        // The shell enters its cgroup itself; removing the pod kills it.
        let mut work = pods.each_ref().map(|pod| {
            let procs = pod.container_cgroup().join("cgroup.procs");
            let script = format!("echo 0 > {}; while :; do :; done", procs.display());
            Command::new("taskset")
                .args(["-c", "0", "sh", "-c", &script])
                .spawn()
                .expect("taskset and sh")
        });
        crate::load::thread_sleep(Duration::from_secs(2));
        let sums = sums(&reference);
        for child in &mut work {
            child.kill().expect("a running spinner");
            child.wait().expect("a killed spinner");
        }
        for pod in &pods {
            let id = pod.container_cgroup().metadata().expect("a cgroup").ino();
            let (run_ns, wait_ns) = sums[&id];
            // Other work may share the CPU, so only the order of magnitude is certain.
            assert!(run_ns > 200_000_000, "ran {run_ns} ns of 2 s");
            assert!(wait_ns > 200_000_000, "waited {wait_ns} ns of 2 s");
        }
    }

    #[test]
    fn a_switch_costs_more_than_nothing() {
        let _counting = programs::count().expect("needs root");
        let reference = Reference::attach(EMPTY).expect("needs root and BTF");
        let before = programs::loaded().expect("the list of programs");
        crate::load::thread_sleep(Duration::from_millis(200));
        let after = programs::loaded().expect("the list of programs");
        let ns = Cost::between(&before, &after, &reference.ids)
            .per_switch()
            .expect("switches");
        assert!((1.0..10_000.0).contains(&ns), "{ns} ns");
        let nobody = Cost::between(&before, &after, &[]);
        assert!(nobody.per_switch().is_err(), "no program, no figure");
    }
}
