//! Rows of another chunk size.

use super::table::Table;
use crate::chain::RowLayout;
use crate::config::{Optimizer, TableConfig};
use crate::id::Info;
use crate::snapshot::RowRef;

/// A row's chunks as a store has them: what each says of itself, and their weights and state one behind the other.
#[derive(Default)]
pub(super) struct NewRow {
    pub(super) infos: Vec<Info>,
    pub(super) payload: Vec<f32>,
}

impl NewRow {
    /// The chunks as they are.
    pub(super) fn take(&mut self, row: &RowRef<'_>, weights: usize, state: usize) {
        for (position, (&ordinal, &utility)) in row.ordinals.iter().zip(row.utilities).enumerate() {
            self.infos.push(Info { utility, ordinal });
            self.payload.extend_from_slice(&row.weights[position * weights..(position + 1) * weights]);
            self.payload.extend_from_slice(&row.state[position * state..(position + 1) * state]);
        }
    }

    pub(super) fn clear(&mut self) {
        self.infos.clear();
        self.payload.clear();
    }
}

/// From the chunks of a saved table to those of another.
pub(super) struct Rechunk {
    saved: RowLayout,
    /// Vectors of state that a chunk has beside its weights, each as long, and single words behind them.
    vectors: usize,
    words: usize,
}

impl Rechunk {
    /// `None` if the chunks are of the same size.
    pub(super) fn new(saved: &TableConfig, layout: &RowLayout) -> Option<Rechunk> {
        let saved_layout = RowLayout::new(saved.dim, saved.chunk, &saved.optimizer);
        if saved_layout.chunk == layout.chunk {
            return None;
        }
        let (vectors, words) = match saved.optimizer {
            Optimizer::Sgd { .. } | Optimizer::RowwiseAdagrad { .. } => (0, 0),
            Optimizer::Adagrad { .. } => (1, 0),
            Optimizer::Adam { .. } => (2, 1),
        };
        Some(Rechunk { saved: saved_layout, vectors, words })
    }

    /// What the scale of a table, the norm of one chunk's gradient, is multiplied by.
    pub(super) fn factor(&self, layout: &RowLayout) -> f32 {
        (self.saved.chunks as f32 / layout.chunks as f32).sqrt()
    }

    /// Gives the row those chunks in which any dimension was live. Dimensions beside these begin as those of a new chunk.
    /// Utilities are norms of gradients: their squares are spread evenly over a chunk's dimensions.
    pub(super) fn convert(&self, table: &Table, hash: u64, row: &RowRef<'_>, scratch: &mut Vec<f32>, to: &mut NewRow) {
        let (from, layout) = (&self.saved, &table.layout);
        for ordinal in 0..layout.chunks {
            let dims = layout.dims(ordinal);
            let mut squares = 0.0;
            let mut begun = false;
            let start = to.payload.len();
            for (position, &saved_ordinal) in row.ordinals.iter().enumerate() {
                let theirs = from.dims(usize::from(saved_ordinal));
                let shared = dims.start.max(theirs.start)..dims.end.min(theirs.end);
                if shared.is_empty() {
                    continue;
                }
                if !std::mem::replace(&mut begun, true) {
                    to.payload.resize(start + layout.payload_words(), 0.0);
                    table.new_payload(hash, ordinal, scratch, &mut to.payload[start..]);
                }
                let utility = row.utilities[position];
                squares += utility * utility * shared.len() as f32 / theirs.len() as f32;
                let chunk = &mut to.payload[start..];
                let at = shared.start - dims.start;
                let first = shared.start - theirs.start;
                let weights = &row.weights[position * from.chunk + first..][..shared.len()];
                chunk[at..at + shared.len()].copy_from_slice(weights);
                let per_chunk = self.vectors * from.chunk + self.words;
                let state = &row.state[position * per_chunk..(position + 1) * per_chunk];
                for vector in 0..self.vectors {
                    let values = &state[vector * from.chunk + first..][..shared.len()];
                    let at = (1 + vector) * layout.chunk + at;
                    chunk[at..at + shared.len()].copy_from_slice(values);
                }
                let ours = (1 + self.vectors) * layout.chunk;
                for word in 0..self.words {
                    // A count of steps: of the part that was trained the longest.
                    chunk[ours + word] = chunk[ours + word].max(state[self.vectors * from.chunk + word]);
                }
            }
            if begun {
                to.infos.push(Info { utility: squares.sqrt(), ordinal: ordinal as u8 });
            }
        }
    }
}
