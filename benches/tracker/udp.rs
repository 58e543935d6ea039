//! Load by UDP (BEP 15): connected sockets of many addresses, in batches, each announce answered or
//! given up before its place is taken by another.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};

use crate::bed::film::Random;
use crate::crowd::{self, Crowd, NUMWANT, Peer, SOURCES};
use crate::outcome::Outcome;

/// Announces on their way from one socket, and datagrams of one call.
const WINDOW: usize = 32;
/// Sockets that announce at the same time; the others wait for their turn.
const ACTIVE: usize = 8;
/// Announces at once. A server's receive buffer is 208 KiB where it sets none itself, and holds some
/// 270 datagrams of that size.
pub const OUTSTANDING: usize = WINDOW * ACTIVE;
/// Announces of one socket's turn.
const TURN: usize = 2048;
pub const LOST_AFTER: Duration = Duration::from_millis(500);
/// BEP 15: an id may be used for a minute.
const CONNECT_AGAIN: Duration = Duration::from_secs(50);
const LOOK_FOR_LOST: Duration = Duration::from_millis(100);
const DATAGRAM_MAX: usize = 2048;
const REQUEST_LEN: usize = 98;
const PROTOCOL: u64 = 0x0417_2710_1980;

/// Peers announce at random for so long.
pub fn announces(addr: SocketAddr, crowd: &Crowd, load: Duration) -> Outcome {
    Load::new(addr, crowd, Work::Any(Random::new(7))).run(load)
}

/// Every peer announces until it was answered once.
pub fn preload(addr: SocketAddr, crowd: &Crowd, most: Duration) -> Outcome {
    Load::new(addr, crowd, Work::Each).run(most)
}

enum Work {
    Any(Random),
    Each,
}

struct Load<'a> {
    crowd: &'a Crowd,
    work: Work,
    active: Vec<Lane>,
    resting: VecDeque<Lane>,
    batch: Batch,
    outcome: Outcome,
}

/// One socket, and what it has on its way.
struct Lane {
    source: usize,
    socket: UdpSocket,
    /// The id that the tracker gave, and when it was asked for.
    id: Option<u64>,
    asked: Option<Instant>,
    slots: [Option<Slot>; WINDOW],
    sequence: u32,
    /// Announces left of its turn.
    turn: usize,
    /// Peers that have not announced, the next one first, and those that were not answered.
    next: usize,
    again: Vec<usize>,
}

#[derive(Clone, Copy)]
struct Slot {
    transaction: u32,
    nth: usize,
    at: Instant,
}

impl<'a> Load<'a> {
    fn new(addr: SocketAddr, crowd: &'a Crowd, work: Work) -> Self {
        Self {
            crowd,
            work,
            active: Vec::new(),
            resting: (0..SOURCES).map(|source| Lane::new(source, addr)).collect(),
            batch: Batch::new(),
            outcome: Outcome::default(),
        }
    }

    fn run(mut self, most: Duration) -> Outcome {
        let begun = Instant::now();
        let mut looked = begun;
        let mut now = begun;
        while now.duration_since(begun) < most && !self.is_done() {
            while self.active.len() < ACTIVE
                && let Some(lane) = self.resting.pop_front()
            {
                self.active.push(lane.refreshed(now));
            }
            let lost = now.duration_since(looked) > LOOK_FOR_LOST;
            if lost {
                looked = now;
            }
            for lane in &mut self.active {
                lane.receive(&mut self.batch, &mut self.outcome);
                if lost {
                    lane.give_up(&mut self.outcome);
                }
                lane.send(&mut self.batch, self.crowd, &mut self.work);
            }
            let over = |lane: &mut Lane| lane.turn == 0 && lane.slots.iter().all(Option::is_none);
            self.resting.extend(self.active.extract_if(.., over));
            now = Instant::now();
        }
        self.outcome.seconds = begun.elapsed().as_secs_f64();
        self.outcome
    }

    fn is_done(&self) -> bool {
        let all = (self.crowd.per_source() * SOURCES) as u64;
        matches!(self.work, Work::Each) && self.outcome.answered >= all
    }
}

impl Lane {
    fn new(source: usize, addr: SocketAddr) -> Self {
        let socket = UdpSocket::bind((crowd::address(source), 0)).unwrap();
        socket.connect(addr).unwrap();
        Self {
            source,
            socket,
            id: None,
            asked: None,
            slots: [None; WINDOW],
            sequence: 0,
            turn: 0,
            next: 0,
            again: Vec::new(),
        }
    }

    /// With a turn before it, and an id that lasts for it.
    fn refreshed(mut self, now: Instant) -> Self {
        self.turn = TURN;
        if self
            .asked
            .is_some_and(|at| now.duration_since(at) > CONNECT_AGAIN)
        {
            self.id = None;
            self.asked = None;
        }
        self
    }

    fn receive(&mut self, batch: &mut Batch, outcome: &mut Outcome) {
        let lens = batch.receive(&self.socket);
        let now = Instant::now();
        for (bytes, len) in batch.buffers.iter().zip(lens) {
            self.handle(&bytes[..len], now, outcome);
        }
    }

    fn handle(&mut self, bytes: &[u8], now: Instant, outcome: &mut Outcome) {
        let (Some(action), Some(transaction)) = (word(bytes, 0), word(bytes, 4)) else {
            outcome.errors += 1;
            return;
        };
        if action == 0 {
            self.id = bytes
                .get(8..16)
                .map(|id| u64::from_be_bytes(id.try_into().unwrap()));
            return;
        }
        let slot = &mut self.slots[transaction as usize % WINDOW];
        let Some(known) = slot.take_if(|slot| slot.transaction == transaction) else {
            // Given up before.
            return;
        };
        if action == 1 && bytes.len() >= 20 {
            outcome.answer(now.duration_since(known.at));
        } else {
            outcome.errors += 1;
            self.id = None;
            self.asked = None;
        }
    }

    fn give_up(&mut self, outcome: &mut Outcome) {
        let now = Instant::now();
        let late = |at: Instant| now.duration_since(at) > LOST_AFTER;
        for slot in &mut self.slots {
            if let Some(lost) = slot.take_if(|slot| late(slot.at)) {
                outcome.lost += 1;
                self.again.push(lost.nth);
            }
        }
        if self.id.is_none() && self.asked.is_some_and(late) {
            self.asked = None;
        }
    }

    fn send(&mut self, batch: &mut Batch, crowd: &Crowd, work: &mut Work) {
        let Some(id) = self.id else {
            if self.asked.is_none() {
                self.asked = Some(Instant::now());
                let connect = [&PROTOCOL.to_be_bytes()[..], &[0; 8]].concat();
                // An error is that of an earlier datagram.
                let _ = self.socket.send(&connect);
            }
            return;
        };
        let now = Instant::now();
        let mut count = 0;
        for at in 0..WINDOW {
            if self.slots[at].is_some() || self.turn == 0 {
                continue;
            }
            let Some(nth) = self.choose(crowd, work) else {
                self.turn = 0;
                break;
            };
            let transaction = self.sequence * WINDOW as u32 + at as u32;
            self.sequence = (self.sequence + 1) % (1 << 24);
            self.turn -= 1;
            self.slots[at] = Some(Slot {
                transaction,
                nth,
                at: now,
            });
            let started = matches!(work, Work::Each);
            let peer = crowd.peer(self.source, nth);
            write(&mut batch.requests[count], id, transaction, &peer, started);
            count += 1;
        }
        batch.send(&self.socket, count);
    }

    /// Whose turn it is to announce.
    fn choose(&mut self, crowd: &Crowd, work: &mut Work) -> Option<usize> {
        match work {
            Work::Any(random) => Some(random.below(crowd.per_source())),
            Work::Each => self.again.pop().or_else(|| {
                let nth = self.next;
                self.next += 1;
                (nth < crowd.per_source()).then_some(nth)
            }),
        }
    }
}

fn write(out: &mut [u8; REQUEST_LEN], id: u64, transaction: u32, peer: &Peer, started: bool) {
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        out[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    put(&id.to_be_bytes());
    put(&1u32.to_be_bytes());
    put(&transaction.to_be_bytes());
    put(&peer.info_hash);
    put(&peer.id);
    // Downloaded, left, uploaded.
    put(&[0; 8]);
    put(&peer.left.to_be_bytes());
    put(&[0; 8]);
    put(&if started { 2u32 } else { 0 }.to_be_bytes());
    // Its address is the socket's; the key.
    put(&[0; 8]);
    put(&NUMWANT.to_be_bytes());
    put(&peer.port.to_be_bytes());
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(
        bytes.get(at..at + 4)?.try_into().unwrap(),
    ))
}

/// What one call sends or receives.
struct Batch {
    buffers: Vec<[u8; DATAGRAM_MAX]>,
    requests: Vec<[u8; REQUEST_LEN]>,
    /// Kept from one call to the next, as they are costly to make.
    receiving: MultiHeaders<SockaddrIn>,
    sending: MultiHeaders<SockaddrIn>,
}

impl Batch {
    fn new() -> Self {
        Self {
            buffers: vec![[0; DATAGRAM_MAX]; WINDOW],
            requests: vec![[0; REQUEST_LEN]; WINDOW],
            receiving: MultiHeaders::preallocate(WINDOW, None),
            sending: MultiHeaders::preallocate(WINDOW, None),
        }
    }

    /// The lengths of what has come.
    fn receive(&mut self, socket: &UdpSocket) -> Vec<usize> {
        let buffers = self.buffers.iter_mut();
        let mut slices: Vec<_> = buffers.map(|bytes| [IoSliceMut::new(bytes)]).collect();
        let flags = MsgFlags::MSG_DONTWAIT;
        let fd = socket.as_raw_fd();
        match recvmmsg(fd, &mut self.receiving, slices.iter_mut(), flags, None) {
            Ok(received) => received.map(|message| message.bytes).collect(),
            // The second: nobody listens there any more, which shows as lost announces.
            Err(Errno::EAGAIN | Errno::ECONNREFUSED) => Vec::new(),
            Err(error) => panic!("recvmmsg: {error}"),
        }
    }

    /// The first `count` requests. What does not go out counts as lost later on.
    fn send(&mut self, socket: &UdpSocket, count: usize) {
        if count == 0 {
            return;
        }
        let requests = self.requests[..count].iter();
        let slices: Vec<_> = requests.map(|bytes| [IoSlice::new(bytes)]).collect();
        let addrs = [None::<SockaddrIn>; WINDOW];
        let flags = MsgFlags::MSG_DONTWAIT;
        let fd = socket.as_raw_fd();
        match sendmmsg(
            fd,
            &mut self.sending,
            slices.iter(),
            &addrs[..count],
            [],
            flags,
        ) {
            Ok(_) | Err(Errno::EAGAIN | Errno::ECONNREFUSED) => {}
            Err(error) => panic!("sendmmsg: {error}"),
        }
    }
}
