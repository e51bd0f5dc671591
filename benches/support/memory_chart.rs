//! The drawing of `memory_over_time`.

use super::shape::{PHASES, SAMPLES, Sample};
use plotters::coord::Shift;
use plotters::prelude::*;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const SIZE: (u32, u32) = (960, 470);
/// Height of the list of names below the chart.
const NAMES: u32 = 66;
const TEXT: RGBColor = RGBColor(0x33, 0x33, 0x33);
const AXIS: RGBColor = RGBColor(0x77, 0x77, 0x77);
const GRID: RGBColor = RGBColor(0xDD, 0xDD, 0xDD);
const LIVE: RGBColor = RGBColor(0x99, 0x99, 0x99);
const COLORS: [RGBColor; 7] = [
    RGBColor(0x2F, 0x7D, 0xD1),
    RGBColor(0xD1, 0x49, 0x5B),
    RGBColor(0xE0, 0x9A, 0xA3),
    RGBColor(0xE0, 0x7B, 0x22),
    RGBColor(0x2E, 0x9E, 0x5B),
    RGBColor(0x8A, 0x5C, 0xC4),
    RGBColor(0x6B, 0x4A, 0x2B),
];

/// Resident bytes of every subject over the samples, above the bytes that are live.
pub(crate) fn draw(all: &[(&str, Vec<Sample>)]) -> Outcome<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let (chart, names) = area.split_vertically(SIZE.1 - NAMES);
        lines(&chart, all)?;
        legend(&names, all)?;
        area.present()?;
    }
    Ok(svg)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn lines(area: &Area<'_>, all: &[(&str, Vec<Sample>)]) -> Outcome<()> {
    let samples = PHASES.len() * SAMPLES;
    let most = all.iter().flat_map(|(_, samples)| samples).map(|sample| sample.resident.max(sample.live())).max();
    // Above the lines: the names of the phases.
    let (top, high) = (mib(most.unwrap_or(0)) * 1.1, mib(most.unwrap_or(0)) * 1.06);
    let mut builder = ChartBuilder::on(area);
    builder.margin(8).margin_right(16).x_label_area_size(24).y_label_area_size(72);
    let mut chart = builder.build_cartesian_2d(0.0..samples as f64, 0.0..top.max(1.0))?;
    let text = ("sans-serif", 15.0).into_font().color(&TEXT);
    let mut mesh = chart.configure_mesh();
    mesh.disable_x_mesh().light_line_style(TRANSPARENT).bold_line_style(GRID).axis_style(AXIS);
    mesh.label_style(text.clone()).axis_desc_style(text.clone()).x_labels(0).y_labels(8);
    mesh.x_desc("samples: 20 in each phase").y_desc("resident bytes (MiB)");
    mesh.y_label_formatter(&|value| format!("{value:.0}")).draw()?;
    if let Some((_, dimslab)) = all.first() {
        let live = (1..).map(f64::from).zip(dimslab.iter().map(|sample| mib(sample.live())));
        chart.draw_series(AreaSeries::new(live, 0.0, LIVE.mix(0.35)).border_style(LIVE))?;
    }
    for (position, phase) in PHASES.iter().enumerate() {
        let x = (position * SAMPLES) as f64;
        if position > 0 {
            chart.draw_series(LineSeries::new([(x, 0.0), (x, top)], GRID.stroke_width(1)))?;
        }
        chart.draw_series([Text::new(*phase, (x + 1.0, high + (top - high) * 0.6), text.clone())])?;
    }
    // dimslab last, above the others.
    for ((_, samples), color) in all.iter().zip(COLORS).rev() {
        let points = (1..).map(f64::from).zip(samples.iter().map(|sample| mib(sample.resident)));
        let width = if color == COLORS[0] { 3 } else { 2 };
        chart.draw_series(LineSeries::new(points, color.stroke_width(width)))?;
    }
    Ok(())
}

fn legend(area: &Area<'_>, all: &[(&str, Vec<Sample>)]) -> Outcome<()> {
    let text = ("sans-serif", 15.0).into_font().color(&TEXT);
    let names = std::iter::once("live: keys, weights, optimizer state").chain(all.iter().map(|&(name, _)| name));
    for (position, (name, color)) in names.zip(std::iter::once(LIVE).chain(COLORS)).enumerate() {
        let (x, y) = (80 + 290 * (position as i32 % 3), 6 + 20 * (position as i32 / 3));
        area.draw(&Rectangle::new([(x, y + 3), (x + 22, y + 8)], color.filled()))?;
        area.draw(&Text::new(name, (x + 30, y), text.clone()))?;
    }
    Ok(())
}
