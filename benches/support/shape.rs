//! The rows of `memory_over_time`, and what is told about them.

use std::fmt;
use std::str::FromStr;

/// Dimensions of a whole row, of a chunk, and chunks of a row.
pub(crate) const DIM: usize = 64;
pub(crate) const CHUNK: usize = 16;
pub(crate) const CHUNKS: usize = DIM / CHUNK;
/// A chunk's weights and Adagrad's state.
pub(crate) const ROW_CHUNK_FLOATS: usize = 2 * CHUNK;

/// Samples in a phase.
pub(crate) const SAMPLES: usize = 20;

/// What happens, in order.
pub(crate) const PHASES: [&str; 6] = ["fill", "prune 70 %", "idle", "drift", "regrow", "prune 90 %"];

/// What a user asked to keep, the same for all: keys, weights, optimizer state.
pub(crate) fn live_bytes(rows: u64, chunks: u64) -> u64 {
    rows * 8 + chunks * 4 * ROW_CHUNK_FLOATS as u64
}

/// One moment of one subject. Held and resident bytes are those above what the process had before the fill.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    pub(crate) phase: usize,
    pub(crate) seconds: f64,
    pub(crate) rows: u64,
    pub(crate) chunks: u64,
    pub(crate) held: Option<u64>,
    pub(crate) resident: u64,
    /// dimslab alone: what its figures say is live, with what it keeps beside the rows, and resident.
    pub(crate) store: Option<(u64, u64)>,
}

impl Sample {
    pub(crate) fn live(&self) -> u64 {
        live_bytes(self.rows, self.chunks)
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_dash = |bytes: Option<u64>| bytes.map_or("-".to_owned(), |bytes| bytes.to_string());
        write!(f, "{} {:.3} {} {} ", self.phase, self.seconds, self.rows, self.chunks)?;
        write!(f, "{} {} ", or_dash(self.held), self.resident)?;
        write!(f, "{} {}", or_dash(self.store.map(|store| store.0)), or_dash(self.store.map(|store| store.1)))
    }
}

impl FromStr for Sample {
    type Err = Box<dyn std::error::Error>;

    fn from_str(line: &str) -> Result<Sample, Self::Err> {
        let fields: Vec<&str> = line.split(' ').collect();
        let [phase, seconds, rows, chunks, held, resident, live, store_resident] = fields[..] else {
            return Err(format!("not a sample: {line}").into());
        };
        let optional = |field: &str| if field == "-" { Ok(None) } else { field.parse().map(Some) };
        Ok(Sample {
            phase: phase.parse()?,
            seconds: seconds.parse()?,
            rows: rows.parse()?,
            chunks: chunks.parse()?,
            held: optional(held)?,
            resident: resident.parse()?,
            store: optional(live)?.zip(optional(store_resident)?),
        })
    }
}
