//! Embedding storage for training recommenders in bounded memory.

mod budget;
mod chain;
#[cfg(feature = "cli")]
pub mod cli;
mod config;
#[cfg(feature = "train")]
pub mod data;
mod directory;
#[cfg(all(feature = "train", not(loom)))]
pub mod dlrm;
mod error;
mod id;
mod importance;
mod optim;
mod reclaim;
mod region;
#[cfg(feature = "cli")]
pub mod report;
mod rowcopy;
mod scratch;
mod sequence;
#[doc(hidden)]
pub mod simd;
mod sketch;
mod slab;
#[cfg(not(loom))]
mod store;
mod sync;

pub use config::{Fallback, FiitedConfig, Init, Keys, Optimizer, Policy, StoreConfig, TableConfig};
pub use error::{ConfigError, StoreError, Violation};
pub use id::TableId;
#[cfg(not(loom))]
pub use store::{
    Applied, Events, Pooling, PruneReport, Row, Rows, Stats, StepReport, Store, TableStats,
};
