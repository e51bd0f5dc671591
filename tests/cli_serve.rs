//! From a checkpoint to a served model, by the command: inspect, verify, export, predict, compact.
#![cfg(feature = "cli")]

mod cli_support;

use std::collections::BTreeMap;
use std::path::Path;

use cli_support::{criteo_lines, dimslab, input_error, output, text};
use dimslab::data::{CriteoReader, Loader};
use dimslab::dlrm::loss::sigmoid;
use dimslab::dlrm::metrics::auc;
use dimslab::dlrm::{DenseOptimizer, Dlrm, DlrmConfig, MODEL};
use dimslab::snapshot::{Data, Directory, Manifest, RowBlock, RowRef, Section, SnapshotError, Source};
use dimslab::{Store, StoreConfig, TableConfig, TableId};

const DIM: usize = 8;

/// A trained model as a snapshot, from what the public interface shows.
struct Trained {
    store: Store,
    config: StoreConfig,
    model: Dlrm,
    shape: DlrmConfig,
    tables: Vec<TableConfig>,
    next: usize,
    since: Option<u64>,
}

impl Source for Trained {
    fn manifest(&self) -> Manifest {
        let extra = BTreeMap::from([(MODEL.to_owned(), serde_json::to_string(&self.shape).unwrap())]);
        let (store, tables) = (self.config.clone(), self.tables.clone());
        Manifest { step: 10 + self.since.unwrap_or(0), since: self.since, store, tables, extra }
    }

    fn next(&mut self, block: &mut RowBlock) -> Result<bool, SnapshotError> {
        let Some(table) = self.tables.get(self.next) else {
            return Ok(false);
        };
        block.clear();
        block.table = self.next;
        for row in self.store.iter(TableId::new(self.next)).unwrap() {
            let chunk = table.chunk_dims();
            let ordinals: Vec<u8> = row.live.iter().map(|&ordinal| ordinal as u8).collect();
            let weights: Vec<f32> =
                row.live.iter().flat_map(|at| row.values[at * chunk..(at + 1) * chunk].iter().copied()).collect();
            let (utilities, state) = (vec![0.5; ordinals.len()], vec![0.25; weights.len()]);
            let (key, row_state) = (row.key, &[][..]);
            block.push(RowRef {
                key,
                ordinals: &ordinals,
                utilities: &utilities,
                weights: &weights,
                state: &state,
                row_state,
            });
        }
        self.next += 1;
        Ok(true)
    }

    fn sections(&mut self) -> Result<Vec<Section>, SnapshotError> {
        let parameters = self.model.dense().parameters();
        Ok(parameters
            .into_iter()
            .map(|parameter| Section {
                name: format!("dense/{}", parameter.name),
                shape: vec![parameter.rows, parameter.columns],
                data: Data::F32(parameter.values.to_vec()),
            })
            .collect())
    }
}

/// Trains on a file of clicks.
fn train(data: &Path) -> Trained {
    let config = StoreConfig::new(3 << 20).seed(3).deterministic(true);
    let tables: Vec<TableConfig> = (1..=26).map(|i| TableConfig::new(format!("C{i}"), DIM)).collect();
    let store = Store::new(config.clone(), tables.clone()).unwrap();
    let shape = DlrmConfig {
        n_dense: 13,
        n_features: 26,
        dim: DIM,
        bottom: vec![16],
        top: vec![32],
        dense_optimizer: DenseOptimizer::Adagrad { lr: 0.01, eps: 1e-8, initial_accumulator: 0.0 },
        seed: 1,
        threads: 1,
    };
    let mut model = Dlrm::new(shape.clone()).unwrap();
    let mut loader = Loader::spawn(Box::new(CriteoReader::open(&[data]).unwrap()), 256, 0).unwrap();
    assert_eq!(loader.schema().categorical, tables.iter().map(|table| table.name().to_owned()).collect::<Vec<_>>());
    let mut logits = Vec::new();
    while let Some(batch) = loader.next().unwrap() {
        model.train_step(&store, &batch, &mut logits).unwrap();
        loader.recycle(batch);
    }
    Trained { store, config, model, shape, tables, next: 0, since: None }
}

/// Probabilities and labels as the trainer itself scores the file.
fn scores(trained: &mut Trained, data: &Path) -> (Vec<f32>, Vec<f32>) {
    let mut loader = Loader::spawn(Box::new(CriteoReader::open(&[data]).unwrap()), 256, 0).unwrap();
    let (mut all, mut labels, mut logits) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(batch) = loader.next().unwrap() {
        trained.model.forward(&trained.store, &batch, &mut logits).unwrap();
        all.extend(logits.iter().map(|logit| sigmoid(*logit) as f32));
        labels.extend_from_slice(&batch.labels);
        loader.recycle(batch);
    }
    (all, labels)
}

fn run(args: &[&str]) -> String {
    let (out, errors) = output(&mut dimslab(args.iter().copied()));
    assert_eq!(errors, "", "{args:?}");
    out
}

#[test]
fn a_checkpoint_is_inspected_verified_exported_and_scored_with() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("clicks.txt");
    std::fs::write(&data, criteo_lines(20_000, 5).join("\n") + "\n").unwrap();
    let mut trained = train(&data);
    let (expected, labels) = scores(&mut trained, &data);
    let checkpoint = folder.path().join("checkpoint");
    let directory = Directory::create(&checkpoint).unwrap();
    directory.save(&mut trained).unwrap();

    let shown = run(&["inspect", text(&checkpoint)]);
    let rows: u64 = trained.store.stats().tables.iter().map(|table| table.rows).sum();
    assert!(
        shown.contains("step-000000000010") && shown.contains("dense/top.0.weight") && shown.contains("C26"),
        "{shown}"
    );
    assert!(rows > 1000 && run(&["verify", text(folder.path())]).contains("is whole"));

    let exact = auc(&expected, &labels).unwrap();
    for (dtype, most) in [("f32", 2e-6), ("f16", 1e-3), ("bf16", 1e-2), ("int8", 1e-2)] {
        let (file, out) = (folder.path().join("model.serve"), folder.path().join("scores.txt"));
        run(&["export", text(folder.path()), "--serve", text(&file), "--dtype", dtype]);
        assert!(run(&["verify", text(&file)]).contains("is whole"));
        assert!(run(&["inspect", text(&file)]).contains("of step 10"));
        let said =
            run(&["predict", "--model", text(&file), "--data", text(&data), "--out", text(&out), "--threads", "1"]);
        assert!(said.starts_with("20000 rows, AUC "), "{said}");
        let found: Vec<f32> =
            std::fs::read_to_string(&out).unwrap().lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(found.len(), expected.len());
        let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(worst <= most, "{dtype}: {worst}");
        let change = (auc(&found, &labels).unwrap() - exact).abs();
        assert!(change <= 5e-4, "{dtype}: AUC changes by {change}");
    }

    // An increment with everything in it, and a compaction.
    (trained.since, trained.next) = (Some(10), 0);
    directory.save(&mut trained).unwrap();
    assert!(run(&["verify", text(&checkpoint)]).contains("in 2 parts"));
    assert!(run(&["compact", text(folder.path())]).contains("step-000000000020.1"));
    assert!(run(&["compact", text(&checkpoint)]).contains("one part already"));
    assert!(run(&["verify", text(&checkpoint)]).contains("in 1 parts"));

    // Standard output.
    let file = folder.path().join("model.serve");
    let lines = run(&["predict", "--model", text(&file), "--data", text(&data), "--threads", "2"]);
    assert_eq!(lines.lines().count(), 20_000);
}

/// The AUC that `predict` tells.
fn auc_told(said: &str) -> f64 {
    said.split("AUC ").nth(1).and_then(|rest| rest.split(',').next()).unwrap().parse().unwrap()
}

#[test]
fn what_train_saves_is_served_and_scores_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (data, held_out) = (folder.path().join("clicks.txt"), folder.path().join("held_out.txt"));
    let lines = criteo_lines(24_000, 5);
    std::fs::write(&data, lines.join("\n") + "\n").unwrap();
    std::fs::write(&held_out, lines[20_000..].join("\n") + "\n").unwrap();
    let (run_dir, file) = (folder.path().join("run"), folder.path().join("model.serve"));
    // Deterministic: on a thread of its own a round may come between the last snapshot and the scoring of what is held out.
    let budget = ["--policy", "fiited", "--budget", "2MiB", "--deterministic"];
    let settings = [&["--data", text(&data), "--holdout", "4000"][..], &budget].concat();
    let saved = ["--checkpoint-every", "30", "--out", text(&run_dir)];
    cli_support::train(&[&settings[..], &saved].concat()).assert().success();
    assert!(run(&["verify", text(&run_dir)]).contains("is whole"));
    assert!(run(&["inspect", text(&run_dir)]).contains("dense/top.0.weight"));
    let reported = cli_support::report(&run_dir)["auc"].as_f64().unwrap();
    assert!(reported > 0.6, "{reported}");
    let scores = text(&folder.path().join("scores.txt")).to_owned();
    for (dtype, most) in [("f32", 1e-4), ("int8", 5e-4 + 1e-4)] {
        run(&["export", text(&run_dir), "--serve", text(&file), "--dtype", dtype, "--force"]);
        let args = ["--model", text(&file), "--data", text(&held_out), "--out", &scores];
        let said = run(&[&["predict"][..], &args].concat());
        // Both are told to four places.
        assert!((auc_told(&said) - reported).abs() <= most, "{dtype}: {said}, and the run's own is {reported}");
    }
}

#[test]
fn what_cannot_be_done_is_told_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let (none, foreign) = (folder.path().join("none"), folder.path().join("thesis.tex"));
    std::fs::write(&foreign, "words").unwrap();
    let none = text(&none);
    for (args, expected) in [
        (vec!["verify", none], "cannot open"),
        (vec!["verify", text(folder.path())], "no snapshot is here"),
        (vec!["verify", text(&foreign)], "is no serving file"),
        (vec!["inspect", text(&foreign)], "is no serving file"),
        (vec!["compact", text(folder.path())], "no LATEST"),
        (vec!["export", none, "--serve", text(&foreign)], "--force"),
        (vec!["export", none, "--serve", "x.serve"], "cannot open"),
        (vec!["predict", "--model", none, "--data", none], "cannot open"),
    ] {
        let error = input_error(&mut dimslab(args.iter().copied()));
        assert!(error.contains(expected), "{args:?}: {error}");
    }
    assert_eq!(std::fs::read_to_string(&foreign).unwrap(), "words");
}
