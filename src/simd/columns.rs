//! Rows to columns and back, sixteen rows at a time: how the same value of sixteen samples comes to lie in one vector.

use fearless_simd::{Simd, f32x16, prelude::*};

/// Samples that are worked on side by side.
pub const LANES: usize = 16;

/// `columns[c][lane] = rows[lane · stride + c]`, for `columns.len() / 16` columns of `count` rows; zero in the lanes
/// beyond.
#[inline(always)]
pub(super) fn to_columns<S: Simd>(simd: S, columns: &mut [f32], rows: &[f32], stride: usize, count: usize) {
    for (block, columns) in columns.chunks_mut(LANES * LANES).enumerate() {
        let (first, width) = (block * LANES, columns.len() / LANES);
        if width == LANES && count == LANES {
            let mut lanes = [f32x16::splat(simd, 0.0); LANES];
            for (r, lane) in lanes.iter_mut().enumerate() {
                *lane = f32x16::from_slice(simd, &rows[r * stride + first..][..LANES]);
            }
            let lanes = transposed(lanes);
            for (lane, to) in lanes.iter().zip(columns.as_chunks_mut::<LANES>().0) {
                lane.store_slice(to);
            }
            continue;
        }
        columns.fill(0.0);
        for r in 0..count {
            for c in 0..width {
                columns[c * LANES + r] = rows[r * stride + first + c];
            }
        }
    }
}

/// The way back: `rows[lane · stride + c] = columns[c][lane]`, for `count` lanes.
#[inline(always)]
pub(super) fn from_columns<S: Simd>(simd: S, rows: &mut [f32], columns: &[f32], stride: usize, count: usize) {
    for (block, columns) in columns.chunks(LANES * LANES).enumerate() {
        let (first, width) = (block * LANES, columns.len() / LANES);
        if width == LANES && count == LANES {
            let mut lanes = [f32x16::splat(simd, 0.0); LANES];
            for (lane, from) in lanes.iter_mut().zip(columns.as_chunks::<LANES>().0) {
                *lane = f32x16::from_slice(simd, from);
            }
            let lanes = transposed(lanes);
            for (r, lane) in lanes.iter().enumerate() {
                lane.store_slice(&mut rows[r * stride + first..][..LANES]);
            }
            continue;
        }
        for r in 0..count {
            for c in 0..width {
                rows[r * stride + first + c] = columns[c * LANES + r];
            }
        }
    }
}

/// Sixteen vectors of sixteen values, transposed: four rounds of a perfect shuffle.
#[inline(always)]
fn transposed<S: Simd>(lanes: [f32x16<S>; LANES]) -> [f32x16<S>; LANES] {
    shuffled(shuffled(shuffled(shuffled(lanes))))
}

#[inline(always)]
fn shuffled<S: Simd>(lanes: [f32x16<S>; LANES]) -> [f32x16<S>; LANES] {
    let mut out = lanes;
    for i in 0..LANES / 2 {
        out[2 * i] = lanes[i].zip_low(lanes[i + LANES / 2]);
        out[2 * i + 1] = lanes[i].zip_high(lanes[i + LANES / 2]);
    }
    out
}
