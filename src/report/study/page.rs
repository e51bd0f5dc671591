//! The page of a comparison: charts and tables in one file without scripts or links.

use std::fmt::Write;

use super::Comparison;
use super::text::{Shown, figures};
use crate::report::chart::{self, Across, Axes, Line};
use crate::report::curves::table_color;
use crate::report::html::{begin, escape};
use crate::report::human_bytes;
use crate::study::figures::{Estimate, Figure, Table};
use crate::study::record::{Done, Point};

/// A method's points.
type Curve = (String, Vec<(f64, f64)>);

pub(super) fn page(comparison: &Comparison, tables: &[Shown]) -> String {
    let mut html = String::new();
    begin(&mut html, "dimslab comparison");
    let _ = writeln!(
        html,
        "<h1>dimslab comparison</h1><p class=\"note\">Means over seeds. {}</p><div class=\"grid\">",
        escape(&comparison.settings.to_string())
    );
    let page = Page { comparison, table: Table::new(&comparison.records), middle: middle(&comparison.ratios) };
    page.against_bytes(&mut html);
    page.over_rows(&mut html);
    page.over_occurrences(&mut html);
    html.push_str("</div>\n<div class=\"grid\">\n");
    for table in tables {
        tabulate(&mut html, comparison, table);
    }
    html.push_str("</div>\n</body></html>\n");
    html
}

/// The ratio that charts of one ratio are of.
fn middle(ratios: &[f64]) -> f64 {
    ratios
        .iter()
        .copied()
        .min_by(|a, b| (a.ln() - 10f64.ln()).abs().total_cmp(&(b.ln() - 10f64.ln()).abs()))
        .unwrap_or(1.0)
}

struct Page<'c> {
    comparison: &'c Comparison,
    table: Table<'c>,
    middle: f64,
}

impl Page<'_> {
    fn ratio_of(&self, method: &str) -> f64 {
        if method == "full" { 1.0 } else { self.middle }
    }

    /// One curve for each method, by what it is at each ratio.
    fn by_ratio(&self, reading: &dyn Fn(&str, f64) -> Option<Estimate>) -> Vec<Curve> {
        let ratios = || self.comparison.ratios.iter().rev();
        let bytes =
            |method: &str, ratio| self.table.mean(method, ratio, |done| Some(done.budget as f64).filter(|b| *b > 0.0));
        let curve = |method: &String| {
            let points = ratios().filter_map(|&ratio| {
                if method == "full" {
                    // A level line: where the others' budgets are.
                    let across = self.comparison.methods.iter().find_map(|other| bytes(other, ratio))?;
                    return Some((across.mean.log2(), reading("full", 1.0)?.mean));
                }
                Some((bytes(method, ratio)?.mean.log2(), reading(method, ratio)?.mean))
            });
            (method.clone(), points.collect())
        };
        self.comparison.methods.iter().map(curve).collect()
    }

    fn against_bytes(&self, html: &mut String) {
        let (auc, ne, of) = figures(self.comparison);
        let mean = |figure: Figure| move |method: &str, ratio| self.table.mean(method, ratio, figure);
        let bytes = |log: f64| human_bytes(log.exp2() as u64);
        let label = "budget: all bytes, weights, optimizer state and metadata";
        let charts: [(String, &str, Vec<Curve>); 3] = [
            (format!("AUC against total bytes ({of})"), "AUC", self.by_ratio(&mean(auc))),
            (format!("Normalised entropy against total bytes ({of})"), "NE", self.by_ratio(&mean(ne))),
            (
                "AUC lost to full size, in units of what hashing loses".to_owned(),
                "excess loss",
                self.by_ratio(&|method, ratio| self.table.excess_loss(method, ratio, auc)),
            ),
        ];
        for (title, y_label, curves) in charts {
            draw(html, &title, y_label, label, &bytes, curves);
        }
    }

    /// Mean over seeds of a figure of each window, at the middle ratio.
    fn by_window(&self, reading: &dyn Fn(&Done, &Point, usize) -> Option<f64>) -> Vec<Curve> {
        let curve = |method: &String| {
            let trials: Vec<&Done> = self.table.trials(method, self.ratio_of(method)).map(|(_, done)| done).collect();
            let windows = trials.iter().map(|done| done.windows.len()).min().unwrap_or(0);
            let point = |at: usize| {
                let values: Vec<f64> = trials.iter().filter_map(|done| reading(done, &done.windows[at], at)).collect();
                Some((trials.first()?.windows[at].rows as f64, Estimate::of(&values)?.mean))
            };
            (method.clone(), (0..windows).filter_map(point).collect())
        };
        self.comparison.methods.iter().map(curve).collect()
    }

    fn over_rows(&self, html: &mut String) {
        let rows = |rows: f64| format!("{:.0}k", rows / 1000.0);
        let ratio = self.middle;
        let ne = self.by_window(&|_, point, _| point.metrics.ne);
        let full: Vec<f64> = ne
            .iter()
            .find(|(method, _)| method == "full")
            .map(|(_, points)| points.iter().map(|point| point.1).collect())
            .unwrap_or_default();
        let against_full = ne.iter().map(|(method, points)| {
            let points = points.iter().zip(&full).map(|(&(rows, ne), full)| (rows, 100.0 * (ne / full - 1.0)));
            (method.clone(), points.collect())
        });
        let label = "training rows";
        draw(
            html,
            &format!("Windowed NE against full size's at {ratio}x"),
            "NE regression (%)",
            label,
            &rows,
            against_full.collect(),
        );
        draw(html, &format!("Windowed NE at {ratio}x"), "NE", label, &rows, ne);
        let held = self.by_window(&|done, point, _| Some(point.held as f64 / done.budget as f64));
        draw(html, &format!("Bytes held over the budget at {ratio}x"), "held / budget", label, &rows, held);
    }

    fn over_occurrences(&self, html: &mut String) {
        let curve = |method: &String| {
            let trials: Vec<&Done> = self.table.trials(method, self.ratio_of(method)).map(|(_, done)| done).collect();
            let bands = trials.iter().map(|done| done.bands.len()).min().unwrap_or(0);
            let point = |band: usize| {
                let dims: Vec<f64> = trials.iter().map(|done| done.bands[band].dims).collect();
                Some((band as f64, Estimate::of(&dims)?.mean))
            };
            (method.clone(), (0..bands).filter_map(point).collect())
        };
        let curves = self.comparison.methods.iter().map(curve).collect();
        let occurrences = |log: f64| format!("{:.0}", log.exp2());
        let title = format!("Own dimensions by how often ids occur, at {}x", self.middle);
        draw(html, &title, "mean own dimensions", "occurrences in the training rows", &occurrences, curves);
    }
}

fn draw(
    html: &mut String,
    title: &str,
    y_label: &str,
    x_label: &str,
    text: &dyn Fn(f64) -> String,
    curves: Vec<Curve>,
) {
    let _ = write!(html, "<section><h2>{}</h2><div class=\"keys\">", escape(title));
    let points = || curves.iter().flat_map(|curve| &curve.1);
    let y = chart::range_around(points().map(|point| point.1));
    let (low, high) = points().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), p| (l.min(p.0), h.max(p.0)));
    let range = if low < high { low..high } else { 0.0..1.0 };
    let mut lines = Vec::new();
    for (i, (method, points)) in curves.iter().enumerate().filter(|(_, (_, points))| !points.is_empty()) {
        let color = table_color(i);
        let last = points.last().map_or(0.0, |point| point.1);
        let (r, g, b) = color;
        let _ = write!(
            html,
            "<span><i style=\"background:#{r:02x}{g:02x}{b:02x}\"></i>{} <b>{last:.4}</b></span>",
            escape(method)
        );
        lines.push(Line { color, points: points.clone(), filled: false, dots: true });
    }
    html.push_str("</div>");
    let across = Across { label: x_label, range, text };
    match chart::draw_over(&lines, &Axes { y_label, y, x_max: 0.0 }, &across) {
        Some(svg) => {
            let labelled = format!("<svg role=\"img\" aria-label=\"{}\" ", escape(title));
            html.push_str(&svg.replacen("<svg ", &labelled, 1));
        }
        None => html.push_str("<p>This chart could not be drawn.</p>"),
    }
    html.push_str("</section>\n");
}

fn tabulate(html: &mut String, comparison: &Comparison, table: &Shown) {
    let _ = write!(html, "<section><h2>{}</h2><div class=\"scroll\"><table><tr><th>method</th>", escape(&table.title));
    for ratio in &comparison.ratios {
        let _ = write!(html, "<th>{ratio}x</th>");
    }
    html.push_str("</tr>\n");
    for (method, cells) in &table.rows {
        let _ = write!(html, "<tr><td>{}</td>", escape(method));
        for cell in cells {
            let _ = write!(html, "<td>{}</td>", escape(cell));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table></div></section>\n");
}
