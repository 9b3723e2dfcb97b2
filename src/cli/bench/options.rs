//! What `bench` was asked for, beside the configuration.

use super::report::Sampling;
use anyhow::bail;
use clap::{Args, ValueEnum};
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// Largest number in a list: no context and no batch is longer.
const MOST: usize = 1 << 20;

/// The flags of `bench` alone.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Measuring", about = "Measure prefill, decode and HTTP beside this machine's own limits; takes the flags of serve", long_about = None)]
pub struct Options {
    /// Rounds of each measurement; medians and extremes are over them
    #[arg(long, value_name = "N", default_value = "5", value_parser = positive)]
    pub(super) rounds: usize,
    /// Prompt lengths of prefill, as 128,512, or none [default: 512, cut to the model's context]
    #[arg(long, value_name = "TOKENS", value_parser = list)]
    pub(super) prefill: Option<List>,
    /// Numbers of sequences in a step of decode, or none [default: 1,2,4,8,16]
    #[arg(long, value_name = "N", value_parser = list)]
    pub(super) batch: Option<List>,
    /// Tokens that each sequence of decode has in the KV cache, or none [default: 128,1900, cut to the model's context]
    #[arg(long, value_name = "TOKENS", value_parser = list)]
    pub(super) context: Option<List>,
    /// Steps of decode that begin at each context and follow each other
    #[arg(long, value_name = "N", default_value = "16", value_parser = positive)]
    pub(super) decode_steps: usize,
    /// Least time of a round: steps of decode, or a prompt of prefill, are repeated from the same context until it has passed; 0: never
    #[arg(long, value_name = "MS", default_value = "1000", value_parser = clap::value_parser!(u64).range(..=600_000))]
    pub(super) min_round_ms: u64,
    /// Temperature of decode; 0: the likeliest token
    #[arg(long, value_name = "T", default_value = "0", value_parser = |text: &str| within(text, 0.0..=2.0))]
    pub(super) temperature: f32,
    /// Top-p of decode
    #[arg(long, value_name = "P", default_value = "1", value_parser = |text: &str| within(text, 0.01..=1.0))]
    pub(super) top_p: f32,
    /// Alternatives that each token of decode lists with its log-probability [default: no log-probabilities]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(..=20))]
    pub(super) logprobs: Option<u8>,
    /// Numbers of HTTP clients, or none [default: 1,4,16]
    #[arg(long, value_name = "N", value_parser = list)]
    pub(super) http: Option<List>,
    /// Tokens of each prompt over HTTP
    #[arg(long, value_name = "TOKENS", default_value = "128", value_parser = positive)]
    pub(super) http_prompt_tokens: usize,
    /// Tokens of each answer over HTTP
    #[arg(long, value_name = "TOKENS", default_value = "64", value_parser = positive)]
    pub(super) http_output_tokens: usize,
    /// Measure this server over HTTP and nothing else: ours, or any with the OpenAI API. Its key is the first of --api-key
    #[arg(long, value_name = "URL")]
    pub(super) url: Option<String>,
    /// Take prompts from this text, for servers that refuse token ids; their length is then about what was asked, at three words for four tokens
    #[arg(long, value_name = "FILE")]
    pub(super) prompt_text: Option<PathBuf>,
    /// Measure these alone, as decode,http; the limits belong to each of them, but not to --url
    #[arg(long, value_name = "PARTS", value_delimiter = ',')]
    pub(super) only: Vec<Part>,
    /// Write everything that was found to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) output_json: Option<PathBuf>,
    /// Draw it into this file
    #[arg(long, value_name = "FILE")]
    pub(super) output_svg: Option<PathBuf>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// What the machine can do at most.
    Limits,
    /// Prompts without HTTP.
    Prefill,
    /// Tokens without HTTP.
    Decode,
    /// The server under load.
    Http,
}

/// Numbers of a flag, ascending, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct List(pub(super) Vec<usize>);

fn positive(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=MOST).contains(number));
    number.ok_or_else(|| format!("expected a whole number from 1 to {MOST}"))
}

fn within(text: &str, range: RangeInclusive<f32>) -> Result<f32, String> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("expected a number from {} to {}", range.start(), range.end()))
}

fn list(text: &str) -> Result<List, String> {
    if text.trim().is_empty() || text == "none" {
        return Ok(List(Vec::new()));
    }
    let wrong = |_| format!("expected whole numbers from 1 to {MOST} with commas between them, or none");
    let mut numbers = text.split(',').map(|part| positive(part.trim())).collect::<Result<Vec<_>, _>>().map_err(wrong)?;
    numbers.sort_unstable();
    numbers.dedup();
    Ok(List(numbers))
}

impl Options {
    /// Whether `part` is to be measured.
    pub(super) fn wants(&self, part: Part) -> bool {
        let asked = self.only.is_empty() || self.only.contains(&part);
        match part {
            Part::Limits => asked && (self.url.is_none() || !self.only.is_empty()),
            Part::Prefill => asked && self.url.is_none() && self.prefill != Some(List(Vec::new())),
            Part::Decode => {
                asked && self.url.is_none() && !self.batches().is_empty() && self.context.as_ref().is_none_or(|list| !list.0.is_empty())
            }
            Part::Http => asked && !self.clients().is_empty(),
        }
    }

    /// How decode chooses tokens.
    pub(super) fn sampling(&self) -> Sampling {
        Sampling { temperature: self.temperature, top_p: self.top_p, logprobs: self.logprobs }
    }

    /// Whether limits are measured beside what is wanted.
    pub(super) fn needs_limits(&self) -> bool {
        self.wants(Part::Limits) || self.needs_model()
    }

    /// Whether a model is loaded.
    pub(super) fn needs_model(&self) -> bool {
        self.url.is_none() && [Part::Prefill, Part::Decode, Part::Http].into_iter().any(|part| self.wants(part))
    }

    /// Numbers of sequences.
    pub(super) fn batches(&self) -> Vec<usize> {
        self.batch.as_ref().map_or_else(|| vec![1, 2, 4, 8, 16], |list| list.0.clone())
    }

    /// Numbers of HTTP clients.
    pub(super) fn clients(&self) -> Vec<usize> {
        self.http.as_ref().map_or_else(|| vec![1, 4, 16], |list| list.0.clone())
    }

    /// Refuses what cannot be, before anything slow.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if self.url.is_some()
            && let Some(part) = self.only.iter().find(|part| matches!(part, Part::Prefill | Part::Decode))
        {
            let name = format!("{part:?}").to_lowercase();
            bail!("--only {name}: a server of --url can be measured over HTTP alone; leave out one of both");
        }
        let of_steps = [("--prefill", self.prefill.is_some()), ("--batch", self.batch.is_some()), ("--context", self.context.is_some())];
        if self.url.is_some()
            && let Some((flag, _)) = of_steps.into_iter().find(|(_, given)| *given)
        {
            bail!("{flag}: a server of --url can be measured over HTTP alone; leave out one of both");
        }
        if ![Part::Limits, Part::Prefill, Part::Decode, Part::Http].into_iter().any(|part| self.wants(part)) {
            bail!("nothing is left to measure: --only and the lists of --prefill, --batch, --context and --http exclude everything");
        }
        for (flag, file) in [("--output-json", &self.output_json), ("--output-svg", &self.output_svg)] {
            if let Some(file) = file {
                crate::cli::check_output(flag, file)?;
            }
        }
        Ok(())
    }
}

/// The lengths of `flag`: those `asked` for, none above `most`; without them the `default`, cut to it.
pub(super) fn lengths(flag: &str, asked: Option<&List>, default: &[usize], most: usize) -> anyhow::Result<Vec<usize>> {
    let Some(List(asked)) = asked else {
        if let Some(long) = default.iter().find(|length| **length > most) {
            super::progress(&format!("{flag} {long} is cut to {most}, which is what context and KV cache have room for"));
        }
        let mut lengths: Vec<usize> = default.iter().map(|length| (*length).min(most)).filter(|length| *length > 0).collect();
        lengths.dedup();
        return Ok(lengths);
    };
    match asked.iter().find(|length| **length > most) {
        Some(long) => {
            bail!("{flag} {long}: context and KV cache have room for {most}; lower it, or raise --max-model-len or --kv-cache-memory-bytes")
        }
        None => Ok(asked.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Command, FromArgMatches as _};

    fn options(arguments: &[&str]) -> Result<Options, clap::Error> {
        let command = Options::augment_args(Command::new("bench").no_binary_name(true));
        Options::from_arg_matches(&command.try_get_matches_from(arguments)?)
    }

    #[test]
    fn lists_are_sorted_and_may_be_empty() {
        for (text, expected) in [("1", vec![1]), ("16, 1,4,1", vec![1, 4, 16]), ("none", vec![]), ("", vec![])] {
            assert_eq!(list(text), Ok(List(expected)), "{text}");
        }
        for text in ["0", "1,,2", "x", "-1", "1.5", "1048577", "none,1"] {
            assert!(list(text).is_err(), "{text}");
        }
    }

    #[test]
    fn mistakes_name_their_flag() {
        for (arguments, flag) in [
            (["--batch", "0"], "--batch <N>"),
            (["--context", "a"], "--context <TOKENS>"),
            (["--rounds", "0"], "--rounds <N>"),
            (["--top-p", "1.1"], "--top-p <P>"),
            (["--top-p", "0"], "--top-p <P>"),
            (["--temperature", "NaN"], "--temperature <T>"),
            (["--logprobs", "21"], "--logprobs <N>"),
            (["--only", "speed"], "--only <PARTS>"),
            (["--http-output-tokens", "x"], "--http-output-tokens <TOKENS>"),
        ] {
            let error = options(&arguments).expect_err("a mistake");
            assert!(error.exit_code() == 2 && error.to_string().contains(flag), "{error}");
        }
        let checked = |arguments: &[&str]| options(arguments).expect("parses").check();
        let error = checked(&["--output-svg", "no/such/plot.svg"]).expect_err("no directory").to_string();
        assert!(error.starts_with("--output-svg no/such/plot.svg: "), "{error}");
        let error = checked(&["--url", "http://x", "--only", "http,decode"]).expect_err("not both").to_string();
        assert!(error.starts_with("--only decode: "), "{error}");
        assert!(checked(&["--output-json", "x.json"]).is_ok());
    }

    #[test]
    fn parts_are_those_asked_for() {
        let wanted = |arguments: &[&str]| {
            let options = options(arguments).expect("valid");
            let parts = [Part::Limits, Part::Prefill, Part::Decode, Part::Http].map(|part| options.wants(part));
            (parts, options.needs_limits(), options.needs_model())
        };
        assert_eq!(wanted(&[]), ([true; 4], true, true));
        assert_eq!(wanted(&["--only", "limits"]), ([true, false, false, false], true, false));
        assert_eq!(wanted(&["--only", "prefill"]), ([false, true, false, false], true, true));
        assert_eq!(wanted(&["--batch", "none", "--http", "none"]), ([true, true, false, false], true, true));
        assert_eq!(wanted(&["--context", "none", "--prefill", "none"]), ([true, false, false, true], true, true));
        assert_eq!(wanted(&["--url", "http://x"]), ([false, false, false, true], false, false));
        assert_eq!(wanted(&["--url", "http://x", "--only", "limits,http"]), ([true, false, false, true], true, false));
    }

    #[test]
    fn defaults_are_cut_to_the_context_and_wishes_refused() {
        let cut = |asked: Option<Vec<usize>>| lengths("--context", asked.map(List).as_ref(), &[128, 1900], 496);
        assert_eq!(cut(None).expect("cut"), [128, 496]);
        assert_eq!(cut(Some(vec![16, 496])).expect("they fit"), [16, 496]);
        let error = cut(Some(vec![16, 497])).expect_err("too long").to_string();
        assert!(error.starts_with("--context 497: context and KV cache have room for 496"), "{error}");
        assert_eq!(lengths("--context", None, &[128, 1900], 100).expect("cut"), [100]);
    }
}
