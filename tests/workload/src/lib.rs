//! Pods without a kubelet: real cgroups where kubelet would make them, real processes that do real work in them, and
//! the Kubernetes YAML that says so. Everything is removed again without a trace.
//!
//! A program that starts work must call [`run_if_worker`] first thing in `main`: work runs in re-executions of the
//! program itself.
//!
//! ```no_run
//! use partywall_workload::{Pod, PodSpec, Work, cgroup2_mount, run_if_worker};
//!
//! fn main() -> std::process::ExitCode {
//!     if let Some(code) = run_if_worker() {
//!         return code;
//!     }
//!     let blue_web = || -> Result<(), partywall_workload::Error> {
//!         let mut pod = Pod::create(PodSpec::new("blue", "web"), &cgroup2_mount()?)?;
//!         let spinner = pod.start(&Work::Spin { threads: 1 }, Some(&[0]))?;
//!         spinner.stop();
//!         pod.remove()
//!     };
//!     blue_web().map_or(std::process::ExitCode::FAILURE, |()| std::process::ExitCode::SUCCESS)
//! }
//! ```

mod cgroup;
mod error;
mod host;
pub mod manifest;
mod memory;
mod network;
mod oom;
mod pod;
mod scratch;
mod spawn;
mod spec;
mod traffic;
mod wire;
mod work;
mod worker;

pub use cgroup::{cgroup2_mount, sweep};
pub use error::Error;
pub use host::HostCgroup;
pub use network::{DropRule, Dropped, NODE_IPV4, NODE_IPV6, NetNs, Network, PodLink, ServicePort, Transport};
pub use oom::{node_memory_bytes, protect_from_oom};
pub use pod::{LimitState, Limits, Pod};
pub use scratch::scratch_dir;
pub use spawn::{SchedStat, WorkHandle, end_with_this_thread};
pub use spec::{ContainerPort, PodSpec, Qos, Resources};
pub use traffic::Traffic;
pub use work::{Family, Work};
pub use worker::run_if_worker;
