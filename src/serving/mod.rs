//! Trained rows in one immutable, memory-mapped file: opened in milliseconds whatever its size, looked up without copying,
//! exchanged while it is read.
//!
//! ```no_run
//! use dimslab::serving::{Dtype, Tables, export};
//! use dimslab::snapshot::Snapshot;
//!
//! export(&Snapshot::open("run".as_ref())?, "model.serve".as_ref(), Dtype::F16)?;
//! let tables = Tables::open("model.serve".as_ref())?;
//! let users = tables.table("users").expect("a table of the model");
//! let mut row = vec![0.0; users.dim()];
//! users.gather(&[42], &mut row)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The file must not be changed or cut while it is mapped: a process that reads a page that is gone is killed by the
//! system. [`export`] never does that: it writes beside the file and renames, and who has the old one mapped keeps it.

mod export;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod layout;
mod live;
mod mapped;
mod table;
#[cfg(all(test, not(shuttle)))]
mod tests;

pub use export::{Exported, export};
pub use layout::{Dtype, FORMAT};
pub use live::Live;
pub use mapped::Tables;
pub use table::{Row, Table, Weights};

use crate::snapshot::SnapshotError;

/// A look-up that cannot be carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServingError {
    /// The file is damaged.
    #[error(transparent)]
    File(#[from] SnapshotError),
    /// A slice is not as long as the keys and the table's dimension demand.
    #[error("table `{table}`: out has {found} values, expected {expected}")]
    Length {
        /// The table's name.
        table: String,
        /// Its length.
        found: usize,
        /// The length it must have.
        expected: usize,
    },
}
