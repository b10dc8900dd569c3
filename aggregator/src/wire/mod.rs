//! Between the wire's messages and the core's plain data. Names and shapes are checked on the way in; what the counters may say is the core's.

mod flows;
mod report;
mod traffic;
mod view;

pub use report::{receipt, report};
pub use traffic::{flow_filter, flow_list};
pub use view::{breach, losses, snapshot};
