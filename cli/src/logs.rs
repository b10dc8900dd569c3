//! What agent and aggregator log while they run in this process: to stderr, as much as RUST_LOG asks for.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// `default`: the level where RUST_LOG says nothing.
pub(crate) fn init(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let colour =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // Fails only where a subscriber is set already: then that one is meant.
    let _set_already = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(colour)
        .try_init();
}
