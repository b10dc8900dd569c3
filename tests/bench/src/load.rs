//! What is made to run while something is measured.

use std::{
    io::Write as _,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use partywall_workload::{Pod, PodSpec, cgroup2_mount};
use rustix::{
    process::{Signal, set_parent_process_death_signal},
    thread::{CpuSet, sched_setaffinity, sched_yield},
};

/// The last CPU: interrupts and daemons prefer the first.
pub(crate) fn quiet_cpu() -> usize {
    thread::available_parallelism().map_or(0, |cpus| cpus.get() - 1)
}

/// Microseconds that `perf bench sched pipe` takes for one operation (two switches), both ends pinned to one CPU.
pub(crate) fn pipe_microseconds(operations: u32) -> Result<f64> {
    let mut command = Command::new("perf");
    command
        .args(["bench", "--format=simple", "sched", "pipe", "--loop"])
        .arg(operations.to_string());
    let output = pinned(command, quiet_cpu())?;
    // The simple format is the total in seconds, alone.
    let text = String::from_utf8_lossy(&output);
    let seconds = text.lines().find_map(|line| line.trim().parse::<f64>().ok());
    let seconds = seconds.with_context(|| format!("perf printed no seconds: {text}"))?;
    Ok(seconds * 1e6 / f64::from(operations))
}

/// Runs a command to its end on one CPU. A child inherits the affinity of the thread that starts it.
fn pinned(mut command: Command, cpu: usize) -> Result<Vec<u8>> {
    let run = move || -> Result<Vec<u8>> {
        pin(cpu)?;
        let output = command
            .stdin(Stdio::null())
            .output()
            .context("cannot start perf (Debian: linux-perf)")?;
        if !output.status.success() {
            bail!(
                "{command:?}: {}\n{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(output.stdout)
    };
    thread::spawn(run)
        .join()
        .map_err(|_| anyhow!("the thread that runs perf died"))?
}

fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("cannot pin to CPU {cpu}"))
}

/// Pods whose one process each gives up the CPU as soon as it has it: at any time all but one of them wait.
pub(crate) struct Turns {
    // Fields drop in this order: the processes end before their cgroups go.
    takers: Vec<Taker>,
    #[allow(dead_code, reason = "held, not used: dropping them removes the cgroups")]
    pods: Vec<Pod>,
}

struct Taker(Child);

impl Drop for Taker {
    fn drop(&mut self) {
        let _already_gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

impl Turns {
    pub(crate) fn start(count: usize) -> Result<Self> {
        let mount = cgroup2_mount()?;
        let mut turns = Self {
            takers: Vec::new(),
            pods: Vec::new(),
        };
        for index in 0..count {
            let pod = Pod::create(PodSpec::new("bench", format!("turn-{index}")), &mount)?;
            let child = Command::new("/proc/self/exe")
                .arg("take-turns")
                .arg(pod.container_cgroup())
                .arg(quiet_cpu().to_string())
                .stdin(Stdio::piped())
                .spawn()
                .context("cannot start a process that takes turns")?;
            turns.takers.push(Taker(child));
            turns.pods.push(pod);
        }
        // They begin together: the first would otherwise compete with the starting of the last.
        for Taker(child) in &mut turns.takers {
            child
                .stdin
                .take()
                .context("no pipe to a process that takes turns")?
                .write_all(b"!")?;
        }
        thread_sleep(Duration::from_millis(500));
        Ok(turns)
    }
}

/// The process behind [`Turns`]. Ends when its parent does.
pub(crate) fn take_turns(cgroup: &Path, cpu: usize) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    std::fs::write(cgroup.join("cgroup.procs"), "0")
        .with_context(|| format!("cannot enter {}", cgroup.display()))?;
    let mut start = [0];
    std::io::Read::read_exact(&mut std::io::stdin(), &mut start)?;
    pin(cpu)?;
    loop {
        sched_yield();
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "no runtime here that sleeping could block"
)]
pub(crate) fn thread_sleep(duration: Duration) {
    thread::sleep(duration);
}
