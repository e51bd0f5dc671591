//! Entering a snapshot's rows into a store that nobody else uses yet.

use super::Inner;
use super::restore::refuse;
use super::table::{Table, bump};
use crate::chain::SavedChunk;
use crate::directory::Inserted;
use crate::hash::tag;
use crate::id::{ChunkIndex, Info};
use crate::reclaim::Magazines;
use crate::snapshot::{RowBlock, RowRef, SnapshotError};
use crate::superblocks::AllocError;
use crossbeam_epoch::Guard;

/// Rows whose places in the directory the processor is asked for together.
const ROWS_AT_ONCE: usize = 32;
/// Times that room is made for one row.
const ATTEMPTS: usize = 8;
/// Of the budget, what is pruned at a time where a snapshot has more than there is room for: a 64th.
const PRUNED_SHARE: u64 = 64;

/// What is done where there is no room for a row.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum NoRoom {
    /// That row and those after it are left to the caller. No superblocks are added either: what is missing may be in the
    /// hands of another thread that enters rows.
    Stop,
    /// It is an error.
    Refuse,
    /// What is least important goes.
    Prune,
}

/// Why there is no room: none in the budget, or, where no superblock may be added, none in those that are there.
type Missing = Option<AllocError>;

/// Enters rows of one table.
pub(super) struct Adder<'i> {
    inner: &'i Inner,
    table: &'i Table,
    magazines: Magazines<'i>,
    no_room: NoRoom,
    /// Chunks of less importance stay out.
    pub(super) floor: f32,
    /// Chunks that stayed out.
    pub(super) left_out: u64,
    /// The positions of a row's chunks that are entered, and their records.
    kept: Vec<usize>,
    records: Vec<ChunkIndex>,
    /// Rows that were entered and are not counted yet, by their number of chunks.
    uncounted: Vec<u64>,
}

impl<'i> Adder<'i> {
    pub(super) fn new(inner: &'i Inner, table: &'i Table, no_room: NoRoom, floor: f32) -> Adder<'i> {
        let magazines = Magazines::new(&inner.slabs);
        let uncounted = vec![0; table.layout.chunks + 1];
        let (kept, records) = (Vec::new(), Vec::new());
        Adder { inner, table, magazines, no_room, floor, left_out: 0, kept, records, uncounted }
    }

    /// Enters rows that are of the table's shape. Returns how many: all, or those before the one for which there was no room.
    pub(super) fn add(&mut self, block: &RowBlock) -> Result<usize, SnapshotError> {
        let mut rows = block.rows(&self.table.config).map(|row| (self.table.hash(row.key), row));
        let mut group = Vec::with_capacity(ROWS_AT_ONCE);
        let mut added = 0;
        loop {
            group.extend(rows.by_ref().take(ROWS_AT_ONCE));
            let of_group = self.add_group(&group)?;
            added += of_group;
            if group.is_empty() || of_group < group.len() {
                return Ok(added);
            }
            group.clear();
        }
    }

    fn add_group(&mut self, group: &[(u64, RowRef<'_>)]) -> Result<usize, SnapshotError> {
        let (inner, directory) = (self.inner, &self.table.directory);
        let mut guard = inner.reclaimer.pin();
        let search = directory.search(&guard);
        for (hash, _) in group {
            search.approach(search.set_out(tag(*hash)), tag(*hash)).ask_elsewhere();
        }
        for (position, (hash, row)) in group.iter().enumerate() {
            let mut attempts = 0;
            while let Err(error) = self.enter(*hash, row, &guard)? {
                match self.no_room {
                    NoRoom::Stop => return Ok(position),
                    NoRoom::Refuse => return refuse(no_room(self.table, error)),
                    NoRoom::Prune => {}
                }
                attempts += 1;
                if attempts == ATTEMPTS {
                    self.left_out += row.ordinals.len() as u64;
                    break;
                }
                // What is pruned comes back when nobody is pinned.
                drop(guard);
                self.make_room();
                guard = inner.reclaimer.pin();
            }
        }
        Ok(group.len())
    }

    /// Enters a row without the chunks that matter too little, or nothing of it if there is no room.
    fn enter(&mut self, hash: u64, row: &RowRef<'_>, guard: &Guard) -> Result<Result<(), Missing>, SnapshotError> {
        let (table, chunks) = (self.table, row.ordinals.len());
        self.kept.clear();
        self.kept.extend(0..chunks);
        if self.floor > 0.0 {
            let per_unit = table.scale().max(f32::MIN_POSITIVE).recip();
            self.kept.retain(|&position| row.utilities[position] * per_unit >= self.floor);
        }
        if self.kept.is_empty() {
            self.left_out += chunks as u64;
            return Ok(Ok(()));
        }
        if let Err(error) = self.alloc(guard) {
            return Ok(Err(error));
        }
        let chains = table.chains(&self.inner.slabs);
        let weights = table.layout.chunk;
        let state = table.layout.payload_words() - weights;
        let kept = &self.kept;
        chains.init_saved(&self.records, hash, row.row_state.first().copied().unwrap_or(0.0), |number| {
            let position = kept[number];
            SavedChunk {
                info: Info { utility: row.utilities[position], ordinal: row.ordinals[position] },
                weights: &row.weights[position * weights..(position + 1) * weights],
                state: &row.state[position * state..(position + 1) * state],
            }
        });
        let head = self.records[0];
        match table.directory.insert(tag(hash), head, guard, |other| chains.probe(other, hash)) {
            Ok(Inserted::Done) => {}
            Ok(Inserted::Exists(_)) => {
                return refuse(format!("key {} of table `{}` is there twice", row.key, table.config.name()));
            }
            Err(error) => {
                chains.discard_head(head);
                self.free();
                return Ok(Err(Some(AllocError::OverBudget(error))));
            }
        }
        self.uncounted[self.kept.len()] += 1;
        self.left_out += (chunks - self.kept.len()) as u64;
        Ok(Ok(()))
    }

    /// Records for a row's head and for its further chunks; all or none.
    fn alloc(&mut self, guard: &Guard) -> Result<(), Missing> {
        self.records.clear();
        for number in 0..self.kept.len() {
            let slab = self.slab_of(number);
            let record = match self.no_room {
                NoRoom::Stop => self.magazines.alloc_existing(slab, guard).ok_or(None),
                NoRoom::Refuse | NoRoom::Prune => self.magazines.alloc(slab, guard).map_err(Some),
            };
            match record {
                Ok(record) => self.records.push(record),
                Err(error) => {
                    self.free();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// The slab of a row's chunk: the first is in the head.
    fn slab_of(&self, number: usize) -> usize {
        if number == 0 { self.table.heads } else { self.table.tails }
    }

    fn free(&mut self) {
        for (number, record) in std::mem::take(&mut self.records).into_iter().enumerate() {
            self.magazines.free(self.slab_of(number), record);
        }
    }

    /// Takes what is least important of what is there.
    fn make_room(&mut self) {
        self.count();
        // What is left in magazines would keep superblocks from being given back.
        self.magazines = Magazines::new(&self.inner.slabs);
        if let Some(threshold) = self.inner.prune_by(self.inner.budget.limit() / PRUNED_SHARE) {
            self.floor = self.floor.max(threshold);
        }
    }

    fn count(&mut self) {
        for (chunks, rows) in self.uncounted.iter_mut().enumerate().skip(1) {
            let rows = std::mem::take(rows);
            bump(&self.table.rows_by_chunks[chunks], rows);
            bump(&self.table.counters.admitted, rows);
            bump(&self.table.counters.grown, rows * (chunks as u64 - 1));
        }
    }
}

impl Drop for Adder<'_> {
    fn drop(&mut self) {
        self.count();
    }
}

fn no_room(table: &Table, missing: Missing) -> String {
    let name = table.config.name();
    match missing {
        Some(AllocError::OverBudget(over)) => format!(
            "the budget of {} bytes has no room for all rows of the snapshot (at table `{name}`); raise it, or restore with Policy::Fiited, which leaves out what matters least",
            over.limit
        ),
        None => format!("the superblocks that are there have no room for all rows of table `{name}`"),
        Some(AllocError::IndexSpace) => format!("all chunk indices are in use at table `{name}`; use a larger chunk"),
    }
}
