//! What was measured: kept in a file of JSON, from which the tables of the documentation are made.

use crate::Outcome;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// One store under one condition, each list by repetition. The lists beside the store's own are of the same run and the
/// same repetitions, so that ratios are of moments close to each other.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub(crate) struct Record {
    /// `throughput`, `fill`, `latency`, `scaling` or `round`.
    pub(crate) part: String,
    /// What was done: `gather, Zipf`.
    pub(crate) what: String,
    pub(crate) store: String,
    pub(crate) rows: u64,
    pub(crate) dim: usize,
    pub(crate) threads: usize,
    /// Million rows a second; nanoseconds where the part is about time.
    pub(crate) values: Vec<f64>,
    /// The flat array's.
    pub(crate) ceiling: Vec<f64>,
    /// dimslab's, whole rows in the longest chunks.
    pub(crate) dimslab: Vec<f64>,
}

/// Everything that was measured, and on what.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: String,
    pub(crate) records: Vec<Record>,
}

impl Results {
    pub(crate) fn read(path: &Path) -> Outcome<Results> {
        if !path.exists() {
            return Ok(Results::default());
        }
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    }

    /// Takes the place of what was measured earlier of the same.
    pub(crate) fn add(&mut self, record: Record) {
        let condition = |of: &Record| (of.part.clone(), of.what.clone(), of.store.clone(), of.rows, of.dim, of.threads);
        let new = condition(&record);
        self.records.retain(|old| condition(old) != new);
        self.records.push(record);
    }

    /// Writes all, a record a line, so that a change shows which were measured anew.
    pub(crate) fn write(&mut self, path: &Path) -> Outcome<()> {
        self.machine = machine();
        let key = |of: &Record| (of.part.clone(), of.rows, of.dim, of.threads, of.what.clone(), of.store.clone());
        self.records.sort_by_key(key);
        let lines: Result<Vec<String>, _> = self.records.iter().map(serde_json::to_string).collect();
        let machine = serde_json::to_string(&self.machine)?;
        let text = format!("{{\"machine\":{machine},\"records\":[\n{}\n]}}\n", lines?.join(",\n"));
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        Ok(std::fs::write(path, text)?)
    }
}

/// The processor, as the system names it.
fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(": ")).map_or("unknown", |(_, value)| value).to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{}, family {} model {}, {cores} cores", field("model name"), field("cpu family"), field("model\t"))
}

/// The middle value; 0 without any.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Half of the distance between the least and the greatest, in percent of the median; 0 where all are 0.
pub(crate) fn spread(values: &[f64]) -> f64 {
    if values.iter().all(|&value| value == 0.0) {
        return 0.0;
    }
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (greatest - least) / 2.0 / median(values) * 100.0
}

/// The median of the ratios, each of one repetition.
pub(crate) fn ratio(of: &[f64], to: &[f64]) -> f64 {
    median(&of.iter().zip(to).map(|(of, to)| of / to).collect::<Vec<f64>>())
}
