//! Writing a serving file from a snapshot: in one pass over the rows, with one table's index in memory.

use std::path::{Path, PathBuf};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use safetensors::Dtype as TensorType;
use safetensors::tensor::TensorInfo;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::layout::{
    ABOUT, About, Dtype, EMPTY, FORMAT, Hasher, Place, SUMS, TableAbout, home, index_name, ordinals_name, shared_name,
    slots_for, values_name,
};
use crate::config::{Fallback, TableConfig};
use crate::snapshot::{
    At, Counts, Data, Fs, FsFile, RealFs, RowBlock, RowRef, Section, Snapshot, SnapshotError, Sum, Value, header,
};

/// Bytes of a column that are written at once.
const BUFFER: usize = 1 << 20;

/// A serving file that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    /// Its length.
    pub bytes: u64,
    /// Rows of all tables.
    pub rows: u64,
    /// Their chunks.
    pub chunks: u64,
}

/// Writes a serving file of a snapshot's rows and dense model to `path`, under a temporary name beside it first; a file
/// that is there is replaced in one step, so readers that have it mapped keep what they have.
///
/// Memory: 21 bytes for each row of the largest table, and a block of rows.
///
/// # Errors
///
/// Those of reading the snapshot; [`SnapshotError::Io`]; [`SnapshotError::Other`] for a weight that `dtype` cannot hold.
pub fn export(snapshot: &Snapshot, path: &Path, dtype: Dtype) -> Result<Exported, SnapshotError> {
    export_on(&RealFs, snapshot, path, dtype)
}

pub(crate) fn export_on(
    fs: &dyn Fs,
    snapshot: &Snapshot,
    path: &Path,
    dtype: Dtype,
) -> Result<Exported, SnapshotError> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| SnapshotError::Other(format!("{} is no file name", path.display())))?;
    let parent = path.parent().unwrap_or(Path::new(""));
    let temporary = path.with_file_name(format!(".tmp-{name}"));
    // What an interrupted export has left.
    let _ = fs.remove_file(&temporary);
    let written = Export::new(fs, snapshot, temporary.clone(), dtype).and_then(Export::write);
    let exported = match written {
        Ok(exported) => exported,
        Err(error) => {
            let _ = fs.remove_file(&temporary);
            return Err(error);
        }
    };
    fs.rename(&temporary, path).at("replace", path)?;
    fs.sync_dir(parent).at("sync", parent)?;
    Ok(exported)
}

/// A tensor that has its place in the file.
struct Tensor {
    name: String,
    info: TensorInfo,
}

struct Export<'s> {
    snapshot: &'s Snapshot,
    about: About,
    sections: Vec<Section>,
    tensors: Vec<Tensor>,
    sums: Vec<u64>,
    header: Vec<u8>,
    file: Box<dyn FsFile>,
    path: PathBuf,
    dtype: Dtype,
}

impl<'s> Export<'s> {
    /// Plans the file.
    fn new(fs: &dyn Fs, snapshot: &'s Snapshot, path: PathBuf, dtype: Dtype) -> Result<Self, SnapshotError> {
        let sections = snapshot.sections()?;
        let counts = counts(snapshot)?;
        let manifest = snapshot.manifest().clone();
        let tables = manifest.tables.iter().zip(&counts).map(|(table, counts)| TableAbout {
            rows: counts.rows,
            chunks: counts.chunks,
            slots: slots_for(counts.rows),
            shared: shared_rows(table),
        });
        let dense = sections.iter().filter(|section| section.name.starts_with("dense/"));
        let about = About {
            format: FORMAT,
            dtype,
            snapshot: Sum(snapshot.checksum()),
            tables: tables.collect(),
            dense: dense.map(|section| section.name.clone()).collect(),
            manifest,
        };
        let tensors = plan(&about, &sections)?;
        let infos = tensors.iter().map(|tensor| (tensor.name.clone(), tensor.info.clone())).collect();
        let header = header(infos, None, None).map_err(SnapshotError::source)?;
        let file = fs.create(&path).at("create", &path)?;
        let sums = vec![0; tensors.len() - 1];
        Ok(Export { snapshot, about, sections, tensors, sums, header, file, path, dtype })
    }

    fn write(mut self) -> Result<Exported, SnapshotError> {
        self.file.write_at(&self.header, 0).at("write", &self.path)?;
        for table in 0..self.about.tables.len() {
            self.table(table)?;
            if self.about.tables[table].shared > 0 {
                let weights = self.section(&format!("shared/{table}/weights"))?;
                self.whole(&shared_name(table), &weights)?;
            }
        }
        for name in self.about.dense.clone() {
            let weights = self.section(&name)?;
            self.whole(&name, &weights)?;
        }
        let about = serde_json::to_vec(&self.about).map_err(|error| SnapshotError::source(error.to_string()))?;
        self.whole(ABOUT, &about)?;
        let mut sums = vec![xxh3_64(&self.header)];
        sums.append(&mut self.sums);
        let mut bytes = Vec::new();
        u64::put(&sums, &mut bytes);
        u64::put(&[xxh3_64(&bytes)], &mut bytes);
        let (_, offset) = self.place(SUMS)?;
        self.file.write_at(&bytes, offset).at("write", &self.path)?;
        self.file.sync().at("sync", &self.path)?;
        let sum = |of: fn(&TableAbout) -> u64| self.about.tables.iter().map(of).sum();
        let (rows, chunks) = (sum(|table| table.rows), sum(|table| table.chunks));
        Ok(Exported { bytes: offset + bytes.len() as u64, rows, chunks })
    }

    /// Position of a tensor and of its first byte in the file.
    fn place(&self, name: &str) -> Result<(usize, u64), SnapshotError> {
        let position = self.tensors.iter().position(|tensor| tensor.name == name);
        let position = position.ok_or_else(|| SnapshotError::source(format!("no tensor `{name}` was planned")))?;
        Ok((position, (self.header.len() + self.tensors[position].info.data_offsets.0) as u64))
    }

    fn column(&self, name: &str) -> Result<Column, SnapshotError> {
        let (number, offset) = self.place(name)?;
        Ok(Column { number, offset, buffer: Vec::new(), hasher: Xxh3::new(), written: 0 })
    }

    /// Ends a column: all of it must have come.
    fn end(&mut self, mut column: Column) -> Result<(), SnapshotError> {
        column.flush(&mut *self.file, &self.path)?;
        let Tensor { name, info } = &self.tensors[column.number];
        let planned = (info.data_offsets.1 - info.data_offsets.0) as u64;
        if column.written != planned {
            let what = format!("`{name}` has {} bytes where its manifest says {planned}", column.written);
            return Err(SnapshotError::source(what));
        }
        self.sums[column.number] = column.hasher.digest();
        Ok(())
    }

    fn whole<V: Value>(&mut self, name: &str, values: &[V]) -> Result<(), SnapshotError> {
        let mut column = self.column(name)?;
        for piece in values.chunks(BUFFER / 8) {
            V::put(piece, &mut column.buffer);
            column.flush(&mut *self.file, &self.path)?;
        }
        self.end(column)
    }

    fn section(&self, name: &str) -> Result<Vec<f32>, SnapshotError> {
        match self.sections.iter().find(|section| section.name == name).map(|section| &section.data) {
            Some(Data::F32(values)) => Ok(values.clone()),
            _ => Err(SnapshotError::Other(format!("the snapshot has no weights `{name}`, which its tables need"))),
        }
    }

    /// Writes one table's rows, and the index that is made on the way.
    fn table(&mut self, table: usize) -> Result<(), SnapshotError> {
        let config = self.about.manifest.tables[table].clone();
        let mut index = Index::new(&config, self.about.manifest.store.seed, self.about.tables[table].slots)?;
        let mut values = self.column(&values_name(table))?;
        let mut ordinals = self.column(&ordinals_name(table))?;
        let (mut blocks, mut block) = (self.snapshot.blocks_of_table(table), RowBlock::default());
        while blocks.next(&mut block)? {
            for row in block.rows(&config) {
                let scale = put_weights(self.dtype, &row, &config, &mut values.buffer)?;
                ordinals.buffer.extend_from_slice(row.ordinals);
                index.insert(&row, scale)?;
            }
            values.flush(&mut *self.file, &self.path)?;
            ordinals.flush(&mut *self.file, &self.path)?;
        }
        self.end(values)?;
        self.end(ordinals)?;
        self.whole(&index_name(table), &index.slots)
    }
}

/// A tensor that is being written.
struct Column {
    number: usize,
    offset: u64,
    buffer: Vec<u8>,
    hasher: Xxh3,
    written: u64,
}

impl Column {
    fn flush(&mut self, file: &mut dyn FsFile, path: &Path) -> Result<(), SnapshotError> {
        self.hasher.update(&self.buffer);
        file.write_at(&self.buffer, self.offset + self.written).at("write", path)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// Open addressing: `[key, place]`, the first empty slot from a key's home on ends a search.
struct Index {
    slots: Vec<u64>,
    hasher: Hasher,
    chunks: u64,
    free: u64,
    table: String,
}

impl Index {
    fn new(config: &TableConfig, seed: u64, slots: u64) -> Result<Index, SnapshotError> {
        let (hasher, table) = (Hasher::new(config, seed), config.name.clone());
        let mut words = Vec::new();
        let len = usize::try_from(slots).unwrap_or(usize::MAX).saturating_mul(2);
        if words.try_reserve_exact(len).is_err() {
            let what = format!("table `{table}` needs {len} words of memory for its index, more than there is");
            return Err(SnapshotError::Other(what));
        }
        words.resize(len, EMPTY);
        Ok(Index { slots: words, hasher, chunks: 0, free: slots, table })
    }

    fn insert(&mut self, row: &RowRef<'_>, scale: u16) -> Result<(), SnapshotError> {
        let chunks = row.ordinals.len();
        let prefix = row.ordinals.last().is_some_and(|&last| usize::from(last) + 1 == chunks);
        let place = Place { first: self.chunks, chunks, prefix, scale };
        self.chunks += chunks as u64;
        self.free -= 1;
        if self.free == 0 || self.chunks > Place::CHUNKS_MOST {
            let what = format!("table `{}` has more rows than its manifest says, or than fit", self.table);
            return Err(SnapshotError::Other(what));
        }
        let (slots, _) = self.slots.as_chunks_mut::<2>();
        let mut at = home(self.hasher.row_hash(row.key), slots.len());
        while slots[at][1] != EMPTY {
            if slots[at][0] == row.key {
                return Err(SnapshotError::Other(format!("row {} of table `{}` comes twice", row.key, self.table)));
            }
            at = (at + 1) % slots.len();
        }
        slots[at] = [row.key, place.pack()];
        Ok(())
    }
}

/// Appends a row's weights; returns its scale.
fn put_weights(dtype: Dtype, row: &RowRef<'_>, table: &TableConfig, to: &mut Vec<u8>) -> Result<u16, SnapshotError> {
    let most = row.weights.iter().fold(0f32, |most, weight| most.max(weight.abs()));
    let cannot = |kind| {
        let (key, name) = (row.key, &table.name);
        let what = format!("row {key} of table `{name}` has a weight that {kind} cannot hold; use f32");
        Err(SnapshotError::Other(what))
    };
    match dtype {
        Dtype::F32 => f32::put(row.weights, to),
        Dtype::F16 => {
            let mut halves = vec![f16::ZERO; row.weights.len()];
            halves.convert_from_f32_slice(row.weights);
            if halves.iter().any(|half| half.is_infinite()) {
                return cannot("f16");
            }
            to.extend(halves.iter().flat_map(|half| half.to_le_bytes()));
        }
        Dtype::Bf16 => to.extend(row.weights.iter().flat_map(|&weight| bf16::from_f32(weight).to_le_bytes())),
        Dtype::Int8 => {
            let scale = scale_for(most);
            if !scale.is_finite() || row.weights.iter().any(|weight| weight.is_nan()) {
                return cannot("int8");
            }
            let unit = scale.to_f32();
            let byte = |&weight: &f32| if unit == 0.0 { 0 } else { (weight / unit).round() as i8 };
            to.extend(row.weights.iter().map(|weight| byte(weight) as u8));
            return Ok(scale.to_bits());
        }
    }
    Ok(0)
}

/// The least bfloat16 of which 127 reach `most`.
fn scale_for(most: f32) -> bf16 {
    let scale = bf16::from_f32(most / 127.0);
    if scale.to_f32() * 127.0 < most { bf16::from_bits(scale.to_bits() + 1) } else { scale }
}

/// Rows that stand in for what has no chunk.
pub(super) fn shared_rows(table: &TableConfig) -> u64 {
    match table.fallback {
        Fallback::Zero => 0,
        Fallback::DefaultVector => 1,
        Fallback::HashedRow { rows } => rows as u64,
    }
}

/// Live rows and chunks of each table.
fn counts(snapshot: &Snapshot) -> Result<Vec<Counts>, SnapshotError> {
    if let [only] = snapshot.parts() {
        return Ok(only.counts().to_vec());
    }
    let mut counts = vec![Counts::default(); snapshot.manifest().tables.len()];
    let (mut blocks, mut block) = (snapshot.blocks(), RowBlock::default());
    while blocks.next(&mut block)? {
        counts[block.table].rows += block.keys.len() as u64;
        counts[block.table].chunks += block.ordinals.len() as u64;
    }
    Ok(counts)
}

/// The file's tensors, those of wide values first, so that all are aligned.
fn plan(about: &About, sections: &[Section]) -> Result<Vec<Tensor>, SnapshotError> {
    let mut wanted: Vec<(String, TensorType, Vec<usize>)> = Vec::new();
    let values = match about.dtype {
        Dtype::F32 => TensorType::F32,
        Dtype::F16 => TensorType::F16,
        Dtype::Bf16 => TensorType::BF16,
        Dtype::Int8 => TensorType::I8,
    };
    for (t, (sizes, table)) in about.tables.iter().zip(&about.manifest.tables).enumerate() {
        wanted.push((index_name(t), TensorType::U64, vec![sizes.slots as usize, 2]));
        wanted.push((values_name(t), values, vec![sizes.chunks as usize, table.chunk_dims()]));
        wanted.push((ordinals_name(t), TensorType::U8, vec![sizes.chunks as usize]));
        if sizes.shared > 0 {
            wanted.push((shared_name(t), TensorType::F32, vec![sizes.shared as usize, table.dim]));
        }
    }
    for section in sections.iter().filter(|section| section.name.starts_with("dense/")) {
        wanted.push((section.name.clone(), TensorType::F32, section.shape.clone()));
    }
    let json = serde_json::to_vec(about).map_err(|error| SnapshotError::source(error.to_string()))?;
    wanted.push((ABOUT.to_owned(), TensorType::U8, vec![json.len()]));
    wanted.sort_by_key(|(_, dtype, _)| std::cmp::Reverse(dtype.bitsize()));
    wanted.push((SUMS.to_owned(), TensorType::U64, vec![wanted.len() + 2]));
    let mut at = 0usize;
    let mut tensors = Vec::new();
    for (name, dtype, shape) in wanted {
        let bytes = shape.iter().try_fold(dtype.bitsize() / 8, |product, &size| product.checked_mul(size));
        let end = bytes.and_then(|bytes| at.checked_add(bytes));
        let end = end.ok_or_else(|| SnapshotError::source(format!("`{name}` of {shape:?} is too large")))?;
        tensors.push(Tensor { name, info: TensorInfo { dtype, shape, data_offsets: (at, end) } });
        at = end;
    }
    Ok(tensors)
}
