//! How long a batch of reads takes while the store prunes and compacts, and what pruning costs training.
//!
//! `cargo bench --bench tail_latency [-- --rows N --block SECONDS --repetitions N --part latency|cost --out DIR]`
//!
//! One thread gathers 2,048 keys at a time. Beside it a second thread does nothing; prunes in rounds; compacts; or, as a
//! control, makes as much plain memory traffic as a round does, without a store: what that costs is the machine's, the
//! rest is the store's. The conditions alternate in blocks within one process, and every figure is the median over the
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
#[path = "support/pruning_cost.rs"]
mod pruning_cost;

use beside::{AT_IT, BETWEEN, Beside, Round, Rows, Traffic, table};
use hdrhistogram::Histogram;
use keys::Random;
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
        let mut args = Args { rows: 1_000_000, block, repetitions: 7, part: None, out: docs.into() };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            // What cargo says to every benchmark.
            if word == "--bench" {
                continue;
            }
            let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
            match word.as_str() {
                "--rows" => args.rows = value.parse()?,
                "--block" => args.block = Duration::try_from_secs_f64(value.parse()?)?,
                "--repetitions" => args.repetitions = value.parse()?,
                "--part" if value == "latency" => args.part = Some(Part::Latency),
                "--part" if value == "cost" => args.part = Some(Part::Cost),
                "--out" => args.out = value.into(),
                _ => return Err(format!("unknown option {word} {value}").into()),
            }
        }
        if args.rows < 20_000 || args.repetitions == 0 || args.block.is_zero() {
            return Err("at least 20,000 rows, 1 repetition and some time for a block".into());
        }
        Ok(args)
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
    nanos: Histogram<u64>,
}

fn main() -> Outcome<()> {
    let args = Args::parse()?;
    if args.part != Some(Part::Cost) {
        latency(&args)?;
    }
    if args.part != Some(Part::Latency) {
        for (dim, chunk) in SHAPES {
            pruning_cost::measure(args.rows, dim, chunk, args.block, args.repetitions)?;
        }
        pruning_cost::measure_command(env!("CARGO_BIN_EXE_dimslab"), args.repetitions)?;
    }
    Ok(())
}

fn latency(args: &Args) -> Outcome<()> {
    let mut csv = "dim,chunk,keys,repetition,condition,gathers".to_owned();
    PERCENTILES.iter().for_each(|percent| csv.push_str(&format!(",p{percent}_ns")));
    csv.push('\n');
    for (dim, chunk) in SHAPES {
        let rows = Rows::new(args.rows, dim, chunk)?;
        for draw in [Draw::Zipf, Draw::Uniform] {
            let repetitions = repeat(args, &rows, draw, &format!("{} rows of dim {dim}, chunk {chunk}", args.rows))?;
            for (repetition, all) in repetitions.iter().enumerate() {
                for Measured { condition, nanos } in all {
                    write!(csv, "{dim},{chunk},{draw:?},{repetition},{condition},{}", nanos.len())?;
                    PERCENTILES
                        .iter()
                        .try_for_each(|&percent| write!(csv, ",{}", nanos.value_at_percentile(percent)))?;
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
    let (mut pruned, mut compacted) = (Vec::new(), Vec::new());
    let (mut passes, mut repetitions) = (Vec::new(), Vec::new());
    for _ in 0..args.repetitions {
        let (mut quiet, _) = reader.block(args.block / 2, beside::rest)?;
        let (pruning, rounds) = reader.block(args.block, |beside| rows.prune(beside))?;
        pruned.extend(rounds?);
        let (compacting, rounds) = reader.block(args.block, |beside| rows.compact(beside))?;
        compacted.extend(rounds?);
        rows.check_whole()?;
        let round = Round {
            time: median(pruned.iter().map(|round: &Round| round.time)),
            moved: median(compacted.iter().map(|round: &Round| round.moved)),
            taken: 0,
        };
        let mut traffic = Traffic::like(rows, round);
        let (control, times) = reader.block(args.block, |beside| traffic.run(beside))?;
        passes.extend(times);
        quiet.at_it.add(reader.block(args.block / 2, beside::rest)?.0.at_it)?;
        repetitions.push(vec![
            Measured { condition: "quiet", nanos: quiet.at_it },
            Measured { condition: "pruning round", nanos: pruning.at_it },
            Measured { condition: "compacting round", nanos: compacting.at_it },
            Measured { condition: "control: memory traffic", nanos: control.at_it },
            Measured { condition: "between pruning rounds", nanos: pruning.between },
            Measured { condition: "between compacting rounds", nanos: compacting.between },
        ]);
    }
    println!("\ngather of {BATCH} keys, {draw:?}, from {what}");
    print_rounds("pruning", &pruned);
    print_rounds("compacting", &compacted);
    // A round without work would be measured for nothing.
    if compacted.is_empty() || pruned.iter().any(|round| round.taken == 0) {
        return Err("a pruning round took nothing, or compacting ones moved nothing".into());
    }
    println!("control: passes of {:.1} ms", median(passes.iter().map(Duration::as_nanos)) as f64 / 1e6);
    print_table(&repetitions);
    Ok(repetitions)
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
    at_it: Histogram<u64>,
    between: Histogram<u64>,
}

impl Reader<'_> {
    /// Gathers until that much time was spent beside what the block is about, or the patience is over.
    fn block<T: Send>(&mut self, time: Duration, work: impl FnOnce(&Beside) -> T + Send) -> Outcome<(Block, T)> {
        let new = || Histogram::new_with_bounds(1, 60_000_000_000, 3);
        let mut block = Block { at_it: new()?, between: new()? };
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
            let started = Instant::now();
            self.rows.store.gather(table(), &self.keys, &mut self.out)?;
            let took = started.elapsed();
            let after = beside.doing.load(Ordering::Relaxed);
            if beside.away.load(Ordering::Relaxed) != away {
                // Some of the keys went, or others came: not as much to read as always.
                continue;
            }
            if before == AT_IT || after == AT_IT {
                spent += took;
                block.at_it.record(took.as_nanos() as u64)?;
            } else if before == BETWEEN || after == BETWEEN {
                block.between.record(took.as_nanos() as u64)?;
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
    let time = median(rounds.iter().map(|round| round.time)).as_secs_f64() * 1e3;
    let (taken, moved) =
        (median(rounds.iter().map(|round| round.taken)), median(rounds.iter().map(|round| round.moved)));
    println!("{what}: {} rounds, median {time:.1} ms, {taken} chunks and rows taken, {moved} moved", rounds.len());
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
        let all = || repetitions.iter().map(|repetition| &repetition[condition]);
        let gathers: u64 = all().map(|measured| measured.nanos.len()).sum();
        print!("{:28}{gathers:10}", repetitions[0][condition].condition);
        for percent in PERCENTILES {
            let at = |measured: &Measured| measured.nanos.value_at_percentile(percent) as f64;
            // Short blocks may leave a condition without a gather.
            let met = || repetitions.iter().filter(|all| !all[condition].nanos.is_empty() && !all[0].nanos.is_empty());
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
