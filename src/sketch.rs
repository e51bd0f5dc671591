//! Importance of what has no chunk: a count-min sketch of fixed size, so that ids without chunks cost nothing each.
//!
//! Cormode & Muthukrishnan 2005, with the conservative update of Estan & Varghese 2002: an id has one counter in each of
//! [`DEPTH`] rows, its estimate is their minimum, and an addition raises only the counters below the new estimate. So an
//! estimate is never too low, but for rounding. A counter is a 16-bit float, 6 bits of exponent and 10 of mantissa.

use crate::sync::{AtomicU32, Ordering};

const DEPTH: usize = 2;
const MANTISSA_BITS: u32 = 10;
/// Bits of an f32 that a counter drops.
const DROPPED: u32 = 23 - MANTISSA_BITS;
/// The f32 exponent of a counter's smallest value, 2^-31; values reach to 2^33.
const EXPONENT_BASE: u32 = 96 << 23;

fn decode(counter: u16) -> f32 {
    if counter == 0 { 0.0 } else { f32::from_bits(EXPONENT_BASE + (u32::from(counter) << DROPPED)) }
}

fn encode(value: f32) -> u16 {
    // Rounded to nearest; NaN does not occur (gradients were checked) and would become the largest value.
    let bits = (value.to_bits() + (1 << (DROPPED - 1))).saturating_sub(EXPONENT_BASE) >> DROPPED;
    bits.min(u32::from(u16::MAX)) as u16
}

pub(crate) struct Sketch {
    /// Two counters a word.
    words: Box<[AtomicU32]>,
    width_bits: u32,
}

/// A counter's word and its shift.
type Place<'s> = (&'s AtomicU32, u32);

impl Sketch {
    fn width_bits(bytes: u64) -> u32 {
        (bytes / (2 * DEPTH as u64)).clamp(16, 1 << 31).ilog2()
    }

    /// Bytes that a sketch made with `new(bytes)` takes.
    pub(crate) fn bytes_for(bytes: u64) -> u64 {
        (2 * DEPTH as u64) << Self::width_bits(bytes)
    }

    /// A sketch of at most `bytes` bytes, but at least 64.
    pub(crate) fn new(bytes: u64) -> Sketch {
        let width_bits = Self::width_bits(bytes);
        Sketch { words: (0..(DEPTH << width_bits) / 2).map(|_| AtomicU32::new(0)).collect(), width_bits }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.words.len() as u64 * 4
    }

    fn places(&self, hash: u64) -> [Place<'_>; DEPTH] {
        // Two independent halves of one 64-bit hash, one for each row.
        let halves = [hash as u32, (hash >> 32) as u32];
        std::array::from_fn(|row| {
            let column = (u64::from(halves[row]) << self.width_bits >> 32) as usize;
            let position = (row << self.width_bits) + column;
            (&self.words[position / 2], (position % 2) as u32 * 16)
        })
    }

    fn minimum(places: &[Place<'_>; DEPTH]) -> u16 {
        // Relaxed: counters are independent figures.
        places.iter().map(|(word, shift)| (word.load(Ordering::Relaxed) >> shift) as u16).min().unwrap_or(0)
    }

    /// Adds importance to an id and returns its importance now, or more.
    pub(crate) fn add(&self, hash: u64, importance: f32) -> f32 {
        let places = self.places(hash);
        let raised = encode(decode(Self::minimum(&places)) + importance);
        for (word, shift) in places {
            let mut held = word.load(Ordering::Relaxed);
            while ((held >> shift) as u16) < raised {
                let wanted = held & !(0xFFFF << shift) | u32::from(raised) << shift;
                match word.compare_exchange_weak(held, wanted, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => break,
                    Err(now) => held = now,
                }
            }
        }
        decode(raised)
    }

    /// All counters, two a word, for a snapshot.
    pub(crate) fn words(&self) -> Vec<u32> {
        self.words.iter().map(|word| word.load(Ordering::Relaxed)).collect()
    }

    /// Goes on from what [`words`](Self::words) gave. False if that was a sketch of another size.
    pub(crate) fn set_words(&self, words: &[u32]) -> bool {
        let fits = words.len() == self.words.len();
        if fits {
            self.words.iter().zip(words).for_each(|(word, &value)| word.store(value, Ordering::Relaxed));
        }
        fits
    }

    /// Multiplies everything by `factor`, 0 to 1.
    pub(crate) fn decay(&self, factor: f32) {
        for word in &self.words {
            let held = word.load(Ordering::Relaxed);
            if held != 0 {
                let [low, high] = [held as u16, (held >> 16) as u16].map(|counter| encode(decode(counter) * factor));
                // What another thread adds between the two is lost; a sketch is an estimate.
                word.store(u32::from(low) | u32::from(high) << 16, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use xxhash_rust::xxh3::xxh3_64;

    proptest! {
        #[test]
        fn counters_are_close_and_ordered(value in 1e-8f32..1e9, other in 1e-8f32..1e9) {
            let back = decode(encode(value));
            prop_assert!((back - value).abs() <= value / 1024.0);
            prop_assert_eq!(encode(value) > encode(other), back > decode(encode(other)));
        }
    }

    #[test]
    fn never_much_too_low_and_mostly_close() {
        let sketch = Sketch::new(64 << 10);
        assert_eq!((sketch.bytes(), Sketch::bytes_for(64 << 10)), (64 << 10, 64 << 10));
        let hash = |id: u32| xxh3_64(&id.to_le_bytes());
        for id in 0..8000 {
            for _ in 0..1 + id % 3 {
                sketch.add(hash(id), 0.5);
            }
        }
        let errors: Vec<f32> = (0..8000).map(|id| sketch.add(hash(id), 0.0) - (1 + id % 3) as f32 * 0.5).collect();
        assert!(errors.iter().all(|&error| error >= -0.01));
        let close = errors.iter().filter(|&&error| error < 0.6).count();
        assert!(close > 7000, "{close}");
        sketch.decay(0.5);
        assert!(sketch.add(hash(2), 0.0) >= 0.74);
        assert!(sketch.add(hash(5_000_000), 0.0) < 1.5);
    }

    #[test]
    fn extremes_saturate() {
        let sketch = Sketch::new(64);
        sketch.add(1, f32::MAX);
        assert!(sketch.add(1, f32::MAX) > 1e9);
        assert_eq!((encode(0.0), encode(1e-20), decode(0)), (0, 0, 0.0));
    }
}
