//! The offline frequency oracle: the ids that will be most frequent have rows of their own from the beginning, the others
//! share rows by hash.
//!
//! It knows what no method can, and the places of its rows cost it nothing. A frozen one knows only how often ids occur
//! in the first part of the stream.

use super::flat::{INIT_BOUND, Rows, Sums};
use super::hashed::Hashed;
use super::{Held, Method, StudyError, Training};
use crate::data::mix;

const NOWHERE: u32 = u32::MAX;

/// Ids with rows of their own, and shared rows for the others.
pub(crate) struct Oracle {
    dim: usize,
    own: Rows,
    /// By feature and id.
    places: Vec<Vec<u32>>,
    shared: Hashed,
    sums: Sums,
}

impl Oracle {
    /// `counts`: how often each id occurs, by feature; `share`: the part of the budget that goes to shared rows.
    pub(crate) fn new(counts: &[Vec<u32>], dim: usize, budget: u64, share: f64, training: Training) -> Oracle {
        let sizes: Vec<usize> = counts.iter().map(Vec::len).collect();
        let shared = Hashed::shared(&sizes, dim, (budget as f64 * share) as u64, training);
        let rows = ((budget - shared.bytes()) / Rows::row_bytes(dim)) as usize;
        // Small tables are whole among the shared ones.
        let large = (0..counts.len()).filter(|&feature| !shared.is_whole(feature));
        let mut ids: Vec<(u32, usize, u32)> = large
            .flat_map(|feature| counts[feature].iter().zip(0u32..).map(move |(&count, id)| (count, feature, id)))
            .filter(|&(count, ..)| count > 0)
            .collect();
        ids.sort_unstable_by_key(|&(count, feature, id)| (std::cmp::Reverse(count), feature, id));
        let mut places: Vec<Vec<u32>> = sizes.iter().map(|&size| vec![NOWHERE; size]).collect();
        for (&(_, feature, id), place) in ids.iter().take(rows).zip(0u32..) {
            places[feature][id as usize] = place;
        }
        let own = Rows::random(rows, dim, training, mix(training.seed), 0.0, INIT_BOUND);
        Oracle { dim, own, places, shared, sums: Sums::default() }
    }

    fn place(&self, feature: usize, id: u32) -> Option<usize> {
        let place = *self.places[feature].get(id as usize)?;
        (place != NOWHERE).then_some(place as usize)
    }
}

impl Method for Oracle {
    fn lookup(&mut self, feature: usize, ids: &[u32], out: &mut [f32]) -> Result<(), StudyError> {
        self.shared.lookup(feature, ids, out)?;
        for (&id, out) in ids.iter().zip(out.chunks_exact_mut(self.dim)) {
            if let Some(place) = self.place(feature, id) {
                out.copy_from_slice(self.own.row(place));
            }
        }
        Ok(())
    }

    fn train(&mut self, feature: usize, ids: &[u32], gradients: &[f32]) -> Result<(), StudyError> {
        let (mut cold, mut cold_gradients) = (Vec::new(), Vec::new());
        let (mut hot, mut hot_gradients) = (Vec::new(), Vec::new());
        for (&id, gradient) in ids.iter().zip(gradients.chunks_exact(self.dim)) {
            match self.place(feature, id) {
                None => {
                    cold.push(id);
                    cold_gradients.extend_from_slice(gradient);
                }
                Some(place) => {
                    hot.push(place as u32);
                    hot_gradients.extend_from_slice(gradient);
                }
            }
        }
        self.shared.learn(feature, &cold, &cold_gradients);
        self.sums.fill(hot.into_iter(), &hot_gradients, self.dim);
        self.sums.iter().for_each(|(row, _, gradient)| self.own.step(row, gradient));
        Ok(())
    }

    fn held(&self) -> Held {
        let now = self.own.bytes() + self.shared.bytes();
        Held { now, peak: now }
    }

    fn own_dims(&self, feature: usize, ids: usize) -> Vec<u16> {
        let whole = self.shared.is_whole(feature);
        let dims = |id| if whole || self.place(feature, id).is_some() { self.dim as u16 } else { 0 };
        (0..ids as u32).map(dims).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_have_rows_of_their_own() {
        let training = Training { lr: 0.1, eps: 1e-8, seed: 3 };
        let counts = vec![vec![5, 1, 9, 1, 1, 1, 2, 8], vec![1, 7, 1, 1, 1, 1, 1, 1]];
        let budget = 6 * Rows::row_bytes(4);
        let mut oracle = Oracle::new(&counts, 4, budget, 0.34, training);
        assert_eq!(oracle.held().now, budget);
        assert_eq!(oracle.own_dims(0, 8), [4, 0, 4, 0, 0, 0, 0, 4]);
        assert_eq!(oracle.own_dims(1, 8), [0, 4, 0, 0, 0, 0, 0, 0]);
        let read = |oracle: &mut Oracle, id: u32| {
            let mut out = vec![0.0; 4];
            oracle.lookup(0, &[id], &mut out).unwrap();
            out
        };
        let before = [0, 1, 2, 3].map(|id| read(&mut oracle, id));
        oracle.train(0, &[2, 1, 2], &[1.0; 12]).unwrap();
        let after = [0, 1, 2, 3].map(|id| read(&mut oracle, id));
        assert_eq!(after[0], before[0], "another's own row");
        assert!(after[2] != before[2] && after[1] != before[1]);
        assert_eq!(after[1], after[3], "two that share a row");
        // An id that is in no count shares a row, too.
        assert_eq!(read(&mut oracle, 99), after[1]);
    }
}
