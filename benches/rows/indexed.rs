//! What no store with an index can be faster than: one line of the index, then one row.

use super::arena::{Arena, Pages};
use super::stores::{AHEAD, BAG, RowStore};
use dimslab::simd::Kernels;
use std::sync::atomic::{AtomicU32, Ordering};

/// Rows of a line of the index: the key's number and the row's, which is the same, and room for one more, as there is in a
/// hash index that is seven eighths full.
const LINE_ROWS: usize = 7;
const LINE_WORDS: usize = 16;
/// Words before a row's values: the bytes that dimslab has there.
const HEAD: usize = 3;

/// A perfect hash index over rows with heads: nothing is hashed, searched, checked for change, or grown.
pub(crate) struct Indexed {
    index: Arena,
    rows: Arena,
    simd: Kernels,
}

impl Indexed {
    pub(crate) fn new(rows: u64, dim: usize) -> std::io::Result<Indexed> {
        let index = Arena::new(rows.div_ceil(LINE_ROWS as u64), LINE_WORDS, Pages::Huge)?;
        let rows = Arena::with_heads(rows, HEAD, dim, Pages::Huge)?;
        Ok(Indexed { index, rows, simd: Kernels::get() })
    }

    /// The two words of the index that are a key's: its number and its row's.
    #[inline]
    fn entry(&self, key: u64) -> [&AtomicU32; 2] {
        let number = key as u32 as usize;
        let (line, at) = (number / LINE_ROWS, number % LINE_ROWS * 2);
        [self.index.word(line, at), self.index.word(line, at + 1)]
    }

    /// The row of a key, which its line of the index tells.
    #[inline]
    fn row(&self, key: u64) -> usize {
        let [number, row] = self.entry(key);
        assert_eq!(number.load(Ordering::Relaxed), key as u32, "the key is there");
        row.load(Ordering::Relaxed) as usize
    }

    fn each(&self, keys: &[u64], mut visit: impl FnMut(usize, usize)) {
        let line = |key: u64| key as u32 as usize / LINE_ROWS;
        let mut near = [0; AHEAD];
        for turn in 0..keys.len() + 2 * AHEAD {
            if let Some(&key) = keys.get(turn) {
                self.index.prefetch(line(key));
            }
            // Before its place is taken by the row that is asked for below.
            if let Some(position) = turn.checked_sub(2 * AHEAD) {
                visit(position, near[position % AHEAD]);
            }
            if let Some(position) = turn.checked_sub(AHEAD)
                && let Some(&key) = keys.get(position)
            {
                near[position % AHEAD] = self.row(key);
                self.rows.prefetch(near[position % AHEAD]);
            }
        }
    }
}

impl RowStore for Indexed {
    fn insert(&self, keys: &[u64]) {
        let zeros = vec![0.0; self.rows.dim()];
        for &key in keys {
            self.entry(key).into_iter().for_each(|word| word.store(key as u32, Ordering::Relaxed));
            self.rows.write(key as u32 as usize, &zeros);
        }
    }

    fn remove(&self, _keys: &[u64]) {}

    fn gather(&self, keys: &[u64], out: &mut [f32]) {
        let dim = self.rows.dim();
        self.each(keys, |position, row| self.rows.read(row, &mut out[position * dim..(position + 1) * dim]));
    }

    fn pool(&self, keys: &[u64], out: &mut [f32]) {
        let dim = self.rows.dim();
        out.fill(0.0);
        self.each(keys, |position, row| {
            self.rows.add_to(row, self.simd, &mut out[position / BAG * dim..(position / BAG + 1) * dim]);
        });
    }

    fn update(&self, keys: &[u64], grads: &[f32]) {
        let dim = self.rows.dim();
        self.each(keys, |position, row| {
            self.rows.step(row, self.simd, &grads[position * dim..(position + 1) * dim]);
        });
    }
}
