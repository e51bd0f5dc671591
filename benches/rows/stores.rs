//! What is measured, behind one trait: flat arrays, dimslab, and maps (`maps.rs`).

use super::arena::{Arena, Pages, RATE};
use super::indexed::Indexed;
use super::maps;
use crate::Outcome;
use crate::keys::mix;
use dimslab::simd::Kernels;
use dimslab::{HugePages, Optimizer, Policy, Pooling, Store, StoreConfig, TableConfig, TableId};
use std::sync::Arc;

/// Rows of one dimension by key. A key's lower half is its number below the store's size, from which a flat array finds
/// its row; the upper half tells how often that number was given to a new key.
///
/// Every key that is read, stepped or removed is there, and every key that is inserted is not.
pub(crate) trait RowStore: Sync {
    /// Makes rows of zeros.
    fn insert(&self, keys: &[u64]);
    /// Removes rows.
    fn remove(&self, keys: &[u64]);
    /// Copies rows to `out`, `[keys, dim]`.
    fn gather(&self, keys: &[u64], out: &mut [f32]);
    /// Sums bags of `BAG` rows to `out`, `[keys / BAG, dim]`.
    fn pool(&self, keys: &[u64], out: &mut [f32]);
    /// One step of gradient descent at [`RATE`] with each gradient, `[keys, dim]`.
    fn update(&self, keys: &[u64], grads: &[f32]);
    /// Called once all `rows` rows are there, before anything is timed. Returns whether they still are, and whole.
    fn settle(&self, _rows: u64) -> Outcome<bool> {
        Ok(true)
    }
}

/// Rows of a bag.
pub(crate) const BAG: usize = 8;

/// A store that can be made, by name.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    /// A flat array, on pages of a size, asking for rows so far ahead (0: not at all).
    Flat(Pages, usize),
    /// A line of an index, then a row.
    Indexed,
    /// Chunks of so many dimensions (0: the longest), which rows it has, and on what pages.
    Dimslab(usize, Lengths, HugePages),
    Map(maps::Index, maps::Place),
}

/// How long the rows of a dimslab store are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Lengths {
    /// All whole, and no policy: what a map would be.
    Full,
    /// All whole, under the default policy, which counts what it sees.
    Counted,
    /// As the policy leaves them at half of the bytes.
    Mixed,
}

pub(crate) const AHEAD: usize = 16;

/// The flat array that everything is compared with.
pub(crate) const CEILING: &str = "flat, huge pages, prefetch";

/// The store as it can be set to be faster, for the price of a pause when a page is first used.
pub(crate) const HUGE: &str = "dimslab, huge pages";

/// The one that any program would begin with.
pub(crate) const FLAT: &str = "flat";

/// All kinds, with the names by which they are chosen and told.
pub(crate) fn kinds() -> Vec<(String, Kind)> {
    let mut kinds = vec![
        (CEILING.to_owned(), Kind::Flat(Pages::Huge, AHEAD)),
        ("flat, prefetch".to_owned(), Kind::Flat(Pages::Small, AHEAD)),
        (FLAT.to_owned(), Kind::Flat(Pages::Small, 0)),
        ("index line, then row".to_owned(), Kind::Indexed),
        ("dimslab".to_owned(), Kind::Dimslab(0, Lengths::Full, HugePages::Later)),
        (HUGE.to_owned(), Kind::Dimslab(0, Lengths::Full, HugePages::FirstUse)),
        ("dimslab, default policy".to_owned(), Kind::Dimslab(0, Lengths::Counted, HugePages::Later)),
        ("dimslab, mixed lengths".to_owned(), Kind::Dimslab(0, Lengths::Mixed, HugePages::Later)),
    ];
    for chunk in [4, 16] {
        kinds.push((format!("dimslab, chunk {chunk}"), Kind::Dimslab(chunk, Lengths::Full, HugePages::Later)));
        kinds.push((
            format!("dimslab, chunk {chunk}, mixed lengths"),
            Kind::Dimslab(chunk, Lengths::Mixed, HugePages::Later),
        ));
    }
    for index in maps::INDEXES {
        kinds.push((format!("{} -> slot", index.name()), Kind::Map(index, maps::Place::Slot)));
        if index.has_boxes() {
            kinds.push((format!("{} -> box", index.name()), Kind::Map(index, maps::Place::Box)));
        }
    }
    kinds
}

/// Arrays that several stores may share: nobody looks at values while they are timed, and two copies would not fit.
pub(crate) struct Arenas {
    rows: u64,
    dim: usize,
    /// Whether each store gets its own.
    fresh: bool,
    /// Of the arrays that maps have their slots in.
    slots: Pages,
    shared: [Option<Arc<Arena>>; 2],
}

impl Arenas {
    /// One array for all stores that are of the same pages.
    pub(crate) fn shared(rows: u64, dim: usize) -> Arenas {
        Arenas { rows, dim, fresh: false, slots: Pages::Huge, shared: [None, None] }
    }

    /// One array for each store, with slots on pages of that size.
    pub(crate) fn fresh(rows: u64, dim: usize, slots: Pages) -> Arenas {
        Arenas { rows, dim, fresh: true, slots, shared: [None, None] }
    }

    fn get(&mut self, pages: Pages) -> Outcome<Arc<Arena>> {
        if self.fresh {
            return Ok(Arc::new(Arena::new(self.rows, self.dim, pages)?));
        }
        let shared = &mut self.shared[usize::from(pages == Pages::Huge)];
        if let Some(arena) = shared {
            return Ok(Arc::clone(arena));
        }
        let arena = Arc::new(Arena::new(self.rows, self.dim, pages)?);
        *shared = Some(Arc::clone(&arena));
        Ok(arena)
    }

    /// An empty store for `rows` rows.
    pub(crate) fn make(&mut self, kind: Kind) -> Outcome<Box<dyn RowStore>> {
        let (rows, dim, slots) = (self.rows, self.dim, self.slots);
        Ok(match kind {
            Kind::Flat(pages, ahead) => Box::new(Flat { arena: self.get(pages)?, ahead, simd: Kernels::get() }),
            Kind::Indexed => Box::new(Indexed::new(rows, dim)?),
            Kind::Dimslab(chunk, lengths, pages) => Box::new(Dimslab::new(rows, dim, chunk, lengths, pages)?),
            Kind::Map(index, place) => maps::make(index, place, dim, || self.get(slots))?,
        })
    }
}

struct Flat {
    arena: Arc<Arena>,
    ahead: usize,
    simd: Kernels,
}

impl Flat {
    fn each(&self, keys: &[u64], mut visit: impl FnMut(usize, usize)) {
        let row = |key: u64| key as u32 as usize;
        if self.ahead == 0 {
            keys.iter().enumerate().for_each(|(position, &key)| visit(position, row(key)));
            return;
        }
        keys.iter().take(self.ahead).for_each(|&key| self.arena.prefetch(row(key)));
        for (position, &key) in keys.iter().enumerate() {
            if let Some(&later) = keys.get(position + self.ahead) {
                self.arena.prefetch(row(later));
            }
            visit(position, row(key));
        }
    }
}

impl RowStore for Flat {
    fn insert(&self, keys: &[u64]) {
        let zeros = vec![0.0; self.arena.dim()];
        self.each(keys, |_, row| self.arena.write(row, &zeros));
    }

    fn remove(&self, _keys: &[u64]) {}

    fn gather(&self, keys: &[u64], out: &mut [f32]) {
        let dim = self.arena.dim();
        self.each(keys, |position, row| self.arena.read(row, &mut out[position * dim..(position + 1) * dim]));
    }

    fn pool(&self, keys: &[u64], out: &mut [f32]) {
        let dim = self.arena.dim();
        out.fill(0.0);
        self.each(keys, |position, row| {
            self.arena.add_to(row, self.simd, &mut out[position / BAG * dim..(position / BAG + 1) * dim]);
        });
    }

    fn update(&self, keys: &[u64], grads: &[f32]) {
        let dim = self.arena.dim();
        self.each(keys, |position, row| {
            self.arena.step(row, self.simd, &grads[position * dim..(position + 1) * dim]);
        });
    }
}

/// A dimslab store of one table.
struct Dimslab {
    store: Store,
    /// Of rows that are inserted: long enough for any call.
    grads: Vec<f32>,
    dim: usize,
    lengths: Lengths,
    offsets: Vec<usize>,
}

/// The most keys of one call.
pub(crate) const KEYS_MAX: usize = 2048;

fn table() -> TableId {
    TableId::new(0)
}

/// The longest chunk of a dimension: the fewest bytes beside the weights.
pub(crate) fn longest_chunk(dim: usize) -> usize {
    dim.clamp(4, 128)
}

/// A budget in which so many rows have ample room.
pub(crate) fn ample(rows: u64, dim: usize, chunk: usize) -> u64 {
    rows * (dim * 4 + dim.div_ceil(chunk) * 12 + 40) as u64 / 4 * 5 + (64 << 20)
}

impl Dimslab {
    fn new(rows: u64, dim: usize, chunk: usize, lengths: Lengths, pages: HugePages) -> Outcome<Dimslab> {
        let chunk = if chunk == 0 { longest_chunk(dim) } else { chunk };
        let rule = TableConfig::new("rows", dim).chunk(chunk).optimizer(Optimizer::Sgd { lr: RATE });
        let config = StoreConfig::new(ample(rows, dim, chunk)).huge_pages(pages);
        let config = if lengths == Lengths::Full { config.policy(Policy::None) } else { config };
        let offsets = (0..=KEYS_MAX / BAG).map(|bag| bag * BAG).collect();
        Ok(Dimslab { store: Store::new(config, vec![rule])?, grads: vec![1.0; KEYS_MAX * dim], dim, lengths, offsets })
    }
}

const LEGAL: &str = "legal arguments and ample room";

impl RowStore for Dimslab {
    fn insert(&self, keys: &[u64]) {
        self.store.apply_gradients(table(), keys, &self.grads[..keys.len() * self.dim]).expect(LEGAL);
    }

    fn remove(&self, keys: &[u64]) {
        for &key in keys {
            self.store.remove(table(), key).expect(LEGAL);
        }
    }

    fn gather(&self, keys: &[u64], out: &mut [f32]) {
        self.store.gather(table(), keys, out).expect(LEGAL);
    }

    fn pool(&self, keys: &[u64], out: &mut [f32]) {
        let offsets = &self.offsets[..=keys.len() / BAG];
        self.store.gather_pooled(table(), keys, offsets, Pooling::Sum, out).expect(LEGAL);
    }

    fn update(&self, keys: &[u64], grads: &[f32]) {
        self.store.apply_gradients(table(), keys, grads).expect(LEGAL);
    }

    /// Gives each chunk an importance of its own, beside which that of the fill is nothing, and takes half of the bytes.
    fn settle(&self, rows: u64) -> Outcome<bool> {
        let chunk = self.store.stats().tables[0].chunk_dim;
        if self.lengths == Lengths::Mixed {
            let mut grads = vec![0.0; KEYS_MAX * self.dim];
            for first in (0..rows).step_by(KEYS_MAX) {
                let keys: Vec<u64> = (first..rows.min(first + KEYS_MAX as u64)).collect();
                for (key, row) in keys.iter().zip(grads.chunks_exact_mut(self.dim)) {
                    for (ordinal, grads) in row.chunks_mut(chunk).enumerate() {
                        let size = (mix(key ^ (ordinal as u64) << 40) >> 40) as f32 / (1u64 << 24) as f32;
                        grads.fill((0.1 + size) * 1e12 * 0.8f32.powi(ordinal as i32));
                    }
                }
                self.update(&keys, &grads[..keys.len() * self.dim]);
            }
            let stats = self.store.stats();
            self.store.prune_to(stats.held - stats.weights / 2)?;
        }
        crate::settle::wait_for_moves()?;
        let stats = self.store.stats();
        let beside = stats.held - stats.free - stats.sketch - stats.weights;
        eprintln!(
            "dimslab, dim {}, chunk {chunk}: {} rows of {:.2} chunks, {:.1} bytes a row beside the weights",
            self.dim,
            stats.rows,
            stats.chunks as f64 / stats.rows as f64,
            beside as f64 / stats.rows as f64,
        );
        Ok(self.lengths != Lengths::Mixed)
    }
}
