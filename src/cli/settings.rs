//! Settings of `train`: from flags, then the configuration file, then the defaults below.
//!
//! [`Settings`] is both the flags and the keys of the file, so that the two cannot drift apart; [`Resolved`] is what
//! a run uses, what `--print-config` prints and what the report records.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, Serializer};

use crate::FiitedConfig;
use crate::cli::error::CliError;
use crate::cli::values::{
    ByteSize, DenseOptimizerName, FallbackName, Format, Layers, OptimizerName, PolicyName,
};
use crate::dlrm::run::RunConfig;

/// One constant for each default.
pub(crate) mod defaults {
    use crate::cli::values::{ByteSize, DenseOptimizerName, FallbackName, Format};
    use crate::cli::values::{OptimizerName, PolicyName};

    pub(crate) const FORMAT: Format = Format::Criteo;
    pub(crate) const DIM: usize = 16;
    pub(crate) const CHUNK: usize = 4;
    pub(crate) const BUDGET: ByteSize = ByteSize(64 << 20);
    pub(crate) const POLICY: PolicyName = PolicyName::Fiited;
    pub(crate) const OPTIMIZER: OptimizerName = OptimizerName::Adagrad;
    pub(crate) const FALLBACK: FallbackName = FallbackName::Zero;
    pub(crate) const INIT_BOUND: f64 = 0.01;
    pub(crate) const DENSE_OPTIMIZER: DenseOptimizerName = DenseOptimizerName::Adagrad;
    pub(crate) const BOTTOM: [usize; 2] = [64, 32];
    pub(crate) const TOP: [usize; 2] = [64, 32];
    pub(crate) const BATCH: usize = 2048;
    pub(crate) const SEED: u64 = 1;
    /// Rows held out of data files.
    pub(crate) const HOLDOUT: usize = 0;
    /// Rows of the embedded stream.
    pub(crate) const EMBEDDED_ROWS: u64 = 300_000;
    /// Of the embedded stream one row in so many, at its end, is held out.
    pub(crate) const EMBEDDED_HOLDOUT_SHARE: u64 = 10;
    /// But no more than so many: held-out rows stay in memory.
    pub(crate) const EMBEDDED_HOLDOUT_MAX: u64 = 100_000;

    /// Learning rate of the embeddings.
    pub(crate) const fn lr(optimizer: OptimizerName) -> f64 {
        match optimizer {
            OptimizerName::Sgd => 0.1,
            OptimizerName::Adagrad | OptimizerName::RowwiseAdagrad => 0.01,
            OptimizerName::Adam => 0.001,
        }
    }

    /// Learning rate of the dense layers.
    pub(crate) const fn dense_lr(optimizer: DenseOptimizerName) -> f64 {
        match optimizer {
            DenseOptimizerName::Sgd => 0.1,
            DenseOptimizerName::Adagrad => 0.01,
        }
    }
}

/// Flags of `train` and, by the same names, keys of its configuration file. Everything may be left out.
#[derive(Debug, Clone, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Settings {
    /// Data files, read in this order (.gz and .zst too); without any, the embedded stream
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) data: Option<Vec<PathBuf>>,
    /// Format of the data files [default: criteo]
    #[arg(long)]
    pub(crate) format: Option<Format>,
    /// Column roles of a CSV: a TOML file, or text such as "label=click,time=ts,ignore=id,dense=price,cat=*"
    #[arg(long, value_name = "FILE|SPEC")]
    pub(crate) columns: Option<String>,
    /// Dimensions of an embedding, 1 to 1024 [default: 16]
    #[arg(long)]
    pub(crate) dim: Option<usize>,
    /// Dimensions that a row gains or loses at once: 4, 8, 16 or 32 [default: 4]
    #[arg(long)]
    pub(crate) chunk: Option<usize>,
    /// Hard limit on all bytes the embeddings hold [default: 64MiB]
    #[arg(long, value_name = "BYTES")]
    pub(crate) budget: Option<ByteSize>,
    /// Who decides which rows keep their dimensions [default: fiited]
    #[arg(long)]
    pub(crate) policy: Option<PolicyName>,
    /// fiited: the part of a utility that is left after each step [default: 0.9998]
    #[arg(long, value_name = "X")]
    pub(crate) decay: Option<f32>,
    /// fiited: steps between two pruning rounds [default: 500]
    #[arg(long, value_name = "STEPS")]
    pub(crate) period: Option<u64>,
    /// fiited: steps before the first round that the budget does not force [default: 100]
    #[arg(long, value_name = "STEPS")]
    pub(crate) warmup: Option<u64>,
    /// fiited: by which part a missing chunk must beat the threshold [default: 0.2]
    #[arg(long, value_name = "X")]
    pub(crate) hysteresis: Option<f32>,
    /// fiited: part of the budget that a round leaves free [default: 0.04]
    #[arg(long, value_name = "X")]
    pub(crate) headroom: Option<f32>,
    /// fiited: part of the budget for the sketch of rows not admitted [default: 0.03125]
    #[arg(long, value_name = "X")]
    pub(crate) sketch: Option<f32>,
    /// Update rule of the embeddings [default: adagrad]
    #[arg(long)]
    pub(crate) optimizer: Option<OptimizerName>,
    /// Learning rate of the embeddings [default: 0.01; sgd 0.1; adam 0.001]
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) lr: Option<f64>,
    /// What stands for dimensions that a row does not hold [default: zero]
    #[arg(long)]
    pub(crate) fallback: Option<FallbackName>,
    /// New rows start uniform within plus and minus this [default: 0.01]
    #[arg(long, allow_negative_numbers = true, value_name = "X")]
    pub(crate) init_bound: Option<f64>,
    /// Update rule of the dense layers [default: adagrad]
    #[arg(long)]
    pub(crate) dense_optimizer: Option<DenseOptimizerName>,
    /// Learning rate of the dense layers [default: 0.01; sgd 0.1]
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) dense_lr: Option<f64>,
    /// Hidden layers of the bottom network, or none [default: 64,32]
    #[arg(long, value_name = "SIZES")]
    pub(crate) bottom: Option<Layers>,
    /// Hidden layers of the top network, or none [default: 64,32]
    #[arg(long, value_name = "SIZES")]
    pub(crate) top: Option<Layers>,
    /// Rows of a training step [default: 2048]
    #[arg(long, value_name = "ROWS")]
    pub(crate) batch: Option<usize>,
    /// Threads of the trainer [default: one per processor]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Seed of the weights and of the embedded stream [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Rows at the end that are scored and never trained on [default: 0; embedded stream: a tenth]
    #[arg(long, value_name = "ROWS")]
    pub(crate) holdout: Option<usize>,
    /// Read at most so many rows [default: all; embedded stream: 300000]
    #[arg(long, value_name = "N")]
    pub(crate) rows: Option<u64>,
    /// Same bytes for the same seed and data, whatever the number of threads
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) deterministic: Option<bool>,
    /// Tolerate and count up to so many malformed lines [default: 0]
    #[arg(long, value_name = "N")]
    pub(crate) skip_bad_lines: Option<u64>,
    /// Rows of a window of the metrics [default: 8192]
    #[arg(long, value_name = "ROWS")]
    pub(crate) window: Option<u64>,
    /// Directory for metrics.jsonl, report.json and report.html
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

/// Settings with every default filled in.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Resolved {
    /// Empty: the embedded stream.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        serialize_with = "paths_as_text"
    )]
    pub(crate) data: Vec<PathBuf>,
    pub(crate) format: Format,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) columns: Option<String>,
    pub(crate) dim: usize,
    pub(crate) chunk: usize,
    /// `None` while a comparison has not set it for its runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) budget: Option<ByteSize>,
    /// `None` while a comparison has not set it for its runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) policy: Option<PolicyName>,
    #[serde(flatten)]
    pub(crate) fiited: FiitedSettings,
    pub(crate) optimizer: OptimizerName,
    pub(crate) lr: f64,
    pub(crate) fallback: FallbackName,
    pub(crate) init_bound: f64,
    pub(crate) dense_optimizer: DenseOptimizerName,
    pub(crate) dense_lr: f64,
    pub(crate) bottom: Layers,
    pub(crate) top: Layers,
    pub(crate) batch: usize,
    pub(crate) threads: usize,
    pub(crate) seed: u64,
    pub(crate) holdout: usize,
    /// `None`: all rows of the files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rows: Option<u64>,
    pub(crate) deterministic: bool,
    pub(crate) skip_bad_lines: u64,
    pub(crate) window: u64,
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "path_as_text"
    )]
    pub(crate) out: Option<PathBuf>,
}

/// Settings of the policy `fiited`.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct FiitedSettings {
    decay: f32,
    period: u64,
    warmup: u64,
    hysteresis: f32,
    headroom: f32,
    sketch: f32,
}

impl From<FiitedSettings> for FiitedConfig {
    fn from(settings: FiitedSettings) -> FiitedConfig {
        FiitedConfig {
            decay: settings.decay,
            period_steps: settings.period,
            warmup_steps: settings.warmup,
            hysteresis: settings.hysteresis,
            headroom: settings.headroom,
            sketch: settings.sketch,
        }
    }
}

/// Reads a configuration file: TOML with the keys of [`Settings`].
pub(crate) fn read_config(path: &Path) -> Result<Settings, CliError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        CliError::input(format!(
            "cannot read configuration {}: {error}",
            path.display()
        ))
    })?;
    toml::from_str(&text).map_err(|error| {
        let line = error
            .span()
            .map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        let what = error.message();
        CliError::input(format!(
            "configuration {}, line {line}: {what}",
            path.display()
        ))
    })
}

/// `flag`, else `file`, field by field.
macro_rules! prefer {
    ($flags:ident, $file:ident: $($field:ident),+ $(,)?) => {
        Settings { $($field: $flags.$field.or($file.$field)),+ }
    };
}

impl Settings {
    /// These settings, with those of `file` where these say nothing.
    pub(crate) fn over(self, file: Settings) -> Settings {
        prefer!(self, file: data, format, columns, dim, chunk, budget, policy, decay, period, warmup, hysteresis, headroom, sketch, optimizer, lr, fallback, init_bound,
            dense_optimizer, dense_lr, bottom, top, batch, threads, seed, holdout, rows, deterministic,
            skip_bad_lines, window, out)
    }

    /// Neither data nor a policy was chosen: compare full-size with budgeted on the embedded stream.
    pub(crate) fn is_comparison(&self) -> bool {
        self.data.is_none() && self.policy.is_none()
    }

    /// Fills in the defaults and checks what flags and file said.
    ///
    /// # Errors
    /// A value out of its range, or settings that do not go together.
    pub(crate) fn resolve(self) -> Result<Resolved, CliError> {
        let comparison = self.is_comparison();
        let data = self.data.unwrap_or_default();
        let embedded = data.is_empty();
        let rows = self.rows.or(embedded.then_some(defaults::EMBEDDED_ROWS));
        let holdout = match rows {
            Some(rows) if embedded => (rows / defaults::EMBEDDED_HOLDOUT_SHARE)
                .min(defaults::EMBEDDED_HOLDOUT_MAX) as usize,
            _ => defaults::HOLDOUT,
        };
        let optimizer = self.optimizer.unwrap_or(defaults::OPTIMIZER);
        let dense_optimizer = self.dense_optimizer.unwrap_or(defaults::DENSE_OPTIMIZER);
        let fiited = FiitedConfig::default();
        let fiited = FiitedSettings {
            decay: self.decay.unwrap_or(fiited.decay),
            period: self.period.unwrap_or(fiited.period_steps),
            warmup: self.warmup.unwrap_or(fiited.warmup_steps),
            hysteresis: self.hysteresis.unwrap_or(fiited.hysteresis),
            headroom: self.headroom.unwrap_or(fiited.headroom),
            sketch: self.sketch.unwrap_or(fiited.sketch),
        };
        let resolved = Resolved {
            data,
            fiited,
            format: self.format.unwrap_or(defaults::FORMAT),
            columns: self.columns,
            dim: self.dim.unwrap_or(defaults::DIM),
            chunk: self.chunk.unwrap_or(defaults::CHUNK),
            budget: self.budget.or((!comparison).then_some(defaults::BUDGET)),
            policy: self.policy.or((!comparison).then_some(defaults::POLICY)),
            optimizer,
            lr: self.lr.unwrap_or(defaults::lr(optimizer)),
            fallback: self.fallback.unwrap_or(defaults::FALLBACK),
            init_bound: self.init_bound.unwrap_or(defaults::INIT_BOUND),
            dense_optimizer,
            dense_lr: self.dense_lr.unwrap_or(defaults::dense_lr(dense_optimizer)),
            bottom: self.bottom.unwrap_or(Layers(defaults::BOTTOM.to_vec())),
            top: self.top.unwrap_or(Layers(defaults::TOP.to_vec())),
            batch: self.batch.unwrap_or(defaults::BATCH),
            threads: self.threads.unwrap_or_else(processors),
            seed: self.seed.unwrap_or(defaults::SEED),
            holdout: self.holdout.unwrap_or(holdout),
            rows,
            deterministic: self.deterministic.unwrap_or(false),
            skip_bad_lines: self.skip_bad_lines.unwrap_or(0),
            window: self.window.unwrap_or(RunConfig::WINDOW_ROWS),
            out: self.out,
        };
        resolved.check()?;
        Ok(resolved)
    }
}

impl Resolved {
    /// Ranges and combinations; what the store and the readers check themselves is left to them.
    fn check(&self) -> Result<(), CliError> {
        let positive = |name: &str, value: f64| {
            if value.is_finite() && value > 0.0 {
                return Ok(());
            }
            Err(CliError::input(format!(
                "--{name} {value}: give a number above 0"
            )))
        };
        positive("lr", self.lr)?;
        positive("dense-lr", self.dense_lr)?;
        if !(self.init_bound.is_finite() && self.init_bound >= 0.0) {
            return Err(CliError::input(format!(
                "--init-bound {}: give 0 or a number above 0",
                self.init_bound
            )));
        }
        for (name, value) in [
            ("batch", self.batch as u64),
            ("threads", self.threads as u64),
            ("window", self.window),
            ("rows", self.rows.unwrap_or(1)),
        ] {
            if value == 0 {
                return Err(CliError::input(format!("--{name} 0: give at least 1")));
            }
        }
        if self.format == Format::Csv && !self.data.is_empty() && self.columns.is_none() {
            return Err(CliError::input(
                "--format csv needs --columns, such as --columns \"label=click,cat=*\"",
            ));
        }
        if self.format == Format::Criteo && self.columns.is_some() {
            return Err(CliError::input("--columns goes with --format csv alone"));
        }
        if let Some(rows) = self.rows.filter(|&rows| self.holdout as u64 >= rows) {
            return Err(CliError::input(format!(
                "--holdout {} leaves nothing of {rows} rows to train on: give a smaller one",
                self.holdout
            )));
        }
        Ok(())
    }

    /// The settings as TOML that `--config` reads back.
    pub(crate) fn to_toml(&self) -> Result<String, CliError> {
        toml::to_string(self).map_err(|error| CliError::Internal(error.to_string()))
    }

    /// The settings for a report: without those that name the machine's share of a run and not its outcome
    /// (`threads` has its own place there, `out` is where the report lies).
    pub(crate) fn to_json(&self) -> Result<serde_json::Value, CliError> {
        let mut json =
            serde_json::to_value(self).map_err(|error| CliError::Internal(error.to_string()))?;
        if let Some(keys) = json.as_object_mut() {
            keys.remove("threads");
            keys.remove("out");
        }
        Ok(json)
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn paths_as_text<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.to_string_lossy()))
}

fn path_as_text<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => serializer.serialize_str(&path.to_string_lossy()),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_toml(text: &str) -> Settings {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn flag_beats_file_beats_default() {
        let file = from_toml("dim = 8\nbatch = 64\nbudget = \"1MiB\"\npolicy = \"none\"");
        let flags = Settings {
            dim: Some(32),
            ..Settings::default()
        };
        let resolved = flags.over(file).resolve().unwrap();
        assert_eq!(
            (resolved.dim, resolved.batch, resolved.chunk),
            (32, 64, defaults::CHUNK)
        );
        assert_eq!(resolved.budget, Some(ByteSize(1 << 20)));
        assert_eq!(resolved.policy, Some(PolicyName::None));
    }

    #[test]
    fn printed_settings_read_back_the_same() {
        let file = "data = [\"a.csv\", \"b.csv\"]\nformat = \"csv\"\ncolumns = \"label=l,cat=*\"\n\
                    bottom = []\ndeterministic = true\nlr = 0.02\nbudget = 123457";
        for settings in [Settings::default(), from_toml(file)] {
            let printed = settings.resolve().unwrap().to_toml().unwrap();
            let again = from_toml(&printed).resolve().unwrap().to_toml().unwrap();
            assert_eq!(printed, again);
        }
    }

    #[test]
    fn no_data_and_no_policy_is_a_comparison() {
        let resolved = Settings::default().resolve().unwrap();
        assert_eq!((resolved.budget, resolved.policy), (None, None));
        assert_eq!(resolved.rows, Some(defaults::EMBEDDED_ROWS));
        assert_eq!(resolved.holdout as u64, defaults::EMBEDDED_ROWS / 10);
        assert!(!from_toml("policy = \"none\"").is_comparison());
        assert!(!from_toml("data = [\"x\"]").is_comparison());
    }

    #[test]
    fn bad_values_are_named() {
        let cases = [
            ("batch = 0", "--batch"),
            ("threads = 0", "--threads"),
            ("window = 0", "--window"),
            ("lr = -1.0", "--lr"),
            ("dense-lr = nan", "--dense-lr"),
            ("rows = 100\nholdout = 100", "--holdout"),
            ("data = [\"a\"]\nformat = \"csv\"", "--columns"),
            ("columns = \"cat=*\"", "--columns"),
        ];
        for (text, flag) in cases {
            let error = from_toml(text).resolve().unwrap_err();
            assert!(error.to_string().contains(flag), "{text}: {error}");
            assert_eq!(error.exit_code(), 2);
        }
        let unknown = toml::from_str::<Settings>("bugdet = 1").unwrap_err();
        assert!(unknown.message().contains("unknown field `bugdet`"));
    }
}
