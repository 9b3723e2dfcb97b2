//! The server end to end, in-process.

mod answers;
mod errors;
mod lifecycle;
mod logprobs;
mod sockets;
mod support;
mod wire;
