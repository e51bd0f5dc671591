//! Loops that do nothing but keep one part of the processor busy, to measure the machine by.

use std::hint::black_box;

use fearless_simd::{Simd, f32x8, prelude::*};

/// Chains that do not wait for each other: enough for any processor's latency times its units.
const CHAINS: usize = 12;
/// Multiply-adds of one round: 12 chains of 16 lanes.
pub(super) const ROUND: u64 = (CHAINS * 16) as u64;

#[inline(always)]
pub(super) fn multiply_adds<S: Simd>(simd: S, rounds: u64) -> f32 {
    // In the widest vectors of the level, and in the 12 registers' worth of them that every level has.
    let chunks = 16 / <S::f32s as SimdBase<S>>::LEN as u64;
    chains::<S, S::f32s>(simd, rounds * chunks)
}

#[inline(always)]
fn chains<S: Simd, V: SimdFloat<S, Element = f32>>(simd: S, rounds: u64) -> f32 {
    let factor = V::splat(simd, black_box(0.999));
    let add = V::splat(simd, black_box(0.001));
    let mut chains = [V::splat(simd, black_box(1.0)); CHAINS];
    for _ in 0..rounds {
        for chain in &mut chains {
            *chain = chain.mul_add(factor, add);
        }
    }
    let mut sum = V::splat(simd, 0.0);
    for chain in chains {
        sum += chain;
    }
    sum.as_slice()[0]
}

#[inline(always)]
pub(super) fn read<S: Simd>(simd: S, values: &[f32]) -> f32 {
    let mut sums = [f32x8::splat(simd, 0.0); 4];
    for block in values.as_chunks::<32>().0 {
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum += f32x8::from_slice(simd, &block[8 * i..8 * i + 8]);
        }
    }
    ((sums[0] + sums[1]) + (sums[2] + sums[3])).to_array()[0]
}
