//! Reading rows: a batch at a time, in groups that follow one another through the stages of a look-up, so that the waits
//! for memory overlap.

use super::table::Table;
use super::{Inner, Pooling};
use crate::chain::{Chains, Ordinals};
use crate::directory::{Approach, Arrival, Near, Probe};
use crate::hash::tag;
use crate::id::ChunkIndex;
use crate::simd::Kernels;
use crossbeam_epoch::Guard;

/// Keys that go through a stage together.
const GROUP: usize = 8;
/// How many groups after its hash a group comes to its segments, its buckets, its words, its rows' tails. Between two stages
/// the lines arrive that the first has asked for.
const TO_SEGMENT: usize = 1;
const TO_BUCKET: usize = TO_SEGMENT + 1;
const TO_WORD: usize = TO_BUCKET + 2;
const TO_TAIL: usize = TO_WORD + 2;
/// Groups on their way, a power of two.
const GROUPS: usize = 8;

/// A key on its way.
#[derive(Clone, Copy, Default)]
pub(super) struct Located<'g> {
    pub(super) hash: u64,
    approach: Option<Approach<'g>>,
    arrival: Option<Arrival<'g>>,
    near: Option<Near<'g>>,
    /// A row of the key's tag, not yet known to be the key's own.
    candidate: Option<ChunkIndex>,
}

/// How much of a row its visitor touches.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Touch {
    Weights,
    All,
}

/// Finds the rows of hashes and calls `visit` with each, in order, when its lines are near.
pub(super) fn in_order<'g>(
    table: &'g Table,
    chains: &Chains<'_>,
    mut hashes: impl ExactSizeIterator<Item = u64>,
    touch: Touch,
    guard: &'g Guard,
    mut visit: impl FnMut(usize, &Located<'g>),
) {
    let to_row = if table.layout.chunks > 1 { TO_TAIL + 1 } else { TO_WORD + 2 };
    let total = hashes.len();
    let groups = total.div_ceil(GROUP);
    let mut ring = [[Located::default(); GROUP]; GROUPS];
    for turn in 0..groups + to_row {
        if turn < groups {
            for (slot, hash) in ring[turn % GROUPS].iter_mut().zip(hashes.by_ref()) {
                slot.hash = hash;
                slot.approach = Some(table.directory.approach(tag(hash), guard));
            }
        }
        // The group that has come to a stage, if one has.
        let at = |stage: usize| {
            let group = turn.checked_sub(stage).filter(|&group| group < groups)?;
            Some((group, GROUP.min(total - group * GROUP)))
        };
        if let Some((group, members)) = at(TO_SEGMENT) {
            for slot in &mut ring[group % GROUPS][..members] {
                slot.arrival = slot.approach.map(|approach| approach.segment(tag(slot.hash), guard));
            }
        }
        if let Some((group, members)) = at(TO_BUCKET) {
            for slot in &mut ring[group % GROUPS][..members] {
                slot.near = slot.arrival.map(|arrival| arrival.bucket(tag(slot.hash), guard));
            }
        }
        if let Some((group, members)) = at(TO_WORD) {
            for slot in &mut ring[group % GROUPS][..members] {
                slot.candidate = slot.near.and_then(|near| near.candidate(tag(slot.hash)));
                if let Some(head) = slot.candidate {
                    if touch == Touch::All { chains.prefetch_head(head) } else { chains.prefetch_weights(head) }
                }
                if let Some(shared) = &table.shared {
                    shared.prefetch(table.shared_row(shared, slot.hash));
                }
            }
        }
        if table.layout.chunks > 1
            && let Some((group, members)) = at(TO_TAIL)
        {
            let rows = ring[group % GROUPS][..members].iter().filter_map(|slot| slot.candidate);
            rows.for_each(|head| chains.prefetch_tail(head));
        }
        if let Some((group, members)) = at(to_row) {
            for (member, slot) in ring[group % GROUPS][..members].iter().enumerate() {
                visit(group * GROUP + member, slot);
            }
        }
    }
}

impl Located<'_> {
    /// The key's own live row.
    #[inline]
    pub(super) fn row(&self, table: &Table, chains: &Chains<'_>, guard: &Guard) -> Option<ChunkIndex> {
        let candidate = self.candidate?;
        match chains.probe(candidate, self.hash) {
            Probe::Found => Some(candidate),
            Probe::Other | Probe::Gone => table.find(chains, self.hash, guard),
        }
    }

    /// Copies the row, or what stands in for it, to `out`, `[dim]`.
    #[inline(always)]
    fn read(&self, table: &Table, chains: &Chains<'_>, guard: &Guard, out: &mut [f32]) {
        // Whether it is live is asked by the read itself.
        if let Some(head) = self.candidate
            && chains.has(head, self.hash)
            && table.layout.chunks == 1
            && chains.read_single(head, out).is_ok()
        {
            return;
        }
        self.read_chunks(table, chains, guard, out);
    }

    /// Copies a row of any number of chunks, wherever it is now.
    fn read_chunks(&self, table: &Table, chains: &Chains<'_>, guard: &Guard, out: &mut [f32]) {
        let mut row = self.row(table, chains, guard);
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
        let dim = table.layout.dim;
        in_order(
            table,
            chains,
            keys.iter().map(|&key| table.resolve(key)),
            Touch::Weights,
            guard,
            |position, located| {
                located.read(table, chains, guard, &mut out[position * dim..(position + 1) * dim]);
            },
        );
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
        in_order(
            table,
            chains,
            keys.iter().map(|&key| table.resolve(key)),
            Touch::Weights,
            guard,
            |position, located| {
                while offsets[bag + 1] <= position {
                    bag += 1;
                }
                located.read(table, chains, guard, &mut row);
                simd.axpy(&mut out[bag * dim..(bag + 1) * dim], pooling.weight(offsets, bag), &row);
            },
        );
    }
}
