//! Measures what Partywall costs, beside an empty program and the classic design in the same run.
//!
//! Figures are shown with their bounds and never make the run fail: a machine may be busy. What cannot be measured does.

mod figure;
mod ingest;
mod load;
mod measure;
mod outage;
mod packet;
mod processes;
mod programs;
mod reclaim;
mod reference;
mod scale;
mod trail;

use std::{cell::OnceCell, fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use measure::Effort;

#[derive(Parser)]
#[command(name = "cargo xtask bench", about, disable_help_subcommand = true)]
struct Args {
    /// Also write the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Alternating runs of each subject
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// A short look: two rounds of little work
    #[arg(long, conflicts_with = "rounds")]
    quick: bool,
    /// Only these sections
    #[arg(long, value_enum)]
    only: Vec<Section>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Section {
    /// Cost of a context switch and slow-down of a load that does nothing else
    Switch,
    /// 200 cgroups on one CPU
    Turns,
    /// Cost of a reclaim's beginning and end
    Reclaim,
    /// Cost of a packet, and what it takes of throughput and latency
    Packet,
    /// CPU and memory of the agent with 110 idle pods
    Idle,
    /// What the aggregator takes, from 100 nodes of 110 busy pods
    Ingest,
    /// What half an hour without an aggregator costs an agent with 110 busy pods
    Outage,
}

#[derive(Subcommand)]
enum Command {
    /// How large a cluster one aggregator takes: simulated agents that report once a second each
    Scale(scale::Scale),
    /// What a month of the trail takes on the disk, in memory, and of the time of whoever asks
    Trail(trail::Trail),
    #[command(hide = true)]
    TakeTurns { cgroup: PathBuf, cpu: usize },
}

fn main() -> ExitCode {
    if let Some(code) = partywall_workload::run_if_worker() {
        return code;
    }
    let args = Args::parse();
    let outcome = match args.command {
        Some(Command::TakeTurns { cgroup, cpu }) => load::take_turns(&cgroup, cpu),
        Some(Command::Scale(scale)) => {
            scale::run(&scale).and_then(|figures| write_json(args.json.as_deref(), &figures))
        }
        Some(Command::Trail(trail)) => {
            trail::run(&trail).and_then(|figures| write_json(args.json.as_deref(), &figures))
        }
        None => run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let effort = if args.quick {
        Effort {
            rounds: 2,
            pipe_operations: 50_000,
            turns: Duration::from_millis(500),
            idle: Duration::from_secs(6),
        }
    } else {
        Effort {
            rounds: args.rounds.into(),
            pipe_operations: 200_000,
            turns: Duration::from_secs(1),
            idle: Duration::from_secs(60),
        }
    };
    partywall_workload::sweep(&partywall_workload::cgroup2_mount()?)?;
    // For the sections that have an agent report; the others do without.
    let shared = OnceCell::new();
    let mut figures = Vec::new();
    for section in Section::value_variants()
        .iter()
        .filter(|section| args.only.is_empty() || args.only.contains(section))
    {
        let aggregator = || -> Result<&processes::Aggregator> {
            if shared.get().is_none() {
                let _ = shared.set(processes::Aggregator::start(None)?);
            }
            shared.get().context("no aggregator")
        };
        let measured = match section {
            Section::Switch => measure::switches(&effort, aggregator()?),
            Section::Turns => measure::turns(&effort, aggregator()?),
            Section::Reclaim => reclaim::measure(&effort),
            Section::Packet => packet::measure(&effort),
            Section::Idle => measure::idle(&effort, aggregator()?),
            Section::Ingest => ingest::measure(&effort),
            Section::Outage => outage::measure(&effort),
        }?;
        // At once: what is measured is not lost when a later section cannot be.
        println!("{}", figure::table(&measured));
        figures.extend(measured);
    }
    write_json(args.json.as_deref(), &serde_json::to_value(figures)?)
}

fn write_json(path: Option<&std::path::Path>, figures: &serde_json::Value) -> Result<()> {
    if let Some(path) = path {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let document = serde_json::json!({
            "kernel": kernel.trim(),
            "cpus": std::thread::available_parallelism().map_or(0, usize::from),
            "load_1m": fs::read_to_string("/proc/loadavg").ok().and_then(|text| text.split(' ').next()?.parse::<f64>().ok()),
            "figures": figures,
        });
        let text = serde_json::to_string_pretty(&document)? + "\n";
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
