//! The dot interaction: every pair of feature vectors becomes one number.
//!
//! ```text
//!   bottom output  z0 ─┐
//!   embedding 0    z1 ─┤      output row = [ z0 | z1·z0 | z2·z0 z2·z1 | z3·z0 ... ]
//!   ...                ├──►                  D    strictly lower triangle, row by row
//!   embedding T-1  zT ─┘
//! ```
//!
//! Naumov et al., "Deep Learning Recommendation Model for Personalization and Recommendation Systems"
//! (2019), section 2.1. Without dense features there is no bottom output: the rows are the pairs of the
//! embeddings alone.

//!
//! Sixteen samples are worked on side by side, one in each lane of a vector: their rows are turned into columns, and what
//! comes out is turned back.

use super::lines::Lines;
use super::mlp::padded;
use crate::simd::{Kernels, LANES, PANEL, pairs};

/// The sizes of the interaction, and its kernels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interaction {
    pub(super) kernels: Kernels,
    pub(super) n_features: usize,
    pub(super) dim: usize,
    /// Whether a bottom output stands before the embeddings.
    pub(super) bottom: bool,
}

/// The vectors of a run of rows.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    /// Output of the bottom MLP for these rows, in panels; empty if there is none.
    pub(super) bottom: &'a [f32],
    /// Embeddings of the whole batch, feature-major: `[n_features, batch, dim]`.
    pub(super) embeddings: &'a [f32],
    /// Rows of the whole batch.
    pub(super) batch: usize,
    /// The first row of this run.
    pub(super) first: usize,
    /// Rows of this run.
    pub(super) rows: usize,
}

/// Sixteen samples' vectors, output rows and their gradients, as columns.
#[derive(Default)]
pub(super) struct Columns {
    z: Lines,
    dz: Lines,
    /// Output rows, filled up with zeros to whole panels.
    out: Lines,
    dout: Lines,
}

impl Columns {
    pub(super) fn reserve(&mut self, interaction: &Interaction) {
        let (vectors, outputs) = (interaction.vectors() * interaction.dim, padded(interaction.outputs()));
        self.z.grow(vectors * LANES);
        self.dz.grow(vectors * LANES);
        self.out.grow(outputs * LANES);
        self.dout.grow(outputs * LANES);
    }

    pub(super) fn bytes(&self) -> usize {
        self.z.bytes() + self.dz.bytes() + self.out.bytes() + self.dout.bytes()
    }
}

impl Interaction {
    /// How many vectors interact.
    pub(super) fn vectors(&self) -> usize {
        self.n_features + usize::from(self.bottom)
    }

    /// Values in one output row.
    pub(super) fn outputs(&self) -> usize {
        self.passed() + pairs(self.vectors())
    }

    /// Values of the bottom output that an output row starts with.
    fn passed(&self) -> usize {
        if self.bottom { self.dim } else { 0 }
    }

    /// `out`, in panels of [`outputs`](Self::outputs) columns, from the vectors.
    pub(super) fn forward(&self, inputs: Inputs<'_>, columns: &mut Columns, out: &mut [f32]) {
        let (passed, outputs) = (self.passed() * LANES, self.outputs() * LANES);
        for first in (0..inputs.rows).step_by(LANES) {
            let count = LANES.min(inputs.rows - first);
            self.collect(inputs, first, count, &mut columns.z);
            let (bottom, dots) = columns.out[..outputs].split_at_mut(passed);
            bottom.copy_from_slice(&columns.z[..passed]);
            self.kernels.pair_dots(&columns.z, self.dim, dots);
            let panels = out.chunks_exact_mut(inputs.rows * PANEL).zip(columns.out.chunks_exact(PANEL * LANES));
            for (panel, columns) in panels {
                self.kernels.from_columns(&mut panel[first * PANEL..], columns, PANEL, count);
            }
        }
    }

    /// From the gradient of the output, in panels: that of the bottom output, in panels, and that of the embeddings,
    /// `[n_features, rows, dim]`.
    pub(super) fn backward(
        &self,
        inputs: Inputs<'_>,
        columns: &mut Columns,
        dout: &[f32],
        dbottom: &mut [f32],
        dembeddings: &mut [f32],
    ) {
        let (dim, rows, kernels) = (self.dim, inputs.rows, self.kernels);
        let (passed, outputs) = (self.passed() * LANES, self.outputs() * LANES);
        if !dim.is_multiple_of(PANEL) {
            dbottom.fill(0.0); // for the padding
        }
        for first in (0..rows).step_by(LANES) {
            let count = LANES.min(rows - first);
            self.collect(inputs, first, count, &mut columns.z);
            let panels = dout.chunks_exact(rows * PANEL).zip(columns.dout.chunks_exact_mut(PANEL * LANES));
            for (panel, columns) in panels {
                kernels.to_columns(columns, &panel[first * PANEL..], PANEL, count);
            }
            kernels.pair_dots_backward(&columns.z, dim, &columns.dout[passed..outputs], &mut columns.dz);
            let (bottom, embeddings) = columns.dz.split_at_mut(passed);
            kernels.add(bottom, &columns.dout[..passed]);
            for (panel, columns) in dbottom.chunks_exact_mut(rows * PANEL).zip(bottom.chunks(PANEL * LANES)) {
                kernels.from_columns(&mut panel[first * PANEL..], columns, PANEL, count);
            }
            for (to, columns) in dembeddings.chunks_exact_mut(rows * dim).zip(embeddings.chunks_exact(dim * LANES)) {
                kernels.from_columns(&mut to[first * dim..], columns, dim, count);
            }
        }
        kernels.where_open(dbottom, inputs.bottom);
    }

    /// The vectors of up to sixteen samples as columns, one vector behind the other. The backward does this again
    /// rather than keep them: what stays in the second-level cache is cheaper than a buffer that does not.
    fn collect(&self, inputs: Inputs<'_>, first: usize, count: usize, z: &mut [f32]) {
        let dim = self.dim;
        let (bottom, rest) = z.split_at_mut(self.passed() * LANES);
        let panels = inputs.bottom.chunks_exact((inputs.rows * PANEL).max(1));
        for (columns, panel) in bottom.chunks_mut(PANEL * LANES).zip(panels) {
            self.kernels.to_columns(columns, &panel[first * PANEL..], PANEL, count);
        }
        for (feature, columns) in rest.chunks_exact_mut(dim * LANES).enumerate() {
            let at = feature * inputs.batch + inputs.first + first;
            self.kernels.to_columns(columns, &inputs.embeddings[at * dim..][..count * dim], dim, count);
        }
    }
}
