//! Small integers with a meaning, and the packed words they live in.

use std::num::NonZeroU32;

/// Physical index of a chunk's record in its slab: superblock number above, slot number below.
///
/// Invariant: non-zero (superblock 0 is never used) and below 2^31 (the row word needs the top bit).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ChunkIndex(NonZeroU32);

impl ChunkIndex {
    pub(crate) const BITS: u32 = 31;

    pub(crate) fn from_raw(raw: u32) -> Option<ChunkIndex> {
        if raw >> Self::BITS != 0 {
            return None;
        }
        NonZeroU32::new(raw).map(ChunkIndex)
    }

    #[inline]
    pub(crate) fn raw(self) -> u32 {
        self.0.get()
    }
}

/// One of a store's tables, in the order they were given to [`Store::new`](crate::Store::new).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId(u32);

impl TableId {
    /// The table at position `index`. Whether a store has such a table is checked when the id is used.
    pub fn new(index: usize) -> TableId {
        TableId(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// Position of the table in the store.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a chunk's info word says: its utility in the upper 24 bits, its ordinal in the lower 8.
///
/// The utility is a non-negative `f32` without its sign and its last 7 mantissa bits: 8 bits of exponent and 16 of
/// mantissa, so that an increment down to 2^-17 of the sum still counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Info {
    pub(crate) utility: f32,
    pub(crate) ordinal: u8,
}

impl Info {
    #[inline]
    pub(crate) fn pack(self) -> u32 {
        debug_assert!(self.utility >= 0.0, "utility {}", self.utility);
        // Rounded to nearest, so that many small increments are not all lost downwards. The sign bit is 0 and leaves
        // by the shift; the largest finite value must not round up to infinity's exponent.
        let bits = self.utility.min(f32::MAX / 2.0).to_bits() + (1 << 6);
        ((bits << 1) & 0xFFFF_FF00) | u32::from(self.ordinal)
    }

    #[inline]
    pub(crate) fn unpack(word: u32) -> Info {
        Info { utility: f32::from_bits((word & 0xFFFF_FF00) >> 1), ordinal: (word & 0xFF) as u8 }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn info_round_trips(utility in 0f32..1e30, ordinal: u8) {
            let back = Info::unpack(Info { utility, ordinal }.pack());
            prop_assert_eq!(back.ordinal, ordinal);
            prop_assert!((back.utility - utility).abs() <= utility * 1e-5);
            prop_assert_eq!(Info::unpack(back.pack()), back);
        }
    }

    #[test]
    fn info_extremes_stay_finite() {
        for utility in [0.0, f32::MIN_POSITIVE, f32::MAX, f32::INFINITY] {
            assert!(Info::unpack(Info { utility, ordinal: 255 }.pack()).utility.is_finite());
        }
    }

    #[test]
    fn chunk_index_bounds() {
        assert!(ChunkIndex::from_raw(0).is_none());
        assert!(ChunkIndex::from_raw(1 << 31).is_none());
        assert_eq!(ChunkIndex::from_raw(5).map(ChunkIndex::raw), Some(5));
    }
}
