//! The `dimslab` command: `train`, `compare`, `generate`, `inspect`, `verify`, `compact`, `export`, `predict` and `soak`.
//!
//! Exit codes: 0 success; 2 flags, configuration or data at fault; 1 anything else that failed; 130 interrupted.

mod checkpoint;
mod compare;
mod error;
mod inspect;
mod predict;
mod print;
mod profile;
mod progress;
mod resolved;
mod settings;
mod signal;
mod snapshots;
mod soak;
mod source;
mod train;
mod values;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::cli::error::CliError;
use crate::cli::settings::Settings;

/// Exit code after Ctrl-C, as shells have it: 128 and the number of the signal.
const INTERRUPTED: u8 = 130;

/// Train click models with embeddings in a hard memory budget
#[derive(Debug, Parser)]
#[command(name = "dimslab", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a DLRM on a click log, or on the embedded stream
    ///
    /// Without --data and --policy: the embedded stream twice, at full size and in a tenth of its bytes, and a table
    /// of the two.
    Train(Box<TrainArgs>),
    /// Compare embedding methods at equal bytes
    ///
    /// Every method, ratio and seed is a trial of one pass on one thread: the same model, the same batches. Prints tables
    /// of means over seeds with 95 % intervals and writes them, and a page with charts, to --out.
    Compare(Box<compare::CompareArgs>),
    /// Write the embedded stream to a file in Criteo's format
    Generate(GenerateArgs),
    /// Print a run, a checkpoint or a serving file
    Inspect {
        /// Directory that `train --out` wrote, a directory of checkpoints, one checkpoint, or a serving file
        path: PathBuf,
    },
    /// Read a checkpoint or a serving file whole and check every checksum
    Verify {
        /// As for `inspect`
        path: PathBuf,
    },
    /// Fold the latest checkpoint and those it is an increment of into one
    Compact {
        /// Directory of checkpoints, with LATEST in it
        dir: PathBuf,
    },
    /// Write a checkpoint's rows and model to one file to serve from
    Export(snapshots::ExportArgs),
    /// Score the rows of data files with a serving file
    Predict(predict::PredictArgs),
    /// Use a store from several threads at random and check its invariants
    ///
    /// Exits with 1 at the first broken invariant and tells the seed, the thread and its operation.
    Soak(soak::SoakArgs),
}

#[derive(Debug, clap::Args)]
struct TrainArgs {
    #[command(flatten)]
    settings: Settings,
    /// TOML file with these flags as keys; a flag beats the file
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Go on with a run of --checkpoint-every from its latest snapshot, with the settings it had
    #[arg(long, value_name = "DIR", conflicts_with_all = ["Settings", "config"])]
    resume: Option<PathBuf>,
    /// Print the settings as TOML and stop
    #[arg(long)]
    print_config: bool,
    /// Print a line for each window
    #[arg(long, short)]
    verbose: bool,
    /// Print where the time went, and the machine's limits measured beside it
    #[arg(long)]
    profile: bool,
}

#[derive(Debug, clap::Args)]
struct GenerateArgs {
    /// Rows to write
    #[arg(long, value_name = "N", default_value_t = settings::defaults::EMBEDDED_ROWS)]
    rows: u64,
    /// Seed of the stream
    #[arg(long, value_name = "N", default_value_t = settings::defaults::SEED)]
    seed: u64,
    /// File to write, compressed if it ends in .gz or .zst; - for standard output
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Overwrite the file if it is there already
    #[arg(long)]
    force: bool,
}

/// How a command that did not fail ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Whole,
    Interrupted,
}

/// Runs the command that the process's arguments name.
pub fn main() -> ExitCode {
    let ended = match Cli::parse().command {
        Command::Train(args) => train::command(*args),
        Command::Compare(args) => compare::command(&args),
        Command::Generate(args) => source::generate(&args),
        Command::Inspect { path } => inspect::command(&path),
        Command::Verify { path } => snapshots::verify(&path),
        Command::Compact { dir } => snapshots::compact(&dir),
        Command::Export(args) => snapshots::export(&args),
        Command::Predict(args) => predict::command(&args),
        Command::Soak(args) => soak::command(&args),
    };
    match ended {
        Ok(Ended::Whole) => ExitCode::SUCCESS,
        Ok(Ended::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            if !matches!(error, CliError::ClosedOutput) {
                // Nothing is left to do where even the error cannot be told.
                let _ = writeln!(io::stderr(), "error: {error}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}
