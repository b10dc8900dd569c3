//! Which series are published under their own names, and which are summed in `~other`.
//!
//! A counter that moves between its own name and a sum would go back in one of them. So the choice sticks: who was named stays named while it
//! exists, and what comes when the room is full goes into the sum until what is gone makes room; what the sum was goes on without it
//! ([`super::sums`]). Of what has no name at one scrape the largest is named first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::sums::Kind;

/// Stands for everything that is not named.
pub(super) const OTHER: &str = "~other";

/// A series of a tenant beyond the fixed ones.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// CPU time on a node.
    Cpu { node: Arc<str> },
    /// A cell of a node's ledger in which it waits.
    Wait { node: Arc<str>, runner: Arc<str> },
    /// OOM kills of its tasks on a node.
    Oom {
        node: Arc<str>,
        trigger: Arc<str>,
        scope: &'static str,
    },
    /// Traffic that it opened: all series of one row.
    Traffic { to: Arc<str>, verdict: &'static str },
    /// All series of one pod.
    Pod { uid: Arc<str>, node: Arc<str> },
}

#[derive(Debug)]
pub(super) struct Fold {
    /// Series beyond the fixed ones that one tenant may have.
    per_tenant: usize,
    tenants: usize,
    named: BTreeMap<Arc<str>, BTreeSet<Key>>,
    other: Arc<str>,
}

impl Fold {
    pub(super) fn new(per_tenant: usize, tenants: usize) -> Self {
        Self {
            per_tenant,
            tenants,
            named: BTreeMap::new(),
            other: Arc::from(OTHER),
        }
    }

    /// Chooses for this scrape. `tenants`: all that exist. `series`: (tenant, series, size).
    pub(super) fn choose(
        &mut self,
        tenants: &BTreeSet<Arc<str>>,
        series: impl Iterator<Item = (Arc<str>, Key, u64)>,
    ) {
        self.named
            .retain(|tenant, _| tenants.contains(tenant) || **tenant == *OTHER);
        for tenant in tenants {
            if self.named.len() < self.tenants && !self.named.contains_key(tenant) {
                self.named.insert(Arc::clone(tenant), BTreeSet::new());
            }
        }
        // Nothing is kept of what finds no room: there may be hundreds of thousands.
        let mut stay: BTreeMap<Arc<str>, BTreeSet<Key>> = BTreeMap::new();
        let mut new: BTreeMap<Arc<str>, Largest<()>> = BTreeMap::new();
        for (tenant, key, size) in series {
            let tenant = self.tenant(&tenant);
            if self.is_named(&tenant, &key) {
                stay.entry(tenant).or_default().insert(key);
            } else {
                let new = new.entry(tenant).or_insert_with(|| self.largest());
                new.push(key, size, ());
            }
        }
        for (tenant, keys) in &mut self.named {
            *keys = stay.remove(tenant).unwrap_or_default();
        }
        for (tenant, new) in new {
            let keys = self.named.entry(tenant).or_default();
            let room = self.per_tenant.saturating_sub(keys.len());
            keys.extend(new.best_first().take(room).map(|(key, _, ())| key));
        }
    }

    /// For as many as one tenant may have.
    pub(super) fn largest<T>(&self) -> Largest<T> {
        Largest {
            room: self.per_tenant,
            kept: BTreeMap::new(),
            order: BTreeSet::new(),
        }
    }

    /// Whether a series had its own name at the last scrape, be it among its tenant's or in `~other`.
    pub(super) fn was_named(&self, tenant: &str, key: &Key) -> bool {
        self.is_named(tenant, key) || self.is_named(OTHER, key)
    }

    /// What a row of counters is. `tenant`: whose it is; `of`: its node, or whom it opened to, and what else of it may be `~other`; all as published.
    pub(super) fn kind(&self, tenant: &str, of: &[&str]) -> Kind {
        let rest = of.first().is_none_or(|first| *first == OTHER);
        let is_published = tenant == OTHER || self.named.contains_key(tenant);
        match tenant == OTHER || of.contains(&OTHER) {
            true if rest && is_published => Kind::Rest,
            true => Kind::Sum,
            false => Kind::Single,
        }
    }

    /// The tenant's name as published.
    pub(super) fn tenant(&self, name: &Arc<str>) -> Arc<str> {
        if self.named.contains_key(name) {
            Arc::clone(name)
        } else {
            Arc::clone(&self.other)
        }
    }

    /// Whether a series of a tenant (as published) has its own name.
    pub(super) fn is_named(&self, tenant: &str, key: &Key) -> bool {
        self.named.get(tenant).is_some_and(|keys| keys.contains(key))
    }

    pub(super) fn other(&self) -> Arc<str> {
        Arc::clone(&self.other)
    }
}

/// The largest of those pushed, each key once, with the largest of its sizes. Of equal ones the first by key.
#[derive(Debug)]
pub(super) struct Largest<T> {
    room: usize,
    kept: BTreeMap<Key, (u64, T)>,
    order: BTreeSet<(Reverse<u64>, Key)>,
}

impl<T> Largest<T> {
    /// Returns what finds no room: this one, or another.
    pub(super) fn push(&mut self, key: Key, size: u64, what: T) -> Option<T> {
        if self.kept.len() >= self.room
            && self
                .order
                .last()
                .is_none_or(|last| (last.0, &last.1) <= (Reverse(size), &key))
        {
            return Some(what);
        }
        if self.kept.get(&key).is_some_and(|(held, _)| *held >= size) {
            return Some(what);
        }
        let before = self.kept.insert(key.clone(), (size, what));
        if let Some((held, what)) = before {
            self.order.remove(&(Reverse(held), key.clone()));
            self.order.insert((Reverse(size), key));
            return Some(what);
        }
        self.order.insert((Reverse(size), key));
        if self.kept.len() <= self.room {
            return None;
        }
        let (_, key) = self.order.pop_last()?;
        self.kept.remove(&key).map(|(_, what)| what)
    }

    /// The largest first.
    pub(super) fn best_first(mut self) -> impl Iterator<Item = (Key, u64, T)> {
        self.order.into_iter().filter_map(move |(Reverse(size), key)| {
            let (_, what) = self.kept.remove(&key)?;
            Some((key, size, what))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn cpu(node: &str) -> Key {
        Key::Cpu {
            node: Arc::from(node),
        }
    }

    #[test]
    fn the_largest_are_named_and_stay_named() {
        let red: Arc<str> = Arc::from("red");
        let tenants = BTreeSet::from([Arc::clone(&red)]);
        let series = |sizes: &[(&str, u64)]| {
            sizes
                .iter()
                .map(|(n, s)| (Arc::clone(&red), cpu(n), *s))
                .collect::<Vec<_>>()
                .into_iter()
        };
        let mut fold = Fold::new(2, 10);
        fold.choose(&tenants, series(&[("a", 1), ("b", 5), ("c", 3)]));
        let named = |fold: &Fold| ["a", "b", "c"].map(|n| fold.is_named("red", &cpu(n)));
        assert_eq!(named(&fold), [false, true, true]);
        fold.choose(&tenants, series(&[("a", 100), ("b", 5), ("c", 3)]));
        assert_eq!(named(&fold), [false, true, true], "a counter does not move");
        fold.choose(&tenants, series(&[("a", 100), ("c", 3)]));
        assert_eq!(named(&fold), [true, false, true], "what is gone makes room");
    }

    #[test]
    fn tenants_beyond_the_cap_are_one() {
        let names: BTreeSet<Arc<str>> = ["a", "b", "c"].into_iter().map(Arc::from).collect();
        let mut fold = Fold::new(2, 2);
        fold.choose(&names, std::iter::empty());
        let published: Vec<_> = names.iter().map(|n| fold.tenant(n)).collect();
        assert_eq!(
            published.iter().map(|n| &**n).collect::<Vec<_>>(),
            ["a", "b", OTHER]
        );
    }

    /// As it is meant: all are sorted, and named while there is room.
    fn sorted(room: usize, named: &[u64], mut series: Vec<(u64, u64)>) -> BTreeSet<u64> {
        let mut out: BTreeSet<u64> = named
            .iter()
            .copied()
            .filter(|n| series.iter().any(|(key, _)| key == n))
            .collect();
        series.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        for (key, _) in series {
            if out.len() < room {
                out.insert(key);
            }
        }
        out
    }

    proptest! {
        #[test]
        fn what_is_chosen_one_by_one_is_what_is_chosen_of_all(
            room in 0..6usize,
            scrapes in vec(vec((0..12u64, 0..5u64), 0..30), 1..4),
        ) {
            let red: Arc<str> = Arc::from("red");
            let tenants = BTreeSet::from([Arc::clone(&red)]);
            let name = |key: u64| cpu(&format!("{key:02}"));
            let mut fold = Fold::new(room, 10);
            let mut wanted = BTreeSet::new();
            for series in scrapes {
                let named: Vec<u64> = wanted.iter().copied().collect();
                wanted = sorted(room, &named, series.clone());
                fold.choose(&tenants, series.iter().map(|(key, size)| (Arc::clone(&red), name(*key), *size)));
                for key in 0..12 {
                    prop_assert_eq!(fold.is_named("red", &name(key)), wanted.contains(&key));
                }
            }
        }
    }
}
