//! The aggregator's binary: parses, hands over, exits.

use std::process::ExitCode;

use clap::Parser as _;

/// What a judgement and a scrape need for a moment is given back: glibc's keeps a sixth more. Unlike jemalloc's, a binary of it runs
/// with whatever page size an arm64 kernel has.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    partywall_aggregator::command::execute(partywall_aggregator::config::Args::parse())
}
