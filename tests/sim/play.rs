//! Nodes come and go, their players read, and the origin answers them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bittube::origin::pool::{ConnKey, Pool};
use bittube::swarm::{Limits, Setup, Swarm};
use bittube::units::{ByteRange, InfoHash, OriginPolicy, PeerId, Time};
use bytes::Bytes;
use fixedbitset::FixedBitSet;
use rand::prelude::*;

use crate::link::{Line, QUEUE_MAX, Uplink};
use crate::node::{Counts, Leave, Node};
use crate::origin::Answer;
use crate::peer::Asked;
use crate::settle::BODY;
use crate::store::Store;
use crate::viewer::{Request, Viewer};
use crate::world::{Event, World};

/// A socket that takes nothing for so long belongs to a player that has enough.
const BLOCKED_AFTER: Duration = Duration::from_millis(300);
/// What a player takes of a request that it then leaves idle.
const IDLE_READ: u64 = 64 * 1024;

/// The tracker's answer takes so long.
pub const ANSWERS_AFTER: Duration = Duration::from_millis(40);

/// A player that was refused asks again after so long.
const ASKS_AGAIN: Duration = Duration::from_millis(500);

impl World {
    /// A player asks for the film; its node joins once it knows the torrent.
    pub fn come(&mut self, id: usize, found: bool) {
        let now = self.now();
        let looks = self.setup.looks && !self.setup.nodes[id].seeds;
        let Some(server) = self.server.as_ref().filter(|_| looks && !found) else {
            return self.join(id);
        };
        let (at, event) = match server.is_down(now) {
            true => (now + ASKS_AGAIN, Event::Join(id, false)),
            false => (now + server.first_byte(now), Event::Join(id, true)),
        };
        self.clock.plan(at, event);
    }

    fn join(&mut self, id: usize) {
        let now = self.now();
        let spec = self.setup.nodes[id].clone();
        let mut peer_id = [0; 20];
        self.rng.fill(&mut peer_id);
        let mut lab = self.setup.lab;
        lab.no_upload = spec.temper.rides_free;
        let policy = match spec.seeds {
            true => OriginPolicy::Never,
            false => self.setup.policy,
        };
        let mut swarm = Swarm::new(
            now,
            Setup {
                info_hash: InfoHash([9; 20]),
                peer_id: PeerId(peer_id),
                listen_port: 6881,
                policy,
                seed: self.rng.random(),
                limits: Limits::default(),
                lab,
            },
        );
        let store = Store::new(Arc::clone(&self.layout), spec.seeds);
        let have: FixedBitSet = store.verified().clone();
        let info = Bytes::from_static(b"d4:name4:filme");
        swarm.know_metainfo(now, Arc::clone(&self.layout), info, have);
        let pool = (self.server.is_some() && !spec.seeds).then(|| {
            let url = "http://origin.example/film".parse().expect("a URL");
            let key = swarm.add_origin(now, self.file(), true);
            (key, Pool::new(url, format!("bittube-{id}")))
        });
        let (high, low) = (id / 250, id % 250);
        self.nodes[id] = Some(Node {
            addr: SocketAddr::from(([10, 0, high as u8, low as u8 + 1], 6881)),
            viewer: Viewer::new(self.setup.rate, self.file()),
            alive: true,
            joined: now,
            left: Time::NEVER,
            leaving: false,
            pool,
            fetches: Default::default(),
            feed: Default::default(),
            uplink: Uplink::new(spec.up),
            downlink: Line::new(spec.down),
            calls: Default::default(),
            called: 0,
            conns: Vec::new(),
            asked: Asked::default(),
            timer: Time::NEVER,
            pool_timer: Time::NEVER,
            player_timer: Time::NEVER,
            knows_rate: false,
            counts: Counts::default(),
            swarm,
            store,
            spec,
        });
        self.settle(id);
        self.clock
            .plan(now + ANSWERS_AFTER, Event::Announce(id, true));
        self.begin(id);
    }

    fn begin(&mut self, id: usize) {
        let now = self.now();
        let node = self.node(id);
        if let Leave::Killed(after) = node.spec.leaves {
            self.clock.plan(now + after, Event::Leave(id));
        }
        let spec = self.setup.nodes[id].clone();
        if spec.seeds {
            return;
        }
        for (after, act) in spec.script.acts {
            self.clock.plan(now + after, Event::Act(id, act));
        }
        let asked = Self::START + spec.joins;
        let (range, until) = self.node(id).viewer.start(asked, spec.script.probes);
        self.open(id, range, until);
        self.settle(id);
    }

    /// Without a word: its machine is off.
    pub fn leave(&mut self, id: usize) {
        if !self.is_alive(id) {
            return;
        }
        let now = self.now();
        self.hang_up(id);
        let node = self.node(id);
        node.viewer.quit(now);
        node.alive = false;
        node.left = now;
        node.timer = Time::NEVER;
        let conns: Vec<_> = node.conns.iter().flatten().copied().collect();
        for (conn, end) in conns {
            self.close(conn, end);
        }
        if let Some(server) = &mut self.server {
            server.handle_closed(id, None);
        }
    }

    fn open(&mut self, id: usize, range: ByteRange, until: u64) {
        self.hang_up(id);
        let (now, file) = (self.now(), self.file());
        let node = self.node(id);
        let reader = node.swarm.open_reader(now, now, range, file);
        node.viewer.open = Some(Request {
            reader,
            range,
            pos: range.start,
            until,
            ready: range.start,
            full: None,
            frozen: false,
        });
        self.settle(id);
    }

    pub fn open_idle(&mut self, id: usize) {
        let (now, file) = (self.now(), self.file());
        let node = self.node(id);
        let reader = node.swarm.open_reader(now, now, file, file);
        node.viewer.idle.push(Request {
            reader,
            range: file,
            pos: 0,
            until: IDLE_READ,
            ready: 0,
            full: None,
            frozen: false,
        });
        self.settle(id);
    }

    pub fn hang_up(&mut self, id: usize) {
        let now = self.now();
        let node = self.node(id);
        if let Some(open) = node.viewer.open.take() {
            node.swarm.close_reader(now, open.reader);
            self.settle(id);
        }
    }

    pub fn seek(&mut self, id: usize, part: f64) {
        let now = self.now();
        let length = self.layout.length();
        let to = ((length as f64 * part) as u64).min(length - 1);
        let node = self.node(id);
        if node.viewer.is_done() {
            return;
        }
        let lead = (crate::viewer::START_S * node.viewer.rate) as u64;
        let wanted = ByteRange::new(to, length.min(to + lead));
        let pieces = self.layout.pieces_of(wanted);
        let node = self.node(id);
        let held = |piece: u32| node.store.verified().contains(piece as usize);
        let cold = !pieces.into_iter().all(held);
        let (range, until) = node.viewer.seek(now, to, cold);
        self.open(id, range, until);
    }

    /// The players take what they want; true if the swarm was told something.
    pub fn read(&mut self, id: usize) -> bool {
        let now = self.now();
        let node = self.nodes[id].as_mut().expect("alive");
        if node.viewer.is_done() {
            return false;
        }
        node.viewer.settle(now);
        if node.viewer.is_done() {
            self.hang_up(id);
            return false;
        }
        let (limit, later) = node.viewer.limit(now);
        let mut wakes = later;
        let mut told = false;
        let requests = node.viewer.open.iter_mut().map(|open| (open, limit));
        let idle = node.viewer.idle.iter_mut().map(|idle| {
            let until = idle.until;
            (idle, until)
        });
        for (request, limit) in requests.chain(idle) {
            let ready = node.swarm.readable(request.reader);
            assert_eq!(
                ready.start, request.pos,
                "the reader stands where its player is"
            );
            assert!(ready.end >= request.ready, "the window went back");
            request.ready = ready.end;
            let end = ready.end.min(limit);
            if end > request.pos {
                let range = ByteRange::new(request.pos, end);
                node.store.assert_readable(range);
                request.pos = end;
                (request.full, request.frozen) = (None, false);
                node.swarm.handle_sent(now, request.reader, range.len(), 0);
                told = true;
            } else if ready.end > request.pos && !request.frozen {
                let full = *request.full.get_or_insert(now);
                if full + BLOCKED_AFTER <= now {
                    request.frozen = true;
                    node.swarm.handle_blocked(now, request.reader);
                    told = true;
                } else {
                    wakes = wakes.min(full + BLOCKED_AFTER);
                }
            }
        }
        if told {
            return true;
        }
        let wakes = wakes.min(node.viewer.wakes()).max(now);
        if wakes < node.player_timer {
            node.player_timer = wakes;
            self.clock.plan(wakes, Event::Player(id));
        }
        if let Some((range, until)) = self.node(id).viewer.next_probe() {
            self.open(id, range, until);
            return true;
        }
        false
    }

    pub fn handle_asked(&mut self, id: usize, conn: ConnKey, bytes: &[u8]) {
        let now = self.now();
        let server = self.server.as_mut().expect("it was asked");
        server.handle_request(now, id, conn, bytes);
        self.plan_server(server_next(self));
    }

    fn plan_server(&mut self, at: Time) {
        let at = at.max(self.now());
        if at < self.server_timer {
            self.server_timer = at;
            self.clock.plan(at, Event::Server);
        }
    }

    pub fn handle_server(&mut self) {
        let now = self.now();
        if self.server_timer != now {
            return;
        }
        self.server_timer = Time::NEVER;
        loop {
            let nodes = &self.nodes;
            let full = |id: usize| {
                let node = nodes[id].as_ref();
                node.is_none_or(|node| node.downlink.free > now + QUEUE_MAX)
            };
            let server = self.server.as_mut().expect("it serves");
            let Some((id, conn, left, answer)) = server.poll(now, full) else {
                break;
            };
            let mut at = left + server.spec.delay;
            if let Answer::Body { range, .. } = &answer {
                at = self.node(id).downlink.mix(now, at, range.len());
            } else {
                at = at.max(self.node(id).downlink.free);
            }
            self.clock.plan(at, Event::Answer(id, conn, answer));
        }
        let next = server_next(self);
        // What is left is for full downlinks.
        let next = if next <= now { now + BUSY_WAIT } else { next };
        self.plan_server(next);
    }

    pub fn handle_answer(&mut self, id: usize, conn: ConnKey, answer: Answer) {
        let now = self.now();
        let Some((_, pool)) = &mut self.node(id).pool else {
            return;
        };
        match answer {
            Answer::Head(bytes) => {
                pool.handle_bytes(now, conn, &bytes);
                self.drain_pool(id, None);
            }
            Answer::Body { range, content } => {
                let body = &BODY[..range.len() as usize];
                let taken = pool.handle_bytes(now, conn, body);
                assert_eq!(taken, body.len(), "a body is taken whole");
                self.drain_pool(id, Some((range, content)));
            }
            Answer::Close => {
                pool.handle_broken(now, conn);
                self.drain_pool(id, None);
            }
        }
        self.settle(id);
    }
}

/// Between two looks at downlinks that are full.
const BUSY_WAIT: Duration = Duration::from_millis(5);

fn server_next(world: &World) -> Time {
    world
        .server
        .as_ref()
        .map_or(Time::NEVER, |server| server.next())
}
