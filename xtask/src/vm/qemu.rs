//! Boots one guest in QEMU and listens to its console. Software emulation: right for correctness, never for overhead.

use std::{
    ffi::OsString,
    fs::File,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use partywall_vm::Said;

use super::{
    debian::{self, Suites},
    target::{Arch, Machine},
};
use crate::{paths, run, tools};

/// Bookworm's own 7.2 ends guests with double faults at random: 4 of 24 boots. 10.0 ended none of 32.
const OLDEST: u32 = 10;

/// Lines that may wait to be read; the console itself waits then.
const CONSOLE_LINES: usize = 1024;

/// Lines of the console that a failure shows.
const TAIL: usize = 40;

pub(crate) struct Guest<'a> {
    pub(crate) arch: Arch,
    pub(crate) kernel: &'a Path,
    pub(crate) initramfs: &'a Path,
    /// A disk image with a file system: what the guest may write to.
    pub(crate) disk: &'a Path,
    /// Whether the kernel measures pressure.
    pub(crate) psi: bool,
    pub(crate) lockdown: Option<&'a str>,
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u64,
    /// Everything that the guest prints.
    pub(crate) log: &'a Path,
    /// Boot, all steps and power-off.
    pub(crate) limit: Duration,
}

/// Installs QEMU where it is missing or too old.
pub(crate) fn install(arch: Arch) -> Result<()> {
    let Machine { program, package, .. } = arch.machine();
    if version(program).is_some_and(|version| version >= OLDEST) {
        return Ok(());
    }
    let codename = debian::codename()?;
    if codename == "bookworm" {
        if !tools::is_root() {
            bail!(
                "needed to boot kernels: {package} {OLDEST} or newer, which is in bookworm-backports: run this command as root once"
            );
        }
        let backports = format!("{codename}-backports");
        let suites = Suites::open("backports", &[&codename, &backports])?;
        tools::apt_install(
            || suites.apt("apt-get"),
            &["--target-release", &backports, package],
        )?;
    } else {
        tools::debian_packages(&[package], "boot kernels")?;
    }
    match version(program) {
        Some(version) if version >= OLDEST => Ok(()),
        found => bail!(
            "needed to boot kernels: {program} {OLDEST} or newer; found {found:?} after installing {package}"
        ),
    }
}

fn version(program: &str) -> Option<u32> {
    let text = run::captured(Command::new(program).arg("--version")).ok()?;
    let number = text
        .split_whitespace()
        .skip_while(|word| *word != "version")
        .nth(1)?;
    number.split('.').next()?.parse().ok()
}

impl Guest<'_> {
    fn command(&self) -> Command {
        let machine = self.arch.machine();
        let mut command = Command::new(machine.program);
        command
            .args(["-accel", "tcg,thread=multi"])
            .args(machine.args)
            .args(["-m", &self.memory_mib.to_string(), "-smp", &self.cpus.to_string()])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .args(["-serial", "stdio"])
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initramfs)
            .args([
                "-append",
                // A kernel that panics or warns of itself ends at once, and the guest with it.
                &format!(
                    "console={} quiet panic=-1 oops=panic psi={}{} rdinit=/init",
                    machine.console,
                    u8::from(self.psi),
                    self.lockdown
                        .map(|mode| format!(" lockdown={mode}"))
                        .unwrap_or_default()
                ),
            ]);
        // What a guest writes goes when it ends: nothing needs to reach a disk of ours.
        let mut drive = OsString::from("if=none,id=scratch,format=raw,cache=unsafe,file=");
        drive.push(self.disk);
        command
            .arg("-drive")
            .arg(drive)
            .args(["-device", "nvme,serial=scratch,drive=scratch"]);
        command
    }

    /// Boots with the console on this terminal, until the guest powers off.
    pub(crate) fn interactive(&self) -> Result<()> {
        let mut command = self.command();
        eprintln!("+ {}", run::shown(&command));
        let status = command.status()?;
        if !status.success() {
            bail!("{}: {status}", self.arch.machine().program);
        }
        Ok(())
    }

    /// Boots, hands each thing that the guest says to `heard`, and returns when the guest has powered off.
    pub(crate) fn run(&self, mut heard: impl FnMut(Said)) -> Result<()> {
        let mut command = self.command();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| run::shown(&command))?;
        let console = child.stdout.take().context("no console")?;
        let mut log = File::create(self.log).with_context(|| self.log.display().to_string())?;
        let (lines, received) = mpsc::sync_channel(CONSOLE_LINES);
        let reader = thread::spawn(move || {
            let mut console = BufReader::new(console);
            let mut line = Vec::new();
            while console
                .read_until(b'\n', &mut line)
                .is_ok_and(|length| length > 0)
            {
                let text = String::from_utf8_lossy(&line).into_owned();
                line.clear();
                if lines.send(text).is_err() {
                    return;
                }
            }
        });

        let deadline = Instant::now() + self.limit;
        let mut tail = std::collections::VecDeque::with_capacity(TAIL);
        let mut ended = Err("the guest ended before its job did".to_owned());
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match received.recv_timeout(left) {
                Ok(line) => {
                    log.write_all(line.as_bytes())?;
                    match Said::parse(&line) {
                        Some(Ok(Said::Done)) => ended = Ok(()),
                        Some(Ok(Said::Failed { error })) => ended = Err(error),
                        Some(Ok(said)) => heard(said),
                        Some(Err(error)) => ended = Err(format!("the guest cannot be understood: {error}")),
                        None => {
                            if tail.len() == TAIL {
                                tail.pop_front();
                            }
                            tail.push_back(line.trim_end().to_owned());
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    ended = Err(format!("not done within {} s", self.limit.as_secs()));
                    break;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        if ended.is_err() {
            child.kill()?;
        }
        let status = child.wait()?;
        drop(received);
        let _no_result = reader.join();
        if let Err(error) = ended {
            let tail: Vec<String> = tail.into_iter().collect();
            bail!(
                "{error}\nthe last lines of {}:\n  {}",
                paths::shown(self.log),
                tail.join("\n  ")
            );
        }
        if !status.success() {
            bail!("{}: {status}", self.arch.machine().program);
        }
        Ok(())
    }
}
