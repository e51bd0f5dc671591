//! What the indirection costs: rows gathered and trained through a store against one flat array with software prefetch,
//! the ceiling of what this machine's memory allows.
//!
//! `cargo bench --bench gather -- [--rows N] [--dims 64:64,16:16] [--keys zipf,uniform] [--threads 1,2] [--batch N]
//! [--optimizer sgd|adagrad|none] [--pages system|huge|both] [--reps N]`. A dim is `dimensions:chunk`. Each repetition runs
//! every subject in turn; figures are medians, in nanoseconds a row of wall time, and `of flat` is the median of the
//! repetitions' own ratios with the least and the most of them.

#[path = "support/keys.rs"]
mod keys;

use dimslab::{Optimizer, Policy, Store, StoreConfig, TableConfig, TableId};
use keys::Random;
use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// Rows ahead of the copy that the flat array asks for.
const AHEAD: usize = 16;
/// Keys that a thread goes through, over and over.
const DRAWS: usize = 1 << 22;
const LR: f32 = 1e-3;
const ADAGRAD: Optimizer = Optimizer::Adagrad { lr: LR, eps: 1e-8, initial_accumulator: 0.0 };

struct Settings {
    rows: u64,
    shapes: Vec<(usize, usize)>,
    keys: Vec<String>,
    threads: Vec<usize>,
    batch: usize,
    optimizer: Optimizer,
    train: bool,
    pages: Vec<bool>,
    reps: usize,
}

/// Floats in memory of their own, with huge pages or without.
struct Flat {
    memory: memmap2::MmapRaw,
    dim: usize,
    stride: usize,
}

impl Flat {
    fn new(rows: u64, dim: usize, stride: usize, huge: bool) -> Flat {
        let memory = memmap2::MmapOptions::new().len(rows as usize * stride * 4).map_anon().expect("address space");
        if huge {
            memory.advise(memmap2::Advice::HugePage).expect("a system with huge pages");
        }
        let flat = Flat { memory: memmap2::MmapRaw::from(memory), dim, stride };
        (0..rows).for_each(|row| flat.row(row).fill(1.0));
        flat
    }

    /// The caller keeps threads to rows of their own while it writes.
    #[expect(clippy::mut_from_ref, reason = "an array shared as a trainer without locks shares it")]
    #[inline]
    fn row(&self, row: u64) -> &mut [f32] {
        let start = row as usize * self.stride;
        assert!((start + self.stride) * 4 <= self.memory.len());
        let first = self.memory.as_mut_ptr().cast::<f32>().wrapping_add(start);
        // SAFETY: inside the mapping, which lives as long as `self`; rows written by one thread are no other's.
        unsafe { std::slice::from_raw_parts_mut(first, self.stride) }
    }

    #[inline]
    fn prefetch(&self, row: u64, floats: usize) {
        let start = self.memory.as_ptr().wrapping_add(row as usize * self.stride * 4);
        for offset in (0..floats * 4).step_by(64) {
            // SAFETY: a prefetch never faults.
            #[cfg(target_arch = "x86_64")]
            unsafe {
                std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(
                    start.wrapping_add(offset).cast(),
                );
            }
        }
    }

    fn gather(&self, keys: &[u64], out: &mut [f32]) {
        for (position, (&key, out)) in keys.iter().zip(out.chunks_exact_mut(self.dim)).enumerate() {
            if let Some(&ahead) = keys.get(position + AHEAD) {
                self.prefetch(ahead, self.dim);
            }
            out.copy_from_slice(&self.row(key)[..self.dim]);
        }
    }

    fn update(&self, keys: &[u64], grads: &[f32], adagrad: bool) {
        let simd = dimslab::simd::Kernels::get();
        for (position, (&key, grad)) in keys.iter().zip(grads.chunks_exact(self.dim)).enumerate() {
            if let Some(&ahead) = keys.get(position + AHEAD) {
                self.prefetch(ahead, self.stride);
            }
            let row = self.row(key);
            let (weights, state) = row.split_at_mut(self.dim);
            if adagrad { simd.adagrad(weights, state, grad, LR, 1e-8) } else { simd.sgd(weights, grad, LR) }
        }
    }
}

enum Subject {
    Flat(Flat, bool),
    Store(Store),
}

impl Subject {
    fn gather(&self, keys: &[u64], out: &mut [f32]) {
        match self {
            Subject::Flat(flat, _) => flat.gather(keys, out),
            Subject::Store(store) => store.gather(TableId::new(0), keys, out).expect("checked lengths"),
        }
    }

    fn train(&self, keys: &[u64], grads: &[f32]) {
        match self {
            Subject::Flat(flat, adagrad) => flat.update(keys, grads, *adagrad),
            Subject::Store(store) => {
                store.apply_gradients(TableId::new(0), keys, grads).expect("rows are there");
            }
        }
    }
}

/// A store whose rows all have their full dimension.
fn full_store(settings: &Settings, dim: usize, chunk: usize, huge: bool) -> Store {
    let table = TableConfig::new("rows", dim).chunk(chunk).optimizer(settings.optimizer);
    let budget = settings.rows * (dim as u64 * 4 * (1 + settings.state() as u64) + 100) + (64 << 20);
    let mut config = StoreConfig::new(budget).policy(Policy::None);
    if huge {
        config = config.huge_pages(true);
    }
    let store = Store::new(config, vec![table]).expect("a legal configuration");
    let batch = 4096;
    let grads = vec![0.0; batch * dim];
    for first in (0..settings.rows).step_by(batch) {
        let keys: Vec<u64> = (first..settings.rows.min(first + batch as u64)).collect();
        store.apply_gradients(TableId::new(0), &keys, &grads[..keys.len() * dim]).expect("room for all rows");
    }
    store
}

impl Settings {
    /// Floats of state for each weight.
    fn state(&self) -> usize {
        usize::from(self.optimizer == ADAGRAD)
    }

    /// A thread's batches. When rows are written, of rows that are no other thread's.
    fn batches(&self, kind: &str, thread: usize, threads: usize) -> Vec<Vec<u64>> {
        let mut random = Random(thread as u64 + 1);
        let share = self.rows / threads as u64;
        let mut draw = || {
            let rank = if kind == "zipf" { random.zipf(share) } else { random.below(share) };
            // Scattered: frequent rows are not neighbours.
            (rank * 2_654_435_761 % share) * threads as u64 + thread as u64
        };
        (0..DRAWS.div_ceil(self.batch)).map(|_| (0..self.batch).map(|_| draw()).collect()).collect()
    }
}

/// Nanoseconds a row, all threads together, of about a quarter of a second's worth of batches.
fn timed(subject: &Subject, train: bool, batches: &[Vec<Vec<u64>>], dim: usize) -> f64 {
    let threads = batches.len();
    let barrier = Barrier::new(threads);
    let run = |own: &[Vec<u64>]| {
        let mut out = vec![0f32; own[0].len() * dim];
        let grads = vec![1e-3f32; if train { out.len() } else { 0 }];
        let mut pass = |keys: &[u64]| {
            subject.gather(keys, black_box(&mut out));
            if train {
                subject.train(keys, black_box(&grads));
            }
        };
        own[..2].iter().for_each(|keys| pass(keys));
        barrier.wait();
        let (start, mut rows) = (Instant::now(), 0);
        for keys in own.iter().cycle() {
            pass(keys);
            rows += keys.len();
            if start.elapsed() > Duration::from_millis(200) {
                break;
            }
        }
        (start.elapsed(), rows)
    };
    let run = &run;
    let spent: Vec<(Duration, usize)> = std::thread::scope(|scope| {
        let handles: Vec<_> = batches.iter().map(|own| scope.spawn(move || run(own))).collect();
        handles.into_iter().map(|handle| handle.join().expect("no panics")).collect()
    });
    let rate: f64 = spent.iter().map(|(time, rows)| *rows as f64 / time.as_nanos() as f64).sum();
    1.0 / rate
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn compare(settings: &Settings, subjects: &[(String, Subject)], dim: usize, kind: &str, threads: usize, train: bool) {
    let batches: Vec<_> = (0..threads).map(|thread| settings.batches(kind, thread, threads)).collect();
    let mut times = vec![Vec::new(); subjects.len()];
    for _ in 0..settings.reps {
        for (times, (_, subject)) in times.iter_mut().zip(subjects) {
            times.push(timed(subject, train, &batches, dim));
        }
    }
    let what = if train { "gather + update" } else { "gather" };
    for (subject, (name, _)) in subjects.iter().enumerate() {
        // Each store beside the flat array before it, on the same pages.
        let flat = &times[subject / 2 * 2];
        let mut ratios: Vec<f64> = flat.iter().zip(&times[subject]).map(|(flat, own)| flat / own).collect();
        ratios.sort_by(f64::total_cmp);
        let (low, high) = (ratios[0], ratios[ratios.len() - 1]);
        let (ns, of_flat) = (median(times[subject].clone()), median(ratios));
        println!(
            "{what:15} dim {dim:3} {kind:7} threads {threads} {name:20} {ns:7.1} ns  of flat {of_flat:.3} [{low:.3} {high:.3}]"
        );
    }
}

fn settings() -> Settings {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let get = |name: &str, default: &str| -> String {
        let at = args.iter().position(|arg| arg == name);
        at.and_then(|at| args.get(at + 1)).map_or(default.to_owned(), Clone::clone)
    };
    let list = |text: String| text.split(',').map(str::to_owned).collect::<Vec<_>>();
    let number = |text: &str| text.parse::<usize>().expect("a number");
    let shape = |text: &String| {
        let (dim, chunk) = text.split_once(':').expect("dimensions:chunk");
        (number(dim), number(chunk))
    };
    let optimizer = get("--optimizer", "none");
    Settings {
        rows: number(&get("--rows", "4000000")) as u64,
        shapes: list(get("--dims", "64:64,16:16")).iter().map(shape).collect(),
        keys: list(get("--keys", "zipf")),
        threads: list(get("--threads", "1,2")).iter().map(|text| number(text)).collect(),
        batch: number(&get("--batch", "53248")),
        optimizer: if optimizer == "adagrad" { ADAGRAD } else { Optimizer::Sgd { lr: LR } },
        train: optimizer != "none",
        pages: match get("--pages", "system").as_str() {
            "both" => vec![false, true],
            pages => vec![pages == "huge"],
        },
        reps: number(&get("--reps", "5")),
    }
}

fn main() {
    let settings = settings();
    for &(dim, chunk) in &settings.shapes {
        let mut subjects = Vec::new();
        for &huge in &settings.pages {
            let pages = if huge { "huge" } else { "system" };
            let flat = Flat::new(settings.rows, dim, dim * (1 + settings.state()), huge);
            subjects.push((format!("flat, {pages}"), Subject::Flat(flat, settings.state() > 0)));
            let store = full_store(&settings, dim, chunk, huge);
            subjects.push((format!("chunk {chunk}, {pages}"), Subject::Store(store)));
        }
        for kind in &settings.keys {
            for &threads in &settings.threads {
                compare(&settings, &subjects, dim, kind, threads, false);
                if settings.train {
                    compare(&settings, &subjects, dim, kind, threads, true);
                }
            }
        }
    }
}
