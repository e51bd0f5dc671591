//! The dense part of the model: everything but the embedding tables.
//!
//! A batch is cut into shards of rows. A shard is one thread's work from the first layer to the last and
//! back; it leaves its own sum of the parameters' gradients. The sums are then added in the order of the
//! shards. How a batch is cut depends on its size alone, never on the threads, so neither does
//! any bit of the result.

use parking_lot::Mutex;

use super::interaction::{Embeddings, Interaction};
use super::mlp::{Mlp, Pass};
use super::shard::{Cut, Shard, Workspace};
use super::workers::Workers;
use super::{DenseOptimizer, DlrmConfig, TrainError, loss};
use crate::simd::Kernels;

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
    /// Optimizer state, laid out like the parameters; empty for SGD.
    state: Vec<f32>,
    shards: Vec<Shard>,
    /// One for each thread.
    workspaces: Vec<Mutex<Workspace>>,
    workers: Workers,
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
        let bottom = Mlp::new(config.n_dense, if has_bottom { &widths } else { &[] }, 0, true);
        let interaction = Interaction { kernels, n_features: config.n_features, dim: config.dim, bottom: has_bottom };
        let mut widths = config.top.clone();
        widths.push(1);
        let top = Mlp::new(interaction.outputs(), &widths, bottom.end(0), false);

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
            shards: Vec::new(),
            workspaces: (0..workers.count()).map(|_| Mutex::default()).collect(),
            workers,
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
        let (optimizer, kernels) = (self.optimizer, self.kernels);
        let Some(first) = self.shards.first().filter(|_| self.went_back) else {
            return;
        };
        let mut states = self.state.chunks_mut(UPDATE_PIECE);
        let pieces = self.parameters.chunks_mut(UPDATE_PIECE).zip(first.gradients.chunks(UPDATE_PIECE));
        for (w, g) in pieces {
            optimizer.step(kernels, w, states.next().unwrap_or_default(), g);
        }
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
        let vectors = self.interaction.vectors();
        let at = (vectors - n_features + feature) * dim;
        for (out, shard) in out.chunks_mut(self.last.shard_rows.max(1) * dim).zip(&self.shards) {
            let rows = shard.vector_gradients.chunks_exact(vectors * dim);
            for (out, row) in out.chunks_exact_mut(dim).zip(rows) {
                out.copy_from_slice(&row[at..at + dim]);
            }
        }
        Ok(())
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
        (shards + workspaces) as u64
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
        let mut shards = std::mem::take(&mut self.shards);
        self.workers.each(&mut shards[..cut.shards], |i, shard| {
            let mut work = self.workspaces[self.workers.current()].lock();
            work.reserve(&self.bottom, &self.interaction, &self.top, cut.shard_rows);
            self.shard_forward(input, cut, i, &mut work, shard);
            if let Some(labels) = labels {
                self.shard_backward(input, labels, cut, i, &mut work, shard);
            }
        });
        self.shards = shards;
    }

    fn shard_forward(&self, input: &DenseInput<'_>, cut: Cut, i: usize, work: &mut Workspace, shard: &mut Shard) {
        let (first, rows) = (cut.first(i), cut.len(i));
        let dense = &input.dense[first * self.n_dense..][..rows * self.n_dense];
        let embeddings = Embeddings { values: input.embeddings, batch: input.rows, first };
        self.bottom.forward(self.kernels, &self.parameters, dense, rows, &mut work.bottom);
        let crossed = &mut work.crossed[..rows * self.interaction.outputs()];
        self.interaction.forward(work.bottom.output(&self.bottom, rows), embeddings, &mut work.z, crossed);
        self.top.forward(self.kernels, &self.parameters, crossed, rows, &mut work.top);
        shard.logits.clear();
        shard.logits.extend_from_slice(work.top.output(&self.top, rows));
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
        let dense = &input.dense[first * self.n_dense..][..rows * self.n_dense];
        let embeddings = Embeddings { values: input.embeddings, batch: input.rows, first };
        let (vectors, dim) = (self.interaction.vectors(), self.interaction.dim);
        let Workspace { bottom, top, crossed, z, flow } = work;
        shard.gradients.resize(self.parameters.len(), 0.0);
        shard.vector_gradients.resize(rows * vectors * dim, 0.0);

        let labels = &labels[first..first + rows];
        shard.loss = loss::backward(&shard.logits, labels, input.rows, &mut flow.gradient[..rows]);
        let crossed = &crossed[..rows * self.interaction.outputs()];
        let pass = Pass { rows, input: crossed, activations: top, stop_at_input: false };
        self.top.backward(self.kernels, &self.parameters, pass, flow, &mut shard.gradients);

        let output = bottom.output(&self.bottom, rows);
        let crossed_gradient = &flow.gradient[..crossed.len()];
        self.interaction.backward(output, embeddings, z, crossed_gradient, &mut shard.vector_gradients);
        if self.interaction.bottom {
            let rows_of = shard.vector_gradients.chunks_exact(vectors * dim);
            for (to, from) in flow.gradient.chunks_exact_mut(dim).zip(rows_of) {
                to.copy_from_slice(&from[..dim]);
            }
            let pass = Pass { rows, input: dense, activations: bottom, stop_at_input: true };
            self.bottom.backward(self.kernels, &self.parameters, pass, flow, &mut shard.gradients);
        }
    }

    /// Adds the shards' gradients in order, into the first shard's.
    fn sum_gradients(&mut self) {
        let kernels = self.kernels;
        let Some((first, rest)) = self.shards[..self.last.shards].split_first_mut() else {
            return;
        };
        let rest = &*rest;
        let sum = |piece: usize, to: &mut [f32]| {
            for shard in rest {
                kernels.add(to, &shard.gradients[piece * UPDATE_PIECE..][..to.len()]);
            }
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
