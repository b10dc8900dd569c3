//! Whether pods find room on nodes: first fit, the largest first.
//!
//! **Why so.** To place things of several sizes in the best way takes time without bound; first fit in falling order is what a scheduler comes close to, and
//! never says that things fit which do not. That it finds no room does not prove that there is none: the answer says how much is free in all.

/// What is to be placed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) ncores: u64,
    pub(crate) bytes: u64,
}

/// What is free on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bin {
    pub(crate) ncores: u64,
    pub(crate) bytes: u64,
    pub(crate) pods: u64,
}

impl Bin {
    pub(crate) fn takes(&self, item: &Item) -> bool {
        self.pods > 0 && self.ncores >= item.ncores && self.bytes >= item.bytes
    }
}

/// For each item the bin that it is placed in, or none. `admits`: whether the item may be placed in the bin at all.
pub(crate) fn first_fit(
    items: &[Item],
    bins: &mut [Bin],
    admits: impl Fn(usize, usize) -> bool,
) -> Vec<Option<usize>> {
    let total = |of: fn(&Bin) -> u64| bins.iter().map(|b| of(b) as f64).sum::<f64>().max(1.0);
    let (ncores, bytes) = (total(|b| b.ncores), total(|b| b.bytes));
    // By what is scarcer.
    let size = |item: &Item| (item.ncores as f64 / ncores).max(item.bytes as f64 / bytes);
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by(|a, b| size(&items[*b]).total_cmp(&size(&items[*a])).then(a.cmp(b)));
    let mut places = vec![None; items.len()];
    for at in order {
        let item = &items[at];
        let place = (0..bins.len()).find(|bin| bins[*bin].takes(item) && admits(at, *bin));
        if let Some(place) = place {
            let bin = &mut bins[place];
            bin.ncores -= item.ncores;
            bin.bytes -= item.bytes;
            bin.pods -= 1;
        }
        places[at] = place;
    }
    places
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Tries every way.
    fn fits(items: &[Item], bins: &mut [Bin], admits: &dyn Fn(usize, usize) -> bool) -> bool {
        let Some((item, rest)) = items.split_last() else {
            return true;
        };
        for bin in 0..bins.len() {
            if bins[bin].takes(item) && admits(rest.len(), bin) {
                let before = bins[bin];
                bins[bin].ncores -= item.ncores;
                bins[bin].bytes -= item.bytes;
                bins[bin].pods -= 1;
                let all = fits(rest, bins, admits);
                bins[bin] = before;
                if all {
                    return true;
                }
            }
        }
        false
    }

    fn item() -> impl Strategy<Value = Item> {
        (0..6u64, 0..6u64).prop_map(|(ncores, bytes)| Item { ncores, bytes })
    }

    fn bin() -> impl Strategy<Value = Bin> {
        (0..10u64, 0..10u64, 0..4u64).prop_map(|(ncores, bytes, pods)| Bin { ncores, bytes, pods })
    }

    proptest! {
        #[test]
        fn what_is_placed_is_placed_truly(
            items in prop::collection::vec(item(), 0..7),
            bins in prop::collection::vec(bin(), 0..4),
            kept_away in prop::collection::vec(any::<bool>(), 28),
        ) {
            let admits = |item: usize, bin: usize| !kept_away[item * 4 + bin];
            let mut free = bins.clone();
            let places = first_fit(&items, &mut free, admits);
            // Sums add up, whatever the order.
            let mut left = bins.clone();
            for (at, place) in places.iter().enumerate() {
                if let Some(bin) = place {
                    prop_assert!(left[*bin].takes(&items[at]) && admits(at, *bin));
                    left[*bin].ncores -= items[at].ncores;
                    left[*bin].bytes -= items[at].bytes;
                    left[*bin].pods -= 1;
                }
            }
            prop_assert_eq!(&left, &free);
            // Who was left over finds no room in what is left.
            for (at, place) in places.iter().enumerate() {
                if place.is_none() {
                    prop_assert!((0..free.len()).all(|bin| !free[bin].takes(&items[at]) || !admits(at, bin)));
                }
            }
            let all = places.iter().all(Option::is_some);
            let possible = fits(&items, &mut bins.clone(), &admits);
            prop_assert!(!all || possible, "said to fit, and does not");
        }

        #[test]
        fn into_one_node_it_is_exact(items in prop::collection::vec(item(), 0..7), bin in bin()) {
            let places = first_fit(&items, &mut [bin], |_, _| true);
            let possible = fits(&items, &mut [bin], &|_, _| true);
            prop_assert_eq!(places.iter().all(Option::is_some), possible);
        }
    }
}
