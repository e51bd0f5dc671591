//! How much rounds take: of many tables, beside readers and trainers, where the system keeps what it is given.

use super::round::Pass;
use crate::failpoint::{Action, Point, arm};
use crate::{FiitedConfig, Policy, PruneReport, Stats, Store, StoreConfig, TableConfig, TableId};
use std::time::Duration;

const BUDGET: u64 = 8 << 20;
const DIM: usize = 16;

/// Rounds only when a test asks for one.
fn no_rounds() -> FiitedConfig {
    FiitedConfig { period_steps: u64::MAX, warmup_steps: u64::MAX, ..FiitedConfig::default() }
}

fn store(policy: FiitedConfig) -> Store {
    Store::new(StoreConfig::new(BUDGET).policy(Policy::Fiited(policy)), vec![TableConfig::new("t", DIM)]).unwrap()
}

fn tables(number: usize, budget: u64, policy: FiitedConfig) -> Store {
    let tables = (0..number).map(|n| TableConfig::new(format!("t{n}"), 4)).collect();
    Store::new(StoreConfig::new(budget).policy(Policy::Fiited(policy)).deterministic(true), tables).unwrap()
}

/// Trains keys once, each with a gradient of its own in all dimensions.
fn train(store: &Store, table: usize, keys: std::ops::Range<u64>, gradient: impl Fn(u64) -> f32) {
    let table = TableId::new(table);
    let dim = store.dim(table).unwrap();
    let all: Vec<u64> = keys.collect();
    for keys in all.chunks(1000) {
        let grads: Vec<f32> = keys.iter().flat_map(|&key| std::iter::repeat_n(gradient(key), dim)).collect();
        store.apply_gradients(table, keys, &grads).unwrap();
    }
}

/// More important with every key.
fn rising(key: u64) -> f32 {
    1.0 + key as f32
}

/// Unrelated to places: what goes leaves holes everywhere.
fn scattered(key: u64) -> f32 {
    1.0 + (key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f32
}

fn prune_to(store: &Store, held: u64) -> (PruneReport, Stats) {
    let report = store.prune_to(held).unwrap();
    (report, store.stats())
}

#[test]
fn a_sample_of_many_small_tables_does_not_take_everything() {
    let store = tables(300, 64 << 20, no_rounds());
    (0..300).for_each(|table| train(&store, table, 0..300, rising));
    store.step().unwrap();
    let full = store.stats();
    assert_eq!(full.rows, 90_000);
    let mut target = full.held;
    for _ in 0..4 {
        target -= full.held / 50;
        prune_to(&store, target);
    }
    let rows = store.stats().rows;
    assert!(rows > full.rows / 2, "{rows} rows of {} left after asking for 8 % less", full.rows);
}

#[test]
fn rounds_of_a_store_with_many_small_tables_leave_most_rows() {
    let store = tables(300, BUDGET, FiitedConfig { period_steps: 50, warmup_steps: 1, ..FiitedConfig::default() });
    let mut rounds = 0;
    for step in 0..200 {
        (0..300).for_each(|table| train(&store, table, step * 4..step * 4 + 16, |key| 1.0 + (key % 31) as f32));
        let before = store.stats().rows;
        if let Some(round) = store.step().unwrap().round {
            let after = store.stats().rows;
            assert!(after * 2 > before, "{after} rows left of {before}: {round:?}");
            rounds += u64::from(round.evicted > 0);
        }
    }
    assert!(rounds > 2, "nothing was evicted in 200 steps");
}

#[test]
fn what_was_never_worth_anything_goes_first() {
    // A table that never had a gradient, and one whose scale is so small that a threshold could vanish.
    for tiny in [0.0, 1e-8] {
        let made = vec![TableConfig::new("zero", DIM), TableConfig::new("used", DIM)];
        let store = Store::new(StoreConfig::new(BUDGET).policy(Policy::Fiited(no_rounds())), made).unwrap();
        train(&store, 0, 0..18_000, |_| 0.0);
        train(&store, 0, 18_000..20_000, |_| tiny);
        train(&store, 1, 0..20_000, rising);
        let target = store.stats().held * 7 / 10;
        let (report, after) = prune_to(&store, target);
        assert!(after.held <= target, "{} bytes held, asked for {target}: {report:?}", after.held);
        assert!(after.tables[0].rows < after.tables[1].rows, "{after:?}");
    }
}

#[test]
fn rounds_that_had_to_wait_take_a_fifth_at_most() {
    let store = store(FiitedConfig { headroom: 0.1, ..no_rounds() });
    train(&store, 0, 0..60_000, rising);
    (0..5).for_each(|_| store.inner.move_breadth(true));
    let full = store.stats();
    store.prune().unwrap();
    let after = store.stats();
    assert!(after.live < full.live && after.live > full.live * 7 / 10, "{} of {} live", after.live, full.live);
}

#[test]
fn the_threshold_outlives_a_round_that_had_to_wait() {
    let store = store(no_rounds());
    train(&store, 0, 0..200_000, |key| 1.0 + (key % 977) as f32);
    (0..5).for_each(|_| store.inner.move_breadth(true));
    let threshold = store.prune().unwrap().threshold;
    assert!(threshold > 0.0);
    store.prune().unwrap();
    assert_eq!(store.stats().threshold, threshold, "nothing has happened since");
}

#[test]
fn a_stalled_reader_does_not_make_pruning_to_a_size_take_more() {
    let store = store(no_rounds());
    train(&store, 0, 0..20_000, rising);
    let full = store.stats();
    let pin = store.inner.reclaimer.pin();
    for part in [9, 8, 7, 6, 5] {
        let (report, stalled) = prune_to(&store, full.held / 10 * part);
        let live = stalled.live as f64 / full.live as f64 * 10.0;
        assert!((part as f64 - 1.0..part as f64 + 0.5).contains(&live), "{live} tenths live of {part}: {report:?}");
    }
    drop(pin);
    let (report, after) = prune_to(&store, full.held / 2);
    assert!(after.held <= full.held / 2 && after.live >= full.live * 4 / 10, "{report:?} {after:?}");
    store.validate().unwrap();
}

/// Prunes to 95 % beside a reader that leaves right after a compaction, and comes again at once if it is told to.
fn prune_beside_a_reader(gradient: fn(u64) -> f32, compactions: u32, again: bool) {
    let store = &store(no_rounds());
    train(store, 0, 0..20_000, gradient);
    store.inner.collect();
    let full = store.stats();
    let target = full.held / 100 * 95;
    let pin = store.inner.reclaimer.pin();
    let (report, after) = std::thread::scope(|scope| {
        let (armed, started) = std::sync::mpsc::channel();
        let pruner = scope.spawn(move || {
            armed.send(arm(std::thread::current().id(), Point::Compacted, compactions, Action::Stall)).unwrap();
            prune_to(store, target)
        });
        let trap = started.recv().unwrap();
        assert!(trap.wait(Duration::from_secs(60)), "no compaction {compactions}");
        drop(pin);
        store.inner.collect();
        assert_eq!(store.stats().retired, 0);
        let _pin = again.then(|| store.inner.reclaimer.pin());
        drop(trap);
        pruner.join().unwrap()
    });
    let part = after.live as f64 / full.live as f64;
    assert!(part > 0.92, "{part} live after {compactions}, {again}: {report:?} {after:?}");
    let (report, after) = prune_to(store, target);
    let part = after.live as f64 / full.live as f64;
    assert!(after.held <= target && part > 0.92, "{part} live in the end: {report:?} {after:?}");
}

#[test]
fn readers_that_come_and_go_do_not_make_pruning_to_a_size_take_more() {
    // What a reader kept until after a compaction is free then, in superblocks that nobody has gathered yet.
    (0..4).for_each(|compactions| prune_beside_a_reader(scattered, compactions, false));
    // Superblocks that run empty then wait for the next reader.
    prune_beside_a_reader(rising, 2, true);
}

#[test]
fn what_may_stay_free_does_not_make_pruning_to_a_size_take_more() {
    for ratio in [1.05, 2.0] {
        let config = StoreConfig::new(BUDGET).policy(Policy::Fiited(no_rounds())).resident_target(ratio);
        let store = Store::new(config, vec![TableConfig::new("t", DIM)]).unwrap();
        train(&store, 0, 0..20_000, scattered);
        let full = store.stats();
        let (report, after) = prune_to(&store, full.held / 100 * 95);
        let part = after.live as f64 / full.live as f64;
        assert!(after.held <= full.held / 100 * 95 && part > 0.92, "{part} live with {ratio}: {report:?} {after:?}");
    }
}

#[test]
fn what_the_system_keeps_does_not_make_pruning_to_a_size_take_more() {
    let store = store(no_rounds());
    train(&store, 0, 0..20_000, rising);
    let full = store.stats();
    let _trap = arm(std::thread::current().id(), Point::Decommit, 0, Action::Fail);
    let (report, after) = prune_to(&store, full.held / 10 * 8);
    assert!(after.rows > full.rows / 2 && after.kept > 0, "{} of {} rows left: {report:?}", after.rows, full.rows);
}

#[test]
fn pruning_to_a_size_does_not_run_after_a_trainer() {
    let store = &store(FiitedConfig::default());
    train(store, 0, 0..20_000, rising);
    let full = store.stats();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut random = 1u64;
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let from = (random >> 33) % 100_000;
                train(store, 0, from..from + 500, |key| 1.0 + (key % 977) as f32 * 20.0);
                store.step().unwrap();
            }
        });
        for part in [8, 6, 4, 2] {
            let (report, _) = prune_to(store, full.held / 10 * part);
            assert!(report.evicted < 60_000, "{report:?} of a store of {} rows", full.rows);
        }
        drop(stop);
    });
    store.validate().unwrap();
}

#[test]
fn steps_behind_a_pin_pile_nothing_up() {
    let store = Store::new(StoreConfig::new(BUDGET).deterministic(true), vec![TableConfig::new("t", DIM)]).unwrap();
    train(&store, 0, 0..1000, rising);
    store.step().unwrap();
    let resident = || {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).map_or(0, |pages| pages * 4096)
    };
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (ready, is_ready) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let inner = &store.inner;
        scope.spawn(move || {
            let _pin = inner.reclaimer.pin();
            ready.send(()).unwrap();
            let _ = released.recv();
        });
        is_ready.recv().unwrap();
        store.remove(TableId::new(0), 1).unwrap();
        let before = resident();
        (0..4000).for_each(|_| {
            store.step().unwrap();
        });
        let after = resident();
        drop(release);
        // The tests beside this one take some; the defect took 15 KiB a step.
        assert!(after < before + (40 << 20), "{} KiB more for 4000 steps behind one pin", (after - before) >> 10);
    });
}

/// All utilities of the first table, by key.
fn utilities(store: &Store) -> std::collections::BTreeMap<u64, f32> {
    let (inner, mut found) = (&store.inner, std::collections::BTreeMap::new());
    let table = &inner.tables[0];
    let chains = table.chains(&inner.slabs);
    let mut rows = Vec::new();
    inner.for_each_segment(0, |at, guard| {
        let next = table.rows_of_segment(at, guard, &mut rows);
        chains.peek(&rows, |position, tail, info| {
            if tail.is_none() {
                let (tag, head) = rows[position];
                found.insert(table.row_key(chains.hash(tag, head)), info.utility);
            }
        });
        next
    });
    found
}

#[test]
fn new_units_are_given_to_each_row_once_wherever_a_sweep_begins() {
    let store = store(no_rounds());
    train(&store, 0, 0..20_000, rising);
    let mut before = utilities(&store);
    assert_eq!(before.len(), 20_000);
    for round in 0..20 {
        store.inner.sweep(Pass::units(0.5), round, &mut PruneReport::default());
        let after = utilities(&store);
        let other = before.iter().filter(|&(key, utility)| after[key] != utility * 0.5).count();
        assert_eq!(other, 0, "rows with another factor in sweep {round}");
        before = after;
    }
}
