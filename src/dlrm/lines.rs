//! Buffers of `f32` that begin where a cache line does: a vector that straddles two lines takes two loads.

use std::ops::{Deref, DerefMut};

/// Values of a cache line.
const LINE: usize = 16;

/// A buffer that grows, zero where it is new.
#[derive(Default)]
pub(super) struct Lines {
    values: Vec<f32>,
    /// Where the first line begins.
    start: usize,
    len: usize,
}

impl Lines {
    /// Makes the buffer at least `len` long. If it grows, it is all zeros.
    pub(super) fn grow(&mut self, len: usize) {
        if self.len < len {
            self.values = vec![0.0; len + LINE - 1];
            // Where alignment cannot be told there is none; then the buffer is slower.
            self.start = self.values.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE - 1);
            self.len = len;
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.values.capacity() * size_of::<f32>()
    }
}

impl Deref for Lines {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values[self.start..self.start + self.len]
    }
}

impl DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_begin_with_a_line_and_grow() {
        let mut lines = Lines::default();
        assert!(lines.is_empty());
        for len in [1, 16, 17, 100_000, 3] {
            lines.grow(len);
            assert_eq!(lines.as_ptr() as usize % 64, 0);
            assert!(lines.len() >= len);
            lines.fill(1.0);
        }
        assert_eq!(lines.len(), 100_000);
        lines.grow(100_001);
        assert!(lines.iter().all(|value| *value == 0.0));
    }
}
