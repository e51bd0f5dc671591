//! Serving files against the store and the snapshot that they come from; crashed, damaged and exchanged ones.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::export::export_on;
use super::layout::{Hasher, shared_row};
use super::*;
use crate::snapshot::sim::{Faults, Keep, SimFs};
use crate::snapshot::tests::{Model, disk, open};
use crate::snapshot::{BLOCK_BYTES, Data, Directory, Fs, Manifest, RowBlock, RowRef, Section, Snapshot, Source};
use crate::{Fallback, FiitedConfig, Init, Keys, Policy, Store, StoreConfig, TableConfig, TableId};

const DTYPES: [Dtype; 4] = [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::Int8];

/// What a store's public interface shows of it, as a snapshot.
struct Listed<'s> {
    store: &'s Store,
    config: StoreConfig,
    tables: Vec<TableConfig>,
    table: usize,
}

impl Source for Listed<'_> {
    fn manifest(&self) -> Manifest {
        let (store, tables) = (self.config.clone(), self.tables.clone());
        Manifest { step: 1, since: None, store, tables, extra: BTreeMap::new() }
    }

    fn next(&mut self, block: &mut RowBlock) -> Result<bool, SnapshotError> {
        let Some(table) = self.tables.get(self.table) else {
            return Ok(false);
        };
        block.clear();
        block.table = self.table;
        for row in self.store.iter(TableId::new(self.table)).unwrap() {
            let chunk = table.chunk_dims();
            let ordinals: Vec<u8> = row.live.iter().map(|&ordinal| ordinal as u8).collect();
            let mut values = row.values.clone();
            values.resize(table.chunks() * chunk, 0.0);
            let weights: Vec<f32> =
                row.live.iter().flat_map(|at| values[at * chunk..(at + 1) * chunk].iter().copied()).collect();
            let (utilities, state) = (vec![0.0; ordinals.len()], vec![0.0; ordinals.len() * table.chunk_state()]);
            let (key, row_state) = (row.key, vec![0.0; table.optimizer.row_state_words()]);
            block.push(RowRef {
                key,
                ordinals: &ordinals,
                utilities: &utilities,
                weights: &weights,
                state: &state,
                row_state: &row_state,
            });
        }
        assert!(block.bytes() < 100 * BLOCK_BYTES);
        self.table += 1;
        Ok(true)
    }

    fn sections(&mut self) -> Result<Vec<Section>, SnapshotError> {
        let tables = self.tables.iter().enumerate().filter(|(_, table)| super::export::shared_rows(table) > 0);
        Ok(tables.map(|(position, table)| self.shared(position, table)).collect())
    }
}

impl Listed<'_> {
    /// Shared rows as they read through keys without a row.
    fn shared(&self, position: usize, table: &TableConfig) -> Section {
        let rows = super::export::shared_rows(table) as usize;
        let hasher = Hasher::new(table, self.config.seed);
        let mut all = vec![None; rows];
        let mut out = vec![0.0; table.dim];
        for key in 1 << 60.. {
            if all.iter().all(Option::is_some) {
                break;
            }
            self.store.gather(TableId::new(position), &[key], &mut out).unwrap();
            all[shared_row(hasher.row_hash(key), rows)] = Some(out.clone());
        }
        let data = Data::F32(all.into_iter().flat_map(Option::unwrap).collect());
        Section { name: format!("shared/{position}/weights"), shape: vec![rows, table.dim], data }
    }
}

/// A store whose rows have been trained and cut, and its settings.
fn trained() -> (Store, StoreConfig, Vec<TableConfig>) {
    let policy = Policy::Fiited(FiitedConfig { period_steps: 20, warmup_steps: 10, ..FiitedConfig::default() });
    let config = StoreConfig::new(1 << 20).policy(policy).seed(7).deterministic(true);
    let init = Init::Uniform { bound: 0.5 };
    let tables = vec![
        TableConfig::new("zero", 16).init(init),
        TableConfig::new("default", 10).chunk(8).init(init).fallback(Fallback::DefaultVector),
        TableConfig::new("hashed", 6).init(init).fallback(Fallback::HashedRow { rows: 5 }),
        TableConfig::new("virtual", 3).init(init).keys(Keys::Hashed { virtual_rows: 900 }),
    ];
    let store = Store::new(config.clone(), tables.clone()).unwrap();
    for step in 0..120u64 {
        for (position, table) in tables.iter().enumerate() {
            let keys: Vec<u64> =
                (0..64).map(|i| xxh3_64(&(step * 64 + i).to_le_bytes()) % (10 + (step * i) % 4000)).collect();
            let gradients: Vec<f32> =
                (0..64 * table.dim).map(|i| ((i * 37 + step as usize) % 19) as f32 - 9.0).collect();
            store.apply_gradients(TableId::new(position), &keys, &gradients).unwrap();
        }
        store.step().unwrap();
    }
    store.prune_to(store.stats().held * 4 / 5).unwrap();
    (store, config, tables)
}

fn exported(disk: &SimFs, snapshot: &Snapshot, dtype: Dtype) -> Vec<u8> {
    let path = Path::new("/file.serve");
    let exported = export_on(disk, snapshot, path, dtype).unwrap();
    let bytes = disk.bytes(path);
    assert_eq!(exported.bytes, bytes.len() as u64);
    bytes
}

fn tables(bytes: &[u8]) -> Result<Tables, SnapshotError> {
    Tables::from_bytes(bytes, Path::new("/file.serve"))
}

#[test]
fn look_ups_are_what_the_store_gives() {
    let (store, config, configs) = trained();
    let (disk, directory) = disk();
    directory.save(&mut Listed { store: &store, config, tables: configs.clone(), table: 0 }).unwrap();
    let snapshot = open(&disk).unwrap();
    for dtype in DTYPES {
        let bytes = exported(&disk, &snapshot, dtype);
        let tables = tables(&bytes).unwrap();
        tables.verify().unwrap();
        assert_eq!((tables.len(), tables.dtype(), tables.checksum()), (4, dtype, snapshot.checksum()));
        let mut partial = 0;
        for (position, config) in configs.iter().enumerate() {
            let table = tables.table(&config.name).unwrap();
            let keys: Vec<u64> = (0..5000).chain([u64::MAX, u64::MAX - 1]).collect();
            let mut expected = vec![0.0; keys.len() * config.dim];
            let mut found = vec![f32::NAN; keys.len() * config.dim];
            store.gather(TableId::new(position), &keys, &mut expected).unwrap();
            table.gather(&keys, &mut found).unwrap();
            for ((key, expected), found) in keys.iter().zip(expected.chunks(config.dim)).zip(found.chunks(config.dim)) {
                let most = expected.iter().fold(0f32, |most, value| most.max(value.abs()));
                let row = table.get(*key).unwrap();
                partial += usize::from(row.is_some_and(|row| row.as_prefix().is_none()));
                for (expected, found) in expected.iter().zip(found) {
                    let allowed = match dtype {
                        Dtype::F32 => 0.0,
                        Dtype::F16 => expected.abs() / 2048.0 + 1e-7,
                        Dtype::Bf16 => expected.abs() / 256.0,
                        Dtype::Int8 => most / 127.0 * 0.51,
                    };
                    assert!(
                        (expected - found).abs() <= allowed,
                        "{} {dtype:?} {key}: {found} for {expected}",
                        config.name
                    );
                }
                if let Some(prefix) = row.and_then(|row| row.as_prefix()) {
                    assert_eq!(prefix, &found[..prefix.len()]);
                }
            }
        }
        assert!(partial > 100, "{partial} rows that are not whole: is this testing anything?");
    }
}

#[test]
fn rows_lie_in_place_as_the_snapshot_has_them() {
    let (disk, directory) = disk();
    let mut model = Model::new(1);
    model.work(400, 200);
    model.save(&directory, None).unwrap();
    let since = model.step;
    model.work(200, 200);
    model.save(&directory, Some(since)).unwrap();
    let tables = tables(&exported(&disk, &open(&disk).unwrap(), Dtype::F32)).unwrap();
    tables.verify().unwrap();
    for ((table, key), row) in &model.rows {
        let found = tables.table_at(*table).get(*key).unwrap().unwrap();
        assert_eq!(found.weights(), Weights::F32(&row.weights));
        assert_eq!(found.ordinals().collect::<Vec<_>>(), row.ordinals.iter().map(|&o| o as usize).collect::<Vec<_>>());
    }
    let rows: u64 = (0..tables.len()).map(|table| tables.table_at(table).rows()).sum();
    assert_eq!(rows, model.rows.len() as u64);
    assert!(tables.table_at(0).get(3).unwrap().is_none());
    let dense: Vec<_> = tables.dense().collect();
    assert_eq!(dense, [("dense/top.0.weight", &[2, 3][..], &[0.5; 6][..])]);
    let error = tables.table_at(0).gather(&[1, 2], &mut [0.0; 3]).unwrap_err();
    assert!(error.to_string().contains("expected 32"), "{error}");
}

#[test]
fn a_weight_that_the_type_cannot_hold_is_told() {
    let (disk, directory) = disk();
    let mut model = Model::new(2);
    model.work(50, 100);
    let row = model.rows.values_mut().next().unwrap();
    row.weights[0] = 1e30;
    model.save(&directory, None).unwrap();
    let snapshot = open(&disk).unwrap();
    let error = export_on(&disk, &snapshot, Path::new("/x"), Dtype::F16).unwrap_err().to_string();
    assert!(error.contains("f16 cannot hold") && disk.list(Path::new("/")).unwrap() == ["checkpoint"], "{error}");
    tables(&exported(&disk, &snapshot, Dtype::Int8)).unwrap().verify().unwrap();
}

#[test]
fn an_export_that_is_cut_leaves_the_old_file_or_the_new_one() {
    let (disk, directory) = disk();
    let mut model = Model::new(3);
    model.work(40, 60);
    model.save(&directory, None).unwrap();
    let path = Path::new("/file.serve");
    let old = exported(&disk, &open(&disk).unwrap(), Dtype::F32);
    model.work(40, 60);
    model.save(&directory, None).unwrap();
    let export = |disk: &SimFs| open(disk).and_then(|snapshot| export_on(disk, &snapshot, path, Dtype::Int8));
    let whole = disk.copy();
    export(&whole).unwrap();
    let new = whole.bytes(path);
    let mut cuts = 0;
    for dies_at in 0..=whole.steps() {
        let running = disk.copy();
        running.set_faults(Faults { dies_at: Some(dies_at), ..Faults::default() });
        let acknowledged = export(&running).is_ok();
        for keep in [Keep::Nothing, Keep::Everything].into_iter().chain((0..30).map(|n| Keep::Some(dies_at * 100 + n)))
        {
            let after = running.cut(keep);
            let found = after.bytes(path);
            assert!(found == new || (!acknowledged && found == old), "dead since step {dies_at}, {keep:?}");
            tables(&found).unwrap().verify().unwrap();
            export(&after).unwrap();
            assert_eq!(after.list(Path::new("/")).unwrap(), ["checkpoint", "file.serve"]);
            cuts += 1;
        }
    }
    assert!(cuts > 1000, "{cuts} cuts");
}

/// Opens, verifies and looks everything up.
fn read(bytes: &[u8], model: &Model) -> Result<(), SnapshotError> {
    let tables = tables(bytes)?;
    let verified = tables.verify();
    for (table, key) in model.rows.keys().copied().chain([(0, 1), (1, u64::MAX)]) {
        let Some(config) = tables.manifest().tables.get(table) else { continue };
        let mut out = vec![0.0; config.dim];
        match tables.table_at(table).gather(&[key], &mut out) {
            Ok(()) => {}
            Err(ServingError::File(SnapshotError::Damaged { .. })) => assert!(verified.is_err()),
            Err(other) => panic!("{other}"),
        }
    }
    verified
}

fn small(dtype: Dtype) -> (Vec<u8>, Model) {
    let (disk, directory) = disk();
    let mut model = Model::new(4);
    model.work(12, 10);
    model.save(&directory, None).unwrap();
    (exported(&disk, &open(&disk).unwrap(), dtype), model)
}

#[test]
fn every_changed_byte_and_every_other_length_is_noticed() {
    for dtype in DTYPES {
        let (mut bytes, model) = small(dtype);
        read(&bytes, &model).unwrap();
        for at in 0..bytes.len() {
            for flip in [1 << (at % 8), 0xFF] {
                bytes[at] ^= flip;
                let error =
                    read(&bytes, &model).err().unwrap_or_else(|| panic!("byte {at} ^ {flip:#x} goes unnoticed"));
                assert!(matches!(error, SnapshotError::Damaged { .. }), "{error}");
                bytes[at] ^= flip;
            }
            assert!(tables(&bytes[..at]).is_err(), "cut to {at}");
        }
        bytes.push(0);
        assert!(tables(&bytes).is_err());
    }
}

/// Makes the sums right again after a change.
fn resign(bytes: &mut [u8]) {
    let len = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize + 8;
    let metadata: safetensors::tensor::Metadata = serde_json::from_slice(&bytes[8..len]).unwrap();
    let mut sums = vec![xxh3_64(&bytes[..len])];
    let names = metadata.offset_keys();
    for name in &names[..names.len() - 1] {
        let (start, end) = metadata.info(name).unwrap().data_offsets;
        sums.push(xxh3_64(&bytes[len + start..len + end]));
    }
    let words: Vec<u8> = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
    let start = bytes.len() - words.len() - 8;
    bytes[start..start + words.len()].copy_from_slice(&words);
    let last = bytes.len() - 8;
    bytes[last..].copy_from_slice(&xxh3_64(&words).to_le_bytes());
}

#[test]
fn no_place_is_believed_even_with_the_right_checksums() {
    for dtype in DTYPES {
        let (whole, model) = small(dtype);
        let len = u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize + 8;
        let metadata: safetensors::tensor::Metadata = serde_json::from_slice(&whole[8..len]).unwrap();
        for table in 0..4 {
            for name in [super::layout::index_name(table), super::layout::ordinals_name(table)] {
                let (start, end) = metadata.info(&name).unwrap().data_offsets;
                for at in len + start..len + end {
                    for value in [0, 0x7F, 0xFF] {
                        let mut bytes = whole.clone();
                        bytes[at] = value;
                        resign(&mut bytes);
                        // Either it is noticed or it does no harm, such as another key.
                        let _ = read(&bytes, &model);
                    }
                }
            }
        }
        let mut bytes = whole.clone();
        resign(&mut bytes);
        assert_eq!(bytes, whole);
    }
}

#[test]
fn the_file_is_exchanged_while_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.serve");
    let directory = Directory::create(&folder.path().join("checkpoint")).unwrap();
    let mut model = Model::new(5);
    model.tables.truncate(1);
    model.work(300, 100);
    // Every weight of a snapshot is its step.
    let save = |model: &mut Model| {
        model.step += 1;
        let step = model.step as f32;
        model.rows.values_mut().for_each(|row| row.weights.fill(step));
        model.save(&directory, None).unwrap();
        export(&Snapshot::open(folder.path()).unwrap(), &path, Dtype::F32).unwrap();
    };
    save(&mut model);
    let live = Arc::new(Live::new(Tables::open(&path).unwrap()));
    assert!(!live.reload(&path).unwrap(), "the same file");
    let stop = crate::sync::AtomicBool::new(false);
    let keys: Vec<u64> = model.rows.keys().map(|(_, key)| *key).collect();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut seen = 0.0;
                while !stop.load(crate::sync::Ordering::Relaxed) {
                    let tables = live.load();
                    let table = tables.table("users").unwrap();
                    let step = tables.manifest().step as f32;
                    assert!(step >= seen);
                    seen = step;
                    for key in &keys {
                        let row = table.get(*key).unwrap().unwrap();
                        let Weights::F32(weights) = row.weights() else { panic!() };
                        assert!(weights.iter().all(|weight| *weight == step), "{weights:?} at step {step}");
                    }
                }
                assert!(seen > 1.0);
            });
        }
        for _ in 0..30 {
            save(&mut model);
            assert!(live.reload(&path).unwrap());
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
        stop.store(true, crate::sync::Ordering::Relaxed);
    });
    // A damaged one is not taken in.
    let before = live.load().checksum();
    save(&mut model);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    assert!(live.reload(&path).is_err() && live.load().checksum() == before);
}
