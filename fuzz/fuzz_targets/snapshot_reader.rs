//! A small snapshot and its increment with any edits, checksums aside: rows of the tables' shape, or a typed error.
#![no_main]

use std::sync::OnceLock;

use dimslab::fuzzing::Files;
use dimslab::snapshot::{RowBlock, Snapshot, SnapshotError};
use dimslab_fuzz::edit;
use libfuzzer_sys::fuzz_target;

fn base() -> &'static Files {
    static BASE: OnceLock<Files> = OnceLock::new();
    BASE.get_or_init(|| Files::base().expect("a snapshot in memory"))
}

/// Reads everything twice: whole, and one shard of two.
fn read(snapshot: &Snapshot) -> Result<(), SnapshotError> {
    let tables = &snapshot.manifest().tables;
    let mut block = RowBlock::default();
    for mut blocks in [snapshot.blocks(), snapshot.blocks_of_shard(1, 2), snapshot.blocks_of_table(1)] {
        while blocks.next(&mut block)? {
            let table = &tables[block.table];
            assert!(!block.keys.is_empty());
            for row in block.rows(table) {
                assert!((1..=table.chunks()).contains(&row.ordinals.len()));
                assert_eq!(row.weights.len(), row.ordinals.len() * table.chunk_dims());
                assert!(row.ordinals.iter().all(|&ordinal| usize::from(ordinal) < table.chunks()));
            }
        }
    }
    snapshot.sections()?;
    snapshot.verify().map(|_| ())
}

fuzz_target!(|data: &[u8]| {
    let files = base().copy();
    for (file, edits) in data.chunks(12).map(|edits| (usize::from(edits[0]), &edits[1..])) {
        files.edit(file, |bytes| edit(bytes, edits));
    }
    if let Err(error) = files.open().and_then(|snapshot| read(&snapshot)) {
        assert!(!data.is_empty(), "{error}");
        assert!(!matches!(error, SnapshotError::Source { .. } | SnapshotError::Other(_)), "{error}");
        assert!(error.to_string().contains("/checkpoint"), "{error}");
    }
});
