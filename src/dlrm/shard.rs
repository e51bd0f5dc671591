//! How a batch is cut into shards, and what they need and leave.

use super::interaction::{Columns, Interaction};
use super::lines::Lines;
use super::mlp::{Activations, Flow, Mlp, padded};

/// A batch has at most this many shards: enough for as many threads; each costs a copy of the
/// parameters' size.
const SHARDS_MAX: usize = 8;
/// Rows below which a shard would not pay for its share of the parameters' gradient.
const SHARD_ROWS_MIN: usize = 64;
/// Shards start at a multiple of this, the height of a matrix product's tile.
const SHARD_ROWS_STEP: usize = 16;
/// How a batch is cut: shards of `shard_rows`, the last perhaps shorter.
#[derive(Clone, Copy, Default)]
pub(super) struct Cut {
    pub(super) rows: usize,
    pub(super) shard_rows: usize,
    pub(super) shards: usize,
}

impl Cut {
    pub(super) fn new(rows: usize) -> Self {
        let shards = (rows / SHARD_ROWS_MIN).clamp(1, SHARDS_MAX);
        let shard_rows = rows.div_ceil(shards).next_multiple_of(SHARD_ROWS_STEP);
        Self { rows, shard_rows, shards: rows.div_ceil(shard_rows) }
    }

    pub(super) fn first(self, shard: usize) -> usize {
        shard * self.shard_rows
    }

    pub(super) fn len(self, shard: usize) -> usize {
        self.shard_rows.min(self.rows - self.first(shard))
    }
}

/// What a shard leaves behind.
#[derive(Default)]
pub(super) struct Shard {
    pub(super) logits: Vec<f32>,
    /// Sum of the losses.
    pub(super) loss: f64,
    /// Laid out like the parameters.
    pub(super) gradients: Vec<f32>,
    /// Gradients of the embeddings, `[n_features, rows, dim]`.
    pub(super) embedding_gradients: Lines,
}

/// What a thread needs for a shard and no longer.
#[derive(Default)]
pub(super) struct Workspace {
    pub(super) bottom: Activations,
    pub(super) top: Activations,
    /// Dense features, in panels.
    pub(super) dense: Lines,
    /// Output of the interaction, in panels.
    pub(super) crossed: Lines,
    pub(super) columns: Columns,
    pub(super) flow: Flow,
    /// One table's gradients, on their way to it.
    pub(super) table: Lines,
}

impl Shard {
    pub(super) fn bytes(&self) -> usize {
        (self.logits.capacity() + self.gradients.capacity()) * size_of::<f32>() + self.embedding_gradients.bytes()
    }
}

impl Workspace {
    /// Room for `rows` rows; never shrinks.
    pub(super) fn reserve(&mut self, n_dense: usize, bottom: &Mlp, interaction: &Interaction, top: &Mlp, rows: usize) {
        self.bottom.reserve(bottom, rows);
        self.top.reserve(top, rows);
        self.dense.grow(rows * padded(n_dense));
        self.crossed.grow(rows * padded(interaction.outputs()));
        self.columns.reserve(interaction);
        self.flow.reserve(rows, bottom.widest().max(top.widest()));
    }

    pub(super) fn bytes(&self) -> usize {
        let layers = self.bottom.bytes() + self.top.bytes() + self.flow.bytes();
        layers + self.table.bytes() + self.dense.bytes() + self.crossed.bytes() + self.columns.bytes()
    }
}
