//! The store against a model of it: random operations, every figure compared after each.
//!
//! Gradients are multiples of 1/8 and SGD's rate is 1, so that every sum is exact and values must be equal. More cases
//! with `PROPTEST_CASES`.

use dimslab::{
    ConfigError, Fallback, FiitedConfig, Optimizer, Policy, Pooling, Store, StoreConfig, TableConfig, TableId,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap};

const DIMS: [usize; 6] = [1, 3, 4, 5, 16, 33];
const CHUNKS: [usize; 4] = [4, 8, 16, 32];
const SGD: Optimizer = Optimizer::Sgd { lr: 1.0 };
const OPTIMIZERS: [Optimizer; 4] = [
    SGD,
    Optimizer::Adagrad { lr: 1.0, eps: 1e-6, initial_accumulator: 0.25 },
    Optimizer::RowwiseAdagrad { lr: 1.0, eps: 1e-6, initial_accumulator: 0.25 },
    Optimizer::Adam { lr: 1.0, beta1: 0.75, beta2: 0.875, eps: 1e-6 },
];

#[derive(Debug, Clone)]
enum Op {
    Apply {
        table: usize,
        keys: Vec<u64>,
        seed: u32,
    },
    /// Many keys at once, to fill the store.
    Sweep {
        table: usize,
        from: u64,
        count: u64,
        seed: u32,
    },
    ApplyPooled {
        table: usize,
        bags: Vec<Vec<u64>>,
        mean: bool,
        seed: u32,
    },
    Gather {
        table: usize,
        keys: Vec<u64>,
    },
    GatherPooled {
        table: usize,
        bags: Vec<Vec<u64>>,
        mean: bool,
    },
    Remove {
        table: usize,
        key: u64,
    },
    Step,
    Prune,
    Iter {
        table: usize,
    },
    Rate {
        table: usize,
        halves: u32,
    },
}

fn keys() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(
        prop_oneof![4 => 0..40u64, 1 => Just(u64::MAX), 1 => (0..4u64).prop_map(|key| key << 62)],
        0..40,
    )
}

/// Bags of sizes by which a mean divides exactly.
fn bags() -> impl Strategy<Value = Vec<Vec<u64>>> {
    let bag = prop_oneof![Just(0usize), Just(1), Just(2), Just(4)]
        .prop_flat_map(|size| prop::collection::vec(0..40u64, size));
    prop::collection::vec(bag, 0..12)
}

fn ops(tables: usize, space: u64) -> impl Strategy<Value = Vec<Op>> {
    let table = 0..tables;
    let op = prop_oneof![
        6 => (table.clone(), keys(), any::<u32>()).prop_map(|(table, keys, seed)| Op::Apply { table, keys, seed }),
        3 => (table.clone(), 0..space, 0..space / 4, any::<u32>())
            .prop_map(|(table, from, count, seed)| Op::Sweep { table, from, count, seed }),
        3 => (table.clone(), bags(), any::<bool>(), any::<u32>())
            .prop_map(|(table, bags, mean, seed)| Op::ApplyPooled { table, bags, mean, seed }),
        2 => (table.clone(), keys()).prop_map(|(table, keys)| Op::Gather { table, keys }),
        2 => (table.clone(), bags(), any::<bool>()).prop_map(|(table, bags, mean)| Op::GatherPooled { table, bags, mean }),
        3 => (table.clone(), 0..40u64).prop_map(|(table, key)| Op::Remove { table, key }),
        6 => Just(Op::Step),
        1 => Just(Op::Prune),
        1 => table.clone().prop_map(|table| Op::Iter { table }),
        1 => (table, 0..3u32).prop_map(|(table, halves)| Op::Rate { table, halves }),
    ];
    prop::collection::vec(op, 1..40)
}

/// Whether a table of several is stood in for by a shared vector.
type Shape = (usize, usize, usize, bool);

fn shapes() -> impl Strategy<Value = Vec<Shape>> {
    prop::collection::vec((0..DIMS.len(), 0..CHUNKS.len(), 0..OPTIMIZERS.len(), any::<bool>()), 1..4)
}

/// `[rows, dim]` of multiples of 1/8, from -1 to 1, some rows all zero.
fn gradients(rows: usize, dim: usize, seed: u32) -> Vec<f32> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 16
    };
    (0..rows)
        .flat_map(|_| {
            let zero = next() % 8 == 0;
            (0..dim).map(|_| if zero { 0.0 } else { (next() % 17) as f32 / 8.0 - 1.0 }).collect::<Vec<_>>()
        })
        .collect()
}

fn flatten(bags: &[Vec<u64>]) -> (Vec<u64>, Vec<usize>) {
    let mut offsets = vec![0];
    let mut keys = Vec::new();
    for bag in bags {
        keys.extend(bag);
        offsets.push(keys.len());
    }
    (keys, offsets)
}

fn pooling(mean: bool) -> Pooling {
    if mean { Pooling::Mean } else { Pooling::Sum }
}

/// Each key's summed gradient.
fn combine(keys: &[u64], dim: usize, gradient: impl Fn(usize) -> Vec<f32>) -> BTreeMap<u64, Vec<f32>> {
    let mut sums = BTreeMap::new();
    for (position, &key) in keys.iter().enumerate() {
        let sum = sums.entry(key).or_insert_with(|| vec![0.0; dim]);
        sum.iter_mut().zip(gradient(position)).for_each(|(sum, value)| *sum += value);
    }
    sums
}

/// The gradient that a pooled call gives each of its keys.
fn pooled_gradient(bags: &[Vec<u64>], mean: bool, grads: &[f32], dim: usize) -> impl Fn(usize) -> Vec<f32> {
    let mut each = Vec::new();
    for (bag, grad) in bags.iter().zip(grads.chunks(dim)) {
        let weight = if mean { 1.0 / bag.len().max(1) as f32 } else { 1.0 };
        bag.iter().for_each(|_| each.push(grad.iter().map(|value| value * weight).collect::<Vec<f32>>()));
    }
    move |position| each[position].clone()
}

fn pooled_rows(bags: &[Vec<u64>], mean: bool, dim: usize, row: impl Fn(u64) -> Vec<f32>) -> Vec<f32> {
    let mut out = Vec::new();
    for bag in bags {
        let weight = if mean { 1.0 / bag.len().max(1) as f32 } else { 1.0 };
        let mut sum = vec![0f32; dim];
        for &key in bag {
            sum.iter_mut().zip(row(key)).for_each(|(sum, value)| *sum += weight * value);
        }
        out.extend(sum);
    }
    out
}

/// A row of the model, in f64 so that it is the more exact of the two.
#[derive(Debug, Clone)]
struct ModelRow {
    weights: Vec<f64>,
    first: Vec<f64>,
    second: Vec<f64>,
    steps: i32,
}

impl ModelRow {
    fn new(weights: Vec<f64>, optimizer: &Optimizer) -> ModelRow {
        let initial = match *optimizer {
            Optimizer::Adagrad { initial_accumulator, .. } | Optimizer::RowwiseAdagrad { initial_accumulator, .. } => {
                f64::from(initial_accumulator)
            }
            _ => 0.0,
        };
        let dim = weights.len();
        ModelRow { weights, first: vec![0.0; dim], second: vec![initial; dim], steps: 0 }
    }

    fn step(&mut self, optimizer: &Optimizer, lr: f64, grad: &[f32]) {
        self.steps += 1;
        let grad: Vec<f64> = grad.iter().map(|&value| f64::from(value)).collect();
        let mean_square = grad.iter().map(|value| value * value).sum::<f64>() / grad.len() as f64;
        for (d, &g) in grad.iter().enumerate() {
            self.weights[d] -= match *optimizer {
                Optimizer::Sgd { .. } => lr * g,
                Optimizer::Adagrad { eps, .. } => {
                    self.second[d] += g * g;
                    lr * g / (self.second[d].sqrt() + f64::from(eps))
                }
                Optimizer::RowwiseAdagrad { eps, .. } => {
                    self.second[d] += mean_square;
                    lr * g / (self.second[d].sqrt() + f64::from(eps))
                }
                Optimizer::Adam { beta1, beta2, eps, .. } => {
                    let (beta1, beta2) = (f64::from(beta1), f64::from(beta2));
                    self.first[d] = beta1 * self.first[d] + (1.0 - beta1) * g;
                    self.second[d] = beta2 * self.second[d] + (1.0 - beta2) * g * g;
                    let first = self.first[d] / (1.0 - beta1.powi(self.steps));
                    let second = self.second[d] / (1.0 - beta2.powi(self.steps));
                    lr * first / (second.sqrt() + f64::from(eps))
                }
            };
        }
    }
}

struct ModelTable {
    dim: usize,
    optimizer: Optimizer,
    lr: f64,
    shared: Option<ModelRow>,
    rows: HashMap<u64, ModelRow>,
    /// Keys whose row is made at the end of the step.
    pending: Vec<u64>,
}

impl ModelTable {
    fn apply(&mut self, sums: &BTreeMap<u64, Vec<f32>>, deterministic: bool) -> (u64, u64) {
        let mut missed = Vec::new();
        let mut shared_grad = vec![0f32; self.dim];
        for (key, grad) in sums {
            match self.rows.get_mut(key) {
                Some(row) => row.step(&self.optimizer, self.lr, grad),
                None => {
                    missed.push(*key);
                    shared_grad.iter_mut().zip(grad).for_each(|(sum, value)| *sum += value);
                }
            }
        }
        let counts = ((sums.len() - missed.len()) as u64, missed.len() as u64);
        if let (Some(shared), false) = (&mut self.shared, missed.is_empty()) {
            shared.step(&self.optimizer, self.lr, &shared_grad);
        }
        self.pending.append(&mut missed);
        if !deterministic {
            self.grow();
        }
        counts
    }

    fn grow(&mut self) {
        for key in std::mem::take(&mut self.pending) {
            let start = self.shared.as_ref().map_or_else(|| vec![0.0; self.dim], |shared| shared.weights.clone());
            self.rows.entry(key).or_insert_with(|| ModelRow::new(start, &self.optimizer));
        }
    }

    fn row(&self, key: u64) -> Vec<f32> {
        let row = self.rows.get(&key).or(self.shared.as_ref());
        row.map_or_else(|| vec![0.0; self.dim], |row| row.weights.iter().map(|&weight| weight as f32).collect())
    }

    /// Exact for SGD, close for the others.
    fn agree(&self, found: &[f32], expected: &[f32]) -> bool {
        let tolerance = if self.optimizer == SGD { 0.0 } else { 2e-3 };
        found.len() == expected.len()
            && found
                .iter()
                .zip(expected)
                .all(|(found, expected)| (found - expected).abs() <= tolerance * expected.abs().max(1.0))
    }
}

fn gather(store: &Store, table: usize, keys: &[u64], dim: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; keys.len() * dim];
    store.gather(TableId::new(table), keys, &mut out).unwrap();
    out
}

fn sweep_keys(from: u64, count: u64, space: u64) -> Vec<u64> {
    (0..count).map(|i| (from + i) % space).collect()
}

const SPACE: u64 = 400;

/// Without a policy every value is known.
fn check_against_formulas(shapes: &[Shape], ops: &[Op], deterministic: bool) {
    let mut model = Vec::new();
    let mut tables = Vec::new();
    for (position, &(dim, chunk, optimizer, shared)) in shapes.iter().enumerate() {
        let (dim, optimizer) = (DIMS[dim], OPTIMIZERS[optimizer]);
        let fallback = if shared { Fallback::DefaultVector } else { Fallback::Zero };
        tables.push(
            TableConfig::new(format!("t{position}"), dim).chunk(CHUNKS[chunk]).optimizer(optimizer).fallback(fallback),
        );
        let shared = shared.then(|| ModelRow::new(vec![0.0; dim], &optimizer));
        model.push(ModelTable { dim, optimizer, lr: 1.0, shared, rows: HashMap::new(), pending: Vec::new() });
    }
    let config = StoreConfig::new(8 << 20).policy(Policy::None).deterministic(deterministic);
    let store = Store::new(config, tables).unwrap();
    for op in ops {
        formula_op(&store, &mut model, op, deterministic);
        let stats = store.stats();
        assert!(stats.held <= stats.peak && stats.peak <= stats.budget);
        for (table, model) in stats.tables.iter().zip(&model) {
            assert_eq!(table.rows, model.rows.len() as u64);
        }
    }
    store.validate().unwrap();
}

/// Every row of the model is listed as it is, and no other.
fn check_listing(store: &Store, index: usize, table: &ModelTable) {
    let mut listed = 0;
    for row in store.iter(TableId::new(index)).unwrap() {
        listed += 1;
        assert!(table.rows.contains_key(&row.key), "key {} is listed", row.key);
        assert!(table.agree(&row.values, &table.row(row.key)), "key {}: {:?}", row.key, row.values);
    }
    assert_eq!(listed, table.rows.len());
}

fn formula_op(store: &Store, model: &mut [ModelTable], op: &Op, deterministic: bool) {
    match op {
        Op::Apply { table, keys, seed } => {
            let grads = gradients(keys.len(), model[*table].dim, *seed);
            apply_keys(store, *table, &mut model[*table], keys, &grads, deterministic);
        }
        Op::Sweep { table, from, count, seed } => {
            let keys = sweep_keys(*from, *count, SPACE);
            let grads = gradients(keys.len(), model[*table].dim, *seed);
            apply_keys(store, *table, &mut model[*table], &keys, &grads, deterministic);
        }
        Op::ApplyPooled { table, bags, mean, seed } => {
            let (index, table) = (*table, &mut model[*table]);
            let (keys, offsets) = flatten(bags);
            let grads = gradients(bags.len(), table.dim, *seed);
            let sums = combine(&keys, table.dim, pooled_gradient(bags, *mean, &grads, table.dim));
            let applied =
                store.apply_pooled_gradients(TableId::new(index), &keys, &offsets, pooling(*mean), &grads).unwrap();
            assert_eq!((applied.updated, applied.missed), table.apply(&sums, deterministic));
        }
        Op::Gather { table, keys } => {
            let (index, table) = (*table, &model[*table]);
            let expected: Vec<f32> = keys.iter().flat_map(|&key| table.row(key)).collect();
            let found = gather(store, index, keys, table.dim);
            assert!(table.agree(&found, &expected), "{found:?} for {expected:?}");
        }
        Op::GatherPooled { table, bags, mean } => {
            let (index, table) = (*table, &model[*table]);
            let (keys, offsets) = flatten(bags);
            let mut found = vec![f32::NAN; bags.len() * table.dim];
            store.gather_pooled(TableId::new(index), &keys, &offsets, pooling(*mean), &mut found).unwrap();
            let expected = pooled_rows(bags, *mean, table.dim, |key| table.row(key));
            assert!(table.agree(&found, &expected), "{found:?} for {expected:?}");
        }
        Op::Remove { table, key } => {
            let there = model[*table].rows.remove(key).is_some();
            assert_eq!(store.remove(TableId::new(*table), *key).unwrap(), there);
        }
        Op::Step => {
            store.step().unwrap();
            model.iter_mut().for_each(ModelTable::grow);
            store.validate().unwrap();
        }
        Op::Prune => {
            store.prune().unwrap();
            model.iter().enumerate().for_each(|(index, table)| check_listing(store, index, table));
            store.validate().unwrap();
        }
        Op::Iter { table } => check_listing(store, *table, &model[*table]),
        Op::Rate { table, halves } => {
            // Multiples of a half, so that SGD stays exact.
            let rate = *halves as f32 / 2.0;
            store.set_learning_rate(TableId::new(*table), rate).unwrap();
            model[*table].lr = f64::from(rate);
        }
    }
    store.validate().unwrap();
}

fn apply_keys(store: &Store, index: usize, table: &mut ModelTable, keys: &[u64], grads: &[f32], deterministic: bool) {
    let dim = table.dim;
    let sums = combine(keys, dim, |position| grads[position * dim..(position + 1) * dim].to_vec());
    let applied = store.apply_gradients(TableId::new(index), keys, grads).unwrap();
    assert_eq!(applied.unique, sums.len() as u64);
    assert_eq!((applied.updated, applied.missed), table.apply(&sums, deterministic));
}

/// What is known of a table under a policy: the rows that were there after the last change, with their live chunks.
struct Seen {
    dim: usize,
    chunk: usize,
    lr: f32,
    rows: HashMap<u64, (Vec<f32>, Vec<usize>)>,
}

impl Seen {
    fn live(&self, live: &[usize], dimension: usize) -> bool {
        live.contains(&(dimension / self.chunk))
    }

    fn list(&self, store: &Store, table: usize) -> HashMap<u64, (Vec<f32>, Vec<usize>)> {
        let mut rows = HashMap::new();
        for row in store.iter(TableId::new(table)).unwrap() {
            assert!(!row.live.is_empty() && row.live.windows(2).all(|pair| pair[0] < pair[1]));
            assert_eq!(gather(store, table, &[row.key], self.dim), row.values, "what is listed is what is gathered");
            assert!(rows.insert(row.key, (row.values, row.live)).is_none(), "a key is listed once");
        }
        rows
    }

    /// Every row is as it was, but for chunks that have gone and, if `may_grow`, new ones, which are zero.
    fn changed(&mut self, store: &Store, table: usize, may_grow: bool) {
        let now = self.list(store, table);
        let nothing = (vec![0.0; self.dim], Vec::new());
        for (key, (values, live)) in &now {
            let (before, live_before) = self.rows.get(key).unwrap_or(&nothing);
            for (d, (&value, &old)) in values.iter().zip(before).enumerate() {
                match (self.live(live, d), self.live(live_before, d)) {
                    (true, true) => assert_eq!(value, old, "key {key}, dimension {d}"),
                    (true, false) => assert!(may_grow && value == 0.0, "key {key}, dimension {d} is {value}, and new"),
                    (false, _) => assert_eq!(value, 0.0, "key {key}, dimension {d} has no chunk"),
                }
            }
        }
        self.rows = now;
    }

    fn train(&mut self, sums: &BTreeMap<u64, Vec<f32>>) -> (u64, u64) {
        let mut updated = 0;
        let (chunk, lr) = (self.chunk, self.lr);
        for (key, grad) in sums {
            let Some((values, live)) = self.rows.get_mut(key) else { continue };
            updated += 1;
            for (d, value) in values.iter_mut().enumerate().filter(|(d, _)| live.contains(&(d / chunk))) {
                *value -= lr * grad[d];
            }
        }
        (updated, sums.len() as u64 - updated)
    }

    fn row(&self, key: u64) -> Vec<f32> {
        self.rows.get(&key).map_or_else(|| vec![0.0; self.dim], |(values, _)| values.clone())
    }
}

/// Under a policy and a tight budget, chunks come and go, but nothing else changes.
fn check_under_a_tight_budget(shapes: &[Shape], ops: &[Op]) {
    let tables = || {
        let table = |(position, &(dim, chunk, _, _)): (usize, &Shape)| {
            TableConfig::new(format!("t{position}"), DIMS[dim]).chunk(CHUNKS[chunk]).optimizer(SGD)
        };
        shapes.iter().enumerate().map(table).collect::<Vec<_>>()
    };
    let policy = FiitedConfig { period_steps: 3, warmup_steps: 1, headroom: 0.1, ..FiitedConfig::default() };
    let config = |budget| StoreConfig::new(budget).policy(Policy::Fiited(policy)).deterministic(true);
    let Err(ConfigError::BudgetTooSmall { needed, .. }) = Store::new(config(1), tables()) else {
        panic!("one byte will do")
    };
    let budget = needed + needed / 8;
    let store = Store::new(config(budget), tables()).unwrap();
    let mut seen: Vec<Seen> = shapes
        .iter()
        .map(|&(dim, chunk, _, _)| Seen { dim: DIMS[dim], chunk: CHUNKS[chunk], lr: 1.0, rows: HashMap::new() })
        .collect();
    for op in ops {
        tight_op(&store, &mut seen, op);
        let stats = store.stats();
        assert!(stats.held <= budget && stats.peak <= budget, "{stats:?}");
    }
    store.validate().unwrap();
}

/// Keys of sweeps, enough to fill the smallest budget.
const TIGHT_SPACE: u64 = 2400;

fn tight_op(store: &Store, seen: &mut [Seen], op: &Op) {
    let train = |seen: &mut Seen, table: usize, keys: &[u64], seed: u32| {
        let dim = seen.dim;
        let grads = gradients(keys.len(), dim, seed);
        let sums = combine(keys, dim, |position| grads[position * dim..(position + 1) * dim].to_vec());
        let applied = store.apply_gradients(TableId::new(table), keys, &grads).unwrap();
        assert_eq!((applied.updated, applied.missed), seen.train(&sums));
    };
    match op {
        Op::Apply { table, keys, seed } => train(&mut seen[*table], *table, keys, *seed),
        Op::Sweep { table, from, count, seed } => {
            // Many more keys than in the other model's sweeps: here the store has to run full.
            let keys = sweep_keys(from * 6, count * 20, TIGHT_SPACE);
            train(&mut seen[*table], *table, &keys, *seed);
        }
        Op::ApplyPooled { table, bags, mean, seed } => {
            let (index, seen) = (*table, &mut seen[*table]);
            let (keys, offsets) = flatten(bags);
            let grads = gradients(bags.len(), seen.dim, *seed);
            let sums = combine(&keys, seen.dim, pooled_gradient(bags, *mean, &grads, seen.dim));
            let applied =
                store.apply_pooled_gradients(TableId::new(index), &keys, &offsets, pooling(*mean), &grads).unwrap();
            assert_eq!((applied.updated, applied.missed), seen.train(&sums));
        }
        Op::Gather { table, keys } => {
            let (index, seen) = (*table, &seen[*table]);
            let expected: Vec<f32> = keys.iter().flat_map(|&key| seen.row(key)).collect();
            assert_eq!(gather(store, index, keys, seen.dim), expected);
        }
        Op::GatherPooled { table, bags, mean } => {
            let (index, seen) = (*table, &seen[*table]);
            let (keys, offsets) = flatten(bags);
            let mut found = vec![f32::NAN; bags.len() * seen.dim];
            store.gather_pooled(TableId::new(index), &keys, &offsets, pooling(*mean), &mut found).unwrap();
            assert_eq!(found, pooled_rows(bags, *mean, seen.dim, |key| seen.row(key)));
        }
        Op::Remove { table, key } => {
            let there = seen[*table].rows.remove(key).is_some();
            assert_eq!(store.remove(TableId::new(*table), *key).unwrap(), there);
            assert!(gather(store, *table, &[*key], seen[*table].dim).iter().all(|&value| value == 0.0));
        }
        Op::Step => {
            store.step().unwrap();
            store.validate().unwrap();
            seen.iter_mut().enumerate().for_each(|(table, seen)| seen.changed(store, table, true));
        }
        Op::Prune => {
            store.prune().unwrap();
            store.validate().unwrap();
            seen.iter_mut().enumerate().for_each(|(table, seen)| seen.changed(store, table, false));
        }
        Op::Iter { table } => assert_eq!(seen[*table].list(store, *table), seen[*table].rows),
        Op::Rate { table, halves } => {
            seen[*table].lr = *halves as f32 / 2.0;
            store.set_learning_rate(TableId::new(*table), seen[*table].lr).unwrap();
        }
    }
    store.validate().unwrap();
}

fn cases() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn without_a_policy_every_value_follows_its_formula(
        (shapes, ops) in shapes().prop_flat_map(|shapes| { let tables = shapes.len(); (Just(shapes), ops(tables, SPACE)) }),
        deterministic: bool,
    ) {
        check_against_formulas(&shapes, &ops, deterministic);
    }

    #[test]
    fn under_a_tight_budget_chunks_come_and_go_and_nothing_else_changes(
        (shapes, ops) in shapes().prop_flat_map(|shapes| { let tables = shapes.len(); (Just(shapes), ops(tables, SPACE)) }),
    ) {
        check_under_a_tight_budget(&shapes, &ops);
    }
}

/// The second property says nothing if nothing is ever pruned: it is, in this sequence of the same operations.
#[test]
fn the_tight_budget_is_tight() {
    let config = StoreConfig::new(200_000)
        .policy(Policy::Fiited(FiitedConfig {
            period_steps: 3,
            warmup_steps: 1,
            headroom: 0.1,
            ..FiitedConfig::default()
        }))
        .deterministic(true);
    let store = Store::new(config, vec![TableConfig::new("t0", 16).optimizer(SGD)]).unwrap();
    let mut seen = [Seen { dim: 16, chunk: 4, lr: 1.0, rows: HashMap::new() }];
    for seed in 0..30 {
        tight_op(&store, &mut seen, &Op::Sweep { table: 0, from: u64::from(seed * 97) % SPACE, count: 90, seed });
        tight_op(&store, &mut seen, &Op::Step);
    }
    let events = store.stats().events;
    assert!(events.evicted > 50 && events.shrunk > 100 && events.refused > 0, "{events:?}");
}
