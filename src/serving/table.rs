//! Looking rows up in a mapped table.

use std::path::Path;

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

use super::ServingError;
use super::layout::{EMPTY, Hasher, Place, home, shared_row};
use crate::config::TableConfig;
use crate::rowcopy::prefetch;
use crate::snapshot::SnapshotError;

/// Keys that are looked up side by side, so that the waits for memory overlap.
const WAVE: usize = 32;

/// One table of a serving file.
#[derive(Clone, Copy)]
pub struct Table<'f> {
    pub(super) path: &'f Path,
    pub(super) config: &'f TableConfig,
    pub(super) hasher: Hasher,
    pub(super) rows: u64,
    /// `[key, place]` of each slot.
    pub(super) index: &'f [[u64; 2]],
    pub(super) weights: Weights<'f>,
    pub(super) ordinals: &'f [u8],
    /// `[shared rows, dim]`.
    pub(super) shared: &'f [f32],
}

/// Weights where they lie in the file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Weights<'f> {
    /// Single precision.
    F32(&'f [f32]),
    /// The bits of half-precision numbers.
    F16(&'f [u16]),
    /// The bits of bfloat16 numbers.
    Bf16(&'f [u16]),
    /// Bytes, and what each is multiplied by.
    Int8(&'f [i8], f32),
}

impl<'f> Weights<'f> {
    /// Number of weights.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Weights::F32(values) => values.len(),
            Weights::F16(values) | Weights::Bf16(values) => values.len(),
            Weights::Int8(values, _) => values.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    fn slice(&self, start: usize, len: usize, scale: f32) -> Option<Weights<'f>> {
        let end = start.checked_add(len)?;
        Some(match *self {
            Weights::F32(values) => Weights::F32(values.get(start..end)?),
            Weights::F16(values) => Weights::F16(values.get(start..end)?),
            Weights::Bf16(values) => Weights::Bf16(values.get(start..end)?),
            Weights::Int8(values, _) => Weights::Int8(values.get(start..end)?, scale),
        })
    }

    /// Copies the first weights to `out`, as many as it takes, in single precision.
    #[inline]
    pub fn copy_to(&self, out: &mut [f32]) {
        match *self {
            Weights::F32(values) => out.iter_mut().zip(values).for_each(|(out, value)| *out = *value),
            Weights::F16(values) => {
                let len = out.len().min(values.len());
                values[..len].reinterpret_cast::<f16>().convert_to_f32_slice(&mut out[..len]);
            }
            Weights::Bf16(values) => {
                out.iter_mut().zip(values).for_each(|(out, bits)| *out = f32::from_bits(u32::from(*bits) << 16));
            }
            Weights::Int8(values, scale) => {
                out.iter_mut().zip(values).for_each(|(out, value)| *out = f32::from(*value) * scale);
            }
        }
    }

    fn address(&self, at: usize) -> *const u8 {
        match self {
            Weights::F32(values) => values.as_ptr().wrapping_add(at).cast(),
            Weights::F16(values) | Weights::Bf16(values) => values.as_ptr().wrapping_add(at).cast(),
            Weights::Int8(values, _) => values.as_ptr().wrapping_add(at).cast(),
        }
    }

    fn width(&self) -> usize {
        match self {
            Weights::F32(_) => 4,
            Weights::F16(_) | Weights::Bf16(_) => 2,
            Weights::Int8(..) => 1,
        }
    }
}

/// One row: its live chunks, in place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row<'f> {
    /// Dimensions of a chunk, and of a whole row.
    chunk: usize,
    dim: usize,
    /// Which chunks are live, ascending; `None` if they are the first ones.
    ordinals: Option<&'f [u8]>,
    weights: Weights<'f>,
}

impl<'f> Row<'f> {
    /// The weights of the live chunks, one chunk behind the other, in place. A last chunk that the table's dimension cuts
    /// is filled up with zeros.
    #[must_use]
    pub fn weights(&self) -> Weights<'f> {
        self.weights
    }

    /// Ordinals of the live chunks, ascending.
    pub fn ordinals(&self) -> impl Iterator<Item = usize> {
        let chunks = self.weights.len() / self.chunk;
        let listed = self.ordinals.unwrap_or_default();
        let first = if self.ordinals.is_none() { 0..chunks } else { 0..0 };
        first.chain(listed.iter().map(|&ordinal| usize::from(ordinal)))
    }

    /// The row as single-precision weights without a copy, if it is stored so and its live chunks are its first ones.
    #[must_use]
    pub fn as_prefix(&self) -> Option<&'f [f32]> {
        match (self.weights, self.ordinals) {
            (Weights::F32(values), None) => Some(&values[..values.len().min(self.dim)]),
            _ => None,
        }
    }

    /// Copies the live chunks to their places in `out`, `[dim]`, and leaves the others as they are. `false` if an ordinal
    /// is out of range.
    #[inline]
    fn copy_to(&self, out: &mut [f32]) -> bool {
        let Some(ordinals) = self.ordinals else {
            self.weights.copy_to(out);
            return true;
        };
        for (position, &ordinal) in ordinals.iter().enumerate() {
            let start = usize::from(ordinal) * self.chunk;
            let end = (start + self.chunk).min(self.dim);
            let chunk = self.weights.slice_of(position * self.chunk, self.chunk);
            let (Some(out), Some(chunk)) = (out.get_mut(start..end), chunk) else {
                return false;
            };
            chunk.copy_to(out);
        }
        true
    }
}

impl<'f> Weights<'f> {
    /// A part, with the scale that it has.
    #[inline]
    fn slice_of(&self, start: usize, len: usize) -> Option<Weights<'f>> {
        let scale = if let Weights::Int8(_, scale) = self { *scale } else { 0.0 };
        self.slice(start, len, scale)
    }
}

impl<'f> Table<'f> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'f str {
        &self.config.name
    }

    /// Its dimension.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.config.dim
    }

    /// Rows that have at least one chunk.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The row of a key; `None` if it has no chunk.
    ///
    /// # Errors
    ///
    /// [`ServingError::File`] if the row's place is outside the file.
    pub fn get(&self, key: u64) -> Result<Option<Row<'f>>, ServingError> {
        let (row_key, hash) = self.hasher.resolve(key);
        self.find(row_key, hash).map(|place| self.row(place)).transpose()
    }

    /// Copies the rows of `keys` to `out`, `[keys.len(), dim]`, in single precision. Dimensions without a chunk read as
    /// they did in the store: as the table's fallback.
    ///
    /// # Errors
    ///
    /// [`ServingError::Length`]; [`ServingError::File`] if a row's place is outside the file.
    pub fn gather(&self, keys: &[u64], out: &mut [f32]) -> Result<(), ServingError> {
        let dim = self.config.dim;
        if out.len() != keys.len() * dim {
            let (table, found, expected) = (self.config.name.clone(), out.len(), keys.len() * dim);
            return Err(ServingError::Length { table, found, expected });
        }
        let chunk = self.config.chunk_dims();
        let mut wave = [(0, 0, None); WAVE];
        for (keys, out) in keys.chunks(WAVE).zip(out.chunks_mut(WAVE * dim)) {
            let wave = &mut wave[..keys.len()];
            for (slot, &key) in wave.iter_mut().zip(keys) {
                let (row_key, hash) = self.hasher.resolve(key);
                prefetch(self.index.as_ptr().wrapping_add(home(hash, self.index.len())).cast());
                *slot = (row_key, hash, None);
            }
            for (row_key, hash, place) in wave.iter_mut() {
                *place = self.find(*row_key, *hash);
                if let Some(place) = place {
                    self.prefetch_row(place, chunk);
                }
            }
            for ((_, hash, place), out) in wave.iter().zip(out.chunks_mut(dim)) {
                self.read(*hash, *place, out)?;
            }
        }
        Ok(())
    }

    fn prefetch_row(&self, place: &Place, chunk: usize) {
        let start = self.weights.address(place.first as usize * chunk);
        let bytes = place.chunks * chunk * self.weights.width();
        (0..bytes).step_by(64).for_each(|offset| prefetch(start.wrapping_add(offset)));
        prefetch(start.wrapping_add(bytes - 1));
        if !place.prefix {
            prefetch(self.ordinals.as_ptr().wrapping_add(place.first as usize));
        }
    }

    #[inline]
    fn read(&self, hash: u64, place: Option<Place>, out: &mut [f32]) -> Result<(), ServingError> {
        let row = place.map(|place| self.row(place)).transpose()?;
        if row.is_none_or(|row| row.ordinals.is_some() || row.weights.len() < out.len()) {
            self.read_fallback(hash, out);
        }
        match row {
            Some(row) if !row.copy_to(out) => Err(self.damaged("a row has a chunk that its table has not").into()),
            _ => Ok(()),
        }
    }

    fn read_fallback(&self, hash: u64, out: &mut [f32]) {
        let dim = self.config.dim;
        let row = shared_row(hash, self.shared.len() / dim) * dim;
        match self.shared.get(row..row + dim) {
            Some(values) => out.copy_from_slice(values),
            None => out.fill(0.0),
        }
    }

    /// Where a row is, as the index says.
    #[inline]
    fn find(&self, row_key: u64, hash: u64) -> Option<Place> {
        let start = home(hash, self.index.len());
        let (before, from) = self.index.split_at(start);
        for &[key, place] in from.iter().chain(before) {
            if place == EMPTY {
                return None;
            }
            if key == row_key {
                return Some(Place::unpack(place));
            }
        }
        None
    }

    #[inline]
    fn row(&self, place: Place) -> Result<Row<'f>, ServingError> {
        let (chunk, dim) = (self.config.chunk_dims(), self.config.dim);
        let first = place.first as usize;
        let ordinals = self.ordinals.get(first..first + place.chunks);
        let scale = f32::from_bits(u32::from(place.scale) << 16);
        let weights = self.weights.slice(first * chunk, place.chunks * chunk, scale);
        match (ordinals, weights) {
            (Some(ordinals), Some(weights)) if place.chunks <= self.config.chunks() => {
                Ok(Row { chunk, dim, ordinals: (!place.prefix).then_some(ordinals), weights })
            }
            _ => Err(self.damaged("a row's place is outside of its table").into()),
        }
    }

    fn damaged(&self, what: &str) -> SnapshotError {
        SnapshotError::damaged(self.path, format!("table `{}`: {what}", self.config.name))
    }

    /// Checks that every row's chunks are there, rising and no other row's.
    pub(super) fn verify(&self, chunks: u64) -> Result<(), SnapshotError> {
        let (mut rows, mut used) = (0u64, 0u64);
        for &[key, word] in self.index.iter().filter(|slot| slot[1] != EMPTY) {
            let place = Place::unpack(word);
            let first = place.first as usize;
            let ordinals = self.ordinals.get(first..first + place.chunks).unwrap_or_default();
            let rising = ordinals.windows(2).all(|pair| pair[0] < pair[1]);
            let last = ordinals.last().map_or(usize::MAX, |&last| usize::from(last));
            if !rising || last >= self.config.chunks() || (place.prefix && last + 1 != place.chunks) {
                return Err(self.damaged(&format!("row {key} has chunks {ordinals:?}")));
            }
            if self.find(key, self.hasher.row_hash(key)) != Some(place) {
                return Err(self.damaged(&format!("row {key} is not where it is looked for")));
            }
            rows += 1;
            used += place.chunks as u64;
        }
        if (rows, used) != (self.rows, chunks) {
            return Err(self.damaged(&format!("{rows} rows of {used} chunks, expected {} of {chunks}", self.rows)));
        }
        Ok(())
    }
}
