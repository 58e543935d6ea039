//! Connections between nodes: made, fed by the uplinks, heard, and over.

use std::net::SocketAddr;
use std::time::Duration;

use bittube::peer::message::piece_head;
use bittube::peer::session::Send;
use bittube::swarm::PeerKey;
use bittube::units::Time;

use crate::link::{Conn, End, Item, Packet, QUEUE_MAX};
use crate::peer::without_cancels;
use crate::settle::Input;
use crate::store::RIGHT;
use crate::world::{Event, World};

/// As src/shard/peer.rs has it.
const CONNECT_WAIT: Duration = Duration::from_secs(5);

impl World {
    /// `silent`: nobody was there, and the call is given up now.
    pub fn handle_dialled(&mut self, id: usize, peer: PeerKey, call: u64, silent: bool) {
        let now = self.now();
        let Some(&(addr, _)) = self.node(id).calls.get(&peer).filter(|(_, of)| *of == call) else {
            // It was given up before.
            return;
        };
        let from = self.node(id).addr;
        let called = |node: &Option<_>| {
            let node: &Option<crate::node::Node> = node;
            node.as_ref()
                .is_some_and(|node| node.alive && node.addr == addr)
        };
        let to = self.nodes.iter().position(called);
        if to.is_none() && !silent {
            // Nobody is there to refuse it.
            let at = now + CONNECT_WAIT;
            self.clock.plan(at, Event::Dialled(id, peer, call, true));
            return;
        }
        self.node(id).calls.remove(&peer);
        // It calls from a port of its own.
        let port = 32_768 + (self.conns.len() % 28_000) as u16;
        let caller = SocketAddr::new(from.ip(), port);
        let accepted = to.and_then(|to| Some((to, self.node(to).swarm.accept(now, caller)?)));
        let Some((to, key)) = accepted else {
            self.node(id).swarm.handle_closed(now, peer);
            self.settle(id);
            return;
        };
        let conn = self.conns.len();
        let delay = self.node(id).spec.delay + self.node(to).spec.delay;
        self.conns.push(Conn {
            ends: [End::new(id, peer), End::new(to, key)],
            delay,
            open: true,
        });
        self.node(id).set_conn(peer, Some((conn, 0)));
        self.node(to).set_conn(key, Some((conn, 1)));
        self.settle(to);
        self.node(id).swarm.handle_connected(now, peer);
        self.settle(id);
    }

    /// The swarm's own `Close`, or the other side's.
    pub fn close(&mut self, conn: usize, end: usize) {
        let now = self.now();
        let state = &mut self.conns[conn].ends[end];
        if std::mem::replace(&mut state.closed, true) {
            return;
        }
        state.woken = false;
        state.written = None;
        state.socket.clear();
        let (id, key) = (state.node, state.key);
        let was_open = std::mem::replace(&mut self.conns[conn].open, false);
        if was_open || !self.conns[conn].ends[1 - end].closed {
            let at = now + self.conns[conn].delay;
            self.clock.plan(at, Event::Closed(conn, 1 - end));
        }
        let node = self.node(id);
        node.set_conn(key, None);
        node.asked.handle_closed(key);
        node.uplink.turns.retain(|turn| *turn != (conn, end));
        if node.alive {
            node.swarm.handle_closed(now, key);
        }
    }

    pub fn handle_closed(&mut self, conn: usize, end: usize) {
        let id = self.conns[conn].ends[end].node;
        self.close(conn, end);
        if self.is_alive(id) {
            self.settle(id);
        }
    }

    /// Asks the session what is to be sent, until the socket takes no more.
    pub fn poll(&mut self, conn: usize, end: usize) {
        let state = &self.conns[conn].ends[end];
        let (id, key) = (state.node, state.key);
        loop {
            let state = &mut self.conns[conn].ends[end];
            if state.closed || !state.woken || state.written.is_some() {
                break;
            }
            match self.node(id).swarm.poll_send(key) {
                None => self.conns[conn].ends[end].woken = false,
                Some(Send::Bytes(bytes)) => self.say(conn, end, bytes),
                Some(Send::Block(span)) => {
                    let node = self.node(id);
                    assert!(
                        node.store.verified().contains(span.piece.at()),
                        "unverified bytes go to a peer"
                    );
                    let state = &mut self.conns[conn].ends[end];
                    state.socket.push_back(Item::Block(span));
                    state.written = Some(span.len);
                    self.enqueue(conn, end);
                }
            }
        }
    }

    /// The block is through, as acknowledgements tell the driver.
    pub fn handle_written(&mut self, conn: usize, end: usize) {
        let now = self.now();
        let state = &mut self.conns[conn].ends[end];
        let (id, key) = (state.node, state.key);
        let Some(len) = state.written.take().filter(|_| !state.closed) else {
            return;
        };
        let node = self.node(id);
        node.counts.to_peers += u64::from(len);
        node.swarm.sent(now, key, len as usize);
        self.poll(conn, end);
        self.settle(id);
    }

    fn enqueue(&mut self, conn: usize, end: usize) {
        let state = &mut self.conns[conn].ends[end];
        let id = state.node;
        if !std::mem::replace(&mut state.queued, true) {
            self.node(id).uplink.turns.push_back((conn, end));
        }
        self.start_upload(id);
    }

    fn say(&mut self, conn: usize, end: usize, bytes: Vec<u8>) {
        let state = &self.conns[conn].ends[end];
        let (id, key) = (state.node, state.key);
        for block in self.node(id).asked.handle_said(key, &bytes) {
            let node = self.nodes[id].as_ref().expect("it speaks");
            let peers = node.asked.of(block);
            if peers.len() > 2 {
                self.assert_two(node, peers);
            }
        }
        let state = &mut self.conns[conn].ends[end];
        if state.socket.is_empty() {
            self.put_control(conn, end, bytes);
        } else {
            state.socket.push_back(Item::Control(bytes));
        }
    }

    fn put_control(&mut self, conn: usize, end: usize, bytes: Vec<u8>) {
        let at = self.now() + self.conns[conn].delay + self.jitter();
        self.put(conn, 1 - end, at, Packet::Control(bytes));
    }

    /// On the way to `end`, after what is on the way already.
    fn put(&mut self, conn: usize, end: usize, at: Time, packet: Packet) {
        if !self.conns[conn].open {
            return;
        }
        let state = &mut self.conns[conn].ends[end];
        state.last = state.last.max(at);
        state.wire.push_back(packet);
        self.clock.plan(state.last, Event::Hear(conn, end));
    }

    /// The next block goes out if the uplink is free.
    fn start_upload(&mut self, id: usize) {
        let now = self.now();
        let node = self.node(id);
        if node.uplink.current.is_some() {
            return;
        }
        let turns = node.uplink.turns.len();
        let mut wait = Time::NEVER;
        for _ in 0..turns {
            let (conn, end) = self.node(id).uplink.turns.pop_front().expect("counted");
            let other = self.conns[conn].ends[1 - end].node;
            let downlink = &self.nodes[other].as_ref().expect("connected").downlink;
            if downlink.free > now + QUEUE_MAX {
                wait = wait.min(downlink.free.before(QUEUE_MAX));
                self.node(id).uplink.turns.push_back((conn, end));
                continue;
            }
            self.upload(id, conn, end);
            return;
        }
        let node = self.node(id);
        if wait < node.uplink.retry || node.uplink.retry <= now {
            node.uplink.retry = wait;
            self.clock.plan(wait, Event::Uplink(id));
        }
    }

    fn upload(&mut self, id: usize, conn: usize, end: usize) {
        let now = self.now();
        let Some(Item::Block(span)) = self.conns[conn].ends[end].socket.front() else {
            panic!("a connection in the queue has a block to send");
        };
        let span = *span;
        let (other, delay) = (self.conns[conn].ends[1 - end].node, self.conns[conn].delay);
        self.nonce += 1;
        let nonce = self.nonce;
        let node = self.node(id);
        let content = node.spec.temper.content(span, nonce);
        let left = node.uplink.line.pass(now, u64::from(span.len));
        node.uplink.current = Some((conn, end));
        self.clock.plan(left, Event::Uplink(id));
        let way = delay + self.jitter();
        let at = self
            .node(other)
            .downlink
            .mix(now, left + way, u64::from(span.len));
        // What keeps the path busy is not waited for.
        self.clock.plan(at.before(way), Event::Written(conn, end));
        self.put(conn, 1 - end, at, Packet::Block { span, content });
    }

    pub fn handle_uplink(&mut self, id: usize) {
        let now = self.now();
        let node = self.node(id);
        if node.uplink.current.is_some() && node.uplink.line.free > now {
            return;
        }
        if let Some((conn, end)) = node.uplink.current.take() {
            let state = &mut self.conns[conn].ends[end];
            state.queued = false;
            if !state.closed {
                state.socket.pop_front();
                self.next_item(conn, end);
            }
        }
        self.start_upload(id);
    }

    /// What was said goes with the blocks that it stands between; the next block waits for a turn.
    fn next_item(&mut self, conn: usize, end: usize) {
        while let Some(item) = self.conns[conn].ends[end].socket.front() {
            if matches!(item, Item::Block(_)) {
                return self.enqueue(conn, end);
            }
            if let Some(Item::Control(bytes)) = self.conns[conn].ends[end].socket.pop_front() {
                self.put_control(conn, end, bytes);
            }
        }
    }

    /// The next packet on the way to `end` is there.
    pub fn hear(&mut self, conn: usize, end: usize) {
        let now = self.now();
        let packet = self.conns[conn].ends[end].wire.pop_front();
        let state = &self.conns[conn].ends[end];
        let (id, key) = (state.node, state.key);
        let Some(packet) = packet.filter(|_| !state.closed) else {
            return;
        };
        match packet {
            Packet::Control(bytes) => {
                let node = self.node(id);
                node.asked.handle_heard(key, &bytes);
                let bytes = match node.spec.temper.ignores_cancel {
                    true => without_cancels(&bytes),
                    false => bytes,
                };
                let taken = node.swarm.handle_bytes(now, key, &bytes);
                assert_eq!(taken, bytes.len(), "whole messages are taken whole");
                self.settle(id);
            }
            Packet::Block { span, content } => {
                self.frame[..13].copy_from_slice(&piece_head(span));
                let whole = 13 + span.len as usize;
                let frame = std::mem::take(&mut self.frame);
                let node = self.node(id);
                node.counts.from_peers += u64::from(span.len);
                node.asked.remove(key, (span.piece.0, span.begin));
                let taken = node.swarm.handle_bytes(now, key, &frame[..whole]);
                assert_eq!(taken, whole, "a whole block is taken whole");
                self.frame = frame;
                let range = self.layout.span_range(span);
                if content != RIGHT {
                    let liar = self.conns[conn].ends[1 - end].node;
                    let liar = self.node(liar).addr.ip();
                    self.node(id).counts.lied_by.insert(liar);
                }
                self.settle_with(
                    id,
                    Input {
                        range,
                        offset: 13,
                        content,
                        by_origin: false,
                    },
                );
            }
        }
    }
}
