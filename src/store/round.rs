//! A pruning round: find the threshold, take what lies below it, give memory back.
//!
//! A round walks the directories one segment at a time, each under a pin of its own, and claims one row at a time, so
//! that no batch ever waits for more than the copy of one row.

use super::table::{Table, bump};
use super::{Inner, PruneReport};
use crate::chain::Chains;
use crate::failpoint::{Point, reach};
use crate::hash::tag;
use crate::id::{ChunkIndex, Info};
use crate::importance::{Cut, Histogram};
use crate::reclaim::{Magazines, Retired};
use crate::sequence::{Claim, Unclaimed};
use crate::sync::{Ordering, pause, spin_wait};
use crossbeam_epoch::Guard;

/// Attempts at a row that others keep claimed before the round goes on without it.
const ATTEMPTS: u32 = 256;
/// Rows between asking for a row's tail and looking at it; its head is asked for as long before that.
const AHEAD: usize = 6;
/// Rows that a round measures at least, where there are more: the part of bytes below a threshold is then known to
/// within 0.2 % of all bytes (one standard deviation of a proportion of a tenth).
const SAMPLE: u64 = 32_768;
/// Of so many segments one is measured at least.
const STRIDE_MAX: u64 = 16;

/// A round's histogram of bytes by importance: allocated once, counted in the budget.
pub(super) struct RoundScratch {
    chunks: Histogram,
    rounds: u64,
}

impl RoundScratch {
    pub(super) const BYTES: u64 = Histogram::BYTES;

    pub(super) fn new() -> RoundScratch {
        RoundScratch { chunks: Histogram::new(), rounds: 0 }
    }
}

/// Times that readers are given to let go of what a round to a size took.
const GIVE_BACK_ATTEMPTS: usize = 8;

/// While this is there the threshold lets nothing grow, so that a round to a size does not run after what others add.
struct Closed<'i> {
    inner: &'i Inner,
    /// The threshold afterwards.
    threshold: f32,
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.inner.set_threshold(self.threshold);
    }
}

impl Inner {
    /// One round. Rounds exclude each other; training goes on.
    pub(super) fn round(&self) -> PruneReport {
        let mut scratch = self.round.lock();
        reach(Point::RoundBegun);
        let pressed = self.pressure.swap(false, Ordering::Relaxed);
        // Growth was refused, so what was free then was of no use: of another size than what was wanted. It goes to
        // whoever wants it while this round walks the rows anyway.
        let useless = if pressed { self.evacuate_all_but(|_| 0) } else { None };
        if pressed {
            self.move_price(true);
        }
        let mut report = PruneReport::default();
        if let Some(factor) = self.clock.begin_round() {
            self.begin_units(factor);
        }
        let wanted = self.wanted_bytes();
        if wanted > 0 {
            self.take(wanted, useless.is_some(), &mut scratch, &mut report);
        } else if useless.is_some() {
            self.sweep(Cut::NOTHING, true, scratch.rounds, &mut report);
        } else if !pressed {
            self.ease();
        }
        if let Some(useless) = useless {
            self.collect();
            self.retire_empty();
            drop(useless);
        }
        self.give_back(scratch.rounds, &mut report);
        reach(Point::RoundEnding);
        report
    }

    /// A round that takes what is least important until at most `held` bytes are held, or will be when the last readers
    /// of what was taken let go of it, or nothing is left to take.
    pub(super) fn round_to(&self, held: u64) -> PruneReport {
        let mut scratch = self.round.lock();
        let mut report = PruneReport::default();
        if let Some(factor) = self.clock.begin_round() {
            self.begin_units(factor);
        }
        let mut closed = Closed { inner: self, threshold: self.threshold() };
        self.set_threshold(f32::MAX);
        self.give_back(scratch.rounds, &mut report);
        loop {
            for _ in 0..GIVE_BACK_ATTEMPTS {
                if self.budget.held() <= held || self.waiting_bytes() == 0 {
                    break;
                }
                pause();
                self.give_back(scratch.rounds, &mut report);
            }
            // To take more for what only waits for its readers, or for what the system does not take back, would be to take
            // what matters.
            let gone = self.waiting_bytes() + self.superblocks.kept_bytes();
            let now = self.budget.held().saturating_sub(gone);
            if now <= held {
                return report;
            }
            // Directories shrink with their rows, so the same part of everything goes. The last part is measured again.
            let rows = now.saturating_sub(self.fixed_bytes).max(1) as f64;
            let part = (now - held) as f64 / rows;
            let before = report.shrunk + report.evicted;
            let wanted = (self.live_record_bytes() as f64 * part) as u64;
            self.take(wanted.max(self.superblocks.bytes_each()), false, &mut scratch, &mut report);
            closed.threshold = closed.threshold.max(self.threshold());
            self.set_threshold(f32::MAX);
            self.give_back(scratch.rounds, &mut report);
            if report.shrunk + report.evicted == before {
                return report;
            }
        }
    }

    /// Takes the least important chunks, `wanted` bytes of them. `moving`: superblocks are being emptied.
    fn take(&self, wanted: u64, moving: bool, scratch: &mut RoundScratch, report: &mut PruneReport) {
        scratch.rounds += 1;
        let stride = (self.live_rows() / SAMPLE).clamp(1, STRIDE_MAX);
        let mut cut = self.cut_for(wanted, stride, scratch);
        if cut.surely == f32::INFINITY && stride > 1 {
            // Everything would go, and a sample cannot tell that.
            cut = self.cut_for(wanted, 1, scratch);
        }
        #[cfg(fuzzing)]
        super::fuzzing::CUT.set(Some((cut, wanted)));
        reach(Point::CutBegins);
        self.sweep(cut, moving, scratch.rounds, report);
        self.set_threshold(cut.threshold.min(f32::MAX));
        report.threshold = cut.threshold;
    }

    /// Measures one segment of `stride`, and says what to take.
    fn cut_for(&self, wanted: u64, stride: u64, scratch: &mut RoundScratch) -> Cut {
        scratch.chunks.clear();
        // Counted on over all tables, so that small ones are measured as often as parts of large ones, and not the same
        // segments in each round.
        let mut position = scratch.rounds;
        self.tables.iter().for_each(|table| self.measure(table, stride, &mut position, &mut scratch.chunks));
        scratch.chunks.cut(wanted)
    }

    /// Frees what is retired, as far as pinned threads let it.
    pub(super) fn collect(&self) {
        self.reclaimer.collect(|| self.slabs.retired_bytes() + self.budget.awaiting());
    }

    /// Bytes that the readers of what was taken keep from being given back: retired ones, and with them the free ones,
    /// which compaction could not gather meanwhile.
    fn waiting_bytes(&self) -> u64 {
        match self.slabs.retired_bytes() + self.budget.awaiting() {
            0 => 0,
            retired => retired + self.slabs.free_bytes(),
        }
    }

    /// Bytes of chunks that have to go so that the policy's headroom is free.
    fn wanted_bytes(&self) -> u64 {
        self.headroom_bytes().saturating_sub(self.free_bytes())
    }

    /// Bytes that growth could have: free records, retired ones, and what was never committed.
    ///
    /// Asked for in the order in which bytes pass from one to the next: what passes meanwhile is counted twice. In another
    /// order it would be left out, and a round would take chunks for room that there is.
    fn free_bytes(&self) -> u64 {
        let retired = self.budget.awaiting() + self.slabs.retired_bytes();
        let room = self.budget.room() + self.superblocks.kept_bytes();
        retired + room + self.slabs.free_bytes()
    }

    /// Lets the threshold fall when there is clearly more room than the policy asks for.
    fn ease(&self) {
        let headroom = self.headroom_bytes();
        if self.free_bytes() > 4 * headroom {
            self.set_threshold(0.0);
        } else if self.free_bytes() > 2 * headroom {
            self.set_threshold(self.threshold() * 0.7);
        }
    }

    /// Calls `visit` with every row of a table, one segment per pin, beginning at a tag.
    fn for_each_row(
        &self,
        table: &Table,
        from: u32,
        mut visit: impl FnMut(&Chains<'_>, u32, ChunkIndex, &mut Retired<'_>, &Guard),
    ) {
        let chains = table.chains(&self.slabs);
        let mut rows = Vec::new();
        let (mut at, mut wrapped) = (from, false);
        loop {
            let guard = self.reclaimer.pin();
            rows.clear();
            let next = table.directory.walk(at, &guard, |tag, head| rows.push((tag, head)));
            let mut retired = Retired::new(&self.slabs, &guard);
            with_prefetch(&chains, &rows, |tag, head| visit(&chains, tag, head, &mut retired, &guard));
            drop(retired);
            // A refusal only means that the segment stays larger than it need be.
            let _ = table.directory.tidy(at, &guard);
            match next {
                Some(next) if !wrapped || next <= from => at = next,
                None if !wrapped && from > 0 => (at, wrapped) = (0, true),
                _ => return,
            }
            if wrapped && at >= from {
                return;
            }
        }
    }

    /// Multiplies all utilities, and what they are compared with, by the factor of the clock's new units.
    fn begin_units(&self, factor: f32) {
        for table in &self.tables {
            self.for_each_row(table, 0, |chains, _, head, _, _| {
                let Some(claim) = patiently(chains, head) else { return };
                for chunk in chains.chunks(&claim) {
                    let Info { utility, ordinal } = chunk.info();
                    chunk.set_info(Info { utility: utility * factor, ordinal });
                }
                reach(Point::UnitsChanged);
            });
        }
        if let Some(sketch) = &self.sketch {
            sketch.decay(factor);
        }
        self.set_threshold(self.threshold() * factor);
    }

    /// Counts the bytes of a table's chunks by importance: in every segment, or in every `stride`-th, for as many.
    fn measure(&self, table: &Table, stride: u64, position: &mut u64, histogram: &mut Histogram) {
        let chains = table.chains(&self.slabs);
        let (head_bytes, tail_bytes) = self.record_bytes(table);
        let per_unit = table.scale().max(f32::MIN_POSITIVE).recip();
        let mut rows = Vec::new();
        let mut at = Some(0);
        while let Some(from) = at {
            let guard = self.reclaimer.pin();
            *position += 1;
            if !position.is_multiple_of(stride) {
                at = table.directory.after(from, &guard);
                continue;
            }
            rows.clear();
            at = table.directory.walk(from, &guard, |tag, head| rows.push((tag, head)));
            with_prefetch(&chains, &rows, |_, head| {
                chains.peek(head, |tail, info| {
                    let bytes = if tail.is_some() { tail_bytes } else { head_bytes };
                    histogram.add(info.utility * per_unit, bytes * stride);
                });
                reach(Point::RowMeasured);
            });
        }
    }

    fn record_bytes(&self, table: &Table) -> (u64, u64) {
        (self.slabs.get(table.heads).record_bytes(), self.slabs.get(table.tails).record_bytes())
    }

    /// Takes chunks below the cut and, if `moving`, moves what is in superblocks being emptied: one walk for both. Where
    /// it begins changes from round to round, so that chunks in the cut's last bin are not always taken from the same
    /// tables and keys.
    pub(super) fn sweep(&self, mut cut: Cut, moving: bool, round: u64, report: &mut PruneReport) {
        let tables = self.tables.len();
        let first = (round as usize).wrapping_mul(7) % tables;
        let from = (round as u32).wrapping_mul(0x9E37_79B1);
        for table in (0..tables).map(|position| &self.tables[(first + position) % tables]) {
            let scale = table.scale();
            // What counts for nothing is below every threshold, however small the scale.
            let edge =
                |importance: f32| if importance > 0.0 { (importance * scale).max(f32::MIN_POSITIVE) } else { 0.0 };
            let (heads, tails) = (self.slabs.get(table.heads), self.slabs.get(table.tails));
            let mut magazines = Magazines::new(&self.slabs);
            self.for_each_row(table, from, |chains, tag, head, retired, guard| {
                let surely = edge(cut.surely);
                let limit = if cut.quota > 0 { edge(cut.threshold) } else { surely };
                let mut below = false;
                let mut wanders = moving && heads.is_evacuating(head);
                chains.peek(head, |tail, info| {
                    below |= info.utility < limit;
                    wanders |= moving && tail.is_some_and(|tail| tails.is_evacuating(tail));
                });
                if below {
                    self.cut_row(table, chains, (tag, head), surely..limit, &mut cut.quota, report, retired, guard);
                }
                if wanders {
                    report.moved += self.move_row(table, chains, (tag, head), &mut magazines, retired, guard);
                }
            });
        }
    }

    /// Takes the chunks of one row that lie below `doubtful`'s end; those within it are taken from the quota.
    #[expect(clippy::too_many_arguments, reason = "the row, what to take, and where it goes")]
    fn cut_row(
        &self,
        table: &Table,
        chains: &Chains<'_>,
        (tag, head): (u32, ChunkIndex),
        doubtful: std::ops::Range<f32>,
        quota: &mut u64,
        report: &mut PruneReport,
        retired: &mut Retired<'_>,
        guard: &Guard,
    ) {
        // What was seen without a claim is looked at again under it.
        let Some(claim) = patiently(chains, head) else { return };
        let (head_bytes, tail_bytes) = self.record_bytes(table);
        for chunk in chains.chunks(&claim) {
            if doubtful.contains(&chunk.info().utility) {
                *quota = quota.saturating_sub(if chunk.tail.is_some() { tail_bytes } else { head_bytes });
            }
        }
        let taken =
            self.shrink_row(table, chains, claim, tag, head, |info| info.utility < doubtful.end, retired, guard);
        report.shrunk += u64::from(taken.shrunk);
        report.evicted += u64::from(taken.evicted);
        reach(Point::RowCut);
    }

    /// Takes chunks out of a claimed row, and the row out of the directory if none is left.
    #[expect(clippy::too_many_arguments, reason = "the row, what to take, and where it goes")]
    pub(super) fn shrink_row(
        &self,
        table: &Table,
        chains: &Chains<'_>,
        claim: Claim<'_>,
        tag: u32,
        head: ChunkIndex,
        drop: impl Fn(Info) -> bool,
        retired: &mut Retired<'_>,
        guard: &Guard,
    ) -> Taken {
        let before = chains.ordinals(&claim).len();
        let shrunk =
            chains.shrink(claim, drop, |tail| retired.push(table.tails, tail), |after| table.count_row(before, after));
        let evicted = u32::from(shrunk.row_gone);
        if shrunk.row_gone {
            reach(Point::RowKilled);
            let removed = table.directory.remove(tag, head, guard);
            debug_assert!(removed, "a live row's word is in its directory");
            reach(Point::RowRemoved);
            retired.push(table.heads, head);
        }
        let taken = Taken { shrunk: shrunk.taken - evicted, evicted };
        bump(&table.counters.shrunk, u64::from(taken.shrunk));
        bump(&table.counters.evicted, u64::from(evicted));
        taken
    }

    /// Removes a row, whatever its importance. Returns whether it was there.
    pub(super) fn remove_row(&self, table: &Table, key: u64) -> bool {
        let hash = table.resolve(key);
        let guard = self.reclaimer.pin();
        let chains = table.chains(&self.slabs);
        while let Some(head) = table.find(&chains, hash, &guard) {
            // Gone: evicted or moved meanwhile; the directory knows.
            if let Ok(claim) = chains.claim(head) {
                let mut retired = Retired::new(&self.slabs, &guard);
                self.shrink_row(table, &chains, claim, tag(hash), head, |_| true, &mut retired, &guard);
                return true;
            }
        }
        false
    }
}

/// What was taken from a row: chunks while it stayed, and the row itself.
pub(super) struct Taken {
    shrunk: u32,
    evicted: u32,
}

/// Calls `visit` with each row, when its lines are near.
fn with_prefetch(chains: &Chains<'_>, rows: &[(u32, ChunkIndex)], mut visit: impl FnMut(u32, ChunkIndex)) {
    for &(_, ahead) in rows.iter().take(2 * AHEAD) {
        chains.prefetch_head(ahead);
    }
    for (position, &(tag, head)) in rows.iter().enumerate() {
        if let Some(&(_, ahead)) = rows.get(position + 2 * AHEAD) {
            chains.prefetch_head(ahead);
        }
        if let Some(&(_, ahead)) = rows.get(position + AHEAD) {
            chains.prefetch_tail(ahead);
        }
        visit(tag, head);
    }
}

/// Claims a row, but not at any price: a row that is written all the time is not one to prune or to move now.
pub(super) fn patiently<'s>(chains: &Chains<'s>, head: ChunkIndex) -> Option<Claim<'s>> {
    for attempt in 0..ATTEMPTS {
        match chains.try_claim(head) {
            Ok(claim) => return Some(claim),
            Err(Unclaimed::Gone) => return None,
            Err(Unclaimed::Busy) => spin_wait(attempt),
        }
    }
    None
}
