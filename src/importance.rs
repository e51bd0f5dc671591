//! Which chunks a pruning round takes: one threshold of importance over all tables.
//!
//! A round never sorts chunks. It counts their bytes in logarithmic bins of importance, four to a power of two. The
//! threshold is a bin's lower edge; among the chunks of the last bin below it, the round takes as many as it needs.

/// Bins of a power of two.
const FINE_BITS: u32 = 2;
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

    /// What to take so that `wanted` bytes go, or everything.
    pub(crate) fn cut(&self, wanted: u64) -> Cut {
        let mut below = 0;
        for (position, &amount) in self.bins.iter().enumerate() {
            if below + amount >= wanted {
                let threshold = if position + 1 < BINS { lower_edge(position + 1) } else { f32::INFINITY };
                return Cut { surely: lower_edge(position), threshold, quota: wanted - below };
            }
            below += amount;
        }
        Cut { surely: f32::INFINITY, threshold: f32::INFINITY, quota: 0 }
    }
}

/// Which chunks go: all below `surely`, and of those from there to `threshold` as many as make `quota` bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cut {
    pub(crate) surely: f32,
    pub(crate) threshold: f32,
    pub(crate) quota: u64,
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_cut_takes_what_is_wanted_from_below(mut values in proptest::collection::vec(1e-6f32..1e6, 1..300), part in 0.0f64..1.0) {
            let mut histogram = Histogram::new();
            values.iter().for_each(|&value| histogram.add(value, 1));
            let wanted = (values.len() as f64 * part) as u64;
            let cut = histogram.cut(wanted);
            let surely = values.iter().filter(|&&value| value < cut.surely).count() as u64;
            let within = values.iter().filter(|&&value| (cut.surely..cut.threshold).contains(&value)).count() as u64;
            prop_assert_eq!(surely + cut.quota, wanted);
            prop_assert!(cut.quota <= within);
            values.sort_unstable_by(f32::total_cmp);
            if wanted > 0 {
                // The bins are four to a power of two.
                prop_assert!(cut.threshold <= values[wanted as usize - 1] * 1.26);
            }
        }

        #[test]
        fn a_cut_of_more_than_there_is_takes_everything(values in proptest::collection::vec(1e-6f32..1e6, 0..30)) {
            let mut histogram = Histogram::new();
            values.iter().for_each(|&value| histogram.add(value, 1));
            let cut = histogram.cut(values.len() as u64 + 1);
            prop_assert_eq!(cut, Cut { surely: f32::INFINITY, threshold: f32::INFINITY, quota: 0 });
        }
    }
}
