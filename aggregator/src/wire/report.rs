//! A `Report` as it came → a report that the core may look at.
//!
//! Names become labels, log fields and map keys, so each is checked here: not empty, not overlong, no control characters. Lists that the
//! kernel side bounds are bounded here as well. Counters and indices are not looked at: what they may say depends on the reports before.

use std::sync::Arc;

use partywall_aggregator_core::identity::is_object_name;
use partywall_aggregator_core::report as core;
use partywall_aggregator_core::report::{EntityKind, Outcome, Refusal, UnknownReason};
use partywall_proto::v1;

use super::flows;

/// Longest cgroup path: the kernel's PATH_MAX is 4,096, Kubernetes' own paths stay below 260.
const MAX_PATH: usize = 1_024;
/// UIDs have 36 characters, a static pod's hash 32, container ids 64.
const MAX_ID: usize = 128;
/// Feature, stage, reason, unit and program names, and reasons in words.
const MAX_NAME: usize = 64;
const MAX_WORDS: usize = 512;
/// Features, losses and programs of one agent: some twenty each.
const MAX_LIST: usize = 128;

/// # Errors
/// The first field that is wrong, with its value.
pub fn report(report: v1::Report) -> Result<core::Report, Refusal> {
    if !is_object_name(&report.node) {
        return refuse(
            "bad_name",
            "node",
            format!("{:?} is no node name", shorten(&report.node)),
        );
    }
    name("boot_id", &report.boot_id, MAX_NAME)?;
    let entities = report
        .entities
        .into_iter()
        .enumerate()
        .map(entity)
        .collect::<Result<_, _>>()?;
    Ok(core::Report {
        node: Arc::from(report.node),
        run: core::RunKey {
            boot_id: report.boot_id,
            agent_start_unix_ns: report.agent_start_unix_ns,
        },
        sequence: report.sequence,
        captured_unix_ns: report.captured_unix_ns,
        clock_offset_ns: None,
        waited_ns: report.waited_ns,
        captured_boot_ns: report.captured_boot_ns,
        online_cpus: report.online_cpus,
        entities,
        ended: report.ended,
        ended_boot_ns: report.ended_boot_ns,
        cpu: report.cpu.into_iter().map(cpu).collect(),
        ledger: report.ledger.into_iter().map(row).collect(),
        memory: report.memory.into_iter().map(memory).collect(),
        oom_kills: report.oom_kills.iter().map(oom_kill).collect(),
        flows: report
            .flows
            .iter()
            .enumerate()
            .map(flows::flow)
            .collect::<Result<_, _>>()?,
        flow_samples: report
            .flow_samples
            .into_iter()
            .enumerate()
            .map(flows::sample)
            .collect::<Result<_, _>>()?,
        flows_ended: report.flows_ended,
        folded: report
            .folded
            .into_iter()
            .enumerate()
            .map(flows::folded)
            .collect::<Result<_, _>>()?,
        coverage: coverage(report.coverage.unwrap_or_default())?,
        cost: cost(report.cost.unwrap_or_default())?,
    })
}

pub fn receipt(sequence: u64, receipt: core::Receipt) -> v1::Receipt {
    let (outcome, reason) = match receipt.outcome {
        Outcome::Accepted => (v1::Outcome::Accepted, String::new()),
        Outcome::Duplicate => (v1::Outcome::Duplicate, String::new()),
        Outcome::Refused(refusal) => (v1::Outcome::Refused, refusal.to_string()),
    };
    v1::Receipt {
        sequence,
        outcome: outcome.into(),
        reason,
        announce_all: receipt.announce_all,
    }
}

fn entity((i, entity): (usize, v1::Entity)) -> Result<core::Entity, Refusal> {
    let kind = match entity.kind {
        Some(v1::entity::Kind::Pod(pod)) => {
            name(&format!("entities[{i}].pod.uid"), &pod.uid, MAX_ID)?;
            EntityKind::Pod(Arc::from(pod.uid))
        }
        Some(v1::entity::Kind::Container(container)) => {
            name(&format!("entities[{i}].container.id"), &container.id, MAX_ID)?;
            EntityKind::Container {
                pod: container.pod,
                id: container.id,
            }
        }
        Some(v1::entity::Kind::Host(host)) => {
            let field = format!("entities[{i}].host.path");
            text(&field, &host.path, MAX_PATH)?;
            if !host.path.starts_with('/') {
                return refuse(
                    "bad_name",
                    field,
                    format!("{:?} does not begin with `/`", shorten(&host.path)),
                );
            }
            EntityKind::Host(Arc::from(host.path))
        }
        Some(v1::entity::Kind::Unknown(unknown)) => EntityKind::Unknown(match unknown.reason() {
            v1::UnknownReason::PathGone => UnknownReason::PathGone,
            v1::UnknownReason::NoSlot => UnknownReason::NoSlot,
            // A reason that a newer agent knows is still a path that nobody could read.
            v1::UnknownReason::UnreadablePath | v1::UnknownReason::Unspecified => {
                UnknownReason::UnreadablePath
            }
            v1::UnknownReason::Folded => UnknownReason::Folded,
        }),
        None => return refuse("malformed", format!("entities[{i}].kind"), "is absent".into()),
    };
    Ok(core::Entity {
        index: entity.index,
        kind,
        born_boot_ns: entity.born_boot_ns,
    })
}

fn cpu(sample: v1::CpuSample) -> core::CpuSample {
    core::CpuSample {
        entity: sample.entity,
        run_ns: sample.run_ns,
        wait_ns: sample.wait_ns,
        waits: sample.waits,
    }
}

fn row(row: v1::LedgerRow) -> core::LedgerRow {
    core::LedgerRow {
        waiter: row.waiter,
        runners: row.runners,
        ran_ns: row.ran_ns,
        self_ns: row.self_ns,
        idle_ns: row.idle_ns,
        steal_ns: row.steal_ns,
        throttled_ns: row.throttled_ns,
        unresolved_ns: row.unresolved_ns,
    }
}

fn memory(sample: v1::MemorySample) -> core::MemorySample {
    let pressure = |p: v1::Pressure| core::Pressure {
        some_us: p.some_us,
        full_us: p.full_us,
    };
    let reclaim = |r: v1::Reclaim| core::Reclaim {
        stall_ns: r.stall_ns,
        pages: r.pages,
        times: r.times,
    };
    core::MemorySample {
        entity: sample.entity,
        current_bytes: sample.current_bytes,
        working_set_bytes: sample.working_set_bytes,
        limit_bytes: sample.limit_bytes,
        events: sample.events.map(|e| core::MemoryEvents {
            high: e.high,
            max: e.max,
            oom: e.oom,
            oom_kill: e.oom_kill,
        }),
        major_faults: sample.major_faults,
        refaults: sample.refaults,
        cpu_pressure: sample.cpu_pressure.map(pressure),
        memory_pressure: sample.memory_pressure.map(pressure),
        io_pressure: sample.io_pressure.map(pressure),
        limit_reclaim: sample.limit_reclaim.map(reclaim),
        node_reclaim: sample.node_reclaim.map(reclaim),
    }
}

fn oom_kill(kill: &v1::OomKill) -> core::OomKill {
    core::OomKill {
        at_boot_ns: kill.at_boot_ns,
        trigger: kill.trigger,
        victim: kill.victim,
        scope: match kill.scope() {
            v1::OomScope::Limit => core::OomScope::Limit,
            v1::OomScope::Node => core::OomScope::Node,
            v1::OomScope::Unspecified => core::OomScope::Unknown,
        },
    }
}

fn coverage(coverage: v1::Coverage) -> Result<core::Coverage, Refusal> {
    bounded("coverage.features", coverage.features.len())?;
    bounded("coverage.losses", coverage.losses.len())?;
    for (i, f) in coverage.features.iter().enumerate() {
        name(&format!("coverage.features[{i}].name"), &f.name, MAX_NAME)?;
    }
    for (i, l) in coverage.losses.iter().enumerate() {
        for (key, value) in [("stage", &l.stage), ("reason", &l.reason), ("unit", &l.unit)] {
            name(&format!("coverage.losses[{i}].{key}"), value, MAX_NAME)?;
        }
    }
    let feature = |f: v1::Feature| core::Feature {
        name: f.name,
        present: f.present,
        reason: cleaned(&f.reason),
    };
    let loss = |l: v1::Loss| core::Loss {
        stage: l.stage,
        reason: l.reason,
        unit: l.unit,
        count: l.count,
    };
    Ok(core::Coverage {
        features: coverage.features.into_iter().map(feature).collect(),
        losses: coverage.losses.into_iter().map(loss).collect(),
    })
}

fn cost(cost: v1::AgentCost) -> Result<core::AgentCost, Refusal> {
    bounded("cost.programs", cost.programs.len())?;
    for (i, p) in cost.programs.iter().enumerate() {
        name(&format!("cost.programs[{i}].name"), &p.name, MAX_NAME)?;
    }
    let program = |p: v1::ProgramCost| core::ProgramCost {
        name: p.name,
        run_ns: p.run_ns,
        runs: p.runs,
    };
    Ok(core::AgentCost {
        cpu_ns: cost.cpu_ns,
        memory_bytes: cost.memory_bytes,
        memory_source: cleaned(&cost.memory_source),
        map_bytes: cost.map_bytes,
        programs: cost.programs.into_iter().map(program).collect(),
    })
}

/// A name: no spaces, nothing but visible ASCII.
fn name(field: &str, value: &str, max: usize) -> Result<(), Refusal> {
    text(field, value, max)?;
    if value.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    refuse(
        "bad_name",
        field,
        format!("{:?} has characters that no name has", shorten(value)),
    )
}

fn text(field: &str, value: &str, max: usize) -> Result<(), Refusal> {
    if value.is_empty() {
        return refuse("bad_name", field, "is empty".into());
    }
    if value.len() > max {
        return refuse(
            "bad_name",
            field,
            format!(
                "{:?} is {} bytes long, at most {max} are taken",
                shorten(value),
                value.len()
            ),
        );
    }
    if value.chars().any(is_unprintable) {
        return refuse(
            "bad_name",
            field,
            format!("{:?} has control characters", shorten(value)),
        );
    }
    Ok(())
}

/// Control characters, and those that turn or hide text where it is shown.
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Words for people, which may be in any language but not in control of a terminal.
fn cleaned(words: &str) -> String {
    words
        .chars()
        .take(MAX_WORDS)
        .map(|c| if is_unprintable(c) { '\u{fffd}' } else { c })
        .collect()
}

fn bounded(field: &str, length: usize) -> Result<(), Refusal> {
    if length <= MAX_LIST {
        return Ok(());
    }
    refuse(
        "malformed",
        field,
        format!("{length} entries, at most {MAX_LIST} are taken"),
    )
}

/// The beginning of a value that may be long and hostile. Printed with `{:?}`, which escapes.
fn shorten(value: &str) -> String {
    value.chars().take(80).collect()
}

pub(super) fn refuse<T>(
    reason: &'static str,
    field: impl Into<String>,
    problem: String,
) -> Result<T, Refusal> {
    Err(Refusal {
        reason,
        field: field.into(),
        problem,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> v1::Report {
        let entity = |index, kind| v1::Entity {
            index,
            kind: Some(kind),
            born_boot_ns: 0,
        };
        v1::Report {
            node: "node-a.example".into(),
            boot_id: "b00f".into(),
            sequence: 1,
            entities: vec![
                entity(
                    1,
                    v1::entity::Kind::Pod(v1::Pod {
                        uid: "0b81b3e4-9f5c".into(),
                    }),
                ),
                entity(
                    2,
                    v1::entity::Kind::Host(v1::HostCgroup {
                        path: "/system.slice/größe.service".into(),
                    }),
                ),
                entity(
                    3,
                    v1::entity::Kind::Container(v1::Container {
                        pod: 1,
                        id: "c0ffee".into(),
                    }),
                ),
                entity(4, v1::entity::Kind::Unknown(v1::Unknown { reason: 99 })),
            ],
            coverage: Some(v1::Coverage {
                features: vec![v1::Feature {
                    name: "switch".into(),
                    present: true,
                    reason: "tp_btf\u{1b}[2J".into(),
                }],
                losses: vec![v1::Loss {
                    stage: "probe".into(),
                    reason: "no_slot".into(),
                    unit: "events".into(),
                    count: 1,
                }],
            }),
            cost: Some(v1::AgentCost {
                programs: vec![v1::ProgramCost {
                    name: "switch".into(),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..v1::Report::default()
        }
    }

    #[test]
    fn a_good_report_passes_and_words_are_cleaned() {
        let report = report(good()).unwrap();
        assert_eq!(report.entities.len(), 4);
        assert_eq!(
            report.entities[3].kind,
            EntityKind::Unknown(UnknownReason::UnreadablePath)
        );
        assert_eq!(report.coverage.features[0].reason, "tp_btf\u{fffd}[2J");
    }

    #[test]
    fn names_are_checked_and_the_field_is_named() {
        type Spoil = fn(&mut v1::Report);
        let set = |report: &mut v1::Report, at: usize, kind| report.entities[at].kind = Some(kind);
        let table: &[(&str, &str, Spoil)] = &[
            ("node", "\"\"", |r| r.node = String::new()),
            ("node", "node\\na", |r| r.node = "node\na".into()),
            ("node", "Node", |r| r.node = "Node".into()),
            ("node", "aaaa", |r| r.node = "a".repeat(254)),
            ("boot_id", "is empty", |r| r.boot_id = String::new()),
            ("boot_id", "\\u{7}", |r| r.boot_id = "x\u{7}".into()),
            ("entities[0].pod.uid", "is empty", |r| {
                r.entities[0].kind = Some(v1::entity::Kind::Pod(v1::Pod::default()));
            }),
            ("entities[0].kind", "absent", |r| r.entities[0].kind = None),
            ("coverage.losses[0].stage", "is empty", |r| {
                r.coverage.as_mut().unwrap().losses[0].stage = String::new();
            }),
            ("coverage.losses[0].reason", "a b", |r| {
                r.coverage.as_mut().unwrap().losses[0].reason = "a b".into();
            }),
            ("coverage.features[0].name", "bytes long", |r| {
                r.coverage.as_mut().unwrap().features[0].name = "x".repeat(65);
            }),
            ("coverage.features", "129", |r| {
                r.coverage.as_mut().unwrap().features = vec![v1::Feature::default(); 129];
            }),
            ("cost.programs[0].name", "\\0", |r| {
                r.cost.as_mut().unwrap().programs[0].name = "\0".into();
            }),
        ];
        for (field, needle, spoil) in table {
            let mut bad = good();
            spoil(&mut bad);
            let refusal = report(bad).expect_err(field);
            assert_eq!(refusal.field, *field);
            assert!(refusal.problem.contains(needle), "{refusal}");
        }
        for path in [
            "",
            "system.slice",
            "/a\u{202e}b",
            "/a\nb",
            "/\u{1b}[31m",
            &format!("/{}", "x".repeat(1_024)),
        ] {
            let mut bad = good();
            set(
                &mut bad,
                1,
                v1::entity::Kind::Host(v1::HostCgroup { path: path.into() }),
            );
            assert_eq!(report(bad).expect_err(path).field, "entities[1].host.path");
        }
    }
}
