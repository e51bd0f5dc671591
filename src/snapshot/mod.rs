//! A store's state in files: whole or in increments, safe from crashes, readable elsewhere.
//!
//! [`Directory::save`] writes what a [`Source`] hands out, [`Snapshot`] reads it again: each live row once, whatever number
//! of increments it is in. Both stream: memory is that of a few blocks of rows. `docs/format.md` has the format to the byte.
//!
//! Not kept here: when a snapshot is taken and of which moment it is. That is the source's.

mod block;
mod columns;
#[cfg(all(test, not(shuttle)))]
mod crash_tests;
#[cfg(all(test, not(shuttle)))]
mod damage_tests;
mod dir;
mod error;
mod fs;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod read;
mod record;
mod save;
#[cfg(any(fuzzing, all(test, not(shuttle))))]
pub(crate) mod sim;
mod tensors;
#[cfg(all(test, not(shuttle)))]
pub(crate) mod tests;

pub use block::{BLOCK_BYTES, Data, Manifest, RowBlock, RowRef, Section, Source};
pub use dir::Directory;
pub use error::SnapshotError;
pub use read::{Blocks, Folded, Part, Snapshot};
pub use record::{Counts, FORMAT};
pub use save::Saved;

pub(crate) use error::At;
pub(crate) use fs::{Fs, FsFile, RealFs};
pub(crate) use tensors::{HEADER_MOST, Sum, Value, header};

use xxhash_rust::xxh3::xxh3_64;

/// Which of `shards` shards owns a key: a pure function of both, part of the format (`docs/format.md`).
///
/// ```
/// assert_eq!(dimslab::snapshot::owner(42, 1), 0);
/// assert!(dimslab::snapshot::owner(42, 8) < 8);
/// ```
#[must_use]
pub fn owner(key: u64, shards: u32) -> u32 {
    let hash = xxh3_64(&key.to_le_bytes());
    ((u128::from(hash) * u128::from(shards)) >> 64) as u32
}
