//! A model of a store's rows, saved and read on a simulated disk: whole, in increments, compacted, damaged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::record::MANIFEST;
use super::sim::{Faults, SimFs};
use super::*;
use crate::config::{Fallback, Optimizer, StoreConfig, TableConfig};

pub(crate) fn root() -> &'static Path {
    Path::new("/checkpoint")
}

/// A row of the model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) ordinals: Vec<u8>,
    utilities: Vec<f32>,
    pub(crate) weights: Vec<f32>,
    state: Vec<f32>,
    row_state: Vec<f32>,
}

/// A model of a store: rows that change, and which changed since the last snapshot.
#[derive(Clone)]
pub(crate) struct Model {
    pub(crate) tables: Vec<TableConfig>,
    pub(crate) rows: BTreeMap<(usize, u64), Row>,
    pub(super) changed: BTreeSet<(usize, u64)>,
    pub(crate) step: u64,
    random: u64,
}

impl Model {
    pub(crate) fn new(seed: u64) -> Model {
        let adam = Optimizer::Adam { lr: 0.1, beta1: 0.9, beta2: 0.999, eps: 1e-8 };
        let rowwise = Optimizer::RowwiseAdagrad { lr: 0.1, eps: 1e-8, initial_accumulator: 0.0 };
        let tables = vec![
            TableConfig::new("users", 16).fallback(Fallback::HashedRow { rows: 3 }),
            TableConfig::new("a name, with \"quotes\" / and \u{e9}", 10).chunk(8).optimizer(adam),
            TableConfig::new("few", 3).optimizer(rowwise),
            TableConfig::new("plain", 4).optimizer(Optimizer::Sgd { lr: 0.5 }),
        ];
        Model { tables, rows: BTreeMap::new(), changed: BTreeSet::new(), step: 0, random: seed }
    }

    pub(crate) fn draw(&mut self, below: u64) -> u64 {
        self.random = xxhash_rust::xxh3::xxh3_64(&self.random.to_le_bytes());
        self.random % below
    }

    /// Makes, changes and removes `count` rows.
    pub(crate) fn work(&mut self, count: usize, keys: u64) {
        self.step += 1 + self.draw(3);
        for _ in 0..count {
            let at =
                (self.draw(self.tables.len() as u64) as usize, self.draw(keys).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            self.changed.insert(at);
            if self.draw(4) == 0 {
                self.rows.remove(&at);
                continue;
            }
            let table = self.tables[at.0].clone();
            let mut ordinals: Vec<u8> = (0..table.chunks() as u8).filter(|_| self.draw(2) == 0).collect();
            if ordinals.is_empty() {
                ordinals.push(self.draw(table.chunks() as u64) as u8);
            }
            let mut values = |count: usize| (0..count).map(|_| self.draw(1 << 20) as f32 / 70.0).collect::<Vec<f32>>();
            let live = ordinals.len();
            let row = Row {
                utilities: values(live),
                weights: values(live * table.chunk_dims()),
                state: values(live * table.chunk_state()),
                row_state: values(table.optimizer.row_state_words()),
                ordinals,
            };
            self.rows.insert(at, row);
        }
    }

    /// A source of all rows, or of those changed since `since`, in blocks of `block` rows.
    pub(crate) fn source(&self, since: Option<u64>, block: usize) -> ModelSource<'_> {
        let keys = match since {
            None => self.rows.keys().copied().collect(),
            Some(_) => self.changed.iter().copied().collect(),
        };
        ModelSource { model: self, since, keys, next: 0, block }
    }

    pub(super) fn sections(&self) -> Vec<Section> {
        vec![
            Section { name: "shared/0/weights".to_owned(), shape: vec![3, 16], data: Data::F32(vec![0.25; 48]) },
            Section { name: "clock".to_owned(), shape: vec![], data: Data::U64(vec![self.step]) },
            Section { name: "dense/top.0.weight".to_owned(), shape: vec![2, 3], data: Data::F32(vec![0.5; 6]) },
            Section { name: "random \"state\"\\".to_owned(), shape: vec![4], data: Data::U32(vec![1, 2, 3, 4]) },
            Section { name: "none".to_owned(), shape: vec![0], data: Data::F64(vec![]) },
            Section { name: "bytes".to_owned(), shape: vec![3], data: Data::U8(vec![1, 2, 3]) },
        ]
    }

    /// Saves all, or what changed since the last call.
    pub(crate) fn save(&mut self, to: &Directory, since: Option<u64>) -> Result<Saved, SnapshotError> {
        let saved = to.save(&mut self.source(since, 5))?;
        self.changed.clear();
        Ok(saved)
    }

    /// Whether a snapshot holds exactly this.
    pub(crate) fn is_in(&self, snapshot: &Snapshot) -> Result<bool, SnapshotError> {
        Ok(snapshot.manifest().step == self.step
            && rows_of(snapshot, snapshot.blocks())? == self.rows
            && snapshot.sections()? == self.sections())
    }
}

pub(crate) struct ModelSource<'m> {
    model: &'m Model,
    since: Option<u64>,
    keys: Vec<(usize, u64)>,
    next: usize,
    block: usize,
}

impl Source for ModelSource<'_> {
    fn manifest(&self) -> Manifest {
        Manifest {
            step: self.model.step,
            since: self.since,
            store: StoreConfig::new(1 << 20),
            tables: self.model.tables.clone(),
            extra: BTreeMap::from([("lr".to_owned(), "0.1".to_owned())]),
        }
    }

    fn next(&mut self, block: &mut RowBlock) -> Result<bool, SnapshotError> {
        block.clear();
        while let Some(&(table, key)) = self.keys.get(self.next) {
            if block.keys.len() == self.block || (!block.keys.is_empty() && block.table != table) {
                break;
            }
            block.table = table;
            self.next += 1;
            let row = self.model.rows.get(&(table, key));
            let gone = vec![0.0; self.model.tables[table].optimizer.row_state_words()];
            block.push(row.map_or(
                RowRef { key, ordinals: &[], utilities: &[], weights: &[], state: &[], row_state: &gone },
                |row| RowRef {
                    key,
                    ordinals: &row.ordinals,
                    utilities: &row.utilities,
                    weights: &row.weights,
                    state: &row.state,
                    row_state: &row.row_state,
                },
            ));
        }
        Ok(!block.keys.is_empty())
    }

    fn sections(&mut self) -> Result<Vec<Section>, SnapshotError> {
        Ok(self.model.sections())
    }
}

/// All rows of a stream; a row that comes twice is an error.
fn rows_of(snapshot: &Snapshot, mut blocks: Blocks<'_>) -> Result<BTreeMap<(usize, u64), Row>, SnapshotError> {
    let mut rows = BTreeMap::new();
    let mut block = RowBlock::default();
    while blocks.next(&mut block)? {
        for row in block.rows(&snapshot.manifest().tables[block.table]) {
            let found = Row {
                ordinals: row.ordinals.to_vec(),
                utilities: row.utilities.to_vec(),
                weights: row.weights.to_vec(),
                state: row.state.to_vec(),
                row_state: row.row_state.to_vec(),
            };
            assert!(rows.insert((block.table, row.key), found).is_none(), "row {} comes twice", row.key);
        }
    }
    Ok(rows)
}

pub(crate) fn disk() -> (SimFs, Directory) {
    let disk = SimFs::new();
    let directory = Directory::create_on(Arc::new(disk.clone()), root()).unwrap();
    (disk, directory)
}

pub(crate) fn open(disk: &SimFs) -> Result<Snapshot, SnapshotError> {
    Snapshot::open_on(Arc::new(disk.clone()), root())
}

#[test]
fn what_was_saved_is_read() {
    for (count, seed) in [(0, 1), (1, 2), (40, 3), (2000, 4)] {
        let (disk, directory) = disk();
        let mut model = Model::new(seed);
        model.work(count, 1500);
        let saved = model.save(&directory, None).unwrap();
        let snapshot = open(&disk).unwrap();
        assert!(model.is_in(&snapshot).unwrap(), "{count} rows");
        assert_eq!(saved.counts.iter().map(|counts| counts.rows).sum::<u64>(), model.rows.len() as u64);
        assert_eq!(snapshot.verify().unwrap(), saved.bytes);
        assert_eq!(snapshot.manifest(), &model.source(None, 1).manifest());
    }
}

#[test]
fn a_chain_of_increments_is_what_a_full_snapshot_is_and_compacts_to_one() {
    for seed in 0..20 {
        let (disk, directory) = disk();
        let mut model = Model::new(seed);
        model.work(60, 50);
        model.save(&directory, None).unwrap();
        for length in 1..5 {
            let since = model.step;
            model.work(25, 50);
            model.save(&directory, Some(since)).unwrap();
            let mut snapshot = open(&disk).unwrap();
            assert_eq!(snapshot.parts().len(), length + 1);
            assert!(model.is_in(&snapshot).unwrap(), "seed {seed}, {length} increments");
            snapshot.remember(7);
            assert!(model.is_in(&snapshot).unwrap(), "seed {seed}, {length} increments, in several passes");
        }
        directory.compact().unwrap().unwrap();
        let snapshot = open(&disk).unwrap();
        assert_eq!((snapshot.parts().len(), directory.list().unwrap().len()), (1, 1));
        assert!(model.is_in(&snapshot).unwrap());
        assert!(directory.compact().unwrap().is_none());
        // It can be the base of the next one.
        let since = model.step;
        model.work(25, 50);
        model.save(&directory, Some(since)).unwrap();
        assert!(model.is_in(&open(&disk).unwrap()).unwrap());
    }
}

#[test]
fn shards_and_tables_part_the_rows() {
    let (disk, directory) = disk();
    let mut model = Model::new(5);
    model.work(3000, 2000);
    model.save(&directory, None).unwrap();
    let since = model.step;
    model.work(1000, 2000);
    model.save(&directory, Some(since)).unwrap();
    let snapshot = open(&disk).unwrap();
    for shards in [1, 3, 8] {
        let mut all = BTreeMap::new();
        for shard in 0..shards {
            let rows = rows_of(&snapshot, snapshot.blocks_of_shard(shard, shards)).unwrap();
            assert!(rows.keys().all(|(_, key)| owner(*key, shards) == shard));
            assert!(rows.len() * 2 * shards as usize > model.rows.len(), "{} rows of one shard", rows.len());
            all.extend(rows);
        }
        assert_eq!(all, model.rows);
    }
    let mut all = BTreeMap::new();
    for table in 0..model.tables.len() {
        let rows = rows_of(&snapshot, snapshot.blocks_of_table(table)).unwrap();
        assert!(rows.keys().all(|(of, _)| *of == table));
        all.extend(rows);
    }
    assert_eq!(all, model.rows);
}

#[test]
fn owners_are_as_the_format_says() {
    // Computed by an independent implementation of XXH3-64; see docs/format.md.
    assert_eq!([0, 1, 42, u64::MAX].map(|key| owner(key, 1000)), OWNERS);
}

const OWNERS: [u32; 4] = [779, 186, 834, 316];

#[test]
fn a_large_file_gets_its_header_last() {
    let (disk, directory) = disk();
    let mut model = Model::new(6);
    model.tables.truncate(1);
    model.work(100_000, 1 << 40);
    directory.save(&mut model.source(None, 1000)).unwrap();
    let rows: Vec<PathBuf> =
        disk.files(root()).into_iter().filter(|path| path.to_string_lossy().contains("rows-")).collect();
    assert!(rows.len() > 1 && disk.bytes(&rows[0]).len() > 4 << 20, "{rows:?}");
    assert!(model.is_in(&open(&disk).unwrap()).unwrap());
    for path in &rows {
        safetensors::SafeTensors::deserialize(&disk.bytes(path)).unwrap();
    }
}

#[test]
fn an_increment_needs_its_base() {
    let (disk, directory) = disk();
    let mut model = Model::new(7);
    model.work(10, 20);
    assert!(matches!(model.save(&directory, Some(0)), Err(SnapshotError::Chain { .. })));
    let first = model.save(&directory, None).unwrap();
    assert!(matches!(model.save(&directory, Some(model.step)), Err(SnapshotError::Source { .. })));
    let since = model.step;
    model.work(10, 20);
    assert!(matches!(model.save(&directory, Some(since + 1000)), Err(SnapshotError::Chain { .. })));
    model.save(&directory, Some(since)).unwrap();
    // Another snapshot under the base's name.
    let manifest = first.path.join(MANIFEST);
    let (other_disk, other) = self::disk();
    let mut another = model.clone();
    (another.step, another.changed) = (since, BTreeSet::new());
    another.save(&other, None).unwrap();
    let bytes = other_disk.bytes(&manifest);
    disk.tamper(&manifest, |found| *found = bytes);
    assert!(matches!(open(&disk), Err(SnapshotError::Chain { .. })));
    // None at all.
    directory.remove_dir(&first.path).unwrap();
    let error = open(&disk).err().unwrap().to_string();
    assert!(error.contains("needs step-"), "{error}");
}

#[test]
fn old_snapshots_go_and_what_is_needed_stays() {
    let (disk, directory) = disk();
    let mut model = Model::new(8);
    for round in 0..6 {
        let since = (round % 3 != 0).then_some(model.step);
        model.work(10, 20);
        model.save(&directory, since).unwrap();
    }
    // full, +, +, full, +, +: the newest needs the three last.
    assert_eq!(directory.keep_newest(4).unwrap(), 0);
    assert_eq!(directory.keep_newest(1).unwrap(), 3);
    assert!(model.is_in(&open(&disk).unwrap()).unwrap());
    assert_eq!(directory.keep_newest(0).unwrap(), 0);
    assert_eq!(directory.list().unwrap().len(), 3);
}

#[test]
fn a_source_that_hands_out_nonsense_is_told_and_nothing_is_written() {
    struct Bad<'m>(ModelSource<'m>, fn(&mut RowBlock), fn(&mut Vec<Section>));
    impl Source for Bad<'_> {
        fn manifest(&self) -> Manifest {
            self.0.manifest()
        }
        fn next(&mut self, block: &mut RowBlock) -> Result<bool, SnapshotError> {
            let more = self.0.next(block)?;
            self.1(block);
            Ok(more)
        }
        fn sections(&mut self) -> Result<Vec<Section>, SnapshotError> {
            let mut sections = self.0.sections()?;
            self.2(&mut sections);
            Ok(sections)
        }
    }
    let (disk, directory) = disk();
    let mut model = Model::new(9);
    model.work(50, 100);
    let blocks: [fn(&mut RowBlock); 8] = [
        |block| block.table = 9,
        |block| block.chunks[0] = 0,
        |block| block.chunks[0] = 300,
        |block| block.weights.truncate(1),
        |block| block.ordinals[0] = 200,
        |block| block.utilities[0] = f32::NAN,
        |block| block.utilities[0] = -1.0,
        |block| block.row_state.push(0.0),
    ];
    for bad in blocks {
        let error = directory.save(&mut Bad(model.source(None, 5), bad, |_| ())).unwrap_err();
        assert!(matches!(error, SnapshotError::Source { .. }), "{error}");
    }
    let sections: [fn(&mut Vec<Section>); 3] = [
        |sections| sections[0].shape = vec![2],
        |sections| sections[0].shape = vec![usize::MAX, usize::MAX],
        |sections| sections[0].name = "none".to_owned(),
    ];
    for bad in sections {
        let error = directory.save(&mut Bad(model.source(None, 5), |_| (), bad)).unwrap_err();
        assert!(matches!(error, SnapshotError::Source { .. }), "{error}");
    }
    assert_eq!(disk.files(root()), Vec::<PathBuf>::new());
}

#[test]
fn the_directory_of_another_program_is_left_alone() {
    let disk = SimFs::new();
    let fs: Arc<dyn fs::Fs> = Arc::new(disk.clone());
    fs.create_dir(root()).unwrap();
    fs.create(&root().join("thesis.tex")).unwrap();
    let error = Directory::create_on(fs.clone(), root()).err().unwrap();
    assert!(matches!(&error, SnapshotError::NotOurs { entry, .. } if entry == "thesis.tex"), "{error}");
    let error = Snapshot::open_on(fs, root()).err().unwrap();
    assert!(matches!(error, SnapshotError::NotFound { .. }), "{error}");
    assert_eq!(disk.files(root()).len(), 1);
}

#[test]
fn a_full_disk_and_every_failing_operation_leave_the_old_snapshot() {
    let (disk, directory) = disk();
    let mut model = Model::new(10);
    model.work(40, 60);
    model.save(&directory, None).unwrap();
    let old = model.clone();
    model.work(40, 60);
    let (mut fault, mut failed) = (0, 0);
    loop {
        let disk = disk.copy();
        let directory = Directory::create_on(Arc::new(disk.clone()), root()).unwrap();
        let used = disk.files(root()).iter().map(|path| disk.bytes(path).len() as u64).sum::<u64>();
        let faults = match fault % 2 {
            0 => Faults { error_at: Some(fault / 2), ..Faults::default() },
            _ => Faults { capacity: Some(used + fault * 40), ..Faults::default() },
        };
        disk.set_faults(faults);
        let saved = model.clone().save(&directory, Some(old.step));
        disk.set_faults(Faults::default());
        let snapshot = open(&disk).unwrap();
        if saved.is_ok() {
            assert!(model.is_in(&snapshot).unwrap());
            if fault > 400 {
                break;
            }
        } else {
            failed += 1;
            // The new one is the latest only if nothing but its last sync failed.
            assert!(old.is_in(&snapshot).unwrap() || model.is_in(&snapshot).unwrap());
            model.clone().save(&directory, None).unwrap();
            assert!(model.is_in(&open(&disk).unwrap()).unwrap());
            assert!(disk.files(root()).iter().all(|path| !path.to_string_lossy().contains(".tmp")));
        }
        fault += 1;
    }
    assert!(failed > 40, "{failed}");
}
