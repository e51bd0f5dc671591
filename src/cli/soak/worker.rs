//! What one thread does to the store: operations drawn from its seed alone, each with its oracle.

use super::tables::{KINDS, Kind, PERMANENT, PERMANENT_KEYS};
use crate::sync::{AtomicU64, Ordering};
use crate::{Pooling, Store, StoreError, TableId};

/// What all threads work on.
pub(super) struct Shared {
    pub(super) store: Store,
    /// Keys of the tables are drawn from 0 to this.
    pub(super) keys: u64,
    /// Steps that each permanent row took since the last quiet point.
    pub(super) steps: [AtomicU64; PERMANENT_KEYS as usize],
}

/// One thread's operations. Which they are depends on the seed and the thread's number, never on what the store answers.
pub(super) struct Worker<'s> {
    shared: &'s Shared,
    random: Random,
    /// Gives way now and then: two cores then show more than two threads' worth of interleavings.
    gives_way: bool,
}

impl<'s> Worker<'s> {
    pub(super) fn new(shared: &'s Shared, seed: u64, thread: usize, gives_way: bool) -> Worker<'s> {
        Worker { shared, random: Random::new(seed, thread as u64), gives_way }
    }

    /// Does one operation; what broke, if something did.
    pub(super) fn operation(&mut self) -> Result<(), String> {
        let table = self.random.below(PERMANENT as u64) as usize;
        let outcome = match self.random.below(100) {
            0..26 => self.apply(table),
            26..52 => self.gather(table),
            52..60 => self.gather_pooled(table),
            60..66 => self.apply_pooled(table),
            66..74 => self.remove(table),
            74..78 => self.shared.store.step().map(|_| ()).map_err(told),
            78..79 => self.rarely(table),
            79..82 => self.sample(),
            _ => self.step_permanent(),
        };
        match self.random.below(128) {
            0 if self.gives_way => std::thread::yield_now(),
            1 if self.gives_way => std::thread::sleep(std::time::Duration::from_micros(30)),
            _ => {}
        }
        outcome
    }

    /// Skewed, so that some rows are contended and most are cold; with duplicates.
    fn batch(&mut self, most: u64) -> Vec<u64> {
        let count = self.random.below(most) + 1;
        let space = self.shared.keys;
        (0..count)
            .map(|_| {
                let limit = if self.random.below(3) == 0 { 8 } else { space };
                self.random.below(limit)
            })
            .collect()
    }

    /// Bags of 0 to 3 keys, or of one each.
    fn offsets(&mut self, keys: usize) -> Vec<usize> {
        let single = self.random.below(2) == 0;
        let mut offsets = vec![0];
        let mut at = 0;
        while at < keys {
            at += if single { 1 } else { (self.random.below(4) as usize).min(keys - at) };
            offsets.push(at);
        }
        offsets
    }

    fn gradients(&mut self, kind: &Kind, keys: &[u64]) -> Vec<f32> {
        let draw = |key: &u64| std::iter::repeat_n(kind.gradient(*key, self.random.next()), kind.dim);
        keys.iter().flat_map(draw).collect()
    }

    fn apply(&mut self, table: usize) -> Result<(), String> {
        let keys = self.batch(60);
        let grads = self.gradients(&KINDS[table], &keys);
        let applied = self.shared.store.apply_gradients(TableId::new(table), &keys, &grads).map_err(told)?;
        if applied.updated + applied.missed != applied.unique || applied.unique > keys.len() as u64 {
            return Err(format!("table {}: {} keys gave {applied:?}", KINDS[table].name, keys.len()));
        }
        Ok(())
    }

    /// Bags of one key, or of a key and itself: a bag's gradient must suit all its keys.
    fn apply_pooled(&mut self, table: usize) -> Result<(), String> {
        let bags = self.batch(30);
        let twice = self.random.below(2) as usize + 1;
        let keys: Vec<u64> = bags.iter().flat_map(|&key| std::iter::repeat_n(key, twice)).collect();
        let offsets: Vec<usize> = (0..=bags.len()).map(|bag| bag * twice).collect();
        let grads = self.gradients(&KINDS[table], &bags);
        let store = &self.shared.store;
        store
            .apply_pooled_gradients(TableId::new(table), &keys, &offsets, Pooling::Sum, &grads)
            .map(|_| ())
            .map_err(told)
    }

    fn gather(&mut self, table: usize) -> Result<(), String> {
        let (kind, keys) = (&KINDS[table], self.batch(60));
        let mut out = vec![f32::NAN; keys.len() * kind.dim];
        self.shared.store.gather(TableId::new(table), &keys, &mut out).map_err(told)?;
        keys.iter().zip(out.chunks(kind.dim)).try_for_each(|(&key, row)| kind.check(key, row))
    }

    fn gather_pooled(&mut self, table: usize) -> Result<(), String> {
        let (kind, keys) = (&KINDS[table], self.batch(40));
        let offsets = self.offsets(keys.len());
        let pooling = if self.random.below(2) == 0 { Pooling::Sum } else { Pooling::Mean };
        let mut out = vec![f32::NAN; (offsets.len() - 1) * kind.dim];
        let store = &self.shared.store;
        store.gather_pooled(TableId::new(table), &keys, &offsets, pooling, &mut out).map_err(told)?;
        offsets.windows(2).zip(out.chunks(kind.dim)).try_for_each(|(bag, row)| match &keys[bag[0]..bag[1]] {
            &[key] => kind.check(key, row),
            [] if row.iter().any(|&value| value != 0.0) => Err(format!("an empty bag is {row:?}")),
            bag => kind.check_whole(bag.first().copied().unwrap_or(0), row),
        })
    }

    fn remove(&mut self, table: usize) -> Result<(), String> {
        let keys = self.batch(8);
        keys.iter().try_for_each(|&key| self.shared.store.remove(TableId::new(table), key).map(|_| ()).map_err(told))
    }

    /// What takes long, or would change too much if it were frequent.
    fn rarely(&mut self, table: usize) -> Result<(), String> {
        let (kind, store, t) = (&KINDS[table], &self.shared.store, TableId::new(table));
        match self.random.below(8) {
            0 => store.prune().map(|_| ()).map_err(told),
            1..4 => store.iter(t).map_err(told)?.try_for_each(|row| {
                let ordered = row.live.windows(2).all(|pair| pair[0] < pair[1]) && !row.live.is_empty();
                if !ordered {
                    return Err(format!("table {}, key {}: live chunks {:?}", kind.name, row.key, row.live));
                }
                kind.check(row.key, &row.values)
            }),
            _ => store.set_learning_rate(t, kind.rate(self.random.next())).map_err(told),
        }
    }

    fn sample(&self) -> Result<(), String> {
        let stats = self.shared.store.stats();
        if stats.held > stats.budget || stats.peak > stats.budget {
            return Err(format!("{} bytes held, {} at peak, of {}", stats.held, stats.peak, stats.budget));
        }
        Ok(())
    }

    /// Adds 1 to some permanent rows, and counts it.
    fn step_permanent(&mut self) -> Result<(), String> {
        let keys: Vec<u64> = (0..8).map(|_| self.random.below(PERMANENT_KEYS)).collect();
        let grads = vec![-1.0; keys.len() * KINDS[PERMANENT].dim];
        self.shared.store.apply_gradients(TableId::new(PERMANENT), &keys, &grads).map_err(told)?;
        for &key in &keys {
            // Relaxed: read at quiet points only, which the gate's lock orders after this.
            self.shared.steps[key as usize].fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// No call of the soak may fail.
fn told(error: StoreError) -> String {
    format!("a call failed: {error}")
}

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn new(seed: u64, thread: u64) -> Random {
        let mut random = Random((seed ^ (thread << 48)).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        (0..8).for_each(|_| {
            random.next();
        });
        random
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
