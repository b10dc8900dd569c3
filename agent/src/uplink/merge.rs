//! Two reports made one, where there is no room for both.

use std::collections::BTreeMap;

use partywall_proto::v1::{Flow, FlowSample, FoldedTraffic, LedgerRow, Report};

/// The report that tells what `old` and then `next` would have told. Counters are cumulative but sent only when they
/// change: a counter that rests after `old` would never be heard of again if `old` were thrown away. What is lost is when
/// within both intervals it moved.
pub(super) fn merge(old: Report, next: Report) -> Report {
    let mut merged = next;
    merged.interval_ns = merged.interval_ns.saturating_add(old.interval_ns);
    merged.entities.splice(0..0, old.entities);
    if !(old.ended_boot_ns.is_empty() && merged.ended_boot_ns.is_empty()) {
        // Parallel to `ended`, or left out; 0 where it is not known.
        let mut ended_boot_ns = old.ended_boot_ns;
        ended_boot_ns.resize(old.ended.len(), 0);
        merged.ended_boot_ns.resize(merged.ended.len(), 0);
        merged.ended_boot_ns.splice(0..0, ended_boot_ns);
    }
    merged.ended.splice(0..0, old.ended);

    let mut cpu: BTreeMap<u32, _> = old
        .cpu
        .into_iter()
        .map(|sample| (sample.entity, sample))
        .collect();
    cpu.extend(merged.cpu.into_iter().map(|sample| (sample.entity, sample)));
    merged.cpu = cpu.into_values().collect();

    let mut ledger: BTreeMap<u32, _> = old.ledger.into_iter().map(|row| (row.waiter, row)).collect();
    for row in merged.ledger {
        let row = match ledger.remove(&row.waiter) {
            Some(old) => merge_rows(old, row),
            None => row,
        };
        ledger.insert(row.waiter, row);
    }
    merged.ledger = ledger.into_values().collect();

    // A sample tells everything: the newer one stands for both.
    let mut memory: BTreeMap<u32, _> = old
        .memory
        .into_iter()
        .map(|sample| (sample.entity, sample))
        .collect();
    memory.extend(merged.memory.into_iter().map(|sample| (sample.entity, sample)));
    merged.memory = memory.into_values().collect();
    merged.oom_kills.splice(0..0, old.oom_kills);
    merge_flows(
        &mut merged,
        old.flows,
        old.flow_samples,
        old.flows_ended,
        old.folded,
    );
    merged
}

fn merge_flows(
    merged: &mut Report,
    flows: Vec<Flow>,
    samples: Vec<FlowSample>,
    ended: Vec<u32>,
    folded: Vec<FoldedTraffic>,
) {
    merged.flows.splice(0..0, flows);
    merged.flows_ended.splice(0..0, ended);
    let newer = std::mem::take(&mut merged.flow_samples);
    let by_flow: BTreeMap<u32, _> = samples
        .into_iter()
        .chain(newer)
        .map(|sample| (sample.flow, sample))
        .collect();
    merged.flow_samples = by_flow.into_values().collect();
    let newer = std::mem::take(&mut merged.folded);
    let by_entity: BTreeMap<u32, _> = folded
        .into_iter()
        .chain(newer)
        .map(|folded| (folded.entity, folded))
        .collect();
    merged.folded = by_entity.into_values().collect();
}

fn merge_rows(old: LedgerRow, mut next: LedgerRow) -> LedgerRow {
    let mut ran: BTreeMap<u32, u64> = old.runners.into_iter().zip(old.ran_ns).collect();
    ran.extend(next.runners.into_iter().zip(next.ran_ns));
    (next.runners, next.ran_ns) = ran.into_iter().unzip();
    next
}

#[cfg(test)]
mod tests {
    use partywall_proto::v1::{AgentCost, CpuSample, Entity, MemorySample, OomKill};

    use super::*;

    fn sample(entity: u32, run_ns: u64) -> CpuSample {
        CpuSample {
            entity,
            run_ns,
            ..CpuSample::default()
        }
    }

    fn entity(index: u32) -> Entity {
        Entity {
            index,
            ..Entity::default()
        }
    }

    #[test]
    fn the_newer_figure_wins_and_a_resting_one_stays() {
        let row = |waiter, runners: &[u32], ran_ns: &[u64], self_ns| LedgerRow {
            waiter,
            runners: runners.to_vec(),
            ran_ns: ran_ns.to_vec(),
            self_ns,
            ..LedgerRow::default()
        };
        let old = Report {
            sequence: 1,
            interval_ns: 1_000,
            entities: vec![entity(1), entity(2)],
            ended: vec![1],
            cpu: vec![sample(1, 10), sample(2, 20)],
            ledger: vec![row(1, &[2], &[5], 7), row(2, &[1, 3], &[6, 8], 9)],
            cost: Some(AgentCost {
                cpu_ns: 1,
                ..AgentCost::default()
            }),
            ..Report::default()
        };
        let next = Report {
            sequence: 2,
            interval_ns: 1_001,
            captured_boot_ns: 77,
            entities: vec![entity(3)],
            ended: vec![2],
            cpu: vec![sample(3, 30), sample(2, 25)],
            ledger: vec![row(2, &[4, 3], &[1, 80], 90)],
            cost: Some(AgentCost {
                cpu_ns: 2,
                ..AgentCost::default()
            }),
            ..Report::default()
        };
        let expected = Report {
            sequence: 2,
            interval_ns: 2_001,
            captured_boot_ns: 77,
            entities: vec![entity(1), entity(2), entity(3)],
            ended: vec![1, 2],
            cpu: vec![sample(1, 10), sample(2, 25), sample(3, 30)],
            ledger: vec![row(1, &[2], &[5], 7), row(2, &[1, 3, 4], &[6, 80, 1], 90)],
            cost: Some(AgentCost {
                cpu_ns: 2,
                ..AgentCost::default()
            }),
            ..Report::default()
        };
        assert_eq!(merge(old, next), expected);
    }

    #[test]
    fn the_newer_memory_sample_stands_for_both_and_every_kill_is_told() {
        let memory = |entity, current_bytes| MemorySample {
            entity,
            current_bytes: Some(current_bytes),
            ..MemorySample::default()
        };
        let kill = |at_boot_ns| OomKill {
            at_boot_ns,
            ..OomKill::default()
        };
        let old = Report {
            memory: vec![memory(1, 10), memory(2, 20)],
            oom_kills: vec![kill(5)],
            ..Report::default()
        };
        let next = Report {
            memory: vec![memory(2, 25), memory(3, 30)],
            oom_kills: vec![kill(6)],
            ..Report::default()
        };
        let merged = merge(old, next);
        assert_eq!(merged.memory, [memory(1, 10), memory(2, 25), memory(3, 30)]);
        assert_eq!(merged.oom_kills, [kill(5), kill(6)]);
    }

    #[test]
    fn times_of_ending_stay_parallel_to_what_ended() {
        let report = |ended: &[u32], ended_boot_ns: &[u64]| Report {
            ended: ended.to_vec(),
            ended_boot_ns: ended_boot_ns.to_vec(),
            ..Report::default()
        };
        let cases = [
            (
                report(&[1], &[10]),
                report(&[2, 3], &[20, 30]),
                report(&[1, 2, 3], &[10, 20, 30]),
            ),
            (report(&[1], &[]), report(&[2], &[20]), report(&[1, 2], &[0, 20])),
            (report(&[1], &[10]), report(&[2], &[]), report(&[1, 2], &[10, 0])),
            (report(&[1], &[]), report(&[2], &[]), report(&[1, 2], &[])),
            (report(&[], &[]), report(&[2], &[20]), report(&[2], &[20])),
        ];
        for (old, next, expected) in cases {
            assert_eq!(merge(old, next), expected);
        }
    }
}
