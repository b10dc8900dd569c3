//! Counting one report.

use super::memory::{Container, Memory};
use super::slot::{CLASSES, COUNTERS, Counter, Entry, Hist, Index, Kind, Pair, Slot};
use super::window::Lengths;
use super::{Frame, Node};
use crate::clocks::Wall;
use crate::limits::{
    ENDED_RUNS_KEPT, MAX_CONTAINERS_PER_NODE, MAX_ENTITIES_PER_NODE, MAX_KILLS_PER_REPORT,
    MAX_PAIRS_PER_NODE, MAX_SLOTS_PER_NODE,
};
use crate::losses::Losses;
use crate::report::{EntityKind, LedgerRow, Outcome, Receipt, Refusal, Report};

/// A frame shorter than this takes the next report in as well: an agent that reports too often must not make the window long.
const MIN_FRAME_NS: u64 = 200_000_000;
/// Reports that catching up may take; an agent that never announces what it refers to is not waited for.
pub(super) const CATCH_UP_REPORTS: u64 = 10;

/// What ingest must know beside the report.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) received_ns: u64,
    pub(crate) wall: Wall,
    /// Waiting for others of at least this many cores in one report counts as a hit.
    pub(crate) hit_cores: f64,
    /// Of which the past is kept.
    pub(crate) lengths: Lengths,
}

/// Hash of an announcement, for entities that have no slot to compare with. FNV-1a.
pub(super) fn meaning(kind: &EntityKind) -> u64 {
    let mut hash = crate::breach::Fnv::default();
    match kind {
        EntityKind::Pod(uid) => hash.field("pod").field(uid),
        EntityKind::Host(path) => hash.field("host").field(path),
        EntityKind::Unknown(reason) => hash.field("unknown").field(reason.as_str()),
        EntityKind::Container { pod, id } => hash.field(&pod.to_string()).field(id),
    };
    hash.finish()
}

impl Node {
    pub(crate) fn ingest(&mut self, mut report: Report, cx: &Context, losses: &mut Losses) -> Receipt {
        if report.sequence == 0 {
            let problem = "0: the first report of an agent run has 1".to_owned();
            return self.refused(Refusal {
                reason: "malformed",
                field: "sequence".into(),
                problem,
            });
        }
        if self.run != report.run {
            if let Some((_, last)) = self.ended_runs.iter().find(|(run, _)| *run == report.run) {
                // Counted before its successor began; its receipt was lost.
                if report.sequence <= *last {
                    self.totals.duplicates += 1;
                    return Outcome::Duplicate.into();
                }
                let started = report.run.agent_start_unix_ns;
                let problem = format!(
                    "{started}: this agent run was replaced by one that started at {}",
                    self.run.agent_start_unix_ns
                );
                return self.refused(Refusal {
                    reason: "ended_run",
                    field: "agent_start_unix_ns".into(),
                    problem,
                });
            }
            losses.add("window", "run_ended", "kills", self.kills.waiting() as u64);
            self.begin_run(&report);
        } else if report.sequence <= self.last_sequence {
            self.totals.duplicates += 1;
            return Receipt {
                outcome: Outcome::Duplicate,
                announce_all: std::mem::take(&mut self.ask_again),
            };
        }
        match self.try_ingest(&mut report, cx, losses) {
            Ok(receipt) => receipt,
            Err(refusal) => self.refused(refusal),
        }
    }

    fn refused(&mut self, refusal: Refusal) -> Receipt {
        self.totals.refused += 1;
        Outcome::Refused(refusal).into()
    }

    /// The report is the first of an agent run that replaces the one before.
    pub(crate) fn is_new_run(&self, report: &Report) -> bool {
        self.run != report.run && self.ended_runs.iter().all(|(run, _)| *run != report.run)
    }

    /// The report is of the present run, and none as late was counted.
    pub(crate) fn is_next(&self, report: &Report) -> bool {
        self.run == report.run && report.sequence > self.last_sequence
    }

    /// Takes over the names of a report whose counters were refused.
    pub(crate) fn name_only(&mut self, report: &Report, losses: &mut Losses) {
        if self.is_new_run(report) {
            self.begin_run(report);
        }
        let refused = self
            .check_order(report)
            .and_then(|()| self.check_entities(report));
        if self.run == report.run && refused.is_ok() {
            self.catching_up |= self.last_sequence == 0 && report.sequence > 1;
            self.announce(report, losses);
        }
    }

    fn begin_run(&mut self, report: &Report) {
        let mut fresh = Self::new(self.name.clone(), report.run.clone());
        std::mem::swap(self, &mut fresh);
        self.flows.orphans = fresh
            .flows
            .places()
            .chain(fresh.flows.orphans.iter().copied())
            .collect();
        self.totals = fresh.totals;
        self.replaying = fresh.replaying;
        self.totals.runs += 1;
        self.kills.take_shown(fresh.kills);
        self.ended_runs = fresh.ended_runs;
        self.ended_runs.push_back((fresh.run, fresh.last_sequence));
        if self.ended_runs.len() > ENDED_RUNS_KEPT {
            self.ended_runs.pop_front();
        }
    }

    fn try_ingest(
        &mut self,
        report: &mut Report,
        cx: &Context,
        losses: &mut Losses,
    ) -> Result<Receipt, Refusal> {
        self.check_order(report)?;
        self.check_entities(report)?;
        let joined_late = self.last_sequence == 0 && report.sequence > 1;
        self.catching_up |= joined_late;
        // Announcements only name things; they stand even if the counters below are refused.
        self.announce(report, losses);
        let checked = self.check_counters(report)?;
        self.flows.check(report)?;

        let since_ns = self.last_boot_ns;
        let elapsed_ns = report.captured_boot_ns - since_ns;
        let mut frame = self
            .counting
            .then(|| self.take_frame(since_ns, report.captured_boot_ns));
        let bytes_before = frame.as_ref().map_or(0, Frame::bytes);
        self.count_cpu(report, &checked.cpu, frame.as_mut());
        self.count_containers(report, cx);
        self.count_memory(report, &checked.memory, cx, losses);
        let unnamed = self.count_kills(report, cx, losses);
        let missing = self.count_flows(report, cx, self.catching_up, losses);
        let hit_ns = (cx.hit_cores * elapsed_ns as f64) as u64;
        let may_hit = elapsed_ns >= MIN_FRAME_NS;
        let mut runners = checked.runners.as_slice();
        let mut dropped = 0;
        for (row, at) in report.ledger.iter().zip(&checked.rows) {
            let (mine, rest) = runners.split_at(row.runners.len());
            runners = rest;
            dropped += self.count_row(row, *at, mine, frame.as_mut(), may_hit.then_some(hit_ns.max(1)));
        }
        losses.add("window", "pair_cap", "pairs", dropped);
        losses.add("ingest", "unknown_entity", "samples", checked.unknown);
        losses.add("ingest", "unknown_entity", "kills", unnamed);
        losses.add("ingest", "unknown_entity", "flows", missing.entities);
        if let Some(mut frame) = frame {
            frame.shrink();
            self.frame_bytes += frame.bytes() - bytes_before;
            self.frames.push_back(frame);
        }
        self.end_entities(report);

        let unknown = checked.unknown + unnamed + missing.entities;
        let announce_all = self.after(report, cx, unknown, joined_late)
            || missing.flows > 0
            || std::mem::take(&mut self.ask_again);
        Ok(Receipt {
            outcome: Outcome::Accepted,
            announce_all,
        })
    }

    fn announce(&mut self, report: &Report, losses: &mut Losses) {
        let mut near = 0;
        for entity in &report.entities {
            if self.index.find(entity.index, &mut near).is_some() {
                continue;
            }
            if self.index.len() >= MAX_ENTITIES_PER_NODE {
                losses.add("window", "entity_cap", "entities", 1);
                continue;
            }
            let kind = match &entity.kind {
                EntityKind::Pod(uid) => Some(Kind::Pod(uid.clone())),
                EntityKind::Host(path) => Some(Kind::Host(path.clone())),
                EntityKind::Unknown(reason) => Some(Kind::Unknown(*reason)),
                EntityKind::Container { pod, id } => {
                    if self.containers.len() < MAX_CONTAINERS_PER_NODE {
                        let container = Container {
                            pod: *pod,
                            id: id.as_str().into(),
                            ..Container::default()
                        };
                        self.containers.insert(entity.index, container);
                    } else {
                        losses.add("window", "container_cap", "entities", 1);
                    }
                    None
                }
            };
            let slot = match kind {
                None => Index::NO_SLOT,
                Some(_) if self.slots.len() - self.free.len() >= MAX_SLOTS_PER_NODE => {
                    losses.add("window", "slot_cap", "entities", 1);
                    Index::NO_SLOT
                }
                Some(kind) => {
                    // Made since the last report: its counters are all from this interval, whatever else is not known.
                    let made_since = self.counting && entity.born_boot_ns > self.last_boot_ns;
                    let old = self.catching_up && !made_since;
                    let born_ns = match entity.born_boot_ns {
                        0 if self.counting && !old => self.last_boot_ns,
                        born_ns => born_ns.min(report.captured_boot_ns),
                    };
                    self.place(Slot::new(entity.index, kind, born_ns, old))
                }
            };
            self.index.insert(Entry {
                index: entity.index,
                slot,
                meaning: meaning(&entity.kind),
            });
            self.stale = true;
        }
    }

    fn place(&mut self, slot: Slot) -> u32 {
        if let Some(at) = self.free.pop() {
            self.slots[at as usize] = Some(slot);
            return at;
        }
        // By an eighth: doubled, half of a node's largest part may be empty.
        if self.slots.len() == self.slots.capacity() {
            self.slots.reserve_exact(4 + self.slots.len() / 8);
        }
        self.slots.push(Some(slot));
        (self.slots.len() - 1) as u32 // below MAX_SLOTS_PER_NODE
    }

    /// The frame that this report's increments go into: a new one, or the last where that is short and not yet in the totals.
    fn take_frame(&mut self, from_ns: u64, to_ns: u64) -> Frame {
        self.window_ns.iter_mut().for_each(|w| *w += to_ns - from_ns);
        let replaying = self.replaying;
        if let Some(mut last) = self
            .frames
            .pop_back_if(|f| f.len_ns() < MIN_FRAME_NS && !f.folded && f.in_fast && !replaying)
        {
            last.to_ns = to_ns;
            return last;
        }
        let mut frame = Frame::new(from_ns, to_ns);
        frame.reserve(self.frames.back().map_or(256, Frame::bytes));
        frame
    }

    fn count_cpu(&mut self, report: &Report, slots: &[u32], mut frame: Option<&mut Frame>) {
        for (sample, at) in report.cpu.iter().zip(slots) {
            let Some(slot) = self.slots.get_mut(*at as usize).and_then(Option::as_mut) else {
                continue;
            };
            let known = std::mem::replace(&mut slot.cpu_known, true);
            let now = [sample.run_ns, sample.wait_ns];
            let mut delta = [0; 2];
            for (c, d) in delta.iter_mut().enumerate() {
                *d = now[c].saturating_sub(slot.last[c]);
                slot.last[c] = now[c];
            }
            let mut waits = [0; crate::report::WAIT_BUCKETS];
            if !sample.waits.is_empty() {
                let hist = slot.hist.get_or_insert_with(Box::<Hist>::default);
                for (b, n) in sample.waits.iter().enumerate() {
                    waits[b] = n.saturating_sub(hist.last[b]);
                    hist.last[b] = *n;
                }
            }
            let Some(frame) = frame.as_deref_mut().filter(|_| known) else {
                continue;
            };
            for sum in &mut slot.sum {
                sum[Counter::Run as usize] = sum[Counter::Run as usize].wrapping_add(delta[0]);
                sum[Counter::Wait as usize] = sum[Counter::Wait as usize].wrapping_add(delta[1]);
            }
            if let Some(hist) = &mut slot.hist {
                for (sum, n) in hist.sum.iter_mut().zip(waits) {
                    *sum = sum.wrapping_add(n);
                }
            }
            frame.push_cpu(*at, delta[0], delta[1], &waits);
        }
    }

    /// CPU time of containers: only a LimitRange is held against it.
    fn count_containers(&mut self, report: &Report, cx: &Context) {
        let to_ns = report.captured_boot_ns;
        for sample in &report.cpu {
            if let Some(container) = self.containers.get_mut(&sample.entity) {
                let from_ns = to_ns.saturating_sub(cx.lengths.fast_ns);
                container
                    .run_ns
                    .push(self.last_boot_ns, to_ns, sample.run_ns, from_ns);
            }
        }
    }

    fn count_memory(&mut self, report: &Report, slots: &[u32], cx: &Context, losses: &mut Losses) {
        let to_ns = report.captured_boot_ns;
        let mut others = 0;
        for (sample, at) in report.memory.iter().zip(slots) {
            if let Some(container) = self.containers.get_mut(&sample.entity) {
                container.working_set_bytes = sample.working_set_bytes;
                continue;
            }
            let Some(slot) = self.slots.get_mut(*at as usize).and_then(Option::as_mut) else {
                continue;
            };
            match (&slot.kind, &mut slot.memory) {
                (Kind::Pod(_), Some(memory)) => {
                    let from_ns = to_ns.saturating_sub(cx.lengths.long_ns);
                    memory.push(self.last_boot_ns, to_ns, *sample, from_ns);
                }
                (Kind::Pod(_), none) => *none = Some(Box::new(Memory::new(*sample, to_ns))),
                _ => others += 1,
            }
        }
        losses.add("ingest", "memory_of_no_pod", "samples", others);
    }

    /// Returns how many named nothing that was announced.
    fn count_kills(&mut self, report: &Report, cx: &Context, losses: &mut Losses) -> u64 {
        let mut unnamed = 0;
        let beyond = report.oom_kills.len().saturating_sub(MAX_KILLS_PER_REPORT);
        losses.add("ingest", "kill_list_cap", "kills", beyond as u64);
        for kill in report.oom_kills.iter().take(MAX_KILLS_PER_REPORT) {
            let [trigger, victim] = [kill.trigger, kill.victim].map(|i| {
                let known = self.index.find(i, &mut 0).is_some();
                unnamed += u64::from(!known);
                self.slot_of_entity(i)
            });
            let at_ns = match kill.at_boot_ns {
                0 => report.captured_boot_ns,
                at_ns => at_ns.min(report.captured_boot_ns),
            };
            if !self
                .kills
                .push(at_ns, cx.received_ns, trigger, victim, kill.scope)
            {
                losses.add("window", "kill_cap", "kills", 1);
            }
        }
        unnamed
    }

    /// Returns the number of pairs that found no room.
    fn count_row(
        &mut self,
        row: &LedgerRow,
        at: u32,
        runners: &[u32],
        frame: Option<&mut Frame>,
        hit_ns: Option<u64>,
    ) -> u64 {
        // The waiter is taken out while its runners are looked at.
        let Some(mut slot) = self.slots.get_mut(at as usize).and_then(Option::take) else {
            return 0;
        };
        let known = std::mem::replace(&mut slot.row_known, true);
        let now = [
            row.self_ns,
            row.idle_ns,
            row.steal_ns,
            row.throttled_ns,
            row.unresolved_ns,
        ];
        let mut classes = [0; CLASSES];
        for (c, d) in classes.iter_mut().enumerate() {
            let last = &mut slot.last[COUNTERS - CLASSES + c];
            *d = if known { now[c].saturating_sub(*last) } else { 0 };
            *last = now[c];
        }
        let (mut dropped, mut others_ns, mut near) = (0, 0u64, 0);
        let counted = frame.is_some();
        // Increments by pair, to be written once it is known whether this was a hit.
        let mut increments = std::mem::take(&mut self.scratch);
        increments.clear();
        for ((runner, ran_ns), runner_slot) in row.runners.iter().zip(&row.ran_ns).zip(runners) {
            let Some(runner_old) = self.slot(*runner_slot).map(|s| s.old) else {
                continue;
            };
            let (pair, last) = match slot.find_pair(*runner, near) {
                Ok(found) => {
                    near = found + 1;
                    let last = slot.pairs[found].last;
                    (&mut slot.pairs[found], Some(last))
                }
                Err(_) if self.pair_count >= MAX_PAIRS_PER_NODE => {
                    dropped += 1;
                    continue;
                }
                Err(place) => {
                    self.pair_count += 1;
                    near = place + 1;
                    slot.pairs.insert(
                        place,
                        Pair {
                            runner_index: *runner,
                            runner_slot: *runner_slot,
                            last: 0,
                            sum: [0; 2],
                        },
                    );
                    // Followed from the start of either: counts from zero. Else a baseline.
                    (&mut slot.pairs[place], (!slot.old || !runner_old).then_some(0))
                }
            };
            pair.last = *ran_ns;
            let delta = last.map_or(0, |last| ran_ns.saturating_sub(last));
            if counted && delta > 0 {
                pair.sum.iter_mut().for_each(|s| *s = s.wrapping_add(delta));
                others_ns = others_ns.saturating_add(delta);
                increments.push((*runner, *runner_slot, delta));
            }
        }
        if let Some(frame) = frame {
            let hit = hit_ns.is_some_and(|least| others_ns >= least);
            slot.hits += u32::from(hit);
            for sum in &mut slot.sum {
                for (s, d) in sum[COUNTERS - CLASSES..].iter_mut().zip(classes) {
                    *s = s.wrapping_add(d);
                }
            }
            frame.begin_row(at, &classes, hit);
            for (index, slot, ns) in &increments {
                frame.push_pair(*index, *slot, *ns);
            }
            frame.end_row();
        }
        self.scratch = increments;
        self.slots[at as usize] = Some(slot);
        dropped
    }

    fn end_entities(&mut self, report: &Report) {
        let to_ns = report.captured_boot_ns;
        let mut near = 0;
        let mut containers = false;
        for (i, index) in report.ended.iter().enumerate() {
            let Some(slot) = self.slot_of(*index, &mut near) else {
                containers = true;
                continue;
            };
            if slot.ended_ns == u64::MAX {
                let ended_ns = report
                    .ended_boot_ns
                    .get(i)
                    .copied()
                    .filter(|at| *at > 0)
                    .unwrap_or(to_ns);
                slot.ended_ns = ended_ns.min(to_ns).max(slot.born_ns);
                self.ended_slots += 1;
            }
        }
        if containers {
            // Nothing refers to a container's counters: its index can go at once. The others stay while they are in the window.
            let mut ended = report.ended.clone();
            ended.sort_unstable();
            self.index
                .retain(|e| e.slot != Index::NO_SLOT || ended.binary_search(&e.index).is_err());
            self.containers
                .retain(|index, _| ended.binary_search(index).is_err());
        }
    }

    fn slot_of(&mut self, index: u32, near: &mut usize) -> Option<&mut Slot> {
        let at = self.index.find(index, near)?.slot;
        self.slots.get_mut(at as usize).and_then(Option::as_mut)
    }

    /// What the next report is measured against. Returns whether all entities must be announced again.
    fn after(&mut self, report: &mut Report, cx: &Context, unknown: u64, joined_late: bool) -> bool {
        self.last_sequence = report.sequence;
        self.last_boot_ns = report.captured_boot_ns;
        self.received_ns = cx.received_ns;
        self.online_cpus = report.online_cpus;
        self.clock_offset_ns = report.clock_offset_ns;
        self.agent_cpu
            .push_back((report.captured_boot_ns, report.cost.cpu_ns));
        self.coverage = std::mem::take(&mut report.coverage);
        self.cost = std::mem::take(&mut report.cost);
        self.totals.reports += 1;
        // What found no room will never be known: asking again would not help.
        let full = self.index.len() >= MAX_ENTITIES_PER_NODE;
        let announce_all = joined_late || (unknown > 0 && !full);
        if announce_all {
            if !self.catching_up || joined_late {
                self.catch_up_until = report.sequence.saturating_add(CATCH_UP_REPORTS);
            }
            self.catching_up = true;
        } else if !report.entities.is_empty() {
            self.catching_up = false;
        }
        self.catching_up &= report.sequence < self.catch_up_until;
        self.counting |= !self.catching_up;
        announce_all
    }
}
