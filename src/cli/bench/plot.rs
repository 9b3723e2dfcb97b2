//! The report as a picture: what is drawn in each panel.

use super::panel::{Line, Panel, Style, draw, number};
use super::report::{Decode, Http, HttpFigures, Model, Report};
use super::statistics::Summary;

/// The report as SVG; without anything but limits, the title alone.
pub(super) fn svg(report: &Report) -> anyhow::Result<String> {
    let panels: Vec<Panel> = [decode(report), prefill(report), throughput(report), first_token(report)].into_iter().flatten().collect();
    draw(&titles(report), &panels)
}

fn titles(report: &Report) -> [String; 2] {
    let what = match (&report.model, &report.url) {
        (Some(model), _) => format!("{}, {}", model.name, model.dtype),
        (None, Some(url)) => url.clone(),
        (None, None) => "the limits of this machine".to_owned(),
    };
    let machine = &report.machine;
    let kernels = report.model.as_ref().map_or_else(|| format!("{} threads", machine.threads), |model| model.kernels.clone());
    let second = format!("{}, {kernels}, openelm-server {}, {}", machine.cpu, report.version, report.date);
    [format!("openelm-server bench: {what}"), second]
}

fn labels<T>(found: &[T], label: impl Fn(&T) -> usize) -> Vec<String> {
    found.iter().map(|one| label(one).to_string()).collect()
}

/// The limit of the arithmetic in tokens a second, where each token costs `flops`.
fn peak_line(report: &Report, model: &Model, flops_per_token: impl Fn(usize) -> f64, points: usize) -> Option<Line> {
    let instruction = model.instruction?;
    let peak = instruction.gflops(report.limits.as_ref()?)?.median * 1e9;
    let values: Vec<f64> = (0..points).map(|index| peak / flops_per_token(index)).collect();
    // It may lie above the chart.
    let name = format!("limit: {}, {} tokens/s", instruction.name(), number(*values.first()?));
    Some(Line { name, style: Style::Limit(0), values })
}

fn decode(report: &Report) -> Option<Panel> {
    let model = report.model.as_ref()?;
    let first = report.decode.first()?;
    let batches: Vec<&Decode> = report.decode.iter().filter(|one| one.context_tokens == first.context_tokens).collect();
    let mut contexts: Vec<usize> = report.decode.iter().map(|one| one.context_tokens).collect();
    contexts.dedup();
    let mut lines = Vec::new();
    for (index, context) in contexts.iter().enumerate() {
        let of_context = report.decode.iter().filter(|one| one.context_tokens == *context);
        let values = of_context.map(|one| one.tokens_per_s.median).collect();
        lines.push(Line { name: format!("context of {context} tokens"), style: Style::Measured(index), values });
    }
    let bytes = |count: usize| model.weight_bytes_per_step as f64 + (count * first.context_tokens) as f64 * model.kv_bytes_per_token as f64;
    if let Some(limits) = &report.limits {
        let read = limits.read_gb_per_s.median * 1e9;
        let values = batches.iter().map(|one| one.sequences as f64 * read / bytes(one.sequences)).collect();
        let name = format!("limit: reading, at context {}", first.context_tokens);
        lines.push(Line { name, style: Style::Limit(1), values });
    }
    lines.extend(peak_line(report, model, |_| model.flops_per_token, batches.len()));
    Some(Panel {
        title: "Decode".to_owned(),
        x_axis: "sequences in a step".to_owned(),
        y_axis: "tokens/s, all sequences".to_owned(),
        x_labels: labels(&batches, |one| one.sequences),
        lines,
    })
}

fn prefill(report: &Report) -> Option<Panel> {
    let model = report.model.as_ref()?;
    let found = report.prefill.as_slice();
    found.first()?;
    let values = found.iter().map(|one| one.tokens_per_s.median).collect();
    let mut lines = vec![Line { name: "measured".to_owned(), style: Style::Measured(0), values }];
    let flops = |index: usize| found[index].gflops.median * 1e9 / found[index].tokens_per_s.median;
    lines.extend(peak_line(report, model, flops, found.len()));
    Some(Panel {
        title: "Prefill of one prompt".to_owned(),
        x_axis: "tokens of the prompt".to_owned(),
        y_axis: "tokens/s".to_owned(),
        x_labels: labels(found, |one| one.prompt_tokens),
        lines,
    })
}

/// Levels at which something succeeded, with what.
fn levels(report: &Report) -> Vec<(&Http, &HttpFigures)> {
    report.http.iter().filter_map(|level| Some((level, level.figures.as_ref()?))).collect()
}

fn http_panel(report: &Report, title: &str, y_axis: &str, lines: Vec<Line>) -> Option<Panel> {
    let levels = levels(report);
    let (first, _) = levels.first()?;
    Some(Panel {
        title: format!("{title}, {} tokens in, {} out", first.prompt_tokens, first.output_tokens),
        x_axis: "HTTP clients".to_owned(),
        y_axis: y_axis.to_owned(),
        x_labels: labels(&levels, |(level, _)| level.clients),
        lines,
    })
}

fn throughput(report: &Report) -> Option<Panel> {
    let values = levels(report).iter().map(|(_, figures)| figures.output_tokens_per_s.median).collect();
    let line = Line { name: "measured".to_owned(), style: Style::Measured(0), values };
    http_panel(report, "Over HTTP", "output tokens/s, all clients", vec![line])
}

fn first_token(report: &Report) -> Option<Panel> {
    let line = |name: &str, index: usize, figure: fn(&HttpFigures) -> &Summary| {
        let values = levels(report).iter().map(|(_, figures)| figure(figures).median).collect();
        Line { name: name.to_owned(), style: Style::Measured(index), values }
    };
    let lines = vec![line("median", 0, |figures| &figures.ttft_p50_ms), line("99th percentile", 1, |figures| &figures.ttft_p99_ms)];
    http_panel(report, "Time to the first token", "ms", lines)
}

#[cfg(test)]
mod tests {
    use super::super::sample::report;
    use super::*;

    #[test]
    fn the_picture_has_titles_axes_and_legends() {
        let text = svg(&report()).expect("drawn");
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"), "{}", &text[..200]);
        let parts = [
            "openelm-server bench: demo, bfloat16",
            "Some CPU",
            "sequences in a step",
            "tokens/s, all sequences",
            "context of 128 tokens",
            "context of 480 tokens",
            "limit: reading, at context 128",
            "limit: f32 FMA, ",
            "Prefill of one prompt",
            "Over HTTP, 128 tokens in, 64 out",
            "Time to the first token",
            "99th percentile",
        ];
        for part in parts {
            assert!(text.contains(part), "{part}");
        }
        assert_eq!(text.matches("<svg").count(), 1);
        assert!(!text.contains("NaN") && !text.contains("inf"), "every place is a number");
    }

    #[test]
    fn what_was_not_measured_is_not_drawn() {
        let mut report = report();
        (report.decode, report.http) = (Vec::new(), Vec::new());
        let text = svg(&report).expect("drawn");
        assert!(text.contains("Prefill of one prompt") && !text.contains("sequences in a step") && !text.contains("HTTP"));
        (report.prefill, report.model) = (Vec::new(), None);
        assert!(svg(&report).expect("drawn").contains("the limits of this machine"));
    }
}
