//! What `benches/allocator.rs` needs beyond the public API: one slab with its magazines and its collector, as a store
//! uses them. Not a part of the crate's interface.

use crate::budget::Budget;
use crate::id::ChunkIndex;
use crate::magazine::Magazine;
use crate::reclaim::{Reclaimer, Retired, Slabs};
use crate::slab::Slab;
use crate::superblocks::Superblocks;
use crate::sync::Ordering;
use crossbeam_epoch::Guard;
use std::io;
use std::sync::Arc;

/// Bytes of a superblock in stores of 1 GiB and more.
const SUPERBLOCK_BYTES: usize = 2 << 20;

/// A slab of records of one size.
pub struct Pool {
    slabs: Arc<Slabs>,
    superblocks: Arc<Superblocks>,
    reclaimer: Arc<Reclaimer>,
}

impl Pool {
    /// A slab of records of `record_bytes`, in at most `superblocks` superblocks.
    ///
    /// # Errors
    ///
    /// If the address range cannot be had.
    pub fn new(record_bytes: usize, superblocks: u32) -> io::Result<Pool> {
        let budget = Arc::new(Budget::new(u64::MAX / 2));
        let superblocks = Arc::new(Superblocks::new(superblocks, SUPERBLOCK_BYTES, budget)?);
        let slab = Slab::new(0, record_bytes / 4, Arc::clone(&superblocks));
        Ok(Pool { slabs: Arc::new(Slabs::new(vec![slab])), superblocks, reclaimer: Reclaimer::new() })
    }

    /// Bytes of the superblocks that are in use, and of what is kept beside them.
    pub fn held_bytes(&self) -> u64 {
        let superblocks = (self.superblocks.reserved_bytes() / self.superblocks.bytes_each()) as u32;
        self.superblocks.committed_bytes() + Superblocks::metadata_bytes(superblocks, 1)
    }

    /// One call of a store: pinned, with a magazine that is given back when it ends.
    pub fn call(&self) -> Call<'_> {
        Call { guard: self.reclaimer.pin(), magazine: Magazine::default(), slabs: &self.slabs }
    }

    /// Frees all records that were retired.
    pub fn collect(&self) {
        self.reclaimer.collect(|| self.slabs.retired_bytes());
    }
}

/// What one call has in its hands.
pub struct Call<'p> {
    slabs: &'p Arc<Slabs>,
    magazine: Magazine,
    guard: Guard,
}

impl Call<'_> {
    /// Takes a record and writes its first word. `None`: no room.
    #[inline]
    pub fn alloc(&mut self, stamp: u32) -> Option<u32> {
        let slab = self.slabs.get(0);
        let index = slab.alloc(&mut self.magazine, &self.guard).ok()?;
        slab.record(index)[0].store(stamp, Ordering::Relaxed);
        Some(index.raw())
    }

    /// Frees a record that was never published.
    #[inline]
    pub fn free(&mut self, record: u32) {
        if let Some(index) = ChunkIndex::from_raw(record) {
            self.slabs.get(0).free_into(&mut self.magazine, index);
        }
    }

    /// Retires records that others may still look at: free after a grace period.
    pub fn retire(&self, records: &[u32]) {
        let mut retired = Retired::new(self.slabs, &self.guard);
        records.iter().filter_map(|&record| ChunkIndex::from_raw(record)).for_each(|index| retired.push(0, index));
    }

    /// Lets go of what was found under the pin so far; the magazine stays.
    pub fn repin(&mut self) {
        self.guard.repin();
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.slabs.get(0).flush(&mut self.magazine);
    }
}
