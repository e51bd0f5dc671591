//! How rows turn out that were admitted on an estimate of their importance: what [`Decay::Adaptive`] follows.
//!
//! A half-life after its admission a row that is used as before is as important as then, one that was admitted for a lucky
//! streak has half of that left, and one that comes into fashion has more. So the mean over some newcomers tells a stream whose
//! ids turn over, where old accesses mislead, from one where they only say too little.

use super::Inner;
use super::grow::Candidate;
use crate::config::{Decay, FiitedConfig, Policy};
use crate::id::TableId;
use crate::sequence::{Gone, Unclaimed};
use std::collections::VecDeque;

/// How many are looked at together.
const SAMPLE: usize = 128;
/// One admission in so many is looked at.
const EVERY: u64 = 4;
/// One row counts for no more than this: bursts are rare and large.
const RATIO_MAX: f32 = 8.0;

/// A row that was admitted.
struct Newcomer {
    table: TableId,
    hash: u64,
    /// When, as an age.
    age: f64,
    /// In units of that moment.
    importance: f32,
}

/// Rows admitted of late that are still to be looked at, and the sum of what came of the others of their sample.
pub(super) struct Newcomers {
    waiting: VecDeque<Newcomer>,
    admitted: usize,
    ratios: f32,
    seen: usize,
}

impl Newcomers {
    /// Bytes that they take.
    pub(super) fn bytes(policy: &Policy) -> u64 {
        (Newcomers::room(policy) * size_of::<Newcomer>()) as u64
    }

    fn room(policy: &Policy) -> usize {
        let adaptive = matches!(policy, Policy::Fiited(FiitedConfig { decay: Decay::Adaptive, .. }));
        if adaptive { SAMPLE } else { 0 }
    }

    pub(super) fn new(policy: &Policy) -> Newcomers {
        let waiting = VecDeque::with_capacity(Newcomers::room(policy));
        Newcomers { waiting, admitted: 0, ratios: 0.0, seen: 0 }
    }

    /// What a snapshot keeps: how many of the sample were looked at, the sum of what came of them, and those that wait.
    pub(super) fn words(&self) -> Vec<u64> {
        let mut words = vec![self.seen as u64, u64::from(self.ratios.to_bits())];
        for Newcomer { table, hash, age, importance } in &self.waiting {
            words.extend([table.index() as u64, *hash, age.to_bits(), u64::from(importance.to_bits())]);
        }
        words
    }

    /// Goes on from what [`words`](Self::words) gave, in a store of so many tables. False if that cannot have been said by
    /// newcomers that have this room.
    pub(super) fn set_words(&mut self, words: &[u64], tables: usize) -> bool {
        let Some(([seen, ratios], rest)) = words.split_first_chunk::<2>() else { return false };
        let (waiting, odd) = rest.as_chunks::<4>();
        let figure = |bits: u64| u32::try_from(bits).map(f32::from_bits).ok().filter(|it| it.is_finite() && *it >= 0.0);
        // A sample that is complete was forgotten.
        let legal =
            odd.is_empty() && *seen <= (SAMPLE as u64).saturating_sub(waiting.len() as u64).min(SAMPLE as u64 - 1);
        let (true, Some(ratios)) = (legal && waiting.len() <= self.waiting.capacity(), figure(*ratios)) else {
            return false;
        };
        self.waiting.clear();
        for &[table, hash, age, importance] in waiting {
            let (age, Some(importance)) = (f64::from_bits(age), figure(importance)) else { return false };
            if table >= tables as u64 || !age.is_finite() {
                return false;
            }
            self.waiting.push_back(Newcomer { table: TableId::new(table as usize), hash, age, importance });
        }
        (self.admitted, self.ratios, self.seen) = (*seen as usize + waiting.len(), ratios, *seen as usize);
        true
    }

    /// Notes what became of one; the mean of the sample with its last.
    fn note(&mut self, ratio: f32) -> Option<f32> {
        self.ratios += ratio.min(RATIO_MAX);
        self.seen += 1;
        (self.seen == SAMPLE).then(|| {
            let mean = self.ratios / SAMPLE as f32;
            (self.admitted, self.ratios, self.seen) = (0, 0.0, 0);
            mean
        })
    }
}

impl Inner {
    /// Chooses some of the rows that were admitted.
    pub(super) fn remember_newcomer(&self, candidate: &Candidate) {
        // While everything has room nobody is admitted on an estimate.
        if !candidate.hash.is_multiple_of(EVERY) || self.threshold() == 0.0 || !self.clock.is_adaptive() {
            return;
        }
        // Whoever does not get the lock at once goes on without: nobody waits for a thread that stopped in here.
        let Some(mut newcomers) = self.newcomers.try_lock() else { return };
        if newcomers.admitted < SAMPLE {
            newcomers.admitted += 1;
            let Candidate { table, hash, importance, .. } = *candidate;
            let importance = importance / self.clock.inflation();
            newcomers.waiting.push_back(Newcomer { table, hash, age: self.clock.age(), importance });
        }
    }

    /// Looks at newcomers of a half-life ago; when a sample is complete, memory becomes longer or shorter.
    pub(super) fn look_at_newcomers(&self) {
        if !self.clock.is_adaptive() {
            return;
        }
        let due = self.clock.age() - std::f64::consts::LN_2;
        let Some(mut newcomers) = self.newcomers.try_lock() else { return };
        // In the order of their admission, but for threads that came to the lock in another.
        while let Some(newcomer) = newcomers.waiting.front().filter(|first| first.age <= due) {
            // A row that others keep claimed is looked at after another step.
            let Some(importance) = self.importance_now(newcomer) else { return };
            let ratio = importance / newcomer.importance.max(f32::MIN_POSITIVE);
            newcomers.waiting.pop_front();
            if let Some(mean) = newcomers.note(ratio) {
                self.clock.adapt(mean);
            }
        }
    }

    /// The importance of its most important chunk: 0 if the row has gone, `None` while it is claimed.
    fn importance_now(&self, newcomer: &Newcomer) -> Option<f32> {
        let guard = self.reclaimer.pin();
        let table = &self.tables[newcomer.table.index()];
        let chains = table.chains(&self.slabs);
        let Some(head) = table.find(&chains, newcomer.hash, &guard) else { return Some(0.0) };
        // In a deterministic store nobody trains now, and who only looks at the row must not change when this does.
        let claim = if self.config.deterministic {
            chains.look(head).map_err(|Gone| Unclaimed::Gone)
        } else {
            chains.look_at_once(head)
        };
        let claim = match claim {
            Ok(claim) => claim,
            Err(Unclaimed::Gone) => return Some(0.0),
            Err(Unclaimed::Busy) => return None,
        };
        let utility = chains.chunks(&claim).map(|chunk| chunk.info().utility).fold(0.0, f32::max);
        let importance = utility / table.scale().max(f32::MIN_POSITIVE) / self.clock.inflation();
        Some(if importance.is_finite() { importance } else { 0.0 })
    }
}

// Not with what AddressSanitizer puts between records: what is admitted, and on what estimate, depends on how many have room.
#[cfg(all(test, not(any(loom, shuttle, dimslab_asan))))]
mod tests {
    use crate::{Optimizer, Store, StoreConfig, TableConfig, TableId};

    /// The memory of a store after batches of such keys by step and position.
    fn memory(keys: impl Fn(u64, u64) -> u64) -> f64 {
        let table = TableConfig::new("t", 8).optimizer(Optimizer::Sgd { lr: 0.01 });
        let store = Store::new(StoreConfig::new(1 << 20).seed(3).deterministic(true), vec![table]).unwrap();
        for step in 0..3000 {
            let batch: Vec<u64> = (0..512).map(|i| keys(step, i)).collect();
            store.apply_gradients(TableId::new(0), &batch, &[0.1; 512 * 8]).unwrap();
            store.step().unwrap();
        }
        f64::from(store.inner.clock.memory())
    }

    #[test]
    fn chance_makes_memory_long_and_fashion_makes_it_short() {
        // A hundred thousand ids, all used alike: whoever is admitted was lucky.
        let chance = memory(|step, i| crate::hash::mix(step * 512 + i, 0) % 100_000);
        // In each step thirteen ids come that are used in forty steps from then on.
        let fashion = memory(|step, i| 13 * step + i);
        assert!(chance > 15.0 && fashion < 5.0, "{chance} {fashion}");
    }
}
