//! Memory over a store's life, in bytes: fill, prune 70 %, idle, drift, regrow, prune 90 %.
//!
//! `cargo bench --features bench-peers --bench memory_over_time [-- --rows N --idle SECONDS --prune-calls N --out DIR]`
//!
//! dimslab's policy decides which rows and chunks live. What it decided at each sample is then done, in a process of
//! its own for each, to the same keys and dimensions in maps and slabs, on the system's allocator, mimalloc and
//! jemalloc. So at every sample all hold the same rows, and what differs is what they hold for them. Nobody's memory is
//! trimmed from outside, but for the subject that says so. Live bytes are what a user asked to keep: keys, weights and
//! optimizer state. Resident bytes are the process's, less those before the fill.
//!
//! Writes `memory_over_time.csv` and `memory_over_time.svg` to DIR (`docs`), and a table of resident / live bytes at
//! the end of each phase.

#[path = "support/allocator.rs"]
mod allocator;
#[path = "support/keys.rs"]
mod keys;
#[path = "support/memory_chart.rs"]
mod memory_chart;
#[path = "support/options.rs"]
mod options;
#[path = "support/peers.rs"]
mod peers;
#[path = "support/shape.rs"]
mod shape;
#[path = "support/workload.rs"]
mod workload;

use peers::{Boxes, Indexed};
use shape::{PHASES, Sample};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Names, and the allocators of their processes. The first one decides for all.
const SUBJECTS: [(&str, &str); 7] = [
    ("dimslab", "system"),
    ("HashMap, system", "system"),
    ("HashMap, system, malloc_trim", "system"),
    ("HashMap, mimalloc", "mimalloc"),
    ("HashMap, jemalloc", "jemalloc"),
    ("slab", "system"),
    ("sharded-slab", "system"),
];

struct Args {
    rows: u64,
    idle: f64,
    prune_calls: usize,
    out: PathBuf,
    /// Which subject this process is; the one that starts the others if none.
    subject: Option<String>,
}

impl Args {
    fn parse() -> Outcome<Args> {
        let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/docs");
        let mut args = Args { rows: 1_000_000, idle: 12.0, prune_calls: 1, out: docs.into(), subject: None };
        options::each(|word, value| {
            match word {
                "--rows" => args.rows = value.parse()?,
                "--idle" => args.idle = value.parse()?,
                "--prune-calls" => args.prune_calls = value.parse()?,
                "--out" => args.out = value.into(),
                "--subject" => args.subject = Some(value.to_owned()),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        if args.rows < 20_000 || !(1..=shape::SAMPLES).contains(&args.prune_calls) || !(0.0..1e4).contains(&args.idle) {
            return Err("at least 20,000 rows, 1 to 20 prune calls, and 0 to 10,000 seconds of idling".into());
        }
        Ok(args)
    }

    fn idle(&self) -> Duration {
        Duration::from_secs_f64(self.idle)
    }
}

fn main() -> Outcome<()> {
    let args = Args::parse()?;
    match args.subject.as_deref() {
        None => compare(&args),
        Some("dimslab") => workload::run(args.rows, args.idle(), args.prune_calls),
        Some("slab") => workload::follow(Indexed::<slab::Slab<_>>::default(), false),
        Some("sharded-slab") => workload::follow(Indexed::<sharded_slab::Slab<_>>::default(), false),
        Some(boxes) => workload::follow(Boxes::default(), boxes.ends_with("malloc_trim")),
    }
}

fn compare(args: &Args) -> Outcome<()> {
    let (dimslab, orders) = lead(args)?;
    let mut all = vec![dimslab];
    for (name, allocator) in &SUBJECTS[1..] {
        eprintln!("{name}");
        let samples = led(args, name, allocator, &orders)?;
        // The comparison is one only if all kept the same.
        for (sample, dimslab) in samples.iter().zip(&orders) {
            let same = (sample.rows, sample.chunks) == (dimslab.rows, dimslab.chunks);
            if !same {
                return Err(format!("{name} has {sample}, ordered {} {}", dimslab.rows, dimslab.chunks).into());
            }
        }
        all.push(samples);
    }
    print_table(&all);
    let named: Vec<(&str, Vec<Sample>)> = SUBJECTS.iter().map(|&(name, _)| name).zip(all).collect();
    std::fs::create_dir_all(&args.out)?;
    let path = args.out.join("memory_over_time.csv");
    std::fs::write(&path, csv(&named))?;
    eprintln!("{}", path.display());
    let path = args.out.join("memory_over_time.svg");
    std::fs::write(&path, memory_chart::draw(&named)?)?;
    eprintln!("{}", path.display());
    Ok(())
}

/// What happened to rows between two samples.
struct Orders {
    phase: usize,
    /// Keys and their new number of chunks.
    changes: Vec<(u64, u8)>,
    /// Rows and chunks after it.
    rows: u64,
    chunks: u64,
}

fn start(args: &Args, name: &str, allocator: &str, input: Stdio) -> Outcome<(Child, BufReader<ChildStdout>)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--subject", name, "--rows", &args.rows.to_string(), "--idle", &args.idle.to_string()]);
    command.args(["--prune-calls", &args.prune_calls.to_string()]);
    let mut child = command.env(allocator::VARIABLE, allocator).stdin(input).stdout(Stdio::piped()).spawn()?;
    let output = BufReader::new(child.stdout.take().ok_or("no output of the child")?);
    Ok((child, output))
}

fn finish(mut child: Child, name: &str, samples: &[Sample]) -> Outcome<()> {
    let status = child.wait()?;
    let expected = PHASES.len() * shape::SAMPLES;
    if !status.success() || samples.len() != expected {
        return Err(format!("{name}: {status}, {} samples of {expected}", samples.len()).into());
    }
    Ok(())
}

/// Runs dimslab. Returns its samples and what the others are to do.
fn lead(args: &Args) -> Outcome<(Vec<Sample>, Vec<Orders>)> {
    let (name, allocator) = SUBJECTS[0];
    eprintln!("{name}");
    let (child, output) = start(args, name, allocator, Stdio::null())?;
    let (mut samples, mut orders): (Vec<Sample>, Vec<Orders>) = (Vec::new(), Vec::new());
    // Chunks of each live row, and the last listing that it was in.
    let mut live: HashMap<u64, (u8, u32)> = HashMap::new();
    let (mut listing, mut listed) = (0, false);
    let mut changes = Vec::new();
    for line in output.lines() {
        let line = line?;
        if line == "rows" {
            (listing, listed) = (listing + 1, true);
        } else if let Some(sample) = line.strip_prefix("sample ") {
            let sample: Sample = sample.parse()?;
            if std::mem::take(&mut listed) {
                live.retain(|&key, &mut (_, seen)| {
                    let stays = seen == listing;
                    if !stays {
                        changes.push((key, 0));
                    }
                    stays
                });
            }
            // An order of keys that has nothing to do with how any of the subjects keeps them.
            changes.sort_unstable_by_key(|&(key, _)| keys::mix(key));
            let (rows, chunks) = (live.len() as u64, live.values().map(|&(chunks, _)| u64::from(chunks)).sum());
            orders.push(Orders { phase: sample.phase, changes: std::mem::take(&mut changes), rows, chunks });
            samples.push(sample);
        } else {
            let (key, chunks) = line.split_once(' ').ok_or_else(|| format!("not a row: {line}"))?;
            let (key, chunks) = (key.parse()?, chunks.parse()?);
            if live.insert(key, (chunks, listing)).is_none_or(|(before, _)| before != chunks) {
                changes.push((key, chunks));
            }
        }
    }
    finish(child, name, &samples)?;
    Ok((samples, orders))
}

/// Runs one of the others.
fn led(args: &Args, name: &str, allocator: &str, orders: &[Orders]) -> Outcome<Vec<Sample>> {
    let (mut child, mut output) = start(args, name, allocator, Stdio::piped())?;
    let mut input = child.stdin.take().ok_or("no input of the child")?;
    let (mut samples, mut line, mut text) = (Vec::new(), String::new(), String::new());
    for step in orders {
        if PHASES[step.phase] == "idle" {
            std::thread::sleep(args.idle() / shape::SAMPLES as u32);
        }
        text.clear();
        for (key, chunks) in &step.changes {
            writeln!(text, "{key} {chunks}")?;
        }
        writeln!(text, "sample {}", step.phase)?;
        input.write_all(text.as_bytes())?;
        input.flush()?;
        line.clear();
        output.read_line(&mut line)?;
        samples.push(line.trim_end().strip_prefix("sample ").ok_or("no sample from the child")?.parse()?);
    }
    drop(input);
    finish(child, name, &samples)?;
    Ok(samples)
}

/// The samples at the ends of the phases.
fn ends(samples: &[Sample]) -> impl Iterator<Item = &Sample> {
    samples.chunks(shape::SAMPLES).filter_map(<[Sample]>::last)
}

fn print_table(all: &[Vec<Sample>]) {
    let ratio = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
    print!("{:34}", "at the end of");
    PHASES.iter().for_each(|phase| print!("{phase:>12}"));
    print!("\n{:34}", "live rows, thousands");
    ends(&all[0]).for_each(|sample| print!("{:12.1}", sample.rows as f64 / 1e3));
    print!("\n{:34}", "chunks a row");
    ends(&all[0]).for_each(|sample| print!("{:12.2}", ratio(sample.chunks, sample.rows)));
    print!("\n{:34}", "live, MiB");
    ends(&all[0]).for_each(|sample| print!("{:12.1}", sample.live() as f64 / f64::from(1 << 20)));
    println!("\n\nresident bytes of the process / live bytes");
    for ((name, _), samples) in SUBJECTS.iter().zip(all) {
        print!("{name:34}");
        ends(samples).for_each(|sample| print!("{:12.3}", ratio(sample.resident, sample.live())));
        println!();
    }
    println!("\nheld bytes, by the allocator's or the store's own figures / live bytes");
    for ((name, _), samples) in SUBJECTS.iter().zip(all) {
        print!("{name:34}");
        ends(samples).for_each(|sample| match sample.held {
            Some(held) => print!("{:12.3}", ratio(held, sample.live())),
            None => print!("{:>12}", "not told"),
        });
        println!();
    }
    println!("\ndimslab's own figures: Stats::resident / Stats::live, which counts what is kept beside the rows");
    print!("{:34}", "");
    ends(&all[0])
        .filter_map(|sample| sample.store)
        .for_each(|(live, resident)| print!("{:12.3}", ratio(resident, live)));
    println!();
}

fn csv(all: &[(&str, Vec<Sample>)]) -> String {
    let mut text = "subject,phase,seconds,rows,chunks,live,held,resident,store_live,store_resident\n".to_owned();
    for (name, samples) in all {
        for sample in samples {
            let or_empty = |bytes: Option<u64>| bytes.map_or(String::new(), |bytes| bytes.to_string());
            let fields = [
                format!("\"{name}\""),
                PHASES[sample.phase].to_owned(),
                format!("{:.3}", sample.seconds),
                sample.rows.to_string(),
                sample.chunks.to_string(),
                sample.live().to_string(),
                or_empty(sample.held),
                sample.resident.to_string(),
                or_empty(sample.store.map(|store| store.0)),
                or_empty(sample.store.map(|store| store.1)),
            ];
            text.push_str(&fields.join(","));
            text.push('\n');
        }
    }
    text
}
