//! The specification: what every kernel returns, one value after the other, no vector in sight.
//!
//! Elementwise kernels round each operation by itself. Sums go into eight partial sums, value `i` into
//! sum `i mod 8`, which are then added as `(s0+s4 + s1+s5) + (s2+s6 + s3+s7)`: the shape that vectors of
//! any width can follow.

use super::{AdamStep, rowwise_rate};

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

/// `x = max(x + bias, 0)` per row; a value that is not a number stays one.
pub fn bias_relu(x: &mut [f32], bias: &[f32]) {
    for (i, x) in x.iter_mut().enumerate() {
        let sum = *x + bias[i % bias.len()];
        *x = if sum < 0.0 { 0.0 } else { sum };
    }
}

/// Zeroes `dy` where `y` is zero and sums the columns of what remains.
pub fn relu_bias_backward(dy: &mut [f32], y: &[f32], dbias: &mut [f32]) {
    let width = dbias.len();
    dbias.fill(0.0);
    for (i, (dy, y)) in dy.iter_mut().zip(y).enumerate() {
        *dy = if *y == 0.0 { 0.0 } else { *dy };
        dbias[i % width] += *dy;
    }
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

/// Dot products of the strictly lower triangle of pairs.
pub fn pair_dots(z: &[f32], dim: usize, out: &mut [f32]) {
    let rows: Vec<&[f32]> = z.chunks(dim.max(1)).collect();
    let pairs = (0..rows.len()).flat_map(|i| (0..i).map(move |j| (i, j)));
    for ((i, j), out) in pairs.zip(out) {
        *out = dot(rows[i], rows[j]);
    }
}

/// `dz[i] = Σ_{j≠i} dout[pair(i, j)]·z[j]`.
pub fn pair_dots_backward(z: &[f32], dim: usize, dout: &[f32], dz: &mut [f32]) {
    let rows: Vec<&[f32]> = z.chunks(dim.max(1)).collect();
    for (i, dz) in dz.chunks_mut(dim.max(1)).enumerate() {
        dz.fill(0.0);
        for (j, z) in rows.iter().enumerate().filter(|(j, _)| *j != i) {
            let (high, low) = (i.max(j), i.min(j));
            axpy(dz, dout[high * (high - 1) / 2 + low], z);
        }
    }
}
