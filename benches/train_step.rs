//! One training step of a DLRM and its parts, on made-up batches: no file is read, nothing is drawn while time runs.
//!
//! ```text
//! cargo bench --bench train_step -- [--dim 64] [--rows 250000] [--threads 1] [--batch 2048] [--chunk 32]
//!                                   [--tables 26] [--windows 7] [--budget BYTES] [--json] [--reader]
//! ```
//!
//! The shape is that of Criteo's log: 13 dense features, 26 tables of `--rows` rows that are all there, MLPs 512-256-dim
//! and 512-256-1, Adagrad everywhere, ids by Zipf's law with exponent 1.05, scrambled. Samples per second are those of
//! windows of about 0.8 s, as `docs/benchmarks.md` compares them with other trainers. With `--budget` the store gets that
//! many bytes and prunes in the background; without it, it gets what all rows need and keeps them, and time runs when these
//! are on huge pages, as in all but the first minute of a training. `--reader` measures what feeds a trainer instead: the
//! embedded stream, and a log in Criteo's format from memory, each on one core. `--threads 1,2` measures both with one store.

#[path = "support/keys.rs"]
mod keys;
#[path = "support/settle.rs"]
mod settle;

use dimslab::data::{Batch, CriteoReader, Generator, GeneratorConfig, Input, Inputs, Row, RowSource};
use dimslab::dlrm::{DenseOptimizer, Dlrm, DlrmConfig, Machine, Phase};
use dimslab::{Optimizer, Policy, Store, StoreConfig, TableConfig, TableId};
use keys::Random;
use std::io::Cursor;
use std::time::Instant;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const N_DENSE: usize = 13;
/// Different batches, so that no row is in the cache only because the step before had the same.
const BATCHES: usize = 16;
const RATE: f32 = 0.01;
const EPS: f32 = 1e-8;
const WINDOW_SECONDS: f64 = 0.8;

struct Args {
    dim: usize,
    rows: u64,
    threads: Vec<usize>,
    batch: usize,
    chunk: usize,
    tables: usize,
    windows: usize,
    budget: Option<u64>,
    json: bool,
    reader: bool,
}

impl Args {
    fn parse() -> Outcome<Args> {
        let mut args = Args {
            dim: 64,
            rows: 250_000,
            threads: vec![1],
            batch: 2048,
            chunk: 32,
            tables: 26,
            windows: 7,
            budget: None,
            json: false,
            reader: false,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            if word == "--threads" {
                let list = words.next().ok_or("--threads needs a value")?;
                args.threads = list.split(',').map(str::parse).collect::<Result<_, _>>()?;
                continue;
            }
            let mut number = || -> Outcome<u64> { Ok(words.next().ok_or(format!("{word} needs a value"))?.parse()?) };
            match word.as_str() {
                "--dim" => args.dim = number()? as usize,
                "--rows" => args.rows = number()?,
                "--batch" => args.batch = number()? as usize,
                "--chunk" => args.chunk = number()? as usize,
                "--tables" => args.tables = number()? as usize,
                "--windows" => args.windows = number()? as usize,
                "--budget" => args.budget = Some(number()?),
                "--json" => args.json = true,
                "--reader" => args.reader = true,
                "--bench" => {} // what cargo adds
                other => return Err(format!("{other} is no option").into()),
            }
        }
        if args.rows == 0 || args.batch == 0 || args.windows == 0 || args.tables == 0 || args.threads.contains(&0) {
            return Err("rows, threads, batch, windows and tables must be above 0".into());
        }
        Ok(args)
    }
}

fn store(args: &Args) -> Outcome<Store> {
    let optimizer = Optimizer::Adagrad { lr: RATE, eps: EPS, initial_accumulator: 0.0 };
    let tables = (0..args.tables)
        .map(|table| TableConfig::new(format!("t{table}"), args.dim).chunk(args.chunk).optimizer(optimizer));
    // Generous: weights, state, and 64 bytes for a row and each chunk.
    let row_bytes = (args.dim * 8 + 64 + args.dim.div_ceil(args.chunk) * 64) as u64;
    let full = (64 << 20) + args.rows * args.tables as u64 * row_bytes;
    let config = match args.budget {
        Some(budget) => StoreConfig::new(budget),
        None => StoreConfig::new(full).policy(Policy::None),
    };
    let store = Store::new(config, tables.collect())?;
    if args.budget.is_none() {
        fill(&store, args)?;
    }
    Ok(store)
}

/// Makes every row, with a gradient that moves nothing.
fn fill(store: &Store, args: &Args) -> Outcome<()> {
    let block = 4096u64;
    let gradients = vec![0f32; block as usize * args.dim];
    for table in 0..args.tables {
        for first in (0..args.rows).step_by(block as usize) {
            let keys: Vec<u64> = (first..args.rows.min(first + block)).collect();
            store.apply_gradients(TableId::new(table), &keys, &gradients[..keys.len() * args.dim])?;
        }
    }
    Ok(())
}

fn batch(args: &Args, random: &mut Random) -> Batch {
    let rows = args.batch;
    let mut keys = Vec::with_capacity(rows * args.tables);
    for table in 0..args.tables as u64 {
        // One to one if `rows` is odd or not a multiple of the factor's; near enough otherwise.
        keys.extend((0..rows).map(|_| (random.zipf(args.rows) * 7_368_787 + table * 1_299_709) % args.rows));
    }
    Batch {
        rows,
        n_dense: N_DENSE,
        n_features: args.tables,
        labels: (0..rows).map(|_| f32::from(u8::from(random.below(4) == 0))).collect(),
        dense: (0..rows * N_DENSE).map(|_| random.unit() as f32).collect(),
        keys,
    }
}

/// Rows a second of the embedded stream and of a log in memory, and megabytes of text a second.
fn reader() -> Outcome<()> {
    const ROWS: u64 = 200_000;
    let mut text = Vec::new();
    Generator::new(GeneratorConfig::default().rows(ROWS))?.write_criteo(&mut text, ROWS)?;
    let megabytes = text.len() as f64 / 1e6;
    let mut row = Row::default();
    let mut count = |source: &mut dyn RowSource| -> Outcome<f64> {
        let began = Instant::now();
        while source.next_row(&mut row)? {}
        Ok(began.elapsed().as_secs_f64())
    };
    let (mut streamed, mut parsed) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        streamed.push(count(&mut Generator::new(GeneratorConfig::default().rows(ROWS))?)?);
        let input = Input::from_reader("log.tsv", Cursor::new(text.clone()))?;
        parsed.push(count(&mut CriteoReader::new(Inputs::from_inputs(vec![input])))?);
    }
    for seconds in [&mut streamed, &mut parsed] {
        seconds.sort_by(f64::total_cmp);
    }
    println!("embedded stream  {:.0} rows/s", ROWS as f64 / streamed[2]);
    println!("Criteo's format  {:.0} rows/s, {:.0} MB/s of text", ROWS as f64 / parsed[2], megabytes / parsed[2]);
    Ok(())
}

fn main() -> Outcome<()> {
    let args = Args::parse()?;
    if args.reader {
        return reader();
    }
    let mut random = Random(1);
    let batches: Vec<Batch> = (0..BATCHES).map(|_| batch(&args, &mut random)).collect();
    let store = store(&args)?;
    if args.budget.is_none() {
        settle::wait_for_moves()?;
    }
    args.threads.iter().try_for_each(|&threads| measure(&args, threads, &store, &batches))
}

/// Samples a second of a model of its own, and where its time goes.
fn measure(args: &Args, threads: usize, store: &Store, batches: &[Batch]) -> Outcome<()> {
    let mut model = Dlrm::new(DlrmConfig {
        n_dense: N_DENSE,
        n_features: args.tables,
        dim: args.dim,
        bottom: vec![512, 256],
        top: vec![512, 256],
        dense_optimizer: DenseOptimizer::Adagrad { lr: RATE, eps: EPS, initial_accumulator: 0.0 },
        seed: 1,
        threads,
    })?;
    let machine = Machine::measure(threads);
    let mut logits = Vec::new();
    let warm = if args.budget.is_some() { 4 * BATCHES } else { BATCHES };
    let began = Instant::now();
    for step in 0..warm {
        model.train_step(store, &batches[step % BATCHES], &mut logits)?;
    }
    let steps = ((WINDOW_SECONDS * warm as f64 / began.elapsed().as_secs_f64()) as usize).max(3);
    let (mut rates, mut wall) = (Vec::new(), 0.0);
    let before = model.times();
    for window in 0..args.windows {
        let began = Instant::now();
        for step in 0..steps {
            model.train_step(store, &batches[(window * steps + step) % BATCHES], &mut logits)?;
        }
        let seconds = began.elapsed().as_secs_f64();
        wall += seconds;
        rates.push((steps * args.batch) as f64 / seconds);
    }
    let times = model.times().since(&before);
    rates.sort_by(f64::total_cmp);
    let (median, samples) = (rates[rates.len() / 2], (steps * args.windows * args.batch) as f64);
    let mlp: f64 = Phase::ALL.iter().filter(|phase| phase.is_mlp()).map(|phase| times.seconds(*phase)).sum();
    let mlp_gflops = model.mlp_flops_per_row() * samples / mlp / 1e9;
    if args.json {
        println!(
            "{{\"bench\":\"dlrm\",\"peer\":\"dimslab\",\"threads\":{},\"metric\":\"train_dim{}_adagrad_T{}_rows{}\",\
             \"unit\":\"samples/s\",\"n\":{},\"min\":{:.0},\"med\":{median:.0},\"max\":{:.0},\
             \"mlp_gflops_per_thread\":{mlp_gflops:.1},\"fma_peak_gflops_per_thread\":{:.1}}}",
            threads,
            args.dim,
            args.tables,
            args.rows,
            rates.len(),
            rates[0],
            rates[rates.len() - 1],
            machine.flops / threads as f64 / 1e9,
        );
        return Ok(());
    }
    println!(
        "dim {}, {} tables x {} rows, batch {}, {} threads",
        args.dim, args.tables, args.rows, args.batch, threads
    );
    println!(
        "samples/s  median {median:.0}  ({:.0} to {:.0}, {} windows)",
        rates[0],
        rates[rates.len() - 1],
        rates.len()
    );
    let offered = wall * threads as f64;
    for phase in Phase::ALL {
        let seconds = times.seconds(phase);
        println!("{:32} {:5.1} %  {:8.2} us/sample", phase.name(), 100.0 * seconds / offered, seconds / samples * 1e6);
    }
    println!("{:32} {:5.1} %", "waiting and the rest", 100.0 * (1.0 - times.total() / offered));
    let peak = machine.flops / threads as f64 / 1e9;
    println!("MLP part {mlp_gflops:.1} GFLOP/s a thread of {peak:.1} ({:.0} %)", 100.0 * mlp_gflops / peak);
    println!("read bandwidth {:.1} GB/s", machine.bytes / 1e9);
    Ok(())
}
