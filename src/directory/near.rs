//! Look-ups in stages: each asks the processor for the line that the next one reads, so that many abreast wait for memory
//! together.

use super::allocation::{home_bucket, start};
use super::bucket::{BUCKET_SLOTS, Bucket, EMPTY, FROZEN, row_of};
use super::segment::Segment;
use super::{Directory, NODE_BITS, Node, ROOT_BITS, Slot, node_of};
use crate::id::ChunkIndex;
use crate::rowcopy;
use crate::sync::Ordering;
use crossbeam_epoch::{Guard, Shared};

/// Levels of slots not worth asking for ahead, because a processor's own caches hold them: 64 slots and 1024. In a deep
/// directory the 16 Ki of the third as well: there it is the fourth level that waits for memory.
const NEAR_LEVELS: [usize; 2] = [2, 3];
/// Bytes of a directory from which most of its segments are behind a fourth level of slots.
const DEEP: u64 = 48 << 20;

impl Directory {
    /// Look-ups of many tags in stages.
    #[inline]
    pub(crate) fn search<'g>(&'g self, guard: &'g Guard) -> Search<'g> {
        Search { root: &self.root, levels: NEAR_LEVELS[usize::from(self.bytes() > DEEP)], guard }
    }
}

/// A slot on the way to a tag's segment.
#[derive(Clone, Copy)]
pub(crate) struct Way<'d> {
    slot: &'d Slot,
    /// The bits of the tag that have not led anywhere yet, from the top.
    rest: u32,
}

impl<'d> Way<'d> {
    #[inline]
    fn through(self, node: &'d Node) -> Way<'d> {
        Way { slot: &node.slots[(self.rest >> (32 - NODE_BITS)) as usize], rest: self.rest << NODE_BITS }
    }
}

/// What the stages of look-ups have in common.
#[derive(Clone, Copy)]
pub(crate) struct Search<'g> {
    root: &'g [Slot; 1 << ROOT_BITS],
    /// Levels of slots behind the root's that are near.
    levels: usize,
    guard: &'g Guard,
}

impl<'g> Search<'g> {
    /// Begins to look for `tag`: follows the slots that are used so often that they are near, and asks the processor for the
    /// one behind them, of which there are a few bytes for each segment.
    #[inline(always)]
    pub(crate) fn set_out(self, tag: u32) -> Way<'g> {
        let mut way = Way { slot: &self.root[(tag >> (32 - ROOT_BITS)) as usize], rest: tag << ROOT_BITS };
        for _ in 0..self.levels {
            let Some(node) = node_of(way.slot, way.slot.load(Ordering::Acquire, self.guard)) else { return way };
            way = way.through(node);
        }
        rowcopy::prefetch((&raw const *way.slot).cast());
        way
    }

    /// Goes on to the bucket where the words of a tag begin, and asks the processor for that. So many look-ups abreast wait
    /// for memory together.
    #[inline(always)]
    pub(crate) fn approach(self, mut way: Way<'g>, tag: u32) -> Near<'g> {
        loop {
            // Acquire: as in `place`.
            let there = way.slot.load(Ordering::Acquire, self.guard);
            let Some(node) = node_of(way.slot, there) else {
                // SAFETY: as in `segment`.
                return unsafe { Near::new(there, tag) };
            };
            way = way.through(node);
        }
    }
}

/// Where the words of a tag begin, in a segment that may have been replaced.
#[derive(Clone, Copy)]
pub(crate) struct Near<'g> {
    segment: Shared<'g, Segment>,
    home: &'g Bucket,
}

/// What there is of a tag in the bucket where its words begin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum AtHome {
    /// A row, the first there is.
    Row(ChunkIndex),
    /// No row.
    Nothing,
    /// Not known: the words go on in other buckets, or the segment is being replaced.
    Elsewhere,
}

impl<'g> Near<'g> {
    /// Asks the processor for the bucket where a tag's words begin.
    ///
    /// # Safety
    /// As of [`home_bucket`].
    #[inline]
    pub(super) unsafe fn new(segment: Shared<'g, Segment>, tag: u32) -> Near<'g> {
        // SAFETY: the caller's.
        let home = unsafe { home_bucket(segment, tag) };
        rowcopy::prefetch((&raw const *home).cast());
        Near { segment, home }
    }

    /// What a look into one bucket tells. Words that are not frozen are the directory's own at this moment: all of a
    /// segment is frozen before it is replaced.
    #[inline]
    pub(crate) fn at_home(&self, tag: u32) -> AtHome {
        let Some(slot) = self.home.0.get(self.home.first(tag)) else {
            // Relaxed: no record is looked at. A row that was entered into a successor before this look-up began was
            // entered after this slot was frozen, so this sees it frozen.
            let last = self.home.0[BUCKET_SLOTS - 1].load(Ordering::Relaxed);
            return if last == EMPTY { AtHome::Nothing } else { AtHome::Elsewhere };
        };
        // Acquire: as in `Segment::find`. What is left is below `FROZEN` if the tag is this one and the word not frozen.
        match slot.load(Ordering::Acquire) ^ u64::from(tag) << 32 {
            index if index < FROZEN => ChunkIndex::from_raw(index as u32).map_or(AtHome::Elsewhere, AtHome::Row),
            _ => AtHome::Elsewhere,
        }
    }

    /// Asks the processor for what [`elsewhere`](Self::elsewhere) reads first.
    pub(crate) fn ask_elsewhere(&self) {
        rowcopy::prefetch((&raw const *self.home).wrapping_add(1).cast());
        rowcopy::prefetch((&raw const *self.home).wrapping_add(2).cast());
        rowcopy::prefetch(start(self.segment));
    }

    /// A row of this tag, the first there is, wherever it is. If the segment is replaced meanwhile, what it was then: a row
    /// that has moved since, or gone, is not live any more under its index, and one that is new came after the look-up began.
    #[inline(never)]
    pub(crate) fn elsewhere(&self, tag: u32, guard: &'g Guard) -> Option<ChunkIndex> {
        // SAFETY: as in `new`.
        let segment = unsafe { self.segment.deref() }.newest(tag, guard);
        for bucket in segment.probed(tag) {
            for slot in &bucket.0[bucket.first(tag)..] {
                // Acquire: as in `find`.
                if let Some(index) = row_of(slot.load(Ordering::Acquire), tag) {
                    return Some(index);
                }
            }
            if bucket.ends() {
                return None;
            }
        }
        None
    }

    /// The stages one after another, as a batch goes through them.
    #[cfg(test)]
    pub(crate) fn through_all_stages(&self, tag: u32, guard: &'g Guard) -> Option<ChunkIndex> {
        match self.at_home(tag) {
            AtHome::Row(index) => Some(index),
            AtHome::Nothing => None,
            AtHome::Elsewhere => self.elsewhere(tag, guard),
        }
    }
}
