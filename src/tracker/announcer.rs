//! When which tracker is told what (BEP 3, 12, 31): one torrent's announces to all its trackers.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use url::Url;

use crate::tracker::Retry;
use crate::tracker::TrackerFailed;
use crate::tracker::announce::ANNOUNCE_TIMEOUT;
use crate::tracker::announce::Announce;
use crate::tracker::announce::Event;
use crate::tracker::announce::PEERS_MAX;
use crate::tracker::announce::Reply;
use crate::tracker::http;
use crate::tracker::udp;
use crate::units::BLOCK_LEN;
use crate::units::InfoHash;
use crate::units::PeerId;
use crate::units::Time;

/// Trackers of one torrent, all tiers together.
pub const TRACKERS_MAX: usize = 64;
/// Announces of one torrent on their way; the driver bounds all torrents' together (R24).
const FLIGHTS_MAX: usize = 16;
/// `stopped` is told in passing; nobody waits longer for its answer.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// A request for more peers waits this long after the last answer, or the tracker's min interval.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// The first wait after a failure; each further one doubles it.
const BACK_OFF_MIN: Duration = Duration::from_secs(15);
const BACK_OFF_MAX: Duration = Duration::from_secs(30 * 60);
/// The driver's own deadline comes first; this is for an answer that was lost inside.
const LOST_AFTER: Duration = Duration::from_secs(5);

/// All tiers are announced to at the same time, as libtorrent's `announce_to_all_tiers` does and
/// unlike BEP 12, which leaves the second tier alone while the first works: a viewer wants the
/// peers of every tracker now. Within a tier BEP 12 holds: shuffled once, tried in turn at once
/// on failure, and the one that answered moves to the front.
#[derive(Debug)]
pub struct Announcer {
    said: Announce,
    tiers: Vec<Tier>,
    stopping: bool,
    next_id: u64,
    outputs: VecDeque<Output>,
    rng: SmallRng,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Get `url`, and hand the body or the failure to [`Announcer::handle_reply`].
    Announce {
        id: u64,
        url: String,
        deadline: Duration,
    },
    /// Call the tracker at `url` by UDP, and hand what comes of it to [`Announcer::handle_answer`].
    Call {
        id: u64,
        url: String,
        said: Box<Announce>,
        /// What it hears of its address.
        heard: String,
        deadline: Duration,
    },
    Peers(Vec<SocketAddr>),
}

/// One tracker as `status` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackerView {
    pub url: String,
    /// From 0.
    pub tier: usize,
    pub state: State,
    /// `NEVER` for a tracker that is not asked by itself: behind another of its tier, or refused.
    pub next: Time,
    /// Peers in its last answer.
    pub peers: usize,
    pub seeders: Option<u32>,
    pub leechers: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not asked yet.
    Idle,
    Announcing,
    /// The last announce was answered, perhaps with a warning.
    Working(Option<String>),
    /// The last announce failed; another follows.
    Failed(String),
    /// Never asked, or never again.
    Refused(String),
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idle => f.write_str("not asked yet"),
            Self::Announcing => f.write_str("announcing"),
            Self::Working(None) => f.write_str("working"),
            Self::Working(Some(warning)) => write!(f, "working, warns: {warning}"),
            Self::Failed(why) => write!(f, "failed: {why}"),
            Self::Refused(why) => f.write_str(why),
        }
    }
}

#[derive(Debug, Default)]
struct Tier {
    trackers: Vec<Tracker>,
    flight: Option<Flight>,
    /// When it announces next; `NEVER` if every tracker in it is refused.
    next: Time,
    /// Announces without an event wait until here (min interval).
    not_before: Time,
    /// The torrent was completed and its tracker has not been told.
    owes_completed: bool,
}

#[derive(Debug)]
struct Tracker {
    url: String,
    state: State,
    /// It knows us: `started` was answered.
    started: bool,
    failures: u32,
    retry_at: Time,
    id: Option<Vec<u8>>,
    peers: usize,
    seeders: Option<u32>,
    leechers: Option<u32>,
}

/// A URL to get, or what a tracker hears of its address.
enum Way {
    Http(String),
    Udp(String),
}

#[derive(Debug)]
struct Flight {
    id: u64,
    tracker: usize,
    event: Event,
    lost_at: Time,
}

impl Announcer {
    /// The first announces are due at once, with [`Announcer::handle_timeout`]; give
    /// [`Announcer::totals`] before it. `seed` is random: it shuffles the tiers and makes the key.
    pub fn new(
        now: Time,
        tiers: Vec<Vec<String>>,
        info_hash: InfoHash,
        peer_id: PeerId,
        port: u16,
        seed: u64,
    ) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut announcer = Self {
            said: Announce {
                info_hash,
                peer_id,
                port,
                uploaded: 0,
                downloaded: 0,
                left: u64::from(BLOCK_LEN),
                event: Event::None,
                numwant: u32::try_from(PEERS_MAX).expect("small"),
                key: rng.random(),
                tracker_id: None,
            },
            tiers: Vec::new(),
            stopping: false,
            next_id: 0,
            outputs: VecDeque::new(),
            rng,
        };
        for tier in tiers {
            announcer.add_trackers(now, tier);
        }
        announcer
    }

    /// A further tier, due at once like the first. Trackers that are known are left out.
    pub fn add_trackers(&mut self, now: Time, urls: Vec<String>) {
        let mut trackers: Vec<Tracker> = Vec::new();
        for url in urls {
            let all = self.tiers.iter().flat_map(|tier| &tier.trackers);
            let known = all
                .clone()
                .chain(&trackers)
                .any(|tracker| tracker.url == url);
            if !known && all.count() + trackers.len() < TRACKERS_MAX {
                trackers.push(Tracker::new(url));
            }
        }
        if trackers.is_empty() || self.stopping {
            return;
        }
        trackers.shuffle(&mut self.rng);
        let mut tier = Tier {
            trackers,
            ..Tier::default()
        };
        tier.next = tier.wake(now);
        self.tiers.push(tier);
    }

    /// Bytes so far and still to come, for the announces from now on. Where the length is not
    /// known yet `left` is anything but 0: a tracker gives seeds to those only who lack something.
    pub fn totals(&mut self, uploaded: u64, downloaded: u64, left: u64) {
        self.said.uploaded = uploaded;
        self.said.downloaded = downloaded;
        self.said.left = left;
    }

    /// The last piece came. A tracker that was not told of the start will hear of it with `left`.
    pub fn completed(&mut self, now: Time) {
        for tier in &mut self.tiers {
            let told = tier.trackers.iter().any(|tracker| tracker.started);
            tier.owes_completed = told || tier.flight.is_some();
            if tier.owes_completed && !self.stopping {
                tier.next = tier.next.min(now);
            }
        }
        self.pump(now);
    }

    /// Asks the trackers that work again, as soon as they allow it.
    pub fn more_peers(&mut self, now: Time) {
        for tier in &mut self.tiers {
            // Where every tracker fails, back-off stays the law.
            if tier.trackers.iter().any(Tracker::works) {
                tier.next = tier.next.min(tier.not_before);
            }
        }
        self.pump(now);
    }

    /// Tells the trackers that know us, once, and falls silent. [`Announcer::stopped`] holds after
    /// [`STOP_TIMEOUT`] at the latest.
    pub fn stop(&mut self, now: Time) {
        if self.stopping {
            return;
        }
        self.stopping = true;
        for index in 0..self.tiers.len() {
            let tier = &mut self.tiers[index];
            tier.next = Time::NEVER;
            // Whoever may have heard `started` is told, answered or not.
            let heard = tier.flight.take().map(|flight| flight.tracker);
            let known = tier.trackers.iter().position(|tracker| tracker.started);
            if let Some(tracker) = known.or(heard) {
                self.announce(now, index, tracker, Event::Stopped);
            }
        }
    }

    /// Nothing more will come out.
    pub fn stopped(&self) -> bool {
        self.stopping && self.tiers.iter().all(|tier| tier.flight.is_none())
    }

    /// The answer to the announce `id`. An id that is no longer awaited is passed over.
    pub fn handle_reply(&mut self, now: Time, id: u64, body: Result<&[u8], TrackerFailed>) {
        self.handle_answer(now, id, body.and_then(http::parse_reply));
    }

    /// The same, read already.
    pub fn handle_answer(&mut self, now: Time, id: u64, reply: Result<Reply, TrackerFailed>) {
        let is = |tier: &Tier| tier.flight.as_ref().is_some_and(|flight| flight.id == id);
        let Some(index) = self.tiers.iter().position(is) else {
            return;
        };
        self.settle(now, index, reply);
        self.pump(now);
    }

    pub fn handle_timeout(&mut self, now: Time) {
        for index in 0..self.tiers.len() {
            let flight = self.tiers[index].flight.as_ref();
            if flight.is_some_and(|flight| flight.lost_at <= now) {
                self.settle(now, index, Err(TrackerFailed::new("no answer in time")));
            }
        }
        self.pump(now);
    }

    pub fn next_timeout(&self) -> Time {
        let full = self.flight_count() >= FLIGHTS_MAX;
        let tiers = self
            .tiers
            .iter()
            .filter(|tier| !full || tier.flight.is_some());
        tiers
            .map(|tier| {
                tier.flight
                    .as_ref()
                    .map_or(tier.next, |flight| flight.lost_at)
            })
            .min()
            .unwrap_or(Time::NEVER)
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Each tracker, tier by tier, in the order they are tried.
    pub fn status(&self) -> Vec<TrackerView> {
        let mut out = Vec::new();
        for (index, tier) in self.tiers.iter().enumerate() {
            let due = tier.due(tier.next);
            for (at, tracker) in tier.trackers.iter().enumerate() {
                let next = tier.flight.is_none() && due == Some(at);
                out.push(TrackerView {
                    url: tracker.url.clone(),
                    tier: index,
                    state: tracker.state.clone(),
                    next: if next { tier.next } else { Time::NEVER },
                    peers: tracker.peers,
                    seeders: tracker.seeders,
                    leechers: tracker.leechers,
                });
            }
        }
        out
    }

    fn flight_count(&self) -> usize {
        let tiers = self.tiers.iter();
        tiers.filter(|tier| tier.flight.is_some()).count()
    }

    /// Sends what is due.
    fn pump(&mut self, now: Time) {
        for index in 0..self.tiers.len() {
            // A tracker whose URL is refused takes no flight: the next one's turn at once.
            while self.tiers[index].flight.is_none() && self.tiers[index].next <= now {
                if self.flight_count() >= FLIGHTS_MAX {
                    return;
                }
                let tier = &mut self.tiers[index];
                let Some(at) = tier.due(now) else {
                    tier.next = tier.wake(now);
                    break;
                };
                let event = match (tier.trackers[at].started, tier.owes_completed) {
                    (false, _) => Event::Started,
                    (true, true) => Event::Completed,
                    (true, false) => Event::None,
                };
                self.announce(now, index, at, event);
            }
        }
    }

    fn announce(&mut self, now: Time, index: usize, at: usize, event: Event) {
        let tier = &mut self.tiers[index];
        let tracker = &mut tier.trackers[at];
        let said = Announce {
            event,
            numwant: if event == Event::Stopped {
                0
            } else {
                self.said.numwant
            },
            tracker_id: tracker.id.clone(),
            ..self.said.clone()
        };
        let way = match udp::is(&tracker.url) {
            true => udp::check(&tracker.url).map(Way::Udp),
            false => http::announce_url(&tracker.url, &said).map(Way::Http),
        };
        let way = match way {
            Ok(way) => way,
            Err(error) => {
                tracker.state = State::Refused(error.why);
                return;
            }
        };
        // `started` tells of the end as well, by its `left`.
        tier.owes_completed &= event != Event::Started;
        let deadline = if event == Event::Stopped {
            STOP_TIMEOUT
        } else {
            ANNOUNCE_TIMEOUT
        };
        let lost_at = match event {
            Event::Stopped => now + deadline,
            _ => now + deadline + LOST_AFTER,
        };
        let id = self.next_id;
        self.next_id += 1;
        tracker.state = State::Announcing;
        self.outputs.push_back(match way {
            Way::Http(url) => Output::Announce { id, url, deadline },
            Way::Udp(heard) => Output::Call {
                id,
                url: tracker.url.clone(),
                said: Box::new(said),
                heard,
                deadline,
            },
        });
        tier.flight = Some(Flight {
            id,
            tracker: at,
            event,
            lost_at,
        });
    }

    /// The announce in flight came to its end.
    fn settle(&mut self, now: Time, index: usize, reply: Result<Reply, TrackerFailed>) {
        let tier = &mut self.tiers[index];
        let flight = tier.flight.take().expect("asked by the callers");
        let tracker = &mut tier.trackers[flight.tracker];
        if flight.event == Event::Stopped {
            tracker.state = State::Idle;
            return;
        }
        match reply {
            Ok(reply) => {
                tracker.state = State::Working(reply.warning);
                tracker.started = true;
                tracker.failures = 0;
                tracker.retry_at = now;
                tracker.id = reply.tracker_id.or_else(|| tracker.id.take());
                tracker.peers = reply.peers.len();
                tracker.seeders = reply.seeders;
                tracker.leechers = reply.leechers;
                tier.owes_completed &= flight.event != Event::Completed;
                let min = reply.min_interval.unwrap_or_default().max(ASK_AGAIN);
                tier.not_before = now + min;
                tier.next = now + reply.interval.max(min);
                if tier.owes_completed {
                    tier.next = now;
                }
                // BEP 12: the one that answered is asked first from now on.
                tier.trackers[..=flight.tracker].rotate_right(1);
                if !reply.peers.is_empty() {
                    self.outputs.push_back(Output::Peers(reply.peers));
                }
            }
            Err(error) => {
                tracker.failures = tracker.failures.saturating_add(1);
                let wait = match error.retry {
                    Retry::Never => None,
                    Retry::After(wait) => Some(wait),
                    Retry::BackOff => Some(back_off(tracker.failures, &mut self.rng)),
                };
                tracker.retry_at = wait.map_or(Time::NEVER, |wait| now + wait);
                tracker.state = match wait {
                    Some(_) => State::Failed(error.why),
                    None => State::Refused(error.why),
                };
                tier.next = tier.wake(now);
            }
        }
    }
}

impl Tier {
    /// The tracker to ask at `now`: the first that may be asked.
    fn due(&self, now: Time) -> Option<usize> {
        let may = |tracker: &Tracker| !tracker.refused() && tracker.retry_at <= now;
        self.trackers.iter().position(may)
    }

    /// When one of the trackers may be asked.
    fn wake(&self, now: Time) -> Time {
        let asked = self.trackers.iter().filter(|tracker| !tracker.refused());
        asked
            .map(|tracker| tracker.retry_at.max(now))
            .min()
            .unwrap_or(Time::NEVER)
    }
}

impl Tracker {
    fn new(url: String) -> Self {
        let refused = match Url::parse(&url) {
            Ok(parsed) => match parsed.scheme() {
                "http" | "https" | "udp" => None,
                _ => Some("neither http, https nor udp"),
            },
            Err(_) => Some("not a URL"),
        };
        Self {
            url,
            state: refused.map_or(State::Idle, |why| State::Refused(why.to_owned())),
            started: false,
            failures: 0,
            retry_at: Time::ZERO,
            id: None,
            peers: 0,
            seeders: None,
            leechers: None,
        }
    }

    fn refused(&self) -> bool {
        matches!(self.state, State::Refused(_))
    }

    fn works(&self) -> bool {
        matches!(self.state, State::Working(_))
    }
}

/// 15 s, doubled by each failure up to 30 min, and spread by a quarter either way so that the
/// viewers of a tracker that comes back do not all come at once.
fn back_off(failures: u32, rng: &mut SmallRng) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let wait = BACK_OFF_MIN
        .saturating_mul(1 << doublings)
        .min(BACK_OFF_MAX);
    wait.mul_f64(rng.random_range(0.75..1.25))
}

#[cfg(test)]
mod tests;
