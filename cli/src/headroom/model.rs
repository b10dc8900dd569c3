//! Headroom, in the form that is printed as JSON. Names are made safe to print here, once.

use partywall_proto::v1;
use serde::Serialize;

use crate::model::seconds;
use crate::text::clean;

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Headroom {
    pub judged_unix_seconds: f64,
    /// Uses are the highest minute within this time.
    pub over_seconds: f64,
    /// The share of capacity up to which a pool is meant to be used.
    pub mark: f64,
    pub pools: Vec<Pool>,
    pub zones: Vec<Zone>,
}

/// The nodes of one pool in one zone.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Pool {
    pub cluster: String,
    pub zone: String,
    pub pool: String,
    pub nodes: u32,
    pub silent_nodes: u32,
    /// In cores.
    pub cpu: Room,
    /// In bytes.
    pub memory: Room,
    pub doubts: Vec<String>,
}

/// Absent: not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Room {
    pub capacity: Option<f64>,
    pub used_now: Option<f64>,
    pub used_most: Option<f64>,
    pub requested: f64,
}

/// What would become of the pods of a zone without it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Zone {
    pub cluster: String,
    pub zone: String,
    pub nodes: u32,
    pub pods: u32,
    pub by_use: Fit,
    pub by_requests: Fit,
    pub tenants: Vec<Tenant>,
    pub summary: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Fit {
    /// Absent: cannot be told, and `why`.
    pub fits: Option<bool>,
    pub why: String,
    pub moved_cores: f64,
    pub free_cores: f64,
    pub moved_memory_bytes: f64,
    pub free_memory_bytes: f64,
    pub pods_left_over: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Tenant {
    pub tenant: String,
    pub pods: u32,
    pub pods_left_over: u32,
}

impl From<v1::Headroom> for Headroom {
    fn from(wire: v1::Headroom) -> Self {
        Self {
            judged_unix_seconds: seconds(wire.judged_unix_ns),
            over_seconds: seconds(wire.over_ns),
            mark: wire.mark,
            pools: wire.pools.into_iter().map(Pool::from).collect(),
            zones: wire.zones.into_iter().map(Zone::from).collect(),
        }
    }
}

impl From<v1::PoolHeadroom> for Pool {
    fn from(wire: v1::PoolHeadroom) -> Self {
        Self {
            cluster: clean(&wire.cluster),
            zone: clean(&wire.zone),
            pool: clean(&wire.pool),
            nodes: wire.nodes,
            silent_nodes: wire.silent_nodes,
            cpu: room(wire.cpu),
            memory: room(wire.memory),
            doubts: wire.doubts.iter().map(|doubt| clean(doubt)).collect(),
        }
    }
}

fn room(wire: Option<v1::ResourceRoom>) -> Room {
    let wire = wire.unwrap_or_default();
    Room {
        capacity: wire.capacity,
        used_now: wire.used_now,
        used_most: wire.used_most,
        requested: wire.requested,
    }
}

impl From<v1::ZoneLoss> for Zone {
    fn from(wire: v1::ZoneLoss) -> Self {
        let tenant = |of: v1::TenantFit| Tenant {
            tenant: clean(&of.tenant),
            pods: of.pods,
            pods_left_over: of.pods_left_over,
        };
        Self {
            cluster: clean(&wire.cluster),
            zone: clean(&wire.zone),
            nodes: wire.nodes,
            pods: wire.pods,
            by_use: fit(wire.by_use),
            by_requests: fit(wire.by_requests),
            tenants: wire.tenants.into_iter().map(tenant).collect(),
            summary: clean(&wire.summary),
        }
    }
}

fn fit(wire: Option<v1::Fit>) -> Fit {
    let wire = wire.unwrap_or_default();
    Fit {
        fits: wire.fits,
        why: clean(&wire.why),
        moved_cores: wire.moved_cores,
        free_cores: wire.free_cores,
        moved_memory_bytes: wire.moved_memory_bytes,
        free_memory_bytes: wire.free_memory_bytes,
        pods_left_over: wire.pods_left_over,
    }
}
