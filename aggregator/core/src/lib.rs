//! The aggregator's judgement: from node reports and cluster objects to breaches, as a function of its inputs.
//!
//! Nothing here does I/O or reads a clock. [`World`] is the whole of it: reports, cluster objects and policies go in,
//! [`World::judge`] says which breaches changed, [`World::snapshot`] shows what is known.
//!
//! | module | says |
//! |---|---|
//! | [`policy`] | every threshold, its unit, default, range and reason; the policy file |
//! | [`quantity`] | Kubernetes quantities, exactly |
//! | [`identity`] | which pod, namespace, tenant; quotas |
//! | [`fence`] | what NetworkPolicies say of a connection, and by which rule |
//! | [`report`] | what one agent counted, as plain data |
//! | `node` | one node's sliding windows over cumulative counters |
//! | `sums` | a window folded into classes: who waited, for whom |
//! | `accounts` | who holds how much memory on a node, against what was requested |
//! | `judge`, `memory`, `oom`, `quota`, `limit_range` | the rules |
//! | [`fence`] | what the NetworkPolicies in force say of a connection |
//! | [`traffic`] | flows: both ends joined, held against the fence |
//! | [`finding`] | a rule broken now, with evidence and a sentence |
//! | [`breach`] | a finding's life: pending, firing, resolved |
//! | [`explain`] | the whole evidence of one breach, and what would have to change |
//! | [`snapshot`] | everything known, for clients and exporters |
//! | [`headroom`] | use against capacity, and whether a zone's pods fit into the others |
//! | [`shared`] | equal values kept once |
//! | [`yaml`] | YAML of what is suggested |
//! | `clocks` | a node's clock against the aggregator's, and when that was set |
//! | [`trail`] | what crossed and when, and whether it would have been seen: for good |
//! | [`limits`] | what one agent may make the aggregator hold |

mod accounts;
pub mod breach;
mod clocks;
pub mod explain;
pub mod fence;
pub mod finding;
pub mod headroom;
pub mod identity;
mod judge;
mod limit_range;
pub mod limits;
pub mod losses;
mod memory;
mod node;
mod oom;
pub mod policy;
pub mod quantity;
mod quota;
pub mod report;
pub mod shared;
pub mod snapshot;
mod sums;
pub mod traffic;
pub mod trail;
mod world;
pub mod yaml;

pub mod checkpoint {
    //! A node between two reports, as plain data.
    pub use crate::node::checkpoint::{
        Checkpoint, ContainerState, EntryState, FrameState, Mark, SlotKind, SlotState,
    };
}
pub use world::{Changes, Now, Objects, Stale, World};
