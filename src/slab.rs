//! The pool of all chunk records of one size, on superblocks shared with the other slabs.
//!
//! ```text
//! superblock   [ free bits, one per slot | record 0 | record 1 | ... ]      all 32-bit words
//! ```
//!
//! A set bit is a free slot. A thread takes all free slots of a few words of bits into a [`Magazine`], each word with one
//! atomic swap, and gives records back by setting their bits, those that share a word at once: no links through the
//! records, so no ABA.
//!
//! Conservation, for every slab: `slots * superblocks = free bits + slots in magazines + live + retired`.
//!
//! The lowest superblock with a free slot is filled first (address-ordered first fit), so that the later ones can run
//! empty. To retire a superblock is to allocate every slot of it; after a grace period it goes back to the pool of
//! superblocks and to the operating system. The grace period matters to allocation too: a thread that found this slab
//! to be the superblock's owner may still be about to swap its words, and it does so under the pin under which it looked.
//! `available` is only a hint: a late `offer` can leave a bit for a superblock that has moved on, so the owner is asked.

use crate::failpoint::{Point, reach};
use crate::id::ChunkIndex;
use crate::magazine::{MAGAZINE, Magazine};
use crate::region::FIRST_SUPERBLOCK;
use crate::superblocks::{AllocError, EVACUATING, RETIRED, Superblocks, zeroed_bits};
use crate::sync::{AtomicU32, AtomicU64, Ordering, fence};
use crate::watch;
use crossbeam_epoch::Guard;
use std::sync::Arc;

/// Not beside what is only read.
#[repr(align(128))]
struct Apart<T>(T);

/// All records of `record_words` 32-bit words.
pub(crate) struct Slab {
    number: u32,
    record_words: usize,
    /// Words from the start of a record to the start of the next.
    stride: usize,
    slots: u32,
    slot_bits: u32,
    header_words: usize,
    /// Where record 0 starts in a superblock.
    first_record: usize,
    /// Superblocks this slab's indices can name: below this number.
    limit: u32,
    /// Most records that a thread takes from the bits at once, but for the rest of a word, and half of what it keeps of
    /// freed ones.
    batch: usize,
    /// A set bit: the superblock is ours and had a free slot when last seen.
    available: Box<[AtomicU64]>,
    /// The word of bits where the next search begins, in whichever superblock. Relaxed: a hint; a search goes round.
    cursor: Apart<AtomicU32>,
    superblocks: Arc<Superblocks>,
}

/// See [`Slab::records`].
#[derive(Clone, Copy)]
pub(crate) struct Records<'s> {
    words: &'s [AtomicU32],
    superblock_words: usize,
    slot_bits: u32,
    slots_mask: u32,
    stride: usize,
    first_record: usize,
    record_words: usize,
    slots: u32,
}

impl<'s> Records<'s> {
    /// The words of a record.
    #[inline(always)]
    pub(crate) fn get(self, index: ChunkIndex) -> &'s [AtomicU32] {
        &self.words[self.first(index.raw())..][..self.record_words]
    }

    /// The words of the record that a word of shared memory names, if it could be a record's index.
    #[inline(always)]
    pub(crate) fn named(self, raw: u32) -> Option<&'s [AtomicU32]> {
        let named = raw != 0 && raw & self.slots_mask < self.slots;
        if named { self.words.get(self.first(raw)..)?.get(..self.record_words) } else { None }
    }

    #[inline(always)]
    fn first(self, raw: u32) -> usize {
        let superblock = (raw >> self.slot_bits) as usize * self.superblock_words;
        superblock + self.first_record + (raw & self.slots_mask) as usize * self.stride
    }
}

impl Slab {
    pub(crate) fn new(number: u32, record_words: usize, superblocks: Arc<Superblocks>) -> Slab {
        let words = superblocks.bytes_each() as u32 / 4;
        let stride = watch::padded(record_words);
        let first_record = |slots: u32| watch::padded(slots.div_ceil(32) as usize);
        // slots * (32 * stride + 1) / 32 words at most, the header rounded up to whole words.
        let mut slots = words * 32 / (stride as u32 * 32 + 1);
        while slots as usize * stride + first_record(slots) > words as usize {
            slots -= 1;
        }
        assert!(slots > 0, "a record of {record_words} words does not fit a superblock of {words} words");
        let slot_bits = u32::BITS - (slots - 1).leading_zeros();
        Slab {
            number,
            record_words,
            stride,
            slots,
            slot_bits,
            header_words: slots.div_ceil(32) as usize,
            first_record: first_record(slots),
            limit: superblocks.end().min(1 << (ChunkIndex::BITS - slot_bits)),
            // Of small superblocks one word, however few slots are free in it: what idles in magazines is not to keep
            // others from growing.
            batch: if slots < 1024 { 1 } else { (slots as usize / 16).min(MAGAZINE / 2) },
            available: zeroed_bits(superblocks.end()),
            cursor: Apart(AtomicU32::new(0)),
            superblocks,
        }
    }

    pub(crate) fn record_bytes(&self) -> u64 {
        self.stride as u64 * 4
    }

    fn index(&self, superblock: u32, slot: u32) -> ChunkIndex {
        // `superblock >= 1` and `superblock < 2^(31 - slot_bits)`, so the index is non-zero and below 2^31.
        ChunkIndex::from_raw((superblock << self.slot_bits) | slot).expect("superblock numbers start at 1")
    }

    #[inline]
    pub(crate) fn superblock_of(&self, index: ChunkIndex) -> u32 {
        index.raw() >> self.slot_bits
    }

    #[inline]
    fn slot_of(&self, index: ChunkIndex) -> u32 {
        index.raw() & ((1 << self.slot_bits) - 1)
    }

    /// Whether `index` could be one of this slab's records, for words read from shared memory.
    pub(crate) fn contains(&self, index: ChunkIndex) -> bool {
        self.superblock_of(index) < self.limit && self.slot_of(index) < self.slots
    }

    /// The words of a record.
    #[inline]
    pub(crate) fn record(&self, index: ChunkIndex) -> &[AtomicU32] {
        self.records().get(index)
    }

    /// Where all records are, for those who look for many.
    #[inline]
    pub(crate) fn records(&self) -> Records<'_> {
        let (words, superblock_words) = self.superblocks.all_words();
        Records {
            words,
            superblock_words,
            slot_bits: self.slot_bits,
            slots_mask: (1 << self.slot_bits) - 1,
            stride: self.stride,
            first_record: self.first_record,
            record_words: self.record_words,
            slots: self.slots,
        }
    }

    fn free_bits(&self, superblock: u32) -> &[AtomicU32] {
        self.superblocks.record(superblock, 0, self.header_words)
    }

    /// The bits of word `word` that stand for slots.
    fn mask(&self, word: usize) -> u32 {
        let rest = self.slots - word as u32 * 32;
        if rest >= 32 { u32::MAX } else { (1 << rest) - 1 }
    }

    /// Leaves it only superblocks below a number, so that a test need not fill 2^31 indices.
    #[cfg(all(test, not(any(loom, shuttle))))]
    pub(crate) fn limit_superblocks(&mut self, limit: u32) {
        self.limit = limit;
    }

    /// Takes a free record. Its words hold whatever was there before.
    ///
    /// `_guard`: see the module documentation on the grace period.
    #[inline]
    pub(crate) fn alloc(&self, magazine: &mut Magazine, guard: &Guard) -> Result<ChunkIndex, AllocError> {
        let index = match magazine.pop() {
            Some(index) => index,
            None => self.refill(magazine, guard)?,
        };
        if watch::ON {
            watch::taken(self.record(index));
        }
        Ok(index)
    }

    /// Like [`alloc`](Self::alloc), but only from superblocks that are there already.
    pub(crate) fn alloc_existing(&self, magazine: &mut Magazine, guard: &Guard) -> Option<ChunkIndex> {
        if magazine.len() == 0 && !self.refill_existing(magazine, guard) {
            return None;
        }
        self.alloc(magazine, guard).ok()
    }

    #[cold]
    fn refill(&self, magazine: &mut Magazine, guard: &Guard) -> Result<ChunkIndex, AllocError> {
        if !self.refill_existing(magazine, guard) {
            self.commit(magazine)?;
        }
        Ok(magazine.pop().expect("filled just now"))
    }

    /// Takes free slots from the lowest superblock that has any.
    fn refill_existing(&self, magazine: &mut Magazine, _guard: &Guard) -> bool {
        magazine.batch = (2 * magazine.batch).min(self.batch);
        for (position, available) in self.available.iter().enumerate() {
            // Relaxed: only a hint; the look after `withdraw` decides.
            let mut candidates = available.load(Ordering::Relaxed);
            while candidates != 0 {
                let superblock = position as u32 * 64 + candidates.trailing_zeros();
                candidates &= candidates - 1;
                if self.lends(superblock) && self.take_words(superblock, magazine) {
                    return true;
                }
                self.withdraw(superblock);
                // Acquires what the `offer` before it released. And pairs with the fence in `announce`: either that sees
                // the bit cleared, or the look below sees the slots.
                fence(Ordering::SeqCst);
                reach(Point::Withdrawn);
                if self.lends(superblock) && self.take_words(superblock, magazine) {
                    self.offer(superblock);
                    return true;
                }
            }
        }
        false
    }

    /// Whether the superblock is ours and not retired. Relaxed: the epoch orders it. Whoever pins after a superblock was
    /// retired sees the mark, and whoever pinned before delays its reuse.
    fn owns(&self, superblock: u32) -> bool {
        self.superblocks.owner(superblock) & !EVACUATING == self.number + 1
    }

    /// Whether slots of the superblock may be taken: ours, not retired, not being emptied. Asked again after `withdraw`:
    /// a `stop_evacuating` whose `offer` came before is seen then.
    fn lends(&self, superblock: u32) -> bool {
        self.superblocks.owner(superblock) == self.number + 1
    }

    /// Fills an empty magazine with the free slots of as many words as make a batch, or of all that have some.
    fn take_words(&self, superblock: u32, magazine: &mut Magazine) -> bool {
        let words = self.free_bits(superblock);
        // Words before the cursor had no free slots a moment ago.
        let start = self.cursor.0.load(Ordering::Relaxed) as usize % words.len();
        for word in (start..words.len()).chain(0..start) {
            // Relaxed: only a hint; the swap decides.
            if words[word].load(Ordering::Relaxed) == 0 {
                continue;
            }
            reach(Point::SlotsSeen);
            // Acquire: pairs with the Release in `free_word`, so the last owner's use of the records is over.
            let taken = words[word].swap(0, Ordering::Acquire);
            self.load(magazine, superblock, word, taken);
            if magazine.len() >= magazine.batch {
                self.cursor.0.store(word as u32, Ordering::Relaxed);
                break;
            }
        }
        magazine.reverse();
        if magazine.len() > 0 {
            reach(Point::SlotsTaken);
        }
        magazine.len() > 0
    }

    /// Adds the slots of one word of bits to a magazine.
    fn load(&self, magazine: &mut Magazine, superblock: u32, word: usize, bits: u32) {
        magazine.fill(self.index(superblock, word as u32 * 32).raw(), bits);
    }

    /// Clears the superblock's `available` bit. Who looks for slots puts a fence behind it and looks at the free bits once
    /// more: an `offer` that came before this in the bit's modification order is acquired by the fence (all that comes
    /// between is read-modify-writes), so that look sees what was freed; one that comes after sets the bit again.
    fn withdraw(&self, superblock: u32) {
        self.available[superblock as usize / 64].fetch_and(!(1 << (superblock % 64)), Ordering::Relaxed);
    }

    fn offer(&self, superblock: u32) {
        // Release: pairs with the fence after `withdraw`.
        self.available[superblock as usize / 64].fetch_or(1 << (superblock % 64), Ordering::Release);
    }

    fn commit(&self, magazine: &mut Magazine) -> Result<(), AllocError> {
        let superblock = self.superblocks.acquire(self.number, self.limit)?;
        reach(Point::SuperblockAcquired);
        watch::freed(&self.superblocks.words(superblock)[self.header_words..]);
        // The first words go to this thread.
        let first = magazine.batch.div_ceil(32).min(self.header_words);
        for (word, bits) in self.free_bits(superblock).iter().enumerate().skip(first) {
            // Release: pairs with the Acquire swap in `take_words`, so that the superblock was decommitted before. Not
            // left to `offer`, because a late one of an earlier time may have drawn another thread here already.
            bits.store(self.mask(word), Ordering::Release);
            reach(Point::SuperblockHalfCommitted);
        }
        (0..first).for_each(|word| self.load(magazine, superblock, word, self.mask(word)));
        magazine.reverse();
        self.cursor.0.store(first as u32, Ordering::Relaxed);
        self.offer(superblock);
        Ok(())
    }

    /// Adds a superblock without records.
    pub(crate) fn add_superblock(&self) -> Result<(), AllocError> {
        let mut magazine = Magazine::default();
        self.commit(&mut magazine)?;
        self.flush(&mut magazine);
        Ok(())
    }

    /// Puts a magazine's remaining slots back.
    pub(crate) fn flush(&self, magazine: &mut Magazine) {
        self.put_back(magazine.first(magazine.len()));
        magazine.remove_first(magazine.len());
    }

    /// Frees a record that no thread can reach any more (never published, or after its grace period).
    pub(crate) fn free(&self, index: ChunkIndex) {
        self.free_all([index].iter());
    }

    /// [Frees](Self::free) several records.
    pub(crate) fn free_all<'r>(&self, records: impl Iterator<Item = &'r ChunkIndex> + Clone) {
        records.clone().for_each(|&index| self.close(index));
        self.put_back(records);
    }

    /// [Frees](Self::free) a record into a magazine, from where it is had next.
    #[inline]
    pub(crate) fn free_into(&self, magazine: &mut Magazine, index: ChunkIndex) {
        self.close(index);
        if magazine.len() >= 2 * self.batch.max(16) {
            self.unload(magazine);
        }
        magazine.push(index);
    }

    /// Puts back the half of a magazine that was freed first.
    #[cold]
    fn unload(&self, magazine: &mut Magazine) {
        let half = magazine.len() / 2;
        self.put_back(magazine.first(half));
        magazine.remove_first(half);
    }

    /// Nobody uses the record from now on.
    #[inline]
    fn close(&self, index: ChunkIndex) {
        if watch::ON {
            watch::freed(self.record(index));
        }
        // Whoever still reads it does not find what was there; the sequence word's count goes on.
        #[cfg(fuzzing)]
        self.record(index)[1..].iter().for_each(|word| word.store(0x7EAD_7EAD, Ordering::Relaxed));
        let _ = index;
    }

    /// Marks slots free, those that follow each other in one word at once.
    fn put_back<'r>(&self, records: impl Iterator<Item = &'r ChunkIndex>) {
        // The index of the word's first slot, and the bits of the slots met there.
        let (mut word, mut bits) = (0, 0u32);
        let mut unoffered = 0;
        for &index in records {
            let bit = self.slot_of(index) % 32;
            if index.raw() - bit != word {
                self.free_word(word, bits, &mut unoffered);
                (word, bits) = (index.raw() - bit, 0);
            }
            debug_assert_eq!(bits >> bit & 1, 0, "{index:?} freed twice");
            bits |= 1 << bit;
        }
        self.free_word(word, bits, &mut unoffered);
        self.announce(unoffered);
    }

    /// Marks slots of one word free; `first` is the index of the word's first slot. A superblock that is to be announced
    /// afterwards is left in `unoffered`; the one before it is announced.
    fn free_word(&self, first: u32, bits: u32, unoffered: &mut u32) {
        let Some(first) = ChunkIndex::from_raw(first) else { return };
        let superblock = self.superblock_of(first);
        // Release: pairs with the Acquire swap in `take_words`.
        let word = self.slot_of(first) / 32;
        let before = self.free_bits(superblock)[word as usize].fetch_or(bits, Ordering::Release);
        debug_assert_eq!(before & bits, 0, "slot freed twice in superblock {superblock}");
        reach(Point::SlotsPutBack);
        // What was had a moment ago is likelier to be in the cache than what lies behind it.
        if word < self.cursor.0.load(Ordering::Relaxed) {
            self.cursor.0.store(word, Ordering::Relaxed);
        }
        // If it had free slots already, whoever freed the first of them announces it.
        if before == 0 && *unoffered != superblock {
            self.announce(std::mem::replace(unoffered, superblock));
        }
    }

    /// Offers a superblock that has got free slots, unless it is offered already. (0 is none.) Even if the superblock is
    /// being emptied: whether that is over cannot be told here, and `lends` asks.
    fn announce(&self, superblock: u32) {
        if superblock == 0 {
            return;
        }
        // Pairs with the fence after `withdraw`: either we see the bit cleared, or the look after that sees the slots.
        fence(Ordering::SeqCst);
        if self.available[superblock as usize / 64].load(Ordering::Relaxed) >> (superblock % 64) & 1 == 0 {
            self.offer(superblock);
        }
    }

    /// Whether a slot is marked free.
    pub(crate) fn is_free(&self, index: ChunkIndex) -> bool {
        let slot = self.slot_of(index);
        self.free_bits(self.superblock_of(index))[slot as usize / 32].load(Ordering::Relaxed) >> (slot % 32) & 1 == 1
    }

    /// Number of free slots of a superblock of ours.
    fn free_in(&self, superblock: u32) -> u32 {
        self.free_bits(superblock).iter().map(|bits| bits.load(Ordering::Relaxed).count_ones()).sum()
    }

    /// Our superblocks, each with its number of free slots.
    pub(crate) fn occupancy(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let ours = (FIRST_SUPERBLOCK..self.superblocks.end()).filter(|&index| self.owns(index));
        ours.map(|index| (index, self.free_in(index)))
    }

    /// Number of free slots, not counting those in magazines.
    pub(crate) fn free_count(&self) -> u64 {
        self.occupancy().map(|(_, free)| u64::from(free)).sum()
    }

    /// Slots of one superblock.
    pub(crate) fn slots(&self) -> u32 {
        self.slots
    }

    /// Starts emptying a superblock: no new chunk is taken from it until [`stop_evacuating`](Self::stop_evacuating).
    pub(crate) fn start_evacuating(&self, superblock: u32) {
        self.superblocks.mark(superblock, EVACUATING);
        self.withdraw(superblock);
    }

    /// Takes the superblock back into use.
    pub(crate) fn stop_evacuating(&self, superblock: u32) {
        self.superblocks.unmark(superblock, EVACUATING);
        self.offer(superblock);
    }

    /// Whether the superblock of `index` is being emptied.
    pub(crate) fn is_evacuating(&self, index: ChunkIndex) -> bool {
        self.superblocks.owner(self.superblock_of(index)) & EVACUATING != 0
    }

    /// Retires an empty superblock: takes every slot of it, and after a grace period gives its memory back.
    /// Returns false, with everything as before, if some slot was in use.
    pub(crate) fn retire_superblock(&self, superblock: u32, guard: &Guard) -> bool {
        let words = self.free_bits(superblock);
        let mut taken = Vec::with_capacity(words.len());
        for (word, bits) in words.iter().enumerate() {
            // Acquire: pairs with the Release in `free_word`, so every record's last use is over.
            let bits = bits.swap(0, Ordering::Acquire);
            taken.push(bits);
            reach(Point::SuperblockHalfRetired);
            if bits != self.mask(word) {
                break;
            }
        }
        let complete = taken.len() == words.len() && taken[words.len() - 1] == self.mask(words.len() - 1);
        if !complete {
            let mut unoffered = 0;
            for (word, &bits) in taken.iter().enumerate().filter(|&(_, &bits)| bits != 0) {
                self.free_word(self.index(superblock, word as u32 * 32).raw(), bits, &mut unoffered);
            }
            self.announce(unoffered);
            return false;
        }
        // Relaxed: see `owns`.
        self.superblocks.mark(superblock, RETIRED);
        self.withdraw(superblock);
        self.superblocks.retire(superblock, guard);
        true
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
