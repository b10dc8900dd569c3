//! Between the wire's messages and the core's plain data. Names and shapes are checked on the way in; what the counters may say is the core's.

mod explain;
mod flows;
mod headroom;
mod report;
mod traffic;
mod view;

pub use explain::{breach_explanation, story};
pub use headroom::add_headroom;
pub use report::{receipt, report};
pub(crate) use traffic::verdict;
pub use traffic::{add_flows, close_flows, flow_filter};
pub use view::{add_snapshot, breach, cluster_view, explanation, losses};
