//! Announces, scrapes, pages and the registry by HTTP: one task a connection.

use std::collections::btree_map::Entry;
use std::net::IpAddr;
use std::net::Ipv6Addr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use crate::http::head;
use crate::http::head::BadRequest;
use crate::http::head::HeadWriter;
use crate::http::head::Method;
use crate::http::head::RequestHead;
use crate::http::reply::Reply;
use crate::ring::buffers;
use crate::ring::buffers::Buffer;
use crate::ring::listener::Listener;
use crate::ring::runtime;
use crate::ring::stream::Receiver;
use crate::ring::stream::Sender;
use crate::ring::stream::Socket;
use crate::ring::stream::Stream;
use crate::shard::registry;
use crate::shard::tracking::desk::Desk;
use crate::tracker::registry::BODY_LEN_MAX;
use crate::tracker::server::asked::Malformed;
use crate::tracker::server::http;
use crate::tracker::server::proxies;
use crate::units::Time;

/// A head comes within this from its first byte (R25).
const HEAD_WAIT: Duration = Duration::from_secs(10);
/// A silent connection is kept for so long, or for so long where connections run short.
const IDLE_WAIT: Duration = Duration::from_secs(30);
const IDLE_WAIT_SHORT: Duration = Duration::from_secs(1);
/// They run short from so many hundredths on.
const CROWDED: usize = 80;
/// A body comes within this.
const BODY_WAIT: Duration = Duration::from_secs(60);
/// An answer of which the other side takes nothing for so long ends the connection.
const STALL_MAX: Duration = Duration::from_secs(10);
/// Connections of one household (R26); proxies that are trusted, and this machine, may have more.
const OF_ADDRESS_MAX: usize = 64;
/// Bodies that are read at a time, on one shard.
const BODIES_MAX: usize = 4;
/// Answers to pipelined requests are sent once they are so long together.
const ANSWERS_LEN: usize = 64 * 1024;
/// A head grows into the next larger buffer, but no further.
const HEAD_LEN: usize = head::HEAD_LEN_MAX + 1;

const TEXT: &str = "text/plain; charset=utf-8";

/// Takes callers in, for ever.
pub async fn accept(desk: Rc<Desk>, listener: Listener) {
    loop {
        while desk.connections.get() >= desk.shared.connections_max {
            desk.room.notified().await;
        }
        match listener.accept().await {
            Ok((socket, from)) => {
                let from = from.ip().to_canonical();
                if let Some(seat) = Seat::take(&desk, from) {
                    runtime::spawn(attend(desk.clone(), socket, seat));
                }
            }
            Err(error) => tracing::warn!(%error, "no caller can be taken in"),
        }
    }
}

/// One connection's place among those that there may be.
struct Seat {
    desk: Rc<Desk>,
    from: IpAddr,
}

impl Seat {
    fn take(desk: &Rc<Desk>, from: IpAddr) -> Option<Self> {
        let trusted = desk
            .shared
            .trusted
            .iter()
            .any(|network| network.holds(from));
        let mut callers = desk.callers.borrow_mut();
        let count = callers.entry(home(from)).or_default();
        if *count >= OF_ADDRESS_MAX && !trusted && !from.is_loopback() {
            return None;
        }
        *count += 1;
        desk.connections.set(desk.connections.get() + 1);
        Some(Self {
            desk: desk.clone(),
            from,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut callers = self.desk.callers.borrow_mut();
        if let Entry::Occupied(mut count) = callers.entry(home(self.from)) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        self.desk.connections.set(self.desk.connections.get() - 1);
        self.desk.room.notify_one();
    }
}

/// An address of IPv4, a /64 of IPv6: what one household has.
fn home(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
    }
}

async fn attend(desk: Rc<Desk>, socket: Socket, seat: Seat) {
    let (receiver, mut sender) = Stream::new(socket).split();
    sender.set_stall(STALL_MAX);
    let mut caller = Caller {
        desk,
        receiver,
        sender,
        buffer: Some(Buffer::take(buffers::SMALL)),
        out: Vec::new(),
        from: seat.from,
    };
    // An error of the connection is its end.
    let _ = caller.attend().await;
}

/// The connection is done for.
struct Gone;

struct Caller {
    desk: Rc<Desk>,
    receiver: Receiver,
    sender: Sender,
    /// Away while something is received.
    buffer: Option<Buffer>,
    /// Answers that are not sent yet.
    out: Vec<u8>,
    from: IpAddr,
}

impl Caller {
    async fn attend(&mut self) -> Result<(), Gone> {
        let mut begun: Option<Time> = None;
        // Who connects mostly asks at once.
        let buffer = self.buffer.as_mut().expect("nothing was received yet");
        if let Some(received) = self.receiver.recv_now(buffer) {
            received.ok().filter(|count| *count > 0).ok_or(Gone)?;
        }
        loop {
            match head::parse_request(self.buffer().bytes()) {
                Ok(Some(head)) => {
                    self.buffer().consume(head.len);
                    begun = None;
                    let kept = self.answer(&head).await?;
                    if !kept || self.out.len() >= ANSWERS_LEN {
                        self.flush().await?;
                    }
                    if !kept {
                        return Ok(());
                    }
                }
                Ok(None) => {
                    self.flush().await?;
                    let now = runtime::now();
                    let wait = if self.buffer().is_empty() {
                        self.idle_wait()
                    } else {
                        let begun = *begun.get_or_insert(now);
                        HEAD_WAIT.saturating_sub(now.since(begun))
                    };
                    self.make_room();
                    self.receive(wait).await?;
                }
                Err(bad) => {
                    self.desk.counted.borrow_mut().http.malformed += 1;
                    self.put(&refusal(&bad), false, true);
                    return self.flush().await;
                }
            }
        }
    }

    /// Puts an answer to `out`; whether the connection goes on.
    async fn answer(&mut self, head: &RequestHead) -> Result<bool, Gone> {
        let with_body = head.method != Method::Head;
        let (path, query) = head.target.split_once('?').unwrap_or((&head.target, ""));
        let body_len = match head.body_len() {
            Ok(len) => len,
            Err(bad) => {
                self.desk.counted.borrow_mut().http.malformed += 1;
                self.put(&refusal(&bad), false, with_body);
                return Ok(false);
            }
        };
        if path == registry::PATH {
            return self.answer_metainfo(head, query, body_len).await;
        }
        // Elsewhere a body is never wanted; after one the framing is not worth keeping.
        let kept = body_len == 0 && head.keep_alive();
        let reply = match (path, head.method) {
            ("/announce", Method::Get) => self.announce(head, query).await,
            ("/scrape", Method::Get) => self.scrape(query).await,
            ("/announce" | "/scrape", _) => {
                self.desk.counted.borrow_mut().http.malformed += 1;
                failure(405, Malformed("GET and nothing else")).with("Allow", "GET")
            }
            (_, Method::Get | Method::Head) => self.page(head, path).await,
            _ => Reply::new(405, TEXT, "GET or HEAD\n").with("Allow", "GET, HEAD"),
        };
        self.put(&reply, kept, with_body);
        Ok(kept)
    }

    /// What is for people and for programs that watch.
    async fn page(&self, head: &RequestHead, path: &str) -> Reply {
        match path {
            "/stats" if !wants_json(head) => page(self.desk.stats().await.page()),
            "/stats" | "/stats.json" => {
                Reply::new(200, "application/json", self.desk.stats().await.json())
                    .with("Cache-Control", "no-store")
                    .with("Vary", "Accept")
            }
            "/metrics" => {
                let kind = "text/plain; version=0.0.4; charset=utf-8";
                Reply::new(200, kind, self.desk.stats().await.metrics())
            }
            _ => Reply::new(
                404,
                TEXT,
                "a tracker: /announce, /scrape, /stats, /metrics\n",
            ),
        }
    }

    async fn announce(&self, head: &RequestHead, query: &str) -> Reply {
        let desk = &self.desk;
        let asked = match self.client(head) {
            Some(client) => http::read_announce(query, client),
            None => Err(Malformed("the proxy does not say for whom it asks")),
        };
        let asked = match asked {
            Ok(asked) => asked,
            Err(why) => {
                desk.counted.borrow_mut().http.malformed += 1;
                return failure(200, why);
            }
        };
        desk.counted.borrow_mut().http.announces += 1;
        let client = asked.peer.ip();
        match desk.announce(asked).await {
            Some(Ok(told)) => bencoded(http::announce_body(&desk.shared.limits, client, &told)),
            Some(Err(why)) => {
                desk.counted.borrow_mut().http.refused += 1;
                bencoded(http::refused_body(why))
            }
            None => busy(),
        }
    }

    async fn scrape(&self, query: &str) -> Reply {
        let desk = &self.desk;
        let hashes = match http::read_scrape(query) {
            Ok(hashes) => hashes,
            Err(why) => {
                desk.counted.borrow_mut().http.malformed += 1;
                return failure(200, why);
            }
        };
        desk.counted.borrow_mut().http.scrapes += 1;
        let Some(found) = desk.scrape(&hashes).await else {
            return busy();
        };
        let found: Vec<_> = hashes.into_iter().zip(found).collect();
        bencoded(http::scrape_body(desk.shared.limits.min_interval, &found))
    }

    async fn answer_metainfo(
        &mut self,
        head: &RequestHead,
        query: &str,
        body_len: u64,
    ) -> Result<bool, Gone> {
        let desk = self.desk.clone();
        let with_body = head.method != Method::Head;
        let refused = match (head.method, body_len) {
            _ if self.client(head).is_none() => {
                let why = "the proxy does not say for whom it asks\n";
                Some(Reply::new(400, TEXT, why))
            }
            (Method::Get | Method::Head, 0) => None,
            (Method::Put, ..=BODY_LEN_MAX) => None,
            (Method::Get | Method::Head, _) => Some(Reply::new(400, TEXT, "no body is wanted\n")),
            (Method::Put, _) => Some(Reply::new(413, TEXT, "a torrent is 16 MiB at most\n")),
            _ => Some(Reply::new(405, TEXT, "GET, HEAD or PUT\n").with("Allow", "GET, HEAD, PUT")),
        };
        if let Some(reply) = refused {
            self.put(&reply, false, with_body);
            return Ok(false);
        }
        let Some(turn) = BodyTurn::take(&desk, body_len) else {
            let reply = Reply::new(503, TEXT, "too many at once\n").with("Retry-After", "5");
            self.put(&reply, false, with_body);
            return Ok(false);
        };
        if head.method == Method::Put
            && let Some(door) = &desk.shared.registry
            && let Some(reply) = door.refusal(query, &head.headers).await
        {
            self.put(&reply, false, with_body);
            return Ok(false);
        }
        let body = self.body(head, body_len).await?;
        let reply = match &desk.shared.registry {
            Some(door) => door.answer(head.method, query, &head.headers, body).await,
            None => Reply::new(404, "text/plain", "this tracker has no registry\n"),
        };
        drop(turn);
        self.put(&reply, head.keep_alive(), with_body);
        Ok(head.keep_alive())
    }

    async fn body(&mut self, head: &RequestHead, len: u64) -> Result<Bytes, Gone> {
        let len = usize::try_from(len).map_err(|_| Gone)?;
        let waits = head
            .headers
            .tokens("expect")
            .any(|word| word.eq_ignore_ascii_case("100-continue"));
        if waits && self.buffer().is_empty() && len > 0 {
            self.out.extend(HeadWriter::response(100).finish());
        }
        self.flush().await?;
        let until = runtime::now() + BODY_WAIT;
        let mut body = Vec::new();
        while body.len() < len {
            if self.buffer().is_empty() {
                if self.buffer().capacity() < buffers::MEDIUM {
                    *self.buffer() = Buffer::take(buffers::MEDIUM);
                }
                self.receive(until.since(runtime::now())).await?;
            }
            let buffer = self.buffer();
            let count = buffer.len().min(len - body.len());
            body.extend_from_slice(&buffer.bytes()[..count]);
            buffer.consume(count);
        }
        Ok(body.into())
    }

    /// Who asks: the caller, or for whom it asks if it is a trusted proxy.
    fn client(&self, head: &RequestHead) -> Option<IpAddr> {
        let trusted = &self.desk.shared.trusted;
        if trusted.is_empty() {
            return Some(self.from);
        }
        let said = head.headers.all("x-forwarded-for").last();
        proxies::client(trusted, self.from, said)
    }

    fn put(&mut self, reply: &Reply, kept: bool, with_body: bool) {
        self.out.extend(reply.head(kept));
        if with_body {
            self.out.extend_from_slice(&reply.body);
        }
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        if self.out.is_empty() {
            return Ok(());
        }
        let out = std::mem::take(&mut self.out);
        self.sender.send_all(out, false).await.map_err(|_| Gone)
    }

    async fn receive(&mut self, wait: Duration) -> Result<(), Gone> {
        let buffer = self
            .buffer
            .take()
            .expect("it is away only while something is received");
        let (received, buffer) = self.receiver.recv(buffer, Some(wait)).await;
        self.buffer = Some(buffer);
        match received {
            Ok(1..) => Ok(()),
            _ => Err(Gone),
        }
    }

    fn buffer(&mut self) -> &mut Buffer {
        let buffer = self.buffer.as_mut();
        buffer.expect("it is away only while something is received")
    }

    /// A long head goes on in a larger buffer.
    fn make_room(&mut self) {
        let buffer = self.buffer();
        buffer.compact();
        if buffer.room() == 0 && buffer.capacity() < HEAD_LEN {
            let mut larger = Buffer::take(HEAD_LEN);
            larger.append(buffer.bytes());
            *buffer = larger;
        }
    }

    fn idle_wait(&self) -> Duration {
        let crowded = self.desk.connections.get() * 100 / CROWDED;
        if crowded >= self.desk.shared.connections_max {
            IDLE_WAIT_SHORT
        } else {
            IDLE_WAIT
        }
    }
}

/// The right to have a body in memory.
struct BodyTurn(Option<Rc<Desk>>);

impl BodyTurn {
    fn take(desk: &Rc<Desk>, len: u64) -> Option<Self> {
        if len == 0 {
            return Some(Self(None));
        }
        let bodies = desk.bodies.get();
        (bodies < BODIES_MAX).then(|| {
            desk.bodies.set(bodies + 1);
            Self(Some(desk.clone()))
        })
    }
}

impl Drop for BodyTurn {
    fn drop(&mut self) {
        if let Some(desk) = &self.0 {
            desk.bodies.set(desk.bodies.get() - 1);
        }
    }
}

fn bencoded(body: Vec<u8>) -> Reply {
    Reply::new(200, "text/plain", body)
}

fn busy() -> Reply {
    Reply::new(503, TEXT, "busy\n").with("Retry-After", "60")
}

/// In bencode whatever the status: who asked may have asked for peers.
fn failure(status: u16, why: Malformed) -> Reply {
    Reply::new(status, "text/plain", http::malformed_body(why))
}

fn refusal(bad: &BadRequest) -> Reply {
    failure(bad.status, Malformed(bad.detail))
}

fn page(html: String) -> Reply {
    Reply::new(200, "text/html; charset=utf-8", html)
        .with("Cache-Control", "no-store")
        .with("Content-Security-Policy", "default-src 'none'")
        .with("X-Content-Type-Options", "nosniff")
        .with("Vary", "Accept")
}

/// Programs say so; browsers ask for HTML.
fn wants_json(head: &RequestHead) -> bool {
    let mut kinds = head.headers.tokens("accept");
    kinds.any(|kind| kind.split(';').next() == Some("application/json"))
}
