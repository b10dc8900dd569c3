//! Running other programs: what is run is printed, and a failure names it.

use std::{
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// The command line as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Prints the command, runs it with its output going to the terminal, and fails unless it exits with 0.
pub(crate) fn streamed(command: &mut Command) -> Result<()> {
    let line = shown(command);
    eprintln!("+ {line}");
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start: {line}"))?;
    if !status.success() {
        bail!("{line}: {status}");
    }
    Ok(())
}

/// Times that a fetch is tried.
const FETCHES: u32 = 3;

/// [`within`] `limit`, and again when it fails: for commands that only fetch, and a mirror that stalls.
pub(crate) fn fetched(command: &mut Command, limit: Duration) -> Result<()> {
    let mut tries = 1;
    loop {
        match within(command, limit) {
            Err(error) if tries < FETCHES => eprintln!("{error:#}: trying again"),
            result => return result,
        }
        tries += 1;
    }
}

/// Like [`streamed`], and ends the program when it takes longer than `limit`: politely first, so that it can clean up.
pub(crate) fn within(command: &mut Command, limit: Duration) -> Result<()> {
    let line = shown(command);
    eprintln!("+ {line}");
    let mut child = command
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start: {line}"))?;
    let Some(status) = wait(&mut child, limit)? else {
        terminate(&child);
        if wait(&mut child, Duration::from_secs(20))?.is_none() {
            child.kill()?;
            child.wait()?;
        }
        bail!("{line}: not done within {} s, ended", limit.as_secs());
    };
    if !status.success() {
        bail!("{line}: {status}");
    }
    Ok(())
}

#[allow(
    clippy::disallowed_methods,
    reason = "no runtime here that sleeping could block"
)]
fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if began.elapsed() >= limit {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn terminate(child: &Child) {
    let Ok(pid) = libc::pid_t::try_from(child.id()) else {
        return;
    };
    // SAFETY: no memory is involved; the child is not reaped yet, so its pid is still its own.
    #[expect(unsafe_code, reason = "std has no SIGTERM")]
    unsafe {
        libc::kill(pid, libc::SIGTERM);
    }
}

/// Runs the command silently and returns what it printed on standard output; its standard error is in the error.
pub(crate) fn captured(command: &mut Command) -> Result<String> {
    let line = shown(command);
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start: {line}"))?;
    if !status.success() {
        bail!(
            "{line}: {status}\n{}",
            String::from_utf8_lossy(&stderr).trim_end()
        );
    }
    String::from_utf8(stdout).with_context(|| format!("{line}: output is not UTF-8"))
}

/// Whether the command can be started and exits with 0. Prints nothing.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
