//! Runs as text: the table that `train` ends with, and the lines about memory.

use std::io::{self, Write};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use crate::cli::error::CliError;
use crate::report::{Report, human_bytes, human_count};

/// Writes `text` and a line break to standard output.
pub(crate) fn line(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|error| CliError::printing(&error))
}

/// An empty table of the command's style: the first column to the left, the others to the right.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A figure that the rows may not define.
pub(crate) fn figure(value: Option<f64>) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), |value| format!("{value:.4}"))
}

/// One line of a run table: its name, a run's cell, and how two runs compare.
struct Quantity {
    name: &'static str,
    cell: fn(&Report) -> String,
    compare: fn(full: &Report, budgeted: &Report) -> String,
}

impl Quantity {
    /// Whether there is anything to say: a run without a held-out tail has no such figures.
    fn is_known(&self, report: &Report) -> bool {
        (self.cell)(report) != UNKNOWN
    }
}

/// Stands for a figure that the rows do not define.
const UNKNOWN: &str = "–";

const NOTHING: fn(&Report, &Report) -> String = |_, _| String::new();

const QUANTITIES: [Quantity; 14] = [
    Quantity {
        name: "bytes held",
        cell: |r| human_bytes(r.bytes.held),
        compare: |a, b| percent(a.bytes.held, b.bytes.held),
    },
    Quantity {
        name: "bytes at peak",
        cell: |r| human_bytes(r.bytes.peak),
        compare: |a, b| percent(a.bytes.peak, b.bytes.peak),
    },
    Quantity { name: "budget", cell: |r| human_bytes(r.bytes.budget), compare: NOTHING },
    Quantity {
        name: "live rows",
        cell: |r| human_count(r.rows_live),
        compare: |a, b| percent(a.rows_live, b.rows_live),
    },
    Quantity { name: "mean dimensions of a row", cell: mean_dims, compare: NOTHING },
    Quantity { name: "held-out AUC", cell: |r| figure(r.auc), compare: |a, b| difference(a.auc, b.auc) },
    Quantity { name: "reachable held-out AUC", cell: |r| figure(r.reachable_auc), compare: NOTHING },
    Quantity {
        name: "held-out log-loss",
        cell: |r| figure(r.logloss),
        compare: |a, b| difference(a.logloss, b.logloss),
    },
    Quantity { name: "held-out NE", cell: |r| figure(r.ne), compare: |a, b| difference(a.ne, b.ne) },
    Quantity {
        name: "progressive AUC",
        cell: |r| figure(r.progressive.auc),
        compare: |a, b| difference(a.progressive.auc, b.progressive.auc),
    },
    Quantity {
        name: "progressive log-loss",
        cell: |r| figure(r.progressive.logloss),
        compare: |a, b| difference(a.progressive.logloss, b.progressive.logloss),
    },
    Quantity {
        name: "progressive NE",
        cell: |r| figure(r.progressive.ne),
        compare: |a, b| difference(a.progressive.ne, b.progressive.ne),
    },
    Quantity { name: "training rows", cell: |r| human_count(r.rows), compare: NOTHING },
    Quantity {
        name: "samples/s",
        cell: |r| human_count(r.samples_per_s.round() as u64),
        compare: |a, b| times(a.samples_per_s, b.samples_per_s),
    },
];

/// The table of one run.
pub(crate) fn run_table(title: &str, report: &Report) -> Table {
    let mut table = table(&["", title]);
    for Quantity { name, cell, .. } in QUANTITIES.iter().filter(|quantity| quantity.is_known(report)) {
        table.add_row([(*name).to_owned(), cell(report)]);
    }
    table
}

/// The table of a full-size run against a budgeted one.
pub(crate) fn comparison_table(full: &Report, budgeted: &Report) -> Table {
    let mut table = table(&["", "full-size", "budgeted", "budgeted to full-size"]);
    for Quantity { name, cell, compare } in &QUANTITIES {
        table.add_row([(*name).to_owned(), cell(full), cell(budgeted), compare(full, budgeted)]);
    }
    table
}

/// What the process held beside the store, and whether it stayed within the budget and its own buffers.
pub(crate) fn memory_lines(report: &Report) -> String {
    let bytes = |value: Option<u64>| value.map_or("unknown".to_owned(), human_bytes);
    let process = &report.process;
    let mut text = format!(
        "store    held {}, peak {}, budget {}\n\
         process  resident before the store {}, at peak {}, now {}\n\
         trainer  model {}, batches and buffers {}",
        human_bytes(report.bytes.held),
        human_bytes(report.bytes.peak),
        human_bytes(report.bytes.budget),
        bytes(process.resident_before),
        bytes(process.resident_peak),
        bytes(process.resident_now),
        human_bytes(process.model_bytes),
        human_bytes(process.buffer_bytes),
    );
    if let (Some(before), Some(peak)) = (process.resident_before, process.resident_peak) {
        let growth = peak.saturating_sub(before);
        let allowed = report.bytes.budget + process.model_bytes + process.buffer_bytes;
        text += &format!(
            "\ngrowth   {} at peak; budget, model and buffers allow {}",
            human_bytes(growth),
            human_bytes(allowed)
        );
    }
    text
}

fn mean_dims(report: &Report) -> String {
    let (dims, rows) = report
        .dims_histogram
        .iter()
        .fold((0.0, 0.0), |(d, r), (&dims, &rows)| (d + dims as f64 * rows as f64, r + rows as f64));
    if rows > 0.0 { format!("{:.2}", dims / rows) } else { UNKNOWN.to_owned() }
}

fn percent(full: u64, budgeted: u64) -> String {
    if full == 0 {
        return String::new();
    }
    format!("{:.1} %", 100.0 * budgeted as f64 / full as f64)
}

fn difference(full: Option<f64>, budgeted: Option<f64>) -> String {
    match (full, budgeted) {
        (Some(full), Some(budgeted)) => format!("{:+.4}", budgeted - full),
        _ => String::new(),
    }
}

fn times(full: f64, budgeted: f64) -> String {
    if full > 0.0 { format!("{:.2}x", budgeted / full) } else { String::new() }
}
