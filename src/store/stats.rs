//! Figures of a store, in allocator words.

use super::Inner;

/// What happened to rows and chunks since the store was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(serde::Serialize, serde::Deserialize))]
pub struct Events {
    /// Rows that got their first chunk.
    pub admitted: u64,
    /// Chunks added to rows that were there.
    pub grown: u64,
    /// Chunks taken from rows that stayed.
    pub shrunk: u64,
    /// Rows that lost their last chunk and their directory entry.
    pub evicted: u64,
    /// Chunks that were earned and not given, for want of room.
    pub refused: u64,
    /// Unique keys in batches of gradients that had no row then: each a counted no-op for the weights.
    pub missed: u64,
}

impl std::ops::AddAssign for Events {
    fn add_assign(&mut self, other: Events) {
        self.admitted += other.admitted;
        self.grown += other.grown;
        self.shrunk += other.shrunk;
        self.evicted += other.evicted;
        self.refused += other.refused;
        self.missed += other.missed;
    }
}

/// Figures of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableStats {
    /// The table's name.
    pub name: String,
    /// Its dimension.
    pub dim: usize,
    /// Dimensions of a chunk.
    pub chunk_dim: usize,
    /// Live rows.
    pub rows: u64,
    /// Live chunks.
    pub chunks: u64,
    /// Rows by their number of live chunks; `[0]` is always 0.
    pub dims_histogram: Vec<u64>,
    /// Bytes of live weights.
    pub weights: u64,
    /// Bytes of their optimizer state.
    pub optimizer: u64,
    /// Bytes of the directory.
    pub directory: u64,
    /// What happened.
    pub events: Events,
}

/// Figures of a store, all in bytes unless said otherwise. Taken while others use the store, they are of about one
/// moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Stats {
    /// The limit.
    pub budget: u64,
    /// All that counts against the budget.
    pub held: u64,
    /// The most that was ever held.
    pub peak: u64,
    /// Live records: weights, state, and the keys, links and utilities beside them.
    pub allocated: u64,
    /// The least that could hold what is live: live records, 8 bytes of directory a row, the sketch and shared rows.
    pub live: u64,
    /// Committed superblocks.
    pub active: u64,
    /// In memory now: resident pages of the superblocks, and everything else that is held.
    pub resident: u64,
    /// Of the superblocks, those that were moved to huge pages ([`HugePages::Later`](crate::HugePages::Later)).
    pub moved: u64,
    /// Held for neither weights, state, sketch nor free memory: keys, links, utilities, directories, bookkeeping.
    pub metadata: u64,
    /// Address space reserved and not committed.
    pub retained: u64,
    /// Free records in committed superblocks.
    pub free: u64,
    /// Waiting for their last reader.
    pub retired: u64,
    /// Superblocks without any record whose memory the system did not take back when asked: what needs superblocks gets
    /// these first. 0 unless pages are locked.
    pub kept: u64,
    /// Live weights, those of shared rows included.
    pub weights: u64,
    /// Their optimizer state.
    pub optimizer: u64,
    /// The sketch.
    pub sketch: u64,
    /// Live rows.
    pub rows: u64,
    /// Live chunks.
    pub chunks: u64,
    /// The importance below which the last round took chunks; 0 if everything has room.
    pub threshold: f32,
    /// Steps so far.
    pub steps: u64,
    /// What happened, over all tables.
    pub events: Events,
    /// Each table's figures.
    pub tables: Vec<TableStats>,
}

impl Inner {
    pub(super) fn stats(&self) -> Stats {
        let mut events = Events::default();
        let tables: Vec<TableStats> = (0..self.tables.len()).map(|index| self.table_stats(index)).collect();
        tables.iter().for_each(|table| events += table.events);
        let shared = self.tables.iter().filter_map(|table| table.shared.as_ref());
        let (shared_weights, shared_bytes) =
            shared.fold((0, 0), |(weights, bytes), rows| (weights + rows.weight_bytes(), bytes + rows.bytes()));
        let weights = tables.iter().map(|table| table.weights).sum::<u64>() + shared_weights;
        let optimizer = tables.iter().map(|table| table.optimizer).sum::<u64>() + shared_bytes - shared_weights;
        let (held, active) = (self.budget.held(), self.superblocks.committed_bytes());
        let free = {
            // Pinned, so that a superblock keeps its free bits while they are counted, even if a round retires it.
            let _pinned = self.reclaimer.pin();
            self.slabs.free_bytes()
        };
        let retired = self.slabs.retired_bytes();
        let kept = self.superblocks.kept_bytes();
        let sketch = self.sketch.as_ref().map_or(0, crate::sketch::Sketch::bytes);
        // What the system does not tell is counted as resident.
        let in_memory = self.superblocks.resident_bytes().unwrap_or(active);
        let (allocated, rows) = (self.live_record_bytes(), tables.iter().map(|table| table.rows).sum::<u64>());
        Stats {
            budget: self.budget.limit(),
            held,
            peak: self.budget.peak(),
            allocated,
            live: allocated + rows * 8 + sketch + shared_bytes,
            active,
            resident: held - active.min(held) + in_memory,
            moved: self.superblocks.moved_bytes(),
            metadata: held
                .saturating_sub(weights + optimizer + sketch + free + retired + self.budget.awaiting() + kept),
            retained: self.superblocks.reserved_bytes() - active,
            free,
            retired: retired + self.budget.awaiting(),
            kept,
            weights,
            optimizer,
            sketch,
            rows,
            chunks: tables.iter().map(|table| table.chunks).sum(),
            threshold: self.threshold(),
            steps: self.clock.steps(),
            events,
            tables,
        }
    }

    /// Bytes of live records: one head a row, a tail for each further chunk.
    pub(super) fn live_record_bytes(&self) -> u64 {
        let bytes = self.tables.iter().map(|table| {
            let (head, tail) = (self.slabs.get(table.heads).record_bytes(), self.slabs.get(table.tails).record_bytes());
            let by_chunks = table.dims_histogram();
            let tails = (1u64..).zip(by_chunks.iter().skip(1)).map(|(chunks, rows)| rows * (chunks - 1));
            by_chunks.iter().sum::<u64>() * head + tails.sum::<u64>() * tail
        });
        bytes.sum()
    }

    fn table_stats(&self, index: usize) -> TableStats {
        let table = &self.tables[index];
        let dims_histogram = table.dims_histogram();
        let rows = dims_histogram.iter().sum();
        let chunks: u64 = dims_histogram.iter().zip(0u64..).map(|(&rows, chunks)| rows * chunks).sum();
        let chunk_dim = table.layout.chunk;
        let weights = chunks * chunk_dim as u64 * 4;
        let state = chunks * (table.layout.payload_words() - chunk_dim) as u64 * 4;
        TableStats {
            name: table.config.name.clone(),
            dim: table.layout.dim,
            chunk_dim,
            rows,
            chunks,
            dims_histogram,
            weights,
            optimizer: state + rows * table.config.optimizer.row_state_words() as u64 * 4,
            directory: table.directory.bytes(),
            events: table.events(),
        }
    }
}
