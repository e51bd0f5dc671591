//! Why a snapshot could not be written or read.

use std::io;
use std::path::{Path, PathBuf};

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

impl SnapshotError {
    /// Damage of the file at `path`.
    pub(crate) fn damaged(path: &Path, what: impl Into<String>) -> Self {
        SnapshotError::Damaged { path: path.to_owned(), what: what.into() }
    }

    /// A fault of whoever hands out rows and sections.
    pub(crate) fn source(what: impl Into<String>) -> Self {
        SnapshotError::Source { what: what.into() }
    }
}

/// Adds to a system's error what was tried on which file.
pub(crate) trait At<T> {
    /// `action` is what could not be done, such as "write".
    fn at(self, action: &'static str, path: &Path) -> Result<T, SnapshotError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, SnapshotError> {
        self.map_err(|source| {
            let advice = advice(source.kind());
            SnapshotError::Io { action, path: path.to_owned(), advice, source }
        })
    }
}

fn advice(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "make room on that disk and save again; earlier snapshots are as they were"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => "choose a place you may write to",
        io::ErrorKind::NotFound => "is the path right, and has nobody moved it?",
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => {
            "choose another place"
        }
        io::ErrorKind::UnexpectedEof => "the file was cut; use another snapshot",
        _ => "check that disk; earlier snapshots are as they were",
    }
}
