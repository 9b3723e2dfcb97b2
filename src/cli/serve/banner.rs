//! What a start says on standard output: where it listens, what it serves, and a line to paste.

use std::fmt;
use std::time::Duration;

/// The facts of a start.
#[derive(Clone, Debug)]
pub(super) struct Banner {
    /// Address as a client writes it, without a slash at the end.
    pub(super) url: String,
    /// Name of the model for clients.
    pub(super) name: String,
    /// Where it comes from: `embedded` or a directory.
    pub(super) source: String,
    /// Number of parameters.
    pub(super) parameters: u64,
    /// Bytes of the weights.
    pub(super) weight_bytes: u64,
    /// Type of the weights.
    pub(super) dtype: String,
    /// Backend, kernel variant and threads.
    pub(super) kernels: String,
    /// Tokens that fit the KV cache.
    pub(super) kv_tokens: usize,
    /// Its bytes.
    pub(super) kv_bytes: u64,
    /// Its type.
    pub(super) kv_dtype: String,
    /// Longest prompt and output together.
    pub(super) max_model_len: usize,
    /// Name of the chat template; `None` where token ids are served alone.
    pub(super) template: Option<String>,
    /// Keys of which a request must bring one; 0 lets everyone in.
    pub(super) api_keys: usize,
    /// How long the start took.
    pub(super) startup: Duration,
}

impl fmt::Display for Banner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let template = self.template.as_deref().unwrap_or("none: token ids only");
        let weights = (grouped(self.parameters), &self.dtype, megabytes(self.weight_bytes));
        writeln!(f, "openelm-server {}", env!("CARGO_PKG_VERSION"))?;
        writeln!(f, "  listens on     {url}  (OpenAI API: {url}/v1)", url = self.url)?;
        writeln!(f, "  serves         {} ({}): {} parameters, {}, {}", self.name, self.source, weights.0, weights.1, weights.2)?;
        writeln!(f, "  computes on    {}", self.kernels)?;
        let cache = (grouped(self.kv_tokens as u64), &self.kv_dtype, megabytes(self.kv_bytes));
        writeln!(f, "  KV cache       {} tokens, {}, {}", cache.0, cache.1, cache.2)?;
        writeln!(f, "  context        {} tokens", grouped(self.max_model_len as u64))?;
        writeln!(f, "  chat template  {template}")?;
        match self.api_keys {
            0 => writeln!(f, "  API keys       none: whoever reaches the port is served")?,
            count => writeln!(f, "  API keys       {count}")?,
        }
        writeln!(f, "  ready after    {:.2} s", self.startup.as_secs_f64())?;
        writeln!(f, "\nTry it:\n  {}", self.curl())
    }
}

impl Banner {
    /// A request to paste into a shell.
    fn curl(&self) -> String {
        let key = if self.api_keys > 0 { "-H \"Authorization: Bearer $OPENELM_API_KEY\" " } else { "" };
        // A name that a shell or JSON would read otherwise is left out: without one the server takes the model it has.
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-/:".contains(c);
        let model = if self.name.chars().all(is_plain) { format!("\"model\": \"{}\", ", self.name) } else { String::new() };
        let (path, prompt) = match self.template {
            Some(_) => ("chat/completions", r#""messages": [{"role": "user", "content": "Tell me a story about a fox."}]"#),
            None => ("completions", r#""prompt": [1, 2, 3], "return_token_ids": true"#),
        };
        format!("curl {}/v1/{path} {key}-H 'Content-Type: application/json' -d '{{{model}{prompt}}}'", self.url)
    }
}

/// 1234567 as 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn banner() -> Banner {
        Banner {
            url: "http://127.0.0.1:8000".to_owned(),
            name: "openelm-demo".to_owned(),
            source: "embedded".to_owned(),
            parameters: 5_070_000,
            weight_bytes: 10_140_000,
            dtype: "bfloat16".to_owned(),
            kernels: "cpu avx512 (2 threads)".to_owned(),
            kv_tokens: 32_768,
            kv_bytes: 234_881_024,
            kv_dtype: "bfloat16".to_owned(),
            max_model_len: 512,
            template: Some("tokenizer_config.json".to_owned()),
            api_keys: 0,
            startup: Duration::from_millis(123),
        }
    }

    #[test]
    fn it_says_all_that_was_promised() {
        let expected = "\
listens on     http://127.0.0.1:8000  (OpenAI API: http://127.0.0.1:8000/v1)
  serves         openelm-demo (embedded): 5,070,000 parameters, bfloat16, 10.1 MB
  computes on    cpu avx512 (2 threads)
  KV cache       32,768 tokens, bfloat16, 234.9 MB
  context        512 tokens
  chat template  tokenizer_config.json
  API keys       none: whoever reaches the port is served
  ready after    0.12 s

Try it:
  curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' -d \
'{\"model\": \"openelm-demo\", \"messages\": [{\"role\": \"user\", \"content\": \"Tell me a story about a fox.\"}]}'
";
        let text = banner().to_string();
        assert_eq!(text.split_once("\n  ").map(|(_, rest)| rest), Some(expected));
    }

    #[test]
    fn the_line_to_paste_fits_keys_odd_names_and_token_ids() {
        let with_key = Banner { api_keys: 1, ..banner() };
        assert!(with_key.curl().contains("Bearer $OPENELM_API_KEY"));
        let odd = Banner { name: "it's \"mine\"".to_owned(), ..banner() };
        assert!(!odd.curl().contains("mine"));
        let ids = Banner { template: None, ..banner() };
        assert!(ids.curl().contains("/v1/completions") && ids.to_string().contains("none: token ids only"));
    }

    #[test]
    fn it_says_how_many_keys_there_are() {
        let with_keys = Banner { api_keys: 3, ..banner() };
        assert!(with_keys.to_string().contains("\n  API keys       3\n"));
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
