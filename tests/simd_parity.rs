//! Every kernel at every level this processor runs, at every length up to 67 and at every misalignment
//! of 4 bytes, against its scalar twin: bit for bit.
#![cfg(not(loom))]

use dimslab::simd::{AdamStep, Kernels, pairs, rowwise_rate, scalar};
use proptest::prelude::*;

/// Room for the longest slice behind the largest offset.
const ROOM: usize = 67 + 4;

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Values of ordinary size with both zeros and the smallest normal number among them.
fn value() -> impl Strategy<Value = f32> {
    prop_oneof![
        16 => -4.0f32..4.0,
        1 => Just(0.0),
        1 => Just(-0.0),
        1 => Just(f32::MIN_POSITIVE),
        2 => -1e-6f32..1e-6,
    ]
}

fn values() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(value(), ROOM)
}

/// Runs `check` for every level, length and offset.
fn everywhere(check: impl Fn(&str, Kernels, std::ops::Range<usize>)) {
    for (name, kernels) in Kernels::every_level() {
        for len in 0..=67 {
            for offset in 0..4 {
                check(name, kernels, offset..offset + len);
            }
        }
    }
}

/// Runs a kernel and its twin on copies of the same buffers and compares the whole buffers, so that a
/// write outside the slice is seen too.
fn same<const N: usize>(
    place: (&str, &std::ops::Range<usize>),
    buffers: [&[f32]; N],
    kernel: impl Fn([&mut [f32]; N]),
    twin: impl Fn([&mut [f32]; N]),
) {
    let run = |step: &dyn Fn([&mut [f32]; N])| {
        let mut copies = buffers.map(<[f32]>::to_vec);
        step(copies.each_mut().map(|copy| &mut copy[place.1.clone()]));
        copies.map(|copy| bits(&copy))
    };
    assert_eq!(run(&|slices| kernel(slices)), run(&|slices| twin(slices)), "level {}, slice {:?}", place.0, place.1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn sums_match_their_twins(a in values(), b in values()) {
        everywhere(|name, k, r| {
            let (a, b) = (&a[r.clone()], &b[r.clone()]);
            assert_eq!(k.dot(a, b).to_bits(), scalar::dot(a, b).to_bits(), "dot, {name}, {r:?}");
            assert_eq!(k.sum_squares(a).to_bits(), scalar::sum_squares(a).to_bits(), "sum_squares, {name}, {r:?}");
            let exact: f64 = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let size: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) * f64::from(*b)).abs()).sum();
            assert!((f64::from(k.dot(a, b)) - exact).abs() <= 2e-6 * size + 1e-30, "dot far from exact, {name}, {r:?}");
        });
    }

    #[test]
    fn elementwise_kernels_match_their_twins(y in values(), x in values(), alpha in value()) {
        everywhere(|name, k, r| {
            let at = (name, &r);
            let x = &x[r.clone()];
            same(at, [&y], |[y]| k.axpy(y, alpha, x), |[y]| scalar::axpy(y, alpha, x));
            same(at, [&y], |[y]| k.add(y, x), |[y]| scalar::add(y, x));
            same(at, [&y], |[y]| k.scale(y, alpha), |[y]| scalar::scale(y, alpha));
        });
    }

    #[test]
    fn optimizers_match_their_twins(w in values(), g in values(), m in values(), state in values(), t in 1u64..2000) {
        let state: Vec<f32> = state.iter().map(|value| value.abs()).collect();
        let adam = AdamStep::new(0.01, 0.9, 0.999, 1e-8, t);
        everywhere(|name, k, r| {
            let at = (name, &r);
            let g = &g[r.clone()];
            same(at, [&w], |[w]| k.sgd(w, g, 0.05), |[w]| scalar::sgd(w, g, 0.05));
            same(
                at,
                [&w, &state],
                |[w, acc]| k.adagrad(w, acc, g, 0.05, 1e-8),
                |[w, acc]| scalar::adagrad(w, acc, g, 0.05, 1e-8),
            );
            same(at, [&w, &m, &state], |[w, m, v]| k.adam(w, m, v, g, &adam), |[w, m, v]| scalar::adam(w, m, v, g, &adam));

            let (mut acc, mut twin_acc) = (state[0], state[0]);
            let (mut row, mut twin_row) = (w[r.clone()].to_vec(), w[r.clone()].to_vec());
            k.rowwise_adagrad(&mut row, &mut acc, g, 0.05, 1e-8);
            scalar::rowwise_adagrad(&mut twin_row, &mut twin_acc, g, 0.05, 1e-8);
            assert_eq!((bits(&row), acc.to_bits()), (bits(&twin_row), twin_acc.to_bits()), "rowwise_adagrad, {name}, {r:?}");
        });
    }

    /// The update of a value is the same whether it stands in a long slice, in a short one or alone.
    #[test]
    fn an_elements_update_does_not_depend_on_its_place(w in values(), g in values(), state in values()) {
        let state: Vec<f32> = state.iter().map(|value| value.abs()).collect();
        for (name, k) in Kernels::every_level() {
            let (mut whole, mut whole_acc) = (w.clone(), state.clone());
            k.adagrad(&mut whole, &mut whole_acc, &g, 0.05, 1e-8);
            for i in 0..ROOM {
                let (mut one, mut acc) = ([w[i]], [state[i]]);
                k.adagrad(&mut one, &mut acc, &g[i..=i], 0.05, 1e-8);
                assert_eq!((one[0].to_bits(), acc[0].to_bits()), (whole[i].to_bits(), whole_acc[i].to_bits()), "{name}, {i}");
            }
        }
    }

    #[test]
    fn layer_kernels_match_their_twins(x in prop::collection::vec(value(), 4 * 67 + 3), bias in values()) {
        for (name, k) in Kernels::every_level() {
            for width in 0..=67 {
                for offset in 0..4 {
                    let rows = if width == 0 { 0 } else { 1 + width % 4 };
                    let r = offset..offset + width * rows;
                    if r.end > x.len() {
                        continue;
                    }
                    let bias = &bias[..width];
                    same((name, &r), [&x], |[x]| k.bias_relu(x, bias), |[x]| scalar::bias_relu(x, bias));
                    let mut y = x[r.clone()].to_vec();
                    scalar::bias_relu(&mut y, bias);
                    let mut dbias = vec![f32::NAN; width];
                    let mut twin = dbias.clone();
                    same(
                        (name, &r),
                        [&x],
                        |[dy]| k.relu_bias_backward(dy, &y, &mut dbias.clone()),
                        |[dy]| scalar::relu_bias_backward(dy, &y, &mut twin.clone()),
                    );
                    k.relu_bias_backward(&mut x[r.clone()].to_vec(), &y, &mut dbias);
                    scalar::relu_bias_backward(&mut x[r.clone()].to_vec(), &y, &mut twin);
                    assert_eq!(bits(&dbias), bits(&twin), "bias gradient, {name}, {width} x {rows}");
                }
            }
        }
    }

    #[test]
    fn pair_kernels_match_their_twins(z in prop::collection::vec(value(), 9 * 67), dout in prop::collection::vec(value(), 36)) {
        for (name, k) in Kernels::every_level() {
            for dim in 1..=67 {
                for n in [0, 1, 2, 4, 5, 9] {
                    let (z, dout) = (&z[..n * dim], &dout[..pairs(n)]);
                    let mut out = vec![f32::NAN; pairs(n)];
                    let mut twin = out.clone();
                    k.pair_dots(z, dim, &mut out);
                    scalar::pair_dots(z, dim, &mut twin);
                    assert_eq!(bits(&out), bits(&twin), "pair_dots, {name}, {n} x {dim}");
                    let mut dz = vec![f32::NAN; n * dim];
                    let mut twin = dz.clone();
                    k.pair_dots_backward(z, dim, dout, &mut dz);
                    scalar::pair_dots_backward(z, dim, dout, &mut twin);
                    assert_eq!(bits(&dz), bits(&twin), "pair_dots_backward, {name}, {n} x {dim}");
                }
            }
        }
    }
}

#[test]
fn one_bad_value_anywhere_is_seen() {
    let clean = [1.0f32; ROOM];
    everywhere(|name, k, r| {
        assert!(k.all_finite(&clean[r.clone()]), "{name}, {r:?}");
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for i in r.clone() {
                let mut dirty = clean;
                dirty[i] = bad;
                assert!(!k.all_finite(&dirty[r.clone()]), "{bad} at {i}, {name}, {r:?}");
            }
        }
    });
}

#[test]
fn a_value_that_is_not_a_number_passes_through_relu() {
    for (name, k) in Kernels::every_level() {
        let mut x = [f32::NAN; 21];
        k.bias_relu(&mut x, &[0.5; 21]);
        assert!(x.iter().all(|x| x.is_nan()), "{name}");
    }
}

/// Row-wise Adagrad on a row in pieces, as its documentation tells, is the same step.
#[test]
fn rowwise_adagrad_in_pieces() {
    let k = Kernels::get();
    let g: Vec<f32> = (0..48).map(|i| (i as f32 * 0.37).sin()).collect();
    let (mut whole, mut whole_acc) = (vec![0.25f32; 48], 0.1f32);
    k.rowwise_adagrad(&mut whole, &mut whole_acc, &g, 0.1, 1e-6);

    let (mut pieces, mut acc) = (vec![0.25f32; 48], 0.1f32);
    let mean = g.chunks(16).map(|piece| k.sum_squares(piece)).sum::<f32>() / 48.0;
    let rate = rowwise_rate(&mut acc, mean, 0.1, 1e-6);
    for (w, g) in pieces.chunks_mut(16).zip(g.chunks(16)) {
        k.sgd(w, g, rate);
    }
    for (a, b) in whole.iter().zip(&pieces) {
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }
}

/// Known answers: the formulas, worked by hand, so that kernel and twin cannot be wrong together.
#[test]
fn optimizer_formulas() {
    let k = Kernels::get();
    let (mut w, mut acc) = ([1.0f32], [0.0f32]);
    k.adagrad(&mut w, &mut acc, &[2.0], 0.1, 0.0);
    assert_eq!((w[0], acc[0]), (0.9, 4.0)); // 1 - 0.1·2/√4
    k.adagrad(&mut w, &mut acc, &[-(12.0f32.sqrt())], 0.1, 0.0);
    assert!((w[0] - (0.9 + 0.1 * 12.0f32.sqrt() / 4.0)).abs() < 1e-6);

    let (mut w, mut acc) = ([1.0f32, 1.0], 7.0f32);
    k.rowwise_adagrad(&mut w, &mut acc, &[3.0, 3.0], 0.4, 0.0);
    assert_eq!((acc, w), (16.0, [0.7, 0.7])); // 1 - 0.4·3/√(7 + 9)

    // The first Adam step is lr·sign(g), whatever the gradient's size.
    let (mut w, mut m, mut v) = ([0.0f32; 2], [0.0f32; 2], [0.0f32; 2]);
    k.adam(&mut w, &mut m, &mut v, &[1e-3, -50.0], &AdamStep::new(0.01, 0.9, 0.999, 1e-12, 1));
    assert!((w[0] + 0.01).abs() < 1e-6 && (w[1] - 0.01).abs() < 1e-6, "{w:?}");
}

#[test]
#[should_panic(expected = "unequal length")]
fn unequal_lengths_are_refused() {
    Kernels::get().sgd(&mut [0.0; 4], &[0.0; 5], 0.1);
}
