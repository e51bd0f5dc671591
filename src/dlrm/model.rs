//! The dense part and a store, put together: one training step.

use super::dense::{DenseInput, DenseNet};
use super::lines::Lines;
use super::profile::{Phase, PhaseTimes};
use super::{DlrmConfig, TrainError, expect_len};
use crate::data::Batch;
use crate::{Policy, Store, StoreConfig, TableConfig, TableId};

/// A DLRM whose embeddings live in a [`Store`].
///
/// It does not own the store: every call is handed it, and must be handed the same one, whose tables are the model's
/// features in order, each of the model's dimension.
///
/// Buffers grow with the largest batch seen and are then kept: a step of its own makes no allocation. (With
/// more than one thread, the thread pool's queue takes a block now and then.)
pub struct Dlrm {
    net: DenseNet,
    n_dense: usize,
    n_features: usize,
    dim: usize,
    /// `[n_features, rows, dim]`.
    embeddings: Lines,
}

/// What one training step measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepLoss {
    /// Mean binary cross-entropy of the batch, before the update.
    pub mean: f64,
    /// Number of samples.
    pub rows: usize,
}

impl Dlrm {
    /// Draws the dense parameters and starts the threads.
    ///
    /// # Errors
    ///
    /// [`TrainError::Config`] names the setting that does not fit; [`TrainError::Threads`].
    pub fn new(config: DlrmConfig) -> Result<Self, TrainError> {
        let net = DenseNet::new(&config)?;
        Ok(Self {
            net,
            n_dense: config.n_dense,
            n_features: config.n_features,
            dim: config.dim,
            embeddings: Lines::default(),
        })
    }

    /// Makes one step on `rows` made-up rows with a small store of its own and moves nothing, so that buffers, threads,
    /// the library of matrix products and the program itself have their memory before the real store takes its own.
    ///
    /// # Errors
    ///
    /// [`TrainError::Batch`] if `rows` is 0; [`TrainError::Config`] if the small store cannot be made.
    pub fn warm_up(&mut self, rows: usize) -> Result<(), TrainError> {
        let tables = (0..self.n_features).map(|table| TableConfig::new(table.to_string(), self.dim));
        // Room for its bookkeeping and two rows of each table, whatever their dimension.
        let config = StoreConfig::new((4 << 20) + (self.n_features as u64) * (64 << 10)).policy(Policy::None);
        let unsuitable = |error: crate::ConfigError| TrainError::Config(error.to_string());
        let store = Store::new(config, tables.collect()).map_err(unsuitable)?;
        let mut batch = Batch { rows, n_dense: self.n_dense, n_features: self.n_features, ..Batch::default() };
        batch.labels.resize(rows, 0.0);
        batch.dense.resize(rows * self.n_dense, 0.0);
        batch.keys = (0..rows * self.n_features).map(|position| (position % 2) as u64).collect();
        let workers = self.net.workers().clone();
        workers.run(|| {
            self.gather(&store, &batch)?;
            self.net.backward(&input(&batch, self.dim, &self.embeddings), &batch.labels, &mut Vec::new())?;
            self.train_tables(&store, &batch)
        })
    }

    /// Scores a batch: `logits` becomes one value per row. Changes neither the model nor the store.
    ///
    /// # Errors
    ///
    /// [`TrainError::Batch`] and [`TrainError::Store`], as [`train_step`](Self::train_step).
    pub fn forward(&mut self, store: &Store, batch: &Batch, logits: &mut Vec<f32>) -> Result<(), TrainError> {
        let workers = self.net.workers().clone();
        workers.run(|| {
            self.gather(store, batch)?;
            self.net.forward(&input(batch, self.dim, &self.embeddings), logits)
        })
    }

    /// One training step: scores the batch, goes back, updates the tables and the dense parameters, and ends the
    /// store's step. `logits` are the scores from **before** the update.
    ///
    /// # Errors
    ///
    /// * [`TrainError::Batch`]: the batch or the store is not of the model's shape, or the batch is empty. Nothing
    ///   was changed.
    /// * [`TrainError::Diverged`]: the loss is not finite. Nothing was changed.
    /// * [`TrainError::Store`]: the store refused, for instance for want of room. Other tables may have been updated;
    ///   the dense parameters were not.
    pub fn train_step(&mut self, store: &Store, batch: &Batch, logits: &mut Vec<f32>) -> Result<StepLoss, TrainError> {
        let workers = self.net.workers().clone();
        workers.run(|| {
            self.gather(store, batch)?;
            let mean = self.net.backward(&input(batch, self.dim, &self.embeddings), &batch.labels, logits)?;
            self.train_tables(store, batch)?;
            self.net.update();
            self.net.timers().time(Phase::Prune, || store.step())?;
            Ok(StepLoss { mean, rows: batch.rows })
        })
    }

    /// The dense part, for a look at its parameters and gradients.
    #[must_use]
    pub fn dense(&self) -> &DenseNet {
        &self.net
    }

    pub(super) fn dense_mut(&mut self) -> &mut DenseNet {
        &mut self.net
    }

    /// The time of each phase since the start, of all threads together.
    #[must_use]
    pub fn times(&self) -> PhaseTimes {
        self.net.times()
    }

    /// Floating-point operations that training one row takes in the matrix products, a multiply-add counted as two.
    #[must_use]
    pub fn mlp_flops_per_row(&self) -> f64 {
        self.net.mlp_flops_per_row()
    }

    /// Floating-point operations that training one row takes in the interaction.
    #[must_use]
    pub fn cross_flops_per_row(&self) -> f64 {
        self.net.cross_flops_per_row()
    }

    /// Bytes of the dense parameters and their optimizer state.
    #[must_use]
    pub fn parameter_bytes(&self) -> u64 {
        self.net.parameter_bytes()
    }

    /// Bytes of all buffers a step uses. They grow with the largest batch seen.
    #[must_use]
    pub fn buffer_bytes(&self) -> u64 {
        self.net.buffer_bytes() + self.embeddings.bytes() as u64
    }

    /// Hands every table its gradients, a table on any thread.
    fn train_tables(&self, store: &Store, batch: &Batch) -> Result<(), TrainError> {
        self.net.workers().try_each(self.n_features, |feature| {
            self.net.timers().time(Phase::Tables, || {
                self.net.with_embedding_gradient(feature, |gradient| {
                    store.apply_gradients(TableId::new(feature), batch.feature_keys(feature), gradient)?;
                    Ok(())
                })
            })
        })
    }

    /// Looks up every table's rows, a table on any thread.
    fn gather(&mut self, store: &Store, batch: &Batch) -> Result<(), TrainError> {
        self.check(store, batch)?;
        let values = batch.rows * self.dim;
        self.embeddings.grow(self.n_features * values);
        self.net.workers().try_pieces(&mut self.embeddings[..self.n_features * values], values, |feature, out| {
            self.net
                .timers()
                .time(Phase::Gather, || store.gather(TableId::new(feature), batch.feature_keys(feature), out))
        })?;
        Ok(())
    }

    fn check(&self, store: &Store, batch: &Batch) -> Result<(), TrainError> {
        expect_len("keys", batch.keys.len(), batch.rows * self.n_features)?;
        if store.table_count() != self.n_features {
            return Err(TrainError::Batch(format!(
                "the store has {} tables and the model {} categorical features; it needs one table for each",
                store.table_count(),
                self.n_features
            )));
        }
        for feature in 0..self.n_features {
            let dim = store.dim(TableId::new(feature))?;
            if dim != self.dim {
                return Err(TrainError::Batch(format!(
                    "table {feature} has dimension {dim} and the model {}; they must agree",
                    self.dim
                )));
            }
        }
        Ok(())
    }
}

fn input<'a>(batch: &'a Batch, dim: usize, embeddings: &'a [f32]) -> DenseInput<'a> {
    let embeddings = &embeddings[..batch.keys.len() * dim];
    DenseInput { rows: batch.rows, dense: &batch.dense, embeddings }
}
