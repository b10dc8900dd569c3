//! Headroom: what pods may have of each pool, what they use and ask for, and whether a zone's pods would fit into the others.

use std::time::{Duration, Instant};

use partywall_aggregator_core::headroom::{Headroom, PoolHeadroom, Room};

use super::out::Out;
use crate::state::Cluster;

/// Where a zone's pods would go is computed no more often than this: it takes its time in a large cluster, and moves slowly.
const KEPT: Duration = Duration::from_secs(15);
/// Pools of a cluster that have series of their own, those of the most nodes. Ten pools in each of three zones are thirty.
const MAX_POOLS: usize = 200;
/// Zones of a cluster that have. A region has three to six, a cluster on premises a hall each.
const MAX_ZONES: usize = 50;

/// What was computed last.
#[derive(Debug, Default)]
pub(super) struct Kept(Option<(Instant, Headroom)>);

impl Kept {
    /// Computed anew where it is older than [`KEPT`]; the cluster's lock is held only while what is known is taken from it.
    pub(super) fn of(&mut self, cluster: &Cluster) -> &Headroom {
        let old = self.0.take().filter(|(at, _)| at.elapsed() < KEPT);
        let (_, headroom) = self.0.insert(old.unwrap_or_else(|| {
            let ground = cluster.lock().ground(cluster.now());
            (Instant::now(), ground.headroom())
        }));
        headroom
    }
}

/// Unit, what it is, and where a pool has it.
type Resource = (&'static str, &'static str, fn(&PoolHeadroom) -> Room);

pub(super) fn write(out: &mut Out<'_>, headroom: &Headroom) {
    let mut pools: Vec<&PoolHeadroom> = headroom.pools.iter().collect();
    pools.sort_by(|a, b| {
        b.nodes
            .cmp(&a.nodes)
            .then((&a.zone, &a.pool).cmp(&(&b.zone, &b.pool)))
    });
    let left_out = pools.len().saturating_sub(MAX_POOLS) + headroom.zones.len().saturating_sub(MAX_ZONES);
    pools.truncate(MAX_POOLS);
    let labels = |pool: &PoolHeadroom| [("zone", pool.zone.clone()), ("pool", pool.pool.clone())];
    let mut gauges = |name: &str, help: &str, value: &dyn Fn(&PoolHeadroom) -> Option<f64>| {
        for pool in &pools {
            let [(zone, of_zone), (name_of, of_pool)] = labels(pool);
            let labels = [(zone, of_zone.as_str()), (name_of, of_pool.as_str())];
            out.gauges(name, help, value(pool).map(|value| (labels, value)).into_iter());
        }
    };
    let resources: [Resource; 2] = [
        ("cores", "CPU", |pool| pool.cpu),
        ("bytes", "Memory", |pool| pool.memory),
    ];
    for (unit, what, room) in resources {
        gauges(
            &format!("pool_capacity_{unit}"),
            &format!(
                "{what} that pods may have of the pool's nodes in the zone (allocatable); absent where a node does not say"
            ),
            &|pool| room(pool).capacity,
        );
        gauges(
            &format!("pool_requested_{unit}"),
            &format!("{what} that pods on the pool's nodes in the zone request"),
            &|pool| Some(room(pool).requested),
        );
        gauges(
            &format!("pool_used_{unit}"),
            &format!("{what} that pods on the pool's nodes in the zone use; absent where no agent tells"),
            &|pool| room(pool).used_now,
        );
        gauges(
            &format!("pool_used_most_{unit}"),
            &format!(
                "{what} that they used in the highest minute of the last 24 hours, or since the aggregator's start"
            ),
            &|pool| room(pool).used_most,
        );
    }
    gauges("pool_nodes", "Nodes of the pool in the zone", &|pool| {
        Some(f64::from(pool.nodes))
    });
    gauges(
        "pool_silent_nodes",
        "Those of them of which no agent tells now",
        &|pool| Some(f64::from(pool.silent_nodes)),
    );
    let zones = || headroom.zones.iter().take(MAX_ZONES);
    let both = || {
        zones().flat_map(|zone| {
            let of = |by, fit| ([("zone", zone.zone.as_str()), ("by", by)], fit);
            [of("use", &zone.by_use), of("requests", &zone.by_requests)]
        })
    };
    out.gauges(
        "zone_fits",
        "1: the pods of the zone would find room in the others up to the mark if it were lost. 0: they would not. Absent: it cannot be told",
        both().filter_map(|(labels, fit)| Some((labels, u64::from(fit.fits?)))),
    );
    out.gauges(
        "zone_pods_left_over",
        "Pods of the zone that would find no room in the others if it were lost, as far as it can be told",
        both().map(|(labels, fit)| (labels, u64::from(fit.pods_left_over))),
    );
    out.gauge(
        "headroom_mark",
        "The share of capacity up to which a pool is meant to be used",
        headroom.mark,
    );
    out.gauge(
        "headroom_left_out",
        "Pools and zones that found no room among these series",
        left_out as u64,
    );
}
