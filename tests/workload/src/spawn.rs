//! Starting a worker inside its cgroup.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    process::{Pid, Signal, set_parent_process_death_signal},
    thread::{CpuSet, sched_setaffinity},
};

use crate::{
    Error, PodLink, Traffic, Work, oom, scratch, traffic,
    worker::{MARK, STAY},
};

/// How long a worker may take to start.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// And to end, once asked: it may wait for answers, and for a CPU.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// Work that runs. Stopped when dropped.
#[derive(Debug)]
pub struct WorkHandle {
    child: Child,
    /// What the worker had used before it entered its cgroup.
    before: SchedStat,
    /// What it says of what it sent, where its work is of the network.
    traffic: Option<File>,
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

    /// The kernel's own account of the worker's threads since it entered its cgroup.
    pub fn sched_stat(&self) -> Result<SchedStat, Error> {
        let whole = self.whole_sched_stat()?;
        Ok(SchedStat {
            run_ns: whole.run_ns.saturating_sub(self.before.run_ns),
            wait_ns: whole.wait_ns.saturating_sub(self.before.wait_ns),
        })
    }

    fn whole_sched_stat(&self) -> Result<SchedStat, Error> {
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

    /// Returns when the worker is off its CPU and waits for its standard input, as it does until it is told to begin.
    fn wait_until_asleep(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + START_PATIENCE;
        // The kernel answers `running` until the task is switched out, and then with the system call's number and arguments.
        let path = format!("/proc/{}/syscall", self.pid());
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(io::Error::other(format!("the worker ended at once: {status}")));
            }
            let call = fs::read_to_string(&path)?;
            let mut fields = call.split_whitespace();
            if fields.next().and_then(|number| number.parse().ok()) == Some(libc::SYS_read)
                && fields.next() == Some("0x0")
            {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("the worker does not wait for its input: {}", call.trim()),
                ));
            }
            pause();
        }
    }

    /// What it has sent and received so far; `None`: its work is not of the network. Exact once the worker has ended, and
    /// then [`WorkHandle::finish`] has it.
    pub fn traffic(&self) -> Option<Traffic> {
        traffic::read(self.traffic.as_ref()?)
    }

    /// Tells the worker to begin nothing more. Network work then waits for answers for a fraction of a second, and ends.
    pub fn ask_to_end(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Stops the worker and gives what it sent and received in all. Work that is not of the network is killed.
    pub fn finish(mut self) -> Option<Traffic> {
        self.traffic.as_ref()?;
        self.ask_to_end();
        let deadline = Instant::now() + END_PATIENCE;
        while self.ended().is_none() && Instant::now() < deadline {
            pause();
        }
        // The last that it said: if it hangs, it is to say nothing more.
        let _already_gone = self.child.kill();
        let _reaped = self.child.wait();
        self.traffic()
    }

    /// Returns when network work listens, or is about to send.
    fn wait_until_set_up(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + START_PATIENCE;
        while self.traffic.is_some() && self.traffic().is_none() {
            if let Some(status) = self.child.try_wait()? {
                let why = self.traffic.as_ref().map(traffic::failure).unwrap_or_default();
                return Err(io::Error::other(format!("it ended at once: {status}: {why}")));
            }
            if Instant::now() > deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            pause();
        }
        Ok(())
    }

    /// How the worker ended, where it did so by itself: a fault, unless its memory ran out.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Kills the worker and waits until it is gone.
    pub fn stop(self) {}
}

#[allow(
    clippy::disallowed_methods,
    reason = "a worker starts and ends within milliseconds; forking it has blocked for as long"
)]
fn pause() {
    thread::sleep(Duration::from_micros(200));
}

impl Drop for WorkHandle {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Starts `work` in the cgroup at `cgroup`, in `network` and on `cpus` only where given, under this `oom_score_adj`.
///
/// The worker enters the cgroup while it sleeps, as a container runtime moves its child: a slice in which a task changes
/// its cgroup is counted by the kernel for the one in which it ends, by the switches for the one in which it began. Its
/// start-up is the parent's.
pub(crate) fn spawn(
    work: &Work,
    cgroup: &Path,
    network: Option<&PodLink>,
    cpus: Option<&[usize]>,
    oom_score: i32,
) -> Result<WorkHandle, Error> {
    if let Work::FileCache { .. } = work {
        scratch::check(&scratch::scratch_dir())?;
    }
    let affinity = cpus.map(cpu_set).transpose()?;
    let failed = |source: io::Error| Error::Spawn {
        cgroup: cgroup.to_owned(),
        source,
    };
    let counts = work
        .is_of_network()
        .then(traffic::file)
        .transpose()
        .map_err(failed)?;
    let stdout = match &counts {
        Some(file) => file.try_clone().map_err(failed)?.into(),
        None => Stdio::null(),
    };
    let namespace = network.map_or_else(|| STAY.into(), |link| link.namespace().path());
    let child = Command::new("/proc/self/exe")
        .arg0("partywall-work")
        .arg(MARK)
        .arg(namespace)
        .args(work.to_args())
        .stdin(Stdio::piped())
        .stdout(stdout)
        .spawn()
        .map_err(failed)?;
    let mut handle = WorkHandle {
        child,
        before: SchedStat::default(),
        traffic: counts,
    };
    handle.wait_until_asleep().map_err(failed)?;
    handle.before = handle.whole_sched_stat()?;
    oom::set(&handle.pid().to_string(), oom_score)?;
    let procs = cgroup.join("cgroup.procs");
    fs::write(&procs, handle.pid().to_string()).map_err(Error::io("write", procs))?;
    if let Some(set) = &affinity {
        sched_setaffinity(Some(Pid::from_child(&handle.child)), set).map_err(|error| failed(error.into()))?;
    }
    // The pipe stays open for as long as the handle lives: its end tells the worker that this process died.
    if let Some(stdin) = handle.child.stdin.as_mut() {
        stdin.write_all(b"!").map_err(failed)?;
    }
    handle.wait_until_set_up().map_err(failed)?;
    Ok(handle)
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
