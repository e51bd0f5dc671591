//! Training steps, and the decay of utilities over them.

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Counts steps and says what an increment made now is worth in the units of the last round.
///
/// FIITED decays every utility in every step: `u <- γ·u + a·g`. The same order of utilities results if stored ones are
/// left alone and increments made `t` steps later are multiplied by `γ^-t`; a round then multiplies everything by
/// `γ^t` at once. Rounds come often enough for that factor to stay small.
pub(super) struct Clock {
    decay: f32,
    steps: AtomicU64,
    last_round: AtomicU64,
    inflation: AtomicU32,
}

impl Clock {
    pub(super) fn new(decay: f32) -> Clock {
        Clock {
            decay,
            steps: AtomicU64::new(0),
            last_round: AtomicU64::new(0),
            inflation: AtomicU32::new(1f32.to_bits()),
        }
    }

    pub(super) fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    pub(super) fn since_round(&self) -> u64 {
        self.steps().saturating_sub(self.last_round.load(Ordering::Relaxed))
    }

    /// γ to the minus steps since the last round.
    #[inline]
    pub(super) fn inflation(&self) -> f32 {
        f32::from_bits(self.inflation.load(Ordering::Relaxed))
    }

    /// One more step. Returns its number.
    pub(super) fn advance(&self) -> u64 {
        let step = self.steps.fetch_add(1, Ordering::Relaxed) + 1;
        self.inflation.store(self.decay_over(self.since_round()).recip().to_bits(), Ordering::Relaxed);
        step
    }

    fn decay_over(&self, steps: u64) -> f32 {
        // At least 2^-32, so that a long pause between rounds cannot make the inverse infinite.
        self.decay.powi(i32::try_from(steps).unwrap_or(i32::MAX)).max(f32::EPSILON * f32::EPSILON)
    }

    /// A round begins: returns the factor for all that was stored so far.
    pub(super) fn begin_round(&self) -> f32 {
        let factor = self.decay_over(self.since_round());
        self.last_round.store(self.steps(), Ordering::Relaxed);
        self.inflation.store(1f32.to_bits(), Ordering::Relaxed);
        factor
    }
}
