//! What is pruned leaves the process: resident bytes follow live bytes down, directories included.

use dimslab::{
    ConfigError, FiitedConfig, HugePages, Optimizer, Policy, Stats, Store, StoreConfig, StoreError, TableConfig,
    TableId,
};
use std::time::{Duration, Instant};

const BUDGET: u64 = 36 << 20;
const DIM: usize = 16;
const TABLES: usize = 3;

fn store() -> Store {
    let optimizer = Optimizer::Adagrad { lr: 0.01, eps: 1e-8, initial_accumulator: 0.0 };
    let table = |number| TableConfig::new(format!("t{number}"), DIM).chunk(4).optimizer(optimizer);
    let policy = FiitedConfig { period_steps: 50, warmup_steps: 10, ..FiitedConfig::default() };
    let config = StoreConfig::new(BUDGET).policy(Policy::Fiited(policy)).deterministic(true);
    Store::new(config, (0..TABLES).map(table).collect()).unwrap()
}

/// Trains every table on skewed keys from `first` on: key `first + k` is drawn with a probability about `1 / (k + 1)`.
fn train(store: &Store, steps: u64, first: u64, seed: &mut u64) {
    let mut random = || {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        (*seed >> 11) as f64 / (1u64 << 53) as f64
    };
    for _ in 0..steps {
        for table in 0..TABLES {
            let keys: Vec<u64> = (0..2048).map(|_| first + 400_000f64.powf(random()) as u64).collect();
            let grads: Vec<f32> = (0..keys.len() * DIM).map(|_| random() as f32 - 0.5).collect();
            store.apply_gradients(TableId::new(table), &keys, &grads).unwrap();
        }
        store.step().unwrap();
    }
}

fn directories(stats: &Stats) -> u64 {
    stats.tables.iter().map(|table| table.directory).sum()
}

fn ratio(stats: &Stats) -> f64 {
    stats.resident as f64 / stats.live as f64
}

#[test]
fn resident_bytes_follow_live_bytes_down_and_up_again() {
    let (store, mut seed) = (store(), 7);
    train(&store, 120, 0, &mut seed);
    let full = store.stats();
    assert!(full.held > BUDGET * 9 / 10, "not full: {full:?}");
    let target = full.held * 3 / 10;
    let report = store.prune_to(target).unwrap();
    store.validate().unwrap();
    let pruned = store.stats();
    assert!(pruned.held <= target && pruned.held > target * 8 / 10, "asked for {target}, {pruned:?}");
    assert!(report.evicted > 1000 && report.moved > 1000, "{report:?}");
    assert!(ratio(&pruned) <= 1.10, "{} after pruning 70 %: {pruned:?}", ratio(&pruned));
    assert!(pruned.resident < full.resident * 35 / 100, "{} of {} resident", pruned.resident, full.resident);

    // Other keys come, and the store is full again.
    train(&store, 150, 300_000, &mut seed);
    store.validate().unwrap();
    let regrown = store.stats();
    assert!(regrown.held > BUDGET * 9 / 10, "not full again: {regrown:?}");
    assert!(ratio(&regrown) <= 1.15, "{} after drift and regrowth: {regrown:?}", ratio(&regrown));

    store.prune_to(full.held / 10).unwrap();
    store.validate().unwrap();
    let pruned = store.stats();
    assert!(pruned.held <= full.held / 10, "{pruned:?}");
    assert!(ratio(&pruned) <= 1.15, "{} after pruning 90 %: {pruned:?}", ratio(&pruned));
    assert!(pruned.peak <= BUDGET);
}

/// Superblocks are huge pages then, whole ones, of which few fit in so small a budget.
#[test]
fn rows_in_huge_pages_come_and_go_within_the_budget() {
    const HUGE_PAGE: u64 = 2 << 20;
    let config = StoreConfig::new(64 << 20).policy(Policy::None).huge_pages(HugePages::FirstUse);
    let store = match Store::new(config, vec![TableConfig::new("t", DIM)]) {
        // Where the system has none, which the error says.
        Err(error) => return assert!(matches!(error, ConfigError::HugePages(_)), "{error}"),
        Ok(store) => store,
    };
    let (table, rows) = (TableId::new(0), 100_000);
    let keys: Vec<u64> = (0..rows).collect();
    // The first gradient makes a row, the second steps it.
    for keys in keys.chunks(2048).chain(keys.chunks(2048)) {
        store.apply_gradients(table, keys, &vec![1.0; keys.len() * DIM]).unwrap();
    }
    let full = store.stats();
    assert!(full.rows == rows && full.resident <= full.held && full.peak <= full.budget, "{full:?}");
    for &key in &keys[1000..] {
        store.remove(table, key).unwrap();
    }
    store.prune().unwrap();
    let few = store.stats();
    assert_eq!(few.active, 2 * HUGE_PAGE, "one page of heads and one of tails: {few:?}");
    assert!(few.resident <= few.held && few.held < full.held / 4, "{few:?} {full:?}");
    let mut out = vec![0.0; 1000 * DIM];
    store.gather(table, &keys[..1000], &mut out).unwrap();
    assert!(out.iter().all(|&weight| weight != 0.0));
    store.validate().unwrap();
}

/// Catches: memory that a store does not hold coming back with a huge page, and a superblock that is moved only once.
#[test]
fn superblocks_move_to_huge_pages_when_growth_has_gone_by() {
    const SUPERBLOCK: u64 = 2 << 20;
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let version: Vec<u32> = release.split(['.', '-']).map_while(|part| part.parse().ok()).take(2).collect();
    if version < vec![6, 1] {
        return println!("skipped: Linux {release} moves nothing to huge pages");
    }
    let config = StoreConfig::new(512 << 20).policy(Policy::None);
    let store = Store::new(config, vec![TableConfig::new("t", DIM).chunk(DIM)]).unwrap();
    let (table, keys) = (TableId::new(0), (0..250_000).collect::<Vec<u64>>());
    let all_moved = |least: u64| {
        let begin = Instant::now();
        while store.stats().moved < least && begin.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(50));
        }
        store.stats()
    };
    for round in 1..=2 {
        // The first gradient makes a row, the second steps it.
        for keys in keys.chunks(2048).chain(keys.chunks(2048)) {
            store.apply_gradients(table, keys, &vec![1.0; keys.len() * DIM]).unwrap();
        }
        let stats = store.stats();
        assert!(stats.active >= 6 * SUPERBLOCK, "{stats:?}");
        // All but what is not full yet, or is on its way back.
        let moved = all_moved(stats.active - 2 * SUPERBLOCK);
        assert!(moved.moved >= stats.active - 2 * SUPERBLOCK, "round {round}: {moved:?}");
        assert!(moved.resident <= moved.held, "{moved:?}");
        store.validate().unwrap();
        let mut out = vec![0.0; keys.len() * DIM];
        store.gather(table, &keys, &mut out).unwrap();
        assert!(out.iter().all(|&weight| weight != 0.0));
        for &key in &keys[10..] {
            store.remove(table, key).unwrap();
        }
        store.prune().unwrap();
        let few = store.stats();
        assert!(few.active <= 2 * SUPERBLOCK && few.moved <= few.active && few.resident <= few.held, "{few:?}");
    }
}

#[test]
fn directories_shrink_with_their_rows() {
    let (store, mut seed) = (store(), 11);
    train(&store, 120, 0, &mut seed);
    let full = store.stats();
    let per_row = |stats: &Stats| directories(stats) as f64 / stats.rows as f64;
    assert!(per_row(&full) < 12.5, "{} bytes of directory a row", per_row(&full));
    store.prune_to(full.held * 3 / 10).unwrap();
    let pruned = store.stats();
    assert!(per_row(&pruned) < 16.0, "{} bytes of directory a row after pruning", per_row(&pruned));
    // Segments do not merge, so a little stays for every row there ever was.
    for table in (0..TABLES).map(TableId::new) {
        let keys: Vec<u64> = store.iter(table).unwrap().map(|row| row.key).collect();
        keys.iter().for_each(|&key| assert!(store.remove(table, key).unwrap()));
    }
    store.prune().unwrap();
    store.validate().unwrap();
    let empty = store.stats();
    assert_eq!((empty.rows, empty.active), (0, 0));
    let kept = directories(&empty) as f64 / full.rows as f64;
    assert!(kept < 1.0, "{kept} bytes of directory stay for each row there was");
}

#[test]
fn a_round_to_a_size_is_refused_where_it_cannot_be() {
    let store = store();
    assert!(matches!(store.prune_to(1), Err(StoreError::HeldTooSmall { asked: 1, least }) if least > 1));
    let table = || vec![TableConfig::new("t", DIM)];
    let plain = Store::new(StoreConfig::new(BUDGET).policy(Policy::None), table()).unwrap();
    assert!(matches!(plain.prune_to(BUDGET), Err(StoreError::NoPolicy { .. })));
    for target in [0.5, 1.0, f64::NAN, f64::INFINITY] {
        let made = Store::new(StoreConfig::new(BUDGET).resident_target(target), table());
        assert!(matches!(made, Err(ConfigError::Setting { .. })), "{target}");
    }
}
