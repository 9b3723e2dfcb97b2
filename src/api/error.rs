//! The error object, the same in every answer and inside streams.

use serde::{Deserialize, Serialize};
use utoipa::{IntoResponses, ToSchema};

/// The body of every answer with a status of 400 or more (but the probes'), and of an error event inside a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What is wrong.
    pub error: ErrorObject,
}

/// What a route that reads a body may answer instead: a description alone, no value of it is made.
#[derive(Debug, IntoResponses)]
pub enum BodyErrors {
    /// The request is wrong; the error names the parameter.
    #[response(status = 400)]
    Invalid(ErrorBody),
    /// No API key, or a wrong one.
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// No such model.
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// The body did not arrive in time.
    #[response(status = 408)]
    Late(ErrorBody),
    /// The body is too large.
    #[response(status = 413)]
    TooLarge(ErrorBody),
    /// The body is not declared as JSON.
    #[response(status = 415)]
    NotJson(ErrorBody),
    /// The server failed.
    #[response(status = 500)]
    Failed(ErrorBody),
    /// Overloaded or shutting down; see `Retry-After`.
    #[response(status = 503)]
    Overloaded(ErrorBody),
}

/// An error. All four fields are always there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorObject {
    /// For people.
    pub message: String,
    /// The class of error.
    #[serde(rename = "type")]
    pub kind: ErrorKind,
    /// The parameter that is wrong, e.g. `temperature` or `messages[0].role`.
    #[schema(required = true)]
    pub param: Option<String>,
    /// A stable code for programs, e.g. `context_length_exceeded`.
    #[schema(required = true)]
    pub code: Option<String>,
}

/// Classes of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The request is wrong; sending it again will not help.
    InvalidRequestError,
    /// The API key is missing or wrong.
    AuthenticationError,
    /// The server has too much to do; try later.
    OverloadedError,
    /// The server failed.
    ServerError,
    /// The request took too long.
    TimeoutError,
}
