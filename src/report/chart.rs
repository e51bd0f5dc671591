//! Line charts as inline SVG. The only file that knows the drawing library.
//!
//! Text, axes and grid are drawn in fixed stand-in colours that the page's style sheet replaces, so that one drawing
//! is readable on a light and on a dark ground.

use std::ops::Range;

use plotters::prelude::*;

/// Stand-in colours; the page's style sheet names the same three.
pub(super) const TEXT: &str = "#333333";
pub(super) const AXIS: &str = "#777777";
pub(super) const GRID: &str = "#DDDDDD";

const TEXT_COLOR: RGBColor = RGBColor(0x33, 0x33, 0x33);
const AXIS_COLOR: RGBColor = RGBColor(0x77, 0x77, 0x77);
const GRID_COLOR: RGBColor = RGBColor(0xDD, 0xDD, 0xDD);

/// Size of a drawing in its own units; the page scales it.
const WIDTH: u32 = 640;
const HEIGHT: u32 = 300;
/// A line with at most so many points shows each as a dot.
const DOTTED_POINTS: usize = 40;
/// The library draws text smaller than told, by this factor: 12 units high.
const TEXT_HEIGHT: f64 = 12.0 * 1.24;

/// A colour that is readable on light and dark ground.
pub(super) type Rgb = (u8, u8, u8);

/// One line of a chart.
pub(super) struct Line {
    pub(super) color: Rgb,
    /// (training rows or what else lies across, value), ascending.
    pub(super) points: Vec<(f64, f64)>,
    /// Whether the area below is tinted.
    pub(super) filled: bool,
    /// Whether few points are shown as dots, so that one alone is seen.
    pub(super) dots: bool,
}

/// What a chart's axes say.
pub(super) struct Axes<'a> {
    /// What the vertical axis shows, with its unit.
    pub(super) y_label: &'a str,
    /// From the lowest to the highest value shown.
    pub(super) y: Range<f64>,
    /// Rows at the right edge.
    pub(super) x_max: f64,
}

/// What the horizontal axis says.
pub(super) struct Across<'a> {
    pub(super) label: &'a str,
    pub(super) range: Range<f64>,
    /// A value as text.
    pub(super) text: &'a dyn Fn(f64) -> String,
}

/// Draws `lines` over training rows; `None` if the drawing library fails, which it has no reason to.
pub(super) fn draw(lines: &[Line], axes: &Axes<'_>) -> Option<String> {
    let across = Across { label: "training rows", range: 0.0..axes.x_max.max(1.0), text: &rows_label };
    draw_over(lines, axes, &across)
}

/// Draws `lines` over anything.
pub(super) fn draw_over(lines: &[Line], axes: &Axes<'_>, across: &Across<'_>) -> Option<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(6)
            .margin_right(16)
            .x_label_area_size(40)
            .y_label_area_size(72)
            .build_cartesian_2d(across.range.clone(), axes.y.clone())
            .ok()?;
        let text = ("sans-serif", TEXT_HEIGHT).into_font().color(&TEXT_COLOR);
        let decimals = decimals(&axes.y);
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID_COLOR)
            .axis_style(AXIS_COLOR)
            .label_style(text.clone())
            .axis_desc_style(text)
            .x_labels(7)
            .y_labels(7)
            .x_label_formatter(&|value| (across.text)(*value))
            .y_label_formatter(&|value| format!("{value:.decimals$}"))
            .x_desc(across.label)
            .y_desc(axes.y_label)
            .draw()
            .ok()?;
        for line in lines {
            let color = RGBColor(line.color.0, line.color.1, line.color.2);
            if line.filled {
                let points = line.points.iter().copied();
                chart.draw_series(AreaSeries::new(points, axes.y.start, color.mix(0.18))).ok()?;
            }
            let points = line.points.iter().copied();
            chart.draw_series(LineSeries::new(points, color.stroke_width(2))).ok()?;
            if line.dots && line.points.len() <= DOTTED_POINTS {
                let dots = line.points.iter().map(|&point| Circle::new(point, 3, color.filled()));
                chart.draw_series(dots).ok()?;
            }
        }
        area.present().ok()?;
    }
    Some(svg)
}

/// A vertical range around all values, a little wider than they are; never empty.
pub(super) fn range_around(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if low > high {
        return 0.0..1.0;
    }
    let margin = ((high - low) * 0.08).max(high.abs() * 1e-3).max(1e-6);
    low - margin..high + margin
}

/// Decimals that tell about seven ticks of `range` apart.
fn decimals(range: &Range<f64>) -> usize {
    let step = (range.end - range.start) / 7.0;
    if step > 0.0 { (-step.log10()).ceil().clamp(0.0, 8.0) as usize } else { 2 }
}

/// `250k`, `1.5M`: rows on the horizontal axis.
fn rows_label(rows: f64) -> String {
    for (scale, unit) in [(1e9, "G"), (1e6, "M"), (1e3, "k")] {
        if rows >= scale {
            let text = format!("{:.2}", rows / scale);
            return format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'));
        }
    }
    format!("{rows:.0}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axis_labels_are_short() {
        assert_eq!([0.0, 500.0, 1000.0, 62_500.0].map(rows_label), ["0", "500", "1k", "62.5k"]);
        assert_eq!([1.25e6, 3e9].map(rows_label), ["1.25M", "3G"]);
        assert_eq!(decimals(&(0.0..70.0)), 0);
        assert_eq!(decimals(&(0.0..7.0)), 0);
        assert_eq!(decimals(&(0.70..0.77)), 2);
        assert_eq!(decimals(&(0.4400..0.4435)), 4);
    }

    #[test]
    fn a_range_is_never_empty() {
        for values in [vec![], vec![0.0], vec![0.5, 0.5], vec![f64::NAN, 1e9]] {
            let range = range_around(values.iter().copied());
            assert!(range.start < range.end, "{values:?}: {range:?}");
        }
    }

    #[test]
    fn one_point_and_many_are_drawn() {
        for points in [0, 1, 2, 1000] {
            let line = Line {
                color: (1, 2, 3),
                points: (0..points).map(|i| (f64::from(i) * 100.0, f64::from(i % 7))).collect(),
                filled: true,
                dots: true,
            };
            let axes = Axes { y_label: "bytes held (MiB)", y: 0.0..7.0, x_max: 100_000.0 };
            let svg = draw(&[line], &axes).unwrap();
            assert!(svg.contains("bytes held (MiB)") && svg.trim_end().ends_with("</svg>"));
            for color in [TEXT, AXIS, GRID] {
                assert!(svg.contains(color), "{color} is not in the drawing");
            }
        }
    }
}
