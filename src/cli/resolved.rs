//! The settings that a run uses: every default filled in, every value checked.

use std::path::PathBuf;

use serde::{Serialize, Serializer};

use crate::FiitedConfig;
use crate::cli::error::CliError;
use crate::cli::settings::{Settings, defaults};
use crate::cli::values::{
    ByteSize, DecayRate, DenseOptimizerName, FallbackName, Format, Layers, OptimizerName, PolicyName,
};
use crate::dlrm::run::RunConfig;

/// Largest hidden layer.
const LAYER_MAX: usize = 16_384;
/// Most rows of a window: 128 MiB.
const WINDOW_MAX: u64 = 1 << 24;

/// Settings with every default filled in.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Resolved {
    /// Empty: the embedded stream.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "paths_as_text")]
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
    /// `None` under the policy `none`.
    #[serde(flatten)]
    pub(crate) fiited: Option<FiitedSettings>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) checkpoint_every: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "path_as_text")]
    pub(crate) out: Option<PathBuf>,
}

/// Most rows of a batch: the trainer's buffers are made for a whole one.
const BATCH_MAX: usize = 1 << 20;

/// Settings of the policy `fiited`.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct FiitedSettings {
    decay: DecayRate,
    period: u64,
    warmup: u64,
    #[serde(serialize_with = "short")]
    hysteresis: f32,
    #[serde(serialize_with = "short")]
    headroom: f32,
    #[serde(serialize_with = "short")]
    sketch: f32,
    #[serde(rename = "round-share", serialize_with = "short")]
    round_share: f32,
}

impl From<FiitedSettings> for FiitedConfig {
    fn from(settings: FiitedSettings) -> FiitedConfig {
        FiitedConfig {
            decay: settings.decay.0,
            period_steps: settings.period,
            warmup_steps: settings.warmup,
            hysteresis: settings.hysteresis,
            headroom: settings.headroom,
            sketch: settings.sketch,
            round_share: settings.round_share,
        }
    }
}

impl Settings {
    fn fiited(&self) -> FiitedSettings {
        let fiited = FiitedConfig::default();
        FiitedSettings {
            decay: self.decay.unwrap_or(DecayRate(fiited.decay)),
            period: self.period.unwrap_or(fiited.period_steps),
            warmup: self.warmup.unwrap_or(fiited.warmup_steps),
            hysteresis: self.hysteresis.unwrap_or(fiited.hysteresis),
            headroom: self.headroom.unwrap_or(fiited.headroom),
            sketch: self.sketch.unwrap_or(fiited.sketch),
            round_share: self.round_share.unwrap_or(fiited.round_share),
        }
    }

    /// Under the policy `none` a setting of the other would do nothing.
    fn check_no_fiited(&self) -> Result<(), CliError> {
        match self.given_fiited().into_iter().find(|&(_, given)| given) {
            Some((name, _)) => {
                Err(CliError::input(format!("--{name} does nothing under --policy none: it goes with --policy fiited")))
            }
            None => Ok(()),
        }
    }

    /// Fills in the defaults and checks what flags and file said.
    ///
    /// # Errors
    /// A value out of its range, or settings that do not go together.
    pub(crate) fn resolve(self) -> Result<Resolved, CliError> {
        let comparison = self.is_comparison();
        let fiited = match self.policy {
            Some(PolicyName::None) => {
                self.check_no_fiited()?;
                None
            }
            Some(PolicyName::Fiited) | None => Some(self.fiited()),
        };
        let data = self.data.unwrap_or_default();
        let embedded = data.is_empty();
        let rows = self.rows.or(embedded.then_some(defaults::EMBEDDED_ROWS));
        let holdout = match rows {
            Some(rows) if embedded => {
                (rows / defaults::EMBEDDED_HOLDOUT_SHARE).min(defaults::EMBEDDED_HOLDOUT_MAX) as usize
            }
            _ => defaults::HOLDOUT,
        };
        let optimizer = self.optimizer.unwrap_or(defaults::OPTIMIZER);
        let dense_optimizer = self.dense_optimizer.unwrap_or(defaults::DENSE_OPTIMIZER);
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
            checkpoint_every: self.checkpoint_every,
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
            Err(CliError::input(format!("--{name} {value}: give a number above 0")))
        };
        positive("lr", self.lr)?;
        positive("dense-lr", self.dense_lr)?;
        if !(self.init_bound.is_finite() && self.init_bound >= 0.0) {
            return Err(CliError::input(format!("--init-bound {}: give 0 or a number above 0", self.init_bound)));
        }
        for (name, layers) in [("bottom", &self.bottom), ("top", &self.top)] {
            if let Some(size) = layers.0.iter().find(|&size| !(1..=LAYER_MAX).contains(size)) {
                return Err(CliError::input(format!(
                    "--{name}: a layer of {size} is not possible, give 1 to {LAYER_MAX}"
                )));
            }
        }
        if self.window > WINDOW_MAX {
            return Err(CliError::input(format!(
                "--window {}: its rows stay in memory, give at most {WINDOW_MAX}",
                self.window
            )));
        }
        for (name, value) in [
            ("batch", self.batch as u64),
            ("threads", self.threads as u64),
            ("window", self.window),
            ("checkpoint-every", self.checkpoint_every.unwrap_or(1)),
            ("rows", self.rows.unwrap_or(1)),
        ] {
            if value == 0 {
                return Err(CliError::input(format!("--{name} 0: give at least 1")));
            }
        }
        if self.checkpoint_every.is_some() && self.policy.is_none() {
            return Err(CliError::input("--checkpoint-every is for one run, not for the comparison: give --policy"));
        }
        if self.checkpoint_every.is_some() && self.out.is_none() {
            return Err(CliError::input("--checkpoint-every needs --out DIR, where the snapshots go"));
        }
        if self.batch > BATCH_MAX {
            return Err(CliError::input(format!("--batch {}: give at most {BATCH_MAX}", self.batch)));
        }
        if self.format == Format::Csv && self.data.is_empty() {
            return Err(CliError::input("--format csv needs --data: the embedded stream has no format"));
        }
        if self.format == Format::Csv && self.columns.is_none() {
            return Err(CliError::input("--format csv needs --columns, such as --columns \"label=click,cat=*\""));
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
        let mut json = serde_json::to_value(self).map_err(|error| CliError::Internal(error.to_string()))?;
        if let Some(keys) = json.as_object_mut() {
            keys.remove("threads");
            keys.remove("out");
            keys.remove("checkpoint-every");
        }
        Ok(json)
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A 32-bit float as the short decimal that people write, and not its 17 digits as a 64-bit one.
fn short<S: Serializer>(value: &f32, serializer: S) -> Result<S::Ok, S::Error> {
    let text = value.to_string();
    serializer.serialize_f64(text.parse().unwrap_or(f64::from(*value)))
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
        let flags = Settings { dim: Some(32), ..Settings::default() };
        let resolved = flags.over(file).resolve().unwrap();
        assert_eq!((resolved.dim, resolved.batch, resolved.chunk), (32, 64, defaults::CHUNK));
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
    fn layers_read_the_same_from_a_flag_and_from_the_file() {
        for (flag, keys) in
            [("none", ["[]", "\"none\""]), ("64,32", ["[64, 32]", "\"64,32\""]), ("8", ["[8]", "\"8\""])]
        {
            let flags = Settings { top: Some(flag.parse().unwrap()), ..Settings::default() };
            let wanted = flags.resolve().unwrap().to_toml().unwrap();
            for key in keys {
                let printed = from_toml(&format!("top = {key}")).resolve().unwrap().to_toml().unwrap();
                assert_eq!(printed, wanted, "{key}");
                assert_eq!(from_toml(&printed).resolve().unwrap().to_toml().unwrap(), wanted);
            }
        }
        for wrong in ["\"\"", "\"64,\"", "\"0\"", "64", "[-1]", "[\"none\"]"] {
            toml::from_str::<Settings>(&format!("top = {wrong}")).unwrap_err();
        }
    }

    #[test]
    fn a_policy_takes_its_own_settings_alone() {
        let none = Settings { policy: Some(PolicyName::None), ..Settings::default() };
        let file = from_toml("policy = \"fiited\"\nwarmup = 7\nbatch = 99");
        let resolved = none.over(file.clone()).resolve().unwrap();
        assert_eq!((resolved.batch, resolved.policy), (99, Some(PolicyName::None)));
        assert!(!resolved.to_toml().unwrap().contains("warmup"));
        let flags = Settings { headroom: Some(0.1), ..Settings::default() };
        let error = flags.clone().over(from_toml("policy = \"none\"")).resolve().unwrap_err().to_string();
        assert!(error.contains("--headroom") && error.contains("--policy fiited"), "{error}");
        assert!(flags.over(file).resolve().unwrap().to_toml().unwrap().contains("warmup = 7"));
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
            ("policy = \"none\"\nwarmup = 100", "--warmup"),
            ("batch = 0", "--batch"),
            ("threads = 0", "--threads"),
            ("window = 0", "--window"),
            ("window = 99999999999", "--window"),
            ("bottom = [8, 0]", "--bottom"),
            ("top = [99999999999]", "--top"),
            ("lr = -1.0", "--lr"),
            ("dense-lr = nan", "--dense-lr"),
            ("rows = 100\nholdout = 100", "--holdout"),
            ("data = [\"a\"]\nformat = \"csv\"", "--columns"),
            ("columns = \"cat=*\"", "--columns"),
            ("checkpoint-every = 0\npolicy = \"none\"\nout = \"x\"", "--checkpoint-every"),
            ("checkpoint-every = 5\nout = \"x\"", "--policy"),
            ("checkpoint-every = 5\npolicy = \"none\"", "--out"),
        ];
        for (text, flag) in cases {
            let error = from_toml(text).resolve().unwrap_err();
            assert!(error.to_string().contains(flag), "{text}: {error}");
            assert_eq!(error.exit_code(), 2);
        }
        let unknown = toml::from_str::<Settings>("bugdet = 1").unwrap_err();
        assert!(unknown.message().contains("unknown field `bugdet`"));
    }

    #[test]
    fn the_help_tells_the_true_defaults() {
        use clap::Args;
        let settings = from_toml("policy = \"fiited\"").resolve().unwrap();
        let values: toml::Table = settings.to_toml().unwrap().parse().unwrap();
        let command = Settings::augment_args(clap::Command::new("train"));
        let mut told = 0;
        for argument in command.get_arguments() {
            let help = argument.get_help().unwrap().to_string();
            let Some((_, default)) = help.split_once("[default: ") else {
                continue;
            };
            let default = default.trim_end_matches(']').split(';').next().unwrap();
            let name = argument.get_long().unwrap();
            let value = match &values[name] {
                toml::Value::String(text) => text.clone(),
                toml::Value::Array(sizes) => sizes.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
                other => other.to_string(),
            };
            match name {
                // Not a constant, or another one for the embedded stream.
                "threads" | "rows" | "holdout" => continue,
                _ => assert_eq!(value, default, "--{name}"),
            }
            told += 1;
        }
        assert!(told > 15, "{told} defaults in the help");
        assert!(values["rows"].to_string() == "500000" && values["holdout"].to_string() == "50000");
    }
}
