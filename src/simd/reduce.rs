//! Kernels that fold a slice into one value, in the eight partial sums that [`super::scalar`] fixes.

use fearless_simd::{Simd, f32x4, f32x8, prelude::*};

#[inline(always)]
pub(super) fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let sums = half_sums(simd, a, b).to_array();
    (sums[0] + sums[1]) + (sums[2] + sums[3])
}

/// The eight partial sums of a dot product, folded once: `s[l] + s[l+4]`.
#[inline(always)]
pub(super) fn half_sums<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32x4<S> {
    let mut sums = f32x8::splat(simd, 0.0);
    let (a_blocks, a_rest) = a.as_chunks::<8>();
    let (b_blocks, b_rest) = b.as_chunks::<8>();
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        sums += f32x8::from_slice(simd, a) * f32x8::from_slice(simd, b);
    }
    if !a_rest.is_empty() {
        sums += padded(simd, a_rest) * padded(simd, b_rest);
    }
    let (low, high) = sums.split();
    low + high
}

/// Up to seven values with zeros behind them: adding `0·0` to a sum that started at zero leaves its bits
/// as they are.
#[inline(always)]
fn padded<S: Simd>(simd: S, rest: &[f32]) -> f32x8<S> {
    let zero = f32x4::splat(simd, 0.0);
    let (fours, ones) = rest.as_chunks::<4>();
    let ones = if ones.is_empty() { zero } else { f32x4::from_slice(simd, &super::elementwise::padded(ones)) };
    match fours.first() {
        Some(four) => f32x4::from_slice(simd, four).combine(ones),
        None => ones.combine(zero),
    }
}

#[inline(always)]
pub(super) fn all_finite<S: Simd>(_: S, a: &[f32]) -> bool {
    let (blocks, rest) = a.as_chunks::<16>();
    for block in blocks {
        // No early exit inside a block: that is what lets it be one comparison of a whole vector.
        if !block_is_finite(block) {
            return false;
        }
    }
    block_is_finite(rest)
}

#[inline(always)]
fn block_is_finite(block: &[f32]) -> bool {
    let mut finite = true;
    for x in block {
        finite &= x.abs() < f32::INFINITY;
    }
    finite
}
