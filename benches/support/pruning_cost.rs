//! What pruning costs a training loop.

use super::keys::{Random, mix};
use dimslab::{Store, StoreConfig, StoreError, TableConfig, TableId};
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn table() -> TableId {
    TableId::new(0)
}
const BATCH: usize = 2048;
const SELF: &str = "/proc/self";
/// Steps in a block: the default policy's period.
const STEPS: u64 = 500;

/// A loop of gather, apply_gradients and step over Zipf keys of `ids` ids, of which a third has room.
struct Training {
    store: Store,
    ids: u64,
    dim: usize,
    chunk: usize,
    random: Random,
    keys: Vec<u64>,
    rows: Vec<f32>,
}

/// One block of steps.
#[derive(Clone, Copy, Default)]
struct Cost {
    wall: f64,
    /// Processor seconds of the pruning thread, with what it still had to do when the block was over, and of all.
    pruner: f64,
    process: f64,
}

/// Alternates blocks with rounds and without, and prints what rounds cost.
pub(crate) fn measure(ids: u64, dim: usize, chunk: usize, block: Duration, repetitions: usize) -> Outcome<()> {
    let budget = ids * (dim * 8 + dim / chunk * 12 + 20) as u64 / 3 + (1 << 20);
    let table = TableConfig::new("rows", dim).chunk(chunk);
    let store = Store::new(StoreConfig::new(budget), vec![table])?;
    let (keys, rows) = (Vec::with_capacity(BATCH), vec![0.0; BATCH * dim]);
    let mut training = Training { store, ids, dim, chunk, random: Random(11), keys, rows };
    training.warm_up()?;
    let (mut with, mut without) = (Vec::new(), Vec::new());
    let before = training.store.stats();
    let mut steps = 0;
    for _ in 0..repetitions {
        let (mut on, mut off) = (Cost::default(), Cost::default());
        // Short blocks, that the two are close in time, as many as fill the block that was asked for.
        let begun = Instant::now();
        while begun.elapsed() < 2 * block {
            on.add(training.block(true)?);
            off.add(training.block(false)?);
            steps += STEPS;
        }
        with.push(on);
        without.push(off);
    }
    let events = training.store.stats().events;
    println!(
        "\npruning beside training: {ids} ids, Zipf, dim {dim}, chunk {chunk}, {BATCH} keys a step, default policy"
    );
    let stats = training.store.stats();
    println!("{} rows, {} chunks live in {} MiB", stats.rows, stats.chunks, stats.held >> 20);
    let sum = |costs: &[Cost], value: fn(&Cost) -> f64| costs.iter().map(value).sum::<f64>();
    let (pruner, process) = (sum(&with, |cost| cost.pruner), sum(&with, |cost| cost.process));
    println!(
        "with rounds: {:.3} ms a step, pruning thread {:.1} % of the process's processor time ({:.2} of {:.2} s)",
        sum(&with, |cost| cost.wall) / steps as f64 * 1e3,
        pruner / process * 100.0,
        pruner,
        process
    );
    println!("without: {:.3} ms a step", sum(&without, |cost| cost.wall) / steps as f64 * 1e3);
    let ratios = with.iter().zip(&without).map(|(with, without)| with.wall / without.wall);
    println!("wall time with / without: {:.3} (median of {repetitions})", super::median(ratios));
    println!(
        "in {steps} steps with rounds and as many without: {} chunks taken, {} rows evicted, {} grown, {} admitted",
        events.shrunk - before.events.shrunk,
        events.evicted - before.events.evicted,
        events.grown - before.events.grown,
        events.admitted - before.events.admitted,
    );
    training.store.validate()?;
    Ok(())
}

impl Cost {
    fn add(&mut self, other: Cost) {
        self.wall += other.wall;
        self.pruner += other.pruner;
        self.process += other.process;
    }
}

impl Training {
    /// Trains until the budget has been full and the policy has had a few periods.
    fn warm_up(&mut self) -> Outcome<()> {
        let mut full = None;
        for step in 0..self.ids / 20 + 100_000 {
            self.step()?;
            self.store.step()?;
            if full.is_none() && step % 64 == 0 && self.store.stats().threshold > 0.0 {
                full = Some(step);
            }
            if full.is_some_and(|full| step >= full + 3 * STEPS) {
                self.settle()?;
                return Ok(());
            }
        }
        Err("the budget never filled".into())
    }

    /// `STEPS` steps. Without `Store::step` no round ever comes; what it does beside asking for one is a handful of
    /// instructions.
    fn block(&mut self, rounds: bool) -> Outcome<Cost> {
        let (pruner, process, begun) =
            (pruner_seconds(SELF)?, processor_seconds(libc::CLOCK_PROCESS_CPUTIME_ID)?, Instant::now());
        for _ in 0..STEPS {
            self.step()?;
            if rounds {
                self.store.step()?;
            }
        }
        let wall = begun.elapsed().as_secs_f64();
        if rounds {
            self.settle()?;
        }
        Ok(Cost {
            wall,
            pruner: pruner_seconds(SELF)? - pruner,
            process: processor_seconds(libc::CLOCK_PROCESS_CPUTIME_ID)? - process,
        })
    }

    fn step(&mut self) -> Result<(), StoreError> {
        self.keys.clear();
        self.keys.extend((0..BATCH).map(|_| mix(self.random.zipf(self.ids))));
        self.store.gather(table(), &self.keys, &mut self.rows)?;
        for (key, row) in self.keys.iter().zip(self.rows.chunks_exact_mut(self.dim)) {
            for (ordinal, grads) in row.chunks_exact_mut(self.chunk).enumerate() {
                // Noise, as gradients of trained rows are, of a size that differs between keys and chunks.
                let size = (mix(key ^ ordinal as u64) >> 40) as f32 / (1u64 << 24) as f32;
                grads.fill((0.25 + size) * (self.random.unit() as f32 - 0.5));
            }
        }
        self.store.apply_gradients(table(), &self.keys, &self.rows)?;
        Ok(())
    }

    /// Waits until the pruning thread rests.
    fn settle(&self) -> Outcome<()> {
        let mut before = pruner_seconds(SELF)?;
        loop {
            std::thread::sleep(Duration::from_millis(20));
            let now = pruner_seconds(SELF)?;
            if now == before {
                return Ok(());
            }
            before = now;
        }
    }
}

/// The same of whole training runs of the command, with its networks and the making of its stream: with the default
/// policy, and with a period that never ends.
pub(crate) fn measure_command(command: &str, repetitions: usize) -> Outcome<()> {
    let (mut with, mut without) = (Cost::default(), Cost::default());
    let mut ratios = Vec::new();
    for _ in 0..repetitions {
        let on = run_command(command, &[])?;
        let off = run_command(command, &["--period", "1000000000", "--warmup", "1000000000"])?;
        ratios.push(on.wall / off.wall);
        with.add(on);
        without.add(off);
    }
    println!("\npruning beside the trainer: dimslab {}, embedded stream, default networks", COMMAND.join(" "));
    let runs = repetitions as f64;
    println!(
        "with rounds: {:.2} s a run, pruning thread {:.1} % of the process's processor time ({:.2} of {:.2} s a run)",
        with.wall / runs,
        with.pruner / with.process * 100.0,
        with.pruner / runs,
        with.process / runs
    );
    println!("without: {:.2} s a run", without.wall / runs);
    println!("wall time with / without: {:.3} (median of {repetitions})", super::median(ratios.into_iter()));
    Ok(())
}

const COMMAND: [&str; 7] = ["train", "--policy", "fiited", "--budget", "8MiB", "--rows", "300000"];

fn run_command(command: &str, more: &[&str]) -> Outcome<Cost> {
    let begun = Instant::now();
    let mut run = Command::new(command);
    run.args(COMMAND).args(more).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = run.spawn()?;
    let mut cost = Cost::default();
    // The last look before the end: the system forgets a process's times with it.
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        let process = format!("/proc/{}", child.id());
        if let (Ok(pruner), Ok(all)) = (pruner_seconds(&process), all_seconds(&process)) {
            (cost.pruner, cost.process) = (pruner, all);
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    cost.wall = begun.elapsed().as_secs_f64();
    if !status.success() || cost.process == 0.0 {
        return Err(format!("{command}: {status}, {} s of processor time seen", cost.process).into());
    }
    Ok(cost)
}

/// Processor seconds of a process, those of its threads that ended included.
fn all_seconds(process: &str) -> Outcome<f64> {
    let text = fs::read_to_string(format!("{process}/stat"))?;
    // After the name, which may have anything in it: state, then the 12th and 13th fields, in ticks.
    let fields = text.rsplit_once(')').ok_or("no name in stat")?.1;
    let ticks: Result<Vec<f64>, _> = fields.split_whitespace().skip(11).take(2).map(str::parse).collect();
    // SAFETY: no preconditions.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Ok(ticks?.iter().sum::<f64>() / per_second as f64)
}

/// Processor seconds by a clock of this process or thread.
pub(crate) fn processor_seconds(clock: libc::clockid_t) -> Outcome<f64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is there to be written to.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9)
}

/// Processor seconds of a process's pruning thread, as the scheduler counts them in nanoseconds.
fn pruner_seconds(process: &str) -> Outcome<f64> {
    for task in fs::read_dir(format!("{process}/task"))? {
        let task = task?.path();
        if fs::read_to_string(task.join("comm"))?.trim() == "dimslab-pruner" {
            let text = fs::read_to_string(task.join("schedstat"))?;
            let nanos: u64 = text.split(' ').next().ok_or("an empty schedstat")?.parse()?;
            return Ok(nanos as f64 * 1e-9);
        }
    }
    Err("no pruning thread".into())
}
