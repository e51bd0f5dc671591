//! A small serving file of each type with any edits, checksums aside: look-ups that are in bounds, or a typed error.
#![no_main]

use std::sync::OnceLock;

use dimslab::fuzzing::{Files, read_serving, serving_file};
use dimslab::serving::{Dtype, ServingError};
use dimslab::snapshot::SnapshotError;
use dimslab_fuzz::edit;
use libfuzzer_sys::fuzz_target;

fn base() -> &'static [Vec<u8>] {
    static BASE: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    BASE.get_or_init(|| {
        let files = Files::base().expect("a snapshot in memory");
        let types = [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::Int8];
        types.map(|dtype| serving_file(&files, dtype).expect("a file in memory")).to_vec()
    })
}

fuzz_target!(|data: &[u8]| {
    let (kind, edits) = data.split_first().map_or((0, data), |(kind, edits)| (usize::from(*kind), edits));
    let mut bytes = base()[kind % 4].clone();
    edits.chunks(11).for_each(|edits| edit(&mut bytes, edits));
    let keys: Vec<u64> = (0..5).flat_map(|key| [key * 12, key * 22]).chain([7, u64::MAX]).collect();
    match read_serving(&bytes, &keys) {
        Ok(()) => {}
        Err(ServingError::File(SnapshotError::Damaged { .. } | SnapshotError::Version { .. })) => {
            assert!(!edits.is_empty());
        }
        Err(other) => panic!("{other}"),
    }
});
