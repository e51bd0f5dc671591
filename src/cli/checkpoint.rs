//! The snapshots of a run: saved beside training under `DIR/checkpoint`, and gone on from by `train --resume DIR`.

use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use crate::cli::error::CliError;
use crate::cli::resolved::Resolved;
use crate::cli::settings::Settings;
use crate::dlrm::run::Checkpoints;
use crate::dlrm::{DlrmConfig, MODEL};
use crate::report::CHECKPOINT;
use crate::snapshot::{Directory, Section, Snapshot, SnapshotError};
use crate::{LiveSnapshot, Store, StoreConfig, TableConfig};

/// Snapshots that stay: the latest, and the one before in case the latest is damaged later.
const KEPT: usize = 2;
/// The name under which the manifest holds the run's settings.
const SETTINGS: &str = "settings";

fn failed(error: &SnapshotError) -> CliError {
    match error {
        SnapshotError::Io { .. } | SnapshotError::Source { .. } => CliError::Internal(error.to_string()),
        _ => CliError::input(error),
    }
}

/// A new run does not take the place of one that has snapshots to go on from.
pub(crate) fn check_free(out: &Path) -> Result<(), CliError> {
    let path = out.join(CHECKPOINT);
    let is_empty = std::fs::read_dir(&path).map_or(true, |mut entries| entries.next().is_none());
    if is_empty {
        return Ok(());
    }
    Err(CliError::input(format!(
        "{} holds the snapshots of another run: go on from them with --resume {}, or name another directory",
        path.display(),
        out.display()
    )))
}

/// Saves a run's snapshots, one at a time, each on a thread of its own.
pub(crate) struct Saver {
    directory: Directory,
    extra: Vec<(String, String)>,
    saving: Option<JoinHandle<Result<(), SnapshotError>>>,
    /// The last snapshot could not be saved.
    error: Option<CliError>,
}

impl Saver {
    /// Saves to `out/checkpoint`.
    pub(crate) fn new(out: &Path, settings: &Resolved, model: &DlrmConfig) -> Result<Saver, CliError> {
        let directory = Directory::create(&out.join(CHECKPOINT)).map_err(|error| failed(&error))?;
        let model = serde_json::to_string(model).map_err(|error| CliError::Internal(error.to_string()))?;
        let extra = vec![(SETTINGS.to_owned(), settings.to_toml()?), (MODEL.to_owned(), model)];
        Ok(Saver { directory, extra, saving: None, error: None })
    }

    /// Waits for the snapshot that is being saved. The last one's error, if it could not be saved.
    pub(crate) fn finish(mut self) -> Option<CliError> {
        self.collect();
        self.error
    }

    fn collect(&mut self) {
        let Some(saving) = self.saving.take() else { return };
        let outcome = saving.join().unwrap_or_else(|_| Err(SnapshotError::Other("saving panicked".to_owned())));
        self.error = outcome.err().map(|error| {
            let what = format!("a snapshot was not saved, training goes on: {error}");
            // Told now, too: until the run ends it may be long. If standard error is closed, the end tells it.
            let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("warning: {what}\n").as_bytes());
            match failed(&error) {
                CliError::Input(_) => CliError::input(what),
                _ => CliError::Internal(what),
            }
        });
    }
}

impl Checkpoints for Saver {
    fn is_ready(&mut self) -> bool {
        if self.saving.as_ref().is_some_and(JoinHandle::is_finished) {
            self.collect();
        }
        self.saving.is_none()
    }

    fn wait(&mut self) {
        self.collect();
    }

    fn save(&mut self, mut snapshot: LiveSnapshot) {
        snapshot.extend(self.extra.iter().cloned(), Vec::new());
        let directory = self.directory.clone();
        let save = move || {
            directory.save(&mut snapshot)?;
            snapshot.commit();
            directory.keep_newest(KEPT)?;
            Ok(())
        };
        match thread::Builder::new().name("dimslab-saver".to_owned()).spawn(save) {
            Ok(saving) => self.saving = Some(saving),
            Err(error) => {
                self.error = Some(CliError::Internal(format!("a snapshot was not saved: no thread for it: {error}")));
            }
        }
    }
}

/// A run to go on with.
pub(crate) struct Resumed {
    snapshot: Snapshot,
    pub(crate) sections: Vec<Section>,
    pub(crate) settings: Resolved,
}

impl Resumed {
    /// The latest snapshot of the run in `dir`.
    pub(crate) fn open(dir: &Path) -> Result<Resumed, CliError> {
        let path: PathBuf = dir.join(CHECKPOINT);
        let nothing = || {
            CliError::input(format!(
                "{} holds no snapshot to go on from; name the directory of a run with --checkpoint-every",
                dir.display()
            ))
        };
        if !path.is_dir() {
            return Err(nothing());
        }
        let directory = Directory::create(&path).map_err(|error| failed(&error))?;
        let snapshot = directory.open_latest().map_err(|error| failed(&error))?.ok_or_else(nothing)?;
        let unfit = |what: &str| CliError::input(format!("the latest snapshot of {}: {what}", dir.display()));
        let text = snapshot.manifest().extra.get(SETTINGS).ok_or_else(|| unfit("is no training run's"))?;
        let settings: Settings = toml::from_str(text).map_err(|error| unfit(error.message()))?;
        let settings = Resolved { out: Some(dir.to_owned()), ..settings.resolve()? };
        let sections = snapshot.sections().map_err(|error| failed(&error))?;
        Ok(Resumed { snapshot, sections, settings })
    }

    /// The store as it was.
    pub(crate) fn store(&self, config: StoreConfig, tables: Vec<TableConfig>) -> Result<Store, CliError> {
        let restore = || {
            let mut restore = Store::restore(config, tables, self.snapshot.manifest(), &self.sections)?;
            restore.blocks(self.snapshot.blocks())?;
            restore.finish()
        };
        restore().map_err(|error| failed(&error))
    }
}
