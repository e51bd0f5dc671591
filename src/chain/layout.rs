//! How rows are cut into chunks, and where records have what.

use super::{HEAD_LINK, IMAGE_HEADER, TAIL_PAYLOAD};
use crate::config::Optimizer;

/// How the rows of a table are laid out.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RowLayout {
    pub(crate) dim: usize,
    /// Dimensions of a chunk.
    pub(crate) chunk: usize,
    /// Chunks of a whole row.
    pub(crate) chunks: usize,
    /// Words of weights and state of one chunk.
    pub(super) payload: usize,
    /// Where a head has the state that the row has once, and its payload if there is none.
    pub(super) row_state: usize,
    pub(super) head_payload: usize,
}

impl RowLayout {
    pub(crate) fn new(dim: usize, chunk: usize, optimizer: &Optimizer) -> RowLayout {
        let chunk = chunk.min(dim);
        let chunks = dim.div_ceil(chunk);
        let row_state = if chunks > 1 { HEAD_LINK + 1 } else { HEAD_LINK };
        RowLayout {
            dim,
            chunk,
            chunks,
            payload: chunk + optimizer.chunk_state_words(chunk),
            row_state,
            head_payload: row_state + optimizer.row_state_words(),
        }
    }

    pub(crate) fn head_words(&self) -> usize {
        self.head_payload + self.payload
    }

    pub(crate) fn tail_words(&self) -> usize {
        TAIL_PAYLOAD + self.payload
    }

    /// Words of weights and state of one chunk.
    #[inline]
    pub(crate) fn payload_words(&self) -> usize {
        self.payload
    }

    /// Most words of a row's image.
    pub(crate) fn image_words_max(&self) -> usize {
        IMAGE_HEADER + self.row_state_words() + self.chunks * (1 + self.payload)
    }

    /// Words of state that a row has once: 0 or 1.
    pub(crate) fn row_state_words(&self) -> usize {
        self.head_payload - self.row_state
    }

    /// The dimensions of a chunk.
    #[inline]
    pub(crate) fn dims(&self, ordinal: usize) -> std::ops::Range<usize> {
        ordinal * self.chunk..((ordinal + 1) * self.chunk).min(self.dim)
    }
}

/// A set of ordinals. Those below 64, of nearly all rows there are, stand by themselves: in a register.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ordinals {
    low: u64,
    high: [u64; 3],
}

impl Ordinals {
    #[inline(always)]
    pub(crate) fn insert(&mut self, ordinal: usize) {
        match ordinal.checked_sub(64) {
            None => self.low |= 1 << ordinal,
            Some(ordinal) => self.high[ordinal / 64] |= 1 << (ordinal % 64),
        }
    }

    #[inline(always)]
    pub(crate) fn contains(&self, ordinal: usize) -> bool {
        match ordinal.checked_sub(64) {
            None => self.low >> ordinal & 1 == 1,
            Some(ordinal) => self.high[ordinal / 64] >> (ordinal % 64) & 1 == 1,
        }
    }

    /// Whether all below a number are in it, which none is above; that number is not 0.
    #[inline]
    pub(crate) fn are_all_of(&self, chunks: usize) -> bool {
        if chunks <= 64 { self.low == u64::MAX >> (64 - chunks) } else { self.len() == chunks }
    }

    pub(crate) fn len(&self) -> usize {
        self.words().iter().map(|word| word.count_ones() as usize).sum()
    }

    fn words(&self) -> [u64; 4] {
        let [b, c, d] = self.high;
        [self.low, b, c, d]
    }

    /// From the lowest to the highest.
    #[inline]
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> {
        self.words().into_iter().zip([0, 64, 128, 192]).flat_map(|(mut bits, first)| {
            std::iter::from_fn(move || {
                let bit = bits.trailing_zeros() as usize;
                let is_set = bits != 0;
                bits &= bits.wrapping_sub(1);
                is_set.then_some(first + bit)
            })
        })
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn ordinals_are_all_of_a_row_when_none_is_missing() {
        for chunks in [1, 2, 63, 64, 65, 128, 255, 256] {
            let mut live = Ordinals::default();
            for ordinal in (0..chunks).rev() {
                assert!(!live.are_all_of(chunks) && !live.contains(ordinal), "{ordinal} of {chunks}");
                live.insert(ordinal);
                assert_eq!(live.len(), chunks - ordinal);
            }
            assert!(live.are_all_of(chunks));
            assert!(live.iter().eq(0..chunks));
        }
    }
}
