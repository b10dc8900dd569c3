//! Figures over the observed time, from the agent's exact counters.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use partywall_proto::v1::Traffic;
use serde::Serialize;

use crate::{
    memory::Memory,
    record::{PodTotals, Who},
    scenario::{Measure, What},
};

/// A measured figure and whether it is within its bounds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measured {
    #[serde(flatten)]
    pub(crate) measure: Measure,
    pub(crate) value: f64,
    pub(crate) ok: bool,
}

impl Measured {
    /// "stolen_cores blue/web by red 0.312 (0.05..0.9)"
    pub(crate) fn title(&self) -> String {
        let Measure {
            what,
            pod,
            by,
            min,
            max,
        } = &self.measure;
        let by = by.as_ref().map_or_else(String::new, |by| format!(" by {by}"));
        let bound = |bound: &Option<f64>| bound.map_or_else(String::new, |bound| bound.to_string());
        let outside = if self.ok { "" } else { " OUTSIDE" };
        format!(
            "{} {pod}{by} {:.3} ({}..{}){outside}",
            what.name(),
            self.value,
            bound(min),
            bound(max)
        )
    }
}

/// Who is whose: pods by UID, everything that is no pod is the system's.
#[derive(Debug, Default)]
pub(crate) struct Tenants {
    pub(crate) by_uid: BTreeMap<String, String>,
    /// Of pods, by `namespace/name`.
    pub(crate) addresses: BTreeMap<String, Vec<IpAddr>>,
}

impl Tenants {
    fn of(&self, who: &Who) -> &str {
        match who {
            Who::Pod(uid) => self.by_uid.get(uid).map_or("unknown", String::as_str),
            Who::Host(_) => "system",
            Who::Container { .. } | Who::Unknown(_) => "unknown",
        }
    }
}

/// `totals`: of every pod that bore the measure's name, over the observed time. `datagrams`: what their work sent and received, by its
/// own count.
pub(crate) fn measure(
    measure: &Measure,
    totals: &[PodTotals],
    datagrams: u64,
    own_tenant: &str,
    tenants: &Tenants,
    observed: Duration,
) -> Measured {
    let sum = |field: fn(&PodTotals) -> u64| nanoseconds(totals.iter().map(field).sum());
    let cores = |ns: f64| ns / nanoseconds(u64::try_from(observed.as_nanos()).unwrap_or(u64::MAX));
    let stolen_by = |tenant: &str| match &measure.by {
        Some(by) => by == tenant,
        // Stolen is what other tenants took; what the system or nobody known took is not.
        None => ![own_tenant, "system", "unknown"].contains(&tenant),
    };
    // Both ways, as the pod's own sockets have it.
    let peers = measure.by.as_ref().map(|by| {
        let known = tenants.addresses.get(by);
        known.map_or(&[][..], Vec::as_slice)
    });
    let flows = |figure: &dyn Fn(&Traffic) -> u64| {
        nanoseconds(totals.iter().map(|pod| figure(&pod.traffic.with(peers))).sum())
    };
    let packets = |traffic: &Traffic| traffic.sent_packets + traffic.received_packets;
    let value = match measure.what {
        What::RunCores => cores(sum(|pod| pod.run_ns)),
        What::WaitCores => cores(sum(|pod| pod.wait_ns)),
        What::UnresolvedShare => match sum(|pod| pod.wait_ns) {
            0.0 => 0.0,
            wait_ns => sum(|pod| pod.unresolved_ns) / wait_ns,
        },
        What::StolenCores => {
            let rows = totals.iter().flat_map(|pod| &pod.ran);
            cores(nanoseconds(
                rows.filter(|(who, _)| stolen_by(tenants.of(who)))
                    .map(|(_, ns)| ns)
                    .sum(),
            ))
        }
        What::MemoryBytes => {
            let observed_ns = nanoseconds(u64::try_from(observed.as_nanos()).unwrap_or(u64::MAX));
            of_memory(totals, |memory| memory.mean_bytes(observed_ns))
        }
        What::StallSeconds => {
            of_memory(totals, |memory| {
                let limit = told(memory.limit_stall_ns);
                let node = told(memory.node_stall_ns);
                match measure.by.as_deref() {
                    Some("limit") => limit,
                    Some("node") => node,
                    _ => limit + node,
                }
            }) / 1e9
        }
        What::FlowBytes => flows(&|traffic| traffic.sent_bytes + traffic.received_bytes),
        What::FlowPackets => flows(&packets),
        What::FlowConnections => flows(&|traffic| traffic.established),
        What::LostShare => {
            let folded: u64 = totals.iter().map(|pod| packets(&pod.traffic.folded)).sum();
            match flows(&packets) + nanoseconds(folded) {
                0.0 => f64::NAN,
                all => nanoseconds(folded) / all,
            }
        }
        // Nothing compared with nothing says nothing.
        What::MiscountedPackets if datagrams == 0 => f64::NAN,
        What::MiscountedPackets => (flows(&packets) - nanoseconds(datagrams)).abs(),
    };
    let ok = value.is_finite()
        && measure.min.is_none_or(|min| value >= min)
        && measure.max.is_none_or(|max| value <= max);
    Measured {
        measure: measure.clone(),
        value,
        ok,
    }
}

/// Summed over pods; not a number, and so outside any bounds, where the agent does not tell it of each.
fn of_memory(totals: &[PodTotals], figure: impl Fn(&Memory) -> f64) -> f64 {
    let of_pod = |pod: &PodTotals| pod.memory.as_ref().map_or(f64::NAN, &figure);
    totals.iter().map(of_pod).sum()
}

fn told(ns: Option<u64>) -> f64 {
    ns.map_or(f64::NAN, nanoseconds)
}

#[allow(clippy::cast_precision_loss, reason = "exact below 104 days of nanoseconds")]
pub(crate) fn nanoseconds(ns: u64) -> f64 {
    ns as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use partywall_proto::v1::{MemorySample, Reclaim};

    #[test]
    fn memory_is_a_mean_and_stalls_are_sums() {
        let reclaim = |stall_ns| {
            Some(Reclaim {
                stall_ns,
                ..Reclaim::default()
            })
        };
        let sample = MemorySample {
            current_bytes: Some(1_000),
            limit_reclaim: reclaim(2_000_000_000),
            node_reclaim: reclaim(500_000_000),
            ..MemorySample::default()
        };
        let mut memory = Memory::default();
        memory.take(&sample, 0).unwrap();
        let known = PodTotals {
            memory: Some(memory.until(5_000_000_000)),
            ..PodTotals::default()
        };
        let figure = |what, by: Option<&str>, totals: &[PodTotals]| {
            let entry = Measure {
                what,
                pod: String::new(),
                by: by.map(str::to_owned),
                min: Some(0.0),
                max: None,
            };
            let observed = Duration::from_secs(10);
            let measured = measure(&entry, totals, 0, "blue", &Tenants::default(), observed);
            measured.ok.then_some(measured.value)
        };
        let one = std::slice::from_ref(&known);
        assert_eq!(figure(What::MemoryBytes, None, one), Some(500.0));
        assert_eq!(figure(What::StallSeconds, None, one), Some(2.5));
        assert_eq!(figure(What::StallSeconds, Some("limit"), one), Some(2.0));
        assert_eq!(figure(What::StallSeconds, Some("node"), one), Some(0.5));
        let unknown = [known, PodTotals::default()];
        assert_eq!(figure(What::MemoryBytes, None, &unknown), None);
        assert_eq!(figure(What::StallSeconds, None, &unknown), None);
    }

    #[test]
    fn packets_are_held_against_the_sockets_own_count() {
        let mut totals = PodTotals::default();
        let traffic = Traffic {
            sent_packets: 800,
            received_packets: 799,
            ..Traffic::default()
        };
        totals.traffic.by_peer.insert([10, 244, 0, 2].into(), traffic);
        // What found no place was not counted as anybody's.
        totals.traffic.folded = traffic;
        let entry = Measure {
            what: What::MiscountedPackets,
            pod: String::new(),
            by: None,
            min: None,
            max: Some(0.0),
        };
        let miscounted = |datagrams| {
            let totals = std::slice::from_ref(&totals);
            let observed = Duration::from_secs(8);
            let measured = measure(&entry, totals, datagrams, "green", &Tenants::default(), observed);
            (measured.value, measured.ok)
        };
        assert_eq!(miscounted(1_599), (0.0, true));
        assert_eq!(miscounted(1_600), (1.0, false));
        // Counted twice is as wrong.
        assert_eq!(miscounted(1_597), (2.0, false));
        assert!(!miscounted(0).1);
    }

    fn value(what: What, by: Option<&str>, min: f64, max: f64) -> (f64, bool) {
        let entry = Measure {
            what,
            pod: String::new(),
            by: by.map(str::to_owned),
            min: Some(min),
            max: Some(max),
        };
        let pod = |uid: &str| Who::Pod(uid.to_owned());
        let totals = PodTotals {
            run_ns: 5_000_000_000,
            wait_ns: 4_000_000_000,
            unresolved_ns: 1_000_000_000,
            ran: vec![
                (pod("red-1"), 500_000_000),
                (pod("red-2"), 500_000_000),
                (pod("blue-2"), 700_000_000),
                (Who::Host("/".to_owned()), 300_000_000),
                (pod("green"), 250_000_000),
            ],
            ..PodTotals::default()
        };
        let by_uid = [
            ("red-1", "red"),
            ("red-2", "red"),
            ("blue-2", "blue"),
            ("green", "green"),
        ];
        let tenants = Tenants {
            by_uid: by_uid
                .map(|(uid, tenant)| (uid.to_owned(), tenant.to_owned()))
                .into(),
            ..Tenants::default()
        };
        let measured = measure(&entry, &[totals], 0, "blue", &tenants, Duration::from_secs(10));
        (measured.value, measured.ok)
    }

    #[test]
    fn figures_are_rates_over_the_observed_time() {
        for (what, by, expected) in [
            (What::RunCores, None, 0.5),
            (What::WaitCores, None, 0.4),
            (What::UnresolvedShare, None, 0.25),
            (What::StolenCores, Some("red"), 0.1),
            (What::StolenCores, Some("system"), 0.03),
            (What::StolenCores, None, 0.125),
        ] {
            let (found, ok) = value(what, by, expected - 1e-9, expected + 1e-9);
            assert!(ok, "{what:?} by {by:?}: {found}, not {expected}");
        }
        assert!(!value(What::RunCores, None, 0.6, 1.0).1);
        assert!(!value(What::RunCores, None, 0.1, 0.4).1);
    }
}
