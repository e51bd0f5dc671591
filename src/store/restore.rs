//! Making a store from a snapshot: exactly as it was, or with other settings.

use super::rechunk::{NewRow, Rechunk};
use super::state::{Sections, figures_of};
use super::table::{Table, bump};
use super::{Inner, Store};
use crate::chain::NewChunk;
use crate::config::{Policy, StoreConfig, TableConfig};
use crate::directory::{Directory, Inserted, Misshapen, Shape};
use crate::hash::tag;
use crate::id::ChunkIndex;
use crate::reclaim::Magazines;
use crate::snapshot::{Manifest, RowBlock, RowRef, Section, SnapshotError};
use crate::superblocks::AllocError;
use std::sync::Arc;

/// Times that room is made for one row.
const ATTEMPTS: usize = 8;
/// Of the budget, what is pruned at a time where a snapshot has more than there is room for: a 64th.
const PRUNED_SHARE: u64 = 64;

/// A store that is being made from a snapshot, from [`Store::restore`].
pub struct Restore {
    inner: Inner,
    /// The snapshot's tables, and, where its chunks are of another size, how they come to the store's.
    saved: Vec<(TableConfig, Option<Rechunk>)>,
    step: u64,
    /// Where every setting is the snapshot's.
    exact: Option<Exact>,
    /// Chunks of less importance stay out.
    floor: f32,
    left_out: u64,
}

/// What makes a store exactly what it was.
struct Exact {
    /// Shapes of the directories.
    shapes: Vec<Vec<Shape>>,
    figures: Vec<[u64; 9]>,
}

fn refuse<T>(what: String) -> Result<T, SnapshotError> {
    Err(SnapshotError::Other(what))
}

impl Store {
    /// Begins to make a store of these settings from a snapshot: hand it the [rows](Restore::rows), then
    /// [finish](Restore::finish). The tables must be the snapshot's by name, dimension, optimizer and keys; all else may
    /// differ. With every setting the snapshot's, the store goes on exactly as the saved one would have, if that is
    /// deterministic. In a smaller budget the least important chunks stay out.
    ///
    /// # Errors
    /// [`SnapshotError::Other`]: what does not fit.
    pub fn restore(
        config: StoreConfig,
        tables: Vec<TableConfig>,
        manifest: &Manifest,
        sections: &[Section],
    ) -> Result<Restore, SnapshotError> {
        Restore::begin(config, tables, manifest, &Sections(sections))
    }
}

impl Restore {
    fn begin(
        config: StoreConfig,
        tables: Vec<TableConfig>,
        manifest: &Manifest,
        sections: &Sections<'_>,
    ) -> Result<Restore, SnapshotError> {
        check_tables(&tables, &manifest.tables)?;
        let exactly = config == manifest.store && tables == manifest.tables;
        let same_hash = config.seed == manifest.store.seed;
        let mut inner = Inner::new(config, tables).map_err(|error| SnapshotError::Other(error.to_string()))?;
        let rounds = inner.restore_policy(sections)?;
        inner.round.lock().set_rounds(rounds);
        if same_hash {
            inner.restore_sketch(sections, exactly)?;
        }
        if exactly {
            inner.restore_newcomers(sections)?;
        }
        let mut saved = Vec::new();
        for (table, theirs) in inner.tables.iter().zip(&manifest.tables) {
            let rechunk = Rechunk::new(theirs, &table.layout);
            let factor = rechunk.as_ref().map_or(1.0, |rechunk| rechunk.factor(&table.layout));
            inner.restore_rates(table, sections, factor)?;
            if same_hash && table.config.fallback == theirs.fallback {
                inner.restore_shared(table, sections)?;
            }
            saved.push((theirs.clone(), rechunk));
        }
        let exact = if exactly { Some(Exact::read(&mut inner, sections)?) } else { None };
        Ok(Restore { inner, saved, step: manifest.step, exact, floor: 0.0, left_out: 0 })
    }

    /// Adds rows, as a snapshot's reader hands them out: each key once, in any order.
    ///
    /// # Errors
    /// [`SnapshotError::Other`] if a row cannot be one of the table's, or if there is no room for it and nothing may make
    /// room.
    pub fn rows(&mut self, block: &RowBlock) -> Result<(), SnapshotError> {
        let (Some(table), Some((saved, rechunk))) = (self.inner.tables.get(block.table), self.saved.get(block.table))
        else {
            return refuse(format!("a block is of table {}, of {}", block.table, self.inner.tables.len()));
        };
        let chunks: usize = block.chunks.iter().map(|&chunks| usize::from(chunks)).sum();
        let is_whole = block.chunks.len() == block.keys.len()
            && [block.ordinals.len(), block.utilities.len()] == [chunks, chunks]
            && block.weights.len() == chunks * saved.chunk_dims()
            && block.state.len() == chunks * saved.chunk_state()
            && block.row_state.len() == block.keys.len() * table.layout.row_state_words();
        if !is_whole {
            return refuse(format!("a block of table `{}` is not of its shape", saved.name()));
        }
        let mut adder = Adder {
            inner: &self.inner,
            table,
            magazines: Magazines::new(&self.inner.slabs),
            may_prune: !(self.exact.is_some() && self.inner.config.deterministic)
                && matches!(self.inner.config.policy, Policy::Fiited(_)),
            floor: self.floor,
            left_out: 0,
            kept: Vec::new(),
            records: Vec::new(),
        };
        let (mut new, mut scratch) = (NewRow::default(), Vec::new());
        for row in block.rows(saved) {
            check_row(saved, &row)?;
            let hash = table.hash(row.key);
            new.clear();
            match rechunk {
                Some(rechunk) => rechunk.convert(table, hash, &row, &mut scratch, &mut new),
                None => new.take(&row, table.layout.chunk, saved.chunk_state()),
            }
            adder.add(hash, row.row_state.first().copied().unwrap_or(0.0), &new)?;
        }
        (self.floor, self.left_out) = (adder.floor, self.left_out + adder.left_out);
        Ok(())
    }

    /// Chunks that stayed out so far, because there was no room for them.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// All rows are there: the store is ready.
    ///
    /// # Errors
    /// [`SnapshotError::Other`] if rows are missing, or if the pruning thread cannot be started.
    pub fn finish(self) -> Result<Store, SnapshotError> {
        let Restore { inner, exact, floor, step, .. } = self;
        if floor > inner.threshold() {
            inner.set_threshold(floor);
        }
        if let Some(exact) = exact {
            exact.finish(&inner, floor > 0.0)?;
            if inner.config.snapshots {
                inner.saved.note_from_now();
                inner.saved.commit(step);
            }
        }
        Store::with(inner).map_err(|error| SnapshotError::Other(error.to_string()))
    }
}

impl Exact {
    /// Gives the directories their shapes, if those were saved.
    fn read(inner: &mut Inner, sections: &Sections<'_>) -> Result<Exact, SnapshotError> {
        let figures = inner.tables.iter().map(|table| figures_of(table, sections)).collect::<Result<_, _>>()?;
        let superblocks = sections.integers("store/superblocks")?.unwrap_or_default();
        // Before the directories, which may take the budget's last part.
        for (slab, &wanted) in inner.slabs.iter().zip(superblocks) {
            for _ in 0..wanted {
                if slab.add_superblock().is_err() {
                    return refuse(format!("section `store/superblocks` names {wanted}, for which there is no room"));
                }
            }
        }
        let mut shapes = Vec::new();
        for table in &mut inner.tables {
            let name = format!("table/{}/segments", table.number());
            let Some(words) = sections.words(&name)? else { break };
            let (shape, rest) = words.as_chunks::<4>();
            let made = if rest.is_empty() {
                Directory::of_shape(Arc::clone(&inner.budget), shape)
            } else {
                Err(Misshapen::Impossible)
            };
            let Ok(directory) = made else { return refuse(format!("section `{name}` is no directory's shape")) };
            table.directory = directory;
            shapes.push(shape.to_vec());
        }
        Ok(Exact { shapes, figures })
    }

    fn finish(&self, inner: &Inner, pruned: bool) -> Result<(), SnapshotError> {
        for (table, figures) in inner.tables.iter().zip(&self.figures) {
            let rows = table.live_rows();
            if pruned {
                // Not quite what was saved, so counted anew.
                continue;
            }
            table.set_figures(*figures);
            if table.live_rows() != rows {
                let (name, saved) = (table.config.name(), table.live_rows());
                return refuse(format!(
                    "the snapshot has {rows} rows of table `{name}` and says that there are {saved}"
                ));
            }
        }
        let guard = inner.reclaimer.pin();
        for (table, shape) in inner.tables.iter().zip(&self.shapes) {
            table.directory.set_used(shape, &guard);
        }
        Ok(())
    }
}

/// Whether rows of one table mean the same in another.
fn check_tables(tables: &[TableConfig], saved: &[TableConfig]) -> Result<(), SnapshotError> {
    if tables.len() != saved.len() {
        return refuse(format!("the snapshot has {} tables, the store {}", saved.len(), tables.len()));
    }
    for (table, saved) in tables.iter().zip(saved) {
        let name = saved.name();
        if table.name() != name {
            return refuse(format!("the snapshot has table `{name}` where the store has `{}`", table.name()));
        }
        if table.dim() != saved.dim() {
            let (theirs, ours) = (saved.dim(), table.dim());
            return refuse(format!("table `{name}` has dimension {theirs} in the snapshot, {ours} in the store"));
        }
        if std::mem::discriminant(&table.optimizer) != std::mem::discriminant(&saved.optimizer) {
            return refuse(format!(
                "table `{name}` has another optimizer in the snapshot, whose state means something else"
            ));
        }
        if table.keys != saved.keys {
            return refuse(format!("table `{name}` names its rows otherwise in the snapshot: {:?}", saved.keys));
        }
    }
    Ok(())
}

fn check_row(table: &TableConfig, row: &RowRef<'_>) -> Result<(), SnapshotError> {
    let ordinals = row.ordinals;
    let rise = ordinals.windows(2).all(|pair| pair[0] < pair[1]);
    let last = ordinals.last().map(|&ordinal| usize::from(ordinal));
    let sound = row.utilities.iter().all(|utility| utility.is_finite() && *utility >= 0.0);
    if rise && last.is_some_and(|last| last < table.chunks()) && sound {
        return Ok(());
    }
    refuse(format!("the row of key {} of table `{}` cannot be one: chunks {ordinals:?}", row.key, table.name()))
}

/// Enters rows of one table.
struct Adder<'i> {
    inner: &'i Inner,
    table: &'i Table,
    magazines: Magazines<'i>,
    /// Whether what is least important may go to make room.
    may_prune: bool,
    floor: f32,
    left_out: u64,
    /// The positions of a row's chunks that are entered, and their records.
    kept: Vec<usize>,
    records: Vec<ChunkIndex>,
}

impl Adder<'_> {
    fn add(&mut self, hash: u64, row_state: f32, row: &NewRow) -> Result<(), SnapshotError> {
        let per_unit = self.table.scale().max(f32::MIN_POSITIVE).recip();
        for _ in 0..ATTEMPTS {
            let floor = self.floor;
            let important = |&position: &usize| row.infos[position].utility * per_unit >= floor;
            self.kept.clear();
            self.kept.extend((0..row.infos.len()).filter(important));
            if self.kept.is_empty() {
                self.left_out += row.infos.len() as u64;
                return Ok(());
            }
            let entered = match self.alloc() {
                Ok(()) => self.enter(hash, row_state, row)?,
                Err(error) => Err(error),
            };
            match entered {
                Ok(()) => {
                    self.left_out += (row.infos.len() - self.kept.len()) as u64;
                    return Ok(());
                }
                Err(error) if !self.may_prune => return refuse(no_room(self.table, error)),
                Err(_) => self.make_room(),
            }
        }
        self.left_out += row.infos.len() as u64;
        Ok(())
    }

    /// Records for a row's head and for its further chunks; all or none.
    fn alloc(&mut self) -> Result<(), AllocError> {
        let guard = self.inner.reclaimer.pin();
        self.records.clear();
        for position in 0..self.kept.len() {
            match self.magazines.alloc(self.slab_of(position), &guard) {
                Ok(record) => self.records.push(record),
                Err(error) => {
                    self.free();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// The slab of a row's chunk at a position: the first is in the head.
    fn slab_of(&self, position: usize) -> usize {
        if position == 0 { self.table.heads } else { self.table.tails }
    }

    fn free(&mut self) {
        for (position, record) in std::mem::take(&mut self.records).into_iter().enumerate() {
            self.magazines.free(self.slab_of(position), record);
        }
    }

    /// Takes what is least important of what is there.
    fn make_room(&mut self) {
        // What is left in magazines would keep superblocks from being given back.
        self.magazines = Magazines::new(&self.inner.slabs);
        if let Some(threshold) = self.inner.prune_by(self.inner.budget.limit() / PRUNED_SHARE) {
            self.floor = self.floor.max(threshold);
        }
    }

    /// Enters a row in records of its own, or frees these again if its directory has no room.
    fn enter(&mut self, hash: u64, row_state: f32, row: &NewRow) -> Result<Result<(), AllocError>, SnapshotError> {
        let (table, guard) = (self.table, self.inner.reclaimer.pin());
        let chains = table.chains(&self.inner.slabs);
        let words = table.layout.payload_words();
        let chunk = |position: usize| NewChunk {
            info: row.infos[position],
            payload: &row.payload[position * words..(position + 1) * words],
        };
        let (kept, head) = (&self.kept, self.records[0]);
        chains.init_head(head, hash, row_state, &chunk(kept[0]));
        for (&position, &tail) in kept.iter().zip(&self.records).skip(1) {
            chains.grow_unpublished(head, tail, &chunk(position));
        }
        let entered = table.directory.insert(tag(hash), head, &guard, |other| chains.probe(other, hash));
        match entered {
            Ok(Inserted::Done) => {}
            Ok(Inserted::Exists(_)) => {
                return refuse(format!(
                    "key {} of table `{}` is there twice",
                    table.row_key(hash),
                    table.config.name()
                ));
            }
            Err(error) => {
                chains.discard_head(head);
                self.free();
                return Ok(Err(AllocError::OverBudget(error)));
            }
        }
        if let Ok(mut claim) = chains.look(head) {
            claim.clean();
        }
        table.count_row(0, kept.len());
        bump(&table.counters.admitted, 1);
        bump(&table.counters.grown, kept.len() as u64 - 1);
        Ok(Ok(()))
    }
}

fn no_room(table: &Table, error: AllocError) -> String {
    let name = table.config.name();
    match error {
        AllocError::OverBudget(over) => format!(
            "the budget of {} bytes has no room for all rows of the snapshot (at table `{name}`); raise it, or restore with Policy::Fiited, which leaves out what matters least",
            over.limit
        ),
        AllocError::IndexSpace => format!("all chunk indices are in use at table `{name}`; use a larger chunk"),
    }
}
