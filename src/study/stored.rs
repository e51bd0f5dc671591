//! dimslab's own method: the store itself, through its public interface.

use super::flat::INIT_BOUND;
use super::{Held, Method, StudyError, Training};
use crate::{Fallback, FiitedConfig, Init, Optimizer, Policy, Store, StoreConfig, TableConfig, TableId};

/// What a table does for dimensions that it does not hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Missing {
    /// They read as zero.
    Zero,
    /// One vector for each table.
    Default,
    /// Rows shared by hash, for this part of the budget.
    Hashed(f64),
}

/// Settings of the store that differ from its defaults.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Stored {
    pub(crate) chunk: usize,
    pub(crate) missing: Missing,
    /// Rows start uniform within plus and minus this; 0: at zero.
    pub(crate) init_bound: f32,
    pub(crate) policy: FiitedConfig,
}

impl Default for Stored {
    fn default() -> Self {
        let policy = FiitedConfig::default();
        Stored { chunk: TableConfig::DEFAULT_CHUNK, missing: Missing::Zero, init_bound: INIT_BOUND, policy }
    }
}

pub(crate) struct InStore {
    store: Store,
    keys: Vec<u64>,
}

impl InStore {
    /// # Errors
    /// The store's own, such as a budget that is too small.
    pub(crate) fn new(
        features: &[String],
        dim: usize,
        budget: u64,
        training: Training,
        settings: Stored,
    ) -> Result<InStore, StudyError> {
        let Training { lr, eps, seed } = training;
        let fallback = match settings.missing {
            Missing::Zero => Fallback::Zero,
            Missing::Default => Fallback::DefaultVector,
            Missing::Hashed(share) => {
                let row_bytes = (features.len() * (1 + 2 * dim) * 4).max(1) as f64;
                Fallback::HashedRow { rows: ((budget as f64 * share / row_bytes) as usize).max(1) }
            }
        };
        let init = if settings.init_bound > 0.0 { Init::Uniform { bound: settings.init_bound } } else { Init::Zero };
        let table = |name: &String| {
            TableConfig::new(name, dim)
                .chunk(settings.chunk)
                .optimizer(Optimizer::Adagrad { lr, eps, initial_accumulator: 0.0 })
                .fallback(fallback)
                .init(init)
        };
        let config = StoreConfig::new(budget).policy(Policy::Fiited(settings.policy)).seed(seed).deterministic(true);
        let store = Store::new(config, features.iter().map(table).collect())?;
        Ok(InStore { store, keys: Vec::new() })
    }

    fn keys(&mut self, ids: &[u32]) {
        self.keys.clear();
        self.keys.extend(ids.iter().map(|&id| u64::from(id)));
    }
}

impl Method for InStore {
    fn lookup(&mut self, feature: usize, ids: &[u32], out: &mut [f32]) -> Result<(), StudyError> {
        self.keys(ids);
        Ok(self.store.gather(TableId::new(feature), &self.keys, out)?)
    }

    fn train(&mut self, feature: usize, ids: &[u32], gradients: &[f32]) -> Result<(), StudyError> {
        self.keys(ids);
        self.store.apply_gradients(TableId::new(feature), &self.keys, gradients)?;
        Ok(())
    }

    fn end_step(&mut self) -> Result<(), StudyError> {
        self.store.step()?;
        Ok(())
    }

    fn held(&self) -> Held {
        let stats = self.store.stats();
        Held { now: stats.held, peak: stats.peak }
    }

    fn own_dims(&self, feature: usize, ids: usize) -> Vec<u16> {
        let mut dims = vec![0; ids];
        let table = TableId::new(feature);
        let (Ok(rows), Ok(dim)) = (self.store.iter(table), self.store.dim(table)) else { return dims };
        let chunks = self.store.stats().tables.get(feature).map_or(1, |table| table.dims_histogram.len() - 1);
        for row in rows {
            if let Some(dims) = dims.get_mut(row.key as usize) {
                *dims = (row.live.len() * dim / chunks.max(1)) as u16;
            }
        }
        dims
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_starts_within_the_bound_that_other_methods_have_too() {
        // Steps too short to tell: the row is made and stays as it began.
        let training = Training { lr: 1e-9, eps: 1e-8, seed: 3 };
        let first = |settings| {
            let mut method = InStore::new(&["a".to_owned()], 16, 256 << 10, training, settings).unwrap();
            for _ in 0..3 {
                method.train(0, &[5], &[0.5; 16]).unwrap();
                method.end_step().unwrap();
            }
            let mut out = [1.0; 16];
            method.lookup(0, &[5], &mut out).unwrap();
            out
        };
        let largest = first(Stored::default()).iter().fold(0.0, |most: f32, weight| most.max(weight.abs()));
        assert!(0.002 < largest && largest <= 0.01, "{largest}");
        let at_zero = first(Stored { init_bound: 0.0, ..Stored::default() });
        assert!(at_zero.iter().all(|weight| weight.abs() < 1e-8), "{at_zero:?}");
    }

    #[test]
    fn it_learns_reads_back_and_stays_in_its_budget() {
        let training = Training { lr: 0.1, eps: 1e-8, seed: 3 };
        let budget = 256 << 10;
        let settings = [
            Stored::default(),
            Stored { chunk: 8, missing: Missing::Hashed(0.1), ..Stored::default() },
            Stored { missing: Missing::Default, init_bound: 0.0, ..Stored::default() },
        ];
        for settings in settings {
            let names = ["a".to_owned(), "b".to_owned()];
            let mut method = InStore::new(&names, 16, budget, training, settings).unwrap();
            for step in 0..200u32 {
                let ids: Vec<u32> = (0..64).map(|i| (i * 7 + step * 13) % 3000).chain([5]).collect();
                for feature in 0..2 {
                    method.train(feature, &ids, &vec![0.5; ids.len() * 16]).unwrap();
                }
                method.end_step().unwrap();
                assert!(method.held().peak <= budget);
            }
            let mut out = [0.0; 16];
            method.lookup(1, &[5], &mut out).unwrap();
            assert!(out[0] < -0.1, "{out:?}");
            let dims = method.own_dims(1, 3000);
            assert_eq!(dims[5], 16);
            assert!(dims.iter().any(|&dims| dims < 16));
        }
        let names = ["a".to_owned()];
        assert!(matches!(InStore::new(&names, 16, 100, training, Stored::default()), Err(StudyError::Config(_))));
    }
}
