//! The control port: statistics and metrics behind a token.

pub mod api;
pub mod metrics;
pub mod stats;
