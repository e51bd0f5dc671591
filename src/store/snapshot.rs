//! Taking a snapshot beside training: see `moment.rs` for how rows are cut at one moment.

use super::pace::Pace;
use super::saved::Removed;
use super::saver::{Saver, image_words, push_image};
use super::table::Table;
use super::{Inner, Store};
use crate::error::StoreError;
use crate::failpoint::{Point, reach};
use crate::reclaim::Grace;
use crate::snapshot::{BLOCK_BYTES, Manifest, RowBlock, RowRef, Section, SnapshotError, Source};
use crate::sync::pause;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Attempts to end the grace period of a snapshot that is given up.
const GIVE_UP_ATTEMPTS: usize = 64;

/// Which rows a snapshot has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotKind {
    /// All.
    Full,
    /// Those that were changed since the last snapshot that was [committed](LiveSnapshot::commit), and the keys of those that
    /// went.
    Increment,
}

/// A store as it was at one moment, handed out in blocks while training goes on.
///
/// Read it to its end from another thread than those that train: rows that change before they were read wait for that in
/// a buffer of fixed size, and when it is full, so do those who change them. If nobody reads for about a minute, the
/// snapshot is given up and training goes on. Dropping it before its end gives it up, too.
pub struct LiveSnapshot {
    inner: Arc<Inner>,
    manifest: Manifest,
    sections: Vec<Section>,
    /// The grace period after the beginning.
    grace: Grace,
    stage: Stage,
    images: Images,
    pace: Pace,
    /// Keys that went since the snapshot before, in order, and whether a row of the key is in this snapshot.
    removed: Vec<(Removed, bool)>,
    rows: u64,
    committed: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    /// Threads may still read the phase before this one.
    Grace,
    /// The rows of this table, from the segment with this tag.
    Rows(usize, u32),
    /// All rows were saved; the last images are to be read.
    Images,
    /// From this one of the removed keys on.
    Removed(usize),
    Done,
}

/// Images that were taken out of the buffer.
#[derive(Default)]
struct Images {
    words: Vec<u32>,
    /// Table and position of each, by table, and how many of them were read.
    order: Vec<(u32, u32)>,
    read: usize,
}

impl Store {
    /// Begins a snapshot of this moment and returns at once; training goes on while it is read. If a pruning round is
    /// running, this waits for its end.
    ///
    /// The snapshot is of exactly this moment if no call that changes the store runs beside this one: between two training
    /// steps. Each row that is being changed meanwhile is in it as before or as after that.
    ///
    /// # Errors
    /// [`StoreError::Snapshot`] if the store was made without [`StoreConfig::snapshots`](crate::StoreConfig::snapshots), if
    /// another snapshot is being taken, if a deterministic store is within a step, or if an increment was asked for and
    /// there is no snapshot that it could be of.
    pub fn snapshot(&self, kind: SnapshotKind) -> Result<LiveSnapshot, StoreError> {
        let scratch = self.inner.round.lock();
        self.inner.begin_snapshot(kind, scratch.rounds())
    }

    /// Like [`snapshot`](Self::snapshot), but `None` if a pruning round is running: try again after the next step.
    ///
    /// # Errors
    /// As [`snapshot`](Self::snapshot).
    pub fn try_snapshot(&self, kind: SnapshotKind) -> Result<Option<LiveSnapshot>, StoreError> {
        let Some(scratch) = self.inner.round.try_lock() else { return Ok(None) };
        self.inner.begin_snapshot(kind, scratch.rounds()).map(Some)
    }

    /// The step of the snapshot that an increment would be of now, if there is one.
    pub fn increment_base(&self) -> Option<u64> {
        self.inner.saved.with(|state| state.base)
    }
}

impl Inner {
    /// Under the rounds' lock.
    fn begin_snapshot(self: &Arc<Self>, kind: SnapshotKind, rounds: u64) -> Result<LiveSnapshot, StoreError> {
        let refuse = |what| Err(StoreError::Snapshot { what });
        if !self.config.snapshots {
            return refuse("the store was made without StoreConfig::snapshots, which keeps the memory for it");
        }
        if !self.pending.lock().is_empty() {
            return refuse("a deterministic store has one between steps: call it after Store::step");
        }
        let base =
            self.saved.with(|state| if std::mem::replace(&mut state.running, true) { Err(()) } else { Ok(state.base) });
        let Ok(base) = base else { return refuse("another one is being taken") };
        let since = base.filter(|_| kind == SnapshotKind::Increment);
        if kind == SnapshotKind::Increment && since.is_none() {
            self.saved.with(|state| state.running = false);
            return refuse(
                "there is none that an increment could be of: none yet, or it was not committed, or more rows went since than could be noted. Take a full one",
            );
        }
        self.finish_left();
        let sections = self.sections(rounds);
        let mut removed: Vec<_> = self.saved.note_from_now().into_iter().map(|removed| (removed, false)).collect();
        if since.is_none() {
            removed.clear();
        }
        removed.sort_unstable();
        removed.dedup();
        self.saved.with(|state| state.base = None);
        self.moment.begin(since.is_some());
        let manifest = Manifest {
            step: self.clock.steps(),
            since,
            store: self.config.clone(),
            tables: self.tables.iter().map(|table| table.config.clone()).collect(),
            extra: BTreeMap::new(),
        };
        let snapshot = LiveSnapshot {
            inner: Arc::clone(self),
            pace: Pace::new(self.clock.steps()),
            manifest,
            sections,
            grace: Grace::begin(&self.reclaimer.pin()),
            stage: Stage::Grace,
            images: Images::default(),
            removed,
            rows: 0,
            committed: false,
        };
        reach(Point::SnapshotBegun);
        Ok(snapshot)
    }

    /// Brings the rows that a snapshot left behind into the phase of the others.
    fn finish_left(&self) {
        let Some(grace) = self.saved.with(|state| state.left.take()) else { return };
        // Then what was made by threads that did not know of the phase is in the directories.
        while !grace.is_over() {
            self.reclaimer.advance();
            pause();
        }
        self.pass_over(0);
    }

    /// Brings all rows into the new phase, from one table on, and saves none.
    fn pass_over(&self, first: usize) {
        let mut rows = Vec::new();
        for table in self.tables.iter().skip(first) {
            let chains = table.chains(&self.slabs);
            self.for_each_segment(0, |at, guard| {
                let next = table.rows_of_segment(at, guard, &mut rows);
                rows.iter().for_each(|&(_, head)| chains.save(head, |_| {}));
                next
            });
        }
    }
}

impl LiveSnapshot {
    /// What this is a snapshot of.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Adds a text of the caller's to what is saved, and an array.
    pub fn extend(&mut self, extra: impl IntoIterator<Item = (String, String)>, sections: Vec<Section>) {
        self.manifest.extra.extend(extra);
        self.sections.extend(sections);
    }

    /// Sets which part of a processor the thread that reads and saves this takes, 0.01 to 1, while the store is trained (a
    /// step ended in the last half second): between blocks it rests, unless rows that changed wait for it. By default 0.2. More
    /// ends sooner, and takes more from those who train.
    #[must_use]
    pub fn share(mut self, share: f32) -> LiveSnapshot {
        self.pace.set(share);
        self
    }

    /// Rows handed out so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// How often somebody who changed a row had to wait for the reader, in all snapshots of the store.
    pub fn stalls(&self) -> u64 {
        self.inner.moment.stalls()
    }

    /// The snapshot was read to its end and is where it will be found again: the next one may be an increment on it.
    pub fn commit(mut self) {
        self.committed = self.stage == Stage::Done;
    }

    fn table(&self, number: usize) -> &Table {
        &self.inner.tables[number]
    }

    /// Fills a block with images of one table. Returns whether there were any.
    fn read_images(&mut self, block: &mut RowBlock) -> bool {
        let Some(&(number, _)) = self.images.order.get(self.images.read) else { return false };
        block.table = number as usize;
        let of = &self.inner.tables[number as usize];
        let mut order = Vec::new();
        while let Some(&(table, at)) = self.images.order.get(self.images.read)
            && table == number
            && block.bytes() < BLOCK_BYTES
        {
            push_image(of, &self.images.words[at as usize..], &mut order, block);
            self.images.read += 1;
        }
        true
    }

    fn take_images(&mut self) {
        let Images { words, order, read } = &mut self.images;
        self.inner.moment.take(words);
        order.clear();
        *read = 0;
        let mut at = 0;
        while at < words.len() {
            order.push((words[at], at as u32));
            at += image_words(&self.inner.tables[words[at] as usize].layout, &words[at..]);
        }
        order.sort_unstable();
    }

    /// Fills a block with rows of one table that are not saved yet. Returns what comes next.
    fn read_rows(&mut self, number: usize, from: u32, block: &mut RowBlock) -> Stage {
        let Some(table) = self.inner.tables.get(number) else { return Stage::Images };
        block.table = number;
        let moment = &self.inner.moment;
        let mut saver = Saver::new(table, table.chains(&self.inner.slabs));
        let (mut at, mut rows) = (from, Vec::new());
        loop {
            let guard = self.inner.reclaimer.pin();
            let next = table.rows_of_segment(at, &guard, &mut rows);
            saver.save(&rows, moment.changed_only(), block);
            let Some(next) = next else { return Stage::Rows(number + 1, 0) };
            at = next;
            if block.bytes() >= BLOCK_BYTES || moment.is_pressing() {
                return Stage::Rows(number, at);
            }
        }
    }

    /// Fills a block with keys that went and have no row in this snapshot.
    fn read_removed(&mut self, from: usize, block: &mut RowBlock) -> Stage {
        let mut at = from;
        while let Some(&((table, key), is_back)) = self.removed.get(at) {
            if !block.keys.is_empty() && block.table != table as usize || block.bytes() >= BLOCK_BYTES {
                return Stage::Removed(at);
            }
            if !is_back {
                block.table = table as usize;
                let row_state = &[0.0][..self.table(table as usize).layout.row_state_words()];
                block.push(RowRef { key, ordinals: &[], utilities: &[], weights: &[], state: &[], row_state });
            }
            at += 1;
        }
        Stage::Done
    }

    /// Keys of rows that are in this snapshot are not among the removed ones.
    fn note_rows(&mut self, block: &RowBlock) {
        if self.removed.is_empty() {
            return;
        }
        for &key in &block.keys {
            let wanted = (block.table as u32, key);
            if let Ok(at) = self.removed.binary_search_by_key(&wanted, |(removed, _)| *removed) {
                self.removed[at].1 = true;
            }
        }
    }

    /// One block, or a part of the work that gives none.
    fn read(&mut self, block: &mut RowBlock) {
        if self.read_images(block) {
            return;
        }
        if self.inner.moment.is_pressing() {
            return self.take_images();
        }
        self.stage = match self.stage {
            // What was made by threads that did not know of the phase is in the directories.
            Stage::Grace if self.grace.is_over() => Stage::Rows(0, 0),
            Stage::Grace => {
                self.inner.reclaimer.advance();
                pause();
                Stage::Grace
            }
            Stage::Rows(table, at) => self.read_rows(table, at, block),
            Stage::Images if self.inner.moment.waiting() > 0 => {
                self.take_images();
                Stage::Images
            }
            Stage::Images => Stage::Removed(0),
            Stage::Removed(at) => self.read_removed(at, block),
            Stage::Done => Stage::Done,
        };
    }
}

impl Source for LiveSnapshot {
    fn manifest(&self) -> Manifest {
        self.manifest.clone()
    }

    fn next(&mut self, block: &mut RowBlock) -> Result<bool, SnapshotError> {
        block.clear();
        self.pace.rest(&self.inner);
        while block.keys.is_empty() && self.stage != Stage::Done {
            if self.inner.moment.is_given_up() {
                let what = "the snapshot was given up, because for a minute nobody read it and training waited";
                return Err(SnapshotError::Other(what.to_owned()));
            }
            self.read(block);
        }
        self.note_rows(block);
        self.rows += block.chunks.iter().filter(|&&chunks| chunks > 0).count() as u64;
        Ok(!block.keys.is_empty())
    }

    fn may_hurry(&self) -> bool {
        !self.pace.is_trained(Instant::now())
    }

    fn sections(&mut self) -> Result<Vec<Section>, SnapshotError> {
        Ok(std::mem::take(&mut self.sections))
    }
}

impl Drop for LiveSnapshot {
    fn drop(&mut self) {
        let inner = &self.inner;
        inner.moment.give_up();
        if !matches!(self.stage, Stage::Done | Stage::Removed(_) | Stage::Images) {
            let begin = if let Stage::Rows(table, _) = self.stage { table } else { 0 };
            for _ in 0..GIVE_UP_ATTEMPTS {
                if self.grace.is_over() {
                    break;
                }
                inner.reclaimer.advance();
                pause();
            }
            if self.grace.is_over() {
                inner.pass_over(begin);
            } else {
                // Somebody stays pinned. The next snapshot does it first.
                inner.saved.with(|state| state.left = Some(self.grace.clone()));
            }
        }
        inner.moment.end();
        if self.committed {
            inner.saved.commit(self.manifest.step);
        } else {
            inner.saved.forget();
        }
        inner.saved.with(|state| state.running = false);
    }
}

impl std::fmt::Debug for LiveSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiveSnapshot")
            .field("step", &self.manifest.step)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}
