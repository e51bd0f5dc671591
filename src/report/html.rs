//! The page `report.html`: summary, curves, tables and configuration in one file without scripts or links.

use std::fmt::Write;

use crate::dlrm::run::Window;
use crate::report::chart;
use crate::report::curves;
use crate::report::{Report, TableReport, human_bytes, human_count};

/// By this a page is known as a run's own.
pub(super) const MARK: &str = "<meta name=\"generator\" content=\"dimslab\">";

const STYLE: &str = "
:root{color-scheme:light dark;--fg:#1d2228;--dim:#5c6670;--bg:#fff;--card:#f5f7f9;--axis:#7b858f;--grid:#e1e5e9}
@media (prefers-color-scheme:dark){:root{--fg:#e4e8ec;--dim:#9aa5b0;--bg:#14181c;--card:#1e242a;--axis:#7b858f;--grid:#323a42}}
*{box-sizing:border-box}
body{margin:0 auto;padding:24px;max-width:1320px;background:var(--bg);color:var(--fg);font:15px/1.45 system-ui,sans-serif}
h1{font-size:22px;margin:0 0 4px}h2{font-size:16px;margin:0 0 6px}.note{color:var(--dim);margin:0 0 18px}
.warn{border-left:4px solid #d1495b;padding:8px 12px;background:var(--card)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(170px,1fr));gap:12px;margin-bottom:18px}
.cards div,section{background:var(--card);border-radius:8px;padding:12px 14px}
.cards b{display:block;font-size:20px;font-weight:600}.cards span,.cards small{color:var(--dim);font-size:13px}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,520px),1fr));gap:16px;margin-bottom:16px}
section{min-width:0;margin:0;display:flex;flex-direction:column}.scroll{overflow-x:auto}
svg{display:block;width:100%;height:auto;margin-top:auto}svg text{font-family:system-ui,sans-serif}
.keys{display:flex;flex-wrap:wrap;gap:2px 14px;font-size:13px;color:var(--dim);margin-bottom:4px}
.keys i{display:inline-block;width:14px;height:4px;border-radius:2px;margin-right:5px;vertical-align:middle}.keys b{color:var(--fg);font-weight:600}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums;width:100%}
td,th{text-align:right;padding:3px 10px;border-bottom:1px solid var(--grid);white-space:nowrap}
td:first-child,th:first-child{text-align:left}th{color:var(--dim);font-weight:600}
.config td{text-align:left;white-space:normal;overflow-wrap:anywhere}";

/// The page up to its body.
pub(super) fn begin(html: &mut String, title: &str) {
    // Writing to a String cannot fail.
    let _ = write!(
        html,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">{MARK}\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>{title}</title>\
         <style>{STYLE}\nsvg [fill=\"{text}\"]{{fill:var(--fg)}}svg [stroke=\"{axis}\"]{{stroke:var(--axis)}}\
         svg [stroke=\"{grid}\"]{{stroke:var(--grid)}}</style></head><body>\n",
        text = chart::TEXT,
        axis = chart::AXIS,
        grid = chart::GRID,
    );
}

/// The whole page.
pub(super) fn page(report: &Report, windows: &[Window]) -> String {
    let mut html = String::new();
    // Writing to a String cannot fail.
    begin(&mut html, "dimslab run");
    header(&mut html, report);
    cards(&mut html, report);
    html.push_str("<div class=\"grid\">\n");
    curves::sections(&mut html, report, windows);
    html.push_str("</div>\n<div class=\"grid\">\n");
    tables(&mut html, &report.tables);
    config(&mut html, report);
    html.push_str("</div>\n</body></html>\n");
    html
}

fn header(html: &mut String, report: &Report) {
    let text = |key: &str| report.config[key].as_str().unwrap_or("?").to_owned();
    let _ = writeln!(
        html,
        "<h1>dimslab run</h1><p class=\"note\">policy {}, budget {}, {} training rows, {} held out, seed {}, \
         {} threads, {:.1} s · {}</p>",
        escape(&text("policy")),
        human_bytes(report.bytes.budget),
        human_count(report.rows),
        human_count(report.holdout_rows),
        report.seed,
        report.threads,
        report.wall_s,
        escape(&report.program),
    );
    if let Some(error) = &report.error {
        let _ = writeln!(html, "<p class=\"warn\">Ended early by an error: {}</p>", escape(error));
    } else if report.interrupted {
        html.push_str("<p class=\"warn\">Interrupted: this is the report up to there.</p>\n");
    }
}

/// One figure with a line below it.
fn card(html: &mut String, name: &str, value: &str, below: &str) {
    let _ = writeln!(html, "<div><span>{name}</span><b>{value}</b><small>{}</small></div>", escape(below));
}

fn cards(html: &mut String, report: &Report) {
    let (held, running) = (report.heldout(), report.progressive);
    html.push_str("<div class=\"cards\">\n");
    for (name, held, running) in [
        ("AUC", held.auc, running.auc),
        ("Log-loss (nats)", held.logloss, running.logloss),
        ("Normalised entropy", held.ne, running.ne),
    ] {
        match held {
            Some(_) => card(html, name, &figure(held), &format!("held-out; progressive {}", figure(running))),
            None => card(html, name, &figure(running), "progressive"),
        }
    }
    let bytes = &report.bytes;
    let share = 100.0 * bytes.peak as f64 / bytes.budget.max(1) as f64;
    card(
        html,
        "Bytes held",
        &human_bytes(bytes.held),
        &format!("peak {}, {share:.1} % of the budget", human_bytes(bytes.peak)),
    );
    card(html, "Live rows", &human_count(report.rows_live), &format!("{} chunks", human_count(report.chunks_live)));
    card(
        html,
        "Samples per second",
        &human_count(report.samples_per_s.round() as u64),
        &format!("{} threads", report.threads),
    );
    html.push_str("</div>\n");
}

fn tables(html: &mut String, tables: &[TableReport]) {
    html.push_str(
        "<section><h2>Tables at the end</h2><div class=\"scroll\"><table><tr><th>table</th><th>rows</th>\
         <th>mean dims</th><th>admitted</th><th>grown</th><th>shrunk</th><th>evicted</th><th>refused</th></tr>\n",
    );
    for table in tables {
        let moves = &table.events;
        let _ = write!(
            html,
            "<tr><td>{}</td><td>{}</td><td>{:.2} of {}</td>",
            escape(&table.name),
            human_count(table.rows),
            table.mean_dims,
            table.dim,
        );
        for count in [moves.admitted, moves.grown, moves.shrunk, moves.evicted, moves.refused] {
            let _ = write!(html, "<td>{}</td>", human_count(count));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table></div></section>\n");
}

fn config(html: &mut String, report: &Report) {
    html.push_str("<section class=\"config\"><h2>Configuration</h2><table>\n");
    for (key, value) in report.config.as_object().into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let _ = writeln!(html, "<tr><td>{}</td><td>{}</td></tr>", escape(key), escape(&value));
    }
    html.push_str("</table></section>\n");
}

fn figure(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.4}"))
}

/// `text` as HTML text or attribute.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            _ => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::Events;
    use crate::dlrm::metrics::Metrics;

    pub(crate) fn window() -> Window {
        Window {
            rows_seen: 1000,
            rows: 1000,
            auc: Some(0.7),
            logloss: Some(0.5),
            ne: None,
            progressive: Metrics { auc: Some(0.69), logloss: Some(0.51), ne: None },
            budget: 2000,
            held: 1500,
            peak: 1600,
            rows_live: 10,
            chunks_live: 20,
            live_dims: vec![8.0],
            events: Events { admitted: 10, grown: 10, ..Events::default() },
            samples_per_s: 1.0,
        }
    }

    pub(crate) fn report() -> Report {
        let json = serde_json::json!({
            "program": "dimslab 0.0.0", "rows": 1000, "holdout_rows": 0, "auc": null, "reachable_auc": null, "logloss": null, "ne": null,
            "progressive": {"auc": 0.69, "logloss": 0.51, "ne": null}, "ctr": 0.2, "samples_per_s": 1.0,
            "wall_s": 1.0, "seed": 7, "threads": 1,
            "bytes": {"budget": 2000, "peak": 1600, "held": 1500, "resident": 0, "allocated": 0, "active": 0,
                "retained": 0, "free": 0, "retired": 0, "weights": 0, "optimizer": 0, "metadata": 0, "sketch": 0},
            "rows_live": 10, "chunks_live": 20, "dims_histogram": {"8": 10},
            "events": {"admitted": 10, "grown": 10, "shrunk": 0, "evicted": 0, "refused": 0, "missed": 0},
            "interrupted": false, "error": "<b>no</b>", "skipped_lines": 0, "windows": 1,
            "process": {"resident_before": null, "resident_peak": 1, "resident_now": 1, "model_bytes": 1,
                "buffer_bytes": 1},
            "tables": [{"name": "<script>", "dim": 16, "chunk": 4, "rows": 10, "chunks": 20, "mean_dims": 8.0,
                "dims_histogram": {"8": 10},
                "events": {"admitted": 10, "grown": 10, "shrunk": 0, "evicted": 0, "refused": 0, "missed": 0}}],
            "config": {"policy": "fiited"}, "varies": [],
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_page_is_self_contained_and_escapes_names() {
        for windows in [vec![], vec![window()], vec![window(); 1000]] {
            let page = page(&report(), &windows);
            assert!(page.contains(MARK) && page.contains("&lt;script&gt;"));
            assert!(page.contains("&lt;b&gt;no&lt;/b&gt;"));
            for foreign in ["<script", "<link", "@import", "src=", "href=", "url(", "NaN"] {
                assert!(!page.contains(foreign), "{foreign} in the page");
            }
            let charts = page.matches("role=\"img\"").count();
            assert_eq!(charts, if windows.is_empty() { 0 } else { 6 });
        }
    }
}
