//! Serving files in memory for the fuzz target.

use std::path::Path;

use super::export::export_on;
use super::{Dtype, ServingError, Tables};
use crate::snapshot::SnapshotError;
use crate::snapshot::fuzzing::Files;

/// The bytes of a small serving file.
pub fn serving_file(files: &Files, dtype: Dtype) -> Result<Vec<u8>, SnapshotError> {
    let path = Path::new("/file.serve");
    export_on(files.fs(), &files.open()?, path, dtype)?;
    Ok(files.bytes(path))
}

/// Opens a file, looks keys up in every table, reads all else, and verifies it.
pub fn read_serving(bytes: &[u8], keys: &[u64]) -> Result<(), ServingError> {
    let tables = Tables::from_bytes(bytes, Path::new("/file.serve"))?;
    let dense: usize = tables.dense().map(|(_, shape, values)| shape.len() + values.len()).sum();
    assert!(dense <= 8 * bytes.len());
    let mut damage = None;
    for position in 0..tables.len() {
        let table = tables.table_at(position);
        let mut out = vec![f32::NAN; keys.len() * table.dim()];
        damage = table.gather(keys, &mut out).err().or(damage);
        for key in keys {
            match table.get(*key) {
                Ok(Some(row)) => assert!(row.ordinals().count() > 0 && !row.weights().is_empty()),
                Ok(None) => {}
                Err(error) => damage = Some(error),
            }
        }
    }
    let verified = tables.verify();
    assert!(damage.is_none() || verified.is_err(), "a look-up fails in a file that is whole: {damage:?}");
    Ok(verified?)
}
