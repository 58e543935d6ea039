//! A BitTorrent seeder that hashes nothing: blocks go out of memory, honest or not as told.
//!
//! It is what the benches download from and, in the end-to-end tests, the peer that lies. The wire
//! is written here a second time, apart from `src/peer`, so that one misreading cannot hide in both.

use std::collections::BTreeSet;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const BLOCK_LEN: usize = 16 * 1024;
const HANDSHAKE_LEN: usize = 68;
const REQUEST_LEN_MAX: usize = 128 * 1024;
/// Requests taken as one batch of a connection's input.
const INPUT_LEN: usize = 64 * 1024;

const UNCHOKE: u8 = 1;
const INTERESTED: u8 = 2;
const BITFIELD: u8 = 5;
const REQUEST: u8 = 6;
const PIECE: u8 = 7;
const HAVE_ALL: u8 = 14;
const EXTENDED: u8 = 20;

/// What is seeded.
#[derive(Clone)]
pub struct Goods {
    pub info_hash: [u8; 20],
    pub piece_len: u32,
    pub data: Arc<Vec<u8>>,
}

/// How the seeder behaves. The default is honest and as fast as the socket.
#[derive(Clone, Default)]
pub struct Conduct {
    /// One block in this many has a wrong byte; always the same blocks.
    pub lie_every: Option<u64>,
    /// After this many bytes everything is closed and nobody is let in again.
    pub die_after: Option<u64>,
    /// Bytes a second over all connections; may be changed under way by [`Seeder::set_rate`].
    pub rate: Option<u64>,
}

/// Counts of what went out, and to how many.
#[derive(Default)]
pub struct Tally {
    pub bytes: AtomicU64,
    pub blocks: AtomicU64,
    pub lies: AtomicU64,
    /// Connections that finished their handshake, ever.
    pub accepted: AtomicU64,
    /// TCP connections, ever.
    pub dialled: AtomicU64,
    /// Connections open now.
    pub open: AtomicUsize,
    /// `(piece, begin)` of each request, in order, if asked for by [`Seeder::keep_requests`].
    requests: Mutex<Vec<(u32, u32)>>,
}

/// Listens until dropped.
pub struct Seeder {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    goods: Goods,
    conduct: Conduct,
    rate: AtomicU64,
    tally: Tally,
    keep_requests: AtomicBool,
    dead: AtomicBool,
    /// Kept to close them: a dead peer does not linger.
    streams: Mutex<Vec<TcpStream>>,
    throttle: Mutex<Throttle>,
}

struct Throttle {
    since: Instant,
    sent: u64,
}

impl Seeder {
    /// Port 0 picks one.
    pub fn start(listen: SocketAddr, goods: Goods, conduct: Conduct) -> io::Result<Self> {
        let listener = TcpListener::bind(listen)?;
        let addr = listener.local_addr()?;
        let rate = AtomicU64::new(conduct.rate.unwrap_or(0));
        let shared = Arc::new(Shared {
            goods,
            conduct,
            rate,
            tally: Tally::default(),
            keep_requests: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            streams: Mutex::default(),
            throttle: Mutex::new(Throttle {
                since: Instant::now(),
                sent: 0,
            }),
        });
        let theirs = Arc::clone(&shared);
        thread::spawn(move || theirs.accept_all(&listener));
        Ok(Self { addr, shared })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn tally(&self) -> &Tally {
        &self.shared.tally
    }

    /// Bytes a second from now on; zero is without limit.
    pub fn set_rate(&self, rate: u64) {
        self.shared.rate.store(rate, Ordering::Relaxed);
        *self.shared.throttle.lock().expect("no holder panics") = Throttle {
            since: Instant::now(),
            sent: 0,
        };
    }

    /// From now on the pieces asked for are written down.
    pub fn keep_requests(&self) {
        self.shared.keep_requests.store(true, Ordering::Relaxed);
    }

    /// What was asked since the last call.
    pub fn take_requests(&self) -> Vec<(u32, u32)> {
        std::mem::take(&mut *self.shared.tally.requests.lock().expect("no holder panics"))
    }

    /// The pieces asked for since the last call.
    pub fn take_pieces(&self) -> BTreeSet<u32> {
        self.take_requests()
            .into_iter()
            .map(|(piece, _)| piece)
            .collect()
    }

    pub fn is_dead(&self) -> bool {
        self.shared.dead.load(Ordering::Relaxed)
    }
}

impl Drop for Seeder {
    fn drop(&mut self) {
        self.shared.die();
        // Wakes the accepting thread, which then sees that it is over.
        drop(TcpStream::connect(self.addr));
    }
}

impl Shared {
    fn accept_all(self: &Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming() {
            if self.dead.load(Ordering::Relaxed) {
                return;
            }
            let Ok(stream) = stream else { continue };
            self.tally.dialled.fetch_add(1, Ordering::Relaxed);
            if let Ok(kept) = stream.try_clone() {
                self.streams.lock().expect("no holder panics").push(kept);
            }
            let shared = Arc::clone(self);
            thread::spawn(move || {
                shared.tally.open.fetch_add(1, Ordering::Relaxed);
                // An error is the other side going away: the end of this connection, no more.
                let _ended = Upload::new(&shared, &stream).run();
                stream.shutdown(Shutdown::Both).ok();
                shared.tally.open.fetch_sub(1, Ordering::Relaxed);
            });
        }
    }

    fn die(&self) {
        self.dead.store(true, Ordering::Relaxed);
        for stream in self.streams.lock().expect("no holder panics").drain(..) {
            stream.shutdown(Shutdown::Both).ok();
        }
    }

    /// Sleeps until `bytes` more fit in the rate.
    fn throttle(&self, bytes: u64) {
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 {
            return;
        }
        let wait = {
            let mut throttle = self.throttle.lock().expect("no holder panics");
            throttle.sent += bytes;
            #[expect(clippy::cast_precision_loss, reason = "a rate limit need not be exact")]
            let due = Duration::from_secs_f64(throttle.sent as f64 / rate as f64);
            due.saturating_sub(throttle.since.elapsed())
        };
        thread::sleep(wait.min(Duration::from_secs(1)));
    }
}

/// One connection to somebody who downloads.
struct Upload<'a> {
    shared: &'a Shared,
    stream: &'a TcpStream,
    input: Vec<u8>,
}

impl<'a> Upload<'a> {
    fn new(shared: &'a Shared, stream: &'a TcpStream) -> Self {
        Self {
            shared,
            stream,
            input: Vec::with_capacity(2 * INPUT_LEN),
        }
    }

    fn run(&mut self) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        let theirs = loop {
            if let Some(head) = self.input.first_chunk::<HANDSHAKE_LEN>() {
                break *head;
            }
            self.fill()?;
        };
        self.input.drain(..HANDSHAKE_LEN);
        if theirs[..20] != *b"\x13BitTorrent protocol"
            || theirs[28..48] != self.shared.goods.info_hash
        {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.greet(&theirs)?;
        self.shared.tally.accepted.fetch_add(1, Ordering::Relaxed);
        loop {
            self.answer_all()?;
            self.fill()?;
        }
    }

    fn greet(&mut self, theirs: &[u8; HANDSHAKE_LEN]) -> io::Result<()> {
        let goods = &self.shared.goods;
        let (extended, fast) = (theirs[25] & 0x10 != 0, theirs[27] & 0x04 != 0);
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(b"\x13BitTorrent protocol\0\0\0\0\0\x10\0\x04");
        out.extend_from_slice(&goods.info_hash);
        out.extend_from_slice(b"-FS0001-");
        out.extend(self.stream.local_addr()?.port().to_be_bytes().repeat(6));
        if fast {
            out.extend_from_slice(&[0, 0, 0, 1, HAVE_ALL]);
        } else {
            let pieces = goods.data.len().div_ceil(goods.piece_len as usize);
            let mut field = vec![0xff_u8; pieces.div_ceil(8)];
            if let (Some(last), spare @ 1..) = (field.last_mut(), field_spare(pieces)) {
                *last <<= spare;
            }
            put_message(&mut out, BITFIELD, &field);
        }
        if extended {
            // Extension message 0 is the handshake of BEP 10; a long queue keeps the pipe full.
            put_message(
                &mut out,
                EXTENDED,
                b"\0d1:mde4:reqqi2000e11:upload_onlyi1ee",
            );
        }
        (&mut self.stream).write_all(&out)
    }

    fn fill(&mut self) -> io::Result<()> {
        let held = self.input.len();
        self.input.resize(held + INPUT_LEN, 0);
        let got = (&mut self.stream).read(&mut self.input[held..]);
        self.input.truncate(held + *got.as_ref().unwrap_or(&0));
        match got? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    fn answer_all(&mut self) -> io::Result<()> {
        let mut at = 0;
        while let Some(head) = self.input[at..].first_chunk::<4>() {
            let len = u32::from_be_bytes(*head) as usize;
            if len > REQUEST_LEN_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let Some(body) = self.input.get(at + 4..at + 4 + len) else {
                break;
            };
            match body.split_first() {
                Some((&INTERESTED, _)) => {
                    (&mut self.stream).write_all(&[0, 0, 0, 1, UNCHOKE])?;
                }
                Some((&REQUEST, span)) if span.len() == 12 => self.send_block(span)?,
                _ => {}
            }
            at += 4 + len;
        }
        self.input.drain(..at);
        Ok(())
    }

    fn send_block(&self, span: &[u8]) -> io::Result<()> {
        let word = |at: usize| u32::from_be_bytes(span[at..at + 4].try_into().expect("4 bytes"));
        let (piece, begin, len) = (word(0), word(4), word(8));
        let shared = self.shared;
        let start = u64::from(piece) * u64::from(shared.goods.piece_len) + u64::from(begin);
        let start = usize::try_from(start).map_err(|_| io::ErrorKind::InvalidData)?;
        let Some(block) = shared.goods.data.get(start..start + len as usize) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        if shared.keep_requests.load(Ordering::Relaxed) {
            shared
                .tally
                .requests
                .lock()
                .expect("no holder panics")
                .push((piece, begin));
        }
        shared.throttle(u64::from(len));
        let mut head = [0u8; 13];
        head[..4].copy_from_slice(&(9 + len).to_be_bytes());
        head[4] = PIECE;
        head[5..13].copy_from_slice(&span[..8]);
        let lies = (start / BLOCK_LEN) as u64;
        if shared
            .conduct
            .lie_every
            .is_some_and(|every| lies % every == every / 2)
        {
            let mut wrong = block.to_vec();
            let middle = wrong.len() / 2;
            wrong[middle] ^= 0x55;
            shared.tally.lies.fetch_add(1, Ordering::Relaxed);
            write_both(self.stream, &head, &wrong)?;
        } else {
            write_both(self.stream, &head, block)?;
        }
        shared.tally.blocks.fetch_add(1, Ordering::Relaxed);
        let sent = shared
            .tally
            .bytes
            .fetch_add(u64::from(len), Ordering::Relaxed);
        if shared
            .conduct
            .die_after
            .is_some_and(|after| sent + u64::from(len) >= after)
        {
            shared.die();
        }
        Ok(())
    }
}

/// Bits of the last byte of a bitfield that stand for no piece.
fn field_spare(pieces: usize) -> u32 {
    u32::try_from((8 - pieces % 8) % 8).expect("below 8")
}

fn put_message(out: &mut Vec<u8>, id: u8, body: &[u8]) {
    let len = u32::try_from(body.len() + 1).expect("a short message");
    out.extend_from_slice(&len.to_be_bytes());
    out.push(id);
    out.extend_from_slice(body);
}

fn write_both(mut stream: &TcpStream, head: &[u8], body: &[u8]) -> io::Result<()> {
    let mut written = 0;
    while written < head.len() + body.len() {
        let parts = [
            IoSlice::new(&head[written.min(head.len())..]),
            IoSlice::new(&body[written.saturating_sub(head.len())..]),
        ];
        match stream.write_vectored(&parts)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            sent => written += sent,
        }
    }
    Ok(())
}
