//! Compiles what answers must look like, away from the async threads.

use super::error::ApiError;
use super::parse::form::AskedForm;
use crate::generation::{ConstraintRef, TokenId};
use crate::grammar::{Compiler, FormError};
use crate::tokenizer::Tokenizer;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};

/// Stack of a compiling thread: schemas refer to each other in chains, which the library follows by recursion.
const STACK_BYTES: usize = 64 << 20;
/// How long a request waits for its form. Their sizes are limited, so that compiling takes milliseconds; what takes longer is ended by none
/// but itself, and the next form waits for it.
const LONGEST: Duration = Duration::from_secs(2);

/// Compiles forms, one at a time. One per server.
#[derive(Debug)]
pub struct Forms {
    compiler: Option<Arc<Compiler>>,
    turn: Arc<Semaphore>,
}

impl Forms {
    /// For a model with `vocab_size` logits whose texts end with one of `eos`; without a tokenizer every form is refused.
    pub fn new(tokenizer: Option<&Arc<Tokenizer>>, eos: &[TokenId], vocab_size: usize) -> Self {
        let compiler = tokenizer.map(|tokenizer| Arc::new(Compiler::new(tokenizer.clone(), eos.to_vec(), vocab_size)));
        Self { compiler, turn: Arc::new(Semaphore::new(1)) }
    }

    /// Compiles a form.
    ///
    /// # Errors
    /// 400 that names the part of the form that cannot be enforced.
    pub async fn compile(&self, asked: AskedForm) -> Result<ConstraintRef, ApiError> {
        let AskedForm { form, param } = asked;
        let Some(compiler) = self.compiler.clone() else { return Err(ApiError::unsupported(param, "it runs without a tokenizer")) };
        // The semaphore is never closed, so that this cannot fail; without a permit the work would merely begin at once.
        let turn = self.turn.clone().acquire_owned().await;
        let (sender, compiled) = oneshot::channel();
        let work = move || {
            let _turn = turn;
            // Whoever waited may be gone.
            let _ = sender.send(compiler.compile(&form));
        };
        let thread = std::thread::Builder::new().name("form".to_owned()).stack_size(STACK_BYTES).spawn(work);
        thread.map_err(|error| ApiError::Internal { detail: format!("no thread for a form: {error}") })?;
        match tokio::time::timeout(LONGEST, compiled).await {
            Ok(Ok(result)) => result.map_err(|FormError { path, problem }| ApiError::invalid(format!("{param}{path}"), problem)),
            Ok(Err(_)) => Err(ApiError::Internal { detail: "the compiler of forms panicked".to_owned() }),
            Err(_) => Err(ApiError::invalid(param, format!("is too complex: it took more than {} s to compile", LONGEST.as_secs()))),
        }
    }
}
