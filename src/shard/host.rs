//! One swarm on its shard: the pure machine joined to its store, peers, origins and trackers.

use std::cell::Cell;
use std::cell::OnceCell;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Deref;
use std::rc::Rc;
use std::rc::Weak;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::ring::runtime;
use crate::shard::Shard;
use crate::shard::bitrate::Bitrates;
use crate::shard::disk::Shelf;
use crate::shard::hurry;
use crate::shard::opening;
use crate::shard::origin::OriginHost;
use crate::shard::origin::Sink;
use crate::shard::peer::PeerConn;
use crate::shard::quota::Stored;
use crate::shard::room;
use crate::shard::run::Run;
use crate::shard::sources::Sources;
use crate::shard::tracker;
use crate::store::Hash;
use crate::store::Settled;
use crate::store::Torrent;
use crate::swarm::FetchKey;
use crate::swarm::OriginKey;
use crate::swarm::Output;
use crate::swarm::PeerKey;
use crate::swarm::ReaderKey;
use crate::swarm::Swarm;
use crate::swarm::Verdict;
use crate::torrent::metainfo::Metainfo;
use crate::tracker::announcer::Announcer;
use crate::units::ByteRange;
use crate::units::InfoHash;
use crate::units::PieceIndex;
use crate::units::Time;

/// How often it is asked whether verified bytes are to be made durable.
const SYNC_LOOK: Duration = Duration::from_secs(1);

pub struct Host {
    pub shard: Weak<Shard>,
    pub info_hash: InfoHash,
    pub swarm: RefCell<Swarm>,
    pub metainfo: RefCell<Option<Arc<Metainfo>>>,
    pub shelf: Shelf,
    /// The store is being opened; `changed` tells when that is over.
    pub opening: Cell<bool>,
    pub sources: Sources,
    pub announcer: RefCell<Announcer>,
    pub peers: RefCell<BTreeMap<PeerKey, Rc<PeerConn>>>,
    pub readers: RefCell<BTreeMap<ReaderKey, Rc<Notify>>>,
    bitrates: Bitrates,
    /// When a reader last opened or read.
    pub watched_at: Cell<Time>,
    /// When a reader or a peer last took something.
    pub needed_at: Cell<Time>,
    /// Who rely on it; see [`InUse`].
    users: Cell<usize>,
    /// On the account of the site that asked for it first.
    pub stored: OnceCell<Stored>,
    /// The user's own files are supplied, until the process ends.
    pub ordered: Cell<bool>,
    /// Peers shut out for lying.
    pub banned: Cell<u64>,
    /// Told when the metainfo is known, or the swarm ends.
    pub changed: Notify,
    /// Told when the next timeout may be earlier than the one slept for.
    timer: Notify,
    /// Somebody sees to pieces that are hashed later.
    pub hashing: Cell<bool>,
    armed: Cell<Time>,
    pub announce_wake: Notify,
    pub ended: Cell<bool>,
}

impl Host {
    pub fn start(shard: &Rc<Shard>, info_hash: InfoHash, tiers: Vec<Vec<String>>) -> Rc<Self> {
        let now = shard.now();
        let shared = &shard.shared;
        let setup = crate::swarm::Setup {
            info_hash,
            peer_id: shared.peer_id,
            listen_port: shared.peer_port,
            policy: shared.options.origin_policy,
            seed: shard.seed(),
            limits: crate::swarm::Limits::default(),
            lab: shared.options.lab,
        };
        let announcer = Announcer::new(
            now,
            tiers,
            info_hash,
            shared.peer_id,
            shared.peer_port,
            shard.seed(),
        );
        let host = Rc::new(Self {
            shard: Rc::downgrade(shard),
            info_hash,
            swarm: RefCell::new(Swarm::new(now, setup)),
            metainfo: RefCell::default(),
            shelf: Shelf::default(),
            opening: Cell::new(false),
            sources: Sources::default(),
            announcer: RefCell::new(announcer),
            peers: RefCell::default(),
            readers: RefCell::default(),
            bitrates: Bitrates::default(),
            watched_at: Cell::new(now),
            needed_at: Cell::new(now),
            users: Cell::new(0),
            stored: OnceCell::new(),
            ordered: Cell::new(false),
            banned: Cell::new(0),
            changed: Notify::new(),
            timer: Notify::new(),
            hashing: Cell::new(false),
            armed: Cell::new(Time::NEVER),
            announce_wake: Notify::new(),
            ended: Cell::new(false),
        });
        shard.roster.add(host.clone());
        runtime::spawn(host.clone().keep_time());
        runtime::spawn(host.clone().keep_durable());
        runtime::spawn(tracker::announce(host.clone()));
        host
    }

    /// Keeps it from ending; `None` if it has ended.
    pub fn take_up(self: &Rc<Self>) -> Option<InUse> {
        if self.ended.get() {
            return None;
        }
        self.users.set(self.users.get() + 1);
        Some(InUse(self.clone()))
    }

    pub fn may_end(&self) -> bool {
        self.users.get() == 0 && !self.ordered.get()
    }

    /// Lets peers, origins and trackers go. The store stays open: the caller closes it.
    pub fn end(self: &Rc<Self>) {
        self.ended.set(true);
        let now = runtime::now();
        tracker::report_totals(self);
        self.announcer.borrow_mut().stop(now);
        self.announce_wake.notify_one();
        self.swarm.borrow_mut().shut_down(now);
        self.drain(&[]);
        self.sources.clear();
        self.timer.notify_one();
        self.changed.notify_waiters();
    }

    /// The metainfo is known and its store open: pieces can be asked for.
    pub fn know(self: &Rc<Self>, metainfo: Arc<Metainfo>, store: Torrent) {
        let Some(shard) = self.shard.upgrade() else {
            return;
        };
        let have = store.have().clone();
        let layout = Arc::new(metainfo.layout.clone());
        let info: Bytes = metainfo.info.clone();
        *self.metainfo.borrow_mut() = Some(metainfo);
        self.shelf.open(store);
        self.swarm
            .borrow_mut()
            .know_metainfo(shard.now(), layout, info, have);
        self.drain(&[]);
        self.changed.notify_waiters();
        room::clear_ahead(&shard);
        runtime::spawn(self.clone().rehash());
    }

    /// Joins an origin that holds file `file`; `direct` if the player asked for this very one.
    pub fn add_origin(self: &Rc<Self>, pool: Rc<OriginHost>, file: usize, direct: bool) {
        let Some(metainfo) = self.metainfo.borrow().clone() else {
            return;
        };
        if self.sources.key_of(&pool).is_some() {
            return;
        }
        let covers = metainfo.layout.file_range(file);
        let key = self
            .swarm
            .borrow_mut()
            .add_origin(runtime::now(), covers, direct);
        let (first_byte, bytes_per_s) = pool.estimate();
        self.swarm
            .borrow_mut()
            .set_estimate(key, first_byte, bytes_per_s);
        self.sources.add(key, pool, covers);
        self.drain(&[]);
    }

    /// The origin's file is not, or no longer, what the torrent holds.
    pub fn drop_origin(self: &Rc<Self>, pool: &Rc<OriginHost>) {
        if let Some(key) = self.sources.remove(pool) {
            self.swarm.borrow_mut().remove_origin(runtime::now(), key);
            self.drain(&[]);
        }
    }

    /// Carries out what the swarm decided. `input`: the bytes just handed in, which outputs name.
    pub fn drain(self: &Rc<Self>, input: &[u8]) {
        let mut run = Run::default();
        loop {
            let output = self.swarm.borrow_mut().poll_output();
            match output {
                Some(Output::Store { range, at }) => {
                    if !run.takes(range, self.swarm.borrow().layout()) {
                        self.store(&mut run);
                    }
                    run.add(range, &input[at]);
                }
                Some(output) => {
                    self.store(&mut run);
                    self.carry_out(output);
                }
                None if run.is_empty() => break,
                // The store's verdict may bring more.
                None => self.store(&mut run),
            }
        }
        let next = self.swarm.borrow().next_timeout();
        if next < self.armed.get() {
            self.timer.notify_one();
        }
    }

    fn carry_out(self: &Rc<Self>, output: Output) {
        let Some(shard) = self.shard.upgrade() else {
            return;
        };
        match output {
            // Gathered into runs by `drain`.
            Output::Store { .. } => {}
            Output::Wake { peer } => {
                if let Some(conn) = self.peers.borrow().get(&peer) {
                    conn.wake.notify_one();
                }
            }
            Output::Readable { reader } => {
                if let Some(wake) = self.readers.borrow().get(&reader) {
                    wake.notify_one();
                }
            }
            Output::Fetch {
                fetch,
                origin,
                range,
                cause,
            } => {
                tracing::debug!(?range, cause = cause.name(), "asking the origin");
                self.fetch(fetch, origin, range);
            }
            Output::CancelFetch { fetch } => self.cancel_fetch(fetch),
            Output::Dial { peer, addr } => {
                runtime::spawn(crate::shard::peer::dial(self.clone(), peer, addr));
            }
            Output::Close { peer } => {
                if let Some(conn) = self.peers.borrow().get(&peer) {
                    tracing::debug!(addr = %conn.addr, "peer let go");
                    conn.close();
                }
            }
            Output::Forget { piece } => self.shelf.forget(piece),
            Output::MorePeers => {
                self.announcer.borrow_mut().more_peers(shard.now());
                self.announce_wake.notify_one();
            }
            Output::Complete => {
                tracker::report_totals(self);
                self.announcer.borrow_mut().completed(shard.now());
                self.announce_wake.notify_one();
            }
            Output::Metadata { info } => {
                runtime::spawn(opening::take_metadata(self.clone(), info));
            }
            Output::Banned { addr, why } => {
                self.banned.set(self.banned.get() + 1);
                tracing::info!(%addr, why, "peer banned");
            }
            Output::OriginDiffers { origin } => self.origin_differs(origin),
        }
    }

    fn store(self: &Rc<Self>, run: &mut Run<'_>) {
        let (range, parts) = run.take();
        let Some(shard) = self.shard.upgrade().filter(|_| !parts.is_empty()) else {
            return;
        };
        let now = shard.now();
        let wants_digests = |piece| self.swarm.borrow().wants_digests(piece);
        let make_room = |bytes| room::make(&shard, bytes);
        let hash = if shard.hurry.is_on() && !self.swarm.borrow().is_awaited(range.start) {
            self.hash_later();
            Hash::Later
        } else {
            Hash::Now
        };
        let verdict = self
            .shelf
            .write(now, range, &parts, hash, make_room, wants_digests);
        if let Some((piece, verdict)) = verdict {
            self.handle_piece(&shard, piece, verdict);
        }
    }

    pub fn handle_piece(self: &Rc<Self>, shard: &Rc<Shard>, piece: PieceIndex, verdict: Verdict) {
        let now = shard.now();
        let good = matches!(verdict, Verdict::Good { .. });
        self.swarm.borrow_mut().handle_piece(now, piece, verdict);
        if good {
            room::clear_ahead(shard);
            if let Some(stored) = self.stored.get() {
                stored.add(self.piece_len(piece));
            }
            self.bitrates.look(self, piece);
        } else if self.shelf.is_full(now) {
            self.wake_readers();
        }
    }

    /// Zero while that is not known.
    pub fn piece_len(&self, piece: PieceIndex) -> u64 {
        let swarm = self.swarm.borrow();
        let layout = swarm.layout();
        layout.map_or(0, |layout| u64::from(layout.piece_len(piece)))
    }

    /// Sees to it that what is not hashed on arrival is hashed when the hurry is over.
    fn hash_later(self: &Rc<Self>) {
        if !self.hashing.replace(true) {
            runtime::spawn(hurry::catch_up(self.clone()));
        }
    }

    fn fetch(self: &Rc<Self>, fetch: FetchKey, origin: OriginKey, range: ByteRange) {
        match self.sources.begin(fetch, origin, range) {
            Some((pool, range)) => {
                pool.fetch(range, true, Sink::Swarm(Rc::downgrade(self), fetch));
            }
            None => {
                self.swarm
                    .borrow_mut()
                    .handle_fetch_failed(runtime::now(), fetch, None);
            }
        }
    }

    fn cancel_fetch(self: &Rc<Self>, fetch: FetchKey) {
        if let Some(pool) = self.sources.fetching(fetch)
            && pool.cancel(self, fetch)
        {
            self.sources.end(fetch);
            self.swarm
                .borrow_mut()
                .handle_fetch_failed(runtime::now(), fetch, None);
        }
    }

    /// The origin's bytes for a fetch, as they arrive.
    pub fn handle_fetch_bytes(self: &Rc<Self>, fetch: FetchKey, bytes: &[u8]) {
        self.swarm
            .borrow_mut()
            .handle_fetch_bytes(runtime::now(), fetch, bytes);
        self.drain(bytes);
    }

    pub fn handle_fetch_end(
        self: &Rc<Self>,
        fetch: FetchKey,
        failure: Option<(Option<Time>, String)>,
    ) {
        let now = runtime::now();
        let origin = self.sources.end(fetch);
        let mut swarm = self.swarm.borrow_mut();
        match failure {
            None => {
                swarm.handle_fetch_done(now, fetch);
                if let Some((pool, key)) = &origin {
                    let (first_byte, bytes_per_s) = pool.estimate();
                    swarm.set_estimate(*key, first_byte, bytes_per_s);
                }
            }
            Some((retry_at, why)) => {
                tracing::debug!(%why, "the origin failed");
                swarm.handle_fetch_failed(now, fetch, retry_at);
                if let Some((pool, key)) = &origin
                    && let Some(until) = pool.down_until()
                {
                    swarm.origin_down(now, *key, until);
                }
            }
        }
        drop(swarm);
        match origin {
            Some((pool, _)) if pool.changed.get() => self.drop_origin(&pool),
            _ => self.drain(&[]),
        }
    }

    fn origin_differs(self: &Rc<Self>, origin: OriginKey) {
        if let Some(pool) = self.sources.pool(origin) {
            tracing::warn!("the origin's file is not the torrent's; playing the origin's alone");
            pool.differs.set(true);
            self.drop_origin(&pool);
            self.wake_readers();
        }
    }

    pub fn add_addresses(
        self: &Rc<Self>,
        addrs: &[SocketAddr],
        found: crate::swarm::dialer::Found,
    ) {
        let Some(shard) = self.shard.upgrade() else {
            return;
        };
        let reach = &shard.shared.reach;
        let allowed: Vec<_> = addrs
            .iter()
            .copied()
            .filter(|addr| reach.peer(*addr))
            .collect();
        if allowed.len() < addrs.len() {
            let refused = addrs.len() - allowed.len();
            tracing::debug!(
                refused,
                "peer addresses refused: private, own or a service's port"
            );
        }
        self.swarm
            .borrow_mut()
            .add_addresses(shard.now(), &allowed, found);
        self.drain(&[]);
    }

    /// Trackers that another address of the same torrent names.
    pub fn add_trackers(&self, tiers: Vec<Vec<String>>) {
        let now = runtime::now();
        for tier in tiers {
            self.announcer.borrow_mut().add_trackers(now, tier);
        }
        self.announce_wake.notify_one();
    }

    /// The metainfo, once peers have given it.
    pub async fn metainfo_within(&self, wait: Duration) -> Option<Arc<Metainfo>> {
        let until = runtime::now() + wait;
        loop {
            let changed = self.changed.notified();
            if let Some(metainfo) = self.metainfo.borrow().clone() {
                return Some(metainfo);
            }
            let left = until.since(runtime::now());
            if left.is_zero() || self.ended.get() {
                return None;
            }
            tokio::select! {
                () = changed => {}
                () = runtime::sleep(left) => {}
            }
        }
    }

    /// Bytes of the torrent that the disk no longer gives: fetched again, and no peer is blamed.
    pub fn lose(self: &Rc<Self>, range: ByteRange) {
        for piece in self.shelf.lose(range) {
            self.swarm
                .borrow_mut()
                .handle_piece(runtime::now(), piece, Verdict::Lost);
        }
        self.drain(&[]);
    }

    fn wake_readers(&self) {
        self.readers
            .borrow()
            .values()
            .for_each(|wake| wake.notify_one());
    }

    /// Sleeps until the machine's next timeout, for the life of the swarm.
    async fn keep_time(self: Rc<Self>) {
        while !self.ended.get() {
            let Some(now) = self.shard.upgrade().map(|shard| shard.now()) else {
                return;
            };
            let next = self.swarm.borrow().next_timeout();
            if next <= now {
                self.swarm.borrow_mut().handle_timeout(now);
                self.drain(&[]);
                // A machine that is always due must not starve the ring.
                runtime::breathe().await;
                continue;
            }
            self.armed.set(next);
            if next == Time::NEVER {
                self.timer.notified().await;
            } else {
                tokio::select! {
                    () = runtime::sleep(next.since(now)) => {}
                    () = self.timer.notified() => {}
                }
            }
            self.armed.set(Time::ZERO);
        }
    }

    async fn keep_durable(self: Rc<Self>) {
        while !self.ended.get() {
            runtime::sleep(SYNC_LOOK).await;
            if self.shelf.sync_due(runtime::now()) {
                self.sync().await;
            }
        }
    }

    /// Makes what was verified durable, off the shard.
    pub async fn sync(self: &Rc<Self>) {
        let settled = self.shelf.sync().await;
        self.settle(settled);
    }

    /// Hashes the pieces of an earlier run that are in doubt, off the shard.
    async fn rehash(self: Rc<Self>) {
        while !self.ended.get()
            && let Some(settled) = self.shelf.rehash().await
        {
            self.settle(settled);
        }
    }

    /// Tells the swarm of pieces whose state the disk revealed.
    fn settle(self: &Rc<Self>, settled: Settled) {
        let now = runtime::now();
        for piece in settled.good {
            self.swarm
                .borrow_mut()
                .handle_piece(now, piece, Verdict::Good { digests: None });
        }
        for piece in settled.lost {
            self.swarm
                .borrow_mut()
                .handle_piece(now, piece, Verdict::Lost);
        }
        self.drain(&[]);
    }
}

/// A swarm that does not end while this lives.
pub struct InUse(Rc<Host>);

impl Deref for InUse {
    type Target = Rc<Host>;

    fn deref(&self) -> &Rc<Host> {
        &self.0
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let now = runtime::now();
        self.0.users.set(self.0.users.get() - 1);
        self.0.watched_at.set(now);
        self.0.needed_at.set(now);
    }
}
