//! The directory of a run. It overwrites nothing that is not a run's own.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use crate::dlrm::run::Window;
use crate::report::{Report, html};

const METRICS: &str = "metrics.jsonl";
const REPORT: &str = "report.json";
const PAGE: &str = "report.html";
/// Within the directory of a comparison, the full-size run's own.
pub(crate) const FULL_SIZE: &str = "full-size";
/// Within the directory of a run, its snapshots.
pub(crate) const CHECKPOINT: &str = "checkpoint";

/// Why a run's directory cannot be used or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutError {
    /// The operating system refused.
    #[error("{}: {source}; choose another place", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of another program is in the way.
    #[error("{}: holds files that are no run's, such as {found}; name an empty or a new directory", path.display())]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// The name of one such file.
        found: String,
    },
    /// There is no run to read.
    #[error("{}: holds no run: no {REPORT}; name a directory that `train --out` wrote", path.display())]
    NoRun {
        /// The directory.
        path: PathBuf,
    },
    /// A run's file cannot be understood.
    #[error("{}: {what}; it was not written whole, or by another program", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

/// A directory that takes a run's files.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    metrics: Option<File>,
    curve: Curve,
}

impl RunDir {
    /// Takes `path` for a run: where it exists, checks that it is empty or an earlier run's. Touches nothing yet.
    ///
    /// # Errors
    /// [`OutError::NotOurs`] if it holds files that are no run's; [`OutError::Io`] if it cannot be listed.
    pub(crate) fn open(path: &Path) -> Result<RunDir, OutError> {
        let mut first_name = None;
        let entries = match fs::read_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            entries => Some(entries.map_err(io_error(path))?),
        };
        for entry in entries.into_iter().flatten() {
            let name = entry.map_err(io_error(path))?.file_name().to_string_lossy().into_owned();
            let name_is_ours = [METRICS, REPORT, PAGE].contains(&name.as_str());
            if name_is_ours && !is_ours(&path.join(&name), &name) {
                return Err(OutError::NotOurs { path: path.to_owned(), found: name });
            }
            if !is_left_by_a_run(&name) {
                first_name.get_or_insert(name);
            }
        }
        let has_run = [METRICS, REPORT].iter().any(|name| path.join(name).exists());
        match first_name {
            Some(found) if !has_run => Err(OutError::NotOurs { path: path.to_owned(), found }),
            _ => Ok(RunDir { path: path.to_owned(), metrics: None, curve: Curve::default() }),
        }
    }

    /// Makes the directory where it does not exist, removes an earlier run's files and starts `metrics.jsonl`.
    ///
    /// # Errors
    /// [`OutError::Io`].
    pub(crate) fn begin(&mut self) -> Result<(), OutError> {
        fs::create_dir_all(&self.path).map_err(io_error(&self.path))?;
        self.clear()?;
        let path = self.path.join(METRICS);
        self.metrics = Some(File::create_new(&path).map_err(io_error(&path))?);
        Ok(())
    }

    /// Like [`begin`](Self::begin), but goes on after an earlier run's windows up to so many rows.
    ///
    /// # Errors
    /// [`OutError::Io`], [`OutError::Unreadable`] if what is there cannot be gone on with.
    pub(crate) fn resume(&mut self, rows: u64) -> Result<(), OutError> {
        let path = self.path.join(METRICS);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text.map_err(io_error(&path))?,
        };
        let mut kept = String::new();
        for (number, line) in text.lines().enumerate() {
            match serde_json::from_str::<Window>(line) {
                Ok(window) if window.rows_seen > rows => break,
                Ok(window) => {
                    self.curve.push(&window);
                    kept = kept + line + "\n";
                }
                // A line that a killed process has not written to its end is the last one.
                Err(_) if number + 1 == text.lines().count() => {}
                Err(error) => {
                    let what = format!("line {}: {error}", number + 1);
                    return Err(OutError::Unreadable { path, what });
                }
            }
        }
        self.replace(METRICS, kept.as_bytes())?;
        self.metrics = Some(File::options().append(true).open(&path).map_err(io_error(&path))?);
        Ok(())
    }

    /// Removes the full-size run that an earlier comparison left within `path`, so that nothing takes it for the other
    /// half of the run that is there now.
    ///
    /// # Errors
    /// [`OutError::NotOurs`] if its directory holds other files; [`OutError::Io`].
    pub(crate) fn remove_full_size(path: &Path) -> Result<(), OutError> {
        let full = path.join(FULL_SIZE);
        if full.is_dir() {
            RunDir::open(&full)?.clear()?;
            fs::remove_dir(&full).map_err(io_error(&full))?;
        }
        Ok(())
    }

    fn clear(&self) -> Result<(), OutError> {
        for name in [METRICS, REPORT, PAGE] {
            let path = self.path.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error(&path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Appends one window to `metrics.jsonl`, at once.
    ///
    /// # Errors
    /// [`OutError::Io`].
    pub(crate) fn window(&mut self, window: &Window) -> Result<(), OutError> {
        self.curve.push(window);
        let path = self.path.join(METRICS);
        let mut line = serde_json::to_vec(window).map_err(|e| io_error(&path)(e.into()))?;
        line.push(b'\n');
        match &mut self.metrics {
            Some(file) => file.write_all(&line).map_err(io_error(&path)),
            None => Ok(()),
        }
    }

    /// Writes `report.json` and `report.html`, each whole or not at all.
    ///
    /// # Errors
    /// [`OutError::Io`].
    pub(crate) fn finish(&mut self, report: &Report) -> Result<(), OutError> {
        let path = self.path.join(REPORT);
        let mut json = serde_json::to_vec_pretty(report).map_err(|e| io_error(&path)(e.into()))?;
        json.push(b'\n');
        self.replace(REPORT, &json)?;
        self.replace(PAGE, html::page(report, &self.curve.points()).as_bytes())
    }

    /// Writes a file beside its place and moves it there.
    fn replace(&self, name: &str, content: &[u8]) -> Result<(), OutError> {
        let path = self.path.join(name);
        let temporary = self.path.join(format!(".{name}.{}.tmp", std::process::id()));
        let write = || {
            let mut file = File::create(&temporary)?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        };
        write().map_err(|error| {
            // The half-written file is of no use; the first error is the one to tell.
            let _ = fs::remove_file(&temporary);
            io_error(&path)(error)
        })
    }

    /// Reads the report of a finished run.
    ///
    /// # Errors
    /// [`OutError::NoRun`] without one, [`OutError::Unreadable`] if it is damaged, [`OutError::Io`].
    pub(crate) fn read_report(path: &Path) -> Result<Report, OutError> {
        let file = path.join(REPORT);
        let text = match fs::read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(OutError::NoRun { path: path.to_owned() });
            }
            Err(error) => return Err(io_error(&file)(error)),
        };
        serde_json::from_slice(&text).map_err(|error| OutError::Unreadable { path: file, what: error.to_string() })
    }

    /// Reads the windows of a run, at most about 2,000 of them, evenly chosen.
    ///
    /// # Errors
    /// [`OutError::Unreadable`] if a line is damaged, [`OutError::Io`].
    pub(crate) fn read_windows(path: &Path) -> Result<Vec<Window>, OutError> {
        let file = path.join(METRICS);
        let reader = BufReader::new(File::open(&file).map_err(io_error(&file))?);
        let mut curve = Curve::default();
        for (i, line) in reader.lines().enumerate() {
            let line = line.map_err(io_error(&file))?;
            let window = serde_json::from_str(&line).map_err(|error| OutError::Unreadable {
                path: file.clone(),
                what: format!("line {}: {error}", i + 1),
            })?;
            curve.push(&window);
        }
        Ok(curve.points())
    }
}

/// Names that a run leaves beside its files: the other run of a comparison, and what a killed process did not finish.
fn is_left_by_a_run(name: &str) -> bool {
    name == FULL_SIZE
        || name == CHECKPOINT
        || (name.ends_with(".tmp") && [METRICS, REPORT, PAGE].iter().any(|file| name.starts_with(&format!(".{file}."))))
}

/// An error of the system about `path`.
fn io_error(path: &Path) -> impl Fn(io::Error) -> OutError + '_ {
    |source| OutError::Io { path: path.to_owned(), source }
}

/// Whether the file, which has the name of a run's file, was written by a run.
fn is_ours(path: &Path, name: &str) -> bool {
    let first_line = || {
        let mut line = String::new();
        BufReader::new(File::open(path)?).read_line(&mut line)?;
        io::Result::Ok(line)
    };
    // By a few fields, so that another version's run is known too.
    let json = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).unwrap_or_default();
    match name {
        REPORT => fs::read(path)
            .is_ok_and(|text| json(&text)["program"].as_str().is_some_and(|name| name.starts_with("dimslab "))),
        METRICS => first_line().is_ok_and(|line| {
            let window = json(line.as_bytes());
            line.is_empty() || (window["rows_seen"].is_u64() && window["live_dims"].is_array())
        }),
        _ => fs::read_to_string(path).is_ok_and(|text| text.contains(html::MARK)),
    }
}

/// Windows for the curves: all of them up to a limit, then every second, every fourth and so on, always with the last.
#[derive(Debug, Default)]
struct Curve {
    kept: Vec<Window>,
    /// The newest window, if it is not kept.
    newest: Option<Window>,
    stride: u64,
    seen: u64,
}

/// Most windows kept for the curves.
const CURVE_POINTS: usize = 2000;

impl Curve {
    fn push(&mut self, window: &Window) {
        self.stride = self.stride.max(1);
        if self.seen.is_multiple_of(self.stride) {
            self.kept.push(window.clone());
            self.newest = None;
        } else {
            self.newest = Some(window.clone());
        }
        self.seen += 1;
        if self.kept.len() >= CURVE_POINTS {
            let mut position = 0;
            self.kept.retain(|_| {
                position += 1;
                position % 2 == 1
            });
            self.stride *= 2;
            self.newest = Some(window.clone()); // the last of an even number was dropped
        }
    }

    fn points(&self) -> Vec<Window> {
        self.kept.iter().chain(&self.newest).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(rows_seen: u64) -> Window {
        Window { rows_seen, ..crate::report::html::tests::window() }
    }

    #[test]
    fn a_directory_of_others_is_refused_and_left_alone() {
        let base = tempfile::tempdir().unwrap();
        for name in ["notes.txt", REPORT, METRICS, PAGE] {
            let dir = base.path().join(name.replace('.', "_"));
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join(name), "{\"mine\": 1}").unwrap();
            let error = RunDir::open(&dir).unwrap_err();
            assert!(matches!(&error, OutError::NotOurs { found, .. } if found == name), "{error}");
            assert_eq!(fs::read_to_string(dir.join(name)).unwrap(), "{\"mine\": 1}");
        }
    }

    #[test]
    fn an_earlier_run_is_replaced_and_other_files_stay() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("a/b");
        for rows in [1, 2] {
            let mut dir = RunDir::open(&path).unwrap();
            dir.begin().unwrap();
            for i in 0..rows {
                dir.window(&window(i)).unwrap();
            }
            dir.finish(&crate::report::html::tests::report()).unwrap();
            fs::write(path.join("notes.txt"), "kept").unwrap();
        }
        assert_eq!(RunDir::read_windows(&path).unwrap().len(), 2);
        assert_eq!(RunDir::read_report(&path).unwrap().seed, 7);
        let mut names: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [METRICS, "notes.txt", PAGE, REPORT]);
    }

    #[test]
    fn what_a_run_left_beside_its_files_is_no_obstacle() {
        let base = tempfile::tempdir().unwrap();
        fs::create_dir(base.path().join(FULL_SIZE)).unwrap();
        fs::write(base.path().join(".report.json.123.tmp"), "{").unwrap();
        RunDir::open(base.path()).unwrap();
        fs::write(base.path().join(".report.json.tm"), "{").unwrap();
        RunDir::open(base.path()).unwrap_err();
    }

    #[test]
    fn what_is_no_run_or_damaged_is_said() {
        let base = tempfile::tempdir().unwrap();
        let error = RunDir::read_report(base.path()).unwrap_err();
        assert!(matches!(error, OutError::NoRun { .. }), "{error}");
        fs::write(base.path().join(REPORT), "{\"rows\": ").unwrap();
        let error = RunDir::read_report(base.path()).unwrap_err();
        assert!(matches!(error, OutError::Unreadable { .. }), "{error}");
    }

    #[test]
    fn a_long_curve_keeps_both_ends_and_few_points() {
        let mut curve = Curve::default();
        for i in 0..50_001 {
            curve.push(&window(i));
        }
        let points = curve.points();
        assert!(points.len() >= CURVE_POINTS / 2 && points.len() <= CURVE_POINTS);
        assert_eq!((points[0].rows_seen, points[points.len() - 1].rows_seen), (0, 50_000));
        assert!(points.is_sorted_by(|a, b| a.rows_seen < b.rows_seen));
    }
}
