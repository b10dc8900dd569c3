//! Counters in `~other` go on from where they were, whatever leaves them.
//!
//! What such a counter is the sum of changes: a node is forgotten, a series that is gone makes room for the largest of those without a name, an agent
//! begins anew. A sum that fell by what left it would be taken for a counter that began at zero, and all that is left in it for what came since the last scrape. So
//! it grows by what it is the sum of grows by, and stays where that falls: of one scrape in which much left it, what came is not seen.

use std::collections::BTreeMap;

use partywall_aggregator_core::snapshot::WaitTotal;

/// What a row of counters counts.
pub(super) trait Total: Clone + Default {
    /// Adds what `now` is above `before`.
    fn grow(&mut self, before: &Self, now: &Self);
}

impl Total for u64 {
    fn grow(&mut self, before: &Self, now: &Self) {
        *self = self.saturating_add(now.saturating_sub(*before));
    }
}

impl Total for WaitTotal {
    fn grow(&mut self, before: &Self, now: &Self) {
        self.wait_ns.grow(&before.wait_ns, &now.wait_ns);
        let buckets = self.buckets.iter_mut().zip(before.buckets).zip(now.buckets);
        buckets.for_each(|((sum, before), now)| sum.grow(&before, &now));
    }
}

/// What a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Of one name only.
    Single,
    /// A sum that is gone with the last that is in it.
    Sum,
    /// A sum that stays when nothing is in it: there is a fixed number of them for each tenant that is published.
    Rest,
}

/// The rows of one family that are sums.
#[derive(Debug)]
pub(super) struct Sums<K, V> {
    rows: BTreeMap<K, Row<V>>,
    /// The first scrape of totals that an earlier process began: what was published of them is not known, so their sums begin at zero.
    restored: bool,
}

#[derive(Debug)]
struct Row<V> {
    /// At the last scrape, of all that was in it.
    before: V,
    published: V,
}

impl<K: Ord + Clone, V: Total> Sums<K, V> {
    pub(super) fn new(restored: bool) -> Self {
        Self {
            rows: BTreeMap::new(),
            restored,
        }
    }

    /// Makes of the sums in `rows` what is published of them. Once a scrape.
    pub(super) fn publish(&mut self, rows: &mut BTreeMap<K, V>, kind: impl Fn(&K) -> Kind) {
        self.rows.retain(|key, _| {
            let rest = kind(key) == Kind::Rest;
            if rest {
                rows.entry(key.clone()).or_default();
            }
            rest || rows.contains_key(key)
        });
        let restored = std::mem::take(&mut self.restored);
        for (key, value) in rows.iter_mut().filter(|(key, _)| kind(key) != Kind::Single) {
            let row = self.rows.entry(key.clone()).or_insert_with(|| Row {
                before: if restored { value.clone() } else { V::default() },
                published: V::default(),
            });
            row.published.grow(&row.before, value);
            row.before = std::mem::replace(value, row.published.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(sums: &mut Sums<&'static str, u64>, rows: &[(&'static str, u64)]) -> Vec<(&'static str, u64)> {
        let mut rows: BTreeMap<_, _> = rows.iter().copied().collect();
        sums.publish(&mut rows, |key| match *key {
            "rest" => Kind::Rest,
            "sum" => Kind::Sum,
            _ => Kind::Single,
        });
        rows.into_iter().collect()
    }

    #[test]
    fn a_sum_never_falls_and_goes_on_growing() {
        let mut sums = Sums::new(false);
        assert_eq!(
            publish(&mut sums, &[("a", 9), ("rest", 100)]),
            [("a", 9), ("rest", 100)]
        );
        assert_eq!(
            publish(&mut sums, &[("a", 3), ("rest", 40)]),
            [("a", 3), ("rest", 100)]
        );
        assert_eq!(publish(&mut sums, &[("rest", 45)]), [("rest", 105)]);
        assert_eq!(
            publish(&mut sums, &[]),
            [("rest", 105)],
            "it stays when nothing is in it"
        );
        assert_eq!(publish(&mut sums, &[("rest", 5)]), [("rest", 110)]);
    }

    #[test]
    fn a_sum_of_one_node_is_forgotten_with_it() {
        let mut sums = Sums::new(false);
        assert_eq!(publish(&mut sums, &[("sum", 7)]), [("sum", 7)]);
        assert_eq!(publish(&mut sums, &[("sum", 6)]), [("sum", 7)]);
        assert_eq!(publish(&mut sums, &[]), []);
        assert!(sums.rows.is_empty());
    }

    #[test]
    fn after_a_restart_a_sum_begins_at_zero() {
        let mut sums = Sums::new(true);
        assert_eq!(
            publish(&mut sums, &[("a", 9), ("rest", 100)]),
            [("a", 9), ("rest", 0)]
        );
        assert_eq!(
            publish(&mut sums, &[("a", 9), ("rest", 101), ("sum", 2)]),
            [("a", 9), ("rest", 1), ("sum", 2)]
        );
    }
}
