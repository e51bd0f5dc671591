//! Training rows: gradients to weights, to utilities, and to the wish for more chunks.

use super::gather::{Located, Touch, Visit, in_order};
use super::grow::{Candidate, Growth};
use super::table::{Table, bump};
use super::{Applied, Inner};
use crate::chain::{Chains, Chunk, Ordinals, RowAt};
use crate::failpoint::{Point, reach};
use crate::hash::tag;
use crate::id::{Info, TableId};
use crate::rowcopy;
use crate::scratch::Combined;
use crate::sequence::{Claim, Gone};
use crate::simd::Kernels;
use crate::sync::{Ordering, thread_local};
use crossbeam_epoch::Guard;
use std::cell::RefCell;

thread_local! {
    /// Buffers of one call, kept for the next.
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

#[derive(Default)]
struct Scratch {
    combined: Combined,
    wanted: Vec<Wanted>,
    shared_order: Vec<(usize, usize)>,
    row: Vec<f32>,
    payload: Vec<f32>,
}

/// A unique key of the batch with dimensions that have no chunk.
#[derive(Clone, Copy)]
struct Wanted {
    position: usize,
    /// `a * g` of one missing chunk, in utility.
    utility: f32,
    /// Ordinals of the row's live chunks.
    live: Ordinals,
}

impl Inner {
    /// Lengths and finiteness were checked. `gradient(i)` is the gradient of the i-th key and its weight.
    pub(super) fn apply<'g>(
        &self,
        id: TableId,
        table: &Table,
        keys: &[u64],
        gradient: impl Fn(usize) -> (&'g [f32], f32),
    ) -> (Applied, Growth) {
        SCRATCH.with(|scratch| {
            let scratch = &mut *scratch.borrow_mut();
            let simd = Kernels::get();
            let resolved = keys.iter().map(|&key| table.resolve(key));
            scratch.combined.fill(simd, table.layout.dim, resolved, &gradient);
            self.apply_combined(id, table, simd, scratch, &gradient)
        })
    }

    fn apply_combined<'g>(
        &self,
        id: TableId,
        table: &Table,
        simd: Kernels,
        scratch: &mut Scratch,
        gradient: &impl Fn(usize) -> (&'g [f32], f32),
    ) -> (Applied, Growth) {
        let guard = &self.reclaimer.pin();
        let chains = &table.chains(&self.slabs);
        let step = RowStep { table, chains, simd, lr: table.learning_rate(), inflation: self.clock.inflation() };
        let combined = &scratch.combined;
        let mut applied = Applied { unique: combined.hashes.len() as u64, ..Applied::default() };
        scratch.wanted.clear();
        scratch.payload.clear();
        scratch.payload.resize(table.layout.payload_words(), 0.0);
        let mut steps = Steps {
            step: &step,
            combined,
            gradient,
            guard,
            payload: &mut scratch.payload,
            wanted: &mut scratch.wanted,
            updated: 0,
            norms: 0.0,
            accesses: 0,
        };
        let hashes = (combined.hashes.as_slice(), |hash| hash);
        in_order(table, chains, hashes, Touch::All, guard, &mut steps);
        let Steps { updated, norms, accesses, .. } = steps;
        applied.updated = updated;
        self.clock.count_accesses(accesses);
        if accesses > 0 {
            table.learn_scale((norms / accesses as f64 / (table.layout.chunks as f64).sqrt()) as f32);
        }
        applied.missed = applied.unique - applied.updated;
        bump(&table.counters.missed, applied.missed);
        if table.shared.is_some() {
            self.train_fallback(table, simd, scratch, gradient);
        }
        let growth = self.wish(id, table, scratch, guard);
        (applied, growth)
    }

    /// Hands what is missing to growth, now or at the end of the step.
    fn wish(&self, id: TableId, table: &Table, scratch: &Scratch, guard: &Guard) -> Growth {
        let (combined, wanted) = (&scratch.combined, &scratch.wanted);
        if wanted.is_empty() {
            return Growth::default();
        }
        // Without a scale yet no gradient was above zero, and nothing is important.
        let per_unit = if table.scale() > 0.0 { table.scale().recip() } else { 0.0 };
        let mut candidates = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let hash = combined.hashes[wanted.position];
            let has_row = wanted.live != Ordinals::default();
            candidates.push(Candidate { table: id, hash, has_row, importance: wanted.utility * per_unit });
        }
        if self.config.deterministic {
            self.pending.lock().append(&mut candidates);
            return Growth::default();
        }
        self.grow(candidates, guard)
    }

    /// Gives the gradients of missing dimensions to the shared rows that stood in for them, each row one step with the
    /// sum of what came to it.
    fn train_fallback<'g>(
        &self,
        table: &Table,
        simd: Kernels,
        scratch: &mut Scratch,
        gradient: &impl Fn(usize) -> (&'g [f32], f32),
    ) {
        let Some(shared) = &table.shared else { return };
        let dim = table.layout.dim;
        let Scratch { combined, wanted, shared_order, row, payload } = scratch;
        shared_order.clear();
        let rows = wanted.iter().enumerate();
        shared_order
            .extend(rows.map(|(entry, wanted)| (table.shared_row(shared, combined.hashes[wanted.position]), entry)));
        // Stable within a row: entries are in the batch's order.
        shared_order.sort_unstable();
        let mut at = 0;
        while at < shared_order.len() {
            let target = shared_order[at].0;
            row.clear();
            row.resize(dim, 0.0);
            while at < shared_order.len() && shared_order[at].0 == target {
                let wanted = wanted[shared_order[at].1];
                let grad = combined.gradient(wanted.position, dim, gradient);
                for ordinal in (0..table.layout.chunks).filter(|&ordinal| !wanted.live.contains(ordinal)) {
                    let dims = table.layout.dims(ordinal);
                    simd.add(&mut row[dims.clone()], &grad[dims]);
                }
                at += 1;
            }
            shared.step(target, &table.config.optimizer, simd, table.learning_rate(), row, payload);
        }
    }
}

/// Steps the rows of a batch.
struct Steps<'s, 'g, G> {
    step: &'s RowStep<'g>,
    combined: &'s Combined,
    gradient: &'s G,
    guard: &'g Guard,
    payload: &'s mut [f32],
    wanted: &'s mut Vec<Wanted>,
    updated: u64,
    norms: f64,
    accesses: u64,
}

impl<'g, 'a, G: Fn(usize) -> (&'a [f32], f32)> Visit<'g> for &mut Steps<'_, 'g, G> {
    #[inline(always)]
    fn visit<const SINGLE: bool>(&mut self, position: usize, located: &Located<'g>) {
        let RowStep { table, chains, simd, .. } = self.step;
        let grad = self.combined.gradient(position, table.layout.dim, self.gradient);
        let count = self.combined.counts[position];
        let mut row = located.row(table, chains, self.guard);
        let (squares, wanted) = loop {
            let Some(head) = row else {
                let squares = simd.sum_squares(grad);
                break (squares, self.step.missing(squares, count, Ordinals::default(), 0));
            };
            match self.step.present::<SINGLE>((tag(located.hash), head), grad, count, self.payload) {
                Ok(stepped) => {
                    self.updated += 1;
                    break stepped;
                }
                Err(Gone) => row = table.find(chains, located.hash, self.guard),
            }
        };
        self.norms += f64::from(count) * f64::from(squares).sqrt();
        self.accesses += u64::from(count);
        if let Some((utility, live)) = wanted {
            self.wanted.push(Wanted { position, utility, live });
        }
    }
}

/// What one row's step needs besides the row.
struct RowStep<'a> {
    table: &'a Table,
    chains: &'a Chains<'a>,
    simd: Kernels,
    lr: f32,
    inflation: f32,
}

/// The utility of one missing chunk and the chunks that are there; `None` if the row is whole or the gradient zero.
type Missing = Option<(f32, Ordinals)>;

impl RowStep<'_> {
    fn missing(&self, squares: f32, count: u32, live: Ordinals, chunks: usize) -> Missing {
        let absent = self.table.layout.chunks - chunks;
        if absent == 0 {
            return None;
        }
        // The norm of one missing chunk's gradient, if they are alike: which of them is grown is not known yet.
        let norm = (squares.max(0.0) / absent as f32).sqrt();
        Some((count as f32 * norm * self.inflation, live))
    }

    /// Steps the live chunks of a row and returns the gradient's squared norm beside what is missing. `payload` is scratch of a
    /// chunk's size.
    #[inline(always)]
    fn present<const SINGLE: bool>(
        &self,
        row: RowAt,
        grad: &[f32],
        count: u32,
        payload: &mut [f32],
    ) -> Result<(f32, Missing), Gone> {
        let layout = &self.table.layout;
        if SINGLE {
            let claim = self.chains.claim(row)?;
            let row_state = self.row_state(&claim, grad);
            let squares = self.chunk(&self.chains.first_chunk(&claim), grad, row_state, count, payload);
            return Ok((squares, None));
        }
        let squares = self.simd.sum_squares(grad);
        let claim = self.chains.claim(row)?;
        let row_state = self.row_state(&claim, grad);
        let mut live = Ordinals::default();
        let mut chunks = 0;
        for chunk in self.chains.chunks(&claim) {
            let ordinal = chunk.info().ordinal as usize;
            self.chunk(&chunk, &grad[layout.dims(ordinal)], row_state, count, payload);
            live.insert(ordinal);
            chunks += 1;
        }
        drop(claim);
        if chunks == layout.chunks {
            return Ok((squares, None));
        }
        // In the order of ordinals, as below: that of the chain is not kept in a snapshot, and sums would differ by it.
        let missing = (0..layout.chunks).filter(|&ordinal| !live.contains(ordinal));
        let absent = missing.map(|ordinal| self.simd.sum_squares(&grad[layout.dims(ordinal)])).sum();
        Ok((squares, self.missing(absent, count, live, chunks)))
    }

    /// Steps one chunk of a claimed row with its part of the gradient, whose squared norm it returns.
    #[inline(always)]
    fn chunk(&self, chunk: &Chunk<'_>, grad: &[f32], row_state: f32, count: u32, payload: &mut [f32]) -> f32 {
        let Info { utility, ordinal } = chunk.info();
        let (optimizer, dims) = (&self.table.config.optimizer, self.table.layout.chunk);
        rowcopy::load(&chunk.payload[..payload.len()], payload);
        let squares = optimizer.step_chunk(self.simd, self.lr, payload, dims, row_state, grad);
        rowcopy::store(payload, &chunk.payload[..payload.len()]);
        reach(Point::ChunkStepped);
        chunk.set_info(Info { utility: utility + count as f32 * squares.sqrt() * self.inflation, ordinal });
        squares
    }

    /// Steps the state that the row has once.
    #[inline]
    fn row_state(&self, claim: &Claim<'_>, grad: &[f32]) -> f32 {
        let Some(word) = self.chains.row_state(claim) else { return 0.0 };
        let (mut squares, mut dims) = (0.0, 0);
        let (live, layout) = (self.chains.ordinals(claim), &self.table.layout);
        for ordinal in (0..layout.chunks).filter(|&ordinal| live.contains(ordinal)) {
            let grad = &grad[layout.dims(ordinal)];
            squares += self.simd.sum_squares(grad);
            dims += grad.len();
        }
        // Relaxed: under the claim.
        let after = self.table.config.optimizer.step_row(f32::from_bits(word.load(Ordering::Relaxed)), squares, dims);
        word.store(after.to_bits(), Ordering::Relaxed);
        after
    }
}
