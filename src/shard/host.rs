//! One swarm on its shard: the pure machine joined to its store, peers, origins and trackers.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::rc::Weak;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use fixedbitset::FixedBitSet;
use tokio::sync::Notify;
use url::Url;

use crate::admin::stats::Bytes as AdminBytes;
use crate::admin::stats::ReaderStats;
use crate::admin::stats::Stats;
use crate::admin::stats::SwarmStats;
use crate::ring::runtime;
use crate::shard::SeedOrder;
use crate::shard::SeedProgress;
use crate::shard::Shard;
use crate::shard::origin::OriginHost;
use crate::shard::origin::Sink;
use crate::shard::peer::PeerConn;
use crate::store::Disk;
use crate::store::Progress;
use crate::store::Settled;
use crate::store::Torrent;
use crate::store::open_external;
use crate::swarm::FetchKey;
use crate::swarm::OriginKey;
use crate::swarm::Output;
use crate::swarm::PeerKey;
use crate::swarm::ReaderKey;
use crate::swarm::Swarm;
use crate::swarm::Verdict;
use crate::swarm::stats::ReaderView;
use crate::torrent::metainfo::Metainfo;
use crate::tracker::announcer::Announcer;
use crate::units::ByteRange;
use crate::units::Cause;
use crate::units::InfoHash;
use crate::units::PieceIndex;
use crate::units::ShardId;
use crate::units::Time;

/// How long a swarm that found its disk full leaves it alone.
const FULL_PAUSE: Duration = Duration::from_secs(10);
/// How often it is asked whether verified bytes are to be made durable.
const SYNC_LOOK: Duration = Duration::from_secs(1);
/// Evicted at a time, so that not every piece evicts another.
const ROOM_MADE: u64 = 16 * 1024 * 1024;

pub struct Host {
    pub shard: Weak<Shard>,
    pub info_hash: InfoHash,
    pub swarm: RefCell<Swarm>,
    pub metainfo: RefCell<Option<Rc<Metainfo>>>,
    pub store: RefCell<Option<Torrent>>,
    pub announcer: RefCell<Announcer>,
    pub peers: RefCell<BTreeMap<PeerKey, Rc<PeerConn>>>,
    pub readers: RefCell<BTreeMap<ReaderKey, Rc<Notify>>>,
    origins: RefCell<Vec<Source>>,
    fetches: RefCell<BTreeMap<FetchKey, Rc<OriginHost>>>,
    /// Until then nothing is stored: the disk is full and readers go to the origin.
    full_until: Cell<Time>,
    /// Told when the metainfo is known, or the swarm ends.
    pub changed: Notify,
    /// Told when the next timeout may be earlier than the one slept for.
    timer: Notify,
    armed: Cell<Time>,
    pub announce_wake: Notify,
    pub ended: Cell<bool>,
}

/// An origin of this swarm.
struct Source {
    key: OriginKey,
    pool: Rc<OriginHost>,
    /// Torrent bytes that its file holds.
    covers: ByteRange,
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
            store: RefCell::default(),
            announcer: RefCell::new(announcer),
            peers: RefCell::default(),
            readers: RefCell::default(),
            origins: RefCell::default(),
            fetches: RefCell::default(),
            full_until: Cell::new(Time::ZERO),
            changed: Notify::new(),
            timer: Notify::new(),
            armed: Cell::new(Time::NEVER),
            announce_wake: Notify::new(),
            ended: Cell::new(false),
        });
        shard.hosts.borrow_mut().insert(info_hash, host.clone());
        runtime::spawn(host.clone().keep_time());
        runtime::spawn(host.clone().keep_durable());
        runtime::spawn(crate::shard::tracker::announce(host.clone()));
        host
    }

    /// The metainfo is known and its store open: pieces can be asked for.
    pub fn know(self: &Rc<Self>, metainfo: Rc<Metainfo>, store: Torrent) {
        let Some(shard) = self.shard.upgrade() else {
            return;
        };
        let have: FixedBitSet = store.have().clone();
        let layout = Arc::new(metainfo.layout.clone());
        let info: Bytes = metainfo.info.clone();
        *self.metainfo.borrow_mut() = Some(metainfo);
        *self.store.borrow_mut() = Some(store);
        self.swarm
            .borrow_mut()
            .know_metainfo(shard.now(), layout, info, have);
        self.drain(&[]);
        self.changed.notify_waiters();
        runtime::spawn(self.clone().rehash());
    }

    /// Joins an origin that holds file `file`; `direct` if the player asked for this very one.
    pub fn add_origin(self: &Rc<Self>, pool: Rc<OriginHost>, file: usize, direct: bool) {
        let Some(shard) = self.shard.upgrade() else {
            return;
        };
        let Some(metainfo) = self.metainfo.borrow().clone() else {
            return;
        };
        if self
            .origins
            .borrow()
            .iter()
            .any(|source| Rc::ptr_eq(&source.pool, &pool))
        {
            return;
        }
        let covers = metainfo.layout.file_range(file);
        let key = self
            .swarm
            .borrow_mut()
            .add_origin(shard.now(), covers, direct);
        let (first_byte, bytes_per_s) = pool.estimate();
        self.swarm
            .borrow_mut()
            .set_estimate(key, first_byte, bytes_per_s);
        self.origins.borrow_mut().push(Source { key, pool, covers });
        self.drain(&[]);
    }

    /// The origin's file is not, or no longer, what the torrent holds.
    pub fn drop_origin(self: &Rc<Self>, pool: &Rc<OriginHost>) {
        let Some(shard) = self.shard.upgrade() else {
            return;
        };
        let at = self
            .origins
            .borrow()
            .iter()
            .position(|source| Rc::ptr_eq(&source.pool, pool));
        if let Some(at) = at {
            let source = self.origins.borrow_mut().remove(at);
            self.swarm
                .borrow_mut()
                .remove_origin(shard.now(), source.key);
            self.fetches
                .borrow_mut()
                .retain(|_, of| !Rc::ptr_eq(of, pool));
            self.drain(&[]);
        }
    }

    pub fn origin_key(&self, pool: &Rc<OriginHost>) -> Option<OriginKey> {
        let origins = self.origins.borrow();
        origins
            .iter()
            .find(|source| Rc::ptr_eq(&source.pool, pool))
            .map(|source| source.key)
    }

    /// Whether readers must go round the store because the disk is full.
    pub fn is_full(&self, now: Time) -> bool {
        now < self.full_until.get()
    }

    /// Carries out what the swarm decided. `input`: the bytes just handed in, which outputs name.
    pub fn drain(self: &Rc<Self>, input: &[u8]) {
        loop {
            let output = self.swarm.borrow_mut().poll_output();
            let Some(output) = output else { break };
            self.carry_out(output, input);
        }
        let next = self.swarm.borrow().next_timeout();
        if next < self.armed.get() {
            self.timer.notify_one();
        }
    }

    fn carry_out(self: &Rc<Self>, output: Output, input: &[u8]) {
        let Some(shard) = self.shard.upgrade() else {
            return;
        };
        match output {
            Output::Store { range, at } => self.store(&shard, range, &input[at]),
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
                self.fetch(&shard, fetch, origin, range);
            }
            Output::CancelFetch { fetch } => self.cancel_fetch(&shard, fetch),
            Output::Dial { peer, addr } => {
                runtime::spawn(crate::shard::peer::dial(self.clone(), peer, addr));
            }
            Output::Close { peer } => {
                if let Some(conn) = self.peers.borrow().get(&peer) {
                    tracing::debug!(addr = %conn.addr, "peer let go");
                    conn.close();
                }
            }
            Output::Forget { piece } => {
                if let Some(store) = self.store.borrow_mut().as_mut() {
                    store.forget(piece);
                }
            }
            Output::MorePeers => {
                self.announcer.borrow_mut().more_peers(shard.now());
                self.announce_wake.notify_one();
            }
            Output::Complete => {
                self.announcer.borrow_mut().completed(shard.now());
                self.announce_wake.notify_one();
            }
            Output::Metadata { info } => self.metadata(&shard, info),
            Output::Banned { addr, why } => tracing::info!(%addr, why, "peer banned"),
            Output::OriginDiffers { origin } => self.origin_differs(origin),
        }
    }

    fn store(self: &Rc<Self>, shard: &Rc<Shard>, range: ByteRange, data: &[u8]) {
        let now = shard.now();
        let mut guard = self.store.borrow_mut();
        let Some(store) = guard.as_mut() else { return };
        let piece = store.layout().piece_of(range.start);
        let mut outcome = if store.has_begun(piece) {
            store.write(now, range, data)
        } else {
            let room = store.room_for(u64::from(store.layout().piece_len(piece)));
            room.and_then(|()| store.write(now, range, data))
        };
        if matches!(outcome, Err(Disk::Full)) {
            let wanted = u64::from(store.layout().piece_len(piece));
            drop(guard);
            let made = self.make_room(shard, wanted);
            guard = self.store.borrow_mut();
            if made {
                outcome = guard.as_mut().expect("still open").write(now, range, data);
            }
        }
        let store = guard.as_mut().expect("still open");
        let verdict = match outcome {
            Ok(Progress::Partial) => return,
            Ok(Progress::Good) => {
                let wanted = self.swarm.borrow().wants_digests(piece);
                let digests = wanted.then(|| store.block_digests(piece).ok()).flatten();
                Verdict::Good { digests }
            }
            Ok(Progress::Bad) => match store.block_digests(piece) {
                Ok(digests) => Verdict::Bad { digests },
                Err(_) => Verdict::Lost,
            },
            Err(error) => {
                tracing::warn!(%error, "a piece could not be stored");
                self.full_until.set(now + FULL_PAUSE);
                Verdict::Lost
            }
        };
        if !matches!(verdict, Verdict::Good { .. }) {
            store.forget(piece);
        }
        drop(guard);
        if self.is_full(now) {
            self.wake_readers();
        }
        self.swarm.borrow_mut().handle_piece(now, piece, verdict);
    }

    /// Evicts the least recently watched pieces; false if there is nothing that may go.
    fn make_room(self: &Rc<Self>, shard: &Rc<Shard>, bytes: u64) -> bool {
        let bytes = bytes.max(ROOM_MADE);
        if shard
            .shared
            .store
            .evict_idle(bytes)
            .is_ok_and(|freed| freed >= bytes)
        {
            return true;
        }
        let mut freed = false;
        let hosts: Vec<_> = shard.hosts.borrow().values().cloned().collect();
        for host in hosts {
            let lost = {
                let swarm = host.swarm.borrow();
                let mut store = host.store.borrow_mut();
                let Some(store) = store.as_mut() else {
                    continue;
                };
                store.evict(bytes, |piece| swarm.evictable(piece))
            };
            freed |= !lost.is_empty();
            for piece in lost {
                host.swarm
                    .borrow_mut()
                    .handle_piece(shard.now(), piece, Verdict::Lost);
            }
            if freed {
                // What was evicted is given back to the disk once the journal says so.
                runtime::spawn(async move { host.sync().await });
                break;
            }
        }
        freed
    }

    fn fetch(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        fetch: FetchKey,
        origin: OriginKey,
        range: ByteRange,
    ) {
        let found = {
            let origins = self.origins.borrow();
            let source = origins.iter().find(|source| source.key == origin);
            source.map(|source| (source.pool.clone(), source.covers))
        };
        let Some((pool, covers)) = found else {
            self.swarm
                .borrow_mut()
                .handle_fetch_failed(shard.now(), fetch, None);
            return;
        };
        self.fetches.borrow_mut().insert(fetch, pool.clone());
        let file_range = ByteRange::new(range.start - covers.start, range.end - covers.start);
        pool.fetch(file_range, true, Sink::Swarm(Rc::downgrade(self), fetch));
    }

    fn cancel_fetch(self: &Rc<Self>, shard: &Rc<Shard>, fetch: FetchKey) {
        let pool = self.fetches.borrow().get(&fetch).cloned();
        if let Some(pool) = pool
            && pool.cancel(self, fetch)
        {
            self.fetches.borrow_mut().remove(&fetch);
            self.swarm
                .borrow_mut()
                .handle_fetch_failed(shard.now(), fetch, None);
        }
    }

    /// The origin's bytes for a fetch, as they arrive.
    pub fn handle_fetch_bytes(self: &Rc<Self>, fetch: FetchKey, bytes: &[u8]) {
        let Some(shard) = self.shard.upgrade() else {
            return;
        };
        self.swarm
            .borrow_mut()
            .handle_fetch_bytes(shard.now(), fetch, bytes);
        self.drain(bytes);
    }

    pub fn handle_fetch_end(
        self: &Rc<Self>,
        fetch: FetchKey,
        failure: Option<(Option<Time>, String)>,
    ) {
        let Some(shard) = self.shard.upgrade() else {
            return;
        };
        let now = shard.now();
        let pool = self.fetches.borrow_mut().remove(&fetch);
        let origin = pool
            .as_ref()
            .and_then(|pool| Some((pool.clone(), self.origin_key(pool)?)));
        let mut swarm = self.swarm.borrow_mut();
        match failure {
            None => {
                swarm.handle_fetch_done(now, fetch);
                if let Some((pool, key)) = origin {
                    let (first_byte, bytes_per_s) = pool.estimate();
                    swarm.set_estimate(key, first_byte, bytes_per_s);
                }
            }
            Some((retry_at, why)) => {
                tracing::debug!(%why, "the origin failed");
                swarm.handle_fetch_failed(now, fetch, retry_at);
                if let Some((pool, key)) = origin
                    && let Some(until) = pool.down_until()
                {
                    swarm.origin_down(now, key, until);
                }
            }
        }
        drop(swarm);
        self.drain(&[]);
    }

    fn origin_differs(self: &Rc<Self>, origin: OriginKey) {
        let pool = {
            let origins = self.origins.borrow();
            origins
                .iter()
                .find(|source| source.key == origin)
                .map(|source| source.pool.clone())
        };
        if let Some(pool) = pool {
            tracing::warn!("the origin's file is not the torrent's; playing the origin's alone");
            pool.differs.set(true);
            self.drop_origin(&pool);
            self.wake_readers();
        }
    }

    fn metadata(self: &Rc<Self>, shard: &Rc<Shard>, info: Vec<u8>) {
        let parsed = Metainfo::from_info(Bytes::from(info), self.info_hash);
        let metainfo = match parsed {
            Ok(metainfo) => metainfo,
            Err(error) => {
                tracing::warn!(%error, "metadata from peers was refused");
                self.swarm.borrow_mut().metadata_bad(shard.now());
                return;
            }
        };
        match shard.shared.store.open_torrent(&metainfo) {
            Ok(torrent) => {
                let host = self.clone();
                runtime::spawn(async move { host.know(Rc::new(metainfo), torrent) });
            }
            Err(error) => tracing::error!(%error, "the store cannot take this torrent"),
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

    pub fn has_origin(&self, url: &Url) -> bool {
        self.origins
            .borrow()
            .iter()
            .any(|source| source.pool.url == *url)
    }

    /// The metainfo, once peers have given it.
    pub async fn metainfo_within(&self, wait: Duration) -> Option<Rc<Metainfo>> {
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
        let Some(metainfo) = self.metainfo.borrow().clone() else {
            return;
        };
        for piece in metainfo.layout.pieces_of(range).map(PieceIndex) {
            if let Some(store) = self.store.borrow_mut().as_mut() {
                store.lose(piece);
            }
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
            let now = runtime::now();
            if self
                .store
                .borrow()
                .as_ref()
                .is_some_and(|store| store.sync_due(now))
            {
                self.sync().await;
            }
        }
    }

    /// Makes what was verified durable, off the shard.
    pub async fn sync(self: &Rc<Self>) {
        let job = self.store.borrow_mut().as_mut().and_then(Torrent::sync_job);
        if let Some(job) = job {
            let synced = runtime::blocking(move || job.run()).await;
            match synced {
                Ok(synced) => {
                    let settled = self
                        .store
                        .borrow_mut()
                        .as_mut()
                        .map(|s| s.handle_synced(synced));
                    self.settle(settled.unwrap_or_default());
                }
                Err(error) => tracing::error!(%error, "the store was not made durable"),
            }
        }
    }

    /// Hashes the pieces of an earlier run that are in doubt, off the shard.
    async fn rehash(self: Rc<Self>) {
        loop {
            let job = self
                .store
                .borrow_mut()
                .as_mut()
                .and_then(Torrent::rehash_job);
            let Some(job) = job else { return };
            match runtime::blocking(move || job.run()).await {
                Ok(rehashed) => {
                    let mut store = self.store.borrow_mut();
                    let settled = store.as_mut().map(|store| store.handle_rehashed(rehashed));
                    drop(store);
                    self.settle(settled.unwrap_or_default());
                }
                Err(error) => {
                    tracing::error!(%error, "stored pieces were not checked");
                    return;
                }
            }
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

    /// Ends the store in order: everything in it is durable and needs no second look.
    pub fn close_store(&self) {
        if let Some(store) = self.store.borrow_mut().take()
            && let Err(error) = store.close()
        {
            tracing::warn!(%error, "the store did not close cleanly");
        }
    }

    /// Counters for the control port.
    pub fn add_stats(&self, shard: ShardId, stats: &mut Stats) {
        let swarm = self.swarm.borrow();
        let counted = swarm.stats();
        let mut share = admin_stats(&counted);
        let metainfo = self.metainfo.borrow();
        let row = SwarmStats {
            info_hash: self.info_hash.to_string(),
            name: metainfo
                .as_ref()
                .map(|meta| meta.name.clone())
                .unwrap_or_default(),
            shard: shard.0,
            length: metainfo.as_ref().map_or(0, |meta| meta.layout.length()),
            pieces: metainfo
                .as_ref()
                .map_or(0, |meta| meta.layout.piece_count()),
            have_pieces: u32::try_from(swarm.have().count_ones(..)).unwrap_or(u32::MAX),
            peers: u32::try_from(counted.peers).unwrap_or(u32::MAX),
            bytes: share.bytes,
            readers: counted.readers.iter().map(admin_reader).collect(),
            trackers: crate::shard::tracker::views(&self.announcer.borrow()),
        };
        share.swarms = vec![row];
        stats.add(share);
    }
}

fn admin_stats(counted: &crate::swarm::stats::Stats) -> Stats {
    let bytes = counted.bytes;
    let mut stats = Stats {
        bytes: AdminBytes {
            from_peers: bytes.from_peers,
            from_origin: 0,
            to_players: bytes.to_players,
            to_peers: bytes.to_peers,
            wasted: bytes.wasted,
        },
        stall_s: counted.stall_s,
        deadline_missed: counted.deadline_missed,
        pieces_bad: counted.bad_pieces,
        ..Stats::default()
    };
    for cause in Cause::ALL {
        stats.add_origin_bytes(cause, counted.origin_bytes_by_cause.of(cause));
    }
    stats
}

fn admin_reader(view: &ReaderView) -> ReaderStats {
    ReaderStats {
        offset: view.offset,
        slack_s: view.slack_s,
        stalls: u64::from(view.stalls),
        stall_s: view.stall_s,
    }
}

/// Joins the swarm of a torrent whose files are the user's own; nothing is written to them.
pub async fn seed(shard: Rc<Shard>, order: SeedOrder) {
    let SeedOrder {
        metainfo,
        data,
        progress,
    } = order;
    let (opening, watched) = (metainfo.clone(), progress.clone());
    let opened = runtime::blocking(move || {
        let mut torrent = open_external(&opening, &data)?;
        let mut before = 0;
        while let Some(mut job) = torrent.rehash_job() {
            let hashed = job.hashed();
            while job.step() {
                let all = before + hashed.load(Ordering::Relaxed);
                watched.bytes_checked.store(all, Ordering::Relaxed);
            }
            before += hashed.load(Ordering::Relaxed);
            torrent.handle_rehashed(job.finish());
        }
        Ok::<_, Disk>(torrent)
    });
    let torrent = match opened.await {
        Ok(Ok(torrent)) => torrent,
        Ok(Err(error)) => return give_up(&progress, error.to_string()),
        Err(error) => return give_up(&progress, error.to_string()),
    };
    let right = u32::try_from(torrent.have().count_ones(..)).unwrap_or(u32::MAX);
    progress.pieces_right.store(right, Ordering::Relaxed);
    let host = Host::start(&shard, metainfo.info_hash, metainfo.trackers.clone());
    host.know(Rc::new(metainfo), torrent);
    progress.state.store(1, Ordering::Release);
}

fn give_up(progress: &SeedProgress, why: String) {
    // Told once; the first reason stands.
    let _ = progress.failure.set(why);
    progress.state.store(2, Ordering::Release);
}
