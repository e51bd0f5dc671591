//! Concurrent maps, each in two forms: keys to slots of an array, or keys to rows of their own.
//!
//! All have the same hash function and grow from empty. Slots are looked up a wave at a time and the rows asked for, the
//! best that can be done around a map from outside; and their rows are read and written outside the map's locks, which a
//! program that also frees rows could not do.

use super::arena::{Arena, RATE};
use super::stores::{BAG, RowStore};
use crate::Outcome;
use dimslab::simd::Kernels;
use hashbrown::{DefaultHashBuilder, HashMap};
use parking_lot::{Mutex, RwLock};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The maps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Index {
    Sharded,
    Dashmap,
    Papaya,
    Scc,
}

pub(crate) const INDEXES: [Index; 4] = [Index::Sharded, Index::Dashmap, Index::Papaya, Index::Scc];

/// Where rows are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Place {
    Slot,
    Box,
}

impl Index {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Index::Sharded => "hashbrown in shards",
            Index::Dashmap => "dashmap",
            Index::Papaya => "papaya",
            Index::Scc => "scc",
        }
    }

    /// A value of papaya's cannot be written in place, so that its rows would be slots by another name.
    pub(crate) fn has_boxes(self) -> bool {
        self != Index::Papaya
    }
}

/// An empty map. `arena` is asked for the array of slots.
pub(crate) fn make(
    index: Index,
    place: Place,
    dim: usize,
    arena: impl FnOnce() -> Outcome<Arc<Arena>>,
) -> Outcome<Box<dyn RowStore>> {
    Ok(match (index, place) {
        (Index::Sharded, Place::Slot) => Box::new(Slots::new(Sharded::default(), arena()?)),
        (Index::Dashmap, Place::Slot) => Box::new(Slots::new(Dashmap::default(), arena()?)),
        (Index::Scc, Place::Slot) => Box::new(Slots::new(SccMap::default(), arena()?)),
        (Index::Papaya, _) => Box::new(Slots::new(papaya_map(), arena()?)),
        (Index::Sharded, Place::Box) => Box::new(Boxes { map: Sharded::default(), dim, simd: Kernels::get() }),
        (Index::Dashmap, Place::Box) => Box::new(Boxes { map: Dashmap::default(), dim, simd: Kernels::get() }),
        (Index::Scc, Place::Box) => Box::new(Boxes { map: SccMap::default(), dim, simd: Kernels::get() }),
    })
}

type Dashmap<V> = dashmap::DashMap<u64, V, DefaultHashBuilder>;
type SccMap<V> = scc::HashMap<u64, V, DefaultHashBuilder>;
type PapayaMap = papaya::HashMap<u64, u32, DefaultHashBuilder>;

/// Its default way of growing leaves lookups slow for long.
fn papaya_map() -> PapayaMap {
    let builder = papaya::HashMap::builder().resize_mode(papaya::ResizeMode::Blocking);
    builder.hasher(DefaultHashBuilder::default()).build()
}

const SHARDS: usize = 64;

struct Sharded<V> {
    shards: Vec<RwLock<HashMap<u64, V>>>,
}

impl<V> Default for Sharded<V> {
    fn default() -> Self {
        Sharded { shards: (0..SHARDS).map(|_| RwLock::default()).collect() }
    }
}

impl<V> Sharded<V> {
    fn shard(&self, key: u64) -> &RwLock<HashMap<u64, V>> {
        &self.shards[(key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 58) as usize % SHARDS]
    }
}

/// A map from keys to numbers.
trait ToSlot: Sync {
    /// Fills `slots`, `[keys]`.
    fn find(&self, keys: &[u64], slots: &mut [u32]);
    fn insert(&self, keys: &[u64], slots: &[u32]);
    /// Fills `slots`, `[keys]`, with those that are free again.
    fn remove(&self, keys: &[u64], slots: &mut [u32]);
}

const THERE: &str = "every key that is asked for is there";

impl ToSlot for Sharded<u32> {
    fn find(&self, keys: &[u64], slots: &mut [u32]) {
        for (key, slot) in keys.iter().zip(slots) {
            *slot = *self.shard(*key).read().get(key).expect(THERE);
        }
    }

    fn insert(&self, keys: &[u64], slots: &[u32]) {
        for (&key, &slot) in keys.iter().zip(slots) {
            self.shard(key).write().insert(key, slot);
        }
    }

    fn remove(&self, keys: &[u64], slots: &mut [u32]) {
        for (key, slot) in keys.iter().zip(slots) {
            *slot = self.shard(*key).write().remove(key).expect(THERE);
        }
    }
}

impl ToSlot for Dashmap<u32> {
    fn find(&self, keys: &[u64], slots: &mut [u32]) {
        for (key, slot) in keys.iter().zip(slots) {
            *slot = *self.get(key).expect(THERE);
        }
    }

    fn insert(&self, keys: &[u64], slots: &[u32]) {
        for (&key, &slot) in keys.iter().zip(slots) {
            self.insert(key, slot);
        }
    }

    fn remove(&self, keys: &[u64], slots: &mut [u32]) {
        for (key, slot) in keys.iter().zip(slots) {
            *slot = self.remove(key).expect(THERE).1;
        }
    }
}

impl ToSlot for PapayaMap {
    fn find(&self, keys: &[u64], slots: &mut [u32]) {
        let map = self.pin();
        for (key, slot) in keys.iter().zip(slots) {
            *slot = *map.get(key).expect(THERE);
        }
    }

    fn insert(&self, keys: &[u64], slots: &[u32]) {
        let map = self.pin();
        for (&key, &slot) in keys.iter().zip(slots) {
            map.insert(key, slot);
        }
    }

    fn remove(&self, keys: &[u64], slots: &mut [u32]) {
        let map = self.pin();
        for (key, slot) in keys.iter().zip(slots) {
            *slot = *map.remove(key).expect(THERE);
        }
    }
}

impl ToSlot for SccMap<u32> {
    fn find(&self, keys: &[u64], slots: &mut [u32]) {
        for (key, slot) in keys.iter().zip(slots) {
            *slot = self.read_sync(key, |_, &slot| slot).expect(THERE);
        }
    }

    fn insert(&self, keys: &[u64], slots: &[u32]) {
        for (&key, &slot) in keys.iter().zip(slots) {
            self.insert_sync(key, slot).expect("a new key");
        }
    }

    fn remove(&self, keys: &[u64], slots: &mut [u32]) {
        for (key, slot) in keys.iter().zip(slots) {
            *slot = self.remove_sync(key).expect(THERE).1;
        }
    }
}

/// Keys looked up before the first of their rows is touched.
const WAVE: usize = 32;

struct Slots<M> {
    map: M,
    arena: Arc<Arena>,
    free: Mutex<Vec<u32>>,
    unused: AtomicU32,
    simd: Kernels,
}

impl<M: ToSlot> Slots<M> {
    fn new(map: M, arena: Arc<Arena>) -> Slots<M> {
        Slots { map, arena, free: Mutex::default(), unused: AtomicU32::new(0), simd: Kernels::get() }
    }

    fn each(&self, keys: &[u64], mut visit: impl FnMut(usize, usize)) {
        let mut slots = [0; WAVE];
        for (wave, keys) in keys.chunks(WAVE).enumerate() {
            let slots = &mut slots[..keys.len()];
            self.map.find(keys, slots);
            slots.iter().for_each(|&slot| self.arena.prefetch(slot as usize));
            slots.iter().enumerate().for_each(|(position, &slot)| visit(wave * WAVE + position, slot as usize));
        }
    }
}

impl<M: ToSlot> RowStore for Slots<M> {
    fn insert(&self, keys: &[u64]) {
        let mut slots: Vec<u32> = {
            let mut free = self.free.lock();
            let kept = free.len().saturating_sub(keys.len());
            free.drain(kept..).collect()
        };
        let more = (keys.len() - slots.len()) as u32;
        let first = self.unused.fetch_add(more, Ordering::Relaxed);
        slots.extend(first..first + more);
        let zeros = vec![0.0; self.arena.dim()];
        slots.iter().for_each(|&slot| self.arena.write(slot as usize, &zeros));
        self.map.insert(keys, &slots);
    }

    fn remove(&self, keys: &[u64]) {
        let mut slots = vec![0; keys.len()];
        self.map.remove(keys, &mut slots);
        self.free.lock().extend(slots);
    }

    fn gather(&self, keys: &[u64], out: &mut [f32]) {
        let dim = self.arena.dim();
        self.each(keys, |position, slot| self.arena.read(slot, &mut out[position * dim..(position + 1) * dim]));
    }

    fn pool(&self, keys: &[u64], out: &mut [f32]) {
        let dim = self.arena.dim();
        out.fill(0.0);
        self.each(keys, |position, slot| {
            self.arena.add_to(slot, self.simd, &mut out[position / BAG * dim..(position / BAG + 1) * dim]);
        });
    }

    fn update(&self, keys: &[u64], grads: &[f32]) {
        let dim = self.arena.dim();
        self.each(keys, |position, slot| {
            self.arena.step(slot, self.simd, &grads[position * dim..(position + 1) * dim]);
        });
    }
}

type Row = Box<[f32]>;

/// A map from keys to rows, which are read and written under its locks.
trait ToRow: Sync {
    fn read(&self, key: u64, read: impl FnOnce(&[f32]));
    fn write(&self, key: u64, write: impl FnOnce(&mut [f32]));
    fn insert(&self, key: u64, row: Row);
    fn remove(&self, key: u64);
}

impl ToRow for Sharded<Row> {
    fn read(&self, key: u64, read: impl FnOnce(&[f32])) {
        read(self.shard(key).read().get(&key).expect(THERE));
    }

    fn write(&self, key: u64, write: impl FnOnce(&mut [f32])) {
        write(self.shard(key).write().get_mut(&key).expect(THERE));
    }

    fn insert(&self, key: u64, row: Row) {
        self.shard(key).write().insert(key, row);
    }

    fn remove(&self, key: u64) {
        self.shard(key).write().remove(&key).expect(THERE);
    }
}

impl ToRow for Dashmap<Row> {
    fn read(&self, key: u64, read: impl FnOnce(&[f32])) {
        read(&self.get(&key).expect(THERE));
    }

    fn write(&self, key: u64, write: impl FnOnce(&mut [f32])) {
        write(&mut self.get_mut(&key).expect(THERE));
    }

    fn insert(&self, key: u64, row: Row) {
        self.insert(key, row);
    }

    fn remove(&self, key: u64) {
        self.remove(&key).expect(THERE);
    }
}

impl ToRow for SccMap<Row> {
    fn read(&self, key: u64, read: impl FnOnce(&[f32])) {
        self.read_sync(&key, |_, row| read(row)).expect(THERE);
    }

    fn write(&self, key: u64, write: impl FnOnce(&mut [f32])) {
        self.update_sync(&key, |_, row| write(row)).expect(THERE);
    }

    fn insert(&self, key: u64, row: Row) {
        self.insert_sync(key, row).expect("a new key");
    }

    fn remove(&self, key: u64) {
        self.remove_sync(&key).expect(THERE);
    }
}

struct Boxes<M> {
    map: M,
    dim: usize,
    simd: Kernels,
}

impl<M: ToRow> RowStore for Boxes<M> {
    fn insert(&self, keys: &[u64]) {
        keys.iter().for_each(|&key| self.map.insert(key, vec![0.0; self.dim].into_boxed_slice()));
    }

    fn remove(&self, keys: &[u64]) {
        keys.iter().for_each(|&key| self.map.remove(key));
    }

    fn gather(&self, keys: &[u64], out: &mut [f32]) {
        for (&key, out) in keys.iter().zip(out.chunks_exact_mut(self.dim)) {
            self.map.read(key, |row| out.copy_from_slice(row));
        }
    }

    fn pool(&self, keys: &[u64], out: &mut [f32]) {
        out.fill(0.0);
        for (keys, out) in keys.chunks(BAG).zip(out.chunks_exact_mut(self.dim)) {
            keys.iter().for_each(|&key| self.map.read(key, |row| self.simd.add(out, row)));
        }
    }

    fn update(&self, keys: &[u64], grads: &[f32]) {
        for (&key, grad) in keys.iter().zip(grads.chunks_exact(self.dim)) {
            self.map.write(key, |row| self.simd.axpy(row, -RATE, grad));
        }
    }
}
