//! Binary cross-entropy on logits, for labels from 0 to 1.
//!
//! With `p = 1/(1+e^-x)` the loss of one sample is `-y·ln p - (1-y)·ln(1-p)`. Written as
//! `max(x, 0) - x·y + ln(1 + e^-|x|)` it neither overflows nor loses the small side, whatever the logit;
//! its derivative by `x` is `p - y`.

/// The loss of one sample.
#[must_use]
pub fn binary_cross_entropy(logit: f32, label: f32) -> f64 {
    let (x, y) = (f64::from(logit), f64::from(label));
    // `clamp` and not `max`: it passes on a logit that is not a number instead of hiding it.
    x.clamp(0.0, f64::INFINITY) - x * y + (-x.abs()).exp().ln_1p()
}

/// The probability that a logit stands for, computed on the side of the exponential that cannot overflow.
#[must_use]
pub fn sigmoid(logit: f32) -> f64 {
    let x = f64::from(logit);
    let small = (-x.abs()).exp();
    if x < 0.0 { small / (1.0 + small) } else { 1.0 / (1.0 + small) }
}

/// Writes the gradient of the batch's mean loss by each logit, `(p - y) / rows`, and returns the sum of
/// the losses. `logits`, `labels` and `gradient` have one value per sample; `rows` is the size of the
/// whole batch, of which they may be a part.
pub(super) fn backward(logits: &[f32], labels: &[f32], rows: usize, gradient: &mut [f32]) -> f64 {
    let mut sum = 0.0;
    for ((gradient, logit), label) in gradient.iter_mut().zip(logits).zip(labels) {
        *gradient = ((sigmoid(*logit) - f64::from(*label)) / rows as f64) as f32;
        sum += binary_cross_entropy(*logit, *label);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        assert!((binary_cross_entropy(0.0, 1.0) - std::f64::consts::LN_2).abs() < 1e-15);
        assert!((binary_cross_entropy(2.0, 0.0) - (1.0 + 2.0f64.exp()).ln()).abs() < 1e-12);
        assert!((binary_cross_entropy(-3.0, 1.0) - (1.0 + 3.0f64.exp()).ln()).abs() < 1e-12);
        assert!((sigmoid(1.5) - 1.0 / (1.0 + (-1.5f64).exp())).abs() < 1e-15);
        assert!((sigmoid(-1.5) + sigmoid(1.5) - 1.0).abs() < 1e-15);
    }

    #[test]
    fn far_logits_stay_exact() {
        assert_eq!(binary_cross_entropy(1e30, 1.0), 0.0);
        assert_eq!(binary_cross_entropy(-1e30, 0.0), 0.0);
        assert_eq!(binary_cross_entropy(500.0, 0.0), 500.0);
        assert!((binary_cross_entropy(-40.0, 0.0) - (-40.0f64).exp()).abs() < 1e-30);
        assert!(binary_cross_entropy(f32::NAN, 1.0).is_nan());
    }

    #[test]
    fn the_gradient_is_the_slope_of_the_mean() {
        let (logits, labels) = ([-2.0f32, 0.25, 3.0], [1.0f32, 0.0, 0.5]);
        let mut gradient = [0.0; 3];
        let sum = backward(&logits, &labels, 3, &mut gradient);
        let exact: f64 = logits.iter().zip(&labels).map(|(x, y)| binary_cross_entropy(*x, *y)).sum();
        assert!((sum - exact).abs() < 1e-12);
        for i in 0..3 {
            let step = 1.0 / 64.0; // Exact in f32 for these logits.
            let slope = (binary_cross_entropy(logits[i] + step, labels[i])
                - binary_cross_entropy(logits[i] - step, labels[i]))
                / (2.0 * f64::from(step) * 3.0);
            assert!((f64::from(gradient[i]) - slope).abs() < 1e-4, "{i}: {} {slope}", gradient[i]);
        }
    }
}
