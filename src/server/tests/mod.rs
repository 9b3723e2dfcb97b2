//! The server end to end, in-process.

mod answers;
mod errors;
mod extras;
mod fuzz;
mod lifecycle;
mod logprobs;
mod sockets;
mod streams;
mod structured;
mod support;
mod tokens;
mod tools;
mod wire;
