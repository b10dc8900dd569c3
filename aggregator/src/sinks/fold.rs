//! Which series are published under their own names, and which are summed in `~other`.
//!
//! A counter that moves between its own name and a sum would go back in one of them. So the choice sticks: who was named stays named while it
//! exists, and what comes when the room is full goes into the sum for good. Of what is new at one scrape the largest is named first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

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
    pub(super) fn choose(&mut self, tenants: &BTreeSet<Arc<str>>, mut series: Vec<(Arc<str>, Key, u64)>) {
        self.named
            .retain(|tenant, _| tenants.contains(tenant) || **tenant == *OTHER);
        for tenant in tenants {
            if self.named.len() < self.tenants && !self.named.contains_key(tenant) {
                self.named.insert(Arc::clone(tenant), BTreeSet::new());
            }
        }
        for (tenant, _, _) in &mut series {
            *tenant = self.tenant(tenant);
        }
        let mut exist: BTreeMap<&str, BTreeSet<&Key>> = BTreeMap::new();
        for (tenant, key, _) in &series {
            exist.entry(tenant).or_default().insert(key);
        }
        for (tenant, keys) in &mut self.named {
            keys.retain(|k| exist.get(&**tenant).is_some_and(|e| e.contains(k)));
        }
        series.sort_by(|a, b| b.2.cmp(&a.2).then_with(|| (&a.0, &a.1).cmp(&(&b.0, &b.1))));
        for (tenant, key, _) in series {
            let keys = self.named.entry(tenant).or_default();
            if keys.len() < self.per_tenant {
                keys.insert(key);
            }
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

#[cfg(test)]
mod tests {
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
        fold.choose(&names, Vec::new());
        let published: Vec<_> = names.iter().map(|n| fold.tenant(n)).collect();
        assert_eq!(
            published.iter().map(|n| &**n).collect::<Vec<_>>(),
            ["a", "b", OTHER]
        );
    }
}
