//! Reading rows: a batch at a time, in groups that follow one another through the stages of a look-up, so that the waits
//! for memory overlap.

use super::table::Table;
use super::{Inner, Pooling};
use crate::chain::{Chains, Head, Ordinals};
use crate::directory::{AtHome, Near, Way};
use crate::hash::tag;
use crate::id::ChunkIndex;
use crate::simd::Kernels;
use crossbeam_epoch::Guard;

/// Keys that go through a stage together.
const GROUP: usize = 8;
/// How many groups after it began a group comes to its words, to those that are not where they begin, to its rows' tails, and
/// to its rows. Between two stages the lines arrive that the first has asked for.
const TO_BUCKET: usize = 1;
const TO_WORD: usize = TO_BUCKET + 2;
const TO_ELSEWHERE: usize = TO_WORD + 2;
const TO_TAIL: usize = TO_ELSEWHERE + 1;
const TO_ROW: usize = TO_TAIL + 1;
/// Groups on their way, a power of two.
const GROUPS: usize = 8;

/// A key on its way.
#[derive(Clone, Copy, Default)]
pub(super) struct Located<'g> {
    pub(super) hash: u64,
    way: Option<Way<'g>>,
    near: Option<Near<'g>>,
    /// A row of the key's tag, not yet known to be the key's own.
    candidate: Option<Head<'g>>,
}

/// How much of a row its visitor touches.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Touch {
    Weights,
    All,
}

/// Finds the rows of keys, whose hashes `resolve` tells, and calls `visit` with each, in order, when its lines are near.
pub(super) fn in_order<'g>(
    table: &'g Table,
    chains: &Chains<'g>,
    (keys, resolve): (&[u64], impl Fn(u64) -> u64),
    touch: Touch,
    guard: &'g Guard,
    mut visit: impl FnMut(usize, &Located<'g>),
) {
    let groups = keys.len().div_ceil(GROUP);
    let heads = chains.heads.records();
    let mut ring = [[Located::default(); GROUP]; GROUPS];
    // Of each group, which rows are not where they would be first.
    let mut elsewhere = [0u32; GROUPS];
    for turn in 0..groups + TO_ROW {
        if turn < groups {
            for (slot, &key) in ring[turn % GROUPS].iter_mut().zip(&keys[turn * GROUP..]) {
                slot.hash = resolve(key);
                slot.way = Some(table.directory.set_out(tag(slot.hash), guard));
            }
        }
        // The group that has come to a stage, if one has.
        let at = |stage: usize| {
            let group = turn.checked_sub(stage).filter(|&group| group < groups)?;
            Some((group, GROUP.min(keys.len() - group * GROUP)))
        };
        if let Some((group, members)) = at(TO_BUCKET) {
            for slot in &mut ring[group % GROUPS][..members] {
                slot.near = slot.way.map(|way| table.directory.approach(way, tag(slot.hash), guard));
            }
        }
        if let Some((group, members)) = at(TO_WORD) {
            let mut others = 0;
            for (member, slot) in ring[group % GROUPS][..members].iter_mut().enumerate() {
                slot.candidate = None;
                let Some(near) = slot.near else { continue };
                match near.at_home(tag(slot.hash)) {
                    AtHome::Row(index) => {
                        let head = Head::at(heads, index);
                        chains.prefetch(head, touch == Touch::All);
                        slot.candidate = Some(head);
                    }
                    AtHome::Nothing => {}
                    AtHome::Elsewhere => {
                        near.ask_elsewhere();
                        others |= 1 << member;
                    }
                }
                if let Some(shared) = &table.shared {
                    shared.prefetch(table.shared_row(shared, slot.hash));
                }
            }
            elsewhere[group % GROUPS] = others;
        }
        if let Some((group, _)) = at(TO_ELSEWHERE) {
            let mut others = elsewhere[group % GROUPS];
            while others != 0 {
                let slot = &mut ring[group % GROUPS][others.trailing_zeros() as usize];
                others &= others - 1;
                let found = slot.near.and_then(|near| near.elsewhere(tag(slot.hash), guard));
                slot.candidate = found.map(|index| Head::at(heads, index));
                if let Some(head) = slot.candidate {
                    chains.prefetch(head, touch == Touch::All);
                }
            }
        }
        if table.layout.chunks > 1
            && let Some((group, members)) = at(TO_TAIL)
        {
            let rows = ring[group % GROUPS][..members].iter().filter_map(|slot| slot.candidate);
            rows.for_each(|head| chains.prefetch_tail(head));
        }
        if let Some((group, members)) = at(TO_ROW) {
            for (member, slot) in ring[group % GROUPS][..members].iter().enumerate() {
                visit(group * GROUP + member, slot);
            }
        }
    }
}

impl Located<'_> {
    /// The key's own row. Whether it is live is for the read, or the claim, to tell.
    #[inline]
    pub(super) fn row(&self, table: &Table, chains: &Chains<'_>, guard: &Guard) -> Option<ChunkIndex> {
        let candidate = self.candidate?;
        if candidate.has(self.hash) { Some(candidate.index) } else { table.find(chains, self.hash, guard) }
    }

    /// Copies the row, or what stands in for it, to `out`, `[dim]`.
    #[inline(always)]
    fn read(&self, table: &Table, chains: &Chains<'_>, guard: &Guard, out: &mut [f32]) {
        if let Some(head) = self.candidate
            && head.has(self.hash)
        {
            if table.layout.chunks == 1 {
                if chains.read_single(head, out).is_ok() {
                    return;
                }
            } else if let Ok(live) = chains.read_head(head, out) {
                return table.read_missing(self.hash, &live, out);
            }
        }
        self.read_anew(table, chains, guard, out);
    }

    /// Copies a row that is not where it was, or never was there.
    #[inline(never)]
    fn read_anew(&self, table: &Table, chains: &Chains<'_>, guard: &Guard, out: &mut [f32]) {
        let mut row = self.candidate.and_then(|_| table.find(chains, self.hash, guard));
        while let Some(head) = row {
            if let Ok(live) = chains.read(head, out) {
                return table.read_missing(self.hash, &live, out);
            }
            row = table.find(chains, self.hash, guard);
        }
        table.read_missing(self.hash, &Ordinals::default(), out);
    }
}

impl Inner {
    pub(super) fn gather(&self, table: &Table, keys: &[u64], out: &mut [f32]) {
        let guard = &self.reclaimer.pin();
        let chains = &table.chains(&self.slabs);
        let mut rows = out.chunks_exact_mut(table.layout.dim);
        in_order(table, chains, (keys, |key| table.resolve(key)), Touch::Weights, guard, |_, located| {
            // As many as there are keys: that was checked.
            if let Some(row) = rows.next() {
                located.read(table, chains, guard, row);
            }
        });
    }

    /// `offsets` were checked.
    pub(super) fn gather_pooled(
        &self,
        table: &Table,
        keys: &[u64],
        offsets: &[usize],
        pooling: Pooling,
        out: &mut [f32],
    ) {
        let guard = &self.reclaimer.pin();
        let chains = &table.chains(&self.slabs);
        let (dim, simd) = (table.layout.dim, Kernels::get());
        out.fill(0.0);
        let mut row = vec![0f32; dim];
        let mut bag = 0;
        in_order(table, chains, (keys, |key| table.resolve(key)), Touch::Weights, guard, |position, located| {
            while offsets[bag + 1] <= position {
                bag += 1;
            }
            located.read(table, chains, guard, &mut row);
            simd.axpy(&mut out[bag * dim..(bag + 1) * dim], pooling.weight(offsets, bag), &row);
        });
    }
}
