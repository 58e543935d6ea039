//! The seam at which videos' torrents are asked for and registered: `/metainfo`.

use std::net::IpAddr;

use bytes::Bytes;

use crate::http::head::Headers;
use crate::http::head::Method;

/// Bytes of a torrent that is put; more is 413.
pub const BODY_LEN_MAX: u64 = 16 << 20;

/// A request for `/metainfo`: GET, HEAD or PUT.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: Method,
    /// Behind the `?`, still percent-encoded.
    pub query: String,
    pub headers: Headers,
    /// Who asks, as trusted proxies say.
    pub client: IpAddr,
    /// All of it, up to [`BODY_LEN_MAX`].
    pub body: Bytes,
}

/// What goes back. `Content-Length` and `Connection` are added, and HEAD gets no body.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
}

impl Reply {
    pub fn new(status: u16, kind: &str, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            headers: vec![("Content-Type", kind.to_owned())],
            body: body.into(),
        }
    }

    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// A tracker without a registry.
pub struct Registry;

impl Registry {
    /// May take its time: the connection waits.
    pub async fn answer(&self, _request: Request) -> Reply {
        Reply::new(404, "text/plain", "this tracker has no registry\n")
    }
}
