//! What happened. Here is the seam to whatever keeps it: [`list`] is asked for entries and says where they come from and how far back they go.

use partywall_aggregator_core::breach::Breach;
use partywall_aggregator_core::limits::{MAX_RESOLVED_BREACHES, RESOLVED_KEPT_NS};
use serde::{Deserialize, Serialize};

use super::answer::Problem;
use super::view::{BreachRow, to_json};
use crate::state::State;

/// More than anybody reads; the trail has the rest.
const MOST: usize = 500;

/// Empty fields do not restrict.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Wanted {
    cluster: String,
    /// Named on either side.
    tenant: String,
    fingerprint: String,
}

#[derive(Debug, Serialize)]
struct History<'a> {
    /// "memory": what was resolved lately, gone with the process.
    source: &'static str,
    kept_seconds: u64,
    kept_most: usize,
    /// Newest first.
    entries: Vec<BreachRow<'a>>,
    left_out: usize,
}

impl Wanted {
    fn admits(&self, breach: &Breach) -> bool {
        let is = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
        is(&self.cluster, &breach.cluster)
            && is(&self.fingerprint, &breach.fingerprint)
            && (is(&self.tenant, &breach.key.tenant) || is(&self.tenant, &breach.key.against))
    }
}

/// Breaches that fired and were resolved.
pub(super) fn list(state: &State, wanted: &Wanted) -> Result<Vec<u8>, Problem> {
    let mut found: Vec<Breach> = Vec::new();
    for cluster in state.clusters() {
        let world = cluster.lock();
        found.extend(world.book().resolved().filter(|b| wanted.admits(b)).cloned());
    }
    found.sort_by_key(|breach| std::cmp::Reverse(breach.resolved_unix_ns));
    to_json(&History {
        source: "memory",
        kept_seconds: RESOLVED_KEPT_NS / 1_000_000_000,
        kept_most: MAX_RESOLVED_BREACHES,
        entries: found.iter().take(MOST).map(BreachRow::of).collect(),
        left_out: found.len().saturating_sub(MOST),
    })
}
