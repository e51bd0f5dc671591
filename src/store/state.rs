//! What a store knows besides its rows, as sections of a snapshot.
//!
//! | section | holds |
//! |---|---|
//! | `store/clock` u64 | steps, age, age of the units, step of the last round, accesses since the last step, inflation, memory, rounds, whether growth was refused |
//! | `store/newcomers` u64 | how many were looked at, the sum of what came of them; table, hash, age, importance of each that waits |
//! | `store/policy` f32 | threshold, price, breadth |
//! | `store/sketch` u32 | two counters a word |
//! | `store/superblocks` u64 | superblocks of each slab |
//! | `table/T/figures` u64 | admitted, grown, shrunk, evicted, refused, missed, batches, bytes and rows of the directory when it was last tidied |
//! | `table/T/rates` f32 | scale, learning rate |
//! | `table/T/segments` u32 | prefix, depth, buckets, used slots of each directory segment |
//! | `shared/T/weights`, `shared/T/state` f32 | the fallback's shared rows |

use super::Inner;
use super::table::Table;
use crate::snapshot::{Data, Section, SnapshotError};
use crate::sync::{AtomicU32, Ordering};

fn section(name: String, shape: Vec<usize>, data: Data) -> Section {
    Section { name, shape, data }
}

fn flat(name: String, data: Data) -> Section {
    section(name, vec![data.len()], data)
}

/// The sections of a snapshot by their names.
pub(super) struct Sections<'s>(pub(super) &'s [Section]);

fn unfit(name: &str) -> SnapshotError {
    SnapshotError::Other(format!(
        "section `{name}` does not hold what a store of these settings saves: use another snapshot"
    ))
}

macro_rules! find {
    ($find:ident, $variant:ident, $value:ty) => {
        /// The section of that name, if there is one.
        pub(super) fn $find(&self, name: &str) -> Result<Option<&[$value]>, SnapshotError> {
            match self.0.iter().find(|section| section.name == name).map(|section| &section.data) {
                None => Ok(None),
                Some(Data::$variant(values)) => Ok(Some(values)),
                Some(_) => Err(unfit(name)),
            }
        }
    };
}

impl Sections<'_> {
    find!(integers, U64, u64);
    find!(words, U32, u32);
    find!(floats, F32, f32);

    /// `N` finite numbers of at least 0.
    fn figures<const N: usize>(&self, name: &str) -> Result<Option<[f32; N]>, SnapshotError> {
        let Some(values) = self.floats(name)? else { return Ok(None) };
        let values: [f32; N] = values.try_into().map_err(|_| unfit(name))?;
        if values.iter().all(|value| value.is_finite() && *value >= 0.0) { Ok(Some(values)) } else { Err(unfit(name)) }
    }
}

impl Inner {
    /// All sections, with the number of rounds so far.
    pub(super) fn sections(&self, rounds: u64) -> Vec<Section> {
        let mut clock = self.clock.words().to_vec();
        clock.extend([rounds, u64::from(self.pressure.load(Ordering::Relaxed))]);
        let newcomers = self.newcomers.lock().words();
        let superblocks = self.slabs.iter().map(|slab| slab.occupancy().count() as u64).collect();
        let mut sections = vec![
            flat("store/clock".to_owned(), Data::U64(clock)),
            flat("store/policy".to_owned(), Data::F32(self.policy_words().map(load).to_vec())),
            flat("store/newcomers".to_owned(), Data::U64(newcomers)),
            flat("store/superblocks".to_owned(), Data::U64(superblocks)),
        ];
        sections.extend(self.sketch.as_ref().map(|sketch| flat("store/sketch".to_owned(), Data::U32(sketch.words()))));
        for table in &self.tables {
            self.table_sections(table, &mut sections);
        }
        sections
    }

    fn table_sections(&self, table: &Table, sections: &mut Vec<Section>) {
        let number = table.number();
        sections.push(flat(format!("table/{number}/figures"), Data::U64(table.figures().to_vec())));
        let rates = vec![table.scale(), table.learning_rate()];
        sections.push(flat(format!("table/{number}/rates"), Data::F32(rates)));
        let shape = table.directory.shape(&self.reclaimer.pin()).into_flattened();
        sections.push(section(format!("table/{number}/segments"), vec![shape.len() / 4, 4], Data::U32(shape)));
        if let Some(shared) = &table.shared {
            let (weights, state) = shared.save();
            let rows = shared.rows();
            let of = |what, values: Vec<f32>| {
                section(format!("shared/{number}/{what}"), vec![rows, values.len() / rows], Data::F32(values))
            };
            sections.extend([of("weights", weights), of("state", state)]);
        }
    }

    fn policy_words(&self) -> [&AtomicU32; 3] {
        [&self.threshold, &self.price, &self.breadth]
    }

    /// Goes on from a clock and a policy that were saved. Returns the number of rounds.
    pub(super) fn restore_policy(&self, sections: &Sections<'_>) -> Result<u64, SnapshotError> {
        let mut rounds = 0;
        if let Some(words) = sections.integers("store/clock")? {
            let Some((clock, [before, pressed])) = words.split_first_chunk::<7>() else {
                return Err(unfit("store/clock"));
            };
            if !self.clock.set_words(*clock) {
                return Err(unfit("store/clock"));
            }
            rounds = *before;
            self.pressure.store(*pressed != 0, Ordering::Relaxed);
        }
        if let Some(figures) = sections.figures::<3>("store/policy")? {
            self.policy_words().into_iter().zip(figures).for_each(|(word, value)| {
                word.store(value.to_bits(), Ordering::Relaxed);
            });
        }
        Ok(rounds)
    }

    /// Goes on with the newcomers of a store of the same settings.
    pub(super) fn restore_newcomers(&self, sections: &Sections<'_>) -> Result<(), SnapshotError> {
        let Some(words) = sections.integers("store/newcomers")? else { return Ok(()) };
        let restored = self.newcomers.lock().set_words(words, self.tables.len());
        if restored { Ok(()) } else { Err(unfit("store/newcomers")) }
    }

    /// Goes on from a sketch that was saved by a store of the same hash. A sketch of another size is of no use.
    pub(super) fn restore_sketch(&self, sections: &Sections<'_>, exactly: bool) -> Result<(), SnapshotError> {
        let (Some(sketch), Some(words)) = (&self.sketch, sections.words("store/sketch")?) else { return Ok(()) };
        if sketch.set_words(words) || !exactly { Ok(()) } else { Err(unfit("store/sketch")) }
    }

    /// Goes on from a table's scale and rate; `chunk` is what the scale is multiplied by for another chunk size.
    pub(super) fn restore_rates(
        &self,
        table: &Table,
        sections: &Sections<'_>,
        chunk: f32,
    ) -> Result<(), SnapshotError> {
        if let Some([scale, rate]) = sections.figures::<2>(&format!("table/{}/rates", table.number()))? {
            table.set_scale(scale * chunk);
            table.set_learning_rate(rate);
        }
        Ok(())
    }

    /// Goes on from shared rows that were saved by a store of the same hash.
    pub(super) fn restore_shared(&self, table: &Table, sections: &Sections<'_>) -> Result<(), SnapshotError> {
        let Some(shared) = &table.shared else { return Ok(()) };
        let name = format!("shared/{}/weights", table.number());
        let state = sections.floats(&format!("shared/{}/state", table.number()))?;
        let (Some(weights), Some(state)) = (sections.floats(&name)?, state) else { return Ok(()) };
        if shared.restore(weights, state) { Ok(()) } else { Err(unfit(&name)) }
    }
}

fn load(word: &AtomicU32) -> f32 {
    f32::from_bits(word.load(Ordering::Relaxed))
}

/// A table's counters.
pub(super) fn figures_of(table: &Table, sections: &Sections<'_>) -> Result<[u64; 9], SnapshotError> {
    let name = format!("table/{}/figures", table.number());
    let figures = sections.integers(&name)?.ok_or_else(|| unfit(&name))?;
    figures.try_into().map_err(|_| unfit(&name))
}
