//! What a full row costs, by part: the table of bytes per row in `docs/design.md`.
//!
//! `cargo run --release --example bytes_per_row`

use dimslab::{Optimizer, Policy, Store, StoreConfig, StoreError, TableConfig, TableId};

const ROWS: u64 = 200_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("bytes per full row, {ROWS} rows of one table, Adagrad");
    println!("  dim  chunk  weights  state  beside them in records  directory  free and bookkeeping  in all");
    for (dim, chunk) in [(4, 4), (16, 4), (16, 16), (64, 16), (64, 32), (128, 32)] {
        let optimizer = Optimizer::Adagrad { lr: 0.01, eps: 1e-8, initial_accumulator: 0.0 };
        let table = TableConfig::new("rows", dim).chunk(chunk).optimizer(optimizer);
        let store = Store::new(StoreConfig::new(320 << 20).policy(Policy::None), vec![table])?;
        fill(&store, dim)?;
        let stats = store.stats();
        let per_row = |bytes: u64| bytes as f64 / stats.rows as f64;
        let directory: u64 = stats.tables.iter().map(|table| table.directory).sum();
        let beside = stats.allocated - stats.weights - stats.optimizer;
        let rest = stats.held - stats.allocated - directory;
        println!(
            "{dim:5} {chunk:6} {:8.1} {:6.1} {:23.1} {:10.1} {:21.1} {:7.1}",
            per_row(stats.weights),
            per_row(stats.optimizer),
            per_row(beside),
            per_row(directory),
            per_row(rest),
            per_row(stats.held),
        );
    }
    Ok(())
}

fn fill(store: &Store, dim: usize) -> Result<(), StoreError> {
    let grads = vec![1.0; 1000 * dim];
    for first in (0..ROWS).step_by(1000) {
        let keys: Vec<u64> = (first..first + 1000).collect();
        store.apply_gradients(TableId::new(0), &keys, &grads)?;
    }
    Ok(())
}
