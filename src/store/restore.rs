//! Making a store from a snapshot: exactly as it was, or with other settings.

use super::adder::{Adder, NoRoom};
use super::rechunk::Rechunk;
use super::state::{Sections, figures_of};
use super::{Inner, Store};
use crate::config::{Policy, StoreConfig, TableConfig};
use crate::directory::{Directory, Misshapen, Shape};
use crate::snapshot::{Blocks, Manifest, RowBlock, RowRef, Section, SnapshotError};
use crate::sync::Mutex;
use std::sync::Arc;
use std::thread::ScopedJoinHandle;

/// Threads that enter rows. Reading is for one at a time, and takes each a third of its time.
const THREADS: usize = 3;

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
    /// A block's rows in chunks of the store's size.
    converted: RowBlock,
    /// Blocks come from a reader that has checked each of their rows.
    are_checked: bool,
}

/// What was done with a block.
struct Entered {
    /// Rows, the first ones.
    rows: usize,
    floor: f32,
    /// Chunks of those rows that stayed out.
    left_out: u64,
}

/// Blocks for several threads.
struct Stream<'b, 's> {
    blocks: &'b mut Blocks<'s>,
    /// No thread is to take one more.
    is_over: bool,
    /// Rows that were taken and for which there was no room.
    left: &'b mut Vec<RowBlock>,
}

/// What makes a store exactly what it was.
struct Exact {
    /// Shapes of the directories.
    shapes: Vec<Vec<Shape>>,
    figures: Vec<[u64; 9]>,
}

pub(super) fn refuse<T>(what: String) -> Result<T, SnapshotError> {
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
        Ok(Restore {
            inner,
            saved,
            step: manifest.step,
            exact,
            floor: 0.0,
            left_out: 0,
            converted: RowBlock::default(),
            are_checked: false,
        })
    }

    /// Adds rows, as a snapshot's reader hands them out: each key once, in any order.
    ///
    /// # Errors
    /// [`SnapshotError::Other`] if a row cannot be one of the table's, or if there is no room for it and nothing may make
    /// room.
    pub fn rows(&mut self, block: &RowBlock) -> Result<(), SnapshotError> {
        let prunes = !(self.exact.is_some() && self.inner.config.deterministic)
            && matches!(self.inner.config.policy, Policy::Fiited(_));
        let mut converted = std::mem::take(&mut self.converted);
        let no_room = if prunes { NoRoom::Prune } else { NoRoom::Refuse };
        let entered = self.enter(block, no_room, &mut converted)?;
        self.converted = converted;
        (self.floor, self.left_out) = (entered.floor, self.left_out + entered.left_out);
        Ok(())
    }

    /// Checks and enters rows. `converted` is memory for them in other chunks.
    fn enter(&self, block: &RowBlock, no_room: NoRoom, converted: &mut RowBlock) -> Result<Entered, SnapshotError> {
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
        if !self.are_checked {
            block.rows(saved).try_for_each(|row| check_row(saved, &row))?;
        }
        let rows = match rechunk {
            Some(rechunk) => {
                rechunk.convert(table, block, saved, converted);
                converted
            }
            None => block,
        };
        let mut adder = Adder::new(&self.inner, table, no_room, self.floor);
        let entered = adder.add(rows)?;
        Ok(Entered { rows: entered, floor: adder.floor, left_out: adder.left_out })
    }

    /// Adds all rows that a snapshot's reader hands out, on several threads where every setting is the snapshot's and there
    /// are processors for them.
    ///
    /// # Errors
    /// As [`rows`](Restore::rows), and those of the reader.
    pub fn blocks(&mut self, blocks: Blocks<'_>) -> Result<(), SnapshotError> {
        // The reader knows the tables that its snapshot is of, and a caller may have named another's.
        self.are_checked = blocks.tables().iter().eq(self.saved.iter().map(|(table, _)| table));
        let entered = self.all_blocks(blocks);
        self.are_checked = false;
        entered
    }

    fn all_blocks(&mut self, mut blocks: Blocks<'_>) -> Result<(), SnapshotError> {
        // An exact store has all its superblocks from the beginning, and no thread adds one because another holds the last
        // free records.
        let most = if self.exact.is_some() { THREADS } else { 1 };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(most);
        let mut left = Vec::new();
        let stream = Mutex::new(Stream { blocks: &mut blocks, is_over: threads == 1, left: &mut left });
        let this = &*self;
        let left_out = std::thread::scope(|scope| {
            let work = || this.add_abreast(&stream);
            let spawn = |_| std::thread::Builder::new().name("dimslab-loader".to_owned()).spawn_scoped(scope, work);
            // Where no thread can be had, this one does it all.
            let others: Vec<_> = (1..threads).filter_map(|number| spawn(number).ok()).collect();
            let ended = || SnapshotError::Other("a thread that entered rows ended early".to_owned());
            let join = |other: ScopedJoinHandle<'_, _>| other.join().unwrap_or_else(|_| Err(ended()));
            others.into_iter().map(join).fold(work(), |sum, more| Ok(sum? + more?))
        })?;
        self.left_out += left_out;
        // Where there is not room for all, what is left out or pruned is for one thread to see to.
        left.iter().try_for_each(|block| self.rows(block))?;
        let mut block = RowBlock::default();
        while blocks.next(&mut block)? {
            self.rows(&block)?;
        }
        Ok(())
    }

    /// Adds blocks beside other threads, until there are no more or there is no room. Returns the chunks that stayed out.
    fn add_abreast(&self, stream: &Mutex<Stream<'_, '_>>) -> Result<u64, SnapshotError> {
        let (mut block, mut converted, mut left_out) = (RowBlock::default(), RowBlock::default(), 0);
        loop {
            let mut taken = stream.lock();
            // Over for the others, too, if this fails.
            if std::mem::replace(&mut taken.is_over, true) || !taken.blocks.next(&mut block)? {
                return Ok(left_out);
            }
            taken.is_over = false;
            drop(taken);
            let entered =
                self.enter(&block, NoRoom::Stop, &mut converted).inspect_err(|_| stream.lock().is_over = true)?;
            left_out += entered.left_out;
            if entered.rows < block.keys.len() {
                let mut left = RowBlock { table: block.table, ..RowBlock::default() };
                let (saved, _) = &self.saved[block.table];
                block.rows(saved).skip(entered.rows).for_each(|row| left.push(row));
                let mut stream = stream.lock();
                stream.left.push(left);
                stream.is_over = true;
            }
        }
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
