//! What a run leaves behind: `metrics.jsonl`, `report.json` and `report.html` in one directory.
//!
//! | file | content |
//! |---|---|
//! | `metrics.jsonl` | one [`Window`](crate::dlrm::run::Window) a line, written as it happens |
//! | `report.json` | one [`Report`], written at the end, whole or not at all |
//! | `report.html` | the same with curves; one file without scripts, readable offline |
//!
//! In deterministic mode two runs of the same seed and data leave the same `report.json`, on any number of threads,
//! but for the fields listed in its `varies`: times, the number of threads, and what the operating system counts.

mod chart;
mod curves;
mod dir;
mod html;
mod process;
pub(crate) mod study;
mod summary;
mod text;

pub(crate) use dir::{CHECKPOINT, FULL_SIZE, OutError, RunDir};
pub(crate) use process::{ProcessMemory, process_memory, reset_process_peak};
pub(crate) use summary::{Report, ReportContext, TableReport};
pub(crate) use text::{human_bytes, human_count};
