//! The three matrix products of a linear layer, on one thread each, by the `gemm` crate.
//!
//! All matrices are dense and row-major. `x: [rows, inputs]`, `w: [outputs, inputs]` (PyTorch's layout
//! of a linear layer), `y: [rows, outputs]`. The order of summation depends on the shapes and the processor
//! alone, so the same call returns the same bits on any thread.

use gemm::Parallelism;

/// A row-major matrix as the product reads it: `transposed` swaps rows and columns without a copy.
#[derive(Clone, Copy)]
struct Operand<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Operand<'a> {
    fn new(values: &'a [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(values.len(), rows * columns, "a matrix of {rows} x {columns}");
        Self { values, rows, columns, row_stride: columns, column_stride: 1 }
    }

    fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// The sizes of one linear layer applied to a block of rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) rows: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
}

/// `y = x·wᵀ`.
pub(super) fn forward(y: &mut [f32], x: &[f32], w: &[f32], shape: Shape) {
    let Shape { rows, inputs, outputs } = shape;
    product(y, Operand::new(x, rows, inputs), Operand::new(w, outputs, inputs).transposed());
}

/// `dx = dy·w`.
pub(super) fn input_gradient(dx: &mut [f32], dy: &[f32], w: &[f32], shape: Shape) {
    let Shape { rows, inputs, outputs } = shape;
    product(dx, Operand::new(dy, rows, outputs), Operand::new(w, outputs, inputs));
}

/// `dw = dyᵀ·x`, overwriting `dw`.
pub(super) fn weight_gradient(dw: &mut [f32], dy: &[f32], x: &[f32], shape: Shape) {
    let Shape { rows, inputs, outputs } = shape;
    product(dw, Operand::new(dy, rows, outputs).transposed(), Operand::new(x, rows, inputs));
}

/// `out = a·b`, overwriting `out: [a.rows, b.columns]`.
fn product(out: &mut [f32], a: Operand<'_>, b: Operand<'_>) {
    let (m, k, n) = (a.rows, a.columns, b.columns);
    assert_eq!(k, b.rows, "inner sizes of a product");
    assert_eq!(out.len(), m * n, "a product of {m} x {n}");
    let stride = |stride: usize| stride as isize; // A slice holds at most isize::MAX bytes.
    // SAFETY: `Operand::new` and the assertion above hold each slice to exactly rows x columns values, and
    // the strides reach every value of a dense row-major matrix once, so all reads and writes stay
    // inside. `out` is borrowed mutably, so it overlaps neither operand; it is written, not read.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            stride(n),
            false,
            a.values.as_ptr(),
            stride(a.column_stride),
            stride(a.row_stride),
            b.values.as_ptr(),
            stride(b.column_stride),
            stride(b.row_stride),
            0.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, in double precision.
    fn plain(
        m: usize,
        k: usize,
        n: usize,
        a: impl Fn(usize, usize) -> f32,
        b: impl Fn(usize, usize) -> f32,
    ) -> Vec<f64> {
        let cell = |i: usize, j: usize| (0..k).map(|l| f64::from(a(i, l)) * f64::from(b(l, j))).sum();
        (0..m * n).map(|at| cell(at / n, at % n)).collect()
    }

    fn close(got: &[f32], expected: &[f64]) {
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(expected) {
            assert!((f64::from(*got) - expected).abs() < 1e-4, "{got} is not {expected}");
        }
    }

    fn values(len: usize, step: f32) -> Vec<f32> {
        (0..len).map(|i| (i as f32 * step).sin()).collect()
    }

    #[test]
    fn the_three_products_follow_their_definitions() {
        for (rows, inputs, outputs) in [(1, 1, 1), (1, 7, 3), (5, 1, 4), (9, 13, 1), (33, 17, 40), (64, 67, 32)] {
            let shape = Shape { rows, inputs, outputs };
            let (x, w, dy) = (values(rows * inputs, 0.7), values(outputs * inputs, 0.3), values(rows * outputs, 0.9));
            let x_at = |i: usize, j: usize| x[i * inputs + j];
            let w_at = |i: usize, j: usize| w[i * inputs + j];
            let dy_at = |i: usize, j: usize| dy[i * outputs + j];

            let mut y = vec![f32::NAN; rows * outputs];
            forward(&mut y, &x, &w, shape);
            close(&y, &plain(rows, inputs, outputs, x_at, |i, j| w_at(j, i)));

            let mut dx = vec![f32::NAN; rows * inputs];
            input_gradient(&mut dx, &dy, &w, shape);
            close(&dx, &plain(rows, outputs, inputs, dy_at, w_at));

            let mut dw = vec![f32::NAN; outputs * inputs];
            weight_gradient(&mut dw, &dy, &x, shape);
            close(&dw, &plain(outputs, rows, inputs, |i, j| dy_at(j, i), x_at));
        }
    }
}
