//! The content of `report.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Events;
use crate::TableStats;
use crate::dlrm::metrics::Metrics;
use crate::dlrm::run::{RunReport, mean_live_dims};
use crate::report::ProcessMemory;

/// Fields of a report that depend on time or on the machine. All others are the same between runs of one seed on the
/// same data in deterministic mode, whatever the number of threads.
const VARIES: [&str; 5] = ["samples_per_s", "wall_s", "threads", "process", "bytes.resident"];

/// A run, as `report.json` has it. A figure that the rows do not define is `null`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Program and version that wrote the report.
    pub program: String,
    /// Rows trained on.
    pub rows: u64,
    /// Rows held out and scored at the end.
    pub holdout_rows: u64,
    /// Held-out AUC.
    pub auc: Option<f64>,
    /// Held-out AUC of the law that labelled the embedded stream: what no model can beat but by chance.
    pub reachable_auc: Option<f64>,
    /// Held-out log-loss in nats.
    pub logloss: Option<f64>,
    /// Held-out normalised entropy.
    pub ne: Option<f64>,
    /// The same over all training rows, each scored before it was trained on.
    pub progressive: Metrics,
    /// Share of positive training rows.
    pub ctr: Option<f64>,
    /// Training rows per second.
    pub samples_per_s: f64,
    /// Seconds of the whole run.
    pub wall_s: f64,
    /// Seed of the weights and of the embedded stream.
    pub seed: u64,
    /// Threads of the trainer.
    pub threads: usize,
    /// Bytes of the store.
    pub bytes: Bytes,
    /// Rows with at least one chunk.
    pub rows_live: u64,
    /// Chunks in rows.
    pub chunks_live: u64,
    /// Live dimensions of a row -> rows, over all tables.
    pub dims_histogram: BTreeMap<usize, u64>,
    /// Rows that moved.
    pub events: Events,
    /// Whether the run was stopped early.
    pub interrupted: bool,
    /// The error that ended the run early.
    pub error: Option<String>,
    /// Malformed lines passed over.
    pub skipped_lines: u64,
    /// Windows in `metrics.jsonl`.
    pub windows: u64,
    /// Memory of the process.
    pub process: ProcessReport,
    /// Per table, in the order of the columns.
    pub tables: Vec<TableReport>,
    /// The resolved configuration.
    pub config: serde_json::Value,
    /// The fields that depend on time or on the machine.
    pub varies: Vec<String>,
}

/// Bytes of the store, in an allocator's words.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Bytes {
    /// The hard limit.
    pub budget: u64,
    /// Most bytes held at any moment.
    pub peak: u64,
    /// Bytes held at the end, of every kind.
    pub held: u64,
    /// Bytes of the store's memory that are resident.
    pub resident: u64,
    /// Bytes of live chunks.
    pub allocated: u64,
    /// Bytes of superblocks with live chunks.
    pub active: u64,
    /// Address space reserved and not in use; no part of `held`.
    pub retained: u64,
    /// Free chunks of superblocks in use.
    pub free: u64,
    /// Chunks that wait for their last reader.
    pub retired: u64,
    /// Weights of live chunks.
    pub weights: u64,
    /// Their optimizer state.
    pub optimizer: u64,
    /// Directory, chain links, utilities and all else that is no payload.
    pub metadata: u64,
    /// The admission sketch.
    pub sketch: u64,
}

/// Memory of the process beside the store, in bytes.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct ProcessReport {
    /// Resident before the store, the model and the reader were made.
    pub resident_before: Option<u64>,
    /// Most resident at once during the run.
    pub resident_peak: Option<u64>,
    /// Resident at the end.
    pub resident_now: Option<u64>,
    /// The model's parameters with their optimizer state.
    pub model_bytes: u64,
    /// Batches, activations and rows kept for metrics.
    pub buffer_bytes: u64,
}

/// One table at the end of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TableReport {
    /// The column's name.
    pub name: String,
    /// Dimensions of a full row.
    pub dim: usize,
    /// Dimensions of a chunk.
    pub chunk: usize,
    /// Live rows.
    pub rows: u64,
    /// Live chunks.
    pub chunks: u64,
    /// Mean live dimensions of a row.
    pub mean_dims: f64,
    /// Live dimensions of a row -> rows.
    pub dims_histogram: BTreeMap<usize, u64>,
    /// Rows that moved.
    pub events: Events,
}

/// What a report needs beside the run's own account.
#[derive(Debug, Clone)]
pub(crate) struct ReportContext {
    /// Seed of the run.
    pub seed: u64,
    /// Threads of the trainer.
    pub threads: usize,
    /// The resolved configuration.
    pub config: serde_json::Value,
    /// Held-out AUC of the law that labelled the stream, where it is known.
    pub reachable_auc: Option<f64>,
    /// Memory of the process before the store was made.
    pub before: ProcessMemory,
    /// Memory of the process after the run.
    pub after: ProcessMemory,
}

impl Report {
    /// The report of a run; `error` is what ended it early.
    pub(crate) fn new(run: &RunReport, context: &ReportContext, error: Option<String>) -> Report {
        let tables: Vec<TableReport> = run.store.tables.iter().map(TableReport::new).collect();
        let mut dims_histogram = BTreeMap::new();
        for (dims, rows) in tables.iter().flat_map(|table| &table.dims_histogram) {
            *dims_histogram.entry(*dims).or_insert(0) += rows;
        }
        Report {
            program: concat!("dimslab ", env!("CARGO_PKG_VERSION")).to_owned(),
            rows: run.rows,
            holdout_rows: run.holdout_rows,
            auc: run.heldout.auc,
            reachable_auc: context.reachable_auc.filter(|_| run.heldout.auc.is_some()),
            logloss: run.heldout.logloss,
            ne: run.heldout.ne,
            progressive: run.progressive,
            ctr: run.ctr,
            samples_per_s: run.samples_per_s,
            wall_s: run.wall_s,
            seed: context.seed,
            threads: context.threads,
            bytes: Bytes::new(run),
            rows_live: run.store.rows,
            chunks_live: run.store.chunks,
            dims_histogram,
            events: run.store.events,
            interrupted: run.interrupted,
            error,
            skipped_lines: run.skipped_lines,
            windows: run.windows,
            process: ProcessReport {
                resident_before: context.before.resident,
                resident_peak: context.after.peak,
                resident_now: context.after.resident,
                model_bytes: run.model_bytes,
                buffer_bytes: run.buffer_bytes,
            },
            tables,
            config: context.config.clone(),
            varies: VARIES.map(str::to_owned).to_vec(),
        }
    }

    /// Held-out figures as one value.
    pub(crate) fn heldout(&self) -> Metrics {
        Metrics { auc: self.auc, logloss: self.logloss, ne: self.ne }
    }
}

impl Bytes {
    fn new(run: &RunReport) -> Bytes {
        let stats = &run.store;
        Bytes {
            budget: stats.budget,
            peak: stats.peak,
            held: stats.held,
            resident: stats.resident,
            allocated: stats.allocated,
            active: stats.active,
            retained: stats.retained,
            free: stats.free,
            retired: stats.retired,
            weights: stats.weights,
            optimizer: stats.optimizer,
            metadata: stats.metadata,
            sketch: stats.sketch,
        }
    }
}

impl TableReport {
    fn new(table: &TableStats) -> TableReport {
        let by_dims =
            |(chunks, &rows): (usize, &u64)| (rows > 0).then(|| ((chunks * table.chunk_dim).min(table.dim), rows));
        TableReport {
            name: table.name.clone(),
            dim: table.dim,
            chunk: table.chunk_dim,
            rows: table.rows,
            chunks: table.chunks,
            mean_dims: mean_live_dims(table),
            dims_histogram: table.dims_histogram.iter().enumerate().filter_map(by_dims).collect(),
            events: table.events,
        }
    }
}
