//! What the methods with tables of their own are made of: rows in one array, Adagrad beside them, and the sums of a
//! batch's gradients by row.

use super::Training;
use crate::data::mix;
use crate::simd::Kernels;

/// [`super::INIT_BOUND`] as weights are.
pub(crate) const INIT_BOUND: f32 = super::INIT_BOUND as f32;

/// Rows of `dim` weights, each with its Adagrad accumulators.
pub(crate) struct Rows {
    pub(crate) dim: usize,
    weights: Vec<f32>,
    accumulators: Vec<f32>,
    training: Training,
    kernels: Kernels,
}

impl Rows {
    /// Bytes of a row's weights and accumulators.
    pub(crate) const fn row_bytes(dim: usize) -> u64 {
        2 * 4 * dim as u64
    }

    /// `rows` rows of zeros.
    pub(crate) fn zeros(rows: usize, dim: usize, training: Training) -> Rows {
        let (weights, accumulators) = (vec![0.0; rows * dim], vec![0.0; rows * dim]);
        Rows { dim, weights, accumulators, training, kernels: Kernels::get() }
    }

    /// `rows` rows that are uniform within `bound` of `middle`.
    pub(crate) fn random(rows: usize, dim: usize, training: Training, seed: u64, middle: f32, bound: f32) -> Rows {
        let mut made = Rows::zeros(rows, dim, training);
        for (i, weight) in made.weights.iter_mut().enumerate() {
            *weight = middle + bound * (2.0 * unit(mix(seed ^ mix(i as u64))) - 1.0);
        }
        made
    }

    /// Bytes of all rows.
    pub(crate) fn bytes(&self) -> u64 {
        ((self.weights.len() + self.accumulators.len()) * size_of::<f32>()) as u64
    }

    pub(crate) fn row(&self, row: usize) -> &[f32] {
        &self.weights[row * self.dim..(row + 1) * self.dim]
    }

    /// One Adagrad step.
    pub(crate) fn step(&mut self, row: usize, gradient: &[f32]) {
        let at = row * self.dim..(row + 1) * self.dim;
        let Training { lr, eps, .. } = self.training;
        self.kernels.adagrad(&mut self.weights[at.clone()], &mut self.accumulators[at], gradient, lr, eps);
    }

    /// Starts a row anew, with these weights and no state.
    pub(crate) fn restart(&mut self, row: usize, weights: &[f32]) {
        let at = row * self.dim..(row + 1) * self.dim;
        self.weights[at.clone()].copy_from_slice(weights);
        self.accumulators[at].fill(0.0);
    }

    /// All weights, row after row.
    pub(crate) fn weights_mut(&mut self) -> &mut [f32] {
        &mut self.weights
    }
}

/// A batch's gradients summed by row: what every optimizer step starts from, so that a row that occurs twice in a batch
/// takes one step.
#[derive(Default)]
pub(crate) struct Sums {
    /// The rows, in the order of their first occurrence.
    pub(crate) rows: Vec<u32>,
    /// How often each occurred.
    pub(crate) counts: Vec<u32>,
    gradients: Vec<f32>,
    /// Open addressing: 0, or the place of a row plus one.
    slots: Vec<u32>,
    dim: usize,
}

impl Sums {
    /// Sums `gradients`, `[rows.len(), dim]`.
    pub(crate) fn fill(&mut self, rows: impl ExactSizeIterator<Item = u32>, gradients: &[f32], dim: usize) {
        let size = (rows.len() * 2).next_power_of_two().max(4);
        self.slots.clear();
        self.slots.resize(size, 0);
        self.rows.clear();
        self.counts.clear();
        self.gradients.clear();
        self.dim = dim;
        for (row, gradient) in rows.zip(gradients.chunks_exact(dim)) {
            let mut slot = (u64::from(row).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize & (size - 1);
            loop {
                match self.slots[slot] {
                    0 => {
                        self.rows.push(row);
                        self.counts.push(1);
                        self.gradients.extend_from_slice(gradient);
                        self.slots[slot] = self.rows.len() as u32;
                        break;
                    }
                    place if self.rows[place as usize - 1] == row => {
                        let place = place as usize - 1;
                        self.counts[place] += 1;
                        let sum = &mut self.gradients[place * dim..(place + 1) * dim];
                        sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g);
                        break;
                    }
                    _ => slot = (slot + 1) & (size - 1),
                }
            }
        }
    }

    /// Every row with its count and its summed gradient.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, u32, &[f32])> {
        let sums = self.rows.iter().zip(&self.counts).zip(self.gradients.chunks_exact(self.dim.max(1)));
        sums.map(|((&row, &count), gradient)| (row as usize, count, gradient))
    }
}

/// The sum of squares' root.
pub(crate) fn norm(gradient: &[f32]) -> f32 {
    gradient.iter().map(|g| g * g).sum::<f32>().sqrt()
}

/// The largest number of rows that no table may exceed so that all together have at most `rows`: small tables are kept
/// whole and large ones share what is left alike. Returns each table's rows.
pub(crate) fn level(sizes: &[usize], rows: usize) -> Vec<usize> {
    let total = |cap: usize| sizes.iter().map(|&size| size.min(cap)).sum::<usize>();
    let (mut low, mut high) = (0, sizes.iter().copied().max().unwrap_or(0));
    while low < high {
        let middle = (low + high).div_ceil(2);
        if total(middle) <= rows { low = middle } else { high = middle - 1 }
    }
    sizes.iter().map(|&size| size.min(low)).collect()
}

/// Which of a table's `rows` rows an id has: its own as long as there is one for each of the `size` training ids (and
/// then none for others), else one by a hash.
pub(crate) fn shared_row(seed: u64, id: u32, size: usize, rows: usize) -> Option<usize> {
    if rows >= size {
        return ((id as usize) < size).then_some(id as usize);
    }
    let row = (u128::from(mix(seed ^ mix(u64::from(id)))) * rows as u128) >> 64;
    (rows > 0).then_some(row as usize)
}

/// A number from 0 to below 1 out of random bits.
pub(crate) fn unit(bits: u64) -> f32 {
    (bits >> 40) as f32 / (1u64 << 24) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_are_summed_and_take_one_step() {
        let mut sums = Sums::default();
        let gradients = [1.0, 2.0, 10.0, 20.0, 0.5, 0.25, 3.0, 4.0];
        sums.fill([7u32, 9, 7, 4_000_000_000].into_iter(), &gradients, 2);
        let found: Vec<_> = sums.iter().map(|(row, count, g)| (row, count, g.to_vec())).collect();
        let wanted = vec![(7, 2, vec![1.5, 2.25]), (9, 1, vec![10.0, 20.0]), (4_000_000_000usize, 1, vec![3.0, 4.0])];
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_step_is_adagrads() {
        let training = Training { lr: 0.1, eps: 1e-8, seed: 1 };
        let mut rows = Rows::random(3, 2, training, 5, 0.0, INIT_BOUND);
        let before: Vec<f32> = rows.row(1).to_vec();
        assert!(before.iter().all(|w| w.abs() <= INIT_BOUND) && before[0] != before[1]);
        let (mut wanted, mut state) = (before, [0.0f32; 2]);
        for gradient in [[0.5f32, -2.0], [0.25, 1.0]] {
            rows.step(1, &gradient);
            for d in 0..2 {
                state[d] += gradient[d] * gradient[d];
                wanted[d] -= 0.1 * gradient[d] / (state[d].sqrt() + 1e-8);
            }
        }
        for (got, want) in rows.row(1).iter().zip(&wanted) {
            assert!((got - want).abs() < 1e-6, "{got} {want}");
        }
        rows.restart(1, &[1.0, 2.0]);
        rows.step(1, &[3.0, -3.0]);
        // Without state the first step has the length of the rate.
        assert!((rows.row(1)[0] - 0.9).abs() < 1e-6 && (rows.row(1)[1] - 2.1).abs() < 1e-6);
        assert_eq!(rows.bytes(), 3 * Rows::row_bytes(2));
    }

    #[test]
    fn small_tables_stay_whole() {
        assert_eq!(level(&[3, 100, 1000], 1103), [3, 100, 1000]);
        assert_eq!(level(&[3, 100, 1000], 103), [3, 50, 50]);
        assert_eq!(level(&[3, 100, 1000], 503), [3, 100, 400]);
        assert_eq!(level(&[3, 100, 1000], 2), [0, 0, 0]);
    }
}
