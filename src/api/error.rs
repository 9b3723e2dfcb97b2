//! The error object, the same in every answer and inside streams.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The body of every answer with a status of 400 or more (but the probes'), and of an error event inside a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What is wrong.
    pub error: ErrorObject,
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
