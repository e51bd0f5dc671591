//! Settings of `train`: from flags, then the configuration file, then the defaults below.
//!
//! [`Settings`] is both the flags and the keys of the file, so that the two cannot drift apart; the
//! [`Resolved`](super::resolved::Resolved) settings are what a run uses, what `--print-config` prints and what the
//! report records.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::cli::error::CliError;
use crate::cli::values::{
    ByteSize, DecayRate, DenseOptimizerName, FallbackName, Format, Layers, OptimizerName, PolicyName,
};

/// One constant for each default.
pub(crate) mod defaults {
    use crate::cli::values::{ByteSize, DenseOptimizerName, FallbackName, Format};
    use crate::cli::values::{OptimizerName, PolicyName};
    pub(crate) use crate::study::INIT_BOUND;

    pub(crate) const FORMAT: Format = Format::Criteo;
    pub(crate) const DIM: usize = 16;
    pub(crate) const CHUNK: usize = 4;
    pub(crate) const BUDGET: ByteSize = ByteSize(64 << 20);
    pub(crate) const POLICY: PolicyName = PolicyName::Fiited;
    pub(crate) const OPTIMIZER: OptimizerName = OptimizerName::Adagrad;
    pub(crate) const FALLBACK: FallbackName = FallbackName::Zero;
    pub(crate) const DENSE_OPTIMIZER: DenseOptimizerName = DenseOptimizerName::Adagrad;
    pub(crate) const BOTTOM: [usize; 2] = [128, 64];
    pub(crate) const TOP: [usize; 2] = [256, 128];
    pub(crate) const BATCH: usize = 2048;
    pub(crate) const SEED: u64 = 1;
    /// Rows held out of data files.
    pub(crate) const HOLDOUT: usize = 0;
    /// Rows of the embedded stream.
    pub(crate) const EMBEDDED_ROWS: u64 = 500_000;
    /// Of the embedded stream one row in so many, at its end, is held out.
    pub(crate) const EMBEDDED_HOLDOUT_SHARE: u64 = 10;
    /// But no more than so many: held-out rows stay in memory.
    pub(crate) const EMBEDDED_HOLDOUT_MAX: u64 = 100_000;

    /// Learning rate of the embeddings.
    pub(crate) const fn lr(optimizer: OptimizerName) -> f64 {
        match optimizer {
            OptimizerName::Sgd => 0.1,
            OptimizerName::Adagrad | OptimizerName::RowwiseAdagrad => 0.03,
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
    /// fiited: how utilities fade: 5x, half with every 5 accesses per live row; 0.999, a factor per step; adaptive, by how newcomers turn out [default: adaptive]
    #[arg(long, value_name = "Nx|X")]
    pub(crate) decay: Option<DecayRate>,
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
    /// fiited: most of a processor's time that pruning rounds beside training take, 0.001 to 1 [default: 0.1]
    #[arg(long, value_name = "X")]
    pub(crate) round_share: Option<f32>,
    /// Update rule of the embeddings [default: adagrad]
    #[arg(long)]
    pub(crate) optimizer: Option<OptimizerName>,
    /// Learning rate of the embeddings [default: 0.03; sgd 0.1; adam 0.001]
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
    /// Hidden layers of the bottom network, or none [default: 128,64]
    #[arg(long, value_name = "SIZES")]
    pub(crate) bottom: Option<Layers>,
    /// Hidden layers of the top network, or none [default: 256,128]
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
    /// Read at most so many rows [default: all; embedded stream: 500000]
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
    /// Save a snapshot to go on from, under DIR/checkpoint of --out, every so many steps, beside training
    #[arg(long, value_name = "STEPS")]
    pub(crate) checkpoint_every: Option<u64>,
    /// Directory for metrics.jsonl, report.json and report.html
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

/// Reads a configuration file: TOML with the keys of [`Settings`].
pub(crate) fn read_config(path: &Path) -> Result<Settings, CliError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| CliError::input(format!("cannot read configuration {}: {error}", path.display())))?;
    toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        let what = error.message();
        CliError::input(format!("configuration {}, line {line}: {what}", path.display()))
    })
}

/// The settings of the policy `fiited`, in one place for all that is done with them alone.
macro_rules! of_fiited {
    ($($field:ident $name:literal),+ $(,)?) => {
        impl Settings {
            /// Names of `fiited`'s settings, and whether each is given.
            pub(crate) fn given_fiited(&self) -> [(&'static str, bool); [$($name),+].len()] {
                [$(($name, self.$field.is_some())),+]
            }

            fn forget_fiited(&mut self) {
                $(self.$field = None;)+
            }
        }
    };
}

of_fiited!(
    decay "decay",
    period "period",
    warmup "warmup",
    hysteresis "hysteresis",
    headroom "headroom",
    sketch "sketch",
    round_share "round-share",
);

/// `flag`, else `file`, field by field.
macro_rules! prefer {
    ($flags:ident, $file:ident: $($field:ident),+ $(,)?) => {
        Settings { $($field: $flags.$field.or($file.$field)),+ }
    };
}

impl Settings {
    /// These settings, with those of `file` where these say nothing. Who chooses the policy `none` here chooses it without
    /// the file's settings of `fiited`.
    pub(crate) fn over(self, mut file: Settings) -> Settings {
        if self.policy == Some(PolicyName::None) {
            file.forget_fiited();
        }
        prefer!(self, file: data, format, columns, dim, chunk, budget, policy, decay, period, warmup, hysteresis, headroom, sketch, round_share, optimizer, lr, fallback, init_bound,
            dense_optimizer, dense_lr, bottom, top, batch, threads, seed, holdout, rows, deterministic,
            skip_bad_lines, window, checkpoint_every, out)
    }

    /// Neither data nor a policy was chosen: compare full-size with budgeted on the embedded stream.
    pub(crate) fn is_comparison(&self) -> bool {
        self.data.is_none() && self.policy.is_none()
    }
}
