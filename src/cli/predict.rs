//! `dimslab predict`: the probability of a click for each row of data files, from a serving file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::cli::error::CliError;
use crate::cli::settings::defaults;
use crate::cli::values::Format;
use crate::cli::{Ended, print, source};
use crate::data::Loader;
use crate::dlrm::Predictor;
use crate::dlrm::loss::sigmoid;
use crate::dlrm::metrics::{HistogramAuc, LossSums};
use crate::serving::Tables;

/// Flags of `predict`.
#[derive(Debug, clap::Args)]
pub(crate) struct PredictArgs {
    /// File that `export --serve` wrote
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// Data files, as for `train`
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    data: Vec<PathBuf>,
    /// Format of the data files
    #[arg(long, value_enum, default_value_t = defaults::FORMAT)]
    format: Format,
    /// Column roles of a CSV, as for `train`
    #[arg(long, value_name = "FILE|SPEC")]
    columns: Option<String>,
    /// Where the probabilities go, one a line in the order of the rows; - for standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    out: PathBuf,
    /// Rows that are scored at once
    #[arg(long, value_name = "N", default_value_t = defaults::BATCH)]
    batch: usize,
    /// Threads [default: one for each core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Malformed lines to pass over before giving up
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip_bad_lines: u64,
}

/// Runs the command.
pub(crate) fn command(args: &PredictArgs) -> Result<Ended, CliError> {
    let tables = Tables::open(&args.model).map_err(|error| CliError::snapshot(&error))?;
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let mut model = Predictor::new(&tables, threads).map_err(CliError::input)?;
    let rows = source::files(&args.data, args.format, args.columns.as_deref(), args.skip_bad_lines)?;
    let schema = rows.schema();
    let config = model.config();
    if (schema.dense.len(), schema.categorical.len()) != (config.n_dense, config.n_features) {
        return Err(CliError::input(format!(
            "the data has {} dense and {} categorical columns and the model was trained on {} and {}; name the same columns",
            schema.dense.len(),
            schema.categorical.len(),
            config.n_dense,
            config.n_features
        )));
    }
    let names = tables.manifest().tables.iter().map(|table| table.name());
    if let Some((found, expected)) = schema.categorical.iter().zip(names).find(|(found, expected)| found != expected) {
        let what =
            format!("the data has column `{found}` where the model has table `{expected}`; name the same columns");
        return Err(CliError::input(what));
    }
    let mut loader = Loader::spawn(rows, args.batch, 0).map_err(CliError::input)?;
    if args.out == Path::new("-") {
        let mut out = BufWriter::new(io::stdout().lock());
        let failed = |error: io::Error| CliError::printing(&error);
        score(&mut model, &tables, &mut loader, &mut out, failed)?;
        out.flush().map_err(failed)?;
        return Ok(Ended::Whole);
    }
    let failed = |error: io::Error| CliError::writing(&args.out, &error);
    let mut out = BufWriter::new(File::create(&args.out).map_err(failed)?);
    let metrics = score(&mut model, &tables, &mut loader, &mut out, failed)?;
    out.flush().map_err(failed)?;
    print::line(&metrics)?;
    Ok(Ended::Whole)
}

/// Writes a line for each row; returns what the labels say about them.
fn score(
    model: &mut Predictor,
    tables: &Tables,
    loader: &mut Loader,
    out: &mut impl Write,
    failed: impl Fn(io::Error) -> CliError,
) -> Result<String, CliError> {
    let (mut logits, mut auc, mut loss) = (Vec::new(), HistogramAuc::default(), LossSums::default());
    while let Some(batch) = loader.next().map_err(CliError::input)? {
        model.score(tables, &batch, &mut logits).map_err(CliError::input)?;
        auc.add(&logits, &batch.labels);
        loss.add(&logits, &batch.labels);
        for logit in &logits {
            writeln!(out, "{:.6}", sigmoid(*logit)).map_err(&failed)?;
        }
        loader.recycle(batch);
    }
    let (auc, logloss) = (print::figure(auc.auc()), print::figure(loss.log_loss()));
    Ok(format!("{} rows, AUC {auc}, log-loss {logloss}", loss.rows()))
}
