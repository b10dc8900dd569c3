//! One reading: from the kernel side's counters to what changed per pod. Synchronous; `run.rs` says when.

use std::path::PathBuf;

use partywall_abi::{LossReason, SLOT_IDLE, SLOT_NONE, SLOT_STEAL, SLOT_THROTTLED, SLOT_UNRESOLVED, SLOTS};
use partywall_agent_core::fold::{Changes, Fold};
use partywall_agent_core::inventory::{Inventory, QUARANTINE_NS};
use partywall_agent_core::slots::Book;
use tracing::warn;

use crate::cgroups;
use crate::kernel::events::{self, CgroupChange};
use crate::kernel::load::Kernel;

/// The cgroup tree is read again this often, whatever the kernel side told.
const RESCAN_NS: u64 = 60_000_000_000;

/// What was lost or could not be told, cumulative since the agent's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadLosses {
    /// Readings in which a wait was caught before its cells, however often it was tried. The next one has them.
    pub in_flight: u64,
    /// Readings whose classes do not sum to the wait although they are of one moment. Never seen; a defect if it is.
    pub mismatch: u64,
    /// CPUs whose running task could not be entered.
    pub flush: u64,
    /// Ring entries of an unknown shape.
    pub malformed_events: u64,
    /// Events whose path was too long.
    pub cut_paths: u64,
    /// Slots that could not be given back, tried again at the next reading.
    pub give_back: u64,
}

/// What the agent tracks at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tracked {
    pub cgroups: usize,
    pub pods: usize,
    pub containers: usize,
    pub slots: usize,
}

/// The kernel side and everything that gives its slots names.
pub struct Reader {
    pub kernel: Kernel,
    cgroup_root: PathBuf,
    inventory: Inventory,
    book: Book,
    fold: Fold,
    losses: ReadLosses,
    ring_full_seen: u64,
    scanned_ns: u64,
    scan_wanted: bool,
    /// When each slot last ran.
    active_ns: Vec<u64>,
    /// Scratch, kept for its memory.
    cells: Vec<u64>,
    runners: Vec<u16>,
}

impl Reader {
    /// Begins to read a kernel side that is attached: the tree is scanned after, so that no cgroup falls between.
    pub fn new(kernel: Kernel, cgroup_root: PathBuf, now_ns: u64) -> Self {
        let mut reader = Self {
            kernel,
            cgroup_root,
            inventory: Inventory::default(),
            book: Book::default(),
            fold: Fold::default(),
            losses: ReadLosses::default(),
            ring_full_seen: 0,
            scanned_ns: 0,
            scan_wanted: false,
            active_ns: vec![now_ns; SLOTS],
            cells: Vec::new(),
            runners: Vec::new(),
        };
        reader.scan(now_ns);
        reader
    }

    /// Enters what the ring tells of the cgroup tree.
    pub fn drain_events(&mut self, now_ns: u64) {
        let (inventory, losses) = (&mut self.inventory, &mut self.losses);
        let cut_before = losses.cut_paths;
        let malformed = events::drain(&mut self.kernel.events, |change| match change {
            CgroupChange::Made { id, path: Some(path) } => inventory.made(id, &path, now_ns),
            CgroupChange::Made { id: _, path: None } => losses.cut_paths += 1,
            CgroupChange::Removed { id } => inventory.removed(id, now_ns),
        });
        losses.malformed_events += malformed;
        self.scan_wanted |= malformed > 0 || losses.cut_paths != cut_before;
    }

    /// Reads everything once. The ring must have been drained after `slots` was taken, or with nothing in between.
    ///
    /// Returns what changed since the last reading.
    pub fn read(&mut self, slots: &[u16], now_ns: u64) -> Changes {
        self.losses.flush += u64::from(self.kernel.flush());
        self.bind(slots, now_ns);

        self.runners.clear();
        self.runners
            .extend([SLOT_NONE, SLOT_IDLE, SLOT_STEAL, SLOT_THROTTLED, SLOT_UNRESOLVED]);
        self.runners.extend_from_slice(slots);
        for &slot in [SLOT_NONE].iter().chain(slots) {
            self.read_slot(slot, now_ns);
        }
        self.give_back(slots, now_ns);
        self.fold.take_changes()
    }

    /// The slots that are somebody's. Take them, then drain the ring, then [`read`](Self::read): whoever holds a slot was made before.
    pub fn slots(&self) -> Vec<u16> {
        self.kernel.maps.slots_in_use().collect()
    }

    pub fn losses(&self) -> ReadLosses {
        self.losses
    }

    /// cgroups that were not remembered because there were too many at once.
    pub fn turned_away(&self) -> u64 {
        self.inventory.turned_away()
    }

    pub fn tracked(&self) -> Tracked {
        let (pods, containers) = self.fold.counts();
        Tracked {
            cgroups: self.inventory.len(),
            pods,
            containers,
            slots: self.kernel.maps.slots_in_use().count(),
        }
    }

    fn read_slot(&mut self, slot: u16, now_ns: u64) {
        let mut totals = self.kernel.maps.totals(slot);
        let mut one_moment = true;
        self.cells.clear();
        let runners: &[u16] = if self.book.waited_for_others(slot, &totals) {
            (totals, one_moment) = self.kernel.maps.read_waiter(slot, &self.runners, &mut self.cells);
            &self.runners
        } else {
            &[]
        };
        let (added, whole) = self.book.enter(slot, &totals, runners, &self.cells);
        if added.run_ns != 0
            && let Some(active_ns) = self.active_ns.get_mut(usize::from(slot))
        {
            *active_ns = now_ns;
        }
        self.fold.add(slot, &added);
        if whole {
            return;
        }
        // A wait whose hook is still running on another CPU shows in the totals before its cells; one against a cgroup
        // that got its slot a moment ago has its cell in a column that this reading does not have.
        let (totals, again_one_moment) = self.kernel.maps.read_waiter(slot, &self.runners, &mut self.cells);
        let (added, whole) = self.book.enter(slot, &totals, &self.runners, &self.cells);
        self.fold.add(slot, &added);
        let column_missing = self
            .kernel
            .maps
            .slots_in_use()
            .any(|runner| !self.runners.contains(&runner));
        if !whole && one_moment && again_one_moment && !column_missing {
            self.losses.mismatch += 1;
            warn!(
                slot,
                cgroup = self.kernel.maps.owner(slot),
                "ledger classes do not sum to the wait"
            );
        } else if !whole {
            self.losses.in_flight += 1;
        }
    }

    /// Whether a slot's cgroup is gone, and nothing of it is still to come.
    fn is_over(&self, slot: u16, id: u64, now_ns: u64) -> bool {
        match self.inventory.identity(id) {
            Some(_) => self.inventory.expired(id, now_ns),
            // One whose removal was not seen either: over when it has not run for as long.
            None => {
                let active_ns = self.active_ns.get(usize::from(slot)).copied().unwrap_or(0);
                now_ns.saturating_sub(active_ns) >= QUARANTINE_NS
            }
        }
    }

    /// Gives names to slots that were assigned since the last reading.
    fn bind(&mut self, slots: &[u16], now_ns: u64) {
        let ring_full = self
            .kernel
            .maps
            .losses()
            .find(|(reason, _)| *reason == LossReason::RingFull)
            .map_or(0, |(_, n)| n);
        self.scan_wanted |= ring_full != std::mem::replace(&mut self.ring_full_seen, ring_full);
        let unknown = slots.iter().any(|slot| {
            let id = self.kernel.maps.owner(*slot);
            self.fold.bound(*slot) != Some(id) && self.inventory.identity(id).is_none()
        });
        if unknown || self.scan_wanted || now_ns.saturating_sub(self.scanned_ns) >= RESCAN_NS {
            self.scan(now_ns);
        }
        for slot in slots {
            let id = self.kernel.maps.owner(*slot);
            if self.fold.bound(*slot) != Some(id) {
                self.fold
                    .bind(*slot, id, self.inventory.identity(id), self.inventory.made_ns(id));
                if let Some(active_ns) = self.active_ns.get_mut(usize::from(*slot)) {
                    *active_ns = now_ns;
                }
            }
        }
    }

    fn scan(&mut self, now_ns: u64) {
        let tree = cgroups::scan(&self.cgroup_root);
        self.inventory
            .scanned(tree.iter().map(|(id, path)| (*id, path.as_str())), now_ns);
        self.scanned_ns = now_ns;
        self.scan_wanted = false;
    }

    /// Gives back the slots of cgroups that were removed long enough ago.
    fn give_back(&mut self, slots: &[u16], now_ns: u64) {
        for slot in slots {
            let Some(id) = self.fold.bound(*slot) else {
                continue;
            };
            if !self.is_over(*slot, id, now_ns) {
                continue;
            }
            match self.kernel.maps.give_back(*slot, id) {
                Ok(()) => {
                    self.fold.release(*slot);
                    self.inventory.forget(id);
                }
                Err(error) => {
                    self.losses.give_back += 1;
                    warn!(%error, slot, "a removed cgroup's slot could not be given back");
                }
            }
        }
        let fold = &self.fold;
        let bound: std::collections::BTreeSet<u64> =
            slots.iter().filter_map(|slot| fold.bound(*slot)).collect();
        self.inventory.forget_expired(now_ns, |id| bound.contains(&id));
    }
}
