//! Cgroups made and removed by the thousand: the agent must neither grow, nor mix them up, nor keep any.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use partywall_workload::{Pod, PodSpec, Work, WorkHandle};
use serde::Serialize;
use tokio::time::{sleep, sleep_until};

use crate::{
    bpf::Objects,
    intake::Intake,
    processes::{Binaries, Daemon},
    run::{boot_ns, cpu_request},
};

/// Each pod is busy for this long, once: enough to tell pods apart, little enough for the machine.
const BUSY_MS: f64 = 5.0;
/// A pod lives for this long: shorter than a reporting interval.
const LIFE: Duration = Duration::from_millis(300);
/// What a pod's process may add after it was reaped, and a tick on which the two accounts may disagree.
const TOLERANCE_NS: u64 = 1_000_000;
/// What the resident set may grow by from the second fifth of the run to its last: the allocator's own noise.
const GROWTH_BYTES: u64 = 1 << 20;
const REPORT_PATIENCE: Duration = Duration::from_secs(5);
/// Removed cgroups wait out their quarantine before their slots are given back.
const GIVE_BACK_PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Serialize)]
pub(crate) struct Churned {
    cgroups: usize,
    seconds: f64,
    /// Pods of which no report ever spoke.
    unreported: usize,
    /// Pods whose reported run time is not what the kernel says.
    wrong: Vec<String>,
    /// Pods that were reported and never made.
    invented: usize,
    resident_bytes_early: u64,
    resident_bytes_late: u64,
    map_bytes_early: u64,
    map_bytes_late: u64,
    slots_before: usize,
    slots_after: usize,
    /// Removed cgroups that still have a slot.
    kept: usize,
    faults: Vec<String>,
    losses: Vec<String>,
}

impl Churned {
    pub(crate) fn is_right(&self) -> bool {
        self.failings().is_empty()
    }

    fn failings(&self) -> Vec<&'static str> {
        let checks = [
            (self.unreported == 0, "pods that no report spoke of"),
            (self.wrong.is_empty(), "pods whose run time is not the kernel's"),
            (self.invented == 0, "reported pods that were never made"),
            (self.kept == 0, "slots kept by removed cgroups"),
            (self.faults.is_empty(), "reports that contradict themselves"),
            (
                self.resident_bytes_late <= self.resident_bytes_early + GROWTH_BYTES,
                "a resident set that grew by more than 1 MiB",
            ),
            (self.map_bytes_late <= self.map_bytes_early, "maps that grew"),
        ];
        checks
            .into_iter()
            .filter_map(|(right, failing)| (!right).then_some(failing))
            .collect()
    }

    pub(crate) fn lines(&self) -> String {
        let mib = |bytes: u64| crate::measure::nanoseconds(bytes) / 1_048_576.0;
        let mut text = format!(
            "churn: {} cgroups in {:.0} s; {} unreported, {} wrong, {} invented; resident {:.1} → {:.1} MiB, \
             maps {:.1} → {:.1} MiB; slots {} → {}, {} kept by removed cgroups",
            self.cgroups,
            self.seconds,
            self.unreported,
            self.wrong.len(),
            self.invented,
            mib(self.resident_bytes_early),
            mib(self.resident_bytes_late),
            mib(self.map_bytes_early),
            mib(self.map_bytes_late),
            self.slots_before,
            self.slots_after,
            self.kept,
        );
        for line in self.wrong.iter().take(10).chain(&self.faults).chain(&self.losses) {
            text.push_str("\n  ");
            text.push_str(line);
        }
        for failing in self.failings() {
            text.push_str("\n  wrong: ");
            text.push_str(failing);
        }
        text
    }
}

struct Living {
    pod: Pod,
    work: WorkHandle,
    until: Instant,
}

/// A pod that is gone: what the kernel last said of it.
struct Gone {
    uid: String,
    run_ns: u64,
    cgroup_ids: [u64; 2],
}

pub(crate) async fn churn(
    binaries: &Binaries,
    cgroup_mount: &Path,
    cgroups: usize,
    period: Duration,
    dir: &Path,
) -> Result<Churned> {
    // A pod is two cgroups: its slice and its container's scope.
    let pods = cgroups.div_ceil(2).max(1);
    let every = period / u32::try_from(pods).context("--cgroups")?;
    let intake = Intake::start(None).await?;
    let agent = Daemon::agent(binaries, intake.address, dir).await?;
    intake.report_since(boot_ns(), REPORT_PATIENCE).await?;
    let objects = Objects::of(agent.pid())?;
    let slots_before = objects.cgroup_ids(SLOT_MAP)?.len();

    let start = Instant::now();
    let mut samples = Vec::new();
    let mut living: Vec<Living> = Vec::new();
    let mut gone = Vec::new();
    for number in 0..pods {
        let due = start + every * u32::try_from(number).unwrap_or(u32::MAX);
        sleep_until(due.into()).await;
        bury(&mut living, &mut gone, Instant::now())?;
        let spec = PodSpec {
            requests: cpu_request(0.1),
            ..PodSpec::new("churn", format!("pod-{number}"))
        };
        let pod = Pod::create(spec, cgroup_mount)?;
        let work = pod.start(
            &Work::Duty {
                busy_ms: BUSY_MS,
                idle_ms: 60_000.0,
                threads: 1,
            },
            None,
        )?;
        living.push(Living {
            pod,
            work,
            until: Instant::now() + LIFE,
        });
        let map_bytes = intake.record().cost.as_ref().map_or(0, |cost| cost.map_bytes);
        samples.push((resident_bytes(agent.pid())?, map_bytes));
        if number % (pods / 10).max(1) == 0 {
            eprintln!("churn: {number} of {pods} pods, {} s", start.elapsed().as_secs());
        }
    }
    sleep(LIFE).await;
    bury(&mut living, &mut gone, Instant::now())?;
    let seconds = start.elapsed().as_secs_f64();
    intake.report_since(boot_ns(), REPORT_PATIENCE).await?;

    let ids: BTreeSet<u64> = gone.iter().flat_map(|pod| pod.cgroup_ids).collect();
    let deadline = Instant::now() + GIVE_BACK_PATIENCE;
    let (slots_after, kept) = loop {
        let slots = objects.cgroup_ids(SLOT_MAP)?;
        let kept = slots.intersection(&ids).count();
        if kept == 0 || Instant::now() > deadline {
            break (slots.len(), kept);
        }
        sleep(Duration::from_secs(1)).await;
    };

    agent.stop().await?;
    let record = intake.record();
    let known: BTreeSet<&str> = gone.iter().map(|pod| pod.uid.as_str()).collect();
    let reported: BTreeSet<&str> = record.pod_uids().into_iter().collect();
    let wrong = gone
        .iter()
        .filter(|pod| reported.contains(pod.uid.as_str()))
        .filter_map(|pod| {
            let agent_ns = record.pod(&pod.uid).run_ns;
            (agent_ns.abs_diff(pod.run_ns) > TOLERANCE_NS).then(|| {
                format!(
                    "pod {}: {agent_ns} ns reported, {} ns by cpu.stat",
                    pod.uid, pod.run_ns
                )
            })
        });
    let (resident_bytes_early, map_bytes_early) = largest(&samples, 1);
    let (resident_bytes_late, map_bytes_late) = largest(&samples, 4);
    Ok(Churned {
        cgroups: 2 * gone.len(),
        seconds,
        unreported: known.difference(&reported).count(),
        wrong: wrong.collect(),
        invented: reported.difference(&known).count(),
        resident_bytes_early,
        resident_bytes_late,
        map_bytes_early,
        map_bytes_late,
        slots_before,
        slots_after,
        kept,
        faults: record.faults.clone(),
        losses: record
            .losses
            .iter()
            .filter(|loss| loss.count > 0)
            .map(|loss| {
                format!(
                    "loss: {} {} {}: {}",
                    loss.count, loss.unit, loss.stage, loss.reason
                )
            })
            .collect(),
    })
}

/// The kernel side's map from cgroup id to slot.
const SLOT_MAP: &str = "SLOT_OF";

/// Removes the pods whose time is over.
fn bury(living: &mut Vec<Living>, gone: &mut Vec<Gone>, now: Instant) -> Result<()> {
    let over = living.partition_point(|pod| pod.until <= now);
    for Living { pod, work, .. } in living.drain(..over) {
        let id = |path: &Path| fs::metadata(path).map(|metadata| metadata.ino());
        // The kernel's figure is read when nobody is left who could add to it.
        work.stop();
        gone.push(Gone {
            uid: pod.spec().uid.clone(),
            run_ns: u64::try_from(pod.cpu_used()?.as_nanos()).unwrap_or(u64::MAX),
            cgroup_ids: [id(pod.cgroup())?, id(pod.container_cgroup())?],
        });
        pod.remove()?;
    }
    Ok(())
}

pub(crate) fn resident_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS")?;
    Ok(kib * 1024)
}

/// The largest of each figure in fifth number `fifth` (from 0) of the samples.
fn largest(samples: &[(u64, u64)], fifth: usize) -> (u64, u64) {
    let length = samples.len().div_ceil(5);
    let part = samples.iter().skip(fifth * length).take(length);
    part.fold((0, 0), |(resident, maps), sample| {
        (resident.max(sample.0), maps.max(sample.1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifths_cover_all_samples() {
        let samples: Vec<(u64, u64)> = (0..11).map(|n| (n, 100 - n)).collect();
        assert_eq!(largest(&samples, 1), (5, 97));
        assert_eq!(largest(&samples, 3), (10, 91));
    }

    #[test]
    fn this_process_is_resident() {
        assert!(resident_bytes(std::process::id()).unwrap() > 100_000);
    }
}
