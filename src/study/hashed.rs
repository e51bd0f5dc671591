//! Flat tables whose rows ids have for themselves or share: full size, fewer dimensions, the hashing trick.

use super::flat::{INIT_BOUND, Rows, Sums, level, shared_row};
use super::{Held, Method, StudyError, Training};
use crate::data::mix;

/// One table for each feature; what its rows lack in dimensions reads as zero.
pub(crate) struct Hashed {
    dim: usize,
    tables: Vec<Rows>,
    /// Training ids and rows of each table.
    shapes: Vec<(usize, usize)>,
    seed: u64,
    sums: Sums,
    short: Vec<f32>,
}

impl Hashed {
    fn with(shapes: Vec<(usize, usize)>, dim: usize, width: usize, training: Training) -> Hashed {
        let table = |(f, &(_, rows)): (usize, &(usize, usize))| {
            Rows::random(rows, width, training, mix(training.seed ^ f as u64), 0.0, INIT_BOUND)
        };
        let tables = shapes.iter().enumerate().map(table).collect();
        Hashed { dim, tables, shapes, seed: training.seed, sums: Sums::default(), short: Vec::new() }
    }

    /// A row for each id.
    pub(crate) fn full(sizes: &[usize], dim: usize, training: Training) -> Hashed {
        Hashed::with(sizes.iter().map(|&size| (size, size)).collect(), dim, dim, training)
    }

    /// A row for each id, all of as few dimensions as the budget asks for.
    ///
    /// # Errors
    /// [`StudyError::TooSmall`] if one dimension is too many.
    pub(crate) fn narrow(sizes: &[usize], dim: usize, budget: u64, training: Training) -> Result<Hashed, StudyError> {
        let rows = sizes.iter().sum::<usize>() as u64;
        let width = (budget / (rows * Rows::row_bytes(1)).max(1)).min(dim as u64) as usize;
        if width == 0 {
            let needed = rows * Rows::row_bytes(1);
            return Err(StudyError::TooSmall { method: "small-dim", budget, needed });
        }
        Ok(Hashed::with(sizes.iter().map(|&size| (size, size)).collect(), dim, width, training))
    }

    /// Full rows, shared by hash in tables that are larger than what the budget leaves for each.
    pub(crate) fn shared(sizes: &[usize], dim: usize, budget: u64, training: Training) -> Hashed {
        let rows = level(sizes, (budget / Rows::row_bytes(dim)) as usize);
        Hashed::with(sizes.iter().copied().zip(rows).collect(), dim, dim, training)
    }

    /// The row of an id, which ids that were hashed together share.
    pub(crate) fn row_of(&self, feature: usize, id: u32) -> Option<usize> {
        let (size, rows) = self.shapes[feature];
        shared_row(mix(self.seed ^ feature as u64), id, size, rows)
    }

    /// Whether every training id of a feature has a row of its own.
    pub(crate) fn is_whole(&self, feature: usize) -> bool {
        let (size, rows) = self.shapes[feature];
        rows >= size
    }

    /// Whether an id is one of those that training rows have.
    pub(crate) fn is_training(&self, feature: usize, id: u32) -> bool {
        (id as usize) < self.shapes[feature].0
    }

    /// The weights of an id, without the dimensions that no row has.
    pub(crate) fn weights(&self, feature: usize, id: u32) -> Option<&[f32]> {
        self.row_of(feature, id).map(|row| self.tables[feature].row(row))
    }

    /// Every weight of every table.
    pub(crate) fn weights_mut(&mut self) -> impl Iterator<Item = &mut f32> {
        self.tables.iter_mut().flat_map(|table| table.weights_mut())
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.tables.iter().map(Rows::bytes).sum()
    }

    /// One step for the rows of `ids`, with the sum of what came to each.
    pub(crate) fn learn(&mut self, feature: usize, ids: &[u32], gradients: &[f32]) {
        let width = self.tables[feature].dim;
        self.short.clear();
        let mut rows = Vec::with_capacity(ids.len());
        for (&id, gradient) in ids.iter().zip(gradients.chunks_exact(self.dim)) {
            if let Some(row) = self.row_of(feature, id) {
                rows.push(row as u32);
                self.short.extend_from_slice(&gradient[..width]);
            }
        }
        self.sums.fill(rows.into_iter(), &self.short, width);
        for (row, _, gradient) in self.sums.iter() {
            self.tables[feature].step(row, gradient);
        }
    }
}

impl Method for Hashed {
    fn lookup(&mut self, feature: usize, ids: &[u32], out: &mut [f32]) -> Result<(), StudyError> {
        for (&id, out) in ids.iter().zip(out.chunks_exact_mut(self.dim)) {
            out.fill(0.0);
            if let Some(weights) = self.weights(feature, id) {
                out[..weights.len()].copy_from_slice(weights);
            }
        }
        Ok(())
    }

    fn train(&mut self, feature: usize, ids: &[u32], gradients: &[f32]) -> Result<(), StudyError> {
        self.learn(feature, ids, gradients);
        Ok(())
    }

    fn held(&self) -> Held {
        Held { now: self.bytes(), peak: self.bytes() }
    }

    fn own_dims(&self, feature: usize, ids: usize) -> Vec<u16> {
        vec![if self.is_whole(feature) { self.tables[feature].dim as u16 } else { 0 }; ids]
    }
}

/// Quotient and remainder (Shi et al. 2020, arXiv 1909.02107): an id's vector is the product of a row that it shares with
/// the ids of its remainder and one that it shares with the ids of its quotient, so that no two ids share both.
pub(crate) struct QuotientRemainder {
    dim: usize,
    features: Vec<Feature>,
    sums: Sums,
    out: Vec<f32>,
}

struct Feature {
    /// Rows that ids are spread over by their remainder, and the rest by quotient.
    remainders: Rows,
    /// `None` where every id has a row of its own.
    quotients: Option<Rows>,
    size: usize,
}

impl Feature {
    /// Where there is not even room for two factors of about the root of the ids, ids are hashed to fewer ones first.
    fn new(size: usize, rows: usize, dim: usize, training: Training, seed: u64) -> Feature {
        if rows >= size {
            let remainders = Rows::random(size, dim, training, seed, 0.0, INIT_BOUND);
            return Feature { remainders, quotients: None, size };
        }
        let reachable = size.min((rows / 2).max(1).pow(2));
        // The most remainders that leave room for the quotients.
        let fits = |m: usize| m + reachable.div_ceil(m) <= rows;
        let m = (1..=rows).rev().find(|&m| fits(m)).unwrap_or((rows / 2).max(1));
        let quotients = reachable.div_ceil(m).min(rows - m.min(rows));
        Feature {
            remainders: Rows::random(m.min(rows), dim, training, seed, 0.0, INIT_BOUND),
            quotients: Some(Rows::random(quotients, dim, training, mix(seed), 1.0, INIT_BOUND)),
            size,
        }
    }

    fn rows_of(&self, id: u32) -> Option<(usize, usize)> {
        let Some(quotients) = &self.quotients else {
            return ((id as usize) < self.size).then_some((id as usize, 0));
        };
        let m = self.remainders.bytes() as usize / Rows::row_bytes(self.remainders.dim) as usize;
        let n = quotients.bytes() as usize / Rows::row_bytes(quotients.dim) as usize;
        (m * n > 0).then(|| (id as usize % m, id as usize / m % n))
    }
}

impl QuotientRemainder {
    pub(crate) fn new(sizes: &[usize], dim: usize, budget: u64, training: Training) -> QuotientRemainder {
        let rows = level(sizes, (budget / Rows::row_bytes(dim)) as usize);
        let feature = |(f, (&size, rows)): (usize, (&usize, usize))| {
            Feature::new(size, rows, dim, training, mix(training.seed ^ f as u64))
        };
        let features = sizes.iter().zip(rows).enumerate().map(feature).collect();
        QuotientRemainder { dim, features, sums: Sums::default(), out: Vec::new() }
    }
}

impl Method for QuotientRemainder {
    fn lookup(&mut self, feature: usize, ids: &[u32], out: &mut [f32]) -> Result<(), StudyError> {
        let feature = &self.features[feature];
        for (&id, out) in ids.iter().zip(out.chunks_exact_mut(self.dim)) {
            match (feature.rows_of(id), &feature.quotients) {
                (None, _) => out.fill(0.0),
                (Some((row, _)), None) => out.copy_from_slice(feature.remainders.row(row)),
                (Some((remainder, quotient)), Some(quotients)) => {
                    out.copy_from_slice(feature.remainders.row(remainder));
                    out.iter_mut().zip(quotients.row(quotient)).for_each(|(out, q)| *out *= q);
                }
            }
        }
        Ok(())
    }

    fn train(&mut self, feature: usize, ids: &[u32], gradients: &[f32]) -> Result<(), StudyError> {
        let (dim, feature) = (self.dim, &mut self.features[feature]);
        let rows: Vec<Option<(usize, usize)>> = ids.iter().map(|&id| feature.rows_of(id)).collect();
        // Both factors' gradients are of the values before the step.
        let mut gradient_of = |factor: &dyn Fn((usize, usize), usize) -> f32| {
            self.out.clear();
            for (rows, gradient) in rows.iter().zip(gradients.chunks_exact(dim)) {
                let Some(rows) = *rows else { continue };
                self.out.extend(gradient.iter().enumerate().map(|(d, g)| g * factor(rows, d)));
            }
            self.out.clone()
        };
        let known = || rows.iter().flatten();
        let quotients = feature.quotients.as_ref();
        let by_remainder = gradient_of(&|(_, q), d| quotients.map_or(1.0, |quotients| quotients.row(q)[d]));
        let by_quotient = quotients.map(|_| gradient_of(&|(r, _), d| feature.remainders.row(r)[d]));
        self.sums.fill(known().map(|rows| rows.0 as u32).collect::<Vec<_>>().into_iter(), &by_remainder, dim);
        for (row, _, gradient) in self.sums.iter() {
            feature.remainders.step(row, gradient);
        }
        if let (Some(quotients), Some(by_quotient)) = (&mut feature.quotients, by_quotient) {
            self.sums.fill(known().map(|rows| rows.1 as u32).collect::<Vec<_>>().into_iter(), &by_quotient, dim);
            for (row, _, gradient) in self.sums.iter() {
                quotients.step(row, gradient);
            }
        }
        Ok(())
    }

    fn held(&self) -> Held {
        let quotients = self.features.iter().filter_map(|feature| feature.quotients.as_ref());
        let remainders = self.features.iter().map(|feature| &feature.remainders);
        let now = remainders.chain(quotients).map(Rows::bytes).sum();
        Held { now, peak: now }
    }

    fn own_dims(&self, feature: usize, ids: usize) -> Vec<u16> {
        let whole = self.features[feature].quotients.is_none();
        vec![if whole { self.dim as u16 } else { 0 }; ids]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRAINING: Training = Training { lr: 0.1, eps: 1e-8, seed: 3 };

    fn read(method: &mut dyn Method, feature: usize, ids: &[u32]) -> Vec<f32> {
        let mut out = vec![f32::NAN; ids.len() * 4];
        method.lookup(feature, ids, &mut out).unwrap();
        out
    }

    #[test]
    fn bytes_are_those_of_the_rows() {
        let sizes = [10, 1000];
        let full = 1010 * Rows::row_bytes(4);
        assert_eq!(Hashed::full(&sizes, 4, TRAINING).held().now, full);
        assert_eq!(Hashed::narrow(&sizes, 4, full / 2, TRAINING).unwrap().held().now, full / 2);
        let shared = Hashed::shared(&sizes, 4, full / 5, TRAINING);
        assert_eq!((shared.held().now, shared.is_whole(0), shared.is_whole(1)), (full / 5, true, false));
        assert!(matches!(Hashed::narrow(&sizes, 4, full / 5, TRAINING), Err(StudyError::TooSmall { .. })));
        for part in [2, 5, 20, 100] {
            let held = QuotientRemainder::new(&sizes, 4, full / part, TRAINING).held().now;
            assert!(held <= full / part && held * 10 > full / part * 8, "{part}: {held} of {}", full / part);
        }
    }

    #[test]
    fn hashing_shares_rows_and_full_size_does_not() {
        let mut full = Hashed::full(&[8], 4, TRAINING);
        let mut shared = Hashed::shared(&[8], 4, Rows::row_bytes(4) * 2, TRAINING);
        let fellow = (1..8).find(|&id| shared.row_of(0, id) == shared.row_of(0, 0)).expect("8 ids in 2 rows");
        for (method, is_shared) in [(&mut full, false), (&mut shared, true)] {
            let before = read(method, 0, &[fellow]);
            method.train(0, &[0], &[1.0; 4]).unwrap();
            assert_eq!(read(method, 0, &[fellow]) != before, is_shared);
        }
        // An id that was never trained on reads as zero where there are no rows to share.
        assert_eq!(read(&mut full, 0, &[8]), [0.0; 4]);
    }

    #[test]
    fn fewer_dimensions_read_as_zero_beyond_and_learn_alike() {
        let mut full = Hashed::full(&[5], 4, TRAINING);
        let mut narrow = Hashed::narrow(&[5], 4, 5 * Rows::row_bytes(2), TRAINING).unwrap();
        for method in [&mut full, &mut narrow] {
            let before = read(method, 0, &[3]);
            method.train(0, &[3, 1, 3], &[1.0; 12]).unwrap();
            let after = read(method, 0, &[3]);
            // One step for both occurrences, and Adagrad's first is as long as the rate.
            assert!((before[0] - after[0] - 0.1).abs() < 1e-6, "{before:?} {after:?}");
            assert_eq!(after[3] == 0.0, method.tables[0].dim == 2);
        }
    }

    #[test]
    fn factors_step_by_the_product_rule() {
        let mut method = QuotientRemainder::new(&[100], 4, 25 * Rows::row_bytes(4), TRAINING);
        let feature = &method.features[0];
        let pairs: std::collections::BTreeSet<_> = (0..100).map(|id| feature.rows_of(id).unwrap()).collect();
        assert_eq!(pairs.len(), 100, "no two ids share both rows");
        let (r, q) = feature.rows_of(42).unwrap();
        let quotients = feature.quotients.as_ref().unwrap();
        let (remainder, quotient) = (feature.remainders.row(r).to_vec(), quotients.row(q).to_vec());
        let read_before = read(&mut method, 0, &[42]);
        for d in 0..4 {
            assert!((read_before[d] - remainder[d] * quotient[d]).abs() < 1e-7);
        }
        method.train(0, &[42], &[0.5, -0.5, 0.5, -0.5]).unwrap();
        let feature = &method.features[0];
        for d in 0..4 {
            let sign = if d % 2 == 0 { 1.0 } else { -1.0 };
            // First steps of Adagrad: the rate, against the sign of gradient times the other factor.
            let wanted = remainder[d] - 0.1 * sign * quotient[d].signum();
            assert!((feature.remainders.row(r)[d] - wanted).abs() < 1e-4);
            let wanted = quotient[d] - 0.1 * sign * remainder[d].signum();
            assert!((feature.quotients.as_ref().unwrap().row(q)[d] - wanted).abs() < 1e-3);
        }
    }
}
