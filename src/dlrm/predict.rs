//! Scoring with a serving file: the dense part and mapped tables, no store.

use super::dense::{DenseInput, DenseNet};
use super::{DlrmConfig, TrainError};
use crate::data::Batch;
use crate::serving::Tables;

/// The name in a snapshot manifest's `extra` under which a trainer leaves its [`DlrmConfig`] as
/// JSON. The model's parameters are the sections `dense/` and [`Parameter::name`](super::Parameter::name).
pub const MODEL: &str = "model";

/// A trained model whose embeddings are in a serving file.
pub struct Predictor {
    net: DenseNet,
    config: DlrmConfig,
    /// `[n_features, rows, dim]`.
    embeddings: Vec<f32>,
}

impl Predictor {
    /// The model that a serving file holds.
    ///
    /// # Errors
    ///
    /// [`TrainError::Serving`] if the file holds none or its parts do not fit; [`TrainError::Threads`].
    pub fn new(tables: &Tables, threads: usize) -> Result<Predictor, TrainError> {
        let path = tables.path().display();
        let fail = |what: String| Err(TrainError::Serving(format!("{path}: {what}")));
        let Some(model) = tables.manifest().extra.get(MODEL) else {
            return fail("it holds embeddings only, no dense model: export a checkpoint that `train` wrote".to_owned());
        };
        let config: DlrmConfig = match serde_json::from_str(model) {
            Ok(config) => DlrmConfig { threads, ..config },
            Err(error) => return fail(format!("its model is not legal: {error}")),
        };
        let dims = (0..tables.len()).all(|table| tables.table_at(table).dim() == config.dim);
        if tables.len() != config.n_features || !dims {
            let (found, expected, dim) = (tables.len(), config.n_features, config.dim);
            return fail(format!("it has {found} tables, and its model needs {expected} of dimension {dim}"));
        }
        let mut net = DenseNet::new(&config)?;
        let mut values = Vec::new();
        for parameter in net.parameters() {
            let name = format!("dense/{}", parameter.name);
            match tables.dense().find(|(found, ..)| *found == name) {
                Some((.., found)) if found.len() == parameter.values.len() => values.extend_from_slice(found),
                Some((_, shape, _)) => return fail(format!("`{name}` is of shape {shape:?}, and not as its model is")),
                None => return fail(format!("it has no `{name}`")),
            }
        }
        net.set_parameters(&values)?;
        Ok(Predictor { net, config, embeddings: Vec::new() })
    }

    /// The model's shape.
    #[must_use]
    pub fn config(&self) -> &DlrmConfig {
        &self.config
    }

    /// Scores a batch: `logits` becomes one value per row. `tables` are those that it was made of, or others of the same
    /// model.
    ///
    /// # Errors
    ///
    /// [`TrainError::Batch`] if the batch is not of the model's shape; [`TrainError::Serving`] if the file is damaged.
    pub fn score(&mut self, tables: &Tables, batch: &Batch, logits: &mut Vec<f32>) -> Result<(), TrainError> {
        let DlrmConfig { n_features, dim, .. } = self.config;
        super::expect_len("keys", batch.keys.len(), batch.rows * n_features)?;
        super::expect_len("tables", tables.len(), n_features)?;
        self.embeddings.resize(n_features * batch.rows * dim, 0.0);
        let (net, values) = (&self.net, batch.rows * dim);
        net.workers().try_pieces(&mut self.embeddings, values, |feature, out| {
            let gathered = tables.table_at(feature).gather(batch.feature_keys(feature), out);
            gathered.map_err(|error| TrainError::Serving(error.to_string()))
        })?;
        let input = DenseInput { rows: batch.rows, dense: &batch.dense, embeddings: &self.embeddings };
        let workers = self.net.workers().clone();
        workers.run(|| self.net.forward(&input, logits))
    }
}
