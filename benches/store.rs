//! Single operations, for a change to be compared with what was before it.
//!
//! `cargo bench --bench store [-- --save-baseline NAME | --baseline NAME]`. What others are at the same: `benches/rows`.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use dimslab::{Optimizer, Policy, Store, StoreConfig, TableConfig, TableId};
use std::hint::black_box;

const ROWS: u64 = 1_000_000;
const BATCH: usize = 2048;
const SGD: Optimizer = Optimizer::Sgd { lr: 0.01 };

/// A small generator (splitmix64): uniform keys that differ from batch to batch.
fn keys(state: &mut u64) -> Vec<u64> {
    let draw = |_| {
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed ^ (mixed >> 27)) % ROWS
    };
    (0..BATCH).map(draw).collect()
}

/// A store whose rows all have their full dimension.
fn full_store(dim: usize, chunk: usize) -> Store {
    let table = TableConfig::new("rows", dim).chunk(chunk).optimizer(SGD);
    let store = Store::new(StoreConfig::new(2 << 30).policy(Policy::None), vec![table]).expect("a legal configuration");
    let grads = vec![0.0; BATCH * dim];
    for first in (0..ROWS).step_by(BATCH) {
        let keys: Vec<u64> = (first..ROWS.min(first + BATCH as u64)).collect();
        store.apply_gradients(TableId::new(0), &keys, &grads[..keys.len() * dim]).expect("room for all rows");
    }
    store
}

fn gather(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("gather, 1M rows, uniform");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (dim, chunk) in [(16, 4), (16, 16), (64, 16), (64, 32)] {
        let mut out = vec![0f32; BATCH * dim];
        let mut random = 1;
        let store = full_store(dim, chunk);
        group.bench_function(format!("dim {dim} chunk {chunk}"), |bencher| {
            let table = TableId::new(0);
            let read = |keys: Vec<u64>| store.gather(table, &keys, black_box(&mut out)).expect("checked lengths");
            bencher.iter_batched(|| keys(&mut random), read, BatchSize::SmallInput);
        });
    }
    group.finish();
}

fn apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply_gradients, 1M rows, uniform, SGD");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (dim, chunk) in [(16, 16), (64, 32)] {
        let (store, grads) = (full_store(dim, chunk), vec![1e-3f32; BATCH * dim]);
        let mut random = 1;
        group.bench_function(format!("dim {dim} chunk {chunk}"), |bencher| {
            let step = |keys: Vec<u64>| store.apply_gradients(TableId::new(0), &keys, &grads).expect("rows are there");
            bencher.iter_batched(|| keys(&mut random), step, BatchSize::SmallInput);
        });
    }
    group.finish();
}

criterion_group!(benches, gather, apply);
criterion_main!(benches);
