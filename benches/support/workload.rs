//! The rows' life in a dimslab store, which the policy decides; what it decided is told, for the others to follow.

use super::allocator;
use super::keys::{Random, mix};
use super::shape::{CHUNK, DIM, PHASES, SAMPLES, Sample, live_bytes};
use dimslab::{Store, StoreConfig, StoreError, TableConfig, TableId};
use std::io::{self, BufRead, Write};
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn table() -> TableId {
    TableId::new(0)
}
const BATCH: usize = 2048;
/// The budget for each id of the fill: room for about two thirds of them in full size, so that dimensions have to be
/// earned.
const BUDGET_PER_ID: u64 = 360;
/// Keys that later phases go on training.
const FAMILIAR: usize = 1 << 16;

/// What all phases share. Everything that is not the store is allocated, and touched, before the first reading of the
/// process's memory.
struct Life {
    store: Store,
    ids: u64,
    introduced: u64,
    random: Random,
    keys: Vec<u64>,
    grads: Vec<f32>,
    rows: Vec<f32>,
    familiar: Vec<u64>,
    doomed: Vec<u64>,
    told: io::BufWriter<io::Stdout>,
    begun: Instant,
    resident_before: u64,
}

/// Lives through all phases with `ids` ids in the fill; writes rows and samples to standard output.
pub(crate) fn run(ids: u64, idle: Duration, prune_calls: usize) -> Outcome<()> {
    // Not zeros, of which the system would give no page.
    let mut familiar = vec![1u64; FAMILIAR];
    let mut doomed = vec![1u64; ids as usize];
    familiar.clear();
    doomed.clear();
    let (keys, grads, rows) = (vec![1; BATCH], vec![1.0; BATCH * DIM], vec![1.0; BATCH * DIM]);
    let told = io::BufWriter::with_capacity(1 << 16, io::stdout());
    let (random, begun, resident_before) = (Random(1), Instant::now(), allocator::resident()?);
    let table = TableConfig::new("rows", DIM).chunk(CHUNK);
    let store = Store::new(StoreConfig::new(ids * BUDGET_PER_ID), vec![table])?;
    let mut life =
        Life { store, ids, introduced: 0, random, keys, grads, rows, familiar, doomed, told, begun, resident_before };
    life.fill()?;
    let filled = life.live();
    life.prune(1, 0.7, prune_calls)?;
    life.idle(idle)?;
    life.drift()?;
    life.regrow(filled)?;
    life.prune(5, 0.9, prune_calls)?;
    life.store.validate()?;
    Ok(life.told.flush()?)
}

impl Life {
    /// New ids one after the other, each batch half of them and half of ids met before, some much more often.
    fn fill(&mut self) -> Outcome<()> {
        for sample in 1..=SAMPLES as u64 {
            let until = self.ids * sample / SAMPLES as u64;
            while self.introduced < until {
                let new = (until - self.introduced).min(BATCH as u64 / 2);
                self.keys.clear();
                self.keys.extend((self.introduced..self.introduced + new).map(mix));
                self.introduced += new;
                while self.keys.len() < 2 * new as usize {
                    // The popular ones are spread over the fill; a prime as factor visits each id once.
                    let id = self.random.zipf(self.ids).wrapping_mul(2_654_435_761) % self.ids;
                    let id = if id < self.introduced { id } else { self.random.below(self.introduced) };
                    self.keys.push(mix(id));
                }
                self.train()?;
            }
            self.sample(0, true)?;
        }
        Ok(())
    }

    /// Takes the least important part in so many calls.
    fn prune(&mut self, phase: usize, part: f64, calls: usize) -> Outcome<()> {
        let before = self.store.stats().held as f64;
        for sample in 1..=SAMPLES {
            if sample <= calls {
                self.store.prune_to((before * (1.0 - part * sample as f64 / calls as f64)) as u64)?;
            }
            self.read()?;
            self.sample(phase, true)?;
        }
        Ok(())
    }

    /// Nothing but a batch of reads now and then.
    fn idle(&mut self, time: Duration) -> Outcome<()> {
        for _ in 0..SAMPLES {
            std::thread::sleep(time / SAMPLES as u32);
            self.read()?;
            self.sample(2, false)?;
        }
        Ok(())
    }

    /// Half of the keys go, new ones come until as much is live as before.
    fn drift(&mut self) -> Outcome<()> {
        // The round that a period of training brings: it lets rows grow again where there is room.
        self.store.prune()?;
        let before = self.live();
        self.doomed.clear();
        self.familiar.clear();
        for row in self.store.iter(table())? {
            if mix(row.key ^ 0xD1).is_multiple_of(2) {
                self.doomed.push(row.key);
            } else if self.familiar.len() < FAMILIAR {
                self.familiar.push(row.key);
            }
        }
        let mut doomed = std::mem::take(&mut self.doomed);
        doomed.sort_unstable_by_key(|&key| mix(key ^ 0xD2));
        for sample in 1..=SAMPLES {
            for &key in &doomed[doomed.len() * (sample - 1) / SAMPLES..doomed.len() * sample / SAMPLES] {
                self.store.remove(table(), key)?;
            }
            self.grow_until(before)?;
            self.sample(3, true)?;
        }
        self.doomed = doomed;
        Ok(())
    }

    /// New keys come until as much is live as when the fill was over.
    fn regrow(&mut self, filled: u64) -> Outcome<()> {
        self.store.prune()?;
        let before = self.live();
        for sample in 1..=SAMPLES as u64 {
            self.grow_until(before + filled.saturating_sub(before) * sample / SAMPLES as u64)?;
            self.sample(4, true)?;
        }
        Ok(())
    }

    /// Trains new keys and familiar ones until so many bytes are live, or the policy has refused long enough.
    fn grow_until(&mut self, live: u64) -> Outcome<()> {
        let mut patience = self.ids / SAMPLES as u64 * 4;
        while self.live() < live && patience > 0 {
            let new = patience.min(BATCH as u64 / 2);
            patience -= new;
            self.keys.clear();
            self.keys.extend((self.introduced..self.introduced + new).map(mix));
            self.introduced += new;
            let familiar = self.familiar.len() as u64;
            for position in 0..new as usize {
                let rank = self.random.zipf(familiar.max(1)) as usize;
                let (Some(&key), Some(&new)) = (self.familiar.get(rank), self.keys.get(position)) else { break };
                self.keys.push(key);
                // Every 16th new key is met again.
                if position % 16 == 0 {
                    self.familiar[rank] = new;
                }
            }
            self.train()?;
        }
        Ok(())
    }

    /// One training step with gradients whose size depends on the key and the chunk.
    fn train(&mut self) -> Result<(), StoreError> {
        let keys = &self.keys;
        self.store.gather(table(), keys, &mut self.rows[..keys.len() * DIM])?;
        for (key, grads) in keys.iter().zip(self.grads.chunks_exact_mut(DIM)) {
            for (ordinal, grads) in grads.chunks_exact_mut(CHUNK).enumerate() {
                let size = (mix(key ^ ordinal as u64) >> 40) as f32 / (1u64 << 24) as f32;
                grads.fill((0.25 + 0.75 * size) * 0.8f32.powi(ordinal as i32));
            }
        }
        self.store.apply_gradients(table(), keys, &self.grads[..keys.len() * DIM])?;
        self.store.step()?;
        Ok(())
    }

    fn read(&mut self) -> Result<(), StoreError> {
        self.keys.clear();
        self.keys.extend((0..BATCH).map(|_| mix(self.random.below(self.introduced))));
        self.store.gather(table(), &self.keys, &mut self.rows)
    }

    fn live(&self) -> u64 {
        let stats = self.store.stats();
        live_bytes(stats.rows, stats.chunks)
    }

    /// Tells the figures of this moment, and, if they may have changed, the rows.
    fn sample(&mut self, phase: usize, changed: bool) -> Outcome<()> {
        debug_assert!(phase < PHASES.len());
        let stats = self.store.stats();
        let sample = Sample {
            phase,
            seconds: self.begun.elapsed().as_secs_f64(),
            rows: stats.rows,
            chunks: stats.chunks,
            held: Some(stats.held),
            resident: allocator::resident()?.saturating_sub(self.resident_before),
            store: Some((stats.live, stats.resident)),
        };
        if changed {
            writeln!(self.told, "rows")?;
            for row in self.store.iter(table())? {
                writeln!(self.told, "{} {}", row.key, row.live.len())?;
            }
        }
        writeln!(self.told, "sample {sample}")?;
        Ok(self.told.flush()?)
    }
}

/// Follows the orders on standard input (`KEY CHUNKS`, and `sample PHASE` after those of a step) and writes samples.
pub(crate) fn follow(mut rows: impl super::peers::Rows, trims: bool) -> Outcome<()> {
    let mut orders = io::BufReader::with_capacity(1 << 16, io::stdin());
    let mut order = String::with_capacity(64);
    let mut random = Random(2);
    let (begun, mut sum) = (Instant::now(), 0f32);
    let held = || allocator::held().map(|bytes| bytes as i64);
    let (held_before, resident_before) = (held(), allocator::resident()?);
    while orders.read_line(&mut order)? > 0 {
        let (what, number) = order.trim_end().split_once(' ').ok_or("an order without a number")?;
        if what != "sample" {
            rows.set(what.parse()?, number.parse()?);
            order.clear();
            continue;
        }
        sum += (0..BATCH).map(|_| rows.read(mix(random.below(1 << 20)))).sum::<f32>();
        if trims {
            allocator::trim();
        }
        let sample = Sample {
            phase: number.parse()?,
            seconds: begun.elapsed().as_secs_f64(),
            rows: rows.rows(),
            chunks: rows.chunks(),
            held: held().zip(held_before).map(|(now, before)| (now - before).max(0) as u64),
            resident: allocator::resident()?.saturating_sub(resident_before),
            store: None,
        };
        println!("sample {sample}");
        order.clear();
    }
    std::hint::black_box(sum);
    Ok(())
}
