//! What would have to change, as YAML. Nothing applies it; any one of them would do.

mod group;
mod metadata;
mod network;
mod place;
mod quota;
mod range;
mod request;
mod workload;

use super::{Cx, Remedy};
use crate::breach::BreachKind;
pub(super) use quota::{BoundBy, quotas_of};

pub(super) fn remedies(cx: &Cx<'_>) -> Vec<Remedy> {
    match cx.kind() {
        BreachKind::NoisyNeighbour => request::cpu(cx),
        BreachKind::MemorySqueeze | BreachKind::CrossTenantOom => request::memory(cx),
        BreachKind::NodeOvercommitted => place::apart(cx),
        BreachKind::SystemNoise => place::reserved(cx),
        BreachKind::QuotaNear | BreachKind::QuotaExceeded => quota::fit(cx),
        BreachKind::LimitRangeExceeded => range::limit(cx),
        BreachKind::FlatNetwork => network::open(cx),
        BreachKind::FenceLeak => network::leak(cx),
        BreachKind::Probe => network::probe(cx),
        BreachKind::CredentialReach => metadata::closed(cx),
    }
}
