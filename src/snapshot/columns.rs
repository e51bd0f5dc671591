//! Blocks of rows and sections as tensors, and back.

use safetensors::Dtype;

use super::block::{Data, RowBlock, Section};
use super::tensors::{GroupView, TensorWriter};
use super::{SnapshotError, tensors::Value};
use crate::config::TableConfig;

impl RowBlock {
    /// What is wrong with a block of `tables`, if anything. Tombstones are legal in an increment only.
    pub(super) fn check(&self, tables: &[TableConfig], increment: bool) -> Result<(), String> {
        let table = tables.get(self.table).ok_or_else(|| format!("there is no table {}", self.table))?;
        let fail = |what: String| Err(format!("table `{}`: {what}", table.name));
        let least = usize::from(!increment);
        let most = table.chunks();
        if let Some(chunks) = self.chunks.iter().find(|&&chunks| !(least..=most).contains(&usize::from(chunks))) {
            return fail(format!("a row has {chunks} chunks, expected {least} to {most}"));
        }
        let rows = self.keys.len();
        let live = self.live();
        let row_state = rows * table.optimizer.row_state_words();
        for (what, found, expected) in [
            ("chunk counts", self.chunks.len(), rows),
            ("ordinals", self.ordinals.len(), live),
            ("utilities", self.utilities.len(), live),
            ("weights", self.weights.len(), live * table.chunk_dims()),
            ("words of state", self.state.len(), live * table.chunk_state()),
            ("words of row state", self.row_state.len(), row_state),
        ] {
            if found != expected {
                return fail(format!("{found} {what}, expected {expected} for {rows} rows of {live} chunks"));
            }
        }
        for row in self.rows(table) {
            let rising = row.ordinals.windows(2).all(|pair| pair[0] < pair[1]);
            if !rising || row.ordinals.last().is_some_and(|&last| usize::from(last) >= most) {
                return fail(format!("row {} has chunks {:?} of {most}", row.key, row.ordinals));
            }
        }
        if let Some(utility) = self.utilities.iter().find(|utility| !(utility.is_finite() && **utility >= 0.0)) {
            return fail(format!("a utility is {utility}"));
        }
        Ok(())
    }

    /// Live chunks of all rows.
    fn live(&self) -> usize {
        self.chunks.iter().map(|&chunks| usize::from(chunks)).sum()
    }

    /// Writes the block as one group.
    pub(super) fn write(&self, to: &mut TensorWriter<'_>, tables: &[TableConfig]) -> Result<(), SnapshotError> {
        let table = &tables[self.table];
        let (rows, live) = (self.keys.len(), self.live());
        let group = format!("{}b{}", table_prefix(self.table), to.groups());
        let name = |column: &str| format!("{group}.{column}");
        to.tensor(name("keys"), vec![rows], &self.keys)?;
        to.tensor(name("chunks"), vec![rows], &self.chunks)?;
        to.tensor(name("ordinals"), vec![live], &self.ordinals)?;
        to.tensor(name("utilities"), vec![live], &self.utilities)?;
        to.tensor(name("weights"), vec![live, table.chunk_dims()], &self.weights)?;
        if table.chunk_state() > 0 {
            to.tensor(name("state"), vec![live, table.chunk_state()], &self.state)?;
        }
        if table.optimizer.row_state_words() > 0 {
            to.tensor(name("row_state"), vec![rows], &self.row_state)?;
        }
        to.end_group(group);
        Ok(())
    }

    /// Reads a group in place of what the block holds, and checks it.
    pub(super) fn read(
        &mut self,
        from: &GroupView<'_>,
        tables: &[TableConfig],
        increment: bool,
    ) -> Result<(), SnapshotError> {
        self.clear();
        let position = from.name.strip_prefix('t').and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
        let found = position.and_then(|position| Some((position, tables.get(position)?)));
        let (position, table) = found.ok_or_else(|| from.damaged("its name names no table"))?;
        self.table = position;
        let name = |column: &str| format!("{}.{column}", from.name);
        let (keys, _) = from.tensor(&name("keys"))?;
        let rows = keys.shape.first().copied().unwrap_or_default();
        from.values(&name("keys"), &[rows], &mut self.keys)?;
        from.values(&name("chunks"), &[rows], &mut self.chunks)?;
        let live = self.live();
        from.values(&name("ordinals"), &[live], &mut self.ordinals)?;
        from.values(&name("utilities"), &[live], &mut self.utilities)?;
        from.values(&name("weights"), &[live, table.chunk_dims()], &mut self.weights)?;
        if table.chunk_state() > 0 {
            from.values(&name("state"), &[live, table.chunk_state()], &mut self.state)?;
        }
        if table.optimizer.row_state_words() > 0 {
            from.values(&name("row_state"), &[rows], &mut self.row_state)?;
        }
        self.check(tables, increment).map_err(|what| from.damaged(what))
    }
}

/// What the names of a table's tensors begin with.
pub(super) fn table_prefix(table: usize) -> String {
    format!("t{table}.")
}

impl Section {
    /// Bytes that its entry in a header needs at most.
    pub(super) fn header_bytes(&self) -> usize {
        // A character of a name is up to 12 bytes where it stands as JSON within JSON.
        300 + 18 * self.name.len() + 24 * self.shape.len()
    }

    /// Writes the section as a group of one tensor.
    pub(super) fn write(&self, to: &mut TensorWriter<'_>) -> Result<(), SnapshotError> {
        let values = self.shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        if values != Some(self.data.len()) {
            let (name, shape, found) = (&self.name, &self.shape, self.data.len());
            return Err(SnapshotError::source(format!("section `{name}` of shape {shape:?} has {found} values")));
        }
        let (name, shape) = (self.name.clone(), self.shape.clone());
        match &self.data {
            Data::U8(values) => to.tensor(name, shape, values),
            Data::U32(values) => to.tensor(name, shape, values),
            Data::U64(values) => to.tensor(name, shape, values),
            Data::F32(values) => to.tensor(name, shape, values),
            Data::F64(values) => to.tensor(name, shape, values),
        }?;
        to.end_group(self.name.clone());
        Ok(())
    }

    /// Reads a group of one tensor.
    pub(super) fn read(from: &GroupView<'_>) -> Result<Section, SnapshotError> {
        let (info, bytes) = from.tensor(from.name)?;
        let data = match info.dtype {
            Dtype::U8 => Data::U8(all(bytes)),
            Dtype::U32 => Data::U32(all(bytes)),
            Dtype::U64 => Data::U64(all(bytes)),
            Dtype::F32 => Data::F32(all(bytes)),
            Dtype::F64 => Data::F64(all(bytes)),
            other => return Err(from.damaged(format!("sections are not of type {other}"))),
        };
        Ok(Section { name: from.name.to_owned(), shape: info.shape.clone(), data })
    }
}

fn all<V: Value>(bytes: &[u8]) -> Vec<V> {
    let mut values = Vec::new();
    V::get(bytes, &mut values);
    values
}
