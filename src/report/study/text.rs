//! Tables of a comparison, as Markdown and as CSV.

use std::fmt::Write;

use super::Comparison;
use crate::study::figures::{Estimate, Figure, HELD_OUT_AUC, HELD_OUT_NE, PROGRESSIVE_AUC, PROGRESSIVE_NE, Table};

/// A table: methods down, ratios across.
#[derive(Debug, PartialEq)]
pub(super) struct Shown {
    pub(super) title: String,
    /// A method and its cells.
    pub(super) rows: Vec<(String, Vec<String>)>,
}

/// Whether anything was held out; else figures are progressive.
fn is_held_out(comparison: &Comparison) -> bool {
    comparison.records.iter().filter_map(|record| record.done()).any(|done| done.test_rows > 0)
}

/// AUC and NE of the rows that the comparison is about, and what those rows are called.
pub(super) fn figures(comparison: &Comparison) -> (Figure, Figure, &'static str) {
    if is_held_out(comparison) {
        (HELD_OUT_AUC, HELD_OUT_NE, "held-out")
    } else {
        (PROGRESSIVE_AUC, PROGRESSIVE_NE, "progressive")
    }
}

/// All tables.
pub(super) fn tables(comparison: &Comparison) -> Vec<Shown> {
    let table = Table::new(&comparison.records);
    let (auc, ne, of) = figures(comparison);
    let full = ("full", 1.0);
    let times = |by: f64| move |e: Estimate| Estimate { mean: e.mean * by, half: e.half.map(|half| half * by), n: e.n };
    let show = |title: &str, reading: &dyn Fn(&str, f64) -> Option<String>| shown(comparison, title, reading);
    let mut tables = vec![
        show(&format!("AUC ({of})"), &|method, ratio| Some(plain(&table.mean(method, ratio, auc)?, 5))),
        show(&format!("AUC less full size ({of}, paired, x 10^-4)"), &|method, ratio| {
            table.difference((method, ratio), full, auc).map(times(1e4)).map(|e| signed(&e, 2))
        }),
        show(&format!("NE regression against full size ({of}, paired, %)"), &|method, ratio| {
            Some(signed(&table.regression((method, ratio), full, ne)?, 3))
        }),
        show("NE regression against full size (progressive, paired, %)", &|method, ratio| {
            Some(signed(&table.regression((method, ratio), full, PROGRESSIVE_NE)?, 3))
        }),
        show(&format!("AUC lost to full size, in units of what hashing loses ({of})"), &|method, ratio| {
            Some(signed(&table.excess_loss(method, ratio, auc)?, 3))
        }),
    ];
    if let Some(ours) = comparison.methods.iter().find(|name| name.starts_with("dimslab")) {
        let starred =
            |e: Estimate, decimals| format!("{}{}", signed(&e, decimals), if e.excludes_zero() { " *" } else { "" });
        let title =
            format!("AUC of {ours} less the method's ({of}, paired, x 10^-4; * where the interval excludes zero)");
        tables.push(show(&title, &|method, ratio| {
            let other = if method == "full" { full } else { (method, ratio) };
            Some(starred(times(1e4)(table.difference((ours, ratio), other, auc)?), 2)).filter(|_| method != ours)
        }));
        let title =
            format!("Progressive NE of {ours} against the method's (paired, %; * where the interval excludes zero)");
        tables.push(show(&title, &|method, ratio| {
            let other = if method == "full" { full } else { (method, ratio) };
            Some(starred(table.regression((ours, ratio), other, PROGRESSIVE_NE)?, 3)).filter(|_| method != ours)
        }));
    }
    tables.extend([
        show("Planted needs met (0.5 is chance)", &|method, ratio| {
            Some(plain(&table.mean(method, ratio, |done| done.needs_met)?, 4))
        }),
        show("Peak bytes over budget, the most of all seeds", &|method, ratio| {
            let shares = table.trials(method, ratio).map(|(_, done)| done.peak as f64 / done.budget as f64);
            shares.max_by(f64::total_cmp).map(|share| format!("{share:.4}"))
        }),
        show(
            "Peak bytes over steady ones (median of training's second half), the most of all seeds",
            &|method, ratio| {
                let shares = table.trials(method, ratio);
                let shares = shares.filter_map(|(_, done)| Some(done.peak as f64 / done.steady()?.max(1) as f64));
                shares.max_by(f64::total_cmp).map(|share| format!("{share:.4}"))
            },
        ),
        show("Training rows per second", &|method, ratio| {
            Some(format!("{:.0}", table.mean(method, ratio, |done| Some(done.samples_per_s))?.mean))
        }),
    ]);
    tables.retain(|table| !table.rows.is_empty());
    tables
}

/// Nothing is shown of methods that the reading does not fit.
fn shown(comparison: &Comparison, title: &str, reading: &dyn Fn(&str, f64) -> Option<String>) -> Shown {
    let mut rows = Vec::new();
    for method in &comparison.methods {
        let cells: Vec<Option<String>> = comparison
            .ratios
            .iter()
            // Full size has one trial whatever the ratio, but another method's difference to it has one for each.
            .map(|&ratio| reading(method, ratio).or_else(|| reading(method, 1.0).filter(|_| method == "full")))
            .collect();
        if cells.iter().any(Option::is_some) {
            rows.push((method.clone(), cells.into_iter().map(|cell| cell.unwrap_or_else(|| "–".to_owned())).collect()));
        }
    }
    Shown { title: title.to_owned(), rows }
}

pub(super) fn markdown(comparison: &Comparison, tables: &[Shown]) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    for table in tables {
        let _ = write!(text, "## {}\n\n| method |", table.title);
        comparison.ratios.iter().for_each(|ratio| {
            let _ = write!(text, " {ratio}x |");
        });
        let _ = writeln!(text, "\n|---|{}", "---|".repeat(comparison.ratios.len()));
        for (method, cells) in &table.rows {
            let _ = writeln!(text, "| {method} | {} |", cells.join(" | "));
        }
        text.push('\n');
    }
    text
}

fn plain(e: &Estimate, decimals: usize) -> String {
    let half = e.half.map_or(String::new(), |half| format!(" ± {half:.decimals$}"));
    format!("{:.decimals$}{half}", e.mean)
}

fn signed(e: &Estimate, decimals: usize) -> String {
    let half = e.half.map_or(String::new(), |half| format!(" ± {half:.decimals$}"));
    format!("{:+.decimals$}{half}", e.mean)
}

/// One line for each trial.
pub(super) fn csv(comparison: &Comparison) -> String {
    let mut text = "method,ratio,seed,budget,held,peak,full_bytes,auc,logloss,ne,progressive_auc,progressive_logloss,\
                    progressive_ne,rows_per_s,outcome\n"
        .to_owned();
    for record in &comparison.records {
        let cell = &record.cell;
        let _ = write!(text, "{},{},{},", cell.method, cell.ratio, cell.seed);
        let Some(done) = record.done() else {
            text.push_str(",,,,,,,,,,,impossible\n");
            continue;
        };
        let _ = write!(text, "{},{},{},{}", done.budget, done.held, done.peak, done.full_bytes);
        for metrics in [done.heldout, done.progressive] {
            for value in [metrics.auc, metrics.logloss, metrics.ne] {
                let _ = write!(text, ",{}", value.map_or(String::new(), |value| value.to_string()));
            }
        }
        let _ = writeln!(text, ",{:.0},done", done.samples_per_s);
    }
    text
}
