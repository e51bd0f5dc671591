//! Checks of what callers hand in.

use super::table::Table;
use crate::error::StoreError;
use crate::simd::Kernels;

impl Table {
    pub(super) fn check_length(&self, what: &'static str, found: usize, rows: usize) -> Result<(), StoreError> {
        let dim = self.layout.dim;
        match rows.checked_mul(dim) {
            Some(expected) if expected == found => Ok(()),
            expected => Err(StoreError::Length {
                table: self.config.name.clone(),
                what,
                found,
                expected: expected.unwrap_or(usize::MAX),
                keys: rows,
                dim,
            }),
        }
    }

    pub(super) fn check_offsets(&self, offsets: &[usize], keys: usize) -> Result<(), StoreError> {
        let fail =
            |position, found| Err(StoreError::Offsets { table: self.config.name.clone(), position, found, keys });
        match (offsets.first(), offsets.last()) {
            (Some(0), _) => {}
            (first, _) => return fail(0, first.copied().unwrap_or(usize::MAX)),
        }
        if let Some(fall) = offsets.windows(2).position(|pair| pair[1] < pair[0]) {
            return fail(fall + 1, offsets[fall + 1]);
        }
        if offsets[offsets.len() - 1] != keys {
            return fail(offsets.len() - 1, offsets[offsets.len() - 1]);
        }
        Ok(())
    }

    pub(super) fn check_finite(&self, grads: &[f32], key: impl Fn(usize) -> u64) -> Result<(), StoreError> {
        if Kernels::get().all_finite(grads) {
            return Ok(());
        }
        let at = grads.iter().position(|value| !value.is_finite()).unwrap_or(0);
        let (row, dimension) = (at / self.layout.dim, at % self.layout.dim);
        Err(StoreError::NotFinite { table: self.config.name.clone(), key: key(row), dimension, value: grads[at] })
    }
}
