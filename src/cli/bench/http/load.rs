//! Rounds of the closed loop, and their figures.

use super::Cost;
use super::client::{Answer, Client};
use super::prompts::Prompts;
use crate::cli::bench::options::Options;
use crate::cli::bench::report::{Http, HttpFigures};
use crate::cli::bench::statistics::{Summary, percentile};
use crate::ops::cpu::limits::LimitRound;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Requests that each client sends in a round.
const REQUESTS_PER_CLIENT: usize = 2;

/// Fewest requests of a round.
const LEAST_REQUESTS: usize = 4;

/// What is sent, and where.
pub(super) struct Load {
    pub(super) client: Client,
    pub(super) prompts: Prompts,
    pub(super) options: Options,
}

/// One round.
pub(super) struct Round {
    seconds: f64,
    answers: Vec<Answer>,
    /// What failed, in words.
    errors: Vec<String>,
    limits: Option<LimitRound>,
}

impl Load {
    /// One request of each client, not counted.
    pub(super) async fn warm_up(&mut self, clients: usize) {
        self.run(clients, clients).await;
    }

    /// A round of `clients` clients, just after the round `limits`.
    pub(super) async fn round(&mut self, clients: usize, limits: Option<LimitRound>) -> Round {
        let started = Instant::now();
        let outcomes = self.run(clients, requests(clients)).await;
        let seconds = started.elapsed().as_secs_f64();
        let (mut answers, mut errors) = (Vec::new(), Vec::new());
        for outcome in outcomes {
            match outcome {
                Ok(answer) => answers.push(answer),
                Err(error) => errors.push(format!("{error:#}")),
            }
        }
        if let Some(error) = errors.first() {
            crate::cli::bench::progress(&format!("{} requests failed: {error}", errors.len()));
        }
        Round { seconds, answers, errors, limits }
    }

    /// `requests` requests by `clients` clients, of which each sends its next one when its last one has ended.
    async fn run(&mut self, clients: usize, requests: usize) -> Vec<anyhow::Result<Answer>> {
        let prompts: Arc<Vec<_>> = Arc::new((0..requests).map(|_| self.prompts.next()).collect());
        let next = Arc::new(AtomicUsize::new(0));
        let outcomes = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            let (client, tokens) = (self.client.clone(), self.options.http_output_tokens);
            let (prompts, next, outcomes) = (prompts.clone(), next.clone(), outcomes.clone());
            tasks.spawn(async move {
                while let Some(prompt) = prompts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = client.complete(prompt, tokens).await;
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                }
            });
        }
        while tasks.join_next().await.is_some() {}
        std::mem::take(&mut *outcomes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Requests of a round.
fn requests(clients: usize) -> usize {
    (REQUESTS_PER_CLIENT * clients).max(LEAST_REQUESTS)
}

/// What all rounds say.
pub(super) fn summary(options: &Options, clients: usize, rounds: &[Round], cost: Option<Cost>) -> Http {
    Http {
        clients,
        prompt_tokens: options.http_prompt_tokens,
        output_tokens: options.http_output_tokens,
        requests_per_round: requests(clients),
        errors: rounds.iter().map(|round| round.errors.len()).sum(),
        figures: figures(options.http_prompt_tokens, rounds, cost),
    }
}

/// Figures over the rounds in which something succeeded.
fn figures(prompt_tokens: usize, rounds: &[Round], cost: Option<Cost>) -> Option<HttpFigures> {
    let first_tokens = |round: &Round| milliseconds(round.answers.iter().map(|answer| answer.first_token));
    let gaps = |round: &Round| milliseconds(round.answers.iter().flat_map(|answer| answer.gaps.iter().copied()));
    let rate = |round: &Round| round.tokens() as f64 / round.seconds;
    let over = |figure: &dyn Fn(&Round) -> Option<f64>| Summary::of(rounds.iter().filter_map(figure).collect());
    Some(HttpFigures {
        output_tokens_per_s: over(&|round| (!round.answers.is_empty()).then(|| rate(round)))?,
        ttft_p50_ms: over(&|round| percentile(&first_tokens(round), 0.5))?,
        ttft_p99_ms: over(&|round| percentile(&first_tokens(round), 0.99))?,
        inter_token_p50_ms: over(&|round| percentile(&gaps(round), 0.5)),
        inter_token_p99_ms: over(&|round| percentile(&gaps(round), 0.99)),
        share_of_peak: over(&|round| round.share_of_peak(prompt_tokens, cost?)),
    })
}

impl Round {
    fn tokens(&self) -> u64 {
        self.answers.iter().map(|answer| answer.tokens).sum()
    }

    fn share_of_peak(&self, prompt_tokens: usize, (work, instruction): Cost) -> Option<f64> {
        let logits = self.tokens() as usize;
        // The last token of an answer is chosen and never computed; each prompt gets its first token from its own last row.
        let rows = self.answers.len() * prompt_tokens + logits - self.answers.len().min(logits);
        Some(work.flops(rows, logits) / self.seconds / instruction.peak(self.limits.as_ref()?))
    }
}

/// Ascending.
fn milliseconds(times: impl Iterator<Item = Duration>) -> Vec<f64> {
    let mut times: Vec<f64> = times.map(|time| time.as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    times
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(first_ms: u64, gaps_ms: &[u64]) -> Answer {
        let gaps: Vec<Duration> = gaps_ms.iter().copied().map(Duration::from_millis).collect();
        Answer { first_token: Duration::from_millis(first_ms), tokens: gaps.len() as u64 + 1, gaps }
    }

    fn round(answers: Vec<Answer>, errors: &[&str]) -> Round {
        Round { seconds: 2.0, answers, errors: errors.iter().map(|text| (*text).to_owned()).collect(), limits: None }
    }

    #[test]
    fn figures_are_those_of_requests_that_succeeded() {
        let rounds =
            [round(vec![answer(10, &[1, 3]), answer(30, &[2])], &["no"]), round(vec![answer(50, &[])], &[]), round(vec![], &["no"])];
        let figures = figures(8, &rounds, None).expect("figures");
        assert_eq!(figures.output_tokens_per_s.rounds, [2.5, 0.5]);
        assert_eq!((figures.ttft_p50_ms.rounds, figures.ttft_p99_ms.max), (vec![20.0, 50.0], 50.0));
        assert_eq!(figures.inter_token_p50_ms.map(|gaps| gaps.rounds), Some(vec![2.0]));
        assert_eq!(figures.share_of_peak, None);
        assert!(super::figures(8, &[round(vec![], &["no"])], None).is_none());
    }

    #[test]
    fn a_round_has_enough_requests() {
        assert_eq!([1, 2, 16].map(requests), [4, 4, 32]);
    }
}
