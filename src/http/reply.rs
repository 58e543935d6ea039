//! A whole reply that lies in memory.

use bytes::Bytes;

use crate::http::head::HeadWriter;

#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    /// Without `Content-Length` and `Connection`.
    pub headers: Vec<(&'static str, String)>,
    /// Not sent after HEAD.
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

    /// What goes before the body.
    pub fn head(&self, keep_alive: bool) -> Vec<u8> {
        let mut writer = HeadWriter::response(self.status)
            .header("Content-Length", self.body.len())
            .header(
                "Connection",
                if keep_alive { "keep-alive" } else { "close" },
            );
        for (name, value) in &self.headers {
            writer = writer.header(name, value);
        }
        writer.finish()
    }
}
