//! The Partywall aggregator: takes reports from node agents, gives things their names, judges, and tells clients and Prometheus.
//!
//! All judgement is in `partywall-aggregator-core`; here is what surrounds it: sockets, files, clocks. [`run`] shows the whole in order.

pub mod admin;
pub mod auth;
pub mod clock;
pub mod command;
pub mod config;
mod database;
mod hosts;
pub mod identify;
pub mod ingest;
pub mod limits;
pub mod link;
pub mod metrics;
pub mod nodes;
pub mod pace;
mod page;
pub mod policy_file;
pub mod query;
pub mod run;
pub mod sinks;
pub mod state;
pub mod store;
pub mod trail;
pub mod turns;
pub mod watch;
pub mod wire;

pub use run::{Running, start};
