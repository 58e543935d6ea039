//! When which tracker is told what (BEP 3, 12, 31): one torrent's announces to all its trackers,
//! and its scrapes.

use std::collections::VecDeque;
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
use crate::tracker::announce::Answer;
use crate::tracker::announce::Counts;
use crate::tracker::announce::Event;
use crate::tracker::announce::PEERS_MAX;
use crate::tracker::http;
use crate::tracker::udp;
use crate::tracker::udp::Question;
use crate::units::BLOCK_LEN;
use crate::units::InfoHash;
use crate::units::PeerId;
use crate::units::Time;

/// Trackers of one torrent, all tiers together.
pub const TRACKERS_MAX: usize = 64;
/// Announces of one torrent on their way; the driver bounds all torrents' together (R24).
const FLIGHTS_MAX: usize = 16;
/// A scrape is for the counts alone; nobody waits longer for them.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(10);
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
    /// Ask a tracker. When that begins, [`Announcer::handle_begun`]; what comes of it within
    /// `deadline` from there is for [`Announcer::handle_answer`].
    Ask {
        id: u64,
        ask: Ask,
        deadline: Duration,
    },
    Peers(Vec<SocketAddr>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// GET this URL; [`http::parse_reply`] reads the body.
    HttpAnnounce(String),
    /// GET this URL; [`http::parse_scrape`] reads the body.
    HttpScrape(String, InfoHash),
    /// Call the tracker at `url`.
    Udp { url: String, question: Question },
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
    /// What it last said of the swarm's size.
    pub counts: Option<Counts>,
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
    counts: Option<Counts>,
    /// No scrape before this: at most one in the time between two announces.
    scrape_at: Time,
}

#[derive(Debug)]
struct Flight {
    id: u64,
    tracker: usize,
    /// `None`: a scrape.
    event: Option<Event>,
    deadline: Duration,
    /// `NEVER` until it has begun.
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
            let begun = tier
                .flight
                .take()
                .filter(|flight| flight.lost_at != Time::NEVER);
            let heard = begun.map(|flight| flight.tracker);
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

    /// The ask `id`, which may have waited, begins now. False: nobody waits for it any more.
    pub fn handle_begun(&mut self, now: Time, id: u64) -> bool {
        let mut flights = self
            .tiers
            .iter_mut()
            .filter_map(|tier| tier.flight.as_mut());
        let Some(flight) = flights.find(|flight| flight.id == id) else {
            return false;
        };
        if flight.lost_at == Time::NEVER {
            flight.lost_at = now + flight.deadline + LOST_AFTER;
        }
        true
    }

    /// The answer to the ask `id`. An id that is no longer awaited is passed over.
    pub fn handle_answer(&mut self, now: Time, id: u64, answer: Result<Answer, TrackerFailed>) {
        let is = |tier: &Tier| tier.flight.as_ref().is_some_and(|flight| flight.id == id);
        let Some(index) = self.tiers.iter().position(is) else {
            return;
        };
        self.settle(now, index, answer);
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
                    counts: tracker.counts,
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
        let ask = match udp::is(&tracker.url) {
            true => udp::check(&tracker.url).map(|heard| Ask::Udp {
                url: tracker.url.clone(),
                question: Question::Announce {
                    said: Box::new(said),
                    heard,
                },
            }),
            false => http::announce_url(&tracker.url, &said).map(Ask::HttpAnnounce),
        };
        let ask = match ask {
            Ok(ask) => ask,
            Err(error) => {
                tracker.state = State::Refused(error.why);
                return;
            }
        };
        // `started` tells of the end as well, by its `left`.
        tier.owes_completed &= event != Event::Started;
        tracker.state = State::Announcing;
        self.fly(now, index, at, Some(event), ask);
    }

    /// Asks the tracker that has just answered, and told no counts, for them.
    fn scrape(&mut self, now: Time, index: usize, interval: Duration) {
        let tracker = &mut self.tiers[index].trackers[0];
        if now < tracker.scrape_at {
            return;
        }
        tracker.scrape_at = now + interval;
        let info_hash = self.said.info_hash;
        let ask = match udp::is(&tracker.url) {
            true => Ok(Ask::Udp {
                url: tracker.url.clone(),
                question: Question::Scrape(info_hash),
            }),
            false => {
                http::scrape_url(&tracker.url, info_hash).map(|url| Ask::HttpScrape(url, info_hash))
            }
        };
        // Most trackers of another address cannot be scraped, and work all the same.
        if let Ok(ask) = ask {
            self.fly(now, index, 0, None, ask);
        }
    }

    fn fly(&mut self, now: Time, index: usize, at: usize, event: Option<Event>, ask: Ask) {
        let deadline = match event {
            Some(Event::Stopped) => STOP_TIMEOUT,
            Some(_) => ANNOUNCE_TIMEOUT,
            None => SCRAPE_TIMEOUT,
        };
        let id = self.next_id;
        self.next_id += 1;
        self.outputs.push_back(Output::Ask { id, ask, deadline });
        self.tiers[index].flight = Some(Flight {
            id,
            tracker: at,
            event,
            deadline,
            // The end is not waited for, begun or not.
            lost_at: match event {
                Some(Event::Stopped) => now + deadline,
                _ => Time::NEVER,
            },
        });
    }

    /// What is in flight came to its end.
    fn settle(&mut self, now: Time, index: usize, answer: Result<Answer, TrackerFailed>) {
        let tier = &mut self.tiers[index];
        let flight = tier.flight.take().expect("asked by the callers");
        let tracker = &mut tier.trackers[flight.tracker];
        let reply = match (flight.event, answer) {
            (Some(Event::Stopped), _) => {
                tracker.state = State::Idle;
                return;
            }
            (None, Ok(Answer::Scraped(counts))) => {
                tracker.counts = Some(counts);
                return;
            }
            (None, _) => {
                // Who announces well need not scrape.
                return;
            }
            (Some(event), Ok(Answer::Announced(reply))) => Ok((event, reply)),
            (Some(_), Ok(Answer::Scraped(_))) => Err(TrackerFailed::new("a scrape's answer")),
            (Some(_), Err(error)) => Err(error),
        };
        match reply {
            Ok((event, reply)) => {
                let counts = reply.counts();
                tracker.state = State::Working(reply.warning);
                tracker.started = true;
                tracker.failures = 0;
                tracker.retry_at = now;
                tracker.id = reply.tracker_id.or_else(|| tracker.id.take());
                tracker.peers = reply.peers.len();
                tracker.counts = counts.or(tracker.counts);
                tier.owes_completed &= event != Event::Completed;
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
                if counts.is_none() {
                    self.scrape(now, index, reply.interval);
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
            counts: None,
            scrape_at: Time::ZERO,
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
