//! Quiet points: everything is validated, and the sums of permanent rows are compared with what was added to them.

use super::tables::{KINDS, Kind, PERMANENT, PERMANENT_KEYS};
use super::worker::Shared;
use crate::sync::Ordering;
use crate::{Events, Store, TableId};

/// Values above this are taken back to zero, long before an f32 stops counting.
const LARGE: f32 = (1u32 << 22) as f32;
/// Rounds that may still be under way when threads rest are few.
const TRIES: usize = 100;

/// What was found at the last quiet point.
pub(super) struct Inspector {
    /// Values of the permanent rows, and what had happened to their table.
    before: Option<(Vec<f32>, Events)>,
    pub(super) points: u64,
    /// Points between which permanent rows neither came nor went, and had the exact sums.
    pub(super) exact: u64,
    /// Points between which some did.
    pub(super) changed: u64,
}

impl Inspector {
    pub(super) fn new() -> Inspector {
        Inspector { before: None, points: 0, exact: 0, changed: 0 }
    }

    /// Checks everything; no other thread may call the store meanwhile, but its own pruner may run.
    pub(super) fn inspect(&mut self, shared: &Shared) -> Result<(), String> {
        self.points += 1;
        let store = &shared.store;
        let (values, events) = permanent_rows(store)?;
        let stats = store.stats();
        if stats.held > stats.budget || stats.peak > stats.budget {
            return Err(format!("{} bytes held, {} at peak, of {}", stats.held, stats.peak, stats.budget));
        }
        let steps: Vec<u64> = shared.steps.iter().map(|steps| steps.swap(0, Ordering::Relaxed)).collect();
        match &self.before {
            Some((before, events_before)) if *events_before == events => {
                check_sums(before, &values, &steps)?;
                self.exact += 1;
            }
            Some(_) => self.changed += 1,
            None => {}
        }
        self.before = Some((values, events));
        self.take_back(store)
    }

    /// Takes permanent rows that have become large back to zero.
    fn take_back(&mut self, store: &Store) -> Result<(), String> {
        let Some((values, _)) = &self.before else { return Ok(()) };
        if values.iter().all(|&value| value < LARGE) {
            return Ok(());
        }
        let keys: Vec<u64> = (0..PERMANENT_KEYS).collect();
        store.apply_gradients(TableId::new(PERMANENT), &keys, values).map_err(|error| error.to_string())?;
        self.before = Some(permanent_rows(store)?);
        Ok(())
    }
}

/// Validates the store and reads the permanent rows, with the events that belong to exactly these values.
fn permanent_rows(store: &Store) -> Result<(Vec<f32>, Events), String> {
    let keys: Vec<u64> = (0..PERMANENT_KEYS).collect();
    let mut values = vec![0.0; keys.len() * KINDS[PERMANENT].dim];
    for _ in 0..TRIES {
        let before = store.stats().tables[PERMANENT].events;
        store.gather(TableId::new(PERMANENT), &keys, &mut values).map_err(|error| error.to_string())?;
        // Waits for a round that is under way; what that round took is counted then.
        store.validate().map_err(|violation| violation.to_string())?;
        let after = store.stats().tables[PERMANENT].events;
        if before == after {
            return Ok((values, after));
        }
    }
    Err(format!("permanent rows still change after {TRIES} looks, though all threads rest"))
}

/// Every chunk of the permanent rows must have gone up by its key's steps. A chunk that the row lacks reads as zero, and
/// stays so: with the same events none was made.
fn check_sums(before: &[f32], values: &[f32], steps: &[u64]) -> Result<(), String> {
    let Kind { dim, chunk, .. } = KINDS[PERMANENT];
    for ((key, &steps), (before, row)) in steps.iter().enumerate().zip(before.chunks(dim).zip(values.chunks(dim))) {
        let exact = before.chunks(chunk).zip(row.chunks(chunk)).all(|(before, chunk)| {
            let absent = before.iter().chain(chunk).all(|&value| value == 0.0);
            absent || before.iter().zip(chunk).all(|(&before, &value)| value == before + steps as f32)
        });
        if !exact {
            return Err(format!(
                "table permanent, key {key}: {steps} steps of 1 made {before:?} into {row:?}: updates were lost"
            ));
        }
    }
    Ok(())
}

/// FNV-1a over all rows, in order of their keys, and over what happened to each table.
pub(super) fn digest(store: &Store) -> u64 {
    let mut hash = 0xCBF2_9CE4_8422_2325u64;
    let mut feed = |word: u64| {
        for byte in word.to_le_bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
    };
    for (table, stats) in store.stats().tables.iter().enumerate() {
        let Ok(rows) = store.iter(TableId::new(table)) else { continue };
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by_key(|row| row.key);
        for row in rows {
            feed(row.key);
            row.live.iter().for_each(|&ordinal| feed(ordinal as u64));
            row.values.iter().for_each(|value| feed(u64::from(value.to_bits())));
        }
        let Events { admitted, grown, shrunk, evicted, refused, missed } = stats.events;
        [admitted, grown, shrunk, evicted, refused, missed].into_iter().for_each(&mut feed);
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_update_is_found() {
        let dim = KINDS[PERMANENT].dim;
        let (before, mut after) = (vec![5.0; 2 * dim], vec![7.0; 2 * dim]);
        after[dim..].fill(8.0);
        assert_eq!(check_sums(&before, &after, &[2, 3]), Ok(()));
        assert!(check_sums(&before, &after, &[2, 4]).is_err_and(|text| text.contains("key 1")));
        after[3] = 6.0;
        assert!(check_sums(&before, &after, &[2, 3]).is_err_and(|text| text.contains("key 0")));
        assert_eq!(check_sums(&vec![0.0; dim], &vec![0.0; dim], &[9]), Ok(()), "a row that is not there");
    }
}
