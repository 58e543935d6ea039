//! What an announce asks, checked, whichever way it came.

use std::net::SocketAddr;

use crate::tracker::announce::Event;
use crate::units::InfoHash;

/// Peers of an answer if the client does not say how many.
pub const NUMWANT: usize = 50;

/// A well-formed announce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub info_hash: InfoHash,
    /// The address the announce came from, and the port that it names. What a client says of its
    /// address (`ip`, `ipv6`) is not believed, for it could name a third party.
    pub peer: SocketAddr,
    pub seed: bool,
    pub event: Event,
    /// Peers wished for.
    pub numwant: usize,
    /// Whether peers of the other family are of use: HTTP's answers have room for both (BEP 7),
    /// those of UDP have not (BEP 15).
    pub both_families: bool,
}

/// An announce or scrape that is none: the client's fault. Nothing is kept of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// A well-formed announce that is turned down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("this torrent is not tracked here")]
    NotAllowed,
    #[error("tracker is full")]
    Full,
    #[error("too many torrents from your address")]
    TooMany,
}

impl Refused {
    /// Minutes until another try is worth it (BEP 31); `None`: it never is.
    pub const fn retry_min(self) -> Option<u32> {
        match self {
            Self::NotAllowed => None,
            Self::Full => Some(5),
            Self::TooMany => Some(30),
        }
    }
}
