//! What the server tells its operator.

pub mod logging;
pub mod metrics;
