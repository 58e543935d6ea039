//! Everything at once: nodes, wires, one origin and one tracker, in the order of events.

use std::sync::Arc;
use std::time::Duration;

use bittube::origin::OriginFailed;
use bittube::origin::pool::ConnKey;
use bittube::swarm::PeerKey;
use bittube::swarm::dialer::Found;
use bittube::torrent::layout::Layout;
use bittube::units::lab::Lab;
use bittube::units::{BLOCK_LEN, ByteRange, OriginPolicy, Time};
use rand::prelude::*;
use rand::rngs::StdRng;

use crate::clock::Clock;
use crate::link::{Conn, Packet};
use crate::node::{Leave, Node, Spec};
use crate::origin::{self, Answer, Server};
use crate::viewer::Act;

/// Between two looks at all that must hold.
const AUDIT: Duration = Duration::from_secs(1);
/// Between two announces of a node.
const ANNOUNCE: Duration = Duration::from_secs(60);
/// Addresses in one answer of the tracker.
const ADDRESSES: usize = 200;
/// Connections break for so long: what must come in the end comes once they hold.
const BREAKS: Duration = Duration::from_secs(60);
/// Longer a run does not stand at one moment.
const EVENTS_AT_ONCE: u32 = 1_000_000;
/// Beyond this jitter packets do not differ.
const JITTER_MICROS: u64 = 3000;

/// What is to be played out.
#[derive(Clone, Debug)]
pub struct Setup {
    pub name: String,
    pub seed: u64,
    /// Bytes/s.
    pub rate: f64,
    pub length_s: f64,
    pub piece_len: u32,
    pub origin: Option<origin::Spec>,
    pub policy: OriginPolicy,
    /// The film's torrent lies beside it: nobody joins the swarm before the origin has answered.
    pub looks: bool,
    pub lab: Lab,
    pub nodes: Vec<Spec>,
    /// Of all connections, one breaks at random each time this has passed.
    pub breaks: Option<Duration>,
    pub ends: Duration,
}

pub enum Event {
    /// And whether its torrent was found.
    Join(usize, bool),
    Leave(usize),
    Act(usize, Act),
    /// Again and again, or once.
    Announce(usize, bool),
    Timer(usize),
    Player(usize),
    /// And whether it was in vain.
    Dialled(usize, PeerKey, u64, bool),
    Hear(usize, usize),
    Closed(usize, usize),
    Uplink(usize),
    Written(usize, usize),
    Pool(usize),
    Connected(usize, ConnKey),
    Asked(usize, ConnKey, Vec<u8>),
    Server,
    Answer(usize, ConnKey, Answer),
    Break,
    Audit,
}

pub struct World {
    pub setup: Setup,
    pub clock: Clock<Event>,
    pub layout: Arc<Layout>,
    pub nodes: Vec<Option<Node>>,
    pub conns: Vec<Conn>,
    pub server: Option<Server>,
    pub server_timer: Time,
    pub rng: StdRng,
    /// Head and body of a block on the wire; the body is never looked at.
    pub frame: Vec<u8>,
    pub events: u64,
    /// Of all that happened.
    pub digest: u64,
    pub nonce: u64,
    /// Stalls for what was to be had from another node, as far as looks tell, s.
    pub needless_s: f64,
}

impl World {
    pub const START: Time = Time::from_secs(1);

    pub fn new(setup: Setup) -> Self {
        let length = (setup.rate * setup.length_s) as u64;
        let layout = Arc::new(Layout::single(length, setup.piece_len));
        let mut clock = Clock::new(Self::START);
        for (id, spec) in setup.nodes.iter().enumerate() {
            clock.plan(Self::START + spec.joins, Event::Join(id, false));
        }
        if let Some(every) = setup.breaks {
            clock.plan(Self::START + every, Event::Break);
        }
        clock.plan(Self::START + AUDIT, Event::Audit);
        Self {
            nodes: setup.nodes.iter().map(|_| None).collect(),
            server: setup.origin.clone().map(|spec| Server::new(spec, length)),
            rng: StdRng::seed_from_u64(setup.seed),
            frame: vec![0; 13 + BLOCK_LEN as usize],
            conns: Vec::new(),
            server_timer: Time::NEVER,
            events: 0,
            digest: 0xcbf2_9ce4_8422_2325,
            nonce: 0,
            needless_s: 0.0,
            setup,
            clock,
            layout,
        }
    }

    pub fn now(&self) -> Time {
        self.clock.now()
    }

    pub fn file(&self) -> ByteRange {
        ByteRange::new(0, self.layout.length())
    }

    pub fn node(&mut self, id: usize) -> &mut Node {
        self.nodes[id].as_mut().expect("it has joined")
    }

    pub fn is_alive(&self, id: usize) -> bool {
        self.nodes[id].as_ref().is_some_and(|node| node.alive)
    }

    /// Until nobody plays any more, or the time is over.
    pub fn run(&mut self) {
        let end = Self::START + self.setup.ends;
        let (mut at_once, mut before) = (0, self.now());
        while let Some(event) = self.clock.next() {
            if self.now() > end {
                break;
            }
            at_once = if self.now() == before { at_once + 1 } else { 0 };
            before = self.now();
            self.events += 1;
            self.note(&event);
            let audit = matches!(event, Event::Audit);
            self.handle(event);
            if audit && self.is_over() {
                break;
            }
            assert!(at_once < EVENTS_AT_ONCE, "time stands still at {before:?}");
        }
        for node in self.nodes.iter().flatten() {
            assert!(
                node.viewer.record.done || !node.is_to_finish(),
                "{} of {:?} plays no further than {:?}",
                node.addr,
                self.file(),
                node.viewer.open
            );
        }
    }

    fn is_over(&self) -> bool {
        self.nodes
            .iter()
            .zip(&self.setup.nodes)
            .all(|(node, spec)| {
                spec.seeds
                    || node
                        .as_ref()
                        .is_some_and(|node| !node.alive || node.viewer.is_done())
            })
    }

    fn handle(&mut self, event: Event) {
        let now = self.now();
        match event {
            Event::Join(id, found) => self.come(id, found),
            Event::Leave(id) => self.leave(id),
            Event::Break => self.break_one(),
            Event::Audit => self.audit(),
            Event::Server => self.handle_server(),
            Event::Closed(conn, end) => self.handle_closed(conn, end),
            Event::Written(conn, end) => self.handle_written(conn, end),
            Event::Hear(conn, end) => self.hear(conn, end),
            Event::Dialled(id, ..)
            | Event::Act(id, _)
            | Event::Announce(id, _)
            | Event::Timer(id)
            | Event::Player(id)
            | Event::Uplink(id)
            | Event::Pool(id)
            | Event::Connected(id, _)
            | Event::Asked(id, ..)
            | Event::Answer(id, ..)
                if !self.is_alive(id) => {}
            Event::Act(id, act) => self.act(id, act),
            Event::Announce(id, again) => {
                self.announce(id);
                if again {
                    self.clock.plan(now + ANNOUNCE, Event::Announce(id, true));
                }
            }
            Event::Timer(id) => self.handle_timer(id),
            Event::Player(id) => {
                if self.node(id).player_timer == now {
                    self.node(id).player_timer = Time::NEVER;
                    self.settle(id);
                }
            }
            Event::Dialled(id, peer, call, silent) => self.handle_dialled(id, peer, call, silent),
            Event::Uplink(id) => self.handle_uplink(id),
            Event::Pool(id) => {
                if self.node(id).pool_timer == now {
                    self.node(id).pool_timer = Time::NEVER;
                    self.with_pool(id, |pool| pool.handle_timeout(now));
                }
            }
            Event::Connected(id, conn) => {
                let down = self
                    .server
                    .as_ref()
                    .is_none_or(|server| server.is_down(now));
                let result = match down {
                    true => Err(OriginFailed::passing(Duration::ZERO, "refused")),
                    false => Ok(()),
                };
                self.with_pool(id, |pool| pool.handle_connected(now, conn, result));
            }
            Event::Asked(id, conn, bytes) => self.handle_asked(id, conn, &bytes),
            Event::Answer(id, conn, answer) => self.handle_answer(id, conn, answer),
        }
    }

    fn note(&mut self, event: &Event) {
        let (kind, who) = match event {
            Event::Join(id, _) => (0, *id),
            Event::Leave(id) => (1, *id),
            Event::Act(id, _) => (2, *id),
            Event::Announce(id, _) => (3, *id),
            Event::Timer(id) => (4, *id),
            Event::Player(id) => (5, *id),
            Event::Dialled(id, ..) => (6, *id),
            Event::Hear(conn, end) => (7, conn * 2 + end),
            Event::Closed(conn, end) => (8, conn * 2 + end),
            Event::Uplink(id) => (9, *id),
            Event::Pool(id) => (10, *id),
            Event::Connected(id, _) => (11, *id),
            Event::Asked(id, ..) => (12, *id),
            Event::Server => (13, 0),
            Event::Answer(id, ..) => (14, *id),
            Event::Break => (15, 0),
            Event::Audit => (16, 0),
            Event::Written(conn, end) => (17, conn * 2 + end),
        };
        let wire = match event {
            Event::Hear(conn, end) => match self.conns[*conn].ends[*end].wire.front() {
                Some(Packet::Control(bytes)) => bytes.len() as u64,
                Some(Packet::Block { span, .. }) => u64::from(span.piece.0) << 32,
                None => 0,
            },
            _ => 0,
        };
        for word in [self.now().as_nanos(), kind, who as u64, wire] {
            self.digest = (self.digest ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn act(&mut self, id: usize, act: Act) {
        let now = self.now();
        match act {
            Act::Seek(part) => self.seek(id, part),
            Act::Pause => self.node(id).viewer.pause(now, true),
            Act::Resume => self.node(id).viewer.pause(now, false),
            Act::Idle => self.open_idle(id),
            Act::Quit => {
                self.hang_up(id);
                self.node(id).viewer.quit(now);
            }
        }
        self.settle(id);
    }

    /// The tracker: some of those that have come, the dead among them.
    pub fn announce(&mut self, id: usize) {
        let now = self.now();
        let own = self.nodes[id].as_ref().expect("it has joined").addr;
        let others = self.nodes.iter().flatten().map(|node| node.addr);
        let mut known: Vec<_> = others.filter(|addr| *addr != own).collect();
        known.shuffle(&mut self.rng);
        known.truncate(ADDRESSES);
        self.node(id)
            .swarm
            .add_addresses(now, &known, Found::Tracker);
        self.settle(id);
    }

    fn handle_timer(&mut self, id: usize) {
        let now = self.now();
        let node = self.node(id);
        if node.timer != now {
            return;
        }
        node.timer = Time::NEVER;
        if node.swarm.next_timeout() <= now {
            node.swarm.handle_timeout(now);
        }
        self.settle(id);
    }

    fn break_one(&mut self) {
        let now = self.now();
        let open: Vec<_> = (0..self.conns.len())
            .filter(|&conn| self.conns[conn].open)
            .collect();
        if let Some(&conn) = open.choose(&mut self.rng) {
            self.conns[conn].open = false;
            for end in 0..2 {
                self.clock.plan(now, Event::Closed(conn, end));
            }
        }
        if let Some(every) = self.setup.breaks.filter(|_| now < Self::START + BREAKS) {
            self.clock.plan(now + every, Event::Break);
        }
    }

    /// What one way takes now, between two nodes.
    pub fn jitter(&mut self) -> Duration {
        Duration::from_micros(self.rng.random_range(0..JITTER_MICROS))
    }

    fn audit(&mut self) {
        let now = self.now();
        for id in 0..self.nodes.len() {
            if self.is_alive(id) {
                self.audit_node(id);
                self.needless_s += self.needless(id);
            }
        }
        self.clock.plan(now + AUDIT, Event::Audit);
    }

    /// How long, since the last look, this player stood still for a piece that another node shares.
    fn needless(&self, id: usize) -> f64 {
        let lacks = |node: &Node| node.viewer.lacks();
        let Some(at) = self.nodes[id].as_ref().and_then(lacks) else {
            return 0.0;
        };
        let piece = self.layout.piece_of(at);
        let others = (0..self.nodes.len()).filter(|&other| other != id && self.is_alive(other));
        let mut others = others.filter_map(|other| self.nodes[other].as_ref());
        let shared = others
            .any(|node| !node.spec.temper.rides_free && node.swarm.have().contains(piece.at()));
        f64::from(u8::from(shared)) * AUDIT.as_secs_f64()
    }

    /// No block is asked of more than two peers; one that is about to be told otherwise counts not.
    fn audit_node(&self, id: usize) {
        let node = self.nodes[id].as_ref().expect("alive");
        for peers in node.asked.all().filter(|peers| peers.len() > 2) {
            self.assert_two(node, peers);
        }
        assert_eq!(
            node.swarm.have(),
            node.store.verified(),
            "the swarm knows what is stored"
        );
    }

    pub fn assert_two(&self, node: &Node, peers: &[PeerKey]) {
        let heard = peers.iter().filter(|peer| {
            node.conn(**peer)
                .is_some_and(|(conn, end)| !self.conns[conn].ends[end].woken)
        });
        assert!(heard.count() <= 2, "a block is asked of {peers:?}");
    }

    /// Leaves once its film was shown, as its spec says.
    pub fn plan_leave(&mut self, id: usize) {
        let now = self.now();
        let node = self.node(id);
        if !node.viewer.is_done() || node.leaving {
            return;
        }
        if let Leave::AtEnd(linger) = node.spec.leaves {
            node.leaving = true;
            self.clock.plan(now + linger, Event::Leave(id));
        }
    }
}
