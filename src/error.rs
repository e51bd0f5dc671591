//! What can go wrong, one family per kind of operation.

use crate::id::TableId;
use thiserror::Error;

/// A store that cannot be made as asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A store without tables.
    #[error("a store needs at least one table")]
    NoTables,
    /// Two tables of one name.
    #[error("two tables are called `{name}`; give each a name of its own")]
    DuplicateTable {
        /// The name.
        name: String,
    },
    /// A table's setting is out of its range.
    #[error("table `{table}`: {what} is {found}, expected {expected}")]
    Table {
        /// The table's name.
        table: String,
        /// The setting.
        what: &'static str,
        /// Its value.
        found: String,
        /// The legal values.
        expected: &'static str,
    },
    /// A setting of the store is out of its range.
    #[error("{what} is {found}, expected {expected}")]
    Setting {
        /// The setting.
        what: &'static str,
        /// Its value.
        found: String,
        /// The legal values.
        expected: &'static str,
    },
    /// The budget cannot hold what the store needs before its first row, and one row of each table.
    #[error(
        "a budget of {budget} bytes is too small: {tables} tables need at least {needed} bytes with one row each; raise the budget"
    )]
    BudgetTooSmall {
        /// The budget, in bytes.
        budget: u64,
        /// The least budget that works, in bytes.
        needed: u64,
        /// Number of tables.
        tables: usize,
    },
    /// The system did not give the address range.
    #[error(
        "cannot reserve {bytes} bytes of address space for the slab: {source}; lower the budget or raise the address-space limit"
    )]
    Reserve {
        /// Bytes asked for.
        bytes: u64,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The system has no huge pages.
    #[error("the system does not give huge pages: {0}; leave them out")]
    HugePages(#[source] std::io::Error),
    /// The system would not start a thread.
    #[error("cannot start the pruning thread: {0}")]
    Thread(#[source] std::io::Error),
}

/// A call that the store cannot carry out.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No such table.
    #[error("the store has {tables} tables, so there is no table {}", table.index())]
    UnknownTable {
        /// The id that was given.
        table: TableId,
        /// Number of tables of the store.
        tables: usize,
    },
    /// A slice is not as long as the keys and the table's dimension demand.
    #[error("table `{table}`: {what} has {found} values, expected {expected} ({keys} rows of dimension {dim})")]
    Length {
        /// The table's name.
        table: String,
        /// Which argument.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length it must have.
        expected: usize,
        /// Rows (keys, or bags when pooled).
        keys: usize,
        /// The table's dimension.
        dim: usize,
    },
    /// Offsets that do not cut the keys into bags.
    #[error(
        "table `{table}`: offsets[{position}] is {found}; offsets begin with 0, never fall and end with the number of keys, {keys}"
    )]
    Offsets {
        /// The table's name.
        table: String,
        /// Where the rule is broken.
        position: usize,
        /// The offset there.
        found: usize,
        /// Number of keys.
        keys: usize,
    },
    /// A gradient is not a finite number. Nothing of the batch was applied.
    #[error(
        "table `{table}`: gradient of key {key}, dimension {dimension} is {value}; nothing of this batch was applied"
    )]
    NotFinite {
        /// The table's name.
        table: String,
        /// The row's key.
        key: u64,
        /// The dimension, from 0.
        dimension: usize,
        /// The value.
        value: f32,
    },
    /// No room for a row or a chunk, and nothing may make room for it.
    #[error(
        "the budget of {limit} bytes is full ({held} held, {asked} more asked for); {refused} rows or chunks were refused, all else of the call was done"
    )]
    BudgetExhausted {
        /// The budget, in bytes.
        limit: u64,
        /// Bytes held then.
        held: u64,
        /// Bytes asked for.
        asked: u64,
        /// How many rows or chunks were refused.
        refused: u64,
    },
    /// All 31-bit indices of one slab are in use.
    #[error(
        "all chunk indices are in use; {refused} rows or chunks were refused. Use a larger chunk, or several stores"
    )]
    IndexSpace {
        /// How many rows or chunks were refused.
        refused: u64,
    },
    /// A call that needs to know what rows are worth, on a store without a policy.
    #[error("cannot {what}: the store was made with Policy::None and knows no importance; make it with Policy::Fiited")]
    NoPolicy {
        /// What was asked.
        what: &'static str,
    },
    /// A size that the store exceeds without a single row.
    #[error("cannot prune to {asked} bytes: the store holds {least} bytes without a row; ask for more")]
    HeldTooSmall {
        /// Bytes asked for.
        asked: u64,
        /// Bytes of a store without rows.
        least: u64,
    },
    /// The pruning thread has panicked, a defect of this crate; what it said is on standard error. The store can still be
    /// used, but what it holds grows old unless [`Store::prune`](crate::Store::prune) is called.
    #[error("the pruning thread has panicked: nothing is pruned any more; save what you need, then make a new store")]
    PrunerEnded,
    /// No snapshot can be taken now.
    #[error("cannot take a snapshot: {what}")]
    Snapshot {
        /// Why, and what to do.
        what: &'static str,
    },
    /// A setting that is out of its range.
    #[error("table `{table}`: {what} is {found}, expected {expected}")]
    Setting {
        /// The table's name.
        table: String,
        /// Which setting.
        what: &'static str,
        /// Its value.
        found: f32,
        /// The legal values.
        expected: &'static str,
    },
}

/// A broken invariant, found by [`Store::validate`](crate::Store::validate): a defect of this crate.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("invariant broken: {what}")]
pub struct Violation {
    /// Which, where, and the figures.
    pub what: String,
}
