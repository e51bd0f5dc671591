//! `dimslab inspect PATH`: a run from the files it wrote, or what `snapshots` prints.

use std::path::Path;

use crate::cli::error::CliError;
use crate::cli::{Ended, print, snapshots};
use crate::dlrm::run::Window;
use crate::report::{FULL_SIZE, Report, RunDir, human_bytes, human_count};

/// Most windows that are printed.
const WINDOWS_SHOWN: usize = 12;

/// Prints a run with its latest checkpoint, a checkpoint, or a serving file.
pub(crate) fn command(path: &Path) -> Result<Ended, CliError> {
    if path.is_file() {
        return snapshots::inspect_serving(path);
    }
    if snapshots::is_checkpoint(path) {
        return snapshots::inspect(path);
    }
    run(path)?;
    let checkpoint = path.join("checkpoint");
    if snapshots::is_checkpoint(&checkpoint) { snapshots::inspect(&checkpoint) } else { Ok(Ended::Whole) }
}

/// Prints the run in `dir`, beside the full-size run of a comparison if there is one.
fn run(dir: &Path) -> Result<(), CliError> {
    let report = RunDir::read_report(dir).map_err(CliError::input)?;
    let windows = RunDir::read_windows(dir).map_err(CliError::input)?;
    let full = dir.join(FULL_SIZE);
    print::line(&headline(&report))?;
    if full.is_dir() {
        let full = RunDir::read_report(&full).map_err(CliError::input)?;
        print::line(&print::comparison_table(&full, &report).to_string())?;
    } else {
        print::line(&print::run_table("run", &report).to_string())?;
    }
    print::line(&print::memory_lines(&report))?;
    print::line(&tables(&report))?;
    if !windows.is_empty() {
        print::line(&curve(&windows))?;
    }
    Ok(())
}

fn headline(report: &Report) -> String {
    let text = |key: &str| report.config[key].as_str().unwrap_or("?").to_owned();
    let mut line = format!(
        "{}: policy {}, {} training rows, seed {}, {} threads, {:.1} s",
        report.program,
        text("policy"),
        human_count(report.rows),
        report.seed,
        report.threads,
        report.wall_s
    );
    if let Some(error) = &report.error {
        line += &format!("; ended early by an error: {error}");
    } else if report.interrupted {
        line += "; interrupted";
    }
    line
}

fn tables(report: &Report) -> String {
    let mut table = print::table(&["table", "rows", "mean dims", "admitted", "grown", "shrunk", "evicted", "refused"]);
    for t in &report.tables {
        let moves = &t.events;
        let mut cells = vec![t.name.clone(), human_count(t.rows), format!("{:.2} of {}", t.mean_dims, t.dim)];
        let counts = [moves.admitted, moves.grown, moves.shrunk, moves.evicted, moves.refused];
        cells.extend(counts.map(human_count));
        table.add_row(cells);
    }
    table.to_string()
}

fn curve(windows: &[Window]) -> String {
    let mut table = print::table(&["rows seen", "AUC", "log-loss", "AUC so far", "held", "live rows", "samples/s"]);
    let shown = windows.len().min(WINDOWS_SHOWN);
    for i in 1..=shown {
        let window = &windows[i * windows.len() / shown - 1];
        table.add_row([
            human_count(window.rows_seen),
            print::figure(window.auc),
            print::figure(window.logloss),
            print::figure(window.progressive.auc),
            human_bytes(window.held),
            human_count(window.rows_live),
            human_count(window.samples_per_s.round() as u64),
        ]);
    }
    table.to_string()
}
