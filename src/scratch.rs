//! Combining the gradients of rows that occur more than once in a batch.

use crate::simd::Kernels;

/// Unique rows of a batch, by their hashes, in the order of their first occurrence, each with the sum of its gradients.
#[derive(Default)]
pub(crate) struct Combined {
    pub(crate) hashes: Vec<u64>,
    /// How often each occurred.
    pub(crate) counts: Vec<u32>,
    /// `[hashes, dim]`.
    pub(crate) grads: Vec<f32>,
    /// Open addressing: position in `hashes` + 1, 0 for empty.
    slots: Vec<u32>,
}

impl Combined {
    /// Sums `gradient(i)` times `weight(i)` over the occurrences `i` of each hash, in their order.
    pub(crate) fn fill<'g>(
        &mut self,
        simd: Kernels,
        dim: usize,
        hashes: impl Iterator<Item = u64>,
        gradient: impl Fn(usize) -> (&'g [f32], f32),
    ) {
        self.hashes.clear();
        self.counts.clear();
        self.grads.clear();
        let most = hashes.size_hint().1.unwrap_or(hashes.size_hint().0);
        let size = (most * 2).next_power_of_two().max(16);
        self.slots.clear();
        self.slots.resize(size, 0);
        for (occurrence, hash) in hashes.enumerate() {
            let (values, weight) = gradient(occurrence);
            let mut slot = hash as usize & (size - 1);
            loop {
                let position = self.slots[slot] as usize;
                if position == 0 {
                    self.hashes.push(hash);
                    self.counts.push(1);
                    self.grads.extend_from_slice(values);
                    if weight != 1.0 {
                        let start = self.grads.len() - dim;
                        simd.scale(&mut self.grads[start..], weight);
                    }
                    self.slots[slot] = self.hashes.len() as u32;
                    break;
                }
                if self.hashes[position - 1] == hash {
                    self.counts[position - 1] += 1;
                    simd.axpy(&mut self.grads[(position - 1) * dim..position * dim], weight, values);
                    break;
                }
                slot = (slot + 1) & (size - 1);
            }
        }
    }
}
