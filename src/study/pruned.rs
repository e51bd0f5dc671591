//! Rows, or chunks of rows, that are pruned while they train, by a score kept for each: AdaEmbed (Lai et al., OSDI'23),
//! FIITED as published (arXiv 2401.04408), and controls with other scores.
//!
//! As in both papers ids name *virtual* rows, and each unit of a virtual row (the row itself, or a chunk of it) keeps a
//! score and the address of its memory, whether it has any or not: 8 bytes. Where that alone would take more than half
//! of the budget, there are fewer virtual rows than ids and ids share them by hash. What has no memory reads as zero and
//! starts at zero when it gets some, without optimizer state.
//!
//! Small tables are not pruned, as in the papers' evaluations: the smallest ones, as long as all of their rows together take
//! at most a part of the memory (`whole`). Without that rule a percentile over rows makes them lose.
//!
//! Every so many steps scores are compared over all tables, after division by their table's 95th percentile over the
//! units that were accessed (`scaled`). If more than a twentieth of the memory would change hands, it does.

use super::flat::{Rows, Sums, level, norm, shared_row, unit};
use super::ranking::{Place, Ranking};
use super::{Held, Method, StudyError, Training};
use crate::data::mix;

/// Bytes that a unit costs whether it has memory or not: its score and its address.
const UNIT_BYTES: u64 = 8;
const NOWHERE: u32 = u32::MAX;
/// The part of the memory that must change hands for a round to be worth it (AdaEmbed, section 4.2).
const WORTH: f64 = 0.05;

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
}

pub(crate) struct Pruned {
    dim: usize,
    pruning: Pruning,
    tables: Vec<Table>,
    memory: Rows,
    free: Vec<u32>,
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
    scores: Vec<f32>,
    addresses: Vec<u32>,
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
        let row_bytes = UNIT_BYTES * units as u64;
        let rows = level(sizes, (room / 2 / row_bytes) as usize);
        let table = |(&size, &rows): (&usize, &usize)| Table {
            size,
            rows,
            whole: false,
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
        Ok(Pruned {
            dim,
            pruning,
            tables,
            memory: Rows::zeros(memory, pruning.unit, training),
            free: (0..memory as u32).rev().collect(),
            ranking: Ranking::new(),
            steps: 0,
            inflation: 1.0,
            seed: training.seed,
            sums: Sums::default(),
        })
    }

    fn row_of(&self, feature: usize, id: u32) -> Option<usize> {
        let table = &self.tables[feature];
        shared_row(mix(self.seed ^ feature as u64), id, table.size, table.rows)
    }

    fn units(&self) -> usize {
        self.dim / self.pruning.unit
    }

    /// Compares all scores and moves memory to the highest.
    fn round(&mut self) {
        let scales: Vec<f32> = (0..self.tables.len()).map(|feature| self.scale(feature)).collect();
        let tables = self.tables.iter().zip(&scales);
        self.ranking
            .count(tables.flat_map(|(table, scale)| table.scores.iter().map(move |score| scaled(*score, *scale))));
        let memory = self.memory.bytes() / Rows::row_bytes(self.pruning.unit);
        let first = self.ranking.first(memory);
        // Where only some of a bin are wanted, those that have memory go first.
        let mut quota = first.of_bin;
        let mut leaving: Vec<(usize, usize)> = Vec::new();
        let mut coming: [Vec<(usize, usize)>; 2] = [Vec::new(), Vec::new()];
        for (feature, (table, scale)) in self.tables.iter().zip(&scales).enumerate() {
            for (unit, (score, &address)) in table.scores.iter().zip(&table.addresses).enumerate() {
                match (first.place(scaled(*score, *scale)), address != NOWHERE) {
                    (Place::Above, false) => coming[0].push((feature, unit)),
                    (Place::Within, true) if quota > 0 => quota -= 1,
                    (Place::Within, false) => coming[1].push((feature, unit)),
                    (Place::Below | Place::Within, true) => leaving.push((feature, unit)),
                    (Place::Above, true) | (Place::Below, false) => {}
                }
            }
        }
        if coming[0].len().max(leaving.len()) as f64 <= WORTH * memory as f64 {
            return;
        }
        for (feature, unit) in leaving {
            let address = std::mem::replace(&mut self.tables[feature].addresses[unit], NOWHERE);
            self.free.push(address);
        }
        let [surely, within] = coming;
        for (feature, unit) in surely.into_iter().chain(within) {
            if !self.give(feature, unit) {
                break;
            }
        }
    }

    /// Gives a unit memory, all zeros, if there is any.
    fn give(&mut self, feature: usize, unit: usize) -> bool {
        let Some(address) = self.free.pop() else { return false };
        self.memory.restart(address as usize, &vec![0.0; self.pruning.unit]);
        self.tables[feature].addresses[unit] = address;
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
        let virtual_bytes = |table: &Table| ((table.scores.len() + table.addresses.len()) * 4) as u64;
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

/// A score that compares with those of other tables: finite, and zero if the unit was never accessed.
fn scaled(score: f32, scale: f32) -> f32 {
    (score * scale).min(f32::MAX)
}

fn unit_score(seed: u64, feature: usize, unit_number: usize) -> f32 {
    unit(mix(seed ^ mix((feature as u64) << 40 | unit_number as u64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRAINING: Training = Training { lr: 0.1, eps: 1e-8, seed: 3 };
    const ROWS: Pruning =
        Pruning { unit: 4, score: Score::FrequencyGradient, scaled: true, whole: 0.0, period: 1, decay: 0.8 };

    /// Room for `rows` rows beside all metadata of `ids` ids.
    fn with_room(ids: usize, rows: u64, pruning: Pruning) -> Pruned {
        let memory = rows * (4 / pruning.unit) as u64 * (Rows::row_bytes(pruning.unit) + 4);
        let virtual_rows = ids as u64 * UNIT_BYTES * (4 / pruning.unit) as u64;
        let budget = Ranking::BYTES + 4 * (memory + virtual_rows);
        let mut made = Pruned::new(&[ids], 4, budget, TRAINING, pruning).unwrap();
        assert!(made.held().now <= budget);
        let rows = rows as usize * (4 / pruning.unit);
        made.memory = Rows::zeros(rows, pruning.unit, TRAINING);
        made.free = (0..rows as u32).rev().collect();
        made
    }

    fn dims(method: &Pruned, ids: usize) -> Vec<u16> {
        method.own_dims(0, ids)
    }

    #[test]
    fn the_budget_is_met_and_used_whatever_the_ratio() {
        let sizes = [100, 50_000];
        let full = 50_100 * Rows::row_bytes(16);
        for (unit, part) in [(16, 2), (16, 5), (16, 20), (16, 100), (4, 5), (4, 20), (4, 100)] {
            let made = Pruned::new(&sizes, 16, full / part, TRAINING, Pruning { unit, ..ROWS }).unwrap();
            let arrays: usize = made.tables.iter().map(|t| t.scores.capacity() + t.addresses.capacity()).sum();
            let allocated = arrays * 4 + made.free.capacity() * 4 + made.ranking_bytes();
            assert_eq!(made.held().now, made.memory.bytes() + allocated as u64);
            assert!(made.held().now <= full / part && made.held().now * 100 > full / part * 98);
        }
    }

    impl Pruned {
        fn ranking_bytes(&self) -> usize {
            Ranking::BYTES as usize
        }
    }

    #[test]
    fn frequency_times_gradient_keeps_what_is_both() {
        let often_weak = (0u32, 4, 0.3f32); // 4 accesses: summed gradient 1.2, times 4
        let rare_strong = (1u32, 1, 2.0f32);
        let rare_weak = (2u32, 1, 0.1f32);
        for (score, kept) in [(Score::FrequencyGradient, 0), (Score::Frequency, 0), (Score::Gradient, 1)] {
            let mut method = with_room(3, 1, Pruning { score, ..ROWS });
            for (id, count, size) in [rare_weak, often_weak, rare_strong] {
                let gradients = vec![size; count * 4];
                method.train(0, &vec![id; count], &gradients).unwrap();
            }
            assert_eq!(dims(&method, 3), [0, 0, 4], "who came first has the memory");
            method.end_step().unwrap();
            let mut wanted = [0; 3];
            wanted[kept] = 4;
            assert_eq!(dims(&method, 3), wanted, "{score:?}");
            // What comes back starts at zero.
            let mut out = [1.0; 4];
            method.lookup(0, &[kept as u32], &mut out).unwrap();
            assert_eq!(out, [0.0; 4]);
        }
    }

    #[test]
    fn chunks_are_kept_one_by_one() {
        let mut method = with_room(2, 1, Pruning { unit: 2, ..ROWS });
        method.train(0, &[0, 1], &[1.0, 1.0, 0.1, 0.1, 0.2, 0.2, 3.0, 3.0]).unwrap();
        method.end_step().unwrap();
        assert_eq!(dims(&method, 2), [2, 2]);
        method.train(0, &[0, 1], &[1.0; 8]).unwrap();
        let mut out = [9.0; 8];
        method.lookup(0, &[0, 1], &mut out).unwrap();
        assert!(out[0] < 0.0 && out[2] == 0.0 && out[4] == 0.0 && out[6] < 0.0, "{out:?}");
    }

    #[test]
    fn percentiles_make_tables_compare() {
        for (scaled, kept) in [(true, [1, 0]), (false, [0, 1])] {
            let mut method = Pruned::new(&[40, 40], 4, 1 << 20, TRAINING, Pruning { scaled, ..ROWS }).unwrap();
            method.memory = Rows::zeros(1, 4, TRAINING);
            method.free = vec![0];
            // The second table's gradients are a thousand times the first's; in the first, id 0 stands out.
            for id in 0..40u32 {
                method.train(0, &[id], &[if id == 0 { 1.0 } else { 0.01 }; 4]).unwrap();
                method.train(1, &[id], &[1000.0 + id as f32; 4]).unwrap();
            }
            method.end_step().unwrap();
            let live = |feature| method.own_dims(feature, 40).iter().filter(|&&dims| dims > 0).count();
            assert_eq!([live(0), live(1)], kept);
        }
    }

    #[test]
    fn small_tables_are_left_whole() {
        for (whole, kept) in [(0.0, 0), (0.5, 3)] {
            let pruning = Pruning { whole, ..ROWS };
            let mut method = Pruned::new(&[3, 40], 4, 20 * 36 + 43 * 8 + Ranking::BYTES, TRAINING, pruning).unwrap();
            for _ in 0..3 {
                method.train(0, &[0, 1, 2], &[0.001; 12]).unwrap();
                let ids: Vec<u32> = (0..40).chain(0..40).collect();
                method.train(1, &ids, &[5.0; 320]).unwrap();
            }
            method.pruning.scaled = false;
            method.end_step().unwrap();
            assert_eq!(method.own_dims(0, 3).iter().filter(|&&dims| dims > 0).count(), kept);
        }
    }

    #[test]
    fn old_scores_count_less() {
        let mut method = with_room(2, 1, Pruning { period: 2, decay: 0.1, ..ROWS });
        method.train(0, &[0], &[1.0; 4]).unwrap();
        (0..4).for_each(|_| method.end_step().unwrap());
        assert_eq!(dims(&method, 2), [4, 0]);
        method.train(0, &[1], &[0.5; 4]).unwrap();
        (0..2).for_each(|_| method.end_step().unwrap());
        assert_eq!(dims(&method, 2), [0, 4]);
    }
}
