//! CAFE (Zhang et al., SIGMOD'24): ids whose gradients are large have rows of their own, found through a sketch of fixed
//! size; the others share rows by hash.
//!
//! Of all features together, as in the paper: one sketch, and one array of own rows. An id that becomes hot starts from
//! the row that it shared. The paper's threshold is tuned for each ratio; here it follows from the scores: every
//! [`PERIOD`] steps it becomes the score that as many ids reach as there are rows, and what lies below gives its row up.
//! Increments are norms of gradients, scaled so that every feature adds as much as any other in a batch (as in the
//! authors' program).

use super::flat::{Rows, Sums, norm};
use super::hashed::Hashed;
use super::ranking::{Place, Ranking};
use super::sketched::{HotSketch, NOWHERE};
use super::{Held, Method, StudyError, Training};
use crate::data::mix;

/// The part of the budget that goes to shared rows. The paper tunes 0.7 to 0.1 by ratio, 0.5 in the middle.
pub(crate) const SHARED: f64 = 0.5;
/// Steps between two looks at the scores.
const PERIOD: u64 = 100;
/// What a look leaves of a score (the paper's best).
const DECAY: f32 = 0.98;

pub(crate) struct Cafe {
    dim: usize,
    shared: Hashed,
    sketch: HotSketch,
    own: Rows,
    free: Vec<u32>,
    ranking: Ranking,
    threshold: f32,
    /// Each feature's first key.
    first_keys: Vec<u32>,
    steps: u64,
    sums: Sums,
}

impl Cafe {
    pub(crate) fn new(sizes: &[usize], dim: usize, budget: u64, share: f64, training: Training) -> Cafe {
        let shared = Hashed::shared(sizes, dim, (budget as f64 * share) as u64, training);
        let left = (budget - shared.bytes()).saturating_sub(Ranking::BYTES);
        // A row, its place in the free list, and a bucket.
        let each = Rows::row_bytes(dim) + size_of::<u32>() as u64 + HotSketch::BUCKET_BYTES;
        let rows = (left / each) as usize;
        // Ids of the held-out tail alone lie beyond a feature's size; they are looked up and never added.
        let first_keys = sizes
            .iter()
            .scan(0u32, |next, &size| {
                let first = *next;
                *next += size as u32;
                Some(first)
            })
            .collect();
        Cafe {
            dim,
            shared,
            sketch: HotSketch::new(rows, mix(training.seed)),
            own: Rows::zeros(rows, dim, training),
            free: (0..rows as u32).rev().collect(),
            ranking: Ranking::new(),
            threshold: 0.0,
            first_keys,
            steps: 0,
            sums: Sums::default(),
        }
    }

    fn own_row(&self, feature: usize, id: u32) -> Option<usize> {
        if self.shared.is_whole(feature) || !self.shared.is_training(feature, id) {
            return None;
        }
        let slot = self.sketch.find(self.first_keys[feature] + id)?;
        (slot.row != NOWHERE).then_some(slot.row as usize)
    }

    /// Counts what a batch adds to the scores and gives rows to ids that have become hot.
    fn count(&mut self, feature: usize, ids: &[u32], gradients: &[f32]) {
        let norms: Vec<f32> = gradients.chunks_exact(self.dim).map(norm).collect();
        let sum: f32 = norms.iter().sum();
        if sum <= 0.0 {
            return;
        }
        let scale = ids.len() as f32 / sum;
        for (&id, norm) in ids.iter().zip(norms) {
            let key = self.first_keys[feature] + id;
            let Some((slot, left)) = self.sketch.add(key, norm * scale) else { return };
            self.free.extend(left);
            if slot.row == NOWHERE
                && slot.score >= self.threshold
                && let Some(row) = self.free.pop()
            {
                slot.row = row;
                match self.shared.weights(feature, id) {
                    Some(weights) => self.own.restart(row as usize, weights),
                    None => self.own.restart(row as usize, &vec![0.0; self.dim]),
                }
            }
        }
    }
}

impl Method for Cafe {
    fn lookup(&mut self, feature: usize, ids: &[u32], out: &mut [f32]) -> Result<(), StudyError> {
        self.shared.lookup(feature, ids, out)?;
        for (&id, out) in ids.iter().zip(out.chunks_exact_mut(self.dim)) {
            if let Some(row) = self.own_row(feature, id) {
                out.copy_from_slice(self.own.row(row));
            }
        }
        Ok(())
    }

    fn train(&mut self, feature: usize, ids: &[u32], gradients: &[f32]) -> Result<(), StudyError> {
        if self.shared.is_whole(feature) {
            self.shared.learn(feature, ids, gradients);
            return Ok(());
        }
        let (mut cold, mut cold_gradients) = (Vec::new(), Vec::new());
        let (mut hot, mut hot_gradients) = (Vec::new(), Vec::new());
        for (&id, gradient) in ids.iter().zip(gradients.chunks_exact(self.dim)) {
            match self.own_row(feature, id) {
                None => {
                    cold.push(id);
                    cold_gradients.extend_from_slice(gradient);
                }
                Some(row) => {
                    hot.push(row as u32);
                    hot_gradients.extend_from_slice(gradient);
                }
            }
        }
        self.shared.learn(feature, &cold, &cold_gradients);
        self.sums.fill(hot.into_iter(), &hot_gradients, self.dim);
        self.sums.iter().for_each(|(row, _, gradient)| self.own.step(row, gradient));
        self.count(feature, ids, gradients);
        Ok(())
    }

    fn end_step(&mut self) -> Result<(), StudyError> {
        self.steps += 1;
        if !self.steps.is_multiple_of(PERIOD) {
            return Ok(());
        }
        self.sketch.iter_mut().for_each(|slot| slot.score *= DECAY);
        self.ranking.count(self.sketch.iter().map(|slot| slot.score));
        let rows = self.own.bytes() / Rows::row_bytes(self.dim);
        let first = self.ranking.first(rows);
        self.threshold = first.threshold();
        let mut quota = first.of_bin;
        for slot in self.sketch.iter_mut().filter(|slot| slot.row != NOWHERE) {
            match first.place(slot.score) {
                Place::Above => {}
                Place::Within if quota > 0 => quota -= 1,
                Place::Within | Place::Below => self.free.push(std::mem::replace(&mut slot.row, NOWHERE)),
            }
        }
        Ok(())
    }

    fn held(&self) -> Held {
        let free = self.own.bytes() / Rows::row_bytes(self.dim).max(1) * size_of::<u32>() as u64;
        let now = self.shared.bytes() + self.sketch.bytes() + self.own.bytes() + free + Ranking::BYTES;
        Held { now, peak: now }
    }

    fn own_dims(&self, feature: usize, ids: usize) -> Vec<u16> {
        let whole = self.shared.is_whole(feature);
        let dims = |id| if whole || self.own_row(feature, id).is_some() { self.dim as u16 } else { 0 };
        (0..ids as u32).map(dims).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRAINING: Training = Training { lr: 0.1, eps: 1e-8, seed: 3 };

    #[test]
    fn bytes_are_those_that_were_allocated() {
        let sizes = [100, 50_000];
        let full = 50_100 * Rows::row_bytes(16);
        for part in [2, 5, 20, 100] {
            let cafe = Cafe::new(&sizes, 16, full / part, SHARED, TRAINING);
            let rows = cafe.free.len() as u64;
            let wanted = cafe.shared.bytes() + rows * (Rows::row_bytes(16) + 4 + 48) + Ranking::BYTES;
            assert_eq!(cafe.held().now, wanted);
            assert!(wanted <= full / part && wanted * 100 > full / part * 98, "{part}");
        }
    }

    #[test]
    fn hot_ids_leave_their_shared_rows_with_what_those_knew() {
        // Two shared rows and one own.
        let budget = 2 * Rows::row_bytes(4) + Rows::row_bytes(4) + 4 + 48 + Ranking::BYTES;
        let share = 2.0 * Rows::row_bytes(4) as f64 / budget as f64 + 1e-9;
        let mut cafe = Cafe::new(&[30], 4, budget, share, TRAINING);
        assert_eq!((cafe.free.len(), cafe.held().now), (1, budget));
        cafe.threshold = 3.0;
        let read = |cafe: &mut Cafe, id: u32| {
            let mut out = vec![0.0; 4];
            cafe.lookup(0, &[id], &mut out).unwrap();
            out
        };
        cafe.train(0, &[5, 5], &[1.0; 8]).unwrap();
        assert_eq!(cafe.own_dims(0, 30).iter().filter(|&&dims| dims > 0).count(), 0);
        cafe.train(0, &[5, 5], &[1.0; 8]).unwrap();
        assert_eq!(cafe.own_dims(0, 6)[5], 4, "4 norms of 1 are more than the threshold");
        let fellow = (0..30).find(|&id| id != 5 && cafe.shared.row_of(0, id) == cafe.shared.row_of(0, 5)).unwrap();
        assert_eq!(read(&mut cafe, 5), read(&mut cafe, fellow), "it starts from what it shared");
        cafe.train(0, &[5], &[1.0; 4]).unwrap();
        assert_ne!(read(&mut cafe, 5), read(&mut cafe, fellow));
        // Another that becomes hotter takes the row at the next look.
        for _ in 0..PERIOD {
            cafe.train(0, &[7, 7, 7], &[1.0; 12]).unwrap();
            cafe.end_step().unwrap();
        }
        cafe.train(0, &[7], &[1.0; 4]).unwrap();
        assert_eq!((cafe.own_dims(0, 8)[5], cafe.own_dims(0, 8)[7]), (0, 4));
    }
}
