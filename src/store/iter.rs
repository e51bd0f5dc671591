//! Listing rows.

use super::Inner;
use super::table::Table;
use crate::id::ChunkIndex;
use std::collections::VecDeque;

/// One row as it was at some moment of the listing.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The key; for hashed keys, the number of the virtual row.
    pub key: u64,
    /// What `gather` would have given then, `[dim]`: live chunks and the fallback.
    pub values: Vec<f32>,
    /// Ordinals of the live chunks, ascending.
    pub live: Vec<usize>,
}

/// The rows of a table, in no particular order, from [`Store::iter`](crate::Store::iter).
///
/// Nothing is held between two rows: training goes on. A row that is there throughout is listed once; one that is
/// admitted, evicted or moved meanwhile may be listed or not.
pub struct Rows<'s> {
    inner: &'s Inner,
    table: &'s Table,
    /// Where the next segment begins; `None` after the last.
    next: Option<u32>,
    /// Read ahead: the rows of one segment.
    ready: VecDeque<Row>,
}

impl<'s> Rows<'s> {
    pub(super) fn new(inner: &'s Inner, table: &'s Table) -> Rows<'s> {
        Rows { inner, table, next: Some(0), ready: VecDeque::new() }
    }

    fn read_segment(&mut self, at: u32) {
        let guard = self.inner.reclaimer.pin();
        let chains = self.table.chains(&self.inner.slabs);
        let mut heads: Vec<(u32, ChunkIndex)> = Vec::new();
        self.next = self.table.directory.walk(at, &guard, |tag, head| heads.push((tag, head)));
        for (tag, head) in heads {
            let hash = chains.hash(tag, head);
            let mut values = vec![0f32; self.table.layout.dim];
            if let Ok(live) = chains.read(head, &mut values) {
                self.table.read_missing(hash, &live, &mut values);
                let live = (0..self.table.layout.chunks).filter(|&ordinal| live.contains(ordinal)).collect();
                self.ready.push_back(Row { key: self.table.row_key(hash), values, live });
            }
        }
    }
}

impl Iterator for Rows<'_> {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        loop {
            if let Some(row) = self.ready.pop_front() {
                return Some(row);
            }
            let at = self.next?;
            self.read_segment(at);
        }
    }
}
