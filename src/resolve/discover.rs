//! The search for an address's torrent, in the order of DESIGN §3, while the origin already plays.

use std::collections::VecDeque;
use std::time::Duration;

use url::Url;

use crate::http::head::ResponseHead;
use crate::resolve::describedby;
use crate::resolve::discover::origin::Origin;
use crate::resolve::registry::Given;
use crate::resolve::registry::Registries;
use crate::torrent::magnet::Magnet;
use crate::torrent::metainfo::Metainfo;
use crate::torrent::metainfo::TORRENT_LEN_MAX;
use crate::units::Time;

pub use crate::resolve::discover::ask::Ask;
pub use crate::resolve::discover::body::Body;
pub use crate::resolve::discover::body::Unfound;

mod ask;
mod body;
mod origin;

/// `describedby` links of one origin that are tried.
const DESCRIBED_MAX: usize = 3;
/// For the origin's head, and for each [`Get`]; the driver's own deadlines come first.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// What was not found is looked for again, if asked for, after so long; or after so long if a
/// server was not reached that may have it.
pub const AGAIN_AFTER: Duration = Duration::from_secs(60);
const AGAIN_SOON: Duration = Duration::from_secs(2);

/// A body to be fetched: hand what it is, or why there is none, to [`Discover::handle_body`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Get {
    pub id: u64,
    pub url: Url,
    /// Bytes; a longer body is an error.
    pub limit: usize,
}

/// A metainfo that was there and is not used; the search goes on without it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where it came from; `None` for the store.
    pub url: Option<Url>,
    pub why: &'static str,
}

/// How the search ended.
#[derive(Debug)]
pub enum Outcome {
    Torrent(Box<Found>),
    /// Known by its info-hash: peers must give the rest, then [`choose_file`] the file.
    Magnet {
        magnet: Box<Magnet>,
        path: Option<String>,
    },
    /// No torrent: the origin's bytes as they are. Unless [`Discover::is_over`], one is being made,
    /// and another outcome may follow.
    Passthrough,
    Failed {
        status: u16,
        code: &'static str,
        detail: String,
    },
}

/// A torrent and what of it is to be played.
#[derive(Debug)]
pub struct Found {
    /// With the magnet link's web seeds, if it has any, among its own.
    pub metainfo: Metainfo,
    /// Index in `metainfo.files`.
    pub file: usize,
    /// The address's own first, a tier each, then the metainfo's.
    pub trackers: Vec<Vec<String>>,
    /// The very URL that the player asked for.
    pub origin: Option<Url>,
    /// Where web servers keep this file (BEP 19), without `origin`.
    pub web_seeds: Vec<Url>,
    /// `host:port`, of a magnet link.
    pub peers: Vec<String>,
}

/// One address's search. For a video `<video>.torrent` is fetched beside the origin's first answer,
/// but waits for it: a `describedby` link there goes first, and length and version must fit. The
/// trackers' registries are asked once it has come, so that no dead name of theirs is looked up
/// before the origin's; they go before `<video>.torrent`.
#[derive(Debug)]
pub struct Discover {
    ask: Ask,
    origin: Origin,
    recalled: Option<Recalled>,
    /// Links of the origin still to be tried; sources of a magnet link likewise.
    places: VecDeque<Url>,
    registries: Registries,
    sidecar: Sidecar,
    gets: VecDeque<Get>,
    flights: Vec<Flight>,
    next_id: u64,
    deadline: Time,
    warnings: VecDeque<Warning>,
    outcome: Option<Outcome>,
    /// It plays from the origin; only registries that make the torrent are asked any more.
    late: bool,
    /// A server that may have the torrent did not answer, or not for now.
    unreached: bool,
    /// The video's own server did not answer at all.
    down: bool,
    done: bool,
}

#[derive(Debug)]
struct Recalled {
    metainfo: Metainfo,
    validator: String,
}

/// `<video>.torrent`.
#[derive(Debug)]
enum Sidecar {
    Unasked,
    Flying,
    Found(Url, Box<Metainfo>),
    None,
}

#[derive(Debug)]
struct Flight {
    id: u64,
    url: Url,
    to: To,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    /// A link of the origin, a source of a magnet link, the torrent asked for.
    Place,
    Registry(usize),
    Sidecar,
}

impl Discover {
    pub fn new(now: Time, ask: Ask) -> Self {
        let mut discover = Self {
            places: ask.places(),
            registries: ask.registries(),
            ask,
            origin: Origin::Awaited,
            recalled: None,
            sidecar: Sidecar::Unasked,
            gets: VecDeque::new(),
            flights: Vec::new(),
            next_id: 0,
            deadline: now + STEP_TIMEOUT,
            warnings: VecDeque::new(),
            outcome: None,
            late: false,
            unreached: false,
            down: false,
            done: false,
        };
        if matches!(discover.ask, Ask::Video { .. }) {
            discover.ask_sidecar(now);
        } else {
            discover.advance(now);
        }
        discover
    }

    /// What the store has of this video: the metainfo, and the origin's ETag or else Last-Modified
    /// of then, as sent; empty if it sent neither. Given before the first
    /// [`Discover::poll_output`], it spares every fetch unless the origin contradicts it.
    pub fn recall(&mut self, metainfo: Metainfo, validator: String) {
        if self.origin.is_awaited() && matches!(self.ask, Ask::Video { .. }) {
            self.recalled = Some(Recalled {
                metainfo,
                validator,
            });
            if self.gets.pop_front().is_some() {
                self.flights.clear();
                self.sidecar = Sidecar::Unasked;
            }
        }
    }

    /// The origin's answer, or a redirect on the way to it. `url`: what answered; `length`: of the
    /// whole video.
    pub fn handle_origin_head(
        &mut self,
        now: Time,
        url: &Url,
        head: &ResponseHead,
        length: Option<u64>,
    ) {
        let is_video = matches!(self.ask, Ask::Video { .. });
        if self.done || !is_video || !self.origin.is_awaited() {
            return;
        }
        // RFC 6249 §2: mirrors describe the file in the redirect as well.
        for link in describedby::torrents(head.headers.all("link"), url) {
            if self.places.len() < DESCRIBED_MAX && !self.places.contains(&link) {
                self.places.push_back(link);
            }
        }
        match head.status {
            100..=199 | 300..=399 => return,
            200..=299 => self.origin = Origin::answered(head, length),
            _ => self.origin = Origin::Failed,
        }
        self.advance(now);
    }

    /// The origin gave no head, or refused with this status: a torrent can still play.
    pub fn handle_origin_failed(&mut self, now: Time, status: Option<u16>) {
        if self.origin.is_awaited() {
            self.down = status.is_none();
            self.origin = Origin::Failed;
            self.advance(now);
        }
    }

    /// An id that is no longer awaited is passed over.
    pub fn handle_body(&mut self, now: Time, id: u64, body: Result<Body, Unfound>) {
        let Some(at) = self.flights.iter().position(|flight| flight.id == id) else {
            return;
        };
        let flight = self.flights.swap_remove(at);
        if self.done {
            return;
        }
        if let (To::Registry(place), Err(unfound)) = (flight.to, &body)
            && unfound.status == Some(202)
        {
            self.registries.handle_making(now, place, unfound.retry);
            return self.advance(now);
        }
        let pin = body.as_ref().ok().map(|body| body.pin.clone());
        let found = match body {
            Ok(body) => self.take(&flight.url, body),
            Err(unfound) => {
                // Most trackers have no registry, and many no web server.
                let registry = matches!(flight.to, To::Registry(_));
                self.unreached |= !registry && body::is_passing(unfound.status);
                if matches!(self.ask, Ask::Torrent { .. }) {
                    self.end(unreached(unfound));
                }
                None
            }
        };
        match (flight.to, found) {
            (To::Sidecar, Some(found)) => self.sidecar = Sidecar::Found(flight.url, found),
            (To::Sidecar, None) => self.sidecar = Sidecar::None,
            (To::Registry(place), Some(found)) => {
                let pin = pin.unwrap_or_default();
                self.registries.handle_given(place, found, pin);
            }
            (To::Registry(place), None) => self.registries.handle_nothing(place),
            (To::Place, Some(found)) => self.accept(Some(&flight.url), *found),
            (To::Place, None) => {}
        }
        self.advance(now);
    }

    pub fn handle_timeout(&mut self, now: Time) {
        if self.done {
            return;
        }
        self.registries.handle_timeout(now);
        let step_over = now >= self.deadline;
        if step_over {
            self.deadline = Time::NEVER;
            if self.origin.is_awaited() {
                self.down = true;
                self.origin = Origin::Failed;
            }
            if matches!(self.sidecar, Sidecar::Flying) {
                self.sidecar = Sidecar::None;
            }
            let registry = |flight: &Flight| matches!(flight.to, To::Registry(_));
            self.unreached |= !self.flights.iter().all(registry);
            self.flights.retain(registry);
        }
        if step_over && matches!(self.ask, Ask::Torrent { .. }) {
            self.end(Outcome::Failed {
                status: 504,
                code: "torrent-timeout",
                detail: "the .torrent did not come in time".to_owned(),
            });
        }
        self.advance(now);
    }

    pub fn next_timeout(&self, now: Time) -> Time {
        if self.done {
            return Time::NEVER;
        }
        self.registries.next_timeout(now).min(self.deadline)
    }

    pub fn poll_output(&mut self) -> Option<Get> {
        self.gets.pop_front()
    }

    pub fn poll_warning(&mut self) -> Option<Warning> {
        self.warnings.pop_front()
    }

    /// Whether no other outcome will follow, and nothing is asked for any more.
    pub const fn is_over(&self) -> bool {
        self.done
    }

    /// Once it has found nothing: after how long to look again, if asked. While the video's own
    /// server is down each request is a new look, or who comes then would play all from it later.
    /// One that refuses is not asked anew: it may have said for how long.
    pub const fn again_after(&self) -> Duration {
        match self.origin {
            Origin::Failed if self.down => Duration::ZERO,
            Origin::Failed => AGAIN_AFTER,
            _ if self.unreached => AGAIN_SOON,
            _ => AGAIN_AFTER,
        }
    }

    pub fn take_outcome(&mut self) -> Option<Outcome> {
        self.outcome.take()
    }

    /// The next step of the order, if the last one is over.
    fn advance(&mut self, now: Time) {
        let is_video = matches!(self.ask, Ask::Video { .. });
        if self.done || is_video && self.origin.is_awaited() {
            return;
        }
        if let Some(recalled) = self.recalled.take() {
            if self.origin.is_same_version(&recalled.validator) {
                self.accept(None, recalled.metainfo);
            } else {
                self.warn(None, "the video has changed since");
            }
        }
        if self.done || self.flights.iter().any(|flight| flight.to == To::Place) {
            return;
        }
        if let Some(url) = self.places.pop_front() {
            self.get(now, url, To::Place);
            return;
        }
        if is_video {
            self.ask_registries(now);
            self.accept_given();
            if self.done || self.registries.go_first(now) {
                return;
            }
            match std::mem::replace(&mut self.sidecar, Sidecar::None) {
                Sidecar::Unasked => return self.ask_sidecar(now),
                Sidecar::Flying => {
                    self.sidecar = Sidecar::Flying;
                    return;
                }
                Sidecar::Found(url, metainfo) => self.accept(Some(&url), *metainfo),
                Sidecar::None => {}
            }
            if self.done || self.registries.are_asked() {
                return;
            }
        }
        self.run_out();
    }

    /// Every place was looked at.
    fn run_out(&mut self) {
        let outcome = match &self.ask {
            Ask::Video { .. } if self.registries.are_making() => {
                if !self.late {
                    self.late = true;
                    self.deadline = Time::NEVER;
                    self.outcome = Some(Outcome::Passthrough);
                }
                return;
            }
            Ask::Video { .. } if self.late => {
                self.done = true;
                return;
            }
            Ask::Video { .. } => Outcome::Passthrough,
            Ask::Magnet { magnet, path } => Outcome::Magnet {
                magnet: Box::new(magnet.clone()),
                path: path.clone(),
            },
            // Its one place ends the search either way.
            Ask::Torrent { .. } => return,
        };
        self.end(outcome);
    }

    /// Those that have not been asked, or are to be asked again.
    fn ask_registries(&mut self, now: Time) {
        while let Some((place, url)) = self.registries.ask(now) {
            self.get(now, url, To::Registry(place));
        }
    }

    /// What registries gave, if it is of the video as its server has it now.
    fn accept_given(&mut self) {
        while let Some(given) = self.registries.take() {
            let Given { url, metainfo, pin } = given;
            if self.done {
                return;
            }
            if self.origin.contradicts(&pin) {
                self.warn(Some(&url), "of another version of the video");
            } else {
                self.accept(Some(&url), *metainfo);
            }
        }
    }

    fn ask_sidecar(&mut self, now: Time) {
        let Ask::Video { video, .. } = &self.ask else {
            return;
        };
        if video.path().ends_with('/') {
            self.sidecar = Sidecar::None;
            return self.advance(now);
        }
        let mut url = video.clone();
        // Before the query: it is often what the server lets one in by.
        url.set_path(&format!("{}.torrent", video.path()));
        self.sidecar = Sidecar::Flying;
        self.get(now, url, To::Sidecar);
    }

    fn get(&mut self, now: Time, url: Url, to: To) {
        let id = self.next_id;
        self.next_id += 1;
        if matches!(to, To::Registry(_)) {
            // Its last answer never came.
            self.flights.retain(|flight| flight.to != to);
        } else {
            self.deadline = now + STEP_TIMEOUT;
        }
        self.flights.push(Flight {
            id,
            url: url.clone(),
            to,
        });
        self.gets.push_back(Get {
            id,
            url,
            limit: TORRENT_LEN_MAX,
        });
    }

    /// The body's metainfo, if it is what is looked for.
    fn take(&mut self, url: &Url, body: Body) -> Option<Box<Metainfo>> {
        let why = match body.metainfo {
            Ok(metainfo) => match &self.ask {
                Ask::Magnet { magnet, .. } if magnet.info_hash != metainfo.info_hash => {
                    "another torrent than the link names"
                }
                _ => return Some(metainfo),
            },
            Err(why) => why,
        };
        match self.ask {
            Ask::Torrent { .. } => self.end(Outcome::Failed {
                status: 422,
                code: "bad-torrent",
                detail: why.to_owned(),
            }),
            // Most servers that lack a .torrent answer 404, some a page.
            Ask::Video { .. } | Ask::Magnet { .. } => self.warn(Some(url), why),
        }
        None
    }

    /// Ends the search with this torrent, unless it contradicts what was asked for.
    fn accept(&mut self, url: Option<&Url>, mut metainfo: Metainfo) {
        let (file, origin, peers) = match &self.ask {
            Ask::Video { video, .. } => {
                let Some(file) = self.origin.file_of(video, &metainfo) else {
                    return self.warn(url, "no file of the origin's length");
                };
                (file, Some(video.clone()), Vec::new())
            }
            Ask::Torrent { path, .. } => match choose_file(&metainfo, path.as_deref(), None) {
                Some(file) => (file, None, Vec::new()),
                None => return self.end(no_such_file()),
            },
            Ask::Magnet { magnet, path } => {
                let select = magnet.select.as_deref();
                let Some(file) = choose_file(&metainfo, path.as_deref(), select) else {
                    return self.end(no_such_file());
                };
                for seed in &magnet.web_seeds {
                    if !metainfo.web_seeds.contains(seed) {
                        metainfo.web_seeds.push(seed.clone());
                    }
                }
                (file, None, magnet.peers.clone())
            }
        };
        let seeds = metainfo.web_seeds.iter();
        let urls = seeds.filter_map(|seed| Url::parse(&metainfo.web_seed_url(seed, file)?).ok());
        let web_seeds = urls
            .filter(|url| matches!(url.scheme(), "http" | "https") && Some(url) != origin.as_ref())
            .collect();
        self.end(Outcome::Torrent(Box::new(Found {
            trackers: self.ask.tiers(&metainfo),
            metainfo,
            file,
            origin,
            web_seeds,
            peers,
        })));
    }

    fn warn(&mut self, url: Option<&Url>, why: &'static str) {
        self.warnings.push_back(Warning {
            url: url.cloned(),
            why,
        });
    }

    fn end(&mut self, outcome: Outcome) {
        if !self.done {
            self.done = true;
            self.gets.clear();
            self.outcome = Some(outcome);
        }
    }
}

/// The file to play: the one at `path`, else the first of `select` (BEP 53), else the largest
/// medium. `None` if the named one does not exist.
pub fn choose_file(
    metainfo: &Metainfo,
    path: Option<&str>,
    select: Option<&[u32]>,
) -> Option<usize> {
    if let Some(path) = path {
        return metainfo.file_at(path);
    }
    let Some(select) = select else {
        return metainfo.largest_media();
    };
    let mut indexes = select
        .iter()
        .filter_map(|index| usize::try_from(*index).ok());
    indexes.find(|index| {
        let file = metainfo.files.get(*index);
        file.is_some_and(|file| !file.pad && file.length > 0)
    })
}

fn no_such_file() -> Outcome {
    Outcome::Failed {
        status: 404,
        code: "no-such-file",
        detail: "the torrent has no such file".to_owned(),
    }
}

fn unreached(unfound: Unfound) -> Outcome {
    let (status, code) = match unfound.status {
        Some(404 | 410) => (404, "no-torrent"),
        Some(451) => (451, "no-torrent"),
        _ => (502, "torrent-unreachable"),
    };
    Outcome::Failed {
        status,
        code,
        detail: unfound.why,
    }
}

#[cfg(test)]
mod tests;
