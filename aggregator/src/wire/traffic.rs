//! Flows and traffic sums → what clients get.

use partywall_aggregator_core::identity::Protocol;
use partywall_aggregator_core::limits::MAX_FLOWS_SHOWN;
use partywall_aggregator_core::report as core;
use partywall_aggregator_core::snapshot::Snapshot;
use partywall_aggregator_core::traffic::{FlowEnd, FlowFilter, FlowList, FlowView, Verdict};
use partywall_proto::v1;

/// # Errors
/// A verdict that is none.
pub fn flow_filter(request: v1::GetFlowsRequest) -> Result<FlowFilter, String> {
    let verdicts = request
        .verdicts
        .iter()
        .enumerate()
        .map(|(i, number)| match v1::Verdict::try_from(*number) {
            Ok(v1::Verdict::Allowed) => Ok(Verdict::Allowed),
            Ok(v1::Verdict::Open) => Ok(Verdict::Open),
            Ok(v1::Verdict::Leaked) => Ok(Verdict::Leaked),
            Ok(v1::Verdict::Blocked) => Ok(Verdict::Blocked),
            Ok(v1::Verdict::Unknown) => Ok(Verdict::Unknown),
            Ok(v1::Verdict::Within) => Ok(Verdict::Within),
            Ok(v1::Verdict::Unspecified) | Err(_) => Err(format!("verdicts[{i}]: {number} is no verdict")),
        })
        .collect::<Result<_, _>>()?;
    Ok(FlowFilter {
        cross_tenant: request.cross_tenant,
        from: request.from,
        to: request.to,
        verdicts,
    })
}

/// Adds the flows of one cluster.
pub fn add_flows(all: &mut v1::FlowList, cluster: &str, list: &FlowList) {
    all.judged_unix_ns = match all.judged_unix_ns {
        0 => list.judged_unix_ns,
        earlier => earlier.min(list.judged_unix_ns),
    };
    all.window_ns = list.window_ns;
    all.flows.extend(list.flows.iter().map(|f| flow(cluster, f)));
    all.left_out += list.left_out;
}

/// Most bytes first, at most as many as of one cluster, once all were added.
pub fn close_flows(all: &mut v1::FlowList) {
    let bytes = |f: &v1::FlowView| {
        f.traffic
            .as_ref()
            .map_or(0, |t| t.sent_bytes.saturating_add(t.received_bytes))
    };
    // Stable: of equals the order of their clusters stays.
    all.flows.sort_by_key(|f| std::cmp::Reverse(bytes(f)));
    all.left_out += all.flows.len().saturating_sub(MAX_FLOWS_SHOWN) as u64;
    all.flows.truncate(MAX_FLOWS_SHOWN);
}

fn flow(cluster: &str, flow: &FlowView) -> v1::FlowView {
    v1::FlowView {
        cluster: cluster.to_owned(),
        from: Some(end(&flow.from)),
        to: Some(end(&flow.to)),
        protocol: protocol(flow.protocol),
        port: u32::from(flow.port),
        verdict: verdict(flow.verdict).into(),
        reason: flow.reason.to_string(),
        seen_by: flow.seen_by.as_str().to_owned(),
        delivered: flow.delivered,
        traffic: Some(traffic(&flow.traffic)),
        first_seen_unix_ns: flow.first_seen_unix_ns,
        last_seen_unix_ns: flow.last_seen_unix_ns,
        bytes_per_second: flow.bytes_per_second,
    }
}

/// "TCP", "UDP", "ICMP", "ICMPv6", or the number.
pub fn protocol(number: u8) -> String {
    match Protocol::from_number(number) {
        Protocol::Other(other) if !matches!(other, 1 | 58) => other.to_string(),
        known => known.to_string(),
    }
}

fn end(end: &FlowEnd) -> v1::FlowEnd {
    v1::FlowEnd {
        tenant: end.tenant.to_string(),
        namespace: end.namespace.to_string(),
        pod: end.pod.to_string(),
        uid: end.uid.to_string(),
        node: end.node.to_string(),
        address: end.address.clone(),
        kind: end.kind.to_owned(),
        unattributed: end.unattributed.map_or_else(String::new, |r| r.to_string()),
    }
}

fn verdict(verdict: Verdict) -> v1::Verdict {
    match verdict {
        Verdict::Allowed => v1::Verdict::Allowed,
        Verdict::Open => v1::Verdict::Open,
        Verdict::Leaked => v1::Verdict::Leaked,
        Verdict::Blocked => v1::Verdict::Blocked,
        Verdict::Unknown => v1::Verdict::Unknown,
        Verdict::Within => v1::Verdict::Within,
    }
}

fn traffic(t: &core::Traffic) -> v1::Traffic {
    v1::Traffic {
        sent_packets: t.sent_packets,
        sent_bytes: t.sent_bytes,
        received_packets: t.received_packets,
        received_bytes: t.received_bytes,
        opened: t.opened,
        established: t.established,
        refused: t.refused,
        reset: t.reset,
        timed_out: t.timed_out,
    }
}

/// Sums between tenants.
pub(super) fn between(cluster: &str, snapshot: &Snapshot) -> Vec<v1::TenantTraffic> {
    let rows = snapshot.traffic.iter().map(|t| v1::TenantTraffic {
        cluster: cluster.to_owned(),
        from: t.from.to_string(),
        to: t.to.to_string(),
        verdict: verdict(t.verdict).into(),
        bytes: t.bytes,
        packets: t.packets,
        connections: t.connections,
        bytes_per_second: t.bytes_per_second,
    });
    rows.collect()
}

pub(super) fn unattributed(cluster: &str, snapshot: &Snapshot) -> Vec<v1::Unattributed> {
    let rows = snapshot.unattributed.iter().map(|u| v1::Unattributed {
        cluster: cluster.to_owned(),
        reason: u.reason.to_string(),
        bytes: u.bytes,
        packets: u.packets,
        bytes_per_second: u.bytes_per_second,
    });
    rows.collect()
}

/// Of one end only: `to` is empty.
pub(super) fn folded(cluster: &str, snapshot: &Snapshot) -> Vec<v1::TenantTraffic> {
    let rows = snapshot.folded.iter().map(|f| v1::TenantTraffic {
        cluster: cluster.to_owned(),
        from: f.tenant.to_string(),
        to: String::new(),
        verdict: v1::Verdict::Unspecified.into(),
        bytes: f.bytes,
        packets: f.packets,
        connections: f.connections,
        bytes_per_second: f.bytes_per_second,
    });
    rows.collect()
}
