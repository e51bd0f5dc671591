//! What the sanitizers are told of the records: whose memory they are now. Compiled to nothing without their cfgs.
//!
//! **`--cfg dimslab_asan`** (AddressSanitizer). To the sanitizer a superblock is one valid mapping, so by itself it sees no
//! use of a freed record. Here whatever nobody may touch is *poisoned*. The sanitizer keeps one byte of knowledge for each
//! 8 bytes of memory, and records are multiples of 4. So records begin at multiples of 8 and have at least 8 bytes behind
//! them that are never valid: no two records share such a byte, and what runs past the end of a record is seen even if its
//! neighbour is in use.
//!
//! **`--cfg dimslab_tsan`** (ThreadSanitizer). All accesses to records are atomic, and to the sanitizer atomics never race.
//! Here a record is written plainly, with what it holds, when it is taken and when it is freed. Whoever else uses it
//! without being ordered after the one and before the other is in a race that is seen.

use crate::sync::{AtomicU32, Ordering};

#[cfg(all(any(dimslab_asan, dimslab_tsan), not(dimslab_atomic_rows)))]
compile_error!("sanitizers do not see into assembly: they need --cfg dimslab_atomic_rows");

/// How a row's links are written, and how readers read them. Relaxed is enough; but why it is rests on fences, which
/// ThreadSanitizer does not know, so for it the link itself orders what is behind it.
pub(crate) const LINK_STORE: Ordering = if cfg!(dimslab_tsan) { Ordering::Release } else { Ordering::Relaxed };
pub(crate) const LINK_LOAD: Ordering = if cfg!(dimslab_tsan) { Ordering::Acquire } else { Ordering::Relaxed };

/// Whether anybody is told: without, not even where a record is has to be found out.
pub(crate) const ON: bool = cfg!(any(dimslab_asan, dimslab_tsan));

/// Words from the start of a record to the start of the next.
pub(crate) const fn padded(words: usize) -> usize {
    if cfg!(dimslab_asan) { (words.div_ceil(2) + 1) * 2 } else { words }
}

/// Nobody uses these words of a superblock from now on, until some are [`taken`].
#[inline(always)]
pub(crate) fn freed(words: &[AtomicU32]) {
    given_back(words);
    #[cfg(dimslab_tsan)]
    write_plainly(words);
}

/// One thread has these words for itself.
#[inline(always)]
pub(crate) fn taken(words: &[AtomicU32]) {
    acquired(words);
    #[cfg(dimslab_tsan)]
    write_plainly(words);
}

/// Nobody uses this superblock from now on, not even its free bits.
#[inline(always)]
pub(crate) fn given_back(words: &[AtomicU32]) {
    #[cfg(dimslab_asan)]
    asan::poison(words);
    let _ = words;
}

/// The superblock is in use, or its addresses are another's. No thread has it for itself: one that found it when it
/// belonged to the same slab may look at its free bits.
#[inline(always)]
pub(crate) fn acquired(words: &[AtomicU32]) {
    #[cfg(dimslab_asan)]
    asan::unpoison(words);
    let _ = words;
}

#[cfg(dimslab_tsan)]
fn write_plainly(words: &[AtomicU32]) {
    for word in words.iter().map(AtomicU32::as_ptr) {
        // SAFETY: the pointer is to a word of a slice. That no other thread uses the word now is the caller's to know;
        // where it is wrong the sanitizer reports it.
        unsafe { word.write_volatile(word.read_volatile()) };
    }
}

#[cfg(dimslab_asan)]
mod asan {
    use crate::sync::{AtomicU32, Ordering};
    use std::ffi::c_void;

    unsafe extern "C" {
        fn __asan_poison_memory_region(start: *const c_void, bytes: usize);
        fn __asan_unpoison_memory_region(start: *const c_void, bytes: usize);
    }

    pub(super) fn poison(words: &[AtomicU32]) {
        if let Some(first) = words.first() {
            // Words that are poisoned already are freed twice. This load is what reports it.
            std::hint::black_box(first.load(Ordering::Relaxed));
        }
        // SAFETY: the range is that of a slice, so it is mapped; the call writes to the sanitizer's own memory only.
        unsafe { __asan_poison_memory_region(words.as_ptr().cast(), size_of_val(words)) };
    }

    pub(super) fn unpoison(words: &[AtomicU32]) {
        // SAFETY: as in `poison`.
        unsafe { __asan_unpoison_memory_region(words.as_ptr().cast(), size_of_val(words)) };
    }
}

/// Each way to touch what is not one's own, in a child process that has to die of it.
#[cfg(all(test, dimslab_asan))]
mod tests {
    use crate::budget::Budget;
    use crate::id::ChunkIndex;
    use crate::magazine::Magazine;
    use crate::slab::Slab;
    use crate::superblocks::Superblocks;
    use crate::sync::Ordering;
    use crossbeam_epoch::{Collector, LocalHandle};
    use std::process::Command;
    use std::sync::Arc;

    const MISDEED: &str = "DIMSLAB_MISDEED";

    /// Runs `misdeed` with two neighbouring records in a child process, and sees it end with the sanitizer's report.
    fn dies(
        test: &str,
        record_words: usize,
        misdeed: impl FnOnce(&Slab, [ChunkIndex; 2], &mut Magazine, &LocalHandle),
    ) {
        if std::env::var_os(MISDEED).is_some() {
            let superblocks = Superblocks::new(2, 16 << 10, Arc::new(Budget::new(1 << 20))).unwrap();
            let slab = Slab::new(0, record_words, Arc::new(superblocks));
            let handle = Collector::new().register();
            let mut magazine = Magazine::default();
            let records = [(); 2].map(|()| slab.alloc(&mut magazine, &handle.pin()).unwrap());
            for word in records.iter().flat_map(|&index| slab.record(index)) {
                word.store(1, Ordering::Relaxed);
            }
            misdeed(&slab, records, &mut magazine, &handle);
            return;
        }
        let name = format!("watch::tests::{test}");
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &name, "--nocapture"])
            .env(MISDEED, "1")
            .output()
            .unwrap();
        let report = String::from_utf8_lossy(&child.stderr);
        assert!(String::from_utf8_lossy(&child.stdout).contains("running 1 test"), "no test is called {name}");
        assert!(!child.status.success() && report.contains("use-after-poison"), "it lived:\n{report}");
    }

    #[test]
    fn reading_a_freed_record_is_reported() {
        dies("reading_a_freed_record_is_reported", 9, |slab, [first, _], _, _| {
            slab.free(first);
            // The last word: the half of 8 bytes that an odd record has to itself.
            assert_eq!(slab.record(first)[8].load(Ordering::Relaxed), 1);
        });
    }

    /// Writes the word behind the first record, although the record after that is in use.
    fn past_the_end(slab: &Slab, [first, _]: [ChunkIndex; 2], _: &mut Magazine, _: &LocalHandle) {
        let end = slab.record(first).as_ptr_range().end;
        // SAFETY: inside the mapping: a second record follows.
        unsafe { &*end }.store(7, Ordering::Relaxed);
    }

    #[test]
    fn writing_past_an_odd_record_is_reported() {
        dies("writing_past_an_odd_record_is_reported", 9, past_the_end);
    }

    #[test]
    fn writing_past_an_even_record_is_reported() {
        dies("writing_past_an_even_record_is_reported", 10, past_the_end);
    }

    #[test]
    fn freeing_twice_is_reported() {
        dies("freeing_twice_is_reported", 9, |slab, [first, _], _, _| {
            slab.free(first);
            slab.free(first);
        });
    }

    /// The bit of such a slot is clear, as if it were in use.
    #[test]
    fn freeing_a_slot_that_a_magazine_holds_is_reported() {
        dies("freeing_a_slot_that_a_magazine_holds_is_reported", 9, |slab, [first, second], magazine, handle| {
            slab.flush(magazine);
            slab.free(first);
            slab.free(second);
            assert_eq!(slab.alloc(magazine, &handle.pin()).unwrap(), first);
            assert!(!slab.is_free(second));
            slab.free(second);
        });
    }

    #[test]
    fn reading_a_superblock_that_was_given_back_is_reported() {
        dies("reading_a_superblock_that_was_given_back_is_reported", 9, |slab, [first, second], magazine, handle| {
            slab.flush(magazine);
            slab.free(first);
            slab.free(second);
            assert!(slab.retire_superblock(slab.superblock_of(first), &handle.pin()));
            for _ in 0..8 {
                handle.pin().flush();
            }
            // The free bits, which could be read until then.
            slab.is_free(first);
        });
    }
}
