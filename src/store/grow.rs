//! Giving chunks: admission of rows, growth of rows, refusal at the limit.

use super::Inner;
use super::table::{Table, bump};
use crate::chain::{Chains, NewChunk};
use crate::directory::Inserted;
use crate::failpoint::{Point, reach};
use crate::hash::tag;
use crate::id::{ChunkIndex, Info, TableId};
use crate::reclaim::Magazines;
use crate::rowcopy;
use crate::superblocks::AllocError;
use crate::sync::Ordering;
use crossbeam_epoch::Guard;

/// Candidates whose waits for memory overlap.
const GROUP: usize = 16;
/// Records between one that is had and the one that is asked for.
const AHEAD: usize = 8;

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
    /// The table whose chunks all start as what is in `payload`.
    alike: Option<TableId>,
    /// A row that is not entered yet: its head, and its tails.
    unentered: Option<(TableId, ChunkIndex)>,
    tails: Vec<ChunkIndex>,
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
            alike: None,
            unentered: None,
            tails: Vec::new(),
            growth: Growth::default(),
        };
        // Until the budget has been full once, nothing has to be earned and rows are made whole.
        let whole = wanted == 0.0;
        for group in candidates.chunks(GROUP) {
            self.ask_for_buckets(group, guard);
            for candidate in group {
                // Asked for again, since a round to a size lets nothing grow from the moment it begins.
                if candidate.importance < self.growth_threshold() {
                    continue;
                }
                grower.candidate(&self.tables[candidate.table.index()], candidate, whole);
            }
        }
        let growth = grower.growth;
        if growth.refused > 0 {
            self.pressure.store(true, Ordering::Relaxed);
        }
        growth
    }

    /// Asks the processor for where the directories have the rows of candidates, or will have them.
    fn ask_for_buckets(&self, candidates: &[Candidate], guard: &Guard) {
        let mut ways = [None; GROUP];
        for (way, candidate) in ways.iter_mut().zip(candidates) {
            *way = Some(self.tables[candidate.table.index()].directory.search(guard).set_out(tag(candidate.hash)));
        }
        for (way, candidate) in ways.into_iter().zip(candidates) {
            if let Some(way) = way {
                let search = self.tables[candidate.table.index()].directory.search(guard);
                search.approach(way, tag(candidate.hash)).ask_elsewhere();
            }
        }
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
            let outcome = match row {
                None => self.admit(table, &chains, candidate, whole),
                Some(head) => self.extend(table, &chains, head, candidate, whole),
            };
            match outcome {
                Ok(true) => break Ok(()),
                Ok(false) => {}
                Err(error) => break Err(error),
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
        // What is written into a record comes soon, and nobody has looked at it since it was freed.
        if let Some(record) = self.magazines.after(slab, AHEAD) {
            rowcopy::prefetch_words(record);
        }
        outcome
    }

    /// What a new chunk of a candidate's row says of itself. Its weights and state are left in `payload`.
    fn chunk(&mut self, table: &Table, candidate: &Candidate, ordinal: usize) -> Info {
        if self.alike != Some(candidate.table) {
            self.payload.resize(table.layout.payload_words(), 0.0);
            table.new_payload(candidate.hash, ordinal, &mut self.row, &mut self.payload);
            self.alike = table.chunks_start_alike().then_some(candidate.table);
        }
        Info { utility: candidate.importance * table.scale(), ordinal: ordinal as u8 }
    }

    /// Makes a row, of one chunk or whole. `Ok(false)`: another thread was first.
    fn admit(
        &mut self,
        table: &Table,
        chains: &Chains<'_>,
        candidate: &Candidate,
        whole: bool,
    ) -> Result<bool, AllocError> {
        let head = self.alloc(table.heads)?;
        self.unentered = Some((candidate.table, head));
        let outcome = self.write(table, chains, candidate, whole, head);
        reach(Point::RowWritten);
        let entered =
            table.directory.insert(tag(candidate.hash), head, self.guard, |other| chains.probe(other, candidate.hash));
        match entered {
            Ok(Inserted::Done) => {
                self.unentered = None;
                let grown = self.tails.drain(..).len();
                reach(Point::RowEntered);
                table.count_row(0, 1 + grown);
                bump(&table.counters.admitted, 1);
                bump(&table.counters.grown, grown as u64);
                self.growth.admitted += 1;
                self.growth.grown += grown as u64;
                self.inner.remember_newcomer(candidate);
                outcome
            }
            Ok(Inserted::Exists(_)) => {
                self.discard();
                Ok(false)
            }
            Err(error) => {
                self.discard();
                Err(AllocError::OverBudget(error))
            }
        }
    }

    /// Writes a row that nobody else can reach yet: an error if it cannot be made whole, and then as far as there is room.
    fn write(
        &mut self,
        table: &Table,
        chains: &Chains<'_>,
        candidate: &Candidate,
        whole: bool,
        head: ChunkIndex,
    ) -> Result<bool, AllocError> {
        let info = self.chunk(table, candidate, 0);
        let first = NewChunk { info, payload: &self.payload };
        chains.init_head(head, candidate.hash, table.config.optimizer.initial_row_state(), &first);
        for ordinal in 1..if whole { table.layout.chunks } else { 1 } {
            let tail = self.alloc(table.tails)?;
            self.tails.push(tail);
            let info = self.chunk(table, candidate, ordinal);
            chains.grow_unpublished(head, tail, &NewChunk { info, payload: &self.payload });
        }
        Ok(true)
    }

    /// Ends a row that could not be entered.
    fn discard(&mut self) {
        let Some((table, head)) = self.unentered.take() else { return };
        let table = &self.inner.tables[table.index()];
        table.chains(&self.inner.slabs).discard_head(head);
        self.magazines.free(table.heads, head);
        for tail in self.tails.drain(..) {
            self.magazines.free(table.tails, tail);
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
        let Ok(claim) = chains.claim((tag(candidate.hash), head)) else { return Ok(false) };
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
            let info = self.chunk(table, candidate, ordinal);
            grown.now += 1;
            self.growth.grown += 1;
            chains.grow(&claim, tail, &NewChunk { info, payload: &self.payload });
        }
        outcome
    }
}

/// After a panic in the middle of a row.
impl Drop for Grower<'_> {
    fn drop(&mut self) {
        self.discard();
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
