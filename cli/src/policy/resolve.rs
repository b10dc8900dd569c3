//! An end of a flow, as the aggregator names it → what it is to the fence.

use std::fmt;
use std::net::IpAddr;

use partywall_aggregator_core::fence::{self, Direction, Family, Traffic};
use partywall_aggregator_core::identity::Protocol;

use super::Known;
use super::seen::Seen;
use crate::flows::End;

/// Why nothing can be said of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    Gone(String),
    Unnamed(String),
    Service(String),
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone(pod) => write!(f, "{pod} is not among the cluster's pods"),
            Self::Unnamed(why) => write!(f, "an end cannot be named: {why}"),
            Self::Service(name) => write!(
                f,
                "it is not known which pods service {name} leads to: no EndpointSlice says so"
            ),
        }
    }
}

/// What the fence is asked for a flow: one question, or one for each endpoint of a Service where it is not known which one was reached.
pub(super) fn resolve<'a>(known: &'a Known, seen: &Seen) -> Result<Vec<Traffic<'a>>, Lost> {
    let from = one(known, &seen.flow.from, seen.from)?;
    let to = if seen.flow.to.kind == "service" {
        behind(known, seen)?
    } else {
        vec![(one(known, &seen.flow.to, seen.to)?, seen.port)]
    };
    // The two ends of a flow have addresses of one family.
    let family = seen.to.or(seen.from).map(Family::of);
    let traffic = to.into_iter().map(|(to, port)| Traffic {
        from,
        to,
        protocol: seen.protocol,
        port,
        family,
    });
    Ok(traffic.collect())
}

/// Of a flow that does not resolve: the ends that can be named, and every pod that may be behind a Service.
pub(super) fn ends<'a>(known: &'a Known, seen: &Seen) -> Vec<(Direction, fence::End<'a>)> {
    let (from, to) = (&seen.flow.from, &seen.flow.to);
    let mut ends = Vec::new();
    ends.extend(one(known, from, seen.from).map(|end| (Direction::Egress, end)));
    if to.kind == "service" {
        let pods = known.fence.pods().iter();
        let here = pods.filter(|pod| *pod.namespace.name == *to.namespace);
        ends.extend(here.map(|pod| (Direction::Ingress, fence::End::Pod(pod))));
    } else {
        ends.extend(one(known, to, seen.to).map(|end| (Direction::Ingress, end)));
    }
    ends
}

fn one<'a>(known: &'a Known, end: &End, address: Option<IpAddr>) -> Result<fence::End<'a>, Lost> {
    let unnamed = |why: &str| Lost::Unnamed(format!("{} ({why})", end.address));
    if !end.unattributed.is_empty() {
        return Err(unnamed(&end.unattributed));
    }
    match (end.kind.as_str(), address) {
        ("", _) if !end.pod.is_empty() => {
            let pod = known.fence.pod_by_uid(&end.uid);
            let pod = pod.or_else(|| known.fence.pod(&end.namespace, &end.pod));
            pod.map(|pod| fence::End::Pod(pod))
                .ok_or_else(|| Lost::Gone(end.name()))
        }
        ("" | "service", _) | (_, None) => Err(unnamed("it is not said what it is")),
        ("node", Some(address)) => Ok(match known.fence.node(&end.node) {
            Some(node) => fence::End::Node(node, Some(address)),
            None => fence::End::Address(address),
        }),
        (_, Some(address)) => Ok(fence::End::Address(address)),
    }
}

fn behind<'a>(known: &'a Known, seen: &Seen) -> Result<Vec<(fence::End<'a>, u16)>, Lost> {
    let number = match seen.protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
        Protocol::Other(number) => number,
    };
    let addresses = known.directory.addresses();
    let endpoints = seen.to.and_then(|a| addresses.behind(a, number, seen.port));
    let endpoints = endpoints.unwrap_or_default();
    if endpoints.is_empty() {
        let end = &seen.flow.to;
        return Err(Lost::Service(format!("{}/{}", end.namespace, end.pod)));
    }
    Ok(endpoints
        .iter()
        .map(|(a, port)| (known.fence.at(*a), *port))
        .collect())
}
