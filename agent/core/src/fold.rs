//! Folds slots into pods: whose counters they are, and the ledger between them.

use std::collections::{BTreeMap, BTreeSet};

use partywall_abi::{
    BUCKETS, Reclaim, Reclaimed, SLOT_IDLE, SLOT_NONE, SLOT_STEAL, SLOT_THROTTLED, SLOT_UNRESOLVED, SLOTS,
};

use crate::identity::Identity;
use crate::memory::Memory;
use crate::slots::Added;

/// Host cgroups that are reported by name; the rest is [`Why::Folded`]. A systemd host has fifty services.
pub const HOSTS: usize = 512;

/// Why something that used CPU has no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The cgroup was gone before its path could be read.
    PathGone,
    /// More cgroups were active at once than the kernel side has slots.
    NoSlot,
    /// Below a kubepods root, in no known layout.
    UnreadablePath,
    /// More host cgroups than [`HOSTS`].
    Folded,
}

/// Something that uses CPU.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    Pod {
        uid: String,
    },
    /// `pod`: the entity of its pod.
    Container {
        pod: u32,
        id: String,
    },
    Host {
        path: String,
    },
    Unknown(Why),
}

/// Counters of one entity, cumulative since the agent's start, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    pub run_ns: u64,
    pub wait_ns: u64,
    pub waits: [u64; BUCKETS],
}

/// One row of the ledger, cumulative since the agent's start, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerRow {
    pub self_ns: u64,
    pub idle_ns: u64,
    pub steal_ns: u64,
    pub throttled_ns: u64,
    pub unresolved_ns: u64,
    /// By runner entity. In [`Changes`]: only those that changed.
    pub ran_ns: BTreeMap<u32, u64>,
}

/// What a pod or container has of memory, and what its tasks reclaimed since the agent's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemorySample {
    pub files: Memory,
    pub reclaim: Reclaim,
}

/// What changed since the last report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Index, who, and when it was made (CLOCK_BOOTTIME; 0: not known).
    pub entities: Vec<(u32, Who, u64)>,
    /// Index, and when its cgroup was removed (CLOCK_BOOTTIME; 0: not known).
    pub ended: Vec<(u32, u64)>,
    pub cpu: Vec<(u32, Sample)>,
    pub ledger: Vec<(u32, LedgerRow)>,
    pub memory: Vec<(u32, MemorySample)>,
}

#[derive(Debug)]
struct Entity {
    who: Who,
    born_ns: u64,
    /// When its own cgroup was removed.
    gone_ns: Option<u64>,
    /// Slots bound to it and cgroups that are its own; of a pod, its containers' too.
    holders: u32,
    /// Somebody refers to it in the next report, whether or not it did anything.
    mentioned: bool,
    sample: Sample,
    row: LedgerRow,
    memory: MemorySample,
    announced: bool,
    end_told: bool,
    sample_changed: bool,
    row_changed: bool,
    cells_changed: BTreeSet<u32>,
    memory_changed: bool,
    reclaimed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Bound {
    /// cgroup id.
    id: u64,
    /// The pod, host cgroup or unknown in whose name the ledger is kept.
    owner: u32,
    /// Its container, where it is one's.
    container: Option<u32>,
}

/// Entities and which slots are theirs.
#[derive(Debug)]
pub struct Fold {
    entities: BTreeMap<u32, Entity>,
    index: BTreeMap<Who, u32>,
    next: u32,
    hosts: usize,
    slots: Vec<Option<Bound>>,
    ended: Vec<u32>,
}

impl Default for Fold {
    fn default() -> Self {
        let mut fold = Self {
            entities: BTreeMap::new(),
            index: BTreeMap::new(),
            next: 1,
            hosts: 0,
            slots: vec![None; SLOTS],
            ended: Vec::new(),
        };
        // Never released: whoever gets no slot may come at any time.
        fold.bind_to(SLOT_NONE, 0, Who::Unknown(Why::NoSlot), None, 0);
        fold
    }
}

impl Fold {
    /// The cgroup bound to a slot.
    pub fn bound(&self, slot: u16) -> Option<u64> {
        self.slots
            .get(usize::from(slot))
            .copied()
            .flatten()
            .map(|bound| bound.id)
    }

    /// From here on, what `slot` does is done by cgroup `id`, made at `born_ns` (0: not known when). `identity`: whose that is;
    /// `None` when nobody knows any more.
    pub fn bind(&mut self, slot: u16, id: u64, identity: Option<&Identity>, born_ns: u64) {
        let (owner, container) = self.who(identity);
        self.bind_to(slot, id, owner, container, born_ns);
    }

    fn bind_to(&mut self, slot: u16, id: u64, who: Who, container: Option<&String>, born_ns: u64) {
        self.release(slot);
        let (owner, container) = self.hold_both(who, container, born_ns);
        if let Some(place) = self.slots.get_mut(usize::from(slot)) {
            *place = Some(Bound { id, owner, container });
        }
    }

    /// In whose name it is kept, and which container of it.
    fn who<'a>(&self, identity: Option<&'a Identity>) -> (Who, Option<&'a String>) {
        match identity {
            Some(Identity::Pod { uid }) => (Who::Pod { uid: uid.clone() }, None),
            Some(Identity::Container { pod_uid, id }) => (Who::Pod { uid: pod_uid.clone() }, Some(id)),
            Some(Identity::Host { path }) => {
                let host = Who::Host { path: path.clone() };
                let named = self.index.contains_key(&host) || self.hosts < HOSTS;
                (if named { host } else { Who::Unknown(Why::Folded) }, None)
            }
            Some(Identity::Unreadable) => (Who::Unknown(Why::UnreadablePath), None),
            None => (Who::Unknown(Why::PathGone), None),
        }
    }

    fn hold_both(&mut self, who: Who, container: Option<&String>, born_ns: u64) -> (u32, Option<u32>) {
        // Why somebody has no name is no life that began at some time.
        let born_ns = if matches!(who, Who::Unknown(_)) {
            0
        } else {
            born_ns
        };
        let owner = self.entity(who, born_ns);
        let container = container.map(|container| {
            self.entity(
                Who::Container {
                    pod: owner,
                    id: container.clone(),
                },
                born_ns,
            )
        });
        for entity in [Some(owner), container].into_iter().flatten() {
            if let Some(entity) = self.entities.get_mut(&entity) {
                entity.holders += 1;
            }
        }
        (owner, container)
    }

    /// The pod's or container's own cgroup was made, whether or not it ever does anything. Returns its entity.
    pub fn hold(&mut self, identity: &Identity, born_ns: u64) -> u32 {
        let (who, container) = self.who(Some(identity));
        // Made again: the end of the one before may have been told.
        let before = self.index.get(&who).and_then(|index| self.entities.get(index));
        if container.is_none() && before.is_some_and(|before| before.gone_ns.is_some()) {
            self.index.remove(&who);
        }
        let (owner, container) = self.hold_both(who, container, born_ns);
        container.unwrap_or(owner)
    }

    /// That cgroup was removed at `gone_ns`. A pod ends with the next report, though what it did may still be entered: others' waits reach
    /// back to its slices until its slots are released.
    pub fn let_go(&mut self, index: u32, gone_ns: u64) {
        let Some(entity) = self.entities.get_mut(&index) else {
            return;
        };
        entity.gone_ns = Some(gone_ns);
        let pod = match entity.who {
            Who::Container { pod, .. } => Some(pod),
            _ => None,
        };
        self.drop_holder(index);
        if let Some(pod) = pod {
            self.drop_holder(pod);
        }
    }

    /// The pod, host cgroup or unknown of a cgroup whose traffic is counted, kept until [`let_go_owner`](Self::let_go_owner).
    pub fn hold_owner(&mut self, identity: Option<&Identity>) -> u32 {
        let (who, _) = self.who(identity);
        self.hold_both(who, None, 0).0
    }

    /// The entity of what found no room in the kernel side. Kept for ever.
    pub fn mention_nobody(&mut self) -> u32 {
        let (index, _) = self.hold_both(Who::Unknown(Why::NoSlot), None, 0);
        index
    }

    /// Traffic of it is counted no longer.
    pub fn let_go_owner(&mut self, index: u32) {
        self.drop_holder(index);
    }

    /// The entity of whom the next report speaks.
    pub fn mention(&mut self, identity: Option<&Identity>) -> u32 {
        let (who, container) = self.who(identity);
        let (owner, container) = self.hold_both(who, container, 0);
        for index in [Some(owner), container].into_iter().flatten() {
            if let Some(entity) = self.entities.get_mut(&index) {
                entity.mentioned = true;
            }
            self.drop_holder(index);
        }
        container.unwrap_or(owner)
    }

    fn drop_holder(&mut self, index: u32) {
        if let Some(entity) = self.entities.get_mut(&index) {
            entity.holders -= 1;
            if entity.holders == 0 {
                self.ended.push(index);
            }
        }
    }

    fn entity(&mut self, who: Who, born_ns: u64) -> u32 {
        if let Some(index) = self.index.get(&who) {
            return *index;
        }
        let index = self.next;
        self.next += 1;
        self.hosts += usize::from(matches!(who, Who::Host { .. }));
        self.index.insert(who.clone(), index);
        self.entities.insert(
            index,
            Entity {
                who,
                born_ns,
                gone_ns: None,
                end_told: false,
                holders: 0,
                mentioned: false,
                sample: Sample::default(),
                row: LedgerRow::default(),
                memory: MemorySample::default(),
                announced: false,
                sample_changed: false,
                row_changed: false,
                cells_changed: BTreeSet::new(),
                memory_changed: false,
                reclaimed: false,
            },
        );
        index
    }

    /// The slot is nobody's any more. An entity that nothing holds ends with the next report.
    pub fn release(&mut self, slot: u16) {
        let Some(bound) = self.slots.get_mut(usize::from(slot)).and_then(Option::take) else {
            return;
        };
        for index in [Some(bound.owner), bound.container].into_iter().flatten() {
            self.drop_holder(index);
        }
    }

    /// Adds what a slot did. The wait is what its classes sum to, so that no report contradicts itself.
    pub fn add(&mut self, slot: u16, added: &Added) {
        let Some(bound) = self.slots.get(usize::from(slot)).copied().flatten() else {
            return;
        };
        let wait_ns = added.self_ns + added.idle_ns + added.cells.iter().map(|(_, ns)| ns).sum::<u64>();
        let runners: Vec<(u16, Option<u32>, u64)> = added
            .cells
            .iter()
            .map(|(runner, ns)| {
                let owner = self
                    .slots
                    .get(usize::from(*runner))
                    .copied()
                    .flatten()
                    .map(|bound| bound.owner);
                (*runner, owner, *ns)
            })
            .collect();
        let changed = added.run_ns != 0 || wait_ns != 0 || added.waits.iter().any(|count| *count != 0);
        if !changed {
            return;
        }
        for index in [Some(bound.owner), bound.container].into_iter().flatten() {
            let Some(entity) = self.entities.get_mut(&index) else {
                continue;
            };
            entity.sample.run_ns += added.run_ns;
            entity.sample.wait_ns += wait_ns;
            for (sum, count) in entity.sample.waits.iter_mut().zip(added.waits) {
                *sum += count;
            }
            entity.sample_changed = true;
        }
        let Some(entity) = self.entities.get_mut(&bound.owner).filter(|_| wait_ns != 0) else {
            return;
        };
        entity.row_changed = true;
        let row = &mut entity.row;
        row.self_ns += added.self_ns;
        row.idle_ns += added.idle_ns;
        for (runner, owner, ns) in runners {
            match (runner, owner) {
                (SLOT_IDLE, _) => row.idle_ns += ns,
                (SLOT_STEAL, _) => row.steal_ns += ns,
                (SLOT_THROTTLED, _) => row.throttled_ns += ns,
                (_, Some(owner)) if owner == bound.owner => row.self_ns += ns,
                (_, Some(owner)) => {
                    *row.ran_ns.entry(owner).or_default() += ns;
                    entity.cells_changed.insert(owner);
                }
                // A slot that nobody holds cannot have run; what is entered against it has no owner to name.
                (SLOT_UNRESOLVED, _) | (_, None) => row.unresolved_ns += ns,
            }
        }
    }

    /// Adds what a slot's tasks reclaimed.
    pub fn add_reclaim(&mut self, slot: u16, added: &Reclaim) {
        let Some(bound) = self.slots.get(usize::from(slot)).copied().flatten() else {
            return;
        };
        let add = |sum: &mut Reclaimed, added: &Reclaimed| {
            sum.stall_ns += added.stall_ns;
            sum.pages += added.pages;
            sum.times += added.times;
        };
        for index in [Some(bound.owner), bound.container].into_iter().flatten() {
            if let Some(entity) = self.entities.get_mut(&index) {
                add(&mut entity.memory.reclaim.limit, &added.limit);
                add(&mut entity.memory.reclaim.node, &added.node);
                entity.reclaimed = true;
            }
        }
    }

    /// Whether the entity's tasks reclaimed since the last report.
    pub fn reclaimed(&self, index: u32) -> bool {
        self.entities.get(&index).is_some_and(|entity| entity.reclaimed)
    }

    /// Enters what an entity's files say now.
    pub fn set_memory(&mut self, index: u32, files: Memory) {
        if let Some(entity) = self.entities.get_mut(&index) {
            let files = files.not_before(&entity.memory.files);
            entity.memory_changed |= entity.memory.files != files;
            entity.memory.files = files;
        }
    }

    /// What changed since this was last called.
    pub fn take_changes(&mut self) -> Changes {
        let mut changes = Changes::default();
        for (index, entity) in &mut self.entities {
            let mentioned = std::mem::take(&mut entity.mentioned);
            if !entity.announced && (entity.sample_changed || mentioned || entity.holders > 0) {
                entity.announced = true;
                changes
                    .entities
                    .push((*index, entity.who.clone(), entity.born_ns));
            }
            let gone_ns = entity.gone_ns.filter(|_| matches!(entity.who, Who::Pod { .. }));
            if let Some(gone_ns) = gone_ns
                && entity.announced
                && !std::mem::replace(&mut entity.end_told, true)
            {
                changes.ended.push((*index, gone_ns));
            }
            if std::mem::take(&mut entity.sample_changed) {
                let mut sample = entity.sample.clone();
                if matches!(entity.who, Who::Container { .. }) {
                    sample.waits = [0; BUCKETS];
                }
                changes.cpu.push((*index, sample));
            }
            // Reclaim of the host's own daemons is nobody's pressure.
            let changed = std::mem::take(&mut entity.memory_changed) | std::mem::take(&mut entity.reclaimed);
            if changed && matches!(entity.who, Who::Pod { .. } | Who::Container { .. }) {
                changes.memory.push((*index, entity.memory));
            }
            if std::mem::take(&mut entity.row_changed) {
                let cells = std::mem::take(&mut entity.cells_changed);
                let ran_ns = cells
                    .iter()
                    .filter_map(|runner| Some((*runner, *entity.row.ran_ns.get(runner)?)))
                    .collect();
                // Named one by one: of the rest, which is most, no copy is made.
                let LedgerRow {
                    self_ns,
                    idle_ns,
                    steal_ns,
                    throttled_ns,
                    unresolved_ns,
                    ran_ns: _,
                } = entity.row;
                let row = LedgerRow {
                    self_ns,
                    idle_ns,
                    steal_ns,
                    throttled_ns,
                    unresolved_ns,
                    ran_ns,
                };
                changes.ledger.push((*index, row));
            }
        }
        for index in std::mem::take(&mut self.ended) {
            let Some(entity) = self.entities.get(&index).filter(|entity| entity.holders == 0) else {
                continue;
            };
            self.hosts -= usize::from(matches!(entity.who, Who::Host { .. }));
            if self.index.get(&entity.who) == Some(&index) {
                self.index.remove(&entity.who);
            }
            if entity.announced && !entity.end_told {
                changes.ended.push((index, entity.gone_ns.unwrap_or(0)));
            }
            self.entities.remove(&index);
            for other in self.entities.values_mut() {
                other.row.ran_ns.remove(&index);
                other.cells_changed.remove(&index);
            }
        }
        changes
    }

    /// Whether the entity lives, or what it did may still be entered.
    pub fn knows(&self, index: u32) -> bool {
        self.entities.contains_key(&index)
    }

    /// Pods and containers that are tracked now.
    pub fn counts(&self) -> (usize, usize) {
        let count = |wanted: fn(&Who) -> bool| {
            self.entities
                .values()
                .filter(|entity| wanted(&entity.who))
                .count()
        };
        (
            count(|who| matches!(who, Who::Pod { .. })),
            count(|who| matches!(who, Who::Container { .. })),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pod(uid: &str) -> Identity {
        Identity::Pod { uid: uid.into() }
    }

    fn container(uid: &str, id: &str) -> Identity {
        Identity::Container {
            pod_uid: uid.into(),
            id: id.into(),
        }
    }

    fn index_of(changes: &Changes, who: &Who) -> u32 {
        changes
            .entities
            .iter()
            .find(|(_, found, _)| found == who)
            .expect("announced")
            .0
    }

    #[test]
    fn two_containers_of_a_pod_are_one_in_the_ledger() {
        let mut fold = Fold::default();
        fold.bind(5, 50, Some(&container("blue", "a")), 0);
        fold.bind(6, 60, Some(&container("blue", "b")), 0);
        fold.bind(7, 70, Some(&pod("red")), 0);
        fold.add(
            5,
            &Added {
                run_ns: 10,
                self_ns: 1,
                cells: vec![(6, 20), (7, 300)],
                ..Added::default()
            },
        );
        let changes = fold.take_changes();
        let (blue, red) = (
            index_of(&changes, &Who::Pod { uid: "blue".into() }),
            index_of(&changes, &Who::Pod { uid: "red".into() }),
        );
        let (_, row) = changes.ledger.first().expect("a row");
        assert_eq!(
            (row.self_ns, row.ran_ns.clone()),
            (21, BTreeMap::from([(red, 300)]))
        );
        let sample = &changes
            .cpu
            .iter()
            .find(|(index, _)| *index == blue)
            .expect("a sample")
            .1;
        assert_eq!((sample.run_ns, sample.wait_ns), (10, 321));
    }

    #[test]
    fn a_pod_ends_with_its_last_slot_and_begins_anew() {
        let mut fold = Fold::default();
        fold.bind(5, 50, Some(&container("blue", "a")), 0);
        fold.add(
            5,
            &Added {
                run_ns: 1,
                ..Added::default()
            },
        );
        let first = index_of(&fold.take_changes(), &Who::Pod { uid: "blue".into() });
        fold.add(
            5,
            &Added {
                run_ns: 5,
                ..Added::default()
            },
        );
        fold.release(5);
        let last = fold.take_changes();
        assert!(last.ended.contains(&(first, 0)), "{last:?}");
        assert_eq!(
            last.cpu
                .iter()
                .find(|(index, _)| *index == first)
                .expect("last counters")
                .1
                .run_ns,
            6
        );
        fold.bind(5, 51, Some(&container("blue", "b")), 0);
        assert_ne!(
            index_of(&fold.take_changes(), &Who::Pod { uid: "blue".into() }),
            first
        );
    }

    #[test]
    fn released_and_bound_again_before_the_report_does_not_end() {
        let mut fold = Fold::default();
        fold.bind(5, 50, Some(&pod("blue")), 0);
        let blue = index_of(&fold.take_changes(), &Who::Pod { uid: "blue".into() });
        fold.release(5);
        fold.bind(8, 51, Some(&pod("blue")), 0);
        let changes = fold.take_changes();
        assert!(
            changes.ended.is_empty() && changes.entities.is_empty(),
            "{blue} goes on: {changes:?}"
        );
    }

    #[test]
    fn a_pod_that_never_runs_is_announced_and_ends_when_it_was_removed() {
        let mut fold = Fold::default();
        let held = [fold.hold(&pod("blue"), 5), fold.hold(&container("blue", "a"), 6)];
        let changes = fold.take_changes();
        assert_eq!(index_of(&changes, &Who::Pod { uid: "blue".into() }), held[0]);
        assert_eq!(changes.cpu, []);
        fold.let_go(held[1], 70);
        fold.let_go(held[0], 80);
        let mut ended = fold.take_changes().ended;
        ended.sort_unstable();
        assert_eq!(ended, [(held[0], 80), (held[1], 70)]);
        assert_eq!(fold.counts(), (0, 0));
    }

    #[test]
    fn a_pod_ends_with_its_cgroup_and_what_it_did_is_still_told() {
        let mut fold = Fold::default();
        let own = fold.hold(&pod("blue"), 5);
        fold.bind(5, 50, Some(&container("blue", "a")), 6);
        fold.bind(6, 60, Some(&pod("red")), 0);
        fold.let_go(own, 80);
        assert_eq!(fold.take_changes().ended, [(own, 80)]);
        // A wait of red's that reaches back to it.
        let wait = Added {
            cells: vec![(5, 7)],
            ..Added::default()
        };
        fold.add(6, &wait);
        let late = fold.take_changes();
        assert_eq!(late.ledger[0].1.ran_ns, BTreeMap::from([(own, 7)]));
        fold.release(5);
        let ended = fold.take_changes().ended;
        assert!(
            ended.iter().all(|(index, _)| *index != own),
            "told once: {ended:?}"
        );
    }

    #[test]
    fn a_pod_whose_cgroup_is_made_again_is_another_entity() {
        let mut fold = Fold::default();
        let first = fold.hold(&pod("blue"), 5);
        fold.bind(5, 50, Some(&container("blue", "a")), 6);
        fold.let_go(first, 80);
        fold.take_changes();
        let again = fold.hold(&pod("blue"), 90);
        assert_ne!(first, again);
        fold.release(5);
        let changes = fold.take_changes();
        assert_eq!(index_of(&changes, &Who::Pod { uid: "blue".into() }), again);
        assert_eq!(fold.hold(&pod("blue"), 90), again, "still known by its name");
    }

    #[test]
    fn who_is_only_spoken_of_is_announced_in_the_same_report_and_ends_with_it() {
        let mut fold = Fold::default();
        let daemon = Identity::Host {
            path: "/system.slice/sshd.service".into(),
        };
        let (named, unknown) = (fold.mention(Some(&daemon)), fold.mention(None));
        let changes = fold.take_changes();
        assert_eq!(index_of(&changes, &Who::Unknown(Why::PathGone)), unknown);
        assert!(changes.ended.contains(&(named, 0)), "{changes:?}");
        assert_ne!(fold.mention(Some(&daemon)), named, "an index is never used again");
    }

    #[test]
    fn reclaim_is_the_pods_and_its_containers_and_never_the_hosts() {
        let mut fold = Fold::default();
        fold.bind(5, 50, Some(&container("blue", "a")), 0);
        fold.bind(6, 60, Some(&Identity::Host { path: "/".into() }), 0);
        let stalled = |stall_ns| Reclaim {
            node: Reclaimed {
                stall_ns,
                pages: 32,
                times: 1,
                reserved: 0,
            },
            ..Reclaim::default()
        };
        fold.add_reclaim(5, &stalled(10));
        fold.add_reclaim(6, &stalled(90));
        let memory = fold.take_changes().memory;
        assert_eq!(memory.len(), 2);
        assert!(memory.iter().all(|(_, sample)| sample.reclaim == stalled(10)));
        let (index, sample) = memory[0];
        assert!(!fold.reclaimed(index), "until the next time");
        fold.set_memory(index, sample.files);
        assert_eq!(fold.take_changes().memory, [], "nothing new");
        let files = Memory {
            current_bytes: Some(4096),
            ..Memory::default()
        };
        fold.set_memory(index, files);
        let whole = MemorySample {
            files,
            reclaim: stalled(10),
        };
        assert_eq!(
            fold.take_changes().memory,
            [(index, whole)],
            "a sample tells everything"
        );
    }

    #[test]
    fn hosts_beyond_the_bound_are_folded() {
        let mut fold = Fold::default();
        for slot in 0..HOSTS as u16 + 2 {
            fold.bind(
                5 + slot,
                u64::from(slot),
                Some(&Identity::Host {
                    path: format!("/s/{slot}"),
                }),
                0,
            );
        }
        let changes = fold.take_changes();
        let hosts = changes
            .entities
            .iter()
            .filter(|(_, who, _)| matches!(who, Who::Host { .. }))
            .count();
        assert_eq!(hosts, HOSTS);
        assert!(
            changes
                .entities
                .iter()
                .any(|(_, who, _)| *who == Who::Unknown(Why::Folded))
        );
    }

    proptest! {
        /// Whatever is added, in whatever order: each owner's classes sum to its wait.
        #[test]
        fn classes_sum_to_the_wait(
            bindings in prop::collection::vec((5u16..20, 0u8..6), 1..30),
            additions in prop::collection::vec((5u16..20, 0u64..100, 0u64..100, prop::collection::vec((0u16..20, 1u64..100), 0..5)), 0..60),
        ) {
            let mut fold = Fold::default();
            for (slot, owner) in &bindings {
                fold.bind(*slot, u64::from(*slot), Some(&container(&format!("pod{}", owner / 2), &format!("c{owner}"))), 0);
            }
            let mut rows: BTreeMap<u32, LedgerRow> = BTreeMap::new();
            let mut waits: BTreeMap<u32, u64> = BTreeMap::new();
            for (slot, self_ns, idle_ns, cells) in additions {
                fold.add(slot, &Added { self_ns, idle_ns, cells, ..Added::default() });
                let changes = fold.take_changes();
                for (index, row) in changes.ledger {
                    let known = rows.entry(index).or_default();
                    let mut ran_ns = std::mem::take(&mut known.ran_ns);
                    ran_ns.extend(row.ran_ns.clone());
                    *known = LedgerRow { ran_ns, ..row };
                }
                waits.extend(changes.cpu.into_iter().map(|(index, sample)| (index, sample.wait_ns)));
            }
            for (index, row) in rows {
                let sum = row.self_ns + row.idle_ns + row.steal_ns + row.throttled_ns + row.unresolved_ns
                    + row.ran_ns.values().sum::<u64>();
                prop_assert_eq!(Some(&sum), waits.get(&index));
            }
        }
    }
}
