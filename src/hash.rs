//! The hash of a row's key: a permutation of all 64-bit values, so that it names the row as exactly as the key does and
//! can be turned back into it.
//!
//! The directory keeps a hash's upper half (the tag) and the row's head record its lower half; neither keeps the key.
//!
//! The permutation is David Stafford's Mix13 ("Better Bit Mixing", 2011), the finalizer of SplitMix64, on the key xor a
//! seed: two rounds of shift, xor and multiplication by an odd constant, and a last shift and xor. Each step has an inverse.

const FIRST: u64 = 0xBF58_476D_1CE4_E5B9;
const SECOND: u64 = 0x94D0_49BB_1331_11EB;

/// The hash of a key.
#[inline]
pub(crate) fn mix(key: u64, seed: u64) -> u64 {
    let mixed = key ^ seed;
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(FIRST);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(SECOND);
    mixed ^ (mixed >> 31)
}

/// The key that has a hash.
pub(crate) fn unmix(hash: u64, seed: u64) -> u64 {
    let mixed = unshift(hash, 31).wrapping_mul(const { inverse(SECOND) });
    let mixed = unshift(mixed, 27).wrapping_mul(const { inverse(FIRST) });
    unshift(mixed, 30) ^ seed
}

/// The inverse of `x ^ (x >> shift)` for a shift of 22 or more: three times that leaves no bits.
fn unshift(value: u64, shift: u32) -> u64 {
    value ^ (value >> shift) ^ (value >> (2 * shift))
}

/// The inverse of an odd number modulo 2^64, by Newton's method: right in 3 bits at first, in twice as many each time.
const fn inverse(odd: u64) -> u64 {
    let mut inverse = odd;
    let mut round = 0;
    while round < 5 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(inverse)));
        round += 1;
    }
    inverse
}

/// The bits of a hash that the directory uses.
#[inline]
pub(crate) fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// The bits of a hash that the head record keeps.
#[inline]
pub(crate) fn low(hash: u64) -> u32 {
    hash as u32
}

/// The hash with the given halves.
#[inline]
pub(crate) fn join(tag: u32, low: u32) -> u64 {
    u64::from(tag) << 32 | u64::from(low)
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_hash_turns_back_into_its_key(key: u64, seed: u64) {
            prop_assert_eq!(unmix(mix(key, seed), seed), key);
            prop_assert_eq!(mix(unmix(key, seed), seed), key);
            let hash = mix(key, seed);
            prop_assert_eq!(join(tag(hash), low(hash)), hash);
        }

        /// Each bit of a key changes about half of the hash's bits, in either half.
        #[test]
        fn one_bit_changes_half_of_each_half(bit in 0u32..64, seed: u64) {
            let (mut upper, mut lower) = (0, 0);
            for key in 0..2000u64 {
                let changed = mix(key << 7, seed) ^ mix(key << 7 ^ 1 << bit, seed);
                upper += tag(changed).count_ones();
                lower += low(changed).count_ones();
            }
            // 64,000 bits each, of which half changes: six standard deviations (126 bits) and the little that is left of order.
            prop_assert!(upper.abs_diff(32_000) < 1500 && lower.abs_diff(32_000) < 1500, "{} {}", upper, lower);
        }
    }

    /// Serving files are searched by it.
    #[test]
    fn hashes_are_as_the_format_says() {
        let hashes = [0x5692_161d_100b_05e5, 0xa759_ea27_d472_7622, 0xb4d0_55fc_f2cb_bd7b];
        assert_eq!([1, 42, u64::MAX].map(|key| mix(key, 0)), hashes);
    }

    #[test]
    fn the_ends_turn_back() {
        for key in [0, 1, u64::MAX, 1 << 63, FIRST, SECOND] {
            for seed in [0, 1, u64::MAX, key] {
                assert_eq!(unmix(mix(key, seed), seed), key);
            }
        }
    }

    /// Pearson's statistic of the numbers of keys in equal cells, in standard deviations from its mean.
    fn unevenness(keys: impl Iterator<Item = u64>, cells: usize, cell: impl Fn(u64) -> usize) -> f64 {
        let mut counts = vec![0u32; cells];
        let mut total = 0u32;
        for key in keys {
            counts[cell(mix(key, 0x1234_5678_9ABC_DEF0))] += 1;
            total += 1;
        }
        let expected = f64::from(total) / cells as f64;
        let squares: f64 = counts.iter().map(|&count| (f64::from(count) - expected).powi(2) / expected).sum();
        (squares - (cells - 1) as f64) / (2.0 * (cells - 1) as f64).sqrt()
    }

    /// What the store takes apart a hash for: segments by the tag's upper bits, buckets by its lower ones, and the lower
    /// half.
    #[test]
    fn orderly_keys_are_spread_as_random_ones_are() {
        const KEYS: u64 = 1 << 17;
        let cells: [fn(u64) -> usize; 3] =
            [|hash| (tag(hash) >> 22) as usize, |hash| tag(hash) as usize & 1023, |hash| low(hash) as usize & 1023];
        for (which, cell) in cells.into_iter().enumerate() {
            for shift in 0..=47 {
                let far = unevenness((0..KEYS).map(|key| key << shift), 1024, cell);
                // A statistic that is normal, nearly: of 144 values the largest should be about 2.7.
                assert!(far.abs() < 5.0, "keys of step 2^{shift}, cells {which}: {far:.1} standard deviations");
            }
        }
    }

    #[test]
    fn no_two_of_many_keys_share_more_than_chance_lets_them() {
        let mut tags: Vec<u32> = (0..1u64 << 17).map(|key| tag(mix(key, 7))).collect();
        tags.sort_unstable();
        tags.dedup();
        // 2^34 / 2 pairs in 2^32 tags: two shared ones are expected.
        assert!((1 << 17) - tags.len() < 14, "{} tags", tags.len());
    }
}
