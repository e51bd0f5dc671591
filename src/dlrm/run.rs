//! The training run: reader, train step, windows, held-out tail. It prints nothing and writes no files; progress goes
//! to a callback, and the end comes back as a [`RunReport`].
//!
//! Validation is *progressive*: each batch is scored before it is trained on, so one pass over a stream yields an
//! honest figure over every row. The held-out tail, which is never trained on, is scored once at the end.

use std::time::Instant;

use crate::data::{Batch, DataError, Loader};
use crate::dlrm::checkpoint::Measured;
use crate::dlrm::metrics::{HistogramAuc, LossSums, Metrics, Scored};
use crate::dlrm::{Dlrm, Phase, PhaseTimes, TrainError};
use crate::snapshot::Section;
use crate::sync::{AtomicBool, Ordering};
use crate::{Events, LiveSnapshot, SnapshotKind, Stats, Store, TableStats};

/// Settings of a run that belong to neither the model nor the store.
#[derive(Debug, Clone)]
pub struct RunConfig {
    /// Rows of a window; a window ends with the first batch that reaches them.
    pub window_rows: u64,
    /// Steps from one snapshot to the next; `None` for no snapshots.
    pub checkpoint_steps: Option<u64>,
}

/// Where a run's snapshots go.
pub trait Checkpoints {
    /// Whether the snapshot before is saved, so that the next one may begin.
    fn is_ready(&mut self) -> bool;

    /// Waits until the snapshot before is saved.
    fn wait(&mut self);

    /// Saves a snapshot, on another thread than this one, with everything in it that a run needs to go on.
    fn save(&mut self, snapshot: LiveSnapshot);
}

/// Rows of the windows that were closed when a snapshot with these sections was taken.
#[must_use]
pub fn rows_of_closed_windows(sections: &[Section]) -> Option<u64> {
    crate::dlrm::checkpoint::rows_of_closed_windows(sections)
}

/// No snapshots.
impl Checkpoints for () {
    fn is_ready(&mut self) -> bool {
        false
    }

    fn wait(&mut self) {}

    fn save(&mut self, _: LiveSnapshot) {}
}

/// What a run does beside training.
pub struct Watch<'w> {
    /// Called at the end of each window, the last and possibly shorter one included.
    pub on_window: &'w mut dyn FnMut(&Window),
    /// Given the snapshots.
    pub checkpoints: &'w mut dyn Checkpoints,
    /// The sections of the snapshot that the run goes on from; the store and the model were made from the same.
    pub resume: Option<&'w [Section]>,
}

impl RunConfig {
    /// Rows of a window unless told otherwise.
    pub const WINDOW_ROWS: u64 = 8192;
}

impl Default for RunConfig {
    fn default() -> Self {
        RunConfig { window_rows: Self::WINDOW_ROWS, checkpoint_steps: None }
    }
}

/// One window of consecutive training rows and the store at its end.
#[derive(Debug, Clone)]
#[cfg_attr(feature = "cli", derive(serde::Serialize, serde::Deserialize))]
pub struct Window {
    /// Training rows since the start, this window's included.
    pub rows_seen: u64,
    /// Rows of this window.
    pub rows: u64,
    /// Exact AUC of this window's rows, each scored before it was trained on.
    pub auc: Option<f64>,
    /// Mean log-loss of this window's rows, in nats.
    pub logloss: Option<f64>,
    /// Normalised entropy of this window's rows, against their own click-through rate.
    pub ne: Option<f64>,
    /// The same three over all rows since the start.
    pub progressive: Metrics,
    /// The store's budget in bytes.
    pub budget: u64,
    /// Bytes the store holds now.
    pub held: u64,
    /// Most bytes the store held at any moment so far.
    pub peak: u64,
    /// Live rows and live chunks of all tables.
    pub rows_live: u64,
    /// Live chunks of all tables.
    pub chunks_live: u64,
    /// Per table, in the store's order: mean live dimensions of its rows; 0 without rows.
    pub live_dims: Vec<f64>,
    /// Rows that moved since the start.
    pub events: Events,
    /// Training rows per second within this window.
    pub samples_per_s: f64,
}

/// What a run did and how well.
#[derive(Debug)]
pub struct RunReport {
    /// Rows trained on.
    pub rows: u64,
    /// Rows of the held-out tail that were scored; 0 without one or when the run did not reach it.
    pub holdout_rows: u64,
    /// Held-out AUC, log-loss and NE; all `None` without a tail.
    pub heldout: Metrics,
    /// AUC, log-loss and NE over every training row, each scored before it was trained on.
    pub progressive: Metrics,
    /// Share of positive training rows.
    pub ctr: Option<f64>,
    /// Training rows per second, reading included, held-out scoring not.
    pub samples_per_s: f64,
    /// Seconds from the first batch to the end of scoring.
    pub wall_s: f64,
    /// Windows reported.
    pub windows: u64,
    /// The stop flag ended the run early.
    pub interrupted: bool,
    /// Malformed lines passed over.
    pub skipped_lines: u64,
    /// The store at the end.
    pub store: Stats,
    /// Where the time of training went, of all threads together; held-out scoring not.
    pub times: PhaseTimes,
    /// Seconds of training: what each thread could have worked.
    pub train_s: f64,
    /// Bytes of the model's parameters with their optimizer state.
    pub model_bytes: u64,
    /// Bytes of batches, activations and the rows kept for metrics.
    pub buffer_bytes: u64,
}

/// What can end a run early.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The reader's error.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A training step's error.
    #[error(transparent)]
    Train(#[from] TrainError),
}

/// A run that ended in an error, with the report up to there.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct RunFailure {
    /// What went wrong.
    #[source]
    pub error: RunError,
    /// The report of all rows before the error.
    pub so_far: Box<RunReport>,
}

/// Trains `model` over `loader`'s rows, one pass in their order, with embeddings in `store`: table `t` of the store is
/// categorical column `t`. Calls `on_window` at the end of each window, the last and possibly shorter one included.
/// `stop` is looked at before every batch; once it is set the run ends with the report so far.
///
/// # Errors
/// An error of the reader or of a training step ends the run; it comes with the report so far.
pub fn run(
    model: &mut Dlrm,
    store: &Store,
    loader: &mut Loader,
    config: &RunConfig,
    stop: &AtomicBool,
    on_window: &mut dyn FnMut(&Window),
) -> Result<RunReport, RunFailure> {
    run_watched(model, store, loader, config, stop, Watch { on_window, checkpoints: &mut (), resume: None })
}

/// Like [`run`], with snapshots every [`checkpoint_steps`](RunConfig::checkpoint_steps), or going on from one.
///
/// A snapshot that is due while a pruning round runs or the one before is still being saved begins with the first step
/// after that. The last one is of the end of training.
///
/// # Errors
/// As [`run`]; [`TrainError::Config`] if the snapshot is of another run, [`TrainError::Store`] if the store takes none.
pub fn run_watched(
    model: &mut Dlrm,
    store: &Store,
    loader: &mut Loader,
    config: &RunConfig,
    stop: &AtomicBool,
    watch: Watch<'_>,
) -> Result<RunReport, RunFailure> {
    let Watch { on_window, checkpoints, resume } = watch;
    let mut state = Progress::new(config, store);
    let before = model.times();
    let begun = resume.map_or(Ok(()), |sections| state.resume(model, loader, sections));
    let trained = begun.and_then(|()| state.train(model, loader, stop, on_window, checkpoints));
    let trained = trained.and_then(|()| state.last_checkpoint(model, checkpoints));
    state.close_window(on_window);
    state.train_s = state.started.elapsed().as_secs_f64();
    state.times = state.times.plus(&model.times().since(&before));
    let scored = match trained {
        Ok(()) if !state.interrupted => state.score_holdout(model, loader, stop),
        other => other,
    };
    let report = state.into_report(model, loader);
    match scored {
        Ok(()) => Ok(report),
        Err(error) => Err(RunFailure { error, so_far: Box::new(report) }),
    }
}

/// Everything a run accumulates.
struct Progress<'a> {
    store: &'a Store,
    window_rows: u64,
    started: Instant,
    window_started: Instant,
    window: Scored,
    losses: LossSums,
    histogram: HistogramAuc,
    heldout: Scored,
    windows: u64,
    interrupted: bool,
    train_s: f64,
    times: PhaseTimes,
    holdout_bytes: u64,
    /// The most that model and reader held in buffers.
    buffer_bytes: u64,
    checkpoint_steps: Option<u64>,
    /// Steps since a snapshot was due.
    since_checkpoint: u64,
    /// Rows that were trained before this run, which goes on from there.
    rows_before: u64,
}

impl<'a> Progress<'a> {
    fn new(config: &RunConfig, store: &'a Store) -> Self {
        let now = Instant::now();
        Progress {
            store,
            window_rows: config.window_rows.max(1),
            started: now,
            window_started: now,
            window: Scored::default(),
            losses: LossSums::default(),
            histogram: HistogramAuc::default(),
            heldout: Scored::default(),
            windows: 0,
            interrupted: false,
            train_s: 0.0,
            times: PhaseTimes::default(),
            holdout_bytes: 0,
            buffer_bytes: 0,
            checkpoint_steps: config.checkpoint_steps,
            since_checkpoint: 0,
            rows_before: 0,
        }
    }

    fn measured(&mut self) -> Measured<'_> {
        let Progress { losses, histogram, window, windows, .. } = self;
        Measured { losses, histogram, window, windows }
    }

    /// Goes on from a snapshot's sections: the rows that were trained are read and passed over.
    fn resume(&mut self, model: &mut Dlrm, loader: &mut Loader, sections: &[Section]) -> Result<(), RunError> {
        model.restore(sections)?;
        self.measured().restore(sections)?;
        self.rows_before = self.losses.rows();
        let mut passed = 0;
        while passed < self.rows_before {
            let Some(batch) = loader.next()? else { break };
            passed += batch.rows as u64;
            loader.recycle(batch);
        }
        if passed != self.rows_before {
            let rows = self.rows_before;
            let what =
                format!("the snapshot was taken after {rows} rows, and these data have a batch's end at {passed}");
            return Err(TrainError::Config(format!("{what}: they are not what was trained on")).into());
        }
        (self.started, self.window_started) = (Instant::now(), Instant::now());
        Ok(())
    }

    /// Begins a snapshot if one is due and can begin now.
    fn checkpoint(&mut self, model: &Dlrm, checkpoints: &mut dyn Checkpoints) -> Result<(), RunError> {
        let Some(steps) = self.checkpoint_steps else { return Ok(()) };
        self.since_checkpoint += 1;
        if self.since_checkpoint < steps || !checkpoints.is_ready() {
            return Ok(());
        }
        if let Some(snapshot) = self.store.try_snapshot(SnapshotKind::Full).map_err(TrainError::Store)? {
            self.save(snapshot, model, checkpoints);
        }
        Ok(())
    }

    /// A snapshot of the end, unless the last one is of it.
    fn last_checkpoint(&mut self, model: &Dlrm, checkpoints: &mut dyn Checkpoints) -> Result<(), RunError> {
        if self.checkpoint_steps.is_some() && self.since_checkpoint > 0 {
            checkpoints.wait();
            let snapshot = self.store.snapshot(SnapshotKind::Full).map_err(TrainError::Store)?;
            self.save(snapshot, model, checkpoints);
        }
        Ok(())
    }

    fn save(&mut self, mut snapshot: LiveSnapshot, model: &Dlrm, checkpoints: &mut dyn Checkpoints) {
        self.since_checkpoint = 0;
        let mut sections = model.sections();
        sections.extend(self.measured().sections());
        snapshot.extend([], sections);
        checkpoints.save(snapshot);
    }

    /// The one pass over the stream.
    fn train(
        &mut self,
        model: &mut Dlrm,
        loader: &mut Loader,
        stop: &AtomicBool,
        on_window: &mut dyn FnMut(&Window),
        checkpoints: &mut dyn Checkpoints,
    ) -> Result<(), RunError> {
        let mut logits = Vec::new();
        loop {
            // Relaxed: the flag alone matters, it publishes no other data.
            if stop.load(Ordering::Relaxed) {
                self.interrupted = true;
                return Ok(());
            }
            let asked = Instant::now();
            let next = loader.next();
            self.times.add(Phase::Read, asked.elapsed());
            let Some(batch) = next? else {
                return Ok(());
            };
            model.train_step(self.store, &batch, &mut logits)?;
            let trained = Instant::now();
            self.window.add(&logits, &batch.labels);
            self.losses.add(&logits, &batch.labels);
            self.histogram.add(&logits, &batch.labels);
            loader.recycle(batch);
            if self.window.rows() >= self.window_rows {
                self.close_window(on_window);
            }
            self.buffer_bytes = self.buffer_bytes.max(model.buffer_bytes() + loader.buffer_bytes());
            self.times.add(Phase::Metrics, trained.elapsed());
            self.checkpoint(model, checkpoints)?;
        }
    }

    /// Reports the open window, unless it has no rows.
    fn close_window(&mut self, on_window: &mut dyn FnMut(&Window)) {
        let rows = self.window.rows();
        if rows == 0 {
            return;
        }
        let stats = self.store.stats();
        let Metrics { auc, logloss, ne } = self.window.metrics();
        on_window(&Window {
            rows_seen: self.losses.rows(),
            rows,
            auc,
            logloss,
            ne,
            progressive: self.progressive(),
            budget: stats.budget,
            held: stats.held,
            peak: stats.peak,
            rows_live: stats.rows,
            chunks_live: stats.chunks,
            live_dims: stats.tables.iter().map(mean_live_dims).collect(),
            events: stats.events,
            samples_per_s: rate(rows, self.window_started.elapsed().as_secs_f64()),
        });
        self.window.clear();
        self.windows += 1;
        self.window_started = Instant::now();
    }

    /// Scores the held-out tail; a set stop flag leaves it unscored.
    fn score_holdout(&mut self, model: &mut Dlrm, loader: &mut Loader, stop: &AtomicBool) -> Result<(), RunError> {
        let mut logits = Vec::new();
        let batches = loader.holdout();
        self.holdout_bytes = batches.iter().map(Batch::bytes).sum();
        for batch in &batches {
            if stop.load(Ordering::Relaxed) {
                self.interrupted = true;
                self.heldout.clear(); // part of a tail is no held-out figure
                return Ok(());
            }
            model.forward(self.store, batch, &mut logits)?;
            self.heldout.add(&logits, &batch.labels);
        }
        Ok(())
    }

    fn progressive(&self) -> Metrics {
        Metrics { auc: self.histogram.auc(), logloss: self.losses.log_loss(), ne: self.losses.normalized_entropy() }
    }

    fn into_report(self, model: &Dlrm, loader: &Loader) -> RunReport {
        let metric_bytes = self.window.bytes() + self.heldout.bytes() + self.histogram.bytes();
        RunReport {
            rows: self.losses.rows(),
            holdout_rows: self.heldout.rows(),
            heldout: self.heldout.metrics(),
            progressive: self.progressive(),
            ctr: self.losses.ctr(),
            samples_per_s: rate(self.losses.rows() - self.rows_before, self.train_s),
            times: self.times,
            train_s: self.train_s,
            wall_s: self.started.elapsed().as_secs_f64(),
            windows: self.windows,
            interrupted: self.interrupted,
            skipped_lines: loader.skipped(),
            store: self.store.stats(),
            model_bytes: model.parameter_bytes(),
            buffer_bytes: self.buffer_bytes + self.holdout_bytes + metric_bytes,
        }
    }
}

/// Mean live dimensions of a table's rows; 0 without rows. A last chunk shorter than the others counts in full, up to
/// the table's dimension.
pub fn mean_live_dims(table: &TableStats) -> f64 {
    if table.rows == 0 {
        return 0.0;
    }
    let dims: u64 = table
        .dims_histogram
        .iter()
        .enumerate()
        .map(|(chunks, rows)| rows * (chunks * table.chunk_dim).min(table.dim) as u64)
        .sum();
    dims as f64 / table.rows as f64
}

/// Rows per second; 0 when no time passed.
fn rate(rows: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { rows as f64 / seconds } else { 0.0 }
}
