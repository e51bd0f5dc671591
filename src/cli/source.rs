//! Where rows come from: data files or the embedded stream; and `dimslab generate`, which writes that stream.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use flate2::write::GzEncoder;

use crate::cli::error::CliError;
use crate::cli::resolved::Resolved;
use crate::cli::settings::defaults;
use crate::cli::values::Format;
use crate::cli::{Ended, GenerateArgs};
use crate::data::{
    Columns, CriteoReader, CsvReader, DataError, Generator, GeneratorConfig, Loader, Row, RowSource, Schema,
};

/// The rows that `settings` name, on their reader thread.
pub(crate) fn loader(settings: &Resolved) -> Result<Loader, CliError> {
    let source = source(settings)?;
    Loader::spawn(source, settings.batch, settings.holdout).map_err(CliError::input)
}

fn source(settings: &Resolved) -> Result<Box<dyn RowSource>, CliError> {
    if settings.data.is_empty() {
        return Ok(Box::new(embedded(settings)?));
    }
    let source = files(&settings.data, settings.format, settings.columns.as_deref(), settings.skip_bad_lines)?;
    Ok(match settings.rows {
        Some(rows) => Box::new(Limited { source, left: rows }),
        None => source,
    })
}

/// The rows of data files.
pub(crate) fn files(
    data: &[PathBuf],
    format: Format,
    columns: Option<&str>,
    bad_lines: u64,
) -> Result<Box<dyn RowSource>, CliError> {
    Ok(match format {
        Format::Criteo => {
            let reader = CriteoReader::open(data).map_err(CliError::input)?;
            Box::new(reader.skip_bad_lines(bad_lines))
        }
        Format::Csv => {
            let columns = Columns::from_argument(columns.unwrap_or_default()).map_err(CliError::input)?;
            let reader = CsvReader::open(data, &columns).map_err(CliError::input)?;
            Box::new(reader.skip_bad_lines(bad_lines))
        }
    })
}

fn embedded(settings: &Resolved) -> Result<Generator, CliError> {
    let rows = settings.rows.unwrap_or(defaults::EMBEDDED_ROWS);
    let config = GeneratorConfig::default().seed(settings.seed).rows(rows);
    Generator::new(config).map_err(CliError::input)
}

/// Held-out AUC of the law that labelled the embedded stream; `None` for files and without a held-out tail.
pub(crate) fn reachable_auc(settings: &Resolved) -> Result<Option<f64>, CliError> {
    let rows = settings.rows.unwrap_or(defaults::EMBEDDED_ROWS);
    if !settings.data.is_empty() || settings.holdout == 0 {
        return Ok(None);
    }
    let auc = embedded(settings)?.teacher_auc(rows - settings.holdout as u64..rows);
    Ok(auc.is_finite().then_some(auc))
}

/// The first rows of a source.
struct Limited {
    source: Box<dyn RowSource>,
    left: u64,
}

impl RowSource for Limited {
    fn schema(&self) -> &Schema {
        self.source.schema()
    }

    fn next_row(&mut self, row: &mut Row) -> Result<bool, DataError> {
        if self.left == 0 {
            return Ok(false);
        }
        self.left -= 1;
        self.source.next_row(row)
    }

    fn skipped(&self) -> u64 {
        self.source.skipped()
    }

    fn time_range(&self) -> Option<(i64, i64)> {
        self.source.time_range()
    }

    fn buffer_bytes(&self) -> u64 {
        self.source.buffer_bytes()
    }
}

/// `dimslab generate`: the embedded stream in Criteo's format.
pub(crate) fn generate(args: &GenerateArgs) -> Result<Ended, CliError> {
    let config = GeneratorConfig::default().seed(args.seed).rows(args.rows);
    let mut generator = Generator::new(config).map_err(CliError::input)?;
    if args.out == Path::new("-") {
        let mut out = BufWriter::new(io::stdout().lock());
        generator
            .write_criteo(&mut out, args.rows)
            .and_then(|_| out.flush())
            .map_err(|error| CliError::printing(&error))?;
        return Ok(Ended::Whole);
    }
    let failed = |error: io::Error| CliError::writing(&args.out, &error);
    // Nothing is lost by writing to a pipe or a device.
    let special = fs::metadata(&args.out).is_ok_and(|found| !found.is_file());
    let created = if args.force || special { File::create(&args.out) } else { File::create_new(&args.out) };
    let file = created.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            let path = args.out.display();
            CliError::input(format!("{path} is there already: choose another place, or --force to overwrite it"))
        }
        _ => failed(error),
    })?;
    write_file(&mut generator, args, BufWriter::new(file)).map_err(failed)?;
    Ok(Ended::Whole)
}

/// Writes the stream to `file`, compressed as the name asks.
fn write_file(generator: &mut Generator, args: &GenerateArgs, file: BufWriter<File>) -> io::Result<()> {
    let extension = args.out.extension().and_then(|extension| extension.to_str());
    let mut file = match extension {
        Some("gz") => {
            let mut out = GzEncoder::new(file, flate2::Compression::default());
            generator.write_criteo(&mut out, args.rows)?;
            out.finish()?
        }
        Some("zst") => {
            let mut out = zstd::Encoder::new(file, zstd::DEFAULT_COMPRESSION_LEVEL)?;
            generator.write_criteo(&mut out, args.rows)?;
            out.finish()?
        }
        _ => {
            let mut file = file;
            generator.write_criteo(&mut file, args.rows)?;
            file
        }
    };
    file.flush()
}
