//! The agent's pure half: whose a cgroup is, and the folding of counters into pods. No I/O, no clock: time is an argument.

pub mod flows;
pub mod fold;
pub mod identity;
pub mod inventory;
pub mod memory;
pub mod slots;
