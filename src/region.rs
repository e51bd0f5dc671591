//! One reserved range of addresses, cut into superblocks: the only caller of the operating system.
//!
//! The range is mapped once, without reserving memory, and never moves. A superblock is *committed* by touching it and
//! *decommitted* by telling the system that its pages are no longer wanted, after which they read as zero. All of it is
//! seen as 32-bit atomic words, because rows are read while they are written.
//!
//! Superblocks as large as a huge page begin where one can: the system may then have each in a huge page of its own, from
//! the first use or later, and takes it back as a whole.

use crate::failpoint::{Point, fault};
use crate::sync::AtomicU32;
use std::io;

/// Superblock number `0` is never handed out, so that no chunk has index 0.
pub(crate) const FIRST_SUPERBLOCK: u32 = 1;

/// Bytes of a huge page, on processors whose usual pages have 4 KiB.
#[cfg(not(any(loom, shuttle, fuzzing)))]
pub(crate) const HUGE_PAGE: u64 = 2 << 20;

/// A reserved, zeroed range of words. Superblock `i` is words `i * superblock_words ..`.
pub(crate) struct Region {
    memory: Memory,
    /// Bytes before superblock 0.
    #[cfg(not(any(loom, shuttle, fuzzing)))]
    skipped: usize,
    superblock_words: usize,
    superblocks: u32,
    /// Of all superblocks.
    #[cfg(not(any(loom, shuttle, fuzzing)))]
    words: usize,
}

/// The next mapping at these addresses is another's.
#[cfg(dimslab_asan)]
impl Drop for Region {
    fn drop(&mut self) {
        crate::watch::acquired(self.words());
    }
}

#[cfg(not(any(loom, shuttle, fuzzing)))]
type Memory = memmap2::MmapRaw;
// A fuzz case makes a store for a few dozen operations: mapping memory would take longer than those.
#[cfg(any(loom, shuttle, fuzzing))]
type Memory = Box<[AtomicU32]>;

impl Region {
    /// Reserves `superblocks` superblocks of `superblock_bytes` each (a multiple of the page size).
    pub(crate) fn reserve(superblocks: u32, superblock_bytes: usize) -> io::Result<Region> {
        let bytes = (superblocks as usize)
            .checked_mul(superblock_bytes)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the address range does not fit in usize"))?;
        fault(Point::Reserve)?;
        #[cfg(not(any(loom, shuttle, fuzzing)))]
        if superblock_bytes as u64 == HUGE_PAGE {
            let memory = map(bytes.saturating_add(superblock_bytes))?;
            let skipped = memory.as_ptr().align_offset(superblock_bytes);
            return Ok(Region {
                memory,
                skipped,
                superblock_words: superblock_bytes / 4,
                superblocks,
                words: bytes / 4,
            });
        }
        Ok(Region {
            memory: map(bytes)?,
            #[cfg(not(any(loom, shuttle, fuzzing)))]
            skipped: 0,
            superblock_words: superblock_bytes / 4,
            superblocks,
            #[cfg(not(any(loom, shuttle, fuzzing)))]
            words: bytes / 4,
        })
    }

    /// Asks the system to have each superblock, which is as large as a huge page, in one.
    #[cfg(not(any(loom, shuttle, fuzzing)))]
    pub(crate) fn ask_for_huge_pages(&self) -> io::Result<()> {
        debug_assert_eq!(self.superblock_bytes(), HUGE_PAGE);
        // With larger huge pages one superblock would bring its neighbours into memory, which are nobody's.
        if page_bytes() != 4096 {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "its pages are not of 4 KiB"));
        }
        let bytes = self.superblocks as usize * self.superblock_words * 4;
        self.memory.advise_range(memmap2::Advice::HugePage, self.skipped, bytes)
    }

    /// Moves a superblock, which is as large as a huge page, to one, if all of it is in memory. Returns whether it was.
    #[cfg(not(any(loom, shuttle, fuzzing)))]
    pub(crate) fn collapse(&self, index: u32) -> io::Result<bool> {
        fault(Point::Residency)?;
        collapse(self.superblock(index).as_ptr().addr())
    }

    pub(crate) fn superblocks(&self) -> u32 {
        self.superblocks
    }

    pub(crate) fn superblock_bytes(&self) -> u64 {
        self.superblock_words as u64 * 4
    }

    /// The words of one superblock.
    #[inline]
    pub(crate) fn superblock(&self, index: u32) -> &[AtomicU32] {
        let start = index as usize * self.superblock_words;
        &self.words()[start..start + self.superblock_words]
    }

    /// The `len` words that start at word `offset` of superblock `index`.
    #[inline]
    pub(crate) fn record(&self, index: u32, offset: usize, len: usize) -> &[AtomicU32] {
        let start = index as usize * self.superblock_words + offset;
        &self.words()[start..start + len]
    }

    /// Words of one superblock.
    #[inline]
    pub(crate) fn superblock_words(&self) -> usize {
        self.superblock_words
    }

    /// The words of all superblocks.
    #[cfg(not(any(loom, shuttle, fuzzing)))]
    #[inline]
    pub(crate) fn words(&self) -> &[AtomicU32] {
        let first = self.memory.as_ptr().wrapping_add(self.skipped).cast::<AtomicU32>();
        // SAFETY: the mapping is `words * 4` bytes long and what is skipped (less than a superblock, for which there is
        // room), aligned to pages, readable and writable, and lives as long as `self`. Nothing but these atomic words is
        // ever made of it, and zero pages are valid values of them.
        unsafe { std::slice::from_raw_parts(first, self.words) }
    }

    /// The words of all superblocks.
    #[cfg(any(loom, shuttle, fuzzing))]
    pub(crate) fn words(&self) -> &[AtomicU32] {
        &self.memory
    }

    /// Gives a superblock's memory back to the system; its words read as zero from then on.
    ///
    /// The caller owns every chunk of the superblock and no thread can still hold one of them.
    #[cfg(not(any(loom, shuttle, fuzzing)))]
    pub(crate) fn decommit(&self, index: u32) -> io::Result<()> {
        fault(Point::Decommit)?;
        let bytes = self.superblock_words * 4;
        // SAFETY: the range lies inside the mapping (`index < superblocks`); zeroing it is what the caller asked for,
        // and for other threads it is the same as relaxed stores of zero to words nobody uses.
        unsafe {
            let from = self.skipped + index as usize * bytes;
            self.memory.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, from, bytes)
        }
    }

    #[cfg(any(loom, shuttle, fuzzing))]
    pub(crate) fn decommit(&self, index: u32) -> io::Result<()> {
        fault(Point::Decommit)?;
        #[cfg(loom)]
        if SYSTEM_KEEPS.get() {
            return Err(io::ErrorKind::Other.into());
        }
        for word in self.superblock(index) {
            word.store(0, crate::sync::Ordering::Relaxed);
        }
        Ok(())
    }

    #[cfg(fuzzing)]
    pub(crate) fn resident_bytes(&self, _index: u32) -> io::Result<u64> {
        fault(Point::Residency)?;
        Ok(self.superblock_bytes())
    }

    /// Bytes of superblock `index` that are in memory now, as the system counts them.
    #[cfg(not(any(loom, shuttle, fuzzing)))]
    pub(crate) fn resident_bytes(&self, index: u32) -> io::Result<u64> {
        fault(Point::Residency)?;
        resident_bytes(self.superblock(index).as_ptr().addr(), self.superblock_words * 4)
    }

    #[cfg(shuttle)]
    pub(crate) fn resident_bytes(&self, _index: u32) -> io::Result<u64> {
        Ok(self.superblock_bytes())
    }
}

/// Bytes of a range that are in memory now, as the system counts them. It begins at a page. An error where not all of it is
/// mapped.
#[cfg(not(any(loom, shuttle, fuzzing)))]
fn resident_bytes(start: usize, bytes: usize) -> io::Result<u64> {
    let page = page_bytes();
    let mut pages = vec![0u8; bytes.div_ceil(page)];
    // SAFETY: nothing is read or written at the addresses, and `pages` has one byte for each page.
    if unsafe { libc::mincore(std::ptr::without_provenance_mut(start), bytes, pages.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(pages.iter().filter(|&&flags| flags & 1 != 0).count() as u64 * page as u64)
}

/// Moves the memory from an address on, a multiple of a huge page, to one, whoever's it is, if all of it is in memory. Then
/// it takes no more than before. Returns whether it was.
#[cfg(not(any(loom, shuttle, fuzzing)))]
pub(crate) fn collapse(start: usize) -> io::Result<bool> {
    let bytes = HUGE_PAGE as usize;
    if resident_bytes(start, bytes)? < HUGE_PAGE {
        return Ok(false);
    }
    // SAFETY: whatever is mapped there holds the same bytes afterwards.
    if unsafe { libc::madvise(std::ptr::without_provenance_mut(start), bytes, libc::MADV_COLLAPSE) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(true)
}

/// Processor time that the calling thread has used.
#[cfg(not(loom))]
pub(crate) fn thread_time() -> std::time::Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the answer.
    if unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) } != 0 {
        return std::time::Duration::ZERO;
    }
    std::time::Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The system's page size in bytes.
#[cfg(not(any(loom, shuttle, fuzzing)))]
pub(crate) fn page_bytes() -> usize {
    // SAFETY: `sysconf` has no preconditions.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

#[cfg(not(any(loom, shuttle, fuzzing)))]
fn map(bytes: usize) -> io::Result<Memory> {
    let map = memmap2::MmapOptions::new().len(bytes).no_reserve_swap().map_anon()?;
    Ok(memmap2::MmapRaw::from(map))
}

#[cfg(loom)]
thread_local! {
    /// Makes every decommit of a model fail.
    pub(crate) static SYSTEM_KEEPS: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

#[cfg(any(loom, shuttle, fuzzing))]
fn map(bytes: usize) -> io::Result<Memory> {
    Ok((0..bytes / 4).map(|_| AtomicU32::new(0)).collect())
}

#[cfg(all(test, not(any(loom, shuttle, fuzzing))))]
mod tests {
    use super::*;
    use crate::sync::Ordering;

    #[test]
    fn decommitted_superblocks_read_zero_and_leave_memory() {
        let bytes = 4 * page_bytes();
        let region = Region::reserve(3, bytes).unwrap();
        for word in region.superblock(1) {
            word.store(7, Ordering::Relaxed);
        }
        region.superblock(2)[0].store(9, Ordering::Relaxed);
        assert_eq!(region.resident_bytes(1).unwrap(), bytes as u64);
        region.decommit(1).unwrap();
        assert_eq!(region.resident_bytes(1).unwrap(), 0);
        assert!(region.superblock(1).iter().all(|word| word.load(Ordering::Relaxed) == 0));
        assert_eq!(region.superblock(2)[0].load(Ordering::Relaxed), 9);
    }

    #[test]
    fn superblocks_of_huge_pages_come_and_go_as_others_do() {
        let region = Region::reserve(4, HUGE_PAGE as usize).unwrap();
        region.ask_for_huge_pages().unwrap();
        for index in [1, 3] {
            assert!(region.superblock(index).as_ptr().addr().is_multiple_of(HUGE_PAGE as usize));
            region.superblock(index)[5].store(index, Ordering::Relaxed);
        }
        // Whether in one piece or not, no more than was touched.
        assert!((page_bytes() as u64..=HUGE_PAGE).contains(&region.resident_bytes(1).unwrap()));
        assert_eq!(region.resident_bytes(2).unwrap(), 0);
        region.decommit(1).unwrap();
        assert_eq!(region.resident_bytes(1).unwrap(), 0);
        assert_eq!([1, 3].map(|index| region.superblock(index)[5].load(Ordering::Relaxed)), [0, 3]);
    }

    #[test]
    fn an_absurd_reservation_is_an_error() {
        assert!(Region::reserve(u32::MAX, usize::MAX / 8).is_err());
    }
}
