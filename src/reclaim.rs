//! Epoch-based reclamation of chunk records: crossbeam-epoch's collector, one per store, and what is retired through it.

use crate::id::ChunkIndex;
use crate::slab::Slab;
use crate::sync::{AtomicU64, Ordering};
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

/// Records that one call took out of chains. Dropping it without [`retire`](Self::retire) would leak them.
#[derive(Default)]
#[must_use]
pub(crate) struct Retired {
    chunks: Vec<(u32, ChunkIndex)>,
}

impl Retired {
    pub(crate) fn push(&mut self, slab: usize, index: ChunkIndex) {
        self.chunks.push((slab as u32, index));
    }

    /// Frees the records once nobody who is pinned now can still hold one of them.
    pub(crate) fn retire(self, slabs: &Arc<Slabs>, guard: &Guard) {
        if self.chunks.is_empty() {
            return;
        }
        let bytes: u64 = self.chunks.iter().map(|&(slab, _)| slabs.get(slab as usize).record_bytes()).sum();
        slabs.retired.fetch_add(bytes, Ordering::Relaxed);
        // Weak, so that a store's memory goes with the store, not with the last thread that used it.
        let slabs = Arc::downgrade(slabs);
        // SAFETY: the closure owns what it uses, all of it Send. No chain leads to these records any more: each was
        // unlinked under its row's claim (or its row killed and taken out of the directory) before it was pushed.
        unsafe {
            guard.defer_unchecked(move || {
                if let Some(slabs) = slabs.upgrade() {
                    for (slab, index) in self.chunks {
                        slabs.get(slab as usize).free(index);
                    }
                    slabs.retired.fetch_sub(bytes, Ordering::Relaxed);
                }
            });
        }
        // To where any thread can run it: a thread's own list is only emptied when it is full, and the thread may idle.
        guard.flush();
    }
}

#[cfg(not(loom))]
pub(crate) use collector::Reclaimer;

#[cfg(not(loom))]
mod collector {
    use crossbeam_epoch::{Collector, Guard, LocalHandle};
    use std::cell::RefCell;
    use std::sync::{Arc, Weak};

    thread_local! {
        /// This thread's registration with each store it has used.
        static HANDLES: RefCell<Vec<(Weak<Reclaimer>, LocalHandle)>> = const { RefCell::new(Vec::new()) };
    }

    /// A store's collector.
    pub(crate) struct Reclaimer {
        collector: Collector,
    }

    impl Reclaimer {
        pub(crate) fn new() -> Arc<Reclaimer> {
            Arc::new(Reclaimer { collector: Collector::new() })
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

        /// Runs what is due until `done`, or until a pinned thread keeps it from going on.
        pub(crate) fn collect(self: &Arc<Self>, mut outstanding: impl FnMut() -> u64) {
            let (mut least, mut idle) = (u64::MAX, 0);
            // The epoch must advance twice past a retirement, and a flush advances it at most once and runs a few bags.
            while idle < 8 {
                let now = outstanding();
                if now == 0 {
                    return;
                }
                idle = if now < least { 0 } else { idle + 1 };
                least = least.min(now);
                self.pin().flush();
            }
        }
    }
}
