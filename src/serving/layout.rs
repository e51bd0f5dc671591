//! What a serving file holds and how a key is found in it; `docs/format.md` has it to the byte.

use serde::{Deserialize, Serialize};

use crate::config::{Keys, TableConfig};
use crate::hash::mix;
use crate::snapshot::{Manifest, Sum};

/// Version of the format.
pub const FORMAT: u64 = 1;
/// A slot without a row.
pub(super) const EMPTY: u64 = u64::MAX;
/// The tensor that says what the file is of, as JSON, and the last one: checksums of the header, of every tensor before
/// it, and of these sums.
pub(super) const ABOUT: &str = "about";
pub(super) const SUMS: &str = "sums";

/// How weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// As they are.
    F32,
    /// IEEE half precision: 11 bits of precision, up to 65504.
    F16,
    /// The upper half of an `f32`: 8 bits of precision, its whole range.
    Bf16,
    /// A byte each, with a scale for each row: the row's largest weight is 127 or a little less.
    Int8,
}

/// The content of the tensor `about`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct About {
    pub(super) format: u64,
    pub(super) dtype: Dtype,
    /// The checksum of the snapshot that it was made from.
    pub(super) snapshot: Sum,
    pub(super) manifest: Manifest,
    pub(super) tables: Vec<TableAbout>,
    /// Names of the dense model's tensors.
    pub(super) dense: Vec<String>,
}

/// Sizes of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TableAbout {
    pub(super) rows: u64,
    pub(super) chunks: u64,
    /// Slots of its index.
    pub(super) slots: u64,
    /// Rows that stand in for what has no chunk.
    pub(super) shared: u64,
}

/// Slots for so many rows: a quarter stays empty, and one at least, where a search ends.
pub(super) fn slots_for(rows: u64) -> u64 {
    rows + rows / 3 + 1
}

pub(super) fn index_name(table: usize) -> String {
    format!("t{table}.index")
}

pub(super) fn values_name(table: usize) -> String {
    format!("t{table}.values")
}

pub(super) fn ordinals_name(table: usize) -> String {
    format!("t{table}.ordinals")
}

pub(super) fn shared_name(table: usize) -> String {
    format!("t{table}.shared")
}

/// Where a row is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Place {
    /// Its first chunk among the table's.
    pub(super) first: u64,
    /// Its live chunks, 1 to 256.
    pub(super) chunks: usize,
    /// They are its first ones, so that their ordinals need not be looked up.
    pub(super) prefix: bool,
    /// What its bytes are multiplied by, as the bits of a bfloat16; 0 but for [`Dtype::Int8`].
    pub(super) scale: u16,
}

impl Place {
    /// Chunks that a table may have.
    pub(super) const CHUNKS_MOST: u64 = (1 << 39) - 1;

    /// `first` in bits 0 to 38, `prefix` in 39, `chunks - 1` in 40 to 47, `scale` above.
    pub(super) fn pack(self) -> u64 {
        self.first | u64::from(self.prefix) << 39 | (self.chunks as u64 - 1) << 40 | u64::from(self.scale) << 48
    }

    #[inline]
    pub(super) fn unpack(word: u64) -> Place {
        Place {
            first: word & Self::CHUNKS_MOST,
            chunks: (word >> 40 & 0xFF) as usize + 1,
            prefix: word >> 39 & 1 == 1,
            scale: (word >> 48) as u16,
        }
    }
}

/// How a table's keys are hashed: as the store did, so that keys name the same rows and the same shared ones.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hasher {
    seed: u64,
    keys: Keys,
}

impl Hasher {
    pub(super) fn new(table: &TableConfig, store_seed: u64) -> Hasher {
        Hasher { seed: table.hash_seed(store_seed), keys: table.keys }
    }

    #[inline]
    pub(super) fn row_hash(&self, row_key: u64) -> u64 {
        mix(row_key, self.seed)
    }

    /// The row that a key names, and its hash.
    #[inline]
    pub(super) fn resolve(&self, key: u64) -> (u64, u64) {
        let hash = self.row_hash(key);
        match self.keys {
            Keys::Exact => (key, hash),
            Keys::Hashed { virtual_rows } => {
                let row = ((u128::from(hash) * u128::from(virtual_rows)) >> 64) as u64;
                (row, self.row_hash(row))
            }
        }
    }
}

/// The slot where a search for a hash begins.
#[inline]
pub(super) fn home(hash: u64, slots: usize) -> usize {
    ((u128::from(hash) * slots as u128) >> 64) as usize
}

/// Which of `rows` shared rows stands in for a row with this hash.
#[inline]
pub(super) fn shared_row(hash: u64, rows: usize) -> usize {
    (((hash >> 16) as u32 as u64 * rows as u64) >> 32) as usize
}
