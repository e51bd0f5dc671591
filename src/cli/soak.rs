//! `dimslab soak`: everything at random over one store, until a time is up or an invariant is broken.

mod gate;
mod quiet;
mod tables;
mod worker;

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::cli::Ended;
use crate::cli::error::CliError;
use crate::cli::signal;
use crate::cli::values::ByteSize;
use crate::report::{human_bytes, human_count};
use crate::sync::{AtomicBool, AtomicU64, Ordering};
use crate::{Store, StoreConfig};
use gate::Gate;
use quiet::Inspector;
use worker::{Shared, Worker};

/// Flags of `soak`.
#[derive(Debug, clap::Args)]
pub(crate) struct SoakArgs {
    /// Seconds to run, unless --ops says otherwise [default: 60]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    seconds: Option<u64>,
    /// Threads that use the store, 1 to 256 [default: 2; 1 with --deterministic]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=256))]
    threads: Option<u64>,
    /// Hard limit on the store's bytes; the number of keys follows it
    #[arg(long, value_name = "BYTES", default_value = "2MiB")]
    budget: ByteSize,
    /// Seed of each thread's operations
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Operations of each thread, instead of a time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    ops: Option<u64>,
    /// One thread, and growth and pruning within its steps: the same seed and --ops give the same digest
    #[arg(long)]
    deterministic: bool,
    /// Print a line for each quiet point
    #[arg(long, short)]
    verbose: bool,
}

/// Time between quiet points.
const PERIOD: Duration = Duration::from_secs(1);
/// Operations between them in a deterministic run, where the clock must change nothing.
const PERIOD_OPS: u64 = 20_000;
/// Bytes of budget for each key of a table: the rows of all keys would need about three times the budget.
const BYTES_PER_KEY: u64 = 420;
const LEAST_KEYS: u64 = 200;

/// What broke first.
struct Broken {
    /// `None`: at a quiet point.
    thread: Option<usize>,
    operation: u64,
    what: String,
}

/// One soak.
struct Run<'a> {
    shared: &'a Shared,
    seed: u64,
    gives_way: bool,
    ops: u64,
    until: Option<Instant>,
    stop: &'a AtomicBool,
    /// Operations that each thread has done.
    done: Vec<AtomicU64>,
    broken: Mutex<Option<Broken>>,
    gate: Gate,
    verbose: bool,
    begin: Instant,
}

/// `dimslab soak`.
pub(crate) fn command(args: &SoakArgs) -> Result<Ended, CliError> {
    let threads = args.threads.unwrap_or(if args.deterministic { 1 } else { 2 });
    if args.deterministic && threads != 1 {
        let text = format!("--deterministic runs one thread, --threads asks for {threads}; leave one of them out");
        return Err(CliError::input(text));
    }
    let config = StoreConfig::new(args.budget.0).policy(tables::policy()).seed(args.seed);
    let configs = tables::KINDS.iter().map(tables::Kind::config).collect();
    let store = Store::new(config.deterministic(args.deterministic), configs).map_err(CliError::input)?;
    let shared = Shared { store, keys: (args.budget.0 / BYTES_PER_KEY).max(LEAST_KEYS), steps: Default::default() };
    print(&format!(
        "soak     seed {}, threads {threads}, budget {}, {} tables of {} keys{}",
        args.seed,
        args.budget,
        tables::KINDS.len(),
        human_count(shared.keys),
        if args.deterministic { ", deterministic" } else { "" },
    ))?;
    let seconds = args.seconds.or(if args.ops.is_some() { None } else { Some(60) });
    let stop = signal::stop_flag()?;
    let begin = Instant::now();
    let run = Run {
        shared: &shared,
        seed: args.seed,
        gives_way: !args.deterministic,
        ops: args.ops.unwrap_or(u64::MAX),
        until: seconds.map(|seconds| begin + Duration::from_secs(seconds)),
        stop: &stop,
        done: (0..threads).map(|_| AtomicU64::new(0)).collect(),
        broken: Mutex::new(None),
        gate: Gate::new(threads as usize),
        verbose: args.verbose || io::stderr().is_terminal(),
        begin,
    };
    let mut inspector = Inspector::new();
    if args.deterministic {
        run.alone(&mut inspector)
    } else {
        run.threads(&mut inspector)
    }
    run.conclude(&inspector)
}

impl Run<'_> {
    /// Whether threads should go on.
    fn goes_on(&self) -> bool {
        let in_time = self.until.is_none_or(|until| Instant::now() < until);
        in_time && !self.stop.load(Ordering::Relaxed) && self.broken.lock().is_none()
    }

    fn broke(&self, thread: Option<usize>, what: String) {
        let operation = thread.map_or(self.operations(), |thread| self.done[thread].load(Ordering::Relaxed));
        self.broken.lock().get_or_insert(Broken { thread, operation, what });
    }

    fn operations(&self) -> u64 {
        self.done.iter().map(|done| done.load(Ordering::Relaxed)).sum()
    }

    /// All operations of a deterministic run.
    fn alone(&self, inspector: &mut Inspector) {
        let mut worker = Worker::new(self.shared, self.seed, 0, self.gives_way);
        let mut done = 0;
        while done < self.ops && self.goes_on() {
            let end = self.ops.min(done + PERIOD_OPS);
            while done < end {
                if let Err(what) = worker.operation() {
                    self.broke(Some(0), what);
                    return;
                }
                done += 1;
                self.done[0].store(done, Ordering::Relaxed);
            }
            self.quiet_point(inspector);
        }
    }

    /// Runs the threads and holds them at quiet points.
    fn threads(&self, inspector: &mut Inspector) {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let handles: Vec<_> = (0..self.done.len())
                .map(|thread| {
                    scope.spawn({
                        let over = &over;
                        move || self.thread(thread, over)
                    })
                })
                .collect();
            while self.goes_on() && !self.gate.is_deserted() {
                let left = self.until.map_or(PERIOD, |until| until.saturating_duration_since(Instant::now()));
                self.wait(left.min(PERIOD));
                self.gate.at_rest(|| self.quiet_point(inspector));
            }
            over.store(true, Ordering::Relaxed);
            for (thread, handle) in handles.into_iter().enumerate() {
                if handle.join().is_err() {
                    self.broke(Some(thread), "the thread panicked".to_owned());
                }
            }
        });
        if self.broken.lock().is_none() {
            self.quiet_point(inspector);
        }
    }

    /// Waits so long, or until something ends the run.
    fn wait(&self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end && self.goes_on() && !self.gate.is_deserted() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn thread(&self, thread: usize, over: &AtomicBool) {
        let _visitor = self.gate.visitor();
        let mut worker = Worker::new(self.shared, self.seed, thread, self.gives_way);
        let mut done = 0;
        while done < self.ops && !over.load(Ordering::Relaxed) {
            self.gate.pass();
            if let Err(what) = worker.operation() {
                self.broke(Some(thread), what);
                return;
            }
            done += 1;
            self.done[thread].store(done, Ordering::Relaxed);
        }
    }

    fn quiet_point(&self, inspector: &mut Inspector) {
        if let Err(what) = inspector.inspect(self.shared) {
            self.broke(None, what);
        }
        if self.verbose {
            let stats = self.shared.store.stats();
            let seconds = self.begin.elapsed().as_secs_f64();
            let line = format!(
                "{seconds:>8.1} s  {:>9} ops/s  {:>6} rows  admitted {} grown {} shrunk {} evicted {} refused {}  held {} of {}",
                human_count((self.operations() as f64 / seconds.max(1e-9)) as u64),
                human_count(stats.rows),
                human_count(stats.events.admitted),
                human_count(stats.events.grown),
                human_count(stats.events.shrunk),
                human_count(stats.events.evicted),
                human_count(stats.events.refused),
                human_bytes(stats.held),
                human_bytes(stats.budget),
            );
            // Progress is a courtesy: a closed standard error does not end a soak.
            let _ = writeln!(io::stderr(), "{line}");
        }
    }

    /// Prints the summary and says how it ended.
    fn conclude(&self, inspector: &Inspector) -> Result<Ended, CliError> {
        let stats = self.shared.store.stats();
        let (events, seconds) = (stats.events, self.begin.elapsed().as_secs_f64());
        let operations = self.operations();
        print(&format!(
            "ran      {} operations in {seconds:.1} s, {} a second, {} quiet points\n\
             rows     {} now; admitted {}, grown {}, shrunk {}, evicted {}, refused {}\n\
             store    held {}, peak {}, budget {}\n\
             sums     {} exact, {} not told because permanent rows had changed hands\n\
             digest   {:016x}",
            human_count(operations),
            human_count((operations as f64 / seconds.max(1e-9)) as u64),
            inspector.points,
            human_count(stats.rows),
            human_count(events.admitted),
            human_count(events.grown),
            human_count(events.shrunk),
            human_count(events.evicted),
            human_count(events.refused),
            human_bytes(stats.held),
            human_bytes(stats.peak),
            human_bytes(stats.budget),
            inspector.exact,
            inspector.changed,
            quiet::digest(&self.shared.store),
        ))?;
        if let Some(Broken { thread, operation, what }) = self.broken.lock().take() {
            let place = match thread {
                Some(thread) => format!("thread {thread}, operation {operation}"),
                None => format!("a quiet point after {operation} operations"),
            };
            return Err(CliError::Internal(format!("seed {}, {place}: {what}", self.seed)));
        }
        Ok(if self.stop.load(Ordering::Relaxed) { Ended::Interrupted } else { Ended::Whole })
    }
}

fn print(text: &str) -> Result<(), CliError> {
    writeln!(io::stdout(), "{text}").map_err(|error| CliError::printing(&error))
}
