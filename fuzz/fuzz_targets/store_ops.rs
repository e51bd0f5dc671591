//! Sequences of store operations under a tight budget, listings held open across them, against what is known of every
//! row. `tests/model.rs` says the same of random sequences; here coverage guides them.
#![no_main]

use dimslab::{ConfigError, FiitedConfig, Optimizer, Policy, Pooling, Rows, Store, StoreConfig, TableConfig, TableId};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use std::collections::{BTreeMap, HashMap};

#[derive(Debug, Arbitrary)]
struct Case {
    tables: [Shape; 2],
    no_policy: bool,
    /// In 64ths beyond the least budget.
    slack: u8,
    period: u8,
    seed: u64,
    ops: Vec<Op>,
}

#[derive(Debug, Arbitrary)]
struct Shape {
    dim: u8,
    chunk: u8,
}

#[derive(Debug, Arbitrary)]
enum Op {
    Apply { table: bool, keys: Vec<u8>, gradient: i8 },
    Sweep { table: bool, from: u16, count: u16, gradient: i8 },
    ApplyPooled { table: bool, keys: Vec<u8>, split: u8, gradient: i8 },
    Gather { table: bool, keys: Vec<u8> },
    Remove { table: bool, key: u8 },
    RemoveMany { table: bool, from: u16, count: u16 },
    Step,
    Prune,
    OpenListing { table: bool },
    ReadListing { count: u8 },
    CloseListing,
    Validate,
    Rate { table: bool, halves: u8 },
    WrongCall { table: u8, keys: u8, floats: u8, value: f32 },
}

/// A table's rows as they were after the last change: values, and the ordinals of live chunks.
struct Known {
    id: TableId,
    dim: usize,
    chunk: usize,
    rate: f32,
    rows: HashMap<u64, (Vec<f32>, Vec<usize>)>,
}

const DIMS: [usize; 8] = [1, 3, 4, 5, 16, 17, 33, 64];

impl Known {
    fn live(&self, live: &[usize], dimension: usize) -> bool {
        live.contains(&(dimension / self.chunk))
    }

    fn row(&self, key: u64) -> Vec<f32> {
        self.rows.get(&key).map_or_else(|| vec![0.0; self.dim], |(values, _)| values.clone())
    }

    fn train(&mut self, sums: &BTreeMap<u64, f32>) -> u64 {
        let (chunk, rate, mut updated) = (self.chunk, self.rate, 0);
        for (key, gradient) in sums {
            let Some((values, live)) = self.rows.get_mut(key) else { continue };
            updated += 1;
            let trained = values.iter_mut().enumerate().filter(|(d, _)| live.contains(&(d / chunk)));
            trained.for_each(|(_, value)| *value -= rate * gradient);
        }
        updated
    }

    /// Takes stock of the table, and checks what changed: chunks may have gone, and, if `may_grow`, come as zero.
    fn take_stock(&mut self, store: &Store, may_grow: bool) {
        let mut now = HashMap::new();
        for row in store.iter(self.id).expect("the table is there") {
            assert!(!row.live.is_empty());
            let nothing = (vec![0.0; self.dim], Vec::new());
            let (before, live_before) = self.rows.get(&row.key).unwrap_or(&nothing);
            for (d, (&value, &old)) in row.values.iter().zip(before).enumerate() {
                match (self.live(&row.live, d), self.live(live_before, d)) {
                    (true, true) => assert_eq!(value, old, "key {}, dimension {d}", row.key),
                    (true, false) => assert!(may_grow && value == 0.0, "key {}, dimension {d} is new", row.key),
                    (false, _) => assert_eq!(value, 0.0, "key {}, dimension {d} has no chunk", row.key),
                }
            }
            assert!(now.insert(row.key, (row.values, row.live)).is_none(), "a key is listed once");
        }
        self.rows = now;
    }

    fn gather(&self, store: &Store, keys: &[u64]) {
        let mut out = vec![f32::NAN; keys.len() * self.dim];
        store.gather(self.id, keys, &mut out).expect("lengths are right");
        let expected: Vec<f32> = keys.iter().flat_map(|&key| self.row(key)).collect();
        assert_eq!(out, expected);
    }

    fn apply(&mut self, store: &Store, keys: &[u64], gradient: i8) {
        // Multiples of 1/8, so that sums are exact; the position sets equal keys' gradients apart.
        let value = |position: usize| (f32::from(gradient) + (position % 3) as f32) / 8.0;
        let grads: Vec<f32> = (0..keys.len()).flat_map(|position| vec![value(position); self.dim]).collect();
        let mut sums = BTreeMap::new();
        keys.iter().enumerate().for_each(|(position, &key)| *sums.entry(key).or_insert(0.0) += value(position));
        match store.apply_gradients(self.id, keys, &grads) {
            Ok(applied) => assert_eq!((applied.unique, applied.updated), (sums.len() as u64, self.train(&sums))),
            Err(error) => panic!("{error}"),
        }
    }

    fn apply_pooled(&mut self, store: &Store, keys: &[u64], split: usize, gradient: i8) {
        let offsets = [0, split.min(keys.len()), keys.len()];
        let value = |bag: usize| (f32::from(gradient) + bag as f32) / 8.0;
        let grads: Vec<f32> = (0..2).flat_map(|bag| vec![value(bag); self.dim]).collect();
        let mut sums = BTreeMap::new();
        for (position, &key) in keys.iter().enumerate() {
            *sums.entry(key).or_insert(0.0) += value(usize::from(position >= offsets[1]));
        }
        let applied = store.apply_pooled_gradients(self.id, keys, &offsets, Pooling::Sum, &grads);
        assert_eq!(applied.expect("a policy refuses nothing").updated, self.train(&sums));
        let mut out = vec![f32::NAN; 2 * self.dim];
        store.gather_pooled(self.id, keys, &offsets, Pooling::Sum, &mut out).expect("offsets are right");
        assert!(out.iter().all(|value| !value.is_nan()));
    }
}

fn wide(keys: &[u8]) -> Vec<u64> {
    // A few keys at the ends of the range among small ones.
    keys.iter().map(|&key| if key < 250 { u64::from(key) } else { u64::MAX - u64::from(key) }).collect()
}

fn range(from: u16, count: u16) -> Vec<u64> {
    (0..u64::from(count % 1024)).map(|i| (u64::from(from) + i) % 4096).collect()
}

fn build(case: &Case) -> Option<(Store, Vec<Known>)> {
    let shapes =
        case.tables.each_ref().map(|shape| (DIMS[shape.dim as usize % 8], [4, 8, 16, 32][shape.chunk as usize % 4]));
    let tables = || {
        let table = |(position, &(dim, chunk)): (usize, &(usize, usize))| {
            TableConfig::new(format!("t{position}"), dim).chunk(chunk).optimizer(Optimizer::Sgd { lr: 1.0 })
        };
        shapes.iter().enumerate().map(table).collect::<Vec<_>>()
    };
    let fiited = FiitedConfig {
        period_steps: u64::from(case.period % 8) + 1,
        warmup_steps: 1,
        headroom: 0.1,
        ..FiitedConfig::default()
    };
    let policy = if case.no_policy { Policy::None } else { Policy::Fiited(fiited) };
    let config = |budget| StoreConfig::new(budget).policy(policy).seed(case.seed).deterministic(true);
    let Err(ConfigError::BudgetTooSmall { needed, .. }) = Store::new(config(1), tables()) else {
        panic!("one byte will do")
    };
    // Without a policy there has to be room: being full is then an error.
    let budget = if case.no_policy { 32 << 20 } else { needed + needed * u64::from(case.slack) / 64 };
    let store = Store::new(config(budget), tables()).ok()?;
    let known =
        |(position, (dim, chunk))| Known { id: TableId::new(position), dim, chunk, rate: 1.0, rows: HashMap::new() };
    Some((store, shapes.into_iter().enumerate().map(known).collect()))
}

/// A call that may be wrong is right or a typed error, and an error changes nothing.
fn wrong_call(store: &Store, table: u8, keys: u8, floats: u8, value: f32) {
    let id = TableId::new(table as usize);
    let keys = vec![9_999_999; keys as usize];
    let mut out = vec![value; floats as usize];
    let before = store.stats();
    if store.gather(id, &keys, &mut out).is_err() {
        assert!(out.iter().all(|found| found.to_bits() == value.to_bits()));
    }
    let nothing = vec![f32::NAN; floats as usize];
    assert!(store.apply_gradients(id, &keys, &nothing).is_err() || nothing.is_empty());
    let _ = store.gather_pooled(id, &keys, &[0, floats as usize, keys.len()], Pooling::Mean, &mut out);
    assert_eq!(store.stats().rows, before.rows);
}

fn one(store: &Store, known: &mut [Known], op: &Op) {
    match op {
        Op::Apply { table, keys, gradient } => known[usize::from(*table)].apply(store, &wide(keys), *gradient),
        Op::Sweep { table, from, count, gradient } => {
            known[usize::from(*table)].apply(store, &range(*from, *count), *gradient);
        }
        Op::ApplyPooled { table, keys, split, gradient } => {
            known[usize::from(*table)].apply_pooled(store, &wide(keys), *split as usize, *gradient);
        }
        Op::Gather { table, keys } => known[usize::from(*table)].gather(store, &wide(keys)),
        Op::Remove { table, key } => {
            let known = &mut known[usize::from(*table)];
            let key = wide(&[*key])[0];
            let there = known.rows.remove(&key).is_some();
            assert_eq!(store.remove(known.id, key).expect("the table is there"), there);
            known.gather(store, &[key]);
        }
        Op::RemoveMany { table, from, count } => {
            let known = &mut known[usize::from(*table)];
            for key in range(*from, *count) {
                let there = known.rows.remove(&key).is_some();
                assert_eq!(store.remove(known.id, key).expect("the table is there"), there);
            }
        }
        Op::Step => {
            store.step().expect("there is room, or a policy");
            known.iter_mut().for_each(|known| known.take_stock(store, true));
        }
        Op::Prune => {
            store.prune().expect("a round does not fail");
            known.iter_mut().for_each(|known| known.take_stock(store, false));
        }
        Op::Validate => store.validate().expect("the invariants hold"),
        Op::Rate { table, halves } => {
            let known = &mut known[usize::from(*table)];
            known.rate = f32::from(*halves % 4) / 2.0;
            store.set_learning_rate(known.id, known.rate).expect("the rate is legal");
        }
        Op::WrongCall { table, keys, floats, value } => wrong_call(store, *table, *keys, *floats, *value),
        Op::OpenListing { .. } | Op::ReadListing { .. } | Op::CloseListing => {}
    }
}

fuzz_target!(|case: Case| {
    let Some((store, mut known)) = build(&case) else { return };
    let mut listing: Option<(usize, Rows<'_>)> = None;
    for (position, op) in case.ops.iter().take(200).enumerate() {
        match op {
            Op::OpenListing { table } => {
                let table = usize::from(*table);
                listing = Some((table, store.iter(known[table].id).expect("the table is there")));
            }
            Op::ReadListing { count } => {
                // Whatever happened since it was opened: rows of the right shape, perhaps of before.
                if let Some((table, rows)) = &mut listing {
                    let known = &known[*table];
                    for row in rows.take(*count as usize) {
                        assert!(row.values.len() == known.dim && !row.live.is_empty());
                        assert!(row.live.iter().all(|&ordinal| ordinal * known.chunk < known.dim));
                    }
                }
            }
            Op::CloseListing => listing = None,
            op => one(&store, &mut known, op),
        }
        if position % 4 == 0 {
            store.validate().expect("the invariants hold");
            let stats = store.stats();
            assert!(stats.held <= stats.budget && stats.peak <= stats.budget);
        }
    }
});
