//! The Partywall node agent: loads the probes, folds their counters into pods, streams reports to the aggregator.

#[allow(
    unsafe_code,
    reason = "maps shared with the kernel, and a system call that aya does not wrap"
)]
pub mod kernel;
pub mod link;

pub mod admin;
pub mod cgroups;
pub mod check;
pub mod clock;
pub mod command;
pub mod config;
pub mod cost;
pub mod memory;
pub mod metrics;
pub mod oom;
pub mod reader;
pub mod report;
pub mod run;
pub mod surroundings;
pub mod uplink;

pub use run::{Running, start};
