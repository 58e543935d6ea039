//! What a fetch of the search brought: a torrent, or why there is none.

use std::time::Duration;

use crate::http::pin::Pin;
use crate::torrent::metainfo::Metainfo;
use crate::torrent::metainfo::TORRENT_LEN_MAX;

/// A body that came, as metainfo or why it is none. To be read on a shard only if it is short.
pub struct Body {
    pub(in crate::resolve::discover) metainfo: Result<Box<Metainfo>, &'static str>,
    pub(in crate::resolve::discover) pin: Pin,
}

impl Body {
    pub fn read(bytes: &[u8]) -> Self {
        let metainfo = if bytes.len() > TORRENT_LEN_MAX {
            Err("too-long")
        } else {
            Metainfo::parse(bytes).map_err(|bad| bad.reason)
        };
        Self {
            metainfo: metainfo.map(Box::new),
            pin: Pin::default(),
        }
    }

    /// Of this version of the video ([`Pin::of_stamp`]), which only a registry's word is taken for.
    #[must_use]
    pub fn stamped(self, pin: Pin) -> Self {
        Self { pin, ..self }
    }
}

/// Why there is no body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfound {
    /// What the server answered, if it did.
    pub status: Option<u16>,
    /// How long it asks to wait.
    pub retry: Option<Duration>,
    pub why: String,
}

/// Whether a server that answered so, or not at all, may answer otherwise a moment later.
pub const fn is_passing(status: Option<u16>) -> bool {
    matches!(status, None | Some(408 | 429 | 500..))
}
