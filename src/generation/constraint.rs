//! Forms that a text must have, followed token by token.
//!
//! The engine asks a state before each token which ones may come, and tells it which one came. What a form is, and how it is
//! compiled, is none of the engine's business.

use super::{TokenId, TokenMask};
use std::fmt::Debug;
use std::sync::Arc;

/// A form, ready to be followed by any number of sequences.
pub trait Constraint: Debug + Send + Sync {
    /// The state of a sequence that has generated nothing.
    fn begin(&self) -> Box<dyn ConstraintState>;
}

/// How far one sequence is in a form.
pub trait ConstraintState: Debug + Send {
    /// Finds the tokens that may come next; [`Self::mask`] tells them.
    ///
    /// # Errors
    /// Why the form cannot be followed any further: it became too complex.
    fn prepare(&mut self) -> Result<(), String>;

    /// The tokens that may come next, as of [`Self::prepare`]; `None` = all.
    fn mask(&self) -> Option<&TokenMask>;

    /// Goes on with a token that may come. True if the text is complete and nothing can follow it.
    ///
    /// # Errors
    /// Why the form cannot be followed any further.
    fn accept(&mut self, token: TokenId) -> Result<bool, String>;
}

/// A form that a request names. Two are equal if they are the same one.
#[derive(Clone, Debug)]
pub struct ConstraintRef(pub Arc<dyn Constraint>);

impl PartialEq for ConstraintRef {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
