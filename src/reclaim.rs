//! Epoch-based reclamation of chunk records: crossbeam-epoch's collector, one per store, and what is retired through it.

use crate::failpoint::{Point, reach};
use crate::id::ChunkIndex;
use crate::magazine::Magazine;
use crate::slab::Slab;
use crate::superblocks::AllocError;
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crossbeam_epoch::Guard;
use std::sync::Arc;

/// All slabs of a store and the bytes of records that wait for their last reader.
pub(crate) struct Slabs {
    slabs: Vec<Slab>,
    retired: AtomicU64,
}

impl Slabs {
    pub(crate) fn new(slabs: Vec<Slab>) -> Slabs {
        Slabs { slabs, retired: AtomicU64::new(0) }
    }

    pub(crate) fn get(&self, number: usize) -> &Slab {
        &self.slabs[number]
    }

    #[cfg(all(test, not(any(loom, shuttle))))]
    pub(crate) fn get_mut(&mut self, number: usize) -> &mut Slab {
        &mut self.slabs[number]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slab> {
        self.slabs.iter()
    }

    /// Bytes of free records in superblocks that are ours.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.slabs.iter().map(|slab| slab.free_count() * slab.record_bytes()).sum()
    }

    /// Bytes of records that are retired and not yet free.
    pub(crate) fn retired_bytes(&self) -> u64 {
        self.retired.load(Ordering::Relaxed)
    }
}

/// One call's magazines, one a slab. What is left in them goes back when this is dropped, by a panic too.
pub(crate) struct Magazines<'s> {
    slabs: &'s Slabs,
    each: Vec<Magazine>,
}

impl<'s> Magazines<'s> {
    pub(crate) fn new(slabs: &'s Slabs) -> Magazines<'s> {
        Magazines { slabs, each: slabs.iter().map(|_| Magazine::default()).collect() }
    }

    pub(crate) fn alloc(&mut self, slab: usize, guard: &Guard) -> Result<ChunkIndex, AllocError> {
        self.slabs.get(slab).alloc(&mut self.each[slab], guard)
    }

    /// The record that comes after so many others, if it is known.
    pub(crate) fn after(&self, slab: usize, others: usize) -> Option<&'s [AtomicU32]> {
        self.each[slab].after(others).map(|index| self.slabs.get(slab).record(index))
    }

    pub(crate) fn alloc_existing(&mut self, slab: usize, guard: &Guard) -> Option<ChunkIndex> {
        self.slabs.get(slab).alloc_existing(&mut self.each[slab], guard)
    }

    /// Frees a record that was never published.
    pub(crate) fn free(&mut self, slab: usize, index: ChunkIndex) {
        self.slabs.get(slab).free_into(&mut self.each[slab], index);
    }
}

impl Drop for Magazines<'_> {
    fn drop(&mut self) {
        self.slabs.iter().zip(&mut self.each).for_each(|(slab, magazine)| slab.flush(magazine));
    }
}

/// Records that one call took out of chains. When this is dropped, by a panic too, they are retired: free once nobody
/// who is pinned then can still hold one of them.
pub(crate) struct Retired<'a> {
    slabs: &'a Arc<Slabs>,
    guard: &'a Guard,
    /// The slab of each, and the record.
    chunks: Vec<(u32, ChunkIndex)>,
}

impl<'a> Retired<'a> {
    pub(crate) fn new(slabs: &'a Arc<Slabs>, guard: &'a Guard) -> Retired<'a> {
        Retired { slabs, guard, chunks: Vec::new() }
    }

    pub(crate) fn push(&mut self, slab: usize, index: ChunkIndex) {
        self.chunks.push((slab as u32, index));
    }
}

impl Drop for Retired<'_> {
    fn drop(&mut self) {
        if self.chunks.is_empty() {
            return;
        }
        let (slabs, mut chunks) = (self.slabs, std::mem::take(&mut self.chunks));
        let bytes: u64 = chunks.iter().map(|&(slab, _)| slabs.get(slab as usize).record_bytes()).sum();
        // Those of one slab together, and those that share a word of its bits.
        chunks.sort_unstable();
        slabs.retired.fetch_add(bytes, Ordering::Relaxed);
        reach(Point::RecordsRetired);
        // Weak, so that a store's memory goes with the store, not with the last thread that used it.
        let slabs = Arc::downgrade(slabs);
        // SAFETY: the closure owns what it uses, all of it Send. No chain leads to these records any more: each was
        // unlinked under its row's claim (or its row killed and taken out of the directory) before it was pushed.
        unsafe {
            self.guard.defer_unchecked(move || {
                if let Some(slabs) = slabs.upgrade() {
                    reach(Point::RecordFreeing);
                    for chunks in chunks.chunk_by(|one, next| one.0 == next.0) {
                        slabs.get(chunks[0].0 as usize).free_all(chunks.iter().map(|(_, index)| index));
                    }
                    slabs.retired.fetch_sub(bytes, Ordering::Relaxed);
                }
            });
        }
        // To where any thread can run it: a thread's own list is only emptied when it is full, and the thread may idle.
        self.guard.flush();
    }
}

/// Tells when all who were pinned at its beginning have unpinned. Whoever pins after that sees what was done before it began.
#[derive(Clone)]
pub(crate) struct Grace(Arc<AtomicBool>);

impl Grace {
    pub(crate) fn begin(guard: &Guard) -> Grace {
        let grace = Grace(Arc::new(AtomicBool::new(false)));
        let theirs = grace.clone();
        guard.defer(move || theirs.end());
        guard.flush();
        grace
    }

    /// For the collector, and for models of it.
    pub(crate) fn end(&self) {
        // Release: pairs with the Acquire in `is_over`, so that what they made is found by whoever is told that it is over.
        self.0.store(true, Ordering::Release);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

#[cfg(not(loom))]
pub(crate) use collector::Reclaimer;
#[cfg(all(fuzzing, not(loom)))]
pub use collector::Simulated;

#[cfg(not(loom))]
mod collector {
    use crate::sync::{AtomicBool, AtomicU64, Ordering, thread_local};
    use crossbeam_epoch::{Collector, Guard, LocalHandle};
    use std::cell::RefCell;
    use std::sync::{Arc, Weak};

    thread_local! {
        /// This thread's registration with each store it has used.
        static HANDLES: RefCell<Vec<(Weak<Reclaimer>, LocalHandle)>> = const { RefCell::new(Vec::new()) };
    }

    /// A simulated thread: its registrations, which take the place of this thread's own while it runs.
    #[cfg(fuzzing)]
    #[derive(Default)]
    pub struct Simulated(RefCell<Vec<(Weak<Reclaimer>, LocalHandle)>>);

    #[cfg(fuzzing)]
    impl Simulated {
        /// Whether another simulated thread may run now: not while this one is pinning itself.
        pub fn can_switch() -> bool {
            HANDLES.with(|handles| handles.try_borrow_mut().is_ok())
        }

        /// Runs something as this thread.
        pub fn run<T>(&self, operation: impl FnOnce() -> T) -> T {
            HANDLES.with(|handles| handles.swap(&self.0));
            let result = operation();
            HANDLES.with(|handles| handles.swap(&self.0));
            result
        }
    }

    /// A store's collector.
    pub(crate) struct Reclaimer {
        collector: Collector,
        /// Calls run that `collect` deferred.
        ran: Arc<AtomicU64>,
        /// The last collection could not go on.
        stuck: AtomicBool,
    }

    impl Reclaimer {
        pub(crate) fn new() -> Arc<Reclaimer> {
            Arc::new(Reclaimer { collector: Collector::new(), ran: Arc::default(), stuck: AtomicBool::new(false) })
        }

        /// Pins the calling thread: no record it finds from now on is reused until the guard is dropped.
        pub(crate) fn pin(self: &Arc<Self>) -> Guard {
            // A thread whose locals are gone already (a destructor that uses a store) registers for this one pin.
            HANDLES
                .try_with(|handles| self.pin_cached(&mut handles.borrow_mut()))
                .unwrap_or_else(|_| self.collector.register().pin())
        }

        fn pin_cached(self: &Arc<Self>, handles: &mut Vec<(Weak<Reclaimer>, LocalHandle)>) -> Guard {
            let known = handles.iter().find(|(owner, _)| std::ptr::eq(owner.as_ptr(), Arc::as_ptr(self)));
            if let Some((_, handle)) = known {
                return handle.pin();
            }
            // An address can only be reused by a new store after all Weaks of the old one are gone, so no entry lies.
            handles.retain(|(owner, _)| owner.strong_count() > 0);
            let handle = self.collector.register();
            let guard = handle.pin();
            handles.push((Arc::downgrade(self), handle));
            guard
        }

        /// Lets the epoch go on if it can.
        pub(crate) fn advance(self: &Arc<Self>) {
            self.pin().flush();
        }

        /// Runs what was deferred before this call, until nothing is outstanding or a pinned thread keeps it from going on.
        pub(crate) fn collect(self: &Arc<Self>, mut outstanding: impl FnMut() -> u64) {
            let done = Arc::new(AtomicBool::new(false));
            // Calls run in the order in which they were deferred, so this one runs after all that came before.
            let mut last = Some(Arc::clone(&done));
            // Behind a reader that stays, the calls of one collection are enough to see that it went.
            let mut stuck = self.stuck.load(Ordering::Relaxed);
            let (mut least, mut ran, mut idle) = (outstanding(), self.ran.load(Ordering::Relaxed), 0);
            // The epoch must advance twice past a retirement, and a flush advances it at most once and runs a few bags.
            // Some of these hold nothing of ours but the collector's own nodes, as many as there were bags before. So
            // each flush here puts a call of its own in its bag: progress is what is outstanding, or one of those calls.
            while idle < 8 && !done.load(Ordering::Relaxed) {
                let (now, ran_now) = (outstanding(), self.ran.load(Ordering::Relaxed));
                if now == 0 {
                    return;
                }
                idle = if now < least || ran_now != ran { 0 } else { idle + 1 };
                stuck &= idle > 0;
                (least, ran) = (least.min(now), ran_now);
                let guard = self.pin();
                if stuck {
                    guard.flush();
                    continue;
                }
                let (counter, last) = (Arc::clone(&self.ran), last.take());
                guard.defer(move || {
                    counter.fetch_add(1, Ordering::Relaxed);
                    if let Some(done) = last {
                        done.store(true, Ordering::Relaxed);
                    }
                });
                guard.flush();
            }
            self.stuck.store(idle == 8, Ordering::Relaxed);
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    /// The collector's own nodes fill bags, too: one for every eight bags that a flush ran.
    #[test]
    fn what_was_retired_after_a_long_pin_comes_back_with_one_collect() {
        let reclaimer = Reclaimer::new();
        let outstanding = Arc::new(AtomicU64::new(0));
        let retire = |count: u64| {
            for _ in 0..count {
                outstanding.fetch_add(1, Ordering::Relaxed);
                let (guard, outstanding) = (reclaimer.pin(), Arc::clone(&outstanding));
                guard.defer(move || outstanding.fetch_sub(1, Ordering::Relaxed));
                guard.flush();
            }
        };
        let left = || outstanding.load(Ordering::Relaxed);
        let pinned = reclaimer.pin();
        retire(5000);
        reclaimer.collect(left);
        assert_eq!(left(), 5000, "reused behind a pin");
        drop(pinned);
        reclaimer.collect(left);
        assert_eq!(left(), 0);
        retire(30);
        reclaimer.collect(left);
        assert_eq!(left(), 0);
    }
}
