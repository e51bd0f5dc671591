//! Threads at random over few keys and a small budget. A second each; longer with `DIMSLAB_STRESS_SECONDS`.
//!
//! What threads do is random, so each test has an oracle that holds whatever they do: a row whose live dimensions must
//! all be equal, a value only its own key can have, a sum that must be exact, a budget that must never be crossed.

use dimslab::{Decay, Fallback, FiitedConfig, Optimizer, Policy, Pooling, Store, StoreConfig, TableConfig, TableId};
use std::time::{Duration, Instant};

const BUDGET: u64 = 1 << 20;
const DIM: usize = 24;
const SGD: Optimizer = Optimizer::Sgd { lr: 1.0 };

fn duration() -> Duration {
    let seconds = std::env::var("DIMSLAB_STRESS_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs_f64(seconds.unwrap_or(1.0))
}

struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

/// Gives way now and then, so that two cores show more than two threads' worth of interleavings.
fn chaos(random: &mut Random) {
    match random.below(64) {
        0 => std::thread::yield_now(),
        1 => std::thread::sleep(Duration::from_micros(random.below(50))),
        _ => {}
    }
}

/// Every gradient of a key is this one number in every dimension, so its rows are made of multiples of it. The unit of
/// a key is 2^(key mod 24): a value that is no multiple of it is another row's.
fn unit(key: u64) -> f32 {
    (1u32 << (key % UNITS)) as f32
}

const UNITS: u64 = 12;

/// Panics if `row` is not one moment of the key's row. Chunks come at different times, and then stand at different
/// values; within a chunk all dimensions are equal, and every live chunk is a multiple of the key's unit.
fn check_row(key: u64, row: &[f32], chunk: usize) {
    for (ordinal, values) in row.chunks(chunk).enumerate() {
        assert!(values.iter().all(|value| value == &values[0]), "key {key}, chunk {ordinal} is torn: {row:?}");
        // Rows go down by the odd key's unit and up by the even one's: the sign says whose it is.
        let value = values[0];
        let sign = if key.is_multiple_of(2) { 1.0 } else { -1.0 };
        assert!(
            value * sign >= 0.0 && value % unit(key) == 0.0,
            "key {key}, chunk {ordinal} has another row's value: {row:?}"
        );
    }
}

fn gradient(key: u64) -> f32 {
    if key.is_multiple_of(2) { -unit(key) } else { unit(key) }
}

fn fill_gradients(keys: &[u64], dim: usize) -> Vec<f32> {
    keys.iter().flat_map(|&key| std::iter::repeat_n(gradient(key), dim)).collect()
}

/// Skewed, so that some rows are contended and most are cold.
fn random_keys(random: &mut Random, most: u64, space: u64) -> Vec<u64> {
    let count = random.below(most) + 1;
    (0..count)
        .map(|_| {
            let limit = if random.below(3) == 0 { 8 } else { space };
            random.below(limit)
        })
        .collect()
}

fn policy() -> Policy {
    Policy::Fiited(FiitedConfig {
        period_steps: 4,
        warmup_steps: 1,
        headroom: 0.1,
        decay: Decay::PerStep(0.99),
        ..FiitedConfig::default()
    })
}

fn one_random_call(store: &Store, random: &mut Random, chunks: &[usize], space: u64) {
    let table = random.below(chunks.len() as u64) as usize;
    let (t, chunk) = (TableId::new(table), chunks[table]);
    match random.below(40) {
        0..12 => {
            let keys = random_keys(random, 60, space);
            store.apply_gradients(t, &keys, &fill_gradients(&keys, DIM)).unwrap();
        }
        12..26 => {
            let keys = random_keys(random, 60, space);
            let mut out = vec![f32::NAN; keys.len() * DIM];
            store.gather(t, &keys, &mut out).unwrap();
            keys.iter().zip(out.chunks(DIM)).for_each(|(&key, row)| check_row(key, row, chunk));
        }
        26..29 => {
            let keys = random_keys(random, 30, space);
            let offsets: Vec<usize> = (0..=keys.len()).collect();
            let mut out = vec![f32::NAN; keys.len() * DIM];
            store.gather_pooled(t, &keys, &offsets, Pooling::Mean, &mut out).unwrap();
            keys.iter().zip(out.chunks(DIM)).for_each(|(&key, row)| check_row(key, row, chunk));
        }
        29..31 => {
            let keys = random_keys(random, 30, space);
            let offsets: Vec<usize> = (0..=keys.len()).collect();
            store.apply_pooled_gradients(t, &keys, &offsets, Pooling::Sum, &fill_gradients(&keys, DIM)).unwrap();
        }
        31..35 => {
            store.remove(t, random.below(space)).unwrap();
        }
        35..38 => {
            store.step().unwrap();
        }
        38 if random.below(8) == 0 => {
            store.prune().unwrap();
        }
        _ if random.below(4) == 0 => {
            store.iter(t).unwrap().for_each(|row| check_row(row.key, &row.values, chunk));
        }
        _ => {
            let stats = store.stats();
            assert!(stats.held <= stats.budget && stats.peak <= stats.budget, "{stats:?}");
        }
    }
}

#[test]
fn rows_are_whole_and_their_own_whatever_happens_to_them() {
    let chunks = [4, 8, 16];
    let tables =
        chunks.iter().map(|&chunk| TableConfig::new(format!("c{chunk}"), DIM).chunk(chunk).optimizer(SGD)).collect();
    let store = Store::new(StoreConfig::new(BUDGET).policy(policy()), tables).unwrap();
    let until = Instant::now() + duration();
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let store = &store;
            scope.spawn(move || {
                let mut random = Random::new(seed + 1);
                while Instant::now() < until {
                    one_random_call(store, &mut random, &chunks, 12_000);
                    chaos(&mut random);
                }
            });
        }
    });
    store.prune().unwrap();
    store.validate().unwrap();
    let stats = store.stats();
    assert!(stats.peak <= BUDGET);
    assert!(stats.events.evicted > 100 && stats.events.shrunk > 0, "nothing was pruned: {:?}", stats.events);
    assert_eq!(stats.retired, 0, "all threads have ended, and memory still waits for one");
}

/// Rows of one chunk on top of each other: every lookup meets rows that are just made, removed or moved.
#[test]
fn a_handful_of_keys_comes_and_goes_under_everyones_hands() {
    let tables = vec![TableConfig::new("t", DIM).chunk(32).optimizer(SGD)];
    let store = Store::new(StoreConfig::new(BUDGET).policy(policy()), tables).unwrap();
    let until = Instant::now() + duration();
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let store = &store;
            scope.spawn(move || {
                let mut random = Random::new(seed + 100);
                let t = TableId::new(0);
                while Instant::now() < until {
                    let keys: Vec<u64> = (0..random.below(12) + 1).map(|_| random.below(12)).collect();
                    match random.below(8) {
                        0..3 => {
                            store.apply_gradients(t, &keys, &fill_gradients(&keys, DIM)).unwrap();
                        }
                        3..5 => {
                            let mut out = vec![f32::NAN; keys.len() * DIM];
                            store.gather(t, &keys, &mut out).unwrap();
                            keys.iter().zip(out.chunks(DIM)).for_each(|(&key, row)| check_row(key, row, DIM));
                        }
                        5..7 => {
                            store.remove(t, keys[0]).unwrap();
                        }
                        _ => store.iter(t).unwrap().for_each(|row| check_row(row.key, &row.values, DIM)),
                    }
                    chaos(&mut random);
                }
            });
        }
    });
    store.validate().unwrap();
}

/// Takes -1 from fixed rows at random until the time is up. Returns how often from each.
fn take_ones(store: &Store, fixed: &[u64], until: Instant, seed: u64) -> Vec<u32> {
    let mut random = Random::new(seed);
    let mut updates = vec![0u32; fixed.len()];
    while Instant::now() < until {
        let first = random.below(40) as usize;
        let keys: Vec<u64> = (0..16).map(|i| fixed[(first + i * 3) % 40]).collect();
        let applied = store.apply_gradients(TableId::new(0), &keys, &vec![-1.0; keys.len() * DIM]).unwrap();
        assert_eq!((applied.updated, applied.missed), (applied.unique, 0), "a row that was never removed was missed");
        (0..16).for_each(|i| updates[(first + i * 3) % 40] += 1);
        chaos(&mut random);
    }
    updates
}

/// Makes and removes rows in waves, so that superblocks fill and empty.
fn waves(store: &Store, until: Instant) {
    let mut random = Random::new(55);
    while Instant::now() < until {
        let from = 10_000 + random.below(3000);
        let keys: Vec<u64> = (from..from + 9000).collect();
        for batch in keys.chunks(1500) {
            // What does not fit is refused, and a round after that compacts.
            let _ = store.apply_gradients(TableId::new(0), batch, &vec![1.0; batch.len() * DIM]);
        }
        for &key in &keys {
            store.remove(TableId::new(0), key).unwrap();
        }
    }
}

/// Fixed rows take -1 from several threads while others are made and removed around them, superblocks run empty, are
/// compacted and given back, and segments are replaced. Not one update may be lost.
#[test]
fn no_update_is_lost_while_rows_around_come_go_and_move() {
    let table = TableConfig::new("t", DIM).chunk(8).optimizer(SGD);
    let store = Store::new(StoreConfig::new(BUDGET).policy(Policy::None), vec![table]).unwrap();
    let t = TableId::new(0);
    // Spread among rows that go again at once, so that the fixed ones end in sparse superblocks and have to move.
    let fixed: Vec<u64> = (0..40).map(|i| i * 100).collect();
    let filler: Vec<u64> = (0..4000).filter(|key| key % 100 != 0).collect();
    let all: Vec<u64> = (0..4000).collect();
    store.apply_gradients(t, &all, &vec![0.0; all.len() * DIM]).unwrap();
    filler.iter().for_each(|&key| assert!(store.remove(t, key).unwrap()));
    let until = Instant::now() + duration();
    let (updates, moved) = std::thread::scope(|scope| {
        let store = &store;
        let fixed = &fixed;
        let trainers: Vec<_> =
            (0..3u64).map(|seed| scope.spawn(move || take_ones(store, fixed, until, seed + 7))).collect();
        scope.spawn(move || waves(store, until));
        let rounds = scope.spawn(move || {
            let mut moved = 0;
            // At least one, however late this thread begins.
            loop {
                moved += store.prune().unwrap().moved;
                let stats = store.stats();
                assert!(stats.held <= BUDGET && stats.peak <= BUDGET);
                if Instant::now() >= until {
                    break moved;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let mut total = vec![0u32; fixed.len()];
        for trainer in trainers {
            total.iter_mut().zip(trainer.join().unwrap()).for_each(|(total, count)| *total += count);
        }
        (total, rounds.join().unwrap())
    });
    store.validate().unwrap();
    let mut out = vec![0.0; fixed.len() * DIM];
    store.gather(t, &fixed, &mut out).unwrap();
    for ((&key, row), &count) in fixed.iter().zip(out.chunks(DIM)).zip(&updates) {
        assert!(count < 1 << 24, "more than an f32 counts");
        assert!(row.iter().all(|&value| value == count as f32), "key {key} of {count} updates: {row:?}");
    }
    assert!(moved > 0, "nothing was moved, so nothing was shown");
}

/// Inserts alone, from all threads into the same few tags' neighbourhoods: directories grow, split and deepen.
#[test]
fn rows_made_at_the_same_time_are_all_there_once() {
    let until = Instant::now() + duration();
    let mut round = 0u64;
    while Instant::now() < until {
        round += 1;
        let table = TableConfig::new("t", 4).optimizer(SGD);
        let store = Store::new(StoreConfig::new(4 << 20).policy(Policy::None).seed(round), vec![table]).unwrap();
        let t = TableId::new(0);
        let keys = 20_000u64;
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let store = &store;
                scope.spawn(move || {
                    let mut random = Random::new(round * 4 + thread);
                    for from in (0..keys).step_by(50) {
                        // All threads the same keys, in orders of their own.
                        let mut batch: Vec<u64> = (from..from + 50).collect();
                        for position in (1..batch.len()).rev() {
                            batch.swap(position, random.below(position as u64 + 1) as usize);
                        }
                        store.apply_gradients(t, &batch, &vec![0.0; batch.len() * 4]).unwrap();
                        let applied = store.apply_gradients(t, &batch, &vec![-1.0; batch.len() * 4]).unwrap();
                        assert_eq!(applied.missed, 0, "a row that was made is missing");
                    }
                });
            }
        });
        store.validate().unwrap();
        let rows: Vec<_> = store.iter(t).unwrap().collect();
        assert_eq!(rows.len() as u64, keys);
        // Each thread trained each row once, at least when it was there: four times, and up to four more by gradients
        // of zero, which change nothing.
        assert!(
            rows.iter().all(|row| row.values == [4.0; 4]),
            "an update went to a row that another took the place of"
        );
    }
}

#[test]
fn shared_fallbacks_are_whole_while_they_are_trained() {
    let table = TableConfig::new("t", DIM).optimizer(SGD).fallback(Fallback::HashedRow { rows: 3 });
    let store = Store::new(StoreConfig::new(BUDGET).policy(policy()), vec![table]).unwrap();
    let t = TableId::new(0);
    let until = Instant::now() + duration();
    std::thread::scope(|scope| {
        for seed in 0..3 {
            let store = &store;
            scope.spawn(move || {
                let mut random = Random::new(seed + 31);
                while Instant::now() < until {
                    let keys = random_keys(&mut random, 40, 20_000);
                    store.apply_gradients(t, &keys, &vec![1.0 / 16.0; keys.len() * DIM]).unwrap();
                    store.step().unwrap();
                    let mut out = vec![f32::NAN; keys.len() * DIM];
                    store.gather(t, &keys, &mut out).unwrap();
                    for (key, row) in keys.iter().zip(out.chunks(DIM)) {
                        assert!(
                            row.chunks(4).all(|chunk| chunk.iter().all(|value| value == &chunk[0])),
                            "key {key}: {row:?}"
                        );
                    }
                    chaos(&mut random);
                }
            });
        }
    });
    store.validate().unwrap();
    assert!(store.stats().peak <= BUDGET);
}

/// Stores that come and go while a thread that used them lives on.
#[test]
fn a_stores_memory_goes_with_the_store() {
    const LARGE: u64 = 256 << 20;
    // Of address space, which counts what is mapped and no allocator's habits.
    let mapped = || {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        text.split(' ').next().and_then(|pages| pages.parse::<u64>().ok()).map_or(0, |pages| pages * 4096)
    };
    let (to_worker, jobs) = std::sync::mpsc::sync_channel::<std::sync::Arc<Store>>(0);
    let (done, finished) = std::sync::mpsc::sync_channel::<()>(0);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for store in jobs {
                let keys: Vec<u64> = (0..20_000).collect();
                store.apply_gradients(TableId::new(0), &keys, &vec![1.0; keys.len() * DIM]).unwrap();
                for &key in &keys[..9000] {
                    store.remove(TableId::new(0), key).unwrap();
                }
                drop(store);
                done.send(()).unwrap();
            }
        });
        let before = mapped();
        for _ in 0..8 {
            let table = TableConfig::new("t", DIM).optimizer(SGD);
            let store = Store::new(StoreConfig::new(LARGE).policy(policy()), vec![table]).unwrap();
            let store = std::sync::Arc::new(store);
            to_worker.send(std::sync::Arc::clone(&store)).unwrap();
            finished.recv().unwrap();
            store.prune().unwrap();
        }
        let after = mapped();
        drop(to_worker);
        // The tests beside this one map little; eight stores would be 2 GiB.
        assert!(after < before + 4 * LARGE, "{before} bytes mapped before eight stores, {after} after them");
    });
}

/// Superblocks pass from one slab to another and back while others ask for figures, which look into every superblock.
#[test]
fn figures_can_be_asked_for_while_superblocks_change_hands() {
    let tables =
        [(4, 4), (64, 32)].map(|(dim, chunk)| TableConfig::new(format!("d{dim}"), dim).chunk(chunk).optimizer(SGD));
    let store = Store::new(StoreConfig::new(BUDGET).policy(Policy::None), tables.to_vec()).unwrap();
    let until = Instant::now() + duration();
    std::thread::scope(|scope| {
        let store = &store;
        for _ in 0..3 {
            scope.spawn(move || {
                while Instant::now() < until {
                    let stats = store.stats();
                    assert!(stats.held <= BUDGET && stats.free <= BUDGET, "{stats:?}");
                }
            });
        }
        while Instant::now() < until {
            for (table, (dim, rows)) in [(4usize, 8_000u64), (64, 800)].into_iter().enumerate() {
                let keys: Vec<u64> = (0..rows).collect();
                // What has no room is refused.
                let _ = store.apply_gradients(TableId::new(table), &keys, &vec![1.0; keys.len() * dim]);
                for &key in &keys {
                    store.remove(TableId::new(table), key).unwrap();
                }
                store.prune().unwrap();
            }
        }
    });
    store.validate().unwrap();
}
