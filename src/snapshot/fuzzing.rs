//! Snapshots in memory for the fuzz targets. In their builds checksums are computed and not compared: a fuzzer does not
//! guess them, and what lies behind them has to hold by itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::sim::SimFs;
use super::{Data, Directory, Fs, Manifest, RowBlock, RowRef, Section, Snapshot, SnapshotError, Source};
use crate::config::{Fallback, Optimizer, StoreConfig, TableConfig};

const ROOT: &str = "/checkpoint";

/// The files of a full snapshot and an increment.
#[derive(Clone)]
pub struct Files {
    disk: SimFs,
    paths: Vec<PathBuf>,
}

impl Files {
    /// A few rows of three tables, some changed and some gone in the increment.
    pub fn base() -> Result<Files, SnapshotError> {
        let disk = SimFs::new();
        let directory = Directory::create_on(Arc::new(disk.clone()), Path::new(ROOT))?;
        let tables = vec![
            TableConfig::new("a", 8).fallback(Fallback::DefaultVector),
            TableConfig::new("b", 3).optimizer(Optimizer::Sgd { lr: 1.0 }),
            TableConfig::new("c", 20).chunk(8).optimizer(Optimizer::RowwiseAdagrad {
                lr: 1.0,
                eps: 1.0,
                initial_accumulator: 0.0,
            }),
        ];
        for (step, since) in [(10, None), (20, Some(10))] {
            directory.save(&mut Few { step, since, tables: tables.clone(), next: 0 })?;
        }
        let paths = disk.files(Path::new(ROOT));
        Ok(Files { disk, paths })
    }

    /// Another disk with the same files.
    pub fn copy(&self) -> Files {
        Files { disk: self.disk.copy(), paths: self.paths.clone() }
    }

    /// Changes one file.
    pub fn edit(&self, file: usize, change: impl FnOnce(&mut Vec<u8>)) {
        self.disk.tamper(&self.paths[file % self.paths.len()], change);
    }

    /// Opens the latest snapshot.
    pub fn open(&self) -> Result<Snapshot, SnapshotError> {
        Snapshot::open_on(Arc::new(self.disk.clone()), Path::new(ROOT))
    }

    /// The disk, for an export.
    pub(crate) fn fs(&self) -> &dyn Fs {
        &self.disk
    }

    /// A file's bytes.
    pub(crate) fn bytes(&self, path: &Path) -> Vec<u8> {
        self.disk.bytes(path)
    }
}

/// Rows with keys that are made of their table and number.
struct Few {
    step: u64,
    since: Option<u64>,
    tables: Vec<TableConfig>,
    next: usize,
}

impl Source for Few {
    fn manifest(&self) -> Manifest {
        let (step, since, tables) = (self.step, self.since, self.tables.clone());
        Manifest { step, since, store: StoreConfig::new(1 << 20), tables, extra: BTreeMap::new() }
    }

    fn next(&mut self, block: &mut RowBlock) -> Result<bool, SnapshotError> {
        let Some(table) = self.tables.get(self.next) else {
            return Ok(false);
        };
        block.clear();
        block.table = self.next;
        for key in 0..5u64 {
            let chunks = table.chunks();
            let live = if self.since.is_some() { key as usize % (chunks + 1) } else { 1 + key as usize % chunks };
            let ordinals: Vec<u8> = (0..chunks as u8).rev().take(live).rev().collect();
            let fill = |count: usize| vec![0.5; count];
            block.push(RowRef {
                key: key * (2 + self.step),
                utilities: &fill(live),
                weights: &fill(live * table.chunk_dims()),
                state: &fill(live * table.chunk_state()),
                row_state: &fill(table.optimizer.row_state_words()),
                ordinals: &ordinals,
            });
        }
        self.next += 1;
        Ok(true)
    }

    fn sections(&mut self) -> Result<Vec<Section>, SnapshotError> {
        let section = |name: &str, shape: Vec<usize>, data| Section { name: name.to_owned(), shape, data };
        Ok(vec![
            section("shared/0/weights", vec![1, 8], Data::F32(vec![1.0; 8])),
            section("dense/top.0.weight", vec![2, 2], Data::F32(vec![1.0; 4])),
            section("clock", vec![], Data::U64(vec![1])),
        ])
    }
}
