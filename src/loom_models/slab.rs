//! The slab and its superblocks.

use super::*;
use crate::magazine::Magazine;
use crate::region::SYSTEM_KEEPS;
use crate::slab::Slab;
use crate::superblocks::{AllocError, Superblocks};

fn slab_of(record_words: usize, superblocks: u32) -> (Arc<Slab>, Arc<Superblocks>) {
    let pool = Arc::new(Superblocks::new(superblocks, 64, Arc::new(Budget::new(1 << 20))).unwrap());
    (Arc::new(Slab::new(0, record_words, Arc::clone(&pool))), pool)
}

/// Words of a record that fills a superblock of 64 bytes.
const WHOLE: usize = 14;
/// Bytes of a superblock that has two words of bits, 32 of them and 6, when a record is one word.
const TWO_WORDS: usize = 160;
const TWO_WORDS_SLOTS: u32 = 38;

#[test]
fn slab_hands_a_record_to_one_thread() {
    explore("slab: alloc x 2, alloc x 2", 3, || {
        let (slab, _) = slab_of(6, 3);
        let take = |slab: &Slab| {
            let mut magazine = Magazine::default();
            let taken = [(); 2].map(|()| slab.alloc(&mut magazine, no_guard()).unwrap());
            slab.flush(&mut magazine);
            taken
        };
        let theirs = Arc::clone(&slab);
        let thread = spawn(move || take(&theirs));
        let mut all = [take(&slab), thread.join().unwrap()].concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 4);
    });
}

#[test]
fn slab_orders_the_last_use_before_the_next() {
    explore("slab: write and free, alloc and read", 3, || {
        let (slab, _) = slab_of(WHOLE, 1);
        let index = slab.alloc(&mut Magazine::default(), no_guard()).unwrap();
        let theirs = Arc::clone(&slab);
        let thread = spawn(move || {
            theirs.record(index)[0].store(1, Ordering::Relaxed);
            theirs.free(index);
        });
        if let Some(again) = slab.alloc_existing(&mut Magazine::default(), no_guard()) {
            assert_eq!(again, index);
            assert_eq!(slab.record(again)[0].load(Ordering::Relaxed), 1, "the last owner was not done");
        }
        thread.join().unwrap();
    });
}

#[test]
fn slab_never_forgets_a_free_slot() {
    explore("slab: free, alloc in vain", 3, || {
        let (slab, _) = slab_of(WHOLE, 1);
        let index = slab.alloc(&mut Magazine::default(), no_guard()).unwrap();
        let theirs = Arc::clone(&slab);
        let thread = spawn(move || theirs.free(index));
        let early = slab.alloc_existing(&mut Magazine::default(), no_guard());
        thread.join().unwrap();
        let late = slab.alloc_existing(&mut Magazine::default(), no_guard());
        assert!(early.is_some() != late.is_some(), "{early:?}, then {late:?}");
    });
}

#[test]
fn slab_takes_back_a_superblock_or_lends_from_it_not_both() {
    explore("slab: retire and reuse, alloc", 2, || {
        let (slab, pool) = slab_of(WHOLE, 1);
        let collector = Collector::new();
        let (handle, their_handle) = (collector.register(), collector.register());
        let index = slab.alloc(&mut Magazine::default(), no_guard()).unwrap();
        slab.free(index);
        let theirs = Arc::clone(&slab);
        let thread = spawn(move || {
            let lent = theirs.alloc_existing(&mut Magazine::default(), &their_handle.pin());
            (lent, their_handle)
        });
        let retired = slab.retire_superblock(1, &handle.pin());
        run_what_is_due(&handle);
        let other = Slab::new(1, WHOLE, pool);
        let reused = other.alloc(&mut Magazine::default(), &handle.pin());
        if let Ok(reused) = reused {
            // Free again, but the other slab's: a thread that looked before the grace period must not find it.
            other.free(reused);
        }
        let (lent, _their_handle) = thread.join().unwrap();
        assert!(
            !(lent.is_some() && (retired || reused.is_ok())),
            "lent {lent:?}, retired {retired}, reused {reused:?}"
        );
    });
}

#[test]
fn slab_does_not_lend_from_a_superblock_that_has_moved_on() {
    explore("slab: late offer, retire and reuse", 2, || {
        let (slab, pool) = slab_of(WHOLE, 1);
        let handle = Collector::new().register();
        let index = slab.alloc(&mut Magazine::default(), no_guard()).unwrap();
        let theirs = Arc::clone(&slab);
        // Marks the slot free, then offers the superblock, between which it can be given to another slab.
        let thread = spawn(move || theirs.free(index));
        slab.retire_superblock(1, &handle.pin());
        run_what_is_due(&handle);
        let other = Slab::new(1, WHOLE, pool);
        let reused = other.alloc(&mut Magazine::default(), &handle.pin());
        if let Ok(reused) = reused {
            other.free(reused);
        }
        thread.join().unwrap();
        let lent = slab.alloc_existing(&mut Magazine::default(), &handle.pin());
        assert!(lent.is_some() != reused.is_ok(), "lent {lent:?}, reused {reused:?}");
    });
}

#[test]
fn slab_never_forgets_a_slot_freed_while_its_superblock_comes_back_into_use() {
    explore("slab: free, stop evacuating", 3, || {
        let (slab, _) = slab_of(WHOLE, 1);
        let index = slab.alloc(&mut Magazine::default(), no_guard()).unwrap();
        slab.start_evacuating(1);
        let theirs = Arc::clone(&slab);
        let thread = spawn(move || theirs.free(index));
        slab.stop_evacuating(1);
        let early = slab.alloc_existing(&mut Magazine::default(), no_guard());
        thread.join().unwrap();
        let late = slab.alloc_existing(&mut Magazine::default(), no_guard());
        assert!(early.is_some() != late.is_some(), "{early:?}, then {late:?}");
    });
}

#[test]
fn slab_never_forgets_the_slots_of_a_superblock_that_comes_back_into_use() {
    explore("slab: stop evacuating, alloc in vain", 3, || {
        let (slab, _) = slab_of(WHOLE, 1);
        let index = slab.alloc(&mut Magazine::default(), no_guard()).unwrap();
        slab.start_evacuating(1);
        slab.free(index);
        let theirs = Arc::clone(&slab);
        let thread = spawn(move || theirs.stop_evacuating(1));
        let early = slab.alloc_existing(&mut Magazine::default(), no_guard());
        thread.join().unwrap();
        let late = slab.alloc_existing(&mut Magazine::default(), no_guard());
        assert!(early.is_some() != late.is_some(), "{early:?}, then {late:?}");
    });
}

#[test]
fn slab_superblock_is_vacant_before_its_bytes_can_be_had() {
    explore("slab: give back, commit", 3, || {
        // Room for one superblock, and only one there.
        let pool = Arc::new(Superblocks::new(1, 64, Arc::new(Budget::new(65))).unwrap());
        let slab = Slab::new(0, WHOLE, Arc::clone(&pool));
        let other = Slab::new(1, WHOLE, pool);
        slab.free(slab.alloc(&mut Magazine::default(), no_guard()).unwrap());
        // Nobody looks at the superblock meanwhile, so it can go back at once.
        let thread = spawn(move || assert!(slab.retire_superblock(1, no_guard())));
        if let Err(error) = other.alloc(&mut Magazine::default(), no_guard()) {
            assert!(matches!(error, AllocError::OverBudget(_)), "bytes, but no superblock: {error:?}");
        }
        thread.join().unwrap();
    });
}

fn slab_of_two_words() -> Arc<Slab> {
    let pool = Arc::new(Superblocks::new(1, TWO_WORDS, Arc::new(Budget::new(1 << 20))).unwrap());
    let slab = Slab::new(0, 1, pool);
    assert_eq!(slab.slots(), TWO_WORDS_SLOTS);
    Arc::new(slab)
}

/// All slots of `slab` that are free now.
fn drain(slab: &Slab) -> u32 {
    let mut magazine = Magazine::default();
    std::iter::from_fn(|| slab.alloc_existing(&mut magazine, no_guard())).count() as u32
}

#[test]
fn slab_never_forgets_a_slot_of_a_word_that_had_one() {
    explore("slab of two words: free, free beside it and alloc in vain", 3, || {
        let slab = slab_of_two_words();
        let mut magazine = Magazine::default();
        let all: Vec<_> = (0..TWO_WORDS_SLOTS).map(|_| slab.alloc(&mut magazine, no_guard()).unwrap()).collect();
        let (one, other) = (all[3], all[5]);
        // So that the superblock is not offered to begin with.
        assert!(slab.alloc_existing(&mut magazine, no_guard()).is_none());
        let theirs = Arc::clone(&slab);
        // Whoever is second does not offer the superblock: the first does, perhaps later.
        let thread = spawn(move || theirs.free(one));
        slab.free(other);
        let early = slab.alloc_existing(&mut magazine, no_guard());
        slab.flush(&mut magazine);
        thread.join().unwrap();
        assert_eq!(drain(&slab) + u32::from(early.is_some()), 2, "early: {early:?}");
    });
}

#[test]
fn slab_frees_slots_of_two_words_at_once() {
    explore("slab of two words: free all of a few, alloc in vain", 3, || {
        let slab = slab_of_two_words();
        let mut magazine = Magazine::default();
        let all: Vec<_> = (0..TWO_WORDS_SLOTS).map(|_| slab.alloc(&mut magazine, no_guard()).unwrap()).collect();
        let freed = [all[3], all[4], all[33]];
        let theirs = Arc::clone(&slab);
        let thread = spawn(move || {
            freed.iter().for_each(|&index| theirs.record(index)[0].store(7, Ordering::Relaxed));
            theirs.free_all(freed.iter());
        });
        let mut taken = 0;
        while let Some(index) = slab.alloc_existing(&mut magazine, no_guard()) {
            assert_eq!(slab.record(index)[0].load(Ordering::Relaxed), 7, "the last owner was not done");
            taken += 1;
        }
        thread.join().unwrap();
        assert_eq!(drain(&slab) + taken, 3);
    });
}

#[test]
fn slab_of_two_words_is_taken_whole_or_left_whole() {
    explore("slab of two words: retire, alloc", 3, || {
        let slab = slab_of_two_words();
        slab.free(slab.alloc(&mut Magazine::default(), no_guard()).unwrap());
        // The rest of the first word's slots is in the magazine that was dropped.
        let first_word: Vec<u32> = (1..32).collect();
        first_word.into_iter().for_each(|slot| slab.free(index(1 << 6 | slot)));
        let [guard, their_guard] = pins();
        let theirs = Arc::clone(&slab);
        let thread = spawn(move || {
            let mut magazine = Magazine::default();
            let lent = theirs.alloc_existing(&mut magazine, &their_guard);
            theirs.flush(&mut magazine);
            (lent, their_guard)
        });
        let retired = slab.retire_superblock(1, &guard);
        let (lent, _their_guard) = thread.join().unwrap();
        let left = if retired { 0 } else { TWO_WORDS_SLOTS };
        assert_eq!(drain(&slab) + u32::from(lent.is_some()), left, "lent {lent:?}, retired {retired}");
    });
}

#[test]
fn slab_of_two_words_is_not_retired_before_its_last_slot_is_free() {
    explore("slab of two words: retire, free", 3, || {
        let slab = slab_of_two_words();
        let mut magazine = Magazine::default();
        let all: Vec<_> = (0..TWO_WORDS_SLOTS).map(|_| slab.alloc(&mut magazine, no_guard()).unwrap()).collect();
        let last = all[TWO_WORDS_SLOTS as usize - 1];
        all[..TWO_WORDS_SLOTS as usize - 1].iter().for_each(|&index| slab.free(index));
        let theirs = Arc::clone(&slab);
        let thread = spawn(move || {
            theirs.record(last)[0].store(1, Ordering::Relaxed);
            theirs.free(last);
        });
        // Nobody looks for slots meanwhile, so it can go back at once.
        let retired = slab.retire_superblock(1, no_guard());
        thread.join().unwrap();
        assert_eq!(drain(&slab), if retired { 0 } else { TWO_WORDS_SLOTS });
        if retired {
            let seen = slab.record(last)[0].load(Ordering::Relaxed);
            assert_eq!(seen, 0, "the record was used after its memory had gone back");
        }
    });
}

#[test]
fn slab_superblock_that_comes_back_reads_as_zero() {
    explore("slab: give back, commit from other bytes", 3, || {
        let (slab, pool) = slab_of(WHOLE, 1);
        let other = Slab::new(1, WHOLE, pool);
        let index = slab.alloc(&mut Magazine::default(), no_guard()).unwrap();
        slab.record(index)[0].store(7, Ordering::Relaxed);
        slab.free(index);
        // Nobody looks at the superblock meanwhile, so it can go back at once.
        let thread = spawn(move || assert!(slab.retire_superblock(1, no_guard())));
        if let Ok(index) = other.alloc(&mut Magazine::default(), no_guard()) {
            let seen = other.record(index)[0].load(Ordering::Relaxed);
            assert_eq!(seen, 0, "had before its memory had gone back");
        }
        thread.join().unwrap();
    });
}

#[test]
fn slab_lends_the_second_word_of_a_superblock_after_its_decommit() {
    lends_after_decommit("slab of two words: give back and commit, alloc by a late offer", true);
}

#[test]
fn slab_lends_to_an_early_look_after_the_decommit() {
    lends_after_decommit("slab of two words: give back and commit, alloc by an early look", false);
}

/// Without a late offer the committing thread does not withdraw, and no fence of that helps it.
fn lends_after_decommit(name: &str, late: bool) {
    explore(name, 3, move || {
        let slab = slab_of_two_words();
        let mut magazine = Magazine::default();
        let all: Vec<_> = (0..TWO_WORDS_SLOTS).map(|_| slab.alloc(&mut magazine, no_guard()).unwrap()).collect();
        slab.record(all[32])[0].store(7, Ordering::Relaxed);
        all.into_iter().for_each(|index| slab.free(index));
        let theirs = Arc::clone(&slab);
        let thread = spawn(move || {
            let lent = theirs.alloc_existing(&mut Magazine::default(), no_guard());
            lent.map(|index| theirs.record(index)[0].load(Ordering::Relaxed))
        });
        // No grace period, whose fences would order all of this: no other slab has the superblock in between, so what
        // the thread takes is a word from before, and then this fails, or one from after the decommit.
        let retired = slab.retire_superblock(1, no_guard());
        if late {
            // As a round does that emptied it: the offer comes late.
            slab.stop_evacuating(1);
        }
        if retired {
            slab.alloc(&mut magazine, no_guard()).unwrap();
        }
        let seen = thread.join().unwrap();
        assert!(!retired || matches!(seen, None | Some(0)), "lent before its memory had gone back");
    });
}

#[test]
fn slab_superblock_that_the_system_keeps_is_its_next_owners() {
    explore("slab: give back in vain, commit", 3, || {
        let (slab, pool) = slab_of(WHOLE, 1);
        let other = Slab::new(1, WHOLE, pool);
        slab.free(slab.alloc(&mut Magazine::default(), no_guard()).unwrap());
        SYSTEM_KEEPS.set(true);
        // Nobody looks at the superblock meanwhile, so it can go back at once.
        let thread = spawn(move || assert!(slab.retire_superblock(1, no_guard())));
        let had = other.alloc(&mut Magazine::default(), no_guard());
        thread.join().unwrap();
        SYSTEM_KEEPS.set(false);
        assert_eq!(other.occupancy().count(), usize::from(had.is_ok()));
    });
}

#[test]
fn slab_lends_no_slots_that_are_what_a_record_held_before() {
    explore("slab of two words: commit what the system kept, alloc by a late offer", 3, || {
        let pool = Arc::new(Superblocks::new(1, TWO_WORDS, Arc::new(Budget::new(1 << 20))).unwrap());
        let slab = Arc::new(Slab::new(0, 1, Arc::clone(&pool)));
        // One record, where the other slab has its second word of bits.
        let large = Slab::new(1, TWO_WORDS / 4 - 1, pool);
        let mut magazine = Magazine::default();
        let all: Vec<_> = (0..TWO_WORDS_SLOTS).map(|_| slab.alloc(&mut magazine, no_guard()).unwrap()).collect();
        all.into_iter().for_each(|index| slab.free(index));
        assert!(slab.retire_superblock(1, no_guard()));
        slab.stop_evacuating(1);
        let index = large.alloc(&mut Magazine::default(), no_guard()).unwrap();
        large.record(index)[0].store(u32::MAX, Ordering::Relaxed);
        large.free(index);
        SYSTEM_KEEPS.set(true);
        assert!(large.retire_superblock(1, no_guard()));
        SYSTEM_KEEPS.set(false);
        let theirs = Arc::clone(&slab);
        let thread = spawn(move || {
            let mut magazine = Magazine::default();
            let lent = theirs.alloc_existing(&mut magazine, no_guard());
            assert!(lent.is_none_or(|index| theirs.contains(index)));
            theirs.flush(&mut magazine);
            u32::from(lent.is_some())
        });
        slab.alloc(&mut magazine, no_guard()).unwrap();
        slab.flush(&mut magazine);
        let lent = thread.join().unwrap();
        assert_eq!(drain(&slab) + lent + 1, TWO_WORDS_SLOTS);
    });
}
