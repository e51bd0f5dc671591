//! Click logs as a stream of rows: readers, an embedded generator, and the loader that feeds a trainer.
//!
//! ```text
//! files ──► Inputs ──► CriteoReader ─┐
//!          (gz, zst)   CsvReader ────┼─► dyn RowSource ──► Loader (reader thread, held-out FIFO) ──► Batch
//!                      Generator ────┘
//! ```
//!
//! Nothing here holds a whole file in memory. A malformed line is a [`DataError`] that names the file, the line, the
//! field and what was expected; [`CriteoReader::skip_bad_lines`] and [`CsvReader::skip_bad_lines`] tolerate a number
//! of them and count.
//!
//! What a column becomes:
//!
//! | column | value |
//! |---|---|
//! | Criteo integer | `ln(1 + max(x, 0))`, 0 when missing |
//! | Criteo category | the hex digits as a number; missing has the key [`CRITEO_MISSING_KEY`] |
//! | CSV dense | `sign(x) ln(1 + abs(x))`, 0 when empty |
//! | CSV categorical | xxh3-64 of the field's bytes; empty has a key of its own (the hash of no bytes) |
//! | label | 0 or 1 |
//! | time | an integer, checked, and kept as the range seen so far |

mod batch;
mod columns;
mod criteo;
mod csv;
mod error;
mod generator;
mod input;
mod loader;
mod teacher;
mod zipf;

pub use batch::{Batch, Row, RowSource, Schema};
pub use columns::{Columns, ColumnsError, Layout, Role};
pub use criteo::{CRITEO_MISSING_KEY, CriteoReader};
pub use csv::CsvReader;
pub use error::{BadLine, DataError};
pub use generator::{Generator, GeneratorConfig};
pub use input::{Compression, Input, Inputs};
pub use loader::Loader;
pub use teacher::Truth;
#[cfg(feature = "cli")]
pub(crate) use teacher::mix;
