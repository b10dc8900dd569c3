//! Where findings go. Prometheus asks; Alertmanagers and webhooks are told.

mod alertmanager;
mod breaches;
mod flows;
mod fold;
mod headroom;
mod out;
mod own;
mod pods;
pub mod prometheus;
pub mod push;
mod store;
mod sums;
#[cfg(test)]
mod tests;
mod trail;
mod webhook;
