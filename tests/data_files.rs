//! The readers on files on disk, through the loader; and on real logs where `DIMSLAB_DATA` names a folder with them.
#![cfg(feature = "train")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use dimslab::data::{Columns, CriteoReader, CsvReader, DataError, Generator, GeneratorConfig, Loader, Row, RowSource};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn generated(rows: u64) -> Vec<u8> {
    let mut text = Vec::new();
    let mut generator = Generator::new(GeneratorConfig::default().rows(rows)).unwrap();
    generator.write_criteo(&mut text, rows).unwrap();
    text
}

/// Rows trained on and rows held out, or the error.
fn load(source: impl RowSource + 'static, holdout: usize) -> Result<(u64, u64, f64), DataError> {
    let mut loader = Loader::spawn(Box::new(source), 512, holdout)?;
    let (mut rows, mut clicks) = (0, 0.0);
    while let Some(batch) = loader.next()? {
        rows += batch.rows as u64;
        clicks += batch.labels.iter().map(|&label| f64::from(label)).sum::<f64>();
        loader.recycle(batch);
    }
    let held_out = loader.holdout();
    clicks += held_out.iter().flat_map(|batch| &batch.labels).map(|&label| f64::from(label)).sum::<f64>();
    let held_out = held_out.iter().map(|batch| batch.rows as u64).sum();
    Ok((rows, held_out, clicks))
}

#[test]
fn a_stream_over_files_of_every_kind() {
    let dir = tempfile::tempdir().unwrap();
    let text = generated(3000);
    let cuts: Vec<usize> = text.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1).collect();
    let parts = [&text[..cuts[999]], &text[cuts[999]..cuts[1999]], &text[cuts[1999]..]];
    // The names say nothing: the bytes decide.
    let paths = [
        write(dir.path(), "a.csv", parts[0]),
        write(dir.path(), "b.txt", &gzip(parts[1])),
        write(dir.path(), "c.gz", &zstd::stream::encode_all(parts[2], 3).unwrap()),
    ];
    let whole = load(Generator::new(GeneratorConfig::default().rows(3000)).unwrap(), 700).unwrap();
    assert_eq!(load(CriteoReader::open(&paths).unwrap(), 700).unwrap(), whole);
    assert_eq!((whole.0, whole.1), (2300, 700));
}

#[test]
fn a_cut_archive_ends_in_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let text = generated(5000);
    for (name, packed) in [("cut.gz", gzip(&text)), ("cut.zst", zstd::stream::encode_all(&text[..], 3).unwrap())] {
        let good = write(dir.path(), "good.tsv", &generated(600));
        let cut = write(dir.path(), name, &packed[..packed.len() * 2 / 3]);
        match load(CriteoReader::open(&[&good, &cut]).unwrap(), 0) {
            Err(DataError::Truncated { path, bytes, .. }) => {
                assert_eq!(path, cut);
                assert!(bytes > 10_000, "{bytes}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn empty_and_short_streams() {
    let dir = tempfile::tempdir().unwrap();
    let empty = write(dir.path(), "empty", b"");
    let empty_gz = write(dir.path(), "empty.gz", &gzip(b""));
    let some = write(dir.path(), "some", &generated(10));
    let load = |paths: &[&PathBuf], holdout| load(CriteoReader::open(paths).unwrap(), holdout);
    assert!(matches!(load(&[&empty, &empty_gz], 0), Err(DataError::NoRows { skipped: 0 })));
    assert!(matches!(load(&[&empty, &some], 10), Err(DataError::HoldoutTooLarge { rows: 10, holdout: 10 })));
    assert_eq!(load(&[&empty, &some, &empty], 9).map(|l| (l.0, l.1)).unwrap(), (1, 9));
}

#[test]
fn a_bad_line_reaches_the_trainer_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let mut text = generated(2000);
    text.extend_from_slice(b"0\tx");
    let path = write(dir.path(), "log.tsv", &text);
    let mut loader = Loader::spawn(Box::new(CriteoReader::open(&[&path]).unwrap()), 500, 0).unwrap();
    let mut rows = 0;
    let error = loop {
        match loader.next() {
            Ok(Some(batch)) => rows += batch.rows,
            Ok(None) => panic!("no error"),
            Err(error) => break error,
        }
    };
    assert_eq!(rows, 2000);
    let text = error.to_string();
    assert!(text.starts_with(&format!("{}:2001: column 3 (I2)", path.display())), "{text}");
    assert_eq!(load(CriteoReader::open(&[&path]).unwrap().skip_bad_lines(1), 0).unwrap().0, 2000);
}

/// The folder of real logs; says so when there is none.
fn real_logs(test: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("DIMSLAB_DATA").map(PathBuf::from).filter(|folder| folder.is_dir());
    if folder.is_none() {
        eprintln!("{test}: skipped, DIMSLAB_DATA names no folder");
    }
    folder
}

/// The file in the folder, if it is there.
fn real_log(test: &str, name: &str) -> Option<PathBuf> {
    let path = real_logs(test)?.join(name);
    if !path.is_file() {
        eprintln!("{test}: skipped, there is no {}", path.display());
        return None;
    }
    Some(path)
}

#[test]
fn real_criteo() {
    let Some(path) = real_log("real_criteo", "criteo_60k.txt.gz") else {
        return;
    };
    let (rows, held_out, clicks) = load(CriteoReader::open(&[path]).unwrap(), 10_000).unwrap();
    assert_eq!((rows, held_out), (50_000, 10_000));
    assert!((0.21..0.24).contains(&(clicks / 60_000.0)), "{clicks}");
}

#[test]
fn real_globo() {
    let Some(path) = real_log("real_globo", "globo_days0-8.csv.zst") else {
        return;
    };
    let columns = Columns::parse("label=label,time=timestamp_ms,cat=*").unwrap();
    let mut source = CsvReader::open(&[path], &columns).unwrap();
    assert_eq!((source.schema().dense.len(), source.schema().categorical.len()), (0, 10));
    let (mut row, mut clicks, mut articles) = (Row::default(), 0.0, std::collections::HashSet::new());
    for _ in 0..200_000 {
        assert!(source.next_row(&mut row).unwrap());
        clicks += row.label;
        articles.insert(row.keys[1]);
    }
    assert!((0.45..0.55).contains(&(clicks / 200_000.0)), "{clicks}");
    assert!((500..29_147).contains(&articles.len()), "{}", articles.len());
    // October 2017.
    let (first, last) = source.time_range().unwrap();
    assert!(first > 1_506_800_000_000 && last < 1_509_500_000_000, "{first} {last}");
}

#[test]
fn real_avazu() {
    let Some(path) = real_log("real_avazu", "avazu_10k.csv.gz") else {
        return;
    };
    let columns = Columns::parse("label=click,time=hour,cat=*,ignore=id").unwrap();
    let (rows, _, clicks) = load(CsvReader::open(&[path], &columns).unwrap(), 0).unwrap();
    assert_eq!(rows, 9_999);
    assert!((0.15..0.20).contains(&(clicks / 9_999.0)), "{clicks}");
}
