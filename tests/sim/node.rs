//! One viewer's machine: its swarm, its store, its lines and its player.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bittube::origin::pool::Pool;
use bittube::swarm::{OriginKey, PeerKey, Swarm};
use bittube::units::{ByteRange, Cause, PieceIndex, Time};

use crate::link::{Line, Uplink};
use crate::peer::{Asked, Temper};
use crate::store::{Content, Store};
use crate::viewer::{Script, Viewer};

/// What a node is to be.
#[derive(Clone, Debug)]
pub struct Spec {
    pub joins: Duration,
    pub leaves: Leave,
    /// Bytes/s.
    pub up: f64,
    pub down: f64,
    /// One way, to a place in the middle of the net.
    pub delay: Duration,
    pub temper: Temper,
    /// Holds the film and plays nothing.
    pub seeds: bool,
    pub script: Script,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Leave {
    /// So long after the film was shown.
    AtEnd(Duration),
    /// Without a word, so long after it joined.
    Killed(Duration),
    Never,
}

pub struct Node {
    pub spec: Spec,
    pub swarm: Swarm,
    pub store: Store,
    pub addr: SocketAddr,
    pub viewer: Viewer,
    pub alive: bool,
    pub joined: Time,
    pub left: Time,
    pub leaving: bool,
    pub pool: Option<(OriginKey, Pool)>,
    pub fetches: BTreeMap<u64, Fetch>,
    /// What the origin's connections have brought and the swarm has not heard.
    pub feed: VecDeque<Feed>,
    pub uplink: Uplink,
    pub downlink: Line,
    /// Connections being made: whom for, where to, and which call it is.
    pub calls: BTreeMap<PeerKey, (SocketAddr, u64)>,
    pub called: u64,
    /// By peer key: its connection and end.
    pub conns: Vec<Option<(usize, usize)>>,
    pub asked: Asked,
    pub timer: Time,
    pub pool_timer: Time,
    pub player_timer: Time,
    pub knows_rate: bool,
    pub counts: Counts,
}

/// A fetch under way.
pub struct Fetch {
    pub range: ByteRange,
    pub cause: Cause,
    /// The next byte of it.
    pub at: u64,
    /// Pieces of it that were bad, and are asked for anew.
    pub void: BTreeSet<PieceIndex>,
}

pub enum Feed {
    Bytes {
        key: u64,
        range: ByteRange,
        content: Content,
    },
    Done(u64),
    Failed(u64, Option<Duration>),
}

/// In bytes.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub from_peers: u64,
    pub from_origin: u64,
    pub by_cause: [u64; Cause::ALL.len()],
    pub to_peers: u64,
    pub banned: Vec<SocketAddr>,
    /// Who sent it a wrong block.
    pub lied_by: BTreeSet<IpAddr>,
    pub differs: bool,
}

impl Node {
    pub fn conn(&self, key: PeerKey) -> Option<(usize, usize)> {
        self.conns.get(key.0).copied().flatten()
    }

    pub fn set_conn(&mut self, key: PeerKey, conn: Option<(usize, usize)>) {
        if self.conns.len() <= key.0 {
            self.conns.resize(key.0 + 1, None);
        }
        self.conns[key.0] = conn;
    }

    /// Whether it plays a film to its end.
    pub fn is_to_finish(&self) -> bool {
        let quits = |act: &(Duration, _)| act.1 == crate::viewer::Act::Quit;
        !self.spec.seeds
            && !matches!(self.spec.leaves, Leave::Killed(_))
            && !self.spec.script.acts.iter().any(quits)
    }

    pub fn online_s(&self, now: Time) -> f64 {
        let until = if self.alive { now } else { self.left };
        until.since(self.joined).as_secs_f64()
    }
}
