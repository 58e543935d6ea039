//! The search for an address's torrent, in the order of DESIGN §3, while the origin already plays.

use std::collections::VecDeque;
use std::time::Duration;

use url::Url;

use crate::http::head::ResponseHead;
use crate::resolve::describedby;
use crate::torrent::magnet::Magnet;
use crate::torrent::metainfo::Metainfo;
use crate::torrent::metainfo::TORRENT_LEN_MAX;
use crate::units::Time;

/// `describedby` links of one origin that are tried.
const DESCRIBED_MAX: usize = 3;
/// `xs` and `as` addresses of one magnet link that are tried.
const SOURCES_MAX: usize = 4;
/// For the origin's head, and for each [`Get`]; the driver's own deadlines come first.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// What is looked for.
#[derive(Clone, Debug)]
pub enum Ask {
    /// The driver asks the origin meanwhile, and tells what it answered.
    Video { video: Url, trackers: Vec<Url> },
    Torrent {
        url: Url,
        /// A file in the torrent, percent-decoded.
        path: Option<String>,
        trackers: Vec<Url>,
    },
    Magnet {
        magnet: Magnet,
        path: Option<String>,
    },
}

/// A body to be fetched: hand what it is, or why there is none, to [`Discover::handle_body`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Get {
    pub id: u64,
    pub url: Url,
    /// Bytes; a longer body is an error.
    pub limit: usize,
}

/// A body that came, as metainfo or why it is none. To be read on a shard only if it is short.
pub struct Body(Result<Box<Metainfo>, &'static str>);

impl Body {
    pub fn read(bytes: &[u8]) -> Self {
        if bytes.len() > TORRENT_LEN_MAX {
            return Self(Err("too-long"));
        }
        let metainfo = Metainfo::parse(bytes).map_err(|bad| bad.reason);
        Self(metainfo.map(Box::new))
    }
}

/// Why there is no body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfound {
    /// What the server answered, if it did.
    pub status: Option<u16>,
    pub why: String,
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
    /// No torrent: the origin's bytes as they are.
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

/// One address's search. For a video `<video>.torrent` is fetched beside the origin's first
/// answer, but waits for it: a `describedby` link there goes first, and the length must fit.
#[derive(Debug)]
pub struct Discover {
    ask: Ask,
    origin: Origin,
    recalled: Option<Recalled>,
    /// Links of the origin still to be tried; sources of a magnet link likewise.
    places: VecDeque<Url>,
    sidecar: Sidecar,
    gets: VecDeque<Get>,
    flights: Vec<Flight>,
    next_id: u64,
    deadline: Time,
    warnings: VecDeque<Warning>,
    outcome: Option<Outcome>,
    done: bool,
}

/// What is known of the requested video's own server.
#[derive(Debug)]
enum Origin {
    /// Its head is to come.
    Awaited,
    Answered {
        length: Option<u64>,
        /// ETag and Last-Modified, as sent.
        validators: [Option<String>; 2],
    },
    Failed,
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
    sidecar: bool,
}

impl Discover {
    pub fn new(now: Time, ask: Ask) -> Self {
        let places = match &ask {
            Ask::Video { .. } => VecDeque::new(),
            Ask::Torrent { url, .. } => VecDeque::from([url.clone()]),
            Ask::Magnet { magnet, .. } => {
                let urls = magnet.sources.iter().filter_map(|url| Url::parse(url).ok());
                let web = urls.filter(|url| matches!(url.scheme(), "http" | "https"));
                web.take(SOURCES_MAX).collect()
            }
        };
        let mut discover = Self {
            ask,
            origin: Origin::Awaited,
            recalled: None,
            places,
            sidecar: Sidecar::Unasked,
            gets: VecDeque::new(),
            flights: Vec::new(),
            next_id: 0,
            deadline: now + STEP_TIMEOUT,
            warnings: VecDeque::new(),
            outcome: None,
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
        if matches!(self.origin, Origin::Awaited) && matches!(self.ask, Ask::Video { .. }) {
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
        if self.done || !is_video || !matches!(self.origin, Origin::Awaited) {
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
            200..=299 => {
                let text = |name| head.headers.get(name).map(str::to_owned);
                self.origin = Origin::Answered {
                    length,
                    validators: [text("etag"), text("last-modified")],
                };
            }
            _ => self.origin = Origin::Failed,
        }
        self.advance(now);
    }

    /// The origin gave no head: a torrent can still play.
    pub fn handle_origin_failed(&mut self, now: Time) {
        if matches!(self.origin, Origin::Awaited) {
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
        let found = match body {
            Ok(body) => self.take(&flight.url, body),
            Err(unfound) => {
                if matches!(self.ask, Ask::Torrent { .. }) {
                    self.end(unreached(unfound));
                }
                None
            }
        };
        if flight.sidecar {
            let found = found.map(|found| Sidecar::Found(flight.url, found));
            self.sidecar = found.unwrap_or(Sidecar::None);
        } else if let Some(found) = found {
            self.accept(Some(&flight.url), *found);
        }
        self.advance(now);
    }

    pub fn handle_timeout(&mut self, now: Time) {
        if self.done || now < self.deadline {
            return;
        }
        if matches!(self.origin, Origin::Awaited) {
            self.origin = Origin::Failed;
        }
        if matches!(self.sidecar, Sidecar::Flying) {
            self.sidecar = Sidecar::None;
        }
        self.flights.clear();
        if matches!(self.ask, Ask::Torrent { .. }) {
            self.end(Outcome::Failed {
                status: 504,
                code: "torrent-timeout",
                detail: "the .torrent did not come in time".to_owned(),
            });
        }
        self.advance(now);
    }

    pub fn next_timeout(&self) -> Time {
        if self.done {
            Time::NEVER
        } else {
            self.deadline
        }
    }

    pub fn poll_output(&mut self) -> Option<Get> {
        self.gets.pop_front()
    }

    pub fn poll_warning(&mut self) -> Option<Warning> {
        self.warnings.pop_front()
    }

    /// Once; nothing is asked for any more after it.
    pub fn take_outcome(&mut self) -> Option<Outcome> {
        self.outcome.take()
    }

    /// The next step of the order, if the last one is over.
    fn advance(&mut self, now: Time) {
        let is_video = matches!(self.ask, Ask::Video { .. });
        if self.done || is_video && matches!(self.origin, Origin::Awaited) {
            return;
        }
        if let Some(recalled) = self.recalled.take() {
            if self.is_same_version(&recalled.validator) {
                self.accept(None, recalled.metainfo);
            } else {
                self.warn(None, "the video has changed since");
            }
        }
        if self.done || self.flights.iter().any(|flight| !flight.sidecar) {
            return;
        }
        if let Some(url) = self.places.pop_front() {
            self.get(now, url, false);
            return;
        }
        if is_video {
            match std::mem::replace(&mut self.sidecar, Sidecar::None) {
                Sidecar::Unasked => return self.ask_sidecar(now),
                Sidecar::Flying => {
                    self.sidecar = Sidecar::Flying;
                    return;
                }
                Sidecar::Found(url, metainfo) => self.accept(Some(&url), *metainfo),
                Sidecar::None => {}
            }
        }
        self.run_out();
    }

    /// Every place was looked at.
    fn run_out(&mut self) {
        let outcome = match &self.ask {
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
        self.get(now, url, true);
    }

    fn get(&mut self, now: Time, url: Url, sidecar: bool) {
        let id = self.next_id;
        self.next_id += 1;
        self.deadline = now + STEP_TIMEOUT;
        self.flights.push(Flight {
            id,
            url: url.clone(),
            sidecar,
        });
        self.gets.push_back(Get {
            id,
            url,
            limit: TORRENT_LEN_MAX,
        });
    }

    /// The body's metainfo, if it is what is looked for.
    fn take(&mut self, url: &Url, body: Body) -> Option<Box<Metainfo>> {
        let why = match body.0 {
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
                let Some(file) = self.file_of_video(video, &metainfo) else {
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
            trackers: self.tiers(&metainfo),
            metainfo,
            file,
            origin,
            web_seeds,
            peers,
        })));
    }

    /// The file that the origin serves: one of its length, one of its name, the largest medium.
    /// `None` if the metainfo is of something else.
    fn file_of_video(&self, video: &Url, metainfo: &Metainfo) -> Option<usize> {
        let last = video.path_segments()?.next_back()?;
        let name = percent_encoding::percent_decode_str(last).decode_utf8_lossy();
        let length = match self.origin {
            Origin::Answered { length, .. } => length,
            Origin::Awaited | Origin::Failed => None,
        };
        let files = metainfo.files.iter().enumerate();
        let fits: Vec<usize> = files
            .filter(|(_, file)| {
                !file.pad && file.length > 0 && length.is_none_or(|length| length == file.length)
            })
            .map(|(index, _)| index)
            .collect();
        let named = fits.iter().find(|index| {
            metainfo.files[**index]
                .path
                .last()
                .is_some_and(|last| *last == name)
        });
        let largest = metainfo
            .largest_media()
            .filter(|index| fits.contains(index));
        named.copied().or(largest).or_else(|| fits.first().copied())
    }

    /// BEP 27: a private torrent goes to no tracker but its own.
    fn tiers(&self, metainfo: &Metainfo) -> Vec<Vec<String>> {
        if metainfo.private && !metainfo.trackers.is_empty() {
            return metainfo.trackers.clone();
        }
        let own: Vec<String> = match &self.ask {
            Ask::Video { trackers, .. } | Ask::Torrent { trackers, .. } => {
                trackers.iter().map(|url| url.as_str().to_owned()).collect()
            }
            Ask::Magnet { magnet, .. } => magnet.trackers.clone(),
        };
        let mut known: Vec<Option<Url>> = Vec::new();
        let mut out: Vec<Vec<String>> = own.into_iter().map(|url| vec![url]).collect();
        out.extend(metainfo.trackers.iter().cloned());
        for tier in &mut out {
            tier.retain(|url| {
                // However it is spelt, each tracker is asked once.
                let url = Url::parse(url).ok();
                let new = url.is_none() || !known.contains(&url);
                known.push(url);
                new
            });
        }
        out.retain(|tier| !tier.is_empty());
        out
    }

    /// Whether the origin still serves what it served when `validator` was kept, as far as it says.
    fn is_same_version(&self, validator: &str) -> bool {
        let Origin::Answered { validators, .. } = &self.origin else {
            return true;
        };
        let mut said = validators.iter().flatten().peekable();
        let opaque = |text: &str| text.strip_prefix("W/").unwrap_or(text).to_owned();
        validator.is_empty()
            || said.peek().is_none()
            || said.any(|said| opaque(said) == opaque(validator))
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
