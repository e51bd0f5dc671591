//! Walking everything, to see that the invariants hold.

use super::Inner;
use super::table::Table;
use crate::chain::Ordinals;
use crate::config::Keys;
use crate::error::Violation;
use crate::id::ChunkIndex;
use crate::sync::Ordering;
use std::collections::HashSet;

macro_rules! hold {
    ($condition:expr, $($what:tt)+) => {
        if !$condition {
            return Err(Violation { what: format!($($what)+) });
        }
    };
}

impl Inner {
    /// Meant for quiet moments: while others change the store, counts and walks differ without any defect.
    pub(super) fn validate(&self) -> Result<(), Violation> {
        let _no_round = self.round.lock();
        self.collect();
        let mut live: Vec<HashSet<ChunkIndex>> = self.slabs.iter().map(|_| HashSet::new()).collect();
        for table in &self.tables {
            self.validate_table(table, &mut live)?;
        }
        let mut unaccounted = 0;
        for (slab, live) in self.slabs.iter().zip(&live) {
            let (mut slots, mut free) = (0u64, 0u64);
            for (_, free_here) in slab.occupancy() {
                slots += u64::from(slab.slots());
                free += u64::from(free_here);
            }
            let used = live.len() as u64;
            hold!(free + used <= slots, "{free} free and {used} live records in {slots} slots");
            hold!(live.iter().all(|&index| !slab.is_free(index)), "a live record's slot is marked free");
            unaccounted += (slots - free - used) * slab.record_bytes();
        }
        let retired = self.slabs.retired_bytes();
        hold!(
            unaccounted == retired,
            "{unaccounted} bytes of records neither live nor free, {retired} of them retired"
        );
        self.validate_budget()
    }

    fn validate_budget(&self) -> Result<(), Violation> {
        let (limit, held, peak) = (self.budget.limit(), self.budget.held(), self.budget.peak());
        hold!(held <= peak && peak <= limit, "{held} bytes held, {peak} at most, of {limit}");
        let directories: u64 = self.tables.iter().map(|table| table.directory.bytes()).sum();
        let parts = self.fixed_bytes + directories + self.superblocks.committed_bytes() + self.budget.awaiting();
        hold!(parts == held, "{held} bytes held, but the parts sum to {parts}");
        Ok(())
    }

    fn validate_table(&self, table: &Table, live: &mut [HashSet<ChunkIndex>]) -> Result<(), Violation> {
        let name = &table.config.name;
        let chains = table.chains(&self.slabs);
        let guard = self.reclaimer.pin();
        let mut rows = Vec::new();
        let mut at = Some(0);
        while let Some(from) = at {
            at = table.directory.walk(from, &guard, |tag, head| rows.push((tag, head)));
        }
        let mut keys = HashSet::new();
        let mut by_chunks = vec![0u64; table.layout.chunks + 1];
        for (tag, head) in rows {
            let hash = chains.hash(tag, head);
            let key = table.row_key(hash);
            if let Keys::Hashed { virtual_rows } = table.config.keys {
                hold!(key < virtual_rows, "`{name}`: row {key} of {virtual_rows} virtual rows");
            }
            hold!(keys.insert(key), "`{name}`: key {key} has two rows");
            hold!(table.find(&chains, hash, &guard) == Some(head), "`{name}`: key {key} is not found where it is");
            hold!(live[table.heads].insert(head), "`{name}`: key {key} shares its head record");
            let Ok(claim) = chains.look_at_once(head) else {
                return Err(Violation {
                    what: format!("`{name}`: key {key} has a row that is dead or claimed at a quiet moment"),
                });
            };
            let mut ordinals = Ordinals::default();
            for chunk in chains.chunks(&claim) {
                let info = chunk.info();
                let ordinal = info.ordinal as usize;
                hold!(ordinal < table.layout.chunks, "`{name}`: key {key} has a chunk of ordinal {ordinal}");
                hold!(!ordinals.contains(ordinal), "`{name}`: key {key} has ordinal {ordinal} twice");
                hold!(
                    info.utility.is_finite() && info.utility >= 0.0,
                    "`{name}`: key {key} has utility {}",
                    info.utility
                );
                ordinals.insert(ordinal);
                if let Some(tail) = chunk.tail {
                    hold!(live[table.tails].insert(tail), "`{name}`: key {key} shares a tail record");
                }
            }
            by_chunks[ordinals.len()] += 1;
        }
        let counted: Vec<u64> = table.rows_by_chunks.iter().map(|rows| rows.load(Ordering::Relaxed)).collect();
        hold!(counted == by_chunks, "`{name}`: counted rows by chunks {counted:?}, found {by_chunks:?}");
        let events = table.events();
        let (rows, chunks) =
            (by_chunks.iter().sum::<u64>(), by_chunks.iter().zip(0..).map(|(rows, chunks)| rows * chunks).sum::<u64>());
        hold!(events.admitted == rows + events.evicted, "`{name}`: {rows} rows after {events:?}");
        let made = events.admitted + events.grown;
        hold!(made == chunks + events.shrunk + events.evicted, "`{name}`: {chunks} chunks after {events:?}");
        Ok(())
    }
}
