//! A pruning round: find the threshold, take what lies below it, give memory back.
//!
//! A round walks the directories one segment at a time, each under a pin of its own, and claims one row at a time, so
//! that no batch ever waits for more than the copy of one row.

use super::table::{Table, bump};
use super::{Inner, PruneReport};
use crate::chain::{Chains, RowAt};
use crate::failpoint::{Point, reach};
use crate::hash::tag;
use crate::id::Info;
use crate::importance::{Cut, Histogram};
use crate::reclaim::{Magazines, Retired};
use crate::sequence::{Claim, Unclaimed};
use crate::sync::{Ordering, pause, spin_wait};
use crossbeam_epoch::Guard;
use std::ops::Range;

/// Attempts at a row that others keep claimed before the round goes on without it.
const ATTEMPTS: u32 = 256;
/// Rows that a round measures at least, where there are more: the part of bytes below a threshold is then known to
/// within 0.3 % of all bytes (one standard deviation of a proportion of a tenth).
const SAMPLE: u64 = 8192;
/// Of so many rows one is measured at least.
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

    /// Cuts so far.
    pub(super) fn rounds(&self) -> u64 {
        self.rounds
    }

    pub(super) fn set_rounds(&mut self, rounds: u64) {
        self.rounds = rounds;
    }
}

/// Attempts to free all that is retired while a snapshot is read, if others stay pinned: about half a second.
const COLLECT_ATTEMPTS: usize = 500;

/// Times that readers are given to let go of what a round to a size took.
const GIVE_BACK_ATTEMPTS: usize = 8;

/// What a round to a size makes of resident over live bytes: to leave records free would be to take as many more.
const PACKED: f64 = 1.0;

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
        let wanted = self.wanted_bytes();
        let cut = if wanted > 0 { self.cut_for(wanted, &mut scratch) } else { Cut::NOTHING };
        // Only now, so that what was measured and what is compared with it are in the same units.
        let factor = self.begin_units();
        self.sweep(Pass { cut, moving: useless.is_some(), factor }, scratch.rounds, &mut report);
        if wanted > 0 {
            report.threshold = cut.threshold;
            self.set_threshold((cut.threshold * factor).min(f32::MAX));
        } else if !pressed {
            self.ease();
        }
        if let Some(useless) = useless {
            self.collect();
            self.retire_empty(Some(&useless));
            drop(useless);
        }
        self.give_back(self.config.resident_target, scratch.rounds, &mut report);
        reach(Point::RoundEnding);
        report
    }

    /// A round that takes what is least important until at most `held` bytes are held, or will be when the last readers
    /// of what was taken let go of it, or nothing is left to take.
    pub(super) fn round_to(&self, held: u64) -> PruneReport {
        let mut scratch = self.round.lock();
        let mut report = PruneReport::default();
        let factor = self.begin_units();
        self.sweep(Pass::units(factor), scratch.rounds, &mut report);
        let mut closed = Closed { inner: self, threshold: self.threshold() };
        self.set_threshold(f32::MAX);
        let ratio = if self.budget.held() > held { PACKED } else { self.config.resident_target };
        self.give_back(ratio, scratch.rounds, &mut report);
        loop {
            // To take more for what only waits for its readers, or for what the system does not take back, would be to take
            // what matters.
            let waiting = if self.settle(held, scratch.rounds, &mut report) { 0 } else { self.waiting_bytes() };
            let now = self.budget.held().saturating_sub(waiting + self.superblocks.kept_bytes());
            if now <= held {
                return report;
            }
            // Directories shrink with their rows, so the same part of everything goes. The last part is measured again.
            let rows = now.saturating_sub(self.fixed_bytes).max(1) as f64;
            let part = (now - held) as f64 / rows;
            let before = report.shrunk + report.evicted;
            let wanted = (self.live_record_bytes() as f64 * part) as u64;
            let cut = self.cut_for(wanted.max(self.superblocks.bytes_each()), &mut scratch);
            self.sweep(Pass { cut, ..Pass::NOTHING }, scratch.rounds, &mut report);
            report.threshold = cut.threshold;
            closed.threshold = closed.threshold.max(cut.threshold.min(f32::MAX));
            self.give_back(PACKED, scratch.rounds, &mut report);
            if report.shrunk + report.evicted == before {
                return report;
            }
        }
    }

    /// Takes the least important `wanted` bytes of chunks, and gives the memory back. Returns the importance below which all
    /// went, if any did.
    pub(super) fn prune_by(&self, wanted: u64) -> Option<f32> {
        let mut scratch = self.round.lock();
        let mut report = PruneReport::default();
        let cut = self.cut_for(wanted.max(self.superblocks.bytes_each()), &mut scratch);
        self.sweep(Pass { cut, ..Pass::NOTHING }, scratch.rounds, &mut report);
        self.give_back(PACKED, scratch.rounds, &mut report);
        (report.shrunk + report.evicted > 0).then_some(cut.surely.min(f32::MAX))
    }

    /// Gives back until at most `held` bytes are held or nothing more comes back. Returns whether it came to that: if not,
    /// readers are in the way.
    fn settle(&self, held: u64, round: u64, report: &mut PruneReport) -> bool {
        for _ in 0..GIVE_BACK_ATTEMPTS {
            // What readers let go of while compaction ran was not there for it to gather, nor was what it moved itself. Only
            // an attempt that moved nothing, and before and after which nothing waited, tells what stays.
            let (retired, before, moved) = (self.retired_bytes(), self.budget.held(), report.moved);
            if before <= held {
                return true;
            }
            self.give_back(PACKED, round, report);
            if retired + self.retired_bytes() == 0 && (self.budget.held(), report.moved) == (before, moved) {
                return true;
            }
            pause();
        }
        false
    }

    /// What to take so that the least important `wanted` bytes of chunks go.
    fn cut_for(&self, wanted: u64, scratch: &mut RoundScratch) -> Cut {
        scratch.rounds += 1;
        let stride = (self.live_rows() / SAMPLE).clamp(1, STRIDE_MAX);
        let mut cut = self.measure(stride, scratch).cut(wanted);
        if cut.surely == f32::INFINITY && stride > 1 {
            // Everything would go, and a sample cannot tell that.
            cut = self.measure(1, scratch).cut(wanted);
        }
        #[cfg(fuzzing)]
        super::fuzzing::CUT.set(Some((cut, wanted)));
        reach(Point::CutBegins);
        cut
    }

    /// Frees what is retired, as far as pinned threads let it.
    pub(super) fn collect(&self) {
        self.reclaimer.collect(|| self.retired_bytes());
        // In a deterministic store a snapshot's reader, who is pinned for a moment, must not change what there is room for.
        let mut attempt = 0;
        while self.config.deterministic
            && self.retired_bytes() > 0
            && !self.moment.is_given_up()
            && attempt < COLLECT_ATTEMPTS
        {
            pause();
            self.reclaimer.collect(|| self.retired_bytes());
            attempt += 1;
        }
    }

    fn retired_bytes(&self) -> u64 {
        self.slabs.retired_bytes() + self.budget.awaiting()
    }

    /// Bytes that the readers of what was taken keep from being given back: retired ones, and with them the free ones,
    /// which compaction could not gather meanwhile.
    fn waiting_bytes(&self) -> u64 {
        self.retired_bytes() + self.slabs.free_bytes()
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

    /// Calls `visit` once with the tag that each segment of a table begins with, the first being `from`, under a pin of its
    /// own. It returns where the next segment begins.
    pub(super) fn for_each_segment(&self, from: u32, mut visit: impl FnMut(u32, &Guard) -> Option<u32>) {
        let (mut at, mut wrapped) = (from, false);
        loop {
            match visit(at, &self.reclaimer.pin()) {
                Some(next) if !wrapped || next < from => at = next,
                None if !wrapped && from > 0 => (at, wrapped) = (0, true),
                _ => return,
            }
        }
    }

    /// If the clock begins new units, returns their factor, 1 otherwise. The next sweep multiplies all utilities by it; all
    /// else that they are compared with is multiplied here.
    fn begin_units(&self) -> f32 {
        let Some(factor) = self.clock.begin_round() else { return 1.0 };
        if let Some(sketch) = &self.sketch {
            sketch.decay(factor);
        }
        self.set_threshold(self.threshold() * factor);
        factor
    }

    /// Counts the bytes of chunks by importance: of the rows in every `stride`-th line of the directories, for as many.
    fn measure<'s>(&self, stride: u64, scratch: &'s mut RoundScratch) -> &'s Histogram {
        let histogram = &mut scratch.chunks;
        histogram.clear();
        // Counted on over all tables, so that rows of small ones are measured as often as those of large ones, and not the
        // same in each round.
        let mut position = scratch.rounds;
        let mut rows = Vec::new();
        for table in &self.tables {
            let chains = table.chains(&self.slabs);
            let per_unit = table.scale().max(f32::MIN_POSITIVE).recip();
            self.for_each_segment(0, |at, guard| {
                rows.clear();
                let directory = &table.directory;
                let visit = |tag, head| rows.push((tag, head));
                let next = if self.config.deterministic {
                    directory.sample_homes(at, stride, &mut position, guard, visit)
                } else {
                    directory.sample(at, stride, &mut position, guard, visit)
                };
                chains.peek(&rows, |_, _, info| {
                    histogram.add(info.utility * per_unit, chains.bytes_of(info) * stride);
                    reach(Point::RowMeasured);
                });
                next
            });
        }
        histogram
    }

    /// Does to all rows what a pass is for, in one walk. Where it begins changes from round to round, so that chunks in the
    /// cut's last bin are not always taken from the same tables and keys.
    pub(super) fn sweep(&self, pass: Pass, round: u64, report: &mut PruneReport) {
        if !pass.does_something() {
            return;
        }
        let Pass { mut cut, moving, factor } = pass;
        let tables = self.tables.len();
        let first = (round as usize).wrapping_mul(7) % tables;
        let from = (round as u32).wrapping_mul(0x9E37_79B1);
        let (mut rows, mut marks, mut to_cut) = (Vec::new(), Vec::new(), Vec::<RowAt>::new());
        for table in (0..tables).map(|position| &self.tables[(first + position) % tables]) {
            let (chains, scale) = (table.chains(&self.slabs), table.scale());
            let mut magazines = Magazines::new(&self.slabs);
            let begin = table.directory.begin(from, &self.reclaimer.pin());
            self.for_each_segment(begin, |at, guard| {
                let next = table.rows_of_segment(at, guard, &mut rows);
                let below = cut.doubtful(scale).end;
                marks.clear();
                marks.resize(rows.len(), Mark::default());
                chains.peek(&rows, |position, tail, info| {
                    let mark = &mut marks[position];
                    mark.below |= info.utility < below;
                    mark.wanders |= moving
                        && match tail {
                            Some(tail) => chains.tails.is_evacuating(tail),
                            None => chains.heads.is_evacuating(rows[position].1),
                        };
                });
                to_cut.clear();
                to_cut.extend(rows.iter().zip(&marks).filter(|(_, mark)| mark.below).map(|(&row, _)| row));
                if self.config.deterministic {
                    // Not in the order in which they came, which a snapshot does not keep.
                    to_cut.sort_unstable_by_key(|&(tag, head)| chains.hash(tag, head));
                }
                let mut pinned = self.pinned(table, guard);
                for &row in &to_cut {
                    pinned.cut(row, cut.doubtful(scale), &mut cut.quota, report);
                }
                for (&row, mark) in rows.iter().zip(&marks) {
                    if factor != 1.0 {
                        pinned.change_units(row, factor);
                    }
                    if mark.wanders {
                        report.moved += pinned.move_row(row, &mut magazines);
                    }
                }
                drop(pinned);
                // A refusal only means that the segment stays larger than it need be.
                let _ = table.directory.tidy(at, guard);
                next
            });
        }
    }

    pub(super) fn pinned<'p>(&'p self, table: &'p Table, guard: &'p Guard) -> Pinned<'p> {
        let retired = Retired::new(&self.slabs, guard);
        Pinned { table, chains: table.chains(&self.slabs), retired, guard, inner: self }
    }

    /// Removes a row, whatever its importance. Returns whether it was there.
    pub(super) fn remove_row(&self, table: &Table, key: u64) -> bool {
        let hash = table.resolve(key);
        let guard = self.reclaimer.pin();
        let chains = table.chains(&self.slabs);
        while let Some(head) = table.find(&chains, hash, &guard) {
            // Gone: evicted or moved meanwhile; the directory knows.
            if let Ok(claim) = chains.claim((tag(hash), head)) {
                self.pinned(table, &guard).shrink((tag(hash), head), claim, |_| true);
                return true;
            }
        }
        false
    }
}

/// What a walk over all rows is for.
#[derive(Clone, Copy)]
pub(super) struct Pass {
    /// What it takes.
    cut: Cut,
    /// Whether it moves chunks out of superblocks being emptied.
    moving: bool,
    /// What it multiplies utilities by, after comparing them with the cut.
    factor: f32,
}

impl Pass {
    const NOTHING: Pass = Pass { cut: Cut::NOTHING, moving: false, factor: 1.0 };
    pub(super) const MOVING: Pass = Pass { moving: true, ..Pass::NOTHING };

    pub(super) fn units(factor: f32) -> Pass {
        Pass { factor, ..Pass::NOTHING }
    }

    fn does_something(&self) -> bool {
        self.cut != Cut::NOTHING || self.moving || self.factor != 1.0
    }
}

/// What a sweep saw of a row without a claim.
#[derive(Clone, Copy, Default)]
struct Mark {
    /// A chunk is below the cut.
    below: bool,
    /// A chunk is in a superblock being emptied.
    wanders: bool,
}

impl Cut {
    /// In a table of that scale: chunks of utilities within go while there is a quota, and all below go anyway.
    fn doubtful(&self, scale: f32) -> Range<f32> {
        // What counts for nothing is below every threshold, however small the scale.
        let edge = |importance: f32| if importance > 0.0 { (importance * scale).max(f32::MIN_POSITIVE) } else { 0.0 };
        edge(self.surely)..edge(if self.quota > 0 { self.threshold } else { self.surely })
    }
}

/// A table under a pin, and what is taken out of its rows.
pub(super) struct Pinned<'p> {
    pub(super) table: &'p Table,
    pub(super) chains: Chains<'p>,
    pub(super) retired: Retired<'p>,
    pub(super) guard: &'p Guard,
    inner: &'p Inner,
}

impl<'p> Pinned<'p> {
    /// Takes the chunks of one row that lie below `doubtful`'s end; those within it are taken from the quota.
    fn cut(&mut self, row: RowAt, doubtful: Range<f32>, quota: &mut u64, report: &mut PruneReport) {
        // What was seen without a claim is looked at again under it.
        let Some(claim) = self.patiently(row) else { return };
        for chunk in self.chains.chunks(&claim) {
            let info = chunk.info();
            if doubtful.contains(&info.utility) {
                *quota = quota.saturating_sub(self.chains.bytes_of(info));
            }
        }
        let taken = self.shrink(row, claim, |info| info.utility < doubtful.end);
        report.shrunk += u64::from(taken.shrunk);
        report.evicted += u64::from(taken.evicted);
        reach(Point::RowCut);
    }

    fn change_units(&self, row: RowAt, factor: f32) {
        let Some(claim) = self.patiently(row) else { return };
        for chunk in self.chains.chunks(&claim) {
            let Info { utility, ordinal } = chunk.info();
            chunk.set_info(Info { utility: utility * factor, ordinal });
        }
        reach(Point::UnitsChanged);
    }

    /// Claims a row, but not at any price: a row that is written all the time is not one to prune or to move now. In a
    /// deterministic store nobody writes now, and who only looks at the row must not change what a round does.
    pub(super) fn patiently(&self, row: RowAt) -> Option<Claim<'p>> {
        if self.inner.config.deterministic {
            return self.chains.claim(row).ok();
        }
        let mut attempt = 0;
        while attempt < ATTEMPTS {
            match self.chains.try_claim(row) {
                Ok(Some(claim)) => return Some(claim),
                Ok(None) => self.chains.moment.wait_for_room(),
                Err(Unclaimed::Gone) => return None,
                Err(Unclaimed::Busy) => {
                    spin_wait(attempt);
                    attempt += 1;
                }
            }
        }
        None
    }

    /// Takes chunks out of a claimed row, and the row out of the directory if none is left.
    pub(super) fn shrink(&mut self, (tag, head): RowAt, claim: Claim<'_>, drop: impl Fn(Info) -> bool) -> Taken {
        let Pinned { table, chains, retired, guard, inner } = self;
        let before = chains.ordinals(&claim).len();
        let shrunk =
            chains.shrink(claim, drop, |tail| retired.push(table.tails, tail), |after| table.count_row(before, after));
        let evicted = u32::from(shrunk.row_gone);
        if shrunk.row_gone {
            reach(Point::RowKilled);
            inner.note_removed(table, table.row_key(chains.hash(tag, head)));
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
}

/// What was taken from a row: chunks while it stayed, and the row itself.
pub(super) struct Taken {
    shrunk: u32,
    evicted: u32,
}
