//! Rows of another chunk size.

use super::table::Table;
use crate::chain::RowLayout;
use crate::config::{Optimizer, TableConfig};
use crate::snapshot::{RowBlock, RowRef};

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

    /// Puts a block's rows, in the store's chunks, in place of what is in `to`.
    pub(super) fn convert(&self, table: &Table, block: &RowBlock, saved: &TableConfig, to: &mut RowBlock) {
        to.clear();
        to.table = block.table;
        let (mut chunk, mut scratch) = (vec![0.0; table.layout.payload_words()], Vec::new());
        for row in block.rows(saved) {
            let before = to.ordinals.len();
            self.convert_row(table, &row, (&mut chunk, &mut scratch), to);
            to.keys.push(row.key);
            to.chunks.push((to.ordinals.len() - before) as u16);
            to.row_state.extend_from_slice(row.row_state);
        }
    }

    /// Gives the row those chunks in which any dimension was live. Dimensions beside these begin as those of a new chunk.
    /// Utilities are norms of gradients: their squares are spread evenly over a chunk's dimensions.
    fn convert_row(
        &self,
        table: &Table,
        row: &RowRef<'_>,
        (chunk, scratch): (&mut [f32], &mut Vec<f32>),
        to: &mut RowBlock,
    ) {
        let (from, layout) = (&self.saved, &table.layout);
        for ordinal in 0..layout.chunks {
            let dims = layout.dims(ordinal);
            let mut squares = 0.0;
            let mut begun = false;
            for (position, &saved_ordinal) in row.ordinals.iter().enumerate() {
                let theirs = from.dims(usize::from(saved_ordinal));
                let shared = dims.start.max(theirs.start)..dims.end.min(theirs.end);
                if shared.is_empty() {
                    continue;
                }
                if !std::mem::replace(&mut begun, true) {
                    chunk.fill(0.0);
                    table.new_payload(table.hash(row.key), ordinal, scratch, chunk);
                }
                let utility = row.utilities[position];
                squares += utility * utility * shared.len() as f32 / theirs.len() as f32;
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
                to.ordinals.push(ordinal as u8);
                to.utilities.push(squares.sqrt());
                let (weights, state) = chunk.split_at(layout.chunk);
                to.weights.extend_from_slice(weights);
                to.state.extend_from_slice(state);
            }
        }
    }
}
