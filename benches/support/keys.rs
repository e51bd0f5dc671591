//! Keys and draws: small, seeded, the same in every process.

/// A small generator (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// Uniform in `[0, 1)`.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 * 2f64.powi(-53)
    }

    /// Uniform in `0..n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// A rank in `0..n` with a probability that falls as `(rank + 1)^-1.05`: the continuous law, rounded down.
    pub(crate) fn zipf(&mut self, n: u64) -> u64 {
        const POWER: f64 = 1.0 - 1.05;
        let top = ((n + 1) as f64).powf(POWER);
        let x = (1.0 + self.unit() * (top - 1.0)).powf(POWER.recip());
        (x as u64).clamp(1, n) - 1
    }
}

/// One to one on 64-bit numbers, so that the keys of different numbers differ.
pub(crate) fn mix(number: u64) -> u64 {
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}
