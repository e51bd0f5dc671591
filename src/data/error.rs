//! What can go wrong while reading, and the bounded tolerance for malformed lines.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::PathBuf;

use super::ColumnsError;

/// Why a stream of rows could not be opened or went no further.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// No file was named.
    #[error("no input: name at least one file")]
    NoInput,
    /// A file could not be opened.
    #[error("{}: cannot be opened: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Reading a file failed.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A compressed file ends in the middle of its stream.
    #[error("{}: truncated {format} file: it ends after {bytes} decoded bytes, before the end of its stream; fetch or compress it again", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// `gzip` or `zstd`.
        format: &'static str,
        /// Bytes that came out of the file before it broke off.
        bytes: u64,
    },
    /// A compressed file's stream is not valid.
    #[error("{}: corrupt {format} file after {bytes} decoded bytes: {source}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// `gzip` or `zstd`.
        format: &'static str,
        /// Bytes that came out of the file before it broke off.
        bytes: u64,
        /// What the decoder said.
        source: io::Error,
    },
    /// A line that does not have the expected form.
    #[error("{0}")]
    Malformed(Box<BadLine>),
    /// A CSV record without end: longer than any honest line, most likely an unclosed quote.
    #[error("{}:{line}: a record longer than {limit} bytes starts here; most likely a quote is never closed", path.display())]
    RecordTooLong {
        /// The file.
        path: PathBuf,
        /// 1-based line on which the record starts.
        line: u64,
        /// The limit, in bytes.
        limit: usize,
    },
    /// A CSV file that ends within a quoted field: every row after the quote would be part of that one value.
    #[error("{}:{line}: a quote is opened here and never closed, up to the end of the file", path.display())]
    UnclosedQuote {
        /// The file.
        path: PathBuf,
        /// 1-based line on which the quote is opened.
        line: u64,
    },
    /// A CSV file without even a header.
    #[error("{}: empty; expected a header line with the column names", path.display())]
    NoHeader {
        /// The file.
        path: PathBuf,
    },
    /// A further CSV file whose header differs from the first file's.
    #[error("{}:1: its header differs from that of {} at column {column}: found {found}, expected {expected}; all files of one stream need the same header", path.display(), first.display())]
    HeaderMismatch {
        /// The file.
        path: PathBuf,
        /// The file read first.
        first: PathBuf,
        /// 1-based number of the first column that differs.
        column: usize,
        /// The name found there.
        found: String,
        /// The name expected there.
        expected: String,
    },
    /// The column roles are not valid, or do not fit the file.
    #[error(transparent)]
    Columns(#[from] ColumnsError),
    /// The stream ended without a single row.
    #[error("the input has no rows ({skipped} malformed lines skipped)")]
    NoRows {
        /// Malformed lines that were skipped.
        skipped: u64,
    },
    /// The stream is not longer than the part that was to be held out.
    #[error(
        "the input has {rows} rows, and {holdout} are to be held out, so that none is left to train on; hold out fewer"
    )]
    HoldoutTooLarge {
        /// Rows of the whole stream.
        rows: u64,
        /// Rows that were to be held out.
        holdout: usize,
    },
    /// A batch of zero rows, or one whose buffers cannot be addressed.
    #[error("a batch of {rows} rows is not possible; choose between 1 and {limit}")]
    BatchRows {
        /// The number asked for.
        rows: usize,
        /// The greatest number possible.
        limit: usize,
    },
    /// A source gave a row that is not as wide as its schema. This is a fault of the source, not of the data.
    #[error(
        "the source gave a row of {dense} dense and {categorical} categorical values; its schema has {n_dense} and {n_features}"
    )]
    RowWidth {
        /// Dense values of the row.
        dense: usize,
        /// Keys of the row.
        categorical: usize,
        /// Dense columns of the schema.
        n_dense: usize,
        /// Categorical columns of the schema.
        n_features: usize,
    },
    /// A setting of the generator that makes no sense.
    #[error("generator: {name} is {value}; {expected}")]
    Generator {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// The reader thread could not be started.
    #[error("the reader thread could not be started: {source}")]
    Spawn {
        /// What the operating system said.
        source: io::Error,
    },
    /// The reader thread panicked. This is a fault of the source, not of the data.
    #[error("the reader thread panicked: {message}")]
    ReaderPanicked {
        /// The panic's message.
        message: String,
    },
    /// Rows were asked for after an error had already ended the stream.
    #[error("reading has already stopped at an error")]
    Stopped,
}

/// Where a line is malformed, what is there and what belongs there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BadLine {
    /// The file.
    pub path: PathBuf,
    /// 1-based line. For a CSV record over several lines, the one it starts on.
    pub line: u64,
    /// 1-based field, counted in columns of the file.
    pub column: usize,
    /// The column's name, or a description where the file has no such column.
    pub name: String,
    /// What was found, shortened and made printable.
    pub found: String,
    /// What was expected.
    pub expected: Cow<'static, str>,
    /// Malformed lines skipped before this one.
    pub skipped: u64,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BadLine { path, line, column, name, found, expected, skipped } = self;
        write!(f, "{}:{line}: column {column} ({name}): found {found}, expected {expected}", path.display())?;
        if *skipped > 0 {
            write!(f, " ({skipped} malformed lines before it were skipped)")?;
        }
        Ok(())
    }
}

/// A fault in one field, before the reader adds where it is.
pub(super) struct FieldFault {
    /// 0-based field.
    pub(super) field: usize,
    pub(super) found: String,
    pub(super) expected: Cow<'static, str>,
}

impl FieldFault {
    /// A field whose bytes are not what they should be.
    pub(super) fn bytes(field: usize, found: &[u8], expected: &'static str) -> Self {
        FieldFault { field, found: quote(found), expected: Cow::Borrowed(expected) }
    }

    /// A line with the wrong number of fields. It points at the first one missing, or at the first beyond.
    pub(super) fn count(found: usize, expected: usize, separator: &str) -> Self {
        FieldFault {
            field: found.min(expected),
            found: format!("a line of {found} field{}", if found == 1 { "" } else { "s" }),
            expected: Cow::Owned(format!("{expected} fields separated by {separator}")),
        }
    }
}

/// Bytes as a message may show them: escaped, in quotes, and at most 40 of them.
pub(super) fn quote(bytes: &[u8]) -> String {
    const SHOWN: usize = 40;
    if bytes.is_empty() {
        return "nothing".to_owned();
    }
    let mut text = String::from("`");
    for chunk in bytes[..bytes.len().min(SHOWN)].utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text.push('`');
    if bytes.len() > SHOWN {
        text.push_str(&format!("... ({} bytes)", bytes.len()));
    }
    text
}

/// How many malformed lines may be skipped, and how many have been.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tolerance {
    pub(super) allowed: u64,
    pub(super) skipped: u64,
}

impl Tolerance {
    /// Takes in one malformed line: counted while the allowance lasts, the error after that.
    pub(super) fn absorb(&mut self, mut bad: BadLine) -> Result<(), DataError> {
        if self.skipped < self.allowed {
            self.skipped += 1;
            return Ok(());
        }
        bad.skipped = self.skipped;
        Err(DataError::Malformed(Box::new(bad)))
    }
}

/// Parses a label: 0 or 1, also written 0.0 or 1.0.
pub(super) fn parse_label(field: &[u8]) -> Option<f32> {
    match field {
        b"0" | b"0.0" => Some(0.0),
        b"1" | b"1.0" => Some(1.0),
        _ => None,
    }
}

/// What a label must be, for messages.
pub(super) const LABEL_EXPECTED: &str = "the label 0 or 1";

#[cfg(test)]
mod tests {
    use super::*;

    fn bad(line: u64) -> BadLine {
        BadLine {
            path: PathBuf::from("log.tsv"),
            line,
            column: 3,
            name: "I2".to_owned(),
            found: quote(b"x"),
            expected: Cow::Borrowed("an integer"),
            skipped: 0,
        }
    }

    #[test]
    fn a_bad_line_says_where_what_and_what_else() {
        assert_eq!(bad(7).to_string(), "log.tsv:7: column 3 (I2): found `x`, expected an integer");
    }

    #[test]
    fn the_line_after_the_allowance_is_the_error_and_counts_the_skipped() {
        let mut tolerance = Tolerance { allowed: 2, skipped: 0 };
        assert!(tolerance.absorb(bad(1)).is_ok());
        assert!(tolerance.absorb(bad(2)).is_ok());
        let text = tolerance.absorb(bad(3)).unwrap_err().to_string();
        assert!(text.starts_with("log.tsv:3:"), "{text}");
        assert!(text.ends_with("(2 malformed lines before it were skipped)"), "{text}");
    }

    #[test]
    fn found_text_is_short_and_printable() {
        assert_eq!(quote(b""), "nothing");
        assert_eq!(quote(b"a\tb\x00"), "`a\\tb\\u{0}`");
        assert_eq!(quote(b"\xff1"), "`\\xff1`");
        assert_eq!(quote("é".as_bytes()), "`é`");
        let long = quote(&[b'a'; 5000]);
        assert!(long.len() < 70 && long.contains("5000 bytes"), "{long}");
    }

    #[test]
    fn labels() {
        assert_eq!(parse_label(b"1.0"), Some(1.0));
        assert_eq!(parse_label(b"0"), Some(0.0));
        for wrong in [&b"NaN"[..], b"", b"2", b"-0", b"1.5", b"0 ", b"true", b"00"] {
            assert_eq!(parse_label(wrong), None);
        }
    }
}
