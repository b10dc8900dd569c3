//! The aggregator's binary: parses, hands over, exits.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    partywall_aggregator::command::execute(partywall_aggregator::config::Args::parse())
}
