//! One core's loop: the pure machines meet the ring.

pub mod appetite;
pub mod bitrate;
pub mod callers;
pub mod control;
pub mod counts;
pub mod directory;
pub mod disk;
pub mod download;
pub mod engine;
pub mod entity;
pub mod fetch;
pub mod film;
pub mod hashing;
pub mod host;
pub mod hurry;
pub mod idle;
pub mod kept;
pub mod opening;
pub mod origin;
pub mod passthrough;
pub mod peer;
pub mod quota;
pub mod reader;
pub mod registry;
pub mod room;
pub mod roster;
pub mod run;
pub mod search;
pub mod seed;
pub mod sites;
pub mod sources;
pub mod stub;
pub mod tally;
pub mod tracker;
pub mod tracking;

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::admin::stats::Stats;
use crate::ring::buffers;
use crate::ring::mailbox::Mail;
use crate::ring::runtime;
use crate::ring::stream::Socket;
use crate::shard::engine::Shared;
use crate::shard::film::Film;
use crate::shard::host::Host;
use crate::shard::hurry::Hurry;
use crate::shard::idle::Idle;
use crate::shard::roster::Roster;
use crate::shard::tally::Tally;
use crate::torrent::metainfo::Metainfo;
use crate::units::InfoHash;
use crate::units::ShardId;
use crate::units::Time;

/// How often a leaving shard looks whether its trackers have heard it.
const GOODBYE_LOOK: Duration = Duration::from_millis(20);

/// What one shard's tasks share; never leaves its thread.
pub struct Shard {
    pub id: ShardId,
    pub shared: Arc<Shared>,
    pub tally: Tally,
    pub films: RefCell<BTreeMap<String, Rc<Film>>>,
    pub roster: Roster,
    /// Connections of players on this shard.
    pub players: Cell<usize>,
    pub idle: Idle,
    /// Connections of peers whose swarm is not known yet.
    pub strangers: Cell<usize>,
    pub hurry: Hurry,
    /// Whose turn it is to ask a tracker.
    pub asks: Semaphore,
    next_seed: Cell<u64>,
}

/// What shards send each other.
pub enum Letter {
    /// A player whose film lives here; `early` has been read from the socket already.
    Player {
        socket: Socket,
        addr: SocketAddr,
        early: Vec<u8>,
    },
    /// A peer of a swarm that lives here.
    Peer {
        socket: Socket,
        addr: SocketAddr,
        early: Vec<u8>,
    },
    /// Keep this torrent supplied from files that are not the store's.
    Seed(Box<SeedOrder>),
    Stats(tokio::sync::oneshot::Sender<Stats>),
    /// Say goodbye to trackers, make the store durable, answer.
    Stop(tokio::sync::oneshot::Sender<()>),
}

pub struct SeedOrder {
    pub metainfo: Metainfo,
    pub data: std::path::PathBuf,
    /// Pieces checked so far and pieces right, for the progress bar.
    pub progress: Arc<SeedProgress>,
}

#[derive(Default)]
pub struct SeedProgress {
    pub bytes_checked: std::sync::atomic::AtomicU64,
    /// 0 under way, 1 seeding, 2 failed.
    pub state: std::sync::atomic::AtomicU32,
    pub pieces_right: std::sync::atomic::AtomicU32,
    pub failure: std::sync::OnceLock<String>,
}

impl Shard {
    pub fn new(id: ShardId, shared: Arc<Shared>, seed: u64) -> Rc<Self> {
        let roster = Roster::new(shared.swarms_max, shared.options.seed_time);
        Rc::new(Self {
            id,
            shared,
            tally: Tally::default(),
            films: RefCell::default(),
            roster,
            players: Cell::new(0),
            idle: Idle::default(),
            strangers: Cell::new(0),
            hurry: Hurry::default(),
            asks: Semaphore::new(tracker::ASKS_MAX),
            next_seed: Cell::new(seed),
        })
    }

    pub fn now(&self) -> Time {
        runtime::now()
    }

    pub fn mail(&self, to: ShardId) -> &Mail<Letter> {
        &self.shared.mail[usize::from(to.0)]
    }

    /// A new seed for a machine's generator (SplitMix64).
    pub fn seed(&self) -> u64 {
        let state = self.next_seed.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.next_seed.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn host(&self, info_hash: InfoHash) -> Option<Rc<Host>> {
        self.roster.get(info_hash)
    }

    /// Tells trackers that we leave, and makes durable what was verified.
    pub async fn say_goodbye(&self) {
        let hosts = self.roster.all();
        for host in &hosts {
            host.announcer.borrow_mut().stop(self.now());
            host.announce_wake.notify_one();
        }
        for host in &hosts {
            host.shelf.close().await;
        }
        self.roster.all_closed().await;
        for host in &hosts {
            while !host.announcer.borrow().stopped() {
                runtime::sleep(GOODBYE_LOOK).await;
            }
        }
    }

    /// This shard's share of the statistics.
    pub fn stats(&self) -> Stats {
        let mut stats = self.tally.stats();
        stats.uptime_s = self.now().since(self.shared.started).as_secs_f64();
        stats.players = self.players.get() as u64;
        stats.buffers = buffers::in_use() as u64;
        stats.store.used = self.shared.store.used();
        stats.store.limit = self.shared.store.limit();
        for host in self.roster.all() {
            stats.add(counts::of(&host, self.id));
        }
        stats
    }
}
