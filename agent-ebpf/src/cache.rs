//! The words of the shared cache in front of the id → slot hash.
//!
//! An entry is one word, so that it is read and written whole on every CPU: the cgroup id above, its slot below. A hash
//! of ids alone would need two words and a lock.

use partywall_abi::{CACHE, SLOTS};

const SLOT_BITS: u32 = SLOTS.trailing_zeros();
const CACHE_BITS: u32 = CACHE.trailing_zeros();

/// The entry for `id` and `slot`, or 0 (never an entry) where the id is too long to fit beside a slot.
#[inline(always)]
pub fn entry(id: u64, slot: u16) -> u64 {
    if id >> (u64::BITS - SLOT_BITS) != 0 {
        return 0;
    }
    id << SLOT_BITS | u64::from(slot) & (SLOTS as u64 - 1)
}

/// The slot in `entry`, if it is that of `id`.
#[inline(always)]
pub fn slot_in(entry: u64, id: u64) -> Option<u16> {
    // An id too long to fit never equals what is left of an entry after the shift.
    if entry != 0 && entry >> SLOT_BITS == id {
        Some((entry & (SLOTS as u64 - 1)) as u16)
    } else {
        None
    }
}

/// Where the entry of `id` is kept; [`second`] is where it goes when that place is taken.
///
/// Ids grow by the number of files in a cgroup's directory. The finalizer of MurmurHash3 spreads them whatever that number
/// is; one multiplication alone leaves a third of 500 cgroups without a place at some strides.
#[inline(always)]
pub fn first(id: u64) -> usize {
    let mut hash = id.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    (hash >> (u64::BITS - CACHE_BITS)) as usize
}

/// The other place of an entry: its neighbour, in the same cache line.
#[inline(always)]
pub fn second(first: usize) -> usize {
    first ^ 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_entry_gives_back_its_slot_to_its_id_alone(id in 1u64..1 << 54, other: u64, slot in 0u16..1024) {
            let word = entry(id, slot);
            prop_assert_eq!(slot_in(word, id), Some(slot));
            if other != id {
                prop_assert_eq!(slot_in(word, other), None);
            }
        }

        #[test]
        fn an_id_too_long_is_never_cached(id in 1u64 << 54.., slot in 0u16..1024) {
            prop_assert_eq!(entry(id, slot), 0);
            prop_assert_eq!(slot_in(entry(id, slot), id), None);
        }
    }

    #[test]
    fn ids_of_neighbouring_cgroups_spread() {
        // 500 cgroups whose ids are as far apart as their directories have files: both places taken is rare.
        for stride in 1..80 {
            let mut taken = vec![false; CACHE];
            let mut homeless = 0;
            for index in 0..500u64 {
                let home = first(1000 + index * stride);
                if !taken[home] {
                    taken[home] = true;
                } else if !taken[second(home)] {
                    taken[second(home)] = true;
                } else {
                    homeless += 1;
                }
            }
            assert!(
                homeless <= 12,
                "{homeless} of 500 without a place at stride {stride}"
            );
        }
    }
}
