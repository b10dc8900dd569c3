//! `partywall.v1`: the wire between agents, aggregator and clients.
//!
//! The definitions are in `proto/partywall/v1/*.proto`, the generated code is checked in (nobody needs `protoc`), and
//! `tests/generated.rs` proves it fresh. Beside them is what both sides of the wire must work out alike: the [`trail`]'s chain.

pub mod trail;

/// The generated types and services.
#[allow(clippy::all, clippy::pedantic, unused_qualifications, unreachable_pub)] // generated: held to the generator's rules
pub mod v1 {
    // Not `#[path]`: rustfmt would follow it.
    include!("generated/partywall.v1.rs");
}

pub mod scrape;

/// Largest message that either side accepts, in bytes: what one agent may make the aggregator hold.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
