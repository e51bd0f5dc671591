//! The training run through the public API: windows, the held-out tail, the stop flag, errors.
#![cfg(feature = "train")]

use std::sync::atomic::{AtomicBool, Ordering};

use dimslab::data::{DataError, Loader, Row, RowSource, Schema};
use dimslab::dlrm::metrics::Metrics;
use dimslab::dlrm::run::{RunConfig, RunError, RunFailure, RunReport, Window, run};
use dimslab::dlrm::{DenseOptimizer, Dlrm, DlrmConfig};
use dimslab::{Policy, Store, StoreConfig, TableConfig};

/// Rows whose label follows their first key, and an error after `rows` where `fails` says so.
struct Rows {
    schema: Schema,
    rows: u64,
    given: u64,
    fails: bool,
}

impl RowSource for Rows {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn next_row(&mut self, row: &mut Row) -> Result<bool, DataError> {
        if self.given == self.rows {
            return if self.fails { Err(DataError::NoInput) } else { Ok(false) };
        }
        let i = self.given;
        row.label = f32::from(u8::from(i % 10 < 3));
        row.dense = vec![(i % 7) as f32];
        row.keys = vec![i % 10, i % 13];
        self.given += 1;
        Ok(true)
    }

    fn skipped(&self) -> u64 {
        5
    }
}

struct Setup {
    model: Dlrm,
    store: Store,
    loader: Loader,
}

fn setup(rows: u64, fails: bool, holdout: usize) -> Setup {
    let schema = Schema { dense: vec!["d".to_owned()], categorical: vec!["a".to_owned(), "b".to_owned()] };
    let tables = schema.categorical.iter().map(|name| TableConfig::new(name, 4)).collect();
    let config = StoreConfig::new(64 << 20).policy(Policy::None);
    let model = DlrmConfig {
        n_dense: 1,
        n_features: 2,
        dim: 4,
        bottom: vec![4],
        top: vec![4],
        dense_optimizer: DenseOptimizer::Sgd { lr: 0.1 },
        seed: 1,
        threads: 1,
    };
    let source = Rows { schema, rows, given: 0, fails };
    Setup {
        model: Dlrm::new(model).unwrap(),
        store: Store::new(config, tables).unwrap(),
        loader: Loader::spawn(Box::new(source), 100, holdout).unwrap(),
    }
}

impl Setup {
    fn run(&mut self, stop_at: u64) -> (Result<RunReport, RunFailure>, Vec<Window>) {
        let stop = AtomicBool::new(false);
        let mut windows = Vec::new();
        let config = RunConfig { window_rows: 250, ..RunConfig::default() };
        let mut on_window = |window: &Window| {
            windows.push(window.clone());
            if window.rows_seen >= stop_at {
                stop.store(true, Ordering::Relaxed);
            }
        };
        let Setup { model, store, loader } = self;
        (run(model, store, loader, &config, &stop, &mut on_window), windows)
    }
}

#[test]
fn windows_cover_every_row_and_the_tail_is_only_scored() {
    let (report, windows) = setup(4050, false, 150).run(u64::MAX);
    let report = report.unwrap();
    assert_eq!((report.rows, report.holdout_rows, report.skipped_lines), (3900, 150, 5));
    // Batches of 100 rows close a window of 250 at 300.
    assert_eq!(windows.iter().map(|w| w.rows).collect::<Vec<_>>(), [300; 13]);
    assert_eq!((report.windows, windows[12].rows_seen), (13, 3900));
    assert!(!report.interrupted);
    assert_eq!(windows[12].progressive, report.progressive);
    let mean = windows.iter().map(|w| w.logloss.unwrap()).sum::<f64>() / 13.0;
    assert!((mean - report.progressive.logloss.unwrap()).abs() < 1e-12);
    assert!(report.heldout.auc.unwrap() > 0.9, "{:?}", report.heldout);
    assert!(windows[0].logloss > windows[12].logloss);
    assert_eq!(report.store.rows, 23);
    assert!((report.ctr.unwrap() - 0.3).abs() < 1e-12);
    assert!(report.buffer_bytes > 0 && report.samples_per_s > 0.0);
}

#[test]
fn a_set_flag_ends_the_run_before_the_next_batch() {
    let (report, windows) = setup(100_000, false, 150).run(600);
    let report = report.unwrap();
    assert!(report.interrupted);
    assert_eq!((report.rows, windows.len()), (600, 2));
    assert_eq!((report.holdout_rows, report.heldout), (0, Metrics::default()));
}

#[test]
fn an_error_comes_with_the_report_so_far() {
    let (report, windows) = setup(1234, true, 0).run(u64::MAX);
    let failure = report.unwrap_err();
    assert!(matches!(failure.error, RunError::Data(DataError::NoInput)), "{failure}");
    assert_eq!(failure.so_far.rows, 1200);
    assert_eq!(windows.last().map(|w| w.rows_seen), Some(1200));
    assert!(!failure.so_far.interrupted);
}
