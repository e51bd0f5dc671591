//! Models of what threads do to each other, run by loom in every interleaving: `.ci/loom.sh`.
//!
//! Two or three threads, superblocks of 64 bytes, buckets of two slots. Where nothing is reclaimed the guard is an
//! unprotected one, because a real pin multiplies the interleavings; models about reclamation pin for real. Each model
//! has the bound on preemptions with which it ends within seconds; `LOOM_MAX_PREEMPTIONS` can lower it.

use crate::budget::Budget;
use crate::chain::{Chains, NewChunk, RowLayout};
use crate::config::Optimizer;
use crate::directory::{Directory, Inserted, Probe};
use crate::id::{ChunkIndex, Info};
use crate::sequence::{self, Gone};
use crate::slab::{AllocError, Magazine, Slab, Superblocks};
use crate::sync::{AtomicU32, Ordering};
use crossbeam_epoch::{Collector, Guard};
use std::sync::{Arc, Mutex};

/// Explores `body` with at most `preemptions` switches away from a thread that could go on.
fn explore(name: &str, preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(builder.preemption_bound.map_or(preemptions, |bound| bound.min(preemptions)));
    let executions = Arc::new(Mutex::new(0u64));
    let count = Arc::clone(&executions);
    let start = std::time::Instant::now();
    builder.check(move || {
        *count.lock().unwrap() += 1;
        body();
    });
    eprintln!("{name}: {} executions in {:.1} s", executions.lock().unwrap(), start.elapsed().as_secs_f64());
}

fn spawn<T: 'static>(body: impl FnOnce() -> T + 'static) -> loom::thread::JoinHandle<T> {
    loom::thread::spawn(body)
}

/// A guard for models in which nothing is reclaimed.
fn no_guard() -> &'static Guard {
    // SAFETY: the models that use it retire nothing while another thread runs.
    unsafe { crossbeam_epoch::unprotected() }
}

fn words<const N: usize>(values: [u32; N]) -> Arc<[AtomicU32]> {
    values.map(AtomicU32::new).into_iter().collect()
}

fn add(word: &AtomicU32, by: f32) {
    let before = f32::from_bits(word.load(Ordering::Relaxed));
    word.store((before + by).to_bits(), Ordering::Relaxed);
}

// ===== The model checker itself

/// Loom as published never tries the exchange before the load.
#[test]
fn canary_the_checker_sees_an_exchange_before_a_load() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let values = Arc::clone(&seen);
    explore("canary", 2, move || {
        let word = Arc::new(AtomicU32::new(0));
        let theirs = Arc::clone(&word);
        let thread = spawn(move || {
            let before = theirs.load(Ordering::Relaxed);
            let _ = theirs.compare_exchange(before, before + 1, Ordering::Relaxed, Ordering::Relaxed);
        });
        values.lock().unwrap().push(word.load(Ordering::Relaxed));
        thread.join().unwrap();
    });
    let seen = seen.lock().unwrap();
    assert!(
        seen.contains(&0) && seen.contains(&1),
        "only {seen:?}: this loom is not corrected, see .ci/correct_loom.py"
    );
}

// ===== The sequence word

fn pair(record: &[AtomicU32]) -> (u32, u32) {
    (record[1].load(Ordering::Relaxed), record[2].load(Ordering::Relaxed))
}

fn started() -> Arc<[AtomicU32]> {
    let record = words([0, 0, 0]);
    sequence::start(&record);
    record
}

#[test]
fn sequence_a_reader_never_sees_half_a_write() {
    explore("sequence: read, write, write", 3, || {
        let record = started();
        let theirs = Arc::clone(&record);
        let writer = spawn(move || {
            for value in 1..3 {
                let claim = sequence::claim(&theirs).unwrap();
                claim.record[1].store(value, Ordering::Relaxed);
                claim.record[2].store(value, Ordering::Relaxed);
            }
        });
        let (one, other) = sequence::read(&record, || Some(pair(&record))).unwrap();
        assert_eq!(one, other, "torn");
        writer.join().unwrap();
        assert_eq!(sequence::read(&record, || Some(pair(&record))).unwrap(), (2, 2), "an update that returned is seen");
    });
}

#[test]
fn sequence_writers_lose_no_update() {
    explore("sequence: write, write", 3, || {
        let record = started();
        let increment = |record: &[AtomicU32]| {
            let claim = sequence::claim(record).unwrap();
            let (one, other) = pair(claim.record);
            assert_eq!(one, other, "a writer sees the last writer's words");
            claim.record[1].store(one + 1, Ordering::Relaxed);
            claim.record[2].store(other + 1, Ordering::Relaxed);
        };
        let theirs = Arc::clone(&record);
        let thread = spawn(move || increment(&theirs));
        increment(&record);
        thread.join().unwrap();
        assert_eq!(pair(&record), (2, 2));
    });
}

#[test]
fn sequence_a_reader_that_loses_patience_keeps_writers_whole() {
    explore("sequence: read, write x 3", 2, || {
        let record = started();
        let theirs = Arc::clone(&record);
        let writer = spawn(move || {
            for _ in 0..3 {
                let claim = sequence::claim(&theirs).unwrap();
                let (one, _) = pair(claim.record);
                claim.record[1].store(one + 1, Ordering::Relaxed);
                claim.record[2].store(one + 1, Ordering::Relaxed);
            }
        });
        let (one, other) = sequence::read(&record, || Some(pair(&record))).unwrap();
        assert_eq!(one, other, "torn");
        writer.join().unwrap();
        assert_eq!(pair(&record), (3, 3));
    });
}

// ===== Rows

/// Two slabs on three superblocks of 16 words, and a layout of two one-dimensional chunks.
struct Rows {
    layout: RowLayout,
    heads: Slab,
    tails: Slab,
    directory: Directory,
}

const MISSING: f32 = -1.0;

impl Rows {
    /// One row, under tag 0, with the given chunks.
    fn with(chunks: &[(u8, f32)]) -> (Arc<Rows>, ChunkIndex) {
        let budget = Arc::new(Budget::new(1 << 20));
        let pool = Arc::new(Superblocks::new(3, 64, Arc::clone(&budget)).unwrap());
        let layout = RowLayout::new(2, 1, &Optimizer::Sgd { lr: 1.0 });
        let heads = Slab::new(0, layout.head_words(), Arc::clone(&pool));
        let tails = Slab::new(1, layout.tail_words(), pool);
        let rows = Rows { layout, heads, tails, directory: Directory::new(budget).unwrap() };
        let chains = rows.chains();
        let mut magazines = [Magazine::default(), Magazine::default()];
        let head = rows.heads.alloc(&mut magazines[0], no_guard()).unwrap();
        let chunk = |&(ordinal, weight): &(u8, f32)| (Info { utility: 1.0, ordinal }, [weight]);
        let (info, payload) = chunk(&chunks[0]);
        chains.init_head(head, KEY, 0.0, &NewChunk { info, payload: &payload });
        for (info, payload) in chunks[1..].iter().map(chunk) {
            let tail = rows.tails.alloc(&mut magazines[1], no_guard()).unwrap();
            chains.grow(&chains.claim(head).unwrap(), tail, &NewChunk { info, payload: &payload });
        }
        rows.heads.flush(&mut magazines[0]);
        rows.tails.flush(&mut magazines[1]);
        let inserted = rows.directory.insert(TAG, head, no_guard(), |_| Probe::Other);
        assert_eq!(inserted, Ok(Inserted::Done));
        (Arc::new(rows), head)
    }

    fn chains(&self) -> Chains<'_> {
        Chains { layout: &self.layout, heads: &self.heads, tails: &self.tails }
    }

    fn find(&self, guard: &Guard) -> Option<ChunkIndex> {
        self.directory.find(TAG, guard, |head| self.chains().probe(head, KEY))
    }

    fn read(&self, head: ChunkIndex) -> Result<[f32; 2], Gone> {
        let mut out = [0.0; 2];
        self.chains().read(head, &mut out, |out| out.fill(MISSING)).map(|_| out)
    }

    fn add_to_all(&self, head: ChunkIndex, by: f32) -> Result<(), Gone> {
        let chains = self.chains();
        let claim = chains.claim(head)?;
        chains.chunks(&claim).for_each(|chunk| add(&chunk.payload[0], by));
        Ok(())
    }

    fn drop_ordinals(&self, head: ChunkIndex, drop: impl Fn(u8) -> bool) -> bool {
        let chains = self.chains();
        let claim = chains.claim(head).unwrap();
        chains.shrink(claim, |info| drop(info.ordinal), |_| {}, |_| {}).row_gone
    }

    /// Moves the row to another head record.
    fn relocate(&self, head: ChunkIndex, guard: &Guard) -> ChunkIndex {
        let chains = self.chains();
        let claim = chains.claim(head).unwrap();
        let to = self.heads.alloc(&mut Magazine::default(), no_guard()).unwrap();
        assert!(chains.relocate_head(claim, to, || self.directory.relocate(TAG, head, to, guard)));
        to
    }
}

const KEY: u64 = 77 << 32 | 5;
const TAG: u32 = 0;

#[test]
fn chain_a_read_is_before_or_after_a_growth() {
    explore("chain: read, grow", 2, || {
        let (rows, head) = Rows::with(&[(0, 5.0)]);
        let theirs = Arc::clone(&rows);
        let thread = spawn(move || {
            let chains = theirs.chains();
            let claim = chains.claim(head).unwrap();
            let tail = theirs.tails.alloc(&mut Magazine::default(), no_guard()).unwrap();
            chains.grow(&claim, tail, &NewChunk { info: Info { utility: 0.0, ordinal: 1 }, payload: &[7.0] });
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
            let claim = chains.claim(head).unwrap();
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
        let collector = Collector::new();
        let other = ChunkIndex::from_raw(1000).unwrap();
        // The one bucket of the segment is full, so the next insert replaces it.
        rows.directory.insert(1 << 31, other, no_guard(), |_| Probe::Other).unwrap();
        let (theirs, their_collector) = (Arc::clone(&rows), collector.clone());
        let thread = spawn(move || {
            let handle = their_collector.register();
            let guard = handle.pin();
            let third = ChunkIndex::from_raw(1001).unwrap();
            theirs.directory.insert(1 << 31, third, &guard, |_| Probe::Other).unwrap();
            theirs.relocate(head, &guard)
        });
        let handle = collector.register();
        assert!(rows.find(&handle.pin()).is_some(), "a row that moves is there all the time");
        let to = thread.join().unwrap();
        assert_eq!(rows.find(&handle.pin()), Some(to));
    });
}

// ===== The slab

fn slab_of(record_words: usize, superblocks: u32) -> (Arc<Slab>, Arc<Superblocks>) {
    let pool = Arc::new(Superblocks::new(superblocks, 64, Arc::new(Budget::new(1 << 20))).unwrap());
    (Arc::new(Slab::new(0, record_words, Arc::clone(&pool))), pool)
}

/// Words of a record that fills a superblock.
const WHOLE: usize = 14;

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
        let index = slab.alloc(&mut Magazine::default(), no_guard()).unwrap();
        slab.free(index);
        let (theirs, their_collector) = (Arc::clone(&slab), collector.clone());
        let thread = spawn(move || {
            let handle = their_collector.register();
            let guard = handle.pin();
            theirs.alloc_existing(&mut Magazine::default(), &guard)
        });
        let handle = collector.register();
        let retired = slab.retire_superblock(1, &handle.pin());
        for _ in 0..3 {
            handle.pin().flush();
        }
        let other = Slab::new(1, WHOLE, pool);
        let reused = other.alloc(&mut Magazine::default(), &handle.pin());
        if let Ok(reused) = reused {
            // Free again, but the other slab's: a thread that looked before the grace period must not find it.
            other.free(reused);
        }
        let lent = thread.join().unwrap();
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
        let collector = Collector::new();
        let index = slab.alloc(&mut Magazine::default(), no_guard()).unwrap();
        let theirs = Arc::clone(&slab);
        // Marks the slot free, then offers the superblock, between which it can be given to another slab.
        let thread = spawn(move || theirs.free(index));
        let handle = collector.register();
        slab.retire_superblock(1, &handle.pin());
        for _ in 0..3 {
            handle.pin().flush();
        }
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

// ===== The directory

fn index(raw: u32) -> ChunkIndex {
    ChunkIndex::from_raw(raw).unwrap()
}

/// Tags that begin with a 0 and with a 1 bit, so that a split parts them.
const LOW: u32 = 7;
const HIGH: u32 = 1 << 31 | 7;

/// Rows of a segment of two buckets that the next insert splits.
const FULL: [(u32, u32); 3] = [(LOW, 21), (HIGH, 31), (LOW, 41)];

/// An index stands for the key `raw / 10`.
fn probe(key: u32) -> impl Fn(ChunkIndex) -> Probe {
    move |found| if found.raw() / 10 == key { Probe::Found } else { Probe::Other }
}

fn directory(rows: &[(u32, u32)]) -> (Arc<Budget>, Arc<Directory>) {
    let budget = Arc::new(Budget::new(1 << 20));
    let directory = Directory::new(Arc::clone(&budget)).unwrap();
    for &(tag, raw) in rows {
        directory.insert(tag, index(raw), no_guard(), |_| Probe::Other).unwrap();
    }
    (budget, Arc::new(directory))
}

fn exactly_one(ours: Inserted, theirs: Inserted, [our_index, their_index]: [u32; 2]) {
    let done = match (ours, theirs) {
        (Inserted::Done, Inserted::Exists(there)) => there == index(our_index),
        (Inserted::Exists(there), Inserted::Done) => there == index(their_index),
        _ => false,
    };
    assert!(done, "{ours:?}, {theirs:?}");
}

#[test]
fn directory_one_of_two_inserts_of_a_key_wins() {
    explore("directory: insert, insert", 3, || {
        let (_, directory) = directory(&[]);
        let theirs = Arc::clone(&directory);
        let thread = spawn(move || theirs.insert(LOW, index(11), no_guard(), probe(1)).unwrap());
        let ours = directory.insert(LOW, index(12), no_guard(), probe(1)).unwrap();
        exactly_one(ours, thread.join().unwrap(), [12, 11]);
    });
}

#[test]
fn directory_one_of_two_inserts_wins_across_a_replacement() {
    explore("directory: insert, insert, replace", 2, || {
        let (budget, directory) = directory(&[(LOW, 21), (HIGH, 31)]);
        let collector = Collector::new();
        let (theirs, their_collector) = (Arc::clone(&directory), collector.clone());
        let thread = spawn(move || {
            let handle = their_collector.register();
            theirs.insert(HIGH, index(11), &handle.pin(), probe(1)).unwrap()
        });
        let handle = collector.register();
        let ours = directory.insert(HIGH, index(12), &handle.pin(), probe(1)).unwrap();
        exactly_one(ours, thread.join().unwrap(), [12, 11]);
        let guard = handle.pin();
        assert_eq!(directory.find(LOW, &guard, probe(2)), Some(index(21)));
        assert_eq!(directory.find(HIGH, &guard, probe(3)), Some(index(31)));
        assert!(directory.find(HIGH, &guard, probe(1)).is_some());
        assert_eq!(budget.held(), directory.bytes() + budget.awaiting(), "reservations that were not used came back");
    });
}

#[test]
fn directory_an_insert_heeds_the_freeze() {
    explore("directory: insert, insert, insert and split", 2, || {
        // The fourth row splits the segment, so the lower half begins with two rows in four slots, room for one more.
        let (_, directory) = directory(&[(LOW, 21), (HIGH, 31), (LOW, 41), (HIGH, 51)]);
        let collector = Collector::new();
        let (theirs, their_collector) = (Arc::clone(&directory), collector.clone());
        let thread = spawn(move || {
            let handle = their_collector.register();
            theirs.insert(LOW, index(11), &handle.pin(), probe(1)).unwrap()
        });
        let handle = collector.register();
        let guard = handle.pin();
        let ours = directory.insert(LOW, index(12), &guard, probe(1)).unwrap();
        // Freezes our row's word before it comes to the last, empty slot. The thread, which may have seen room before,
        // must not go on to that slot.
        directory.insert(LOW, index(61), &guard, probe(6)).unwrap();
        drop(guard);
        exactly_one(ours, thread.join().unwrap(), [12, 11]);
    });
}

#[test]
fn directory_a_removal_is_not_lost_in_a_split() {
    explore("directory: remove, insert and split", 2, || {
        let (_, directory) = directory(&FULL);
        let collector = Collector::new();
        let (theirs, their_collector) = (Arc::clone(&directory), collector.clone());
        let thread = spawn(move || {
            let handle = their_collector.register();
            theirs.insert(LOW, index(11), &handle.pin(), probe(1)).unwrap()
        });
        let handle = collector.register();
        assert!(directory.remove(HIGH, index(31), &handle.pin()));
        assert_eq!(thread.join().unwrap(), Inserted::Done);
        let guard = handle.pin();
        assert_eq!(directory.find(HIGH, &guard, probe(3)), None);
        assert_eq!(directory.find(LOW, &guard, probe(2)), Some(index(21)));
        assert_eq!(directory.find(LOW, &guard, probe(1)), Some(index(11)));
    });
}

#[test]
fn directory_a_row_is_found_throughout_a_split() {
    explore("directory: find, insert and split", 2, || {
        let (_, directory) = directory(&FULL);
        let collector = Collector::new();
        let (theirs, their_collector) = (Arc::clone(&directory), collector.clone());
        let thread = spawn(move || {
            let handle = their_collector.register();
            theirs.insert(LOW, index(11), &handle.pin(), probe(1)).unwrap();
        });
        let handle = collector.register();
        assert_eq!(directory.find(HIGH, &handle.pin(), probe(3)), Some(index(31)));
        thread.join().unwrap();
    });
}

#[test]
fn directory_a_row_is_found_while_a_node_takes_a_segments_place() {
    explore("directory: find, insert and deepen", 2, || {
        // A full segment for the tags that begin with a 0 bit: its depth is 1, which is all that a root slot can tell.
        let quarter = 1 << 30;
        let rows = [(LOW, 21), (HIGH, 31), (LOW | quarter, 41), (HIGH, 51), (LOW, 61)];
        let (_, directory) = directory(&rows);
        let collector = Collector::new();
        let (theirs, their_collector) = (Arc::clone(&directory), collector.clone());
        let thread = spawn(move || {
            let handle = their_collector.register();
            theirs.insert(LOW, index(11), &handle.pin(), probe(1)).unwrap();
        });
        let handle = collector.register();
        assert_eq!(directory.find(LOW, &handle.pin(), probe(2)), Some(index(21)));
        thread.join().unwrap();
        assert_eq!(directory.find(LOW | quarter, &handle.pin(), probe(4)), Some(index(41)));
        assert_eq!(directory.find(LOW, &handle.pin(), probe(1)), Some(index(11)));
    });
}
