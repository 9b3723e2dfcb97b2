//! The report as text for people.

use super::report::{Decode, Http, Limits, Machine, Model, OpShare, Prefill, Report};
use super::statistics::Summary;
use std::fmt::Write as _;

/// One line: what, its figure with spread, and the shares of the two limits.
struct Row {
    name: String,
    figure: Summary,
    unit: &'static str,
    of_read: Option<f64>,
    of_peak: Option<f64>,
}

impl Row {
    fn new(name: impl Into<String>, figure: &Summary, unit: &'static str) -> Self {
        Self { name: name.into(), figure: figure.clone(), unit, of_read: None, of_peak: None }
    }

    fn shares(self, of_read: Option<&Summary>, of_peak: Option<&Summary>) -> Self {
        Self { of_read: of_read.map(|share| share.median), of_peak: of_peak.map(|share| share.median), ..self }
    }

    fn cells(&self) -> [String; 6] {
        let Summary { median, min, max, .. } = &self.figure;
        let share = |share: Option<f64>| share.map_or_else(String::new, |share| format!("{:.0}%", share * 100.0));
        let spread = format!("{} .. {}", number(*min), number(*max));
        [self.name.clone(), number(*median), self.unit.to_owned(), spread, share(self.of_read), share(self.of_peak)]
    }
}

/// The whole table, with a line break at its end.
pub(super) fn table(report: &Report) -> String {
    let mut text = head(report);
    let mut rows = Vec::new();
    rows.extend(report.limits.iter().flat_map(limits));
    rows.extend(report.prefill.iter().flat_map(prefill));
    rows.extend(report.decode.iter().flat_map(decode));
    rows.extend(report.http.iter().flat_map(http));
    let instruction = report.model.as_ref().and_then(|model| model.instruction);
    let peak = instruction.map_or_else(String::new, |instruction| format!("of {}", instruction.name()));
    let head = ["", "median", "", "min .. max", if report.limits.is_some() { "of read" } else { "" }, &peak].map(str::to_owned);
    let lines: Vec<[String; 6]> = std::iter::once(head).chain(rows.iter().map(Row::cells)).collect();
    let width = |column: usize| lines.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    text.push('\n');
    for cells in &lines {
        text.push_str(&line(cells, &widths));
    }
    text.push_str(&profile(report));
    for level in report.http.iter().filter(|level| level.errors > 0) {
        let _ = writeln!(text, "HTTP with {} clients: {} requests failed", level.clients, level.errors);
    }
    text
}

/// Names and units to the left, numbers to the right.
fn line(cells: &[String; 6], widths: &[usize; 6]) -> String {
    let mut line = String::new();
    for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let _ = if matches!(column, 0 | 2) { write!(line, "{cell:<width$}  ") } else { write!(line, "{cell:>width$}  ") };
    }
    format!("{}\n", line.trim_end())
}

fn head(report: &Report) -> String {
    let Machine { cpu, cores, threads, memory_bytes } = &report.machine;
    let memory = *memory_bytes as f64 / f64::from(1 << 30);
    let mut text = format!("openelm-server {} bench, {}\n", report.version, report.date);
    let _ = writeln!(text, "machine  {cpu}, {cores} cores, {threads} threads, {memory:.1} GiB");
    if let Some(model) = &report.model {
        let Model { name, parameters, weight_bytes, dtype, kv_cache_dtype, kernels, .. } = model;
        let (millions, megabytes) = (*parameters as f64 / 1e6, *weight_bytes as f64 / 1e6);
        let _ = writeln!(text, "model    {name}: {millions:.1} million parameters, {dtype}, {megabytes:.0} MB; KV cache {kv_cache_dtype}");
        let _ = writeln!(text, "kernels  {kernels}");
    }
    if let Some(url) = &report.url {
        let _ = writeln!(text, "server   {url}");
    }
    let beside = if report.limits.is_some() { ", each beside a round of the limits" } else { "" };
    let _ = writeln!(text, "rounds   {}{beside}; medians", report.rounds);
    if !report.decode.is_empty() {
        let _ = writeln!(text, "decode   {}", report.sampling);
    }
    text
}

fn limits(limits: &Limits) -> Vec<Row> {
    let megabytes = limits.buffer_bytes as f64 / 1e6;
    let mut rows = vec![
        Row::new(format!("limit: read {megabytes:.0} MB"), &limits.read_gb_per_s, "GB/s"),
        Row::new("limit: f32 FMA", &limits.f32_fma_gflops, "GFLOPS"),
    ];
    rows.extend(limits.bf16_dot_gflops.iter().map(|rate| Row::new("limit: vdpbf16ps", rate, "GFLOPS")));
    rows.extend(limits.int8_dot_gops.iter().map(|rate| Row::new("limit: 8-bit products", rate, "GOPS")));
    rows
}

fn prefill(found: &Prefill) -> Vec<Row> {
    let name = format!("prefill {}", found.prompt_tokens);
    let rate = Row::new(&name, &found.tokens_per_s, "tokens/s").shares(None, found.share_of_peak.as_ref());
    vec![rate, Row::new(name, &found.gflops, "GFLOPS")]
}

fn decode(found: &Decode) -> Vec<Row> {
    let name = format!("decode {} at {}", found.sequences, found.context_tokens);
    let shares = (found.share_of_read.as_ref(), found.share_of_peak.as_ref());
    vec![Row::new(&name, &found.tokens_per_s, "tokens/s").shares(shares.0, shares.1), Row::new(name, &found.step_ms, "ms a step")]
}

/// Where the time of a step goes: an operation a line, a measurement a column.
fn profile(report: &Report) -> String {
    let prefills = report.prefill.iter().map(|found| (format!("prefill {}", found.prompt_tokens), &found.profile));
    let decodes = report.decode.iter().map(|found| (format!("{} at {}", found.sequences, found.context_tokens), &found.profile));
    let columns: Vec<(String, &Vec<OpShare>)> = prefills.chain(decodes).filter(|(_, shares)| !shares.is_empty()).collect();
    let Some((_, first)) = columns.first() else { return String::new() };
    let label = "share of a step's time";
    let width = first.iter().map(|op| op.operation.chars().count()).fold(label.len(), usize::max);
    let mut text = format!("\n{label:<width$}");
    for (name, _) in &columns {
        let _ = write!(text, "  {name:>11}");
    }
    for (index, op) in first.iter().enumerate() {
        let _ = write!(text, "\n{:<width$}", op.operation);
        for (name, shares) in &columns {
            let cell = shares.get(index).map_or_else(String::new, |op| format!("{:.1}%", op.share * 100.0));
            let column = name.len().max(11);
            let _ = write!(text, "  {cell:>column$}");
        }
    }
    text.push('\n');
    text
}

fn http(found: &Http) -> Vec<Row> {
    let Some(figures) = &found.figures else { return Vec::new() };
    let name = |what: &str| format!("HTTP {} clients{what}", found.clients);
    let mut rows = vec![
        Row::new(name(""), &figures.output_tokens_per_s, "tokens/s").shares(None, figures.share_of_peak.as_ref()),
        Row::new(name(", first token p50"), &figures.ttft_p50_ms, "ms"),
        Row::new(name(", first token p99"), &figures.ttft_p99_ms, "ms"),
    ];
    rows.extend(figures.inter_token_p50_ms.iter().map(|gap| Row::new(name(", next token p50"), gap, "ms")));
    rows.extend(figures.inter_token_p99_ms.iter().map(|gap| Row::new(name(", next token p99"), gap, "ms")));
    rows
}

/// Three digits at least.
fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::report;
    use super::*;

    #[test]
    fn the_table_has_a_head_and_aligned_rows() {
        let text = table(&report());
        let expected = "\
openelm-server 0.1.0 bench, Sun, 06 Nov 1994 08:49:37 GMT
machine  Some CPU, 2 cores, 2 threads, 4.0 GiB
model    demo: 5.1 million parameters, bfloat16, 10 MB; KV cache bfloat16
kernels  cpu avx512 (2 threads)
rounds   3, each beside a round of the limits; medians
decode   greedy

                                 median               min .. max  of read  of f32 FMA
limit: read 134 MB                 30.0  GB/s       29.0 .. 31.0
limit: f32 FMA                      230  GFLOPS       229 .. 231
limit: vdpbf16ps                    460  GFLOPS       459 .. 461
prefill 512                         430  tokens/s     429 .. 431                  80%
prefill 512                         200  GFLOPS       199 .. 201
decode 1 at 128                    60.0  tokens/s   59.0 .. 61.0     100%         13%
";
        assert!(text.starts_with(expected), "{text}");
        for part in ["decode 2 at 128", "HTTP 4 clients, first token p99", "HTTP with 4 clients: 1 requests failed\n"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let profile = "\nshare of a step's time  prefill 512     1 at 128";
        assert!(text.contains(profile) && text.contains("\nattention                     75.0%        50.0%"), "{text}");
        assert!(!text.contains("vpdpbusd") && text.lines().all(|line| line.trim_end() == line), "{text}");
    }

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!([0.0, 1.234, 9.876, 12.34, 123.4, 12345.6].map(number), ["0.00", "1.23", "9.88", "12.3", "123", "12346"]);
    }
}
