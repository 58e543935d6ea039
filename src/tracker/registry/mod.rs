//! The registry: which torrent a video has, as publishers told it or the tracker found out itself.
//!
//! `GET /metainfo?url=<video>` asks for it, `PUT` with a publisher's token tells it. With
//! `--auto-publish` the first request for a video of an allowed host has the tracker fetch and hash
//! it once.

pub mod entry;
pub mod failure;
pub mod hosts;
pub mod job;
pub mod offer;
pub mod query;
pub mod tokens;

use std::collections::VecDeque;
use std::time::Duration;

use url::Url;

use crate::http::pin::Pin;
use crate::torrent::metainfo::LENGTH_MAX;
use crate::torrent::metainfo::Metainfo;
use crate::torrent::metainfo::TORRENT_LEN_MAX;
use crate::torrent::stream_hash::Hashed;
use crate::tracker::registry::entry::By;
use crate::tracker::registry::entry::Entries;
use crate::tracker::registry::entry::Full;
use crate::tracker::registry::entry::Record;
use crate::tracker::registry::failure::Failures;
use crate::tracker::registry::hosts::Pattern;
use crate::tracker::registry::job::JobId;
use crate::tracker::registry::job::Jobs;
use crate::tracker::registry::offer::Offer;
use crate::tracker::registry::tokens::Right;
use crate::tracker::registry::tokens::Tokens;
use crate::units::Time;

/// Bytes of a PUT's body; a server need not read more.
pub const BODY_LEN_MAX: u64 = 16 << 20;
/// So long after the video's server agreed it is not asked again.
pub const FRESH: Duration = Duration::from_secs(60);
/// So long an entry is still given while the server is asked again; an older one only after.
pub const STALE_MAX: Duration = Duration::from_secs(600);
/// Servers asked at once whether their video is still the same.
const CHECKS_MAX: usize = 16;
/// What a viewer is asked to wait while a video is fetched and hashed, and while it is looked at.
const RETRY_HASHING: Duration = Duration::from_secs(5);
const RETRY_CHECKING: Duration = Duration::from_secs(1);

const _: () = assert!(TORRENT_LEN_MAX as u64 <= BODY_LEN_MAX);

/// Whose videos are taken, and how much of them.
#[derive(Clone, Debug)]
pub struct Policy {
    pub tokens: Tokens,
    /// Hosts whose videos are fetched and hashed at a viewer's request.
    pub auto: Vec<Pattern>,
    /// Our own, for torrents that name no tracker; each a tier.
    pub announce: Vec<String>,
    pub entries_max: usize,
    /// Bytes of all torrents together.
    pub bytes_max: u64,
    /// Bytes of one video.
    pub film_len_max: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            tokens: Tokens::default(),
            auto: Vec::new(),
            announce: Vec::new(),
            entries_max: 50_000,
            bytes_max: 4 << 30,
            film_len_max: 64 << 30,
        }
    }
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    Text(String),
    /// The stored torrent of this video. If it is not to be had after all: [`Registry::lost`].
    Torrent(String),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Keep it, in the place of what was there under its URL.
    Store {
        record: Record,
        torrent: Vec<u8>,
    },
    /// Its torrent stays, the record is another.
    Note {
        record: Record,
    },
    Delete {
        url: String,
    },
    /// Fetch and hash the video, at most so many bytes; tell [`Registry::handle_hashed`].
    Hash {
        id: JobId,
        url: Url,
        length_max: u64,
    },
    /// Stop that.
    Cancel {
        id: JobId,
    },
    /// Ask the server which version it has; tell [`Registry::handle_checked`] in any case.
    Check {
        url: Url,
    },
}

/// A video that was fetched and hashed.
#[derive(Clone, Debug)]
pub struct Film {
    pub hashed: Hashed,
    /// As its server told before and after.
    pub pin: Pin,
}

/// Why it was not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Failed {
    pub why: String,
    /// What the server asks to wait.
    pub retry: Option<Duration>,
}

#[derive(Debug)]
pub struct Registry {
    policy: Policy,
    entries: Entries,
    jobs: Jobs,
    failures: Failures,
    checks: usize,
    outputs: VecDeque<Output>,
}

impl Registry {
    pub fn new(mut policy: Policy) -> Self {
        policy.film_len_max = policy.film_len_max.min(LENGTH_MAX);
        Self {
            entries: Entries::new(policy.entries_max, policy.bytes_max),
            policy,
            jobs: Jobs::default(),
            failures: Failures::default(),
            checks: 0,
            outputs: VecDeque::new(),
        }
    }

    /// What was kept of an earlier run; false if there is no room for it: then it is deleted.
    pub fn restore(&mut self, now: Time, record: Record) -> bool {
        let url = record.url.clone();
        let taken = self.enter(now, record, None);
        if !taken && !self.entries.contains(&url) {
            self.delete(vec![url]);
        }
        taken
    }

    /// From now on others may register, and other hosts are fetched from. What there is stays.
    pub fn set_hosts(&mut self, tokens: Tokens, auto: Vec<Pattern>) {
        self.policy.tokens = tokens;
        self.policy.auto = auto;
    }

    /// `GET`, or `HEAD`, which sets nothing going. `query`: what stands behind `?`.
    pub fn handle_get(
        &mut self,
        now: Time,
        query: &str,
        if_none_match: Option<&str>,
        is_head: bool,
    ) -> Reply {
        let video = match query::video(query) {
            Ok(video) => video,
            Err(bad) => return Reply::text(400, bad.to_string()),
        };
        let url = video.as_str();
        if self.entries.contains(url) {
            return self.give(now, &video, if_none_match);
        }
        if self.jobs.contains(url) {
            return Reply::later(RETRY_HASHING);
        }
        if is_head || !self.is_auto(&video) {
            return Reply::unknown();
        }
        if let Some(wait) = self.failures.wait(now, url) {
            return Reply::unknown().retry_after(wait);
        }
        match self.begin(now, &video) {
            Ok(()) => Reply::later(RETRY_HASHING),
            Err(job::Busy(wait)) => {
                let busy = "too many videos are being fetched\n";
                Reply::text(503, busy).retry_after(wait)
            }
        }
    }

    /// The video that a `PUT` is for, if its sender may. `authorization`: the header of that name.
    pub fn may_put(&self, query: &str, authorization: Option<&str>) -> Result<Url, Reply> {
        let video = query::video(query).map_err(|bad| Reply::text(400, bad.to_string()))?;
        match self.policy.tokens.right(authorization, &video) {
            Right::Unknown => Err(Reply::unauthorized()),
            Right::Elsewhere => Err(Reply::text(
                403,
                "this token does not speak for the video's host",
            )),
            Right::Granted => Ok(video),
        }
    }

    pub fn handle_put(
        &mut self,
        now: Time,
        query: &str,
        authorization: Option<&str>,
        body: &[u8],
    ) -> Reply {
        let video = match self.may_put(query, authorization) {
            Ok(video) => video,
            Err(refusal) => return refusal,
        };
        let Policy {
            announce,
            film_len_max,
            ..
        } = &self.policy;
        let offer = match Offer::read(body, &video, announce, *film_len_max) {
            Ok(offer) => offer,
            Err(bad) => return Reply::text(bad.status(), bad.to_string()),
        };
        let new = !self.entries.contains(video.as_str());
        let pin = Pin {
            length: Some(offer.length),
            ..Pin::default()
        };
        if !self.store(now, &video, By::Publisher, &pin, offer) {
            return Reply::text(507, "the registry is full\n");
        }
        if let Some(id) = self.jobs.give_up(video.as_str()) {
            self.outputs.push_back(Output::Cancel { id });
        }
        self.start_jobs(now);
        if new {
            Reply::text(201, "registered\n")
        } else {
            Reply::text(200, "replaced\n")
        }
    }

    /// The kept torrent was not there, or not whole.
    pub fn lost(&mut self, url: &str) -> Reply {
        if self.entries.remove(url).is_some() {
            self.delete(vec![url.to_owned()]);
        }
        Reply::unknown()
    }

    pub fn handle_hashed(&mut self, now: Time, id: JobId, result: Result<Film, Failed>) {
        let Some(url) = self.jobs.end(id) else {
            return;
        };
        let stored = result.and_then(|film| self.take(now, &url, film));
        match stored {
            Ok(()) => self.failures.forget(&url),
            Err(failed) => self.failures.note(now, &url, failed.retry),
        }
        self.start_jobs(now);
    }

    /// What the server says of its video now. One that cannot be asked contradicts nothing.
    pub fn handle_checked(&mut self, now: Time, video: &Url, result: Result<Pin, Failed>) {
        self.checks = self.checks.saturating_sub(1);
        let Some(entry) = self.entries.get_mut(video.as_str()) else {
            return;
        };
        entry.checking = false;
        entry.checked_at = Some(now);
        let Ok(pin) = result else {
            return;
        };
        if entry.record.pin().agrees(&pin) {
            if entry.record.learn(pin) {
                let record = entry.record.clone();
                self.outputs.push_back(Output::Note { record });
            }
            return;
        }
        self.entries.remove(video.as_str());
        self.delete(vec![video.to_string()]);
        if self.is_auto(video) && !self.jobs.contains(video.as_str()) {
            // Where that is too much now, the next request tries again.
            let _ = self.begin(now, video);
        }
    }

    pub fn handle_timeout(&mut self, now: Time) {
        while let Some((id, url)) = self.jobs.overdue(now) {
            self.failures.note(now, &url, None);
            self.outputs.push_back(Output::Cancel { id });
        }
        self.start_jobs(now);
    }

    pub fn next_timeout(&self) -> Time {
        self.jobs.next_timeout()
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The entry, if it may be given on: its age decides whether the video's server agrees first.
    fn give(&mut self, now: Time, video: &Url, if_none_match: Option<&str>) -> Reply {
        let may_ask = self.may_ask(video);
        let room = self.checks < CHECKS_MAX;
        let url = video.as_str();
        let entry = self.entries.get_mut(url).expect("the caller has seen it");
        let age = entry.checked_at.map(|at| now.since(at));
        if may_ask && age.is_none_or(|age| age >= FRESH) {
            if !entry.checking && room {
                entry.checking = true;
                self.checks += 1;
                let url = video.clone();
                self.outputs.push_back(Output::Check { url });
            }
            if age.is_none_or(|age| age >= STALE_MAX) {
                return Reply::later(RETRY_CHECKING);
            }
        }
        let record = entry.record.clone();
        self.entries.touch(now, url);
        Reply::torrent(&record, if_none_match)
    }

    /// Whose video may be asked for at all: the operator's word stands for the host.
    fn may_ask(&self, video: &Url) -> bool {
        self.is_auto(video) || self.policy.tokens.allow(video)
    }

    fn is_auto(&self, video: &Url) -> bool {
        let is_file = !video.path().ends_with('/');
        is_file && self.policy.auto.iter().any(|host| host.allows(video))
    }

    fn begin(&mut self, now: Time, video: &Url) -> Result<(), job::Busy> {
        let port = video.port_or_known_default().unwrap_or_default();
        let site = format!("{}:{port}", video.host_str().unwrap_or_default());
        self.jobs.add(now, video.as_str(), &site)?;
        self.start_jobs(now);
        Ok(())
    }

    fn start_jobs(&mut self, now: Time) {
        while let Some((id, url)) = self.jobs.start(now) {
            self.outputs.push_back(Output::Hash {
                id,
                url: Url::parse(&url).expect("it was a URL's text"),
                length_max: self.policy.film_len_max,
            });
        }
    }

    /// A video that was hashed, as a torrent.
    fn take(&mut self, now: Time, url: &str, film: Film) -> Result<(), Failed> {
        let failed = |why: &str| Failed {
            why: why.to_owned(),
            retry: None,
        };
        let video = Url::parse(url).expect("it was a URL's text");
        if !film.pin.has_validator() {
            // The next version could not be told from this one.
            return Err(failed("neither ETag nor Last-Modified"));
        }
        let length = film.hashed.length;
        let name = query::name(&video).unwrap_or_else(|| "film".to_owned());
        let mut builder = film.hashed.into_builder(name);
        let announce = self.policy.announce.iter();
        builder.trackers = announce.map(|url| vec![url.clone()]).collect();
        builder.web_seeds = vec![url.to_owned()];
        let torrent = builder.build();
        let metainfo = Metainfo::parse(&torrent).map_err(|bad| failed(bad.reason))?;
        if torrent.len() > TORRENT_LEN_MAX {
            return Err(failed("its torrent is longer than stubs fetch"));
        }
        let offer = Offer {
            info_hash: metainfo.info_hash,
            torrent,
            length,
        };
        if self.store(now, &video, By::Auto, &film.pin, offer) {
            Ok(())
        } else {
            Err(failed("the registry is full"))
        }
    }

    /// False if there is no room.
    fn store(&mut self, now: Time, video: &Url, by: By, pin: &Pin, offer: Offer) -> bool {
        let record = Record {
            url: video.to_string(),
            info_hash: offer.info_hash.to_string(),
            torrent_len: offer.torrent.len() as u64,
            by,
            etag: pin.etag.clone(),
            last_modified: pin.last_modified.clone(),
            length: offer.length,
        };
        let taken = self.enter(now, record.clone(), Some(now));
        if taken {
            let torrent = offer.torrent;
            self.outputs.push_back(Output::Store { record, torrent });
        }
        taken
    }

    /// Among the entries. What had to go for it is deleted, also where that was not enough.
    fn enter(&mut self, now: Time, record: Record, checked_at: Option<Time>) -> bool {
        let (taken, gone) = match self.entries.insert(now, record, checked_at) {
            Ok(gone) => (true, gone),
            Err(Full(gone)) => (false, gone),
        };
        self.delete(gone);
        taken
    }

    fn delete(&mut self, urls: Vec<String>) {
        let gone = urls.into_iter().map(|url| Output::Delete { url });
        self.outputs.extend(gone);
    }
}

impl Reply {
    fn text(status: u16, why: impl Into<String>) -> Self {
        let mut why: String = why.into();
        if !why.ends_with('\n') {
            why.push('\n');
        }
        Self {
            status,
            headers: vec![("Content-Type", "text/plain".to_owned())],
            body: Body::Text(why),
        }
    }

    fn unknown() -> Self {
        Self::text(404, "no torrent is registered for this video")
    }

    fn later(wait: Duration) -> Self {
        Self::text(202, "the torrent is being made").retry_after(wait)
    }

    /// RFC 6750 §3.
    fn unauthorized() -> Self {
        let mut reply = Self::text(401, "a publisher's token is needed");
        reply
            .headers
            .push(("WWW-Authenticate", "Bearer".to_owned()));
        reply
    }

    fn torrent(record: &Record, if_none_match: Option<&str>) -> Self {
        let etag = format!("\"{}\"", record.info_hash);
        let mut tags = if_none_match.unwrap_or_default().split(',').map(str::trim);
        let known = tags.any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag);
        let mut headers = vec![("ETag", etag)];
        let pin = record.pin();
        headers.extend(pin.stamp().map(|(name, value)| (name, value.to_owned())));
        if known {
            return Self {
                status: 304,
                headers,
                body: Body::Text(String::new()),
            };
        }
        headers.push(("Content-Type", "application/x-bittorrent".to_owned()));
        Self {
            status: 200,
            headers,
            body: Body::Torrent(record.url.clone()),
        }
    }

    /// RFC 9110 §10.2.3, in whole seconds.
    fn retry_after(mut self, wait: Duration) -> Self {
        let seconds = wait.as_millis().div_ceil(1000).max(1);
        self.headers.push(("Retry-After", seconds.to_string()));
        self
    }
}

#[cfg(test)]
mod tests;
