//! Where findings go. Prometheus asks; nothing is pushed.

mod flows;
mod fold;
mod headroom;
mod out;
mod pods;
pub mod prometheus;
mod store;
mod trail;
