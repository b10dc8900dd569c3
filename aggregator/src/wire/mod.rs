//! Between the wire's messages and the core's plain data. Names and shapes are checked on the way in; what the counters may say is the core's.

mod flows;
mod report;
mod traffic;
mod view;

pub use report::{receipt, report};
pub use traffic::{add_flows, close_flows, flow_filter, protocol};
pub use view::{add_snapshot, breach, cluster_view, explanation, losses};
