//! What a snapshot costs the training beside it, how fast it is written and read, and how large it is.
//!
//! `cargo bench --bench snapshot [-- --dim D --chunk C --budget MIB --steps N --repetitions N --dir DIR
//! --huge-pages true --share S]`
//!
//! One thread trains a full store on skewed keys, a step at a time: gather, gradients, step. In turns of a few hundred steps
//! it does so alone and beside snapshots that another thread saves one after the other to DIR (a temporary directory), in
//! one process; every figure is the median over the repetitions, ratios are those to the turn alone before. Memory is what
//! the process has in memory, at most, beside a snapshot against alone. Reading is opening the last one, from the disk, and
//! making a store of it. Writing ends with an fsync, as does what `dd` writes of the same length in turn with it.

#[path = "support/disk.rs"]
mod disk;
#[path = "support/options.rs"]
mod options;

use dimslab::snapshot::Directory;
use dimslab::{HugePages, LiveSnapshot, SnapshotKind, Store, StoreConfig, TableConfig, TableId};
use std::path::{Path, PathBuf};
use std::time::Instant;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const BATCH: usize = 8192;

struct Args {
    /// Snapshots beside training, snapshots by themselves, or both.
    part: String,
    dim: usize,
    chunk: usize,
    budget: u64,
    steps: usize,
    repetitions: usize,
    dir: Option<PathBuf>,
    huge_pages: HugePages,
    share: Option<f32>,
}

impl Args {
    fn parse() -> Outcome<Args> {
        let mut args = Args {
            part: "all".into(),
            dim: 16,
            chunk: 4,
            budget: 256,
            steps: 300,
            repetitions: 5,
            dir: None,
            huge_pages: HugePages::Later,
            share: None,
        };
        options::each(|name, value| {
            match name {
                "--part" => args.part = value.into(),
                "--dim" => args.dim = value.parse()?,
                "--chunk" => args.chunk = value.parse()?,
                "--budget" => args.budget = value.parse()?,
                "--steps" => args.steps = value.parse()?,
                "--repetitions" => args.repetitions = value.parse()?,
                "--huge-pages" => {
                    args.huge_pages = if value.parse()? { HugePages::FirstUse } else { HugePages::Never };
                }
                "--share" => args.share = Some(value.parse()?),
                "--dir" => args.dir = Some(value.into()),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(args)
    }
}

struct Trainer {
    store: Store,
    random: u64,
    keys: Vec<u64>,
    rows: Vec<f32>,
    ids: f64,
}

impl Trainer {
    fn step(&mut self) -> Outcome<f64> {
        for key in &mut self.keys {
            self.random = self.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let unit = (self.random >> 11) as f64 / (1u64 << 53) as f64;
            *key = (unit.powi(3) * self.ids) as u64;
        }
        let begin = Instant::now();
        self.store.gather(TableId::new(0), &self.keys, &mut self.rows)?;
        self.rows.iter_mut().zip(0u32..).for_each(|(value, at)| *value = *value * 0.1 + (at % 7) as f32 - 2.9);
        self.store.apply_gradients(TableId::new(0), &self.keys, &self.rows)?;
        self.store.step()?;
        Ok(begin.elapsed().as_secs_f64())
    }
}

/// Bytes that the process has in memory.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// Processor time that this thread has used.
fn thread_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Processor time that this process has used, or those that it started.
fn processor_seconds(whose: libc::c_int) -> f64 {
    // SAFETY: all zeroes are a legal value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is a valid place for the answer.
    unsafe { libc::getrusage(whose, &raw mut usage) };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 * 1e-6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

#[derive(Default)]
struct Turn {
    times: Vec<f64>,
    /// Processor time that the training thread used.
    used: f64,
    resident: u64,
    /// Bytes and seconds of what was saved.
    saved: Vec<(u64, f64)>,
    /// The longest beginning of a snapshot.
    begin: f64,
    stalls: u64,
}

impl Turn {
    fn percentile(&mut self, part: f64) -> f64 {
        self.times.sort_by(f64::total_cmp);
        self.times[((self.times.len() - 1) as f64 * part) as usize]
    }

    fn total(&self) -> f64 {
        self.times.iter().sum()
    }
}

/// So many steps, and beside them snapshots if there is a directory.
fn turn(trainer: &mut Trainer, steps: usize, share: Option<f32>, directory: Option<&Directory>) -> Outcome<Turn> {
    let mut turn = Turn::default();
    let used = thread_seconds();
    let mut saving: Option<std::thread::JoinHandle<Result<Save, String>>> = None;
    while turn.times.len() < steps || saving.is_some() {
        if saving.as_ref().is_some_and(std::thread::JoinHandle::is_finished)
            && let Some(done) = saving.take()
        {
            let Save { bytes, seconds, stalls } = done.join().map_err(|_| "saving panicked")??;
            turn.saved.push((bytes, seconds));
            turn.stalls = stalls;
        }
        let mut begun = 0.0;
        if let Some(directory) = directory
            && saving.is_none()
            && turn.times.len() < steps
        {
            let begin = Instant::now();
            if let Some(snapshot) = trainer.store.try_snapshot(SnapshotKind::Full)? {
                begun = begin.elapsed().as_secs_f64();
                turn.begin = turn.begin.max(begun);
                let directory = directory.clone();
                let snapshot = match share {
                    Some(share) => snapshot.share(share),
                    None => snapshot,
                };
                saving = Some(std::thread::spawn(move || save(snapshot, &directory)));
            }
        }
        // What the beginning takes is a part of the step it comes with.
        turn.times.push(trainer.step()? + begun);
        turn.resident = turn.resident.max(resident());
    }
    turn.used = thread_seconds() - used;
    Ok(turn)
}

struct Save {
    bytes: u64,
    seconds: f64,
    stalls: u64,
}

fn save(mut snapshot: LiveSnapshot, directory: &Directory) -> Result<Save, String> {
    let begin = Instant::now();
    let saved = directory.save(&mut snapshot).map_err(|error| error.to_string())?;
    let (seconds, stalls) = (begin.elapsed().as_secs_f64(), snapshot.stalls());
    snapshot.commit();
    directory.keep_newest(1).map_err(|error| error.to_string())?;
    Ok(Save { bytes: saved.bytes, seconds, stalls })
}

/// Seconds that making a store of the latest snapshot takes.
fn load(directory: &Directory) -> Outcome<f64> {
    let snapshot = directory.open_latest()?.ok_or("no snapshot")?;
    disk::drop_pages(&snapshot.parts()[0].path)?;
    let begin = Instant::now();
    let snapshot = directory.open_latest()?.ok_or("no snapshot")?;
    let manifest = snapshot.manifest();
    let mut restore = Store::restore(manifest.store.clone(), manifest.tables.clone(), manifest, &snapshot.sections()?)?;
    restore.blocks(snapshot.blocks())?;
    let store = restore.finish()?;
    let seconds = begin.elapsed().as_secs_f64();
    assert!(store.stats().rows > 0);
    Ok(seconds)
}

/// Seconds that something took, and how much of a processor.
#[derive(Default)]
struct Took {
    seconds: Vec<f64>,
    used: Vec<f64>,
}

impl Took {
    /// Work of this process, which tells the seconds, or of one that it starts.
    fn note(&mut self, whose: libc::c_int, work: impl FnOnce() -> Outcome<Option<f64>>) -> Outcome<()> {
        let (begin, used) = (Instant::now(), processor_seconds(whose));
        let told = work()?;
        self.seconds.push(told.unwrap_or(begin.elapsed().as_secs_f64()));
        self.used.push(processor_seconds(whose) - used);
        Ok(())
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() -> Outcome<()> {
    let args = Args::parse()?;
    let temporary = tempfile::tempdir()?;
    let dir: &Path = args.dir.as_deref().unwrap_or(temporary.path());
    let directory = Directory::create(&dir.join("snapshots"))?;
    let config = StoreConfig::new(args.budget << 20).snapshots(true).huge_pages(args.huge_pages);
    let store = Store::new(config, vec![TableConfig::new("t", args.dim).chunk(args.chunk)])?;
    let ids = (args.budget << 20) as f64 / (args.dim as f64 * 2.5);
    let mut trainer = Trainer { store, random: 1, keys: vec![0; BATCH], rows: vec![0.0; BATCH * args.dim], ids };
    while trainer.store.stats().events.refused == 0 {
        trainer.step()?;
    }
    for _ in 0..args.steps {
        trainer.step()?;
    }
    let stats = trainer.store.stats();
    println!("{} rows, {} MiB held, {} MiB live", stats.rows, stats.held >> 20, stats.live >> 20);
    if args.part != "alone" {
        beside(&args, &mut trainer, &directory)?;
    }
    if args.part != "beside" {
        by_itself(&args, &trainer, &directory, dir)?;
    }
    Ok(())
}

/// Training alone and beside snapshots, in turns.
fn beside(args: &Args, trainer: &mut Trainer, directory: &Directory) -> Outcome<()> {
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..args.repetitions {
        alone.push(turn(trainer, args.steps, None, None)?);
        beside.push(turn(trainer, args.steps, args.share, Some(directory))?);
    }
    let mut ratio = |what: &str, of: &dyn Fn(&mut Turn) -> f64| {
        let ratios: Vec<f64> =
            alone.iter_mut().zip(&mut beside).map(|(alone, beside)| of(beside) / of(alone)).collect();
        println!("{what}: {:.3} x beside a snapshot", median(ratios));
    };
    ratio("step, median", &|turn| turn.percentile(0.5));
    ratio("step, 99th percentile", &|turn| turn.percentile(0.99));
    ratio("processor time of a step", &|turn| turn.used / turn.times.len() as f64);
    ratio("steps a second", &|turn| turn.times.len() as f64 / turn.total());
    let extra = alone.iter().zip(&beside).map(|(alone, beside)| beside.resident.saturating_sub(alone.resident) as f64);
    println!("memory: {:.1} % of the store more", 100.0 * median(extra.collect()) / trainer.store.stats().held as f64);
    println!("beginning: {:.2} ms at most", 1e3 * beside.iter().map(|turn| turn.begin).fold(0.0, f64::max));
    println!("waits for room: {}", beside.iter().map(|turn| turn.stalls).max().unwrap_or(0));
    let saved: Vec<(u64, f64)> = beside.iter().flat_map(|turn| turn.saved.clone()).collect();
    println!(
        "saved beside training: {} times, {:.0} MB/s",
        saved.len(),
        median(saved.iter().map(|saved| saved.0 as f64 / saved.1 / 1e6).collect())
    );
    Ok(())
}

/// Saving and loading while nobody trains, in turns with dd.
fn by_itself(args: &Args, trainer: &Trainer, directory: &Directory, dir: &Path) -> Outcome<()> {
    let [mut saves, mut writes, mut loads, mut reads] = std::array::from_fn(|_| Took::default());
    let (plain, mut bytes) = (dir.join("plain"), 0);
    for _ in 0..args.repetitions {
        saves.note(libc::RUSAGE_SELF, || {
            let saved = save(trainer.store.snapshot(SnapshotKind::Full)?, directory)?;
            bytes = saved.bytes;
            Ok(Some(saved.seconds))
        })?;
        writes.note(libc::RUSAGE_CHILDREN, || Ok(disk::dd_write(&plain, bytes).map(|()| None)?))?;
        loads.note(libc::RUSAGE_SELF, || load(directory).map(Some))?;
        reads.note(libc::RUSAGE_CHILDREN, || Ok(disk::dd_read(&plain).map(|()| None)?))?;
        std::fs::remove_dir_all(&plain)?;
    }
    let live = trainer.store.stats().live;
    println!("file size: {:.3} x the live bytes", bytes as f64 / live as f64);
    for (what, ours, theirs) in [("saved alone", saves, writes), ("loaded", loads, reads)] {
        let (our_time, their_time) = (median(ours.seconds), median(theirs.seconds));
        let (our_use, their_use) = (median(ours.used) * 1e3, median(theirs.used) * 1e3);
        let rate = |seconds: f64| bytes as f64 / seconds / 1e6;
        println!(
            "{what}: {:.0} MB/s, dd {:.0} MB/s: {:.2}; processor time {our_use:.0} ms, dd {their_use:.0} ms",
            rate(our_time),
            rate(their_time),
            their_time / our_time
        );
    }
    Ok(())
}
