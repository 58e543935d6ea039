//! One address on its shard: found once, then shared by every player that asks for it.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::rc::Weak;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use url::Url;

use crate::http::head::ResponseHead;
use crate::http::pin::Pin;
use crate::origin::OriginFailed;
use crate::resolve::discover::Ask;
use crate::resolve::discover::Body;
use crate::resolve::discover::Discover;
use crate::resolve::discover::Found;
use crate::resolve::discover::Outcome;
use crate::resolve::discover::Unfound;
use crate::resolve::discover::choose_file;
use crate::ring::runtime;
use crate::shard::Shard;
use crate::shard::fetch;
use crate::shard::host::Host;
use crate::shard::host::InUse;
use crate::shard::kept::Adopted;
use crate::shard::kept::Kept;
use crate::shard::opening;
use crate::shard::origin::OriginHost;
use crate::shard::origin::Pipe;
use crate::shard::origin::Sink;
use crate::shard::quota::Quota;
use crate::shard::roster;
use crate::shard::sites::Sites;
use crate::stub::address::Address;
use crate::stub::gate::Provenance;
use crate::stub::media::Media;
use crate::stub::reply::Failure;
use crate::swarm::dialer::Found as Heard;
use crate::torrent::magnet::Magnet;
use crate::torrent::metainfo::Metainfo;
use crate::units::ByteRange;
use crate::units::InfoHash;
use crate::units::ShardId;
use crate::units::Time;

/// Films known on one shard; beyond it the one unused longest makes room.
const FILMS_MAX: usize = 10_000;
/// A film without a torrent is looked for again after this long.
const RETRY_AFTER: Duration = Duration::from_secs(60);
/// Peers of a magnet have this long to give its metadata.
const METADATA_WAIT: Duration = Duration::from_secs(60);
/// An origin has this long to confirm a film to a site.
const CONFIRM_WAIT: Duration = Duration::from_secs(10);
/// Web seeds joined of one torrent.
const WEB_SEEDS_MAX: usize = 8;

const NO_STORE: Failure = Failure::new(507, "store", "the store cannot take this torrent");

pub struct Film {
    shard: Weak<Shard>,
    pub key: String,
    pub address: Address,
    /// The web server of a video address.
    pub origin: Option<Rc<OriginHost>>,
    state: RefCell<State>,
    pub changed: Notify,
    events: RefCell<VecDeque<Event>>,
    wake: Notify,
    /// What the first bytes are (R18); `None` until somebody has looked.
    pub sniffed: Cell<Option<Option<Media>>>,
    /// Sites that have seen this film's origin answer (R13).
    pub sites: Sites,
    kept: Kept,
    /// Of the site that is to answer for the torrent.
    quota: RefCell<Option<Arc<Quota>>>,
    /// That site's limit keeps the film from its torrent.
    refused: Cell<bool>,
    pub used_at: Cell<Time>,
    since: Time,
    origin_told: Cell<bool>,
    /// A registry makes its torrent, and is asked again.
    searching: Cell<bool>,
}

#[derive(Clone)]
pub enum State {
    Resolving,
    Here {
        host: Rc<Host>,
        file: usize,
    },
    /// The swarm lives on another shard; the next request moves there.
    Elsewhere(ShardId),
    /// No torrent: the origin's bytes as they are.
    Passthrough,
    Failed(Failure),
}

enum Event {
    Body(u64, Result<Body, Unfound>),
    OriginHead(Box<ResponseHead>, Option<u64>),
    OriginFailed,
}

impl Film {
    /// The film of this address, found or being found.
    /// `quota`: of the site whose page asks; `None` if the user does.
    pub fn open(shard: &Rc<Shard>, address: &Address, quota: Option<Arc<Quota>>) -> Rc<Self> {
        let key = identity(address);
        let now = shard.now();
        if let Some(film) = shard.films.borrow().get(&key)
            && !film.stale(now, quota.as_ref())
        {
            if quota.is_none() {
                *film.quota.borrow_mut() = None;
            }
            film.used_at.set(now);
            film.add_trackers(address);
            return film.clone();
        }
        let origin = match address {
            Address::Video { video, .. } => Some(OriginHost::start(shard, video.clone())),
            _ => None,
        };
        let film = Rc::new(Self {
            shard: Rc::downgrade(shard),
            key: key.clone(),
            address: address.clone(),
            origin,
            state: RefCell::new(State::Resolving),
            changed: Notify::new(),
            events: RefCell::default(),
            wake: Notify::new(),
            sniffed: Cell::new(None),
            sites: Sites::default(),
            kept: Kept::default(),
            quota: RefCell::new(quota),
            refused: Cell::new(false),
            used_at: Cell::new(now),
            since: now,
            origin_told: Cell::new(false),
            searching: Cell::new(false),
        });
        let mut films = shard.films.borrow_mut();
        if films.len() >= FILMS_MAX {
            let oldest = films.values().min_by_key(|film| film.used_at.get());
            if let Some(oldest) = oldest.cloned() {
                films.remove(&oldest.key);
                shard.shared.directory.forget_film(&oldest.address.key());
            }
        }
        films.insert(key, film.clone());
        runtime::spawn(film.clone().resolve());
        film
    }

    /// Another address of the same video may name other trackers.
    fn add_trackers(&self, address: &Address) {
        if self.address != *address
            && let Address::Video { trackers, .. } = address
            && let State::Here { host, .. } = &*self.state.borrow()
        {
            host.add_trackers(trackers.iter().map(|url| vec![url.to_string()]).collect());
        }
    }

    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Found nothing a while ago, or what it found no longer holds.
    fn stale(&self, now: Time, quota: Option<&Arc<Quota>>) -> bool {
        let changed = self
            .origin
            .as_ref()
            .is_some_and(|origin| origin.changed.get());
        let retry = match &*self.state.borrow() {
            State::Passthrough if self.searching.get() => false,
            State::Passthrough | State::Failed(_) => now.since(self.since) > RETRY_AFTER,
            State::Here { host, .. } => host.ended.get(),
            // Its swarm has left that shard, or this request would have gone there.
            State::Elsewhere(_) => true,
            State::Resolving => false,
        };
        // What was one site's limit is not another's.
        let by = self.quota.borrow();
        let others = self.refused.get() && by.as_ref().map(Arc::as_ptr) != quota.map(Arc::as_ptr);
        changed || retry || others
    }

    /// The origin's first answer, seen by whichever player asked first.
    pub fn handle_origin_head(&self, head: &ResponseHead, total: Option<u64>) {
        if !self.origin_told.replace(true) {
            let event = Event::OriginHead(Box::new(head.clone()), total);
            self.events.borrow_mut().push_back(event);
            self.wake.notify_one();
        }
    }

    pub fn handle_origin_failed(&self) {
        if !self.origin_told.replace(true) {
            self.events.borrow_mut().push_back(Event::OriginFailed);
            self.wake.notify_one();
        }
    }

    /// Waits until it is known what this film is, at most `wait`.
    pub async fn settled(&self, wait: Duration) -> State {
        self.waited(wait, false).await
    }

    /// The same, and until no registry makes its torrent any more: for who has no origin.
    pub async fn searched(&self, wait: Duration) -> State {
        self.waited(wait, true).await
    }

    async fn waited(&self, wait: Duration, for_registry: bool) -> State {
        let until = runtime::now() + wait;
        loop {
            let changed = self.changed.notified();
            let (left, state) = (until.since(runtime::now()), self.state());
            let searching = for_registry && self.searching.get();
            match state {
                State::Resolving if !left.is_zero() => {}
                State::Passthrough if !left.is_zero() && searching => {}
                _ => return state,
            }
            tokio::select! {
                () = changed => {}
                () = runtime::sleep(left) => {}
            }
        }
    }

    fn settle(&self, state: State) {
        if !matches!(state, State::Here { .. }) {
            self.kept.clear();
        }
        *self.state.borrow_mut() = state;
        self.changed.notify_waiters();
    }

    fn fail(&self, failure: Failure) {
        self.settle(State::Failed(failure));
    }

    async fn resolve(self: Rc<Self>) {
        let Some(shard) = self.shard.upgrade() else {
            return;
        };
        let ask = match &self.address {
            Address::Video { trackers, video } => Ask::Video {
                video: video.clone(),
                trackers: trackers.clone(),
            },
            Address::Torrent {
                url,
                path,
                trackers,
            } => Ask::Torrent {
                url: url.clone(),
                path: path.clone(),
                trackers: trackers.clone(),
            },
            Address::Magnet { query, path } => match Magnet::parse(query) {
                Ok(magnet) => Ask::Magnet {
                    magnet,
                    path: path.clone(),
                },
                Err(error) => {
                    tracing::info!(%error, "a bad magnet link");
                    return self.fail(Failure::new(400, "bad-magnet", "not a magnet link to play"));
                }
            },
        };
        let mut discover = Discover::new(shard.now(), ask);
        if let Address::Video { video, .. } = &self.address
            && let Some((metainfo, validator)) = opening::recall(&shard, video.as_str()).await
        {
            discover.recall(metainfo, validator);
        }
        loop {
            while let Some(get) = discover.poll_output() {
                self.get(&shard, get);
            }
            if let Some(outcome) = discover.take_outcome() {
                self.searching.set(!discover.is_over());
                self.conclude(&shard, outcome).await;
            }
            if discover.is_over() {
                self.searching.set(false);
                return self.changed.notify_waiters();
            }
            let event = self.events.borrow_mut().pop_front();
            match event {
                Some(Event::Body(id, body)) => discover.handle_body(shard.now(), id, body),
                Some(Event::OriginHead(head, total)) => {
                    if let Some(origin) = &self.origin {
                        discover.handle_origin_head(shard.now(), &origin.url, &head, total);
                    }
                }
                Some(Event::OriginFailed) => discover.handle_origin_failed(shard.now()),
                None => {
                    let wait = discover.next_timeout(shard.now()).since(shard.now());
                    tokio::select! {
                        () = self.wake.notified() => {}
                        () = runtime::sleep(wait) => discover.handle_timeout(shard.now()),
                    }
                }
            }
            while let Some(warning) = discover.poll_warning() {
                let host = warning.url.as_ref().and_then(Url::host_str);
                tracing::warn!(host, why = warning.why, "a torrent is not used");
            }
        }
    }

    fn get(self: &Rc<Self>, shard: &Rc<Shard>, get: crate::resolve::discover::Get) {
        let film = self.clone();
        let shard = shard.clone();
        runtime::spawn(async move {
            let body = match fetch::document(&shard, get.url, get.limit).await {
                Ok(document) => {
                    let pin = document.head.map(|head| Pin::of_stamp(&head.headers));
                    let read = opening::read(document.body).await;
                    read.map(|body| body.stamped(pin.unwrap_or_default()))
                }
                Err(OriginFailed { status, retry, why }) => Err(Unfound { status, retry, why }),
            };
            film.events
                .borrow_mut()
                .push_back(Event::Body(get.id, body));
            film.wake.notify_one();
        });
    }

    async fn conclude(self: &Rc<Self>, shard: &Rc<Shard>, outcome: Outcome) {
        match outcome {
            Outcome::Passthrough => self.settle(State::Passthrough),
            Outcome::Failed {
                status,
                code,
                detail,
            } => {
                tracing::info!(status, code, detail, "the address was not found");
                self.fail(Failure {
                    detail: detail.into(),
                    ..Failure::new(status, code, "")
                });
            }
            Outcome::Torrent(found) => self.conclude_torrent(shard, *found).await,
            Outcome::Magnet { magnet, path } => {
                self.conclude_magnet(shard, &magnet, path.as_deref()).await;
            }
        }
    }

    /// The film's swarm, begun if need be; `None`, with the film settled, if another shard has it
    /// or there is no room for it.
    async fn join(
        &self,
        shard: &Rc<Shard>,
        info_hash: InfoHash,
        trackers: Vec<Vec<String>>,
    ) -> Option<InUse> {
        let directory = &shard.shared.directory;
        loop {
            let home = directory.claim_swarm(info_hash, shard.id);
            if home != shard.id {
                directory.move_film(&self.address.key(), home);
                self.settle(State::Elsewhere(home));
                return None;
            }
            // An earlier one may be on its way out: then the claim was its, and is made anew.
            if shard.roster.closed(info_hash).await {
                break;
            }
        }
        let host = match shard.host(info_hash) {
            Some(host) => {
                host.add_trackers(trackers);
                host
            }
            None => {
                let begun = roster::begin(shard, info_hash, trackers, &self.quota.borrow());
                match begun {
                    Ok(host) => host,
                    Err(failure) => {
                        directory.forget_swarm(info_hash);
                        self.refused.set(failure == roster::SITE_LIMIT);
                        self.settle_without_swarm(failure);
                        return None;
                    }
                }
            }
        };
        host.take_up()
    }

    async fn conclude_torrent(self: &Rc<Self>, shard: &Rc<Shard>, found: Found) {
        let Found {
            metainfo,
            file,
            trackers,
            web_seeds,
            peers,
            ..
        } = found;
        let Some(host) = self.join(shard, metainfo.info_hash, trackers).await else {
            return;
        };
        let metainfo = Arc::new(metainfo);
        if let Err(error) = opening::open(&host, metainfo.clone()).await {
            tracing::error!(%error, "the store cannot take this torrent");
            return self.settle_without_swarm(NO_STORE);
        }
        self.remember(shard, &metainfo);
        self.join_origins(shard, &host, web_seeds, file);
        self.settle(State::Here {
            host: host.clone(),
            file,
        });
        host.add_addresses(&fetch::addresses(&peers).await, Heard::Magnet);
    }

    /// The origin plays the film, where there is one.
    fn settle_without_swarm(&self, failure: Failure) {
        if self.origin.is_some() {
            self.settle(State::Passthrough);
        } else {
            self.fail(failure);
        }
    }

    async fn conclude_magnet(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        magnet: &Magnet,
        path: Option<&str>,
    ) {
        let tiers = magnet
            .trackers
            .iter()
            .map(|url| vec![url.clone()])
            .collect();
        let Some(host) = self.join(shard, magnet.info_hash, tiers).await else {
            return;
        };
        if host.metainfo.borrow().is_none()
            && let Some(metainfo) = opening::recall_hash(shard, magnet.info_hash).await
            && let Err(error) = opening::open(&host, Arc::new(metainfo)).await
        {
            tracing::error!(%error, "the store cannot take this torrent");
        }
        let peers = fetch::addresses(&magnet.peers).await;
        host.add_addresses(&peers, Heard::Magnet);
        let Some(metainfo) = host.metainfo_within(METADATA_WAIT).await else {
            shard.films.borrow_mut().remove(&self.key);
            let detail = "no peer gave this magnet's metadata in time";
            return self.fail(Failure::new(504, "no-metadata", detail));
        };
        let Some(file) = choose_file(&metainfo, path, magnet.select.as_deref()) else {
            let detail = "the torrent has no such file";
            return self.fail(Failure::new(404, "no-such-file", detail));
        };
        let seeds = metainfo.web_seeds.iter().chain(&magnet.web_seeds);
        let seeds = seeds.filter_map(|seed| metainfo.web_seed_url(seed, file));
        let seeds = seeds.filter_map(|url| Url::parse(&url).ok()).collect();
        self.join_origins(shard, &host, seeds, file);
        self.remember(shard, &metainfo);
        self.settle(State::Here {
            host: host.clone(),
            file,
        });
    }

    /// The web servers that hold the file: the one asked for, whose bytes may go to its player as
    /// they come, and those of BEP 19, which are believed once verified.
    fn join_origins(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        host: &Rc<Host>,
        web_seeds: Vec<Url>,
        file: usize,
    ) {
        if let Some(origin) = &self.origin {
            host.add_origin(origin.clone(), file, true);
        }
        for url in web_seeds.into_iter().take(WEB_SEEDS_MAX) {
            let own = self.origin.as_ref().is_some_and(|origin| origin.url == url);
            if matches!(url.scheme(), "http" | "https") && !own && !host.sources.has_url(&url) {
                host.add_origin(OriginHost::start(shard, url), file, false);
            }
        }
    }

    /// The origin's bytes on their way to a player, which a swarm may have later.
    pub fn keep(&self, at: u64, bytes: &[u8]) {
        match &*self.state.borrow() {
            State::Resolving | State::Here { .. } => self.kept.keep(at, bytes),
            // A registry may be making its torrent.
            _ if at == 0 => self.kept.hear_front(bytes),
            _ => {}
        }
    }

    /// Whether what passed through has told how fast the film plays, or that it does not tell.
    pub fn has_told_rate(&self) -> bool {
        self.kept.has_told()
    }

    /// What passed through becomes the swarm's, if there is one here, with how fast the film plays,
    /// and so does what is still `to_come` of the range under way.
    pub async fn hand_kept(&self, to_come: Option<ByteRange>) -> Option<Adopted> {
        let origin = self.origin.as_ref()?;
        let State::Here { host, file } = self.state() else {
            return None;
        };
        self.kept.hand_over(&host, origin, file, to_come).await
    }

    /// Whether the origin's own bytes can still be had, one way or another.
    pub fn has_origin(&self) -> bool {
        let origin = self.origin.as_ref();
        origin.is_some_and(|origin| !origin.changed.get() && origin.down_until().is_none())
    }

    /// Whether readers must be served by the origin although the film has a swarm.
    pub fn origin_only(&self, host: &Host, now: Time) -> bool {
        let usable = self
            .origin
            .as_ref()
            .is_some_and(|origin| !origin.changed.get());
        usable && !self.may_take_over(host, now)
    }

    /// The swarm, if it may take over from the origin now; and which of its files.
    pub fn successor(&self, now: Time) -> Option<(InUse, usize)> {
        let State::Here { host, file } = self.state() else {
            return None;
        };
        let host = host.take_up()?;
        self.may_take_over(&host, now).then_some((host, file))
    }

    /// Whether the swarm may serve what the origin began.
    fn may_take_over(&self, host: &Host, now: Time) -> bool {
        // A server without ranges helps no swarm: with no peers its stream is all there is.
        let streams = self
            .origin
            .as_ref()
            .is_some_and(|origin| !origin.takes_ranges());
        if streams && host.peers.borrow().is_empty() {
            return false;
        }
        let same = self
            .origin
            .as_ref()
            .is_none_or(|o| !o.changed.get() && !o.differs.get());
        same && !host.shelf.is_full(now) && !host.ended.get()
    }

    /// R13: a site's first request for a film that others watched waits for the origin's answer,
    /// so that no page can tell what was watched by how fast it starts.
    pub async fn confirm_site(&self, from: &Provenance) {
        let known = self.sites.knows(from);
        let Some(origin) = self.origin.as_ref().filter(|_| !known) else {
            return;
        };
        let pipe = Rc::new(Pipe::default());
        let key = origin.fetch(ByteRange::new(0, 1), true, Sink::Pass(pipe.clone()));
        let answered = async {
            while pipe.head.borrow().is_none() && pipe.end.borrow().is_none() {
                pipe.wake.notified().await;
            }
        };
        tokio::select! {
            () = answered => {}
            () = runtime::sleep(CONFIRM_WAIT) => origin.abandon(key),
        }
        self.sites.note(from);
    }

    fn remember(&self, shard: &Shard, metainfo: &Arc<Metainfo>) {
        let known = self.origin.as_ref().and_then(|origin| {
            let validator = origin.pin()?.if_range()?.to_owned();
            Some((origin.url.as_str().to_owned(), validator))
        });
        opening::remember(shard, metainfo, known);
    }
}

/// What tells one film from another: the thing named, and which file of it.
fn identity(address: &Address) -> String {
    match address {
        Address::Video { .. } => address.key(),
        Address::Torrent { path, .. } => format!("{} {path:?}", address.key()),
        Address::Magnet { query, path } => format!("magnet {query} {path:?}"),
    }
}
