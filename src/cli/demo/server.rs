//! The smallest HTTP server that serves: what the demo's origin and tracker stand on.

use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;

use crate::http::head::HeadWriter;
use crate::http::head::Method;
use crate::http::head::RequestHead;
use crate::ring::listener::Listener;
use crate::ring::runtime;
use crate::shard::callers;

const IDLE_WAIT: Duration = Duration::from_secs(60);

/// What a handler answers.
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

/// Listens on a free loopback port, on a thread and ring of its own, for the process's life.
pub fn start<H>(name: &str, make: impl FnOnce() -> H + Send + 'static) -> io::Result<SocketAddr>
where
    H: Fn(&RequestHead, IpAddr) -> Reply + 'static,
{
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = Listener::bind_shared(any, 1)?
        .pop()
        .expect("one was asked for");
    let addr = listener.local_addr();
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let served: io::Result<()> = runtime::run(async move {
                let handler = Rc::new(make());
                loop {
                    match listener.accept().await {
                        Ok((socket, from)) => {
                            let handler = handler.clone();
                            runtime::spawn(callers::attend(
                                socket,
                                IDLE_WAIT,
                                async move |head: &RequestHead| {
                                    parts(handler(head, from.ip()), head)
                                },
                            ));
                        }
                        Err(error) => tracing::warn!(%error, "the demo's server takes nobody"),
                    }
                }
            });
            if let Err(error) = served {
                let error: io::Error = error;
                tracing::error!(%error, "the demo's server ended");
            }
        })?;
    Ok(addr)
}

fn parts(reply: Reply, asked: &RequestHead) -> Vec<Bytes> {
    let keep = match asked.keep_alive() {
        true => "keep-alive",
        false => "close",
    };
    let mut writer = HeadWriter::response(reply.status)
        .header("Content-Length", reply.body.len())
        .header("Connection", keep);
    for (name, value) in &reply.headers {
        writer = writer.header(name, value);
    }
    let mut parts = vec![writer.finish().into()];
    if !matches!(asked.method, Method::Head) {
        parts.push(reply.body);
    }
    parts
}
