//! What more rows cost: a gathered row against the flat array, and a pruning round against live chunks.

use crate::keys::{Random, mix};
use crate::results::{Record, median, spread};
use crate::stores::{Arenas, CEILING, KEYS_MAX, RowStore, ample, kinds, longest_chunk};
use crate::throughput::turns;
use crate::{Args, Outcome};
use dimslab::{Store, StoreConfig, TableConfig, TableId};
use std::time::Instant;

const BATCHES: usize = 400;
/// What a round takes of what is held.
const TAKEN: f64 = 0.04;

/// Gathers at one size: `--rows`.
pub(crate) fn gathers(args: &Args) -> Outcome<Vec<Record>> {
    let mut records = Vec::new();
    args.dims.iter().try_for_each(|&dim| gather(args, dim, &mut records))?;
    Ok(records)
}

/// Pruning rounds at one size.
pub(crate) fn rounds(args: &Args) -> Outcome<Vec<Record>> {
    let mut records = Vec::new();
    args.dims.iter().try_for_each(|&dim| round(args, dim, &mut records))?;
    Ok(records)
}

/// Nanoseconds of a gathered row, uniform keys: those of which fewer and fewer are in a cache.
fn gather(args: &Args, dim: usize, records: &mut Vec<Record>) -> Outcome<()> {
    let (mut arenas, mut stores) = (Arenas::shared(args.rows, dim), Vec::new());
    for (name, kind) in kinds().into_iter().filter(|(name, _)| name == CEILING || name == "dimslab") {
        let store = arenas.make(kind)?;
        for first in (0..args.rows).step_by(KEYS_MAX) {
            store.insert(&(first..args.rows.min(first + KEYS_MAX as u64)).collect::<Vec<u64>>());
        }
        store.settle(args.rows)?;
        stores.push((name, store));
    }
    let mut random = Random(7);
    let keys: Vec<u64> = (0..BATCHES * KEYS_MAX).map(|_| random.below(args.rows)).collect();
    let mut out = vec![0.0; KEYS_MAX * dim];
    let taken = turns(args.repetitions, stores.len(), |store, _| {
        let store: &dyn RowStore = &*stores[store].1;
        let begun = Instant::now();
        keys.chunks_exact(KEYS_MAX).for_each(|keys| store.gather(keys, &mut out));
        begun.elapsed().as_nanos() as f64 / keys.len() as f64
    });
    for ((store, _), values) in stores.iter().zip(&taken) {
        println!(
            "{} rows of dim {dim}: {store} gathers a row in {:.1} ns ±{:.0} %",
            args.rows,
            median(values),
            spread(values)
        );
        records.push(Record {
            part: "scaling".to_owned(),
            what: "gather, uniform, ns".to_owned(),
            store: store.clone(),
            rows: args.rows,
            dim,
            threads: 1,
            values: values.clone(),
            ceiling: taken[0].clone(),
            dimslab: taken[1].clone(),
        });
    }
    Ok(())
}

/// Nanoseconds of a round for each chunk that was live before it.
fn round(args: &Args, dim: usize, records: &mut Vec<Record>) -> Outcome<()> {
    let chunk = longest_chunk(dim);
    let rule = TableConfig::new("rows", dim).chunk(chunk);
    let (table, bytes) = (TableId::new(0), ample(args.rows, dim * 2, chunk));
    let store = Store::new(StoreConfig::new(bytes), vec![rule])?;
    let mut grads = vec![0.0; KEYS_MAX * dim];
    for first in (0..args.rows).step_by(KEYS_MAX) {
        let keys: Vec<u64> = (first..args.rows.min(first + KEYS_MAX as u64)).collect();
        for (key, grads) in keys.iter().zip(grads.chunks_exact_mut(dim)) {
            grads.fill(0.1 + (mix(*key) >> 40) as f32 / (1u64 << 24) as f32);
        }
        store.apply_gradients(table, &keys, &grads[..keys.len() * dim])?;
    }
    let (mut per_chunk, mut millis) = (Vec::new(), Vec::new());
    for _ in 0..args.repetitions {
        let before = store.stats();
        let begun = Instant::now();
        let report = store.prune_to((before.held as f64 * (1.0 - TAKEN)) as u64)?;
        let took = begun.elapsed().as_secs_f64();
        if report.evicted + report.shrunk == 0 {
            return Err("a round took nothing".into());
        }
        per_chunk.push(took * 1e9 / before.chunks as f64);
        millis.push(took * 1e3);
    }
    println!(
        "{} rows of dim {dim}: a round in {:.1} ms, {:.1} ns a live chunk ±{:.0} %",
        args.rows,
        median(&millis),
        median(&per_chunk),
        spread(&per_chunk)
    );
    for (what, values) in [("round, ms", millis), ("round, ns a chunk", per_chunk)] {
        records.push(Record {
            part: "round".to_owned(),
            what: what.to_owned(),
            store: "dimslab".to_owned(),
            rows: args.rows,
            dim,
            threads: 1,
            values,
            ceiling: Vec::new(),
            dimslab: Vec::new(),
        });
    }
    Ok(())
}
