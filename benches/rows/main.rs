//! Rows of a store against the same rows in flat arrays and in concurrent maps.
//!
//! `cargo bench --features bench-peers --bench rows -- --part throughput --dims 64 --threads 1 [--stores slots]`
//!
//! Not a criterion bench, which measures one function to its end before it begins the next: the speed of memory drifts on
//! shared machines by more than what is to be told apart, so here all stores are made first and then take turns, a
//! fraction of a second each, several times over, and what is compared is of the same turn.
//!
//! * `--part throughput` (gather, pooled gather, gather + update, insert of new keys): stores of `--rows` rows, filled
//!   before. An insert replaces rows that were removed just before, so memory is warm; the removal is not timed.
//! * `--part fill`: from nothing to all rows, page faults included.
//! * `--part latency`: the same one row at a time, each timed.
//! * `--part scaling`, `--part rounds`: time of a gathered row, of a pruning round, in a store of so many rows.
//! * `--tables FILE`: writes the tables of what is in `--results` between the markers in FILE. Measures nothing.
//!
//! Stores are chosen by `--stores`: `flat`, `slots`, `boxes`, `dimslab` (which all include the fastest flat array and
//! dimslab itself), or a part of a name. Results are printed and merged into `--results`.

mod arena;
mod indexed;
#[path = "../support/keys.rs"]
mod keys;
mod maps;
mod parts;
mod results;
mod scaling;
#[path = "../support/settle.rs"]
mod settle;
mod stores;
mod tables;
mod throughput;

use results::Results;
use std::path::PathBuf;
use std::time::Duration;
use stores::{CEILING, HUGE, Kind, kinds};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

struct Args {
    part: String,
    rows: u64,
    dims: Vec<usize>,
    threads: Vec<usize>,
    stores: String,
    repetitions: usize,
    block: Duration,
    results: PathBuf,
    tables: Option<PathBuf>,
}

const DIMS: [usize; 4] = [4, 16, 64, 128];

impl Args {
    fn parse() -> Outcome<Args> {
        let mut args = Args {
            part: "throughput".to_owned(),
            rows: 4_000_000,
            dims: vec![64],
            threads: vec![1, 2],
            stores: "slots".to_owned(),
            repetitions: 5,
            block: Duration::from_millis(200),
            results: concat!(env!("CARGO_MANIFEST_DIR"), "/docs/rows.json").into(),
            tables: None,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            // What cargo says to every benchmark.
            if word == "--bench" {
                continue;
            }
            let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
            let numbers = || value.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>();
            match word.as_str() {
                "--part" => args.part = value,
                "--rows" => args.rows = value.parse()?,
                "--dims" => args.dims = numbers()?,
                "--threads" => args.threads = numbers()?,
                "--stores" => args.stores = value,
                "--repetitions" => args.repetitions = value.parse()?,
                "--block" => args.block = Duration::try_from_secs_f64(value.parse()?)?,
                "--results" => args.results = value.into(),
                "--tables" => args.tables = Some(value.into()),
                _ => return Err(format!("unknown option {word} {value}").into()),
            }
        }
        if args.dims.iter().any(|dim| !DIMS.contains(dim)) || args.threads.contains(&0) {
            return Err(format!("dimensions are of {DIMS:?}, and threads at least 1").into());
        }
        if !(10_000..1 << 31).contains(&args.rows) || args.repetitions == 0 || args.block.is_zero() {
            return Err("10,000 to 2^31 rows, at least 1 repetition, and some time for a block".into());
        }
        Ok(args)
    }

    /// What is measured in one run: always the ceiling and dimslab, on both pages.
    fn chosen(&self, dim: usize) -> Outcome<Vec<(String, Kind)>> {
        let wanted = |name: &str, kind: Kind| match self.stores.as_str() {
            _ if [CEILING, "dimslab", HUGE].contains(&name) => true,
            "flat" => matches!(kind, Kind::Flat(..) | Kind::Indexed),
            "slots" => matches!(kind, Kind::Map(_, maps::Place::Slot)),
            "boxes" => matches!(kind, Kind::Map(_, maps::Place::Box)),
            // A chunk that is the longest anyway, or as long as the row, is dimslab itself.
            "dimslab" => match kind {
                Kind::Dimslab(chunk, ..) => chunk == 0 || chunk < stores::longest_chunk(dim),
                _ => false,
            },
            part => name.contains(part),
        };
        let chosen: Vec<_> = kinds().into_iter().filter(|(name, kind)| wanted(name, *kind)).collect();
        if chosen.len() == 3 && !["flat", "dimslab"].iter().any(|name| name.contains(&self.stores)) {
            return Err(format!("no store is called {}", self.stores).into());
        }
        Ok(chosen)
    }
}

fn main() -> Outcome<()> {
    let args = Args::parse()?;
    let mut results = Results::read(&args.results)?;
    if let Some(document) = &args.tables {
        return tables::write(&results, document);
    }
    let measured = match args.part.as_str() {
        "throughput" => throughput::measure(&args)?,
        "fill" => parts::fill(&args)?,
        "latency" => parts::latency(&args)?,
        "scaling" => scaling::gathers(&args)?,
        "rounds" => scaling::rounds(&args)?,
        part => return Err(format!("no part is called {part}").into()),
    };
    measured.into_iter().for_each(|record| results.add(record));
    results.write(&args.results)
}
