//! The matrix products of a linear layer, on one thread.
//!
//! Activations lie in *panels*: 16 columns of all rows, `[columns / 16][rows][16]`, the last panel filled up with zeros.
//! Weights are laid out twice, as each product reads them. So every product's inner loop reads whole vectors one behind
//! the other, a tile of results is written in one piece, and no product copies its operands first.
//!
//! ```text
//!   forward          y[r][o]  = max(Σ_i x[r][i]·w[o][i] + b[o], 0)      for_forward(w)   [outputs / 16][inputs][16]
//!   input gradient   dx[r][i] = Σ_o dy[r][o]·w[o][i]                    for_backward(w)  [inputs / 16][outputs][16]
//!   weight gradient  dw[o][i] = Σ_r dy[r][o]·x[r][i]
//! ```
//!
//! A result is the sum, part after part, of running sums over 128 inner indices (a weight gradient: over 256 rows),
//! whatever the size of the tile it is computed in. Products and sums are fused where the processor can, so these bits
//! are those of a family of processors: all with AVX2 and later, all without.

use std::ops::Range;

use fearless_simd::{Simd, f32x16, prelude::*};

/// Columns of a panel.
pub const PANEL: usize = 16;
/// Rows whose activations are to stay in the second-level cache while all weights pass by.
const ROW_BLOCK: usize = 96;
/// Panels of the inner index whose weights are to stay in the first-level cache while a block of rows passes by. Their
/// part sums are added up in the result.
const INNER_BLOCK: usize = 8;
/// Rows of a weight gradient's part sum: about two panels of them fit in the first-level cache.
const SUM_ROWS: usize = 256;

/// What a forward or input-gradient product does with its results.
#[derive(Clone, Copy, Debug)]
pub enum Finish<'a> {
    /// Adds the bias `[columns]` and cuts off below zero.
    BiasRelu(&'a [f32]),
    /// Zero where the given activations, laid out like the results, are zero: the way back through ReLU.
    WhereOpen(&'a [f32]),
    /// Nothing.
    Plain,
}

type Vector<S> = f32x16<S>;

/// One product: `c[r][j] = finish(Σ_k a[r][k]·b[k][j])`, `a` and `c` in panels, `b: [columns / 16][inner][16]`.
#[derive(Clone, Copy)]
pub(super) struct Task<'a> {
    pub(super) a: &'a [f32],
    pub(super) b: &'a [f32],
    pub(super) rows: usize,
    pub(super) finish: Finish<'a>,
}

#[inline(always)]
pub(super) fn product<S: Simd>(simd: S, c: &mut [f32], task: Task<'_>) {
    // As many running sums as there are registers for, beside the operands.
    if <S::f32s as SimdBase<S>>::LEN >= 16 {
        blocks::<S, 8, 3>(simd, c, task)
    } else {
        blocks::<S, 6, 1>(simd, c, task)
    }
}

#[inline(always)]
fn blocks<S: Simd, const M: usize, const N: usize>(simd: S, c: &mut [f32], task: Task<'_>) {
    let panels = c.len() / (task.rows * PANEL).max(1);
    let inner_panels = task.a.len() / (task.rows * PANEL).max(1);
    for first in (0..task.rows).step_by(ROW_BLOCK) {
        let rows = first..(first + ROW_BLOCK).min(task.rows);
        for inner in (0..inner_panels).step_by(INNER_BLOCK) {
            let inner = inner..(inner + INNER_BLOCK).min(inner_panels);
            let mut panel = 0;
            while panel < panels {
                let strip = Strip { panel, rows: rows.clone(), inner: inner.clone(), inner_panels };
                // No panel is left alone where there are several: one alone is bound by its loads.
                panel += match (N, panels - panel) {
                    (1, _) | (_, 1) => strip.run::<S, M, 1>(simd, c, task),
                    (2, _) | (_, 2 | 4) => strip.run::<S, M, 2>(simd, c, task),
                    _ => strip.run::<S, M, N>(simd, c, task),
                };
            }
        }
    }
}

/// What a reference points to until it is set.
static NOTHING: [[f32; PANEL]; PANEL] = [[0.0; PANEL]; PANEL];

/// Some rows of some panels of the result, and the part of the inner index that is added.
struct Strip {
    panel: usize,
    rows: Range<usize>,
    inner: Range<usize>,
    inner_panels: usize,
}

impl Strip {
    /// Returns the number of panels.
    #[inline(always)]
    fn run<S: Simd, const M: usize, const N: usize>(&self, simd: S, c: &mut [f32], task: Task<'_>) -> usize {
        let mut row = self.rows.start;
        while row + M <= self.rows.end {
            self.tile::<S, M, N>(simd, c, task, row);
            row += M;
        }
        while row + 4 <= self.rows.end {
            self.tile::<S, 4, N>(simd, c, task, row);
            row += 4;
        }
        while row < self.rows.end {
            self.tile::<S, 1, N>(simd, c, task, row);
            row += 1;
        }
        if self.inner.end == self.inner_panels {
            self.finish::<S, N>(simd, c, task);
        }
        N
    }

    /// Adds (the first part: writes) `M` rows of `N` panels.
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const N: usize>(&self, simd: S, c: &mut [f32], task: Task<'_>, row: usize) {
        let Task { a, b, rows, .. } = task;
        let (a, b) = (a.as_chunks::<PANEL>().0, b.as_chunks::<PANEL>().0.as_chunks::<PANEL>().0);
        let mut sums = [[Vector::splat(simd, 0.0); N]; M];
        for inner in self.inner.clone() {
            let Some(a) = a[inner * rows + row..].first_chunk::<M>() else { return };
            let mut blocks = [&NOTHING; N];
            for (n, block) in blocks.iter_mut().enumerate() {
                *block = &b[(self.panel + n) * self.inner_panels + inner];
            }
            for k in 0..PANEL {
                let mut right = [Vector::splat(simd, 0.0); N];
                for n in 0..N {
                    right[n] = Vector::from_slice(simd, &blocks[n][k]);
                }
                for m in 0..M {
                    let left = Vector::splat(simd, a[m][k]);
                    for n in 0..N {
                        sums[m][n] = left.mul_add(right[n], sums[m][n]);
                    }
                }
            }
        }
        let c = c.as_chunks_mut::<PANEL>().0;
        for n in 0..N {
            let Some(c) = c[(self.panel + n) * rows + row..].first_chunk_mut::<M>() else { return };
            for m in 0..M {
                let before = Vector::from_slice(simd, &c[m]);
                (if self.inner.start > 0 { before + sums[m][n] } else { sums[m][n] }).store_slice(&mut c[m]);
            }
        }
    }

    /// Finishes `N` panels, which are still in the first-level cache. Not part of the tile: with more to do at its end
    /// the compiler does not keep its sums in registers.
    #[inline(always)]
    fn finish<S: Simd, const N: usize>(&self, simd: S, c: &mut [f32], task: Task<'_>) {
        for panel in self.panel..self.panel + N {
            let place = (panel * task.rows + self.rows.start) * PANEL..(panel * task.rows + self.rows.end) * PANEL;
            let c = &mut c[place.clone()];
            match task.finish {
                Finish::BiasRelu(bias) => {
                    let bias = Vector::from_slice(simd, &bias.as_chunks::<PANEL>().0[panel]);
                    for c in c.as_chunks_mut::<PANEL>().0 {
                        relu(simd, Vector::from_slice(simd, c) + bias).store_slice(c);
                    }
                }
                Finish::WhereOpen(y) => where_open(simd, c, &y[place]),
                Finish::Plain => {}
            }
        }
    }
}

/// Not a maximum, which may turn a value that is not a number into zero and hide it.
#[inline(always)]
fn relu<S: Simd>(simd: S, x: Vector<S>) -> Vector<S> {
    x.simd_lt(0.0).select(Vector::splat(simd, 0.0), x)
}

#[inline(always)]
fn open<S: Simd>(simd: S, dy: Vector<S>, y: Vector<S>) -> Vector<S> {
    y.simd_eq(0.0).select(Vector::splat(simd, 0.0), dy)
}

/// The sizes of one linear layer applied to a block of rows.
#[derive(Clone, Copy, Debug)]
pub struct LayerShape {
    /// Rows of the block.
    pub rows: usize,
    /// Inputs, padding not counted.
    pub inputs: usize,
    /// Outputs, padding not counted.
    pub outputs: usize,
}

#[inline(always)]
pub(super) fn weight_gradient<S: Simd>(simd: S, dw: &mut [f32], dy: &[f32], x: &[f32], shape: LayerShape) {
    let wide = <S::f32s as SimdBase<S>>::LEN >= 16;
    let (panels, inner) = (shape.inputs.div_ceil(PANEL), shape.outputs.div_ceil(PANEL));
    for first in (0..shape.rows).step_by(SUM_ROWS) {
        let rows = first..(first + SUM_ROWS).min(shape.rows);
        let part = Part { dy, x, shape, rows };
        let mut panel = 0;
        while wide && panel + 2 <= panels {
            for out in 0..inner {
                gradient_tile::<S, 0, 8, 2>(simd, dw, &part, out, panel);
                gradient_tile::<S, 8, 8, 2>(simd, dw, &part, out, panel);
            }
            panel += 2;
        }
        while panel < panels {
            for out in 0..inner {
                // Tiles do not run across panels: 16 rows in three.
                gradient_tile::<S, 0, 6, 1>(simd, dw, &part, out, panel);
                gradient_tile::<S, 6, 5, 1>(simd, dw, &part, out, panel);
                gradient_tile::<S, 11, 5, 1>(simd, dw, &part, out, panel);
            }
            panel += 1;
        }
    }
}

/// Some rows of the operands of a weight gradient.
struct Part<'a> {
    dy: &'a [f32],
    x: &'a [f32],
    shape: LayerShape,
    rows: Range<usize>,
}

/// Adds (the first part: writes) the part's sum for `M` outputs, those from `FROM` on of panel `out`, and the inputs of
/// `N` panels.
#[inline(always)]
fn gradient_tile<S: Simd, const FROM: usize, const M: usize, const N: usize>(
    simd: S,
    dw: &mut [f32],
    part: &Part<'_>,
    out: usize,
    panel: usize,
) {
    let LayerShape { rows, inputs, outputs } = part.shape;
    let first_output = out * PANEL + FROM;
    if first_output >= outputs {
        return;
    }
    let len = part.rows.len();
    let first = |panel: usize| panel * rows + part.rows.start;
    let dy = &part.dy.as_chunks::<PANEL>().0[first(out)..][..len];
    let mut x = [&NOTHING[..]; N];
    for (n, x) in x.iter_mut().enumerate() {
        *x = &part.x.as_chunks::<PANEL>().0[first(panel + n)..][..len];
    }
    let mut sums = [[Vector::splat(simd, 0.0); N]; M];
    for r in 0..len {
        let mut right = [Vector::splat(simd, 0.0); N];
        for (right, x) in right.iter_mut().zip(&x) {
            *right = Vector::from_slice(simd, &x[r]);
        }
        for (m, sums) in sums.iter_mut().enumerate() {
            let left = Vector::splat(simd, dy[r][FROM + m]);
            for (sum, right) in sums.iter_mut().zip(&right) {
                *sum = left.mul_add(*right, *sum);
            }
        }
    }
    for (m, sums) in sums.iter().enumerate().take(outputs - first_output) {
        for (n, sum) in sums.iter().enumerate() {
            let column = (panel + n) * PANEL;
            let width = PANEL.min(inputs - column);
            let to = &mut dw[(first_output + m) * inputs + column..][..width];
            put(simd, to, *sum, part.rows.start > 0);
        }
    }
}

/// Writes up to 16 values, or adds them to what is there.
#[inline(always)]
fn put<S: Simd>(simd: S, to: &mut [f32], values: Vector<S>, add: bool) {
    if let Ok(whole) = <&mut [f32; PANEL]>::try_from(&mut *to) {
        let values = if add { Vector::from_slice(simd, &*whole) + values } else { values };
        values.store_slice(whole);
        return;
    }
    for (to, value) in to.iter_mut().zip(values.to_array()) {
        *to = if add { *to + value } else { value };
    }
}

/// `sums[j] = Σ_r c[r][j]`, rows added in order; `c` in panels, padding left out.
#[inline(always)]
pub(super) fn column_sums<S: Simd>(simd: S, sums: &mut [f32], c: &[f32], rows: usize) {
    for (to, panel) in sums.chunks_mut(PANEL).zip(c.chunks_exact((rows * PANEL).max(1))) {
        let mut sum = Vector::splat(simd, 0.0);
        for row in panel.as_chunks::<PANEL>().0 {
            sum += Vector::from_slice(simd, row);
        }
        put(simd, to, sum, false);
    }
}

/// `out[r] = Σ_i x[r][i]·w[i]`, `w` filled up to whole panels: sixteen partial sums, folded in halves.
#[inline(always)]
pub(super) fn head<S: Simd>(simd: S, out: &mut [f32], x: &[f32], w: &[f32]) {
    let rows = out.len();
    for (r, out) in out.iter_mut().enumerate() {
        let mut sums = Vector::splat(simd, 0.0);
        for (panel, w) in w.as_chunks::<PANEL>().0.iter().enumerate() {
            let x = &x[(panel * rows + r) * PANEL..][..PANEL];
            sums += Vector::from_slice(simd, x) * Vector::from_slice(simd, w);
        }
        let (low, high) = sums.split();
        let (low, high) = (low + high).split();
        let sums = (low + high).to_array();
        *out = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    }
}

/// The backward of [`head`]: `dw[i] = Σ_r dy[r]·x[r][i]`, rows in order, and `dx[r][i] = dy[r]·w[i]`, zero where `x` is
/// if `relu`.
#[inline(always)]
pub(super) fn head_backward<S: Simd>(
    simd: S,
    dx: &mut [f32],
    dw: &mut [f32],
    (dy, x, w): (&[f32], &[f32], &[f32]),
    relu: bool,
) {
    let panel = (dy.len() * PANEL).max(1);
    let w = w.as_chunks::<PANEL>().0;
    for (((dx, x), w), dw) in dx.chunks_exact_mut(panel).zip(x.chunks_exact(panel)).zip(w).zip(dw.chunks_mut(PANEL)) {
        let w = Vector::from_slice(simd, w);
        let mut sum = Vector::splat(simd, 0.0);
        for ((dx, x), dy) in dx.as_chunks_mut::<PANEL>().0.iter_mut().zip(x.as_chunks::<PANEL>().0).zip(dy) {
            let x = Vector::from_slice(simd, x);
            sum += x * *dy;
            let flow = w * *dy;
            (if relu { open(simd, flow, x) } else { flow }).store_slice(dx);
        }
        put(simd, dw, sum, false);
    }
}

/// `dy` becomes zero where `y` is.
#[inline(always)]
pub(super) fn where_open<S: Simd>(simd: S, dy: &mut [f32], y: &[f32]) {
    for (dy, y) in dy.as_chunks_mut::<PANEL>().0.iter_mut().zip(y.as_chunks::<PANEL>().0) {
        open(simd, Vector::from_slice(simd, dy), Vector::from_slice(simd, y)).store_slice(dy);
    }
}
