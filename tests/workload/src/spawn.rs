//! Starting a worker inside its cgroup.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use rustix::{
    process::{Signal, set_parent_process_death_signal},
    thread::{CpuSet, Timespec, nanosleep, sched_setaffinity},
};

use crate::{Error, Work, worker::MARK};

/// Work that runs. Stopped when dropped.
#[derive(Debug)]
pub struct WorkHandle {
    child: Child,
}

/// The first two fields of `/proc/PID/task/*/schedstat`, summed over a worker's threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedStat {
    pub run_ns: u64,
    /// The kernel's `run_delay`.
    pub wait_ns: u64,
}

impl WorkHandle {
    /// The worker's process id, for /proc.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The kernel's own account of the worker's threads.
    pub fn sched_stat(&self) -> Result<SchedStat, Error> {
        let dir = PathBuf::from(format!("/proc/{}/task", self.pid()));
        let mut sum = SchedStat::default();
        for thread in fs::read_dir(&dir).map_err(Error::io("list", &dir))?.flatten() {
            let path = thread.path().join("schedstat");
            let stat = fs::read_to_string(&path).map_err(Error::io("read", path))?;
            let mut fields = stat.split_whitespace().map(|field| field.parse().unwrap_or(0));
            sum.run_ns += fields.next().unwrap_or(0);
            sum.wait_ns += fields.next().unwrap_or(0);
        }
        Ok(sum)
    }

    /// How the worker ended, where it did so by itself: always a fault.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Kills the worker and waits until it is gone.
    pub fn stop(self) {}
}

impl Drop for WorkHandle {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Starts `work` in the cgroup at `cgroup`, on `cpus` only where given.
///
/// The child enters the cgroup before it executes anything but this function's last lines. A slice counts for the cgroup in
/// which it began, so the child ends one before it enters and another right after: neither account of its CPU time mixes the
/// parent's cgroup with its own. It then waits for a byte.
#[allow(unsafe_code, reason = "pre_exec is the only place between fork and exec")]
pub(crate) fn spawn(work: &Work, cgroup: &Path, cpus: Option<&[usize]>) -> Result<WorkHandle, Error> {
    let affinity = cpus.map(cpu_set).transpose()?;
    let procs_path = cgroup.join("cgroup.procs");
    let procs = OpenOptions::new()
        .write(true)
        .open(&procs_path)
        .map_err(Error::io("open", procs_path))?;

    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("partywall-work")
        .arg(MARK)
        .args(work.to_args())
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; these are plain system calls on
    // values made before the fork, without allocation or locks.
    unsafe {
        command.pre_exec(move || {
            end_slice();
            rustix::io::write(&procs, b"0")?;
            end_slice();
            // After the cgroup: the wait for a busy CPU to be pinned to is the pod's own.
            if let Some(set) = &affinity {
                sched_setaffinity(None, set)?;
            }
            Ok(())
        });
    }
    let failed = |source: io::Error| Error::Spawn {
        cgroup: cgroup.to_owned(),
        source,
    };
    let child = command.spawn().map_err(failed)?;
    let mut handle = WorkHandle { child };
    // The pipe stays open for as long as the handle lives: its end tells the worker that this process died.
    if let Some(stdin) = handle.child.stdin.as_mut() {
        stdin.write_all(b"!").map_err(failed)?;
    }
    Ok(handle)
}

/// Sleeps, so that the scheduler switches and the slice is over. Long enough that the timer cannot fire before the switch: of 50,000
/// sleeps of 1 ns, 15 did not switch at all.
fn end_slice() {
    let sure = Timespec {
        tv_sec: 0,
        tv_nsec: 1_000_000,
    };
    let _interrupted = nanosleep(&sure);
}

fn cpu_set(cpus: &[usize]) -> Result<CpuSet, Error> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        if cpu >= CpuSet::MAX_CPU {
            return Err(Error::BadCpu {
                cpu,
                online: CpuSet::MAX_CPU,
            });
        }
        set.set(cpu);
    }
    Ok(set)
}

/// Has `command`'s process killed when the calling *thread* ends: for daemons started from a thread that lives as long as
/// the program, so that they do not outlive a program that is killed.
#[allow(unsafe_code, reason = "pre_exec is the only place between fork and exec")]
pub fn end_with_this_thread(command: &mut Command) {
    // SAFETY: one plain system call, async-signal-safe, without allocation or locks.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
}
