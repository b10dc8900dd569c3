//! Headroom, as clients get it.

use partywall_aggregator_core::headroom::{Fit, Headroom, PoolHeadroom, Room, ZoneLoss};
use partywall_proto::v1;

/// Adds that of one cluster. Of several the earliest judgement and the shortest time are told.
pub fn add_headroom(all: &mut v1::Headroom, cluster: &str, headroom: Headroom) {
    let is_first = all.judged_unix_ns == 0;
    let least = |sum: u64, own: u64| if is_first { own } else { sum.min(own) };
    all.judged_unix_ns = least(all.judged_unix_ns, headroom.judged_unix_ns);
    all.over_ns = least(all.over_ns, headroom.over_ns);
    all.mark = headroom.mark;
    all.pools
        .extend(headroom.pools.into_iter().map(|of| pool(cluster, of)));
    all.zones
        .extend(headroom.zones.into_iter().map(|of| zone(cluster, of)));
}

fn pool(cluster: &str, of: PoolHeadroom) -> v1::PoolHeadroom {
    v1::PoolHeadroom {
        cluster: cluster.to_owned(),
        zone: of.zone,
        pool: of.pool,
        nodes: of.nodes,
        silent_nodes: of.silent_nodes,
        cpu: Some(room(of.cpu)),
        memory: Some(room(of.memory)),
        doubts: of.doubts,
    }
}

fn room(of: Room) -> v1::ResourceRoom {
    v1::ResourceRoom {
        capacity: of.capacity,
        used_now: of.used_now,
        used_most: of.used_most,
        requested: of.requested,
    }
}

fn zone(cluster: &str, of: ZoneLoss) -> v1::ZoneLoss {
    v1::ZoneLoss {
        cluster: cluster.to_owned(),
        zone: of.zone,
        nodes: of.nodes,
        pods: of.pods,
        by_use: Some(fit(of.by_use)),
        by_requests: Some(fit(of.by_requests)),
        tenants: of
            .tenants
            .into_iter()
            .map(|t| v1::TenantFit {
                tenant: t.tenant.to_string(),
                pods: t.pods,
                pods_left_over: t.pods_left_over,
            })
            .collect(),
        summary: of.summary,
    }
}

fn fit(of: Fit) -> v1::Fit {
    v1::Fit {
        fits: of.fits,
        why: of.why,
        moved_cores: of.moved_cores,
        free_cores: of.free_cores,
        moved_memory_bytes: of.moved_memory_bytes,
        free_memory_bytes: of.free_memory_bytes,
        pods_left_over: of.pods_left_over,
    }
}
