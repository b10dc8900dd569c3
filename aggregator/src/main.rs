//! The aggregator's binary: parses, hands over, exits.

use std::process::ExitCode;

use clap::Parser as _;

/// What a judgement and a scrape need for a moment is given back to the kernel: with glibc's a quarter more stays. Unlike jemalloc's, a
/// binary of it runs with whatever page size an arm64 kernel has.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc.h: milliseconds until freed memory is given back.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

#[allow(unsafe_code, reason = "the allocator's only setting")]
fn give_back_at_once() {
    // SAFETY: it sets a number, and no other thread runs yet.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 0) };
}

fn main() -> ExitCode {
    give_back_at_once();
    partywall_aggregator::command::execute(partywall_aggregator::config::Args::parse())
}
