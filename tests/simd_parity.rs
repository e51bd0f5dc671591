//! Every kernel at every level this processor runs, at every length up to 67 and at every misalignment
//! of 4 bytes, against its scalar twin: bit for bit.
#![cfg(not(loom))]

use dimslab::simd::{AdamStep, Finish, Kernels, LANES, LayerShape, PANEL, pairs, rowwise_rate, scalar};
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
            let squares = scalar::sum_squares(g).to_bits();
            let with_squares = |found: f32| assert_eq!(found.to_bits(), squares, "squares beside a step, {at:?}");
            same(at, [&w], |[w]| with_squares(k.sgd_squares(w, g, 0.05)), |[w]| scalar::sgd(w, g, 0.05));
            same(
                at,
                [&w, &state],
                |[w, acc]| with_squares(k.adagrad_squares(w, acc, g, 0.05, 1e-8)),
                |[w, acc]| scalar::adagrad(w, acc, g, 0.05, 1e-8),
            );
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
    fn layer_kernels_match_their_twins(x in prop::collection::vec(value(), 5 * 80), w in values(), dy in values()) {
        for (name, k) in Kernels::every_level() {
            for width in 1..=67usize {
                for rows in 0..=5 {
                    let (padded, relu) = (width.next_multiple_of(PANEL), width % 2 == 0);
                    let x = panels(&x, rows, width);
                    let mut w = w[..width].to_vec();
                    w.resize(padded, 0.0);
                    let (dy, place) = (&dy[..rows], (name, &(0..rows)));
                    same(place, [&[f32::NAN; ROOM]], |[out]| k.head(out, &x, &w), |[out]| scalar::head(out, &x, &w));
                    let place = (name, &(0..width));
                    same(place, [&[f32::NAN; ROOM]], |[s]| k.column_sums(s, &x, rows), |[s]| scalar::column_sums(s, &x, rows));
                    let all = 0..rows * padded;
                    let nan = vec![f32::NAN; all.len()];
                    let run = |kernel: &dyn Fn(&mut [f32], &mut [f32])| {
                        let (mut dx, mut dw) = (nan.clone(), vec![f32::NAN; width]);
                        kernel(&mut dx, &mut dw);
                        (bits(&dx), bits(&dw))
                    };
                    let got = run(&|dx, dw| k.head_backward(dx, dw, dy, &x, &w, relu));
                    let twin = run(&|dx, dw| scalar::head_backward(dx, dw, dy, &x, &w, relu));
                    assert_eq!(got, twin, "head_backward, {name}, {rows} x {width}");
                    same((name, &all), [&x], |[d]| k.where_open(d, &x), |[d]| scalar::where_open(d, &x));
                }
            }
        }
    }

    #[test]
    fn pair_kernels_match_their_twins(
        z in prop::collection::vec(value(), 9 * 19 * LANES),
        dout in prop::collection::vec(value(), 36 * LANES),
    ) {
        for (name, k) in Kernels::every_level() {
            for dim in 1..=19 {
                for n in [0, 1, 2, 4, 5, 7, 9] {
                    let (z, dout) = (&z[..n * dim * LANES], &dout[..pairs(n) * LANES]);
                    let mut out = vec![f32::NAN; pairs(n) * LANES];
                    let mut twin = out.clone();
                    k.pair_dots(z, dim, &mut out);
                    scalar::pair_dots(z, dim, &mut twin);
                    assert_eq!(bits(&out), bits(&twin), "pair_dots, {name}, {n} x {dim}");
                    let mut dz = vec![f32::NAN; n * dim * LANES];
                    let mut twin = dz.clone();
                    k.pair_dots_backward(z, dim, dout, &mut dz);
                    scalar::pair_dots_backward(z, dim, dout, &mut twin);
                    assert_eq!(bits(&dz), bits(&twin), "pair_dots_backward, {name}, {n} x {dim}");
                }
            }
        }
    }

    #[test]
    fn columns_are_rows_turned_and_turn_back(rows in prop::collection::vec(value(), LANES * 70)) {
        for (name, k) in Kernels::every_level() {
            for width in [1, 3, 15, 16, 17, 32, 67] {
                for (stride, count) in [(width, LANES), (width, 5), (70, LANES), (70, 1), (width, 0)] {
                    let mut columns = vec![f32::NAN; width * LANES];
                    k.to_columns(&mut columns, &rows, stride, count);
                    for (at, value) in columns.iter().enumerate() {
                        let (c, lane) = (at / LANES, at % LANES);
                        let expected = if lane < count { rows[lane * stride + c] } else { 0.0 };
                        assert_eq!(value.to_bits(), expected.to_bits(), "{name}, column {c}, lane {lane} of {count}");
                    }
                    let mut back = vec![7.0; rows.len()];
                    k.from_columns(&mut back, &columns, stride, count);
                    for (at, value) in back.iter().enumerate() {
                        let inside = at / stride < count && at % stride < width;
                        let expected = if inside { rows[at] } else { 7.0 };
                        assert_eq!(value.to_bits(), expected.to_bits(), "{name}, value {at} of {count} x {width}");
                    }
                }
            }
        }
    }
}

/// `rows` rows of `width` values in panels, padding zero.
fn panels(values: &[f32], rows: usize, width: usize) -> Vec<f32> {
    let mut panels = vec![0.0; rows * width.next_multiple_of(PANEL)];
    for r in 0..rows {
        for c in 0..width {
            panels[(c / PANEL * rows + r) * PANEL + c % PANEL] = values[r * width + c];
        }
    }
    panels
}

fn wave(len: usize, step: f32) -> Vec<f32> {
    (0..len).map(|i| (i as f32 * step).sin()).collect()
}

/// One layer's three products, in panels and row-major: `y`, `dx`, `dw`.
fn products(k: Kernels, rows: usize, inputs: usize, outputs: usize) -> [Vec<f32>; 3] {
    let (x, w, dy) = (wave(rows * inputs, 0.7), wave(inputs * outputs, 0.3), wave(rows * outputs, 0.9));
    let (inner, outer) = (inputs.next_multiple_of(PANEL), outputs.next_multiple_of(PANEL));
    let (x, dy) = (panels(&x, rows, inputs), panels(&dy, rows, outputs));
    let (mut forward, mut backward, mut bias) = (vec![0.0; inner * outer], vec![0.0; inner * outer], vec![0.0; outer]);
    for o in 0..outputs {
        bias[o] = o as f32 * 0.01 - 0.1;
        for i in 0..inputs {
            forward[(o / PANEL * inner + i) * PANEL + o % PANEL] = w[o * inputs + i];
            backward[(i / PANEL * outer + o) * PANEL + i % PANEL] = w[o * inputs + i];
        }
    }
    let (mut y, mut dx) = (vec![f32::NAN; rows * outer], vec![f32::NAN; rows * inner]);
    let mut dw = vec![f32::NAN; inputs * outputs];
    k.product(&mut y, &x, &forward, rows, Finish::BiasRelu(&bias));
    k.product(&mut dx, &dy, &backward, rows, Finish::WhereOpen(&x));
    k.weight_gradient(&mut dw, &dy, &x, LayerShape { rows, inputs, outputs });
    [y, dx, dw]
}

#[test]
fn products_follow_their_definitions_at_every_level() {
    let shapes =
        [(1, 1, 1), (1, 7, 3), (5, 1, 4), (9, 13, 17), (33, 17, 40), (64, 67, 33), (100, 16, 32), (300, 48, 96)];
    for (rows, inputs, outputs) in shapes {
        let (x, w, dy) = (wave(rows * inputs, 0.7), wave(inputs * outputs, 0.3), wave(rows * outputs, 0.9));
        let y = |r: usize, o: usize| -> f64 {
            let sum: f64 = (0..inputs).map(|i| f64::from(x[r * inputs + i]) * f64::from(w[o * inputs + i])).sum();
            (sum + f64::from(o as f32 * 0.01 - 0.1)).max(0.0)
        };
        let dx = |r: usize, i: usize| -> f64 {
            let open = f64::from(u8::from(x[r * inputs + i] != 0.0));
            open * (0..outputs).map(|o| f64::from(dy[r * outputs + o]) * f64::from(w[o * inputs + i])).sum::<f64>()
        };
        let dw = |o: usize, i: usize| -> f64 {
            (0..rows).map(|r| f64::from(dy[r * outputs + o]) * f64::from(x[r * inputs + i])).sum()
        };
        let mut fused: Option<[Vec<u32>; 3]> = None;
        for (name, k) in Kernels::every_level() {
            let got = products(k, rows, inputs, outputs);
            let close = |got: f32, expected: f64, what: &str| {
                assert!((f64::from(got) - expected).abs() < 2e-4, "{what}, {name}: {got} is not {expected}");
            };
            for r in 0..rows {
                for c in 0..outputs.next_multiple_of(PANEL) {
                    let got = got[0][(c / PANEL * rows + r) * PANEL + c % PANEL];
                    close(got, if c < outputs { y(r, c) } else { 0.0 }, "forward");
                }
                for c in 0..inputs.next_multiple_of(PANEL) {
                    let got = got[1][(c / PANEL * rows + r) * PANEL + c % PANEL];
                    close(got, if c < inputs { dx(r, c) } else { 0.0 }, "input gradient");
                }
            }
            for (at, got) in got[2].iter().enumerate() {
                close(*got, dw(at / inputs, at % inputs), "weight gradient");
            }
            if ["avx2", "avx512"].contains(&name) {
                let bits = got.each_ref().map(|values| bits(values));
                assert_eq!(*fused.get_or_insert_with(|| bits.clone()), bits, "{name}, {rows} x {inputs} x {outputs}");
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
        let mut y = [0.0; PANEL];
        let (x, w) = ([f32::NAN; PANEL], [1.0; PANEL * PANEL]);
        k.product(&mut y, &x, &w, 1, Finish::BiasRelu(&[0.5; PANEL]));
        assert!(y.iter().all(|y| y.is_nan()), "{name}");
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
