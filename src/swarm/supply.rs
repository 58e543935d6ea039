//! When and what to buy from the origin: the only place that decides it.

use std::time::Duration;

use fixedbitset::FixedBitSet;
use slab::Slab;

use crate::swarm::FetchKey;
use crate::swarm::OriginKey;
use crate::swarm::PeerKey;
use crate::swarm::outlook::{HEDGE_BYTES_MAX, Outlook, bytes, float};
use crate::swarm::queue::Queue;
use crate::swarm::rarity::Rarity;
use crate::swarm::reader::Reader;
use crate::swarm::rendezvous::Lot;
use crate::swarm::requests::Requests;
use crate::torrent::layout::Layout;
use crate::units::lab::{Buy, Lab};
use crate::units::{ByteRange, Cause, OriginPolicy, Time};

/// Fetches under way at one origin.
pub const FETCHES_MAX: usize = 2;
/// Margin between the origin's expected answer and the deadline, s.
const MARGIN_S: f64 = 1.5;
const MARGIN_S_MIN: f64 = 1.0;
const MARGIN_S_MAX: f64 = 2.0;
/// An origin that was never asked is taken to answer like this.
const FIRST_BYTE: Duration = Duration::from_millis(300);
const RATE: f64 = 1_250_000.0;
/// Bounds of what is still to come when the next range is asked for.
const PIPELINE_MIN: u64 = 32 << 10;
const PIPELINE_MAX: u64 = 256 << 10;
/// A fetch that brings nothing for so long, and so many times longer than the origin usually takes,
/// holds its blocks no more.
const FETCH_LATE: Duration = Duration::from_secs(2);
const FETCH_LATE_TIMES: u32 = 2;

/// The origins of one swarm and what is under way at them.
pub struct Supply {
    policy: OriginPolicy,
    lab: Lab,
    origins: Slab<Origin>,
    fetches: Vec<Fetch>,
    last_key: u64,
    margin_s: f64,
    error: Lateness,
}

pub struct Origin {
    /// Bytes of the torrent that it has.
    pub range: ByteRange,
    pub direct: bool,
    first_byte: Duration,
    pub rate: f64,
    down_until: Time,
    /// Where the last purchase ended, and how many in a row went on there.
    last_end: u64,
    pub runs: u32,
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
    /// It may be faster than its rate says.
    pub young: bool,
    pub srtt_s: f64,
    pub outstanding: u64,
    pub queue: &'a Queue,
    /// It watches too: what it throws in, and the first piece that it lacks.
    pub rival: Option<(Lot, u32)>,
}

/// What a decision depends on.
pub struct Scene<'a> {
    pub now: Time,
    pub layout: &'a Layout,
    pub requests: &'a Requests,
    pub rarity: &'a Rarity,
    /// What we throw in.
    pub lot: Lot,
    pub mates: &'a [Mate<'a>],
    /// Peers are being called or have not unchoked us yet.
    pub prospects: bool,
    /// For so long no peer has delivered that none is waited for.
    pub forsaken: bool,
    /// A peer delivered a moment ago, and may only be late.
    pub lately: bool,
}

impl Scene<'_> {
    /// No peer delivers.
    pub fn is_alone(&self) -> bool {
        self.mates.iter().all(|mate| !mate.usable)
    }

    /// Somebody else watches, who may fetch for both.
    pub fn has_rivals(&self) -> bool {
        self.mates.iter().any(|mate| mate.rival.is_some())
    }
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
    pub fn new(policy: OriginPolicy, lab: Lab) -> Self {
        Self {
            policy,
            lab,
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

    /// What it has of the torrent.
    pub fn range(&self, origin: OriginKey) -> Option<ByteRange> {
        self.origins.get(origin.0).map(|origin| origin.range)
    }

    pub fn is_expelled(&self, origin: OriginKey) -> bool {
        let origin = self.origins.get(origin.0);
        origin.is_none_or(|origin| origin.down_until == Time::NEVER)
    }

    /// Some origin has this byte and is asked for it sooner or later, or is bringing it.
    pub fn may_bring(&self, at: u64) -> bool {
        let asked = self.policy != OriginPolicy::Never;
        let mut origins = self.origins.iter();
        let mut fetches = self.fetches.iter();
        asked
            && origins
                .any(|(_, origin)| origin.down_until != Time::NEVER && origin.range.contains(at))
            || fetches.any(|fetch| !fetch.disowned && fetch.range.contains(at) && fetch.at <= at)
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
            .filter(|fetch| !fetch.disowned && now >= late_at(&self.origins, fetch));
        late.map(|fetch| {
            fetch.disowned = true;
            fetch.clone()
        })
        .collect()
    }

    /// A fetch that was late is listened to again, unless its origin is asked no more.
    pub fn resume(&mut self, key: FetchKey) -> Option<&Fetch> {
        let place = self.fetches.iter().position(|fetch| fetch.key == key)?;
        if self.is_expelled(self.fetches[place].origin) {
            return None;
        }
        self.fetches[place].disowned = false;
        Some(&self.fetches[place])
    }

    pub fn next_late(&self) -> Time {
        let waiting = self.fetches.iter().filter(|fetch| !fetch.disowned);
        let late = waiting.map(|fetch| late_at(&self.origins, fetch));
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

    /// What to buy next for one reader, from an origin that [`Supply::choose`] named.
    pub fn plan(&self, scene: &Scene<'_>, reader: &Reader, key: OriginKey) -> Plan {
        let origin = &self.origins[key.0];
        let lone = scene.is_alone();
        let outlook = Outlook {
            scene,
            reader,
            origin,
            to_come: self.to_come(key),
            margin_s: self.margin_s,
            policy: self.policy,
            lab: self.lab,
        };
        match self.policy {
            OriginPolicy::Hybrid if self.lab.buy == Buy::Fallback => outlook.beside_peers(key),
            OriginPolicy::Hybrid if lone && !scene.lately && !scene.has_rivals() => {
                outlook.alone(key)
            }
            OriginPolicy::Eager if lone => outlook.alone(key),
            OriginPolicy::LastResort if lone && scene.forsaken => outlook.alone(key),
            _ => outlook.beside_peers(key),
        }
    }

    fn to_come(&self, key: OriginKey) -> u64 {
        let fetches = self.fetches.iter().filter(|fetch| fetch.origin == key);
        fetches.map(|fetch| fetch.range.end - fetch.at).sum()
    }

    /// The best origin for the reader's next bytes that can take one more fetch; or when there may
    /// be one.
    pub fn choose(&self, now: Time, reader: &Reader) -> Result<OriginKey, Time> {
        let mut wait = Time::NEVER;
        if self.policy == OriginPolicy::Never || !reader.is_hungry() {
            return Err(wait);
        }
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
        best.map(|(_, _, key)| key).ok_or(wait)
    }
}

fn late_at(origins: &Slab<Origin>, fetch: &Fetch) -> Time {
    let origin = origins.get(fetch.origin.0);
    let usual = origin.map_or(Duration::ZERO, |origin| origin.first_byte);
    fetch.progress + FETCH_LATE.max(usual * FETCH_LATE_TIMES)
}

impl Origin {
    /// Bytes under way that keep it busy until it has heard of the next range.
    pub fn pipeline(&self) -> u64 {
        let wait = self.first_byte.as_secs_f64() * self.rate;
        bytes(wait).clamp(PIPELINE_MIN, PIPELINE_MAX)
    }

    /// Until `bytes` of it are here, s.
    pub fn eta_s(&self, bytes: u64) -> f64 {
        self.first_byte.as_secs_f64() + float(bytes) / self.rate
    }
}

#[cfg(test)]
mod tests;
