//! What fuzz cases need of a store beyond the public API: simulated threads, rows that stay located under a pin, rows
//! that stay claimed, and a look at what must not change by itself.

use super::table::Table;
use super::{Inner, Store};
use crate::chain::{Chains, Ordinals};
use crate::config::{StoreConfig, TableConfig};
use crate::error::ConfigError;
use crate::hash::tag;
use crate::id::ChunkIndex;
use crate::importance::Cut;
use crate::sequence::{self, Claim};
use crate::sync::Ordering;
use crossbeam_epoch::Guard;
use std::cell::Cell;
use std::sync::Arc;

pub use crate::reclaim::Simulated;

/// Most chunks of a row in a case.
pub const CHUNKS_MAX: usize = 8;

/// A pin of the simulated thread that runs.
pub struct PinnedThread(Guard);

/// A row that was found, and what it consisted of then.
#[derive(Debug, Clone, Copy)]
pub struct Located {
    table: usize,
    key: u64,
    head: ChunkIndex,
    tails: [Option<ChunkIndex>; CHUNKS_MAX],
}

/// Where a row's head record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head(ChunkIndex);

/// A row as it is now.
#[derive(Debug, Clone, Copy)]
pub struct RowView<'r> {
    /// Its key.
    pub key: u64,
    /// Which chunks are live, a bit for each ordinal.
    pub live: u32,
    /// Its values.
    pub values: &'r [f32],
    /// Its head record.
    pub head: Head,
    /// The utility of each live chunk, by its ordinal.
    pub utilities: [f32; CHUNKS_MAX],
}

/// What a round is about to take.
#[derive(Debug, Clone, Copy)]
pub struct BegunCut {
    /// All chunks below this importance.
    pub surely: f32,
    /// And of those below this one
    pub threshold: f32,
    /// so many bytes,
    pub quota: u64,
    /// because it wanted so many in all.
    pub wanted: u64,
}

/// Figures that hold at any moment between two operations.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// The limit of the budget.
    pub limit: u64,
    /// Bytes held of it.
    pub held: u64,
    /// The most that was held.
    pub peak: u64,
    /// Bytes of superblocks in use.
    pub committed: u64,
    /// Bytes of records that wait for their last reader.
    pub retired: u64,
    /// Bytes of segments and superblocks that do.
    pub awaiting: u64,
    /// Bytes of directories.
    pub directories: u64,
    /// Bytes that are held from beginning to end.
    pub fixed: u64,
}

thread_local! {
    pub(super) static CUT: Cell<Option<(Cut, u64)>> = const { Cell::new(None) };
}

/// A store with its inside open.
#[derive(Clone, Copy)]
pub struct Seam<'s>(&'s Inner);

impl Store {
    /// A store whose rounds run only when they are asked for.
    #[doc(hidden)]
    pub fn without_pruner(config: StoreConfig, tables: Vec<TableConfig>) -> Result<Store, ConfigError> {
        Ok(Store { inner: Arc::new(Inner::new(config, tables)?), pruner: None })
    }

    /// Opens it.
    #[doc(hidden)]
    pub fn seam(&self) -> Seam<'_> {
        Seam(&self.inner)
    }
}

impl<'s> Seam<'s> {
    fn parts(self, table: usize) -> (&'s Table, Chains<'s>) {
        let table = &self.0.tables[table];
        (table, table.chains(&self.0.slabs))
    }

    /// Pins the simulated thread that runs.
    pub fn pin(self) -> PinnedThread {
        PinnedThread(self.0.reclaimer.pin())
    }

    /// Runs what is due.
    pub fn collect(self) {
        self.0.collect();
    }

    /// The figures.
    pub fn figures(self) -> Figures {
        Figures {
            limit: self.0.budget.limit(),
            held: self.0.budget.held(),
            peak: self.0.budget.peak(),
            committed: self.0.superblocks.committed_bytes(),
            retired: self.0.slabs.retired_bytes(),
            awaiting: self.0.budget.awaiting(),
            directories: self.0.tables.iter().map(|table| table.directory.bytes()).sum(),
            fixed: self.0.fixed_bytes,
        }
    }

    /// Bytes that are held without a row.
    pub fn least_held(self) -> u64 {
        self.0.least_held()
    }

    /// What the last round of this operating-system thread began to cut.
    pub fn begun_cut(self) -> BegunCut {
        let (cut, wanted) = CUT.get().expect("asked for where a cut begins");
        BegunCut { surely: cut.surely, threshold: cut.threshold, quota: cut.quota, wanted }
    }

    /// Whether the record where a row was found is claimed, so that reading it would wait.
    pub fn located_is_claimed(self, located: &Located) -> bool {
        sequence::is_claimed(self.parts(located.table).1.heads.record(located.head))
    }

    /// A table's scale, and the bytes of its head and of its tail records.
    pub fn scale_and_bytes(self, table: usize) -> (f32, u64, u64) {
        let (table, chains) = self.parts(table);
        (table.scale(), chains.heads.record_bytes(), chains.tails.record_bytes())
    }

    /// Finds a row, without waiting for whoever may have it claimed.
    pub fn locate(self, table: usize, key: u64, pinned: &PinnedThread) -> Option<Located> {
        let (number, (table, chains)) = (table, self.parts(table));
        let head = table.find(&chains, table.hash(key), &pinned.0)?;
        let (mut tails, mut count) = ([None; CHUNKS_MAX], 0);
        chains.peek(&[(0, head)], |_, tail, _| {
            if let Some(tail) = tail {
                tails[count] = Some(tail);
                count += 1;
            }
        });
        Some(Located { table: number, key, head, tails })
    }

    /// Whether the records of a row are still where they were: none is free, and the head has its part of the key.
    pub fn in_place(self, located: &Located) -> bool {
        let (table, chains) = self.parts(located.table);
        let hash = table.hash(located.key);
        let tails_stay = located.tails.iter().flatten().all(|&tail| !chains.tails.is_free(tail));
        tails_stay && !chains.heads.is_free(located.head) && chains.hash(tag(hash), located.head) == hash
    }

    /// Whether a row is live in a record where it was before: not claimed, as one that is being moved, and not the row of
    /// that key in another table, or of another slab that has the superblock now.
    pub fn haunts(self, table: usize, key: u64, head: Head) -> bool {
        let (table, chains) = self.parts(table);
        let (record, superblock) = (chains.heads.record(head.0), chains.heads.superblock_of(head.0));
        // Only half of the hash, but no two of a case's few keys have that in common.
        let hash = table.hash(key);
        if chains.hash(tag(hash), head.0) != hash || !sequence::is_live(record) || sequence::is_claimed(record) {
            return false;
        }
        let guard = self.0.reclaimer.pin();
        let rightly = |other: &Table| {
            let chains = other.chains(&self.0.slabs);
            other.heads == table.heads && other.find(&chains, other.hash(key), &guard) == Some(head.0)
        };
        let ours = chains.heads.occupancy().any(|(index, _)| index == superblock);
        ours && !self.0.tables.iter().any(rightly)
    }

    /// Reads through an index found before, as a reader does that was stopped since. Returns the live chunks, or `None`
    /// if the row has gone from there. Must not be claimed.
    pub fn read(self, located: &Located, out: &mut [f32]) -> Option<u32> {
        let (_, chains) = self.parts(located.table);
        let live = chains.read(located.head, out).ok()?;
        zero_missing(&chains, &live, out);
        Some((0..chains.layout.chunks).filter(|&ordinal| live.contains(ordinal)).fold(0, |bits, i| bits | 1 << i))
    }

    /// Whether somebody has the key's row claimed, so that touching it would wait.
    pub fn is_claimed(self, table: usize, key: u64) -> bool {
        let (table, chains) = self.parts(table);
        let guard = self.0.reclaimer.pin();
        let head = table.find(&chains, table.hash(key), &guard);
        head.is_some_and(|head| sequence::is_claimed(chains.heads.record(head)))
    }

    /// Claims a row that nobody has claimed.
    pub fn claim(self, table: usize, key: u64) -> Option<HeldRow<'s>> {
        let number = table;
        let (table, chains) = self.parts(table);
        let guard = self.0.reclaimer.pin();
        let head = table.find(&chains, table.hash(key), &guard)?;
        let claim = chains.look_at_once(head).ok()?;
        Some(HeldRow { seam: self, table: number, head, hash: table.hash(key), claim, guard })
    }

    /// Calls `visit` with each row that is not claimed, in the order of a walk from `from`, and returns how many are.
    pub fn rows(self, table: usize, from: u32, mut visit: impl FnMut(RowView<'_>)) -> usize {
        let (table, chains) = self.parts(table);
        let guard = self.0.reclaimer.pin();
        let heads = heads_from(table, &chains, from, self.0.config.deterministic, &guard);
        let mut claimed = 0;
        for (tag, head) in heads {
            let record = chains.heads.record(head);
            if sequence::is_claimed(record) {
                claimed += 1;
                continue;
            }
            let (mut values, mut utilities) = ([0f32; 32], [0f32; CHUNKS_MAX]);
            let values = &mut values[..table.layout.dim];
            let Ok(live) = chains.read(head, values) else { continue };
            zero_missing(&chains, &live, values);
            chains.peek(&[(0, head)], |_, _, info| utilities[info.ordinal as usize] = info.utility);
            let live =
                (0..table.layout.chunks).filter(|&ordinal| live.contains(ordinal)).fold(0, |bits, i| bits | 1 << i);
            visit(RowView { key: table.row_key(chains.hash(tag, head)), live, values, head: Head(head), utilities });
        }
        claimed
    }
}

/// The heads of a table in the order in which a round that begins at a tag comes to them.
fn heads_from(table: &Table, chains: &Chains<'_>, from: u32, by_hash: bool, guard: &Guard) -> Vec<(u32, ChunkIndex)> {
    let mut heads = Vec::with_capacity(64);
    let begin = table.directory.begin(from, guard);
    let (mut at, mut wrapped) = (begin, false);
    loop {
        let begin_of_segment = heads.len();
        let next = table.directory.walk(at, guard, |tag, head| heads.push((tag, head)));
        if by_hash {
            heads[begin_of_segment..].sort_unstable_by_key(|&(tag, head)| chains.hash(tag, head));
        }
        match next {
            Some(next) if !wrapped || next < begin => at = next,
            None if !wrapped && begin > 0 => (at, wrapped) = (0, true),
            _ => return heads,
        }
    }
}

/// A row that a simulated thread keeps claimed.
pub struct HeldRow<'s> {
    seam: Seam<'s>,
    table: usize,
    head: ChunkIndex,
    hash: u64,
    claim: Claim<'s>,
    guard: Guard,
}

impl HeldRow<'_> {
    /// Adds to every live weight, and lets go.
    pub fn add(self, delta: f32) {
        let (_, chains) = self.seam.parts(self.table);
        for chunk in chains.chunks(&self.claim) {
            let dims = chains.layout.dims(chunk.info().ordinal as usize);
            for word in &chunk.payload[..dims.len()] {
                word.store((f32::from_bits(word.load(Ordering::Relaxed)) + delta).to_bits(), Ordering::Relaxed);
            }
        }
    }

    /// Takes every chunk that has no bit in `keep`, and lets go.
    pub fn shrink(self, keep: u32) {
        let HeldRow { seam, table, head, hash, claim, guard } = self;
        seam.0
            .pinned(&seam.0.tables[table], &guard)
            .shrink((tag(hash), head), claim, |info| keep >> info.ordinal & 1 == 0);
    }
}

/// Puts zeros where a row has no chunk.
fn zero_missing(chains: &Chains<'_>, live: &Ordinals, out: &mut [f32]) {
    let layout = chains.layout;
    (0..layout.chunks)
        .filter(|&ordinal| !live.contains(ordinal))
        .for_each(|ordinal| out[layout.dims(ordinal)].fill(0.0));
}
