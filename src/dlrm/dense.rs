//! The dense part of the model: everything but the embedding tables.
//!
//! A batch is cut into shards of rows. A shard is one thread's work from the first layer to the last and
//! back; it leaves its own sum of the parameters' gradients. The sums are then added in the order of the
//! shards. How a batch is cut depends on its size alone, never on the threads, so neither does
//! any bit of the result.

use std::sync::Arc;

use parking_lot::Mutex;

use super::interaction::{Inputs, Interaction};
use super::mlp::{Mlp, Pass, Weights, padded};
use super::profile::{Phase, PhaseTimes, Timers};
use super::shard::{Cut, Shard, Workspace};
use super::workers::Workers;
use super::{DenseOptimizer, DlrmConfig, TrainError, loss};
use crate::simd::{Kernels, PANEL, pairs};

/// Parameters that are summed and updated as one piece of work.
const UPDATE_PIECE: usize = 16 * 1024;

/// One batch as the dense part sees it.
#[derive(Clone, Copy, Debug)]
pub struct DenseInput<'a> {
    /// Number of samples.
    pub rows: usize,
    /// Dense features, `[rows, n_dense]`.
    pub dense: &'a [f32],
    /// Embeddings, feature-major: `[n_features, rows, dim]`.
    pub embeddings: &'a [f32],
}

/// One named parameter with its gradient: a weight matrix `[rows, columns]` or a bias `[rows, 1]`.
#[derive(Clone, Debug)]
pub struct Parameter<'a> {
    /// As in PyTorch, counted by linear layer: `bottom.0.weight`, `bottom.0.bias`, ..., `top.1.bias`.
    pub name: String,
    /// Outputs of the layer.
    pub rows: usize,
    /// Inputs of the layer; 1 for a bias.
    pub columns: usize,
    /// Row-major values.
    pub values: &'a [f32],
    /// The gradient of the last batch's mean loss; empty before the first [`DenseNet::backward`].
    pub gradient: &'a [f32],
}

/// Bottom MLP, interaction, top MLP and loss, on embeddings that somebody else looked up.
///
/// [`Dlrm`](super::Dlrm) is this plus a store. It stands by itself so that it can be compared, gradient by
/// gradient, with another implementation.
pub struct DenseNet {
    n_dense: usize,
    bottom: Mlp,
    top: Mlp,
    interaction: Interaction,
    optimizer: DenseOptimizer,
    kernels: Kernels,
    parameters: Vec<f32>,
    /// The parameters as the products read them, one for each layer from bottom to top.
    weights: Vec<Weights>,
    /// The parameters have changed since they were laid out.
    stale: bool,
    /// Optimizer state, laid out like the parameters; empty for SGD.
    state: Vec<f32>,
    shards: Vec<Shard>,
    /// One for each thread.
    workspaces: Vec<Mutex<Workspace>>,
    workers: Workers,
    timers: Arc<Timers>,
    /// How the last batch was cut.
    last: Cut,
    /// Whether the last pass went back, so that there are gradients of that batch.
    went_back: bool,
}

impl DenseNet {
    /// Draws the parameters from `config.seed` and starts `config.threads` threads.
    ///
    /// # Errors
    ///
    /// [`TrainError::Config`] names the setting that does not fit; [`TrainError::Threads`].
    pub fn new(config: &DlrmConfig) -> Result<Self, TrainError> {
        config.validate()?;
        let kernels = Kernels::get();
        let has_bottom = config.n_dense > 0;
        let mut widths = config.bottom.clone();
        widths.push(config.dim);
        let bottom = Mlp::new(config.n_dense, if has_bottom { &widths } else { &[] }, 0, false);
        let interaction = Interaction { kernels, n_features: config.n_features, dim: config.dim, bottom: has_bottom };
        let mut widths = config.top.clone();
        widths.push(1);
        let top = Mlp::new(interaction.outputs(), &widths, bottom.end(0), true);

        let workers = Workers::new(config.threads)?;
        let mut parameters = vec![0.0; top.end(0)];
        bottom.initialize(&mut parameters, config.seed);
        top.initialize(&mut parameters, config.seed ^ 0x746f_7020_6d6c_7000); // Another stream for the top.
        Ok(Self {
            n_dense: config.n_dense,
            bottom,
            top,
            interaction,
            optimizer: config.dense_optimizer,
            kernels,
            state: config.dense_optimizer.state(parameters.len()),
            parameters,
            weights: Vec::new(),
            stale: true,
            shards: Vec::new(),
            workspaces: (0..workers.count()).map(|_| Mutex::default()).collect(),
            workers,
            timers: Arc::default(),
            last: Cut::default(),
            went_back: false,
        })
    }

    /// Scores a batch: `logits` becomes one value per row.
    ///
    /// # Errors
    ///
    /// [`TrainError::Batch`] if a slice has not the length that `rows` asks for.
    pub fn forward(&mut self, input: &DenseInput<'_>, logits: &mut Vec<f32>) -> Result<(), TrainError> {
        self.check(input)?;
        self.pass(input, None);
        self.collect_logits(logits);
        Ok(())
    }

    /// Scores a batch and computes the gradients of its **mean** loss by every parameter
    /// ([`parameters`](Self::parameters)) and every embedding
    /// ([`copy_embedding_gradient`](Self::copy_embedding_gradient)). Returns the mean loss. Moves nothing.
    ///
    /// # Errors
    ///
    /// [`TrainError::Batch`] if a slice has not the length that `rows` asks for or there are no rows;
    /// [`TrainError::Diverged`] if the loss is not a finite number.
    pub fn backward(
        &mut self,
        input: &DenseInput<'_>,
        labels: &[f32],
        logits: &mut Vec<f32>,
    ) -> Result<f64, TrainError> {
        self.check(input)?;
        super::expect_len("labels", labels.len(), input.rows)?;
        if input.rows == 0 {
            return Err(TrainError::Batch("a training batch has no rows".to_string()));
        }
        self.pass(input, Some(labels));
        self.collect_logits(logits);
        let loss = self.shards[..self.last.shards].iter().map(|shard| shard.loss).sum::<f64>() / input.rows as f64;
        if !loss.is_finite() {
            self.went_back = false;
            return Err(TrainError::Diverged { loss });
        }
        self.sum_gradients();
        Ok(loss)
    }

    /// Moves the parameters along the gradients of the last [`backward`](Self::backward); without one, does
    /// nothing.
    pub fn update(&mut self) {
        let (optimizer, kernels, timers) = (self.optimizer, self.kernels, &self.timers);
        let Some(first) = self.shards.first().filter(|_| self.went_back) else {
            return;
        };
        self.stale = true;
        self.workers.pieces(&mut self.parameters, &mut self.state, UPDATE_PIECE, |piece, w, state| {
            let g = &first.gradients[piece * UPDATE_PIECE..][..w.len()];
            timers.time(Phase::DenseOptimizer, || optimizer.step(kernels, w, state, g));
        });
    }

    /// Copies one feature's gradients, `[rows, dim]`, out of the last [`backward`](Self::backward).
    ///
    /// # Errors
    ///
    /// [`TrainError::Batch`] if there is no such feature, `out` is not `rows · dim` long, or the last pass was
    /// [`forward`](Self::forward) alone.
    pub fn copy_embedding_gradient(&self, feature: usize, out: &mut [f32]) -> Result<(), TrainError> {
        let Interaction { dim, n_features, .. } = self.interaction;
        if feature >= n_features {
            return Err(TrainError::Batch(format!("feature {feature} is asked for and there are {n_features}")));
        }
        if !self.went_back {
            return Err(TrainError::Batch("gradients are asked for and the last pass was forward only".to_string()));
        }
        super::expect_len("an embedding gradient", out.len(), self.last.rows * dim)?;
        for (i, out) in out.chunks_mut(self.last.shard_rows.max(1) * dim).enumerate() {
            out.copy_from_slice(&self.shards[i].embedding_gradients[feature * out.len()..][..out.len()]);
        }
        Ok(())
    }

    /// Calls `with` with one feature's gradients, in a buffer of this thread's that stays in its cache from one feature
    /// to the next.
    pub(super) fn with_embedding_gradient<R>(
        &self,
        feature: usize,
        with: impl FnOnce(&[f32]) -> Result<R, TrainError>,
    ) -> Result<R, TrainError> {
        let work = &mut *self.workspaces[self.workers.current()].lock();
        let len = self.last.rows * self.interaction.dim;
        work.table.grow(len);
        self.copy_embedding_gradient(feature, &mut work.table[..len])?;
        with(&work.table[..len])
    }

    /// Every parameter by name, bottom to top, weight before bias.
    #[must_use]
    pub fn parameters(&self) -> Vec<Parameter<'_>> {
        let gradients = self.shards.first().map_or(&[][..], |shard| &shard.gradients);
        let mut all = Vec::new();
        for (mlp, name) in [(&self.bottom, "bottom"), (&self.top, "top")] {
            for (i, layer) in mlp.layers.iter().enumerate() {
                for (kind, range, columns) in [("weight", layer.weight(), layer.inputs), ("bias", layer.bias(), 1)] {
                    all.push(Parameter {
                        name: format!("{name}.{i}.{kind}"),
                        rows: layer.outputs,
                        columns,
                        values: &self.parameters[range.clone()],
                        gradient: gradients.get(range).unwrap_or_default(),
                    });
                }
            }
        }
        all
    }

    /// Replaces all parameters, given in the order of [`parameters`](Self::parameters), one tensor behind
    /// the other. Optimizer state stays.
    ///
    /// # Errors
    ///
    /// [`TrainError::Batch`] if `values` is not as long as all parameters together.
    pub fn set_parameters(&mut self, values: &[f32]) -> Result<(), TrainError> {
        super::expect_len("parameters", values.len(), self.parameters.len())?;
        self.parameters.copy_from_slice(values);
        self.stale = true;
        Ok(())
    }

    /// The optimizer's state, laid out like the parameters; empty for SGD.
    #[must_use]
    pub fn state(&self) -> &[f32] {
        &self.state
    }

    /// Replaces the optimizer's state.
    ///
    /// # Errors
    ///
    /// [`TrainError::Batch`] if `values` is not as long.
    pub fn set_state(&mut self, values: &[f32]) -> Result<(), TrainError> {
        super::expect_len("the optimizer's state", values.len(), self.state.len())?;
        self.state.copy_from_slice(values);
        Ok(())
    }

    /// Bytes of the parameters and their optimizer state.
    #[must_use]
    pub fn parameter_bytes(&self) -> u64 {
        ((self.parameters.len() + self.state.len()) * size_of::<f32>()) as u64
    }

    /// Bytes of the buffers between input and gradients. They grow with the largest batch seen.
    #[must_use]
    pub fn buffer_bytes(&self) -> u64 {
        let shards = self.shards.iter().map(Shard::bytes).sum::<usize>();
        let workspaces = self.workspaces.iter().map(|workspace| workspace.lock().bytes()).sum::<usize>();
        let weights = self.weights.iter().map(Weights::bytes).sum::<usize>();
        (shards + workspaces + weights) as u64
    }

    /// Floating-point operations of the matrix products of one row, forward and back; a multiply-add counts as two.
    #[must_use]
    pub fn mlp_flops_per_row(&self) -> f64 {
        let products = |mlp: &Mlp| mlp.layers.iter().map(|layer| 6.0 * layer.weight().len() as f64).sum::<f64>();
        // Nobody asks for the gradient of the dense features.
        let unasked = self.bottom.layers.first().map_or(0.0, |layer| 2.0 * layer.weight().len() as f64);
        products(&self.bottom) + products(&self.top) - unasked
    }

    /// Floating-point operations of the interaction of one row, forward and back.
    #[must_use]
    pub fn cross_flops_per_row(&self) -> f64 {
        6.0 * (pairs(self.interaction.vectors()) * self.interaction.dim) as f64
    }

    /// The time of each phase since the start.
    #[must_use]
    pub fn times(&self) -> PhaseTimes {
        self.timers.read()
    }

    pub(super) fn timers(&self) -> &Arc<Timers> {
        &self.timers
    }

    pub(super) fn workers(&self) -> &Workers {
        &self.workers
    }

    fn check(&self, input: &DenseInput<'_>) -> Result<(), TrainError> {
        let Interaction { dim, n_features, .. } = self.interaction;
        super::expect_len("dense features", input.dense.len(), input.rows * self.n_dense)?;
        super::expect_len("embeddings", input.embeddings.len(), n_features * input.rows * dim)
    }

    /// Runs every shard forward and, given labels, back.
    fn pass(&mut self, input: &DenseInput<'_>, labels: Option<&[f32]>) {
        let cut = if input.rows == 0 { Cut::default() } else { Cut::new(input.rows) };
        self.last = cut;
        self.went_back = labels.is_some();
        if self.shards.len() < cut.shards {
            self.shards.resize_with(cut.shards, Shard::default);
        }
        self.lay_out();
        let mut shards = std::mem::take(&mut self.shards);
        self.workers.each(&mut shards[..cut.shards], |i, shard| {
            let mut work = self.workspaces[self.workers.current()].lock();
            work.reserve(self.n_dense, &self.bottom, &self.interaction, &self.top, cut.shard_rows);
            self.shard_forward(input, cut, i, &mut work, shard);
            if let Some(labels) = labels {
                self.shard_backward(input, labels, cut, i, &mut work, shard);
            }
        });
        self.shards = shards;
    }

    /// Lays the parameters out for the products, if they have changed.
    fn lay_out(&mut self) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        let (bottom, top) = (&self.bottom, &self.top);
        let (kernels, parameters, timers) = (self.kernels, &self.parameters, &self.timers);
        self.weights.resize_with(bottom.layers.len() + top.layers.len(), Weights::default);
        self.workers.each(&mut self.weights, |i, weights| {
            timers.time(Phase::Pack, || match i.checked_sub(bottom.layers.len()) {
                None => bottom.lay_out(kernels, i, parameters, weights),
                Some(i) => top.lay_out(kernels, i, parameters, weights),
            });
        });
    }

    fn weights(&self) -> (&[Weights], &[Weights]) {
        self.weights.split_at(self.bottom.layers.len())
    }

    fn shard_forward(&self, input: &DenseInput<'_>, cut: Cut, i: usize, work: &mut Workspace, shard: &mut Shard) {
        let (first, rows) = (cut.first(i), cut.len(i));
        let (kernels, (bottom, top)) = (self.kernels, self.weights());
        let n_dense = self.n_dense;
        let Workspace { bottom: below, top: above, dense, crossed, columns, .. } = work;
        let crossed = &mut crossed[..rows * padded(self.interaction.outputs())];
        self.timers.time(Phase::BottomForward, || {
            let dense = &mut dense[..rows * padded(n_dense)];
            into_panels(dense, &input.dense[first * n_dense..][..rows * n_dense], n_dense);
            self.bottom.forward(kernels, bottom, dense, rows, below);
        });
        self.timers.time(Phase::CrossForward, || {
            let output = below.output(&self.bottom, rows);
            let inputs = Inputs { bottom: output, embeddings: input.embeddings, batch: input.rows, first, rows };
            self.interaction.forward(inputs, columns, crossed);
        });
        self.timers.time(Phase::TopForward, || {
            self.top.forward(kernels, top, crossed, rows, above);
            let pass = Pass { rows, input: crossed, activations: above, stop_at_input: false };
            shard.logits.resize(rows, 0.0);
            self.top.score(kernels, top, pass, &mut shard.logits);
        });
    }

    fn shard_backward(
        &self,
        input: &DenseInput<'_>,
        labels: &[f32],
        cut: Cut,
        i: usize,
        work: &mut Workspace,
        shard: &mut Shard,
    ) {
        let (first, rows) = (cut.first(i), cut.len(i));
        let (kernels, (bottom, top)) = (self.kernels, self.weights());
        let Interaction { dim, n_features, .. } = self.interaction;
        let Workspace { bottom: below, top: above, dense, crossed, columns, flow, .. } = work;
        shard.gradients.resize(self.parameters.len(), 0.0);
        shard.embedding_gradients.grow(n_features * rows * dim);

        self.timers.time(Phase::Loss, || {
            let labels = &labels[first..first + rows];
            shard.loss = loss::backward(&shard.logits, labels, input.rows, &mut flow.logits[..rows]);
        });
        let crossed = &crossed[..rows * padded(self.interaction.outputs())];
        self.timers.time(Phase::TopBackward, || {
            let pass = Pass { rows, input: crossed, activations: above, stop_at_input: false };
            self.top.score_backward(kernels, top, pass, flow, &mut shard.gradients);
            self.top.backward(kernels, top, pass, flow, &mut shard.gradients);
        });
        self.timers.time(Phase::CrossBackward, || {
            let output = below.output(&self.bottom, rows);
            let inputs = Inputs { bottom: output, embeddings: input.embeddings, batch: input.rows, first, rows };
            let (from, to) = flow.turn();
            let (from, to) = (&from[..crossed.len()], &mut to[..output.len()]);
            self.interaction.backward(
                inputs,
                columns,
                from,
                to,
                &mut shard.embedding_gradients[..n_features * rows * dim],
            );
            flow.go_on();
        });
        self.timers.time(Phase::BottomBackward, || {
            let dense = &dense[..rows * padded(self.n_dense)];
            let pass = Pass { rows, input: dense, activations: below, stop_at_input: true };
            self.bottom.backward(kernels, bottom, pass, flow, &mut shard.gradients);
        });
    }

    /// Adds the shards' gradients in order, into the first shard's.
    fn sum_gradients(&mut self) {
        let kernels = self.kernels;
        let Some((first, rest)) = self.shards[..self.last.shards].split_first_mut() else {
            return;
        };
        let rest = &*rest;
        let timers = &self.timers;
        let sum = |piece: usize, to: &mut [f32]| {
            timers.time(Phase::Sum, || {
                for shard in rest {
                    kernels.add(to, &shard.gradients[piece * UPDATE_PIECE..][..to.len()]);
                }
            });
            Ok::<(), std::convert::Infallible>(())
        };
        let Ok(()) = self.workers.try_pieces(&mut first.gradients, UPDATE_PIECE, sum);
    }

    fn collect_logits(&self, logits: &mut Vec<f32>) {
        logits.clear();
        for shard in &self.shards[..self.last.shards] {
            logits.extend_from_slice(&shard.logits);
        }
    }
}

/// `panels[c / 16][r][c % 16] = rows[r][c]`, and zeros for the padding.
fn into_panels(panels: &mut [f32], rows: &[f32], columns: usize) {
    let count = rows.len() / columns.max(1);
    for (panel, to) in panels.chunks_exact_mut((count * PANEL).max(1)).enumerate() {
        let first = panel * PANEL;
        let width = PANEL.min(columns - first);
        for (to, row) in to.chunks_exact_mut(PANEL).zip(rows.chunks_exact(columns)) {
            to[..width].copy_from_slice(&row[first..first + width]);
            to[width..].fill(0.0);
        }
    }
}
