//! HotSketch (Zhang et al., SIGMOD'24, section 3): buckets of four slots, each with a key, its score and the place of its
//! row. A key that finds its bucket full takes the place of the least, and its score on top of its own (SpaceSaving), so
//! that scores are never too low.

use crate::data::mix;

const WAYS: usize = 4;
const NOBODY: u32 = u32::MAX;
/// A slot whose key has no row.
pub(crate) const NOWHERE: u32 = u32::MAX;

/// One key's slot.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Slot {
    key: u32,
    pub(crate) score: f32,
    /// Place of the key's own row, or [`NOWHERE`].
    pub(crate) row: u32,
}

const EMPTY: Slot = Slot { key: NOBODY, score: 0.0, row: NOWHERE };

/// Buckets of slots, in one array.
pub(crate) struct HotSketch {
    slots: Vec<Slot>,
    seed: u64,
}

impl HotSketch {
    /// Bytes of a bucket.
    pub(crate) const BUCKET_BYTES: u64 = (WAYS * size_of::<Slot>()) as u64;

    pub(crate) fn new(buckets: usize, seed: u64) -> HotSketch {
        HotSketch { slots: vec![EMPTY; buckets * WAYS], seed }
    }

    pub(crate) fn bytes(&self) -> u64 {
        (self.slots.len() * size_of::<Slot>()) as u64
    }

    fn bucket(&self, key: u32) -> std::ops::Range<usize> {
        let buckets = self.slots.len() / WAYS;
        let first = ((u128::from(mix(self.seed ^ u64::from(key))) * buckets as u128) >> 64) as usize * WAYS;
        first..first + WAYS.min(self.slots.len())
    }

    /// The slot of a key.
    pub(crate) fn find(&self, key: u32) -> Option<&Slot> {
        self.slots[self.bucket(key)].iter().find(|slot| slot.key == key)
    }

    /// Adds to a key's score. Returns its slot, and the row of the key that it drove out, if that had one.
    pub(crate) fn add(&mut self, key: u32, score: f32) -> Option<(&mut Slot, Option<u32>)> {
        let bucket = self.bucket(key);
        let slots = &mut self.slots[bucket];
        if let Some(at) = slots.iter().position(|slot| slot.key == key) {
            slots[at].score += score;
            return Some((&mut slots[at], None));
        }
        // Empty slots have the least score of all.
        let least = slots.iter_mut().min_by(|one, other| one.score.total_cmp(&other.score))?;
        let left = (least.row != NOWHERE).then_some(least.row);
        *least = Slot { key, score: least.score + score, row: NOWHERE };
        Some((least, left))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|slot| slot.key != NOBODY)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.slots.iter_mut().filter(|slot| slot.key != NOBODY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recall of the true first of a Zipf law in a sketch of four slots for each, whatever the tail drives through it.
    #[test]
    fn the_hottest_are_found() {
        let mut sketch = HotSketch::new(1000, 7);
        assert_eq!(sketch.bytes(), 1000 * HotSketch::BUCKET_BYTES);
        let mut counts = vec![0u32; 200_000];
        let mut state = 5u64;
        for _ in 0..2_000_000 {
            state = mix(state);
            // The inverse of the distribution function of rank^-1.05, nearly.
            let u = (state >> 11) as f64 / (1u64 << 53) as f64;
            let span = 1.0 - 200_000f64.powf(-0.05);
            let rank = ((1.0 - u * span).powf(-20.0) - 1.0) as usize;
            let rank = rank.min(199_999);
            counts[rank] += 1;
            sketch.add(rank as u32, 1.0);
        }
        let mut scores: Vec<(f32, u32)> = sketch.iter().map(|slot| (slot.score, slot.key)).collect();
        scores.sort_by(|one, other| other.0.total_cmp(&one.0));
        let mut truth: Vec<usize> = (0..counts.len()).collect();
        truth.sort_by_key(|&id| std::cmp::Reverse(counts[id]));
        let found = |first: usize| {
            let known = |id: &&usize| scores[..first].iter().any(|slot| slot.1 as usize == **id);
            truth[..first].iter().filter(known).count()
        };
        assert!(found(250) > 230, "{} of 250", found(250));
        assert!(found(1000) > 550, "{} of 1000", found(1000));
        for slot in sketch.iter() {
            assert!(slot.score as u32 >= counts[slot.key as usize], "scores are never too low");
        }
    }

    #[test]
    fn the_least_leaves_and_gives_its_row_back() {
        let mut sketch = HotSketch::new(1, 7);
        for (key, score) in [(1, 5.0), (2, 3.0), (3, 1.0), (4, 4.0)] {
            sketch.add(key, score).unwrap().0.row = key * 10;
        }
        let (slot, left) = sketch.add(9, 0.5).unwrap();
        assert_eq!((slot.score, slot.row, left), (1.5, NOWHERE, Some(30)));
        assert!(sketch.find(3).is_none() && sketch.find(9).is_some());
        assert_eq!(sketch.add(1, 1.0).unwrap().0.score, 6.0);
        assert!(HotSketch::new(0, 1).add(3, 1.0).is_none());
    }
}
