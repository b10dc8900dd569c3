//! Which histogram bucket a wait falls into.

use partywall_abi::{BUCKET_SHIFT, BUCKETS};

/// The bucket of a wait of `wait_ns`; its floor is [`partywall_abi::bucket_floor_ns`].
#[inline(always)]
pub fn bucket(wait_ns: u64) -> usize {
    // BPF has no count-leading-zeros before cpu v4: a binary search over the 48 bits that matter, five compares.
    let mut rest = wait_ns >> (BUCKET_SHIFT - 1);
    if rest >= 1 << (BUCKETS - 1) {
        return BUCKETS - 1;
    }
    let mut log2 = 0;
    if rest >= 1 << 8 {
        rest >>= 8;
        log2 += 8;
    }
    if rest >= 1 << 4 {
        rest >>= 4;
        log2 += 4;
    }
    if rest >= 1 << 2 {
        rest >>= 2;
        log2 += 2;
    }
    if rest >= 1 << 1 {
        log2 += 1;
    }
    log2
}

#[cfg(test)]
mod tests {
    use super::*;
    use partywall_abi::bucket_floor_ns;
    use proptest::prelude::*;

    #[test]
    fn edges_belong_to_the_bucket_they_open() {
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        for index in 1..BUCKETS {
            let floor = bucket_floor_ns(index);
            assert_eq!(bucket(floor), index, "floor {floor}");
            assert_eq!(bucket(floor - 1), index - 1, "below floor {floor}");
        }
    }

    proptest! {
        #[test]
        fn a_wait_lies_within_its_bucket(wait_ns: u64) {
            let index = bucket(wait_ns);
            prop_assert!(bucket_floor_ns(index) <= wait_ns);
            prop_assert!(index == BUCKETS - 1 || wait_ns < bucket_floor_ns(index + 1));
        }
    }
}
