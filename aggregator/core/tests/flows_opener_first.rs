//! The cases of `flows.rs` with a judgement between the two agents' reports, of which that of who opens comes first.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "flows.rs"]
mod flows;
