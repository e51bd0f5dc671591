//! Progress on standard error: a bar on a terminal, a line for each window on request, nothing otherwise.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::dlrm::run::Window;
use crate::report::{human_bytes, human_count};

/// How often the bar's clock moves between windows.
const TICK: Duration = Duration::from_millis(200);

/// Shows the windows of one run.
pub(crate) struct Progress {
    bar: ProgressBar,
    verbose: bool,
}

impl Progress {
    /// `label` names the run, `rows` are those to train on, where known.
    pub(crate) fn new(label: &str, rows: Option<u64>, verbose: bool) -> Progress {
        if !io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(rows, ProgressDrawTarget::hidden());
            return Progress { bar, verbose };
        }
        let bar = match rows {
            Some(rows) => ProgressBar::new(rows),
            None => ProgressBar::new_spinner(),
        };
        let template = match rows {
            Some(_) => "{prefix:>9} {bar:12} {percent:>3} %  {human_pos} rows  {wide_msg}",
            None => "{prefix:>9} {spinner} [{elapsed}]  {human_pos} rows  {wide_msg}",
        };
        // The templates are fixed; a library that refused them would leave its own style.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(label.to_owned());
        bar.enable_steady_tick(TICK);
        Progress { bar, verbose }
    }

    /// Shows one more window.
    pub(crate) fn window(&self, window: &Window) {
        let figure = |value: Option<f64>| value.map_or("–".to_owned(), |v| format!("{v:.4}"));
        let rate = human_count(window.samples_per_s.round() as u64);
        let held = human_bytes(window.held);
        let budget = human_bytes(window.budget);
        self.bar.set_position(window.rows_seen);
        self.bar.set_message(format!("{rate}/s  AUC {}  {held} of {budget}", figure(window.progressive.auc)));
        if !self.verbose {
            return;
        }
        let line = format!(
            "rows {:>10}  AUC {}  log-loss {}  so far {} {}  held {held} of {budget}  {rate}/s",
            human_count(window.rows_seen),
            figure(window.auc),
            figure(window.logloss),
            figure(window.progressive.auc),
            figure(window.progressive.logloss),
        );
        if self.bar.is_hidden() {
            // Progress is a courtesy: a closed standard error does not end a training run.
            let _ = writeln!(io::stderr(), "{line}");
        } else {
            self.bar.println(line);
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
