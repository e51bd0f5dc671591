//! The report of a comparison: tables for people and machines, and a page with charts.

mod text;

use std::path::Path;

use crate::study::StudyError;
use crate::study::record::{Record, write_whole};

/// A grid's records and what it was asked for.
#[derive(Debug)]
pub(crate) struct Comparison {
    /// In the order of the command line.
    pub(crate) methods: Vec<String>,
    pub(crate) ratios: Vec<f64>,
    pub(crate) settings: serde_json::Value,
    pub(crate) records: Vec<Record>,
}

/// Writes the report's files to `dir` and returns the tables as text.
///
/// # Errors
/// [`StudyError::File`].
pub(crate) fn write(dir: &Path, comparison: &Comparison) -> Result<String, StudyError> {
    let text = text::markdown(comparison);
    write_whole(&dir.join("tables.md"), &text)?;
    write_whole(&dir.join("figures.csv"), &text::csv(comparison))?;
    Ok(text)
}
