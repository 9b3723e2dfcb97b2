//! Sequences that follow a form from their first token on.

use super::pace::{Pace, SLOW};
use crate::generation::{Constraint, ConstraintState, TokenId, TokenMask};
use llguidance::TokenParser;
use llguidance::api::StopReason;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Most memory of what sequences found out about a form, in bytes.
const MOST_BYTES: usize = 48 << 20;

/// First tokens that are tried when a form is compiled.
const TRIED_TOKENS: usize = 4;

/// A compiled form. What its sequences find out about it they share.
pub(super) struct Followed {
    parser: Mutex<TokenParser>,
    /// Whether following it failed: what its sequences share may be the reason.
    has_failed: Arc<AtomicBool>,
    vocab_size: usize,
}

impl Followed {
    /// The form that `parser` is at the beginning of.
    ///
    /// # Errors
    /// It takes too much memory.
    pub(super) fn new(parser: TokenParser, vocab_size: usize) -> Result<Self, String> {
        check_memory(&parser)?;
        let followed = Self { parser: Mutex::new(parser), has_failed: Arc::default(), vocab_size };
        followed.try_out()?;
        Ok(followed)
    }

    /// Takes the first steps, whose cost is then known: a form that cannot be followed is refused before anybody waits for it.
    fn try_out(&self) -> Result<(), String> {
        for first in 0..TRIED_TOKENS {
            let started = Instant::now();
            let mut state = self.state();
            state.prepare()?;
            let allowed = state.parser.compute_mask().map_err(|error| error.to_string())?;
            let Some(token) = allowed.iter().nth(first) else { break };
            if !state.accept(token)? {
                state.prepare()?;
            }
            if started.elapsed() > SLOW * 4 {
                return Err("it is too complex to be followed".to_owned());
            }
        }
        Ok(())
    }

    /// The state of a sequence that has generated nothing.
    pub(super) fn state(&self) -> Following {
        let parser = self.parser.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Following { parser, mask: TokenMask::none(self.vocab_size), has_failed: self.has_failed.clone(), pace: Pace::default() }
    }

    /// Whether the form is better compiled anew: so much was found out about it, or following it failed.
    pub(super) fn is_spent(&self) -> bool {
        if self.has_failed.load(Ordering::Relaxed) {
            return true;
        }
        let parser = self.parser.lock().unwrap_or_else(PoisonError::into_inner);
        guarded(|| Ok(bytes(&parser) > MOST_BYTES / 2)).unwrap_or(true)
    }
}

impl Constraint for Followed {
    fn begin(&self) -> Box<dyn ConstraintState> {
        Box::new(self.state())
    }
}

impl fmt::Debug for Followed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Followed").finish_non_exhaustive()
    }
}

/// How far one sequence is.
pub(super) struct Following {
    parser: TokenParser,
    mask: TokenMask,
    has_failed: Arc<AtomicBool>,
    pace: Pace,
}

impl Following {
    /// Notes how a step went that began at `started` and came to so many tokens.
    fn note<T>(&mut self, started: Instant, tokens: usize, result: Result<T, String>) -> Result<T, String> {
        let may_go_on = self.pace.note(started.elapsed(), tokens);
        let result = if may_go_on { result } else { Err("its steps take too long".to_owned()) };
        if result.is_err() {
            self.has_failed.store(true, Ordering::Relaxed);
        }
        result
    }

    /// Goes on with several tokens, which need not be those that a model would choose.
    pub(super) fn accept_all(&mut self, tokens: &[TokenId]) -> Result<bool, String> {
        let (started, parser) = (Instant::now(), &mut self.parser);
        let accepted = guarded(|| {
            for &token in tokens {
                parser.consume_token(token).map_err(|error| error.to_string())?;
            }
            parser.check_stop().map_err(|error| error.to_string())
        });
        self.note(started, tokens.len(), accepted)
    }

    /// Whether it can go on with `tokens`; it stays where it is.
    pub(super) fn accepts(&mut self, tokens: &[TokenId]) -> bool {
        let parser = &mut self.parser;
        guarded(|| parser.validate_tokens_raw(tokens).map_err(|error| error.to_string())).is_ok_and(|valid| valid == tokens.len())
    }
}

impl ConstraintState for Following {
    fn prepare(&mut self) -> Result<(), String> {
        let (started, parser, mask) = (Instant::now(), &mut self.parser, &mut self.mask);
        let prepared = guarded(|| {
            if parser.stop_reason() != StopReason::NotStopped {
                mask.set_words(parser.token_env.tok_trie().eos_token_set().as_slice());
                return Ok(());
            }
            let allowed = parser.compute_mask().map_err(|error| error.to_string())?;
            mask.set_words(allowed.as_slice());
            check_memory(parser)
        });
        self.note(started, 0, prepared)
    }

    fn mask(&self) -> Option<&TokenMask> {
        Some(&self.mask)
    }

    fn accept(&mut self, token: TokenId) -> Result<bool, String> {
        self.accept_all(&[token])
    }
}

impl fmt::Debug for Following {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Following").finish_non_exhaustive()
    }
}

fn bytes(parser: &TokenParser) -> usize {
    parser.parser.lexer_stats().num_bytes
}

fn check_memory(parser: &TokenParser) -> Result<(), String> {
    match bytes(parser) {
        bytes if bytes > MOST_BYTES => Err(format!("it takes more than {} MiB", MOST_BYTES >> 20)),
        _ => Ok(()),
    }
}

/// Runs what is written elsewhere: a panic of it is an error of one sequence, not the end of the engine.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("the parser of forms panicked".to_owned()))
}
