//! A seeded stream in Criteo's shape: 13 integers and 26 categories of Zipf-distributed ids, whose popularity drifts,
//! labelled by a known teacher.
//!
//! Row `i` depends on the seed and on `i` alone, so that any part of the stream can be made again.

use std::io::{self, Write};
use std::ops::Range;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::batch::{Row, RowSource, Schema};
use super::criteo::{CATEGORIES, CRITEO_MISSING_KEY, INTEGERS, dense_value, schema};
use super::error::DataError;
use super::teacher::{Id, Parts, Teacher, Truth, auc, mix, normals};
use super::zipf::Zipf;

/// Random words (32 bits) reserved for each row.
const ROW_WORDS: u128 = 128;
/// Rows over which the teacher is calibrated.
const CALIBRATION_ROWS: u64 = 8192;
/// Features of fewer ids than this keep them for ever (weekdays, formats); the others drift.
const DRIFT_FROM: u32 = 1000;

/// How many ids a feature has: a number, or thousandths of what the features of fixed size leave.
enum Size {
    Ids(u32),
    Share(u32),
}
use Size::{Ids, Share};

/// The spread of Criteo's log: a few ids in some features, most ids in a few features.
const SIZES: [Size; CATEGORIES] = [
    Ids(1_400),
    Ids(550),
    Share(220),
    Share(160),
    Ids(300),
    Ids(24),
    Ids(12_000),
    Ids(600),
    Ids(3),
    Share(30),
    Ids(5_500),
    Share(180),
    Ids(3_100),
    Ids(26),
    Ids(14_500),
    Share(140),
    Ids(10),
    Ids(4_800),
    Ids(2_100),
    Ids(4),
    Share(190),
    Ids(17),
    Ids(15),
    Share(45),
    Ids(100),
    Share(35),
];

/// How often each category is empty, in 65536ths.
const CATEGORY_EMPTY: [u16; CATEGORIES] = {
    let mut share = [0; CATEGORIES];
    (share[2], share[3], share[5]) = (2_200, 2_200, 7_900);
    (share[18], share[19], share[21]) = (28_800, 28_800, 50_000);
    (share[24], share[25]) = (28_800, 28_800);
    share
};

/// An integer column: `floor(exp(mean + spread z)) + offset` with a normal `z`, and how often it is empty, in 65536ths.
struct Integer {
    mean: f64,
    spread: f64,
    offset: i64,
    empty: u16,
}

const fn integer(mean: f64, spread: f64, offset: i64, empty: u16) -> Integer {
    Integer { mean, spread, offset, empty }
}

const INTEGER_COLUMNS: [Integer; INTEGERS] = [
    integer(0.6, 1.0, -1, 29_000),
    integer(1.8, 1.5, -4, 0),
    integer(1.9, 1.1, -1, 14_000),
    integer(1.7, 0.9, -1, 14_000),
    integer(8.0, 1.8, -1, 1_700),
    integer(3.6, 1.3, -1, 14_600),
    integer(2.0, 1.1, -1, 2_800),
    integer(2.2, 0.9, -1, 30),
    integer(4.2, 1.2, -1, 2_800),
    integer(0.5, 0.4, -1, 29_000),
    integer(1.0, 0.7, -1, 2_800),
    integer(0.5, 0.5, -1, 50_000),
    integer(1.8, 1.0, -1, 14_000),
];

/// Settings of the generated stream.
#[derive(Clone, Debug, PartialEq)]
pub struct GeneratorConfig {
    seed: u64,
    rows: u64,
    total_ids: u64,
    zipf: f64,
    drift_rows: u64,
    shift_rows: u64,
    truth: Truth,
    ctr: f64,
}

impl Default for GeneratorConfig {
    fn default() -> Self {
        GeneratorConfig {
            seed: 1,
            rows: 300_000,
            total_ids: 1_000_000,
            zipf: 1.075,
            drift_rows: 1_000_000,
            shift_rows: 0,
            truth: Truth::Head,
            ctr: 0.25,
        }
    }
}

impl GeneratorConfig {
    /// Chooses the stream: teacher, ids and rows. Defaults to 1.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Length of the stream. Defaults to 300,000.
    #[must_use]
    pub fn rows(mut self, rows: u64) -> Self {
        self.rows = rows;
        self
    }

    /// How many ids all features have together at any one time, from 100,000 to 2^31. Defaults to 1,000,000.
    #[must_use]
    pub fn total_ids(mut self, total_ids: u64) -> Self {
        self.total_ids = total_ids;
        self
    }

    /// Exponent of the popularity of ids, from 0.5 to 2; single features have up to 0.025 more or less. The lower, the
    /// heavier the tail. Defaults to 1.075 (Criteo's is 1.05 to 1.1).
    #[must_use]
    pub fn zipf(mut self, exponent: f64) -> Self {
        self.zipf = exponent;
        self
    }

    /// In how many rows every place of popularity is taken over by a new id once, in the features of 1,000 ids and more;
    /// the places change hands one after the other. 0 for no drift. Defaults to 1,000,000.
    #[must_use]
    pub fn drift_rows(mut self, rows: u64) -> Self {
        self.drift_rows = rows;
        self
    }

    /// After every so many rows half of the places change hands at once, in the features of 1,000 ids and more, in place of
    /// the steady drift. 0, the default, for none.
    #[must_use]
    pub fn shift_rows(mut self, rows: u64) -> Self {
        self.shift_rows = rows;
        self
    }

    /// What labels depend on. Defaults to [`Truth::Head`].
    #[must_use]
    pub fn truth(mut self, truth: Truth) -> Self {
        self.truth = truth;
        self
    }

    /// The share of clicks, from 0.001 to 0.999. Defaults to 0.25.
    #[must_use]
    pub fn ctr(mut self, ctr: f64) -> Self {
        self.ctr = ctr;
        self
    }

    fn validate(&self) -> Result<(), DataError> {
        let error = |name, value: String, expected| Err(DataError::Generator { name, value, expected });
        if !(100_000..=1 << 31).contains(&self.total_ids) {
            return error("total_ids", self.total_ids.to_string(), "it can be 100,000 to 2^31");
        }
        if !(0.5..=2.0).contains(&self.zipf) {
            return error("zipf", self.zipf.to_string(), "it can be 0.5 to 2");
        }
        if !(0.001..=0.999).contains(&self.ctr) {
            return error("ctr", self.ctr.to_string(), "it can be 0.001 to 0.999");
        }
        Ok(())
    }
}

/// One categorical feature.
#[derive(Clone, Debug)]
struct Feature {
    ids: u32,
    zipf: Zipf,
    /// Different for each feature, so that their ids look unrelated.
    salt: u32,
}

/// A row as the log writes it, with its teacher's probability.
struct RawRow {
    clicked: bool,
    probability: f64,
    integers: [Option<i64>; INTEGERS],
    ids: [Option<u32>; CATEGORIES],
}

/// The generated stream. See the [module](super) for the values of its columns: they are what reading the rows back from
/// [`write_criteo`](Generator::write_criteo)'s text gives.
#[derive(Clone)]
pub struct Generator {
    config: GeneratorConfig,
    schema: Schema,
    features: Vec<Feature>,
    teacher: Teacher,
    rng: ChaCha8Rng,
    next: u64,
    probability: f64,
}

impl Generator {
    /// Sets the stream up; this takes some milliseconds, to calibrate the teacher.
    ///
    /// # Errors
    /// [`DataError::Generator`] for a setting out of range.
    pub fn new(config: GeneratorConfig) -> Result<Generator, DataError> {
        config.validate()?;
        let fixed: u32 = SIZES.iter().map(|size| if let Ids(ids) = size { *ids } else { 0 }).sum();
        let shared = config.total_ids - u64::from(fixed);
        let feature = |(f, size): (usize, &Size)| {
            let ids = match size {
                Ids(ids) => *ids,
                // At most 2^31 thousandths of a thousand: fits.
                Share(share) => (shared * u64::from(*share) / 1000) as u32,
            };
            let exponent = config.zipf + 0.025 * (f % 3) as f64 - 0.025;
            let salt = mix(config.seed ^ mix(0xfea7 + f as u64)) as u32;
            Feature { ids, zipf: Zipf::new(ids, exponent), salt }
        };
        let features = SIZES.iter().enumerate().map(feature).collect();
        let large = std::array::from_fn(|f| matches!(SIZES[f], Share(_)));
        let teacher = Teacher::new(mix(config.seed), config.truth, &large);
        let rng = ChaCha8Rng::seed_from_u64(config.seed);
        let (schema, drift, ctr) = (schema(), config.drift_rows, config.ctr);
        let mut generator = Generator { config, schema, features, teacher, rng, next: 0, probability: 0.0 };

        // A stream of random numbers that no row uses, and moments from all over one round of the drift.
        generator.rng.set_stream(1);
        let moment = |i: u64| (u128::from(i) * u128::from(drift) / u128::from(CALIBRATION_ROWS)) as u64;
        let sample: Vec<Parts> = (0..CALIBRATION_ROWS).map(|i| generator.draw(i, moment(i)).1).collect();
        generator.teacher.calibrate(&sample, ctr);
        generator.rng.set_stream(0);
        Ok(generator)
    }

    /// The teacher's probability for the row that [`RowSource::next_row`] gave last.
    pub fn probability(&self) -> f64 {
        self.probability
    }

    /// Whether an id is one of those that need all latent coordinates, for [`Truth::Planted`]; `None` in features whose
    /// pairs hardly count.
    pub fn planted_need(&self, feature: usize, key: u64) -> Option<bool> {
        self.teacher.planted(feature, key)
    }

    /// The AUC of the teacher's own probabilities over some rows of the stream: the best that a model can reach on them,
    /// up to the chance of their labels. Needs 16 bytes a row while it runs.
    pub fn teacher_auc(&self, rows: Range<u64>) -> f64 {
        let mut twin = self.clone();
        auc(rows.map(|i| twin.raw_row(i)).map(|row| (row.probability, row.clicked)).collect())
    }

    /// Writes the next `rows` rows, or those that are left if they are fewer, in the Criteo format.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_criteo(&mut self, out: &mut impl Write, rows: u64) -> io::Result<u64> {
        let end = self.next.saturating_add(rows).min(self.config.rows);
        let (begin, mut line) = (self.next, Vec::with_capacity(512));
        while self.next < end {
            let row = self.raw_row(self.next);
            line.clear();
            line.push(if row.clicked { b'1' } else { b'0' });
            for integer in row.integers {
                match integer {
                    Some(x) => write!(line, "\t{x}")?,
                    None => line.push(b'\t'),
                }
            }
            for id in row.ids {
                match id {
                    Some(id) => write!(line, "\t{id:08x}")?,
                    None => line.push(b'\t'),
                }
            }
            line.push(b'\n');
            out.write_all(&line)?;
            self.next += 1;
        }
        Ok(end - begin)
    }

    /// Row `i` with its label.
    fn raw_row(&mut self, i: u64) -> RawRow {
        let (mut row, parts) = self.draw(i, i);
        row.probability = self.teacher.probability(parts);
        row.clicked = uniform(&mut self.rng) < row.probability;
        row
    }

    /// The features of row `i` as of moment `time`, and the parts of their logit; the label is still to be drawn.
    fn draw(&mut self, i: u64, time: u64) -> (RawRow, Parts) {
        let rng = &mut self.rng;
        rng.set_word_pos(u128::from(i) * ROW_WORDS);
        let mut row = RawRow { clicked: false, probability: 0.0, integers: [None; INTEGERS], ids: [None; CATEGORIES] };
        let mut empty = Sixteenths::default();

        let mut dense = [0.0; INTEGERS];
        for ((column, slot), dense) in INTEGER_COLUMNS.iter().zip(&mut row.integers).zip(&mut dense) {
            // The sum of four independent draws is closer to normal than each.
            let z = normals(rng.next_u64()).iter().sum::<f64>() * 0.5;
            if empty.next(rng) >= column.empty {
                *slot = Some((column.mean + column.spread * z).exp() as i64 + column.offset);
            }
            *dense = (f64::from(slot.map_or(0.0, dense_value)) - column.mean) / column.spread;
        }

        let mut ids = [Id { value: CRITEO_MISSING_KEY, rank: 3 }; CATEGORIES];
        for (f, feature) in self.features.iter().enumerate() {
            let rank = feature.zipf.draw(|| uniform(rng));
            if empty.next(rng) >= CATEGORY_EMPTY[f] {
                let id = feature.id(rank, time, self.config.drift_rows, self.config.shift_rows);
                row.ids[f] = Some(id);
                ids[f] = Id { value: u64::from(id), rank };
            }
        }
        let parts = self.teacher.parts(&dense, &ids);
        (row, parts)
    }
}

impl Feature {
    /// Who holds the place `rank` at moment `time`. Each place changes hands once in `drift_rows` rows, at a moment of
    /// its own, or at every second shift; its holders are all different.
    fn id(&self, rank: u32, time: u64, drift_rows: u64, shift_rows: u64) -> u32 {
        let holder = if self.ids < DRIFT_FROM {
            0
        } else if let Some(shifts) = time.checked_div(shift_rows) {
            let second = mix(u64::from(self.salt) << 32 | u64::from(rank)) & 1;
            ((shifts + second) / 2) as u32
        } else if drift_rows == 0 {
            0
        } else {
            let phase = mix(u64::from(self.salt) << 32 | u64::from(rank)) % drift_rows;
            (time.saturating_add(phase) / drift_rows) as u32
        };
        // One number per holder, as long as there are fewer than 2^32.
        scramble(rank.wrapping_add(holder.wrapping_mul(self.ids)) ^ self.salt)
    }
}

impl RowSource for Generator {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn next_row(&mut self, row: &mut Row) -> Result<bool, DataError> {
        if self.next >= self.config.rows {
            return Ok(false);
        }
        let raw = self.raw_row(self.next);
        self.next += 1;
        self.probability = raw.probability;
        row.label = f32::from(u8::from(raw.clicked));
        row.dense.clear();
        row.dense.extend(raw.integers.iter().map(|integer| integer.map_or(0.0, dense_value)));
        row.keys.clear();
        row.keys.extend(raw.ids.iter().map(|id| id.map_or(CRITEO_MISSING_KEY, u64::from)));
        Ok(true)
    }

    fn skipped(&self) -> u64 {
        0
    }
}

/// A uniform draw from `[0, 1)`.
fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// A permutation of 32-bit numbers that makes neighbours look unrelated (the finaliser of MurmurHash3).
fn scramble(x: u32) -> u32 {
    let x = (x ^ (x >> 16)).wrapping_mul(0x85eb_ca6b);
    let x = (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35);
    x ^ (x >> 16)
}

/// 16 random bits at a time, four times out of each draw.
#[derive(Default)]
struct Sixteenths {
    bits: u64,
    left: u32,
}

impl Sixteenths {
    fn next(&mut self, rng: &mut ChaCha8Rng) -> u16 {
        if self.left == 0 {
            (self.bits, self.left) = (rng.next_u64(), 4);
        }
        let word = self.bits as u16;
        self.bits >>= 16;
        self.left -= 1;
        word
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::io::Cursor;

    use super::super::{CriteoReader, Input, Inputs};
    use super::*;

    fn rows(source: &mut dyn RowSource) -> Vec<Row> {
        let (mut row, mut all) = (Row::default(), Vec::new());
        while source.next_row(&mut row).unwrap() {
            all.push(row.clone());
        }
        all
    }

    fn generator(config: GeneratorConfig) -> Generator {
        Generator::new(config).unwrap()
    }

    #[test]
    fn the_text_reads_back_as_the_same_rows() {
        let mut source = generator(GeneratorConfig::default().rows(3000).seed(9));
        let mut text = Vec::new();
        assert_eq!(source.clone().write_criteo(&mut text, 1000).unwrap(), 1000);
        let mut rest = source.clone();
        rest.next = 1000;
        assert_eq!(rest.write_criteo(&mut text, u64::MAX).unwrap(), 2000);
        let input = Input::from_reader("generated", Cursor::new(text)).unwrap();
        let read = rows(&mut CriteoReader::new(Inputs::from_inputs(vec![input])));
        assert_eq!(read, rows(&mut source));
        // All that the format has occurs: empty and negative integers, empty categories.
        assert!(read.iter().any(|row| row.keys.contains(&CRITEO_MISSING_KEY)));
    }

    #[test]
    fn the_seed_decides_everything() {
        let config = GeneratorConfig::default().rows(500);
        let first = rows(&mut generator(config.clone()));
        assert_eq!(first, rows(&mut generator(config.clone())));
        assert_ne!(first, rows(&mut generator(config.clone().seed(2))));
        // A longer stream begins with the shorter one.
        assert_eq!(first, rows(&mut generator(config.rows(900)))[..500]);
    }

    #[test]
    fn rate_and_teacher_are_as_promised() {
        for seed in 1..=4 {
            let mut source = generator(GeneratorConfig::default().seed(seed).rows(60_000));
            let auc = source.teacher_auc(0..60_000);
            assert!((0.78..0.825).contains(&auc), "seed {seed}: AUC {auc}");
            let (mut row, mut clicks, mut expected) = (Row::default(), 0.0, 0.0);
            while source.next_row(&mut row).unwrap() {
                clicks += f64::from(row.label) / 60_000.0;
                expected += source.probability() / 60_000.0;
            }
            assert!((clicks - 0.25).abs() < 0.02, "seed {seed}: rate {clicks}");
            // Three standard errors of a mean of 60,000 labels.
            assert!((clicks - expected).abs() < 0.0054, "seed {seed}: {clicks} for {expected}");
        }
    }

    /// Rows per key of a feature over a part of the stream.
    fn counts(config: GeneratorConfig, feature: usize, from: u64) -> HashMap<u64, u32> {
        let mut source = generator(config);
        source.next = from;
        let mut counts = HashMap::new();
        let mut row = Row::default();
        while source.next_row(&mut row).unwrap() {
            *counts.entry(row.keys[feature]).or_insert(0) += 1;
        }
        counts.remove(&CRITEO_MISSING_KEY);
        counts
    }

    #[test]
    fn popularity_is_zipf() {
        // Feature 20 has 19 % of the shared ids, an exponent of 1.075 + 0.025 and no empty cells.
        let config = GeneratorConfig::default().rows(50_000).drift_rows(0);
        let ids = generator(config.clone()).features[20].ids;
        assert!((150_000..200_000).contains(&ids), "{ids}");
        let mut counts: Vec<u32> = counts(config, 20, 0).into_values().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let norm: f64 = (1..=ids).map(|k| f64::from(k).powf(-1.1)).sum();
        for head in [1, 10, 100] {
            let share = (1..=head).map(|k| f64::from(k).powf(-1.1)).sum::<f64>() / norm;
            let found = f64::from(counts[..head as usize].iter().sum::<u32>()) / 50_000.0;
            assert!((found - share).abs() < 0.015, "head {head}: {found} for {share}");
        }
        assert!(counts.len() > 5000, "{} ids", counts.len());
    }

    #[test]
    fn drift_replaces_the_popular_ids_at_its_pace() {
        let top = |config: GeneratorConfig, from: u64| {
            let counts = counts(config.rows(from + 20_000), 20, from);
            let mut ids: Vec<(u64, u32)> = counts.into_iter().collect();
            ids.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
            ids.into_iter().take(50).map(|(id, _)| id).collect::<std::collections::HashSet<_>>()
        };
        let kept = |drift: u64, later: u64| {
            let config = GeneratorConfig::default().drift_rows(drift);
            top(config.clone(), 0).intersection(&top(config, later)).count()
        };
        assert!(kept(0, 500_000) >= 40, "no drift: {}", kept(0, 500_000));
        let half = kept(1_000_000, 500_000);
        assert!((12..=35).contains(&half), "half a round: {half} of 50");
        assert!(kept(1_000_000, 1_100_000) <= 2, "a whole round: {}", kept(1_000_000, 1_100_000));
        // Small features keep their ids.
        let small = |from: u64| counts(GeneratorConfig::default().drift_rows(1000).rows(from + 2000), 8, from);
        assert_eq!(small(0).len(), 3);
        assert!(small(100_000).keys().all(|key| small(0).contains_key(key)));
    }

    #[test]
    fn settings_out_of_range_are_typed_errors() {
        let base = GeneratorConfig::default;
        for config in [
            base().total_ids(99_999),
            base().total_ids(u64::MAX),
            base().zipf(0.0),
            base().zipf(f64::NAN),
            base().ctr(0.0),
            base().ctr(1.0),
        ] {
            assert!(matches!(Generator::new(config), Err(DataError::Generator { .. })));
        }
        for config in
            [base().total_ids(100_000), base().total_ids(1 << 31), base().drift_rows(u64::MAX), base().drift_rows(1)]
        {
            let rows = rows(&mut generator(config.rows(10)));
            assert_eq!(rows.len(), 10);
        }
    }
}
