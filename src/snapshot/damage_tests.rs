//! Damaged snapshots: whatever byte is changed, wherever a file ends, whatever a header claims, reading ends in an error.

use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::record::{LATEST, MANIFEST, Record, SECTIONS, rows_name};
use super::sim::SimFs;
use super::tensors::Sum;
use super::tests::{Model, disk, open, root};
use super::*;

/// A small snapshot with an increment, so that all kinds of files are there.
fn small() -> (SimFs, Model) {
    let (disk, directory) = disk();
    let mut model = Model::new(3);
    model.work(8, 10);
    model.save(&directory, None).unwrap();
    let since = model.step;
    model.work(6, 10);
    model.save(&directory, Some(since)).unwrap();
    (disk, model)
}

/// Reads everything that there is.
fn read(disk: &SimFs) -> Result<(), SnapshotError> {
    let snapshot = open(disk)?;
    let mut block = RowBlock::default();
    let mut blocks = snapshot.blocks();
    while blocks.next(&mut block)? {
        assert!(block.rows(&snapshot.manifest().tables[block.table]).count() > 0);
    }
    snapshot.sections()?;
    snapshot.verify().map(|_| ())
}

/// An error as a user can do something with.
fn is_told(result: Result<(), SnapshotError>, case: &str) {
    let error = result.err().unwrap_or_else(|| panic!("{case} goes unnoticed"));
    let text = error.to_string();
    assert!(text.contains("/checkpoint") && !text.contains('\n'), "{case}: {text}");
    assert!(
        matches!(
            error,
            SnapshotError::Damaged { .. }
                | SnapshotError::Chain { .. }
                | SnapshotError::Version { .. }
                | SnapshotError::Io { .. }
                | SnapshotError::NotFound { .. }
        ),
        "{case}: {text}"
    );
}

#[test]
fn every_changed_byte_is_noticed() {
    let (disk, _) = small();
    read(&disk).unwrap();
    let mut cases = 0;
    for path in disk.files(root()) {
        for at in 0..disk.bytes(&path).len() {
            for flip in [1 << (at % 8), 0x20, 0xFF] {
                disk.tamper(&path, |bytes| bytes[at] ^= flip);
                is_told(read(&disk), &format!("{} byte {at} ^ {flip:#x}", path.display()));
                disk.tamper(&path, |bytes| bytes[at] ^= flip);
                cases += 1;
            }
        }
    }
    read(&disk).unwrap();
    assert!(cases > 20_000, "{cases}");
}

#[test]
fn every_other_length_is_noticed() {
    let (disk, _) = small();
    for path in disk.files(root()) {
        let whole = disk.bytes(&path);
        for len in (0..whole.len()).chain([whole.len() + 1, whole.len() + 4096]) {
            disk.tamper(&path, |bytes| bytes.resize(len, 0));
            is_told(read(&disk), &format!("{} cut to {len}", path.display()));
            disk.tamper(&path, |bytes| bytes.clone_from(&whole));
        }
    }
    read(&disk).unwrap();
}

#[test]
fn files_and_sections_that_changed_places_are_noticed() {
    let (disk, _) = small();
    let files = disk.files(root());
    for (number, one) in files.iter().enumerate() {
        for other in &files[number + 1..] {
            let (a, b) = (disk.bytes(one), disk.bytes(other));
            if a == b {
                continue;
            }
            disk.tamper(one, |bytes| bytes.clone_from(&b));
            disk.tamper(other, |bytes| bytes.clone_from(&a));
            is_told(read(&disk), &format!("{} in place of {}", one.display(), other.display()));
            disk.tamper(one, |bytes| bytes.clone_from(&a));
            disk.tamper(other, |bytes| bytes.clone_from(&b));
        }
    }
    // Two pieces of one file.
    for path in &files {
        let whole = disk.bytes(path);
        for at in (0..whole.len().saturating_sub(16)).step_by(7) {
            disk.tamper(path, |bytes| bytes[at..at + 16].rotate_left(8));
            if disk.bytes(path) != whole {
                is_told(read(&disk), &format!("{} with bytes {at} to {} turned", path.display(), at + 16));
            }
            disk.tamper(path, |bytes| bytes.clone_from(&whole));
        }
    }
}

/// Changes the header of a file of the latest snapshot and makes every checksum right again.
fn forge(disk: &SimFs, file: &str, from: &str, to: &str) {
    let snapshot = open(disk).unwrap();
    let dir = snapshot.parts()[snapshot.parts().len() - 1].path.clone();
    let mut record = snapshot.parts()[snapshot.parts().len() - 1].record.clone();
    let path = dir.join(file);
    if file == MANIFEST {
        resign(disk, &dir, |text| {
            assert!(text.contains(from), "{text}");
            text.replace(from, to)
        });
        return;
    }
    disk.tamper(&path, |bytes| {
        let len = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        let header = String::from_utf8(bytes[8..8 + len].to_vec()).unwrap();
        assert!(header.contains(from), "{header}");
        let header = header.trim_end().replacen(from, to, 1);
        let mut forged = (header.len() as u64).to_le_bytes().to_vec();
        forged.extend_from_slice(header.as_bytes());
        let sum = Sum(xxh3_64(&forged));
        forged.extend_from_slice(&bytes[8 + len..]);
        *bytes = forged;
        let entry = if file == SECTIONS { &mut record.sections } else { &mut record.rows[0] };
        (entry.bytes, entry.header) = (bytes.len() as u64, sum);
    });
    let (bytes, sum) = record.to_bytes().unwrap();
    disk.tamper(&dir.join(MANIFEST), |old| *old = bytes);
    point_at(disk, &dir, sum);
}

fn resign(disk: &SimFs, dir: &Path, change: impl Fn(String) -> String) {
    let mut sum = Sum(0);
    disk.tamper(&dir.join(MANIFEST), |bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        let rest = change(text.split_once("\",").unwrap().1.to_owned());
        sum = Sum(xxh3_64(rest.as_bytes()));
        *bytes = format!("{{\"xxh3\": \"{}\",{rest}", String::from(sum)).into_bytes();
    });
    point_at(disk, dir, sum);
}

fn point_at(disk: &SimFs, dir: &Path, sum: Sum) {
    let line = format!("{} {}\n", dir.file_name().unwrap().to_str().unwrap(), String::from(sum));
    disk.tamper(&root().join(LATEST), |bytes| *bytes = line.into_bytes());
}

#[test]
fn what_a_header_claims_is_not_believed_even_with_the_right_checksums() {
    let rows = &rows_name(0);
    let name = |disk: &SimFs| {
        // The first group's name, such as t0.b0.
        let path: PathBuf = disk.files(root()).into_iter().find(|path| path.ends_with(rows)).unwrap();
        let bytes = disk.bytes(&path);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        text.split("[[\\\"").nth(1).unwrap().split('\\').next().unwrap().to_owned()
    };
    let (disk, _) = small();
    let group = name(&disk);
    let cases: Vec<(&str, String, String)> = vec![
        (rows, "\"data_offsets\":[0,".into(), "\"data_offsets\":[8,".into()),
        (rows, "\"shape\":[".into(), "\"shape\":[1099511627776,".into()),
        (rows, "\"shape\":[".into(), "\"shape\":[18446744073709551615,18446744073709551615,".into()),
        (rows, "\"data_offsets\":[0,".into(), "\"data_offsets\":[0,1099511627776],\"x\":[0,".into()),
        (rows, "\"dtype\":\"U64\"".into(), "\"dtype\":\"F64\"".into()),
        (rows, format!("{group}.ordinals"), format!("{group}.chunks")),
        (rows, format!("{group}.keys"), format!("{group}.quays")),
        (rows, format!("\\\"{group}\\\""), "\\\"t9.b0\\\"".into()),
        (rows, format!("\\\"{group}\\\","), format!("\\\"{group}\\\",1")),
        (rows, format!("\\\"{group}\\\","), format!("\\\"{group}\\\",99999999999")),
        (rows, format!("\\\"{group}\\\","), format!("\\\"{group}\\\",-")),
        (rows, "groups".into(), "group".into()),
        (rows, "{".into(), "[".into()),
        (SECTIONS, "\"shape\":[2,3]".into(), "\"shape\":[2,1000000000000]".into()),
        (SECTIONS, "\"dtype\":\"F32\"".into(), "\"dtype\":\"BF16\"".into()),
        (MANIFEST, "\"format\": 1".into(), "\"format\": 2".into()),
        (MANIFEST, "\"format\": 1".into(), "\"format\": 18446744073709551615".into()),
        (MANIFEST, "\"dim\": 16".into(), "\"dim\": 1000000000000".into()),
        (MANIFEST, "\"dim\": 16".into(), "\"dim\": 0".into()),
        (MANIFEST, "\"chunk\": 8".into(), "\"chunk\": 0".into()),
        (MANIFEST, "\"name\": \"few\"".into(), "\"name\": \"plain\"".into()),
        (MANIFEST, "\"chunks\": ".into(), "\"chunks\": 9".into()),
        (MANIFEST, "\"bytes\": ".into(), "\"bytes\": 9999999999".into()),
        (MANIFEST, "\"name\": \"step-".into(), "\"name\": \"../step-".into()),
        (MANIFEST, "\"since\": ".into(), "\"since\": 9".into()),
        (MANIFEST, "\"counts\": [".into(), "\"counts\": [[".into()),
    ];
    for (file, from, to) in cases {
        let (disk, _) = small();
        forge(&disk, file, &from, &to);
        is_told(read(&disk), &format!("{file}: {from} -> {to}"));
    }
    // That forging by itself is not what is noticed.
    let (disk, model) = small();
    forge(&disk, rows, "groups", "groups");
    assert!(model.is_in(&open(&disk).unwrap()).unwrap());
}

#[test]
fn another_version_is_told_what_to_do() {
    let (disk, _) = small();
    forge(&disk, MANIFEST, "\"format\": 1", "\"format\": 7");
    let error = read(&disk).unwrap_err();
    assert!(matches!(error, SnapshotError::Version { found: 7, known: FORMAT, .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("version 7") && text.contains("use the dimslab that wrote it"), "{text}");
}

#[test]
fn a_record_is_read_as_it_was_written() {
    let (disk, _) = small();
    for path in disk.files(root()).iter().filter(|path| path.ends_with(MANIFEST)) {
        let (record, sum) = Record::read(&disk, path.parent().unwrap()).unwrap();
        assert_eq!(record.to_bytes().unwrap(), (disk.bytes(path), sum));
    }
}
