//! What the binary does with what was typed.

use std::io::{ErrorKind, IsTerminal as _, Write};
use std::process::ExitCode;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;
use tracing_subscriber::EnvFilter;

use crate::check;
use crate::config::{Args, CheckArgs, Command, Config, LogFormat, RunArgs};
use crate::run;

/// Runs the command. Errors go to stderr, one line each.
pub fn execute(args: Args) -> ExitCode {
    let outcome = match args.into_command() {
        Command::Run(args) => run(args),
        Command::Check(args) => check(&args),
    };
    outcome.unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "partywall-agent: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    log_to_stderr(args.log_format);
    let config = Config::try_from(args)?;
    // One worker: the reading pass is short, and the agent has half a percent of a core.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("runtime")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
        let running = run::start(config).await?;
        tokio::select! {
            _ = terminate.recv() => info!("SIGTERM: stopping"),
            _ = interrupt.recv() => info!("SIGINT: stopping"),
        }
        running.stop().await?;
        Ok(ExitCode::SUCCESS)
    })
}

fn check(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let report = check::run(args);
    let text = if args.json {
        serde_json::to_string_pretty(&report)? + "\n"
    } else {
        report.table()
    };
    print_to(std::io::stdout(), &text)?;
    Ok(if report.able {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A reader that went away (`| head`) has what it wanted; a disk that is full has not.
fn print_to(mut out: impl Write, text: &str) -> anyhow::Result<()> {
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("writing to stdout"),
        _ => Ok(()),
    }
}

fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::fs::OpenOptions;

    use super::*;

    #[test]
    fn a_full_disk_is_a_failure_and_a_reader_that_left_is_none() {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        // As stdout does, which keeps what no line break ends.
        let error = print_to(std::io::LineWriter::new(full), "cut").unwrap_err();
        assert!(
            format!("{error:#}").contains("writing to stdout: No space left"),
            "{error:#}"
        );
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        print_to(writer, "cut").unwrap();
    }
}
