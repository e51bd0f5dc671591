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

use crate::simd::{Kernels, pairs};

/// The sizes of the interaction, and its kernels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interaction {
    pub(super) kernels: Kernels,
    pub(super) n_features: usize,
    pub(super) dim: usize,
    /// Whether a bottom output stands before the embeddings.
    pub(super) bottom: bool,
}

/// A run of rows of the batch's embeddings, which lie feature-major: `values: [n_features, batch, dim]`.
#[derive(Clone, Copy)]
pub(super) struct Embeddings<'a> {
    pub(super) values: &'a [f32],
    /// Rows of the whole batch.
    pub(super) batch: usize,
    /// The first row of this run.
    pub(super) first: usize,
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

    /// `out: [rows, outputs()]` from `bottom: [rows, dim]` (empty if there is none) and the embeddings.
    /// `z: [vectors(), dim]` is scratch.
    pub(super) fn forward(&self, bottom: &[f32], embeddings: Embeddings<'_>, z: &mut [f32], out: &mut [f32]) {
        for (row, out) in out.chunks_exact_mut(self.outputs().max(1)).enumerate() {
            self.collect(bottom, embeddings, row, z);
            let (passed, dots) = out.split_at_mut(self.passed());
            passed.copy_from_slice(&z[..passed.len()]);
            self.kernels.pair_dots(z, self.dim, dots);
        }
    }

    /// `dz: [rows, vectors(), dim]`, the gradient of every vector, from `dout: [rows, outputs()]`.
    pub(super) fn backward(
        &self,
        bottom: &[f32],
        embeddings: Embeddings<'_>,
        z: &mut [f32],
        dout: &[f32],
        dz: &mut [f32],
    ) {
        let rows = dout.chunks_exact(self.outputs().max(1)).zip(dz.chunks_exact_mut(z.len().max(1)));
        for (row, (dout, dz)) in rows.enumerate() {
            self.collect(bottom, embeddings, row, z);
            let (passed, dots) = dout.split_at(self.passed());
            self.kernels.pair_dots_backward(z, self.dim, dots, dz);
            self.kernels.add(&mut dz[..passed.len()], passed);
        }
    }

    /// The vectors of one sample, one behind the other, in `z`. The backward does this again rather than
    /// keep them: a copy that stays in the first-level cache is cheaper than a buffer that does not.
    fn collect(&self, bottom: &[f32], embeddings: Embeddings<'_>, row: usize, z: &mut [f32]) {
        let dim = self.dim;
        let (first, rest) = z.split_at_mut(self.passed());
        if self.bottom {
            first.copy_from_slice(&bottom[row * dim..][..dim]);
        }
        for (feature, z) in rest.chunks_exact_mut(dim).enumerate() {
            let at = feature * embeddings.batch + embeddings.first + row;
            z.copy_from_slice(&embeddings.values[at * dim..][..dim]);
        }
    }
}
