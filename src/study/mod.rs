//! The accuracy study: embedding methods under one budget of bytes, trained in the same model, on the same batches, in
//! the same order.
//!
//! ```text
//! Stream ─┐
//! Method ─┼─► trial: one pass, then the held-out tail ─► Record ─┐
//! Model  ─┘                                                      ├─► grid: all trials, resumable ─► figures: paired
//!                                                        Record ─┘                                  differences
//! ```
//!
//! A method is told its budget and must stay within it: weights, optimizer state and whatever else it needs to find its
//! rows, at every step. What it does not count is scratch space in proportion to a batch, and, for flat tables, the map
//! from keys to ids (see [`stream`]).

mod cafe;
mod factored;
pub(crate) mod figures;
mod flat;
pub(crate) mod grid;
mod hashed;
mod magnitude;
pub(crate) mod methods;
mod oracle;
mod pruned;
mod ranking;
pub(crate) mod record;
mod sketched;
mod start;
mod stored;
pub(crate) mod stream;
pub(crate) mod trial;

use crate::{ConfigError, StoreError};

/// Largest absolute value of a weight before training: of every method here that does not start at zero, and of new rows
/// of `dimslab train`.
pub(crate) const INIT_BOUND: f64 = 0.01;

/// How every method trains its rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Training {
    /// Learning rate of Adagrad.
    pub(crate) lr: f32,
    /// Added to its root.
    pub(crate) eps: f32,
    /// Seed of hashes and initial weights.
    pub(crate) seed: u64,
}

/// Bytes of a method.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Now.
    pub(crate) now: u64,
    /// The most at any moment so far.
    pub(crate) peak: u64,
}

/// What turns ids into vectors and learns from their gradients.
pub(crate) trait Method: Send {
    /// Writes one feature's vectors, `[ids.len(), dim]`.
    fn lookup(&mut self, feature: usize, ids: &[u32], out: &mut [f32]) -> Result<(), StudyError>;

    /// Learns from one feature's gradients, `[ids.len(), dim]`.
    fn train(&mut self, feature: usize, ids: &[u32], gradients: &[f32]) -> Result<(), StudyError>;

    /// Ends a training step, after all features.
    fn end_step(&mut self) -> Result<(), StudyError> {
        Ok(())
    }

    /// Ends training: what follows are look-ups.
    fn end_training(&mut self) {}

    /// All bytes that the method holds.
    fn held(&self) -> Held;

    /// Dimensions of its own that each of a feature's first `ids` ids has.
    fn own_dims(&self, feature: usize, ids: usize) -> Vec<u16>;
}

/// What can go wrong in a trial.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StudyError {
    /// The method cannot exist within the budget.
    #[error("{method} does not fit into {budget} bytes: it needs {needed} at least")]
    TooSmall {
        /// The method.
        method: &'static str,
        /// What it was given.
        budget: u64,
        /// What it needs.
        needed: u64,
    },
    /// The method held more than it was given.
    #[error("{method} held {held} bytes after step {step} with a budget of {budget}: the trial is void")]
    OverBudget {
        /// The method.
        method: String,
        /// The most it held.
        held: u64,
        /// What it was given.
        budget: u64,
        /// Training steps until then.
        step: u64,
    },
    /// A text that names no method.
    #[error("{0}")]
    Name(String),
    /// The store was not made.
    #[error("store: {0}")]
    Config(#[from] ConfigError),
    /// The store refused.
    #[error("store: {0}")]
    Store(#[from] StoreError),
    /// The model refused.
    #[error(transparent)]
    Train(#[from] crate::dlrm::TrainError),
    /// The stream could not be read or made.
    #[error(transparent)]
    Data(#[from] crate::data::DataError),
    /// The stream has nothing to train on.
    #[error("the stream has {rows} rows and {test} of them are to be held out: nothing is left to train on")]
    Empty {
        /// Rows of the stream.
        rows: usize,
        /// Held-out rows asked for.
        test: usize,
    },
    /// A file of the grid.
    #[error("{}: {what}", path.display())]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The run was asked to end.
    #[error("interrupted")]
    Interrupted,
}
