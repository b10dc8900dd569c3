//! The cgroups that exist, or did until a moment ago, and whose they are.

use std::collections::BTreeMap;

use crate::identity::{Identity, identify};

/// cgroups remembered at once. A node has a thousand; a pod that may write to its cgroup can make more.
pub const CAPACITY: usize = 16_384;

/// How long a removed cgroup's identity and slot are kept: its last counters are read, and no shorter wait
/// can reach a slice that still names it.
pub const QUARANTINE_NS: u64 = 10_000_000_000;

#[derive(Debug)]
struct Known {
    identity: Identity,
    /// Its path, where it is the pod's or container's own cgroup and not one within it; until it is handed out.
    own: Option<Box<str>>,
    /// 0 where it was found by a scan: some time before.
    made_ns: u64,
    gone_ns: Option<u64>,
}

/// A pod's or container's own cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    pub id: u64,
    pub identity: Identity,
    /// Below the v2 mount.
    pub path: Box<str>,
    /// 0: some time before.
    pub made_ns: u64,
    pub gone_ns: Option<u64>,
}

/// cgroup ids → identities.
#[derive(Debug, Default)]
pub struct Inventory {
    known: BTreeMap<u64, Known>,
    /// cgroups that found no room.
    turned_away: u64,
}

impl Inventory {
    /// The cgroup `id` was made at `made_ns` (0: not known when), at `path` below the v2 mount.
    pub fn made(&mut self, id: u64, path: &str, made_ns: u64) {
        if self.known.len() >= CAPACITY && !self.known.contains_key(&id) {
            self.turned_away += 1;
            return;
        }
        let identity = identify(path);
        let own = is_own(path, &identity).then(|| path.into());
        self.known.insert(
            id,
            Known {
                identity,
                own,
                made_ns,
                gone_ns: None,
            },
        );
    }

    /// The cgroup `id` was removed at `now_ns`.
    pub fn removed(&mut self, id: u64, now_ns: u64) {
        if let Some(known) = self.known.get_mut(&id) {
            known.gone_ns.get_or_insert(now_ns);
        }
    }

    /// The tree as it was read at `now_ns`. `whole`: what is not in it is gone; else nobody knows.
    ///
    /// One that was gone and is in it stays gone: its end was told. It is made anew when its quarantine is over.
    pub fn scanned<'a>(&mut self, tree: impl IntoIterator<Item = (u64, &'a str)>, whole: bool, now_ns: u64) {
        let mut seen = std::collections::BTreeSet::new();
        for (id, path) in tree {
            seen.insert(id);
            if !self.known.contains_key(&id) {
                self.made(id, path, 0);
            }
        }
        for (id, known) in &mut self.known {
            if whole && !seen.contains(id) {
                known.gone_ns.get_or_insert(now_ns);
            }
        }
    }

    /// Whose the cgroup is; `None` when it was never seen.
    pub fn identity(&self, id: u64) -> Option<&Identity> {
        self.known.get(&id).map(|known| &known.identity)
    }

    /// When the cgroup was made, on CLOCK_BOOTTIME; 0 where that is not known.
    pub fn made_ns(&self, id: u64) -> u64 {
        self.known.get(&id).map_or(0, |known| known.made_ns)
    }

    /// When the cgroup was removed; `None` while it is there.
    pub fn gone_ns(&self, id: u64) -> Option<u64> {
        self.known.get(&id)?.gone_ns
    }

    /// The pods' and containers' own cgroups that were not handed out before, also those that are gone by now.
    pub fn take_own(&mut self) -> Vec<Own> {
        self.known
            .iter_mut()
            .filter_map(|(id, known)| {
                Some(Own {
                    path: known.own.take()?,
                    id: *id,
                    identity: known.identity.clone(),
                    made_ns: known.made_ns,
                    gone_ns: known.gone_ns,
                })
            })
            .collect()
    }

    /// Whether the cgroup's time in quarantine is over.
    pub fn expired(&self, id: u64, now_ns: u64) -> bool {
        self.known.get(&id).is_some_and(|known| {
            known
                .gone_ns
                .is_some_and(|gone_ns| now_ns.saturating_sub(gone_ns) >= QUARANTINE_NS)
        })
    }

    /// Forgets the cgroups whose quarantine is over and for which `keep` is false.
    pub fn forget_expired(&mut self, now_ns: u64, keep: impl Fn(u64) -> bool) {
        self.known.retain(|id, known| {
            // `keep` goes through all flows: it is asked of few.
            known
                .gone_ns
                .is_none_or(|gone_ns| now_ns.saturating_sub(gone_ns) < QUARANTINE_NS)
                || keep(*id)
        });
    }

    pub fn len(&self) -> usize {
        self.known.len()
    }

    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// cgroups that were not remembered because [`CAPACITY`] was reached.
    pub fn turned_away(&self) -> u64 {
        self.turned_away
    }
}

/// Whether the cgroup at `path` is a pod's or container's topmost.
fn is_own(path: &str, identity: &Identity) -> bool {
    matches!(identity, Identity::Pod { .. } | Identity::Container { .. })
        && path
            .rsplit_once('/')
            .is_none_or(|(parent, _)| identify(parent) != *identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_cgroup_is_known_until_its_quarantine_is_over() {
        let mut inventory = Inventory::default();
        inventory.made(7, "/system.slice/a.service", 0);
        inventory.removed(7, 100);
        inventory.removed(7, QUARANTINE_NS); // seen gone again: the first time counts
        assert!(!inventory.expired(7, QUARANTINE_NS + 99));
        assert!(inventory.identity(7).is_some());
        assert!(inventory.expired(7, QUARANTINE_NS + 100));
        inventory.forget_expired(QUARANTINE_NS + 100, |id| id == 7);
        assert_eq!(inventory.len(), 1, "kept while its slot is bound");
        inventory.made(8, "/system.slice/b.service", 0);
        let asked = std::cell::RefCell::new(Vec::new());
        inventory.forget_expired(QUARANTINE_NS + 100, |id| {
            asked.borrow_mut().push(id);
            true
        });
        assert_eq!(asked.into_inner(), [7], "not of what is there");
        inventory.removed(8, QUARANTINE_NS);
        inventory.forget_expired(2 * QUARANTINE_NS, |_| false);
        assert!(inventory.is_empty());
    }

    #[test]
    fn a_scan_finds_what_events_missed() {
        let mut inventory = Inventory::default();
        inventory.made(1, "/", 0);
        inventory.made(2, "/gone", 0);
        inventory.scanned([(1, "/"), (3, "/new")], true, 50);
        assert!(inventory.identity(3).is_some());
        assert!(inventory.expired(2, 50 + QUARANTINE_NS));
        assert!(!inventory.expired(1, u64::MAX));
    }

    #[test]
    fn a_scan_that_was_cut_short_ends_nothing() {
        let mut inventory = Inventory::default();
        inventory.made(1, "/", 0);
        inventory.made(2, "/not-reached", 0);
        inventory.scanned([(1, "/"), (3, "/new")], false, 50);
        assert!(inventory.identity(3).is_some());
        assert_eq!(inventory.gone_ns(2), None);
    }

    #[test]
    fn what_was_taken_for_gone_is_made_anew_after_its_quarantine() {
        let pod = "/kubepods.slice/kubepods-pod0f3e2d1c_aaaa_4bbb_8ccc_0123456789ab.slice";
        let mut inventory = Inventory::default();
        inventory.made(2, pod, 0);
        assert_eq!(inventory.take_own().len(), 1);
        inventory.scanned([(1, "/")], true, 50);
        inventory.scanned([(1, "/"), (2, pod)], true, 60);
        assert_eq!(inventory.gone_ns(2), Some(50), "its end was told");
        inventory.forget_expired(50 + QUARANTINE_NS, |_| false);
        inventory.scanned([(1, "/"), (2, pod)], true, 50 + QUARANTINE_NS);
        assert_eq!(inventory.gone_ns(2), None);
        assert_eq!(inventory.take_own().len(), 1, "handed out again");
    }

    #[test]
    fn of_a_pods_cgroups_the_topmost_of_each_are_its_own() {
        let pod = "/kubepods.slice/kubepods-pod0f3e2d1c_aaaa_4bbb_8ccc_0123456789ab.slice";
        let scope = format!("{pod}/crio-{}.scope", "ab".repeat(32));
        let mut inventory = Inventory::default();
        let paths = [
            "/kubepods.slice".to_owned(),
            pod.to_owned(),
            scope.clone(),
            format!("{scope}/container"),
            format!("{pod}/crio-conmon-{}.scope", "cd".repeat(32)),
            "/system.slice/sshd.service".to_owned(),
        ];
        for (id, path) in paths.iter().enumerate() {
            inventory.made(id as u64, path, 0);
        }
        inventory.removed(2, 50);
        let own: Vec<_> = inventory
            .take_own()
            .into_iter()
            .map(|own| (String::from(own.path), own.gone_ns))
            .collect();
        assert_eq!(own, [(pod.to_owned(), None), (scope, Some(50))]);
        assert_eq!(inventory.take_own(), [], "each once");
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let mut inventory = Inventory::default();
        for id in 0..CAPACITY as u64 + 5 {
            inventory.made(id, "/x", 0);
        }
        assert_eq!((inventory.len(), inventory.turned_away()), (CAPACITY, 5));
        inventory.made(3, "/y", 0);
        assert_eq!(inventory.turned_away(), 5, "one already known has its room");
    }
}
