//! Saving and loading snapshots against `dd` on the same disk, and look-ups in a serving file against the store's.
//!
//! `cargo bench --bench files -- [--rows N] [--repetitions N] [--dir DIR]`
//!
//! Medians over repetitions that take turns. Before anything is read its pages are dropped from the page cache, so reads
//! come from the disk; writes end with an fsync.

#[path = "support/disk.rs"]
mod disk;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;

use dimslab::serving::{Dtype, Tables, export};
use dimslab::snapshot::{BLOCK_BYTES, Directory, Manifest, RowBlock, RowRef, Section, Snapshot, SnapshotError, Source};
use dimslab::{Policy, Store, StoreConfig, TableConfig, TableId};

const DIM: usize = 16;
const KEYS_A_BATCH: usize = 2048;

/// Rows of a store with Adagrad, as they stand in it.
struct Rows {
    table: TableConfig,
    rows: u64,
    next: u64,
}

fn scrambled(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

impl Source for Rows {
    fn manifest(&self) -> Manifest {
        let (store, tables) = (StoreConfig::new(1 << 30), vec![self.table.clone()]);
        Manifest { step: 1, since: None, store, tables, extra: BTreeMap::new() }
    }

    fn next(&mut self, block: &mut RowBlock) -> Result<bool, SnapshotError> {
        block.clear();
        let mut weights = [0.25; DIM];
        while self.next < self.rows && block.bytes() < BLOCK_BYTES {
            weights[0] = (self.next % 1000) as f32;
            block.push(RowRef {
                key: scrambled(self.next),
                ordinals: &[0, 1, 2, 3],
                utilities: &[1.0; 4],
                weights: &weights,
                state: &[0.5; DIM],
                row_state: &[],
            });
            self.next += 1;
        }
        Ok(!block.keys.is_empty())
    }

    fn sections(&mut self) -> Result<Vec<Section>, SnapshotError> {
        Ok(Vec::new())
    }
}

/// Seconds that `work` takes.
fn seconds<T>(work: impl FnOnce() -> T) -> f64 {
    let began = Instant::now();
    black_box(work());
    began.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn bandwidth(dir: &Path, rows: u64, repetitions: usize) {
    let table = TableConfig::new("t", DIM);
    let (mut saves, mut loads, mut writes, mut reads) = (vec![], vec![], vec![], vec![]);
    let mut bytes = 0;
    for _ in 0..repetitions {
        let path = dir.join("checkpoint");
        let directory = Directory::create(&path).expect("a directory");
        saves.push(seconds(|| {
            let mut source = Rows { table: table.clone(), rows, next: 0 };
            bytes = directory.save(&mut source).expect("a snapshot").bytes;
        }));
        let plain = dir.join("plain");
        writes.push(seconds(|| disk::dd_write(&plain, bytes).expect("dd")));
        let snapshot = Snapshot::open(&path).expect("a snapshot");
        disk::drop_pages(&snapshot.parts()[0].path).expect("pages");
        loads.push(seconds(|| {
            let (mut blocks, mut block, mut found) = (snapshot.blocks(), RowBlock::default(), 0);
            while blocks.next(&mut block).expect("rows") {
                found += block.keys.len() as u64;
            }
            assert_eq!(found, rows);
        }));
        reads.push(seconds(|| disk::dd_read(&plain).expect("dd")));
        std::fs::remove_dir_all(&path).expect("ours");
        std::fs::remove_dir_all(&plain).expect("ours");
    }
    // A head record and three tails.
    let live = rows * (20 + 3 * 8 + 4 * 32);
    let (save, write, load, read) = (median(saves), median(writes), median(loads), median(reads));
    let rate = |seconds: f64| bytes as f64 / seconds / 1e6;
    println!("file size {:.3} of the bytes of the records ({bytes})", bytes as f64 / live as f64);
    println!("save {:.0} MB/s, dd {:.0} MB/s: {:.2}", rate(save), rate(write), write / save);
    println!("load {:.0} MB/s, dd {:.0} MB/s: {:.2}", rate(load), rate(read), read / load);
}

fn look_ups(dir: &Path, rows: u64, repetitions: usize) {
    let tables = vec![TableConfig::new("t", DIM)];
    let store = Store::new(StoreConfig::new(4 << 30).policy(Policy::None), tables.clone()).expect("a store");
    let table = TableId::new(0);
    for first in (0..rows).step_by(KEYS_A_BATCH) {
        let keys: Vec<u64> = (first..(first + KEYS_A_BATCH as u64).min(rows)).map(scrambled).collect();
        store.apply_gradients(table, &keys, &vec![0.5; keys.len() * DIM]).expect("room");
    }
    let directory = Directory::create(&dir.join("checkpoint")).expect("a directory");
    directory.save(&mut Rows { table: tables[0].clone(), rows, next: 0 }).expect("a snapshot");
    let snapshot = directory.open_latest().expect("a snapshot").expect("a snapshot");
    let mut out = vec![0.0; KEYS_A_BATCH * DIM];
    let batches: Vec<Vec<u64>> = (0..400u64)
        .map(|batch| (0..KEYS_A_BATCH as u64).map(|i| scrambled(scrambled(batch * 7919 + i) % rows)).collect())
        .collect();
    for (dtype, name) in [(Dtype::F32, "f32"), (Dtype::F16, "f16"), (Dtype::Int8, "int8")] {
        let file = dir.join(name);
        let exported = export(&snapshot, &file, dtype).expect("a file");
        let opening = seconds(|| Tables::open(&file).expect("a file"));
        let served = Tables::open(&file).expect("a file");
        served.verify().expect("a whole file");
        let (mut stored_s, mut served_s) = (vec![], vec![]);
        for _ in 0..repetitions {
            stored_s
                .push(seconds(|| batches.iter().for_each(|keys| store.gather(table, keys, &mut out).expect("rows"))));
            let from = served.table_at(0);
            served_s.push(seconds(|| batches.iter().for_each(|keys| from.gather(keys, &mut out).expect("rows"))));
        }
        let (stored, served) = (median(stored_s), median(served_s));
        let each = 1e9 / (batches.len() * KEYS_A_BATCH) as f64;
        println!(
            "{name}: {} bytes, opened in {:.2} ms; a row {:.1} ns, in the store {:.1} ns: {:.2}",
            exported.bytes,
            opening * 1e3,
            served * each,
            stored * each,
            stored / served
        );
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let (mut rows, mut repetitions, mut dir) = (1_000_000u64, 5usize, std::env::temp_dir());
    while let Some(flag) = arguments.next() {
        let value = arguments.next().expect("a value behind each flag");
        match &flag[..] {
            "--rows" => rows = value.parse().expect("a number of rows"),
            "--repetitions" => repetitions = value.parse().expect("a number"),
            "--dir" => dir = PathBuf::from(value),
            _ => panic!("no such flag: {flag}"),
        }
    }
    let folder = tempfile::tempdir_in(dir).expect("a directory to work in");
    bandwidth(folder.path(), rows, repetitions);
    look_ups(folder.path(), rows, repetitions);
}
