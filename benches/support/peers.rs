//! What a program without an embedding store would keep its rows in. Each is told the length of a key's row and does
//! with its memory what its user would.

use super::shape::{CHUNKS, ROW_CHUNK_FLOATS};
use std::collections::HashMap;

/// Rows of one to four chunks, weights and optimizer state side by side.
pub(crate) trait Rows {
    /// Makes the row of `key` so many chunks long; 0 removes it.
    fn set(&mut self, key: u64, chunks: usize);
    /// The sum of a row's first chunk; 0 without a row.
    fn read(&self, key: u64) -> f32;
    /// Live rows.
    fn rows(&self) -> u64;
    /// Their chunks.
    fn chunks(&self) -> u64;
}

/// One allocation a row.
#[derive(Default)]
pub(crate) struct Boxes {
    rows: HashMap<u64, Box<[f32]>>,
}

impl Rows for Boxes {
    fn set(&mut self, key: u64, chunks: usize) {
        let floats = chunks * ROW_CHUNK_FLOATS;
        if chunks == 0 {
            self.rows.remove(&key);
        } else if let Some(row) = self.rows.get_mut(&key) {
            let mut longer = std::mem::take(row).into_vec();
            longer.reserve_exact(floats.saturating_sub(longer.len()));
            longer.resize(floats, 1.0);
            *row = longer.into_boxed_slice();
        } else {
            self.rows.insert(key, vec![1.0; floats].into_boxed_slice());
        }
    }

    fn read(&self, key: u64) -> f32 {
        self.rows.get(&key).map_or(0.0, |row| row[..ROW_CHUNK_FLOATS].iter().sum())
    }

    fn rows(&self) -> u64 {
        self.rows.len() as u64
    }

    fn chunks(&self) -> u64 {
        self.rows.values().map(|row| (row.len() / ROW_CHUNK_FLOATS) as u64).sum()
    }
}

type Chunk = [f32; ROW_CHUNK_FLOATS];

/// A slab that hands out a chunk's number.
pub(crate) trait ChunkSlab: Default {
    type Number: Copy + PartialEq;
    /// No chunk's number: an index of plain numbers is half as large as one of `Option`s.
    const NONE: Self::Number;
    fn insert(&mut self, chunk: Chunk) -> Self::Number;
    fn remove(&mut self, number: Self::Number);
    fn sum(&self, number: Self::Number) -> f32;
}

impl ChunkSlab for slab::Slab<Chunk> {
    type Number = u32;
    const NONE: u32 = u32::MAX;

    fn insert(&mut self, chunk: Chunk) -> u32 {
        u32::try_from(slab::Slab::insert(self, chunk)).expect("fewer chunks than 2^32")
    }

    fn remove(&mut self, number: u32) {
        slab::Slab::remove(self, number as usize);
    }

    fn sum(&self, number: u32) -> f32 {
        self[number as usize].iter().sum()
    }
}

impl ChunkSlab for sharded_slab::Slab<Chunk> {
    type Number = usize;
    const NONE: usize = usize::MAX;

    fn insert(&mut self, chunk: Chunk) -> usize {
        sharded_slab::Slab::insert(self, chunk).expect("room for a chunk")
    }

    fn remove(&mut self, number: usize) {
        sharded_slab::Slab::remove(self, number);
    }

    fn sum(&self, number: usize) -> f32 {
        self.get(number).map_or(0.0, |chunk| chunk.iter().sum())
    }
}

/// Chunks in a slab, and a map from keys to their numbers.
pub(crate) struct Indexed<S: ChunkSlab> {
    index: HashMap<u64, [S::Number; CHUNKS]>,
    slab: S,
}

impl<S: ChunkSlab> Default for Indexed<S> {
    fn default() -> Self {
        Indexed { index: HashMap::new(), slab: S::default() }
    }
}

impl<S: ChunkSlab> Rows for Indexed<S> {
    fn set(&mut self, key: u64, chunks: usize) {
        let numbers = self.index.entry(key).or_insert([S::NONE; CHUNKS]);
        for (position, number) in numbers.iter_mut().enumerate() {
            match (*number != S::NONE, position < chunks) {
                (false, true) => *number = self.slab.insert([1.0; ROW_CHUNK_FLOATS]),
                (true, false) => {
                    self.slab.remove(*number);
                    *number = S::NONE;
                }
                _ => {}
            }
        }
        if chunks == 0 {
            self.index.remove(&key);
        }
    }

    fn read(&self, key: u64) -> f32 {
        let first = self.index.get(&key).map(|numbers| numbers[0]);
        first.map_or(0.0, |number| self.slab.sum(number))
    }

    fn rows(&self) -> u64 {
        self.index.len() as u64
    }

    fn chunks(&self) -> u64 {
        let live = |numbers: &[S::Number; CHUNKS]| numbers.iter().filter(|&&number| number != S::NONE).count() as u64;
        self.index.values().map(live).sum()
    }
}
