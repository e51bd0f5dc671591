//! Magnitude pruning after training, as DeepLight (Deng et al., WSDM'21) does to embeddings: trained at full size, then
//! only the largest weights are kept. It needs the memory of full size while it trains; what fits into the budget is the
//! model that is served: 4 bytes a weight and 4 for its place.

use super::hashed::Hashed;
use super::{Held, Method, StudyError};

const KEPT_BYTES: u64 = 8;

pub(crate) struct Magnitude {
    full: Hashed,
    budget: u64,
    served: Option<u64>,
}

impl Magnitude {
    pub(crate) fn new(full: Hashed, budget: u64) -> Magnitude {
        Magnitude { full, budget, served: None }
    }
}

impl Method for Magnitude {
    fn lookup(&mut self, feature: usize, ids: &[u32], out: &mut [f32]) -> Result<(), StudyError> {
        self.full.lookup(feature, ids, out)
    }

    fn train(&mut self, feature: usize, ids: &[u32], gradients: &[f32]) -> Result<(), StudyError> {
        self.full.train(feature, ids, gradients)
    }

    fn end_training(&mut self) {
        let mut sizes: Vec<f32> = self.full.weights_mut().map(|weight| weight.abs()).collect();
        let kept = ((self.budget / KEPT_BYTES) as usize).min(sizes.len());
        self.served = Some(kept as u64 * KEPT_BYTES);
        if kept == sizes.len() {
            return;
        }
        // Of weights of the same size some would be too many.
        let least = *sizes.select_nth_unstable_by(kept, |one, other| other.total_cmp(one)).1;
        self.full.weights_mut().filter(|weight| weight.abs() <= least).for_each(|weight| *weight = 0.0);
    }

    fn held(&self) -> Held {
        let full = self.full.bytes();
        Held { now: self.served.unwrap_or(full), peak: full }
    }

    fn own_dims(&self, feature: usize, ids: usize) -> Vec<u16> {
        let live = |id| self.full.weights(feature, id).map_or(0, |row| row.iter().filter(|w| **w != 0.0).count());
        (0..ids as u32).map(|id| live(id) as u16).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Training;
    use super::*;

    #[test]
    fn the_largest_weights_are_kept() {
        let training = Training { lr: 0.1, eps: 1e-8, seed: 3 };
        let mut method = Magnitude::new(Hashed::full(&[4], 2, training), 3 * KEPT_BYTES);
        method.train(0, &[2, 3], &[1.0, -1.0, 1.0, 0.0]).unwrap();
        assert_eq!(method.held().now, method.held().peak);
        method.end_training();
        assert_eq!((method.held().now, method.own_dims(0, 4)), (24, vec![0, 0, 2, 1]));
    }
}
