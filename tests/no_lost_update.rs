//! No update of a row that stays is lost while the policy prunes its neighbours, rounds move it and others list it.

use dimslab::{Decay, Events, FiitedConfig, Optimizer, Policy, Store, StoreConfig, TableConfig, TableId};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const DIM: usize = 24;
const CHUNK: usize = 4;
const CHUNKS: usize = DIM / CHUNK;
const KEPT: u64 = 40;
/// Kept rows lie among others that go, so that their superblocks run sparse and they have to move.
const APART: u64 = 100;
const BUDGET: u64 = 1 << 20;

fn duration() -> Duration {
    let seconds = std::env::var("DIMSLAB_STRESS_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs_f64(seconds.unwrap_or(1.5))
}

/// Longer than it takes on the slowest machine until everything that is to happen has happened.
const LIMIT: Duration = Duration::from_secs(60);

/// What has to happen beside the updates for them to show anything, and for how long they go on.
struct Course {
    begin: Instant,
    duration: Duration,
    /// Chunks that rounds asked for here have moved.
    moved: AtomicU64,
    /// Rows that were listed.
    listed: AtomicU64,
}

impl Course {
    /// 3500 go with every wave by hand; the policy takes single chunks, which removal does not.
    fn is_complete(&self, events: &Events) -> bool {
        let (moved, listed) = (self.moved.load(Ordering::Relaxed), self.listed.load(Ordering::Relaxed));
        moved > 0 && listed > 0 && events.shrunk > 1000 && events.refused > 0
    }

    fn is_over(&self, store: &Store) -> bool {
        let passed = self.begin.elapsed();
        passed >= self.duration && (passed >= self.duration + LIMIT || self.is_complete(&store.stats().events))
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

fn kept(row: usize) -> u64 {
    row as u64 * APART
}

/// Adds 1 to chunks at random until all is over. Returns how often it was added to each chunk of each row.
fn add_ones(store: &Store, course: &Course, seed: u64) -> Vec<u32> {
    let t = TableId::new(0);
    let mut random = Random(seed);
    let mut added = vec![0; KEPT as usize * CHUNKS];
    for turn in 1u64.. {
        let mut keys = Vec::new();
        let mut grads = Vec::new();
        for _ in 0..24 {
            let (row, chunk) = (random.below(KEPT) as usize, random.below(CHUNKS as u64) as usize);
            keys.push(kept(row));
            grads.extend((0..DIM).map(|dim| if dim / CHUNK == chunk { -1.0 } else { 0.0 }));
            added[row * CHUNKS + chunk] += 1;
        }
        let applied = store.apply_gradients(t, &keys, &grads).unwrap();
        assert_eq!((applied.updated, applied.missed), (applied.unique, 0), "a row that is kept alive was missed");
        // Utilities decay with steps, and every chunk is used about as often as there are steps.
        if turn % 20 == 0 {
            store.step().unwrap();
            if course.is_over(store) {
                break;
            }
        }
    }
    added
}

/// Rows of little importance, made in waves, so that the budget is always full and the policy has to choose.
fn crowd(store: &Store, course: &Course) {
    let t = TableId::new(0);
    let mut random = Random(99);
    while !course.is_over(store) {
        let from = 1_000_000 + random.below(40_000);
        for _ in 0..30 {
            let keys: Vec<u64> = (0..200).map(|_| from + random.below(4000)).collect();
            let size = (random.below(100) + 1) as f32 * 1e-4;
            store.apply_gradients(t, &keys, &vec![size; keys.len() * DIM]).unwrap();
        }
        // And many go at once, so that superblocks run sparse.
        for key in from..from + 3500 {
            store.remove(t, key).unwrap();
        }
    }
}

/// Lists the kept rows over and over: whole chunks, each one number.
fn list(store: &Store, course: &Course) {
    while !course.is_over(store) {
        for row in store.iter(TableId::new(0)).unwrap().filter(|row| row.key < KEPT * APART) {
            assert_eq!(row.live.len(), CHUNKS, "a chunk that is kept alive was pruned");
            assert!(row.values.chunks(CHUNK).all(|chunk| chunk.iter().all(|value| *value == chunk[0])), "{row:?}");
            course.listed.fetch_add(1, Ordering::Relaxed);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn prune(store: &Store, course: &Course) {
    while !course.is_over(store) {
        course.moved.fetch_add(store.prune().unwrap().moved, Ordering::Relaxed);
        let stats = store.stats();
        assert!(stats.held <= BUDGET && stats.peak <= BUDGET);
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A store with the kept rows, whole, all of them 0, and far apart.
fn store_of_kept_rows() -> Store {
    let policy = FiitedConfig {
        period_steps: 4,
        warmup_steps: 1,
        headroom: 0.1,
        decay: Decay::PerStep(0.99),
        ..FiitedConfig::default()
    };
    let config = StoreConfig::new(BUDGET).policy(Policy::Fiited(policy));
    let table = TableConfig::new("t", DIM).chunk(CHUNK).optimizer(Optimizer::Sgd { lr: 1.0 });
    let store = Store::new(config, vec![table]).unwrap();
    let t = TableId::new(0);
    // Nothing is full yet, so that all are made whole; the first gradients of a row change no weights.
    let first: Vec<u64> = (0..KEPT * APART).collect();
    for keys in first.chunks(200) {
        let important = |key: u64| if key.is_multiple_of(APART) { 10.0 } else { 1e-4 };
        let grads: Vec<f32> = keys.iter().flat_map(|&key| [important(key); DIM]).collect();
        let made = store.apply_gradients(t, keys, &grads).unwrap();
        assert_eq!((made.admitted, made.refused), (200, 0));
    }
    for key in first.iter().filter(|key| !key.is_multiple_of(APART)) {
        store.remove(t, *key).unwrap();
    }
    store
}

#[test]
fn every_one_that_was_added_is_there_while_neighbours_are_pruned_and_rows_move_and_are_listed() {
    let store = &store_of_kept_rows();
    let (moved, listed) = (AtomicU64::new(0), AtomicU64::new(0));
    let course = &Course { begin: Instant::now(), duration: duration(), moved, listed };
    let added = std::thread::scope(|scope| {
        let adders: Vec<_> = (1..=3).map(|seed| scope.spawn(move || add_ones(store, course, seed * 77))).collect();
        scope.spawn(move || crowd(store, course));
        scope.spawn(move || list(store, course));
        scope.spawn(move || prune(store, course));
        let mut total = vec![0u32; KEPT as usize * CHUNKS];
        for adder in adders {
            total.iter_mut().zip(adder.join().unwrap()).for_each(|(total, count)| *total += count);
        }
        total
    });
    store.validate().unwrap();
    for row in 0..KEPT as usize {
        let mut values = [f32::NAN; DIM];
        store.gather(TableId::new(0), &[kept(row)], &mut values).unwrap();
        for (chunk, values) in values.chunks(CHUNK).enumerate() {
            let expected = added[row * CHUNKS + chunk];
            assert!(expected < 1 << 24, "more than an f32 counts");
            assert_eq!(values, [expected as f32; CHUNK], "row {row}, chunk {chunk}");
        }
    }
    let (events, ones) = (store.stats().events, added.iter().sum::<u32>());
    let (moved, listed) = (course.moved.load(Ordering::Relaxed), course.listed.load(Ordering::Relaxed));
    let seen = format!("{ones} added, {moved} chunks moved, {listed} rows listed, {events:?}");
    assert!(course.is_complete(&events), "something that was to happen beside the updates did not: {seen}");
    eprintln!("{seen}");
}
