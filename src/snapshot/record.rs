//! `manifest.json` and `LATEST`: what a snapshot's directory holds, and which snapshot is the latest.

use std::path::Path;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::SnapshotError;
use super::block::Manifest;
use super::error::At;
use super::fs::Fs;
use super::tensors::{FileRecord, Sum};
use crate::config::TableConfig;

/// Version of the format.
pub const FORMAT: u64 = 1;

pub(super) const MANIFEST: &str = "manifest.json";
pub(super) const SECTIONS: &str = "sections.safetensors";
pub(super) const LATEST: &str = "LATEST";
/// The most bytes that are read of a manifest: 100 for each file of 64 MiB of rows, so never near.
const MANIFEST_MOST: u64 = 256 << 20;
/// What names of things begin with that are not finished, or not needed any more.
pub(super) const TEMPORARY: &str = ".tmp-";

/// What `manifest.json` holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub(super) format: u64,
    /// The snapshot that an increment changes.
    pub(super) base: Option<Base>,
    pub(super) manifest: Manifest,
    /// By table.
    pub(super) counts: Vec<Counts>,
    /// The files of rows, in order.
    pub(super) rows: Vec<FileRecord>,
    pub(super) sections: FileRecord,
}

/// A snapshot, named beyond doubt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Base {
    /// Its directory, beside the increment's.
    pub(super) name: String,
    /// Checksum of its manifest, and so of everything in it.
    pub(super) manifest: Sum,
}

/// What a snapshot holds of one table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Live rows.
    pub rows: u64,
    /// Their chunks.
    pub chunks: u64,
    /// Rows that are gone since the snapshot before.
    pub tombstones: u64,
}

/// The file of rows at a position.
pub(super) fn rows_name(position: usize) -> String {
    format!("rows-{position:05}.safetensors")
}

/// The directory of a step's snapshot; `copy` tells several of one step apart.
pub(super) fn snapshot_name(step: u64, copy: u32) -> String {
    if copy == 0 { format!("step-{step:012}") } else { format!("step-{step:012}.{copy}") }
}

/// Step and copy of a snapshot's directory; `None` for any other name.
pub(super) fn parse_name(name: &str) -> Option<(u64, u32)> {
    let rest = name.strip_prefix("step-")?;
    let (step, copy) = match rest.split_once('.') {
        Some((step, copy)) => (step, copy.parse().ok()?),
        None => (rest, 0),
    };
    let step = step.parse().ok()?;
    (snapshot_name(step, copy) == name).then_some((step, copy))
}

impl Record {
    /// The file's bytes: a line with the checksum of all that follows, then the rest. The whole is one JSON object.
    pub(super) fn to_bytes(&self) -> Result<(Vec<u8>, Sum), SnapshotError> {
        let json = serde_json::to_string_pretty(self).map_err(|error| SnapshotError::source(error.to_string()))?;
        let rest = json.strip_prefix('{').unwrap_or(&json);
        let sum = Sum(xxh3_64(rest.as_bytes()));
        Ok((format!("{{\"xxh3\": \"{}\",{rest}", String::from(sum)).into_bytes(), sum))
    }

    /// Reads a snapshot's record and the checksum it goes by.
    pub(super) fn read(fs: &dyn Fs, dir: &Path) -> Result<(Record, Sum), SnapshotError> {
        let path = &dir.join(MANIFEST);
        let bytes = read_all(fs, path)?;
        let damaged = |what: &str| SnapshotError::damaged(path, what);
        let text = std::str::from_utf8(&bytes).map_err(|_| damaged("it is not text"))?;
        let start = text.strip_prefix("{\"xxh3\": \"").and_then(|text| text.split_at_checked(16));
        let (sum, rest) = start.ok_or_else(|| damaged("it does not begin with a checksum"))?;
        let rest = rest.strip_prefix("\",").ok_or_else(|| damaged("it does not begin with a checksum"))?;
        let sum = Sum::try_from(sum.to_owned()).map_err(|what| damaged(&what))?;
        if !sum.fits(rest.as_bytes()) {
            return Err(damaged("its checksum does not match"));
        }
        let record = Self::parse(path, &format!("{{{rest}"))?;
        Ok((record, sum))
    }

    fn parse(path: &Path, json: &str) -> Result<Record, SnapshotError> {
        #[derive(Deserialize)]
        struct Version {
            format: u64,
        }
        let illegal = |error: serde_json::Error| SnapshotError::damaged(path, format!("it is not legal: {error}"));
        let version: Version = serde_json::from_str(json).map_err(illegal)?;
        if version.format != FORMAT {
            let advice = "use the dimslab that wrote it, or a newer one";
            return Err(SnapshotError::Version { path: path.to_owned(), found: version.format, known: FORMAT, advice });
        }
        let record: Record = serde_json::from_str(json).map_err(illegal)?;
        record.check().map_err(|what| SnapshotError::damaged(path, what))?;
        Ok(record)
    }

    fn check(&self) -> Result<(), String> {
        let Manifest { step, since, store, tables, .. } = &self.manifest;
        store.check(tables).map_err(|error| error.to_string())?;
        if self.counts.len() != tables.len() {
            return Err(format!("{} tables and counts of {}", tables.len(), self.counts.len()));
        }
        if since.is_some() != self.base.is_some() || since.is_some_and(|since| since >= *step) {
            return Err(format!("step {step} since {since:?} with base {:?}", self.base));
        }
        let bad = self.base.iter().find(|base| parse_name(&base.name).is_none());
        bad.map_or(Ok(()), |base| Err(format!("`{}` is no snapshot's name", base.name)))
    }

    pub(super) fn tables(&self) -> &[TableConfig] {
        &self.manifest.tables
    }

    pub(super) fn is_increment(&self) -> bool {
        self.base.is_some()
    }

    /// Bytes of all files but the manifest.
    pub(super) fn bytes(&self) -> u64 {
        self.rows.iter().chain([&self.sections]).fold(0, |sum, file| sum.saturating_add(file.bytes))
    }
}

impl Base {
    /// Reads what `LATEST` says; `None` if there is no such file.
    pub(super) fn latest(fs: &dyn Fs, dir: &Path) -> Result<Option<Base>, SnapshotError> {
        let path = &dir.join(LATEST);
        if !fs.list(dir).at("read", dir)?.iter().any(|name| name == LATEST) {
            return Ok(None);
        }
        let bytes = read_all(fs, path)?;
        let parsed = std::str::from_utf8(&bytes).ok().and_then(|text| {
            let (name, sum) = text.strip_suffix('\n')?.split_once(' ')?;
            parse_name(name)?;
            Some(Base { name: name.to_owned(), manifest: Sum::try_from(sum.to_owned()).ok()? })
        });
        let damaged = || SnapshotError::damaged(path, "it names no snapshot (name one of those beside it directly)");
        parsed.ok_or_else(damaged).map(Some)
    }

    pub(super) fn to_line(&self) -> String {
        format!("{} {}\n", self.name, String::from(self.manifest))
    }
}

/// A whole small file.
fn read_all(fs: &dyn Fs, path: &Path) -> Result<Vec<u8>, SnapshotError> {
    let file = fs.open(path).at("open", path)?;
    let len = file.len().at("read", path)?;
    if len > MANIFEST_MOST {
        return Err(SnapshotError::damaged(path, format!("it has {len} bytes, more than any has")));
    }
    let mut bytes = vec![0; len as usize];
    file.read_at(&mut bytes, 0).at("read", path)?;
    Ok(bytes)
}
