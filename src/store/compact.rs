//! Memory that goes back: superblocks emptied by moving their chunks, directories rebuilt, pages returned.

use super::Inner;
use super::PruneReport;
use super::round::{Pass, Pinned};
use crate::chain::RowAt;
use crate::failpoint::{Point, reach};
use crate::id::ChunkIndex;
use crate::reclaim::Magazines;
use crate::slab::Slab;

/// Bytes a row, and besides, beyond which a directory is worth tidying: dense ones have 9 to 13 a row.
const SPARSE_DIRECTORY: u64 = 16;
const SMALL_DIRECTORY: u64 = 16 << 10;

/// Superblocks that are being emptied, until this is dropped, by a panic too.
pub(super) struct Evacuation<'s>(Vec<(&'s Slab, u32)>);

impl Drop for Evacuation<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|(slab, superblock)| slab.stop_evacuating(*superblock));
    }
}

impl Inner {
    /// Gives empty superblocks back to the system, and makes more of them by compaction where more of a slab is free than
    /// `ratio`, of resident over live bytes, allows.
    pub(super) fn give_back(&self, ratio: f64, round: u64, report: &mut PruneReport) {
        self.tidy();
        self.collect();
        self.retire_empty(None);
        if let Some(evacuation) = self.evacuate_all_but(|used| (used as f64 * (ratio - 1.0)) as u64) {
            self.sweep(Pass::MOVING, round, report);
            self.collect();
            self.retire_empty(Some(&evacuation));
        }
        reach(Point::Compacted);
        self.collect();
    }

    /// Chooses superblocks to empty: in each slab as many as can go if `spare(used)` records are to stay free, and one
    /// superblock's worth in any case, unless none is used. `None` if there are none.
    pub(super) fn evacuate_all_but(&self, spare: impl Fn(u64) -> u64) -> Option<Evacuation<'_>> {
        let mut evacuation = Evacuation(Vec::new());
        for slab in self.slabs.iter() {
            let mut occupancy: Vec<_> = slab.occupancy().collect();
            let slots = u64::from(slab.slots());
            let mut free: u64 = occupancy.iter().map(|&(_, free)| u64::from(free)).sum();
            let used = occupancy.len() as u64 * slots - free;
            let allowed = if used == 0 { 0 } else { spare(used).max(slots) };
            // The emptiest first, as the least has to be moved. What leaves one fits into what the others have free.
            occupancy.sort_by_key(|&(superblock, free)| (std::cmp::Reverse(free), superblock));
            for (superblock, _) in occupancy {
                if free < allowed + slots {
                    break;
                }
                slab.start_evacuating(superblock);
                evacuation.0.push((slab, superblock));
                free -= slots;
            }
        }
        if evacuation.0.is_empty() {
            return None;
        }
        reach(Point::EvacuationBegun);
        Some(evacuation)
    }

    /// Gives empty superblocks back to the system: all that there are, or, in a deterministic store, those that were being
    /// emptied. How many these are follows from how many records there are, while which others happen to be empty depends
    /// on where each record is, which a snapshot does not keep.
    pub(super) fn retire_empty(&self, evacuation: Option<&Evacuation<'_>>) {
        let guard = self.reclaimer.pin();
        if self.config.deterministic {
            for &(slab, superblock) in evacuation.iter().flat_map(|evacuation| &evacuation.0) {
                slab.retire_superblock(superblock, &guard);
            }
            return;
        }
        for slab in self.slabs.iter() {
            let empty: Vec<u32> =
                slab.occupancy().filter(|&(_, free)| free == slab.slots()).map(|(index, _)| index).collect();
            for superblock in empty {
                slab.retire_superblock(superblock, &guard);
            }
        }
    }

    /// Rebuilds the sparse segments of directories that have lost most of their rows: those of rows that were removed, and
    /// of rounds that had no reason to walk them.
    fn tidy(&self) {
        for table in &self.tables {
            let small = table.directory.bytes() <= SPARSE_DIRECTORY * table.live_rows() + SMALL_DIRECTORY;
            if small || !table.may_be_tidied() {
                continue;
            }
            self.for_each_segment(0, |at, guard| {
                let next = table.directory.after(at, guard);
                // A refusal only means that the segment stays larger than it need be.
                let _ = table.directory.tidy(at, guard);
                next
            });
            table.note_tidied();
        }
    }
}

impl Pinned<'_> {
    /// Moves the chunks of one row that are in superblocks being emptied. Returns how many.
    pub(super) fn move_row(&mut self, (tag, head): RowAt, magazines: &mut Magazines<'_>) -> u64 {
        let Some(mut claim) = self.patiently((tag, head)) else { return 0 };
        claim.unchanged();
        let Pinned { table, chains, retired, guard, .. } = self;
        let (heads, tails) = (chains.heads, chains.tails);
        let wandering: Vec<ChunkIndex> =
            chains.chunks(&claim).filter_map(|chunk| chunk.tail).filter(|&tail| tails.is_evacuating(tail)).collect();
        let mut moved = 0;
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
        moved
    }
}
