//! A factorization machine (Rendle 2010, equation 1) trained with the store alone: bring your own loop.
//!
//! `cargo run --release --example custom_trainer`
//!
//! One table holds, for every feature, its linear weight (dimension 0) and its factors (the rest). Features are drawn
//! from a long-tailed distribution; labels come from a hidden machine of the same form.

use dimslab::{Init, Optimizer, Store, StoreConfig, StoreError, TableConfig, TableId};

const FIELDS: usize = 8;
const FACTORS: usize = 8;
const DIM: usize = 1 + FACTORS;
const BATCH: usize = 256;

/// A small random generator (splitmix64), so that the example needs no other crate.
fn mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn unit(state: &mut u64) -> f64 {
    (mix(state) >> 11) as f64 / (1u64 << 53) as f64
}

/// Value `d` of the hidden machine's row for a feature.
fn hidden(feature: u64, d: usize) -> f32 {
    let mut state = feature.wrapping_mul(31).wrapping_add(d as u64);
    (unit(&mut state) - 0.5) as f32 * if d == 0 { 2.5 } else { 0.9 }
}

/// `w_i` summed, plus half of (sum of factors)² less sum of squares. Returns the logit and the sums of factors.
fn machine(rows: &[f32]) -> (f32, [f32; FACTORS]) {
    let (mut logit, mut sums, mut squares) = (0.0, [0.0; FACTORS], 0.0);
    for row in rows.chunks_exact(DIM) {
        logit += row[0];
        for (sum, v) in sums.iter_mut().zip(&row[1..]) {
            *sum += v;
            squares += v * v;
        }
    }
    (logit + 0.5 * (sums.iter().map(|sum| sum * sum).sum::<f32>() - squares), sums)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let optimizer = Optimizer::Adagrad { lr: 0.2, eps: 1e-8, initial_accumulator: 0.0 };
    // The factors' gradients are products of factors: they must not start at zero.
    let features = TableConfig::new("features", DIM).chunk(4).optimizer(optimizer).init(Init::Uniform { bound: 0.05 });
    let store = Store::new(StoreConfig::new(2 << 20).seed(1), vec![features])?;
    let first = train(&store, 0..40, &mut 7)?;
    let last = train(&store, 40..1500, &mut 8)?;
    let stats = store.stats();
    println!("log-loss before training each batch: {first:.4} at first, {last:.4} at last");
    println!(
        "{} rows, {} chunks, {} of {} bytes; {:?}",
        stats.rows, stats.chunks, stats.held, stats.budget, stats.events
    );
    store.validate()?;
    if last > first - 0.03 { Err("the machine did not learn".into()) } else { Ok(()) }
}

/// Trains on batches and returns the mean log-loss of the last forty, each scored before it is trained on.
fn train(store: &Store, steps: std::ops::Range<usize>, random: &mut u64) -> Result<f64, StoreError> {
    let table = TableId::new(0);
    let (mut rows, mut grads) = (vec![0f32; BATCH * FIELDS * DIM], vec![0f32; BATCH * FIELDS * DIM]);
    let end = steps.end;
    let mut loss = 0.0;
    for step in steps {
        // 10,000 features a field, rank drawn log-uniformly.
        let keys: Vec<u64> = (0..BATCH * FIELDS)
            .map(|i| (i % FIELDS) as u64 * 1_000_000 + (10_000f64.powf(unit(random)) as u64))
            .collect();
        store.gather(table, &keys, &mut rows)?;
        for (example, keys) in keys.chunks_exact(FIELDS).enumerate() {
            let truth: Vec<f32> = keys.iter().flat_map(|&key| (0..DIM).map(move |d| hidden(key, d))).collect();
            let label = f32::from(unit(random) < 1.0 / (1.0 + f64::from(-machine(&truth).0).exp()));
            let at = example * FIELDS * DIM..(example + 1) * FIELDS * DIM;
            let (logit, sums) = machine(&rows[at.clone()]);
            let probability = 1.0 / (1.0 + (-logit).exp());
            if step + 40 >= end {
                let right = if label == 1.0 { probability } else { 1.0 - probability };
                loss -= f64::from(right.max(1e-7).ln()) / (40 * BATCH) as f64;
            }
            let error = (probability - label) / BATCH as f32;
            for (row, grad) in rows[at.clone()].chunks_exact(DIM).zip(grads[at].chunks_exact_mut(DIM)) {
                grad[0] = error;
                for d in 0..FACTORS {
                    grad[1 + d] = error * (sums[d] - row[1 + d]);
                }
            }
        }
        store.apply_gradients(table, &keys, &grads)?;
        store.step()?;
    }
    Ok(loss)
}
