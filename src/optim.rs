//! One optimizer step on a private copy of a chunk.

use crate::config::{Optimizer, TableConfig};
use crate::simd::{AdamStep, Kernels};

impl TableConfig {
    /// Words of optimizer state of a chunk in a snapshot, where a last chunk that is cut is as long as the others.
    pub(crate) fn chunk_state(&self) -> usize {
        self.optimizer.chunk_state_words(self.chunk_dims())
    }
}

impl Optimizer {
    /// Words of state beside the `dims` weights of a chunk.
    pub(crate) fn chunk_state_words(&self, dims: usize) -> usize {
        match self {
            Optimizer::Sgd { .. } | Optimizer::RowwiseAdagrad { .. } => 0,
            Optimizer::Adagrad { .. } => dims,
            Optimizer::Adam { .. } => 2 * dims + 1,
        }
    }

    /// Words of state that a row has once.
    pub(crate) fn row_state_words(&self) -> usize {
        usize::from(matches!(self, Optimizer::RowwiseAdagrad { .. }))
    }

    /// What a new row's state starts with.
    pub(crate) fn initial_row_state(&self) -> f32 {
        match *self {
            Optimizer::RowwiseAdagrad { initial_accumulator, .. } => initial_accumulator,
            _ => 0.0,
        }
    }

    /// Puts a new chunk's state behind its weights: `payload` is the weights, `dims` of them, then the state.
    pub(crate) fn init_state(&self, payload: &mut [f32], dims: usize) {
        let initial = match *self {
            Optimizer::Adagrad { initial_accumulator, .. } => initial_accumulator,
            _ => 0.0,
        };
        payload[dims..].fill(initial);
    }

    /// What the row's state becomes, given the squared norm of the gradient over `dims` live dimensions.
    pub(crate) fn step_row(&self, row_state: f32, squares: f32, dims: usize) -> f32 {
        match self {
            Optimizer::RowwiseAdagrad { .. } => row_state + squares / dims.max(1) as f32,
            _ => row_state,
        }
    }

    /// Steps the first `grad.len()` of a chunk's `dims` weights and returns the squared norm of the gradient. `row_state` is what
    /// [`step_row`](Self::step_row) gave.
    #[inline]
    pub(crate) fn step_chunk(
        &self,
        simd: Kernels,
        lr: f32,
        payload: &mut [f32],
        dims: usize,
        row_state: f32,
        grad: &[f32],
    ) -> f32 {
        let (weights, state) = payload.split_at_mut(dims);
        let used = grad.len();
        let weights = &mut weights[..used];
        match *self {
            Optimizer::Sgd { .. } => simd.sgd_squares(weights, grad, lr),
            Optimizer::Adagrad { eps, .. } => simd.adagrad_squares(weights, &mut state[..used], grad, lr, eps),
            Optimizer::RowwiseAdagrad { eps, .. } => simd.sgd_squares(weights, grad, lr / (row_state.sqrt() + eps)),
            Optimizer::Adam { beta1, beta2, eps, .. } => {
                let (first, rest) = state.split_at_mut(dims);
                let (second, count) = rest.split_at_mut(dims);
                // Counted in f32, which is exact up to 2^24 steps; from there on the correction is 1 anyway.
                count[0] += 1.0;
                let step = AdamStep::new(lr, beta1, beta2, eps, count[0] as u64);
                simd.adam(weights, &mut first[..used], &mut second[..used], grad, &step);
                simd.sum_squares(grad)
            }
        }
    }
}
