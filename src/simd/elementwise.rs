//! Kernels whose every output depends on one position alone.
//!
//! Each has a body over one vector of any width: load, compute, store. A slice is walked in vectors of
//! 16, then 8 and 4 values; up to three left-over values go through a padded vector of four. So a chunk
//! of 4, 8, 16 or 32 values is vector code throughout, and every value sees the same operations.
//! `inline(always)` carries a body into the copy that is compiled for one level.

use fearless_simd::{Simd, SimdFloat, f32x4, f32x8, f32x16};

use super::AdamStep;

/// Walks equally long slices: `walk!(simd, body, [mutable slices], [shared slices], scalars...)`.
/// The macro shadows each name by its (vectors, rest) of the width in turn.
macro_rules! walk {
    ($simd:ident, $body:ident, [$($m:ident),+], [$($c:ident),*] $(, $arg:expr)*) => {{
        $(let $m = $m.as_chunks_mut::<16>();)+
        $(let $c = $c.as_chunks::<16>();)*
        walk!(@run f32x16<S>, $simd, $body, [$($m),+], [$($c),*] $(, $arg)*);
        // Chunks of 16 and its multiples, which most are, end here.
        if !walk!(@first $($m),+).1.is_empty() {
            $(let $m = $m.1.as_chunks_mut::<8>();)+
            $(let $c = $c.1.as_chunks::<8>();)*
            walk!(@run f32x8<S>, $simd, $body, [$($m),+], [$($c),*] $(, $arg)*);
            $(let $m = $m.1.as_chunks_mut::<4>();)+
            $(let $c = $c.1.as_chunks::<4>();)*
            walk!(@run f32x4<S>, $simd, $body, [$($m),+], [$($c),*] $(, $arg)*);
            walk!(@rest $simd, $body, [$($m),+], [$($c),*] $(, $arg)*);
        }
    }};
    (@first $first:ident $(, $m:ident)*) => { $first };
    (@run $vector:ty, $simd:ident, $body:ident, [$first:ident $(, $m:ident)*], [$($c:ident),*] $(, $arg:expr)*) => {
        for i in 0..$first.0.len() {
            $body::<S, $vector>($simd, &mut $first.0[i], $(&mut $m.0[i],)* $(&$c.0[i],)* $($arg),*);
        }
    };
    (@rest $simd:ident, $body:ident, [$first:ident $(, $m:ident)*], [$($c:ident),*] $(, $arg:expr)*) => {
        if !$first.1.is_empty() {
            let mut $first = (padded($first.1), $first.1);
            $(let mut $m = (padded($m.1), $m.1);)*
            $(let $c = padded($c.1);)*
            $body::<S, f32x4<S>>($simd, &mut $first.0, $(&mut $m.0,)* $(&$c,)* $($arg),*);
            unpad(&$first.0, $first.1);
            $(unpad(&$m.0, $m.1);)*
        }
    };
}

/// Up to three values with zeros behind them. What a body computes from the zeros is thrown away.
#[inline(always)]
pub(super) fn padded(rest: &[f32]) -> [f32; 4] {
    let mut block = [0.0; 4];
    for (to, from) in block.iter_mut().zip(rest) {
        *to = *from;
    }
    block
}

#[inline(always)]
fn unpad(block: &[f32; 4], rest: &mut [f32]) {
    for (to, from) in rest.iter_mut().zip(block) {
        *to = *from;
    }
}

#[inline(always)]
fn axpy_body<S: Simd, V: SimdFloat<S, Element = f32>>(simd: S, y: &mut [f32], x: &[f32], alpha: f32) {
    (V::from_slice(simd, y) + V::from_slice(simd, x) * alpha).store_slice(y);
}

#[inline(always)]
pub(super) fn axpy<S: Simd>(simd: S, y: &mut [f32], alpha: f32, x: &[f32]) {
    walk!(simd, axpy_body, [y], [x], alpha);
}

#[inline(always)]
fn add_body<S: Simd, V: SimdFloat<S, Element = f32>>(simd: S, y: &mut [f32], x: &[f32]) {
    (V::from_slice(simd, y) + V::from_slice(simd, x)).store_slice(y);
}

#[inline(always)]
pub(super) fn add<S: Simd>(simd: S, y: &mut [f32], x: &[f32]) {
    walk!(simd, add_body, [y], [x]);
}

#[inline(always)]
fn scale_body<S: Simd, V: SimdFloat<S, Element = f32>>(simd: S, y: &mut [f32], alpha: f32) {
    (V::from_slice(simd, y) * alpha).store_slice(y);
}

#[inline(always)]
pub(super) fn scale<S: Simd>(simd: S, y: &mut [f32], alpha: f32) {
    walk!(simd, scale_body, [y], [], alpha);
}

#[inline(always)]
fn sgd_body<S: Simd, V: SimdFloat<S, Element = f32>>(simd: S, w: &mut [f32], g: &[f32], lr: f32) {
    (V::from_slice(simd, w) - V::from_slice(simd, g) * lr).store_slice(w);
}

#[inline(always)]
pub(super) fn sgd<S: Simd>(simd: S, w: &mut [f32], g: &[f32], lr: f32) {
    walk!(simd, sgd_body, [w], [g], lr);
}

#[inline(always)]
fn adagrad_body<S: Simd, V: SimdFloat<S, Element = f32>>(
    simd: S,
    w: &mut [f32],
    acc: &mut [f32],
    g: &[f32],
    lr: f32,
    eps: f32,
) {
    let g = V::from_slice(simd, g);
    let sum = V::from_slice(simd, acc) + g * g;
    let moved = V::from_slice(simd, w) - g * lr / (sum.sqrt() + eps);
    sum.store_slice(acc);
    moved.store_slice(w);
}

#[inline(always)]
pub(super) fn adagrad<S: Simd>(simd: S, w: &mut [f32], acc: &mut [f32], g: &[f32], lr: f32, eps: f32) {
    walk!(simd, adagrad_body, [w, acc], [g], lr, eps);
}

#[inline(always)]
fn adam_body<S: Simd, V: SimdFloat<S, Element = f32>>(
    simd: S,
    w: &mut [f32],
    m: &mut [f32],
    v: &mut [f32],
    g: &[f32],
    step: &AdamStep,
) {
    let g = V::from_slice(simd, g);
    let first = V::from_slice(simd, m) * step.beta1 + g * (1.0 - step.beta1);
    let second = V::from_slice(simd, v) * step.beta2 + g * g * (1.0 - step.beta2);
    let moved = V::from_slice(simd, w) - first * step.rate / (second.sqrt() * step.root_scale + step.eps);
    first.store_slice(m);
    second.store_slice(v);
    moved.store_slice(w);
}

#[inline(always)]
pub(super) fn adam<S: Simd>(simd: S, w: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], step: &AdamStep) {
    walk!(simd, adam_body, [w, m, v], [g], step);
}
