//! A chain of linear layers, each followed by ReLU; the top's ends in a head of one output without.
//!
//! ```text
//!   forward   y = max(x·wᵀ + b, 0)
//!   backward  dy ← dy where y > 0, else 0      db = Σ_rows dy      dw = dyᵀ·x      dx = dy·w
//! ```
//!
//! Parameters of all layers live in one flat vector, so that gradients, optimizer state and sums over shards are plain
//! vectors of the same layout. A layer is a place in it. Activations and their gradients are in panels of 16 columns
//! (`crate::simd`), whose padding is zero throughout.

use std::ops::Range;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::lines::Lines;
use crate::simd::{Finish, Kernels, LANES, LayerShape, PANEL};

/// One linear layer: its sizes and where its parameters stand. Weights `[outputs, inputs]`, then biases.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) start: usize,
}

impl Layer {
    pub(super) fn weight(&self) -> Range<usize> {
        self.start..self.start + self.outputs * self.inputs
    }

    pub(super) fn bias(&self) -> Range<usize> {
        self.weight().end..self.weight().end + self.outputs
    }

    fn shape(&self, rows: usize) -> LayerShape {
        LayerShape { rows, inputs: self.inputs, outputs: self.outputs }
    }
}

/// Values of one row in panels.
pub(super) fn padded(columns: usize) -> usize {
    columns.next_multiple_of(PANEL)
}

/// A layer's parameters as the products read them, padding filled with zeros. Laid out anew after every update, once
/// for all shards.
#[derive(Default)]
pub(super) struct Weights {
    /// `[outputs / 16][inputs][16]`.
    forward: Lines,
    /// `[inputs / 16][outputs][16]`.
    backward: Lines,
    bias: Lines,
}

impl Weights {
    pub(super) fn lay_out(&mut self, kernels: Kernels, layer: &Layer, parameters: &[f32]) {
        let Layer { inputs, outputs, .. } = *layer;
        let (w, bias) = (&parameters[layer.weight()], &parameters[layer.bias()]);
        // What is beyond a layer's own columns is zero from the start and never written.
        self.forward.grow(padded(outputs) * padded(inputs));
        self.backward.grow(padded(inputs) * padded(outputs));
        self.bias.grow(padded(outputs));
        self.bias[..outputs].copy_from_slice(bias);
        let panels = self.forward.chunks_exact_mut(padded(inputs) * PANEL);
        for (to, w) in panels.zip(w.chunks(PANEL * inputs)) {
            kernels.to_columns(&mut to[..inputs * LANES], w, inputs, w.len() / inputs);
        }
        let panels = self.backward.chunks_exact_mut(padded(outputs) * PANEL);
        for (panel, to) in panels.enumerate() {
            let columns = panel * PANEL..inputs.min((panel + 1) * PANEL);
            for (to, w) in to.chunks_exact_mut(PANEL).zip(w.chunks_exact(inputs)) {
                to[..columns.len()].copy_from_slice(&w[columns.clone()]);
            }
        }
    }

    /// A head's parameters: its weights and its bias.
    fn lay_out_head(&mut self, layer: &Layer, parameters: &[f32]) {
        self.forward.grow(padded(layer.inputs));
        self.forward[..layer.inputs].copy_from_slice(&parameters[layer.weight()]);
        self.bias.grow(layer.outputs);
        self.bias[..layer.outputs].copy_from_slice(&parameters[layer.bias()]);
    }

    pub(super) fn bytes(&self) -> usize {
        self.forward.bytes() + self.backward.bytes() + self.bias.bytes()
    }
}

/// The layers of one MLP. An MLP without layers passes its input through.
#[derive(Clone, Debug)]
pub(super) struct Mlp {
    pub(super) layers: Vec<Layer>,
    /// The last layer has one output and no ReLU.
    headed: bool,
}

/// What a pass over one block of rows writes: the output of every layer but a head, in panels.
#[derive(Default)]
pub(super) struct Activations {
    layers: Vec<Lines>,
}

impl Activations {
    /// Room for `rows` rows of every layer of `mlp`; never shrinks.
    pub(super) fn reserve(&mut self, mlp: &Mlp, rows: usize) {
        self.layers.resize_with(mlp.hidden().len(), Lines::default);
        for (buffer, layer) in self.layers.iter_mut().zip(mlp.hidden()) {
            buffer.grow(rows * padded(layer.outputs));
        }
    }

    /// The output of hidden layer `i`.
    fn of(&self, mlp: &Mlp, i: usize, rows: usize) -> &[f32] {
        &self.layers[i][..rows * padded(mlp.layers[i].outputs)]
    }

    /// The last hidden layer's output; nothing if there is none.
    pub(super) fn output(&self, mlp: &Mlp, rows: usize) -> &[f32] {
        mlp.hidden().len().checked_sub(1).map_or(&[], |last| self.of(mlp, last, rows))
    }

    pub(super) fn bytes(&self) -> usize {
        self.layers.iter().map(Lines::bytes).sum()
    }
}

impl Mlp {
    /// Layers from `inputs` through `widths`, their parameters from `start` on. `headed` is true for the MLP whose last
    /// output, the only one of its layer, is the logit.
    pub(super) fn new(inputs: usize, widths: &[usize], start: usize, headed: bool) -> Self {
        let mut layers = Vec::with_capacity(widths.len());
        let (mut inputs, mut start) = (inputs, start);
        for &outputs in widths {
            let layer = Layer { inputs, outputs, start };
            start = layer.bias().end;
            inputs = outputs;
            layers.push(layer);
        }
        Self { layers, headed }
    }

    /// All layers but a head.
    fn hidden(&self) -> &[Layer] {
        &self.layers[..self.layers.len() - usize::from(self.headed)]
    }

    /// Where the parameters end; `start` if there are none.
    pub(super) fn end(&self, start: usize) -> usize {
        self.layers.last().map_or(start, |layer| layer.bias().end)
    }

    /// The widest input or output, in panels.
    pub(super) fn widest(&self) -> usize {
        self.layers.iter().map(|layer| padded(layer.inputs.max(layer.outputs))).max().unwrap_or(0)
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

    /// Lays out the parameters of layer `i`.
    pub(super) fn lay_out(&self, kernels: Kernels, i: usize, parameters: &[f32], weights: &mut Weights) {
        if self.headed && i + 1 == self.layers.len() {
            weights.lay_out_head(&self.layers[i], parameters);
        } else {
            weights.lay_out(kernels, &self.layers[i], parameters);
        }
    }

    /// Runs `rows` rows of `input`, in panels, through all layers but a head.
    pub(super) fn forward(
        &self,
        kernels: Kernels,
        weights: &[Weights],
        input: &[f32],
        rows: usize,
        to: &mut Activations,
    ) {
        let mut x = input;
        for ((layer, weights), buffer) in self.hidden().iter().zip(weights).zip(&mut to.layers) {
            let y = &mut buffer[..rows * padded(layer.outputs)];
            kernels.product(y, x, &weights.forward, rows, Finish::BiasRelu(&weights.bias));
            x = y;
        }
    }

    /// The head: one logit for each row, after [`forward`](Self::forward).
    pub(super) fn score(&self, kernels: Kernels, weights: &[Weights], pass: Pass<'_>, logits: &mut [f32]) {
        let (Some(weights), true) = (weights.last(), self.headed) else { return };
        kernels.head(logits, self.input_of(pass, self.hidden().len()), &weights.forward);
        logits.iter_mut().for_each(|logit| *logit += weights.bias[0]);
    }

    /// The way back through the head: `flow` becomes the gradient of the last hidden layer's output, or of the input.
    pub(super) fn score_backward(
        &self,
        kernels: Kernels,
        weights: &[Weights],
        pass: Pass<'_>,
        flow: &mut Flow,
        gradients: &mut [f32],
    ) {
        let (Some(layer), Some(weights), true) = (self.layers.last(), weights.last(), self.headed) else { return };
        let (dw, db) = gradients[layer.start..layer.bias().end].split_at_mut(layer.inputs);
        let dy = &flow.logits[..pass.rows];
        db[0] = dy.iter().sum();
        let x = self.input_of(pass, self.hidden().len());
        let dx = &mut flow.gradient[..x.len()];
        kernels.head_backward(dx, dw, dy, x, &weights.forward, !self.hidden().is_empty());
    }

    /// The backward of [`forward`](Self::forward). `flow` holds the gradient of the last output, already zero where
    /// that is cut off, and, unless `stop_at_input`, ends with that of the input. Overwrites the layers' part of
    /// `gradients`, which has the layout of the parameters.
    pub(super) fn backward(
        &self,
        kernels: Kernels,
        weights: &[Weights],
        pass: Pass<'_>,
        flow: &mut Flow,
        gradients: &mut [f32],
    ) {
        let rows = pass.rows;
        for (i, (layer, weights)) in self.hidden().iter().zip(weights).enumerate().rev() {
            let dy = &flow.gradient[..rows * padded(layer.outputs)];
            let (dw, db) = gradients[layer.start..layer.bias().end].split_at_mut(layer.weight().len());
            kernels.column_sums(db, dy, rows);
            let x = self.input_of(pass, i);
            kernels.weight_gradient(dw, dy, x, layer.shape(rows));
            if i > 0 || !pass.stop_at_input {
                let finish = if i > 0 { Finish::WhereOpen(x) } else { Finish::Plain };
                kernels.product(&mut flow.next[..x.len()], dy, &weights.backward, rows, finish);
                std::mem::swap(&mut flow.gradient, &mut flow.next);
            }
        }
    }

    /// What layer `i` read.
    fn input_of<'a>(&self, pass: Pass<'a>, i: usize) -> &'a [f32] {
        i.checked_sub(1).map_or(pass.input, |before| pass.activations.of(self, before, pass.rows))
    }
}

/// A forward pass that is to be gone back over.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    pub(super) rows: usize,
    /// In panels.
    pub(super) input: &'a [f32],
    pub(super) activations: &'a Activations,
    /// True if nobody asks for the gradient of the input.
    pub(super) stop_at_input: bool,
}

/// The gradient on its way back, in panels, and room for the next one.
#[derive(Default)]
pub(super) struct Flow {
    /// Gradient by the logits, one for each row.
    pub(super) logits: Lines,
    pub(super) gradient: Lines,
    next: Lines,
}

impl Flow {
    /// Room for `rows` rows of `width` values; never shrinks.
    pub(super) fn reserve(&mut self, rows: usize, width: usize) {
        self.logits.grow(rows);
        self.gradient.grow(rows * width);
        self.next.grow(rows * width);
    }

    /// Where the gradient to go on with is written while the one that was come by is read.
    pub(super) fn turn(&mut self) -> (&[f32], &mut [f32]) {
        (&self.gradient, &mut self.next)
    }

    /// Goes on with what was written.
    pub(super) fn go_on(&mut self) {
        std::mem::swap(&mut self.gradient, &mut self.next);
    }

    pub(super) fn bytes(&self) -> usize {
        self.logits.bytes() + self.gradient.bytes() + self.next.bytes()
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
        let mlp = Mlp::new(200, &[120], 0, false);
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
        let bottom = Mlp::new(3, &[4, 2], 0, false);
        let top = Mlp::new(5, &[6, 1], bottom.end(0), true);
        let mut at = 0;
        for layer in bottom.layers.iter().chain(&top.layers) {
            assert_eq!(layer.weight().start, at);
            assert_eq!(layer.bias().start, layer.weight().end);
            at = layer.bias().end;
        }
        assert_eq!(at, 3 * 4 + 4 + 4 * 2 + 2 + 5 * 6 + 6 + 6 + 1);
        assert_eq!(Mlp::new(9, &[], 17, false).end(17), 17);
    }
}
