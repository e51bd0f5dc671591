//! Many rows at a time, from stores that are full.

use crate::keys::Random;
use crate::results::{Record, median, ratio, spread};
use crate::stores::{Arenas, BAG, CEILING, KEYS_MAX, RowStore};
use crate::{Args, Outcome};
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// Calls of a step, as of a model with 26 tables, and steps of different keys.
const CALLS: usize = 26;
const STEPS: usize = 32;
/// Rows replaced by one thread in one turn, at most.
const REPLACED: u64 = 1 << 18;

/// A prime, so that multiples of it visit every row before one comes again, in no order that memory would like.
const SCATTER: u64 = 2_654_435_761;

#[derive(Debug, Clone, Copy, PartialEq)]
enum What {
    Gather,
    Pool,
    Update,
}

/// One thread's buffers.
struct Lane {
    /// Keys of all steps, by draw.
    keys: [Vec<u64>; 2],
    at: usize,
    values: Vec<f32>,
}

impl Lane {
    fn new(rows: u64, dim: usize, thread: usize) -> Lane {
        let mut random = Random(thread as u64 + 1);
        let total = STEPS * CALLS * KEYS_MAX;
        let zipf = (0..total).map(|_| random.zipf(rows) * SCATTER % rows).collect();
        let uniform = (0..total).map(|_| random.below(rows)).collect();
        Lane { keys: [zipf, uniform], at: 0, values: vec![0.0; CALLS * KEYS_MAX * dim] }
    }

    /// Steps until the time is over; returns rows and seconds.
    fn steps(&mut self, store: &dyn RowStore, what: What, draw: usize, dim: usize, time: Duration) -> (u64, f64) {
        let (begun, mut rows) = (Instant::now(), 0);
        while begun.elapsed() < time {
            let keys = &self.keys[draw][self.at..self.at + CALLS * KEYS_MAX];
            self.at = (self.at + CALLS * KEYS_MAX) % (STEPS * CALLS * KEYS_MAX);
            let calls = keys.chunks_exact(KEYS_MAX);
            match what {
                What::Gather | What::Update => {
                    calls
                        .zip(self.values.chunks_exact_mut(KEYS_MAX * dim))
                        .for_each(|(keys, out)| store.gather(keys, out));
                }
                What::Pool => {
                    let out = self.values.chunks_exact_mut(KEYS_MAX / BAG * dim);
                    calls.zip(out).for_each(|(keys, out)| store.pool(keys, out));
                }
            }
            if what == What::Update {
                let calls = keys.chunks_exact(KEYS_MAX);
                calls.zip(self.values.chunks_exact(KEYS_MAX * dim)).for_each(|(keys, grads)| store.update(keys, grads));
            }
            rows += keys.len() as u64;
        }
        (rows, begun.elapsed().as_secs_f64())
    }
}

/// What a row is set to.
pub(crate) fn value(id: u64) -> f32 {
    (id % 1021 + 1) as f32
}

/// Fills a store with the rows `0..rows`, each of its own value.
pub(crate) fn fill(store: &dyn RowStore, rows: u64, dim: usize) {
    let mut grads = vec![0f32; KEYS_MAX * dim];
    for first in (0..rows).step_by(KEYS_MAX) {
        let keys: Vec<u64> = (first..rows.min(first + KEYS_MAX as u64)).collect();
        store.insert(&keys);
        for (key, grads) in keys.iter().zip(grads.chunks_exact_mut(dim)) {
            grads.fill(-value(*key) / crate::arena::RATE);
        }
        store.update(&keys, &grads[..keys.len() * dim]);
    }
}

/// That rows are where they should be.
fn check(name: &str, store: &dyn RowStore, rows: u64, dim: usize) -> Outcome<()> {
    let keys: Vec<u64> = (0..KEYS_MAX as u64).map(|position| position * SCATTER % rows).collect();
    let mut out = vec![0.0; keys.len() * dim];
    store.gather(&keys, &mut out);
    for (key, row) in keys.iter().zip(out.chunks_exact(dim)) {
        if row.iter().any(|&read| read != value(*key)) {
            return Err(format!("{name} has {row:?} for {key}").into());
        }
    }
    store.pool(&keys, &mut out[..keys.len() / BAG * dim]);
    for (keys, row) in keys.chunks_exact(BAG).zip(out.chunks_exact(dim)) {
        let sum: f32 = keys.iter().map(|&key| value(key)).sum();
        if row.iter().any(|&read| read != sum) {
            return Err(format!("{name} pools {row:?} for {keys:?}").into());
        }
    }
    Ok(())
}

pub(crate) fn measure(args: &Args) -> Outcome<Vec<Record>> {
    let mut records = Vec::new();
    for &dim in &args.dims {
        let (mut arenas, mut stores) = (Arenas::shared(args.rows, dim), Vec::new());
        for (name, kind) in args.chosen(dim)? {
            let store = arenas.make(kind)?;
            fill(&*store, args.rows, dim);
            check(&name, &*store, args.rows, dim)?;
            let whole = store.settle(args.rows)?;
            stores.push((name, store, whole));
        }
        let most = args.threads.iter().copied().max().unwrap_or(1);
        let mut lanes: Vec<Lane> = (0..most).map(|thread| Lane::new(args.rows, dim, thread)).collect();
        for &threads in &args.threads {
            let lanes = &mut lanes[..threads];
            for (what, draw, name) in [
                (What::Gather, 0, "gather, Zipf"),
                (What::Gather, 1, "gather, uniform"),
                (What::Pool, 0, "pooled, Zipf"),
                (What::Pool, 1, "pooled, uniform"),
                (What::Update, 0, "gather + update, Zipf"),
                (What::Update, 1, "gather + update, uniform"),
            ] {
                let taken = turns(args.repetitions, stores.len(), |store, _| {
                    block(&*stores[store].1, lanes, |lane, store| lane.steps(store, what, draw, dim, args.block))
                });
                keep(&mut records, args, dim, threads, name, &stores, taken);
            }
        }
        // Last, because keys are others afterwards. Each turn replaces other rows, the same in all stores, each row once.
        let mut replaced = 0;
        for &threads in &args.threads {
            let turns_in_all = (args.repetitions * args.threads.len()) as u64;
            let each = (args.rows / turns_in_all / threads as u64).min(REPLACED) / KEYS_MAX as u64 * KEYS_MAX as u64;
            let first = replaced;
            let taken = turns(args.repetitions, stores.len(), |store, turn| {
                let (_, store, whole) = &stores[store];
                if !*whole {
                    return f64::NAN;
                }
                let from = first + turn as u64 * each * threads as u64;
                replace(&**store, threads, |thread| {
                    let positions = from + thread as u64 * each..from + (thread as u64 + 1) * each;
                    positions.map(|position| position * SCATTER % args.rows).collect()
                })
            });
            replaced += args.repetitions as u64 * each * threads as u64;
            keep(&mut records, args, dim, threads, "insert", &stores, taken);
        }
    }
    Ok(records)
}

/// Calls `measure(store, turn)` for every store in every turn, beginning with another one each time. Returns what was
/// measured by store.
pub(crate) fn turns(repetitions: usize, stores: usize, mut measure: impl FnMut(usize, usize) -> f64) -> Vec<Vec<f64>> {
    let mut taken = vec![Vec::new(); stores];
    for turn in 0..repetitions {
        for position in 0..stores {
            let store = (turn + position) % stores;
            taken[store].push(measure(store, turn));
        }
    }
    taken
}

/// Runs all lanes at once; million rows a second of all together.
fn block(store: &dyn RowStore, lanes: &mut [Lane], run: impl Fn(&mut Lane, &dyn RowStore) -> (u64, f64) + Sync) -> f64 {
    let barrier = Barrier::new(lanes.len());
    std::thread::scope(|scope| {
        let lanes: Vec<_> = lanes
            .iter_mut()
            .map(|lane| {
                scope.spawn(|| {
                    barrier.wait();
                    run(lane, store)
                })
            })
            .collect();
        let rates = lanes.into_iter().map(|lane| lane.join().expect("a lane's panic is its own report"));
        rates.map(|(rows, seconds)| rows as f64 / seconds / 1e6).sum()
    })
}

/// Removes rows and inserts as many new ones; million inserts a second.
fn replace(store: &dyn RowStore, threads: usize, ids: impl Fn(usize) -> Vec<u64> + Sync) -> f64 {
    let barrier = Barrier::new(threads);
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads)
            .map(|thread| {
                let (barrier, ids) = (&barrier, &ids);
                scope.spawn(move || {
                    let mut keys = ids(thread);
                    keys.chunks(KEYS_MAX).for_each(|keys| store.remove(keys));
                    keys.iter_mut().for_each(|key| *key |= 1 << 32);
                    forget_caches();
                    barrier.wait();
                    let begun = Instant::now();
                    keys.chunks(KEYS_MAX).for_each(|keys| store.insert(keys));
                    keys.len() as f64 / begun.elapsed().as_secs_f64() / 1e6
                })
            })
            .collect();
        all.into_iter().map(|thread| thread.join().expect("a thread's panic is its own report")).sum()
    })
}

/// Reads more than caches hold: what was just removed would be near otherwise.
fn forget_caches() {
    let other = vec![1u64; (96 << 20) / 8];
    std::hint::black_box(other.iter().sum::<u64>());
}

type Named = (String, Box<dyn RowStore>, bool);

fn keep(
    records: &mut Vec<Record>,
    args: &Args,
    dim: usize,
    threads: usize,
    what: &str,
    stores: &[Named],
    taken: Vec<Vec<f64>>,
) {
    println!("\n{what}, {} rows of dim {dim}, {threads} threads, million rows a second", args.rows);
    let of = |name: &str| stores.iter().position(|(store, ..)| store == name).map(|at| taken[at].clone());
    let (ceiling, dimslab) = (of(CEILING).unwrap_or_default(), of("dimslab").unwrap_or_default());
    for ((store, ..), values) in stores.iter().zip(&taken) {
        if values.iter().any(|value| value.is_nan()) {
            continue;
        }
        println!(
            "{store:36}{:8.2} ±{:3.0} %{:8.2} of the ceiling, dimslab {:.2} x",
            median(values),
            spread(values),
            ratio(values, &ceiling),
            ratio(&dimslab, values),
        );
        records.push(Record {
            part: "throughput".to_owned(),
            what: what.to_owned(),
            store: store.clone(),
            rows: args.rows,
            dim,
            threads,
            values: values.clone(),
            ceiling: ceiling.clone(),
            dimslab: dimslab.clone(),
        });
    }
}
