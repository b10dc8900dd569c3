//! The node agent's binary: parses, hands over, exits.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    partywall_agent::command::execute(partywall_agent::config::Args::parse())
}
