//! The model's settings and what is asked of them.

use super::{DenseOptimizer, TrainError};
use crate::simd::pairs;

/// The most parameters a model may have: 4 GiB of weights.
const PARAMETERS_MAX: usize = 1 << 30;

/// The shape of the model and how it is trained.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct DlrmConfig {
    /// Dense features per sample; 0 leaves out the bottom MLP.
    pub n_dense: usize,
    /// Categorical features per sample: one table of the store each, in the order of its tables.
    pub n_features: usize,
    /// Dimension of the embeddings and of the bottom MLP's output; that of every table of the store.
    pub dim: usize,
    /// Hidden widths of the bottom MLP; `dim` is appended.
    pub bottom: Vec<usize>,
    /// Hidden widths of the top MLP; 1 is appended.
    pub top: Vec<usize>,
    /// Optimizer of both MLPs.
    pub dense_optimizer: DenseOptimizer,
    /// Seed of the initial weights.
    pub seed: u64,
    /// Threads; results do not depend on it.
    pub threads: usize,
}

impl DlrmConfig {
    /// Checks every setting, and that the parameters can be counted.
    pub(super) fn validate(&self) -> Result<(), TrainError> {
        self.dense_optimizer.validate()?;
        let widths = self.bottom.iter().chain(&self.top).chain([&self.dim]);
        if widths.clone().any(|&width| width == 0) {
            return Err(TrainError::Config("a width of 0: dim and every hidden layer need at least 1".to_string()));
        }
        let most = widths.copied().chain([self.n_dense, self.n_features]).max().unwrap_or(0);
        let limit = 1 << 20; // Products of two such sizes cannot overflow.
        if most > limit {
            return Err(TrainError::Config(format!("a size of {most}: none may be above {limit}")));
        }
        let vectors = self.n_features + usize::from(self.n_dense > 0);
        let crossed = pairs(vectors) + if self.n_dense > 0 { self.dim } else { 0 };
        if crossed == 0 {
            return Err(TrainError::Config(
                "nothing reaches the top MLP: without dense features at least two categorical ones are needed"
                    .to_string(),
            ));
        }
        let chain = |inputs: usize, widths: &[usize], last: usize| {
            let mut inputs = inputs;
            widths.iter().chain([&last]).try_fold(0usize, |sum, &outputs| {
                let layer = outputs.checked_mul(inputs)?.checked_add(outputs)?;
                inputs = outputs;
                sum.checked_add(layer)
            })
        };
        let bottom = if self.n_dense > 0 { chain(self.n_dense, &self.bottom, self.dim) } else { Some(0) };
        let total = bottom.and_then(|bottom| chain(crossed, &self.top, 1)?.checked_add(bottom));
        match total {
            Some(total) if total <= PARAMETERS_MAX => Ok(()),
            _ => Err(TrainError::Config(format!("the MLPs have more than {PARAMETERS_MAX} parameters"))),
        }
    }
}
