//! The seam at which videos' torrents are asked for and registered: `/metainfo`.

use std::net::IpAddr;

use bytes::Bytes;

use crate::http::head::Headers;
use crate::http::head::Method;
use crate::shard::registry::Answer;
use crate::shard::registry::Door;

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

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        let Answer {
            status,
            headers,
            body,
        } = answer;
        Self {
            status,
            headers,
            body,
        }
    }
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

/// A tracker may have none.
pub struct Registry(pub Option<Door>);

impl Registry {
    /// May take its time: the connection waits.
    pub async fn answer(&self, request: Request) -> Reply {
        let Some(door) = &self.0 else {
            return Reply::new(404, "text/plain", "this tracker has no registry\n");
        };
        let Request {
            method,
            query,
            headers,
            body,
            ..
        } = request;
        door.answer(method, &query, &headers, body).await.into()
    }

    /// Before the body of a PUT is read: the reply that needs none of it, if there is one.
    pub async fn refusal(&self, query: &str, headers: &Headers) -> Option<Reply> {
        let answer = self.0.as_ref()?.refusal(query, headers).await;
        answer.map(Reply::from)
    }
}
