//! Hash of a key to the row's head chunk: the virtual-hash to physical-index indirection of one table.
//!
//! ```text
//! root, 64 slots ──► node, 16 slots ──► node                      chosen by 6 bits of the tag, then by 4 each
//!        │                      │
//!        └─► segment ◄──────────┘  prefix of d bits; found from all slots that begin with it
//!              └─► buckets of 8 row words, one cache line each: [tag 32 | frozen 1 | head index 31]
//! ```
//!
//! A segment that is full, or mostly tombstones, is replaced by a copy of the right size, or by two halves. Whoever
//! needs it does it: freeze every word, build the copy, publish it with one compare-and-swap as the old segment's
//! `replacement`. From then on every thread that comes to the old one goes on to the new one, so the slots above may be
//! brought up to date at leisure ([`Directory::settle`]). Only segments are copied, never the whole directory: the
//! longest pause is one segment of at most a few KiB, and two copies of more than that never exist.
//!
//! The directory knows nothing of rows: a caller's closure says whether the row at an index has the key it means.

mod allocation;
pub(crate) mod bucket;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod near;
pub(crate) mod segment;
mod shape;

use crate::budget::{Budget, OverBudget};
use crate::failpoint::{Point, reach};
use crate::id::ChunkIndex;
use crate::sync::{Atomic, AtomicU64, Ordering, spin_wait};
use bucket::{TOMBSTONE, row_word};
use crossbeam_epoch::{Guard, Pointer, Shared};
pub(crate) use near::{AtHome, Near, Way};
use segment::{Exchange, Find, Insert, MAX_DEPTH, Segment};
pub(crate) use shape::{Misshapen, Shape};
use std::sync::Arc;

/// Bits of the tag that the root consumes, and each level of nodes below. A new node leads to two segments only, so
/// that its size counts: with nodes as large as the root all tables that have just come to one more level would have a
/// byte a row more.
#[cfg(not(any(loom, shuttle, fuzzing)))]
const ROOT_BITS: u32 = 6;
#[cfg(not(any(loom, shuttle, fuzzing)))]
const NODE_BITS: u32 = 4;
#[cfg(fuzzing)]
const ROOT_BITS: u32 = 2;
#[cfg(fuzzing)]
const NODE_BITS: u32 = 2;
#[cfg(any(loom, shuttle))]
const ROOT_BITS: u32 = 1;
#[cfg(any(loom, shuttle))]
const NODE_BITS: u32 = 1;
/// Pointer tag of a slot that leads to a node rather than to a segment.
const NODE: usize = 1;

/// A caller's verdict on the row at an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probe {
    Found,
    /// Another key's row.
    Other,
    /// A row that was this key's and has gone from that index: evicted, or moved.
    Gone,
}

/// What [`Directory::insert`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inserted {
    Done,
    Exists(ChunkIndex),
}

type Slot = Atomic<Segment>;

const ROOT_BYTES: u64 = size_of::<[Slot; 1 << ROOT_BITS]>() as u64;
const NODE_BYTES: u64 = size_of::<Node>() as u64;
/// Levels of nodes there can be.
const LEVELS: u64 = MAX_DEPTH.div_ceil(NODE_BITS) as u64;

struct Node {
    slots: [Slot; 1 << NODE_BITS],
}

// A slot's pointer is to a `Segment`, or, with the bit `NODE`, to a `Node`: both must leave that bit free.
const _: () = assert!(align_of::<Node>() > NODE && allocation::ALIGN > NODE);

impl Node {
    /// The slot that leads on to `tag`, of a node that `bits` bits have led to; and to so many more.
    #[inline]
    fn slot(&self, tag: u32, bits: &mut u32) -> &Slot {
        *bits += NODE_BITS;
        &self.slots[(tag >> (32 - *bits)) as usize % (1 << NODE_BITS)]
    }
}

/// The node that a slot leads to, if what it holds is one.
#[inline]
fn node_of<'d>(_slot: &'d Slot, there: Shared<'_, Segment>) -> Option<&'d Node> {
    if there.tag() & NODE == 0 {
        return None;
    }
    let node = std::ptr::with_exposed_provenance::<Node>(there.into_usize() & !NODE);
    // SAFETY: marked `NODE`, so a node. Said so that what is asked of a slot is its tag alone.
    unsafe { std::hint::assert_unchecked(!node.is_null()) };
    // SAFETY: nodes live as long as the directory, and so as the slot that leads to them.
    Some(unsafe { &*node })
}

/// What a slot holds that leads to a node.
fn pointer_to<'g>(node: *mut Node) -> Shared<'g, Segment> {
    // SAFETY: a pointer with the bit `NODE` is never taken for a segment's, and only compared and copied.
    unsafe { Shared::from_usize(node.expose_provenance() | NODE) }
}

/// One table's directory.
pub(crate) struct Directory {
    root: Box<[Slot; 1 << ROOT_BITS]>,
    budget: Arc<Budget>,
    /// Heap bytes of nodes and segments.
    bytes: AtomicU64,
}

/// A slot that leads to a tag's segment, and the number of tag bits that lead to the slot.
struct Place<'d, 'g> {
    slot: &'d Slot,
    /// What the slot held: a segment. It may hold a node a moment later, so this is what to go on from.
    there: Shared<'g, Segment>,
    bits: u32,
}

impl Directory {
    /// Bytes of an empty directory.
    pub(crate) const EMPTY_BYTES: u64 = ROOT_BYTES + Segment::EMPTY_BYTES;

    /// An empty directory; [`EMPTY_BYTES`](Self::EMPTY_BYTES) of the budget.
    pub(crate) fn new(budget: Arc<Budget>) -> Result<Directory, OverBudget> {
        let segment = Segment::new(0, 0, &[]);
        let bytes = ROOT_BYTES + segment.bytes();
        budget.reserve(bytes)?;
        // SAFETY: nothing is shared yet.
        let guard = unsafe { crossbeam_epoch::unprotected() };
        let segment = segment.into_shared(guard);
        let root = Box::new(std::array::from_fn(|_| Atomic::from(segment)));
        Ok(Directory { root, budget, bytes: AtomicU64::new(bytes) })
    }

    /// Bytes this directory holds of the budget.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    #[inline]
    fn place<'g>(&self, tag: u32, guard: &'g Guard) -> Place<'_, 'g> {
        let mut slot = &self.root[(tag >> (32 - ROOT_BITS)) as usize];
        let mut bits = ROOT_BITS;
        loop {
            // Acquire: pairs with the Release in `advance` and in `deepen`.
            let there = slot.load(Ordering::Acquire, guard);
            let Some(node) = node_of(slot, there) else { return Place { slot, there, bits } };
            slot = node.slot(tag, &mut bits);
        }
    }

    /// The segment that has the words of `tag` now.
    #[inline]
    fn segment<'g>(&self, tag: u32, guard: &'g Guard) -> &'g Segment {
        // SAFETY: a slot's segment is retired only after all its slots were moved on, and we hold a guard.
        unsafe { self.place(tag, guard).there.deref() }.newest(tag, guard)
    }

    /// The row of this tag that `probe` accepts.
    #[inline]
    pub(crate) fn find(
        &self,
        tag: u32,
        guard: &Guard,
        mut probe: impl FnMut(ChunkIndex) -> Probe,
    ) -> Option<ChunkIndex> {
        loop {
            let segment = self.segment(tag, guard);
            match segment.find(tag, &mut probe) {
                Find::Found(index) => return Some(index),
                // Moved after the freeze, so the replacement was there before; without one it was evicted.
                Find::PerhapsMoved if segment.replacement(tag, guard).is_some() => {}
                Find::Missing | Find::PerhapsMoved => return None,
            }
        }
    }

    /// Enters a row, unless `probe` accepts one that is there already.
    pub(crate) fn insert(
        &self,
        tag: u32,
        index: ChunkIndex,
        guard: &Guard,
        mut probe: impl FnMut(ChunkIndex) -> Probe,
    ) -> Result<Inserted, OverBudget> {
        loop {
            let segment = self.segment(tag, guard);
            match segment.insert(row_word(tag, index), &mut probe) {
                Insert::Done => return Ok(Inserted::Done),
                Insert::Exists(index) => return Ok(Inserted::Exists(index)),
                Insert::Replace => self.replace(segment, guard)?,
            }
        }
    }

    /// Takes a row's word out. Returns false if it was not there.
    pub(crate) fn remove(&self, tag: u32, index: ChunkIndex, guard: &Guard) -> bool {
        self.exchange(tag, row_word(tag, index), TOMBSTONE, guard)
    }

    /// Lets a row's word name another head. Returns false if the word was not there.
    pub(crate) fn relocate(&self, tag: u32, from: ChunkIndex, to: ChunkIndex, guard: &Guard) -> bool {
        self.exchange(tag, row_word(tag, from), row_word(tag, to), guard)
    }

    fn exchange(&self, tag: u32, from: u64, to: u64, guard: &Guard) -> bool {
        let mut attempt = 0;
        loop {
            let segment = self.segment(tag, guard);
            match segment.replace_word(from, to) {
                Exchange::Done => return true,
                Exchange::Missing => return false,
                // Someone has frozen the segment, having reserved room for its copy. We may help only within the
                // budget; without room the copy is on its way all the same.
                Exchange::Frozen if self.replace(segment, guard).is_err() => spin_wait(attempt),
                Exchange::Frozen => {}
            }
            attempt += 1;
        }
    }

    /// Replaces a segment and brings the slots up to date. What that can take is reserved before anything is frozen, so
    /// that a refusal changes nothing and a segment once frozen is replaced.
    fn replace(&self, segment: &Segment, guard: &Guard) -> Result<(), OverBudget> {
        if segment.replacement(segment.begin(), guard).is_some() {
            return Ok(());
        }
        let reserved = segment.successor_bytes_max() + LEVELS * NODE_BYTES;
        self.budget.reserve_urgent(reserved)?;
        reach(Point::SuccessorReserved);
        let mut used = 0;
        if let Some(bytes) = segment.replace(guard) {
            used += bytes;
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
            reach(Point::SegmentReplaced);
            self.settle(segment, &mut used, guard);
        }
        debug_assert!(used <= reserved, "{used} bytes used of {reserved}");
        self.budget.release(reserved - used);
        Ok(())
    }

    /// Moves every slot of a replaced segment past it, then retires it.
    ///
    /// A slot only ever moves forward along `replacement`, by compare-and-swap from what it held. So once each slot has
    /// been seen to hold neither this segment nor one that it replaced, no slot will hold it again, and nobody who pins
    /// from then on can come to it.
    ///
    /// The way to the upper half of a split goes through the lower half. So before a lower half is retired, the slots of
    /// the upper half must have left what was split, whose own thread may not have come to them yet.
    fn settle(&self, segment: &Segment, used: &mut u64, guard: &Guard) {
        let end = u64::from(segment.begin()) + (1u64 << (32 - segment.reach(guard)));
        let mut tag = segment.begin();
        loop {
            let place = self.place(tag, guard);
            // SAFETY: as in `segment`.
            let occupant = unsafe { place.there.deref() };
            // What is deeper came after this segment; moving on from it is the business of the thread that replaced it,
            // which has reserved the bytes that may take.
            // That goes for all of the upper half as well.
            let before = occupant.depth() < segment.depth();
            let ours = occupant.depth() == segment.depth() && segment.end().is_none_or(|end| tag < end);
            if (before || ours) && occupant.replacement(tag, guard).is_some() {
                self.advance(&place, tag, used, guard);
                continue;
            }
            reach(Point::SlotSettled);
            // On to the next slot that can lead here.
            let step = 1u64 << (32 - place.bits);
            let next = u64::from(tag & !((step - 1) as u32)) + step;
            if next >= end {
                break;
            }
            tag = next as u32;
        }
        reach(Point::SegmentUnlinked);
        let (budget, bytes) = (Arc::clone(&self.budget), segment.bytes());
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.budget.retire(bytes);
        let retired = RetiredSegment { address: allocation::address(segment), bytes, budget };
        // SAFETY: what the closure owns may be dropped on any thread, and later than this call: a segment is plain words,
        // and no slot leads to it any more.
        unsafe { guard.defer_unchecked(move || drop(retired)) };
        // To where any thread can run it: a thread's own list is only emptied when it is full, and the thread may idle.
        guard.flush();
    }

    /// Moves one slot on from a replaced segment: to its successor, or to a new node where the successors need one.
    fn advance<'g>(&self, place: &Place<'_, 'g>, tag: u32, used: &mut u64, guard: &'g Guard) {
        let from = place.there;
        // SAFETY: as in `segment`.
        let mut newest = unsafe { from.deref() };
        let mut pointer = from;
        while let Some(newer) = newest.replacement(tag, guard) {
            // SAFETY: as in `Segment::replacement`.
            let segment = unsafe { newer.deref() };
            if segment.depth() > place.bits {
                // A node only when the slot can go no further without one, so that a call makes one at most.
                if pointer == from {
                    return self.deepen(place, newest, used, guard);
                }
                break;
            }
            (newest, pointer) = (segment, newer);
        }
        reach(Point::SlotAdvancing);
        // Release: hands on what the replacement published. Pairs with the Acquire in `place`, by which `from` was read
        // too. A failure means another thread has moved the slot on.
        let _ = place.slot.compare_exchange(from, pointer, Ordering::Release, Ordering::Relaxed, guard);
    }

    /// Puts a node where one slot cannot tell the two halves of `split` apart.
    fn deepen(&self, place: &Place<'_, '_>, split: &Segment, used: &mut u64, guard: &Guard) {
        let half = |slot: usize| {
            let tag = split.begin() | (slot as u32) << (32 - place.bits - NODE_BITS);
            Atomic::from(split.replacement(tag, guard).unwrap_or(Shared::null()))
        };
        let node = Box::into_raw(Box::new(Node { slots: std::array::from_fn(half) }));
        reach(Point::SlotDeepening);
        // Release: publishes the node. Pairs with the Acquire in `place`.
        if place
            .slot
            .compare_exchange(place.there, pointer_to(node), Ordering::Release, Ordering::Relaxed, guard)
            .is_ok()
        {
            *used += NODE_BYTES;
            self.bytes.fetch_add(NODE_BYTES, Ordering::Relaxed);
        } else {
            // SAFETY: made above by `Box::into_raw` and not published.
            drop(unsafe { Box::from_raw(node) });
        }
    }

    /// Calls `visit` with the rows of the segment that has `tag`, and returns where the next segment begins (`None`
    /// after the last). Begin with 0. A row that is there throughout a walk is seen; one that comes or goes may be.
    pub(crate) fn walk(&self, tag: u32, guard: &Guard, mut visit: impl FnMut(u32, ChunkIndex)) -> Option<u32> {
        let segment = self.segment(tag, guard);
        segment.words().for_each(|(tag, index)| visit(tag, index));
        segment.end()
    }

    /// Like [`walk`](Self::walk), but of every `stride`-th bucket, counted on in `position` from segment to segment.
    pub(crate) fn sample(
        &self,
        tag: u32,
        stride: u64,
        position: &mut u64,
        guard: &Guard,
        mut visit: impl FnMut(u32, ChunkIndex),
    ) -> Option<u32> {
        let segment = self.segment(tag, guard);
        let skipped = (stride - *position % stride) % stride;
        segment.words_of(skipped as usize, stride as usize).for_each(|(tag, index)| visit(tag, index));
        *position += segment.buckets();
        segment.end()
    }

    /// Like [`sample`](Self::sample), but of the rows that belong into those buckets: which these are does not depend on
    /// the order in which rows came.
    pub(crate) fn sample_homes(
        &self,
        tag: u32,
        stride: u64,
        position: &mut u64,
        guard: &Guard,
        mut visit: impl FnMut(u32, ChunkIndex),
    ) -> Option<u32> {
        let segment = self.segment(tag, guard);
        let skipped = (stride - *position % stride) % stride;
        segment.words_at_home(skipped as usize, stride as usize).for_each(|(tag, index)| visit(tag, index));
        *position += segment.buckets();
        segment.end()
    }

    /// Where in memory the segment that has `tag` lies, its bytes, and where the next segment begins.
    #[cfg(not(any(loom, shuttle, fuzzing)))]
    pub(crate) fn memory_of(&self, tag: u32, guard: &Guard) -> (usize, u64, Option<u32>) {
        let segment = self.segment(tag, guard);
        (allocation::address(segment), segment.bytes(), segment.end())
    }

    /// Where the segment that has `tag` begins. Segments only split, so one begins there from now on.
    pub(crate) fn begin(&self, tag: u32, guard: &Guard) -> u32 {
        self.segment(tag, guard).begin()
    }

    /// Where the segment after the one that has `tag` begins.
    pub(crate) fn after(&self, tag: u32, guard: &Guard) -> Option<u32> {
        self.segment(tag, guard).end()
    }

    /// Rebuilds the segment that has `tag` if it is mostly empty.
    pub(crate) fn tidy(&self, tag: u32, guard: &Guard) -> Result<(), OverBudget> {
        let segment = self.segment(tag, guard);
        if segment.is_sparse() { self.replace(segment, guard) } else { Ok(()) }
    }
}

/// A segment that waits for its last reader. When it is dropped, first the segment goes, then its bytes are released.
struct RetiredSegment {
    address: usize,
    bytes: u64,
    budget: Arc<Budget>,
}

impl Drop for RetiredSegment {
    fn drop(&mut self) {
        // SAFETY: only the one thread that published a segment's replacement retires it, once, after every slot was moved
        // past it; this runs after the grace period, so nobody can still hold it.
        unsafe { allocation::free(self.address) };
        reach(Point::SegmentFreed);
        self.budget.release_retired(self.bytes);
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // SAFETY: `&mut self`: no other thread uses the directory.
        let guard = unsafe { crossbeam_epoch::unprotected() };
        let mut nodes: Vec<*mut Node> = Vec::new();
        let mut segments: Vec<usize> = Vec::new();
        let mut pending: Vec<&[Slot]> = vec![&*self.root];
        while let Some(slots) = pending.pop() {
            for slot in slots {
                let there = slot.load(Ordering::Relaxed, guard);
                if let Some(node) = node_of(slot, there) {
                    nodes.push(std::ptr::with_exposed_provenance_mut(there.into_usize() & !NODE));
                    pending.push(&node.slots);
                } else if segments.last() != Some(&there.into_usize()) {
                    segments.push(there.into_usize());
                }
            }
        }
        segments.sort_unstable();
        segments.dedup();
        for segment in segments {
            // SAFETY: reachable once (deduplicated: a segment's pointers are all tagged alike), and nobody else can reach it.
            unsafe { allocation::free(segment) };
        }
        for node in nodes {
            // SAFETY: as for the segments; nodes are reachable from one slot each.
            drop(unsafe { Box::from_raw(node) });
        }
        self.budget.release(self.bytes());
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
