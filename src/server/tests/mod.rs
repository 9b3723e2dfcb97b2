//! The server end to end, in-process.

mod answers;
mod errors;
mod extras;
mod lifecycle;
mod logprobs;
mod sockets;
mod support;
mod tokens;
mod wire;
