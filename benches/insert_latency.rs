//! How long one insert of a new key takes while a store grows to 4M rows, and what the slow ones waited for.
//!
//! `cargo bench --bench insert_latency [-- --rows N --dim D]`
//!
//! A store without a policy gets one new key after another. As controls, the same keys go into a `HashMap` of boxes, which
//! copies all its entries when it doubles, and into nothing: what is slow there is the machine. For each insert above
//! 100 µs the kernel's figures tell whether the thread was taken off its processor meanwhile, and how many pages it met
//! for the first time; processor time tells how much of the wait was its own.

use dimslab::{Optimizer, Policy, Store, StoreConfig, TableConfig, TableId};
use hdrhistogram::Histogram;
use std::collections::HashMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const SLOW: Duration = Duration::from_micros(100);
const LISTED: usize = 5;

/// What the kernel knows of the calling thread.
#[derive(Clone, Copy)]
struct Figures {
    faults: i64,
    switches: i64,
    processor: Duration,
}

impl Figures {
    fn now() -> Figures {
        // SAFETY: all zeros is a value of this plain structure.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: `usage` is a valid place for the answer.
        unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is a valid place for the answer.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
        let processor = Duration::new(time.tv_sec as u64, time.tv_nsec as u32);
        Figures { faults: usage.ru_minflt, switches: usage.ru_nivcsw, processor }
    }
}

/// An insert above [`SLOW`].
struct Slow {
    row: u64,
    took: Duration,
    faults: i64,
    switches: i64,
    processor: Duration,
}

fn measure(name: &str, rows: u64, mut insert: impl FnMut(u64) -> Outcome<()>) -> Outcome<()> {
    let mut nanos = Histogram::<u64>::new(3)?;
    let (mut slow, begun) = (Vec::new(), Instant::now());
    for row in 0..rows {
        // One to one, so that every key is new.
        let key = row.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let before = Figures::now();
        let started = Instant::now();
        insert(key)?;
        let took = started.elapsed();
        nanos.record(took.as_nanos() as u64)?;
        if took >= SLOW {
            let after = Figures::now();
            let (faults, switches) = (after.faults - before.faults, after.switches - before.switches);
            slow.push(Slow { row, took, faults, switches, processor: after.processor - before.processor });
        }
    }
    print!("| {name} | {:.1} ", begun.elapsed().as_secs_f64());
    for percent in [50.0, 99.0, 99.9, 99.99, 99.999, 100.0] {
        print!("| {:.1} ", nanos.value_at_percentile(percent) as f64 / 1e3);
    }
    let above = |limit: Duration| slow.iter().filter(|slow| slow.took >= limit).count();
    let own = slow.iter().filter(|slow| slow.processor >= SLOW).count();
    println!("| {} | {} | {} | {own} |", above(SLOW), above(Duration::from_millis(1)), switched(&slow));
    slow.sort_by_key(|slow| std::cmp::Reverse(slow.took));
    for slow in slow.iter().take(LISTED) {
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        eprintln!(
            "{name}: row {}: {:.0} us, {:.0} of them its own; {} pages, {} times taken off its processor",
            slow.row,
            micros(slow.took),
            micros(slow.processor),
            slow.faults,
            slow.switches
        );
    }
    Ok(())
}

fn switched(slow: &[Slow]) -> usize {
    slow.iter().filter(|slow| slow.switches > 0).count()
}

fn main() -> Outcome<()> {
    let (mut rows, mut dim) = (4_000_000, 16);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        // What cargo says to every benchmark.
        if word == "--bench" {
            continue;
        }
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--rows" => rows = value.parse()?,
            "--dim" => dim = value.parse()?,
            _ => return Err(format!("unknown option {word}").into()),
        }
    }
    println!(
        "| microseconds | seconds | p50 | p99 | p99.9 | p99.99 | p99.999 | max | above 100 | above 1,000 \
         | of those above 100: off its processor | with 100 of its own |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    measure("nothing", rows, |key| {
        black_box(key);
        Ok(())
    })?;
    let table = TableConfig::new("rows", dim).chunk(dim.min(16)).optimizer(Optimizer::Sgd { lr: 0.01 });
    let budget = rows * (dim as u64 * 5 + 64) + (64 << 20);
    let store = Store::new(StoreConfig::new(budget).policy(Policy::None), vec![table])?;
    let gradient = vec![0.0; dim];
    measure("dimslab", rows, |key| Ok(store.apply_gradients(TableId::new(0), &[key], &gradient).map(drop)?))?;
    let live = store.stats().tables[0].rows;
    if live != rows {
        return Err(format!("{live} rows live of {rows}").into());
    }
    drop(store);
    let mut map: HashMap<u64, Box<[f32]>> = HashMap::new();
    measure("HashMap of boxes", rows, |key| {
        map.insert(key, vec![1.0; dim].into_boxed_slice());
        Ok(())
    })
}
