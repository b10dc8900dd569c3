//! What happened. Here is the seam to whatever keeps it: [`list`] is asked for entries and says where they come from and how far back they go.

use partywall_aggregator_core::breach::Breach;
use partywall_aggregator_core::limits::{MAX_RESOLVED_BREACHES, RESOLVED_KEPT_NS};
use partywall_proto::v1;
use serde::{Deserialize, Serialize};

use super::answer::Problem;
use super::view::{BreachRow, to_json};
use crate::state::State;
use crate::trail::Trail;

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
struct History {
    /// "trail", or "memory": what was resolved lately, gone with the process.
    source: &'static str,
    kept_seconds: u64,
    kept_most: usize,
    /// Newest first.
    entries: Vec<BreachRow>,
    /// There are older ones.
    is_cut: bool,
}

impl Wanted {
    fn admits(&self, breach: &Breach) -> bool {
        let is = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
        is(&self.cluster, &breach.cluster)
            && is(&self.fingerprint, &breach.fingerprint)
            && (is(&self.tenant, &breach.key.tenant) || is(&self.tenant, &breach.key.against))
    }
}

/// Breaches that fired and were resolved: of the trail where there is one, else of memory.
pub(super) fn list(state: &State, wanted: &Wanted) -> Result<Vec<u8>, Problem> {
    match state.trail.get() {
        Some(trail) => of_trail(state, trail, wanted),
        None => of_memory(state, wanted),
    }
}

fn of_trail(state: &State, trail: &Trail, wanted: &Wanted) -> Result<Vec<u8>, Problem> {
    let request = v1::GetHistoryRequest {
        tenant: wanted.tenant.clone(),
        cluster: wanted.cluster.clone(),
        fingerprint: wanted.fingerprint.clone(),
        limit: MOST as u32 + 1,
        ..v1::GetHistoryRequest::default()
    };
    let kept = trail.past(&request);
    let mut kept = kept.map_err(|refused| Problem::Failed(refused.to_string()))?;
    let is_cut = kept.len() > MOST;
    kept.drain(..kept.len().saturating_sub(MOST));
    // What fires still is among the live ones; of what has no known end `partywall history` tells.
    kept.retain(|entry| entry.resolved_sequence > 0);
    let breaches = kept.into_iter().rev().filter_map(|entry| entry.breach);
    let own = state
        .cluster("")
        .map(|own| own.lock().policy().thresholds.trail.keep_days);
    to_json(&History {
        source: "trail",
        kept_seconds: (own.unwrap_or_default() * 86_400.0) as u64,
        kept_most: MOST,
        entries: breaches.map(BreachRow::from).collect(),
        is_cut,
    })
}

fn of_memory(state: &State, wanted: &Wanted) -> Result<Vec<u8>, Problem> {
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
        entries: found.iter().take(MOST).map(BreachRow::from).collect(),
        is_cut: found.len() > MOST,
    })
}
