//! Mixed dimension by popularity (Ginart et al. 2021, arXiv 1909.11810): each table has a dimension of its own, less the
//! more ids it has, and a matrix that lifts its rows to the model's dimension.

use super::flat::{INIT_BOUND, Rows, Sums};
use super::{Held, Method, StudyError, Training};
use crate::data::mix;

/// How fast dimensions fall with a table's number of ids.
const TEMPERATURE: f64 = 0.3;

pub(crate) struct Mixed {
    dim: usize,
    tables: Vec<Table>,
    sums: Sums,
    inner: Vec<f32>,
}

struct Table {
    rows: Rows,
    size: usize,
    /// One row for each of the table's dimensions; none where the table has the model's.
    lift: Option<Rows>,
}

/// Each table's dimension at one strength of the rule.
fn widths(sizes: &[usize], dim: usize, strength: f64) -> Vec<usize> {
    let width = |&size: &usize| strength * (size.max(1) as f64).powf(-TEMPERATURE);
    sizes.iter().map(|size| (width(size) as usize).clamp(1, dim)).collect()
}

fn bytes(sizes: &[usize], widths: &[usize], dim: usize) -> u64 {
    let table = |(&size, &width): (&usize, &usize)| {
        let lift = if width < dim { width as u64 * Rows::row_bytes(dim) } else { 0 };
        size as u64 * Rows::row_bytes(width) + lift
    };
    sizes.iter().zip(widths).map(table).sum()
}

impl Mixed {
    /// # Errors
    /// [`StudyError::TooSmall`] if one dimension for each table is too many.
    pub(crate) fn new(sizes: &[usize], dim: usize, budget: u64, training: Training) -> Result<Mixed, StudyError> {
        let needed = bytes(sizes, &vec![1; sizes.len()], dim);
        if needed > budget {
            return Err(StudyError::TooSmall { method: "mde", budget, needed });
        }
        let most = sizes.iter().copied().max().unwrap_or(1).max(1) as f64;
        let (mut low, mut high) = (0.0, (dim + 1) as f64 * most.powf(TEMPERATURE));
        for _ in 0..60 {
            let middle = 0.5 * (low + high);
            let fits = bytes(sizes, &widths(sizes, dim, middle), dim) <= budget;
            if fits { low = middle } else { high = middle }
        }
        let made = sizes.iter().zip(widths(sizes, dim, low)).enumerate().map(|(f, (&size, width))| {
            let seed = mix(training.seed ^ f as u64);
            if width == dim {
                return Table { rows: Rows::random(size, dim, training, seed, 0.0, INIT_BOUND), size, lift: None };
            }
            // Xavier's bound for the lift, so that rows start at about the size of others.
            let bound = (6.0 / (width + dim) as f32).sqrt();
            let lift = Rows::random(width, dim, training, mix(seed), 0.0, bound);
            Table { rows: Rows::random(size, width, training, seed, 0.0, INIT_BOUND), size, lift: Some(lift) }
        });
        Ok(Mixed { dim, tables: made.collect(), sums: Sums::default(), inner: Vec::new() })
    }
}

impl Method for Mixed {
    fn lookup(&mut self, feature: usize, ids: &[u32], out: &mut [f32]) -> Result<(), StudyError> {
        let table = &self.tables[feature];
        for (&id, out) in ids.iter().zip(out.chunks_exact_mut(self.dim)) {
            out.fill(0.0);
            if id as usize >= table.size {
                continue;
            }
            let row = table.rows.row(id as usize);
            match &table.lift {
                None => out.copy_from_slice(row),
                Some(lift) => {
                    for (k, &value) in row.iter().enumerate() {
                        out.iter_mut().zip(lift.row(k)).for_each(|(out, l)| *out += value * l);
                    }
                }
            }
        }
        Ok(())
    }

    fn train(&mut self, feature: usize, ids: &[u32], gradients: &[f32]) -> Result<(), StudyError> {
        let (dim, table) = (self.dim, &mut self.tables[feature]);
        let known = ids.iter().copied().filter(|&id| (id as usize) < table.size).collect::<Vec<_>>();
        let of_known = ids.iter().zip(gradients.chunks_exact(dim)).filter(|(id, _)| (**id as usize) < table.size);
        let Some(lift) = &mut table.lift else {
            self.inner.clear();
            of_known.for_each(|(_, gradient)| self.inner.extend_from_slice(gradient));
            self.sums.fill(known.into_iter(), &self.inner, dim);
            self.sums.iter().for_each(|(row, _, gradient)| table.rows.step(row, gradient));
            return Ok(());
        };
        let width = lift.bytes() as usize / Rows::row_bytes(dim) as usize;
        self.inner.clear();
        let mut of_lift = vec![0.0f32; width * dim];
        for (&id, gradient) in of_known {
            for (k, &value) in table.rows.row(id as usize).iter().enumerate() {
                self.inner.push(lift.row(k).iter().zip(gradient).map(|(l, g)| l * g).sum());
                of_lift[k * dim..(k + 1) * dim].iter_mut().zip(gradient).for_each(|(sum, g)| *sum += value * g);
            }
        }
        self.sums.fill(known.into_iter(), &self.inner, width);
        self.sums.iter().for_each(|(row, _, gradient)| table.rows.step(row, gradient));
        of_lift.chunks_exact(dim).enumerate().for_each(|(k, gradient)| lift.step(k, gradient));
        Ok(())
    }

    fn held(&self) -> Held {
        let of = |table: &Table| table.rows.bytes() + table.lift.as_ref().map_or(0, Rows::bytes);
        let now = self.tables.iter().map(of).sum();
        Held { now, peak: now }
    }

    fn own_dims(&self, feature: usize, ids: usize) -> Vec<u16> {
        vec![self.tables[feature].rows.dim as u16; ids]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRAINING: Training = Training { lr: 0.1, eps: 1e-8, seed: 3 };

    #[test]
    fn large_tables_are_narrow_and_the_budget_is_used() {
        let sizes = [10, 1000, 20_000];
        let full: u64 = 21_010 * Rows::row_bytes(16);
        for part in [2, 5, 10] {
            let mixed = Mixed::new(&sizes, 16, full / part, TRAINING).unwrap();
            let widths: Vec<u16> = (0..3).map(|f| mixed.own_dims(f, 1)[0]).collect();
            assert!(widths[0] >= widths[1] && widths[1] >= widths[2] && widths[0] > widths[2], "{widths:?}");
            assert!(mixed.held().now <= full / part);
        }
        assert!(matches!(Mixed::new(&sizes, 16, full / 20, TRAINING), Err(StudyError::TooSmall { .. })));
    }

    /// The slopes of `sum(out * gradient)` by row and lift, by differences, are what the first Adagrad steps follow.
    #[test]
    fn rows_and_lift_go_against_their_gradients() {
        let mut mixed = Mixed::new(&[50], 4, 50 * Rows::row_bytes(2) + 200, TRAINING).unwrap();
        let gradient = [1.0, -2.0, 0.5, 3.0];
        let (row, lift) = {
            let lift = mixed.tables[0].lift.as_ref().unwrap();
            (mixed.tables[0].rows.row(7).to_vec(), [lift.row(0).to_vec(), lift.row(1).to_vec()])
        };
        mixed.train(0, &[7], &gradient).unwrap();
        for k in 0..2 {
            let slope: f32 = lift[k].iter().zip(&gradient).map(|(l, g)| l * g).sum();
            let wanted = row[k] - 0.1 * slope.signum();
            assert!((mixed.tables[0].rows.row(7)[k] - wanted).abs() < 1e-5);
            for d in 0..4 {
                let wanted = lift[k][d] - 0.1 * (row[k] * gradient[d]).signum();
                assert!((mixed.tables[0].lift.as_ref().unwrap().row(k)[d] - wanted).abs() < 1e-4);
            }
        }
    }
}
