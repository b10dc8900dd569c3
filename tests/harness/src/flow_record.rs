//! What the agent reported of traffic, added up exactly.

use std::{collections::BTreeMap, net::IpAddr};

use partywall_proto::v1::{Flow, Report, Role, Traffic};

/// What a pod's sockets sent and received since the agent's start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodTraffic {
    pub(crate) by_peer: BTreeMap<IpAddr, Traffic>,
    /// Found no place.
    pub(crate) folded: Traffic,
}

impl PodTraffic {
    /// With these peers; `None`: with all.
    pub(crate) fn with(&self, peers: Option<&[IpAddr]>) -> Traffic {
        let mut sum = Traffic::default();
        for (peer, traffic) in &self.by_peer {
            if peers.is_none_or(|peers| peers.contains(peer)) {
                add(&mut sum, traffic);
            }
        }
        sum
    }
}

/// Flows and what was counted beside them, of one agent run.
#[derive(Debug, Default)]
pub(crate) struct FlowRecord {
    flows: BTreeMap<u32, Flow>,
    samples: BTreeMap<u32, Traffic>,
    folded: BTreeMap<u32, Traffic>,
    /// What a report said that cannot be.
    pub(crate) faults: Vec<String>,
}

impl FlowRecord {
    pub(crate) fn apply(&mut self, report: &Report) {
        for flow in &report.flows {
            let before = self.flows.insert(flow.index, flow.clone());
            if before.is_some_and(|before| before != *flow) {
                self.faults.push(format!("flow {} became another", flow.index));
            }
        }
        for sample in &report.flow_samples {
            let Some(traffic) = sample.traffic else { continue };
            if !self.flows.contains_key(&sample.flow) {
                self.faults
                    .push(format!("counters of flow {}, which was never told", sample.flow));
            }
            let before = self.samples.insert(sample.flow, traffic);
            if before.is_some_and(|before| goes_back(&before, &traffic)) {
                self.faults
                    .push(format!("counters of flow {} went back", sample.flow));
            }
        }
        for folded in &report.folded {
            let Some(traffic) = folded.traffic else { continue };
            let before = self.folded.insert(folded.entity, traffic);
            if before.is_some_and(|before| goes_back(&before, &traffic)) {
                self.faults.push(format!(
                    "what entity {} has without a place went back",
                    folded.entity
                ));
            }
        }
    }

    /// All that these entities' sockets did.
    pub(crate) fn pod(&self, entities: &[u32]) -> PodTraffic {
        let mut pod = PodTraffic {
            folded: self.folded_of(entities),
            ..PodTraffic::default()
        };
        for (index, flow) in self
            .flows
            .iter()
            .filter(|(_, flow)| entities.contains(&flow.entity))
        {
            if let (Some(peer), Some(traffic)) = (address(&flow.peer), self.samples.get(index)) {
                add(pod.by_peer.entry(peer).or_default(), traffic);
            }
        }
        pod
    }

    /// All that an entity's flows of this role sent and received, and how many these are.
    pub(crate) fn flows_of(&self, entities: &[u32], role: Role) -> (usize, Traffic) {
        let mut sum = Traffic::default();
        let mut count = 0;
        for (index, flow) in &self.flows {
            if entities.contains(&flow.entity) && flow.role() == role {
                count += 1;
                add(&mut sum, self.samples.get(index).unwrap_or(&Traffic::default()));
            }
        }
        (count, sum)
    }

    /// What found no place.
    pub(crate) fn folded_of(&self, entities: &[u32]) -> Traffic {
        let mut sum = Traffic::default();
        for entity in entities {
            add(&mut sum, self.folded.get(entity).unwrap_or(&Traffic::default()));
        }
        sum
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        _ => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    }
}

fn add(sum: &mut Traffic, more: &Traffic) {
    sum.sent_packets += more.sent_packets;
    sum.sent_bytes += more.sent_bytes;
    sum.received_packets += more.received_packets;
    sum.received_bytes += more.received_bytes;
    sum.opened += more.opened;
    sum.established += more.established;
    sum.refused += more.refused;
    sum.reset += more.reset;
    sum.timed_out += more.timed_out;
}

fn goes_back(before: &Traffic, now: &Traffic) -> bool {
    before.sent_packets > now.sent_packets
        || before.sent_bytes > now.sent_bytes
        || before.received_packets > now.received_packets
        || before.received_bytes > now.received_bytes
        || before.opened > now.opened
        || before.established > now.established
        || before.refused > now.refused
        || before.reset > now.reset
        || before.timed_out > now.timed_out
}

#[cfg(test)]
mod tests {
    use super::*;
    use partywall_proto::v1::FlowSample;

    fn report(flow: u32, sent_packets: u64) -> Report {
        Report {
            flows: vec![Flow {
                index: flow,
                entity: 7,
                role: Role::Opened.into(),
                ..Flow::default()
            }],
            flow_samples: vec![FlowSample {
                flow,
                traffic: Some(Traffic {
                    sent_packets,
                    ..Traffic::default()
                }),
            }],
            ..Report::default()
        }
    }

    #[test]
    fn counters_add_up_over_flows_and_never_go_back() {
        let mut record = FlowRecord::default();
        record.apply(&report(1, 5));
        record.apply(&report(1, 9));
        record.apply(&report(2, 1));
        let (count, sum) = record.flows_of(&[7], Role::Opened);
        assert_eq!((count, sum.sent_packets), (2, 10));
        assert_eq!(record.flows_of(&[7], Role::Accepted).0, 0);
        assert_eq!(record.faults, [""; 0]);
        record.apply(&report(1, 8));
        assert_eq!(record.faults.len(), 1);
    }
}
