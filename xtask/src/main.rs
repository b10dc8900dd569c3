//! Every developer command of Partywall: `cargo xtask --help`.

mod ebpf;
mod paths;
mod run;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Every developer command of Partywall",
    disable_help_subcommand = true
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Rebuild the eBPF objects that are kept in the repository, or check that they are what the sources say
    Ebpf(ebpf::Args),
}

fn main() -> ExitCode {
    let outcome = match Args::parse().command {
        Command::Ebpf(args) => ebpf::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
