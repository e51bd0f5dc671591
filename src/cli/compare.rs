//! `dimslab compare`: the accuracy study.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::error::CliError;
use crate::cli::values::{DenseOptimizerName, Layers};
use crate::cli::{Ended, print, signal};
use crate::data::{Columns, CriteoReader, CsvReader, Generator, GeneratorConfig, RowSource, Truth};
use crate::dlrm::DenseOptimizer;
use crate::report::study::{Comparison, write};
use crate::study::StudyError;
use crate::study::grid::{self, Plan};
use crate::study::methods::{METHODS, Spec};
use crate::study::record::{Record, Records};
use crate::study::stream::Stream;
use crate::study::trial::{EPS, Setup};

/// Where the logs lie that may not be redistributed.
const DATA_VARIABLE: &str = "DIMSLAB_DATA";
const GLOBO_COLUMNS: &str = "label=label,time=timestamp_ms,cat=*";

#[derive(Debug, clap::Args)]
pub(crate) struct CompareArgs {
    /// Streams: criteo-like, tail-heavy, drifting or planted (generated), criteo or globo (in the directory that the
    /// variable DIMSLAB_DATA names), or a file in Criteo's format
    #[arg(long, value_name = "STREAM", default_value = "criteo-like")]
    data: String,
    /// Methods, each perhaps with settings: dimslab+chunk=8+decay=2x; `list` tells their names
    #[arg(long, value_delimiter = ',', default_value = "full,hash,qr,adaembed,cafe,fiited,dimslab")]
    methods: Vec<String>,
    /// Bytes of full size over those of the budget
    #[arg(long, value_delimiter = ',', default_value = "5,10,20,100")]
    ratios: Vec<f64>,
    /// Seeds 1 to N: of initial weights, of hashes and, unless --stream-seed is given, of generated streams
    #[arg(long, value_name = "N", default_value_t = 5)]
    seeds: u64,
    /// The generated stream of every seed; without it each seed has a stream of its own
    #[arg(long, value_name = "SEED")]
    stream_seed: Option<u64>,
    /// Rows of the stream, held-out ones included; generated streams have 1,200,000 unless told, files all they have
    #[arg(long, value_name = "N")]
    rows: Option<u64>,
    /// Rows held out at the end [default: a sixth of a generated stream, 10000 of criteo, 0 of globo]
    #[arg(long, value_name = "N")]
    holdout: Option<usize>,
    /// Ids of a generated stream at any one time
    #[arg(long, value_name = "N")]
    ids: Option<u64>,
    /// Exponent of the popularity of ids of a generated stream
    #[arg(long)]
    zipf: Option<f64>,
    /// Dimensions of an embedding
    #[arg(long, default_value_t = 16)]
    dim: usize,
    /// Rows of a batch
    #[arg(long, default_value_t = 256)]
    batch: usize,
    /// Learning rate of the embeddings' Adagrad; the default is the best of five for full size on criteo-like
    #[arg(long, default_value_t = 0.06)]
    lr: f32,
    /// Update rule of the dense layers
    #[arg(long, default_value = "adagrad")]
    dense_optimizer: DenseOptimizerName,
    /// Learning rate of the dense layers
    #[arg(long, default_value_t = 0.01)]
    dense_lr: f32,
    /// Hidden layers below the interaction
    #[arg(long, value_name = "SIZES", default_value = "64,32")]
    bottom: Layers,
    /// Hidden layers above the interaction
    #[arg(long, value_name = "SIZES", default_value = "64,32")]
    top: Layers,
    /// Training rows of a window of the curves
    #[arg(long, value_name = "N", default_value_t = 25_000)]
    window: u64,
    /// Directory of the trials, one file each, and of the report; a grid that was stopped goes on where it was
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Trials at a time, each on one thread [default: the processors]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

/// A stream by its name.
#[derive(Debug, Clone, PartialEq)]
enum Source {
    Generated { truth: Truth, drift_rows: u64, shifts: u64, zipf: f64, ids: u64 },
    Criteo(PathBuf),
    Globo(PathBuf),
}

impl FromStr for Source {
    type Err = CliError;

    fn from_str(name: &str) -> Result<Source, CliError> {
        let generated =
            |truth, drift_rows, shifts, zipf, ids| Source::Generated { truth, drift_rows, shifts, zipf, ids };
        let log = |file: &str| {
            let dir = std::env::var_os(DATA_VARIABLE).ok_or_else(|| {
                CliError::input(format!(
                    "--data {name} is a log that is not part of dimslab: set {DATA_VARIABLE} to its directory"
                ))
            })?;
            Ok(Path::new(&dir).join(file))
        };
        Ok(match name {
            "criteo-like" => generated(Truth::Single, 4_000_000, 0, 1.075, 1_000_000),
            "tail-heavy" => generated(Truth::Tail, 0, 0, 0.75, 300_000),
            // One shift, in the middle of what is trained on.
            "drifting" => generated(Truth::Single, 0, 1, 1.075, 1_000_000),
            "planted" => generated(Truth::Planted, 0, 0, 1.075, 1_000_000),
            "criteo" => Source::Criteo(log("criteo_60k.txt.gz")?),
            "globo" => Source::Globo(log("globo_days0-8.csv.zst")?),
            file if Path::new(file).is_file() => Source::Criteo(PathBuf::from(file)),
            other => {
                return Err(CliError::input(format!(
                    "--data {other}: neither a file nor one of criteo-like, tail-heavy, drifting, planted, criteo, globo"
                )));
            }
        })
    }
}

impl Source {
    /// Rows of the stream, and of its held-out tail; `None`: all that a file has.
    fn rows(&self, args: &CompareArgs) -> (Option<u64>, usize) {
        match self {
            Source::Generated { .. } => {
                let rows = args.rows.unwrap_or(1_200_000);
                (Some(rows), args.holdout.unwrap_or((rows / 6) as usize))
            }
            Source::Criteo(_) => (args.rows, args.holdout.unwrap_or(10_000)),
            Source::Globo(_) => (args.rows, args.holdout.unwrap_or(0)),
        }
    }

    fn generator(&self, args: &CompareArgs, seed: u64) -> Option<GeneratorConfig> {
        let Source::Generated { truth, drift_rows, shifts, zipf, ids } = *self else { return None };
        let (rows, holdout) = self.rows(args);
        let trained = rows.unwrap_or(0).saturating_sub(holdout as u64);
        Some(
            GeneratorConfig::default()
                .seed(args.stream_seed.unwrap_or(seed))
                .rows(rows.unwrap_or(0))
                .truth(truth)
                .drift_rows(drift_rows)
                .shift_rows(if shifts > 0 { trained / (shifts + 1) } else { 0 })
                .zipf(args.zipf.unwrap_or(zipf))
                .total_ids(args.ids.unwrap_or(ids)),
        )
    }

    /// A log's rows.
    fn log(&self) -> Result<Box<dyn RowSource>, StudyError> {
        Ok(match self {
            Source::Generated { .. } => Box::new(Generator::new(GeneratorConfig::default())?),
            Source::Criteo(path) => Box::new(CriteoReader::open(std::slice::from_ref(path))?),
            Source::Globo(path) => {
                let columns = Columns::from_argument(GLOBO_COLUMNS)
                    .map_err(|error| StudyError::File { path: path.clone(), what: error.to_string() })?;
                Box::new(CsvReader::open(std::slice::from_ref(path), &columns)?)
            }
        })
    }

    fn stream(&self, args: &CompareArgs, seed: u64) -> Result<Stream, StudyError> {
        let (rows, holdout) = self.rows(args);
        if let Some(config) = self.generator(args, seed) {
            let mut generator = Generator::new(config)?;
            let mut stream = Stream::read(&mut generator, u64::MAX, holdout, args.batch)?;
            if matches!(self, Source::Generated { truth: Truth::Planted, .. }) {
                stream.note_needs(|feature, key| generator.planted_need(feature, key));
            }
            return Ok(stream);
        }
        Ok(Stream::read(&mut *self.log()?, rows.unwrap_or(u64::MAX), holdout, args.batch)?)
    }
}

fn failed(error: StudyError) -> CliError {
    match error {
        StudyError::OverBudget { .. } => CliError::Internal(error.to_string()),
        other => CliError::input(other),
    }
}

impl CompareArgs {
    fn check(&self) -> Result<(), CliError> {
        let wrong = |text: String| Err(CliError::input(text));
        if let Some(ratio) = self.ratios.iter().find(|ratio| !(ratio.is_finite() && **ratio >= 1.0)) {
            return wrong(format!("--ratios {ratio}: give numbers of at least 1"));
        }
        for (name, value) in [("lr", self.lr), ("dense-lr", self.dense_lr)] {
            if !(value.is_finite() && value > 0.0) {
                return wrong(format!("--{name} {value}: give a number above 0"));
            }
        }
        let (threads, rows) = (self.threads.unwrap_or(1) as u64, self.rows.unwrap_or(1));
        for (name, value, most) in [
            ("seeds", self.seeds, 1000),
            ("batch", self.batch as u64, 1 << 20),
            ("window", self.window, 1 << 24),
            ("dim", self.dim as u64, 1024),
            ("threads", threads, 1024),
            ("rows", rows, 1 << 31),
        ] {
            if !(1..=most).contains(&value) {
                return wrong(format!("--{name} {value}: give 1 to {most}"));
            }
        }
        Ok(())
    }

    fn plan(&self, source: &Source) -> Result<Plan, CliError> {
        let mut methods: Vec<Spec> = Vec::new();
        for name in &self.methods {
            let spec: Spec = name.parse().map_err(failed)?;
            if methods.iter().any(|other| other.name == spec.name) {
                return Err(CliError::input(format!("--methods names {name} twice")));
            }
            methods.push(spec);
        }
        let lr = self.dense_lr;
        let dense = match self.dense_optimizer {
            DenseOptimizerName::Sgd => DenseOptimizer::Sgd { lr },
            DenseOptimizerName::Adagrad => DenseOptimizer::Adagrad { lr, eps: EPS, initial_accumulator: 0.0 },
        };
        let setup = Setup {
            dim: self.dim,
            bottom: self.bottom.0.clone(),
            top: self.top.0.clone(),
            lr: self.lr,
            dense,
            window: self.window,
        };
        let mut ratios = self.ratios.clone();
        ratios.sort_by(f64::total_cmp);
        ratios.dedup();
        let threads = self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let one_stream = self.stream_seed.is_some() || !matches!(source, Source::Generated { .. });
        Ok(Plan { methods, ratios, seeds: (1..=self.seeds).collect(), setup, one_stream, threads })
    }

    /// What trials of one directory have in common. Methods, ratios and seeds may be added to a grid.
    fn settings(&self, source: &Source) -> serde_json::Value {
        let (rows, holdout) = source.rows(self);
        let generator = source.generator(self, 0).map(|config| format!("{config:?}"));
        serde_json::json!({
            "data": self.data, "generator": generator, "stream-seed": self.stream_seed, "rows": rows, "holdout": holdout, "dim": self.dim,
            "batch": self.batch, "lr": self.lr, "dense-optimizer": self.dense_optimizer, "dense-lr": self.dense_lr, "bottom": self.bottom, "top": self.top,
            "window": self.window,
        })
    }
}

/// Runs the command.
pub(crate) fn command(args: &CompareArgs) -> Result<Ended, CliError> {
    if args.methods == ["list"] {
        let lines: Vec<String> = METHODS.iter().map(|(name, what)| format!("{name:14} {what}")).collect();
        print::line(&lines.join("\n"))?;
        return Ok(Ended::Whole);
    }
    args.check()?;
    let source = args.data.parse::<Source>()?;
    let plan = args.plan(&source)?;
    let settings = args.settings(&source);
    let records = Records::open(&args.out, &settings).map_err(failed)?;
    let stop = signal::stop_flag()?;
    let progress = Progress::new(plan.cells().len());
    let make = |seed| source.stream(args, seed);
    let ended = grid::run(&plan, &records, &make, &stop, &|record, at| progress.show(record, at));
    progress.bar.finish_and_clear();
    let ended = match ended {
        Err(StudyError::Interrupted) => {
            print::line("interrupted: the same command goes on from here")?;
            return Ok(Ended::Interrupted);
        }
        other => other.map_err(failed)?,
    };
    let names = plan.methods.iter().map(|spec| spec.name.clone()).collect();
    let comparison = Comparison { methods: names, ratios: plan.ratios.clone(), settings, records: ended };
    let text = write(&args.out, &comparison).map_err(failed)?;
    print::line(&text)?;
    print::line(&format!("report   {}", args.out.join("report.html").display()))?;
    Ok(Ended::Whole)
}

/// A bar on a terminal, else a line for each trial.
struct Progress {
    bar: ProgressBar,
}

impl Progress {
    fn new(trials: usize) -> Progress {
        if !io::stderr().is_terminal() {
            return Progress { bar: ProgressBar::with_draw_target(Some(trials as u64), ProgressDrawTarget::hidden()) };
        }
        let bar = ProgressBar::new(trials as u64);
        // The template is fixed; a library that refused it would leave its own style.
        if let Ok(style) = ProgressStyle::with_template("{bar:12} {pos} of {len} trials  {eta} left  {wide_msg}") {
            bar.set_style(style);
        }
        Progress { bar }
    }

    fn show(&self, record: &Record, at: grid::Progress) {
        let cell = &record.cell;
        let figure = |value: Option<f64>| value.map_or("–".to_owned(), |v| format!("{v:.5}"));
        let figures = record.done().map_or("impossible".to_owned(), |done| {
            format!(
                "AUC {}  NE {}  {:.0} rows/s",
                figure(done.heldout.auc.or(done.progressive.auc)),
                figure(done.heldout.ne.or(done.progressive.ne)),
                done.samples_per_s
            )
        });
        let line = format!("{} at {}x, seed {}: {figures}", cell.method, cell.ratio, cell.seed);
        self.bar.set_position(at.ended as u64);
        self.bar.set_message(line.clone());
        if self.bar.is_hidden() {
            // Progress is a courtesy: a closed standard error does not end a grid.
            let _ = writeln!(io::stderr(), "{} of {}  {line}", at.ended, at.of);
        }
    }
}
