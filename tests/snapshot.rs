//! Snapshots of a live store and what is made from them.

use dimslab::snapshot::{Manifest, RowBlock, Section, Source};
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

/// A store that goes on from a snapshot does what the saved one does, bit for bit: growth, pruning, refusals.
#[test]
fn a_deterministic_store_goes_on_from_a_snapshot_as_if_nothing_had_been() {
    let mut pruned = 0;
    for seed in 0..6 {
        let config = StoreConfig::new(600 << 10).policy(policy()).deterministic(true).snapshots(true).seed(seed);
        let store = Store::new(config, tables()).unwrap();
        let mut random = Random::new(seed);
        for _ in 0..40 + 13 * seed {
            step(&store, &mut random, 20_000);
        }
        let mut snapshot = store.snapshot(SnapshotKind::Full).unwrap();
        let before = random.clone();
        // Read while the store goes on.
        let (taken, reports) = std::thread::scope(|scope| {
            let reader = scope.spawn(|| Taken::read(&mut snapshot));
            let reports: Vec<_> = (0..60).map(|_| step(&store, &mut random, 20_000)).collect();
            (reader.join().unwrap(), reports)
        });
        snapshot.commit();
        store.validate().unwrap();
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
        assert_eq!(store.stats().held, other.stats().held);
    }
    assert!(pruned > 1000, "only {pruned} chunks were pruned");
}
