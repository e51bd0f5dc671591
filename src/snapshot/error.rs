//! Why a snapshot could not be written or read.

use std::io;
use std::path::PathBuf;

/// A snapshot or a serving file that cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}; {advice}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What to do.
        advice: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The bytes are not what was written.
    #[error("{} is damaged: {what}; use another snapshot or a copy of this file", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where.
        what: String,
    },
    /// There is nothing of the kind that was asked for.
    #[error("{}: {what}", path.display())]
    NotFound {
        /// Where it was looked for.
        path: PathBuf,
        /// What is missing, and what to do.
        what: String,
    },
    /// Written by a version whose format this one does not read.
    #[error("{} has format version {found}, and this program reads version {known}; {advice}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The one that is read.
        known: u64,
        /// What to do.
        advice: &'static str,
    },
    /// The directory holds what no snapshot has.
    #[error(
        "{} holds `{entry}`, which is not dimslab's; nothing was written. Choose another directory",
        path.display()
    )]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// The entry.
        entry: String,
    },
    /// An increment whose earlier part is not there, or another snapshot than it was made from.
    #[error("{}: {what}", path.display())]
    Chain {
        /// The increment.
        path: PathBuf,
        /// What does not fit, and what to do.
        what: String,
    },
    /// A source handed out blocks or sections that are not of its own shape.
    #[error("{what}: the source of this snapshot is at fault, nothing was written")]
    Source {
        /// What does not fit.
        what: String,
    },
    /// Something other than files failed, such as the store that is saved.
    #[error("{0}")]
    Other(String),
}
