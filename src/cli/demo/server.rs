//! The smallest HTTP server that serves: what the demo's origin and tracker stand on.

use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;

use crate::http::head::Method;
use crate::http::head::RequestHead;
use crate::http::reply::Reply;
use crate::ring::listener::Listener;
use crate::ring::runtime;
use crate::shard::callers;

const IDLE_WAIT: Duration = Duration::from_secs(60);

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
    let mut parts = vec![reply.head(asked.keep_alive()).into()];
    if !matches!(asked.method, Method::Head) {
        parts.push(reply.body);
    }
    parts
}
