//! Zipf-distributed ranks without a table: rejection-inversion, from W. Hörmann and G. Derflinger, "Rejection-inversion
//! to generate variates from monotone discrete distributions", ACM TOMACS 6 (1996), algorithm RI.

/// Ranks `1..=n` with probability proportional to `rank^-exponent`.
#[derive(Clone, Debug)]
pub(super) struct Zipf {
    n: f64,
    /// 1 - exponent.
    power: f64,
    exponent: f64,
    /// The hat's integral at its two ends.
    low: f64,
    high: f64,
    /// A draw this close below its rank needs no further test.
    surely: f64,
}

impl Zipf {
    /// `n >= 1` ranks, and a positive exponent.
    pub(super) fn new(n: u32, exponent: f64) -> Zipf {
        let mut zipf = Zipf { n: f64::from(n), power: 1.0 - exponent, exponent, low: 0.0, high: 0.0, surely: 0.0 };
        zipf.low = zipf.integral(1.5) - 1.0;
        zipf.high = zipf.integral(zipf.n + 0.5);
        zipf.surely = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.mass(2.0));
        zipf
    }

    /// Draws a 0-based rank from uniform draws of `[0, 1)`.
    pub(super) fn draw(&self, mut uniform: impl FnMut() -> f64) -> u32 {
        // About one draw in twenty is rejected, so a bound of 64 is never met by chance.
        for _ in 0..64 {
            let u = self.high + uniform() * (self.low - self.high);
            let x = self.inverse(u);
            let k = x.round().clamp(1.0, self.n);
            if k - x <= self.surely || u >= self.integral(k + 0.5) - self.mass(k) {
                return k as u32 - 1;
            }
        }
        0
    }

    /// Unnormalised probability.
    fn mass(&self, x: f64) -> f64 {
        x.powf(-self.exponent)
    }

    /// Antiderivative of [`mass`](Zipf::mass).
    fn integral(&self, x: f64) -> f64 {
        let log = x.ln();
        if self.power.abs() < 1e-9 { log } else { (self.power * log).exp_m1() / self.power }
    }

    fn inverse(&self, y: f64) -> f64 {
        if self.power.abs() < 1e-9 { y.exp() } else { ((self.power * y).ln_1p() / self.power).exp() }
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Draws against the exact distribution: each rank of the head, and the head as a whole.
    #[test]
    fn shares_are_those_of_the_law() {
        for (n, exponent) in [(1, 1.1), (3, 1.05), (1000, 1.0), (50_000, 1.07), (1_000_000, 0.75)] {
            let zipf = Zipf::new(n, exponent);
            let mut rng = ChaCha8Rng::seed_from_u64(5);
            let draws = 400_000;
            let mut counts = vec![0u32; n as usize];
            for _ in 0..draws {
                counts[zipf.draw(|| (rng.next_u64() >> 11) as f64 * 2f64.powi(-53)) as usize] += 1;
            }
            let norm: f64 = (1..=n).map(|k| f64::from(k).powf(-exponent)).sum();
            let check = |share: f64, count: u32, what: &str| {
                let sigma = (share * (1.0 - share) / f64::from(draws)).sqrt();
                let found = f64::from(count) / f64::from(draws);
                assert!(
                    (found - share).abs() <= 5.0 * sigma + 1e-12,
                    "n {n}, s {exponent}, {what}: {found} for {share}"
                );
            };
            for k in 0..n.min(5) {
                check(f64::from(k + 1).powf(-exponent) / norm, counts[k as usize], "rank");
            }
            let head = n.min(1000);
            let share = (1..=head).map(|k| f64::from(k).powf(-exponent)).sum::<f64>() / norm;
            check(share, counts[..head as usize].iter().sum(), "head");
        }
    }
}
