//! Sizes of a store, worked out before anything is allocated.

use super::newcomers::Newcomers;
use super::round::RoundScratch;
use super::shared_rows::SharedRows;
use super::table::Table;
use crate::chain::RowLayout;
#[cfg(not(any(shuttle, fuzzing)))]
use crate::config::HugePages;
use crate::config::{Policy, StoreConfig, TableConfig};
use crate::error::ConfigError;
#[cfg(not(any(shuttle, fuzzing)))]
use crate::region::{HUGE_PAGE, page_bytes};
use crate::sketch::Sketch;
use crate::superblocks::Superblocks;

/// Smallest and largest superblock, in bytes: a 512th of the budget in between.
#[cfg(not(any(shuttle, fuzzing)))]
const SUPERBLOCK_BYTES: std::ops::RangeInclusive<u64> = 16 << 10..=2 << 20;
/// No superblock is a larger part of the budget than this, down to a page: a round's headroom of 4 % then has room for two, or
/// the store would come to admit no more.
#[cfg(not(any(shuttle, fuzzing)))]
const SUPERBLOCKS_MIN: u64 = 64;
/// From this budget on superblocks are as large as a huge page, if rows are to be moved to such: a 256th of it at most.
#[cfg(not(any(shuttle, fuzzing)))]
const MOVED_FROM: u64 = 512 << 20;
/// In models a superblock has room for three rows.
#[cfg(shuttle)]
const SUPERBLOCK_BYTES: std::ops::RangeInclusive<u64> = 128..=128;
/// So small that a handful of rows fills one.
#[cfg(fuzzing)]
const SUPERBLOCK_BYTES: std::ops::RangeInclusive<u64> = 1 << 10..=2 << 20;

/// Sizes that follow from the configuration.
pub(super) struct Plan {
    pub(super) layouts: Vec<RowLayout>,
    /// Distinct sizes of records: one slab each.
    pub(super) record_words: Vec<usize>,
    pub(super) superblocks: u32,
    pub(super) superblock_bytes: usize,
    pub(super) sketch_bytes: u64,
    /// For snapshots: images of rows, and keys of rows that were removed.
    pub(super) image_bytes: u64,
    pub(super) removed_bytes: u64,
    pub(super) fixed_bytes: u64,
    /// The least budget that holds one row of each table.
    needed: u64,
}

/// More bytes than any budget is given, and few enough to calculate with.
const ABSURD: u64 = u64::MAX / 4;

/// Images of rows take a 64th of the budget, and no less than a few rows need; removed keys a 128th.
fn snapshot_bytes(config: &StoreConfig, layouts: &[RowLayout]) -> (u64, u64) {
    let row = layouts.iter().map(|layout| layout.image_words_max() as u64 * 4).max().unwrap_or(0);
    ((config.budget / 64).max(8 * row), config.budget / 128)
}

/// A power of two.
fn superblock_bytes(config: &StoreConfig) -> u64 {
    #[cfg(not(any(shuttle, fuzzing)))]
    if config.huge_pages == HugePages::FirstUse {
        return HUGE_PAGE;
    }
    #[cfg(not(any(shuttle, fuzzing)))]
    if config.huge_pages == HugePages::Later && config.budget >= MOVED_FROM {
        return HUGE_PAGE;
    }
    let wanted = (config.budget / 512).clamp(*SUPERBLOCK_BYTES.start(), *SUPERBLOCK_BYTES.end());
    #[cfg(not(any(shuttle, fuzzing)))]
    let wanted = wanted.min(config.budget / SUPERBLOCKS_MIN).max(page_bytes() as u64);
    1 << wanted.ilog2()
}

impl Plan {
    pub(super) fn new(config: &StoreConfig, tables: &[TableConfig]) -> Result<Plan, ConfigError> {
        let layout = |table: &TableConfig| RowLayout::new(table.dim, table.chunk, &table.optimizer);
        let layouts: Vec<RowLayout> = tables.iter().map(layout).collect();
        let mut record_words: Vec<usize> = layouts.iter().map(RowLayout::head_words).collect();
        record_words.extend(layouts.iter().filter(|layout| layout.chunks > 1).map(RowLayout::tail_words));
        record_words.sort_unstable();
        record_words.dedup();
        let superblock_bytes = superblock_bytes(config);
        // 2^31 chunk indices cannot name more than 2^30 superblocks.
        let superblocks = (config.budget / superblock_bytes).min(1 << 30) as u32;
        let sketch_bytes = match &config.policy {
            Policy::None => 0,
            Policy::Fiited(policy) => {
                let bytes = (config.budget as f64 * f64::from(policy.sketch)) as u64;
                Sketch::bytes_for(bytes)
            }
        };
        let mut fixed =
            Superblocks::metadata_bytes(superblocks, record_words.len()) + sketch_bytes + RoundScratch::BYTES;
        fixed += Newcomers::bytes(&config.policy);
        for (table, layout) in tables.iter().zip(&layouts) {
            let bytes = Table::fixed_bytes(table, layout);
            fixed = bytes.map_or(ABSURD, |bytes| fixed.saturating_add(bytes)).min(ABSURD);
        }
        let (image_bytes, removed_bytes) = if config.snapshots { snapshot_bytes(config, &layouts) } else { (0, 0) };
        if config.snapshots {
            // A copy of what is saved as it was at the beginning.
            let shared = tables.iter().map(|table| SharedRows::bytes_for(table.fallback, table.dim, &table.optimizer));
            let shared = shared.map(|bytes| bytes.unwrap_or(ABSURD)).fold(0, u64::saturating_add);
            let copies = sketch_bytes + shared.min(ABSURD) + Newcomers::bytes(&config.policy);
            fixed = fixed.saturating_add(copies + image_bytes + removed_bytes).min(ABSURD);
        }
        let first_rows = record_words.len() as u64 * superblock_bytes + tables.len() as u64 * 1024;
        // A 64th is kept for directory rebuilds; see `Budget`.
        let needed = (fixed + first_rows) / 63 * 64 + 64;
        let plan = Plan {
            layouts,
            record_words,
            superblocks,
            superblock_bytes: superblock_bytes as usize,
            sketch_bytes,
            image_bytes,
            removed_bytes,
            fixed_bytes: fixed,
            needed,
        };
        if needed > config.budget { Err(plan.too_small(config, tables.len())) } else { Ok(plan) }
    }

    pub(super) fn too_small(&self, config: &StoreConfig, tables: usize) -> ConfigError {
        ConfigError::BudgetTooSmall {
            budget: config.budget,
            needed: self.needed.max(config.budget.saturating_add(1)),
            tables,
        }
    }

    /// The slab of records of that many words. Tables whose rows have one chunk have no tails and no slab of them;
    /// their number is then the first slab's and never used.
    pub(super) fn slab_of(&self, words: usize) -> usize {
        self.record_words.binary_search(&words).unwrap_or(0)
    }
}
