//! Folds slots into pods: whose counters they are, and the ledger between them.

use std::collections::{BTreeMap, BTreeSet};

use partywall_abi::{BUCKETS, SLOT_IDLE, SLOT_NONE, SLOT_STEAL, SLOT_THROTTLED, SLOT_UNRESOLVED, SLOTS};

use crate::identity::Identity;
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

/// What changed since the last report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Index, who, and when it was made (CLOCK_BOOTTIME; 0: not known).
    pub entities: Vec<(u32, Who, u64)>,
    pub ended: Vec<u32>,
    pub cpu: Vec<(u32, Sample)>,
    pub ledger: Vec<(u32, LedgerRow)>,
}

#[derive(Debug)]
struct Entity {
    who: Who,
    born_ns: u64,
    /// Slots bound to it; of a pod, its containers' too.
    slots: u32,
    sample: Sample,
    row: LedgerRow,
    announced: bool,
    sample_changed: bool,
    row_changed: bool,
    cells_changed: BTreeSet<u32>,
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
        match identity {
            Some(Identity::Pod { uid }) => {
                self.bind_to(slot, id, Who::Pod { uid: uid.clone() }, None, born_ns);
            }
            Some(Identity::Container {
                pod_uid,
                id: container,
            }) => {
                self.bind_to(
                    slot,
                    id,
                    Who::Pod { uid: pod_uid.clone() },
                    Some(container),
                    born_ns,
                );
            }
            Some(Identity::Host { path }) => {
                let host = Who::Host { path: path.clone() };
                let named = self.index.contains_key(&host) || self.hosts < HOSTS;
                self.bind_to(
                    slot,
                    id,
                    if named { host } else { Who::Unknown(Why::Folded) },
                    None,
                    born_ns,
                );
            }
            Some(Identity::Unreadable) => self.bind_to(slot, id, Who::Unknown(Why::UnreadablePath), None, 0),
            None => self.bind_to(slot, id, Who::Unknown(Why::PathGone), None, 0),
        }
    }

    fn bind_to(&mut self, slot: u16, id: u64, who: Who, container: Option<&String>, born_ns: u64) {
        self.release(slot);
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
                entity.slots += 1;
            }
        }
        if let Some(place) = self.slots.get_mut(usize::from(slot)) {
            *place = Some(Bound { id, owner, container });
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
                slots: 0,
                sample: Sample::default(),
                row: LedgerRow::default(),
                announced: false,
                sample_changed: false,
                row_changed: false,
                cells_changed: BTreeSet::new(),
            },
        );
        index
    }

    /// The slot is nobody's any more. An entity without slots ends with the next report.
    pub fn release(&mut self, slot: u16) {
        let Some(bound) = self.slots.get_mut(usize::from(slot)).and_then(Option::take) else {
            return;
        };
        for index in [Some(bound.owner), bound.container].into_iter().flatten() {
            if let Some(entity) = self.entities.get_mut(&index) {
                entity.slots -= 1;
                if entity.slots == 0 {
                    self.ended.push(index);
                }
            }
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

    /// What changed since this was last called.
    pub fn take_changes(&mut self) -> Changes {
        let mut changes = Changes::default();
        for (index, entity) in &mut self.entities {
            if !entity.announced && (entity.sample_changed || entity.slots > 0) {
                entity.announced = true;
                changes
                    .entities
                    .push((*index, entity.who.clone(), entity.born_ns));
            }
            if std::mem::take(&mut entity.sample_changed) {
                let mut sample = entity.sample.clone();
                if matches!(entity.who, Who::Container { .. }) {
                    sample.waits = [0; BUCKETS];
                }
                changes.cpu.push((*index, sample));
            }
            if std::mem::take(&mut entity.row_changed) {
                let cells = std::mem::take(&mut entity.cells_changed);
                let ran_ns = cells
                    .iter()
                    .filter_map(|runner| Some((*runner, *entity.row.ran_ns.get(runner)?)))
                    .collect();
                changes.ledger.push((
                    *index,
                    LedgerRow {
                        ran_ns,
                        ..entity.row.clone()
                    },
                ));
            }
        }
        for index in std::mem::take(&mut self.ended) {
            let Some(entity) = self.entities.get(&index).filter(|entity| entity.slots == 0) else {
                continue;
            };
            self.hosts -= usize::from(matches!(entity.who, Who::Host { .. }));
            self.index.remove(&entity.who);
            if entity.announced {
                changes.ended.push(index);
            }
            self.entities.remove(&index);
            for other in self.entities.values_mut() {
                other.row.ran_ns.remove(&index);
                other.cells_changed.remove(&index);
            }
        }
        changes
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
        assert!(last.ended.contains(&first), "{last:?}");
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
