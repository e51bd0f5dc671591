//! Reading rows: a batch at a time, in waves, so that the waits for memory overlap.

use super::table::Table;
use super::{Inner, Pooling};
use crate::chain::Chains;
use crate::directory::Probe;
use crate::hash::tag;
use crate::id::ChunkIndex;
use crate::simd::Kernels;
use crossbeam_epoch::Guard;

/// Keys of one wave. Each stage of a wave asks for the lines that the next one reads.
const WAVE: usize = 32;

/// A key on its way through the waves.
#[derive(Clone, Copy, Default)]
pub(super) struct Located {
    pub(super) hash: u64,
    /// A row of the key's tag, not yet known to be the key's own.
    pub(super) candidate: Option<ChunkIndex>,
}

/// Finds the rows of hashes and calls `visit` with each, in order, when its lines are near.
pub(super) fn in_waves(
    table: &Table,
    chains: &Chains<'_>,
    mut hashes: impl Iterator<Item = u64>,
    guard: &Guard,
    mut visit: impl FnMut(usize, Located),
) {
    let mut wave = [Located::default(); WAVE];
    let mut done = 0;
    loop {
        let mut filled = 0;
        for (slot, hash) in wave.iter_mut().zip(hashes.by_ref()) {
            *slot = Located { hash, candidate: None };
            table.directory.prefetch(tag(hash), guard);
            filled += 1;
        }
        let wave = &mut wave[..filled];
        for slot in wave.iter_mut() {
            slot.candidate = table.directory.find(tag(slot.hash), guard, |_| Probe::Found);
            if let Some(head) = slot.candidate {
                chains.prefetch_head(head);
            }
        }
        if let Some(shared) = &table.shared {
            wave.iter().for_each(|slot| shared.prefetch(table.shared_row(shared, slot.hash)));
        }
        if table.layout.chunks > 1 {
            wave.iter().filter_map(|slot| slot.candidate).for_each(|head| chains.prefetch_tail(head));
        }
        for (position, slot) in wave.iter().enumerate() {
            visit(done + position, *slot);
        }
        done += filled;
        if filled < WAVE {
            return;
        }
    }
}

impl Located {
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
    #[inline]
    fn read(&self, table: &Table, chains: &Chains<'_>, guard: &Guard, out: &mut [f32]) {
        let mut row = self.row(table, chains, guard);
        while let Some(head) = row {
            if chains.read(head, out, |out| table.read_fallback(self.hash, out)).is_ok() {
                return;
            }
            row = table.find(chains, self.hash, guard);
        }
        table.read_fallback(self.hash, out);
    }
}

impl Inner {
    pub(super) fn gather(&self, table: &Table, keys: &[u64], out: &mut [f32]) {
        let guard = &self.reclaimer.pin();
        let chains = &table.chains(&self.slabs);
        let dim = table.layout.dim;
        in_waves(table, chains, keys.iter().map(|&key| table.resolve(key)), guard, |position, located| {
            located.read(table, chains, guard, &mut out[position * dim..(position + 1) * dim]);
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
        in_waves(table, chains, keys.iter().map(|&key| table.resolve(key)), guard, |position, located| {
            while offsets[bag + 1] <= position {
                bag += 1;
            }
            located.read(table, chains, guard, &mut row);
            simd.axpy(&mut out[bag * dim..(bag + 1) * dim], pooling.weight(offsets, bag), &row);
        });
    }
}
