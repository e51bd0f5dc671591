//! Rows: chains, their directory, and both of their slabs.

use super::*;
use crate::chain::{Chains, NewChunk, RowLayout};
use crate::config::Optimizer;
use crate::directory::{Directory, Inserted, Probe};
use crate::id::Info;
use crate::magazine::Magazine;
use crate::moment::Moment;
use crate::reclaim::{Retired, Slabs};
use crate::sequence::Gone;
use crate::slab::Slab;
use crate::superblocks::Superblocks;

/// Two slabs on three superblocks of 16 words, and a layout of two one-dimensional chunks.
pub(super) struct Rows {
    layout: RowLayout,
    pub(super) slabs: Arc<Slabs>,
    pub(super) directory: Directory,
    pub(super) moment: Moment,
}

/// What a dimension without a chunk reads as.
pub(super) const MISSING: f32 = -1.0;
/// The hash of the row that the models are about, and its upper half.
pub(super) const HASH: u64 = 5;
const TAG: u32 = 0;
/// Numbers of the slabs.
pub(super) const HEADS: usize = 0;
const TAILS: usize = 1;

impl Rows {
    pub(super) fn none() -> Arc<Rows> {
        Rows::with_images(64)
    }

    /// No rows, and room for so many words of images.
    pub(super) fn with_images(images: usize) -> Arc<Rows> {
        let budget = Arc::new(Budget::new(1 << 20));
        let pool = Arc::new(Superblocks::new(3, 64, Arc::clone(&budget)).unwrap());
        let layout = RowLayout::new(2, 1, &Optimizer::Sgd { lr: 1.0 });
        let heads = Slab::new(HEADS as u32, layout.head_words(), Arc::clone(&pool));
        let tails = Slab::new(TAILS as u32, layout.tail_words(), pool);
        let directory = Directory::new(budget).unwrap();
        let slabs = Arc::new(Slabs::new(vec![heads, tails]));
        Arc::new(Rows { layout, slabs, directory, moment: Moment::new(images as u64 * 8) })
    }

    /// One row, under tag 0, with the given chunks.
    pub(super) fn with(chunks: &[(u8, f32)]) -> (Arc<Rows>, ChunkIndex) {
        let rows = Rows::none();
        let head = rows.enter(HASH, chunks);
        (rows, head)
    }

    /// One more row under tag 0, while no other thread runs.
    pub(super) fn enter(&self, hash: u64, chunks: &[(u8, f32)]) -> ChunkIndex {
        let head = self.alloc(HEADS);
        self.init(head, hash, chunks[0]);
        for &chunk in &chunks[1..] {
            self.grow(head, chunk);
        }
        let inserted = self.directory.insert(TAG, head, no_guard(), |_| Probe::Other);
        assert_eq!(inserted, Ok(Inserted::Done));
        head
    }

    pub(super) fn chains(&self) -> Chains<'_> {
        let records = (self.slabs.get(HEADS), self.slabs.get(TAILS));
        Chains::new(&self.layout, records, (&self.moment, 0))
    }

    fn alloc(&self, slab: usize) -> ChunkIndex {
        let mut magazine = Magazine::default();
        let index = self.slabs.get(slab).alloc(&mut magazine, no_guard()).unwrap();
        self.slabs.get(slab).flush(&mut magazine);
        index
    }

    /// A row of one chunk, in a record that is free and with no entry in the directory.
    pub(super) fn init(&self, head: ChunkIndex, hash: u64, (ordinal, weight): (u8, f32)) {
        let info = Info { utility: 1.0, ordinal };
        self.chains().init_head(head, hash, 0.0, &NewChunk { info, payload: &[weight] });
    }

    fn grow(&self, head: ChunkIndex, (ordinal, weight): (u8, f32)) {
        let chains = self.chains();
        let claim = chains.claim((TAG, head)).unwrap();
        let info = Info { utility: 1.0, ordinal };
        chains.grow(&claim, self.alloc(TAILS), &NewChunk { info, payload: &[weight] });
    }

    /// Enters a row of the key, with one chunk, unless there is one.
    pub(super) fn admit(&self, weight: f32, guard: &Guard) -> bool {
        let head = self.alloc(HEADS);
        self.init(head, HASH, (0, weight));
        self.enter_head(head, guard)
    }

    /// Enters a row of the key, with both chunks.
    pub(super) fn admit_whole(&self, weights: [f32; 2], guard: &Guard) -> bool {
        let head = self.alloc(HEADS);
        self.init(head, HASH, (0, weights[0]));
        let info = Info { utility: 1.0, ordinal: 1 };
        self.chains().grow_unpublished(head, self.alloc(TAILS), &NewChunk { info, payload: &weights[1..] });
        self.enter_head(head, guard)
    }

    fn enter_head(&self, head: ChunkIndex, guard: &Guard) -> bool {
        let entered = self.directory.insert(TAG, head, guard, |head| self.probe(head)).unwrap();
        if entered != Inserted::Done {
            self.chains().discard_head(head);
            self.slabs.get(HEADS).free(head);
        }
        entered == Inserted::Done
    }

    pub(super) fn find(&self, guard: &Guard) -> Option<ChunkIndex> {
        self.directory.find(TAG, guard, |head| self.probe(head))
    }

    /// Some models fill the directory with indices of no record.
    fn probe(&self, head: ChunkIndex) -> Probe {
        if self.slabs.get(HEADS).contains(head) { self.chains().probe(head, HASH) } else { Probe::Other }
    }

    pub(super) fn read(&self, head: ChunkIndex) -> Result<[f32; 2], Gone> {
        let mut out = [0.0; 2];
        let live = self.chains().read(head, &mut out)?;
        (0..2).filter(|&ordinal| !live.contains(ordinal)).for_each(|ordinal| out[ordinal] = MISSING);
        Ok(out)
    }

    pub(super) fn add_to_all(&self, head: ChunkIndex, by: f32) -> Result<(), Gone> {
        let chains = self.chains();
        let claim = chains.claim((TAG, head))?;
        chains.chunks(&claim).for_each(|chunk| add(&chunk.payload[0], by));
        Ok(())
    }

    fn drop_ordinals(&self, head: ChunkIndex, drop: impl Fn(u8) -> bool) -> bool {
        let chains = self.chains();
        let claim = chains.claim((TAG, head)).unwrap();
        chains.shrink(claim, |info| drop(info.ordinal), |_| {}, |_| {}).row_gone
    }

    /// Moves the row to another head record.
    pub(super) fn relocate(&self, head: ChunkIndex, guard: &Guard) -> ChunkIndex {
        let chains = self.chains();
        let claim = chains.claim((TAG, head)).unwrap();
        let to = self.alloc(HEADS);
        assert!(chains.relocate_head(claim, to, || self.directory.relocate(TAG, head, to, guard)));
        to
    }

    /// Moves the row's one tail to another record, and returns the old one.
    fn relocate_tail(&self, head: ChunkIndex) -> ChunkIndex {
        let chains = self.chains();
        let claim = chains.claim((TAG, head)).unwrap();
        let from = chains.chunks(&claim).find_map(|chunk| chunk.tail).unwrap();
        chains.relocate_tail(&claim, from, self.alloc(TAILS));
        from
    }

    /// Ends the row and retires its head.
    pub(super) fn evict(&self, head: ChunkIndex, guard: &Guard) {
        let chains = self.chains();
        assert!(chains.shrink(chains.claim((TAG, head)).unwrap(), |_| true, |_| {}, |_| {}).row_gone);
        assert!(self.directory.remove(TAG, head, guard));
        self.retire_head(head, guard);
    }

    pub(super) fn retire_head(&self, head: ChunkIndex, guard: &Guard) {
        Retired::new(&self.slabs, guard).push(HEADS, head);
    }
}

#[test]
fn chain_a_read_is_before_or_after_a_growth() {
    explore("chain: read, grow", 2, || {
        let (rows, head) = Rows::with(&[(0, 5.0)]);
        let theirs = Arc::clone(&rows);
        let thread = spawn(move || {
            let chains = theirs.chains();
            let claim = chains.claim((TAG, head)).unwrap();
            let info = Info { utility: 0.0, ordinal: 1 };
            chains.grow(&claim, theirs.alloc(TAILS), &NewChunk { info, payload: &[7.0] });
            chains.chunks(&claim).for_each(|chunk| add(&chunk.payload[0], 1.0));
        });
        let seen = rows.read(head).unwrap();
        assert!(seen == [5.0, MISSING] || seen == [6.0, 8.0], "{seen:?}");
        thread.join().unwrap();
        assert_eq!(rows.read(head).unwrap(), [6.0, 8.0]);
    });
}

#[test]
fn chain_a_read_is_before_or_after_the_head_chunk_went() {
    explore("chain: read, shrink", 2, || {
        let (rows, head) = Rows::with(&[(0, 3.0), (1, 4.0)]);
        let theirs = Arc::clone(&rows);
        let thread = spawn(move || assert!(!theirs.drop_ordinals(head, |ordinal| ordinal == 0)));
        let seen = rows.read(head).unwrap();
        assert!(seen == [3.0, 4.0] || seen == [MISSING, 4.0], "{seen:?}");
        thread.join().unwrap();
        assert_eq!(rows.read(head).unwrap(), [MISSING, 4.0]);
    });
}

#[test]
fn chain_an_update_is_not_lost_to_a_shrink() {
    explore("chain: update, shrink", 2, || {
        let (rows, head) = Rows::with(&[(0, 3.0), (1, 4.0)]);
        let theirs = Arc::clone(&rows);
        let thread = spawn(move || assert!(!theirs.drop_ordinals(head, |ordinal| ordinal == 0)));
        rows.add_to_all(head, 1.0).unwrap();
        thread.join().unwrap();
        assert_eq!(rows.read(head).unwrap(), [MISSING, 5.0]);
    });
}

#[test]
fn chain_an_update_comes_before_the_end_of_a_row_or_learns_of_it() {
    explore("chain: update, kill", 3, || {
        let (rows, head) = Rows::with(&[(0, 3.0)]);
        let theirs = Arc::clone(&rows);
        let thread = spawn(move || {
            let chains = theirs.chains();
            let claim = chains.claim((TAG, head)).unwrap();
            let last = f32::from_bits(chains.chunks(&claim).next().unwrap().payload[0].load(Ordering::Relaxed));
            assert!(chains.shrink(claim, |_| true, |_| {}, |_| {}).row_gone);
            last
        });
        let updated = rows.add_to_all(head, 1.0);
        let last = thread.join().unwrap();
        assert_eq!(last, if updated.is_ok() { 4.0 } else { 3.0 });
        assert_eq!(rows.read(head), Err(Gone));
    });
}

#[test]
fn chain_a_read_is_whole_while_a_tail_moves() {
    explore("chain: read, move tail and update", 3, || {
        let (rows, head) = Rows::with(&[(0, 3.0), (1, 3.0)]);
        let theirs = Arc::clone(&rows);
        let thread = spawn(move || {
            theirs.relocate_tail(head);
            theirs.add_to_all(head, 1.0).unwrap();
        });
        let seen = rows.read(head).unwrap();
        assert!(seen == [3.0, 3.0] || seen == [4.0, 4.0], "{seen:?}");
        thread.join().unwrap();
        assert_eq!(rows.read(head).unwrap(), [4.0, 4.0]);
    });
}

#[test]
fn chain_an_update_is_not_lost_to_a_tail_that_moves() {
    explore("chain: update, move tail", 3, || {
        let (rows, head) = Rows::with(&[(0, 3.0), (1, 3.0)]);
        let theirs = Arc::clone(&rows);
        let thread = spawn(move || theirs.relocate_tail(head));
        rows.add_to_all(head, 1.0).unwrap();
        thread.join().unwrap();
        assert_eq!(rows.read(head).unwrap(), [4.0, 4.0]);
    });
}

#[test]
fn row_that_is_admitted_is_read_whole() {
    explore("row: find and read, admit", 3, || {
        let rows = Rows::none();
        let theirs = Arc::clone(&rows);
        let thread = spawn(move || assert!(theirs.admit_whole([5.0, 6.0], no_guard())));
        // Whatever the tag leads to is the row, with its key.
        let there = rows.directory.find(TAG, no_guard(), |_| Probe::Found);
        assert_eq!(there.map(|head| rows.chains().probe(head, HASH)), there.map(|_| Probe::Found));
        assert_eq!(there.map(|head| rows.read(head)), there.map(|_| Ok([5.0, 6.0])));
        thread.join().unwrap();
        let head = rows.find(no_guard()).unwrap();
        assert_eq!(rows.read(head), Ok([5.0, 6.0]));
    });
}

#[test]
fn row_that_stages_lead_to_is_read_whole() {
    explore("row: stages and read, admit", 3, || {
        let rows = Rows::none();
        let theirs = Arc::clone(&rows);
        let thread = spawn(move || assert!(theirs.admit(5.0, no_guard())));
        let there = {
            let guard = no_guard();
            let search = rows.directory.search(guard);
            search.approach(search.set_out(TAG), TAG).through_all_stages(TAG, guard)
        };
        assert_eq!(there.map(|head| rows.chains().has(head, HASH)), there.map(|_| true));
        assert_eq!(there.map(|head| rows.read(head)), there.map(|_| Ok([5.0, MISSING])));
        thread.join().unwrap();
    });
}

#[test]
fn row_admitted_by_two_threads_is_one_row() {
    explore("row: admit and update, the same", 2, || {
        let rows = Rows::none();
        let admit = |rows: &Rows| {
            let admitted = rows.admit(5.0, no_guard());
            rows.add_to_all(rows.find(no_guard()).unwrap(), 1.0).unwrap();
            admitted
        };
        let theirs = Arc::clone(&rows);
        let thread = spawn(move || admit(&theirs));
        let ours = admit(&rows);
        assert_ne!(ours, thread.join().unwrap());
        assert_eq!(rows.read(rows.find(no_guard()).unwrap()), Ok([7.0, MISSING]));
        let heads = rows.slabs.get(HEADS);
        let in_use: u32 = heads.occupancy().map(|(_, free)| heads.slots() - free).sum();
        assert_eq!(in_use, 1, "the head that came too late is free again");
    });
}

#[test]
fn row_that_moves_is_always_found_and_keeps_every_update() {
    explore("row: find and update, move", 2, || {
        let (rows, head) = Rows::with(&[(0, 3.0)]);
        let theirs = Arc::clone(&rows);
        let thread = spawn(move || theirs.relocate(head, no_guard()));
        loop {
            let found = rows.find(no_guard()).expect("a row that moves is there all the time");
            if rows.add_to_all(found, 1.0).is_ok() {
                break;
            }
        }
        let to = thread.join().unwrap();
        assert_eq!(rows.find(no_guard()), Some(to));
        assert_eq!(rows.read(to).unwrap(), [4.0, MISSING]);
        assert_eq!(rows.read(head), Err(Gone));
    });
}

#[test]
fn row_that_moves_twice_is_always_found() {
    explore("row: find, move and move", 3, || {
        let (rows, head) = Rows::with(&[(0, 3.0)]);
        let theirs = Arc::clone(&rows);
        let thread = spawn(move || theirs.relocate(theirs.relocate(head, no_guard()), no_guard()));
        assert!(rows.find(no_guard()).is_some(), "a row that moves is there all the time");
        let to = thread.join().unwrap();
        assert_eq!(rows.find(no_guard()), Some(to));
    });
}

#[test]
fn row_that_moves_twice_is_not_admitted_again() {
    explore("row: admit, move and move", 3, || {
        let (rows, head) = Rows::with(&[(0, 3.0)]);
        let theirs = Arc::clone(&rows);
        let thread = spawn(move || theirs.relocate(theirs.relocate(head, no_guard()), no_guard()));
        assert!(!rows.admit(5.0, no_guard()), "a row that moves is there all the time");
        let to = thread.join().unwrap();
        assert_eq!(rows.find(no_guard()), Some(to));
    });
}

#[test]
fn row_that_a_walk_meets_is_whole() {
    explore("row: walk, admit", 3, || {
        let rows = Rows::none();
        let theirs = Arc::clone(&rows);
        let thread = spawn(move || assert!(theirs.admit(5.0, no_guard())));
        rows.directory.walk(0, no_guard(), |tag, head| {
            assert_eq!(rows.chains().hash(tag, head), HASH);
            assert_eq!(rows.read(head), Ok([5.0, MISSING]));
        });
        thread.join().unwrap();
    });
}

#[test]
fn row_is_read_whole_from_a_segment_that_another_thread_copied() {
    explore("row: find, admit, replace segment", 2, || {
        let rows = Rows::none();
        rows.directory.insert(TAG, index(1000), no_guard(), |_| Probe::Other).unwrap();
        let [guard, admitter, replacer] = pins();
        let theirs = Arc::clone(&rows);
        let admit = spawn(move || (theirs.admit(5.0, &admitter), admitter));
        let theirs = Arc::clone(&rows);
        let replace = spawn(move || {
            // The segment has room for one of the two rows, and then it is replaced.
            theirs.directory.insert(TAG, index(1001), &replacer, |_| Probe::Other).unwrap();
            replacer
        });
        let found =
            rows.directory.find(TAG, &guard, |found| if found.raw() < 1000 { Probe::Found } else { Probe::Other });
        assert_eq!(found.map(|head| rows.chains().probe(head, HASH)), found.map(|_| Probe::Found));
        assert_eq!(found.map(|head| rows.read(head)), found.map(|_| Ok([5.0, MISSING])));
        let (admitted, _admitter) = admit.join().unwrap();
        let _replacer = replace.join().unwrap();
        assert!(admitted && rows.find(&guard).is_some());
    });
}

#[test]
fn row_that_moves_is_never_read_torn() {
    explore("row: read, move and update", 2, || {
        let (rows, head) = Rows::with(&[(0, 3.0), (1, 3.0)]);
        let theirs = Arc::clone(&rows);
        let thread = spawn(move || {
            let to = theirs.relocate(head, no_guard());
            theirs.add_to_all(to, 1.0).unwrap();
        });
        // The old head's tails are the new head's: the old sequence word has to say so.
        if let Ok(seen) = rows.read(head) {
            assert_eq!(seen, [3.0, 3.0], "read through the old head after the new one was written");
        }
        thread.join().unwrap();
    });
}

#[test]
fn row_that_moves_out_of_a_frozen_segment_is_always_found() {
    explore("row: find, replace segment and move", 2, || {
        let (rows, head) = Rows::with(&[(0, 3.0)]);
        let [guard, their_guard] = pins();
        // The one bucket of the segment is full, so the next insert replaces it.
        rows.directory.insert(1 << 31, index(1000), no_guard(), |_| Probe::Other).unwrap();
        let theirs = Arc::clone(&rows);
        let thread = spawn(move || {
            theirs.directory.insert(1 << 31, index(1001), &their_guard, |_| Probe::Other).unwrap();
            (theirs.relocate(head, &their_guard), their_guard)
        });
        assert!(rows.find(&guard).is_some(), "a row that moves is there all the time");
        let (to, _their_guard) = thread.join().unwrap();
        assert_eq!(rows.find(&guard), Some(to));
    });
}
