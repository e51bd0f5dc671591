//! What ends a command early, and the exit code it stands for.

use std::io;
use std::path::Path;

use crate::snapshot::SnapshotError;

/// An error as the user sees it: one line of what, where and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// Flags, configuration or data are at fault: exit code 2.
    #[error("{0}")]
    Input(String),
    /// Something else failed, such as a full disk: exit code 1.
    #[error("{0}")]
    Internal(String),
    /// Whoever read standard output has gone: no message, exit code 0.
    #[error("standard output was closed")]
    ClosedOutput,
}

impl CliError {
    /// The process exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            CliError::Input(_) => 2,
            CliError::Internal(_) => 1,
            CliError::ClosedOutput => 0,
        }
    }

    /// An error of flags, configuration or data; anything that prints as text.
    pub(crate) fn input(error: impl ToString) -> Self {
        CliError::Input(one_line(&error.to_string()))
    }

    /// An error while writing `path`. Where the user asked for an impossible place it is an input error.
    pub(crate) fn writing(path: &Path, error: &io::Error) -> Self {
        use io::ErrorKind::{AlreadyExists, IsADirectory, NotADirectory, NotFound};
        use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        let text = format!("cannot write {}: {error}; choose another place", path.display());
        match error.kind() {
            NotFound | PermissionDenied | AlreadyExists | NotADirectory | IsADirectory | ReadOnlyFilesystem => {
                CliError::input(text)
            }
            _ => CliError::Internal(one_line(&text)),
        }
    }

    /// An error of a snapshot or a serving file. A disk that fails is no fault of the input.
    pub(crate) fn snapshot(error: &SnapshotError) -> Self {
        use io::ErrorKind::{IsADirectory, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
        let text = one_line(&error.to_string());
        match error {
            SnapshotError::Io { source, .. } => match source.kind() {
                NotFound | PermissionDenied | NotADirectory | IsADirectory | ReadOnlyFilesystem => {
                    CliError::Input(text)
                }
                _ => CliError::Internal(text),
            },
            SnapshotError::Source { .. } => CliError::Internal(text),
            _ => CliError::Input(text),
        }
    }

    /// An error while writing to standard output.
    pub(crate) fn printing(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => CliError::ClosedOutput,
            _ => CliError::Internal(format!("cannot write to standard output: {error}")),
        }
    }
}

/// `text` on one line.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
