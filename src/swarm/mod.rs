//! One info-hash: its readers, peers and origins, and the decisions between them.
//!
//! `reader` says what is due when, `picker` which block a peer is asked for, `supply` what the
//! origin is asked for, `requests` who is asked for what. What happens is carried from one to the
//! other by `wire` (peers), `buy` (origins), `play` (players), `verdict` (the store) and `crowd`
//! (addresses and uploads); what follows from it, here.

pub mod blocks;
pub mod choker;
pub mod dialer;
pub mod front;
pub mod losses;
pub mod metadata;
pub mod outlook;
pub mod peers;
pub mod picker;
pub mod queue;
pub mod rarity;
pub mod reader;
pub mod rendezvous;
pub mod requests;
pub mod runs;
pub mod serving;
pub mod stats;
pub mod supply;
pub mod suspects;

mod buy;
mod crowd;
mod deal;
mod late;
mod play;
mod uploads;
mod verdict;
mod wire;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fixedbitset::FixedBitSet;
use slab::Slab;

use crate::swarm::choker::Choker;
use crate::swarm::dialer::Dialer;
use crate::swarm::losses::Losses;
use crate::swarm::metadata::Metadata;
use crate::swarm::peers::Peers;
use crate::swarm::rarity::Rarity;
use crate::swarm::reader::{Legacy, Reader};
use crate::swarm::rendezvous::Lot;
use crate::swarm::requests::Requests;
use crate::swarm::serving::Serving;
use crate::swarm::stats::Stats;
use crate::swarm::supply::Supply;
use crate::swarm::suspects::Suspects;
use crate::torrent::layout::Layout;
use crate::units::lab::{Buy, Lab};
use crate::units::{Block, ByteRange, Cause, InfoHash, OriginPolicy, PeerId, PieceIndex, Time};

/// Connections, and being made.
pub const PEERS_MAX: usize = 200;
/// Films whose bitrate is remembered.
const RATES_MAX: usize = 64;
/// With fewer peers the tracker is asked for more, not oftener than this.
const PEERS_ENOUGH: usize = 20;
const MORE_PEERS_EVERY: Duration = Duration::from_secs(60);
/// Peers that are called or have not unchoked us are waited for so long before the origin alone
/// goes far ahead; and any peers, before the origin that is the last resort does.
const PROSPECT_WAIT: Duration = Duration::from_secs(3);

/// A peer that fell silent is taken to be late only, for so long, as far as deadlines allow.
const LATELY: Duration = Duration::from_secs(1);

/// A connection. The driver's until it has called `handle_closed`, also after `Output::Close`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerKey(pub usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReaderKey(pub usize);

/// Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FetchKey(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OriginKey(pub usize);

#[derive(Clone, Debug)]
pub struct Setup {
    pub info_hash: InfoHash,
    pub peer_id: PeerId,
    pub listen_port: u16,
    pub policy: OriginPolicy,
    /// Random.
    pub seed: u64,
    pub limits: Limits,
    pub lab: Lab,
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub peers_max: usize,
    pub dials: u32,
    pub upload_slots: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            peers_max: PEERS_MAX,
            dials: dialer::DIALS_MAX,
            upload_slots: choker::SLOTS,
        }
    }
}

/// What the store found of a piece whose bytes are all there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// With the SHA-1 of each block if [`Swarm::wants_digests`].
    Good {
        digests: Option<Vec<[u8; 20]>>,
    },
    Bad {
        digests: Vec<[u8; 20]>,
    },
    /// A disk error, or evicted: fetched again if wanted, nobody is blamed. What could not be
    /// stored in the first place is asked for only after a pause.
    Lost,
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    Dial {
        peer: PeerKey,
        addr: SocketAddr,
    },
    Close {
        peer: PeerKey,
    },
    /// There may be something to send: `poll_send` until `None`.
    Wake {
        peer: PeerKey,
    },
    /// Write at once; `handle_piece` when the store has a verdict.
    Store {
        /// Of the torrent, inside one piece.
        range: ByteRange,
        /// In the bytes just handed in.
        at: Range<usize>,
    },
    /// Drop what is stored of this unverified piece.
    Forget {
        piece: PieceIndex,
    },
    Fetch {
        fetch: FetchKey,
        origin: OriginKey,
        range: ByteRange,
        cause: Cause,
    },
    /// Only if it has not begun; else its bytes come to the end. Either way `handle_fetch_done` or
    /// `handle_fetch_failed` ends it.
    CancelFetch {
        fetch: FetchKey,
    },
    /// A reader that had nothing to send has something.
    Readable {
        reader: ReaderKey,
    },
    /// Complete, its hash not checked: `know_metainfo` or `metadata_bad`.
    Metadata {
        info: Vec<u8>,
    },
    /// Ask the tracker.
    MorePeers,
    Complete,
    Banned {
        addr: SocketAddr,
        why: &'static str,
    },
    /// Its bytes are not the torrent's; it is asked no more.
    OriginDiffers {
        origin: OriginKey,
    },
}

/// One swarm. After any `handle_*` or command `poll_output` is to be drained.
pub struct Swarm {
    setup: Setup,
    /// Ours, when viewers decide who fetches a piece.
    lot: Lot,
    now: Time,
    torrent: Option<Torrent>,
    /// Verified pieces; empty while the metadata is unknown.
    have: FixedBitSet,
    metadata: Metadata,
    dialer: Dialer,
    choker: Choker<PeerKey>,
    serving: Serving,
    peers: Peers,
    readers: Slab<Reader>,
    legacy: Option<Legacy>,
    /// Bitrates by file, of the last few.
    rates: VecDeque<(ByteRange, f64)>,
    supply: Supply,
    suspects: Suspects,
    losses: Losses,
    want_all: bool,
    upload_only: bool,
    shut_down: bool,
    plan_at: Time,
    /// When peers are told what could wait.
    tell_at: Time,
    /// At the last look no peer delivered.
    alone: bool,
    /// Since when that is so with a reader.
    alone_since: Option<Time>,
    /// When a look last found that a peer delivers.
    delivered: Option<Time>,
    /// Blocks became missing, or room for pieces: other peers may have work.
    deal: bool,
    /// Uploads may have other turns.
    turn: bool,
    /// The origin may have work.
    replan: bool,
    more_peers_at: Time,
    /// Until then addresses of peers may be on their way.
    answer_by: Time,
    /// Closed readers' part of the sums.
    stats: Stats,
    outputs: VecDeque<Output>,
}

/// What is known with the metadata.
struct Torrent {
    layout: Arc<Layout>,
    requests: Requests,
    rarity: Rarity,
    /// Pieces that lack.
    left: u32,
    info_len: u32,
}

impl Swarm {
    pub fn new(now: Time, mut setup: Setup) -> Self {
        if setup.lab.buy == Buy::ClientServer {
            setup.limits.peers_max = 0;
        }
        let limits = dialer::Limits {
            dials: setup.limits.dials,
            ..dialer::Limits::default()
        };
        Self {
            dialer: Dialer::new(now, limits),
            serving: Serving::new(now),
            choker: Choker::new(now, setup.limits.upload_slots, setup.seed),
            supply: Supply::new(setup.policy, setup.lab),
            lot: Lot::new(setup.info_hash, setup.peer_id),
            setup,
            now,
            torrent: None,
            have: FixedBitSet::new(),
            metadata: Metadata::unknown(),
            peers: Peers::default(),
            readers: Slab::new(),
            legacy: None,
            rates: VecDeque::new(),
            suspects: Suspects::default(),
            losses: Losses::default(),
            want_all: false,
            upload_only: false,
            shut_down: false,
            plan_at: Time::NEVER,
            tell_at: Time::NEVER,
            alone: false,
            alone_since: None,
            delivered: None,
            deal: false,
            turn: false,
            replan: false,
            more_peers_at: now,
            answer_by: now + crowd::ANSWER_WAIT,
            stats: Stats::default(),
            outputs: VecDeque::new(),
        }
    }

    /// The metadata, from a file or from [`Output::Metadata`] once its hash is right. `have`: the
    /// verified pieces in the store.
    pub fn know_metainfo(
        &mut self,
        now: Time,
        layout: Arc<Layout>,
        info: Bytes,
        have: FixedBitSet,
    ) {
        self.now = now;
        let count = layout.piece_count();
        let info_len = u32::try_from(info.len()).expect("R30 bounds metadata");
        self.metadata.know(info);
        self.have = have;
        self.have.grow(count as usize);
        let held = u32::try_from(self.have.count_ones(..)).expect("at most the pieces");
        self.torrent = Some(Torrent {
            requests: Requests::new(Arc::clone(&layout), &self.have),
            rarity: Rarity::new(count),
            left: count - held,
            info_len,
            layout,
        });
        for key in self.peers.keys() {
            self.tell_metainfo(key, count, info_len);
        }
        self.deal = true;
        self.replan = true;
        self.settle(now);
    }

    /// The metadata of [`Output::Metadata`] had another hash.
    pub fn metadata_bad(&mut self, now: Time) {
        self.now = now;
        let liar = self.metadata.handle_bad();
        let liar = liar.and_then(|liar| self.peers.get(liar));
        if let Some(addr) = liar.map(|peer| peer.addr) {
            self.ban(now, addr, "metadata-hash");
        }
        self.ask_all_for_metadata();
        self.settle(now);
    }

    fn hurry_metadata(&mut self) {
        if self.torrent.is_none() {
            self.metadata.handle_tick();
            self.ask_all_for_metadata();
        }
    }

    fn ask_all_for_metadata(&mut self) {
        for key in self.peers.keys() {
            self.ask_metadata(key);
        }
    }

    pub fn layout(&self) -> Option<&Arc<Layout>> {
        self.torrent.as_ref().map(|torrent| &torrent.layout)
    }

    pub fn have(&self) -> &FixedBitSet {
        &self.have
    }

    pub fn is_complete(&self) -> bool {
        self.torrent
            .as_ref()
            .is_some_and(|torrent| torrent.left == 0)
    }

    /// The whole torrent is wanted (`seed`, `get`), or only what readers need.
    pub fn want_all(&mut self, now: Time, want: bool) {
        self.now = now;
        self.want_all = want;
        self.interest_all();
        self.deal = true;
        self.settle(now);
    }

    /// BEP 21: said to peers that connect from now on.
    pub fn set_upload_only(&mut self, upload_only: bool) {
        self.upload_only = upload_only;
    }

    /// Closes all connections and makes no new ones.
    pub fn shut_down(&mut self, now: Time) {
        self.now = now;
        self.shut_down = true;
        for key in self.peers.keys() {
            self.close(now, key);
        }
        for fetch in self.supply.fetches() {
            self.outputs
                .push_back(Output::CancelFetch { fetch: fetch.key });
        }
    }
}

/// What follows from each input.
impl Swarm {
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub fn next_timeout(&self) -> Time {
        if self.shut_down {
            return Time::NEVER;
        }
        let mut next = self
            .dial_at()
            .min(self.choker.next_timeout())
            .min(self.serving.next_timeout())
            .min(self.plan_at)
            .min(self.tell_at)
            .min(self.supply.next_late())
            .min(self.losses.next_timeout());
        let held = self
            .readers
            .iter()
            .filter_map(|(_, reader)| reader.held_until());
        next = next.min(held.min().unwrap_or(Time::NEVER));
        for (_, peer) in self.peers.iter() {
            next = next.min(peer.next_timeout());
        }
        next
    }

    pub fn handle_timeout(&mut self, now: Time) {
        self.now = now;
        if self.shut_down {
            return;
        }
        for key in self.peers.due(now) {
            self.check_peer(now, key);
        }
        for fetch in self.supply.late(now) {
            self.disown(&fetch);
        }
        if self.choker.is_due(now) {
            self.choose_uploads(now, false);
            self.hurry_metadata();
        }
        if now >= self.choker.next_timeout() {
            self.choose_uploads(now, true);
        }
        self.turn |= self.serving.handle_timeout(now);
        self.tell(now);
        self.retry_lost(now);
        self.release_readers(now);
        self.replan |= now >= self.plan_at;
        self.settle(now);
    }

    /// What the input just handled calls for, once it is all taken in.
    fn settle(&mut self, now: Time) {
        if self.shut_down {
            return;
        }
        if std::mem::take(&mut self.deal) {
            self.deal_out(now);
        }
        if std::mem::take(&mut self.replan) {
            self.plan(now);
        }
        if std::mem::take(&mut self.turn) {
            self.take_turns(now);
        }
        self.dial(now);
    }

    /// Somebody wants bytes that lack, and the disk takes them.
    fn wanting(&self) -> bool {
        let wanted = self.want_all || !self.readers.is_empty();
        wanted && !self.is_complete() && !self.losses.pauses_all()
    }

    /// Nobody is to bring this block any more, as far as this peer goes.
    fn release(&mut self, block: Block, key: PeerKey) {
        if let Some(torrent) = &mut self.torrent {
            torrent.requests.release(block, key);
            self.deal = true;
        }
    }

    /// Takes a request back, if it is still out.
    fn cancel(&mut self, key: PeerKey, block: Block) {
        let Some(torrent) = &self.torrent else {
            return;
        };
        if let Some(peer) = self.peers.get_mut(key)
            && peer.cancel(block, torrent.layout.span(block))
        {
            wake(&mut self.outputs, key, &mut peer.woken);
            self.deal = true;
        }
    }
}

/// Tells the driver, once, that a peer has something to send.
fn wake(outputs: &mut VecDeque<Output>, peer: PeerKey, woken: &mut bool) {
    if !std::mem::replace(woken, true) {
        outputs.push_back(Output::Wake { peer });
    }
}

#[cfg(test)]
mod tests;
