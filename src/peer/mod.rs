//! One BitTorrent connection, as a pure machine (BEP 3, 6, 9, 10).

pub mod extension;
pub mod handshake;
pub mod message;
pub mod pace;
pub mod session;

/// What a peer did that ends its connection, never a swarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("peer misbehaved: {why}")]
pub struct PeerMisbehaved {
    /// A few words with dashes, for logs and counters.
    pub why: &'static str,
    /// The address is refused for an hour.
    pub ban: bool,
}

impl PeerMisbehaved {
    pub const fn drop(why: &'static str) -> Self {
        Self { why, ban: false }
    }

    pub const fn ban(why: &'static str) -> Self {
        Self { why, ban: true }
    }
}
