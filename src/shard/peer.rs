//! Connections of peers: one task reads, one writes, the swarm decides.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::peer::handshake;
use crate::peer::handshake::Handshake;
use crate::peer::message;
use crate::peer::session::Send;
use crate::ring::buffers::Buffer;
use crate::ring::listener::Listener;
use crate::ring::runtime;
use crate::ring::stream::Closer;
use crate::ring::stream::Late;
use crate::ring::stream::Receiver;
use crate::ring::stream::Sender;
use crate::ring::stream::Socket;
use crate::ring::stream::Stream;
use crate::shard::Letter;
use crate::shard::Shard;
use crate::shard::appetite::Appetite;
use crate::shard::host::Host;
use crate::store::Part;
use crate::swarm::PeerKey;
use crate::units::BLOCK_LEN;
use crate::units::BlockSpan;
use crate::units::InfoHash;

/// Connecting to a peer may take this long.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// A stranger says which swarm it wants within this time (R44).
const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);
/// Strangers whose swarm is not known yet, a shard.
const STRANGERS_MAX: usize = 256;
/// A peer that takes nothing for this long is gone.
const SEND_STALL: Duration = Duration::from_secs(120);
/// A peer whose machine acknowledges nothing for this long is gone: it may be cut off, and would
/// keep its slot until it is silent for too long.
const UNREACHED_MAX: Duration = Duration::from_secs(30);
/// What waits in a peer's socket: beyond a block another peer may be more urgent, and what waits
/// there cannot be taken back.
const UNSENT_MAX: u32 = 16 << 10;

/// The driver's side of a peer.
pub struct PeerConn {
    pub addr: SocketAddr,
    pub wake: Notify,
    closer: Closer,
    closed: Cell<bool>,
}

impl PeerConn {
    pub fn close(&self) {
        self.closed.set(true);
        self.closer.close();
        self.wake.notify_one();
    }
}

/// Takes strangers in, for ever.
pub async fn accept(shard: Rc<Shard>, listener: Listener) {
    loop {
        match listener.accept().await {
            Ok((socket, addr)) => {
                if shard.strangers.get() >= STRANGERS_MAX || !shard.shared.reach.ip(addr.ip()) {
                    continue;
                }
                shard.strangers.set(shard.strangers.get() + 1);
                let shard = shard.clone();
                runtime::spawn(async move {
                    let told = introduce(&shard, socket, addr).await;
                    shard.strangers.set(shard.strangers.get() - 1);
                    if let Some((socket, early, info_hash)) = told {
                        hand_over(&shard, socket, addr, early, info_hash);
                    }
                });
            }
            Err(error) => tracing::warn!(%error, "no peer can be taken in"),
        }
    }
}

/// Reads a stranger's handshake as far as its info-hash (BEP 3).
async fn introduce(
    shard: &Rc<Shard>,
    socket: Socket,
    addr: SocketAddr,
) -> Option<(Socket, Vec<u8>, InfoHash)> {
    let until = shard.now() + HANDSHAKE_WAIT;
    let (mut receiver, sender) = Stream::new(socket).split();
    let mut buffer = Buffer::take(handshake::LEN);
    loop {
        let wait = until.since(shard.now());
        let (result, filled) = receiver.recv(buffer, Some(wait)).await;
        buffer = filled;
        match result {
            Ok(0) => return None,
            Err(error) => {
                tracing::debug!(%addr, %error, "a stranger said nothing");
                return None;
            }
            Ok(_) => {}
        }
        match Handshake::parse(buffer.bytes()) {
            Ok(Some(hello)) => {
                let early = buffer.bytes().to_vec();
                let socket = Stream::rejoin(receiver, sender).into_socket().await;
                return Some((socket, early, hello.info_hash));
            }
            Ok(None) if buffer.bytes().len() < handshake::LEN => {}
            Ok(None) | Err(_) => return None,
        }
    }
}

fn hand_over(
    shard: &Rc<Shard>,
    socket: Socket,
    addr: SocketAddr,
    early: Vec<u8>,
    info_hash: InfoHash,
) {
    match shard.shared.directory.swarm(info_hash) {
        Some(home) if home == shard.id => arrive(shard, socket, addr, early),
        Some(home) => {
            // A full mailbox drops the stranger, who will come again.
            let _ = shard.mail(home).send(Letter::Peer {
                socket,
                addr,
                early,
            });
        }
        None => tracing::debug!(%addr, %info_hash, "a stranger asked for an unknown swarm"),
    }
}

/// A stranger on the shard of its swarm.
pub fn arrive(shard: &Rc<Shard>, socket: Socket, addr: SocketAddr, early: Vec<u8>) {
    let Ok(Some(hello)) = Handshake::parse(&early) else {
        return;
    };
    let Some(host) = shard.host(hello.info_hash) else {
        return;
    };
    let Some(peer) = host.swarm.borrow_mut().accept(shard.now(), addr) else {
        return;
    };
    tracing::debug!(%addr, "peer arrived");
    attend(&host, peer, addr, Stream::new(socket), &early);
}

/// Calls a peer that the swarm wants.
pub async fn dial(host: Rc<Host>, peer: PeerKey, addr: SocketAddr) {
    let connected = Stream::connect(addr, CONNECT_WAIT).await;
    let Some(shard) = host.shard.upgrade() else {
        return;
    };
    match connected {
        Ok(stream) if !host.ended.get() => {
            tracing::debug!(%addr, "peer connected");
            host.swarm.borrow_mut().handle_connected(shard.now(), peer);
            attend(&host, peer, addr, stream, &[]);
        }
        Ok(_) => {}
        Err(error) => {
            tracing::debug!(%addr, %error, "peer not reached");
            host.swarm.borrow_mut().handle_closed(shard.now(), peer);
            host.drain(&[]);
        }
    }
}

fn attend(host: &Rc<Host>, peer: PeerKey, addr: SocketAddr, stream: Stream, early: &[u8]) {
    stream.set_silence_max(UNREACHED_MAX);
    let closer = stream.closer();
    let (receiver, sender) = stream.split();
    let conn = Rc::new(PeerConn {
        addr,
        wake: Notify::new(),
        closer,
        closed: Cell::new(false),
    });
    host.peers.borrow_mut().insert(peer, conn.clone());
    let mut buffer = Appetite::begin();
    buffer.append(early);
    runtime::spawn(write(host.clone(), peer, conn.clone(), sender));
    runtime::spawn(read(host.clone(), peer, conn, receiver, buffer));
    // The machine may have decided while it had no connection to decide about.
    if let Some(conn) = host.peers.borrow().get(&peer) {
        conn.wake.notify_one();
    }
    host.drain(&[]);
}

async fn read(
    host: Rc<Host>,
    peer: PeerKey,
    conn: Rc<PeerConn>,
    mut receiver: Receiver,
    mut buffer: Buffer,
) {
    let mut appetite = Appetite::default();
    let mut received = 0;
    loop {
        feed(&host, peer, &conn, &mut buffer);
        if conn.closed.get() {
            break;
        }
        buffer = appetite.fit(received, buffer);
        // A block that trickles in wakes nobody eleven times.
        receiver.set_low_water(match received < BLOCK_LEN as usize {
            true => message::missing(buffer.bytes()),
            false => 1,
        });
        let (result, filled) = receiver.recv(buffer, None).await;
        buffer = filled;
        match result {
            Ok(0) => {
                tracing::debug!(addr = %conn.addr, "peer gone");
                break;
            }
            Ok(bytes) => received = bytes,
            Err(error) => {
                tracing::debug!(addr = %conn.addr, %error, "peer lost");
                break;
            }
        }
    }
    conn.close();
    host.peers.borrow_mut().remove(&peer);
    if let Some(shard) = host.shard.upgrade() {
        host.swarm.borrow_mut().handle_closed(shard.now(), peer);
        host.drain(&[]);
    }
}

/// Gives the swarm what was read, message by message, until it wants more.
fn feed(host: &Rc<Host>, peer: PeerKey, conn: &PeerConn, buffer: &mut Buffer) {
    let Some(shard) = host.shard.upgrade() else {
        return;
    };
    while !buffer.bytes().is_empty() && !conn.closed.get() {
        let bytes = buffer.bytes();
        let used = host
            .swarm
            .borrow_mut()
            .handle_bytes(shard.now(), peer, bytes);
        host.drain(bytes);
        if used == 0 {
            break;
        }
        buffer.consume(used);
    }
    buffer.compact();
}

async fn write(host: Rc<Host>, peer: PeerKey, conn: Rc<PeerConn>, mut sender: Sender) {
    sender.set_stall(SEND_STALL);
    if let Err(error) = sender.limit_unsent(UNSENT_MAX) {
        tracing::debug!(%error, "a socket keeps its whole queue");
    }
    while !conn.closed.get() {
        let next = host.swarm.borrow_mut().poll_send(peer);
        let sent = match next {
            Some(Send::Bytes(bytes)) => sender.send_all(bytes, false).await.is_ok(),
            Some(Send::Block(span)) => upload(&host, peer, span, &mut sender).await,
            None => {
                conn.wake.notified().await;
                continue;
            }
        };
        if !sent {
            break;
        }
    }
    conn.close();
}

/// One block, straight from the mapped piece file.
async fn upload(host: &Rc<Host>, peer: PeerKey, span: BlockSpan, sender: &mut Sender) -> bool {
    let Some(layout) = host.swarm.borrow().layout().cloned() else {
        return false;
    };
    let began = runtime::now();
    let range = layout.span_range(span);
    let Ok(parts) = host.shelf.parts(began, range, 0) else {
        tracing::warn!("a block for a peer could not be read");
        host.lose(range);
        return false;
    };
    if sender
        .send_all(message::piece_head(span).to_vec(), true)
        .await
        .is_err()
    {
        return false;
    }
    for part in parts {
        let sent = match part {
            Part::Mapped { map, range } => {
                let len = range.len();
                sender
                    .send_mapped(map, range, false)
                    .await
                    .is_ok_and(|sent| sent == len)
            }
            Part::Zeros(len) => sender.send_all(vec![0; len], false).await.is_ok(),
        };
        if !sent {
            return false;
        }
    }
    // Another peer's turn comes when this one's blocks are through, not when they wait for it.
    let through = host.swarm.borrow().upload_through(span);
    let late = through.late.map(|late| Late {
        since: began + late.after,
        bytes: late.pending,
    });
    if sender.drained().await.is_err() || sender.delivered(through.pending, late).await.is_err() {
        return false;
    }
    if let Some(shard) = host.shard.upgrade() {
        host.swarm
            .borrow_mut()
            .sent(shard.now(), peer, span.len as usize);
        host.drain(&[]);
    }
    true
}
