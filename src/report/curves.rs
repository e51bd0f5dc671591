//! The curves of a run's page: each a section with a title, a key and a chart.

use std::fmt::Write;

use crate::Events;
use crate::dlrm::run::Window;
use crate::report::chart::{self, Axes, Line, Rgb};
use crate::report::html::escape;
use crate::report::{Report, human_bytes, human_count};

/// Windows up to which the curves of many tables have dots.
const DIMS_DOTTED: usize = 3;

const BLUE: Rgb = (0x2F, 0x7D, 0xD1);
const ORANGE: Rgb = (0xE0, 0x7B, 0x22);
const GREEN: Rgb = (0x2E, 0x9E, 0x5B);
const RED: Rgb = (0xD1, 0x49, 0x5B);

/// Adds all curves.
pub(super) fn sections(html: &mut String, report: &Report, windows: &[Window]) {
    let Some(last) = windows.last() else {
        html.push_str("<section><h2>Curves</h2><p>No window was finished.</p></section>\n");
        return;
    };
    let x_max = last.rows_seen as f64;
    let full = windows.iter().map(|w| w.rows).max().unwrap_or(0);
    // A short last window is mostly noise; the figures over all rows include it.
    let whole: Vec<&Window> = windows.iter().filter(|w| windows.len() == 1 || w.rows * 4 >= full).collect();
    for (title, y_label, window, so_far) in [
        ("Log-loss", "log-loss (nats)", series(&whole, |w| w.logloss), series(&whole, |w| w.progressive.logloss)),
        ("AUC", "AUC", series(&whole, |w| w.auc), series(&whole, |w| w.progressive.auc)),
    ] {
        let y = chart::range_around(window.iter().chain(&so_far).map(|point| point.1));
        let keys = [
            (BLUE, "each window".to_owned(), last_value(&window, 4)),
            (ORANGE, "all rows so far".to_owned(), last_value(&so_far, 4)),
        ];
        let lines = [line(BLUE, window), line(ORANGE, so_far)];
        figure_section(html, title, &keys, &lines, &Axes { y_label, y, x_max });
    }
    bytes_curve(html, report, windows, x_max);
    dims_curve(html, report, windows, x_max);
    rows_curve(html, windows, x_max);
    moves_curve(html, windows, x_max);
}

fn bytes_curve(html: &mut String, report: &Report, windows: &[Window], x_max: f64) {
    let peak = report.bytes.peak as f64;
    let budget = report.bytes.budget as f64;
    // A budget far above what is held would flatten the curve.
    let budget_shown = budget <= 4.0 * peak;
    let top = if budget_shown { budget.max(peak) } else { peak };
    let (unit, scale) = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)]
        .into_iter()
        .find(|&(_, scale)| top >= scale as f64)
        .unwrap_or(("B", 1));
    let points = |value: fn(&Window) -> u64| -> Vec<(f64, f64)> {
        windows.iter().map(|w| (w.rows_seen as f64, value(w) as f64 / scale as f64)).collect()
    };
    let held = Line { color: BLUE, points: points(|w| w.held), filled: true, dots: true };
    let peaks = line(ORANGE, points(|w| w.peak));
    let mut keys = vec![
        (BLUE, "held".to_owned(), human_bytes(report.bytes.held)),
        (ORANGE, "peak".to_owned(), human_bytes(report.bytes.peak)),
    ];
    // The line of what is held lies above that of the peak, which it often follows.
    let mut lines = vec![peaks, held];
    if budget_shown {
        keys.push((RED, "budget".to_owned(), human_bytes(report.bytes.budget)));
        let height = budget / scale as f64;
        let points = vec![(0.0, height), (x_max, height)];
        lines.push(Line { color: RED, points, filled: false, dots: false });
    } else {
        keys.push((RED, "budget, above the chart".to_owned(), human_bytes(report.bytes.budget)));
    }
    let y_label = format!("bytes ({unit})");
    let y = 0.0..(top / scale as f64 * 1.1).max(1e-3);
    let axes = Axes { y_label: &y_label, y, x_max };
    figure_section(html, "Bytes held against the budget", &keys, &lines, &axes);
}

fn dims_curve(html: &mut String, report: &Report, windows: &[Window], x_max: f64) {
    let (mut keys, mut lines) = (Vec::new(), Vec::new());
    for (i, table) in report.tables.iter().enumerate() {
        let color = table_color(i);
        let points: Vec<(f64, f64)> =
            windows.iter().filter_map(|w| Some((w.rows_seen as f64, *w.live_dims.get(i)?))).collect();
        keys.push((color, table.name.clone(), last_value(&points, 1)));
        // Many lines with dots would hide each other.
        let dots = points.len() <= DIMS_DOTTED;
        lines.push(Line { color, points, filled: false, dots });
    }
    let dim = report.tables.iter().map(|table| table.dim).max().unwrap_or(1);
    let axes = Axes { y_label: "mean live dimensions of a row", y: 0.0..dim as f64 * 1.05, x_max };
    figure_section(html, "Live dimensions per table", &keys, &lines, &axes);
}

fn rows_curve(html: &mut String, windows: &[Window], x_max: f64) {
    let points: Vec<(f64, f64)> = windows.iter().map(|w| (w.rows_seen as f64, w.rows_live as f64 / 1000.0)).collect();
    let top = points.iter().map(|point| point.1).fold(0.0, f64::max);
    let live = windows.last().map_or(0, |w| w.rows_live);
    let keys = [(GREEN, "rows with at least one chunk".to_owned(), human_count(live))];
    let lines = [Line { color: GREEN, points, filled: true, dots: true }];
    let axes = Axes { y_label: "rows (thousands)", y: 0.0..(top * 1.1).max(0.01), x_max };
    figure_section(html, "Live rows", &keys, &lines, &axes);
}

/// Colour, name and count of a kind of move.
type Kind = (Rgb, &'static str, fn(&Events) -> u64);

/// Moves per row of each window. Refusals are wishes and no moves: the table of tables has them.
fn moves_curve(html: &mut String, windows: &[Window], x_max: f64) {
    let kinds: [Kind; 4] = [
        (GREEN, "admitted", |m| m.admitted),
        (BLUE, "grown", |m| m.grown),
        (ORANGE, "shrunk", |m| m.shrunk),
        (RED, "evicted", |m| m.evicted),
    ];
    let (mut keys, mut lines) = (Vec::new(), Vec::new());
    for (color, name, count) in kinds {
        let (mut rows, mut before) = (0, 0);
        let mut points = Vec::with_capacity(windows.len());
        for w in windows {
            let (moved, now) = (count(&w.events), w.rows_seen);
            let passed = now.saturating_sub(rows).max(1) as f64;
            points.push((now as f64, 1000.0 * moved.saturating_sub(before) as f64 / passed));
            (rows, before) = (now, moved);
        }
        keys.push((color, name.to_owned(), human_count(before)));
        lines.push(line(color, points));
    }
    // While the budget fills for the first time nearly everything grows: that would flatten all that follows.
    let filling = windows.len() / 4;
    let later = lines.iter().flat_map(|line| line.points.iter().skip(filling));
    let top = later.map(|point| point.1).fold(0.0, f64::max) * 1.1;
    let top = top.max(0.1);
    let beyond = lines.iter().flat_map(|line| &line.points).any(|point| point.1 > top);
    for point in lines.iter_mut().flat_map(|line| &mut line.points) {
        point.1 = point.1.min(top);
    }
    let title = if beyond { "Rows that move (the first fill goes beyond)" } else { "Rows that move" };
    let axes = Axes { y_label: "moves per 1,000 training rows", y: 0.0..top, x_max };
    figure_section(html, title, &keys, &lines, &axes);
}

/// A titled chart with its key above it.
fn figure_section(html: &mut String, title: &str, keys: &[(Rgb, String, String)], lines: &[Line], axes: &Axes<'_>) {
    let _ = write!(html, "<section><h2>{title}</h2><div class=\"keys\">");
    for ((r, g, b), name, value) in keys {
        let name = escape(name);
        let _ = write!(html, "<span><i style=\"background:#{r:02x}{g:02x}{b:02x}\"></i>{name} <b>{value}</b></span>");
    }
    html.push_str("</div>");
    match chart::draw(lines, axes) {
        Some(svg) => {
            let labelled = format!("<svg role=\"img\" aria-label=\"{title} over training rows\" ");
            html.push_str(&svg.replacen("<svg ", &labelled, 1));
        }
        None => html.push_str("<p>This chart could not be drawn.</p>"),
    }
    html.push_str("</section>\n");
}

/// The points of a figure that may be undefined in some windows.
fn series(windows: &[&Window], value: fn(&Window) -> Option<f64>) -> Vec<(f64, f64)> {
    windows.iter().filter_map(|w| Some((w.rows_seen as f64, value(w)?))).collect()
}

fn line(color: Rgb, points: Vec<(f64, f64)>) -> Line {
    Line { color, points, filled: false, dots: true }
}

fn last_value(points: &[(f64, f64)], decimals: usize) -> String {
    points.last().map_or_else(|| "–".to_owned(), |point| format!("{:.decimals$}", point.1))
}

/// A colour for the `i`-th table: hues a golden ratio apart, at a lightness that both grounds bear.
pub(super) fn table_color(i: usize) -> Rgb {
    let hue = (i as f64 * 0.618_033_988_75).fract() * 6.0;
    let (saturation, lightness) = (0.62, if i.is_multiple_of(2) { 0.50 } else { 0.58 });
    let chroma = (1.0 - (2.0 * lightness - 1.0f64).abs()) * saturation;
    let second = chroma * (1.0 - (hue % 2.0 - 1.0).abs());
    let (r, g, b) = match hue as u8 {
        0 => (chroma, second, 0.0),
        1 => (second, chroma, 0.0),
        2 => (0.0, chroma, second),
        3 => (0.0, second, chroma),
        4 => (second, 0.0, chroma),
        _ => (chroma, 0.0, second),
    };
    let byte = |part: f64| ((part + lightness - chroma / 2.0) * 255.0).round() as u8;
    (byte(r), byte(g), byte(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colors_of_tables_differ() {
        let mut colors: Vec<Rgb> = (0..40).map(table_color).collect();
        colors.sort_unstable();
        colors.dedup();
        assert_eq!(colors.len(), 40);
    }
}
