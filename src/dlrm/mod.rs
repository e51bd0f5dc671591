//! A small DLRM trained on top of the store: the model that shows what the store is for.
//!
//! ```text
//!  dense [n_dense] ──► bottom MLP ──► z0 [D] ──┐
//!  key 0 ──► store, table 0 ────────► z1 [D] ──┤   dot         z0 ++ pairs
//!  key 1 ──► store, table 1 ────────► z2 [D] ──┼─ interaction ─────────────► top MLP ──► logit
//!  ...                                         │   zi·zj, j < i
//!  key T-1 ► store, table T-1 ──────► zT [D] ──┘
//! ```
//!
//! Every hidden layer, and the bottom's last, is `max(x·Wᵀ + b, 0)`; the top's last is `x·Wᵀ + b`. The loss is the
//! binary cross-entropy of the logit, averaged over the batch. Forward and backward are written by hand,
//! as pairs, one file per layer: [`loss`], and inside `interaction` and `mlp`.
//! The model is that of Naumov et al. (2019, arXiv 1906.00091), dot interaction without the diagonal.
//!
//! One step: gather every table's rows, run the dense part forward and back, hand each table its
//! gradients, move the dense parameters, tell the store that the step is over. Scores are those from before the
//! update, so that a single pass over a stream also validates (progressive validation).
//!
//! **The same bits for every number of threads.** A batch is cut by its size alone, sums are added in a fixed
//! order, and a table is one thread's work. (Bits do depend on whether the processor fuses multiply and
//! add, in the matrix products.)
//!
//! What this refuses to do: other interactions, other losses, other
//! layers, half precision, GPUs, more than one machine, more than one key per feature and sample. It trains one
//! model well enough to measure a store by.

mod checkpoint;
mod config;
mod dense;
mod interaction;
mod lines;
pub mod loss;
mod machine;
pub mod metrics;
mod mlp;
mod model;
mod optim;
mod predict;
mod profile;
pub mod run;
mod shard;
mod workers;

pub use config::DlrmConfig;
pub use dense::{DenseInput, DenseNet, Parameter};
pub use machine::Machine;
pub use model::{Dlrm, StepLoss};
pub use optim::DenseOptimizer;
pub use predict::{MODEL, Predictor};
pub use profile::{Phase, PhaseTimes};

/// Why a model could not be built or a step not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A setting that does not fit: which, its value, and what it must be.
    #[error("model configuration: {0}")]
    Config(String),
    /// The operating system gave no threads.
    #[error("could not start {threads} threads ({reason}); ask for fewer")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// The operating system's words.
        reason: String,
    },
    /// A batch that is not of the model's shape.
    #[error("batch: {0}")]
    Batch(String),
    /// A serving file holds no model, or another one, or is damaged.
    #[error("{0}")]
    Serving(String),
    /// The store refused a look-up or an update.
    #[error("store: {0}")]
    Store(#[from] crate::StoreError),
    /// The loss is infinite or not a number; neither the model nor the store was changed by this batch.
    #[error(
        "the loss of a batch is {loss}: look for a value in the data that is not finite, or lower the learning rates"
    )]
    Diverged {
        /// The loss.
        loss: f64,
    },
}

/// A [`TrainError::Batch`] unless a slice has the length it must have.
fn expect_len(what: &str, len: usize, expected: usize) -> Result<(), TrainError> {
    if len == expected {
        return Ok(());
    }
    Err(TrainError::Batch(format!("{what}: {len} values where the model's shape asks for {expected}")))
}
