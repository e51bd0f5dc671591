//! `dimslab train`: one run, or full-size against budgeted on the embedded stream.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cli::checkpoint::{Resumed, Saver, check_free};
use crate::cli::error::CliError;
use crate::cli::progress::Progress;
use crate::cli::resolved::Resolved;
use crate::cli::settings::{Settings, defaults, read_config};
use crate::cli::values::{ByteSize, DenseOptimizerName, FallbackName, OptimizerName, PolicyName};
use crate::cli::{Ended, TrainArgs, print, profile, signal, source};
use crate::data::Schema;
use crate::dlrm::run::{Checkpoints, RunConfig, RunFailure, Watch, Window, rows_of_closed_windows, run_watched};
use crate::dlrm::{DenseOptimizer, Dlrm, DlrmConfig};
use crate::report::{
    FULL_SIZE, OutError, ProcessMemory, Report, ReportContext, RunDir, process_memory, reset_process_peak,
};
use crate::sync::AtomicBool;
use crate::{Fallback, Init, Optimizer, Policy, Store, StoreConfig, TableConfig};

/// Budget of a comparison's full-size run: a limit that the embedded stream stays far below.
const FULL_SIZE_BUDGET: ByteSize = ByteSize(4 << 30);
/// The budgeted run of a comparison gets one byte in so many of those the full-size run held.
const COMPARISON_SHARE: u64 = 10;

const ADAGRAD_EPS: f32 = 1e-8;
const ADAGRAD_INITIAL_ACCUMULATOR: f32 = 0.0;
const ADAM_BETA1: f32 = 0.9;
const ADAM_BETA2: f32 = 0.999;
const ADAM_EPS: f32 = 1e-8;
/// Where the fallback is a hashed row, one byte in so many of the budget goes to the weights of such rows.
const HASHED_SHARE: u64 = 32;

/// Runs the command.
pub(crate) fn command(args: TrainArgs) -> Result<Ended, CliError> {
    if let Some(dir) = &args.resume {
        let resumed = Resumed::open(dir)?;
        if args.print_config {
            print::line(resumed.settings.to_toml()?.trim_end())?;
            return Ok(Ended::Whole);
        }
        let runner = Runner { stop: signal::stop_flag()?, verbose: args.verbose, profile: args.profile };
        return runner.single(&resumed.settings, Some(&resumed));
    }
    let file = args.config.as_deref().map_or_else(|| Ok(Settings::default()), read_config)?;
    let settings = args.settings.over(file);
    let comparison = settings.is_comparison();
    let settings = settings.resolve()?;
    if args.print_config {
        print::line(settings.to_toml()?.trim_end())?;
        return Ok(Ended::Whole);
    }
    let runner = Runner { stop: signal::stop_flag()?, verbose: args.verbose, profile: args.profile };
    if comparison { runner.compare(&settings) } else { runner.single(&settings, None) }
}

/// What all runs of one command share.
struct Runner {
    stop: Arc<AtomicBool>,
    verbose: bool,
    profile: bool,
}

/// A run that came to a report, be it by an error.
struct Finished {
    report: Report,
    /// Where the time went, if that was asked for.
    profile: Option<String>,
    error: Option<CliError>,
}

impl Runner {
    /// One run and its table.
    fn single(&self, settings: &Resolved, resumed: Option<&Resumed>) -> Result<Ended, CliError> {
        let run = self.run(settings, settings.out.as_deref(), "train", resumed)?;
        if let Some(out) = &settings.out {
            RunDir::remove_full_size(out).map_err(out_error)?;
        }
        let policy = settings.policy.unwrap_or(defaults::POLICY);
        let title = match policy {
            PolicyName::Fiited => "fiited",
            PolicyName::None => "none",
        };
        let text = format!(
            "{}\n{}",
            print::run_table(&format!("policy {title}"), &run.report),
            print::memory_lines(&run.report)
        );
        self.close(run, &text, settings)
    }

    /// Full-size, then budgeted, and the table of both.
    fn compare(&self, settings: &Resolved) -> Result<Ended, CliError> {
        let of = |policy: PolicyName, budget: ByteSize| Resolved {
            policy: Some(policy),
            budget: Some(budget),
            fiited: settings.fiited.filter(|_| policy == PolicyName::Fiited),
            ..settings.clone()
        };
        // Before minutes are spent: is the place of the second run's files free?
        settings.out.as_deref().map(RunDir::open).transpose().map_err(CliError::input)?;
        let full_out: Option<PathBuf> = settings.out.as_ref().map(|out| out.join(FULL_SIZE));
        let full_settings = of(PolicyName::None, FULL_SIZE_BUDGET);
        let full = self.run(&full_settings, full_out.as_deref(), "full-size", None)?;
        if full.error.is_some() || full.report.interrupted {
            let text = print::run_table("full-size", &full.report).to_string();
            return self.close(full, &text, settings);
        }
        let tenth = ByteSize(full.report.bytes.held / COMPARISON_SHARE);
        let budgeted_settings = of(PolicyName::Fiited, settings.budget.unwrap_or(tenth));
        // Before the first run of a process there is nothing to forget, and the peak that the system tells at the end
        // (such as /usr/bin/time) stays the whole truth.
        reset_process_peak();
        let budgeted = self.run(&budgeted_settings, settings.out.as_deref(), "budgeted", None)?;
        let text = format!(
            "{}\nfull-size\n{}\nbudgeted\n{}",
            print::comparison_table(&full.report, &budgeted.report),
            with_profile(&full),
            print::memory_lines(&budgeted.report)
        );
        self.close(budgeted, &text, settings)
    }

    /// Prints what a command ends with and says how it ended.
    fn close(&self, run: Finished, text: &str, settings: &Resolved) -> Result<Ended, CliError> {
        let skipped = run.report.skipped_lines;
        let mut text = text.to_owned();
        if let Some(profile) = &run.profile {
            text += &format!("\n{profile}");
        }
        if run.report.interrupted {
            text += "\ninterrupted: this is the report up to there";
        }
        if skipped > 0 {
            text += &format!("\n{skipped} malformed lines were skipped");
        }
        if let Some(out) = &settings.out {
            text += &format!("\nreport   {}", out.join("report.html").display());
        }
        // A run that failed before its first step has nothing to show but the error.
        let nothing = run.error.is_some() && run.report.rows == 0;
        let printed = if nothing { Ok(()) } else { print::line(&text) };
        match run.error {
            Some(error) => Err(error),
            None if run.report.interrupted => Ok(Ended::Interrupted),
            None => printed.map(|()| Ended::Whole),
        }
    }

    /// Trains once with the policy and the budget of `settings` and writes the run's files to `out`.
    fn run(
        &self,
        settings: &Resolved,
        out: Option<&Path>,
        label: &str,
        resumed: Option<&Resumed>,
    ) -> Result<Finished, CliError> {
        let mut dir = out.map(RunDir::open).transpose().map_err(CliError::input)?;
        if let (Some(out), None) = (out, resumed) {
            check_free(out)?;
        }
        let mut loader = source::loader(settings)?;
        let shape = model_config(settings, loader.schema());
        let mut model = Dlrm::new(shape.clone()).map_err(CliError::input)?;
        let warm_rows = settings.rows.map_or(settings.batch, |rows| settings.batch.min(rows as usize));
        // What the trainer needs for itself is in memory before the store is made, so that the rest is the store's.
        model.warm_up(warm_rows).map_err(CliError::input)?;
        loader.wait_ready();
        let before = process_memory();
        let (config, tables) = store_settings(settings, loader.schema());
        let store = match resumed {
            Some(resumed) => resumed.store(config, tables)?,
            None => Store::new(config, tables).map_err(CliError::input)?,
        };
        if let Some(dir) = &mut dir {
            match resumed {
                Some(resumed) => dir.resume(rows_of_closed_windows(&resumed.sections).unwrap_or(0)),
                None => dir.begin(),
            }
            .map_err(out_error)?;
        }
        let mut saver = match (settings.checkpoint_every, out) {
            (Some(_), Some(out)) => Some(Saver::new(out, settings, &shape)?),
            _ => None,
        };
        let to_train = settings.rows.map(|rows| rows - settings.holdout as u64);
        let progress = Progress::new(label, to_train, self.verbose);
        let mut broken = None; // the first failure to write a window; the training goes on
        let mut on_window = |window: &Window| {
            progress.window(window);
            if let Some(dir) = &mut dir
                && let Err(error) = dir.window(window)
            {
                broken.get_or_insert(error);
            }
        };
        let config = RunConfig { window_rows: settings.window, checkpoint_steps: settings.checkpoint_every };
        let resume = resumed.map(|resumed| &resumed.sections[..]);
        let mut none = ();
        let checkpoints = saver.as_mut().map_or(&mut none as &mut dyn Checkpoints, |saver| saver);
        let watch = Watch { on_window: &mut on_window, checkpoints, resume };
        let ended = run_watched(&mut model, &store, &mut loader, &config, &self.stop, watch);
        progress.finish();
        let (run, error) = match ended {
            Ok(run) => (run, None),
            Err(RunFailure { error, so_far }) => (*so_far, Some(CliError::input(error))),
        };
        let context = context(settings, before)?;
        let report = Report::new(&run, &context, error.as_ref().map(ToString::to_string));
        let written = dir.as_mut().map_or(Ok(()), |dir| dir.finish(&report));
        let broken = broken.map_or(written, Err).err().map(out_error);
        let unsaved = saver.and_then(Saver::finish);
        let profile = self.profile.then(|| profile::text(&run, &model, settings.threads, settings.dim));
        Ok(Finished { report, profile, error: error.or(broken).or(unsaved) })
    }
}

/// The memory of a run whose profile is not printed elsewhere, and its profile.
fn with_profile(run: &Finished) -> String {
    let memory = print::memory_lines(&run.report);
    run.profile.as_ref().map_or(memory.clone(), |profile| format!("{memory}\n{profile}"))
}

fn context(settings: &Resolved, before: ProcessMemory) -> Result<ReportContext, CliError> {
    let after = process_memory(); // before anything else here takes memory of its own
    Ok(ReportContext {
        seed: settings.seed,
        threads: settings.threads,
        config: settings.to_json()?,
        reachable_auc: source::reachable_auc(settings)?,
        before,
        after,
    })
}

/// Where the user named an impossible place it is bad input, elsewhere a failure.
fn out_error(error: OutError) -> CliError {
    match &error {
        OutError::Io { path, source } => CliError::writing(path, source),
        _ => CliError::input(error),
    }
}

/// Shared rows of each table where the fallback is a hashed row.
fn hashed_rows(settings: &Resolved, tables: usize) -> usize {
    let bytes = settings.budget.unwrap_or(defaults::BUDGET).0 / HASHED_SHARE;
    let row_bytes = (tables * settings.dim * size_of::<f32>()).max(1) as u64;
    usize::try_from(bytes / row_bytes).unwrap_or(usize::MAX).max(1)
}

/// What the store of a run is made of: one table for each categorical column.
fn store_settings(settings: &Resolved, schema: &Schema) -> (StoreConfig, Vec<TableConfig>) {
    let (lr, eps) = (settings.lr as f32, ADAGRAD_EPS);
    let initial_accumulator = ADAGRAD_INITIAL_ACCUMULATOR;
    let optimizer = match settings.optimizer {
        OptimizerName::Sgd => Optimizer::Sgd { lr },
        OptimizerName::Adagrad => Optimizer::Adagrad { lr, eps, initial_accumulator },
        OptimizerName::RowwiseAdagrad => Optimizer::RowwiseAdagrad { lr, eps, initial_accumulator },
        OptimizerName::Adam => Optimizer::Adam { lr, beta1: ADAM_BETA1, beta2: ADAM_BETA2, eps: ADAM_EPS },
    };
    let fallback = match settings.fallback {
        FallbackName::Zero => Fallback::Zero,
        FallbackName::DefaultVector => Fallback::DefaultVector,
        FallbackName::HashedRow => Fallback::HashedRow { rows: hashed_rows(settings, schema.categorical.len()) },
    };
    let bound = settings.init_bound as f32;
    let init = if bound > 0.0 { Init::Uniform { bound } } else { Init::Zero };
    let tables = schema.categorical.iter().map(|name| {
        TableConfig::new(name, settings.dim).chunk(settings.chunk).optimizer(optimizer).init(init).fallback(fallback)
    });
    let policy = settings.fiited.map_or(Policy::None, |fiited| Policy::Fiited(fiited.into()));
    let config = StoreConfig::new(settings.budget.unwrap_or(defaults::BUDGET).0)
        .policy(policy)
        .seed(settings.seed)
        .deterministic(settings.deterministic)
        .snapshots(settings.checkpoint_every.is_some());
    (config, tables.collect())
}

fn model_config(settings: &Resolved, schema: &Schema) -> DlrmConfig {
    let lr = settings.dense_lr as f32;
    let dense_optimizer = match settings.dense_optimizer {
        DenseOptimizerName::Sgd => DenseOptimizer::Sgd { lr },
        DenseOptimizerName::Adagrad => {
            DenseOptimizer::Adagrad { lr, eps: ADAGRAD_EPS, initial_accumulator: ADAGRAD_INITIAL_ACCUMULATOR }
        }
    };
    DlrmConfig {
        n_dense: schema.dense.len(),
        n_features: schema.categorical.len(),
        dim: settings.dim,
        bottom: settings.bottom.0.clone(),
        top: settings.top.0.clone(),
        dense_optimizer,
        seed: settings.seed,
        threads: settings.threads,
    }
}
