//! A training step in a program that has warmed up asks the general allocator for nothing.
#![cfg(all(feature = "train", not(loom)))]

mod counting;

use counting::ALLOCATIONS;
use dimslab::data::Batch;
use dimslab::dlrm::{DenseOptimizer, Dlrm, DlrmConfig};
use dimslab::{Optimizer, Policy, Store, StoreConfig, TableConfig};
use std::sync::atomic::Ordering;

const FEATURES: usize = 5;
const DIM: usize = 12;

fn batch(rows: usize, seed: u64) -> Batch {
    let number = |i: u64| i.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17) ^ seed;
    Batch {
        rows,
        n_dense: 3,
        n_features: FEATURES,
        labels: (0..rows as u64).map(|i| (number(i) % 2) as f32).collect(),
        dense: (0..3 * rows as u64).map(|i| (number(i) % 100) as f32 / 100.0).collect(),
        keys: (0..(rows * FEATURES) as u64).map(|i| number(i) % 500).collect(),
    }
}

// Catches: a buffer that is made for each step, each shard or each table.
#[test]
fn a_step_allocates_nothing() {
    for (threads, most) in [(1, 0), (2, 40)] {
        let optimizer = Optimizer::Adagrad { lr: 0.01, eps: 1e-8, initial_accumulator: 0.0 };
        let tables = (0..FEATURES).map(|t| TableConfig::new(t.to_string(), DIM).optimizer(optimizer)).collect();
        let store = Store::new(StoreConfig::new(64 << 20).policy(Policy::None), tables).unwrap();
        let mut model = Dlrm::new(DlrmConfig {
            n_dense: 3,
            n_features: FEATURES,
            dim: DIM,
            bottom: vec![20],
            top: vec![24, 8],
            dense_optimizer: DenseOptimizer::Adagrad { lr: 0.01, eps: 1e-8, initial_accumulator: 0.0 },
            seed: 1,
            threads,
        })
        .unwrap();
        let batches = [batch(700, 1), batch(700, 2), batch(333, 3)];
        let mut logits = Vec::new();
        // Rows, buffers and every thread's scratch.
        for step in 0..60 {
            model.train_step(&store, &batches[step % 3], &mut logits).unwrap();
        }
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for step in 0..60 {
            model.train_step(&store, &batches[step % 3], &mut logits).unwrap();
        }
        // More than one thread: the thread pool's queues take a block now and then.
        let made = ALLOCATIONS.load(Ordering::Relaxed) - before;
        assert!(made <= most, "{made} allocations in 60 steps of {threads} threads");
    }
}
