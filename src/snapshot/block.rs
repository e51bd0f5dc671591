//! What a snapshot is made of: blocks of rows, named arrays beside them, and what they are of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::SnapshotError;
use crate::config::{StoreConfig, TableConfig};

/// Bytes of payload after which a source ends a block and begins the next one.
pub const BLOCK_BYTES: usize = 1 << 20;

/// Rows of one table in columns: about [`BLOCK_BYTES`] of payload, so that a stream of them needs bounded memory.
///
/// With `n` rows, `c` live chunks among them, `C` dimensions a chunk
/// ([`TableConfig::chunk_dims`]) and `S` words of state a chunk:
/// `keys[n] chunks[n] ordinals[c] utilities[c] weights[c, C] state[c, S] row_state[n or 0]`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RowBlock {
    /// Position of the table in the manifest.
    pub table: usize,
    /// The rows' keys, each at most once in a snapshot.
    pub keys: Vec<u64>,
    /// Live chunks of each row, 1 to K. In an increment 0 is a tombstone: the row is gone.
    pub chunks: Vec<u16>,
    /// Per live chunk, rows in order: which chunk of its row it is, rising within a row.
    pub ordinals: Vec<u8>,
    /// Per live chunk: its utility as the store holds it; how the store reads it is in the store's sections.
    pub utilities: Vec<f32>,
    /// Per live chunk: its weights, as many as a chunk has dimensions. Those past the table's dimension, in a last chunk that is cut, are 0.
    pub weights: Vec<f32>,
    /// Per live chunk: the optimizer's words of state.
    pub state: Vec<f32>,
    /// Per row, for optimizers with a word for each row; else empty. A tombstone's word is 0.
    pub row_state: Vec<f32>,
}

impl RowBlock {
    /// Bytes of all columns.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.keys.len() * 8
            + self.chunks.len() * 2
            + self.ordinals.len()
            + 4 * (self.utilities.len() + self.weights.len() + self.state.len() + self.row_state.len())
    }

    /// Empties every column and keeps their memory.
    pub fn clear(&mut self) {
        self.keys.clear();
        self.chunks.clear();
        self.ordinals.clear();
        self.utilities.clear();
        self.weights.clear();
        self.state.clear();
        self.row_state.clear();
    }

    /// Adds a row; `weights` and `state` hold those of `ordinals.len()` chunks one behind the other.
    pub fn push(&mut self, row: RowRef<'_>) {
        self.keys.push(row.key);
        self.chunks.push(row.ordinals.len() as u16);
        self.ordinals.extend_from_slice(row.ordinals);
        self.utilities.extend_from_slice(row.utilities);
        self.weights.extend_from_slice(row.weights);
        self.state.extend_from_slice(row.state);
        self.row_state.extend_from_slice(row.row_state);
    }

    /// The rows, one after the other. The block must be of `table`'s shape, as every block is that a snapshot's reader
    /// hands out.
    pub fn rows<'a>(&'a self, table: &TableConfig) -> impl Iterator<Item = RowRef<'a>> {
        let (weights, state) = (table.chunk_dims(), table.chunk_state());
        let per_row = usize::from(!self.row_state.is_empty());
        let mut at = 0;
        self.keys.iter().zip(&self.chunks).enumerate().map(move |(row, (&key, &chunks))| {
            let live = at..at + usize::from(chunks);
            at = live.end;
            RowRef {
                key,
                ordinals: &self.ordinals[live.clone()],
                utilities: &self.utilities[live.clone()],
                weights: &self.weights[live.start * weights..live.end * weights],
                state: &self.state[live.start * state..live.end * state],
                row_state: &self.row_state[row * per_row..(row + 1) * per_row],
            }
        })
    }
}

/// One row of a [`RowBlock`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowRef<'a> {
    /// The row's key.
    pub key: u64,
    /// Which chunks are live; none for a tombstone.
    pub ordinals: &'a [u8],
    /// The live chunks' utilities.
    pub utilities: &'a [f32],
    /// The live chunks' weights, one chunk behind the other.
    pub weights: &'a [f32],
    /// The live chunks' state, one chunk behind the other.
    pub state: &'a [f32],
    /// The row's own word of state, if its optimizer has one.
    pub row_state: &'a [f32],
}

/// A named array beside the rows: policy clock, thresholds, scales, sketch, random state, dense model, shared rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Section {
    /// Its name, unique in the snapshot.
    pub name: String,
    /// Its dimensions; their product is the number of values.
    pub shape: Vec<usize>,
    /// Its values.
    pub data: Data,
}

/// The values of a [`Section`].
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// Bytes.
    U8(Vec<u8>),
    /// 32-bit integers.
    U32(Vec<u32>),
    /// 64-bit integers.
    U64(Vec<u64>),
    /// Single precision.
    F32(Vec<f32>),
    /// Double precision.
    F64(Vec<f64>),
}

impl Data {
    /// Number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Data::U8(values) => values.len(),
            Data::U32(values) => values.len(),
            Data::U64(values) => values.len(),
            Data::F32(values) => values.len(),
            Data::F64(values) => values.len(),
        }
    }

    /// Bytes of the values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Data::U8(values) => size_of_val(&values[..]),
            Data::U32(values) => size_of_val(&values[..]),
            Data::U64(values) => size_of_val(&values[..]),
            Data::F32(values) => size_of_val(&values[..]),
            Data::F64(values) => size_of_val(&values[..]),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a snapshot is of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The store's step of whose end this is the state.
    pub step: u64,
    /// For an increment the step of the snapshot whose rows it changes; `None` for a full snapshot.
    pub since: Option<u64>,
    /// The store's settings.
    pub store: StoreConfig,
    /// The tables in the store's order.
    pub tables: Vec<TableConfig>,
    /// What else belongs to the state as text, such as the trainer's settings; by name.
    pub extra: BTreeMap<String, String>,
}

/// Where a snapshot comes from: a store that is being read, or other snapshots.
pub trait Source: Send {
    /// What the snapshot is of. Asked once, first.
    fn manifest(&self) -> Manifest;

    /// The next rows, put in place of what `block` holds; `false` after the last ones. Blocks come in any order of tables.
    ///
    /// # Errors
    ///
    /// Whatever keeps the source from being read; the snapshot is then given up.
    fn next(&mut self, block: &mut RowBlock) -> Result<bool, SnapshotError>;

    /// Whether a second thread may write what was read while the first one reads on, as far as is known now. No by those
    /// who must leave processors to others.
    fn may_hurry(&self) -> bool {
        true
    }

    /// The arrays beside the rows, asked for once, after the last block.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    fn sections(&mut self) -> Result<Vec<Section>, SnapshotError>;
}
