//! Every developer command of Partywall: `cargo xtask --help`.

mod bench;
mod check;
mod dashboards;
mod deploy;
mod ebpf;
mod harness;
mod image;
mod page;
mod paths;
mod programs;
mod run;
mod stage;
mod test;
mod tools;
mod vm;

use std::{process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Every developer command of Partywall",
    disable_help_subcommand = true
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Everything, from a fresh machine: installs what is missing (as root)
    Test(test::Args),
    /// What can be judged without running: format, lints, docs, licences, layers
    Check(check::Args),
    /// Rebuild the eBPF objects kept in the repository, or --check them
    Ebpf(ebpf::Args),
    /// Run the scenarios of tests/scenarios against the real agent and aggregator (as root)
    Scenarios(harness::Args),
    /// Compare the ledger with the kernel's own figures (as root)
    Ledger(harness::Args),
    /// Compare counts of traffic with what was sent: 1, 1,000 and 50,000 flows, and a few beside a flood (as root)
    Traffic(harness::Args),
    /// Make and remove cgroups by the thousand and watch the agent (as root)
    Churn(harness::Args),
    /// Kill the agent again and again and look for what it leaves in the kernel (as root)
    Kill(harness::Args),
    /// Kill the aggregator and agents again and again under load and hold the totals against what was sent (as root)
    Restarts(harness::Args),
    /// Boot Debian's kernels in QEMU and run the kernel tests and scenarios there
    Vm(vm::Args),
    /// Hold the Helm chart against helm and Kubernetes' schemas, and render manifests and docs from it
    Deploy(deploy::Args),
    /// Make an OCI image of static programs, without a registry
    Image(image::Args),
    /// Look at the page in Chromium and run the dashboards' queries in Prometheus; pictures go to target/page (as root)
    Page,
    /// Measure what Partywall costs (as root)
    Bench(harness::Args),
}

/// For commands that a person watches: they may take what they need.
const NO_LIMIT: Duration = Duration::MAX;

fn main() -> ExitCode {
    let outcome = match Args::parse().command {
        Command::Test(args) => test::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Ebpf(args) => ebpf::run(&args),
        Command::Scenarios(args) => harness::run("scenarios", &args.rest(), NO_LIMIT).map(drop),
        Command::Ledger(args) => harness::run("ledger", &args.rest(), NO_LIMIT).map(drop),
        Command::Traffic(args) => harness::run("traffic", &args.rest(), NO_LIMIT).map(drop),
        Command::Churn(args) => harness::run("churn", &args.rest(), NO_LIMIT).map(drop),
        Command::Kill(args) => harness::run("kill", &args.rest(), NO_LIMIT).map(drop),
        Command::Restarts(args) => harness::run("restarts", &args.rest(), NO_LIMIT).map(drop),
        Command::Vm(args) => vm::run(&args),
        Command::Deploy(args) => deploy::run(&args),
        Command::Image(args) => image::run(&args),
        Command::Page => page::test().map(drop),
        Command::Bench(args) => bench::run(&args.rest(), NO_LIMIT).map(drop),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
