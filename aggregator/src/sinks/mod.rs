//! Where findings go. Prometheus asks; nothing is pushed.

mod fold;
mod out;
pub mod prometheus;
