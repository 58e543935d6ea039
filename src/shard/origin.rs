//! Connections to origins: the pool decides, two tasks a connection carry its bytes.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::rc::Weak;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::ClientConfig;
use tokio::sync::Notify;
use url::Url;

use crate::http::head::ResponseHead;
use crate::http::pin::Pin;
use crate::origin::OriginFailed;
use crate::origin::pool::ConnKey;
use crate::origin::pool::Output;
use crate::origin::pool::Pool;
use crate::origin::pool::Ranges;
use crate::origin::tls::Tls;
use crate::reach::Reach;
use crate::ring::buffers::Held;
use crate::ring::runtime;
use crate::ring::stream::Closer;
use crate::ring::stream::Receiver;
use crate::ring::stream::Sender;
use crate::ring::stream::Stream;
use crate::shard::Shard;
use crate::shard::appetite::Appetite;
use crate::shard::host::Host;
use crate::swarm::FetchKey;
use crate::units::ByteRange;
use crate::units::Time;

/// Resolving a name and connecting may take this long together.
pub const CONNECT_WAIT: Duration = Duration::from_secs(10);
const SEND_STALL: Duration = Duration::from_secs(30);
/// Bytes of a slow origin that are handled together: several packets, and still half a block.
const STRIDE: usize = 8 * 1024;

/// One origin file on this shard.
pub struct OriginHost {
    shard: Weak<Shard>,
    pub url: Url,
    pool: RefCell<Pool>,
    sinks: RefCell<BTreeMap<u64, Sink>>,
    conns: RefCell<BTreeMap<ConnKey, Rc<Conn>>>,
    next_fetch: Cell<u64>,
    /// The fetch that the bytes just handed in were for.
    receiving: Cell<Option<u64>>,
    timer: Notify,
    armed: Cell<Time>,
    /// The file changed under way: nothing of it may be mixed with what was sent before.
    pub changed: Cell<bool>,
    /// The torrent holds another file than the origin.
    pub differs: Cell<bool>,
}

/// Who wants the bytes of a fetch.
pub enum Sink {
    Swarm(Weak<Host>, FetchKey),
    Pass(Rc<Pipe>),
}

/// Bytes on their way from the origin to one player; bounded by the ranges that it asks for.
#[derive(Default)]
pub struct Pipe {
    pub head: RefCell<Option<Answer>>,
    pub queue: RefCell<VecDeque<Vec<u8>>>,
    /// Bytes in `queue`.
    pub held: Held,
    pub end: RefCell<Option<Result<(), OriginFailed>>>,
    pub wake: Notify,
    /// Told when `held` falls, for a connection that waits for room.
    pub room: Notify,
    pub abandoned: Cell<bool>,
}

/// What a pipe's first head said.
pub struct Answer {
    pub head: Box<ResponseHead>,
    pub total: Option<u64>,
}

/// Bytes held for one player before its origin connection stops reading.
pub const PIPE_MAX: usize = 1024 * 1024;

struct Conn {
    send: RefCell<VecDeque<Vec<u8>>>,
    wake: Notify,
    closer: RefCell<Option<Closer>>,
    closed: Cell<bool>,
    /// The fetch that its last bytes were for.
    fetch: Cell<Option<u64>>,
}

impl OriginHost {
    pub fn start(shard: &Rc<Shard>, url: Url) -> Rc<Self> {
        let pool = Pool::new(url.clone(), shard.shared.agent.clone());
        let host = Rc::new(Self {
            shard: Rc::downgrade(shard),
            url,
            pool: RefCell::new(pool),
            sinks: RefCell::default(),
            conns: RefCell::default(),
            next_fetch: Cell::new(0),
            receiving: Cell::new(None),
            timer: Notify::new(),
            armed: Cell::new(Time::NEVER),
            changed: Cell::new(false),
            differs: Cell::new(false),
        });
        runtime::spawn(Self::keep_time(Rc::downgrade(&host)));
        host
    }

    /// `range`: bytes of the file; its end may be beyond what there is.
    pub fn fetch(self: &Rc<Self>, range: ByteRange, urgent: bool, sink: Sink) -> u64 {
        let key = self.next_fetch.get();
        self.next_fetch.set(key + 1);
        self.sinks.borrow_mut().insert(key, sink);
        self.pool
            .borrow_mut()
            .fetch(runtime::now(), key, range, urgent);
        self.drain(&[]);
        key
    }

    /// Takes back a swarm's fetch; true if it had not begun.
    pub fn cancel(self: &Rc<Self>, host: &Rc<Host>, fetch: FetchKey) -> bool {
        let key = self
            .sinks
            .borrow()
            .iter()
            .find_map(|(key, sink)| match sink {
                Sink::Swarm(of, which) if *which == fetch && of.as_ptr() == Rc::as_ptr(host) => {
                    Some(*key)
                }
                _ => None,
            });
        let Some(key) = key else { return false };
        let unbegun = self.pool.borrow_mut().cancel(runtime::now(), key);
        if unbegun {
            self.sinks.borrow_mut().remove(&key);
        }
        self.drain(&[]);
        unbegun
    }

    /// A player that left: what its fetch still brings is dropped.
    pub fn abandon(self: &Rc<Self>, key: u64) {
        self.pool.borrow_mut().cancel(runtime::now(), key);
        if let Some(Sink::Pass(pipe)) = self.sinks.borrow_mut().remove(&key) {
            pipe.abandoned.set(true);
            pipe.room.notify_one();
        }
        self.drain(&[]);
    }

    pub fn pin(&self) -> Option<Pin> {
        self.pool.borrow().pin().cloned()
    }

    /// Time to the first byte, and bytes a second after it.
    pub fn estimate(&self) -> (Duration, f64) {
        self.pool.borrow().estimate()
    }

    /// Whether the origin gives parts of its file, as far as is known.
    pub fn takes_ranges(&self) -> bool {
        self.pool.borrow().ranges() != Ranges::Ignored
    }

    pub fn down_until(&self) -> Option<Time> {
        self.pool.borrow().down_until()
    }

    fn drain(self: &Rc<Self>, input: &[u8]) {
        loop {
            let output = self.pool.borrow_mut().poll_output();
            let Some(output) = output else { break };
            self.carry_out(output, input);
        }
        if self.pool.borrow().next_timeout() < self.armed.get() {
            self.timer.notify_one();
        }
    }

    fn carry_out(self: &Rc<Self>, output: Output, input: &[u8]) {
        match output {
            Output::Connect { conn, url } => {
                let state = Rc::new(Conn {
                    send: RefCell::default(),
                    wake: Notify::new(),
                    closer: RefCell::default(),
                    closed: Cell::new(false),
                    fetch: Cell::new(None),
                });
                self.conns.borrow_mut().insert(conn, state.clone());
                runtime::spawn(self.clone().connect(conn, url, state));
            }
            Output::Send { conn, bytes } => {
                if let Some(state) = self.conns.borrow().get(&conn) {
                    state.send.borrow_mut().push_back(bytes);
                    state.wake.notify_one();
                }
            }
            Output::Close { conn } => {
                if let Some(state) = self.conns.borrow_mut().remove(&conn) {
                    state.close();
                }
            }
            Output::Head { key, head, total } => {
                if let Some(Sink::Pass(pipe)) = self.sinks.borrow().get(&key) {
                    *pipe.head.borrow_mut() = Some(Answer { head, total });
                    pipe.wake.notify_one();
                }
            }
            Output::Body { key, at, .. } => {
                self.receiving.set(Some(key));
                self.deliver(key, &input[at]);
            }
            Output::Done { key } => self.end(key, Ok(())),
            Output::Failed { key, error } => self.end(key, Err(error)),
            Output::Changed => {
                tracing::warn!(
                    host = self.url.host_str(),
                    "the origin's file changed under way"
                );
                self.changed.set(true);
            }
        }
    }

    fn deliver(self: &Rc<Self>, key: u64, bytes: &[u8]) {
        let swarm = match self.sinks.borrow().get(&key) {
            Some(Sink::Pass(pipe)) => {
                pipe.held.set(pipe.held.get() + bytes.len());
                pipe.queue.borrow_mut().push_back(bytes.to_vec());
                pipe.wake.notify_one();
                None
            }
            Some(Sink::Swarm(host, fetch)) => host.upgrade().map(|host| (host, *fetch)),
            None => None,
        };
        if let Some((host, fetch)) = swarm {
            host.handle_fetch_bytes(fetch, bytes);
        }
    }

    fn end(self: &Rc<Self>, key: u64, result: Result<(), OriginFailed>) {
        match self.sinks.borrow_mut().remove(&key) {
            Some(Sink::Pass(pipe)) => {
                *pipe.end.borrow_mut() = Some(result);
                pipe.wake.notify_one();
            }
            Some(Sink::Swarm(host, fetch)) => {
                let Some(host) = host.upgrade() else { return };
                let failure = result.err().map(|error| {
                    let retry = error.retry.map(|wait| runtime::now() + wait);
                    (retry, error.why)
                });
                // The swarm may fetch again at once, which borrows what is borrowed here.
                runtime::spawn(async move { host.handle_fetch_end(fetch, failure) });
            }
            None => {}
        }
    }

    async fn connect(self: Rc<Self>, conn: ConnKey, url: Url, state: Rc<Conn>) {
        let Some(shard) = self.shard.upgrade() else {
            return;
        };
        let opened = open(&shard.shared.reach, &shard.shared.tls, &url).await;
        match opened {
            Ok((stream, tls)) if !state.closed.get() => {
                *state.closer.borrow_mut() = Some(stream.closer());
                self.pool
                    .borrow_mut()
                    .handle_connected(runtime::now(), conn, Ok(()));
                let (receiver, sender) = stream.split();
                let tls = tls.map(|tls| Rc::new(RefCell::new(tls)));
                runtime::spawn(send(state.clone(), sender, tls.clone()));
                self.drain(&[]);
                self.receive(conn, state, receiver, tls).await;
            }
            Ok(_) => {}
            Err(error) => {
                self.pool
                    .borrow_mut()
                    .handle_connected(runtime::now(), conn, Err(error));
                self.drain(&[]);
            }
        }
    }

    async fn receive(
        self: Rc<Self>,
        conn: ConnKey,
        state: Rc<Conn>,
        mut receiver: Receiver,
        tls: Option<Rc<RefCell<Tls>>>,
    ) {
        let mut buffer = Appetite::begin();
        let mut appetite = Appetite::default();
        let mut orderly = true;
        while !state.closed.get() {
            self.wait_for_room(&state).await;
            receiver.set_low_water(match tls {
                None => self.low_water(conn, &state),
                Some(_) => 1,
            });
            let (result, filled) = receiver.recv(buffer, None).await;
            buffer = filled;
            let received = match result {
                Ok(0) => break,
                Ok(received) => received,
                Err(_) => {
                    orderly = false;
                    break;
                }
            };
            match &tls {
                None => {
                    self.feed(conn, &state, buffer.bytes());
                    buffer.clear();
                }
                Some(tls) => {
                    let failed = tls.borrow_mut().handle_cipher(buffer.bytes()).is_err();
                    buffer.clear();
                    state.wake.notify_one();
                    loop {
                        let plain = tls.borrow_mut().poll_plain();
                        let Some(plain) = plain else { break };
                        self.feed(conn, &state, &plain);
                    }
                    if failed {
                        orderly = false;
                        break;
                    }
                    if tls.borrow().closed_cleanly() {
                        break;
                    }
                }
            }
            buffer = appetite.fit(received, buffer);
        }
        // Without its close_notify a TLS stream may have been cut by anybody (RFC 8446 §6.1).
        orderly &= tls.is_none_or(|tls| tls.borrow().closed_cleanly());
        state.close();
        self.conns.borrow_mut().remove(&conn);
        let now = runtime::now();
        if orderly {
            self.pool.borrow_mut().handle_closed(now, conn);
        } else {
            self.pool.borrow_mut().handle_broken(now, conn);
        }
        self.drain(&[]);
    }

    /// What a swarm fetches is of use by the piece: no packet of it need wake anybody by itself.
    fn low_water(&self, conn: ConnKey, state: &Conn) -> usize {
        let sinks = self.sinks.borrow();
        let sink = state.fetch.get().and_then(|key| sinks.get(&key));
        let Some(Sink::Swarm(..)) = sink else {
            return 1;
        };
        let left = self.pool.borrow_mut().left(conn).unwrap_or(0);
        usize::try_from(left).map_or(STRIDE, |left| left.min(STRIDE))
    }

    fn feed(self: &Rc<Self>, conn: ConnKey, state: &Conn, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() && !state.closed.get() {
            self.receiving.set(None);
            let used = self
                .pool
                .borrow_mut()
                .handle_bytes(runtime::now(), conn, &bytes[at..]);
            self.drain(&bytes[at..]);
            if let Some(key) = self.receiving.take() {
                state.fetch.set(Some(key));
            }
            if used == 0 {
                break;
            }
            at += used;
        }
    }

    /// A player that reads slowly slows its origin connection, not the shard's memory.
    async fn wait_for_room(self: &Rc<Self>, state: &Conn) {
        let Some(key) = state.fetch.get() else { return };
        loop {
            let pipe = match self.sinks.borrow().get(&key) {
                Some(Sink::Pass(pipe)) if pipe.held.get() >= PIPE_MAX => pipe.clone(),
                _ => break,
            };
            if state.closed.get() || pipe.abandoned.get() {
                break;
            }
            self.pool.borrow_mut().hold(runtime::now(), key, true);
            pipe.room.notified().await;
        }
        self.pool.borrow_mut().hold(runtime::now(), key, false);
        self.drain(&[]);
    }

    async fn keep_time(host: Weak<Self>) {
        loop {
            let Some(strong) = host.upgrade() else { return };
            let now = runtime::now();
            let next = strong.pool.borrow().next_timeout();
            if next <= now {
                strong.pool.borrow_mut().handle_timeout(now);
                strong.drain(&[]);
                runtime::breathe().await;
                continue;
            }
            strong.armed.set(next);
            // Looked at again now and then, so that a forgotten origin's task ends.
            let wait = next.since(now).min(Duration::from_secs(60));
            tokio::select! {
                () = runtime::sleep(wait) => {}
                () = strong.timer.notified() => {}
            }
            strong.armed.set(Time::ZERO);
            if Rc::strong_count(&strong) == 1 {
                return;
            }
        }
    }
}

impl Drop for OriginHost {
    fn drop(&mut self) {
        self.conns.borrow().values().for_each(|conn| conn.close());
    }
}

impl Conn {
    fn close(&self) {
        self.closed.set(true);
        if let Some(closer) = self.closer.borrow().as_ref() {
            closer.close();
        }
        self.wake.notify_one();
    }
}

async fn send(state: Rc<Conn>, mut sender: Sender, tls: Option<Rc<RefCell<Tls>>>) {
    sender.set_stall(SEND_STALL);
    loop {
        let plain = state.send.borrow_mut().pop_front();
        let bytes = match (&tls, plain) {
            (None, plain) => plain,
            (Some(tls), Some(plain)) => {
                tls.borrow_mut().send_plain(&plain);
                tls.borrow_mut().poll_cipher()
            }
            (Some(tls), None) => tls.borrow_mut().poll_cipher(),
        };
        let Some(bytes) = bytes else {
            if state.closed.get() {
                return;
            }
            state.wake.notified().await;
            continue;
        };
        if sender.send_all(bytes, false).await.is_err() {
            state.close();
            return;
        }
    }
}

/// One resolution, checked, pinned (R19, R20); then the connection and its TLS.
pub async fn open(
    reach: &Reach,
    tls: &Arc<ClientConfig>,
    url: &Url,
) -> Result<(Stream, Option<Tls>), OriginFailed> {
    let addrs = resolve(reach, url, Reach::web).await?;
    let mut last = OriginFailed::lasting("no address to connect to");
    for addr in addrs {
        match Stream::connect(addr, CONNECT_WAIT).await {
            Ok(stream) => {
                let tls = if url.scheme() == "https" {
                    let name = url.host_str().unwrap_or_default();
                    Some(Tls::new(tls.clone(), name)?)
                } else {
                    None
                };
                return Ok((stream, tls));
            }
            Err(error) => {
                last = OriginFailed::passing(RETRY_CONNECT, format!("connect: {error}"));
            }
        }
    }
    Err(last)
}

/// Before an origin that could not be reached is tried again.
const RETRY_CONNECT: Duration = Duration::from_secs(1);
/// Before a name that was not known is looked up again.
const RETRY_LOOKUP: Duration = Duration::from_secs(5);
/// Addresses tried of one name.
const ADDRESSES_MAX: usize = 4;

/// The addresses of a URL's host that may be spoken to, as `allows` has it.
pub async fn resolve(
    reach: &Reach,
    url: &Url,
    allows: impl Fn(&Reach, SocketAddr) -> bool,
) -> Result<Vec<SocketAddr>, OriginFailed> {
    let unknown = || OriginFailed::passing(RETRY_LOOKUP, "the name is not known");
    let port = url.port_or_known_default().unwrap_or(80);
    let all: Vec<SocketAddr> = match url.host() {
        Some(url::Host::Ipv4(ip)) => vec![(ip, port).into()],
        Some(url::Host::Ipv6(ip)) => vec![(ip, port).into()],
        Some(url::Host::Domain(name)) => {
            let found = tokio::time::timeout(CONNECT_WAIT, runtime::resolve(name, port));
            match found.await {
                Ok(Ok(found)) => found,
                _ => return Err(unknown()),
            }
        }
        None => return Err(OriginFailed::lasting("the address has no host")),
    };
    let allowed: Vec<_> = all
        .into_iter()
        .filter(|addr| allows(reach, *addr))
        .take(ADDRESSES_MAX)
        .collect();
    if allowed.is_empty() {
        // The same words as for an unknown name, so that a page cannot map internal names (R20).
        return Err(unknown());
    }
    Ok(allowed)
}
