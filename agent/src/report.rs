//! What changed, as it goes over the wire.

use std::net::Ipv6Addr;

use bytes::Bytes;
use partywall_abi::{FlowName, LossReason, ROLE_ACCEPTED, ROLE_OPENED, Reclaimed, address_bytes};
use partywall_agent_core::flows::{FlowChanges, Totals};
use partywall_agent_core::fold::{LedgerRow, MemorySample, Sample, Who, Why};
use partywall_agent_core::memory::Pressure;
use partywall_proto::v1;

use crate::cost::OwnCost;
use crate::kernel::features::Feature;
use crate::kernel::load::Kernel;
use crate::reader::{ReadLosses, Reader, Reading, ReportedKill};

/// The parts of a report that say what pods did. `reclaim`: whether it is counted at all.
pub fn fill(report: &mut v1::Report, reading: Reading, reclaim: bool) {
    let changes = reading.changes;
    report.entities = changes
        .entities
        .into_iter()
        .map(|(index, who, born_ns)| entity(index, who, born_ns))
        .collect();
    (report.ended, report.ended_boot_ns) = changes.ended.into_iter().unzip();
    report.cpu = changes
        .cpu
        .into_iter()
        .map(|(index, sample)| cpu(index, &sample))
        .collect();
    report.ledger = changes
        .ledger
        .into_iter()
        .map(|(index, row)| ledger(index, row))
        .collect();
    report.memory = changes
        .memory
        .into_iter()
        .map(|(index, sample)| memory(index, &sample, reclaim))
        .collect();
    report.oom_kills = reading.oom_kills.iter().map(oom_kill).collect();
    flows(report, reading.flows);
}

fn flows(report: &mut v1::Report, changes: FlowChanges) {
    report.flows = changes
        .flows
        .into_iter()
        .map(|(index, entity, name)| flow(index, entity, &name))
        .collect();
    report.flow_samples = changes
        .samples
        .into_iter()
        .map(|(flow, totals)| v1::FlowSample {
            flow,
            traffic: Some(traffic(&totals)),
        })
        .collect();
    report.flows_ended = changes.ended;
    report.folded = changes
        .folded
        .into_iter()
        .map(|(entity, totals)| v1::FoldedTraffic {
            entity,
            traffic: Some(traffic(&totals)),
        })
        .collect();
}

fn flow(index: u32, entity: u32, name: &FlowName) -> v1::Flow {
    let role = match name.role {
        ROLE_OPENED => v1::Role::Opened,
        ROLE_ACCEPTED => v1::Role::Accepted,
        _ => v1::Role::Unspecified,
    };
    v1::Flow {
        index,
        entity,
        local: address(name.local),
        peer: address(name.peer),
        protocol: u32::from(name.protocol),
        port: u32::from(name.port),
        role: role.into(),
    }
}

/// 4 bytes where it is an IPv4 address, else 16.
fn address(words: [u64; 2]) -> Bytes {
    let address = Ipv6Addr::from(address_bytes(words));
    address.to_ipv4_mapped().map_or_else(
        || Bytes::copy_from_slice(&address.octets()),
        |mapped| Bytes::copy_from_slice(&mapped.octets()),
    )
}

fn traffic(totals: &Totals) -> v1::Traffic {
    v1::Traffic {
        sent_packets: totals.sent_packets,
        sent_bytes: totals.sent_bytes,
        received_packets: totals.received_packets,
        received_bytes: totals.received_bytes,
        opened: totals.opened,
        established: totals.established,
        refused: totals.refused,
        reset: totals.reset,
        timed_out: totals.timed_out,
    }
}

/// What the agent could see, and what was lost where.
pub fn coverage(features: &[Feature], losses: Vec<v1::Loss>) -> v1::Coverage {
    let features = features
        .iter()
        .map(|feature| v1::Feature {
            name: feature.name.to_owned(),
            present: feature.present,
            reason: if feature.present {
                String::new()
            } else {
                feature.reason.clone()
            },
        })
        .collect();
    v1::Coverage { features, losses }
}

/// What was lost before it was in a report.
pub fn losses(reader: &Reader) -> Vec<v1::Loss> {
    let loss = |stage: &str, reason: &str, unit: &str, count| v1::Loss {
        stage: stage.to_owned(),
        reason: reason.to_owned(),
        unit: unit.to_owned(),
        count,
    };
    let mut losses: Vec<v1::Loss> = reader
        .kernel
        .maps
        .losses()
        .map(|(reason, count)| match reason {
            LossReason::Stall => loss("probe", reason.name(), "reclaims", count),
            LossReason::FlowInsert => loss("probe", reason.name(), "flows", count),
            LossReason::RingFull => loss("ring", reason.name(), "events", count),
            _ => loss("probe", reason.name(), "switches", count),
        })
        .collect();
    let ReadLosses {
        in_flight,
        mismatch,
        flush,
        malformed_events,
        cut_paths,
        give_back,
        oom_kills,
        flow_places,
        tree_cut,
    } = reader.losses();
    losses.extend([
        loss("read", "in_flight", "readings", in_flight),
        loss("read", "mismatch", "readings", mismatch),
        loss("read", "flush", "cpus", flush),
        loss("ring", "malformed", "events", malformed_events),
        loss("ring", "path_cut", "events", cut_paths),
        loss("read", "give_back", "slots", give_back),
        loss("ring", "oom_kills", "events", oom_kills),
        loss("read", "flow_places", "places", flow_places),
        loss("read", "tree_cut", "scans", tree_cut),
        loss("attribute", "too_many_cgroups", "cgroups", reader.turned_away()),
    ]);
    losses
}

/// What the agent itself costs.
pub fn cost(own: &OwnCost, kernel: Option<&Kernel>) -> v1::AgentCost {
    v1::AgentCost {
        cpu_ns: own.cpu_ns,
        memory_bytes: own.memory_bytes,
        memory_source: own.memory_source.to_owned(),
        map_bytes: kernel.map_or(0, |kernel| kernel.maps.bytes()),
        programs: kernel
            .map_or_else(Vec::new, Kernel::program_runs)
            .into_iter()
            .map(|program| v1::ProgramCost {
                name: program.name.to_owned(),
                run_ns: program.run_ns,
                runs: program.runs,
            })
            .collect(),
    }
}

fn entity(index: u32, who: Who, born_boot_ns: u64) -> v1::Entity {
    let kind = match who {
        Who::Pod { uid } => v1::entity::Kind::Pod(v1::Pod { uid }),
        Who::Container { pod, id } => v1::entity::Kind::Container(v1::Container { pod, id }),
        Who::Host { path } => v1::entity::Kind::Host(v1::HostCgroup { path }),
        Who::Unknown(why) => {
            let reason = match why {
                Why::PathGone => v1::UnknownReason::PathGone,
                Why::NoSlot => v1::UnknownReason::NoSlot,
                Why::UnreadablePath => v1::UnknownReason::UnreadablePath,
                Why::Folded => v1::UnknownReason::Folded,
            };
            v1::entity::Kind::Unknown(v1::Unknown {
                reason: reason.into(),
            })
        }
    };
    v1::Entity {
        index,
        kind: Some(kind),
        born_boot_ns,
    }
}

fn cpu(entity: u32, sample: &Sample) -> v1::CpuSample {
    let used = sample
        .waits
        .iter()
        .rposition(|count| *count != 0)
        .map_or(0, |last| last + 1);
    v1::CpuSample {
        entity,
        run_ns: sample.run_ns,
        wait_ns: sample.wait_ns,
        waits: sample.waits.iter().take(used).copied().collect(),
    }
}

fn ledger(waiter: u32, row: LedgerRow) -> v1::LedgerRow {
    let (runners, ran_ns) = row.ran_ns.into_iter().unzip();
    v1::LedgerRow {
        waiter,
        runners,
        ran_ns,
        self_ns: row.self_ns,
        idle_ns: row.idle_ns,
        steal_ns: row.steal_ns,
        throttled_ns: row.throttled_ns,
        unresolved_ns: row.unresolved_ns,
    }
}

fn memory(entity: u32, sample: &MemorySample, reclaim: bool) -> v1::MemorySample {
    let files = &sample.files;
    let pressure = |pressure: Option<Pressure>| {
        pressure.map(|pressure| v1::Pressure {
            some_us: pressure.some_us,
            full_us: pressure.full_us,
        })
    };
    let reclaimed = |reclaimed: &Reclaimed| {
        reclaim.then_some(v1::Reclaim {
            stall_ns: reclaimed.stall_ns,
            pages: reclaimed.pages,
            times: reclaimed.times,
        })
    };
    v1::MemorySample {
        entity,
        current_bytes: files.current_bytes,
        working_set_bytes: files.working_set_bytes(),
        limit_bytes: files.limit_bytes,
        events: files.events.map(|events| v1::MemoryEvents {
            high: events.high,
            max: events.max,
            oom: events.oom,
            oom_kill: events.oom_kill,
        }),
        major_faults: files.stat.map(|stat| stat.major_faults),
        refaults: files.stat.map(|stat| stat.refaults),
        cpu_pressure: pressure(files.pressure.cpu),
        memory_pressure: pressure(files.pressure.memory),
        io_pressure: pressure(files.pressure.io),
        limit_reclaim: reclaimed(&sample.reclaim.limit),
        node_reclaim: reclaimed(&sample.reclaim.node),
    }
}

fn oom_kill(kill: &ReportedKill) -> v1::OomKill {
    let scope = match kill.told.at_limit {
        Some(true) => v1::OomScope::Limit,
        Some(false) => v1::OomScope::Node,
        None => v1::OomScope::Unspecified,
    };
    v1::OomKill {
        at_boot_ns: kill.told.at_ns,
        trigger: kill.trigger,
        victim: kill.victim,
        trigger_pid: kill.told.trigger_pid,
        victim_pid: kill.told.victim_pid,
        scope: scope.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn trailing_empty_buckets_are_left_out() {
        let mut sample = Sample {
            run_ns: 5,
            wait_ns: 7,
            ..Sample::default()
        };
        assert_eq!(cpu(3, &sample).waits, Vec::<u64>::new());
        sample.waits[2] = 9;
        assert_eq!(cpu(3, &sample).waits, [0, 0, 9]);
    }

    #[test]
    fn a_row_is_parallel_lists() {
        let row = LedgerRow {
            ran_ns: BTreeMap::from([(4, 40), (9, 90)]),
            idle_ns: 1,
            ..LedgerRow::default()
        };
        let wire = ledger(2, row);
        assert_eq!(
            (wire.runners, wire.ran_ns, wire.idle_ns),
            (vec![4, 9], vec![40, 90], 1)
        );
    }
}
