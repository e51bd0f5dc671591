//! Tables of a comparison, as Markdown and as CSV.

use std::fmt::Write;

use super::Comparison;
use crate::study::figures::{
    Estimate, Figure, HELD_OUT_AUC, HELD_OUT_NE, PROGRESSIVE_AUC, PROGRESSIVE_NE, Table,
};

/// One number of a cell, by a method and a ratio.
pub(super) type Reading<'t> = &'t dyn Fn(&str, f64) -> Option<Estimate>;

/// Whether anything was held out; else figures are progressive.
pub(super) fn is_held_out(comparison: &Comparison) -> bool {
    comparison.records.iter().filter_map(|record| record.done()).any(|done| done.test_rows > 0)
}

/// AUC and NE of the rows that the comparison is about.
pub(super) fn figures(comparison: &Comparison) -> (Figure, Figure) {
    if is_held_out(comparison) { (HELD_OUT_AUC, HELD_OUT_NE) } else { (PROGRESSIVE_AUC, PROGRESSIVE_NE) }
}

pub(super) fn markdown(comparison: &Comparison) -> String {
    let table = Table::new(&comparison.records);
    let (auc, ne) = figures(comparison);
    let of = if is_held_out(comparison) { "held-out" } else { "progressive" };
    let full = ("full", 1.0);
    let mut text = String::new();
    let ours = comparison.methods.iter().find(|name| name.starts_with("dimslab")).map(String::as_str);
    section(&mut text, comparison, &format!("AUC, {of}"), &|method, ratio| table.mean(method, ratio, auc), |e| {
        plain(e, 5)
    });
    section(
        &mut text,
        comparison,
        "AUC less full size, x 10^-4 (paired)",
        &|method, ratio| scaled(table.difference((method, ratio), full, auc), 1e4),
        |e| signed(e, 2),
    );
    section(
        &mut text,
        comparison,
        &format!("NE regression against full size, % ({of}, paired)"),
        &|method, ratio| table.regression((method, ratio), full, ne),
        |e| signed(e, 3),
    );
    section(
        &mut text,
        comparison,
        "NE regression against full size, % (progressive, paired)",
        &|method, ratio| table.regression((method, ratio), full, PROGRESSIVE_NE),
        |e| signed(e, 3),
    );
    section(
        &mut text,
        comparison,
        "Excess loss of AUC in units of hashing's",
        &|method, ratio| table.excess_loss(method, ratio, auc),
        |e| signed(e, 3),
    );
    if let Some(ours) = ours {
        section(
            &mut text,
            comparison,
            &format!("AUC of {ours} less the method's, x 10^-4 (paired; * where the interval excludes zero)"),
            &|method, ratio| scaled(table.difference((ours, ratio), (method, ratio), auc), 1e4),
            |e| format!("{}{}", signed(e, 2), if e.excludes_zero() { " *" } else { "" }),
        );
    }
    section(
        &mut text,
        comparison,
        "Peak bytes over budget",
        &|method, ratio| table.mean(method, ratio, |done| Some(done.peak as f64 / done.budget as f64)),
        |e| format!("{:.4}", e.mean),
    );
    section(
        &mut text,
        comparison,
        "Training rows per second",
        &|method, ratio| table.mean(method, ratio, |done| Some(done.samples_per_s)),
        |e| format!("{:.0}", e.mean),
    );
    text
}

/// A table of one reading: methods down, ratios across. Nothing for methods that the reading does not fit.
fn section(
    text: &mut String,
    comparison: &Comparison,
    title: &str,
    reading: Reading<'_>,
    show: impl Fn(&Estimate) -> String,
) {
    let _ = write!(text, "## {title}\n\n| method |");
    comparison.ratios.iter().for_each(|ratio| {
        let _ = write!(text, " {ratio}x |");
    });
    let _ = writeln!(text, "\n|---|{}", "---|".repeat(comparison.ratios.len()));
    for method in &comparison.methods {
        // Full size has one figure, whatever the ratio.
        let ratios: &[f64] = if method == "full" { &[1.0] } else { &comparison.ratios };
        let cells: Vec<Option<Estimate>> = ratios.iter().map(|&ratio| reading(method, ratio)).collect();
        if cells.iter().all(Option::is_none) {
            continue;
        }
        let _ = write!(text, "| {method} |");
        for cell in cells {
            let _ = write!(text, " {} |", cell.map_or("–".to_owned(), |estimate| show(&estimate)));
        }
        text.push('\n');
    }
    text.push('\n');
}

fn scaled(estimate: Option<Estimate>, by: f64) -> Option<Estimate> {
    estimate.map(|e| Estimate { mean: e.mean * by, half: e.half.map(|half| half * by), n: e.n })
}

fn plain(e: &Estimate, decimals: usize) -> String {
    match e.half {
        Some(half) => format!("{:.decimals$} ± {half:.decimals$}", e.mean),
        None => format!("{:.decimals$}", e.mean),
    }
}

fn signed(e: &Estimate, decimals: usize) -> String {
    match e.half {
        Some(half) => format!("{:+.decimals$} ± {half:.decimals$}", e.mean),
        None => format!("{:+.decimals$}", e.mean),
    }
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
                let _ = match value {
                    Some(value) => write!(text, ",{value}"),
                    None => write!(text, ","),
                };
            }
        }
        let _ = writeln!(text, ",{:.0},done", done.samples_per_s);
    }
    text
}
