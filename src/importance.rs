//! Which chunks a pruning round takes: utilities, a table's scale, one threshold over all tables.
//!
//! A round never sorts chunks. It counts utilities in logarithmic bins, four to a power of two, reads the table's 95th
//! percentile from the counts, and adds the counts to the global ones, shifted by the percentile's bin. The threshold is
//! a bin's lower edge, so it is exact to 19 %; among chunks in one bin, the round takes as many as it needs.

/// Bins of a power of two.
const FINE_BITS: u32 = 2;
/// All 8 exponent bits of a non-negative f32 and [`FINE_BITS`] of the mantissa.
const BINS: usize = 1 << (8 + FINE_BITS);

/// Counts or bytes of chunks by utility.
pub(crate) struct Histogram {
    bins: Box<[u64; BINS]>,
}

#[inline]
fn bin(utility: f32) -> usize {
    (utility.to_bits() >> (23 - FINE_BITS)) as usize & (BINS - 1)
}

fn lower_edge(bin: usize) -> f32 {
    f32::from_bits((bin as u32) << (23 - FINE_BITS))
}

impl Histogram {
    /// Bytes of one histogram.
    pub(crate) const BYTES: u64 = (BINS * size_of::<u64>()) as u64;

    pub(crate) fn new() -> Histogram {
        Histogram { bins: Box::new([0; BINS]) }
    }

    pub(crate) fn clear(&mut self) {
        self.bins.fill(0);
    }

    #[inline]
    pub(crate) fn add(&mut self, utility: f32, amount: u64) {
        self.bins[bin(utility)] += amount;
    }

    pub(crate) fn total(&self) -> u64 {
        self.bins.iter().sum()
    }

    /// The utility that the given part of the total lies below; 0 if there is nothing above zero.
    ///
    /// Zero utilities do not count: a table's scale is that of the chunks that were used (AdaEmbed divides by the 95th
    /// percentile, OSDI'23 section 5.2; over all chunks it would be zero wherever most are idle).
    pub(crate) fn percentile(&self, part: f64) -> f32 {
        let used: u64 = self.bins[1..].iter().sum();
        let mut rest = (used as f64 * part) as u64;
        for (bin, &amount) in self.bins.iter().enumerate().skip(1) {
            if amount > rest {
                return lower_edge(bin) * 1.09;
            }
            rest -= amount;
        }
        0.0
    }

    /// Adds another histogram, every utility divided by `scale`.
    pub(crate) fn add_scaled(&mut self, other: &Histogram, scale: f32) {
        for (position, &amount) in other.bins.iter().enumerate().filter(|&(_, &amount)| amount > 0) {
            let importance = if position == 0 { 0.0 } else { lower_edge(position) * 1.09 / scale };
            self.bins[bin(importance)] += amount;
        }
    }

    /// The importance below which at least `wanted` lies, or everything.
    pub(crate) fn threshold(&self, wanted: u64) -> f32 {
        let mut below = 0;
        for (position, &amount) in self.bins.iter().enumerate() {
            if below >= wanted {
                return lower_edge(position);
            }
            below += amount;
        }
        f32::INFINITY
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn threshold_leaves_enough_and_not_much_more(mut values in proptest::collection::vec(1e-6f32..1e6, 1..300), part in 0.0f64..1.0) {
            let mut histogram = Histogram::new();
            values.iter().for_each(|&value| histogram.add(value, 1));
            let wanted = (values.len() as f64 * part) as u64;
            let threshold = histogram.threshold(wanted);
            let below = values.iter().filter(|&&value| value < threshold).count() as u64;
            prop_assert!(below >= wanted);
            values.sort_unstable_by(f32::total_cmp);
            if wanted > 0 {
                prop_assert!(threshold <= values[wanted as usize - 1] * 1.26);
            }
        }

        #[test]
        fn percentile_is_close(mut values in proptest::collection::vec(1e-6f32..1e6, 20..300)) {
            let mut histogram = Histogram::new();
            values.iter().for_each(|&value| histogram.add(value, 1));
            (0..500).for_each(|_| histogram.add(0.0, 1));
            values.sort_unstable_by(f32::total_cmp);
            let exact = values[(values.len() as f64 * 0.95) as usize];
            let found = histogram.percentile(0.95);
            prop_assert!(found > exact * 0.8 && found < exact * 1.25, "{found} for {exact}");
        }
    }

    #[test]
    fn scaling_shifts_and_zero_stays() {
        let (mut one, mut all) = (Histogram::new(), Histogram::new());
        one.add(8.0, 3);
        one.add(0.0, 2);
        all.add_scaled(&one, 16.0);
        assert_eq!(all.total(), 5);
        assert!(all.threshold(2) > 0.0 && all.threshold(2) < 0.6);
        assert!(all.threshold(5) > 0.5 && all.threshold(5) < 0.8);
        assert_eq!(all.threshold(6), f32::INFINITY);
    }
}
