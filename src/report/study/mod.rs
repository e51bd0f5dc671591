//! The report of a comparison: tables for people and machines, and a page with charts.

mod page;
mod text;

use std::path::Path;

use crate::study::StudyError;
use crate::study::record::{Record, write_whole};

/// A grid's records and what it was asked for.
#[derive(Debug)]
pub(crate) struct Comparison {
    /// In the order of the command line.
    pub(crate) methods: Vec<String>,
    pub(crate) ratios: Vec<f64>,
    pub(crate) settings: serde_json::Value,
    pub(crate) records: Vec<Record>,
}

/// Writes `tables.md`, `figures.csv` and `report.html` to `dir` and returns the tables as text.
///
/// # Errors
/// [`StudyError::File`].
pub(crate) fn write(dir: &Path, comparison: &Comparison) -> Result<String, StudyError> {
    let tables = text::tables(comparison);
    let markdown = text::markdown(comparison, &tables);
    write_whole(&dir.join("tables.md"), &markdown)?;
    write_whole(&dir.join("figures.csv"), &text::csv(comparison))?;
    write_whole(&dir.join("report.html"), &page::page(comparison, &tables))?;
    Ok(markdown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::record::tests::record;
    use crate::study::record::{Cell, Outcome};

    fn comparison() -> Comparison {
        let mut records = Vec::new();
        for (seed, full) in [(1, 0.80), (2, 0.79), (3, 0.81)] {
            records.push(record("full", 1.0, seed, full, 0.80));
            records.push(record("hash", 10.0, seed, full - 0.010, 0.84));
            records.push(record("dimslab+<b>", 10.0, seed, full - 0.001, 0.81));
            let cell = Cell { method: "hash".to_owned(), ratio: 20.0, seed };
            records.push(Record { cell, outcome: Outcome::Impossible("too small".to_owned()) });
        }
        for record in records.iter_mut().filter(|record| record.cell.method == "hash") {
            if let Outcome::Done(done) = &mut record.outcome {
                done.windows.iter_mut().for_each(|point| point.held = done.peak * 4 / 5);
            }
        }
        let methods = ["full", "hash", "dimslab+<b>"].map(str::to_owned).to_vec();
        Comparison { methods, ratios: vec![10.0, 20.0], settings: serde_json::json!({"data": "x"}), records }
    }

    #[test]
    fn tables_say_what_records_say() {
        let comparison = comparison();
        let text = text::markdown(&comparison, &text::tables(&comparison));
        for line in [
            "| method | 10x | 20x |",
            "| hash | -100.00 ± 0.00 | – |",
            "| hash | +5.000 ± 0.000 | – |",
            "| dimslab+<b> | +0.100 ± 0.000 | – |",
            "| hash | +90.00 ± 0.00 * | – |",
            "| full | -10.00 ± 0.00 * | – |",
            "| hash | 1.2500 | – |",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        let csv = text::csv(&comparison);
        assert_eq!(csv.lines().count(), 1 + 12);
        let columns = csv.lines().next().unwrap().split(',').count();
        assert!(csv.lines().all(|line| line.split(',').count() == columns), "{csv}");
    }

    #[test]
    fn the_page_is_self_contained_and_escapes_names() {
        let comparison = comparison();
        let page = page::page(&comparison, &text::tables(&comparison));
        assert_eq!(page.matches("role=\"img\"").count(), 7);
        assert!(page.contains("dimslab+&lt;b&gt;"));
        for foreign in ["<script", "<link", "@import", "src=", "href=", "url(", "NaN", "<b>\""] {
            assert!(!page.contains(foreign), "{foreign} in the page");
        }
        let none = Comparison { records: Vec::new(), ..comparison };
        assert!(page::page(&none, &text::tables(&none)).ends_with("</html>\n"));
    }
}
