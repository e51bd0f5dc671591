//! Which chunks a pruning round takes: one threshold of importance over all tables.
//!
//! A round never sorts chunks. It counts their bytes in logarithmic bins of importance, four to a power of two. The
//! threshold is a bin's lower edge; among the chunks of the last bin below it, the round takes as many as it needs.

/// Bins of a power of two.
#[cfg(not(shuttle))]
const FINE_BITS: u32 = 2;
#[cfg(shuttle)]
const FINE_BITS: u32 = 0;
/// All 8 exponent bits of a non-negative f32 and [`FINE_BITS`] of the mantissa.
const BINS: usize = 1 << (8 + FINE_BITS);

/// Bytes of chunks by importance.
pub(crate) struct Histogram {
    bins: Box<[u64; BINS]>,
}

#[inline]
fn bin(importance: f32) -> usize {
    (importance.to_bits() >> (23 - FINE_BITS)) as usize & (BINS - 1)
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
    pub(crate) fn add(&mut self, importance: f32, bytes: u64) {
        self.bins[bin(importance)] += bytes;
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

#[cfg(all(test, not(any(loom, shuttle))))]
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
    }
}
