//! Announcing to trackers, and answering announces (BEP 3, 7, 15, 23).

use std::time::Duration;

pub mod announce;
pub mod announcer;
pub mod http;
pub mod registry;
pub mod server;
pub mod udp;

/// A tracker that gave no peers, by its fault or on the way to it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tracker: {why}")]
pub struct TrackerFailed {
    pub why: String,
    pub retry: Retry,
}

/// When a tracker may be asked again (BEP 31).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It did not say: back off.
    BackOff,
    After(Duration),
    Never,
}

impl TrackerFailed {
    /// Not reached, cut off, timed out, or an answer that is none: worth another try.
    pub fn new(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            retry: Retry::BackOff,
        }
    }

    fn lasting(why: &str) -> Self {
        Self {
            why: why.to_owned(),
            retry: Retry::Never,
        }
    }
}
