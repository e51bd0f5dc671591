//! The soak's tables, the gradients they are trained with, and what must hold of every row that is read.

use crate::{Decay, Fallback, FiitedConfig, Init, Keys, Optimizer, Policy, TableConfig};

/// What is known of a table's rows, whatever threads did to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Oracle {
    /// All dimensions of a chunk are equal, and a multiple of the key's unit with the key's sign.
    Own,
    /// All dimensions of a chunk are equal.
    Whole,
    /// All values are finite.
    Finite,
}

/// One table of the soak.
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) dim: usize,
    pub(super) chunk: usize,
    pub(super) oracle: Oracle,
    optimizer: Optimizer,
    fallback: Fallback,
    init: Init,
    keys: Keys,
}

const SGD: Optimizer = Optimizer::Sgd { lr: 1.0 };
const PLAIN: Kind = Kind {
    name: "",
    dim: 24,
    chunk: 4,
    oracle: Oracle::Own,
    optimizer: SGD,
    fallback: Fallback::Zero,
    init: Init::Zero,
    keys: Keys::Exact,
};

/// The tables that everything is done to, and last the one of [`PERMANENT_KEYS`] rows whose sums are checked.
pub(super) const KINDS: [Kind; 9] = [
    Kind { name: "own4", ..PLAIN },
    Kind { name: "own8", dim: 20, chunk: 8, ..PLAIN },
    Kind { name: "own32", chunk: 32, ..PLAIN },
    Kind {
        name: "hashed",
        dim: 32,
        chunk: 16,
        oracle: Oracle::Whole,
        keys: Keys::Hashed { virtual_rows: 1500 },
        ..PLAIN
    },
    Kind {
        name: "adagrad",
        dim: 16,
        oracle: Oracle::Whole,
        optimizer: Optimizer::Adagrad { lr: 0.01, eps: 1e-8, initial_accumulator: 0.1 },
        fallback: Fallback::DefaultVector,
        ..PLAIN
    },
    Kind {
        name: "rowwise",
        dim: 40,
        chunk: 16,
        oracle: Oracle::Whole,
        optimizer: Optimizer::RowwiseAdagrad { lr: 0.01, eps: 1e-8, initial_accumulator: 0.0 },
        fallback: Fallback::HashedRow { rows: 7 },
        ..PLAIN
    },
    Kind {
        name: "adam",
        dim: 10,
        oracle: Oracle::Whole,
        optimizer: Optimizer::Adam { lr: 0.001, beta1: 0.9, beta2: 0.999, eps: 1e-8 },
        ..PLAIN
    },
    Kind {
        name: "drawn",
        dim: 12,
        oracle: Oracle::Finite,
        optimizer: Optimizer::Adagrad { lr: 0.01, eps: 1e-8, initial_accumulator: 0.0 },
        init: Init::Uniform { bound: 0.1 },
        ..PLAIN
    },
    Kind { name: "permanent", chunk: 8, ..PLAIN },
];

/// Position of the table of permanent rows.
pub(super) const PERMANENT: usize = KINDS.len() - 1;
/// Its keys are 0 to this.
pub(super) const PERMANENT_KEYS: u64 = 16;

/// Units of keys are 2^0 to 2^(this - 1).
const UNITS: u64 = 12;

impl Kind {
    pub(super) fn config(&self) -> TableConfig {
        TableConfig::new(self.name, self.dim)
            .chunk(self.chunk)
            .optimizer(self.optimizer)
            .fallback(self.fallback)
            .init(self.init)
            .keys(self.keys)
    }

    /// The gradient of one occurrence of `key`, the same in every dimension; `draw` is a random number.
    pub(super) fn gradient(&self, key: u64, draw: u64) -> f32 {
        match self.oracle {
            // Weights go against gradients, so even keys' weights rise.
            Oracle::Own if key.is_multiple_of(2) => -unit(key),
            Oracle::Own => unit(key),
            Oracle::Whole | Oracle::Finite => (draw % 17) as f32 / 16.0 - 0.5,
        }
    }

    /// A learning rate that keeps the oracle true; `draw` is a random number.
    pub(super) fn rate(&self, draw: u64) -> f32 {
        let power = 1u32 << (draw % 3);
        if self.optimizer == SGD { power as f32 } else { self.optimizer.learning_rate() / power as f32 }
    }

    /// Whether `row`, `[dim]`, can be the row of `key`.
    pub(super) fn check(&self, key: u64, row: &[f32]) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("table {}, key {key}: {what}: {row:?}", self.name));
        self.check_whole(key, row)?;
        if self.oracle == Oracle::Own {
            let sign = if key.is_multiple_of(2) { 1.0 } else { -1.0 };
            let own = |value: &f32| value * sign >= 0.0 && value % unit(key) == 0.0;
            if !row.iter().all(own) {
                return wrong("the value of another key's row");
            }
        }
        Ok(())
    }

    /// What holds of sums of rows too. `key` only names the place.
    pub(super) fn check_whole(&self, key: u64, row: &[f32]) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("table {}, key {key}: {what}: {row:?}", self.name));
        if !row.iter().all(|value| value.is_finite()) {
            return wrong("a value that is not finite");
        }
        if self.oracle != Oracle::Finite
            && !row.chunks(self.chunk).all(|chunk| chunk.iter().all(|value| value == &chunk[0]))
        {
            return wrong("a torn row");
        }
        Ok(())
    }
}

fn unit(key: u64) -> f32 {
    (1u32 << (key % UNITS)) as f32
}

/// Rounds often, so that much comes and goes.
pub(super) fn policy() -> Policy {
    Policy::Fiited(FiitedConfig {
        period_steps: 8,
        warmup_steps: 1,
        headroom: 0.1,
        decay: Decay::PerStep(0.99),
        ..FiitedConfig::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oracles_tell_torn_and_foreign_rows() {
        let kind = &KINDS[0];
        let mut row = vec![8.0; 24];
        assert_eq!((kind.check(2, &row), kind.check(0, &row)), (Ok(()), Ok(())));
        assert!(kind.check(4, &row).is_err(), "no multiple of 16");
        assert!(kind.check(3, &row).is_err(), "an odd key's row rises");
        row[5] = 12.0;
        assert!(kind.check(2, &row).is_err(), "torn");
        row[4..8].fill(12.0);
        assert_eq!(kind.check(2, &row), Ok(()));
        row[4..8].fill(f32::NAN);
        assert!(kind.check(2, &row).is_err() && KINDS[7].check(2, &row[..12]).is_err());
    }
}
