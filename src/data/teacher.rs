//! The known truth behind the generated stream: each row's click probability.
//!
//! ```text
//! logit = bias + a_d D(dense) + a_m sum_f w_f m(f, id_f) + a_p sum_{f<g} <v(f, id_f), v(g, id_g)>
//! ```
//!
//! `D` is linear with two products, `m` an effect of the single id, and `v` its latent vector of [`LATENT`] coordinates,
//! of which an id uses the first few: many if it is frequent, none if it is rare. Every number comes from a hash of
//! (seed, feature, id), so that nothing is stored per id. A logistic regression over one-hot ids can express all but
//! the last sum, a factorization machine or a DLRM that one too.

use super::criteo::{CATEGORIES, INTEGERS};

/// Coordinates of the latent vectors.
const LATENT: usize = 8;

/// What each part of the logit contributes, as its standard deviation over rows.
const DENSE_STD: f64 = 0.57;
const MAIN_STD: f64 = 0.82;
const PAIR_STD: f64 = 0.95;

/// Where single ids say most.
const SINGLE_MAIN_STD: f64 = 1.0;
const SINGLE_PAIR_STD: f64 = 0.4;

/// Where the truth lies in rare ids: what their single effects and pairs contribute, and how much less the features of few
/// ids say.
const TAIL_MAIN_STD: f64 = 1.2;
const TAIL_PAIR_STD: f64 = 0.4;
const TAIL_SMALL_FEATURE: f64 = 0.3;

/// Below this rank half of the ids need every latent coordinate where needs are planted.
const PLANTED_RANKS: u32 = 2000;

/// What the labels of the generated stream depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Truth {
    /// Frequent ids above all: single effects fall slowly with an id's rank, latent coordinates fast.
    #[default]
    Head,
    /// As [`Head`](Truth::Head), but six times as much of the variance is in single effects as in pairs, as in logs of clicks:
    /// what a model finds then depends little on its initial weights.
    Single,
    /// Rare ids as much as frequent ones, in the features that have many ids.
    Tail,
    /// As [`Head`](Truth::Head), but of the ids of some frequency every second one, by chance, needs all latent coordinates
    /// and the others none: frequency does not tell which.
    Planted,
}

/// The features whose pairs matter, small and large ones; the pairs of the others count for a
/// tenth or less. With all of them in full, 300,000 rows would be too few to learn from.
const PAIRED: [usize; 8] = [0, 2, 5, 8, 13, 16, 20, 24];

/// How much less each latent coordinate matters than the one before it.
const COORDINATE_DECAY: f64 = 0.8;

/// A categorical value as the teacher sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id {
    /// What identifies it within its feature.
    pub(super) value: u64,
    /// How many ids of its feature are more popular.
    pub(super) rank: u32,
}

/// The three parts of a logit, before they are scaled.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Parts {
    dense: f64,
    main: f64,
    pair: f64,
}
#[derive(Clone, Debug)]
pub(super) struct Teacher {
    seed: u64,
    truth: Truth,
    dense_weights: [f64; INTEGERS],
    main_weights: [f64; CATEGORIES],
    pair_weights: [f64; CATEGORIES],
    scale: Parts,
    bias: f64,
}

impl Teacher {
    /// A teacher whose parts are not calibrated yet. `large`: the features that have many ids.
    pub(super) fn new(seed: u64, truth: Truth, large: &[bool; CATEGORIES]) -> Teacher {
        let weight = |kind: u64, i: usize| {
            let [a, b, ..] = normals(mix(seed ^ mix(kind << 32 | i as u64)));
            (a, b)
        };
        Teacher {
            seed,
            truth,
            dense_weights: std::array::from_fn(|i| weight(1, i).0),
            // Between a half and one and a half, so that features differ and none is mute.
            main_weights: std::array::from_fn(|i| {
                let muted = if truth == Truth::Tail && !large[i] { TAIL_SMALL_FEATURE } else { 1.0 };
                muted * (1.0 + 0.25 * weight(2, i).1.clamp(-2.0, 2.0))
            }),
            pair_weights: std::array::from_fn(|i| if PAIRED.contains(&i) { 1.0 } else { 0.1 }),
            scale: Parts { dense: 1.0, main: 1.0, pair: 1.0 },
            bias: 0.0,
        }
    }

    /// The parts for standardised dense values and one id per feature.
    pub(super) fn parts(&self, dense: &[f64; INTEGERS], ids: &[Id; CATEGORIES]) -> Parts {
        let linear: f64 = dense.iter().zip(&self.dense_weights).map(|(x, w)| x * w).sum();
        let dense = linear + dense[0] * dense[4] - dense[2] * dense[7];

        let mut main = 0.0;
        let (mut sum, mut squares) = ([0.0f64; LATENT], [0.0f64; LATENT]);
        for (f, id) in ids.iter().enumerate() {
            let hash = self.hash(f, id.value);
            let log_rank = f64::from(32 - (id.rank + 1).leading_zeros());
            let fall = if self.truth == Truth::Tail { 0.0 } else { 0.25 };
            main += self.main_weights[f] * normals(hash)[0] / (1.0 + fall * log_rank);
            let need = match self.truth {
                Truth::Planted => planted_need(id.rank, hash),
                Truth::Head | Truth::Single | Truth::Tail => latent_need(log_rank, hash),
            };
            if need == 0 {
                continue;
            }
            let (first, second) = (normals(mix(hash ^ 1)), normals(mix(hash ^ 2)));
            let mut weight = self.pair_weights[f];
            for (k, normal) in first.iter().chain(&second).enumerate().take(need) {
                let v = weight * normal;
                sum[k] += v;
                squares[k] += v * v;
                weight *= COORDINATE_DECAY;
            }
        }
        let pair = sum.iter().zip(&squares).map(|(s, q)| 0.5 * (s * s - q)).sum();
        Parts { dense, main, pair }
    }

    /// Whether an id is one of those that need all latent coordinates if they are frequent enough, where needs are
    /// planted; `None` for features whose pairs hardly count.
    pub(super) fn planted(&self, feature: usize, value: u64) -> Option<bool> {
        PAIRED.contains(&feature).then(|| planted_need(0, self.hash(feature, value)) > 0)
    }

    fn hash(&self, feature: usize, value: u64) -> u64 {
        mix(self.seed ^ mix(((feature as u64) << 40) ^ value))
    }

    /// The click probability.
    pub(super) fn probability(&self, parts: Parts) -> f64 {
        sigmoid(self.bias + self.scaled(parts))
    }

    fn scaled(&self, parts: Parts) -> f64 {
        self.scale.dense * parts.dense + self.scale.main * parts.main + self.scale.pair * parts.pair
    }

    /// Scales the parts to their standard deviations, and sets the bias so that the mean probability over `sample` is
    /// `ctr`.
    pub(super) fn calibrate(&mut self, sample: &[Parts], ctr: f64) {
        let scale = |target: f64, part: fn(&Parts) -> f64| {
            let n = sample.len().max(1) as f64;
            let mean = sample.iter().map(part).sum::<f64>() / n;
            let variance = sample.iter().map(|p| (part(p) - mean).powi(2)).sum::<f64>() / n;
            if variance > 0.0 { target / variance.sqrt() } else { 0.0 }
        };
        let (main, pair) = match self.truth {
            Truth::Tail => (TAIL_MAIN_STD, TAIL_PAIR_STD),
            Truth::Single => (SINGLE_MAIN_STD, SINGLE_PAIR_STD),
            Truth::Head | Truth::Planted => (MAIN_STD, PAIR_STD),
        };
        self.scale = Parts {
            dense: scale(DENSE_STD, |p| p.dense),
            main: scale(main, |p| p.main),
            pair: scale(pair, |p| p.pair),
        };
        let logits: Vec<f64> = sample.iter().map(|&parts| self.scaled(parts)).collect();
        // Bisection: the mean probability rises with the bias.
        let (mut low, mut high) = (-100.0, 100.0);
        for _ in 0..60 {
            let middle = 0.5 * (low + high);
            let mean = logits.iter().map(|&z| sigmoid(middle + z)).sum::<f64>() / logits.len().max(1) as f64;
            if mean < ctr { low = middle } else { high = middle }
        }
        self.bias = 0.5 * (low + high);
    }
}

/// How many latent coordinates an id uses, by the number of binary digits of its rank: all for the
/// most popular few, 0.8 less for each doubling of the rank, one more or less by chance, and none
/// from about the two-thousandth rank on.
fn latent_need(log_rank: f64, hash: u64) -> usize {
    let jitter = (hash % 3) as f64 - 1.0;
    (LATENT as f64 + 1.0 - 0.8 * log_rank + jitter).clamp(0.0, LATENT as f64) as usize
}

/// How many latent coordinates an id uses where needs are planted: by chance all or none.
fn planted_need(rank: u32, hash: u64) -> usize {
    if rank < PLANTED_RANKS && hash >> 63 == 1 { LATENT } else { 0 }
}

fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

/// A 64-bit finaliser (the one of SplitMix64: Steele, Lea and Flood, OOPSLA 2014).
pub(crate) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Four draws of about a standard normal from 64 random bits: 16 bits each, as the sum of two bytes (triangular), scaled
/// to variance 1.
pub(super) fn normals(bits: u64) -> [f64; 4] {
    // A byte has variance (256^2 - 1) / 12, two of them twice that.
    const STD: f64 = 104.511_562_050_169_2;
    std::array::from_fn(|i| {
        let word = bits >> (16 * i);
        let sum = (word & 0xff) + (word >> 8 & 0xff);
        (sum as f64 - 255.0) / STD
    })
}

/// The area under the ROC curve of `(score, clicked)` pairs: the chance that a click scores above a non-click, ties
/// counted half (the Mann-Whitney statistic). 0.5 where one kind is missing.
pub(super) fn auc(mut scored: Vec<(f64, bool)>) -> f64 {
    scored.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let (mut below, mut area) = (0.0, 0.0);
    for tied in scored.chunk_by(|a, b| a.0 == b.0) {
        let clicks = tied.iter().filter(|(_, clicked)| *clicked).count() as f64;
        let others = tied.len() as f64 - clicks;
        area += clicks * (below + 0.5 * others);
        below += others;
    }
    let clicks = scored.len() as f64 - below;
    if clicks > 0.0 && below > 0.0 { area / (clicks * below) } else { 0.5 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auc_of_small_cases() {
        assert_eq!(auc(vec![(0.1, false), (0.2, true)]), 1.0);
        assert_eq!(auc(vec![(0.1, true), (0.2, false)]), 0.0);
        assert_eq!(auc(vec![(0.1, true), (0.1, false)]), 0.5);
        assert_eq!(auc(vec![(0.1, true)]), 0.5);
        // Pairs (click, other): 0.8 beats both; 0.3 ties 0.3 and beats 0.2.
        assert_eq!(auc(vec![(0.8, true), (0.3, true), (0.3, false), (0.2, false)]), 3.5 / 4.0);
    }

    #[test]
    fn normals_have_mean_zero_and_variance_one() {
        let (mut sum, mut squares, n) = (0.0, 0.0, 40_000);
        for i in 0..n {
            for z in normals(mix(i)) {
                sum += z;
                squares += z * z;
            }
        }
        let n = 4.0 * n as f64;
        assert!((sum / n).abs() < 0.01, "{}", sum / n);
        assert!((squares / n - 1.0).abs() < 0.02, "{}", squares / n);
    }

    #[test]
    fn popular_ids_need_more_coordinates() {
        let mean = |log_rank| (0..1000).map(|i| latent_need(log_rank, mix(i)) as f64).sum::<f64>() / 1000.0;
        let needs = [1.0, 4.0, 7.0, 10.0, 17.0].map(mean);
        assert!(needs[..4].windows(2).all(|w| w[0] > w[1]), "{needs:?}");
        assert!(needs[0] > 7.0 && needs[4] == 0.0, "{needs:?}");
    }

    #[test]
    fn planted_needs_are_of_chance_and_not_of_rank() {
        let needy = |rank| (0..2000u64).filter(|&i| planted_need(rank, mix(i)) == LATENT).count();
        assert!((900..1100).contains(&needy(0)) && needy(0) == needy(1999) && needy(2000) == 0);
    }

    #[test]
    fn rare_ids_count_where_the_truth_lies_in_the_tail() {
        let mut large = [false; CATEGORIES];
        large[2] = true;
        let effect = |truth, feature: usize, rank| {
            let teacher = Teacher::new(3, truth, &large);
            let mut ids = [Id { value: 1, rank: 1 }; CATEGORIES];
            let mut squares = 0.0;
            let mut one = |value| {
                ids[feature] = Id { value, rank };
                teacher.parts(&[0.0; INTEGERS], &ids).main
            };
            let base = one(0);
            (1..500).for_each(|value| squares += (one(value) - base).powi(2));
            squares.sqrt()
        };
        let falls = |truth, feature| effect(truth, feature, 1 << 16) / effect(truth, feature, 0);
        assert!(falls(Truth::Head, 2) < 0.5 && (falls(Truth::Tail, 2) - 1.0).abs() < 1e-9);
        assert!(effect(Truth::Tail, 3, 5) < 0.8 * effect(Truth::Tail, 2, 5));
    }

    #[test]
    fn calibration_meets_the_rate_and_the_spread() {
        let mut teacher = Teacher::new(3, Truth::Head, &[false; CATEGORIES]);
        let sample: Vec<Parts> = (0..5000)
            .map(|i| {
                let z = normals(mix(i));
                Parts { dense: 3.0 * z[0], main: 0.2 * z[1], pair: 50.0 * z[2] + 7.0 }
            })
            .collect();
        teacher.calibrate(&sample, 0.3);
        let mean = sample.iter().map(|&p| teacher.probability(p)).sum::<f64>() / 5000.0;
        assert!((mean - 0.3).abs() < 1e-9, "{mean}");
    }
}
