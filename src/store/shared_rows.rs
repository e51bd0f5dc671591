//! The vectors that stand in for what has no chunk: one default vector, or hashed rows that many keys share.

use crate::config::{Fallback, Optimizer};
use crate::failpoint::{Point, reach};
use crate::rowcopy;
use crate::sequence::{self, Claim};
use crate::simd::Kernels;
use crate::sync::{AtomicU32, Ordering};
use std::ops::Range;

/// `rows` records of `[ sequence | row state? | weights | state ]`, always live.
pub(super) struct SharedRows {
    words: Box<[AtomicU32]>,
    record_words: usize,
    rows: usize,
    dim: usize,
    payload: usize,
}

fn record_words(dim: usize, optimizer: &Optimizer) -> usize {
    1 + optimizer.row_state_words() + dim + optimizer.chunk_state_words(dim)
}

fn rows_of(fallback: Fallback) -> usize {
    match fallback {
        Fallback::Zero => 0,
        Fallback::DefaultVector => 1,
        Fallback::HashedRow { rows } => rows,
    }
}

impl SharedRows {
    /// Bytes that a table's fallback takes; `None` if that overflows.
    pub(super) fn bytes_for(fallback: Fallback, dim: usize, optimizer: &Optimizer) -> Option<u64> {
        (rows_of(fallback) as u64).checked_mul(record_words(dim, optimizer) as u64 * 4)
    }

    /// Bytes of weights among them.
    pub(super) fn weight_bytes(&self) -> u64 {
        (self.rows * self.dim * 4) as u64
    }

    pub(super) fn bytes(&self) -> u64 {
        self.words.len() as u64 * 4
    }

    /// The rows of a table's fallback, all zero; `None` for [`Fallback::Zero`].
    pub(super) fn new(fallback: Fallback, dim: usize, optimizer: &Optimizer) -> Option<SharedRows> {
        let (rows, record_words) = (rows_of(fallback), record_words(dim, optimizer));
        let words: Box<[AtomicU32]> = (0..rows * record_words).map(|_| AtomicU32::new(0)).collect();
        let shared = SharedRows { words, record_words, rows, dim, payload: 1 + optimizer.row_state_words() };
        let mut payload = vec![0f32; record_words - shared.payload];
        optimizer.init_state(&mut payload, dim);
        for row in 0..rows {
            let record = shared.record(row);
            if shared.payload > 1 {
                record[1].store(optimizer.initial_row_state().to_bits(), Ordering::Relaxed);
            }
            rowcopy::store(&payload, &record[shared.payload..]);
            // Shared rows have no phase: a snapshot takes them when it begins.
            sequence::start(record, 0);
        }
        (rows > 0).then_some(shared)
    }

    fn record(&self, row: usize) -> &[AtomicU32] {
        &self.words[row * self.record_words..(row + 1) * self.record_words]
    }

    /// Which row stands in for the key with this hash.
    #[inline]
    pub(super) fn row_for(&self, hash: u64) -> usize {
        // The hash's middle bits: its ends choose directory slots and sketch counters.
        (((hash >> 16) as u32 as u64 * self.rows as u64) >> 32) as usize
    }

    #[inline]
    pub(super) fn prefetch(&self, row: usize) {
        rowcopy::prefetch_words(&self.record(row)[..self.payload + self.dim]);
    }

    /// Copies the weights of some of a row's dimensions to their places in `out`, `[dim]`.
    #[inline]
    pub(super) fn read(&self, row: usize, dims: impl Iterator<Item = Range<usize>> + Clone, out: &mut [f32]) {
        let record = self.record(row);
        let weights = &record[self.payload..self.payload + self.dim];
        let copied = sequence::read(record, || {
            dims.clone().for_each(|dims| rowcopy::load(&weights[dims.clone()], &mut out[dims]));
            Some(())
        });
        debug_assert!(copied.is_ok(), "shared rows are always live");
    }

    /// The weights of all rows, `[rows, dim]`, and their state, `[rows, state]`, for a snapshot.
    pub(super) fn save(&self) -> (Vec<f32>, Vec<f32>) {
        let (mut weights, mut states) = (Vec::with_capacity(self.rows * self.dim), Vec::new());
        let mut words = vec![0f32; self.record_words - 1];
        states.reserve_exact(self.rows * self.state_words());
        for row in 0..self.rows {
            let record = self.record(row);
            let copied = sequence::read(record, || {
                rowcopy::load(&record[1..], &mut words);
                Some(())
            });
            debug_assert!(copied.is_ok(), "shared rows are always live");
            let (row_state, payload) = words.split_at(self.payload - 1);
            weights.extend_from_slice(&payload[..self.dim]);
            states.extend_from_slice(row_state);
            states.extend_from_slice(&payload[self.dim..]);
        }
        (weights, states)
    }

    /// Words of a row's state in a snapshot.
    fn state_words(&self) -> usize {
        self.record_words - 1 - self.dim
    }

    /// Number of rows.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Goes on from what [`save`](Self::save) gave. False if those were other rows.
    pub(super) fn restore(&self, weights: &[f32], states: &[f32]) -> bool {
        let state = self.state_words();
        if weights.len() != self.rows * self.dim || states.len() != self.rows * state {
            return false;
        }
        for row in 0..self.rows {
            let record = self.record(row);
            let (row_state, chunk_state) = states[row * state..(row + 1) * state].split_at(self.payload - 1);
            rowcopy::store(row_state, &record[1..self.payload]);
            rowcopy::store(
                &weights[row * self.dim..(row + 1) * self.dim],
                &record[self.payload..self.payload + self.dim],
            );
            rowcopy::store(chunk_state, &record[self.payload + self.dim..]);
        }
        true
    }

    /// One optimizer step on a row, gradient `[dim]`. `payload` is scratch.
    pub(super) fn step(
        &self,
        row: usize,
        optimizer: &Optimizer,
        simd: Kernels,
        lr: f32,
        grad: &[f32],
        payload: &mut Vec<f32>,
    ) {
        let record = self.record(row);
        let Ok(claim) = sequence::claim(record) else {
            debug_assert!(false, "shared rows are always live");
            return;
        };
        let row_state = self.step_row(&claim, optimizer, simd, grad);
        reach(Point::SharedRowStepped);
        payload.resize(self.record_words - self.payload, 0.0);
        rowcopy::load(&record[self.payload..], payload);
        optimizer.step_chunk(simd, lr, payload, self.dim, row_state, grad);
        rowcopy::store(payload, &record[self.payload..]);
    }

    fn step_row(&self, claim: &Claim<'_>, optimizer: &Optimizer, simd: Kernels, grad: &[f32]) -> f32 {
        if self.payload == 1 {
            return 0.0;
        }
        let before = f32::from_bits(claim.record[1].load(Ordering::Relaxed));
        let after = optimizer.step_row(before, simd.sum_squares(grad), self.dim);
        claim.record[1].store(after.to_bits(), Ordering::Relaxed);
        after
    }
}
