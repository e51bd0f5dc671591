//! Reading rows: a batch at a time, in groups that follow one another through the stages of a look-up, so that the waits
//! for memory overlap.

use super::table::Table;
use super::{Inner, Pooling};
use crate::chain::{Chains, Head, Ordinals, Tail};
use crate::directory::{AtHome, Near, Way};
use crate::hash::tag;
use crate::id::ChunkIndex;
use crate::simd::Kernels;
use crossbeam_epoch::Guard;
use std::slice::ChunksExactMut;

/// Keys that go through a stage together.
const GROUP: usize = 8;
/// How many groups after it began a group comes to its words, to those that are not where they begin, to its rows' first
/// tails, and, of rows of one chunk, to its rows. Between two stages the lines arrive that the first has asked for.
const TO_BUCKET: usize = 1;
const TO_WORD: usize = TO_BUCKET + 2;
const TO_ELSEWHERE: usize = TO_WORD + 2;
const TO_TAIL: usize = TO_ELSEWHERE + 1;
/// Where a tail is, only the one before it says. So many of a row's are asked for ahead, each so many groups after the other.
const TAILS_AHEAD: usize = 4;
const TO_NEXT_TAIL: usize = 2;
/// Groups on their way, a power of two: of rows of one chunk, and of others.
const FEW_GROUPS: usize = 8;
const MANY_GROUPS: usize = 16;

const _: () = assert!(TO_TAIL + 1 < FEW_GROUPS && TO_TAIL + TAILS_AHEAD * TO_NEXT_TAIL < MANY_GROUPS);

/// A key on its way.
#[derive(Clone, Copy, Default)]
pub(super) struct Located<'g> {
    pub(super) hash: u64,
    way: Option<Way<'g>>,
    near: Option<Near<'g>>,
    /// A row of the key's tag, not yet known to be the key's own.
    candidate: Option<Head<'g>>,
    /// The last of its tails that was asked for.
    tail: Option<Tail<'g>>,
}

/// How much of a row its visitor touches.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Touch {
    Weights,
    All,
}

/// What is done with the rows of a batch.
pub(super) trait Visit<'g> {
    /// Comes to a key, in order, when its row's lines are near. `SINGLE`: rows have one chunk at most.
    fn visit<const SINGLE: bool>(&mut self, position: usize, located: &Located<'g>);
}

/// Finds the rows of keys, whose hashes `resolve` tells, and visits them.
#[inline(always)]
pub(super) fn in_order<'g>(
    table: &'g Table,
    chains: &Chains<'g>,
    (keys, resolve): (&[u64], impl Fn(u64) -> u64),
    touch: Touch,
    guard: &'g Guard,
    visitor: impl Visit<'g>,
) {
    let batch = Batch { table, chains, keys, touch, guard };
    if table.layout.chunks == 1 {
        batch.in_order::<true, FEW_GROUPS>(resolve, visitor);
    } else {
        batch.in_order::<false, MANY_GROUPS>(resolve, visitor);
    }
}

/// What the stages of a look-up have in common.
struct Batch<'b, 'g> {
    table: &'g Table,
    chains: &'b Chains<'g>,
    keys: &'b [u64],
    touch: Touch,
    guard: &'g Guard,
}

impl<'g> Batch<'_, 'g> {
    // In line, as its stages are: what they share stays in registers.
    #[inline(always)]
    fn in_order<const SINGLE: bool, const GROUPS: usize>(
        &self,
        resolve: impl Fn(u64) -> u64,
        mut visitor: impl Visit<'g>,
    ) {
        let groups = self.keys.len().div_ceil(GROUP);
        let tails = if SINGLE { 0 } else { (self.table.layout.chunks - 1).min(TAILS_AHEAD) };
        let to_row = TO_TAIL + (tails * TO_NEXT_TAIL).max(1);
        let search = self.table.directory.search(self.guard);
        let mut ring = [[Located::default(); GROUP]; GROUPS];
        // Of each group, which rows are not where they would be first.
        let mut elsewhere = [0u32; GROUPS];
        for turn in 0..groups + to_row {
            if turn < groups {
                for (slot, &key) in ring[turn % GROUPS].iter_mut().zip(&self.keys[turn * GROUP..]) {
                    slot.hash = resolve(key);
                    slot.way = Some(search.set_out(tag(slot.hash)));
                }
            }
            // The group that has come to a stage, if one has.
            let at = |stage: usize| {
                let group = turn.checked_sub(stage).filter(|&group| group < groups)?;
                Some((group, GROUP.min(self.keys.len() - group * GROUP)))
            };
            if let Some((group, members)) = at(TO_BUCKET) {
                for slot in &mut ring[group % GROUPS][..members] {
                    slot.near = slot.way.map(|way| search.approach(way, tag(slot.hash)));
                }
            }
            if let Some((group, members)) = at(TO_WORD) {
                elsewhere[group % GROUPS] = self.look_at_home(&mut ring[group % GROUPS][..members]);
            }
            if let Some((group, _)) = at(TO_ELSEWHERE) {
                self.look_elsewhere(&mut ring[group % GROUPS], elsewhere[group % GROUPS]);
            }
            for number in 0..tails {
                if let Some((group, members)) = at(TO_TAIL + number * TO_NEXT_TAIL) {
                    self.ask_for_tails(&mut ring[group % GROUPS][..members], number == 0);
                }
            }
            if let Some((group, members)) = at(to_row) {
                for (member, slot) in ring[group % GROUPS][..members].iter().enumerate() {
                    visitor.visit::<SINGLE>(group * GROUP + member, slot);
                }
            }
        }
    }

    /// Looks for words where those of a tag begin. Returns which members may have theirs elsewhere, a bit for each.
    #[inline(always)]
    fn look_at_home(&self, group: &mut [Located<'g>]) -> u32 {
        let words = self.chains.head_words(self.touch == Touch::All);
        let mut others = 0;
        for (member, slot) in group.iter_mut().enumerate() {
            slot.candidate = None;
            let Some(near) = slot.near else { continue };
            match near.at_home(tag(slot.hash)) {
                AtHome::Row(index) => {
                    let head = self.chains.head(index);
                    head.prefetch(words);
                    slot.candidate = Some(head);
                }
                AtHome::Nothing => {}
                AtHome::Elsewhere => {
                    near.ask_elsewhere();
                    others |= 1 << member;
                }
            }
        }
        if let Some(shared) = &self.table.shared {
            group.iter().for_each(|slot| shared.prefetch(self.table.shared_row(shared, slot.hash)));
        }
        others
    }

    #[inline(always)]
    fn look_elsewhere(&self, group: &mut [Located<'g>; GROUP], mut others: u32) {
        while others != 0 {
            let slot = &mut group[others.trailing_zeros() as usize % GROUP];
            others &= others - 1;
            let found = slot.near.and_then(|near| near.elsewhere(tag(slot.hash), self.guard));
            slot.candidate = found.map(|index| self.chains.head(index));
            if let Some(head) = slot.candidate {
                head.prefetch(self.chains.head_words(self.touch == Touch::All));
            }
        }
    }

    /// Asks for the rows' first tails, or for those after the ones that were asked for last.
    #[inline(always)]
    fn ask_for_tails(&self, group: &mut [Located<'g>], first: bool) {
        let words = self.chains.tail_words(self.touch == Touch::All);
        for slot in group {
            slot.tail = if first {
                slot.candidate.and_then(|head| self.chains.first_tail(head))
            } else {
                slot.tail.and_then(|tail| self.chains.tail_after(tail))
            };
            if let Some(tail) = slot.tail {
                tail.prefetch(words);
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
    fn read<const SINGLE: bool>(&self, table: &Table, chains: &Chains<'_>, guard: &Guard, out: &mut [f32]) {
        if let Some(head) = self.candidate
            && head.has(self.hash)
        {
            if SINGLE {
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

/// Copies rows one behind the other.
struct Copied<'c, 'g> {
    table: &'g Table,
    chains: &'c Chains<'g>,
    guard: &'g Guard,
    rows: ChunksExactMut<'c, f32>,
}

impl<'g> Visit<'g> for Copied<'_, 'g> {
    #[inline(always)]
    fn visit<const SINGLE: bool>(&mut self, _position: usize, located: &Located<'g>) {
        // As many as there are keys: that was checked.
        if let Some(row) = self.rows.next() {
            located.read::<SINGLE>(self.table, self.chains, self.guard, row);
        }
    }
}

/// Adds the rows of each bag to its sum.
struct Pooled<'c, 'g> {
    table: &'g Table,
    chains: &'c Chains<'g>,
    guard: &'g Guard,
    simd: Kernels,
    offsets: &'c [usize],
    pooling: Pooling,
    bag: usize,
    /// Scratch, `[dim]`.
    row: &'c mut [f32],
    out: &'c mut [f32],
}

impl<'g> Visit<'g> for Pooled<'_, 'g> {
    #[inline(always)]
    fn visit<const SINGLE: bool>(&mut self, position: usize, located: &Located<'g>) {
        while self.offsets[self.bag + 1] <= position {
            self.bag += 1;
        }
        located.read::<SINGLE>(self.table, self.chains, self.guard, self.row);
        let dim = self.row.len();
        let sum = &mut self.out[self.bag * dim..(self.bag + 1) * dim];
        self.simd.axpy(sum, self.pooling.weight(self.offsets, self.bag), self.row);
    }
}

impl Inner {
    pub(super) fn gather(&self, table: &Table, keys: &[u64], out: &mut [f32]) {
        let guard = &self.reclaimer.pin();
        let chains = &table.chains(&self.slabs);
        let copied = Copied { table, chains, guard, rows: out.chunks_exact_mut(table.layout.dim) };
        in_order(table, chains, (keys, |key| table.resolve(key)), Touch::Weights, guard, copied);
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
        out.fill(0.0);
        let row = &mut vec![0f32; table.layout.dim][..];
        let pooled = Pooled { table, chains, guard, simd: Kernels::get(), offsets, pooling, bag: 0, row, out };
        in_order(table, chains, (keys, |key| table.resolve(key)), Touch::Weights, guard, pooled);
    }
}
