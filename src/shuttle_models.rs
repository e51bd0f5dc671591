//! Models of the whole store, run by shuttle in many of their schedules: `.ci/shuttle.sh`.
//!
//! Loom tries every interleaving of a few steps; here a handful of threads use the public API of a store whose
//! superblocks have room for three rows and whose buckets have two slots, so that a dozen keys split segments, deepen
//! nodes, empty superblocks and move rows. Shuttle knows sequential consistency only. Three ways to choose who goes on:
//! at random at every step; at random in bursts, so that one thread may stand still where others do much; and PCT, which
//! follows priorities and changes them at a few places (Burckhardt et al., ASPLOS 2010).
//!
//! What a schedule does is up to chance, so each model has oracles that hold in all of them, and says at its end what must
//! have happened in some of them for the model to have shown anything.

mod explore;


use crate::{Applied, Decay, FiitedConfig, Optimizer, Policy, Store, StoreConfig, TableConfig, TableId};
use explore::{explore, spawn};
use std::sync::{Arc, Mutex};

const SGD: Optimizer = Optimizer::Sgd { lr: 1.0 };

const CHUNK: usize = 4;
/// Enough for some thirty rows of one chunk, few enough superblocks to look through.
const ROOMY: u64 = 6 << 10;

fn t() -> TableId {
    TableId::new(0)
}

/// The value of one update of a key's row, which no sum of another key's updates can be.
fn unit(key: u64) -> f32 {
    (1u32 << (key % 12)) as f32 * if key.is_multiple_of(2) { 1.0 } else { -1.0 }
}

fn gradients(keys: &[u64], dim: usize) -> Vec<f32> {
    keys.iter().flat_map(|&key| std::iter::repeat_n(-unit(key), dim)).collect()
}

fn train(store: &Store, keys: &[u64]) -> Applied {
    let dim = store.dim(t()).unwrap();
    store.apply_gradients(t(), keys, &gradients(keys, dim)).unwrap()
}

/// Makes rows, all zero. Their gradient is zero, so they only come where nothing has to be earned.
fn admit(store: &Store, keys: &[u64]) -> Applied {
    store.apply_gradients(t(), keys, &vec![0.0; keys.len() * store.dim(t()).unwrap()]).unwrap()
}

fn gather(store: &Store, keys: &[u64]) -> Vec<Vec<f32>> {
    let dim = store.dim(t()).unwrap();
    let mut out = vec![f32::NAN; keys.len() * dim];
    store.gather(t(), keys, &mut out).unwrap();
    out.chunks(dim).map(<[f32]>::to_vec).collect()
}

/// Panics unless `row` is one moment of the key's row: all dimensions of a chunk equal, and so many of its own updates.
/// Returns the number of each chunk's updates.
fn check_row(key: u64, row: &[f32], most: u32) -> Vec<u32> {
    let updates = |values: &[f32]| {
        assert!(values.iter().all(|value| value == &values[0]), "key {key} is torn: {row:?}");
        let count = values[0] / unit(key);
        assert!(count >= 0.0 && count.fract() == 0.0 && count <= most as f32, "key {key} is another's: {row:?}");
        count as u32
    };
    row.chunks(CHUNK).map(updates).collect()
}

/// At a quiet moment: all invariants hold, and the limit was never crossed.
fn check_store(store: &Store) {
    store.validate().unwrap();
    let stats = store.stats();
    assert!(stats.held <= stats.peak && stats.peak <= stats.budget, "{stats:?}");
    assert_eq!(stats.retired, 0, "all threads have ended, and memory still waits for one");
}

fn store(budget: u64, policy: Policy, dim: usize) -> Arc<Store> {
    let table = TableConfig::new("t", dim).chunk(CHUNK).optimizer(SGD);
    Arc::new(Store::new(StoreConfig::new(budget).policy(policy), vec![table]).unwrap())
}

/// Utilities do not decay, and rounds take whatever it needs to leave `headroom` free.
fn fiited(headroom: f32) -> Policy {
    Policy::Fiited(FiitedConfig {
        period_steps: 1,
        warmup_steps: 0,
        headroom,
        hysteresis: 0.0,
        decay: Decay::PerStep(1.0),
        sketch: 0.0001,
    })
}

/// Rows of one chunk in three superblocks: 0 alone in the first, 3 to 5 in the second, 6 alone in the third. A round
/// empties the first or the third by moving its row.
fn sparse_store() -> Arc<Store> {
    let store = store(ROOMY, Policy::None, CHUNK);
    admit(&store, &[0, 1, 2, 3, 4, 5, 6]);
    assert!(store.remove(t(), 1).unwrap() && store.remove(t(), 2).unwrap());
    store
}

/// What happened over all schedules of a model.
#[derive(Clone, Default)]
struct Tally(Arc<Mutex<[u64; 4]>>);

impl Tally {
    fn add(&self, counts: [u64; 4]) {
        self.0.lock().unwrap().iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }

    fn events(&self, store: &Store, moved: u64) {
        let events = store.stats().events;
        self.add([events.evicted, events.shrunk, events.grown, moved]);
    }

    fn check(&self, what: [&str; 4]) {
        let sums = *self.0.lock().unwrap();
        for (sum, what) in sums.iter().zip(what) {
            assert!(*sum > 0 || what.is_empty(), "nothing was {what} in any schedule, so nothing was shown");
        }
    }
}

/// Rows of two chunks in a full budget: they are trained, read and made while rounds take chunks and move others.
#[test]
fn rows_are_whole_and_their_own() {
    let tally = Tally::default();
    let sums = tally.clone();
    explore("rows_are_whole_and_their_own", move || {
        let store = store(ROOMY, fiited(0.3), 2 * CHUNK);
        let keys: Vec<u64> = (0..6).collect();
        admit(&store, &keys);
        // The first of them matter more.
        (1..6).for_each(|upto| drop(train(&store, &keys[..upto])));
        let trainer = spawn(&store, |store| {
            train(store, &[0, 3, 5]);
            train(store, &[4, 5, 6]);
        });
        let reader = spawn(&store, |store| {
            for keys in [[0, 3, 5], [4, 1, 6]] {
                let rows = gather(store, &keys);
                keys.iter().zip(&rows).for_each(|(&key, row)| drop(check_row(key, row, 7)));
            }
        });
        let rounds = spawn(&store, |store| store.prune().unwrap().moved);
        trainer.join().unwrap();
        reader.join().unwrap();
        sums.events(&store, rounds.join().unwrap());
        check_store(&store);
    });
    tally.check(["evicted", "shrunk", "grown", "moved"]);
}
