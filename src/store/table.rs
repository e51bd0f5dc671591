//! One table of a store: its settings, its directory, its counters.

use super::shared_rows::SharedRows;
use super::stats::Events;
use crate::budget::{Budget, OverBudget};
use crate::chain::{Chains, Ordinals, RowAt, RowLayout};
use crate::config::{Fallback, Init, Keys, TableConfig};
use crate::directory::Directory;
use crate::hash::{mix, tag, unmix};
use crate::id::ChunkIndex;
use crate::moment::Moment;
use crate::reclaim::Slabs;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crossbeam_epoch::Guard;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Figures that change while a table is used. Relaxed everywhere: nothing is published through them.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) admitted: AtomicU64,
    pub(super) grown: AtomicU64,
    pub(super) shrunk: AtomicU64,
    pub(super) evicted: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) missed: AtomicU64,
}

/// How fast a table's scale follows its gradients: about the last hundred batches.
const SCALE_RATE: f32 = 0.01;

pub(super) fn bump(counter: &AtomicU64, by: u64) {
    if by > 0 {
        counter.fetch_add(by, Ordering::Relaxed);
    }
}

/// See the module documentation.
pub(super) struct Table {
    pub(super) config: TableConfig,
    pub(super) layout: RowLayout,
    /// Numbers of the slabs of head and of tail records.
    pub(super) heads: usize,
    pub(super) tails: usize,
    pub(super) directory: Directory,
    /// Its position in the store.
    number: u32,
    moment: Arc<Moment>,
    seed: u64,
    pub(super) shared: Option<SharedRows>,
    pub(super) counters: Counters,
    /// Rows by their number of live chunks.
    pub(super) rows_by_chunks: Box<[AtomicU64]>,
    learning_rate: AtomicU32,
    scale: AtomicU32,
    /// Batches that the scale was learnt from.
    batches: AtomicU64,
    /// Bytes and rows of the directory when it was last tidied.
    tidied: (AtomicU64, AtomicU64),
}

impl Table {
    /// Heap bytes of a table beyond its directory, whose bytes the directory itself reserves.
    pub(super) fn fixed_bytes(config: &TableConfig, layout: &RowLayout) -> Option<u64> {
        let shared = SharedRows::bytes_for(config.fallback, config.dim, &config.optimizer)?;
        shared.checked_add((size_of::<Table>() + config.name.len() + (layout.chunks + 1) * 8) as u64)
    }

    pub(super) fn new(
        config: TableConfig,
        layout: RowLayout,
        slabs: (usize, usize),
        seed: u64,
        budget: Arc<Budget>,
        (number, moment): (u32, Arc<Moment>),
    ) -> Result<Table, OverBudget> {
        Ok(Table {
            heads: slabs.0,
            tails: slabs.1,
            directory: Directory::new(budget)?,
            number,
            moment,
            seed: config.hash_seed(seed),
            shared: SharedRows::new(config.fallback, config.dim, &config.optimizer),
            counters: Counters::default(),
            rows_by_chunks: (0..=layout.chunks).map(|_| AtomicU64::new(0)).collect(),
            learning_rate: AtomicU32::new(config.optimizer.learning_rate().to_bits()),
            scale: AtomicU32::new(0),
            batches: AtomicU64::new(0),
            tidied: (AtomicU64::new(0), AtomicU64::new(0)),
            config,
            layout,
        })
    }

    #[inline]
    pub(super) fn chains<'s>(&'s self, slabs: &'s Slabs) -> Chains<'s> {
        let records = (slabs.get(self.heads), slabs.get(self.tails));
        Chains::new(&self.layout, records, (&self.moment, self.number))
    }

    /// The hash of the row that a key names. The row's own key is this hash [turned back](Self::row_key).
    #[inline]
    pub(super) fn resolve(&self, key: u64) -> u64 {
        let hash = self.hash(key);
        match self.config.keys {
            Keys::Exact => hash,
            Keys::Hashed { virtual_rows } => self.hash(((u128::from(hash) * u128::from(virtual_rows)) >> 64) as u64),
        }
    }

    /// The hash of a row's own key.
    #[inline]
    pub(super) fn hash(&self, row_key: u64) -> u64 {
        mix(row_key, self.seed)
    }

    /// Puts the rows of the segment that has a tag in place of what is in `rows`, and returns where the next one begins.
    pub(super) fn rows_of_segment(&self, at: u32, guard: &Guard, rows: &mut Vec<RowAt>) -> Option<u32> {
        rows.clear();
        self.directory.walk(at, guard, |tag, head| rows.push((tag, head)))
    }

    /// The row's own key: for hashed keys, the number of the virtual row.
    pub(super) fn row_key(&self, hash: u64) -> u64 {
        unmix(hash, self.seed)
    }

    /// The row of a hash, if it is live.
    #[inline]
    pub(super) fn find(&self, chains: &Chains<'_>, hash: u64, guard: &Guard) -> Option<ChunkIndex> {
        self.directory.find(tag(hash), guard, |head| chains.probe(head, hash))
    }

    /// Its position in the store.
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    fn words(&self) -> [&AtomicU64; 9] {
        let Counters { admitted, grown, shrunk, evicted, refused, missed } = &self.counters;
        [admitted, grown, shrunk, evicted, refused, missed, &self.batches, &self.tidied.0, &self.tidied.1]
    }

    /// Counters and what else is counted, for a snapshot.
    pub(super) fn figures(&self) -> [u64; 9] {
        self.words().map(|word| word.load(Ordering::Relaxed))
    }

    /// Goes on from what [`figures`](Self::figures) gave.
    pub(super) fn set_figures(&self, figures: [u64; 9]) {
        self.words().into_iter().zip(figures).for_each(|(word, value)| word.store(value, Ordering::Relaxed));
    }

    pub(super) fn set_scale(&self, scale: f32) {
        self.scale.store(scale.to_bits(), Ordering::Relaxed);
    }

    pub(super) fn learning_rate(&self) -> f32 {
        f32::from_bits(self.learning_rate.load(Ordering::Relaxed))
    }

    pub(super) fn set_learning_rate(&self, rate: f32) {
        self.learning_rate.store(rate.to_bits(), Ordering::Relaxed);
    }

    /// The utility that counts as importance 1: the mean norm of a chunk's gradient, over the accesses of late.
    pub(super) fn scale(&self) -> f32 {
        f32::from_bits(self.scale.load(Ordering::Relaxed))
    }

    /// Follows the norm of a chunk's gradient, the mean over a batch's accesses: the plain average of the first batches,
    /// then of about the last hundred.
    pub(super) fn learn_scale(&self, mean: f32) {
        if mean == 0.0 {
            // Nothing to go by: rows that all read as zero may have no gradient at first.
            return;
        }
        let batches = self.batches.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let before = self.scale();
        let after = if before == 0.0 {
            mean.min(f32::MAX)
        } else {
            // A single batch of absurd gradients at most doubles it: a finite gradient's square may overflow, and an
            // infinite scale would be followed by one that is not a number.
            let rate = SCALE_RATE.max(1.0 / batches as f32);
            before + rate * (mean.min(before / rate) - before)
        };
        // Never zero again once set, so that it can be divided by. Two threads at once: one of the two means counts.
        self.scale.store(after.max(f32::MIN_POSITIVE).to_bits(), Ordering::Relaxed);
    }

    /// A row went from `before` live chunks to `after`.
    pub(super) fn count_row(&self, before: usize, after: usize) {
        if before > 0 {
            self.rows_by_chunks[before].fetch_sub(1, Ordering::Relaxed);
        }
        if after > 0 {
            self.rows_by_chunks[after].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Rows by their number of live chunks. A row that is changing may be counted out before it is counted in: never
    /// below zero for the reader.
    pub(super) fn dims_histogram(&self) -> Vec<u64> {
        self.rows_by_chunks.iter().map(|rows| (rows.load(Ordering::Relaxed) as i64).max(0) as u64).collect()
    }

    /// Whether tidying the directory may make it smaller: since it was last done the directory has changed its size, or
    /// rows have gone.
    pub(super) fn may_be_tidied(&self) -> bool {
        let (bytes, rows) = &self.tidied;
        self.directory.bytes() != bytes.load(Ordering::Relaxed) || self.live_rows() < rows.load(Ordering::Relaxed)
    }

    /// Notes that the directory is tidy now.
    pub(super) fn note_tidied(&self) {
        let (bytes, rows) = &self.tidied;
        bytes.store(self.directory.bytes(), Ordering::Relaxed);
        rows.store(self.live_rows(), Ordering::Relaxed);
    }

    pub(super) fn live_rows(&self) -> u64 {
        let (admitted, evicted) = (&self.counters.admitted, &self.counters.evicted);
        admitted.load(Ordering::Relaxed).saturating_sub(evicted.load(Ordering::Relaxed))
    }

    pub(super) fn events(&self) -> Events {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Events {
            admitted: read(&self.counters.admitted),
            grown: read(&self.counters.grown),
            shrunk: read(&self.counters.shrunk),
            evicted: read(&self.counters.evicted),
            refused: read(&self.counters.refused),
            missed: read(&self.counters.missed),
        }
    }

    /// Fills the dimensions of `out`, `[dim]`, that have no chunk in `live` with what stands in for them.
    #[inline]
    pub(super) fn read_missing(&self, hash: u64, live: &Ordinals, out: &mut [f32]) {
        if !live.are_all_of(self.layout.chunks) {
            self.read_fallback(hash, live, out);
        }
    }

    fn read_fallback(&self, hash: u64, live: &Ordinals, out: &mut [f32]) {
        let missing = (0..self.layout.chunks).filter(|&ordinal| !live.contains(ordinal));
        let missing = missing.map(|ordinal| self.layout.dims(ordinal));
        match &self.shared {
            None => missing.for_each(|dims| out[dims].fill(0.0)),
            Some(shared) => shared.read(self.shared_row(shared, hash), missing, out),
        }
    }

    #[inline]
    pub(super) fn shared_row(&self, shared: &SharedRows, hash: u64) -> usize {
        match self.config.fallback {
            Fallback::HashedRow { .. } => shared.row_for(hash),
            Fallback::DefaultVector | Fallback::Zero => 0,
        }
    }

    /// Whether a new chunk is the same for all rows and ordinals.
    pub(super) fn chunks_start_alike(&self) -> bool {
        self.shared.is_none() && self.config.init == Init::Zero
    }

    /// Fills `payload` with a new chunk of the row: the fallback's values plus the initial weights, then zero state.
    /// `row` is scratch, `[dim]`.
    pub(super) fn new_payload(&self, hash: u64, ordinal: usize, row: &mut Vec<f32>, payload: &mut [f32]) {
        let dims = self.layout.dims(ordinal);
        let weights = &mut payload[..self.layout.chunk];
        weights.fill(0.0);
        if self.shared.is_some() {
            row.resize(self.layout.dim, 0.0);
            self.read_missing(hash, &Ordinals::default(), row);
            weights[..dims.len()].copy_from_slice(&row[dims.clone()]);
        }
        if let Init::Uniform { bound } = self.config.init {
            for (weight, dim) in weights.iter_mut().zip(dims) {
                // The upper 24 bits, as a number in [-1, 1).
                let random = xxh3_64_with_seed(&(dim as u64).to_le_bytes(), hash) >> 40;
                *weight += bound * (random as f32 / (1u64 << 23) as f32 - 1.0);
            }
        }
        self.config.optimizer.init_state(payload, self.layout.chunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Optimizer, Policy, StoreConfig};
    use crate::hash::join;
    use crate::id::TableId;
    use crate::store::Store;

    #[test]
    fn an_overflowing_norm_does_not_spoil_the_scale() {
        let config = TableConfig::new("t", 4);
        let layout = RowLayout::new(4, 4, &config.optimizer);
        let table =
            Table::new(config, layout, (0, 0), 0, Arc::new(Budget::new(1 << 20)), (0, Arc::new(Moment::new(0))))
                .unwrap();
        for _ in 0..200 {
            table.learn_scale(1.0);
        }
        for mean in [1.0, f32::INFINITY, 1.0] {
            table.learn_scale(mean);
            assert!((1.0..=2.0).contains(&table.scale()), "{} after {mean}", table.scale());
        }
    }

    /// The head keeps half of a key's hash and the directory the other: neither half alone makes two keys one row.
    #[test]
    fn keys_that_share_half_of_their_hash_have_rows_of_their_own() {
        let config = StoreConfig::new(4 << 20).policy(Policy::None);
        let tables = vec![TableConfig::new("t", 4).optimizer(Optimizer::Sgd { lr: 1.0 })];
        let store = Store::new(config, tables).unwrap();
        let (table, id) = (&store.inner.tables[0], TableId::new(0));
        let halves = (0..40).flat_map(|tag| (0..40).map(move |low| (tag, low)));
        let keys: Vec<u64> = halves.map(|(tag, low)| table.row_key(join(tag << 20, low))).collect();
        let grads: Vec<f32> = (0..keys.len()).flat_map(|position| [-(position as f32); 4]).collect();
        for _ in 0..2 {
            // The first time makes the rows, the second steps them by -1 times the gradient.
            store.apply_gradients(id, &keys, &grads).unwrap();
        }
        let mut out = vec![0.0; grads.len()];
        store.gather(id, &keys, &mut out).unwrap();
        assert!(out.iter().zip(&grads).all(|(value, grad)| *value == -grad));
        store.validate().unwrap();
        let mut listed: Vec<u64> = store.iter(id).unwrap().map(|row| row.key).collect();
        let mut keys = keys;
        keys.sort_unstable();
        listed.sort_unstable();
        assert_eq!(listed, keys);
    }

    #[test]
    fn batches_without_gradients_do_not_set_the_scale() {
        let config = TableConfig::new("t", 4);
        let layout = RowLayout::new(4, 4, &config.optimizer);
        let table =
            Table::new(config, layout, (0, 0), 0, Arc::new(Budget::new(1 << 20)), (0, Arc::new(Moment::new(0))))
                .unwrap();
        table.learn_scale(0.0);
        assert_eq!(table.scale(), 0.0);
        [2.0, 4.0].into_iter().for_each(|mean| table.learn_scale(mean));
        assert_eq!(table.scale(), 3.0);
    }
}
