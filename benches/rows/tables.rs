//! The tables of the documentation.

use crate::Outcome;
use crate::results::{Record, Results, median, ratio, spread};
use crate::stores::{CEILING, kinds};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

const BEGIN: &str = "<!-- rows: begin -->\n";
const END: &str = "<!-- rows: end -->\n";

/// What a table's columns are, in order.
const COLUMNS: [&str; 7] = [
    "gather, Zipf",
    "gather, uniform",
    "pooled, Zipf",
    "pooled, uniform",
    "gather + update, Zipf",
    "gather + update, uniform",
    "insert",
];

/// Writes the tables between the markers in `document`.
pub(crate) fn write(results: &Results, document: &Path) -> Outcome<()> {
    let text = std::fs::read_to_string(document)?;
    let (before, rest) = text.split_once(BEGIN).ok_or("the document has no marker where tables begin")?;
    let (_, after) = rest.split_once(END).ok_or("the document has no marker where tables end")?;
    let mut tables = format!("\nMachine: {}.\n", results.machine);
    summary(results, &mut tables)?;
    throughput(results, &mut tables)?;
    fill(results, &mut tables)?;
    latency(results, &mut tables)?;
    scaling(results, &mut tables)?;
    tables.push('\n');
    Ok(std::fs::write(document, format!("{before}{BEGIN}{tables}{END}{after}"))?)
}

fn of<'r>(results: &'r Results, part: &str) -> Vec<&'r Record> {
    results.records.iter().filter(|record| record.part == part).collect()
}

/// Distinct values of a field, in order.
fn each<T: Ord>(records: &[&Record], field: impl Fn(&Record) -> T) -> BTreeSet<T> {
    records.iter().map(|record| field(record)).collect()
}

fn stores_of(records: &[&Record]) -> Vec<String> {
    let measured = each(records, |record| record.store.clone());
    kinds().into_iter().map(|(name, _)| name).filter(|name| measured.contains(name)).collect()
}

fn is_map(store: &str) -> bool {
    store.contains("->")
}

/// dimslab against the flat array and against the map that is best at it.
fn summary(results: &Results, out: &mut String) -> Outcome<()> {
    let (throughput, fill) = (of(results, "throughput"), of(results, "fill"));
    let all: Vec<&Record> = throughput.iter().chain(&fill).copied().collect();
    if all.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n### dimslab against the flat array, and against the best map\n")?;
    writeln!(out, "Ratios of throughput: to the flat array on huge pages with prefetch / to the best map at this.\n")?;
    let columns: Vec<&str> = COLUMNS.iter().copied().chain(["fill"]).collect();
    writeln!(out, "| dim | rows | threads | {} |", columns.join(" | "))?;
    writeln!(out, "|---|---|---|{}", "---|".repeat(columns.len()))?;
    for (dim, rows, threads) in each(&all, |record| (record.dim, record.rows, record.threads)) {
        let here: Vec<&&Record> =
            all.iter().filter(|of| (of.rows, of.dim, of.threads) == (rows, dim, threads)).collect();
        if !here.iter().any(|record| is_map(&record.store)) {
            continue;
        }
        write!(out, "| {dim} | {rows} | {threads} |")?;
        for what in &columns {
            let here = || here.iter().filter(|record| record.what == *what);
            let Some(dimslab) = here().find(|record| record.store == "dimslab") else {
                write!(out, " |")?;
                continue;
            };
            let against = here().filter(|record| is_map(&record.store));
            let best = against.map(|map| ratio(&map.dimslab, &map.values)).reduce(f64::min);
            let best = best.map_or("-".to_owned(), |best| format!("{best:.2}"));
            write!(out, " {:.2} / {best} |", ratio(&dimslab.values, &dimslab.ceiling))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn throughput(results: &Results, out: &mut String) -> Outcome<()> {
    let all = of(results, "throughput");
    for (dim, rows, threads) in each(&all, |record| (record.dim, record.rows, record.threads)) {
        let here: Vec<&Record> =
            all.iter().filter(|of| (of.rows, of.dim, of.threads) == (rows, dim, threads)).copied().collect();
        writeln!(out, "\n### {rows} rows of dim {dim}, threads: {threads}\n")?;
        writeln!(out, "| | {} |\n|---|{}", COLUMNS.join(" | "), "---|".repeat(COLUMNS.len()))?;
        for store in stores_of(&here) {
            write!(out, "| {store} |")?;
            for what in COLUMNS {
                let Some(record) = here.iter().find(|record| record.store == store && record.what == what) else {
                    write!(out, " |")?;
                    continue;
                };
                let values = &record.values;
                let (rate, spread, part) = (median(values), spread(values), ratio(values, &record.ceiling));
                write!(out, " {rate:.1} ±{spread:.0} % ({part:.2}) |")?;
            }
            writeln!(out)?;
        }
    }
    Ok(())
}

fn fill(results: &Results, out: &mut String) -> Outcome<()> {
    let all = of(results, "fill");
    if all.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n### Fill from nothing, page faults included, million rows a second\n")?;
    let conditions = each(&all, |record| (record.rows, record.dim, record.threads));
    let head = conditions.iter().map(|(rows, dim, threads)| format!("{rows} of dim {dim}, threads: {threads}"));
    writeln!(out, "| | {} |", head.collect::<Vec<_>>().join(" | "))?;
    writeln!(out, "|---|{}", "---|".repeat(conditions.len()))?;
    for store in stores_of(&all) {
        write!(out, "| {store} |")?;
        for condition in &conditions {
            let mut here = all.iter().filter(|of| (of.rows, of.dim, of.threads) == *condition && of.store == store);
            match here.next() {
                Some(record) => {
                    write!(out, " {:.2} ±{:.0} % |", median(&record.values), spread(&record.values))?;
                }
                None => write!(out, " |")?,
            }
        }
        writeln!(out)?;
    }
    Ok(())
}

fn latency(results: &Results, out: &mut String) -> Outcome<()> {
    let all = of(results, "latency");
    for (rows, dim) in each(&all, |record| (record.rows, record.dim)) {
        let here: Vec<&Record> = all.iter().filter(|of| (of.rows, of.dim) == (rows, dim)).copied().collect();
        writeln!(out, "\n### One insert at a time, from nothing to {rows} rows of dim {dim}, microseconds\n")?;
        writeln!(out, "| | p50 | p99.9 | p99.99 | max | max of processor time | of these above 1 ms |")?;
        writeln!(out, "|---|---|---|---|---|---|---|")?;
        for store in stores_of(&here) {
            write!(out, "| {store} |")?;
            let values = |what: &str| {
                let found = here.iter().find(|record| record.store == store && record.what == what);
                found.map_or(&[][..], |record| &record.values)
            };
            for what in ["p50", "p99.9", "p99.99"] {
                write!(out, " {:.2} |", median(values(what)) / 1e3)?;
            }
            // The longest of all repetitions: a bound is a bound.
            let most = |what| values(what).iter().copied().fold(0f64, f64::max);
            let over = values("above 1 ms, processor").iter().sum::<f64>() + 0.0;
            writeln!(out, " {:.0} | {:.0} | {over:.0} |", most("max") / 1e3, most("max, processor") / 1e3)?;
        }
    }
    Ok(())
}

fn scaling(results: &Results, out: &mut String) -> Outcome<()> {
    let (gathers, rounds) = (of(results, "scaling"), of(results, "round"));
    if gathers.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n### More rows\n")?;
    writeln!(out, "| dim | rows | flat array, ns a row | dimslab, ns a row | ratio | round, ms | round, ns a chunk |")?;
    writeln!(out, "|---|---|---|---|---|---|---|")?;
    for (dim, rows) in each(&gathers, |record| (record.dim, record.rows)) {
        let here = |of: &&&Record| (of.dim, of.rows) == (dim, rows);
        let cell = |values: &[f64]| format!("{:.1} ±{:.0} %", median(values), spread(values));
        let Some(record) = gathers.iter().filter(here).find(|record| record.store != CEILING) else { continue };
        write!(out, "| {dim} | {rows} | {} | {} |", cell(&record.ceiling), cell(&record.values))?;
        write!(out, " {:.2} |", ratio(&record.values, &record.ceiling))?;
        for what in ["round, ms", "round, ns a chunk"] {
            let found = rounds.iter().filter(here).find(|record| record.what == what);
            write!(out, " {} |", found.map_or("-".to_owned(), |record| cell(&record.values)))?;
        }
        writeln!(out)?;
    }
    Ok(())
}
