//! The table of swarms of one shard.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashTable;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::tracker::announce::Event;
use crate::tracker::announce::INTERVAL_MAX;
use crate::tracker::server::allow::Allow;
use crate::tracker::server::asked::Asked;
use crate::tracker::server::asked::Refused;
use crate::tracker::server::compact;
use crate::tracker::server::compact::Entry;
use crate::tracker::server::compact::Key;
use crate::tracker::server::compact::Stamp;
use crate::tracker::server::compact::Tick;
use crate::tracker::server::compact::V4;
use crate::tracker::server::compact::V6;
use crate::tracker::server::ids::Keys;
use crate::tracker::server::newcomers::Newcomers;
use crate::tracker::server::peers::Came;
use crate::tracker::server::peers::Peers;
use crate::tracker::server::peers::Room;
use crate::units::InfoHash;
use crate::units::Time;

/// Parts of the table: with a million swarms one grows, is swept or is saved in some 100 µs.
pub const PARTS: usize = 1024;
/// Parts swept in one go.
const SWEEP_MAX: usize = 4;
/// Peers are kept for so many intervals.
const INTERVALS_KEPT: u32 = 2;
/// Clients do not come more often than they think right, whatever they are told: this project's
/// every minute, libtorrent's every five, rtorrent's every ten.
const PACE_MAX: Duration = Duration::from_secs(600);
/// While a peer's time runs out, it is looked for so often.
const LOOKS: u32 = 4;

/// How much is kept, and for how long.
#[derive(Clone, Debug)]
pub struct Limits {
    pub swarms_max: usize,
    /// Of all swarms.
    pub peers_max: usize,
    /// Of one swarm and family. Others are answered, but not given to anyone.
    pub swarm_peers_max: usize,
    /// Of one address, or a /64, in one swarm; a further one takes the place of the oldest.
    pub home_peers_max: usize,
    /// That one address, or a /64, adds within the time that peers are kept.
    pub newcomers_max: u32,
    /// Between two announces.
    pub interval: Duration,
    pub min_interval: Duration,
    /// From its last announce until a peer is forgotten.
    pub kept: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            swarms_max: 1_000_000,
            peers_max: 10_000_000,
            swarm_peers_max: 65_536,
            home_peers_max: 64,
            newcomers_max: 20_000,
            interval: INTERVAL,
            min_interval: Duration::from_secs(60),
            kept: kept(INTERVAL),
        }
    }
}

const INTERVAL: Duration = Duration::from_secs(1800);

impl Limits {
    /// What one of `shards` shards has of it.
    #[must_use]
    pub fn share(self, shards: usize) -> Self {
        Self {
            swarms_max: self.swarms_max.div_ceil(shards),
            peers_max: self.peers_max.div_ceil(shards),
            ..self
        }
    }

    /// With clients told to come so often.
    #[must_use]
    pub fn with_interval(self, interval: Duration) -> Self {
        Self {
            interval,
            min_interval: self.min_interval.min(interval),
            kept: kept(interval),
            ..self
        }
    }
}

/// How long peers are kept that are told to come so often.
fn kept(interval: Duration) -> Duration {
    interval.max(PACE_MAX) * INTERVALS_KEPT
}

/// Every [`Tick`] is looked at within a round of its count.
const _: () = assert!(INTERVAL_MAX.as_secs() * 3 * 10 < 4 << 15);

/// Who is in which swarm.
#[derive(Debug)]
pub struct Table {
    limits: Limits,
    keys: Keys,
    allow: Arc<Allow>,
    parts: Box<[HashTable<Swarm>]>,
    totals: Totals,
    newcomers: Newcomers,
    rng: SmallRng,
    /// The part that is swept next, and when.
    sweep: (usize, Time),
}

/// Never empty.
#[derive(Debug)]
pub(super) struct Swarm {
    pub(super) info_hash: InfoHash,
    pub(super) seeds: u32,
    /// How often it was got whole.
    pub(super) completed: u32,
    pub(super) v4: Peers<V4>,
    pub(super) v6: Peers<V6>,
}

/// Of all swarms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub swarms: usize,
    pub seeds: usize,
    pub v4: usize,
    pub v6: usize,
}

impl Totals {
    pub const fn peers(self) -> usize {
        self.v4 + self.v6
    }
}

/// What is known of a swarm (BEP 48).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub seeds: u32,
    pub leechers: u32,
    pub completed: u32,
}

/// What an announce is told. Kept by the caller, so that its room is used again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub counts: Counts,
    /// Compact (BEP 23, 7).
    pub v4: Vec<u8>,
    pub v6: Vec<u8>,
}

impl Table {
    /// `seed` is random: it chooses which peers of a large swarm an answer names.
    pub fn new(limits: Limits, keys: Keys, allow: Arc<Allow>, seed: u64) -> Self {
        Self {
            newcomers: Newcomers::new(limits.newcomers_max, limits.kept),
            limits,
            keys,
            allow,
            parts: (0..PARTS).map(|_| HashTable::new()).collect(),
            totals: Totals::default(),
            rng: SmallRng::seed_from_u64(seed),
            sweep: (0, Time::ZERO),
        }
    }

    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    pub const fn totals(&self) -> Totals {
        self.totals
    }

    /// How many info-hashes are allowed; `None`: all.
    pub fn allowed(&self) -> Option<usize> {
        self.allow.listed()
    }

    /// From now on; swarms that are not allowed any more go with the next sweep.
    pub fn set_allow(&mut self, allow: Arc<Allow>) {
        self.allow = allow;
    }

    pub fn handle_announce(
        &mut self,
        now: Time,
        asked: &Asked,
        told: &mut Told,
    ) -> Result<(), Refused> {
        if !self.allow.allows(asked.info_hash) {
            return Err(Refused::NotAllowed);
        }
        told.counts = Counts::default();
        told.v4.clear();
        told.v6.clear();
        let place = self.keys.swarm(asked.info_hash);
        if asked.event == Event::Stopped {
            told.counts = self.remove(place, asked);
            return Ok(());
        }
        let stamp = Stamp::new(Tick::at(now), asked.seed);
        self.insert(now, place, asked, stamp)?;
        let part = &self.parts[part_of(place)];
        if let Some(swarm) = part.find(place, |swarm| swarm.info_hash == asked.info_hash) {
            told.counts = swarm.counts();
            swarm.choose(asked, &mut self.rng, told);
        }
        Ok(())
    }

    /// Counts of nothing for a swarm that is not known.
    pub fn scrape(&self, info_hash: InfoHash) -> Counts {
        let place = self.keys.swarm(info_hash);
        let found = self.parts[part_of(place)].find(place, |swarm| swarm.info_hash == info_hash);
        found.map(Swarm::counts).unwrap_or_default()
    }

    /// Forgets who has been silent for too long, in some parts of the table.
    pub fn handle_timeout(&mut self, now: Time) {
        let mut due = 0;
        while self.sweep.1 <= now && due < SWEEP_MAX {
            let part = self.sweep.0;
            self.sweep_part(now, part);
            self.sweep = ((part + 1) % PARTS, self.sweep.1 + self.sweep_every());
            due += 1;
        }
        // Late, it does not hurry: a swept table costs less than a shard that is held up.
        self.sweep.1 = self.sweep.1.max(now);
    }

    pub const fn next_timeout(&self) -> Time {
        self.sweep.1
    }

    /// The swarms of one part.
    pub(super) fn part(&self, part: usize) -> impl Iterator<Item = &Swarm> {
        self.parts[part].iter()
    }

    /// A peer from an earlier life, `age` ticks since it came. Limits hold for it as for others.
    pub(super) fn restore(
        &mut self,
        now: Time,
        info_hash: InfoHash,
        peer: SocketAddr,
        seed: bool,
        age: u16,
    ) {
        let kept = compact::ticks(self.limits.kept.as_secs());
        if age > kept || !self.allow.allows(info_hash) {
            return;
        }
        let asked = Asked {
            info_hash,
            peer,
            seed,
            event: Event::None,
            numwant: 0,
            both_families: false,
        };
        let stamp = Stamp::new(Tick::at(now).before(age), seed);
        // What has no room now would have none if it announced.
        let _ = self.insert(now, self.keys.swarm(info_hash), &asked, stamp);
    }

    /// How often a swarm was got whole, as counted in an earlier life.
    pub(super) fn restore_completed(&mut self, info_hash: InfoHash, completed: u32) {
        let place = self.keys.swarm(info_hash);
        let part = &mut self.parts[part_of(place)];
        if let Some(swarm) = part.find_mut(place, |swarm| swarm.info_hash == info_hash) {
            swarm.completed = completed;
        }
    }

    fn sweep_every(&self) -> Duration {
        self.limits.kept / LOOKS / u32::try_from(PARTS).expect("a thousand")
    }

    fn sweep_part(&mut self, now: Time, part: usize) {
        let tick = Tick::at(now);
        let age_max = compact::ticks(self.limits.kept.as_secs());
        let (allow, totals) = (&self.allow, &mut self.totals);
        let part = &mut self.parts[part];
        part.retain(|swarm| {
            totals.forget(swarm);
            if !allow.allows(swarm.info_hash) {
                return false;
            }
            let (seeds4, _) = swarm.v4.sweep(tick, age_max);
            let (seeds6, _) = swarm.v6.sweep(tick, age_max);
            swarm.seeds -= small(seeds4 + seeds6);
            let keep = !swarm.is_empty();
            if keep {
                totals.know(swarm);
            }
            keep
        });
        if part.len() * 4 < part.capacity() {
            let keys = &self.keys;
            part.shrink_to(part.len() * 2, |swarm| keys.swarm(swarm.info_hash));
        }
    }

    fn insert(
        &mut self,
        now: Time,
        place: u64,
        asked: &Asked,
        stamp: Stamp,
    ) -> Result<(), Refused> {
        let part = &mut self.parts[part_of(place)];
        let found = part.find_mut(place, |swarm| swarm.info_hash == asked.info_hash);
        let key = Key::from(asked.peer);
        let known = found.as_ref().is_some_and(|swarm| swarm.get(key).is_some());
        if !known {
            let new_swarm = found.is_none();
            let full = self.totals.peers() >= self.limits.peers_max
                || new_swarm && self.totals.swarms >= self.limits.swarms_max;
            if full {
                return Err(Refused::Full);
            }
            if !self.newcomers.admit(now, &self.keys, asked.peer.ip()) {
                return Err(Refused::TooMany);
            }
        }
        let swarm = match found {
            Some(swarm) => swarm,
            None => {
                let keys = &self.keys;
                let new = Swarm::new(asked.info_hash);
                let entry = part.insert_unique(place, new, |swarm| keys.swarm(swarm.info_hash));
                self.totals.swarms += 1;
                entry.into_mut()
            }
        };
        let room = Room {
            swarm: self.limits.swarm_peers_max,
            home: self.limits.home_peers_max,
        };
        let tick = Tick::at(now);
        let came = match key {
            Key::V4(key) => swarm.v4.put(key, stamp, tick, room),
            Key::V6(key) => swarm.v6.put(key, stamp, tick, room),
        };
        let family = match key {
            Key::V4(_) => &mut self.totals.v4,
            Key::V6(_) => &mut self.totals.v6,
        };
        let before = match came {
            Came::New => {
                *family += 1;
                None
            }
            Came::Again(before) => {
                if !before.is_seed() && asked.seed && asked.event == Event::Completed {
                    swarm.completed = swarm.completed.saturating_add(1);
                }
                Some(before)
            }
            Came::Instead(gone) => Some(gone),
            Came::Full => return Ok(()),
        };
        let was_seed = before.is_some_and(Stamp::is_seed);
        swarm.seeds = swarm.seeds + u32::from(asked.seed) - u32::from(was_seed);
        self.totals.seeds = self.totals.seeds + usize::from(asked.seed) - usize::from(was_seed);
        Ok(())
    }

    fn remove(&mut self, place: u64, asked: &Asked) -> Counts {
        let part = &mut self.parts[part_of(place)];
        let Ok(mut entry) = part.find_entry(place, |swarm| swarm.info_hash == asked.info_hash)
        else {
            return Counts::default();
        };
        let swarm = entry.get_mut();
        let gone = match Key::from(asked.peer) {
            Key::V4(key) => {
                let gone = swarm.v4.remove(key);
                self.totals.v4 -= usize::from(gone.is_some());
                gone
            }
            Key::V6(key) => {
                let gone = swarm.v6.remove(key);
                self.totals.v6 -= usize::from(gone.is_some());
                gone
            }
        };
        if gone.is_some_and(Stamp::is_seed) {
            swarm.seeds -= 1;
            self.totals.seeds -= 1;
        }
        let counts = swarm.counts();
        if swarm.is_empty() {
            entry.remove();
            self.totals.swarms -= 1;
        }
        counts
    }
}

impl Totals {
    fn know(&mut self, swarm: &Swarm) {
        self.swarms += 1;
        self.seeds += swarm.seeds as usize;
        self.v4 += swarm.v4.len();
        self.v6 += swarm.v6.len();
    }

    fn forget(&mut self, swarm: &Swarm) {
        self.swarms -= 1;
        self.seeds -= swarm.seeds as usize;
        self.v4 -= swarm.v4.len();
        self.v6 -= swarm.v6.len();
    }
}

impl Swarm {
    fn new(info_hash: InfoHash) -> Self {
        Self {
            info_hash,
            seeds: 0,
            completed: 0,
            v4: Peers::default(),
            v6: Peers::default(),
        }
    }

    fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    fn get(&self, key: Key) -> Option<Stamp> {
        match key {
            Key::V4(key) => self.v4.get(key),
            Key::V6(key) => self.v6.get(key),
        }
    }

    fn counts(&self) -> Counts {
        Counts {
            seeds: self.seeds,
            leechers: small(self.v4.len() + self.v6.len()) - self.seeds,
            completed: self.completed,
        }
    }

    fn choose(&self, asked: &Asked, rng: &mut SmallRng, told: &mut Told) {
        let wanted = asked.numwant;
        match Key::from(asked.peer) {
            Key::V4(key) => {
                let kept = self.kept_for_others(asked, self.v4.len(), self.v6.len());
                let (key, own) = (Some(key), wanted - kept);
                let count = self.v4.choose(key, asked.seed, own, rng, &mut told.v4);
                if asked.both_families {
                    let rest = wanted - count;
                    self.v6.choose(None, asked.seed, rest, rng, &mut told.v6);
                }
            }
            Key::V6(key) => {
                let kept = self.kept_for_others(asked, self.v6.len(), self.v4.len());
                let (key, own) = (Some(key), wanted - kept);
                let count = self.v6.choose(key, asked.seed, own, rng, &mut told.v6);
                if asked.both_families {
                    let rest = wanted - count;
                    self.v4.choose(None, asked.seed, rest, rng, &mut told.v4);
                }
            }
        }
    }

    /// Places of an answer for peers of the other family: a quarter, if there are so many, and all
    /// that the asker's own does not fill.
    fn kept_for_others(&self, asked: &Asked, own: usize, others: usize) -> usize {
        if !asked.both_families || own + others <= asked.numwant {
            return 0;
        }
        others.min(asked.numwant / 4)
    }
}

/// The lowest bits choose the place within a part, and the highest seven its mark.
fn part_of(place: u64) -> usize {
    usize::try_from(place >> 32).expect("a 64-bit target") % PARTS
}

/// Peers of one swarm are few enough for 32 bits.
fn small(count: usize) -> u32 {
    u32::try_from(count).expect("the most peers of a swarm are far fewer")
}

/// A swarm's own part of the memory that a peer costs; see the test.
const _: () = assert!(size_of::<Swarm>() == 80 && <V4 as Entry>::WIRE_LEN == 6);

#[cfg(test)]
mod tests;
