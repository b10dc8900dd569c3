//! What lasts: what crossed between tenants, when, and whether it would have been seen.
//!
//! **Slots.** Time is cut into slots of [`SLOT_NS`] of the aggregator's wall clock. A report's growth lies between its capture and the one before;
//! where both are in one slot, something moved in that slot. Where they are not, it moved in *one of* several: a span, which answers a question that
//! contains all of it and leaves one that ends inside it open.
//!
//! **Gaps, not coverage.** What may have crossed unseen is kept, by tenant, node and reason: a cluster in which all is well costs a few bytes an hour.
//! A slot is *seen* once everything told of it was judged and written; one that was not is a gap of everybody's. So whatever ends this process
//! leaves "unknown" behind, never "no".
//!
//! | module | says |
//! |---|---|
//! | `slots` | sets of slots, spans |
//! | `crossed` | what was judged since it was taken last |
//! | `cover` | which slots a node's agent told everything of |
//! | `hours` | hours of which more may be told, and what of them must be written |
//! | `answer` | did one tenant reach another |

pub mod answer;
pub(crate) mod cover;
pub(crate) mod crossed;
pub mod hours;
mod slots;

pub use crossed::{Doubt, Moved, Sent, Taken, Untold};
pub(crate) use slots::Moments;
pub use slots::{Slots, Span, decode_spans, encode_spans};

use crate::limits::NS_PER_S;

/// Ten reports of the default interval: as fine as an incident is told, and coarse enough that a busy pair costs two numbers an hour.
pub const SLOT_NS: u64 = 10 * NS_PER_S;
pub const HOUR_SLOTS: u64 = 360;

/// Reasons of gaps. As in the wire's `Gap.reason`.
pub mod reason {
    pub const AGGREGATOR_AWAY: &str = "aggregator_away";
    pub const AGENT_SILENT: &str = "agent_silent";
    pub const FLOWS_NOT_SEEN: &str = "flows_not_seen";
    pub const FLOWS_FOLDED: &str = "flows_folded";
    pub const UNNAMED_PEER: &str = "unnamed_peer";
    pub const CLUSTER_UNKNOWN: &str = "cluster_unknown";
    /// More was told than is kept of one hour.
    pub const TRAIL_FULL: &str = "trail_full";
    pub const PRUNED: &str = "pruned";
    pub const NOT_YET: &str = "not_yet";
    /// It moved, and a report says no more precisely when.
    pub const NOT_RESOLVED: &str = "not_resolved";
    /// Something was sent, and whether it arrived was not seen.
    pub const DELIVERY_NOT_SEEN: &str = "delivery_not_seen";
    /// Nothing that is known has a tenant of that name: a no would be about nobody.
    pub const NO_SUCH_TENANT: &str = "no_such_tenant";
}

/// The slot of a moment.
pub fn slot_of(unix_ns: u64) -> u64 {
    unix_ns / SLOT_NS
}
