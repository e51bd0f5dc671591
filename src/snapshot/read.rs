//! Reading a snapshot: itself and all that it is an increment of, each live row once.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::block::{Manifest, RowBlock, Section, Source};
use super::columns::table_prefix;
use super::error::At;
use super::fs::{Fs, RealFs};
use super::record::{Base, Counts, LATEST, MANIFEST, Record, SECTIONS, rows_name};
use super::tensors::{Sum, TensorFile};
use super::{SnapshotError, owner};
use crate::config::TableConfig;

/// Rows of increments that are remembered at once while a chain is read, at about 32 bytes each. Where increments change
/// more, the chain is read several times, a part of the keys each time.
const REMEMBERED: u64 = 2 << 20;

/// A snapshot on the disk, its manifests read and checked. Rows and sections are read and checked as they are asked for.
pub struct Snapshot {
    fs: Arc<dyn Fs>,
    /// From the full snapshot to the newest increment.
    parts: Vec<Part>,
    remembered: u64,
}

/// One snapshot of a chain.
pub struct Part {
    /// Its directory.
    pub path: PathBuf,
    pub(super) record: Record,
    sum: Sum,
}

impl Part {
    /// The step it is of.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.record.manifest.step
    }

    /// Bytes of its files of rows and of its sections.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        let sections = self.record.sections.bytes;
        (self.record.bytes().saturating_sub(sections), sections)
    }

    /// What it holds of each table.
    #[must_use]
    pub fn counts(&self) -> &[Counts] {
        &self.record.counts
    }
}

impl Snapshot {
    /// Opens a snapshot. `path` is its own directory, or one of snapshots with `LATEST` in it, or one that `train --out`
    /// wrote, with such a directory `checkpoint` in it.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::NotFound`], [`SnapshotError::Damaged`], [`SnapshotError::Version`], [`SnapshotError::Chain`] and
    /// [`SnapshotError::Io`]: what, where and what to do.
    pub fn open(path: &Path) -> Result<Snapshot, SnapshotError> {
        Snapshot::open_on(Arc::new(RealFs), path)
    }

    pub(super) fn open_on(fs: Arc<dyn Fs>, path: &Path) -> Result<Snapshot, SnapshotError> {
        let entries = fs.list(path).at("open", path)?;
        let has = |name: &str| entries.iter().any(|entry| entry == name);
        if has(MANIFEST) {
            return Snapshot::open_chain(fs, path.to_owned(), None);
        }
        if !has(LATEST) && has("checkpoint") {
            return Snapshot::open_on(fs, &path.join("checkpoint"));
        }
        match Base::latest(&*fs, path)? {
            Some(latest) => Snapshot::open_named(fs, path, &latest),
            None => {
                let what = "no snapshot is here: neither manifest.json nor LATEST nor checkpoint; name the directory that \
                            `train --out` or `--checkpoint-every` wrote";
                Err(SnapshotError::NotFound { path: path.to_owned(), what: what.to_owned() })
            }
        }
    }

    /// Opens the snapshot that `latest` names, in `dir`.
    pub(super) fn open_named(fs: Arc<dyn Fs>, dir: &Path, latest: &Base) -> Result<Snapshot, SnapshotError> {
        Snapshot::open_chain(fs, dir.join(&latest.name), Some(latest.manifest))
    }

    /// Reads the manifests from the snapshot at `path` down to the full one it begins with.
    fn open_chain(fs: Arc<dyn Fs>, path: PathBuf, mut expected: Option<Sum>) -> Result<Snapshot, SnapshotError> {
        let mut parts: Vec<Part> = Vec::new();
        let mut next = Some(path);
        while let Some(path) = next.take() {
            let (record, sum) = Record::read(&*fs, &path)?;
            if expected.is_some_and(|expected| expected != sum) && !cfg!(fuzzing) {
                let what = "it is not the snapshot that the one after it, or LATEST, was written for";
                return Err(SnapshotError::Chain { path, what: what.to_owned() });
            }
            if let Some(later) = parts.last() {
                later.check_base(&record)?;
            }
            if let Some(base) = &record.base {
                let dir = path.parent().unwrap_or(Path::new(""));
                let base_path = dir.join(&base.name);
                let entries = fs.list(if dir.as_os_str().is_empty() { Path::new(".") } else { dir });
                if entries.is_ok_and(|entries| !entries.contains(&base.name)) {
                    let what = format!("this increment needs {} beside it, which is not there", base.name);
                    return Err(SnapshotError::Chain { path, what });
                }
                next = Some(base_path);
                expected = Some(base.manifest);
            }
            parts.push(Part { path, record, sum });
        }
        parts.reverse();
        Ok(Snapshot { fs, parts, remembered: REMEMBERED })
    }

    /// What it is of. `since` is `None` if it is whole.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.newest().record.manifest
    }

    /// The full snapshot and the increments that changed it, in order; the last is what was opened.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The checksum of its manifest, which no other state has.
    #[must_use]
    pub fn checksum(&self) -> u64 {
        self.newest().sum.0
    }

    fn newest(&self) -> &Part {
        &self.parts[self.parts.len() - 1]
    }

    /// All live rows, each once, in blocks in no order.
    #[must_use]
    pub fn blocks(&self) -> Blocks<'_> {
        self.blocks_where(None, None)
    }

    /// The live rows that one of `shards` shards owns ([`owner`]).
    #[must_use]
    pub fn blocks_of_shard(&self, shard: u32, shards: u32) -> Blocks<'_> {
        self.blocks_where(None, Some(Box::new(move |key| owner(key, shards) == shard)))
    }

    /// The live rows of one table.
    #[must_use]
    pub fn blocks_of_table(&self, table: usize) -> Blocks<'_> {
        self.blocks_where(Some(table), None)
    }

    fn blocks_where(&self, table: Option<usize>, wanted: Option<Box<dyn Fn(u64) -> bool + Send>>) -> Blocks<'_> {
        let changed = self.parts[1..].iter().flat_map(|part| &part.record.counts);
        let changed =
            changed.fold(0u64, |sum, counts| sum.saturating_add(counts.rows.saturating_add(counts.tombstones)));
        let passes = u32::try_from(changed.div_ceil(self.remembered).max(1)).unwrap_or(u32::MAX);
        Blocks {
            snapshot: self,
            table,
            wanted,
            passes,
            pass: 0,
            newest: HashMap::new(),
            rows: RowFiles::new(&*self.fs, &self.parts[0], table),
            part: 0,
            begun: false,
            read: RowBlock::default(),
        }
    }

    /// The arrays beside the rows, as of the newest increment.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Io`] and [`SnapshotError::Damaged`].
    pub fn sections(&self) -> Result<Vec<Section>, SnapshotError> {
        self.newest().sections(&*self.fs)
    }

    /// Reads everything and checks every sum, every size, and that counts are as the manifests say. Returns the bytes read.
    ///
    /// # Errors
    ///
    /// The first damage found.
    pub fn verify(&self) -> Result<u64, SnapshotError> {
        let mut bytes = 0u64;
        let mut block = RowBlock::default();
        for part in &self.parts {
            let mut counts = vec![Counts::default(); part.record.counts.len()];
            let mut rows = RowFiles::new(&*self.fs, part, None);
            while rows.next(&mut block)? {
                let counts = &mut counts[block.table];
                let tombstones = block.chunks.iter().filter(|&&chunks| chunks == 0).count() as u64;
                counts.tombstones += tombstones;
                counts.rows += block.keys.len() as u64 - tombstones;
                counts.chunks += block.ordinals.len() as u64;
            }
            if counts != part.record.counts {
                return Err(SnapshotError::damaged(&part.path, "its rows are not as many as its manifest says"));
            }
            part.sections(&*self.fs)?;
            bytes = bytes.saturating_add(part.record.bytes());
        }
        Ok(bytes)
    }

    /// A smaller limit for tests.
    #[cfg(test)]
    pub(super) fn remember(&mut self, rows: u64) {
        self.remembered = rows;
    }
}

impl Part {
    fn sections(&self, fs: &dyn Fs) -> Result<Vec<Section>, SnapshotError> {
        let file = TensorFile::open(fs, &self.path.join(SECTIONS), &self.record.sections)?;
        let mut bytes = Vec::new();
        (0..file.groups()).map(|number| Section::read(&file.group(number, &mut bytes)?)).collect()
    }

    /// Whether an increment fits the snapshot below it.
    fn check_base(&self, base: &Record) -> Result<(), SnapshotError> {
        let (ours, theirs) = (&self.record.manifest, &base.manifest);
        let what = if ours.tables != theirs.tables {
            "its tables are not those of the snapshot that it changes".to_owned()
        } else if ours.since != Some(theirs.step) {
            format!("it changes step {:?} and its base is of step {}", ours.since, theirs.step)
        } else {
            return Ok(());
        };
        Err(SnapshotError::Chain { path: self.path.clone(), what })
    }
}

/// The files of rows of one part, block by block.
struct RowFiles<'s> {
    fs: &'s dyn Fs,
    part: &'s Part,
    /// The file that is read, and its next group.
    open: Option<(TensorFile, usize)>,
    next_file: usize,
    bytes: Vec<u8>,
    /// What the names of the groups that are read begin with.
    prefix: String,
}

impl<'s> RowFiles<'s> {
    fn new(fs: &'s dyn Fs, part: &'s Part, table: Option<usize>) -> Self {
        let prefix = table.map_or(String::new(), table_prefix);
        RowFiles { fs, part, open: None, next_file: 0, bytes: Vec::new(), prefix }
    }

    /// Puts the next block in place of what is in `block`.
    fn next(&mut self, block: &mut RowBlock) -> Result<bool, SnapshotError> {
        loop {
            if let Some((file, group)) = &mut self.open
                && *group < file.groups()
            {
                if !file.name(*group).starts_with(&self.prefix) {
                    *group += 1;
                    continue;
                }
                let view = file.group(*group, &mut self.bytes)?;
                *group += 1;
                let record = &self.part.record;
                block.read(&view, record.tables(), record.is_increment())?;
                return Ok(true);
            }
            let Some(record) = self.part.record.rows.get(self.next_file) else {
                return Ok(false);
            };
            let path = |file| self.part.path.join(rows_name(file));
            // The disk reads ahead, the next file too, while this one is looked at.
            if self.next_file == 0 {
                self.fs.will_read(&path(0));
            }
            if self.next_file + 1 < self.part.record.rows.len() {
                self.fs.will_read(&path(self.next_file + 1));
            }
            self.open = Some((TensorFile::open(self.fs, &path(self.next_file), record)?, 0));
            self.next_file += 1;
        }
    }
}

/// A stream of a snapshot's rows. Memory is that of a block, and of the changed keys of a chain up to a limit.
pub struct Blocks<'s> {
    snapshot: &'s Snapshot,
    /// The only table whose rows are asked for.
    table: Option<usize>,
    /// Which of its keys; all if there is none.
    wanted: Option<Box<dyn Fn(u64) -> bool + Send>>,
    /// The keys are gone through in so many parts.
    passes: u32,
    pass: u32,
    /// Of this pass's keys in increments: the newest that has the row.
    newest: HashMap<(u32, u64), u32>,
    rows: RowFiles<'s>,
    part: usize,
    begun: bool,
    read: RowBlock,
}

impl Blocks<'_> {
    /// The next rows, put in place of what `block` holds; `false` after the last ones. Blocks are never empty.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Io`] and [`SnapshotError::Damaged`].
    pub fn next(&mut self, block: &mut RowBlock) -> Result<bool, SnapshotError> {
        while self.pass < self.passes {
            if !std::mem::replace(&mut self.begun, true) {
                self.begin_pass()?;
            }
            while self.rows.next(&mut self.read)? {
                if self.all_wanted() {
                    std::mem::swap(block, &mut self.read);
                    return Ok(true);
                }
                self.filter(block);
                if !block.keys.is_empty() {
                    return Ok(true);
                }
            }
            self.part += 1;
            if self.part == self.snapshot.parts.len() {
                (self.part, self.begun) = (0, false);
                self.pass += 1;
            }
            self.rows = RowFiles::new(&*self.snapshot.fs, &self.snapshot.parts[self.part], self.table);
        }
        Ok(false)
    }

    /// The tables of the snapshot, of whose shape each block is.
    pub(crate) fn tables(&self) -> &[TableConfig] {
        &self.snapshot.manifest().tables
    }

    /// Notes which increment has the newest word on each of the pass's keys.
    fn begin_pass(&mut self) -> Result<(), SnapshotError> {
        let mut newest = std::mem::take(&mut self.newest);
        newest.clear();
        let snapshot = self.snapshot;
        for (number, part) in snapshot.parts.iter().enumerate().skip(1) {
            let mut rows = RowFiles::new(&*snapshot.fs, part, self.table);
            while rows.next(&mut self.read)? {
                let table = self.read.table;
                let wanted = self.read.keys.iter().filter(|&&key| self.in_pass(key) && self.is_wanted(key));
                let keys = wanted.map(|&key| ((table as u32, key), number as u32));
                newest.extend(keys);
            }
        }
        self.newest = newest;
        Ok(())
    }

    fn in_pass(&self, key: u64) -> bool {
        self.passes == 1 || owner(key, self.passes) == self.pass
    }

    /// Whether a row of the part that is read is the one that counts.
    fn counts(&self, key: u64, chunks: u16) -> bool {
        let table = self.read.table;
        let newest = self.newest.get(&(table as u32, key)).map_or(0, |&part| part as usize);
        chunks > 0 && newest == self.part && self.in_pass(key) && self.is_wanted(key)
    }

    fn is_wanted(&self, key: u64) -> bool {
        self.wanted.as_ref().is_none_or(|wanted| wanted(key))
    }

    fn all_wanted(&self) -> bool {
        // A full snapshot has no rows that are gone, and each row once.
        let all = self.wanted.is_none() && self.snapshot.parts.len() == 1;
        !self.read.keys.is_empty() && (all || self.all_count())
    }

    fn all_count(&self) -> bool {
        self.read.keys.iter().zip(&self.read.chunks).all(|(&key, &chunks)| self.counts(key, chunks))
    }

    fn filter(&self, block: &mut RowBlock) {
        block.clear();
        block.table = self.read.table;
        let table: &TableConfig = &self.snapshot.manifest().tables[block.table];
        let rows = self.read.rows(table).filter(|row| self.counts(row.key, row.ordinals.len() as u16));
        rows.for_each(|row| block.push(row));
    }
}

/// A chain of snapshots as one full snapshot.
pub struct Folded<'s> {
    snapshot: &'s Snapshot,
    blocks: Blocks<'s>,
}

impl<'s> Folded<'s> {
    /// A source of what `snapshot` holds.
    #[must_use]
    pub fn new(snapshot: &'s Snapshot) -> Self {
        Folded { snapshot, blocks: snapshot.blocks() }
    }
}

impl Source for Folded<'_> {
    fn manifest(&self) -> Manifest {
        Manifest { since: None, ..self.snapshot.manifest().clone() }
    }

    fn next(&mut self, block: &mut RowBlock) -> Result<bool, SnapshotError> {
        self.blocks.next(block)
    }

    fn sections(&mut self) -> Result<Vec<Section>, SnapshotError> {
        self.snapshot.sections()
    }
}
