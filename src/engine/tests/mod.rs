//! Tests of the engine on the fake runner: through the core step by step, and through handles and the thread.

mod support;

mod ahead;
mod failures;
mod lifecycle;
mod limits;
mod results;
