//! A serving file in memory: what is checked when it is opened, and what when it is asked for.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::Dtype as TensorType;
use safetensors::tensor::{Metadata, SafeTensors};

use super::export::shared_rows;
use super::layout::{
    ABOUT, About, Dtype, FORMAT, Hasher, Place, SUMS, index_name, ordinals_name, shared_name, values_name,
};
use super::table::{Table, Weights};
use crate::snapshot::{At, HEADER_MOST, Manifest, SnapshotError, Sum, Value};

#[cfg(target_endian = "big")]
compile_error!("serving files are read in place, and they are little-endian");

/// All tables of a serving file, mapped.
pub struct Tables {
    bytes: Bytes,
    path: PathBuf,
    about: About,
    metadata: Metadata,
    data_start: usize,
    places: Vec<TablePlaces>,
}

/// Where the bytes are.
enum Bytes {
    Mapped(Mmap),
    #[cfg(any(test, fuzzing))]
    Owned(Vec<u64>, usize),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            #[cfg(any(test, fuzzing))]
            Bytes::Owned(words, len) => &cast_bytes(words)[..*len],
        }
    }
}

#[cfg(any(test, fuzzing))]
fn cast_bytes(words: &[u64]) -> &[u8] {
    // SAFETY: any word is eight bytes.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}

/// Where one table's tensors lie in the file; in bounds and aligned.
struct TablePlaces {
    index: Range<usize>,
    values: Range<usize>,
    ordinals: Range<usize>,
    shared: Range<usize>,
}

impl Tables {
    /// Maps a file and checks its header, its sizes and its description, not its rows: [`verify`](Self::verify) does that,
    /// and no look-up believes an offset that it reads.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Io`], [`SnapshotError::Damaged`], [`SnapshotError::Version`].
    pub fn open(path: &Path) -> Result<Tables, SnapshotError> {
        let file = File::open(path).at("open", path)?;
        let metadata = file.metadata().at("open", path)?;
        if !metadata.is_file() || metadata.len() < 8 {
            return Err(SnapshotError::damaged(
                path,
                "it is no serving file: shorter than a header, or no file at all",
            ));
        }
        // SAFETY: the map is read only; that nobody changes or cuts the file meanwhile is the documented condition of this
        // module, and what is read is checked each time.
        let map = unsafe { Mmap::map(&file) }.at("map", path)?;
        Tables::of(Bytes::Mapped(map), path)
    }

    /// A file's bytes that are in memory.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn from_bytes(bytes: &[u8], path: &Path) -> Result<Tables, SnapshotError> {
        let mut words = vec![0u64; bytes.len().div_ceil(8)];
        words.iter_mut().zip(bytes.chunks(8)).for_each(|(word, bytes)| {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_ne_bytes(whole);
        });
        Tables::of(Bytes::Owned(words, bytes.len()), path)
    }

    fn of(bytes: Bytes, path: &Path) -> Result<Tables, SnapshotError> {
        let damaged = |what: String| SnapshotError::damaged(path, what);
        let header = bytes.first_chunk().map(|len| u64::from_le_bytes(*len)).filter(|&len| len <= HEADER_MOST);
        header.ok_or_else(|| damaged("it is no serving file: its header is longer than any".to_owned()))?;
        let (header, metadata) =
            SafeTensors::read_metadata(&bytes).map_err(|error| damaged(format!("it is no serving file: {error}")))?;
        let data_start = 8 + header;
        check_sums(&bytes, &metadata, data_start).map_err(damaged)?;
        let about = about(&bytes, &metadata, data_start, path)?;
        let places = places(&about, &metadata, data_start).map_err(damaged)?;
        Ok(Tables { bytes, path: path.to_owned(), about, metadata, data_start, places })
    }

    /// Where it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the snapshot was of that it was made from.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.about.manifest
    }

    /// The checksum of that snapshot.
    #[must_use]
    pub fn checksum(&self) -> u64 {
        self.about.snapshot.0
    }

    /// How weights are stored.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.about.dtype
    }

    /// Length of the file.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Number of tables.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are no tables. There always are.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// A table by name.
    #[must_use]
    pub fn table(&self, name: &str) -> Option<Table<'_>> {
        let position = self.about.manifest.tables.iter().position(|table| table.name == name);
        position.map(|position| self.table_at(position))
    }

    /// A table by its position in the store.
    ///
    /// # Panics
    ///
    /// If there are no more than `position` tables.
    #[must_use]
    pub fn table_at(&self, position: usize) -> Table<'_> {
        let (config, places) = (&self.about.manifest.tables[position], &self.places[position]);
        let values = &self.bytes[places.values.clone()];
        let weights = match self.about.dtype {
            Dtype::F32 => Weights::F32(cast(values)),
            Dtype::F16 => Weights::F16(cast(values)),
            Dtype::Bf16 => Weights::Bf16(cast(values)),
            Dtype::Int8 => Weights::Int8(cast(values), 0.0),
        };
        Table {
            path: &self.path,
            config,
            hasher: Hasher::new(config, self.about.manifest.store.seed),
            rows: self.about.tables[position].rows,
            index: cast::<[u64; 2]>(&self.bytes[places.index.clone()]),
            weights,
            ordinals: &self.bytes[places.ordinals.clone()],
            shared: cast(&self.bytes[places.shared.clone()]),
        }
    }

    /// The dense model's tensors: name, shape and values, as they were in the snapshot.
    pub fn dense(&self) -> impl Iterator<Item = (&str, &[usize], &[f32])> {
        self.about.dense.iter().filter_map(|name| {
            let info = self.metadata.info(name)?;
            let (start, end) = info.data_offsets;
            let values = cast(&self.bytes[self.data_start + start..self.data_start + end]);
            Some((name.as_str(), &info.shape[..], values))
        })
    }

    /// Reads the whole file and checks every sum, and every row's place.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Damaged`] with the first damage found.
    pub fn verify(&self) -> Result<(), SnapshotError> {
        let damaged = |what| Err(SnapshotError::damaged(&self.path, what));
        let sums = words(&self.bytes[self.data_start..], &self.metadata).unwrap_or_default();
        // In the order of their places, which is that of the sums.
        for (name, sum) in self.metadata.offset_keys().iter().zip(&sums[1..]) {
            if name == SUMS {
                break;
            }
            let Some(info) = self.metadata.info(name) else { continue };
            let (start, end) = info.data_offsets;
            if !Sum(*sum).fits(&self.bytes[self.data_start + start..self.data_start + end]) {
                return damaged(format!("the checksum of `{name}` does not match"));
            }
        }
        for position in 0..self.len() {
            self.table_at(position).verify(self.about.tables[position].chunks)?;
        }
        Ok(())
    }
}

/// The words of the tensor of sums.
fn words(data: &[u8], metadata: &Metadata) -> Option<Vec<u64>> {
    let info = metadata.info(SUMS).filter(|info| info.dtype == TensorType::U64)?;
    let mut words = Vec::new();
    u64::get(data.get(info.data_offsets.0..info.data_offsets.1)?, &mut words);
    (info.data_offsets.1 == data.len() && words.len() >= 2).then_some(words)
}

/// Checks the header by the sums, and the sums by themselves.
fn check_sums(bytes: &[u8], metadata: &Metadata, data_start: usize) -> Result<(), String> {
    let sums = words(&bytes[data_start..], metadata);
    let sums = sums.filter(|sums| sums.len() == metadata.offset_keys().len() + 1);
    let sums = sums.ok_or("it is no serving file: it has no checksums at its end")?;
    let mut before = Vec::new();
    u64::put(&sums[..sums.len() - 1], &mut before);
    if !Sum(sums[sums.len() - 1]).fits(&before) {
        return Err("its checksums do not match their own".to_owned());
    }
    if !Sum(sums[0]).fits(&bytes[..data_start]) {
        return Err("the checksum of its header does not match".to_owned());
    }
    Ok(())
}

/// The description, checked by its sum.
fn about(bytes: &[u8], metadata: &Metadata, data_start: usize, path: &Path) -> Result<About, SnapshotError> {
    #[derive(serde::Deserialize)]
    struct Version {
        format: u64,
    }
    let damaged = |what: String| SnapshotError::damaged(path, what);
    let info = metadata.info(ABOUT).ok_or_else(|| damaged(format!("it has no `{ABOUT}`")))?;
    let json = &bytes[data_start + info.data_offsets.0..data_start + info.data_offsets.1];
    let sums = words(&bytes[data_start..], metadata).unwrap_or_default();
    let position = metadata.offset_keys().iter().position(|name| name == ABOUT);
    let sum = position.and_then(|position| sums.get(position + 1));
    if !sum.is_some_and(|sum| Sum(*sum).fits(json)) {
        return Err(damaged(format!("the checksum of `{ABOUT}` does not match")));
    }
    let illegal = |error: serde_json::Error| damaged(format!("`{ABOUT}` is not legal: {error}"));
    let version: Version = serde_json::from_slice(json).map_err(illegal)?;
    if version.format != FORMAT {
        let advice = "export it again with this program, or use the dimslab that wrote it";
        return Err(SnapshotError::Version { path: path.to_owned(), found: version.format, known: FORMAT, advice });
    }
    let about: About = serde_json::from_slice(json).map_err(illegal)?;
    about.manifest.store.check(&about.manifest.tables).map_err(|error| damaged(error.to_string()))?;
    if about.tables.len() != about.manifest.tables.len() {
        return Err(damaged("its tables and their sizes are not as many".to_owned()));
    }
    Ok(about)
}

/// Where the tables' tensors are. Their types and shapes must be those that the description asks for.
fn places(about: &About, metadata: &Metadata, data_start: usize) -> Result<Vec<TablePlaces>, String> {
    let find = |name: &str, dtype: TensorType, shape: &[u64]| {
        let info = metadata.info(name).ok_or_else(|| format!("it has no `{name}`"))?;
        let same = info.shape.len() == shape.len() && info.shape.iter().zip(shape).all(|(a, b)| *a as u64 == *b);
        if info.dtype != dtype || !same {
            return Err(format!("`{name}` is {} {:?} and should be {dtype} {shape:?}", info.dtype, info.shape));
        }
        let range = data_start + info.data_offsets.0..data_start + info.data_offsets.1;
        // The map begins on a page.
        if !range.is_empty() && range.start % (dtype.bitsize() / 8) != 0 {
            return Err(format!("`{name}` is not aligned"));
        }
        Ok(range)
    };
    let values = match about.dtype {
        Dtype::F32 => TensorType::F32,
        Dtype::F16 => TensorType::F16,
        Dtype::Bf16 => TensorType::BF16,
        Dtype::Int8 => TensorType::I8,
    };
    for name in &about.dense {
        let info = metadata.info(name).ok_or_else(|| format!("it has no `{name}`"))?;
        let shape: Vec<u64> = info.shape.iter().map(|&size| size as u64).collect();
        find(name, TensorType::F32, &shape)?;
    }
    let tables = about.tables.iter().zip(&about.manifest.tables).enumerate();
    let place = |(t, (sizes, table)): (usize, (&super::layout::TableAbout, &crate::TableConfig))| {
        if sizes.slots == 0 || sizes.rows >= sizes.slots || sizes.chunks > Place::CHUNKS_MOST {
            return Err(format!("table {t} has impossible sizes: {sizes:?}"));
        }
        if sizes.shared != shared_rows(table) {
            return Err(format!("table {t} has {} shared rows and needs {}", sizes.shared, shared_rows(table)));
        }
        let shared = if sizes.shared == 0 {
            0..0
        } else {
            find(&shared_name(t), TensorType::F32, &[sizes.shared, table.dim as u64])?
        };
        Ok(TablePlaces {
            index: find(&index_name(t), TensorType::U64, &[sizes.slots, 2])?,
            values: find(&values_name(t), values, &[sizes.chunks, table.chunk_dims() as u64])?,
            ordinals: find(&ordinals_name(t), TensorType::U8, &[sizes.chunks])?,
            shared,
        })
    };
    tables.map(place).collect()
}

/// Types of which any bytes are a value.
trait Plain: Copy {}

impl Plain for u16 {}
impl Plain for i8 {}
impl Plain for f32 {}
impl Plain for [u64; 2] {}

/// Bytes as values. Those of an aligned range of a map are all values; were they not, those before the first aligned one
/// and after the last whole one would be left out.
fn cast<T: Plain>(bytes: &[u8]) -> &[T] {
    // SAFETY: any bytes are a `Plain` value, and `align_to` sees to alignment and bounds.
    let (_, values, _) = unsafe { bytes.align_to::<T>() };
    values
}
