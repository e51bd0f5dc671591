//! The optimizers of the dense parameters.

use super::TrainError;
use crate::simd::Kernels;

/// How the MLPs' weights and biases follow their gradients. (Embeddings have the optimizer of their
/// table, in the store.)
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum DenseOptimizer {
    /// Gradient descent: `w -= lr·g`.
    Sgd {
        /// Learning rate.
        lr: f32,
    },
    /// Adagrad (Duchi, Hazan, Singer 2011): `acc += g²`, `w -= lr·g / (sqrt(acc) + eps)`.
    Adagrad {
        /// Learning rate.
        lr: f32,
        /// Added to the root, against a division by zero.
        eps: f32,
        /// What every accumulator starts from.
        initial_accumulator: f32,
    },
}

impl DenseOptimizer {
    pub(super) fn validate(self) -> Result<(), TrainError> {
        let checks = match self {
            Self::Sgd { lr } => [("lr", lr), ("lr", lr), ("lr", lr)],
            Self::Adagrad { lr, eps, initial_accumulator } => {
                [("lr", lr), ("eps", eps), ("initial_accumulator", initial_accumulator)]
            }
        };
        for (what, value) in checks {
            if !(value.is_finite() && value >= 0.0) {
                return Err(TrainError::Config(format!(
                    "dense optimizer: {what} is {value}; it must be a finite number, 0 or above"
                )));
            }
        }
        Ok(())
    }

    /// The state for `len` parameters: accumulators, or nothing.
    pub(super) fn state(self, len: usize) -> Vec<f32> {
        match self {
            Self::Sgd { .. } => Vec::new(),
            Self::Adagrad { initial_accumulator, .. } => vec![initial_accumulator; len],
        }
    }

    /// Moves `w` along its gradient `g`; `state` is the part that belongs to `w` (empty for SGD).
    pub(super) fn step(self, kernels: Kernels, w: &mut [f32], state: &mut [f32], g: &[f32]) {
        match self {
            Self::Sgd { lr } => kernels.sgd(w, g, lr),
            Self::Adagrad { lr, eps, .. } => kernels.adagrad(w, state, g, lr, eps),
        }
    }
}
