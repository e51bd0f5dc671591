//! Free records in one thread's hands.

use crate::id::ChunkIndex;

/// Most records that a magazine holds.
pub(crate) const MAGAZINE: usize = 256;

/// Free records of one slab that one thread holds, the next one last. `Slab::flush` gives them back.
#[derive(Debug)]
pub(crate) struct Magazine {
    len: usize,
    /// How many the last refill was to take. Each takes twice as many as the one before, so that a short call takes few.
    pub(crate) batch: usize,
    records: [Option<ChunkIndex>; MAGAZINE],
}

impl Default for Magazine {
    fn default() -> Magazine {
        Magazine { len: 0, batch: 16, records: [None; MAGAZINE] }
    }
}

impl Magazine {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The caller knows that there is room.
    #[inline]
    pub(crate) fn push(&mut self, index: ChunkIndex) {
        self.records[self.len] = Some(index);
        self.len += 1;
    }

    #[inline]
    pub(crate) fn pop(&mut self) -> Option<ChunkIndex> {
        self.len = self.len.checked_sub(1)?;
        self.records[self.len]
    }

    /// The record that is had after so many others.
    #[inline]
    pub(crate) fn after(&self, others: usize) -> Option<ChunkIndex> {
        self.records[self.len.checked_sub(others + 1)?]
    }

    /// Adds the records whose bits are set, counted from `first`. The caller knows that there is room.
    pub(crate) fn fill(&mut self, first: u32, mut bits: u32) {
        let end = self.len + bits.count_ones() as usize;
        for record in &mut self.records[self.len..end] {
            *record = ChunkIndex::from_raw(first + bits.trailing_zeros());
            bits &= bits - 1;
        }
        self.len = end;
    }

    /// After the last `fill`: the record that was added first is had first.
    pub(crate) fn reverse(&mut self) {
        self.records[..self.len].reverse();
    }

    /// Those that are had last.
    pub(crate) fn first(&self, count: usize) -> impl Iterator<Item = &ChunkIndex> {
        self.records[..count].iter().flatten()
    }

    pub(crate) fn remove_first(&mut self, count: usize) {
        self.records.copy_within(count..self.len, 0);
        self.len -= count;
    }
}
