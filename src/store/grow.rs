//! Giving chunks: admission of rows, growth of rows, refusal at the limit.

use super::Inner;
use super::table::{Table, bump};
use crate::chain::{Chains, NewChunk};
use crate::directory::Inserted;
use crate::failpoint::{Point, reach};
use crate::hash::tag;
use crate::id::{ChunkIndex, Info, TableId};
use crate::reclaim::Magazines;
use crate::superblocks::AllocError;
use crate::sync::Ordering;
use crossbeam_epoch::Guard;

/// A key with dimensions that have no chunk and were trained.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) table: TableId,
    pub(super) hash: u64,
    /// Whether there was a row of it a moment ago.
    pub(super) has_row: bool,
    /// What the step adds to its importance.
    pub(super) importance: f32,
}

/// What became of candidates.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Growth {
    pub(super) admitted: u64,
    pub(super) grown: u64,
    pub(super) refused: u64,
    /// Why the last one was refused.
    pub(super) reason: Option<AllocError>,
}

/// One call's magazines and scratch.
struct Grower<'i> {
    inner: &'i Inner,
    guard: &'i Guard,
    magazines: Magazines<'i>,
    /// Slabs that were out of room a moment ago: no need to ask again for every candidate.
    exhausted: Vec<Option<AllocError>>,
    /// Scratch: a row's values, and a chunk's values and state.
    row: Vec<f32>,
    payload: Vec<f32>,
    growth: Growth,
}

impl Inner {
    /// Counts candidates in the sketch and gives chunks to those that have earned them, the most important first.
    pub(super) fn grow(&self, mut candidates: Vec<Candidate>, guard: &Guard) -> Growth {
        let wanted = self.growth_threshold();
        if let Some(sketch) = &self.sketch {
            candidates
                .iter_mut()
                .for_each(|candidate| candidate.importance = sketch.add(candidate.hash, candidate.importance));
            candidates.retain(|candidate| candidate.importance >= wanted);
            // Stable, so equals keep the order in which they came.
            candidates.sort_by(|one, other| other.importance.total_cmp(&one.importance));
        }
        let slabs = self.slabs.iter().count();
        let mut grower = Grower {
            inner: self,
            guard,
            magazines: Magazines::new(&self.slabs),
            exhausted: vec![None; slabs],
            row: Vec::new(),
            payload: Vec::new(),
            growth: Growth::default(),
        };
        // Until the budget has been full once, nothing has to be earned and rows are made whole.
        let whole = wanted == 0.0;
        for candidate in &candidates {
            let table = &self.tables[candidate.table.index()];
            grower.candidate(table, candidate, whole);
        }
        let Grower { growth, .. } = grower;
        if growth.refused > 0 {
            self.pressure.store(true, Ordering::Relaxed);
        }
        growth
    }
}

impl Grower<'_> {
    fn candidate(&mut self, table: &Table, candidate: &Candidate, whole: bool) {
        let chains = table.chains(&self.inner.slabs);
        // A row that was missing when its gradient came is made at once: the directory tells if it is there by now.
        let mut look = candidate.has_row;
        let outcome = loop {
            let row = if look { table.find(&chains, candidate.hash, self.guard) } else { None };
            look = true;
            match row {
                None => match self.admit(table, &chains, candidate) {
                    Ok(true) if whole && table.layout.chunks > 1 => {}
                    Ok(true) => break Ok(()),
                    Ok(false) => {}
                    Err(error) => break Err(error),
                },
                Some(head) => match self.extend(table, &chains, head, candidate, whole) {
                    Ok(true) => break Ok(()),
                    Ok(false) => {}
                    Err(error) => break Err(error),
                },
            }
        };
        if let Err(error) = outcome {
            self.growth.refused += 1;
            bump(&table.counters.refused, 1);
            self.growth.reason = Some(error);
        }
    }

    fn alloc(&mut self, slab: usize) -> Result<ChunkIndex, AllocError> {
        if let Some(error) = self.exhausted[slab] {
            return Err(error);
        }
        let outcome = self.magazines.alloc(slab, self.guard);
        self.exhausted[slab] = outcome.err();
        outcome
    }

    fn utility(table: &Table, candidate: &Candidate) -> f32 {
        candidate.importance * table.scale()
    }

    /// Makes a row of one chunk. `Ok(false)`: another thread was first.
    fn admit(&mut self, table: &Table, chains: &Chains<'_>, candidate: &Candidate) -> Result<bool, AllocError> {
        let head = self.alloc(table.heads)?;
        self.payload.resize(table.layout.payload_words(), 0.0);
        table.new_payload(candidate.hash, 0, &mut self.row, &mut self.payload);
        let chunk =
            NewChunk { info: Info { utility: Self::utility(table, candidate), ordinal: 0 }, payload: &self.payload };
        chains.init_head(head, candidate.hash, table.config.optimizer.initial_row_state(), &chunk);
        reach(Point::RowWritten);
        let entered =
            table.directory.insert(tag(candidate.hash), head, self.guard, |other| chains.probe(other, candidate.hash));
        match entered {
            Ok(Inserted::Done) => {
                reach(Point::RowEntered);
                table.count_row(0, 1);
                bump(&table.counters.admitted, 1);
                self.growth.admitted += 1;
                self.inner.remember_newcomer(candidate);
                Ok(true)
            }
            Ok(Inserted::Exists(_)) => {
                chains.discard_head(head);
                self.magazines.free(table.heads, head);
                Ok(false)
            }
            Err(error) => {
                chains.discard_head(head);
                self.magazines.free(table.heads, head);
                Err(AllocError::OverBudget(error))
            }
        }
    }

    /// Gives a row its first missing chunk, or all of them. `Ok(false)`: the row has gone meanwhile.
    fn extend(
        &mut self,
        table: &Table,
        chains: &Chains<'_>,
        head: ChunkIndex,
        candidate: &Candidate,
        whole: bool,
    ) -> Result<bool, AllocError> {
        let Ok(claim) = chains.claim(head) else { return Ok(false) };
        let live = chains.ordinals(&claim);
        let mut grown = Grown { table, before: live.len(), now: live.len() };
        let missing = (0..table.layout.chunks).filter(|&ordinal| !live.contains(ordinal));
        let mut outcome = Ok(true);
        for ordinal in missing.take(if whole { usize::MAX } else { 1 }) {
            let tail = match self.alloc(table.tails) {
                Ok(tail) => tail,
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            };
            self.payload.resize(table.layout.payload_words(), 0.0);
            table.new_payload(candidate.hash, ordinal, &mut self.row, &mut self.payload);
            let info = Info { utility: Self::utility(table, candidate), ordinal: ordinal as u8 };
            grown.now += 1;
            self.growth.grown += 1;
            chains.grow(&claim, tail, &NewChunk { info, payload: &self.payload });
        }
        outcome
    }
}

/// Counts what a claimed row grew by when it is dropped, by a panic too: under the claim, so that the next change of the
/// row counts from the right figure.
struct Grown<'t> {
    table: &'t Table,
    before: usize,
    now: usize,
}

impl Drop for Grown<'_> {
    fn drop(&mut self) {
        if self.now > self.before {
            self.table.count_row(self.before, self.now);
            bump(&self.table.counters.grown, (self.now - self.before) as u64);
        }
    }
}
