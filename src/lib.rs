//! Embedding storage for training recommenders in bounded memory.
//!
//! A [`Store`] keeps the embedding rows of one or more tables within a hard budget of bytes *while they are trained*.
//! Each row is a chain of chunks of a few dimensions. Rows that matter grow to their full dimension, rows that stop
//! mattering shrink and give their bytes back, beside training, and ids that hold no chunk cost nothing each. It
//! implements FIITED (arXiv 2401.04408) and goes beyond it; `docs/design.md` says how.
//!
//! ```
//! use dimslab::{Store, StoreConfig, TableConfig};
//!
//! let users = TableConfig::new("users", 16);
//! let store = Store::new(StoreConfig::new(16 << 20), vec![users])?;
//! let table = store.table("users").expect("made above");
//!
//! let keys = [7, 7, 42];
//! let mut rows = [0.0; 3 * 16];
//! for _ in 0..10 {
//!     store.gather(table, &keys, &mut rows)?;
//!     let gradients = rows.map(|weight| weight - 1.0); // of your loss
//!     store.apply_gradients(table, &keys, &gradients)?;
//!     store.step()?;
//! }
//! assert!(rows[0] > 0.0 && store.stats().held <= 16 << 20);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it is not
//!
//! A key-value store, a cache in front of one, or a parameter server: rows live in this process's memory. Rows cost
//! more to reach than in a flat array (a directory line and the row's own lines), and writing a row claims it for one
//! bounded copy, for which readers of that row wait.
//!
//! # What a reader may see
//!
//! * A row read by [`gather`](Store::gather) is of one moment: before or after an update, a growth or a shrinking, never
//!   a mix. Rows of one batch may be of different moments.
//! * An update that returned is in every read that begins later, whatever grows, shrinks or moves meanwhile.
//! * A row that is evicted between `gather` and [`apply_gradients`](Store::apply_gradients) makes its gradient a counted
//!   no-op ([`Applied::missed`]) and touches no other row.
//! * Dimensions without a chunk read as the table's [`Fallback`].
//!
//! # Memory
//!
//! [`Stats::held`] counts everything against the budget: superblocks, directories, sketch, optimizer state, memory that
//! waits for its last reader. It never exceeds the budget, a pruning round or a directory rebuild included.
//!
//! # Features
//!
//! * `train`: the mini DLRM with its data readers, to check accuracy ([`dlrm`], [`data`]).
//! * `cli` (default): the `dimslab` command.
//!
//! With `default-features = false` there is only the store.

#[cfg(all(feature = "bench-internals", not(any(loom, shuttle))))]
#[doc(hidden)]
pub mod bench;
mod budget;
mod chain;
#[cfg(all(feature = "cli", not(loom)))]
pub mod cli;
mod config;
#[cfg(all(feature = "train", not(loom)))]
pub mod data;
mod directory;
#[cfg(all(feature = "train", not(loom)))]
pub mod dlrm;
mod error;
mod failpoint;
mod hash;
mod id;
mod importance;
#[cfg(all(fuzzing, not(loom)))]
mod interleave;
#[cfg(all(test, loom))]
mod loom_models;
mod magazine;
mod moment;
mod optim;
mod reclaim;
mod region;
#[cfg(all(feature = "cli", not(loom)))]
mod report;
mod rowcopy;
mod scratch;
mod sequence;
#[cfg(not(loom))]
pub mod serving;
#[cfg(all(test, shuttle))]
mod shuttle_models;
#[doc(hidden)]
pub mod simd;
mod sketch;
mod slab;
#[cfg(not(loom))]
pub mod snapshot;
#[cfg(not(loom))]
mod store;
#[cfg(all(feature = "cli", not(loom)))]
mod study;
mod superblocks;
mod sync;
mod watch;

pub use config::{Decay, Fallback, FiitedConfig, HugePages, Init, Keys, Optimizer, Policy, StoreConfig, TableConfig};
pub use error::{ConfigError, StoreError, Violation};
pub use id::TableId;
#[cfg(not(loom))]
pub use store::{
    Applied, Events, LiveSnapshot, Pooling, PruneReport, Restore, Row, Rows, SnapshotKind, Stats, StepReport, Store,
    TableStats,
};

/// What the fuzz targets need beyond the public API.
#[cfg(all(fuzzing, not(loom)))]
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::directory::fuzzing::{Inserted, Pinned, Remains, Tree, Verdict};
    pub use crate::interleave::{Place, interruptible};
    pub use crate::serving::fuzzing::{read_serving, serving_file};
    pub use crate::snapshot::fuzzing::Files;
    pub use crate::store::fuzzing::{
        BegunCut, CHUNKS_MAX, Figures, Head, HeldRow, Located, PinnedThread, RowView, Seam, Simulated,
    };
}

/// The README's program, compiled and run with the documentation's tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
