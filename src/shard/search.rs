//! What looks for a film's torrent, and concludes: from its address to its swarm, or to none.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
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
use crate::resolve::discover::Get;
use crate::resolve::discover::Outcome;
use crate::resolve::discover::Unfound;
use crate::resolve::discover::choose_file;
use crate::ring::runtime;
use crate::shard::Shard;
use crate::shard::fetch;
use crate::shard::film::Film;
use crate::shard::film::State;
use crate::shard::host::Host;
use crate::shard::host::InUse;
use crate::shard::opening;
use crate::shard::origin::OriginHost;
use crate::shard::roster;
use crate::stub::address::Address;
use crate::stub::reply::Failure;
use crate::swarm::dialer::Found as Heard;
use crate::torrent::magnet::Magnet;
use crate::torrent::metainfo::Metainfo;
use crate::units::InfoHash;

/// Peers of a magnet have this long to give its metadata.
const METADATA_WAIT: Duration = Duration::from_secs(60);
/// Web seeds joined of one torrent.
const WEB_SEEDS_MAX: usize = 8;

const NO_STORE: Failure = Failure::new(507, "store", "the store cannot take this torrent");

/// What a film's search is told while it is under way.
#[derive(Default)]
pub struct Inbox {
    events: RefCell<VecDeque<Event>>,
    wake: Notify,
    origin_told: Cell<bool>,
}

enum Event {
    Body(u64, Result<Body, Unfound>),
    OriginHead(Box<ResponseHead>, Option<u64>),
    OriginFailed(Option<u16>),
}

impl Inbox {
    /// The origin's first answer, seen by whichever player asked first.
    pub fn handle_origin_head(&self, head: &ResponseHead, total: Option<u64>) {
        if !self.origin_told.replace(true) {
            self.tell(Event::OriginHead(Box::new(head.clone()), total));
        }
    }

    pub fn handle_origin_failed(&self, status: Option<u16>) {
        if !self.origin_told.replace(true) {
            self.tell(Event::OriginFailed(status));
        }
    }

    /// A new look hears it anew.
    pub fn forget(&self) {
        self.events.borrow_mut().clear();
        self.origin_told.set(false);
    }

    fn tell(&self, event: Event) {
        self.events.borrow_mut().push_back(event);
        self.wake.notify_one();
    }
}

/// One look for one film.
pub struct Search {
    shard: Rc<Shard>,
    film: Rc<Film>,
}

impl Search {
    /// Settles the film, perhaps twice: a registry may have its torrent only later.
    pub fn start(shard: &Rc<Shard>, film: &Rc<Film>) {
        let search = Self {
            shard: shard.clone(),
            film: film.clone(),
        };
        runtime::spawn(search.run());
    }

    async fn run(self) {
        let (shard, film) = (&self.shard, &self.film);
        let ask = match ask(&film.address) {
            Ok(ask) => ask,
            Err(failure) => return film.fail(failure),
        };
        let mut discover = Discover::new(shard.now(), ask);
        if let Address::Video { video, .. } = &film.address
            && let Some((metainfo, validator)) = opening::recall(shard, video.as_str()).await
        {
            discover.recall(metainfo, validator);
        }
        loop {
            while let Some(get) = discover.poll_output() {
                self.get(get);
            }
            if let Some(outcome) = discover.take_outcome() {
                film.searching.set(!discover.is_over());
                film.again_after.set(discover.again_after());
                self.conclude(outcome).await;
            }
            if discover.is_over() {
                film.searching.set(false);
                return film.changed.notify_waiters();
            }
            let event = film.inbox.events.borrow_mut().pop_front();
            match event {
                Some(Event::Body(id, body)) => discover.handle_body(shard.now(), id, body),
                Some(Event::OriginHead(head, total)) => {
                    if let Some(origin) = &film.origin {
                        discover.handle_origin_head(shard.now(), &origin.url, &head, total);
                    }
                }
                Some(Event::OriginFailed(status)) => {
                    discover.handle_origin_failed(shard.now(), status);
                }
                None => {
                    let wait = discover.next_timeout(shard.now()).since(shard.now());
                    tokio::select! {
                        () = film.inbox.wake.notified() => {}
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

    fn get(&self, get: Get) {
        let (shard, film) = (self.shard.clone(), self.film.clone());
        runtime::spawn(async move {
            let body = match fetch::document(&shard, get.url, get.limit).await {
                Ok(document) => {
                    let pin = document.head.map(|head| Pin::of_stamp(&head.headers));
                    let read = opening::read(document.body).await;
                    read.map(|body| body.stamped(pin.unwrap_or_default()))
                }
                Err(OriginFailed { status, retry, why }) => Err(Unfound { status, retry, why }),
            };
            film.inbox.tell(Event::Body(get.id, body));
        });
    }

    async fn conclude(&self, outcome: Outcome) {
        match outcome {
            Outcome::Passthrough => self.film.settle(State::Passthrough),
            Outcome::Failed {
                status,
                code,
                detail,
            } => {
                tracing::info!(status, code, detail, "the address was not found");
                // It plays already, and goes on without.
                if matches!(self.film.state(), State::Passthrough) {
                    return;
                }
                self.film.fail(Failure {
                    detail: detail.into(),
                    ..Failure::new(status, code, "")
                });
            }
            Outcome::Torrent(found) => self.conclude_torrent(*found).await,
            Outcome::Magnet { magnet, path } => {
                self.conclude_magnet(&magnet, path.as_deref()).await;
            }
        }
    }

    /// The film's swarm, begun if need be; `None`, with the film settled, if another shard has it
    /// or there is no room for it.
    async fn join(&self, info_hash: InfoHash, trackers: Vec<Vec<String>>) -> Option<InUse> {
        let (shard, film) = (&self.shard, &self.film);
        let directory = &shard.shared.directory;
        loop {
            let home = directory.claim_swarm(info_hash, shard.id);
            if home != shard.id {
                directory.move_film(&film.address.key(), home);
                film.settle(State::Elsewhere(home));
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
                let begun = roster::begin(shard, info_hash, trackers, &film.quota.borrow());
                match begun {
                    Ok(host) => host,
                    Err(failure) => {
                        directory.forget_swarm(info_hash);
                        film.refused.set(failure == roster::SITE_LIMIT);
                        self.settle_without_swarm(failure);
                        return None;
                    }
                }
            }
        };
        host.take_up()
    }

    async fn conclude_torrent(&self, found: Found) {
        let Found {
            metainfo,
            file,
            trackers,
            web_seeds,
            peers,
            ..
        } = found;
        let Some(host) = self.join(metainfo.info_hash, trackers).await else {
            return;
        };
        let metainfo = Arc::new(metainfo);
        if let Err(error) = opening::open(&host, metainfo.clone()).await {
            tracing::error!(%error, "the store cannot take this torrent");
            return self.settle_without_swarm(NO_STORE);
        }
        self.remember(&metainfo);
        self.join_origins(&host, web_seeds, file);
        self.film.settle(State::Here {
            host: host.clone(),
            file,
        });
        host.add_addresses(&fetch::addresses(&peers).await, Heard::Magnet);
    }

    /// The origin plays the film, where there is one.
    fn settle_without_swarm(&self, failure: Failure) {
        if self.film.origin.is_some() {
            self.film.settle(State::Passthrough);
        } else {
            self.film.fail(failure);
        }
    }

    async fn conclude_magnet(&self, magnet: &Magnet, path: Option<&str>) {
        let (shard, film) = (&self.shard, &self.film);
        let tiers = magnet
            .trackers
            .iter()
            .map(|url| vec![url.clone()])
            .collect();
        let Some(host) = self.join(magnet.info_hash, tiers).await else {
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
            shard.films.borrow_mut().remove(&film.key);
            let detail = "no peer gave this magnet's metadata in time";
            return film.fail(Failure::new(504, "no-metadata", detail));
        };
        let Some(file) = choose_file(&metainfo, path, magnet.select.as_deref()) else {
            let detail = "the torrent has no such file";
            return film.fail(Failure::new(404, "no-such-file", detail));
        };
        let seeds = metainfo.web_seeds.iter().chain(&magnet.web_seeds);
        let seeds = seeds.filter_map(|seed| metainfo.web_seed_url(seed, file));
        let seeds = seeds.filter_map(|url| Url::parse(&url).ok()).collect();
        self.join_origins(&host, seeds, file);
        self.remember(&metainfo);
        film.settle(State::Here {
            host: host.clone(),
            file,
        });
    }

    /// The web servers that hold the file: the one asked for, whose bytes may go to its player as
    /// they come, and those of BEP 19, which are believed once verified.
    fn join_origins(&self, host: &Rc<Host>, web_seeds: Vec<Url>, file: usize) {
        let own = self.film.origin.as_ref();
        if let Some(origin) = own {
            host.add_origin(origin.clone(), file, true);
        }
        for url in web_seeds.into_iter().take(WEB_SEEDS_MAX) {
            let own = own.is_some_and(|origin| origin.url == url);
            if matches!(url.scheme(), "http" | "https") && !own && !host.sources.has_url(&url) {
                host.add_origin(OriginHost::start(&self.shard, url), file, false);
            }
        }
    }

    fn remember(&self, metainfo: &Arc<Metainfo>) {
        let known = self.film.origin.as_ref().and_then(|origin| {
            let validator = origin.pin()?.if_range()?.to_owned();
            Some((origin.url.as_str().to_owned(), validator))
        });
        opening::remember(&self.shard, metainfo, known);
    }
}

fn ask(address: &Address) -> Result<Ask, Failure> {
    Ok(match address {
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
                return Err(Failure::new(400, "bad-magnet", "not a magnet link to play"));
            }
        },
    })
}
