//! One reading: from the kernel side's counters to what changed per pod. Synchronous; `run.rs` says when.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use partywall_abi::{
    FlowName, LossReason, SLOT_IDLE, SLOT_NONE, SLOT_STEAL, SLOT_THROTTLED, SLOT_UNRESOLVED, SLOTS, Unit,
};
use partywall_agent_core::flows::{FlowBook, FlowChanges};
use partywall_agent_core::fold::{Changes, Fold};
use partywall_agent_core::identity::Identity;
use partywall_agent_core::inventory::{Inventory, QUARANTINE_NS};
use partywall_agent_core::slots::Book;
use tracing::warn;

use crate::cgroups;
use crate::kernel::events::{self, CgroupChange, Event, OomKill};
use crate::kernel::flows::FlowMaps;
use crate::kernel::load::Kernel;
use crate::memory::{Kinds, Watch};
use crate::oom::{self, Kill};

/// The cgroup tree is read again this often, whatever the kernel side told.
const RESCAN_NS: u64 = 60_000_000_000;

/// OOM kills that are remembered between two readings.
const OOM_KILLS: usize = 256;

/// How often tasks' last reclaims are gone through, and how long ago those ended that are forgotten then.
const FORGET_STALLS_NS: u64 = 10_000_000_000;

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
    /// OOM kills that found no room between two readings.
    pub oom_kills: u64,
    /// Places of flows, and units, that could not be given back.
    pub flow_places: u64,
    /// Times that a part of the cgroup tree could not be read: nothing was taken for gone then.
    pub tree_cut: u64,
}

/// What the agent tracks at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tracked {
    pub cgroups: usize,
    pub pods: usize,
    pub containers: usize,
    pub slots: usize,
    /// cgroups whose memory and pressure files are read.
    pub watched: usize,
    /// Flows that have a place.
    pub flows: usize,
    /// Sockets of which the kernel side remembers something.
    pub sockets: u64,
}

/// What one reading found.
#[derive(Debug, Default)]
pub struct Reading {
    pub changes: Changes,
    pub oom_kills: Vec<ReportedKill>,
    pub flows: FlowChanges,
}

/// A kill between entities of the same report or an earlier one.
#[derive(Clone, Copy, Debug)]
pub struct ReportedKill {
    pub told: OomKill,
    pub trigger: u32,
    pub victim: u32,
}

/// The kernel side and everything that gives its slots names.
pub struct Reader {
    pub kernel: Kernel,
    cgroup_root: PathBuf,
    inventory: Inventory,
    book: Book,
    fold: Fold,
    flows: FlowBook,
    /// cgroups that have traffic and that no scan has found, and when they were first met.
    strange: BTreeMap<u64, u64>,
    /// cgroups that the last reading left for this one: their traffic came after the tree was looked at.
    late: BTreeSet<u64>,
    /// Units that nobody finds any more: given back when they were read once more.
    closed_units: BTreeSet<u32>,
    losses: ReadLosses,
    ring_full_seen: u64,
    scanned_ns: u64,
    scan_wanted: bool,
    watch: Watch,
    /// Since the last reading.
    oom_kills: Vec<Kill>,
    stalls_gone_through_ns: u64,
    /// When each slot last ran.
    active_ns: Vec<u64>,
    /// Scratch, kept for its memory.
    cells: Vec<u64>,
    runners: Vec<u16>,
}

impl Reader {
    /// Begins to read a kernel side that is attached: the tree is scanned after, so that no cgroup falls between.
    pub fn new(kernel: Kernel, cgroup_root: PathBuf, files: Kinds, now_ns: u64) -> Self {
        let mut reader = Self {
            kernel,
            cgroup_root,
            inventory: Inventory::default(),
            book: Book::default(),
            fold: Fold::default(),
            flows: FlowBook::default(),
            strange: BTreeMap::new(),
            late: BTreeSet::new(),
            closed_units: BTreeSet::new(),
            losses: ReadLosses::default(),
            ring_full_seen: 0,
            scanned_ns: 0,
            scan_wanted: false,
            watch: Watch::new(files),
            oom_kills: Vec::new(),
            stalls_gone_through_ns: now_ns,
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
        let oom_kills = &mut self.oom_kills;
        let malformed = events::drain(&mut self.kernel.events, |event| match event {
            Event::Cgroup(CgroupChange::Made { id, path: Some(path) }) => inventory.made(id, &path, now_ns),
            Event::Cgroup(CgroupChange::Made { id: _, path: None }) => losses.cut_paths += 1,
            Event::Cgroup(CgroupChange::Removed { id }) => inventory.removed(id, now_ns),
            Event::OomKill(told) if oom_kills.len() < OOM_KILLS => oom_kills.push(oom::name(told, inventory)),
            Event::OomKill(_) => losses.oom_kills += 1,
        });
        losses.malformed_events += malformed;
        self.scan_wanted |= malformed > 0 || losses.cut_paths != cut_before;
    }

    /// Reads everything once. The ring must have been drained after `slots` was taken, or with nothing in between.
    ///
    /// Returns what changed since the last reading.
    pub fn read(&mut self, slots: &[u16], now_ns: u64) -> Reading {
        self.losses.flush += u64::from(self.kernel.flush());
        self.bind(slots, now_ns);
        self.watch_cgroups();

        self.runners.clear();
        self.runners
            .extend([SLOT_NONE, SLOT_IDLE, SLOT_STEAL, SLOT_THROTTLED, SLOT_UNRESOLVED]);
        self.runners.extend_from_slice(slots);
        for &slot in [SLOT_NONE].iter().chain(slots) {
            self.read_slot(slot, now_ns);
            let reclaim = self.kernel.maps.reclaim(slot);
            if let Some(added) = self.book.enter_reclaim(slot, &reclaim) {
                self.fold.add_reclaim(slot, &added);
            }
        }
        for (entity, files) in self.watch.read(|entity| self.fold.reclaimed(entity)) {
            self.fold.set_memory(entity, files);
        }
        self.read_flows(now_ns);
        self.forget_stalls(now_ns);
        self.give_back(slots, now_ns);
        let oom_kills = std::mem::take(&mut self.oom_kills)
            .into_iter()
            .map(|kill| ReportedKill {
                told: kill.told,
                trigger: self.fold.mention(kill.trigger.as_ref()),
                victim: self.fold.mention(kill.victim.as_ref()),
            })
            .collect();
        let (changes, flows) = (self.fold.take_changes(), self.flows.take_changes());
        // Not by what has ended: a pod's end is told before its last traffic.
        let fold = &self.fold;
        self.flows.keep_entities(|entity| fold.knows(entity));
        Reading {
            changes,
            oom_kills,
            flows,
        }
    }

    /// Takes up pods' and containers' own cgroups that are new, and lets go of those that are gone.
    fn watch_cgroups(&mut self) {
        let gone: Vec<u64> = self
            .watch
            .ids()
            .filter(|id| self.inventory.identity(*id).is_none() || self.inventory.gone_ns(*id).is_some())
            .collect();
        for id in gone {
            if let Some(entity) = self.watch.end(id) {
                self.fold
                    .let_go(entity, self.inventory.gone_ns(id).unwrap_or_default());
            }
        }
        for own in self.inventory.take_own() {
            let entity = self.fold.hold(&own.identity, own.made_ns);
            if let Some(gone_ns) = own.gone_ns {
                self.fold.let_go(entity, gone_ns);
                continue;
            }
            let directory = self.cgroup_root.join(own.path.trim_start_matches('/'));
            let is_pod = matches!(own.identity, Identity::Pod { .. });
            self.watch
                .begin(own.id, entity, directory, is_pod, own.made_ns == 0);
        }
    }

    /// Reads what sockets sent and received, and gives back places that rest.
    fn read_flows(&mut self, now_ns: u64) {
        let Some(maps) = &mut self.kernel.flows else {
            return;
        };
        let (inventory, fold, book) = (&self.inventory, &mut self.fold, &mut self.flows);
        let strange = &self.strange;
        let waited = std::mem::take(&mut self.late);
        let late = &mut self.late;
        let mut hold = |cgroup| match inventory.identity(cgroup) {
            _ if cgroup == 0 => Some(fold.mention_nobody()),
            // It may have been made after the tree was looked at, and whose it is would be unknown for as long as the flow lives. The
            // next reading looks first.
            None if !strange.contains_key(&cgroup) && !waited.contains(&cgroup) => {
                late.insert(cgroup);
                None
            }
            identity => Some(fold.hold_owner(identity)),
        };
        let names: Vec<(u32, FlowName)> = maps.names().collect();
        for (place, name) in &names {
            book.enter(*place, name, &maps.flow(*place).traffic, now_ns, &mut hold);
        }
        let units: Vec<(u32, Unit)> = maps.units().collect();
        for (index, unit) in &units {
            book.enter_unit(*index, unit.cgroup, &unit.folded, &mut hold);
        }
        for (place, entity) in book.take_final() {
            fold.let_go_owner(entity);
            if let Err(error) = maps.free(place) {
                self.losses.flow_places += 1;
                warn!(%error, place, "a flow's place could not be given back");
            }
        }
        let gone = |cgroup| match (inventory.identity(cgroup), strange.get(&cgroup)) {
            // Its removal was not seen either.
            (None, Some(met_ns)) => now_ns.saturating_sub(*met_ns) >= QUARANTINE_NS,
            _ => inventory.expired(cgroup, now_ns),
        };
        for (place, name) in book.idle(now_ns, gone) {
            match maps.close(place, &name) {
                Ok(()) => book.closed(place),
                Err(error) => {
                    self.losses.flow_places += 1;
                    warn!(%error, place, "a resting flow could not be closed");
                }
            }
        }
        let losses = &mut self.losses;
        self.closed_units.retain(|index| {
            // A flow that was under way when the unit was closed may have taken a place of its.
            if maps.unit(*index).flows != 0 {
                return true;
            }
            if let Err(error) = maps.free_unit(*index) {
                losses.flow_places += 1;
                warn!(%error, index, "a removed cgroup's unit could not be given back");
                return true;
            }
            if let Some(entity) = book.forget_unit(*index) {
                fold.let_go_owner(entity);
            }
            false
        });
        for (index, _) in units {
            // As it is now: it may have been given back just before.
            let unit = maps.unit(index);
            if unit.cgroup == 0 || unit.flows != 0 || !gone(unit.cgroup) || self.closed_units.contains(&index)
            {
                continue;
            }
            match maps.close_unit(unit.cgroup) {
                Ok(()) => {
                    self.closed_units.insert(index);
                }
                Err(error) => {
                    losses.flow_places += 1;
                    warn!(%error, index, "a removed cgroup's unit could not be closed");
                }
            }
        }
    }

    /// Whether there is traffic of a cgroup that was never heard of before.
    fn strange_traffic(&mut self, now_ns: u64) -> bool {
        let Some(maps) = &self.kernel.flows else {
            return false;
        };
        let before = std::mem::take(&mut self.strange);
        for (index, unit) in maps.units() {
            let known = self.inventory.identity(unit.cgroup).is_some();
            // A closed one was known, and is as good as gone.
            if index != 0 && !known && !self.closed_units.contains(&index) {
                let met_ns = before.get(&unit.cgroup).copied().unwrap_or(now_ns);
                self.strange.insert(unit.cgroup, met_ns);
            }
        }
        self.strange.keys().any(|cgroup| !before.contains_key(cgroup))
    }

    fn forget_stalls(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.stalls_gone_through_ns) >= FORGET_STALLS_NS {
            self.stalls_gone_through_ns = now_ns;
            self.kernel
                .maps
                .forget_stalls(now_ns.saturating_sub(FORGET_STALLS_NS));
        }
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
            watched: self.watch.len(),
            flows: self.flows.len(),
            sockets: self.kernel.flows.as_ref().map_or(0, FlowMaps::sockets),
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
        let unknown = self.strange_traffic(now_ns) || unknown;
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
        let found = tree.cgroups.iter().map(|(id, path)| (*id, path.as_str()));
        self.inventory.scanned(found, tree.whole, now_ns);
        self.losses.tree_cut += u64::from(!tree.whole);
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
                // Its name goes below, when it has no traffic either.
                Ok(()) => self.fold.release(*slot),
                Err(error) => {
                    self.losses.give_back += 1;
                    warn!(%error, slot, "a removed cgroup's slot could not be given back");
                }
            }
        }
        let fold = &self.fold;
        let bound: BTreeSet<u64> = slots.iter().filter_map(|slot| fold.bound(*slot)).collect();
        let flows = &self.flows;
        self.inventory
            .forget_expired(now_ns, |id| bound.contains(&id) || flows.knows(id));
    }
}
