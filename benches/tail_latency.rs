//! How long a batch of reads takes while the store prunes and compacts, and what pruning costs training.
//!
//! `cargo bench --bench tail_latency [-- --rows N --dim 16|64 --block SECONDS --repetitions N --part latency|cost --out DIR]`
//!
//! One thread gathers 2,048 keys at a time. Beside it a second thread does nothing; prunes in rounds; compacts; or, as a
//! control, makes as much plain memory traffic as a round does, without a store, or only keeps its processor busy: what
//! these cost is the machine's, the rest is the store's. Processor time beside wall time tells what a gather waited for
//! a processor from what it did on one, waiting for a claim included. The conditions alternate in blocks within one process, and every figure is the median over the
//! repetitions; ratios are those to the quiet blocks of the same repetition. A gather counts for a round if one ran when
//! it began or when it ended; gathers beside what happens between rounds (training rows back) are told apart. Keys are
//! of rows that stay, so that there is always as much to read.
//!
//! Then a training loop with the default policy, whose budget holds a third of what it meets: the pruning thread's part
//! of the process's processor time, and the time of a step with rounds against the same without; and the same of the
//! trainer with its networks.

#[path = "support/beside.rs"]
mod beside;
#[path = "support/keys.rs"]
mod keys;
#[path = "support/options.rs"]
mod options;
#[path = "support/pruning_cost.rs"]
mod pruning_cost;

use beside::{AT_IT, BETWEEN, Beside, Round, Rows, Traffic, table};
use hdrhistogram::Histogram;
use keys::Random;
use pruning_cost::processor_seconds;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const BATCH: usize = 2048;
const SHAPES: [(usize, usize); 2] = [(16, 4), (64, 16)];
const PERCENTILES: [f64; 6] = [50.0, 90.0, 99.0, 99.9, 99.99, 100.0];
/// A condition that is seldom met is waited for so many times as long as a block.
const PATIENCE: u32 = 6;

struct Args {
    rows: u64,
    /// `None`: all [`SHAPES`].
    dim: Option<usize>,
    block: Duration,
    repetitions: usize,
    /// `None`: both.
    part: Option<Part>,
    out: PathBuf,
}

#[derive(Clone, Copy, PartialEq)]
enum Part {
    Latency,
    Cost,
}

impl Args {
    fn parse() -> Outcome<Args> {
        let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/docs");
        let block = Duration::from_secs(2);
        let mut args = Args { rows: 1_000_000, dim: None, block, repetitions: 7, part: None, out: docs.into() };
        options::each(|word, value| {
            match word {
                "--rows" => args.rows = value.parse()?,
                "--dim" => args.dim = Some(value.parse()?),
                "--block" => args.block = Duration::try_from_secs_f64(value.parse()?)?,
                "--repetitions" => args.repetitions = value.parse()?,
                "--part" if value == "latency" => args.part = Some(Part::Latency),
                "--part" if value == "cost" => args.part = Some(Part::Cost),
                "--out" => args.out = value.into(),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        if args.shapes().next().is_none() {
            return Err("there are shapes of dim 16 and 64".into());
        }
        if args.rows < 20_000 || args.repetitions == 0 || args.block.is_zero() {
            return Err("at least 20,000 rows, 1 repetition and some time for a block".into());
        }
        Ok(args)
    }

    fn shapes(&self) -> impl Iterator<Item = (usize, usize)> {
        SHAPES.into_iter().filter(|&(dim, _)| self.dim.is_none_or(|only| only == dim))
    }
}

/// Which rows are read.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Draw {
    Zipf,
    Uniform,
}

/// Latencies of one condition, in one repetition.
struct Measured {
    condition: &'static str,
    latencies: Latencies,
}

/// Of the same gathers: how long they took, and for how long of that they had a processor.
struct Latencies {
    wall: Histogram<u64>,
    processor: Histogram<u64>,
}

impl Latencies {
    fn new() -> Outcome<Latencies> {
        let new = || Histogram::new_with_bounds(1, 60_000_000_000, 3);
        Ok(Latencies { wall: new()?, processor: new()? })
    }

    fn record(&mut self, wall: Duration, processor: f64) -> Outcome<()> {
        self.wall.record(wall.as_nanos() as u64)?;
        self.processor.record((processor * 1e9) as u64)?;
        Ok(())
    }

    fn add(&mut self, other: &Latencies) -> Outcome<()> {
        self.wall.add(&other.wall)?;
        self.processor.add(&other.processor)?;
        Ok(())
    }
}

fn main() -> Outcome<()> {
    let args = Args::parse()?;
    if args.part != Some(Part::Cost) {
        latency(&args)?;
    }
    if args.part != Some(Part::Latency) {
        for (dim, chunk) in args.shapes() {
            pruning_cost::measure(args.rows, dim, chunk, args.block, args.repetitions)?;
        }
        pruning_cost::measure_command(env!("CARGO_BIN_EXE_dimslab"), args.repetitions)?;
    }
    Ok(())
}

fn latency(args: &Args) -> Outcome<()> {
    let mut csv = "dim,chunk,keys,repetition,condition,gathers".to_owned();
    for clock in ["wall", "processor"] {
        PERCENTILES.iter().for_each(|percent| csv.push_str(&format!(",{clock}_p{percent}_ns")));
    }
    csv.push('\n');
    for (dim, chunk) in args.shapes() {
        let rows = Rows::new(args.rows, dim, chunk)?;
        for draw in [Draw::Zipf, Draw::Uniform] {
            let repetitions = repeat(args, &rows, draw, &format!("{} rows of dim {dim}, chunk {chunk}", args.rows))?;
            for (repetition, all) in repetitions.iter().enumerate() {
                for Measured { condition, latencies: Latencies { wall, processor } } in all {
                    write!(csv, "{dim},{chunk},{draw:?},{repetition},{condition},{}", wall.len())?;
                    for nanos in [wall, processor] {
                        PERCENTILES
                            .iter()
                            .try_for_each(|&percent| write!(csv, ",{}", nanos.value_at_percentile(percent)))?;
                    }
                    csv.push('\n');
                }
            }
        }
        rows.store.validate()?;
    }
    std::fs::create_dir_all(&args.out)?;
    let path = args.out.join("tail_latency.csv");
    std::fs::write(&path, csv)?;
    eprintln!("{}", path.display());
    Ok(())
}

/// All conditions, several times in turn.
fn repeat(args: &Args, rows: &Rows, draw: Draw, what: &str) -> Outcome<Vec<Vec<Measured>>> {
    let mut reader = Reader { rows, draw, random: Random(3), keys: Vec::new(), out: vec![0.0; BATCH * rows.dim] };
    let (mut pruned, mut compacted, mut passes) = (Vec::new(), Vec::new(), Vec::new());
    let mut repetitions = Vec::new();
    for _ in 0..args.repetitions {
        let (mut quiet, _) = reader.block(args.block / 2, beside::rest)?;
        let (pruning, rounds) = reader.block(args.block, |beside| rows.prune(beside))?;
        pruned.extend(rounds?);
        rows.check_whole()?;
        let (compacting, rounds) = reader.block(args.block, |beside| rows.compact(beside))?;
        compacted.extend(rounds?);
        rows.check_whole()?;
        let round = Round {
            time: median(pruned.iter().map(|round: &Round| round.time)),
            moved: median(compacted.iter().map(|round: &Round| round.moved)),
            ..Round::default()
        };
        let mut traffic = Traffic::like(rows, round);
        let (control, rounds) = reader.block(args.block, |beside| traffic.run(beside))?;
        passes.extend(rounds);
        let (busy, _) = reader.block(args.block, beside::spin)?;
        quiet.at_it.add(&reader.block(args.block / 2, beside::rest)?.0.at_it)?;
        let all = [
            ("quiet", quiet.at_it),
            ("pruning round", pruning.at_it),
            ("compacting round", compacting.at_it),
            ("control: memory traffic", control.at_it),
            ("control: a busy processor", busy.at_it),
            ("between pruning rounds", pruning.between),
            ("between compacting rounds", compacting.between),
        ];
        repetitions.push(all.map(|(condition, latencies)| Measured { condition, latencies }).into());
    }
    println!("\ngather of {BATCH} keys, {draw:?}, from {what}");
    print_rounds("pruning", &pruned);
    print_rounds("compacting", &compacted);
    print_rounds("control: memory traffic", &passes);
    print_table(&repetitions);
    print_together(&repetitions)?;
    check_rounds(&pruned, |round| round.taken)?;
    check_rounds(&compacted, |round| round.moved)?;
    Ok(repetitions)
}

/// Rounds without work would be measured for nothing, and a batch must not wait for a whole round. Single rounds may find
/// the reading thread without a processor.
fn check_rounds(rounds: &[Round], work: fn(&Round) -> u64) -> Outcome<()> {
    if rounds.is_empty() || rounds.iter().any(|round| work(round) == 0) {
        return Err("no round, or one that took or moved nothing".into());
    }
    let blocked = rounds.iter().filter(|round| round.gathers == 0).count();
    if blocked * 2 > rounds.len() {
        return Err(format!("no gather ended during {blocked} of {} rounds", rounds.len()).into());
    }
    Ok(())
}

/// Gathers, and what they took: beside what the block is about, and beside the rest of what the second thread did.
struct Reader<'r> {
    rows: &'r Rows,
    draw: Draw,
    random: Random,
    keys: Vec<u64>,
    out: Vec<f32>,
}

struct Block {
    at_it: Latencies,
    between: Latencies,
}

impl Reader<'_> {
    /// Gathers until that much time was spent beside what the block is about, or the patience is over.
    fn block<T: Send>(&mut self, time: Duration, work: impl FnOnce(&Beside) -> T + Send) -> Outcome<(Block, T)> {
        let mut block = Block { at_it: Latencies::new()?, between: Latencies::new()? };
        let beside = Beside::default();
        let done = std::thread::scope(|scope| {
            let worker = scope.spawn(|| work(&beside));
            let gathered = self.gather_beside(time, &beside, &mut block);
            beside.stop.store(true, Ordering::Relaxed);
            let done = worker.join();
            gathered.map(|()| done)
        })?;
        // The worker's panic was reported when it happened.
        Ok((block, done.map_err(|_| "the second thread panicked")?))
    }

    fn gather_beside(&mut self, time: Duration, beside: &Beside, block: &mut Block) -> Outcome<()> {
        let (begun, mut spent) = (Instant::now(), Duration::ZERO);
        while spent < time && begun.elapsed() < time * PATIENCE {
            let away = beside.away.load(Ordering::Relaxed);
            self.draw_keys(away);
            let before = beside.doing.load(Ordering::Relaxed);
            let (processor, started) = (processor_seconds(libc::CLOCK_THREAD_CPUTIME_ID)?, Instant::now());
            self.rows.store.gather(table(), &self.keys, &mut self.out)?;
            let took = started.elapsed();
            let processor = processor_seconds(libc::CLOCK_THREAD_CPUTIME_ID)? - processor;
            beside.gathers.fetch_add(1, Ordering::Relaxed);
            let after = beside.doing.load(Ordering::Relaxed);
            if beside.away.load(Ordering::Relaxed) != away {
                // Some of the keys went, or others came: not as much to read as always.
                continue;
            }
            if before == AT_IT || after == AT_IT {
                spent += took;
                block.at_it.record(took, processor)?;
            } else if before == BETWEEN || after == BETWEEN {
                block.between.record(took, processor)?;
            }
        }
        Ok(())
    }

    fn draw_keys(&mut self, away: u64) {
        self.keys.clear();
        while self.keys.len() < BATCH {
            let row = match self.draw {
                // The popular rows are spread over the store.
                Draw::Zipf => self.random.zipf(self.rows.steady).wrapping_mul(2_654_435_761),
                Draw::Uniform => self.random.next(),
            };
            self.keys.extend(self.rows.steady_key(row, away));
        }
    }
}

/// The middle value; the type's smallest without any.
fn median<T: Copy + PartialOrd + Default>(values: impl Iterator<Item = T>) -> T {
    let mut values: Vec<T> = values.collect();
    values.sort_by(|one, other| one.partial_cmp(other).unwrap_or(std::cmp::Ordering::Equal));
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn print_rounds(what: &str, rounds: &[Round]) {
    let middle = |value: fn(&Round) -> u64| median(rounds.iter().map(value));
    println!(
        "{what}: {} rounds, median {:.1} ms, {} chunks and rows taken, {} moved; {} gathers ended during a round (median), \
         none during {} rounds",
        rounds.len(),
        middle(|round| round.time.as_nanos() as u64) as f64 / 1e6,
        middle(|round| round.taken),
        middle(|round| round.moved),
        middle(|round| round.gathers),
        rounds.iter().filter(|round| round.gathers == 0).count()
    );
}

/// Microseconds, and the ratios to quiet.
fn print_table(repetitions: &[Vec<Measured>]) {
    print!("{:28}{:>10}", "microseconds (ratio)", "gathers");
    PERCENTILES.iter().for_each(|&percent| match percent {
        100.0 => print!("{:>18}", "max"),
        _ => print!("{:>18}", format!("p{percent}")),
    });
    println!();
    for condition in 0..repetitions.first().map_or(0, Vec::len) {
        let gathers: u64 = repetitions.iter().map(|all| all[condition].latencies.wall.len()).sum();
        print!("{:28}{gathers:10}", repetitions[0][condition].condition);
        for percent in PERCENTILES {
            let at = |measured: &Measured| measured.latencies.wall.value_at_percentile(percent) as f64;
            // Short blocks may leave a condition without a gather.
            let met = || repetitions.iter().filter(|all| !all[condition].latencies.wall.is_empty());
            let ratio = median(met().map(|all| at(&all[condition]) / at(&all[0]).max(1.0)));
            match met().next() {
                None => print!("{:>18}", "-"),
                Some(_) => {
                    let micros = median(met().map(|all| at(&all[condition]))) / 1e3;
                    print!("{:>18}", format!("{micros:.1} ({ratio:.2})"));
                }
            }
        }
        println!();
    }
}

/// The tail over all repetitions together, where it has the most gathers, by both clocks; and how far it goes apart
/// between repetitions.
fn print_together(repetitions: &[Vec<Measured>]) -> Outcome<()> {
    let tail = |nanos: &Histogram<u64>| nanos.value_at_percentile(99.9) as f64 / 1e3;
    println!("p99.9 over all repetitions (ratio): wall time, the least and the most of a repetition; processor time");
    let mut quiet = None;
    for condition in 0..repetitions.first().map_or(0, Vec::len) {
        let mut together = Latencies::new()?;
        repetitions.iter().try_for_each(|all| together.add(&all[condition].latencies))?;
        let (wall, processor) = (tail(&together.wall), tail(&together.processor));
        let (of_wall, of_processor) = *quiet.get_or_insert((wall, processor));
        let mut each: Vec<f64> = repetitions.iter().map(|all| tail(&all[condition].latencies.wall)).collect();
        each.sort_by(f64::total_cmp);
        println!(
            "{:28}{wall:10.1} ({:.2}), {:.1} to {:.1}; {processor:.1} ({:.2})",
            repetitions[0][condition].condition,
            wall / of_wall,
            each[0],
            each[each.len() - 1],
            processor / of_processor
        );
    }
    Ok(())
}
