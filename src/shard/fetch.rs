//! One small document from the web: a torrent file, a tracker's answer.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::ClientConfig;
use url::Url;

use crate::http::head::ResponseHead;
use crate::origin::OriginFailed;
use crate::origin::get::Get;
use crate::origin::get::Output;
use crate::origin::pool::ConnKey;
use crate::origin::tls::Tls;
use crate::reach::Reach;
use crate::ring::buffers::Buffer;
use crate::ring::runtime;
use crate::ring::stream::Receiver;
use crate::ring::stream::Sender;
use crate::shard::Shard;
use crate::shard::origin;
use crate::units::Time;

const RECEIVE_LEN: usize = 64 * 1024;
/// Peer addresses of one magnet that are looked up.
const ADDRESSES_MAX: usize = 64;
const LOOKUP_WAIT: Duration = Duration::from_secs(5);
/// A server that takes none of a request for this long is gone.
const SEND_STALL: Duration = Duration::from_secs(10);

/// What a server answered with 200.
pub struct Document {
    pub head: Option<ResponseHead>,
    pub body: Vec<u8>,
}

/// The whole body, at most `limit` bytes; any status but 200 is a failure.
pub async fn get(shard: &Rc<Shard>, url: Url, limit: usize) -> Result<Vec<u8>, OriginFailed> {
    Ok(document(shard, url, limit).await?.body)
}

/// The same with what its head says of it.
pub async fn document(shard: &Rc<Shard>, url: Url, limit: usize) -> Result<Document, OriginFailed> {
    let shared = &shard.shared;
    let get = Get::new(runtime::now(), url, &shared.agent, limit);
    carry(&shared.reach, &shared.tls, get).await
}

/// To its end, by whatever connections it asks for.
pub async fn carry(
    reach: &Reach,
    tls: &Arc<ClientConfig>,
    mut get: Get,
) -> Result<Document, OriginFailed> {
    let mut line: Option<Line> = None;
    loop {
        while let Some(output) = get.poll_output() {
            match output {
                Output::Connect { conn, url } => {
                    let opened = Line::open(reach, tls, conn, &url).await;
                    let result = opened.map(|opened| line = Some(opened));
                    get.handle_connected(runtime::now(), conn, result);
                }
                Output::Send { bytes, conn } => {
                    let sent = match line.as_mut() {
                        Some(line) => line.send(&bytes).await,
                        None => false,
                    };
                    if !sent {
                        get.handle_broken(runtime::now(), conn);
                    }
                }
                Output::Close { .. } => line = None,
                Output::Done(body) => {
                    let head = get.head().cloned();
                    return Ok(Document { head, body });
                }
                Output::Failed(error) => return Err(error),
            }
        }
        let Some(open) = line.as_mut() else {
            return Err(OriginFailed::lasting("the connection ended"));
        };
        open.receive(&mut get).await;
    }
}

/// A machine that speaks over one connection at a time.
pub(in crate::shard) trait Machine {
    fn handle_bytes(&mut self, now: Time, conn: ConnKey, bytes: &[u8]) -> usize;
    fn handle_closed(&mut self, now: Time, conn: ConnKey);
    fn handle_broken(&mut self, now: Time, conn: ConnKey);
    fn next_timeout(&self) -> Time;
    fn handle_timeout(&mut self, now: Time);
}

impl Machine for Get {
    fn handle_bytes(&mut self, now: Time, conn: ConnKey, bytes: &[u8]) -> usize {
        Self::handle_bytes(self, now, conn, bytes)
    }

    fn handle_closed(&mut self, now: Time, conn: ConnKey) {
        Self::handle_closed(self, now, conn);
    }

    fn handle_broken(&mut self, now: Time, conn: ConnKey) {
        Self::handle_broken(self, now, conn);
    }

    fn next_timeout(&self) -> Time {
        Self::next_timeout(self)
    }

    fn handle_timeout(&mut self, now: Time) {
        Self::handle_timeout(self, now);
    }
}

/// The one connection of a [`Machine`].
pub(in crate::shard) struct Line {
    conn: ConnKey,
    receiver: Receiver,
    sender: Sender,
    tls: Option<Tls>,
}

impl Line {
    pub async fn open(
        reach: &Reach,
        tls: &Arc<ClientConfig>,
        conn: ConnKey,
        url: &Url,
    ) -> Result<Self, OriginFailed> {
        let (stream, tls) = origin::open(reach, tls, url).await?;
        let (receiver, mut sender) = stream.split();
        sender.set_stall(SEND_STALL);
        Ok(Self {
            conn,
            receiver,
            sender,
            tls,
        })
    }

    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        let Some(tls) = self.tls.as_mut() else {
            return self.sender.send_all(bytes.to_vec(), false).await.is_ok();
        };
        tls.send_plain(bytes);
        self.send_cipher().await
    }

    async fn send_cipher(&mut self) -> bool {
        while let Some(cipher) = self.tls.as_mut().and_then(Tls::poll_cipher) {
            if self.sender.send_all(cipher, false).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Takes what the server says next, or its silence.
    pub async fn receive(&mut self, get: &mut impl Machine) {
        let wait = get.next_timeout().since(runtime::now());
        let buffer = Buffer::take(RECEIVE_LEN);
        let (result, buffer) = self.receiver.recv(buffer, Some(wait)).await;
        let now = runtime::now();
        match result {
            Ok(0) if self.tls.as_ref().is_none_or(Tls::closed_cleanly) => {
                get.handle_closed(now, self.conn);
            }
            Ok(1..) => self.feed(get, buffer.bytes()).await,
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => get.handle_timeout(now),
            Ok(0) | Err(_) => get.handle_broken(now, self.conn),
        }
    }

    async fn feed(&mut self, get: &mut impl Machine, bytes: &[u8]) {
        let now = runtime::now();
        let Some(tls) = self.tls.as_mut() else {
            feed_plain(get, self.conn, bytes);
            return;
        };
        let alive = tls.handle_cipher(bytes).is_ok();
        while let Some(plain) = tls.poll_plain() {
            feed_plain(get, self.conn, &plain);
        }
        let closed = tls.closed_cleanly();
        let sent = self.send_cipher().await;
        if closed {
            get.handle_closed(now, self.conn);
        } else if !alive || !sent {
            get.handle_broken(now, self.conn);
        }
    }
}

fn feed_plain(get: &mut impl Machine, conn: ConnKey, bytes: &[u8]) {
    let mut at = 0;
    while at < bytes.len() {
        let used = get.handle_bytes(runtime::now(), conn, &bytes[at..]);
        if used == 0 {
            break;
        }
        at += used;
    }
}

/// `host:port` texts as addresses (`x.pe` of a magnet); what is not known is left out.
pub async fn addresses(texts: &[String]) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for text in texts.iter().take(ADDRESSES_MAX) {
        if let Ok(addr) = text.parse() {
            found.push(addr);
        } else if let Some((name, port)) = text.rsplit_once(':')
            && let Ok(port) = port.parse()
            && let Ok(Ok(addrs)) =
                tokio::time::timeout(LOOKUP_WAIT, runtime::resolve(name, port)).await
        {
            found.extend(addrs.into_iter().take(4));
        }
    }
    found
}
