//! Everything that touches the kernel's eBPF side: what it offers, loading, and reading. The only unsafe code of the agent.

pub mod btf;
pub mod events;
pub mod features;
pub mod flows;
pub mod load;
pub mod maps;
mod memory;
pub(crate) mod sys;
