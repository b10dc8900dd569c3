//! One node: what its agent's current run reported, as sums over two sliding windows.
//!
//! **What.** Reports carry cumulative counters. The difference to the last value is an increment; the increments of a report form a
//! [`frame::Frame`] that spans the time since the report before. A window is the frames that reach into its last seconds; its sums are kept up
//! to date by adding what arrives and subtracting what leaves, so a sample costs the same whatever the window's length.
//!
//! **Why cumulative.** A report that never arrives costs resolution: the next frame is longer. Nothing else.
//!
//! **Time** is the node's CLOCK_BOOTTIME, from the reports. The aggregator's own clock only tells how old the last report is.
//!
//! **Baselines.** An agent run that is followed from its first report counts from zero. One that is joined later (this aggregator was
//! restarted) has counters from before; the first value of everything announced while catching up is a baseline and no increment.
//!
//! **Life.** A pod's promise holds while it lives: pods that live 200 ms add up to what they were promised in 200 ms each. Agents say when
//! an entity was made and when it ended. Where one does not, it is taken to have lived through the whole interval of the report that says so:
//! a tenant is given too much entitlement rather than too little.

mod check;
pub(crate) mod checkpoint;
pub(crate) mod flows;
mod frame;
pub(crate) mod ingest;
pub(crate) mod memory;
pub(crate) mod slot;
pub(crate) mod window;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

pub(crate) use frame::{Frame, Increment, class};
pub(crate) use slot::{NO_UNIT, Slot, Window};

use crate::identity::TenantId;
use crate::policy::Thresholds;
use crate::report::{AgentCost, Coverage, RunKey};
use crate::snapshot::WaitTotal;
use crate::sums::{Party, Unit};
use slot::Index;

use crate::oom::Kills;
use memory::{Container, Memory};

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: Arc<str>,
    run: RunKey,
    /// Runs that were replaced, with the last sequence counted; newest last.
    ended_runs: VecDeque<(RunKey, u64)>,
    pub(crate) last_sequence: u64,
    pub(crate) last_boot_ns: u64,
    /// The aggregator's monotonic clock at the last accepted report.
    pub(crate) received_ns: u64,
    /// There was a Node object of it.
    pub(crate) listed: bool,
    pub(crate) online_cpus: u32,
    /// See [`crate::report::Report::clock_offset_ns`].
    pub(crate) clock_offset_ns: Option<i64>,
    pub(crate) coverage: Coverage,
    pub(crate) cost: AgentCost,
    /// (CLOCK_BOOTTIME, agent's CPU time) of the reports in the window.
    agent_cpu: VecDeque<(u64, u64)>,

    index: Index,
    pub(crate) slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    pair_count: usize,
    /// By entity index.
    pub(crate) containers: BTreeMap<u32, Container>,
    pub(crate) kills: Kills,
    pub(crate) flows: flows::Flows,
    pub(crate) frames: VecDeque<Frame>,
    frame_bytes: usize,
    /// Summed length of the frames in each window.
    window_ns: [u64; 2],
    /// The run was joined late: entities announced now lived before.
    catching_up: bool,
    /// Waited for no longer than this report's sequence.
    catch_up_until: u64,
    /// Baselines are set: the next report closes an interval.
    counting: bool,
    /// Slots whose entity ended, to be freed once they left the window.
    ended_slots: usize,
    /// Increments of the row being counted: (runner's index, its slot, ns). Kept for its capacity.
    scratch: Vec<(u32, u32, u64)>,
    marks: u64,

    /// What the slots mean, see [`crate::sums`]; rebuilt when `stale`.
    pub(crate) units: Vec<Unit>,
    pub(crate) stale: bool,
    pub(crate) directory_generation: u64,
    /// What was journalled is counted again: each report is a frame of its own, so that what was folded then is folded now.
    replaying: bool,
    /// Restored: the next receipt asks for what is not kept, memory and flows.
    ask_again: bool,
    /// Since the node was first seen, over all agent runs.
    pub(crate) totals: Totals,
}

/// Counted since the node was first seen; never goes back.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) run_ns: BTreeMap<Party, u64>,
    /// (waiter, runner) → ns.
    pub(crate) ledger_ns: BTreeMap<(Party, Party), u64>,
    /// Of named waiters.
    pub(crate) waits: BTreeMap<TenantId, WaitTotal>,
    pub(crate) reports: u64,
    pub(crate) duplicates: u64,
    pub(crate) refused: u64,
    /// Agent runs seen.
    pub(crate) runs: u64,
}

impl Node {
    pub(crate) fn new(name: Arc<str>, run: RunKey) -> Self {
        Self {
            name,
            run,
            ended_runs: VecDeque::new(),
            last_sequence: 0,
            last_boot_ns: 0,
            received_ns: 0,
            listed: false,
            online_cpus: 0,
            clock_offset_ns: None,
            coverage: Coverage::default(),
            cost: AgentCost::default(),
            agent_cpu: VecDeque::new(),
            index: Index::default(),
            slots: Vec::new(),
            free: Vec::new(),
            pair_count: 0,
            containers: BTreeMap::new(),
            kills: Kills::default(),
            flows: flows::Flows::default(),
            frames: VecDeque::new(),
            frame_bytes: 0,
            window_ns: [0; 2],
            catching_up: false,
            catch_up_until: 0,
            counting: false,
            ended_slots: 0,
            scratch: Vec::new(),
            marks: 0,
            units: Vec::new(),
            stale: true,
            directory_generation: 0,
            replaying: false,
            ask_again: false,
            totals: Totals {
                runs: 1,
                ..Totals::default()
            },
        }
    }

    /// Length of what was seen of a window: what its sums must be divided by. 0: nothing.
    pub(crate) fn window_ns(&self, window: Window) -> u64 {
        self.window_ns[window as usize]
    }

    /// The same where it is enough to judge by.
    pub(crate) fn seen_ns(&self, window: Window, t: &Thresholds) -> Option<u64> {
        let ns = self.window_ns(window);
        (ns > 0 && ns as f64 >= t.windows.min_covered_seconds * 1e9).then_some(ns)
    }

    /// The share of the long window that was seen, 0 to 1.
    pub(crate) fn covered(&self, t: &Thresholds) -> f64 {
        (self.window_ns(Window::Long) as f64 / (t.windows.length_seconds * 1e9)).min(1.0)
    }

    /// Holds a window's length that is not in the totals yet: nothing was judged for a while. What is in them does not count: it goes with
    /// the process, and after a restart the same reports must be entered at the same moments, under the names of then.
    pub(crate) fn is_long(&self, lengths: window::Lengths) -> bool {
        match (self.frames.iter().find(|f| !f.folded), self.frames.back()) {
            (Some(first), Some(last)) => last.to_ns - first.from_ns > lengths.long_ns,
            _ => false,
        }
    }

    /// Live and recently ended entities with counters.
    pub(crate) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().flatten()
    }

    pub(crate) fn slot(&self, at: u32) -> Option<&Slot> {
        self.slots.get(at as usize).and_then(Option::as_ref)
    }

    /// Where a window begins, in the node's CLOCK_BOOTTIME.
    pub(crate) fn window_from_ns(&self, window: Window) -> u64 {
        let first = match window {
            Window::Long => self.frames.front(),
            Window::Fast => self.frames.iter().find(|f| f.in_fast),
        };
        first.map_or(u64::MAX, |f| f.from_ns)
    }

    /// The slot that an entity's time and memory are counted in: a container's is its pod's.
    pub(crate) fn slot_of_entity(&self, index: u32) -> Option<u32> {
        let pod = self.containers.get(&index).map_or(index, |c| c.pod);
        let entry = self.index.find(pod, &mut 0)?;
        (entry.slot != Index::NO_SLOT).then_some(entry.slot)
    }

    /// Units that live, each with its newest memory where that is told.
    pub(crate) fn memories(&self) -> BTreeMap<u32, Option<&Memory>> {
        let mut out: BTreeMap<u32, Option<&Memory>> = BTreeMap::new();
        for slot in self.slots().filter(|s| s.lives()) {
            let newest = out.entry(slot.unit).or_default();
            // One that was announced again may have two; the newer says what is.
            *newest = [*newest, slot.memory.as_deref()]
                .into_iter()
                .flatten()
                .max_by_key(|m| m.at_ns);
        }
        out
    }

    /// How long an entity lived within a window, as far as its frames reach.
    pub(crate) fn life_ns(&self, slot: &Slot, window: Window) -> u64 {
        let Some(last) = self.frames.back() else {
            return 0;
        };
        slot.ended_ns
            .min(last.to_ns)
            .saturating_sub(slot.born_ns.max(self.window_from_ns(window)))
    }

    /// The agent's own CPU use over the window, in cores.
    pub(crate) fn agent_cores(&self) -> f64 {
        match (self.agent_cpu.front(), self.agent_cpu.back()) {
            (Some((t0, c0)), Some((t1, c1))) if t1 > t0 => c1.saturating_sub(*c0) as f64 / (t1 - t0) as f64,
            _ => 0.0,
        }
    }
}
