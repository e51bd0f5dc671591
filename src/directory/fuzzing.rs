//! The directory alone, for a fuzz case: rows are numbers, and the case says what each is.

use super::{Directory, Probe};
use crate::budget::Budget;
use crate::id::ChunkIndex;
use crossbeam_epoch::{Collector, Guard, LocalHandle};
use std::sync::Arc;

/// The case's verdict on a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the key's own, and live.
    Found,
    /// It is another key's.
    Other,
    /// It was the key's and has gone from there.
    Gone,
}

/// What an insertion did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// The row is in.
    Done,
    /// The key has this row already.
    Exists(u32),
    /// There was no room.
    Refused,
}

/// A pinned simulated thread.
pub struct Pinned(Guard);

/// A directory and the threads that use it.
pub struct Tree {
    directory: Directory,
    threads: Vec<LocalHandle>,
    budget: Arc<Budget>,
}

/// What is left of a [`Tree`] without its directory.
pub struct Remains {
    threads: Vec<LocalHandle>,
    budget: Arc<Budget>,
}

fn row(raw: u32) -> ChunkIndex {
    ChunkIndex::from_raw(raw).expect("cases number their rows from 1")
}

fn probe(mut verdict: impl FnMut(u32) -> Verdict) -> impl FnMut(ChunkIndex) -> Probe {
    move |index| match verdict(index.raw()) {
        Verdict::Found => Probe::Found,
        Verdict::Other => Probe::Other,
        Verdict::Gone => Probe::Gone,
    }
}

impl Tree {
    /// An empty directory within a budget; `None` if that is too small for one.
    pub fn new(budget: u64, threads: usize) -> Option<Tree> {
        let (budget, collector) = (Arc::new(Budget::new(budget)), Collector::new());
        let directory = Directory::new(Arc::clone(&budget)).ok()?;
        Some(Tree { directory, threads: (0..threads).map(|_| collector.register()).collect(), budget })
    }

    /// Pins a thread.
    pub fn pin(&self, thread: usize) -> Pinned {
        Pinned(self.threads[thread].pin())
    }

    /// See [`Directory::find`].
    pub fn find(&self, tag: u32, pinned: &Pinned, verdict: impl FnMut(u32) -> Verdict) -> Option<u32> {
        self.directory.find(tag, &pinned.0, probe(verdict)).map(ChunkIndex::raw)
    }

    /// See [`Directory::insert`].
    pub fn insert(&self, tag: u32, index: u32, pinned: &Pinned, verdict: impl FnMut(u32) -> Verdict) -> Inserted {
        match self.directory.insert(tag, row(index), &pinned.0, probe(verdict)) {
            Ok(super::Inserted::Done) => Inserted::Done,
            Ok(super::Inserted::Exists(other)) => Inserted::Exists(other.raw()),
            Err(_) => Inserted::Refused,
        }
    }

    /// See [`Directory::remove`].
    pub fn remove(&self, tag: u32, index: u32, pinned: &Pinned) -> bool {
        self.directory.remove(tag, row(index), &pinned.0)
    }

    /// See [`Directory::relocate`].
    pub fn relocate(&self, tag: u32, from: u32, to: u32, pinned: &Pinned) -> bool {
        self.directory.relocate(tag, row(from), row(to), &pinned.0)
    }

    /// See [`Directory::walk`].
    pub fn walk(&self, tag: u32, pinned: &Pinned, mut visit: impl FnMut(u32, u32)) -> Option<u32> {
        self.directory.walk(tag, &pinned.0, |tag, index| visit(tag, index.raw()))
    }

    /// See [`Directory::tidy`]. Returns whether there was room.
    pub fn tidy(&self, tag: u32, pinned: &Pinned) -> bool {
        self.directory.tidy(tag, &pinned.0).is_ok()
    }

    /// Runs what is due.
    pub fn flush(&self, thread: usize) {
        self.threads[thread].pin().flush();
    }

    /// Bytes of the directory itself.
    pub fn bytes(&self) -> u64 {
        self.directory.bytes()
    }

    /// Bytes of segments that wait for their last reader.
    pub fn awaiting(&self) -> u64 {
        self.budget.awaiting()
    }

    /// Bytes held of the budget, and how many those may be.
    pub fn held(&self) -> (u64, u64) {
        (self.budget.held(), self.budget.limit())
    }

    /// Drops the directory.
    pub fn drop_directory(self) -> Remains {
        Remains { threads: self.threads, budget: self.budget }
    }
}

impl Remains {
    /// Runs what is due, with nobody pinned, and returns the bytes that are still held.
    pub fn drain(self) -> u64 {
        for _ in 0..64 {
            if self.budget.awaiting() == 0 {
                break;
            }
            self.threads[0].pin().flush();
        }
        self.budget.held()
    }
}
