//! A directory of snapshots: which there are, which is the latest, which are not needed any more.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::SnapshotError;
use super::error::At;
use super::fs::{Fs, RealFs};
use super::read::{Folded, Snapshot};
use super::record::{Base, LATEST, MANIFEST, Record, TEMPORARY, parse_name};
use super::save::Saved;

/// A directory of snapshots, `step-*`, with `LATEST` beside them.
///
/// ```no_run
/// # fn save(source: &mut dyn dimslab::snapshot::Source) -> Result<(), dimslab::snapshot::SnapshotError> {
/// let snapshots = dimslab::snapshot::Directory::create("run/checkpoint".as_ref())?;
/// let saved = snapshots.save(source)?;
/// println!("{} bytes in {}", saved.bytes, saved.path.display());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Directory {
    fs: Arc<dyn Fs>,
    path: PathBuf,
}

impl Directory {
    /// The directory at `path`, made if it is not there; its parent must be.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Io`]; [`SnapshotError::NotOurs`] if it holds anything that is not a snapshot's.
    pub fn create(path: &Path) -> Result<Directory, SnapshotError> {
        Directory::create_on(Arc::new(RealFs), path)
    }

    pub(super) fn create_on(fs: Arc<dyn Fs>, path: &Path) -> Result<Directory, SnapshotError> {
        let directory = Directory { fs, path: path.to_owned() };
        if let Err(error) = directory.fs.create_dir(path)
            && error.kind() != std::io::ErrorKind::AlreadyExists
        {
            return Err(error).at("create", path);
        }
        for entry in directory.fs.list(path).at("read", path)? {
            if entry != LATEST && parse_name(&entry).is_none() && !entry.starts_with(TEMPORARY) {
                return Err(SnapshotError::NotOurs { path: path.to_owned(), entry });
            }
        }
        if let Some(parent) = path.parent() {
            directory.fs.sync_dir(parent).at("sync", parent)?;
        }
        Ok(directory)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn fs(&self) -> &dyn Fs {
        &*self.fs
    }

    /// `LATEST`, and what it is written as first.
    pub(super) fn latest_paths(&self) -> (PathBuf, PathBuf) {
        (self.path.join(LATEST), self.path.join(format!("{TEMPORARY}{LATEST}")))
    }

    pub(super) fn latest(&self) -> Result<Option<Base>, SnapshotError> {
        Base::latest(self.fs(), &self.path)
    }

    /// The latest snapshot; `None` if there is none yet.
    ///
    /// # Errors
    ///
    /// As [`Snapshot::open`].
    pub fn open_latest(&self) -> Result<Option<Snapshot>, SnapshotError> {
        let latest = self.latest()?;
        latest.map(|latest| Snapshot::open_named(self.fs.clone(), &self.path, &latest)).transpose()
    }

    /// Paths of all snapshots, oldest step first.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Io`] if the directory cannot be read.
    pub fn list(&self) -> Result<Vec<PathBuf>, SnapshotError> {
        Ok(self.names()?.into_iter().map(|(_, _, name)| self.path.join(name)).collect())
    }

    /// Step, copy and name of all snapshots, in order.
    fn names(&self) -> Result<BTreeSet<(u64, u32, String)>, SnapshotError> {
        let entries = self.fs.list(&self.path).at("read", &self.path)?;
        Ok(entries.into_iter().filter_map(|name| parse_name(&name).map(|(step, copy)| (step, copy, name))).collect())
    }

    /// Folds the latest snapshot and those it is an increment of into one full snapshot of the same step, makes that the
    /// latest and removes them; `None` if the latest one is full already. Rows are streamed; memory does not grow with
    /// them.
    ///
    /// # Errors
    ///
    /// As [`Snapshot::open`] and [`save`](Self::save). Until the new one is the latest, the old ones stay.
    pub fn compact(&self) -> Result<Option<Saved>, SnapshotError> {
        let Some(latest) = self.open_latest()?.filter(|latest| latest.parts().len() > 1) else {
            return Ok(None);
        };
        let saved = self.save(&mut Folded::new(&latest))?;
        // An increment of one of them that is not the latest would lose what it changes.
        let needed = self.needed(self.names()?.into_iter().map(|(_, _, name)| name).filter(|name| {
            !latest.parts().iter().any(|part| part.path.file_name().is_some_and(|part| part == name.as_str()))
        }))?;
        for part in latest.parts().iter().rev() {
            let name = part.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !needed.contains(name) {
                self.remove(name)?;
            }
        }
        Ok(Some(saved))
    }

    /// Removes all but the newest `keep` snapshots and those that these are increments of. The latest always stays.
    /// Returns how many went.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Io`], or a snapshot that stays has an unreadable manifest.
    pub fn keep_newest(&self, keep: usize) -> Result<usize, SnapshotError> {
        self.clear_temporary()?;
        let names = self.names()?;
        let latest = self.latest()?.map(|latest| latest.name);
        let newest = names.iter().rev().take(keep).map(|(_, _, name)| name.clone());
        let needed = self.needed(newest.chain(latest))?;
        let mut removed = 0;
        // The newest first: what is left of a removal that was cut short is whole.
        for (_, _, name) in names.iter().rev().filter(|(_, _, name)| !needed.contains(name)) {
            self.remove(name)?;
            removed += 1;
        }
        Ok(removed)
    }

    /// These snapshots and all that they are increments of.
    fn needed(&self, names: impl Iterator<Item = String>) -> Result<BTreeSet<String>, SnapshotError> {
        let mut needed = BTreeSet::new();
        for name in names {
            let mut next = Some(name);
            while let Some(name) = next.take().filter(|name| !needed.contains(name)) {
                let path = self.path.join(&name);
                if self.fs.list(&path).is_ok_and(|entries| entries.iter().any(|entry| entry == MANIFEST)) {
                    next = Record::read(self.fs(), &path)?.0.base.map(|base| base.name);
                }
                needed.insert(name);
            }
        }
        Ok(needed)
    }

    /// Removes a snapshot: in one step for all who look, then its files.
    fn remove(&self, name: &str) -> Result<(), SnapshotError> {
        let (path, temporary) = (self.path.join(name), self.path.join(format!("{TEMPORARY}{name}")));
        self.fs.rename(&path, &temporary).at("remove", &path)?;
        self.fs.sync_dir(&self.path).at("sync", &self.path)?;
        self.remove_dir(&temporary)
    }

    /// Removes what interrupted calls have left.
    pub(super) fn clear_temporary(&self) -> Result<(), SnapshotError> {
        for name in self.fs.list(&self.path).at("read", &self.path)? {
            let path = self.path.join(&name);
            if name.starts_with(TEMPORARY) && self.fs.remove_file(&path).is_err() {
                self.remove_dir(&path)?;
            }
        }
        Ok(())
    }

    /// Removes a directory and the files in it.
    pub(super) fn remove_dir(&self, path: &Path) -> Result<(), SnapshotError> {
        for name in self.fs.list(path).at("read", path)? {
            let file = path.join(name);
            self.fs.remove_file(&file).at("remove", &file)?;
        }
        self.fs.remove_dir(path).at("remove", path)
    }
}
