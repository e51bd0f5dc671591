//! One segment: the row words of all keys whose tags share a prefix.

use super::Probe;
use super::allocation::allocate;
use super::bucket::{BUCKET_SLOTS, Bucket, EMPTY, FROZEN, TOMBSTONE, index_of, tag_of};
use crate::failpoint::{Point, reach};
use crate::id::ChunkIndex;
use crate::sync::{Atomic, AtomicU32, Ordering};
use crossbeam_epoch::{Guard, Owned, Shared};

/// Bits of the tag that choose the bucket. The bits above choose the segment, so a segment's depth ends at 32 less this.
#[cfg(not(fuzzing))]
const BUCKET_BITS: u32 = 14;
/// So that a fuzz case comes to the longest prefix.
#[cfg(fuzzing)]
const BUCKET_BITS: u32 = 26;
/// Longest prefix a segment can have.
pub(super) const MAX_DEPTH: u32 = 32 - BUCKET_BITS;
/// A segment beyond this many buckets is split rather than enlarged, unless its prefix is as long as can be.
#[cfg(not(any(loom, shuttle, fuzzing)))]
const SPLIT_BUCKETS: usize = 64;
#[cfg(any(loom, shuttle, fuzzing))]
const SPLIT_BUCKETS: usize = 2;

/// Of 64 slots, how many are used in a new segment, and how many before it is replaced. Between the two lies what a row
/// costs here (11.6 bytes to 9.5), what a search for a row that is not there costs, and how often rows are copied.
#[cfg(not(any(loom, shuttle, fuzzing)))]
const LOAD: std::ops::Range<usize> = 44..54;
/// With so few slots that a segment begins below this.
#[cfg(any(loom, shuttle, fuzzing))]
const LOAD: std::ops::Range<usize> = 46..55;

/// The bucket where the search for a tag begins, of so many.
#[inline]
pub(super) fn home(tag: u32, buckets: usize) -> usize {
    ((tag as usize & ((1 << BUCKET_BITS) - 1)) * buckets) >> BUCKET_BITS
}

/// What a segment has besides its words.
#[repr(align(64))]
pub(crate) struct Header {
    /// How many buckets there are.
    pub(super) buckets: u32,
    /// Slots that are not empty.
    used: AtomicU32,
    /// The upper `depth` bits of every tag in here; the lower bits are zero.
    pub(super) prefix: u32,
    pub(super) depth: u32,
    /// Null, or what stands in this segment's place: one segment, or the lower half of two.
    replacement: Atomic<Segment>,
    /// Set on the lower half of a split before it is published: the upper half.
    upper_half: Atomic<Segment>,
}

/// Open addressing over buckets of one cache line each, linear from the tag's own bucket.
///
/// A slot goes from empty to a row word to a tombstone, and never back; the whole segment is replaced instead.
#[repr(C)]
pub(crate) struct Segment {
    pub(super) header: Header,
    buckets: [Bucket],
}

/// Whoever still reads a segment that is freed meets words that no row ever had.
#[cfg(fuzzing)]
impl Drop for Segment {
    fn drop(&mut self) {
        self.buckets.iter().flat_map(|bucket| &bucket.0).for_each(|slot| slot.store(!0 >> 2, Ordering::Relaxed));
    }
}

/// What [`Segment::find`] met.
pub(super) enum Find {
    Found(ChunkIndex),
    Missing,
    /// Missing here, but a row of the key has gone from this frozen segment: it may be in the replacement.
    PerhapsMoved,
}

/// What [`Segment::insert`] met.
pub(crate) enum Insert {
    Done,
    Exists(ChunkIndex),
    /// The segment is full, or being replaced: replace it and come again.
    Replace,
}

/// What [`Segment::replace_word`] met.
#[derive(PartialEq)]
pub(super) enum Exchange {
    Done,
    Missing,
    Frozen,
}

impl Segment {
    /// Buckets for `rows` rows in a new segment.
    fn buckets_for(rows: usize) -> usize {
        (rows * 64).div_ceil(BUCKET_SLOTS * LOAD.start).max(1)
    }

    /// Slots that may be used of so many buckets before the segment is replaced. So many rows need more buckets, or
    /// what replaces the segment would have to be replaced at once.
    pub(super) fn limit(buckets: usize) -> usize {
        let slots = buckets * BUCKET_SLOTS;
        if slots == BUCKET_SLOTS { slots } else { slots * LOAD.end / 64 }
    }

    /// Heap bytes of a segment without rows.
    pub(super) const EMPTY_BYTES: u64 = Self::bytes_for(1);

    pub(super) const fn bytes_for(buckets: usize) -> u64 {
        (buckets * size_of::<Bucket>() + size_of::<Header>()) as u64
    }

    pub(super) fn buckets(&self) -> u64 {
        self.buckets.len() as u64
    }

    /// Heap bytes of this segment.
    pub(super) fn bytes(&self) -> u64 {
        Self::bytes_for(self.buckets.len())
    }

    /// The most that the successors of this segment can take together, however its rows are spread: fewer than 1.4
    /// times its buckets, rounded up in each of two halves.
    pub(super) fn successor_bytes_max(&self) -> u64 {
        Self::bytes_for(self.buckets.len() * 7 / 5 + 3) + Self::bytes_for(1)
    }

    /// A segment with the given row words, which all belong to it. The caller accounts for its bytes.
    pub(crate) fn new(prefix: u32, depth: u32, words: &[u64]) -> Owned<Segment> {
        let count = Self::buckets_for(words.len());
        debug_assert!(words.len() <= count * BUCKET_SLOTS);
        let segment = Self::empty(prefix, depth, count);
        // How many slots of each bucket are used.
        let mut filled = vec![0; count];
        for &word in words {
            let mut at = home(tag_of(word), count);
            while filled[at] == BUCKET_SLOTS {
                at = if at + 1 == count { 0 } else { at + 1 };
            }
            // Relaxed: nobody else sees the segment before it is published with Release.
            segment.buckets[at].0[filled[at]].store(word, Ordering::Relaxed);
            filled[at] += 1;
        }
        segment.set_used(words.len() as u32);
        segment
    }

    /// All buckets in the order in which `tag` probes them.
    #[inline]
    pub(super) fn probed(&self, tag: u32) -> impl Iterator<Item = &Bucket> {
        let (before, from) = self.buckets.split_at(home(tag, self.buckets.len()));
        from.iter().chain(before)
    }

    /// The first row of this tag that `probe` accepts.
    #[inline]
    pub(super) fn find(&self, tag: u32, mut probe: impl FnMut(ChunkIndex) -> Probe) -> Find {
        let mut moved = false;
        'search: for bucket in self.probed(tag) {
            if bucket.is_of_others(tag) {
                continue;
            }
            for slot in &bucket.0 {
                // Acquire: pairs with the Release in `insert` and `replace_word`, so the row's key and payload are there.
                let mut word = slot.load(Ordering::Acquire);
                if word & !FROZEN == EMPTY {
                    break 'search;
                }
                while tag_of(word) == tag
                    && let Some(index) = index_of(word)
                {
                    match probe(index) {
                        Probe::Found => return Find::Found(index),
                        Probe::Other => break,
                        Probe::Gone => {
                            // A row that moved left its new index here before its old head went, or, if the segment was
                            // frozen by then, in the replacement.
                            let again = slot.load(Ordering::Acquire);
                            if (again ^ word) & !FROZEN == 0 {
                                moved |= again & FROZEN != 0;
                                break;
                            }
                            word = again;
                        }
                    }
                }
            }
        }
        if moved { Find::PerhapsMoved } else { Find::Missing }
    }

    /// Puts a row word into the first empty slot on its way, unless `probe` finds the key in a slot before.
    ///
    /// Two inserts of one key cannot both succeed: each takes the first empty slot of the same sequence after it has
    /// looked at all slots before, and a slot that is not empty never becomes empty or another row's. So the later of
    /// the two meets the earlier one's word.
    pub(crate) fn insert(&self, word: u64, mut probe: impl FnMut(ChunkIndex) -> Probe) -> Insert {
        if self.header.used.load(Ordering::Relaxed) as usize >= Self::limit(self.buckets.len()) {
            // Full. The key may still be in here, and then there is nothing to insert.
            return match self.find(tag_of(word), &mut probe) {
                Find::Found(index) => Insert::Exists(index),
                Find::Missing | Find::PerhapsMoved => Insert::Replace,
            };
        }
        for bucket in self.probed(tag_of(word)) {
            // Even if they are frozen: what follows them is frozen, too, before anybody can insert elsewhere.
            if bucket.is_of_others(tag_of(word)) {
                continue;
            }
            for slot in &bucket.0 {
                // Acquire: as in `find`.
                let mut current = slot.load(Ordering::Acquire);
                if current == EMPTY {
                    // Release: publishes the row's record. Pairs with the Acquire in `find`. On failure as in `find`.
                    match slot.compare_exchange(EMPTY, word, Ordering::Release, Ordering::Acquire) {
                        Ok(_) => {
                            self.header.used.fetch_add(1, Ordering::Relaxed);
                            return Insert::Done;
                        }
                        Err(other) => current = other,
                    }
                }
                while tag_of(current) == tag_of(word)
                    && let Some(index) = index_of(current)
                    && current & FROZEN == 0
                {
                    match probe(index) {
                        Probe::Found => return Insert::Exists(index),
                        Probe::Other => break,
                        Probe::Gone => {
                            // As in `find`: a row that moved is named here by its new index.
                            let again = slot.load(Ordering::Acquire);
                            if again == current {
                                break;
                            }
                            current = again;
                        }
                    }
                }
                if current & FROZEN != 0 {
                    return Insert::Replace;
                }
            }
        }
        Insert::Replace
    }

    /// Exchanges the row word `from`, which is in here at most once, for `to`.
    pub(super) fn replace_word(&self, from: u64, to: u64) -> Exchange {
        for bucket in self.probed(tag_of(from)) {
            for slot in &bucket.0 {
                // Relaxed, and on failure below: no record is looked at by this word, whose row the caller has found.
                let mut current = slot.load(Ordering::Relaxed);
                if current == from {
                    // Release: publishes a moved record. Pairs with the Acquire in `find`.
                    match slot.compare_exchange(from, to, Ordering::Release, Ordering::Relaxed) {
                        Ok(_) => return Exchange::Done,
                        Err(other) => current = other,
                    }
                }
                if current & FROZEN != 0 && (current & !FROZEN == from || current & !FROZEN == EMPTY) {
                    return Exchange::Frozen;
                }
                if current == EMPTY {
                    return Exchange::Missing;
                }
            }
        }
        Exchange::Missing
    }

    /// Freezes every slot and returns the row words. Once this is done nothing in the segment can change, so every
    /// thread that does it sees the same words.
    fn freeze(&self) -> Vec<u64> {
        let mut words = Vec::with_capacity(self.buckets.len() * BUCKET_SLOTS);
        for slot in self.buckets.iter().flat_map(|bucket| bucket.0.iter()) {
            // Acquire: as in `find`. The rows named here are published again, with the new segment.
            let word = slot.fetch_or(FROZEN, Ordering::Acquire) & !FROZEN;
            reach(Point::WordFrozen);
            if word != EMPTY && word != TOMBSTONE {
                words.push(word);
            }
        }
        words
    }

    /// The row words as they are now.
    pub(super) fn words(&self) -> impl Iterator<Item = (u32, ChunkIndex)> + '_ {
        self.words_of(0, 1)
    }

    /// The row words of every `stride`-th bucket after so many that are skipped.
    pub(super) fn words_of(&self, skipped: usize, stride: usize) -> impl Iterator<Item = (u32, ChunkIndex)> + '_ {
        let buckets = self.buckets.iter().skip(skipped).step_by(stride);
        buckets.flat_map(|bucket| bucket.0.iter()).filter_map(|slot| {
            // Acquire: as in `find`.
            let word = slot.load(Ordering::Acquire);
            (word & !FROZEN != TOMBSTONE).then(|| index_of(word).map(|index| (tag_of(word), index))).flatten()
        })
    }

    /// The row words that belong into every `stride`-th bucket after so many that are skipped.
    pub(super) fn words_at_home(&self, skipped: usize, stride: usize) -> impl Iterator<Item = (u32, ChunkIndex)> + '_ {
        let buckets = self.buckets.len();
        self.words().filter(move |&(tag, _)| {
            home(tag, buckets).checked_sub(skipped).is_some_and(|bucket| bucket.is_multiple_of(stride))
        })
    }

    /// Slots that are not empty.
    pub(super) fn used(&self) -> u32 {
        self.header.used.load(Ordering::Relaxed)
    }

    pub(super) fn set_used(&self, used: u32) {
        self.header.used.store(used, Ordering::Relaxed);
    }

    /// A segment without rows. The caller accounts for its bytes.
    pub(super) fn empty(prefix: u32, depth: u32, buckets: usize) -> Owned<Segment> {
        allocate(Header {
            // As many as fit into addresses: those were reserved from a budget.
            buckets: buckets as u32,
            used: AtomicU32::new(0),
            prefix,
            depth,
            replacement: Atomic::null(),
            upper_half: Atomic::null(),
        })
    }

    pub(super) fn depth(&self) -> u32 {
        self.header.depth
    }

    pub(super) fn begin(&self) -> u32 {
        self.header.prefix
    }

    /// Where the next segment begins; `None` after the last.
    pub(super) fn end(&self) -> Option<u32> {
        u32::try_from(u64::from(self.header.prefix) + (1u64 << (32 - self.header.depth))).ok()
    }

    /// Whether this segment should be rebuilt although nothing is being inserted: a quarter of it could go.
    pub(super) fn is_sparse(&self) -> bool {
        let rows = self.words().count();
        self.buckets.len() > 1 && Self::buckets_for(rows) * 4 <= self.buckets.len() * 3
    }

    /// The segment that has the words of `tag` now: this one, or what stands in its place.
    #[inline]
    pub(super) fn newest<'g>(&'g self, tag: u32, guard: &'g Guard) -> &'g Segment {
        let mut segment = self;
        while let Some(newer) = segment.replacement(tag, guard) {
            // SAFETY: as in `replacement`.
            segment = unsafe { newer.deref() };
        }
        segment
    }

    /// What stands in this segment's place for `tag`, if it was replaced.
    #[inline]
    pub(super) fn replacement<'g>(&self, tag: u32, guard: &'g Guard) -> Option<Shared<'g, Segment>> {
        // Acquire: pairs with the Release in `replace`.
        let lower = self.header.replacement.load(Ordering::Acquire, guard);
        // SAFETY: replacements are retired only after every slot that leads through them, for tags of the other half
        // too, was moved past their predecessors (see `Directory::settle`); we came here through such a slot, under
        // this guard.
        let segment = unsafe { lower.as_ref() }?;
        if segment.header.depth > self.header.depth && tag >> (32 - segment.header.depth) & 1 == 1 {
            // Relaxed: set before `lower` was published, and the Acquire above saw that.
            return Some(segment.header.upper_half.load(Ordering::Relaxed, guard));
        }
        Some(lower)
    }

    /// How many leading bits of a tag it takes to come through this segment: its depth, but one less for the lower half
    /// of a split, through which the way to the upper half goes too.
    pub(super) fn reach(&self, guard: &Guard) -> u32 {
        // Relaxed: set before this segment was published.
        self.header.depth - u32::from(!self.header.upper_half.load(Ordering::Relaxed, guard).is_null())
    }

    /// Builds this segment's successors and publishes them. Returns their bytes to the one thread that did.
    pub(super) fn replace(&self, guard: &Guard) -> Option<u64> {
        let words = self.freeze();
        reach(Point::SegmentFrozen);
        let split = Self::buckets_for(words.len()) > SPLIT_BUCKETS && self.header.depth < MAX_DEPTH;
        let lower = if split { self.halves(&words) } else { Self::new(self.header.prefix, self.header.depth, &words) };
        // SAFETY: not published yet, so nobody else can hold the upper half.
        let unshared = unsafe { crossbeam_epoch::unprotected() };
        let upper = lower.header.upper_half.load(Ordering::Relaxed, unshared);
        // SAFETY: null or a live segment, as above.
        let bytes = lower.bytes() + unsafe { upper.as_ref() }.map_or(0, Segment::bytes);
        reach(Point::SuccessorBuilt);
        // Release: publishes the new segments with all their words. Pairs with the Acquire in `replacement`.
        match self.header.replacement.compare_exchange(
            Shared::null(),
            lower,
            Ordering::Release,
            Ordering::Relaxed,
            guard,
        ) {
            Ok(_) => Some(bytes),
            Err(_) => {
                if !upper.is_null() {
                    // SAFETY: not null, and no longer reachable from anywhere: `lower` was dropped with the error.
                    drop(unsafe { upper.into_owned() });
                }
                None
            }
        }
    }

    fn halves(&self, words: &[u64]) -> Owned<Segment> {
        let depth = self.header.depth + 1;
        let bit = 1 << (32 - depth);
        let (upper, lower): (Vec<u64>, Vec<u64>) = words.iter().partition(|&&word| tag_of(word) & bit != 0);
        let lower = Self::new(self.header.prefix, depth, &lower);
        // Relaxed: `lower` is not yet published.
        lower.header.upper_half.store(Self::new(self.header.prefix | bit, depth, &upper), Ordering::Relaxed);
        lower
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn a_full_segment_is_replaced_by_a_larger_one() {
        for buckets in 1..=4 * SPLIT_BUCKETS {
            assert!(Segment::buckets_for(Segment::limit(buckets)) > buckets, "{buckets} buckets");
        }
    }
}
