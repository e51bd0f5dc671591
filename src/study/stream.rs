//! A stream in memory: read or generated once, then trained on by every method in the same batches.
//!
//! Keys are replaced by numbers counted from 0 in the order of first appearance, one count for each feature, as the
//! literature's preprocessing does. So a flat table needs no map from keys to rows: a gift to every method but the
//! store's own, which hashes keys anyway.

use std::collections::HashMap;

use crate::data::{DataError, Row, RowSource};

/// Labels, dense values and ids of all rows, laid out batch by batch.
pub(crate) struct Stream {
    /// Names of the categorical columns.
    pub(crate) features: Vec<String>,
    /// Dense columns.
    pub(crate) n_dense: usize,
    /// Rows that are trained on; those behind them are the held-out tail.
    pub(crate) train_rows: usize,
    labels: Vec<f32>,
    dense: Vec<f32>,
    /// Of each batch `[n_features, rows of the batch]`.
    ids: Vec<u32>,
    batch: usize,
    /// How often each id occurs in the training rows, by feature. Ids beyond the end occur in the held-out tail alone.
    counts: Vec<Vec<u32>>,
    /// Each id's key, by feature.
    keys: Vec<Vec<u64>>,
    /// Whether each training id needs all dimensions or none, by feature; empty where that is not known.
    needs: Vec<Vec<Option<bool>>>,
}

/// Consecutive rows of a stream.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'s> {
    /// How many.
    pub(crate) rows: usize,
    /// `[rows]`.
    pub(crate) labels: &'s [f32],
    /// `[rows, n_dense]`.
    pub(crate) dense: &'s [f32],
    /// `[n_features, rows]`.
    pub(crate) ids: &'s [u32],
}

impl<'s> Rows<'s> {
    /// One feature's ids.
    pub(crate) fn feature(&self, feature: usize) -> &'s [u32] {
        &self.ids[feature * self.rows..(feature + 1) * self.rows]
    }
}

/// A feature's ids by key.
#[derive(Default)]
struct Numbering {
    ids: HashMap<u64, u32>,
    keys: Vec<u64>,
}

impl Numbering {
    fn id(&mut self, key: u64) -> u32 {
        let next = self.keys.len() as u32;
        let keys = &mut self.keys;
        *self.ids.entry(key).or_insert_with(|| {
            keys.push(key);
            next
        })
    }
}

impl Stream {
    /// Reads `source` to its end or `most` rows; the last `test_rows` rows are the held-out tail. Batches have `batch` rows; the last of
    /// the training rows and of the tail may have fewer.
    ///
    /// # Errors
    /// Those of the source.
    pub(crate) fn read(
        source: &mut dyn RowSource,
        most: u64,
        test_rows: usize,
        batch: usize,
    ) -> Result<Stream, DataError> {
        let features = source.schema().categorical.clone();
        let (n_dense, n) = (source.schema().dense.len(), features.len());
        let mut numberings: Vec<Numbering> = (0..n).map(|_| Numbering::default()).collect();
        let (mut labels, mut dense, mut row_major) = (Vec::new(), Vec::new(), Vec::new());
        let mut row = Row::default();
        while (labels.len() as u64) < most && source.next_row(&mut row)? {
            labels.push(row.label);
            dense.extend_from_slice(&row.dense);
            row_major.extend(numberings.iter_mut().zip(&row.keys).map(|(numbering, &key)| numbering.id(key)));
        }
        let train_rows = labels.len().saturating_sub(test_rows);
        let mut counts: Vec<Vec<u32>> = vec![Vec::new(); n];
        for ids in row_major.chunks_exact(n.max(1)).take(train_rows) {
            for (counts, &id) in counts.iter_mut().zip(ids) {
                // Numbers are given in order, so a new one is one more than the last.
                counts.resize(counts.len().max(id as usize + 1), 0);
                counts[id as usize] += 1;
            }
        }
        let keys = numberings.into_iter().map(|numbering| numbering.keys).collect();
        let batch = batch.max(1);
        let mut stream = Stream {
            features,
            n_dense,
            train_rows,
            labels,
            dense,
            ids: Vec::new(),
            batch,
            counts,
            keys,
            needs: Vec::new(),
        };
        stream.ids = stream.batch_major(&row_major);
        Ok(stream)
    }

    fn batch_major(&self, row_major: &[u32]) -> Vec<u32> {
        let n = self.features.len();
        let mut ids = Vec::with_capacity(row_major.len());
        for (first, rows) in self.cuts(0, self.train_rows).chain(self.cuts(self.train_rows, self.labels.len())) {
            for feature in 0..n {
                ids.extend((first..first + rows).map(|row| row_major[row * n + feature]));
            }
        }
        ids
    }

    fn cuts(&self, from: usize, to: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let batch = self.batch;
        (from..to).step_by(batch).map(move |first| (first, batch.min(to - first)))
    }

    fn batches(&self, from: usize, to: usize) -> impl Iterator<Item = Rows<'_>> {
        let n = self.features.len();
        self.cuts(from, to).map(move |(first, rows)| Rows {
            rows,
            labels: &self.labels[first..first + rows],
            dense: &self.dense[first * self.n_dense..(first + rows) * self.n_dense],
            ids: &self.ids[first * n..(first + rows) * n],
        })
    }

    /// The training rows, in order.
    pub(crate) fn train(&self) -> impl Iterator<Item = Rows<'_>> {
        self.batches(0, self.train_rows)
    }

    /// The held-out tail, in order.
    pub(crate) fn test(&self) -> impl Iterator<Item = Rows<'_>> {
        self.batches(self.train_rows, self.labels.len())
    }

    /// Rows of the held-out tail.
    pub(crate) fn test_rows(&self) -> usize {
        self.labels.len() - self.train_rows
    }

    /// How often each id of a feature occurs in the training rows.
    pub(crate) fn counts(&self, feature: usize) -> &[u32] {
        &self.counts[feature]
    }

    /// Ids of each feature that occur in the training rows.
    pub(crate) fn sizes(&self) -> Vec<usize> {
        self.counts.iter().map(Vec::len).collect()
    }

    /// Notes which ids need all dimensions and which none, by feature and key.
    pub(crate) fn note_needs(&mut self, need: impl Fn(usize, u64) -> Option<bool>) {
        let need = &need;
        let of = |(feature, (keys, counts)): (usize, (&Vec<u64>, &Vec<u32>))| {
            keys.iter().take(counts.len()).map(|&key| need(feature, key)).collect()
        };
        self.needs = self.keys.iter().zip(&self.counts).enumerate().map(of).collect();
    }

    /// What [`note_needs`](Self::note_needs) noted of a feature's training ids; empty if it did not.
    pub(crate) fn needs(&self, feature: usize) -> &[Option<bool>] {
        self.needs.get(feature).map_or(&[], Vec::as_slice)
    }

    /// How often each id occurs in the first `rows` training rows, by feature.
    pub(crate) fn counts_until(&self, rows: usize) -> Vec<Vec<u32>> {
        let mut counts: Vec<Vec<u32>> = self.counts.iter().map(|counts| vec![0; counts.len()]).collect();
        let mut seen = 0;
        for batch in self.train().take_while(|batch| {
            seen += batch.rows;
            seen <= rows
        }) {
            for (feature, counts) in counts.iter_mut().enumerate() {
                batch.feature(feature).iter().for_each(|&id| counts[id as usize] += 1);
            }
        }
        counts
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::data::Schema;

    /// Rows given one by one: label, dense values, keys.
    pub(crate) struct Listed {
        schema: Schema,
        rows: std::vec::IntoIter<(f32, Vec<f32>, Vec<u64>)>,
    }

    impl Listed {
        pub(crate) fn new(rows: Vec<(f32, Vec<f32>, Vec<u64>)>) -> Listed {
            let names = |prefix: &str, count: usize| (0..count).map(|i| format!("{prefix}{i}")).collect();
            let (dense, keys) = rows.first().map_or((0, 0), |row| (row.1.len(), row.2.len()));
            let schema = Schema { dense: names("d", dense), categorical: names("c", keys) };
            Listed { schema, rows: rows.into_iter() }
        }
    }

    impl RowSource for Listed {
        fn schema(&self) -> &Schema {
            &self.schema
        }

        fn next_row(&mut self, row: &mut Row) -> Result<bool, DataError> {
            let Some((label, dense, keys)) = self.rows.next() else { return Ok(false) };
            *row = Row { label, dense, keys };
            Ok(true)
        }

        fn skipped(&self) -> u64 {
            0
        }
    }

    #[test]
    fn rows_come_back_in_batches_with_numbered_ids() {
        let rows = (0..9u64).map(|i| ((i % 2) as f32, vec![i as f32], vec![100 + i % 3, 7 * i])).collect();
        let stream = Stream::read(&mut Listed::new(rows), 7, 2, 2).unwrap();
        assert_eq!((stream.train_rows, stream.test_rows(), stream.n_dense), (5, 2, 1));
        let sizes: Vec<usize> = stream.train().map(|rows| rows.rows).collect();
        assert_eq!(sizes, [2, 2, 1]);
        let first: Vec<u32> = stream.train().flat_map(|rows| rows.feature(0).to_vec()).collect();
        assert_eq!(first, [0, 1, 2, 0, 1]);
        let last = stream.test().next().unwrap();
        assert_eq!((last.feature(0), last.feature(1), last.dense), (&[2, 0][..], &[5, 6][..], &[5.0, 6.0][..]));
        assert_eq!(stream.counts(0), [2, 2, 1]);
        // Ids of the tail alone are none of the training's.
        assert_eq!(stream.sizes(), [3, 5]);
        let mut stream = stream;
        assert!(stream.needs(0).is_empty());
        stream.note_needs(|feature, key| (feature == 0).then_some(key == 102));
        assert_eq!((stream.needs(0), stream.needs(1)), (&[Some(false), Some(false), Some(true)][..], &[None; 5][..]));
        assert_eq!(stream.counts_until(4), [vec![2, 1, 1], vec![1, 1, 1, 1, 0]]);
    }
}
