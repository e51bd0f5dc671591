//! Fixed amounts of work whose instructions `.ci/instructions.py` counts.
//!
//! `cargo bench --bench instructions -- KERNEL` does the work of one kernel once, `-- list` names them, and without either
//! all are done. What is counted is what happens within `counted_work`, so that filling stores is not. One thread, fixed
//! seeds and no pruning thread: the same instructions every time, but for what depends on addresses.

use dimslab::data::Batch;
use dimslab::dlrm::{DenseOptimizer, Dlrm, DlrmConfig};
use dimslab::simd::Kernels;
use dimslab::{Policy, Pooling, Store, StoreConfig, TableConfig, TableId};
use std::hint::black_box;

#[path = "support/keys.rs"]
mod keys;

use keys::{Random, mix};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const ROWS: u64 = 20_000;
const BATCH: usize = 2048;
const BATCHES: usize = 8;

/// Callgrind counts from the call of this function to its return, whose name no other's may contain.
#[inline(never)]
fn counted_work(work: &mut dyn FnMut() -> Outcome<()>) -> Outcome<()> {
    // Not a jump to `work`, after which callgrind would never see this function return.
    black_box(work())
}

type Kernel = (&'static str, fn() -> Outcome<()>);

const KERNELS: [Kernel; 10] = [
    ("gather_dim_16_chunk_16", || gather(16, 16)),
    ("gather_dim_64_chunk_16", || gather(64, 16)),
    ("pool_dim_64_chunk_16", pool),
    ("update_dim_16_chunk_16", || update(16, 16)),
    ("update_dim_64_chunk_16", || update(64, 16)),
    ("insert_dim_64_chunk_16", insert),
    ("churn_dim_16_chunk_4", churn),
    ("round_dim_64_chunk_16", round),
    ("train_step_dim_16", || train_step(16)),
    ("train_step_dim_64", || train_step(64)),
];

fn main() -> Outcome<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    match words.as_slice() {
        [] => KERNELS.iter().try_for_each(|(_, kernel)| kernel()),
        [word] if word == "list" => {
            KERNELS.iter().for_each(|(name, _)| println!("{name}"));
            Ok(())
        }
        // What the processor, or the tool that stands in for it, has: counts of another are other counts.
        [word] if word == "level" => {
            let names: Vec<&str> = Kernels::every_level().iter().map(|(name, _)| *name).collect();
            println!("{}", names.iter().rfind(|name| **name != "best").unwrap_or(&"none"));
            Ok(())
        }
        [name] => match KERNELS.iter().find(|(known, _)| known == name) {
            Some((_, kernel)) => kernel(),
            None => Err(format!("no kernel is called {name}").into()),
        },
        _ => Err("one kernel at a time".into()),
    }
}

fn table() -> TableId {
    TableId::new(0)
}

/// Whole rows `0..ROWS` in a store without a policy.
fn full_store(dim: usize, chunk: usize) -> Outcome<Store> {
    let rule = TableConfig::new("rows", dim).chunk(chunk);
    let store = Store::new(StoreConfig::new(64 << 20).policy(Policy::None), vec![rule])?;
    let keys: Vec<u64> = (0..ROWS).collect();
    store.apply_gradients(table(), &keys, &vec![1.0; keys.len() * dim])?;
    Ok(store)
}

fn draw(random: &mut Random) -> Vec<u64> {
    (0..BATCH).map(|_| random.zipf(ROWS)).collect()
}

fn gather(dim: usize, chunk: usize) -> Outcome<()> {
    let (store, mut random, mut out) = (full_store(dim, chunk)?, Random(1), vec![0.0; BATCH * dim]);
    let batches: Vec<Vec<u64>> = (0..BATCHES).map(|_| draw(&mut random)).collect();
    counted_work(&mut || Ok(batches.iter().try_for_each(|keys| store.gather(table(), keys, &mut out))?))
}

fn pool() -> Outcome<()> {
    const BAG: usize = 8;
    let (store, mut random, mut out) = (full_store(64, 16)?, Random(1), vec![0.0; BATCH / BAG * 64]);
    let batches: Vec<Vec<u64>> = (0..BATCHES).map(|_| draw(&mut random)).collect();
    let offsets: Vec<usize> = (0..=BATCH / BAG).map(|bag| bag * BAG).collect();
    let mut one = |keys: &Vec<u64>| store.gather_pooled(table(), keys, &offsets, Pooling::Sum, &mut out);
    counted_work(&mut || Ok(batches.iter().try_for_each(&mut one)?))
}

fn update(dim: usize, chunk: usize) -> Outcome<()> {
    let (store, mut random, grads) = (full_store(dim, chunk)?, Random(1), vec![1e-3; BATCH * dim]);
    let batches: Vec<Vec<u64>> = (0..BATCHES).map(|_| draw(&mut random)).collect();
    counted_work(&mut || {
        batches.iter().try_for_each(|keys| Ok(store.apply_gradients(table(), keys, &grads).map(|_| ())?))
    })
}

/// New keys in batches, directory growth included.
fn insert() -> Outcome<()> {
    let (store, grads) = (full_store(64, 16)?, vec![1e-3; BATCH * 64]);
    let all: Vec<u64> = (ROWS..ROWS + (BATCHES * BATCH) as u64).collect();
    counted_work(&mut || {
        all.chunks(BATCH).try_for_each(|keys| Ok(store.apply_gradients(table(), keys, &grads).map(|_| ())?))
    })
}

/// Rows of four chunks that go, and others that come in their place.
fn churn() -> Outcome<()> {
    let (store, grads) = (full_store(16, 4)?, vec![1e-3; BATCH * 16]);
    counted_work(&mut || {
        for batch in 0..BATCHES as u64 {
            let gone = batch * BATCH as u64..(batch + 1) * BATCH as u64;
            let new: Vec<u64> = gone.clone().map(|key| ROWS + key).collect();
            gone.into_iter().try_for_each(|key| store.remove(table(), key).map(|_| ()))?;
            store.apply_gradients(table(), &new, &grads)?;
        }
        Ok(())
    })
}

/// A round that takes a tenth of what is held.
fn round() -> Outcome<()> {
    let rule = TableConfig::new("rows", 64).chunk(16);
    let store = Store::new(StoreConfig::new(64 << 20).deterministic(true), vec![rule])?;
    let keys: Vec<u64> = (0..ROWS).collect();
    let sizes = keys.iter().flat_map(|key| (0..4).map(move |ordinal| mix(key ^ ordinal << 40) >> 40));
    let grads: Vec<f32> = sizes.flat_map(|size| [0.1 + size as f32 / (1u64 << 24) as f32; 16]).collect();
    for _ in 0..2 {
        store.apply_gradients(table(), &keys, &grads)?;
        store.step()?;
    }
    let held = store.stats().held;
    let mut taken = 0;
    counted_work(&mut || {
        let report = store.prune_to(held / 10 * 9)?;
        taken = report.shrunk + report.evicted;
        Ok(())
    })?;
    if taken == 0 { Err("the round took nothing".into()) } else { Ok(()) }
}

/// One step of a small network on embeddings that are there.
fn train_step(dim: usize) -> Outcome<()> {
    const FEATURES: usize = 26;
    const DENSE: usize = 13;
    const SAMPLES: usize = 256;
    let tables = (0..FEATURES).map(|table| TableConfig::new(table.to_string(), dim).chunk(16)).collect();
    let store = Store::new(StoreConfig::new(256 << 20).deterministic(true), tables)?;
    let mut random = Random(1);
    let mut batch = Batch { rows: SAMPLES, n_dense: DENSE, n_features: FEATURES, ..Batch::default() };
    batch.labels = (0..SAMPLES).map(|_| (random.below(4) == 0) as u8 as f32).collect();
    batch.dense = (0..SAMPLES * DENSE).map(|_| random.unit() as f32).collect();
    batch.keys = (0..SAMPLES * FEATURES).map(|_| random.zipf(ROWS)).collect();
    let dense_optimizer = DenseOptimizer::Adagrad { lr: 0.01, eps: 1e-8, initial_accumulator: 0.0 };
    let (bottom, top) = (vec![128, 64], vec![128, 64]);
    let shape =
        DlrmConfig { n_dense: DENSE, n_features: FEATURES, dim, bottom, top, dense_optimizer, seed: 1, threads: 1 };
    let (mut model, mut logits) = (Dlrm::new(shape)?, Vec::new());
    // The first makes the rows.
    model.train_step(&store, &batch, &mut logits)?;
    counted_work(&mut || Ok(model.train_step(&store, &batch, &mut logits).map(|_| ())?))
}
