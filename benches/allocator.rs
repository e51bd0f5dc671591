//! The slab against general allocators and pools on blocks of 64 bytes, the first word of each written when it is had.
//!
//! `cargo bench --features bench-internals,bench-peers --bench allocator
//!  [-- --repetitions N --milliseconds N --only PART,PART --parts FIRST..END]`
//!
//! The peers alternate within each repetition; a cell is the median of the repetitions, in million pairs of alloc and free
//! a second over all threads, and its ratio to the best of the column. Resident bytes are those that a process of its own
//! has gained after its first million blocks.
//!
//! dimslab stands there three times. *Kept magazine*: one call of a store that goes on (it pins anew every 64 operations, as
//! every call does that has work for long). *Call each 64*: magazines are given back every 64 operations: what a store does
//! with small batches. *Retired each 64*: blocks are freed after a grace period, which is what a store does with all that a
//! reader may still look at, and which no other here offers.

#[path = "support/blocks.rs"]
mod blocks;
#[path = "support/pairs.rs"]
mod pairs;

use blocks::{Dimslab, Global, Indices, Locked, Mode, Peer, Sharded};
use pairs::{COLUMNS, Rates};
use std::ops::Range;
use std::process::Command;
use std::time::Duration;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const BLOCKS: usize = 1_000_000;

struct Args {
    repetitions: usize,
    time: Duration,
    /// Parts of the names of the peers that are measured; all if none.
    only: Vec<String>,
    /// Parts of the measurement.
    parts: Range<usize>,
    /// This process measures the resident bytes of this one.
    bytes: Option<String>,
}

impl Args {
    fn parse() -> Outcome<Args> {
        let (time, parts) = (Duration::from_millis(50), 0..pairs::PARTS);
        let mut args = Args { repetitions: 5, time, only: Vec::new(), parts, bytes: None };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            // What cargo says to every benchmark.
            if word == "--bench" {
                continue;
            }
            let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
            match word.as_str() {
                "--repetitions" => args.repetitions = value.parse()?,
                "--milliseconds" => args.time = Duration::from_millis(value.parse()?),
                "--only" => args.only = value.split(',').map(str::to_owned).collect(),
                "--parts" => {
                    let (first, end) = value.split_once("..").ok_or("--parts needs FIRST..END")?;
                    args.parts = first.parse()?..end.parse::<usize>()?.min(pairs::PARTS);
                }
                "--bytes" => args.bytes = Some(value),
                _ => return Err(format!("unknown option {word}").into()),
            }
        }
        if args.repetitions == 0 || args.time.is_zero() {
            return Err("at least one repetition of one millisecond".into());
        }
        Ok(args)
    }

    fn has(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part.as_str()))
    }
}

/// One peer, whatever its type.
struct Subject {
    name: &'static str,
    rates: Box<dyn Fn(usize, Duration, u64) -> Rates>,
    resident: Box<dyn Fn() -> Outcome<u64>>,
}

fn subject<P: Peer + 'static>(name: &'static str, make: impl Fn() -> Outcome<P> + Copy + 'static) -> Subject {
    let rates = move |part, time, seed| make().map(|peer| pairs::measure(&peer, part, time, seed)).unwrap_or_default();
    Subject { name, rates: Box::new(rates), resident: Box::new(move || resident_of(&make()?)) }
}

fn subjects() -> Vec<Subject> {
    vec![
        subject("dimslab, kept magazine", || Dimslab::new(Mode::Kept)),
        subject("dimslab, call each 64", || Dimslab::new(Mode::Call)),
        subject("dimslab, retired each 64", || Dimslab::new(Mode::Retire)),
        subject("glibc", || Ok(Global(std::alloc::System))),
        subject("mimalloc", || Ok(Global(mimalloc::MiMalloc))),
        subject("jemalloc", || Ok(Global(tikv_jemallocator::Jemalloc))),
        subject("snmalloc", || Ok(Global(snmalloc_rs::SnMalloc))),
        subject("sharded-slab", || Ok(Sharded::default())),
        subject("Mutex of slab", || Ok(Locked::default())),
        subject("ArrayQueue of indices", || Ok(Indices::new(BLOCKS + pairs::BURST * 4))),
    ]
}

fn main() -> Outcome<()> {
    let args = Args::parse()?;
    let mut subjects = subjects();
    if let Some(name) = &args.bytes {
        let subject = subjects.iter().find(|subject| subject.name == name).ok_or("no such peer")?;
        println!("{}", (subject.resident)()?);
        return Ok(());
    }
    subjects.retain(|subject| args.has(subject.name));
    let mut rates = vec![vec![Vec::new(); COLUMNS.len()]; subjects.len()];
    for repetition in 0..args.repetitions {
        for part in args.parts.clone() {
            for turn in 0..subjects.len() {
                let position = (turn + repetition) % subjects.len();
                let measured = (subjects[position].rates)(part, args.time, repetition as u64);
                for (column, rate) in measured {
                    rates[position][column].push(rate);
                }
            }
        }
    }
    print_rates(&subjects, &mut rates);
    print_bytes(&subjects)
}

fn print_rates(subjects: &[Subject], rates: &mut [Vec<Vec<f64>>]) {
    let middle = |rates: &[f64]| rates.get(rates.len() / 2).copied().unwrap_or(f64::NAN);
    rates.iter_mut().flatten().for_each(|rates| rates.sort_by(f64::total_cmp));
    let header = |title: &str| {
        println!("\n| {title} | {} |\n|---{}|", COLUMNS.join(" | "), "|---".repeat(COLUMNS.len()));
    };
    header("million pairs a second (ratio to the best)");
    for (subject, of_subject) in subjects.iter().zip(rates.iter()) {
        print!("| {} ", subject.name);
        for (column, rates_here) in of_subject.iter().enumerate() {
            let best = rates.iter().map(|all| middle(&all[column])).fold(0.0, f64::max);
            print!("| {:.1} ({:.2}) ", middle(rates_here), middle(rates_here) / best);
        }
        println!("|");
    }
    header("slowest and fastest repetition");
    for (subject, of_subject) in subjects.iter().zip(rates.iter()) {
        print!("| {} ", subject.name);
        for rates in of_subject {
            let (slow, fast) = (rates.first().unwrap_or(&f64::NAN), rates.last().unwrap_or(&f64::NAN));
            print!("| {slow:.1} to {fast:.1} ");
        }
        println!("|");
    }
}

fn print_bytes(subjects: &[Subject]) -> Outcome<()> {
    println!("\n| | resident bytes a live block |\n|---|---|");
    for subject in subjects {
        let output = Command::new(std::env::current_exe()?).args(["--bytes", subject.name]).output()?;
        let bytes: f64 = String::from_utf8(output.stdout)?.trim().parse()?;
        println!("| {} | {:.1} |", subject.name, bytes / BLOCKS as f64);
    }
    Ok(())
}

/// Bytes by which a million live blocks make this process larger.
fn resident_of<P: Peer>(peer: &P) -> Outcome<u64> {
    use blocks::Hand;
    let mut blocks = vec![1; BLOCKS];
    let before = resident()?;
    let mut hand = peer.hand();
    for (number, block) in blocks.iter_mut().enumerate() {
        *block = hand.alloc(number as u32);
        if number % pairs::PAUSE == 0 {
            hand.pause();
        }
    }
    let after = resident()?;
    blocks.into_iter().for_each(|block| hand.free(block));
    Ok(after.saturating_sub(before) + peer.made_before())
}

/// Bytes of this process that are in memory.
fn resident() -> Outcome<u64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = text.split_whitespace().nth(1).ok_or("an empty statm")?.parse()?;
    // SAFETY: no preconditions.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Ok(pages * u64::try_from(page)?)
}
