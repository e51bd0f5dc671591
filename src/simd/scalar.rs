//! The specification: what every kernel returns, one value after the other, no vector in sight.
//!
//! Elementwise kernels round each operation by itself. Sums go into eight partial sums, value `i` into
//! sum `i mod 8`, which are then added as `(s0+s4 + s1+s5) + (s2+s6 + s3+s7)`: the shape that vectors of
//! any width can follow.

use super::{AdamStep, LANES, PANEL, rowwise_rate};

/// `Σ a[i]·b[i]` in eight partial sums.
#[must_use]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    for (i, (x, y)) in a.iter().zip(b).enumerate() {
        sums[i % 8] += x * y;
    }
    let half = |l: usize| sums[l] + sums[l + 4];
    (half(0) + half(1)) + (half(2) + half(3))
}

/// `Σ a[i]²` in eight partial sums.
#[must_use]
pub fn sum_squares(a: &[f32]) -> f32 {
    dot(a, a)
}

/// True if no value is infinite or not a number.
#[must_use]
pub fn all_finite(a: &[f32]) -> bool {
    a.iter().all(|x| x.is_finite())
}

/// `y += alpha·x`.
pub fn axpy(y: &mut [f32], alpha: f32, x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += alpha * x;
    }
}

/// `y += x`.
pub fn add(y: &mut [f32], x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += x;
    }
}

/// `y *= alpha`.
pub fn scale(y: &mut [f32], alpha: f32) {
    for y in y {
        *y *= alpha;
    }
}

/// `sums[j] = Σ_r c[r][j]` of `c` in panels, rows in order.
pub fn column_sums(sums: &mut [f32], c: &[f32], rows: usize) {
    for (j, sum) in sums.iter_mut().enumerate() {
        *sum = (0..rows).fold(0.0, |sum, r| sum + panel_value(c, rows, r, j));
    }
}

/// `out[r] = Σ_i x[r][i]·w[i]`, value `i` in partial sum `i mod 16`, folded `s[l] + s[l+8]`, then as [`dot`]'s eight.
pub fn head(out: &mut [f32], x: &[f32], w: &[f32]) {
    let rows = out.len();
    for (r, out) in out.iter_mut().enumerate() {
        let mut sums = [0.0f32; PANEL];
        for (i, w) in w.iter().enumerate() {
            sums[i % PANEL] += panel_value(x, rows, r, i) * w;
        }
        let eight = |l: usize| sums[l] + sums[l + 8];
        let four = |l: usize| eight(l) + eight(l + 4);
        *out = (four(0) + four(1)) + (four(2) + four(3));
    }
}

/// `dw[i] = Σ_r dy[r]·x[r][i]`, `dx[r][i] = dy[r]·w[i]`, zero where `x` is if `relu`.
pub fn head_backward(dx: &mut [f32], dw: &mut [f32], dy: &[f32], x: &[f32], w: &[f32], relu: bool) {
    let rows = dy.len();
    for (i, dw) in dw.iter_mut().enumerate() {
        *dw = dy.iter().enumerate().fold(0.0, |sum, (r, dy)| sum + panel_value(x, rows, r, i) * dy);
    }
    for (at, (dx, x)) in dx.iter_mut().zip(x).enumerate() {
        let (panel, r) = (at / PANEL / rows, at / PANEL % rows);
        *dx = if relu && *x == 0.0 { 0.0 } else { w[panel * PANEL + at % PANEL] * dy[r] };
    }
}

/// Zeroes `dy` where `y` is zero.
pub fn where_open(dy: &mut [f32], y: &[f32]) {
    for (dy, y) in dy.iter_mut().zip(y) {
        *dy = if *y == 0.0 { 0.0 } else { *dy };
    }
}

fn panel_value(panels: &[f32], rows: usize, r: usize, column: usize) -> f32 {
    panels[(column / PANEL * rows + r) * PANEL + column % PANEL]
}

/// `w -= lr·g`.
pub fn sgd(w: &mut [f32], g: &[f32], lr: f32) {
    for (w, g) in w.iter_mut().zip(g) {
        *w -= lr * g;
    }
}

/// `acc += g²; w -= lr·g / (sqrt(acc) + eps)`.
pub fn adagrad(w: &mut [f32], acc: &mut [f32], g: &[f32], lr: f32, eps: f32) {
    for ((w, acc), g) in w.iter_mut().zip(acc).zip(g) {
        *acc += g * g;
        *w -= lr * g / (acc.sqrt() + eps);
    }
}

/// `acc += mean(g²); w -= (lr / (sqrt(acc) + eps))·g`.
pub fn rowwise_adagrad(w: &mut [f32], acc: &mut f32, g: &[f32], lr: f32, eps: f32) {
    if g.is_empty() {
        return;
    }
    let rate = rowwise_rate(acc, sum_squares(g) / g.len() as f32, lr, eps);
    sgd(w, g, rate);
}

/// One Adam step.
pub fn adam(w: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], step: &AdamStep) {
    for (((w, m), v), g) in w.iter_mut().zip(m).zip(v).zip(g) {
        *m = step.beta1 * *m + (1.0 - step.beta1) * g;
        *v = step.beta2 * *v + (1.0 - step.beta2) * (g * g);
        *w -= step.rate * *m / (v.sqrt() * step.root_scale + step.eps);
    }
}

/// Dot products of the strictly lower triangle of pairs, for sixteen samples each: plain running sums.
pub fn pair_dots(z: &[f32], dim: usize, out: &mut [f32]) {
    let n = z.len() / (dim * LANES).max(1);
    let pairs = (0..n).flat_map(|i| (0..i).map(move |j| (i, j)));
    for ((i, j), out) in pairs.zip(out.chunks_exact_mut(LANES)) {
        for (lane, out) in out.iter_mut().enumerate() {
            let at = |i: usize, d: usize| z[(i * dim + d) * LANES + lane];
            *out = (0..dim).fold(0.0, |sum, d| sum + at(i, d) * at(j, d));
        }
    }
}

/// `dz[i] = Σ_{j≠i} dout[pair(i, j)]·z[j]`, for sixteen samples each.
pub fn pair_dots_backward(z: &[f32], dim: usize, dout: &[f32], dz: &mut [f32]) {
    let n = z.len() / (dim * LANES).max(1);
    for (at, dz) in dz.iter_mut().enumerate() {
        let (i, d, lane) = (at / LANES / dim, at / LANES % dim, at % LANES);
        *dz = (0..n).filter(|&j| j != i).fold(0.0, |sum, j| {
            let (high, low) = (i.max(j), i.min(j));
            let pair = high * (high - 1) / 2 + low;
            sum + dout[pair * LANES + lane] * z[(j * dim + d) * LANES + lane]
        });
    }
}
