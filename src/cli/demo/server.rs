//! The smallest HTTP server that serves: what the demo's origin and tracker stand on.

use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;

use crate::http::head;
use crate::http::head::HeadWriter;
use crate::http::head::Method;
use crate::http::head::RequestHead;
use crate::ring::buffers::Buffer;
use crate::ring::listener::Listener;
use crate::ring::runtime;
use crate::ring::stream::Socket;
use crate::ring::stream::Stream;

const HEAD_LEN: usize = 24 * 1024;
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
                            runtime::spawn(attend(socket, from.ip(), handler.clone()));
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

async fn attend<H>(socket: Socket, from: IpAddr, handler: Rc<H>)
where
    H: Fn(&RequestHead, IpAddr) -> Reply + 'static,
{
    let (mut receiver, mut sender) = Stream::new(socket).split();
    let mut buffer = Buffer::take(HEAD_LEN);
    loop {
        let head = match head::parse_request(buffer.bytes()) {
            Ok(Some(head)) => head,
            Ok(None) if buffer.room() > 0 => {
                let (result, filled) = receiver.recv(buffer, Some(IDLE_WAIT)).await;
                buffer = filled;
                if !matches!(result, Ok(1..)) {
                    return;
                }
                continue;
            }
            Ok(None) | Err(_) => return,
        };
        buffer.consume(head.len);
        buffer.compact();
        let reply = handler(&head, from);
        let keep = if head.keep_alive() {
            "keep-alive"
        } else {
            "close"
        };
        let mut writer = HeadWriter::response(reply.status)
            .header("Content-Length", reply.body.len())
            .header("Connection", keep);
        for (name, value) in &reply.headers {
            writer = writer.header(name, value);
        }
        let bare = matches!(head.method, Method::Head);
        if sender.send_all(writer.finish(), !bare).await.is_err() {
            return;
        }
        if !bare && sender.send_all(reply.body, false).await.is_err() {
            return;
        }
        if !head.keep_alive() {
            return;
        }
    }
}
