//! A chain of linear layers, each followed by ReLU except, if asked, the last.
//!
//! ```text
//!   forward   y = max(x·wᵀ + b, 0)
//!   backward  dy ← dy where y > 0, else 0      db = Σ_rows dy      dw = dyᵀ·x      dx = dy·w
//! ```
//!
//! Parameters of all layers live in one flat vector, so that gradients, optimizer state and sums over shards are plain
//! vectors of the same layout. A layer is a place in it.

use std::ops::Range;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::matmul::{self, Shape};
use crate::simd::Kernels;

/// One linear layer: its sizes and where its parameters stand. Weights `[outputs, inputs]`, then biases.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) start: usize,
    relu: bool,
}

impl Layer {
    pub(super) fn weight(&self) -> Range<usize> {
        self.start..self.start + self.outputs * self.inputs
    }

    pub(super) fn bias(&self) -> Range<usize> {
        self.weight().end..self.weight().end + self.outputs
    }

    fn shape(&self, rows: usize) -> Shape {
        Shape { rows, inputs: self.inputs, outputs: self.outputs }
    }
}

/// The layers of one MLP. An MLP without layers passes its input through.
#[derive(Clone, Debug)]
pub(super) struct Mlp {
    pub(super) layers: Vec<Layer>,
}

/// What a pass over one block of rows writes: the output of every layer, `[rows, outputs]` each.
#[derive(Default)]
pub(super) struct Activations {
    layers: Vec<Vec<f32>>,
}

impl Activations {
    /// Room for `rows` rows of every layer of `mlp`; never shrinks.
    pub(super) fn reserve(&mut self, mlp: &Mlp, rows: usize) {
        self.layers.resize_with(mlp.layers.len(), Vec::new);
        for (buffer, layer) in self.layers.iter_mut().zip(&mlp.layers) {
            grow(buffer, rows * layer.outputs);
        }
    }

    /// The last layer's output.
    pub(super) fn output(&self, mlp: &Mlp, rows: usize) -> &[f32] {
        match (self.layers.last(), mlp.layers.last()) {
            (Some(buffer), Some(layer)) => &buffer[..rows * layer.outputs],
            _ => &[],
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.layers.iter().map(|buffer| buffer.capacity() * size_of::<f32>()).sum()
    }
}

/// Makes `buffer` at least `len` long; what it holds means nothing.
pub(super) fn grow(buffer: &mut Vec<f32>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
}

impl Mlp {
    /// Layers from `inputs` through `widths`, their parameters from `start` on. `relu_last` is false for
    /// the MLP whose last output is the logit.
    pub(super) fn new(inputs: usize, widths: &[usize], start: usize, relu_last: bool) -> Self {
        let mut layers = Vec::with_capacity(widths.len());
        let (mut inputs, mut start) = (inputs, start);
        for (i, &outputs) in widths.iter().enumerate() {
            let layer = Layer { inputs, outputs, start, relu: relu_last || i + 1 < widths.len() };
            start = layer.bias().end;
            inputs = outputs;
            layers.push(layer);
        }
        Self { layers }
    }

    /// Where the parameters end; `start` if there are none.
    pub(super) fn end(&self, start: usize) -> usize {
        self.layers.last().map_or(start, |layer| layer.bias().end)
    }

    /// The widest input or output.
    pub(super) fn widest(&self) -> usize {
        self.layers.iter().map(|layer| layer.inputs.max(layer.outputs)).max().unwrap_or(0)
    }

    /// Draws weights from N(0, 2/(inputs + outputs)) and biases from N(0, 1/outputs), given as variances:
    /// the start of the DLRM reference implementation.
    pub(super) fn initialize(&self, parameters: &mut [f32], seed: u64) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for layer in &self.layers {
            let deviation = (2.0 / (layer.inputs + layer.outputs) as f64).sqrt();
            parameters[layer.weight()].fill_with(|| (deviation * normal(&mut rng)) as f32);
            let deviation = (1.0 / layer.outputs as f64).sqrt();
            parameters[layer.bias()].fill_with(|| (deviation * normal(&mut rng)) as f32);
        }
    }

    /// Runs `rows` rows of `input` through the layers.
    pub(super) fn forward(
        &self,
        kernels: Kernels,
        parameters: &[f32],
        input: &[f32],
        rows: usize,
        to: &mut Activations,
    ) {
        let mut x = input;
        for (layer, buffer) in self.layers.iter().zip(&mut to.layers) {
            let y = &mut buffer[..rows * layer.outputs];
            matmul::forward(y, x, &parameters[layer.weight()], layer.shape(rows));
            let bias = &parameters[layer.bias()];
            if layer.relu {
                kernels.bias_relu(y, bias);
            } else {
                for row in y.chunks_exact_mut(layer.outputs) {
                    kernels.add(row, bias);
                }
            }
            x = y;
        }
    }

    /// The backward of [`forward`](Self::forward), whose `input` and activations are given. `flow` holds the
    /// gradient of the output and, unless `stop_at_input`, ends with that of the input. Overwrites this
    /// MLP's part of `gradients`, which has the layout of the parameters.
    pub(super) fn backward(
        &self,
        kernels: Kernels,
        parameters: &[f32],
        pass: Pass<'_>,
        flow: &mut Flow,
        gradients: &mut [f32],
    ) {
        let rows = pass.rows;
        for (i, layer) in self.layers.iter().enumerate().rev() {
            let dy = &mut flow.gradient[..rows * layer.outputs];
            let y = &pass.activations.layers[i][..dy.len()];
            let (dw, db) = gradients[layer.start..layer.bias().end].split_at_mut(layer.weight().len());
            if layer.relu {
                kernels.relu_bias_backward(dy, y, db);
            } else {
                db.fill(0.0);
                for row in dy.chunks_exact(layer.outputs) {
                    kernels.add(db, row);
                }
            }
            let x = match i.checked_sub(1) {
                Some(before) => &pass.activations.layers[before][..rows * layer.inputs],
                None => pass.input,
            };
            matmul::weight_gradient(dw, dy, x, layer.shape(rows));
            if i > 0 || !pass.stop_at_input {
                let dx = &mut flow.next[..rows * layer.inputs];
                matmul::input_gradient(dx, dy, &parameters[layer.weight()], layer.shape(rows));
                std::mem::swap(&mut flow.gradient, &mut flow.next);
            }
        }
    }
}

/// A forward pass that is to be gone back over.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    pub(super) rows: usize,
    pub(super) input: &'a [f32],
    pub(super) activations: &'a Activations,
    /// True if nobody asks for the gradient of the input.
    pub(super) stop_at_input: bool,
}

/// The gradient on its way back, and room for the next one.
#[derive(Default)]
pub(super) struct Flow {
    pub(super) gradient: Vec<f32>,
    next: Vec<f32>,
}

impl Flow {
    /// Room for `len` values; never shrinks.
    pub(super) fn reserve(&mut self, len: usize) {
        grow(&mut self.gradient, len);
        grow(&mut self.next, len);
    }

    pub(super) fn bytes(&self) -> usize {
        (self.gradient.capacity() + self.next.capacity()) * size_of::<f32>()
    }
}

/// One draw from the normal distribution (Box and Muller 1958, the cosine half).
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initial_weights_have_the_stated_spread() {
        let mlp = Mlp::new(200, &[120], 0, true);
        let mut parameters = vec![0.0; mlp.end(0)];
        mlp.initialize(&mut parameters, 7);
        let variance = |range: Range<usize>| {
            let values = &parameters[range];
            let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / values.len() as f64;
            values.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / values.len() as f64
        };
        let layer = &mlp.layers[0];
        assert!((variance(layer.weight()) / (2.0 / 320.0) - 1.0).abs() < 0.05);
        assert!((variance(layer.bias()) / (1.0 / 120.0) - 1.0).abs() < 0.5);
        let mut again = vec![0.0; parameters.len()];
        mlp.initialize(&mut again, 7);
        assert_eq!(parameters, again);
        mlp.initialize(&mut again, 8);
        assert_ne!(parameters, again);
    }

    #[test]
    fn layers_follow_each_other_without_gap_or_overlap() {
        let bottom = Mlp::new(3, &[4, 2], 0, true);
        let top = Mlp::new(5, &[6, 1], bottom.end(0), false);
        let mut at = 0;
        for layer in bottom.layers.iter().chain(&top.layers) {
            assert_eq!(layer.weight().start, at);
            assert_eq!(layer.bias().start, layer.weight().end);
            at = layer.bias().end;
        }
        assert_eq!(at, 3 * 4 + 4 + 4 * 2 + 2 + 5 * 6 + 6 + 6 + 1);
        assert_eq!(Mlp::new(9, &[], 17, true).end(17), 17);
    }
}
