//! The threshold above which so many scores lie, in fixed memory: scores are counted in logarithmic bins, eight to a power of
//! two.

const FINE_BITS: u32 = 3;
const BINS: usize = 1 << (8 + FINE_BITS);

/// Counts of non-negative scores.
pub(crate) struct Ranking {
    bins: Vec<u32>,
}

/// What the first so many are: all above a bin, and of that bin so many.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct First {
    bin: usize,
    /// How many of the bin itself.
    pub(crate) of_bin: u64,
}

/// How a score stands to the first so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Above,
    /// Among those of which only so many are wanted.
    Within,
    Below,
}

fn bin(score: f32) -> usize {
    (score.to_bits() >> (23 - FINE_BITS)) as usize & (BINS - 1)
}

impl Ranking {
    pub(crate) const BYTES: u64 = (BINS * size_of::<u32>()) as u64;

    pub(crate) fn new() -> Ranking {
        Ranking { bins: vec![0; BINS] }
    }

    /// Counts scores anew.
    pub(crate) fn count(&mut self, scores: impl Iterator<Item = f32>) {
        self.bins.fill(0);
        scores.for_each(|score| self.bins[bin(score)] += 1);
    }

    /// The first `wanted` scores from above; all that are above zero if they are fewer.
    pub(crate) fn first(&self, wanted: u64) -> First {
        let mut above = 0;
        for (bin, &count) in self.bins.iter().enumerate().skip(1).rev() {
            if above + u64::from(count) > wanted {
                return First { bin, of_bin: wanted - above };
            }
            above += u64::from(count);
        }
        First { bin: 0, of_bin: 0 }
    }

    /// The score that a part of those above zero exceed; 0 if there are none.
    pub(crate) fn quantile(&self, part_above: f64) -> f32 {
        let all: u64 = self.bins[1..].iter().map(|&count| u64::from(count)).sum();
        let First { bin, .. } = self.first((all as f64 * part_above) as u64);
        f32::from_bits((bin as u32) << (23 - FINE_BITS))
    }
}

impl First {
    pub(crate) fn place(self, score: f32) -> Place {
        match bin(score).cmp(&self.bin) {
            std::cmp::Ordering::Greater => Place::Above,
            std::cmp::Ordering::Equal if self.bin > 0 => Place::Within,
            _ => Place::Below,
        }
    }

    /// A score that all above reach and no other.
    pub(crate) fn threshold(self) -> f32 {
        if self.bin == 0 { 0.0 } else { f32::from_bits((self.bin as u32 + 1) << (23 - FINE_BITS)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_first_as_asked_for() {
        let scores: Vec<f32> = (0..1000).map(|i| if i < 100 { 0.0 } else { 1.01f32.powi(i) }).collect();
        let mut ranking = Ranking::new();
        ranking.count(scores.iter().copied());
        for wanted in [0, 1, 17, 450, 899, 900, 5000] {
            let first = ranking.first(wanted);
            let above = scores.iter().filter(|&&score| first.place(score) == Place::Above).count() as u64;
            let within = scores.iter().filter(|&&score| first.place(score) == Place::Within).count() as u64;
            assert!(first.of_bin <= within);
            assert_eq!(above + first.of_bin, wanted.min(900));
        }
        let exact = 1.01f32.powi(1000 - 45);
        assert!((ranking.quantile(0.05) / exact - 1.0).abs() < 0.15, "{}", ranking.quantile(0.05));
        ranking.count(std::iter::repeat_n(0.0, 9));
        assert_eq!(ranking.quantile(0.05), 0.0);
    }
}
