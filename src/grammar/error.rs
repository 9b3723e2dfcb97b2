//! Why a form is refused.

/// Why a form is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct FormError {
    /// Where in a schema, as a continuation of the parameter's name: `.properties.age.minimum`. Empty for the form as a whole.
    pub path: String,
    /// What is wrong.
    pub problem: String,
}

impl FormError {
    /// The form as a whole is at fault.
    pub fn whole(problem: impl Into<String>) -> Self {
        Self { path: String::new(), problem: problem.into() }
    }
}
