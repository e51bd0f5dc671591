//! One safetensors file with a checksum for each group of its tensors, written in one pass by whoever does not know yet how
//! many there will be.
//!
//! A small file is written at once, with a header as long as it must be. A larger one gets its header last, into space
//! that was left for it and is filled up with spaces, as the format allows.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::SnapshotError;
use super::error::At;
use super::fs::{Fs, FsFile};

/// Bytes that are written at once.
const BUFFER: usize = 1 << 20;
/// Values that are put into the buffer and added to the checksum at once, while a processor's own memory has them.
const PIECE: usize = 4096;
/// The longest header that safetensors allows.
pub(crate) const HEADER_MOST: u64 = 100_000_000;
/// The key of the checksums in a file's `__metadata__`.
const GROUPS: &str = "groups";

/// What a manifest says of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileRecord {
    /// Its length.
    pub(super) bytes: u64,
    /// Checksum of its header: length, text and padding.
    pub(super) header: Sum,
}

/// An XXH3-64 checksum, as 16 hexadecimal digits in text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct Sum(pub(crate) u64);

impl From<Sum> for String {
    fn from(sum: Sum) -> String {
        format!("{:016x}", sum.0)
    }
}

impl TryFrom<String> for Sum {
    type Error = String;

    fn try_from(text: String) -> Result<Sum, String> {
        // One way to write it only, so that a changed byte is a changed sum.
        let sum = u64::from_str_radix(&text, 16).map(Sum).ok().filter(|&sum| String::from(sum) == text);
        sum.ok_or_else(|| format!("`{text}` is no checksum"))
    }
}

impl Sum {
    /// Whether these bytes have this sum. Under the fuzzer all do: it does not guess sums, and what lies behind them has to
    /// hold by itself.
    pub(crate) fn fits(self, bytes: &[u8]) -> bool {
        xxh3_64(bytes) == self.0 || cfg!(fuzzing)
    }
}

/// A group of tensors that lie one behind the other: its name, where it ends in the data, and its checksum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Group(pub(crate) String, pub(crate) u64, pub(crate) Sum);

/// Values that a tensor can hold.
pub(crate) trait Value: Copy {
    const DTYPE: Dtype;
    /// Writes values as little-endian bytes, as many as there is room for.
    fn fill(values: &[Self], to: &mut [u8]);
    /// Appends values as little-endian bytes.
    fn put(values: &[Self], to: &mut Vec<u8>) {
        let start = to.len();
        to.resize(start + size_of_val(values), 0);
        Self::fill(values, &mut to[start..]);
    }
    /// The values of little-endian bytes, in place of what is in `to`.
    fn get(bytes: &[u8], to: &mut Vec<Self>);
}

macro_rules! values {
    ($($value:ty => $dtype:ident),*) => {$(
        impl Value for $value {
            const DTYPE: Dtype = Dtype::$dtype;

            fn fill(values: &[Self], to: &mut [u8]) {
                let (to, _) = to.as_chunks_mut();
                to.iter_mut().zip(values).for_each(|(to, value)| *to = value.to_le_bytes());
            }

            fn get(bytes: &[u8], to: &mut Vec<Self>) {
                to.clear();
                to.extend(bytes.as_chunks().0.iter().map(|&value| <$value>::from_le_bytes(value)));
            }
        }
    )*};
}

values!(u8 => U8, u16 => U16, u32 => U32, u64 => U64, f32 => F32, f64 => F64);

/// Writes one file, of which nothing is durable before [`Unsynced::sync`] has returned.
pub(crate) struct TensorWriter<'f> {
    fs: &'f dyn Fs,
    path: PathBuf,
    /// Bytes left for the header of a file that is larger than the buffer.
    reserved: usize,
    file: Option<Box<dyn FsFile>>,
    /// Bytes that are not written yet, so many of the first ones.
    buffer: Vec<u8>,
    filled: usize,
    /// Bytes of data that were written.
    flushed: u64,
    tensors: Vec<(String, TensorInfo)>,
    groups: Vec<Group>,
    hasher: Xxh3,
}

impl<'f> TensorWriter<'f> {
    /// A file whose header will need no more than `reserved` bytes. `buffer` is memory to use.
    pub(crate) fn new(fs: &'f dyn Fs, path: PathBuf, reserved: usize, buffer: Vec<u8>) -> Self {
        let reserved = reserved.next_multiple_of(64);
        let hasher = Xxh3::new();
        let (tensors, groups) = (Vec::new(), Vec::new());
        TensorWriter { fs, path, reserved, file: None, buffer, filled: 0, flushed: 0, tensors, groups, hasher }
    }

    /// Groups so far.
    pub(crate) fn groups(&self) -> usize {
        self.groups.len()
    }

    /// Bytes of data so far.
    fn len(&self) -> u64 {
        self.flushed + self.filled as u64
    }

    /// Adds a tensor.
    pub(crate) fn tensor<V: Value>(
        &mut self,
        name: String,
        shape: Vec<usize>,
        values: &[V],
    ) -> Result<(), SnapshotError> {
        let start = self.len() as usize;
        let end = start + size_of_val(values);
        self.tensors.push((name, TensorInfo { dtype: V::DTYPE, shape, data_offsets: (start, end) }));
        // In pieces, so that a large tensor is never held twice.
        for piece in values.chunks(PIECE) {
            let end = self.filled + size_of_val(piece);
            if self.buffer.len() < end {
                self.buffer.resize(end, 0);
            }
            let bytes = &mut self.buffer[self.filled..end];
            V::fill(piece, bytes);
            self.hasher.update(bytes);
            self.filled = end;
            if end >= BUFFER {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Ends the group that the tensors since the last one are in.
    pub(crate) fn end_group(&mut self, name: String) {
        self.groups.push(Group(name, self.len(), Sum(self.hasher.digest())));
        self.hasher.reset();
    }

    fn flush(&mut self) -> Result<(), SnapshotError> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(self.fs.create(&self.path).at("create", &self.path)?),
        };
        file.write_at(&self.buffer[..self.filled], self.reserved as u64 + self.flushed).at("write", &self.path)?;
        // The disk writes it while more is put together.
        file.will_sync();
        self.flushed += self.filled as u64;
        self.filled = 0;
        Ok(())
    }

    /// Writes what is left, and gives the buffer back. The file is still to be made durable.
    pub(crate) fn finish(mut self) -> Result<(FileRecord, Vec<u8>, Unsynced), SnapshotError> {
        let large = self.file.is_some();
        let groups = serde_json::to_string(&self.groups).map_err(|error| SnapshotError::source(error.to_string()))?;
        let groups = HashMap::from([(GROUPS.to_owned(), groups)]);
        let header = header(std::mem::take(&mut self.tensors), Some(groups), large.then_some(self.reserved))
            .map_err(SnapshotError::source)?;
        let record = FileRecord { bytes: header.len() as u64 + self.len(), header: Sum(xxh3_64(&header)) };
        if large {
            self.flush()?;
        } else {
            self.reserved = header.len();
            self.flush()?;
        }
        let Some(mut file) = self.file else {
            unreachable!("a flush opens the file");
        };
        file.write_at(&header, 0).at("write", &self.path)?;
        file.will_sync();
        Ok((record, self.buffer, Unsynced { file, path: self.path }))
    }
}

/// A file that is written and not durable yet.
#[must_use]
pub(super) struct Unsynced {
    file: Box<dyn FsFile>,
    path: PathBuf,
}

impl Unsynced {
    /// Makes the content durable.
    pub(super) fn sync(mut self) -> Result<(), SnapshotError> {
        self.file.sync().at("sync", &self.path)
    }
}

/// A safetensors header: its length, the text, and spaces up to `size`, or to a multiple of 64 bytes.
pub(crate) fn header(
    tensors: Vec<(String, TensorInfo)>,
    metadata: Option<HashMap<String, String>>,
    size: Option<usize>,
) -> Result<Vec<u8>, String> {
    let metadata = Metadata::new(metadata, tensors).map_err(|error| error.to_string())?;
    let text = serde_json::to_vec(&metadata).map_err(|error| error.to_string())?;
    let needed = 8 + text.len();
    let size = size.unwrap_or(needed.next_multiple_of(64));
    if needed > size {
        return Err(format!("a header of {needed} bytes where {size} were expected"));
    }
    let mut header = ((size - 8) as u64).to_le_bytes().to_vec();
    header.extend_from_slice(&text);
    header.resize(size, b' ');
    Ok(header)
}

/// A file that is read: every byte of what it hands out has been checked.
pub(crate) struct TensorFile {
    file: Box<dyn FsFile>,
    path: PathBuf,
    metadata: Metadata,
    groups: Vec<Group>,
    data_start: u64,
}

impl TensorFile {
    /// Reads and checks the header.
    pub(crate) fn open(fs: &dyn Fs, path: &Path, record: &FileRecord) -> Result<TensorFile, SnapshotError> {
        let file = fs.open(path).at("open", path)?;
        let bytes = file.len().at("read", path)?;
        let damaged = |what: String| SnapshotError::damaged(path, what);
        if bytes != record.bytes && !cfg!(fuzzing) {
            return Err(damaged(format!("it has {bytes} bytes instead of {}", record.bytes)));
        }
        let mut start = [0; 8];
        if bytes < 8 {
            return Err(damaged("it is shorter than a header".to_owned()));
        }
        file.read_at(&mut start, 0).at("read", path)?;
        let data_start = u64::from_le_bytes(start).checked_add(8).filter(|&start| start <= bytes.min(HEADER_MOST));
        let data_start =
            data_start.ok_or_else(|| damaged("its header is longer than the file, or than any".to_owned()))?;
        let mut header = vec![0; data_start as usize];
        file.read_at(&mut header, 0).at("read", path)?;
        if !record.header.fits(&header) {
            return Err(damaged("the checksum of its header does not match".to_owned()));
        }
        let (metadata, groups) = parse_header(&header, bytes - data_start).map_err(damaged)?;
        Ok(TensorFile { file, path: path.to_owned(), metadata, groups, data_start })
    }

    /// Number of groups.
    pub(crate) fn groups(&self) -> usize {
        self.groups.len()
    }

    /// The name of group `number`.
    pub(crate) fn name(&self, number: usize) -> &str {
        &self.groups[number].0
    }

    /// Reads group `number` into `bytes`, and checks its sum.
    pub(crate) fn group<'a>(&'a self, number: usize, bytes: &'a mut Vec<u8>) -> Result<GroupView<'a>, SnapshotError> {
        let start = number.checked_sub(1).map_or(0, |before| self.groups[before].1);
        let Group(name, end, sum) = &self.groups[number];
        let len = (end - start) as usize;
        if bytes.try_reserve_exact(len.saturating_sub(bytes.len())).is_err() {
            let what = format!("`{name}` has {len} bytes, more than there is memory for");
            return Err(SnapshotError::damaged(&self.path, what));
        }
        bytes.resize(len, 0);
        self.file.read_at(bytes, self.data_start + start).at("read", &self.path)?;
        if !sum.fits(bytes) {
            return Err(SnapshotError::damaged(&self.path, format!("the checksum of `{name}` does not match")));
        }
        Ok(GroupView { file: self, name, start: start as usize, bytes })
    }
}

/// The tensors and groups of a header whose data has `data` bytes.
pub(crate) fn parse_header(header: &[u8], data: u64) -> Result<(Metadata, Vec<Group>), String> {
    let text = header.get(8..).unwrap_or_default();
    let metadata: Metadata =
        serde_json::from_slice(text).map_err(|error| format!("its header is not legal: {error}"))?;
    if metadata.data_len() as u64 != data {
        return Err(format!("its tensors have {} bytes and the file {data}", metadata.data_len()));
    }
    let groups = metadata.metadata().as_ref().and_then(|found| found.get(GROUPS));
    let groups = groups.ok_or("its header has no checksums: it is not dimslab's")?;
    let groups: Vec<Group> =
        serde_json::from_str(groups).map_err(|error| format!("its checksums are not legal: {error}"))?;
    let mut at = 0;
    for Group(name, end, _) in &groups {
        if *end < at || *end > data {
            return Err(format!("`{name}` ends at {end} of {data} bytes"));
        }
        at = *end;
    }
    if at != data {
        return Err(format!("{} bytes have no checksum", data - at));
    }
    Ok((metadata, groups))
}

/// One group's tensors.
pub(crate) struct GroupView<'a> {
    file: &'a TensorFile,
    /// The group's name.
    pub(crate) name: &'a str,
    start: usize,
    bytes: &'a [u8],
}

impl<'a> GroupView<'a> {
    pub(crate) fn damaged(&self, what: impl std::fmt::Display) -> SnapshotError {
        SnapshotError::damaged(&self.file.path, format!("`{}`: {what}", self.name))
    }

    /// What the header says of one tensor, and its bytes.
    pub(crate) fn tensor(&self, name: &str) -> Result<(&'a TensorInfo, &'a [u8]), SnapshotError> {
        let info = self.file.metadata.info(name).ok_or_else(|| self.damaged(format!("there is no `{name}`")))?;
        let (start, end) = info.data_offsets;
        let range = start.checked_sub(self.start).zip(end.checked_sub(self.start));
        let bytes = range.and_then(|(start, end)| self.bytes.get(start..end));
        Ok((info, bytes.ok_or_else(|| self.damaged(format!("`{name}` lies elsewhere")))?))
    }

    /// The values of a tensor of a known type and shape.
    pub(crate) fn values<V: Value>(&self, name: &str, shape: &[usize], to: &mut Vec<V>) -> Result<(), SnapshotError> {
        let (info, bytes) = self.tensor(name)?;
        if info.dtype != V::DTYPE || info.shape != shape {
            let (dtype, shape_found) = (info.dtype, &info.shape);
            let expected = V::DTYPE;
            return Err(self.damaged(format!("`{name}` is {dtype} {shape_found:?} and should be {expected} {shape:?}")));
        }
        V::get(bytes, to);
        Ok(())
    }
}
