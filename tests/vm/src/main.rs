//! PID 1 of a guest: mounts, runs its job, says how each step ended, powers off.

use std::{
    ffi::CString,
    fs::{self, File},
    io::Read,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use partywall_vm::{JOB_FILE, Job, SCRATCH, Said, Step};
use rustix::{
    mount::{MountFlags, mount},
    process::{Pid, WaitOptions, getpid, wait},
    system::{RebootCommand, finit_module, reboot},
};

/// Controllers that every cgroup below the root gets, as systemd and the kubelet arrange it.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

/// The scratch disk. NVMe and ext4 are built into all of Debian's cloud kernels, so that no modules are needed.
const DISK: &str = "/dev/nvme0n1";
const DISK_PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    if getpid() != Pid::INIT {
        eprintln!("partywall-vm-init: only as PID 1 of a virtual machine: it mounts, and powers off");
        return ExitCode::from(2);
    }
    let said = match job() {
        Ok(()) => Said::Done,
        Err(error) => Said::Failed {
            error: format!("{error:#}"),
        },
    };
    println!("{}", said.line());
    rustix::fs::sync();
    let _never_returns = reboot(RebootCommand::PowerOff);
    ExitCode::FAILURE
}

fn job() -> Result<()> {
    mounts()?;
    settings()?;
    let job: Job = serde_json::from_slice(&fs::read(JOB_FILE).context(JOB_FILE)?).context(JOB_FILE)?;
    for module in &job.modules {
        let file = File::open(module).with_context(|| module.clone())?;
        finit_module(&file, &CString::default(), 0).with_context(|| format!("module {module}"))?;
    }
    for (name, value) in &job.settings {
        fs::write(Path::new("/proc/sys").join(name), value).with_context(|| format!("{name} = {value}"))?;
    }
    scratch()?;
    println!(
        "{}",
        Said::Booted {
            release: rustix::system::uname().release().to_string_lossy().into_owned(),
            cpus: thread::available_parallelism().map_or(0, usize::from),
        }
        .line()
    );
    for step in &job.steps {
        println!("{}", run(step).line());
    }
    if job.shell {
        Command::new("/bin/sh").status().context("/bin/sh")?;
    }
    Ok(())
}

fn mounts() -> Result<()> {
    for (kind, target) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/tmp"),
        ("tmpfs", "/run"),
        ("cgroup2", "/sys/fs/cgroup"),
        ("bpf", "/sys/fs/bpf"),
        ("tracefs", "/sys/kernel/tracing"),
        ("securityfs", "/sys/kernel/security"),
    ] {
        // Below /sys the kernel makes them.
        if !target.starts_with("/sys/") {
            fs::create_dir_all(target).with_context(|| target.to_owned())?;
        }
        mount(kind, target, kind, MountFlags::empty(), None)
            .with_context(|| format!("mount {kind} at {target}"))?;
    }
    // The v2 root: what the kernel lacks is left out, and shows in what is asked of the guest.
    let root = Path::new("/sys/fs/cgroup");
    let offered = fs::read_to_string(root.join("cgroup.controllers")).context("cgroup.controllers")?;
    for controller in CONTROLLERS {
        if offered.split_whitespace().any(|name| name == controller) {
            fs::write(root.join("cgroup.subtree_control"), format!("+{controller}"))
                .with_context(|| format!("controller {controller}"))?;
        }
    }
    Ok(())
}

/// Waits for the disk, which the kernel looks for while it starts us, and mounts it.
fn scratch() -> Result<()> {
    let deadline = Instant::now() + DISK_PATIENCE;
    while !Path::new(DISK).exists() {
        if Instant::now() > deadline {
            bail!("no {DISK} within {} s", DISK_PATIENCE.as_secs());
        }
        #[allow(
            clippy::disallowed_methods,
            reason = "no runtime here that sleeping could block"
        )]
        thread::sleep(Duration::from_millis(5));
    }
    fs::create_dir_all(SCRATCH).context(SCRATCH)?;
    mount(DISK, SCRATCH, "ext4", MountFlags::NOATIME, None)
        .with_context(|| format!("mount {DISK} at {SCRATCH}"))
}

/// The daemons talk over loopback, and the kernel is to say what our programs cost.
fn settings() -> Result<()> {
    let status = Command::new("/bin/ip").args(["link", "set", "lo", "up"]).status();
    if !status.context("/bin/ip")?.success() {
        bail!("the loopback interface cannot be brought up");
    }
    fs::write("/proc/sys/kernel/bpf_stats_enabled", "1").context("kernel.bpf_stats_enabled")
}

fn run(step: &Step) -> Said {
    let began = Instant::now();
    let (code, output) = match run_within(step) {
        Ok((status, output)) => {
            if let Some(signal) = status.signal() {
                println!("{}: killed by signal {signal}", step.name);
            }
            (status.code(), output)
        }
        Err(error) => {
            println!("{}: {error:#}", step.name);
            (None, String::new())
        }
    };
    Said::Ended {
        step: step.name.clone(),
        code,
        seconds: began.elapsed().as_secs_f64(),
        output: step.captured.then_some(output),
        file: step.file.as_ref().and_then(|path| fs::read_to_string(path).ok()),
    }
}

fn run_within(step: &Step) -> Result<(ExitStatus, String)> {
    let mut child = Command::new(&step.program)
        .args(&step.args)
        .envs(&step.env)
        .stdin(Stdio::null())
        .stdout(if step.captured {
            Stdio::piped()
        } else {
            Stdio::inherit()
        })
        .spawn()
        .with_context(|| step.program.clone())?;
    // Read beside: a full pipe would block the program.
    let reader = child.stdout.take().map(|mut stdout| {
        thread::spawn(move || {
            let mut text = String::new();
            let _as_far_as_it_is_text = stdout.read_to_string(&mut text);
            text
        })
    });
    let status = wait_within(&mut child, step.limit)?;
    let output = reader.map(|reader| reader.join().unwrap_or_default());
    Ok((status, output.unwrap_or_default()))
}

/// Waits for `child`, and for every orphan meanwhile: PID 1 is everybody's parent in the end.
fn wait_within(child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    let began = Instant::now();
    let pid = Pid::from_child(child);
    let mut killed = false;
    loop {
        while let Some((ended, status)) = wait(WaitOptions::NOHANG).ok().flatten() {
            if ended == pid {
                if killed {
                    bail!("not done within {} s, killed", limit.as_secs());
                }
                return Ok(ExitStatus::from_raw(status.as_raw()));
            }
        }
        if began.elapsed() > limit && !killed {
            child.kill()?;
            killed = true;
        }
        #[allow(
            clippy::disallowed_methods,
            reason = "no runtime here that sleeping could block"
        )]
        thread::sleep(Duration::from_millis(5));
    }
}
