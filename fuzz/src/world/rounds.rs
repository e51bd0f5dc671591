//! Rounds, and what they must have taken.

use super::{KEYS, ROOM_FOR_ROUND, TABLES, World, key, number};
use dimslab::fuzzing::{BegunCut, CHUNKS_MAX, RowView};
use dimslab::{PruneReport, StoreError};

/// A row before a cut.
#[derive(Clone, Copy)]
pub(super) struct RowBefore {
    pub(super) table: usize,
    pub(super) number: usize,
    pub(super) live: u32,
    pub(super) utilities: [f32; CHUNKS_MAX],
}

/// What a round begins to cut from.
pub(super) struct BeforeCut {
    pub(super) cut: BegunCut,
    /// In the cut's order.
    pub(super) rows: Vec<RowBefore>,
}

impl World<'_> {
    pub fn prune(&self, thread: usize) {
        if self.in_round.get() || self.round_waits() || !self.may_take(ROOM_FOR_ROUND) {
            return;
        }
        let interruptions = self.interruptions.get();
        self.before_cut.take();
        let report = self.act(thread, || self.store.prune()).expect("a round does not fail");
        self.take_stock();
        self.check_cut(interruptions, &report);
    }

    /// Prunes until so many bytes are held, in 32nds of what is held now beyond the least.
    pub fn prune_to(&self, thread: usize) {
        let part = u64::from(self.bytes.next() % 33);
        if self.in_round.get() || self.round_waits() || !self.may_take(ROOM_FOR_ROUND) {
            return;
        }
        self.in_round.set(true);
        let (figures, interruptions) = (self.seam.figures(), self.interruptions.get());
        let least = self.seam.least_held();
        let asked = least + figures.held.saturating_sub(least) * part / 32;
        let pruned = self.act(thread, || self.store.prune_to(asked));
        self.rounds.set(self.rounds.get() + 1);
        self.before_cut.take();
        self.take_stock();
        match pruned {
            Ok(_) => {
                let alone = self.schedule.quiet() && interruptions == self.interruptions.get();
                let free = self.pins.borrow().iter().all(Option::is_none) && !self.claims();
                let empty =
                    (0..self.table_count).all(|table| self.tables.borrow()[table].rows.iter().all(|row| row.live == 0));
                assert!(
                    !alone || !free || empty || self.seam.figures().held <= asked,
                    "more than {asked} bytes are held"
                );
            }
            Err(StoreError::NoPolicy { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    pub(super) fn before_cut(&self) -> BeforeCut {
        let round = self.cuts.get();
        let from = round.wrapping_mul(0x9E37_79B1);
        let mut rows = Vec::new();
        for position in 0..self.table_count {
            let table = (round as usize * 7 + position) % self.table_count;
            self.seam.rows(table, from, |row| {
                let RowView { key, live, utilities, .. } = row;
                rows.push(RowBefore { table, number: number(key), live, utilities });
            });
        }
        BeforeCut { cut: self.seam.begun_cut(), rows }
    }

    /// A round that nobody came between took exactly what lies below its cut, and no more than its quota, up to the chunks
    /// of one row, of what lies just below.
    pub(super) fn check_cut(&self, interruptions: u32, report: &PruneReport) {
        let Some(BeforeCut { cut, rows }) = self.before_cut.take() else {
            assert_eq!((report.threshold, report.shrunk, report.evicted), (0.0, 0, 0));
            return;
        };
        if interruptions != self.interruptions.get() || self.held.borrow().iter().any(Option::is_some) {
            return;
        }
        assert_eq!(report.threshold, cut.threshold);
        if self.schedule.quiet() {
            // Otherwise rows may be claimed, which are measured but not among ours.
            self.check_begun(cut, &rows);
        }
        let mut left = [[None; KEYS]; TABLES];
        let (mut quota, mut shrunk, mut evicted) = (cut.quota, 0, 0);
        for &RowBefore { table, number, live, utilities } in &rows {
            let live = left[table][number].get_or_insert(live);
            let (scale, head_bytes, tail_bytes) = self.seam.scale_and_bytes(table);
            if scale == 0.0 || *live == 0 {
                continue;
            }
            let surely = cut.surely * scale;
            let limit = if quota > 0 { cut.threshold * scale } else { surely };
            let mut taken = 0u32;
            for ordinal in (0..32).filter(|&ordinal| *live >> ordinal & 1 == 1) {
                let utility = utilities[ordinal as usize];
                taken |= u32::from(utility < limit) << ordinal;
                if (surely..limit).contains(&utility) {
                    quota = quota.saturating_sub(if ordinal == 0 { head_bytes } else { tail_bytes });
                }
            }
            *live &= !taken;
            let gone = u64::from(*live == 0 && taken != 0);
            (shrunk, evicted) = (shrunk + u64::from(taken.count_ones()) - gone, evicted + gone);
        }
        assert_eq!((report.shrunk, report.evicted), (shrunk, evicted), "{cut:?}");
        for (table, left) in left.iter().enumerate() {
            for (number, live) in left.iter().enumerate() {
                let expected = live.unwrap_or_else(|| self.row(table, number).live);
                assert_eq!(self.row(table, number).live, expected, "key {} of table {table}", key(number));
            }
        }
    }

    /// What a round begins to take makes as many bytes as it wants, four steps of importance to a power of two.
    pub(super) fn check_begun(&self, cut: BegunCut, rows: &[RowBefore]) {
        let bin = |importance: f32| importance.to_bits() >> 21;
        let (mut below, mut within) = (0, 0);
        for &RowBefore { table, live, utilities, .. } in rows {
            let (scale, head_bytes, tail_bytes) = self.seam.scale_and_bytes(table);
            let per_unit = scale.max(f32::MIN_POSITIVE).recip();
            for ordinal in (0..32).filter(|ordinal| live >> ordinal & 1 == 1) {
                let bytes = if ordinal == 0 { head_bytes } else { tail_bytes };
                let importance = utilities[ordinal as usize] * per_unit;
                below += if bin(importance) < bin(cut.surely) { bytes } else { 0 };
                within += if bin(importance) == bin(cut.surely) { bytes } else { 0 };
            }
        }
        if cut.quota == 0 {
            assert!(cut.surely == f32::INFINITY && below + within < cut.wanted, "{below} bytes, and {cut:?}");
        } else {
            assert!(below + cut.quota == cut.wanted && cut.quota <= within, "{below} and {within} bytes, and {cut:?}");
        }
    }
}
