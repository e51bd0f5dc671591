//! Importance of what has no chunk: a count-min sketch of fixed size, so that ids without chunks cost nothing each.
//!
//! Cormode & Muthukrishnan 2005: [`DEPTH`] rows of counters, an id adds to one counter of each and its estimate is their
//! minimum, so it is never too low. Counters are integers, so that sums do not depend on the order of threads.

use crate::sync::{AtomicU32, Ordering};

const DEPTH: usize = 2;
/// Counter steps per unit of importance.
const UNIT: f32 = 4096.0;

pub(crate) struct Sketch {
    counters: Box<[AtomicU32]>,
    width_bits: u32,
}

impl Sketch {
    fn width_bits(bytes: u64) -> u32 {
        (bytes / (4 * DEPTH as u64)).clamp(8, 1 << 30).ilog2()
    }

    /// Bytes that a sketch made with `new(bytes)` takes.
    pub(crate) fn bytes_for(bytes: u64) -> u64 {
        (4 * DEPTH as u64) << Self::width_bits(bytes)
    }

    /// A sketch of at most `bytes` bytes, but at least 64.
    pub(crate) fn new(bytes: u64) -> Sketch {
        let width_bits = Self::width_bits(bytes);
        Sketch { counters: (0..DEPTH << width_bits).map(|_| AtomicU32::new(0)).collect(), width_bits }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.counters.len() as u64 * 4
    }

    fn counters(&self, hash: u64) -> [&AtomicU32; DEPTH] {
        // Two independent halves of one 64-bit hash, one for each row.
        let position = |half: u32| (half >> (32 - self.width_bits.min(32))) as usize & ((1 << self.width_bits) - 1);
        let (low, high) = (position(hash as u32), position((hash >> 32) as u32));
        [&self.counters[low], &self.counters[(1 << self.width_bits) + high]]
    }

    /// Adds importance to an id.
    pub(crate) fn add(&self, hash: u64, importance: f32) {
        // The conversion saturates; a gradient too small to count is dropped.
        let amount = (importance * UNIT + 0.5) as u32;
        for counter in self.counters(hash) {
            // Relaxed: counters are independent figures. Saturating, so that an overflow cannot make an id unimportant.
            let mut count = counter.load(Ordering::Relaxed);
            while let Err(now) = counter.compare_exchange_weak(count, count.saturating_add(amount), Ordering::Relaxed, Ordering::Relaxed) {
                count = now;
            }
        }
    }

    /// An id's importance, or more.
    pub(crate) fn estimate(&self, hash: u64) -> f32 {
        let counts = self.counters(hash).map(|counter| counter.load(Ordering::Relaxed));
        counts.into_iter().min().unwrap_or(0) as f32 / UNIT
    }

    /// Multiplies everything by `factor`, 0 to 1.
    pub(crate) fn decay(&self, factor: f32) {
        for counter in &self.counters {
            let count = counter.load(Ordering::Relaxed);
            if count != 0 {
                // What another thread adds between the two is lost; a sketch is an estimate.
                counter.store((f64::from(count) * f64::from(factor)) as u32, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use xxhash_rust::xxh3::xxh3_64;

    #[test]
    fn never_too_low_and_mostly_close() {
        let sketch = Sketch::new(64 << 10);
        assert_eq!(sketch.bytes(), 64 << 10);
        let hash = |id: u32| xxh3_64(&id.to_le_bytes());
        for id in 0..5000 {
            for _ in 0..1 + id % 3 {
                sketch.add(hash(id), 0.5);
            }
        }
        let errors: Vec<f32> = (0..5000).map(|id| sketch.estimate(hash(id)) - (1 + id % 3) as f32 * 0.5).collect();
        assert!(errors.iter().all(|&error| error >= -1e-3));
        let close = errors.iter().filter(|&&error| error < 0.6).count();
        assert!(close > 4000, "{close}");
        sketch.decay(0.5);
        assert!(sketch.estimate(hash(2)) >= 0.74);
        assert!(sketch.estimate(hash(5_000_000)) < 1.5);
    }

    #[test]
    fn saturates() {
        let sketch = Sketch::new(64);
        sketch.add(1, f32::MAX);
        sketch.add(1, f32::MAX);
        assert!(sketch.estimate(1) > 1e6);
    }
}
