//! Before anything of a report is counted, all of it is checked against what the run said before: a report counts whole or not at all.

use super::Node;
use super::slot::{Counter, Index, Kind};
use crate::limits::{MAX_INCREMENT_NS, MAX_MEMORY_BYTES, MAX_WINDOW_BYTES};
use crate::report::{Entity, EntityKind, MemorySample, Refusal, Report, WAIT_BUCKETS};

/// Where a report's indices lead, in the report's order, so that applying it looks nothing up twice.
#[derive(Debug, Default)]
pub(super) struct Checked {
    /// Slot of each CPU sample; [`Index::NO_SLOT`] where it is not counted.
    pub(super) cpu: Vec<u32>,
    /// The same of each memory sample.
    pub(super) memory: Vec<u32>,
    /// Slot of each row's waiter.
    pub(super) rows: Vec<u32>,
    /// Slot of each runner, row after row.
    pub(super) runners: Vec<u32>,
    /// References to entities that were never announced.
    pub(super) unknown: u64,
}

fn refuse<T>(reason: &'static str, field: String, problem: String) -> Result<T, Refusal> {
    Err(Refusal {
        reason,
        field,
        problem,
    })
}

impl Node {
    /// Time and sequence against the run's last report.
    pub(super) fn check_order(&self, report: &Report) -> Result<(), Refusal> {
        if report.captured_boot_ns < self.last_boot_ns {
            return refuse(
                "time_backwards",
                "captured_boot_ns".into(),
                format!("{} after {}", report.captured_boot_ns, self.last_boot_ns),
            );
        }
        if !report.ended_boot_ns.is_empty() && report.ended_boot_ns.len() != report.ended.len() {
            let problem = format!(
                "{} values for {} entities",
                report.ended_boot_ns.len(),
                report.ended.len()
            );
            return refuse("malformed", "ended_boot_ns".into(), problem);
        }
        if self.frame_bytes > MAX_WINDOW_BYTES {
            return refuse(
                "window_full",
                "ledger".into(),
                format!(
                    "{} bytes of increments are in the window, {MAX_WINDOW_BYTES} are kept",
                    self.frame_bytes
                ),
            );
        }
        Ok(())
    }

    /// Announcements against what the indices mean already.
    pub(super) fn check_entities(&self, report: &Report) -> Result<(), Refusal> {
        let mut near = 0;
        for (i, entity) in report.entities.iter().enumerate() {
            if let Some(entry) = self.index.find(entity.index, &mut near)
                && !self.means(entry.slot, entry.meaning, &entity.kind)
            {
                let problem = format!(
                    "{} was announced as something else in this agent run",
                    entity.index
                );
                return refuse("entity_reused", format!("entities[{i}].index"), problem);
            }
        }
        // Within the report; `entities` is short except after a reconnect.
        let mut sorted: Vec<&Entity> = report.entities.iter().collect();
        sorted.sort_by_key(|e| e.index);
        for pair in sorted.windows(2) {
            if pair[0].index == pair[1].index && pair[0].kind != pair[1].kind {
                let problem = format!("{} is announced twice, as different things", pair[0].index);
                return refuse("entity_reused", "entities".into(), problem);
            }
        }
        Ok(())
    }

    fn means(&self, slot: u32, meaning: u64, kind: &EntityKind) -> bool {
        match (self.slot(slot).map(|s| &s.kind), kind) {
            (Some(Kind::Pod(a)), EntityKind::Pod(b)) | (Some(Kind::Host(a)), EntityKind::Host(b)) => a == b,
            (Some(Kind::Unknown(a)), EntityKind::Unknown(b)) => a == b,
            (Some(_), _) => false,
            (None, kind) => meaning == super::ingest::meaning(kind),
        }
    }

    /// Counters against the last ones. Entities of this report are already in the index.
    pub(super) fn check_counters(&mut self, report: &Report) -> Result<Checked, Refusal> {
        let mut checked = Checked::default();
        checked.cpu.reserve(report.cpu.len());
        checked.rows.reserve(report.ledger.len());
        self.marks += 1;
        let mark = self.marks;
        let mut near = 0;
        for (i, sample) in report.cpu.iter().enumerate() {
            let at = self.lookup(sample.entity, &mut near, &mut checked.unknown);
            checked.cpu.push(at);
            if let Some(container) = self.containers.get_mut(&sample.entity) {
                if std::mem::replace(&mut container.cpu_mark, mark) == mark {
                    return twice(format!("cpu[{i}].entity"), sample.entity);
                }
                let last = container.run_ns.newest();
                grows(sample.run_ns, last.copied().unwrap_or(0), last.is_some(), || {
                    format!("cpu[{i}].run_ns")
                })?;
                continue;
            }
            let Some(slot) = self.slots.get_mut(at as usize).and_then(Option::as_mut) else {
                continue;
            };
            if slot.cpu_mark == mark {
                return twice(format!("cpu[{i}].entity"), sample.entity);
            }
            slot.cpu_mark = mark;
            grows(
                sample.run_ns,
                slot.last[Counter::Run as usize],
                slot.cpu_known,
                || format!("cpu[{i}].run_ns"),
            )?;
            grows(
                sample.wait_ns,
                slot.last[Counter::Wait as usize],
                slot.cpu_known,
                || format!("cpu[{i}].wait_ns"),
            )?;
            if sample.waits.len() > WAIT_BUCKETS {
                let problem = format!("{} buckets, at most {WAIT_BUCKETS}", sample.waits.len());
                return refuse("malformed", format!("cpu[{i}].waits"), problem);
            }
            if let Some(hist) = &slot.hist {
                for (b, last) in hist.last.iter().enumerate() {
                    let n = sample.waits.get(b).copied().unwrap_or(0);
                    grows(n, *last, true, || format!("cpu[{i}].waits[{b}]"))?;
                }
            }
        }
        near = 0;
        let mut near_runner = 0;
        for (i, row) in report.ledger.iter().enumerate() {
            if row.runners.len() != row.ran_ns.len() {
                let problem = format!("{} values for {} runners", row.ran_ns.len(), row.runners.len());
                return refuse("malformed", format!("ledger[{i}].ran_ns"), problem);
            }
            let at = self.lookup(row.waiter, &mut near, &mut checked.unknown);
            checked.rows.push(at);
            self.marks += 1;
            let runner_mark = self.marks;
            let first = checked.runners.len();
            for (j, runner) in row.runners.iter().enumerate() {
                if *runner == row.waiter {
                    let problem = format!("{runner} is the waiter itself");
                    return refuse("malformed", format!("ledger[{i}].runners[{j}]"), problem);
                }
                let at = self.lookup(*runner, &mut near_runner, &mut checked.unknown);
                checked.runners.push(at);
                if let Some(slot) = self.slots.get_mut(at as usize).and_then(Option::as_mut) {
                    if slot.runner_mark == runner_mark {
                        return twice(format!("ledger[{i}].runners[{j}]"), *runner);
                    }
                    slot.runner_mark = runner_mark;
                }
            }
            let Some(slot) = self.slots.get_mut(at as usize).and_then(Option::as_mut) else {
                continue;
            };
            if slot.row_mark == mark {
                return twice(format!("ledger[{i}].waiter"), row.waiter);
            }
            slot.row_mark = mark;
            let classes = [
                ("self_ns", row.self_ns, Counter::Itself),
                ("idle_ns", row.idle_ns, Counter::Idle),
                ("steal_ns", row.steal_ns, Counter::Steal),
                ("throttled_ns", row.throttled_ns, Counter::Throttled),
                ("unresolved_ns", row.unresolved_ns, Counter::Unresolved),
            ];
            for (name, value, counter) in classes {
                grows(value, slot.last[counter as usize], slot.row_known, || {
                    format!("ledger[{i}].{name}")
                })?;
            }
            let mut near_pair = 0;
            for (j, (runner, ran_ns)) in row.runners.iter().zip(&row.ran_ns).enumerate() {
                if checked.runners[first + j] == Index::NO_SLOT {
                    continue;
                }
                let last = match slot.find_pair(*runner, near_pair) {
                    Ok(at) => {
                        near_pair = at + 1;
                        Some(slot.pairs[at].last)
                    }
                    Err(_) => None,
                };
                // Without a last value the first may be a baseline of any size.
                grows(*ran_ns, last.unwrap_or(0), last.is_some(), || {
                    format!("ledger[{i}].ran_ns[{j}]")
                })?;
            }
        }
        self.check_memory(report, &mut checked)?;
        Ok(checked)
    }

    fn check_memory(&mut self, report: &Report, checked: &mut Checked) -> Result<(), Refusal> {
        self.marks += 1;
        let mark = self.marks;
        let mut near = 0;
        for (i, sample) in report.memory.iter().enumerate() {
            let at = self.lookup(sample.entity, &mut near, &mut checked.unknown);
            checked.memory.push(at);
            for (name, bytes) in [
                ("current_bytes", sample.current_bytes),
                ("working_set_bytes", sample.working_set_bytes),
            ] {
                if let Some(bytes) = bytes.filter(|n| *n > MAX_MEMORY_BYTES) {
                    let problem = format!("{bytes}: more than 2^60 bytes");
                    return refuse("implausible", format!("memory[{i}].{name}"), problem);
                }
            }
            let slot = self.slots.get_mut(at as usize).and_then(Option::as_mut);
            let marked = match (self.containers.get_mut(&sample.entity), slot) {
                (Some(container), _) => &mut container.memory_mark,
                (None, Some(slot)) => {
                    if let Some(memory) = &slot.memory {
                        memory_grows(i, sample, &memory.newest)?;
                    }
                    &mut slot.memory_mark
                }
                (None, None) => continue,
            };
            if std::mem::replace(marked, mark) == mark {
                return twice(format!("memory[{i}].entity"), sample.entity);
            }
        }
        Ok(())
    }

    fn lookup(&self, index: u32, near: &mut usize, unknown: &mut u64) -> u32 {
        match self.index.find(index, near) {
            Some(entry) => entry.slot,
            None => {
                *unknown += 1;
                Index::NO_SLOT
            }
        }
    }
}

fn twice<T>(field: String, index: u32) -> Result<T, Refusal> {
    refuse("listed_twice", field, format!("{index} is listed twice"))
}

/// Every counter of a memory sample against the one before. What either leaves out is not compared.
fn memory_grows(i: usize, now: &MemorySample, last: &MemorySample) -> Result<(), Refusal> {
    let counters = |s: &MemorySample| {
        let pressure = [s.cpu_pressure, s.memory_pressure, s.io_pressure];
        let [cpu, memory, io] = pressure.map(|p| (p.map(|p| p.some_us), p.and_then(|p| p.full_us)));
        let reclaim = [s.limit_reclaim, s.node_reclaim];
        let [limit, node] = reclaim.map(|r| (r.map(|r| r.stall_ns), r.map(|r| r.pages), r.map(|r| r.times)));
        [
            ("events.high", s.events.map(|e| e.high)),
            ("events.max", s.events.map(|e| e.max)),
            ("events.oom", s.events.map(|e| e.oom)),
            ("events.oom_kill", s.events.map(|e| e.oom_kill)),
            ("major_faults", s.major_faults),
            ("refaults", s.refaults),
            ("cpu_pressure.some_us", cpu.0),
            ("cpu_pressure.full_us", cpu.1),
            ("memory_pressure.some_us", memory.0),
            ("memory_pressure.full_us", memory.1),
            ("io_pressure.some_us", io.0),
            ("io_pressure.full_us", io.1),
            ("limit_reclaim.stall_ns", limit.0),
            ("limit_reclaim.pages", limit.1),
            ("limit_reclaim.times", limit.2),
            ("node_reclaim.stall_ns", node.0),
            ("node_reclaim.pages", node.1),
            ("node_reclaim.times", node.2),
        ]
    };
    for ((name, now), (_, last)) in counters(now).into_iter().zip(counters(last)) {
        if let (Some(now), Some(last)) = (now, last) {
            grows(now, last, true, || format!("memory[{i}].{name}"))?;
        }
    }
    Ok(())
}

/// A counter never goes back, and never jumps by more than is possible. A baseline (`!known`) may be anything.
fn grows(now: u64, last: u64, known: bool, field: impl Fn() -> String) -> Result<(), Refusal> {
    if !known {
        return Ok(());
    }
    if now < last {
        return refuse("counter_backwards", field(), format!("{now} after {last}"));
    }
    if now - last > MAX_INCREMENT_NS {
        return refuse(
            "implausible",
            field(),
            format!("{now} after {last}: more than 2^60 at once"),
        );
    }
    Ok(())
}
