//! The compiler: from a form to a constraint, with limits, and a memory of what was compiled lately.

use super::calls::Calls;
use super::follow::{Followed, guarded};
use super::trigger::Triggered;
use super::{Form, FormError, lark, schema, vocabulary};
use crate::generation::{ConstraintRef, TokenId};
use crate::tokenizer::Tokenizer;
use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{InferenceCapabilities, TokEnv};
use llguidance::{ParserFactory, TokenParser};
use lru::LruCache;
use serde_json::Value;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Longest form, as JSON, in bytes.
const MOST_BYTES: usize = 32 << 10;
/// Forms that are remembered, each with what its sequences found out about it.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(16).unwrap();

/// What compiling and following may cost; the time and memory in comments are `llguidance`'s figures.
fn limits() -> ParserLimits {
    ParserLimits {
        initial_lexer_fuel: 1_000_000, // 20 ms
        step_lexer_fuel: 50_000,       // 4 ms
        step_max_items: 20_000,        // 1 ms
        max_lexer_states: 20_000,      // 20 to 40 MB
        max_grammar_size: 200_000,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

/// Compiles forms for one model. What it needs of the vocabulary is made when the first form comes.
pub struct Compiler {
    tokenizer: Arc<Tokenizer>,
    eos: Vec<TokenId>,
    vocab_size: usize,
    factory: OnceLock<Option<ParserFactory>>,
    compiled: Mutex<LruCache<blake3::Hash, Compiled>>,
}

impl Compiler {
    /// For a model with `vocab_size` logits whose texts end with one of `eos`.
    pub fn new(tokenizer: Arc<Tokenizer>, eos: Vec<TokenId>, vocab_size: usize) -> Self {
        Self { tokenizer, eos, vocab_size, factory: OnceLock::new(), compiled: Mutex::new(LruCache::new(REMEMBERED)) }
    }

    /// Compiles a form, in some milliseconds, or tens of them; one that was compiled lately is there at once.
    ///
    /// # Errors
    /// Why the form cannot be enforced, and which part of it is at fault.
    pub fn compile(&self, form: &Form) -> Result<ConstraintRef, FormError> {
        let text = serde_json::to_vec(form).map_err(|error| FormError::whole(error.to_string()))?;
        if text.len() > MOST_BYTES {
            return Err(FormError::whole(format!("must have at most {MOST_BYTES} bytes, got {}", text.len())));
        }
        let key = blake3::hash(&text);
        let known = self.memory().get(&key).cloned();
        let compiled = match known.filter(|known| !known.is_spent()) {
            Some(known) => known,
            None => self.compile_new(form)?,
        };
        self.memory().put(key, compiled.clone());
        Ok(compiled.constraint())
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, LruCache<blake3::Hash, Compiled>> {
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn compile_new(&self, form: &Form) -> Result<Compiled, FormError> {
        let factory = self.factory()?;
        let follow = |grammar| self.parser(factory, grammar).and_then(|parser| self.follow(parser));
        let followed = match form {
            Form::JsonObject => follow(json_schema(&serde_json::json!({"type": "object"}))),
            Form::JsonSchema(schema) => {
                schema::check(schema)?;
                return match follow(json_schema(schema)) {
                    Ok(followed) => Ok(Compiled::Followed(Arc::new(followed))),
                    Err(problem) => Err(self.blame(factory, schema, problem)),
                };
            }
            Form::Regex(regex) => follow(TopLevelGrammar::from_lark(lark::of_regex(regex)?)),
            Form::Choice(texts) => follow(TopLevelGrammar::from_lark(lark::choice(texts)?)),
            Form::Grammar(grammar) => follow(TopLevelGrammar::from_lark(lark::checked(grammar)?)),
            Form::Calls(calls) => return self.compile_calls(factory, calls),
        };
        Ok(Compiled::Followed(Arc::new(followed.map_err(FormError::whole)?)))
    }

    fn compile_calls(&self, factory: &ParserFactory, calls: &Calls) -> Result<Compiled, FormError> {
        for (path, parameters) in calls.schemas() {
            schema::check(parameters).map_err(|error| FormError { path: format!("{path}{}", error.path), ..error })?;
        }
        let grammar = TopLevelGrammar::from_lark(calls.grammar());
        let parser = self.parser(factory, grammar);
        let followed = match parser.and_then(|parser| self.follow(parser)) {
            Ok(followed) => followed,
            Err(problem) => return Err(self.blame_calls(factory, calls, problem)),
        };
        if calls.is_optional() {
            let environment: TokEnv = factory.tok_env().clone();
            return Ok(Compiled::Triggered(Arc::new(Triggered::new(followed, calls.syntax.open.as_bytes(), environment, self.vocab_size))));
        }
        Ok(Compiled::Followed(Arc::new(followed)))
    }

    /// The first schema that does not compile by itself.
    fn blame_calls(&self, factory: &ParserFactory, calls: &Calls, problem: String) -> FormError {
        if let Some(Err(error)) = calls.answer().map(|form| self.compile_new(&form)) {
            return error;
        }
        let fails = |(path, schema)| Some((path, schema, self.parser(factory, json_schema(schema)).err()?));
        match calls.schemas().find_map(fails) {
            Some((path, schema, problem)) => {
                let error = self.blame(factory, schema, problem);
                FormError { path: format!("{path}{}", error.path), ..error }
            }
            None => FormError::whole(format!("cannot be enforced: {problem}")),
        }
    }

    fn blame(&self, factory: &ParserFactory, schema: &Value, problem: String) -> FormError {
        schema::blame(schema, problem, &|part| self.parser(factory, json_schema(part)).map(|_| ()))
    }

    fn factory(&self) -> Result<&ParserFactory, FormError> {
        let made = self.factory.get_or_init(|| {
            let environment = vocabulary::environment(&self.tokenizer, &self.eos, self.vocab_size)?;
            let slices = SlicedBiasComputer::general_slices();
            let mut factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices).ok()?;
            factory.quiet();
            *factory.limits_mut() = limits();
            Some(factory)
        });
        made.as_ref().ok_or_else(|| FormError::whole("needs a model whose texts end with a token, which this one's do not"))
    }

    /// The form that `parser` is at the beginning of, if it can be followed.
    fn follow(&self, parser: TokenParser) -> Result<Followed, String> {
        Followed::new(parser, self.vocab_size).map_err(plain)
    }

    /// A parser at the beginning of `grammar`.
    fn parser(&self, factory: &ParserFactory, grammar: TopLevelGrammar) -> Result<TokenParser, String> {
        guarded(|| {
            let mut parser = factory.create_parser(grammar).map_err(|error| one_line(&error.to_string()))?;
            parser.start_without_prompt();
            match parser.error_message() {
                None => Ok(parser),
                Some(error) => Err(one_line(&error)),
            }
        })
    }
}

/// A form, compiled.
#[derive(Clone, Debug)]
enum Compiled {
    Followed(Arc<Followed>),
    Triggered(Arc<Triggered>),
}

impl Compiled {
    fn constraint(&self) -> ConstraintRef {
        ConstraintRef(match self {
            Self::Followed(followed) => followed.clone(),
            Self::Triggered(triggered) => triggered.clone(),
        })
    }

    /// Whether it is better compiled anew.
    fn is_spent(&self) -> bool {
        match self {
            Self::Followed(followed) => followed.is_spent(),
            Self::Triggered(triggered) => triggered.is_spent(),
        }
    }
}

impl std::fmt::Debug for Compiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiler").field("vocab_size", &self.vocab_size).finish_non_exhaustive()
    }
}

fn json_schema(schema: &Value) -> TopLevelGrammar {
    TopLevelGrammar::from_json_schema(schema::prepared(schema))
}

/// The message of an error on one line, as short as a client can use it.
fn one_line(error: &str) -> String {
    if error.starts_with("panic:") || error.contains("<backtrace>") {
        // Without the error, which may quote the form; what panicked has said where.
        tracing::error!("the compiler of forms failed");
        return "the compiler failed".to_owned();
    }
    let lines: Vec<&str> = error.lines().map(str::trim).filter(|line| !line.is_empty() && *line != "<non-verbose/>").collect();
    plain(lines.join("; "))
}

/// A problem without the library's own names for it, which nobody can look up.
fn plain(problem: String) -> String {
    const WORDS: [(&str, &str); 2] = [
        ("NoExtensionBias", "no text has this form: nothing may follow its first tokens"),
        ("coerce_one_of", "several of its schemas may hold at once; use 'anyOf' where that does not matter"),
    ];
    WORDS.iter().find(|(name, _)| problem.contains(name)).map_or(problem, |(_, words)| (*words).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_librarys_own_names_do_not_reach_users() {
        for own in ["NoExtensionBias", "oneOf constraints are not supported. Enable 'coerce_one_of' option to approximate oneOf with anyOf"]
        {
            let words = one_line(own);
            assert!(!words.contains("Bias") && !words.contains("coerce"), "{words}");
        }
        assert_eq!(one_line("a\n<non-verbose/>\n b"), "a; b");
    }
}
