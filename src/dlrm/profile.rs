//! Where the time of training goes: one timer for each phase of a step, summed over threads.
//!
//! Timers run always: a phase of a shard or a table is read off the clock once, some hundred readings for a batch,
//! whatever its size.

use std::time::{Duration, Instant};

use crate::sync::{AtomicU64, Ordering};

/// A part of the work of training, in the order in which a step does them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Phase {
    /// Taking the next batch from the reader, waits included.
    Read,
    /// Looking up embeddings.
    Gather,
    /// Laying out the weights for the matrix products.
    Pack,
    /// Bottom MLP, forward.
    BottomForward,
    /// Interaction, forward.
    CrossForward,
    /// Top MLP, forward.
    TopForward,
    /// Loss and its gradient.
    Loss,
    /// Top MLP, backward.
    TopBackward,
    /// Interaction, backward.
    CrossBackward,
    /// Bottom MLP, backward.
    BottomBackward,
    /// Adding up the shards' gradients of the dense parameters.
    Sum,
    /// Embeddings, backward: gradients handed to the tables, whose optimizer moves the rows.
    Tables,
    /// The optimizer of the dense parameters.
    DenseOptimizer,
    /// The end of the store's step: pruning that the trainer does itself, and what it waits for.
    Prune,
    /// Window and running metrics.
    Metrics,
}

impl Phase {
    /// Every phase, in the order of a step.
    pub const ALL: [Phase; 15] = [
        Phase::Read,
        Phase::Gather,
        Phase::Pack,
        Phase::BottomForward,
        Phase::CrossForward,
        Phase::TopForward,
        Phase::Loss,
        Phase::TopBackward,
        Phase::CrossBackward,
        Phase::BottomBackward,
        Phase::Sum,
        Phase::Tables,
        Phase::DenseOptimizer,
        Phase::Prune,
        Phase::Metrics,
    ];

    /// What the phase is called in a table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Phase::Read => "read",
            Phase::Gather => "embedding forward",
            Phase::Pack => "weights laid out",
            Phase::BottomForward => "bottom MLP forward",
            Phase::CrossForward => "interaction forward",
            Phase::TopForward => "top MLP forward",
            Phase::Loss => "loss",
            Phase::TopBackward => "top MLP backward",
            Phase::CrossBackward => "interaction backward",
            Phase::BottomBackward => "bottom MLP backward",
            Phase::Sum => "sum of dense gradients",
            Phase::Tables => "embedding backward + optimizer",
            Phase::DenseOptimizer => "dense optimizer",
            Phase::Prune => "pruning",
            Phase::Metrics => "metrics",
        }
    }

    /// Whether the phase is matrix products and what is fused with them.
    #[must_use]
    pub fn is_mlp(self) -> bool {
        matches!(
            self,
            Phase::Pack | Phase::BottomForward | Phase::TopForward | Phase::TopBackward | Phase::BottomBackward
        )
    }
}

/// The running sums. Relaxed everywhere: they are figures, nothing is published through them.
#[derive(Debug, Default)]
pub(super) struct Timers {
    nanos: [AtomicU64; Phase::ALL.len()],
}

impl Timers {
    /// Runs `work` and counts its time as that of `phase`.
    pub(super) fn time<R>(&self, phase: Phase, work: impl FnOnce() -> R) -> R {
        let began = Instant::now();
        let result = work();
        self.add(phase, began.elapsed());
        result
    }

    pub(super) fn add(&self, phase: Phase, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.nanos[phase as usize].fetch_add(nanos, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> PhaseTimes {
        PhaseTimes { seconds: Phase::ALL.map(|phase| self.nanos[phase as usize].load(Ordering::Relaxed) as f64 * 1e-9) }
    }
}

/// Seconds that all threads together spent in each phase.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PhaseTimes {
    /// In the order of [`Phase::ALL`].
    seconds: [f64; Phase::ALL.len()],
}

impl PhaseTimes {
    /// The seconds of one phase.
    #[must_use]
    pub fn seconds(&self, phase: Phase) -> f64 {
        self.seconds[phase as usize]
    }

    /// The seconds of all phases.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.seconds.iter().sum()
    }

    /// What came since an earlier reading.
    #[must_use]
    pub fn since(&self, earlier: &PhaseTimes) -> PhaseTimes {
        PhaseTimes { seconds: std::array::from_fn(|i| self.seconds[i] - earlier.seconds[i]) }
    }

    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &PhaseTimes) -> PhaseTimes {
        PhaseTimes { seconds: std::array::from_fn(|i| self.seconds[i] + other.seconds[i]) }
    }

    /// Adds the time of one phase that the caller measured itself.
    pub fn add(&mut self, phase: Phase, time: Duration) {
        self.seconds[phase as usize] += time.as_secs_f64();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_stand_where_they_are_looked_up() {
        for (i, phase) in Phase::ALL.into_iter().enumerate() {
            assert_eq!(phase as usize, i);
        }
    }

    #[test]
    fn times_add_up() {
        let timers = Timers::default();
        timers.add(Phase::Loss, Duration::from_millis(30));
        let before = timers.read();
        timers.add(Phase::Loss, Duration::from_millis(20));
        timers.time(Phase::Gather, || std::thread::sleep(Duration::from_millis(2)));
        let after = timers.read();
        assert!((after.seconds(Phase::Loss) - 0.05).abs() < 1e-9);
        let since = after.since(&before);
        assert!((since.seconds(Phase::Loss) - 0.02).abs() < 1e-9);
        assert!(since.seconds(Phase::Gather) >= 0.002);
        assert!((since.total() - since.seconds(Phase::Loss) - since.seconds(Phase::Gather)).abs() < 1e-9);
    }
}
