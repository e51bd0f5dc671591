//! The feature interaction: dot products of all pairs of a few short vectors, of sixteen samples side by side.
//!
//! `z: [n, dim, 16]` holds value `d` of vector `i` of sixteen samples in one place, so that a dot product is a plain
//! running sum over `d` and needs no sum across lanes. Pairs are computed in small rectangles, for each of which a value
//! is read once and used several times; of the square of all pairs only the lower triangle is.

#![expect(clippy::needless_range_loop, reason = "an index runs over several arrays of one constant size")]

use fearless_simd::{Simd, f32x8, f32x16, prelude::*};

use super::columns::LANES;
use super::pairs;

/// A value of sixteen samples.
type Lanes = [f32; LANES];

/// Stands where a reference is not yet set.
static NOTHING: [Lanes; 0] = [];

/// The lanes from `LANE` on that one vector holds.
#[inline(always)]
fn load<S: Simd, V: SimdFloat<S, Element = f32>, const LANE: usize>(simd: S, lanes: &Lanes) -> V {
    V::from_slice(simd, &lanes[LANE..LANE + V::LEN])
}

#[inline(always)]
fn save<S: Simd, V: SimdFloat<S, Element = f32>, const LANE: usize>(vector: V, lanes: &mut Lanes) {
    vector.store_slice(&mut lanes[LANE..LANE + V::LEN]);
}

#[inline(always)]
pub(super) fn pair_dots<S: Simd>(simd: S, z: &[f32], dim: usize, out: &mut [f32]) {
    let (z, out) = (z.as_chunks().0, out.as_chunks_mut().0);
    if <S::f32s as SimdBase<S>>::LEN >= 16 {
        triangle::<S, f32x16<S>, 0, 4>(simd, z, dim, out);
    } else {
        triangle::<S, f32x8<S>, 0, 2>(simd, z, dim, out);
        triangle::<S, f32x8<S>, 8, 2>(simd, z, dim, out);
    }
}

/// The rows of the triangle four at a time.
#[inline(always)]
fn triangle<S: Simd, V: SimdFloat<S, Element = f32>, const LANE: usize, const N: usize>(
    simd: S,
    z: &[Lanes],
    dim: usize,
    out: &mut [Lanes],
) {
    let n = z.len() / dim.max(1);
    let mut i = 0;
    while i + 4 <= n {
        band::<S, V, LANE, 4, N>(simd, z, dim, i, out);
        i += 4;
    }
    match n - i {
        1 => band::<S, V, LANE, 1, N>(simd, z, dim, i, out),
        2 => band::<S, V, LANE, 2, N>(simd, z, dim, i, out),
        3 => band::<S, V, LANE, 3, N>(simd, z, dim, i, out),
        _ => {}
    }
}

/// `M` of the vectors, from `first` on.
#[inline(always)]
fn vectors<const M: usize>(z: &[Lanes], dim: usize, first: usize) -> [&[Lanes]; M] {
    let mut all = [&NOTHING[..]; M];
    for (m, one) in all.iter_mut().enumerate() {
        *one = &z[(first + m) * dim..][..dim];
    }
    all
}

/// `M` rows of the triangle: rectangles of `N` columns, then the corner among the rows themselves.
#[inline(always)]
fn band<S: Simd, V: SimdFloat<S, Element = f32>, const LANE: usize, const M: usize, const N: usize>(
    simd: S,
    z: &[Lanes],
    dim: usize,
    i: usize,
    out: &mut [Lanes],
) {
    let mut j = 0;
    while j + N <= i {
        rectangle::<S, V, LANE, M, N>(simd, z, dim, (i, j), out);
        j += N;
    }
    while j < i {
        rectangle::<S, V, LANE, M, 1>(simd, z, dim, (i, j), out);
        j += 1;
    }
    let rows: [&[Lanes]; M] = vectors(z, dim, i);
    let mut sums = [[V::splat(simd, 0.0); M]; M];
    for d in 0..dim {
        let mut all = [V::splat(simd, 0.0); M];
        for m in 0..M {
            all[m] = load::<S, V, LANE>(simd, &rows[m][d]);
        }
        for m in 1..M {
            for n in 0..m {
                sums[m][n] += all[m] * all[n];
            }
        }
    }
    for m in 1..M {
        for n in 0..m {
            save::<S, V, LANE>(sums[m][n], &mut out[pairs(i + m) + i + n]);
        }
    }
}

/// The products of `M` vectors from `i` on with `N` from `j` on.
#[inline(always)]
fn rectangle<S: Simd, V: SimdFloat<S, Element = f32>, const LANE: usize, const M: usize, const N: usize>(
    simd: S,
    z: &[Lanes],
    dim: usize,
    (i, j): (usize, usize),
    out: &mut [Lanes],
) {
    let rows: [&[Lanes]; M] = vectors(z, dim, i);
    let columns: [&[Lanes]; N] = vectors(z, dim, j);
    let mut sums = [[V::splat(simd, 0.0); N]; M];
    for d in 0..dim {
        let mut right = [V::splat(simd, 0.0); N];
        for n in 0..N {
            right[n] = load::<S, V, LANE>(simd, &columns[n][d]);
        }
        for m in 0..M {
            let left = load::<S, V, LANE>(simd, &rows[m][d]);
            for n in 0..N {
                sums[m][n] += left * right[n];
            }
        }
    }
    for m in 0..M {
        for n in 0..N {
            save::<S, V, LANE>(sums[m][n], &mut out[pairs(i + m) + j + n]);
        }
    }
}

#[inline(always)]
pub(super) fn pair_dots_backward<S: Simd>(simd: S, z: &[f32], dim: usize, dout: &[f32], dz: &mut [f32]) {
    let (z, dout, dz) = (z.as_chunks().0, dout.as_chunks().0, dz.as_chunks_mut().0);
    if <S::f32s as SimdBase<S>>::LEN >= 16 {
        gradients::<S, f32x16<S>, 0, 4>(simd, z, dim, dout, dz);
    } else {
        gradients::<S, f32x8<S>, 0, 2>(simd, z, dim, dout, dz);
        gradients::<S, f32x8<S>, 8, 2>(simd, z, dim, dout, dz);
    }
}

#[inline(always)]
fn gradients<S: Simd, V: SimdFloat<S, Element = f32>, const LANE: usize, const M: usize>(
    simd: S,
    z: &[Lanes],
    dim: usize,
    dout: &[Lanes],
    dz: &mut [Lanes],
) {
    let n = z.len() / dim.max(1);
    let mut i = 0;
    while i + M <= n {
        gradient_rows::<S, V, LANE, M>(simd, z, dim, i, dout, dz);
        i += M;
    }
    while i < n {
        gradient_rows::<S, V, LANE, 1>(simd, z, dim, i, dout, dz);
        i += 1;
    }
}

#[inline(always)]
fn gradient_rows<S: Simd, V: SimdFloat<S, Element = f32>, const LANE: usize, const M: usize>(
    simd: S,
    z: &[Lanes],
    dim: usize,
    i: usize,
    dout: &[Lanes],
    dz: &mut [Lanes],
) {
    let mut d = 0;
    while d + 4 <= dim {
        gradient_tile::<S, V, LANE, M, 4>(simd, z, dim, (i, d), dout, dz);
        d += 4;
    }
    while d < dim {
        gradient_tile::<S, V, LANE, M, 1>(simd, z, dim, (i, d), dout, dz);
        d += 1;
    }
}

/// `dz[i][d] = Σ_{j≠i} dout[pair(i, j)]·z[j][d]`, `j` in rising order, for `M` vectors and `N` of their values.
#[inline(always)]
fn gradient_tile<S: Simd, V: SimdFloat<S, Element = f32>, const LANE: usize, const M: usize, const N: usize>(
    simd: S,
    z: &[Lanes],
    dim: usize,
    (i, d): (usize, usize),
    dout: &[Lanes],
    dz: &mut [Lanes],
) {
    let n = z.len() / dim;
    let mut sums = [[V::splat(simd, 0.0); N]; M];
    let mut rows = [&NOTHING[..]; M];
    for (m, row) in rows.iter_mut().enumerate() {
        *row = &dout[pairs(i + m)..][..i];
    }
    for j in 0..i {
        let Some(z) = z[j * dim + d..].first_chunk::<N>() else { return };
        for m in 0..M {
            let left = load::<S, V, LANE>(simd, &rows[m][j]);
            for n in 0..N {
                sums[m][n] += left * load::<S, V, LANE>(simd, &z[n]);
            }
        }
    }
    for other in 0..M {
        let j = i + other;
        let Some(z) = z[j * dim + d..].first_chunk::<N>() else { return };
        for m in 0..M {
            if m == other {
                continue;
            }
            let pair = if m > other { pairs(i + m) + j } else { pairs(j) + i + m };
            let left = load::<S, V, LANE>(simd, &dout[pair]);
            for n in 0..N {
                sums[m][n] += left * load::<S, V, LANE>(simd, &z[n]);
            }
        }
    }
    for j in i + M..n {
        let Some(z) = z[j * dim + d..].first_chunk::<N>() else { return };
        let Some(row) = dout[pairs(j) + i..].first_chunk::<M>() else { return };
        for m in 0..M {
            let left = load::<S, V, LANE>(simd, &row[m]);
            for n in 0..N {
                sums[m][n] += left * load::<S, V, LANE>(simd, &z[n]);
            }
        }
    }
    for m in 0..M {
        let Some(dz) = dz[(i + m) * dim + d..].first_chunk_mut::<N>() else { return };
        for n in 0..N {
            save::<S, V, LANE>(sums[m][n], &mut dz[n]);
        }
    }
}
