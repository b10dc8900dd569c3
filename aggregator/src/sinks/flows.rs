//! What is published of traffic: between tenants by verdict, of ends without a name by reason, and what agents folded.
//!
//! Where both ends are one tenant's, nothing is published: that is most of the traffic, and the fence has nothing to say of it. A row of (from, to, verdict)
//! has three series, so a tenant's room is a number of rows; the others are summed with `to` = `~other`, by verdict.
//!
//! Rows of tenants that are gone come together in one where the aggregator has no room for each. That one is never published by its name: some of what is in it
//! was in `~other`, which must not go back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use partywall_aggregator_core::snapshot::{GONE, Snapshot};
use partywall_aggregator_core::traffic::{Reason, TenantTraffic, UnattributedView, Verdict};

use super::fold::{Fold, Key};
use super::out::Out;
use super::sums::{Sums, Total};

/// Series of a row.
pub(super) const SERIES: usize = 3;

/// From, to, verdict: as published.
type Name = (Arc<str>, Arc<str>, &'static str);

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    bytes: u64,
    packets: u64,
    connections: u64,
}

impl Sum {
    fn add(&mut self, bytes: u64, packets: u64, connections: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.packets = self.packets.saturating_add(packets);
        self.connections = self.connections.saturating_add(connections);
    }
}

impl Total for Sum {
    fn grow(&mut self, before: &Self, now: &Self) {
        self.bytes.grow(&before.bytes, &now.bytes);
        self.packets.grow(&before.packets, &now.packets);
        self.connections.grow(&before.connections, &now.connections);
    }
}

/// What is published in `~other`.
#[derive(Debug)]
pub(super) struct Others {
    between: Sums<Name, Sum>,
    folded: Sums<Arc<str>, Sum>,
}

impl Others {
    pub(super) fn new() -> Self {
        Self {
            between: Sums::new(false),
            folded: Sums::new(false),
        }
    }
}

fn told(snapshot: &Snapshot) -> impl Iterator<Item = &TenantTraffic> {
    let between = |t: &TenantTraffic| *t.from == *GONE && t.verdict != Verdict::Within;
    let rows = snapshot.traffic.iter();
    rows.filter(move |t| t.from != t.to || between(t))
}

fn key(traffic: &TenantTraffic) -> Key {
    Key::Traffic {
        to: Arc::clone(&traffic.to),
        verdict: traffic.verdict.as_str(),
    }
}

/// `tenants`: all that exist.
pub(super) fn choose(fold: &mut Fold, tenants: &BTreeSet<Arc<str>>, snapshot: &Snapshot) {
    let rows = told(snapshot)
        .filter(|t| *t.to != *GONE)
        .map(|t| (Arc::clone(&t.from), key(t), t.bytes));
    fold.choose(tenants, rows);
}

/// Returns how many series were folded.
pub(super) fn write(out: &mut Out<'_>, fold: &Fold, others: &mut Others, snapshot: &Snapshot) -> usize {
    let mut rows: BTreeMap<Name, Sum> = BTreeMap::new();
    let mut folded = 0;
    for traffic in told(snapshot) {
        let from = fold.tenant(&traffic.from);
        let named = fold.is_named(&from, &key(traffic));
        folded += if named { 0 } else { SERIES };
        let to = if named {
            fold.tenant(&traffic.to)
        } else {
            fold.other()
        };
        rows.entry((from, to, traffic.verdict.as_str())).or_default().add(
            traffic.bytes,
            traffic.packets,
            traffic.connections,
        );
    }
    others
        .between
        .publish(&mut rows, |(from, to, _)| fold.kind(from, &[to]));
    let of = |value: fn(&Sum) -> u64| {
        rows.iter().map(move |((from, to, verdict), sum)| {
            (
                [("from", &**from), ("to", &**to), ("verdict", *verdict)],
                value(sum),
            )
        })
    };
    out.counters(
        "traffic_bytes",
        "Traffic between two tenants, both ways, by who opened it and by verdict: bytes of IP packets",
        of(|s| s.bytes),
    );
    out.counters(
        "traffic_packets",
        "Traffic between two tenants, both ways, by who opened it and by verdict: packets",
        of(|s| s.packets),
    );
    out.counters(
        "traffic_connections",
        "TCP connections begun between two tenants, whether or not they came about, by who began them and by verdict",
        of(|s| s.connections),
    );
    // From 0 on: what a series begins with is in no increase().
    let reasons = |value: fn(&UnattributedView) -> u64| {
        Reason::ALL.into_iter().map(move |reason| {
            let row = snapshot.unattributed.iter().find(|u| u.reason == reason);
            ([("reason", reason.as_str())], row.map_or(0, value))
        })
    };
    out.counters(
        "traffic_unattributed_bytes",
        "Traffic of which one end cannot be named, by reason: bytes of IP packets",
        reasons(|u| u.bytes),
    );
    out.counters(
        "traffic_unattributed_packets",
        "Traffic of which one end cannot be named, by reason: packets",
        reasons(|u| u.packets),
    );
    let mut by_tenant: BTreeMap<Arc<str>, Sum> = BTreeMap::new();
    for of in &snapshot.folded {
        let sum = by_tenant.entry(fold.tenant(&of.tenant)).or_default();
        sum.add(of.bytes, of.packets, of.connections);
    }
    others
        .folded
        .publish(&mut by_tenant, |tenant| fold.kind(tenant, &[]));
    let of = |value: fn(&Sum) -> u64| {
        let rows = by_tenant.iter();
        rows.map(move |(tenant, sum)| ([("tenant", &**tenant)], value(sum)))
    };
    out.counters(
        "traffic_folded_bytes",
        "Traffic that found no place among an agent's flows, by the tenant whose sockets it is: bytes of IP packets",
        of(|s| s.bytes),
    );
    out.counters(
        "traffic_folded_packets",
        "Traffic that found no place among an agent's flows, by the tenant whose sockets it is: packets",
        of(|s| s.packets),
    );
    folded
}
