//! From the bytes of a request to a wire type of [`crate::api`].
//!
//! Used by the routes that take a body. [`body`] reads it within its limits, [`strict`] turns it into a JSON object without duplicate keys,
//! [`decode`] gives that object its type, naming the parameter at fault; it reads values through `objects`, for which arrays are no objects.
//!
//! **Architecture invariant:** whatever arrives ends as a wire type or as an [`ApiError`](super::error::ApiError), in bounded time and memory.

pub mod body;
pub mod decode;
mod objects;
pub mod strict;
