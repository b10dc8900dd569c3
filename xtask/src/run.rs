//! Running other programs: what is run is printed, and a failure names it.

use std::process::{Command, Output, Stdio};

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
