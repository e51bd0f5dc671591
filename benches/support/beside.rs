//! What the second thread does while the first one gathers.

use super::keys::{Random, mix};
use dimslab::{PruneReport, Store, StoreConfig, StoreError, TableConfig, TableId};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The only table.
pub(crate) fn table() -> TableId {
    TableId::new(0)
}
const BATCH: usize = 2048;
/// Of every five rows one matters little and is what pruning takes; a fifth of all, others each time, goes before
/// compaction. The gathers read what is there, so that there is always as much to read.
const EVERY: u64 = 5;
/// What matters little matters so little that it never adds up to a steady row's importance, however often it comes back.
const STEADY_GRADIENT: f32 = 1.0;
const WANDERING_GRADIENT: f32 = 1e-4;
/// Part of the bytes held, in percent, that pruning leaves: a tenth, and the error of a sample, is well below a fifth of the
/// rows, so nothing that is read goes.
const PART_TO_STAY: u64 = 90;

/// Rounds to wait for one that moves something.
const ROUNDS_MAX: usize = 1000;

/// What the second thread is doing: nothing, what its condition is about, or what has to be done in between.
pub(crate) const RESTING: u8 = 0;
pub(crate) const AT_IT: u8 = 1;
pub(crate) const BETWEEN: u8 = 2;

/// The second thread's state as the first one sees it. Relaxed: it only sorts measurements.
#[derive(Default)]
pub(crate) struct Beside {
    pub(crate) doing: AtomicU8,
    /// Says which rows are away for compaction; none at 0.
    pub(crate) away: AtomicU64,
    /// Gathers that ended.
    pub(crate) gathers: AtomicU64,
    pub(crate) stop: AtomicBool,
}

impl Beside {
    fn now(&self, doing: u8) {
        self.doing.store(doing, Ordering::Relaxed);
    }

    /// Times one round.
    fn round(&self, round: impl FnOnce() -> Result<PruneReport, StoreError>) -> Result<Round, StoreError> {
        let (begun, before) = (Instant::now(), self.gathers.load(Ordering::Relaxed));
        let report = round()?;
        let gathers = self.gathers.load(Ordering::Relaxed) - before;
        Ok(Round { time: begun.elapsed(), moved: report.moved, taken: report.shrunk + report.evicted, gathers })
    }

    fn go_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

/// Does nothing until told to stop.
pub(crate) fn rest(beside: &Beside) {
    beside.now(AT_IT);
    while beside.go_on() {
        std::thread::sleep(Duration::from_millis(20));
    }
    beside.now(RESTING);
}

/// Keeps a processor busy, and little else, until told to stop.
pub(crate) fn spin(beside: &Beside) {
    beside.now(AT_IT);
    while beside.go_on() {
        std::hint::spin_loop();
    }
    beside.now(RESTING);
}

/// A store and its rows: `steady` ones, and a fourth as many beside them that matter little, come and go.
pub(crate) struct Rows {
    pub(crate) store: Store,
    pub(crate) dim: usize,
    pub(crate) steady: u64,
    /// Bytes held with all rows.
    held: u64,
}

/// One round: how long it took, and the chunks that it moved.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Round {
    pub(crate) time: Duration,
    pub(crate) moved: u64,
    /// Chunks and rows that it took.
    pub(crate) taken: u64,
    /// Gathers that ended meanwhile.
    pub(crate) gathers: u64,
}

impl Rows {
    pub(crate) fn new(steady: u64, dim: usize, chunk: usize) -> Result<Rows, Box<dyn std::error::Error>> {
        let all = steady / (EVERY - 1) * EVERY;
        // Twice what is needed: nothing waits for room.
        let budget = all * (dim * 24 + 200) as u64 + (16 << 20);
        let table = TableConfig::new("rows", dim).chunk(chunk);
        let mut rows = Rows { store: Store::new(StoreConfig::new(budget), vec![table])?, dim, steady, held: 0 };
        rows.train((0..all).map(Some), all)?;
        rows.held = rows.store.stats().held;
        rows.check_whole()?;
        Ok(rows)
    }

    /// Whether all rows are there in full: if not, reading them would not be the same work any more.
    pub(crate) fn check_whole(&self) -> Result<(), String> {
        let (stats, all) = (self.store.stats(), self.all());
        let chunks = all * stats.tables.iter().map(|table| (table.dim / table.chunk_dim) as u64).sum::<u64>();
        if (stats.rows, stats.chunks) == (all, chunks) {
            return Ok(());
        }
        Err(format!("{} rows and {} chunks live of {all} and {chunks}", stats.rows, stats.chunks))
    }

    /// The key of a steady row, unless it is away.
    pub(crate) fn steady_key(&self, steady: u64, away: u64) -> Option<u64> {
        let steady = steady % self.steady;
        let number = steady / (EVERY - 1) * EVERY + steady % (EVERY - 1);
        (!is_away(number, away)).then(|| mix(number))
    }

    fn all(&self) -> u64 {
        self.steady / (EVERY - 1) * EVERY
    }

    /// Trains rows by number; a steady one drawn at random for each `None`.
    fn train(&self, numbers: impl Iterator<Item = Option<u64>>, seed: u64) -> Result<(), StoreError> {
        let mut random = Random(seed);
        let mut grads = vec![0f32; BATCH * self.dim];
        let mut numbers = numbers.peekable();
        let mut keys = Vec::with_capacity(BATCH);
        while numbers.peek().is_some() {
            keys.clear();
            for (number, grads) in numbers.by_ref().take(BATCH).zip(grads.chunks_exact_mut(self.dim)) {
                let wanders = number.is_some_and(|number| number % EVERY == EVERY - 1);
                grads.fill(if wanders { WANDERING_GRADIENT } else { STEADY_GRADIENT });
                let steady = |random: &mut Random| self.steady_key(random.next(), 0).unwrap_or_default();
                keys.push(number.map_or_else(|| steady(&mut random), mix));
            }
            self.store.apply_gradients(table(), &keys, &grads[..keys.len() * self.dim])?;
        }
        Ok(())
    }

    /// Brings rows that went back, with as many steady ones trained beside them.
    fn bring_back(&self, numbers: impl Iterator<Item = u64>) -> Result<(), StoreError> {
        // An ordinary round finds that there is room for everything.
        self.store.prune()?;
        self.train(numbers.flat_map(|number| [Some(number), None]), self.held)
    }

    /// Rounds that take half of what comes and goes.
    pub(crate) fn prune(&self, beside: &Beside) -> Result<Vec<Round>, StoreError> {
        let mut rounds = Vec::new();
        while beside.go_on() {
            beside.now(AT_IT);
            rounds.push(beside.round(|| self.store.prune_to(self.held / 100 * PART_TO_STAY))?);
            beside.now(BETWEEN);
            self.bring_back((EVERY - 1..self.all()).step_by(EVERY as usize))?;
        }
        beside.now(RESTING);
        Ok(rounds)
    }

    /// Rounds that empty superblocks, after a fifth of the rows went at random.
    pub(crate) fn compact(&self, beside: &Beside) -> Result<Vec<Round>, StoreError> {
        let mut rounds = Vec::new();
        for away in 1.. {
            if !beside.go_on() {
                break;
            }
            beside.now(BETWEEN);
            beside.away.store(away, Ordering::Relaxed);
            let gone = || (0..self.all()).filter(|&number| is_away(number, away));
            for number in gone() {
                self.store.remove(table(), mix(number))?;
            }
            beside.now(AT_IT);
            // What went last may still wait for its readers; then the first rounds are short and move nothing.
            for _ in 0..ROUNDS_MAX {
                let round = beside.round(|| self.store.prune())?;
                if round.moved > 0 {
                    rounds.push(round);
                    break;
                }
            }
            beside.now(BETWEEN);
            self.bring_back(gone())?;
            beside.away.store(0, Ordering::Relaxed);
        }
        beside.now(RESTING);
        Ok(rounds)
    }
}

fn is_away(number: u64, away: u64) -> bool {
    away != 0 && mix(number ^ (away << 32)).is_multiple_of(EVERY)
}

/// Memory traffic like a round's, without a store: three walks over all chunks (measuring, cutting, looking for what
/// moves), a line each, in an order unrelated to their places, and copies of what moved, at the round's pace.
pub(crate) struct Traffic {
    memory: Vec<[u64; 8]>,
    lines: u64,
    copies: u64,
    record_lines: u64,
    time: Duration,
}

/// Lines between two looks at the clock.
const SLICE: u64 = 4096;

impl Traffic {
    /// As much as `round` in that store.
    pub(crate) fn like(rows: &Rows, round: Round) -> Traffic {
        let stats = rows.store.stats();
        let lines = (stats.allocated / 64).max(1 << 10);
        // Not zeros: the system would give one page of them for all.
        let memory = vec![[1; 8]; lines as usize];
        let record_lines = (stats.allocated / stats.chunks.max(1)).div_ceil(64).max(1);
        Traffic { memory, lines: 3 * stats.chunks, copies: round.moved, record_lines, time: round.time }
    }

    /// Passes until told to stop.
    pub(crate) fn run(&mut self, beside: &Beside) -> Vec<Round> {
        let (mut random, mut passes, mut sum) = (Random(7), Vec::new(), 0u64);
        let places = self.memory.len() as u64;
        let slices = self.lines.div_ceil(SLICE).max(1);
        beside.now(AT_IT);
        while beside.go_on() {
            let (begun, before) = (Instant::now(), beside.gathers.load(Ordering::Relaxed));
            for slice in 0..slices {
                for _ in 0..SLICE {
                    sum = sum.wrapping_add(self.memory[random.below(places) as usize][0]);
                }
                for _ in 0..self.copies / slices {
                    let (from, to) =
                        (random.below(places - self.record_lines), random.below(places - self.record_lines));
                    let from = from as usize..(from + self.record_lines) as usize;
                    self.memory.copy_within(from, to as usize);
                }
                while begun.elapsed() < self.time.mul_f64((slice + 1) as f64 / slices as f64) {
                    std::hint::spin_loop();
                }
            }
            let gathers = beside.gathers.load(Ordering::Relaxed) - before;
            passes.push(Round { time: begun.elapsed(), taken: 0, moved: self.copies, gathers });
        }
        beside.now(RESTING);
        std::hint::black_box(sum);
        passes
    }
}
