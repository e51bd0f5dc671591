//! Combining the gradients of keys that occur more than once in a batch.

use crate::simd::Kernels;

/// Unique keys of a batch in the order of their first occurrence, each with the sum of its gradients.
#[derive(Default)]
pub(crate) struct Combined {
    pub(crate) keys: Vec<u64>,
    pub(crate) hashes: Vec<u64>,
    /// How often each key occurred.
    pub(crate) counts: Vec<u32>,
    /// `[keys, dim]`.
    pub(crate) grads: Vec<f32>,
    /// Open addressing: position in `keys` + 1, 0 for empty.
    slots: Vec<u32>,
}

impl Combined {
    /// Sums `gradient(i)` times `weight(i)` over the occurrences `i` of each key, in their order.
    pub(crate) fn fill<'g>(
        &mut self,
        simd: Kernels,
        dim: usize,
        keys: impl Iterator<Item = (u64, u64)>,
        gradient: impl Fn(usize) -> (&'g [f32], f32),
    ) {
        self.keys.clear();
        self.hashes.clear();
        self.counts.clear();
        self.grads.clear();
        let most = keys.size_hint().1.unwrap_or(keys.size_hint().0);
        let size = (most * 2).next_power_of_two().max(16);
        self.slots.clear();
        self.slots.resize(size, 0);
        for (occurrence, (key, hash)) in keys.enumerate() {
            let (values, weight) = gradient(occurrence);
            let mut slot = hash as usize & (size - 1);
            loop {
                let position = self.slots[slot] as usize;
                if position == 0 {
                    self.keys.push(key);
                    self.hashes.push(hash);
                    self.counts.push(1);
                    self.grads.extend_from_slice(values);
                    if weight != 1.0 {
                        let start = self.grads.len() - dim;
                        simd.scale(&mut self.grads[start..], weight);
                    }
                    self.slots[slot] = self.keys.len() as u32;
                    break;
                }
                if self.keys[position - 1] == key {
                    self.counts[position - 1] += 1;
                    simd.axpy(&mut self.grads[(position - 1) * dim..position * dim], weight, values);
                    break;
                }
                slot = (slot + 1) & (size - 1);
            }
        }
    }
}
