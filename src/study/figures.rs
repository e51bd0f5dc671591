//! What records say: means over seeds, paired differences with intervals, and the excess loss against hashing.

use std::collections::BTreeMap;

use super::record::{Done, Record};

/// 97.5 % quantiles of Student's t, for 1 to 30 degrees of freedom.
const T_QUANTILES: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/// The 97.5 % quantile of Student's t; `None` without a degree of freedom.
fn t_quantile(freedom: usize) -> Option<f64> {
    match freedom {
        0 => None,
        1..=30 => Some(T_QUANTILES[freedom - 1]),
        // Cornish and Fisher's expansion about the normal quantile; right to 0.001 from there on.
        more => Some(1.96 + 2.372 / more as f64 + 2.82 / (more * more) as f64),
    }
}

/// A mean with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Estimate {
    pub(crate) mean: f64,
    /// Half the interval's width; `None` for one value alone.
    pub(crate) half: Option<f64>,
    pub(crate) n: usize,
}

impl Estimate {
    /// Of values that are independent of each other; `None` without any.
    pub(crate) fn of(values: &[f64]) -> Option<Estimate> {
        let n = values.len();
        if n == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        let half = t_quantile(n - 1).map(|t| {
            let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
            t * (variance / n as f64).sqrt()
        });
        Some(Estimate { mean, half, n })
    }

    /// Whether zero lies outside the interval.
    pub(crate) fn excludes_zero(&self) -> bool {
        self.half.is_some_and(|half| self.mean.abs() > half)
    }
}

/// The ratio of two means over paired values, with an interval from the residuals (the delta method); `None` without
/// values or if the denominators' mean is not above zero.
pub(crate) fn ratio_of_means(pairs: &[(f64, f64)]) -> Option<Estimate> {
    let n = pairs.len() as f64;
    let (top, bottom) = pairs.iter().fold((0.0, 0.0), |(top, bottom), pair| (top + pair.0, bottom + pair.1));
    if pairs.is_empty() || bottom <= 0.0 {
        return None;
    }
    let mean = top / bottom;
    let residuals: Vec<f64> = pairs.iter().map(|(one, other)| one - mean * other).collect();
    let half = Estimate::of(&residuals)?.half.map(|half| half / (bottom / n));
    Some(Estimate { mean, half, n: pairs.len() })
}

/// A figure of a trial.
pub(crate) type Figure = fn(&Done) -> Option<f64>;

pub(crate) const HELD_OUT_AUC: Figure = |done| done.heldout.auc;
pub(crate) const HELD_OUT_NE: Figure = |done| done.heldout.ne;
pub(crate) const PROGRESSIVE_AUC: Figure = |done| done.progressive.auc;
pub(crate) const PROGRESSIVE_NE: Figure = |done| done.progressive.ne;

/// Records by method, ratio and seed.
pub(crate) struct Table<'r> {
    /// Ratios as bits, because of the order.
    cells: BTreeMap<(&'r str, u64), BTreeMap<u64, &'r Record>>,
}

impl<'r> Table<'r> {
    pub(crate) fn new(records: &'r [Record]) -> Table<'r> {
        let mut cells: BTreeMap<_, BTreeMap<u64, &Record>> = BTreeMap::new();
        for record in records {
            let key = (record.cell.method.as_str(), record.cell.ratio.to_bits());
            cells.entry(key).or_default().insert(record.cell.seed, record);
        }
        Table { cells }
    }

    /// A method's trials at a ratio, by seed. The full-size method is at ratio 1.
    pub(crate) fn trials(&self, method: &str, ratio: f64) -> impl Iterator<Item = (u64, &'r Done)> {
        // The key's lifetime is the records'.
        let found = self.cells.iter().find(|((name, bits), _)| *name == method && *bits == ratio.to_bits());
        let seeds = found.map(|(_, seeds)| seeds.clone()).unwrap_or_default();
        seeds.into_iter().filter_map(|(seed, record)| Some((seed, record.done()?)))
    }

    /// Mean of a figure over seeds.
    pub(crate) fn mean(&self, method: &str, ratio: f64, figure: Figure) -> Option<Estimate> {
        let values: Vec<f64> = self.trials(method, ratio).filter_map(|(_, done)| figure(done)).collect();
        Estimate::of(&values)
    }

    fn pairs(&self, one: (&str, f64), other: (&str, f64), figure: Figure) -> Vec<(u64, f64, f64)> {
        let others: BTreeMap<u64, &Done> = self.trials(other.0, other.1).collect();
        let pair = |(seed, done): (u64, &Done)| Some((seed, figure(done)?, figure(others.get(&seed)?)?));
        self.trials(one.0, one.1).filter_map(pair).collect()
    }

    /// Mean of `one` less `other`, over the seeds that both have.
    pub(crate) fn difference(&self, one: (&str, f64), other: (&str, f64), figure: Figure) -> Option<Estimate> {
        let differences: Vec<f64> =
            self.pairs(one, other, figure).into_iter().map(|(_, one, other)| one - other).collect();
        Estimate::of(&differences)
    }

    /// Mean of `100 (one / other - 1)`: the regression of the normalised entropy in per cent.
    pub(crate) fn regression(&self, one: (&str, f64), other: (&str, f64), figure: Figure) -> Option<Estimate> {
        let pairs = self.pairs(one, other, figure).into_iter();
        Estimate::of(&pairs.map(|(_, one, other)| 100.0 * (one / other - 1.0)).collect::<Vec<_>>())
    }

    /// The AUC that a method loses against full size, in units of what hashing loses with the same bytes.
    pub(crate) fn excess_loss(&self, method: &str, ratio: f64, figure: Figure) -> Option<Estimate> {
        let full: BTreeMap<u64, &Done> = self.trials("full", 1.0).collect();
        let losses: Vec<(f64, f64)> = self
            .pairs((method, ratio), ("hash", ratio), figure)
            .into_iter()
            .filter_map(|(seed, method, hash)| {
                let full = figure(full.get(&seed)?)?;
                Some((full - method, full - hash))
            })
            .collect();
        ratio_of_means(&losses)
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;

    fn close(found: Option<f64>, wanted: f64) {
        let found = found.expect("a figure");
        assert!((found - wanted).abs() < 1e-3 * wanted.abs().max(1e-3), "{found} {wanted}");
    }

    #[test]
    fn intervals_are_students() {
        // Mean 3, standard deviation sqrt(2.5), t of 4 degrees 2.776: half is 2.776 * sqrt(2.5 / 5).
        let estimate = Estimate::of(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        assert_eq!((estimate.mean, estimate.n), (3.0, 5));
        close(estimate.half, 1.963);
        assert!(estimate.excludes_zero() && !Estimate::of(&[-1.0, 2.0, 0.5]).unwrap().excludes_zero());
        assert_eq!(Estimate::of(&[7.0]).unwrap(), Estimate { mean: 7.0, half: None, n: 1 });
        assert_eq!(Estimate::of(&[]), None);
        for (freedom, quantile) in [(1, 12.706), (9, 2.262), (30, 2.042), (40, 2.021), (120, 1.980)] {
            close(t_quantile(freedom), quantile);
        }
    }

    /// Gosset's sleep data: ten patients, two drugs; the paired interval is in every textbook.
    #[test]
    fn paired_differences_are_by_seed() {
        let first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0];
        let second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4];
        let mut records = Vec::new();
        for seed in 0..10 {
            records.push(record("a", 5.0, seed as u64, first[seed], 1.0));
            // In another order, and one without its partner.
            records.insert(0, record("b", 5.0, seed as u64, second[seed], 1.1));
        }
        records.push(record("a", 5.0, 77, 1000.0, 1.0));
        let table = Table::new(&records);
        let estimate = table.difference(("a", 5.0), ("b", 5.0), HELD_OUT_AUC).unwrap();
        assert_eq!(estimate.n, 10);
        close(Some(estimate.mean), -1.58);
        close(estimate.half.map(|half| estimate.mean - half), -2.4599);
        close(estimate.half.map(|half| estimate.mean + half), -0.7001);
        let regression = table.regression(("b", 5.0), ("a", 5.0), HELD_OUT_NE).unwrap();
        close(Some(regression.mean), 10.0);
        assert_eq!(table.mean("b", 7.0, HELD_OUT_AUC), None);
    }

    #[test]
    fn excess_loss_is_in_units_of_hashing() {
        let mut records = Vec::new();
        for (seed, full) in [(1, 0.80), (2, 0.79), (3, 0.81)] {
            records.push(record("full", 1.0, seed, full, 1.0));
            records.push(record("hash", 10.0, seed, full - 0.010, 1.0));
            records.push(record("x", 10.0, seed, full - 0.002 - 0.001 * (seed as f64 - 2.0), 1.0));
        }
        let table = Table::new(&records);
        let estimate = table.excess_loss("x", 10.0, HELD_OUT_AUC).unwrap();
        close(Some(estimate.mean), 0.2);
        // Residuals -0.001, 0, 0.001: half is 4.303 * 0.001 / sqrt(3) over 0.010.
        close(estimate.half, 0.24843);
        close(table.excess_loss("hash", 10.0, HELD_OUT_AUC).map(|e| e.mean), 1.0);
        assert_eq!(ratio_of_means(&[(1.0, -1.0)]), None);
    }
}
