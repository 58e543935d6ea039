//! The connections of one swarm, and what each was asked for.

use std::net::SocketAddr;
use std::time::Duration;

use slab::Slab;

use crate::peer::pace::{Pace, blocks};
use crate::peer::session::Session;
use crate::swarm::PeerKey;
use crate::swarm::dialer::is_global;
use crate::swarm::front::Front;
use crate::swarm::queue::{Asked, Queue};
use crate::swarm::rendezvous::Lot;
use crate::units::{Block, BlockSpan, PeerId, PieceIndex, Time};

/// Blocks asked of one peer.
pub const QUEUE_MAX: u32 = 128;
/// A fast peer has no more queued than it sends in this time beyond the round trip, or half of
/// that: a seek is not behind more.
const QUEUE: Duration = Duration::from_micros(500);
/// Blocks that are asked of it whatever its rate, and as long as that still grows.
const QUEUE_MIN: u32 = 8;
const QUEUE_YOUNG: u32 = 16;
/// What a peer brings in this time is asked of it at once, up to so many blocks: one that serves
/// its peers in turns gives the turn to another when it has nothing more to bring.
const TURN_S: f64 = 1.5;
const TURN_BLOCKS_MAX: u32 = 8;
/// A block is late when it is so much later than expected, at least.
const LATE_MIN: Duration = Duration::from_millis(250);
/// And later by so many of its usual errors, s, which the last blocks tell.
const LATE_ERRORS: f64 = 4.0;
const LATE_ERRORS_S_MAX: f64 = 3.0;
const ERROR_MEMORY: f64 = 16.0;
/// A late peer's blocks are looked at again after this long.
const LATE_AGAIN: Duration = Duration::from_millis(500);
/// A peer's rate is believed after this long, grown up or not.
const YOUNG: Duration = Duration::from_secs(2);
/// How clients that have an origin begin to name themselves (BEP 10): others are not waited for.
const VIEWER: &str = "BitTube ";
/// A peer in our network, or no further than this, is preferred to one whose queue is that many
/// times shorter.
const NEAR_RTT: Duration = Duration::from_millis(5);
const NEAR_DIVISOR: u32 = 2;
/// Calls do not cross for longer than this.
const CROSSING: Duration = Duration::from_secs(5);
/// A peer that brings nothing for so long is asked for nothing more than one block.
pub const SNUB_AFTER: Duration = Duration::from_secs(20);

/// All connections, by key. A key is free again only after the driver's `handle_closed`.
#[derive(Default)]
pub struct Peers {
    table: Slab<Peer>,
}

pub struct Peer {
    pub addr: SocketAddr,
    pub incoming: bool,
    /// Where it may be called, if it has called us and said so (BEP 10).
    pub listens: Option<SocketAddr>,
    /// When it shook hands.
    pub shaken: Option<Time>,
    /// `None` while it is dialled, and again once it is given up.
    pub session: Option<Session>,
    pub stage: Stage,
    pub pace: Pace,
    pub queue: Queue,
    /// How far from when they were expected its blocks come, s.
    error_s: f64,
    /// The front of the queue is overdue.
    pub late: bool,
    pub snubbed: bool,
    look_at: Time,
    /// When it was first asked for something.
    asked_at: Option<Time>,
    /// Told to the driver, who has not drained it yet.
    pub woken: bool,
    /// Counted in the rarity table, as a seed or not.
    pub counted: Option<bool>,
    /// Known with what it has.
    pub front: Option<Front>,
    /// Known with its id.
    pub lot: Option<Lot>,
    pub allowed_fast: Vec<PieceIndex>,
    /// The last piece it asked us for.
    pub serving: Option<PieceIndex>,
    /// When it last took a request back.
    pub cancelled: Option<Time>,
    /// Since when it waits for its turn to be served.
    pub asks_since: Time,
    /// When it was last given something, or its slot.
    pub took_at: Time,
    pub bytes_down: u64,
    pub bytes_up: u64,
    /// Both as they were at the choker's last choice.
    pub marks: (u64, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Dialling,
    Open,
    /// Given up; the driver is closing it.
    Closing,
}

impl Peers {
    pub fn add(&mut self, addr: SocketAddr, session: Option<Session>) -> PeerKey {
        PeerKey(self.table.insert(Peer {
            addr,
            incoming: session.is_some(),
            listens: None,
            shaken: None,
            stage: match session {
                Some(_) => Stage::Open,
                None => Stage::Dialling,
            },
            session,
            pace: young_pace(),
            queue: Queue::default(),
            error_s: 0.0,
            late: false,
            snubbed: false,
            look_at: Time::NEVER,
            asked_at: None,
            woken: false,
            counted: None,
            front: None,
            lot: None,
            allowed_fast: Vec::new(),
            serving: None,
            cancelled: None,
            asks_since: Time::ZERO,
            took_at: Time::ZERO,
            bytes_down: 0,
            bytes_up: 0,
            marks: (0, 0),
        }))
    }

    pub fn remove(&mut self, key: PeerKey) -> Option<Peer> {
        self.table.try_remove(key.0)
    }

    pub fn get(&self, key: PeerKey) -> Option<&Peer> {
        self.table.get(key.0)
    }

    pub fn get_mut(&mut self, key: PeerKey) -> Option<&mut Peer> {
        self.table.get_mut(key.0)
    }

    pub fn session(&mut self, key: PeerKey) -> Option<&mut Session> {
        self.table.get_mut(key.0)?.session.as_mut()
    }

    pub fn count(&self) -> usize {
        self.table.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = (PeerKey, &Peer)> {
        self.table.iter().map(|(key, peer)| (PeerKey(key), peer))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (PeerKey, &mut Peer)> {
        self.table
            .iter_mut()
            .map(|(key, peer)| (PeerKey(key), peer))
    }

    pub fn keys(&self) -> Vec<PeerKey> {
        self.iter().map(|(key, _)| key).collect()
    }

    /// Those whose time has come.
    pub fn due(&self, now: Time) -> Vec<PeerKey> {
        let due = self.iter().filter(|(_, peer)| peer.next_timeout() <= now);
        due.map(|(key, _)| key).collect()
    }

    /// Which of two connections to one peer is to go, now that this one has shaken hands; `None`:
    /// it is the only one. Both sides must choose alike, or nothing is left: of two crossed calls
    /// the greater id's stands, as in libtorrent; of two calls one way, the earlier, as of one that
    /// has stood for longer than calls take to cross: what it was asked for is on its way.
    pub fn superfluous(&self, now: Time, key: PeerKey, ours: PeerId) -> Option<PeerKey> {
        let peer = self.get(key)?;
        let theirs = peer.ready()?.remote_id()?;
        let (twin, other) = self.iter().find(|(twin, other)| {
            *twin != key && other.ready().and_then(Session::remote_id) == Some(theirs)
        })?;
        let stands = peer.incoming == (theirs > ours);
        let stood = other.shaken.is_some_and(|at| now.since(at) >= CROSSING);
        let crossed = peer.incoming != other.incoming && !stood;
        Some(if crossed && stands { twin } else { key })
    }

    /// The shortest time in which any peer that delivers would bring a block asked now.
    pub fn least_eta(&self) -> Duration {
        let delivering = self.iter().filter(|(_, peer)| peer.delivers());
        let eta = delivering.map(|(_, peer)| peer.eta());
        eta.min().unwrap_or(Duration::ZERO)
    }
}

impl Peer {
    /// The session of a connection that shook hands and is not given up.
    pub fn ready(&self) -> Option<&Session> {
        self.session.as_ref().filter(|session| session.ready())
    }

    /// It has unchoked us and keeps its promises.
    pub fn delivers(&self) -> bool {
        !self.late && !self.snubbed && self.ready().is_some_and(|session| !session.choking_us())
    }

    /// What it can do does not show yet in what it did.
    pub fn is_young(&self, now: Time) -> bool {
        let asked_at = self.asked_at.unwrap_or(now);
        self.pace.is_starting() && now.since(asked_at) < YOUNG
    }

    /// It may yet deliver: it is being called, or has not unchoked us.
    pub fn is_prospect(&self) -> bool {
        match (self.stage, self.ready()) {
            (Stage::Closing, _) => false,
            (_, None) => true,
            (_, Some(session)) => session.choking_us() && !session.pieces().is_clear(),
        }
    }

    /// It watches, like us, and might fetch what nobody has: what it throws in, and the first piece
    /// that it lacks.
    pub fn rival(&self, now: Time) -> Option<(Lot, u32)> {
        let session = self.ready()?;
        let ours = session.client()?.starts_with(VIEWER);
        let front = self.front.filter(|front| !front.rests(now))?;
        let watches = ours && !session.is_seed() && !session.upload_only();
        Some((self.lot?, front.at())).filter(|_| watches)
    }

    /// It could bring the piece: it has it, or has not said yet what it has.
    pub fn may_have(&self, piece: PieceIndex) -> bool {
        match (self.stage, self.ready()) {
            (Stage::Closing, _) => false,
            (_, None) => true,
            (_, Some(session)) => !self.snubbed && (self.counted.is_none() || session.has(piece)),
        }
    }

    /// How many more blocks it is to be asked for now.
    pub fn room(&self) -> usize {
        let Some(session) = self.ready() else {
            return 0;
        };
        let fast_only = session.fast() && !self.allowed_fast.is_empty();
        if session.choking_us() && !fast_only {
            return 0;
        }
        let depth = if self.snubbed || self.late {
            1
        } else {
            let depth = self.pace.depth().max(self.turn_depth());
            depth.min(session.reqq().max(1))
        };
        (depth as usize).saturating_sub(self.queue.len())
    }

    fn turn_depth(&self) -> u32 {
        blocks(self.pace.rate() * TURN_S).min(TURN_BLOCKS_MAX)
    }

    pub fn eta(&self) -> Duration {
        self.pace.eta(u64::from(crate::units::BLOCK_LEN))
    }

    /// Who has the least is asked first: its queue time, taken for less if it is near.
    pub fn rank(&self) -> Duration {
        let near = !is_global(self.addr.ip()) || self.pace.srtt() < NEAR_RTT;
        match near {
            true => self.eta() / NEAR_DIVISOR,
            false => self.eta(),
        }
    }

    /// Until its whole queue is here, s; infinite if it has stopped bringing.
    pub fn finish_s(&self) -> f64 {
        if self.late || self.snubbed {
            f64::INFINITY
        } else {
            self.pace.eta(0).as_secs_f64()
        }
    }

    pub fn ask(&mut self, now: Time, block: Block, span: BlockSpan) {
        let Some(session) = &mut self.session else {
            return;
        };
        session.request(span);
        self.asked_at.get_or_insert(now);
        let expect = now + self.pace.eta(u64::from(span.len));
        self.pace.handle_requested(now, u64::from(span.len));
        if self.queue.is_empty() {
            self.look_at = now + self.grace(now, expect);
        }
        self.queue.push(Asked {
            block,
            len: span.len,
            at: now,
            expect,
        });
    }

    /// A block has come. How far from when it was expected, s; `None` if it was not asked for (any
    /// more).
    pub fn handle_block(&mut self, now: Time, block: Block, len: u32) -> Option<f64> {
        self.bytes_down += u64::from(len);
        self.late = false;
        self.snubbed = false;
        self.queue.handle_brought(now, block.piece);
        let asked = self.queue.take(block)?;
        self.pace.handle_received(now, u64::from(len));
        self.pace.set_depth_max(depth_max(&self.pace));
        self.look_at = match self.queue.front() {
            Some(next) => now + self.grace(next.at.max(now), next.expect),
            None => Time::NEVER,
        };
        let error = now.since(asked.expect).max(asked.expect.since(now));
        let error_s = error.as_secs_f64();
        self.error_s += (error_s - self.error_s) / ERROR_MEMORY;
        Some(error_s)
    }

    /// The block will not come: rejected, or forgotten by a choke.
    pub fn handle_lost(&mut self, block: Block, len: u32) -> bool {
        let known = self.queue.take(block).is_some();
        if known {
            self.pace.handle_lost(u64::from(len));
        }
        known
    }

    pub fn cancel(&mut self, block: Block, span: BlockSpan) -> bool {
        let known = self.handle_lost(block, span.len);
        if known && let Some(session) = &mut self.session {
            session.cancel(span);
        }
        known
    }

    pub fn is_asked(&self, block: Block) -> bool {
        self.queue.behind(block).is_some()
    }

    /// What it was asked for, in that order.
    pub fn asked(&self) -> impl DoubleEndedIterator<Item = Block> + '_ {
        self.queue.blocks()
    }

    pub fn asked_len(&self) -> usize {
        self.queue.len()
    }

    /// Of its session, or when to look at what it was asked for.
    pub fn next_timeout(&self) -> Time {
        let session = self.session.as_ref();
        session.map_or(Time::NEVER, |session| {
            session.next_timeout().min(self.next_look())
        })
    }

    fn next_look(&self) -> Time {
        if self.queue.is_empty() {
            Time::NEVER
        } else {
            self.look_at
        }
    }

    /// At `next_look`: whether its blocks are overdue.
    pub fn look(&mut self, now: Time) -> bool {
        if now < self.next_look() {
            return false;
        }
        self.late = true;
        self.look_at = now + LATE_AGAIN;
        true
    }

    /// It has brought nothing for far too long.
    pub fn is_dead(&self, now: Time) -> bool {
        let quiet = self.pace.quiet_since();
        self.late && quiet.is_some_and(|since| now.since(since) >= SNUB_AFTER)
    }

    /// How long to wait for what is expected at `expect`: a peer that serves others in between
    /// brings its blocks in bursts, and is late only beyond that.
    fn grace(&self, now: Time, expect: Time) -> Duration {
        let wait = expect.since(now);
        let usual = (self.error_s * LATE_ERRORS).min(LATE_ERRORS_S_MAX);
        let usual = Duration::from_secs_f64(usual);
        wait + LATE_MIN.max(wait / 2).max(usual)
    }
}

fn young_pace() -> Pace {
    let mut pace = Pace::new();
    pace.set_depth_max(QUEUE_YOUNG);
    pace
}

/// Blocks that the peer sends in a round trip and [`QUEUE`].
fn depth_max(pace: &Pace) -> u32 {
    let time = pace.srtt() + QUEUE.max(pace.srtt() / 2);
    let blocks = blocks(pace.rate() * time.as_secs_f64());
    let least = if pace.is_starting() {
        QUEUE_YOUNG
    } else {
        QUEUE_MIN
    };
    blocks.clamp(least, QUEUE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::session::Send;
    use crate::swarm::{Limits, Output, Setup, Swarm};
    use crate::units::lab::Lab;
    use crate::units::{InfoHash, OriginPolicy};

    const NOW: Time = Time::from_secs(1);

    /// One swarm, and what it closed.
    struct Side {
        swarm: Swarm,
        id: u8,
        closed: Vec<PeerKey>,
    }

    impl Side {
        fn new(id: u8) -> Self {
            let setup = Setup {
                info_hash: InfoHash([9; 20]),
                peer_id: PeerId([id; 20]),
                listen_port: 6881,
                policy: OriginPolicy::Never,
                seed: 1,
                limits: Limits::default(),
                lab: Lab::default(),
            };
            let swarm = Swarm::new(NOW, setup);
            Self {
                swarm,
                id,
                closed: Vec::new(),
            }
        }

        fn addr(&self, port: u16) -> SocketAddr {
            SocketAddr::from(([10, 0, 0, self.id], port))
        }

        fn dial(&mut self, addr: SocketAddr) -> PeerKey {
            let found = crate::swarm::dialer::Found::User;
            self.swarm.add_addresses(NOW, &[addr], found);
            let dialled = self.outputs().into_iter().find_map(|output| match output {
                Output::Dial { peer, .. } => Some(peer),
                _ => None,
            });
            let key = dialled.unwrap();
            self.swarm.handle_connected(NOW, key);
            key
        }

        fn outputs(&mut self) -> Vec<Output> {
            let outputs: Vec<_> = std::iter::from_fn(|| self.swarm.poll_output()).collect();
            self.closed
                .extend(outputs.iter().filter_map(|output| match output {
                    Output::Close { peer } => Some(*peer),
                    _ => None,
                }));
            outputs
        }

        fn say(&mut self, key: PeerKey) -> Vec<u8> {
            let mut said = Vec::new();
            while let Some(Send::Bytes(bytes)) = self.swarm.poll_send(key) {
                said.extend(bytes);
            }
            said
        }

        fn hear(&mut self, key: PeerKey, bytes: &[u8]) {
            self.swarm.handle_bytes(NOW, key, bytes);
            self.outputs();
        }
    }

    /// Two sides that have called each other; of either's call the key at each side.
    fn crossed(ids: (u8, u8)) -> ([Side; 2], [[PeerKey; 2]; 2]) {
        let (mut a, mut b) = (Side::new(ids.0), Side::new(ids.1));
        let ours = a.dial(b.addr(6881));
        let theirs = b.dial(a.addr(6881));
        let at_b = b.swarm.accept(NOW, a.addr(40_000)).unwrap();
        let at_a = a.swarm.accept(NOW, b.addr(40_000)).unwrap();
        ([a, b], [[ours, at_b], [at_a, theirs]])
    }

    #[test]
    fn a_peer_nearby_goes_before_one_with_a_shorter_queue() {
        let peer = |addr: &str, outstanding: u64| {
            let mut peers = Peers::default();
            let key = peers.add(addr.parse().unwrap(), None);
            let mut peer = peers.remove(key).unwrap();
            peer.pace.handle_requested(NOW, outstanding);
            peer
        };
        for (addr, far) in [
            ("192.168.1.9:6881", false),
            ("[::ffff:10.0.0.1]:6881", false),
            ("[fd00::1]:6881", false),
            ("[fe80::1]:6881", false),
            ("203.0.113.9:6881", true),
            ("[2001:db8::1]:6881", true),
        ] {
            let other = peer("198.51.100.1:6881", 20_000);
            assert_eq!(peer(addr, 30_000).rank() > other.rank(), far, "{addr}");
            // Near is not everything.
            assert!(peer(addr, 200_000).rank() > other.rank(), "{addr}");
        }
    }

    #[test]
    fn of_two_crossed_calls_both_sides_keep_that_of_the_greater_id() {
        for (ids, kept) in [((2, 1), 0), ((1, 2), 1)] {
            let ([mut a, mut b], calls) = crossed(ids);
            let [[ours, at_b], [at_a, theirs]] = calls;
            // Both handshakes are on the way before either side has read one, and no side has
            // heard yet that the other closes a connection.
            let (from_a, from_b) = (a.say(ours), b.say(theirs));
            b.hear(at_b, &from_a);
            a.hear(at_a, &from_b);
            let (from_a, from_b) = (a.say(at_a), b.say(at_b));
            a.hear(ours, &from_b);
            b.hear(theirs, &from_a);
            let gone = calls[1 - kept];
            assert_eq!(
                (a.closed, b.closed),
                (vec![gone[0]], vec![gone[1]]),
                "{ids:?}"
            );
        }
    }

    #[test]
    fn of_two_calls_one_way_the_earlier_stays() {
        for ids in [(2, 1), (1, 2)] {
            let (mut a, mut b) = (Side::new(ids.0), Side::new(ids.1));
            let calls = [6881, 6882].map(|port| a.dial(b.addr(port)));
            let answers = [40_000, 40_001].map(|port| b.swarm.accept(NOW, a.addr(port)).unwrap());
            for (call, answer) in calls.into_iter().zip(answers) {
                let hello = a.say(call);
                b.hear(answer, &hello);
                let hello = b.say(answer);
                a.hear(call, &hello);
            }
            assert_eq!(b.closed, [answers[1]], "{ids:?}");
            assert!(a.closed.is_empty(), "{ids:?}");
        }
    }
}
