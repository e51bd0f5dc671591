//! Rows, or chunks of rows, that are pruned while they train, by a score kept for each: AdaEmbed (Lai et al., OSDI'23),
//! FIITED as published (arXiv 2401.04408), and controls with other scores.
//!
//! As in both papers ids name *virtual* rows, and each unit of a virtual row (the row itself, or a chunk of it) keeps a
//! score and the address of its memory, whether it has any or not: 8 bytes. Where that alone would take more than half
//! of the budget, there are fewer virtual rows than ids and ids share them by hash. What has no memory reads as zero and
//! starts at zero when it gets some, without optimizer state; other starts ([`Start`]) are for ablations.
//!
//! Small tables are not pruned, as in the papers' evaluations: the smallest ones, as long as all of their rows together take
//! at most a part of the memory (`whole`). Without that rule a percentile over rows makes them lose.
//!
//! Every so many steps scores are compared over all tables, after division by their table's 95th percentile over the
//! units that were accessed (`scaled`). If more than a twentieth of the memory would change hands, it does (`worth`).
//! Without `global` each table has its own part of the memory, by its units, and scores compete within their table.

use std::ops::Range;

use super::flat::{Rows, Sums, level, norm, shared_row, unit};
use super::ranking::{Place, Ranking};
use super::start::{self, Departed, Start};
use super::{Held, Method, StudyError, Training};
use crate::data::mix;

/// Bytes that a unit costs whether it has memory or not: its score and its address.
const UNIT_BYTES: u64 = 8;
const NOWHERE: u32 = u32::MAX;

/// What a unit's score adds up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Score {
    /// Accesses times the norm of the gradient.
    FrequencyGradient,
    /// Accesses.
    Frequency,
    /// The norm of the gradient.
    Gradient,
    /// Nothing: a random number that stays.
    Random,
}

/// How a method of this kind prunes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pruning {
    /// Dimensions of a unit.
    pub(crate) unit: usize,
    pub(crate) score: Score,
    /// Scores are divided by their table's 95th percentile before tables are compared.
    pub(crate) scaled: bool,
    /// The part of the memory that small tables may take without being pruned.
    pub(crate) whole: f64,
    /// Steps between rounds.
    pub(crate) period: u64,
    /// What scores are multiplied by over a period.
    pub(crate) decay: f32,
    /// The part of the memory that must change hands for a round to be worth it.
    pub(crate) worth: f64,
    /// Weights of what gets memory.
    pub(crate) start: Start,
    /// One memory for all tables.
    pub(crate) global: bool,
    /// Ids have virtual rows by number, as long as there is one for each; else by hash, but for whole tables.
    pub(crate) numbered: bool,
    /// Bytes that a virtual row is charged beyond its units' scores and addresses, such as for a key.
    pub(crate) charge: u64,
}

impl Pruning {
    /// AdaEmbed's, in rows (sections 4.2 and 6.1).
    pub(crate) const ADAEMBED: Pruning = Pruning {
        unit: usize::MAX,
        score: Score::FrequencyGradient,
        scaled: true,
        whole: 0.25,
        period: 250,
        decay: 0.8,
        worth: 0.05,
        start: Start::Zero,
        global: true,
        numbered: true,
        charge: 0,
    };
}

pub(crate) struct Pruned {
    dim: usize,
    pruning: Pruning,
    tables: Vec<Table>,
    memory: Rows,
    free: Vec<u32>,
    departed: Departed,
    ranking: Ranking,
    steps: u64,
    /// What an increment made now is worth: it grows instead of all scores shrinking.
    inflation: f32,
    seed: u64,
    sums: Sums,
}

/// Scores and addresses of a table's units, row after row.
struct Table {
    size: usize,
    rows: usize,
    /// Never pruned.
    whole: bool,
    /// Units with memory, and the most of them.
    live: usize,
    quota: usize,
    scores: Vec<f32>,
    addresses: Vec<u32>,
}

/// Units by feature and number: those that lose their memory, those that must get some, and those that may.
#[derive(Default)]
struct Moves {
    leaving: Vec<(usize, usize)>,
    surely: Vec<(usize, usize)>,
    within: Vec<(usize, usize)>,
}

impl Pruned {
    /// # Errors
    /// [`StudyError::TooSmall`] if the budget does not even hold the counts of a round.
    pub(crate) fn new(
        sizes: &[usize],
        dim: usize,
        budget: u64,
        training: Training,
        pruning: Pruning,
    ) -> Result<Pruned, StudyError> {
        let unit_bytes = Rows::row_bytes(pruning.unit) + size_of::<u32>() as u64; // with its place in the free list
        let Some(room) = budget.checked_sub(Ranking::BYTES).filter(|&room| room >= 2 * unit_bytes) else {
            let needed = Ranking::BYTES + 2 * unit_bytes;
            return Err(StudyError::TooSmall { method: "a pruned table", budget, needed });
        };
        let units = dim / pruning.unit;
        let row_bytes = UNIT_BYTES * units as u64 + pruning.charge;
        let rows = level(sizes, (room / 2 / row_bytes) as usize);
        let table = |(&size, &rows): (&usize, &usize)| Table {
            size,
            rows,
            whole: false,
            live: 0,
            quota: rows * units,
            scores: vec![0.0; rows * units],
            addresses: vec![NOWHERE; rows * units],
        };
        let mut tables: Vec<Table> = sizes.iter().zip(&rows).map(table).collect();
        let spent = rows.iter().sum::<usize>() as u64 * row_bytes;
        let most = rows.iter().sum::<usize>() * units;
        let memory = (((room - spent) / unit_bytes) as usize).min(most);
        let mut exempt = (memory as f64 * pruning.whole) as usize / units;
        let mut by_size: Vec<&mut Table> = tables.iter_mut().collect();
        by_size.sort_by_key(|table| table.size);
        for table in by_size {
            table.whole = table.rows >= table.size && table.size <= exempt;
            exempt = if table.whole { exempt - table.size } else { 0 };
        }
        if !pruning.global {
            split(&mut tables, memory);
        }
        Ok(Pruned {
            dim,
            pruning,
            tables,
            memory: Rows::zeros(memory, pruning.unit, training),
            free: (0..memory as u32).rev().collect(),
            departed: Departed::default(),
            ranking: Ranking::new(),
            steps: 0,
            inflation: 1.0,
            seed: training.seed,
            sums: Sums::default(),
        })
    }

    fn row_of(&self, feature: usize, id: u32) -> Option<usize> {
        let table = &self.tables[feature];
        let size = if self.pruning.numbered || table.whole { table.size } else { usize::MAX };
        shared_row(mix(self.seed ^ feature as u64), id, size, table.rows)
    }

    fn units(&self) -> usize {
        self.dim / self.pruning.unit
    }

    /// Compares scores and moves memory to the highest.
    fn round(&mut self) {
        let scales: Vec<f32> = (0..self.tables.len()).map(|feature| self.scale(feature)).collect();
        let memory = (self.memory.bytes() / Rows::row_bytes(self.pruning.unit)) as usize;
        let mut moves = Moves::default();
        if self.pruning.global {
            self.compare(0..self.tables.len(), memory, &scales, &mut moves);
        } else {
            for feature in 0..self.tables.len() {
                self.compare(feature..feature + 1, self.tables[feature].quota, &scales, &mut moves);
            }
        }
        let Moves { leaving, surely, within } = moves;
        if surely.len().max(leaving.len()) as f64 <= self.pruning.worth * memory as f64 {
            return;
        }
        for (feature, unit) in leaving {
            let table = &mut self.tables[feature];
            let address = std::mem::replace(&mut table.addresses[unit], NOWHERE);
            table.live -= 1;
            if self.pruning.start == Start::Own {
                self.departed.keep((feature, unit), self.memory.row(address as usize));
            }
            self.free.push(address);
        }
        for (feature, unit) in surely.into_iter().chain(within) {
            self.give(feature, unit);
        }
    }

    /// Which units of some tables should come and go so that their first `memory` have memory.
    fn compare(&mut self, of: Range<usize>, memory: usize, scales: &[f32], moves: &mut Moves) {
        let tables = self.tables[of.clone()].iter().zip(&scales[of.clone()]);
        self.ranking
            .count(tables.flat_map(|(table, scale)| table.scores.iter().map(move |score| scaled(*score, *scale))));
        let first = self.ranking.first(memory as u64);
        // Where only some of a bin are wanted, those that have memory go first.
        let mut quota = first.of_bin;
        for feature in of {
            let (table, scale) = (&self.tables[feature], scales[feature]);
            for (unit, (score, &address)) in table.scores.iter().zip(&table.addresses).enumerate() {
                match (first.place(scaled(*score, scale)), address != NOWHERE) {
                    (Place::Above, false) => moves.surely.push((feature, unit)),
                    (Place::Within, true) if quota > 0 => quota -= 1,
                    (Place::Within, false) => moves.within.push((feature, unit)),
                    (Place::Below | Place::Within, true) => moves.leaving.push((feature, unit)),
                    (Place::Above, true) | (Place::Below, false) => {}
                }
            }
        }
    }

    /// Gives a unit memory if there is any for its table.
    fn give(&mut self, feature: usize, unit: usize) -> bool {
        let table = &mut self.tables[feature];
        if table.live >= table.quota {
            return false;
        }
        let Some(address) = self.free.pop() else { return false };
        table.addresses[unit] = address;
        table.live += 1;
        let before = self.memory.row(address as usize);
        let weights = match self.pruning.start {
            Start::Zero => vec![0.0; self.pruning.unit],
            Start::Inherited => before.to_vec(),
            Start::Own => self.departed.take((feature, unit)).unwrap_or_else(|| vec![0.0; self.pruning.unit]),
            Start::Random(bound) => start::random(self.seed, (feature, unit), self.pruning.unit, bound),
        };
        self.memory.restart(address as usize, &weights);
        true
    }

    /// What a table's scores are multiplied by so that tables compare.
    fn scale(&mut self, feature: usize) -> f32 {
        if self.tables[feature].whole {
            return f32::MAX;
        }
        if !self.pruning.scaled {
            return 1.0;
        }
        self.ranking.count(self.tables[feature].scores.iter().copied());
        let high = self.ranking.quantile(0.05);
        if high > 0.0 { high.recip() } else { 0.0 }
    }

    /// What a step adds to a unit's score.
    fn increment(&self, count: u32, gradient: &[f32]) -> f32 {
        let count = count as f32;
        let plain = match self.pruning.score {
            Score::FrequencyGradient => count * norm(gradient),
            Score::Frequency => count,
            Score::Gradient => norm(gradient),
            Score::Random => 0.0,
        };
        plain * self.inflation
    }
}

impl Method for Pruned {
    fn lookup(&mut self, feature: usize, ids: &[u32], out: &mut [f32]) -> Result<(), StudyError> {
        let (units, unit_dims) = (self.units(), self.pruning.unit);
        for (&id, out) in ids.iter().zip(out.chunks_exact_mut(self.dim)) {
            out.fill(0.0);
            let Some(row) = self.row_of(feature, id) else { continue };
            let addresses = &self.tables[feature].addresses[row * units..(row + 1) * units];
            for (out, &address) in out.chunks_exact_mut(unit_dims).zip(addresses) {
                if address != NOWHERE {
                    out.copy_from_slice(self.memory.row(address as usize));
                }
            }
        }
        Ok(())
    }

    fn train(&mut self, feature: usize, ids: &[u32], gradients: &[f32]) -> Result<(), StudyError> {
        let (units, unit_dims) = (self.units(), self.pruning.unit);
        let mut sums = std::mem::take(&mut self.sums);
        // Ids of a table with fewer rows than ids always have one; in a whole one all training ids have.
        let rows: Vec<u32> = ids.iter().map(|&id| self.row_of(feature, id).unwrap_or(0) as u32).collect();
        if self.tables[feature].rows > 0 {
            sums.fill(rows.into_iter(), gradients, self.dim);
            for (row, count, gradient) in sums.iter() {
                for (k, gradient) in gradient.chunks_exact(unit_dims).enumerate() {
                    let unit = row * units + k;
                    let score = self.tables[feature].scores[unit];
                    self.tables[feature].scores[unit] = match self.pruning.score {
                        Score::Random => 0.5 + 0.5 * unit_score(self.seed, feature, unit),
                        _ => score + self.increment(count, gradient),
                    };
                    let missing = self.tables[feature].addresses[unit] == NOWHERE;
                    if !missing || self.give(feature, unit) {
                        self.memory.step(self.tables[feature].addresses[unit] as usize, gradient);
                    }
                }
            }
        }
        self.sums = sums;
        Ok(())
    }

    fn end_step(&mut self) -> Result<(), StudyError> {
        self.steps += 1;
        self.inflation *= self.pruning.decay.powf(-1.0 / self.pruning.period as f32);
        if self.steps.is_multiple_of(self.pruning.period) {
            self.round();
            if self.pruning.score != Score::Random {
                let factor = self.inflation.recip();
                self.tables.iter_mut().flat_map(|table| &mut table.scores).for_each(|score| *score *= factor);
            }
            self.inflation = 1.0;
        }
        Ok(())
    }

    fn held(&self) -> Held {
        let charge = self.pruning.charge;
        let virtual_bytes =
            |table: &Table| (table.scores.len() + table.addresses.len()) as u64 * 4 + table.rows as u64 * charge;
        let tables: u64 = self.tables.iter().map(virtual_bytes).sum();
        let free = self.memory.bytes() / Rows::row_bytes(self.pruning.unit) * size_of::<u32>() as u64;
        let now = tables + self.memory.bytes() + free + Ranking::BYTES;
        Held { now, peak: now }
    }

    fn own_dims(&self, feature: usize, ids: usize) -> Vec<u16> {
        let (units, table) = (self.units(), &self.tables[feature]);
        let dims = |id| {
            let row = self.row_of(feature, id)?;
            let live = table.addresses[row * units..(row + 1) * units].iter().filter(|&&at| at != NOWHERE).count();
            Some((live * self.pruning.unit) as u16)
        };
        (0..ids as u32).map(|id| dims(id).unwrap_or(0)).collect()
    }
}

/// Gives each table its part of the memory: whole tables all that they need, the others by their units.
fn split(tables: &mut [Table], memory: usize) {
    let units = |whole: bool| tables.iter().filter(|t| t.whole == whole).map(|t| t.quota as u64).sum::<u64>();
    let (all, left) = (units(false).max(1), (memory as u64).saturating_sub(units(true)));
    for table in tables.iter_mut().filter(|table| !table.whole) {
        table.quota = (u128::from(left) * table.quota as u128 / u128::from(all)) as usize;
    }
}

/// A score that compares with those of other tables: finite, and zero if the unit was never accessed.
fn scaled(score: f32, scale: f32) -> f32 {
    (score * scale).min(f32::MAX)
}

fn unit_score(seed: u64, feature: usize, unit_number: usize) -> f32 {
    unit(mix(seed ^ mix((feature as u64) << 40 | unit_number as u64)))
}

#[cfg(test)]
mod tests;
