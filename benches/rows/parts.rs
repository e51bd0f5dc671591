//! Stores that grow from nothing: as fast as they can, and one row at a time.

use crate::arena::Pages;
use crate::results::{Record, median, ratio, spread};
use crate::stores::{Arenas, CEILING, FLAT, KEYS_MAX, Kind, Lengths, RowStore};
use crate::{Args, Outcome};
use hdrhistogram::Histogram;
use memmap2::MmapMut;
use std::time::Instant;

/// Bytes that any of the stores may need, so that none is the first to have them of the machine.
fn bytes(rows: u64, dim: usize) -> usize {
    rows as usize * (dim * 4 + 160)
}

/// Takes memory and gives it back: what the system has not had before is much slower to come by, for whoever is first.
fn warm_system(bytes: usize) -> Outcome<()> {
    let mut memory = MmapMut::map_anon(bytes)?;
    memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    std::hint::black_box(&memory);
    Ok(())
}

/// All that grow and stay whole, the mixed lengths being no way of growing.
fn growing(args: &Args, dim: usize) -> Outcome<Vec<(String, Kind)>> {
    let mixed = |kind: &Kind| matches!(kind, Kind::Dimslab(_, Lengths::Mixed, _));
    Ok(args.chosen(dim)?.into_iter().filter(|(_, kind)| !mixed(kind)).collect())
}

/// From nothing to all rows, in batches.
pub(crate) fn fill(args: &Args) -> Outcome<Vec<Record>> {
    let mut records = Vec::new();
    for &dim in &args.dims {
        warm_system(bytes(args.rows, dim))?;
        let chosen = growing(args, dim)?;
        for &threads in &args.threads {
            let mut taken = vec![Vec::new(); chosen.len()];
            for turn in 0..args.repetitions {
                for position in 0..chosen.len() {
                    let at = (turn + position) % chosen.len();
                    let store = Arenas::fresh(args.rows, dim, Pages::Huge).make(chosen[at].1)?;
                    taken[at].push(fill_once(&*store, args.rows, threads));
                }
            }
            println!(
                "\nfill from nothing to {} rows of dim {dim}, {threads} threads, million rows a second",
                args.rows
            );
            let of = |name: &str| chosen.iter().position(|(store, _)| store == name).map(|at| taken[at].clone());
            let (ceiling, dimslab) = (of(CEILING).unwrap_or_default(), of("dimslab").unwrap_or_default());
            for ((store, _), values) in chosen.iter().zip(&taken) {
                println!(
                    "{store:36}{:8.2} ±{:3.0} %, dimslab {:.2} x",
                    median(values),
                    spread(values),
                    ratio(&dimslab, values)
                );
                records.push(Record {
                    part: "fill".to_owned(),
                    what: "fill".to_owned(),
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
    }
    Ok(records)
}

/// Million rows a second.
fn fill_once(store: &dyn RowStore, rows: u64, threads: usize) -> f64 {
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads as u64 {
            scope.spawn(move || {
                // Batches in turn, so that all threads are everywhere in the store.
                for first in (thread * KEYS_MAX as u64..rows).step_by(KEYS_MAX * threads) {
                    let keys: Vec<u64> = (first..rows.min(first + KEYS_MAX as u64)).collect();
                    store.insert(&keys);
                }
            });
        }
    });
    rows as f64 / begun.elapsed().as_secs_f64() / 1e6
}

const FIGURES: [(&str, f64); 4] = [("p50", 50.0), ("p99.9", 99.9), ("p99.99", 99.99), ("max", 100.0)];
/// What is told besides the percentiles of the time on the clock: the longest by the thread's own processor time, which
/// leaves out what other programs took, and how many were longer than a millisecond by either.
const BESIDES: [&str; 3] = ["max, processor", "above 1 ms", "above 1 ms, processor"];
const MILLISECOND: u64 = 1_000_000;

/// From nothing to all rows, one call a row.
pub(crate) fn latency(args: &Args) -> Outcome<Vec<Record>> {
    let mut records = Vec::new();
    let names = || FIGURES.iter().map(|(what, _)| *what).chain(BESIDES);
    for &dim in &args.dims {
        warm_system(bytes(args.rows, dim))?;
        println!("\nnanoseconds of an insert, one at a time, up to {} rows of dim {dim}", args.rows);
        // All on small pages: a huge one is zeroed within one insert, which takes milliseconds.
        let mut chosen = growing(args, dim)?;
        chosen.retain(|(name, _)| name != CEILING && name != FLAT);
        chosen.insert(0, (FLAT.to_owned(), Kind::Flat(Pages::Small, 0)));
        let mut taken = vec![vec![Vec::new(); names().count()]; chosen.len()];
        for turn in 0..args.repetitions {
            for position in 0..chosen.len() {
                let at = (turn + position) % chosen.len();
                let store = Arenas::fresh(args.rows, dim, Pages::Small).make(chosen[at].1)?;
                let inserts = insert_each(&*store, args.rows)?;
                println!("{}: longest at {:?}", chosen[at].0, inserts.longest());
                taken[at].iter_mut().zip(inserts.figures()).for_each(|(values, value)| values.push(value));
            }
        }
        for ((store, _), figures) in chosen.iter().zip(taken) {
            print!("{store:32}");
            for (what, values) in names().zip(figures) {
                print!(" {what} {:.0} ±{:.0} %", median(&values), spread(&values));
                records.push(Record {
                    part: "latency".to_owned(),
                    what: what.to_owned(),
                    store: store.clone(),
                    rows: args.rows,
                    dim,
                    threads: 1,
                    values,
                    ceiling: Vec::new(),
                    dimslab: Vec::new(),
                });
            }
            println!();
        }
    }
    Ok(records)
}

/// Single inserts, in nanoseconds.
struct Inserts {
    clock: Histogram<u64>,
    processor: u64,
    /// Those of more than a millisecond: key, clock, processor.
    long: Vec<(u64, u64, u64)>,
}

impl Inserts {
    fn figures(&self) -> impl Iterator<Item = f64> {
        let percentiles = FIGURES.iter().map(|(_, percent)| self.clock.value_at_percentile(*percent) as f64);
        let by_processor = self.long.iter().filter(|(_, _, processor)| *processor > MILLISECOND).count();
        percentiles.chain([self.processor as f64, self.long.len() as f64, by_processor as f64])
    }

    /// Key, clock and processor of the three that took longest of the processor: the same keys each time would be the
    /// store's doing.
    fn longest(&self) -> Vec<(u64, u64, u64)> {
        let mut long = self.long.clone();
        long.sort_by_key(|(_, _, processor)| std::cmp::Reverse(*processor));
        long.truncate(3);
        long
    }
}

fn insert_each(store: &dyn RowStore, rows: u64) -> Outcome<Inserts> {
    let clock = Histogram::new_with_bounds(1, 60_000_000_000, 3)?;
    let mut inserts = Inserts { clock, processor: 0, long: Vec::new() };
    for key in 0..rows {
        let used = thread_nanos()?;
        let begun = Instant::now();
        store.insert(&[key]);
        let clock = begun.elapsed().as_nanos() as u64;
        let processor = thread_nanos()? - used;
        inserts.clock.record(clock)?;
        inserts.processor = inserts.processor.max(processor);
        if clock > MILLISECOND {
            inserts.long.push((key, clock, processor));
        }
    }
    Ok(inserts)
}

/// Processor time of this thread.
fn thread_nanos() -> Outcome<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is there to be written to.
    if unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}
