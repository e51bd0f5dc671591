//! Measures of a click model: area under the ROC curve, log-loss and normalised entropy.
//!
//! Scores are *logits*: the model's output before the sigmoid. Log-loss is the mean negative log-likelihood in nats.
//! Every measure that its rows do not define is `None` and never a NaN: no rows, rows of one class alone, or a
//! logit that is not a number.

/// Natural-log loss of one row from its logit, in a form that neither overflows nor loses small values:
/// `max(x, 0) - x * y + ln(1 + e^-|x|)`.
pub fn row_log_loss(logit: f32, label: f32) -> f64 {
    let (x, y) = (f64::from(logit), f64::from(label));
    x.max(0.0) - x * y + (-x.abs()).exp().ln_1p()
}

/// Mean log-loss in nats of `logits` against `labels` (both of one length; the shorter one counts).
pub fn log_loss(logits: &[f32], labels: &[f32]) -> Option<f64> {
    let mut sums = LossSums::default();
    sums.add(logits, labels);
    sums.log_loss()
}

/// Entropy in nats of a click with probability `ctr`: the log-loss of a model that always predicts `ctr`.
/// Zero at both ends of `0..=1`.
pub fn entropy(ctr: f64) -> f64 {
    let term = |p: f64| if p > 0.0 { -p * p.ln() } else { 0.0 };
    term(ctr) + term(1.0 - ctr)
}

/// Normalised entropy: log-loss over the entropy of the rows' own click-through rate (He et al. 2014, "Practical
/// Lessons from Predicting Clicks on Ads at Facebook", section 3). Below 1 the model knows more than the mean rate.
pub fn normalized_entropy(log_loss: f64, positives: u64, rows: u64) -> Option<f64> {
    if positives == 0 || positives >= rows {
        return None; // rows of one class have no entropy to divide by
    }
    finite(log_loss / entropy(positives as f64 / rows as f64))
}

/// Exact area under the ROC curve by ranks; rows of equal logit share their average rank, which counts a tied pair
/// as half. `O(n log n)` time, a copy of the rows.
pub fn auc(logits: &[f32], labels: &[f32]) -> Option<f64> {
    if logits.iter().any(|x| x.is_nan()) {
        return None;
    }
    // Adding zero turns -0.0 into 0.0, so that total_cmp sees the tie.
    let mut rows: Vec<(f32, bool)> = logits.iter().zip(labels).map(|(x, y)| (x + 0.0, *y > 0.5)).collect();
    rows.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let mut pairs = PairCount::default();
    for tie in rows.chunk_by(|a, b| a.0 == b.0) {
        let positives = tie.iter().filter(|row| row.1).count() as u64;
        pairs.add_tie(positives, tie.len() as u64 - positives);
    }
    pairs.auc()
}

/// Counts ordered (positive, negative) pairs over groups of tied rows, given from the lowest score up.
#[derive(Default)]
struct PairCount {
    positives: u64,
    negatives: u64,
    /// Twice the number of pairs in the right order, a tied pair counting one.
    twice_right: u128,
}

impl PairCount {
    fn add_tie(&mut self, positives: u64, negatives: u64) {
        self.twice_right += u128::from(positives) * (2 * u128::from(self.negatives) + u128::from(negatives));
        self.positives += positives;
        self.negatives += negatives;
    }

    fn auc(&self) -> Option<f64> {
        let pairs = u128::from(self.positives) * u128::from(self.negatives);
        (pairs > 0).then(|| self.twice_right as f64 / 2.0 / pairs as f64)
    }
}

/// The three figures of a set of rows; `None` where the rows do not define one.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[cfg_attr(feature = "cli", derive(serde::Serialize, serde::Deserialize))]
pub struct Metrics {
    /// Area under the ROC curve, 0 to 1.
    pub auc: Option<f64>,
    /// Mean log-loss in nats.
    pub logloss: Option<f64>,
    /// Normalised entropy (see [`normalized_entropy`]).
    pub ne: Option<f64>,
}

/// Sums for log-loss and NE over any number of rows, in 64-bit floats, in the order the rows come.
#[derive(Debug, Clone, Copy, Default)]
pub struct LossSums {
    loss: f64,
    positives: u64,
    rows: u64,
}

impl LossSums {
    /// Adds rows (both slices of one length; the shorter one counts).
    pub fn add(&mut self, logits: &[f32], labels: &[f32]) {
        for (&logit, &label) in logits.iter().zip(labels) {
            self.loss += row_log_loss(logit, label);
            self.positives += u64::from(label > 0.5);
            self.rows += 1;
        }
    }

    /// Rows added.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The sums, for a snapshot.
    pub(super) fn words(&self) -> [u64; 3] {
        [self.loss.to_bits(), self.positives, self.rows]
    }

    pub(super) fn of_words([loss, positives, rows]: [u64; 3]) -> LossSums {
        LossSums { loss: f64::from_bits(loss), positives, rows }
    }

    /// Share of positive rows.
    pub fn ctr(&self) -> Option<f64> {
        (self.rows > 0).then(|| self.positives as f64 / self.rows as f64)
    }

    /// Mean log-loss in nats.
    pub fn log_loss(&self) -> Option<f64> {
        if self.rows == 0 { None } else { finite(self.loss / self.rows as f64) }
    }

    /// Normalised entropy over the same rows.
    pub fn normalized_entropy(&self) -> Option<f64> {
        normalized_entropy(self.log_loss()?, self.positives, self.rows)
    }
}

/// Rows kept whole for exact figures: a window, or the held-out tail.
#[derive(Debug, Clone, Default)]
pub struct Scored {
    logits: Vec<f32>,
    labels: Vec<f32>,
    sums: LossSums,
}

impl Scored {
    /// Adds rows (both slices of one length; the shorter one counts).
    pub fn add(&mut self, logits: &[f32], labels: &[f32]) {
        let rows = logits.len().min(labels.len());
        self.logits.extend_from_slice(&logits[..rows]);
        self.labels.extend_from_slice(&labels[..rows]);
        self.sums.add(logits, labels);
    }

    /// Rows added since the last clear.
    pub fn rows(&self) -> u64 {
        self.sums.rows()
    }

    /// AUC (exact), log-loss and NE of the rows.
    pub fn metrics(&self) -> Metrics {
        Metrics {
            auc: auc(&self.logits, &self.labels),
            logloss: self.sums.log_loss(),
            ne: self.sums.normalized_entropy(),
        }
    }

    /// The sums, for a snapshot.
    pub(super) fn words(&self) -> [u64; 3] {
        self.sums.words()
    }

    /// Logits and labels of the rows.
    pub(super) fn rows_kept(&self) -> (&[f32], &[f32]) {
        (&self.logits, &self.labels)
    }

    pub(super) fn set(&mut self, logits: &[f32], labels: &[f32], words: [u64; 3]) {
        self.clear();
        self.logits.extend_from_slice(logits);
        self.labels.extend_from_slice(labels);
        self.sums = LossSums::of_words(words);
    }

    /// Forgets the rows and keeps the memory.
    pub fn clear(&mut self) {
        self.logits.clear();
        self.labels.clear();
        self.sums = LossSums::default();
    }

    /// Bytes held for rows.
    pub fn bytes(&self) -> u64 {
        ((self.logits.capacity() + self.labels.capacity()) * size_of::<f32>()) as u64
    }
}

/// Bins of the streaming histogram: 1 MiB of counts, whatever the number of rows.
const BINS: usize = 1 << 16;
/// Logits beyond this size (probabilities within 1e-7 of 0 or 1) share the outermost bins.
const LOGIT_LIMIT: f32 = 16.0;

/// AUC over a stream of any length in fixed memory: counts of positives and negatives by logit in 2^16 equal bins over
/// ±16; a pair within one bin counts as a tie, half. It differs from the exact figure by at most half the share of
/// pairs that meet in a bin (below 1e-4 for scores as spread out as a trained model's).
#[derive(Debug, Clone)]
pub struct HistogramAuc {
    positives: Vec<u64>,
    negatives: Vec<u64>,
    not_numbers: u64,
}

impl Default for HistogramAuc {
    fn default() -> Self {
        HistogramAuc { positives: vec![0; BINS], negatives: vec![0; BINS], not_numbers: 0 }
    }
}

impl HistogramAuc {
    /// Adds rows (both slices of one length; the shorter one counts).
    pub fn add(&mut self, logits: &[f32], labels: &[f32]) {
        for (&logit, &label) in logits.iter().zip(labels) {
            if logit.is_nan() {
                self.not_numbers += 1;
                continue;
            }
            let clamped = logit.clamp(-LOGIT_LIMIT, LOGIT_LIMIT);
            let bin = (clamped + LOGIT_LIMIT) / (2.0 * LOGIT_LIMIT) * BINS as f32;
            let bin = (bin as usize).min(BINS - 1);
            if label > 0.5 {
                self.positives[bin] += 1;
            } else {
                self.negatives[bin] += 1;
            }
        }
    }

    /// The counts, for a snapshot: of rows whose logit was no number, then each bin that is not empty, its positives and
    /// its negatives.
    pub(super) fn words(&self) -> Vec<u64> {
        let mut words = vec![self.not_numbers];
        for (bin, (&positives, &negatives)) in self.positives.iter().zip(&self.negatives).enumerate() {
            if positives + negatives > 0 {
                words.extend([bin as u64, positives, negatives]);
            }
        }
        words
    }

    /// Goes on from what [`words`](Self::words) gave. False if that is no histogram.
    pub(super) fn set_words(&mut self, words: &[u64]) -> bool {
        let [not_numbers, bins @ ..] = words else { return false };
        let (bins, rest) = bins.as_chunks::<3>();
        *self = HistogramAuc { not_numbers: *not_numbers, ..HistogramAuc::default() };
        for &[bin, positives, negatives] in bins {
            let Some(at) = usize::try_from(bin).ok().filter(|&bin| bin < BINS) else { return false };
            (self.positives[at], self.negatives[at]) = (positives, negatives);
        }
        rest.is_empty()
    }

    /// AUC of all rows so far; `None` with one class alone or once a logit was not a number.
    pub fn auc(&self) -> Option<f64> {
        if self.not_numbers > 0 {
            return None;
        }
        let mut pairs = PairCount::default();
        for (&positives, &negatives) in self.positives.iter().zip(&self.negatives) {
            if positives + negatives > 0 {
                pairs.add_tie(positives, negatives);
            }
        }
        pairs.auc()
    }

    /// Bytes held for the counts.
    pub fn bytes(&self) -> u64 {
        ((self.positives.capacity() + self.negatives.capacity()) * size_of::<u64>()) as u64
    }
}

/// `value` unless it is infinite or not a number.
fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// AUC by its definition: the share of (positive, negative) pairs in the right order, ties half.
    fn auc_by_pairs(logits: &[f32], labels: &[f32]) -> Option<f64> {
        let (mut right, mut pairs) = (0.0, 0.0);
        for (x, y) in logits.iter().zip(labels) {
            for (v, w) in logits.iter().zip(labels) {
                if *y > 0.5 && *w < 0.5 {
                    pairs += 1.0;
                    right += if x > v {
                        1.0
                    } else if x == v {
                        0.5
                    } else {
                        0.0
                    };
                }
            }
        }
        (pairs > 0.0).then(|| right / pairs)
    }

    /// Rows of a stream: xorshift logits with spread `scale`, labels that follow the logit.
    fn rows(n: usize, scale: f32, mut state: u64) -> (Vec<f32>, Vec<f32>) {
        let mut uniform = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        (0..n)
            .map(|_| {
                let logit = scale * (uniform() + uniform() + uniform() - 1.5) - 1.0;
                let label = f32::from(u8::from(uniform() < 1.0 / (1.0 + (-logit).exp())));
                (logit, label)
            })
            .unzip()
    }

    #[test]
    fn exact_auc_matches_the_definition_with_ties() {
        for seed in 1..20 {
            let (mut logits, labels) = rows(200, 2.0, seed);
            for x in &mut logits {
                *x = (*x * 4.0).round() / 4.0; // many ties, both zeros among them
            }
            let (ours, by_pairs) = (auc(&logits, &labels), auc_by_pairs(&logits, &labels));
            assert!((ours.unwrap() - by_pairs.unwrap()).abs() < 1e-12, "{ours:?} {by_pairs:?}");
        }
        assert_eq!(auc(&[0.1, 0.2, 0.3, 0.4], &[0.0, 1.0, 0.0, 1.0]), Some(0.75));
        assert_eq!(auc(&[0.0, -0.0], &[1.0, 0.0]), Some(0.5));
    }

    #[test]
    fn histogram_auc_is_close_to_exact() {
        for (scale, seed) in [(0.5, 3), (2.0, 5), (8.0, 7), (40.0, 11)] {
            let (logits, labels) = rows(50_000, scale, seed);
            let mut histogram = HistogramAuc::default();
            for (x, y) in logits.chunks(999).zip(labels.chunks(999)) {
                histogram.add(x, y);
            }
            let (close, exact) = (histogram.auc().unwrap(), auc(&logits, &labels).unwrap());
            assert!((close - exact).abs() < 1e-4, "scale {scale}: {close} against {exact}");
        }
    }

    #[test]
    fn log_loss_is_stable_and_matches_the_plain_formula() {
        let plain = |x: f64, y: f64| {
            let p = 1.0 / (1.0 + (-x).exp());
            -(y * p.ln() + (1.0 - y) * (1.0 - p).ln())
        };
        for x in [-6.0f32, -0.5, 0.0, 0.25, 7.0] {
            for y in [0.0f32, 1.0] {
                let (ours, theirs) = (row_log_loss(x, y), plain(f64::from(x), f64::from(y)));
                assert!((ours - theirs).abs() < 1e-12, "x {x}, y {y}: {ours} against {theirs}");
            }
        }
        assert_eq!(row_log_loss(200.0, 0.0), 200.0);
        assert!(row_log_loss(200.0, 1.0) < 1e-80);
        assert_eq!(log_loss(&[0.0, 0.0], &[1.0, 0.0]), Some(std::f64::consts::LN_2));
    }

    #[test]
    fn predicting_the_mean_rate_has_ne_one() {
        let labels = [1.0, 0.0, 0.0, 0.0];
        let logit = (0.25f32 / 0.75).ln();
        let mut scored = Scored::default();
        scored.add(&[logit; 4], &labels);
        let metrics = scored.metrics();
        assert!((metrics.ne.unwrap() - 1.0).abs() < 1e-6, "{metrics:?}");
        assert_eq!(metrics.auc, Some(0.5));
        assert!((entropy(0.5) - std::f64::consts::LN_2).abs() < 1e-15);
        assert_eq!(entropy(0.0) + entropy(1.0), 0.0);
    }

    #[test]
    fn what_rows_do_not_define_is_none() {
        assert_eq!(Scored::default().metrics(), Metrics::default());
        let mut one_class = Scored::default();
        one_class.add(&[0.3, 0.1], &[1.0, 1.0]);
        let metrics = one_class.metrics();
        assert_eq!((metrics.auc, metrics.ne), (None, None));
        assert!(metrics.logloss.is_some());
        one_class.clear();
        one_class.add(&[f32::NAN, 0.1], &[1.0, 0.0]);
        assert_eq!(one_class.metrics(), Metrics::default());
        one_class.clear();
        one_class.add(&[f32::INFINITY, 0.1], &[0.0, 1.0]);
        assert_eq!(one_class.metrics(), Metrics { auc: Some(0.0), ..Metrics::default() });
        let mut histogram = HistogramAuc::default();
        assert_eq!(histogram.auc(), None);
        histogram.add(&[f32::INFINITY, f32::NEG_INFINITY], &[1.0, 0.0]);
        assert_eq!(histogram.auc(), Some(1.0));
        histogram.add(&[f32::NAN], &[1.0]);
        assert_eq!(histogram.auc(), None);
    }
}
