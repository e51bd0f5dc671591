//! The store of a case.

use crate::Bytes;
use dimslab::{ConfigError, Decay, FiitedConfig, Optimizer, Policy, Store, StoreConfig, TableConfig};

/// Dimension and chunk of a table.
const SHAPES: [(usize, usize); 8] = [(1, 4), (4, 4), (5, 4), (12, 4), (16, 8), (16, 16), (20, 4), (32, 8)];

/// A store and what it was made of.
pub struct Made {
    pub(super) store: Store,
    pub(super) shapes: Vec<(usize, usize)>,
    pub(super) deterministic: bool,
}

/// Makes a store from the first bytes of a case. `tight`: a budget of a few superblocks.
pub fn make(bytes: &Bytes<'_>, tight: bool) -> Option<Made> {
    let (modes, shapes, slack) = (bytes.next(), bytes.next(), bytes.next());
    let count = 1 + usize::from(modes & 1);
    let deterministic = modes & 2 != 0;
    let shapes: Vec<_> = (0..count).map(|table| SHAPES[usize::from(shapes >> (4 * table)) % SHAPES.len()]).collect();
    let tables = || {
        let table = |(position, &(dim, chunk)): (usize, &(usize, usize))| {
            TableConfig::new(["a", "b"][position], dim).chunk(chunk).optimizer(Optimizer::Sgd { lr: 1.0 })
        };
        shapes.iter().enumerate().map(table).collect::<Vec<_>>()
    };
    let fiited = FiitedConfig {
        decay: if modes & 4 != 0 { Decay::PerStep(0.75) } else { Decay::PerCapacity(5.0) },
        period_steps: u64::from(modes >> 3 & 3) * 2 + 1,
        warmup_steps: 1,
        headroom: [0.01, 0.05, 0.1, 0.25][usize::from(modes >> 5 & 3)],
        sketch: 0.0001,
        ..FiitedConfig::default()
    };
    let policy = if modes & 128 != 0 && !tight { Policy::None } else { Policy::Fiited(fiited) };
    let config = |budget| StoreConfig::new(budget).policy(policy).deterministic(deterministic);
    let Err(ConfigError::BudgetTooSmall { needed, .. }) = Store::without_pruner(config(1), tables()) else {
        panic!("one byte will do")
    };
    let room = u64::from(slack) * if tight { 64 } else { 256 };
    let store = Store::without_pruner(config(needed + 512 + room), tables()).ok()?;
    Some(Made { store, shapes, deterministic })
}
