//! Ground truth: real pods, the real agent, the real aggregator, compared with what a file or the kernel says.

mod alerts;
mod api;
mod args;
mod audit;
mod bpf;
mod churn;
mod cluster;
mod fabric;
mod flow_record;
mod http;
mod image;
mod intake;
mod judge;
mod kill;
mod ledger;
mod manifests;
mod measure;
mod memory;
mod observe;
mod page;
mod plan;
mod processes;
mod record;
mod report;
mod restarts;
mod run;
mod scenario;
mod services;
mod stage;
mod traffic;
mod trail_kill;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Parser;
use partywall_workload::{cgroup2_mount, protect_from_oom, run_if_worker, sweep};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    args::{Args, Command},
    processes::Binaries,
    report::{Outcome, Summary},
    run::Bench,
    scenario::Machine,
};

fn main() -> ExitCode {
    if let Some(code) = run_if_worker() {
        return code;
    }
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("partywall-harness: {error}");
            return ExitCode::FAILURE;
        }
    };
    // A node that runs out of memory takes pods, not who watches them.
    if let Err(error) = protect_from_oom() {
        eprintln!("partywall-harness: {error}");
    }
    // On this thread, which starts every process: they are bound to its life.
    let ended = runtime.block_on(until_signal(command(args)));
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("partywall-harness: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Dropping the run on SIGINT or SIGTERM removes every pod and daemon on the way.
async fn until_signal(run: impl Future<Output = Result<bool>>) -> Result<bool> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        ended = run => ended,
        _ = interrupt.recv() => anyhow::bail!("interrupted"),
        _ = terminate.recv() => anyhow::bail!("terminated"),
    }
}

/// True: everything was as it must be.
async fn command(args: Args) -> Result<bool> {
    let Args {
        command,
        bin_dir,
        keep_logs,
        json,
    } = args;
    // Read all that can be wrong with the question before anything is made.
    let scenarios = match &command {
        Command::Scenarios { dir, only, .. } => scenario::load_dir(dir, only)?,
        _ => Vec::new(),
    };
    let cgroup_mount = cgroup2_mount()?;
    if let Command::Scenarios { lacking: true, .. } = command {
        let machine = Machine::this(&cgroup_mount);
        for scenario in &scenarios {
            if let Some(why) = scenario.skip_reason(&machine) {
                println!("{}\t{why}", scenario.name);
            }
        }
        return Ok(true);
    }
    sweep(&cgroup_mount)?;
    let logs = Logs::new(keep_logs)?;
    let binaries = || Binaries::find(bin_dir);
    match command {
        Command::Scenarios { require_all, api, .. } => {
            let bench = Bench {
                binaries: binaries()?,
                cgroup_mount,
                api,
            };
            let (outcomes, summary) = run_scenarios(&bench, scenarios, &logs).await?;
            if let Some(path) = json {
                write(&path, &report::json(&outcomes, &summary)?)?;
            }
            println!("{}", summary.line());
            Ok(summary.is_right(require_all))
        }
        Command::Ledger { seconds } => {
            let accounts = ledger::ledger(&binaries()?, &cgroup_mount, seconds, &logs.dir("ledger")?).await?;
            write_json(json.as_deref(), &accounts)?;
            Ok(accounts.iter().all(ledger::Account::is_right))
        }
        Command::Churn {
            cgroups,
            minutes,
            seconds,
        } => {
            let seconds = seconds.unwrap_or_else(|| minutes.unwrap_or(10.0) * 60.0);
            let period = Duration::try_from_secs_f64(seconds).context("--minutes")?;
            let churned =
                churn::churn(&binaries()?, &cgroup_mount, cgroups, period, &logs.dir("churn")?).await?;
            println!("{}", churned.lines());
            write_json(json.as_deref(), &churned)?;
            Ok(churned.is_right())
        }
        Command::Traffic { seconds } => {
            let accounts =
                traffic::traffic(&binaries()?, &cgroup_mount, seconds, &logs.dir("traffic")?).await?;
            write_json(json.as_deref(), &accounts)?;
            Ok(accounts.iter().all(traffic::Account::is_right))
        }
        Command::Image {
            image,
            manifests,
            seccomp,
        } => {
            let files = image::Files {
                layout: &image,
                manifests: &manifests,
                seccomp: &seccomp,
            };
            let proved = image::image(&files, &cgroup_mount, &logs.dir("image")?).await?;
            println!("{}", proved.line());
            write_json(json.as_deref(), &proved)?;
            Ok(true)
        }
        Command::Alerts {
            times,
            servers,
            rules,
            bodies,
        } => {
            let files = alerts::Files {
                servers,
                rules,
                bodies,
            };
            let shown =
                alerts::alerts(&binaries()?, files, &cgroup_mount, times, &logs.dir("alerts")?).await?;
            println!("{}", shown.line());
            write_json(json.as_deref(), &shown)?;
            Ok(shown.is_right())
        }
        Command::Page {
            dir,
            dashboards,
            playwright,
            chromium,
            pictures,
        } => {
            let tools = page::Tools {
                playwright: &playwright,
                chromium: &chromium,
                dir: &dir,
                dashboards: &dashboards,
                pictures: &pictures,
            };
            let shown = page::page(&tools, &binaries()?, &cgroup_mount, &logs.dir("page")?).await?;
            println!("{}", shown.line());
            println!("pictures of it: {}", pictures.display());
            write_json(json.as_deref(), &shown)?;
            Ok(true)
        }
        Command::Kill { times } => {
            let killed = kill::kill(&binaries()?, times, &logs.dir("kill")?).await?;
            println!("{}", killed.line());
            write_json(json.as_deref(), &killed)?;
            Ok(true)
        }
        Command::Audit {
            questions,
            seed,
            real,
        } => {
            let (binaries, dir) = (binaries()?, logs.dir("audit")?);
            let (audited, what) = if real {
                let audited = audit::real::audit(&binaries, &cgroup_mount, questions, seed, &dir).await?;
                (audited, "the agent killed")
            } else {
                let audited = audit::audit(&binaries, questions, seed, &dir).await?;
                (audited, "an agent killed, one cut off")
            };
            println!("{}", audited.line(what));
            write_json(json.as_deref(), &audited)?;
            Ok(audited.is_right())
        }
        Command::TrailKill { times, seed } => {
            let killed = trail_kill::kill(&binaries()?, times, seed, &logs.dir("trail-kill")?).await?;
            println!("{}", killed.line());
            write_json(json.as_deref(), &killed)?;
            Ok(true)
        }
        Command::Restarts { times, seed } => {
            let dir = logs.dir("restarts")?;
            let restarted = restarts::restarts(&binaries()?, times, seed, &dir).await?;
            println!("{}", restarted.line());
            write_json(json.as_deref(), &restarted)?;
            Ok(true)
        }
    }
}

async fn run_scenarios(
    bench: &Bench,
    scenarios: Vec<scenario::Scenario>,
    logs: &Logs,
) -> Result<(Vec<(scenario::Scenario, Outcome)>, Summary)> {
    let machine = Machine::this(&bench.cgroup_mount);
    let mut outcomes = Vec::new();
    let mut summary = Summary::default();
    println!("{}", report::HEADER);
    let count = scenarios.len();
    for (number, scenario) in scenarios.into_iter().enumerate() {
        let outcome = if let Some(why) = scenario.skip_reason(&machine) {
            Outcome::Skipped(why)
        } else {
            let seconds = scenario.observed.as_secs_f64();
            eprintln!(
                "{}/{count} {} ({seconds:.0} s): {}",
                number + 1,
                scenario.name,
                scenario.about
            );
            let dir = logs.dir(&scenario.name)?;
            match bench.run(&scenario, &dir).await {
                Ok(shown) => Outcome::Ran(Box::new(shown)),
                Err(error) => Outcome::Failed(format!("{error:#}")),
            }
        };
        summary.add(&scenario, &outcome);
        println!("{}", report::row(&scenario, &outcome));
        outcomes.push((scenario, outcome));
    }
    Ok((outcomes, summary))
}

/// Where daemons write: a directory that goes with the run, or the one that was asked for.
enum Logs {
    Temporary(tempfile::TempDir),
    Kept(PathBuf),
}

impl Logs {
    fn new(keep: Option<PathBuf>) -> Result<Self> {
        match keep {
            Some(dir) => Ok(Self::Kept(dir)),
            None => Ok(Self::Temporary(tempfile::tempdir()?)),
        }
    }

    /// An empty directory for one part of the run.
    fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = match self {
            Self::Temporary(dir) => dir.path().join(name),
            Self::Kept(dir) => dir.join(name),
        };
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
        }
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        Ok(dir)
    }
}

fn write_json(path: Option<&Path>, value: &impl Serialize) -> Result<()> {
    path.map_or(Ok(()), |path| write(path, &serde_json::to_string_pretty(value)?))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, format!("{text}\n")).with_context(|| format!("cannot write {}", path.display()))
}
