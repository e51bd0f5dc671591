//! The feature interaction of one sample: all pairs of a few short vectors.
//!
//! A dot product of 16 values is over before its sum across lanes is, so four are summed at once: their
//! partial sums are folded against each other, as a 4 x 4 matrix is transposed, and come out as one
//! vector of four results.

use fearless_simd::{Simd, SimdFloat, f32x4, f32x16, prelude::*};

use super::{pairs, reduce::half_sums};

#[inline(always)]
pub(super) fn pair_dots<S: Simd>(simd: S, z: &[f32], dim: usize, out: &mut [f32]) {
    let mut out = out;
    for (i, row) in z.chunks_exact(dim.max(1)).enumerate() {
        let (this, rest) = out.split_at_mut(i);
        out = rest;
        let before = z[..i * dim].chunks(4 * dim);
        let (fours, ones) = this.as_chunks_mut::<4>();
        for (four, out) in before.clone().zip(&mut *fours) {
            *out = four_dots(simd, row, four);
        }
        if let Some(last) = before.last().filter(|_| !ones.is_empty()) {
            let dots = four_dots(simd, row, last);
            for (out, dot) in ones.iter_mut().zip(dots) {
                *out = dot;
            }
        }
    }
}

/// The dot products of `row` with each of the one to four vectors that lie behind each other in `four`.
/// A missing vector is stood in for by the last one: cheaper than a second path for them.
#[inline(always)]
fn four_dots<S: Simd>(simd: S, row: &[f32], four: &[f32]) -> [f32; 4] {
    let dim = row.len();
    let last = four.len() - dim;
    let s0 = half_sums(simd, row, vector(four, 0, dim));
    let s1 = half_sums(simd, row, vector(four, dim.min(last), dim));
    let s2 = half_sums(simd, row, vector(four, (2 * dim).min(last), dim));
    let s3 = half_sums(simd, row, vector(four, (3 * dim).min(last), dim));
    let s01 = s0.unzip_low(s1) + s0.unzip_high(s1);
    let s23 = s2.unzip_low(s3) + s2.unzip_high(s3);
    let sums = s01.unzip_low(s23) + s01.unzip_high(s23);
    let mut out = [0.0; 4];
    sums.store_slice(&mut out);
    out
}

#[inline(always)]
fn vector(z: &[f32], at: usize, len: usize) -> &[f32] {
    &z[at..at + len]
}

#[inline(always)]
pub(super) fn pair_dots_backward<S: Simd>(simd: S, z: &[f32], dim: usize, dout: &[f32], dz: &mut [f32]) {
    for (i, dz) in dz.chunks_exact_mut(dim.max(1)).enumerate() {
        let (blocks, rest) = dz.as_chunks_mut::<16>();
        for (block, out) in blocks.iter_mut().enumerate() {
            backward_block::<S, f32x16<S>>(simd, i, &z[16 * block..], dim, dout, out);
        }
        let mut at = 16 * blocks.len();
        let (blocks, rest) = rest.as_chunks_mut::<4>();
        for out in blocks {
            backward_block::<S, f32x4<S>>(simd, i, &z[at..], dim, dout, out);
            at += 4;
        }
        for out in rest {
            *out = backward_one(i, &z[at..], dim, dout);
            at += 1;
        }
    }
}

/// `out = Σ_{j≠i} dout[pair(i, j)]·z[j]` over one vector of dimensions, the first of which is `z[0]`. The
/// sum stays in a register. Plain loops: a closure would not be compiled for the level.
#[inline(always)]
fn backward_block<S: Simd, V: SimdFloat<S, Element = f32>>(
    simd: S,
    i: usize,
    z: &[f32],
    dim: usize,
    dout: &[f32],
    out: &mut [f32],
) {
    let n = z.len().div_ceil(dim);
    let mut sum = V::splat(simd, 0.0);
    for (j, g) in dout[pairs(i)..pairs(i) + i].iter().enumerate() {
        sum += V::from_slice(simd, &z[j * dim..j * dim + V::LEN]) * *g;
    }
    for j in i + 1..n {
        sum += V::from_slice(simd, &z[j * dim..j * dim + V::LEN]) * dout[pairs(j) + i];
    }
    sum.store_slice(out);
}

/// The same for a single dimension.
#[inline(always)]
fn backward_one(i: usize, z: &[f32], dim: usize, dout: &[f32]) -> f32 {
    let mut sum = 0.0;
    for j in 0..z.len().div_ceil(dim) {
        if j != i {
            sum += dout[pairs(i.max(j)) + i.min(j)] * z[j * dim];
        }
    }
    sum
}
