//! What must outlive the process so that no total is lost: the totals, and what the next report is measured against.
//!
//! Windows, memory, flows and OOM kills are not in it: they are of the last seconds, or begin anew with the process.

use std::sync::Arc;

use super::memory::Container;
use super::slot::{COUNTERS, Entry, Hist, Index, Kind, Pair, Slot};
use super::window::Lengths;
use super::{Frame, Node, flows};
use crate::identity::{Directory, Tenants};
use crate::losses::Losses;
use crate::report::{Report, RunKey, UnknownReason, WAIT_BUCKETS};
use crate::snapshot::{WaitTotal, party_name, party_named};
use crate::sums::Party;

/// One node between two reports. Tenants are named: their numbers mean something in one process only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    pub node: Arc<str>,
    pub run: RunKey,
    /// With the last sequence counted; oldest first.
    pub ended_runs: Vec<(RunKey, u64)>,
    pub last_sequence: u64,
    pub last_boot_ns: u64,
    pub online_cpus: u32,
    pub catching_up: bool,
    pub catch_up_until: u64,
    pub counting: bool,
    /// By entity index, ascending.
    pub entries: Vec<EntryState>,
    pub slots: Vec<SlotState>,
    pub containers: Vec<ContainerState>,
    /// Not yet in the totals, oldest first.
    pub frames: Vec<FrameState>,
    pub run_ns: Vec<(Arc<str>, u64)>,
    /// Waiter, runner.
    pub ledger_ns: Vec<(Arc<str>, Arc<str>, u64)>,
    pub waits: Vec<(Arc<str>, WaitTotal)>,
    pub reports: u64,
    pub runs: u64,
}

/// What an entity index means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryState {
    pub index: u32,
    /// `None`: a container, or one that found no room.
    pub slot: Option<u32>,
    pub meaning: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotState {
    pub slot: u32,
    pub index: u32,
    pub kind: SlotKind,
    /// Whose its time is in the totals from here on, as far as it was named.
    pub told: Option<Arc<str>>,
    pub born_ns: u64,
    pub ended_ns: u64,
    pub old: bool,
    pub cpu_known: bool,
    pub row_known: bool,
    /// As the core numbers them: run, wait, then the classes of a ledger row.
    pub last: [u64; COUNTERS],
    pub waits: Option<[u64; WAIT_BUCKETS]>,
    /// Runner's entity index, its slot, nanoseconds.
    pub pairs: Vec<(u32, u32, u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotKind {
    Pod(Arc<str>),
    Host(Arc<str>),
    Unknown(UnknownReason),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerState {
    pub index: u32,
    pub pod: u32,
    pub id: String,
}

/// Increments that are not yet in the totals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameState {
    pub from_ns: u64,
    pub to_ns: u64,
    pub bytes: Vec<u8>,
}

/// What happened to a node between two reports and must happen again where they are counted again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// What was reported up to a moment went into the totals.
    Folded {
        node: Arc<str>,
        /// CLOCK_BOOTTIME of the node. 0: nothing went into them, only names are new.
        up_to_boot_ns: u64,
        /// Where its windows ended then.
        window_boot_ns: u64,
        /// By entity index: whose its time is from here on.
        names: Vec<(u32, Arc<str>)>,
    },
    /// Silent for so long that it is not known any more.
    Forgotten { node: Arc<str> },
}

impl Mark {
    pub fn node(&self) -> &Arc<str> {
        match self {
            Self::Folded { node, .. } | Self::Forgotten { node } => node,
        }
    }
}

impl Node {
    pub(crate) fn checkpoint(&self, directory: &Directory) -> Checkpoint {
        let name = |party: &Party| party_name(*party, directory);
        let slots = self.slots.iter().zip(0..);
        let frames = self.frames.iter().filter(|f| !f.folded);
        Checkpoint {
            node: Arc::clone(&self.name),
            run: self.run.clone(),
            ended_runs: self.ended_runs.iter().cloned().collect(),
            last_sequence: self.last_sequence,
            last_boot_ns: self.last_boot_ns,
            online_cpus: self.online_cpus,
            catching_up: self.catching_up,
            catch_up_until: self.catch_up_until,
            counting: self.counting,
            entries: self.index.entries().iter().map(EntryState::of).collect(),
            slots: slots
                .filter_map(|(slot, at)| Some(slot.as_ref()?.checkpoint(at, name)))
                .collect(),
            containers: self.containers.iter().map(ContainerState::of).collect(),
            frames: frames
                .map(|f| FrameState {
                    from_ns: f.from_ns,
                    to_ns: f.to_ns,
                    bytes: f.encoded().to_vec(),
                })
                .collect(),
            run_ns: self.totals.run_ns.iter().map(|(p, ns)| (name(p), *ns)).collect(),
            ledger_ns: self
                .totals
                .ledger_ns
                .iter()
                .map(|((w, r), ns)| (name(w), name(r), *ns))
                .collect(),
            waits: self
                .totals
                .waits
                .iter()
                .map(|(t, w)| (Arc::clone(directory.tenants.name(*t)), w.clone()))
                .collect(),
            reports: self.totals.reports,
            runs: self.totals.runs,
        }
    }

    /// As it was; `received_ns`: the aggregator's monotonic clock now. What the checkpoint says of slots that cannot be is left out.
    pub(crate) fn restore(from: Checkpoint, received_ns: u64, tenants: &mut Tenants) -> Self {
        let mut node = Self::new(from.node, from.run);
        node.ended_runs = from.ended_runs.into();
        node.last_sequence = from.last_sequence;
        node.last_boot_ns = from.last_boot_ns;
        node.online_cpus = from.online_cpus;
        node.received_ns = received_ns;
        node.catching_up = from.catching_up;
        node.catch_up_until = from.catch_up_until;
        node.counting = from.counting;
        let mut party = |name: &str| party_named(name, tenants);
        for state in from.slots {
            let at = state.slot as usize;
            if at >= crate::limits::MAX_SLOTS_PER_NODE {
                continue;
            }
            if node.slots.len() <= at {
                node.slots.resize_with(at + 1, || None);
            }
            node.pair_count += state.pairs.len();
            node.ended_slots += usize::from(state.ended_ns != u64::MAX);
            node.slots[at] = Some(Slot::restore(state, &mut party));
        }
        for (slot, at) in node.slots.iter().zip(0..) {
            if slot.is_none() {
                node.free.push(at);
            }
        }
        for entry in from.entries {
            node.index.insert(Entry {
                index: entry.index,
                slot: entry.slot.unwrap_or(Index::NO_SLOT),
                meaning: entry.meaning,
            });
        }
        for c in from.containers {
            let container = Container {
                pod: c.pod,
                id: c.id.into(),
                ..Container::default()
            };
            node.containers.insert(c.index, container);
        }
        for f in from.frames {
            let frame = Frame::restore(f.from_ns, f.to_ns, f.bytes);
            node.frame_bytes += frame.bytes();
            node.add(&frame);
            node.frames.push_back(frame);
        }
        let totals = &mut node.totals;
        totals.run_ns = from.run_ns.iter().map(|(p, ns)| (party(p), *ns)).collect();
        let ledger = from.ledger_ns.iter();
        totals.ledger_ns = ledger.map(|(w, r, ns)| ((party(w), party(r)), *ns)).collect();
        let waits = from.waits.into_iter();
        totals.waits = waits.map(|(t, w)| (tenants.id(&t), w)).collect();
        totals.reports = from.reports;
        totals.runs = from.runs;
        node
    }

    /// Counts again what was counted before the process ended.
    pub(crate) fn begin_replay(&mut self) {
        self.replaying = true;
    }

    /// What a report changed that is not kept.
    pub(crate) fn drop_news(&mut self) {
        self.flows = flows::Flows::default();
        self.kills = crate::oom::Kills::default();
    }

    /// What went into the totals then goes into them now, under the same names.
    pub(crate) fn fold_again(
        &mut self,
        up_to_boot_ns: u64,
        window_boot_ns: u64,
        names: &[(u32, Party)],
        lengths: Lengths,
    ) {
        self.tell(names);
        self.fold_up_to(up_to_boot_ns);
        self.slide(lengths, window_boot_ns);
    }

    /// From here on reports are new. `received_ns`: the aggregator's monotonic clock.
    pub(crate) fn end_replay(&mut self, received_ns: u64) {
        self.replaying = false;
        self.ask_again = true;
        self.received_ns = received_ns;
        self.stale = true;
        // It is not known how long ago that was: nothing is judged by it.
        self.drop_folded();
        self.drop_news();
        self.flows.begin_anew(self.last_sequence);
    }

    /// Takes in a report that was counted, or (`refused`) of which only the names were.
    pub(crate) fn count_again(
        &mut self,
        report: Report,
        refused: bool,
        cx: &super::ingest::Context,
        losses: &mut Losses,
    ) {
        if refused {
            self.name_only(&report, losses);
        } else {
            self.ingest(report, cx, losses);
        }
        self.drop_news();
    }
}

impl EntryState {
    fn of(entry: &Entry) -> Self {
        Self {
            index: entry.index,
            slot: (entry.slot != Index::NO_SLOT).then_some(entry.slot),
            meaning: entry.meaning,
        }
    }
}

impl ContainerState {
    fn of((index, container): (&u32, &Container)) -> Self {
        Self {
            index: *index,
            pod: container.pod,
            id: container.id.to_string(),
        }
    }
}

impl Slot {
    fn checkpoint(&self, slot: u32, name: impl Fn(&Party) -> Arc<str>) -> SlotState {
        SlotState {
            slot,
            index: self.index,
            kind: match &self.kind {
                Kind::Pod(uid) => SlotKind::Pod(Arc::clone(uid)),
                Kind::Host(path) => SlotKind::Host(Arc::clone(path)),
                Kind::Unknown(reason) => SlotKind::Unknown(*reason),
            },
            told: self.told.as_ref().map(name),
            born_ns: self.born_ns,
            ended_ns: self.ended_ns,
            old: self.old,
            cpu_known: self.cpu_known,
            row_known: self.row_known,
            last: self.last,
            waits: self.hist.as_ref().map(|h| h.last),
            pairs: self
                .pairs
                .iter()
                .map(|p| (p.runner_index, p.runner_slot, p.last))
                .collect(),
        }
    }

    fn restore(from: SlotState, party: &mut impl FnMut(&str) -> Party) -> Self {
        let kind = match from.kind {
            SlotKind::Pod(uid) => Kind::Pod(uid),
            SlotKind::Host(path) => Kind::Host(path),
            SlotKind::Unknown(reason) => Kind::Unknown(reason),
        };
        let mut slot = Self::new(from.index, kind, from.born_ns, from.old);
        slot.told = from.told.map(|name| party(&name));
        slot.ended_ns = from.ended_ns;
        slot.cpu_known = from.cpu_known;
        slot.row_known = from.row_known;
        slot.last = from.last;
        slot.hist = from.waits.map(|last| {
            Box::new(Hist {
                last,
                ..Hist::default()
            })
        });
        let pairs = from.pairs.into_iter();
        slot.pairs = pairs
            .map(|(runner_index, runner_slot, last)| Pair {
                runner_index,
                runner_slot,
                last,
                sum: [0; 2],
            })
            .collect();
        slot
    }
}
