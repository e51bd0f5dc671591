//! Snapshots of a live store and what is made from them.

use dimslab::snapshot::{Directory, Manifest, RowBlock, Section, Source};
use dimslab::{
    Decay, Fallback, FiitedConfig, Init, LiveSnapshot, Optimizer, Policy, SnapshotKind, Store, StoreConfig,
    TableConfig, TableId,
};
use std::collections::BTreeMap;

/// SplitMix64.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number of [0, 1).
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }
}

/// A snapshot that was read to its end.
#[derive(Debug, Clone)]
struct Taken {
    manifest: Manifest,
    blocks: Vec<RowBlock>,
    sections: Vec<Section>,
}

/// A row as a snapshot has it: ordinals, then the bits of utilities, weights, state and row state.
type Saved = (Vec<u8>, Vec<u32>);

impl Taken {
    fn read(snapshot: &mut LiveSnapshot) -> Taken {
        let mut blocks = Vec::new();
        let mut block = RowBlock::default();
        while snapshot.next(&mut block).unwrap() {
            blocks.push(block.clone());
        }
        Taken { manifest: snapshot.manifest().clone(), blocks, sections: snapshot.sections().unwrap() }
    }

    fn of(store: &Store, kind: SnapshotKind) -> Taken {
        let mut snapshot = store.snapshot(kind).unwrap();
        let taken = Taken::read(&mut snapshot);
        snapshot.commit();
        taken
    }

    /// Rows by table and key; a removed one has no ordinals.
    fn rows(&self) -> BTreeMap<(usize, u64), Saved> {
        let mut rows = BTreeMap::new();
        for block in &self.blocks {
            for row in block.rows(&self.manifest.tables[block.table]) {
                let bits = [row.utilities, row.weights, row.state, row.row_state].concat();
                let bits = bits.iter().map(|value| value.to_bits()).collect();
                let before = rows.insert((block.table, row.key), (row.ordinals.to_vec(), bits));
                assert!(before.is_none(), "key {} of table {} is there twice", row.key, block.table);
            }
        }
        rows
    }

    fn restore(&self, config: StoreConfig, tables: Vec<TableConfig>) -> Store {
        let mut restore = Store::restore(config, tables, &self.manifest, &self.sections).unwrap();
        // Any order will do.
        self.blocks.iter().rev().for_each(|block| restore.rows(block).unwrap());
        restore.finish().unwrap()
    }

    fn restored(&self) -> Store {
        self.restore(self.manifest.store.clone(), self.manifest.tables.clone())
    }
}

fn t(table: usize) -> TableId {
    TableId::new(table)
}

fn tables() -> Vec<TableConfig> {
    let adam = Optimizer::Adam { lr: 0.01, beta1: 0.9, beta2: 0.99, eps: 1e-8 };
    let rowwise = Optimizer::RowwiseAdagrad { lr: 0.1, eps: 1e-8, initial_accumulator: 0.1 };
    vec![
        TableConfig::new("plain", 16).init(Init::Uniform { bound: 0.1 }),
        TableConfig::new("adam", 12).chunk(8).optimizer(adam).fallback(Fallback::DefaultVector),
        TableConfig::new("rows", 10).optimizer(rowwise).fallback(Fallback::HashedRow { rows: 5 }),
        TableConfig::new("narrow", 2),
    ]
}

fn policy() -> Policy {
    Policy::Fiited(FiitedConfig {
        period_steps: 7,
        warmup_steps: 3,
        decay: Decay::PerCapacity(1.0),
        ..FiitedConfig::default()
    })
}

/// One step on all tables, of keys most of which are few.
fn step(store: &Store, random: &mut Random, keys: u64) -> dimslab::StepReport {
    for table in 0..store.table_count() {
        let dim = store.dim(t(table)).unwrap();
        let batch: Vec<u64> = (0..200).map(|_| (random.unit() * random.unit() * keys as f32) as u64).collect();
        let grads: Vec<f32> = (0..batch.len() * dim).map(|_| random.unit() - 0.4).collect();
        store.apply_gradients(t(table), &batch, &grads).unwrap();
    }
    store.step().unwrap()
}

fn steps(store: &Store, random: &mut Random, keys: u64, count: usize) {
    for _ in 0..count {
        step(store, random, keys);
    }
}

/// How many newcomers are waiting to be looked at, and after how many accesses a row utilities halve.
fn adapting(taken: &Taken) -> (usize, f32) {
    use dimslab::snapshot::Data;
    let words = |name: &str| match &taken.sections.iter().find(|section| section.name == name).unwrap().data {
        Data::U64(words) => words.clone(),
        other => panic!("{name} holds {other:?}"),
    };
    ((words("store/newcomers").len() - 2) / 4, f32::from_bits(words("store/clock")[6] as u32))
}

/// A store that goes on from a snapshot does what the saved one does, bit for bit: growth, pruning, refusals, and how fast
/// it forgets.
#[test]
fn a_deterministic_store_goes_on_from_a_snapshot_as_if_nothing_had_been() {
    let (mut pruned, mut waiting, mut adapted) = (0, 0, 0);
    for seed in 0..16 {
        // Mostly the default, which adapts.
        let fixed = [Decay::Adaptive, Decay::Adaptive, Decay::PerCapacity(1.0)];
        let of = FiitedConfig { period_steps: 7, warmup_steps: 3, ..FiitedConfig::default() };
        assert_eq!(of.decay, Decay::Adaptive);
        let policy = Policy::Fiited(FiitedConfig { decay: fixed[seed as usize % 3], ..of });
        let config = StoreConfig::new(600 << 10).policy(policy).deterministic(true).snapshots(true).seed(seed);
        let store = Store::new(config, tables()).unwrap();
        let mut random = Random::new(seed);
        for _ in 0..100 + 13 * seed {
            step(&store, &mut random, 20_000);
        }
        let mut snapshot = store.snapshot(SnapshotKind::Full).unwrap();
        let before = random.clone();
        // Read while the store goes on.
        let (taken, reports) = std::thread::scope(|scope| {
            let reader = scope.spawn(|| Taken::read(&mut snapshot));
            let reports: Vec<_> = (0..250).map(|_| step(&store, &mut random, 20_000)).collect();
            (reader.join().unwrap(), reports)
        });
        snapshot.commit();
        store.validate().unwrap();
        let (new, memory) = adapting(&taken);
        waiting += new;
        let other = taken.restored();
        other.validate().unwrap();
        assert_eq!(Taken::of(&other, SnapshotKind::Full).rows(), taken.rows());
        let mut random = before;
        for report in reports {
            let again = step(&other, &mut random, 20_000);
            let moved = |report: dimslab::StepReport| {
                // Where records are is not saved, so how many move may differ; nothing else.
                let round = report.round.map(|round| dimslab::PruneReport { moved: 0, ..round });
                dimslab::StepReport { round, ..report }
            };
            assert_eq!(moved(again), moved(report), "seed {seed}");
            pruned += report.round.map_or(0, |round| round.shrunk + round.evicted);
        }
        other.validate().unwrap();
        let (one, two) = (Taken::of(&store, SnapshotKind::Full), Taken::of(&other, SnapshotKind::Full));
        assert_eq!(one.rows(), two.rows());
        assert_eq!(one.sections, two.sections);
        adapted += u32::from(adapting(&one).1 != memory);
        assert_eq!(store.stats().held, other.stats().held);
    }
    eprintln!("{pruned} chunks pruned, {waiting} newcomers in the snapshots, {adapted} changes of memory after them");
    assert!(pruned > 1000, "only {pruned} chunks were pruned");
    assert!(waiting > 100 && adapted > 0, "{waiting} newcomers, {adapted} changes of memory");
}

/// Many blocks, entered by several threads: the store is the one that was saved, goes on as it does, and holds no byte more,
/// although it is full. Without its superblocks from the beginning, or in another budget, one thread enters what is left.
#[test]
fn a_snapshot_of_many_blocks_is_loaded_by_several_threads() {
    let policy = Policy::Fiited(FiitedConfig { period_steps: 3, warmup_steps: 1, ..FiitedConfig::default() });
    let of_budget = |bytes| StoreConfig::new(bytes).policy(policy).deterministic(true).snapshots(true);
    let config = of_budget(12 << 20);
    let store = Store::new(config.clone(), tables()).unwrap();
    let mut random = Random::new(5);
    let work = |store: &Store, random: &mut Random, count: usize| {
        for _ in 0..count {
            for table in 0..store.table_count() {
                let batch: Vec<u64> = (0..4000).map(|_| (random.unit() * random.unit() * 9e4) as u64).collect();
                let grads: Vec<f32> =
                    (0..batch.len() * store.dim(t(table)).unwrap()).map(|_| random.unit() - 0.4).collect();
                store.apply_gradients(t(table), &batch, &grads).unwrap();
            }
            store.step().unwrap();
        }
    };
    work(&store, &mut random, 40);
    assert!(store.stats().events.refused > 0, "the store is not full");
    let folder = tempfile::tempdir().unwrap();
    let directory = Directory::create(&folder.path().join("snapshots")).unwrap();
    directory.save(&mut store.snapshot(SnapshotKind::Full).unwrap()).unwrap();
    let snapshot = directory.open_latest().unwrap().unwrap();
    let (mut blocks, mut block, mut count) = (snapshot.blocks(), RowBlock::default(), 0);
    while blocks.next(&mut block).unwrap() {
        count += 1;
    }
    assert!(count > 8, "only {count} blocks");
    let load = |config: &StoreConfig, sections: &[Section]| {
        let manifest = snapshot.manifest();
        let mut restore = Store::restore(config.clone(), tables(), manifest, sections).unwrap();
        restore.blocks(snapshot.blocks()).unwrap();
        let left_out = restore.left_out();
        (restore.finish().unwrap(), left_out)
    };
    let sections = snapshot.sections().unwrap();
    let saved = Taken::of(&store, SnapshotKind::Full);
    let (held, after) = (store.stats().held, random.clone());
    work(&store, &mut random, 20);
    for _ in 0..3 {
        let (other, left_out) = load(&config, &sections);
        other.validate().unwrap();
        assert_eq!((other.stats().held, left_out), (held, 0));
        assert_eq!(Taken::of(&other, SnapshotKind::Full).rows(), saved.rows());
        work(&other, &mut after.clone(), 20);
        assert_eq!(listed(&other), listed(&store));
        assert_eq!(other.stats().held, store.stats().held);
    }
    let bare: Vec<Section> = sections.iter().filter(|section| section.name != "store/superblocks").cloned().collect();
    for (config, sections) in [(&config, &bare), (&of_budget(13 << 20), &sections)] {
        let (other, left_out) = load(config, sections);
        other.validate().unwrap();
        assert_eq!(left_out, 0);
        assert_eq!(Taken::of(&other, SnapshotKind::Full).rows(), saved.rows());
    }
    // Of a key that is there twice one of two threads learns.
    let manifest = snapshot.manifest();
    let mut restore = Store::restore(config, tables(), manifest, &sections).unwrap();
    restore.blocks(snapshot.blocks()).unwrap();
    let error = restore.blocks(snapshot.blocks()).unwrap_err().to_string();
    assert!(error.contains("twice") || error.contains("room"), "{error}");
}

/// All rows of a store, by table and key.
fn listed(store: &Store) -> BTreeMap<(usize, u64), (Vec<usize>, Vec<u32>)> {
    let tables = 0..store.table_count();
    let rows = tables.flat_map(|table| store.iter(t(table)).unwrap().map(move |row| (table, row)));
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect();
    rows.map(|(table, row)| ((table, row.key), (row.live, bits(row.values)))).collect()
}

/// Threads that update, remove and prune as fast as they can, until they are told to stop.
fn disturb(store: &Store, random: &mut Random, keys: u64, over: &std::sync::atomic::AtomicBool) -> u64 {
    let mut rounds = 0;
    while !over.load(std::sync::atomic::Ordering::Relaxed) {
        for table in 0..store.table_count() {
            let dim = store.dim(t(table)).unwrap();
            let batch: Vec<u64> = (0..100).map(|_| random.next() % keys).collect();
            let grads: Vec<f32> = (0..batch.len() * dim).map(|_| random.unit() - 0.4).collect();
            store.apply_gradients(t(table), &batch, &grads).unwrap();
            store.remove(t(table), random.next() % keys).unwrap();
        }
        if random.next().is_multiple_of(3) {
            rounds += 1;
            store.prune().unwrap();
        }
    }
    rounds
}

/// Beside threads that change everything all the time, a snapshot is exactly what the store was at its beginning.
#[test]
fn every_snapshot_is_one_moments_state_under_concurrent_updates() {
    let (mut snapshots, mut stalls, mut rounds) = (0, 0, 0);
    for seed in 0..12 {
        let config = StoreConfig::new(1 << 20).policy(policy()).snapshots(true).seed(seed);
        let store = Store::new(config, tables()).unwrap();
        let mut random = Random::new(seed);
        let keys = 3000;
        steps(&store, &mut random, keys, 30);
        for _ in 0..3 {
            // Nobody is at work here but the pruning thread: it changes nothing between two equal lists.
            let (before, mut snapshot) = loop {
                let before = listed(&store);
                let snapshot = store.snapshot(SnapshotKind::Full).unwrap();
                if listed(&store) == before {
                    break (before, snapshot);
                }
            };
            let over = std::sync::atomic::AtomicBool::new(false);
            let taken = std::thread::scope(|scope| {
                let disturbers = [1, 2].map(|thread| {
                    let (store, over) = (&store, &over);
                    let mut random = Random::new(seed * 1000 + thread);
                    scope.spawn(move || disturb(store, &mut random, keys, over))
                });
                let taken = Taken::read(&mut snapshot);
                over.store(true, std::sync::atomic::Ordering::Relaxed);
                rounds += disturbers.into_iter().map(|thread| thread.join().unwrap()).sum::<u64>();
                taken
            });
            stalls += snapshot.stalls();
            snapshot.commit();
            store.validate().unwrap();
            let roomy = StoreConfig::new(8 << 20).policy(policy()).seed(seed).deterministic(true);
            let other = taken.restore(roomy, taken.manifest.tables.clone());
            other.validate().unwrap();
            assert_eq!(listed(&other), before, "seed {seed}");
            snapshots += 1;
        }
    }
    eprintln!("{snapshots} snapshots, {rounds} rounds beside them, {stalls} waits for room");
    assert!(rounds > 0);
}

/// A chain of increments is the full snapshot, whatever went, came back, grew and shrank meanwhile.
#[test]
fn increments_add_up_to_the_full_snapshot() {
    let mut parts = (0, 0);
    for seed in 0..5 {
        let config = StoreConfig::new(2 << 20).policy(policy()).deterministic(true).snapshots(true).seed(seed);
        let store = Store::new(config, tables()).unwrap();
        let mut random = Random::new(seed);
        steps(&store, &mut random, 4000, 20);
        assert!(store.snapshot(SnapshotKind::Increment).is_err(), "an increment of nothing");
        let mut rows = Taken::of(&store, SnapshotKind::Full).rows();
        for _ in 0..6 {
            let base = store.increment_base();
            // A few steps on few keys, some of them removed, some of those trained again.
            for _ in 0..3 {
                let batch: Vec<u64> = (0..60).map(|_| random.next() % 4000).collect();
                for table in 0..store.table_count() {
                    let dim = store.dim(t(table)).unwrap();
                    let grads: Vec<f32> = (0..batch.len() * dim).map(|_| random.unit() - 0.4).collect();
                    store.apply_gradients(t(table), &batch, &grads).unwrap();
                    for &key in &batch[..20] {
                        store.remove(t(table), key).unwrap();
                    }
                    store.apply_gradients(t(table), &batch[..5], &grads[..5 * dim]).unwrap();
                }
                store.step().unwrap();
            }
            let mut snapshot = store.snapshot(SnapshotKind::Increment).unwrap();
            // Read while the store goes on.
            let increment = std::thread::scope(|scope| {
                let reader = scope.spawn(|| Taken::read(&mut snapshot));
                step(&store, &mut random, 400);
                reader.join().unwrap()
            });
            snapshot.commit();
            assert_eq!(increment.manifest.since, base);
            let changes = increment.rows();
            parts.0 += changes.len();
            for (key, row) in changes {
                if row.0.is_empty() {
                    rows.remove(&key)
                } else {
                    rows.insert(key, row)
                };
            }
            let full = increment.clone();
            let restored = store_of(&rows, &full);
            assert_eq!(restored, rows);
            // What the increment's moment was, against a full snapshot of the same moment next time.
            let now = Taken::of(&store, SnapshotKind::Increment);
            for (key, row) in now.rows() {
                if row.0.is_empty() {
                    rows.remove(&key)
                } else {
                    rows.insert(key, row)
                };
            }
            let full = Taken::of(&store, SnapshotKind::Full).rows();
            assert_eq!(rows, full, "seed {seed}");
            parts.1 += full.len();
        }
    }
    assert!(parts.0 * 2 < parts.1, "increments have {} rows, the stores {}", parts.0, parts.1);
}

/// What is left of rows after their way through a store of the same settings.
fn store_of(rows: &BTreeMap<(usize, u64), Saved>, taken: &Taken) -> BTreeMap<(usize, u64), Saved> {
    let manifest = Manifest { since: None, ..taken.manifest.clone() };
    let config = manifest.store.clone().resident_target(3.0);
    let mut restore = Store::restore(config, manifest.tables.clone(), &manifest, &taken.sections).unwrap();
    for (&(table, key), (ordinals, bits)) in rows {
        let of = &manifest.tables[table];
        let values: Vec<f32> = bits.iter().map(|&bits| f32::from_bits(bits)).collect();
        let (n, weights) = (ordinals.len(), ordinals.len() * of.chunk_dims());
        let own = usize::from(of.name() == "rows");
        let (utilities, rest) = values.split_at(n);
        let (weights, rest) = rest.split_at(weights);
        let (state, row_state) = rest.split_at(rest.len() - own);
        let mut block = RowBlock { table, ..RowBlock::default() };
        block.push(dimslab::snapshot::RowRef { key, ordinals, utilities, weights, state, row_state });
        restore.rows(&block).unwrap();
    }
    Taken::of(&restore.finish().unwrap(), SnapshotKind::Full).rows()
}

/// In a smaller budget the least important chunks stay out, and what is there is what was saved.
#[test]
fn a_smaller_budget_leaves_out_what_matters_least() {
    let config = StoreConfig::new(2 << 20).policy(policy()).deterministic(true).snapshots(true);
    let store = Store::new(config, vec![TableConfig::new("t", 16)]).unwrap();
    let mut random = Random::new(3);
    steps(&store, &mut random, 6000, 60);
    let taken = Taken::of(&store, SnapshotKind::Full);
    let (all, tables) = (taken.rows(), taken.manifest.tables.clone());
    for budget in [1 << 19, 1 << 18, 4 << 20] {
        let mut restore = Store::restore(
            StoreConfig::new(budget).policy(policy()).snapshots(true),
            tables.clone(),
            &taken.manifest,
            &taken.sections,
        )
        .unwrap();
        taken.blocks.iter().for_each(|block| restore.rows(block).unwrap());
        let left_out = restore.left_out();
        let small = restore.finish().unwrap();
        small.validate().unwrap();
        assert!(small.stats().peak <= budget);
        let kept = Taken::of(&small, SnapshotKind::Full).rows();
        assert_eq!(kept.len() == all.len(), budget == 4 << 20, "{} of {} rows", kept.len(), all.len());
        assert_eq!(left_out > 0, budget < 2 << 20);
        // Utilities of all chunks, and of those that are there.
        let utilities = |rows: &BTreeMap<_, Saved>| -> Vec<f32> {
            rows.values().flat_map(|(n, bits)| bits[..n.len()].iter().map(|&bits| f32::from_bits(bits))).collect()
        };
        let (mut everything, mut there) = (utilities(&all), utilities(&kept));
        everything.sort_by(f32::total_cmp);
        there.sort_by(f32::total_cmp);
        let best = &everything[everything.len() - there.len()..];
        let (sum, most): (f32, f32) = (there.iter().sum(), best.iter().sum());
        assert!(sum >= 0.97 * most, "budget {budget}: utilities of {sum} are there, {most} could be");
        for (key, (ordinals, bits)) in &kept {
            let (saved, whole) = &all[key];
            let at = |ordinal: &u8| saved.iter().position(|saved| saved == ordinal).unwrap();
            for (position, ordinal) in ordinals.iter().enumerate() {
                let weights =
                    |n: usize, bits: &[u32], position: usize| bits[n + position * 4..n + position * 4 + 4].to_vec();
                assert_eq!(weights(ordinals.len(), bits, position), weights(saved.len(), whole, at(ordinal)));
            }
        }
    }
    let none = StoreConfig::new(1 << 18).policy(Policy::None);
    let mut restore = Store::restore(none, tables, &taken.manifest, &taken.sections).unwrap();
    let outcome = taken.blocks.iter().try_for_each(|block| restore.rows(block));
    assert!(outcome.unwrap_err().to_string().contains("raise it"));
}

/// Weights and per-dimension state survive another chunk size, there and back.
#[test]
fn rows_come_through_another_chunk_size() {
    for (optimizer, dim) in [
        (TableConfig::DEFAULT_OPTIMIZER, 18),
        (Optimizer::Adam { lr: 0.01, beta1: 0.9, beta2: 0.99, eps: 1e-8 }, 32),
        (Optimizer::Sgd { lr: 0.1 }, 7),
        (Optimizer::RowwiseAdagrad { lr: 0.1, eps: 1e-8, initial_accumulator: 0.1 }, 16),
    ] {
        let config = || StoreConfig::new(4 << 20).policy(Policy::None).snapshots(true);
        let table = |chunk| vec![TableConfig::new("t", dim).chunk(chunk).optimizer(optimizer)];
        let store = Store::new(config(), table(4)).unwrap();
        let mut random = Random::new(9);
        steps(&store, &mut random, 500, 30);
        let first = Taken::of(&store, SnapshotKind::Full);
        for chunk in [8, 16, 32] {
            let other = first.restore(config(), table(chunk));
            other.validate().unwrap();
            let values = |store: &Store| listed(store).into_iter().map(|(key, row)| (key, row.1)).collect::<Vec<_>>();
            assert_eq!(values(&other), values(&store));
            let back = Taken::of(&other, SnapshotKind::Full).restore(config(), table(4));
            let (again, first) = (Taken::of(&back, SnapshotKind::Full).rows(), first.rows());
            assert_eq!(again.len(), first.len());
            for (key, (ordinals, bits)) in &again {
                // All but the utilities, which are spread evenly.
                assert_eq!((ordinals, &bits[ordinals.len()..]), (&first[key].0, &first[key].1[ordinals.len()..]));
            }
        }
    }
}

/// A snapshot that is dropped, or that nobody reads while others wait for room, is given up, and the next one is whole.
#[test]
fn a_snapshot_that_is_given_up_leaves_nothing_behind() {
    let config = StoreConfig::new(1 << 20).policy(policy()).snapshots(true);
    let store = Store::new(config, tables()).unwrap();
    let mut random = Random::new(1);
    steps(&store, &mut random, 2000, 30);
    let plain = Store::new(StoreConfig::new(1 << 20), tables()).unwrap();
    assert!(plain.snapshot(SnapshotKind::Full).unwrap_err().to_string().contains("StoreConfig::snapshots"));
    for blocks in 0..4 {
        let mut snapshot = store.snapshot(SnapshotKind::Full).unwrap();
        assert!(store.snapshot(SnapshotKind::Full).unwrap_err().to_string().contains("another"));
        let mut block = RowBlock::default();
        for _ in 0..blocks {
            // Few enough to have room without a reader.
            store.apply_gradients(t(3), &[1, 2, 3], &[1.0; 6]).unwrap();
            assert!(snapshot.next(&mut block).unwrap());
        }
        drop(snapshot);
        assert!(store.snapshot(SnapshotKind::Increment).unwrap_err().to_string().contains("full one"));
        let whole = Taken::of(&store, SnapshotKind::Full);
        assert_eq!(whole.rows().len() as u64, store.stats().rows);
        // It was committed, and nothing was changed since.
        assert!(Taken::of(&store, SnapshotKind::Increment).rows().is_empty());
        store.validate().unwrap();
    }
    let uncommitted = store.snapshot(SnapshotKind::Full).unwrap();
    drop(uncommitted);
    assert_eq!(store.increment_base(), None);
}

/// Bad input is an error that says what does not fit.
#[test]
fn what_does_not_fit_is_refused() {
    let config = StoreConfig::new(1 << 20).policy(policy()).deterministic(true).snapshots(true);
    let store = Store::new(config.clone(), tables()).unwrap();
    let mut random = Random::new(1);
    steps(&store, &mut random, 2000, 30);
    let taken = Taken::of(&store, SnapshotKind::Full);
    let begin = |tables: Vec<TableConfig>, sections: &[Section]| {
        Store::restore(config.clone(), tables, &taken.manifest, sections)
    };
    let mut fewer = tables();
    fewer.pop();
    let mut wider = tables();
    wider[0] = TableConfig::new("plain", 8);
    let mut renamed = tables();
    renamed[3] = TableConfig::new("other", 2);
    let mut other_state = tables();
    other_state[0] = tables()[0].clone().optimizer(Optimizer::Sgd { lr: 1.0 });
    for (tables, what) in
        [(fewer, "4 tables"), (wider, "dimension 16"), (renamed, "`narrow`"), (other_state, "optimizer")]
    {
        let error = begin(tables, &taken.sections).err().unwrap().to_string();
        assert!(error.contains(what), "{error}");
    }
    // Sections of another length, another type, or with values that cannot be.
    for (position, section) in taken.sections.iter().enumerate() {
        use dimslab::snapshot::Data;
        let spoil = |data: Data| {
            let mut sections = taken.sections.clone();
            sections[position].data = data;
            let begun = begin(tables(), &sections);
            begun.is_err() || begun.is_ok_and(|restore| restore.finish().is_err())
        };
        assert!(spoil(Data::U8(vec![1, 2, 3])), "{}", section.name);
        let cut = match &section.data {
            Data::U64(values) => Data::U64(values[1..].to_vec()),
            Data::U32(values) => Data::U32(values[1..].to_vec()),
            Data::F32(values) => Data::F32(values[1..].to_vec()),
            other => other.clone(),
        };
        assert!(section.name == "store/superblocks" || spoil(cut), "{} cut short", section.name);
        match &section.data {
            Data::U64(values) => _ = spoil(Data::U64(vec![u64::MAX; values.len()])),
            Data::U32(values) => _ = spoil(Data::U32(vec![u32::MAX; values.len()])),
            Data::F32(values) => _ = spoil(Data::F32(vec![f32::NAN; values.len()])),
            _ => {}
        }
    }
    // Blocks that are no rows of their table.
    let good = taken.blocks.iter().find(|block| block.table == 0 && block.keys.len() > 2).unwrap();
    type Spoil = fn(&mut RowBlock);
    let spoilt: [(&str, Spoil); 8] = [
        ("twice", |block| block.keys[1] = block.keys[0]),
        ("of its shape", |block| block.weights.truncate(1)),
        ("of its shape", |block| block.chunks.truncate(1)),
        ("of table 77", |block| block.table = 77),
        ("of its shape", |block| block.row_state.push(1.0)),
        ("cannot be one", |block| block.ordinals[0] = 200),
        ("cannot be one", |block| block.utilities[0] = f32::NAN),
        ("cannot be one", |block| block.utilities[0] = -1.0),
    ];
    for (what, spoil) in spoilt {
        let mut block = good.clone();
        spoil(&mut block);
        let error = begin(tables(), &taken.sections).unwrap().rows(&block).unwrap_err().to_string();
        assert!(error.contains(what), "{what}: {error}");
    }
    let missing = begin(tables(), &taken.sections).unwrap().finish().err().unwrap().to_string();
    assert!(missing.contains("0 rows"), "{missing}");
}
