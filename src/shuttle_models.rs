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
mod histories;
mod snapshots;

use crate::{Applied, Decay, FiitedConfig, Init, Optimizer, Policy, Store, StoreConfig, TableConfig, TableId};
use explore::{explore, spawn};
use histories::{History, Step};
use shuttle::rand::Rng;
use shuttle::sync::Barrier;
use std::sync::{Arc, Mutex};

const SGD: Optimizer = Optimizer::Sgd { lr: 1.0 };

/// Dimensions of a chunk of rows of several chunks.
const CHUNK: usize = 4;
/// Dimensions of a row of one chunk: its head, which has no link, is then as large as that of a row of several.
const ALONE: usize = 5;
/// The least in which a few rows and the rebuilding of their directory have room, so that rounds have much to take.
const SMALL: u64 = 5 << 10;
const TIGHT: u64 = 6 << 10;
/// Enough for some thirty rows of one chunk, few enough superblocks to look through.
const ROOMY: u64 = 8 << 10;
/// Bytes of a superblock of a small store.
const SUPERBLOCK: u64 = 128;

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

/// The chunk size of tables of so many dimensions.
fn chunk(dim: usize) -> usize {
    if dim == ALONE { 2 * CHUNK } else { CHUNK }
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
    row.chunks(chunk(row.len())).map(updates).collect()
}

/// When all threads but the store's own have ended: all invariants hold, and the limit was never crossed.
fn check_invariants(store: &Store) {
    store.validate().unwrap();
    let stats = store.stats();
    assert!(stats.held <= stats.peak && stats.peak <= stats.budget, "{stats:?}");
}

/// When all threads have ended.
fn check_store(store: &Store) {
    check_invariants(store);
    let stats = store.stats();
    assert_eq!(stats.retired, 0, "all threads have ended, and memory still waits for one");
}

fn store(budget: u64, policy: Policy, dim: usize) -> Arc<Store> {
    store_of(budget, policy, TableConfig::new("t", dim))
}

fn store_of(budget: u64, policy: Policy, table: TableConfig) -> Arc<Store> {
    let chunk = chunk(table.dim);
    let table = table.chunk(chunk).optimizer(SGD);
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
        round_share: 1.0,
    })
}

/// Rows of one chunk in four superblocks: 0 alone in the first, 3 to 5 in the second, 6 and 13 alone in the others. As much
/// is free as two superblocks hold, so a round empties one of the sparse ones by moving its row.
fn sparse_store(init: Init) -> Arc<Store> {
    let store = store_of(ROOMY, Policy::None, TableConfig::new("t", ALONE).init(init));
    admit(&store, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 13]);
    [1, 2, 7, 8].iter().for_each(|&key| assert!(store.remove(t(), key).unwrap()));
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
        let store = store(TIGHT, fiited(0.37), 2 * CHUNK);
        let keys: Vec<u64> = (0..9).collect();
        admit(&store, &keys);
        // The first of them matter more.
        for upto in 1..9 {
            train(&store, &keys[..upto]);
        }
        let trainer = spawn(&store, |store| {
            train(store, &[0, 5, 7]);
            // Wakes the pruning thread, whose rounds are beside the ones below.
            store.step().unwrap();
            train(store, &[7, 5, 8]);
        });
        let reader = spawn(&store, |store| {
            for keys in [[0, 7, 5], [4, 1, 8]] {
                let rows = gather(store, &keys);
                for (&key, row) in keys.iter().zip(&rows) {
                    check_row(key, row, 10);
                }
            }
        });
        let rounds = spawn(&store, |store| store.prune().unwrap().moved + store.prune().unwrap().moved);
        trainer.join().unwrap();
        reader.join().unwrap();
        sums.events(&store, rounds.join().unwrap());
        check_invariants(&store);
    });
    tally.check(["evicted", "shrunk", "grown", ""]);
}

/// Rows take updates while rounds move them and rows around them are made and removed. Not one may be lost.
#[test]
fn no_update_is_lost_while_rows_move() {
    let tally = Tally::default();
    let sums = tally.clone();
    explore("no_update_is_lost_while_rows_move", move || {
        let store = sparse_store(Init::Zero);
        let trainers = [[0, 6, 4], [6, 0, 4]].map(|keys| {
            spawn(&store, move |store| {
                for _ in 0..2 {
                    let applied = train(store, &keys);
                    assert_eq!((applied.updated, applied.missed), (3, 0), "a row that was never removed was missed");
                }
            })
        });
        let others = spawn(&store, |store| {
            assert!(store.remove(t(), 3).unwrap());
            assert_eq!(admit(store, &[7]).admitted, 1);
        });
        let rounds = spawn(&store, |store| store.prune().unwrap().moved + store.prune().unwrap().moved);
        trainers.into_iter().for_each(|trainer| trainer.join().unwrap());
        others.join().unwrap();
        sums.events(&store, rounds.join().unwrap());
        for (key, row) in [0, 4, 6].into_iter().zip(gather(&store, &[0, 4, 6])) {
            assert_eq!(check_row(key, &row, 4), [4], "key {key} lost updates, or got another's: {row:?}");
        }
        check_store(&store);
    });
    tally.check(["removed", "", "", "moved"]);
}

/// Three rows keep every update of the chunk that matters much, the third's in its tail and the others' in their heads,
/// while a round takes their other chunk and the rows around them, which matter little, and then moves what is left.
#[test]
fn no_update_is_lost_while_neighbours_are_pruned() {
    let tally = Tally::default();
    let sums = tally.clone();
    explore("no_update_is_lost_while_neighbours_are_pruned", move || {
        let store = store(TIGHT, fiited(0.3995), 2 * CHUNK);
        let others = [0, 1, 3, 4];
        admit(&store, &[0, 1, 2, 3, 4, 5, 8]);
        train(&store, &others);
        // The utility of what they train is then far above all other, and an f32 still counts every update.
        (0..32).for_each(|_| train_half_each(&store));
        let trainers = [(); 2].map(|()| {
            spawn(&store, |store| {
                train_half_each(store);
                train_half_each(store);
            })
        });
        // Makes no row: what a directory's rebuilding reserves would have the round take more than what matters little.
        let remover = spawn(&store, move |store| {
            store.remove(t(), 3).unwrap();
            for (key, row) in others.into_iter().zip(gather(store, &others)) {
                check_row(key, &row, 1);
            }
        });
        let rounds = spawn(&store, |store| store.prune().unwrap().moved);
        trainers.into_iter().for_each(|trainer| trainer.join().unwrap());
        remover.join().unwrap();
        sums.events(&store, rounds.join().unwrap());
        let expected = [(2, [36, 0]), (5, [36, 0]), (8, [0, 36])];
        for ((key, expected), row) in expected.into_iter().zip(gather(&store, &[2, 5, 8])) {
            assert_eq!(check_row(key, &row, 36), expected, "key {key} lost updates: {row:?}");
        }
        check_store(&store);
    });
    tally.check(["evicted", "shrunk", "", "moved"]);
}

/// Trains the first chunks of rows 2 and 5, and the second of row 8.
fn train_half_each(store: &Store) {
    let keys = [2, 5, 8];
    let mut gradients = gradients(&keys, 2 * CHUNK);
    [1, 3, 4].into_iter().for_each(|chunk| gradients[chunk * CHUNK..][..CHUNK].fill(0.0));
    let applied = store.apply_gradients(t(), &keys, &gradients).unwrap();
    assert_eq!((applied.updated, applied.missed), (3, 0), "a row that matters most was missed");
}

/// Three threads make the same rows in different orders, and the directory grows under them. Each is there once, and
/// whoever made sure that it is there finds it.
#[test]
fn rows_made_by_all_are_there_once() {
    explore("rows_made_by_all_are_there_once", || {
        let store = store(ROOMY, Policy::None, ALONE);
        let orders = [[0, 1, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1, 0], [3, 7, 0, 4, 1, 5, 2, 6]];
        let threads = orders.map(|keys| {
            spawn(&store, move |store| {
                let mut admitted = 0;
                for pair in keys.chunks(2) {
                    admitted += admit(store, pair).admitted;
                    assert_eq!(train(store, pair).missed, 0, "a row that was made is missing");
                }
                admitted
            })
        });
        let admitted: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_eq!(admitted, 8);
        let mut rows: Vec<_> = store.iter(t()).unwrap().collect();
        rows.sort_unstable_by_key(|row| row.key);
        assert!(rows.iter().map(|row| row.key).eq(0..8));
        for row in rows {
            assert_eq!(check_row(row.key, &row.values, 3), [3], "an update went elsewhere: {row:?}");
        }
        check_store(&store);
    });
}

/// One thread makes rows and removes them again, so that segments fill with tombstones and are replaced; one removes
/// rows that a round may be moving. Each finds what it made, or what was there from the beginning.
#[test]
fn rows_stay_found_while_others_come_and_go() {
    let tally = Tally::default();
    let sums = tally.clone();
    explore("rows_stay_found_while_others_come_and_go", move || {
        let store = sparse_store(Init::Zero);
        train(&store, &[4, 5]);
        let maker = spawn(&store, |store| {
            for key in [7, 8, 9, 10, 11, 12] {
                assert_eq!(admit(store, &[key]).admitted, 1);
                assert!(key == 12 || store.remove(t(), key).unwrap(), "key {key} was made and is not found");
            }
            for (key, row) in [4, 5].into_iter().zip(gather(store, &[4, 5])) {
                assert_eq!(check_row(key, &row, 1), [1], "key {key} was not found");
            }
        });
        let remover = spawn(&store, |store| {
            [0, 6, 3].iter().for_each(|&key| assert!(store.remove(t(), key).unwrap(), "key {key} was not found"));
        });
        let rounds = spawn(&store, |store| store.prune().unwrap().moved + store.prune().unwrap().moved);
        [maker, remover].into_iter().for_each(|thread| thread.join().unwrap());
        sums.events(&store, rounds.join().unwrap());
        let mut keys: Vec<u64> = store.iter(t()).unwrap().map(|row| row.key).collect();
        keys.sort_unstable();
        assert_eq!(keys, [4, 5, 12, 13]);
        check_store(&store);
    });
    tally.check(["", "", "", "moved"]);
}

/// One removal of a row that a round moves while its segment is replaced: only the replacement has the row's new place
/// then, and whoever read its old one must look there.
#[test]
fn a_row_that_moves_out_of_a_replaced_segment_is_found() {
    let tally = Tally::default();
    let sums = tally.clone();
    explore("a_row_that_moves_out_of_a_replaced_segment_is_found", move || {
        let store = store(ROOMY, Policy::None, ALONE);
        admit(&store, &[3, 4, 5, 0, 1, 2, 6, 7, 8, 13]);
        // Their tags begin as that of 0: with some of them its segment is full, so that 17 replaces it.
        for &key in &[9, 26, 18, 30][..shuttle::rand::thread_rng().gen_range(0..4)] {
            admit(&store, &[key]);
            assert!(store.remove(t(), key).unwrap());
        }
        // One free slot in the first superblock, for 17, and row 0 alone in the second, the first of the sparse ones, which
        // is therefore emptied.
        [5, 1, 2, 7, 8].iter().for_each(|&key| assert!(store.remove(t(), key).unwrap()));
        let maker = spawn(&store, |store| assert_eq!(admit(store, &[17]).admitted, 1));
        let remover = spawn(&store, |store| assert!(store.remove(t(), 0).unwrap(), "key 0 was not found"));
        let rounds = spawn(&store, |store| store.prune().unwrap().moved);
        [maker, remover].into_iter().for_each(|thread| thread.join().unwrap());
        sums.events(&store, rounds.join().unwrap());
        check_store(&store);
    });
    tally.check(["", "", "", "moved"]);
}

/// Rows of two records each are made and removed by threads with keys of their own, while rounds give back what is empty:
/// superblocks pass from heads to tails and back. Each thread finds in its rows what it put there.
#[test]
fn superblocks_pass_between_records_of_two_sizes() {
    explore("superblocks_pass_between_records_of_two_sizes", || {
        let store = store(ROOMY, Policy::None, 2 * CHUNK);
        let threads = [[0, 1], [2, 3]].map(|keys| {
            spawn(&store, move |store| {
                for _ in 0..2 {
                    assert_eq!(admit(store, &keys).admitted, 2);
                    assert_eq!(train(store, &keys).missed, 0);
                    for (key, row) in keys.into_iter().zip(gather(store, &keys)) {
                        assert_eq!(check_row(key, &row, 1), [1, 1], "key {key} lost its update");
                    }
                    keys.iter().for_each(|&key| assert!(store.remove(t(), key).unwrap(), "key {key} is not found"));
                }
            })
        });
        let rounds = spawn(&store, |store| {
            for _ in 0..3 {
                store.prune().unwrap();
            }
        });
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        rounds.join().unwrap();
        check_store(&store);
    });
}

/// A listing that is held open while rows come, go and move. Rows that stay where they are are listed once, no row twice,
/// and none with another's values.
#[test]
fn listings_hold_what_stays() {
    let tally = Tally::default();
    let sums = tally.clone();
    explore("listings_hold_what_stays", move || {
        let store = sparse_store(Init::Zero);
        let trainer = spawn(&store, |store| {
            assert_eq!(train(store, &[0, 4, 6]).missed, 0);
            admit(store, &[7, 8]);
        });
        let remover = spawn(&store, |store| {
            assert!(store.remove(t(), 3).unwrap());
            admit(store, &[9, 3]);
        });
        let rounds = spawn(&store, |store| store.prune().unwrap().moved);
        let mut keys: Vec<u64> = Vec::new();
        for row in store.iter(t()).unwrap() {
            check_row(row.key, &row.values, 1);
            assert_eq!(row.live, [0]);
            keys.push(row.key);
        }
        let moved = rounds.join().unwrap();
        [trainer, remover].into_iter().for_each(|thread| thread.join().unwrap());
        let listed = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), listed, "a row was listed twice");
        assert!(keys.iter().all(|key| [0, 3, 4, 5, 6, 7, 8, 9, 13].contains(key)), "{keys:?}");
        // The second superblock is not sparse enough to be emptied.
        assert!(keys.contains(&4) && keys.contains(&5), "a row that was there throughout is not in {keys:?}");
        sums.events(&store, moved);
        check_store(&store);
    });
    tally.check(["removed", "", "", "moved"]);
}

/// One row of three chunks under everyone's hands: it is made, trained, grown, shrunk, removed and read.
#[test]
fn one_row_is_whole_whatever_happens_to_it() {
    let tally = Tally::default();
    let sums = tally.clone();
    explore("one_row_is_whole_whatever_happens_to_it", move || {
        // A round always wants more room than there is, so it takes what matters least and sets a threshold; from then on
        // a row grows by one chunk at a time.
        let store = store(SMALL, fiited(0.4), 3 * CHUNK);
        admit(&store, &[0, 1, 2]);
        train(&store, &[0, 1]);
        let trainer = spawn(&store, |store| {
            for _ in 0..3 {
                train(store, &[1, 0]);
            }
        });
        let remover = spawn(&store, |store| {
            store.remove(t(), 1).unwrap();
            train(store, &[1]);
        });
        let reader = spawn(&store, |store| {
            for _ in 0..3 {
                check_row(1, &gather(store, &[1])[0], 5);
            }
        });
        let rounds = spawn(&store, |store| drop((store.prune(), store.prune())));
        [trainer, remover, reader, rounds].into_iter().for_each(|thread| thread.join().unwrap());
        sums.events(&store, 0);
        check_store(&store);
    });
    tally.check(["evicted", "shrunk", "grown", ""]);
}

/// Threads come and go between two stores, one of which ends while they live. Nothing that they retired stays, not even
/// while one of them idles.
#[test]
fn nothing_stays_retired_when_threads_are_gone() {
    explore("nothing_stays_retired_when_threads_are_gone", || {
        let lasting = store(ROOMY, Policy::None, ALONE);
        let passing = store(ROOMY, Policy::None, ALONE);
        let work = |store: &Store, keys: [u64; 4]| {
            admit(store, &keys);
            keys.iter().for_each(|&key| assert!(store.remove(t(), key).unwrap()));
        };
        for round in 0..2 {
            let theirs = Arc::clone(&passing);
            let one = spawn(&lasting, move |store| {
                work(store, [0, 1, 2, 3]);
                work(&theirs, [round, 11, 12, 13]);
                drop(theirs);
                work(store, [4, 5, 6, 7]);
            });
            let other = spawn(&lasting, move |store| work(store, [8, 9, 10, 11]));
            one.join().unwrap();
            other.join().unwrap();
        }
        drop(Arc::into_inner(passing).expect("all threads have given it back"));
        let (idles, ends) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
        let theirs = (Arc::clone(&idles), Arc::clone(&ends));
        let idler = spawn(&lasting, move |store| {
            work(store, [0, 1, 2, 3]);
            theirs.0.wait();
            theirs.1.wait();
        });
        idles.wait();
        lasting.prune().unwrap();
        let stats = lasting.stats();
        assert_eq!((stats.retired, stats.rows, stats.active), (0, 0, 0), "{stats:?}");
        ends.wait();
        idler.join().unwrap();
        check_store(&lasting);
    });
}

const READ: u8 = 4;

/// One call about key 0, as the steps that it answers.
fn one_call(store: &Store, call: u8) -> Vec<Step> {
    match call {
        0 | 1 => {
            let applied = train(store, &[0]);
            match applied.updated {
                0 => vec![Step::Update { there: false }, Step::Admit { made: applied.admitted == 1 }],
                _ => vec![Step::Update { there: true }],
            }
        }
        2 => vec![Step::Remove { there: store.remove(t(), 0).unwrap() }],
        _ => {
            let row = &gather(store, &[0])[0];
            let there = row.iter().any(|&value| value != 0.0);
            assert!(row.iter().all(|value| value.round() == row[0].round()), "torn: {row:?}");
            vec![Step::Read(there.then(|| row[0].round() as u32))]
        }
    }
}

/// Three threads do four things each to one key while rounds move its row: whatever they see, they could have seen one
/// after the other.
#[test]
fn one_keys_history_is_linearizable() {
    let tally = Tally::default();
    let sums = tally.clone();
    explore("one_keys_history_is_linearizable", move || {
        // What is missing reads as zero, a new row as something between zero and the first update.
        let store = sparse_store(Init::Uniform { bound: 0.25 });
        let history = History::default();
        let threads = [0, 1, 2].map(|thread| {
            let history = history.clone();
            spawn(&store, move |store| {
                for _ in 0..4 {
                    let call = shuttle::rand::thread_rng().gen_range(0..5);
                    history.note(thread, || one_call(store, call));
                }
            })
        });
        let rounds = spawn(&store, |store| store.prune().unwrap().moved + store.prune().unwrap().moved);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        sums.events(&store, rounds.join().unwrap());
        history.note(0, || one_call(&store, READ));
        history.check(Some(0));
        check_store(&store);
    });
    tally.check(["removed", "", "", "moved"]);
}

/// Two threads train a full store while a third has it pruned to less than it holds, and the store's own thread runs its
/// rounds. A row that matters much keeps every update; when the readers are gone the store holds what was asked for.
#[test]
fn pruning_to_a_size_beside_trainers_keeps_what_matters() {
    let tally = Tally::default();
    let sums = tally.clone();
    explore("pruning_to_a_size_beside_trainers_keeps_what_matters", move || {
        let store = store(TIGHT, fiited(0.2), 2 * CHUNK);
        let keys = [0, 1, 2, 3, 4, 5, 6, 7, 8, 11];
        admit(&store, &keys);
        train(&store, &[0, 1, 3, 4]);
        (0..32).for_each(|_| train_half_each(&store));
        // What waits for its last reader goes first, so that it is no part of what is asked for.
        store.prune_to(store.stats().held).unwrap();
        let asked = store.stats().held - SUPERBLOCK;
        let trainers = [[0, 3], [9, 10]].map(|others| {
            spawn(&store, move |store| {
                train_half_each(store);
                train(store, &others);
                // Asks the store's own thread for a round.
                store.step().unwrap();
                train_half_each(store);
            })
        });
        let pruner = spawn(&store, move |store| {
            let report = store.prune_to(asked).unwrap();
            report.shrunk + report.evicted
        });
        trainers.into_iter().for_each(|trainer| trainer.join().unwrap());
        let taken = pruner.join().unwrap();
        check_invariants(&store);
        let expected = [(2, [36, 0]), (5, [36, 0]), (8, [0, 36])];
        for ((key, expected), row) in expected.into_iter().zip(gather(&store, &[2, 5, 8])) {
            let updates = check_row(key, &row, 36);
            assert!(
                (0..2).all(|chunk| expected[chunk] == 0 || updates[chunk] == 36),
                "key {key} lost updates: {row:?}"
            );
        }
        store.prune_to(asked).unwrap();
        let stats = store.stats();
        assert!(stats.held <= asked, "{asked} bytes asked for: {stats:?}");
        check_invariants(&store);
        let events = stats.events;
        sums.add([events.evicted, events.shrunk, events.admitted - keys.len() as u64, taken]);
    });
    tally.check(["evicted", "shrunk", "admitted", "taken by pruning to a size"]);
}
