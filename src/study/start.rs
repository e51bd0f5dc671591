//! What the weights of a unit are when it gets memory, first or again: the four that AdaEmbed compared (OSDI'23, figure 12).
//! The optimizer's state is new in each.

use std::collections::HashMap;
use std::str::FromStr;

use super::flat::{INIT_BOUND, unit};
use crate::data::mix;

/// Weights of a unit that gets memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Start {
    /// Zero.
    Zero,
    /// Those of the unit that had the memory before.
    Inherited,
    /// Its own from when it lost its memory, zero the first time. They are kept beside the budget for nothing: a gift.
    Own,
    /// Uniform within this bound, the same each time.
    Random(f32),
}

impl FromStr for Start {
    type Err = ();

    fn from_str(text: &str) -> Result<Start, ()> {
        Ok(match text {
            "zero" => Start::Zero,
            "inherited" => Start::Inherited,
            "own" => Start::Own,
            "random" => Start::Random(INIT_BOUND),
            other => {
                let bound = other.strip_prefix("random:").and_then(|bound| bound.parse().ok());
                Start::Random(bound.filter(|bound: &f32| bound.is_finite() && *bound >= 0.0).ok_or(())?)
            }
        })
    }
}

/// A unit: its feature and its number there.
type Unit = (usize, usize);

/// Weights of units that lost their memory.
#[derive(Default)]
pub(crate) struct Departed {
    weights: HashMap<Unit, Vec<f32>>,
}

impl Departed {
    pub(crate) fn keep(&mut self, unit: Unit, weights: &[f32]) {
        self.weights.insert(unit, weights.to_vec());
    }

    pub(crate) fn take(&mut self, unit: Unit) -> Option<Vec<f32>> {
        self.weights.remove(&unit)
    }
}

/// A unit's random weights.
pub(crate) fn random(seed: u64, (feature, number): Unit, dims: usize, bound: f32) -> Vec<f32> {
    let of_unit = mix(seed ^ mix((feature as u64) << 40 | number as u64));
    (0..dims as u64).map(|dim| bound * (2.0 * unit(mix(of_unit ^ mix(dim))) - 1.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_weights_are_the_units_own() {
        let weights = random(1, (2, 3), 16, 0.5);
        assert_eq!(weights, random(1, (2, 3), 16, 0.5));
        assert!(weights.iter().all(|weight| weight.abs() <= 0.5) && weights.iter().any(|weight| weight.abs() > 0.25));
        for other in [random(2, (2, 3), 16, 0.5), random(1, (3, 3), 16, 0.5), random(1, (2, 4), 16, 0.5)] {
            assert_ne!(weights, other);
        }
        assert!(random(1, (2, 3), 4, 0.0).iter().all(|&weight| weight == 0.0));
    }
}
