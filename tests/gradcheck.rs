//! Gradients against slopes: every parameter and every embedding of several models is moved a little up and
//! down in a double-precision model that shares no code with the crate, and the change of its loss is compared with
//! the gradient that the crate computes by hand in single precision.
#![cfg(all(feature = "train", not(loom)))]

mod twin;

use dimslab::dlrm::{DenseInput, DenseNet, DenseOptimizer, DlrmConfig};
use twin::{Numbers, Sample, Twin, relative_error};

/// A model, its twin with the same parameters, and a batch in both forms.
struct Pair {
    net: DenseNet,
    twin: Twin,
    rows: usize,
    dense: Vec<f32>,
    embeddings: Vec<f32>,
    labels: Vec<f32>,
    samples: Vec<Sample>,
}

struct Shape {
    n_dense: usize,
    n_features: usize,
    dim: usize,
    bottom: &'static [usize],
    top: &'static [usize],
    rows: usize,
}

fn pair(shape: &Shape, seed: u64) -> Pair {
    let &Shape { n_dense, n_features, dim, bottom, top, rows } = shape;
    let config = DlrmConfig {
        n_dense,
        n_features,
        dim,
        bottom: bottom.to_vec(),
        top: top.to_vec(),
        dense_optimizer: DenseOptimizer::Sgd { lr: 0.1 },
        seed,
        threads: 2,
    };
    let net = DenseNet::new(&config).unwrap();
    let vectors = n_features + usize::from(n_dense > 0);
    let crossed = vectors * (vectors - 1) / 2 + if n_dense > 0 { dim } else { 0 };
    let bottom_sizes: Vec<usize> = match n_dense {
        0 => vec![],
        n => [n].into_iter().chain(bottom.iter().copied()).chain([dim]).collect(),
    };
    let top_sizes: Vec<usize> = [crossed].into_iter().chain(top.iter().copied()).chain([1]).collect();
    let flat: Vec<f64> = net.parameters().iter().flat_map(|p| p.values.iter().map(|x| f64::from(*x))).collect();
    let twin = Twin::from_flat(&bottom_sizes, &top_sizes, &flat);

    let mut numbers = Numbers(seed);
    let dense = numbers.vec(rows * n_dense, 1.0);
    let embeddings = numbers.vec(n_features * rows * dim, 0.7);
    let labels: Vec<f32> = (0..rows).map(|r| [0.0, 1.0, 1.0, 0.25][r % 4]).collect();
    let samples = (0..rows)
        .map(|r| Sample {
            dense: dense[r * n_dense..][..n_dense].iter().map(|x| f64::from(*x)).collect(),
            vectors: (0..n_features)
                .map(|t| embeddings[(t * rows + r) * dim..][..dim].iter().map(|x| f64::from(*x)).collect())
                .collect(),
            label: f64::from(labels[r]),
        })
        .collect();
    Pair { net, twin, rows, dense, embeddings, labels, samples }
}

const SHAPES: [Shape; 5] = [
    Shape { n_dense: 3, n_features: 4, dim: 5, bottom: &[7], top: &[6, 4], rows: 9 },
    Shape { n_dense: 2, n_features: 1, dim: 4, bottom: &[], top: &[], rows: 1 },
    Shape { n_dense: 0, n_features: 6, dim: 3, bottom: &[], top: &[8], rows: 5 },
    Shape { n_dense: 4, n_features: 0, dim: 3, bottom: &[5, 5], top: &[3], rows: 7 },
    Shape { n_dense: 1, n_features: 2, dim: 17, bottom: &[4], top: &[5], rows: 150 },
];

/// The slope of `loss` when one number moves.
fn slope(value: f64, mut loss: impl FnMut(f64) -> f64) -> f64 {
    let step = 1e-5;
    (loss(value + step) - loss(value - step)) / (2.0 * step)
}

#[test]
fn every_gradient_is_the_slope_of_the_loss() {
    for (which, shape) in SHAPES.iter().enumerate() {
        let mut pair = pair(shape, 40 + which as u64);
        let input = DenseInput { rows: pair.rows, dense: &pair.dense, embeddings: &pair.embeddings };
        let loss = pair.net.backward(&input, &pair.labels, &mut Vec::new()).unwrap();
        assert!((loss - pair.twin.loss(&pair.samples)).abs() < 1e-6);

        let (bottom, top) = (sizes(&pair.twin.bottom), sizes(&pair.twin.top));
        let mut flat = pair.twin.flat();
        let mut at = 0;
        for parameter in pair.net.parameters() {
            let mut slopes = Vec::new();
            for _ in parameter.values {
                let value = flat[at];
                slopes.push(slope(value, |value| {
                    flat[at] = value;
                    Twin::from_flat(&bottom, &top, &flat).loss(&pair.samples)
                }));
                flat[at] = value;
                at += 1;
            }
            assert_eq!(parameter.rows * parameter.columns, parameter.values.len());
            let error = relative_error(parameter.gradient.iter().map(|x| f64::from(*x)), &slopes);
            assert!(error < 1e-4, "model {which}, {}: relative error {error:e}", parameter.name);
        }
        assert_eq!(at, flat.len());
        embeddings_follow_the_slope(which, shape, &mut pair);
    }
}

fn embeddings_follow_the_slope(which: usize, shape: &Shape, pair: &mut Pair) {
    for t in 0..shape.n_features {
        let mut gradient = vec![f32::NAN; shape.rows * shape.dim];
        pair.net.copy_embedding_gradient(t, &mut gradient).unwrap();
        let mut slopes = Vec::new();
        for r in 0..shape.rows {
            for d in 0..shape.dim {
                let value = pair.samples[r].vectors[t][d];
                // Only this sample's loss moves: the others would drown the slope in rounding.
                let mut alone = [pair.samples[r].clone()];
                slopes.push(
                    slope(value, |value| {
                        alone[0].vectors[t][d] = value;
                        pair.twin.loss(&alone)
                    }) / shape.rows as f64,
                );
            }
        }
        let error = relative_error(gradient.iter().map(|x| f64::from(*x)), &slopes);
        assert!(error < 1e-4, "model {which}, embeddings of feature {t}: relative error {error:e}");
    }
}

/// The sizes a chain of layers goes through.
fn sizes(layers: &[twin::Linear]) -> Vec<usize> {
    let mut sizes: Vec<usize> = layers.first().map(|layer| layer.w[0].len()).into_iter().collect();
    sizes.extend(layers.iter().map(|layer| layer.b.len()));
    sizes
}

/// The twin's own backward, which the parity tests use as a reference, is held to its slopes too.
#[test]
fn the_twins_gradients_are_slopes() {
    let shape = &SHAPES[0];
    let pair = pair(shape, 3);
    let (gradient, vectors) = pair.twin.gradients(&pair.samples);
    let (bottom, top) = (sizes(&pair.twin.bottom), sizes(&pair.twin.top));
    let mut flat = pair.twin.flat();
    for (at, gradient) in gradient.flat().into_iter().enumerate() {
        let value = flat[at];
        let slope = slope(value, |value| {
            flat[at] = value;
            Twin::from_flat(&bottom, &top, &flat).loss(&pair.samples)
        });
        flat[at] = value;
        assert!((gradient - slope).abs() < 1e-8, "parameter {at}: {gradient} {slope}");
    }
    let mut samples = pair.samples.clone();
    let value = samples[2].vectors[1][3];
    let slope = slope(value, |value| {
        samples[2].vectors[1][3] = value;
        pair.twin.loss(&samples)
    });
    assert!((vectors[2][1][3] - slope).abs() < 1e-8);
}
