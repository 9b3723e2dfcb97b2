//! Panels of lines over named places, drawn as SVG.

use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;
use std::ops::Range;

/// One chart: lines over the same places of the horizontal axis.
pub(super) struct Panel {
    pub(super) title: String,
    pub(super) x_axis: String,
    pub(super) y_axis: String,
    /// Names of the places, which have equal distances.
    pub(super) x_labels: Vec<String>,
    pub(super) lines: Vec<Line>,
}

/// One line with a value at each place.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) style: Style,
    pub(super) values: Vec<f64>,
}

impl Line {
    /// Whether it is the same at every place.
    fn is_constant(&self) -> bool {
        self.values.windows(2).all(|pair| pair[0] == pair[1])
    }
}

/// How a line looks; the number chooses the colour.
#[derive(Clone, Copy)]
pub(super) enum Style {
    /// Solid, with a point at each place.
    Measured(usize),
    /// Dashed. It may leave the chart, which is as high as what was measured needs.
    Limit(usize),
}

const MEASURED: [RGBColor; 4] = [RGBColor(31, 119, 180), RGBColor(214, 39, 40), RGBColor(44, 160, 44), RGBColor(148, 103, 189)];
const LIMITS: [RGBColor; 2] = [RGBColor(90, 90, 90), RGBColor(230, 140, 20)];

const PANEL_WIDTH: u32 = 640;
const PANEL_HEIGHT: u32 = 460;
const LEGEND_COLUMNS: usize = 2;
const LEGEND_COLUMN: i32 = 230;
const LEGEND_ROW: i32 = 20;
const TITLE_HEIGHT: u32 = 76;
const FONT: &str = "sans-serif";

/// The horizontal axis: places 0, 1, … by name, with half a place on either side.
struct Places(Vec<String>);

impl Ranged for Places {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (left, right): (i32, i32)) -> i32 {
        let share = (value + 0.5) / self.0.len().max(1) as f64;
        left + (share * f64::from(right - left)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        (0..self.0.len()).map(|place| place as f64).collect()
    }

    fn range(&self) -> Range<f64> {
        -0.5..self.0.len() as f64 - 0.5
    }
}

impl ValueFormatter<f64> for Places {
    fn format_ext(&self, place: &f64) -> String {
        self.0.get(*place as usize).cloned().unwrap_or_default()
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

impl Style {
    fn color(self) -> RGBColor {
        match self {
            Self::Measured(index) => MEASURED[index % MEASURED.len()],
            Self::Limit(index) => LIMITS[index % LIMITS.len()],
        }
    }

    fn is_limit(self) -> bool {
        matches!(self, Self::Limit(_))
    }
}

/// A title of two lines over `panels`, two in a row.
pub(super) fn draw(titles: &[String; 2], panels: &[Panel]) -> anyhow::Result<String> {
    let columns = panels.len().clamp(1, 2);
    let rows = panels.len().div_ceil(columns);
    let size = (PANEL_WIDTH * columns.max(2) as u32, TITLE_HEIGHT + PANEL_HEIGHT * rows as u32);
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        root.fill(&WHITE)?;
        let (head, body) = root.split_vertically(TITLE_HEIGHT);
        head.draw_text(&titles[0], &(FONT, 26).into_text_style(&head).color(&BLACK), (24, 14))?;
        head.draw_text(&titles[1], &(FONT, 15).into_text_style(&head).color(&RGBColor(90, 90, 90)), (24, 50))?;
        for (panel, area) in panels.iter().zip(body.split_evenly((rows.max(1), columns))) {
            draw_panel(panel, &area)?;
        }
        root.present()?;
    }
    Ok(text)
}

/// Title and legend above the chart, where they cover no line.
fn draw_panel(panel: &Panel, area: &Area<'_>) -> anyhow::Result<()> {
    let rows = panel.lines.len().div_ceil(LEGEND_COLUMNS) as i32;
    let (head, body) = area.split_vertically(44 + LEGEND_ROW * rows);
    head.draw_text(&panel.title, &(FONT, 20).into_text_style(&head).color(&BLACK), (86, 14))?;
    for (index, line) in panel.lines.iter().enumerate() {
        let (column, row) = (index % LEGEND_COLUMNS, index / LEGEND_COLUMNS);
        let place = (86 + LEGEND_COLUMN * column as i32, 50 + LEGEND_ROW * row as i32);
        draw_legend(line, &head, place)?;
    }
    draw_chart(panel, &body)
}

fn draw_legend(line: &Line, area: &Area<'_>, (x, y): (i32, i32)) -> anyhow::Result<()> {
    let stroke = line.style.color().stroke_width(2);
    let ends = [(x, y), (x + 26, y)];
    if line.style.is_limit() {
        area.draw(&PathElement::new([ends[0], (x + 10, y)], stroke))?;
        area.draw(&PathElement::new([(x + 16, y), ends[1]], stroke))?;
    } else {
        area.draw(&PathElement::new(ends, stroke))?;
        area.draw(&Circle::new((x + 13, y), 4, line.style.color().filled()))?;
    }
    area.draw_text(&line.name, &(FONT, 14).into_text_style(area).color(&BLACK), (x + 34, y - 8))?;
    Ok(())
}

fn draw_chart(panel: &Panel, area: &Area<'_>) -> anyhow::Result<()> {
    let top = top(panel);
    let mut chart = ChartBuilder::on(area)
        .margin(14)
        .margin_top(4)
        .x_label_area_size(48)
        .y_label_area_size(72)
        .build_cartesian_2d(Places(panel.x_labels.clone()), 0.0..top)?;
    let mut mesh = chart.configure_mesh();
    mesh.x_desc(&panel.x_axis).y_desc(&panel.y_axis).axis_desc_style((FONT, 15)).label_style((FONT, 13));
    mesh.y_label_formatter(&|value| format!("{value}")).y_labels(8);
    mesh.light_line_style(WHITE).bold_line_style(RGBColor(225, 225, 225)).draw()?;
    let is_alone = panel.lines.iter().filter(|line| !line.style.is_limit()).count() == 1;
    for line in &panel.lines {
        let color = line.style.color();
        if line.style.is_limit() {
            chart.draw_series(DashedLineSeries::new(below(line, top), 7, 5, color.stroke_width(2)))?;
            continue;
        }
        let points: Vec<(f64, f64)> = line.values.iter().enumerate().map(|(place, value)| (place as f64, *value)).collect();
        chart.draw_series(LineSeries::new(points.clone(), color.stroke_width(2)))?;
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 4, color.filled())))?;
        if is_alone {
            let label = |point: &(f64, f64)| EmptyElement::at(*point) + Text::new(number(point.1), (8, 6), (FONT, 13));
            chart.draw_series(points.iter().map(label))?;
        }
    }
    Ok(())
}

/// Height of the chart: all that was measured, and limits that are near.
fn top(panel: &Panel) -> f64 {
    let highest = |limits: bool| {
        let lines = panel.lines.iter().filter(|line| line.style.is_limit() == limits);
        lines.flat_map(|line| line.values.iter().copied()).fold(0.0, f64::max)
    };
    let measured = highest(false);
    let shown = measured.max(highest(true).min(measured * 1.6));
    if shown > 0.0 { shown * 1.12 } else { 1.0 }
}

/// Points of a limit, as far as they are below `top`: straight lines between places, and to the edges where it is the same everywhere.
fn below(line: &Line, top: f64) -> Vec<(f64, f64)> {
    const STEPS: usize = 64;
    let last = line.values.len() as f64 - 1.0;
    let value = |x: f64| {
        let place = x.clamp(0.0, last);
        let (low, high) = (line.values[place.floor() as usize], line.values[place.ceil() as usize]);
        low + (high - low) * place.fract()
    };
    let (left, right) = if line.is_constant() { (-0.5, last + 0.5) } else { (0.0, last) };
    let xs = (0..=STEPS).map(|step| left + (right - left) * step as f64 / STEPS as f64);
    xs.map(|x| (x, value(x))).take_while(|(_, y)| *y <= top).collect()
}

/// Whole where that says enough.
pub(super) fn number(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(style: Style, values: &[f64]) -> Line {
        Line { name: String::new(), style, values: values.to_vec() }
    }

    #[test]
    fn limits_far_above_do_not_flatten_what_was_measured() {
        let panel = |limit: f64| Panel {
            title: String::new(),
            x_axis: String::new(),
            y_axis: String::new(),
            x_labels: vec!["1".to_owned()],
            lines: vec![line(Style::Measured(0), &[100.0]), line(Style::Limit(0), &[limit])],
        };
        let rounded = |limit: f64| top(&panel(limit)).round();
        assert_eq!([rounded(50.0), rounded(150.0), rounded(1e9)], [112.0, 168.0, 179.0]);
        assert_eq!(top(&Panel { lines: Vec::new(), ..panel(1.0) }), 1.0);
    }

    #[test]
    fn a_limit_is_cut_at_the_edge_of_the_chart() {
        let limit = line(Style::Limit(0), &[1.0, 3.0]);
        let whole = below(&limit, 10.0);
        assert_eq!((whole.len(), whole[0], whole[64]), (65, (0.0, 1.0), (1.0, 3.0)));
        let cut = below(&limit, 2.0);
        assert!(cut.len() < 65 && cut.iter().all(|(_, y)| *y <= 2.0));
        assert!(below(&limit, 0.5).is_empty());
        assert_eq!(below(&line(Style::Limit(0), &[1.0]), 2.0)[0], (-0.5, 1.0));
    }
}
