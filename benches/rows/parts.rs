//! Stores that grow from nothing: as fast as they can, and one row at a time.

use crate::results::{Record, median, ratio, spread};
use crate::stores::{Arenas, CEILING, KEYS_MAX, Kind, Lengths, RowStore};
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
    let mixed = |kind: &Kind| matches!(kind, Kind::Dimslab(_, Lengths::Mixed));
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
                    let store = Arenas::new(args.rows, dim, true).make(chosen[at].1)?;
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

/// From nothing to all rows, one call a row.
pub(crate) fn latency(args: &Args) -> Outcome<Vec<Record>> {
    const FIGURES: [(&str, f64); 4] = [("p50", 50.0), ("p99.9", 99.9), ("p99.99", 99.99), ("max", 100.0)];
    let mut records = Vec::new();
    for &dim in &args.dims {
        warm_system(bytes(args.rows, dim))?;
        println!("\nnanoseconds of an insert, one at a time, up to {} rows of dim {dim}", args.rows);
        let chosen = growing(args, dim)?;
        let mut taken = vec![vec![Vec::new(); FIGURES.len()]; chosen.len()];
        for turn in 0..args.repetitions {
            for position in 0..chosen.len() {
                let at = (turn + position) % chosen.len();
                let store = Arenas::new(args.rows, dim, true).make(chosen[at].1)?;
                let nanos = insert_each(&*store, args.rows)?;
                for ((_, percent), values) in FIGURES.iter().zip(&mut taken[at]) {
                    values.push(nanos.value_at_percentile(*percent) as f64);
                }
            }
        }
        for ((store, _), figures) in chosen.iter().zip(taken) {
            print!("{store:36}");
            for ((what, _), values) in FIGURES.iter().zip(figures) {
                print!(" {what} {:9.0} ±{:3.0} %", median(&values), spread(&values));
                records.push(Record {
                    part: "latency".to_owned(),
                    what: (*what).to_owned(),
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

fn insert_each(store: &dyn RowStore, rows: u64) -> Outcome<Histogram<u64>> {
    let mut nanos = Histogram::new_with_bounds(1, 60_000_000_000, 3)?;
    for key in 0..rows {
        let begun = Instant::now();
        store.insert(&[key]);
        nanos.record(begun.elapsed().as_nanos() as u64)?;
    }
    Ok(nanos)
}
