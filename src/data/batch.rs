//! Rows, batches of rows, and where rows come from.

use super::DataError;

/// What a stream's rows look like: the names of the dense and of the categorical columns, in the order in which a
/// row carries them.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Schema {
    /// Names of the dense (numeric) columns.
    pub dense: Vec<String>,
    /// Names of the categorical columns; one embedding table each.
    pub categorical: Vec<String>,
}

/// One decoded row. A source overwrites it, so one `Row` serves a whole stream without allocating.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// 0.0 or 1.0.
    pub label: f32,
    /// One value per [`Schema::dense`] column.
    pub dense: Vec<f32>,
    /// One key per [`Schema::categorical`] column.
    pub keys: Vec<u64>,
}

/// A stream of rows, pulled one at a time by the [`Loader`](super::Loader).
pub trait RowSource: Send {
    /// The columns of every row of this stream.
    fn schema(&self) -> &Schema;

    /// Overwrites `row` with the next row. `Ok(false)` is the end of the stream, and then `row` means nothing.
    ///
    /// # Errors
    /// What stopped the stream. A source that failed does not go on: what it answers to further calls is either an
    /// error or the end.
    fn next_row(&mut self, row: &mut Row) -> Result<bool, DataError>;

    /// Malformed lines skipped so far.
    fn skipped(&self) -> u64;

    /// Least and greatest value of the time column so far, if the stream has one.
    fn time_range(&self) -> Option<(i64, i64)> {
        None
    }

    /// Bytes this source holds to read ahead: input buffers and the windows of decompressors.
    fn buffer_bytes(&self) -> u64 {
        0
    }
}

/// Decoded rows, laid out for the trainer.
///
/// `labels` is `[rows]`, `dense` is `[rows, n_dense]` row-major, and `keys` is feature-major: feature `t`'s keys are
/// `keys[t * rows..(t + 1) * rows]`, so that one gather serves one table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Number of rows.
    pub rows: usize,
    /// Number of dense columns of each row.
    pub n_dense: usize,
    /// Number of categorical columns of each row.
    pub n_features: usize,
    /// Labels `[rows]`, each 0.0 or 1.0.
    pub labels: Vec<f32>,
    /// Dense values `[rows, n_dense]`.
    pub dense: Vec<f32>,
    /// Keys `[n_features, rows]`.
    pub keys: Vec<u64>,
}

impl Batch {
    /// Feature `t`'s key of every row: `[rows]`.
    ///
    /// # Panics
    /// When `t >= n_features`, as indexing does.
    pub fn feature_keys(&self, t: usize) -> &[u64] {
        &self.keys[t * self.rows..(t + 1) * self.rows]
    }

    /// Row `r`'s dense values: `[n_dense]`.
    ///
    /// # Panics
    /// When `r >= rows`, as indexing does.
    pub fn dense_row(&self, r: usize) -> &[f32] {
        &self.dense[r * self.n_dense..(r + 1) * self.n_dense]
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether the batch has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Bytes of the three buffers, spare capacity included.
    pub fn bytes(&self) -> u64 {
        let floats = self.labels.capacity() + self.dense.capacity();
        (floats * size_of::<f32>() + self.keys.capacity() * size_of::<u64>()) as u64
    }
}

/// Fills one batch row by row.
///
/// While it is being filled, `keys` has the stride of a full batch; a batch that ends short is closed up by
/// [`finish`](BatchBuilder::finish). The number of rows is bounded by the stride, and memory is only taken for
/// batches that are begun.
pub(super) struct BatchBuilder {
    batch: Batch,
    stride: usize,
}

impl BatchBuilder {
    /// Starts a batch of up to `stride` rows in the buffers of `batch`, whatever it held before.
    pub(super) fn new(mut batch: Batch, stride: usize, n_dense: usize, n_features: usize) -> Self {
        batch.rows = 0;
        batch.n_dense = n_dense;
        batch.n_features = n_features;
        batch.labels.clear();
        batch.labels.reserve_exact(stride);
        batch.dense.clear();
        batch.dense.reserve_exact(stride * n_dense);
        batch.keys.clear();
        batch.keys.resize(stride * n_features, 0);
        BatchBuilder { batch, stride }
    }

    /// Adds a row, which the caller has checked to fit: `!self.is_full()`, and as wide as announced.
    pub(super) fn push(&mut self, label: f32, dense: &[f32], keys: &[u64]) {
        let batch = &mut self.batch;
        debug_assert!(batch.rows < self.stride, "push to a full batch");
        debug_assert_eq!(dense.len(), batch.n_dense);
        batch.labels.push(label);
        batch.dense.extend_from_slice(dense);
        let columns = batch.keys.chunks_exact_mut(self.stride);
        for (column, &key) in columns.zip(keys) {
            column[batch.rows] = key;
        }
        batch.rows += 1;
    }

    pub(super) fn is_full(&self) -> bool {
        self.batch.rows == self.stride
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batch.rows == 0
    }

    /// The batch, with its keys closed up to its true number of rows.
    pub(super) fn finish(mut self) -> Batch {
        let (rows, stride) = (self.batch.rows, self.stride);
        if rows < stride {
            for t in 1..self.batch.n_features {
                self.batch.keys.copy_within(t * stride..t * stride + rows, t * rows);
            }
            self.batch.keys.truncate(rows * self.batch.n_features);
        }
        self.batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(rows: usize, stride: usize) -> Batch {
        let mut builder = BatchBuilder::new(Batch::default(), stride, 2, 3);
        for r in 0..rows {
            let base = r as u64 * 10;
            builder.push((r % 2) as f32, &[r as f32, -1.0], &[base, base + 1, base + 2]);
        }
        assert_eq!(builder.is_full(), rows == stride);
        builder.finish()
    }

    #[test]
    fn keys_are_feature_major_and_dense_is_row_major() {
        for (rows, stride) in [(4, 4), (3, 4), (1, 7), (0, 2)] {
            let batch = built(rows, stride);
            assert_eq!((batch.len(), batch.is_empty()), (rows, rows == 0));
            assert_eq!((batch.labels.len(), batch.dense.len(), batch.keys.len()), (rows, rows * 2, rows * 3));
            for t in 0..3 {
                let want: Vec<u64> = (0..rows as u64).map(|r| r * 10 + t as u64).collect();
                assert_eq!(batch.feature_keys(t), want);
            }
            for r in 0..rows {
                assert_eq!(batch.dense_row(r), [r as f32, -1.0]);
            }
        }
    }

    #[test]
    fn a_used_batch_is_overwritten_whatever_its_shape_was() {
        let old = built(4, 4);
        let mut builder = BatchBuilder::new(old, 2, 1, 1);
        builder.push(1.0, &[0.5], &[7]);
        let batch = builder.finish();
        assert_eq!((batch.rows, batch.n_dense, batch.n_features), (1, 1, 1));
        assert_eq!((batch.labels, batch.dense, batch.keys), (vec![1.0], vec![0.5], vec![7]));
    }

    #[test]
    fn bytes_count_capacity() {
        let batch = built(3, 4);
        assert!(batch.bytes() >= (4 * 4 + 8 * 4 + 9 * 8) as u64);
    }
}
