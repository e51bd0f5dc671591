//! Arithmetic on `f32` slices, compiled once for every instruction set and chosen when the program runs.
//!
//! ```text
//!   Kernels::get()  ──►  level found once  ──►  one target-feature copy of the kernel per level
//!                                                  │
//!          elementwise.rs   reduce.rs   pairwise.rs│      scalar.rs = what every copy must return
//! ```
//!
//! Three properties hold for every kernel but the two matrix products, and `tests/simd_parity.rs` checks them bit by bit:
//!
//! * **The same bits at every level.** Products and sums are rounded separately (no fused
//!   multiply-add) and partial sums have a fixed shape, eight lanes, whatever the register width.
//!   A store trained on one machine holds the same bytes on another.
//! * **An element's result does not depend on where it stands** in its slice: square roots and
//!   divisions are the exact ones, in the vector body and in the remainder alike.
//! * **Lengths are checked** before anything is written: slices that must be equally long and are not
//!   are a mistake of the calling code, and panic.
//!
//! [`Kernels::product`] and [`Kernels::weight_gradient`] fuse multiply and add where the processor can: their bits are
//! the same with AVX2 and with AVX-512, and others without. No embedding of a store depends on them.
//!
//! This is a leaf: it imports nothing of the crate. It is reachable from outside, but hidden, so that
//! parity tests and benches can call it; it is no part of the crate's promises.

mod columns;
mod elementwise;
mod pairwise;
mod peak;
mod product;
mod reduce;
pub mod scalar;

use fearless_simd::{Level, dispatch};

pub use columns::LANES;
use product::Task;
pub use product::{Finish, LayerShape, PANEL};

/// The constants of one Adam step, computed once and used for every chunk of that step.
///
/// Kingma and Ba, "Adam: A Method for Stochastic Optimization" (2015), algorithm 1, in the order of
/// operations of section 2's last paragraph: both bias corrections are folded into scalars, and `eps`
/// is added to the corrected root.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamStep {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the corrected root of the second moment.
    pub eps: f32,
    /// `lr / (1 - beta1^t)`.
    pub rate: f32,
    /// `1 / sqrt(1 - beta2^t)`.
    pub root_scale: f32,
}

impl AdamStep {
    /// The constants of step `t`, where the first step is 1 (0 is taken as 1).
    #[must_use]
    pub fn new(lr: f32, beta1: f32, beta2: f32, eps: f32, t: u64) -> Self {
        let t = t.max(1) as f64;
        let first = 1.0 - f64::from(beta1).powf(t);
        let second = 1.0 - f64::from(beta2).powf(t);
        Self { beta1, beta2, eps, rate: (f64::from(lr) / first) as f32, root_scale: (1.0 / second.sqrt()) as f32 }
    }
}

/// The set of kernels for one instruction-set level: one byte, `Copy`, made once and kept.
///
/// A call costs a predictable jump and a call that is not inlined, about 2 ns, so that a kernel may be
/// called on a single chunk of 4 to 32 values.
///
/// Every method panics if slices that must be equally long are not.
#[derive(Clone, Copy, Debug)]
pub struct Kernels {
    level: Level,
}

impl Kernels {
    /// The kernels of the best level this processor has. The first call looks at the processor.
    #[must_use]
    pub fn get() -> Self {
        Self { level: Level::new() }
    }

    /// Every level this processor can run, weakest first, with its name: for tests and benches.
    #[must_use]
    pub fn every_level() -> Vec<(&'static str, Self)> {
        let best = Level::new();
        let mut levels = vec![("baseline", Level::baseline())];
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        {
            levels.extend(best.as_sse2().map(|token| ("sse2", Level::Sse2(token))));
            levels.extend(best.as_sse4_2().map(|token| ("sse4.2", Level::Sse4_2(token))));
            levels.extend(best.as_avx2().map(|token| ("avx2", Level::Avx2(token))));
            levels.extend(best.as_avx512().map(|token| ("avx512", Level::Avx512(token))));
        }
        levels.push(("best", best));
        levels.into_iter().map(|(name, level)| (name, Self { level })).collect()
    }

    /// `Σ a[i]·b[i]`, in the eight partial sums of [`scalar::dot`].
    #[must_use]
    pub fn dot(self, a: &[f32], b: &[f32]) -> f32 {
        same_length(a.len(), &[b.len()]);
        dispatch!(self.level, simd => reduce::dot(simd, a, b))
    }

    /// `Σ a[i]²`, in the eight partial sums of [`scalar::dot`].
    #[must_use]
    pub fn sum_squares(self, a: &[f32]) -> f32 {
        dispatch!(self.level, simd => reduce::dot(simd, a, a))
    }

    /// True if no value is infinite or not a number.
    #[must_use]
    pub fn all_finite(self, a: &[f32]) -> bool {
        dispatch!(self.level, simd => reduce::all_finite(simd, a))
    }

    /// `y += alpha·x`.
    pub fn axpy(self, y: &mut [f32], alpha: f32, x: &[f32]) {
        same_length(y.len(), &[x.len()]);
        dispatch!(self.level, simd => elementwise::axpy(simd, y, alpha, x));
    }

    /// `y += x`.
    pub fn add(self, y: &mut [f32], x: &[f32]) {
        same_length(y.len(), &[x.len()]);
        dispatch!(self.level, simd => elementwise::add(simd, y, x));
    }

    /// `y *= alpha`.
    pub fn scale(self, y: &mut [f32], alpha: f32) {
        dispatch!(self.level, simd => elementwise::scale(simd, y, alpha));
    }

    /// Gradient descent: `w -= lr·g`.
    pub fn sgd(self, w: &mut [f32], g: &[f32], lr: f32) {
        same_length(w.len(), &[g.len()]);
        dispatch!(self.level, simd => elementwise::sgd(simd, w, g, lr));
    }

    /// Adagrad (Duchi, Hazan, Singer 2011, the diagonal form): `acc += g²`, then
    /// `w -= lr·g / (sqrt(acc) + eps)`.
    pub fn adagrad(self, w: &mut [f32], acc: &mut [f32], g: &[f32], lr: f32, eps: f32) {
        same_length(w.len(), &[acc.len(), g.len()]);
        dispatch!(self.level, simd => elementwise::adagrad(simd, w, acc, g, lr, eps));
    }

    /// [`sgd`](Self::sgd), and [`sum_squares`](Self::sum_squares) of the gradient, in one call: for a chunk of a row the call
    /// is most of the work.
    #[must_use]
    pub fn sgd_squares(self, w: &mut [f32], g: &[f32], lr: f32) -> f32 {
        same_length(w.len(), &[g.len()]);
        dispatch!(self.level, simd => {
            elementwise::sgd(simd, w, g, lr);
            reduce::dot(simd, g, g)
        })
    }

    /// [`adagrad`](Self::adagrad), and [`sum_squares`](Self::sum_squares) of the gradient, in one call.
    #[must_use]
    pub fn adagrad_squares(self, w: &mut [f32], acc: &mut [f32], g: &[f32], lr: f32, eps: f32) -> f32 {
        same_length(w.len(), &[acc.len(), g.len()]);
        dispatch!(self.level, simd => {
            elementwise::adagrad(simd, w, acc, g, lr, eps);
            reduce::dot(simd, g, g)
        })
    }

    /// Row-wise Adagrad: one accumulator for the whole row, `acc += mean(g²)`, then
    /// `w -= (lr / (sqrt(acc) + eps))·g`. `w` and `g` are the whole row; an empty row is left alone.
    ///
    /// A row in several pieces: add up [`sum_squares`](Self::sum_squares) of the pieces, then call
    /// [`sgd`](Self::sgd) on each with the rate that [`rowwise_rate`] returns.
    pub fn rowwise_adagrad(self, w: &mut [f32], acc: &mut f32, g: &[f32], lr: f32, eps: f32) {
        same_length(w.len(), &[g.len()]);
        if g.is_empty() {
            return;
        }
        let mean = self.sum_squares(g) / g.len() as f32;
        self.sgd(w, g, rowwise_rate(acc, mean, lr, eps));
    }

    /// Adam: `m = b1·m + (1-b1)·g`, `v = b2·v + (1-b2)·g²`, then
    /// `w -= rate·m / (sqrt(v)·root_scale + eps)`, with the constants of [`AdamStep`].
    pub fn adam(self, w: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], step: &AdamStep) {
        same_length(w.len(), &[m.len(), v.len(), g.len()]);
        dispatch!(self.level, simd => elementwise::adam(simd, w, m, v, g, step));
    }

    /// Dot products of every pair of the `n` vectors of sixteen samples, `z: [n, dim, 16]`, row by row of the strictly
    /// lower triangle: (1,0), (2,0), (2,1), (3,0), ... `out: [n(n-1)/2, 16]`.
    pub fn pair_dots(self, z: &[f32], dim: usize, out: &mut [f32]) {
        let n = whole_rows(z.len(), dim * LANES);
        same_length(out.len(), &[pairs(n) * LANES]);
        dispatch!(self.level, simd => pairwise::pair_dots(simd, z, dim, out));
    }

    /// The backward of [`pair_dots`](Self::pair_dots): `dz[i] = Σ_{j≠i} dout[pair(i, j)]·z[j]`, `j` in
    /// rising order. Overwrites `dz: [n, dim, 16]`.
    pub fn pair_dots_backward(self, z: &[f32], dim: usize, dout: &[f32], dz: &mut [f32]) {
        let n = whole_rows(z.len(), dim * LANES);
        same_length(z.len(), &[dz.len()]);
        same_length(dout.len(), &[pairs(n) * LANES]);
        dispatch!(self.level, simd => pairwise::pair_dots_backward(simd, z, dim, dout, dz));
    }

    /// `columns[c][lane] = rows[lane · stride + c]` for `count` rows, up to sixteen; zero in the lanes beyond.
    /// `columns: [width, 16]`.
    pub fn to_columns(self, columns: &mut [f32], rows: &[f32], stride: usize, count: usize) {
        spread(columns.len(), rows.len(), stride, count);
        dispatch!(self.level, simd => columns::to_columns(simd, columns, rows, stride, count));
    }

    /// The way back from [`to_columns`](Self::to_columns): `rows[lane · stride + c] = columns[c][lane]` for `count`
    /// lanes.
    pub fn from_columns(self, rows: &mut [f32], columns: &[f32], stride: usize, count: usize) {
        spread(columns.len(), rows.len(), stride, count);
        dispatch!(self.level, simd => columns::from_columns(simd, rows, columns, stride, count));
    }

    /// `c[r][j] = finish(Σ_k a[r][k]·b[k][j])` with `a: [inner / 16][rows][16]`, `b: [columns / 16][inner][16]` and
    /// `c: [columns / 16][rows][16]`: the forward and the input-gradient product of a layer.
    ///
    /// Fuses multiply and add where the processor can: see the module documentation.
    pub fn product(self, c: &mut [f32], a: &[f32], b: &[f32], rows: usize, finish: Finish<'_>) {
        if rows == 0 {
            return;
        }
        let (inner, columns) = (whole_rows(a.len(), rows * PANEL), whole_rows(c.len(), rows * PANEL));
        same_length(b.len(), &[inner * columns * PANEL * PANEL]);
        match finish {
            Finish::BiasRelu(bias) => same_length(bias.len(), &[columns * PANEL]),
            Finish::WhereOpen(y) => same_length(y.len(), &[c.len()]),
            Finish::Plain => {}
        }
        dispatch!(self.level, simd => product::product(simd, c, Task { a, b, rows, finish }));
    }

    /// `dw[o][i] = Σ_r dy[r][o]·x[r][i]`, overwriting the row-major `dw: [outputs, inputs]`; `dy` and `x` in panels.
    ///
    /// Fuses multiply and add where the processor can: see the module documentation.
    pub fn weight_gradient(self, dw: &mut [f32], dy: &[f32], x: &[f32], shape: LayerShape) {
        let LayerShape { rows, inputs, outputs } = shape;
        same_length(dw.len(), &[inputs * outputs]);
        same_length(dy.len(), &[rows * outputs.next_multiple_of(PANEL)]);
        same_length(x.len(), &[rows * inputs.next_multiple_of(PANEL)]);
        if rows == 0 {
            dw.fill(0.0);
        }
        dispatch!(self.level, simd => product::weight_gradient(simd, dw, dy, x, shape));
    }

    /// `sums[j] = Σ_r c[r][j]`, rows added in order; `c` in panels of as many columns as there are sums.
    pub fn column_sums(self, sums: &mut [f32], c: &[f32], rows: usize) {
        same_length(c.len(), &[rows * sums.len().next_multiple_of(PANEL)]);
        if rows == 0 {
            sums.fill(0.0);
        }
        dispatch!(self.level, simd => product::column_sums(simd, sums, c, rows));
    }

    /// A layer of one output: `out[r] = Σ_i x[r][i]·w[i]`, `x` in panels, `w` filled up to whole panels.
    pub fn head(self, out: &mut [f32], x: &[f32], w: &[f32]) {
        whole_rows(w.len(), PANEL);
        same_length(x.len(), &[out.len() * w.len()]);
        dispatch!(self.level, simd => product::head(simd, out, x, w));
    }

    /// The backward of [`head`](Self::head): `dw[i] = Σ_r dy[r]·x[r][i]`, rows in order, and `dx[r][i] = dy[r]·w[i]`,
    /// zero where `x` is if `relu`.
    pub fn head_backward(self, dx: &mut [f32], dw: &mut [f32], dy: &[f32], x: &[f32], w: &[f32], relu: bool) {
        same_length(w.len(), &[dw.len().next_multiple_of(PANEL)]);
        same_length(x.len(), &[dx.len(), dy.len() * w.len()]);
        if dy.is_empty() {
            dw.fill(0.0);
        }
        dispatch!(self.level, simd => product::head_backward(simd, dx, dw, (dy, x, w), relu));
    }

    /// `dy` becomes zero where `y` is: the way back through ReLU. Both in panels.
    pub fn where_open(self, dy: &mut [f32], y: &[f32]) {
        same_length(dy.len(), &[y.len()]);
        whole_rows(y.len(), PANEL);
        dispatch!(self.level, simd => product::where_open(simd, dy, y));
    }

    /// Does `rounds` rounds of multiply-adds that wait for nothing but the units, to measure the processor's rate; each
    /// is [`MULTIPLY_ADDS`] of them. The result means nothing.
    #[must_use]
    pub fn multiply_adds(self, rounds: u64) -> f32 {
        dispatch!(self.level, simd => peak::multiply_adds(simd, rounds))
    }

    /// Reads every value once, to measure the memory's rate. The result means nothing.
    #[must_use]
    pub fn read(self, values: &[f32]) -> f32 {
        dispatch!(self.level, simd => peak::read(simd, values))
    }
}

/// Multiply-adds in a round of [`Kernels::multiply_adds`].
pub const MULTIPLY_ADDS: u64 = peak::ROUND;

/// Adds a row's mean square gradient to its accumulator and returns the rate of its step,
/// `lr / (sqrt(acc) + eps)`: the scalar half of [`Kernels::rowwise_adagrad`].
#[must_use]
pub fn rowwise_rate(acc: &mut f32, mean_square: f32, lr: f32, eps: f32) -> f32 {
    *acc += mean_square;
    lr / (acc.sqrt() + eps)
}

/// How many pairs `n` vectors form.
#[must_use]
pub const fn pairs(n: usize) -> usize {
    n * n.saturating_sub(1) / 2
}

#[inline]
fn same_length(len: usize, others: &[usize]) {
    assert!(others.iter().all(|&other| other == len), "kernel slices of unequal length: {len} and {others:?}");
}

/// Checks the slices of a transposition of `count` rows.
#[inline]
fn spread(columns: usize, rows: usize, stride: usize, count: usize) {
    let width = whole_rows(columns, LANES);
    assert!(count <= LANES, "{count} rows for {LANES} lanes");
    let needed = count.checked_sub(1).map_or(0, |last| last * stride + width);
    assert!(rows >= needed, "{rows} values for {count} rows of {width}, {stride} apart");
}

/// The number of rows of `width` in `len` values; a rest is a mistake of the calling code.
#[inline]
fn whole_rows(len: usize, width: usize) -> usize {
    if len == 0 {
        return 0;
    }
    assert!(width > 0 && len.is_multiple_of(width), "{len} values are not whole rows of {width}");
    len / width
}
