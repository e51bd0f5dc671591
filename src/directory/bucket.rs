//! Row words, and the cache lines of them that a segment is made of.

use crate::id::ChunkIndex;
use crate::rowcopy;
use crate::sync::{AtomicU64, Ordering};

/// Row words of one cache line.
#[cfg(not(any(loom, shuttle, fuzzing)))]
pub(super) const BUCKET_SLOTS: usize = 8;
#[cfg(any(loom, shuttle, fuzzing))]
pub(super) const BUCKET_SLOTS: usize = 2;

/// Set on every row word of a segment that is being replaced: nothing changes in it any more.
pub(super) const FROZEN: u64 = 1 << ChunkIndex::BITS;
/// A slot that was never used. Slots never return to it, see `Segment::insert`.
pub(super) const EMPTY: u64 = 0;
/// A slot whose row has gone. Cleared away when the segment is rebuilt.
pub(super) const TOMBSTONE: u64 = 1 << 32;

/// `[tag: 32 | frozen: 1 | index: 31]`.
#[inline]
pub(crate) fn row_word(tag: u32, index: ChunkIndex) -> u64 {
    u64::from(tag) << 32 | u64::from(index.raw())
}

#[inline]
pub(super) fn index_of(word: u64) -> Option<ChunkIndex> {
    ChunkIndex::from_raw((word & !FROZEN) as u32)
}

#[inline]
pub(super) fn tag_of(word: u64) -> u32 {
    (word >> 32) as u32
}

/// The row that a word names, if it is one of this tag.
#[inline]
pub(super) fn row_of(word: u64, tag: u32) -> Option<ChunkIndex> {
    index_of(word).filter(|_| tag_of(word) == tag)
}

/// One cache line of row words.
#[repr(align(64))]
pub(super) struct Bucket(pub(super) [AtomicU64; BUCKET_SLOTS]);

impl Bucket {
    pub(super) fn empty() -> Bucket {
        Bucket(std::array::from_fn(|_| AtomicU64::new(EMPTY)))
    }

    /// The first slot with this tag, the bucket's end if there is none. Which it is costs no branch.
    #[inline]
    pub(super) fn first(&self, tag: u32) -> usize {
        // The slot is read again.
        (rowcopy::upper_halves(&self.0, tag) | 1 << BUCKET_SLOTS).trailing_zeros() as usize
    }

    /// Whether every slot is used and none has this tag: a search for it goes on behind this bucket.
    #[inline]
    pub(super) fn is_of_others(&self, tag: u32) -> bool {
        // Acquire: pairs with the Release in `insert`. Whoever took the last slot had seen, and so this thread sees from
        // here on, what took the slots before it.
        self.0[BUCKET_SLOTS - 1].load(Ordering::Acquire) & !FROZEN != EMPTY && self.first(tag) == BUCKET_SLOTS
    }

    /// Whether no search goes on behind this bucket.
    #[inline]
    pub(super) fn ends(&self) -> bool {
        self.0[BUCKET_SLOTS - 1].load(Ordering::Relaxed) & !FROZEN == EMPTY
    }
}
