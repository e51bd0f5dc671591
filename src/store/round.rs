//! A pruning round: find the threshold, take what lies below it, give memory back.
//!
//! A round walks the directories one segment at a time, each under a pin of its own, and claims one row at a time, so
//! that no batch ever waits for more than the copy of one row.

use super::table::{Table, bump, tag};
use super::{Inner, PruneReport};
use crate::chain::Chains;
use crate::failpoint::{Point, reach};
use crate::id::{ChunkIndex, Info};
use crate::importance::{Cut, Histogram};
use crate::reclaim::{Magazines, Retired};
use crate::sequence::{Claim, Unclaimed};
use crate::slab::Slab;
use crate::sync::{Ordering, spin_wait};
use crossbeam_epoch::Guard;

/// Attempts at a row that others keep claimed before the round goes on without it.
const ATTEMPTS: u32 = 256;
/// Rows between asking for a row's tail and looking at it; its head is asked for as long before that.
const AHEAD: usize = 6;
/// Rows that a round measures at least, where there are more: the part of bytes below a threshold is then known to
/// within 0.2 % of all bytes (one standard deviation of a proportion of a tenth).
const SAMPLE: u64 = 32_768;
/// Bytes a row, and besides, beyond which a directory is worth tidying: dense ones have 9 to 13 a row.
const SPARSE_DIRECTORY: u64 = 32;
const SMALL_DIRECTORY: u64 = 16 << 10;
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

impl Inner {
    /// One round. Rounds exclude each other; training goes on.
    pub(super) fn round(&self) -> PruneReport {
        let mut scratch = self.round.lock();
        reach(Point::RoundBegun);
        let pressed = self.pressure.swap(false, Ordering::Relaxed);
        // Growth was refused, so what was free then was of no use: of another size than what was wanted.
        let useless: Vec<u64> = if pressed { self.slabs.iter().map(Slab::free_count).collect() } else { Vec::new() };
        if pressed {
            self.move_price(true);
        }
        let mut report = PruneReport::default();
        if let Some(factor) = self.clock.begin_round() {
            self.begin_units(factor);
        }
        let wanted = self.wanted_bytes();
        if wanted > 0 {
            self.take(wanted, &mut scratch, &mut report);
        } else if !pressed {
            self.ease();
        }
        self.give_back(&useless, &mut report);
        reach(Point::RoundEnding);
        report
    }

    /// A round that takes what is least important until at most `held` bytes are held, or nothing is left to take.
    pub(super) fn round_to(&self, held: u64) -> PruneReport {
        let mut scratch = self.round.lock();
        let mut report = PruneReport::default();
        if let Some(factor) = self.clock.begin_round() {
            self.begin_units(factor);
        }
        self.give_back(&[], &mut report);
        loop {
            let now = self.budget.held();
            if now <= held {
                return report;
            }
            // Directories shrink with their rows, so the same part of everything goes. The last part is measured again.
            let rows = now.saturating_sub(self.fixed_bytes).max(1) as f64;
            let part = (now - held) as f64 / rows;
            let before = report.shrunk + report.evicted;
            let wanted = (self.live_record_bytes() as f64 * part) as u64;
            self.take(wanted.max(self.superblocks.bytes_each()), &mut scratch, &mut report);
            self.give_back(&[], &mut report);
            if report.shrunk + report.evicted == before {
                return report;
            }
        }
    }

    /// Takes the least important chunks, `wanted` bytes of them.
    fn take(&self, wanted: u64, scratch: &mut RoundScratch, report: &mut PruneReport) {
        scratch.rounds += 1;
        scratch.chunks.clear();
        let stride = (self.live_rows() / SAMPLE).clamp(1, STRIDE_MAX);
        self.tables.iter().for_each(|table| self.measure(table, stride, scratch.rounds, &mut scratch.chunks));
        let cut = scratch.chunks.cut(wanted);
        #[cfg(fuzzing)]
        super::fuzzing::CUT.set(Some((cut, wanted)));
        reach(Point::CutBegins);
        self.cut(cut, scratch.rounds, report);
        self.set_threshold(cut.threshold.min(f32::MAX));
        report.threshold = cut.threshold;
        self.collect();
    }

    /// Gives empty superblocks back to the system, and makes more of them by compaction.
    fn give_back(&self, useless: &[u64], report: &mut PruneReport) {
        self.tidy();
        self.collect();
        self.retire_empty();
        report.moved += self.compact(useless);
        self.collect();
    }

    /// Rebuilds the sparse segments of directories that have lost most of their rows: those of rows that were removed, and
    /// of rounds that had no reason to walk them.
    fn tidy(&self) {
        for table in &self.tables {
            if table.directory.bytes() <= SPARSE_DIRECTORY * table.live_rows() + SMALL_DIRECTORY {
                continue;
            }
            let mut next = Some(0);
            while let Some(at) = next {
                let guard = self.reclaimer.pin();
                next = table.directory.after(at, &guard);
                // A refusal only means that the segment stays larger than it need be.
                let _ = table.directory.tidy(at, &guard);
            }
        }
    }

    /// Frees what is retired, as far as pinned threads let it.
    pub(super) fn collect(&self) {
        self.reclaimer.collect(|| self.slabs.retired_bytes() + self.budget.awaiting());
    }

    /// Bytes of chunks that have to go so that the policy's headroom is free.
    fn wanted_bytes(&self) -> u64 {
        let headroom = (self.budget.limit() as f64 * f64::from(self.headroom())) as u64;
        headroom.saturating_sub(self.free_bytes())
    }

    /// Bytes that growth could have: free records, retired ones, and what was never committed.
    fn free_bytes(&self) -> u64 {
        let free = self.budget.room() + self.slabs.free_bytes() + self.superblocks.kept_bytes();
        free + self.slabs.retired_bytes() + self.budget.awaiting()
    }

    /// Lets the threshold fall when there is clearly more room than the policy asks for.
    fn ease(&self) {
        let headroom = (self.budget.limit() as f64 * f64::from(self.headroom())) as u64;
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
    fn measure(&self, table: &Table, stride: u64, round: u64, histogram: &mut Histogram) {
        let chains = table.chains(&self.slabs);
        let (head_bytes, tail_bytes) = self.record_bytes(table);
        let per_unit = table.scale().max(f32::MIN_POSITIVE).recip();
        let mut rows = Vec::new();
        // Not the same segments in each round.
        let mut position = round;
        let mut at = Some(0);
        while let Some(from) = at {
            let guard = self.reclaimer.pin();
            position += 1;
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

    /// Takes chunks below the cut. Where it begins changes from round to round, so that chunks in the cut's last bin
    /// are not always taken from the same tables and keys.
    fn cut(&self, mut cut: Cut, round: u64, report: &mut PruneReport) {
        let tables = self.tables.len();
        let first = (round as usize).wrapping_mul(7) % tables;
        let from = (round as u32).wrapping_mul(0x9E37_79B1);
        for table in (0..tables).map(|position| &self.tables[(first + position) % tables]) {
            let scale = table.scale();
            if scale == 0.0 {
                continue;
            }
            let (head_bytes, tail_bytes) = self.record_bytes(table);
            self.for_each_row(table, from, |chains, tag, head, retired, guard| {
                let surely = cut.surely * scale;
                let limit = if cut.quota > 0 { cut.threshold * scale } else { surely };
                let mut some_below = false;
                chains.peek(head, |_, info| some_below |= info.utility < limit);
                // What was seen without a claim is looked at again under it.
                let Some(claim) = some_below.then(|| patiently(chains, head)).flatten() else { return };
                for chunk in chains.chunks(&claim) {
                    if (surely..limit).contains(&chunk.info().utility) {
                        let bytes = if chunk.tail.is_some() { tail_bytes } else { head_bytes };
                        cut.quota = cut.quota.saturating_sub(bytes);
                    }
                }
                let shrunk =
                    self.shrink_row(table, chains, claim, tag, head, |info| info.utility < limit, retired, guard);
                report.shrunk += u64::from(shrunk.shrunk);
                report.evicted += u64::from(shrunk.evicted);
                reach(Point::RowCut);
            });
        }
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

    /// Empties superblocks by moving their chunks, where more of a slab is free than the target for resident over live
    /// bytes allows. `useless`: free records of each slab that stood idle while growth was refused elsewhere; their
    /// superblocks change hands too. Returns the number of chunks moved.
    fn compact(&self, useless: &[u64]) -> u64 {
        let mut victims = Evacuation(Vec::new());
        for (number, slab) in self.slabs.iter().enumerate() {
            let mut occupancy: Vec<_> = slab.occupancy().collect();
            let slots = u64::from(slab.slots());
            let mut free: u64 = occupancy.iter().map(|&(_, free)| u64::from(free)).sum();
            let used = occupancy.len() as u64 * slots - free;
            let allowed = (used as f64 * (self.config.resident_target - 1.0)) as u64;
            let allowed = allowed.min(free - useless.get(number).map_or(0, |&useless| useless.min(free))).max(slots);
            // The emptiest first, as the least has to be moved. What leaves one must fit into what the others have free.
            occupancy.sort_by_key(|&(superblock, free)| (std::cmp::Reverse(free), superblock));
            for (superblock, _) in occupancy {
                if free < allowed + slots {
                    break;
                }
                slab.start_evacuating(superblock);
                victims.0.push((slab, superblock));
                free -= slots;
            }
        }
        if victims.0.is_empty() {
            return 0;
        }
        reach(Point::EvacuationBegun);
        let moved = self.tables.iter().map(|table| self.evacuate(table)).sum();
        reach(Point::Compacted);
        self.collect();
        self.retire_empty();
        moved
    }

    /// Moves every chunk of a table that is in a superblock being emptied.
    fn evacuate(&self, table: &Table) -> u64 {
        let mut magazines = Magazines::new(&self.slabs);
        let (heads, tails) = (self.slabs.get(table.heads), self.slabs.get(table.tails));
        let mut moved = 0;
        self.for_each_row(table, 0, |chains, tag, head, retired, guard| {
            let mut wanders = heads.is_evacuating(head);
            chains.peek(head, |tail, _| wanders |= tail.is_some_and(|tail| tails.is_evacuating(tail)));
            let Some(claim) = wanders.then(|| patiently(chains, head)).flatten() else { return };
            let wandering: Vec<ChunkIndex> = chains
                .chunks(&claim)
                .filter_map(|chunk| chunk.tail)
                .filter(|&tail| tails.is_evacuating(tail))
                .collect();
            for from in wandering {
                // Only into superblocks that are there already: compaction must not take more memory.
                let Some(to) = magazines.alloc_existing(table.tails, guard) else { break };
                chains.relocate_tail(&claim, from, to);
                retired.push(table.tails, from);
                moved += 1;
            }
            if heads.is_evacuating(head)
                && let Some(to) = magazines.alloc_existing(table.heads, guard)
            {
                if chains.relocate_head(claim, to, || table.directory.relocate(tag, head, to, guard)) {
                    retired.push(table.heads, head);
                    moved += 1;
                } else {
                    debug_assert!(false, "a claimed row's word is in its directory");
                    heads.free(to);
                }
            }
            reach(Point::RowEvacuated);
        });
        moved
    }

    /// Gives empty superblocks back to the system.
    fn retire_empty(&self) {
        let guard = self.reclaimer.pin();
        for slab in self.slabs.iter() {
            let empty: Vec<u32> =
                slab.occupancy().filter(|&(_, free)| free == slab.slots()).map(|(index, _)| index).collect();
            for superblock in empty {
                slab.retire_superblock(superblock, &guard);
            }
        }
    }

    /// Removes a row, whatever its importance. Returns whether it was there.
    pub(super) fn remove_row(&self, table: &Table, key: u64) -> bool {
        let (key, hash) = table.resolve(key);
        let guard = self.reclaimer.pin();
        let chains = table.chains(&self.slabs);
        while let Some(head) = table.find(&chains, key, hash, &guard) {
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

/// Superblocks that are being emptied, until this is dropped, by a panic too.
struct Evacuation<'s>(Vec<(&'s Slab, u32)>);

impl Drop for Evacuation<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|(slab, superblock)| slab.stop_evacuating(*superblock));
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
fn patiently<'s>(chains: &Chains<'s>, head: ChunkIndex) -> Option<Claim<'s>> {
    for attempt in 0..ATTEMPTS {
        match chains.try_claim(head) {
            Ok(claim) => return Some(claim),
            Err(Unclaimed::Gone) => return None,
            Err(Unclaimed::Busy) => spin_wait(attempt),
        }
    }
    None
}
