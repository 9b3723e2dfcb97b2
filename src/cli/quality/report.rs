//! What was found, as a table and as JSON.

use crate::ops::KvType;
use crate::quality::{Perplexity, Score};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// What was found of a candidate.
pub(super) struct Found {
    pub(super) name: String,
    pub(super) kernels: String,
    pub(super) kv_cache: KvType,
    pub(super) score: Score,
}

/// Everything of one run.
pub(super) struct Report {
    pub(super) model: String,
    pub(super) text: Option<String>,
    /// Of a text that the model made up.
    pub(super) seed: Option<u64>,
    pub(super) window: usize,
    /// Those of the reference.
    pub(super) kernels: String,
    pub(super) perplexity: Perplexity,
    pub(super) found: Vec<Found>,
}

impl Report {
    /// A line for each.
    pub(super) fn table(&self) -> String {
        let width = self.found.iter().map(|found| found.name.len()).max().unwrap_or(0).max(8);
        let (positions, window) = (self.perplexity.positions(), self.window);
        let mut text = format!("{positions} tokens in windows of {window}, whose second half is scored; {}\n\n", self.kernels);
        let _ = writeln!(
            text,
            "{:<width$}  {:<9}{:>12}{:>22}{:>26}{:>17}{:>17}",
            "weights", "KV cache", "perplexity", "increase", "KL divergence, nats", "99th percentile", "top-1 agreement"
        );
        let _ = writeln!(text, "{:<width$}  {:<9}{:>12.4}", "f32", "float32", self.perplexity.value());
        for Found { name, kv_cache, score, .. } in &self.found {
            let (increase, divergence) = (score.perplexity_increase(), score.divergence());
            let increase = format!("{:+.3}% ± {:.3}%", increase.mean * 100.0, increase.standard_error * 100.0);
            let far = format!("{:.6} ± {:.6}", divergence.mean, divergence.standard_error);
            let (percentile, same) = (score.divergence_quantile(0.99), format!("{:.2}%", score.top_1_agreement() * 100.0));
            let kv_cache = kv_cache.to_string();
            let _ = writeln!(
                text,
                "{name:<width$}  {kv_cache:<9}{:>12.4}{increase:>22}{far:>26}{percentile:>17.6}{same:>17}",
                score.perplexity().value()
            );
        }
        text
    }

    /// The same for programs; shares are of 1.
    pub(super) fn json(&self) -> Value {
        let one = |Found { name, kernels, kv_cache, score }: &Found| {
            let (increase, divergence) = (score.perplexity_increase(), score.divergence());
            json!({
                "weights": name,
                "kv_cache_dtype": kv_cache.to_string(),
                "kernels": kernels,
                "perplexity": score.perplexity().value(),
                "perplexity_increase": increase.mean,
                "perplexity_increase_standard_error": increase.standard_error,
                "kl_divergence_nats": divergence.mean,
                "kl_divergence_nats_standard_error": divergence.standard_error,
                "kl_divergence_nats_p99": score.divergence_quantile(0.99),
                "top_1_agreement": score.top_1_agreement(),
            })
        };
        json!({
            "schema": 1,
            "version": env!("CARGO_PKG_VERSION"),
            "model": self.model,
            "text": self.text,
            "seed": self.seed,
            "window_tokens": self.window,
            "scored_tokens": self.perplexity.positions(),
            "reference": {"weights": "f32", "kv_cache_dtype": "float32", "kernels": self.kernels, "perplexity": self.perplexity.value()},
            "candidates": self.found.iter().map(one).collect::<Vec<_>>(),
        })
    }
}
