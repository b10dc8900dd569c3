//! Values that are equal are kept once: labels of pods of one owner, reasons of verdicts.

use std::collections::BTreeSet;
use std::sync::Arc;

/// Below this, nobody looks for what is not used any more.
const SWEPT_FROM: usize = 1_024;

/// Holds no more than twice of what others hold, or `SWEPT_FROM`.
#[derive(Debug)]
pub struct Shared<T: ?Sized> {
    kept: BTreeSet<Arc<T>>,
    sweep_at: usize,
}

impl<T: ?Sized> Shared<T> {
    pub const fn new() -> Self {
        Self {
            kept: BTreeSet::new(),
            sweep_at: SWEPT_FROM,
        }
    }
}

impl<T: ?Sized> Default for Shared<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Ord + ?Sized> Shared<T> {
    /// The one that is kept of those equal to this.
    pub fn of(&mut self, value: Arc<T>) -> Arc<T> {
        if let Some(kept) = self.kept.get(&value) {
            return Arc::clone(kept);
        }
        if self.kept.len() >= self.sweep_at {
            self.kept.retain(|kept| Arc::strong_count(kept) > 1);
            self.sweep_at = SWEPT_FROM.max(self.kept.len() * 2);
        }
        self.kept.insert(Arc::clone(&value));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_ones_are_one_and_unused_ones_go() {
        let mut shared = Shared::<str>::new();
        let a = shared.of(Arc::from("a"));
        assert!(Arc::ptr_eq(&a, &shared.of(Arc::from("a"))));
        for i in 0..10 * SWEPT_FROM {
            shared.of(Arc::from(format!("b{i}")));
            assert!(shared.kept.len() <= SWEPT_FROM);
        }
        assert!(Arc::ptr_eq(&a, &shared.of(Arc::from("a"))));
        let used: Vec<_> = (0..10 * SWEPT_FROM)
            .map(|i| shared.of(Arc::from(format!("c{i}"))))
            .collect();
        assert!(shared.kept.len() <= 2 * used.len());
    }
}
