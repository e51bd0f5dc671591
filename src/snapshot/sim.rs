//! A disk that loses power, for tests.
//!
//! A page cache over a platter. Of a file that was written since its last sync, a cut keeps any subset of the 512-byte
//! blocks written since, any length between the old one and the new one, and junk where a block is within the length
//! but was lost. Of a directory it keeps any subset of the changes since its last sync: less than journalling file systems
//! promise, which keep them in order.
//! The disk dies at a chosen step, and can be told to fail single operations or to run out of space.
#![cfg_attr(fuzzing, expect(dead_code, reason = "the fuzz targets need a disk in memory and not its cuts"))]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::fs::{Fs, FsFile};

const BLOCK: usize = 512;

/// A disk; clones are the same disk.
#[derive(Clone, Default)]
pub(crate) struct SimFs(Arc<Mutex<Disk>>);

/// What goes wrong, and when. Steps are counted from 0 since the disk was made or last cut.
#[derive(Clone, Copy, Default)]
pub(crate) struct Faults {
    /// From this step on nothing works.
    pub(crate) dies_at: Option<u64>,
    /// This one step fails with an I/O error.
    pub(crate) error_at: Option<u64>,
    /// Bytes that fit on the disk.
    pub(crate) capacity: Option<u64>,
}

#[derive(Default)]
struct Disk {
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    steps: u64,
    faults: Faults,
}

#[derive(Clone)]
enum Inode {
    File { cached: Vec<u8>, durable: Vec<u8>, dirty: BTreeSet<usize> },
    Dir { cached: BTreeMap<String, u64>, durable: BTreeMap<String, u64>, journal: Vec<Change> },
}

/// A change of a directory: each is whole or absent after a cut.
#[derive(Clone)]
enum Change {
    Link(String, u64),
    Unlink(String),
    Rename(String, String),
}

impl Change {
    fn apply(&self, entries: &mut BTreeMap<String, u64>) {
        match self {
            Change::Link(name, inode) => {
                entries.insert(name.clone(), *inode);
            }
            Change::Unlink(name) => {
                entries.remove(name);
            }
            Change::Rename(from, to) => {
                if let Some(inode) = entries.remove(from) {
                    entries.insert(to.clone(), inode);
                }
            }
        }
    }
}

/// What of the unsynced changes a cut keeps.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Keep {
    Nothing,
    Everything,
    /// A subset drawn from this seed.
    Some(u64),
}

impl Keep {
    /// A number below `n` for the thing named by `a` and `b`; the last stands for all of it.
    fn draw(self, a: u64, b: u64, n: u64) -> u64 {
        match self {
            Keep::Nothing => 0,
            Keep::Everything => n - 1,
            Keep::Some(seed) => xxh3_64_with_seed(&[a.to_le_bytes(), b.to_le_bytes()].concat(), seed) % n,
        }
    }
}

fn fail<T>(kind: io::ErrorKind) -> io::Result<T> {
    Err(io::Error::from(kind))
}

impl SimFs {
    /// An empty disk, of one directory `/`.
    pub(crate) fn new() -> SimFs {
        let disk = SimFs::default();
        let root = Inode::Dir { cached: BTreeMap::new(), durable: BTreeMap::new(), journal: Vec::new() };
        disk.0.lock().inodes.insert(0, root);
        disk.0.lock().next_inode = 1;
        disk
    }

    /// Steps made so far.
    pub(crate) fn steps(&self) -> u64 {
        self.0.lock().steps
    }

    /// Sets what goes wrong from now on and counts steps anew.
    pub(crate) fn set_faults(&self, faults: Faults) {
        let mut disk = self.0.lock();
        (disk.faults, disk.steps) = (faults, 0);
    }

    /// An independent disk with what this one holds in cache and on platter.
    pub(crate) fn copy(&self) -> SimFs {
        let disk = self.0.lock();
        let (inodes, next_inode) = (disk.inodes.clone(), disk.next_inode);
        SimFs(Arc::new(Mutex::new(Disk { inodes, next_inode, steps: 0, faults: Faults::default() })))
    }

    /// The disk as it is found after the power came back.
    pub(crate) fn cut(&self, keep: Keep) -> SimFs {
        let after = self.copy();
        for (&number, inode) in &mut after.0.lock().inodes {
            match inode {
                Inode::File { cached, durable, dirty } => {
                    *durable = survivor(cached, durable, dirty, number, keep);
                    cached.clone_from(durable);
                    dirty.clear();
                }
                Inode::Dir { cached, durable, journal } => {
                    let kept = |position: &usize| keep.draw(number, *position as u64, 2) == 1;
                    let changes = journal.drain(..).enumerate().filter(|(position, _)| kept(position));
                    changes.for_each(|(_, change)| change.apply(durable));
                    cached.clone_from(durable);
                }
            }
        }
        after
    }

    /// Changes one file's bytes on cache and platter.
    pub(crate) fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let disk = &mut *self.0.lock();
        let inode = disk.find(path).unwrap();
        let Some(Inode::File { cached, durable, dirty }) = disk.inodes.get_mut(&inode) else {
            panic!("{} is no file", path.display());
        };
        change(cached);
        durable.clone_from(cached);
        dirty.clear();
    }

    /// A file's bytes.
    pub(crate) fn bytes(&self, path: &Path) -> Vec<u8> {
        let mut found = Vec::new();
        self.tamper(path, |bytes| found.clone_from(bytes));
        found
    }

    /// All files below a directory.
    pub(crate) fn files(&self, below: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for name in self.list(below).unwrap() {
            let path = below.join(name);
            if self.list(&path).is_ok() {
                found.extend(self.files(&path));
            } else {
                found.push(path);
            }
        }
        found.sort();
        found
    }
}

/// What a file holds after a cut.
fn survivor(cached: &[u8], durable: &[u8], dirty: &BTreeSet<usize>, number: u64, keep: Keep) -> Vec<u8> {
    let (short, long) = (cached.len().min(durable.len()), cached.len().max(durable.len()));
    let drawn = short + keep.draw(number, u64::MAX, (long - short) as u64 + 1) as usize;
    let len = match keep {
        Keep::Nothing => durable.len(),
        Keep::Everything => cached.len(),
        Keep::Some(_) => drawn,
    };
    let mut after = vec![0xA5; len];
    for (block, bytes) in after.chunks_mut(BLOCK).enumerate() {
        let kept = !dirty.contains(&block) || keep.draw(number, block as u64, 2) == 1;
        let from = if kept { cached } else { durable };
        let from = from.get(block * BLOCK..).unwrap_or_default();
        let n = from.len().min(bytes.len());
        bytes[..n].copy_from_slice(&from[..n]);
    }
    after
}

impl Disk {
    /// Counts a step, and fails where a fault asks for it.
    fn step(&mut self) -> io::Result<()> {
        let at = self.steps;
        self.steps += 1;
        if self.faults.dies_at.is_some_and(|dies| at >= dies) {
            return Err(io::Error::other("the power is gone"));
        }
        if self.faults.error_at == Some(at) {
            return Err(io::Error::other("input/output error"));
        }
        Ok(())
    }

    fn find(&self, path: &Path) -> io::Result<u64> {
        let mut at = 0;
        for part in path.components().skip(1) {
            let Some(Inode::Dir { cached, .. }) = self.inodes.get(&at) else {
                return fail(io::ErrorKind::NotADirectory);
            };
            at = match cached.get(part.as_os_str().to_str().unwrap()) {
                Some(&inode) => inode,
                None => return fail(io::ErrorKind::NotFound),
            };
        }
        Ok(at)
    }

    /// The directory that holds `path`, its number, and the last name.
    fn parent(&mut self, path: &Path) -> io::Result<(&mut BTreeMap<String, u64>, &mut Vec<Change>, String)> {
        let inode = self.find(path.parent().unwrap())?;
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        match self.inodes.get_mut(&inode) {
            Some(Inode::Dir { cached, journal, .. }) => Ok((cached, journal, name)),
            _ => fail(io::ErrorKind::NotADirectory),
        }
    }

    fn change(&mut self, path: &Path, change: Change) -> io::Result<()> {
        let (cached, journal, _) = self.parent(path)?;
        change.apply(cached);
        journal.push(change);
        Ok(())
    }

    fn make(&mut self, path: &Path, inode: Inode) -> io::Result<u64> {
        let number = self.next_inode;
        let (cached, _, name) = self.parent(path)?;
        if cached.contains_key(&name) {
            return fail(io::ErrorKind::AlreadyExists);
        }
        self.change(path, Change::Link(name, number))?;
        self.inodes.insert(number, inode);
        self.next_inode += 1;
        Ok(number)
    }

    fn used(&self) -> u64 {
        self.inodes
            .values()
            .map(|inode| if let Inode::File { cached, .. } = inode { cached.len() as u64 } else { 0 })
            .sum()
    }
}

impl Fs for SimFs {
    fn create(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        let disk = &mut *self.0.lock();
        disk.step()?;
        let inode = disk.make(path, Inode::File { cached: vec![], durable: vec![], dirty: BTreeSet::new() })?;
        Ok(Box::new(SimFile { disk: self.clone(), inode }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        let disk = &mut *self.0.lock();
        disk.step()?;
        let inode = disk.find(path)?;
        match disk.inodes[&inode] {
            Inode::File { .. } => Ok(Box::new(SimFile { disk: self.clone(), inode })),
            Inode::Dir { .. } => fail(io::ErrorKind::IsADirectory),
        }
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let disk = &mut *self.0.lock();
        disk.step()?;
        disk.make(path, Inode::Dir { cached: BTreeMap::new(), durable: BTreeMap::new(), journal: Vec::new() })?;
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let disk = &mut *self.0.lock();
        disk.step()?;
        let inode = disk.find(path)?;
        match &disk.inodes[&inode] {
            Inode::Dir { cached, .. } => Ok(cached.keys().cloned().collect()),
            Inode::File { .. } => fail(io::ErrorKind::NotADirectory),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let disk = &mut *self.0.lock();
        disk.step()?;
        assert_eq!(from.parent(), to.parent(), "a rename across directories is not modelled");
        let inode = disk.find(from)?;
        if let Ok(target) = disk.find(to)
            && (matches!(disk.inodes[&target], Inode::Dir { .. }) || matches!(disk.inodes[&inode], Inode::Dir { .. }))
        {
            return fail(io::ErrorKind::AlreadyExists);
        }
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        disk.change(from, Change::Rename(name(from), name(to)))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let disk = &mut *self.0.lock();
        disk.step()?;
        let inode = disk.find(path)?;
        if matches!(disk.inodes[&inode], Inode::Dir { .. }) {
            return fail(io::ErrorKind::IsADirectory);
        }
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        disk.change(path, Change::Unlink(name))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let disk = &mut *self.0.lock();
        disk.step()?;
        let inode = disk.find(path)?;
        match &disk.inodes[&inode] {
            Inode::Dir { cached, .. } if cached.is_empty() => {}
            Inode::Dir { .. } => return fail(io::ErrorKind::DirectoryNotEmpty),
            Inode::File { .. } => return fail(io::ErrorKind::NotADirectory),
        }
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        disk.change(path, Change::Unlink(name))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let disk = &mut *self.0.lock();
        disk.step()?;
        let inode = disk.find(path)?;
        match disk.inodes.get_mut(&inode) {
            Some(Inode::Dir { cached, durable, journal }) => {
                durable.clone_from(cached);
                journal.clear();
                Ok(())
            }
            _ => fail(io::ErrorKind::NotADirectory),
        }
    }
}

struct SimFile {
    disk: SimFs,
    inode: u64,
}

impl FsFile for SimFile {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let disk = &mut *self.disk.0.lock();
        disk.step()?;
        let room = disk.faults.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(disk.used()));
        let Some(Inode::File { cached, dirty, .. }) = disk.inodes.get_mut(&self.inode) else {
            return fail(io::ErrorKind::NotFound);
        };
        let (start, mut end) = (offset as usize, offset as usize + bytes.len());
        let full = end.saturating_sub(cached.len()) as u64 > room;
        if full {
            // As much as fits is written, as a real file system does.
            end = (cached.len() + room as usize).max(start);
        }
        if end > cached.len() {
            cached.resize(end, 0);
        }
        cached[start..end].copy_from_slice(&bytes[..end - start]);
        dirty.extend(start / BLOCK..end.div_ceil(BLOCK));
        if full { fail(io::ErrorKind::StorageFull) } else { Ok(()) }
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let disk = &mut *self.disk.0.lock();
        disk.step()?;
        let Some(Inode::File { cached, .. }) = disk.inodes.get(&self.inode) else {
            return fail(io::ErrorKind::NotFound);
        };
        let end = usize::try_from(offset).ok().and_then(|start| start.checked_add(bytes.len()));
        match end.and_then(|end| cached.get(offset as usize..end)) {
            Some(found) => bytes.copy_from_slice(found),
            None => return fail(io::ErrorKind::UnexpectedEof),
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let disk = &mut *self.disk.0.lock();
        disk.step()?;
        match &disk.inodes[&self.inode] {
            Inode::File { cached, .. } => Ok(cached.len() as u64),
            Inode::Dir { .. } => fail(io::ErrorKind::IsADirectory),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        let disk = &mut *self.disk.0.lock();
        disk.step()?;
        let Some(Inode::File { cached, durable, dirty }) = disk.inodes.get_mut(&self.inode) else {
            return fail(io::ErrorKind::NotFound);
        };
        durable.clone_from(cached);
        dirty.clear();
        Ok(())
    }
}
