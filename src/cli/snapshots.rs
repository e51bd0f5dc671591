//! `dimslab inspect`, `verify`, `compact` and `export` of checkpoints and serving files.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::cli::error::CliError;
use crate::cli::{Ended, print};
use crate::report::{human_bytes, human_count};
use crate::serving::{self, Dtype, Tables};
use crate::snapshot::{Directory, RowBlock, Snapshot, SnapshotError};

/// Flags of `export`.
#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// Directory that `train --out` wrote, a directory of checkpoints, or one checkpoint
    checkpoint: PathBuf,
    /// File to write, for `dimslab predict` and `dimslab::serving`
    #[arg(long, value_name = "FILE")]
    serve: PathBuf,
    /// How weights are stored
    #[arg(long, value_enum, default_value_t = DtypeName::F32)]
    dtype: DtypeName,
    /// Replace the file even if it is no serving file
    #[arg(long)]
    force: bool,
}

/// Names of [`Dtype`].
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum DtypeName {
    F32,
    F16,
    Bf16,
    Int8,
}

fn failed(error: SnapshotError) -> CliError {
    CliError::snapshot(&error)
}

/// Whether a directory is a checkpoint or one of checkpoints.
pub(crate) fn is_checkpoint(path: &Path) -> bool {
    path.join("manifest.json").is_file() || path.join("LATEST").is_file()
}

/// Prints the latest checkpoint: what it consists of, its tables, how many dimensions its rows have.
pub(crate) fn inspect(path: &Path) -> Result<Ended, CliError> {
    let snapshot = Snapshot::open(path).map_err(failed)?;
    let manifest = snapshot.manifest();
    let mut parts =
        print::table(&["checkpoint", "step", "rows", "chunks", "tombstones", "bytes of rows", "of sections"]);
    for part in snapshot.parts() {
        let sum = |of: fn(&crate::snapshot::Counts) -> u64| human_count(part.counts().iter().map(of).sum());
        let (rows, sections) = part.bytes();
        let name = part.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        parts.add_row([
            name,
            part.step().to_string(),
            sum(|counts| counts.rows),
            sum(|counts| counts.chunks),
            sum(|counts| counts.tombstones),
            human_bytes(rows),
            human_bytes(sections),
        ]);
    }
    print::line(&format!(
        "step {}, {} tables, checksum {:016x}",
        manifest.step,
        manifest.tables.len(),
        snapshot.checksum()
    ))?;
    print::line(&parts.to_string())?;
    print::line(&tables(&snapshot).map_err(failed)?)?;
    let mut sections = print::table(&["section", "shape", "bytes"]);
    for section in snapshot.sections().map_err(failed)? {
        let bytes = human_bytes(section.data.bytes() as u64);
        sections.add_row([section.name.clone(), format!("{:?}", section.shape), bytes]);
    }
    print::line(&sections.to_string())?;
    Ok(Ended::Whole)
}

/// Live rows of each table, and by the part of their chunks that is live.
fn tables(snapshot: &Snapshot) -> Result<String, SnapshotError> {
    const QUARTERS: [&str; 4] = ["to 1/4", "to 1/2", "to 3/4", "to whole"];
    let configs = &snapshot.manifest().tables;
    // Rows, live dimensions, rows by quarters of the dimension.
    let mut figures = vec![(0u64, 0u64, [0u64; 4]); configs.len()];
    let (mut blocks, mut block) = (snapshot.blocks(), RowBlock::default());
    while blocks.next(&mut block)? {
        let (config, figures) = (&configs[block.table], &mut figures[block.table]);
        for row in block.rows(config) {
            let live = row.ordinals.iter().map(|&ordinal| {
                let start = usize::from(ordinal) * config.chunk_dims();
                config.chunk_dims().min(config.dim() - start)
            });
            figures.0 += 1;
            figures.1 += live.sum::<usize>() as u64;
            figures.2[(row.ordinals.len() * 4).div_ceil(config.chunks()).clamp(1, 4) - 1] += 1;
        }
    }
    let mut header = vec!["table", "rows", "mean dims"];
    header.extend(QUARTERS);
    let mut table = print::table(&header);
    for (config, (rows, dims, quarters)) in configs.iter().zip(figures) {
        let mean = dims as f64 / rows.max(1) as f64;
        let mut cells = vec![config.name().to_owned(), human_count(rows), format!("{mean:.2} of {}", config.dim())];
        cells.extend(quarters.map(human_count));
        table.add_row(cells);
    }
    Ok(table.to_string())
}

/// Prints what a serving file holds.
pub(crate) fn inspect_serving(path: &Path) -> Result<Ended, CliError> {
    let tables = Tables::open(path).map_err(failed)?;
    let mut lines = print::table(&["table", "rows", "dim"]);
    for position in 0..tables.len() {
        let table = tables.table_at(position);
        lines.add_row([table.name().to_owned(), human_count(table.rows()), table.dim().to_string()]);
    }
    let (step, kind, bytes) = (tables.manifest().step, tables.dtype(), human_bytes(tables.bytes()));
    print::line(&format!("serving file of step {step}, {kind:?}, {bytes}, of checkpoint {:016x}", tables.checksum()))?;
    print::line(&lines.to_string())?;
    Ok(Ended::Whole)
}

/// Reads everything and checks it.
pub(crate) fn verify(path: &Path) -> Result<Ended, CliError> {
    let began = Instant::now();
    let (what, bytes) = if path.is_file() {
        let tables = Tables::open(path).map_err(failed)?;
        tables.verify().map_err(failed)?;
        ("serving file".to_owned(), tables.bytes())
    } else {
        let snapshot = Snapshot::open(path).map_err(failed)?;
        let bytes = snapshot.verify().map_err(failed)?;
        (format!("checkpoint of step {} in {} parts", snapshot.manifest().step, snapshot.parts().len()), bytes)
    };
    print::line(&format!("{what} is whole: {} in {:.2} s", human_bytes(bytes), began.elapsed().as_secs_f64()))?;
    Ok(Ended::Whole)
}

/// Folds the latest chain.
pub(crate) fn compact(dir: &Path) -> Result<Ended, CliError> {
    let path = if is_checkpoint(&dir.join("checkpoint")) { dir.join("checkpoint") } else { dir.to_owned() };
    if !path.join("LATEST").is_file() {
        return Err(CliError::input(format!("{} is no directory of checkpoints: it has no LATEST", dir.display())));
    }
    let directory = Directory::create(&path).map_err(failed)?;
    let text = match directory.compact().map_err(failed)? {
        Some(saved) => format!("{}: {}", saved.path.display(), human_bytes(saved.bytes)),
        None => "the latest checkpoint is in one part already".to_owned(),
    };
    print::line(&text)?;
    Ok(Ended::Whole)
}

/// Writes a serving file.
pub(crate) fn export(args: &ExportArgs) -> Result<Ended, CliError> {
    let serve = &args.serve;
    if serve.exists() && !args.force && Tables::open(serve).is_err() {
        let path = serve.display();
        let what = format!("{path} is there and is no serving file: choose another place, or --force to replace it");
        return Err(CliError::input(what));
    }
    let snapshot = Snapshot::open(&args.checkpoint).map_err(failed)?;
    let dtype = match args.dtype {
        DtypeName::F32 => Dtype::F32,
        DtypeName::F16 => Dtype::F16,
        DtypeName::Bf16 => Dtype::Bf16,
        DtypeName::Int8 => Dtype::Int8,
    };
    let exported = serving::export(&snapshot, serve, dtype).map_err(failed)?;
    let (path, rows, bytes) = (serve.display(), human_count(exported.rows), human_bytes(exported.bytes));
    print::line(&format!("{path}: {rows} rows, {} chunks, {bytes}", human_count(exported.chunks)))?;
    Ok(Ended::Whole)
}
