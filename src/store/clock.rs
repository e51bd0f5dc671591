//! Training steps, and the decay of utilities over them.

use crate::config::Decay;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Counts steps and says what an increment made now is worth in the units of the stored utilities.
///
/// FIITED decays every utility in every step: `u <- γ·u + a·g`. The same order of utilities results if stored ones are
/// left alone and increments made `t` steps later are multiplied by `γ^-t`. Only when that factor has become large is
/// everything multiplied by `γ^t` at once, and the units begin anew. *Age* is the exponent: minus the logarithm of what
/// is left of a utility of the beginning.
pub(super) struct Clock {
    decay: Decay,
    steps: AtomicU64,
    /// Bits of an f32: accesses per row in which utilities halve, where that is adapted.
    memory: AtomicU32,
    /// Bits of an f64.
    age: AtomicU64,
    /// Bits of an f64: the age when the units began.
    age_of_units: AtomicU64,
    steps_at_round: AtomicU64,
    inflation: AtomicU32,
    /// Accesses since the last step.
    accesses: AtomicU64,
}

/// The most that a utility decays within the same units: a factor of 2^-40. Beyond that, what is old counts for nothing
/// anyway, and the inverse must stay finite.
const AGE_MAX: f64 = 40.0 * std::f64::consts::LN_2;

/// A factor of 2^-4 asks for new units, and so for a round. Not more, because units change while others train: what is
/// added to a row in the step or two that the change takes may be counted wrong by that factor, either way.
const AGE_DUE: f64 = 4.0 * std::f64::consts::LN_2;

/// Accesses per row in which adapted utilities halve: at first, at least and at most.
const MEMORY_FIRST: f32 = 5.0;
const MEMORY_RANGE: std::ops::RangeInclusive<f32> = 2.5..=20.0;
const MEMORY_STEP: f32 = std::f32::consts::SQRT_2;
/// What newcomers may keep of their importance, as a mean, without a change of memory. Less is chance, more is fashion.
const KEPT: std::ops::RangeInclusive<f32> = 0.65..=1.0;

fn half_lives(per_row: f32, accesses: u64, rows: u64) -> f64 {
    accesses as f64 / (f64::from(per_row) * rows.max(1) as f64)
}

impl Clock {
    pub(super) fn new(decay: Decay) -> Clock {
        Clock {
            decay,
            memory: AtomicU32::new(MEMORY_FIRST.to_bits()),
            steps: AtomicU64::new(0),
            age: AtomicU64::new(0),
            age_of_units: AtomicU64::new(0),
            steps_at_round: AtomicU64::new(0),
            inflation: AtomicU32::new(1f32.to_bits()),
            accesses: AtomicU64::new(0),
        }
    }

    pub(super) fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    pub(super) fn since_round(&self) -> u64 {
        self.steps().saturating_sub(self.steps_at_round.load(Ordering::Relaxed))
    }

    /// What an increment made now is worth: at least 1.
    #[inline]
    pub(super) fn inflation(&self) -> f32 {
        f32::from_bits(self.inflation.load(Ordering::Relaxed))
    }

    /// Notes that a batch used rows so many times, duplicates counted.
    pub(super) fn count_accesses(&self, accesses: u64) {
        self.accesses.fetch_add(accesses, Ordering::Relaxed);
    }

    /// One more step, with so many rows live. Returns its number.
    pub(super) fn advance(&self, rows: u64) -> u64 {
        let accesses = self.accesses.swap(0, Ordering::Relaxed);
        let older = match self.decay {
            Decay::PerStep(factor) => -f64::from(factor).ln(),
            Decay::PerCapacity(per_row) => half_lives(per_row, accesses, rows) * std::f64::consts::LN_2,
            Decay::Adaptive => half_lives(self.memory(), accesses, rows) * std::f64::consts::LN_2,
        };
        let add = |bits| Some((f64::from_bits(bits) + older).to_bits());
        // Relaxed: figures; whoever reads them late is at most a step behind.
        let _ = self.age.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        self.inflation.store((self.age_in_units().exp() as f32).to_bits(), Ordering::Relaxed);
        self.steps.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Everything that the clock says, for a snapshot.
    pub(super) fn words(&self) -> [u64; 7] {
        let [steps, age, age_of_units, steps_at_round, accesses] =
            [&self.steps, &self.age, &self.age_of_units, &self.steps_at_round, &self.accesses]
                .map(|word| word.load(Ordering::Relaxed));
        let [inflation, memory] = [&self.inflation, &self.memory].map(|word| u64::from(word.load(Ordering::Relaxed)));
        [steps, age, age_of_units, steps_at_round, accesses, inflation, memory]
    }

    /// Goes on from what [`words`](Self::words) gave. False if no clock can have said that.
    pub(super) fn set_words(&self, words: [u64; 7]) -> bool {
        let [steps, age, age_of_units, steps_at_round, accesses, inflation, memory] = words;
        let ages = [age, age_of_units].map(f64::from_bits);
        let sound = ages.iter().all(|age| age.is_finite() && *age >= 0.0) && steps_at_round <= steps;
        let inflation = u32::try_from(inflation).ok().filter(|&bits| (1.0..1e30).contains(&f32::from_bits(bits)));
        let memory = u32::try_from(memory).ok().filter(|&bits| MEMORY_RANGE.contains(&f32::from_bits(bits)));
        let (true, Some(inflation), Some(memory)) = (sound, inflation, memory) else { return false };
        let words = [steps, age, age_of_units, steps_at_round, accesses];
        [&self.steps, &self.age, &self.age_of_units, &self.steps_at_round, &self.accesses]
            .into_iter()
            .zip(words)
            .for_each(|(word, value)| word.store(value, Ordering::Relaxed));
        self.inflation.store(inflation, Ordering::Relaxed);
        self.memory.store(memory, Ordering::Relaxed);
        true
    }

    /// Whether the next round should begin new units, and not wait for its period.
    pub(super) fn is_old(&self) -> bool {
        self.age_in_units() >= AGE_DUE
    }

    pub(super) fn age(&self) -> f64 {
        f64::from_bits(self.age.load(Ordering::Relaxed))
    }

    pub(super) fn is_adaptive(&self) -> bool {
        self.decay == Decay::Adaptive
    }

    /// Accesses per row in which utilities halve, where that is adapted.
    pub(super) fn memory(&self) -> f32 {
        f32::from_bits(self.memory.load(Ordering::Relaxed))
    }

    /// Newcomers kept this part of their importance over a half-life: memory becomes longer if that is little, shorter if it
    /// is much.
    pub(super) fn adapt(&self, kept: f32) {
        let factor = match kept {
            kept if kept < *KEPT.start() => MEMORY_STEP,
            kept if kept > *KEPT.end() => MEMORY_STEP.recip(),
            _ => 1.0,
        };
        let memory = (self.memory() * factor).clamp(*MEMORY_RANGE.start(), *MEMORY_RANGE.end());
        self.memory.store(memory.to_bits(), Ordering::Relaxed);
    }

    fn age_in_units(&self) -> f64 {
        (self.age() - f64::from_bits(self.age_of_units.load(Ordering::Relaxed))).clamp(0.0, AGE_MAX)
    }

    /// A round begins. If it is time for new units, returns the factor for all that was stored so far.
    pub(super) fn begin_round(&self) -> Option<f32> {
        self.steps_at_round.store(self.steps(), Ordering::Relaxed);
        self.is_old().then(|| {
            let factor = (-self.age_in_units()).exp() as f32;
            self.age_of_units.store(self.age.load(Ordering::Relaxed), Ordering::Relaxed);
            self.inflation.store(1f32.to_bits(), Ordering::Relaxed);
            factor
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_follows_what_newcomers_kept() {
        let clock = Clock::new(Decay::Adaptive);
        let half_life = |clock: &Clock| {
            let before = clock.age();
            clock.count_accesses(1000);
            clock.advance(10);
            1000.0 / 10.0 * std::f64::consts::LN_2 / (clock.age() - before)
        };
        assert!((half_life(&clock) - 5.0).abs() < 1e-3);
        clock.adapt(0.55);
        clock.adapt(0.6);
        assert!((half_life(&clock) - 10.0).abs() < 1e-3);
        clock.adapt(0.8);
        assert!((half_life(&clock) - 10.0).abs() < 1e-3, "neither chance nor fashion");
        (0..9).for_each(|_| clock.adapt(0.5));
        assert!((half_life(&clock) - 20.0).abs() < 1e-3);
        (0..9).for_each(|_| clock.adapt(1.2));
        assert!((half_life(&clock) - 2.5).abs() < 1e-3);
    }

    #[test]
    fn decays_by_steps_or_by_accesses() {
        let clock = Clock::new(Decay::PerStep(0.5));
        (0..3).for_each(|_| {
            clock.advance(1);
        });
        assert!((clock.inflation() - 8.0).abs() < 1e-3 && clock.since_round() == 3);
        assert_eq!((clock.begin_round(), clock.since_round()), (None, 0));
        assert!((clock.inflation() - 8.0).abs() < 1e-3);
        (0..1).for_each(|_| {
            clock.advance(1);
        });
        assert!((clock.begin_round().unwrap() - 0.5f32.powi(4)).abs() < 1e-6);
        assert_eq!((clock.inflation(), clock.begin_round()), (1.0, None));
        let clock = Clock::new(Decay::PerCapacity(4.0));
        clock.count_accesses(4000);
        clock.advance(1000);
        assert!((clock.inflation() - 2.0).abs() < 1e-3);
        clock.count_accesses(u64::MAX / 2);
        clock.advance(1);
        assert!(clock.inflation().is_finite() && clock.begin_round().unwrap() > 0.0);
    }
}
