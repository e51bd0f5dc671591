//! Combining the gradients of rows that occur more than once in a batch.

use crate::simd::Kernels;

/// Marks, in [`Combined::places`], a row of [`Combined::sums`].
const SUMMED: u64 = 1 << 63;

/// Unique rows of a batch, by their hashes, in the order of their first occurrence, each with the sum of its gradients.
/// What occurs once, with a weight of 1, is not copied.
#[derive(Default)]
pub(crate) struct Combined {
    pub(crate) hashes: Vec<u64>,
    /// How often each occurred.
    pub(crate) counts: Vec<u32>,
    /// Where each gradient is: the hash's only occurrence, or a row in `sums`.
    places: Vec<u64>,
    /// `[hashes that need one, dim]`.
    sums: Vec<f32>,
    /// Open addressing: the upper half of the hash above, position in `hashes` + 1 below; 0 for empty.
    slots: Vec<u64>,
}

impl Combined {
    /// Sums `gradient(i)`, values times weight, over the occurrences `i` of each hash, in their order.
    pub(crate) fn fill<'g>(
        &mut self,
        simd: Kernels,
        dim: usize,
        hashes: impl Iterator<Item = u64>,
        gradient: impl Fn(usize) -> (&'g [f32], f32),
    ) {
        self.hashes.clear();
        self.counts.clear();
        self.places.clear();
        self.sums.clear();
        let most = hashes.size_hint().1.unwrap_or(hashes.size_hint().0);
        let size = (most * 2).next_power_of_two().max(16);
        self.slots.clear();
        self.slots.resize(size, 0);
        for (occurrence, hash) in hashes.enumerate() {
            let tag = hash >> 32 << 32;
            let mut slot = hash as usize & (size - 1);
            let position = loop {
                let found = self.slots[slot];
                let position = found as u32 as usize;
                if position == 0 {
                    self.slots[slot] = tag | (self.hashes.len() as u64 + 1);
                    break None;
                }
                if found & !u64::from(u32::MAX) == tag && self.hashes[position - 1] == hash {
                    break Some(position - 1);
                }
                slot = (slot + 1) & (size - 1);
            };
            match position {
                None => {
                    self.hashes.push(hash);
                    self.counts.push(1);
                    self.places.push(occurrence as u64);
                    if gradient(occurrence).1 != 1.0 {
                        self.start_sum(simd, dim, self.hashes.len() - 1, gradient(occurrence));
                    }
                }
                Some(position) => {
                    if self.places[position] & SUMMED == 0 {
                        self.start_sum(simd, dim, position, gradient(self.places[position] as usize));
                    }
                    self.counts[position] += 1;
                    let start = (self.places[position] & !SUMMED) as usize * dim;
                    let (values, weight) = gradient(occurrence);
                    simd.axpy(&mut self.sums[start..start + dim], weight, values);
                }
            }
        }
    }

    /// Gives a hash a row of `sums`, with its first gradient.
    fn start_sum(&mut self, simd: Kernels, dim: usize, position: usize, (values, weight): (&[f32], f32)) {
        let start = self.sums.len();
        self.places[position] = SUMMED | (start / dim) as u64;
        self.sums.extend_from_slice(values);
        if weight != 1.0 {
            simd.scale(&mut self.sums[start..], weight);
        }
    }

    /// The sum of the gradients of the hash at `position`; `gradient` is what [`fill`](Self::fill) was given.
    #[inline]
    pub(crate) fn gradient<'a, 'g: 'a>(
        &'a self,
        position: usize,
        dim: usize,
        gradient: impl Fn(usize) -> (&'g [f32], f32),
    ) -> &'a [f32] {
        let place = self.places[position];
        if place & SUMMED == 0 {
            return gradient(place as usize).0;
        }
        let start = (place & !SUMMED) as usize * dim;
        &self.sums[start..start + dim]
    }
}
