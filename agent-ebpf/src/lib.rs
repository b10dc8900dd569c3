//! What the kernel side does that needs no kernel: the past of a CPU, tiling a wait with it, throttling, and bucket choice.
//!
//! Compiled for BPF by `cargo xtask ebpf`, and for the host with its tests.
#![cfg_attr(not(test), no_std)]

pub mod buckets;
pub mod cache;
pub mod past;
pub mod throttle;
