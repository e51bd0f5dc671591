//! Records that a look-up has come to: asked for before they are read.

use super::{Chains, HASH, TAIL_LINK, TAIL_PAYLOAD};
use crate::hash::low;
use crate::id::ChunkIndex;
use crate::rowcopy;
use crate::slab::Records;
use crate::sync::{AtomicU32, Ordering};
use crate::watch::LINK_LOAD;

/// A head record and where it is.
#[derive(Clone, Copy)]
pub(crate) struct Head<'s> {
    pub(crate) index: ChunkIndex,
    pub(super) record: &'s [AtomicU32],
}

/// A tail record.
#[derive(Clone, Copy)]
pub(crate) struct Tail<'s> {
    pub(super) record: &'s [AtomicU32],
}

impl Tail<'_> {
    /// Asks the processor for the first words of the record.
    #[inline(always)]
    pub(crate) fn prefetch(&self, words: usize) {
        rowcopy::prefetch_words(&self.record[..words]);
    }
}

/// Where a link leads to that may be changing meanwhile.
#[inline(always)]
pub(super) fn follow<'s>(tails: Records<'s>, link: &AtomicU32) -> Option<Tail<'s>> {
    // Relaxed: a reader that follows a link written after its copy began sees the sequence word change too (the
    // writer's Release fence after the claim, the reader's Acquire fence before it looks again).
    tails.named(link.load(LINK_LOAD)).map(|record| Tail { record })
}

impl<'s> Head<'s> {
    /// The head of that index, among all of its size.
    #[inline(always)]
    pub(crate) fn at(heads: Records<'s>, index: ChunkIndex) -> Head<'s> {
        Head { index, record: heads.get(index) }
    }

    /// Asks the processor for the first words of the record.
    #[inline(always)]
    pub(crate) fn prefetch(&self, words: usize) {
        rowcopy::prefetch_words(&self.record[..words]);
    }

    /// Whether the record, which the directory has or had under the hash's tag, is of the key that has this hash.
    #[inline]
    pub(crate) fn has(&self, hash: u64) -> bool {
        // Relaxed: it was written before the index was published, and stays until the record is reused.
        self.record[HASH].load(Ordering::Relaxed) == low(hash)
    }
}

impl<'s> Chains<'s> {
    /// Where the record at `head` is.
    #[inline]
    pub(crate) fn head(&self, head: ChunkIndex) -> Head<'s> {
        Head::at(self.head_records, head)
    }

    /// Words of a head record: all of them, or those that a read touches.
    #[inline]
    pub(crate) fn head_words(&self, all: bool) -> usize {
        if all { self.layout.head_words() } else { self.layout.head_payload + self.layout.chunk }
    }

    /// A row's first tail.
    #[inline]
    pub(crate) fn first_tail(&self, head: Head<'s>) -> Option<Tail<'s>> {
        self.head_link(head.record).and_then(|link| follow(self.tail_records, link))
    }

    /// The tail after one.
    #[inline]
    pub(crate) fn tail_after(&self, tail: Tail<'s>) -> Option<Tail<'s>> {
        follow(self.tail_records, &tail.record[TAIL_LINK])
    }

    /// Words of a tail record: all of them, or those that a read touches.
    #[inline]
    pub(crate) fn tail_words(&self, all: bool) -> usize {
        if all { self.layout.tail_words() } else { TAIL_PAYLOAD + self.layout.chunk }
    }
}
