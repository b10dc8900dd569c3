//! One entity's counters: the last cumulative values, and their sums over the windows.

use std::sync::Arc;

use super::memory::Memory;
use crate::report::{UnknownReason, WAIT_BUCKETS};
use crate::sums::Party;

/// Cumulative counters of one entity, by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Counter {
    Run = 0,
    Wait = 1,
    /// Another task of the entity itself ran. From here on: classes of a ledger row.
    Itself = 2,
    Idle = 3,
    Steal = 4,
    Throttled = 5,
    Unresolved = 6,
}

pub(crate) const COUNTERS: usize = 7;
pub(crate) const CLASSES: usize = 5;

/// The two windows that every sum exists for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Window {
    Long = 0,
    Fast = 1,
}

pub(crate) const WINDOWS: [Window; 2] = [Window::Long, Window::Fast];

/// What has counters of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Pod(Arc<str>),
    Host(Arc<str>),
    Unknown(UnknownReason),
}

#[derive(Debug)]
pub(crate) struct Slot {
    /// The agent's entity index.
    pub(crate) index: u32,
    pub(crate) kind: Kind,
    /// Whose its time is in the totals from here on, as far as it was named.
    pub(crate) told: Option<Party>,
    /// CLOCK_BOOTTIME of its birth and its end. 0: before the window; `u64::MAX`: lives.
    pub(crate) born_ns: u64,
    pub(crate) ended_ns: u64,
    /// It lived before its first counters arrived here, so those are a baseline, no increment.
    pub(crate) old: bool,
    /// `last` holds a baseline for CPU counters, for the row.
    pub(crate) cpu_known: bool,
    pub(crate) row_known: bool,
    pub(crate) last: [u64; COUNTERS],
    pub(crate) sum: [[u64; COUNTERS]; 2],
    pub(crate) hist: Option<Box<Hist>>,
    /// Of pods whose agent tells.
    pub(crate) memory: Option<Box<Memory>>,
    /// By the runner's entity index.
    pub(crate) pairs: Vec<Pair>,
    /// Reports in the window in which it waited for others long enough to notice.
    pub(crate) hits: u32,
    /// Marks of the report being checked: listed already?
    pub(crate) cpu_mark: u64,
    pub(crate) memory_mark: u64,
    pub(crate) row_mark: u64,
    pub(crate) runner_mark: u64,
    /// Index into the node's units; `u32::MAX` before it is resolved.
    pub(crate) unit: u32,
}

/// Waits by length.
#[derive(Debug, Default)]
pub(crate) struct Hist {
    pub(crate) last: [u64; WAIT_BUCKETS],
    pub(crate) sum: [u64; WAIT_BUCKETS],
}

/// One cell of the ledger.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub(crate) runner_index: u32,
    pub(crate) runner_slot: u32,
    pub(crate) last: u64,
    pub(crate) sum: [u64; 2],
}

pub(crate) const NO_UNIT: u32 = u32::MAX;

impl Slot {
    pub(crate) fn new(index: u32, kind: Kind, born_ns: u64, old: bool) -> Self {
        Self {
            index,
            kind,
            told: None,
            born_ns,
            ended_ns: u64::MAX,
            old,
            cpu_known: !old,
            row_known: !old,
            last: [0; COUNTERS],
            sum: [[0; COUNTERS]; 2],
            hist: None,
            memory: None,
            pairs: Vec::new(),
            hits: 0,
            cpu_mark: 0,
            memory_mark: 0,
            row_mark: 0,
            runner_mark: 0,
            unit: NO_UNIT,
        }
    }

    pub(crate) fn lives(&self) -> bool {
        self.ended_ns == u64::MAX
    }

    /// Nothing of it is in a window.
    pub(crate) fn is_idle(&self) -> bool {
        self.sum == [[0; COUNTERS]; 2] && self.pairs.iter().all(|p| p.sum == [0; 2])
    }

    /// Where the pair with this runner is, or would be. `near` is where the pair before it was found: reports list runners in
    /// order, so the next one is usually there.
    pub(crate) fn find_pair(&self, runner_index: u32, near: usize) -> Result<usize, usize> {
        if self
            .pairs
            .get(near)
            .is_some_and(|p| p.runner_index == runner_index)
        {
            return Ok(near);
        }
        self.pairs.binary_search_by_key(&runner_index, |p| p.runner_index)
    }
}

/// Entity index → slot, as sorted entries. Agents number upward, so that a new entity is appended, and refer in order, so that most
/// look-ups find the entry after the one before.
#[derive(Debug, Default)]
pub(crate) struct Index {
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) index: u32,
    /// [`Index::NO_SLOT`] for containers, which are kept by their index, and for what found no room.
    pub(crate) slot: u32,
    /// Tells one meaning from another where the slot cannot: a hash of what was announced.
    pub(crate) meaning: u64,
}

impl Index {
    pub(crate) const NO_SLOT: u32 = u32::MAX;

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The entry of `index`. `near` is where the one before was found, and is moved.
    pub(crate) fn find(&self, index: u32, near: &mut usize) -> Option<&Entry> {
        for at in [*near + 1, *near] {
            if let Some(entry) = self.entries.get(at).filter(|e| e.index == index) {
                *near = at;
                return Some(entry);
            }
        }
        let at = self.entries.binary_search_by_key(&index, |e| e.index).ok()?;
        *near = at;
        self.entries.get(at)
    }

    /// `index` is not there yet.
    pub(crate) fn insert(&mut self, entry: Entry) {
        let at = self.entries.partition_point(|e| e.index < entry.index);
        self.entries.insert(at, entry);
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(crate) fn retain(&mut self, keep: impl FnMut(&Entry) -> bool) {
        self.entries.retain(keep);
    }
}
