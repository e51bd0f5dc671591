//! Writing a snapshot into a directory of its own, which appears whole or not at all.

use std::collections::{HashSet, VecDeque};
use std::path::{Path, PathBuf};

use super::SnapshotError;
use super::block::{Manifest, RowBlock, Source};
use super::dir::Directory;
use super::error::At;
use super::fs::Fs;
use super::record::{
    Base, Counts, FORMAT, MANIFEST, Record, SECTIONS, TEMPORARY, parse_name, rows_name, snapshot_name,
};
use super::tensors::{FileRecord, Sum, TensorWriter, Unsynced};
use crate::sync::Mutex;

/// Blocks in a file of rows, and the bytes left for its header: 1 KiB for each, which is more than seven tensors need.
const BLOCKS_MOST: usize = 64;
const HEADER_BYTES: usize = BLOCKS_MOST << 10;
/// Blocks that are written before it is worth a second thread.
const BLOCKS_FIRST: usize = 2;
/// Files that are kept open to be made durable at the end: 4 GiB, and far fewer than a process may open.
const UNSYNCED_MOST: usize = 64;

/// A snapshot that is on the disk for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// Its directory.
    pub path: PathBuf,
    /// The step it is of.
    pub step: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// What it holds of each table.
    pub counts: Vec<Counts>,
}

impl Directory {
    /// Writes a snapshot, makes it durable and then the latest. When this returns, a power cut cannot take it away; until
    /// then, the snapshot that was the latest stays that. What an interrupted call has left is removed by the next one.
    ///
    /// An increment (a source whose manifest has `since`) is of the latest snapshot, whose step must be that.
    ///
    /// One process at a time may write to a directory; any number may read.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Io`], [`SnapshotError::Chain`] for an increment of another snapshot than the latest,
    /// [`SnapshotError::Source`] and whatever the source itself reports. The earlier snapshots are as they were.
    pub fn save(&self, source: &mut dyn Source) -> Result<Saved, SnapshotError> {
        let manifest = source.manifest();
        self.clear_temporary()?;
        let base = manifest.since.map(|since| self.base(since)).transpose()?;
        let name = self.free_name(manifest.step)?;
        let temporary = self.path().join(format!("{TEMPORARY}{name}"));
        let (fs, path) = (self.fs(), self.path().join(&name));
        fs.create_dir(&temporary).at("create", &temporary)?;
        let written = Writer::new(fs, &temporary, manifest, base).and_then(|writer| writer.write(source));
        let (record, sum) = match written {
            Ok(written) => written,
            Err(error) => {
                // The error is what matters; what cannot be removed now the next save removes.
                let _ = self.remove_dir(&temporary);
                return Err(error);
            }
        };
        fs.sync_dir(&temporary).at("sync", &temporary)?;
        fs.rename(&temporary, &path).at("rename", &temporary)?;
        fs.sync_dir(self.path()).at("sync", self.path())?;
        self.set_latest(&Base { name, manifest: sum })?;
        Ok(Saved { path, step: record.manifest.step, bytes: record.bytes(), counts: record.counts })
    }

    /// The latest snapshot as the base of an increment since a step.
    fn base(&self, since: u64) -> Result<Base, SnapshotError> {
        let wrong = |what: String| SnapshotError::Chain { path: self.path().to_owned(), what };
        let base = self.latest()?;
        let base = base.ok_or_else(|| wrong(format!("an increment since step {since} needs a snapshot to change")))?;
        let (step, _) = parse_name(&base.name).unwrap_or_default();
        if step != since {
            let latest = &base.name;
            return Err(wrong(format!("the latest snapshot is {latest}, not one of step {since}; save a full one")));
        }
        Ok(base)
    }

    /// The first name of a step's snapshot that is not taken.
    fn free_name(&self, step: u64) -> Result<String, SnapshotError> {
        let taken: HashSet<String> = self.fs().list(self.path()).at("read", self.path())?.into_iter().collect();
        let name = (0..u32::MAX).map(|copy| snapshot_name(step, copy)).find(|name| !taken.contains(name));
        name.ok_or_else(|| SnapshotError::source(format!("step {step} has too many snapshots")))
    }

    /// Replaces `LATEST` in one step.
    fn set_latest(&self, latest: &Base) -> Result<(), SnapshotError> {
        let fs = self.fs();
        let (path, temporary) = self.latest_paths();
        write_file(fs, &temporary, latest.to_line().as_bytes())?;
        fs.rename(&temporary, &path).at("replace", &path)?;
        fs.sync_dir(self.path()).at("sync", self.path())
    }
}

/// Writes a small file and makes its content durable.
fn write_file(fs: &dyn Fs, path: &Path, bytes: &[u8]) -> Result<(), SnapshotError> {
    let mut file = fs.create(path).at("create", path)?;
    file.write_at(bytes, 0).at("write", path)?;
    file.sync().at("sync", path)
}

/// The files of one snapshot.
struct Writer<'f> {
    fs: &'f dyn Fs,
    dir: &'f Path,
    record: Record,
    /// The file of rows that is being written.
    rows: Option<TensorWriter<'f>>,
    /// Memory for the next one.
    buffer: Vec<u8>,
    /// Those that were written. To wait for the disk while there are rows to read would be to let training wait.
    unsynced: VecDeque<Unsynced>,
}

impl<'f> Writer<'f> {
    fn new(fs: &'f dyn Fs, dir: &'f Path, manifest: Manifest, base: Option<Base>) -> Result<Self, SnapshotError> {
        let Manifest { step, since, store, tables, .. } = &manifest;
        store.check(tables).map_err(|error| SnapshotError::source(error.to_string()))?;
        if since.is_some_and(|since| since >= *step) {
            return Err(SnapshotError::source(format!("step {step} does not come after step {since:?}")));
        }
        let counts = vec![Counts::default(); tables.len()];
        let sections = FileRecord { bytes: 0, header: Sum(0) };
        let record = Record { format: FORMAT, base, manifest, counts, rows: Vec::new(), sections };
        Ok(Writer { fs, dir, record, rows: None, buffer: Vec::new(), unsynced: VecDeque::new() })
    }

    /// Writes everything but the directory's own entries, and returns the record and its checksum.
    fn write(mut self, source: &mut dyn Source) -> Result<(Record, Sum), SnapshotError> {
        self.blocks(source)?;
        self.end_file()?;
        let sections = source.sections()?;
        let mut names = HashSet::new();
        if let Some(twice) = sections.iter().find(|section| !names.insert(&section.name)) {
            return Err(SnapshotError::source(format!("two sections are called `{}`", twice.name)));
        }
        let header = 256 + sections.iter().map(super::Section::header_bytes).sum::<usize>();
        let mut file = TensorWriter::new(self.fs, self.dir.join(SECTIONS), header, std::mem::take(&mut self.buffer));
        sections.iter().try_for_each(|section| section.write(&mut file))?;
        let (sections, _, unsynced) = file.finish()?;
        self.record.sections = sections;
        self.unsynced.push_back(unsynced);
        self.unsynced.drain(..).try_for_each(Unsynced::sync)?;
        let (bytes, sum) = self.record.to_bytes()?;
        write_file(self.fs, &self.dir.join(MANIFEST), &bytes)?;
        Ok((self.record, sum))
    }

    /// Writes all blocks, on two threads if there are several blocks, a second processor, and nobody who needs it.
    fn blocks(&mut self, source: &mut dyn Source) -> Result<(), SnapshotError> {
        let mut block = RowBlock::default();
        for _ in 0..BLOCKS_FIRST {
            if !source.next(&mut block)? {
                return Ok(());
            }
            self.block(&block)?;
        }
        // Neither models nor fuzzers know these threads.
        let alone = cfg!(any(shuttle, fuzzing)) || std::thread::available_parallelism().map_or(1, usize::from) == 1;
        let (reading, writing) = (Mutex::new(Reading { source, is_over: false }), Mutex::new((self, false)));
        std::thread::scope(|scope| {
            let help = || write_abreast(&reading, &writing, &mut RowBlock::default(), true);
            let spawn = || std::thread::Builder::new().name("dimslab-saver".to_owned()).spawn_scoped(scope, help);
            // Where no thread can be had, this one does it all.
            let helper = (!alone).then(spawn).and_then(Result::ok);
            let written = write_abreast(&reading, &writing, &mut block, false);
            let ended = || Err(SnapshotError::Other("a thread that wrote rows ended early".to_owned()));
            written.and(helper.map_or(Ok(()), |helper| helper.join().unwrap_or_else(|_| ended())))
        })
    }

    fn block(&mut self, block: &RowBlock) -> Result<(), SnapshotError> {
        if block.keys.is_empty() {
            return Ok(());
        }
        block.check(self.record.tables(), self.record.is_increment()).map_err(SnapshotError::source)?;
        let counts = &mut self.record.counts[block.table];
        let tombstones = block.chunks.iter().filter(|&&chunks| chunks == 0).count() as u64;
        counts.tombstones += tombstones;
        counts.rows += block.keys.len() as u64 - tombstones;
        counts.chunks += block.ordinals.len() as u64;

        let file = match &mut self.rows {
            Some(file) => file,
            none => {
                let path = self.dir.join(rows_name(self.record.rows.len()));
                none.insert(TensorWriter::new(self.fs, path, HEADER_BYTES, std::mem::take(&mut self.buffer)))
            }
        };
        block.write(file, &self.record.manifest.tables)?;
        if file.groups() == BLOCKS_MOST {
            self.end_file()?;
        }
        Ok(())
    }

    fn end_file(&mut self) -> Result<(), SnapshotError> {
        if let Some(file) = self.rows.take() {
            let (record, buffer, unsynced) = file.finish()?;
            self.record.rows.push(record);
            self.buffer = buffer;
            self.unsynced.push_back(unsynced);
            if self.unsynced.len() > UNSYNCED_MOST
                && let Some(oldest) = self.unsynced.pop_front()
            {
                oldest.sync()?;
            }
        }
        Ok(())
    }
}

/// What hands out blocks.
struct Reading<'s> {
    source: &'s mut dyn Source,
    /// There are no more, or none are wanted any more.
    is_over: bool,
}

/// Reads and writes blocks, while another thread may do the same: one reads, then, the other writes. `helps` of the thread that
/// leaves the rest to the other one when the source is not to be hurried. Beside the writer: whether it has failed.
fn write_abreast(
    reading: &Mutex<Reading<'_>>,
    writing: &Mutex<(&mut Writer<'_>, bool)>,
    block: &mut RowBlock,
    helps: bool,
) -> Result<(), SnapshotError> {
    loop {
        let mut read = reading.lock();
        if read.is_over || helps && !read.source.may_hurry() {
            return Ok(());
        }
        // For the other one too, if this fails.
        read.is_over = true;
        if !read.source.next(block)? {
            return Ok(());
        }
        // Before the source is left to the other one: blocks are written in the order in which they are read.
        let mut writer = writing.lock();
        let (writer, failed) = &mut *writer;
        if *failed {
            return Ok(());
        }
        read.is_over = false;
        drop(read);
        *failed = true;
        writer.block(block)?;
        *failed = false;
    }
}
