//! When and what to buy from the origin: the only place that decides it.

use std::time::Duration;

use fixedbitset::FixedBitSet;
use slab::Slab;

use crate::swarm::FetchKey;
use crate::swarm::OriginKey;
use crate::swarm::PeerKey;
use crate::swarm::reader::{Reader, TARGET};
use crate::swarm::requests::{Look, Requests, blocks};
use crate::torrent::layout::Layout;
use crate::units::{Block, ByteRange, Cause, OriginPolicy, PieceIndex, Time};

/// Fetches under way at one origin.
pub const FETCHES_MAX: usize = 2;
/// Of a cold window so much film is bought at once, s, within these bounds of bytes.
const START_S: f64 = 2.0;
const START_BYTES_MIN: u64 = 64 << 10;
const START_BYTES_MAX: u64 = 1 << 20;
/// One hedge: what abandoning it costs at most.
const HEDGE_BYTES_MAX: u64 = 256 << 10;
/// One purchase of what no peer has.
const UNSEEN_BYTES_MAX: u64 = 1 << 20;
/// With no peer at all purchases grow to this.
const LONE_BYTES_MAX: u64 = 4 << 20;
/// How far ahead of the reader the origin alone works: the longer of the two.
const LONE_LEAD_S: f64 = 20.0;
const LONE_LEAD_BYTES: u64 = 4 << 20;
/// The same while peers are being called that may yet take over.
const PROSPECT_LEAD_S: f64 = 4.0;
const PROSPECT_LEAD_BYTES: u64 = 1 << 20;
/// Everything so far ahead is bought at once under `OriginPolicy::Eager`, s.
const EAGER_S: f64 = 60.0;
/// Margin between the origin's expected answer and the deadline, s.
const MARGIN_S: f64 = 3.0;
const MARGIN_S_MIN: f64 = 1.0;
const MARGIN_S_MAX: f64 = 5.0;
/// Share of the margin at which everything missing is bought.
const LAST_MARGIN: f64 = 0.3;
/// A block is expected in time if it comes so long before its deadline, s.
const IN_TIME_S: f64 = 0.2;
/// Peers that promise to be faster than the origin get this head start at least.
const HEAD_START: Duration = Duration::from_millis(250);
/// Bounds of the wait between two looks at blocks that are due and expected.
const LOOK_AGAIN_S: (f64, f64) = (0.05, 0.5);
/// An origin that was never asked is taken to answer like this.
const FIRST_BYTE: Duration = Duration::from_millis(300);
const RATE: f64 = 1_250_000.0;
/// A fetch that brings nothing for so long holds its blocks no more.
const FETCH_LATE: Duration = Duration::from_secs(2);

/// The origins of one swarm and what is under way at them.
pub struct Supply {
    policy: OriginPolicy,
    origins: Slab<Origin>,
    fetches: Vec<Fetch>,
    last_key: u64,
    margin_s: f64,
    error: Lateness,
}

struct Origin {
    /// Bytes of the torrent that it has.
    range: ByteRange,
    direct: bool,
    first_byte: Duration,
    rate: f64,
    down_until: Time,
    /// Where the last purchase ended, and how many in a row went on there.
    last_end: u64,
    runs: u32,
}

/// One range that an origin was asked for.
#[derive(Clone, Debug)]
pub struct Fetch {
    pub key: FetchKey,
    pub origin: OriginKey,
    pub direct: bool,
    pub range: ByteRange,
    /// The next byte that comes.
    pub at: u64,
    pub cause: Cause,
    /// Not counted elsewhere already.
    pub counted: bool,
    /// When it last brought something, or was asked for.
    pub progress: Time,
    /// Holds its blocks no more.
    pub disowned: bool,
}

/// How far peers' blocks came from when they were expected, s.
struct Lateness {
    mean: f64,
    deviation: f64,
}

/// A peer, as far as the origin's work depends on it.
pub struct Mate<'a> {
    pub key: PeerKey,
    pub pieces: &'a FixedBitSet,
    /// Delivers, and has something that is missing here.
    pub usable: bool,
    /// Until all it was asked for has come, s; infinite if it is late.
    pub finish_s: f64,
    /// Bytes/s; zero if unknown.
    pub rate: f64,
    pub srtt_s: f64,
    pub outstanding: u64,
}

/// What a decision depends on.
pub struct Scene<'a> {
    pub now: Time,
    pub layout: &'a Layout,
    pub requests: &'a Requests,
    pub mates: &'a [Mate<'a>],
    /// Peers are being called or have not unchoked us yet.
    pub prospects: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    Buy {
        origin: OriginKey,
        range: ByteRange,
        cause: Cause,
    },
    /// Nothing before this time, unless something happens.
    Wait(Time),
}

impl Supply {
    pub fn new(policy: OriginPolicy) -> Self {
        Self {
            policy,
            origins: Slab::new(),
            fetches: Vec::new(),
            last_key: 0,
            margin_s: MARGIN_S,
            error: Lateness {
                mean: 0.0,
                deviation: 0.0,
            },
        }
    }

    pub fn add_origin(&mut self, range: ByteRange, direct: bool) -> OriginKey {
        OriginKey(self.origins.insert(Origin {
            range,
            direct,
            first_byte: FIRST_BYTE,
            rate: RATE,
            down_until: Time::ZERO,
            last_end: u64::MAX,
            runs: 0,
        }))
    }

    /// The fetches that were under way there.
    pub fn remove_origin(&mut self, origin: OriginKey) -> Vec<Fetch> {
        self.origins.try_remove(origin.0);
        let gone = |fetch: &Fetch| fetch.origin == origin;
        let fetches = self.fetches.iter().filter(|fetch| gone(fetch));
        let fetches = fetches.cloned().collect();
        self.fetches.retain(|fetch| !gone(fetch));
        fetches
    }

    pub fn set_estimate(&mut self, origin: OriginKey, first_byte: Duration, rate: f64) {
        if let Some(origin) = self.origins.get_mut(origin.0) {
            origin.first_byte = first_byte;
            origin.rate = rate.max(1.0);
        }
    }

    pub fn set_down(&mut self, origin: OriginKey, until: Time) {
        if let Some(origin) = self.origins.get_mut(origin.0) {
            origin.down_until = origin.down_until.max(until);
        }
    }

    /// It is asked no more; the fetches that were under way there.
    pub fn expel(&mut self, origin: OriginKey) -> Vec<Fetch> {
        self.set_down(origin, Time::NEVER);
        let fetches = self.fetches.iter_mut();
        fetches
            .filter(|fetch| fetch.origin == origin && !fetch.disowned)
            .map(|fetch| {
                fetch.disowned = true;
                fetch.clone()
            })
            .collect()
    }

    pub fn is_expelled(&self, origin: OriginKey) -> bool {
        let origin = self.origins.get(origin.0);
        origin.is_none_or(|origin| origin.down_until == Time::NEVER)
    }

    /// An origin that has all of `range` and can be asked now.
    pub fn able(&self, now: Time, range: ByteRange) -> Option<OriginKey> {
        if self.policy == OriginPolicy::Never {
            return None;
        }
        let mut origins = self.origins.iter();
        let able = origins.find(|(_, origin)| {
            origin.down_until <= now && origin.range.and(range).len() == range.len()
        });
        able.map(|(key, _)| OriginKey(key))
    }

    /// Opens a fetch; the caller gives it its blocks.
    pub fn start(
        &mut self,
        now: Time,
        origin: OriginKey,
        range: ByteRange,
        cause: Cause,
    ) -> Option<Fetch> {
        let entry = self.origins.get_mut(origin.0)?;
        entry.runs = if entry.last_end == range.start {
            entry.runs.saturating_add(1)
        } else {
            0
        };
        entry.last_end = range.end;
        self.last_key += 1;
        let fetch = Fetch {
            key: FetchKey(self.last_key),
            origin,
            direct: entry.direct,
            range,
            at: range.start,
            cause,
            counted: true,
            progress: now,
            disowned: false,
        };
        self.fetches.push(fetch.clone());
        Some(fetch)
    }

    pub fn fetch_mut(&mut self, key: FetchKey) -> Option<&mut Fetch> {
        self.fetches.iter_mut().find(|fetch| fetch.key == key)
    }

    pub fn finish(&mut self, key: FetchKey) -> Option<Fetch> {
        let place = self.fetches.iter().position(|fetch| fetch.key == key)?;
        Some(self.fetches.remove(place))
    }

    pub fn fetches(&self) -> &[Fetch] {
        &self.fetches
    }

    /// Fetches that have been silent for too long, each named once; their blocks are for peers.
    pub fn late(&mut self, now: Time) -> Vec<Fetch> {
        let late = self
            .fetches
            .iter_mut()
            .filter(|fetch| !fetch.disowned && now.since(fetch.progress) >= FETCH_LATE);
        late.map(|fetch| {
            fetch.disowned = true;
            fetch.clone()
        })
        .collect()
    }

    pub fn next_late(&self) -> Time {
        let waiting = self.fetches.iter().filter(|fetch| !fetch.disowned);
        let late = waiting.map(|fetch| fetch.progress + FETCH_LATE);
        late.min().unwrap_or(Time::NEVER)
    }

    /// A peer's block came so many seconds from when it was expected: the margin follows.
    pub fn handle_arrival(&mut self, error_s: f64) {
        let error = &mut self.error;
        error.deviation += ((error_s - error.mean).abs() - error.deviation) / 64.0;
        error.mean += (error_s - error.mean) / 64.0;
        let p95 = error.mean + 2.0 * error.deviation;
        let wanted = (2.0 * p95).clamp(MARGIN_S_MIN, MARGIN_S_MAX);
        self.margin_s += (wanted - self.margin_s) / 256.0;
    }

    /// What to buy next for one reader.
    pub fn plan(&self, scene: &Scene<'_>, reader: &Reader) -> Plan {
        if self.policy == OriginPolicy::Never || !reader.is_hungry() {
            return Plan::Wait(Time::NEVER);
        }
        let key = match self.choose(scene.now, reader) {
            Ok(key) => key,
            Err(wait) => return wait,
        };
        let origin = &self.origins[key.0];
        let lone = scene.mates.iter().all(|mate| !mate.usable);
        let outlook = Outlook {
            scene,
            reader,
            origin,
            margin_s: self.margin_s,
            policy: self.policy,
        };
        match self.policy {
            OriginPolicy::Hybrid if lone => outlook.alone(key),
            OriginPolicy::Eager if lone => outlook.alone(key),
            _ => outlook.beside_peers(key),
        }
    }

    /// The best origin for the reader's next bytes that can take one more fetch.
    fn choose(&self, now: Time, reader: &Reader) -> Result<OriginKey, Plan> {
        let mut wait = Time::NEVER;
        let mut best: Option<(bool, f64, OriginKey)> = None;
        for (key, origin) in &self.origins {
            if !origin.range.contains(reader.ready()) {
                continue;
            }
            if origin.down_until > now {
                wait = wait.min(origin.down_until);
                continue;
            }
            let under_way = self.fetches.iter().filter(|fetch| fetch.origin.0 == key);
            if under_way.count() >= FETCHES_MAX {
                continue;
            }
            let rank = (origin.direct, -origin.eta_s(HEDGE_BYTES_MAX));
            if best.is_none_or(|(direct, speed, _)| rank > (direct, speed)) {
                best = Some((rank.0, rank.1, OriginKey(key)));
            }
        }
        best.map(|(_, _, key)| key).ok_or(Plan::Wait(wait))
    }
}

impl Origin {
    /// Until `bytes` of it are here, s.
    fn eta_s(&self, bytes: u64) -> f64 {
        self.first_byte.as_secs_f64() + float(bytes) / self.rate
    }
}

/// One reader, seen from one origin.
struct Outlook<'a> {
    scene: &'a Scene<'a>,
    reader: &'a Reader,
    origin: &'a Origin,
    margin_s: f64,
    policy: OriginPolicy,
}

impl Outlook<'_> {
    /// No peer delivers: the origin carries the film, as fast as it is read, in ranges that grow.
    fn alone(&self, key: OriginKey) -> Plan {
        let now = self.scene.now;
        let reader = self.reader;
        let rate = reader.rate();
        let lead = if !self.scene.prospects {
            LONE_LEAD_BYTES.max(bytes(rate * LONE_LEAD_S)) + reader.pos()
        } else if reader.knows_rate() {
            let due = reader.reach(now, PROSPECT_LEAD_S);
            due.max(reader.pos() + START_BYTES_MIN)
        } else {
            reader.pos() + PROSPECT_LEAD_BYTES
        };
        let from = self.first_byte();
        let window = ByteRange::new(from, lead.clamp(from, self.end()));
        let wanted = self.each_missing(window).next();
        let Some(first) = wanted else {
            return Plan::Wait(Time::NEVER);
        };
        let room = bytes(self.origin.rate).clamp(HEDGE_BYTES_MAX, LONE_BYTES_MAX);
        // In unequal steps, so that two fetches that share the line do not end together.
        let size = self.start_size() << (2 * self.origin.runs.min(4));
        let size = if self.scene.prospects {
            size.min(START_BYTES_MAX)
        } else {
            size.min(room)
        };
        let cause = self.cause();
        self.run(key, first, size, cause, |_| true)
    }

    /// Peers deliver: the origin brings what they cannot in time.
    fn beside_peers(&self, key: OriginKey) -> Plan {
        let from = self.first_byte();
        let horizon = self.horizon().clamp(from, self.end());
        let layout = self.scene.layout;
        let mut wait = Time::NEVER;
        let mut expected = Expectation::new(self.scene);
        for piece in layout.pieces_of(ByteRange::new(from, horizon)) {
            let piece = PieceIndex(piece);
            let range = layout.piece_range(piece);
            let slack_s = self
                .reader
                .slack_s(self.scene.now, range.start.max(self.reader.ready()));
            let times = expected.piece(range);
            if times.is_empty() {
                continue;
            }
            let last_s = times.iter().map(|&(_, at)| at).fold(0.0, f64::max);
            let threshold = match self.threshold(slack_s, last_s) {
                Ok(threshold) => threshold,
                Err(again_s) => {
                    wait = wait.min(self.scene.now + seconds(again_s));
                    continue;
                }
            };
            let window = ByteRange::new(from, horizon);
            let late = |block: Block| {
                let due = layout.block_range(block).and(window);
                let time = times.iter().find(|(known, _)| *known == block);
                !due.is_empty() && time.is_some_and(|&(_, at)| at > threshold)
            };
            let mut missing = self.each_missing(range.and(window));
            if let Some(first) = missing.find(|&block| late(block)) {
                let unseen = last_s.is_infinite();
                let size = match (self.reader.is_starting(), unseen) {
                    (true, _) => self.start_size(),
                    (false, true) => UNSEEN_BYTES_MAX,
                    (false, false) => HEDGE_BYTES_MAX,
                };
                let elsewhere = |block: Block| {
                    block.piece != piece && unseen && layout.block_range(block).start < horizon
                };
                let cause = self.cause();
                return self.run(key, first, size, cause, |block| {
                    late(block) || elsewhere(block)
                });
            }
            wait = wait.min(self.scene.now + seconds(LOOK_AGAIN_S.1));
        }
        let due_s = self.reader.slack_s(self.scene.now, horizon) - self.lead_s();
        if horizon < self.end() && !self.reader.is_frozen() {
            let due = self.scene.now + seconds(due_s.max(LOOK_AGAIN_S.0));
            wait = wait.min(due);
        }
        Plan::Wait(wait)
    }

    /// Blocks expected later than this many seconds from now are bought; or in how many seconds to
    /// look at the piece again, whose last block is expected in `last_s`.
    fn threshold(&self, slack_s: f64, last_s: f64) -> Result<f64, f64> {
        let look_again = last_s.clamp(LOOK_AGAIN_S.0, LOOK_AGAIN_S.1);
        let origin_s = self.origin.eta_s(HEDGE_BYTES_MAX);
        if self.policy == OriginPolicy::Eager {
            return Ok(0.0);
        }
        let last_call_s = origin_s + LAST_MARGIN * self.margin_s;
        if self.policy == OriginPolicy::LastResort {
            return if slack_s <= last_call_s {
                Ok(f64::MAX)
            } else {
                Err(slack_s - last_call_s)
            };
        }
        if self.reader.is_starting() {
            if last_s > origin_s.min(TARGET.as_secs_f64()) {
                return Ok(origin_s);
            }
            let waited = self.scene.now.since(self.reader.opened());
            let start_s = slack_s - self.origin.eta_s(START_BYTES_MIN);
            if waited < HEAD_START || start_s > 0.0 {
                let head_start = HEAD_START.saturating_sub(waited).as_secs_f64();
                return Err(head_start.max(start_s));
            }
            return Ok(0.0);
        }
        let hedge_s = slack_s - origin_s - self.margin_s;
        if hedge_s > 0.0 {
            return Err(hedge_s);
        }
        if slack_s <= last_call_s && last_s > slack_s * 0.5 {
            return Ok(slack_s.max(0.0) * 0.5);
        }
        if last_s > slack_s - IN_TIME_S {
            return Ok(slack_s - IN_TIME_S);
        }
        Err(look_again)
    }

    /// The contiguous run of wanted blocks from `first` on.
    fn run(
        &self,
        origin: OriginKey,
        first: Block,
        size: u64,
        cause: Cause,
        wanted: impl Fn(Block) -> bool,
    ) -> Plan {
        let layout = self.scene.layout;
        let start = layout.block_range(first).start;
        let limit = ByteRange::new(start, (start + size).min(self.end()).max(start));
        let mut end = start;
        for block in blocks(layout, limit) {
            if !self.is_missing(block) || !(block == first || wanted(block)) {
                break;
            }
            end = layout.block_range(block).end;
        }
        let range = ByteRange::new(start, end).and(self.origin.range);
        Plan::Buy {
            origin,
            range,
            cause,
        }
    }

    /// Where the origin's work for this reader begins: unverified pieces of an origin whose bytes
    /// are not shown must be had whole.
    fn first_byte(&self) -> u64 {
        let layout = self.scene.layout;
        let ready = self.reader.ready();
        let start = if self.origin.direct {
            layout.block_range(layout.block_of(ready)).start
        } else {
            layout.piece_range(layout.piece_of(ready)).start
        };
        start.max(self.origin.range.start)
    }

    /// Where it ends.
    fn end(&self) -> u64 {
        let layout = self.scene.layout;
        let last = self.reader.range().end - 1;
        let end = if self.origin.direct {
            layout.block_range(layout.block_of(last)).end
        } else {
            layout.piece_range(layout.piece_of(last)).end
        };
        end.min(self.origin.range.end)
    }

    fn horizon(&self) -> u64 {
        let reader = self.reader;
        let now = self.scene.now;
        if self.policy == OriginPolicy::Eager {
            reader.reach(now, EAGER_S)
        } else if reader.is_starting() {
            reader.range().start + self.start_size()
        } else {
            reader.reach(now, self.lead_s())
        }
    }

    /// The origin concerns itself with what is due within this many seconds.
    fn lead_s(&self) -> f64 {
        self.origin.eta_s(HEDGE_BYTES_MAX) + self.margin_s
    }

    fn start_size(&self) -> u64 {
        let film = bytes(self.reader.rate() * START_S);
        film.clamp(START_BYTES_MIN, START_BYTES_MAX)
    }

    fn cause(&self) -> Cause {
        let start = self.reader.range().start + self.start_size();
        if self.reader.ready() < start {
            Cause::Start
        } else {
            Cause::Hedge
        }
    }

    fn each_missing(&self, range: ByteRange) -> impl Iterator<Item = Block> + '_ {
        blocks(self.scene.layout, range).filter(|&block| self.is_missing(block))
    }

    /// Neither here nor bought, and the origin has what lacks of it.
    fn is_missing(&self, block: Block) -> bool {
        match self.scene.requests.look(block) {
            Look::Stored | Look::Bought => false,
            Look::Asked { bought, .. } => !bought,
            Look::Missing { bought } => {
                !bought && !self.scene.requests.covers(block, self.origin.range)
            }
        }
    }
}

/// When peers will have brought the blocks of a window, in its order.
struct Expectation<'a> {
    scene: &'a Scene<'a>,
    /// Bytes that peers owe or will be asked for before the next missing block.
    ahead: u64,
    rate: f64,
    srtt_s: f64,
}

impl<'a> Expectation<'a> {
    fn new(scene: &'a Scene<'a>) -> Self {
        let usable = || scene.mates.iter().filter(|mate| mate.usable);
        Self {
            scene,
            ahead: usable().map(|mate| mate.outstanding).sum(),
            rate: usable().map(|mate| mate.rate).sum(),
            srtt_s: usable().map(|mate| mate.srtt_s).fold(f64::MAX, f64::min),
        }
    }

    /// The blocks of one piece that are not stored, with the seconds until each is here.
    fn piece(&mut self, range: ByteRange) -> Vec<(Block, f64)> {
        let layout = self.scene.layout;
        let piece = layout.piece_of(range.start);
        let mates = self.scene.mates;
        let somebody = mates
            .iter()
            .any(|mate| mate.usable && mate.pieces.contains(piece.at()));
        let mut times = Vec::new();
        for block in blocks(layout, range) {
            let time = match self.scene.requests.look(block) {
                Look::Stored | Look::Bought => continue,
                Look::Asked { peers, .. } => {
                    let asked = mates.iter().filter(|mate| peers.contains(&Some(mate.key)));
                    asked
                        .map(|mate| mate.finish_s)
                        .fold(f64::INFINITY, f64::min)
                }
                Look::Missing { .. } if somebody && self.rate > 0.0 => {
                    self.ahead += u64::from(layout.span(block).len);
                    self.srtt_s + float(self.ahead) / self.rate
                }
                Look::Missing { .. } => f64::INFINITY,
            };
            times.push((block, time));
        }
        times
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn float(bytes: u64) -> f64 {
    bytes as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates"
)]
fn bytes(estimate: f64) -> u64 {
    estimate as u64
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}
