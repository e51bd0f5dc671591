//! All superblocks of a store: which slab has each, and which are vacant.
//!
//! ```text
//! vacant or kept ── acquire ──► a slab's ── mark RETIRED, retire, grace period ──► vacant or kept
//! ```
//!
//! A superblock's bytes are held from [`acquire`](Superblocks::acquire) until the system has taken its memory back. Where
//! it does not, the superblock is *kept*: as good as vacant, but its bytes stay held, and it is had again first.

use crate::budget::{Budget, OverBudget};
use crate::failpoint::{Point, reach};
use crate::region::{FIRST_SUPERBLOCK, Region};
#[cfg(not(any(loom, shuttle, fuzzing)))]
use crate::region::{HUGE_PAGE, page_bytes};
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::watch;
use crossbeam_epoch::Guard;
use std::io;
use std::sync::Arc;

/// Marks, in a superblock's owner word, that it is being emptied: freed slots are not lent again.
pub(crate) const EVACUATING: u32 = 1 << 31;
/// Marks a superblock whose slots were all taken to give it back: it is no slab's any more.
pub(crate) const RETIRED: u32 = 1 << 30;
/// Marks a superblock that was moved to a huge page.
const IN_HUGE_PAGE: u32 = 1 << 29;

/// Why no chunk could be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AllocError {
    OverBudget(OverBudget),
    /// All indices of this slab, or all superblocks of the region, are taken.
    IndexSpace,
}

/// All superblocks of a store, whichever slab has them now.
pub(crate) struct Superblocks {
    region: Region,
    budget: Arc<Budget>,
    /// Slab number + 1 of the slab that has the superblock, 0 for none; [`EVACUATING`], [`RETIRED`] and [`IN_HUGE_PAGE`] above.
    owner: Box<[AtomicU32]>,
    vacant: Box<[AtomicU64]>,
    /// As good as vacant, but the system did not take the memory back, so its bytes are still held: had first.
    kept: Box<[AtomicU64]>,
    committed: AtomicU64,
    /// How often one was acquired.
    taken: AtomicU64,
}

/// Clears the lowest set bit below `limit` and returns its number.
fn take_lowest(words: &[AtomicU64], limit: u32) -> Option<u32> {
    for (position, word) in words.iter().enumerate() {
        let mut bits = word.load(Ordering::Relaxed);
        while bits != 0 {
            let index = position as u32 * 64 + bits.trailing_zeros();
            if index >= limit {
                return None;
            }
            let bit = 1 << (index % 64);
            // Acquire: pairs with the Release in `give_back`, so the decommit is over before we write here.
            if word.fetch_and(!bit, Ordering::Acquire) & bit != 0 {
                return Some(index);
            }
            bits = word.load(Ordering::Relaxed);
        }
    }
    None
}

/// `bits` zeroed bits, in words.
pub(crate) fn zeroed_bits(bits: u32) -> Box<[AtomicU64]> {
    (0..bits.div_ceil(64)).map(|_| AtomicU64::new(0)).collect()
}

impl Superblocks {
    pub(crate) fn new(superblocks: u32, superblock_bytes: usize, budget: Arc<Budget>) -> io::Result<Superblocks> {
        let region = Region::reserve(superblocks + FIRST_SUPERBLOCK, superblock_bytes)?;
        let vacant = zeroed_bits(region.superblocks());
        for index in FIRST_SUPERBLOCK..region.superblocks() {
            vacant[index as usize / 64].fetch_or(1 << (index % 64), Ordering::Relaxed);
        }
        let kept = zeroed_bits(region.superblocks());
        let owner = (0..region.superblocks()).map(|_| AtomicU32::new(0)).collect();
        Ok(Superblocks { region, budget, owner, vacant, kept, committed: AtomicU64::new(0), taken: AtomicU64::new(0) })
    }

    /// Asks the system to have each superblock, of [`HUGE_PAGE`](crate::region::HUGE_PAGE) bytes, in a huge page.
    #[cfg(not(any(loom, shuttle, fuzzing)))]
    pub(crate) fn ask_for_huge_pages(&self) -> io::Result<()> {
        self.region.ask_for_huge_pages()
    }

    /// Whether superblocks are as large as a huge page.
    #[cfg(not(any(loom, shuttle, fuzzing)))]
    pub(crate) fn can_be_moved(&self) -> bool {
        self.bytes_each() == HUGE_PAGE && page_bytes() == 4096
    }

    /// Moves a superblock to a huge page, if a slab has it, all of its memory is in use already, so that it takes no more of
    /// it then, and it has not been moved. Returns whether it was. The guard keeps it from being given back meanwhile.
    #[cfg(not(any(loom, shuttle, fuzzing)))]
    pub(crate) fn move_to_huge_page(&self, superblock: u32, _guard: &Guard) -> io::Result<bool> {
        let owner = self.owner[superblock as usize].load(Ordering::Relaxed);
        if owner == 0 || owner & (RETIRED | IN_HUGE_PAGE) != 0 || !self.region.collapse(superblock)? {
            return Ok(false);
        }
        self.mark(superblock, IN_HUGE_PAGE);
        Ok(true)
    }

    /// How often a superblock was acquired.
    #[cfg(not(any(loom, shuttle, fuzzing)))]
    #[inline]
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Numbers of superblocks.
    #[cfg(not(any(loom, shuttle, fuzzing)))]
    pub(crate) fn numbers(&self) -> std::ops::Range<u32> {
        FIRST_SUPERBLOCK..self.end()
    }

    /// Bytes of superblocks that were moved to huge pages.
    pub(crate) fn moved_bytes(&self) -> u64 {
        let moved = |owner: &&AtomicU32| owner.load(Ordering::Relaxed) & IN_HUGE_PAGE != 0;
        self.owner.iter().filter(moved).count() as u64 * self.bytes_each()
    }

    /// Heap bytes of this structure and of one slab's `available` bits, for `superblocks` superblocks.
    pub(crate) fn metadata_bytes(superblocks: u32, slabs: usize) -> u64 {
        u64::from(superblocks) * 4 + u64::from(superblocks.div_ceil(64)) * 8 * (2 + slabs as u64)
    }

    /// Numbers of superblocks are below this one.
    pub(crate) fn end(&self) -> u32 {
        self.region.superblocks()
    }

    /// The words of one superblock.
    pub(crate) fn words(&self, superblock: u32) -> &[AtomicU32] {
        self.region.superblock(superblock)
    }

    /// The `len` words that start at word `offset` of a superblock.
    #[inline]
    pub(crate) fn record(&self, superblock: u32, offset: usize, len: usize) -> &[AtomicU32] {
        self.region.record(superblock, offset, len)
    }

    /// The words of all superblocks, and how many one has.
    #[inline]
    pub(crate) fn all_words(&self) -> (&[AtomicU32], usize) {
        (self.region.words(), self.region.superblock_words())
    }

    /// A superblock's owner word, but for its kind of pages.
    #[inline]
    pub(crate) fn owner(&self, superblock: u32) -> u32 {
        self.owner[superblock as usize].load(Ordering::Relaxed) & !IN_HUGE_PAGE
    }

    /// Sets a mark in a superblock's owner word.
    pub(crate) fn mark(&self, superblock: u32, mark: u32) {
        self.owner[superblock as usize].fetch_or(mark, Ordering::Relaxed);
    }

    /// Clears a mark in a superblock's owner word.
    pub(crate) fn unmark(&self, superblock: u32, mark: u32) {
        self.owner[superblock as usize].fetch_and(!mark, Ordering::Relaxed);
    }

    /// Bytes of address space.
    pub(crate) fn reserved_bytes(&self) -> u64 {
        u64::from(self.region.superblocks()) * self.region.superblock_bytes()
    }

    /// Bytes of one superblock.
    pub(crate) fn bytes_each(&self) -> u64 {
        self.region.superblock_bytes()
    }

    pub(crate) fn committed_bytes(&self) -> u64 {
        self.committed.load(Ordering::Relaxed) * self.region.superblock_bytes()
    }

    /// Bytes of superblocks that nobody has and the system did not take back.
    pub(crate) fn kept_bytes(&self) -> u64 {
        let kept: u64 = self.kept.iter().map(|bits| u64::from(bits.load(Ordering::Relaxed).count_ones())).sum();
        kept * self.region.superblock_bytes()
    }

    /// Bytes of the committed superblocks that are in memory now, and of those that the system did not take back. One that
    /// waits for its grace period is not among them.
    #[cfg(not(loom))]
    pub(crate) fn resident_bytes(&self) -> io::Result<u64> {
        let mut bytes = 0;
        for (index, owner) in self.owner.iter().enumerate() {
            let kept = self.kept[index / 64].load(Ordering::Relaxed) >> (index % 64) & 1 == 1;
            let owner = owner.load(Ordering::Relaxed);
            if kept || owner != 0 && owner & RETIRED == 0 {
                bytes += self.region.resident_bytes(index as u32)?;
            }
        }
        Ok(bytes)
    }

    /// Takes the lowest vacant superblock below `limit` and reserves its bytes.
    pub(crate) fn acquire(&self, slab: u32, limit: u32) -> Result<u32, AllocError> {
        let index = match take_lowest(&self.kept, limit) {
            Some(index) => index,
            None => self.acquire_vacant(limit)?,
        };
        reach(Point::SuperblockTaken);
        // Before the owner is set: from then on a late `offer` may lead a thread to its bits.
        watch::acquired(self.region.superblock(index));
        self.owner[index as usize].store(slab + 1, Ordering::Relaxed);
        self.taken.fetch_add(1, Ordering::Relaxed);
        Ok(index)
    }

    fn acquire_vacant(&self, limit: u32) -> Result<u32, AllocError> {
        self.budget.reserve(self.region.superblock_bytes()).map_err(AllocError::OverBudget)?;
        reach(Point::SuperblockReserved);
        let Some(index) = take_lowest(&self.vacant, limit) else {
            self.budget.release(self.region.superblock_bytes());
            return Err(AllocError::IndexSpace);
        };
        self.committed.fetch_add(1, Ordering::Relaxed);
        Ok(index)
    }

    /// Gives back, after a grace period, a superblock that its slab has marked [`RETIRED`].
    pub(crate) fn retire(self: &Arc<Self>, superblock: u32, guard: &Guard) {
        self.committed.fetch_sub(1, Ordering::Relaxed);
        self.budget.retire(self.region.superblock_bytes());
        reach(Point::SuperblockRetired);
        // Weak, so that a store's memory goes with the store, not with the last thread that used it.
        let superblocks = Arc::downgrade(self);
        // SAFETY: the closure owns what it uses, and may run on any thread: `Superblocks` is Send + Sync.
        unsafe {
            guard.defer_unchecked(move || {
                if let Some(superblocks) = superblocks.upgrade() {
                    superblocks.give_back(superblock);
                }
            });
        }
        // To where any thread can run it, so that a round that collects has these bytes back when it ends.
        guard.flush();
    }

    /// Returns a superblock nobody can refer to any more. Its bytes leave the budget only if the system took them.
    fn give_back(&self, index: u32) {
        self.owner[index as usize].store(0, Ordering::Relaxed);
        watch::given_back(self.region.superblock(index));
        if self.region.decommit(index).is_err() {
            // The memory stays resident (locked pages do), so it stays counted. It has to read as zero all the same:
            // where this slab has a record the next one may have free bits, and a late `offer` may lead a thread to them
            // before `commit` has stored them.
            watch::acquired(self.region.superblock(index));
            for word in self.region.superblock(index) {
                word.store(0, Ordering::Relaxed);
            }
            watch::given_back(self.region.superblock(index));
            self.committed.fetch_add(1, Ordering::Relaxed);
            self.budget.keep_retired(self.region.superblock_bytes());
            // Release: pairs with the Acquire in `take_lowest`.
            self.kept[index as usize / 64].fetch_or(1 << (index % 64), Ordering::Release);
            return;
        }
        reach(Point::Decommitted);
        // Release: pairs with the Acquire in `take_lowest`.
        self.vacant[index as usize / 64].fetch_or(1 << (index % 64), Ordering::Release);
        reach(Point::SuperblockVacant);
        // Last, so that whoever gets the bytes finds a superblock for them.
        self.budget.release_retired(self.region.superblock_bytes());
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crossbeam_epoch::Collector;

    const BYTES: u64 = 16 << 10;

    #[test]
    fn the_lowest_bit_below_the_limit_is_taken() {
        let words = [0, 1 << 3 | 1 << 40].map(AtomicU64::new);
        assert_eq!(take_lowest(&words, 67), None, "at the limit");
        assert_eq!(take_lowest(&words, 68), Some(67));
        assert_eq!(take_lowest(&words, 68), None, "above the limit");
        assert_eq!(take_lowest(&words, u32::MAX), Some(104));
        assert_eq!(take_lowest(&words, u32::MAX), None);
    }

    #[test]
    fn what_is_retired_is_had_again_and_its_bytes_with_it() {
        // Two superblocks and the urgent part, which is none of theirs.
        let budget = Arc::new(Budget::new(2 * BYTES + BYTES / 16));
        let pool = Arc::new(Superblocks::new(3, BYTES as usize, Arc::clone(&budget)).unwrap());
        let handle = Collector::new().register();
        assert_eq!((pool.acquire(0, pool.end()), pool.acquire(4, pool.end())), (Ok(1), Ok(2)));
        assert_eq!((pool.owner(1), pool.owner(2), pool.owner(3)), (1, 5, 0));
        assert!(matches!(pool.acquire(0, pool.end()), Err(AllocError::OverBudget(_))));
        assert_eq!((pool.committed_bytes(), budget.held()), (2 * BYTES, 2 * BYTES));

        pool.mark(1, RETIRED);
        pool.retire(1, &handle.pin());
        for _ in 0..8 {
            handle.pin().flush();
        }
        assert_eq!((pool.owner(1), pool.committed_bytes(), budget.held()), (0, BYTES, BYTES));
        assert_eq!(pool.acquire(0, 1), Err(AllocError::IndexSpace), "none below the limit");
        assert_eq!(budget.held(), BYTES, "a superblock that is not there holds no bytes");
        assert_eq!(pool.acquire(7, pool.end()), Ok(1));
    }
}
