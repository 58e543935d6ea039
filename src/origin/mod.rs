//! The video's own web server, as a scheduled resource.

mod answer;
pub mod download;
pub mod get;
mod health;
pub mod pool;
mod redirect;
pub mod session;
pub mod tls;
mod transfer;

use std::time::Duration;

/// The origin did not deliver; ends one fetch, never a swarm.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct OriginFailed {
    /// The answer's own error status, where there was one: the stub passes it on.
    pub status: Option<u16>,
    /// How long to wait before asking again; `None`: do not ask again.
    pub retry: Option<Duration>,
    pub why: String,
}

impl OriginFailed {
    /// Asking again would bring the same answer.
    pub fn lasting(why: impl Into<String>) -> Self {
        Self {
            status: None,
            retry: None,
            why: why.into(),
        }
    }

    /// May pass by itself.
    pub fn passing(retry: Duration, why: impl Into<String>) -> Self {
        Self {
            status: None,
            retry: Some(retry),
            why: why.into(),
        }
    }

    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }
}
