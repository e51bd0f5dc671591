//! The store: tables over shared slabs, under one budget, with one policy.

mod adder;
mod bell;
mod check;
mod clock;
mod compact;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod gather;
mod grow;
mod iter;
#[cfg(not(any(shuttle, fuzzing)))]
mod mover;
mod newcomers;
mod pace;
mod plan;
mod policy;
#[cfg(all(test, not(any(loom, shuttle))))]
mod progress;
mod pruner;
mod rechunk;
mod restore;
mod round;
#[cfg(all(test, not(any(loom, shuttle))))]
mod round_tests;
mod saved;
mod saver;
mod shared_rows;
mod snapshot;
mod state;
mod stats;
mod table;
mod update;
mod validate;

pub use iter::{Row, Rows};
pub use restore::Restore;
pub use snapshot::{LiveSnapshot, SnapshotKind};
pub use stats::{Events, Stats, TableStats};

use crate::budget::Budget;
#[cfg(not(any(shuttle, fuzzing)))]
use crate::config::HugePages;
use crate::config::{Decay, Policy, StoreConfig, TableConfig};
use crate::directory::Directory;
use crate::error::{ConfigError, StoreError, Violation};
use crate::id::TableId;
use crate::moment::Moment;
use crate::reclaim::{Reclaimer, Slabs};
use crate::sketch::Sketch;
use crate::slab::Slab;
use crate::superblocks::{AllocError, Superblocks};
use crate::sync::{AtomicBool, AtomicU32, Mutex};
use clock::Clock;
use grow::{Candidate, Growth};
#[cfg(not(any(shuttle, fuzzing)))]
use mover::Mover;
use newcomers::Newcomers;
use plan::Plan;
use pruner::Pruner;
use round::RoundScratch;
use saved::Saved;
use std::sync::Arc;
use table::Table;

/// How the rows of a bag become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Their sum.
    Sum,
    /// Their sum divided by their number; an empty bag is zero.
    Mean,
}

impl Pooling {
    /// The weight of each row of bag `bag`.
    fn weight(self, offsets: &[usize], bag: usize) -> f32 {
        match self {
            Pooling::Sum => 1.0,
            Pooling::Mean => 1.0 / (offsets[bag + 1] - offsets[bag]).max(1) as f32,
        }
    }
}

/// What a call with gradients did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Distinct keys of the batch.
    pub unique: u64,
    /// Keys whose row was there and was stepped.
    pub updated: u64,
    /// Keys without a row when their turn came: their gradients trained no row, only counted for importance.
    pub missed: u64,
    /// Rows that were made.
    pub admitted: u64,
    /// Chunks that rows grew by.
    pub grown: u64,
    /// Rows and chunks refused for want of room.
    pub refused: u64,
}

/// What the end of a step did. In a store that is not deterministic all but the step's number is empty: chunks are made
/// in [`Store::apply_gradients`], whose [`Applied`] counts them, and rounds run on the pruning thread.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StepReport {
    /// Number of the step, from 1.
    pub step: u64,
    /// Rows that were made.
    pub admitted: u64,
    /// Chunks that rows grew by.
    pub grown: u64,
    /// Rows and chunks refused for want of room.
    pub refused: u64,
    /// The pruning round that ran within this step, if one did.
    pub round: Option<PruneReport>,
}

/// What a pruning round did.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PruneReport {
    /// Chunks below this importance went: 0 if none had to, infinite if none was too important to go.
    pub threshold: f32,
    /// Chunks taken from rows that stayed.
    pub shrunk: u64,
    /// Rows that lost their last chunk.
    pub evicted: u64,
    /// Chunks moved to empty sparse superblocks.
    pub moved: u64,
}

/// Everything but the pruning thread.
struct Inner {
    config: StoreConfig,
    budget: Arc<Budget>,
    superblocks: Arc<Superblocks>,
    slabs: Arc<Slabs>,
    reclaimer: Arc<Reclaimer>,
    tables: Vec<Table>,
    sketch: Option<Sketch>,
    /// Bytes held from beginning to end: bookkeeping, sketch, shared rows.
    fixed_bytes: u64,
    clock: Clock,
    /// The importance below which the last round took chunks.
    threshold: AtomicU32,
    /// How many times more important than that a missing chunk must be to be grown.
    price: AtomicU32,
    /// Times the policy's headroom that a round leaves free: more where rounds have to wait for one another.
    breadth: AtomicU32,
    /// Growth was refused since the last round.
    pressure: AtomicBool,
    /// Deterministic mode: what waits for the end of the step.
    pending: Mutex<Vec<Candidate>>,
    newcomers: Mutex<Newcomers>,
    round: Mutex<RoundScratch>,
    /// Of the newest snapshot.
    moment: Arc<Moment>,
    saved: Saved,
}

/// Embedding rows of one or more tables in a hard memory budget.
///
/// All methods take `&self` and may be called from any threads at once. See the [crate's page](crate) for an example
/// and for what a reader may see.
pub struct Store {
    inner: Arc<Inner>,
    pruner: Option<Pruner>,
    #[cfg(not(any(shuttle, fuzzing)))]
    mover: Option<Mover>,
}

impl Store {
    /// Makes a store with the given tables; [`TableId`]s follow their order.
    ///
    /// # Errors
    /// [`ConfigError`] if a setting is out of range, if the budget cannot hold one row of each table, or if the system
    /// refuses the address range.
    pub fn new(config: StoreConfig, tables: Vec<TableConfig>) -> Result<Store, ConfigError> {
        Store::with(Inner::new(config, tables)?)
    }

    /// A store of what it is made of, with its threads.
    fn with(inner: Inner) -> Result<Store, ConfigError> {
        let inner = Arc::new(inner);
        let background = inner.sketch.is_some() && !inner.config.deterministic;
        let pruner = if background { Some(Pruner::start(&inner)?) } else { None };
        #[cfg(not(any(shuttle, fuzzing)))]
        let later = inner.config.huge_pages != HugePages::Never && inner.superblocks.can_be_moved();
        Ok(Store {
            pruner,
            #[cfg(not(any(shuttle, fuzzing)))]
            mover: if later { Some(Mover::start(&inner)?) } else { None },
            inner,
        })
    }

    /// The table called `name`.
    pub fn table(&self, name: &str) -> Option<TableId> {
        self.inner.tables.iter().position(|table| table.config.name == name).map(TableId::new)
    }

    /// Number of tables.
    pub fn table_count(&self) -> usize {
        self.inner.tables.len()
    }

    /// A table's dimension.
    ///
    /// # Errors
    /// [`StoreError::UnknownTable`].
    pub fn dim(&self, table: TableId) -> Result<usize, StoreError> {
        Ok(self.inner.table(table)?.layout.dim)
    }

    /// Copies the rows of `keys` to `out`, `[keys.len(), dim]`, row after row. Dimensions without a chunk read as the
    /// table's [`Fallback`](crate::Fallback). Each row is of one moment: never half an update.
    ///
    /// # Errors
    /// [`StoreError::UnknownTable`], [`StoreError::Length`]; `out` is then untouched.
    pub fn gather(&self, table: TableId, keys: &[u64], out: &mut [f32]) -> Result<(), StoreError> {
        let table = self.inner.table(table)?;
        table.check_length("out", out.len(), keys.len())?;
        self.inner.gather(table, keys, out);
        Ok(())
    }

    /// Pools the rows of each bag into `out`, `[bags, dim]`. Bag `b` is `keys[offsets[b]..offsets[b + 1]]`, so there is
    /// one more offset than bags. An empty bag is zero.
    ///
    /// # Errors
    /// [`StoreError::UnknownTable`], [`StoreError::Offsets`], [`StoreError::Length`]; `out` is then untouched.
    pub fn gather_pooled(
        &self,
        table: TableId,
        keys: &[u64],
        offsets: &[usize],
        pooling: Pooling,
        out: &mut [f32],
    ) -> Result<(), StoreError> {
        let table = self.inner.table(table)?;
        table.check_offsets(offsets, keys.len())?;
        table.check_length("out", out.len(), offsets.len() - 1)?;
        self.inner.gather_pooled(table, keys, offsets, pooling, out);
        Ok(())
    }

    /// Trains the rows of `keys` with their gradients, `[keys.len(), dim]`: gradients of a key that occurs more than
    /// once are summed first, then every row takes one optimizer step. Gradients of dimensions without a chunk train
    /// the fallback and count for the row's importance; what has earned a chunk gets it at once, or, in a deterministic
    /// store, in [`step`](Self::step).
    ///
    /// # Errors
    /// [`StoreError::UnknownTable`], [`StoreError::Length`], [`StoreError::NotFinite`]: nothing was done. With
    /// [`Policy::None`], [`StoreError::BudgetExhausted`] or [`StoreError::IndexSpace`]: all that had room was done.
    pub fn apply_gradients(&self, table: TableId, keys: &[u64], grads: &[f32]) -> Result<Applied, StoreError> {
        self.notice_growth();
        let (id, table) = (table, self.inner.table(table)?);
        table.check_length("the gradient", grads.len(), keys.len())?;
        let dim = table.layout.dim;
        table.check_finite(grads, |row| keys[row])?;
        let (applied, growth) = self.inner.apply(id, table, keys, |row| (&grads[row * dim..(row + 1) * dim], 1.0));
        self.finish(applied, growth)
    }

    /// Like [`apply_gradients`](Self::apply_gradients) with the gradients of pooled rows, `[bags, dim]`: each key of a
    /// bag gets the bag's gradient, divided by the bag's size for [`Pooling::Mean`].
    ///
    /// # Errors
    /// As [`apply_gradients`](Self::apply_gradients), and [`StoreError::Offsets`].
    pub fn apply_pooled_gradients(
        &self,
        table: TableId,
        keys: &[u64],
        offsets: &[usize],
        pooling: Pooling,
        grads: &[f32],
    ) -> Result<Applied, StoreError> {
        self.notice_growth();
        let (id, table) = (table, self.inner.table(table)?);
        table.check_offsets(offsets, keys.len())?;
        table.check_length("the gradient", grads.len(), offsets.len() - 1)?;
        let dim = table.layout.dim;
        table.check_finite(grads, |bag| keys.get(offsets[bag]).copied().unwrap_or(0))?;
        let bags = offsets.windows(2).enumerate();
        let bag_of: Vec<usize> = bags.flat_map(|(bag, ends)| std::iter::repeat_n(bag, ends[1] - ends[0])).collect();
        let (applied, growth) = self.inner.apply(id, table, keys, |position| {
            let bag = bag_of[position];
            (&grads[bag * dim..(bag + 1) * dim], pooling.weight(offsets, bag))
        });
        self.finish(applied, growth)
    }

    /// Of the calls before: the mover waits for growth to go by.
    fn notice_growth(&self) {
        #[cfg(not(any(shuttle, fuzzing)))]
        if let Some(mover) = &self.mover {
            mover.notice(&self.inner);
        }
    }

    fn finish(&self, mut applied: Applied, growth: Growth) -> Result<Applied, StoreError> {
        applied.admitted = growth.admitted;
        applied.grown = growth.grown;
        applied.refused = growth.refused;
        self.inner.refusal(&growth)?;
        Ok(applied)
    }

    /// Ends a training step: utilities decay by one step. In a deterministic store this is also when chunks that were
    /// earned in the step are made, and when pruning rounds run; otherwise the pruning thread is told if one is due.
    ///
    /// # Errors
    /// With [`Policy::None`], as [`apply_gradients`](Self::apply_gradients). [`StoreError::PrunerEnded`] if the pruning
    /// thread has panicked: the step was counted, and nothing prunes any more but [`prune`](Self::prune).
    pub fn step(&self) -> Result<StepReport, StoreError> {
        let step = self.inner.clock.advance(self.inner.live_rows());
        self.inner.move_price(false);
        self.inner.look_at_newcomers();
        let mut report = StepReport { step, ..StepReport::default() };
        if self.inner.config.deterministic {
            let growth = self.inner.grow_pending();
            report.admitted = growth.admitted;
            report.grown = growth.grown;
            report.refused = growth.refused;
            if self.inner.round_is_due() {
                report.round = Some(self.inner.round());
            }
            self.inner.refusal(&growth)?;
        } else if let Some(pruner) = &self.pruner {
            if pruner.has_ended() {
                return Err(StoreError::PrunerEnded);
            }
            if self.inner.round_is_due() {
                pruner.wake();
            }
        }
        Ok(report)
    }

    /// Runs a pruning round now, whether or not one is due, and returns when it is over. Training goes on meanwhile.
    ///
    /// # Errors
    /// None today: a round that can take nothing, as under [`Policy::None`], reports that it took nothing.
    pub fn prune(&self) -> Result<PruneReport, StoreError> {
        Ok(self.inner.round())
    }

    /// Takes the least important chunks until at most `held` bytes are held, gives the memory back to the system, and
    /// returns when it is over; training goes on meanwhile. The budget stays as it is, so rows grow again when their
    /// importance asks for it.
    ///
    /// # Errors
    /// [`StoreError::NoPolicy`] under [`Policy::None`], which knows no importance; [`StoreError::HeldTooSmall`] if the
    /// store holds more than that without a row. Nothing was taken then.
    pub fn prune_to(&self, held: u64) -> Result<PruneReport, StoreError> {
        if self.inner.sketch.is_none() {
            return Err(StoreError::NoPolicy { what: "prune to a size" });
        }
        let least = self.inner.least_held();
        if held < least {
            return Err(StoreError::HeldTooSmall { asked: held, least });
        }
        Ok(self.inner.round_to(held))
    }

    /// Figures of this moment. Walks the superblocks, not the rows.
    pub fn stats(&self) -> Stats {
        self.inner.stats()
    }

    /// Removes a row, whatever its importance. Returns whether it was there.
    ///
    /// # Errors
    /// [`StoreError::UnknownTable`].
    pub fn remove(&self, table: TableId, key: u64) -> Result<bool, StoreError> {
        Ok(self.inner.remove_row(self.inner.table(table)?, key))
    }

    /// Lists a table's rows.
    ///
    /// # Errors
    /// [`StoreError::UnknownTable`].
    pub fn iter(&self, table: TableId) -> Result<Rows<'_>, StoreError> {
        Ok(Rows::new(&self.inner, self.inner.table(table)?))
    }

    /// Walks everything and checks the invariants of the design: conservation of records and of bytes, chains, counts.
    /// For tests and quiet moments: calls that run beside it may make it report what is no defect.
    ///
    /// # Errors
    /// The first broken invariant.
    pub fn validate(&self) -> Result<(), Violation> {
        self.inner.validate()
    }

    /// Sets a table's learning rate for the calls that begin after this one.
    ///
    /// # Errors
    /// [`StoreError::UnknownTable`]; [`StoreError::Setting`] if the rate is negative or not finite.
    pub fn set_learning_rate(&self, table: TableId, rate: f32) -> Result<(), StoreError> {
        let table = self.inner.table(table)?;
        if !(rate.is_finite() && rate >= 0.0) {
            let expected = "a finite number of at least 0";
            return Err(StoreError::Setting {
                table: table.config.name.clone(),
                what: "the learning rate",
                found: rate,
                expected,
            });
        }
        table.set_learning_rate(rate);
        Ok(())
    }
}

impl Inner {
    fn new(config: StoreConfig, tables: Vec<TableConfig>) -> Result<Inner, ConfigError> {
        config.check(&tables)?;
        let plan = Plan::new(&config, &tables)?;
        let too_small = |_| plan.too_small(&config, tables.len());
        let budget = Arc::new(Budget::new(config.budget));
        budget.reserve(plan.fixed_bytes).map_err(too_small)?;
        let reserve =
            |source| ConfigError::Reserve { bytes: u64::from(plan.superblocks) * plan.superblock_bytes as u64, source };
        let superblocks =
            Superblocks::new(plan.superblocks, plan.superblock_bytes, Arc::clone(&budget)).map_err(reserve)?;
        #[cfg(not(any(shuttle, fuzzing)))]
        if config.huge_pages == HugePages::FirstUse {
            superblocks.ask_for_huge_pages().map_err(ConfigError::HugePages)?;
        }
        let superblocks = Arc::new(superblocks);
        let slab = |(number, &words): (usize, &usize)| Slab::new(number as u32, words, Arc::clone(&superblocks));
        let slabs = Arc::new(Slabs::new(plan.record_words.iter().enumerate().map(slab).collect()));
        let mut made = Vec::with_capacity(tables.len());
        let moment = Arc::new(Moment::new(plan.image_bytes));
        for ((number, table), layout) in (0..).zip(&tables).zip(&plan.layouts) {
            let slabs = (plan.slab_of(layout.head_words()), plan.slab_of(layout.tail_words()));
            let of = (number, Arc::clone(&moment));
            let table = Table::new(table.clone(), layout.clone(), slabs, config.seed, Arc::clone(&budget), of);
            made.push(table.map_err(too_small)?);
        }
        let (decay, sketch) = match &config.policy {
            Policy::None => (Decay::PerStep(1.0), None),
            Policy::Fiited(policy) => (policy.decay, Some(Sketch::new(plan.sketch_bytes))),
        };
        Ok(Inner {
            budget,
            superblocks,
            slabs,
            reclaimer: Reclaimer::new(),
            tables: made,
            sketch,
            fixed_bytes: plan.fixed_bytes,
            clock: Clock::new(decay),
            threshold: AtomicU32::new(0),
            price: AtomicU32::new(0),
            breadth: AtomicU32::new(1f32.to_bits()),
            pressure: AtomicBool::new(false),
            pending: Mutex::new(Vec::new()),
            newcomers: Mutex::new(Newcomers::new(&config.policy)),
            round: Mutex::new(RoundScratch::new()),
            moment,
            saved: Saved::new(plan.removed_bytes),
            config,
        })
    }

    fn table(&self, id: TableId) -> Result<&Table, StoreError> {
        self.tables.get(id.index()).ok_or(StoreError::UnknownTable { table: id, tables: self.tables.len() })
    }

    /// What is held without a row: everything fixed, and empty directories.
    fn least_held(&self) -> u64 {
        self.fixed_bytes + self.tables.len() as u64 * Directory::EMPTY_BYTES
    }

    fn live_rows(&self) -> u64 {
        self.tables.iter().map(Table::live_rows).sum()
    }

    /// Deterministic mode: grows what earned it in this step, whatever the order in which threads reported it.
    fn grow_pending(&self) -> Growth {
        let mut pending = std::mem::take(&mut *self.pending.lock());
        // Stable: each table's candidates came from one thread and are in its batches' order.
        pending.sort_by_key(|candidate| candidate.table);
        let growth = self.grow(pending, &self.reclaimer.pin());
        self.collect();
        growth
    }

    /// Without a policy nothing can make room, so a refusal is an error. Under one it is counted, and asked for again: even
    /// a lack of indices may only mean that a look at all superblocks was overtaken by others.
    fn refusal(&self, growth: &Growth) -> Result<(), StoreError> {
        let refused = growth.refused;
        match (&self.config.policy, growth.reason) {
            (Policy::None, Some(AllocError::OverBudget(over))) => {
                Err(StoreError::BudgetExhausted { limit: over.limit, held: over.held, asked: over.asked, refused })
            }
            (Policy::None, Some(AllocError::IndexSpace)) => Err(StoreError::IndexSpace { refused }),
            _ => Ok(()),
        }
    }
}
