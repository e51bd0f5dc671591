//! What a trial leaves behind, and the directory of a grid's trials.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::StudyError;
use crate::dlrm::metrics::Metrics;

/// Which trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cell {
    /// The method as it is written on the command line.
    pub(crate) method: String,
    /// Bytes of full size over those of the budget.
    pub(crate) ratio: f64,
    pub(crate) seed: u64,
}

impl Cell {
    fn file_name(&self) -> String {
        format!("{}@{}x-seed{}.json", self.method.replace('/', "_"), self.ratio, self.seed)
    }
}

/// Consecutive training rows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Point {
    /// Rows seen at the end.
    pub(crate) rows: u64,
    /// Of these rows alone, each scored before it was trained on.
    pub(crate) metrics: Metrics,
    /// Bytes held at the end.
    pub(crate) held: u64,
}

/// Ids that occur about as often.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Band {
    /// From so many occurrences in the training rows to below twice as many.
    pub(crate) occurrences: u32,
    pub(crate) ids: u64,
    /// Mean of the dimensions that they have of their own.
    pub(crate) dims: f64,
}

/// A trial that ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) budget: u64,
    /// Bytes at the end.
    pub(crate) held: u64,
    /// The most at any moment.
    pub(crate) peak: u64,
    pub(crate) full_bytes: u64,
    pub(crate) train_rows: u64,
    pub(crate) test_rows: u64,
    /// Of the held-out tail.
    pub(crate) heldout: Metrics,
    /// Of all training rows, each scored before it was trained on.
    pub(crate) progressive: Metrics,
    pub(crate) windows: Vec<Point>,
    pub(crate) bands: Vec<Band>,
    /// Where needs are planted: the chance that an id that needs all dimensions has more of its own than one that needs
    /// none and occurs about as often, ties half. 0.5 if dimensions do not follow needs.
    #[serde(default)]
    pub(crate) needs_met: Option<f64>,
    pub(crate) samples_per_s: f64,
}

impl Done {
    /// Bytes held once they settled: the median over the ends of the windows of training's second half.
    pub(crate) fn steady(&self) -> Option<u64> {
        let mut held: Vec<u64> = self.windows[self.windows.len() / 2..].iter().map(|point| point.held).collect();
        held.sort_unstable();
        held.get(held.len() / 2).copied()
    }
}

/// How a trial ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    Done(Box<Done>),
    /// The method cannot exist within the budget.
    Impossible(String),
}

/// A trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    #[serde(flatten)]
    pub(crate) cell: Cell,
    pub(crate) outcome: Outcome,
}

impl Record {
    pub(crate) fn done(&self) -> Option<&Done> {
        match &self.outcome {
            Outcome::Done(done) => Some(done),
            Outcome::Impossible(_) => None,
        }
    }
}

const SETTINGS: &str = "settings.json";
const RUNS: &str = "runs";

/// A directory of records, one file each, and the settings that all of them have in common.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    runs: PathBuf,
}

fn file_error(path: &Path, what: impl ToString) -> StudyError {
    StudyError::File { path: path.to_owned(), what: what.to_string() }
}

/// Writes a file so that it is there whole or not at all.
pub(crate) fn write_whole(path: &Path, text: &str) -> Result<(), StudyError> {
    let unfinished = path.with_extension("unfinished");
    let written = fs::File::create(&unfinished)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&unfinished, path));
    written.map_err(|error| file_error(path, error))
}

impl Records {
    /// Takes `dir` for a grid with these settings: a new one, or one that goes on.
    ///
    /// # Errors
    /// [`StudyError::File`] if the directory holds something else, or trials with other settings.
    pub(crate) fn open(dir: &Path, settings: &serde_json::Value) -> Result<Records, StudyError> {
        let (runs, path) = (dir.join(RUNS), dir.join(SETTINGS));
        fs::create_dir_all(dir).map_err(|error| file_error(dir, error))?;
        match fs::read_to_string(&path) {
            Ok(text) => {
                let found: serde_json::Value = serde_json::from_str(&text).map_err(|error| file_error(&path, error))?;
                if found != *settings {
                    return Err(file_error(
                        dir,
                        format!(
                            "its trials have other settings; name another directory (there {found}, now {settings})"
                        ),
                    ));
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let mut entries = fs::read_dir(dir).map_err(|error| file_error(dir, error))?;
                if let Some(Ok(entry)) = entries.next() {
                    let found = entry.file_name().to_string_lossy().into_owned();
                    return Err(file_error(
                        dir,
                        format!("holds other files, such as {found}; name an empty directory"),
                    ));
                }
                write_whole(&path, &serde_json::to_string_pretty(settings).map_err(|error| file_error(&path, error))?)?;
            }
            Err(error) => return Err(file_error(&path, error)),
        }
        fs::create_dir_all(&runs).map_err(|error| file_error(&runs, error))?;
        Ok(Records { runs })
    }

    /// The record of a trial, if it ran to its end.
    ///
    /// # Errors
    /// [`StudyError::File`] if there is a file that is no record of this trial.
    pub(crate) fn read(&self, cell: &Cell) -> Result<Option<Record>, StudyError> {
        let path = self.runs.join(cell.file_name());
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(file_error(&path, error)),
        };
        let record: Record = serde_json::from_str(&text).map_err(|error| file_error(&path, error))?;
        if record.cell == *cell { Ok(Some(record)) } else { Err(file_error(&path, "is the record of another trial")) }
    }

    /// Keeps a record.
    ///
    /// # Errors
    /// [`StudyError::File`].
    pub(crate) fn write(&self, record: &Record) -> Result<(), StudyError> {
        let path = self.runs.join(record.cell.file_name());
        let text = serde_json::to_string(record).map_err(|error| file_error(&path, error))?;
        write_whole(&path, &text)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn record(method: &str, ratio: f64, seed: u64, auc: f64, ne: f64) -> Record {
        let metrics = Metrics { auc: Some(auc), logloss: Some(0.5), ne: Some(ne) };
        let budget = (1000.0 / ratio) as u64;
        let done = Done {
            budget,
            held: budget,
            peak: budget,
            full_bytes: 1000,
            train_rows: 100,
            test_rows: 10,
            heldout: metrics,
            progressive: metrics,
            windows: vec![Point { rows: 50, metrics, held: budget }, Point { rows: 100, metrics, held: budget }],
            bands: vec![Band { occurrences: 1, ids: 3, dims: 4.0 }, Band { occurrences: 2, ids: 2, dims: 16.0 }],
            needs_met: None,
            samples_per_s: 1000.0,
        };
        let cell = Cell { method: method.to_owned(), ratio, seed };
        Record { cell, outcome: Outcome::Done(Box::new(done)) }
    }

    #[test]
    fn steady_is_the_second_halfs_median() {
        let Outcome::Done(mut done) = record("hash", 2.0, 1, 0.7, 0.9).outcome else { panic!("a trial that ran") };
        let point = done.windows[0];
        done.windows = [900, 10, 30, 20, 25, 40].map(|held| Point { held, ..point }).to_vec();
        assert_eq!(done.steady(), Some(25));
        done.windows.clear();
        assert_eq!(done.steady(), None);
    }

    #[test]
    fn records_come_back_and_foreign_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("grid");
        let settings = serde_json::json!({"rows": 10});
        let records = Records::open(&out, &settings).unwrap();
        let record = record("hash", 2.5, 3, 0.123_456_789_012_345_67, 0.9);
        assert_eq!(records.read(&record.cell).unwrap(), None);
        records.write(&record).unwrap();
        assert_eq!(Records::open(&out, &settings).unwrap().read(&record.cell).unwrap(), Some(record.clone()));
        let error = Records::open(&out, &serde_json::json!({"rows": 11})).unwrap_err().to_string();
        assert!(error.contains("other settings"), "{error}");
        let other = Cell { seed: 4, ..record.cell.clone() };
        fs::copy(out.join(RUNS).join(record.cell.file_name()), out.join(RUNS).join(other.file_name())).unwrap();
        assert!(records.read(&other).unwrap_err().to_string().contains("another trial"));
        fs::write(out.join(RUNS).join(other.file_name()), "{").unwrap();
        assert!(records.read(&other).is_err());
        fs::write(dir.path().join("notes.txt"), "mine").unwrap();
        let error = Records::open(dir.path(), &settings).unwrap_err().to_string();
        assert!(error.contains("holds other files"), "{error}");
    }
}
