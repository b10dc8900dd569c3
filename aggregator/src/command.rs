//! What the binary does with what was typed.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use partywall_aggregator_core::policy::Policy;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;
use tracing_subscriber::EnvFilter;

use crate::config::{Args, Command, Config, LogFormat, RunArgs};
use crate::{policy_file, run};

/// Runs the command. Errors go to stderr, one line each.
pub fn execute(args: Args) -> ExitCode {
    let outcome = match args.into_command() {
        Command::Run(args) => run(args),
        Command::PolicyCheck { file } => policy_check(&file),
        Command::PolicyDefault => print(&Policy::default_yaml()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "partywall-aggregator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: RunArgs) -> anyhow::Result<()> {
    log_to_stderr(args.log_format);
    let config = Config::try_from(args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
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
        running.stop().await
    })
}

fn policy_check(file: &Path) -> anyhow::Result<()> {
    let policy = policy_file::read(file)?;
    print(&format!(
        "{}: valid; {} namespaces mapped to tenants, {} path rules, {} quotas\n",
        file.display(),
        policy.namespace_tenants.len(),
        policy.paths.len(),
        policy.tenant_quotas.len()
    ))
}

fn print(text: &str) -> anyhow::Result<()> {
    // A reader that went away (`| head`) has what it wanted.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
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
